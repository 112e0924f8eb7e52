"""Plausible wrong answers to the exercises of chapter 6."""

import math

import torch

from pglearn.defenses import box_sums
from pglearn.training import SHARPNESS


def _emptied(strip, a, n):
    return strip[:a] + [0] * n + strip[a + n :]


def _heaviest(strip, n):
    return max(sum(strip[i : i + n]) for i in range(len(strip) - n + 1))


def _worst(true, n, margin_at):
    return min(range(len(true) - n + 1), key=margin_at)


def heaviest_window(true, rivals, n):
    return max(range(len(true) - n + 1), key=lambda a: sum(true[a : a + n]))


def without_the_mask(true, rivals, n):
    return _worst(true, n, lambda a: sum(_emptied(true, a, n)) - max(sum(_emptied(r, a, n)) for r in rivals))


def rivals_keep_all(true, rivals, n):
    def margin_at(a):
        left = _emptied(true, a, n)
        return sum(left) - _heaviest(left, n) - max(map(sum, rivals))

    return _worst(true, n, margin_at)


def mask_before_the_patch(true, rivals, n):
    def margin_at(a):
        left = sum(_emptied(true, a, n)) - _heaviest(true, n)
        return left - max(sum(_emptied(r, a, n)) for r in rivals)

    return _worst(true, n, margin_at)


def _exact(true, rivals, n, a):
    left = _emptied(true, a, n)
    return sum(left) - _heaviest(left, n) - max(sum(_emptied(r, a, n)) for r in rivals)


def runner_up_alone(true, rivals, n):
    return _worst(true, n, lambda a: _exact(true, [max(rivals, key=sum)], n, a))


def rightmost(true, rivals, n):
    return min(reversed(range(len(true) - n + 1)), key=lambda a: _exact(true, rivals, n, a))


def every_rival_masked(true, rivals, n):
    def margin_at(a):
        left = _emptied(true, a, n)
        most = max(sum(_emptied(r, a, n)) - _heaviest(_emptied(r, a, n), n) for r in rivals)
        return sum(left) - _heaviest(left, n) - most

    return _worst(true, n, margin_at)


def push(evidence, label, height, width, scale=SHARPNESS, hole="label", sums=False, masks=True):
    weights = box_sums(evidence[label], height, width)
    i, j = divmod(int(weights.argmax()), weights.shape[1])
    cells = 1 if sums else evidence[0].numel()
    scores = evidence.sum((1, 2)) / cells
    if masks:
        scores[label] -= weights.max() / cells
    result = -torch.softmax(scale * scores, 0)
    result[label] += 1
    result = (result * scale / cells)[:, None, None] * torch.ones_like(evidence)
    inside = (slice(i, i + height), slice(j, j + width))
    if hole == "label":
        result[(label, *inside)] = 0
    elif hole == "all":
        result[(slice(None), *inside)] = 0
    return result


BLOCKS = [9, 9, 0, 0, 0, 0, 9, 9]

WRONG = {
    "6.1": {
        "one threshold": lambda loss, classes: "certified" if loss < math.log(2) else "not certified",
        "the other threshold": lambda loss, classes: (
            "certified" if loss < math.log(classes) else "not certified"
        ),
        "ties are open": lambda loss, classes: (
            "certified" if loss < math.log(2) else "not certified" if loss > math.log(classes) else "open"
        ),
        "a tie is certified": lambda loss, classes: (
            "certified" if loss <= math.log(2) else "not certified" if loss >= math.log(classes) else "open"
        ),
        "a loss of ln 2 is certified": lambda loss, classes: (
            "not certified" if loss >= math.log(classes) else "certified" if loss <= math.log(2) else "open"
        ),
        "binary logarithms": lambda loss, classes: (
            "certified" if loss < 1 else "not certified" if loss >= math.log2(classes) else "open"
        ),
        "zero alone certifies": lambda loss, classes: (
            "certified" if loss == 0 else "not certified" if loss >= math.log(classes) else "open"
        ),
    },
    "6.2": {
        "the heaviest window": heaviest_window,
        "without the mask": without_the_mask,
        "rivals keep all": rivals_keep_all,
        "mask before the patch": mask_before_the_patch,
        "the runner-up alone": runner_up_alone,
        "the rightmost": rightmost,
        "every rival masked": every_rival_masked,
    },
    "6.3": {
        "the gradient itself": lambda *a: -push(*a),
        "hole in every class": lambda *a: push(*a, hole="all"),
        "no hole": lambda *a: push(*a, hole="none"),
        "sums instead of means": lambda *a: push(*a, sums=True),
        "without the scale": lambda *a: push(*a, scale=1.0),
        "scale only in the softmax": lambda *a: push(*a) / SHARPNESS,
        "probabilities of the plain loss": lambda *a: push(*a, masks=False),
        "per class, not per cell": lambda *a: push(*a).sum((1, 2)),
    },
    "6.4": {
        "masked is not content": ([9, 0, 0, 0, 0, 0, 0, 9], [0, 0, 0, 1, 0, 0, 0, 0]),
        "only a tie": (BLOCKS, [0] * 8),
        "one and a half blocks": ([9, 9, 9, 0, 0, 0, 0, 9], [0, 0, 0, 0, 1, 0, 0, 0]),
        "certified": ([9] * 8, [1, 0, 0, 0, 0, 0, 0, 0]),
        "too large": ([50, 50, 0, 0, 0, 0, 50, 50], [0, 0, 0, 1, 0, 0, 0, 0]),
        "too short": ([9, 9, 0, 9, 9], [0, 0, 1, 0, 0]),
        "the rival first": ([0, 0, 0, 1, 0, 0, 0, 0], BLOCKS),
    },
    "6.5": {
        "the minimum itself": lambda margins, t: margins.amin(1),
        "a weighted mean": lambda margins, t: (margins * torch.softmax(-t * margins, 1)).sum(1),
        "mean of the exponentials": lambda margins, t: (
            -(torch.logsumexp(-t * margins, 1) - math.log(margins.shape[1])) / t
        ),
        "overflows": lambda margins, t: -torch.log(torch.exp(-t * margins).sum(1)) / t,
        "the largest": lambda margins, t: torch.logsumexp(t * margins, 1) / t,
        "forgets to divide": lambda margins, t: -torch.logsumexp(-t * margins, 1),
        "without t": lambda margins, t: -torch.logsumexp(-margins, 1),
        "detached": lambda margins, t: -torch.logsumexp(-t * margins.detach(), 1) / t,
        "over the images": lambda margins, t: -torch.logsumexp(-t * margins, 0) / t,
        "less the whole gap": lambda margins, t: margins.amin(1) - math.log(margins.shape[1]) / t,
    },
    "6.6": {
        "a mean, not a sum": lambda m, cells, q: math.log(q / (1 - q)) / m,
        "upside down": lambda m, cells, q: m / (cells * math.log(q / (1 - q))),
        "the other tail": lambda m, cells, q: cells * math.log((1 - q) / q) / m,
        "binary logarithm": lambda m, cells, q: cells * math.log2(q / (1 - q)) / m,
        "forgets the rival": lambda m, cells, q: cells * math.log(1 / q) / m,
    },
}

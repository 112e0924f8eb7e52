"""Plausible mistakes in the exercises of chapter 13: every one must be told why it is wrong."""

from itertools import accumulate

import torch


def own_share_first(images, size, rank, world):
    start, stop = rank * images // world, (rank + 1) * images // world
    return [(a, min(a + size, stop)) for a in range(start, stop, size)]


def neighboring_shards(images, size, rank, world):
    shards = [(a, min(a + size, images)) for a in range(0, images, size)]
    return shards[rank * len(shards) // world : (rank + 1) * len(shards) // world]


def past_the_end(images, size, rank, world):
    return [(a, a + size) for a in range(0, images, size)][rank::world]


def drops_the_last(images, size, rank, world):
    return [(a, a + size) for a in range(0, images - size + 1, size)][rank::world]


def everybody_does_all(images, size, rank, world):
    return [(a, min(a + size, images)) for a in range(0, images, size)]


def from_scratch(row, w):
    return [sum(row[i : i + w]) for i in range(len(row) - w + 1)]


def total_less_the_rest(row, w):
    return [sum(row) - sum(row[:i]) - sum(row[i + w :]) for i in range(len(row) - w + 1)]


def one_short(row, w):
    upto = list(accumulate(row))
    return [b - a for a, b in zip(upto, upto[w:], strict=False)]


def sums_up(row, w):
    for i in range(1, len(row)):
        row[i] = row[i] + row[i - 1]
    return [row[i + w - 1] - row[i - 1] if i else row[w - 1] for i in range(len(row) - w + 1)]


def running_to_the_end(row, w):
    upto = list(accumulate(row, initial=0))
    return [upto[min(i + w, len(row))] - upto[i] for i in range(len(row))]


def statistics(parts, mean, variance):
    count = sum(n for n, _, _ in parts)
    middle = mean(parts, count)
    return count, middle, variance(parts, count, middle)


def weighted(parts, count):
    return sum(n * m for n, m, _ in parts) / count


def whole(parts, count, mean):
    return sum(n * (v + (m - mean) ** 2) for n, m, v in parts) / count


def safe(margins, most):
    return sum(m > most or m <= -most for m in margins)


def covers(width, n, p, k):
    step = width - p + 1
    return width, [min(i * step, n - width) for i in range(k)]


def side_by_side(n, p, k):
    width = -(-n // k)
    return width, [min(i * width, n - width) for i in range(k)]


def every(strips, label, n, certified, alarm):
    answers = []
    for a in range(len(strips[0]) - n + 1):
        left = [sum(row) - sum(row[a : a + n]) for row in strips]
        best = [c for c, x in enumerate(left) if x == max(left)]
        answers.append(best[0] if len(best) == 1 else None)
    return certified(answers, label), alarm(answers)


def never_wrong(answers, label):
    return all(said in (label, None) for said in answers)


def differ(answers):
    return len(set(answers)) > 1 or None in answers


def own_mask_for_each(strips, label, n):
    scores = [sum(row) - max(sum(row[a : a + n]) for a in range(len(row) - n + 1)) for row in strips]
    right = all(scores[label] > x for c, x in enumerate(scores) if c != label)
    return right, not right


WRONG = {
    "13.1": {
        "shares before shards": own_share_first,
        "neighboring shards": neighboring_shards,
        "past the end": past_the_end,
        "the last shard is lost": drops_the_last,
        "everybody does all": everybody_does_all,
        "numbers, not borders": lambda images, size, rank, world: list(range(-(-images // size)))[
            rank::world
        ],
    },
    "13.2": {
        "from scratch": from_scratch,
        "the total less the rest": total_less_the_rest,
        "from scratch, in a tensor": lambda row, w: torch.tensor(row).unfold(0, w, 1).sum(1).tolist(),
        "from scratch, with copies": lambda row, w: from_scratch([int(x) for x in row], w),
        "sums up the row it was given": sums_up,
        "without the first": one_short,
        "runs off the end": running_to_the_end,
        "means": lambda row, w: [x / w for x in from_scratch(row, w)],
    },
    "13.3": {
        "mean of means": lambda parts: statistics(
            parts, lambda parts, _: sum(m for _, m, _ in parts) / len(parts), whole
        ),
        "nothing between the parts": lambda parts: statistics(
            parts, weighted, lambda parts, count, _: sum(n * v for n, _, v in parts) / count
        ),
        "mean of variances": lambda parts: statistics(
            parts, weighted, lambda parts, *_: sum(v for _, _, v in parts) / len(parts)
        ),
        "one less": lambda parts: statistics(
            parts, weighted, lambda parts, count, mean: whole(parts, count, mean) * count / max(1, count - 1)
        ),
        "square root": lambda parts: statistics(parts, weighted, lambda *all_: whole(*all_) ** 0.5),
        "how many parts": lambda parts: (len(parts), *statistics(parts, weighted, whole)[1:]),
    },
    "13.4": {
        "one side only": lambda margins, e, n, w: safe(margins, e * (n * n - w * w)),
        "all cells": lambda margins, e, n, w: safe(margins, 2 * e * n * n),
        "outside window and mask": lambda margins, e, n, w: safe(margins, 2 * e * (n * n - 2 * w * w)),
        "certified ones only": lambda margins, e, n, w: sum(m > 2 * e * (n * n - w * w) for m in margins),
        "equality is safe": lambda margins, e, n, w: sum(abs(m) >= 2 * e * (n * n - w * w) for m in margins),
        "equality is not": lambda margins, e, n, w: sum(abs(m) > 2 * e * (n * n - w * w) for m in margins),
        "one cell": lambda margins, e, n, w: safe(margins, 2 * e),
    },
    "13.5": {
        "side by side": side_by_side,
        "one pixel wider": lambda n, p, k: covers(min(n, p - (-(n - p + 1) // k)), n, p, k),
        "as wide as the patch": lambda n, p, k: (p, [min(i * p, n - p) for i in range(k)]),
        "the whole strip": lambda n, p, k: (n, [0] * k),
        "over the end": lambda n, p, k: (
            p - (-(n - p + 1) // k) - 1,
            [i * -(-(n - p + 1) // k) for i in range(k)],
        ),
        "rounds down": lambda n, p, k: covers(p + max(1, (n - p + 1) // k) - 1, n, p, k),
        "width only": lambda n, p, k: p - (-(n - p + 1) // k) - 1,
    },
    "13.6": {
        "unanimous is enough": lambda strips, label, n: every(
            strips, label, n, lambda answers, _: len(set(answers)) == 1, differ
        ),
        "right somewhere": lambda strips, label, n: every(
            strips, label, n, lambda answers, label: label in answers, differ
        ),
        "a tie is lost": lambda strips, label, n: every(
            strips, label, n, lambda answers, label: set(answers) == {label}, differ
        ),
        "a tie is no alarm": lambda strips, label, n: every(
            strips, label, n, never_wrong, lambda answers: len(set(answers) - {None}) > 1
        ),
        "the other way round": lambda strips, label, n: every(strips, label, n, never_wrong, differ)[::-1],
        "a mask for each class": own_mask_for_each,
        "also right without a mask": lambda strips, label, n: every(
            strips,
            label,
            n,
            lambda answers, label: (
                never_wrong(answers, label) and all(sum(strips[label]) >= sum(row) for row in strips)
            ),
            differ,
        ),
        "no attacker": lambda strips, label, n: (
            max(range(len(strips)), key=lambda c: sum(strips[c])) == label,
            False,
        ),
    },
}

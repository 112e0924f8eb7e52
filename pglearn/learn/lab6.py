"""Lab 6, your own defense: the data of each student, and judges that hold told bounds against told scores.

A defense is the student's and may be anything, so nothing here knows the right answer. What was told must
agree with itself: every score of a content inside the bounds told for its window. That is a proof for the
contents that were all tried, and a test for the rest.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from statistics import median_low
from typing import Any

import torch

from pglearn.certify import certify_units
from pglearn.defenses import Logits, Sum, TopMask, WindowMask
from pglearn.evidence import Evidence
from pglearn.geometry import all_windows
from pglearn.learn.labs import Judge, lab_file

__all__ = [
    "FILES",
    "JUDGES",
    "NEEDED",
    "PROPOSALS",
    "TITLE",
    "TOLERANCE",
    "certified",
    "contents",
    "data",
    "hidden",
]

TITLE = "Your own defense"
FILES = ()
TOLERANCE = 0.0
NEEDED = 6
"""So many images of a bank of 18 must be certified."""

BANK = "cifar10-masked-bank.safetensors"
STEPS = 64
"""Units of the bank that make one of the lab's: small numbers are easier to read."""

Map = list[list[int]]
Window = tuple[int, int, int, int]


def range_off(row: list[int], k: int) -> int:
    """The sum, less the range: how far the loudest cell is above the quietest."""
    return sum(row) - (max(row) - min(row))


def weaker_neighbor(row: list[int], k: int) -> int:
    """Of each two neighbors, what both say."""
    return sum(min(x, y) for x, y in itertools.pairwise(row))


def cut_at_median(row: list[int], k: int) -> int:
    """No cell counts more than k times the median."""
    limit = k * median_low(row)
    return sum(min(x, limit) for x in row)


def loudest_fined(row: list[int], k: int) -> int:
    """The sum, less k times the loudest cell, but not below 0."""
    return max(0, sum(row) - k * max(row))


def outliers_out(row: list[int], k: int) -> int:
    """Cells above k times the mean do not count."""
    return sum(x for x in row if x * len(row) <= k * sum(row))


def quorum(row: list[int], k: int) -> int:
    """The sum, if at least k cells say something; else nothing."""
    return sum(row) if sum(x > 0 for x in row) >= k else 0


def jump_off(row: list[int], k: int) -> int:
    """The sum, less k times the largest jump between neighbors, but not below 0."""
    return max(0, sum(row) - k * max(abs(x - y) for x, y in itertools.pairwise(row)))


PROPOSALS: dict[str, Callable[[list[int], int], int]] = {
    f.__name__: f
    for f in (range_off, weaker_neighbor, cut_at_median, quorum, loudest_fined, outliers_out, jump_off)
}
"""Scores of a strip of cells that somebody proposes, with a constant k of 2 or 3."""


def data(seed: int) -> dict[str, Any]:
    """Proposals to judge, the malicious window's shape, and a bank of images."""
    rng = random.Random(seed)
    shape, names = list(rng.choice(((3, 3), (2, 4), (4, 2), (2, 3), (3, 2)))), list(PROPOSALS)
    chosen = [*rng.sample(names[:4], 2), *rng.sample(names[4:], 2)]
    rng.shuffle(chosen)
    return {"proposals": [[name, rng.choice((2, 3))] for name in chosen], "shape": shape} | _cases(rng, shape)


def hidden(seed: int) -> dict[str, Any]:
    """Further maps, windows and images; for windows of several shapes."""
    rng = random.Random(seed)
    return _cases(rng, list(rng.choice(((3, 3), (2, 4), (4, 2)))))


def _cases(rng: random.Random, shape: list[int]) -> dict[str, Any]:
    few = [_map(rng, 6, 6, 230) for _ in range(8)]
    small = []
    for h, w in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1)):
        place = [rng.randint(0, 4 - h), rng.randint(0, 5 - w), h, w]
        every = list(range({2: 10, 3: 5, 4: 4}[h * w]))
        grid = [0, *sorted(rng.sample(range(1, 230), {2: 10, 3: 5, 4: 3}[h * w])), 230]
        small += [[_map(rng, 4, 5, levels[-1]), place, levels] for levels in (every, grid)]
    return {"maps": [*few, *rng.sample(few, 4)], "small": small, "bank": _bank(rng, shape)}


def _map(rng: random.Random, rows: int, columns: int, top: int) -> Map:
    levels = (0, 0, top // 20 + 1, top // 6, top)
    return [[rng.randint(0, rng.choice(levels)) for _ in range(columns)] for _ in range(rows)]


def _bank(rng: random.Random, shape: list[int]) -> dict[str, Any]:
    """Images that robust masking certifies with room to spare: the label's map and its three best rivals."""
    bank, (h, w) = Evidence.load(lab_file(BANK)), shape
    assert bank.step is not None
    assert bank.clip_high is not None
    assert bank.labels is not None
    units = Logits(bank.step, bank.clip_high)(bank.maps) // STEPS  # (N, C, 8, 8)
    top, windows = int(units.max()), all_windows(h, w, 8, 8)
    margins = certify_units(units, bank.labels, WindowMask(h, w), [windows], top).margin_units
    sure = margins.argsort(descending=True, stable=True)[: int((margins > 0).sum()) // 2].tolist()
    images, labels, patches = [], [], []
    for at in rng.sample(sure, 18):
        label = int(bank.labels[at])
        sums = units[at].sum((1, 2))
        sums[label] = 2**40
        classes = sums.argsort(descending=True, stable=True)[:4].tolist()
        rng.shuffle(classes)
        images.append(units[at, classes].tolist())
        labels.append(classes.index(label))
        place = [rng.choice(windows.rows), rng.choice(windows.columns), h, w]
        loud = rng.choice((top, top // 4, top // 16))  # shouts, talks, whispers
        patches.append([place, [[rng.randint(0, loud) for _ in range(h * w)] for _ in range(4)]])
    return {"shape": shape, "top": top, "images": images, "labels": labels, "patches": patches}


def contents(m: Map, window: Window, levels: list[int]) -> list[Map]:
    """The map with every content of the window that is made of these values."""
    i, j, h, w = window
    found = []
    for values in itertools.product(levels, repeat=h * w):
        copy = [row[:] for row in m]
        for k, value in enumerate(values):
            copy[i + k // w][j + k % w] = value
        found.append(copy)
    return found


def certified(bounds: list[list[list[int]]], labels: list[int]) -> int:
    """How many images ``bounds[image][window][class]`` certify: the label's least, the others' most."""
    return sum(
        all(place[label] > max(most for c, most in enumerate(place) if c != label) for place in places)
        for places, label in zip(bounds, labels, strict=True)
    )


def _judge_proposals(told: Any, expected: Any, data: dict[str, Any], hidden: dict[str, Any]) -> str | None:
    if not isinstance(told, list) or len(told) != len(data["proposals"]):
        return f"expected {len(data['proposals'])} answers, each a pair of strips or None"
    for (name, k), pair in zip(data["proposals"], told, strict=True):
        score = PROPOSALS[name]
        if pair is None:
            if any(score(high, k) < score(low, k) for low, high in _steps()):
                return f"{name}, k = {k}: you say that it never falls, but it does"
            continue
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_strip, pair)):
            return f"{name}, k = {k}: expected two strips of six integers from 0 to 9, or None"
        low, high = pair
        if sorted(y - x for x, y in zip(low, high, strict=True)) != [0, 0, 0, 0, 0, 1]:
            return f"{name}, k = {k}: {high} is not {low} with one cell raised by 1"
        if score(high, k) >= score(low, k):
            return f"{name}, k = {k}: {low} scores {score(low, k)}, {high} {score(high, k)}: no fall"
    return None


def _is_strip(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 6 and all(type(x) is int and 0 <= x <= 9 for x in row)


def _steps() -> list[tuple[list[int], list[int]]]:
    """Pairs of strips of which the second has 1 more in one cell."""
    rows = [list(row) for row in itertools.product((0, 1, 2, 5), repeat=6)]
    return [(row, [*row[:i], row[i] + 1, *row[i + 1 :]]) for row in rows for i in (0, 2, 5)]


_KNOWN = {
    "the plain sum": Sum(),
    "robust masking": WindowMask(2, 2),
    "the masking of single cells": TopMask(4),
}


def _judge_scores(told: Any, expected: Any, data: dict[str, Any], hidden: dict[str, Any]) -> str | None:
    """Whole numbers, equal for equal maps, not all alike, and none of the book's defenses."""
    maps = [case["maps"] for case in (data, hidden)]
    if not _is_integers(told, len(maps[0]) + len(maps[1])):
        return f"expected {len(maps[0]) + len(maps[1])} integers"
    for part, scores in zip(maps, (told[: len(maps[0])], told[len(maps[0]) :]), strict=True):
        first = [scores[part.index(m)] for m in part]
        if scores != first:
            return "the same map scores differently the second time: a defense must not roll dice or remember"
        if len(set(scores)) < 4:
            return f"eight different maps score {sorted(set(scores))} only: that hardly tells classes apart"
        units = torch.tensor(part)[None]
        for name, aggregate in _KNOWN.items():
            if scores == aggregate.scores(units)[0].tolist():
                return f"it scores all maps as {name} does, which the book has already"
    return None


def _judge_bounds(told: Any, expected: Any, data: dict[str, Any], hidden: dict[str, Any]) -> str | None:
    """Sound for all contents told of the small maps: of half of them, all that there are."""
    cases = hidden["small"]
    if not isinstance(told, list) or len(told) != len(cases):
        return f"expected {len(cases)} answers"
    for answer, (m, (i, j, h, w), levels) in zip(told, cases, strict=True):
        count = len(levels) ** (h * w)
        if not isinstance(answer, list) or len(answer) != 2:
            return "expected the two bounds and the scores of all contents"
        if not _is_integers(answer[0], 2) or not _is_integers(answer[1], count):
            return f"expected two integers, least and most, and {count} scores"
        (least, most), scores = answer
        if least > min(scores) or most < max(scores):
            at = scores.index(min(scores) if least > min(scores) else max(scores))
            content = [levels[at // len(levels) ** k % len(levels)] for k in reversed(range(h * w))]
            where = f"window {(i, j, h, w)} of {m}, top {levels[-1]}"
            return f"{where}: you promise {least} to {most}, but the content {content} scores {scores[at]}"
    return None


def _judge_strength(told: Any, expected: Any, data: dict[str, Any], hidden: dict[str, Any]) -> str | None:
    """Bounds at all windows of the bank: around what was tried there, and strong enough to certify."""
    bank, shape = hidden["bank"], hidden["bank"]["shape"]
    places = [[i, j, *shape] for i in range(9 - shape[0]) for j in range(9 - shape[1])]
    count = len(bank["images"])
    shapes = {"bounds": (count, len(places), 4), "flood": (count, len(places), 4), "patches": (count, 4)}
    if not isinstance(told, dict) or told.keys() != shapes.keys():
        return "expected bounds, scores of the flood at each window, and scores of the patches"
    if wrong := next((name for name, size in shapes.items() if not _has_shape(told[name], size)), None):
        return f"{wrong}: expected integers of shape {shapes[wrong]}"
    bounds, flood, scores = (torch.tensor(told[name]) for name in shapes)
    images = torch.arange(count)
    sign = torch.ones(count, 4, dtype=torch.int64)  # the label may score more than its bound, the others less
    sign[images, bank["labels"]] = -1
    if (sign[:, None] * (flood - bounds) > 0).any():
        return "a window filled with 0 for the label and top for the others scores beyond your bounds"
    at = [places.index(place) for place, _ in bank["patches"]]
    if (sign * (scores - bounds[images, at]) > 0).any():
        return "a patch of the bank scores beyond your bounds"
    if (sure := certified(told["bounds"], bank["labels"])) < NEEDED:
        return f"your bounds certify {sure} of {count} images, and {NEEDED} are needed"
    return None


def _is_integers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(x) is int and abs(x) < 2**60 for x in value)
    )


def _has_shape(value: Any, shape: tuple[int, ...]) -> bool:
    if len(shape) == 1:
        return _is_integers(value, shape[0])
    return isinstance(value, list) and len(value) == shape[0] and all(_has_shape(v, shape[1:]) for v in value)


JUDGES: dict[str, Judge] = {
    "6.1": _judge_proposals,
    "6.2": _judge_scores,
    "6.3": _judge_bounds,
    "6.4": _judge_strength,
}

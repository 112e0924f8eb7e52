"""The defense and its certificate a second time: slow, from the definitions alone, in Python integers.

Nothing here imports the library. A rectangle is a frozenset of cell numbers, a class map a flat list, every
sum a loop; what the attacker can do is tried, where the tests are small enough, rather than reasoned about.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

__all__ = [
    "Verdict",
    "attack",
    "certify",
    "contents",
    "lower",
    "overwrite",
    "placements",
    "predict",
    "rectangle",
    "score",
    "to_units",
    "top_units",
    "upper",
]

Cells = frozenset[int]
Map = Sequence[int]  # one class, row by row
Bound = Callable[[Map, Cells], int]


def top_units(step: float, clip_high: float) -> int:
    """The integer that the largest admitted evidence becomes."""
    return round(clip_high / step)


def to_units(x: float, step: float, clip_high: float) -> int:
    """One raw number as the defense reads it: float64, half to even, NaN at the bottom, infinities at the
    ends.
    """
    x = float(x)
    if math.isnan(x):
        return 0
    return round(min(max(x, 0.0), clip_high) / step)


def rectangle(row: int, column: int, height: int, width: int, map_width: int) -> Cells:
    """Cells of one rectangle; columns beyond the right border go on at the left one."""
    return frozenset(
        (row + i) * map_width + (column + j) % map_width for i in range(height) for j in range(width)
    )


def placements(height: int, width: int, map_height: int, map_width: int, wrap: bool = False) -> list[Cells]:
    """Every placement of a rectangle on the map."""
    rows = range(map_height - height + 1)
    columns = range(map_width if wrap else map_width - width + 1)
    return [rectangle(i, j, height, width, map_width) for i in rows for j in columns]


def inside(m: Map, cells: Iterable[int]) -> int:
    return sum(map(m.__getitem__, cells))


def score(m: Map, masks: Sequence[Cells], t: Fraction) -> int:
    """Algorithm 1 for one class: the heaviest mask goes where its share of the total exceeds ``t``."""
    total, heaviest = sum(m), max(inside(m, v) for v in masks)
    return total - heaviest if heaviest * t.denominator > t.numerator * total else total


def predict(scores: Sequence[int]) -> int:
    """The class with the largest score, the lowest number on a tie."""
    return max(range(len(scores)), key=lambda c: (scores[c], -c))


def overwrite(m: Map, window: Cells, value: int) -> list[int]:
    return [value if i in window else x for i, x in enumerate(m)]


def upper(m: Map, window: Cells, masks: Sequence[Cells], t: Fraction, top: int) -> int:
    """The most that a wrong class can score once ``window`` is the attacker's.

    At ``t = 0`` the score never falls when a cell rises: fill the window to the top. Else let v cover the
    window. Either some mask is dropped, and the score is at most what v leaves; or none is, so v holds at
    most the share t and what it leaves is at least (1 - t) of the score. Both hold for the covering mask that
    leaves the least.
    """
    if t == 0:
        return score(overwrite(m, window, top), masks, t)
    left = min(sum(m) - inside(m, v) for v in masks if window <= v)
    return min(math.floor(left / (1 - t)), sum(m) - inside(m, window) + top * len(window))


def lower(m: Map, window: Cells, masks: Sequence[Cells], t: Fraction) -> int:
    """The least that the true class can keep: what lies outside the window, less the mask that can be made to
    fall.

    Where the outside triggers a mask by itself, any; otherwise only masks that overlap the window can be
    lured, for adding evidence in the window lowers every other mask's share.
    """
    outside = overwrite(m, window, 0)
    if score(outside, masks, t) == sum(outside):
        masks = [v for v in masks if v & window]
    return sum(outside) - max(inside(outside, v) for v in masks)


@dataclass(frozen=True)
class Verdict:
    """What a certificate says about one image."""

    prediction: int
    clean: bool
    certified: bool
    margin: int
    worst: frozenset[Cells]  # every window where the margin is attained


def certify(
    image: Sequence[Map],
    label: int | None,
    masks: Sequence[Cells],
    windows: Sequence[Cells],
    t: Fraction,
    top: int,
    k: int = 1,
    up: Bound | None = None,
    low: Bound | None = None,
) -> Verdict:
    """One image (C lists of H·W integers); ``label`` None certifies the prediction. ``up`` and ``low``
    replace a bound.
    """
    up = up or (lambda m, w: upper(m, w, masks, t, top))
    low = low or (lambda m, w: lower(m, w, masks, t))
    scores = [score(m, masks, t) for m in image]
    prediction = predict(scores)
    y = prediction if label is None else label
    others = [c for c in range(len(image)) if c != y]
    margins = []
    certified = True
    for w in windows:
        keeps, reach = low(image[y], w), [up(image[c], w) for c in others]
        certified &= sum(r >= keeps for r in reach) < k
        margins.append(keeps - sorted(reach)[-k])
    margin = min(margins)
    worst = frozenset(w for w, value in zip(windows, margins, strict=True) if value == margin)
    return Verdict(prediction, sum(scores[c] >= scores[y] for c in others) < k, certified, margin, worst)


def contents(
    m: Map, window: Cells, masks: Sequence[Cells], t: Fraction, top: int, rng: random.Random
) -> Iterator[list[int]]:
    """What a strategic attacker would write into ``window`` of one class: maps of values in 0..top."""
    cells = sorted(window)
    if (top + 1) ** len(cells) <= 300:
        for values in itertools.product(range(top + 1), repeat=len(cells)):
            filled = list(m)
            for i, value in zip(cells, values, strict=True):
                filled[i] = value
            yield filled
        return
    yield overwrite(m, window, 0)
    yield overwrite(m, window, top)
    zeros = overwrite(m, window, 0)
    for i in cells:  # one huge cell, one starved cell
        yield overwrite(zeros, frozenset([i]), top)
        yield overwrite(overwrite(m, window, top), frozenset([i]), 0)
    for v in masks:  # lures: just enough, one less, one more, to trigger v or to stay below
        shared = sorted(v & window)
        if not shared:
            continue
        out, held = sum(zeros), inside(zeros, v)
        # (held + x) / (out + x) against t: equal at x = (t·out - held) / (1 - t)
        ideal = math.floor((t * out - held) / (1 - t))
        for x in range(ideal - 1, ideal + 3):
            for order in (shared, shared[::-1]):
                lured, rest = list(zeros), x
                for i in order:
                    lured[i] = min(max(rest, 0), top)
                    rest -= lured[i]
                yield lured
    for _ in range(4):
        filled = list(m)
        for i in cells:
            filled[i] = rng.choice((0, rng.randint(0, top), top))
        yield filled


def attack(
    image: Sequence[Map],
    label: int,
    masks: Sequence[Cells],
    window: Cells,
    t: Fraction,
    top: int,
    seed: int = 0,
) -> list[list[int]]:
    """The most damaging image found by writing only into ``window``.

    The scores of two classes have no cell in common, so the label's map is driven down and every other up,
    each by itself: first the strategic contents, then greedy steps from the best of them. No bound is
    consulted.
    """
    rng = random.Random(seed)
    attacked = []
    for c, m in enumerate(image):
        sign = 1 if c == label else -1

        def cost(filled: Map, sign: int = sign) -> int:
            return sign * score(filled, masks, t)

        best = min(contents(m, window, masks, t, top, rng), key=cost)
        climbing = len(window) > 1 and (top + 1) ** len(window) > 300
        while climbing:
            climbing = False
            for i in sorted(window):
                for value in {0, top, max(best[i] - 1, 0), min(best[i] + 1, top), rng.randint(0, top)}:
                    moved = list(best)
                    moved[i] = value
                    if cost(moved) < cost(best):
                        best, climbing = moved, True
        attacked.append(list(best))
    return attacked

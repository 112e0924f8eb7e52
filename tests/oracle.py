"""The defenses and their certificates a second time: slow, from the definitions alone, in Python integers.

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
    "any_cells",
    "attack",
    "certify",
    "confidence",
    "contents",
    "exactly",
    "judge",
    "lower",
    "overwrite",
    "placements",
    "predict",
    "rectangle",
    "score",
    "shapes_within",
    "softmax",
    "strike",
    "tanh",
    "to_units",
    "top_units",
    "total",
    "two_delta",
    "unions",
    "upper",
    "votes",
    "without_heaviest",
]

Cells = frozenset[int]
Map = Sequence[int]  # one class, row by row
Bound = Callable[[Map, Cells], int]
Score = Callable[[Map], int]


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


def softmax(cell: Sequence[float]) -> list[float]:
    """One cell's confidence in every class, in [0, 1].

    NaN is no evidence at all, as -inf is; the classes at +inf have 1 each, beside them nothing counts; where
    no class has evidence none has confidence.
    """
    known = [-math.inf if math.isnan(x) else x for x in cell]
    highest = max(known)
    if math.isinf(highest):
        return [float(highest > 0 and x == highest) for x in known]
    powers = [math.exp(x - highest) for x in known]
    return [power / math.fsum(powers) for power in powers]


def confidence(cell: Sequence[float], step: float, unit: float = 1.0) -> list[int]:
    """One cell's stored numbers, a class each, as units of confidence; the top is ``round(1 / step)``."""
    return [round(x / step) for x in softmax([float(x) * unit for x in cell])]


def votes(cell: Sequence[float], threshold: float, unit: float = 1.0) -> list[int]:
    """One cell's votes: 1 for each class with at least that confidence; the top is 1."""
    return [int(x >= threshold) for x in softmax([float(x) * unit for x in cell])]


def tanh(x: float, step: float, unit: float = 1.0) -> int:
    """One stored number as units of tanh(0.05 x - 1) above -1, the bottom; the top is twice
    ``round(1 / step)``.
    """
    x = float(x) * unit
    return 0 if math.isnan(x) else round(math.tanh(0.05 * x - 1) / step) + round(1 / step)


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


def unions(windows: Iterable[Cells], patches: int) -> list[Cells]:
    """All that so many windows can cover, each of them any of ``windows``, overlapping or not."""
    chosen = itertools.combinations_with_replacement(sorted(set(windows), key=sorted), patches)
    return sorted({frozenset().union(*windows) for windows in chosen}, key=sorted)


def shapes_within(area: int, map_height: int, map_width: int) -> set[tuple[int, int]]:
    """Every shape of at most ``area`` cells that fits on the map."""
    shapes = itertools.product(range(1, map_height + 1), range(1, map_width + 1))
    return {(height, width) for height, width in shapes if height * width <= area}


def inside(m: Map, cells: Iterable[int]) -> int:
    return sum(map(m.__getitem__, cells))


def score(m: Map, masks: Sequence[Cells], t: Fraction) -> int:
    """Algorithm 1 for one class: the heaviest mask goes where its share of the total exceeds ``t``."""
    total, heaviest = sum(m), max(inside(m, v) for v in masks)
    return total - heaviest if heaviest * t.denominator > t.numerator * total else total


def total(m: Map) -> int:
    """The sum: what CBN and DS decide by."""
    return sum(m)


def without_heaviest(m: Map, alpha: int) -> int:
    """Individual feature masking: the class loses its ``alpha`` heaviest cells."""
    return sum(m) - sum(sorted(m, reverse=True)[:alpha])


def predict(scores: Sequence[int]) -> int:
    """The class with the largest score, the lowest number on a tie."""
    return max(range(len(scores)), key=lambda c: (scores[c], -c))


def overwrite(m: Map, window: Cells, value: int) -> list[int]:
    return [value if i in window else x for i, x in enumerate(m)]


def upper(m: Map, window: Cells, masks: Sequence[Cells], t: Fraction, top: int) -> int:
    """The most that a wrong class can score once ``window`` is the attacker's.

    Let s be the score at ``t = 0``, which never falls when a cell rises, so that no content gives more than s
    filled to the top. At ``t`` the score is s where a mask falls. Where none does, even the heaviest holds no
    more than the share t, so s is at least (1 - t) of the score.
    """
    filled = overwrite(m, window, top)
    return min(math.floor(score(filled, masks, Fraction(0)) / (1 - t)), sum(filled))


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


def judge(
    image: Sequence[Map],
    label: int | None,
    score: Score,
    windows: Sequence[Cells],
    low: Bound,
    up: Bound,
    k: int,
) -> Verdict:
    """One image (C lists of H·W integers) under bounds of what each class can be made to score; ``label``
    None certifies the prediction.
    """
    scores = [score(m) for m in image]
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
    """Window masking; ``up`` and ``low`` replace a bound."""
    up = up or (lambda m, w: upper(m, w, masks, t, top))
    low = low or (lambda m, w: lower(m, w, masks, t))
    return judge(image, label, lambda m: score(m, masks, t), windows, low, up, k)


def exactly(
    image: Sequence[Map], label: int | None, score: Score, windows: Sequence[Cells], top: int, k: int = 1
) -> Verdict:
    """Any score that never falls when a cell rises: filling the window attains the worst of every class.

    Classes share no cell, so one image attains them all: this margin is not a bound but what the attacker
    gets.
    """

    def low(m: Map, window: Cells) -> int:
        return score(overwrite(m, window, 0))

    def up(m: Map, window: Cells) -> int:
        return score(overwrite(m, window, top))

    return judge(image, label, score, windows, low, up, k)


def any_cells(image: Sequence[Map], label: int, alpha: int, cells: int, top: int, k: int = 1) -> int:
    """The margin of individual feature masking where the attacker takes any ``cells`` cells, and others for
    every class.

    The label loses its heaviest, and then the next ``alpha`` to the mask; another class has its lightest
    filled.
    """
    least = without_heaviest(image[label], cells + alpha)
    reach = [
        without_heaviest([top] * min(cells, len(m)) + sorted(m)[cells:], alpha)
        for c, m in enumerate(image)
        if c != label
    ]
    return least - sorted(reach)[-k]


def two_delta(image: Sequence[Map], label: int, delta: int, k: int = 1) -> int:
    """The classical margin of votes: ``delta`` cells change sides, taken from the label, given to another."""
    return sum(image[label]) - sorted(sum(m) for c, m in enumerate(image) if c != label)[-k] - 2 * delta


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


def strike(
    image: Sequence[Map],
    label: int,
    score: Score,
    window: Cells,
    top: int,
    seed: int = 0,
    masks: Sequence[Cells] = (),
    t: Fraction = Fraction(0),
) -> list[list[int]]:
    """The most damaging image found by writing only into ``window`` (any set of cells); ``masks`` are worth
    luring.

    The scores of two classes have no cell in common, so the label's map is driven down and every other up,
    each by itself: first the strategic contents, then greedy steps from the best of them. No bound is
    consulted.
    """
    rng = random.Random(seed)
    attacked = []
    for c, m in enumerate(image):
        sign = 1 if c == label else -1

        def cost(filled: Map, sign: int = sign) -> int:
            return sign * score(filled)

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


def attack(
    image: Sequence[Map],
    label: int,
    masks: Sequence[Cells],
    window: Cells,
    t: Fraction,
    top: int,
    seed: int = 0,
) -> list[list[int]]:
    """:func:`strike` at window masking."""
    return strike(image, label, lambda m: score(m, masks, t), window, top, seed, masks, t)

"""Checks of chapter 7."""

import itertools
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import torch

from pglearn.certify import certify_units
from pglearn.defenses import WindowMask
from pglearn.geometry import Axis, all_windows, touched
from pglearn.learn import Wrong, called, compare, exercise, plain

__all__: list[str] = []

THRESHOLDS = ("0", "0.1", "0.3", "0.6", "0.7", "0.9")


@exercise("7.1", stars=1, minutes=10)
def covering_masks(answer: Callable[..., list[tuple[int, int]]]) -> None:
    def reference(
        window: tuple[int, int, int, int], height: int, width: int, rows: int, columns: int
    ) -> list[tuple[int, int]]:
        i, j, h, w = window
        cells = set(itertools.product(range(i, i + h), range(j, j + w)))
        return [
            (top, left)
            for top in range(rows - height + 1)
            for left in range(columns - width + 1)
            if cells <= set(itertools.product(range(top, top + height), range(left, left + width)))
        ]

    cases = [
        ((i, j, h, w), height, width, rows, columns)
        for rows, columns in ((5, 7), (6, 8))
        for (h, w), (height, width) in (
            ((2, 2), (3, 3)),
            ((2, 2), (2, 2)),
            ((1, 3), (2, 4)),
            ((3, 1), (4, 1)),
            ((1, 1), (4, 6)),
            ((2, 3), (5, 7)),
        )
        for i in range(rows - h + 1)
        for j in range(columns - w + 1)
    ]
    compare(answer, reference, cases)


@exercise("7.2", stars=2, minutes=15)
def lemma_2(answer: Callable[[list[int], int, int, int, str, int], int]) -> None:
    def reference(row: list[int], a: int, n: int, m: int, threshold: str, top: int) -> int:
        owned = set(range(a, a + n))
        rest = min(
            sum(x for i, x in enumerate(row) if not v <= i < v + m)
            for v in range(len(row) - m + 1)
            if owned <= set(range(v, v + m))
        )
        room = sum(x for i, x in enumerate(row) if i not in owned) + n * top
        return min(int(rest / (1 - Fraction(threshold))), room)

    if not callable(answer):
        raise Wrong("expected a function")
    for row, a, n, m, threshold, top in itertools.islice(_strips(3), 0, None, 3):  # first: is it sound?
        call = called(answer, (row, a, n, m, threshold, top))
        given, most = answer(list(row), a, n, m, threshold, top), _most(row, a, n, m, threshold, top)
        if isinstance(given, int) and not isinstance(given, bool) and given < most:
            raise Wrong(f"{call}: you promise at most {given}, but some content scores {most}")
    wide = [(row, a, n, m, t, 60) for row, a, n, m, t, _ in _strips(9)]
    compare(answer, reference, [*_strips(3), *wide])
    kind = type(plain(answer([1, 0, 2, 0], 1, 1, 2, "0.3", 9)))
    if kind is not int:
        raise Wrong(f"scores are integers, and so is their bound; yours is a {kind.__name__}")


@exercise("7.3", stars=3, minutes=25)
def useful_ceiling(answer: Callable[[list[int], int, int, int], int]) -> None:
    def reference(row: list[int], a: int, n: int, m: int) -> int:
        def filled(top: int) -> int:
            full = [top if a <= i < a + n else x for i, x in enumerate(row)]
            return int(WindowMask(1, m).scores(torch.tensor(full)[None, None, None]))

        lemma, low, high = filled(2**40), 0, 2**30  # below the lemma at low, never at high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if filled(middle) < lemma else (low, middle)
        return low

    rng = random.Random(9)
    cases = [([9, 9, 9, 0, 0, 0, 0, 0], 5, 2, 3), ([0, 0, 0, 0, 7, 7, 7, 7], 1, 3, 4)]
    for most in (3, 20, 20, 10**6):
        for _ in range(40):
            length = rng.randint(6, 10)
            n = rng.randint(1, 3)
            m, a = rng.randint(n, 5), rng.randint(0, length - n)
            cases.append(([rng.choice((0, rng.randint(0, most))) for _ in range(length)], a, n, m))
    compare(answer, reference, cases)


@exercise("7.4", stars=2, minutes=15)
def more_mask(answer: tuple[list[int], list[int]]) -> None:
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise Wrong("the answer is a pair of strips: the true class and the wrong one")
    for name, row in zip(("true", "wrong"), answer, strict=True):
        if not isinstance(row, (tuple, list)) or len(row) != 6:
            raise Wrong(f"the {name} class is a strip of six integers; yours is {row!r:.60}")
        if not all(type(x) is int and 0 <= x <= 9 for x in row):
            raise Wrong(f"cells are integers from 0 to 9; the {name} class is {list(row)!r:.60}")
    units = torch.tensor([list(map(list, answer))])[:, :, None]  # (1, 2, 1, 6)
    one, two = (
        int(
            certify_units(
                units, torch.tensor([0]), WindowMask(1, m), [all_windows(1, 1, 1, 6)], 9
            ).margin_units
        )
        for m in (1, 2)
    )
    if one > 0:
        raise Wrong(f"masks of one cell certify it already: the smallest margin is {one}")
    if two <= 0:
        raise Wrong(f"masks of two cells do not certify it: the smallest margin is {two}, and a tie is lost")


@exercise("7.5", stars=1, minutes=10)
def free_pixels(answer: Callable[[int, int, int], int]) -> None:
    def reached(p: int, r: int, s: int) -> int:
        axis = Axis(10**4, tuple((s * i, s * i + r) for i in range(40)))
        ends = [touched(axis, start, p) for start in range(r + s, r + 2 * s)]
        return max(stop - first for first, stop in ends)

    def reference(p: int, r: int, s: int) -> int:
        return next(more for more in itertools.count() if reached(p + more + 1, r, s) > reached(p, r, s))

    cases = [(p, r, s) for r, s in ((8, 4), (9, 4), (17, 8), (3, 1), (5, 3), (33, 8)) for p in range(1, 12)]
    compare(answer, reference, cases)


def _strips(top: int) -> Iterator[tuple[list[int], int, int, int, str, int]]:
    """Strips with windows of one to three cells anywhere and masks at least as long."""
    rng = random.Random(top)
    for n, m in ((1, 1), (1, 2), (1, 4), (2, 2), (2, 3), (2, 5), (3, 4)):
        for a in range(8 - n + 1):
            for threshold in THRESHOLDS:
                row = [rng.choice((0, rng.randint(0, top))) for _ in range(8)]
                yield row, a, n, m, threshold, top


def _most(row: list[int], a: int, n: int, m: int, threshold: str, top: int) -> int:
    """Largest score over every content of the window, by the library."""
    contents: Any = itertools.product(range(top + 1), repeat=n)
    rows = torch.tensor([[*row[:a], *content, *row[a + n :]] for content in contents])
    return int(WindowMask(1, m, threshold).scores(rows[:, None, None]).max())

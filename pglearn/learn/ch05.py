"""Checks of chapter 5."""

import itertools
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import floor
from typing import Any

import torch

from pglearn.defenses import WindowMask
from pglearn.learn import Wrong, called, compare, exercise, plain, step_and_strip

__all__: list[str] = []

THRESHOLDS = ("0", "0.1", "0.3", "0.4", "0.6", "0.9")


@exercise("5.1", stars=1, minutes=10)
def upper_bound(answer: Callable[[int, int, str, int], int]) -> None:
    def reference(out: int, cells: int, threshold: str, top: int) -> int:
        return min(floor(out / (1 - Fraction(threshold))), out + top * cells)

    outs, tops = (*range(20), 99, 1000, 10**17), ((4, 1), (6, 50), (49, 10**18))
    cases = [(out, cells, t, top) for cells, top in tops for t in THRESHOLDS for out in outs]
    compare(answer, reference, cases)
    kind = type(plain(answer(7, 4, "0.3", 50)))
    if kind is not int:
        raise Wrong(f"scores are integers, and so is their bound; yours is a {kind.__name__}")


@exercise("5.2", stars=2, minutes=15)
def price(answer: Callable[[int, int, str], int]) -> None:
    def reference(held: int, out: int, threshold: str) -> int:
        share = Fraction(threshold)
        return next(x for x in itertools.count() if held + x > share * (out + x))

    outs = (0, 1, 7, 10, 30, 60)
    cases = [(held, out, t) for out in outs for held in range(0, out + 1, 3) for t in THRESHOLDS]
    compare(answer, reference, cases)


@exercise("5.3", stars=3, minutes=25)
def sharper_lower(answer: Callable[[list[int], int, int, str, int], int]) -> None:
    def reference(row: list[int], a: int, n: int, threshold: str, top: int) -> int:
        outside = [0 if a <= i < a + n else x for i, x in enumerate(row)]
        share, out = Fraction(threshold), sum(outside)
        falls = [0]
        for start in range(len(row) - n + 1):
            mask = range(start, start + n)
            held, bait = sum(outside[i] for i in mask), top * sum(a <= i < a + n for i in mask)
            if held + bait > share * (out + bait):
                falls.append(held)
        return out - max(falls)

    if not callable(answer):
        raise Wrong("expected a function")
    cases = [([0, 0, 0, 3, 0, 0, 1], 0, 3, "0.9", 6), *_strips(("0", "0.3", "0.6", "0.9"))]
    cases += [*_strips(("0.6", "0.9"), 3), ([12, 0, 9, 0, 0, 0, 9], 3, 2, "0.58", 20)]  # a tie, not in floats
    for row, a, n, threshold, top in cases[::5]:  # first, and in words: is it sound?
        call = called(answer, (row, a, n, threshold, top))
        given, least = answer(list(row), a, n, threshold, top), _extremes(row, a, n, threshold, top)[0]
        if isinstance(given, int) and given > least:
            raise Wrong(f"{call}: you promise {given}, but some content leaves {least}")
    compare(answer, reference, cases)


@exercise("5.4", stars=2, minutes=10)
def certified_top_k(answer: Callable[[list[int], list[list[int]], int], bool]) -> None:
    def reference(least: list[int], reach: list[list[int]], k: int) -> bool:
        rivals = [sum(most >= keeps for most in mosts) for keeps, mosts in zip(least, reach, strict=True)]
        return max(rivals, default=k) < k

    rng = random.Random(4)
    cases: list[tuple[list[int], list[list[int]], int]] = [
        ([10], [[9, 3, 1]], 1),
        ([10], [[10, 3, 1]], 1),
        ([10, 10], [[11, 3, 1], [3, 11, 1]], 2),
        ([10, 10], [[11, 10, 1], [3, 2, 1]], 2),
        ([10, 5], [[9, 9, 9], [4, 6, 1]], 1),
        ([], [], 1),
    ]
    for _ in range(200):
        count = rng.randint(1, 4)
        reach = [[rng.randint(0, 9) for _ in range(4)] for _ in range(count)]
        cases.append(([rng.randint(3, 12) for _ in range(count)], reach, rng.randint(1, 3)))
    compare(answer, reference, cases)


@exercise("5.5", stars=2, minutes=15)
def broken_proof(answer: tuple[int, list[int]]) -> None:
    step, row = step_and_strip(answer)
    score, out = _scores([row], 2, "0")[0], sum(row[1:5])
    if score <= out:
        raise Wrong(f"your strip scores {score}, no more than the evidence outside the two cells, {out}")
    if step != 3:
        raise Wrong(f"your strip breaks the claim, but not in step {step}: go through the steps with it")


@exercise("5.6", stars=3, minutes=25)
def attack(answer: Callable[..., Any]) -> None:
    if not callable(answer):
        raise Wrong("expected a function")
    rng = random.Random(6)
    lure = ([0, 4, 4, 1, 0, 3, 1], [1, 0, 0, 0, 0, 2, 0], 3, 2, "0.4", 5)  # the fillings lose, a lure wins
    cases = [
        lure,
        ([3, 1, 1, 0, 2, 3], [0, 1, 0, 0, 0, 3], 2, 2, "0.58", 3),  # only with the top, and not twice
        ([2, 0, 2, 0, 0, 3, 0], [2, 0, 0, 0, 0, 0, 0], 3, 2, "0.56", 3),  # neither erasing nor flooding does
        ([20, 0, 0, 0, 0, 0, 15, 0, 15], [0, 7, 0, 0, 0, 0, 7, 0, 7], 3, 2, "0.58", 20),  # a tie at 29 of 50
    ]
    for row, a, n, threshold, top in itertools.islice(_strips(("0", "0.3", "0.4", "0.6"), 5), 0, None, 4):
        cases.append((row, [rng.choice((0, 0, rng.randint(0, top))) for _ in row], a, n, threshold, top))
    for row, wrong, a, n, threshold, top in cases:
        least, most = _extremes(row, a, n, threshold, top)[0], _extremes(wrong, a, n, threshold, top)[1]
        call = called(answer, (row, wrong, a, n, threshold, top))
        found = plain(answer(list(row), list(wrong), a, n, threshold, top))
        if found is None:
            raise Wrong("nothing returned yet")
        _judge_attack(found, (row, wrong), a, n, threshold, top, call, exists=most >= least)


def _judge_attack(
    found: Any,
    strips: tuple[list[int], list[int]],
    a: int,
    n: int,
    threshold: str,
    top: int,
    call: str,
    exists: bool,
) -> None:
    if not isinstance(found, (tuple, list)) or len(found) not in (0, 2):
        raise Wrong(f"{call}: expected a pair of strips or [], got {found!r:.60}")
    if not found:
        if exists:
            raise Wrong(f"{call}: you found no attack, but there is one")
        return
    for name, before, after in zip(("true", "wrong"), strips, found, strict=True):
        if not isinstance(after, (tuple, list)) or len(after) != len(before):
            raise Wrong(f"{call}: the {name} strip should have {len(before)} cells, got {after!r:.60}")
        if not all(type(x) is int and 0 <= x <= top for x in after):
            raise Wrong(f"{call}: values are integers from 0 to {top}, the {name} strip has {list(after)}")
        changed = [i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x != y]
        if any(not a <= i < a + n for i in changed):
            raise Wrong(f"{call}: the {name} strip changes cells {changed}, beyond the window")
    true, wrong = (_scores([after], n, threshold)[0] for after in found)
    if wrong < true:
        raise Wrong(f"{call}: the wrong class scores {wrong}, the true class still {true}")


def _strips(thresholds: tuple[str, ...], top: int = 6) -> Iterator[tuple[list[int], int, int, str, int]]:
    """Strips of seven cells with a window of two or three; some large, so that lures fit and do not fit."""
    rng = random.Random(3)
    for n in (2, 3):
        for a in range(7 - n + 1):
            for threshold in thresholds:
                for style in range(3):
                    values = [rng.randint(0, top) if style < 2 or rng.random() < 0.4 else 0 for _ in range(7)]
                    yield ([top * (x > 1) for x in values] if style == 1 else values), a, n, threshold, top


def _scores(rows: Any, n: int, threshold: str) -> list[int]:
    """Defended score of each strip, by the library."""
    return WindowMask(1, n, threshold).scores(torch.tensor(rows)[None, :, None])[0].tolist()


def _extremes(row: list[int], a: int, n: int, threshold: str, top: int) -> tuple[int, int]:
    """Least and largest score over every content of the window."""
    contents = itertools.product(range(top + 1), repeat=n)
    scores = _scores([row[:a] + list(patch) + row[a + n :] for patch in contents], n, threshold)
    return min(scores), max(scores)

"""Checks of chapter 9."""

import random
from collections.abc import Callable

import torch

from pglearn.defenses import TopMask
from pglearn.geometry import window_size
from pglearn.learn import Wrong, called, compare, exercise, step_and_strip

__all__: list[str] = []


def _kept(cells: list[int], alpha: int) -> int:
    """Score of one class under feature masking, by the library."""
    return int(TopMask(alpha).scores(torch.tensor(cells).view(1, 1, 1, -1)))


@exercise("9.1", stars=1, minutes=10)
def merged_window(answer: Callable[[int, int, int, int], tuple[int, int]]) -> None:
    def reference(p: int, gap: int, r: int, s: int) -> tuple[int, int]:
        return window_size(p, r, s), window_size(2 * p + gap, r, s)

    cases = [
        (p, gap, r, s) for p in (1, 2, 5, 30) for gap in (0, 1, 3, 50) for r in (1, 8, 17) for s in (1, 4, 8)
    ]
    compare(answer, reference, cases)


@exercise("9.2", stars=2, minutes=15)
def bounds(answer: Callable[[list[int], set[int], int, int], tuple[int, int]]) -> None:
    def reference(cells: list[int], malicious: set[int], alpha: int, top: int) -> tuple[int, int]:
        inside = torch.tensor([[i in malicious for i in range(len(cells))]])
        low, high = TopMask(alpha).bounds(torch.tensor(cells).view(1, 1, 1, -1), top, inside)
        return int(low), int(high)

    rng = random.Random(2)
    cases = [([3, 1, 4, 1, 5], {4}, 1, 9), ([3, 1, 4, 1, 5], {0, 1}, 1, 9), ([2, 2], {0, 1}, 1, 7)]
    for _ in range(200):
        length = rng.randint(2, 8)
        malicious = set(rng.sample(range(length), rng.randint(1, length)))
        cells = [rng.randint(0, 9) for _ in range(length)]
        cases.append((cells, malicious, rng.randint(1, length), rng.choice((9, 20))))
    compare(answer, reference, cases)


@exercise("9.3", stars=2, minutes=20)
def any_m_cells(answer: Callable[[list[int], list[list[int]]], int]) -> None:
    def reference(y: list[int], rivals: list[list[int]]) -> int:
        largest = 0
        for m in range(1, len(y)):
            keeps = _kept(y, 2 * m)
            if all(keeps > sum(c) - sum(sorted(c)[:m]) for c in rivals):
                largest = m
        return largest

    rng = random.Random(3)
    steep = [12, 12, 8, 8, 5, 5, 5, 5]
    cases: list[tuple[list[int], list[list[int]]]] = [
        ([5] * 8, [[1] * 8]),
        ([5] * 8, [[5] * 8]),
        ([1] * 8, [[0] * 8]),
        ([4, 4, 4, 4], [[2, 2, 2, 2], [0, 0, 0, 8]]),
    ]
    cases += [(steep, [[x] * 8]) for x in (1, 2, 3, 4)]
    for _ in range(300):
        length = rng.randint(2, 12)
        y = [rng.randint(3, 12) for _ in range(length)]
        low, high = rng.choice(((0, 3), (-4, 6), (-12, 12)))
        rivals = [[max(0, rng.randint(low, high)) for _ in range(length)] for _ in range(rng.randint(1, 3))]
        cases.append((y, rivals))
    compare(answer, reference, cases)


@exercise("9.4", stars=3, minutes=25)
def best_level(answer: Callable[[list[int], list[int], int, int], int]) -> None:
    cases = [([6, 8, 10, 5, 12, 8, 5], [0, 0, 6, 6, 3, 1, 4], 2, 4)]  # the best level is no value of y
    cases.append(([5] * 8, [1] * 8, 1, 2))  # and here the highest
    rng = random.Random(4)
    for _ in range(60):
        length, n = rng.randint(5, 9), rng.randint(1, 2)
        y = [rng.randint(0, 12) for _ in range(length)]
        c = [max(0, rng.randint(-8, 8)) for _ in range(length)]
        cases.append((y, c, n, 2 * n + rng.choice((0, 0, 1))))  # the mask may hold more than two windows
    if not callable(answer):
        raise Wrong("expected a function")
    for y, c, n, alpha in cases:  # first, and in words: is it sound?
        call = called(answer, (y, c, n, alpha))
        given, lead = answer(list(y), list(c), n, alpha), _lead(y, c, n, alpha)
        if isinstance(given, int) and given > lead:
            raise Wrong(f"{call}: you promise {given}, but some union leaves {lead}")
    compare(answer, _best_level, cases)


@exercise("9.5", stars=2, minutes=15)
def broken_proof(answer: tuple[int, list[int]]) -> None:
    step, row = step_and_strip(answer)
    honest = _kept(list(row), 2)
    first, second = _kept([*row[:4], 9, row[5]], 2) - honest, _kept([*row[:5], 9], 2) - honest
    both = _kept([*row[:4], 9, 9], 2) - honest
    if both <= first + second:
        raise Wrong(f"flooded alone the two cells lift the rival by {first} and {second}, together by {both}")
    if step != 3:
        raise Wrong(f"your strip breaks the claim, but not in step {step}: go through the steps with it")


def _unions(length: int, n: int) -> list[list[int]]:
    runs = [set(range(a, a + n)) for a in range(length - n + 1)]
    return [sorted(v | w) for v in runs for w in runs]


def _lead(y: list[int], c: list[int], n: int, alpha: int) -> int:
    """The label's exact lead over all unions of two runs of n cells."""

    def left(cells: list[int], union: list[int]) -> list[int]:
        return sorted((x for i, x in enumerate(cells) if i not in union), reverse=True)

    unions = _unions(len(y), n)
    return min(sum(left(y, s)[alpha:]) - sum(left(c, s)[alpha - len(s) :]) for s in unions)


def _best_level(y: list[int], c: list[int], n: int, alpha: int) -> int:
    bounds = []
    for t in range(max(y) + 1):
        low = [min(x, t) for x in y]
        worst = max(sum(low[i] - c[i] for i in s) for s in _unions(len(y), n))
        bounds.append(sum(low) - alpha * t - sum(c) - worst)
    return max(bounds)

"""Checks of chapter 13."""

import random
from collections.abc import Callable
from itertools import pairwise
from statistics import fmean
from typing import Any

from pglearn.learn import Wrong, compare, exercise, plain, same

__all__: list[str] = []

Parts = list[tuple[int, float, float]]


@exercise("13.1", stars=1, minutes=8)
def shards_of(answer: Callable[[int, int, int, int], list[tuple[int, int]]]) -> None:
    def reference(images: int, size: int, rank: int, world: int) -> list[tuple[int, int]]:
        borders = [*range(0, images, size), images]
        return [each for number, each in enumerate(pairwise(borders)) if number % world == rank]

    sizes = [(10, 3), (12, 3), (7, 10), (1000, 300), (5, 1), (64, 16), (9, 4)]
    cases = [(*each, rank, world) for each in sizes for world in (1, 2, 3, 5) for rank in range(world)]
    compare(answer, reference, cases)


class _Counted(int):
    """An integer that counts the additions and subtractions it takes part in."""

    done = 0

    def _made(self, value: int) -> "_Counted":
        _Counted.done += 1
        return _Counted(value)

    def __add__(self, other: int) -> "_Counted":
        return self._made(int(self) + int(other))

    def __radd__(self, other: int) -> "_Counted":
        return self._made(int(other) + int(self))

    def __sub__(self, other: int) -> "_Counted":
        return self._made(int(self) - int(other))

    def __rsub__(self, other: int) -> "_Counted":
        return self._made(int(other) - int(self))


@exercise("13.2", stars=2, minutes=12)
def running_sums(answer: Callable[[list[int], int], list[int]]) -> None:
    numbers = random.Random(13)
    rows = [[numbers.randint(-9, 9) for _ in range(length)] for length in (1, 2, 5, 8, 8, 30)]
    cases = [(row, w) for row in rows for w in range(1, len(row) + 1)]
    compare(answer, lambda row, w: [sum(row[i : i + w]) for i in range(len(row) - w + 1)], cases)
    for row, w in cases:
        _Counted.done = 0
        answer([_Counted(x) for x in row], w)
        if _Counted.done == 0 and len(row) >= w > 1:
            raise Wrong(
                "the sums are right, but the check saw no addition: add the integers of the list themselves"
            )
        if _Counted.done > 2 * len(row):
            raise Wrong(
                f"the sums are right, but {len(row)} cells and runs of {w} took {_Counted.done} additions "
                f"and subtractions, allowed: {2 * len(row)}"
            )


@exercise("13.3", stars=2, minutes=15)
def joined_statistics(answer: Callable[[Parts], tuple[int, float, float]]) -> None:
    def of(values: list[float]) -> tuple[int, float, float]:
        mean = fmean(values)
        return len(values), mean, fmean((x - mean) ** 2 for x in values)

    batches = [
        ("one part", [[3.0, 5.0, 10.0]]),
        ("two equal parts", [[0.0, 1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0]]),
        ("two parts of one value each", [[2.0], [4.0]]),
        ("parts of different size", [[1.0, 2.0, 3.0, 4.0, 5.0], [20.0]]),
        ("three parts, one mean", [[-1.0, 1.0], [-3.0, 3.0, 0.0], [0.0]]),
        ("values far from zero", [[1000.0, 1002.0], [1001.0, 1004.0, 1007.0]]),
    ]
    if not callable(answer):
        raise Wrong("expected a function of the parts")
    for what, parts in batches:
        got = answer([of(part) for part in parts])
        same(got, of([x for part in parts for x in part]), f"for {what}", tolerance=1e-4)  # float32 will do


@exercise("13.4", stars=2, minutes=15)
def sure(answer: Callable[[list[int], int, int, int], int]) -> None:
    def reference(margins: list[int], e: int, n: int, w: int) -> int:
        most = 2 * e * (n * n - w * w)  # the label may lose, and the rival gain, e in each cell outside
        return len([m for m in margins if m - most > 0 or m + most <= 0])

    cases = []
    for e, n, w in ((1, 8, 3), (2, 8, 3), (3, 16, 5), (1, 4, 4), (5, 2, 1), (0, 8, 3)):
        most = 2 * e * (n * n - w * w)
        near = [sign * (most + d) for sign in (1, -1) for d in (-1, 0, 1)]
        halves = [most // 2, -most // 2, e * n * n, 2 * e * n * n, -2 * e * n * n]
        cases += [([m], e, n, w) for m in (*near, *halves, 0, 10**6)]
        cases.append(([*near, 0, 7, -(10**6)], e, n, w))
    compare(answer, reference, cases)


@exercise("13.5", stars=2, minutes=15)
def covering(answer: Callable[[int, int, int], tuple[int, list[int]]]) -> None:
    if not callable(answer):
        raise Wrong("expected a function of (n, p, k)")
    for n, p, k in (
        (10, 3, 2),
        (10, 3, 3),
        (64, 9, 3),
        (64, 9, 4),
        (6, 1, 3),
        (7, 2, 1),
        (7, 7, 2),
        (9, 2, 4),
    ):
        got, what = plain(answer(n, p, k)), f"n = {n}, p = {p}, k = {k}"
        if got is None:
            raise Wrong("nothing returned yet")
        if not isinstance(got, (tuple, list)) or len(got) != 2 or not isinstance(got[1], (tuple, list)):
            raise Wrong(f"for {what}: expected (width, starts), got {got!r:.60}")
        width, starts = got
        if not all(type(x) is int for x in (width, *starts)):
            raise Wrong(f"for {what}: width and starts are whole numbers, got {got!r:.60}")
        if not starts or len(starts) > k:
            raise Wrong(f"for {what}: {len(starts)} masks, allowed: 1 to {k}")
        if min(starts) < 0 or max(starts) + width > n:
            raise Wrong(f"for {what}: masks of {width} at {list(starts)} leave the strip of {n} pixels")
        bare = [at for at in range(n - p + 1) if not any(s <= at and at + p <= s + width for s in starts)]
        if bare:
            raise Wrong(
                f"for {what}: no mask of {width} at {list(starts)} covers a patch that begins at {bare[0]}"
            )
        if (n - p + 1) <= k * (width - p):  # masks of one pixel less would cover each place as well
            raise Wrong(f"for {what}: {k} masks narrower than {width} pixels can cover every patch")
        if list(starts) != sorted(starts):
            raise Wrong(f"for {what}: the starts {list(starts)} are not in order")


@exercise("13.6", stars=3, minutes=20)
def right_or_alarm(answer: Callable[[list[list[int]], int, int], tuple[bool, bool]]) -> None:
    def reference(strips: list[list[int]], label: int, n: int) -> tuple[bool, bool]:
        answers = set()
        for a in range(len(strips[0]) - n + 1):
            left = [sum(row[:a]) + sum(row[a + n :]) for row in strips]
            first, second = sorted(left, reverse=True)[:2]
            answers.add(left.index(first) if first > second else None)
        return answers <= {label, None}, len(answers) > 1 or None in answers

    cases: list[tuple[Any, ...]] = [
        ([[5, 5, 5, 5], [1, 1, 1, 1]], 0, 1),  # certified, no alarm
        ([[9, 0, 0, 0], [0, 1, 1, 1]], 0, 1),  # one heavy cell: mask it, and the rival leads
        ([[3, 0, 0], [0, 0, 0]], 0, 1),  # a tie under one mask: an alarm, and still certified
        ([[1, 1, 1], [1, 1, 1]], 0, 1),  # ties everywhere
        ([[1, 1, 1, 1], [5, 5, 5, 5]], 0, 2),  # wrong, and unanimous
        ([[1, 1, 1, 1], [5, 5, 5, 5]], 1, 2),
        ([[0, 4, 0], [3, 0, 3], [1, 1, 1]], 1, 1),
        ([[1, 0, 1], [0, 4, 0]], 0, 2),  # without a mask the rival leads, under every mask the label
    ]
    numbers = random.Random(6)
    for _ in range(120):
        length, classes = numbers.randint(3, 7), numbers.randint(2, 4)
        strips = [[numbers.randint(0, 4) for _ in range(length)] for _ in range(classes)]
        strips[0] = [x + numbers.randint(0, 3) for x in strips[0]]
        cases.append((strips, numbers.choice([0, 0, classes - 1]), numbers.randint(1, 2)))
    compare(answer, reference, cases)

"""Checks of chapter 10."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pglearn.defenses import Sum, WindowMask
from pglearn.geometry import Axis, all_windows, touched
from pglearn.learn import Wrong, compare, exercise, plain

__all__: list[str] = []

Strip = list[int]


@exercise("10.1", stars=1, minutes=10)
def classical_certificate(answer: Callable[[Strip, int, int, int, int], bool]) -> None:
    rng = random.Random(1)
    cases = [
        ([48, 16, 0], 0, 9, 8, 64),
        ([49, 16, 0], 0, 9, 8, 64),
        ([16, 0, 49], 2, 9, 8, 64),
        ([49, 0, 17], 0, 9, 8, 64),
        ([64, 0, 0], 1, 9, 8, 64),
        ([17, 0, 0], 0, 8, 7, 8),  # the patch meets all 8 bands, not 14
        ([16, 0, 0], 0, 8, 7, 8),
    ]
    for _ in range(200):
        width, patch, band = rng.randint(6, 20), rng.randint(1, 4), rng.randint(1, 4)
        votes = [rng.randint(0, width) for _ in range(3)]
        cases.append((votes, rng.randrange(3), patch, band, width))
    for votes, _, patch, band, width in cases[-100:]:  # leads about as large as they must be
        votes[0] = min(max(votes[1:]) + 2 * (patch + band - 1) + rng.randint(-1, 1), width)
    compare(answer, _classical, cases)


def _classical(votes: Strip, label: int, patch: int, band: int, width: int) -> bool:
    delta = min(width, patch + band - 1)
    return votes[label] - max(n for c, n in enumerate(votes) if c != label) > 2 * delta


@exercise("10.2", stars=2, minutes=10)
def bands_met(answer: Callable[[int, int, int, int], Strip]) -> None:
    cases = [
        (start, patch, band, width)
        for width in (7, 10)
        for band in (1, 2, 4, width - 1)
        for patch in (1, 3, width)
        for start in range(width - patch + 1)
    ]
    compare(answer, _bands_met, cases)


def _bands_met(start: int, patch: int, band: int, width: int) -> Strip:
    bands = Axis(width, tuple((j, j + band) for j in range(width)))
    first, stop = touched(bands, start, patch, wrap=True)
    return sorted(j % width for j in range(first, stop))


@exercise("10.3", stars=2, minutes=20)
def third_class(answer: list[Strip]) -> None:
    shape = "three strips of six integers from 0 to 9"
    rows = answer if isinstance(answer, (list, tuple)) else []
    if len(rows) != 3 or not all(isinstance(row, (list, tuple)) and len(row) == 6 for row in rows):
        raise Wrong(f"expected {shape}")
    if not all(type(x) is int and 0 <= x <= 9 for row in rows for x in row):
        raise Wrong(f"a strip holds something else: expected {shape}")
    scores = [sum(row) for row in rows]
    if not scores[0] > scores[1] > scores[2]:
        raise Wrong(f"the scores are {scores}: the label must be first, class 1 second, class 2 third")
    for rival in (1, 2):
        margins = _margins([rows[0], rows[rival]])
        worst = min(range(5), key=margins.__getitem__)
        if rival == 1 and margins[worst] <= 0:
            raise Wrong(
                f"the runner-up itself reaches the label in the window from cell {worst} on: "
                f"its margin there is {margins[worst]}"
            )
        if rival == 2 and margins[worst] > 0:
            raise Wrong(
                f"class 2 reaches the label in no window; it comes closest in the one from cell {worst} on, "
                f"where a margin of {margins[worst]} is left"
            )


def _margins(rows: list[Strip]) -> list[int]:
    """Margin of the first strip over the others at each window of two cells, by the library."""
    units = torch.tensor(rows)[None, :, None]
    windows = all_windows(1, 2, 1, len(rows[0]))
    return Sum().margins(units, torch.tensor([0]), 9, windows)[0].tolist()


@exercise("10.4", stars=2, minutes=20)
def falls(answer: Callable[..., Any]) -> None:
    if not callable(answer):
        raise Wrong("expected a function")
    for name, score, n, top in _scores():
        found = plain(answer(score, n, top))
        if found is None:
            raise Wrong("nothing returned yet")
        call = f"for {name}, strips of {n} cells from 0 to {top}"
        if not isinstance(found, (tuple, list)) or len(found) not in (0, 2):
            raise Wrong(f"{call}: expected a pair of strips or [], got {found!r:.60}")
        if not found:
            if any(score(high) < score(low) for low, high in _steps(n, top)):
                raise Wrong(f"{call}: you found no pair, but there is one")
            continue
        low, high = (list(row) if isinstance(row, (tuple, list)) else [] for row in found)
        if [low, high] not in [[a, b] for a, b in _steps(n, top)]:
            raise Wrong(f"{call}: {low} and {high} are no strips that differ by a step of 1 in one cell")
        if score(high) >= score(low):
            raise Wrong(f"{call}: {low} scores {score(low)}, {high} scores {score(high)}: no fall")


def _steps(n: int, top: int) -> Iterator[tuple[Strip, Strip]]:
    """All pairs of strips of which the second has 1 more in one cell."""
    for row in itertools.product(range(top + 1), repeat=n):
        for i in range(n):
            if row[i] < top:
                yield list(row), [x + (i == j) for j, x in enumerate(row)]


def _scores() -> list[tuple[str, Callable[[Strip], Any], int, int]]:
    def mask(threshold: str) -> Callable[[Strip], int]:
        defense = WindowMask(1, 2, threshold)
        return lambda row: int(defense.scores(torch.tensor(row).view(1, 1, 1, -1)))

    return [
        ("the sum", sum, 3, 2),
        ("the median", lambda row: sorted(row)[len(row) // 2], 3, 3),
        ("window masking at T = 0", mask("0"), 4, 2),
        ("window masking at T = 0.5", mask("0.5"), 4, 2),
        ("a sum that ignores cells above 2", lambda row: sum(x for x in row if x <= 2), 2, 3),
        ("largest minus smallest", lambda row: max(row) - min(row), 3, 2),
        ("the number of cells that hold 3", lambda row: row.count(3), 2, 3),
        ("a score that falls above 3 only", lambda row: sum(row) if max(row) <= 3 else -sum(row), 2, 3),
        ("a score that falls at the very end", lambda row: sum(row) if min(row) < 2 else 0, 3, 2),
        ("a score that falls in the first cell", lambda row: sum(row[1:]) - row[0], 3, 1),
        ("a score that falls in the last cell", lambda row: sum(row[:-1]) - row[-1], 3, 1),
    ]


@exercise("10.5", stars=3, minutes=30)
def one_vote_each(answer: Callable[[list[Strip], int, int, int], bool]) -> None:
    cases = list(_ballots())
    compare(answer, _one_vote_each, cases)


def _ballots() -> Iterator[tuple[list[Strip], int, int, int]]:
    rng = random.Random(5)
    yield [[1, 1, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0, 0], [0] * 7], 0, 2, 1  # a tie, and lost around the seam
    yield [[1, 0] * 4 + [1], [0, 1] + [0] * 7, [0] * 9], 0, 2, 1  # only around the seam
    yield [[1, 1, 1, 1, 1, 1, 1], [0] * 7, [0] * 7], 0, 3, 2  # two rivals share three votes
    yield [[1, 1, 1, 1, 0, 0], [0] * 6, [0] * 6], 0, 2, 1  # a tie
    yield [[1, 0] * 4, [0] * 8, [0] * 8], 0, 2, 1  # no window holds two of the label's votes
    for held, classes, n, k in (  # the class that each cell votes for
        ([2, 0, 2, 0, 0, 2], 3, 1, 2),  # one rival is ahead already: that is no help to the other
        ([0, 0, 1, 0, 0, 2, 0, 2], 3, 3, 2),  # the label is weak in one window, the rivals strong in others
        ([1, 0, 2, 0, 3, 0], 3, 2, 2),  # every window costs the label one vote; some cost the rivals, too
        ([0, 0, 1, 0, 3, 2, 0, 0, 1], 4, 3, 2),  # the two rivals with most votes are not the cheapest
    ):
        yield [[int(c == given) for given in held] for c in range(classes)], 0, n, k
    for _ in range(150):
        width, n = rng.randint(4, 7), rng.randint(1, 3)
        label = rng.randrange(3)
        held = [label if rng.random() < 0.7 else rng.randrange(4) for _ in range(width)]  # 3: no vote
        rows = [[int(c == given) for given in held] for c in range(3)]
        for k in (1, 2):
            yield rows, label, n, k


def _one_vote_each(rows: list[Strip], label: int, n: int, k: int) -> bool:
    """Every content of every window."""
    for inside in _around(len(rows[0]), n):
        out = [sum(x for j, x in enumerate(row) if j not in inside) for row in rows]
        for given in itertools.product(range(-1, len(rows)), repeat=n):
            votes = [count + given.count(c) for c, count in enumerate(out)]
            if sum(x >= votes[label] for c, x in enumerate(votes) if c != label) >= k:
                return False
    return True


def _around(width: int, n: int) -> list[list[int]]:
    return [[(a + i) % width for i in range(n)] for a in range(width)]

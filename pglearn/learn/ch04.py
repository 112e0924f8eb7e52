"""Checks of chapter 4."""

from collections.abc import Callable, Iterator
from fractions import Fraction

import torch

from pglearn.defenses import WindowMask, box_sums
from pglearn.learn import Wrong, compare, exercise, same

__all__: list[str] = []

BY_HAND = torch.tensor(
    [
        [[2, 1, 1, 1], [1, 3, 2, 2], [1, 2, 3, 1]],
        [[0, 0, 5, 4], [0, 0, 4, 5], [2, 1, 2, 1]],
        [[1, 2, 1, 2], [2, 1, 2, 1], [1, 2, 1, 2]],
    ]
)


@exercise("4.1", stars=1, minutes=8)
def mask_by_hand(answer: list[list[int]]) -> None:
    given = answer if isinstance(answer, (list, tuple)) else []
    lists = [part for part in given if isinstance(part, (list, tuple))]
    if [len(part) for part in lists] != [3, 3]:
        raise Wrong("expected two lists of three scores: [disc, ring, star] at T = 0, and at T = 0.5")
    sums, masked = BY_HAND.sum((1, 2)).tolist(), WindowMask(2, 2).scores(BY_HAND[None])[0].tolist()
    for scores, threshold in zip(lists, ("0", "0.5"), strict=True):
        expected = WindowMask(2, 2, threshold).scores(BY_HAND[None])[0].tolist()
        for c, name in enumerate(("disc", "ring", "star")):
            what = f"the score of the {name} at T = {threshold}"
            if scores[c] == sums[c] != expected[c]:
                raise Wrong(f"{what}: {sums[c]} is its whole sum, but a window's share exceeds {threshold}")
            if scores[c] == masked[c] != expected[c]:
                raise Wrong(f"{what}: no window's share exceeds {threshold}, so nothing is dropped")
            same(scores[c], expected[c], what)


@exercise("4.2", stars=2, minutes=8)
def is_masked(answer: Callable[[int, int, str], bool]) -> None:
    cases = [(3, 10, "0.3"), (4, 10, "0.3"), (2, 10, "0.3"), (63, 90, "0.7"), (1, 10, "0.1")]
    cases += [(45, 100, "0.45"), (0, 0, "0"), (0, 0, "0.5"), (0, 5, "0"), (1, 10**9, "0"), (10, 10, "0.99")]
    cases += [(29, 100, "0.29"), (57, 100, "0.57"), (125, 1000, "0.125"), (126, 1000, "0.125")]
    big = 10**18
    cases += [(3 * big // 10 + extra, big, "0.3") for extra in (-1, 0, 1)]
    if not callable(answer):
        raise Wrong("expected a function of (inside, total, threshold)")
    for inside, total, threshold in cases:
        equal = total > 0 and inside == Fraction(threshold) * total
        if equal and answer(inside, total, threshold) is True:
            raise Wrong(f"{inside} of {total} is a share of exactly {threshold}, and that does not exceed T")
    compare(answer, lambda inside, total, threshold: inside > Fraction(threshold) * total, cases)


@exercise("4.3", stars=2, minutes=12)
def masked_score(answer: Callable[[list[list[int]], list[tuple[int, int]], str], int]) -> None:
    def reference(cells: list[list[int]], shapes: list[tuple[int, int]], threshold: str) -> int:
        units = torch.tensor(cells)[None, None]
        return min(int(WindowMask(*shape, threshold).scores(units)) for shape in shapes)

    generator = torch.Generator().manual_seed(4)
    cases = []
    for rows, columns in ((4, 4), (3, 6), (6, 4)):
        for threshold in ("0", "0.3", "0.5"):
            for shapes in ([(1, 4), (3, 1)], [(3, 1), (1, 4)], [(2, 3)], [(1, 1), (2, 2), (3, 4)]):
                cells = torch.randint(0, 10, (rows, columns), generator=generator) ** 2 // 9
                cases.append((cells.tolist(), shapes, threshold))
    cases += [([[1, 2, 4, 3]], [(1, 2)], "0.7"), ([[14, 15, 0, 24, 0, 24, 0, 23]], [(1, 2)], "0.29")]
    compare(answer, reference, cases)


LURED = [[1, 1, 1, 1, 1], [1, 3, 4, 1, 1], [1, 5, 0, 0, 1], [1, 2, 0, 0, 1], [1, 1, 1, 1, 1]]
"""The map of exercise 4.4; the attacker owns rows 2 and 3, columns 2 and 3."""


def _contents() -> Iterator[list[int]]:
    for a in range(10):
        for b in range(10):
            for c in range(10):
                for d in range(10):
                    yield [a, b, c, d]


def _lured(contents: list[list[int]]) -> torch.Tensor:
    """Scores (M,) of the map with each of M contents (4 cells, row by row) in the window, at T = 0.45."""
    units = torch.tensor(LURED).repeat(len(contents), 1, 1, 1)
    units[:, 0, 2:4, 2:4] = torch.tensor(contents).view(-1, 2, 2)
    return WindowMask(2, 2, "0.45").scores(units)[:, 0]


@exercise("4.4", stars=3, minutes=15)
def lure(answer: list[list[int]]) -> None:
    shape = "expected two lists of two whole numbers from 0 to 9"
    if not isinstance(answer, (list, tuple)) or len(answer) != 2:
        raise Wrong(shape)
    cells = [value for line in answer if isinstance(line, (list, tuple)) and len(line) == 2 for value in line]
    if len(cells) != 4 or not all(type(value) is int and 0 <= value <= 9 for value in cells):
        raise Wrong(shape)
    everything = list(_contents())
    scores = _lured(everything)
    score, least = int(_lured([cells])[0]), int(scores.min())
    if score > least:
        silent = int(_lured([[0, 0, 0, 0]])[0])
        units = torch.tensor(LURED)
        units[2:4, 2:4] = torch.tensor(cells).view(2, 2)
        total, inside = int(units.sum()), int(box_sums(units, 2, 2).max())
        if score == total:
            raise Wrong(
                f"no mask falls: the heaviest window holds {inside} of {total} units, a share of "
                f"{inside / total:.3f}, and only a share above T = 0.45 is dropped"
            )
        raise Wrong(f"the score is {score}; silence would leave {silent}, and {least} can be reached")
    cheapest = min(sum(c) for c, s in zip(everything, scores.tolist(), strict=True) if s == least)
    if sum(cells) > cheapest:
        raise Wrong(f"the score is {score}, as low as it gets, but {sum(cells)} units are more than you need")


class _Counted(int):
    """An integer that counts the additions and subtractions it takes part in."""

    count = 0

    def __add__(self, other: int) -> "_Counted":
        _Counted.count += 1
        return _Counted(int(self) + int(other))

    def __sub__(self, other: int) -> "_Counted":
        _Counted.count += 1
        return _Counted(int(self) - int(other))

    def __rsub__(self, other: int) -> "_Counted":
        _Counted.count += 1
        return _Counted(int(other) - int(self))

    __radd__ = __add__


@exercise("4.5", stars=2, minutes=15)
def window_sums(answer: Callable[[list[list[int]], int, int], list[list[int]]]) -> None:
    def reference(cells: list[list[int]], height: int, width: int) -> list[list[int]]:
        return box_sums(torch.tensor(cells), height, width).tolist()

    generator = torch.Generator().manual_seed(5)
    cases = []
    for rows, columns in ((1, 1), (3, 3), (3, 5), (6, 4)):
        cells = torch.randint(0, 10, (rows, columns), generator=generator).tolist()
        cases += [(cells, h, w) for h in range(1, rows + 1) for w in range(1, columns + 1)]
    compare(answer, reference, cases)
    side, window = 30, 10
    _Counted.count = 0
    answer([[_Counted(1) for _ in range(side)] for _ in range(side)], window, window)
    if _Counted.count == 0:
        raise Wrong(
            "the sums are right, but the check saw no addition: add the integers of the lists themselves"
        )
    if _Counted.count > 6 * side * side:
        raise Wrong(
            f"the sums are right, but 10x10 windows on a 30x30 map took {_Counted.count} additions: "
            f"{6 * side * side} are plenty"
        )

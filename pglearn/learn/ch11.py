"""Checks of chapter 11."""

from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from typing import Any

import torch

from pglearn.certify import Certificate, certify_units
from pglearn.defenses import WindowMask
from pglearn.geometry import Layer, all_windows, receptive_field
from pglearn.learn import Wrong, compare, exercise, plain, same

__all__: list[str] = []

Fields = list[tuple[int, int]]


def _every_patch(fields: Fields, image: int) -> int:
    """By trying every patch at every place; the patch of the whole image meets every field."""
    return next(
        p
        for p in range(1, image + 1)
        for start in range(image - p + 1)
        if all(max(a, start) < min(b, start + p) for a, b in fields)
    )


@exercise("11.1", stars=2, minutes=12)
def last_size(answer: Callable[[Fields, int], int]) -> None:
    cases: list[tuple[Fields, int]] = []
    for r, s, padding, image in ((5, 3, 0, 20), (8, 4, 3, 32), (9, 4, 4, 64), (3, 4, 0, 23), (1, 1, 0, 7)):
        cases.append((list(receptive_field([Layer(r, s, padding)], image).fields), image))
    cases += [
        ([(0, 10), (2, 6), (4, 9)], 10),  # one patch of a pixel meets them all
        ([(6, 9), (0, 3), (3, 6)], 9),  # in no order
        ([(0, 8), (1, 3), (5, 7)], 8),  # the field that ends first starts in the middle
        ([(-5, 2), (-1, 12), (8, 14)], 12),
        ([(-5, 9)], 3),
        ([(-4, 4), (-2, 6), (0, 8)], 6),
        ([(-4, 4), (-2, 30), (9, 40)], 20),
        ([(-9, 40), (-9, 41)], 20),
    ]
    if callable(answer):
        fields = cases[0][0]
        if answer(list(reversed(fields)), 20) != answer(list(fields), 20):
            raise Wrong("the fields may come in any order, and the same fields give two answers")
    compare(answer, _every_patch, cases)


@exercise("11.2", stars=1, minutes=10)
def three_counts(answer: Callable[[list[list[int]], list[int]], tuple[int, Any, int]]) -> None:
    if not callable(answer):
        raise Wrong("expected a function of (scores, labels)")
    cases: list[tuple[list[list[int]], list[int], str, tuple[int, Fraction | int, int]]] = [
        ([[3, 1, 2]], [0], "one clear winner", (1, 1, 1)),
        ([[3, 1, 2]], [1], "a wrong answer", (0, 0, 0)),
        ([[5, 5, 1]], [0], "a tie that the lowest number wins", (1, Fraction(1, 2), 0)),
        ([[5, 5, 1]], [1], "a tie that the lowest number loses", (0, Fraction(1, 2), 0)),
        ([[5, 5, 1]], [2], "a tie of two others", (0, 0, 0)),
        ([[1, 4, 4, 4], [9, 0, 9, 0]], [3, 0], "a tie of three and one of two", (1, Fraction(5, 6), 0)),
        ([[0] * 10] * 30, list(range(10)) * 3, "30 images in which all ten classes tie at 0", (3, 3, 0)),
        ([[2, 1], [1, 2], [2, 2], [0, 0]], [0, 0, 0, 1], "four images of two classes", (2, 2, 1)),
    ]
    for scores, labels, what, expected in cases:
        got = plain(answer([list(row) for row in scores], list(labels)))
        if got is None:
            same(got, expected, "for the first images")
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            raise Wrong(f"expected three counts (lowest, fair, ours), got {got!r}")
        same(got[0], expected[0], f"lowest, for {what}")
        same(got[1], float(expected[1]), f"fair, for {what}", tolerance=1e-5)  # a sum in float32 will do
        same(got[2], expected[2], f"ours, for {what}")


@exercise("11.3", stars=2, minutes=15)
def conflicts(answer: Callable[[list[list[int]], int], list[tuple[int, int]]]) -> None:
    def reference(strips: list[list[int]], p: int) -> list[tuple[int, int]]:
        starts, found = range(len(strips[0]) - p + 1), []
        for a, b in combinations(range(len(strips)), 2):
            changed = {i for i, (x, y) in enumerate(zip(strips[a], strips[b], strict=True)) if x != y}
            if any(changed <= {*range(i, i + p), *range(j, j + p)} for i in starts for j in starts):
                found.append((a, b))
        return found

    cases = [
        ([[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1], [1, 1, 0, 1]], 1),
        ([[0] * 7, [1] * 7, [1, 0, 0, 0, 0, 0, 1], [1, 0, 0, 1, 0, 0, 1]], 2),
        ([[0] * 7, [1] * 6 + [0], [2] * 5 + [0, 0], [0, 3, 0, 0, 0, 0, 3]], 3),
        ([[5, 5, 5], [5, 6, 5]], 1),
        ([[5, 5, 5], [6, 6, 6]], 2),
        ([[0] * 8, [9, 0, 0, 9, 0, 0, 0, 9]], 3),
        ([[0] * 8, [9, 0, 0, 0, 9, 0, 0, 9]], 4),
    ]
    generator = torch.Generator().manual_seed(11)
    for p in (1, 2, 3, 4):
        strips = torch.randint(0, 2, (7, 9), generator=generator)
        cases.append((strips.unique(dim=0).tolist(), p))
    compare(answer, reference, cases)


@exercise("11.4", stars=3, minutes=20)
def lost_and_found(answer: list[list[int]]) -> None:
    strips = answer if isinstance(answer, (list, tuple)) else []
    rows = [list(row) for row in strips if isinstance(row, (list, tuple))]
    if len(rows) != 2 or len(rows) != len(strips) or len(rows[0]) != len(rows[1]):
        raise Wrong("expected two strips of equal length: [true, rival]")
    if not 5 <= len(rows[0]) <= 8:
        raise Wrong(f"the strips have {len(rows[0])} cells, expected five to eight")
    if not all(type(value) is int and 0 <= value <= 9 for row in rows for value in row):
        raise Wrong("every cell is to hold an integer from 0 to 9")
    one, two = (_certificate(rows, n) for n in (1, 2))
    if not one.clean[0]:
        raise Wrong("the true class does not even win when nobody attacks, with a mask of one cell")
    if one.certified[0]:
        raise Wrong("it is certified against one cell: no attack there reaches the true class")
    if not two.certified[0]:
        raise Wrong(f"it is not certified against two cells either: {_attack(rows, two)}")


def _certificate(rows: list[list[int]], n: int) -> Certificate:
    units = torch.tensor(rows)[None, :, None]  # (1, 2, 1, L)
    windows = [all_windows(1, n, 1, len(rows[0]))]
    return certify_units(units, torch.tensor([0]), WindowMask(1, n), windows, top=9)


def _attack(rows: list[list[int]], certificate: Certificate) -> str:
    _, at, _, n = certificate.worst[0].tolist()
    patched = [[*row[:at], *[fill] * n, *row[at + n :]] for row, fill in zip(rows, (0, 9), strict=True)]
    scores = WindowMask(1, n).scores(torch.tensor(patched)[None, :, None])[0].tolist()
    return (
        f"with zeros for the truth and nines for the rival in cells {at} and {at + 1}, "
        f"the scores are {scores[0]} to {scores[1]}"
    )


@exercise("11.5", stars=2, minutes=12)
def fewest_pixels(answer: Callable[[Fields, Fields], int]) -> None:
    def on_a_line(fields: Fields) -> int:
        """The most disjoint fields: as many pixels are needed, and as many do."""
        chosen: Fields = []
        for field in sorted(fields, key=lambda field: field[1]):
            if not chosen or field[0] >= chosen[-1][1]:
                chosen.append(field)
        return len(chosen)

    def regular(r: int, s: int, image: int) -> Fields:
        return list(receptive_field([Layer(r, s)], image).fields)

    bagnet, tiles, gaps = regular(17, 8, 224), regular(4, 4, 16), regular(3, 4, 19)
    nested, mixed = [(0, 9), (1, 3), (5, 7), (2, 4)], [(7, 9), (0, 2), (1, 8), (4, 6), (5, 7)]
    lines = [bagnet, tiles, gaps, nested, mixed, [(0, 1)], regular(8, 4, 32)]
    cases = [(line, line) for line in lines]
    cases += [(tiles, [(0, 4)]), (gaps, nested), (mixed, bagnet), ([(0, 5), (4, 9)], [(0, 5), (5, 9)])]
    compare(answer, lambda rows, columns: on_a_line(rows) * on_a_line(columns), cases)

"""Answers to the exercises of chapter 4 that are wrong in a plausible way."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch

from pglearn.defenses import box_sums

Cells = list[list[int]]
Shapes = list[tuple[int, int]]


def placed(cells: Cells, height: int, width: int) -> Cells:
    """Window sums by plain loops: right, and slow."""
    rows, columns = len(cells) - height + 1, len(cells[0]) - width + 1
    return [
        [sum(sum(line[j : j + width]) for line in cells[i : i + height]) for j in range(columns)]
        for i in range(rows)
    ]


def heaviest(cells: Cells, height: int, width: int) -> int:
    return max(max(line, default=0) for line in placed(cells, height, width) or [[0]])


def scored(pick: Callable[[Cells, Shapes], int], exceeds: Callable[[int, int, str], bool]) -> Any:
    def score(cells: Cells, shapes: Shapes, threshold: str) -> int:
        total, inside = sum(map(sum, cells)), pick(cells, shapes)
        return total - inside if exceeds(inside, total, threshold) else total

    return score


def exact(inside: int, total: int, threshold: str) -> bool:
    return inside > Fraction(threshold) * total


def at_least(inside: int, total: int, threshold: str) -> bool:
    return inside >= Fraction(threshold) * total


def always(inside: int, total: int, threshold: str) -> bool:
    return True


def heaviest_of_all(cells: Cells, shapes: Shapes) -> int:
    return max(heaviest(cells, *shape) for shape in shapes)


def corners(cells: Cells, height: int, width: int, twice: int = 1, short: int = 0) -> Cells:
    table = [[0] * (len(cells[0]) + 1)]
    for line in cells:
        row = [0]
        for value, above, corner in zip(line, table[-1][1:], table[-1], strict=False):
            row.append(value + above + row[-1] - corner)
        table.append(row)
    return [
        [
            table[i + height][j + width] - table[i][j + width] - table[i + height][j] + twice * table[i][j]
            for j in range(len(cells[0]) - width + 1 - short)
        ]
        for i in range(len(cells) - height + 1 - short)
    ]


def in_place(cells: Cells, height: int, width: int) -> Cells:
    sums = corners(cells, height, width)
    cells[-1][-1] = sum(map(sum, cells)) + 1
    return sums


WRONG: dict[str, dict[str, Any]] = {
    "4.1": {
        "nothing is masked": [[20, 24, 18], [20, 24, 18]],
        "always masked": [[10, 6, 12], [10, 6, 12]],
        "a share equal to T is masked": [[10, 6, 12], [10, 6, 18]],
        "only the winner is masked": [[20, 6, 18], [20, 6, 18]],
        "one mask for all, on the ring": [[12, 6, 12], [12, 6, 12]],
        "the evidence inside the masks": [[10, 18, 6], [0, 18, 0]],
        "only one threshold": [10, 6, 12],
    },
    "4.2": {
        "equal is masked": at_least,
        "float product": lambda inside, total, threshold: inside > float(threshold) * total,
        "float quotient": lambda inside, total, threshold: total > 0 and inside / total > float(threshold),
        "whole hundredths": lambda inside, total, threshold: (
            100 * inside > int(100 * float(threshold)) * total
        ),
        "rounds to a millionth": lambda inside, total, threshold: (
            round(inside - float(threshold) * total, 6) > 0
        ),
        "divides by zero": lambda inside, total, threshold: inside / total > float(threshold),
        "the float made exact": lambda inside, total, threshold: inside > Fraction(float(threshold)) * total,
        "share of the rest": lambda inside, total, threshold: inside > Fraction(threshold) * (total - inside),
        "a number instead of a bool": lambda inside, total, threshold: int(exact(inside, total, threshold)),
    },
    "4.3": {
        "only the first shape": scored(lambda cells, some: heaviest(cells, *some[0]), exact),
        "only the last shape": scored(lambda cells, some: heaviest(cells, *some[-1]), exact),
        "one window of each shape": scored(lambda cells, some: sum(heaviest(cells, *s) for s in some), exact),
        "height and width swapped": scored(
            lambda cells, some: max(heaviest(cells, w, h) for h, w in some), exact
        ),
        "squares": scored(lambda cells, some: max(heaviest(cells, h, h) for h, w in some), exact),
        "no threshold": scored(heaviest_of_all, always),
        "float product": scored(heaviest_of_all, lambda inside, total, T: inside > float(T) * total),
        "the shape of most cells": scored(
            lambda cells, some: heaviest(cells, *max(some, key=lambda s: s[0] * s[1])), exact
        ),
        "equal is masked": scored(heaviest_of_all, at_least),
    },
    "4.4": {
        "silence": [[0, 0], [0, 0]],
        "shouting": [[9, 9], [9, 9]],
        "one unit short": [[3, 0], [0, 0]],
        "more than needed": [[9, 0], [0, 0]],
        "the corner away from the hill": [[0, 0], [0, 4]],
        "negative evidence": [[-9, 0], [0, 0]],
        "flat": [4, 0, 0, 0],
    },
    "4.5": {
        "square windows": lambda cells, height, width: placed(cells, height, height),
        "height and width swapped": lambda cells, height, width: placed(cells, width, height),
        "plain loops": placed,
        "plain loops over copies": lambda cells, height, width: placed(
            [[*map(int, line)] for line in cells], height, width
        ),
        "the library": lambda cells, height, width: box_sums(torch.tensor(cells), height, width).tolist(),
        "builds the table in the map it was given": in_place,
        "corner taken away twice": lambda cells, height, width: corners(cells, height, width, twice=0),
        "last windows missing": lambda cells, height, width: corners(cells, height, width, short=1),
        "the table itself": lambda cells, height, width: corners(cells, 1, 1),
    },
}

"""Plausible wrong answers to the exercises of chapter 0."""

from collections.abc import Callable
from typing import Any

Cells = list[list[int]]


def unclipped(pixels: list[float], gradient: list[float], pace: float) -> list[float]:
    return [p + pace * ((g > 0) - (g < 0)) for p, g in zip(pixels, gradient, strict=True)]


def clipped(values: list[float]) -> list[float]:
    return [min(1.0, max(0.0, value)) for value in values]


def places(image: int, side: int, step: int) -> list[tuple[int, int]]:
    starts = range(0, image - side + 1, step)
    return [(row, column) for row in starts for column in starts]


def grow(damage: Callable[[int, int], float], image: int, side: int, step: int) -> tuple[int, int]:
    best, place = 0.0, (step, step)
    for row, column in places(image, side, step):
        if damage(row, column) > best:
            best, place = damage(row, column), (row, column)
    return place


def windows(cells: Cells, w: int, short: int = 0) -> list[int]:
    return [
        sum(sum(line[j : j + w]) for line in cells[i : i + w])
        for i in range(len(cells) - w + 1 - short)
        for j in range(len(cells[0]) - w + 1 - short)
    ]


def around_loudest(cells: Cells, w: int) -> int:
    _, i, j = max((v, -i, -j) for i, row in enumerate(cells) for j, v in enumerate(row))
    i, j = min(-i, len(cells) - w), min(-j, len(cells[0]) - w)
    return sum(map(sum, cells)) - sum(sum(line[j : j + w]) for line in cells[i : i + w])


def erases(cells: Cells, w: int) -> int:
    i, j = max(
        ((i, j) for i in range(len(cells) - w + 1) for j in range(len(cells[0]) - w + 1)),
        key=lambda at: sum(sum(line[at[1] : at[1] + w]) for line in cells[at[0] : at[0] + w]),
    )
    for line in cells[i : i + w]:
        line[j : j + w] = [0] * w
    return sum(map(sum, cells))


WRONG: dict[str, dict[str, Any]] = {
    "0.1": {
        "a share, not a percentage": lambda h, w, rows, columns: h * w / (rows * columns),
        "compares lengths": lambda h, w, rows, columns: 100 * h / rows,
        "a square patch": lambda h, w, rows, columns: 100 * h * h / (rows * columns),
        "a square image": lambda h, w, rows, columns: 100 * h * w / rows**2,
        "whole percents": lambda h, w, rows, columns: 100 * h * w // (rows * columns),
    },
    "0.2": {
        "does not clip": unclipped,
        "walks downhill": lambda p, g, pace: clipped(unclipped(p, [-x for x in g], pace)),
        "uses the size of the gradient": lambda p, g, pace: clipped(
            [x + pace * y for x, y in zip(p, g, strict=True)]
        ),
        "moves up at zero": lambda p, g, pace: clipped(unclipped(p, [x or 1.0 for x in g], pace)),
        "clips before the step": lambda p, g, pace: unclipped(clipped(p), g, pace),
        "clips from above only": lambda p, g, pace: [min(1.0, x) for x in unclipped(p, g, pace)],
    },
    "0.3": {
        "leaves out the last place": lambda damage, image, side, step: max(
            places(image - 1, side, step) or [(0, 0)], key=lambda place: damage(*place)
        ),
        "lets the patch hang over": lambda damage, image, side, step: max(
            places(image, 1, step), key=lambda place: damage(*place)
        ),
        "the last of equals": lambda damage, image, side, step: max(
            reversed(places(image, side, step)), key=lambda place: damage(*place)
        ),
        "least damage": lambda damage, image, side, step: min(
            places(image, side, step), key=lambda place: damage(*place)
        ),
        "starts with zero as the best": grow,
        "tries every pixel": lambda damage, image, side, step: max(
            places(image, side, 1), key=lambda place: damage(*place)
        ),
        "column first": lambda damage, image, side, step: max(
            places(image, side, step), key=lambda place: damage(*place)
        )[::-1],
        "column by column": lambda damage, image, side, step: max(
            [(row, column) for column, row in places(image, side, step)], key=lambda place: damage(*place)
        ),
        "the damage, not the place": lambda damage, image, side, step: max(
            damage(*place) for place in places(image, side, step)
        ),
    },
    "0.4": {
        "forgets the last window": lambda cells, w: (
            sum(map(sum, cells)) - max(windows(cells, w, 1), default=0)
        ),
        "the window around the loudest cell": around_loudest,
        "removes the loudest cell only": lambda cells, w: sum(map(sum, cells)) - max(map(max, cells)),
        "removes the lightest window": lambda cells, w: sum(map(sum, cells)) - min(windows(cells, w)),
        "returns the window": lambda cells, w: max(windows(cells, w)),
        "erases in the map it was given": erases,
        "something always falls": lambda cells, w: sum(map(sum, cells)) - max(1, *windows(cells, w)),
        "no mask at all": lambda cells, w: sum(map(sum, cells)),
    },
}

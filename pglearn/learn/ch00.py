"""Checks of chapter 0."""

from collections.abc import Callable

import torch

from pglearn.defenses import WindowMask
from pglearn.learn import Wrong, compare, exercise, same

__all__: list[str] = []


@exercise("0.1", stars=1, minutes=5)
def percent_covered(answer: Callable[[int, int, int, int], float]) -> None:
    cases = [(9, 9, 64, 64), (5, 5, 32, 32), (4, 8, 40, 20), (8, 4, 16, 64), (1, 1, 10, 10), (7, 7, 7, 7)]
    compare(answer, lambda a, b, rows, columns: 100 * (a * b) / (rows * columns), cases, tolerance=1e-9)


@exercise("0.2", stars=1, minutes=10)
def one_step(answer: Callable[[list[float], list[float], float], list[float]]) -> None:
    pixels, gradient = [0.5, 0.5, 0.5], [2.0, -0.001, 0.0]
    kept = list(pixels)
    got = answer(pixels, gradient, 0.25)
    if pixels != kept:
        raise Wrong("the list of pixels that was given has changed; build a new one")
    same(got, [0.75, 0.25, 0.5], f"for pixels {kept}, gradient {gradient}, pace 0.25", tolerance=1e-9)
    cases = [
        ([0.875, 1.0, 0.0, 0.125], [1.0, 3.0, -2.0, -0.5], 0.25),
        ([1.0, 0.0, 0.0, 1.0], [-1.0, 1.0, 0.0, 0.0], 0.125),
        ([0.25], [-1e-9], 0.125),
        ([0.5, 0.5], [1.0, -1.0], 2.0),
    ]
    compare(answer, _step, cases, tolerance=1e-9)


def _step(pixels: list[float], gradient: list[float], pace: float) -> list[float]:
    moved = torch.tensor(pixels).double() + pace * torch.tensor(gradient).double().sign()
    return [float(pixel) for pixel in moved.clamp(0, 1)]


@exercise("0.3", stars=2, minutes=10)
def best_place(answer: Callable[[Callable[[int, int], float], int, int, int], tuple[int, int]]) -> None:
    cases: list[tuple[str, Callable[[int, int], float], tuple[int, int, int], tuple[int, int]]] = [
        ("a hill around (20, 44)", lambda r, c: -abs(r - 20) - 2 * abs(c - 44), (64, 9, 4), (20, 44)),
        ("a slope to the far corner", lambda r, c: r + c, (64, 8, 8), (56, 56)),
        ("a slope whose grid ends early", lambda r, c: 3 * r + c, (30, 7, 5), (20, 20)),
        ("a slope to the right", lambda r, c: c, (32, 5, 9), (0, 27)),
        ("nothing but negative damage", lambda r, c: -10 - r - c, (20, 4, 4), (0, 0)),
        ("two places of equal damage", lambda r, c: (r, c) in ((4, 0), (0, 8)), (20, 4, 4), (0, 8)),
        ("the same damage everywhere", lambda r, c: 1, (20, 4, 4), (0, 0)),
        ("a patch as large as the image", lambda r, c: 5, (9, 9, 3), (0, 0)),
    ]
    for what, damage, (image, side, step), expected in cases:

        def watched(row: int, column: int, harm=damage, image=image, side=side, step=step) -> float:  # type: ignore[no-untyped-def]
            if not (0 <= row <= image - side and 0 <= column <= image - side):
                raise Wrong(f"damage was asked at ({row}, {column}), where {side} pixels leave the {image}")
            if row % step or column % step:
                raise Wrong(f"damage was asked at ({row}, {column}), which is not on the grid of step {step}")
            return float(harm(row, column))

        got = answer(watched, image, side, step)
        same(got, expected, f"for {what}, image {image}, side {side}, step {step}")


@exercise("0.4", stars=2, minutes=10)
def masked_sum(answer: Callable[[list[list[int]], int], int]) -> None:
    random = torch.Generator().manual_seed(0)
    maps = [
        torch.randint(0, 9, shape, generator=random).tolist() for shape in ((4, 4), (3, 6), (6, 3), (5, 5))
    ]
    cases = [
        ([[0, 0, 0], [0, 7, 0], [0, 0, 1]], 2),
        ([[9, 0, 0, 0], [0, 0, 0, 0], [0, 0, 4, 4], [0, 0, 4, 4]], 2),  # not around the heaviest cell
        ([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 5], [0, 0, 5, 5]], 2),  # in the last corner
        ([[1, 8], [3, 2]], 1),
        ([[4, 1, 2]], 1),
        ([[0, 0], [0, 0]], 1),
        ([[1, 2], [3, 4]], 2),
        *[(cells, w) for cells in maps for w in (1, 2, 3)],
    ]
    compare(answer, lambda cells, w: int(WindowMask(w, w).scores(torch.tensor([[cells]]))), cases)

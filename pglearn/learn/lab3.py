"""Lab 3, mask by hand: each student's three maps, the window that they own, and maps to mask otherwise."""

from random import Random
from typing import Any

from pglearn.learn.labs import Judge

__all__ = ["FILES", "JUDGES", "TITLE", "TOLERANCE", "data", "hidden"]

TITLE = "Mask by hand"
FILES: tuple[str, ...] = ()
TOLERANCE = 0.0
JUDGES: dict[str, Judge] = {}

HEIGHT, WIDTH, TOP = 5, 6, 9  # of the maps, and what a cell may hold
Map = list[list[int]]


def data(seed: int) -> dict[str, Any]:
    """Maps of three classes that a person can mask, the mask's shape, and the window of an attacker."""
    random = Random(seed)
    while True:
        mask = random.choice([[2, 3], [3, 2]])
        maps = [_spread(random), _concentrated(random, mask), _hill(random)]
        windows = [_windows(cells, mask) for cells in maps]
        totals = [sum(map(sum, cells)) for cells in maps]
        left = [total - max(held) for total, held in zip(totals, windows, strict=True)]
        clear = all(sorted(held)[-1] > sorted(held)[-2] + 1 for held in windows)
        if clear and totals[1] > max(totals[0], totals[2]) and left[0] > max(left[1:]) and left[1] != left[2]:
            break
    order = random.sample(range(3), 3)
    names = random.sample(
        ["disc", "ring", "square", "cross", "star", "stripes", "checker", "dots", "waves"], 3
    )
    # theirs is one of the winner's heavier windows, not the heaviest
    heavier = sorted(range(len(windows[0])), key=windows[0].__getitem__)[len(windows[0]) // 2 : -1]
    row, column = divmod(random.choice(heavier), WIDTH - mask[1] + 1)
    return {
        "classes": names,
        "maps": [maps[i] for i in order],
        "mask": mask,
        "rival": order.index(2),
        "window": [row, column],
        "two patches": _two_patches(random),
    }


def hidden(seed: int) -> dict[str, Any]:
    """Maps with evidence in several places, ties among windows and empty maps included."""
    random = Random(seed)
    boards = [[_random(random, *size), mask] for size, mask in (((4, 5, 4), [2, 2]), ((3, 7, 9), [1, 3]))]
    boards += [[_two_patches(random), [2, 2]], [[[0] * 5] * 4, [2, 2]], [[_strip(random)], [1, 2]]]
    low, high = random.randrange(1, 5), random.randrange(5, TOP + 1)
    for strip in (
        [low, high, high, low],
        [high, high, high, low],
    ):  # where the best first window is no good one
        boards.append([[[0] * random.randrange(1, 4) + strip + [0] * random.randrange(1, 4)], [1, 2]])
    small = [_random(random, 3, 4, 3) for _ in range(8)]
    elections = [
        [[_random(random, 4, 5, top) for top in tops], [2, 2]] for tops in ((3, 4, 5), (2, 2, 2), (9, 4))
    ]
    twin = _hill(random)
    elections += [[[_concentrated(random, [2, 3]), _spread(random), twin, [[0] * WIDTH] * HEIGHT], [2, 3]]]
    elections += [[[twin, twin], [2, 3]], [[[[0, 0, 7, 0, 0]], [[1, 1, 1, 1, 1]]], [1, 2]]]
    return {"3.3": boards, "3.4": small, "3.5": elections}


def _random(random: Random, height: int, width: int, top: int) -> Map:
    return [[random.randrange(top + 1) for _ in range(width)] for _ in range(height)]


def _spread(random: Random) -> Map:
    cells = _random(random, HEIGHT, WIDTH, 2)
    return [[value + random.randrange(2) for value in row] for row in cells]


def _concentrated(random: Random, mask: list[int]) -> Map:
    """A murmur, and a window full of evidence."""
    cells = _random(random, HEIGHT, WIDTH, 1)
    top, left = random.randrange(HEIGHT - mask[0] + 1), random.randrange(WIDTH - mask[1] + 1)
    for row in range(top, top + mask[0]):
        for column in range(left, left + mask[1]):
            cells[row][column] = random.randrange(5, TOP + 1)
    return cells


def _hill(random: Random) -> Map:
    """A murmur, and a hill with a summit of two or three cells."""
    cells = _random(random, HEIGHT, WIDTH, 1)
    row, column = random.randrange(1, HEIGHT - 1), random.randrange(1, WIDTH - 2)
    for i, j, height in ((0, 0, 5), (0, 1, 4), (1, 0, 3), (-1, 0, 2), (0, -1, 2)):
        cells[row + i][column + j] += height
    return cells


def _two_patches(random: Random) -> Map:
    """A murmur and two full windows of 2 by 2, apart."""
    cells = _random(random, HEIGHT, WIDTH, 1)
    for top, left in ((random.randrange(2), random.randrange(2)), (3, random.randrange(3, 5))):
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            cells[top + row][left + column] = random.randrange(6, TOP + 1)
    return cells


def _strip(random: Random) -> list[int]:
    return [random.randrange(6) for _ in range(9)]


def _windows(cells: Map, mask: list[int]) -> list[int]:
    """Evidence in every placement of the mask, row by row."""
    return [
        sum(sum(row[left : left + mask[1]]) for row in cells[top : top + mask[0]])
        for top in range(HEIGHT - mask[0] + 1)
        for left in range(WIDTH - mask[1] + 1)
    ]

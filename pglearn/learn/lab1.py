"""Lab 1, fields and windows: each student's network, stickers and smudged layer; how places are judged."""

from random import Random
from typing import Any

from pglearn.geometry import Axis, Layer, receptive_field, touched, window_size
from pglearn.learn.labs import Judge

__all__ = ["FILES", "JUDGES", "TITLE", "TOLERANCE", "data", "hidden"]

TITLE = "Fields and windows"
FILES: tuple[str, ...] = ()
TOLERANCE = 0.0

IMAGE = 64  # pixels along each axis


def data(seed: int) -> dict[str, Any]:
    """A network of total stride 4, stickers, layers of another network with one smudged, and a patch that
    reaches its last row of cells from one start in four only: the five places that somebody tried miss it.
    """
    random = Random(seed)
    corners: list[list[int]] = []
    while not corners:
        layers = _stack(random)
        axis = _axis(layers)
        corners = _corners(axis)
    # a patch of which Eq. 1 leaves a remainder of one: a mask of one cell less is too small at few places
    patch = random.choice([p for p in range(5, 14) if (p + axis.size - 1) % 4 == 1])
    mask = window_size(patch, axis.size, axis.stride) - 1
    safe = [at for at in range(8, 45) if _cells(axis.fields, at, patch) <= mask]
    top, left = random.sample(range(18, 42, 6), 2)
    smudged, others = random.randrange(1, 3), _stack(random)
    kernel = random.randrange(2, 9)
    others[smudged] = [kernel, random.randrange(1, 4), random.randrange(min(kernel, 5))]
    return {
        "picture": random.randrange(100),
        "weights": random.randrange(1000),
        "layers": layers,
        "sticker": [top, left, *random.sample(range(3, 13), 2)],
        "corner": random.choice(corners),
        "known": [None if i == smudged else layer for i, layer in enumerate(others)],
        "measured": _axis(others).fields[:3],
        "patch": patch,
        "mask": mask,
        "tried": [[random.choice(safe), random.choice(safe)] for _ in range(5)],
    }


def hidden(seed: int) -> dict[str, Any]:
    """Stickers of odd shapes on odd fields, and further stacks of layers."""
    random = Random(seed)
    stacks = [[layer[:2] for layer in _stack(random)] for _ in range(3)]
    stacks += [[[random.randrange(2, 7), 1], [1, 2], [random.randrange(2, 6), 3]], [[9, 4], [2, 1]]]
    return {"1.3": [_shape(random, kind) for kind in range(8)], "1.5": stacks}


def _corners(axis: Axis) -> list[list[int]]:
    """Sides of stickers that reach, in the image's corner, fewer rows than Eq. 1 allows, and another number
    of cells than pixels by stride.
    """
    sides = range(5, 13)
    reached = {p: _cells(axis.fields, IMAGE - p, p) for p in sides}
    fewer = [p for p in sides if reached[p] < window_size(p, axis.size, axis.stride)]
    by_stride = [{p: p // 4 for p in sides}, {p: -(-p // 4) for p in sides}]
    return [
        [p, q]
        for p in fewer
        for q in sides
        if all((reached[p], reached[q]) != (naive[p], naive[q]) for naive in by_stride)
    ]


def _stack(random: Random) -> list[list[int]]:
    """Layers [kernel, stride, padding] of total stride 4, the last one 1x1."""
    strides = random.choice([[2, 2, 1], [2, 1, 2], [1, 2, 2]])
    kernels = [random.choice([3, 4, 5, 6]), random.choice([3, 4, 5]), random.choice([2, 3, 4])]
    layers = [[k, s, random.randrange(k // 2 + 1)] for k, s in zip(kernels, strides, strict=True)]
    return [*layers, [1, 1, 0]]


def _axis(layers: list[list[int]]) -> Any:
    return receptive_field([Layer(*layer) for layer in layers], IMAGE)


def _cells(fields: Any, start: int, length: int) -> int:
    return sum(first < start + length and start < stop for first, stop in fields)


def _shape(random: Random, kind: int) -> list[Any]:
    """Fields of rows, fields of columns, and the pixels of a sticker that is no rectangle."""
    axes = []
    for _ in range(2):
        r, s, offset = random.randrange(2, 8), random.randrange(2, 6), -random.randrange(4)
        axes.append([[at, at + r] for at in range(offset, 28, s)])
    top, left, size = random.randrange(2, 12), random.randrange(2, 12), random.randrange(5, 12)
    if kind == 3:  # two dots whose cells leave rows and columns of the window untouched
        axes, size = [[[at, at + 4] for at in range(offset, 28, 4)] for offset in (-1, -2)], 13
    square = [(i, j) for i in range(size) for j in range(size)]
    kept = (
        lambda i, j: i == 0 or j == 0,  # an L
        lambda i, j: i == j,  # a diagonal
        lambda i, j: i in (0, size - 1) or j in (0, size - 1),  # a frame
        lambda i, j: (i, j) in ((0, 0), (size - 1, size - 1)),  # two dots
        lambda i, j: i + j < size,  # a triangle
        lambda i, j: (2 * i - size + 1) ** 2 + (2 * j - size + 1) ** 2 <= size**2,  # a disc
        lambda i, j: i == size // 2 or j == size // 2,  # a plus
        lambda i, j: i == j == 0,  # one pixel
    )[kind]
    return [*axes, [[top + i, left + j] for i, j in square if kept(i, j)]]


def _placement(told: Any, expected: Any, data: dict[str, Any], hidden: dict[str, Any]) -> str | None:
    """Any placement that the mask does not cover is right; the number of them is one."""
    try:
        (top, left), count = told
        places = all(type(at) is int and 0 <= at <= IMAGE - data["patch"] for at in (top, left))
    except (TypeError, ValueError):
        places = False
    if not places:
        return "the answer is a place (top, left) where the sticker is wholly inside the image, and a count"
    axis = _axis(data["layers"])
    reach = [stop - first for first, stop in (touched(axis, at, data["patch"]) for at in (top, left))]
    if max(reach) <= data["mask"]:
        return f"at ({top}, {left}) the sticker reaches {reach[0]}x{reach[1]} cells: the mask covers them"
    return None if count == expected[1] else "the place is right, the number of such places is not"


JUDGES: dict[str, Judge] = {"1.4": _placement}

"""Lab 2, train and look inside: each student's two classes, network and cuts, and maps to measure."""

from random import Random
from typing import Any

from pglearn.learn.labs import Judge

__all__ = ["FILES", "JUDGES", "TITLE", "TOLERANCE", "data", "hidden"]

TITLE = "Train and look inside"
FILES: tuple[str, ...] = ("shapes-bagnet-plain.safetensors", "shapes-bagnet.safetensors")
TOLERANCE = 2e-4
NEAR = 0.02
"""How near a median over pictures must come: networks compute in floating point."""


def data(seed: int) -> dict[str, Any]:
    """An outline and a texture to tell apart, the first kernel, and how a picture is cut into pieces."""
    random = Random(seed)
    return {
        "classes": [random.choice([0, 1, 4]), random.choice([6, 7, 8])],
        "seed": random.randrange(10_000),
        "kernel": random.choice([3, 4, 5]),
        "row_cuts": _cuts(random, 2),
        "column_cuts": _cuts(random, 3),
        "row_order": random.choice([[1, 2, 0], [2, 0, 1], [2, 1, 0]]),
        "column_order": random.choice([[2, 0, 3, 1], [1, 3, 0, 2], [3, 1, 2, 0], [2, 3, 0, 1]]),
    }


def hidden(seed: int) -> dict[str, Any]:
    """Seeds of small training runs; fields, objects and maps; evidence of few images, below 0 too."""
    random = Random(seed)
    cuts = [[_cuts(random, random.randrange(1, 4), step) for _ in "rc"] for step in (4, 1, 1, 1)]
    sizes = ((8, 4, -4), (7, 4, -3), (5, 2, -2), (4, 4, 0))
    cells = [[[at, at + size] for at in range(offset, 32, stride)] for size, stride, offset in sizes]
    looks = [_look(random, *sizes) for sizes in ((8, 8, 3, 2, -1), (9, 12, 4, 3, -2), (6, 10, 2, 3, 0))]
    batches = [_evidence(random, *shape) for shape in ((4, 3, 4, 5), (3, 2, 5, 4), (5, 4, 3, 3))]
    return {
        "2.1": [[fields, *each] for fields, each in zip(cells, cuts, strict=True)],
        "2.2": [random.randrange(1000) for _ in range(2)],
        "2.3": looks,
        "2.4": [
            [*batch, window, gap]
            for batch, window, gap in zip(batches, _WINDOWS, (1.0, 0.4, 3.0), strict=True)
        ],
        "2.5": [[*batch, window] for batch, window in zip(batches, _WINDOWS, strict=True)],
    }


_WINDOWS = [2, 3], [3, 1], [2, 2]  # height and width


def _cuts(random: Random, count: int, step: int = 4) -> list[int]:
    return [0, *sorted(random.sample(range(step, 32, step), count)), 32]


def _look(random: Random, height: int, width: int, size: int, stride: int, offset: int) -> list[Any]:
    """A map, the fields of its rows and columns (some hang over the border), and where the object is."""
    rows, columns = ([[at, at + size] for at in range(offset, side, stride)] for side in (height, width))
    top, left = random.randrange(3), random.randrange(3)
    if offset == -1:  # a cell whose field begins before the picture sees the object too
        top = left = 0
    region = [[int(top <= y < top + 3 and left <= x < left + 3) for x in range(width)] for y in range(height)]
    return [[[random.randrange(1, 9) for _ in columns] for _ in rows], rows, columns, region]


def _evidence(random: Random, count: int, classes: int, height: int, width: int) -> list[Any]:
    """Evidence (N, C, H, W) in thousandths, some of it below 0, and labels: every other one is far ahead."""

    def cell(top: int) -> float:  # not 0, where clips that are equally right have different gradients
        return (random.randrange(-500, top) or 1) / 1000

    labels = [random.randrange(classes) for _ in range(count)]
    tops = [
        [(9000, 1000)[n % 2] if c == label else 2000 for c in range(classes)]
        for n, label in enumerate(labels)
    ]
    maps = [[[[cell(top) for _ in range(width)] for _ in range(height)] for top in each] for each in tops]
    return [maps, labels]


def _measured(told: Any, expected: Any, data: dict[str, Any], hidden: dict[str, Any]) -> str | None:
    """Measures of given evidence are exact, medians over pictures need only be near, the verdict is right."""
    try:
        (small, medians, verdict), (right, near, truth) = told, expected
        exact = len(small) == len(right) and all(
            len(a) == len(b) and all(len(p) == 2 and _close(p, q, 1) for p, q in zip(a, b, strict=True))
            for a, b in zip(small, right, strict=True)
        )
        if not exact:
            return "profile is wrong for some image of the further cases"
        if len(medians) != len(near) or not all(map(_near, medians, near)):
            return "the medians of the two networks are not those of your pictures"
    except (TypeError, ValueError):
        return "what was told is no profile, medians and verdict"
    return None if verdict == truth else "the measures are right, the verdict does not follow from them"


def _close(told: Any, right: Any, tolerance: float) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(told, right, strict=True))


def _near(told: Any, right: Any) -> bool:
    return len(told) == len(right) and _close(told, right, NEAR)


JUDGES: dict[str, Judge] = {"2.5": _measured}

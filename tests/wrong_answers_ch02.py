"""Plausible mistakes in the exercises of chapter 2: exercise → name of the mistake → answer."""

from math import ceil
from typing import Any

from pglearn.geometry import Geometry, Layer, malicious_windows, receptive_field, resampled, window_size


def count(
    image: int, p: int, r: int, s: int, last: int = 1, edge: int = 0, border: bool = False
) -> dict[int, int]:
    """Placements by number of touched fields; the arguments by name put a mistake in."""
    starts = range(0, image if border else image - r + 1, s)
    found: dict[int, int] = {}
    for a in range(image - p + last):
        touched = sum(start < a + p + edge and a < start + r + edge for start in starts)
        found[touched] = found.get(touched, 0) + 1
    return found


def reached(native: int, size: int, start: int, p: int, reach: float) -> tuple[int, int]:
    """The resize's footprint by its formula for the middle of the image, cut at the borders."""
    k = size // native
    low, high = (start + 0.5 - reach) * k, (start + p - 0.5 + reach) * k
    return max(0, ceil(low - 0.5)), min(size, ceil(high - 0.5))


def uncut(native: int, size: int, start: int, p: int, reach: int) -> tuple[int, int]:
    k = size // native
    return ceil((start + 0.5 - reach) * k - 0.5), ceil((start + p - 0.5 + reach) * k - 0.5)


def safe(
    layers: list[Layer],
    native: int,
    size: int,
    height: int,
    width: int,
    mask: int,
    kind: str = "bicubic",
    whole: bool = False,
    side: str = "longer",
    quantifier: Any = all,
) -> bool:
    """The mask against the exact windows; the arguments by name put a mistake in."""
    axis = resampled(receptive_field(layers, size), native, kind)
    windows = malicious_windows(height, width, Geometry(axis, axis))
    sides = {
        "longer": lambda w: max(w.height, w.width),
        "height": lambda w: w.height,
        "width": lambda w: w.width,
    }
    return (whole or mask < axis.cells) and quantifier(sides[side](w) <= mask for w in windows)


def scaled(layers: list[Layer], native: int, size: int, height: int, width: int, mask: int) -> bool:
    axis = receptive_field(layers, size)
    p = ceil(max(height, width) * size / native)
    return mask < axis.cells and window_size(p, axis.size, axis.stride) <= mask


def native_only(layers: list[Layer], native: int, size: int, height: int, width: int, mask: int) -> bool:
    axis = receptive_field(layers, size)
    return mask < axis.cells and window_size(max(height, width), axis.size, axis.stride) <= mask


WRONG: dict[str, dict[str, Any]] = {
    "2.1": {
        "forgets the + 1": lambda n, r, s: max(0, n * s - r),
        "leaves negative sizes": lambda n, r, s: n * s - r + 1,
        "takes n steps between n fields": lambda n, r, s: max(0, (n - 1) * s + 1),
        "the best placement, not the worst": lambda n, r, s: max(0, (n + 1) * s - r),
        "at least one pixel is always safe": lambda n, r, s: max(1, n * s - r + 1),
    },
    "2.2": {
        "a published network": (32, 17, 8),
        "a field one more than the stride": (5, 5, 4),
        "just fits": (3, 2, 4),
        "beyond the range": (40, 26, 24),
        "not whole": (4.5, 2, 4),
        "only two numbers": (4, 2),
    },
    "2.3": {
        "forgets the last placement": lambda *a: count(*a, last=0),
        "lets the patch stick out": lambda *a: count(*a, last=2),
        "touching from beside counts": lambda *a: count(*a, edge=1),
        "fields may stick out": lambda *a: count(*a, border=True),
        "leaves out the placements in gaps": lambda *a: {k: v for k, v in count(*a).items() if k},
        "only the largest count": lambda *a: max(count(*a)),
        "Eq. 1 everywhere": lambda image, p, r, s: {window_size(p, r, s): image - p + 1},
    },
    "2.4": {
        "multiplies by the factor": lambda native, size, start, p, reach: (
            start * size // native,
            (start + p) * size // native,
        ),
        "measures from the pixels' edges": lambda n, size, a, p, reach: reached(n, size, a, p, reach + 0.5),
        "always bicubic": lambda n, size, a, p, reach: reached(n, size, a, p, 2),
        "always bilinear": lambda n, size, a, p, reach: reached(n, size, a, p, 1),
        "the last pixel, not the one after": lambda *a: (reached(*a)[0], reached(*a)[1] - 1),
        "runs over the border": uncut,
    },
    "2.5": {
        "scales the patch and stops there": scaled,
        "forgets the resize": native_only,
        "bilinear footprint": lambda *a: safe(*a, kind="bilinear"),
        "masks the whole map": lambda *a: safe(*a, whole=True),
        "looks at the height only": lambda *a: safe(*a, side="height"),
        "looks at the width only": lambda *a: safe(*a, side="width"),
        "one window is enough": lambda *a: safe(*a, quantifier=any),
        "never safe": lambda *a: False,
    },
}

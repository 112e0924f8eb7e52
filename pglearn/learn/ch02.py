"""Checks of chapter 2."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from pglearn import geometry
from pglearn.geometry import Geometry, Layer
from pglearn.learn import Wrong, called, compare, exercise

__all__: list[str] = []


@exercise("2.1", stars=1, minutes=5)
def largest_safe_patch(answer: Callable[[int, int, int], int]) -> None:
    def reference(n: int, r: int, s: int) -> int:
        return max(0, geometry.largest_patch(n, r, s))

    cases = [(n, r, s) for n in range(1, 9) for r in (1, 2, 3, 9, 17, 33) for s in (1, 2, 4, 8)]
    compare(answer, reference, [case for case in cases if reference(*case) > 0])
    if answer(1, 17, 8) < 0:
        call = called(answer, (1, 17, 8))
        raise Wrong(f"{call}: a patch cannot have {answer(1, 17, 8)} pixels; say 0 where none is safe")
    compare(answer, reference, [*cases, (0, 1, 1), (0, 3, 4)])


@exercise("2.2", stars=2, minutes=10)
def counterexample(answer: Sequence[int]) -> None:
    if not isinstance(answer, (tuple, list)) or len(answer) != 3:
        raise Wrong("expected three numbers, (p, r, s)")
    if not all(type(value) is int and 1 <= value <= 20 for value in answer):
        raise Wrong(f"p, r and s are whole numbers from 1 to 20; yours are {tuple(answer)!r:.60}")
    p, r, s = answer
    says = -(-p // s) - (-r // s) - 1
    axis = geometry.receptive_field([Layer(r, s)], image=2 * p + 4 * r + 4 * s)
    spans = (geometry.touched(axis, start, p) for start in range(axis.image - p + 1))
    most = max(stop - first for first, stop in spans)
    if most == says:
        raise Wrong(f"for p={p}, r={r}, s={s} the formula says {says}, and {most} is right")


@exercise("2.3", stars=2, minutes=15)
def placements(answer: Callable[[int, int, int, int], dict[int, int]]) -> None:
    def reference(image: int, p: int, r: int, s: int) -> dict[int, int]:
        axis, found = geometry.receptive_field([Layer(r, s)], image), dict[int, int]()
        for start in range(image - p + 1):
            first, stop = geometry.touched(axis, start, p)
            found[stop - first] = found.get(stop - first, 0) + 1
        return found

    cases = [(20, 4, 5, 3), (15, 1, 3, 4), (16, 2, 2, 7), (20, 20, 5, 3), (30, 7, 17, 8), (9, 3, 9, 2)]
    cases += [
        (image, p, r, s) for image in (11, 14) for p in (1, 2, 6) for r in (1, 3, 4) for s in (1, 2, 3, 5)
    ]
    compare(answer, reference, cases)


@exercise("2.4", stars=3, minutes=20)
def footprint(answer: Callable[[int, int, int, int, int], tuple[int, int]]) -> None:
    def reference(native: int, size: int, start: int, p: int, reach: int) -> tuple[int, int]:
        patch = torch.zeros(1, 1, 1, native, dtype=torch.float64)
        patch[..., start : start + p] = 1
        kind = {1: "bilinear", 2: "bicubic"}[reach]
        enlarged = F.interpolate(patch, size=(1, size), mode=kind, align_corners=False)
        hit = (enlarged.flatten().abs() > 1e-9).nonzero().flatten().tolist()
        return hit[0], hit[-1] + 1

    cases = [(32, 192, 14, 5, 2), (32, 192, 14, 5, 1)]
    cases += [
        (native, native * factor, start, p, reach)
        for native in (9, 12)
        for factor in (2, 3, 4, 7)
        for start, p in ((4, 1), (3, 4), (0, 2), (1, 1), (native - 3, 3), (0, native))
        for reach in (1, 2)
    ]
    compare(answer, reference, cases)


@exercise("2.5", stars=2, minutes=15)
def is_safe(answer: Callable[[list[Layer], int, int, int, int, int], bool]) -> None:
    def needed(layers: list[Layer], native: int, size: int, height: int, width: int) -> tuple[int, int]:
        axis = geometry.resampled(geometry.receptive_field(layers, size), native, "bicubic")
        windows = geometry.malicious_windows(height, width, Geometry(axis, axis))
        return max(max(w.height, w.width) for w in windows), axis.cells

    def reference(layers: list[Layer], native: int, size: int, height: int, width: int, mask: int) -> bool:
        least, cells = needed(layers, native, size, height, width)
        return least <= mask < cells

    bagnet17 = [Layer(17, 8)]  # the same fields as the whole network's
    compare(answer, reference, [(bagnet17, 32, 192, 5, 5, 9), (bagnet17, 32, 192, 5, 5, 4)])
    if answer(bagnet17, 32, 192, 5, 5, 6) is True:
        raise Wrong(
            "a mask of 6 is too small for 5 x 5 native pixels: bicubic spreads them over 48 of the 192 "
            "enlarged ones, and these meet 8 features"
        )
    if answer(bagnet17, 32, 192, 32, 32, 22) is True:
        raise Wrong("a mask of 22 x 22 is the whole map of 22 x 22 features: nothing is left to certify")
    if answer(bagnet17, 32, 192, 2, 9, 8) is True:
        raise Wrong("a patch of 2 x 9 native pixels touches more than 8 features along its longer side")
    padded = [Layer(4, 2, 1), Layer(3, 2, 1)]
    cases = [
        (layers, native, size, height, width)
        for layers, native, size in ((bagnet17, 32, 192), (bagnet17, 112, 224), (padded, 20, 64))
        for height, width in ((1, 1), (5, 5), (2, 9), (9, 2), (20, 16))
    ]
    compare(
        answer,
        reference,
        [(*case, mask) for case in cases for mask in (needed(*case)[0] - 1, *needed(*case), 60)],
    )

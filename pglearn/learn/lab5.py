"""Lab 5, break a false proof: five certificates that certify too much, and judges of counterexamples.

Class 0 is the true one throughout. The certificates are wrong on purpose, each in a way in which published
code has been wrong; what a defense really says is asked of the library.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import torch

from pglearn.defenses import WindowMask
from pglearn.geometry import Axis, touched
from pglearn.learn.labs import Judge, is_evidence

__all__ = [
    "FILES",
    "JUDGES",
    "TITLE",
    "TOLERANCE",
    "claim_1",
    "claim_2",
    "claim_3",
    "claim_4",
    "claim_5",
    "data",
    "fill",
    "hidden",
    "placements",
    "scaled",
    "score",
    "why_not",
]

TITLE = "Break a false proof"
FILES = ()
TOLERANCE = 0.0

Map = list[list[int]]
Window = tuple[int, int, int, int]


def placements(height: int, width: int, rows: int, columns: int) -> list[Window]:
    return [(i, j, height, width) for i in range(rows - height + 1) for j in range(columns - width + 1)]


def fill(m: Map, window: Window, value: int) -> Map:
    """A copy of the map with one value in every cell of the window."""
    i, j, h, w = window
    return [row[:j] + [value] * w + row[j + w :] if i <= a < i + h else list(row) for a, row in enumerate(m)]


def score(m: Map, height: int, width: int, threshold: str = "0") -> int:
    """Robust masking, by the library: the heaviest mask falls if it holds more than the share `threshold`."""
    return int(WindowMask(height, width, threshold).scores(torch.tensor(m)[None, None]))


def claim_1(image: list[Map], patch: int, stride: int, top: int) -> bool:
    """Strips of cells, one every `stride` pixels, and a patch of `patch` pixels. T = 0."""
    n = -(-patch // stride)  # so many cells lie under the patch
    for window in placements(1, n, 1, len(image[0][0])):
        least = score(fill(image[0], window, 0), 1, n)
        for rival in image[1:]:
            if score(fill(rival, window, top), 1, n) >= least:
                return False
    return True


def claim_2(image: list[Map], h: int, w: int, top: int) -> bool:
    """Windows and mask of h x w cells. T = 0."""
    rows, columns = len(image[0]), len(image[0][0])
    for i in range(rows - h):
        for j in range(columns - w):
            least = score(fill(image[0], (i, j, h, w), 0), h, w)
            for rival in image[1:]:
                if score(fill(rival, (i, j, h, w), top), h, w) >= least:
                    return False
    return True


def claim_3(image: list[Map], h: int, w: int) -> bool:
    """Windows and mask of h x w cells. T = 0."""
    for window in placements(h, w, len(image[0]), len(image[0][0])):
        least = score(fill(image[0], window, 0), h, w)
        for rival in image[1:]:
            if score(fill(rival, window, 0), h, w) >= least:
                return False
    return True


def claim_4(image: list[Map], h: int, w: int, threshold: str, top: int) -> bool:
    """Windows and mask of h x w cells. T > 0."""
    for window in placements(h, w, len(image[0]), len(image[0][0])):
        least = score(fill(image[0], window, 0), h, w, threshold)
        for rival in image[1:]:
            if score(fill(rival, window, top), h, w, threshold) >= least:
                return False
    return True


def scaled(m: Map) -> Map:
    """The map in whole numbers from 0 to 9: divided by its largest cell."""
    largest = max(1, *(max(row) for row in m))
    return [[9 * x // largest for x in row] for row in m]


def claim_5(image: list[Map], h: int, w: int) -> bool:
    """No mask: a class scores the sum of its scaled map. Windows of h x w cells."""
    for window in placements(h, w, len(image[0]), len(image[0][0])):
        least = sum(map(sum, fill(scaled(image[0]), window, 0)))
        for rival in image[1:]:
            if sum(map(sum, fill(scaled(rival), window, 9))) >= least:
                return False
    return True


def data(seed: int) -> dict[str, Any]:
    """For each task the label's map, what patch and defense are, and the largest value of a cell."""
    rng = random.Random(seed)
    makers = (_pixels, _border, _decoy, _threshold, _scale)
    return {f"5.{i}": _search(maker, rng) for i, maker in enumerate(makers, 1)}


def hidden(seed: int) -> dict[str, Any]:
    """Nothing further: an answer is one counterexample."""
    return {}


def _search(maker: Callable[[random.Random], dict[str, Any] | None], rng: random.Random) -> dict[str, Any]:
    while (case := maker(rng)) is None:
        pass
    return case


def _least(m: Map, h: int, w: int, threshold: str = "0") -> dict[Window, int]:
    return {v: score(fill(m, v, 0), h, w, threshold) for v in placements(h, w, len(m), len(m[0]))}


def _pixels(rng: random.Random) -> dict[str, Any] | None:
    stride, patch, field = rng.choice((2, 3, 4)), rng.randint(3, 6), rng.randint(5, 8)
    m = [[rng.randint(2, 9) for _ in range(9)]]
    n, real, top = -(-patch // stride), -(-(patch + field - 1) // stride), rng.randint(10, 14)
    if not n < real < 6 or min(_least(m, 1, n).values()) < 1:
        return None
    left = min(score(fill(m, (0, j, 1, real), 0), 1, n) for j in range(1, 9 - real))
    if left > (real - n) * top:
        return None
    return {
        "label": m,
        "patch": patch,
        "stride": stride,
        "field": field,
        "pixels": 8 * stride + field,
        "top": top,
    }


def _border(rng: random.Random) -> dict[str, Any] | None:
    h, w = rng.choice(((2, 2), (2, 1), (1, 2), (2, 3)))
    m = [[rng.randint(0, 5) for _ in range(6)] for _ in range(5)]
    least = _least(m, h, w)
    missed = [x for (i, j, _, _), x in least.items() if i == 5 - h or j == 6 - w]
    checked = [x for (i, j, _, _), x in least.items() if i < 5 - h and j < 6 - w]
    return {"label": m, "h": h, "w": w, "top": 9} if 0 < min(missed) < min(checked) else None


def _decoy(rng: random.Random) -> dict[str, Any] | None:
    h, w, top = *rng.choice(((2, 2), (2, 3), (3, 2))), rng.randint(9, 15)
    m = [[rng.choice((0, 0, rng.randint(1, 4))) for _ in range(7)] for _ in range(5)]
    return (
        {"label": m, "h": h, "w": w, "top": top} if 0 < min(_least(m, h, w).values()) < h * w * top else None
    )


def _threshold(rng: random.Random) -> dict[str, Any] | None:
    h, w, threshold = *rng.choice(((2, 2), (2, 3), (3, 2))), rng.choice(("0.35", "0.4", "0.45"))
    m = [[rng.choice((1, 1, 2)) for _ in range(6)] for _ in range(6)]
    i, j = rng.randint(1, 3), rng.randint(1, 3)
    for a, b in ((i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1)):
        m[a][b] = rng.randint(4, 6)
    lures = [
        score(fill(fill(m, v, 0), (a, b, 1, 1), 60), h, w, threshold)
        for v in placements(h, w, 6, 6)
        for a in range(v[0], v[0] + h)
        for b in range(v[1], v[1] + w)
    ]
    if min(lures) + 2 > min(_least(m, h, w, threshold).values()):
        return None
    return {"label": m, "h": h, "w": w, "threshold": threshold, "top": 60}


def _scale(rng: random.Random) -> dict[str, Any] | None:
    h, w = rng.choice(((2, 2), (2, 1), (1, 2), (1, 3)))
    m = [[rng.randint(20, 80) for _ in range(5)] for _ in range(5)]
    least = min(sum(map(sum, fill(scaled(m), v, 0))) for v in placements(h, w, 5, 5))
    return {"label": m, "h": h, "w": w, "top": 99} if least > 9 * h * w + 20 else None


def why_not(task: str, answer: Any, data: dict[str, Any]) -> str | None:
    """Why the answer to a task does not break its certificate; None where it does."""
    case, (claim, step, real) = data[task], _TASKS[task]
    if not isinstance(answer, dict) or not {"before", "after"} <= answer.keys():
        return 'an answer is a dictionary with "before" and "after"'
    before, after = answer["before"], answer["after"]
    rows, columns = len(case["label"]), len(case["label"][0])
    for name, image in (("before", before), ("after", after)):
        if not is_evidence(image, 2, rows, columns, case["top"]):
            return f'"{name}" should be two maps of {rows} x {columns} integers from 0 to {case["top"]}'
    if before[0] != case["label"]:
        return 'the first map of "before" is not the map of class 0 that you were given'
    takes = inspect.signature(claim).parameters
    if not claim(before, **{name: case[name] for name in takes if name in case}):
        return (
            'the certificate under test does not certify "before": nothing is claimed, so nothing is broken'
        )
    changed = [
        (a, b)
        for m, n in zip(before, after, strict=True)
        for a in range(rows)
        for b in range(columns)
        if m[a][b] != n[a][b]
    ]
    if not changed:
        return '"after" is "before": there is no attack'
    if why := _within(changed, answer, case):
        return why
    kept, reached = (real(m, case) for m in after)
    if reached < kept:
        return f"under your attack class 1 scores {reached}, and class 0 still {kept}"
    if step and answer.get("step") != step:
        wrong = str(answer.get("step"))
        return f"the claim is broken, but not in step {wrong:.9}: follow your counterexample through it"
    return None


def _within(changed: list[tuple[int, int]], answer: dict[str, Any], case: dict[str, Any]) -> str | None:
    """Why no single patch changes these cells; None where one does."""
    if "patch" not in case:
        rows, columns = (sorted(axis) for axis in zip(*changed, strict=True))
        if rows[-1] - rows[0] >= case["h"] or columns[-1] - columns[0] >= case["w"]:
            return f"the attack changes cells {changed}: no window of {case['h']} x {case['w']} holds them"
        return None
    start, last = answer.get("start"), case["pixels"] - case["patch"]
    if type(start) is not int or not 0 <= start <= last:
        return f'"start", the first pixel under the patch, should be an integer from 0 to {last}'
    cells = range(len(case["label"][0]))
    fields = tuple((i * case["stride"], i * case["stride"] + case["field"]) for i in cells)
    first, stop = touched(Axis(case["pixels"], fields), start, case["patch"])
    if any(not first <= b < stop for _, b in changed):
        return (
            f"a patch from pixel {start} on touches cells {first} to {stop - 1}; your attack changes others"
        )
    return None


def _strip_score(m: Map, case: dict[str, Any]) -> int:
    return score(m, 1, -(-case["patch"] // case["stride"]))


def _masked_score(m: Map, case: dict[str, Any]) -> int:
    return score(m, case["h"], case["w"], case.get("threshold", "0"))


def _scaled_sum(m: Map, case: dict[str, Any]) -> int:
    return sum(map(sum, scaled(m)))


_TASKS: dict[str, tuple[Callable[..., bool], int, Callable[[Map, dict[str, Any]], int]]] = {
    "5.1": (claim_1, 0, _strip_score),
    "5.2": (claim_2, 0, _masked_score),
    "5.3": (claim_3, 4, _masked_score),
    "5.4": (claim_4, 2, _masked_score),
    "5.5": (claim_5, 1, _scaled_sum),
}
"""Certificate under test, the step of its proof that fails (0: there is only code), the defense's score."""


def _judge(task: str) -> Judge:
    return lambda told, expected, data, hidden: why_not(task, told, data)


JUDGES: dict[str, Judge] = {task: _judge(task) for task in _TASKS}

"""Lab 4, prove it: the data of each student, and judges of the answers that are not unique."""

from __future__ import annotations

import random
from typing import Any

import torch

from pglearn.certify import certify_units, threat
from pglearn.defenses import Logits, WindowMask
from pglearn.evidence import Evidence
from pglearn.geometry import Windows, all_windows
from pglearn.learn.labs import Judge, is_evidence, lab_file

__all__ = ["FILES", "JUDGES", "TITLE", "TOLERANCE", "data", "hidden"]

TITLE = "Prove it"
FILES = ("shapes-bagnet-bank.safetensors",)
TOLERANCE = 0.0
SHAPES = ((1, 3), (2, 3), (1, 2), (1, 4))
THRESHOLDS = ("0.3", "0.35", "0.4", "0.45")
PATCHES = (5, 7, 9, 11, 13)

Map = list[list[int]]


def data(seed: int) -> dict[str, Any]:
    """One image, not certified, the patch that may lie or stand, a threshold, and somebody's claim."""
    rng = random.Random(seed)
    shape = rng.choice(SHAPES)
    top = rng.randint(30, 60)
    while True:
        image, label = _image(rng, top)
        if not _certified(image, label, shape, top) and _clean(image, label, max(shape)):
            break
    return {
        "image": image,
        "label": label,
        "shape": list(shape),
        "top": top,
        "threshold": rng.choice(THRESHOLDS),
        "claim": _claim(rng),
    }


def hidden(seed: int) -> dict[str, Any]:
    """Further cases of every task, as lists of arguments."""
    rng = random.Random(seed)
    bounds, images, lowers = [], [], []
    for shape in SHAPES:
        for _ in range(4):
            top = rng.choice((2, 9, 40))  # a low ceiling, where the heaviest mask need not cover the window
            m = _map(rng, 6, 7, 9)
            bounds.append([m, _place(rng, rng.choice((shape, shape[::-1])), 6, 7), max(shape), top])
        for certified in (True, False, True, False):
            while True:
                top = rng.randint(20, 60)
                image, label = _image(rng, top)
                if _certified(image, label, shape, top) == certified and _clean(image, label, max(shape)):
                    break
            images.append([image, label, _windows(shape), max(shape), top])
    for shape, top in (((1, 3), 20), ((2, 2), 9), ((1, 2), 60), ((3, 1), 20)):
        for threshold in THRESHOLDS:
            m = _map(rng, 5, 6, 9 if rng.random() < 0.7 else 3)
            lowers.append([m, _place(rng, shape, 5, 6), max(shape), threshold, top])
    return {
        "4.1": bounds,
        "4.2": images,
        "4.3": images,
        "4.4": lowers,
        "4.5": [_claim(rng) for _ in range(2)],
    }


def _map(rng: random.Random, rows: int, columns: int, most: int) -> Map:
    return [[rng.choice((0, rng.randint(0, most))) for _ in range(columns)] for _ in range(rows)]


def _image(rng: random.Random, top: int) -> tuple[list[Map], int]:
    """Four maps of 6 x 6 cells: a broad label, rivals with scatter, most of them with a bright spot."""
    label, boost = rng.randrange(4), rng.randint(1, 8)
    image = []
    for c in range(4):
        m = [[rng.choice((0, 0, rng.randint(0, 4))) for _ in range(6)] for _ in range(6)]
        if c == label:
            m = [[x + rng.randint(0, boost) for x in row] for row in m]
        elif rng.random() < 0.7:
            i, j = rng.randrange(5), rng.randrange(5)
            for a, b in ((i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1)):
                m[a][b] = rng.randint(top // 5, top // 3)
        image.append(m)
    return image, label


def _place(
    rng: random.Random, shape: tuple[int, int], rows: int, columns: int, turn: bool = True
) -> list[int]:
    h, w = shape[::-1] if turn and rng.random() < 0.5 else shape
    return [rng.randint(0, rows - h), rng.randint(0, columns - w), h, w]


def _windows(shape: tuple[int, int]) -> list[list[int]]:
    """All places of the patch on 6 x 6 cells, lying and standing: (top, left, height, width)."""
    return [[i, j, h, w] for h, w in (shape, shape[::-1]) for i in range(7 - h) for j in range(7 - w)]


def _both(shape: tuple[int, int]) -> list[Windows]:
    return [all_windows(h, w, 6, 6) for h, w in (shape, shape[::-1])]


def _certified(image: list[Map], label: int, shape: tuple[int, int], top: int) -> bool:
    mask, truth = WindowMask(max(shape), max(shape)), torch.tensor([label])
    return bool(certify_units(torch.tensor([image]), truth, mask, _both(shape), top).certified)


def _clean(image: list[Map], label: int, mask: int) -> bool:
    return bool(WindowMask(mask, mask).outcome(torch.tensor([image]), torch.tensor([label]))[1])


def _claim(rng: random.Random) -> dict[str, Any]:
    """Margins of images of the bank, as somebody reports them: most are right, a third are not."""
    bank = Evidence.load(lab_file(FILES[0]))
    assert bank.step is not None
    assert bank.clip_high is not None
    assert bank.labels is not None
    side, images = rng.choice(PATCHES), sorted(rng.sample(range(len(bank.maps)), 24))
    windows, logits = threat(bank, patch=[(side, side)]), Logits(bank.step, bank.clip_high)
    mask = WindowMask.against(windows)
    found = certify_units(logits(bank.maps[images]), bank.labels[images], mask, windows, logits.top)
    margins = found.margin_units.tolist()
    for at in rng.sample(range(24), 8):
        margins[at] += rng.choice((1, rng.randint(2, 4000), 1 + abs(margins[at]), -1, -rng.randint(2, 4000)))
    return {"patch": [side, side], "images": images, "margins": margins}


def _judge_attacks(told: Any, expected: Any, data: dict[str, Any], hidden: dict[str, Any]) -> str | None:
    """For every image an attack that wins, or None where the library certifies it."""
    cases = hidden["4.3"]
    if not isinstance(told, list) or len(told) != len(cases):
        return f"expected a list of {len(cases)} answers"
    return next(filter(None, map(_judge_attack, told, cases)), None)


def _judge_attack(found: Any, case: Any) -> str | None:
    image, label, windows, mask, top = case
    shape = windows[0][2], windows[0][3]
    certified = _certified(image, label, shape, top)
    if found is None:
        return None if certified else "you found no attack on an image that has one"
    if certified:
        return "you attack an image that is certified: no content of any window wins"
    if not is_evidence(found, 4, 6, 6, top):
        return f"an attack should be four maps of 6 x 6 integers from 0 to {top}"
    before, after = torch.tensor(image), torch.tensor(found)
    rows, columns = ((before != after).any(0).any(k).nonzero().flatten().tolist() for k in (1, 0))
    if rows and not any(
        i <= rows[0] and rows[-1] < i + h and j <= columns[0] and columns[-1] < j + w
        for i, j, h, w in windows
    ):
        return "an attack changes cells that no single window holds"
    scores = WindowMask(mask, mask).scores(after[None])[0].tolist()
    if max(score for c, score in enumerate(scores) if c != label) < scores[label]:
        return f"an attack does not win: it leaves scores {scores}, and class {label} ahead"
    return None


def _judge_lowers(told: Any, expected: Any, data: dict[str, Any], hidden: dict[str, Any]) -> str | None:
    """Each bound sound against every content, and no weaker than the lemma."""
    cases = hidden["4.4"]
    if not isinstance(told, list) or len(told) != len(cases) or not all(type(x) is int for x in told):
        return f"expected a list of {len(cases)} integers"
    for bound, (m, (i, j, h, w), mask, threshold, top) in zip(told, cases, strict=True):
        defense, units = WindowMask(mask, mask, threshold), torch.tensor(m)[None, None]
        inside = torch.zeros(len(m), len(m[0]), dtype=torch.bool)
        inside[i : i + h, j : j + w] = True
        contents = torch.cartesian_prod(*[torch.arange(top + 1)] * (h * w)).view(-1, h * w)
        copies = units.repeat(len(contents), 1, 1, 1)
        copies[:, 0, inside] = contents
        least, lemma = int(defense.scores(copies).min()), int(defense.bounds(units, top, inside)[0])
        case = f"at T = {threshold}, mask {mask}x{mask}, window {(i, j, h, w)} of {m}"
        if bound > least:
            return f"{case}: you promise {bound}, but some content leaves {least}"
        if bound < lemma:
            return f"{case}: you promise {bound}, the lemma of chapter 5 promises {lemma}"
    return None


JUDGES: dict[str, Judge] = {"4.3": _judge_attacks, "4.4": _judge_lowers}

"""Wrong answers to the exercises of chapter 3; each must fail, with a reason."""

from typing import Any

import torch

from pglearn.defenses import box_sums
from pglearn.geometry import receptive_field, window_size


def _everybody_loses(evidence: Any, labels: Any, height: int, width: int) -> Any:
    return evidence.sum((2, 3)) - box_sums(evidence, height, width).flatten(2).amax(2)


def _only_rivals_lose(evidence: Any, labels: Any, height: int, width: int) -> Any:
    own = torch.nn.functional.one_hot(labels, evidence.shape[1]).bool()
    return evidence.sum((2, 3)) - box_sums(evidence, height, width).flatten(2).amax(2) * ~own


def _erases(evidence: Any, labels: Any, height: int, width: int) -> Any:
    for maps, label in zip(evidence, labels, strict=True):
        heaviest = box_sums(maps[label], height, width)
        i, j = divmod(int(heaviest.argmax()), heaviest.shape[1])
        maps[label, i : i + height, j : j + width] = 0
    return evidence.sum((2, 3))


def _square_windows(evidence: Any, labels: Any, height: int, width: int) -> Any:
    rows, sums = torch.arange(len(labels)), evidence.sum((2, 3))
    side = min(height, width)
    sums[rows, labels] -= box_sums(evidence[rows, labels], side, side).flatten(1).amax(1)
    return sums


def _heaviest_cell(evidence: Any, labels: Any, height: int, width: int) -> Any:
    rows, sums = torch.arange(len(labels)), evidence.sum((2, 3))
    sums[rows, labels] -= height * width * evidence[rows, labels].flatten(1).amax(1)
    return sums


def _by_equation_1(layers: Any, image: int, patch: int) -> float:
    axis = receptive_field(layers, image)
    return float((window_size(patch, axis.size, axis.stride) / axis.cells) ** 2)


def _cut_to_the_map(layers: Any, image: int, patch: int) -> float:
    axis = receptive_field(layers, image)
    return float((min(axis.cells, window_size(patch, axis.size, axis.stride)) / axis.cells) ** 2)


def _one_axis(layers: Any, image: int, patch: int) -> float:
    axis = receptive_field(layers, image)
    spans = (range(image - patch + 1), axis.fields)
    return max(sum(a < s + patch and b > s for a, b in spans[1]) for s in spans[0]) / axis.cells


def _in_the_corner(layers: Any, image: int, patch: int) -> float:
    axis = receptive_field(layers, image)
    return float((sum(a < patch for a, _ in axis.fields) / axis.cells) ** 2)


WRONG: dict[str, dict[str, Any]] = {
    "3.1": {
        "does not clip": lambda e: e.mean((2, 3)).argmax(1),
        "clips the mean, not the cells": lambda e: e.mean((2, 3)).clamp(min=0).argmax(1),
        "clips the evidence it was given": lambda e: e.clamp_(min=0).mean((2, 3)).argmax(1),
        "mean of the positive cells": lambda e: (
            e.clamp(min=0).sum((2, 3)) / (e > 0).sum((2, 3)).clamp(min=1)
        ).argmax(1),
        "takes the largest cell": lambda e: e.clamp(min=0).amax((2, 3)).argmax(1),
        "the highest class of several": lambda e: (
            e.shape[1] - 1 - e.clamp(min=0).sum((2, 3)).flip(1).argmax(1)
        ),
    },
    "3.2": {
        "every class loses its window": _everybody_loses,
        "the rivals lose, the label does not": _only_rivals_lose,
        "square windows only": _square_windows,
        "erases in the evidence it was given": _erases,
        "the heaviest cell times the window": _heaviest_cell,
    },
    "3.3": {
        "divides by the largest cell": lambda m, h, w: (
            float(box_sums(m, h, w).max()) / max(1e-9, float(m.max()))
        ),
        "dodges the empty map with a clamp": lambda m, h, w: float(
            box_sums(m, h, w).max() / m.sum().clamp(min=1)
        ),
        "transposed window": lambda m, h, w: float(box_sums(m.T, h, w).max()) / max(1e-9, float(m.sum())),
        "not a number on an empty map": lambda m, h, w: float(box_sums(m, h, w).max() / m.sum()),
        "share of the mean window": lambda m, h, w: (
            float(box_sums(m, h, w).mean()) / max(1e-9, float(m.sum()))
        ),
    },
    "3.4": {
        "Eq. 1, whatever the border": _by_equation_1,
        "Eq. 1, cut to the map": _cut_to_the_map,
        "along one axis": _one_axis,
        "the patch in the corner": _in_the_corner,
        "pixels instead of cells": lambda layers, image, patch: (patch / image) ** 2,
    },
}

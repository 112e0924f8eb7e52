"""Checks of chapter 3."""

from collections.abc import Callable

import torch
from torch import Tensor

from pglearn.defenses import box_sums
from pglearn.geometry import Layer, receptive_field, touched
from pglearn.learn import Wrong, compare, exercise

__all__: list[str] = []


def _evidence(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-6, 10, shape, generator=generator).double()


@exercise("3.1", stars=1, minutes=5)
def undefended(answer: Callable[[Tensor], Tensor]) -> None:
    tied = torch.tensor([1.0, 3.0, 3.0])[None, :, None, None].expand(1, 3, 2, 2)
    shouting = torch.tensor([[[[2.0, 2.0]], [[9.0, -9.0]]]])
    cases = [(shouting,), (tied,), *((_evidence(seed, 5, 4, 3, 2),) for seed in range(8))]
    compare(answer, lambda e: e.clamp(min=0).sum((2, 3)).argmax(1), cases)


@exercise("3.2", stars=2, minutes=15)
def masked_sums(answer: Callable[[Tensor, Tensor, int, int], Tensor]) -> None:
    def reference(evidence: Tensor, labels: Tensor, height: int, width: int) -> Tensor:
        own = torch.nn.functional.one_hot(labels, evidence.shape[1]).bool()
        heaviest = box_sums(evidence, height, width).flatten(2).amax(2)
        return evidence.sum((2, 3)) - heaviest * own

    cases = []
    for seed, (height, width) in enumerate(((1, 1), (2, 2), (1, 3), (3, 1), (4, 5), (2, 3))):
        labels = torch.tensor([seed % 3, 1, 2, 0])
        cases.append((_evidence(seed, 4, 3, 4, 5).clamp(min=0), labels, height, width))
    compare(answer, reference, cases, tolerance=1e-9)


@exercise("3.3", stars=2, minutes=10)
def share(answer: Callable[[Tensor, int, int], float]) -> None:
    def reference(evidence_map: Tensor, height: int, width: int) -> float:
        total = float(evidence_map.sum())
        return float(box_sums(evidence_map, height, width).max()) / total if total else 0.0

    maps = [torch.eye(4, dtype=torch.float64), *(_evidence(seed, 4, 6).clamp(min=0) for seed in range(3))]
    maps += [
        torch.zeros(3, 3, dtype=torch.float64),
        torch.tensor([[0.2, 0.1, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.3]]),
    ]
    windows = ((1, 1), (2, 2), (1, 3), (3, 2))
    compare(answer, reference, [(m, h, w) for m in maps for h, w in windows], tolerance=1e-6)


@exercise("3.4", stars=3, minutes=20)
def exposed(answer: Callable[[list[Layer], int, int], float]) -> None:
    def reference(layers: list[Layer], image: int, patch: int) -> float:
        axis = receptive_field(layers, image)
        spans = [touched(axis, start, patch) for start in range(image - patch + 1)]
        return (max(stop - first for first, stop in spans) / axis.cells) ** 2

    designs = [
        [Layer(3, 2), Layer(4, 2)],
        [Layer(4, 2, 1), Layer(3, 2, 1)],
        [Layer(9, 8)],
        [Layer(3, 4)],
        [Layer(3, 1, 1), Layer(3, 1, 1)],
        [Layer(2, 1, 2), Layer(1, 2)],
    ]
    cases = [
        (layers, image, patch)
        for layers in designs
        for image, patch in ((32, 5), (64, 9), (20, 12), (12, 12))
    ]
    compare(answer, reference, cases, tolerance=1e-6)
    if answer([Layer(3)], 8, 8) != 1:
        raise Wrong("a patch as large as the image reaches every cell, so the share is 1")

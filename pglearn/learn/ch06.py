"""Checks of chapter 6."""

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pglearn.certify import certify_units
from pglearn.defenses import WindowMask, box_sums
from pglearn.geometry import all_windows
from pglearn.learn import Wrong, compare, exercise, same
from pglearn.training import masked

__all__: list[str] = []


@exercise("6.1", stars=1, minutes=10)
def what_it_proves(answer: Callable[[float, int], str]) -> None:
    def reference(loss: float, classes: int) -> str:
        sure, lost = loss < math.log(2), loss >= math.log(classes)
        return {(True, False): "certified", (False, True): "not certified"}.get((sure, lost), "open")

    losses = (0.0, 0.3, 0.6, 0.69, 0.7, 1.0, 1.5, 2.2, 2.4, 4.5, 7.0, 30.0)
    cases = [(loss, classes) for classes in (2, 3, 10, 1000) for loss in losses]
    compare(answer, reference, [*cases, (math.log(2), 2), (math.log(2), 10), (math.log(10), 10)])


@exercise("6.2", stars=2, minutes=15)
def worst_window(answer: Callable[[list[int], list[list[int]], int], int]) -> None:
    rng = random.Random(6)
    cases: list[tuple[list[int], list[list[int]], int]] = [
        ([5, 5, 0, 1, 0, 4, 4], [[0, 0, 0, 3, 0, 0, 0]], 2),
        ([2] * 6, [[1] * 6], 2),
        ([9, 1, 1, 1, 1, 9], [[8, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 9]], 1),
        ([7, 7, 7], [[0, 0, 0]], 3),
    ]
    for _ in range(120):
        length, n = rng.randint(5, 9), rng.randint(1, 3)
        strips = [[rng.randint(0, 9) for _ in range(length)] for _ in range(rng.randint(2, 4))]
        cases.append((strips[0], strips[1:], n))
    compare(answer, lambda true, rivals, n: int(_certificate(true, rivals, n).worst[0, 1]), cases)


@exercise("6.3", stars=2, minutes=20)
def masked_push(answer: Callable[[Tensor, int, int, int], Tensor]) -> None:
    def reference(evidence: Tensor, label: int, height: int, width: int) -> Tensor:
        leaf = evidence[None].requires_grad_()
        masked(leaf, torch.tensor([label]), (height, width)).backward()
        assert leaf.grad is not None
        return -leaf.grad[0]

    cases = []
    for seed, (height, width) in enumerate(((1, 1), (2, 2), (1, 3), (3, 1), (2, 3), (4, 5))):
        generator = torch.Generator().manual_seed(seed)
        evidence = torch.rand(3, 4, 5, dtype=torch.float64, generator=generator)
        cases.append((evidence * (1 + seed % 3), seed % 3, height, width))
    compare(answer, reference, cases, tolerance=1e-6)


@exercise("6.4", stars=2, minutes=15)
def content_and_broken(answer: Any) -> None:
    pair = isinstance(answer, (tuple, list)) and len(answer) == 2
    if not pair or not all(isinstance(strip, (tuple, list)) and len(strip) == 8 for strip in answer):
        raise Wrong("the answer is a pair of strips, (true, rival), of eight integers each")
    true, rival = (list(strip) for strip in answer)
    if not all(type(x) is int and 0 <= x <= 9 for x in true + rival):
        raise Wrong("the strips hold integers from 0 to 9")
    lead = sum(true) - int(box_sums(torch.tensor([true]), 1, 2).max()) - sum(rival)
    if lead < 15:
        raise Wrong(f"without its heaviest run the true class leads by {lead}, and it should by 15 or more")
    found = _certificate(true, [rival], 2)
    if (least := int(found.margin_units)) >= 0:
        where = int(found.worst[0, 1])
        raise Wrong(f"the smallest margin is {least}, at cell {where}, and it should be negative")


@exercise("6.5", stars=3, minutes=25)
def soft_least(answer: Callable[[Tensor, float], Tensor]) -> None:
    if not callable(answer):
        raise Wrong("expected a function")
    for seed, size in enumerate((1.0, 5.0, 4000.0)):
        generator = torch.Generator().manual_seed(seed)
        margins = size * torch.randn(6, 9, dtype=torch.float64, generator=generator)
        margins[0] = margins[0, 0] + 1e-6 * torch.arange(9)  # all windows all but tie
        for t in (0.5, 2.0, 10.0):
            leaf = margins.clone().requires_grad_()
            got = answer(leaf, t)
            if got is None:
                raise Wrong("nothing returned yet")
            if not isinstance(got, Tensor) or got.shape != (6,):
                raise Wrong("for margins (6, 9) the result is a tensor of shape (6,)")
            _judge_bound(
                got, margins.amin(1), math.log(9) / t, f"for margins of order {size:g} and t = {t:g}"
            )
            if not got.requires_grad:
                raise Wrong("the result passes no gradient on: it should be differentiable")
            got.sum().backward()
            even = torch.full((9,), 1 / 9, dtype=torch.float64)
            same(leaf.grad[0], even, "the gradient where all windows all but tie", tolerance=1e-3)  # type: ignore[index]


def _judge_bound(got: Tensor, least: Tensor, gap: float, call: str) -> None:
    if not bool(got.isfinite().all()):
        raise Wrong(f"{call}: not a finite number: exponentials of large numbers overflow")
    slack = 1e-9 * (1 + float(least.abs().max()))
    if bool((got > least + slack).any()):
        raise Wrong(f"{call}: above the smallest margin, so it is no lower bound and certifies nothing")
    if bool((got < least - gap - slack).any()):
        raise Wrong(f"{call}: more than ln P / t below the smallest margin")


@exercise("6.6", stars=2, minutes=10)
def scale_for(answer: Callable[[float, int, float], float]) -> None:
    def reference(m: float, cells: int, q: float) -> float:
        return cells * (math.log(q) - math.log1p(-q)) / m

    cases = [(m, cells, q) for m in (0.5, 2.0, 7.0) for cells in (16, 64, 256) for q in (0.6, 0.9, 0.99)]
    compare(answer, reference, cases, tolerance=0.01)  # float32 will do


def _certificate(true: list[int], rivals: list[list[int]], n: int) -> Any:
    """The library's analysis of strips: the first class is the true one."""
    units = torch.tensor([true, *rivals])[None, :, None]
    windows = [all_windows(1, n, 1, len(true))]
    return certify_units(units, torch.tensor([0]), WindowMask(1, n), windows, 9)

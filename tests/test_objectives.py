"""The margin objective against loops: every malicious window, every mask, in Python floats."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pglearn import InputError, training
from pglearn.certify import Certificate, certify, certify_units
from pglearn.defenses import Defense, Logits, WindowMask
from pglearn.evidence import Evidence
from pglearn.geometry import all_windows

DATA = Path(__file__).parent.parent / "data"

Cells = frozenset[tuple[int, int]]


def rectangles(window: tuple[int, int], height: int, width: int) -> list[Cells]:
    """Every placement of a window on the map, row by row."""
    return [
        frozenset((y, x) for y in range(top, top + window[0]) for x in range(left, left + window[1]))
        for top in range(height - window[0] + 1)
        for left in range(width - window[1] + 1)
    ]


def total(cells: list[list[float]], without: Cells) -> float:
    return math.fsum(
        max(v, 0.0) for y, row in enumerate(cells) for x, v in enumerate(row) if (y, x) not in without
    )


def bounds(
    maps: Tensor, label: int, window: tuple[int, int]
) -> list[tuple[float, list[float], Cells, Cells]]:
    """Of one image (C, H, W), for every malicious window: margin, bound of each class, window, heaviest mask.

    The label keeps what is outside the window and outside the mask that takes most of that; a rival keeps all
    outside the window.
    """
    classes: list[list[list[float]]] = maps.double().tolist()
    places = rectangles(window, *maps.shape[1:])
    found = []
    for malicious in places:
        scores = [total(cells, malicious) for cells in classes]
        lower, _, mask = min(
            (total(classes[label], malicious | mask), n, mask) for n, mask in enumerate(places)
        )
        rivals = [score for c, score in enumerate(scores) if c != label]
        scores[label] = lower
        found.append((lower - max(rivals), scores, malicious, mask))
    return found


def cross_entropy(scores: list[float], label: int, cells: int) -> tuple[float, list[float]]:
    """Loss of one image and its derivative by each class's bound."""
    scale = training.SHARPNESS / cells
    highest = max(scores)
    powers = [math.exp(scale * (score - highest)) for score in scores]
    loss = math.log(sum(powers)) + scale * (highest - scores[label])
    return loss, [scale * (power / sum(powers) - (c == label)) for c, power in enumerate(powers)]


def by_hand(maps: Tensor, label: int, window: tuple[int, int], slack: float) -> list[tuple[float, Tensor]]:
    """Loss and gradient of one image, emptied at its worst window; at each of them where several are, but for
    ``slack``.
    """
    found = bounds(maps, label, window)
    smallest = min(margin for margin, *_ in found)
    allowed = []
    for margin, scores, malicious, mask in found:
        if margin <= smallest + slack:
            loss, slopes = cross_entropy(scores, label, maps[0].numel())
            gradient = torch.tensor(slopes, dtype=torch.float64)[:, None, None] * (maps > 0)
            for c in range(len(maps)):
                for y, x in malicious | mask if c == label else malicious:
                    gradient[c, y, x] = 0
            allowed.append((loss, gradient))
    return allowed


def by_library(maps: Tensor, labels: Tensor, window: tuple[int, int]) -> tuple[float, Tensor]:
    """Loss of a batch (N, C, H, W), and its gradient."""
    maps = maps.clone().requires_grad_()
    loss = training.margin(maps, labels, window)
    loss.backward()
    assert maps.grad is not None
    return loss.item(), maps.grad


def certificate(units: Tensor, labels: Tensor, window: tuple[int, int]) -> Certificate:
    """Margins at T = 0, with the mask as large as the window: ``units`` (N, C, H, W) integers below 100."""
    windows = [all_windows(*window, *units.shape[2:])]
    return certify_units(units, labels, WindowMask(*window), windows, top=100)


@st.composite
def problems(draw: st.DrawFn, kind: str = "reals", images: int = 3, most: int = 4) -> tuple:
    """Evidence (N, C, H, W) float64, labels (N,), and any window that fits: also the whole map.

    "reals" are below 0 in part; "integers" are few and often equal, zeros among them.
    """
    n, classes = draw(st.integers(1, images)), draw(st.integers(2, most))
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    window = draw(st.integers(1, height)), draw(st.integers(1, width))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    if kind == "reals":
        maps = torch.randn(n, classes, height, width, dtype=torch.float64) * 5 + 2
    else:
        maps = torch.randint(draw(st.integers(1, 9)) + 1, (n, classes, height, width)).double()
    return maps, torch.randint(classes, (n,)), window


few = settings(deadline=None, max_examples=60, derandomize=True)


@few
@given(problems(), st.sampled_from([torch.float64, torch.float32]))
def test_margin_and_its_gradient(problem, dtype):
    maps, labels, window = problem
    maps = maps.to(dtype)
    exact = 1e-9 if dtype == torch.float64 else 1e-5
    losses = []
    for image, label in zip(maps, labels, strict=True):
        loss, gradient = by_library(image[None], label[None], window)
        assert gradient.dtype == dtype
        assert any(
            loss == pytest.approx(value, rel=exact, abs=exact)
            and torch.allclose(gradient[0].double(), expected, rtol=exact, atol=exact)
            for value, expected in by_hand(image, int(label), window, slack=100 * exact)
        )
        losses.append(loss)
    mean, gradient = by_library(maps, labels, window)  # each image counts alike, whatever stands beside it
    assert mean == pytest.approx(sum(losses) / len(losses), rel=exact)
    alone = torch.cat([by_library(maps[n : n + 1], labels[n : n + 1], window)[1] for n in range(len(maps))])
    assert torch.allclose(gradient * len(maps), alone, rtol=exact, atol=exact)


@few
@given(problems("integers", images=1))
def test_margin_where_windows_and_masks_tie(problem):
    maps, labels, window = problem
    loss, gradient = by_library(maps, labels, window)
    ways = by_hand(maps[0], int(labels), window, slack=0)
    assert min(abs(loss - value) for value, _ in ways) < 1e-9
    assert gradient.isfinite().all()


@few
@given(problems("integers"))
def test_the_oracle_agrees_with_the_certificate(problem):
    maps, labels, window = problem
    found = certificate(maps.long(), labels, window)
    for n, (image, label) in enumerate(zip(maps, labels.tolist(), strict=True)):
        each = bounds(image, label, window)
        assert found.margin_units[n] == min(margin for margin, *_ in each)
        first = min(each, key=lambda one: one[0])[2]
        assert (*min(first), *window) == tuple(found.worst[n].tolist())


@few
@given(problems("integers", images=1, most=2))
def test_two_classes_the_loss_is_the_margin(problem):
    maps, labels, window = problem
    found = certificate(maps.long(), labels, window)
    loss = training.margin(maps, labels, window).item()
    scale = training.SHARPNESS / maps[0, 0].numel()
    assert -math.log(math.expm1(loss)) / scale == pytest.approx(int(found.margin_units), abs=1e-6)
    assert (loss < math.log(2) - 1e-9) == bool(found.certified)


def test_many_classes_the_loss_and_certified_on_shipped_evidence():
    bank = Evidence.load(DATA / "cifar10-masked-bank.safetensors")
    labels, unit = bank.labels[:200], float(bank.unit)
    windows = [all_windows(3, 3, *bank.maps.shape[2:])]
    defense = Defense(Logits(bank.step, bank.clip_high), WindowMask(3, 3))
    certified = certify(bank.maps[:200], labels, defense, windows).certified
    assert 20 < certified.sum() < 180
    for maps, label, proved in zip(bank.maps[:200].double() * unit, labels, certified.tolist(), strict=True):
        loss = training.margin(maps[None], label[None], (3, 3)).item()
        if loss < math.log(2) - 1e-9:
            assert proved
        if proved:
            assert loss < math.log(len(maps)) - 1e-9


@few
@given(problems("integers"), st.sampled_from([1e-3, 1.0, 100.0]))
def test_no_gradient_step_lowers_a_margin(problem, rate):
    maps, labels, window = problem
    _, gradient = by_library(maps, labels, window)
    stepped = maps - rate * gradient
    for before, after, label in zip(maps, stepped, labels.tolist(), strict=True):
        old, new = bounds(before, label, window), bounds(after, label, window)
        assert all(b[0] >= a[0] - 1e-9 for a, b in zip(old, new, strict=True))
        smallest = min(old, key=lambda one: one[0])
        alone = sum(one[0] == smallest[0] for one in old) == 1
        if alone and max(score for c, score in enumerate(smallest[1]) if c != label) > 0:
            assert new[old.index(smallest)][0] > smallest[0]


def smallest_margins(maps: Tensor, labels: Tensor, window: tuple[int, int]) -> Tensor:
    return torch.tensor(
        [min(bounds(m, int(c), window), key=lambda one: one[0])[0] for m, c in zip(maps, labels, strict=True)]
    )


def test_steps_on_evidence_earn_certificates():
    torch.manual_seed(0)
    maps, labels, window = torch.rand(20, 4, 5, 6).double(), torch.arange(20) % 4, (2, 3)
    start = smallest_margins(maps, labels, window)
    for _ in range(200):
        maps = maps - 5 * by_library(maps, labels, window)[1]
    assert start.max() < 0 < smallest_margins(maps, labels, window).min()


@pytest.mark.parametrize("name", ["masked", "margin"])
def test_objectives_in_half_precision(name):
    objective = training.OBJECTIVES[name]
    torch.manual_seed(0)
    maps, labels = (torch.rand(32, 5, 6, 7) * 4).bfloat16(), torch.randint(5, (32,))
    maps.requires_grad_()
    loss = objective(maps, labels, (2, 3))
    loss.backward()
    assert loss.item() == pytest.approx(objective(maps.float(), labels, (2, 3)).item(), rel=0.02)
    assert maps.grad is not None
    assert maps.grad.dtype == torch.bfloat16
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("name", ["masked", "margin"])
def test_nothing_to_learn_from(name):
    labels = torch.tensor([2, 0])
    for maps in (torch.zeros(2, 3, 4, 5), -torch.rand(2, 3, 4, 5)):
        maps.requires_grad_()
        loss = training.OBJECTIVES[name](maps, labels, (2, 2))
        loss.backward()
        assert loss.item() == pytest.approx(math.log(3))
        assert maps.grad is not None
        assert not maps.grad.any()


def test_a_window_that_holds_the_whole_map():
    maps, labels = torch.rand(2, 3, 4, 5), torch.tensor([2, 0])
    loss, gradient = by_library(maps, labels, (4, 5))
    assert loss == pytest.approx(math.log(3))
    assert not gradient.any()
    for name in ("masked", "margin"):
        for window, size in (((5, 1), "5x1"), ((1, 6), "1x6")):
            with pytest.raises(
                InputError, match=f"masks a window of {size} in evidence of 4x5, allowed here: plain"
            ):
                training.OBJECTIVES[name](maps, labels, window)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_window_hides_what_is_no_number(value):
    for place in [(y, x) for y in range(3) for x in range(3)]:
        for c in range(2):
            maps = torch.ones(1, 2, 3, 3)
            maps[0, c, *place] = value
            assert not math.isfinite(training.margin(maps, torch.tensor([0]), (2, 2)).item())

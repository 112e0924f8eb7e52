"""Attacks against loops, closed forms and brute force; what they may never do; and relaxed defenses.

Most networks here are a few lines whose best patch is known: an attack must find it, and must not report a
win where there is none.
"""

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import oracle
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_variations import cellwise, score_of
from torch import Tensor, nn

from pglearn import InputError, models, shapes
from pglearn.attacks import (
    Attacked,
    Victim,
    _Scene,
    attack,
    evidence_places,
    gradient_places,
    grid_places,
    load_victim,
    paste,
    random_places,
    universal,
)
from pglearn.certify import certify
from pglearn.defenses import (
    DEFENSES,
    TRANSFORMS,
    Aggregate,
    Defense,
    Logits,
    Prediction,
    Sum,
    Tanh,
    TopMask,
    WindowMask,
    make_defense,
)
from pglearn.evidence import Evidence
from pglearn.geometry import Geometry, Windows, all_windows, malicious_windows, touched

DATA = Path(__file__).parent.parent / "data"
METHODS = "gradient", "search"


class Pixels(nn.Module):
    """Evidence of class c at each pixel: ``scale`` times channel c. The attacker sets every class of a cell
    at will, so that where an aggregate is monotone the best patch is known: label's channel 0, the others 1.
    """

    def __init__(self, scale: float = 255.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale


class Linear(nn.Module):
    """One cell that sees everything: a linear map of all pixels, so that the best patch against each rival is
    known.
    """

    def __init__(self, classes: int, side: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 3, side, side, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.weight)


class Dark(nn.Module):
    """Two classes: the mean of all pixels, and a constant ``level``. Only black pixels help an attacker."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3), keepdim=True)
        return torch.cat([mean, torch.full_like(mean, self.level)], 1)


class Stairs(Dark):
    """The same of pixels that are on or off: no gradient anywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images > 0.5).to(images.dtype))


class Undifferentiable(Dark):
    """The same, with a gradient of NaN: the root of 0, times 0."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 0 * (images.mean((1, 2, 3), keepdim=True) * 0).sqrt()


def noise(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def white(count: int, side: int) -> Tensor:
    return torch.full((count, 3, side, side), 255, dtype=torch.uint8)


def small_bagnet(classes: int = 4, seed: int = 0) -> models.LocalNet:
    """Padding at both stages, and evidence that differs from cell to cell."""
    torch.manual_seed(seed)
    model = models.build("bagnet-small-32", classes, stages=[(4, 2, 8, 1, 1), (3, 2, 12, 1, 1)])
    return lively(model)


def lively(model: models.LocalNet, gain: float = 4.0) -> models.LocalNet:
    """Random batch statistics, as after training, and evidence that is not all alike."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.no_grad():
        model.fc.weight.mul_(gain)
    return model.eval()


def exact_maps(model: nn.Module, images: Tensor) -> Tensor:
    """Evidence of whole 8-bit images, in float64, independently of the library's attacks."""
    given = images if isinstance(model, models.LocalNet) else images.double() / 255
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(given)


def exact_scores(model: nn.Module, images: Tensor, defense: Defense | None) -> list[list[float]]:
    maps = exact_maps(model, images)
    return (maps.mean((2, 3)) if defense is None else defense.scores(maps)).tolist()


def slow_margin(scores: Sequence[float], label: int, k: int = 1) -> float:
    return scores[label] - sorted(s for c, s in enumerate(scores) if c != label)[-k]


def predicted(model: nn.Module, images: Tensor, defense: Defense | None = None) -> Tensor:
    """Labels that are right wherever no two classes tie."""
    return torch.tensor([oracle.predict(scores) for scores in exact_scores(model, images, defense)])


# --- paste --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_paste_is_its_loops(seed):
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    n, p, height, width = (rng.randint(1, high) for high in (3, 3, 7, 7))
    h, w = rng.randint(1, height), rng.randint(1, width)
    images = torch.rand(n, 3, height, width, generator=generator)
    content = torch.rand(n, p, 3, h, w, generator=generator, requires_grad=True)
    edges = [(0, height - h), (0, width - w)]
    corners = torch.tensor(
        [[[rng.choice((*edge, rng.randint(*edge))) for edge in edges] for _ in range(p)] for _ in range(n)]
    )
    stencil = rng.choice((None, torch.rand(h, w, generator=generator) < 0.6))
    expected, owner = images.clone(), {}
    for i, j, y, x in itertools.product(range(n), range(p), range(h), range(w)):  # later patches come later
        if stencil is None or stencil[y, x]:
            row, column = corners[i, j, 0] + y, corners[i, j, 1] + x
            expected[i, :, row, column] = content[i, j, :, y, x].detach()
            owner[i, int(row), int(column)] = (i, j, y, x)
    before = images.clone()
    pasted = paste(images, content, corners, stencil)
    assert torch.equal(pasted, expected)
    assert torch.equal(images, before)
    if not owner:
        return
    seen = torch.zeros_like(content)
    for i, j, y, x in owner.values():
        seen[i, j, :, y, x] = 1
    pasted.sum().backward()
    assert torch.equal(content.grad, seen), "only what is seen has a gradient"


# --- places -------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), patch=st.tuples(st.integers(1, 6), st.integers(1, 6)))
@settings(max_examples=30, deadline=None)
def test_random_places_fit_and_are_seeded(seed, patch):
    places = random_places(5, 4, patch, (6, 7), 2, seed)
    assert places.shape == (5, 4, 2, 2)
    assert places.dtype == torch.int64
    assert places.amin() >= 0
    assert (places + torch.tensor(patch) <= torch.tensor([6, 7])).all()
    assert torch.equal(places, random_places(5, 4, patch, (6, 7), 2, seed))


def test_random_places_reach_every_place_alike():
    places = random_places(600, 2, (3, 2), (5, 6), 1, 1).flatten(0, 2)
    counts = {(r, c): int((places == torch.tensor([r, c])).all(1).sum()) for r in range(3) for c in range(5)}
    assert sum(counts.values()) == 1200
    assert min(counts.values()) > 40  # 80 expected
    assert not torch.equal(places, random_places(600, 2, (3, 2), (5, 6), 1, 2).flatten(0, 2))


def test_random_places_leave_torchs_own_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    random_places(2, 2, (2, 2), (5, 5), seed=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("patch", [(1, 1), (3, 2), (8, 9), (8, 1)])
def test_grid_places_are_exhaustive_with_the_last_row_and_column(patch, step):
    height, width = 8, 9
    axes = []
    for length, image in zip(patch, (height, width), strict=True):
        last = image - length
        axes.append(sorted({*range(0, last + 1, step), last}))
    places = grid_places(patch, (height, width), step)
    assert places.dtype == torch.int64
    assert tuple(places.shape) == (1, len(axes[0]) * len(axes[1]), 1, 2)
    assert sorted(map(tuple, places[0, :, 0].tolist())) == sorted(itertools.product(*axes))


def touched_cells(seen: Geometry, corner: Sequence[int], patch: tuple[int, int]) -> oracle.Cells:
    top, bottom = touched(seen.rows, corner[0], patch[0])
    left, right = touched(seen.columns, corner[1], patch[1], seen.wrap)
    return oracle.rectangle(top, left, bottom - top, right - left, seen.columns.cells)


def changed_cells(before: Tensor, after: Tensor) -> oracle.Cells:
    """Cells of one image's maps (C, H, W) that differ beyond rounding."""
    differ = ((before - after).abs() > 1e-12).any(0).flatten()
    return frozenset(torch.nonzero(differ)[:, 0].tolist())


def band(classes: int = 4) -> models.LocalNet:
    torch.manual_seed(5)
    return lively(models.build("ds-small-32", classes, kept=(0, 3), stages=((6, 2, 1), (8, 2, 2))), 20)


def block(classes: int = 4, stride: int = 1) -> models.LocalNet:
    torch.manual_seed(6)
    stages = ((6, 2, 1), (8, 2, 2))
    return lively(models.build("ds-small-32", classes, kept=(5, 4), stride=stride, stages=stages), 20)


@pytest.mark.parametrize(
    ("build", "size", "patch"),
    [(small_bagnet, (20, 24), (5, 3)), (band, (12, 14), (2, 5)), (block, (9, 11), (2, 3))],
)
@pytest.mark.parametrize(
    ("name", "transform", "k"),
    [
        ("mask", None, 1),
        ("mask", "confidence", 2),
        ("features", None, 1),
        ("clip", None, 2),
        ("vote", None, 1),
        ("mask", "tanh", 1),
    ],
)
def test_evidence_places_begin_with_the_worst_window_of_the_certificate(
    build, size, patch, name, transform, k
):
    model = build()
    seen = models.geometry(model, size)
    windows = malicious_windows(*patch, seen)
    defense = make_defense(name, windows, transform=transform)
    victim = Victim(model, defense, k)
    images = noise(5, *size, seed=1)
    labels = predicted(model, images, defense)
    labels[0] = (labels[0] + 1) % 4  # wrong, and yet it has a worst window
    places = evidence_places(victim, images, labels, patch, 3, windows)
    assert places.shape == (5, 3, 1, 2)
    assert places.dtype == torch.int64
    maps = exact_maps(model, images)
    certificate = certify(maps, labels, defense, windows, k)
    every = [
        Windows(w.height, w.width, (row,), (column,), w.wrap)
        for w in windows
        for row in w.rows
        for column in w.columns
    ]
    margins = torch.stack([certify(maps, labels, defense, [w], k).margin_units for w in every], 1)
    cells = {
        oracle.rectangle(w.rows[0], w.columns[0], w.height, w.width, seen.columns.cells): i
        for i, w in enumerate(every)
    }
    for i in range(5):
        corners = places[i, :, 0].tolist()
        chosen = [cells[touched_cells(seen, corner, patch)] for corner in corners]  # a whole window each
        assert len(set(chosen)) == 3
        assert margins[i, chosen].tolist() == margins[i].sort().values[:3].tolist()
        assert margins[i, chosen[0]] == certificate.margin_units[i]
        if (margins[i] == margins[i].amin()).sum() == 1:
            row, column, height, width = certificate.worst[i].tolist()
            assert touched_cells(seen, corners[0], patch) == oracle.rectangle(
                row, column, height, width, seen.columns.cells
            )
        content = noise(1, *patch, seed=i)[None].double() / 255
        pasted = paste(images[i : i + 1].double() / 255, content, places[i : i + 1, 0])
        after = exact_maps(model, (pasted * 255).round().to(torch.uint8))
        changed = changed_cells(maps[i], after[0])
        assert changed
        assert changed <= touched_cells(seen, corners[0], patch)


def boxes(values: Tensor, patch: tuple[int, int]) -> dict[tuple[int, int], float]:
    """Sum under each place of the patch on a map (H, W)."""
    height, width = values.shape
    return {
        (r, c): float(values[r : r + patch[0], c : c + patch[1]].sum())
        for r in range(height - patch[0] + 1)
        for c in range(width - patch[1] + 1)
    }


def test_gradient_places_are_the_heaviest_that_do_not_overlap_by_half():
    model = Linear(3, 8, seed=4)
    images = noise(4, 8, 8, seed=2)
    labels = predicted(model, images)
    patch, count = (2, 3), 5
    places = gradient_places(Victim(model), images, labels, patch, count)
    assert places.shape == (4, count, 1, 2)
    pixels = (images / 255).requires_grad_()
    loss = Victim(model).loss(model(pixels), labels).sum()
    slopes = torch.autograd.grad(loss, pixels)[0].abs().sum(1)
    for i in range(4):
        sums = boxes(slopes[i], patch)
        chosen: list[tuple[int, int]] = []
        for r, c in sorted(sums, key=lambda corner: -sums[corner]):
            overlaps = [max(0, patch[0] - abs(r - a)) * max(0, patch[1] - abs(c - b)) for a, b in chosen]
            if all(2 * shared < patch[0] * patch[1] for shared in overlaps):
                chosen.append((r, c))
        assert [tuple(corner) for corner in places[i, :, 0].tolist()] == chosen[:count]


# --- a victim -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [small_bagnet, Pixels])
def test_evidence_of_a_victim_is_that_of_the_network_in_float64(build):
    model, images = build(), noise(7, 20, 24)
    victim = Victim(model)
    maps = victim.evidence(images)
    assert maps.dtype == torch.float64
    assert not maps.requires_grad
    torch.testing.assert_close(maps, exact_maps(model, images), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(victim.evidence(images.double() / 255), maps, rtol=0, atol=1e-4)


def test_a_victim_is_a_frozen_copy():
    model = small_bagnet()
    victim = Victim(model)
    images = noise(2, 20, 20)
    before = victim.evidence(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(victim.evidence(images), before)
    assert not victim.model.training
    assert not victim.exact.training
    assert not any(p.requires_grad for p in (*victim.model.parameters(), *victim.exact.parameters()))
    assert {p.dtype for p in victim.exact.parameters()} == {torch.float64}
    assert {p.dtype for p in victim.model.parameters()} == {torch.float32}


def some_maps(rng: random.Random, count: int, classes: int, height: int, width: int, scale: float) -> Tensor:
    """Evidence about and beyond both ends of a range, with many ties."""
    whole = rng.random() < 0.5
    values = [rng.gauss(scale / 2, scale / 2) for _ in range(count * classes * height * width)]
    maps = torch.tensor([float(round(v)) if whole else v for v in values], dtype=torch.float64)
    maps = maps.view(count, classes, height, width)
    if rng.random() < 0.5:
        maps[:, 1] = maps[:, 0]  # two classes alike: their scores tie
    return maps


UNITS: dict[str, Callable[[list[float]], list[int]]] = {
    "logits": lambda cell: [oracle.to_units(x, 0.25, 6.0) for x in cell],
    "confidence": lambda cell: oracle.confidence(cell, 0.25),
    "prediction": lambda cell: oracle.votes(cell, 0.3),
    "tanh": lambda cell: [oracle.tanh(x, 0.25) for x in cell],
}
CONSTANTS = {
    "logits": {"step": "0.25", "clip_high": "6"},
    "confidence": {"step": "0.25"},
    "prediction": {"vote_threshold": "0.3"},
    "tanh": {"step": "0.25"},
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    "aggregate", [Sum(), TopMask(3), WindowMask(2, 2), WindowMask(2, 2, wrap=True), WindowMask(1, 2, "0.3")]
)
def test_margins_behind_a_defense_are_their_loops(transform, aggregate):
    for seed in range(4):
        rng = random.Random(seed)
        classes, height, width = rng.randint(3, 5), rng.randint(2, 4), rng.randint(2, 4)
        maps = some_maps(rng, 4, classes, height, width, 3.0)
        labels = torch.tensor([rng.randrange(classes) for _ in range(4)])
        units = cellwise(maps, UNITS[transform]).flatten(2).tolist()
        score = score_of(aggregate, height, width)
        for k in (1, 2):
            victim = Victim(Pixels(), Defense(TRANSFORMS[transform](**CONSTANTS[transform]), aggregate), k)
            margins = victim.margins(maps, labels)
            assert margins.dtype == torch.int64
            expected = [
                slow_margin([score(m) for m in image], y, k)
                for image, y in zip(units, labels.tolist(), strict=True)
            ]
            assert margins.tolist() == expected


def test_margins_of_an_undefended_network_and_its_ties():
    for seed in range(10):
        rng = random.Random(seed)
        classes = rng.randint(3, 5)
        maps = some_maps(rng, 4, classes, 2, 4, 3.0)  # 8 cells: means of whole numbers are exact
        labels = torch.tensor([rng.randrange(classes) for _ in range(4)])
        means = [[math.fsum(m) / 8 for m in image] for image in maps.flatten(2).tolist()]
        for k in (1, 2):
            margins = Victim(Pixels(), k=k).margins(maps, labels)
            assert margins.is_floating_point()
            expected = [slow_margin(image, y, k) for image, y in zip(means, labels.tolist(), strict=True)]
            assert margins.tolist() == pytest.approx(expected, abs=1e-12)
            whole = (maps == maps.round()).flatten(1).all(1).tolist()
            for found, truth, exact in zip(margins.tolist(), expected, whole, strict=True):
                assert found == truth or not exact, "a tie is a tie"


FACES = [
    None,
    Defense(Logits("0.001", "6"), WindowMask(2, 2)),
    Defense(Logits("0.001", "6"), TopMask(3)),
    Defense(Tanh(), Sum()),
]


@pytest.mark.parametrize("defense", FACES)
def test_relaxed_scores_are_shares_of_the_scores(defense):
    maps = some_maps(random.Random(4), 20, 4, 3, 4, 4.0)
    scores = maps.mean((2, 3)) if defense is None else defense.scores(maps) / defense.transform.top
    torch.testing.assert_close(Victim(Pixels(), defense).relaxed(maps), scores.double(), rtol=0, atol=0.01)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("defense", FACES)
def test_the_loss_rises_as_the_margin_falls(defense, k):
    victim = Victim(Pixels(), defense, k)
    maps = some_maps(random.Random(1), 40, 4, 3, 4, 4.0)
    maps[:20, 1] += 1.0
    labels, rows = torch.arange(40) % 4, torch.arange(40)
    margins, loss = victim.margins(maps, labels), victim.loss(maps.requires_grad_(), labels)
    assert loss.shape == (40,)
    lost = margins < -(1e-6 if defense is None else 12)  # half a unit a cell, twice
    assert lost.sum() >= 10
    assert (loss > 0)[lost].all()
    loss.sum().backward()
    others = maps.grad.clone()
    others[rows, labels] = 0
    assert (maps.grad[rows, labels] <= 0).all(), "more of the label is never better for the attacker"
    assert (maps.grad[rows, labels].flatten(1) < 0).any(1).all()
    assert (others >= 0).all()
    assert (others.flatten(1) > 0).any(1).all()


@pytest.mark.parametrize("defense", [None, Defense(Logits("0.001", "6"), WindowMask(1, 1))])
def test_a_targeted_loss_wants_the_target(defense):
    victim = Victim(Pixels(), defense)
    maps = some_maps(random.Random(2), 20, 4, 3, 4, 4.0)
    rows = torch.arange(20)
    labels, target = rows % 4, (rows + 1) % 4
    others = (maps.mean((2, 3)) if defense is None else defense.scores(maps)).double()
    mine = others[rows, target]
    others[rows, target] = -math.inf
    loss = victim.loss(maps.requires_grad_(), labels, target)
    gap = others.amax(1) - mine
    assert victim.margins(maps, labels, target).tolist() == pytest.approx(gap.tolist())
    behind = gap > (1e-6 if defense is None else 12)
    assert behind.sum() >= 10
    assert (loss < 0)[behind].all()
    loss.sum().backward()
    assert (maps.grad[rows, target] >= 0).all()
    assert (maps.grad[rows, target].flatten(1) > 0).any(1).all()


# --- relaxed defenses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("transform", sorted(set(TRANSFORMS) - {"prediction"}))
@pytest.mark.parametrize("name", DEFENSES)
def test_a_relaxed_defense_has_the_value_of_the_defense(name, transform, wrap):
    windows = [all_windows(2, 2, 4, 5, wrap), all_windows(1, 3, 4, 5, wrap)]
    constants = {"clip_high": "6"} if transform == "logits" else {"unit": "0.5"}
    defense = make_defense(name, windows, transform=transform, **constants)
    top = defense.transform.top
    for seed in range(8):
        maps = some_maps(random.Random(seed), 3, 4, 4, 5, 5.0)
        shares = defense.transform.soft(maps)
        assert shares.shape == maps.shape
        assert (shares - defense.transform(maps) / top).abs().max() <= 0.5 / top + 1e-6
        soft = defense.aggregate.soft(shares)
        assert soft.shape == (3, 4)
        assert (soft - defense.scores(maps) / top).abs().max() <= 20 * (0.5 / top + 1e-6)
        units = defense.transform(maps)  # and, of values that are units already, just the score
        exact = defense.aggregate.soft(units.double() / top)
        assert torch.equal((exact * top).round().long(), defense.aggregate.scores(units))


def test_relaxed_votes_are_votes_away_from_the_threshold():
    transform = Prediction(vote_threshold="0.3", unit="0.5")
    confidence = torch.linspace(0.01, 0.99, 197, dtype=torch.float64)
    maps = (2 * torch.stack([confidence, 1 - confidence]).log()).view(1, 2, 1, -1).requires_grad_()
    soft = transform.soft(maps)[0, 0, 0]
    assert (soft >= 0).all()
    assert (soft <= 1).all()
    assert (soft.diff() >= 0).all()
    assert torch.equal((soft > 0.5)[confidence != 0.3], (confidence > 0.3)[confidence != 0.3])
    far = (confidence - 0.3).abs() > 0.2
    assert (soft - transform(maps)[0, 0, 0])[far].abs().max() < 0.05
    near = (confidence - 0.3).abs() < 0.05
    soft.sum().backward()
    assert (maps.grad[0, 0, 0, near] > 0).all()


def test_a_relaxed_threshold_opens_and_closes():
    gate = WindowMask(2, 2, "0.5")
    values = torch.full((1, 2, 4, 4), 0.05, dtype=torch.float64)  # shares of a quarter: nothing is masked
    values[0, 1, :2, :2] = 1.0  # 4 of 4.6: masked
    soft = gate.soft(values)
    assert soft[0, 0].item() == pytest.approx(0.8, rel=0.03)
    assert soft[0, 1].item() == pytest.approx(0.6, rel=0.03)
    lifted = values.clone().requires_grad_()
    gate.soft(lifted).sum().backward()
    assert (lifted.grad[0, 0] > 0).all(), "all cells count where no mask falls"
    outside = lifted.grad[0, 1].clone()
    outside[:2, :2] = 1
    assert (outside > 0).all()


def test_an_aggregate_without_a_relaxed_face_is_the_plain_sum():
    class Median(Aggregate):
        def scores(self, units: Tensor) -> Tensor:
            return units.flatten(2).median(-1).values.long()

    values = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(Median().soft(values), values.sum((2, 3)))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("aggregate", "leak"),
    [(Sum(), 0), (TopMask(3), 0.05), (WindowMask(2, 2), 0.05), (WindowMask(1, 2, "0.3", wrap=True), 0.05)],
)
def test_gradients_of_relaxed_defenses_are_finite_differences(transform, aggregate, leak):
    """Away from kinks; but for what leaks through masks, a share of the plain sum's gradient."""
    kind = TRANSFORMS[transform](**CONSTANTS[transform])

    def scores(maps: Tensor) -> Tensor:
        values = kind.soft(maps)
        return aggregate.soft(values) - leak * (values.sum((2, 3)) - values.sum((2, 3)).detach())

    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        maps = torch.rand(1, 3, 3, 3, dtype=torch.float64, generator=generator) * 4 + 1  # within the clip
        assert torch.autograd.gradcheck(scores, maps.requires_grad_())


@pytest.mark.parametrize("aggregate", [TopMask(3), WindowMask(2, 2), WindowMask(2, 2, "0.3")])
def test_masked_cells_have_a_way_out(aggregate):
    """An attacker who owns just what is masked must feel that less of it is less."""
    values = torch.full((1, 1, 4, 4), 0.1, dtype=torch.float64)
    values[..., :2, :2] = 0.9
    aggregate.soft(values.requires_grad_()).sum().backward()
    assert (values.grad > 0).all()


def test_clipping_lets_gradients_through():
    transform = Logits(clip_high="4")
    maps = torch.tensor([-3.0, -0.001, 0.0, 1.0, 3.999, 4.0, 9.0, 1e6], dtype=torch.float64)
    maps = maps.view(1, 1, 1, -1).requires_grad_()
    soft = transform.soft(maps)
    assert soft.flatten().tolist() == pytest.approx([0, 0, 0, 0.25, 3.999 / 4, 1, 1, 1])
    soft.sum().backward()
    assert maps.grad.flatten().tolist() == pytest.approx([0.25] * 8)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_relaxed_defenses_stand_extreme_evidence(transform):
    maps = torch.tensor([1e30, -1e30, 88.0, -88.0, 0.0, 1e4], dtype=torch.float32).view(1, 2, 1, 3)
    maps.requires_grad_()
    kind = TRANSFORMS[transform]()
    soft = kind.soft(maps)
    assert ((soft >= 0) & (soft <= 1)).all()
    tolerance = 0.02 if transform == "prediction" else 0.002
    assert (soft.detach() - kind(maps.detach()) / kind.top).abs().max() < tolerance
    soft.sum().backward()
    assert maps.grad.isfinite().all()


# --- the part of an image that sees the patch ---------------------------------------------------------------


def cut_equals_whole(
    model: models.LocalNet, size: tuple[int, int], patch: tuple[int, int], corners: Tensor, smaller: bool
) -> None:
    """Evidence of patches at ``corners`` (K, P, 2), and its gradient, from cuts and from whole images;
    ``smaller``: there are cuts. The victim searches with its float64 network here.
    """
    victim, count = Victim(model), len(corners)
    victim.model = victim.exact
    images = noise(2, *size, seed=7)
    image = torch.arange(count) % 2
    generator = torch.Generator().manual_seed(8)
    content = torch.rand(count, corners.shape[1], 3, *patch, generator=generator).requires_grad_()
    stencil = torch.ones(patch).bool()
    stencil[-1, 0] = patch == (1, 1)
    scene = _Scene(victim, images, patch, corners.shape[1])
    assert (scene.pixels < size[0] * size[1]) == smaller
    view = scene.view(image, corners, victim.evidence(images))
    maps, slopes = [], []
    for evidence in (
        view.maps(victim, content, stencil),
        victim.exact(paste(images[image] / 255, content, corners, stencil)),
    ):
        maps.append(evidence.double())
        weights = torch.randn(evidence.shape, generator=generator.manual_seed(9))
        slopes.append(torch.autograd.grad((evidence * weights).sum(), content)[0])
    clean = exact_maps(model, images)[image]
    moved = (maps[1] - clean).abs() > 1e-3 * clean.abs().amax()
    torch.testing.assert_close(maps[0][moved], maps[1][moved], rtol=1e-9, atol=0)
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-5, atol=1e-6)  # what is clean is kept in float32
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-5 * float(slopes[1].abs().amax()))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_cut_gives_the_evidence_of_the_whole_image(seed):
    """Any small BagNet, padded or not, whatever its strides leave over at the border; every place."""
    rng = random.Random(seed)
    stages = []
    for _ in range(rng.randint(1, 3)):
        kernel = rng.randint(1, 4)
        stages.append(
            (kernel, rng.randint(1, 3), rng.randint(3, 6), rng.randint(0, 1), rng.randrange(kernel))
        )
    size = rng.randint(14, 20), rng.randint(14, 20)
    patch = rng.randint(1, 5), rng.randint(1, 5)
    torch.manual_seed(seed % 2**31)
    model = lively(models.build("bagnet-small-32", 3, stages=stages))
    try:
        seen = model.geometry(*size)
    except InputError:  # too deep for such an image
        assume(False)
    corners = grid_places(patch, size)[0]
    if seen.rows.cells * seen.columns.cells > 80:  # costly, and all alike inside
        corners = corners[torch.randperm(len(corners))[:60]]
    scene = _Scene(Victim(model), noise(1, *size), patch, 1)
    cut_equals_whole(model, size, patch, corners, scene.pixels < size[0] * size[1])


@pytest.mark.parametrize(
    ("build", "size", "patch"),
    [
        (small_bagnet, (28, 36), (5, 3)),
        (small_bagnet, (25, 27), (1, 1)),
        (band, (6, 13), (2, 3)),
        (band, (6, 12), (6, 1)),
        (block, (11, 13), (2, 3)),
        (partial(block, stride=2), (13, 14), (3, 2)),
        (partial(block, stride=3), (16, 15), (2, 2)),
    ],
)
def test_cuts_at_every_place(build, size, patch):
    cut_equals_whole(build(), size, patch, grid_places(patch, size)[0], True)


def test_no_cuts_where_columns_do_not_turn_evenly():
    """Columns at 0, 3, ..., 12, and 2 pixels further 0 again."""
    cut_equals_whole(block(stride=3), (13, 14), (2, 2), grid_places((2, 2), (13, 14))[0], False)


def test_cuts_of_the_published_network():
    """Rows fit, and 5 columns are left over at the border, seen by no cell."""
    torch.manual_seed(9)
    model = models.build("bagnet9", 3).eval()
    corners = torch.tensor([(0, 0), (0, 35), (23, 0), (23, 36), (13, 17), (8, 31)])[:, None]
    cut_equals_whole(model, (25, 38), (2, 2), corners, True)


@pytest.mark.parametrize("patches", [1, 2])
def test_networks_without_cuts(patches):
    """One that sees everything; and several patches at once."""
    torch.manual_seed(10)
    resnet = lively(models.build("resnet-small-64", 3, widths=(4, 5, 6, 7)))
    corners = random_places(1, 6, (5, 4), (64, 64), patches, seed=1)[0]
    cut_equals_whole(resnet, (64, 64), (5, 4), corners, False)
    if patches == 2:
        corners = random_places(1, 20, (4, 4), (24, 20), patches, seed=1)[0]
        cut_equals_whole(small_bagnet(), (24, 20), (4, 4), corners, False)


# --- the attack: closed forms -------------------------------------------------------------------------------


def cells_under(corners: Tensor, patch: tuple[int, int], width: int, stencil: Tensor | None) -> oracle.Cells:
    """Pixels, row by row, that patches (P, 2) cover."""
    covered = set()
    for row, column in corners.tolist():
        for y, x in itertools.product(range(patch[0]), range(patch[1])):
            if stencil is None or stencil[y, x]:
                covered.add((row + y) * width + column + x)
    return frozenset(covered)


def best_of_pixels(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    patch: tuple[int, int],
    corners: Tensor,
    scale: float,
    k: int = 1,
    stencil: Tensor | None = None,
) -> tuple[list[int], list[list[bool]]]:
    """Against :class:`Pixels`, each image's least margin over all contents and places; and whether each class
    can be made to win.
    """
    transform, aggregate = victim.defense.transform, victim.defense.aggregate
    height, width = images.shape[2:]
    score = score_of(aggregate, height, width)
    low, high = transform(torch.tensor([0.0, scale], dtype=torch.float64).view(1, 1, 1, 2)).flatten().tolist()
    units = transform(images.double() / 255 * scale).flatten(2).tolist()
    margins, wins = [], []
    for i, image in enumerate(units):
        y = int(labels[i])
        found, won = [], [False] * len(image)
        for places in corners[i % len(corners)]:
            cells = cells_under(places, patch, width, stencil)
            lows = [score(oracle.overwrite(m, cells, low)) for m in image]
            highs = [score(oracle.overwrite(m, cells, high)) for m in image]
            found.append(slow_margin([lows[c] if c == y else highs[c] for c in range(len(image))], y, k))
            for c in range(len(image)):
                won[c] |= all(highs[c] >= lows[d] for d in range(len(image)) if d != c)
        margins.append(min(found))
        wins.append(won)
    return margins, wins


def favored(count: int, height: int, width: int, seed: int, bias: float) -> tuple[Tensor, Tensor]:
    """Images with one channel brighter than the others, more and more so: the first fall, the last do not."""
    rng = random.Random(seed)
    labels = torch.tensor([rng.randrange(3) for _ in range(count)])
    images = noise(count, height, width, seed).double() * 0.6
    images[torch.arange(count), labels] += torch.linspace(0, bias, count).view(-1, 1, 1)
    return images.round().clamp(0, 255).to(torch.uint8), labels


def valid(
    result: Attacked,
    images: Tensor,
    labels: Tensor,
    model: nn.Module,
    defense: Defense | None,
    k: int = 1,
    stencil: Tensor | None = None,
    target: Tensor | None = None,
) -> None:
    """Everything that holds after any attack."""
    n, p, _, height, width = result.content.shape
    assert n == len(images)
    assert result.clean.dtype == result.robust.dtype == torch.bool
    assert result.corners.shape == (n, p, 2)
    assert result.content.dtype == torch.uint8
    patched = result.patched(images)
    assert patched.dtype == torch.uint8
    before = exact_scores(model, images, defense)
    after = exact_scores(model, patched, defense)
    for i in range(n):
        y = int(labels[i])
        clean = slow_margin(before[i], y, k) > 0
        assert bool(result.clean[i]) == clean
        if not clean:
            assert (result.corners[i] == -1).all()
            assert not result.robust[i]
            assert torch.equal(patched[i], images[i])
            continue
        expected = images[i].clone()
        for (row, column), content in zip(result.corners[i].tolist(), result.content[i], strict=True):
            assert 0 <= row <= images.shape[2] - height
            assert 0 <= column <= images.shape[3] - width
            inside = expected[:, row : row + height, column : column + width]
            inside.copy_(content if stencil is None else content.where(stencil, inside))
        assert torch.equal(patched[i], expected)
        if target is None:
            margin = slow_margin(after[i], y, k)
            assert bool(result.robust[i]) == (margin > 0)
            assert float(result.margin[i]) == pytest.approx(margin, rel=1e-9, abs=1e-9)
        else:
            assert bool(result.robust[i]) == (after[i][int(target[i])] < max(after[i]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("transform", "scale"),
    [(Logits("1", "255"), 255.0), (Logits("1", "160"), 255.0), (Tanh("0.001"), 60.0)],
)
@pytest.mark.parametrize(
    ("aggregate", "bias"), [(Sum(), 130.0), (TopMask(4), 190.0), (WindowMask(2, 2), 190.0)]
)
def test_attacks_reach_the_best_patch_of_a_network_whose_cells_are_free(
    method, transform, scale, aggregate, bias
):
    model, defense = Pixels(scale), Defense(transform, aggregate)
    victim = Victim(model, defense)
    images, labels = favored(16, 4, 4, 1, bias)
    corners = grid_places((2, 2), (4, 4))
    best, _ = best_of_pixels(victim, images, labels, (2, 2), corners, scale)
    result = attack(victim, images, labels, (2, 2), corners, method=method, steps=40, restarts=3)
    valid(result, images, labels, model, defense)
    assert result.robust.tolist() == [margin > 0 for margin in best]
    assert 1 <= result.robust.sum() < result.clean.sum()
    for i in torch.nonzero(result.robust)[:, 0].tolist():
        assert result.margin[i] >= best[i]
    if isinstance(transform, Logits):  # both ends of the range are within reach: the sandwich has no filling
        certificate = certify(victim.evidence(images), labels, defense, [all_windows(2, 2, 4, 4)])
        assert torch.equal(result.robust, certificate.certified)
        assert certificate.margin_units[result.clean].tolist() == [
            margin for margin, clean in zip(best, result.clean.tolist(), strict=True) if clean
        ]


@pytest.mark.parametrize("method", METHODS)
def test_attacks_on_top_2_need_two_rivals(method):
    defense = Defense(Logits("1", "255"), WindowMask(2, 2))
    victim = Victim(Pixels(), defense, 2)
    images, labels = favored(10, 4, 4, 2, 90.0)
    corners = grid_places((2, 2), (4, 4))
    best, _ = best_of_pixels(victim, images, labels, (2, 2), corners, 255.0, k=2)
    result = attack(victim, images, labels, (2, 2), corners, method=method, restarts=2)
    valid(result, images, labels, victim.exact, defense, 2)
    clean = result.clean.tolist()
    assert result.robust.tolist() == [c and margin > 0 for c, margin in zip(clean, best, strict=True)]
    assert 1 <= result.robust.sum() < result.clean.sum()


@pytest.mark.parametrize("method", METHODS)
def test_a_targeted_attack_wins_where_the_target_can_win(method):
    defense = Defense(Logits("1", "255"), Sum())
    victim = Victim(Pixels(), defense)
    images, labels = favored(12, 4, 4, 3, 130.0)
    target = (labels + 1 + torch.arange(12) % 2) % 3
    corners = random_places(12, 2, (2, 2), (4, 4), seed=1)
    best, wins = best_of_pixels(victim, images, labels, (2, 2), corners, 255.0)
    result = attack(victim, images, labels, (2, 2), corners, method=method, target=target)
    valid(result, images, labels, victim.exact, defense, target=target)
    expected = [
        c and not won[t] for c, won, t in zip(result.clean.tolist(), wins, target.tolist(), strict=True)
    ]
    assert result.robust.tolist() == expected
    assert 1 <= sum(expected) < result.clean.sum()
    easier = torch.tensor([c and margin > 0 for c, margin in zip(result.clean.tolist(), best, strict=True)])
    assert (easier <= result.robust).all(), "who makes the target win makes the label lose"


def test_a_target_that_has_won_before():
    """Right among the first two, and the target is the other one: it has won without any patch."""
    victim = Victim(Pixels(), Defense(Logits("1", "255"), Sum()), 2)
    images = torch.full((2, 3, 4, 4), 50, dtype=torch.uint8)
    images[:, 0], images[0, 1], images[1, 2] = 100, 120, 110
    labels = torch.zeros(2, dtype=torch.int64)
    result = attack(victim, images, labels, (1, 1), (0, 0), target=1, steps=5)
    assert result.clean.tolist() == [True, True]
    assert result.robust.tolist() == [False, True]


def test_a_target_may_be_one_class_for_all():
    victim = Victim(Pixels(), Defense(Logits("1", "255"), Sum()))
    images, labels = favored(8, 4, 4, 3, 60.0)
    keep = labels != 2
    images, labels = images[keep], labels[keep]
    one = attack(victim, images, labels, (3, 3), (0, 1), target=2, steps=10)
    each = attack(victim, images, labels, (3, 3), (0, 1), target=torch.full_like(labels, 2), steps=10)
    same(one, each)
    assert not one.robust[one.clean].all()


@pytest.mark.parametrize("method", METHODS)
def test_a_patch_of_any_shape_and_number(method):
    defense = Defense(Logits("1", "255"), Sum())
    victim = Victim(Pixels(), defense)
    images, labels = favored(10, 5, 6, 4, 110.0)
    stencil = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]]).bool()
    corners = random_places(10, 2, (3, 3), (5, 6), 2, seed=3)  # two crosses at once, often one over another
    best, _ = best_of_pixels(victim, images, labels, (3, 3), corners, 255.0, stencil=stencil)
    result = attack(victim, images, labels, (3, 3), corners, method=method, stencil=stencil, steps=60)
    valid(result, images, labels, victim.exact, defense, stencil=stencil)
    assert result.robust.tolist() == [margin > 0 for margin in best]
    assert 1 <= result.robust.sum() < result.clean.sum()
    whole = attack(victim, images, labels, (3, 3), corners, method=method, steps=60)
    assert (whole.robust <= result.robust).all()


@pytest.mark.parametrize(("method", "steps"), [("gradient", 40), ("search", 400)])
@pytest.mark.parametrize("patch", [(1, 1), (2, 2)])
def test_a_win_that_needs_every_pixel_is_found_and_one_gray_level_less_is_none(method, steps, patch):
    """White images; the patch must be all black. To each side of the level is half a gray level of one
    channel.
    """
    side, area = 4, patch[0] * patch[1]
    edge, half = 1 - area / side**2, 0.5 / (255 * 3 * side**2)
    images, labels = white(3, side), torch.zeros(3, dtype=torch.int64)
    corners = grid_places(patch, (side, side), 2)
    for level, robust in ((edge + half, False), (edge - half, True)):
        model = Dark(level)
        result = attack(Victim(model), images, labels, patch, corners, method=method, steps=steps, seed=1)
        valid(result, images, labels, model, None)
        assert result.clean.all()
        assert result.robust.tolist() == [robust] * 3
        assert (result.content == 0).all()
        if robust:
            assert result.margin.tolist() == pytest.approx([half] * 3)


def test_a_tie_is_a_win():
    """Behind a defense, in integers: the label keeps 12 of 16 white pixels, and so has its rival."""

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            bright = images.mean(1, keepdim=True)
            return torch.cat([bright * 16, torch.full_like(bright, 12.0)], 1)

    images, labels = white(1, 4), torch.zeros(1, dtype=torch.int64)
    for clip, right in (("12", False), ("16", True)):  # clipped to 12, white is no more than the rival
        victim = Victim(Counting(), Defense(Logits("1", clip), Sum()))
        assert bool(victim.margins(victim.evidence(images), labels) > 0) == right
    victim = Victim(Counting(), Defense(Logits("1", "16"), Sum()))
    result = attack(victim, images, labels, (2, 2), (1, 1))
    assert result.margin.tolist() == [0]
    assert not result.robust.any()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_attacks_on_a_linear_network_are_its_closed_form(seed):
    rng = random.Random(seed)
    side, patch = rng.randint(3, 5), (rng.randint(1, 3), rng.randint(1, 3))
    classes, p, k = rng.randint(2, 4), rng.randint(1, 2), rng.randint(1, 3)
    model = Linear(classes, side, seed % 1000)
    images = noise(3, side, side, seed % 1001)
    labels = predicted(model, images)
    corners = random_places(3, k, patch, (side, side), p, seed)
    weights = model.weight.detach().double()
    least = []
    for i, y in enumerate(labels.tolist()):
        margins = []
        for places, rival in itertools.product(corners[i], range(classes)):
            if rival == y:
                continue
            covered = torch.zeros(side, side, dtype=torch.bool)
            for row, column in places.tolist():
                covered[row : row + patch[0], column : column + patch[1]] = True
            gain = weights[y] - weights[rival]
            kept = (gain * images[i].double() / 255)[:, ~covered].sum()
            margins.append(float(kept + gain[:, covered].clamp(max=0).sum()))
        least.append(min(margins))
    result = attack(Victim(model), images, labels, patch, corners, restarts=classes, seed=seed % 7)
    valid(result, images, labels, model, None)
    assert result.robust.tolist() == [margin > 0 for margin in least]
    for i in torch.nonzero(result.robust)[:, 0].tolist():
        assert float(result.margin[i]) == pytest.approx(least[i], abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_a_search_against_brute_force_over_all_contents(seed):
    """Pixels that are on or off, and a network that multiplies them: no gradient, no closed form."""

    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(seed)
            self.register_buffer("weight", torch.randn(3, 48, 48, generator=generator))

        def forward(self, images: Tensor) -> Tensor:
            on = (images > 0.5).to(images.dtype).flatten(1)
            return torch.einsum("ni,cij,nj->nc", on, self.weight, on)[:, :, None, None]

    model = Products()
    images = noise(6, 4, 4, seed)
    labels = predicted(model, images)
    patch, corner = (2, 1), (1, 2)
    contents = torch.tensor(list(itertools.product((0, 255), repeat=6)), dtype=torch.uint8).view(
        -1, 3, *patch
    )
    least = []
    for image, y in zip(images, labels.tolist(), strict=True):
        every = image.expand(len(contents), -1, -1, -1).clone()
        every[:, :, 1:3, 2:3] = contents
        least.append(min(slow_margin(scores, y) for scores in exact_scores(model, every, None)))
    result = attack(
        Victim(model), images, labels, patch, corner, method="search", steps=60, restarts=6, seed=seed
    )
    valid(result, images, labels, model, None)
    assert result.robust.tolist() == [margin > 0 for margin in least]
    for i in torch.nonzero(result.robust)[:, 0].tolist():
        assert float(result.margin[i]) == pytest.approx(least[i], abs=1e-9)


def test_a_search_needs_no_gradient():
    images, labels = white(2, 4), torch.zeros(2, dtype=torch.int64)
    level = 1 - 4 / 16 + 0.001
    for model in (Stairs(level), Undifferentiable(level)):
        result = attack(Victim(model), images, labels, (2, 2), (1, 1), method="search", steps=400)
        valid(result, images, labels, model, None)
        assert not result.robust.any()
    with pytest.raises(InputError, match=r"\A(model|method): [^\n]*finite[^\n]*\Z"):
        attack(Victim(Undifferentiable(level)), images, labels, (2, 2), (1, 1))


def test_nothing_wins_where_nothing_can_and_everything_is_tried():
    images, labels = white(4, 4), torch.tensor([0, 0, 1, 0])  # one is wrong already
    corners = grid_places((2, 2), (4, 4), 2)
    for method in METHODS:
        result = attack(
            Victim(Dark(0.5)), images, labels, (2, 2), corners, method=method, steps=7, restarts=3
        )
        assert result.robust.tolist() == [True, True, False, True]
        assert result.clean.tolist() == [True, True, False, True]
        assert result.patches == 3 * 4 * 3
        assert result.steps == 7 * result.patches


def test_an_image_that_has_fallen_is_attacked_no_further():
    images, labels = white(4, 4), torch.zeros(4, dtype=torch.int64)
    corners = grid_places((2, 2), (4, 4))
    for method in METHODS:
        result = attack(Victim(Dark(0.99)), images, labels, (2, 2), corners, method=method, restarts=5)
        assert not result.robust.any()
        assert result.patches < 4 * 9 * 5
        assert result.steps <= 40 * result.patches


# --- the attack: what always holds --------------------------------------------------------------------------


def same(first: Attacked, second: Attacked) -> None:
    for name in ("clean", "robust", "corners", "content", "margin"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def all_defenses(windows: Sequence[Windows]) -> Iterator[tuple[Defense | None, int]]:
    yield None, 1
    yield make_defense("mask", windows, step="0.001", clip_high="4"), 1
    yield make_defense("mask", windows, transform="confidence", detection_threshold="0.1"), 1
    yield make_defense("features", windows, step="0.001", clip_high="4"), 2
    yield make_defense("clip", windows), 1
    yield make_defense("vote", windows, vote_threshold="0.3"), 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("build", "size", "patch"),
    [(small_bagnet, (20, 24), (5, 3)), (band, (8, 10), (3, 2)), (Pixels, (6, 5), (2, 2))],
)
def test_every_attack_is_a_valid_one(build, size, patch, method):
    """Of every network, defended or not: ranges, pixels outside the patch, a recount of whole images."""
    model = build()
    windows = malicious_windows(*patch, models.geometry(model, size))
    images = noise(6, *size, seed=3)
    fallen = 0
    for defense, k in all_defenses(windows):
        victim = Victim(model, defense, k)
        labels = predicted(model, images, defense)
        labels[0] = (labels[0] + 1) % 3
        corners = random_places(6, 2, patch, size, 2, seed=4)
        stencil = torch.ones(patch).bool()
        stencil[0, 0] = False
        result = attack(
            victim, images, labels, patch, corners, method=method, steps=4, stencil=stencil, batch_size=4
        )
        valid(result, images, labels, model, defense, k, stencil)
        fallen += int((result.clean & ~result.robust).sum())
    assert fallen


@pytest.mark.parametrize("method", METHODS)
def test_attacks_are_seeded(method):
    model = small_bagnet()
    images = noise(4, 20, 20)
    labels = predicted(model, images)
    victim = Victim(model, make_defense("mask", malicious_windows(3, 3, models.geometry(model, 20))))

    def run(seed: int) -> Attacked:
        torch.manual_seed(random.randrange(2**32))  # of no matter
        return attack(victim, images, labels, (3, 3), (8, 8), method=method, steps=3, restarts=2, seed=seed)

    first = run(1)
    same(first, run(1))
    assert any(not torch.equal(first.content, run(seed).content) for seed in (2, 3))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    attack(victim, images, labels, (3, 3), (8, 8), method=method, steps=2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", METHODS)
def test_batches_change_nothing(method):
    defense = Defense(Logits("1", "255"), WindowMask(2, 2))
    victim = Victim(Pixels(), defense)
    images, labels = favored(7, 4, 4, 7, 190.0)
    corners = grid_places((2, 2), (4, 4), 2)
    runs = [
        attack(victim, images, labels, (2, 2), corners, method=method, restarts=2, steps=15, batch_size=size)
        for size in (None, 1, 4, 5)
    ]
    for other in runs[1:]:
        assert torch.equal(other.robust, runs[0].robust)
        assert torch.equal(other.clean, runs[0].clean)
    assert 1 <= runs[0].robust.sum() < runs[0].clean.sum()


@pytest.mark.parametrize("method", METHODS)
def test_more_restarts_are_never_weaker(method):
    model = small_bagnet()
    images = noise(12, 20, 20, seed=5)
    victim = Victim(model)
    labels = predicted(model, images)
    corners = random_places(12, 2, (5, 5), (20, 20), seed=6)
    runs = [
        attack(victim, images, labels, (5, 5), corners, method=method, steps=3, restarts=restarts)
        for restarts in (1, 2, 4)
    ]
    for fewer, more in itertools.pairwise(runs):
        assert (more.robust <= fewer.robust).all()
        assert (more.margin <= fewer.margin + 1e-9)[more.robust].all()


def test_floats_are_8_bit_images():
    model = small_bagnet()
    images = noise(5, 20, 20, seed=8)
    labels = predicted(model, images)
    victim = Victim(model)
    whole = attack(victim, images, labels, (5, 5), (3, 4), steps=3)
    for floats in (images.double() / 255, images.float() / 255):
        result = attack(victim, floats, labels, (5, 5), (3, 4), steps=3)
        same(result, whole)
        assert torch.equal(result.patched(floats), whole.patched(images))


def test_one_corner_is_every_images():
    victim = Victim(Linear(3, 6, 1))
    images = noise(5, 6, 6, seed=9)
    labels = predicted(victim.exact, images)
    labels[2] = (labels[2] + 1) % 3
    runs = [
        attack(victim, images, labels, (2, 3), corners, steps=5)
        for corners in (
            (3, 2),
            torch.tensor([3, 2]).view(1, 1, 1, 2),
            torch.tensor([3, 2]).expand(5, 1, 1, 2),
        )
    ]
    for other in runs[1:]:
        same(other, runs[0])
    assert runs[0].corners[:, 0].tolist() == [[3, 2]] * 2 + [[-1, -1]] + [[3, 2]] * 2


def test_the_corners_are_among_those_that_were_given():
    victim = Victim(Linear(4, 6, 2))
    images = noise(8, 6, 6, seed=10)
    labels = predicted(victim.exact, images)
    corners = random_places(8, 3, (2, 2), (6, 6), 2, seed=1)
    result = attack(victim, images, labels, (2, 2), corners, steps=5)
    for i in range(8):
        assert any(torch.equal(result.corners[i], places) for places in corners[i])
    assert any(not torch.equal(result.corners[i], corners[i, 0]) for i in range(8))


def test_a_universal_patch_is_the_same_everywhere():
    defense = Defense(Logits("1", "255"), Sum())
    victim = Victim(Pixels(), defense)
    images, labels = favored(10, 4, 4, 5, 130.0)
    images = images.gather(1, ((torch.arange(3) + labels[:, None]) % 3)[:, :, None, None].expand_as(images))
    labels = torch.zeros(10, dtype=torch.int64)  # its label's channel came first
    corners = random_places(10, 1, (2, 2), (4, 4), seed=2)
    best, _ = best_of_pixels(victim, images, labels, (2, 2), corners, 255.0)
    result = universal(victim, images, labels, (2, 2), corners, steps=60)
    valid(result, images, labels, victim.exact, defense)
    contents = result.content[result.clean]
    assert torch.equal(contents, contents[:1].expand_as(contents))
    assert result.robust.tolist() == [
        c and margin > 0 for c, margin in zip(result.clean.tolist(), best, strict=True)
    ], "black in the label's channel and white in the others suits every image here"
    assert 1 <= result.robust.sum() < result.clean.sum()
    same(universal(victim, images, labels, (2, 2), corners, steps=60), result)


def test_a_universal_patch_on_labels_that_disagree():
    model = small_bagnet()
    images = noise(6, 20, 20, seed=11)
    labels = predicted(model, images)
    labels[1] = (labels[1] + 1) % 4
    corners = random_places(6, 2, (7, 7), (20, 20), seed=2)
    result = universal(Victim(model), images, labels, (7, 7), corners, steps=5, seed=1)
    valid(result, images, labels, model, None)
    contents = result.content[result.clean]
    assert torch.equal(contents, contents[:1].expand_as(contents))


def test_a_model_is_left_as_it_was():
    model = nn.Sequential(small_bagnet(), nn.Dropout(0.5), nn.BatchNorm2d(4)).train()
    model[0].body.requires_grad_(False)
    model[1].eval()
    images = noise(4, 20, 20)
    labels = predicted(model, images)
    kept = images.clone(), labels.clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    victim = Victim(model)
    for method in METHODS:
        result = attack(victim, images, labels, (3, 3), (1, 1), method=method, steps=2)
        valid(result, images, labels, model, None)
    universal(victim, images, labels, (3, 3), (1, 1), steps=2)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])


# --- shipped weights: no certified image falls --------------------------------------------------------------

BAGNET = DATA / "shapes-bagnet-margin.safetensors"


@pytest.mark.parametrize(
    ("defense", "transform", "k", "options"),
    [
        ("mask", None, 1, {}),
        ("mask", None, 2, {"detection_threshold": "0.05"}),
        ("mask", "confidence", 1, {}),
        ("features", None, 1, {}),
        ("clip", None, 1, {}),
        ("vote", None, 1, {"vote_threshold": "0.3"}),
    ],
)
def test_no_certified_image_falls(defense, transform, k, options):
    patch = 9, 9
    images, labels = shapes.dataset("test", 24)
    victim, windows = load_victim(BAGNET, patch, defense, transform, k=k, **options)
    model, about = models.load_model(BAGNET)
    seen = models.geometry(model, 64)
    assert windows == malicious_windows(*patch, seen)
    source = Evidence(torch.zeros(1, 10, 16, 16), None, seen, about["step"], about["clip_high"])
    expected = make_defense(defense, windows, transform=transform, source=source, **options)
    assert victim.defense.transform == expected.transform
    assert type(victim.defense.aggregate) is type(expected.aggregate)
    assert vars(victim.defense.aggregate) == vars(expected.aggregate)
    maps = exact_maps(model, images)
    certificate = certify(maps, labels, expected, windows, k)
    corners = torch.cat(
        [
            evidence_places(victim, images, labels, patch, 1, windows),
            gradient_places(victim, images, labels, patch, 1),
            random_places(24, 1, patch, (64, 64)),
        ],
        1,
    )
    robust = torch.ones(24, dtype=torch.bool)
    for method, steps in (("gradient", 6), ("search", 6)):
        result = attack(victim, images, labels, patch, corners, method=method, steps=steps)
        valid(result, images, labels, model, expected, k)
        assert torch.equal(result.clean, certificate.clean)
        assert not (certificate.certified & ~result.robust).any()
        assert (result.margin >= certificate.margin_units)[result.clean].all()
        robust &= result.robust
    assert certificate.certified.any() or defense in ("clip", "vote")


def test_no_certified_image_falls_to_two_patches():
    """At once, at the worst places of one."""
    patch, k = (5, 5), 2
    images, labels = shapes.dataset("test", 16)
    victim, windows = load_victim(BAGNET, patch, "features", patches=2, k=k)
    assert victim.defense.aggregate.alpha == 2 * max(w.height * w.width for w in windows)
    certificate = certify(victim.evidence(images), labels, victim.defense, windows, k, patches=2)
    corners = evidence_places(victim, images, labels, patch, 4, windows).view(16, 2, 2, 2)
    result = attack(victim, images, labels, patch, corners, steps=6)
    valid(result, images, labels, models.load_model(BAGNET)[0], victim.defense, k)
    assert torch.equal(result.clean, certificate.clean)
    assert (certificate.certified <= result.robust).all()
    assert certificate.certified.any()
    assert (result.margin >= certificate.margin_units)[result.clean].all()


def test_an_undefended_network_falls():
    images, labels = shapes.dataset("test", 12)
    victim, windows = load_victim(DATA / "shapes-resnet.safetensors", (9, 9), None)
    assert victim.defense is None
    assert load_victim(DATA / "shapes-resnet.safetensors", (9, 9), "none")[0].defense is None
    assert [(w.height, w.width) for w in windows] == [(1, 1)]
    corners = gradient_places(victim, images, labels, (9, 9), 2)
    result = attack(victim, images, labels, (9, 9), corners, steps=15)
    valid(result, images, labels, models.load_model(DATA / "shapes-resnet.safetensors")[0], None)
    assert result.clean.sum() >= 11
    assert result.robust.sum() <= 3


def test_bands_that_wrap_hold_what_is_certified():
    path, patch = DATA / "shapes-ds.safetensors", (5, 5)
    images, labels = shapes.dataset("test", 3)
    victim, windows = load_victim(path, patch, "vote")
    maps = victim.evidence(images)
    certificate = certify(maps, labels, victim.defense, windows)
    corners = evidence_places(victim, images, labels, patch, 1, windows)
    result = attack(victim, images, labels, patch, corners, steps=2)
    assert torch.equal(result.clean, certificate.clean)
    assert (certificate.certified <= result.robust).all()
    assert (result.margin >= certificate.margin_units)[result.clean].all()


# --- bad input ----------------------------------------------------------------------------------------------


def refused(argument: str) -> str:
    """One line that begins with the argument and says what is allowed."""
    return rf"\A({argument}): [^\n]*allowed[^\n]*\Z"


def broken(value: float) -> Tensor:
    images = noise(4, 6, 6).double() / 255
    images[1, 2, 3, 4] = value
    return images


BAD = [
    ("patch", {"patch": (7, 2)}),
    ("patch", {"patch": (2, 7)}),
    ("patch", {"patch": (0, 2)}),
    ("images", {"images": broken(math.nan)}),
    ("images", {"images": broken(1.001)}),
    ("images", {"images": broken(-0.001)}),
    ("images", {"images": broken(math.inf)}),
    ("images", {"images": noise(4, 6, 6)[0]}),
    ("images", {"images": noise(4, 6, 6).long()}),
    ("images", {"images": noise(4, 6, 6)[:0], "labels": torch.zeros(0, dtype=torch.int64)}),
    ("labels", {"labels": torch.tensor([0, 0, 0])}),
    ("labels", {"labels": torch.tensor([0, 0, 0, 3])}),
    ("labels", {"labels": torch.tensor([0, 0, 0, -1])}),
    ("labels", {"labels": torch.zeros(4)}),
    ("images|labels", {"labels": torch.tensor([1, 1, 1, 1])}),
    ("corners", {"corners": (5, 0)}),
    ("corners", {"corners": (0, 5)}),
    ("corners", {"corners": (-1, 0)}),
    ("corners", {"corners": torch.zeros(3, 1, 1, 2, dtype=torch.int64)}),
    ("corners", {"corners": torch.zeros(4, 1, 2, dtype=torch.int64)}),
    ("corners", {"corners": torch.zeros(4, 0, 1, 2, dtype=torch.int64)}),
    ("corners", {"corners": torch.zeros(4, 1, 1, 2)}),
    ("steps", {"steps": 0}),
    ("target", {"target": 3}),
    ("target", {"target": -1}),
    ("target", {"target": torch.tensor([1, 1])}),
    ("stencil", {"stencil": torch.ones(3, 2).bool()}),
    ("stencil", {"stencil": torch.zeros(2, 2).bool()}),
    ("stencil", {"stencil": torch.ones(2, 2)}),
    ("batch_size", {"batch_size": 0}),
]
BAD_ATTACKS = [
    ("method", {"method": "magic"}),
    ("restarts", {"restarts": 0}),
]


def first_class_wins() -> nn.Module:
    model = Linear(3, 6, 0)
    with torch.no_grad():
        model.weight[0] = 1.0
    return model


@pytest.mark.parametrize("how", [attack, universal])
@pytest.mark.parametrize(("argument", "changes"), BAD)
def test_bad_input_is_one_line(how, argument, changes):
    given = {"images": noise(4, 6, 6), "labels": torch.zeros(4, dtype=torch.int64), "patch": (2, 2)}
    given |= {"corners": (1, 1), "steps": 2}
    how(Victim(first_class_wins()), **given)
    with pytest.raises(InputError, match=refused(argument)):
        how(Victim(first_class_wins()), **(given | changes))


@pytest.mark.parametrize(("argument", "changes"), BAD_ATTACKS)
def test_bad_settings_are_one_line(argument, changes):
    images, labels = noise(4, 6, 6), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(InputError, match=refused(argument)):
        attack(Victim(first_class_wins()), images, labels, (2, 2), (1, 1), steps=2, **changes)


WHOLE = [all_windows(1, 1, 1, 1)]  # the linear network has one cell


def guarded() -> Victim:
    return Victim(first_class_wins(), Defense(Logits(), WindowMask(1, 1)))


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("patch", lambda: random_places(2, 2, (7, 1), (6, 6))),
        ("patch", lambda: grid_places((1, 7), (6, 6))),
        ("patch", lambda: grid_places((0, 1), (6, 6))),
        ("step|places", lambda: grid_places((1, 1), (6, 6), 0)),
        ("places", lambda: random_places(2, 0, (1, 1), (6, 6))),
        ("patches", lambda: random_places(2, 1, (1, 1), (6, 6), 0)),
        (
            "corners",
            lambda: paste(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 3, 2, 2), torch.tensor([[[3, 0]]])),
        ),
        (
            "corners",
            lambda: paste(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 3, 2, 2), torch.tensor([[[0, -1]]])),
        ),
        (
            "top-k|k",
            lambda: attack(
                Victim(first_class_wins(), k=3), noise(1, 6, 6), torch.tensor([0]), (2, 2), (0, 0)
            ),
        ),
        (
            "top-k|k",
            lambda: attack(
                Victim(first_class_wins(), k=0), noise(1, 6, 6), torch.tensor([0]), (2, 2), (0, 0)
            ),
        ),
        (
            "images",
            lambda: evidence_places(guarded(), broken(math.nan)[1:2], torch.tensor([0]), (2, 2), 1, WHOLE),
        ),
        (
            "images",
            lambda: gradient_places(guarded(), broken(1.5)[1:2], torch.tensor([0]), (2, 2), 1),
        ),
        ("places", lambda: evidence_places(guarded(), noise(1, 6, 6), torch.tensor([0]), (2, 2), 0, WHOLE)),
        (
            "places|defense",
            lambda: evidence_places(
                Victim(first_class_wins()), noise(1, 6, 6), torch.tensor([0]), (2, 2), 1, WHOLE
            ),
        ),
        ("model", lambda: Victim(nn.Flatten()).evidence(noise(1, 6, 6))),
        ("defense", lambda: load_victim(BAGNET, (9, 9), "magic")),
        ("transform", lambda: load_victim(BAGNET, (9, 9), "mask", "magic")),
        ("vote-threshold", lambda: load_victim(BAGNET, (9, 9), "mask", vote_threshold="0.3")),
        ("model", lambda: load_victim(DATA / "nothing.safetensors", (9, 9))),
        ("patch", lambda: load_victim(BAGNET, (65, 9))),
        (
            "places",
            lambda: gradient_places(Victim(first_class_wins()), noise(1, 6, 6), torch.tensor([0]), (2, 2), 0),
        ),
    ],
)
def test_bad_input_of_the_parts_is_one_line(argument, call):
    with pytest.raises(InputError, match=refused(argument)):
        call()


class Broken(nn.Module):
    """Two classes, NaN where the first pixel is dark."""

    def forward(self, x: Tensor) -> Tensor:
        red = x[:, :1, :1, :1]
        return torch.cat([torch.ones_like(red), 0 * red], 1).where(red >= 0.25, torch.nan)


class Pair(nn.Module):
    """Gives what is no map."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_nan_is_never_right() -> None:
    """A patch that makes scores NaN has won: nothing is right there."""
    victim = Victim(Broken())
    pixels, labels = torch.full((2, 3, 4, 4), 200, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    found = attack(victim, pixels, labels, (2, 2), (0, 0), method="search", steps=20)
    assert not found.robust.any()
    assert (found.margin == -torch.inf).all()
    assert (found.content[:, 0, 0, 0, 0] < 64).all()


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("seed", lambda v, x, y, w: attack(v, x, y, (9, 9), (0, 0), seed=2**70)),
        ("seed", lambda v, x, y, w: random_places(2, 2, (9, 9), (64, 64), seed=-1)),
        ("corners", lambda v, x, y, w: attack(v, x, y, (9, 9), torch.zeros(1, 1, 1, 2, dtype=torch.uint8))),
        ("patch", lambda v, x, y, w: attack(v, x, y, (9, 9, 9), (0, 0))),
        ("windows", lambda v, x, y, w: evidence_places(v, x, y, (9, 9), 2, [])),
        ("windows", lambda v, x, y, w: evidence_places(v, x, y, (25, 25), 2, w)),
        ("labels", lambda v, x, y, w: evidence_places(v, x, y[:1], (9, 9), 2, w)),
        ("labels", lambda v, x, y, w: gradient_places(v, x, y + 50, (9, 9), 2)),
        ("places", lambda v, x, y, w: random_places(256, 999_999_999, (9, 9), (64, 64))),
        ("places", lambda v, x, y, w: gradient_places(v, x, y, (9, 9), 999_999_999)),
        ("mask", lambda v, x, y, w: attack(v, x[..., :8, :8], y, (5, 5), (0, 0))),
        ("model", lambda v, x, y, w: attack(Victim(Pair()), x, y, (5, 5), (0, 0))),
    ],
)
def test_what_a_sceptic_typed_is_one_line(named: str, wrong: Callable[..., object]) -> None:
    victim, windows = load_victim(DATA / "shapes-bagnet.safetensors", (9, 9))
    pixels, labels = shapes.dataset("test", 2)
    with pytest.raises(InputError) as error:
        wrong(victim, pixels, labels, windows)
    assert str(error.value).startswith(named)
    assert "\n" not in str(error.value)


def test_places_by_gradient_repeat_the_first_where_there_are_no_more() -> None:
    victim, _ = load_victim(DATA / "shapes-bagnet.safetensors", (9, 9), None)
    pixels, labels = shapes.dataset("test", 1)
    places = gradient_places(victim, pixels, labels, (40, 40), 8)[0, :, 0]
    kinds = {tuple(place) for place in places.tolist()}
    rows, columns = ((places[:, None] - places[None]).abs()).unbind(-1)
    shared = (40 - rows).clamp(min=0) * (40 - columns).clamp(min=0)
    apart = 2 * shared < 40 * 40
    same = (rows == 0) & (columns == 0)
    assert (apart | same).all()
    assert len(kinds) < 8
    assert places[-1].tolist() == places[0].tolist()

"""Every defense of the appendix against the oracle, against an attacker who knows no bound, and in `pglearn
certify`: each transform with each aggregate, one window or several, every contract option.
"""

import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_certify import KINDS, THRESHOLDS, a_map, examples

from pglearn import InputError
from pglearn.certify import Certificate, certify, certify_file, certify_units
from pglearn.cli import main
from pglearn.defenses import (
    DEFENSES,
    Aggregate,
    Confidence,
    Defense,
    Logits,
    Prediction,
    Sum,
    Tanh,
    TopMask,
    WindowMask,
    make_defense,
)
from pglearn.defenses.boxes import cover
from pglearn.evidence import Evidence, EvidenceFile
from pglearn.geometry import Axis, Geometry, Layer, Windows, all_windows, receptive_field, shapes_up_to

INF, NAN = math.inf, math.nan
ODD = [INF, -INF, NAN, 1e300, -1e300, 0.0, -0.0, 1e-300]
TOPS = 1, 1, 1, 2, 2, 3, 10, 255, 65536, 2**27, 2**40  # the last two: sums around and far beyond 32 bits
THREATS = [*itertools.product(DEFENSES, (1,)), ("features", 2), ("clip", 2), ("vote", 2)]
Image = list[list[int]]  # C classes, H·W units each


def cells_of(windows: Sequence[Windows], width: int) -> list[oracle.Cells]:
    """The malicious windows as cells, in the order in which the library numbers them."""
    return [
        oracle.rectangle(r, c, w.height, w.width, width) for w in windows for r in w.rows for c in w.columns
    ]


def score_of(aggregate: Aggregate, height: int, width: int) -> oracle.Score:
    """The oracle's way to score what ``aggregate`` names."""
    match aggregate:
        case TopMask():
            return lambda m: oracle.without_heaviest(m, aggregate.alpha)
        case WindowMask():
            masks = oracle.placements(aggregate.height, aggregate.width, height, width, aggregate.wrap)
            return lambda m: oracle.score(m, masks, Fraction(aggregate.threshold))
        case _:
            return oracle.total


def holds(scores: Sequence[int], y: int, k: int) -> bool:
    return sum(s >= scores[y] for c, s in enumerate(scores) if c != y) < k


@dataclass(frozen=True)
class Case:
    """Some images in units and everything a certificate depends on."""

    units: torch.Tensor  # (N, C, H, W)
    labels: list[int]
    aggregate: Aggregate
    windows: list[Windows]
    top: int
    k: int
    patches: int = 1
    unlabelled: bool = False

    @property
    def cells(self) -> list[oracle.Cells]:
        return cells_of(self.windows, self.units.shape[3])

    @property
    def threats(self) -> list[oracle.Cells]:
        """All that the attacker can hold at once."""
        return self.cells if self.patches == 1 else oracle.unions(self.cells, self.patches)

    @property
    def score(self) -> oracle.Score:
        return score_of(self.aggregate, *self.units.shape[2:])

    @property
    def lures(self) -> dict:
        """What the attacker needs to know of a threshold."""
        if not isinstance(self.aggregate, WindowMask) or self.aggregate.threshold == "0":
            return {}
        mask = self.aggregate
        masks = oracle.placements(mask.height, mask.width, *self.units.shape[2:], mask.wrap)
        return {"masks": masks, "t": Fraction(mask.threshold)}

    def images(self) -> list[Image]:
        return self.units.flatten(2).tolist()

    def certificate(self) -> Certificate:
        labels = None if self.unlabelled else torch.tensor(self.labels)
        more = {} if self.patches == 1 else {"patches": self.patches}
        return certify_units(self.units, labels, self.aggregate, self.windows, self.top, self.k, **more)

    def verdicts(self) -> list[oracle.Verdict]:
        labels = [None] * len(self.labels) if self.unlabelled else self.labels
        found = []
        for image, y in zip(self.images(), labels, strict=True):
            if self.lures:
                found.append(
                    oracle.certify(image, y, windows=self.threats, top=self.top, k=self.k, **self.lures)
                )
            else:
                found.append(oracle.exactly(image, y, self.score, self.threats, self.top, self.k))
        return found

    def flips(self, i: int, y: int) -> bool:
        """Whether the attacker finds an image that is no longer clean, wherever the windows lie."""
        for w in self.threats:
            struck = oracle.strike(self.images()[i], y, self.score, w, self.top, i, **self.lures)
            if not holds([self.score(m) for m in struck], y, self.k):
                return True
        return False


def some_windows(rng: random.Random, height: int, width: int, wrap: bool, most: int = 3) -> list[Windows]:
    windows = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        shape = rng.randint(1, min(most, height)), rng.randint(1, min(most, width))
        every = all_windows(*shape, height, width, wrap)
        rows, columns = every.rows, every.columns
        if rng.random() < 0.2:
            rows = tuple(sorted(rng.sample(rows, rng.randint(1, len(rows)))))
            columns = tuple(sorted(rng.sample(columns, rng.randint(1, len(columns)))))
        windows.append(Windows(*shape, rows, columns, wrap))
        wrap = wrap and rng.random() < 0.7  # some wrap, some do not
    return windows


def some_aggregate(
    rng: random.Random, windows: list[Windows], height: int, width: int, wrap: bool, patches: int = 1
) -> Aggregate:
    least = [max(getattr(w, side) for w in windows) for side in ("height", "width")]
    area = max(w.height * w.width for w in windows)
    match rng.randrange(4):
        case 0:
            return Sum()
        case 1:
            alphas = (area, area, area + 1, area + 2, 2 * area, height * width, height * width + 3)
            return TopMask(patches * rng.choice(alphas))
        case _:
            mask = [rng.randint(low, high) for low, high in zip(least, (height, width), strict=True)]
            mask = rng.choice((least, mask))
            threshold = rng.choice(THRESHOLDS) if patches == 1 else "0"
            return WindowMask(*mask, threshold, wrap or rng.random() < 0.1)


def some_images(
    rng: random.Random, count: int, classes: int, height: int, width: int, top: int
) -> tuple[torch.Tensor, list[int]]:
    labels, maps = [], []
    kind, own, share = rng.choice(KINDS), rng.choice((*KINDS, "close")), rng.choice((1, 2, 4, 8, 32))
    for _ in range(count):
        y = rng.randrange(classes)
        image = [[x // share for x in a_map(kind, height * width, top, rng)] for _ in range(classes)]
        if rng.random() < 0.8:  # something to certify: the label leads
            image[y] = a_map(own, height * width, top, rng)
        labels.append(y)
        maps.append(image)
    return torch.tensor(maps).view(count, classes, height, width), labels


def some_case(seed: int, patches: int = 1, side: int = 5, tops: Sequence[int] = TOPS) -> Case:
    rng = random.Random(seed)
    height, width = rng.choice((1, rng.randint(1, side), rng.randint(2, side))), rng.randint(2, side + 1)
    wrap = rng.random() < 0.25
    classes, top = rng.randint(2, 5), rng.choice(tops)
    windows = some_windows(rng, height, width, wrap, 3 if patches == 1 else rng.choice((2, 2, 3)))
    aggregate = some_aggregate(rng, windows, height, width, wrap, patches)
    units, labels = some_images(rng, 3, classes, height, width, top)
    k = rng.randint(1, min(3, classes - 1))
    return Case(units, labels, aggregate, windows, top, k, patches, rng.random() < 0.2)


# --- transforms ---------------------------------------------------------------------------------------------


def cellwise(maps: torch.Tensor, transform: Callable[[list[float]], list[int]]) -> torch.Tensor:
    """Apply one cell's definition, over all classes, everywhere."""
    cells = maps.movedim(1, -1)  # (N, H, W, C)
    units = [transform(cell) for cell in cells.reshape(-1, maps.shape[1]).tolist()]
    return torch.tensor(units).view(cells.shape).movedim(-1, 1)


def rough(seed: int, classes: int, shape: tuple[int, int] = (3, 4), images: int = 2) -> torch.Tensor:
    """Evidence with ties, huge numbers, infinities and NaN in it."""
    rng = random.Random(seed)
    spread = rng.choice((0.5, 3.0, 30.0))

    def number() -> float:
        if rng.random() < 0.1:
            return rng.choice(ODD)
        return rng.choice((rng.gauss(0, spread), rng.gauss(0, spread), float(rng.randint(-2, 2))))

    count = images * classes * shape[0] * shape[1]
    return torch.tensor([number() for _ in range(count)], dtype=torch.float64).view(images, classes, *shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("unit", ["1", "0.25"])
def test_transforms_are_their_definitions(dtype, unit):
    fine = float(unit)
    for seed, step in itertools.product(range(6), ("0.0009765625", "0.1", "0.3", "1")):
        raw = rough(seed, 2 + seed % 5).to(dtype)
        s, exact = float(step), raw.double()
        confident = cellwise(exact, partial(oracle.confidence, step=s, unit=fine))
        bent = torch.tensor([oracle.tanh(x, s, fine) for x in exact.flatten().tolist()]).view(raw.shape)
        voted = cellwise(exact, partial(oracle.votes, threshold=0.3, unit=fine))
        for transform, expected, top in [
            (Confidence(step, unit), confident, round(1 / s)),
            (Tanh(step, unit), bent, 2 * round(1 / s)),
            (Prediction(vote_threshold="0.3", unit=unit), voted, 1),
        ]:
            units = transform(raw)
            assert torch.equal(units.long(), expected)
            assert transform.top == top
            assert 0 <= units.min() <= units.max() <= top
            assert not units.is_floating_point()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
def test_fixed_point_is_the_evidence_that_it_stands_for(dtype):
    raw = torch.randint(0 if dtype == torch.uint8 else -100, 100, (3, 4, 3, 3)).to(dtype)
    real = raw.double() / 16
    assert torch.equal(Confidence(unit="0.0625")(raw), Confidence()(real))
    assert torch.equal(Tanh(unit="0.0625")(raw), Tanh()(real))
    assert torch.equal(Prediction(unit="0.0625")(raw), Prediction()(real))


def test_what_no_number_is_has_no_confidence():
    """NaN is no evidence; infinite evidence beats all that is finite; where there is none nothing is
    confident.
    """
    cells = [
        ([NAN, 0.0, 0.0], [0, 512, 512]),
        ([INF, 5.0, NAN], [1024, 0, 0]),
        ([INF, INF, 5.0], [1024, 1024, 0]),
        ([NAN, NAN, NAN], [0, 0, 0]),
        ([-INF, -INF, -INF], [0, 0, 0]),
        ([-INF, NAN, 3.0], [0, 0, 1024]),
        ([1e308, -1e308, 0.0], [1024, 0, 0]),
    ]
    for cell, units in cells:
        raw = torch.tensor(cell, dtype=torch.float64).view(1, 3, 1, 1)
        assert Confidence()(raw).flatten().tolist() == units == oracle.confidence(cell, 2**-10)
        assert Prediction(vote_threshold="0.5")(raw).flatten().tolist() == [int(u >= 512) for u in units]
    ends = torch.tensor([INF, -INF, NAN, 20.0, 1e308, -1e308], dtype=torch.float64).view(1, 6, 1, 1)
    assert Tanh()(ends).flatten().tolist() == [2048, 0, 0, 1024, 2048, 0]
    assert Tanh("0.5")(ends).flatten().tolist() == [4, 0, 0, 2, 4, 0]


def test_a_confidence_equal_to_the_threshold_votes():
    for classes, threshold in ((2, "0.5"), (4, "0.25"), (5, "0.2"), (10, "0.1"), (8, "0.125")):
        raw = torch.full((1, classes, 1, 2), 3.0)
        raw[0, 0, 0, 1] = 2.999
        votes = Prediction(vote_threshold=threshold)(raw)
        assert votes[0, :, 0, 0].tolist() == [1] * classes
        assert votes[0, :, 0, 1].tolist() == [0] + [1] * (classes - 1)
    assert Prediction(vote_threshold="1")(torch.tensor([INF, 0.0]).view(1, 2, 1, 1)).flatten().tolist() == [
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Confidence("0"), "step"),
        (lambda: Confidence("-0.5"), "step"),
        (lambda: Confidence("nan"), "step"),
        (lambda: Confidence("2.5"), "step"),
        (lambda: Confidence("1e-40"), "step"),
        (lambda: Tanh("0"), "step"),
        (lambda: Tanh("inf"), "step"),
        (lambda: Tanh("2.5"), "step"),
        (lambda: Tanh("1e-40"), "step"),
        (lambda: Confidence(unit="0"), "unit"),
        (lambda: Confidence(unit="-1"), "unit"),
        (lambda: Tanh(unit="nan"), "unit"),
        (lambda: Prediction(unit="x"), "unit"),
        (lambda: Prediction(vote_threshold="0"), "vote"),
        (lambda: Prediction(vote_threshold="-0.1"), "vote"),
        (lambda: Prediction(vote_threshold="1.0001"), "vote"),
        (lambda: Prediction(vote_threshold="nan"), "vote"),
        (lambda: TopMask(0), "mask|alpha"),
        (lambda: TopMask(-1), "mask|alpha"),
    ],
)
def test_constants_that_mean_nothing_are_refused(make, name):
    with pytest.raises(InputError, match=f"^[^:]*({name})[^:]*: .*allowed: "):
        make()


# --- the oracle itself --------------------------------------------------------------------------------------


def test_the_oracle_of_any_cells_is_the_worst_over_all_sets_of_cells():
    for seed in range(30):
        rng = random.Random(seed)
        size, top, alpha, cells = (
            rng.randint(1, 6),
            rng.choice((1, 3, 9)),
            rng.randint(1, 4),
            rng.randint(1, 3),
        )
        image = [a_map(rng.choice(KINDS), size, top, rng) for _ in range(3)]
        sets = oracle.unions([frozenset([i]) for i in range(size)], cells)

        def score(m: oracle.Map, alpha: int = alpha) -> int:
            return oracle.without_heaviest(m, alpha)

        least = min(score(oracle.overwrite(image[0], s, 0)) for s in sets)
        reach = [max(score(oracle.overwrite(m, s, top)) for s in sets) for m in image[1:]]
        for k in (1, 2):
            assert oracle.any_cells(image, 0, alpha, cells, top, k) == least - sorted(reach)[-k]
            exact = oracle.exactly(image, 0, score, sets, top, k)
            assert exact.margin >= oracle.any_cells(image, 0, alpha, cells, top, k)


def test_the_oracle_of_masking_is_the_oracle_of_monotone_scores_at_no_threshold():
    for seed in range(60):
        case = some_case(seed)
        if isinstance(case.aggregate, WindowMask) and not case.lures:
            mask = case.aggregate
            masks = oracle.placements(mask.height, mask.width, *case.units.shape[2:], mask.wrap)
            for image, y, expected in zip(case.images(), case.labels, case.verdicts(), strict=True):
                y = None if case.unlabelled else y
                found = oracle.certify(image, y, masks, case.cells, Fraction(0), case.top, case.k)
                assert found == expected


# --- one window ---------------------------------------------------------------------------------------------


def agrees(case: Case) -> Certificate:
    """Prediction, clean, certified, margin and worst window of every image equal the oracle's."""
    found = case.certificate()
    assert found.margin_units.dtype == found.prediction.dtype == torch.int64
    assert len(found.prediction) == len(found.margin_units) == len(case.labels)
    for i, expected in enumerate(case.verdicts()):
        assert found.prediction[i] == expected.prediction
        assert found.clean[i] == expected.clean
        assert found.margin_units[i] == expected.margin
        assert found.certified[i] == expected.certified == (expected.margin > 0)
        row, column, height, width = found.worst[i].tolist()
        assert oracle.rectangle(row, column, height, width, case.units.shape[3]) in expected.worst
    return found


@examples(300)
@given(st.integers(0, 2**32))
def test_one_window(seed):
    agrees(some_case(seed))


def test_one_window_meets_all_that_matters():
    """The same on fixed cases, and they hold what an error would hide in: ties, narrow leads, wrap, every
    aggregate.
    """
    seen = set()
    for seed in range(350):
        case = some_case(seed)
        found = agrees(case)
        kind = type(case.aggregate).__name__ + (" T" if case.lures else "")
        seen |= {(kind, margin) for margin in found.margin_units.tolist() if margin in (0, 1)}
        seen |= {
            (kind, "wrap") for w in case.windows if w.wrap and max(w.columns) + w.width > case.units.shape[3]
        }
        seen |= {(kind, "k", case.k), (kind, "row", case.units.shape[2] == 1)}
        seen |= {(kind, "certified", c) for c in found.certified.tolist()}
        if isinstance(case.aggregate, WindowMask):
            area = case.aggregate.height * case.aggregate.width
            seen.add((kind, "larger", area > max(w.height * w.width for w in case.windows)))
        if isinstance(case.aggregate, TopMask):
            alpha, area = case.aggregate.alpha, max(w.height * w.width for w in case.windows)
            seen.add((kind, "alpha", (alpha > area) + (alpha > math.prod(case.units.shape[2:]))))
    for kind in ("Sum", "TopMask", "WindowMask", "WindowMask T"):
        wanted = {(kind, 0), (kind, 1), (kind, "wrap"), (kind, "row", True), (kind, "certified", True)}
        wanted |= {(kind, "certified", False)} | {(kind, "k", k) for k in (1, 2, 3)}
        assert wanted <= seen
    assert {("TopMask", "alpha", more) for more in (0, 1, 2)} <= seen
    assert {("WindowMask T", "larger", True), ("WindowMask", "larger", True)} <= seen


def test_many_classes():
    """Where the library may leave classes out, it leaves out none that matter."""
    for seed in range(30):
        rng = random.Random(seed)
        height, width, top = rng.randint(2, 4), rng.randint(2, 4), rng.choice((1, 5, 100))
        windows = some_windows(rng, height, width, seed % 3 == 0, 2)
        aggregate = some_aggregate(rng, windows, height, width, seed % 3 == 0)
        units, labels = some_images(rng, 2, 60, height, width, top)
        agrees(Case(units, labels, aggregate, windows, top, rng.choice((1, 2, 5)), unlabelled=seed % 5 == 0))


def test_classes_with_much_evidence_in_one_place_hide_those_that_matter():
    """Thirty classes whose whole sums come first, all in one block that a mask or a window takes away."""
    rng = random.Random("decoys")
    for seed, aggregate in itertools.product(range(6), (Sum(), TopMask(4), TopMask(8), WindowMask(2, 2))):
        units = torch.zeros(2, 45, 4, 4, dtype=torch.int64)
        units[:, :30, 1:3, 1:3] = (40, 120)[seed % 2]
        units[:, 30:] = torch.randint(0, 9, (2, 15, 4, 4), generator=torch.Generator().manual_seed(seed))
        labels = [rng.randrange(30, 45) for _ in range(2)]
        for image, y in zip(units, labels, strict=True):
            image[y] += (0, 9, 14)[seed % 3]
            image[y, 1:3, 1:3] = 40
            if seed > 2:  # one class that nobody reaches: the label comes second
                image[44 if y < 44 else 30] += 60
        windows = [all_windows(2, 2, 4, 4), all_windows(1, 2, 4, 4)]
        for k, top in ((1, 120), (3, 120), (1, 150)):
            agrees(Case(units, labels, aggregate, windows, top, k, unlabelled=seed == 5))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_integers_of_any_width(dtype):
    top = 127 if dtype == torch.int8 else 255
    for seed in range(30):
        case = some_case(seed, 1 + seed % 2, tops=(top,))
        if case.patches > 1 and isinstance(case.aggregate, WindowMask):
            continue
        narrow = replace(case, units=case.units.to(dtype)).certificate()
        assert torch.equal(narrow.margin_units, case.certificate().margin_units)
        assert torch.equal(narrow.prediction, case.certificate().prediction)
        expected = [[case.score(m) for m in image] for image in case.images()]
        assert case.aggregate.scores(case.units.to(dtype)).tolist() == expected
        if case.patches == 1:  # by hand, with no certificate around it
            wide, thin = (
                case.aggregate.margins(units, torch.tensor(case.labels), top, case.windows[0], case.k)
                for units in (case.units, case.units.to(dtype))
            )
            assert torch.equal(wide, thin)


@pytest.mark.parametrize(("name", "patches"), THREATS)
def test_images_are_judged_alone(monkeypatch, tmp_path, name, patches):
    """In chunks, in a file's batches and one by one: the same."""
    raw = led(rough(2, 3, (4, 5), 80), [i % 3 for i in range(80)], 30)
    labels, windows = torch.tensor([i % 3 for i in range(80)]), [all_windows(1, 2, 4, 5)]
    defense = make_defense(name, windows, patches)
    whole = certify(raw, labels, defense, windows, patches=patches)
    assert 0 < whole.certified.sum() < 80
    Evidence(raw, labels).save(tmp_path / "file")
    monkeypatch.setattr("pglearn.certify.cells_at_once", lambda device: 1)
    chunks = certify(raw, labels, defense, windows, patches=patches)
    file = certify_file(EvidenceFile(tmp_path / "file"), defense, windows, patches=patches)
    alone = [certify(raw[i, None], labels[i, None], defense, windows, patches=patches) for i in range(80)]
    for found in (chunks, file, Certificate.join(alone)):
        assert all(
            torch.equal(getattr(found, field), getattr(whole, field))
            for field in ("prediction", "clean", "certified", "margin_units", "worst")
        )


TRANSFORMS = ["logits", "confidence", "prediction", "tanh"]


def transform_of(name: str, step: str = "0.25", high: str = "4", threshold: str = "0.2"):
    """The library's transform, and the oracle's, for one cell over all classes, with its top and step."""
    s, ends = float(step), round(1 / float(step))
    match name:
        case "logits":
            top = oracle.top_units(s, float(high))
            return Logits(step, high), lambda c: [oracle.to_units(x, s, float(high)) for x in c], top, step
        case "confidence":
            return Confidence(step), lambda c: oracle.confidence(c, s), ends, step
        case "prediction":
            return Prediction(vote_threshold=threshold), lambda c: oracle.votes(c, float(threshold)), 1, "1"
        case _:
            return Tanh(step), lambda c: [oracle.tanh(x, s) for x in c], 2 * ends, step


def led(raw: torch.Tensor, labels: list[int], by: float) -> torch.Tensor:
    """The same evidence, the label's raised, more and more, so that there is something to certify."""
    raw = raw.clone()
    for i, y in enumerate(labels, 1):
        raw[i - 1, y] += by * i / len(labels)
    return raw


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_with_every_aggregate(name):
    certified = {}
    for seed in range(60):
        rng = random.Random(seed)
        height, width, classes = rng.choice((1, 3, 4)), rng.randint(2, 5), rng.randint(2, 4)
        wrap = seed % 4 == 0
        windows = some_windows(rng, height, width, wrap, 2)
        aggregate = some_aggregate(rng, windows, height, width, wrap)
        labels = [rng.randrange(classes) for _ in range(4)]
        raw = led(rough(seed, classes, (height, width), 4), labels, rng.choice((0, 2, 6)))
        transform, definition, top, step = transform_of(name, rng.choice(("0.0009765625", "0.25", "0.4")))
        k = rng.randint(1, classes - 1)
        case = Case(cellwise(raw, definition), labels, aggregate, windows, top, k, 1, seed % 6 == 0)
        given_labels = None if case.unlabelled else torch.tensor(labels)
        found = certify(raw, given_labels, Defense(transform, aggregate), windows, k)
        verdicts = case.verdicts()
        assert found.prediction.tolist() == [v.prediction for v in verdicts]
        assert found.clean.tolist() == [v.clean for v in verdicts]
        assert found.certified.tolist() == [v.certified for v in verdicts]
        assert found.margin == [float(v.margin * Fraction(step)) for v in verdicts]
        assert Defense(transform, aggregate).scores(raw).tolist() == [
            [case.score(m) for m in image] for image in case.images()
        ]
        kind = type(aggregate).__name__
        certified[kind] = certified.get(kind, 0) + sum(v.certified for v in verdicts)
    assert len(certified) == 3
    assert min(certified.values()) > 0


def test_a_certificate_holds_whatever_is_written_in_the_raw_evidence():
    """The attacker writes floating-point numbers of any kind, the defended model reads them."""
    rng = random.Random("raw")
    checked = 0
    for seed in range(60):
        height, width, classes = rng.randint(2, 4), rng.randint(3, 4), 3
        windows = some_windows(rng, height, width, seed % 3 == 0, 2)
        aggregate = some_aggregate(rng, windows, height, width, seed % 3 == 0)
        transform = transform_of(TRANSFORMS[seed % 4])[0]
        labels = [rng.randrange(classes) for _ in range(3)]
        raw = led(
            torch.randn(3, classes, height, width, generator=torch.Generator().manual_seed(seed)), labels, 3
        )
        defense = Defense(transform, aggregate)
        found = certify(raw, torch.tensor(labels), defense, windows)
        for i, w in itertools.product(range(3), cells_of(windows, width)):
            if not found.certified[i]:
                continue
            inside = torch.tensor([c in w for c in range(height * width)]).view(height, width)
            attacked = raw[i].expand(12, -1, -1, -1).clone()
            for n, c in itertools.product(range(12), range(classes)):
                worst = -1e30 if c == labels[i] else 1e30
                others = [*ODD, rng.gauss(0, 9)]
                written = [worst if rng.random() < (1, 0.8, 0)[n % 3] else rng.choice(others) for _ in w]
                attacked[n, c, inside] = torch.tensor(written)
            scores = defense.scores(attacked)
            assert all(holds(row, labels[i], 1) for row in scores.tolist())
            checked += 1
    assert checked > 100


# --- P windows ----------------------------------------------------------------------------------------------


def several(seed: int, patches: int, most: int = 30, side: int = 5, tops: Sequence[int] = TOPS) -> Case:
    """A case for ``patches`` of up to ``most`` windows, so few that the oracle can try them all."""
    for again in itertools.count():
        case = some_case(seed + 10**9 * again, patches, side, tops)
        if not isinstance(case.aggregate, WindowMask) and len(set(case.cells)) <= most // (patches - 1 or 1):
            return case
    raise AssertionError


def exact_for_two(case: Case) -> bool:
    """Where the library promises the exact margin: two windows, a sum, k = 1."""
    return isinstance(case.aggregate, Sum) and case.patches == 2 and case.k == 1


def bounded(case: Case) -> Certificate:
    """Never above what the attacker gets, equal to it for two windows and a sum; never below what as many
    cells anywhere would do.
    """
    found = case.certificate()
    area = max(w.height * w.width for w in case.windows)
    assert (found.worst == -1).all()
    for i, (image, expected) in enumerate(zip(case.images(), case.verdicts(), strict=True)):
        y = expected.prediction if case.unlabelled else case.labels[i]
        assert found.prediction[i] == expected.prediction
        assert found.clean[i] == expected.clean
        margin = found.margin_units[i].item()
        assert margin <= expected.margin
        assert found.certified[i] == (margin > 0)
        if exact_for_two(case):
            assert margin == expected.margin
        alpha, anywhere = getattr(case.aggregate, "alpha", 0), case.patches * area
        assert margin >= oracle.any_cells(image, y, alpha, anywhere, case.top, case.k)
    return found


@examples(150)
@given(st.integers(0, 2**32), st.sampled_from([2, 2, 3]))
def test_several_windows(seed, patches):
    bounded(several(seed, patches))


def test_several_windows_meet_all_that_matters():
    seen = set()
    for seed in range(120):
        case = several(seed, 2 + (seed % 4 == 0))
        found = bounded(case)
        exact = torch.tensor([v.margin for v in case.verdicts()])
        kind = type(case.aggregate).__name__
        seen |= {(kind, "certified", c) for c in found.certified.tolist()} | {(kind, "k", case.k)}
        seen |= {(kind, "exact", same) for same in (found.margin_units == exact).tolist()}
        seen |= {(kind, "narrow") for margin in exact.tolist() if margin in (0, 1)}
        seen |= {(kind, "shapes", len({(w.height, w.width) for w in case.windows}) > 1)}
        seen |= {(kind, "wrap", any(w.wrap for w in case.windows))}
    for kind in ("Sum", "TopMask"):
        assert {(kind, "certified", c) for c in (True, False)} | {(kind, "k", k) for k in (1, 2, 3)} <= seen
        assert {(kind, "exact", True), (kind, "narrow"), (kind, "shapes", True), (kind, "wrap", True)} <= seen


def test_two_windows_in_single_features_are_less_than_as_many_cells_anywhere():
    """Sixteen heavy cells that lie apart: two windows of 2x2 reach two of them, eight cells anywhere reach
    eight, and the mask takes eight more.
    """
    units = torch.full((1, 2, 8, 8), 3)
    units[0, 1], units[0, 0, ::2, ::2] = 5, 60
    windows = [all_windows(2, 2, 8, 8)]
    image, unions = units[0].flatten(1).tolist(), oracle.unions(cells_of(windows, 8), 2)
    found = certify_units(units, torch.tensor([0]), TopMask(8), windows, 60, patches=2)
    exact = oracle.exactly(image, 0, lambda m: oracle.without_heaviest(m, 8), unions, 60)
    assert oracle.any_cells(image, 0, 8, 8, 60) == -136
    assert 200 < found.margin_units.item() <= exact.margin == 206


def test_two_windows_in_single_features_come_near_the_exact_margin():
    """Of what lies between any eight (four, six) cells and two windows, the bound wins nine tenths."""
    any_cells = exact = mine = 0
    for seed in range(30):
        rng = random.Random(seed)
        label = [[3 * i for i in range(36)], [rng.choice((5, 10, 20, 99)) for _ in range(36)]][seed % 2]
        rng.shuffle(label)
        image, shape = [label, [rng.randint(0, 9) for _ in label]], rng.choice(((1, 2), (2, 2), (1, 3)))
        windows, alpha = [all_windows(*shape, 6, 6)], 2 * shape[0] * shape[1]
        score, unions = partial(oracle.without_heaviest, alpha=alpha), oracle.unions(cells_of(windows, 6), 2)
        units = torch.tensor(image).view(1, 2, 6, 6)
        mine += certify_units(
            units, torch.tensor([0]), TopMask(alpha), windows, 110, patches=2
        ).margin_units.item()
        any_cells += oracle.any_cells(image, 0, alpha, alpha, 110)
        exact += oracle.exactly(image, 0, score, unions, 110).margin
    assert any_cells + 0.9 * (exact - any_cells) <= mine <= exact


@pytest.mark.parametrize("patches", [2, 3, 4])
def test_no_union_weighs_more_than_its_cover(patches):
    """Two windows exactly that much, at weights of any sign."""
    for seed in range(60):
        rng = random.Random(seed)
        height, width = rng.randint(1, 4), rng.randint(2, 4)
        windows = some_windows(rng, height, width, seed % 4 == 0)
        cells = [rng.choice((-5, -1, 0, rng.randint(-9, 9), 10)) for _ in range(height * width)]
        if len(set(cells_of(windows, width))) > 36 // patches:
            continue
        heaviest = max(oracle.inside(cells, u) for u in oracle.unions(cells_of(windows, width), patches))
        found = cover(torch.tensor(cells).view(1, height, width), windows, patches).item()
        assert found == heaviest if patches == 2 and heaviest >= 0 else found >= heaviest


def test_windows_that_share_what_the_attacker_would_rather_not_hold():
    """Four windows around one cell where the rival has its evidence: three of them hold that cell once, and
    not, as their pairs do, three times.
    """
    units = torch.zeros(1, 2, 7, 7, dtype=torch.int64)
    units[0, 0], units[0, 0, 3, 3], units[0, 1, 3, 3] = 10, 0, 8
    windows = [Windows(1, 2, (3,), (2, 3)), Windows(2, 1, (2, 3), (3,))]
    case = Case(units, [0], TopMask(6), windows, 10, 1, 3)
    assert [v.margin for v in case.verdicts()] == [390]
    assert bounded(case).certified.all()


def test_one_of_one_window_is_one_window():
    for seed in range(40):
        case = some_case(seed)
        labels = torch.tensor(case.labels)
        arguments = (case.units, labels, case.aggregate, case.windows, case.top, case.k)
        one, default = certify_units(*arguments, patches=1), certify_units(*arguments)
        assert torch.equal(one.margin_units, default.margin_units)
        assert torch.equal(one.worst, default.worst)


@pytest.mark.parametrize("patches", [12, 13, 1000, 2**31, 2**56, 2**57, 2**58, 2**61, 2**63, 2**64, 10**30])
def test_more_windows_than_cells_hold_every_cell(patches):
    """No count of patches is too large to be answered, and none certifies anything any more."""
    units = torch.randint(0, 4, (4, 3, 3, 4), generator=torch.Generator().manual_seed(0)) * 10
    units[:, 0] += 30
    windows = [all_windows(1, 2, 3, 4), all_windows(1, 1, 3, 4)]
    for aggregate in (Sum(), TopMask(2 * patches)):
        found = certify_units(units, torch.tensor([0] * 4), aggregate, windows, 60, patches=patches)
        assert found.certified.tolist() == [False] * 4
        if isinstance(aggregate, Sum):
            assert (found.margin_units <= -12 * 60).all()


@pytest.mark.parametrize("patches", range(2, 7))
def test_sums_that_just_fit_in_32_bits(patches):
    """What is added up over several windows may not."""
    top = (2**31 - 1) // 6
    for seed in range(12):
        units, labels = some_images(random.Random(seed), 3, 3, 2, 3, top)
        windows = [all_windows(1, 1, 2, 3), all_windows(1, 2, 2, 3)]
        for aggregate in (Sum(), TopMask(2 * patches)):
            bounded(Case(units, labels, aggregate, windows, top, 1 + seed % 2, patches))


def test_a_window_around_the_whole_map_may_start_anywhere():
    units, labels = some_images(random.Random(3), 4, 3, 2, 4, 9)
    everywhere, once = Windows(1, 4, (0, 1), (0, 1, 2, 3), True), Windows(1, 4, (0, 1), (0,))
    for aggregate, patches in itertools.product((Sum(), TopMask(8), WindowMask(1, 4, wrap=True)), (1, 2)):
        if patches == 1 or not isinstance(aggregate, WindowMask):
            found, expected = (
                certify_units(units, torch.tensor(labels), aggregate, [windows], 9, patches=patches)
                for windows in (everywhere, once)
            )
            assert torch.equal(found.margin_units, expected.margin_units)


class Median(Aggregate):
    """Any score that never falls has exact bounds; this one is nobody's closed form."""

    def scores(self, units):
        return units.flatten(2).median(-1).values


@pytest.mark.parametrize("patches", [1, 2, 3])
def test_the_generic_loop_over_unions_is_exact(patches):
    for seed in range(16 if patches < 3 else 8):
        case = several(seed, patches)
        labels = torch.tensor(case.labels)
        mask = WindowMask(2, 2, wrap=case.windows[0].wrap)
        for aggregate in (case.aggregate, Median(), mask):
            if aggregate is mask and min(case.units.shape[2:]) < 2:
                continue
            found = Aggregate.margin_of_many(
                aggregate, case.units, labels, case.top, case.windows, case.k, patches
            )
            score = score_of(aggregate, *case.units.shape[2:])
            if isinstance(aggregate, Median):
                score = lambda m: sorted(m)[(len(m) - 1) // 2]  # noqa: E731
            unions = oracle.unions(case.cells, patches)
            assert found.tolist() == [
                oracle.exactly(image, y, score, unions, case.top, case.k).margin
                for image, y in zip(case.images(), case.labels, strict=True)
            ]


def test_more_unions_than_can_be_tried_are_refused():
    units = torch.ones(1, 2, 9, 9, dtype=torch.int64)
    with pytest.raises(InputError, match=r"^patches: .*allowed: "):
        certify_units(units, torch.tensor([0]), Median(), [all_windows(1, 1, 9, 9)], 1, patches=6)


def test_no_rectangle_of_an_area_is_forgotten():
    for area, height, width in itertools.product(range(1, 14), range(1, 6), range(1, 6)):
        every = oracle.shapes_within(area, height, width)
        found = shapes_up_to(area, height, width)
        assert len(set(found)) == len(found)
        assert set(found) == {(h, w) for h, w in every if (h + 1, w) not in every and (h, w + 1) not in every}


@pytest.mark.parametrize("area", [2, 3, 4, 6])
def test_every_rectangle_up_to_an_area(area):
    """The largest shapes stand for all: the margin is the oracle's over every shape of that many cells."""
    rng = random.Random(area)
    for aggregate in (Sum(), TopMask(area), WindowMask(3, 4)):
        units, labels = some_images(rng, 6, 3, 3, 4, 3)
        windows = [all_windows(*shape, 3, 4) for shape in shapes_up_to(area, 3, 4)]
        cells = [v for shape in oracle.shapes_within(area, 3, 4) for v in oracle.placements(*shape, 3, 4)]
        found = certify_units(units, torch.tensor(labels), aggregate, windows, 3)
        assert found.margin_units.tolist() == [
            oracle.exactly(image, y, score_of(aggregate, 3, 4), cells, 3).margin
            for image, y in zip(units.flatten(2).tolist(), labels, strict=True)
        ]


# --- attacks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patches", [1, 2])
@pytest.mark.parametrize("tops", [(1, 2, 3), (20, 300)], ids=["tiny", "strategic"])
def test_what_is_certified_never_flips(patches, tops):
    """Wherever the windows lie; on tiny grids whatever is written there. And what is exact never errs."""
    certified = uncertified = 0
    for seed in range(160):
        case = some_case(seed, 1, 3, tops) if patches == 1 else several(seed, patches, 15, 4, tops)
        found = case.certificate()
        for i in range(len(case.labels)):
            y = found.prediction[i].item() if case.unlabelled else case.labels[i]
            if found.certified[i]:
                assert not case.flips(i, y)
                certified += 1
            elif found.clean[i] and (exact_for_two(case) or (patches == 1 and not case.lures)):
                assert case.flips(i, y)
                uncertified += 1
    assert certified > 10
    assert uncertified > 10


def filled(case: Case, i: int, y: int, cells: oracle.Cells) -> torch.Tensor:
    """The attack of the theorem: nothing for the label, the top for all others."""
    image = case.units[i].flatten(1).clone()
    for c in range(len(image)):
        image[c, sorted(cells)] = 0 if c == y else case.top
    return image.view(1, *case.units.shape[1:])


def test_what_is_not_certified_is_broken():
    """One window, T = 0, every aggregate: at the window named worst, k others reach the label."""
    broken = {}
    for seed in range(400):
        case = some_case(seed)
        if case.lures:
            continue
        found = case.certificate()
        for i, y in enumerate(found.prediction.tolist() if case.unlabelled else case.labels):
            row, column, height, width = found.worst[i].tolist()
            window = oracle.rectangle(row, column, height, width, case.units.shape[3])
            scores = case.aggregate.scores(filled(case, i, y, window))[0].tolist()
            assert holds(scores, y, case.k) == found.certified[i]
            kind = type(case.aggregate).__name__
            broken[kind] = broken.get(kind, 0) + (not found.certified[i] and found.clean[i].item())
    assert min(broken[kind] for kind in ("Sum", "TopMask", "WindowMask")) > 20


def test_two_windows_and_a_sum_that_is_not_certified_are_broken():
    broken = 0
    for seed in range(200):
        case = several(seed, 2)
        if not exact_for_two(case):
            continue
        found = case.certificate()
        for i, expected in enumerate(case.verdicts()):
            y = expected.prediction if case.unlabelled else case.labels[i]
            scores = case.aggregate.scores(filled(case, i, y, min(expected.worst, key=sorted)))[0].tolist()
            assert holds(scores, y, 1) == found.certified[i]
            broken += not found.certified[i] and found.clean[i].item()
    assert broken > 20


# --- wrong proofs -------------------------------------------------------------------------------------------

Wrong = Callable[["Plain"], bool]


@dataclass(frozen=True)
class Plain:
    """One image for a proof on paper; no library in it."""

    image: Image
    y: int
    k: int
    top: int
    shape: tuple[int, int]  # of the map
    window: tuple[int, int]
    wrap: bool
    score: oracle.Score
    masks: list[oracle.Cells]
    t: Fraction
    alpha: int

    @property
    def windows(self) -> list[oracle.Cells]:
        return oracle.placements(*self.window, *self.shape, self.wrap)

    @property
    def others(self) -> list[int]:
        return [c for c in range(len(self.image)) if c != self.y]

    def zeros(self, w: oracle.Cells) -> int:
        return self.score(oracle.overwrite(self.image[self.y], w, 0))

    def tops(self, c: int, w: oracle.Cells) -> int:
        return self.score(oracle.overwrite(self.image[c], w, self.top))

    def true(self, patches: int = 1) -> bool:
        """What the oracle says."""
        threats = oracle.unions(self.windows, patches)
        if self.t:
            return oracle.certify(self.image, self.y, self.masks, threats, self.t, self.top, self.k).certified
        return oracle.exactly(self.image, self.y, self.score, threats, self.top, self.k).certified

    def broken(self, patches: int = 1) -> bool:
        """Whether the attacker finds an image that the label does not survive."""
        for w in oracle.unions(self.windows, patches):
            struck = oracle.strike(
                self.image, self.y, self.score, w, self.top, 0, self.masks if self.t else (), self.t
            )
            if not holds([self.score(m) for m in struck], self.y, self.k):
                return True
        return False


def plain(seed: int, defense: str, t: str = "0", k: int = 1, wrap: bool = False, larger: int = 0) -> Plain:
    rng = random.Random(seed)
    height, width, top = rng.choice((1, 2, 3)), rng.randint(3, 5), rng.choice((1, 2, 3, 20))
    window = rng.randint(1, min(2, height)), rng.randint(1, 2)
    mask = min(window[0] + larger, height), min(window[1] + larger, width)
    masks = oracle.placements(*mask, height, width, wrap)
    alpha = window[0] * window[1]
    score: oracle.Score = {
        "clip": oracle.total,
        "features": lambda m: oracle.without_heaviest(m, alpha),
        "mask": lambda m: oracle.score(m, masks, Fraction(t)),
    }[defense]
    units, (y,) = some_images(rng, 1, 2 + k, height, width, top)
    image = units[0].flatten(1).tolist()
    if rng.random() < 0.5:  # one cell matters: some classes have much there, some nothing
        hot = rng.randrange(height * width)
        for c, m in enumerate(image):
            level = rng.randint(0, top)
            m[:] = [level // 2 if c == y else rng.randint(0, level) // 2 for _ in m]
            m[hot] = top if c == y or rng.random() < 0.5 else 0
    return Plain(image, y, k, top, (height, width), window, wrap, score, masks, Fraction(t), alpha)


def runner_up(p: Plain) -> bool:
    """CBN as published: only the second class of the clean image is compared."""
    second = max(p.others, key=lambda c: p.score(p.image[c]))
    return all(p.zeros(w) > p.tops(second, w) for w in p.windows)


def no_second_alpha(p: Plain) -> bool:
    """The label loses the window but the mask then takes nothing more."""
    least = [sum(p.image[p.y]) - oracle.inside(p.image[p.y], w) for w in p.windows]
    return all(low > p.tops(c, w) for low, w in zip(least, p.windows, strict=True) for c in p.others)


def mask_and_window_are_one(p: Plain) -> bool:
    """The label loses its heaviest cells, as if the mask had to fall on the window."""
    return all(p.score(p.image[p.y]) > p.tops(c, w) for w in p.windows for c in p.others)


def ties_for_the_label(p: Plain) -> bool:
    """The classical certificate of votes, a tie counted for the defender."""
    return oracle.two_delta(p.image, p.y, p.top * p.window[0] * p.window[1]) >= 0


def one_delta(p: Plain) -> bool:
    """What the attacker takes from the label is not given to another."""
    return oracle.two_delta(p.image, p.y, p.top * p.window[0] * p.window[1]) > -p.top


def no_wrap(p: Plain) -> bool:
    """Windows around the border are forgotten."""
    windows = oracle.placements(*p.window, *p.shape)
    return oracle.exactly(p.image, p.y, p.score, windows, p.top, p.k).certified


def covers_nothing(p: Plain) -> bool:
    """Lemma 2 with the heaviest mask of the map, covering the window or not."""

    def up(m: oracle.Map, w: oracle.Cells) -> int:
        return math.floor(min(sum(m) - oracle.inside(m, v) for v in p.masks) / (1 - p.t))

    return oracle.certify(p.image, p.y, p.masks, p.windows, p.t, p.top, p.k, up=up).certified


def overlaps_only(p: Plain) -> bool:
    """Lemma 2 with the heaviest mask that meets the window in some cell."""

    def up(m: oracle.Map, w: oracle.Cells) -> int:
        return math.floor(min(sum(m) - oracle.inside(m, v) for v in p.masks if v & w) / (1 - p.t))

    return oracle.certify(p.image, p.y, p.masks, p.windows, p.t, p.top, p.k, up=up).certified


def without_the_share(p: Plain) -> bool:
    """Lemma 2 without 1 / (1 - T)."""

    def up(m: oracle.Map, w: oracle.Cells) -> int:
        return min(sum(m) - oracle.inside(m, v) for v in p.masks if w <= v)

    return oracle.certify(p.image, p.y, p.masks, p.windows, p.t, p.top, p.k, up=up).certified


def lured_mask_covers(p: Plain) -> bool:
    """Only masks that cover the whole window are lured to the label's evidence."""

    def low(m: oracle.Map, w: oracle.Cells) -> int:
        outside = oracle.overwrite(m, w, 0)
        return sum(outside) - max(oracle.inside(outside, v) for v in p.masks if w <= v)

    return oracle.certify(p.image, p.y, p.masks, p.windows, p.t, p.top, p.k, low=low).certified


def mask_stays_where_it_is(p: Plain) -> bool:
    """The mask of the clean image is taken to fall on the attacked one too."""

    def low(m: oracle.Map, w: oracle.Cells) -> int:
        v = max(p.masks, key=lambda v: oracle.inside(m, v))
        return oracle.inside(m, frozenset(range(len(m))) - v - w)

    return oracle.certify(p.image, p.y, p.masks, p.windows, p.t, p.top, p.k, low=low).certified


def each_class_its_own_k(p: Plain) -> bool:
    """Top-k from the k-th of the clean image."""
    kth = sorted(p.others, key=lambda c: -p.score(p.image[c]))[p.k - 1]
    return all(p.zeros(w) > p.tops(kth, w) for w in p.windows)


def one_after_the_other(p: Plain) -> bool:
    """Two windows, each held off alone."""
    return p.true()


def disjoint_only(p: Plain) -> bool:
    """Two windows that do not overlap; where no two fit, all is well."""
    pairs = [v | w for v, w in itertools.combinations(p.windows, 2) if not v & w]
    return all(p.zeros(u) > p.tops(c, u) for u in pairs for c in p.others)


def alpha_holds_them_all(p: Plain) -> bool:
    """Two windows of a class are taken to lie under the mask, however few cells it has."""

    def up(m: oracle.Map, u: oracle.Cells) -> int:
        return oracle.inside(m, frozenset(range(len(m))) - u)

    return all(p.zeros(u) > up(p.image[c], u) for u in oracle.unions(p.windows, 2) for c in p.others)


@pytest.mark.parametrize(
    ("wrong", "patches", "options"),
    [
        (runner_up, 1, {"defense": "clip"}),
        (runner_up, 1, {"defense": "features"}),
        (runner_up, 1, {"defense": "mask"}),
        (no_second_alpha, 1, {"defense": "features"}),
        (mask_and_window_are_one, 1, {"defense": "features"}),
        (mask_and_window_are_one, 1, {"defense": "mask"}),
        (ties_for_the_label, 1, {"defense": "clip"}),
        (one_delta, 1, {"defense": "clip"}),
        (no_wrap, 1, {"defense": "clip", "wrap": True}),
        (no_wrap, 1, {"defense": "features", "wrap": True}),
        (no_wrap, 1, {"defense": "mask", "wrap": True, "larger": 1}),
        (covers_nothing, 1, {"defense": "mask", "larger": 1}),
        (overlaps_only, 1, {"defense": "mask", "larger": 1}),
        (overlaps_only, 1, {"defense": "mask", "t": "0.3", "larger": 1}),
        (without_the_share, 1, {"defense": "mask", "t": "0.6", "larger": 1}),
        (lured_mask_covers, 1, {"defense": "mask"}),
        (lured_mask_covers, 1, {"defense": "mask", "t": "0.3", "larger": 1}),
        (mask_stays_where_it_is, 1, {"defense": "mask", "larger": 1}),
        (each_class_its_own_k, 1, {"defense": "clip", "k": 2}),
        (each_class_its_own_k, 1, {"defense": "features", "k": 2}),
        (one_after_the_other, 2, {"defense": "clip"}),
        (one_after_the_other, 2, {"defense": "features"}),
        (disjoint_only, 2, {"defense": "clip"}),
        (disjoint_only, 2, {"defense": "features"}),
        (alpha_holds_them_all, 2, {"defense": "features"}),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value).replace("'", ""),
)
def test_wrong_proofs_are_broken(wrong, patches, options):
    """Each of them certifies an image whose label the attacker overturns; the right one does not."""
    for seed in range(3000):
        p = plain(seed, **options)
        if wrong(p) and not p.true(patches) and p.broken(patches):
            return
    pytest.fail("no attack found")


@pytest.mark.parametrize("defense", ["clip", "features", "mask"])
def test_the_classical_certificate_is_never_more_than_the_one_for_each_window(defense):
    """2Δ counts what the attacker takes as if it were all the label's and gave all to one other."""
    gained = 0
    for seed in range(150):
        p = plain(seed, defense, wrap=seed % 2 == 0)
        exact = oracle.exactly(p.image, p.y, oracle.total, p.windows, p.top, p.k)
        classical = oracle.two_delta(p.image, p.y, p.top * p.window[0] * p.window[1], p.k)
        assert classical <= exact.margin
        gained += exact.certified and classical <= 0
    assert gained > 0


def test_the_runner_up_proof_of_cbn_and_its_counterexample():
    """All of class 1's evidence lies in one cell, where the label's is heavy; class 2's lies outside: 1 comes
    second, 2 overturns.
    """
    image = [[8, 4, 4, 4], [6, 0, 0, 0], [0, 2, 2, 1]]
    windows = oracle.placements(1, 1, 1, 4)
    p = Plain(image, 0, 1, 8, (1, 4), (1, 1), False, oracle.total, [], Fraction(0), 1)
    at = windows[0]
    assert [sum(m) for m in image] == [20, 6, 5]
    assert runner_up(p)
    assert p.zeros(at) == 12 < p.tops(2, at) == 13
    assert p.broken()
    found = certify_units(
        torch.tensor(image).view(1, 3, 1, 4), torch.tensor([0]), Sum(), [all_windows(1, 1, 1, 4)], 8
    )
    assert found.certified.tolist() == [False]


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """Write evidence (and labels) under any metadata; the path."""

    def write(maps: torch.Tensor, labels: list[int] | None = None, **metadata: str) -> Path:
        path = tmp_path / "evidence.safetensors"
        tensors = {"evidence": maps} | ({} if labels is None else {"labels": torch.tensor(labels)})
        save_file(tensors, path, metadata)
        return path

    return write


@pytest.fixture
def report(capsys) -> Callable[..., dict]:
    """The object that ``pglearn certify --json`` prints."""

    def run(path: Path, *options: str) -> dict:
        assert main(["certify", str(path), *options, "--json"]) == 0, capsys.readouterr().err
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        return json.loads(out)

    return run


PRESETS = {"mask": "logits", "features": "logits", "clip": "tanh", "vote": "prediction"}


@dataclass(frozen=True)
class Call:
    """One call of the command: its options, its file, and what the oracle needs to answer the same."""

    defense: str
    transform: str
    options: list[str]
    metadata: dict[str, str]
    case: Case
    raw: torch.Tensor
    step: Fraction


def a_call(defense: str, transform: str, seed: int) -> Call:
    rng = random.Random(f"{defense} {transform} {seed}")
    options, metadata = ["--defense", defense], {}
    if transform != PRESETS[defense] or rng.random() < 0.5:
        options += ["--transform", transform]
    height, width, classes = rng.choice((1, 3, 4, 5)), rng.randint(4, 6), rng.randint(2, 4)
    wrap, patches, k = rng.random() < 0.3, rng.choice((1, 1, 2)), rng.randint(1, classes - 1)
    shapes = {(rng.randint(1, min(2, height)), rng.randint(1, 2)) for _ in range(rng.choice((1, 2)))}
    for h, w in shapes:
        options += ["--window", f"{h}x{w}"]
    options += ["--patches", str(patches)] if patches > 1 or rng.random() < 0.3 else []
    options += ["--top-k", str(k)] if k > 1 or rng.random() < 0.5 else []
    if wrap or rng.random() < 0.3:
        metadata["wrap"] = str(wrap).lower()
    if defense == "mask" and patches > 1:
        within = min(height, max(h for h, _ in shapes) + 1), min(width, max(w for _, w in shapes) + 1)
        options += ["--within", f"{within[0]}x{within[1]}"]
        shapes, patches = {within}, 1
    typed = {"step": "0.0009765625", "high": "64", "threshold": "0.2"}
    for name, option, values in [
        ("step", "--step", ("0.25", "0.1")),
        ("high", "--clip-high", ("3", "7.5")),
        ("threshold", "--vote-threshold", ("0.35", "0.5", "0.9")),
    ]:
        used = {"step": transform != "prediction", "high": transform == "logits"}
        if not used.get(name, transform == "prediction"):
            if (
                name != "threshold" and rng.random() < 0.5
            ):  # what the transform does not use may lie in the file
                metadata["clip_high" if name == "high" else name] = "9"
            continue
        if name != "threshold" and rng.random() < 0.4:
            typed[name] = metadata["clip_high" if name == "high" else name] = "0.5" if name == "step" else "6"
        if rng.random() < 0.5:
            typed[name] = rng.choice(values)
            options += [option, typed[name]]
    area = max(h * w for h, w in shapes)
    mask = max(h for h, _ in shapes), max(w for _, w in shapes)
    if defense in ("mask", "features") and rng.random() < 0.4:
        mask = rng.randint(mask[0], min(height, 3)) if height > 1 else 1, rng.randint(mask[1], width)
        options += ["--mask", f"{mask[0]}x{mask[1]}"]
        area = mask[0] * mask[1]
    aggregate: Aggregate = Sum()
    if defense == "mask":
        threshold = rng.choice(("0", "0.1", "0.3", "0.6"))
        options += ["--detection-threshold", threshold] if threshold != "0" or rng.random() < 0.5 else []
        aggregate = WindowMask(*mask, threshold, wrap)
    elif defense == "features":
        aggregate = TopMask(patches * area)
    labels = [rng.randrange(classes) for _ in range(10)]
    raw = led(rough(seed, classes, (height, width), 10), labels, rng.choice((4, 20, 99)))
    unlabelled = rng.random() < 0.25
    options += ["--unlabelled"] if unlabelled else []
    _, definition, top, step = transform_of(transform, **typed)
    windows = [all_windows(*shape, height, width, wrap) for shape in shapes]
    units = cellwise(raw, definition)
    case = Case(units, labels, aggregate, windows, top, k, patches, unlabelled)
    return Call(defense, transform, options, metadata, case, raw, Fraction(step))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("defense", list(PRESETS))
def test_the_whole_contract(write, report, defense, transform):
    """Every defense under every transform; the other options drawn, those that it does not use left out."""
    certified = 0
    for seed in range(6):
        call = a_call(defense, transform, seed)
        case = call.case
        path = write(call.raw, None if case.unlabelled else case.labels, **call.metadata)
        found = report(path, *call.options)
        verdicts, each = case.verdicts(), found["per_image"]
        assert (found["schema"], found["images"]) == ("pglearn.certify/1", 10)
        assert found["clean"] == sum(each["clean"])
        assert found["certified"] == sum(each["certified"])
        assert each["prediction"] == [v.prediction for v in verdicts]
        assert each["clean"] == [v.clean for v in verdicts]
        assert each["certified"] == [margin > 0 for margin in each["margin"]]
        exact = [float(v.margin * call.step) for v in verdicts]
        if case.patches == 1 or exact_for_two(case):
            assert each["margin"] == exact
        else:
            assert all(mine <= best for mine, best in zip(each["margin"], exact, strict=True))
        if defense == "features" and case.patches > 1:
            cells = case.patches * max(w.height * w.width for w in case.windows)
            for mine, v, image, y in zip(each["margin"], verdicts, case.images(), case.labels, strict=True):
                y = v.prediction if case.unlabelled else y
                least = oracle.any_cells(image, y, case.aggregate.alpha, cells, case.top, case.k)
                assert mine >= float(least * call.step)
        assert found["parameters"]["placements"] == len(case.cells)
        assert found["parameters"].get("alpha") == getattr(case.aggregate, "alpha", None)
        assert Fraction(found["parameters"]["step"]) == call.step
        assert found["parameters"]["wrap"] == (call.metadata.get("wrap") == "true")
        assert found["parameters"]["defense"] == defense
        assert found["parameters"]["transform"] == transform
        assert found["parameters"]["top_k"] == case.k
        assert found["parameters"]["unlabelled"] == case.unlabelled
        certified += found["certified"]
    assert certified > 0


def test_the_presets_are_their_pairs():
    windows = [all_windows(1, 2, 4, 4), all_windows(2, 1, 4, 4)]
    for name, transform, aggregate in [
        ("mask", Logits(), WindowMask(2, 2)),
        ("features", Logits(), TopMask(2)),
        ("clip", Tanh(), Sum()),
        ("vote", Prediction(), Sum()),
    ]:
        defense = make_defense(name, windows)
        assert defense.transform == transform
        assert type(defense.aggregate) is type(aggregate)
        assert vars(defense.aggregate) == vars(aggregate)
    assert set(DEFENSES) == set(PRESETS)
    assert make_defense("features", windows, patches=3).aggregate == TopMask(6)
    assert make_defense("features", windows, patches=3, mask=(2, 2)).aggregate == TopMask(12)
    assert make_defense("mask", windows, mask=(3, 2), detection_threshold="0.3").aggregate == (
        WindowMask(3, 2, "0.3")
    )
    around = [all_windows(1, 2, 4, 4, wrap=True)]
    assert make_defense("mask", around).aggregate == WindowMask(1, 2, wrap=True)
    assert make_defense("mask", windows, transform="confidence", step="0.5").transform == Confidence("0.5")
    assert make_defense("vote", windows, vote_threshold="0.4").transform == Prediction(vote_threshold="0.4")


def test_evidence_in_fixed_point(write, report):
    """A file may say what its integers stand for: confidence and tanh read the same as from the evidence."""
    real = torch.randn(12, 3, 3, 4, generator=torch.Generator().manual_seed(3))
    real[:, 0] += torch.linspace(0, 40, 12).view(12, 1, 1)
    stored = (real * 16).round().to(torch.int16)
    for options in (
        ["--defense", "clip", "--step", "0.125"],
        ["--defense", "vote"],
        ["--defense", "mask", "--transform", "confidence", "--step", "0.125"],
        ["--defense", "features", "--transform", "tanh", "--step", "0.125"],
    ):
        options = [*options, "--window", "1x2"]
        expected = report(write(stored.double() / 16, [0] * 12), *options)["per_image"]
        found = report(write(stored, [0] * 12, unit="0.0625", step="1", clip_high="48"), *options)
        assert found["per_image"] == expected
        assert found["certified"] > 0
    # the file's own step counts stored numbers; times its unit it serves the others
    path = write(stored, [0] * 12, unit="0.0625", step="2", clip_high="48")
    window = ["--window", "1x2"]
    own = report(path, "--defense", "clip", *window)
    assert own["per_image"] == report(path, "--defense", "clip", "--step", "0.125", *window)["per_image"]
    assert own["per_image"] != report(path, "--defense", "clip", "--step", "0.0625", *window)["per_image"]
    logits = report(path, "--defense", "mask", *window)["per_image"]
    path = write(stored.double(), [0] * 12, step="2", clip_high="48")
    real = report(path, "--defense", "mask", *window)["per_image"]
    assert [logits[name] for name in ("prediction", "certified")] == [
        real[name] for name in ("prediction", "certified")
    ]


@pytest.mark.parametrize("constant", ["step", "unit"])
@pytest.mark.parametrize("text", ["x", "", "nan", "1e999", "0", "-1"])
@pytest.mark.parametrize("defense", ["mask", "clip", "vote"])
def test_constants_of_a_file_that_are_no_numbers(write, capsys, constant, text, defense):
    """One line, or a certificate where the defense does not use them; never a traceback."""
    metadata = {"step": "1", "unit": "0.5", "clip_high": "9"} | {constant: text}
    path = write(torch.ones(2, 3, 2, 4), [0, 1], **metadata)
    code = main(["certify", str(path), "--defense", defense, "--window", "1x1"])
    out, err = capsys.readouterr()
    if constant in {"mask": ["step"], "clip": ["step", "unit"], "vote": ["unit"]}[defense]:
        assert code == 2
    assert (code, err.count("\n"), out == "") in [(0, 0, False), (2, 1, True)]
    assert code == 0 or err.startswith(("pglearn: step: ", "pglearn: unit: "))


def test_a_window_that_is_the_map_certifies_nothing(write, capsys):
    path = write(led(torch.zeros(2, 3, 2, 3), [0, 1], 9), [0, 1])
    for defense in PRESETS:
        for shape, patches in (("2x3", 1), ("1x3", 2), ("2x2", 2)):
            if defense == "mask" and patches > 1:
                continue
            command = ["certify", str(path), "--defense", defense, "--window", shape]
            assert main([*command, "--patches", str(patches), "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["certified"] == 0


@pytest.mark.parametrize("defense", list(PRESETS))
@pytest.mark.parametrize("patches", [1, 2])
def test_several_patches_in_pixels_are_their_windows(write, report, defense, patches):
    fields = Geometry(*(receptive_field([Layer(3)], size + 2) for size in (6, 7)))
    raw = led(torch.randn(10, 3, 6, 7, generator=torch.Generator().manual_seed(4)), [0] * 10, 4)
    path = write(raw, [0] * 10, geometry=fields.to_json())
    options = ["--defense", defense, "--patches", str(patches)]
    more = [["--within", "2x2"], ["--within", "4x4"]] if defense == "mask" and patches == 2 else [[], []]
    pixels = report(path, *options, "--patch", "1x1", "--patch", "2x1", *more[0])
    features = report(path, *options, "--window", "3x3", "--window", "4x3", *more[1])
    assert pixels["per_image"] == features["per_image"]
    assert pixels["parameters"]["patch"] == ["1x1", "2x1"]


@pytest.mark.parametrize(("defense", "patches"), THREATS)
def test_patches_on_evidence_that_wraps_around(write, report, defense, patches):
    """Bands of pixel columns around the border, as in de-randomized smoothing: the oracle turns every place
    of the patch into the cells that see a pixel of it.
    """
    columns, band, patch = 9, 2, 2
    fields = Geometry(Axis(4, ((0, 4),)), Axis(columns, tuple((i, i + band) for i in range(columns))), True)
    threats = [
        frozenset(
            i for i in range(columns) if {(i + j) % columns for j in range(band)} & set(range(x, x + patch))
        )
        for x in range(columns - patch + 1)
    ]
    raw = torch.randn(20, 3, 1, columns, generator=torch.Generator().manual_seed(5))
    raw[:, 0] += torch.linspace(0, 30, 20)[:, None, None]
    path = write(raw, [0] * 20, geometry=fields.to_json(), wrap="true")
    options = ["--defense", defense, "--patch", f"3x{patch}", "--patches", str(patches), "--top-k", "2"]
    options += ["--transform", "confidence", "--step", "0.25"]
    found = report(path, *options)
    aggregate = {"mask": WindowMask(1, 3, wrap=True), "features": TopMask(3 * patches)}.get(defense, Sum())
    units = cellwise(raw.double(), partial(oracle.confidence, step=0.25))
    for image, mine in zip(units.flatten(2).tolist(), found["per_image"]["margin"], strict=True):
        unions = oracle.unions(threats, patches)
        best = oracle.exactly(image, 0, score_of(aggregate, 1, columns), unions, 4, 2).margin / 4
        assert mine == best if patches == 1 else mine <= best
    assert (found["parameters"]["window"], found["parameters"]["placements"]) == (["1x3"], 8)
    assert patches == 2 or found["certified"] > 0


MASK, FEATURES, CLIP, VOTE = (["--defense", name, "--window", "1x1"] for name in PRESETS)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--defense", "median", "--window", "1x1"], ["defense", "median", "features", "clip", "vote"]),
        ([*MASK, "--transform", "relu"], ["transform", "relu", "logits", "tanh"]),
        ([*FEATURES, "--detection-threshold", "0.1"], ["detection"]),
        ([*CLIP, "--detection-threshold", "0.1"], ["detection"]),
        ([*VOTE, "--detection-threshold", "0"], ["detection"]),
        ([*CLIP, "--mask", "1x1"], ["mask"]),
        ([*VOTE, "--mask", "1x1"], ["mask"]),
        ([*CLIP, "--clip-high", "3"], ["clip-high|clip_high"]),
        ([*VOTE, "--clip-high", "3"], ["clip-high|clip_high"]),
        ([*MASK, "--transform", "confidence", "--clip-high", "3"], ["clip-high|clip_high"]),
        ([*VOTE, "--step", "1"], ["step"]),
        ([*FEATURES, "--transform", "prediction", "--step", "0.5"], ["step"]),
        ([*MASK, "--vote-threshold", "0.2"], ["vote"]),
        ([*FEATURES, "--vote-threshold", "0.2"], ["vote"]),
        ([*CLIP, "--vote-threshold", "0.2"], ["vote"]),
        ([*VOTE, "--transform", "confidence", "--vote-threshold", "0.2"], ["vote"]),
        ([*FEATURES, "--patches", "2", "--within", "1x2"], ["within"]),
        ([*CLIP, "--patches", "2", "--within", "1x2"], ["within"]),
        ([*VOTE, "--within", "1x2"], ["within"]),
        ([*MASK, "--within", "1x2"], ["within"]),
        ([*MASK, "--patches", "2"], ["patches", "within", "features", "clip", "vote"]),
        ([*MASK, "--patches", "0"], ["patches"]),
        ([*FEATURES, "--patches", "0"], ["patches"]),
        ([*CLIP, "--patches", "-1"], ["patches"]),
        ([*VOTE, "--patches", "1.5"], ["patches"]),
        ([*VOTE, "--vote-threshold", "0"], ["vote"]),
        ([*VOTE, "--vote-threshold", "1.1"], ["vote"]),
        ([*VOTE, "--vote-threshold", "-0.2"], ["vote"]),
        ([*VOTE, "--vote-threshold", "nan"], ["vote"]),
        ([*VOTE, "--vote-threshold", "1/5"], ["vote"]),
        ([*CLIP, "--step", "0"], ["step"]),
        ([*CLIP, "--step", "-1"], ["step"]),
        ([*CLIP, "--step", "nan"], ["step"]),
        ([*CLIP, "--step", "3"], ["step"]),
        ([*CLIP, "--step", "1e-50"], ["step"]),
        ([*MASK, "--transform", "confidence", "--step", "2.5"], ["step"]),
        ([*FEATURES, "--top-k", "3"], ["top-k"]),
        ([*CLIP, "--top-k", "0"], ["top-k"]),
        ([*VOTE, "--top-k", "-1"], ["top-k"]),
        ([*CLIP, "--window", "3x1"], ["window"]),
        ([*VOTE, "--window", "0x1"], ["window"]),
        ([*FEATURES, "--window", "1x5"], ["window"]),
        ([*FEATURES, "--mask", "1x5"], ["mask"]),
        ([*FEATURES, "--mask", "0x1"], ["mask"]),
        ([*MASK, "--window", "2x2", "--mask", "1x4"], ["mask"]),
        (["--defense", "clip", "--patch", "1x1"], ["patch", "geometry"]),
        (["--defense", "vote"], ["window", "patch"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_the_contract_refuses(write, capsys, options, named):
    """Exit code 2, nothing on stdout, one line that names the argument and what is allowed."""
    path = write(torch.ones(2, 3, 2, 4), [0, 1])
    assert main(["certify", str(path), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pglearn: ")
    assert err.count("\n") == 1
    assert all(any(word in err for word in words.split("|")) for words in named)
    assert "allowed" in err or "required" in err or "argument" in err


@pytest.mark.parametrize("defense", list(PRESETS))
def test_for_people(write, capsys, defense):
    path = write(led(torch.zeros(4, 3, 3, 3), [0, 1, 2, 0], 30), [0, 1, 2, 1])
    options = [] if defense == "mask" else ["--patches", "2"]
    assert main(["certify", str(path), "--defense", defense, "--window", "1x1", *options]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "3 of 4" in out

"""Certificates against the oracle, and against an attacker who knows no bound."""

import os
import random
import re
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import oracle
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pglearn import InputError
from pglearn.certify import Certificate, certify, certify_file, certify_units, rate
from pglearn.defenses import Aggregate, Defense, Logits, Sum, TopMask, WindowMask, make_defense
from pglearn.evidence import Evidence, EvidenceFile
from pglearn.geometry import Windows, all_windows

THOROUGH = int(os.environ.get("PGLEARN_THOROUGH", "0"))  # times as many examples, and new ones every time
THRESHOLDS = ["0", "0", "0", "0.1", "0.3", "0.6", "0.9", "0.333"]
KINDS = ["noise", "sparse", "ties", "constant", "peak", "close"]


def examples(count: int) -> settings:
    common = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
    if "MUTANT_UNDER_TEST" in os.environ:  # fewer, and one failure is enough
        return settings(**common, max_examples=count // 2, derandomize=True, phases=[Phase.generate])
    return settings(**common, max_examples=count * max(THOROUGH, 1), derandomize=not THOROUGH)


@dataclass(frozen=True)
class Case:
    """Some images and everything a certificate depends on."""

    units: torch.Tensor  # (N, C, H, W)
    labels: list[int]
    mask: WindowMask
    windows: list[Windows]
    top: int
    k: int
    unlabelled: bool

    def masks(self) -> list[oracle.Cells]:
        return oracle.placements(self.mask.height, self.mask.width, *self.units.shape[2:], self.mask.wrap)

    def cells(self) -> list[oracle.Cells]:
        """The malicious windows as cells, in the order in which the library numbers them."""
        width = self.units.shape[3]
        return [
            oracle.rectangle(r, c, w.height, w.width, width)
            for w in self.windows
            for r in w.rows
            for c in w.columns
        ]

    def images(self) -> list[list[list[int]]]:
        return self.units.flatten(2).tolist()

    def certificate(self) -> Certificate:
        labels = None if self.unlabelled else torch.tensor(self.labels)
        return certify_units(self.units, labels, self.mask, self.windows, self.top, self.k)

    def verdicts(self, **bounds) -> list[oracle.Verdict]:
        t = Fraction(self.mask.threshold)
        labels = [None] * len(self.labels) if self.unlabelled else self.labels
        return [
            oracle.certify(image, y, self.masks(), self.cells(), t, self.top, self.k, **bounds)
            for image, y in zip(self.images(), labels, strict=True)
        ]


def a_map(kind: str, size: int, top: int, rng: random.Random) -> list[int]:
    match kind:
        case "noise":
            return [rng.randint(0, top) for _ in range(size)]
        case "sparse":
            return [rng.choice((0, 0, 0, rng.randint(0, top))) for _ in range(size)]
        case "ties":
            return [rng.choice((0, top)) for _ in range(size)]
        case "constant":
            return [rng.choice((0, 1, top))] * size
        case "peak":
            return (
                [0] * (peak := rng.randrange(size))
                + [top]
                + [rng.randint(0, min(top, 1))] * (size - peak - 1)
            )
        case _:  # much evidence everywhere, nothing that stands out
            return [rng.randint(top - top // 4, top) for _ in range(size)]


def draw_case(rng: random.Random, draw, side: int, classes: tuple[int, int], images: int) -> Case:
    height, width = draw(st.integers(1, side)), draw(st.integers(1, side))
    wrap = draw(st.integers(0, 3)) == 3
    shapes = [
        (draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width))))
        for _ in range(draw(st.integers(1, 2)))
    ]
    windows = []
    for shape in shapes:
        every = all_windows(*shape, height, width, wrap)
        rows, columns = every.rows, every.columns
        if draw(st.booleans()):
            rows = tuple(sorted(rng.sample(rows, rng.randint(1, len(rows)))))
            columns = tuple(sorted(rng.sample(columns, rng.randint(1, len(columns)))))
        windows.append(Windows(*shape, rows, columns, wrap))
    least = [max(shape[i] for shape in shapes) for i in (0, 1)]
    larger = draw(st.booleans())
    mask = [
        rng.randint(low, high) if larger else low for low, high in zip(least, (height, width), strict=True)
    ]
    top = draw(st.sampled_from([1, 2, 3, 10, 255, 65536]))
    count = draw(st.integers(*classes))
    k = draw(st.integers(1, min(3, count - 1)))
    labels = [rng.randrange(count) for _ in range(images)]
    kind, own, lead = draw(st.sampled_from(KINDS)), draw(st.sampled_from(KINDS)), draw(st.booleans())
    maps = []
    for y in labels:
        image = [a_map(kind, height * width, top, rng) for _ in range(count)]
        if lead:  # something to certify: the label leads, the others are weak
            image = [[x // 4 for x in m] for m in image]
            image[y] = a_map(own, height * width, top, rng)
        maps.append(image)
    return Case(
        torch.tensor(maps).view(images, count, height, width),
        labels,
        WindowMask(*mask, draw(st.sampled_from(THRESHOLDS)), wrap or draw(st.integers(0, 7)) == 7),
        windows,
        top,
        k,
        draw(st.booleans()),
    )


@st.composite
def cases(draw, side: int = 5, classes: tuple[int, int] = (2, 5), images: int = 3) -> Case:
    rng = random.Random(draw(st.integers(0, 2**32)))
    return draw_case(rng, draw, side, classes, images)


def agrees(case: Case) -> Certificate:
    """Prediction, clean, certified, margin and worst window of every image equal the oracle's."""
    found = case.certificate()
    assert (
        len(found.prediction)
        == len(found.clean)
        == len(found.certified)
        == len(found.worst)
        == len(case.labels)
    )
    assert found.margin == found.margin_units.tolist()
    for i, expected in enumerate(case.verdicts()):
        assert found.prediction[i] == expected.prediction
        assert found.clean[i] == expected.clean
        assert found.certified[i] == expected.certified
        assert found.margin_units[i] == expected.margin
        row, column, height, width = found.worst[i].tolist()
        assert oracle.rectangle(row, column, height, width, case.units.shape[3]) in expected.worst
        assert found.certified[i] == (found.margin_units[i] > 0)
    return found


@examples(120)
@given(cases())
def test_every_image_agrees_with_the_oracle(case):
    agrees(case)


@examples(10)
@given(cases(side=3, classes=(33, 90), images=2))
def test_classes_that_cannot_matter_are_left_out_rightly(case):
    agrees(case)


@pytest.mark.parametrize("threshold", ["0", "0.3", "0.9"])
@pytest.mark.parametrize("larger", [False, True])
@pytest.mark.parametrize("classes", [3, 40])
def test_closed_form_equals_the_generic_loop(threshold, larger, classes):
    rng = random.Random(f"closed {threshold} {larger} {classes}")
    for _ in range(25 if classes == 3 else 8):
        height, width, top = rng.randint(1, 7), rng.randint(2, 7), rng.choice((1, 4, 90))
        shape = rng.randint(1, min(3, height)), rng.randint(1, min(3, width - 1))
        mask = (rng.randint(shape[0], height), rng.randint(shape[1] + 1, width)) if larger else shape
        maps = [
            a_map(rng.choice(KINDS), height * width, rng.choice((top, max(1, top // 3))), rng)
            for _ in range(2 * classes)
        ]
        units = torch.tensor(maps).view(2, classes, height, width)
        labels = units.flatten(2).sum(2).argmax(1)
        aggregate, windows = WindowMask(*mask, threshold), all_windows(*shape, height, width)
        for k in (1, 2):
            fast = aggregate.margins(units, labels, top, windows, k)
            slow = Aggregate.margins(aggregate, units, labels, top, windows, k)
            assert torch.equal(fast.amin(1), slow.amin(1))
            assert (fast >= slow).all()
            if classes == 3:
                assert torch.equal(fast, slow)


def strategic(rng: random.Random, threshold: str, small: bool = False) -> Case:
    """A case that a certificate might hold for: the label leads by about as much as an attacker can add."""
    height, width = (
        (rng.randint(1, 3), rng.randint(2, 3)) if small else (rng.randint(2, 5), rng.randint(2, 5))
    )
    shape = (
        rng.choice([(1, 1), (1, 2)])
        if small
        else (rng.randint(1, min(3, height)), rng.randint(1, min(3, width)))
    )
    mask = [
        min(side + rng.choice((0, 0, 1)), most) for side, most in zip(shape, (height, width), strict=True)
    ]
    top, classes = (rng.randint(1, 3), 2) if small else (rng.choice((2, 5, 40)), rng.randint(2, 4))
    wrap = rng.random() < 0.25
    kinds = rng.choice(KINDS), rng.choice(KINDS)
    labels, maps = [], []
    for _ in range(2):
        labels.append(rng.randrange(classes))
        share = rng.choice((1, 2, 4, 8))
        image = [[x // share for x in a_map(kinds[0], height * width, top, rng)] for _ in range(classes)]
        image[labels[-1]] = a_map(kinds[1], height * width, top, rng)
        maps.append(image)
    return Case(
        torch.tensor(maps).view(2, classes, height, width),
        labels,
        WindowMask(*mask, threshold, wrap),
        [all_windows(*shape, height, width, wrap)],
        top,
        rng.randint(1, min(2, classes - 1)),
        rng.random() < 0.2,
    )


def holds(case: Case, image: list[list[int]], y: int) -> bool:
    """Whether fewer than k other classes reach the label in what the defended model says."""
    scores = [oracle.score(m, case.masks(), Fraction(case.mask.threshold)) for m in image]
    return sum(s >= scores[y] for c, s in enumerate(scores) if c != y) < case.k


def broken_at(case: Case, i: int, y: int) -> bool:
    """Whether the attacker finds an image that is no longer clean, in any malicious window."""
    t = Fraction(case.mask.threshold)
    return any(
        not holds(case, oracle.attack(case.images()[i], y, case.masks(), w, t, case.top, seed=i), y)
        for w in case.cells()
    )


@pytest.mark.parametrize("threshold", ["0", "0.1", "0.3", "0.6", "0.9"])
def test_no_content_flips_a_certified_image(threshold):
    rng, attacked = random.Random(f"strategic {threshold}"), 0
    for _ in range(25 * max(THOROUGH, 1)):
        case = strategic(rng, threshold)
        certificate = agrees(case)
        for i in certificate.certified.nonzero().flatten().tolist():
            y = int(certificate.prediction[i]) if case.unlabelled else case.labels[i]
            assert not broken_at(case, i, y)
            attacked += 1
    assert attacked > 5


@pytest.mark.parametrize("threshold", ["0", "0.1", "0.3", "0.6", "0.9"])
def test_every_content_of_a_tiny_window(threshold):
    """All contents of every window are tried; at T = 0 a certificate is exactly the absence of an attack."""
    rng, attacked = random.Random(f"tiny {threshold}"), 0
    for _ in range(40 * max(THOROUGH, 1)):
        case = strategic(rng, threshold, small=True)
        certificate = agrees(case)
        for i, y in enumerate(certificate.prediction.tolist() if case.unlabelled else case.labels):
            broken = broken_at(case, i, y)
            assert not (broken and certificate.certified[i])
            if threshold == "0":
                assert broken != certificate.certified[i]
            attacked += bool(certificate.certified[i])
    assert attacked > 5


@examples(40)
@given(cases(side=5))
def test_what_is_not_certified_at_zero_falls_in_its_worst_window(case):
    """Complete: wrong classes to the top, the label to the bottom, and the image is no longer clean."""
    case = Case(**{**vars(case), "mask": WindowMask(case.mask.height, case.mask.width, "0", case.mask.wrap)})
    certificate = case.certificate()
    for i in (~certificate.certified).nonzero().flatten().tolist():
        y = int(certificate.prediction[i]) if case.unlabelled else case.labels[i]
        window = oracle.rectangle(*certificate.worst[i].tolist(), case.units.shape[3])
        image = [
            oracle.overwrite(m, window, 0 if c == y else case.top) for c, m in enumerate(case.images()[i])
        ]
        assert not holds(case, image, y)


def runner_up_only(case: Case, i: int) -> bool:
    """Wrong: compares the label with the best of the others alone."""
    image, y, t = case.images()[i], case.labels[i], Fraction(case.mask.threshold)
    scores = [oracle.score(m, case.masks(), t) for m in image]
    second = max((c for c in range(len(image)) if c != y), key=lambda c: scores[c])
    return oracle.certify([image[y], image[second]], 0, case.masks(), case.cells(), t, case.top).certified


def undersized_mask(case: Case, i: int) -> bool:
    """Wrong: Lemma 1 for a mask that does not cover the malicious window."""
    t = Fraction(case.mask.threshold)

    def lemma(m, w):
        return int((sum(m) - oracle.inside(m, w)) / (1 - t))

    return oracle.certify(
        case.images()[i], case.labels[i], case.masks(), case.cells(), t, case.top, up=lemma
    ).certified


def no_lures(case: Case, i: int) -> bool:
    """Wrong: the label loses a mask only where the evidence outside the window triggers it."""
    t = Fraction(case.mask.threshold)

    def naive(m, w):
        return oracle.score(oracle.overwrite(m, w, 0), case.masks(), t)

    return oracle.certify(
        case.images()[i], case.labels[i], case.masks(), case.cells(), t, case.top, low=naive
    ).certified


def fill_at_any_threshold(case: Case, i: int) -> bool:
    """Wrong: the exact bounds of a monotone score, for a score that is not monotone at T > 0."""
    t = Fraction(case.mask.threshold)

    def full(m, w):
        return oracle.score(oracle.overwrite(m, w, case.top), case.masks(), t)

    return oracle.certify(
        case.images()[i], case.labels[i], case.masks(), case.cells(), t, case.top, up=full
    ).certified


def tie_for_the_defender(case: Case, i: int) -> bool:
    """Wrong: a class that only reaches the label is no threat."""
    t = Fraction(case.mask.threshold)
    return (
        oracle.certify(case.images()[i], case.labels[i], case.masks(), case.cells(), t, case.top).margin >= 0
    )


@pytest.mark.parametrize(
    ("wrong", "threshold", "seed"),
    [
        (runner_up_only, "0", 1),
        (runner_up_only, "0.3", 4),
        (undersized_mask, "0", 0),
        (no_lures, "0.3", 2),
        (no_lures, "0.6", 2),
        (fill_at_any_threshold, "0.3", 2),
        (tie_for_the_defender, "0", 1),
    ],
)
def test_a_wrong_certificate_is_broken(wrong, threshold, seed):
    """The attacker of the tests above bites: it breaks every well-known mistake."""
    rng = random.Random(f"{wrong.__name__} {threshold} {seed}")
    for _ in range(3000):
        case = strategic(rng, threshold)
        case = Case(**{**vars(case), "k": 1, "unlabelled": False})
        if wrong is undersized_mask:
            if case.windows[0].width == 1:
                continue
            mask = WindowMask(case.mask.height, case.windows[0].width - 1, threshold, case.mask.wrap)
            case = Case(**{**vars(case), "mask": mask})
        # The library refuses a mask that is too small; else no attack exists where its certificate holds.
        right = [False] * 2 if wrong is undersized_mask else case.certificate().certified.tolist()
        hopeful = [i for i in range(2) if not right[i]]
        if any(wrong(case, i) and broken_at(case, i, case.labels[i]) for i in hopeful):
            return
    pytest.fail("the attacker found nothing")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("threshold", ["0", "0.3", "0.9"])
def test_no_raw_number_flips_a_certified_image(dtype, threshold):
    """Whatever floating point holds, written over raw evidence, reads as one of the admitted units."""
    rng = random.Random(f"raw {threshold}")
    step, high = 0.25, 5.0
    defense = Defense(Logits("0.25", "5"), WindowMask(2, 2, threshold))
    windows = all_windows(2, 2, 4, 4)
    raw = [[[rng.gauss(1.5, 1) + (c == 1) * 2.2 for _ in range(16)] for c in range(3)] for _ in range(12)]
    maps = torch.tensor(raw).view(-1, 3, 4, 4).to(dtype)
    labels = torch.ones(len(maps), dtype=torch.int64)
    certified = certify(maps, labels, defense, [windows]).certified
    assert 0 < certified.sum() < len(maps) or threshold == "0.9"
    masks, t = oracle.placements(2, 2, 4, 4), Fraction(threshold)
    wild = [
        1e30,
        -1e30,
        float("inf"),
        float("-inf"),
        float("nan"),
        5e-324,
        -0.0,
        2.0**-149,
        5.0,
        4.875,
        65504.0,
    ]
    for i in certified.nonzero().flatten().tolist():
        for row in windows.rows:
            for column in windows.columns:
                attacked = maps[i].clone()
                for c in range(3):
                    patch = (
                        [rng.choice(wild) for _ in range(4)] if rng.random() < 0.5 else [rng.choice(wild)] * 4
                    )
                    attacked[c, row : row + 2, column : column + 2] = torch.tensor(patch).view(2, 2).to(dtype)
                units = [[oracle.to_units(x, step, high) for x in m] for m in attacked.flatten(1).tolist()]
                scores = [oracle.score(m, masks, t) for m in units]
                assert scores == defense.scores(attacked[None])[0].tolist()
                assert scores[1] > max(scores[0], scores[2])


def test_a_file_is_certified_batch_by_batch(tmp_path):
    """Of 33 images with 2^19 cells each only 32 are in memory at a time."""
    path = tmp_path / "evidence.safetensors"
    strength, labels = torch.arange(33), torch.arange(33) % 2
    maps = torch.zeros(33, 2, 4, 2**16, dtype=torch.uint8)
    maps[:, 1, :, ::1000] = strength.to(torch.uint8)[:, None, None]  # 264 cells
    Evidence(maps, labels).save(path)
    file, sizes = EvidenceFile(path), []
    batches = file.batches

    def counted(size, part):
        for batch in batches(size, part):
            sizes.append(len(batch[0]))
            yield batch

    file.batches = counted
    windows = [Windows(1, 1, (0, 2), (0, 999, 2000))]
    found = certify_file(file, Defense(Logits("1", "255"), WindowMask(1, 1)), windows)
    assert sizes == [32, 1]
    assert torch.equal(found.margin_units, torch.where(labels == 1, 262 * strength, -264 * strength))
    assert found.prediction.tolist() == [0] + [1] * 32
    assert torch.equal(found.certified, found.margin_units > 0)


def test_an_image_is_judged_alone():
    """The same verdict in a batch that is cut into pieces, whole, and one image at a time."""
    generator = torch.Generator().manual_seed(5)
    maps = torch.rand(70, 3, 75, 75, generator=generator)  # 32 images a piece
    labels = torch.randint(3, (70,), generator=generator)
    maps[torch.arange(70), labels] += torch.linspace(0, 0.3, 70)[:, None, None]
    defense = Defense(Logits("0.01", "2"), WindowMask(20, 20, "0.1"))
    windows = [all_windows(20, 20, 75, 75)]
    whole = certify(maps, labels, defense, windows)
    assert 0 < whole.certified.sum() < 70
    assert whole.margin == [float(u * Fraction("0.01")) for u in whole.margin_units.tolist()]
    for i in (0, 31, 32, 69):
        alone = certify(maps[i : i + 1], labels[i : i + 1], defense, windows)
        assert alone.margin_units[0] == whole.margin_units[i]
        assert alone.worst[0].tolist() == whole.worst[i].tolist()
        assert (alone.clean[0], alone.prediction[0]) == (whole.clean[i], whole.prediction[i])


UNITS = torch.tensor([[[[3, 0], [1, 1]], [[0, 1], [0, 0]]]])
ONE = [Windows(1, 1, (0, 1), (0, 1))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": UNITS[0]}, r"evidence: has shape \(2, 2, 2\), allowed: \(N, C, H, W\)"),
        (
            {"units": UNITS[:0], "labels": torch.tensor([], dtype=torch.int64)},
            r"evidence: has shape \(0, 2, 2, 2\)",
        ),
        ({"units": UNITS[:, :1]}, "evidence: has 1 class, allowed: 2 or more"),
        ({"units": UNITS.float()}, "units: are torch.float32, allowed: integers"),
        ({"units": UNITS.bool()}, "units: are torch.bool, allowed: integers"),
        ({"units": -UNITS}, "units: run from -3 to 0, allowed: 0 to top = 3"),
        ({"top": 2}, "units: run from 0 to 3, allowed: 0 to top = 2"),
        ({"k": 0}, "top-k: k is 0, allowed: 1 to 1 of 2 classes"),
        ({"k": 2}, "top-k: k is 2, allowed: 1 to 1 of 2 classes"),
        ({"labels": torch.tensor([0, 1])}, r"labels: are \(2,\) torch.int64, allowed: \(1,\) int64"),
        ({"labels": torch.tensor([0], dtype=torch.int32)}, "labels: are .* torch.int32"),
        ({"labels": torch.tensor([2])}, "labels: run from 2 to 2, allowed: 0 to 1"),
        ({"labels": torch.tensor([-1])}, "labels: run from -1 to -1, allowed: 0 to 1"),
        ({"windows": []}, "window: none given"),
        ({"windows": [Windows(1, 1, (), (0,))]}, "window: none given"),
        ({"windows": [ONE[0], Windows(1, 1, (0,), ())]}, "window: none given"),
        ({"windows": [Windows(3, 1, (0,), (0,))]}, "window: 3x1, allowed: from 1x1 to the map's 2x2"),
        ({"windows": [Windows(1, 3, (0,), (0,))]}, "window: 1x3, allowed"),
        ({"windows": [Windows(0, 1, (0,), (0,))]}, "window: 0x1, allowed"),
        ({"windows": [Windows(1, 0, (0,), (0,))]}, "window: 1x0, allowed"),
        ({"windows": [Windows(1, 1, (0, 2), (0,))]}, "window: 1x1, allowed"),
        ({"windows": [Windows(1, 1, (0,), (1, 2))]}, "window: 1x1, allowed"),
        ({"windows": [Windows(1, 1, (-1,), (0,))]}, "window: 1x1, allowed"),
        ({"windows": [Windows(1, 1, (0,), (-1,))]}, "window: 1x1, allowed"),
        ({"windows": [Windows(2, 1, (0, 1), (0,))]}, "window: 2x1, allowed"),
        ({"windows": [Windows(1, 2, (0,), (0, 1))]}, "window: 1x2, allowed"),
        ({"windows": [Windows(1, 2, (0,), (0,))]}, "mask: 1x1, allowed: at least the malicious window's 1x2"),
        ({"windows": [Windows(2, 1, (0,), (0,))]}, "mask: 1x1, allowed: at least the malicious window's 2x1"),
        (
            {"windows": [Windows(1, 2, (0,), (0, 1), wrap=True)], "aggregate": WindowMask(1, 2)},
            "wrap: a malicious window wraps around the border, allowed: masks that do so too$",
        ),
        ({"aggregate": WindowMask(3, 1)}, "mask: 3x1, allowed: at most the map's 2x2"),
        ({"aggregate": WindowMask(1, 3)}, "mask: 1x3, allowed: at most the map's 2x2"),
        ({"top": 2**60 + 1}, "clip_high: 2x2 cells of .* could overflow"),
        (
            {"aggregate": WindowMask(1, 1, "0.1"), "top": 2**60 // 10 + 1},
            "clip_high: .* T = 0.1, could overflow",
        ),
    ],
)
def test_what_would_make_a_certificate_meaningless_is_refused(change, message):
    given = {
        "units": UNITS,
        "labels": torch.tensor([0]),
        "aggregate": WindowMask(1, 1),
        "windows": ONE,
        "top": 3,
        "k": 1,
    }
    with pytest.raises(InputError, match=f"^{message}") as error:
        certify_units(**{**given, **change})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("threshold", ["0", "0.3"])
def test_windows_that_wrap_need_a_mask_that_wraps(threshold):
    """A mask that stops at the border never covers a window that runs around it, be it only one."""
    units = torch.tensor([[[[3, 0, 9]], [[0, 1, 0]]]])
    with pytest.raises(InputError, match="wrap"):
        certify_units(
            units, torch.tensor([0]), WindowMask(1, 2, threshold), [Windows(1, 2, (0,), (2,), True)], 9
        )


@pytest.mark.parametrize("shape", [(2, 2), (4, 1), (1, 4)])
@pytest.mark.parametrize("top", [2**60, 2**31 // 4 - 1, 2**31 // 4, 2**30])
def test_the_largest_admitted_sums_are_exact(top, shape):
    units = torch.full((1, 3, *shape), top) * torch.tensor([1, 0, 1])[:, None, None]
    windows = [all_windows(1, 1, *shape)]
    case = Case(units, [0], WindowMask(1, 1), windows, top, 1, False)
    agrees(case)
    agrees(Case(**{**vars(case), "labels": [1]}))
    if top < 2**60:
        agrees(Case(**{**vars(case), "mask": WindowMask(*shape, "0.9")}))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("threshold", ["0", "0.3"])
def test_units_of_a_byte_sum_to_more_than_a_byte(dtype, threshold):
    rng = random.Random("narrow")
    for mask, classes in (((2, 2), 3), ((3, 3), 3), ((2, 2), 40)):
        maps = [[a_map("close", 25, 100 if c else 127, rng) for c in range(classes)] for _ in range(2)]
        units = torch.tensor(maps).view(2, classes, 5, 5).to(dtype)
        agrees(Case(units, [0, 0], WindowMask(*mask, threshold), [all_windows(2, 2, 5, 5)], 127, 1, False))


@pytest.mark.parametrize("threshold", ["0", "0.3"])
def test_whole_sums_deceive_and_bounds_decide(threshold):
    """The 60 greatest sums lie in the attacker's only window, none of them outside; a quiet one counts."""
    units = torch.zeros(2, 80, 3, 3, dtype=torch.int64)
    units[:, :60, 0, 0] = 100
    units[:, 60:] = 1
    units[:, 77] = 2
    units[0, 5] = 10  # keeps 80, at T = 0 less 10
    units[1, 5] = 0
    units[1, 6] = 90  # so the second image's margin is far below
    case = Case(units, [5, 5], WindowMask(1, 1, threshold), [Windows(1, 1, (0,), (0,))], 100, 1, False)
    certificate = agrees(case)
    assert certificate.certified.tolist() == [True, False]
    for k in (2, 3, 20):
        agrees(Case(**{**vars(case), "k": k}))


def test_a_mask_apart_with_a_share_of_exactly_the_threshold_does_not_fall():
    """The 3 holds three tenths of the evidence outside the first cell: no share above T, so it stays."""
    units = torch.tensor([[[[0, 1, 1, 3, 1, 1, 1, 1, 1]], [[0] * 9]]])
    for more, lower in ((0, 10), (1, 7)):
        units[0, 0, 0, 3] = 3 + more
        case = Case(units, [0], WindowMask(1, 1, "0.3"), [Windows(1, 1, (0,), (0,))], 20, 1, False)
        assert agrees(case).margin_units.tolist() == [lower]
        generic = Aggregate.margins(case.mask, units, torch.tensor([0]), 20, case.windows[0])
        assert generic.tolist() == [[lower]]


def test_raw_evidence_is_checked_like_units():
    maps, defense = UNITS.double(), Defense(Logits("1", "3"), WindowMask(1, 1))
    labels = torch.tensor([0])
    plain = certify(maps, labels, defense, ONE)
    assert plain.margin == certify(maps, labels, defense, ONE, 1).margin
    assert plain.margin == certify_units(UNITS, labels, WindowMask(1, 1), ONE, 3).margin
    with pytest.raises(InputError, match=r"^labels: are a ndarray, allowed: a tensor \(1,\) int64"):
        certify(maps, labels.numpy(), defense, ONE)
    with pytest.raises(InputError, match=r"^labels: run from 2 to 2, allowed: 0 to 1"):
        certify(maps, torch.tensor([2]), defense, ONE)
    with pytest.raises(InputError, match=r"^top-k: k is 2, allowed: 1 to 1 of 2 classes"):
        certify(maps, labels, defense, ONE, 2)
    three = torch.cat([maps, maps[:, 1:] + 1], 1)
    one, two = (certify(three, labels, defense, ONE, k).margin for k in (1, 2))
    assert certify(three, labels, defense, ONE).margin == one != two


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_certificates():
    rng = random.Random("gpu")
    for threshold in ["0", "0.3"] * 5:
        case = strategic(rng, threshold)
        labels = torch.tensor(case.labels)
        here = certify_units(case.units, labels, case.mask, case.windows, case.top, case.k)
        there = certify_units(case.units.cuda(), labels.cuda(), case.mask, case.windows, case.top, case.k)
        for name in ("prediction", "clean", "certified", "margin_units", "worst"):
            assert torch.equal(getattr(here, name), getattr(there, name)), name


@pytest.mark.parametrize(
    ("hits", "total"), [(0, 1), (1, 1), (1, 3), (312, 1000), (999, 1000), (4321, 10000), (0, 500)]
)
def test_a_rate_carries_wilsons_interval(hits, total):
    """Its ends are the true rates p at which the rate seen lies 1.96 standard deviations away."""
    found = re.fullmatch(r"(\d+) of (\d+) images, ([\d.]+) % \[([\d.]+) %, ([\d.]+) %\]", rate(hits, total))
    assert (int(found[1]), int(found[2])) == (hits, total)
    seen, low, high = hits / total, float(found[4]) / 100, float(found[5]) / 100
    assert float(found[3]) == round(100 * seen, 1)
    z = NormalDist().inv_cdf(0.975)
    inside = [
        p for p in range(100001) if total * (seen - p / 1e5) ** 2 <= z * z * p / 1e5 * (1 - p / 1e5) + 1e-12
    ]
    assert abs(inside[0] / 1e5 - low) <= 0.00051
    assert abs(inside[-1] / 1e5 - high) <= 0.00051


@pytest.mark.parametrize(("hits", "total"), [(-1, 3), (4, 3), (0, 0)])
def test_a_rate_of_nothing_is_refused(hits, total):
    with pytest.raises(
        InputError, match=f"^hits: is {hits} of {total}, allowed: 0 to the total, which is 1 or more"
    ):
        rate(hits, total)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("top-k", {"k": 1.5}),
        ("top-k", {"k": 1.0}),
        ("patches", {"patches": float("nan")}),
        ("patches", {"patches": 1.5}),
        ("top", {"top": 3.5}),
    ],
)
def test_numbers_that_are_not_whole_are_refused(name, given):
    given = {"top": 3, "k": 1, "patches": 1, **given}
    with pytest.raises(InputError, match=f"^{name}: is .*, allowed: a whole number"):
        certify_units(
            torch.zeros(1, 3, 2, 2, dtype=torch.int32), None, Sum(), [all_windows(1, 1, 2, 2)], **given
        )


def test_a_mask_of_features_has_sides():
    with pytest.raises(InputError, match=r"^mask: -5x-5, allowed: 1x1 or more"):
        make_defense("features", [all_windows(1, 1, 2, 2)], mask=(-5, -5))


@pytest.mark.parametrize("patches", [2, 7, 9, 12, 15])
def test_any_number_of_cells_is_any_so_many_cells(patches):
    generator = torch.Generator().manual_seed(patches)
    units = torch.randint(0, 6, (20, 2, 4, 4), generator=generator)
    labels = torch.zeros(20, dtype=torch.int64)
    found = certify_units(units, labels, Sum(), [all_windows(1, 1, 4, 4)], 5, 1, patches)
    label, other = units[:, 0].flatten(1), units[:, 1].flatten(1)
    gained = (5 + label - other).sort(1, descending=True).values[:, :patches].sum(1)
    assert torch.equal(found.margin_units, label.sum(1) - other.sum(1) - gained)
    assert found.margin == found.margin_units.tolist()
    assert torch.equal(found.worst, torch.full((20, 4), -1))


@pytest.mark.parametrize(("side", "top"), [(2, 2**29), (2, 2**29 - 1), (8, 2**26), (8, 2**25)])
@pytest.mark.parametrize(
    "aggregate", [Sum(), WindowMask(1, 1), WindowMask(2, 1, "0.3"), TopMask(1), TopMask(2)]
)
def test_sums_around_32_bits(aggregate, side, top):
    units = torch.full((3, 2, side, side), top, dtype=torch.int64)
    units[1, 1], units[2, 0, 0] = 0, 1
    labels, windows = torch.zeros(3, dtype=torch.int64), all_windows(1, 1, side, side)
    found = certify_units(units.int(), labels, aggregate, [windows], top)
    exact = Aggregate.margins(aggregate, units, labels, top, windows).amin(1)
    assert torch.equal(found.margin_units, exact)
    assert found.clean.tolist() == Aggregate.outcome(aggregate, units, labels)[1].tolist()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool])
def test_maps_that_are_no_numbers_are_refused(dtype):
    maps = torch.zeros(1, 2, 2, 2, dtype=dtype)
    with pytest.raises(InputError, match=r"^maps: are of type torch\.(complex64|bool)"):
        certify(maps, None, Defense(Logits(), Sum()), [all_windows(1, 1, 2, 2)])


@pytest.mark.parametrize("patches", [0, -1])
def test_no_patch_is_no_attacker(patches):
    units = torch.zeros(1, 2, 2, 2, dtype=torch.int32)
    with pytest.raises(InputError, match=f"^patches: is {patches}, allowed: 1 or more"):
        certify_units(units, None, Sum(), [all_windows(1, 1, 2, 2)], 3, 1, patches)


@pytest.mark.parametrize("aggregate", [Sum(), WindowMask(2, 2), WindowMask(2, 2, "0.3"), TopMask(4)])
def test_more_guesses_than_are_looked_at_first(aggregate):
    generator = torch.Generator().manual_seed(0)
    units = torch.randint(0, 9, (8, 50, 4, 4), generator=generator)
    labels, windows = torch.randint(0, 50, (8,), generator=generator), all_windows(2, 2, 4, 4)
    found = certify_units(units, labels, aggregate, [windows], 8, 20)
    assert torch.equal(
        found.margin_units, Aggregate.margins(aggregate, units, labels, 8, windows, 20).amin(1)
    )
    prediction, clean = Aggregate.outcome(aggregate, units, labels, 20)
    assert torch.equal(found.prediction, prediction)
    assert torch.equal(found.clean, clean)

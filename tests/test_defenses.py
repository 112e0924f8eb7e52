"""Transforms and aggregates against their definitions."""

import itertools
import random
from decimal import Decimal
from fractions import Fraction

import oracle
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pglearn import InputError
from pglearn.defenses import Aggregate, Confidence, Defense, Logits, Sum, Tanh, WindowMask, box_sums, decimal
from pglearn.geometry import Windows, all_windows

INTEGERS = [
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def one(values: list, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).view(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.3", Fraction(3, 10)),
        (0.1, Fraction(1, 10)),
        ("1e-3", Fraction(1, 1000)),
        ("0", Fraction(0)),
        ("-2", Fraction(-2)),
    ],
)
def test_a_decimal_is_what_was_typed(text, value):
    assert decimal("x", text) == value
    assert isinstance(decimal("x", text), Fraction)


@pytest.mark.parametrize(
    "text", ["nan", "NaN", "-inf", "inf", "", "three", "1/3", "0x1", "1e61", "1e-61", None, "1e999999999"]
)
def test_what_is_no_decimal_is_refused(text):
    with pytest.raises(InputError, match=r"^step: is .*, allowed: a decimal number"):
        decimal("step", text)


@pytest.mark.parametrize(("text", "value"), [("1e60", Fraction(10**60)), ("1e-60", Fraction(1, 10**60))])
def test_the_longest_decimals(text, value):
    assert decimal("x", text) == value


@pytest.mark.parametrize(
    ("step", "high", "message"),
    [
        ("0", "1", "step: is 0, allowed: above 0"),
        ("-1", "1", "step: is -1, allowed: above 0"),
        ("nan", "1", "step: is nan, allowed: a decimal"),
        ("1", "0", "clip_high: is 0, allowed: above 0"),
        ("1", "-3", "clip_high: is -3, allowed: above 0"),
        ("1", "inf", "clip_high: is inf, allowed: a decimal"),
        ("1", "0.99", "clip_high: 0.99 at step 1 gives 0.99 units, allowed: 1 to 2"),
        (
            "0.5",
            "4503599627370497",
            "clip_high: 4503599627370497 at step 0.5 gives 9.01e.15 units, allowed: 1 to 2",
        ),
    ],
)
def test_constants_that_make_no_units_are_refused(step, high, message):
    with pytest.raises(InputError, match=message):
        Logits(step, high)


def test_documented_constants():
    assert (Logits().step, Logits().clip_high, Logits().top) == ("0.0009765625", "64", 65536)
    assert Logits("0.5", "4503599627370496").top == 2**53
    assert Logits("1", "1").top == 1
    assert Logits("0.1", "6.05").top == oracle.top_units(0.1, 6.05)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("step", "high"), [("0.0009765625", "64"), ("1", "10"), ("0.1", "3"), ("2", "5"), ("0.25", "1.1")]
)
def test_floating_point_becomes_the_units_of_the_definition(dtype, step, high):
    rng = random.Random(step)
    fine = float(step)
    values = [0.0, -0.0, -1.0, 1e-30, 1e30, -1e30, float("inf"), float("-inf"), float("nan"), float(high)]
    values += [fine * (n + 0.5) for n in range(8)] + [rng.uniform(-1, float(high) + 1) for _ in range(80)]
    raw = one(values, dtype)
    units = Logits(step, high)(raw)
    assert units.flatten().tolist() == [oracle.to_units(x, fine, float(high)) for x in raw.flatten().tolist()]
    assert 0 <= units.min() <= units.max() <= Logits(step, high).top == oracle.top_units(fine, float(high))
    assert units.max() == Logits(step, high).top


class LikeCuda(TorchDispatchMode):
    """Where CUDA divides by a plain number, it multiplies with the inverse."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.div.Tensor and not isinstance(args[1], torch.Tensor):
            func, args = torch.ops.aten.mul.Tensor, (args[0], 1.0 / args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [Logits, Confidence, Tanh])
@pytest.mark.parametrize("step", ["0.1", "0.3", "0.7", "0.003"])
def test_units_are_the_same_on_every_device(kind, step):
    """Ends and halves of a unit, where a second rounding shows."""
    rng = torch.Generator().manual_seed(5)
    raw = torch.rand(1, 4, 40, 40, generator=rng, dtype=torch.float64) * 8 - 2
    raw[:, :, 0] = (torch.arange(160).view(4, 40) + 0.5) * float(step)
    highs = [str(Decimal(step) * (2 * m + 1) / 2) for m in range(1, 40)] if kind is Logits else [""]
    for high in highs:
        transform = Logits(step, high) if high else kind(step)
        units = transform(raw)
        with LikeCuda():
            assert torch.equal(transform(raw), units)
        if torch.cuda.is_available() and kind is Logits:  # softmax and tanh may differ in their last bit
            assert torch.equal(transform(raw.cuda()).cpu(), units)
        assert 0 <= units.min() <= units.max() <= transform.top


def test_halves_go_to_the_even_unit():
    assert Logits("1", "9")(one([0.5, 1.5, 2.5, 3.5], torch.float32)).flatten().tolist() == [0, 2, 2, 4]
    assert Logits("2", "90")(one([1, 3, 5, 7], torch.int64)).flatten().tolist() == [0, 2, 2, 4]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(
    ("step", "high"), [("1", "100"), ("1", "127.5"), ("1", "5000000000"), ("0.5", "100"), ("3", "100")]
)
def test_integers_become_the_units_of_the_definition(dtype, step, high):
    info = torch.iinfo(dtype)
    values = [0, 1, 2, 5, 99, 100, 101, 126, 127, info.min, info.max]
    units = Logits(step, high)(one(values, dtype))
    assert units.flatten().tolist() == [oracle.to_units(x, float(step), float(high)) for x in values]


def test_large_integers_are_taken_as_they_are():
    values = [2**53 - 1, 2**53, 2**52 + 1, 2**63 - 1, -(2**63)]
    units = Logits("1", str(2**53))(one(values, torch.int64))
    assert units.flatten().tolist() == [2**53 - 1, 2**53, 2**52 + 1, 2**53, 0]


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
@pytest.mark.parametrize(("rows", "columns"), [(3, 7), (7, 3), (4, 4), (1, 1)])
def test_units_are_as_narrow_as_their_sums_allow(dtype, rows, columns):
    maps = torch.zeros(1, 1, rows, columns, dtype=dtype)
    fits = (2**31 - 1) // (rows * columns)
    assert Logits("1", str(fits))(maps).dtype == torch.int32
    assert Logits("1", str(fits + 1))(maps).dtype == torch.int64


def plain_box_sums(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return maps.unfold(-2, height, 1).unfold(-2, width, 1).sum((-1, -2))


def test_box_sums():
    generator = torch.Generator().manual_seed(0)
    for rows, columns in itertools.product((1, 2, 5, 9), repeat=2):
        maps = torch.randint(1000, (2, 3, rows, columns), generator=generator)
        for height, width in itertools.product(range(1, rows + 1), range(1, columns + 1)):
            expected = plain_box_sums(maps, height, width)
            assert torch.equal(box_sums(maps, height, width), expected)
            across = maps.transpose(0, 1)  # not contiguous
            assert torch.equal(box_sums(across, height, width), expected.transpose(0, 1))


def maps_and_rows(
    seed: int, count: int, height: int, width: int, top: int
) -> tuple[torch.Tensor, list[list[int]]]:
    rng = random.Random(seed)
    rows = [[rng.choice((0, rng.randint(0, top), top)) for _ in range(height * width)] for _ in range(count)]
    return torch.tensor(rows).view(1, count, height, width), rows


@pytest.mark.parametrize("threshold", ["0", "0.1", "0.3", "0.333", "0.6", "0.9"])
@pytest.mark.parametrize("wrap", [False, True])
def test_scores_equal_algorithm_1(threshold, wrap):
    for seed in range(20):
        rng = random.Random(seed)
        height, width = rng.randint(1, 5), rng.randint(1, 5)
        mask = rng.randint(1, height), rng.randint(1, width)
        units, rows = maps_and_rows(seed, 40, height, width, rng.choice((1, 3, 200)))
        masks = oracle.placements(*mask, height, width, wrap)
        expected = [oracle.score(row, masks, Fraction(threshold)) for row in rows]
        aggregate = WindowMask(*mask, threshold, wrap)
        for dtype in (torch.int64, torch.int32, torch.uint8, torch.int16):
            assert aggregate.scores(units.to(dtype)).tolist() == [expected]
        assert aggregate.scores(units).dtype == torch.int64
        for k in (1, 3):
            for label in (None, 0, 7):
                prediction, clean = aggregate.outcome(
                    units, None if label is None else torch.tensor([label]), k
                )
                y = oracle.predict(expected) if label is None else label
                assert prediction.tolist() == [oracle.predict(expected)]
                assert clean.tolist() == [sum(s >= expected[y] for c, s in enumerate(expected) if c != y) < k]


def test_whole_sums_deceive_and_masked_scores_decide():
    """Classes with great sums, all in one window, hide behind 16 of their kind; the quiet class wins."""
    units = torch.zeros(1, 80, 3, 3, dtype=torch.int64)
    units[0, :60, 0, 0] = 100
    units[0, 60:] = 1
    units[0, 77] = 2
    for labels, clean in (
        (None, True),
        (torch.tensor([77]), True),
        (torch.tensor([3]), False),
        (torch.tensor([61]), False),
    ):
        prediction, found = WindowMask(1, 1).outcome(units, labels)
        assert (prediction.tolist(), found.tolist()) == ([77], [clean])
    units[0, 78] = 2
    prediction, found = WindowMask(1, 1).outcome(units, None)
    assert (prediction.tolist(), found.tolist()) == ([77], [False])
    assert WindowMask(1, 1).outcome(units, None, 2)[1].tolist() == [True]
    assert WindowMask(1, 1).outcome(units, torch.tensor([61]), 2)[1].tolist() == [False]
    assert WindowMask(1, 1).outcome(units, torch.tensor([78]), 1)[1].tolist() == [False]


@pytest.mark.parametrize(
    ("threshold", "window", "rest"),
    [("0.3", 3, 7), ("0.1", 1, 9), ("0.7", 7, 3), ("0.6", 6, 4), ("0.07", 7, 93), ("0.29", 29, 71)],
)
def test_a_share_equal_to_the_threshold_stays(threshold, window, rest):
    """Decimals that binary floating point cannot hold are still compared exactly."""
    for scale in (1, 3, 10, 1000003, 10**12):
        total, cells = (window + rest) * scale, [window * scale, 0, *[scale] * rest]
        assert WindowMask(1, 1, threshold).scores(one(cells, torch.int64)).item() == total
        cells[0] += 1
        assert WindowMask(1, 1, threshold).scores(one(cells, torch.int64)).item() == total - window * scale


def test_nothing_is_masked_where_there_is_nothing():
    for threshold in ("0", "0.5"):
        assert (
            WindowMask(2, 2, threshold).scores(torch.zeros(2, 3, 4, 4, dtype=torch.int64)).tolist()
            == [[0] * 3] * 2
        )


@pytest.mark.parametrize("threshold", ["1", "-0.1", "1.5", "-1e-9", "1e9"])
def test_thresholds_outside_are_refused(threshold):
    with pytest.raises(InputError, match=r"^detection threshold: is .*, allowed: 0 <= T < 1"):
        WindowMask(1, 1, threshold)


@pytest.mark.parametrize("threshold", ["nan", "inf", "half"])
def test_thresholds_that_are_no_number_are_refused(threshold):
    with pytest.raises(InputError, match=r"^detection threshold: is .*, allowed: a decimal"):
        WindowMask(1, 1, threshold)


@pytest.mark.parametrize("shape", [(0, 1), (1, 0), (-1, 2)])
def test_empty_masks_are_refused(shape):
    with pytest.raises(InputError, match=f"^mask: {shape[0]}x{shape[1]}, allowed: 1x1 or more"):
        WindowMask(*shape)


@pytest.mark.parametrize("threshold", ["0", "0.1", "0.333", "0.9"])
@pytest.mark.parametrize("wrap", [False, True])
def test_bounds_hold_all_that_a_small_window_can_do(threshold, wrap):
    """Every content of every window is tried: none leaves the bounds, and at T = 0 both are attained."""
    for seed in range(12):
        rng = random.Random(seed)
        height, width, top = rng.randint(1, 3), rng.randint(2, 4), rng.randint(1, 3)
        shape = rng.choice([(1, 1), (1, 2)])
        mask = rng.randint(1, height), rng.randint(shape[1], width)
        units, rows = maps_and_rows(seed, 2, height, width, top)
        masks = oracle.placements(*mask, height, width, wrap)
        for window in oracle.placements(*shape, height, width, wrap):
            inside = torch.tensor([i in window for i in range(height * width)]).view(height, width)
            low, high = WindowMask(*mask, threshold, wrap).bounds(units, top, inside)
            for c, row in enumerate(rows):
                filled = oracle.contents(row, window, masks, Fraction(threshold), top, rng)
                scores = [oracle.score(m, masks, Fraction(threshold)) for m in filled]
                assert low[0, c] <= min(scores)
                assert max(scores) <= high[0, c]
                if threshold == "0":
                    assert (low[0, c], high[0, c]) == (min(scores), max(scores))


class Median(Aggregate):
    """Any score that never falls has exact bounds; this one is nobody's closed form."""

    def scores(self, units):
        return units.flatten(2).median(-1).values


@pytest.mark.parametrize("aggregate", [Sum(), Median()])
def test_a_monotone_aggregate_needs_nothing_but_scores(aggregate):
    units, _ = maps_and_rows(3, 4, 3, 3, 3)
    inside = torch.zeros(3, 3, dtype=torch.bool)
    inside[1, 1:] = True
    low, high = aggregate.bounds(units, 3, inside)
    reached = []
    for content in itertools.product(range(4), repeat=2):
        attacked = units.clone()
        attacked[..., inside] = torch.tensor(content)
        reached.append(aggregate.scores(attacked))
    assert torch.equal(low, torch.stack(reached).amin(0))
    assert torch.equal(high, torch.stack(reached).amax(0))


@pytest.mark.parametrize("classes", [4, 40])
@pytest.mark.parametrize("threshold", ["0", "0.3"])
@pytest.mark.parametrize("wrap", [False, True])
def test_everything_is_computed_where_the_evidence_lies(classes, threshold, wrap):
    """Under another default device, a tensor made without naming the evidence's own fails, as on a GPU."""
    units, _ = maps_and_rows(7, classes, 4, 5, 9)
    labels = torch.tensor([1])
    aggregate = WindowMask(2, 3, threshold, wrap)
    windows = [all_windows(2, 3, 4, 5, wrap), Windows(1, 2, (0, 3), (1, 3))]

    def everything() -> list[torch.Tensor]:
        found = [aggregate.margins(units, labels, 9, window, 2) for window in windows]
        return [*found, *aggregate.outcome(units, labels, 2), *aggregate.outcome(units, None)]

    expected = everything()
    with torch.device("meta"):
        found = everything()
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("aggregate", [Sum(), WindowMask(1, 1), WindowMask(1, 1, "0.3", True)])
def test_one_rival_is_enough_unless_told_otherwise(aggregate):
    for classes in (4, 40):
        units, _ = maps_and_rows(8, classes, 3, 3, 9)
        labels, windows = torch.tensor([2]), all_windows(1, 1, 3, 3)
        one, two = (aggregate.margins(units, labels, 9, windows, k) for k in (1, 2))
        assert torch.equal(aggregate.margins(units, labels, 9, windows), one)
        assert not torch.equal(one, two)
        scores = aggregate.scores(units)[0].tolist()
        second = scores.index(sorted(scores)[-2])
        assert aggregate.outcome(units, torch.tensor([second]))[1].tolist() == [False]
        assert aggregate.outcome(units, torch.tensor([second]), 2)[1].tolist() == [
            scores.count(max(scores)) == 1
        ]


def test_sum():
    units, rows = maps_and_rows(1, 5, 3, 4, 9)
    assert Sum().scores(units.to(torch.uint8) * 25).tolist() == [[25 * sum(row) for row in rows]]


def test_an_aggregate_must_say_how_it_scores():
    with pytest.raises(NotImplementedError):
        Aggregate().scores(torch.zeros(1, 1, 1, 1))


def test_a_defense_is_a_transform_and_an_aggregate():
    defense = Defense(Logits("0.5", "4"), WindowMask(1, 1))
    assert defense.scores(torch.tensor([[[[9.0, 0.6]], [[1.0, float("nan")]]]])).tolist() == [[1, 0]]

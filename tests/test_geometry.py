"""Geometry against brute force: networks that say themselves which pixels they read, and sets of pixels."""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pglearn import geometry
from pglearn.errors import InputError
from pglearn.geometry import (
    Axis,
    Geometry,
    Layer,
    Windows,
    all_windows,
    attention_counts,
    attention_counts_2d,
    largest_patch,
    layers_of,
    malicious_windows,
    probe,
    receptive_field,
    resampled,
    shapes_up_to,
    touched,
    unseen_pixels,
    window_size,
)

settings.register_profile("geometry", deadline=None, max_examples=60)
settings.load_profile("geometry")

LAYERS = st.builds(Layer, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
STACKS = st.lists(LAYERS, min_size=1, max_size=3)
PLAIN = st.lists(st.builds(Layer, st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks: a second thread only waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seen_by(layers: Sequence[Layer], image: int) -> list[set[int]]:
    """The pixels that each cell reads, by following every connection; [] where the image is too small."""
    cells = [{pixel} for pixel in range(image)]
    for layer in layers:
        above, start = [], -layer.padding
        while start + (layer.kernel - 1) * layer.dilation < len(cells) + layer.padding:
            taps = [start + tap * layer.dilation for tap in range(layer.kernel)]
            above.append(set().union(*(cells[tap] for tap in taps if 0 <= tap < len(cells))))
            start += layer.stride
        if not above:
            return []
        cells = above
    return cells


def hull(pixels: set[int]) -> tuple[int, int]:
    return (min(pixels), max(pixels) + 1) if pixels else (0, 0)


def network(rows: Sequence[Layer], columns: Sequence[Layer]) -> nn.Sequential:
    """All-ones convolutions in float64, one a layer: every connection is there and no two cancel."""
    convolutions = []
    for row, column in zip(rows, columns, strict=True):
        pairs = [(getattr(row, name), getattr(column, name)) for name in vars(row)]
        kernel, stride, padding, dilation = pairs
        convolution = nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False, dtype=torch.float64)
        nn.init.ones_(convolution.weight)
        convolutions.append(convolution)
    return nn.Sequential(*convolutions)


class Double(nn.Module):
    """`probe` feeds float32; our all-ones networks are float64."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images.double())


# ------------------------------------------------------------------------------------------ receptive fields
@given(STACKS, st.integers(1, 20))
def test_formula_against_every_connection(layers: list[Layer], image: int) -> None:
    """No cell reads a pixel outside its field; a field inside the image is the hull of what is read."""
    cells = seen_by(layers, image)
    if not cells:
        with pytest.raises(InputError, match=f"image: {image} pixels are too few"):
            receptive_field(layers, image)
        return
    axis = receptive_field(layers, image)
    assert axis.cells == len(cells)
    for (start, stop), pixels in zip(axis.fields, cells, strict=True):
        assert all(start <= pixel < stop for pixel in pixels)
        if start >= 0 and stop <= image:
            assert (start, stop) == hull(pixels)


@given(STACKS, st.integers(12, 24))
def test_size_stride_and_offset(layers: list[Layer], image: int) -> None:
    assume(seen_by(layers, image))
    axis = receptive_field(layers, image)
    assert axis.size == len(attention_counts(layers))
    assert {stop - start for start, stop in axis.fields} == {axis.size}
    steps = {b[0] - a[0] for a, b in itertools.pairwise(axis.fields)}
    assert steps <= {math.prod(layer.stride for layer in layers)}
    assert axis.stride == (steps.pop() if steps else 1)
    jumps = itertools.accumulate([1, *(layer.stride for layer in layers)], int.__mul__)
    assert axis.fields[0][0] == -sum(layer.padding * jump for layer, jump in zip(layers, jumps, strict=False))


SAME = st.sampled_from([Layer(1), Layer(3, padding=1), Layer(5, padding=2), Layer(3, padding=2, dilation=2)])


@given(st.lists(SAME, min_size=1, max_size=3), st.integers(1, 12))
def test_formula_is_exact_up_to_the_border_with_same_padding(layers: list[Layer], image: int) -> None:
    axis = receptive_field(layers, image)
    clipped = [(max(start, 0), min(stop, image)) for start, stop in axis.fields]
    for (start, stop), pixels in zip(clipped, seen_by(layers, image), strict=True):
        assert pixels <= set(range(start, stop))
        if all(layer.dilation == 1 for layer in layers):
            assert pixels == set(range(start, stop))


@settings(max_examples=25)
@given(st.lists(st.tuples(LAYERS, LAYERS), min_size=1, max_size=3), st.integers(4, 9), st.integers(4, 9))
def test_probe_finds_every_connection(pairs: list[tuple[Layer, Layer]], height: int, width: int) -> None:
    rows, columns = zip(*pairs, strict=True)
    assume(any(seen_by(rows, height)) and any(seen_by(columns, width)))
    found = probe(Double(network(rows, columns)), height, width, channels=1)
    assert found.rows == Axis(height, tuple(hull(pixels) for pixels in seen_by(rows, height)))
    assert found.columns == Axis(width, tuple(hull(pixels) for pixels in seen_by(columns, width)))


@settings(max_examples=25)
@given(st.lists(st.tuples(LAYERS, LAYERS), min_size=1, max_size=3), st.integers(4, 13), st.integers(4, 13))
def test_gradient_support(pairs: list[tuple[Layer, Layer]], height: int, width: int) -> None:
    rows, columns = zip(*pairs, strict=True)
    by_row, by_column = seen_by(rows, height), seen_by(columns, width)
    assume(by_row and by_column)
    image = torch.zeros(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    features = network(rows, columns)(image)
    assert features.shape == (1, 1, len(by_row), len(by_column))
    for row, column in [(0, 0), (len(by_row) // 2, len(by_column) // 2), (-1, -1)]:
        (gradient,) = torch.autograd.grad(features[0, 0, row, column], image, retain_graph=True)
        expected = set(itertools.product(by_row[row], by_column[column]))
        assert {tuple(at) for at in gradient[0, 0].nonzero().tolist()} == expected


def test_pixel_perturbation_of_a_random_network() -> None:
    """The third way: another value in one pixel changes exactly the cells whose fields hold it."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), padding=(1, 2)), nn.Tanh(), nn.Conv2d(8, 4, 3, (2, 1)), nn.Tanh()
    ).double()
    geometry = Geometry(receptive_field(layers_of(body, 0), 11), receptive_field(layers_of(body, 1), 12))
    image = torch.rand(1, 3, 11, 12, dtype=torch.float64)
    places = list(itertools.product(range(11), range(12)))
    others = image.repeat(len(places), 1, 1, 1)
    for other, (row, column) in zip(others, places, strict=True):
        other[:, row, column] += 1
    changed = (body(others) != body(image)).any(dim=1)  # (places, H', W')
    for at, (row, column) in zip(changed, places, strict=True):
        top, bottom = touched(geometry.rows, row, 1)
        left, right = touched(geometry.columns, column, 1)
        expected = torch.zeros_like(at)
        expected[top:bottom, left:right] = True
        assert at.equal(expected)


def test_layers_of_reads_both_axes() -> None:
    body = nn.Sequential(
        nn.Conv2d(3, 4, (3, 5), (1, 2), (0, 1)), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(3, 2)
    )
    assert layers_of(body, 0) == [Layer(3), Layer(2, 2), Layer(3, 2)]
    assert layers_of(body, 1) == [Layer(5, 2, 1), Layer(2, 2), Layer(3, 2)]
    assert layers_of(nn.Conv2d(1, 1, 3, dilation=2)) == [Layer(3, dilation=2)]


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.ConvTranspose2d(1, 1, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.GroupNorm(1, 1),
        nn.Flatten(),
        nn.Linear(4, 4),
    ],
)
def test_layers_of_refuses_what_may_see_more(module: nn.Module) -> None:
    body = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.ReLU(), module)
    assert layers_of(body[:3]) == [Layer(3)]
    with pytest.raises(
        InputError, match=rf"^module: {type(module).__name__}.* is not known to be local, allowed"
    ):
        layers_of(body)


# ----------------------------------------------------------------------------------------------------- probe
def test_probe_passes_pooling_and_normalization_in_eval_mode() -> None:
    body = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(), nn.AvgPool2d(2, 1)
    )
    body.train()
    found = probe(body, 12, 10)
    assert body.training
    assert not body[1].running_mean.isnan().any()
    assert found == Geometry(receptive_field(layers_of(body), 12), receptive_field(layers_of(body), 10))


def test_probe_gives_the_mode_back_when_the_model_fails() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(InputError, match=r"model: gives a tensor of rank 2, allowed: maps \(N, C, H, W\)"):
        probe(body, 6, 6)
    assert body.training


def test_probe_sees_a_dead_network_and_cells_that_read_nothing() -> None:
    """Weights of zero and dead ReLUs silence gradients and perturbations; NaN still passes."""
    body = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 1, 1, padding=1))
    for parameter in body.parameters():
        nn.init.zeros_(parameter)
    assert probe(body, 5, 5, channels=1).rows == Axis(5, ((0, 0), (0, 3), (1, 4), (2, 5), (0, 0)))


class Squeeze(nn.Module):
    """Squeeze-and-excitation without its two small layers: every channel scaled by its mean over the map."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()


@pytest.mark.parametrize("spoiler", [Squeeze(), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Softmax2d()])
def test_operations_over_space_are_found_out(spoiler: nn.Module) -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), spoiler, nn.Conv2d(4, 1, 1))
    found = probe(body, 9, 9)
    local = isinstance(spoiler, nn.Softmax2d)  # over channels: harmless
    assert found.rows.sees_everything == (not local)
    assert (found.warning() is None) == local
    if not local:
        assert "nothing can be certified" in str(found.warning())
        (window,) = malicious_windows(1, 1, found)
        assert (window.height, window.width, len(window)) == (4, 4, 1)


def test_warning_needs_both_axes() -> None:
    everything, small = receptive_field([Layer(9)], 9), receptive_field([Layer(3)], 9)
    assert Geometry(everything, everything).warning() is not None
    assert Geometry(everything, small).warning() is None
    assert Geometry(small, everything).warning() is None
    padded = receptive_field([Layer(17, padding=8)], 9)
    assert Geometry(padded, padded).warning() is not None


# ------------------------------------------------------------------------------------------ attention counts
def test_figure_6() -> None:
    assert attention_counts([Layer(3)] * 2) == [1, 2, 3, 2, 1]
    assert attention_counts([Layer(3)] * 3) == [1, 3, 6, 7, 6, 3, 1]
    assert attention_counts([]) == [1]
    assert attention_counts_2d([Layer(3)] * 2) == [[a * b for b in (1, 2, 3, 2, 1)] for a in (1, 2, 3, 2, 1)]


@settings(max_examples=30)
@given(STACKS)
def test_attention_counts_are_gradients_of_an_all_ones_network(layers: list[Layer]) -> None:
    unpadded = [Layer(layer.kernel, layer.stride, 0, layer.dilation) for layer in layers]
    counts = attention_counts(layers)
    image = torch.zeros(1, 1, len(counts), len(counts), dtype=torch.float64, requires_grad=True)
    network(unpadded, unpadded)(image).sum().backward()
    assert image.grad is not None
    assert image.grad[0, 0].long().tolist() == attention_counts_2d(layers)
    assert sum(counts) == math.prod(layer.kernel for layer in layers)
    line = torch.zeros(1, 1, len(counts), 1, dtype=torch.float64, requires_grad=True)
    network(unpadded, [Layer(1)] * len(layers))(line).sum().backward()
    assert line.grad is not None
    assert line.grad.flatten().long().tolist() == counts


def test_attention_grows_exponentially_in_the_center() -> None:
    """Kernel 3, n layers: the edge is looked at once, the center as often as the central trinomial number,
    which lies between 3^n / (2n + 1) and 3^n and approaches 3^n * sqrt(3 / (4 pi n)).
    """
    for n in range(1, 41):
        counts = attention_counts([Layer(3)] * n)
        trinomial = sum(math.comb(n, 2 * k) * math.comb(2 * k, k) for k in range(n // 2 + 1))
        assert (counts[0], counts[n], max(counts), len(counts)) == (1, trinomial, trinomial, 2 * n + 1)
        assert 3**n <= (2 * n + 1) * trinomial
        assert counts == counts[::-1]
        assert counts[: n + 1] == sorted(counts[: n + 1])
        assert abs(trinomial / (3**n * math.sqrt(3 / (4 * math.pi * n))) - 1) < 0.4 / n
    assert attention_counts([Layer(1)] * 9) == [1]


# -------------------------------------------------------------------------------------------- Eq. 1 and back
def test_equation_1_and_its_inverse() -> None:
    for n, r, s in itertools.product(range(1, 30), (1, 2, 3, 7, 9, 17, 33), (1, 2, 3, 4, 8)):
        p = largest_patch(n, r, s)
        if p >= 1:
            assert window_size(p, r, s) == n
        if p >= 0:
            assert window_size(p + 1, r, s) == n + 1


@pytest.mark.parametrize("layers", [[Layer(r, s)] for r in (1, 2, 3, 5, 9) for s in (1, 2, 3, 4, 8)])
def test_equation_1_against_every_placement(layers: list[Layer]) -> None:
    """Without borders in the way, the most fields that one placement meets are Eq. 1's, and no more."""
    image = 100
    axis, cells = receptive_field(layers, image), seen_by(layers, image)
    for p in range(1, 20):
        met = [
            sum(any(start <= q < start + p for q in seen) for seen in cells) for start in range(image - p + 1)
        ]
        assert max(met) == window_size(p, axis.size, axis.stride)
        (windows,) = {(w.height, w.width) for w in malicious_windows(p, p, Geometry(axis, axis))}
        assert windows == (max(met), max(met))


def test_figure_7() -> None:
    """r = 3, s = 4: every fourth pixel is in no field, and 4n - 2 pixels are the most that n fields show."""
    axis = receptive_field([Layer(3, stride=4)], 20)
    assert axis.fields == ((0, 3), (4, 7), (8, 11), (12, 15), (16, 19))
    assert unseen_pixels(axis) == [3, 7, 11, 15, 19]
    assert touched(axis, 3, 1) == (0, 0)
    assert [largest_patch(n, 3, 4) for n in (1, 2, 3)] == [2, 6, 10]
    assert touched(axis, 2, 6) == (0, 2)
    assert touched(axis, 2, 7) == (0, 3)


@given(PLAIN, st.integers(1, 24))
def test_unseen_pixels(layers: list[Layer], image: int) -> None:
    cells = seen_by(layers, image)
    assume(cells)
    axis = receptive_field(layers, image)
    unread = [pixel for pixel in range(image) if not any(pixel in seen for seen in cells)]
    assert set(unseen_pixels(axis)) <= set(unread)  # a field is an interval, and may have holes
    if all(layer.kernel >= layer.stride for layer in layers):
        assert unseen_pixels(axis) == unread


# ---------------------------------------------------------------------------------------- malicious windows
def rectangles(windows: list[Windows]) -> set[tuple[int, int, int, int]]:
    """(top, bottom, left, right) of every window of the list."""
    return {
        (row, row + w.height, column, column + w.width)
        for w in windows
        for row in w.rows
        for column in w.columns
    }


NETWORKS = {
    "unpadded": ([Layer(3), Layer(3, 2)], [Layer(3), Layer(3, 2)]),
    "same padding": ([Layer(3, padding=1), Layer(3, padding=1)], [Layer(5, padding=2), Layer(1)]),
    "small BagNet": ([Layer(4, 2, 1), Layer(3, 1, 1)], [Layer(4, 2, 1), Layer(3, 1, 1)]),
    "rows unlike columns": ([Layer(4, 2, 1), Layer(1)], [Layer(2, 1), Layer(3, 2)]),
    "gaps between fields": ([Layer(3, 4)], [Layer(2, 3)]),
    "sees everything": ([Layer(11)], [Layer(12)]),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("patch", [(1, 1), (2, 3), (5, 4), (11, 12)])
def test_malicious_windows_against_every_placement(name: str, patch: tuple[int, int]) -> None:
    """Patches of NaN on a real network: what turns NaN lies in one window, and every window is attained."""
    (rows, columns), height, width = NETWORKS[name], 11, 12
    geometry = Geometry(receptive_field(rows, height), receptive_field(columns, width))
    places = list(itertools.product(range(height - patch[0] + 1), range(width - patch[1] + 1)))
    images = torch.zeros(len(places), 1, height, width, dtype=torch.float64)
    for image, (top, left) in zip(images, places, strict=True):
        image[:, top : top + patch[0], left : left + patch[1]] = float("nan")
    attacked = set()
    for reads in network(rows, columns)(images).isnan()[:, 0]:
        if reads.any():
            (top, bottom), (left, right) = (hull(set(at.tolist())) for at in reads.nonzero().T)
            assert reads[top:bottom, left:right].all()
            attacked.add((top, bottom, left, right))
    windows = rectangles(malicious_windows(*patch, geometry))
    assert windows <= attacked
    for inner in attacked:
        assert any(holds(outer, inner) for outer in windows)
    for one, other in itertools.permutations(windows, 2):
        assert not holds(one, other), "a window inside another one is not needed"


def holds(outer: tuple[int, ...], inner: tuple[int, ...]) -> bool:
    rows = outer[0] <= inner[0] and inner[1] <= outer[1]
    return rows and outer[2] <= inner[2] and inner[3] <= outer[3]


@given(STACKS, st.integers(4, 18), st.data())
def test_no_placement_escapes_the_windows(layers: list[Layer], image: int, data: st.DataObject) -> None:
    """Whatever the padding, strides and holes: a superset is sound, anything less is not."""
    cells = seen_by(layers, image)
    assume(any(cells))
    axis, patch = receptive_field(layers, image), data.draw(st.integers(1, image))
    windows = rectangles(malicious_windows(patch, patch, Geometry(axis, axis)))
    for start in range(image - patch + 1):
        met = {i for i, seen in enumerate(cells) if any(start <= pixel < start + patch for pixel in seen)}
        first, stop = hull(met)
        low, high = touched(axis, start, patch)
        assert met <= set(range(low, high))
        assert not met or any(top <= first and stop <= bottom for top, bottom, _, _ in windows)


@given(PLAIN, st.integers(4, 18), st.data())
def test_windows_are_exact_without_padding(layers: list[Layer], image: int, data: st.DataObject) -> None:
    cells = seen_by(layers, image)
    assume(cells and all(layer.kernel >= layer.stride for layer in layers))
    axis, patch = receptive_field(layers, image), data.draw(st.integers(1, image))
    met = set()
    for start in range(image - patch + 1):
        met.add(hull({i for i, seen in enumerate(cells) if any(start <= q < start + patch for q in seen)}))
        assert touched(axis, start, patch) == hull(
            {i for i, seen in enumerate(cells) if any(start <= q < start + patch for q in seen)}
        )
    met.discard((0, 0))
    largest = {a for a in met if not any(a != b and b[0] <= a[0] and a[1] <= b[1] for b in met)}
    found = rectangles(malicious_windows(patch, patch, Geometry(axis, axis)))
    assert found == {(*a, *b) for a, b in itertools.product(largest, repeat=2)}


def test_a_patch_touches_only_pixels_that_exist() -> None:
    axis = receptive_field([Layer(3, padding=1)], 8)
    assert touched(axis, 0, 1) == (0, 2)
    assert touched(axis, -5, 5) == (0, 0)
    assert touched(axis, 8, 4) == (0, 0)
    assert touched(axis, -5, 20) == (0, 8)


def cells_of(windows: list[Windows], geometry: Geometry) -> list[frozenset[tuple[int, int]]]:
    """Every window as the set of its cells; columns modulo the map's width where they wrap."""
    width = geometry.columns.cells
    return [
        frozenset(
            (y, x % width if w.wrap else x)
            for y in range(row, row + w.height)
            for x in range(column, column + w.width)
        )
        for w in windows
        for row in w.rows
        for column in w.columns
    ]


def attacked_cells(patch: tuple[int, int], geometry: Geometry) -> set[frozenset[tuple[int, int]]]:
    """The cells that each placement of a patch meets, pixel by pixel, columns modulo the image's width."""
    rows, columns = geometry.rows, geometry.columns
    found = set()
    for top, left in itertools.product(range(rows.image - patch[0] + 1), range(columns.image - patch[1] + 1)):
        met = [
            {
                i
                for i, (start, stop) in enumerate(axis.fields)
                if any((q % axis.image if wrap else q) in range(at, at + length) for q in range(start, stop))
            }
            for axis, at, length, wrap in (
                (rows, top, patch[0], False),
                (columns, left, patch[1], geometry.wrap),
            )
        ]
        found.add(frozenset(itertools.product(*met)))
    return found - {frozenset()}


@given(st.data(), st.integers(2, 14), st.integers(1, 3), st.integers(1, 6), st.integers(1, 2))
def test_windows_of_ablations_are_exact(
    data: st.DataObject, width: int, stride: int, high: int, down: int
) -> None:
    """De-randomized smoothing: bands (or blocks) of every position, columns around the border."""
    band, height = data.draw(st.integers(1, width)), 7
    geometry = Geometry(
        Axis(height, tuple((row, row + high) for row in range(0, height - high + 1, down))),
        Axis(width, tuple((column, column + band) for column in range(0, width, stride))),
        wrap=True,
    )
    patch = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    met = attacked_cells(patch, geometry)
    assume(met)
    windows = malicious_windows(*patch, geometry)
    cells = cells_of(windows, geometry)
    assert set(cells) == {inner for inner in met if not any(inner < outer for outer in met)}
    assert len(cells) == len(set(cells))
    assert all(len(inside) == w.height * w.width for w in windows for inside in cells_of([w], geometry))
    if stride == 1 and band < width:
        wide = min(width, patch[1] + band - 1)
        assert {w.width for w in windows} == {wide}
        starts = {(x - band + 1) % width for x in range(width - patch[1] + 1)}
        assert {c for w in windows for c in w.columns} == (starts if wide < width else {0})


FIELDS = st.lists(
    st.tuples(st.integers(-12, 20), st.integers(0, 15)).map(lambda at: (at[0], sum(at))),
    min_size=1,
    max_size=7,
)


@given(FIELDS, st.integers(1, 9), st.data())
def test_no_placement_escapes_whatever_wraps(
    fields: list[tuple[int, int]], image: int, data: st.DataObject
) -> None:
    geometry = Geometry(Axis(2, ((0, 1), (1, 2))), Axis(image, tuple(fields)), wrap=True)
    patch = data.draw(st.integers(1, image))
    met = attacked_cells((1, patch), geometry)
    if not met:
        with pytest.raises(InputError, match="no field sees any pixel"):
            malicious_windows(1, patch, geometry)
        return
    cells = cells_of(malicious_windows(1, patch, geometry), geometry)
    assert all(any(inner <= outer for outer in cells) for inner in met)
    assert not any(one < other for one, other in itertools.permutations(cells, 2))
    count = len(fields)
    for start in range(image - patch + 1):
        seen = {
            i
            for i, (a, b) in enumerate(fields)
            if any(q % image in range(start, start + patch) for q in range(a, b))
        }
        first, stop = touched(geometry.columns, start, patch, wrap=True)
        smallest = min(
            n for n in range(count + 1) for at in range(count) if seen <= {(at + i) % count for i in range(n)}
        )
        assert seen <= {i % count for i in range(first, stop)}
        assert stop - first == smallest
        assert 0 <= first < count


def test_windows_of_bands() -> None:
    """A 9-pixel patch against bands of 8 of 64 columns: 16 positions, for each of its 56 places."""
    columns = Axis(64, tuple((column, column + 8) for column in range(64)))
    (windows,) = malicious_windows(9, 9, Geometry(Axis(64, ((0, 64),)), columns, wrap=True))
    assert (windows.height, windows.width, windows.wrap) == (1, 16, True)
    assert set(windows.columns) == {*range(49), *range(57, 64)}
    (plain,) = malicious_windows(9, 9, Geometry(Axis(64, ((0, 64),)), columns))
    assert max(plain.columns) + plain.width <= 64


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 8))
def test_shapes_up_to(area: int, height: int, width: int) -> None:
    every = {(h, w) for h in range(1, height + 1) for w in range(1, width + 1) if h * w <= area}
    found = shapes_up_to(area, height, width)
    assert found == sorted(
        (h, w) for h, w in every if not any((h, w) != (a, b) and h <= a and w <= b for a, b in every)
    )


def test_all_windows() -> None:
    assert all_windows(2, 3, 4, 5) == Windows(2, 3, (0, 1, 2), (0, 1, 2))
    assert all_windows(2, 3, 4, 5, wrap=True) == Windows(2, 3, (0, 1, 2), (0, 1, 2, 3, 4), wrap=True)
    assert len(all_windows(4, 5, 4, 5, wrap=True)) == len(all_windows(4, 5, 4, 5)) == 1


# -------------------------------------------------------------------------------------------------- resizing
def weights(native: int, size: int, kind: str, antialias: bool) -> Tensor:
    """What torch's resizing makes of each source pixel: (size, native), float64."""
    images = torch.eye(native, dtype=torch.float64).reshape(native, 1, native, 1).repeat(1, 1, 1, 2)
    return F.interpolate(images, (size, 2), mode=kind, antialias=antialias)[:, 0, :, 0].T


RESIZINGS = [
    (kind, antialias, native, size)
    for kind in ("bicubic", "bilinear")
    for antialias in (False, True)
    for native, size in [
        (32, 192),
        (32, 64),
        (7, 10),
        (10, 10),
        (13, 9),
        (24, 8),
        (50, 21),
        (64, 7),
        (1, 5),
        (5, 1),
    ]
]


@pytest.mark.parametrize(("kind", "antialias", "native", "size"), RESIZINGS)
def test_footprint_of_a_resizing(kind: str, antialias: bool, native: int, size: int) -> None:
    """A source pixel outside the footprint has no weight; one inside has, but at the kernel's own zeros."""
    axis = resampled(receptive_field([], size), native, kind, antialias)
    assert (axis.image, axis.cells) == (native, size)
    scale = Fraction(native, size)
    unit = max(scale, Fraction(1)) if antialias else Fraction(1)
    for i, row in enumerate(weights(native, size, kind, antialias).tolist()):
        center = (i + Fraction(1, 2)) * scale
        for pixel, weight in enumerate(row):
            if not axis.fields[i][0] <= pixel < axis.fields[i][1]:
                assert weight == 0
            elif abs(weight) < 1e-12:
                assert abs(pixel + Fraction(1, 2) - center) / unit in (1, 2)


@settings(max_examples=60)
@given(
    STACKS, st.integers(6, 16), st.integers(3, 30), st.sampled_from(["bicubic", "bilinear"]), st.booleans()
)
def test_fields_through_a_resizing(
    layers: list[Layer], image: int, native: int, kind: str, antialias: bool
) -> None:
    cells = seen_by(layers, image)
    assume(cells)
    axis = resampled(receptive_field(layers, image), native, kind, antialias)
    matrix = weights(native, image, kind, antialias)
    for (start, stop), seen in zip(axis.fields, cells, strict=True):
        read = {pixel for at in seen for pixel in range(native) if matrix[at, pixel] != 0}
        assert read <= set(range(start, stop))


def test_resizing_to_the_same_size_changes_nothing() -> None:
    axis = receptive_field([Layer(3, 2, 1)], 12)
    assert resampled(axis, 12) == resampled(axis, 12, "bilinear", antialias=True) == axis


def test_probe_through_a_resizing() -> None:
    class Resized(nn.Module):
        body = nn.Conv2d(3, 1, 5, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.body(F.interpolate(images, (30, 24), mode="bicubic"))

    found = probe(Resized(), 12, 16)
    for axis, size, native in ((found.rows, 30, 12), (found.columns, 24, 16)):
        expected = resampled(receptive_field([Layer(5, 3)], size), native)
        for (a, b), (start, stop) in zip(axis.fields, expected.fields, strict=True):
            assert start <= a <= start + 1  # but for taps of weight zero
            assert stop - 1 <= b <= stop


def test_five_pixels_are_48_after_resizing() -> None:
    """CIFAR-10 at 192 pixels: a 5-pixel patch reaches 48 of them, not 30, and the windows grow with it."""
    axis = resampled(receptive_field([], 192), 32)
    reached = [len(range(*touched(axis, start, 5))) for start in range(28)]
    assert max(reached) == 48
    changed = (weights(32, 192, "bicubic", False)[:, 10:15] != 0).any(dim=1)
    assert int(changed.sum()) == 48
    bagnet = receptive_field([Layer(17, 8)], 192)
    small, large = (
        malicious_windows(p, p, Geometry(a, a)) for p, a in ((30, bagnet), (5, resampled(bagnet, 32)))
    )
    assert max(w.height for w in small) == window_size(30, 17, 8) == 6
    assert max(w.height for w in large) == window_size(48, 17, 8) == 8


# ------------------------------------------------------------------------------------------------------ JSON
@given(STACKS, st.integers(4, 20), st.integers(1, 40))
def test_json_round_trip(layers: list[Layer], image: int, native: int) -> None:
    assume(seen_by(layers, image))
    rows = receptive_field(layers, image)
    geometry = Geometry(rows, resampled(rows, native))
    assert "\n" not in geometry.to_json()
    assert Geometry.from_json(geometry.to_json()) == geometry


AXIS = {"image": 4, "fields": [[0, 3], [1, 4]]}


def test_json_as_others_write_it() -> None:
    axis = Axis(4, ((0, 3), (1, 4)))
    assert Geometry.from_json(json.dumps({"rows": AXIS, "columns": AXIS}, indent=1)) == Geometry(axis, axis)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "null",
        "[1, 2]",
        "3",
        json.dumps({"rows": AXIS}),
        json.dumps({"rows": AXIS, "columns": 3}),
        json.dumps({"rows": AXIS, "columns": {"image": 4}}),
        *(
            json.dumps({"rows": AXIS, "columns": {**AXIS, **change}})
            for change in (
                {"image": "4"},
                {"image": 4.0},
                {"image": None},
                {"image": 0},
                {"image": True},
                {"fields": []},
                {"fields": 3},
                {"fields": [3]},
                {"fields": [[0]]},
                {"fields": [[0, 1, 2]]},
                {"fields": [[0, 1.5]]},
                {"fields": [[0, None]]},
                {"fields": [["0", "3"]]},
                {"fields": [[3, 1]]},
                {"fields": [[0, float("nan")]]},
            )
        ),
        "[" * 100_000,
    ],
)
def test_json_that_is_no_geometry(text: str) -> None:
    with pytest.raises(InputError, match=r"^geometry: .*allowed: rows and columns, with image and fields$"):
        Geometry.from_json(text)


# ------------------------------------------------------------------------------------------------- bad input
SMALL = receptive_field([Layer(3)], 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Layer(0), "layer: kernel is 0, allowed: 1 or more"),
        (lambda: Layer(3, stride=0), "layer: stride is 0, allowed: 1 or more"),
        (lambda: Layer(3, padding=-1), "layer: padding is -1, allowed: 0 or more"),
        (lambda: Layer(3, dilation=0), "layer: dilation is 0, allowed: 1 or more"),
        (
            lambda: receptive_field([Layer(3), Layer(3, 1, 0, 4)], 8),
            "image: 8 pixels are too few for layer 2, whose kernel covers 9 cells",
        ),
        (lambda: receptive_field([], 0), "image: is 0, allowed: 1 pixel or more"),
        (lambda: receptive_field([Layer(1, 1, 1)], -1), "image: is -1, allowed: 1 pixel or more"),
        (lambda: window_size(0, 9, 8), "p: is 0, allowed: 1 pixel or more"),
        (lambda: shapes_up_to(0, 3, 3), "area: is 0, allowed: 1 or more"),
        (lambda: shapes_up_to(3, 3, 0), "map_width: is 0, allowed: 1 or more"),
        (lambda: window_size(5, 0, 8), "r: is 0, allowed: 1 pixel or more"),
        (lambda: window_size(5, 9, -1), "s: is -1, allowed: 1 pixel or more"),
        (lambda: largest_patch(3, 0, 8), "r: is 0, allowed: 1 pixel or more"),
        (lambda: largest_patch(3, 9, 0), "s: is 0, allowed: 1 pixel or more"),
        (lambda: resampled(SMALL, 4, "nearest"), "kind: is 'nearest', allowed: bicubic, bilinear"),
        (lambda: resampled(SMALL, 0), "native: is 0, allowed: 1 pixel or more"),
        (lambda: all_windows(5, 1, 4, 4), "window: 5x1, allowed: from 1x1 to the map's 4x4"),
        (lambda: all_windows(1, 5, 4, 4, wrap=True), "window: 1x5, allowed: from 1x1 to the map's 4x4"),
        (lambda: all_windows(0, 1, 4, 4), "window: 0x1, allowed: from 1x1 to the map's 4x4"),
        (
            lambda: malicious_windows(9, 1, Geometry(SMALL, SMALL)),
            "patch: height is 9 pixels, allowed: 1 to the image's 8",
        ),
        (
            lambda: malicious_windows(1, 0, Geometry(SMALL, SMALL)),
            "patch: width is 0 pixels, allowed: 1 to the image's 8",
        ),
        (
            lambda: malicious_windows(1, 1, Geometry(SMALL, Axis(8, ((0, 0),)))),
            "geometry: no field sees any pixel of the image",
        ),
    ],
)
def test_bad_input_is_one_clear_line(call: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    assert str(caught.value) == message


def _nets_that_look_further() -> dict[str, nn.Module]:
    pool = nn.MaxPool2d(3, 1, 1)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.convolution(x) * x.mean()

    class Twice(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x))

    return {
        "circular": nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
        "statistics of the image": nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)),
        "own forward": nn.Sequential(Own()),
        "a sequence that is more": Twice(pool),
        "transposed": nn.ConvTranspose2d(3, 3, 3),
        "ceil mode": nn.MaxPool2d(3, 2, ceil_mode=True),
        "global": nn.AdaptiveAvgPool2d(1),
    }


@pytest.mark.parametrize("name", _nets_that_look_further())
def test_layers_of_refuses_what_may_look_further(name: str) -> None:
    with pytest.raises(InputError, match=r"module: .* use probe"):
        geometry.layers_of(_nets_that_look_further()[name])


def test_layers_of_counts_a_module_as_often_as_it_is_used() -> None:
    pool = nn.MaxPool2d(3, 1, 1)
    network = nn.Sequential(pool, nn.Sequential(pool, nn.ReLU()), pool)
    assert geometry.layers_of(network) == [geometry.Layer(3, 1, 1)] * 3


def test_huge_images_in_a_geometry_do_not_take_forever() -> None:
    axis = geometry.Axis(10**18, ((0, 9), (4, 13), (8, 10**18)))
    windows = geometry.malicious_windows(5, 5, geometry.Geometry(axis, axis))
    assert [(w.height, w.width, w.rows, w.columns) for w in windows] == [(3, 3, (0,), (0,))]

"""What a feature sees: receptive fields, window sizes and the malicious windows of a patch.

Everything is one-dimensional: a rectangle of pixels is an interval of rows times an interval of columns, and
so is the set of features that it touches. Integers throughout; pixels are those of the *native* image, before
any resizing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain, pairwise
from math import ceil, floor
from typing import TYPE_CHECKING, Any

from pglearn.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Axis",
    "Geometry",
    "Layer",
    "Windows",
    "all_windows",
    "attention_counts",
    "attention_counts_2d",
    "largest_patch",
    "layers_of",
    "malicious_windows",
    "probe",
    "receptive_field",
    "resampled",
    "shapes_up_to",
    "touched",
    "unseen_pixels",
    "window_size",
]


@dataclass(frozen=True)
class Layer:
    """A convolution or pooling layer along one axis; sizes in cells of its own input."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def __post_init__(self) -> None:
        for name, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"layer: {name} is {value}, allowed: {least} or more")


@dataclass(frozen=True)
class Axis:
    """One axis of an image and the cells of the feature map along it.

    ``fields[i] = (start, stop)``: cell ``i`` depends on no pixel outside ``start <= pixel < stop``. A field
    may reach over the border, where there is only padding; ``image`` is the number of pixels that exist.
    """

    image: int
    fields: tuple[tuple[int, int], ...]

    @property
    def cells(self) -> int:
        """Number of cells of the feature map along this axis."""
        return len(self.fields)

    @property
    def size(self) -> int:
        """Receptive field size r in pixels (the largest, should they differ)."""
        return max(stop - start for start, stop in self.fields)

    @property
    def stride(self) -> int:
        """Receptive field stride s in pixels (the smallest step; 1 for a single cell)."""
        starts = [start for start, _ in self.fields]
        return max(1, min((b - a for a, b in pairwise(starts)), default=1))

    @property
    def sees_everything(self) -> bool:
        """Whether every cell sees the whole image, so that any patch controls every feature."""
        return all(start <= 0 and stop >= self.image for start, stop in self.fields)


@dataclass(frozen=True)
class Geometry:
    """What each cell of a feature map sees of the image: ``rows`` by ``columns``.

    ``wrap``: columns wrap around, cells and pixels: pixel ``image`` is pixel 0 again, and a field may reach
    over the right border (de-randomized smoothing).
    """

    rows: Axis
    columns: Axis
    wrap: bool = False

    def to_json(self) -> str:
        """The axes as one line of JSON, as evidence files carry them; ``wrap`` is their own entry."""
        axes = {"rows": asdict(self.rows), "columns": asdict(self.columns)}
        return json.dumps(axes, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, wrap: bool = False) -> Geometry:
        """Read :meth:`to_json`'s line; ``InputError`` when it is not one."""
        try:
            parsed = json.loads(text)
            axes = {}
            for name in ("rows", "columns"):
                image, fields = parsed[name]["image"], parsed[name]["fields"]
                fields = tuple((start, stop) for start, stop in fields)
                if not fields or not all(type(v) is int for v in (image, *chain(*fields))) or image < 1:
                    raise ValueError("pixels must be integers, and at least one field given")
                if any(stop < start for start, stop in fields):
                    raise ValueError("a field ends before it starts")
                axes[name] = Axis(image, fields)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(
                f"geometry: {error!s:.60} in {text!r:.60}, allowed: rows and columns, with image and fields"
            ) from None
        return cls(**axes, wrap=wrap)

    def warning(self) -> str | None:
        """A plain warning when nothing can ever be certified with these fields, else ``None``."""
        if self.rows.sees_everything and self.columns.sees_everything:
            return (
                "every feature sees the whole image: a patch controls them all, so nothing can be certified"
            )
        return None


def receptive_field(layers: Iterable[Layer], image: int) -> Axis:
    """Receptive fields along one axis of ``image`` pixels, behind a stack of layers (first layer first).

    Size ``r = 1 + sum((kernel - 1) * dilation * jump)`` with ``jump`` the product of the strides before a
    layer; stride ``s`` the product of all strides; padding moves the first field by ``padding * jump`` to the
    left. Section 3.1 and App. B. Where a deeper layer pads, or strides drop pixels at the border, cells there
    may see less than their field; none sees more.

    >>> axis = receptive_field([Layer(3), Layer(3, stride=2)], 11)
    >>> axis.size, axis.stride, axis.cells, axis.fields[1]
    (5, 2, 4, (2, 7))
    """
    if image < 1:
        raise InputError(f"image: is {image}, allowed: 1 pixel or more")
    size, jump, offset, cells = 1, 1, 0, image
    for number, layer in enumerate(layers, 1):
        reach = (layer.kernel - 1) * layer.dilation
        size += reach * jump
        offset -= layer.padding * jump
        cells = (cells + 2 * layer.padding - reach - 1) // layer.stride + 1
        jump *= layer.stride
        if cells < 1:
            raise InputError(
                f"image: {image} pixels are too few for layer {number}, whose kernel covers {reach + 1} cells"
            )
    return Axis(image, tuple((offset + i * jump, offset + i * jump + size) for i in range(cells)))


def layers_of(module: nn.Module, axis: int = 0) -> list[Layer]:
    """The convolution and pooling layers of an ``nn.Sequential`` along one axis (0: rows, 1: columns), in
    order.

    Nested sequences are followed. Activations, batch normalization with running statistics and dropout act on
    single cells and are passed over. Anything else may look further and is an ``InputError``: use
    :func:`probe`.
    """
    from torch import nn

    kernels = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)
    single = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Softplus)
    passed = (*single, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Dropout2d, nn.Identity)

    def along(value: Any) -> int:
        return value if isinstance(value, int) else value[axis]

    if type(module) is nn.Sequential:  # a subclass may do anything in its forward
        return [layer for child in module for layer in layers_of(child, axis)]
    plain = getattr(module, "padding_mode", "zeros") == "zeros" and not getattr(module, "ceil_mode", False)
    if type(module) in kernels and plain and not isinstance(module.padding, str):
        sizes = module.kernel_size, module.stride, module.padding, getattr(module, "dilation", 1)
        return [Layer(*map(along, sizes))]
    if type(module) in passed and getattr(module, "running_mean", 0) is not None:
        return []
    raise InputError(
        f"module: {type(module).__name__} is not known to be local, allowed: nn.Sequential of convolution, "
        "pooling and layers that act on single cells; for others use probe"
    )


def attention_counts(layers: Iterable[Layer]) -> list[int]:
    """How often each pixel of a receptive field is looked at on the way to its one output cell (Fig. 6),
    first pixel first.

    The number of paths from the pixel to the cell: the coefficients of a product of polynomials, one a layer.

    >>> attention_counts([Layer(3), Layer(3)])
    [1, 2, 3, 2, 1]
    """
    counts = [1]
    for layer in reversed(list(layers)):
        looked = [0] * ((len(counts) - 1) * layer.stride + (layer.kernel - 1) * layer.dilation + 1)
        for i, count in enumerate(counts):
            for tap in range(layer.kernel):
                looked[i * layer.stride + tap * layer.dilation] += count
        counts = looked
    return counts


def attention_counts_2d(layers: Iterable[Layer]) -> list[list[int]]:
    """Attention counts of a square receptive field: the outer product of :func:`attention_counts` with
    itself.
    """
    counts = attention_counts(layers)
    return [[row * column for column in counts] for row in counts]


def window_size(p: int, r: int, s: int) -> int:
    """Side ``w = ceil((p + r - 1) / s)``, in features, of the windows that a patch of ``p`` pixels can touch
    (Eq. 1).

    >>> window_size(p=32, r=17, s=8)
    6
    """
    for name, value in (("p", p), ("r", r), ("s", s)):
        if value < 1:
            raise InputError(f"{name}: is {value}, allowed: 1 pixel or more")
    return -(-(p + r - 1) // s)


def largest_patch(n: int, r: int, s: int) -> int:
    """The largest patch ``p = n * s - r + 1`` that no placement shows to more than ``n`` fields (App. B);
    below 1: none.
    """
    window_size(1, r, s)
    return n * s - r + 1


def unseen_pixels(axis: Axis) -> list[int]:
    """The pixels that no field sees: the gaps where r < s (Fig. 7), and what strides leave over at the
    border.
    """
    seen = {pixel for start, stop in axis.fields for pixel in range(start, stop)}
    return [pixel for pixel in range(axis.image) if pixel not in seen]


def resampled(axis: Axis, native: int, kind: str = "bicubic", antialias: bool = False) -> Axis:
    """The same cells seen from an image of ``native`` pixels that is first resized to ``axis.image`` pixels.

    ``kind``: "bicubic" (reaches 2 source pixels to each side) or "bilinear" (1); ``antialias`` widens the
    kernel by the factor of a reduction, as PIL and torch do. The footprint is closed: taps of weight zero at
    its ends count as seen.
    """
    reaches = {"bicubic": 2, "bilinear": 1}
    if kind not in reaches:
        raise InputError(f"kind: is {kind!r}, allowed: {', '.join(reaches)}")
    if native < 1:
        raise InputError(f"native: is {native}, allowed: 1 pixel or more")
    if native == axis.image:
        return axis
    scale = Fraction(native, axis.image)
    reach = reaches[kind] * (max(scale, Fraction(1)) if antialias else 1)

    def footprint(start: int, stop: int) -> tuple[int, int]:
        first, last = max(start, 0), min(stop, axis.image) - 1
        if first > last:  # only padding
            return (0, 0)
        low, high = (first + Fraction(1, 2)) * scale - reach, (last + Fraction(1, 2)) * scale + reach
        return max(0, ceil(low - Fraction(1, 2))), min(native, floor(high - Fraction(1, 2)) + 1)

    return Axis(native, tuple(footprint(*field) for field in axis.fields))


def _turned(axis: Axis, wrap: bool) -> list[list[tuple[int, int]]]:
    """Each cell's field as the intervals of pixels that it is on the image: two where it ``wrap``s around."""
    if not wrap:
        return [[field] for field in axis.fields]
    turned = []
    for start, stop in axis.fields:
        first = start % axis.image
        last = first + min(stop - start, axis.image)
        turned.append([(first, last), (first - axis.image, last - axis.image)])
    return turned


def touched(axis: Axis, start: int, length: int, wrap: bool = False) -> tuple[int, int]:
    """The cells ``(first, stop)`` whose fields meet the pixels ``start <= pixel < start + length``; (0, 0) if
    none do.

    The smallest interval that holds them all. With ``wrap`` it counts modulo the number of cells, and
    ``stop`` may be beyond it; (0, cells) if it holds every cell.
    """
    low, high = max(start, 0), min(start + length, axis.image)
    fields = _turned(axis, wrap)
    met = [i for i, pieces in enumerate(fields) if any(max(a, low) < min(b, high) for a, b in pieces)]
    if not met:
        return (0, 0)
    if not wrap:
        return (met[0], met[-1] + 1)
    after = [*met[1:], met[0] + axis.cells]  # leave out the largest gap between neighbors on the circle
    gap, last, first = max((b - a, a, b) for a, b in zip(met, after, strict=True))
    return (0, axis.cells) if gap == 1 else (first % axis.cells, last + axis.cells * (first < axis.cells) + 1)


@dataclass(frozen=True)
class Windows:
    """All placements of one window: ``height`` x ``width`` features, top-left corners ``rows`` x
    ``columns``.
    """

    height: int
    width: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    wrap: bool = False  # columns count modulo the map's width

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def all_windows(height: int, width: int, map_height: int, map_width: int, wrap: bool = False) -> Windows:
    """Every placement of a ``height`` x ``width`` window on a map, around the right border too where columns
    ``wrap``.
    """
    if not (1 <= height <= map_height and 1 <= width <= map_width):
        raise InputError(f"window: {height}x{width}, allowed: from 1x1 to the map's {map_height}x{map_width}")
    columns = map_width if wrap and width < map_width else map_width - width + 1
    return Windows(height, width, tuple(range(map_height - height + 1)), tuple(range(columns)), wrap)


def shapes_up_to(area: int, map_height: int, map_width: int) -> list[tuple[int, int]]:
    """The rectangles (height, width) of at most ``area`` cells that fit a map and that no other one contains.

    An attacker who may choose among all rectangles up to an area chooses one of these.

    >>> shapes_up_to(6, 4, 4)
    [(1, 4), (2, 3), (3, 2), (4, 1)]
    """
    for name, value in (("area", area), ("map_height", map_height), ("map_width", map_width)):
        if value < 1:
            raise InputError(f"{name}: is {value}, allowed: 1 or more")
    widest = {height: min(map_width, area // height) for height in range(1, min(map_height, area) + 1)}
    return [(height, width) for height, width in widest.items() if widest.get(height + 1) != width]


def _maximal_intervals(axis: Axis, patch: int, wrap: bool = False) -> dict[int, list[int]]:
    """Length -> starts of the intervals of cells that a patch can touch and that no other such interval
    contains.
    """
    ends = list(chain(*_turned(axis, wrap)))
    changes = {0, *(a - patch + 1 for a, _ in ends), *(b for _, b in ends)}  # where a field is met or left
    places = [start for start in changes if 0 <= start <= axis.image - patch]
    found = {touched(axis, start, patch, wrap) for start in places} - {(0, 0)}

    def holds(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
        length = outer[1] - outer[0]  # on the circle, and so on a line: no two intervals there go around it
        return length == axis.cells or (inner[0] - outer[0]) % axis.cells + inner[1] - inner[0] <= length

    kept = [a for a in found if not any(b != a and holds(b, a) for b in found)]
    lengths: dict[int, list[int]] = {}
    for first, stop in sorted(kept):
        lengths.setdefault(stop - first, []).append(first)
    return lengths


def malicious_windows(patch_height: int, patch_width: int, geometry: Geometry) -> list[Windows]:
    """The feature windows that a patch of ``patch_height`` x ``patch_width`` native pixels can touch.

    Exact, given the fields, and so sharper than Eq. 1: padding, borders and resampling are in. Windows inside
    other windows are left out: whoever controls the larger one may leave the rest of it as it is. The patch
    itself ends at the image's border, where columns wrap too: a band of b columns gives 1 x (p + b - 1)
    windows, one for each of the W - p + 1 places of the patch.
    """
    axes = geometry.rows, geometry.columns
    for name, patch, axis in zip(("height", "width"), (patch_height, patch_width), axes, strict=True):
        if not 1 <= patch <= axis.image:
            raise InputError(f"patch: {name} is {patch} pixels, allowed: 1 to the image's {axis.image}")
    by_row = _maximal_intervals(geometry.rows, patch_height)
    by_column = _maximal_intervals(geometry.columns, patch_width, geometry.wrap)
    if not by_row or not by_column:
        raise InputError("geometry: no field sees any pixel of the image")
    return [
        Windows(height, width, tuple(rows), tuple(columns), geometry.wrap)
        for height, rows in by_row.items()
        for width, columns in by_column.items()
    ]


def probe(model: nn.Module, height: int, width: int, channels: int = 3) -> Geometry:
    """Measure any network's fields: a row (or column) of NaN makes exactly the features that read it NaN.

    ``model`` maps images (N, channels, height, width) to maps (N, C, H, W). One forward pass a row and a
    column, in eval mode. Cells that read nothing get the empty field (0, 0). NaN passes through convolutions,
    sums and ReLU; a network that compares or replaces values (max-pooling by comparison, ``nan_to_num``) can
    hide it: those need :func:`receptive_field`.
    """
    import torch

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        axes = []
        for axis, pixels in ((-2, height), (-1, width)):
            hits = []
            for pixel in range(pixels):
                image = torch.zeros(1, channels, height, width, device=device)
                image.select(axis, pixel).fill_(float("nan"))
                with torch.inference_mode():
                    reads = model(image).isnan()
                if reads.ndim != 4:
                    raise InputError(
                        f"model: gives a tensor of rank {reads.ndim}, allowed: maps (N, C, H, W)"
                    )
                hits.append(reads.any(dim=1).any(dim=-1 if axis == -2 else -2)[0].tolist())
            readers = [[pixel for pixel, hit in enumerate(cell) if hit] for cell in zip(*hits, strict=True)]
            axes.append(Axis(pixels, tuple((r[0], r[-1] + 1) if r else (0, 0) for r in readers)))
    finally:
        for module, mode in modes:
            module.training = mode
    return Geometry(rows=axes[0], columns=axes[1])

"""The embedded data set: ten classes of shapes and textures in clutter, drawn on the fly in integers.

Image i is a pure function of (seed, split, i, side, object size): every choice is a hash of the first three
and a counter (splitmix64), and every pixel comes from integer arithmetic, so the bytes are the same on every
machine and with every numpy, in any order, in batches of any size.

A scene is 64 x 64 *points*, however many pixels it is rendered with; lengths are integers, in 1/64 point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pglearn.errors import InputError

__all__ = ["CLASSES", "OBJECT_SIZE", "SPLITS", "dataset", "draw"]

CLASSES = ("disc", "ring", "square", "triangle", "cross", "star", "stripes", "checker", "dots", "waves")
SPLITS = ("train", "test")
OBJECT_SIZE = (0.6, 0.9)
"""Smallest and largest diameter of the circle around the object, as a fraction of the image's side."""

POINT = 64  # units of length in a point
SCENE = 64 * POINT  # side of the scene in units
FULL = 128  # full coverage: color difference * coverage still fits into int16
SHAPES = 6  # the first six classes have a sharp outline, the textures after them fade out
BATCH = 32  # images drawn together, so that a plane of them stays in the processor's cache

Ints = NDArray[Any]  # int32 unless said otherwise


# --------------------------------------------------------------------------------------------- random numbers
def _hash(x: NDArray[np.uint64], step: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What splitmix64 (Steele, Lea and Flood, OOPSLA 2014) gives ``step + 1`` steps after state ``x``."""
    z = x + (step + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class _Random:
    """Random numbers of each image of a batch: the k-th call hashes the image's key with k."""

    def __init__(self, keys: NDArray[np.uint64], calls: int = 0) -> None:
        self.keys, self.calls = keys, calls  # (B,)

    def bits(self, *shape: int) -> NDArray[np.uint64]:  # (B, *shape)
        stream = _hash(self.keys, np.full(1, self.calls, dtype=np.uint64))
        self.calls += 1
        counter = np.arange(int(np.prod(shape)), dtype=np.uint64)
        return _hash(stream[:, None], counter).reshape(-1, *shape)

    def integers(self, low: int, high: int, *shape: int) -> Ints:  # (B, *shape, 1, 1)
        """Integers from ``low`` to below ``high``."""
        bits = self.bits(*shape, 1, 1) >> np.uint64(32)
        return ((bits * np.uint64(high - low)) >> np.uint64(32)).astype(np.int32) + np.int32(low)

    def turn(self, *shape: int) -> tuple[Ints, Ints]:  # two of (B, *shape, 1, 1)
        """2^14 times cosine and sine of a random angle, from the rational points of the circle."""
        k, quadrant = self.integers(0, 256, *shape), self.integers(0, 4, *shape)
        norm = 65536 + k * k
        c, s = ((65536 - k * k) << 14) // norm, (k << 23) // norm
        c, s = np.where(quadrant & 1, -s, c), np.where(quadrant & 1, c, s)
        return c * (1 - (quadrant & 2)), s * (1 - (quadrant & 2))

    def place(self, *shape: int) -> tuple[Ints, Ints]:  # two of (B, *shape, 1, 1)
        return self.integers(0, SCENE, *shape), self.integers(0, SCENE, *shape)

    def color(self, luma: Ints, low: int, high: int) -> Ints:  # (B, *shape, 1, 1) -> int16 (B, *shape, 3)
        """A color of this luma (0..255), of random hue, of chroma ``low`` to below ``high`` (256: pure)."""
        shape = luma.shape[1:-2]
        hue, chroma = self.integers(0, 1536, *shape)[..., 0], self.integers(low, high, *shape)[..., 0]
        sector = (np.array([1280, 768, 256], dtype=np.int32) + hue) % 1536
        pure = 255 - np.clip(np.minimum(sector, 1024 - sector), 0, 255)
        gray = (77 * pure[..., :1] + 150 * pure[..., 1:2] + 29 * pure[..., 2:]) >> 8
        return np.clip(luma[..., 0] + ((pure - gray) * chroma >> 8), 0, 255).astype(np.int16)


# ------------------------------------------------------------------------------------------- the ten classes
# Each takes coordinates in the object's own frame and the radius of the circle around it, and gives the
# signed distance to the outline: negative inside, and exact (or nearly, where it is round) close to the edge.
def _disc_distance(u: Ints, v: Ints, radius: Ints) -> Ints:
    return (u * u + v * v - radius * radius) // (2 * radius)


def _disc(random: _Random, u: Ints, v: Ints, radius: Ints) -> Ints:
    return _disc_distance(u, v, radius)


def _ring(random: _Random, u: Ints, v: Ints, radius: Ints) -> Ints:
    half = radius * random.integers(16, 22) // 128
    return np.abs(_disc_distance(u, v, radius - half)) - half


def _fold(x: Ints, period: Ints) -> Ints:
    """A triangle wave: period / 2 at the multiples of the period, 0 half-way between them."""
    return np.abs(x % period - period // 2)


def _gap(radius: Ints) -> Ints:
    """Half the width of the cuts in squares, triangles and stars: about a point, less in small ones."""
    return np.minimum(60, radius // 16)


def _square(random: _Random, u: Ints, v: Ints, radius: Ints) -> Ints:
    """Cut into square panes."""
    half = radius * 181 // 256  # 1 / sqrt(2)
    pane = 2 * half // ((2 * half + 4 * POINT) // (9 * POINT))
    panes = np.maximum(_fold(u + half, pane), _fold(v + half, pane)) - pane // 2 + _gap(radius)
    return np.maximum(np.maximum(np.abs(u), np.abs(v)) - half, panes)


def _triangle(random: _Random, u: Ints, v: Ints, radius: Ints) -> Ints:
    """Cut into triangular panes."""
    height = 3 * radius // 2
    pane = height // ((height + 4 * POINT) // (9 * POINT))
    lean, rise = u * 222 >> 8, v >> 1  # cosines of 30 and 60 degrees
    sides = [side - radius // 2 for side in (-v, lean + rise, rise - lean)]
    panes = np.maximum.reduce([_fold(side, pane) for side in sides]) - pane // 2 + _gap(radius)
    return np.maximum(np.maximum.reduce(sides), panes)


def _cross(random: _Random, u: Ints, v: Ints, radius: Ints) -> Ints:
    arm = radius * random.integers(34, 44) // 128
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(u, v) - arm, np.maximum(u, v) - radius * 15 // 16)


def _star(random: _Random, u: Ints, v: Ints, radius: Ints) -> Ints:
    """Five points of 54 degrees, cut from the center to every corner."""
    for _ in range(2):  # mirror all of it into half a point: 36 degrees, to the right of the upward axis
        u = np.abs(u)
        beyond = np.maximum(u * 207 - v * 150, 0) >> 7  # sine and cosine of 54 degrees
        u, v = u - (beyond * 207 >> 8), v + (beyond * 150 >> 8)
    u = np.abs(u)
    cuts = _gap(radius) - np.minimum(u, (v * 150 - u * 207) >> 8)
    return np.maximum((u * 228 + (v - radius) * 116) >> 8, cuts)  # cosine and sine of 27 degrees


def _stripes(random: _Random, u: Ints, v: Ints, radius: Ints) -> Ints:
    period = random.integers(6 * POINT, 9 * POINT)
    return _fold(u + random.integers(0, SCENE), period) - period // 4


def _checker(random: _Random, u: Ints, v: Ints, radius: Ints) -> Ints:
    period = random.integers(9 * POINT, 13 * POINT)
    shift_u, shift_v = random.place()
    a, b = _fold(u + shift_u, period) - period // 4, _fold(v + shift_v, period) - period // 4
    return np.minimum(np.maximum(a, b), -np.minimum(a, b))


def _dots(random: _Random, u: Ints, v: Ints, radius: Ints) -> Ints:
    period = random.integers(7 * POINT, 10 * POINT)
    shift_u, shift_v = random.place()
    v = v + shift_v
    u = u + shift_u + ((v // period) & 1) * (period // 2)  # every other row is moved by half a period
    return _disc_distance(_fold(u, period), _fold(v, period), period * 5 // 16)


def _waves(random: _Random, u: Ints, v: Ints, radius: Ints) -> Ints:
    period, length = random.integers(7 * POINT, 9 * POINT), random.integers(14 * POINT, 20 * POINT)
    shift_u, shift_v = random.place()
    x = _fold(u + shift_u, length) * 512 // length  # 0..256 along half a wave
    sine = np.where(x < 128, x * x, 32768 - (256 - x) * (256 - x))  # two parabolas: close enough
    return _fold(v + (sine * (length // 3) >> 15) + shift_v, period) - period // 4


DISTANCES: tuple[Callable[[_Random, Ints, Ints, Ints], Ints], ...] = (
    *(_disc, _ring, _square, _triangle, _cross, _star),
    *(_stripes, _checker, _dots, _waves),
)  # in the order of CLASSES


# ------------------------------------------------------------------------------------------------- the scene
def _grid(side: int) -> tuple[Ints, Ints]:
    """Pixel centers: x (1, 1, W), y (1, H, 1)."""
    at = (2 * np.arange(side, dtype=np.int32) + 1) * SCENE // (2 * side)
    return at[None, None, :], at[None, :, None]


def _frame(grid: tuple[Ints, Ints], center: tuple[Ints, Ints], turn: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    """Coordinates of the pixels in a turned frame, two of (B, H, W)."""
    x, y = grid[0] - center[0], grid[1] - center[1]
    return (turn[0] * x + turn[1] * y) >> 14, (turn[0] * y - turn[1] * x) >> 14


def _paint(images: Ints, color: Ints, coverage: Ints) -> None:
    """Lay a color (B, 3) over flat images (3, B * H * W), int16, where the coverage (B, H, W) is above 0."""
    where = np.flatnonzero(coverage)
    share, owner = coverage.reshape(-1)[where].astype(np.int16), where // (coverage[0].size)
    for channel, own in zip(images, color.T, strict=True):
        below = channel[where]
        channel[where] = below + ((own[owner] - below) * share >> 7)


def _background(random: _Random, grid: tuple[Ints, Ints], luma: Ints) -> Ints:  # int16 (3, B * H * W)
    """A slope from one color to another."""
    ends = random.color(luma[:, None] + random.integers(-20, 21, 2), 0, 110)
    middle = np.full((1, 1, 1), SCENE // 2, dtype=np.int32)
    _, slope = _frame(grid, (middle, middle), random.turn())
    share = np.clip(FULL // 2 + (slope >> 5), 0, FULL).astype(np.int16)
    start, rise = ends[:, 0], ends[:, 1] - ends[:, 0]
    planes = [start[:, c, None, None] + (rise[:, c, None, None] * share >> 7) for c in range(3)]
    return np.stack(planes).reshape(3, -1)


def _blobs(random: _Random, grid: tuple[Ints, Ints], images: Ints, luma: Ints, count: int) -> None:
    """Soft ovals without an edge."""
    xs, ys = random.place(count)
    cs, ss = random.turn(count)
    long, wide = random.integers(6 * POINT, 16 * POINT, count), random.integers(4 * POINT, 8 * POINT, count)
    colors = random.color(luma[:, None] + random.integers(-50, 51, count), 60, 180)
    for k in range(count):
        u, v = _frame(grid, (xs[:, k], ys[:, k]), (cs[:, k], ss[:, k]))
        u, v = (u * (65536 // long[:, k])) >> 8, (v * (65536 // wide[:, k])) >> 8
        rise = np.maximum(65536 - u * u - v * v, 0) >> 8
        _paint(images, colors[:, k], (rise * rise) >> 9)


def _strokes(random: _Random, grid: tuple[Ints, Ints], images: Ints, count: int) -> None:
    """Brush strokes: thin, bent, with round ends."""
    side = grid[0].size
    xs, ys = random.place(count)
    cs, ss = random.turn(count)
    length, half = random.integers(4 * POINT, 14 * POINT, count), random.integers(40, 80, count)
    bend = random.integers(-12, 13, count)
    colors = random.color(random.integers(40, 220, count), 60, 180)
    for k in range(count):
        u, v = _frame(grid, (xs[:, k], ys[:, k]), (cs[:, k], ss[:, k]))
        v = np.minimum(np.abs(v + (((u * u) >> 8) * bend[:, k] >> 8)), 1024)
        u = np.clip(np.abs(u) - length[:, k], 0, 1024)
        inside = half[:, k] * half[:, k] - u * u - v * v  # about 2 * half * distance near the edge
        coverage = FULL // 2 + (inside * (side * 16 // half[:, k]) >> 10)
        _paint(images, colors[:, k], np.clip(coverage, 0, FULL))


def _render(
    keys: NDArray[np.uint64], labels: NDArray[np.int64], side: int, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Images (B, 3, side, side) and where their objects are (B, side, side); ``size`` in units."""
    random, grid = _Random(keys), _grid(side)
    dark, low, gap = random.integers(0, 2), random.integers(50, 100), random.integers(45, 105)
    ground, figure = np.where(dark, low, low + gap), np.where(dark, low + gap, low)
    images = _background(random, grid, ground)
    _blobs(random, grid, images, ground, 3)
    _strokes(random, grid, images, 8)

    diameter = random.integers(size[0], size[1] + 1)
    radius = diameter >> 1
    x, y = random.place()
    center = radius + (x * (SCENE - diameter) // SCENE), radius + (y * (SCENE - diameter) // SCENE)
    u, v = _frame(grid, center, random.turn())
    coverage = np.empty(u.shape, dtype=np.int32)
    region = np.empty(u.shape, dtype=bool)
    for label in np.unique(labels):
        of = labels == label
        u_, v_, radius_ = u[of], v[of], radius[of]
        distance = DISTANCES[label](_Random(keys[of], 1000), u_, v_, radius_)
        part = np.clip(FULL // 2 - (distance * side >> 5), 0, FULL)  # an edge is a ramp of one pixel
        extent = part
        if label >= SHAPES:
            square = radius_ * radius_ >> 8
            extent = np.clip((square - ((u_ * u_ + v_ * v_) >> 8)) * (3 * FULL) // square, 0, FULL)
            part = part * extent >> 7
        coverage[of], region[of] = part, extent >= FULL // 2
    _paint(images, random.color(figure, 110, 220), coverage)

    _strokes(random, grid, images, 1)
    bits = random.bits(side * side).reshape(-1)
    for c, channel in enumerate(images):
        a, b = ((bits >> np.uint64(20 * c + shift)).astype(np.uint8).astype(np.int16) for shift in (0, 8))
        channel += (a + b - 255) >> 3  # triangular noise
    pixels = np.clip(images, 0, 255).astype(np.uint8).reshape(3, len(keys), side, side)
    return pixels.transpose(1, 0, 2, 3), region


def _scenes(
    split: str,
    start: int,
    n: int,
    seed: int,
    side: int,
    object_size: tuple[float, float],
    label: int | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    if split not in SPLITS:
        raise InputError(f"split: is {split!r}, allowed: {', '.join(SPLITS)}")
    for name, value, allowed in (
        ("index", start, range(2**63)),
        ("n", n, range(1, 2**32)),
        ("seed", seed, range(2**64)),
        ("side", side, range(16, 257)),
    ):
        if not isinstance(value, int | np.integer) or int(value) not in allowed:
            numbers = f"{allowed[0]} to {allowed[-1]}"
            raise InputError(f"{name}: is {value!r}, allowed: a whole number of {numbers}")
    try:
        smallest, largest = map(float, object_size)
    except (TypeError, ValueError):
        smallest, largest = 0.0, 0.0
    if not 0.2 <= smallest <= largest <= 1:
        raise InputError(f"object_size: is {object_size!r}, allowed: (smallest, largest), both of 0.2 to 1")
    indices = np.arange(n, dtype=np.uint64) + np.uint64(start)
    key = np.array([seed], dtype=np.uint64)
    keys = _hash(_hash(key, np.full(1, SPLITS.index(split), dtype=np.uint64)), indices)
    labels = (indices % np.uint64(len(CLASSES))).astype(np.int64)
    if label is not None:
        if label not in range(len(CLASSES)):
            raise InputError(f"label: is {label!r}, allowed: 0 to {len(CLASSES) - 1}")
        labels[:] = label
    size = int(smallest * SCENE), int(largest * SCENE)
    pixels, regions = np.empty((n, 3, side, side), np.uint8), np.empty((n, side, side), bool)
    for at in range(0, n, BATCH):
        batch = slice(at, at + BATCH)
        pixels[batch], regions[batch] = _render(keys[batch], labels[batch], side, size)
    return pixels, labels, regions


@overload
def draw(
    index: int,
    split: str = ...,
    seed: int = ...,
    side: int = ...,
    object_size: tuple[float, float] = ...,
    *,
    return_mask: Literal[False] = ...,
    label: int | None = ...,
) -> tuple[NDArray[np.uint8], int]: ...
@overload
def draw(
    index: int,
    split: str = ...,
    seed: int = ...,
    side: int = ...,
    object_size: tuple[float, float] = ...,
    *,
    return_mask: Literal[True],
    label: int | None = ...,
) -> tuple[NDArray[np.uint8], int, NDArray[np.bool_]]: ...
def draw(
    index: int,
    split: str = "train",
    seed: int = 0,
    side: int = 64,
    object_size: tuple[float, float] = OBJECT_SIZE,
    *,
    return_mask: bool = False,
    label: int | None = None,
) -> tuple[NDArray[np.uint8], int] | tuple[NDArray[np.uint8], int, NDArray[np.bool_]]:
    """One image of the data set, (3, side, side) uint8, and its label ``index % 10``.

    ``object_size``: smallest and largest diameter of the circle around the object, as fractions of the side;
    it changes the object, not the clutter. ``side``: in pixels; it changes the resolution, not the scene.
    ``label``: another class in the very same scene, of the same place, turn, size and color.
    ``return_mask``: also where the object is, (side, side) bool: what a shape paints, or all of the extent of
    its texture. Raises ``InputError`` for a split, a number or a size that is not allowed.

    >>> image, label = draw(5)
    >>> image.shape, CLASSES[label]
    ((3, 64, 64), 'star')
    """
    images, labels, masks = _scenes(split, index, 1, seed, side, object_size, label)
    return (images[0], int(labels[0]), masks[0]) if return_mask else (images[0], int(labels[0]))


def dataset(
    split: str,
    n: int,
    seed: int = 0,
    side: int = 64,
    object_size: tuple[float, float] = OBJECT_SIZE,
) -> tuple[Tensor, Tensor]:
    """The first ``n`` images of a split, (n, 3, side, side) uint8, and labels (n,) int64: 0 to 9 in turn.

    Image i is ``draw(i, split, seed, side, object_size)``, and the same errors are raised.
    """
    images, labels, _ = _scenes(split, 0, n, seed, side, object_size)
    return torch.from_numpy(images), torch.from_numpy(labels)

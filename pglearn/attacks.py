"""Patches optimized in pixel space, against any network and any defense: an upper bound on robust accuracy,
where a certificate is a lower one.

An attack searches for the place and the content of a patch. It follows the gradient of the *relaxed* margin,
through clipping, votes and masks (``soft`` in :mod:`pglearn.defenses`), or tries random squares on the exact
one. Whether it won is never read off a relaxation: 8-bit pixels, the whole image, the network in float64 and
the defense's own integers decide. A *corner* is the first pixel (row, column) of a patch; P patches at once,
K places to try.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from pglearn.defenses import Defense, make_defense
from pglearn.defenses.aggregate import kth_largest
from pglearn.errors import InputError
from pglearn.evidence import Evidence
from pglearn.geometry import Axis, Geometry, Windows, malicious_windows, touched
from pglearn.models import LocalNet, geometry, load_model

__all__ = [
    "METHODS",
    "Attacked",
    "Victim",
    "attack",
    "evidence_places",
    "gradient_places",
    "grid_places",
    "load_victim",
    "paste",
    "random_places",
    "universal",
]

METHODS = ("gradient", "search")
_MOMENTUM = 0.75
_FIRST_PACE = 0.25  # of the range of pixels
_MOST_PLACES = 2**24  # of all images together; more is a slip, and would fill the memory


class Victim:
    """A network and what reads its evidence: what is attacked.

    ``defense`` None: undefended, the class with the largest mean of raw evidence. ``k``: right while fewer
    than k other classes reach the label. ``model`` and ``exact`` are copies in eval mode, float32 to search
    with and float64 to decide with; the module that was given is not touched.
    """

    def __init__(
        self,
        model: nn.Module,
        defense: Defense | None = None,
        k: int = 1,
        device: str | torch.device | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = copy.deepcopy(model).to(self.device).float().eval().requires_grad_(False)
        self.exact = copy.deepcopy(self.model).double()
        self.defense, self.k = defense, k

    def evidence(self, images: Tensor, batch_size: int = 128) -> Tensor:
        """Evidence (N, C, H', W') float64 on the CPU of images (N, 3, H, W), through ``exact``."""
        with torch.inference_mode():
            parts = [self.maps(self.exact, part.to(self.device)).cpu() for part in images.split(batch_size)]
        return torch.cat(parts)

    def maps(self, model: nn.Module, images: Tensor) -> Tensor:
        """Evidence of images, uint8 or floats of [0, 1], as ``model`` (one of the two copies) gives it."""
        if not isinstance(model, LocalNet):  # ours take 8 bits as they are
            scale = 1 if images.is_floating_point() else 255
            images = images.to(torch.float64 if model is self.exact else torch.float32) / scale
        maps = model(images)
        if not isinstance(maps, Tensor) or maps.ndim != 4:
            found = (
                f"a tensor of shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
            )
            raise InputError(f"model: gives {found}, allowed: maps (N, C, H, W)")
        return maps

    def scores(self, maps: Tensor) -> Tensor:
        """Defended scores (N, C), int64; undefended: means of evidence."""
        return maps.mean((2, 3)) if self.defense is None else self.defense.scores(maps)

    def margins(self, maps: Tensor, labels: Tensor, target: Tensor | None = None) -> Tensor:
        """Label's defended score minus the k-th largest other (N,), exact: int64 units behind a defense.

        Right exactly where it is above 0; a tie counts against the defender. With ``target`` (N,): the
        largest other score minus the target's, so 0 or less where the target has won. NaN is minus infinity.
        """
        margins = _margins(self.scores(maps), labels, target, self.k)
        return margins.where(margins == margins, -torch.inf) if margins.is_floating_point() else margins

    def relaxed(self, maps: Tensor) -> Tensor:
        """Scores (N, C) to differentiate: shares of the largest unit; undefended, the scores themselves."""
        if self.defense is None:
            return maps.mean((2, 3))
        return self.defense.aggregate.soft(self.defense.transform.soft(maps))

    def loss(self, maps: Tensor, labels: Tensor, target: Tensor | None = None) -> Tensor:
        """What an attacker climbs (N,): minus the margin of the relaxed scores, in thirds of their standard
        deviation over the classes, with a smooth maximum, so that all rivals near the top pull.
        """
        return _loss(self.relaxed(maps), labels, target, self.k)


def _margins(scores: Tensor, labels: Tensor, target: Tensor | None, k: int) -> Tensor:
    mine, others = _apart(scores, labels if target is None else target)
    return mine - kth_largest(others, k) if target is None else others.amax(1) - mine


def _loss(scores: Tensor, labels: Tensor, target: Tensor | None, k: int) -> Tensor:
    spread = scores.detach().std(1, keepdim=True).clamp(min=1e-12)
    mine, others = _apart(3 * scores / spread, labels if target is None else target)
    if target is not None:
        return mine - others.logsumexp(1)
    if k > 1:  # those above the k-th have passed the label already, or will
        others = others.scatter(1, others.topk(k - 1).indices, -torch.inf)
    return others.logsumexp(1) - mine


def _apart(scores: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the labels (N,), and all (N, C) with the lowest number in their place."""
    lowest = -torch.inf if scores.is_floating_point() else torch.iinfo(scores.dtype).min
    return scores.gather(1, label[:, None])[:, 0], scores.scatter(1, label[:, None], lowest)


def load_victim(
    path: str | os.PathLike[str],
    patch: tuple[int, int],
    defense: str | None = "mask",
    transform: str | None = None,
    image_size: tuple[int, int] | None = None,
    k: int = 1,
    device: str | torch.device | None = None,
    patches: int = 1,
    **options: Any,
) -> tuple[Victim, list[Windows]]:
    """A model of ``pglearn train`` behind a defense by name (None or "none": undefended), with the constants
    of its file; and the malicious windows of ``patch`` (height, width in pixels).

    ``image_size``: height and width in pixels, or else those that it was trained on. ``options``: as
    :func:`pglearn.defenses.make_defense` takes them. Raises ``InputError`` for a file that is no such model,
    a patch larger than its images, and what ``make_defense`` refuses.
    """
    model, metadata = load_model(path)
    size = image_size or tuple(map(int, metadata.get("image_size", "0x0").split("x")))
    seen = geometry(model, (size[0], size[1]))
    windows = malicious_windows(*patch, seen)
    if defense in (None, "none"):
        if used := [name for name, value in {"transform": transform, **options}.items() if value is not None]:
            raise InputError(f"{used[0].replace('_', '-')}: not used by none, allowed: with a defense")
        return Victim(model, None, k, device), windows
    maps = torch.zeros(1, int(model.config["num_classes"]), seen.rows.cells, seen.columns.cells)
    source = Evidence(maps, None, seen, metadata.get("step"), metadata.get("clip_high"))  # for its constants
    chosen = make_defense(str(defense), windows, patches, transform, source, **options)
    return Victim(model, chosen, k, device), windows


def paste(images: Tensor, content: Tensor, corners: Tensor, stencil: Tensor | None = None) -> Tensor:
    """Images (N, 3, H, W) with patches ``content`` (N, P, 3, h, w) at ``corners`` (N, P, 2), later over
    earlier ones; differentiable. ``stencil`` (h, w) bool: the pixels of the rectangle that are patch. Raises
    ``InputError`` for a corner from which the patch would reach outside.
    """
    height, width = content.shape[-2:]
    _inside(corners, (height, width), images)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    patched = images.clone()
    for p in range(content.shape[1]):
        row = corners[:, p, 0, None, None] + torch.arange(height, device=images.device)[:, None]
        column = corners[:, p, 1, None, None] + torch.arange(width, device=images.device)
        new = content[:, p].permute(0, 2, 3, 1)  # (N, h, w, 3)
        if stencil is not None:
            new = new.where(stencil[..., None], patched[image, :, row, column])
        patched[image, :, row, column] = new
    return patched


@dataclass(frozen=True)
class Attacked:
    """What an attack found on N images; everything on the CPU."""

    clean: Tensor
    """(N,) bool: right before the attack."""
    robust: Tensor
    """(N,) bool: clean, and still right under all that was tried; targeted: the target never won."""
    corners: Tensor
    """(N, P, 2) int64: where the best patch found lies; -1 where the image was not attacked."""
    content: Tensor
    """(N, P, 3, h, w) uint8: the best patch found."""
    margin: Tensor
    """(N,): the exact margin under it (of the clean image where it was not attacked)."""
    stencil: Tensor | None
    """(h, w) bool: the pixels of the rectangle that are patch; None: all."""
    patches: int
    """Patches optimized, one a place and restart."""
    steps: int
    """Steps of all patches together."""

    def patched(self, images: Tensor) -> Tensor:
        """The attacked ``images`` (N, 3, H, W) uint8; unchanged where there was no attack."""
        pixels, hit = _pixels(images).clone(), (self.corners >= 0).all(2).all(1)
        pixels[hit] = paste(pixels[hit], self.content[hit], self.corners[hit], self.stencil)
        return pixels


def random_places(
    images: int,
    places: int,
    patch: tuple[int, int],
    image_size: tuple[int, int],
    patches: int = 1,
    seed: int = 0,
) -> Tensor:
    """Corners (images, places, patches, 2), each drawn evenly from where a patch fits."""
    _fits(patch, image_size)
    _positive(images=images, places=places, patches=patches)
    free = torch.tensor([full - side + 1 for full, side in zip(image_size, patch, strict=True)])
    _few(images * places * patches)
    drawn = torch.rand(images, places, patches, 2, generator=_seeded(seed))
    return (drawn.double() * free).long().minimum(free - 1)


def grid_places(patch: tuple[int, int], image_size: tuple[int, int], step: int = 1) -> Tensor:
    """Corners (1, K, 1, 2) every ``step`` pixels, and the last row and column that fit; 1: every place."""
    _fits(patch, image_size)
    if step < 1:
        raise InputError(f"places: a grid of step {step}, allowed: 1 pixel or more")
    last = [full - side for full, side in zip(image_size, patch, strict=True)]
    rows, columns = (torch.tensor(sorted({*range(0, end + 1, step), end})) for end in last)
    return torch.cartesian_prod(rows, columns).view(1, -1, 1, 2)


def evidence_places(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    patch: tuple[int, int],
    places: int,
    windows: Sequence[Windows],
) -> Tensor:
    """Corners (N, K, 1, 2) of patches in the K malicious ``windows`` with the smallest margins: the worst
    window that the certificate names comes first.

    In each the middle one of the patches that touch nothing else. Fewer than ``places`` where there are fewer
    windows. Raises ``InputError`` without a defense, for windows smaller than the patch's, and for labels
    that do not fit.
    """
    if victim.defense is None:
        raise InputError("places: evidence, allowed with a defense: its certificate ranks the windows")
    images, size = _pixels(images), (int(images.shape[2]), int(images.shape[3]))
    _fits(patch, size)
    _positive(places=places)
    seen = geometry(victim.model, size)
    if not windows:
        raise InputError("windows: none, allowed: the malicious windows of the patch")
    transform, aggregate = victim.defense.transform, victim.defense.aggregate
    corners = torch.cat([_corners(seen, patch, window) for window in windows])  # (M, 2)
    chosen = []
    for at in range(0, len(images), 128):
        units = transform(victim.evidence(images[at : at + 128]))
        truth = labels[at : at + 128]
        _classes("labels", truth, len(units), units.shape[1])
        margins = torch.cat([aggregate.margins(units, truth, transform.top, w, victim.k) for w in windows], 1)
        chosen.append(margins.sort(dim=1, stable=True).indices[:, :places])
    return corners[torch.cat(chosen)][:, :, None]


def _corners(seen: Geometry, patch: tuple[int, int], windows: Windows) -> Tensor:
    """A corner (M, 2) for each placement of a window: patches there touch no cell outside of it."""
    middles = []
    for axis, side, starts, length, wrap in (
        (seen.rows, patch[0], windows.rows, windows.height, False),
        (seen.columns, patch[1], windows.columns, windows.width, seen.wrap),
    ):
        reached = [touched(axis, pixel, side, wrap) for pixel in range(axis.image - side + 1)]
        middle = []
        for start in starts:
            inside = [
                pixel
                for pixel, (first, stop) in enumerate(reached)
                if stop and (first - start) % axis.cells + stop - first <= length
            ]
            if not inside:
                raise InputError(
                    f"windows: {windows.height}x{windows.width}, allowed: those of the patch {patch}"
                )
            most = max(reached[pixel][1] - reached[pixel][0] for pixel in inside)
            full = [pixel for pixel in inside if reached[pixel][1] - reached[pixel][0] == most]
            middle.append(full[len(full) // 2])
        middles.append(torch.tensor(middle))
    return torch.cartesian_prod(*middles).view(-1, 2)


def gradient_places(
    victim: Victim, images: Tensor, labels: Tensor, patch: tuple[int, int], places: int
) -> Tensor:
    """Corners (N, K, 1, 2) where the gradient under a patch is largest, summed over its pixels; K of them
    that overlap each other by less than half; where there are no more, the first again.
    """
    images, (height, width) = _pixels(images), patch
    _fits(patch, (int(images.shape[2]), int(images.shape[3])))
    _positive(places=places)
    _few(len(images) * places)
    chosen = []
    for at in range(0, len(images), 128):
        x = (images[at : at + 128].to(victim.device) / 255).requires_grad_()
        maps, truth = victim.maps(victim.model, x), labels[at : at + 128]
        _classes("labels", truth, len(x), maps.shape[1])
        loss = victim.loss(maps, truth.to(victim.device))
        (slope,) = torch.autograd.grad(loss.sum(), x)
        _finite(slope)
        held = F.avg_pool2d(slope.abs().sum(1, keepdim=True), patch, 1)[:, 0]  # (n, R, Q)
        row, column = torch.meshgrid(
            *(torch.arange(n, device=x.device) for n in held.shape[1:]), indexing="ij"
        )
        corners: list[Tensor] = []
        first = truth
        for _ in range(places):
            most, best = held.flatten(1).max(1)
            first = best if not corners else first
            best = best.where(most >= 0, first)
            r, c = best // held.shape[2], best % held.shape[2]
            corners.append(torch.stack([r, c], 1))
            down, right = (row - r[:, None, None]).abs(), (column - c[:, None, None]).abs()
            shared = (height - down).clamp(min=0) * (width - right).clamp(min=0)
            held = held.masked_fill(2 * shared >= height * width, -1)
        chosen.append(torch.stack(corners, 1).cpu())
    return torch.cat(chosen)[:, :, None]


@dataclass(frozen=True)
class _Cut:
    """Along one axis, for each place of a patch: where the cut begins, in pixels and in cells, and the cells
    that the patch touches; ``length`` of all cuts in pixels.
    """

    length: int
    pixels: Tensor
    cells: Tensor
    first: Tensor
    stop: Tensor


def _cut(axis: Axis, patch: int, wrap: bool) -> _Cut:
    stride, size, offset = axis.stride, axis.size, axis.fields[0][0]
    place = torch.arange(axis.image - patch + 1)
    first, stop = torch.tensor([touched(axis, int(pixel), patch, wrap) for pixel in place]).T
    ends = offset + (stop - 1) * stride + size
    if wrap:
        cells = first
        length = max(int((ends - first * stride).max()), size + stride)  # a band is narrower than its image
    else:
        cells = ((offset + first * stride) // stride).clamp(min=0)
        longest = int((ends.clamp(max=axis.image) - cells * stride).max())
        length = axis.image - stride * ((axis.image - longest) // stride)
        cells = cells.minimum(torch.tensor((axis.image - length) // stride))
    begin = cells * stride % axis.image
    even = [(offset + i * stride, offset + i * stride + size) for i in range(axis.cells)] == [*axis.fields]
    turns = not wrap or (offset == 0 and axis.image == axis.cells * stride)
    after = (place - begin) % axis.image
    if not (even and turns and length < axis.image and (after + patch <= length).all()):
        length, cells, begin = axis.image, torch.zeros_like(first), torch.zeros_like(first)
    return _Cut(length, begin, cells, first, stop)


class _Scene:
    """What of an image the network must see again when a patch changes.

    Our networks are local and shift with the image: for one patch, a *cut* around it gives the cells that it
    touches, and all others keep their clean evidence. Cuts begin at multiples of the stride and reach the
    image's border where the fields of touched cells do, so that padding falls where it fell. Other networks,
    and several patches, take whole images.
    """

    def __init__(self, victim: Victim, images: Tensor, patch: tuple[int, int], patches: int) -> None:
        self.victim, self.images = victim, images
        self.rows = self.columns = None
        if patches == 1 and isinstance(victim.model, LocalNet):
            seen = geometry(victim.model, (images.shape[2], images.shape[3]))
            rows, columns = _cut(seen.rows, patch[0], False), _cut(seen.columns, patch[1], seen.wrap)
            if (rows.length, columns.length) != images.shape[2:]:
                self.rows, self.columns, self.seen = rows, columns, seen

    @property
    def pixels(self) -> int:
        """Pixels that the network sees of a job."""
        if self.rows is None or self.columns is None:
            return self.images.shape[2] * self.images.shape[3]
        return self.rows.length * self.columns.length

    def view(self, image: Tensor, corners: Tensor, clean: Tensor) -> _View:
        """Jobs: the indices (B,) of their images, corners (B, P, 2), ``clean`` evidence of all images."""
        device = self.victim.device
        if self.rows is None or self.columns is None:
            return _View(self.images[image].to(device), corners.to(device))
        (rows, down), (columns, right) = (
            (cut, corners[:, 0, axis]) for axis, cut in enumerate((self.rows, self.columns))
        )
        row = rows.pixels[down][:, None] + torch.arange(rows.length)  # (B, h')
        column = (columns.pixels[right][:, None] + torch.arange(columns.length)) % self.images.shape[3]
        cuts = self.images[image[:, None, None], :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
        local = torch.stack(
            [down - rows.pixels[down], (right - columns.pixels[right]) % self.images.shape[3]], 1
        )
        cells = geometry(self.victim.model, (rows.length, columns.length))
        high, wide = self.seen.rows.cells, self.seen.columns.cells
        i, j = torch.arange(high), torch.arange(wide)
        hit_row = (i >= rows.first[down][:, None]) & (i < rows.stop[down][:, None])  # (B, H')
        after = (j - columns.first[right][:, None]) % wide
        hit_column = after < (columns.stop - columns.first)[right][:, None]
        up = (i - rows.cells[down][:, None]).clamp(0, cells.rows.cells - 1)
        along = ((j - columns.cells[right][:, None]) % wide).clamp(max=cells.columns.cells - 1)
        index = up[:, :, None] * cells.columns.cells + along[:, None, :]  # (B, H', W')
        hit = hit_row[:, :, None] & hit_column[:, None, :]
        return _View(
            cuts.contiguous().to(device),
            local[:, None].to(device),
            clean[image].float().to(device),
            index.to(device),
            hit.to(device),
        )


@dataclass(frozen=True)
class _View:
    """A batch of jobs: images or cuts of them (B, 3, h', w') uint8, corners there, and for cuts the ``clean``
    evidence (B, C, H', W'), from which cell of a cut's evidence each cell comes, and whether it does.
    """

    images: Tensor
    corners: Tensor
    clean: Tensor | None = None
    index: Tensor | None = None
    hit: Tensor | None = None

    def __getitem__(self, kept: Tensor) -> _View:
        parts = (getattr(self, part.name) for part in fields(self))
        return _View(*(None if part is None else part[kept] for part in parts))  # type: ignore[arg-type]

    def maps(self, victim: Victim, content: Tensor, stencil: Tensor | None) -> Tensor:
        """Evidence under patches ``content`` (B, P, 3, h, w), floats of [0, 1]."""
        maps = victim.maps(victim.model, paste(self.images / 255, content, self.corners, stencil))
        if self.clean is None or self.index is None or self.hit is None:
            return maps
        index = self.index.flatten(1)[:, None].expand(-1, maps.shape[1], -1)
        moved = maps.flatten(2).gather(2, index).view(self.clean.shape)
        return moved.where(self.hit[:, None], self.clean)


def _eight_bits(content: Tensor) -> Tensor:
    return (content * 255).round().to(torch.uint8)


def _pixels(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in 8 bits, on the CPU."""
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise InputError(f"images: have shape {tuple(images.shape)}, allowed: (N, 3, H, W), one or more")
    if images.dtype == torch.uint8:
        return images.cpu()
    if not images.is_floating_point():
        raise InputError(f"images: are {images.dtype}, allowed: uint8, or floats of [0, 1]")
    low, high = (float(value) for value in images.aminmax())
    if not (low >= 0 and high <= 1):  # NaN, too
        raise InputError(f"images: run from {low:g} to {high:g}, allowed: uint8, or floats of [0, 1]")
    return _eight_bits(images.detach().cpu())


def _fits(patch: tuple[int, int], image_size: tuple[int, int]) -> None:
    if len(patch) != 2:
        raise InputError(f"patch: is {patch}, allowed: height and width in pixels")
    for name, side, full in zip(("height", "width"), patch, image_size, strict=True):
        if not 1 <= side <= full:
            raise InputError(f"patch: {name} is {side} pixels, allowed: 1 to the image's {full}")


def _inside(corners: Tensor, patch: tuple[int, int], images: Tensor) -> None:
    rows, columns = (full - side for full, side in zip(images.shape[2:], patch, strict=True))
    if (corners < 0).any() or (corners[..., 0] > rows).any() or (corners[..., 1] > columns).any():
        raise InputError(f"corners: one is outside, allowed here: rows 0 to {rows}, columns 0 to {columns}")


def _positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise InputError(f"{name}: is {value}, allowed: 1 or more")


def _few(places: int) -> None:
    if places > _MOST_PLACES:
        raise InputError(f"places: {places} in all, allowed: {_MOST_PLACES}")


def _seeded(seed: int) -> torch.Generator:
    if not 0 <= seed < 2**63:
        raise InputError(f"seed: is {seed}, allowed: 0 to 2^63 - 1")
    return torch.Generator().manual_seed(seed)


def _classes(name: str, values: Tensor, count: int, classes: int) -> None:
    if values.shape != (count,) or values.dtype != torch.int64:
        raise InputError(f"{name}: are {tuple(values.shape)} {values.dtype}, allowed: ({count},) int64")
    if values.min() < 0 or values.max() >= classes:
        raise InputError(f"{name}: run from {values.min()} to {values.max()}, allowed: 0 to {classes - 1}")


def _finite(slope: Tensor) -> None:
    if not slope.isfinite().all():
        raise InputError(
            "model: its gradient is not finite, allowed: one that is, or the method search, which needs none"
        )


class _Jobs:
    """A batch under attack, of which those that win drop out; and what each has found."""

    def __init__(
        self,
        victim: Victim,
        view: _View,
        labels: Tensor,
        target: Tensor | None,
        rival: Tensor | None,
        stencil: Tensor | None,
        content: Tensor,
    ) -> None:
        self.victim, self.view, self.stencil = victim, view, stencil
        self.labels, self.target, self.rival = labels, target, rival
        self.found, self.steps = _eight_bits(content), 0
        self.margin = torch.full((len(content),), torch.inf, dtype=torch.float64, device=content.device)
        self.left = torch.arange(len(content), device=content.device)

    def maps(self, content: Tensor) -> Tensor:
        """Evidence of those left, under ``content`` (b, P, 3, h, w)."""
        return self.view.maps(self.victim, content, self.stencil)

    def judge(self, asked: Tensor, content: Tensor) -> Tensor:
        """Judge in 8 bits, unrelaxed, what some of those left, ``asked`` (a,), have found; who has won drops
        out. Returns who stays.
        """
        found, kept = _eight_bits(content[asked]), torch.ones(len(self.left), dtype=torch.bool)
        kept = kept.to(content.device)
        if not len(asked):
            return kept
        target = None if self.target is None else self.target[asked]
        with torch.inference_mode():
            maps = self.view[asked].maps(self.victim, found / 255, self.stencil)
            margin = self.victim.margins(maps, self.labels[asked], target).double()
        lower = margin < self.margin[self.left[asked]]  # a relaxation may have liked another one more
        at = self.left[asked[lower]]
        self.found[at], self.margin[at] = found[lower], margin[lower]
        kept[asked] = margin > 0
        if not kept.all():
            self.left, self.view, self.labels = self.left[kept], self.view[kept], self.labels[kept]
            self.target = None if self.target is None else self.target[kept]
            self.rival = None if self.rival is None else self.rival[kept]
        return kept

    def slope(self, content: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss's gradient (b, P, 3, h, w); minus the relaxed margin that it aims at (b,); who has won by
        relaxed scores.
        """
        self.steps += len(self.left)
        content, victim = content.detach().requires_grad_(), self.victim
        scores = victim.relaxed(self.maps(content))
        aim = self.target if self.rival is None else self.rival
        (slope,) = torch.autograd.grad(_loss(scores, self.labels, aim, victim.k).sum(), content)
        _finite(slope)
        scores = scores.detach()
        won = _margins(scores, self.labels, self.target, victim.k) <= 0
        return slope, -_margins(scores, self.labels, aim, victim.k), won

    def climb(self, content: Tensor, steps: int) -> None:
        """Signed gradient ascent with momentum. A job's pace is halved, and it goes back to its best, where
        nothing has improved for a while.
        """
        patience = max(3, steps // 8)
        best, velocity = content, torch.zeros_like(content)
        height = content.new_full((len(content),), -torch.inf)
        stale, pace = torch.zeros_like(height), torch.full_like(height, _FIRST_PACE)
        for _ in range(steps):
            slope, reached, won = self.slope(content)
            kept = self.judge(torch.nonzero(won)[:, 0], content)
            if not kept.all():
                content, best, velocity, slope = content[kept], best[kept], velocity[kept], slope[kept]
                height, reached, stale, pace = height[kept], reached[kept], stale[kept], pace[kept]
            if not kept.any():
                return
            better = reached > height
            height, stale = height.maximum(reached), (stale + 1).where(~better, 0)
            best = content.where(_each(better), best)
            velocity = _MOMENTUM * velocity + slope / slope.abs().mean((1, 2, 3, 4), True).clamp(min=1e-30)
            tired = stale >= patience
            pace, stale = (pace / 2).where(tired, pace), stale.where(~tired, 0)
            content = best.where(_each(tired), content)
            content = (content + _each(pace) * velocity.sign()).clamp(0, 1)
        self.judge(torch.arange(len(self.left), device=best.device), best)

    def search(self, content: Tensor, steps: int, source: torch.Generator) -> None:
        """Random squares of one extreme color, ever smaller, kept where the exact margin does not rise:
        gradient-free (after Square Attack, Andriushchenko et al., ECCV 2020).
        """
        patches, _, high, wide = content.shape[1:]
        rows, columns = (torch.arange(side, device=content.device) for side in (high, wide))
        trial = content[..., :1, :].round().expand_as(content)  # stripes
        lowest = content.new_full((len(content),), torch.inf, dtype=torch.float64)
        for step in range(steps):
            with torch.inference_mode():
                margin = self.victim.margins(self.maps(trial), self.labels, self.target).double()
            self.steps += len(self.left)
            better = margin <= lowest
            content, lowest = trial.where(_each(better), content), lowest.minimum(margin)
            won = better & (margin <= 0)
            kept = self.judge(torch.nonzero(won | (step == steps - 1))[:, 0], content)
            if not kept.any():
                return
            content, lowest = content[kept], lowest[kept]
            side = max(1, round(0.9 * (1 - step / steps) * min(high, wide)))
            draw = torch.rand(len(content), 6, generator=source).to(content.device)
            top, start = (
                (draw[:, i] * (full - side + 1)).long()[:, None] for i, full in enumerate((high, wide))
            )
            down = (rows >= top) & (rows < top + side)
            right = (columns >= start) & (columns < start + side)
            which = torch.arange(patches, device=content.device) == (draw[:, 2:3] * patches).long()  # (b, P)
            painted = which[:, :, None, None, None] & (down[:, :, None] & right[:, None, :])[:, None, None]
            trial = torch.where(painted, draw[:, None, 3:, None, None].round(), content)


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None, None]


class _Hunt:
    """N images under attack, and the best patch found for each."""

    def __init__(
        self,
        victim: Victim,
        images: Tensor,
        labels: Tensor,
        patch: tuple[int, int],
        corners: Tensor | tuple[int, int],
        target: Tensor | int | None,
        stencil: Tensor | None,
        batch_size: int | None,
    ) -> None:
        self.victim, self.pixels, self.labels = victim, _pixels(images), labels.cpu()
        count, size = len(images), (int(images.shape[2]), int(images.shape[3]))
        _fits(patch, size)
        places = torch.as_tensor(corners).cpu()
        if places.shape == (2,):
            places = places.view(1, 1, 1, 2)
        if places.ndim != 4 or len(places) not in (1, count) or places.shape[3] != 2 or 0 in places.shape:
            raise InputError(
                f"corners: have shape {tuple(places.shape)}, "
                f"allowed: (row, column), or ({count} or 1, places, patches, 2)"
            )
        if places.dtype != torch.int64:
            raise InputError(f"corners: are {places.dtype}, allowed: int64")
        _inside(places, patch, images)
        if stencil is not None and not (
            stencil.shape == patch and stencil.dtype == torch.bool and stencil.any()
        ):
            raise InputError(
                f"stencil: allowed: bool, of the patch's {patch[0]}x{patch[1]} pixels, not empty"
            )
        self.stencil = None if stencil is None else stencil.to(victim.device)
        self.places = places.expand(count, -1, -1, -1)
        self.evidence = victim.evidence(self.pixels)
        classes = self.evidence.shape[1]
        if not 1 <= victim.k < classes:
            raise InputError(f"top-k: k is {victim.k}, allowed: 1 to {classes - 1} of {classes} classes")
        aims = None if target is None else torch.as_tensor(target).cpu()
        self.target = aims.expand(count) if aims is not None and aims.ndim == 0 else aims
        for name, values in (("labels", self.labels), ("target", self.target)):
            if values is not None:
                _classes(name, values, count, classes)
        self.clean = victim.margins(self.evidence, self.labels) > 0
        if not self.clean.any():
            raise InputError(f"images: none of {count} is right before the attack, allowed: one or more")
        self.margin = victim.margins(self.evidence, self.labels, self.target)
        self.hunted = self.clean & (self.margin > 0)
        self.scene = _Scene(victim, self.pixels, patch, places.shape[2])
        room = 2**18 if victim.device.type == "cpu" else 2**24  # pixels
        self.batch = max(16, min(4096, room // self.scene.pixels)) if batch_size is None else batch_size
        _positive(batch_size=self.batch)
        self.content = torch.zeros(count, places.shape[2], 3, *patch, dtype=torch.uint8)
        self.corners = torch.full((count, places.shape[2], 2), -1)
        self.best = torch.full((count,), torch.inf, dtype=torch.float64)
        self.patches = self.steps = 0

    @property
    def standing(self) -> Tensor:
        """(N,) bool: worth another patch."""
        return self.hunted & (self.best > 0)

    def jobs(self, image: Tensor, corners: Tensor, content: Tensor, rival: Tensor | None = None) -> _Jobs:
        """Jobs of images (B,) with corners (B, P, 2), to begin with ``content``."""
        device = self.victim.device
        chosen = [None if v is None else v[image].to(device) for v in (self.labels, self.target, rival)]
        view = self.scene.view(image, corners, self.evidence)
        return _Jobs(self.victim, view, chosen[0], chosen[1], chosen[2], self.stencil, content)  # type: ignore[arg-type]

    def keep(self, image: Tensor, corners: Tensor, jobs: _Jobs) -> None:
        """Note what jobs have found, the best for each image; who seems to have won is judged exactly."""
        self.patches, self.steps = self.patches + len(image), self.steps + jobs.steps
        margins, content = jobs.margin.cpu(), jobs.found.cpu()
        if (won := margins <= 0).any():
            stencil = None if self.stencil is None else self.stencil.cpu()
            images = paste(self.pixels[image[won]], content[won], corners[won], stencil)
            margins[won] = self.exact(images, image[won])
        for job, (i, margin) in enumerate(zip(image.tolist(), margins.tolist(), strict=True)):
            if margin < self.best[i]:
                self.best[i], self.corners[i], self.content[i] = margin, corners[job], content[job]

    def exact(self, images: Tensor, index: Tensor) -> Tensor:
        """Margins (n,) of attacked images (n, 3, H, W), which are those at ``index``."""
        target = None if self.target is None else self.target[index]
        return self.victim.margins(self.victim.evidence(images), self.labels[index], target).double()

    def result(self) -> Attacked:
        """The best patch of each image, judged exactly."""
        stencil = None if self.stencil is None else self.stencil.cpu()
        robust, margin = self.hunted.clone(), self.margin.clone()
        hit = torch.nonzero(self.best < torch.inf)[:, 0]
        found = Attacked(
            self.clean, robust, self.corners, self.content, margin, stencil, self.patches, self.steps
        )
        if len(hit):
            margin[hit] = self.exact(found.patched(self.pixels)[hit], hit).to(margin.dtype)
            robust[hit] = margin[hit] > 0
        return found


def attack(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    patch: tuple[int, int],
    corners: Tensor | tuple[int, int],
    *,
    method: str = "gradient",
    steps: int = 40,
    restarts: int = 1,
    target: Tensor | int | None = None,
    stencil: Tensor | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: str | None = None,
) -> Attacked:
    """Attack each image (N, 3, H, W), uint8 or floats of [0, 1], that is right, with patches of its own.

    ``patch``: height and width in pixels; ``stencil`` (h, w) bool cuts another shape out of it. ``corners``:
    one (row, column), or (N or 1, K, P, 2) int64: K places to try, each of P patches. All places are tried
    before the next restart, and an image that has fallen is attacked no further. ``method``: "gradient"
    climbs the relaxed margin, in later restarts towards one rival each, strongest first; "search" needs no
    gradient. ``target``, a class, or (N,): won when no other score exceeds the target's. ``steps`` at each
    place and restart; ``batch_size`` patches at once (by what the network sees of each); ``seed`` draws what
    they begin with; ``progress`` names a bar. Raises ``InputError`` for a patch larger than the image, pixels
    outside [0, 1], corners outside, labels that do not fit, no image that is right, and gradients that are
    not finite.
    """
    if method not in METHODS:
        raise InputError(f"method: is {method!r}, allowed: {', '.join(METHODS)}")
    _positive(steps=steps, restarts=restarts)
    hunt = _Hunt(victim, images, labels, patch, corners, target, stencil, batch_size)
    batch, places = hunt.batch, hunt.places.shape[1]
    scores = victim.scores(hunt.evidence).double().scatter(1, hunt.labels[:, None], -torch.inf)
    rivals = scores.sort(dim=1, descending=True, stable=True).indices[:, :-1]
    source = _seeded(seed)
    total = int(hunt.standing.sum()) * places * restarts
    with tqdm(
        total=total, desc=progress, leave=False, unit="patch", disable=True if progress is None else None
    ) as bar:
        for restart in range(restarts):
            rival = rivals[:, (restart - 1) % rivals.shape[1]] if restart and target is None else None
            at = 0
            while at < places and len(each := torch.nonzero(hunt.standing)[:, 0]):
                together = min(places - at, max(1, batch // len(each)))
                starts = [torch.rand(hunt.content.shape, generator=source)[each] for _ in range(together)]
                place, who = (
                    torch.cartesian_prod(torch.arange(together), torch.arange(len(each))).view(-1, 2).T
                )
                for some in torch.arange(len(who)).split(batch):
                    some = some[hunt.standing[each[who[some]]]]
                    if not len(some):
                        continue
                    image, turn = each[who[some]], place[some]
                    where = hunt.places[image, at + turn]
                    begin = torch.stack([starts[t][w] for t, w in zip(turn, who[some], strict=True)])
                    jobs = hunt.jobs(image, where, begin := begin.to(victim.device), rival)
                    if method == "gradient":
                        jobs.climb(begin, steps)
                    else:
                        jobs.search(begin, steps, source)
                    hunt.keep(image, where, jobs)
                    bar.set_postfix_str(f"{int(hunt.standing.sum())} of {int(hunt.hunted.sum())} standing")
                    bar.update(len(some))
                at += together
    return hunt.result()


def universal(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    patch: tuple[int, int],
    corners: Tensor | tuple[int, int],
    *,
    steps: int = 200,
    target: Tensor | int | None = None,
    stencil: Tensor | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: str | None = None,
) -> Attacked:
    """One content for all images: signed gradient ascent with momentum on batches of those that it does not
    beat yet, each image at one of its places drawn anew; then tried on every image at every place.

    Arguments and errors as for :func:`attack`.
    """
    _positive(steps=steps)
    hunt = _Hunt(victim, images, labels, patch, corners, target, stencil, batch_size)
    batch, places = hunt.batch, hunt.places.shape[1]
    source = _seeded(seed)
    hunted = torch.nonzero(hunt.hunted)[:, 0]
    content = torch.rand(hunt.content.shape[1:], generator=source).to(victim.device)
    velocity = torch.zeros_like(content)
    for step in tqdm(range(steps), progress, leave=False, disable=True if progress is None else None):
        image = hunted[torch.randperm(len(hunted), generator=source)[:batch]]
        place = torch.randint(places, image.shape, generator=source)
        many = content.expand(len(image), *content.shape)
        jobs = hunt.jobs(image, hunt.places[image, place], many)
        slope, _, won = jobs.slope(many)
        hunt.steps += jobs.steps
        slope = slope[~won].sum(0)
        velocity = _MOMENTUM * velocity + slope / slope.abs().mean().clamp(min=1e-30)
        pace = _FIRST_PACE * (1 - step / steps) / 2
        content = (content + pace * velocity.sign()).clamp(0, 1)
    for at in range(places):
        for image in torch.nonzero(hunt.standing)[:, 0].split(batch):
            where, many = hunt.places[image, at], content.expand(len(image), *content.shape)
            jobs = hunt.jobs(image, where, many)
            jobs.judge(jobs.left, many)
            hunt.keep(image, where, jobs)
    hunt.patches = 1
    return hunt.result()

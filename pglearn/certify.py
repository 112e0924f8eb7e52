"""Certificates: what no patch can change, image by image.

An image is *certified* when, for every malicious window and whatever the attacker writes into it, fewer than
k other classes reach the label's score. The *margin* says by how much: the label's lower bound minus the k-th
largest upper bound of the others, at the worst window; positive exactly where certified (Algorithm 2; App. D
for k > 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pglearn.defenses import Aggregate, Defense, cells_at_once, decimal
from pglearn.distributed import gather, place, share
from pglearn.errors import InputError
from pglearn.evidence import Evidence, EvidenceFile
from pglearn.geometry import Windows, all_windows, malicious_windows

__all__ = ["Certificate", "certify", "certify_file", "certify_units", "check", "interval", "rate", "threat"]


@dataclass(frozen=True)
class Certificate:
    """What a defense says about N images, and what no patch can change about it. One entry an image, on the
    CPU.
    """

    prediction: Tensor
    """(N,) int64: class with the largest defended score, the lowest of several."""
    clean: Tensor
    """(N,) bool: fewer than k other classes score at least as much as the label."""
    certified: Tensor
    """(N,) bool: that stays so whatever the attacker writes into any malicious window (or ``patches`` of
    them).
    """
    margin_units: Tensor
    """(N,) int64: the smallest margin over all malicious windows, in units of the transform; with several
    patches at most that.
    """
    worst: Tensor
    """(N, 4) int64: top, left, height, width of a window with that margin (the first one); -1 with several
    patches.
    """
    step: Fraction = Fraction(1)
    """Evidence of one unit."""

    @property
    def margin(self) -> list[float]:
        """The margins in evidence units."""
        return [float(units * self.step) for units in self.margin_units.tolist()]

    @classmethod
    def join(cls, parts: Sequence[Certificate]) -> Certificate:
        """One certificate of several, in order."""
        names = [field.name for field in fields(cls) if field.name != "step"]
        joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], **joined)


def interval(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a rate, in percent."""
    if not 0 <= hits <= total or total < 1:
        raise InputError(f"hits: is {hits} of {total}, allowed: 0 to the total, which is 1 or more")
    z, share = 1.959964, hits / total
    center = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return 100 * max(0.0, center - half), 100 * min(1.0, center + half)


def rate(hits: int, total: int) -> str:
    """A count of images as text, with its percentage and its :func:`~pglearn.certify.interval`.

    >>> rate(312, 1000)
    '312 of 1000 images, 31.2 % [28.4 %, 34.1 %]'
    >>> rate(0, 10)
    '0 of 10 images, 0.0 % [0.0 %, 27.8 %]'
    """
    low, high = interval(hits, total)
    return f"{hits} of {total} images, {100 * hits / total:.1f} % [{low:.1f} %, {high:.1f} %]"


def threat(
    source: Evidence | EvidenceFile,
    patch: Sequence[tuple[int, int]] | None = None,
    window: Sequence[tuple[int, int]] | None = None,
) -> list[Windows]:
    """The malicious windows of an attacker who picks any of the shapes (height, width): each ``patch`` in
    image pixels, through the geometry of ``source``, or each ``window`` in feature positions.

    Raises ``InputError`` for patches where there is no geometry, and for shapes that do not fit.
    """
    if not patch:
        height, width = (source.shape if isinstance(source, EvidenceFile) else source.maps.shape)[2:]
        return [all_windows(*shape, height, width, source.wrap) for shape in window or ()]
    if source.geometry is None:
        raise InputError("--patch: the file carries no geometry, allowed: --window HxW, in feature positions")
    return [windows for shape in patch for windows in malicious_windows(*shape, source.geometry)]


def check(
    shape: tuple[int, ...],
    labels: Tensor | None,
    aggregate: Aggregate,
    windows: Sequence[Windows],
    top: int,
    k: int,
    patches: int,
) -> int:
    """Raise ``InputError`` where certifying evidence of ``shape`` would fail or be meaningless. How many
    patches matter: more windows than cells reach no more.
    """
    for name, value in (("top-k", k), ("patches", patches), ("top", top)):
        if not isinstance(value, int):
            raise InputError(f"{name}: is {value!r}, allowed: a whole number")
    if len(shape) != 4 or 0 in shape:
        raise InputError(f"evidence: has shape {tuple(shape)}, allowed: (N, C, H, W), none of them 0")
    images, classes, height, width = shape
    if not 1 <= k < classes:
        raise InputError(
            f"top-k: k is {k}, allowed: 1 to {classes - 1} of {classes} classes"
            if classes > 1
            else "evidence: has 1 class, allowed: 2 or more"
        )
    if labels is not None:
        if not isinstance(labels, Tensor):
            raise InputError(f"labels: are a {type(labels).__name__}, allowed: a tensor ({images},) int64")
        if tuple(labels.shape) != (images,) or labels.dtype != torch.int64:
            raise InputError(f"labels: are {tuple(labels.shape)} {labels.dtype}, allowed: ({images},) int64")
        if labels.min() < 0 or labels.max() >= classes:
            raise InputError(
                f"labels: run from {int(labels.min())} to {int(labels.max())}, allowed: 0 to {classes - 1}"
            )
    if not windows or not all(map(len, windows)):
        raise InputError("window: none given, allowed: at least one malicious window")
    for window in windows:
        fits = 1 <= window.height <= height and 1 <= window.width <= width
        inside = (
            fits
            and min(window.rows) >= 0
            and max(window.rows) + window.height <= height
            and min(window.columns) >= 0
        )
        if not inside or max(window.columns) + (1 if window.wrap else window.width) > width:
            raise InputError(
                f"window: {window.height}x{window.width}, allowed: from 1x1 to the map's {height}x{width}"
            )
    if patches < 1:
        raise InputError(f"patches: is {patches}, allowed: 1 or more")
    aggregate.check(top, height, width, windows, patches)
    return min(patches, height * width)


def certify_units(
    units: Tensor,
    labels: Tensor | None,
    aggregate: Aggregate,
    windows: Sequence[Windows],
    top: int,
    k: int = 1,
    patches: int = 1,
) -> Certificate:
    """Certify fixed-point evidence: ``units`` (N, C, H, W), integers of ``0 .. top``, as a transform gives
    them.

    ``labels`` (N,) int64, or ``None`` to certify the defended prediction itself. The attacker owns any one of
    all ``windows``, or with ``patches`` any so many of them, overlapping or not. Raises
    ``InputError`` on anything that would make the certificate meaningless.
    """
    patches = check(tuple(units.shape), labels, aggregate, windows, top, k, patches)
    if units.dtype not in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64):
        raise InputError(
            f"units: are {units.dtype}, allowed: integers; a transform makes them from raw evidence"
        )
    low, high = (int(v) for v in units.aminmax())
    if low < 0 or high > top:
        raise InputError(f"units: run from {low} to {high}, allowed: 0 to top = {top}")
    exact = torch.int32 if top * units.shape[2] * units.shape[3] < 2**31 else torch.int64
    return _chunked(
        lambda part: part.to(exact), units, labels, aggregate, windows, top, k, patches, Fraction(1)
    )


def certify(
    maps: Tensor,
    labels: Tensor | None,
    defense: Defense,
    windows: Sequence[Windows],
    k: int = 1,
    patches: int = 1,
) -> Certificate:
    """Certify raw evidence ``maps`` (N, C, H, W) of any real type under ``defense``; see
    :func:`certify_units`.
    """
    transform = defense.transform
    if maps.is_complex() or maps.dtype == torch.bool:
        raise InputError(f"maps: are of type {maps.dtype}, allowed: integers and floating point")
    patches = check(tuple(maps.shape), labels, defense.aggregate, windows, transform.top, k, patches)
    step = decimal("step", transform.step)
    return _chunked(transform, maps, labels, defense.aggregate, windows, transform.top, k, patches, step)


def _chunked(
    transform: Callable[[Tensor], Tensor],
    maps: Tensor,
    labels: Tensor | None,
    aggregate: Aggregate,
    windows: Sequence[Windows],
    top: int,
    k: int,
    patches: int,
    step: Fraction,
) -> Certificate:
    corners = torch.tensor([(r, c, w.height, w.width) for w in windows for r in w.rows for c in w.columns])
    chunk = max(32, cells_at_once(maps.device) // maps[0].numel())
    parts = []
    for start in range(0, len(maps), chunk):
        units = transform(maps[start : start + chunk])
        given = None if labels is None else labels[start : start + chunk].to(units.device)
        prediction, clean = aggregate.outcome(units, given, k)
        target = prediction if given is None else given
        if patches > 1:
            margin = aggregate.margin_of_many(units, target, top, windows, k, patches)
            worst = corners.new_full((len(units), 4), -1)
        else:
            margins = torch.cat([aggregate.margins(units, target, top, window, k) for window in windows], 1)
            margin = margins.amin(1)
            places = torch.arange(len(corners), device=margins.device)
            worst = corners[places.where(margins == margin[:, None], len(corners)).amin(1).cpu()]
        parts.append(
            Certificate(
                prediction=prediction.cpu(),
                clean=clean.cpu(),
                certified=(margin > 0).cpu(),
                margin_units=margin.cpu(),
                worst=worst,
                step=step,
            )
        )
    return Certificate.join(parts)


def certify_file(
    file: EvidenceFile,
    defense: Defense,
    windows: Sequence[Windows],
    k: int = 1,
    device: str | torch.device = "cpu",
    patches: int = 1,
) -> Certificate:
    """Certify an evidence file batch by batch, however large; without labels where it was opened
    ``unlabelled``. Several processes share the images, and all get the whole certificate.
    """
    size, part = max(32, 2**24 // math.prod(file.shape[1:])), share(file.shape[0])
    steps = -(-(part.stop - part.start) // size)
    batches = tqdm(
        file.batches(size, part), "certify", steps, leave=False, disable=steps < 2 or place()[0] > 0
    )
    found = [
        certify(maps.to(device), None if labels is None else labels.to(device), defense, windows, k, patches)
        for maps, labels in batches
    ]
    return Certificate.join(list(chain(*gather(found))))

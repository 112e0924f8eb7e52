"""Masks: each class loses what looks most like a patch. Robust masking and individual feature masking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pglearn.defenses.aggregate import (
    LARGEST_SUM,
    Aggregate,
    ClosedForm,
    kth_smallest_other,
    label_maps,
    outside,
    wide,
)
from pglearn.defenses.boxes import (
    ascending,
    box_sums,
    cover,
    heaviest_cells_outside,
    heaviest_outside,
)
from pglearn.defenses.transforms import decimal
from pglearn.errors import InputError
from pglearn.geometry import Windows

__all__ = ["TopMask", "WindowMask"]


@dataclass(frozen=True)
class WindowMask(ClosedForm):
    """Robust masking (Algorithm 1): each class loses its heaviest ``height`` x ``width`` window.

    Only where that window holds more than the share ``threshold`` (T, a typed decimal in [0, 1)) of the
    class's evidence; a share equal to T stays. ``wrap``: masks run around the right border, as over the
    features of de-randomized smoothing.

    At T = 0 the score is the sum minus the heaviest window: a cell that rises by 1 adds 1 to the sum and at
    most 1 to any window, so the score never falls, and the generic bounds are exact. T > 0 has bounds of its
    own, see ``bounds``.
    """

    height: int
    width: int
    threshold: str = "0"
    wrap: bool = False

    def __post_init__(self) -> None:
        if not 0 <= decimal("detection threshold", self.threshold) < 1:
            raise InputError(f"detection threshold: is {self.threshold}, allowed: 0 <= T < 1")
        if self.height < 1 or self.width < 1:
            raise InputError(f"mask: {self.height}x{self.width}, allowed: 1x1 or more")

    @classmethod
    def against(
        cls,
        windows: Sequence[Windows],
        wrap: bool = False,
        mask: tuple[int, int] | None = None,
        detection_threshold: str = "0",
    ) -> WindowMask:
        """``mask``, or else the smallest that covers each window."""
        size = mask or (max(w.height for w in windows), max(w.width for w in windows))
        return cls(*size, detection_threshold, wrap)

    @property
    def _share(self) -> tuple[int, int]:
        return decimal("detection threshold", self.threshold).as_integer_ratio()

    def check(self, top: int, height: int, width: int, windows: Sequence[Windows], patches: int = 1) -> None:
        """Also: one patch, the mask fits the map and covers each window, and the shares compared by
        cross-multiplication fit 64 bits.
        """
        super().check(top, height, width, windows)
        if patches > 1:
            raise InputError(
                f"patches: is {patches}, allowed with window masks: 1, or a region that holds all (--within, "
                "merging); features, clip and vote take any number"
            )
        if self.height > height or self.width > width:
            raise InputError(f"mask: {self.height}x{self.width}, allowed: at most the map's {height}x{width}")
        for window in windows:
            if window.height > self.height or window.width > self.width:
                raise InputError(
                    f"mask: {self.height}x{self.width}, allowed: at least the malicious window's "
                    f"{window.height}x{window.width}"
                )
            if max(window.columns) + window.width > width and not self.wrap:
                raise InputError(
                    "wrap: a malicious window wraps around the border, allowed: masks that do so too"
                )
        if top * height * width * self._share[1] > LARGEST_SUM:
            raise InputError(
                f"clip_high: {height}x{width} cells of {top} units, compared with T = {self.threshold}, "
                f"could overflow, allowed: {LARGEST_SUM}"
            )

    def _mask_sums(self, units: Tensor) -> Tensor:
        if self.height > units.shape[2] or self.width > units.shape[3]:
            size = f"{units.shape[2]}x{units.shape[3]}"
            raise InputError(f"mask: {self.height}x{self.width}, allowed: at most the map's {size}")
        return box_sums(wide(units), self.height, self.width, self.wrap)  # (N, C, P, Q)

    def scores(self, units: Tensor) -> Tensor:
        """Sum of each map, less its heaviest window if that window's share exceeds T."""
        total = units.flatten(2).sum(-1, dtype=torch.int64)
        heaviest = self._mask_sums(units).flatten(2).amax(-1).long()
        part, whole = self._share
        return total - heaviest.where(heaviest * whole > total * part, 0)

    def soft(self, values: Tensor) -> Tensor:
        """The sum less the heaviest window; at T > 0 times a sigmoid of its share, 0.02 wide around T.

        A little gradient leaks through the mask (``leaky``).
        """
        total = values.flatten(2).sum(-1)
        down = _bands(values, values.shape[2], self.height)
        across = _bands(values, values.shape[3], self.width, self.wrap)
        boxes = down @ values @ across.T  # pooling says the same, and differentiates more slowly
        heaviest = boxes.flatten(2).amax(-1)
        if not self._share[0]:
            return leaky(total - heaviest, total)
        share = heaviest / total.clamp(min=1e-12)
        return leaky(total - heaviest * ((share - float(self.threshold)) / 0.02).sigmoid(), total)

    def bounds(self, units: Tensor, top: int, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (N, C) on each class's score over all contents of the window ``inside`` (H, W); exact at T =
        0.

        *Upper.* Let s be the score at T = 0. If a mask falls, the score is s; if none does, the heaviest
        holds at most T * total, so s >= (1 - T) * total: either way at most s / (1 - T), where s is largest
        with the window filled to ``top``. That is at most Lemma 2's bound (what the heaviest mask over the
        window leaves, over 1 - T), Lemma 1's where the sizes agree; and no score passes the filled total.
        *Lower.* Whatever falls removes at most its own outside part, and the rest of the window only adds. A
        mask apart from the window falls only if its share of the total, thus of the evidence outside, exceeds
        T; then so does the heaviest outside part.
        """
        part, whole = self._share
        units = wide(units)
        empty, filled = units.masked_fill(inside, 0), units.masked_fill(inside, top)
        out = empty.flatten(2).sum(-1, dtype=torch.int64)
        sums = self._mask_sums(empty).flatten(2).long()
        overlap = self._mask_sums(inside[None, None].to(torch.int32)).flatten()
        lured = sums[..., overlap > 0].amax(-1)
        heaviest = sums.amax(-1)
        lower = out - heaviest.where(heaviest * whole > out * part, lured)
        total = filled.flatten(2).sum(-1, dtype=torch.int64)
        rest = total - self._mask_sums(filled).flatten(2).amax(-1)
        return lower, torch.minimum(self.ceiling(rest), total)

    def margins(self, units: Tensor, labels: Tensor, top: int, windows: Windows, k: int = 1) -> Tensor:
        """In closed form; by the generic loop where columns wrap."""
        loop = self.wrap or windows.wrap
        return (Aggregate if loop else ClosedForm).margins(self, units, labels, top, windows, k)

    def ceiling(self, totals: Tensor) -> Tensor:
        """totals / (1 - T), rounded down: scores are integers."""
        part, whole = self._share
        return totals.long() * whole // (whole - part) if part else totals

    def lower(self, maps: Tensor, top: int, windows: Windows) -> Tensor:
        """Lower bounds of ``bounds``."""
        part, whole = self._share
        out = outside(maps, windows)
        meeting, apart = heaviest_outside(maps, windows, self.height, self.width)
        heaviest = torch.maximum(meeting, apart)
        if part:
            heaviest = heaviest.where(heaviest.long() * whole > out.long() * part, meeting)
        return out - heaviest

    def upper(self, maps: Tensor, totals: Tensor, top: int, windows: Windows) -> Tensor:
        """Upper bounds of ``bounds``."""
        out = outside(maps, windows, totals)  # (N, K, P, Q)
        filled = out + windows.height * windows.width * top
        if (windows.height, windows.width) == (self.height, self.width):  # no mask weighs more than it
            rest = out
        else:
            held = heaviest_outside(maps.flatten(0, 1), windows, self.height, self.width, top)
            rest = filled - torch.maximum(*held).view_as(out)
        return torch.minimum(self.ceiling(rest), filled) if self._share[0] else rest


def leaky(scores: Tensor, totals: Tensor) -> Tensor:
    """``scores``, with a twentieth of the gradient of ``totals`` besides: where all that an attacker owns is
    masked, there would be no way out.
    """
    return scores + (totals - totals.detach()) / 20


def _bands(like: Tensor, cells: int, length: int, wrap: bool = False) -> Tensor:
    """Row i holds ones where the window that starts at cell i lies: (placements, cells)."""
    turns = torch.arange(cells, device=like.device)
    starts = turns[: cells if wrap and length < cells else cells - length + 1, None]
    return ((turns - starts) % cells < length).to(like.dtype)


@dataclass(frozen=True)
class TopMask(ClosedForm):
    """Individual feature masking (App. E): each class loses its ``alpha`` heaviest cells, wherever they are.

    Monotone: a cell that rises by 1 adds 1 to the sum and at most 1 to the heaviest ``alpha``. Lemma 1
    re-proved, for any m <= alpha malicious cells, in one window or many: filled to ``top`` they are among the
    heaviest ``alpha``, so a rival keeps what is outside, less its ``alpha - m`` heaviest cells there (none
    for m = alpha: Lemma 1's bound at T = 0). The label keeps what is outside, less its ``alpha`` heaviest
    cells there.
    """

    alpha: int

    def __post_init__(self) -> None:
        if self.alpha < 1:
            raise InputError(f"alpha: is {self.alpha}, allowed: 1 or more masked features")

    @classmethod
    def against(
        cls, windows: Sequence[Windows], patches: int = 1, mask: tuple[int, int] | None = None
    ) -> TopMask:
        """alpha = patches * h * w of ``mask``, or else of the largest window."""
        if mask and min(mask) < 1:
            raise InputError(f"mask: {mask[0]}x{mask[1]}, allowed: 1x1 or more")
        areas = [mask[0] * mask[1]] if mask else [w.height * w.width for w in windows]
        return cls(patches * max(areas))

    def check(self, top: int, height: int, width: int, windows: Sequence[Windows], patches: int = 1) -> None:
        """Also: alpha covers the cells of all patches."""
        super().check(top, height, width, windows, patches)
        needed = patches * max(window.height * window.width for window in windows)
        if self.alpha < needed:
            raise InputError(
                f"mask: {self.alpha} features, allowed: at least the {needed} of the malicious windows"
            )

    def scores(self, units: Tensor) -> Tensor:
        """Sum of each map, less its heaviest ``alpha`` cells."""
        ordered = ascending(wide(units))
        return ordered[..., : max(0, ordered.shape[-1] - self.alpha)].sum(-1, dtype=torch.int64)

    def soft(self, values: Tensor) -> Tensor:
        """The same of real values, ``leaky``."""
        cells = values.flatten(2)
        total = cells.sum(-1)
        return leaky(total - cells.topk(min(self.alpha, cells.shape[-1])).values.sum(-1), total)

    def lower(self, maps: Tensor, top: int, windows: Windows) -> Tensor:
        """Evidence outside the window, less its ``alpha`` heaviest cells."""
        return outside(maps, windows) - heaviest_cells_outside(maps, windows, self.alpha)

    def upper(self, maps: Tensor, totals: Tensor, top: int, windows: Windows) -> Tensor:
        """Evidence outside the window, less the heaviest cells that the filled window leaves to the mask."""
        out = outside(maps, windows, totals)
        spare = self.alpha - windows.height * windows.width
        if spare == 0:
            return out
        return out - heaviest_cells_outside(maps.flatten(0, 1), windows, spare).view_as(out)

    def margin_of_many(
        self, units: Tensor, labels: Tensor, top: int, windows: Sequence[Windows], k: int, patches: int
    ) -> Tensor:
        """A bound that adds up cell by cell, so that ``cover`` finds the worst union; at least that of any
        ``patches`` * area cells.

        For a union S, the label loses y(S) and its alpha heaviest cells outside S, and a rival at least c(S).
        For any level t, alpha cells hold at most alpha t and all that is above t. So the label keeps at least
        the sum of min(y, t), less alpha t, less that of min(y, t) over S: a union's weight is min(y, t) - c.
        Several levels are tried; each is a proof.
        """
        units = units.long()
        label = label_maps(units, labels)  # (N, 1, H, W)
        cells = units.shape[2] * units.shape[3]
        reach = min(patches * max(window.height * window.width for window in windows), cells)
        alpha = min(self.alpha, cells)
        ordered = ascending(units)  # (N, C, cells)
        held = label_maps(ordered, labels)[:, 0].flip(-1)  # (N, cells), heaviest first
        totals = units.flatten(2).sum(-1)  # (N, C)
        masked = ordered[..., :reach].sum(-1) + ordered[..., cells - (alpha - reach) :].sum(-1)
        margins = held[:, alpha + reach :].sum(1)[:, None] - totals + masked
        for rank in {min(cells - 1, alpha + reach * i // 4) for i in range(5)}:
            level = held[:, rank]
            kept = held.minimum(level[:, None]).sum(1) - alpha * level
            weights = label.minimum(level[:, None, None, None]) - units
            worst = cover(weights.flatten(0, 1), windows, patches).view_as(totals)
            margins = margins.maximum(kept[:, None] - totals - worst)
        return kth_smallest_other(margins, labels, k)

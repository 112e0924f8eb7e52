"""Defenses: a transform that bounds local evidence, and an aggregate that turns each class's map into its
score.

From here on everything is an integer. A *transform* maps raw evidence to units ``0 .. top``; an attacker may
write any of them into the cells of the malicious window, in every class independently. An *aggregate* maps
units (N, C, H, W) to scores (N, C).

**Theorem.** If a class's score never falls when one of its cells rises, then over all contents of a window
the least score is the one with the window filled with 0, and the largest the one with it filled with ``top``:
both fillings are among the contents, and every content lies between them, cell by cell. So both bounds are
exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import torch
from torch import Tensor

from pglearn.errors import InputError
from pglearn.geometry import Windows

__all__ = ["DEFENSES", "Aggregate", "Defense", "Logits", "Sum", "WindowMask", "box_sums", "decimal"]

_LARGEST_SUM = 2**62
_FIRST_RIVALS = 16
_FIT_INT32 = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32)


def decimal(name: str, text: str | float) -> Fraction:
    """The number that was typed, exactly; ``InputError`` for anything else, NaN and infinity included."""
    typed = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", str(text), flags=re.ASCII)
    value = Decimal(str(text)) if typed else Decimal("nan")
    if not value.is_finite() or abs(value.adjusted()) > 60:
        raise InputError(f"{name}: is {text}, allowed: a decimal number")
    return Fraction(value)


@dataclass(frozen=True)
class Logits:
    """Local logits clipped to ``[0, clip_high]`` and rounded to multiples of ``step``, as part of the defense
    itself.

    ``units = rint(clip(x, 0, clip_high) / step)`` in float64, half to even; NaN becomes 0, plus and minus
    infinity the ends. Constants belong to the model (fixed on training data). Clipping: Section 3.4, with c_l
    = 0, c_h = ``clip_high``.
    """

    step: str = "0.0009765625"  # 2**-10
    clip_high: str = "64"

    def __post_init__(self) -> None:
        for name in ("step", "clip_high"):
            if decimal(name, getattr(self, name)) <= 0:
                raise InputError(f"{name}: is {getattr(self, name)}, allowed: above 0")
        units = float(self.clip_high) / float(self.step)
        if not 1 <= units <= 2**53:
            raise InputError(
                f"clip_high: {self.clip_high} at step {self.step} gives {units:.3g} units, allowed: 1 to 2^53"
            )

    @property
    def top(self) -> int:
        """The largest unit."""
        return round(float(self.clip_high) / float(self.step))

    def __call__(self, maps: Tensor) -> Tensor:
        """Raw evidence (N, C, H, W) of any real type -> units of the same shape: int32 where a map's sum
        fits, else int64.
        """
        cells = maps.shape[-2] * maps.shape[-1]
        kind = torch.int32 if self.top * cells < 2**31 else torch.int64
        if not maps.is_floating_point() and maps.dtype != torch.uint64 and float(self.step) == 1:
            wide = kind if maps.dtype in _FIT_INT32 else torch.int64
            return maps.to(wide).clamp(0, self.top).to(kind)
        return (
            (maps.double().nan_to_num(nan=0.0).clamp(0, float(self.clip_high)) / float(self.step))
            .round()
            .to(kind)
        )


def _slide(flat: Tensor, length: int, stride: int) -> Tensor:
    """Sums of ``length`` entries ``stride`` apart, starting at each entry of a flat tensor, by doubling;
    shorter at the end.
    """
    total, block, taken, size = flat, flat, 0, 1
    while True:
        if length & size:
            piece = block[taken * stride :]
            total = piece if taken == 0 else total[: len(piece)] + piece
            taken += size
        if taken == length:
            return total
        block = block[: len(block) - size * stride] + block[size * stride :]
        size *= 2


def box_sums(maps: Tensor, height: int, width: int) -> Tensor:
    """Sums over every ``height`` x ``width`` window: (..., H, W) -> (..., H - height + 1, W - width + 1)."""
    rows, columns = maps.shape[-2:]
    # On the flat tensor, sums that run over a row's end are wrong, and never read: no window starts there.
    sums = _slide(_slide(maps.contiguous().flatten(), width, 1), height, columns)
    whole = sums.new_empty(maps.numel())
    whole[: len(sums)] = sums
    return whole.view(maps.shape)[..., : rows - height + 1, : columns - width + 1]


def _wrapped(maps: Tensor, width: int, wrap: bool) -> Tensor:
    return torch.cat([maps, maps[..., : width - 1]], -1) if wrap and width < maps.shape[-1] else maps


def rectangles(
    windows: Windows, height: int, width: int, device: torch.device | None = None
) -> Iterator[Tensor]:
    """Each placement as a boolean map (H, W), row by row."""
    for row in windows.rows:
        for column in windows.columns:
            inside = torch.zeros(height, width, dtype=torch.bool, device=device)
            columns = torch.arange(column, column + windows.width, device=device) % width
            inside[row : row + windows.height, columns] = True
            yield inside


class Aggregate:
    """What turns units (N, C, H, W) into scores (N, C). A subclass gives ``scores``; if it is monotone, that
    is all it needs.
    """

    def scores(self, units: Tensor) -> Tensor:
        """Defended scores (N, C) int64 of units (N, C, H, W)."""
        raise NotImplementedError

    def bounds(self, units: Tensor, top: int, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest score (N, C) of each class over all contents of the cells ``inside`` (H, W): the
        theorem above.
        """
        units = _wide(units)
        return self.scores(units.masked_fill(inside, 0)), self.scores(units.masked_fill(inside, top))

    def margins(self, units: Tensor, labels: Tensor, top: int, windows: Windows, k: int = 1) -> Tensor:
        """Label's lower bound minus the k-th largest upper bound of the others, in units: (N, len(windows))
        int64.

        Here window by window from ``bounds``: slow, and the reference. A closed form that overrides it may
        leave out what cannot be an image's smallest margin: each entry at least the true one, the smallest
        exact.
        """
        images = torch.arange(len(units), device=units.device)
        margins = []
        for inside in rectangles(windows, units.shape[2], units.shape[3], units.device):
            lower, upper = self.bounds(units, top, inside)
            upper[images, labels] = -1
            margins.append(lower[images, labels] - _kth_largest(upper, k))
        return torch.stack(margins, 1)

    def outcome(self, units: Tensor, labels: Tensor | None, k: int = 1) -> tuple[Tensor, Tensor]:
        """(prediction, clean): the class with the largest score, the lowest of several; whether fewer than k
        classes other than the label (the prediction where ``labels`` is None) score at least as much as it.
        Each (N,).
        """
        return _outcome(self.scores(units), labels, k)

    def check(self, top: int, height: int, width: int, windows: Sequence[Windows]) -> None:
        """Raise ``InputError`` where this aggregate cannot certify such maps without error or overflow."""
        if top * height * width > _LARGEST_SUM:
            raise InputError(
                f"clip_high: {height}x{width} cells of {top} units could overflow, allowed: {_LARGEST_SUM}"
            )


def _outcome(scores: Tensor, labels: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    best = scores.amax(1, keepdim=True)
    classes = torch.arange(scores.shape[1], device=scores.device)
    prediction = classes.where(scores == best, scores.shape[1]).amin(1)
    target = prediction if labels is None else labels
    reached = (scores >= scores.gather(1, target[:, None])).sum(1)  # the target's own score among them
    return prediction, reached <= k


def _wide(units: Tensor) -> Tensor:
    """Units whose sums cannot overflow: int32 is only given where they fit (see ``Logits``)."""
    return units if units.dtype in (torch.int32, torch.int64) else units.to(torch.int64)


def cells_at_once(device: torch.device) -> int:
    """How many cells to work on together: few enough for a processor's cache, enough to fill a GPU."""
    return 2**19 if device.type == "cpu" else 2**26


def _split(images: Tensor, count: int, units: Tensor) -> tuple[Tensor, ...]:
    """Indices of images in parts whose ``count`` maps each stay in a processor's cache."""
    cells = count * units.shape[2] * units.shape[3]
    return images.split(max(1, cells_at_once(units.device) // cells))


def _kth_largest(scores: Tensor, k: int) -> Tensor:
    return scores.amax(1) if k == 1 else scores.topk(k, 1).values[:, k - 1]


class Sum(Aggregate):
    """The plain sum of a class's evidence; what an undefended bag of features does. Monotone."""

    def scores(self, units: Tensor) -> Tensor:
        """Sum of each map."""
        return units.flatten(2).sum(-1, dtype=torch.int64)


@dataclass(frozen=True)
class WindowMask(Aggregate):
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

    @property
    def _share(self) -> tuple[int, int]:
        return decimal("detection threshold", self.threshold).as_integer_ratio()

    def check(self, top: int, height: int, width: int, windows: Sequence[Windows]) -> None:
        """Also: the mask fits the map and covers each window, and the shares compared by cross-multiplication
        fit 64 bits.
        """
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
        if top * height * width * self._share[1] > _LARGEST_SUM:
            raise InputError(
                f"clip_high: {height}x{width} cells of {top} units, compared with T = {self.threshold}, "
                f"could overflow, allowed: {_LARGEST_SUM}"
            )

    def _mask_sums(self, units: Tensor) -> Tensor:
        maps = _wrapped(_wide(units), self.width, self.wrap)
        return box_sums(maps, self.height, self.width)  # (N, C, P, Q)

    def scores(self, units: Tensor) -> Tensor:
        """Sum of each map, less its heaviest window if that window's share exceeds T."""
        total = units.flatten(2).sum(-1, dtype=torch.int64)
        heaviest = self._mask_sums(units).flatten(2).amax(-1).long()
        part, whole = self._share
        return total - heaviest.where(heaviest * whole > total * part, 0)

    def outcome(self, units: Tensor, labels: Tensor | None, k: int = 1) -> tuple[Tensor, Tensor]:
        """As for any aggregate; of many classes, only those are masked whose whole sum could still matter."""
        units = _wide(units)
        count = max(k, _FIRST_RIVALS)
        if units.shape[1] <= 2 * count:
            return super().outcome(units, labels, k)
        totals = units.flatten(2).sum(-1, dtype=units.dtype)  # (N, C)
        scores = torch.full_like(totals, -1, dtype=torch.int64)
        todo = torch.arange(len(units), device=units.device)
        if labels is not None:
            scores[todo, labels] = self.scores(units[todo, labels][:, None])[:, 0]
        while len(todo):
            for part in _split(todo, count, units):
                leaders = totals[part].topk(count).indices
                scores[part[:, None], leaders] = self.scores(units[part[:, None], leaders])
            prediction, clean = _outcome(scores[todo], None if labels is None else labels[todo], k)
            target = prediction if labels is None else labels[todo].where(clean, prediction)
            matter = (totals[todo] >= scores[todo].gather(1, target[:, None])).sum(1)
            todo, matter = todo[matter > count], matter[matter > count]
            count = int(matter.amax()) if len(todo) else 0
        return _outcome(scores, labels, k)

    def bounds(self, units: Tensor, top: int, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (N, C) on each class's score over all contents of the window ``inside`` (H, W); exact at T =
        0.

        Write ``out`` for the evidence outside the window. *Upper* (Lemmas 1 and 2; ``rest``: what the
        heaviest mask v over the whole window leaves). If a mask m falls, it weighs no less than v, so the
        score is at most total - v = ``rest``. If none falls, v weighs at most T * total: total <= rest / (1 -
        T); and never more than out + top * cells.
        *Lower.* Whatever falls removes at most its own outside part, and the rest of the window only adds. A
        mask apart from the window falls only if its share of the total, thus of ``out``, exceeds T; then so
        does the heaviest outside part.
        """
        part, whole = self._share
        if part == 0:
            return super().bounds(units, top, inside)
        outside = units.masked_fill(inside, 0)
        out = outside.flatten(2).sum(-1, dtype=torch.int64)
        sums = self._mask_sums(outside).flatten(2).long()
        overlap = self._mask_sums(inside[None, None].to(torch.int32)).flatten()
        lured = sums[..., overlap > 0].amax(-1)
        heaviest = sums.amax(-1)
        lower = out - heaviest.where(heaviest * whole > out * part, lured)
        cells = int(inside.sum())
        rest = out - sums[..., overlap == cells].amax(-1)
        return lower, torch.minimum(rest * whole // (whole - part), out + top * cells)

    def margins(self, units: Tensor, labels: Tensor, top: int, windows: Windows, k: int = 1) -> Tensor:
        """The closed form of ``bounds`` for all windows at once (the generic loop where columns wrap)."""
        units = _wide(units)
        if self.wrap or windows.wrap:
            return super().margins(units, labels, top, windows, k)
        images = torch.arange(len(units), device=units.device)
        lower = self._lower(units[images, labels], windows)  # (N, R, Q)
        totals = units.flatten(2).sum(-1, dtype=units.dtype)  # (N, C)
        totals[images, labels] = -1
        count = max(k, _FIRST_RIVALS)
        if units.shape[1] <= 2 * count:  # few classes: all at once, without a copy
            return (lower - self._rival(units, totals, top, windows, k)).flatten(1).long()
        margins = torch.empty_like(lower, dtype=torch.int64)
        todo = images
        while len(todo):
            for part in _split(todo, count, units):
                weights, rivals = totals[part].topk(count)
                chosen = units[part[:, None], rivals]  # (n, count, H, W)
                margins[part] = (lower[part] - self._rival(chosen, weights, top, windows, k)).long()
            # A class lowers the smallest margin only if its bound passes `needed`, and no bound passes that
            # of its whole total.
            needed = lower[todo].flatten(1).amin(1) - margins[todo].flatten(1).amin(1)
            matter = (self._inflated(totals[todo]) > needed[:, None]).sum(1)
            todo, matter = todo[matter > count], matter[matter > count]
            count = int(matter.amax()) if len(todo) else 0
        return margins.flatten(1)

    def _inflated(self, rest: Tensor) -> Tensor:
        """rest / (1 - T), rounded down: scores are integers."""
        part, whole = self._share
        return rest.long() * whole // (whole - part) if part else rest

    def _lower(self, maps: Tensor, windows: Windows) -> Tensor:
        """Lower bounds (N, R, Q) of ``bounds`` for one class's maps (N, H, W)."""
        part, whole = self._share
        out = maps.flatten(1).sum(-1, dtype=maps.dtype)[:, None, None] - box_sums(
            maps, windows.height, windows.width
        )
        meeting, apart = _heaviest_outside(maps, windows, self.height, self.width)
        heaviest = torch.maximum(meeting, apart)
        if part:
            heaviest = heaviest.where(heaviest.long() * whole > out.long() * part, meeting)
        return _placed(out - heaviest, windows)

    def _rival(self, maps: Tensor, totals: Tensor, top: int, windows: Windows, k: int) -> Tensor:
        """k-th largest of the upper bounds (N, R, Q) of ``bounds`` among classes' maps (N, K, H, W).

        A label's own class is left out by giving its total as -1: its bound is then below 0.
        """
        part, _ = self._share
        out = totals[..., None, None] - box_sums(maps, windows.height, windows.width)  # (N, K, P, Q)
        filled = out + windows.height * windows.width * top
        if (windows.height, windows.width) == (
            self.height,
            self.width,
        ):  # its one covering mask leaves ``out``
            upper = torch.minimum(self._inflated(out), filled) if part else out
        elif part:
            held, _ = _heaviest_outside(maps.flatten(0, 1), windows, self.height, self.width, covering=True)
            upper = torch.minimum(self._inflated(out - held.view_as(out)), filled)
        else:
            held = torch.maximum(
                *_heaviest_outside(maps.flatten(0, 1), windows, self.height, self.width, top)
            )
            upper = filled - held.view_as(out)
        return _placed(_kth_largest(upper, k), windows)


def _placed(values: Tensor, windows: Windows) -> Tensor:
    """The entries of a map over all placements (..., P, Q) that belong to ``windows``."""
    for dim, kept in ((-2, windows.rows), (-1, windows.columns)):
        if kept != tuple(range(values.shape[dim])):
            values = values.index_select(dim, torch.tensor(kept, device=values.device))
    return values


def _heaviest_outside(
    maps: Tensor, windows: Windows, height: int, width: int, fill: int = 0, covering: bool = False
) -> tuple[Tensor, Tensor]:
    """What the heaviest mask holds outside each window: (those that meet the window, those apart from it),
    each (M, P, Q).

    ``maps`` (M, H, W); masks are ``height`` x ``width``. Each shared cell counts ``fill``. ``covering``: only
    masks over the whole window meet it. One pass a relative offset: with the maps last in memory, each is a
    few vector operations.
    """
    h, w = windows.height, windows.width
    sums = box_sums(maps, height, width).permute(1, 2, 0).contiguous()  # (P', Q', M)
    corners = sums.new_zeros(maps.shape[1] + 1, maps.shape[2] + 1, len(maps))
    corners[1:, 1:] = maps.permute(1, 2, 0).cumsum(0, dtype=maps.dtype).cumsum(1, dtype=maps.dtype)
    shape = (maps.shape[1] - h + 1, maps.shape[2] - w + 1, len(maps))
    meeting, apart = sums.new_zeros(shape), sums.new_zeros(shape)

    def shifts(
        window: int, mask: int, placements: int, masks: int
    ) -> Iterator[tuple[int, int, int, int, int]]:
        """Offset, first and stop of the windows whose mask at that offset exists, start and stop of what both
        cover.
        """
        for d in range(window - mask, 1) if covering else range(1 - mask, window):
            first, stop = max(0, -d), min(placements, masks - d)
            if first < stop:
                yield d, first, stop, max(0, d), min(window, d + mask)

    for dy, y0, y1, top, bottom in shifts(h, height, shape[0], sums.shape[0]):
        band = corners[y0 + bottom : y1 + bottom] - corners[y0 + top : y1 + top]
        for dx, x0, x1, left, right in shifts(w, width, shape[1], sums.shape[1]):
            held = sums[y0 + dy : y1 + dy, x0 + dx : x1 + dx] - band[:, x0 + right : x1 + right]
            held += band[:, x0 + left : x1 + left]
            if fill:
                held += fill * (bottom - top) * (right - left)
            best = meeting[y0:y1, x0:x1]
            torch.maximum(best, held, out=best)
    for dim, mask in ((0, height), (1, width)):
        count = shape[dim] - mask
        if count > 0:
            lines = sums.amax(1 - dim, keepdim=True)
            before = lines.cummax(dim).values.narrow(dim, 0, count)  # above, left
            after = lines.flip(dim).cummax(dim).values.narrow(dim, 0, count).flip(dim)  # below, right
            for best, found in (
                (apart.narrow(dim, mask, count), before),
                (apart.narrow(dim, 0, count), after),
            ):
                torch.maximum(best, found, out=best)
    return meeting.permute(2, 0, 1), apart.permute(2, 0, 1)


@dataclass(frozen=True)
class Defense:
    """A named pair: a transform of raw evidence and an aggregate of its units."""

    transform: Logits
    aggregate: Aggregate

    def scores(self, maps: Tensor) -> Tensor:
        """Defended scores (N, C) int64 of raw evidence (N, C, H, W): what the defended model says."""
        return self.aggregate.scores(self.transform(maps))


DEFENSES: dict[str, tuple[type[Logits], Callable[..., Aggregate]]] = {"mask": (Logits, WindowMask)}

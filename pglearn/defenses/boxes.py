"""Sums over windows, all placements at once, and what masks hold outside of windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from pglearn.geometry import Windows

__all__ = [
    "ascending",
    "box_sums",
    "cover",
    "heaviest_cells_outside",
    "heaviest_outside",
    "placed",
    "rectangles",
]


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


def box_sums(maps: Tensor, height: int, width: int, wrap: bool = False) -> Tensor:
    """Sums over every ``height`` x ``width`` window: (..., H, W) -> (..., H - height + 1, W - width + 1), or
    (..., H - height + 1, W) where columns ``wrap``.
    """
    if wrap:
        maps = torch.cat([maps, maps[..., : width - 1]], -1)
    rows, columns = maps.shape[-2:]
    # On the flat tensor, sums that run over a row's end are wrong, and never read: no window starts there.
    sums = _slide(_slide(maps.contiguous().flatten(), width, 1), height, columns)
    whole = sums.new_empty(maps.numel())
    whole[: len(sums)] = sums
    return whole.view(maps.shape)[..., : rows - height + 1, : columns - width + 1]


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


def placed(values: Tensor, windows: Windows) -> Tensor:
    """The entries of a map over all placements (..., P, Q) that belong to ``windows``."""
    for dim, kept in ((-2, windows.rows), (-1, windows.columns)):
        if kept != tuple(range(values.shape[dim])):
            values = values.index_select(dim, torch.tensor(kept, device=values.device))
    return values


def heaviest_outside(
    maps: Tensor, windows: Windows, height: int, width: int, fill: int = 0, only: Windows | None = None
) -> tuple[Tensor, Tensor]:
    """What the heaviest mask holds outside each window: (those that meet the window, those apart from it),
    each (M, P, Q).

    ``maps`` (M, H, W); masks ``height`` x ``width``. Each shared cell counts ``fill``. ``only``: masks
    at those placements (int64 maps). One pass a relative offset: with the maps last in memory, each is a few
    vector operations.
    """
    h, w = windows.height, windows.width
    sums = box_sums(maps, height, width).permute(1, 2, 0).contiguous()  # (P', Q', M)
    if only is not None:
        barred = torch.ones(sums.shape[:2], dtype=torch.bool, device=maps.device)
        rows, columns = (torch.tensor(each, device=maps.device) for each in (only.rows, only.columns))
        barred[rows[:, None], columns] = False
        sums[barred] = -(2**62)
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
        for d in range(1 - mask, window):
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


def ascending(maps: Tensor) -> Tensor:
    """The cells of each map in ascending order: (..., H, W) -> (..., H * W)."""
    cells = maps.flatten(-2)
    if cells.device.type != "cpu":
        return cells.sort(-1).values
    return torch.from_numpy(np.sort(cells.numpy(), -1))  # numpy sorts integers ten times as fast as torch


def heaviest_cells_outside(maps: Tensor, windows: Windows, count: int) -> Tensor:
    """Sum of the ``count`` heaviest cells outside each window: maps (M, H, W) -> (M, P, Q), all placements.

    A window hides at most its own size of the heaviest cells, so no others need to be looked at.
    """
    height, width = maps.shape[-2:]
    area = windows.height * windows.width
    rows = torch.arange(height - windows.height + 1, device=maps.device)
    places = width if windows.wrap else width - windows.width + 1
    columns = torch.arange(places, device=maps.device)
    count = min(count, height * width)
    values, cells = maps.flatten(1).topk(min(count + area, height * width))  # (M, K)
    below = (cells // width)[..., None] - rows  # (M, K, P)
    beside = (cells % width)[..., None] - columns  # (M, K, Q)
    if windows.wrap:
        beside = beside % width
    in_rows = (below >= 0) & (below < windows.height)
    in_columns = (beside >= 0) & (beside < windows.width)
    left = torch.full((len(maps), len(rows), len(columns)), count, dtype=torch.int32, device=maps.device)
    held = maps.new_zeros(left.shape)
    for i in range(values.shape[1]):
        taken = ~(in_rows[:, i, :, None] & in_columns[:, i, None, :]) & (left > 0)
        left.sub_(taken.to(left.dtype))
        held += taken * values[:, i, None, None]
    return held


def cover(weights: Tensor, windows: Sequence[Windows], patches: int) -> Tensor:
    """At least the weight of any union of ``patches`` windows, each one of ``windows``: (M, H, W) -> (M,).

    Exact for two patches. Of more, without their negative cells, each cell is in at least P - 1 of the
    P (P - 1) / 2 pairs of windows, so they weigh at most P / 2 of the heaviest pair; and no union holds more
    than the heaviest cells, as many as the largest windows have.
    """
    area = max(window.height * window.width for window in windows)
    cells = weights.clamp(min=0).flatten(1).topk(min(patches * area, weights[0].numel())).values.sum(1)
    if patches > 2:
        weights = weights.clamp(min=0)
    pairs = combinations_with_replacement(windows, 2)
    pair = torch.stack([_pair(weights, *each) for each in pairs]).amax(0)
    return (patches * pair // 2).minimum(cells)


def _sums(weights: Tensor, windows: Windows) -> Tensor:
    """Sums over the ``windows``: (M, H, W) -> (M, rows, columns)."""
    return placed(box_sums(weights, windows.height, windows.width, windows.wrap), windows)


def _pair(weights: Tensor, first: Windows, second: Windows) -> Tensor:
    """Weight of the heaviest union of two windows (M,)."""
    if not (first.wrap or second.wrap):
        more = torch.maximum(*heaviest_outside(weights, first, second.height, second.width, only=second))
        return (_sums(weights, first) + placed(more, first)).flatten(1).amax(1)
    best = []
    for inside in rectangles(first, weights.shape[1], weights.shape[2], weights.device):
        rest = _sums(weights.masked_fill(inside, 0), second).flatten(1).amax(1)
        best.append((weights * inside).flatten(1).sum(1) + rest.clamp(min=0))
    return torch.stack(best).amax(0)

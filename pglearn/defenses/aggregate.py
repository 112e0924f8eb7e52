"""Aggregates: what turns each class's map of units into its score.

**Theorem.** If a class's score never falls when one of its cells rises, then over all contents of a set of
cells the least score is the one with the set filled with 0, and the largest the one with it filled with
``top``: both fillings are among the contents, and every content lies between them, cell by cell. So both
bounds are exact, for one window and for any union of windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from pglearn.defenses.boxes import box_sums, cover, placed, rectangles
from pglearn.errors import InputError
from pglearn.geometry import Windows

__all__ = [
    "LARGEST_SUM",
    "Aggregate",
    "ClosedForm",
    "Sum",
    "cells_at_once",
    "kth_largest",
    "kth_smallest_other",
    "label_maps",
    "outside",
    "wide",
]

LARGEST_SUM = 2**62
_FIRST_RIVALS = 16
_MOST_UNIONS = 2**18


class Aggregate:
    """What turns units (N, C, H, W) into scores (N, C). A subclass gives ``scores``; if it is monotone, that
    is all it needs.
    """

    def scores(self, units: Tensor) -> Tensor:
        """Defended scores (N, C) int64 of units (N, C, H, W)."""
        raise NotImplementedError

    def soft(self, values: Tensor) -> Tensor:
        """For attackers: scores (N, C) of real ``values`` (N, C, H, W), differentiable.

        Here the plain sum, which a score that rises with its cells follows. It steers an attack; whether the
        attack won, ``scores`` says.
        """
        return values.flatten(2).sum(-1)

    def bounds(self, units: Tensor, top: int, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest score (N, C) of each class over all contents of the cells ``inside`` (H, W): the
        theorem above.
        """
        units = wide(units)
        return self.scores(units.masked_fill(inside, 0)), self.scores(units.masked_fill(inside, top))

    def margins(self, units: Tensor, labels: Tensor, top: int, windows: Windows, k: int = 1) -> Tensor:
        """Label's lower bound minus the k-th largest upper bound of the others, in units: (N, len(windows))
        int64.

        Here window by window from ``bounds``: slow, and the reference. A closed form that overrides it may
        leave out what cannot be an image's smallest margin: each entry at least the true one, the smallest
        exact.
        """
        places = rectangles(windows, units.shape[2], units.shape[3], units.device)
        return torch.stack([self._margin(units, labels, top, inside, k) for inside in places], 1)

    def _margin(self, units: Tensor, labels: Tensor, top: int, inside: Tensor, k: int) -> Tensor:
        images = torch.arange(len(units), device=units.device)
        lower, upper = self.bounds(units, top, inside)
        upper[images, labels] = -1
        return lower[images, labels] - kth_largest(upper, k)

    def margin_of_many(
        self, units: Tensor, labels: Tensor, top: int, windows: Sequence[Windows], k: int, patches: int
    ) -> Tensor:
        """At most the smallest margin (N,) over all unions of ``patches`` windows, each one of ``windows``.

        Here exact: every union through ``bounds``. ``InputError`` where there are too many to try.
        """
        height, width = units.shape[2:]
        places = [inside for window in windows for inside in rectangles(window, height, width, units.device)]
        if (unions := comb(len(places), min(patches, len(places)))) > _MOST_UNIONS:
            raise InputError(f"patches: {patches} patches make {unions} unions, allowed: {_MOST_UNIONS}")
        chosen = combinations(places, min(patches, len(places)))
        margins = [self._margin(units, labels, top, torch.stack(each).any(0), k) for each in chosen]
        return torch.stack(margins, 1).amin(1)

    def outcome(self, units: Tensor, labels: Tensor | None, k: int = 1) -> tuple[Tensor, Tensor]:
        """(prediction, clean): the class with the largest score, the lowest of several; whether fewer than k
        classes other than the label (the prediction where ``labels`` is None) score at least as much as it.
        Each (N,).
        """
        return _outcome(self.scores(units), labels, k)

    def check(self, top: int, height: int, width: int, windows: Sequence[Windows], patches: int = 1) -> None:
        """Raise ``InputError`` where this aggregate cannot certify such maps without error or overflow."""
        cells = height * width
        if top * cells * (4 * min(patches, cells) if patches > 1 else 1) > LARGEST_SUM:
            raise InputError(
                f"clip_high: {height}x{width} cells of {top} units could overflow, allowed: {LARGEST_SUM}"
            )


def _outcome(scores: Tensor, labels: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    best = scores.amax(1, keepdim=True)
    classes = torch.arange(scores.shape[1], device=scores.device)
    prediction = classes.where(scores == best, scores.shape[1]).amin(1)
    target = prediction if labels is None else labels
    reached = (scores >= scores.gather(1, target[:, None])).sum(1)  # the target's own score among them
    return prediction, reached <= k


def wide(units: Tensor) -> Tensor:
    """Units whose sums cannot overflow: int32 is only given where they fit (see ``Transform``)."""
    return units if units.dtype in (torch.int32, torch.int64) else units.to(torch.int64)


def cells_at_once(device: torch.device) -> int:
    """How many cells to work on together: few enough for a processor's cache, enough to fill a GPU."""
    return 2**19 if device.type == "cpu" else 2**26


def _split(images: Tensor, count: int, units: Tensor) -> tuple[Tensor, ...]:
    """Indices of images in parts whose ``count`` maps each stay in a processor's cache."""
    cells = count * units.shape[2] * units.shape[3]
    return images.split(max(1, cells_at_once(units.device) // cells))


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """The k-th largest over classes: (N, C, ...) -> (N, ...)."""
    return scores.amax(1) if k == 1 else scores.topk(k, 1).values[:, k - 1]


def label_maps(units: Tensor, labels: Tensor) -> Tensor:
    """Each image's map (or anything else by class) of its label: (N, C, ...) -> (N, 1, ...)."""
    return units[torch.arange(len(units), device=units.device), labels][:, None]


def kth_smallest_other(gaps: Tensor, labels: Tensor, k: int) -> Tensor:
    """The k-th smallest (N,) of (N, C) but for the label's own entry."""
    others = gaps.scatter(1, labels[:, None], torch.iinfo(gaps.dtype).max)
    return others.kthvalue(k, 1).values


def outside(maps: Tensor, windows: Windows, totals: Tensor | None = None) -> Tensor:
    """Sums outside each placement of a window: maps (..., H, W) with sums ``totals`` -> (..., P, Q)."""
    if totals is None:
        totals = maps.flatten(-2).sum(-1, dtype=maps.dtype)
    sums = box_sums(maps, windows.height, windows.width, windows.wrap)
    return totals[..., None, None] - sums


class ClosedForm(Aggregate):
    """A monotone aggregate that never adds to a class's sum, with bounds in closed form for all placements at
    once.

    A subclass gives ``lower`` and ``upper``. Of many classes only those are looked at whose sum could matter.
    """

    def lower(self, maps: Tensor, top: int, windows: Windows) -> Tensor:
        """Lower bounds (N, P, Q) of the label's maps (N, H, W), over all placements of the window's shape.

        What is the same for all classes may be left out, here and in ``upper``: only differences are used.
        """
        raise NotImplementedError

    def upper(self, maps: Tensor, totals: Tensor, top: int, windows: Windows) -> Tensor:
        """Upper bounds (N, K, P, Q) of maps (N, K, H, W) with sums ``totals`` (N, K).

        A label's own class is left out by giving its total as -1: its bound is then below 0, and no other is.
        """
        raise NotImplementedError

    def ceiling(self, totals: Tensor) -> Tensor:
        """What no upper bound of a class with such a sum exceeds."""
        return totals

    def outcome(self, units: Tensor, labels: Tensor | None, k: int = 1) -> tuple[Tensor, Tensor]:
        """As for any aggregate; of many classes, only those are masked whose whole sum could still matter."""
        units = wide(units)
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

    def margins(self, units: Tensor, labels: Tensor, top: int, windows: Windows, k: int = 1) -> Tensor:
        """The closed form of ``bounds`` for all windows at once."""
        units = wide(units)
        images = torch.arange(len(units), device=units.device)
        lower = placed(self.lower(units[images, labels], top, windows), windows)  # (N, R, Q)
        totals = units.flatten(2).sum(-1, dtype=units.dtype)  # (N, C)
        totals[images, labels] = -1
        count = max(k, _FIRST_RIVALS)
        if units.shape[1] <= 2 * count:  # few classes: all at once, without a copy
            upper = placed(kth_largest(self.upper(units, totals, top, windows), k), windows)
            return (lower - upper).flatten(1).long()
        margins = torch.empty_like(lower, dtype=torch.int64)
        todo = images
        while len(todo):
            for part in _split(todo, count, units):
                weights, rivals = totals[part].topk(count)
                chosen = units[part[:, None], rivals]  # (n, count, H, W)
                upper = placed(kth_largest(self.upper(chosen, weights, top, windows), k), windows)
                margins[part] = lower[part].long() - upper
            # A class lowers the smallest margin only if its bound passes `needed`, and no bound passes that
            # of its whole total.
            needed = lower[todo].flatten(1).amin(1) - margins[todo].flatten(1).amin(1)
            matter = (self.ceiling(totals[todo]) > needed[:, None]).sum(1)
            todo, matter = todo[matter > count], matter[matter > count]
            count = int(matter.amax()) if len(todo) else 0
        return margins.flatten(1)


class Sum(ClosedForm):
    """The plain sum of a class's evidence: clipped BagNet over ``Tanh``, de-randomized smoothing over
    ``Prediction`` (votes).

    Monotone. A window takes what the label has in it and gives every rival ``top`` a cell, so the bounds are
    ``out`` and ``out + cells * top``, exact in *all* classes at once; a rival far behind the runner-up can
    gain more. The 2 * Delta bound of smoothing (Levine & Feizi 2020, Theorem 1) is this with each window full
    of the label's votes and empty of the rival's: never better.
    """

    outcome = Aggregate.outcome  # scores are sums already

    def scores(self, units: Tensor) -> Tensor:
        """Sum of each map."""
        cells = wide(units).flatten(2)
        return cells.sum(-1, dtype=cells.dtype).long()

    def lower(self, maps: Tensor, top: int, windows: Windows) -> Tensor:
        """Evidence outside the window, less the ``cells * top`` that ``upper`` leaves out."""
        return outside(maps, windows).long() - windows.height * windows.width * top

    def upper(self, maps: Tensor, totals: Tensor, top: int, windows: Windows) -> Tensor:
        """Evidence outside the window."""
        return outside(maps, windows, totals)

    def margin_of_many(
        self, units: Tensor, labels: Tensor, top: int, windows: Sequence[Windows], k: int, patches: int
    ) -> Tensor:
        """Cell by cell a rival gains ``top - rival + label`` on the label: a union's weight, see ``cover``.

        So exact where ``cover`` is and k = 1; for k > 1 each rival may have a union of its own.
        """
        units = units.long()
        label = label_maps(units, labels)
        gaps = label.flatten(2).sum(-1) - units.flatten(2).sum(-1)  # (N, C)
        gaps -= cover((top + label - units).flatten(0, 1), windows, patches).view_as(gaps)
        return kth_smallest_other(gaps, labels, k)

"""Transforms: raw local evidence becomes integers ``0 .. top``, as part of the defense itself.

All work in float64, cell by cell, and round half to even. NaN becomes the range's bottom, plus and minus
infinity its ends. An attacker may write any of ``0 .. top`` into a cell, in every class independently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

import torch
from torch import Tensor

from pglearn.errors import InputError

__all__ = ["TRANSFORMS", "Confidence", "Logits", "Prediction", "Tanh", "Transform", "decimal", "whole_steps"]

_FIT_INT32 = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32)


def decimal(name: str, text: str | float) -> Fraction:
    """The number that was typed, exactly; ``InputError`` for anything else, NaN and infinity included."""
    typed = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", str(text), flags=re.ASCII)
    value = Decimal(str(text)) if typed else Decimal("nan")
    if not value.is_finite() or abs(value.adjusted()) > 60:
        raise InputError(f"{name}: is {text}, allowed: a decimal number")
    return Fraction(value)


def whole_steps(values: Tensor, step: str) -> Tensor:
    """``rint(values / step)``, float64 of the same shape, the same on every device: the quotient is rounded
    once. ``step`` is a typed decimal; NaN and infinity stay.
    """
    # By a plain number CUDA multiplies with the inverse instead, and may round to another integer.
    return (values.double() / values.new_tensor(float(step), dtype=torch.float64)).round()


def _straight_through(values: Tensor, slopes: Tensor) -> Tensor:
    """``values``, with the gradient of ``slopes``."""
    return values.detach() + (slopes - slopes.detach())


@dataclass(frozen=True)
class Transform:
    """Base: ``step`` is the evidence of one unit, a typed decimal; ``top`` the largest unit."""

    step: str = "0.0009765625"  # 2**-10

    @property
    def highest(self) -> str:
        """Width of the transformed range, a typed decimal."""
        return "1"

    def __post_init__(self) -> None:
        for name, text in {
            "step": self.step,
            "clip_high": self.highest,
            "unit": getattr(self, "unit", "1"),
        }.items():
            if decimal(name, text) <= 0:
                raise InputError(f"{name}: is {text}, allowed: above 0")
        units = float(self.highest) / float(self.step)
        if not 1 <= units <= 2**53:
            where = f"clip_high: {self.highest} at step {self.step}"
            if not hasattr(self, "clip_high"):
                where = f"step: {self.step} of a range of {self.highest}"
            raise InputError(f"{where} gives {units:.3g} units, allowed: 1 to 2^53")

    @property
    def top(self) -> int:
        """The largest unit."""
        return round(float(self.highest) / float(self.step))

    def __call__(self, maps: Tensor) -> Tensor:
        """Raw evidence (N, C, H, W) of any real type -> units of the same shape: int32 where a map's sum
        fits, else int64.
        """
        return self._units(maps).to(self._kind(maps)).clamp_(0, self.top)  # whatever a device rounds to

    def soft(self, maps: Tensor) -> Tensor:
        """For attackers: units of ``maps`` (N, C, H, W) as shares of ``top``, differentiable.

        Here the units themselves, with the gradient of the maps (straight-through).
        """
        shares = (self._units(maps.detach()) / self.top).to(maps.dtype)
        return _straight_through(shares, maps)

    def _units(self, maps: Tensor) -> Tensor:
        raise NotImplementedError

    def _kind(self, maps: Tensor) -> torch.dtype:
        return torch.int32 if self.top * maps.shape[-2] * maps.shape[-1] < 2**31 else torch.int64


@dataclass(frozen=True)
class Logits(Transform):
    """Local logits clipped to ``[0, clip_high]``: ``rint(clip(x) / step)``.

    Constants belong to the model (fixed on training data). Section 3.4, with c_l = 0, c_h = ``clip_high``.
    """

    clip_high: str = "64"

    @property
    def highest(self) -> str:
        """``clip_high``."""
        return self.clip_high

    def _units(self, maps: Tensor) -> Tensor:
        if not maps.is_floating_point() and maps.dtype != torch.uint64 and float(self.step) == 1:
            wide = self._kind(maps) if maps.dtype in _FIT_INT32 else torch.int64
            return maps.to(wide).clamp(0, self.top)
        clipped = maps.double().nan_to_num(nan=0.0).clamp(0, float(self.clip_high))
        return whole_steps(clipped, self.step)

    def soft(self, maps: Tensor) -> Tensor:
        """Clipped, not rounded; the gradient is that before clipping, or a clipped cell had none."""
        shares = maps / float(self.clip_high)
        return _straight_through(shares.clamp(0, 1), shares)


def _confidence(maps: Tensor, unit: str) -> Tensor:
    """Softmax over classes (N, C, H, W) of ``maps`` times ``unit``, in float64."""
    logits = (maps.double() * float(unit)).nan_to_num(
        nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf
    )  # no other class is disturbed
    peak = logits.amax(1, keepdim=True)
    return torch.where(peak.isinf(), (logits == torch.inf).double(), logits.softmax(1))


@dataclass(frozen=True)
class Confidence(Transform):
    """Softmax over classes at each position: ``rint(softmax(x * unit) / step)``, of ``[0, 1]``.

    ``unit``: evidence of one stored number, where a file holds fixed point. Section 3.4's feature type
    *confidence*; over the features of de-randomized smoothing this makes Mask-DS.
    """

    unit: str = "1"

    def _units(self, maps: Tensor) -> Tensor:
        return whole_steps(_confidence(maps, self.unit), self.step)

    def soft(self, maps: Tensor) -> Tensor:
        """The softmax."""
        return (maps * float(self.unit)).softmax(1)


@dataclass(frozen=True)
class Prediction(Transform):
    """Votes: 1 for each class whose confidence is at least ``vote_threshold`` (in (0, 1]), else 0.

    De-randomized smoothing counts these (Levine & Feizi 2020), with 0.2 for a threshold; PatchGuard's feature
    type *prediction*.
    """

    step: str = field(default="1", init=False)
    vote_threshold: str = "0.2"
    unit: str = "1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < decimal("vote_threshold", self.vote_threshold) <= 1:
            raise InputError(f"vote_threshold: is {self.vote_threshold}, allowed: above 0, at most 1")

    def _units(self, maps: Tensor) -> Tensor:
        return _confidence(maps, self.unit) >= float(self.vote_threshold)

    def soft(self, maps: Tensor) -> Tensor:
        """A vote is a step and has no gradient: a sigmoid in its place, 0.05 of confidence wide."""
        return (((maps * float(self.unit)).softmax(1) - float(self.vote_threshold)) / 0.05).sigmoid()


@dataclass(frozen=True)
class Tanh(Transform):
    """Clipped BagNet (Zhang et al. 2020): ``rint(tanh(0.05 * x * unit - 1) / step)``, counted from the
    bottom, -1, of ``[-1, 1]``.

    Counting from -1 adds the same to every cell of every class: no comparison of sums, or of sums behind
    masks at T = 0, changes.
    """

    unit: str = "1"

    @property
    def top(self) -> int:
        """The largest unit."""
        return 2 * super().top

    def _units(self, maps: Tensor) -> Tensor:
        squashed = (0.05 * (maps.double() * float(self.unit)) - 1).tanh().nan_to_num(nan=-1.0)
        return whole_steps(squashed, self.step) + self.top // 2

    def soft(self, maps: Tensor) -> Tensor:
        """The tanh, counted from its bottom."""
        return ((0.05 * float(self.unit) * maps - 1).tanh() + 1) / 2


TRANSFORMS: dict[str, type[Transform]] = {
    "logits": Logits,
    "confidence": Confidence,
    "prediction": Prediction,
    "tanh": Tanh,
}

"""Defenses: a transform that bounds local evidence, and an aggregate that turns each class's map into its
score.

From here on everything is an integer. ``DEFENSES`` names the pairs; each pair of a transform and an aggregate
is a defense.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from torch import Tensor

from pglearn.defenses.aggregate import Aggregate, ClosedForm, Sum, cells_at_once
from pglearn.defenses.boxes import box_sums, rectangles
from pglearn.defenses.masks import TopMask, WindowMask
from pglearn.defenses.transforms import (
    TRANSFORMS,
    Confidence,
    Logits,
    Prediction,
    Tanh,
    Transform,
    decimal,
    whole_steps,
)
from pglearn.errors import InputError
from pglearn.evidence import Evidence, EvidenceFile
from pglearn.geometry import Windows

__all__ = [
    "DEFENSES",
    "TRANSFORMS",
    "Aggregate",
    "ClosedForm",
    "Confidence",
    "Defense",
    "Logits",
    "Prediction",
    "Sum",
    "Tanh",
    "TopMask",
    "Transform",
    "WindowMask",
    "box_sums",
    "cells_at_once",
    "decimal",
    "make_defense",
    "rectangles",
    "whole_steps",
]


@dataclass(frozen=True)
class Defense:
    """A pair: a transform of raw evidence and an aggregate of its units."""

    transform: Transform
    aggregate: Aggregate

    def scores(self, maps: Tensor) -> Tensor:
        """Defended scores (N, C) int64 of raw evidence (N, C, H, W): what the defended model says.

        Sums of more than 2^62 units, which ``certify`` refuses, overflow.
        """
        return self.aggregate.scores(self.transform(maps))


DEFENSES: dict[str, tuple[str, Callable[..., Aggregate]]] = {
    "mask": ("logits", WindowMask.against),
    "features": ("logits", TopMask.against),
    "clip": ("tanh", Sum),
    "vote": ("prediction", Sum),
}
"""Name -> (transform, what builds the aggregate). The builder takes by name what it needs of the threat
(``windows``, ``patches``, ``wrap``) and the options that the defense has."""


def make_defense(
    name: str,
    windows: Sequence[Windows],
    patches: int = 1,
    transform: str | None = None,
    source: Evidence | EvidenceFile | None = None,
    **options: Any,
) -> Defense:
    """The defense of that name against ``patches`` of ``windows``, its transform replaced where one is named.

    ``options``: fields of the transform (``step``, ``clip_high``, ``vote_threshold``, ``unit``) and
    parameters of the aggregate (``mask``, ``detection_threshold``); None counts as not given. Constants that
    are not given come from ``source``, or else are the documented ones. Raises ``InputError`` for an unknown
    name and for an option that this defense does not use.
    """
    for what, choice, known in (("defense", name, DEFENSES), ("transform", transform, TRANSFORMS)):
        if choice is not None and choice not in known:
            raise InputError(f"{what}: is {choice}, allowed: {', '.join(known)}")
    if patches < 1:
        raise InputError(f"patches: is {patches}, allowed: 1 or more")
    usual, build = DEFENSES[name]
    kind = TRANSFORMS[transform or usual]
    constants = {field.name for field in fields(kind) if field.init}
    takes = set(inspect.signature(build).parameters)
    wrap = any(window.wrap for window in windows) or (source is not None and source.wrap)
    threat = {"windows": windows, "patches": patches, "wrap": wrap}
    used = constants | (takes - threat.keys())
    typed = {option: value for option, value in options.items() if value is not None}
    if unused := sorted(typed.keys() - used):
        raise InputError(
            f"{unused[0].replace('_', '-')}: not used by {name} over {transform or usual}, "
            f"allowed: {', '.join(sorted(used))}"
        )
    carried: dict[str, Any] = {}
    if source is not None:
        carried = {"step": source.step, "clip_high": source.clip_high, "unit": source.unit}
        if kind is not Logits and source.step and source.unit:  # no longer counted in stored numbers
            for constant in ("step", "unit"):
                decimal(constant, carried[constant])
            carried["step"] = str(Decimal(source.step) * Decimal(source.unit))
    values = {option: value for option, value in carried.items() if value is not None} | typed
    return Defense(
        kind(**{option: str(values[option]) for option in constants & values.keys()}),
        build(**{option: value for option, value in (threat | typed).items() if option in takes}),
    )

"""What all explorers share: Python computes and describes a picture, one script draws it.

An explorer is a class derived from :class:`Explorer`. It has

- its state as synced traits (``patch = Int(4).tag(sync=True)``); ``explorer.patch = 7`` in a cell works too;
- ``settle()``: puts right a state that does not fit (a patch over the border); called before each drawing;
- ``controls()``: a list of :func:`slider`, :func:`number`, :func:`choice`, :func:`button`, named like traits;
- ``panels()``: a list of :class:`Panel`, each a canvas; side by side where there is room, else stacked;
- ``summary()``: the numbers in a sentence or two: shown, read aloud when they change, read by tests;
- ``alt()``: what the still picture shows, for who cannot see it;
- ``hint``: how to use it, by pointer and by keys, in a sentence;
- ``press(panel, x, y)``, ``drag(panel, x, y)``, ``key(panel, key, shift)``, ``push(name)``, as needed: what
  the pointer going down, moving while down (in pixels of the panel), a key and a button do to the state.

Pictures are drawn in Python's words (``panel.rect(...)``), with colors by name (``COLORS``). `explorer.js`
repeats them on a canvas, in the light or dark theme; Matplotlib repeats them in the still picture that is
shown where no kernel runs. Every event comes as a message and is answered with one new ``picture``; of drags
that wait for an answer only the last is sent.
"""

from __future__ import annotations

import gc
import io
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
from torch import Tensor
from traitlets import All, Dict, observe

from pglearn.figures import MALICIOUS, MASK, OTHER, TRUE, WRONG, ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ARROWS", "COLORS", "Explorer", "Panel", "button", "choice", "number", "slider"]

gc.freeze()  # or a full collection, which walks all that PyTorch holds, stops a drag for 150 ms

COLORS = {
    "true": TRUE,
    "wrong": WRONG,
    "mask": MASK,
    "malicious": MALICIOUS,
    "other": OTHER,
    "ink": "#212121",
    "muted": "#6b6b6b",
    "line": "#c4c4c4",
    "paper": "#ffffff",
}
"""Colors of pictures by name. The script takes ink and paper from the theme; in a dark one it lightens the
others."""

ARROWS = {"ArrowUp": (-1, 0), "ArrowDown": (1, 0), "ArrowLeft": (0, -1), "ArrowRight": (0, 1)}
"""Arrow keys and the steps (rows, columns) that they mean."""


class Panel:
    """One canvas of ``width`` x ``height`` pixels, (0, 0) at its upper left; marks are drawn in order.

    ``label`` names it for screen readers. With ``keys``, as browsers call them, it takes the focus, those
    keys, and the pointer. Colors are names in ``COLORS``.
    """

    def __init__(self, width: float, height: float, label: str, keys: Iterable[str] = ()) -> None:
        self.width, self.height = width, height
        self.marks: list[dict[str, Any]] = []
        self.about = {
            "width": width, "height": height, "label": label, "keys": list(keys), "marks": self.marks
        }  # fmt: skip

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str = "",
        stroke: str = "",
        line: float = 1,
        dash: bool = False,
        hatch: bool = False,
        alpha: float = 1,
    ) -> None:
        """A rectangle; ``alpha`` is that of the fill, ``hatch`` adds diagonals in the stroke's color."""
        self._mark("rect", locals())

    def line(
        self, points: Sequence[tuple[float, float]], stroke: str = "ink", line: float = 1, dash: bool = False
    ) -> None:
        """A line through points (x, y)."""
        self._mark("line", locals())

    def dot(self, x: float, y: float, radius: float, fill: str = "ink") -> None:
        """A disc around (x, y)."""
        self._mark("dot", locals())

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 13,
        color: str = "ink",
        align: str = "center",
        bold: bool = False,
    ) -> None:
        """A line of text with its middle at height y; ``align``: x is its "left", "center" or "right"."""
        self._mark("text", locals())

    def cells(
        self,
        x: float,
        y: float,
        size: float,
        values: Sequence[Sequence[float]],
        color: str,
        texts: Sequence[Sequence[str]] = (),
    ) -> None:
        """Square cells of ``size`` pixels, shaded from 0 (paper) to 1 (``color``), with a text in each."""
        self._mark("cells", locals())

    def image(self, x: float, y: float, width: float, height: float, pixels: Tensor) -> None:
        """A picture (3, H, W) uint8, its pixels enlarged as squares."""
        data = b64encode(pixels.permute(1, 2, 0).contiguous().numpy().tobytes()).decode()
        _, rows, columns = pixels.shape
        del pixels
        self._mark("image", locals())

    def _mark(self, kind: str, what: dict[str, Any]) -> None:
        self.marks.append({"kind": kind, **{key: value for key, value in what.items() if key != "self"}})


def slider(name: str, label: str, low: int, high: int, text: str = "") -> dict[str, Any]:
    """A slider for an integer trait; ``text``: what is shown for its value, the number itself if empty."""
    return {"kind": "range", "name": name, "label": label, "low": low, "high": high, "text": text}


def number(name: str, label: str, low: int, high: int, group: str = "") -> dict[str, Any]:
    """A small field for an integer; those of a ``group`` stand together under its name."""
    return {"kind": "number", "name": name, "label": label, "low": low, "high": high, "group": group}


def choice(name: str, label: str, options: Sequence[str]) -> dict[str, Any]:
    """A menu for a trait that holds one of the ``options``."""
    return {"kind": "choice", "name": name, "label": label, "options": list(options)}


def button(name: str, label: str) -> dict[str, Any]:
    """A button: calls ``push(name)``."""
    return {"kind": "button", "name": name, "label": label}


class Explorer(anywidget.AnyWidget):
    """Base of all explorers; see the head of this file."""

    _esm = Path(__file__).with_name("explorer.js")
    _css = Path(__file__).with_name("explorer.css")
    picture = Dict().tag(sync=True)
    hint = ""

    def __init__(self, **state: Any) -> None:
        self._answers, self._busy, self._good = 0, True, dict[str, Any]()
        super().__init__(**state)
        self.on_msg(self._answer)
        self._busy = False
        self._redraw()

    def settle(self) -> None:
        """Put right a state that does not fit."""

    def controls(self) -> list[dict[str, Any]]:
        """The controls above the picture, each named like the trait that it changes."""
        return []

    def panels(self) -> list[Panel]:
        """The picture of the state."""
        raise NotImplementedError

    def summary(self) -> str:
        """The numbers of the state in a sentence or two."""
        raise NotImplementedError

    def alt(self) -> str:
        """What the still picture shows."""
        raise NotImplementedError

    def press(self, panel: int, x: float, y: float) -> None:
        """The pointer went down on a panel."""

    def drag(self, panel: int, x: float, y: float) -> None:
        """The pointer moved while it is down."""

    def key(self, panel: int, key: str, shift: bool) -> None:
        """One of a panel's keys was pressed."""

    def push(self, name: str) -> None:
        """A button was pushed."""

    def change(self, name: str, value: Any) -> None:
        """A control was moved."""
        setattr(self, name, value)

    def value(self, name: str) -> Any:
        """What a control shows; for buttons, nothing."""
        return getattr(self, name, "")

    def _answer(self, _: Any, event: dict[str, Any], __: Any) -> None:
        if event["what"] not in ("press", "drag", "key", "push", "change"):
            return
        self._busy = True  # one picture for all that the event changes
        try:
            getattr(self, event["what"])(*event["arguments"])
        finally:
            self._busy = False
            self._redraw()

    @observe(All)
    def _changed(self, change: Any) -> None:
        if not self._busy and self.trait_metadata(change.name, "sync") and not change.name.startswith("_"):
            self._redraw()

    def _redraw(self) -> None:
        """Draw the state, or go back to the last one that could be drawn, and raise."""
        self._busy = True
        try:
            with self.hold_sync():
                self.settle()
                self._answers += 1  # so that each event changes the picture, and is answered
                self.picture = {
                    "number": self._answers,
                    "colors": COLORS,
                    "controls": [
                        control | {"value": self.value(control["name"])} for control in self.controls()
                    ],
                    "panels": [panel.about for panel in self.panels()],
                    "summary": self.summary(),
                    "hint": self.hint,
                }
                own = set(self.trait_names(sync=True)) - set(Explorer.class_trait_names())
                self._good = {name: getattr(self, name) for name in own}
        except Exception:
            for name, value in self._good.items():
                setattr(self, name, value)
            raise
        finally:
            self._busy = False

    def still(self) -> bytes:
        """The picture as a PNG, panels side by side, in the colors of the light theme."""
        from matplotlib.figure import Figure

        panels, gap = self.panels(), 24
        width = sum(panel.width for panel in panels) + gap * (len(panels) + 1)
        height = max(panel.height for panel in panels) + 2 * gap
        figure, left = Figure(figsize=(width / 96, height / 96), dpi=110), gap
        for panel in panels:
            place = left, height - gap - panel.height, panel.width, panel.height
            axes = figure.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height))
            axes.axis("off")
            for order, mark in enumerate(panel.marks):
                _DRAW[mark["kind"]](axes, {**mark, "zorder": order})
            axes.set(xlim=(0, panel.width), ylim=(panel.height, 0))
            left += int(panel.width) + gap
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widget for a live notebook; the still picture and its alt text for every other reader."""
        data, about = super()._repr_mimebundle_(**options) or ({}, {})
        still = {"image/png": self.still(), "text/plain": self.alt()}
        return {**data, **still}, {**about, "image/png": {"alt": self.alt()}}


# ----------------------------------------------------------------------- the marks of the still picture
_POINTS = 72 / 96
"""Points in a pixel of a panel."""


def _shade(value: float, color: str) -> tuple[float, float, float]:
    red, green, blue = (
        1 + (int(COLORS[color][i : i + 2], 16) / 255 - 1) * min(max(value, 0), 1) for i in (1, 3, 5)
    )
    return red, green, blue


def _stroke(mark: dict[str, Any]) -> dict[str, Any]:
    return {
        "color": COLORS[mark["stroke"]],
        "linewidth": mark["line"] * _POINTS,
        "linestyle": (0, (3, 1.5)) if mark["dash"] else "-",
        "zorder": mark["zorder"],
        "clip_on": False,
    }


def _rect(axes: Axes, mark: dict[str, Any]) -> None:
    from matplotlib.patches import Rectangle

    box = (mark["x"], mark["y"]), mark["width"], mark["height"]
    if mark["fill"]:
        face = (*_shade(1, mark["fill"]), mark["alpha"])
        axes.add_patch(Rectangle(*box, facecolor=face, linewidth=0, zorder=mark["zorder"]))
    if mark["stroke"]:
        axes.add_patch(Rectangle(*box, fill=False, **_stroke(mark)))
    if mark["stroke"] and mark["hatch"]:  # numbers under it stay readable
        axes.add_patch(Rectangle(*box, fill=False, hatch="////", alpha=0.35, **_stroke({**mark, "line": 0})))


def _line(axes: Axes, mark: dict[str, Any]) -> None:
    axes.plot(*zip(*mark["points"], strict=True), **_stroke(mark))


def _dot(axes: Axes, mark: dict[str, Any]) -> None:
    from matplotlib.patches import Circle

    face = _shade(1, mark["fill"])
    axes.add_patch(Circle((mark["x"], mark["y"]), mark["radius"], facecolor=face, zorder=mark["zorder"]))


def _text(axes: Axes, mark: dict[str, Any]) -> None:
    axes.text(
        mark["x"], mark["y"], mark["text"], fontsize=0.92 * mark["size"] * _POINTS, zorder=mark["zorder"],
        color=COLORS.get(mark["color"], mark["color"]), weight="bold" if mark["bold"] else "normal",
        horizontalalignment=mark["align"], verticalalignment="center_baseline",
    )  # fmt: skip


def _cells(axes: Axes, mark: dict[str, Any]) -> None:
    x, y, size = mark["x"], mark["y"], mark["size"]
    shades = [[_shade(value, mark["color"]) for value in row] for row in mark["values"]]
    extent = (x, x + size * len(shades[0]), y + size * len(shades), y)
    axes.imshow(shades, extent=extent, aspect="auto", zorder=mark["zorder"])
    for i, row in enumerate(mark["texts"]):
        for j, text in enumerate(row):
            middle = {"x": x + (j + 0.5) * size, "y": y + (i + 0.5) * size, "text": text, "bold": False}
            letters = {"size": min(13, 0.45 * size), "color": ink(*shades[i][j])}
            _text(axes, {**mark, **middle, **letters, "align": "center"})


def _image(axes: Axes, mark: dict[str, Any]) -> None:
    pixels = np.frombuffer(b64decode(mark["data"]), np.uint8).reshape(mark["rows"], mark["columns"], 3)
    extent = (mark["x"], mark["x"] + mark["width"], mark["y"] + mark["height"], mark["y"])
    axes.imshow(pixels, extent=extent, interpolation="nearest", aspect="auto", zorder=mark["zorder"])


_DRAW: dict[str, Callable[[Axes, dict[str, Any]], None]] = {
    "rect": _rect,
    "line": _line,
    "dot": _dot,
    "text": _text,
    "cells": _cells,
    "image": _image,
}

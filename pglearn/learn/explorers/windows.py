"""The windows explorer (chapter 2): drag a patch over the pixels, see which fields it meets, beside Eq. 1."""

from __future__ import annotations

from typing import Any

from traitlets import Enum, Int

from pglearn.geometry import (
    Axis,
    Geometry,
    Layer,
    malicious_windows,
    receptive_field,
    resampled,
    touched,
    window_size,
)
from pglearn.learn.explorers.base import ARROWS, Explorer, Panel, choice, slider

__all__ = ["Windows"]

PIXELS = 20  # of the image, a side
SIDE, EDGE = 18, 66  # on the canvas: a pixel's side, and where the image begins
RESIZED = {"not resized": "", "enlarged twice, bilinear": "bilinear", "enlarged twice, bicubic": "bicubic"}


class Windows(Explorer):
    """A patch of ``height`` x ``width`` pixels at (``top``, ``left``) of an image of 20 x 20, and the fields
    that it touches: ``r`` pixels, one every ``s``, behind ``padding``. The image may be ``resized`` before.
    """

    top = Int(8).tag(sync=True)
    left = Int(6).tag(sync=True)
    height = Int(4).tag(sync=True)
    width = Int(4).tag(sync=True)
    r = Int(5).tag(sync=True)
    s = Int(3).tag(sync=True)
    padding = Int(0).tag(sync=True)
    resized = Enum(list(RESIZED), "not resized").tag(sync=True)
    hint = (
        "Drag the patch; drag its lower right corner to resize it. By keys: Tab to the picture, arrows move, "
        "Shift and arrows resize."
    )
    _grip: tuple[str, int, int] = ("move", 0, 0)

    def settle(self) -> None:
        """Keep the patch on the image, and the padding below the field."""
        self.r, self.s = min(max(self.r, 1), 9), min(max(self.s, 1), 8)
        self.padding = min(max(self.padding, 0), self.r - 1, 4)
        self.height, self.width = min(max(self.height, 1), PIXELS), min(max(self.width, 1), PIXELS)
        self.top = min(max(self.top, 0), PIXELS - self.height)
        self.left = min(max(self.left, 0), PIXELS - self.width)

    @property
    def axis(self) -> Axis:
        """The fields in pixels of the image, rows and columns alike."""
        kind = RESIZED[self.resized]
        layers = [Layer(self.r, self.s, self.padding)]
        axis = receptive_field(layers, 2 * PIXELS if kind else PIXELS)
        return resampled(axis, PIXELS, kind) if kind else axis

    @property
    def here(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The touched features: rows (first, stop), columns (first, stop)."""
        axis = self.axis
        return touched(axis, self.top, self.height), touched(axis, self.left, self.width)

    @property
    def eq1(self) -> tuple[int, int]:
        """Eq. 1 for the patch's height and width, as it is in the pixels that the network gets."""
        scale = 2 if RESIZED[self.resized] else 1
        return window_size(scale * self.height, self.r, self.s), window_size(
            scale * self.width, self.r, self.s
        )

    @property
    def most(self) -> tuple[int, int]:
        """The most rows and columns of features that a patch of this size touches at any place."""
        try:
            found = malicious_windows(self.height, self.width, Geometry(self.axis, self.axis))
        except ValueError:  # no field sees a pixel
            return (0, 0)
        return max(window.height for window in found), max(window.width for window in found)

    def controls(self) -> list[dict[str, Any]]:
        """Field, stride, padding, resizing."""
        return [
            slider("r", "field r", 1, 9),
            slider("s", "stride s", 1, 8),
            slider("padding", "padding", 0, min(self.r - 1, 4)),
            choice("resized", "image", list(RESIZED)),
        ]

    def panels(self) -> list[Panel]:
        """The pixels with a ruler of fields along each side; the features."""
        return [self._pixels(), self._features()]

    def _pixels(self) -> Panel:
        extent = PIXELS * SIDE
        panel = Panel(EDGE + extent + 16, EDGE + extent + 16, self._label(), ARROWS)
        axis, (rows, columns) = self.axis, self.here
        self._ruler(panel, axis, columns, across=True)
        self._ruler(panel, axis, rows, across=False)
        seen = [
            [sum(a <= pixel < b for a, b in axis.fields[slice(*met)]) for pixel in range(PIXELS)]
            for met in (rows, columns)
        ]
        most = max(max(seen[0]) * max(seen[1]), 1)
        values = [[0.62 * (a * b / most) ** 0.6 for b in seen[1]] for a in seen[0]]
        panel.cells(EDGE, EDGE, SIDE, values, "other")
        for i in range(PIXELS + 1):
            at = EDGE + i * SIDE
            panel.line([(at, EDGE), (at, EDGE + extent)], "line", 0.5)
            panel.line([(EDGE, at), (EDGE + extent, at)], "line", 0.5)
        where = " of the enlarged image" if RESIZED[self.resized] else ""
        panel.text(EDGE, 8, f"fields of {self.r} pixels, one every {self.s}{where}", align="left")
        x, y = EDGE + self.left * SIDE, EDGE + self.top * SIDE
        width, height = self.width * SIDE, self.height * SIDE
        panel.rect(x, y, width, height, fill="malicious", alpha=0.45)
        panel.rect(x, y, width, height, stroke="malicious", line=3, dash=True)
        panel.rect(x + width - 5, y + height - 5, 10, 10, fill="paper", stroke="malicious", line=2)
        return panel

    def _ruler(self, panel: Panel, axis: Axis, met: tuple[int, int], across: bool) -> None:
        """The fields along one side, in as many lanes as keep them apart; those that the patch meets in
        color.
        """
        lanes = 1
        while any(b > axis.fields[i + lanes][0] for i, (_, b) in enumerate(axis.fields[:-lanes])):
            lanes += 1
        pitch = min(11, (EDGE - 28) / lanes)
        for i, (start, stop) in enumerate(axis.fields):
            on = met[0] <= i < met[1]
            low, high = max(start * SIDE, -10) + 1.5, min(stop * SIDE, PIXELS * SIDE + 10) - 1.5
            lane = EDGE - 8 - (i % lanes + 1) * pitch
            box = (
                (EDGE + low, lane, high - low, pitch - 2)
                if across
                else (lane, EDGE + low, pitch - 2, high - low)
            )
            panel.rect(*box, fill="other" if on else "line", alpha=1 if on else 0.8)
        for edge in (self.left, self.left + self.width) if across else (self.top, self.top + self.height):
            at = EDGE + edge * SIDE
            ends = [(at, 18), (at, EDGE)] if across else [(18, at), (EDGE, at)]
            panel.line(ends, "malicious", 1, dash=True)

    def _features(self) -> Panel:
        panel, cells, (rows, columns) = Panel(316, 442, self._label()), self.axis.cells, self.here
        side = min(44.0, 264 / cells)
        x, y = (316 - side * cells) / 2, EDGE + (264 - side * cells) / 2
        panel.text(158, y - 16, f"{cells} × {cells} features")
        values = [
            [0.75 * (rows[0] <= i < rows[1] and columns[0] <= j < columns[1]) for j in range(cells)]
            for i in range(cells)
        ]
        panel.cells(x, y, side, values, "other")
        for i in range(cells + 1):
            at = i * side
            panel.line([(x + at, y), (x + at, y + cells * side)], "line", 0.5)
            panel.line([(x, y + at), (x + cells * side, y + at)], "line", 0.5)
        if rows != (0, 0) and columns != (0, 0):
            box = [rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0]]
            panel.rect(
                x + box[1] * side, y + box[0] * side, box[3] * side, box[2] * side,
                stroke="malicious", line=3, dash=True,
            )  # fmt: skip
        self._table(panel, 360)
        return panel

    def _table(self, panel: Panel, y: float) -> None:
        (rows, columns), eq1, most = self.here, self.eq1, self.most
        lines = (
            ("rows", rows[1] - rows[0], most[0], eq1[0]),
            ("columns", columns[1] - columns[0], most[1], eq1[1]),
        )
        for x, word in ((126, "here"), (196, "at most"), (266, "Eq. 1")):
            panel.text(x, y, word, color="muted")
        panel.line([(16, y + 14), (300, y + 14)], "line")
        for i, (name, *values) in enumerate(lines):
            height = y + 32 + 26 * i
            panel.text(20, height, name, align="left", color="muted")
            too_small, too_large = values[1] > values[2], values[1] < values[2]
            inks = "malicious", "ink", "wrong" if too_small else "muted" if too_large else "ink"
            for x, value, ink in zip((126, 196, 266), values, inks, strict=True):
                panel.text(x, height, str(value), size=17, color=ink, bold=True)

    def _verdict(self) -> str:
        if any(most > w for most, w in zip(self.most, self.eq1, strict=True)):
            return "Eq. 1 is too small: a proof that rests on it is false"
        if self.most != self.eq1:
            return "Eq. 1 is larger than any place needs"
        return "Eq. 1 is exact: some place reaches it"

    def _label(self) -> str:
        return f"Patch of {self.height} by {self.width} pixels at row {self.top}, column {self.left}"

    def summary(self) -> str:
        """Features touched here, what Eq. 1 says, and the most at any place."""
        (rows, columns), (high, wide), most = self.here, self.eq1, self.most
        scale = "2 · " if RESIZED[self.resized] else ""
        sides = [
            f"⌈({scale}{p} + {self.r} − 1) / {self.s}⌉ = {w}"
            for p, w in ((self.height, high), (self.width, wide))
        ]
        formula = f"{sides[0]} on both sides" if self.height == self.width else " by ".join(sides)
        return (
            f"{self._label()}: touches {rows[1] - rows[0]} x {columns[1] - columns[0]} features.\n"
            f"Eq. 1: {formula}. At its worst place: {most[0]} x {most[1]}. {self._verdict()}."
        )

    def alt(self) -> str:
        """The still picture in words."""
        (rows, columns), cells = self.here, self.axis.cells
        return (
            f"A grid of {PIXELS} by {PIXELS} pixels with a dashed patch; along two sides bars for "
            "the fields, those that the patch meets in color. Beside it a grid "
            f"of {cells} by {cells} features, in which a dashed window of {rows[1] - rows[0]} by "
            f"{columns[1] - columns[0]} is touched, over a small table: here, at most, Eq. 1."
        )

    def press(self, panel: int, x: float, y: float) -> None:
        """Take the patch's corner, or the patch, or put it there."""
        bottom, right = EDGE + SIDE * (self.top + self.height), EDGE + SIDE * (self.left + self.width)
        row, column = int((y - EDGE) // SIDE), int((x - EDGE) // SIDE)
        inside = self.top <= row < self.top + self.height and self.left <= column < self.left + self.width
        if max(abs(x - right), abs(y - bottom)) <= 11:
            self._grip = ("size", 0, 0)
        elif inside:
            self._grip = ("move", row - self.top, column - self.left)
        else:
            self._grip = ("move", self.height // 2, self.width // 2)
            self.drag(panel, x, y)

    def drag(self, panel: int, x: float, y: float) -> None:
        """Move or resize the patch."""
        what, down, right = self._grip
        if what == "size":
            self.height = max(1, min(round((y - EDGE) / SIDE) - self.top, PIXELS - self.top))
            self.width = max(1, min(round((x - EDGE) / SIDE) - self.left, PIXELS - self.left))
        else:
            self.top, self.left = int((y - EDGE) // SIDE) - down, int((x - EDGE) // SIDE) - right

    def key(self, panel: int, key: str, shift: bool) -> None:
        """Arrows move, with Shift they resize."""
        down, right = ARROWS[key]
        if shift:
            self.height = max(1, min(self.height + down, PIXELS - self.top))
            self.width = max(1, min(self.width + right, PIXELS - self.left))
        else:
            self.top, self.left = self.top + down, self.left + right

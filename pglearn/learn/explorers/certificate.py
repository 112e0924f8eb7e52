"""The certificate explorer (chapter 5): drag a malicious window over an image; see what it can take and give.

Images and evidence are those of the shipped bank of the embedded data set; the defense is robust masking at
T = 0 against a patch of 9 x 9 pixels. Bounds and margins are the library's.
"""

from __future__ import annotations

from functools import cache
from itertools import count, product
from typing import Any

import torch
from torch import Tensor
from traitlets import Int

from pglearn.certify import threat
from pglearn.defenses import Defense, box_sums, make_defense
from pglearn.evidence import Evidence
from pglearn.geometry import Windows
from pglearn.learn.explorers.base import ARROWS, Explorer, Panel, button, number
from pglearn.reproduce import SHIPPED
from pglearn.shapes import CLASSES, draw

__all__ = ["Certificate"]

PATCH = 9  # pixels
ZOOM, EDGE, HEAD = 5, 8, 24  # pixels on the screen: one of the image, left of it, above it
CELL, SECOND = 9, 206  # a cell of an evidence map; top of the second map
NAMES, BARS, ROW = 62, 250, 17  # width of the names, of the longest bar; height of a class
GRID, GRID_TOP = 11, 218  # a window in the map of margins, and its top


@cache
def _bank() -> tuple[Evidence, Windows, Defense]:
    bank = Evidence.load(SHIPPED / "shapes-bagnet-bank.safetensors")
    (windows,) = threat(bank, patch=[(PATCH, PATCH)])
    return bank, windows, make_defense("mask", [windows], source=bank)


class Certificate(Explorer):
    """Image ``index`` of the bank; the upper left cell of the malicious window at (``row``, ``column``)."""

    index = Int(85).tag(sync=True)
    row = Int(5).tag(sync=True)
    column = Int(7).tag(sync=True)
    hint = (
        "Drag the dashed window over the image, or in the map of margins. Arrow keys move it by a cell, "
        "with Shift by four; W goes to the worst window."
    )

    def __init__(self, **state: Any) -> None:
        self.bank, self.windows, self.defense = _bank()
        self._mask, self._top, self._known = self.defense.aggregate, self.defense.transform.top, -1
        assert self.bank.geometry is not None
        self._field, (second, _) = self.bank.geometry.rows.fields[:2]  # the columns' are the same
        self._stride = second - self._field[0]
        super().__init__(**state)

    def settle(self) -> None:
        self.index = min(max(self.index, 0), len(self.bank.maps) - 1)
        self.row = min(max(self.row, 0), len(self.windows.rows) - 1)
        self.column = min(max(self.column, 0), len(self.windows.columns) - 1)
        if self.index != self._known:  # what the window does not change
            self._known, part = self.index, slice(self.index, self.index + 1)
            assert self.bank.labels is not None
            self.label = int(self.bank.labels[self.index])
            self.image = torch.from_numpy(draw(self.index, "test")[0])  # (3, 64, 64)
            self.units = self.defense.transform(self.bank.maps[part])  # (1, C, H, W)
            self.scores = self._mask.scores(self.units)[0].tolist()
            margins = self._mask.margins(self.units, self.bank.labels[part], self._top, self.windows)[0]
            self.margins = margins.view(len(self.windows.rows), len(self.windows.columns)).tolist()
            self.worst = divmod(int(margins.argmin()), len(self.windows.columns))
        lower, upper = self._mask.bounds(self.units, self._top, self._inside())
        self.least, self.most = int(lower[0, self.label]), upper[0].tolist()
        self.rival = max(set(range(len(CLASSES))) - {self.label}, key=lambda c: self.most[c])
        self.margin = self.least - self.most[self.rival]

    def _inside(self) -> Tensor:
        inside = torch.zeros(self.units.shape[2:], dtype=torch.bool)
        inside[self.row :, self.column :][: self.windows.height, : self.windows.width] = True
        return inside

    # ------------------------------------------------------------------------------------ what a reader does
    def press(self, panel: int, x: float, y: float) -> None:
        self.drag(panel, x, y)

    def drag(self, panel: int, x: float, y: float) -> None:
        if panel == 0:  # the window's middle goes to the pointer
            left, top, side = self._square(0, 0)
            step = self._stride * ZOOM
            self.row, self.column = round((y - top - side / 2) / step), round((x - left - side / 2) / step)
        elif panel == 2 and y >= GRID_TOP:
            self.row, self.column = int((y - GRID_TOP) // GRID), int((x - NAMES) // GRID)

    def key(self, panel: int, key: str, shift: bool) -> None:
        if key in ARROWS:
            down, right = ARROWS[key]
            self.row, self.column = self.row + down * (1 + 3 * shift), self.column + right * (1 + 3 * shift)
        else:
            self.push("go")

    def push(self, name: str) -> None:
        self.row, self.column = self.worst

    def controls(self) -> list[dict[str, Any]]:
        return [number("index", "image", 0, len(self.bank.maps) - 1), button("go", "worst window")]

    # ------------------------------------------------------------------------------------------- the picture
    def _square(self, row: int, column: int) -> tuple[float, float, float]:
        """Left, top, side on the screen of a window on the image: each cell is as wide as the stride, around
        the middle of its field.
        """
        first = (sum(self._field) - self._stride) / 2
        left, top = (first + start * self._stride for start in (column, row))
        return EDGE + left * ZOOM, HEAD + top * ZOOM, self.windows.height * self._stride * ZOOM

    def panels(self) -> list[Panel]:
        keys = (*ARROWS, "w", "W")
        return [self._picture(keys), self._evidence(), self._bounds(keys)]

    def _picture(self, keys: tuple[str, ...]) -> Panel:
        """The image, the worst window and this one, and a patch that touches all of its cells."""
        panel = Panel(336, 352, "The image with the malicious window. Arrow keys move it.", keys)
        panel.text(EDGE, 7, f"image {self.index}: {CLASSES[self.label]}", align="left", bold=True)
        panel.image(EDGE, HEAD, 64 * ZOOM, 64 * ZOOM, self.image)
        left, top, side = self._square(*self.worst)
        panel.rect(left, top, side, side, stroke="paper", line=4)
        panel.rect(left, top, side, side, stroke="ink", line=1.5)
        panel.rect(left, top, 42, 17, fill="paper", stroke="ink", line=1.5)
        panel.text(left + 21, top + 8, "worst", size=12)
        left, top, side = self._square(self.row, self.column)
        inset = (side - PATCH * ZOOM) / 2
        panel.rect(left + inset, top + inset, PATCH * ZOOM, PATCH * ZOOM, fill="malicious", alpha=0.6)
        panel.rect(left, top, side, side, stroke="paper", line=4.5)
        panel.rect(left, top, side, side, stroke="malicious", line=3, dash=True)
        return panel

    def _evidence(self) -> Panel:
        """Two maps as the bounds have them: the window erased for the true class, flooded for the rival."""
        panel = Panel(
            16 * CELL + 10, 352, "Evidence of the true class and of the strongest rival under attack"
        )
        height, width = self.windows.height, self.windows.width
        keeps = f"{CLASSES[self.label]} keeps {self.least:,}"
        gets = f"{CLASSES[self.rival]} gets {self.most[self.rival]:,}"
        largest = max(int(self.units[0, [self.label, self.rival]].max()), 1)
        for top, c, fill, color, says in (
            (HEAD, self.label, 0, "true", keeps),
            (SECOND, self.rival, self._top, "wrong", gets),
        ):
            seen = self.units[0, c].masked_fill(self._inside(), fill)
            masks = box_sums(seen, height, width)
            row, column = divmod(int(masks.argmax()), masks.shape[1])  # where the mask falls
            panel.text(0, top - 13, says, align="left", bold=True, color=color)
            panel.cells(
                0, top, CELL, (seen / largest).clamp(max=1).double().round(decimals=2).tolist(), color
            )
            panel.rect(0, top, 16 * CELL, 16 * CELL, stroke="line")
            size = width * CELL, height * CELL
            panel.rect(column * CELL, top + row * CELL, *size, stroke="mask", line=1.5, hatch=True)
            at = self.column * CELL, top + self.row * CELL
            panel.rect(*at, *size, stroke="malicious", line=2.5, dash=True)
        return panel

    def _bounds(self, keys: tuple[str, ...]) -> Panel:
        """Both bounds: of the true class the lower, of all others the upper. Below, every window's margin."""
        label = "Bounds of all classes, and margins of all windows. Arrow keys move the window."
        panel = Panel(NAMES + BARS + 70, 352, label, keys)
        most = self.units.sum((2, 3))[0].tolist()
        most[self.label] = self.scores[self.label]
        scale = BARS / max(*most, 1)
        order = [self.label, *(c for c in range(len(CLASSES)) if c != self.label)]
        x = NAMES + self.least * scale
        panel.text(NAMES, 11, "pale: what the window can take, or add", size=12, color="muted", align="left")
        for y, c in zip(count(HEAD, ROW), order, strict=False):
            low, high = sorted((self.scores[c], self.least if c == self.label else self.most[c]))
            dangerous = c == self.rival or high >= self.least
            color = "true" if c == self.label else "wrong" if dangerous else "mask"
            name: dict[str, Any] = {"color": "muted" if color == "mask" else color, "bold": color != "mask"}
            panel.text(NAMES - 8, y + ROW / 2, CLASSES[c], align="right", **name)
            panel.rect(NAMES, y + 3, low * scale, ROW - 6, fill=color)
            panel.rect(NAMES + low * scale, y + 3, (high - low) * scale, ROW - 6, fill=color, alpha=0.35)
            if c == self.rival:
                end = max(x, NAMES + high * scale) + 6
                panel.text(end, y + ROW / 2, signed(self.margin), align="left", **self._verdict(self.margin))
        panel.line([(x, HEAD), (x, HEAD + ROW * len(order))], stroke="true", line=2, dash=True)
        self._margins(panel)
        return panel

    def _margins(self, panel: Panel) -> None:
        limit = max(abs(margin) for row in self.margins for margin in row) or 1
        shades = [[round(0.25 + 0.75 * abs(margin) / limit, 2) for margin in row] for row in self.margins]
        panel.cells(NAMES, GRID_TOP, GRID, shades, "true")
        for i, j in product(range(len(self.windows.rows)), range(len(self.windows.columns))):
            if self.margins[i][j] <= 0:  # painted over
                panel.cells(NAMES + j * GRID, GRID_TOP + i * GRID, GRID, [[shades[i][j]]], "wrong")
        for (i, j), stroke in ((self.worst, "ink"), ((self.row, self.column), "malicious")):
            x, y = NAMES + j * GRID, GRID_TOP + i * GRID
            panel.rect(x, y, GRID, GRID, stroke=stroke, line=2.5)
        right = NAMES + GRID * len(self.windows.columns) + 14
        least = min(map(min, self.margins))
        for place, (text, style) in enumerate((
            ("margin of every window", {"color": "muted"}),
            (f"here: {signed(self.margin)}", self._verdict(self.margin)),
            (f"worst: {signed(least)}", self._verdict(least)),
            (f"{'' if least > 0 else 'not '}certified", self._verdict(least)),
        )):  # fmt: skip
            panel.text(right, GRID_TOP + 20 + 28 * place, text, align="left", size=14, **style)

    def _verdict(self, margin: int) -> dict[str, Any]:
        return {"color": "true" if margin > 0 else "wrong", "bold": True}

    def summary(self) -> str:
        name, rival, least = CLASSES[self.label], CLASSES[self.rival], min(map(min, self.margins))
        says = "no patch here wins" if self.margin > 0 else "a patch here may win"
        return (
            f"Image {self.index}, {name}. Window at row {self.row}, column {self.column}: "
            f"{name} keeps at least {self.least:,}, {rival} gets at most {self.most[self.rival]:,}; "
            f"margin {signed(self.margin)}: {says}.\n"
            f"Worst of {len(self.windows)} windows: row {self.worst[0]}, column {self.worst[1]}, "
            f"margin {signed(least)}. The image is {'' if least > 0 else 'not '}certified."
        )

    def alt(self) -> str:
        return (
            f"A drawn {CLASSES[self.label]} with the dashed malicious window and the worst one; the evidence "
            "of the true class and of its strongest rival under attack; bars with the bounds of all ten "
            "classes; and a map of the margins of all windows."
        )


def signed(units: int) -> str:
    """With its sign, a real minus.

    >>> signed(-10101), signed(3)
    ('−10,101', '+3')
    """
    return f"{units:+,}".replace("-", "\N{MINUS SIGN}")

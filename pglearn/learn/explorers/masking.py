"""The masking explorer (chapter 4): write evidence by hand, watch Algorithm 1 choose its masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from traitlets import Int, List, Unicode

from pglearn.defenses import WindowMask, box_sums
from pglearn.learn.explorers.base import ARROWS, Explorer, Panel, button, slider

__all__ = ["Masking"]

SIDE, TOP = 246, 34  # a map's side and where it begins on the canvas
INKS = "true", "wrong", "other"
TRUTH = [
    [0, 1, 0, 1, 0, 0],
    [1, 2, 3, 2, 1, 0],
    [0, 3, 4, 3, 2, 1],
    [1, 2, 3, 4, 3, 0],
    [0, 1, 2, 3, 2, 1],
    [0, 0, 1, 1, 0, 0],
]
RIVAL = [
    [0, 0, 1, 0, 0, 1],
    [1, 0, 0, 1, 0, 0],
    [0, 1, 0, 0, 1, 0],
    [0, 0, 1, 2, 2, 1],
    [1, 0, 2, 3, 3, 1],
    [0, 1, 1, 2, 3, 1],
]


class Masking(Explorer):
    """Robust masking, with masks of ``w`` x ``w`` cells and a detection threshold ``T`` in hundredths.

    ``honest``: the evidence of up to three classes, the true one first. ``written``: what an attacker wrote
    over it, a list of [class, row, column, value].
    """

    honest = List(List(List(Int(min=0))), [TRUTH, RIVAL]).tag(sync=True)
    names = List(Unicode(), ["true class", "rival"]).tag(sync=True)
    written = List(List(Int(min=0)), [[1, 0, 4, 9], [1, 0, 5, 9], [1, 1, 4, 9], [1, 1, 5, 9]]).tag(sync=True)
    w = Int(2).tag(sync=True)
    T = Int(0).tag(sync=True)
    pen = Int(9).tag(sync=True)
    row = Int(0).tag(sync=True)
    column = Int(4).tag(sync=True)
    hint = (
        "Click a cell to write into it, click again to restore it. By keys: Tab to a map, arrows choose a "
        "cell, Space writes or restores, digits write that number."
    )
    _restores = _by_keys = False

    def settle(self) -> None:
        """Keep cursor, mask and threshold in their ranges, and what was written on the map."""
        height, width = len(self.honest[0]), len(self.honest[0][0])
        self.written = [c for c in self.written if c[0] < len(self.honest) and c[1] < height and c[2] < width]
        self.row, self.column = min(max(self.row, 0), height - 1), min(max(self.column, 0), width - 1)
        self.w = min(max(self.w, 1), height, width)
        self.T, self.pen = min(max(self.T, 0), 99), min(max(self.pen, 0), 9)

    @property
    def units(self) -> Tensor:
        """The evidence as it stands: (1, C, H, W) int64."""
        units = torch.tensor(self.honest)[None]
        for label, row, column, value in self.written:
            units[0, label, row, column] = value
        return units

    @property
    def defense(self) -> WindowMask:
        """Algorithm 1."""
        return WindowMask(self.w, self.w, f"0.{self.T:02d}")

    @property
    def masks(self) -> list[tuple[int, int, int, bool]]:
        """Each class's heaviest window: row, column, evidence in it, and whether it is masked."""
        units, scores = self.units, self.defense.scores(self.units)[0]
        sums, found = box_sums(units, self.w, self.w)[0], []
        for window, score, total in zip(sums, scores, units.sum((2, 3))[0], strict=True):
            row, column = divmod(int(window.argmax()), window.shape[1])
            found.append((row, column, int(window.max()), bool(score < total)))
        return found

    @property
    def owned(self) -> tuple[int, int, int, int] | None:
        """The smallest window (top, left, height, width) around all that was written."""
        if not self.written:
            return None
        rows, columns = {row for _, row, _, _ in self.written}, {column for _, _, column, _ in self.written}
        return min(rows), min(columns), max(rows) - min(rows) + 1, max(columns) - min(columns) + 1

    def controls(self) -> list[dict[str, Any]]:
        """Mask, threshold, what to write."""
        return [
            slider("w", "mask", 1, min(self.units.shape[2:]), f"{self.w} × {self.w}"),
            slider("T", "threshold T", 0, 99, f"{self.T / 100:.2f}"),
            slider("pen", "write", 0, 9),
            button("restore", "restore all"),
        ]

    def push(self, name: str) -> None:
        """Undo all that was written."""
        self.written = []

    def panels(self) -> list[Panel]:
        """A map for each class, over a bar of what it keeps and what its mask takes."""
        return [self._map(label) for label in range(len(self.honest))]

    def _map(self, label: int) -> Panel:
        units, ink = self.units[0, label], INKS[label]
        (row, column, inside, masked), total = self.masks[label], int(units.sum())
        panel = Panel(
            SIDE + 20, TOP + SIDE + 112, self._label(label), (*ARROWS, *" 0123456789", "Enter", "Backspace")
        )
        side = SIDE / max(units.shape)
        panel.text(10, 14, self.names[label], 14, ink, "left", bold=True)
        values = (units / 10).tolist()
        panel.cells(10, TOP, side, values, ink, [[str(value) for value in line] for line in units.tolist()])
        for i in range(units.shape[0] + 1):
            panel.line([(10, TOP + i * side), (10 + units.shape[1] * side, TOP + i * side)], "line", 0.5)
        for j in range(units.shape[1] + 1):
            panel.line([(10 + j * side, TOP), (10 + j * side, TOP + units.shape[0] * side)], "line", 0.5)
        for which, i, j, _ in self.written:
            if which == label:
                panel.rect(
                    10 + j * side + 3, TOP + i * side + 3, side - 6, side - 6, stroke="malicious", line=2
                )
        mask = 12 + column * side, TOP + row * side + 2, self.w * side - 4, self.w * side - 4
        panel.rect(*mask, stroke="mask", line=3 if masked else 1.5, hatch=masked)
        if self.owned:
            top, left, high, wide = self.owned
            panel.rect(
                10 + left * side,
                TOP + top * side,
                wide * side,
                high * side,
                stroke="malicious",
                line=3,
                dash=True,
            )
        if self._by_keys:
            panel.rect(
                10 + self.column * side + 1,
                TOP + self.row * side + 1,
                side - 2,
                side - 2,
                stroke="ink",
                line=1.5,
            )
        self._bar(panel, TOP + SIDE + 20, total, inside, masked, ink)
        return panel

    def _bar(self, panel: Panel, y: float, total: int, inside: int, masked: bool, ink: str) -> None:
        """What the class keeps, in color, and what its heaviest window holds, hatched where it is masked."""
        scale = SIDE / max(60, *(int(units.sum()) for units in self.units[0]))
        kept = total - inside
        panel.rect(10, y, kept * scale, 20, fill=ink)
        panel.rect(10 + kept * scale, y, inside * scale, 20, fill="" if masked else ink)
        panel.rect(10 + kept * scale, y, inside * scale, 20, stroke="mask", line=1.5, hatch=masked)
        sign, word = (">", "masked") if masked else ("≤", "kept")
        line = f"heaviest: {inside} {sign} {self.T / 100:.2f} · {total}: {word}"
        panel.text(10, y + 38, line, 12.5, "muted", "left")
        panel.text(10, y + 64, f"score {kept if masked else total}", 18, ink, "left", bold=True)

    def _label(self, label: int) -> str:
        value = int(self.units[0, label, self.row, self.column])
        return f"{self.names[label]}: row {self.row}, column {self.column} holds {value}"

    def summary(self) -> str:
        """Sums and defended scores, who wins, and whether the writing fits the threat model."""
        totals, scores = self.units.sum((2, 3))[0], self.defense.scores(self.units)[0]
        said = f"Sums: {self._tally(totals)}. Scores with T = {self.T / 100:.2f}: {self._tally(scores)}.\n"
        if self.owned is None:
            return f"{said}Nothing is written yet: all evidence is honest."
        high, wide = self.owned[2:]
        if max(high, wide) <= self.w:
            return f"{said}What is written fits into one window of {self.w} x {self.w}, as the mask expects."
        return f"{said}What is written needs a window of {high} x {wide}: more than the mask expects."

    def _tally(self, scores: Tensor) -> str:
        each = ", ".join(f"{name} {int(score)}" for name, score in zip(self.names, scores, strict=True))
        best = int(scores.max())
        winners = [name for name, score in zip(self.names, scores.tolist(), strict=True) if score == best]
        return f"{each} ({'a tie' if len(winners) > 1 else f'{winners[0]} wins'})"

    def alt(self) -> str:
        """The still picture in words."""
        return (
            f"{len(self.honest)} maps with the evidence printed in each cell, the heaviest {self.w} by "
            f"{self.w} cells marked in gray, and what somebody wrote fenced by a dashed line. Under each map "
            "a bar of its evidence, split into what stays and what the marked cells hold."
        )

    def press(self, panel: int, x: float, y: float) -> None:
        """Write into the cell under the pointer, or restore it; a drag then does the same."""
        self._by_keys = self._restores = False
        if self._aim(x, y):
            self._restores = any(cell[:3] == [panel, self.row, self.column] for cell in self.written)
            self._write(panel, None if self._restores else self.pen)

    def drag(self, panel: int, x: float, y: float) -> None:
        """Go on with what the press began."""
        if self._aim(x, y):
            self._write(panel, None if self._restores else self.pen)

    def _aim(self, x: float, y: float) -> bool:
        side = SIDE / max(len(self.honest[0]), len(self.honest[0][0]))
        row, column = int((y - TOP) // side), int((x - 10) // side)
        if on := 0 <= row < len(self.honest[0]) and 0 <= column < len(self.honest[0][0]):
            self.row, self.column = row, column
        return on

    def _write(self, label: int, value: int | None) -> None:
        """Put a value into the chosen cell; None restores what honestly stood there."""
        kept = [cell for cell in self.written if cell[:3] != [label, self.row, self.column]]
        self.written = kept if value is None else [*kept, [label, self.row, self.column, value]]

    def key(self, panel: int, key: str, shift: bool) -> None:
        """Arrows choose a cell; the other keys write or restore."""
        self._by_keys = True
        if key in ARROWS:
            down, right = ARROWS[key]
            self.row, self.column = self.row + down, self.column + right
        elif key.isdigit():
            self._write(panel, int(key))
        else:
            there = any(cell[:3] == [panel, self.row, self.column] for cell in self.written)
            self._write(panel, None if there or key == "Backspace" else self.pen)

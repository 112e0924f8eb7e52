"""The fields explorer (chapter 1): layers in, receptive field and attention counts out."""

from __future__ import annotations

from math import prod
from typing import Any

from traitlets import Int, List

from pglearn.errors import InputError
from pglearn.geometry import Axis, Layer, attention_counts, receptive_field
from pglearn.learn.explorers.base import Explorer, Panel, number, slider

__all__ = ["Fields"]

DEEPEST, WIDTH, LEVEL = 5, 560, 62
LIMITS = {"kernel": (1, 5), "stride": (1, 4), "padding": (0, 4)}


class Fields(Explorer):
    """A stack of up to five ``layers`` (kernel, stride, padding) over ``image`` pixels, and what its ``cell``
    sees.
    """

    layers = List(List(Int()), [[3, 1, 0], [3, 1, 0], [3, 1, 0]]).tag(sync=True)
    image = Int(13).tag(sync=True)
    cell = Int(3).tag(sync=True)
    hint = (
        "Drag along the wires to choose another cell; or Tab to the picture, then left and right arrows. "
        "Each layer has its kernel, stride and padding above."
    )

    def settle(self) -> None:
        """Keep numbers within their limits, and the cell on the map."""
        kept = [
            [min(max(value, low), high) for value, (low, high) in zip(layer, LIMITS.values(), strict=True)]
            for layer in self.layers[:DEEPEST]
        ]
        self.layers = kept or [[1, 1, 0]]
        self.image = min(max(self.image, 4), 40)
        self.cell = min(max(self.cell, 0), self._axes[-1].cells - 1)

    @property
    def _stack(self) -> list[Layer]:
        return [Layer(*layer) for layer in self.layers]

    @property
    def _axes(self) -> list[Axis]:
        """Fields of the pixels themselves, the first layer's cells, and so on as far as there is room."""
        axes = [receptive_field([], self.image)]
        try:
            for depth in range(1, len(self.layers) + 1):
                axes.append(receptive_field(self._stack[:depth], self.image))
        except InputError:
            pass  # the summary says so
        return axes

    @property
    def axis(self) -> Axis:
        """The fields of the last layer's cells; ``InputError`` where the image is too small for the stack."""
        return receptive_field(self._stack, self.image)

    def controls(self) -> list[dict[str, Any]]:
        """Image size, depth, and each layer's numbers."""
        found = [
            slider("image", "image", 4, 40, f"{self.image} pixels"),
            slider("depth", "layers", 1, DEEPEST),
        ]
        for i in range(len(self.layers)):
            found += [number(f"{name} {i}", name, *LIMITS[name], group=f"layer {i + 1}") for name in LIMITS]
        return found

    def value(self, name: str) -> Any:
        """The trait, the depth, or a layer's number, such as "kernel 0"."""
        if name == "depth":
            return len(self.layers)
        what, _, layer = name.partition(" ")
        return self.layers[int(layer)][list(LIMITS).index(what)] if layer else super().value(name)

    def change(self, name: str, value: Any) -> None:
        """Set what :meth:`value` gets."""
        what, _, which = name.partition(" ")
        layers = [list(layer) for layer in self.layers]
        if name == "depth":
            self.layers = (layers + [[3, 1, 0]] * DEEPEST)[:value]
        elif which:
            layers[int(which)][list(LIMITS).index(what)] = value
            self.layers = layers
        else:
            super().change(name, value)

    def panels(self) -> list[Panel]:
        """The wires of one cell over the counts of its pixels; the counts in two dimensions."""
        return [self._wires(), self._square()]

    def _wires(self) -> Panel:
        axes = self._axes
        stack = self._stack[: len(axes) - 1]
        panel = Panel(WIDTH, 132 + LEVEL * len(stack), self._label(), ("ArrowLeft", "ArrowRight"))
        low, high = self._range
        step = (WIDTH - 24) / (high - low)
        radius = max(2.2, min(11.0, 0.42 * step))

        def place(level: int, i: int) -> tuple[float, float]:
            start, stop = axes[level].fields[i]
            return 12 + ((start + stop) / 2 - low) * step, 30 + LEVEL * (len(axes) - 1 - level)

        start, stop = axes[-1].fields[self.cell]
        top, left = 30 + LEVEL * (len(axes) - 1), 12 + (start - low) * step
        panel.rect(left, top - radius - 5, (stop - start) * step, 2 * radius + 10, fill="other", alpha=0.16)
        reached = self.reached
        for level, layer in enumerate(stack, 1):
            for i in reached[level]:
                below = receptive_field([layer], axes[level - 1].cells).fields[i]
                for j in range(*below):
                    if j in reached[level - 1]:
                        panel.line([place(level - 1, j), place(level, i)], "other", 1.4)
        for level, axis in enumerate(axes):
            for i in range(axis.cells):
                x, y = place(level, i)
                count = reached[level].get(i, 0)
                panel.dot(x, y, radius if count else 0.7 * radius, "other" if count else "line")
                if count and radius > 8.5:
                    panel.text(x, y, str(count), 11 if count < 100 else 9, "paper", bold=True)
            label = "pixels" if level == 0 else f"layer {level}: {axis.cells} cell{'s' * (axis.cells > 1)}"
            panel.text(4, 30 + LEVEL * (len(axes) - 1 - level) - 19, label, 11.5, "muted", "left")
        self._below(panel, reached[0], top + radius + 9, low, step)
        return panel

    @property
    def _range(self) -> tuple[float, float]:
        """The pixels that the wires have room for: the image, and a little of the padding."""
        middles = [(a + b) / 2 for axis in self._axes for a, b in (axis.fields[0], axis.fields[-1])]
        return min(-0.3, *(middle - 0.5 for middle in middles)), max(
            self.image + 0.3, *(middle + 0.5 for middle in middles)
        )

    @property
    def reached(self) -> list[dict[int, int]]:
        """For the pixels and each layer: the cells that lead to the chosen one, and in how many ways."""
        levels, steps = [{self.cell: 1}], list(zip(self._axes[:-1], self._stack, strict=False))
        for axis, layer in reversed(steps):
            below: dict[int, int] = {}
            for i, ways in levels[0].items():
                start = i * layer.stride - layer.padding
                for j in range(max(start, 0), min(start + layer.kernel, axis.cells)):  # padding leads nowhere
                    below[j] = below.get(j, 0) + ways
            levels.insert(0, dict(sorted(below.items())))
        return levels

    def _below(self, panel: Panel, counts: dict[int, int], y: float, low: float, step: float) -> None:
        """Under the pixels: the attention counts as bars, the field, and the next cell's field."""
        for i, count in counts.items():
            x, height = 12 + (i + 0.1 - low) * step, 34 * count / max(counts.values())
            panel.rect(x, y, 0.8 * step, height, fill="other", alpha=0.75)
        axis = self._axes[-1]
        for k, word in enumerate(("field", "next cell's")):
            if self.cell + k < axis.cells:
                start, stop = (
                    12 + (min(max(end, low), self._range[1]) - low) * step
                    for end in axis.fields[self.cell + k]
                )
                ink, height = ("ink", "muted")[k], y + 48 + 20 * k
                panel.line([(start, height - 4), (start, height + 4)], ink)
                panel.line([(start, height), (stop, height)], ink)
                panel.line([(stop, height - 4), (stop, height + 4)], ink)
                right = stop + 80 < WIDTH
                panel.text(
                    stop + 6 if right else start - 6, height, word, 11.5, ink, "left" if right else "right"
                )

    def _square(self) -> Panel:
        """Attention counts in two dimensions, at most the middle 40 x 40 of them."""
        panel = Panel(270, 330, "Attention counts in two dimensions")
        line = attention_counts(self._stack[: len(self._axes) - 1])
        least, most = min(line), max(line)
        cut = max(0, len(line) - 40) // 2
        line = line[cut : len(line) - cut]
        side = min(44.0, 256 / len(line))
        texts = [[str(a * b) for b in line] for a in line] if len(line) <= 9 and most < 32 else []
        edge = (270 - side * len(line)) / 2
        panel.text(135, 12, f"{self._axes[-1].size} × {self._axes[-1].size} pixels of one cell")
        panel.text(135, 32, f"looked at {least**2} to {most**2:,} times", 12, "muted")
        panel.cells(edge, 52, side, [[a * b / most**2 for b in line] for a in line], "other", texts)
        panel.rect(edge, 52, side * len(line), side * len(line), stroke="other", line=2)
        return panel

    def _label(self) -> str:
        return f"Wires of cell {self.cell} of {self._axes[-1].cells}"

    def summary(self) -> str:
        """Size, stride, offset and number of fields; the pixels and the attention counts of the cell."""
        try:
            axis = self.axis
        except InputError as error:
            return f"{str(error)[0].upper()}{str(error)[1:]}."
        reached, (start, stop) = self.reached[0], axis.fields[self.cell]
        span = range(min(reached), max(reached) + 1) if reached else range(0)
        counts = [reached.get(pixel, 0) for pixel in span]
        seen = f"pixels {span.start} to {span.stop - 1}" if span else "no pixel"
        if gaps := counts.count(0):
            seen += f" but for {gaps} between them"
        if beyond := stop - start - len(range(max(start, 0), min(stop, self.image))):
            seen += f"; {beyond} of its field lie{'s' * (beyond == 1)} beyond the border"
        shown = counts if len(counts) <= 15 else [*counts[:4], "…", max(counts), "…", *counts[-4:]]
        return (
            f"Receptive field: {axis.size} pixels, stride {prod(layer.stride for layer in self._stack)}, "
            f"offset {axis.fields[0][0]}; {axis.cells} cell{'s' * (axis.cells > 1)} a side.\n"
            f"Cell {self.cell} sees {seen}. Attention counts: {', '.join(map(str, shown)) or 'none'}."
        )

    def alt(self) -> str:
        """The still picture in words."""
        rows, axis = len(self._axes), self._axes[-1]
        return (
            f"{rows} rows of dots, {self.image} pixels at the bottom, {axis.cells} cells at the top. Green "
            f"wires fan out from one cell down to its {len(self.reached[0])} pixels, each dot with the "
            "number of its paths; below, the same counts as bars. Beside it the counts in two dimensions: a "
            "square, dark in its center and pale in its corners."
        )

    def press(self, panel: int, x: float, y: float) -> None:
        """Choose the cell over the pointer."""
        low, high = self._range
        pixel = low + (x - 12) * (high - low) / (WIDTH - 24)
        middles = [abs((start + stop) / 2 - pixel) for start, stop in self._axes[-1].fields]
        self.cell = middles.index(min(middles))

    drag = press

    def key(self, panel: int, key: str, shift: bool) -> None:
        """The next cell to the left or right."""
        self.cell += {"ArrowLeft": -1, "ArrowRight": 1}[key]

"""The trade-off explorer (chapter 10): patch size, defense and k against what is clean and what is certified.

The counts are those of ``data/tradeoff.csv``: 2,695 rows, which ``make tradeoff`` computes with ``certify``
from the shipped banks, in minutes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from traitlets import Int, Unicode

from pglearn.certify import interval, rate
from pglearn.errors import InputError
from pglearn.learn.explorers.base import ARROWS, Explorer, Panel, choice, slider
from pglearn.reports import Result, read
from pglearn.reproduce import SHIPPED

__all__ = ["Tradeoff"]

LEFT, TOP, ACROSS, DOWN = 44, 34, 460, 270  # the plot, in pixels of its panel
ROW, BAR = 47, 330  # height of a defense, width of 100 %


@cache
def _table() -> dict[tuple[str, str, int, int], Result]:
    """(bank, defense, patch, k) -> counts."""
    return {
        (
            row.data.removesuffix("-bank"),
            f"{row.defense} × {row.transform}",
            int(row.patch.split("x")[0]),
            row.top_k,
        ): row
        for row in read(SHIPPED / "tradeoff.csv")
    }


class Tradeoff(Explorer):
    """A shipped ``bank``, a ``defense`` (aggregate × transform), a ``patch`` (pixels a side), and k."""

    bank = Unicode("shapes-bagnet").tag(sync=True)
    defense = Unicode("mask × logits").tag(sync=True)
    patch = Int(9).tag(sync=True)
    k = Int(1).tag(sync=True)
    hint = (
        "Drag in the curves to change the patch; there the left and right arrow keys change it, up and down "
        "change k. Click a bar to choose a defense, or go through them with up and down."
    )

    def __init__(self, **state: Any) -> None:
        self.banks, self.defenses, self.sides, self.ks = (
            list(dict.fromkeys(x)) for x in zip(*_table(), strict=True)
        )
        super().__init__(**state)

    def settle(self) -> None:
        for name, value, known in (("bank", self.bank, self.banks), ("defense", self.defense, self.defenses)):
            if value not in known:
                raise InputError(f"{name}: is {value!r}, allowed: {', '.join(known)}")
        self.patch = min(self.sides, key=lambda side: abs(side - self.patch))
        self.k = min(max(self.k, self.ks[0]), self.ks[-1])

    def result(self, defense: str = "", patch: int = 0) -> Result:
        """What is shown, or that of another defense or patch."""
        return _table()[self.bank, defense or self.defense, patch or self.patch, self.k]

    def best(self) -> str:
        """The defense that certifies most; of several this one, where it is among them."""
        return max([self.defense, *self.defenses], key=lambda defense: self.result(defense).certified)

    # ------------------------------------------------------------------------------------ what a reader does
    def controls(self) -> list[dict[str, Any]]:
        return [
            choice("bank", "bank", self.banks),
            choice("defense", "defense", self.defenses),
            slider("place", "patch", 0, len(self.sides) - 1, f"{self.patch} × {self.patch}"),
            slider("k", "k", self.ks[0], self.ks[-1]),
        ]

    @property
    def place(self) -> int:
        """The patch's number among those there are."""
        return self.sides.index(self.patch)

    @place.setter
    def place(self, number: int) -> None:
        self.patch = self.sides[min(max(number, 0), len(self.sides) - 1)]

    def press(self, panel: int, x: float, y: float) -> None:
        self.drag(panel, x, y)

    def drag(self, panel: int, x: float, y: float) -> None:
        if panel == 0:
            share = (x - LEFT) / ACROSS
            self.patch = round(self.sides[0] + share * (self.sides[-1] - self.sides[0]))
        else:
            self._choose(int((y - TOP) // ROW))

    def key(self, panel: int, key: str, shift: bool) -> None:
        down, right = ARROWS[key]
        if panel == 0:
            self.place, self.k = self.place + right, self.k - down
        else:
            self._choose(self.defenses.index(self.defense) + down)

    def _choose(self, number: int) -> None:
        self.defense = self.defenses[min(max(number, 0), len(self.defenses) - 1)]

    # ------------------------------------------------------------------------------------------- the picture
    def panels(self) -> list[Panel]:
        return [self._curves(), self._bars()]

    def _curves(self) -> Panel:
        """Clean and certified against the patch; the other defenses' certified in gray."""
        panel = Panel(
            LEFT + ACROSS + 16, 362, "Images in percent against the side of the patch", tuple(ARROWS)
        )

        def across(side: float) -> float:
            return LEFT + ACROSS * (side - self.sides[0]) / (self.sides[-1] - self.sides[0])

        def up(percent: float) -> float:
            return TOP + DOWN * (1 - percent / 100)

        for percent in range(0, 101, 25):
            panel.line([(LEFT, up(percent)), (LEFT + ACROSS, up(percent))], stroke="line")
            panel.text(LEFT - 6, up(percent), f"{percent} %", size=12, color="muted", align="right")
        for side in self.sides:
            chosen = side == self.patch
            panel.text(
                across(side), TOP + DOWN + 14, str(side), 12, "malicious" if chosen else "muted", bold=chosen
            )
        panel.text(LEFT + ACROSS / 2, TOP + DOWN + 36, "side of the patch in pixels", 12, "muted")
        panel.line([(across(self.patch), TOP), (across(self.patch), TOP + DOWN)], "malicious", 2.5, True)
        for defense in (*(each for each in self.defenses if each != self.defense), self.defense):
            results = [self.result(defense, side) for side in self.sides]
            lines = [("true", [row.certified for row in results])]
            if defense == self.defense:
                lines.insert(0, ("other", [row.clean for row in results]))
            for color, hits in lines:
                points = [
                    (across(side), up(100 * n / row.images))
                    for side, n, row in zip(self.sides, hits, results, strict=True)
                ]
                if defense != self.defense:
                    panel.line(points, "muted")
                    panel.dot(*points[self.place], 3, "muted")
                    continue
                panel.line(points, color, 2.5, dash=color == "other")
                for (x, y), n, row in zip(points, hits, results, strict=True):
                    panel.line([(x, up(end)) for end in interval(n, row.images)], color, 1.5)
                    panel.dot(x, y, 4, color)
        panel.line([(LEFT, 12), (LEFT + 24, 12)], "true", 2.5)
        panel.text(LEFT + 30, 12, "certified", color="true", align="left", bold=True)
        panel.line([(LEFT + 116, 12), (LEFT + 140, 12)], "other", 2.5, dash=True)
        panel.text(LEFT + 146, 12, "clean", color="other", align="left", bold=True)
        panel.line([(LEFT + 206, 12), (LEFT + 230, 12)], "muted")
        panel.text(LEFT + 236, 12, "certified by the others", color="muted", align="left")
        return panel

    def _bars(self) -> Panel:
        """All defenses against this patch."""
        panel = Panel(
            BAR + 10, 362, "The defenses side by side. Up and down choose one.", ("ArrowUp", "ArrowDown")
        )
        panel.text(
            0,
            12,
            f"patch {self.patch} × {self.patch}, top-{self.k}",
            color="malicious",
            align="left",
            bold=True,
        )
        for number, defense in enumerate(self.defenses):
            row, top, chosen = self.result(defense), TOP + number * ROW, defense == self.defense
            clean, certified = (100 * hits / row.images for hits in (row.clean, row.certified))
            says = f"clean {clean:.1f} %, certified {certified:.1f} %"
            panel.text(0, top + 9, defense, color="true" if chosen else "ink", align="left", bold=chosen)
            panel.text(BAR, top + 9, says, 12, "ink" if chosen else "muted", "right")
            panel.rect(0, top + 20, BAR * clean / 100, 15, stroke="other" if chosen else "muted")
            panel.rect(0, top + 20, BAR * certified / 100, 15, fill="true" if chosen else "muted")
            for hits in (row.clean, row.certified):
                whisker = [(BAR * end / 100, top + 27.5) for end in interval(hits, row.images)]
                panel.line(whisker, "paper", 4)
                panel.line(whisker, "ink", 1.5)
        return panel

    def summary(self) -> str:
        row, best = self.result(), self.best()
        most = self.result(best).certified
        lead = f"Most is certified by {best}: {rate(most, row.images)}."
        if best == self.defense:
            lead = "No other defense here certifies more." if most else "No defense here certifies any image."
        return (
            f"{self.bank}, patch {self.patch} × {self.patch} pixels, top-{self.k}, {self.defense}: "
            f"clean {rate(row.clean, row.images)}; certified {rate(row.certified, row.images)}.\n" + lead
        )

    def alt(self) -> str:
        return (
            f"Left, {self.bank} behind {self.defense} against the side of the patch: dashed the clean "
            "images, below them the certified ones; in gray, what the other defenses certify. Right, a bar "
            "for each of seven defenses at one patch: the certified images within the clean ones."
        )

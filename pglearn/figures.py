"""The book's color language, and a few drawings that several chapters share. Imports matplotlib when called.

True class blue, wrong class vermilion, mask gray and hatched, malicious window purple and dashed: told apart
in print and by color-blind readers (Okabe and Ito's palette), and by line style besides.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = [
    "MALICIOUS",
    "MASK",
    "OTHER",
    "TRUE",
    "WRONG",
    "draw_image",
    "draw_map",
    "draw_window",
    "ink",
    "show",
    "subplots",
]

TRUE, WRONG, MASK, MALICIOUS, OTHER = "#0072B2", "#D55E00", "#555555", "#AA4499", "#009E73"
"""Colors of the true class, a wrong class, a mask, the malicious window, and anything else."""

_STYLES: dict[str, dict[str, Any]] = {
    "malicious": {"edgecolor": MALICIOUS, "linestyle": (0, (3, 1.5)), "linewidth": 2.2, "hatch": None},
    "mask": {"edgecolor": MASK, "linestyle": "-", "linewidth": 1.8, "hatch": "////"},
    "field": {"edgecolor": OTHER, "linestyle": "-", "linewidth": 2.0, "hatch": None},
}


def subplots(
    rows: int = 1, columns: int = 1, width: float = 3.2, height: float = 3.0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of ``rows`` x ``columns`` axes of ``width`` x ``height`` inches, the axes as a flat list."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained", dpi=110)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def ink(red: float, green: float, blue: float) -> str:
    """ "black" or "white", whichever can be read on this color; each part from 0 to 1."""
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"


def draw_map(
    axes: Axes,
    values: Tensor,
    title: str = "",
    numbers: bool = False,
    color: str = TRUE,
    largest: float | None = None,
) -> None:
    """Draw a map (H, W) of evidence in shades of ``color``, from 0 (white) to ``largest``; ``numbers``
    prints each cell.
    """
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("evidence", ["white", color])
    grid = values.detach().cpu().double().numpy()
    largest = largest or max(float(grid.max()), 1e-9)
    axes.imshow(grid, cmap=shades, vmin=0, vmax=largest, interpolation="nearest")
    if numbers:
        for (row, column), value in np.ndenumerate(grid):
            color = ink(*shades(value / largest)[:3])
            axes.text(column, row, f"{value:g}", ha="center", va="center", color=color, fontsize=8)
    _bare(axes, title)


def draw_image(axes: Axes, image: Tensor, title: str = "") -> None:
    """Draw an image (3, H, W), uint8 or in [0, 1]. Only pictures of the embedded data set may be stored in
    the book.
    """
    pixels = image.detach().cpu()
    if not pixels.dtype.is_floating_point:
        pixels = pixels / 255
    axes.imshow(pixels.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    _bare(axes, title)


def draw_window(
    axes: Axes,
    top: int,
    left: int,
    height: int,
    width: int,
    kind: str = "malicious",
    label: str | None = None,
) -> None:
    """Outline a rectangle of cells: ``kind`` "malicious", "mask" or "field" (a receptive field)."""
    from matplotlib.patches import Rectangle

    corner = (left - 0.5, top - 0.5)
    axes.add_patch(Rectangle(corner, width, height, facecolor="none", label=label, **_STYLES[kind]))


def _bare(axes: Axes, title: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def show(figure: Figure, alt: str) -> None:
    """Show a figure in a notebook, with ``alt``: what a reader who cannot see it needs to know, in a
    sentence.
    """
    from IPython.display import display

    if len(alt.split()) < 4:
        raise ValueError(f"alt: {alt!r} says too little, allowed: a sentence about what the figure shows")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    bundle = {"image/png": picture.getvalue(), "text/plain": alt}
    display(bundle, metadata={"image/png": {"alt": alt}}, raw=True)

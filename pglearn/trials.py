"""A trained network on trial: images right before an attack, right after it, and proved to stay right, with
the patches that won as pictures: ``pglearn attack``.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pglearn.attacks import (
    Attacked,
    Victim,
    attack,
    evidence_places,
    gradient_places,
    grid_places,
    random_places,
    universal,
)
from pglearn.certify import Certificate, certify
from pglearn.data import ImageSet
from pglearn.errors import InputError
from pglearn.evidence import atomic
from pglearn.figures import draw_image, draw_window, subplots
from pglearn.geometry import Windows

__all__ = ["LOG", "Trial", "ellipse", "find_places", "first_images", "new_folder", "save", "trial"]


def first_images(images: ImageSet, count: int, target: int | None = None) -> Tensor:
    """Where ``count`` images lie, the first of each class, then the second of each, and so on, so that all
    classes are there also where a set is sorted by class: (count,) int64, ascending. A class that is a
    ``target`` is left out: it has nothing to win there.
    """
    turn = torch.empty_like(images.labels)
    for label in images.labels.unique():
        alike = torch.nonzero(images.labels == label)[:, 0]
        turn[alike] = torch.arange(len(alike))
    order = turn.argsort(stable=True)
    order = order if target is None else order[images.labels[order] != target]
    if not 1 <= count <= len(order):
        raise InputError(
            f"images: {count}, allowed: 1 to the {len(order)} of the data set that can be attacked"
        )
    return order[:count].sort().values


def ellipse(height: int, width: int) -> Tensor:
    """The pixels of a rectangle whose centers lie in the ellipse that touches its sides: (height, width)
    bool.
    """
    rows, columns = (((2 * torch.arange(side) + 1) / side - 1) ** 2 for side in (height, width))
    return rows[:, None] + columns <= 1


def find_places(
    places: tuple[str, int] | tuple[int, int],
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    patch: tuple[int, int],
    windows: list[Windows],
    patches: int = 1,
    seed: int = 0,
) -> Tensor:
    """Where to try ``patches`` at once: corners (N or 1, K, P, 2) int64.

    ``places``: ("evidence", K) and ("gradient", K), the most promising for each image; ("random", K), drawn;
    ("grid", step), every so many pixels; or one corner (row, column).
    """
    kind, number = places
    size = (images.shape[2], images.shape[3])
    if kind == "gradient":
        best = gradient_places(victim, images, labels, patch, number * patches)
        return best.view(len(images), number, patches, 2)  # the best go together
    if kind == "random":
        return random_places(len(images), number, patch, size, patches, seed)
    if patches > 1:
        raise InputError(f"places: are for one patch, allowed for {patches}: gradient:N, random:N")
    if kind == "evidence":
        return evidence_places(victim, images, labels, patch, number, windows)
    if kind == "grid":
        return grid_places(patch, size, number)
    return torch.tensor(places).view(1, 1, 1, 2)


@dataclass(frozen=True)
class Trial:
    """N images, what an attack did to them and what was proved of them. Margins are in units of evidence."""

    index: Tensor
    """(N,) int64: their places in the test set."""
    images: Tensor
    """(N, 3, H, W) uint8, before the attack."""
    labels: Tensor
    """(N,) int64."""
    classes: tuple[str, ...]
    attacked: Attacked
    patched: Tensor
    """(N, 3, H, W) uint8: under the best patch that was found."""
    predictions: tuple[Tensor, Tensor]
    """(N,) int64: before, and under that patch."""
    margins: tuple[list[float], list[float]]
    """Before, and under that patch."""
    one_for_all: bool
    """All patches have one content."""
    certificate: Certificate | None
    """``None`` without a defense."""
    seconds: float
    """Time to find places and attack."""

    @property
    def tried(self) -> Tensor:
        """(N,) bool: patches were tried."""
        return (self.attacked.corners >= 0).all(2).all(1)

    @property
    def fallen(self) -> Tensor:
        """(N,) bool: one of them won."""
        return self.tried & ~self.attacked.robust

    @property
    def impossible(self) -> list[int]:
        """Places in the test set of certified images that are no longer right: if all is well, none."""
        certified = [] if self.certificate is None else self.certificate.certified.tolist()
        wrong = zip(self.index.tolist(), certified, self.margins[1], strict=False)
        return [index for index, proved, margin in wrong if proved and margin <= 0]


def trial(
    victim: Victim,
    windows: list[Windows],
    images: ImageSet,
    index: Tensor,
    patch: tuple[int, int],
    places: tuple[str, int] | tuple[int, int],
    *,
    patches: int = 1,
    one_for_all: bool = False,
    seed: int = 0,
    **options: Any,
) -> Trial:
    """Certify the images at ``index``, and attack them with ``patches`` of ``patch`` (height, width) pixels.

    ``places`` as for :func:`find_places`. ``one_for_all``: one content for all images. ``options`` as for
    ``attacks.attack`` or ``attacks.universal``. Raises ``InputError`` for what they or ``certify`` refuse.
    """
    if patches < 1:
        raise InputError(f"patches: is {patches}, allowed: 1 or more")
    chosen, defense = images.take(index), victim.defense
    pixels, labels = chosen.images[:], chosen.labels
    maps = victim.evidence(pixels)
    certificate = None if defense is None else certify(maps, labels, defense, windows, victim.k, patches)
    if certificate is not None and not certificate.clean.any():
        raise InputError(
            f"images: none of {len(index)} is right behind the defense, allowed: one or more, or defense none"
        )
    began = time.perf_counter()
    corners = find_places(places, victim, pixels, labels, patch, windows, patches, seed)
    run = universal if one_for_all else attack
    found = run(victim, pixels, labels, patch, corners, seed=seed, **options)
    seconds = time.perf_counter() - began
    patched = found.patched(pixels)
    evidence = maps, victim.evidence(patched)
    predictions = [victim.scores(m).argmax(1) for m in evidence]
    margins = [victim.margins(m, labels).tolist() for m in evidence]
    if certificate is not None:
        margins = [[float(units * certificate.step) for units in row] for row in margins]
    result = Trial(
        index=index,
        images=pixels,
        labels=labels,
        classes=images.classes,
        attacked=found,
        patched=patched,
        predictions=(predictions[0], predictions[1]),
        margins=(margins[0], margins[1]),
        one_for_all=one_for_all,
        certificate=certificate,
        seconds=seconds,
    )
    if not result.tried.any():
        raise InputError("target: has won all that is right, unattacked, allowed: a class that has not")
    return result


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a folder to fill. It is called ``path`` once all is in it, and removed where anything fails.

    Raises ``InputError``, before there is anything to lose, where something is there already, where nothing
    can be written, and where no picture can be drawn.
    """
    try:
        import matplotlib  # noqa: F401
        import PIL  # noqa: F401
    except ImportError as error:
        raise InputError(f"--out: pictures need {error.name}, allowed: with it installed") from None
    final = Path(os.path.realpath(path))
    try:
        if final.exists() and not (final.is_dir() and not any(final.iterdir())):
            raise InputError(f"--out: {path} is there already, allowed: a new folder, or an empty one")
        draft = final.with_name(f".{final.name}.{os.getpid()}.part")
        draft.mkdir()
    except OSError as error:
        raise InputError(f"--out: {path} cannot be written: {error.strerror or error}") from error
    try:
        yield draft
        if final.exists():
            final.rmdir()
        draft.rename(final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


LOG = (
    "index",
    "label",
    "class",
    "clean",
    "certified",
    "withstood",
    "prediction",
    "predicted_class",
    "row",
    "column",
    "margin",
    "margin_attacked",
    "margin_certified",
)
"""Columns of the log. ``prediction`` and ``margin_attacked`` are those under the patch at ``row``, ``column``
(several numbers for several patches), which are empty where an image was wrong before and so not attacked.
What is certified is empty without a defense."""


def save(trial: Trial, folder: Path) -> None:
    """Write into ``folder``: ``log.csv``, a row an image; ``worst.png``, drawn; and pixel by pixel each image
    that fell, under its patch, as ``fallen/INDEX.png``.

    A content that is the same for all images also goes there by itself, transparent where its rectangle is no
    patch: ``patch.png``, of several ``patch-1.png`` and so on.
    """
    with atomic(folder / "log.csv") as write:
        write(_log(trial).encode())
    (folder / "fallen").mkdir()
    for i in trial.fallen.nonzero()[:, 0].tolist():
        _png(folder / "fallen" / f"{trial.index[i]}.png", trial.patched[i])
    worst = _worst(trial)
    if trial.one_for_all:
        contents = trial.attacked.content[worst]
        if (stencil := trial.attacked.stencil) is not None:
            alpha = stencil.to(torch.uint8).expand(len(contents), 1, -1, -1) * 255
            contents = torch.cat([contents, alpha], 1)
        for number, content in enumerate(contents, 1):
            _png(folder / ("patch.png" if len(contents) == 1 else f"patch-{number}.png"), content)
    _draw(trial, worst, folder / "worst.png")


def _log(trial: Trial) -> str:
    certificate, found, nothing = trial.certificate, trial.attacked, [""] * len(trial.index)
    certified = nothing if certificate is None else certificate.certified.int().tolist()
    proved = nothing if certificate is None else certificate.margin
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(LOG)
    for i, index in enumerate(trial.index.tolist()):
        label, prediction = int(trial.labels[i]), int(trial.predictions[1][i])
        places = ["" if min(at) < 0 else " ".join(map(str, at)) for at in found.corners[i].T.tolist()]
        rows.writerow(
            [
                index,
                label,
                trial.classes[label],
                int(found.clean[i]),
                certified[i],
                int(found.robust[i]),
                prediction,
                trial.classes[prediction],
                *places,
                trial.margins[0][i],
                trial.margins[1][i],
                proved[i],
            ]
        )
    return text.getvalue()


def _worst(trial: Trial) -> int:
    """The image whose margin fell most, of those that fell if any did."""
    before, after = trial.margins
    tried = torch.nonzero(trial.tried)[:, 0].tolist()
    return min(tried, key=lambda i: (not trial.fallen[i], after[i] - before[i]))


def _png(path: Path, pixels: Tensor) -> None:
    from PIL import Image

    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(path)


def _draw(trial: Trial, i: int, path: Path) -> None:
    corners = trial.attacked.corners[i].tolist()
    height, width = trial.attacked.content.shape[-2:]
    patched = trial.patched[i]
    label, *says = (
        f"{trial.classes[int(c[i])]:.30}".replace("$", r"\$") for c in (trial.labels, *trial.predictions)
    )
    panels = [
        (
            trial.images[i],
            f"image {trial.index[i]}, {label}\nsays {says[0]}, margin {trial.margins[0][i]:.4g}",
        ),
        (patched, f"patched\nsays {says[1]}, margin {trial.margins[1][i]:.4g}"),
    ]
    panels += [
        (
            patched[:, row : row + height, column : column + width],
            f"patch of {height}x{width}\nat {row}, {column}",
        )
        for row, column in corners
    ]
    figure, axes = subplots(1, len(panels), 3.4, 3.8)
    for ax, panel in zip(axes, panels, strict=True):
        draw_image(ax, *panel)
    for row, column in corners:
        draw_window(axes[0], row, column, height, width)
    figure.savefig(path, bbox_inches="tight")

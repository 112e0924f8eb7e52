"""Tables 14 and 15 and Figure 8, ours beside the paper's: from shipped evidence, or trained again.

No number is typed here: the paper's come from ``data/paper``, ours from evidence and from the cards.
"""

from __future__ import annotations

import csv
import math
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, product
from operator import itemgetter
from pathlib import Path

from tqdm import tqdm

from pglearn.errors import InputError
from pglearn.evidence import EvidenceFile
from pglearn.geometry import Geometry, malicious_windows
from pglearn.reports import Result, measure, percent

__all__ = ["SHIPPED", "TABLES", "Card", "bagnets", "banks_of", "figure8", "retrain", "table14", "table15"]

SHIPPED = Path(__file__).parents[1] / "data"
TRAININGS = {"plain": "conventional", "masked": "provable adversarial", "margin": "margin (ours)"}


@dataclass(frozen=True)
class Card:
    """What a card, ``data/NAME.md``, says: its table rows of two cells, and its ``pglearn`` commands."""

    path: Path
    facts: dict[str, str]
    commands: list[list[str]]
    """The words of each, from ``train`` or ``evaluate`` or ``certify`` on."""

    @classmethod
    def read(cls, path: Path) -> Card:
        """Read a card, or any Markdown file: what it does not have is empty."""
        text = path.read_text(encoding="utf-8")
        facts = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text, flags=re.M))
        commands = [shlex.split(line) for line in re.findall(r"^pglearn (.*)$", text, flags=re.M)]
        return cls(path, facts, commands)

    @property
    def name(self) -> str:
        """The name of the model's file, without its ending."""
        return self.path.stem

    def trained(self, option: str) -> str:
        """What the card's ``pglearn train`` gives for an option, ``""`` where it gives nothing."""
        line = next((words for words in self.commands if words[0] == "train"), [])
        return dict(pairwise(line)).get(option, "")

    @property
    def start(self) -> Card | None:
        """The card of the model that training began from, if not from random weights."""
        before = self.path.with_name(f"{Path(self.trained('--model')).stem}.md")
        return Card.read(before) if self.trained("--model").endswith(".safetensors") else None

    @property
    def network(self) -> str:
        """The name of its architecture."""
        return self.start.network if self.start else self.trained("--model")

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width in pixels of the patch that it was trained against."""
        height, width = self.trained("--patch").split("x")
        return int(height), int(width)

    @property
    def dataset(self) -> str:
        """The paper's data set whose name begins the card's, the longest; else the card's own."""
        own = re.sub("[^a-z0-9]", "", self.trained("--data").lower())
        names = sorted((row["dataset"] for row in _paper("settings")), key=len, reverse=True)
        return next((name for name in names if own.startswith(name.lower().replace("-", ""))), own)


Banks = Sequence[tuple[Card, EvidenceFile]]


def bagnets(folder: str | os.PathLike[str]) -> list[Card]:
    """The cards of BagNets in ``folder``, by data set and training; ``InputError`` where there are none."""
    order = list(TRAININGS)
    cards = [
        card
        for card in map(Card.read, sorted(Path(folder).glob("*.md")))
        if card.network.startswith("bagnet") and card.trained("--objective") in order
    ]
    if not cards:
        raise InputError(f"data: {folder} holds no card with the training of a BagNet, allowed: as {SHIPPED}")
    return sorted(cards, key=lambda card: (card.dataset, order.index(card.trained("--objective"))))


def banks_of(cards: Iterable[Card], folder: str | os.PathLike[str]) -> Banks:
    """The cards whose banks are in ``folder``, with these; ``InputError`` where there is none."""
    paths = [(card, Path(folder, f"{card.name}-bank.safetensors")) for card in cards]
    if found := [(card, EvidenceFile(path)) for card, path in paths if path.exists()]:
        return found
    raise InputError(f"data: {folder} holds no bank, allowed: {', '.join(path.name for _, path in paths)}")


def _paper(name: str) -> list[dict[str, str]]:
    with open(SHIPPED / "paper" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _grid(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded for a terminal; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (rows[0], ["-" * width for width in widths], *rows[1:])
    return "".join(f"| {' | '.join(map(str.ljust, line, widths))} |\n" for line in lines)


def _fields(bank: EvidenceFile) -> Geometry:
    if bank.geometry is None:
        raise InputError(f"geometry: {bank.path} has none, allowed: a file of pglearn evaluate")
    return bank.geometry


def _settings(card: Card, bank: EvidenceFile) -> dict[str, str]:
    fields, (height, width) = _fields(bank), card.patch
    rows, columns = fields.rows, fields.columns
    window = max(malicious_windows(height, width, fields), key=lambda w: w.height * w.width)
    resized = "after resizing" if card.trained("--size") else "of the images as stored"
    return {
        "network": card.network,
        "weights at the start": f"those of {card.start.name}" if card.start else "random",
        "images": card.facts.get("images", card.trained("--data")),
        "resolution": f"{rows.image}x{columns.image}",
        "patch in training": f"{height}x{width} {resized}",
        "share of pixels": f"{100 * height * width / rows.image / columns.image:.1f} %",
        "receptive field and stride": f"{rows.size} and {rows.stride}",
        "window of that patch": f"{window.height}x{window.width} of {rows.cells}x{columns.cells} features",
        "classes": str(bank.shape[1]),
        "epochs": card.trained("--epochs"),
        "evidence clipped": f"from 0 to {float(bank.clip_high or 'inf') * float(bank.unit or 1):g}",
        "ties": "against the defender",
    }


def _differences(dataset: str, banks: Banks) -> str:
    """One line for each setting in which ours are not the paper's."""
    (paper,) = [row for row in _paper("settings") if row["dataset"] == dataset]
    ours = {card.name: _settings(card, bank) for card, bank in banks}
    text = f"\nDifferences from the paper's {dataset}:\n"
    for setting in next(iter(ours.values()), {}):
        names: dict[str, list[str]] = {}
        for name, settings in ours.items():
            names.setdefault(settings[setting], []).append(name)
        if list(names) != [paper[setting]]:
            each = [value + f" ({', '.join(who)})" * (len(names) > 1) for value, who in names.items()]
            text += f"- {setting}: paper {paper[setting]}; ours {'; '.join(each)}\n"
    return text


def _all_images(card: Card, sample: Result, folder: Path) -> Result | None:
    """Counts over all test images: of evidence in ``folder``, or as the card there has them."""
    path = folder / f"{card.name}-evidence.safetensors"
    if path.exists():
        return replace(measure(EvidenceFile(path), card.patch), data=card.name)
    if not folder.samefile(card.path.parent):
        return None
    try:
        images, clean, certified = (int(card.facts[name]) for name in ("test images", "clean", "certified"))
    except (KeyError, ValueError) as error:
        raise InputError(f"card: {card.path} has no such count: {error}, allowed: a number") from None
    return replace(sample, data=card.name, images=images, clean=clean, certified=certified)


def table14(banks: Banks) -> tuple[str, list[Result]]:
    """Conventional, provable adversarial and margin training: all test images, and the bank, a sample."""
    paper = {(row["dataset"], row["training"]): (row["clean"], row["robust"]) for row in _paper("table-14")}
    head = ["data set", "training", "paper clean", "paper robust"]
    rows = [[*head, "ours", "patch", "images", "clean", "certified"]]
    results: list[Result] = []
    theirs = list(dict.fromkeys(name for name, _ in paper))[::-1]
    datasets = dict.fromkeys([*theirs, *(card.dataset for card, _ in banks)])
    for dataset, (objective, training) in product(datasets, TRAININGS.items()):
        start = [dataset, training, *paper.get((dataset, training), "––")]
        before = len(rows)
        for card, bank in banks:
            if (card.dataset, card.trained("--objective")) != (dataset, objective):
                continue
            sample = measure(bank, card.patch)
            for result in (_all_images(card, sample, bank.path.parent), sample):
                if result:
                    results.append(result)
                    shares = [percent(count, result.images) for count in (result.clean, result.certified)]
                    images = str(result.images)
                    if result is not sample:
                        shares, images = [share.split(" [")[0] for share in shares], f"all {images}"
                    patch = f"{result.patch} in {_settings(card, bank)['resolution']}"
                    rows.append([*start, result.data, patch, images, *shares])
        if len(rows) == before and (dataset, training) in paper:
            rows.append([*start, *"–––––"])
    text = _grid(rows)
    for dataset in theirs:
        if mine := [(card, bank) for card, bank in banks if card.dataset == dataset]:
            text += _differences(dataset, mine)
    return text, results


def table15(banks: Banks) -> tuple[str, list[Result]]:
    """Top-1 to top-5 of the networks trained for the mask, at the paper's shares of the pixels."""
    banks = [(card, bank) for card, bank in banks if card.trained("--objective") != "plain"]
    (classes,) = [row["classes"] for row in _paper("settings") if row["dataset"] == "ImageNet"]
    paper, results = _paper("table-15"), []
    shares = list(dict.fromkeys(row["patch_percent"] for row in paper))
    ks = sorted({int(row["k"]) for row in paper})
    rows = [["evidence", "classes", "patch", "accuracy", *(f"top-{k}" for k in ks)]]
    for share, what in product(shares, ("clean", "robust")):
        line = [f"{row[what]} %" for row in paper if row["patch_percent"] == share]
        rows.append(["paper: ImageNet", classes, f"{share} %", what, *line])
    for (_, bank), share in product(banks, shares):
        pixels = _fields(bank).rows.image
        side = round(pixels * math.sqrt(float(share) / 100))
        found = [measure(bank, (side, side), k=k) for k in ks]
        results += found
        patch = f"{side}x{side} = {100 * side**2 / pixels**2:.1f} %"
        for what in ("clean", "certified"):
            line = [percent(getattr(result, what), result.images) for result in found]
            rows.append([bank.path.stem, str(bank.shape[1]), patch, what, *line])
    for count in sorted({bank.shape[1] for _, bank in banks}):
        chance = [f"{100 * k / count:.1f} %" for k in ks]
        rows.append(["one list for all images", str(count), "any", "certified", *chance])
    text = "\nNot comparable: among fewer classes an answer that never looks is worth more (last line).\n"
    return _grid(rows) + text + _differences("ImageNet", banks), results


def figure8(banks: Banks) -> tuple[str, list[Result]]:
    """Clean and certified against the side of the patch: every size; shown, the last of each window."""
    (resolution,) = [row["resolution"] for row in _paper("settings") if row["dataset"] == "ImageNette"]
    rows = [["evidence", "patch", "of the side", "clean", "certified", "certified █ clean ░"]]
    results: list[Result] = []
    for _, bank in tqdm(banks, "figure8", leave=False, disable=None):
        pixels = _fields(bank).rows.image
        lines: list[tuple[float, str, int, list[str]]] = []
        for row in _paper("figure-8"):
            side, shares = int(row["patch_pixels"]), [float(row[name]) for name in ("clean", "robust")]
            texts = [*(f"{share:.1f} %" for share in shares), _bar(*shares)]
            lines.append((side / int(resolution.split("x")[0]), "paper: ImageNette", side, texts))
        sizes = ((malicious_windows(side, side, _fields(bank)), side) for side in range(1, pixels + 1))
        for _, group in groupby(sizes, itemgetter(0)):
            sides = [side for _, side in group]
            result = measure(bank, (sides[-1], sides[-1]))
            results += [replace(result, patch=f"{side}x{side}") for side in sides]
            counts = result.clean, result.certified
            texts = [percent(count, result.images) for count in counts]
            texts.append(_bar(*(100 * count / result.images for count in counts)))
            lines.append((sides[-1] / pixels, bank.path.stem, sides[-1], texts))
        for share, name, side, texts in sorted(lines):
            rows.append([name, f"{side}x{side}", f"{100 * share:.1f} %", *texts])
    text = "\nOurs: the largest patch of each window; smaller ones, down to the line above, fare alike.\n"
    text += "Where a patch meets every field, the paper counts chance; here all tie, and a tie is lost.\n"
    return _grid(rows) + text + _differences("ImageNette", banks), results


def _bar(clean: float, certified: float) -> str:
    return "█" * round(certified / 4) + "░" * (round(clean / 4) - round(certified / 4))


TABLES = {"table14": table14, "table15": table15, "figure8": figure8}


def retrain(
    cards: Iterable[Card],
    folder: str | os.PathLike[str],
    run: Callable[[list[str]], object],
    minutes: float | None = None,
) -> bool:
    """Make the models of ``cards``, their banks and all their evidence in ``folder``; whether all are there.

    ``run`` executes the words of a ``pglearn`` command. Files that are there are kept. After ``minutes``
    training stops, and the same call goes on.
    """
    began = time.monotonic()
    Path(folder).mkdir(parents=True, exist_ok=True)
    for card in cards:
        if card.path.parent.samefile(folder):
            raise InputError(f"retrain: is {folder}, which holds the cards, allowed: another folder")
        evidence = Path(folder, f"{card.name}-evidence.safetensors")
        for command in card.commands:
            words = [str(Path(folder, word[5:])) if word.startswith("data/") else word for word in command]
            words = [str(evidence) if word == "evidence.safetensors" else word for word in words]
            out = Path(dict(pairwise(words)).get("--out", ""))
            if words[0] not in ("train", "evaluate") or out.is_file():
                continue
            if words[0] == "train" and minutes is not None:
                left = minutes - (time.monotonic() - began) / 60
                words += ["--minutes", f"{max(left, 0):.2f}"]
            print("pglearn", shlex.join(words), flush=True)
            run(words)
            if not out.is_file():  # out of time
                return False
    return True

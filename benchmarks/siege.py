"""Every shipped model and defense under attack, beside its certificates: certified <= attacked <= clean.

``python -m benchmarks.siege --out data/siege.csv`` (``make siege``) makes both tables again, in about an
hour on one core: a row a model and defense, and in ``siege-between.csv`` a row an image that no patch has
broken and no certificate covers, with its margins in units: clean, attacked, certified, and under the attack
on evidence. Each image that is right is attacked where its certificate is weakest and at random places, by
gradients (first the margin, then towards the strongest rival) and, where it still stands, by random search.
Rows that a stopped run has left behind are kept. Exit code 1 where an image that is certified has fallen.
Real images: ``PGLEARN_DATA`` names their folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pglearn.attacks import Victim, attack, load_victim
from pglearn.certify import Certificate, certify
from pglearn.data import load
from pglearn.evidence import atomic, sha256
from pglearn.geometry import Windows
from pglearn.trials import find_places, first_images

DATA = Path(__file__).parents[1] / "data"
DEFENSES = ("mask", "features", "clip", "vote", "mask:confidence")


@dataclass(frozen=True)
class Budget:
    """How many images of each class, and how hard: places where the certificate is weakest, random places,
    steps at each in each of two restarts; places and steps of the search.
    """

    each: int
    worst: int
    random: int
    steps: int
    searched: int
    search_steps: int


@dataclass(frozen=True)
class Target:
    """A shipped model behind some defenses."""

    model: str
    defenses: Sequence[str]
    data: str
    patch: tuple[int, int]
    size: int | None
    budget: Budget


_SHAPES = ("shapes", (9, 9), None, Budget(50, 8, 4, 20, 4, 40))
_CIFAR = ("cifar10-jpg", (5, 5), None, Budget(30, 6, 2, 20, 2, 40))
_IMAGENETTE = ("imagenette2-224", (16, 16), 112, Budget(20, 3, 1, 15, 2, 30))
_SLOW = Budget(10, 2, 0, 15, 1, 20)
TARGETS = (
    Target("shapes-resnet", ("none",), *_SHAPES),
    Target("shapes-bagnet-plain", ("none", "mask"), *_SHAPES),
    Target("shapes-bagnet", ("none", "mask"), *_SHAPES),
    Target("shapes-bagnet-margin", ("none", *DEFENSES), *_SHAPES),
    Target("cifar10-plain", ("none", "mask"), *_CIFAR),
    Target("cifar10-masked", ("none", "mask"), *_CIFAR),
    Target("cifar10-margin", ("none", *DEFENSES), *_CIFAR),
    Target("imagenette-plain", ("none", "mask"), *_IMAGENETTE),
    Target("imagenette-masked", ("none", "mask"), *_IMAGENETTE),
    Target("imagenette-margin", ("none", *DEFENSES), *_IMAGENETTE),
    Target("cifar10-ds", ("vote", "mask:confidence"), *_CIFAR[:3], _SLOW),
    Target("shapes-ds", ("vote", "mask:confidence"), *_SHAPES[:3], _SLOW),
)
SHORT = Budget(2, 2, 1, 5, 1, 5)


def under_evidence(victim: Victim, maps: Tensor, labels: Tensor, certificate: Certificate) -> Tensor:
    """Margins (N,) under the attack on *evidence* that a certificate must fear: in its worst window the label
    gets nothing and one rival everything, the rival that this helps most.
    """
    assert victim.defense is not None
    transform = victim.defense.transform
    units = transform(maps)
    classes, (height, width) = units.shape[1], units.shape[2:]
    row, column = torch.arange(height)[:, None], torch.arange(width)
    top, left, high, wide = (value[:, None, None] for value in certificate.worst.T)
    inside = (row >= top) & (row < top + high) & ((column - left) % width < wide)  # (N, H, W)
    least = torch.full((len(maps),), torch.iinfo(torch.int64).max)
    for rival in range(classes):
        moved = units.masked_fill(inside[:, None], 0)
        moved[:, rival] = units[:, rival].masked_fill(inside, transform.top)
        scores = victim.defense.aggregate.scores(moved)
        gap = scores.gather(1, labels[:, None])[:, 0] - scores[:, rival]
        least = least.minimum(gap.where(labels != rival, least))
    return least


def places(
    victim: Victim,
    windows: list[Windows],
    images: Tensor,
    labels: Tensor,
    patch: tuple[int, int],
    budget: Budget,
    seed: int,
) -> Tensor:
    """Corners (N, K, 1, 2) to try, the most promising first."""
    kinds = {"gradient" if victim.defense is None else "evidence": budget.worst, "random": budget.random}
    found = [
        find_places((kind, number), victim, images, labels, patch, windows, seed=seed)
        for kind, number in kinds.items()
        if number
    ]
    return torch.cat(found, 1)


def besiege(
    target: Target, defense: str, budget: Budget, seed: int, progress: bool = True
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One row of the table, and the images between its bounds."""
    began = time.perf_counter()
    path, (name, _, transform) = DATA / f"{target.model}.safetensors", defense.partition(":")
    victim, windows = load_victim(path, target.patch, name, transform or None)
    every = load(target.data, "test", size=target.size)
    index = first_images(every, budget.each * len(every.classes))
    chosen = every.take(index)
    images, labels = chosen.images[:], chosen.labels
    maps = victim.evidence(images)
    margin = victim.margins(maps, labels)
    clean, certified, least = margin > 0, torch.zeros(len(images), dtype=torch.bool), margin.double()
    certificate = None
    if victim.defense is not None:
        certificate = certify(maps, labels, victim.defense, windows)
        certified = certificate.certified
    corners = places(victim, windows, images, labels, target.patch, budget, seed)
    searched = places(victim, windows, images, labels, target.patch, budget, seed + 1)[:, : budget.searched]
    standing, patches, steps, on_certified = clean.clone(), 0, 0, 0
    rounds = (
        ("gradient", corners, {"steps": budget.steps, "restarts": 2}),
        ("search", searched, {"steps": budget.search_steps}),
    )
    for method, where, options in rounds:
        for group in (certified, ~certified):
            hit = torch.nonzero(group & standing)[:, 0]
            if not len(hit):
                continue
            found = attack(
                victim,
                images[hit],
                labels[hit],
                target.patch,
                where[hit],
                method=method,
                seed=seed,
                progress=f"{target.model} {defense} {method}" if progress else None,
                **options,
            )
            standing[hit] = found.robust
            least[hit] = least[hit].minimum(found.margin.double())
            patches, steps = patches + found.patches, steps + found.steps
            on_certified += found.patches if group is certified else 0
    row = {
        "data": target.data,
        "model": target.model,
        "defense": defense,
        "patch": "x".join(map(str, target.patch)),
        "images": len(images),
        "clean": int(clean.sum()),
        "attacked": int(standing.sum()),
        "certified": int(certified.sum()),
        "fallen": int((certified & ~standing).sum()),
        "patches": patches,
        "on_certified": on_certified,
        "steps": steps,
        "seed": seed,
        "minutes": round((time.perf_counter() - began) / 60, 1),
    }
    between = []
    if certificate is not None:
        evidence = under_evidence(victim, maps, labels, certificate)
        for i in torch.nonzero(standing & ~certified)[:, 0].tolist():
            between.append(
                {
                    "model": target.model,
                    "defense": defense,
                    "image": int(index[i]),
                    "label": int(labels[i]),
                    "clean": int(margin[i]),
                    "attacked": int(least[i]),
                    "certified": int(certificate.margin_units[i]),
                    "evidence": int(evidence[i]),
                }
            )
    return row, between


def _csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    rows = list(rows)
    lines = [list(rows[0]), *(list(row.values()) for row in rows)] if rows else []
    with atomic(path) as write:
        write("".join(",".join(map(str, line)) + "\n" for line in lines).encode())


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table as this module writes them."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.siege", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="CSV; the images between go beside it")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="only these models")
    parser.add_argument("--short", action="store_true", help="a few images and steps, to see that it works")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    draft, known = Path(f"{args.out}.part"), {}
    if draft.exists():
        known = {tuple(key): value for key, *value in map(json.loads, draft.read_text().splitlines())}
    found = []
    for target in TARGETS:
        if args.only and target.model not in args.only:
            continue
        budget = SHORT if args.short else target.budget
        for defense in target.defenses:
            file = sha256(DATA / f"{target.model}.safetensors")
            key = (target.model, defense, file, str(budget), args.seed)
            if key not in known:
                known[key] = list(besiege(target, defense, budget, args.seed, sys.stderr.isatty()))
                with open(draft, "a", encoding="utf-8") as log:
                    log.write(json.dumps([key, *known[key]]) + "\n")
            row = known[key][0]
            print(
                "{model:<22} {defense:<16} {images:>4} images: {clean:>4} clean {attacked:>4} attacked "
                "{certified:>4} certified {patches:>6} patches".format(**row),
                flush=True,
            )
            found.append(known[key])
    order = sorted(found, key=lambda pair: [str(pair[0][name]) for name in ("data", "model", "defense")])
    _csv(args.out, (row for row, _ in order))
    _csv(
        args.out.with_name(f"{args.out.stem}-between.csv"), (image for _, images in order for image in images)
    )
    os.remove(draft)
    fallen = sum(row["fallen"] for row, _ in found)
    total, sure = (sum(row[name] for row, _ in found) for name in ("patches", "on_certified"))
    print(f"{total} patches, {sure} of them on certified images: {fallen} certified images fell")
    return int(fallen > 0)


if __name__ == "__main__":
    sys.exit(main())

"""What a recipe is worth: one change at a time, trained for a few epochs, judged on training images held out.

``python -m benchmarks.recipes --out data/recipes.csv`` makes the table again, five minutes a row. Rows that
the file already has are not trained again, so it can be stopped at any time. Test images are not looked at.
The rows of the embedded set: ``--data shapes --patch 9x9 --epochs 14 --lr 0.008 --only "masked, then margin"
"masked, then masked"``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import torch

from pglearn import training
from pglearn.certify import certify
from pglearn.data import ImageSet, load
from pglearn.defenses import Defense, Logits, WindowMask
from pglearn.geometry import malicious_windows
from pglearn.models import build, evidence_batches, geometry

HELD_OUT = 500  # of each class, the last of the training images
BASE: dict[str, Any] = {
    "objective": "margin",
    "stages": None,  # the model's own
    "sharpness": 4.0,
    "lr": 4e-3,
    "weight_decay": 0.02,
    "shift": 1,
    "batch_size": 128,
    "average": 0.0,
    "before": 0.0,  # share of the epochs with the masked objective, before the others at half the rate
}
RECIPES: dict[str, dict[str, Any]] = {
    "base: margin": {},
    "objective plain": {"objective": "plain"},
    "objective masked": {"objective": "masked"},
    "masked, then margin": {"before": 0.5},
    "masked, then masked": {"before": 0.5, "objective": "masked"},
    "scale 8": {"sharpness": 8.0},
    "scale 16": {"sharpness": 16.0},
    "no padding": {"stages": ((4, 2, 64, 1, 0), (3, 2, 256, 2, 0))},
    "wider": {"stages": ((4, 2, 64, 1, 1), (3, 2, 512, 2, 1))},
    "deeper": {"stages": ((4, 2, 64, 1, 1), (3, 2, 256, 4, 1))},
    "average 0.99": {"average": 0.99},
}


def held_out(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Training images without the last :data:`HELD_OUT` of each class, and those."""
    last = torch.cat([torch.nonzero(images.labels == c)[-HELD_OUT:, 0] for c in range(len(images.classes))])
    chosen = torch.zeros(len(images), dtype=torch.bool)
    chosen[last] = True
    pixels = images.images[:]
    return tuple(ImageSet(pixels[part], images.labels[part], images.classes) for part in (~chosen, chosen))


def trial(
    data: ImageSet, judge: ImageSet, name: str, patch: tuple[int, int], epochs: int, seed: int, change: Any
) -> dict[str, Any]:
    """Train one recipe on ``data``; count what is right in ``judge``, and certified with masks at T = 0."""
    recipe = BASE | change
    torch.manual_seed(seed)
    stages = recipe.pop("stages")
    model = build(name, len(data.classes), **({"stages": stages} if stages else {}))
    training.SHARPNESS = recipe.pop("sharpness")
    before, lr = round(recipe.pop("before") * epochs), recipe["lr"]
    if before:
        first = recipe | {"objective": "masked", "lr": lr}
        training.train(model, data.images, data.labels, patch=patch, epochs=before, seed=seed, **first)
        recipe["lr"] = lr / 2
    training.train(model, data.images, data.labels, patch=patch, epochs=epochs - before, seed=seed, **recipe)
    seen = geometry(model, data.image_size)
    windows = malicious_windows(*patch, seen)
    maps = torch.cat([maps for _, maps in evidence_batches(model, judge.images)])
    defense = Defense(Logits(*training.constants(float(maps.max()))), WindowMask.against(windows))
    found = certify(maps, judge.labels, defense, windows)
    right = int((defense.transform(maps).sum((2, 3)).argmax(1) == judge.labels).sum())
    percent = [
        f"{100 * n / len(judge):.1f}" for n in (right, int(found.clean.sum()), int(found.certified.sum()))
    ]
    size = "x".join(map(str, training.window_of(model, data.image_size, patch)))
    return {
        "epochs": epochs,
        "seed": seed,
        "field": seen.rows.size,
        "stride": seen.rows.stride,
        "map": f"{seen.rows.cells}x{seen.columns.cells}",
        "window": size,
        "parameters": sum(p.numel() for p in model.parameters()),
        **dict(zip(("undefended", "clean", "certified"), percent, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10-jpg")
    parser.add_argument("--model", default="bagnet-small-32")
    parser.add_argument("--patch", default="5x5")
    parser.add_argument("--lr", type=float, default=BASE["lr"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=RECIPES, default=list(RECIPES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    BASE["lr"] = args.lr
    data, judge = held_out(load(args.data))
    height, width = map(int, args.patch.split("x"))
    for name in args.only:
        done = list(csv.DictReader(args.out.open())) if args.out.exists() else []
        key = {"data": args.data, "model": args.model, "recipe": name, "epochs": str(args.epochs)}
        if any(row | key == row for row in done):
            continue
        found = trial(data, judge, args.model, (height, width), args.epochs, args.seed, RECIPES[name])
        row = key | found
        with args.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if not done:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


if __name__ == "__main__":
    main()

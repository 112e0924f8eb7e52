"""What attacks cost: patches x steps a second, beside a reference library on the same work, and how fast an
ordinary network falls.

``python -m benchmarks.attacks --out data/attacks.csv`` takes three minutes on two cores that do nothing else.
The reference is ART (adversarial-robustness-toolbox, of the ``test`` extra): projected gradient descent on a
masked image, and Square Attack on the content of the patch. Same model, images, batch, steps and threads;
candidates take turns, medians count, ``ratio`` is to ART in the same round. Nothing may fall while it is
timed, so ours asks for the label to be the very last guess; loading and judging is part of every call.
"whole" puts patches through the network with the whole image, "cut" only with the part that sees them.
Columns ``task, model, attack, batch, steps, threads, value, unit, ratio, device, load, torch, art``; load: of
the machine, in processes that want to run.
"""

import argparse
import csv
import io
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.clock import turns
from pglearn import shapes
from pglearn.attacks import Attacked, Victim, attack
from pglearn.evidence import atomic
from pglearn.models import load_model

MODELS = {"shapes-resnet": 9, "shapes-bagnet-margin": 9, "cifar10-margin": 5}
"""Shipped weights, and the side of the patch in pixels."""
NEAR = torch.tensor([(28, 28), (20, 28), (28, 20), (28, 36), (36, 28)]).view(1, 5, 1, 2)
"""The middle of a 64x64 image for a 9x9 patch, and 8 pixels beside it: most objects are there."""
COLUMNS = ("task", "model", "attack", "batch", "steps", "threads", "value", "unit", "ratio", "device", "load")
COLUMNS += ("torch", "art")
Row = tuple[str, str, str, int, int, int, str, str, str]


class Means(nn.Module):
    """Images (N, 3, H, W) to the means of evidence (N, C): an undefended classifier, as libraries want it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).mean((2, 3))


class Patched(nn.Module):
    """Contents of patches (N, 3, h, w), one for each of ``images``, to scores (N, C): with it, an attack on
    whole images attacks patches.
    """

    def __init__(self, model: nn.Module, images: Tensor, corner: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.images, self.corner = model, images, corner

    def forward(self, content: Tensor) -> Tensor:
        (row, column), (height, width) = self.corner, content.shape[2:]
        patched = self.images.clone()
        patched[:, :, row : row + height, column : column + width] = content
        return self.model(patched)


def classifier(model: nn.Module, shape: tuple[int, ...], device: str) -> Any:
    """ART's view of a ``model`` that maps images of ``shape`` (3, H, W) to scores (N, 10)."""
    from art.estimators.classification import PyTorchClassifier

    loss, kind = nn.CrossEntropyLoss(), "gpu" if device == "cuda" else "cpu"
    return PyTorchClassifier(model, loss, shape, 10, clip_values=(0.0, 1.0), device_type=kind)


def masked_descent(
    model: nn.Module, corner: tuple[int, int], side: int, steps: int, pace: float = 0.1, decay: float = 0.75
) -> Callable[[Tensor, Tensor], Tensor]:
    """ART's projected gradient descent: signs of gradients with momentum, any change (eps 1) of a square."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    row, column = corner
    device = next(model.parameters()).device.type
    means = Means(model)

    def run(images: Tensor, labels: Tensor) -> Tensor:
        mask = np.zeros(images.shape, np.float32)
        mask[:, :, row : row + side, column : column + side] = 1
        target = classifier(means, tuple(images.shape[1:]), device)
        options: dict[str, Any] = {"eps": 1.0, "eps_step": pace, "decay": decay, "max_iter": steps}
        search = ProjectedGradientDescentPyTorch(target, batch_size=len(images), verbose=False, **options)
        return torch.from_numpy(search.generate(images.numpy(), labels.numpy(), mask=mask))

    return run


def on_content(
    model: nn.Module, corner: tuple[int, int], side: int, make: Callable[[Any, int], Any]
) -> Callable[[Tensor, Tensor], Tensor]:
    """An attack of ART's that knows no mask: ``make`` it, of a classifier and its batch, for the content of a
    patch.
    """
    row, column = corner
    device = next(model.parameters()).device.type

    def run(images: Tensor, labels: Tensor) -> Tensor:
        scores = Patched(Means(model), images.to(device), corner)
        search = make(classifier(scores, (3, side, side), device), len(images))
        square = (..., slice(row, row + side), slice(column, column + side))
        patched = images.clone()
        patched[square] = torch.from_numpy(search.generate(images[square].numpy(), labels.numpy()))
        return patched

    return run


def auto_descent(target: Any, batch: int, steps: int) -> Any:
    """ART's Auto-PGD: momentum, its pace halved where it stops paying; a gradient and another pass a step."""
    from art.attacks.evasion import AutoProjectedGradientDescent

    options: dict[str, Any] = {"eps": 1.0, "eps_step": 1.0, "max_iter": steps, "nb_random_init": 1}
    return AutoProjectedGradientDescent(
        target, batch_size=batch, loss_type="cross_entropy", verbose=False, **options
    )


def squares(target: Any, batch: int, steps: int) -> Any:
    """ART's Square Attack. It would leave out images that have fallen, and then ``Patched`` would not know
    whose contents they are: none counts as fallen.
    """
    from art.attacks.evasion import SquareAttack

    def never(scores: np.ndarray[Any, Any], labels: object) -> np.ndarray[Any, Any]:
        return np.zeros(len(scores), bool)

    options: dict[str, Any] = {"eps": 1.0, "max_iter": steps, "adv_criterion": never}
    return SquareAttack(target, batch_size=batch, verbose=False, **options)


class Whole(nn.Module):
    """A network that hides what its cells see, so that whole images go through it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def throughput(device: str, threads: int, batch: int, steps: int, rounds: int) -> Iterator[Row]:
    """Patches x steps a second of one attack on ``batch`` images of noise, in one place."""
    for name, side in MODELS.items():
        model, about = load_model(f"data/{name}.safetensors")
        model.to(device).requires_grad_(False)
        height, width = map(int, about["image_size"].split("x"))
        pixels = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
        corner = ((height - side) // 2, (width - side) // 2)
        last = int(model.config["num_classes"]) - 1
        ways = {"whole": Victim(Whole(model), None, last, device), "cut": Victim(model, None, last, device)}
        if name == "shapes-resnet":
            del ways["cut"]  # its one cell sees everything
        labels = ways["whole"].scores(ways["whole"].evidence(pixels)).argmax(1)
        references = {
            "gradient": ("ART, masked PGD", masked_descent(model, corner, side, steps)),
            "search": ("ART, Square", on_content(model, corner, side, partial(squares, steps=steps))),
        }
        for method, (reference, run) in references.items():
            works: dict[str, Callable[[], object]] = {reference: partial(run, pixels, labels)}
            for way, victim in ways.items():
                ours = partial(attack, victim, pixels, labels, (side, side), corner)
                works[f"ours, {method}, {way}"] = partial(in_full, ours, method, steps)
            for label, (took, ratio) in turns(works, rounds).items():
                rate = f"{batch * steps / took:.0f}"
                yield "throughput", name, label, batch, steps, threads, rate, "steps/s", f"{1 / ratio:.2f}"


def in_full(ours: Callable[..., Attacked], method: str, steps: int) -> None:
    """One attack, all of whose steps were done."""
    found = ours(method=method, steps=steps)
    assert found.steps == len(found.clean) * steps, "an image has fallen, so this was less work"


def fall(device: str, threads: int, images: int, steps: int) -> Iterator[Row]:
    """The undefended ordinary network on the embedded test images, one 9x9 patch an image, in the middle or a
    little beside it; from weights to the answer, drawing the images not included.
    """
    pixels, labels = shapes.dataset("test", images)
    began, worked = time.perf_counter(), time.process_time()
    victim = Victim(load_model("data/shapes-resnet.safetensors")[0], device=device)
    found = attack(victim, pixels, labels, (9, 9), NEAR, steps=steps)
    took, work = time.perf_counter() - began, time.process_time() - worked
    how = f"ours, gradient, best of {NEAR.shape[1]} places"
    what = ("fall", "shapes-resnet", how, images, steps, threads)
    yield *what, f"{took:.1f}", "s", ""
    yield *what, f"{work:.1f}", "s of processor time", ""
    for when, right in (("before", found.clean), ("after", found.robust)):
        yield *what, str(int(right.sum())), f"images right {when}", ""
    lost = 100 * int((found.clean & ~found.robust).sum()) / images
    yield *what, f"{lost:.1f}", "points lost", ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the throughput table (default 1)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("throughput", "fall"))
    args = parser.parse_args()
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {os.cpu_count()} cores"
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    work = (args.device, args.threads, args.batch_size, args.steps, args.rounds)
    cores = os.cpu_count() or 1
    tasks = {"fall": lambda: fall(args.device, cores, 256, 40), "throughput": lambda: throughput(*work)}
    for task, rows in tasks.items():
        if args.only in (None, task):
            torch.set_num_threads(args.threads if task == "throughput" else cores)
            for row in rows():
                here = (where, f"{os.getloadavg()[0]:.1f}", torch.__version__)
                table.writerow((*row, *here, version("adversarial-robustness-toolbox")))
                name, how, value, unit, ratio = row[1], row[2], *row[6:]
                print(f"{name:<22} {how:<36} {value:>8} {unit:<20} {ratio}", flush=True)
    if args.out:
        with atomic(args.out) as write:
            write(text.getvalue().encode())


if __name__ == "__main__":
    main()

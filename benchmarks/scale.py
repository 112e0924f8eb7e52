"""What things cost, as a table that the book reads.

``python -m benchmarks.scale --out data/scale.csv`` takes 75 s on two cores that do nothing else. Columns
``task, model, setting, processes, value, unit, device, torch``. Candidates take turns, medians count; one
thread a process where nothing else is said, batch 128. "step" is a training step, network and objective:
what Appendix A's objective would cost de-randomized smoothing, beside a BagNet; KiB is memory that waits for
the gradient.
"""

import argparse
import csv
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.__main__ import TOP, evidence, seconds
from benchmarks.clock import turns
from pglearn import models, training
from pglearn.certify import certify_units
from pglearn.data import ImageFiles
from pglearn.defenses import WindowMask
from pglearn.distributed import joined, place, share
from pglearn.evidence import atomic
from pglearn.geometry import all_windows
from pglearn.shapes import dataset

BAGNET, DS, BATCH, PATCH = "bagnet-small-32", "ds-small-32", 128, (5, 5)
Row = tuple[str, str, str, int, float, str]


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """Noise of the size of CIFAR-10's images, and labels."""
    torch.manual_seed(0)
    return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (count,))


def network(compiled: bool = False) -> models.LocalNet:
    model = models.build(BAGNET, 10)
    if compiled:
        model.compile()
    return model


def one_epoch(model: models.LocalNet, steps: int, device: str, amp: bool, threads: int = 1) -> None:
    torch.set_num_threads(threads)
    options: dict[str, Any] = {"epochs": 1, "batch_size": BATCH, "device": device, "amp": amp, "lr": 1e-3}
    images, labels = pictures(steps * BATCH)
    training.train(model, images, labels, objective="margin", patch=PATCH, progress=False, **options)


def all_evidence(model: models.LocalNet, images: Tensor, device: str, amp: bool, threads: int = 1) -> None:
    torch.set_num_threads(threads)
    with torch.autocast(device, torch.bfloat16, enabled=amp):
        for _ in models.evidence_batches(model, images, 256, device, None, share(len(images))):
            pass


def precision(device: str, steps: int, rounds: int) -> Iterator[Row]:
    """Training and evidence in images a second, in one process."""
    images, plain, fast = pictures(steps * BATCH)[0], network(), network(compiled=True)
    pays = training._mixed_precision_pays(torch.device(device))
    ways: dict[str, tuple[models.LocalNet, bool, int]] = {
        "float32": (plain, False, 1),
        "bfloat16": (plain, True, 1),
        f"{'bfloat16' if pays else 'float32'}, compile": (fast, pays, 1),
        f"{'bfloat16' if pays else 'float32'}, two threads": (plain, pays, 2),
    }
    tasks: dict[str, Callable[..., None]] = {
        "train": lambda model, amp, threads: one_epoch(model, steps, device, amp, threads),
        "evidence": lambda model, amp, threads: all_evidence(model, images, device, amp, threads),
    }
    for task, work in tasks.items():
        found = turns({name: lambda w=way, f=work: f(*w) for name, way in ways.items()}, rounds)
        for name, (took, _) in found.items():
            yield task, BAGNET, name, 1, steps * BATCH / took, "images/s"
    torch.set_num_threads(1)


def together(device: str, steps: int, rounds: int) -> Iterator[Row]:
    """The same in two processes: run by ``torchrun``, the first one prints its rows."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "benchmarks.scale", "--worker", "--device", device]
    command += ["--steps", str(steps), "--rounds", str(rounds)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    for line in done.stdout.splitlines():
        yield tuple(json.loads(line))  # type: ignore[misc]


def worker(device: str, steps: int, rounds: int) -> None:
    model, images = network(), pictures(steps * BATCH)[0]
    pays = training._mixed_precision_pays(torch.device(device))
    name = "bfloat16" if pays else "float32"
    with joined("nothing is kept"):
        for task, work in {
            "train": lambda: one_epoch(model, steps, device, pays),
            "evidence": lambda: all_evidence(model, images, device, pays),
        }.items():
            took, _ = turns({task: work}, rounds)[task]
            if place()[0] == 0:
                print(json.dumps((task, BAGNET, name, 2, steps * BATCH / took, "images/s")), flush=True)


def certificates(device: str, least: float) -> Iterator[Row]:
    """Margins of window masking at T = 0, microseconds an image."""
    for classes, side, window, images in ((10, 8, 3, 4096), (10, 22, 6, 1024), (1000, 26, 6, 64)):
        for kind in ("typical", "worst"):
            units, labels = (part.to(device) for part in evidence(kind, images, classes, side))
            windows = [all_windows(window, window, side, side)]

            def ours() -> Tensor:
                return certify_units(units, labels, WindowMask(window, window), windows, TOP).margin_units  # noqa: B023

            took = seconds(ours, least)
            yield "certificate", f"maps {classes}x{side}x{side}", kind, 1, 1e6 * took / images, "us/image"


def decoding(rounds: int) -> Iterator[Row]:
    """JPEG files of the embedded data set, quality 90, read as the library reads them."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for side, count in ((32, 512), (224, 64)):
            paths = [Path(folder, f"{side}-{n}.jpg") for n in range(count)]
            for path, pixels in zip(paths, dataset("test", count, 0, side=side)[0], strict=True):
                Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, quality=90)
            files = ImageFiles(paths, (side, side))
            took, _ = turns({"decode": lambda f=files: f[:]}, rounds)["decode"]
            yield "decode", f"JPEG {side}x{side}", "uint8", 1, count / took, "images/s"


def all_bands(model: models.LocalNet) -> models.LocalNet:
    """In training mode, but with evidence of every band."""
    model.train()
    model.training = False  # of the whole, which would draw one band of each image
    return model


def kept(loss: Callable[[], Tensor]) -> int:
    """Bytes that stay in memory between ``loss`` and its gradient."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = loss()
    del result
    return sum(storages.values())


def steps_of(device: str, rounds: int, batch: int = BATCH) -> Iterator[Row]:
    """One training step: BagNet by objective, and DS-ResNet on one drawn band and on all 32."""
    amp = training._mixed_precision_pays(torch.device(device))
    images, labels = (part.to(device) for part in pictures(batch))
    bagnet, ds = (models.build(name, 10).to(device).train() for name in (BAGNET, DS))
    whole = all_bands(models.build(DS, 10).to(device))
    cases: dict[tuple[str, str], tuple[models.LocalNet, str]] = {
        (BAGNET, "plain"): (bagnet, "plain"),
        (BAGNET, "masked"): (bagnet, "masked"),
        (BAGNET, "margin"): (bagnet, "margin"),
        (DS, "softmax, one band"): (ds, "softmax"),
        (DS, "masked, all 32 bands"): (whole, "masked"),
    }

    def loss_of(model: models.LocalNet, objective: str, count: int = batch) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            maps = model(images[:count])
        window = training.window_of(model, (32, 32), PATCH)
        return training.OBJECTIVES[objective](maps.float(), labels[:count], window)

    def step(model: models.LocalNet, objective: str, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss_of(model, objective).backward()
        optimizer.step()

    for name in (BAGNET, DS):
        works = {
            setting: partial(step, model, objective, torch.optim.AdamW(model.parameters(), 1e-4))
            for (network, setting), (model, objective) in cases.items()
            if network == name
        }
        for setting, (took, _) in turns(works, rounds).items():
            yield "step", name, setting, 1, 1000 * took / batch, "ms/image"
    for (name, setting), (model, objective) in cases.items():
        all_of, half = (kept(partial(loss_of, model, objective, count)) for count in (batch, batch // 2))
        yield "step", name, setting, 1, (all_of - half) / (batch // 2) / 1024, "KiB/image"  # without weights


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/scale.csv"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=4, help="of one turn (default 4)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.worker:
        return worker(args.device, args.steps, args.rounds)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {os.cpu_count()} cores"
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("task", "model", "setting", "processes", "value", "unit", "device", "torch"))
    for task, model, setting, processes, value, unit in itertools.chain(
        steps_of(args.device, args.rounds),
        certificates(args.device, args.rounds / 5),
        decoding(args.rounds),
        precision(args.device, args.steps, args.rounds),
        together(args.device, args.steps, args.rounds),
    ):
        shown = f"{value:.3g}" if value < 100 else f"{value:.0f}"
        table.writerow((task, model, setting, processes, shown, unit, where, torch.__version__))
        print(f"{task:<12} {model:<18} {setting:<22} {processes} {shown:>8} {unit}", flush=True)
    with atomic(args.out) as write:
        write(text.getvalue().encode())


if __name__ == "__main__":
    main()

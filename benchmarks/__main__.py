"""How fast certificates are: ``python -m benchmarks`` prints one table of ratios measured in one run, on one
thread.

The yardstick is Algorithm 2 as the paper writes it: for every malicious window and every class a masked sum,
for the true class the detection over all masks again. Its loops are in Python and its sums in numpy, as in
published code; margins included on both sides. Evidence is fixed-point and in memory. A second yardstick is
one pass over the evidence: summing every map once.
"""

import argparse
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pglearn.certify import certify_units
from pglearn.defenses import Sum, TopMask, WindowMask
from pglearn.geometry import all_windows
from pglearn.reports import compare

TOP = 4095
BANK = Path(__file__).parent.parent / "data" / "cifar10-masked-bank.safetensors"


def paper_loops(maps: np.ndarray, label: int, w: int) -> int:
    """Algorithm 2 at T = 0 on one image: maps (C, H, W), integers -> smallest margin over all windows."""
    classes, height, width = maps.shape
    places = [(i, j) for i in range(height - w + 1) for j in range(width - w + 1)]
    margins = []
    for i, j in places:
        outside = np.ones((height, width), dtype=maps.dtype)
        outside[i : i + w, j : j + w] = 0
        rivals = [np.sum(maps[c] * outside) for c in range(classes) if c != label]
        kept = maps[label] * outside
        detected = max(np.sum(kept[a : a + w, b : b + w]) for a, b in places)
        margins.append(np.sum(kept) - detected - max(rivals))
    return int(min(margins))


def evidence(kind: str, images: int, classes: int, side: int) -> tuple[Tensor, Tensor]:
    """Units (N, C, H, W) int32 and labels (N,). "typical": classes differ in strength, one object a map;
    "worst": all alike.
    """
    generator = torch.Generator().manual_seed(0)
    units = torch.rand(images, classes, side, side, generator=generator)
    if kind == "typical":
        units = units * torch.rand(images, classes, 1, 1, generator=generator) ** 2
        at = torch.rand(images, classes, 2, generator=generator) * side
        grid = torch.arange(side)
        distance = (grid[:, None] - at[..., :1, None]) ** 2 + (grid - at[..., 1:, None]) ** 2  # (N, C, H, W)
        units = units * torch.exp(-distance / side)
    units = (units * TOP).to(torch.int32)
    return units, units.flatten(2).sum(-1).argmax(1)


def seconds(work: Callable[[], object], least: float) -> float:
    """The best of several runs, after one to warm up, over at least ``least`` seconds."""
    work()
    best, spent = float("inf"), 0.0
    while spent < least:
        began = time.perf_counter()
        work()
        took = time.perf_counter() - began
        best, spent = min(best, took), spent + took
    return best


def loops(device: str, least: float) -> None:
    """Window masking against the paper's loops, and against one sum of the maps."""
    print("window = mask = 6x6, T = 0, margins included\n")
    table("maps", "evidence", "images", "us/image", "loops ms/image", "x loops", "x one sum")
    for classes, side, images in ((10, 22, 1024), (1000, 26, 64)):
        for kind in ("typical", "worst"):
            units, labels = evidence(kind, images, classes, side)
            defense, windows = WindowMask(6, 6), [all_windows(6, 6, side, side)]
            few = 1 if classes > 100 else 3
            margins = [paper_loops(units[i].numpy(), int(labels[i]), 6) for i in range(few)]
            slow = seconds(lambda: paper_loops(units[0].numpy(), int(labels[0]), 6), 0.1)  # noqa: B023
            units, labels = units.to(device), labels.to(device)

            def ours() -> Tensor:
                return certify_units(units, labels, defense, windows, TOP).margin_units  # noqa: B023

            def one_sum() -> object:
                found = units.flatten(2).sum(-1, dtype=torch.int32)  # noqa: B023
                return torch.cuda.synchronize() if device == "cuda" else found

            assert ours()[:few].tolist() == margins, "the two do not agree"
            fast, once = seconds(ours, least) / images, seconds(one_sum, least / 4) / images
            maps = f"{classes}x{side}x{side}"
            ratios = f"{slow / fast:,.0f}", f"{fast / once:.1f}"
            table(maps, kind, images, f"{fast * 1e6:.1f}", f"{slow * 1e3:.0f}", *ratios)
    print(f"\npeak memory: {peak():.2f} times the batch (its own size included)")


def defenses(device: str, least: float) -> None:
    """Each aggregate beside window masking, after the transform."""
    print("\neach aggregate after its transform, window = mask = 6x6 (3x3 of 8x8), alpha = P * 36 (9)\n")
    table("maps", "evidence", "aggregate", "patches", "us/image", "x mask")
    for classes, side, w, images in ((10, 8, 3, 4096), (10, 22, 6, 1024), (1000, 26, 6, 64)):
        for kind in ("typical", "worst"):
            units, labels = (part.to(device) for part in evidence(kind, images, classes, side))
            windows, base = [all_windows(w, w, side, side)], 0.0
            for aggregate, patches in (
                (WindowMask(w, w), 1),
                (TopMask(w * w), 1),
                (Sum(), 1),
                (TopMask(2 * w * w), 2),
                (Sum(), 2),
            ):
                n = images if patches == 1 else max(1, images // 32)

                def ours() -> Tensor:
                    certificate = certify_units(units[:n], labels[:n], aggregate, windows, TOP, 1, patches)  # noqa: B023
                    return certificate.margin_units

                if patches > 1 and classes > 100:
                    continue
                took = seconds(ours, least / 4) / n
                base = base or took
                name = type(aggregate).__name__
                table(
                    f"{classes}x{side}x{side}", kind, name, patches, f"{took * 1e6:.1f}", f"{took / base:.2f}"
                )


def sweep() -> None:
    """The sweep of Figure 8 on the shipped bank: every patch from one pixel to the whole image."""
    sizes = [(side, side) for side in range(1, 33)]
    began = time.perf_counter()
    results = compare([BANK], sizes, defenses=["mask"])
    took = time.perf_counter() - began
    print(f"\nFigure 8's sweep: {len(sizes)} patch sizes on {results[0].images} images: {took:.1f} s")


def table(*cells: object) -> None:
    """One line of a table."""
    print("  ".join(f"{cell!s:>14}" for cell in cells), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="least time for each measurement (default 2)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if args.device == "cuda" else "one CPU thread"
    print(f"{where}, torch {torch.__version__}; ", end="")
    loops(args.device, args.seconds)
    defenses(args.device, args.seconds)
    sweep()


def peak() -> float:
    """Peak memory of certifying 1000x26x26 evidence, in a process of its own, in batches (Linux)."""
    code = """
        import torch
        from benchmarks.__main__ import TOP, WindowMask, all_windows, certify_units

        def peak():
            return 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

        torch.set_num_threads(1)
        defense, windows = WindowMask(6, 6), [all_windows(6, 6, 26, 26)]
        certify_units(torch.ones(2, 3, 26, 26, dtype=torch.int32), None, defense, windows, TOP)
        before, units = peak(), torch.randint(TOP, (256, 1000, 26, 26), dtype=torch.int32)
        certify_units(units, None, defense, windows, TOP)
        print((peak() - before) / units.nbytes)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()

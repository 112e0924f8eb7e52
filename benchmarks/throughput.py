"""What the one training loop costs beside a bare PyTorch loop: same model, batch, precision and optimizer.

``python -m benchmarks.throughput`` takes half a minute. The bare loop shuffles, steps through the images and
takes the cross-entropy of the mean evidence, no more; ours also moves and mirrors the images, sets the rate,
watches the loss, counts what is right, and computes its objective.
"""

import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.clock import turns
from pglearn import models, training

MOST = 1.3


def bare(model: models.LocalNet, images: Tensor, labels: Tensor, batch: int, device: str, amp: bool) -> None:
    """One epoch as anyone would write it."""
    model.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for index in torch.randperm(len(images)).split(batch):
        x, y = images[index].to(device), labels[index].to(device)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            loss = F.cross_entropy(model(x).float().mean((2, 3)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def measure(
    name: str, side: int, patch: tuple[int, int], batch: int, steps: int, rounds: int, device: str, amp: bool
) -> dict[str, tuple[float, float]]:
    """Seconds of one epoch of ``steps``, and the ratio to the bare loop, for the loop and each objective."""
    torch.manual_seed(0)
    images = torch.randint(256, (steps * batch, 3, side, side), dtype=torch.uint8)
    labels = torch.randint(10, (steps * batch,))
    options = {"patch": patch, "epochs": 1, "batch_size": batch, "amp": amp, "device": device, "lr": 1e-3}

    def ours(objective: str) -> None:
        training.train(model, images, labels, objective=objective, progress=False, **options)

    model = models.build(name, 10)
    works = {"bare": lambda: bare(model, images, labels, batch, device, amp)}
    works |= {objective: lambda o=objective: ours(o) for objective in ("plain", "masked", "margin")}
    return turns(works, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--model", default="bagnet-small-32")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels (default 32)")
    parser.add_argument("--patch", type=int, default=5, help="side in pixels (default 5)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="of one turn (default 8)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--float32", action="store_true", help="even where bfloat16 pays")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    amp = not args.float32 and training._mixed_precision_pays(torch.device(args.device))
    found = measure(
        args.model, args.side, (args.patch,) * 2, args.batch_size, args.steps, args.rounds, args.device, amp
    )
    kind = "bfloat16" if amp else "float32"
    print(
        f"training {args.model} at {args.side} px, batch {args.batch_size}, {kind}, {args.device}, ", end=""
    )
    print(f"{args.threads} thread(s), torch {torch.__version__}")
    for name, (seconds, ratio) in found.items():
        rate = args.steps * args.batch_size / seconds
        print(
            f"{name:<8} {rate:8.0f} images/s {1000 * seconds / args.steps:8.1f} ms a step {ratio:6.2f} x bare"
        )
    if max(ratio for _, ratio in found.values()) > MOST:
        sys.exit(f"slower than {MOST} times the bare loop")


if __name__ == "__main__":
    main()

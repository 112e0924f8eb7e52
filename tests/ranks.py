"""What ``torchrun`` starts in the tests: ``pglearn``, or checks of what several processes do together.

With DIE=MODULE:NAME:RANK:CALL in the environment that process kills itself, as kill -9 would, in that call.
"""

import importlib
import os
import signal
import sys
from typing import Any

import torch
from test_training import OPTIONS, STAGES, two_colors
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pglearn import cli, distributed, models, training
from pglearn.certify import certify_file
from pglearn.defenses import make_defense
from pglearn.evidence import EvidenceFile
from pglearn.geometry import all_windows


def unnormalized() -> models.LocalNet:
    """A network without batch normalization, other weights on every process."""
    torch.manual_seed(distributed.place()[0])
    model = models.build("bagnet-small-32", 2, stages=STAGES)
    for layer in model.modules():
        for name, child in layer.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(layer, name, nn.Identity())
    return model


def gradients(**options: Any) -> tuple[list[torch.Tensor], list[dict[str, float]]]:
    """Of the first step, of all parameters, and the log."""
    model, found = unnormalized(), []

    def record(*_: Any) -> None:
        if not found:
            found.extend(p.grad.clone() for p in model.parameters() if p.grad is not None)

    hook = register_optimizer_step_pre_hook(record)
    log = training.train(model, *two_colors(), **OPTIONS | {"amp": False, "batch_size": 15} | options)
    hook.remove()
    return found, [{name: entry[name] for name in ("epoch", "loss", "accuracy")} for entry in log]


def checks(out: str) -> None:
    """Into ``out``: what the first process has found."""
    with distributed.joined("nothing is left"):
        rank, world = distributed.place()
        shares = distributed.gather(distributed.share(5))
        found = {"shares": [(part.start, part.stop) for part in shares], "gradients": gradients(lr=1e-5)}
        smoothed = models.build("ds-small-64", 2, kept=(0, 4), stages=[(8, 2, 2)])
        training.train(smoothed, *two_colors(), **OPTIONS | {"objective": "softmax"})
        found["alike"] = distributed.gather([v.double().sum().item() for v in smoothed.state_dict().values()])
        found["draws"] = distributed.gather(torch.rand(1).item())
        try:
            training.train(unnormalized(), *two_colors(), **OPTIONS | {"batch_size": world - 1})
        except ValueError as error:
            found["refused"] = str(error)
        windows = [all_windows(1, 1, 1, 4)]
        defense = make_defense("mask", windows, step="1", clip_high="100")
        one = certify_file(EvidenceFile(f"{out}.safetensors"), defense, windows)
        found["certified"] = distributed.gather(one.certified.tolist())
        if not rank:
            torch.save(found, out)


if __name__ == "__main__":
    if die := os.environ.get("DIE"):
        name, function, rank, call = die.split(":")
        module = importlib.import_module(name)
        original, calls = getattr(module, function), 0

        def mortal(*args: Any, **options: Any) -> Any:
            global calls
            calls += 1
            mine = (os.environ["RANK"], str(calls)) == (rank, call)
            if function == "_meet":  # who is still importing can say nothing: die when the other one listens
                store = distributed._store()
                store.wait(["listening"]) if mine else store.set("listening", "")
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(module, function, mortal)
    if sys.argv[1] == "checks":
        checks(sys.argv[2])
    else:
        raise SystemExit(cli.main(sys.argv[1:]))

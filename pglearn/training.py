"""One visible training loop, and the objectives that plug into it.

Every random choice of an epoch is a function of (seed, epoch), so a run that was killed and resumed ends with
the same weights as one that was not.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import time
from collections.abc import Callable
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from pglearn.data import ImageSet
from pglearn.defenses.boxes import box_sums, heaviest_outside
from pglearn.distributed import add_up, gather, place, same_start, share
from pglearn.errors import InputError
from pglearn.evidence import atomic
from pglearn.geometry import all_windows, malicious_windows
from pglearn.models import (
    DSResNet,
    Images,
    LocalNet,
    build,
    evidence_batches,
    geometry,
    load_model,
    save_model,
)

__all__ = [
    "OBJECTIVES",
    "TrainingError",
    "augment",
    "constants",
    "fit",
    "margin",
    "masked",
    "plain",
    "softmax",
    "train",
    "window_of",
]


class TrainingError(InputError):
    """Training cannot go on: one line that says where it stopped and what to change."""


SHARPNESS = 4.0  # of the softmax over mean evidence, so that evidence of order 1 can tell classes apart


def _too_large(window: tuple[int, int], shape: tuple[int, int]) -> InputError:
    return InputError(
        f"objective: masks a window of {window[0]}x{window[1]} in evidence of {shape[0]}x{shape[1]}, "
        "allowed here: plain, softmax"
    )


def plain(evidence: Tensor, labels: Tensor, window: tuple[int, int]) -> Tensor:
    """Cross-entropy of the mean evidence, clipped to max(x, 0) as the defense does: ``evidence`` (N, C, H,
    W), ``labels`` (N,) int64 -> loss ().
    """
    return F.cross_entropy(SHARPNESS * evidence.relu().mean((2, 3)), labels)


def masked(evidence: Tensor, labels: Tensor, window: tuple[int, int]) -> Tensor:
    """Provable adversarial training (App. A): the true class must win without its heaviest window.

    As :func:`plain`, but the label loses the ``window`` (height, width) of positions where it has most
    evidence; the other classes keep all of theirs. The analysis takes more (the patch's own window, from
    every class), so this is its stand-in, not its exact bound.
    """
    height, width = evidence.shape[2:]
    if window[0] > height or window[1] > width:
        raise _too_large(window, (height, width))
    evidence = evidence.relu()
    own = evidence[torch.arange(len(labels), device=labels.device), labels]  # (N, H, W)
    heaviest = F.avg_pool2d(own[:, None], window, 1, divisor_override=1).amax((1, 2, 3))
    left = evidence.sum((2, 3)) - F.one_hot(labels, evidence.shape[1]) * heaviest[:, None]
    return F.cross_entropy(SHARPNESS / (height * width) * left, labels)


def margin(evidence: Tensor, labels: Tensor, window: tuple[int, int]) -> Tensor:
    """Certificate margin: :func:`masked`, with each image's worst malicious window emptied in all classes.
    ``evidence`` (N, C, H, W), ``labels`` (N,) int64, ``window`` in features -> loss (). Raises ``InputError``
    where the window is larger than the map. Ours; bounds of the theorem in :mod:`pglearn.defenses`.

    The worst window is the one that the analysis names (T = 0, a mask of the window's own size): smallest
    lower bound of the label, window emptied and heaviest mask taken, over largest evidence of a rival outside
    the window (which bounds what the patch can give it). The loss is the cross-entropy of these very bounds,
    so its gradient raises the smallest margin. The search costs a few vector operations an offset and no
    gradient.
    """
    evidence = evidence.relu()
    with torch.no_grad():
        inside = _worst_windows(evidence.detach(), labels, window)
    return masked(evidence * ~inside[:, None], labels, window)


def _worst_windows(evidence: Tensor, labels: Tensor, window: tuple[int, int]) -> Tensor:
    """Each image's window of smallest margin as a boolean map: (N, C, H, W) -> (N, H, W)."""
    count, _, height, width = evidence.shape
    if window[0] > height or window[1] > width:
        raise _too_large(window, (height, width))
    places = all_windows(*window, height, width)
    outside = evidence.sum((2, 3))[..., None, None] - box_sums(evidence, *window)  # (N, C, P, Q)
    each = torch.arange(count, device=evidence.device)
    lost = torch.maximum(*heaviest_outside(evidence[each, labels], places, *window))
    lower = outside[each, labels] - lost
    outside[each, labels] = -math.inf
    worst = (lower - outside.amax(1)).flatten(1).argmin(1)
    inside = torch.ones(count, height, width, dtype=torch.bool, device=evidence.device)
    for axis, corner in ((1, worst // lower.shape[2]), (2, worst % lower.shape[2])):
        cells = torch.arange(evidence.shape[axis + 1], device=evidence.device) - corner[:, None]
        inside &= ((cells >= 0) & (cells < window[axis - 1])).unsqueeze(3 - axis)
    return inside


def softmax(evidence: Tensor, labels: Tensor, window: tuple[int, int]) -> Tensor:
    """Cross-entropy of each position's own softmax, unclipped: base classifiers that vote (de-randomized
    smoothing).
    """
    cells = evidence.flatten(2)  # (N, C, H * W)
    return F.cross_entropy(cells, labels[:, None].expand(-1, cells.shape[2]))


OBJECTIVES: dict[str, Callable[[Tensor, Tensor, tuple[int, int]], Tensor]] = {
    "plain": plain,
    "masked": masked,
    "margin": margin,
    "softmax": softmax,
}
"""Names that :func:`train` knows, and their losses."""


def augment(
    images: Tensor, shift: int, generator: torch.Generator, part: slice = slice(None), batch: int = 0
) -> Tensor:
    """Mirror each image (N, 3, H, W) with probability 1/2, and move the batch by up to ``shift`` pixels
    over zeros. ``images`` may be a ``part`` of a ``batch`` of so many: each is changed as in the whole.
    """
    flip = torch.rand(batch or len(images), generator=generator)[part] < 0.5
    images = torch.where(flip[:, None, None, None].to(images.device), images.flip(3), images)
    if shift:
        dy, dx = torch.randint(2 * shift + 1, (2,), generator=generator).tolist()
        height, width = images.shape[2:]
        images = F.pad(images, [shift] * 4)[:, :, dy : dy + height, dx : dx + width]
    return images


def window_of(model: nn.Module, image_size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """Height and width, in features, of the smallest window that holds all that a ``patch`` (in pixels)
    can touch.
    """
    windows = malicious_windows(*patch, geometry(model, image_size))
    return max(w.height for w in windows), max(w.width for w in windows)


def constants(highest: float) -> tuple[str, str]:
    """``(step, clip_high)`` of the logits transform for a model whose largest training evidence is
    ``highest``.

    ``clip_high`` is the next integer, ``step`` the smallest power of two with ``clip_high / step <= 32767``:
    typed decimals.

    >>> constants(11.3)
    ('0.00048828125', '12')
    """
    if not math.isfinite(highest):
        raise TrainingError(
            f"evidence: the largest on the training images is {highest}, allowed: a finite number"
        )
    top = max(1, math.ceil(highest))
    step = 2.0 ** math.ceil(math.log2(top / 32767))
    return format(Decimal(step), "f"), str(top)


def _rate(done: float, peak: float) -> float:
    """One cycle: linearly up to ``peak`` over the first quarter of the run, then down to 0 along a cosine."""
    if done < 0.25:
        return peak * (0.1 + 0.9 * done / 0.25)
    return peak * (1 + math.cos(math.pi * (done - 0.25) / 0.75)) / 2


def _mixed_precision_pays(device: torch.device) -> bool:
    """bfloat16 arithmetic in hardware: measured 2 to 2.5 times as fast there, and slower where it is
    emulated.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def _resume(path: Path, run: dict[str, Any], *states: nn.Module | torch.optim.Optimizer) -> int:
    """Load a checkpoint of this very run and return how many epochs it has done."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        theirs, loaded, done = itemgetter("run", "states", "epochs_done")(saved)
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise InputError(
            f"checkpoint: {path} cannot be read ({type(error).__name__}), delete it to start anew"
        ) from None
    for name in run:
        if theirs.get(name) != run[name]:
            raise InputError(
                f"checkpoint: {path} is of another run: its {name} is {theirs.get(name)!r}, "
                f"this one's {run[name]!r}; delete it or name another file"
            )
    for state, values in zip(states, loaded, strict=True):
        state.load_state_dict(values)
    return done


def train(
    model: LocalNet,
    images: Images,
    labels: Tensor,
    *,
    objective: str = "masked",
    patch: tuple[int, int] = (5, 5),
    epochs: int = 10,
    batch_size: int = 128,
    lr: float = 4e-3,
    weight_decay: float = 0.02,
    shift: int = 1,
    average: float = 0.0,
    seed: int = 0,
    amp: bool | None = None,
    device: str | torch.device | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    minutes: float | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train ``model`` in place on uint8 ``images`` (N, 3, H, W) and ``labels`` (N,) int64; return one log
    entry an epoch.

    ``objective`` names one of :data:`OBJECTIVES`; ``patch`` (pixels) is what "masked" and "margin" face.
    ``average``: decay a step of an exponential moving average of weights, 0 for none.
    AdamW, one-cycle learning rate; each epoch seeds torch's own generator. ``amp``: bfloat16 autocast, by
    default where the hardware has it. ``checkpoint``: a file written after each epoch and resumed from when
    it exists; it must be of the same run. ``minutes``: stop after an epoch whose successor would not end
    within so many since the call; one is always run. Raises ``TrainingError`` when the loss is not finite,
    ``InputError`` for arguments that do not fit and for a checkpoint of another run.

    Several processes (:mod:`pglearn.distributed`) share each batch and add up their gradients: the same run
    as with one, but for the order of floating-point sums, for batch normalization, whose statistics are of a
    process's own share (the first's are saved), and for what models draw at random. A checkpoint may be
    resumed by any number of processes; where that stays the same, a run that was stopped ends with the
    weights of one that was not.
    """
    if objective not in OBJECTIVES:
        raise InputError(f"objective: is {objective!r}, allowed: {', '.join(OBJECTIVES)}")
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("lr", lr)):
        if not value > 0:
            raise InputError(f"{name}: is {value}, allowed: above 0")
    if len(images) != len(labels) or len(images) < batch_size:
        raise InputError(
            f"images: {len(images)} with {len(labels)} labels, allowed: one label each, {batch_size} or more"
        )
    called, (rank, world) = time.perf_counter(), place()
    quiet = not progress or rank > 0
    if batch_size < world:
        raise InputError(f"batch_size: is {batch_size}, allowed for {world} processes: {world} or more")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    amp = _mixed_precision_pays(where) if amp is None else amp
    height, width = images[:1].shape[2:]
    window = window_of(model, (height, width), patch) if objective in ("masked", "margin") else (1, 1)
    loss_of = OBJECTIVES[objective]
    model.to(where).to(memory_format=torch.channels_last).train()
    same_start(model.state_dict().values())
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr)
    run = {
        "model": f"{model.name} {model.config}",
        "images": len(images),
        "objective": objective,
        "window": str(window),
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "weight_decay": weight_decay,
        "shift": shift,
        "average": average,
        "seed": seed,
        "amp": amp,
    }
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True)
    start = 0
    if checkpoint is not None and Path(checkpoint).exists():
        start = _resume(Path(checkpoint), run, model, averaged, optimizer)
    if len(set(gather(start))) > 1:
        raise InputError(f"checkpoint: {checkpoint} differs between processes, allowed: a file that all see")
    steps, part = len(images) // batch_size, share(batch_size)
    log = []
    for epoch in range(start, epochs):
        began, total, right = time.perf_counter(), 0.0, 0.0
        generator = torch.manual_seed(seed * 1_000_003 + epoch)  # torch's own: models may draw from it too
        if world > 1:  # the same order for all, and draws of its own for each process's model
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            torch.manual_seed((seed * 1_000_003 + epoch) * world + rank)
        order = torch.randperm(len(images), generator=generator)
        for step in tqdm(range(steps), f"epoch {epoch + 1}/{epochs}", leave=False, disable=quiet or None):
            for group in optimizer.param_groups:
                group["lr"] = _rate((epoch + step / steps) / epochs, lr)
            index = order[step * batch_size : (step + 1) * batch_size][part]
            batch = augment(images[index].to(where), shift, generator, part, batch_size)
            target = labels[index].to(where)
            with torch.autocast(where.type, torch.bfloat16, enabled=amp):
                evidence = model(batch)
            evidence = evidence.float()  # (n, C, H', W')
            loss = loss_of(evidence, target, window) * (len(index) / batch_size)  # its share of the mean
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            hits = (evidence.detach().relu().sum((2, 3)).argmax(1) == target).sum()
            gradients = (p.grad for p in model.parameters() if p.grad is not None)
            value, found = add_up(gradients, loss.item(), hits.item())
            if not math.isfinite(value):
                raise TrainingError(
                    f"loss: is {value} in epoch {epoch + 1}, step {step + 1}: try a smaller lr (it is {lr})"
                )
            optimizer.step()
            if average:
                averaged.update_parameters(model)
            total += value
            right += found
        entry = {"epoch": epoch + 1, "loss": total / steps, "accuracy": right / (steps * batch_size)}
        entry["seconds"] = time.perf_counter() - began
        log.append(entry)
        if not quiet:
            tqdm.write(
                "epoch {epoch}: loss {loss:.4f}, accuracy {accuracy:.1%}, {seconds:.1f} s".format(**entry)
            )
        if checkpoint is not None and not rank:
            states = [each.state_dict() for each in (model, averaged, optimizer)]
            buffer = io.BytesIO()
            torch.save({"run": run, "states": states, "epochs_done": epoch + 1}, buffer)
            with atomic(checkpoint) as write:
                write(buffer.getvalue())
        ends = 2 * time.perf_counter() - began - called  # the next epoch's end, since the call
        if minutes is not None and gather(ends)[0] > 60 * minutes:
            break
    if average:
        model.load_state_dict(averaged.module.state_dict())
    same_start(model.state_dict().values())
    model.eval()
    return log


def fit(
    images: ImageSet,
    model: str,
    out: str | os.PathLike[str],
    *,
    about: dict[str, str] | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    device: str | torch.device | None = None,
    seed: int = 0,
    minutes: float | None = None,
    **options: Any,
) -> list[dict[str, float]]:
    """``pglearn train``: build ``model`` with random weights, or go on from a file of weights, :func:`train`
    it, fix its constants, save it as ``out``.

    The constants of the logits transform come from all training images (of a ``DSResNet`` the first
    1,000), normalization from the first 5,000.
    While it trains, ``out``.checkpoint holds the last epoch; the same call resumes from there, also where
    ``minutes`` ended it early (then there is no ``out`` yet). ``options`` are those of :func:`train`;
    ``about`` is saved along.
    """
    sample = images.images[:5000].double() / 255
    mean, std = ([round(v, 4) for v in f((0, 2, 3)).tolist()] for f in (sample.mean, sample.std))
    torch.manual_seed(seed)
    if Path(model).is_file():
        network, _ = load_model(model)
        if (classes := network.config["num_classes"]) != len(images.classes):
            raise InputError(
                f"model: {model} has {classes} classes, allowed: {len(images.classes)}, the images'"
            )
    else:
        network = build(model, len(images.classes), mean=mean, std=[max(v, 1e-3) for v in std])
    checkpoint = Path(f"{out}.checkpoint")
    options = {**options, "epochs": epochs, "batch_size": batch_size, "device": device, "seed": seed}
    log = train(network, images.images, images.labels, checkpoint=checkpoint, minutes=minutes, **options)
    if log and log[-1]["epoch"] < epochs:
        return log
    rank, _ = place()
    few = min(1000, len(images)) if isinstance(network, DSResNet) else len(images)  # of many parts each
    bar = None if rank else "constants"
    batches = evidence_batches(network, images.images, 256, device, bar, share(few))
    highest = max(float(maps.abs().max()) for _, maps in batches)  # fixed point keeps the sign
    highest = max(gather(highest))
    if rank:
        return log
    step, clip_high = constants(highest)
    facts = {"classes": json.dumps(images.classes), "image_size": "x".join(map(str, images.image_size))}
    recipe = {name: str(value) for name, value in options.items() if name not in ("device", "progress")}
    facts |= {"step": step, "clip_high": clip_high, "training": json.dumps(recipe), **(about or {})}
    save_model(out, network, facts)
    checkpoint.unlink(missing_ok=True)
    return log

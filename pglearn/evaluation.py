"""From images to an evidence file, with clean accuracy and the latency of defended inference: ``pglearn
evaluate``.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pglearn.data import ImageFiles, ImageSet
from pglearn.defenses import Defense, Logits, WindowMask, whole_steps
from pglearn.distributed import gather, place
from pglearn.errors import InputError
from pglearn.evidence import EvidenceFile, EvidenceWriter, sha256
from pglearn.geometry import malicious_windows
from pglearn.models import LocalNet, evidence_batches, geometry, load_model

__all__ = ["Evaluation", "evaluate", "fitting_model", "latency", "per_class"]


@dataclass(frozen=True)
class Evaluation:
    """Counts over ``images`` test images: right without a defense, and right behind window masking at T =
    0.
    """

    images: int
    undefended: int
    defended: int
    mask: tuple[int, int]
    milliseconds: float
    """Median time of one defended prediction, image to class, one image at a time."""


def per_class(images: ImageSet, count: int) -> ImageSet:
    """The first ``count`` images of each class, in the set's own order."""
    chosen = [torch.nonzero(images.labels == c)[:count, 0] for c in range(len(images.classes))]
    if short := [name for name, found in zip(images.classes, chosen, strict=True) if len(found) < count]:
        raise InputError(f"per-class: {count} images, but {short[0]} has fewer, allowed: what each class has")
    return images.take(torch.cat(chosen).sort().values)


def fitting_model(path: str | os.PathLike[str], images: ImageSet) -> tuple[LocalNet, dict[str, str]]:
    """The model in ``path`` and its metadata; ``InputError`` where ``images`` have another size or number of
    classes than it was trained on.
    """
    model, metadata = load_model(path)
    size = "x".join(map(str, images.image_size))
    if (expected := metadata.get("image_size", size)) != size:
        raise InputError(f"images: are {size} pixels, allowed for this model: {expected}")
    classes = int(model.config["num_classes"])
    if len(images.classes) != classes:
        raise InputError(f"images: have {len(images.classes)} classes, allowed for this model: {classes}")
    return model, metadata


def evaluate(
    model_path: str | os.PathLike[str],
    images: ImageSet,
    out: str | os.PathLike[str],
    patch: tuple[int, int],
    fixed_point: bool = False,
    device: str | torch.device | None = None,
    batch_size: int = 250,
    about: dict[str, str] | None = None,
) -> Evaluation:
    """Write the evidence of ``images`` under the model in ``model_path`` to ``out``, batch by batch; count
    what is right.

    Every two batches make a part, a file beside ``out``; several processes take parts in turn. A call that
    was stopped has left its finished parts, and the next one keeps those of the same model, images and kind
    of numbers. Once all are there they are copied into ``out`` and removed: till then they take its size on
    disk again.

    The defense masks the window of a ``patch`` (height, width in pixels). ``fixed_point``: instead of raw
    float32 write integers, multiples of the model's step (the file's ``unit``) rounded as its transform does,
    but with their sign, for other transforms. ``about`` goes into the file's provenance. Raises
    ``InputError`` for images of another size or number of classes than the model's.
    """
    model, metadata = fitting_model(model_path, images)
    seen = geometry(model, images.image_size)
    mask = WindowMask.against(malicious_windows(*patch, seen), seen.wrap)
    constants: dict[str, Any] = {name: metadata[name] for name in ("step", "clip_high") if name in metadata}
    defense = Defense(Logits(**constants), mask)
    top = defense.transform.top
    kind = torch.float32 if not fixed_point else torch.int16 if top < 2**15 else torch.int32
    if fixed_point:
        constants = {"step": "1", "clip_high": str(top), "unit": defense.transform.step}
    provenance = {"model": Path(model_path).name, "model_sha256": sha256(model_path), **(about or {})}
    shape = (len(images.classes), seen.rows.cells, seen.columns.cells)
    form: dict[str, Any] = {"dtype": kind, "geometry": seen, **constants}
    stored = Logits("1", str(top)) if fixed_point else defense.transform
    (rank, world), out = place(), Path(out)
    starts = range(0, len(images), 2 * batch_size)
    undefended = defended = 0
    for start in starts[rank::world]:
        span = slice(start, min(start + 2 * batch_size, len(images)))
        path, seal = f"{out}.part-{start}", {"part": f"{_seal(images, span)}, batches of {batch_size}"}
        part = EvidenceWriter(path, (span.stop - start, *shape), provenance=provenance | seal, **form)
        if not part.done():
            bar = None if rank else f"evidence from {start} of {len(images)}"
            with part:
                for at, maps in evidence_batches(model, images.images, batch_size, device, bar, span):
                    part.write(
                        _stored(maps, defense.transform.step, kind), images.labels[at : at + len(maps)]
                    )
        truth = images.labels[span].split(batch_size)
        for (maps, _), labels in zip(EvidenceFile(path).batches(batch_size), truth, strict=True):
            units = stored(maps)
            undefended += int((units.flatten(2).sum(-1).argmax(1) == labels).sum())
            defended += int(mask.outcome(units, labels)[1].sum())
    counts = gather((undefended, defended))  # every process's parts are there
    milliseconds = 0.0
    if not rank:
        with EvidenceWriter(out, (len(images), *shape), provenance=provenance, **form) as whole:
            for start in starts:
                for batch in EvidenceFile(f"{out}.part-{start}").batches(batch_size):
                    whole.write(*batch)
        _sweep(out)
        milliseconds = 1000 * latency(model, defense, images.images[:1], device)
    undefended, defended = map(sum, zip(*counts, strict=True))
    return Evaluation(len(images), undefended, defended, (mask.height, mask.width), gather(milliseconds)[0])


def _seal(images: ImageSet, part: slice) -> str:
    """What these images and labels are: of files, their names, sizes and times of change."""
    known, held = hashlib.sha256(images.labels[part].numpy().tobytes()), images.images
    if isinstance(held, ImageFiles):
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in held.paths[part]]
        known.update(repr((files, held.shape, held.size)).encode())
    else:
        known.update(held[part].numpy().tobytes())
    return known.hexdigest()


def _sweep(out: Path) -> None:
    """Remove the parts of ``out``, those of other runs too, and drafts that killed processes left."""
    name = re.escape(out.name)
    ours = re.compile(rf"{name}\.part-\d+|\.{name}(\.part-\d+)?\.\d+\.part")
    for path in out.parent.iterdir():
        if ours.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _stored(maps: Tensor, step: str, kind: torch.dtype) -> Tensor:
    """Raw maps as they are, or in whole steps, in integers of that ``kind``: NaN 0, what does not fit its
    ends.
    """
    if kind.is_floating_point:
        return maps
    ends = torch.iinfo(kind)
    return whole_steps(maps, step).nan_to_num(nan=0.0).clamp(ends.min, ends.max).to(kind)


def latency(
    model: nn.Module,
    defense: Defense,
    images: Tensor,
    device: str | torch.device | None = None,
    runs: int = 20,
) -> float:
    """Median seconds from ``images`` (n, 3, H, W) to their defended scores, over ``runs`` runs after one to
    warm up.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(where).eval()
    seconds = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        with torch.inference_mode():
            defense.scores(model(images.to(where))).cpu()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[runs // 2]

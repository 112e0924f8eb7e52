"""Results and their tables: every table of the book and the README reads one kind of row, from one kind of
file.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from pglearn.certify import certify_file, check, interval, threat
from pglearn.defenses import Defense, TopMask, WindowMask, make_defense
from pglearn.errors import InputError
from pglearn.evidence import EvidenceFile, atomic
from pglearn.geometry import Windows

__all__ = ["Result", "compare", "markdown", "measure", "percent", "read", "write"]


@dataclass(frozen=True)
class Result:
    """What one defense is worth on one evidence file against one attacker. ``clean`` and ``certified`` count
    images; ``patch`` is empty where the attacker was given in feature positions.
    """

    data: str
    defense: str
    transform: str
    patch: str
    window: str
    mask: str
    patches: int
    top_k: int
    images: int
    clean: int
    certified: int
    seconds: float


def measure(
    file: EvidenceFile,
    shape: tuple[int, int],
    kind: str = "patch",
    defense: str = "mask",
    k: int = 1,
    patches: int = 1,
    **options: Any,
) -> Result:
    """Certify ``file`` under the defense ``NAME`` or ``NAME:TRANSFORM`` against ``patches`` of ``shape``.

    ``kind``: "patch" (image pixels) or "window" (feature positions); ``options`` as for ``make_defense``.
    """
    windows, pair = _prepare(file, shape, kind, defense, k, patches, **options)
    began = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    certificate = certify_file(file, pair, windows, k, device, patches)
    seconds = time.perf_counter() - began
    masks = {WindowMask: "{0.height}x{0.width}", TopMask: "{0.alpha} cells"}
    return Result(
        data=file.path.stem,
        defense=defense.partition(":")[0],
        transform=type(pair.transform).__name__.lower(),
        patch="x".join(map(str, shape)) if kind == "patch" else "",
        window=" ".join(sorted({f"{w.height}x{w.width}" for w in windows})),
        mask=masks.get(type(pair.aggregate), "").format(pair.aggregate),
        patches=patches,
        top_k=k,
        images=file.shape[0],
        clean=int(certificate.clean.sum()),
        certified=int(certificate.certified.sum()),
        seconds=round(seconds, 3),
    )


def _prepare(
    file: EvidenceFile,
    shape: tuple[int, int],
    kind: str,
    defense: str,
    k: int,
    patches: int,
    **options: Any,
) -> tuple[list[Windows], Defense]:
    name, _, transform = defense.partition(":")
    windows = threat(file, **{kind: [shape]})
    pair = make_defense(name, windows, patches, transform or None, file, **options)
    check(file.shape, None, pair.aggregate, windows, pair.transform.top, k, patches)
    return windows, pair


def compare(
    paths: Sequence[str | os.PathLike[str]],
    shapes: Sequence[tuple[int, int]],
    kind: str = "patch",
    defenses: Sequence[str] = ("mask", "features", "clip", "vote", "mask:confidence"),
    ks: Sequence[int] = (1,),
    numbers: Sequence[int] = (1,),
    progress: bool = False,
) -> list[Result]:
    """``measure`` for every file, shape, number of patches, defense and k; window masks only against one
    patch.
    """
    files = [EvidenceFile(path) for path in paths]
    if len({file.path.stem for file in files}) < len(files):
        raise InputError("FILE: two files have one name, allowed: names that tell them apart")
    wanted = [
        (file, shape, kind, defense, k, number)
        for file, shape, number, defense, k in product(files, shapes, numbers, defenses, ks)
    ]
    single = [
        run for run in wanted if run[5] > 1 and isinstance(_prepare(*run[:5], 1)[1].aggregate, WindowMask)
    ]
    runs = [run for run in wanted if run not in single] or wanted
    for run in runs:  # bad input shows before the first is computed
        _prepare(*run)
    return [measure(*run) for run in tqdm(runs, "compare", leave=False, disable=not progress)]


def write(path: str | os.PathLike[str], results: Iterable[Result]) -> None:
    """Write results as CSV, one row each."""
    text = io.StringIO()
    rows = csv.DictWriter(text, [field.name for field in fields(Result)], lineterminator="\n")
    rows.writeheader()
    rows.writerows(map(asdict, results))
    with atomic(path) as out:
        out(text.getvalue().encode())


def read(path: str | os.PathLike[str]) -> list[Result]:
    """Read what :func:`write` wrote; ``InputError`` for any other file."""
    kinds = {"int": int, "float": float, "str": str}
    try:
        with open(Path(path), encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            rows = list(table)
        if table.fieldnames != [field.name for field in fields(Result)]:
            raise ValueError(f"columns {table.fieldnames}")
        return [
            Result(**{field.name: kinds[str(field.type)](row[field.name]) for field in fields(Result)})
            for row in rows
        ]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"results: {path}: {error!r:.80}, allowed: a file of pglearn compare") from None


def markdown(results: Sequence[Result], rows: Sequence[str] | None = None, columns: str | None = None) -> str:
    """A Markdown table of rates, in percent, with Wilson's 95 % interval.

    With ``columns``, the name of a field, one column for each of its values, in the form of Table 15: clean
    above certified, one line each for every combination of the fields ``rows``.
    """
    if columns is None:
        rows = rows or (
            "data",
            "patch",
            "window",
            "patches",
            "defense",
            "transform",
            "mask",
            "top_k",
            "images",
        )
        lines = [[*rows, "clean", "certified", "seconds"]]
        lines += [
            [
                *(str(getattr(result, name)) for name in rows),
                percent(result.clean, result.images),
                percent(result.certified, result.images),
                f"{result.seconds:.2f}",
            ]
            for result in results
        ]
    else:
        rows = rows or ("data", "patch", "defense")
        across = list(dict.fromkeys(getattr(result, columns) for result in results))
        cells = {
            (tuple(getattr(result, name) for name in rows), getattr(result, columns)): result
            for result in results
        }
        lines = [[*rows, "accuracy", *(f"{columns.replace('_', '-')} {value}" for value in across)]]
        for key in dict.fromkeys(key for key, _ in cells):
            for what in ("clean", "certified"):
                found = [cells.get((key, value)) for value in across]
                lines.append(
                    [*map(str, key), what, *(percent(getattr(r, what), r.images) if r else "" for r in found)]
                )
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def percent(hits: int, total: int) -> str:
    """A rate in percent with its interval.

    >>> percent(312, 1000)
    '31.2 % [28.4 %, 34.1 %]'
    """
    low, high = interval(hits, total)
    return f"{100 * hits / total:.1f} % [{low:.1f} %, {high:.1f} %]"

"""Evidence on disk and in memory: local evidence maps, their labels, and where they come from.

One file format, safetensors: ``evidence`` (N, C, H, W) of any real type, ``labels`` (N,) int64, and text
metadata (``geometry``, ``step``, ``clip_high``, ``wrap``, ``unit`` and provenance). Read and written in
batches, so a file may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pglearn.errors import InputError
from pglearn.geometry import Geometry

__all__ = ["Evidence", "EvidenceFile", "EvidenceWriter", "atomic", "sha256"]

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_RESERVED = ("geometry", "step", "clip_high", "wrap", "unit")


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as ``sha256sum`` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Callable[[bytes], None]]:
    """Yield ``write(data)``; the final name only ever holds all that was written. A full disk is an
    ``InputError``.
    """
    final = Path(path)
    draft = final.with_name(f".{final.name}.{os.getpid()}.part")
    with _writing(final):
        file = open(draft, "wb")  # noqa: SIM115 (closed below, before it is moved)

    def write(data: bytes) -> None:
        with _writing(final):
            file.write(data)

    try:
        yield write
        with _writing(final):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(draft, final)
    finally:
        with suppress(OSError):  # closing flushes again: after a full disk the first error is the one to tell
            file.close()
        draft.unlink(missing_ok=True)


@dataclass
class Evidence:
    """Local evidence of N images in memory.

    ``maps`` (N, C, H, W), any real type; ``labels`` (N,) int64 or ``None``; ``geometry`` what each position
    sees; ``step`` and ``clip_high`` the model's constants for the logits transform, as typed decimals in
    stored numbers; ``wrap`` whether columns wrap around; ``unit`` the evidence of one stored number, a typed
    decimal, for maps in fixed point.
    """

    maps: Tensor
    labels: Tensor | None = None
    geometry: Geometry | None = None
    step: str | None = None
    clip_high: str | None = None
    wrap: bool = False
    provenance: dict[str, str] = field(default_factory=dict)
    unit: str | None = None

    def __post_init__(self) -> None:
        if self.geometry is not None:  # one wraps, and so does the other
            self.wrap = self.wrap or self.geometry.wrap
            self.geometry = replace(self.geometry, wrap=self.wrap)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that :meth:`load` and ``pglearn certify`` read; never leaves half of one."""
        about = {name: getattr(self, name) for name in (*_RESERVED, "provenance")}
        with EvidenceWriter(path, self.maps.shape, self.maps.dtype, self.labels is not None, **about) as out:
            out.write(self.maps, self.labels)

    @classmethod
    def load(cls, path: str | os.PathLike[str], unlabelled: bool = False) -> Evidence:
        """Read a whole file, without labels where ``unlabelled``; ``InputError`` says in one line what is
        wrong with it.
        """
        return EvidenceFile(path, unlabelled).load()


class EvidenceFile:
    """An evidence file, opened and checked; ``batches`` reads only what it yields.

    Raises ``InputError`` for a missing, truncated or foreign file, a missing tensor, a wrong rank or type, a
    count mismatch, N = 0, and labels out of range.
    """

    def __init__(self, path: str | os.PathLike[str], unlabelled: bool = False):
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(
                f"FILE: {self.path} is not a file, allowed: a safetensors file with evidence and labels"
            )
        try:
            with safe_open(self.path, "numpy"):  # checks the header, and the file's length against it
                pass
            with open(self.path, "rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                self._tensors = json.loads(file.read(length))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"FILE: {self.path} is no complete safetensors file ({str(error).splitlines()[0]:.100})"
            ) from error
        self._data = 8 + length
        metadata = self._tensors.pop("__metadata__", None) or {}
        if "evidence" not in self._tensors:
            raise InputError(f"FILE: no tensor named evidence (found: {', '.join(self._tensors) or 'none'})")
        self.shape = tuple(self._tensors["evidence"]["shape"])
        if len(self.shape) != 4 or 0 in self.shape:
            raise InputError(f"evidence: has shape {self.shape}, allowed: (N, C, H, W), none of them 0")
        if (kind := self._tensors["evidence"]["dtype"]) not in _DTYPES:
            raise InputError(f"evidence: is of type {kind}, allowed: {', '.join(_DTYPES)}")
        images, classes = self.shape[:2]
        self.labels: Tensor | None = None
        if not unlabelled:
            if "labels" not in self._tensors:
                raise InputError(
                    "labels: not in the file, allowed: a tensor (N,) int64, or certify with --unlabelled"
                )
            kind, shape = (self._tensors["labels"][name] for name in ("dtype", "shape"))
            if kind != "I64" or shape != [images]:
                raise InputError(
                    f"labels: are {tuple(shape)} {kind}, allowed: ({images},) I64, one for each evidence map"
                )
            self.labels = self._read("labels", 0, images)
            low, high = self.labels.min().item(), self.labels.max().item()
            if low < 0 or high >= classes:
                raise InputError(f"labels: run from {low} to {high}, allowed: 0 to {classes - 1}")
        if (wrap := metadata.get("wrap", "false")) not in ("true", "false"):
            raise InputError(f"wrap: is {wrap!r} in the file, allowed: true, false")
        self.wrap, text = wrap == "true", metadata.get("geometry")
        self.geometry = None if text is None else Geometry.from_json(text, self.wrap)
        if self.geometry and (self.geometry.rows.cells, self.geometry.columns.cells) != self.shape[2:]:
            raise InputError(
                f"geometry: describes {self.geometry.rows.cells}x{self.geometry.columns.cells} features, "
                f"the evidence has {self.shape[2]}x{self.shape[3]}"
            )
        self.step, self.clip_high, self.unit = map(metadata.get, ("step", "clip_high", "unit"))
        self.provenance = {name: text for name, text in metadata.items() if name not in _RESERVED}

    def _read(self, name: str, start: int, stop: int) -> Tensor:
        # Not through safetensors, whose torch reader maps the whole file as memory that could be written: one
        # larger than the machine's memory would not open.
        about = self._tensors[name]
        (first, last), (images, *rest) = about["data_offsets"], about["shape"]
        each = (last - first) // images
        data = torch.empty((stop - start) * each, dtype=torch.uint8)
        with open(self.path, "rb") as file:
            file.seek(self._data + first + start * each)
            if file.readinto(data.numpy().data) < len(data):
                raise InputError(f"FILE: {self.path} became shorter while it was read")
        return data.view(_DTYPES[about["dtype"]]).view(-1, *rest)

    def batches(self, size: int, part: slice = slice(None)) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield (maps (n, C, H, W), labels (n,) or None), ``size`` images at a time, of a ``part`` or all."""
        first, last, _ = part.indices(self.shape[0])
        for start in range(first, last, size):
            stop = min(start + size, last)
            yield (
                self._read("evidence", start, stop),
                None if self.labels is None else self.labels[start:stop],
            )

    def load(self) -> Evidence:
        """All of it, in memory."""
        ((maps, labels),) = self.batches(self.shape[0])
        about = {name: getattr(self, name) for name in (*_RESERVED, "provenance")}
        return Evidence(maps, labels, **about)


class EvidenceWriter:
    """Write an evidence file batch by batch; the final name appears only when all N images are in.

    ``with EvidenceWriter(path, (N, C, H, W), dtype, geometry=..., step=..., clip_high=...) as writer:
    writer.write(maps, labels)``. Columns wrap where ``wrap`` says so, or ``geometry``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        labeled: bool = True,
        geometry: Geometry | None = None,
        step: str | None = None,
        clip_high: str | None = None,
        wrap: bool = False,
        provenance: dict[str, str] | None = None,
        unit: str | None = None,
    ):
        if dtype not in _NAMES:
            raise InputError(f"dtype: {dtype} cannot be stored, allowed: {', '.join(map(str, _NAMES))}")
        if len(shape) != 4 or 0 in shape:
            raise InputError(f"maps: have shape {tuple(shape)}, allowed: (N, C, H, W), none of them 0")
        if clash := set(provenance or {}) & set(_RESERVED):
            raise InputError(f"provenance: uses the reserved names {sorted(clash)}")
        self.shape, self.dtype, self.labeled = tuple(shape), dtype, labeled
        self._written = 0
        self._labels: list[Tensor] = []
        size = dtype.itemsize * math.prod(shape)
        wrap = wrap or (geometry is not None and geometry.wrap)
        metadata = {**(provenance or {}), "wrap": "true" if wrap else "false"}
        constants = {"step": step, "clip_high": clip_high, "unit": unit}
        metadata |= {name: text for name, text in constants.items() if text is not None}
        if geometry:
            metadata["geometry"] = geometry.to_json()
        header: dict[str, Any] = {"__metadata__": metadata}
        header["evidence"] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [0, size]}
        if labeled:
            offsets = [size, size + 8 * shape[0]]
            header["labels"] = {"dtype": "I64", "shape": [shape[0]], "data_offsets": offsets}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._header = struct.pack("<Q", len(text)) + text
        self._bytes = len(self._header) + size + (8 * shape[0] if labeled else 0)
        self._path, self._stack = Path(path), ExitStack()

    def done(self) -> bool:
        """Whether a file is there already that begins as this one would (same shape, type and metadata), and
        is as long.
        """
        with suppress(OSError), open(self._path, "rb") as file:
            same = file.read(len(self._header)) == self._header
            return same and os.path.getsize(self._path) == self._bytes
        return False

    def __enter__(self) -> EvidenceWriter:
        self._put = self._stack.enter_context(atomic(self._path))
        self._put(self._header)
        return self

    def write(self, maps: Tensor, labels: Tensor | None = None) -> None:
        """Append maps (n, C, H, W) of the declared type, and their labels (n,) unless the file has none."""
        if tuple(maps.shape[1:]) != self.shape[1:] or maps.dtype != self.dtype:
            raise InputError(
                f"maps: are {tuple(maps.shape)} {maps.dtype}, allowed: (n, *{self.shape[1:]}) {self.dtype}"
            )
        if self.labeled:
            if labels is None or tuple(labels.shape) != (len(maps),):
                raise InputError(f"labels: expected {len(maps)}, one for each map")
            self._labels.append(labels.to("cpu", torch.int64))
        self._put(maps.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        self._written += len(maps)

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            with self._stack:
                if self._written != self.shape[0]:
                    raise InputError(f"maps: {self._written} written, {self.shape[0]} declared")
                if self.labeled:
                    self._put(torch.cat(self._labels).numpy().tobytes())
            return None
        return self._stack.__exit__(*error)

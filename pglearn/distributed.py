"""One process, or the several that ``torchrun`` starts: each has its share of the work, the first one speaks.

Alone, nothing here does anything. Together (the environment says so: WORLD_SIZE, RANK,
LOCAL_RANK), processes talk through gloo, and through nccl about what lies on a GPU.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pglearn.errors import InputError

__all__ = ["WorkerLost", "add_up", "gather", "joined", "place", "same_start", "share", "speak"]

_T = TypeVar("_T")
_LAUNCHER = os.getppid()
_speaking = threading.Lock()


class WorkerLost(RuntimeError):
    """Another process of this run is gone."""


def place() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    together = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if together else (0, 1)


def share(count: int) -> slice:
    """This process's part of ``count`` things: contiguous, in order of rank, empty where there are too
    few.
    """
    rank, world = place()
    return slice(rank * count // world, (rank + 1) * count // world)


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # all that torch says when a peer is gone
        raise WorkerLost(f"another process of this run is gone ({str(error)[:99]!r})") from error


def gather(value: _T) -> list[_T]:
    """Everybody's ``value``, in order of rank."""
    values: list[Any] = [value] * place()[1]
    if len(values) > 1:
        with _together():
            dist.all_gather_object(values, value)
    return values


def same_start(tensors: Iterable[Tensor]) -> None:
    """Overwrite everybody's ``tensors`` with the first process's."""
    if place()[1] > 1:
        with _together():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


def add_up(tensors: Iterable[Tensor], *numbers: float) -> list[float]:
    """Sum ``tensors`` in place over all processes, and return the sums of the float32 ``numbers``."""
    if place()[1] == 1:
        return list(numbers)
    tensors = list(tensors)
    flat = torch.cat([torch.tensor(numbers, device=tensors[0].device), *(t.flatten() for t in tensors)])
    with _together():
        dist.all_reduce(flat)
    sums, *parts = flat.split([len(numbers), *(t.numel() for t in tensors)])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
    return sums.tolist()


def _store() -> Any:
    """A connection of its own: one that the main thread waits on would not answer another thread."""
    from torch.distributed.rendezvous import rendezvous  # not in every build of torch

    return next(rendezvous("env://"))[0]


def speak(line: str) -> None:
    """Print ``line`` to stderr, unless another process of this run has spoken: what is wrong is said once."""
    with _speaking:
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        with suppress(RuntimeError, ValueError, ImportError):
            if os.getppid() == _LAUNCHER:  # which holds the store
                first = _store().add(f"spoken {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", 1) == 1
        if first:
            print(line, file=sys.stderr, flush=True)


def _last_words(why: str, stopped: str) -> None:
    why = why if os.getppid() == _LAUNCHER else "the launcher is gone"
    speak(f"pglearn: stopped, {why}: {stopped}")


def _watch(told: socket.socket, stopped: str) -> None:
    """End this process, whatever it is doing, when it is told to or its launcher is gone."""
    while os.getppid() == _LAUNCHER:
        if select.select([told], [], [], 1)[0]:
            if told.recv(1):
                break
            return  # the run is over
    _last_words("another process of this run is gone, or the launcher was told to stop", stopped)
    os._exit(1)


def _meet() -> None:
    try:
        backend, here = "gloo", int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.is_available():
            torch.cuda.set_device(here)
            backend = "cpu:gloo,cuda:nccl"
        rank, world, store = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), _store()
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timedelta(1))
    except (RuntimeError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            f"torchrun: the processes cannot meet ({str(error).splitlines()[0]:.150})"
        ) from error


@contextmanager
def joined(stopped: str) -> Iterator[None]:
    """Join the other processes of this run for the length of a command.

    When one of them or the launcher is killed, this process ends too, with exit code 1, and the first to
    notice says so, and ``stopped``: what is left and how to go on. (A process that has not come here yet ends
    without a word; torchrun names the one that died.) Raises ``InputError`` where the processes cannot meet.
    """
    told, tell = socket.socketpair()
    tell.setblocking(False)
    signals = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.set_wakeup_fd(tell.fileno())  # read also while the main thread waits for the others
    threading.Thread(target=_watch, args=(told, stopped), daemon=True).start()
    try:
        _meet()
        yield
        dist.destroy_process_group()
    except WorkerLost as error:
        _last_words(str(error), stopped)
        raise SystemExit(1) from error
    finally:
        signal.set_wakeup_fd(-1)
        tell.close()
        for number, before in signals.items():
            signal.signal(number, before)

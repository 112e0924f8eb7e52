"""Timings that a busy machine does not tilt: candidates take turns, and the median of many rounds counts."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

__all__ = ["turns"]


def turns(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of each work, and the median of its ratio to the first one in the same round; one round
    more, to warm up, is not counted.
    """
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            took[name].append(time.perf_counter() - began)
    first = next(iter(took.values()))
    return {
        name: (
            statistics.median(each[1:]),
            statistics.median(a / b for a, b in zip(each[1:], first[1:], strict=True)),
        )
        for name, each in took.items()
    }

"""Run notebooks in fresh kernels and store their outputs: `python -m pglearn.learn.book NOTEBOOK…`."""

import math
import os
import sys
import time
from pathlib import Path

__all__ = ["LIMIT", "execute"]

LIMIT = 60
"""Seconds that one chapter may take on two cores."""


def execute(path: Path) -> int:
    """Execute the notebook in place (atomically) and return the seconds it took, which it also stores.

    The kernel's processor time where that is less: on a busy machine it is nearer to what an idle one takes.
    A cell that fails raises `nbclient.exceptions.CellExecutionError` and leaves the file as it was.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    begin, used = time.perf_counter(), _processor_time()
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources=place,
    ).execute()
    wall, processor = time.perf_counter() - begin, _processor_time() - used
    seconds = math.ceil(min(wall, processor or wall))
    notebook.metadata = {  # nothing that differs between machines
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "pglearn": {"seconds": seconds},
    }
    for cell in notebook.cells:  # of an explorer, only its still picture: a stored view shows nothing
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        nbformat.write(notebook, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return seconds


def _processor_time() -> float:
    """Seconds of all child processes that have ended; 0 on Windows."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    for name in sys.argv[1:]:
        taken = execute(Path(name))
        excess = f", but a chapter may take {LIMIT} s" if taken > LIMIT else ""
        print(f"{name}: {taken} s{excess}", flush=True)

"""``pglearn doctor``: what works here, and how to mend the rest."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

__all__ = ["Check", "main", "report"]

_INSTALL = "run `make install`, or in your environment `python -m pip install -r requirements.txt`"


@dataclass(frozen=True)
class Check:
    """One line of the report: a part of the installation, what was found, and how to mend it."""

    name: str
    works: bool
    found: str
    mend: str = ""
    core: bool = False
    """Whether certificates need it; the rest serves training on real images and the book."""


def report() -> list[Check]:
    """Look at everything the library and the book use. Imports torch and torchvision: some seconds."""
    return [
        _python(),
        _check("torch", _torch, _INSTALL, core=True),
        *(_check(name, partial(_version, name), _INSTALL, core=True) for name in _CORE),
        _check("certificate", _certificate, "the installation is damaged: " + _INSTALL, core=True),
        _check("device", _device, _INSTALL),
        _check("shipped data", _shipped, "take the folder `data` of the repository as it is there"),
        _check("real images", _real_images, "needed only to train on real images: set it to their folder"),
        *(_check(name, partial(_version, name), _INSTALL) for name in _BOOK),
        _check("notebook kernel", _kernel, "run `python -m ipykernel install --sys-prefix`"),
    ]


_CORE = ("numpy", "safetensors", "tqdm")
_BOOK = ("torchvision", "matplotlib", "ipywidgets", "jupyterlab")


def main() -> int:
    """Print the report as a table; 0 if the core works, else 1."""
    checks = report()
    width = max(len(check.name) for check in checks)
    for check in checks:
        sign = "ok" if check.works else "--"
        print(f"{sign}  {check.name:<{width}}  {check.found}")
        if not check.works:
            print(f"    {'':<{width}}  {check.mend}")
    broken = [check.name for check in checks if check.core and not check.works]
    print(f"not working: {', '.join(broken)}" if broken else "certificates work here")
    return 1 if broken else 0


def _check(name: str, look: Callable[[], str], mend: str, core: bool = False) -> Check:
    try:
        return Check(name, True, look(), mend, core)
    except Exception as error:  # whatever is broken here is what the report has to say
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Check(name, False, lines[0], mend, core)


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer", core=True)


def _version(name: str) -> str:
    importlib.import_module(name)
    return importlib.metadata.version(name)


def _torch() -> str:
    import torch

    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return "CPU"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB"


def _certificate() -> str:
    """Certify two images whose certificates follow by hand: the first has margin 2, the second ties."""
    import torch

    from pglearn.certify import certify_units
    from pglearn.defenses import WindowMask
    from pglearn.geometry import all_windows

    units = torch.tensor([[[[3, 3, 3, 0]], [[0, 0, 0, 1]]], [[[3, 0, 0, 0]], [[0, 0, 0, 0]]]])  # (2, 2, 1, 4)
    labels = torch.tensor([0, 0])
    result = certify_units(units, labels, WindowMask(1, 1), [all_windows(1, 1, 1, 4)], top=9)
    if (margins := result.margin_units.tolist()) != [2, 0]:
        raise RuntimeError(f"wrong margins {margins}, right: [2, 0]")
    return "two certificates agree with those worked out by hand"


def _shipped() -> str:
    """Names of the shipped weights and evidence; each must have the checksum that its card states."""
    from pglearn.evidence import sha256

    folder = Path(__file__).parents[1] / "data"
    cards = "".join(card.read_text(encoding="utf-8") for card in folder.glob("*.md"))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError("no weights or evidence found beside the package")
    for file in files:
        if f"| {file.name} | {sha256(file)} |" not in cards:
            raise ValueError(f"{file.name} is not the file that its card describes")
    return ", ".join(file.name for file in files)


def _real_images() -> str:
    if not (place := os.environ.get("PGLEARN_DATA")):
        raise LookupError("PGLEARN_DATA is not set")
    if not (names := sorted(path.name for path in Path(place).iterdir() if path.is_dir())):
        raise FileNotFoundError(f"PGLEARN_DATA is {place}: no folder in it")
    return f"PGLEARN_DATA is {place}: {', '.join(names)}"


def _kernel() -> str:
    from jupyter_client.kernelspec import KernelSpecManager

    return str(KernelSpecManager().get_kernel_spec("python3").display_name)

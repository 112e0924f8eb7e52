"""Real images and the embedded set under one roof: ``load(name, split)`` gives images, labels and class
names.

Images are uint8 (n, 3, H, W): small sets in memory, large ones decoded when they are asked for. torchvision
is imported only where it is needed. The data folder is ``root``, or what the environment variable
PGLEARN_DATA names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pglearn.errors import InputError

__all__ = ["DATASETS", "ImageFiles", "ImageSet", "load", "load_folder"]

IN_MEMORY = 2**29  # bytes of pixels up to which a folder is decoded at once


@dataclass(frozen=True)
class ImageFiles:
    """Image files, decoded when indexed: ``files[i:j]`` or ``files[indices]`` is uint8 (n, 3, H, W), as a
    tensor would give.

    ``size``: the shorter side is resized to it (bicubic, antialiased) and the center cropped; ``None``:
    images are taken as they are, and must be of ``shape`` (H, W). Raises ``InputError`` naming the file that
    is corrupt or of another size.
    """

    paths: Sequence[Path]
    shape: tuple[int, int]
    size: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        chosen = self.paths[index] if isinstance(index, slice) else [self.paths[i] for i in index.tolist()]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return torch.stack(list(pool.map(self._read, chosen)))

    def _read(self, path: Path) -> Tensor:
        pixels = _decode(path, self.size)
        if tuple(pixels.shape[1:]) != self.shape:
            raise InputError(
                f"images: {path} has {pixels.shape[1]}x{pixels.shape[2]} pixels, "
                f"allowed: {self.shape[0]}x{self.shape[1]} as the first image, or give a size to resize to"
            )
        return pixels


@dataclass(frozen=True)
class ImageSet:
    """Images (N, 3, H, W) uint8, held or decoded on demand; ``labels`` (N,) int64; names of the
    ``classes``.
    """

    images: Tensor | ImageFiles
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if isinstance(self.images, ImageFiles):
            return self.images.shape
        height, width = self.images.shape[2:]
        return height, width

    def take(self, index: Tensor) -> ImageSet:
        """The images at ``index`` (n,) int64, in that order; none is decoded for it."""
        held = self.images
        if isinstance(held, ImageFiles):
            return replace(
                self,
                images=replace(held, paths=[held.paths[i] for i in index.tolist()]),
                labels=self.labels[index],
            )
        return replace(self, images=held[index], labels=self.labels[index])


def _decode(path: Path, size: int | None) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"images: {path} cannot be decoded ({str(error).splitlines()[0]:.80})") from None
    if size is not None and image.size != (size, size):
        ratio = size / min(image.size)
        width, height = (max(size, round(side * ratio)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        box = (left, top, left + size, top + size)
        image = image.resize((width, height), Image.Resampling.BICUBIC).crop(box)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()


def _image_set(samples: Sequence[tuple[str, int]], classes: Sequence[str], size: int | None) -> ImageSet:
    paths = [Path(path) for path, _ in samples]
    _, height, width = _decode(paths[0], size).shape
    files = ImageFiles(paths, (height, width), size)
    labels = torch.tensor([label for _, label in samples])
    if len(paths) * 3 * height * width > IN_MEMORY:
        return ImageSet(files, labels, tuple(classes))
    chunks = tqdm(range(0, len(paths), 1000), "decoding", leave=False, disable=None)
    return ImageSet(torch.cat([files[i : i + 1000] for i in chunks]), labels, tuple(classes))


def load_folder(path: str | os.PathLike[str], size: int | None = None) -> ImageSet:
    """A tree ``path/<class>/<image>``, with the classes in alphabetical order, as torchvision's
    ``ImageFolder`` reads it.
    """
    from torchvision.datasets import ImageFolder

    if not Path(path).is_dir():
        raise InputError(
            f"data: {path} is not a folder, allowed: a folder with one subfolder of images a class"
        )
    try:
        folder = ImageFolder(str(path))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"data: {path} is no class-per-folder tree ({str(error).splitlines()[0]:.100})"
        ) from None
    return _image_set(folder.samples, folder.classes, size)


def _shapes(root: Path, split: str, size: int | None, download: bool, seed: int) -> ImageSet:
    from pglearn import shapes

    count = 10_000 if split == "train" else 2_000
    images, labels = shapes.dataset(split, count, seed, side=size or 64)
    return ImageSet(images, labels, tuple(shapes.CLASSES))


def _cifar10(root: Path, split: str, size: int | None, download: bool, seed: int) -> ImageSet:
    from torchvision.datasets import CIFAR10

    if size not in (None, 32):
        raise InputError(f"size: is {size}, allowed for cifar10: 32")
    data = CIFAR10(str(root), train=split == "train", download=download)
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(data.targets), tuple(data.classes))


def _imagenette(
    root: Path, split: str, size: int | None, download: bool, seed: int, variant: str = "full"
) -> ImageSet:
    from torchvision.datasets import Imagenette

    data = Imagenette(str(root), "train" if split == "train" else "val", variant, download=download)
    side = size or (224 if variant == "full" else int(variant[:-2]))
    return _image_set(data._samples, [names[0] for names in data.classes], side)


def _imagenet(root: Path, split: str, size: int | None, download: bool, seed: int) -> ImageSet:
    from torchvision.datasets import ImageNet

    data = ImageNet(str(root), "train" if split == "train" else "val")
    return _image_set(data.samples, [names[0] for names in data.classes], size or 224)


_READERS: dict[str, Callable[..., ImageSet]] = {
    "shapes": _shapes,
    "cifar10": _cifar10,
    "imagenette": _imagenette,
    "imagenette-320": partial(_imagenette, variant="320px"),
    "imagenette-160": partial(_imagenette, variant="160px"),
    "imagenet": _imagenet,
}
DATASETS = tuple(_READERS)
"""Names that :func:`load` knows."""


def load(
    name: str,
    split: str = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    size: int | None = None,
    download: bool = False,
    seed: int = 0,
) -> ImageSet:
    """A data set by name: one of :data:`DATASETS`, or any class-per-folder tree ``<root>/<name>/<split>`` (or
    a path to one).

    ``split``: "train" or "test" ("val" is taken for "test", whichever the tree has). ``size``: side in pixels
    to resize and crop to. ``download``: let torchvision fetch it (ImageNet's archives must be fetched by
    hand). ``seed`` draws the embedded set "shapes". Raises ``InputError`` where nothing is found, a file is
    corrupt, or images differ in size.
    """
    if split not in ("train", "test"):
        raise InputError(f"split: is {split!r}, allowed: train, test")
    if size is not None and size < 1:
        raise InputError(f"size: is {size}, allowed: 1 pixel or more")
    where = Path(root or os.environ.get("PGLEARN_DATA") or "data")
    if name in _READERS:
        try:
            return _READERS[name](where, split, size, download, seed)
        except (OSError, RuntimeError, EOFError, ImportError) as error:
            raise InputError(
                f"data: {name} cannot be read from {where} ({str(error).splitlines()[0]:.120}); "
                "allowed: a folder that holds it (root, or PGLEARN_DATA), or a download"
            ) from None
    tree = next((base for base in (where / name, Path(name)) if base.is_dir()), None)
    if tree is None:
        raise InputError(
            f"data: {name!r} is neither a folder in {where} nor a path, "
            f"allowed: {', '.join(DATASETS)}, or a class-per-folder tree"
        )
    names = ("train",) if split == "train" else ("test", "val")
    return load_folder(next((tree / n for n in names if (tree / n).is_dir()), tree / names[0]), size)

"""Networks with small receptive fields, and the way from any network to its
:class:`~pglearn.evidence.Evidence`.

A model here maps images (N, 3, H, W), floats of [0, 1] or uint8, to local evidence (N, C, H', W'): one score
a class and position, not averaged. Normalization happens inside, with buffers that are not part of the state
dict.
"""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from pglearn.errors import InputError
from pglearn.evidence import Evidence, EvidenceWriter, atomic
from pglearn.geometry import Axis, Geometry, Layer, probe, receptive_field

__all__ = [
    "MODELS",
    "BagNet",
    "DSResNet",
    "Images",
    "LocalNet",
    "ResNet",
    "SmallBagNet",
    "build",
    "collect_evidence",
    "evidence_batches",
    "geometry",
    "load_model",
    "load_published",
    "save_model",
]


_Model = TypeVar("_Model", bound=nn.Module)


class Images(Protocol):
    """What training and evidence need of a set of images: a tensor (N, 3, H, W) has it, and so has
    ``data.ImageFiles``.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any) -> Tensor: ...


def _full(evidence: Tensor) -> Tensor:
    """Out of mixed precision, into float32; float64 stays."""
    return evidence.to(torch.promote_types(evidence.dtype, torch.float32))


def _convolution(inside: int, width: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    """Convolution, batch normalization, ReLU."""
    layer = nn.Conv2d(inside, width, kernel, stride, padding, bias=False)
    return [layer, nn.BatchNorm2d(width), nn.ReLU()]


class LocalNet(nn.Module):
    """Base of our networks: remembers how it was built, and normalizes images with ``mean`` and ``std``
    (of [0, 1] pixels).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.name, self.config = type(self).__name__, dict[str, Any]()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3 or (name == "std" and min(values) <= 0):
                raise InputError(
                    f"{name}: is {tuple(values)}, allowed: one number for each of 3 channels, std above 0"
                )
            value = torch.tensor(values, dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def normalized(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W), uint8 or floats of [0, 1], as the network's first layer wants them."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images: have shape {tuple(images.shape)}, allowed: (N, 3, H, W)")
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        x = (images.float() - self.mean * scale) / (self.std * scale)
        return x.contiguous(memory_format=torch.channels_last)

    def layers(self) -> list[Layer]:
        """The path with the largest field from pixels to evidence, for
        :func:`pglearn.geometry.receptive_field`; or else a network gives its :meth:`geometry`.
        """
        raise NotImplementedError

    def geometry(self, height: int, width: int) -> Geometry:
        """What each position of the evidence sees of an image of ``height`` x ``width`` pixels."""
        return Geometry(receptive_field(self.layers(), height), receptive_field(self.layers(), width))


class Bottleneck(nn.Module):
    """ResNet's bottleneck whose 3x3 convolution has no padding, or is 1x1; the shortcut is cropped at the
    far border.
    """

    def __init__(self, inside: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        outside = 4 * width
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.downsample = None
        if stride > 1 or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:  # (N, inside, H, W) -> (N, 4 * width, H', W')
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(y + shortcut[..., : y.shape[-2], : y.shape[-1]])


class BagNet(LocalNet):
    """BagNet of Brendel and Bethge (ICLR 2019), as published: names and shapes of all parameters are those of
    its weights.

    A ResNet-50 in which only ``kernels[i]`` of the blocks of layer i+1 keep a 3x3 convolution: receptive
    field 9, 17 or 33 pixels at stride 8. The classifier is applied at every position: evidence (N, classes,
    H', W').
    """

    def __init__(
        self,
        num_classes: int = 1000,
        kernels: Sequence[int] = (1, 1, 1, 0),
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__(mean, std)
        self.conv1 = nn.Conv2d(3, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 64, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64, momentum=0.001)
        self.spatial = [(3, 1)]
        inside = 64
        for number, (blocks, width, stride, large) in enumerate(
            zip((3, 4, 6, 3), (64, 128, 256, 512), (2, 2, 2, 1), kernels, strict=True), 1
        ):
            stage = []
            for i in range(blocks):
                kernel, step = (3 if i < large else 1), (stride if i == 0 else 1)
                stage.append(Bottleneck(inside, width, kernel, step))
                self.spatial.append((kernel, step))
                inside = 4 * width
            self.add_module(f"layer{number}", nn.Sequential(*stage))
        self.fc = nn.Linear(inside, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def layers(self) -> list[Layer]:
        return [Layer(kernel, stride) for kernel, stride in self.spatial]

    def forward(self, images: Tensor) -> Tensor:  # (N, 3, H, W) -> (N, classes, H', W')
        x = F.relu(self.bn1(self.conv2(self.conv1(self.normalized(images)))))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return F.conv2d(x, self.fc.weight[:, :, None, None], self.fc.bias)  # fc at each position


class Pointwise(nn.Module):
    """Residual 1x1 block: more depth, the same receptive field."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:  # (N, width, H, W), unchanged shape
        return x + F.relu(self.bn(self.conv(x)))


class SmallBagNet(LocalNet):
    """A BagNet for small images: a few convolutions see, residual 1x1 blocks think.

    ``stages``: (kernel, stride, width, 1x1 blocks, padding) one after the other. Its evidence ends in a
    softplus: always above 0, where clipping at 0 would leave classes without any gradient and training from
    scratch dies.
    """

    def __init__(
        self,
        num_classes: int = 10,
        stages: Sequence[Sequence[int]] = ((4, 2, 64, 1, 1), (3, 2, 256, 2, 1)),
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__(mean, std)
        self.stages = [tuple(stage) for stage in stages]
        self.body = nn.Sequential()
        inside = 3
        for kernel, stride, width, blocks, padding in self.stages:
            self.body.extend(_convolution(inside, width, kernel, stride, padding))
            self.body.extend(Pointwise(width) for _ in range(blocks))
            inside = width
        self.fc = nn.Conv2d(inside, num_classes, 1)
        nn.init.normal_(self.fc.weight, 0, 0.5 / math.sqrt(inside))
        nn.init.zeros_(self.fc.bias)  # type: ignore[arg-type]

    def layers(self) -> list[Layer]:
        return [Layer(kernel, stride, padding) for kernel, stride, _, _, padding in self.stages]

    def forward(self, images: Tensor) -> Tensor:  # (N, 3, H, W) -> (N, classes, H', W')
        return F.softplus(_full(self.fc(self.body(self.normalized(images)))))


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inside: int, width: int, stride: int | tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(inside, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (N, inside, H, W) -> (N, width, H / stride, W / stride)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(LocalNet):
    """A small ordinary ResNet, for comparison: its one output cell sees the whole 64x64 image, so it has no
    defense.

    ``widths``: channels of the stages, each of one ``Residual`` block that halves the image. Output (N,
    classes, 1, 1).
    """

    def __init__(
        self,
        num_classes: int = 10,
        widths: Sequence[int] = (32, 64, 96, 128),
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__(mean, std)
        self.stem = nn.Sequential(*_convolution(3, widths[0], 5, 2, 2))
        inner = (widths[0], *widths[:-1])
        self.body = nn.Sequential(*[Residual(a, b, 2) for a, b in zip(inner, widths, strict=True)])
        self.fc = nn.Conv2d(widths[-1], num_classes, 1)

    def geometry(self, height: int, width: int) -> Geometry:
        return Geometry(Axis(height, ((0, height),)), Axis(width, ((0, width),)))

    def forward(self, images: Tensor) -> Tensor:  # (N, 3, H, W) -> (N, classes, 1, 1)
        x = self.body(self.stem(self.normalized(images)))
        return F.softplus(_full(self.fc(x.mean((2, 3), keepdim=True))))  # same answer, and alive as above


class DSResNet(LocalNet):
    """De-randomized smoothing (Levine and Feizi, NeurIPS 2020): a ResNet that sees one small part of an image
    and nothing of the rest, run on every such part.

    ``kept``: height and width in pixels of what is kept; height 0 keeps whole columns (band smoothing), else
    it is a block. Columns wrap around, rows do not. In eval mode images (N, 3, H, W) give raw logits (N,
    classes, 1, W) for bands, (N, classes, H - height + 1, W) for blocks, cell (i, j) for the part whose
    corner is pixel (i, j); with ``stride``, for every such row and column only. In training mode one part of
    each image, drawn from torch's own generator, gives (N, classes, 1, 1).

    'Nothing' is 0 in all channels; a pixel that is kept has 1 in a fourth one, so black is not nothing (the
    paper's channels x and 1 - x sum to the same). That is just what a convolution's zero padding says, so the
    network runs on the part alone: no pixel outside can matter, and none is paid for. ``stages``: (width,
    stride of rows, stride of columns), each a ``Residual`` block, after a 3x3 convolution.
    """

    def __init__(
        self,
        num_classes: int = 10,
        kept: Sequence[int] = (0, 8),
        stride: int = 1,
        stages: Sequence[Sequence[int]] = ((32, 2, 2), (64, 2, 2), (128, 2, 1)),
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__(mean, std)
        (self.height, self.width), self.stride = kept, stride
        if self.height < 0 or self.width < 1 or stride < 1:
            raise InputError(
                f"kept: is {tuple(kept)} at stride {stride}, allowed: 1 or more, height 0 for all"
            )
        inside = stages[0][0]
        self.stem = nn.Sequential(*_convolution(4, inside, 3, 1, 1))
        self.body = nn.Sequential()
        for width, down, right in stages:
            self.body.append(Residual(inside, width, (down, right)))
            inside = width
        self.fc = nn.Conv2d(inside, num_classes, 1)

    def geometry(self, height: int, width: int) -> Geometry:
        if self.height > height or self.width >= width:
            raise InputError(
                f"images: are {height}x{width} pixels, allowed for parts of {self.height}x{self.width}: "
                "as high or higher, and wider"
            )
        rows = range(0, height - self.height + 1, self.stride) if self.height else [0]
        columns = range(0, width, self.stride)
        return Geometry(
            Axis(height, tuple((row, row + (self.height or height)) for row in rows)),
            Axis(width, tuple((column, column + self.width) for column in columns)),
            wrap=True,
        )

    def forward(self, images: Tensor) -> Tensor:  # (N, 3, H, W) -> (N, classes, rows, columns)
        seen = self.geometry(*images.shape[2:])
        x = self.normalized(images)
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1).permute(0, 2, 3, 1)  # (N, H, W, 4)
        count, device, shape = len(x), x.device, (seen.rows.cells, seen.columns.cells)
        if self.training:
            image, shape = torch.arange(count), (1, 1)
            row, column = (torch.randint(axis.cells, (count,)) for axis in (seen.rows, seen.columns))
        else:
            image, row, column = torch.cartesian_prod(*map(torch.arange, (count, *shape))).T
        down, right = torch.arange(seen.rows.size)[:, None], torch.arange(self.width)
        fast = max(1, 2**18 // (len(down) * len(right)))  # parts at once on a CPU, and small in memory
        each = count if self.training else fast  # batch normalization wants them all
        logits = []
        for n, i, j in zip(*(part[:, None, None].split(each) for part in (image, row, column)), strict=True):
            i, j = i * self.stride + down, (j * self.stride + right) % seen.columns.image
            parts = x[n.to(device), i.to(device), j.to(device)].permute(0, 3, 1, 2)  # (n, 4, height, width)
            logits.append(self.fc(self.body(self.stem(parts)).mean((2, 3), keepdim=True)))
        return _full(torch.cat(logits)).view(count, *shape, -1).permute(0, 3, 1, 2)


MODELS: dict[str, tuple[Callable[..., LocalNet], dict[str, Any]]] = {
    "bagnet9": (BagNet, {"kernels": (1, 1, 0, 0)}),
    "bagnet17": (BagNet, {"kernels": (1, 1, 1, 0)}),
    "bagnet33": (BagNet, {"kernels": (1, 1, 1, 1)}),
    "bagnet-small-32": (SmallBagNet, {"stages": ((4, 2, 64, 1, 1), (3, 2, 256, 2, 1))}),
    "bagnet-wide-32": (SmallBagNet, {"stages": ((4, 2, 256, 2, 1), (3, 2, 1024, 4, 1))}),
    "bagnet-small-64": (SmallBagNet, {"stages": ((5, 2, 32, 1, 2), (3, 2, 96, 2, 1))}),
    "bagnet-small-112": (SmallBagNet, {"stages": ((5, 2, 32, 1, 2), (3, 2, 96, 1, 1), (3, 2, 256, 2, 1))}),
    "resnet-small-64": (ResNet, {}),
    "ds-small-32": (DSResNet, {"kept": (0, 4), "stages": ((64, 2, 1), (128, 2, 2), (256, 2, 2))}),
    "ds-small-64": (DSResNet, {"kept": (0, 8)}),
}
"""Names that :func:`build` knows, and what they stand for."""


def build(name: str, num_classes: int, **config: Any) -> LocalNet:
    """A fresh model by its name in :data:`MODELS`; ``config`` replaces what the name stands for
    (``stages``, ``mean``, ...).
    """
    if name not in MODELS:
        raise InputError(f"model: is {name!r}, allowed: {', '.join(MODELS)}")
    if num_classes < 2:
        raise InputError(f"num_classes: is {num_classes}, allowed: 2 or more")
    kind, standard = MODELS[name]
    config = {**standard, **config}
    try:
        model = kind(num_classes, **config)
    except TypeError as error:
        raise InputError(f"model: {name} cannot be built ({error})") from None
    model.name, model.config = name, {"num_classes": num_classes, **config}
    return model


def load_published(model: BagNet, path: str | os.PathLike[str]) -> BagNet:
    """Fill a BagNet with the published weights file (or any of the same names and shapes); nothing in it
    is executed.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"weights: {path} cannot be read ({_first_line(error)})") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    return _fill(model, {name.removeprefix("module."): value for name, value in state.items()}, path)


def save_model(
    path: str | os.PathLike[str], model: LocalNet, metadata: Mapping[str, str] | None = None
) -> None:
    """Write weights, how to build the model, and ``metadata`` (classes, image size, step, clip_high, ...)
    as safetensors.
    """
    about = {"pglearn_model": model.name, "config": json.dumps(model.config), **(metadata or {})}
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    data = save(tensors, about)  # the order of its header differs between processes
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    with atomic(path) as write:
        write(len(header).to_bytes(8, "little") + header + data[end:])


def load_model(path: str | os.PathLike[str]) -> tuple[LocalNet, dict[str, str]]:
    """The model of a file that :func:`save_model` wrote, in eval mode, and its metadata."""
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"model: {path} cannot be read ({_first_line(error)}), allowed: a file of pglearn train"
        ) from None
    if "pglearn_model" not in metadata:
        raise InputError(f"model: {path} holds no pglearn model, allowed: a file of pglearn train")
    try:
        model = build(metadata["pglearn_model"], **json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"model: {path} does not say how to build it ({_first_line(error)})") from None
    return _fill(model, state, path).eval(), metadata


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _fill(model: _Model, state: Mapping[str, Tensor], path: object) -> _Model:
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise InputError(
            f"weights: {path} is of another model: {len(wrong)} tensors differ, first {name}: "
            f"found {found.get(name, 'nothing')}, allowed {expected.get(name, 'nothing')}"
        )
    model.load_state_dict(dict(state))
    return model


def geometry(model: nn.Module, image_size: int | tuple[int, int]) -> Geometry:
    """What each position of the model's evidence sees of an image of ``image_size`` pixels (side, or height
    and width).

    By formula for our networks; any other ``nn.Module`` is measured with :func:`pglearn.geometry.probe`.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return model.geometry(height, width) if isinstance(model, LocalNet) else probe(model, height, width)


def evidence_batches(
    model: nn.Module,
    images: Images,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    progress: str | None = "evidence",
    part: slice = slice(None),
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of the first image, evidence (n, C, H', W') float32 on the CPU), batch by batch, in eval
    mode.

    Runs on the GPU where there is one; ``progress`` names the bar, ``None`` hides it; ``part``: only these.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    mode = model.training
    model.to(where).eval()
    try:
        first, last, _ = part.indices(len(images))
        starts = range(first, last, batch_size)
        for start in tqdm(starts, progress, leave=False, disable=True if progress is None else None):
            with torch.inference_mode():
                maps = model(images[start : min(start + batch_size, last)].to(where))
            if maps.ndim != 4:
                raise InputError(
                    f"model: gives a tensor of shape {tuple(maps.shape)}, allowed: maps (N, C, H, W)"
                )
            yield start, maps.float().cpu()
    finally:
        model.train(mode)


def collect_evidence(
    model: nn.Module,
    images: Images,
    labels: Tensor | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    batch_size: int = 256,
    geometry: Geometry | None = None,
    step: str | None = None,
    clip_high: str | None = None,
    provenance: Mapping[str, str] | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Evidence | None:
    """Evidence of any network: ``model`` maps images (n, 3, H, W) to maps (n, C, H', W'), float32, in eval
    mode.

    Held in memory and returned, or, with ``path``, streamed to an evidence file batch by batch (then
    ``None``). Runs on the GPU where there is one. ``geometry``, ``step`` and ``clip_high`` go along
    unchanged. Raises ``InputError`` for no images, labels that do not match, and maps of the wrong rank.
    """
    if len(images) == 0:
        raise InputError("images: there are none, allowed: one or more")
    if labels is not None and len(labels) != len(images):
        raise InputError(f"labels: {len(labels)} for {len(images)} images, allowed: one each")
    about: dict[str, Any] = {"geometry": geometry, "step": step, "clip_high": clip_high}
    about["provenance"] = dict(provenance or {})
    batches = evidence_batches(model, images, batch_size, device, "evidence" if progress else None)
    if path is None:
        return Evidence(torch.cat([maps for _, maps in batches]), labels, **about)
    first = next(batches)
    shape = (len(images), *first[1].shape[1:])
    with EvidenceWriter(path, shape, labeled=labels is not None, **about) as writer:
        for start, maps in chain([first], batches):
            writer.write(maps, None if labels is None else labels[start : start + len(maps)])
    return None

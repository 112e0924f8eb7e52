"""Models: published names, receptive fields confirmed three ways, files, and any network to evidence."""

import errno
import os

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from pglearn import InputError, models
from pglearn.defenses import Logits
from pglearn.evidence import Evidence
from pglearn.geometry import malicious_windows

PUBLISHED = {
    "bagnet9": (
        15_688_744,
        {"layer2.0.conv2.weight": (128, 128, 3, 3), "layer3.0.conv2.weight": (256, 256, 1, 1)},
    ),
    "bagnet17": (
        16_213_032,
        {"layer3.0.conv2.weight": (256, 256, 3, 3), "layer4.0.conv2.weight": (512, 512, 1, 1)},
    ),
    "bagnet33": (
        18_310_184,
        {"layer4.0.conv2.weight": (512, 512, 3, 3), "layer4.1.conv2.weight": (512, 512, 1, 1)},
    ),
}
FIELDS = {  # receptive field, stride, image side to test on
    "bagnet9": (9, 8, 25),
    "bagnet17": (17, 8, 33),
    "bagnet33": (33, 8, 41),
    "bagnet-small-32": (8, 4, 32),
    "bagnet-small-64": (9, 4, 64),
}


@pytest.fixture
def small() -> models.LocalNet:
    torch.manual_seed(0)
    return models.build("bagnet-small-32", 4, stages=[(4, 2, 8, 1, 1), (3, 2, 12, 1, 1)]).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names_and_shapes(name):
    """A BagNet is a ResNet-50 with one more convolution and smaller kernels: torchvision's names say so."""
    resnet50 = pytest.importorskip("torchvision.models").resnet50
    state, other = models.build(name, 1000).state_dict(), resnet50().state_dict()
    assert len(state) == 321
    assert set(state) == set(other) | {"conv2.weight"}
    differ = {key for key in other if state[key].shape != other[key].shape}
    assert all(key == "conv1.weight" or key.endswith(".conv2.weight") for key in differ)
    assert {key: tuple(state[key].shape[:2]) for key in differ - {"conv1.weight"}} == {
        key: tuple(other[key].shape[:2]) for key in differ - {"conv1.weight"}
    }
    parameters, shapes = PUBLISHED[name]
    shapes = shapes | {
        "conv1.weight": (64, 3, 1, 1),
        "conv2.weight": (64, 64, 3, 3),
        "fc.weight": (1000, 2048),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert sum(p.numel() for p in models.build(name, 1000).parameters()) == parameters


def _plain_bagnet(state, x):
    """The published forward pass from its description, on a state dict."""

    def bn(x, name):
        running = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, *running, state[f"{name}.weight"], state[f"{name}.bias"])

    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    x = F.relu(bn(F.conv2d(F.conv2d(x, state["conv1.weight"]), state["conv2.weight"]), "bn1"))
    for layer, (blocks, stride) in enumerate(((3, 2), (4, 2), (6, 2), (3, 1)), 1):
        for block in range(blocks):
            at, step = f"layer{layer}.{block}", stride if block == 0 else 1
            y = F.relu(bn(F.conv2d(x, state[f"{at}.conv1.weight"]), f"{at}.bn1"))
            y = F.relu(bn(F.conv2d(y, state[f"{at}.conv2.weight"], stride=step), f"{at}.bn2"))
            y = bn(F.conv2d(y, state[f"{at}.conv3.weight"]), f"{at}.bn3")
            if block == 0:
                x = bn(F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=step), f"{at}.downsample.1")
            cut = x.shape[-1] - y.shape[-1]
            x = F.relu(y + (x[:, :, :-cut, :-cut] if cut else x))
    return (x.permute(0, 2, 3, 1) @ state["fc.weight"].T + state["fc.bias"]).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_forward_pass(name):
    torch.manual_seed(1)
    model = models.build(name, 7).eval()
    x = torch.rand(1, 3, 41, 41)
    with torch.no_grad():
        torch.testing.assert_close(model(x), _plain_bagnet(model.state_dict(), x), rtol=1e-3, atol=1e-3)
    assert model.bn1.momentum == 0.001
    assert model.layer1[0].bn1.momentum == 0.1


def _averaging(model):
    """Every convolution averages: all that a cell can see reaches it, and nothing cancels."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model.eval()


@pytest.mark.parametrize("name", FIELDS)
def test_receptive_fields_three_ways(name):
    size, stride, side = FIELDS[name]
    torch.manual_seed(2)
    model = _averaging(models.build(name, 2, mean=(0, 0, 0)))
    axis = models.geometry(model, side).rows
    if size is not None:
        assert (axis.size, axis.stride) == (size, stride)
    image = torch.rand(1, 3, side, side)
    assert model(image).shape[2:] == (axis.cells, axis.cells)
    for row, column in {(0, 0), (axis.cells - 1, axis.cells // 2)}:
        top, bottom, left, right = (
            min(max(edge, 0), side) for edge in axis.fields[row] + axis.fields[column]
        )
        # gradient support
        x = image.clone().requires_grad_()
        model(x)[0, 0, row, column].backward()
        seen = x.grad[0].abs().amax(0) > 0
        rows, columns = seen.any(1).nonzero()[:, 0].tolist(), seen.any(0).nonzero()[:, 0].tolist()
        assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (top, bottom, left, right)
        # changed pixels: two corners of the field, and its four neighbours outside
        pixels = {(top, left): True, (bottom - 1, right - 1): True}
        pixels |= dict.fromkeys([(top - 1, left), (top, left - 1), (bottom, left), (top, right)], False)
        pixels = {(y, x): visible for (y, x), visible in pixels.items() if 0 <= y < side and 0 <= x < side}
        changed = image.repeat(len(pixels) + 1, 1, 1, 1)
        for number, (y, x) in enumerate(pixels):
            changed[number, :, y, x] += 1e6
        with torch.no_grad():
            *moved, whole = model(changed)[:, 0, row, column].tolist()
        assert {at: value != whole for at, value in zip(pixels, moved, strict=True)} == pixels


def test_ordinary_resnet_sees_everything():
    model = _averaging(models.build("resnet-small-64", 2, mean=(0, 0, 0)))
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    model(x)[0, 0, 0, 0].backward()
    assert model(x).shape == (1, 2, 1, 1)
    assert bool((x.grad[0].abs().amax(0) > 0).all())
    seen = models.geometry(model, 64)
    assert seen.warning()
    assert sum(p.numel() for p in models.build("resnet-small-64", 10).parameters()) < 1_000_000


def test_patch_changes_nothing_outside_its_windows(small):
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=generator)
    step = Logits(step="0.0009765625", clip_high="16")
    with torch.inference_mode():
        clean = step(small(image))
        windows = [
            (row, column, w.height, w.width)
            for w in malicious_windows(5, 5, models.geometry(small, 32))
            for row in w.rows
            for column in w.columns
        ]
        moved = 0
        for y, x in torch.randint(28, (40, 2), generator=generator).tolist():
            attacked = image.clone()
            attacked[..., y : y + 5, x : x + 5] = torch.randint(
                256, (3, 5, 5), dtype=torch.uint8, generator=generator
            )
            cells = (step(small(attacked)) != clean).any(1)[0].nonzero().tolist()
            moved += len(cells)
            assert any(all(r <= i < r + h and c <= j < c + w for i, j in cells) for r, c, h, w in windows), (
                y,
                x,
                cells,
            )
    assert moved > 40  # the patches did reach the evidence


def test_uint8_and_unit_floats_agree(small):
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(small(pixels), small(pixels / 255), rtol=1e-4, atol=1e-5)
    assert "mean" not in small.state_dict()
    with pytest.raises(InputError, match=r"images: have shape \(3, 32, 32\)"):
        small(pixels[0])


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: models.build("vgg", 10), "model: is 'vgg', allowed: bagnet9"),
        (lambda: models.build("bagnet9", 1), "num_classes: is 1"),
        (lambda: models.build("bagnet9", 10, depth=3), "model: bagnet9 cannot be built"),
        (lambda: models.build("bagnet9", 10, std=(1, 1, 0)), "std: is"),
    ],
)
def test_build_refuses(call, line):
    with pytest.raises(InputError, match=line):
        call()


def test_published_weights_load_unchanged(tmp_path):
    torch.manual_seed(4)
    source, target = models.build("bagnet9", 5), models.build("bagnet9", 5)
    for number, state in enumerate(
        (source.state_dict(), {"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}})
    ):
        torch.save(state, tmp_path / f"{number}.pth.tar")
        models.load_published(target, tmp_path / f"{number}.pth.tar")
        assert all(
            torch.equal(a, b)
            for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
        )
    with pytest.raises(
        InputError,
        match=r"of another model: 1 tensors differ, first layer3.0.conv2.weight: found \(256, 256, 1, 1\)",
    ):
        models.load_published(models.build("bagnet17", 5), tmp_path / "0.pth.tar")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_weights_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Evil()}, "weights.pth")
    with pytest.raises(InputError, match=r"weights: weights\.pth cannot be read"):
        models.load_published(models.build("bagnet9", 5), "weights.pth")
    assert not os.path.exists("evil")
    with pytest.raises(InputError, match=r"weights: missing\.pth cannot be read"):
        models.load_published(models.build("bagnet9", 5), "missing.pth")


def test_save_and_load(small, tmp_path):
    path = tmp_path / "model.safetensors"
    small.train()
    models.save_model(path, small, {"step": "0.5", "classes": '["a", "b"]'})
    loaded, metadata = models.load_model(path)
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(loaded(images), small.eval()(images))
    assert metadata["step"] == "0.5"
    assert not loaded.training


def test_load_refuses(small, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="cannot be read"):
        models.load_model(path)
    models.save_model(path, small)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        models.load_model(path)
    Evidence(torch.zeros(1, 2, 3, 3), torch.zeros(1, dtype=torch.int64)).save(path)
    with pytest.raises(InputError, match="holds no pglearn model"):
        models.load_model(path)
    about = {"pglearn_model": "bagnet-small-32", "config": '{"num_classes": 9}'}
    save_file(small.state_dict(), path, about)
    with pytest.raises(InputError, match="is of another model"):
        models.load_model(path)
    save_file(small.state_dict(), path, about | {"config": "{"})
    with pytest.raises(InputError, match="does not say how to build it"):
        models.load_model(path)


def test_full_disk_and_interruption_leave_no_file(small, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    models.save_model(path, small, {"which": "first"})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pglearn.evidence.os.fsync", full)
        with pytest.raises(InputError, match="cannot be written: No space left on device"):
            models.save_model(path, small, {"which": "second"})
    with monkeypatch.context() as patched:
        patched.setattr("pglearn.evidence.os.fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            models.save_model(path, small, {"which": "second"})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert models.load_model(path)[1]["which"] == "first"


def test_any_network_gives_evidence_batch_by_batch(tmp_path):
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    images, labels = torch.rand(7, 3, 9, 9), torch.arange(7) % 4
    seen = models.geometry(network, 9)
    assert [axis.size for axis in (seen.rows, seen.columns)] == [3, 3]
    assert network.training
    about = {"geometry": seen, "step": "0.5", "clip_high": "8", "provenance": {"model": "mine"}}
    evidence = models.collect_evidence(network, images, labels, batch_size=3, **about)
    assert evidence is not None
    assert network.training
    assert network[1].num_batches_tracked == 0
    with torch.no_grad():
        torch.testing.assert_close(evidence.maps, network.eval()(images))
    assert (
        models.collect_evidence(network, images, labels, batch_size=3, path=tmp_path / "e", **about) is None
    )
    stored = Evidence.load(tmp_path / "e")
    assert torch.equal(stored.maps, evidence.maps)
    assert torch.equal(stored.labels, labels)
    assert (stored.geometry, stored.step, stored.clip_high) == (seen, "0.5", "8")
    assert stored.provenance["model"] == "mine"


@pytest.mark.parametrize(
    ("network", "images", "labels", "line"),
    [
        (nn.Identity(), torch.zeros(0, 3, 4, 4), None, "images: there are none"),
        (nn.Identity(), torch.zeros(2, 3, 4, 4), torch.zeros(3), "labels: 3 for 2 images"),
        (nn.Flatten(), torch.zeros(2, 3, 4, 4), None, r"model: gives a tensor of shape \(2, 48\)"),
    ],
)
def test_collect_evidence_refuses(network, images, labels, line, tmp_path):
    with pytest.raises(InputError, match=line):
        models.collect_evidence(network, images, labels, path=tmp_path / "e")
    assert list(tmp_path.iterdir()) == []

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
    "bagnet-wide-32": (8, 4, 32),
    "bagnet-small-64": (9, 4, 64),
    "bagnet-small-112": (17, 8, 112),
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
        # changed pixels: two corners of the field, and its four neighbors outside
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


PARTS = {  # kept, stride: whole columns, and blocks
    "bands": ((0, 3), 1),
    "bands, stride 3": ((0, 3), 3),
    "blocks": ((4, 5), 1),
    "blocks, stride 2": ((4, 3), 2),
}


def _smoothed(kept, stride=1, classes=4):
    torch.manual_seed(6)
    model = models.build("ds-small-64", classes, kept=kept, stride=stride, stages=[(6, 2, 1), (8, 2, 2)])
    for module in model.modules():  # statistics as after training: not all zeros and ones
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
    return model.eval()


@pytest.mark.parametrize("name", PARTS)
@torch.inference_mode()
def test_all_ablations_at_once_against_one_after_another(name, monkeypatch):
    (high, wide), stride = PARTS[name]
    model, images = _smoothed((high, wide), stride), torch.rand(2, 3, 8, 10)
    evidence = model(images)
    corners = [
        (row, column)
        for row in (range(0, 8 - high + 1, stride) if high else [0])
        for column in range(0, 10, stride)
    ]
    slow = []
    for row, column in corners:
        part = torch.zeros(2, 4, high or 8, wide)
        for y in range(high or 8):
            for x in range(wide):
                at = row + y, (column + x) % 10
                part[:, :3, y, x] = (images[:, :, *at] - model.mean[:, 0, 0]) / model.std[:, 0, 0]
                part[:, 3, y, x] = 1
        slow.append(model.fc(model.body(model.stem(part)).mean((2, 3), keepdim=True))[:, :, 0, 0])
    rows = len({row for row, _ in corners})
    assert evidence.shape == (2, 4, rows, len(corners) // rows)
    torch.testing.assert_close(evidence.flatten(2), torch.stack(slow, -1), rtol=1e-4, atol=1e-5)
    assert evidence.std(-1).min() > 0
    seen = models.geometry(model, (8, 10))
    assert seen.wrap
    assert (seen.rows.cells, seen.columns.cells) == tuple(evidence.shape[2:])
    assert [(r[0], c[0]) for r in seen.rows.fields for c in seen.columns.fields] == corners


@pytest.mark.parametrize("name", PARTS)
@torch.inference_mode()
def test_an_ablation_depends_on_no_pixel_that_is_not_kept(name):
    """NaN in one pixel after another: exactly the cells that keep it turn NaN, no other changes a bit."""
    model = _smoothed(*PARTS[name])
    image = torch.rand(1, 3, 8, 10)
    clean, seen = model(image)[0], models.geometry(model, (8, 10))
    for y in range(8):
        for x in range(10):
            attacked = image.clone()
            attacked[..., y, x] = float("nan")
            after = model(attacked)[0]
            for i, (top, bottom) in enumerate(seen.rows.fields):
                for j, (left, right) in enumerate(seen.columns.fields):
                    kept = top <= y < bottom and (left <= x < right or left <= x + 10 < right)
                    assert bool(after[:, i, j].isnan().all()) == kept
                    assert kept or torch.equal(after[:, i, j], clean[:, i, j])


@torch.inference_mode()
def test_padding_is_nothing_and_black_is_not():
    """On the whole ablated image, with 'nothing' written out, the first layer says the same of the part."""
    model, image = _smoothed((0, 3)), torch.rand(1, 3, 8, 10)
    ablated = torch.zeros(1, 4, 8, 10)
    ablated[:, :, :, 4:7] = torch.cat([model.normalized(image), torch.ones(1, 1, 8, 10)], 1)[..., 4:7]
    whole, part = model.stem[0](ablated)[..., 4:7], model.stem[0](ablated[..., 4:7])
    torch.testing.assert_close(whole, part)
    gray = model.mean.expand(1, 3, 8, 10)  # all zeros once it is normalized, as nothing is
    assert not torch.allclose(
        model.stem[0](torch.cat([model.normalized(gray), ablated[:, 3:]], 1))[..., 4:7], part
    )
    assert model(gray).abs().max() > 0


def test_training_sees_one_ablation_of_each_image():
    model, images = _smoothed((4, 5), 2), torch.rand(3, 3, 8, 10)
    cells = model(images).flatten(2)
    model.training = True  # of itself; its batch normalization stays as it is
    drawn = torch.zeros(3, cells.shape[2], dtype=torch.long)
    for seed in range(150):
        torch.manual_seed(seed)
        evidence = model(images)
        assert evidence.shape == (3, 4, 1, 1)
        same = (evidence[..., 0] - cells).abs().amax(1) < 1e-5
        assert same.sum(1).tolist() == [1, 1, 1]
        drawn += same
    assert drawn.min() > 0
    assert not torch.equal(drawn[0], drawn[1])
    torch.manual_seed(149)
    assert torch.equal(model(images), evidence)
    large = _smoothed((0, 128)).train()
    large(torch.rand(5, 3, 1024, 130))  # more pixels than one chunk has
    assert large.stem[1].num_batches_tracked == 1  # batch normalization saw the batch, not its chunks


def test_chunks_of_ablations_change_nothing(tmp_path):
    model = _smoothed((0, 12))
    images = torch.randint(256, (6, 3, 96, 64), dtype=torch.uint8)  # more than fit in one chunk
    with torch.inference_mode():
        torch.testing.assert_close(
            model(images), torch.cat([model(images[i : i + 1]) for i in range(6)]), rtol=1e-4, atol=1e-4
        )
    models.save_model(tmp_path / "model", model)
    loaded, _ = models.load_model(tmp_path / "model")
    with torch.inference_mode():
        assert torch.equal(loaded(images[:1]), model(images[:1]))


def test_evidence_of_ablations_wraps_in_its_file(tmp_path):
    model, images = _smoothed((0, 3)), torch.rand(2, 3, 8, 10)
    seen = models.geometry(model, (8, 10))
    models.collect_evidence(model, images, torch.tensor([0, 1]), path=tmp_path / "e", geometry=seen)
    stored = Evidence.load(tmp_path / "e")
    assert stored.wrap
    assert stored.geometry == seen
    windows = malicious_windows(2, 2, stored.geometry)
    assert [(w.height, w.width, len(w), w.wrap) for w in windows] == [(1, 4, 9, True)]


@pytest.mark.parametrize("name", ["small", "bands", "blocks, stride 2"])
def test_patch_changes_nothing_outside_its_windows(small, name):
    model = small if name == "small" else _smoothed(*PARTS[name])
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=generator)
    step = Logits(step="0.0009765625", clip_high="16")
    with torch.inference_mode():
        clean = step(model(image))
        width = clean.shape[-1]
        windows = [
            {(row + i, (column + j) % width) for i in range(w.height) for j in range(w.width)}
            for w in malicious_windows(5, 5, models.geometry(model, 32))
            for row in w.rows
            for column in w.columns
        ]
        moved = 0
        for y, x in torch.randint(28, (40, 2), generator=generator).tolist():
            attacked = image.clone()
            attacked[..., y : y + 5, x : x + 5] = torch.randint(
                256, (3, 5, 5), dtype=torch.uint8, generator=generator
            )
            cells = {(i, j) for i, j in (step(model(attacked)) != clean).any(1)[0].nonzero().tolist()}
            moved += len(cells)
            assert any(cells <= window for window in windows), (y, x, cells)
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
        (lambda: models.build("ds-small-64", 10, kept=(0, 0)), r"kept: is \(0, 0\) at stride 1, allowed"),
        (lambda: models.build("ds-small-64", 10, stride=0), r"kept: is \(0, 8\) at stride 0, allowed"),
        (
            lambda: _smoothed((0, 9))(torch.rand(1, 3, 8, 9)),
            "images: are 8x9 pixels, allowed for parts of 0x9",
        ),
        (
            lambda: _smoothed((9, 3))(torch.rand(1, 3, 8, 9)),
            "images: are 8x9 pixels, allowed for parts of 9x3",
        ),
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


def test_equal_models_are_equal_files(small, tmp_path):
    facts = {f"fact {i}": str(i) for i in range(20)}
    models.save_model(tmp_path / "one", small, facts)
    models.save_model(tmp_path / "two", small, dict(reversed(facts.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


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

"""Training: objectives against loops, resumed runs against whole ones, one clear line for what goes wrong."""

import errno
import json
import math
import os
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pglearn import InputError, evaluation, evidence, models, training
from pglearn.data import ImageFiles, ImageSet
from pglearn.defenses import Logits, WindowMask
from pglearn.evidence import Evidence

STAGES = [(4, 2, 8, 0, 1), (3, 2, 12, 1, 1)]


def two_colors(n: int = 96, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise with a red (class 0) or blue (class 1) tint: (n, 3, 16, 16) uint8."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(128, (n, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.arange(n) % 2
    images[labels == 0, 0] += 100
    images[labels == 1, 2] += 100
    return images, labels


def network(seed: int = 0) -> models.LocalNet:
    torch.manual_seed(seed)
    return models.build("bagnet-small-32", 2, stages=STAGES)


OPTIONS = {"epochs": 3, "batch_size": 16, "patch": (2, 2), "progress": False}


def same(a: models.LocalNet, b: models.LocalNet) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def cross_entropy(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(v) for v in logits)) - logits[label]


def test_objectives_against_loops():
    torch.manual_seed(0)
    evidence, labels = torch.rand(5, 3, 4, 6) * 5, torch.tensor([0, 2, 1, 2, 0])
    plain, masked = [], []
    for maps, label in zip(evidence.double().tolist(), labels.tolist(), strict=True):
        sums = [sum(map(sum, rows)) for rows in maps]
        plain.append(cross_entropy([training.SHARPNESS * s / 24 for s in sums], label))
        own = maps[label]
        sums[label] -= max(
            sum(own[y][x] for y in range(top, top + 2) for x in range(left, left + 3))
            for top in range(3)
            for left in range(4)
        )
        masked.append(cross_entropy([training.SHARPNESS * s / 24 for s in sums], label))
    assert training.plain(evidence, labels, (2, 3)).item() == pytest.approx(sum(plain) / 5, rel=1e-5)
    assert training.masked(evidence, labels, (2, 3)).item() == pytest.approx(sum(masked) / 5, rel=1e-5)


def test_the_softmax_objective_against_a_loop():
    torch.manual_seed(1)
    evidence, labels = torch.randn(5, 3, 2, 4) * 5, torch.tensor([0, 2, 1, 2, 0])
    each = [
        cross_entropy(maps[:, y, x].tolist(), label)
        for maps, label in zip(evidence.double(), labels.tolist(), strict=True)
        for y in range(2)
        for x in range(4)
    ]
    assert training.softmax(evidence, labels, (1, 1)).item() == pytest.approx(sum(each) / 40, rel=1e-5)


def test_objectives_clip():
    torch.manual_seed(2)
    evidence, labels = torch.randn(5, 3, 4, 6), torch.tensor([0, 2, 1, 2, 0])
    for objective in (training.plain, training.masked):
        assert objective(evidence, labels, (2, 3)) == objective(evidence.relu(), labels, (2, 3))


def smoothed(seed: int = 0) -> models.LocalNet:
    torch.manual_seed(seed)
    return models.build("ds-small-64", 2, kept=(0, 4), stages=[(8, 2, 2)])


def test_a_smoothed_network_learns_and_resumes(tmp_path):
    options = OPTIONS | {"objective": "softmax", "epochs": 6, "lr": 0.01}
    whole, first, checkpoint = smoothed(), smoothed(), tmp_path / "run"
    training.train(whole, *two_colors(), **options)
    images, labels = two_colors(seed=1)
    with torch.inference_mode():
        evidence = whole(images)
    assert evidence.shape == (96, 2, 1, 16)
    right = evidence.argmax(1) == labels[:, None, None]  # every band on its own
    assert right.double().mean() > 0.95

    class Mortal:
        reads = 0

        def __len__(self) -> int:
            return len(two_colors()[0])

        def __getitem__(self, index: Tensor) -> Tensor:
            self.reads += 1
            if self.reads == 23:
                raise Killed
            return two_colors()[0][index]

    with pytest.raises(Killed):
        training.train(first, Mortal(), two_colors()[1], **options, checkpoint=checkpoint)
    torch.manual_seed(77)  # the draws of a run are its own
    again = smoothed(9)
    assert len(training.train(again, *two_colors(), **options, checkpoint=checkpoint)) == 3
    assert same(again, whole)
    with pytest.raises(
        InputError, match="objective: masks a window of 1x5 in evidence of 1x1, allowed here: plain, softmax"
    ):
        training.train(smoothed(), *two_colors(), **OPTIONS)


def test_augment_only_mirrors_and_moves():
    images = torch.randint(1, 256, (40, 3, 6, 5), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    mirrored, offsets = 0, set()
    for _ in range(20):
        out = training.augment(images, 1, generator)
        padded = torch.zeros(40, 3, 8, 7, dtype=torch.uint8)
        padded[:, :, 1:-1, 1:-1] = images
        flipped = torch.zeros_like(padded)
        flipped[:, :, 1:-1, 1:-1] = images.flip(3)
        for dy, dx in [(y, x) for y in range(3) for x in range(3)]:
            plain = (out == padded[:, :, dy : dy + 6, dx : dx + 5]).flatten(1).all(1)
            turned = (out == flipped[:, :, dy : dy + 6, dx : dx + 5]).flatten(1).all(1)
            if bool((plain | turned).all()):
                offsets.add((dy, dx))
                mirrored += int((turned & ~plain).sum())
                break
        else:
            pytest.fail("not a mirror image moved by at most one pixel")
    assert len(offsets) > 5
    assert 300 < mirrored < 500  # of 800
    assert torch.equal(training.augment(images[:0], 0, generator), images[:0])


def test_augment_changes_a_part_as_it_would_in_the_whole():
    images = torch.randint(1, 256, (40, 3, 6, 5), dtype=torch.uint8)
    whole = training.augment(images, 1, torch.Generator().manual_seed(3))
    part = training.augment(images[7:20], 1, torch.Generator().manual_seed(3), slice(7, 20), 40)
    assert torch.equal(part, whole[7:20])


@pytest.mark.parametrize("objective", ["plain", "masked"])
def test_it_learns(objective):
    model = network()
    log = training.train(model, *two_colors(), **OPTIONS | {"epochs": 8, "lr": 0.01}, objective=objective)
    images, labels = two_colors(seed=1)
    with torch.inference_mode():
        right = (model(images).mean((2, 3)).argmax(1) == labels).double().mean()
    assert right > 0.95
    assert [entry["epoch"] for entry in log] == list(range(1, 9))
    assert log[-1]["loss"] < log[0]["loss"]
    assert not model.training


class Killed(BaseException):
    pass


@pytest.mark.parametrize("dies_in", [1, 2, 3])
def test_a_resumed_run_reproduces_the_uninterrupted_one(tmp_path, monkeypatch, dies_in):
    data = two_colors()
    whole, killed = network(), network()
    log = training.train(whole, *data, **OPTIONS)
    checkpoint = tmp_path / "run"
    steps = 0

    def masked(*args):
        nonlocal steps
        steps += 1
        if steps == 6 * (dies_in - 1) + 3:
            raise Killed
        return training.masked(*args)

    with monkeypatch.context() as patched:
        patched.setitem(training.OBJECTIVES, "masked", masked)
        with pytest.raises(Killed):
            training.train(killed, *data, **OPTIONS, checkpoint=checkpoint)
    assert checkpoint.exists() == (dies_in > 1)
    start = network(seed=0 if dies_in == 1 else 9)  # nothing is saved in the first epoch: it begins again
    again = training.train(start, *data, **OPTIONS, checkpoint=checkpoint)
    assert same(start, whole)
    assert [(e["epoch"], e["loss"]) for e in again] == [(e["epoch"], e["loss"]) for e in log][dies_in - 1 :]
    assert training.train(start, *data, **OPTIONS, checkpoint=checkpoint) == []  # and nothing is left to do
    assert same(start, whole)


@pytest.mark.parametrize(("minutes", "epochs"), [(0, 1), (49, 1), (50, 2), (79, 2), (80, 3), (1e9, 3)])
def test_stops_where_another_epoch_would_not_fit(tmp_path, monkeypatch, minutes, epochs):
    ticks = iter(range(0, 10_000, 10 * 60))  # ten minutes from one look at the clock to the next
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    log = training.train(
        network(), *two_colors(), **OPTIONS, minutes=minutes, checkpoint=tmp_path / "run"
    )  # looks at 0, then at the start, the end and the checkpoint of each epoch: the next would end at 50
    assert [entry["epoch"] for entry in log] == list(range(1, epochs + 1))


def test_several_short_runs_make_a_long_one(tmp_path):
    data = ImageSet(*two_colors(), ("red", "blue"))
    whole, out = tmp_path / "whole", tmp_path / "pieces"
    training.fit(data, "bagnet-small-32", whole, **OPTIONS, average=0.9)
    for _ in range(2):
        log = training.fit(data, "bagnet-small-32", out, **OPTIONS, average=0.9, minutes=0)
        assert len(log) == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["pieces.checkpoint", "whole"]
    training.fit(data, "bagnet-small-32", out, **OPTIONS, average=0.9, minutes=0)
    (mine, about), (other, facts) = models.load_model(out), models.load_model(whole)
    assert same(mine, other)
    assert about == facts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pieces", "whole"]


def test_goes_on_from_weights(tmp_path):
    data = ImageSet(*two_colors(), ("red", "blue"))
    first, second = tmp_path / "first", tmp_path / "second"
    training.fit(data, "bagnet-small-32", first, **OPTIONS)
    log = training.fit(data, str(first), second, **OPTIONS | {"lr": 1e-9, "objective": "margin"})
    assert log[0]["accuracy"] > 0.9
    for a, b in zip(*(models.load_model(path)[0].parameters() for path in (first, second)), strict=True):
        torch.testing.assert_close(a, b)
    three = ImageSet(data.images, data.labels, ("red", "blue", "green"))
    with pytest.raises(InputError, match=r"model: .*first has 2 classes, allowed: 3, the images'"):
        training.fit(three, str(first), tmp_path / "third", **OPTIONS)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match=r"model: .*text cannot be read"):
        training.fit(data, str(tmp_path / "text"), tmp_path / "third", **OPTIONS)


def test_seeds_differ():
    first, second = network(), network()
    training.train(first, *two_colors(), **OPTIONS)
    training.train(second, *two_colors(), **OPTIONS, seed=1)
    assert not same(first, second)


def test_loss_that_is_not_finite(tmp_path):
    checkpoint = tmp_path / "run"
    with pytest.raises(
        training.TrainingError, match=r"loss: is (nan|inf) in epoch 1, step \d+: try a smaller lr"
    ):
        training.train(network(), *two_colors(), **OPTIONS | {"lr": 1e30}, checkpoint=checkpoint)
    assert not checkpoint.exists()


def test_checkpoint_of_another_run_or_none(tmp_path):
    data, checkpoint = two_colors(), tmp_path / "run"
    training.train(network(), *data, **OPTIONS, checkpoint=checkpoint)
    for change, line in (
        ({"lr": 0.5}, r"checkpoint: .*run is of another run: its lr is 0\.004, this one's 0\.5"),
        ({"objective": "plain"}, "its objective is 'masked', this one's 'plain'"),
        ({"patch": (9, 2)}, r"its window is '\(3, 3\)', this one's '\(4, 3\)'"),
        ({"seed": 3}, "its seed is 0, this one's 3"),
    ):
        with pytest.raises(InputError, match=line):
            training.train(network(), *data, **OPTIONS | change, checkpoint=checkpoint)
    other = models.build("bagnet-small-32", 2, stages=[(4, 2, 8, 0, 1)])
    with pytest.raises(InputError, match="is of another run: its model is"):
        training.train(other, *data, **OPTIONS, checkpoint=checkpoint)
    for content in (checkpoint.read_bytes()[:500], b"", b"hello"):
        checkpoint.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read .*delete it to start anew"):
            training.train(network(), *data, **OPTIONS, checkpoint=checkpoint)


def test_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    data, checkpoint = two_colors(), tmp_path / "run"
    calls = 0

    def full_on_the_second(*_):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pglearn.evidence.os.fsync", full_on_the_second)
        with pytest.raises(InputError, match="run: cannot be written: No space left on device"):
            training.train(network(), *data, **OPTIONS, checkpoint=checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    resumed, whole = network(), network()
    assert [entry["epoch"] for entry in training.train(resumed, *data, **OPTIONS, checkpoint=checkpoint)] == [
        2,
        3,
    ]
    training.train(whole, *data, **OPTIONS)
    assert same(resumed, whole)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"objective": "magic"}, "objective: is 'magic', allowed: plain, masked, margin, softmax"),
        ({"epochs": 0}, "epochs: is 0, allowed: above 0"),
        ({"lr": math.nan}, "lr: is nan"),
        ({"batch_size": 97}, "images: 96 with 96 labels, allowed: one label each, 97 or more"),
        ({"patch": (17, 2)}, "patch: height is 17 pixels, allowed: 1 to the image's 16"),
    ],
)
def test_refuses(change, line):
    with pytest.raises(InputError, match=line):
        training.train(network(), *two_colors(), **OPTIONS | change)


@pytest.mark.parametrize("highest", [0.0, 1e-3, 1.0, 3.2, 11.3, 64.0, 32767.0, 32768.0, 1e6])
def test_constants(highest):
    step, clip_high = (float(text) for text in training.constants(highest))
    assert clip_high >= highest
    assert clip_high == int(clip_high) > 0
    assert math.frexp(step)[0] == 0.5  # a power of two
    assert clip_high / step <= 32767 < 2 * clip_high / step
    with pytest.raises(training.TrainingError, match="evidence: the largest"):
        training.constants(math.inf)


def test_fit_writes_a_model_with_its_constants(tmp_path):
    images, labels = two_colors()
    out = tmp_path / "model.safetensors"
    data = ImageSet(images, labels, ("red", "blue"))
    log = training.fit(data, "bagnet-small-32", out, **OPTIONS | {"epochs": 1}, about={"data": "two colors"})
    assert len(log) == 1
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    model, about = models.load_model(out)
    assert json.loads(about["classes"]) == ["red", "blue"]
    assert about["image_size"] == "16x16"
    assert about["data"] == "two colors"
    assert model.config["mean"] == pytest.approx((images / 255.0).mean((0, 2, 3)).tolist(), abs=1e-4)
    evidence = models.collect_evidence(model, images)
    assert evidence is not None
    assert (about["step"], about["clip_high"]) == training.constants(evidence.maps.max().item())
    assert json.loads(about["training"])["epochs"] == "1"


@pytest.mark.parametrize("fixed_point", [False, True])
@pytest.mark.parametrize("name", ["bagnet-small-32", "ds-small-64"])
def test_evaluate_writes_what_every_transform_needs(tmp_path, monkeypatch, name, fixed_point):
    data = ImageSet(*two_colors(16), ("red", "blue"))
    monkeypatch.setitem(
        models.MODELS, "ds-small-64", (models.DSResNet, {"kept": (0, 4), "stages": [(8, 2, 2)]})
    )
    model = tmp_path / "model"
    objective = "softmax" if name == "ds-small-64" else "masked"
    training.fit(data, name, model, **OPTIONS | {"objective": objective, "lr": 0.02})
    network, about = models.load_model(model)
    if name == "bagnet-small-32":
        network.fc.bias.data += 20 * torch.tensor([1.0, -1.0])  # beyond the clip
        models.save_model(model, network, about)
    found = evaluation.evaluate(model, data, tmp_path / "e", (2, 2), fixed_point, device="cpu")
    stored = Evidence.load(tmp_path / "e")
    raw = models.collect_evidence(network, data.images, device="cpu").maps.double()
    step = float(about["step"])
    if fixed_point:
        assert (stored.maps.dtype, stored.step, stored.unit) == (torch.int16, "1", about["step"])
        assert float(stored.clip_high) == float(about["clip_high"]) / step
        assert torch.equal(stored.maps, (raw / step).round().clamp(-(2**15), 2**15 - 1).to(torch.int16))
    else:
        assert (stored.step, stored.clip_high, stored.unit) == (about["step"], about["clip_high"], None)
        assert torch.equal(stored.maps, raw.float())
    units = Logits(stored.step, stored.clip_high)(stored.maps)
    assert torch.equal(units, Logits(about["step"], about["clip_high"])(raw))
    assert (units < stored.maps if fixed_point else units * step < raw - step).any() == (
        name != "ds-small-64"
    )
    assert (stored.maps < 0).any() == (name == "ds-small-64")
    assert stored.wrap == (name == "ds-small-64")
    assert found.mask == ((1, 5) if name == "ds-small-64" else (3, 3))
    assert found.undefended == int((units.sum((2, 3)).argmax(1) == data.labels).sum())
    assert found.defended == int(
        WindowMask(*found.mask, wrap=stored.wrap).outcome(units, data.labels)[1].sum()
    )


def test_fixed_point_of_numbers_that_are_no_numbers():
    maps = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.75, -1.25, 1e9])
    units = evaluation._stored(maps, "0.5", torch.int16)
    assert units.tolist() == [0, 32767, -32768, 2, -2, 32767]  # half to even
    assert evaluation._stored(maps, "0.5", torch.int32).tolist()[-1] == 2_000_000_000


CLASSES = ("red", "blue")
PARTS = ["e.part-0", "e.part-12", "e.part-4", "e.part-8"]


@pytest.fixture
def run(tmp_path):
    """Evidence of 14 images in batches of two, so in four parts, under a model that knows nothing."""
    models.save_model(tmp_path / "model", network(), {"step": "0.001", "clip_high": "4"})

    def evaluate(name="e", images=14, model="model", fixed_point=True, seed=0, last=7):
        data = ImageSet(*two_colors(images, seed), CLASSES)
        data.images[-1] = last
        path = tmp_path / name
        found = evaluation.evaluate(tmp_path / model, data, path, (2, 2), fixed_point, "cpu", 2)
        return path.read_bytes(), (found.images, found.undefended, found.defended)

    return evaluate


def beside(path) -> list[str]:
    return sorted(path.name for path in path.iterdir() if path.name != "model")


@pytest.mark.parametrize("call", [1, 2, 3, 4, 6, 7])
def test_an_evaluation_that_was_killed_goes_on(tmp_path, monkeypatch, run, call):
    calls, stored = 0, evaluation._stored

    def mortal(*args):
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return stored(*args)

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "_stored", mortal)
        with pytest.raises(Killed):
            run()
        done = (call - 1) // 2
        assert beside(tmp_path) == sorted(f"e.part-{4 * part}" for part in range(done))
        resumed = run()
        assert calls == call + 7 - 2 * done
    assert beside(tmp_path) == ["e"]
    assert resumed == run("whole")


@pytest.mark.parametrize(
    "other",
    [{"model": "other"}, {"seed": 1}, {"last": 8}, {"fixed_point": False}, {"images": 34}, {"images": 3}],
)
def test_parts_of_another_evaluation_are_not_taken(tmp_path, monkeypatch, run, other):
    models.save_model(tmp_path / "other", network(1), {"step": "0.001", "clip_high": "4"})
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "latency", None)
        patched.setattr(evaluation, "_sweep", lambda _: None)
        with pytest.raises(TypeError):
            run(**other)
    (tmp_path / "other").unlink()
    litter = [".e.12.part", ".e.part-4.13.part"]  # of killed processes
    theirs = ["e.part-4.csv", "e2.part-0", ".e2.1.part", "part-0"]
    for name in (*litter, *theirs):
        (tmp_path / name).touch()
    assert run() == run("whole")
    assert beside(tmp_path) == sorted([*theirs, "e", "whole"])


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x"])
def test_parts_of_another_length_are_made_again(tmp_path, monkeypatch, run, change):
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "_sweep", lambda _: None)
        whole = run()
    (tmp_path / "e").unlink()
    part = tmp_path / "e.part-4"
    part.write_bytes(change(part.read_bytes()))
    assert run() == whole


def test_full_disk_keeps_the_parts(tmp_path, monkeypatch, run):
    calls, sync = 0, evidence.os.fsync

    def full(file):
        nonlocal calls
        calls += 1
        if calls in (3, 6):  # the third part, then the whole
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    (tmp_path / "e").write_text("an older file")
    with monkeypatch.context() as patched:
        patched.setattr("pglearn.evidence.os.fsync", full)
        for name, left in (("e.part-8", ["e", "e.part-0", "e.part-4"]), ("e", ["e", *PARTS])):
            with pytest.raises(InputError, match=f"{name}: cannot be written: No space left on device"):
                run()
            assert beside(tmp_path) == left
            assert (tmp_path / "e").read_text() == "an older file"
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "evidence_batches", None)  # nothing is left to compute
        found = run()
    assert found == run("whole")
    assert beside(tmp_path) == ["e", "whole"]


def test_images_of_a_class_are_not_decoded_to_be_chosen(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(6)]  # which do not exist
    images = ImageSet(ImageFiles(paths, (16, 16)), torch.tensor([0, 0, 1, 0, 1, 1]), CLASSES)
    few = evaluation.per_class(images, 2)
    assert few.images == ImageFiles([paths[i] for i in (0, 1, 2, 4)], (16, 16))
    assert few.labels.tolist() == [0, 0, 1, 1]


def test_the_seal_of_images(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        path.write_bytes(b"1234")
    labels = torch.tensor([0, 1, 0, 1])

    def seal(part=slice(0, 4), size=None, labels=labels):
        return evaluation._seal(ImageSet(ImageFiles(paths, (16, 16), size), labels, CLASSES), part)

    seen = [seal(), seal(slice(0, 2)), seal(slice(2, 4)), seal(size=16), seal(labels=1 - labels)]
    assert seen[0] == seal()
    paths[3].write_bytes(b"12345")
    seen.append(seal())
    os.utime(paths[3], ns=(1, 1))
    seen.append(seal())
    assert len(set(seen)) == 7

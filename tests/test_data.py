"""Data: one loader for named sets and class-per-folder trees, synthetic and (where they are) real ones."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pglearn import InputError, data

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("torchvision")

REAL = os.environ.get("PGLEARN_DATA", "")


def real(tree: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (Path(REAL) / tree).is_dir(),
        reason=f"needs the real images: PGLEARN_DATA names no folder with {tree}",
    )


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """animals/{train,val}/{cat,dog}/N.png: image N of a class is all of color N, 100 or 200 by class, 7."""
    for split, count in (("train", 3), ("val", 2)):
        for base, name in ((100, "cat"), (200, "dog")):
            for n in range(count):
                write(
                    tmp_path / "animals" / split / name / f"{n}.png",
                    np.full((6, 8, 3), (n, base, 7), np.uint8),
                )
    return tmp_path


def test_folder(tree):
    found = data.load("animals", "train", root=tree)
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.labels.dtype == torch.int64
    assert found.image_size == (6, 8)
    assert found.images.shape == (6, 3, 6, 8)
    assert found.images.dtype == torch.uint8
    assert found.images[:, :, 3, 2].tolist() == [[n, base, 7] for base in (100, 200) for n in range(3)]
    assert len(data.load(str(tree / "animals"), "test")) == 4  # by path; val stands in for test


def test_decoding_on_demand_gives_the_same(tree, monkeypatch):
    whole = data.load("animals", root=tree).images
    monkeypatch.setattr(data, "IN_MEMORY", 0)
    files = data.load("animals", root=tree).images
    assert isinstance(files, data.ImageFiles)
    assert len(files) == 6
    assert torch.equal(files[1:4], whole[1:4])
    chosen = torch.tensor([5, 0, 5])
    assert torch.equal(files[chosen], whole[chosen])


def test_root_from_the_environment(tree, monkeypatch):
    monkeypatch.setenv("PGLEARN_DATA", str(tree))
    assert len(data.load("animals")) == 6


def test_size_resizes_the_shorter_side_and_crops_the_center(tmp_path):
    left_right = np.zeros((10, 20, 3), np.uint8)
    left_right[:, 10:] = 255
    write(tmp_path / "t" / "train" / "a" / "0.png", left_right)
    write(tmp_path / "t" / "train" / "b" / "0.png", np.full((5, 5, 3), 9, np.uint8))
    with pytest.raises(InputError, match=r"b/0\.png has 5x5 pixels, allowed: 10x20"):
        data.load("t", root=tmp_path)
    images = data.load("t", root=tmp_path, size=4).images
    assert images.shape == (2, 3, 4, 4)
    assert images[0, 0, 2, 0] < 64
    assert images[0, 0, 2, 3] > 192
    assert bool((images[1] == 9).all())


def test_corrupt_file(tree):
    path = tree / "animals" / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"dog/1\.png cannot be decoded"):
        data.load("animals", root=tree)


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("nothing", {}, "data: 'nothing' is neither a folder in"),
        ("animals", {"split": "dev"}, "split: is 'dev', allowed: train, test"),
        ("animals", {"size": 0}, "size: is 0"),
        ("cifar10", {}, "data: cifar10 cannot be read from"),
        ("imagenette-160", {}, "data: imagenette-160 cannot be read from"),
        ("imagenet", {}, "data: imagenet cannot be read from"),
        ("cifar10", {"size": 64}, "size: is 64, allowed for cifar10: 32"),
    ],
)
def test_refuses_in_one_line(tree, name, options, line):
    with pytest.raises(InputError, match=line) as caught:
        data.load(name, root=tree, **options)
    assert "\n" not in str(caught.value)


def test_trees_without_images(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        data.load_folder(tmp_path / "missing")
    with pytest.raises(InputError, match="is no class-per-folder tree"):
        data.load_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is no class-per-folder tree"):
        data.load_folder(tmp_path)


def test_cifar10_as_torchvision_reads_it(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    batches = {}
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        batches[name] = {"data": random.integers(0, 256, (2, 3072), np.uint8), "labels": [3, 7]}
        (folder / name).write_bytes(pickle.dumps(batches[name]))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {n}" for n in range(10)]}))
    with pytest.raises(
        InputError, match="cifar10 cannot be read"
    ):  # checksums are torchvision's business, and are checked
        data.load("cifar10", root=tmp_path)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})
    found = data.load("cifar10", "test", root=tmp_path)
    assert found.images.shape == (2, 3, 32, 32)
    assert found.images.flatten(1).numpy().tolist() == batches["test_batch"]["data"].tolist()
    assert found.labels.tolist() == [3, 7]
    assert found.classes[9] == "class 9"
    assert len(data.load("cifar10", "train", root=tmp_path)) == 10


def test_imagenette_as_torchvision_reads_it(tmp_path):
    for split, count in (("train", 2), ("val", 1)):
        for wnid in ("n01440764", "n02102040"):
            for n in range(count):
                write(
                    tmp_path / "imagenette2-160" / split / wnid / f"{n}.JPEG",
                    np.full((160, 200, 3), 50, np.uint8),
                )
    found = data.load("imagenette-160", "train", root=tmp_path)
    assert found.images.shape == (4, 3, 160, 160)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.classes == ("tench", "English springer")
    assert len(data.load("imagenette-160", "test", root=tmp_path)) == 2


def test_imagenet_as_torchvision_reads_it(tmp_path):
    names = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish",)}
    torch.save((names, ["n01440764"]), tmp_path / "meta.bin")
    for wnid in names:
        write(tmp_path / "val" / wnid / "0.JPEG", np.full((30, 40, 3), 50, np.uint8))
    found = data.load("imagenet", "test", root=tmp_path)
    assert found.image_size == (224, 224)
    assert found.classes == ("tench", "goldfish")


def test_embedded_set():
    found = data.load("shapes", "test", seed=3)
    assert found.images.shape == (2000, 3, 64, 64)
    assert len(found.classes) == 10
    assert found.labels.bincount().tolist() == [200] * 10


@real("cifar10-jpg")
def test_real_cifar10_jpeg_copy():
    found = data.load("cifar10-jpg", "test")
    assert found.images.shape == (10_000, 3, 32, 32)
    assert found.labels.bincount().tolist() == [1000] * 10
    assert found.classes[0] == "airplane"
    means = found.images.double().mean((0, 2, 3))
    assert [round(v) for v in means.tolist()] == [126, 124, 115]


@real("imagenette2-224")
def test_real_imagenette_is_decoded_on_demand():
    found = data.load("imagenette2-224", "test")
    assert len(found) == 3925
    assert len(found.classes) == 10
    assert found.image_size == (224, 224)
    assert isinstance(found.images, data.ImageFiles)
    batch = found.images[torch.arange(0, 3925, 500)]
    assert batch.shape == (8, 3, 224, 224)
    assert batch.double().std() > 20

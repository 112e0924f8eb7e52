"""The embedded data set is the same on every machine, balanced, and as large or small as asked."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from pglearn import InputError, shapes

MASK64 = 2**64 - 1

# SHA-256 of the bytes of one image of each class, (3, 64, 64) in C order: draw(i, "train") for i in 0..9.
PINNED = (
    "4b0b1f7b61bd834e2af922867044b0f7fedcb4e55c7b6a02def27455123b6284",
    "e811be0e0e166d4f852ba69abca68bd225e63f38ef6819288f4acea3eed212a2",
    "a4e21d8e444538b88552d6029bc455f2b0c1aa26b21b5264ee66a11b66ee9eeb",
    "3d51aecdd38311e7bbcc7a241ad824c2d7f453f18df4bff3b73eb4b837d142d1",
    "dd46db84920b6ce561281a65f10b7ffc9c0619970c6c0c0ba96bfc1b33a56602",
    "c7cfbbc0af4c01f39a2860bda3c0a384697bb68ed3c53de8d9167e0190d4deec",
    "5a30dbbbd333b1b539ae1c4ed2a30c70fe548b9a006a2460be6edb1a6df5f6e2",
    "b3c081b449e42a7e3414091b20e080d758153f330bd5457fc0c3cf9d1fb0979e",
    "f648e2b5ed4fe76696b5a9b7c6857dbe4616238fcd52da3236406f87eeb56e60",
    "1d4daaa28c260de024bda1a692daa40fcfdfa2204df2ac47d1db69dd9971d545",
)
# ... and of draw(123456785, "test", seed=7, side=48, object_size=(0.3, 0.5)).
PINNED_OTHER = "4e250f99a5eb3ab307b823063291de828a1ccfee259f709741dfe15991b1944a"


def digest(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def splitmix64(state: int, step: int) -> int:
    """In Python's own integers."""
    z = (state + (step + 1) * 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def test_hash_is_splitmix64():
    steps = np.arange(5, dtype=np.uint64)
    found = shapes._hash(np.array([1234567], dtype=np.uint64), steps).tolist()
    assert found == [splitmix64(1234567, k) for k in range(5)]
    assert found[:2] == [6457827717110365317, 3203168211198807973]  # published with the generator
    top = np.array([MASK64], dtype=np.uint64)
    assert shapes._hash(top, top).tolist() == [splitmix64(MASK64, MASK64)]


def test_pinned_images():
    found = [digest(shapes.draw(i)[0]) for i in range(10)]
    assert found == list(PINNED)
    other = shapes.draw(123_456_785, "test", seed=7, side=48, object_size=(0.3, 0.5))[0]
    assert digest(other) == PINNED_OTHER


def test_pinned_images_in_another_process_with_other_threads():
    code = (
        "import hashlib, torch; torch.set_num_threads(3); from pglearn.shapes import dataset\n"
        "print(hashlib.sha256(dataset('train', 10)[0][9].numpy().tobytes()).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == [PINNED[9]]


@pytest.mark.parametrize("side", [16, 64, 256])
def test_int32_never_overflows(side, monkeypatch):
    """The same pictures come out when every number is held in 64 bits."""
    narrow = shapes._scenes("train", 0, 20, 3, side, (0.2, 1.0))
    integers, grid = shapes._Random.integers, shapes._grid
    monkeypatch.setattr(shapes._Random, "integers", lambda *args: integers(*args).astype(np.int64))
    monkeypatch.setattr(shapes, "_grid", lambda side: tuple(axis.astype(np.int64) for axis in grid(side)))
    wide = shapes._scenes("train", 0, 20, 3, side, (0.2, 1.0))
    assert all(np.array_equal(a, b) for a, b in zip(narrow, wide, strict=True))


def test_an_image_depends_on_its_index_alone():
    images, labels = shapes.dataset("test", 75, seed=5)  # more than two batches, the last one short
    assert (images.dtype, images.shape, labels.dtype) == (torch.uint8, (75, 3, 64, 64), torch.int64)
    assert images.is_contiguous()
    assert torch.equal(images[:41], shapes.dataset("test", 41, seed=5)[0])
    for i in (74, 0, 31, 32, 63):
        image, label = shapes.draw(i, "test", seed=5)
        assert np.array_equal(image, images[i].numpy())
        assert label == labels[i]


def test_every_parameter_matters():
    image = shapes.draw(4)[0]
    for other in (
        shapes.draw(14),
        shapes.draw(4, "test"),
        shapes.draw(4, seed=1),
        shapes.draw(4, object_size=(0.5, 0.6)),
    ):
        assert other[1] == 4
        assert (other[0] != image).mean() > 0.05


def test_no_two_images_are_equal():
    images = torch.cat([shapes.dataset(split, 500)[0] for split in shapes.SPLITS])
    assert len({digest(image.numpy()) for image in images}) == 1000


def test_classes_are_balanced():
    assert len(shapes.CLASSES) == len(set(shapes.CLASSES)) == len(shapes.DISTANCES) == 10
    labels = shapes.dataset("train", 50)[1]
    assert torch.bincount(labels).tolist() == [5] * 10


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.3, 0.5), (0.75, 0.75), (1.0, 1.0)])
def test_object_size(low, high):
    angles = np.arange(16) * np.pi / 16
    for i in range(40):
        mask = shapes.draw(i, object_size=(low, high), return_mask=True)[2]
        assert (mask.shape, mask.dtype) == ((64, 64), bool)
        along = np.stack(np.nonzero(mask), 1) @ np.stack([np.cos(angles), np.sin(angles)])  # (pixels, angles)
        diameter = np.ptp(along, axis=0).max() + 1
        # The widest chord of a triangle, or of a star, is shorter than the circle around it.
        assert 0.8 * 64 * low - 2 <= diameter <= 64 * high + 1.5
        assert 0.15 < mask.sum() / (np.pi / 4 * diameter**2) < 1.15


def test_the_object_is_where_the_mask_says():
    weights = np.array([77, 150, 29]) / 256
    for i in range(60):
        image, label, mask = shapes.draw(i, return_mask=True)
        gray = np.tensordot(weights, image, 1)
        inside, outside = np.median(gray[mask]), np.median(gray[~mask])
        if label < shapes.SHAPES:  # half of a texture's extent is background
            assert abs(inside - outside) > 15
        else:
            assert gray[mask].std() > gray[~mask].std() / 2


def test_the_same_scene_at_another_resolution():
    for i in range(20):
        coarse = shapes.draw(i, return_mask=True)[2]
        fine = shapes.draw(i, side=128, return_mask=True)[2].reshape(64, 2, 64, 2).mean((1, 3)) > 0.5
        assert (coarse & fine).sum() > 0.75 * (coarse | fine).sum()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shapes.draw(-1), "index: is -1, allowed: a whole number of 0 to"),
        (lambda: shapes.draw(1.5), "index: is 1.5"),
        (lambda: shapes.draw(0, "val"), "split: is 'val', allowed: train, test"),
        (lambda: shapes.draw(0, seed=-3), "seed: is -3"),
        (lambda: shapes.draw(0, seed=2**64), "seed: is 18446744073709551616"),
        (lambda: shapes.draw(0, side=8), "side: is 8, allowed: a whole number of 16 to 256"),
        (lambda: shapes.draw(0, side=257), "side: is 257"),
        (lambda: shapes.draw(0, object_size=(0.1, 0.5)), "object_size: is (0.1, 0.5), allowed"),
        (lambda: shapes.draw(0, object_size=(0.5, 0.4)), "object_size: is (0.5, 0.4)"),
        (lambda: shapes.draw(0, object_size=(0.5, 1.1)), "object_size: is (0.5, 1.1)"),
        (lambda: shapes.draw(0, object_size=(0.5, float("nan"))), "object_size: is (0.5, nan)"),
        (lambda: shapes.draw(0, object_size=0.5), "object_size: is 0.5"),
        (lambda: shapes.dataset("test", 0), "n: is 0, allowed: a whole number of 1 to"),
        (lambda: shapes.dataset("test", "ten"), "n: is 'ten'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_and_the_largest_are_taken():
    assert np.array_equal(shapes.draw(np.int64(3))[0], shapes.draw(3)[0])
    image, label = shapes.draw(2**63 - 1, seed=2**64 - 1)
    assert label == (2**63 - 1) % 10
    assert image.std() > 5


def test_imports_no_image_library():
    code = "import sys, pglearn.shapes; print(*({'torchvision', 'PIL', 'matplotlib'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == []

"""`pglearn certify`: the contract's object on files made by hand, and one line for all that is wrong."""

import hashlib
import json
import os
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import oracle
import pytest
import torch
from safetensors.torch import save_file

from pglearn.cli import main
from pglearn.geometry import Geometry, Layer, receptive_field

ROOT = Path(__file__).parent.parent
INTEGERS = [
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
AS_IT_IS = ["--step", "1", "--clip-high", "100"]


@pytest.fixture
def file(tmp_path):
    """Write evidence (and labels) under any metadata; the path."""

    def write(maps, labels=None, **metadata: str) -> Path:
        path = tmp_path / "evidence.safetensors"
        tensors = {"evidence": torch.as_tensor(maps)}
        if labels is not None:
            tensors["labels"] = torch.tensor(labels)
        save_file(tensors, path, metadata)
        return path

    return write


@pytest.fixture
def certify(capsys):
    """The object that ``pglearn certify --json`` prints."""

    def run(path, *options: str) -> dict:
        assert main(["certify", str(path), "--defense", "mask", *options, "--json"]) == 0
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        return json.loads(out)

    return run


@pytest.fixture
def refused(capsys):
    """Exit code 2, one line, nothing else; the line."""

    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("pglearn: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        return err.removeprefix("pglearn: ").rstrip("\n")

    return run


# Three images, two classes, maps of 1x4
MAPS = [
    [[[9, 9, 9, 9]], [[1, 1, 1, 1]]],
    [[[3, 2, 2, 0]], [[0, 0, 9, 0]]],
    [[[0, 0, 0, 0]], [[0, 0, 0, 0]]],
]


def test_the_object_of_the_contract(file, certify):
    path = file(MAPS, [0, 0, 1])
    found = certify(path, "--window", "1x1", *AS_IT_IS)
    assert list(found) == [
        "schema",
        "parameters",
        "evidence_sha256",
        "images",
        "clean",
        "certified",
        "per_image",
    ]
    assert found["schema"] == "pglearn.certify/1"
    assert found["evidence_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found["images"], found["clean"], found["certified"]) == (3, 2, 1)
    # Image 0: the label keeps 27 - 9, the other reaches 3. Image 1: with the window on its 3 the label keeps
    # 4 - 2, the other, filled to 100 there, 9.
    # Image 2: nothing anywhere, a tie, which counts against the defender.
    assert found["per_image"] == {
        "prediction": [0, 0, 0],
        "clean": [True, True, False],
        "certified": [True, False, False],
        "margin": [15.0, -7.0, 0.0],
    }
    assert found["parameters"] == {
        "defense": "mask",
        "transform": "logits",
        "step": "1",
        "clip_high": "100",
        "vote_threshold": None,
        "unit": None,
        "patch": None,
        "window": ["1x1"],
        "placements": 4,
        "patches": 1,
        "within": None,
        "mask": "1x1",
        "alpha": None,
        "detection_threshold": "0",
        "top_k": 1,
        "unlabelled": False,
        "wrap": False,
    }


def test_all_options_against_the_oracle(file, certify):
    rng = random.Random("cli")
    for wrap, threshold, k, mask, unlabelled in [
        (False, "0", 1, None, False),
        (True, "0.3", 2, None, False),
        (False, "0.1", 1, (3, 2), True),
        (True, "0.6", 1, (2, 3), False),
    ]:
        maps = [
            [[[rng.choice((0, rng.randint(0, 9))) for _ in range(5)] for _ in range(4)] for _ in range(4)]
            for _ in range(20)
        ]
        labels = [rng.randrange(4) for _ in range(20)]
        for image, y in zip(maps, labels, strict=True):
            image[y] = [[x * 3 + 2 for x in row] for row in image[y]]
        options = [
            "--window",
            "2x1",
            "--window",
            "1x2",
            "--detection-threshold",
            threshold,
            "--top-k",
            str(k),
        ]
        options += ["--mask", f"{mask[0]}x{mask[1]}"] if mask else []
        options += ["--unlabelled"] if unlabelled else []
        path = file(
            maps, None if unlabelled else labels, wrap=str(wrap).lower(), step="0.5", clip_high="10.5"
        )
        found = certify(path, *options)
        masks = oracle.placements(*(mask or (2, 2)), 4, 5, wrap)
        windows = oracle.placements(2, 1, 4, 5, wrap) + oracle.placements(1, 2, 4, 5, wrap)
        top = oracle.top_units(0.5, 10.5)
        expected = [
            oracle.certify(
                [[oracle.to_units(x, 0.5, 10.5) for row in m for x in row] for m in image],
                None if unlabelled else y,
                masks,
                windows,
                Fraction(threshold),
                top,
                k,
            )
            for image, y in zip(maps, labels, strict=True)
        ]
        assert found["per_image"] == {
            "prediction": [v.prediction for v in expected],
            "clean": [v.clean for v in expected],
            "certified": [v.certified for v in expected],
            "margin": [v.margin * 0.5 for v in expected],
        }
        assert 0 < found["certified"] < found["clean"] == sum(v.clean for v in expected)
        assert found["parameters"]["mask"] == "x".join(map(str, mask or (2, 2)))
        assert found["parameters"]["placements"] == len(windows)
        assert (found["parameters"]["step"], found["parameters"]["clip_high"]) == ("0.5", "10.5")


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
def test_evidence_of_every_type(file, certify, dtype):
    found = certify(file(torch.tensor(MAPS).to(dtype), [0, 0, 1]), "--window", "1x1", *AS_IT_IS)
    assert found["per_image"]["margin"] == [15.0, -7.0, 0.0]


@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_beyond_all_measure(file, certify, dtype):
    """In any cell infinity and whatever is huge read as the top, NaN and what is negative as nothing."""
    inf, nan = float("inf"), float("nan")
    wild = torch.tensor([[[[inf, 1e30, 1e30, inf]], [[nan, -inf, -1e30, -1.0]]]]).to(dtype)
    found = certify(file(wild, [0]), "--window", "1x1", *AS_IT_IS)
    assert found["per_image"]["margin"] == [200.0]  # 4 tops, less the window, less the mask


def test_constants_come_from_the_call_then_the_file_then_the_documentation(file, certify):
    ones = torch.full((1, 2, 1, 3), 70.0)
    for metadata, options, step, high in [
        ({}, [], "0.0009765625", "64"),
        ({"step": "0.25", "clip_high": "8"}, [], "0.25", "8"),
        ({"step": "0.25", "clip_high": "8"}, ["--step", "0.5"], "0.5", "8"),
        ({"step": "0.25", "clip_high": "8"}, ["--clip-high", "9"], "0.25", "9"),
    ]:
        found = certify(file(ones, [0], **metadata), "--window", "1x1", *options)
        assert (found["parameters"]["step"], found["parameters"]["clip_high"]) == (step, high)
        assert found["per_image"]["margin"] == [-float(high)]  # one top left to the label, two to the other


@pytest.mark.parametrize(
    ("threshold", "window"), [("0.3", 3), ("0.1", 1), ("0.7", 7), ("0.30", 3), ("3e-1", 3)]
)
def test_a_share_of_exactly_the_typed_threshold_is_not_masked(file, certify, threshold, window):
    """With the share the label scores 1000, without the mask; with one unit more it falls to 900 or less."""
    maps = torch.zeros(2, 2, 1, 40, dtype=torch.int32)
    maps[:, 0, 0, : 11 - window] = torch.tensor([100 * window] + [100] * (10 - window))
    maps[1, 0, 0, 0] += 1
    maps[:, 1] = 24  # 960, never masked
    options = ["--window", "1x1", "--detection-threshold", threshold, "--step", "1", "--clip-high", "1000"]
    assert certify(file(maps, [0, 0]), *options)["per_image"]["prediction"] == [0, 1]


def test_the_same_whole_and_image_by_image(file, certify):
    maps = torch.randint(9, (40, 3, 5, 5), generator=torch.Generator().manual_seed(1))
    options = ["--window", "2x2", "--detection-threshold", "0.2", "--unlabelled", *AS_IT_IS]
    whole = certify(file(maps), *options)["per_image"]
    for i in range(40):
        alone = certify(file(maps[i : i + 1].clone()), *options)["per_image"]
        assert alone == {name: values[i : i + 1] for name, values in whole.items()}


def geometry(rows: int, columns: int) -> str:
    return Geometry(*(receptive_field([Layer(3)], size + 2) for size in (rows, columns))).to_json()


def test_a_patch_goes_through_the_geometry_of_the_file(file, certify):
    """A patch of 2x1 pixels meets 4x3 fields of 3x3 pixels, fewer at the border."""
    maps = torch.randint(9, (30, 3, 6, 7), generator=torch.Generator().manual_seed(2))
    maps[:, 0] += 7
    path = file(maps, [0] * 30, geometry=geometry(6, 7))
    found = certify(path, "--patch", "2x1", *AS_IT_IS)
    assert (found["parameters"]["patch"], found["parameters"]["window"]) == (["2x1"], ["4x3"])
    assert found["per_image"] == certify(path, "--window", "4x3", *AS_IT_IS)["per_image"]
    assert found["certified"] > 0
    both = certify(path, "--patch", "2x1", "--patch", "1x4", *AS_IT_IS)
    assert (both["parameters"]["window"], both["parameters"]["mask"]) == (["3x6", "4x3"], "4x6")


def test_two_patches_in_a_region_are_its_window(file, certify):
    maps = torch.randint(9, (30, 3, 6, 7), generator=torch.Generator().manual_seed(2))
    path = file(maps, [0] * 30)
    found = certify(path, "--window", "1x1", "--patches", "2", "--within", "3x2", *AS_IT_IS)
    assert found["per_image"] == certify(path, "--window", "3x2", *AS_IT_IS)["per_image"]
    assert (found["parameters"]["patches"], found["parameters"]["within"]) == (2, "3x2")


def test_a_window_as_large_as_the_map_certifies_nothing(file, capsys):
    maps = torch.zeros(1, 2, 1, 4)
    maps[0, 0] = 9
    path = file(maps, [0])
    assert main(["certify", str(path), "--defense", "mask", "--window", "1x4", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["per_image"]["certified"] == [False]
    assert err == "pglearn: a malicious window is the whole map: nothing can be certified\n"


def test_fields_that_see_everything_certify_nothing(file, capsys):
    fields = Geometry(*[receptive_field([Layer(5, padding=2)], 3)] * 2)
    path = file(torch.ones(1, 2, 3, 3), [0], geometry=fields.to_json())
    assert main(["certify", str(path), "--defense", "mask", "--patch", "1x1", *AS_IT_IS]) == 0
    out, err = capsys.readouterr()
    assert "0 of 1" in out
    assert "nothing can be certified" in err


def test_for_people(file, capsys):
    path = file(MAPS, [0, 0, 1])
    assert main(["certify", str(path), "--defense", "mask", "--window", "1x1", *AS_IT_IS]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "2 of 3" in out
    assert "1 of 3" in out


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["certify", "--help"])
    assert end.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for word in (
        "--window",
        "--patch",
        "--mask",
        "--detection-threshold",
        "--top-k",
        "--unlabelled",
        "--json",
        "--step",
    ):
        assert word in out


GOOD = ["--defense", "mask", "--window", "1x1"]
FEATURES, CLIP, VOTE = (["--defense", name, "--window", "1x1"] for name in ("features", "clip", "vote"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--window", "1x1"], "the following arguments are required: --defense"),
        (["--defense", "mask"], "one of the arguments --window --patch is required"),
        ([*GOOD, "--patch", "1x1"], "argument --patch: not allowed with argument --window"),
        (["--defense", "best", "--window", "1x1"], "defense: is best, allowed: mask, features, clip, vote"),
        ([*GOOD, "--transform", "best"], "transform: is best, allowed: logits, confidence, prediction, tanh"),
        ([*GOOD, "--vote-threshold", "0.2"], "vote-threshold: not used by mask over logits, allowed: clip_"),
        ([*GOOD, "--transform", "tanh", "--clip-high", "1"], "clip-high: not used by mask over tanh"),
        ([*CLIP, "--mask", "1x1"], "mask: not used by clip over tanh, allowed: step, unit"),
        ([*CLIP, "--detection-threshold", "0.1"], "detection-threshold: not used by clip over tanh"),
        ([*CLIP, "--vote-threshold", "0.1"], "vote-threshold: not used by clip over tanh"),
        ([*CLIP, "--clip-high", "9"], "clip-high: not used by clip over tanh"),
        ([*CLIP, "--step", "1.1"], "step: 1.1 of a range of 1 gives 0.909 units, allowed: 1 to 2"),
        ([*CLIP, "--patches", "2", "--within", "1x3"], "--within: not used by clip"),
        ([*VOTE, "--step", "0.5"], "step: not used by vote over prediction, allowed: unit, vote_threshold"),
        ([*VOTE, "--vote-threshold", "0"], "vote_threshold: is 0, allowed: above 0, at most 1"),
        ([*VOTE, "--vote-threshold", "1.01"], "vote_threshold: is 1.01, allowed: above 0, at most 1"),
        ([*VOTE, "--vote-threshold", "nan"], "vote_threshold: is nan, allowed: a decimal number"),
        ([*VOTE, "--mask", "1x1"], "mask: not used by vote"),
        ([*FEATURES, "--detection-threshold", "0"], "detection-threshold: not used by features over logits"),
        ([*FEATURES, "--window", "1x3", "--mask", "1x2"], "mask: 2 features, allowed: at least the 3 of the"),
        ([*FEATURES, "--mask", "2x4"], "mask: 2x4, allowed: from 1x1 to the map's 1x4"),
        ([*FEATURES, "--patches", "0"], "patches: is 0, allowed: 1 or more"),
        ([*GOOD, "--window", "0x1"], "window: 0x1, allowed: from 1x1 to the map's 1x4"),
        ([*GOOD, "--window", "2x1"], "window: 2x1, allowed: from 1x1 to the map's 1x4"),
        ([*GOOD, "--window", "1x5"], "window: 1x5, allowed: from 1x1 to the map's 1x4"),
        ([*GOOD, "--window", "5"], "argument --window: is '5', allowed: HEIGHTxWIDTH"),
        ([*GOOD, "--window", "-1x1"], "argument --window: "),
        ([*GOOD, "--window", "1.5x2"], "argument --window: is '1.5x2'"),
        ([*GOOD, "--window", "1x9999999999"], "argument --window: is '1x9999999999'"),
        ([*GOOD, "--mask", "1x5"], "mask: 1x5, allowed: from 1x1 to the map's 1x4"),
        ([*GOOD, "--mask", "0x1"], "mask: 0x1, allowed: from 1x1 to the map's 1x4"),
        (
            [*GOOD, "--window", "1x3", "--mask", "1x2"],
            "mask: 1x2, allowed: at least the malicious window's 1x3",
        ),
        ([*GOOD, "--detection-threshold", "1"], "detection threshold: is 1, allowed: 0 <= T < 1"),
        ([*GOOD, "--detection-threshold", "-0.1"], "detection threshold: is -0.1, allowed: 0 <= T < 1"),
        ([*GOOD, "--detection-threshold", "nan"], "detection threshold: is nan, allowed: a decimal"),
        ([*GOOD, "--detection-threshold", "1/3"], "detection threshold: is 1/3, allowed: a decimal"),
        ([*GOOD, "--detection-threshold", "0." + "3" * 40], "clip_high: "),
        ([*GOOD, "--top-k", "0"], "top-k: k is 0, allowed: 1 to 1 of 2 classes"),
        ([*GOOD, "--top-k", "2"], "top-k: k is 2, allowed: 1 to 1 of 2 classes"),
        ([*GOOD, "--top-k", "one"], "argument --top-k: is 'one', allowed: a whole number"),
        ([*GOOD, "--step", "0"], "step: is 0, allowed: above 0"),
        ([*GOOD, "--step", "-1"], "step: is -1, allowed: above 0"),
        ([*GOOD, "--step", "nan"], "step: is nan, allowed: a decimal number"),
        ([*GOOD, "--step", ""], "step: is , allowed: a decimal number"),
        ([*GOOD, "--clip-high", "0"], "clip_high: is 0, allowed: above 0"),
        ([*GOOD, "--clip-high", "inf"], "clip_high: is inf, allowed: a decimal number"),
        ([*GOOD, "--clip-high", ""], "clip_high: is , allowed: a decimal number"),
        ([*GOOD, "--clip-high", "1e30"], "clip_high: 1e30 at step 0.0009765625 gives 1.02e"),
        ([*GOOD, "--step", "1e-40"], "clip_high: 64 at step 1e-40 gives 6.4e"),
        ([*GOOD, "--step", "100"], "clip_high: 64 at step 100 gives 0.64 units, allowed: 1 to 2"),
        (
            [*GOOD, "--step", "1", "--clip-high", str(2**53), "--detection-threshold", "0.0001"],
            "clip_high: 1x4 cells of 9007199254740992 units, compared with T = 0.0001, could overflow",
        ),
        (
            ["--defense", "mask", "--patch", "1x1"],
            "--patch: the file carries no geometry, allowed: --window HxW",
        ),
        ([*GOOD, "--patches", "0"], "patches: is 0, allowed: 1 or more"),
        (
            [*GOOD, "--patches", "2"],
            "patches: is 2, allowed with window masks: 1, or a region that holds all (--within",
        ),
        (
            [*GOOD, "--within", "1x2"],
            "--within: holds several patches, allowed: only with --patches 2 or more",
        ),
        (
            [*GOOD, "--window", "1x3", "--patches", "2", "--within", "1x2"],
            "--within: is 1x2, allowed: at least as",
        ),
        ([*GOOD, "--step", "1__0"], "step: is 1__0, allowed: a decimal number"),
        ([*GOOD, "--clip-high", "6_4_"], "clip_high: is 6_4_, allowed: a decimal number"),
        ([*GOOD, "--detection-threshold", "1__e-1"], "detection threshold: is 1__e-1, allowed: a decimal"),
        ([*GOOD, "--top", "1"], "unrecognized arguments: --top 1"),
        ([*GOOD, "--unlabeled-twice"], "unrecognized arguments: --unlabeled-twice"),
        (["--defense", "mask", "--window", "1x4", "--detection-threshold", "2"], "detection threshold: is 2"),
    ],
)
def test_options_that_cannot_be_are_one_line(file, refused, options, line):
    assert refused("certify", str(file(MAPS, [0, 0, 1])), *options).startswith(line)


@pytest.mark.parametrize(
    ("tensors", "metadata", "options", "line"),
    [
        ({}, {}, [], "FILE: no tensor named evidence (found: labels)"),
        ({"evidence": torch.ones(1, 2, 3)}, {}, [], "evidence: has shape (1, 2, 3), allowed: (N, C, H, W)"),
        (
            {"evidence": torch.ones(0, 2, 3, 3)},
            {},
            [],
            "evidence: has shape (0, 2, 3, 3), allowed: (N, C, H, W), none",
        ),
        ({"evidence": torch.ones(1, 1, 3, 3)}, {}, [], "evidence: has 1 class, allowed: 2 or more"),
        ({"evidence": torch.ones(1, 2, 3, 3).bool()}, {}, [], "evidence: is of type BOOL, allowed: "),
        ({"evidence": torch.ones(2, 2, 3, 3)}, {}, [], "labels: are (1,) I64, allowed: (2,) I64"),
        ({"labels": torch.tensor([2])}, {}, [], "labels: run from 2 to 2, allowed: 0 to 1"),
        ({"labels": torch.tensor([-3])}, {}, [], "labels: run from -3 to -3, allowed: 0 to 1"),
        ({"labels": torch.tensor([0.5])}, {}, [], "labels: are (1,) F32, allowed: (1,) I64"),
        ({}, {"step": "x"}, ["ones"], "step: is x, allowed: a decimal number"),
        ({}, {"clip_high": "-1"}, ["ones"], "clip_high: is -1, allowed: above 0"),
        ({}, {"wrap": "1"}, ["ones"], "wrap: is '1' in the file, allowed: true, false"),
        ({}, {"geometry": "[]"}, ["ones"], "geometry: "),
        (
            {},
            {"geometry": geometry(2, 3)},
            ["ones"],
            "geometry: describes 2x3 features, the evidence has 3x3",
        ),
        (
            {},
            {"geometry": geometry(3, 3)},
            ["ones", "--patch", "6x1"],
            "patch: height is 6 pixels, allowed: 1 to the",
        ),
        (
            {},
            {"geometry": geometry(3, 3)},
            ["ones", "--patch", "1x0"],
            "patch: width is 0 pixels, allowed: 1 to the",
        ),
    ],
)
def test_files_that_cannot_be_are_one_line(tmp_path, refused, tensors, metadata, options, line):
    tensors = {"labels": torch.tensor([0]), **tensors}
    if "ones" in options or ("evidence" not in tensors and "labels" in line and "FILE" not in line):
        tensors["evidence"] = torch.ones(1, 2, 3, 3)
    save_file(tensors, tmp_path / "f", metadata)
    given = options[1:] or ["--window", "1x1"]
    assert refused("certify", str(tmp_path / "f"), "--defense", "mask", *given).startswith(line)


def test_what_is_no_file_is_one_line(tmp_path, refused, file):
    assert refused("certify", str(tmp_path / "none"), *GOOD).startswith(
        f"FILE: {tmp_path / 'none'} is not a file"
    )
    assert refused("certify", str(tmp_path), *GOOD).startswith(f"FILE: {tmp_path} is not a file")
    assert refused("certify", str(tmp_path / ("x" * 300)), *GOOD).startswith("File name too long: ")
    path = file(MAPS, [0, 0, 1])
    os.truncate(path, path.stat().st_size - 8)
    assert refused("certify", str(path), *GOOD).startswith(f"FILE: {path} is no complete safetensors file")
    path.write_bytes(b"not evidence at all, but long enough to look at")
    assert refused("certify", str(path), *GOOD).startswith(f"FILE: {path} is no complete safetensors file")
    path = file(MAPS)
    assert refused("certify", str(path), *GOOD).startswith("labels: not in the file, allowed: ")


def test_without_a_command(refused):
    assert refused() == "the following arguments are required: COMMAND"
    assert refused("certify").startswith("the following arguments are required: FILE, --defense")
    assert refused("certificate").startswith("argument COMMAND: invalid choice: 'certificate'")


def test_a_process_of_its_own(file):
    """The same from a shell: exit code 2, no traceback; and an answer where there is one."""
    path = file(MAPS, [0, 0, 1])
    command = [sys.executable, "-m", "pglearn", "certify", str(path), *GOOD, "--json"]
    bad = subprocess.run([*command, "--top-k", "9"], cwd=ROOT, capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "pglearn: top-k: k is 9, allowed: 1 to 1 of 2 classes\n"
    good = subprocess.run([*command, *AS_IT_IS], cwd=ROOT, capture_output=True, text=True)
    assert (good.returncode, good.stderr, json.loads(good.stdout)["certified"]) == (0, "", 1)


def test_interrupted(file, monkeypatch, capsys):
    """Ctrl-C says in one line what is left."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pglearn.certify.certify_file", interrupt)
    assert main(["certify", str(file(MAPS, [0, 0, 1])), *GOOD]) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "pglearn: stopped: there is no report, the same command begins anew\n")

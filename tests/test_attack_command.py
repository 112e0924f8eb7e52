"""`pglearn attack`: real runs on the embedded set; the log counted again from the pictures it saved."""

import csv
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pglearn import InputError, models, shapes, trials
from pglearn.certify import certify, rate
from pglearn.cli import main
from pglearn.data import ImageSet
from pglearn.defenses import make_defense
from pglearn.evidence import Evidence
from pglearn.geometry import malicious_windows

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]
BAGNET, RESNET, SMOOTHED = (
    str(ROOT / "data" / f"shapes-{name}.safetensors") for name in ("bagnet", "resnet", "ds")
)
SHAPES = ["--data", "shapes", "--patch", "9x9"]


@pytest.fixture(scope="module", autouse=True)
def _drawn_once():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shapes, "dataset", cache(shapes.dataset))
        yield


@pytest.fixture
def attack(capsys):
    """What a run prints: the first word of each line, and the rest."""

    def run(model: str, *options: object, code: int = 0) -> tuple[dict[str, str], str]:
        assert main(["attack", model, *SHAPES, *map(str, options)]) == code
        out, err = capsys.readouterr()
        return {
            word: rest.strip() for word, rest in (line.split(maxsplit=1) for line in out.splitlines())
        }, err

    return run


@pytest.fixture
def refused(capsys):
    """Exit code 2, one line, nothing else; the line."""

    def run(*arguments: str) -> str:
        assert main(["attack", *arguments]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n"), err[-1], err[:9]) == ("", 1, "\n", "pglearn: ")
        return err[9:-1]

    return run


@pytest.fixture
def not_begun(monkeypatch):
    """No attack, and no certificate, may begin."""
    for name in ("attack", "universal", "certify", "gradient_places", "evidence_places"):
        monkeypatch.setattr(trials, name, None)


def log(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        found = list(rows)
    assert rows.fieldnames == list(trials.LOG)
    return found


def picture(path: Path) -> Tensor:
    with Image.open(path) as file:
        pixels = torch.frombuffer(bytearray(file.tobytes()), dtype=torch.uint8)
        return pixels.view(file.height, file.width, -1).permute(2, 0, 1)


def counted(printed: dict[str, str], rows: list[dict[str, str]]) -> dict[str, int]:
    """The counts of the log, which are those that were printed, in their order."""
    found = {name: sum(row[name] == "1" for row in rows) for name in ("certified", "withstood", "clean")}
    assert {row[name] for row in rows for name in ("clean", "withstood")} <= {"0", "1"}
    assert printed["clean"] == rate(found["clean"], len(rows))
    assert printed["attacked"] == rate(found["withstood"], len(rows))
    for row in rows:
        assert row["certified"] <= row["withstood"] <= row["clean"]
    return found


def masked(path: str, pixels: Tensor, mask: int) -> tuple[list[Fraction], Fraction]:
    """Scores of an image (3, H, W) behind window masking, in whole steps, and the step: in loops, from the
    network's file on.
    """
    model, about = models.load_model(path)
    with torch.inference_mode():
        maps = model.double()(pixels[None])[0]
    step, high = float(about["step"]), float(about["clip_high"])
    scores = []
    for rows in maps.tolist():
        units = [[round(min(max(cell, 0.0), high) / step) for cell in row] for row in rows]
        side = len(units) - mask + 1
        heaviest = max(
            sum(sum(row[left : left + mask]) for row in units[top : top + mask])
            for top in range(side)
            for left in range(side)
        )
        scores.append(Fraction(sum(map(sum, units)) - heaviest))
    return scores, Fraction(about["step"])


def test_the_log_is_that_of_the_pictures(tmp_path, attack, monkeypatch):
    drawn, draw = [], trials._draw
    monkeypatch.setattr(trials, "_draw", lambda *given: (drawn.append(given[1]), draw(*given)))
    printed, err = attack(BAGNET, "--images", 20, "--steps", 20, "--out", tmp_path / "run")
    assert "CERTIFIED" not in err
    rows = log(tmp_path / "run")
    found = counted(printed, rows)
    assert printed["certified"] == rate(found["certified"], 20)
    assert 0 < found["certified"] < found["withstood"] < found["clean"]
    images, labels = shapes.dataset("test", 20)
    assert [(row["index"], row["label"], row["class"]) for row in rows] == [
        (str(i), str(label), shapes.CLASSES[label]) for i, label in enumerate(labels.tolist())
    ]
    fallen = {int(row["index"]) for row in rows if row["clean"] > row["withstood"]}
    saved = {int(path.stem): picture(path) for path in (tmp_path / "run" / "fallen").iterdir()}
    assert saved.keys() == fallen
    mask = int(re.search(r"mask (\d)x\1, T = 0", printed["defense"])[1])
    for i, pixels in saved.items():
        row, column = int(rows[i]["row"]), int(rows[i]["column"])
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[row : row + 9, column : column + 9] = False
        assert torch.equal(pixels[:, outside], images[i][:, outside])
        for image, prediction, margin in (
            (pixels, rows[i]["prediction"], rows[i]["margin_attacked"]),
            (images[i], rows[i]["label"], rows[i]["margin"]),
        ):
            scores, step = masked(BAGNET, image, mask)
            assert scores.index(max(scores)) == int(prediction)
            ours = scores.pop(int(labels[i]))
            assert float((ours - max(scores)) * step) == float(margin)
        assert rows[i]["predicted_class"] == shapes.CLASSES[int(rows[i]["prediction"])]
        assert float(rows[i]["margin"]) > 0 >= float(rows[i]["margin_attacked"])
    for row in rows:  # a certificate's margin is one that no patch passes
        assert float(row["margin_certified"]) <= float(row["margin_attacked"])
        assert (row["certified"] == "1") == (float(row["margin_certified"]) > 0)
    falls = {i: float(rows[i]["margin_attacked"]) - float(rows[i]["margin"]) for i in fallen}
    assert drawn == [min(falls, key=falls.__getitem__)]
    with Image.open(tmp_path / "run" / "worst.png") as worst:
        assert min(worst.size) > 300
        assert len(worst.convert("RGB").getcolors(2**24)) > 1000


def test_certified_are_those_of_the_shipped_bank(tmp_path, attack):
    """The bank's evidence is float32, so margins differ by the rounding of cells; verdicts here do not."""
    attack(BAGNET, "--images", 10, "--steps", 1, "--places", "0,0", "--out", tmp_path / "run")
    bank = Evidence.load(ROOT / "data" / "shapes-bagnet-bank.safetensors")
    windows = malicious_windows(9, 9, bank.geometry)
    ten = replace(bank, maps=bank.maps[:10], labels=bank.labels[:10])
    certificate = certify(ten.maps, ten.labels, make_defense("mask", windows, source=ten), windows)
    for row, certified, margin in zip(
        log(tmp_path / "run"), certificate.certified.tolist(), certificate.margin, strict=True
    ):
        assert row["certified"] == str(int(certified))
        assert float(row["margin_certified"]) == pytest.approx(margin * float(bank.unit), abs=0.05)


def test_one_patch_for_all_undefended(tmp_path, attack):
    """Its picture, where it is opaque, lies in every image that fell."""
    options = ["--defense", "none", "--universal", "--shape", "ellipse", "--images", 30, "--steps", 30]
    printed, _ = attack(RESNET, *options, "--places", "28,28", "--out", tmp_path / "run")
    assert printed["defense"] == "none"
    assert "one for all images" in printed["attacker"]
    rows = log(tmp_path / "run")
    found = counted(printed, [row | {"certified": "0"} for row in rows])
    assert found["withstood"] < found["clean"]
    assert {row["certified"] + row["margin_certified"] for row in rows} == {""}
    patch = picture(tmp_path / "run" / "patch.png")
    opaque = patch[3] == 255
    assert patch.shape == (4, 9, 9)
    assert torch.equal(patch[3], 255 * opaque)
    assert opaque.sum() == 69  # of 81 pixels those with a center at most 4.5 away from the middle
    model, _ = models.load_model(RESNET)
    images, labels = shapes.dataset("test", 30)
    for path in (tmp_path / "run" / "fallen").iterdir():
        pixels, i = picture(path), int(path.stem)
        expected = images[i].clone()
        expected[:, 28:37, 28:37] = expected[:, 28:37, 28:37].where(~opaque, patch[:3])
        assert torch.equal(pixels, expected)
        with torch.inference_mode():
            assert int(model(pixels[None]).mean((2, 3)).argmax()) == int(rows[i]["prediction"]) != labels[i]
    assert len(list((tmp_path / "run" / "fallen").iterdir())) == found["clean"] - found["withstood"]


def test_targeted_by_name_and_number(tmp_path, attack):
    options = ["--defense", "none", "--images", 12, "--steps", 10, "--places", "gradient:1"]
    by_name, _ = attack(RESNET, *options, "--target", "waves", "--out", tmp_path / "name")
    by_number, _ = attack(RESNET, *options, "--target", 9, "--out", tmp_path / "number")
    assert by_name["attacker"] == by_number["attacker"]
    assert "target waves" in by_name["attacker"]
    rows = log(tmp_path / "name")
    assert rows == log(tmp_path / "number")  # same seed, same patches
    assert [int(row["index"]) for row in rows] == [*range(9), 10, 11, 12]  # 9 is one of waves
    fallen = [row for row in rows if row["clean"] > row["withstood"]]
    assert {row["predicted_class"] for row in fallen} == {"waves"}
    assert len(list((tmp_path / "name" / "fallen").iterdir())) == len(fallen) > 0


def test_two_patches_behind_single_features(tmp_path, attack):
    options = ["--defense", "features", "--patches", 2, "--top-k", 2, "--images", 3, "--steps", 2]
    printed, _ = attack(BAGNET, *options, "--out", tmp_path / "run")
    assert printed["attacker"].startswith("2 patches of 9x9 pixels")
    assert printed["defense"].endswith("top-2")
    counted(printed, log(tmp_path / "run"))
    for row in log(tmp_path / "run"):
        assert len(row["row"].split()) == len(row["column"].split()) == 2


def test_a_gradient_free_attack_at_one_place(tmp_path, attack):
    options = ["--defense", "mask", "--transform", "confidence", "--method", "search", "--images", 2]
    printed, _ = attack(SMOOTHED, *options, "--steps", 3, "--places", "20,30", "--out", tmp_path / "run")
    assert re.search(r"^2 tried, 6 patches x steps in [\d.]+ s, [\d,]+ a second$", printed["patches"])
    assert "search" in printed["attacker"]
    assert {(row["row"], row["column"]) for row in log(tmp_path / "run")} == {("20", "30")}


def test_a_certified_image_that_falls_is_told_loudly(tmp_path, attack, monkeypatch):
    """As it would be with a certificate that is wrong."""
    proper = trials.certify

    def careless(*given):
        return replace(found := proper(*given), certified=found.clean)

    monkeypatch.setattr(trials, "certify", careless)
    options = ["--images", 8, "--places", "grid:40", "--steps", 15, "--defense", "clip"]
    printed, err = attack(RESNET, *options, "--out", tmp_path / "run", code=1)
    rows = log(tmp_path / "run")
    wrong = [row["index"] for row in rows if float(row["margin_attacked"]) <= 0]
    fallen = [row["index"] for row in rows if row["clean"] > row["withstood"]]
    assert f"pglearn: CERTIFIED IMAGES FELL: {', '.join(wrong)}. This is a bug" in err
    assert wrong == fallen
    assert sorted(path.stem for path in (tmp_path / "run" / "fallen").iterdir()) == fallen
    assert printed["certified"] == printed["clean"]


def test_without_a_folder_nothing_is_written(tmp_path, attack, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed, _ = attack(BAGNET, "--images", 1, "--steps", 1, "--places", "random:1")
    assert list(printed) == [
        "model", "images", "attacker", "defense", "clean", "attacked", "certified", "patches",
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("not_begun")
def test_a_folder_that_cannot_be_is_told_before_the_attack(tmp_path, refused, monkeypatch):
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "notes.txt").touch()
    file.touch()
    for out, line in (
        (full, "is there already, allowed: a new folder, or an empty one"),
        (file, "is there already, allowed: a new folder, or an empty one"),
        (tmp_path / "no" / "run", "cannot be written: No such file or directory"),
        (file / "run", "cannot be written: Not a directory"),
    ):
        assert refused(BAGNET, *SHAPES, "--out", str(out)) == f"--out: {out} {line}"
    for missing in ("matplotlib", "PIL"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, missing, None)
            line = refused(BAGNET, *SHAPES, "--out", str(tmp_path / "run"))
            assert line == f"--out: pictures need {missing}, allowed: with it installed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_a_folder_appears_with_all_that_is_in_it(tmp_path):
    target = tmp_path / "run"

    def half():
        with trials.new_folder(target) as folder:
            (folder / "log.csv").touch()
            (folder / "log.csv" / "more").touch()

    def taken():
        with trials.new_folder(target):
            target.mkdir()
            (target / "notes.txt").touch()

    with pytest.raises(NotADirectoryError):
        half()
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="not empty"):
        taken()
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "notes.txt"]
    (target / "notes.txt").unlink()
    with trials.new_folder(target) as folder:
        (folder / "whole").touch()
        assert not any(target.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in target.iterdir()] == ["whole"]


GOOD = [BAGNET, *SHAPES, "--images", "2"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "the following arguments are required: MODEL, --data, --patch"),
        ([BAGNET, "--data", "shapes", "--patch", "65x1"], "patch: height is 65 pixels, allowed: 1 to the"),
        ([BAGNET, "--data", "shapes", "--patch", "1x0"], "patch: width is 0 pixels, allowed: 1 to the"),
        ([BAGNET, "--data", "shapes", "--patch", "9"], "argument --patch: is '9', allowed: HEIGHTxWIDTH"),
        (["nothing", *SHAPES], "model: nothing cannot be read"),
        ([BAGNET, "--data", "nothing", "--patch", "9x9"], "data: 'nothing' is neither a folder"),
        ([*GOOD, "--size", "32"], "images: are 32x32 pixels, allowed for this model: 64x64"),
        ([*GOOD, "--images", "0"], "images: 0, allowed: 1 to the 2000 of the data set"),
        ([*GOOD, "--images", "2001"], "images: 2001, allowed: 1 to the 2000 of the data set"),
        ([*GOOD, "--images", "1801", "--target", "0"], "images: 1801, allowed: 1 to the 1800"),
        ([*GOOD, "--target", "moon"], "--target: is 'moon', allowed: 0 to 9, or a name: disc, ring,"),
        ([*GOOD, "--target", "1", "--top-k", "2"], "--target: with --top-k 2"),
        ([*GOOD, "--seed", "9" * 23], "seed: is 9"),
        ([*GOOD, "--places", "random:999999999"], "places: "),
        ([*GOOD, "--target", "10"], "--target: is '10', allowed: 0 to 9"),
        ([*GOOD, "--places", "56,0"], "corners: one is outside, allowed here: rows 0 to 55, columns 0 to 55"),
        ([*GOOD, "--places", "evidence"], "argument --places: is 'evidence', allowed: evidence:N, grad"),
        ([*GOOD, "--places", "random:0"], "argument --places: is 'random:0', allowed: "),
        ([*GOOD, "--places", "evidence:1", "--defense", "none"], "places: evidence, allowed with a defense"),
        (
            [*GOOD, "--places", "grid:9", "--defense", "clip", "--patches", "2"],
            "places: are for one patch, allowed for 2: gradient:N",
        ),
        (
            [*GOOD, "--places", "0,0", "--defense", "clip", "--patches", "2"],
            "places: are for one patch, allowed for 2: gradient:N",
        ),
        ([*GOOD, "--patches", "2"], "patches: is 2, allowed with window masks: 1"),
        ([*GOOD, "--patches", "0"], "patches: is 0, allowed: 1 or more"),
        ([*GOOD, "--patches", "0", "--defense", "none"], "patches: is 0, allowed: 1 or more"),
        ([*GOOD, "--shape", "star"], "argument --shape: invalid choice: 'star'"),
        ([*GOOD, "--method", "luck"], "argument --method: invalid choice: 'luck'"),
        ([*GOOD, "--steps", "0"], "steps: is 0, allowed: 1 or more"),
        ([*GOOD, "--restarts", "0"], "restarts: is 0, allowed: 1 or more"),
        ([*GOOD, "--universal", "--method", "search"], "--universal: climbs gradients, once, allowed: "),
        ([*GOOD, "--universal", "--steps", "0"], "steps: is 0, allowed: 1 or more"),
        ([*GOOD, "--top-k", "10"], "top-k: k is 10, allowed: 1 to 9 of 10 classes"),
        ([*GOOD, "--top-k", "10", "--defense", "none"], "top-k: k is 10, allowed: 1 to 9 of 10 classes"),
        ([*GOOD, "--defense", "best"], "defense: is best, allowed: mask, features, clip, vote"),
        ([*GOOD, "--transform", "best"], "transform: is best, allowed: logits, confidence"),
        ([*GOOD, "--mask", "1x1"], "mask: 1x1, allowed: at least the malicious window's"),
        ([*GOOD, "--mask", "5x5", "--defense", "clip"], "mask: not used by clip over tanh"),
        ([*GOOD, "--mask", "5x5", "--defense", "none"], "mask: not used by none"),
        ([*GOOD, "--detection-threshold", "1"], "detection threshold: is 1, allowed: 0 <= T < 1"),
        ([*GOOD, "--vote-threshold", "0.2"], "vote-threshold: not used by mask over logits"),
        ([RESNET, *GOOD[1:]], "images: none of 2 is right behind the defense, allowed: one or more, or defe"),
    ],
)
def test_bad_input_is_one_line(tmp_path, refused, arguments, line):
    assert refused(*arguments, "--out", str(tmp_path / "run")).startswith(line)
    assert not list(tmp_path.iterdir())


def test_a_network_that_is_not_finite(tmp_path, refused):
    model, about = models.load_model(RESNET)
    with torch.no_grad():
        model.body[0].conv1.weight[0, 0, 0, 0] = torch.nan
    models.save_model(tmp_path / "nan", model, about)
    for options in ([], ["--places", "0,0"]):
        line = refused(str(tmp_path / "nan"), *SHAPES, "--images", "2", "--defense", "none", *options)
        assert re.match("images: none of 2 is right|model: its gradient is not finite", line)


def test_images_of_another_number_of_classes(tmp_path, refused):
    for name in ("cat", "dog"):
        (tmp_path / "animals" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "animals" / "test" / name / "0.png")
    line = refused(BAGNET, "--data", str(tmp_path / "animals"), "--patch", "9x9")
    assert line == "images: have 2 classes, allowed for this model: 10"


def test_the_first_images_of_all_classes():
    labels = torch.tensor([0, 0, 0, 2, 2, 1, 1, 1])
    images = ImageSet(torch.zeros(8, 3, 1, 1, dtype=torch.uint8), labels, ("a", "b", "c"))
    for count, chosen in ((1, [0]), (3, [0, 3, 5]), (4, [0, 1, 3, 5]), (7, [0, 1, 2, 3, 4, 5, 6])):
        assert trials.first_images(images, count).tolist() == chosen
    assert trials.first_images(images, 3, target=2).tolist() == [0, 1, 5]
    with pytest.raises(InputError, match="images: 7, allowed: 1 to the 6 "):
        trials.first_images(images, 7, target=2)


def test_ellipses():
    drawn = ["".join(".#"[pixel] for pixel in row) for row in trials.ellipse(4, 6).int().tolist()]
    assert drawn == [".####.", "######", "######", ".####."]
    assert trials.ellipse(2, 2).all()


def test_the_commands_of_the_readme(tmp_path, monkeypatch, capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    for command in (commands := re.findall(r"^pglearn (attack .*)$", readme, flags=re.MULTILINE)):
        assert main([*shlex.split(command), "--images", "2", "--steps", "1"]) == 0
        assert re.search(r"^clean +2 of 2 images, ", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(commands) == 2
    found = [path.name for path in sorted((tmp_path / "attacked").iterdir())]
    assert found == ["fallen", "log.csv", "worst.png"]
    assert all(name in readme for name in found)


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["attack", "--help"])
    assert end.value.code == 0
    assert "--places" in capsys.readouterr().out


def test_interrupted(tmp_path):
    """Ctrl-C: one line, the exit code of a shell, and nothing left behind."""
    hears = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"  # if we do not
    command = [sys.executable, "-c", f"{hears}; from pglearn.cli import main; sys.exit(main())", "attack"]
    command += [BAGNET, *SHAPES, "--places", "grid:1", "--steps", "1000", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        assert [path.name for path in tmp_path.iterdir()] == [f".run.{process.pid}.part"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out, err.splitlines()[-1]) == (130, "", "pglearn: stopped")
    assert not list(tmp_path.iterdir())

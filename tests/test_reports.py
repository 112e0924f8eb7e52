"""Results: counts as `certify` has them, one file, one reader, two forms of tables; the worked example."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pglearn import InputError
from pglearn.cli import main
from pglearn.defenses import DEFENSES
from pglearn.evidence import Evidence, EvidenceFile
from pglearn.geometry import Geometry, Layer, receptive_field
from pglearn.reports import Result, compare, markdown, measure, read, write

ROOT = Path(__file__).parent.parent
ROW = Result("bank", "mask", "logits", "5x5", "3x3", "3x3", 1, 1, 1000, 725, 300, 0.25)


@pytest.fixture
def bank(tmp_path):
    """Evidence of 40 images, 4 classes, 5x6 features of a 9-pixel field at stride 2; the label is strong."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(40, 4, 5, 6, generator=generator)
    labels = torch.randint(0, 4, (40,), generator=generator)
    maps[torch.arange(40), labels] *= torch.linspace(1, 6, 40)[:, None, None]
    geometry = Geometry(receptive_field([Layer(9, 2)], 17), receptive_field([Layer(9, 2)], 19))
    path = tmp_path / "bank.safetensors"
    Evidence(maps, labels, geometry, "0.01", "8").save(path)
    return path


@pytest.mark.parametrize(
    ("defense", "k", "patches"),
    [
        ("mask", 1, 1),
        ("mask:confidence", 1, 1),
        ("features", 2, 1),
        ("features", 1, 2),
        ("clip", 1, 1),
        ("vote", 3, 2),
    ],
)
def test_a_result_has_the_counts_of_certify(bank, capsys, defense, k, patches):
    result = measure(EvidenceFile(bank), (1, 2), "patch", defense, k, patches)
    name, _, transform = defense.partition(":")
    options = ["--defense", name, *(["--transform", transform] if transform else [])]
    options += ["--patch", "1x2", "--top-k", str(k), "--patches", str(patches)]
    assert main(["certify", str(bank), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (result.images, result.clean, result.certified) == tuple(
        found[name] for name in ("images", "clean", "certified")
    )
    assert result.transform == found["parameters"]["transform"]
    assert result.window.split() == found["parameters"]["window"]
    assert result.data == "bank"
    assert (result.patch, result.patches, result.top_k) == ("1x2", patches, k)
    assert result.seconds > 0
    masks = {"mask": found["parameters"]["mask"], "features": f"{found['parameters']['alpha']} cells"}
    assert result.mask == masks.get(name, "")


def test_one_command_one_table(bank, tmp_path, capsys):
    out, table = tmp_path / "results.csv", tmp_path / "table.md"
    options = [
        "--window",
        "1x1",
        "2x2",
        "--defense",
        "mask",
        "vote",
        "--top-k",
        "1",
        "2",
        "--patches",
        "1",
        "2",
    ]
    assert main(["compare", str(bank), *options, "--out", str(out), "--markdown", str(table)]) == 0
    printed = capsys.readouterr().out
    assert printed == table.read_text()
    results = read(out)
    assert [(r.window, r.patches, r.defense, r.top_k) for r in results] == [
        (window, patches, defense, k)
        for window in ("1x1", "2x2")
        for patches in (1, 2)
        for defense in (("mask", "vote") if patches == 1 else ("vote",))  # window masks take one patch
        for k in (1, 2)
    ]
    assert markdown(results) == printed
    assert {r.patch for r in results} == {""}


def test_what_is_written_is_read(tmp_path):
    rows = [ROW, replace(ROW, defense="vote", mask="", seconds=12.5)]
    write(tmp_path / "r.csv", rows)
    assert read(tmp_path / "r.csv") == rows


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "data,defense\nx,mask\n"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(InputError, match=r"^results: .*r\.csv.*allowed: a file of pglearn compare"):
        read(tmp_path / "r.csv")
    with pytest.raises(InputError, match=r"^results: .*none\.csv"):
        read(tmp_path / "none.csv")


def test_flat_table():
    assert markdown([ROW]).splitlines() == [
        "| data | patch | window | patches | defense | transform | mask | top_k | images "
        "| clean | certified | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| bank | 5x5 | 3x3 | 1 | mask | logits | 3x3 | 1 | 1000 "
        "| 72.5 % [69.7 %, 75.2 %] | 30.0 % [27.2 %, 32.9 %] | 0.25 |",
    ]


def test_the_form_of_table_15():
    rows = [ROW, replace(ROW, top_k=2, clean=800, certified=500), replace(ROW, patch="7x7", clean=1000)]
    assert markdown(rows, rows=("patch",), columns="top_k").splitlines() == [
        "| patch | accuracy | top-k 1 | top-k 2 |",
        "| --- | --- | --- | --- |",
        "| 5x5 | clean | 72.5 % [69.7 %, 75.2 %] | 80.0 % [77.4 %, 82.4 %] |",
        "| 5x5 | certified | 30.0 % [27.2 %, 32.9 %] | 50.0 % [46.9 %, 53.1 %] |",
        "| 7x7 | clean | 100.0 % [99.6 %, 100.0 %] |  |",
        "| 7x7 | certified | 30.0 % [27.2 %, 32.9 %] |  |",
    ]


def test_compare_takes_many_files(bank, tmp_path):
    other = tmp_path / "other.safetensors"
    Evidence.load(bank).save(other)
    results = compare([bank, other], [(1, 1)], "window", ["clip"])
    assert [r.data for r in results] == ["bank", "other"]
    assert (results[0].clean, results[0].certified) == (results[1].clean, results[1].certified)


def test_the_worked_example_of_contributing(bank, monkeypatch, capsys):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(\"\"\"The median.*?)```", text, flags=re.DOTALL)
    line = re.search(r"`\"(median)\": \(\"(logits)\", Median\),`", text)
    assert code is not None
    assert line is not None
    namespace: dict = {}
    exec(code[1], namespace)
    monkeypatch.setitem(DEFENSES, line[1], (line[2], namespace["Median"]))
    options = ["--defense", "median", "--window", "2x2", "--top-k", "2", "--json"]
    assert main(["certify", str(bank), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    evidence = Evidence.load(bank)
    units = (evidence.maps.double().clamp(0, 8) / 0.01).round()
    for i, label in enumerate(evidence.labels.tolist()):
        margins = []
        for row in range(4):
            for column in range(5):
                worst = units[i].clone()
                worst[:, row : row + 2, column : column + 2] = 800
                worst[label, row : row + 2, column : column + 2] = 0
                scores = worst.flatten(1).sort(1).values[:, 14].tolist()
                keeps = scores.pop(label)
                margins.append(keeps - sorted(scores)[-2])
        assert found["per_image"]["margin"][i] == pytest.approx(min(margins) / 100)
    assert 0 < found["certified"] < 40


def test_the_shipped_comparison_is_what_the_library_finds():
    shipped = [row for row in read(ROOT / "data" / "results.csv") if row.patch == "5x5" and row.top_k == 1]
    found = compare(sorted((ROOT / "data").glob("*-bank.safetensors")), [(5, 5)])
    assert [replace(row, seconds=0) for row in found] == [replace(row, seconds=0) for row in shipped]
    assert (ROOT / "data" / "results.md").read_text() == markdown(read(ROOT / "data" / "results.csv"))


def test_the_comparison_of_the_readme_is_the_shipped_one():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for data in ("cifar10-masked-bank", "cifar10-ds-bank"):
        (line,) = re.findall(rf"^\| `{data}` \| (.*) \|$", text, flags=re.MULTILINE)
        assert line.split(" | ") == [
            f"{100 * row.clean / row.images:.1f} / {100 * row.certified / row.images:.1f}"
            for row in read(ROOT / "data" / "results.csv")
            if (row.data, row.patch, row.top_k) == (data, "5x5", 1)
        ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--defense", "mask", "--patches", "2"], "patches: is 2, allowed with window masks: 1"),
        (["--patches", "0"], "patches: is 0, allowed: 1 or more"),
        (["--patches", "1_0"], "argument --patches: is '1_0', allowed: a whole number"),
        (["--defense", "best"], "defense: is best, allowed: mask, features, clip, vote"),
        (["--defense", "mask:best", "--patches", "2"], "transform: is best, allowed"),
        (["--top-k", "1", "4"], "top-k: k is 4, allowed: 1 to 3 of 4 classes"),
        (["--window", "9x9"], "window: 9x9, allowed: from 1x1 to the map's 5x6"),
        (["--defense", "mask", "--patches", "0", "1"], "patches: is 0, allowed: 1 or more"),
        (["--defense", "mask:best", "vote", "--patches", "2"], "transform: is best, allowed"),
        (["--out", "bank.safetensors"], "FILE, --out, --markdown: one file is named twice"),
        (["--markdown", "results.csv"], "FILE, --out, --markdown: one file is named twice"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_computed(bank, monkeypatch, capsys, options, line):
    monkeypatch.chdir(bank.parent)
    before = bank.read_bytes()
    given = ["compare", "bank.safetensors", "--window", "1x1", "--out", "results.csv", *options]
    assert main(given) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"pglearn: {line}")
    assert bank.read_bytes() == before
    assert not (bank.parent / "results.csv").exists()


def test_files_of_one_name_are_refused(bank, tmp_path):
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / bank.name
    other.write_bytes(bank.read_bytes())
    with pytest.raises(InputError, match=r"^FILE: two files have one name"):
        compare([bank, other], [(1, 1)], "window", ["clip"])

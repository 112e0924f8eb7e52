"""The siege: its last result, and a short one."""

from pathlib import Path

import pytest
import torch

from benchmarks import siege
from pglearn import data
from pglearn.attacks import load_victim
from pglearn.certify import Certificate, certify
from pglearn.evaluation import per_class

ROOT = Path(__file__).parents[1]
COUNTS = ("images", "clean", "attacked", "certified", "fallen", "patches", "on_certified", "steps")
TABLE = [row | {name: int(row[name]) for name in COUNTS} for row in siege.read(ROOT / "data/siege.csv")]
BETWEEN = siege.read(ROOT / "data/siege-between.csv")
SHAPES = {target.model: target for target in siege.TARGETS if target.data == "shapes"}


def test_every_shipped_model_and_defense_was_besieged() -> None:
    assert {row["model"] for row in TABLE} == {
        path.stem for path in (ROOT / "data").glob("*.safetensors")
    } - {path.stem for path in (ROOT / "data").glob("*-bank.safetensors")}
    held = [(row["model"], row["defense"]) for row in TABLE]
    assert sorted(held) == sorted((t.model, d) for t in siege.TARGETS for d in t.defenses)
    for name in ("shapes", "cifar10-jpg", "imagenette2-224"):
        assert {row["defense"] for row in TABLE if row["data"] == name} == {"none", *siege.DEFENSES}


def test_the_last_siege_broke_no_certificate() -> None:
    for row in TABLE:
        assert row["fallen"] == 0
        assert row["certified"] <= row["attacked"] <= row["clean"] <= row["images"]
        assert row["on_certified"] <= row["patches"] <= row["steps"]
    assert sum(row["patches"] for row in TABLE) >= 100_000
    largest = [row for row in TABLE if row["model"] == "imagenette-margin" and row["certified"]]
    assert all(row["on_certified"] >= 500 for row in largest if row["defense"] == "mask")
    assert sum(row["patches"] for row in largest) >= 500


def test_between_the_bounds_are_exactly_the_images_that_the_counts_leave() -> None:
    for row in TABLE:
        own = [line for line in BETWEEN if (line["model"], line["defense"]) == (row["model"], row["defense"])]
        assert len(own) == (row["attacked"] - row["certified"] if row["defense"] != "none" else 0)
        assert len({line["image"] for line in own}) == len(own)
        for line in own:
            clean, attacked, certified, evidence = (
                int(line[name]) for name in ("clean", "attacked", "certified", "evidence")
            )
            assert certified <= 0 < attacked <= clean, "no certificate, and no patch that wins"
            assert evidence == certified, "the attack on evidence reaches the bound of the certificate"


@pytest.mark.parametrize("name", ["shapes-bagnet", "shapes-bagnet-margin"])
def test_the_images_of_a_row_are_counted_again(name: str) -> None:
    """Clean and certified images of the embedded set, and the margins of those between."""
    target = SHAPES[name]
    victim, windows = load_victim(siege.DATA / f"{name}.safetensors", target.patch, "mask")
    every = data.load("shapes", "test")
    chosen = per_class(every, target.budget.each)
    found = certify(victim.evidence(chosen.images[:]), chosen.labels, victim.defense, windows)
    (row,) = (row for row in TABLE if (row["model"], row["defense"]) == (name, "mask"))
    assert (int(found.clean.sum()), int(found.certified.sum())) == (row["clean"], row["certified"])
    lines = [line for line in BETWEEN if (line["model"], line["defense"]) == (name, "mask")]
    index = torch.tensor([int(line["image"]) for line in lines])
    assert every.labels[index].tolist() == [int(line["label"]) for line in lines]
    again = certify(victim.evidence(every.images[index]), every.labels[index], victim.defense, windows)
    assert again.margin_units.tolist() == [int(line["certified"]) for line in lines]


def test_a_short_siege(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "siege.csv"
    words = ["--short", "--out", str(out), "--only", "shapes-bagnet", "shapes-bagnet-plain", "shapes-resnet"]
    assert siege.main(words) == 0
    assert "0 certified images fell" in capsys.readouterr().out
    rows = siege.read(out)
    assert [(row["model"], row["defense"]) for row in rows] == [
        ("shapes-bagnet", "mask"),
        ("shapes-bagnet", "none"),
        ("shapes-bagnet-plain", "mask"),
        ("shapes-bagnet-plain", "none"),
        ("shapes-resnet", "none"),
    ]
    for row in rows:
        assert 0 <= int(row["certified"]) <= int(row["attacked"]) <= int(row["clean"]) <= int(row["images"])
        assert row["fallen"] == "0"
        assert int(row["patches"]) > int(row["clean"])
    ordinary = rows[-1]
    assert int(ordinary["attacked"]) < int(ordinary["clean"]) / 2, (
        "an attack that breaks nothing proves nothing"
    )
    assert len(siege.read(tmp_path / "siege-between.csv")) == sum(
        int(row["attacked"]) - int(row["certified"]) for row in rows if row["defense"] == "mask"
    )
    assert not out.with_name("siege.csv.part").exists()


def test_a_certificate_that_is_wrong_ends_in_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def generous(*arguments: object) -> Certificate:
        found = certify(*arguments)  # type: ignore[arg-type]
        found.certified[:] = found.clean
        return found

    monkeypatch.setattr(siege, "certify", generous)
    words = ["--short", "--out", str(tmp_path / "siege.csv"), "--only", "shapes-bagnet-plain"]
    assert siege.main(words) == 1
    assert " 0 certified images fell" not in capsys.readouterr().out


def test_rows_of_a_stopped_siege_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--short", "--out", str(tmp_path / "siege.csv"), "--only", "shapes-bagnet-plain"]
    real, asked = siege.besiege, []

    def once(target: siege.Target, defense: str, *rest: object) -> object:
        asked.append(defense)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(target, defense, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(siege, "besiege", once)
    with pytest.raises(KeyboardInterrupt):
        siege.main(words)
    assert siege.main(words) == 0
    assert asked == ["none", "mask", "mask"]
    assert len(siege.read(tmp_path / "siege.csv")) == 2


def test_the_readme_states_the_last_siege() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    patches, sure = (sum(row[name] for row in TABLE) for name in ("patches", "on_certified"))
    assert f"tried {patches:,} patches, {sure:,} of them on certified images" in readme
    for model in ("shapes-bagnet-margin", "cifar10-margin", "imagenette-margin"):
        bare, row = ({r["defense"]: r for r in TABLE if r["model"] == model}[d] for d in ("none", "mask"))
        counts = " | ".join(str(row[name]) for name in ("clean", "attacked", "certified"))
        assert f"| {row['images']} | {bare['clean']} → {bare['attacked']} | {counts} |" in readme


def test_the_readme_states_what_attacks_cost() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [row for row in siege.read(ROOT / "data/attacks.csv") if row["task"] == "throughput"]
    for row in rows:
        ratio = "" if row["attack"].startswith("ART") else f" ({row['ratio']} ×)"
        assert f"| {int(row['value']):,}{ratio} |" in readme
    (fall,) = (
        row
        for row in siege.read(ROOT / "data/attacks.csv")
        if (row["task"], row["unit"]) == ("fall", "points lost")
    )
    assert float(fall["value"]) >= 80

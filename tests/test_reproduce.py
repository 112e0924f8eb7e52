"""``pglearn reproduce``: the paper's figures, ours from banks and cards, and what differs."""

import csv
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import cards as writer
from pglearn import InputError, data, shapes
from pglearn.cli import main
from pglearn.data import ImageSet
from pglearn.evidence import Evidence, EvidenceFile
from pglearn.geometry import Geometry, Layer, receptive_field
from pglearn.reports import measure, read
from pglearn.reproduce import SHIPPED, Card, bagnets, banks_of, figure8, table14, table15

TRAIN = (
    "pglearn train --data {data} --model {model} --objective {objective} --patch 3x3 --epochs 2 "
    "--out data/{name}.safetensors"
)
CARD = """# A card

```
{commands}
```

| fact | value |
|---|---|
| test images | 50 |
| clean | 40 |
| certified | 30 |
| images | {images} |
"""


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


def paper(name: str) -> list[dict[str, str]]:
    with open(SHIPPED / "paper" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def put(tmp_path):
    """Write a card of a BagNet, and a bank of 20 images beside it; the folder."""
    folder = tmp_path / "cards"
    folder.mkdir()

    def write(name: str, objective: str = "masked", bank: bool = True, **about: str) -> Path:
        about = {"data": "cifar10-x", "model": "bagnet-small-32", "images": "some", **about}
        commands = TRAIN.format(name=name, objective=objective, **about)
        (folder / f"{name}.md").write_text(CARD.format(commands=commands, images=about["images"]))
        if bank:
            generator = torch.Generator().manual_seed(len(name))
            maps = torch.rand(20, 7, 6, 6, generator=generator)
            labels = torch.randint(0, 7, (20,), generator=generator)
            maps[torch.arange(20), labels] *= torch.linspace(1, 9, 20)[:, None, None]
            axis = receptive_field([Layer(5, 2)], 15)
            Evidence(maps, labels, Geometry(axis, axis), "0.01", "9").save(
                folder / f"{name}-bank.safetensors"
            )
        return folder

    return write


def banks(folder=SHIPPED):
    return banks_of(bagnets(folder), folder)


# ------------------------------------------------------------------------------------------ as shipped
def test_table_14_is_in_the_readme():
    text, _ = table14(banks())
    readme = (SHIPPED.parent / "README.md").read_text(encoding="utf-8")
    table = text.split("\n\n")[0]
    assert table in readme, "run `make results`"
    assert writer.short(table.rstrip("\n")) in readme, "run `make results`"


def test_training_decides_as_the_readme_says():
    found: dict[str, list[int]] = {}
    for card, bank in banks():  # by data set: plain, masked, margin
        found.setdefault(card.dataset, []).append(measure(bank, card.patch).certified)
    assert {"CIFAR-10", "ImageNette", "shapes"} == set(found)
    assert all(card.start for card, _ in banks() if card.trained("--objective") == "margin")

    def epochs(card: Card) -> int:
        return int(card.trained("--epochs")) + (epochs(card.start) if card.start else 0)

    more = {(card.dataset, card.trained("--objective")): epochs(card) for card, _ in banks()}
    assert more["CIFAR-10", "margin"] > more["CIFAR-10", "masked"]
    assert more["shapes", "margin"] > more["shapes", "masked"]
    assert more["ImageNette", "margin"] == more["ImageNette", "masked"]
    assert all(counts == sorted(counts) for counts in found.values())
    readme = (SHIPPED.parent / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    assert "the certificate-margin objective certifies most, conventional training least" in readme


def test_table_14_has_the_papers_figures_and_the_counts_of_the_cards():
    text, results = table14(banks())
    lines = [cells(line) for line in text.split("\n\n")[0].splitlines()[2:]]
    theirs = {(row["dataset"], row["training"]): (row["clean"], row["robust"]) for row in paper("table-14")}
    assert set(theirs) <= {(line[0], line[1]) for line in lines}
    for line in lines:
        assert tuple(line[2:4]) == theirs.get((line[0], line[1]), ("–", "–"))
    ours = [line for line in lines if line[4] != "–"]
    assert [line[4] for line in ours] == [result.data for result in results]
    trained = {"plain": "conventional", "masked": "provable adversarial", "margin": "margin (ours)"}
    for line, result in zip(ours, results, strict=True):
        name = result.data.removesuffix("-bank")
        card = Card.read(SHIPPED / f"{name}.md")
        said = writer.counts(card)
        kind = f"data/{name}-bank" if result.data.endswith("-bank") else "evidence"
        numbers = said[f"certify {kind}.safetensors --defense mask --patch {card.trained('--patch')}"]
        assert [result.clean, result.certified, result.images] == numbers
        assert line[1] == trained[card.trained("--objective")]
        assert line[5].startswith(card.trained("--patch"))
        shares = [f"{100 * number / numbers[2]:.1f} %" for number in numbers[:2]]
        assert [text.split(" [")[0] for text in line[7:]] == shares
        assert all(("[" in text) == result.data.endswith("-bank") for text in line[7:])
        assert line[6] == ("" if "[" in line[7] else "all ") + str(numbers[2])


def test_table_15_has_the_papers_figures_and_what_compare_finds():
    text, results = table15(banks())
    lines = [cells(line) for line in text.split("\n\n")[0].splitlines()[2:]]
    theirs = {}
    for row in paper("table-15"):
        for what in ("clean", "robust"):
            theirs.setdefault((f"{row['patch_percent']} %", what), []).append(f"{row[what]} %")
    found = {(line[2], line[3]): line[4:] for line in lines if line[0].startswith("paper")}
    assert found == theirs
    assert lines[-1] == [
        "one list for all images",
        "10",
        "any",
        "certified",
        *(f"{k}0.0 %" for k in range(1, 6)),
    ]
    assert "Not comparable" in text
    assert "- classes: paper 1000; ours 10\n" in text
    shipped = {
        (row.data, row.patch, row.top_k): replace(row, seconds=0)
        for row in read(SHIPPED / "results.csv")
        if (row.defense, row.transform) == ("mask", "logits")
    }
    keys = [(row.data, row.patch, row.top_k) for row in results]
    pairs = [(shipped[key], row) for key, row in zip(keys, results, strict=True) if key in shipped]
    assert len(pairs) >= 4
    assert all(replace(row, seconds=0) == other for other, row in pairs)


def test_table_15_takes_the_papers_shares_of_the_pixels():
    _, results = table15([pair for pair in banks() if pair[0].name in ("cifar10-masked", "shapes-bagnet")])
    sides = {
        data: {row.patch for row in results if row.data == data} for data in {row.data for row in results}
    }
    assert sides == {
        "cifar10-masked-bank": {"3x3", "5x5", "6x6"},
        "shapes-bagnet-bank": {"6x6", "9x9", "11x11"},
    }


def test_figure_8_sweeps_every_size():
    (pair,) = [pair for pair in banks() if pair[0].name == "cifar10-masked"]
    text, results = figure8([pair])
    assert [row.patch for row in results] == [f"{side}x{side}" for side in range(1, 33)]
    for side in (3, 5, 8, 22):  # inside a step and at its ends
        assert replace(results[side - 1], seconds=0) == replace(measure(pair[1], (side, side)), seconds=0)
    assert (results[-1].clean, results[-1].certified) == (0, 0)
    lines = [cells(line) for line in text.split("\n\n")[0].splitlines()[2:]]
    shares = [float(line[2].removesuffix(" %")) for line in lines]
    assert shares == sorted(shares)
    points = [
        (f"{row['patch_pixels']}x{row['patch_pixels']}", float(row["clean"])) for row in paper("figure-8")
    ]
    assert [(line[1], float(line[3][:-2])) for line in lines if line[0].startswith("paper")] == points
    bars = [line[5] for line in lines if line[1] == "5x5"]
    assert bars == [
        "█" * round(results[4].certified / 40)
        + "░" * (round(results[4].clean / 40) - round(results[4].certified / 40))
    ]


@pytest.mark.parametrize("table", ["table14", "table15", "figure8"])
def test_the_command_prints_and_writes(table, put, tmp_path, capsys):
    folder, out = put("a"), tmp_path / "out.csv"
    assert main(["reproduce", table, "--data", str(folder), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    expected = {"table14": table14, "table15": table15, "figure8": figure8}[table](banks(folder))
    assert text == expected[0]
    assert [replace(row, seconds=0) for row in read(out)] == [replace(row, seconds=0) for row in expected[1]]


# ------------------------------------------------------------------------------------------- settings
def test_settings_that_differ_are_named_and_others_are_not(put):
    put("one", "plain")
    put("two", "margin", images="others")
    put("elsewhere", data="some-set")
    text = table14(banks(put("a", images="original")))[0].split("\n\n")
    assert len(text) == 2, "of the paper's data sets only CIFAR-10 is here"
    head, *lines = text[1].splitlines()
    assert head == "Differences from the paper's CIFAR-10:"
    named = dict(line[2:].split(": ", 1) for line in lines)
    assert named["images"] == "paper original; ours some (one); original (a); others (two)"
    assert named["weights at the start"] == "paper ImageNet; ours random"
    assert named["resolution"] == "paper 192x192, enlarged from 32x32; ours 15x15"
    assert named["patch in training"] == "paper 30x30 after resizing; ours 3x3 of the images as stored"
    assert named["window of that patch"] == "paper 6x6 of 22x22 features; ours 4x4 of 6x6 features"
    assert named["receptive field and stride"] == "paper 17 and 8; ours 5 and 2"
    assert named["classes"] == "paper 10; ours 7"
    assert named["epochs"] == "paper not stated; ours 2"
    settings = set(paper("settings")[0]) - {"dataset", "source"}
    assert set(named) == settings
    card = next(pair for pair in banks(put("b")) if pair[0].name == "b")
    same = {row["dataset"]: row for row in paper("settings")}["CIFAR-10"]["images"]
    assert same == "original"
    only = replace(card[0], facts=card[0].facts | {"images": same})
    assert "- images" not in table14([(only, card[1])])[0]


def test_what_began_from_another_network_says_so(put):
    put("first")
    folder = put("then", "margin", model="data/first.safetensors")
    text = table14(banks(folder))[0]
    assert "- weights at the start: paper ImageNet; ours random (first); those of first (then)\n" in text
    assert "- network: paper BagNet-17; ours bagnet-small-32\n" in text


def test_the_longest_name_says_which_data_set(put):
    for name in ("imagenette2-224", "imagenet", "cifar10-jpg", "cifar-9", "shapes"):
        put(name, data=name)
    assert {card.name: card.dataset for card in bagnets(put("x"))} == {
        "x": "CIFAR-10",
        "imagenette2-224": "ImageNette",
        "imagenet": "ImageNet",
        "cifar10-jpg": "CIFAR-10",
        "cifar-9": "cifar9",
        "shapes": "shapes",
    }


# ------------------------------------------------------------------------------------------ from images
@pytest.fixture
def small(monkeypatch):
    """The embedded set, with 60 images of 32x32 to train and 40 to test."""

    def load(name, split, **_):
        images, labels = shapes.dataset(split, 60 if split == "train" else 40, side=32)
        return ImageSet(images, labels, tuple(shapes.CLASSES))

    monkeypatch.setattr(data, "load", load)


@pytest.fixture
def recipe(tmp_path):
    """A folder with the cards of two networks, the second trained on from the first."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    for name, model, objective in (
        ("first", "bagnet-small-32", "masked"),
        ("then", "data/first.safetensors", "margin"),
    ):
        options = f"--model {model} --objective {objective} --epochs 2 --batch-size 20"
        evaluate = f"pglearn evaluate data/{name}.safetensors --data shapes --patch 5x5"
        lines = [
            f"pglearn train --data shapes --patch 5x5 {options} --out data/{name}.safetensors",
            f"{evaluate} --out evidence.safetensors",
            "pglearn certify evidence.safetensors --defense mask --patch 5x5",
            f"{evaluate} --per-class 2 --fixed-point --out data/{name}-bank.safetensors",
        ]
        (folder / f"{name}.md").write_text(CARD.format(commands="\n".join(lines), images="drawn"))
    return folder


def test_from_images_in_several_runs(small, recipe, tmp_path, capsys):
    made = tmp_path / "made"
    command = ["reproduce", "table14", "--data", str(recipe), "--retrain", str(made)]
    assert main([*command, "--minutes", "0"]) == 0  # one epoch of two
    out = capsys.readouterr().out
    assert "stopped after epoch 1 of 2" in out
    assert out.splitlines()[-1] == f"{made} is not complete yet: the same command goes on"
    assert [path.name for path in made.iterdir()] == ["first.safetensors.checkpoint"]
    assert main(command) == 0
    text = capsys.readouterr().out
    names = {f"{name}{kind}.safetensors" for name in ("first", "then") for kind in ("", "-bank", "-evidence")}
    assert {path.name for path in made.iterdir()} == names
    table = text[text.index("| data set") :]
    before = {path: path.read_bytes() for path in made.iterdir()}
    assert main(command) == 0
    assert capsys.readouterr().out == table  # all that was there is kept
    assert {path: path.read_bytes() for path in made.iterdir()} == before
    lines = [cells(line) for line in table.split("\n\n")[0].splitlines()[2:]]
    ours = {line[4]: line for line in lines if line[0] == "shapes"}
    assert {name: line[6] for name, line in ours.items()} == {
        "first": "all 40",
        "first-bank": "20",
        "then": "all 40",
        "then-bank": "20",
    }
    for name in ("first", "then"):
        whole = measure(EvidenceFile(made / f"{name}-evidence.safetensors"), (5, 5))
        assert ours[name][7:] == [f"{100 * n / 40:.1f} %" for n in (whole.clean, whole.certified)]


# ---------------------------------------------------------------------------------------------- errors
def refused(capsys, *arguments) -> str:
    assert main(["reproduce", *map(str, arguments)]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    return err.removeprefix("pglearn: ").rstrip("\n")


def test_what_is_missing_is_named(put, tmp_path, capsys):
    assert refused(capsys, "table16").startswith("argument TABLE: invalid choice: 'table16'")
    line = refused(capsys, "table14", "--data", tmp_path / "nowhere")
    assert line.startswith(f"data: {tmp_path / 'nowhere'} holds no card with the training of a BagNet")
    folder = put("lonely", bank=False)
    assert refused(capsys, "table15", "--data", folder).startswith(
        f"data: {folder} holds no bank, allowed: lonely-bank"
    )
    put("with")
    assert [card.name for card, _ in banks(folder)] == ["with"]
    (folder / "with-bank.safetensors").write_bytes(b"x" * 100)
    assert "is no complete safetensors file" in refused(capsys, "figure8", "--data", folder)


def test_no_card_with_a_command(put, capsys):
    folder = put("a")
    (folder / "a.md").write_text("# A card\n\n| test images | 50 |\n")
    assert "holds no card with the training of a BagNet" in refused(capsys, "table14", "--data", folder)


def test_where_training_cannot_go(put, tmp_path, capsys):
    folder = put("a")
    line = refused(capsys, "table14", "--data", folder, "--retrain", folder)
    assert line == f"retrain: is {folder}, which holds the cards, allowed: another folder"
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(
        capsys, "table14", "--data", folder, "--retrain", tmp_path / "file"
    )
    assert (
        refused(capsys, "table14", "--minutes", 5) == "--minutes: is 5.0, allowed: 0 or more, with --retrain"
    )
    assert "nan" in refused(capsys, "table14", "--retrain", tmp_path / "x", "--minutes", "nan")
    assert not (tmp_path / "x").exists()


def test_no_images(put, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PGLEARN_DATA", str(tmp_path))
    line = refused(capsys, "table14", "--data", put("a"), "--retrain", tmp_path / "made")
    assert line.startswith("data: 'cifar10-x' is neither a folder in")


# ---------------------------------------------------------------------------------- the writer of cards
@pytest.fixture
def trained(small, tmp_path, monkeypatch, capsys):
    """A data folder with a model in it, the command that made it, and its log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writer, "SHIPPED", tmp_path / "data")
    (tmp_path / "data").mkdir()
    command = "train --data shapes --model bagnet-small-32 --patch 5x5 --epochs 1 --batch-size 20"
    words = [*shlex.split(command), "--out", "data/net.safetensors"]
    assert main(words) == 0
    (tmp_path / "log").write_text("stopped after epoch 1 of 2, 1.5 minutes: …\nnet: 3 epochs, 0.6 minutes\n")
    return words


def test_a_card_counts_what_it_says(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writer, "PER_CLASS", 2)
    writer.card(trained, tmp_path / "log", "a laptop", "abc1234")
    card = Card.read(tmp_path / "data" / "net.md")
    assert card.commands[0] == trained
    said = {name: card.facts[name] for name in ("device", "commit", "minutes", "epochs, seed", "test images")}
    assert said == {
        "device": "a laptop",
        "commit": "abc1234",
        "minutes": "2.1, drawing the images included",
        "epochs, seed": "1, 0",
        "test images": "40",
    }
    assert writer.check() == 0
    assert capsys.readouterr().out.count("\n0 off: card [") == len(writer.counts(card)) == 3
    text = card.path.read_text().replace("# Embedded", "# Own words\n\nEmbedded")
    card.path.write_text(text.replace(f"| clean | {card.facts['clean']} |", "| clean | 41 |"))
    assert writer.check() == 1
    writer.card(trained, tmp_path / "log", "a laptop", "abc1234")
    assert card.path.read_text() == text


def test_a_card_is_refused_for_another_command(trained, tmp_path):
    for wrong in (
        ["--epochs", "7"],
        ["--lr", "0.1"],
        ["--objective", "plain"],
        ["--out", "elsewhere.safetensors"],
    ):
        with pytest.raises(InputError, match=r"^(--(epochs|lr|objective)|command): is "):
            writer.card([*trained, *wrong], tmp_path / "log", "a laptop", "abc1234")
    (tmp_path / "log").write_text("nothing")
    with pytest.raises(InputError, match=r"^log: .* states no minutes"):
        writer.card(trained, tmp_path / "log", "a laptop", "abc1234")

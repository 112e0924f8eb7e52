"""The cards in ``data/``: every checksum and every count of them, recomputed from what is shipped.

Banks, 1,000 images each, are counted everywhere, and so is the whole embedded data set, which is drawn here;
real images where PGLEARN_DATA names a folder with them. ``make cards`` counts everything.
"""

import os
import re
import shlex
import subprocess
from functools import cache
from itertools import pairwise
from math import sqrt
from pathlib import Path

import pytest

from benchmarks.cards import NOISE, checked, counts, everything, recount
from pglearn import data
from pglearn.evidence import EvidenceFile, sha256
from pglearn.geometry import malicious_windows
from pglearn.models import load_model
from pglearn.reproduce import Card

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data"
CARDS = {path.stem: Card.read(path) for path in sorted(DATA.glob("*.md")) if path.stem != "results"}
IMAGES = Path(os.environ.get("PGLEARN_DATA") or "nowhere")
BANKED = [name for name in CARDS if (DATA / f"{name}-bank.safetensors").exists()]


def test_every_shipped_file_is_on_a_card_with_its_checksum() -> None:
    facts = [fact for card in CARDS.values() for fact in card.facts.items()]
    listed = {name: text for name, text in facts if ".safetensors" in name}
    assert sorted(listed) == sorted(path.name for path in DATA.glob("*.safetensors"))
    assert listed == {name: sha256(DATA / name) for name in listed}


def test_shipped_files_are_small() -> None:
    sizes = [path.stat().st_size for path in DATA.rglob("*") if path.is_file()]
    assert max(sizes) <= 32 * 2**20
    assert sum(sizes) <= 80 * 2**20


@pytest.mark.parametrize("name", CARDS)
def test_the_commands_of_a_card_are_those_of_its_files(name: str) -> None:
    card = CARDS[name]
    model, bank = (f"data/{name}{kind}.safetensors" for kind in ("", "-bank"))
    evidence = "evidence.safetensors"
    args = checked(card.commands[0])  # against what the weights' file says
    assert card.facts["epochs, seed"] == f"{args.epochs}, {args.seed}"
    about = {"device", "commit", "minutes", "epochs, seed", "images"}
    counted = {f"{kind}{what}" for kind in ("", "Mask-DS ") for what in ("clean", "certified")}
    counted |= {"test images", "undefended", "bank"}
    heads = {"fact", "file"}
    files = {model.removeprefix("data/"), bank.removeprefix("data/")}
    assert about <= set(card.facts) <= about | counted | heads | files | {"network"}, (
        "a number that nothing counts"
    )
    made = [dict(pairwise(words)) for words in card.commands if words[0] != "certify"]
    assert [options["--out"] for options in made] == [model, evidence, bank][: 2 + (name in BANKED)]
    assert len({(options["--data"], options.get("--size"), options["--patch"]) for options in made}) == 1
    said = counts(card)
    certified = [words[1] for words in map(shlex.split, said) if words[0] == "certify"]
    assert set(certified) == {evidence, bank} if name in BANKED else {evidence}


@pytest.mark.parametrize("name", CARDS)
def test_percentages_on_a_card_are_the_papers(name: str) -> None:
    stated = re.findall(r"(\d+(?:\.\d+)?) %", CARDS[name].path.read_text(encoding="utf-8"))
    papers = "\n".join(path.read_text(encoding="utf-8") for path in (DATA / "paper").glob("*.csv"))
    assert set(stated) <= set(re.findall(r"[\d.]+", papers))


@pytest.mark.parametrize("name", CARDS)
def test_the_commit_of_a_card_is_one(name: str) -> None:
    commit = CARDS[name].facts["commit"]
    git = ["git", "-C", str(ROOT)]
    history = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True, check=False)
    if history.stdout != b"false\n":
        pytest.skip("not a git checkout with its history")
    subprocess.run([*git, "merge-base", "--is-ancestor", commit, "HEAD"], check=True)


@pytest.mark.parametrize("name", BANKED)
def test_a_bank_gives_the_counts_of_its_card(name: str) -> None:
    card = CARDS[name]
    said = {line: numbers for line, numbers in counts(card).items() if "-bank" in line}
    assert said
    assert recount(card, said, DATA) == said
    assert all(images >= 500 for *_, images in said.values())


@pytest.mark.parametrize("name", BANKED)
def test_a_bank_holds_100_images_of_each_class(name: str) -> None:
    file = EvidenceFile(DATA / f"{name}-bank.safetensors")
    assert file.labels is not None
    assert file.labels.bincount().tolist() == [100] * 10
    assert (file.step, file.provenance["selection"]) == ("1", "first 100 of each class")
    model = DATA / f"{name}.safetensors"
    assert (file.unit, file.provenance["model"]) == (load_model(model)[1]["step"], model.name)
    assert file.provenance["model_sha256"] == sha256(model)
    fields, card = file.geometry, CARDS[name]
    assert fields is not None
    (side,) = {window.height for window in malicious_windows(*card.patch, fields)}
    about = f"receptive field {fields.rows.size}, stride {fields.rows.stride}, "
    about += f"{fields.rows.cells}x{fields.columns.cells} features, windows and mask {side}x{side}"
    assert card.facts.get("network", about).endswith(about)


@pytest.mark.parametrize("name", BANKED)
def test_all_images_are_about_as_its_bank_says(name: str) -> None:
    """The bank is a sample of them: within 4 standard deviations."""
    said = counts(CARDS[name])
    for words in (line for line in said if line.startswith("certify evidence")):
        bank = said[words.replace("evidence", f"data/{name}-bank", 1)]
        for whole, part in zip(said[words][:2], bank[:2], strict=True):
            share, sample = whole / said[words][2], part / bank[2]
            assert abs(share - sample) <= 4 * sqrt(share * (1 - share) / bank[2]) + 1 / bank[2]


images = cache(data.load)


@pytest.mark.parametrize("name", CARDS)
def test_weights_give_the_counts_of_their_card_from_images(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All test images, and those of the bank; of smoothing networks, which are slow, the bank's."""
    card = CARDS[name]
    source = card.trained("--data")
    if source != "shapes" and not (IMAGES / source).is_dir():
        pytest.skip(f"PGLEARN_DATA names no folder with {source}: set it to run this")
    monkeypatch.setattr(data, "load", images)
    lines = everything(card)
    if card.network.startswith("ds"):
        lines = [line for line in lines if "-bank" in line]
    found = recount(card, lines, tmp_path)
    for line, said in counts(card).items():
        if line in found:
            assert found[line][-1] == said[-1] >= 500
            off = max(abs(a - b) for a, b in zip(found[line], said, strict=True))
            assert off <= NOISE * said[-1], f"{line}: {found[line]}, on the card {said}"


def test_the_readme_states_the_counts_of_the_card() -> None:
    """Of the smoothing network; Table 14's networks are in tests/test_reproduce.py."""
    facts, readme = CARDS["cifar10-ds"].facts, (ROOT / "README.md").read_text(encoding="utf-8")
    shares = [
        100 * int(facts[f"Mask-DS {what}"]) / int(facts["test images"]) for what in ("clean", "certified")
    ]
    text = "masks over its confidence, has {:.1f} % clean and {:.1f} % certified".format(*shares)
    assert text in readme.replace("\n", " ")
    assert f"after {float(facts['minutes'].split(',')[0]):.0f} minutes" in readme.replace("\n", " ")

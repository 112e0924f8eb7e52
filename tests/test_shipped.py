"""The cards in ``data/``: every checksum and every count of them, recomputed from what is shipped."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

from pglearn import shapes
from pglearn.certify import certify_file
from pglearn.cli import main
from pglearn.data import load
from pglearn.defenses import make_defense
from pglearn.evaluation import evaluate
from pglearn.evidence import EvidenceFile, sha256
from pglearn.geometry import malicious_windows
from pglearn.models import collect_evidence, load_model

DATA = Path(__file__).parents[1] / "data"
CARDS = sorted(DATA.glob("*.md"))
CIFAR = Path(os.environ.get("PGLEARN_DATA", "")) / "cifar10-jpg"


def table(card: Path) -> dict[str, str]:
    return dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", card.read_text(encoding="utf-8"), flags=re.M))


def certified(path: Path, patch: tuple[int, int]) -> tuple[int, int]:
    file = EvidenceFile(path)
    assert file.geometry is not None
    windows = malicious_windows(*patch, file.geometry)
    found = certify_file(file, make_defense("mask", windows, source=file), windows)
    return int(found.clean.sum()), int(found.certified.sum())


def test_every_shipped_file_is_on_a_card_with_its_checksum() -> None:
    listed = {name: text for card in CARDS for name, text in table(card).items() if ".safetensors" in name}
    assert sorted(listed) == sorted(path.name for path in DATA.glob("*.safetensors"))
    assert listed == {name: sha256(DATA / name) for name in listed}


def test_shipped_files_are_small() -> None:
    sizes = [path.stat().st_size for path in DATA.rglob("*") if path.is_file()]
    assert max(sizes) <= 32 * 2**20
    assert sum(sizes) <= 80 * 2**20


ROWS = [
    (card.stem, *row)
    for card in CARDS
    for row in re.findall(
        r"^\| `(--defense [^`]+)` \| (\d+) \| (\d+) \|$", card.read_text(encoding="utf-8"), re.M
    )
]


@pytest.mark.parametrize(("name", "options", "clean", "proved"), ROWS)
def test_banks_give_the_counts_of_their_cards(
    name: str, options: str, clean: str, proved: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = DATA / f"{name}-bank.safetensors"
    assert main(["certify", str(bank), *options.split(), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["clean"], report["certified"]) == (1000, int(clean), int(proved))


def test_every_bank_has_counts_and_100_images_of_each_class() -> None:
    banks = sorted(DATA.glob("*-bank.safetensors"))
    assert {f"{name}-bank" for name, *_ in ROWS} == {bank.stem for bank in banks}
    for bank in banks:
        file = EvidenceFile(bank)
        assert file.labels is not None
        assert file.labels.bincount().tolist() == [100] * 10
        assert (file.step, file.provenance["selection"]) == ("1", "first 100 of each class")
        model = bank.with_name(file.provenance["model"])
        assert (file.unit, file.provenance["model_sha256"]) == (load_model(model)[1]["step"], sha256(model))


@pytest.mark.parametrize("name", ["shapes-bagnet", "shapes-bagnet-plain", "shapes-ds"])
def test_banks_of_the_embedded_set_hold_what_their_models_see(name: str) -> None:
    bank = EvidenceFile(DATA / f"{name}-bank.safetensors").load()
    images, labels = shapes.dataset("test", 10)
    found = collect_evidence(load_model(DATA / f"{name}.safetensors")[0], images, progress=False)
    assert found is not None
    assert bank.labels is not None
    assert bank.unit is not None
    assert torch.equal(bank.labels[:10], labels)
    assert (bank.maps[:10].double() * float(bank.unit) - found.maps).abs().max() < 0.05


@pytest.mark.skipif(
    not CIFAR.is_dir(), reason="PGLEARN_DATA names no folder with cifar10-jpg: set it to run this"
)
def test_the_model_gives_the_counts_of_its_card_from_images(tmp_path: Path) -> None:
    card, out = table(DATA / "cifar10-masked.md"), tmp_path / "evidence.safetensors"
    found = evaluate(DATA / "cifar10-masked.safetensors", load("cifar10-jpg", "test"), out, (5, 5))
    clean, proved = certified(out, (5, 5))
    assert found.images == int(card["test images"])
    assert found.defended == clean
    for count, name in ((found.undefended, "undefended"), (clean, "clean"), (proved, "certified")):
        assert abs(count - int(card[name])) <= 20, (
            name
        )  # floating point before the evidence differs by machine


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cifar10-masked", ("clean", "certified")),
        ("cifar10-ds", ("Mask-DS clean", "Mask-DS certified")),
    ],
)
def test_the_readme_states_the_counts_of_the_card(name: str, counts: tuple[str, str]) -> None:
    card, readme = table(DATA / f"{name}.md"), (DATA.parent / "README.md").read_text(encoding="utf-8")
    (row,) = [
        line for line in readme.splitlines() if line.startswith("| ours, ") and f"(data/{name}.md)" in line
    ]
    shares = [f"{100 * int(card[count]) / int(card['test images']):.1f} %" for count in counts]
    assert [cell.strip() for cell in row.split("|")][2:4] == shares

"""The cards in ``data/``: every checksum and every count of them, recomputed from what is shipped."""

import json
import os
import re
from pathlib import Path

import pytest

from pglearn.certify import certify_file
from pglearn.cli import main
from pglearn.data import load
from pglearn.defenses import Defense, Logits, WindowMask
from pglearn.evaluation import evaluate
from pglearn.evidence import EvidenceFile, sha256
from pglearn.geometry import malicious_windows

DATA = Path(__file__).parents[1] / "data"
CARDS = sorted(DATA.glob("*.md"))
CIFAR = Path(os.environ.get("PGLEARN_DATA", "")) / "cifar10-jpg"


def table(card: Path) -> dict[str, str]:
    return dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", card.read_text(encoding="utf-8"), flags=re.M))


def certified(path: Path, patch: tuple[int, int]) -> tuple[int, int]:
    file = EvidenceFile(path)
    assert file.geometry is not None
    windows = malicious_windows(*patch, file.geometry)
    mask = WindowMask(max(w.height for w in windows), max(w.width for w in windows))
    constants = {"step": file.step or "", "clip_high": file.clip_high or ""}
    found = certify_file(file, Defense(Logits(**constants), mask), windows)
    return int(found.clean.sum()), int(found.certified.sum())


def test_every_shipped_file_is_on_a_card_with_its_checksum() -> None:
    listed = {name: text for card in CARDS for name, text in table(card).items() if ".safetensors" in name}
    assert sorted(listed) == sorted(path.name for path in DATA.glob("*.safetensors"))
    assert listed == {name: sha256(DATA / name) for name in listed}


def test_shipped_files_are_small() -> None:
    sizes = [path.stat().st_size for path in DATA.rglob("*") if path.is_file()]
    assert max(sizes) <= 32 * 2**20
    assert sum(sizes) <= 80 * 2**20


def test_the_bank_gives_the_counts_of_its_card(capsys: pytest.CaptureFixture[str]) -> None:
    card, bank = table(DATA / "cifar10-masked.md"), DATA / "cifar10-masked-bank.safetensors"
    assert main(["certify", str(bank), "--defense", "mask", "--patch", "5x5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 1000
    assert (report["clean"], report["certified"]) == (int(card["bank clean"]), int(card["bank certified"]))
    labels = EvidenceFile(bank).labels
    assert labels is not None
    assert labels.bincount().tolist() == [100] * 10


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


def test_the_readme_states_the_counts_of_the_card() -> None:
    card, readme = table(DATA / "cifar10-masked.md"), (DATA.parent / "README.md").read_text(encoding="utf-8")
    (row,) = [line for line in readme.splitlines() if line.startswith("| ours, ")]
    shares = [f"{100 * int(card[name]) / int(card['test images']):.1f} %" for name in ("clean", "certified")]
    assert [cell.strip() for cell in row.split("|")][2:4] == shares

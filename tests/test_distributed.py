"""Several processes, started by torchrun: the results of one, and one clear line when one of them dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import gradients
from test_training import same, two_colors

from pglearn import distributed, evaluation, models
from pglearn.cli import main
from pglearn.evidence import Evidence

ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
RANKS = str(Path(__file__).with_name("ranks.py"))
TRAIN = [
    "--model",
    "bagnet-small-32",
    "--patch",
    "3x3",
    "--epochs",
    "4",
    "--batch-size",
    "16",
    "--threads",
    "1",
]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


def torchrun(count: int, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, str(count), *words]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=600)


def ours(text: str) -> list[str]:
    """The lines that are not torchrun's."""
    return [line for line in text.splitlines() if line.startswith("pglearn: ")]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes in a class-per-folder tree."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("tree")
    for split, count in (("train", 96), ("test", 1100)):
        for number, (pixels, label) in enumerate(zip(*two_colors(count), strict=True)):
            path = folder / split / ("red", "blue")[label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return folder


@pytest.fixture(scope="module")
def trained(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two processes that nobody disturbed."""
    out = tmp_path_factory.mktemp("model") / "whole.safetensors"
    done = torchrun(2, "-m", "pglearn", "train", "--data", str(tree), *TRAIN, "--out", str(out))
    assert (done.returncode, ours(done.stderr)) == (0, []), done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{out}: 96 images, 4 epochs, ")
    assert len(done.stdout.splitlines()) == 5  # the first process alone speaks
    assert list(out.parent.iterdir()) == [out]
    return out


def test_alone():
    assert distributed.place() == (0, 1)
    assert distributed.share(5) == slice(0, 5)
    assert distributed.gather("all") == ["all"]
    assert distributed.add_up([torch.ones(2)], 1.5, 2) == [1.5, 2]


def test_two_do_what_one_does(tmp_path):
    out = tmp_path / "found"
    Evidence(torch.tensor([[[[9, 9, 9, 9]], [[1, 1, 1, 1]]]]), torch.tensor([0])).save(f"{out}.safetensors")
    done = torchrun(2, RANKS, "checks", str(out))
    assert done.returncode == 0, done.stderr
    found = torch.load(out)
    assert found["shares"] == [(0, 2), (2, 5)]
    theirs, log = found["gradients"]  # 7 images and 8 of each batch, as in one process, weights of the first
    mine, mine_log = gradients(lr=1e-5)
    assert len(theirs) == len(mine) > 4
    for a, b in zip(theirs, mine, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(log, mine_log, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    first, second = found["alike"]  # with batch normalization and draws of its own, too
    assert first == second
    assert len(set(found["draws"])) == 2
    assert found["refused"] == "batch_size: is 1, allowed for 2 processes: 2 or more"
    assert found["certified"] == [[True], [True]]  # one image for two


def test_a_killed_worker_of_training_and_another_start(tree, trained, tmp_path):
    out = tmp_path / "model.safetensors"
    words = ["train", "--data", str(tree), *TRAIN, "--out", str(out)]
    killed = torchrun(2, RANKS, *words, DIE="pglearn.training:augment:1:15")
    assert killed.returncode == 1
    (line,) = ours(killed.stderr)
    assert line.startswith("pglearn: stopped, another process of this run is gone")
    assert line.endswith(
        f": epochs that were finished are in {out}.checkpoint, the same command goes on from there"
    )
    assert [line.split(":")[0] for line in killed.stdout.splitlines()] == ["epoch 1", "epoch 2"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors.checkpoint"]
    again = torchrun(2, RANKS, *words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("epoch 3: ")
    (mine, about), (other, facts) = models.load_model(out), models.load_model(trained)
    assert same(mine, other)
    assert about == facts
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_killed_launcher_leaves_nobody_behind(tree, tmp_path):
    out = tmp_path / "model.safetensors"
    words = ["train", "--data", str(tree), *TRAIN, "--epochs", "5000", "--out", str(out)]
    command = [*TORCHRUN, "2", "-m", "pglearn", *words]
    with subprocess.Popen(command, env=environment(), stdout=-1, stderr=-1, text=True) as launcher:
        end = time.monotonic() + 200
        while not (tmp_path / "model.safetensors.checkpoint").exists() and time.monotonic() < end:
            time.sleep(0.1)
        launcher.kill()
        _, text = launcher.communicate(timeout=60)  # until the last worker has closed its end
    (line,) = ours(text)
    assert line.startswith("pglearn: stopped, the launcher is gone: epochs that were finished are in ")


def test_a_killed_worker_of_evaluate_and_another_start(tree, trained, tmp_path, monkeypatch, capsys):
    words = ["evaluate", str(trained), "--data", str(tree), "--patch", "3x3", "--fixed-point", "--out"]
    killed = torchrun(2, RANKS, *words, str(tmp_path / "e"), DIE="pglearn.evaluation:_stored:0:3")
    assert killed.returncode == 1
    assert killed.stdout == ""
    (line,) = ours(killed.stderr)
    assert line.endswith(
        f": parts that were finished lie beside {tmp_path / 'e'}, the same command goes on from there"
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert "e.part-0" in names
    assert not names & {"e", "e.part-1000"}
    starts = []

    def watched(model, images, size, device, bar, part):
        starts.append(part.start)
        return models.evidence_batches(model, images, size, device, None, part)

    monkeypatch.setattr(evaluation, "evidence_batches", watched)
    assert main([*words, str(tmp_path / "e")]) == 0  # one process goes on
    resumed = capsys.readouterr().out.splitlines()
    assert starts in ([1000], [500, 1000])
    assert main([*words, str(tmp_path / "whole")]) == 0
    assert starts[-3:] == [0, 500, 1000]
    assert resumed[1:3] == capsys.readouterr().out.splitlines()[1:3]
    assert (tmp_path / "e").read_bytes() == (tmp_path / "whole").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"e", "whole"}


BANK = [str(ROOT / "data" / "cifar10-masked-bank.safetensors"), "--defense", "mask", "--patch", "5x5"]


def test_certify_prints_the_same(capsys):
    several = torchrun(3, "-m", "pglearn", "certify", *BANK, "--json")
    assert (several.returncode, ours(several.stderr)) == (0, []), several.stderr
    assert main(["certify", *BANK, "--json"]) == 0
    assert several.stdout == capsys.readouterr().out


@pytest.mark.parametrize("where", ["certify:certify", "distributed:_meet"])  # at work; before all have met
def test_a_killed_worker_of_certify(where):
    killed = torchrun(2, RANKS, "certify", *BANK, DIE=f"pglearn.{where}:1:1")
    assert (killed.returncode, killed.stdout) == (1, "")
    (line,) = ours(killed.stderr)
    assert line.startswith("pglearn: stopped, another process of this run is gone")
    assert line.endswith(": there is no report, the same command begins anew")


def test_bad_input_is_said_once():
    done = torchrun(2, "-m", "pglearn", "certify", "nofile", *BANK[1:])
    assert (done.returncode, done.stdout) == (1, "")  # torchrun's own
    line = "pglearn: FILE: nofile is not a file, allowed: a safetensors file with evidence and labels"
    assert ours(done.stderr) == [line]
    assert "exitcode  : 2 " in done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["doctor"], "torchrun: starts several processes, allowed: for train, evaluate and certify"),
        (
            ["certify", *BANK],
            "torchrun: the processes cannot meet (Error initializing torch.distributed using ",
        ),
        (["certify"], "the following arguments are required: FILE"),
    ],
)
def test_what_cannot_be_shared(monkeypatch, capsys, words, line):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pglearn: {line}")
    assert err.count("\n") == 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_torch_that_knows_of_one_process_only(monkeypatch, capsys):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "torch.distributed.rendezvous", None)
    assert main(["certify", *BANK]) == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["certify", *BANK]) == 2
    assert capsys.readouterr().err.startswith(
        "pglearn: torchrun: the processes cannot meet (import of torch."
    )

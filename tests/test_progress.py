"""What a reader has solved: remembered by `check`, shown by `pglearn progress`, kept whatever happens."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pglearn import learn
from pglearn.cli import main
from pglearn.learn import Exercise, check, exercises, progress

ROOT = Path(__file__).parents[1]
KNOWN = exercises()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that does not exist yet."""
    monkeypatch.setenv("PGLEARN_PROGRESS", str(tmp_path / "a" / "b"))
    return tmp_path / "a" / "b"


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exercise 98.1, which takes any answer but False. It lives for one test."""

    def judge(answer: object) -> None:
        if answer is False:
            raise learn.Wrong("it is False")

    monkeypatch.setattr(learn, "_registry", {"98.1": Exercise("98.1", 1, 5, judge)})


def shown(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["progress", *options]) == 0
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------------- remembering
def test_only_what_is_solved_is_remembered(folder: Path, easy: None) -> None:
    check("98.1", None)
    check("98.1", False)
    check("98.2", True)
    assert not folder.exists()
    check("98.1", True)
    check("98.1", True)
    check("98.1", False)
    assert progress.solved() == {"98.1"}


def test_several_kernels_at_once_lose_nothing(folder: Path) -> None:
    code = (
        "import sys; from pglearn.learn.progress import remember; sys.exit(any(map(remember, sys.argv[1:])))"
    )
    numbers = [[f"{chapter}.{i}" for i in range(40)] for chapter in range(3)]
    started = [subprocess.Popen([sys.executable, "-c", code, *mine, "9.9"], cwd=ROOT) for mine in numbers]
    assert [process.wait(120) for process in started] == [0] * 3
    assert progress.solved() == {"9.9", *(number for mine in numbers for number in mine)}


@pytest.mark.parametrize("obstacle", ["a file", "a file above", "a link to nowhere", "read-only", "no home"])
def test_an_obstacle_is_named_in_one_line_and_left_alone(
    folder: Path,
    easy: None,
    obstacle: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuses(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    if obstacle == "a file above":
        folder.parent.write_bytes(b"\xff\x00 not ours")
    else:
        folder.parent.mkdir()
    if obstacle == "a file":
        folder.write_bytes(b"\xff\x00 not ours")
    if obstacle == "a link to nowhere":
        folder.symlink_to(folder.parent / "gone" / "far")
    if obstacle == "read-only":
        monkeypatch.setattr(Path, "touch", refuses)
        monkeypatch.setattr(Path, "mkdir", refuses)
    if obstacle == "no home":
        for name in ("PGLEARN_PROGRESS", "XDG_DATA_HOME", "LOCALAPPDATA"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(Path, "home", homeless)
    before = sorted(folder.parent.parent.rglob("*"))
    check("98.1", True)
    verdict, trouble = capsys.readouterr().out.splitlines()
    assert verdict == "98.1 solved"
    assert trouble.startswith("not remembered for `pglearn progress`: ")
    assert ("home" if obstacle == "no home" else str(folder.parent)) in trouble
    assert sorted(folder.parent.parent.rglob("*")) == before
    for file in filter(Path.is_file, before):
        assert file.read_bytes() == b"\xff\x00 not ours"


def test_a_folder_that_cannot_be_read_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.parent.mkdir()
    folder.write_text("not ours")
    assert main(["progress"]) == 2
    assert capsys.readouterr().err == f"pglearn: Not a directory: {folder}\n"


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {}, "/home/r/.local/share/pglearn/solved"),
        ("linux", {"XDG_DATA_HOME": "/d"}, "/d/pglearn/solved"),
        ("linux", {"XDG_DATA_HOME": "relative"}, "/home/r/.local/share/pglearn/solved"),
        ("darwin", {}, "/home/r/Library/Application Support/pglearn/solved"),
        ("win32", {}, "/home/r/AppData/Local/pglearn/solved"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/pglearn/solved"),
        ("win32", {"PGLEARN_PROGRESS": "/mine"}, "/mine"),
    ],
)
def test_the_folder(
    system: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGLEARN_PROGRESS", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/r"))
    assert progress.folder() == Path(expected)


# ----------------------------------------------------------------------------------------------- showing
def test_an_empty_beginning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys).splitlines()
    assert len(lines) == 1 + len({number.split(".")[0] for number in KNOWN}) + 1 + 2
    assert "next: exercise 0.1 in book/00-start-here.ipynb (" in lines[-1].lower()
    assert f" 0/{len(KNOWN)} " in lines[-3]
    assert not folder.exists()


def test_what_is_solved_and_what_is_left(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = [number for number in KNOWN if number.startswith("0.")] + ["2.2", "2.1"]
    for number in done:
        assert progress.remember(number) is None
    (folder / "notes.txt").write_text("mine")
    (folder / "77.1").touch()  # of another version of the book
    chapter = [task for number, task in KNOWN.items() if number.startswith("2.")]
    left = [task for task in chapter if task.number not in done]
    line = next(line for line in shown(capsys).splitlines() if line.startswith("02-window-sizes "))
    assert line.split() == [
        "02-window-sizes",
        f"2/{len(chapter)}",
        f"{sum(task.stars for task in chapter) - sum(task.stars for task in left)}"
        f"/{sum(task.stars for task in chapter)}",
        str(sum(task.minutes for task in left)),
        *(task.number for task in left),
    ]
    found = json.loads(shown(capsys, "--json"))
    assert found["next"] == {"exercise": "1.1", "notebook": "book/01-receptive-fields.ipynb"}
    assert [number for row in found["chapters"] for number in row["solved"]] == sorted(done)
    assert {n for row in found["chapters"] for n in (*row["solved"], *row["open"])} == set(KNOWN)
    assert all((ROOT / row["notebook"]).is_file() for row in found["chapters"])


def test_the_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in KNOWN:
        progress.remember(number)
    assert shown(capsys).splitlines()[-1] == "Every exercise of the book is solved."
    assert json.loads(shown(capsys, "--json"))["next"] is None


# --------------------------------------------------------------------------------------------- forgetting
@pytest.mark.parametrize(("answer", "kept"), [("y\n", 0), ("YES\n", 0), ("n\n", 2), ("\n", 2), ("", 2)])
def test_reset_asks(
    folder: Path, answer: str, kept: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.remember("0.1")
    progress.remember("1.1")
    (folder / "notes.txt").write_text("mine")
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert main(["progress", "--reset"]) == (2 if kept else 0)
    said = capsys.readouterr()
    assert said.out.startswith(f"Forget what is solved, 2 of {len(KNOWN)} exercises, in {folder}? [y/N] ")
    assert said.err.startswith("pglearn: --reset: nothing was forgotten") == bool(kept)
    assert len(progress.solved() & KNOWN.keys()) == kept
    assert (folder / "notes.txt").read_text() == "mine"


def test_reset_without_asking(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress.remember("0.1")
    assert shown(capsys, "--reset", "--yes") == f"forgotten: 1 of {len(KNOWN)} exercises\n"
    assert progress.solved() == set()
    assert main(["progress", "--yes"]) == 2

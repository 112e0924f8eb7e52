"""The project around the code: environments, lock, versions, imports, papers' numbers, doctor."""

import ast
import csv
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import pglearn
from pglearn import doctor
from pglearn.cli import _parser

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")
PINS = {canonicalize_name(n): v for n, v in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", LOCK, flags=re.M)}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def asked() -> list[Requirement]:
    """Everything that pyproject.toml asks for: to build, to run, to read, to test."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    groups = [PROJECT["build-system"]["requires"], PROJECT["project"]["dependencies"], *extras]
    return [Requirement(line) for group in groups for line in group]


# ---------------------------------------------------------------------------------------- environments
@pytest.mark.parametrize("requirement", asked(), ids=str)
def test_the_lock_holds_what_pyproject_asks_for(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_the_lock_is_hashed_and_free_of_addresses() -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", LOCK, flags=re.M), flags=re.M)
    entries = [entry for entry in entries if entry.strip()]
    assert len(entries) == len(PINS)
    hashes = r"(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+"
    for entry in entries:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;\\]+( ; [^\\]+)? \\\n" + hashes, entry), entry
    assert "://" not in LOCK
    assert "--index" not in LOCK
    assert "--find-links" not in LOCK


def test_environment_yml_agrees_with_pyproject() -> None:
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    values = [line.strip().removeprefix("- ") for line in lines if not line.startswith("#")]
    assert f"name: {PROJECT['project']['name']}" in values
    python = next(value for value in values if value.startswith("python "))
    assert SpecifierSet(python.removeprefix("python ")) == SpecifierSet(PROJECT["project"]["requires-python"])
    assert values[values.index("pip:") :] == ["pip:", "--require-hashes", "-r requirements.txt"]
    assert PROJECT["tool"]["mypy"]["python_version"] in PROJECT["project"]["requires-python"]


def test_binder_installs_the_same_lock() -> None:
    folder = ROOT / ".binder"
    asked = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in asked if not line.startswith("#")] == [
        "--require-hashes",
        "-r ../requirements.txt",
    ]
    version = (folder / "runtime.txt").read_text(encoding="utf-8").strip().removeprefix("python-")
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(version)
    assert f"--python-version {version} " in (ROOT / "Makefile").read_text(encoding="utf-8")
    (mine,) = re.findall(r"pip (install .*--editable \.)$", (folder / "postBuild").read_text(), flags=re.M)
    assert f"pip {mine}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert os.access(folder / "postBuild", os.X_OK) or sys.platform == "win32"


def test_the_makefile_names_an_old_python() -> None:
    recipe = re.search(r"-c '(import sys; .*)'$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert recipe
    old = recipe[1].replace("sys.version_info", "(3, 10, 4)").replace("$(PYTHON)", "python3")
    done = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "pglearn needs Python 3.11 or newer; python3 is 3.10. Name another one: make PYTHON=python3.12\n"
    )
    assert subprocess.run([sys.executable, "-c", recipe[1]], check=False).returncode == 0


# ------------------------------------------------------------------------------------ what others read
def test_one_version() -> None:
    version = PROJECT["project"]["version"]
    assert pglearn.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_commands_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"(?:`|^ *)make ([a-z-]+)", text, flags=re.M)) <= targets, name
    assert {"book", "test"} <= set(re.findall(r"make ([a-z]+)", README))
    assert "<!--" not in README, "a section still to be written"


def prose(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("*.md"), *ROOT.glob("book/[!.]*.ipynb"), *ROOT.glob("book/**/*.md")],
    ids=lambda path: path.name,
)
def test_commands_of_the_documents_parse(path: Path) -> None:
    for block in re.findall(r"^```\w*\n(.*?)^```", prose(path), flags=re.M | re.S):
        for line in re.findall(r"^(?:torchrun .* -m )?pglearn (.*)$", block.replace("\\\n", " "), flags=re.M):
            if "..." not in line:
                _parser().parse_args(shlex.split(line, comments=True))


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/paper/README.md", "book/notation.md"]
)
def test_links_in_the_documents(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert re.match(r"https?://", link) or (ROOT / name).parent.joinpath(link).exists(), link


def test_licenses() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Attribution 4.0 International" in (ROOT / "LICENSE-TEXT").read_text(encoding="utf-8")
    for name in PROJECT["project"]["license-files"]:
        assert f"]({name})" in README


def committed() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [ROOT / line for line in done.stdout.splitlines()]


def test_committed_files_are_fit_for_strangers() -> None:
    files = committed()
    if not files:
        pytest.skip("not a git checkout with files in it")
    places = [f"{place}/" for place in (ROOT.parent, Path.home()) if place != Path("/")]
    for path in filter(Path.exists, files):
        raw = path.read_bytes()
        assert len(raw) <= 20 * 2**20, path
        if b"\0" in raw[:4096]:
            continue
        text = raw.decode("utf-8")
        assert not any(place in text for place in places), f"{path}: a path of this machine"
        assert not re.search(r"https?://[^\s\"']+/(?:simple|packages)/", text), f"{path}: a registry"


def test_the_papers_numbers() -> None:
    card = (ROOT / "data" / "paper" / "README.md").read_text(encoding="utf-8")
    tables = sorted((ROOT / "data" / "paper").glob("*.csv"))
    assert len(tables) == 5
    for path in tables:
        assert f"`{path.name}`" in card
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len({tuple(row.values()) for row in rows}) == len(rows)
        assert not any(None in row for row in rows)
        for row in rows if path.stem != "settings" else []:
            assert 0 <= float(row["robust"]) <= float(row["clean"]) <= 100


# ------------------------------------------------------------------------------------------- the rooms
# fmt: off
ROOMS = (
    "errors", "distributed", "geometry", "evidence", "defenses", "certify", "models", "shapes", "data",
    "training", "attacks", "evaluation", "reports", "reproduce", "figures", "trials", "doctor", "learn",
    "cli",
)
# fmt: on
"""Imports go only to rooms further left."""
FOLDERS = {"defenses", "learn"}


def imports(path: Path) -> set[str]:
    """The rooms that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            where = "pglearn." * bool(node.level) + (node.module or "")
            found |= {where, *(f"{where.rstrip('.')}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("pglearn.")} & set(ROOMS)


def test_every_room_is_listed() -> None:
    there = {path.stem for path in (ROOT / "pglearn").glob("*.py")} | set(FOLDERS)
    assert there - {"__init__", "__main__"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_upward(room: str) -> None:
    folder = ROOT / "pglearn"
    for path in folder.joinpath(room).glob("*.py") if room in FOLDERS else [folder / f"{room}.py"]:
        assert imports(path) <= {*ROOMS[: ROOMS.index(room)], *({room} & FOLDERS)}


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_are_listed_and_documented(room: str) -> None:
    module = importlib.import_module(f"pglearn.{room}")
    assert module.__doc__
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert thing.__doc__, f"{room}.{name}"
            assert not thing.__doc__.startswith(f"{name}("), f"{room}.{name}: a generated docstring"


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_core_imports_nothing_heavy() -> None:
    rooms = [f"pglearn.{room}" for room in ROOMS]
    heavy = {"torchvision", "matplotlib", "IPython", "ipywidgets", "jupyter_client", "nbformat", "PIL"}
    code = f"import sys, pglearn, {', '.join(rooms)}; print(*sorted({heavy!r} & set(sys.modules)))"
    assert run(code) == ""


def test_importing_pglearn_is_light() -> None:
    def seconds(name: str) -> float:
        begin = time.perf_counter()
        run(f"import {name}")
        return time.perf_counter() - begin

    seconds("torch")
    assert min(seconds("pglearn") for _ in range(3)) < 1.5 * min(seconds("torch") for _ in range(3))


# ---------------------------------------------------------------------------------------------- doctor
@pytest.fixture(scope="module")
def report() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.report()}


def test_the_doctor_finds_the_core_working(report: dict[str, doctor.Check]) -> None:
    core = {name: check.works for name, check in report.items() if check.core}
    assert core == dict.fromkeys(["python", "torch", "numpy", "safetensors", "tqdm", "certificate"], True)
    assert report["shipped data"].works
    assert report["jupyterlab"].works
    assert report["notebook kernel"].works
    assert all(check.mend for check in report.values())


def test_the_doctor_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PGLEARN_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert doctor.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("--  matplotlib") for line in lines)
    assert any(line.startswith("--  real images") and "nowhere" in line for line in lines)
    assert lines[-1] == "certificates work here"


def test_the_doctor_fails_where_the_core_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert doctor.main() == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("not working: safetensors")


def test_the_doctor_lists_real_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "some-images").mkdir()
    monkeypatch.setenv("PGLEARN_DATA", str(tmp_path))
    found = {check.name: check for check in doctor.report()}["real images"]
    assert found.works
    assert "some-images" in found.found

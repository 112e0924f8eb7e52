"""A course: `release` makes each student's copies of the labs, `grade` marks what was handed in, by nbgrader.

DIR/source and DIR/template hold the masters and what is left of them without solutions and hidden tests;
DIR/release/STUDENT/LAB is for the student; DIR/submitted/STUDENT/LAB is what came back; DIR/checked its
notebook, the test cells restored, for nbgrader, to which autograded, feedback and gradebook.db belong.
"""

import copy
import csv
import hashlib
import hmac
import itertools
import json
import multiprocessing
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pglearn.errors import InputError
from pglearn.learn import box
from pglearn.learn.labs import ROOT, module, plain, task_of, tested, told_by, verdict

if sys.platform != "win32":
    import fcntl

__all__ = ["grade", "release"]

CONFIG = """\
# nbgrader's settings for this course; `pglearn labs` and the page /formgrader of Jupyter read them.
c = get_config()
c.CourseDirectory.release_directory = "template"
c.CourseDirectory.submitted_directory = "checked"
c.Autograde.autograde_preprocessors = [
    "pglearn.learn.course.run_and_judge",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
"""
QUIET = """<head><meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'">"""
FAILED = "the grader itself failed"  # how such a reason begins; nothing of a student's begins one
NOTEBOOK, SOURCE, CELLS = 20 << 20, 300_000, 300  # bytes, characters of all cells, cells
OUTPUTS = 200  # of a cell, and lines of a traceback
SECONDS, MEMORY = 180.0, 4 << 30
limits: dict[str, Any] = {"seconds": SECONDS, "memory": MEMORY}


class _Refused(Exception):
    """Why a submission cannot be graded at all."""


# ---------------------------------------------------------------------------------------- release
def release(root: Path, students: Iterable[str], labs: Iterable[int] = ()) -> int:
    """Make or extend the course in `root`; the number of copies written. Raises `InputError`.

    A copy's data follow from the course's secret, the student and the lab: the same call, the same copies.
    """
    masters = {int(path.name[0]): path for path in sorted((ROOT / "book" / "labs").glob("[0-9]-*.ipynb"))}
    if not masters:
        raise InputError(f"labs: no notebooks in {ROOT / 'book' / 'labs'}, allowed: a checkout of the book")
    wanted = list(dict.fromkeys(labs)) or list(masters)
    if unknown := [lab for lab in wanted if lab not in masters]:
        raise InputError(f"--labs: is {unknown[0]}, allowed: {', '.join(map(str, masters))}")
    _check_name(root)
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()) and not (root / "secret").exists():
        raise InputError(f"DIR: {root} is not empty, allowed: a new folder, or a course made by labs release")
    if not (root / "secret").exists():
        with open(os.open(root / "secret", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        (root / "nbgrader_config.py").write_text(CONFIG)
    with _alone(root):
        return _release(root, list(students), wanted, masters)


def _release(root: Path, students: list[str], wanted: list[int], masters: dict[int, Path]) -> int:
    from nbgrader.api import Gradebook
    from nbgrader.converters import GenerateAssignment

    book_at, known, count = f"sqlite:///{root.resolve()}/gradebook.db", list[str](), 0
    if (root / "gradebook.db").exists():
        with Gradebook(book_at) as book:
            known = [assignment.name for assignment in book.assignments]
    for lab, master in masters.items():
        name = master.stem
        source, template = root / "source" / name, root / "template" / name
        if lab in wanted and not template.exists():
            source.mkdir(parents=True, exist_ok=True)
            shutil.copy(master, source)
        if source.exists() and not (template.exists() and name in known):  # a lost gradebook is made anew
            _nbgrader(GenerateAssignment, root, name, ".")
        for student in students if lab in wanted else []:
            folder = root / "release" / student / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / "template" / name / f"{name}.ipynb", folder)
            _supply(folder, root, student, lab, ["data"])
            count += 1
    with Gradebook(book_at) as book:
        for student in students:
            book.update_or_create_student(student)
    return count


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Only one command at a time works on a course: two would write the same files and lock each other out of
    the gradebook. Raises `InputError`.
    """
    with (root / ".lock").open("w") as file:
        if sys.platform != "win32":  # there release has no lock, and grade does not run
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                why = "another labs command works on it, allowed: again when that has ended"
                raise InputError(f"DIR: {root}: {why}") from None
        yield


def _check_name(root: Path) -> None:
    if odd := re.search(r"[][{}?*#%]", str(root.resolve())):  # nbgrader and SQLite read them as patterns
        raise InputError(f"DIR: {root.resolve()} holds {odd[0]!r}, allowed: a path without [ ] {{ }} ? * # %")


def read_students(file: Path) -> list[str]:
    """Ids, one a line, or of the column `id` of a CSV file, as spreadsheets write it. Raises `InputError`."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"--students: {file} is not text in UTF-8, allowed: save it as UTF-8") from None
    delimiter = next((c for c in ";\t," if c in text.lstrip().partition("\n")[0]), ",")  # Excel has all three
    table = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    rows = [row for fields in table if any(row := [field.strip() for field in fields])]
    lines = [delimiter.join(row) for row in rows]
    if rows and "id" in (header := [field.lower() for field in rows[0]]):
        column = header.index("id")
        lines = [row[column] if column < len(row) else "" for row in rows[1:]]
    elif rows and len(rows[0]) > 1:
        raise InputError(f"--students: {file} has no column id, allowed: that column, or one id a line")
    for line in lines:
        if not re.fullmatch(r"\w[\w.@-]{0,63}", line):
            raise InputError(f"--students: {line!r} is no id, allowed: letters, digits and . _ - @")
        if lines.count(line) > 1:
            raise InputError(f"--students: {line!r} is there twice, allowed: each id once")
    if not lines:
        raise InputError(f"--students: {file} is empty, allowed: one id a line, or a CSV with a column id")
    return lines


def _supply(folder: Path, root: Path, student: str, lab: int, kinds: list[str]) -> dict[str, Any]:
    """Write the student's data, and the hidden data where asked, and the files of the lab."""
    key = (root / "secret").read_bytes()
    given = {}
    for kind in kinds:
        seed = hmac.digest(key, f"{student}/{lab}/{kind}".encode(), "sha256")
        given[kind] = plain(getattr(module(lab), kind)(int.from_bytes(seed[:6], "big")))
        name = "lab-data.json" if kind == "data" else "hidden-data.json"
        (folder / name).write_text(json.dumps(given[kind]))
    for name in module(lab).FILES:
        shutil.copy(ROOT / "data" / name, folder)
    return given


def _nbgrader(converter: Any, root: Path, name: str, student: str) -> None:
    """Run one of nbgrader's steps on one assignment of one student. Raises RuntimeError with its log."""
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.utils import capture_log
    from traitlets.config.loader import PyFileConfigLoader

    config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
    place = CourseDirectory(root=str(root.resolve()), assignment_id=name, student_id=student, config=config)
    step = converter(coursedir=place, config=config)
    step.force = True
    tools, path = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = f"{tools}:{path}"  # it calls alembic
    result = capture_log(step)
    if not result["success"]:
        if result["error"].rstrip().endswith("KeyboardInterrupt"):  # it is caught with all the rest
            raise KeyboardInterrupt
        raise RuntimeError(f"nbgrader, {name} of {student}:\n{result.get('log', '')}{result['error']}")


# ---------------------------------------------------------------------------------------- grade
def grade(root: Path, seconds: float = SECONDS, memory: int = MEMORY) -> list[dict[str, Any]]:
    """Mark what is new or changed in `root`/submitted, write marks.csv and feedback; the rows of all.

    Each runs in a process and a box of its own: seconds for its notebook, bytes for all of its processes. A
    row is student, lab, total, max, `by_hand` (points that wait for the teacher), tasks (points), reason.
    Raises `InputError`.
    """
    if not (root / "secret").exists():
        raise InputError(f"DIR: {root} is no course, allowed: a folder made by pglearn labs release")
    with _alone(root):
        return _grade(root, seconds, memory)


def _grade(root: Path, seconds: float, memory: int) -> list[dict[str, Any]]:
    from tqdm.auto import tqdm

    if why := box.missing():
        raise InputError(f"labs grade: no box for students' code on this machine: {why}")
    if inside := [path for path in box.readable() if root.resolve().is_relative_to(path)]:
        raise InputError(f"DIR: lies in {inside[0]}, which students' code may read, allowed: another place")
    if not (root / "gradebook.db").exists():
        raise InputError(f"DIR: {root} has lost its gradebook.db, allowed: put it back, or release again")
    _check_name(root)
    import nbgrader.converters  # noqa: F401  once, before processes fork from this one

    limits.update(seconds=seconds, memory=memory)
    for record in (root / "marks").glob("*/*.json"):  # what could not be graded may have been put right
        if not json.loads(record.read_text())["key"]:
            record.unlink()
    found = sorted(path for path in (root / "submitted").glob("*/*") if path.is_dir())
    progress, strange = tqdm(found, unit="submission", disable=None), list[dict[str, Any]]()
    for folder in progress:
        progress.set_postfix_str(_line(f"{folder.parent.name} {folder.name}"))
        strange += _one(root, folder)
    rows = [json.loads(path.read_text())["row"] for path in sorted((root / "marks").glob("*/*.json"))]
    rows += strange
    for path in sorted([*(root / "submitted").glob("*.ipynb"), *(root / "submitted").glob("*/*.ipynb")]):
        where = path.relative_to(root)
        rows.append(_row("", "") | {"reason": f"{where} was not graded, allowed: submitted/STUDENT/LAB/"})
    _write_marks(root / "marks.csv", rows)
    return rows


def _row(student: str, lab: str) -> dict[str, Any]:
    return {"student": student, "lab": lab, "total": 0, "max": 0, "by_hand": 0, "tasks": {}, "reason": ""}


def _one(root: Path, folder: Path) -> list[dict[str, Any]]:
    """Grade one submission in a process of its own, unless it is graded already. Under an unknown name
    nothing is recorded; that row is returned.
    """
    from nbgrader.api import MissingEntry

    student, name = folder.parent.name, folder.name
    row, source = _row(student, name), root / "source" / name / f"{name}.ipynb"
    labs = sorted(path.name for path in (root / "source").iterdir())
    if name not in labs:
        return [row | {"reason": f"there is no lab of this name, allowed: {', '.join(labs)}"}]
    row["tasks"], row["max"] = _points(source)
    if student not in [path.name for path in (root / "release").iterdir()]:
        return [row | {"reason": "there is no student of this name"}]
    record = root / "marks" / student / f"{name}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    try:
        if folder.is_symlink() or folder.parent.is_symlink():
            raise _Refused("the folder is a link, allowed: the files themselves")
        path, notes = _handed_in(folder, name)
        key = hashlib.sha256(path.read_bytes() + source.read_bytes()).hexdigest()
        again = True
        if record.exists() and (old := json.loads(record.read_text()))["key"] == key:
            with suppress(MissingEntry):  # in a gradebook that was made anew
                if old.get("given") == _marks(root, name, student)[2]:
                    return []
                again = False  # the teacher has given marks since
        checked = root / "checked" / student / name
        checked.mkdir(parents=True, exist_ok=True)
        notes += _mend(path, root / "template" / name / f"{name}.ipynb", checked / f"{name}.ipynb")
        arguments = (root.resolve(), record.resolve(), key, row, notes, again)
        process = multiprocessing.get_context("fork").Process(target=_graded, args=arguments)
        process.start()
        process.join(limits["seconds"] + 120)
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode:
            raise _Refused(f"{FAILED}, see {record.with_suffix('.log').relative_to(root)}")
    except (_Refused, OSError) as error:
        _store(record, "", {**row, "reason": str(error)}, [])
    return []


def _graded(root: Path, record: Path, key: str, row: dict[str, Any], notes: list[str], again: bool) -> None:
    """nbgrader's part of one submission. What it has to say goes beside the record, unless all is well."""
    from nbgrader.converters import Autograde, GenerateFeedback

    student, name, log = row["student"], row["lab"], record.with_suffix(".log")
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    if again:
        _nbgrader(Autograde, root, name, student)
    _nbgrader(GenerateFeedback, root, name, student)
    page = root / "feedback" / student / name / f"{name}.html"
    text = re.sub(r"<script\b[^>]*\bsrc=[^>]*>\s*</script>", "", page.read_text())
    page.write_text(text.replace("<head>", QUIET, 1))
    row["tasks"], row["by_hand"], given = _marks(root, name, student)
    row["total"] = sum(row["tasks"].values())
    cause, reasons = _reasons(root, name, student, row["tasks"])
    _store(record, key, {**row, "reason": "; ".join([*cause, *sorted(notes + reasons)])}, given)
    log.unlink()


def _reasons(root: Path, name: str, student: str, tasks: dict[str, float]) -> tuple[list[str], list[str]]:
    """What went wrong before any task did, and why tasks have no points, unless the teacher gave them all."""
    import nbformat
    from nbgrader.utils import determine_grade

    def read(folder: Path) -> Any:
        return nbformat.read(folder / name / f"{name}.ipynb", as_version=4).cells

    cells, wrong, first = read(root / "autograded" / student), list[tuple[int, str, str]](), None
    for index, cell in enumerate(cells):
        meta = cell.metadata.get("nbgrader", {})
        errors = [out for out in cell.get("outputs", []) if out.output_type == "error"]
        if errors and first is None:
            said = _line(f"{errors[-1].ename}: {errors[-1].evalue}".removeprefix("Stopped: "))[:200]
            first = index, "nbgrader" not in cell.metadata, said
        if meta.get("grade") and determine_grade(cell)[0] == 0:
            task, reason = task_of(meta["grade_id"]), errors[-1].evalue if errors else "not answered"
            if tasks[task] < meta["points"]:
                wrong.append((index, task, reason))
    cause = []
    if first and (after := [task for index, task, _ in wrong if index >= first[0]]):
        if lost := re.search(r"NameError: name '(\w+)'", first[2]):
            sources = {cell.source.strip() for cell in cells}
            for cell in read(root / "template"):
                ours = cell.cell_type == "code" and "nbgrader" not in cell.metadata
                if ours and cell.source.strip() not in sources and re.search(rf"\b{lost[1]}\b", cell.source):
                    line = cell.source.strip().partition("\n")[0]
                    cause.append(f"the lab's cell that begins {line[:60]!r} is missing or changed")
                    break
        if first[1]:
            cause.append(f"before {after[0]} a cell ended with {first[2]}")
    return cause, [f"{task}: {reason}" for _, task, reason in wrong]


def _marks(root: Path, name: str, student: str) -> tuple[dict[str, float], float, list[Any]]:
    """Each task's points in the gradebook, the points that wait for the teacher, and all that a teacher can
    change there, to know the change by.
    """
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{root.resolve()}/gradebook.db") as book:
        found = book.find_submission_notebook(name, name, student)
        grades = found.grades
        tasks = {task_of(grade.name): grade.score for grade in grades}
        waiting = sum(grade.max_score for grade in grades if grade.needs_manual_grade)
        given = sorted([grade.name, grade.score, grade.needs_manual_grade] for grade in grades)
        given += sorted([comment.name, comment.comment or ""] for comment in found.comments)
    return dict(sorted(tasks.items())), waiting, given


def _store(record: Path, key: str, row: dict[str, Any], given: list[Any]) -> None:
    part = record.with_suffix(".part")
    part.write_text(json.dumps({"key": key, "row": row, "given": given}))
    part.replace(record)


def _write_marks(path: Path, rows: list[dict[str, Any]]) -> None:
    most = max([len(row["tasks"]) for row in rows], default=0)
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        columns = [f"task_{number}" for number in range(1, most + 1)]
        table.writerow(["student", "lab", "total", "max", "by_hand", *columns, "reason"])
        for row in rows:
            points = [f"{value:g}" for value in row["tasks"].values()]
            sums = [f"{row[name]:g}" for name in ("total", "max", "by_hand")]
            blanks = [""] * (most - len(points))
            student, lab, reason = (_line(row[name]) for name in ("student", "lab", "reason"))
            table.writerow([student, lab, *sums, *points, *blanks, reason])
    part.replace(path)


def _line(text: str) -> str:
    """Anybody's text as one line that neither a terminal nor a spreadsheet takes for a command."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def _points(source: Path) -> tuple[dict[str, float], float]:
    """Tasks of a lab, each with no points yet, and the points that there are."""
    import nbformat

    metas = [cell.metadata.get("nbgrader", {}) for cell in nbformat.read(source, as_version=4).cells]
    most = {task_of(meta["grade_id"]): meta["points"] for meta in metas if meta.get("grade")}
    return dict.fromkeys(most, 0), sum(most.values())


# ---------------------------------------------------------------------------------------- what came back
def _handed_in(folder: Path, name: str) -> tuple[Path, list[str]]:
    """The notebook of a submission, and a note where it has another name. Raises `_Refused`."""
    path, notes = folder / f"{name}.ipynb", []
    if not path.exists():
        others = sorted(folder.glob("*.ipynb"))
        if len(others) != 1:
            raise _Refused(f"{name}.ipynb is missing, and there are {len(others)} others")
        path, notes = others[0], [f"{name}.ipynb is named {others[0].name}"]
    if path.is_symlink() or not path.is_file():
        raise _Refused(f"{name}.ipynb is not a file")
    if path.stat().st_size > NOTEBOOK:
        raise _Refused(f"the notebook has {path.stat().st_size >> 20} MiB, allowed: {NOTEBOOK >> 20}")
    return path, notes


def _cells(path: Path) -> list[tuple[str, Any, str]]:
    """Type, grade id and source of each cell of a notebook by anybody. Raises `_Refused`."""
    try:
        notebook = json.loads(path.read_bytes())
        if notebook["nbformat"] != 4:
            raise _Refused("the notebook is not of format 4")
        found = []
        for cell in notebook["cells"]:
            kind = "code" if cell["cell_type"] == "code" else "markdown"
            name = (cell["metadata"].get("nbgrader") or {}).get("grade_id")
            source = "".join(cell["source"])
            source.encode()  # half a character, which JSON can hold, is a ValueError too
            found.append((kind, name if isinstance(name, str) else None, source))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise _Refused("this is not a notebook") from None
    if len(found) > CELLS or sum(len(source) for _, _, source in found) > SOURCE:
        raise _Refused(f"the notebook is too long, allowed: {CELLS} cells and {SOURCE:,} characters")
    return found


def _mend(path: Path, template: Path, out: Path) -> list[str]:
    """Write the notebook that is graded: the student's cells in their order, but every cell that nbgrader
    knows with the template's type and metadata, locked ones with its source, each once, none missing. Where
    the cell of an answer in words is untouched, words just above it, or below, are the answer. Words of the
    student's own stand as plain text, lest a page of the teacher's run them. Returns what was mended.
    """
    import nbformat

    notebook = nbformat.read(template, as_version=4)
    known = {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if "nbgrader" in cell.metadata}
    ours = {cell.source.strip() for cell in notebook.cells}
    cells: list[Any] = []
    places: dict[str, Any] = {}
    notes = []
    for kind, name, source in _cells(path):
        if name in known and name not in places:
            cell = places[name] = copy.deepcopy(known[name])
            if not cell.metadata.nbgrader.locked:
                cell.source = source
            elif cell.source.strip() != source.strip():
                notes.append(f"{task_of(name)}: the test cell was changed, the original counts")
        else:
            cell = getattr(nbformat.v4, f"new_{kind}_cell")(source)
        cells.append(cell)
    before = None
    for name, cell in known.items():
        if name not in places:
            places[name] = copy.deepcopy(cell)
            at = 0 if before is None else next(i for i, c in enumerate(cells) if c is places[before]) + 1
            cells.insert(at, places[name])
            notes.append(f"{task_of(name)}: the cell was missing")
        before = name

    def words(cell: Any) -> bool:
        own = cell.cell_type == "markdown" and "nbgrader" not in cell.metadata
        return own and bool(cell.source.strip()) and cell.source.strip() not in ours

    for name, answer in places.items():
        blank, question = known[name].source, answer.metadata.nbgrader.solution and answer.cell_type != "code"
        if not question or answer.source.strip() not in ("", blank.strip()):
            continue
        answer.source = blank  # by which nbgrader knows it
        at = next(i for i, cell in enumerate(cells) if cell is answer)
        above = list(itertools.takewhile(words, reversed(cells[:at])))[::-1]
        below = list(itertools.takewhile(lambda cell: "nbgrader" not in cell.metadata, cells[at + 1 :]))
        if found := [*above, *filter(words, below)]:
            answer.source = "\n\n".join(cell.source for cell in found)
            cells = [cell for cell in cells if not any(cell is other for other in found)]
            notes.append(f"{task_of(name)}: the answer stood in another cell than its own")
    for index, cell in enumerate(cells):
        cell.id = f"cell-{index:03d}"
        if cell.cell_type == "markdown" and cell.source.strip() not in ours:
            fence = "`" * (3 + max(map(len, re.findall("`+", cell.source)), default=0))
            cell.source = "\n".join([f"{fence}text", *cell.source.splitlines(), fence])
    notebook.cells = cells
    nbformat.write(notebook, out)
    return notes


# ---------------------------------------------------------------------------------------- inside nbgrader
def run_and_judge(notebook: Any, resources: Any) -> Any:
    """nbgrader's preprocessor in place of its own execution: run the notebook in the box, then judge by what
    each test cell told. A wrong one ends with an error, which nbgrader counts as no points.
    """
    import nbformat
    import torch

    student, name = resources["nbgrader"]["student"], resources["nbgrader"]["assignment"]
    root, lab = Path.cwd(), int(name.split("-")[0])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place).resolve()
        given = _supply(folder, root, student, lab, ["data", "hidden"])
        nbformat.write(notebook, folder / "notebook.ipynb")
        ended = box.run(folder, **limits)
        at, outputs = _result(folder, len(notebook.cells))
    with tempfile.TemporaryDirectory() as place:
        _supply(Path(place), root, student, lab, ["data", "hidden"])
        os.chdir(place)
        torch.set_num_threads(1)  # as in the box: sums of floats depend on it
        expected = told_by(root / "source" / name / f"{name}.ipynb")
        os.chdir(root)
    stopped: dict[str, str] = {}  # task -> why its solution's cell ended with an error
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        cell.outputs, task = outputs[index], tested(cell)
        if index >= at:
            _fail(cell, "Stopped", ("not run: " if index > at else "") + (ended or "the box failed"))
        errors = [out for out in cell.outputs if out.output_type == "error"]
        errors.sort(key=lambda error: error.ename != "Stopped")
        reason = f"{errors[0].ename}: {errors[0].evalue}".removeprefix("Stopped: ") if errors else None
        if reason == "NotImplementedError: ":
            reason = "not answered"
        if reason and reason != "AssertionError: ":
            reason = re.sub(r"\(\d+\.py, ", "(", reason.removeprefix("AssertionError: "))  # IPython's name
        if task is None:
            if reason and (solution := cell.metadata.get("nbgrader", {}).get("grade_id")):
                stopped[solution] = reason
            continue
        if errors:
            reason = stopped.get(f"{task.replace('.', '-')}-solution", reason)
        else:
            printed = "".join(out.text for out in cell.outputs if out.get("name") == "stdout")
            reason = verdict(lab, task, printed, expected[task], given["data"], given["hidden"])
        # nbgrader takes anything on stderr for a failure, and a value at the end of a cell for its points
        cell.outputs = [
            out for out in cell.outputs if out.get("name") == "stdout" or out.output_type == "error"
        ]
        if reason is not None:
            _fail(cell, "Wrong", reason)
    return notebook, resources


def _fail(cell: Any, kind: str, reason: str) -> None:
    from nbformat.v4 import new_output

    line = _line(reason)[:200].removesuffix(":")
    cell.outputs.append(new_output("error", ename=kind, evalue=line, traceback=[f"{kind}: {line}"]))


def _result(folder: Path, count: int) -> tuple[int, list[list[Any]]]:
    """The box's result, any byte of it perhaps the student's: how many cells ran, plain outputs of each."""
    from nbformat.v4 import new_output

    def text(value: Any) -> str:
        return str(value).encode(errors="replace").decode()

    try:
        file = os.open(folder / "result.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(file, "rb") as stream:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ValueError
            result = json.loads(stream.read(NOTEBOOK))
        at, outputs = int(result["at"]), list[list[Any]]()
        for cell in result["outputs"][:count]:
            outputs.append(found := [])
            for out in cell[:OUTPUTS]:
                if out["output_type"] == "stream":
                    name = "stderr" if out["name"] == "stderr" else "stdout"
                    found.append(new_output("stream", name=name, text=text(out["text"])))
                elif out["output_type"] == "error":
                    given = {key: text(out[key]) for key in ("ename", "evalue")}
                    lines = out["traceback"][:OUTPUTS]
                    found.append(new_output("error", **given, traceback=[*map(text, lines)]))
                else:
                    kinds = {"text/plain", "image/png"} & out["data"].keys()
                    data = {kind: text(out["data"][kind]) for kind in sorted(kinds)}
                    alt = {"alt": data.get("text/plain", "")}
                    found.append(new_output("display_data", data, metadata={"image/png": alt}))
        if len(outputs) != count:
            raise ValueError
    except (OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError, AttributeError):
        return 0, [[] for _ in range(count)]
    return at, outputs

"""The labs: their masters and wrong answers; the box; and a course that is handed out and marked, among the
submissions all that should never count.
"""

import copy
import csv
import ctypes
import functools
import importlib.util
import json
import os
import platform
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from fractions import Fraction
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pytest
import torch

from pglearn.cli import main
from pglearn.learn import box, course, labs

HERE = Path(__file__).parent
MASTERS = {int(path.name[0]): path for path in sorted((HERE.parent / "book" / "labs").glob("[0-9]-*.ipynb"))}
NO_BOX = box.missing()
KEYCTL = 250 if platform.machine() == "x86_64" else 219
boxed = pytest.mark.skipif(NO_BOX is not None, reason=f"no box here: {NO_BOX}")


def code(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def solved(cell: Any) -> str | None:
    """The task that this cell of a master solves."""
    name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
    return name.removesuffix("-solution").replace("-", ".") if name.endswith("-solution") else None


# -------------------------------------------------------------------------------------------------- masters
def answers(lab: int) -> Any:
    """The module of answers to this lab: WRONG, RIGHT in other styles than the master's, REFUSED at sight."""
    path = HERE / f"wrong_answers_lab{lab}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def placed(lab: int, seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Data and hidden data of one seed, written into the folder, in which we are from now on."""
    data, hidden = (labs.plain(getattr(labs.module(lab), kind)(seed)) for kind in ("data", "hidden"))
    (folder / "lab-data.json").write_text(json.dumps(data))
    (folder / "hidden-data.json").write_text(json.dumps(hidden))
    monkeypatch.chdir(folder)
    return data, hidden


@functools.cache
def told(lab: int, seed: int) -> dict[str, Any]:
    """What the master tells for the data of this seed, which lie in the working directory."""
    return labs.told_by(MASTERS[lab])


def aside(function: Callable[[], str | None]) -> str:
    """What the function returns or raises, as text, in a copy of this process: here it changes nothing."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            result = str(function() or "")
        except BaseException as error:  # a wrong answer may stop its test
            result = type(error).__name__
        os.write(write, result.encode()[:1000])
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read, "rb") as stream:
        return stream.read().decode(errors="replace")


@pytest.mark.parametrize("lab", MASTERS)
def test_a_master_has_tasks_as_nbgrader_wants_them(lab: int) -> None:
    cells = nbformat.read(MASTERS[lab], as_version=4).cells
    metas = [cell.metadata.nbgrader for cell in cells if "nbgrader" in cell.metadata]
    assert len({meta.grade_id for meta in metas}) == len(metas)
    assert sum(meta.get("points", 0) for meta in metas) == 20
    tests = [(labs.tested(cell), cell.source) for cell in cells if labs.tested(cell)]
    assert 3 <= len(tests) <= 6
    assert [task for task, _ in tests] == [task for task in map(solved, cells) if task]
    assert [task for task, _ in tests] == [f"{lab}.{number}" for number in range(1, len(tests) + 1)]
    for task, source in tests:
        visible, hidden = source.split("### BEGIN HIDDEN TESTS")
        assert f'tell("{task}", ' in hidden
        assert "tell(" not in visible
        assert source.count("tell(") == 1
        assert source.rstrip().endswith("### END HIDDEN TESTS")
    assert sum(meta.grade and meta.solution for meta in metas) <= 1
    for cell in cells:
        if cell.cell_type == "code":
            assert not re.search(r"^\s*[!%]", cell.source, flags=re.M), "also run as plain Python"
    assert all((labs.ROOT / "data" / name).exists() for name in labs.module(lab).FILES)


@pytest.mark.parametrize("lab", MASTERS)
def test_answers_are_judged(lab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right ones, the master's first, pass the visible checks and earn their points. Wrong ones earn none by
    what is told alone: asserts, which speak to the student, are left out. Kinds that grading does not take
    are refused by the visible checks.
    """
    module = answers(lab)
    data, hidden = placed(lab, 1, tmp_path, monkeypatch)
    torch.set_num_threads(1)  # it is forked
    expected = told(lab, 1)
    assert list(module.WRONG) == list(expected)
    space: dict[str, Any] = {"__name__": "__main__"}
    cells = code(MASTERS[lab])

    def tried(task: str, sources: list[str], asserts: bool) -> str:
        """What the grader says of the answer, empty where it is right; or what it raises."""

        def run() -> str | None:
            with redirect_stdout(StringIO()) as printed:
                for source in sources:
                    exec(compile(source, task, "exec", optimize=0 if asserts else 1), space)
            return labs.verdict(lab, task, printed.getvalue(), expected[task], data, hidden)

        return aside(run)

    for at, cell in enumerate(cells):
        if (task := solved(cell)) is not None:
            last = next(i for i, other in enumerate(cells) if labs.tested(other) == task)
            rest = [other.source for other in cells[at + 1 : last + 1]]
            for style, source in {"the master's": cell.source, **module.RIGHT.get(task, {})}.items():
                assert tried(task, [source, *rest], asserts=True) == "", (task, style)
            assert len(module.WRONG[task]) >= 3, task
            for mistake, source in module.WRONG[task].items():
                compile(source, mistake, "exec")
                reason = tried(task, [source, *rest], asserts=False)
                assert reason, (task, mistake)
                assert len(reason) < 300
            visible = [*rest[:-1], rest[-1].split("### BEGIN HIDDEN TESTS")[0]]
            for kind, source in module.REFUSED.get(task, {}).items():
                reason = tried(task, [source, *visible], asserts=True)
                assert reason in ("AssertionError", "TypeError"), (task, kind)
        labs.printed_by(cell.source, space)


def test_minutes_add_up() -> None:
    guide = (labs.ROOT / "book" / "labs" / "teachers-guide.md").read_text(encoding="utf-8")
    for lab, path in MASTERS.items():
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        head = re.search(r"\*\*Time\*\* (\d+) minutes, (\d) of them for the warm-up\.", text)
        assert head
        parts = re.findall(r"^## (?:Task|Question) .*\(\d+ points, (\d+) minutes\)$", text, re.M)
        assert len(parts) == len(re.findall(r"^## (?:Task|Question)", text, re.M)) >= 5
        assert 35 <= int(head[1]) == int(head[2]) + sum(map(int, parts)) <= 45, (lab, parts)
        row = re.search(rf"^\| {lab} · {labs.module(lab).TITLE} \|[^|]*\| (\d+) \|", guide, re.M)
        assert row
        assert row[1] == head[1], lab


def test_no_evidence_is_0_where_a_gradient_is_told() -> None:
    """There relu, clamp and maximum, all right, differ."""
    for seed in range(30):
        hidden = labs.module(2).hidden(seed)
        assert all(torch.tensor(case[0]).all() for case in hidden["2.4"])


@pytest.mark.parametrize("lab", MASTERS)
def test_every_student_has_another_answer(lab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for seed in (1, 2):
        assert placed(lab, seed, tmp_path, monkeypatch) == placed(lab, seed, tmp_path, monkeypatch)
        answers.append(told(lab, seed))
    for task in answers[0]:
        assert answers[0][task] != answers[1][task], task


@pytest.mark.parametrize("lab", MASTERS)
def test_a_judge_survives_any_json(lab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, hidden = placed(lab, 1, tmp_path, monkeypatch)
    junk: list[Any] = [None, 0, -1, 1e308, float("nan"), "x", "", True, [], {}, [[]], [None], {"a": []}]
    junk += [[value] * 2 for value in junk] + [[[0] * 3] * 3, 10**40, [10**40] * 3, "é" * 1000]
    for task, judge in labs.module(lab).JUDGES.items():
        for expected in (0, [0, 0], {"a": 1}):
            for value in junk:
                reason = labs.verdict(lab, task, f"told {task}: {json.dumps(value)}", expected, data, hidden)
                assert reason, (task, value)
        assert callable(judge)


# ----------------------------------------------------------------------------------------- telling, judging
@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Lab 9: five small functions, and a question."""
    module = SimpleNamespace(
        TITLE="Tiny",
        FILES=("tiny.txt",),
        TOLERANCE=0.01,
        data=lambda seed: {"xs": random.Random(seed).sample(range(2, 1000), 3)},
        hidden=lambda seed: {"xs": random.Random(seed).sample(range(-1000, -2), 3)},
        JUDGES={"9.5": lambda told, *_: None if told["n"] > 3 else "n is too small"},
    )
    monkeypatch.setitem(sys.modules, "pglearn.learn.lab9", module)
    return module


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("told 9.1: [1, 2.0]\n", None),
        ("note told 9.1: [1, 2.005]", None),
        ("told 9.1: [1, 2.02]", "answer[1] is wrong: 2.02"),
        ("told 9.1: [1]", "the answer is wrong: [1]"),
        ("told 9.1: [true, 2]", "answer[0] is wrong: True"),
        ("told 9.1: null", "the answer is wrong: None"),
        ("told 9.2: [1, 2]", "nothing was told"),
        ("", "nothing was told"),
        ("told 9.1: [1, 2]\ntold 9.1: [1, 2]", "told more than once"),
        ("told 9.1: [1, 2", "what was told is not JSON"),
        ("told 9.1: " + "[" * 100_000, "what was told is not JSON"),
        ("told 9.1: [1, " + "9" * 5000 + "]", "what was told is not JSON"),
        ("told 9.5: {}", "what was told cannot be judged (KeyError)"),
        ('told 9.5: {"n": 3}', "n is too small"),
        ('told 9.5: {"n": 4}', None),
    ],
)
def test_verdicts(tiny: SimpleNamespace, printed: str, reason: str | None) -> None:
    task = "9.5" if "9.5" in printed else "9.1"
    assert labs.verdict(9, task, printed, [1, 2], {}, {}) == reason


def test_telling(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labs.tell("1.2", {"a": torch.tensor([[1, 2]]), "b": (True, None, torch.tensor(0.5))})
    assert capsys.readouterr().out == 'told 1.2: {"a": [[1, 2]], "b": [true, null, 0.5]}\n'
    labs.tell("1.2", [np.int64(3), np.float32(0.5), np.array([1, 2])])
    assert capsys.readouterr().out == "told 1.2: [3, 0.5, [1, 2]]\n"
    with pytest.raises(TypeError, match=r"^Fraction\(17, 1\) is a Fraction; lists, .*numbers are wanted$"):
        labs.tell("1.2", [Fraction(17)])
    assert labs.lab_file("results.csv").exists()
    (tmp_path / "results.csv").write_text("mine")
    assert labs.lab_file("results.csv").read_text() == "mine"


# -------------------------------------------------------------------------------------------------- the box
def in_box(*cells: str, seconds: float = 60, memory: int = 4 << 30) -> tuple[str | None, list[str], int]:
    """Why it ended early; what each cell printed, or how it failed; and the number of cells that ran."""
    with tempfile.TemporaryDirectory() as name:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        nbformat.write(notebook, Path(name) / "notebook.ipynb")
        ended = box.run(Path(name), seconds, memory)
        result = json.loads((Path(name) / "result.json").read_text())
    said = ["".join(out.get("text", out.get("evalue", "")) for out in outs) for outs in result["outputs"]]
    return ended, said, result["at"]


@boxed
def test_the_box_has_no_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGLEARN_KEY", "of the grader")
    file = tmp_path / "outside"
    file.write_text("untouched")
    listener = socket.create_server(("127.0.0.1", 0))
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(tmp_path / "door"))
    door.listen()
    port, before = listener.getsockname()[1], os.stat(file)
    tries = [
        f"open({str(file)!r}).read()",
        f"open({str(file)!r}, 'w').write('x')",
        f"os.symlink({str(file)!r}, 'link'); open('link').read()",
        f"os.chmod({str(file)!r}, 0)",
        f"os.truncate({str(file)!r}, 0)",
        f"os.listdir({str(tmp_path)!r})",
        f"os.remove({str(file)!r})",
        f"open({str(HERE / 'test_labs.py')!r}).read()",
        "open('/tmp/pglearn-escaped', 'w')",
        "open(os.path.expanduser('~root/.bashrc')).read()",
        "open('/etc/shadow').read()",
        "open('/proc/1/environ').read()",
        f"socket.create_connection(('127.0.0.1', {port}), 2)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))",
        f"socket.socket(socket.AF_UNIX).connect({str(tmp_path / 'door')!r})",
        f"os.kill({os.getpid()}, 0)",
        "os.mknod('device', 0o20666, os.makedev(1, 1))",
        "subprocess.run(['mount', '-t', 'tmpfs', 'none', '.'], check=True, capture_output=True)",
        "os.setuid(0)",
        "call('ptrace', 0x4206, 1, 0, 0)",  # the process that ends with the watcher
        f"assert call('syscall', {KEYCTL}, 0, -3, 0) == {ctypes.CDLL(None).syscall(KEYCTL, 0, -3, 0)}",
    ]
    if not os.statvfs("/proc/sys").f_flag & os.ST_RDONLY:
        # a namespace in which one has all capabilities
        tries.append("subprocess.run(['unshare', '-U', 'true'], check=True, capture_output=True)")
    loop = [
        f"try:\n    {attempt}\n    print('DONE')\nexcept Exception as e: print(type(e))" for attempt in tries
    ]
    fine = [
        "print(os.environ.get('PGLEARN_KEY'))",
        "open('mine', 'w').write('x'); print(open('mine').read())",
    ]
    first = """
import ctypes, os, socket, subprocess
def call(name, *given):
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*map(ctypes.c_long, given))
    if result < 0: raise OSError(ctypes.get_errno(), name)
    return result
"""
    ended, said, at = in_box(first, *loop, *fine)
    assert ended is None
    assert at == len(said)
    assert [attempt for attempt, out in zip(tries, said[1:], strict=False) if "Error" not in out] == []
    assert said[-2:] == ["None\n", "x\n"]
    assert file.read_text() == "untouched"
    assert (os.stat(file).st_mode, os.stat(file).st_mtime) == (before.st_mode, before.st_mtime)
    assert not Path("/tmp/pglearn-escaped").exists()
    listener.close()
    door.close()


@boxed
def test_the_box_goes_on_after_what_can_be_stopped() -> None:
    ended, said, _ = in_box(
        "import os, signal, time",
        "print('on')",
        "x = bytearray(1 << 40)",
        "os._exit(0)",
        "print('x' * 10**7)",
        "for i in range(20):\n    f = os.open('f', os.O_RDWR | os.O_CREAT)\n    os.unlink('f')\n"
        "    os.posix_fallocate(f, 0, 60 << 20)",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "get_ipython().showtraceback = lambda *_, **__: None; 1 / 0",
        "print('still on')",
        seconds=80,
    )
    assert ended is None
    assert said[1:] == [
        "on\n",
        "",  # of the MemoryError
        "ended Python",
        "printed more than 300,000 characters",
        "[Errno 28] No space left on device",
        "took longer than 20 s and could not be interrupted",
        "ZeroDivisionError: division by zero",
        "still on\n",
    ]


ENDED = """
import ctypes, platform, threading
def fill():
    time.sleep(2)  # not before the first thread has ended
    b = bytearray(b'x') * (900 << 20)
    time.sleep(60)
for _ in range(3):
    if os.fork() == 0:
        threading.Thread(target=fill).start()
        ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)  # the first thread ends
time.sleep(60)
"""
CROWDED = "stopped: more than 64 processes or 256 threads"
FORKS = "while True:\n    try: os.fork()\n    except OSError: pass"


@boxed
@pytest.mark.parametrize(
    ("bomb", "reason"),
    [
        (FORKS, CROWDED),
        (
            "for _ in range(20):\n    if os.fork() == 0: b = b'x' * (300 << 20); break\ntime.sleep(60)",
            "stopped: more than 2 GiB of memory",
        ),
        (ENDED, "stopped: more than 2 GiB of memory"),
        (
            "for i in range(10**5): open(f'{i}', 'w').write('x' * 10**6)",
            "stopped: more than 128 MiB or 500 files",
        ),
        (
            "for _ in range(3000): os.mkdir('d' * 250); os.chdir('d' * 250)",
            "stopped: more than 128 MiB or 500 files",
        ),
        (
            "for i in range(50): os.posix_fallocate(os.memfd_create(f'{i}'), 0, 60 << 20)\ntime.sleep(60)",
            "stopped: more than 2 GiB of memory",
        ),
        (
            # small stacks, or the limit of memory comes first
            "import threading\nthreading.stack_size(1 << 18)\n"
            "for _ in range(400): threading.Thread(target=time.sleep, args=(60,)).start()\ntime.sleep(60)",
            CROWDED,
        ),
    ],
)
def test_the_box_is_ended_by_what_cannot(bomb: str, reason: str) -> None:
    ended, said, at = in_box("import os, time; print('before')", bomb, "print('after')", memory=2 << 30)
    assert ended
    assert ended.startswith(reason)
    assert said == ["before\n", "", ""]
    assert at == 1


@boxed
@pytest.mark.parametrize("processes", [1, 3])  # it has just begun, or executes
def test_the_box_ends_with_the_grader(processes: int, tmp_path: Path) -> None:
    outside = os.stat("/proc/self/ns/pid").st_ino

    def inside(process: int) -> bool:
        with suppress(OSError):
            return os.stat(f"/proc/{process}/ns/pid").st_ino != outside
        return False

    def offspring(process: int) -> list[int]:
        children = box._read(f"/proc/{process}/task/{process}/children").split()
        return [found for child in map(int, children) for found in (child, *offspring(child))]

    def running(process: int) -> bool:
        state = box._read(f"/proc/{process}/stat").rpartition(")")[2].split()[:1]
        return state not in ([], ["Z"])

    cell = nbformat.v4.new_code_cell("import time; time.sleep(300)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebook.ipynb")
    words = [sys.executable, "-P", box.__file__, str(tmp_path), "200", str(4 << 30)]
    with subprocess.Popen(
        words, cwd=tmp_path, env=box._clean(tmp_path), stderr=subprocess.DEVNULL
    ) as program:
        family: list[int] = []
        while len(family) < processes and program.poll() is None:
            family = [process for process in offspring(program.pid) if inside(process)]
        program.kill()
    assert len(family) >= processes
    end = time.monotonic() + 30  # its cell may run longer
    while any(map(running, family)):
        assert time.monotonic() < end
        time.sleep(0.1)


@boxed
def test_two_boxes_do_not_count_as_one() -> None:
    cells = "import os; print('before')", FORKS, "print('after')"
    with ThreadPoolExecutor(3) as pool:
        bombs = [pool.submit(in_box, *cells, seconds=200) for _ in range(2)]
        honest = pool.submit(in_box, "import time; time.sleep(5); print('on')", seconds=200)
    assert honest.result() == (None, ["on\n"], 1)
    for bomb in bombs:
        assert bomb.result() == (
            CROWDED,
            ["before\n", "", ""],
            1,
        )


@boxed
def test_no_box_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bare environment, which finds this package by PYTHONPATH alone: that does not reach into the box."""
    venv.create(tmp_path / "bare", symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    why = str(box.missing())
    assert re.fullmatch(r".*/bare/bin/python cannot import pglearn in it: install it there, .*", why)


@boxed
def test_no_box_without_namespaces() -> None:
    deny = "echo 0 > /proc/sys/user/max_user_namespaces"  # in a namespace, and what it holds
    ask = f"{sys.executable} -c 'from pglearn.learn import box; print(box.missing())'"
    done = subprocess.run(
        ["unshare", "-r", "sh", "-c", f"{deny} && {ask}"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("user namespaces are off: as root `sysctl "), done.stderr


def test_a_result_is_cut(tmp_path: Path) -> None:
    error = {"output_type": "error", "ename": "E", "evalue": "e", "traceback": "x" * (15 << 20)}
    outputs = [[error], [{"output_type": "stream", "name": "stdout", "text": ""}] * 50_000]
    (tmp_path / "result.json").write_text(json.dumps({"at": 2, "outputs": outputs}))
    at, found = course._result(tmp_path, 2)
    assert (at, len(found[0][0].traceback), len(found[1])) == (2, course.OUTPUTS, course.OUTPUTS)


def test_no_box_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    (tmp_path / "secret").touch()
    (tmp_path / "gradebook.db").touch()
    assert main(["labs", "grade", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "pglearn: labs grade: no box for students' code on this machine: needs Linux 5.13"
    )
    assert error.count("\n") == 1


# --------------------------------------------------------------------------------------------- a whole course
NAMES = {"9.1": "double", "9.2": "square", "9.3": "negate", "9.4": "half"}
RIGHT = {"double": "2 * x", "square": "x * x", "negate": "-x", "half": "x / 2"}


def master() -> Any:
    """The notebook of lab 9."""

    def meta(name: str, kind: str, points: int) -> dict[str, Any]:
        given = {"grade": kind != "solution", "solution": kind != "test", "locked": kind == "test"}
        given |= {"grade_id": name, "schema_version": 3, "task": False}
        return {"nbgrader": given | ({} if kind == "solution" else {"points": points})}

    def solution(task: str, source: str) -> Any:
        body = f"### BEGIN SOLUTION\n{source}\n### END SOLUTION"
        return nbformat.v4.new_code_cell(
            body, metadata=meta(f"{task}-solution".replace(".", "-"), "solution", 0)
        )

    def test(task: str, visible: str, value: str) -> Any:
        body = f'{visible}\n### BEGIN HIDDEN TESTS\ntell("{task}", {value})\n### END HIDDEN TESTS'
        return nbformat.v4.new_code_cell(body, metadata=meta(task.replace(".", "-"), "test", 3))

    cells = [
        nbformat.v4.new_markdown_cell("# Lab 9\n\n$x^2$"),
        nbformat.v4.new_code_cell(
            "from pglearn.learn.labs import hidden_data, lab_file, student_data, tell\ndata = student_data(9)"
        ),
    ]
    for task, name in NAMES.items():
        cells.append(solution(task, f"def {name}(x):\n    return {RIGHT[name]}"))
        told = f'[{name}(x) for x in data["xs"] + hidden_data(9)["xs"]]'
        cells.append(test(task, f"assert {name}(4) == {eval(RIGHT[name], {'x': 4})}", told))
    cells.append(solution("9.5", "word = lab_file('tiny.txt').read_text()"))
    cells.append(test("9.5", "assert word", '{"n": len(word)}'))
    body = "### BEGIN SOLUTION\nBecause.\n### END SOLUTION"
    cells.append(nbformat.v4.new_markdown_cell(body, metadata=meta("9-6", "question", 5)))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:03d}"
    return nbformat.v4.new_notebook(cells=cells)


@pytest.fixture
def classroom(tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of lab 9, handed out."""
    book = tmp_path / "checkout"
    for folder in ("book/labs", "data"):
        (book / folder).mkdir(parents=True)
    nbformat.write(master(), book / "book/labs/9-tiny.ipynb")
    (book / "data/tiny.txt").write_text("seven")
    for module in (labs, course):
        monkeypatch.setattr(module, "ROOT", book)
    students = tmp_path / "students.csv"
    students.write_text("name,id\n" + "".join(f"Some One,{name}\n" for name in HANDED_IN))
    assert main(["labs", "release", str(tmp_path / "course"), "--students", str(students)]) == 0
    return tmp_path / "course"


def answered(copy_of: Path, **answers: str) -> Any:
    """A student's copy with the right answers, or these instead: function's name -> source of its cell."""
    notebook = nbformat.read(copy_of, as_version=4)
    right = {name: f"def {name}(x):\n    return {value}" for name, value in RIGHT.items()}
    sources = {**right, "word": "word = lab_file('tiny.txt').read_text()", **answers}
    for cell in notebook.cells:
        if task := solved(cell):
            cell.source = sources[NAMES.get(task, "word")]
    return notebook


def honest(path: Path, notebook: Any) -> str:
    notebook.cells[-1].source = "For a reason.\n```\n<script>alert(1)</script>\n[l](javascript:alert(1))"
    notebook.cells.append(nbformat.v4.new_raw_cell("<form action='x'>"))
    warn = "import warnings\ndef double(x):\n    warnings.warn('!'); print('doubling', end=' ')\n"
    notebook.cells[2].source = f"{warn}    return 2 * x"
    notebook.cells.insert(2, nbformat.v4.new_code_cell("mine = 1"))
    return nbformat.writes(notebook)


def careless(path: Path, notebook: Any) -> str:
    notebook.cells[2].source = "def double(x):\n    return 3 * x"
    notebook.cells[4].source = "def square(x):\n    return x * abs(x)"
    notebook.cells[6].source = "def negate(x)\n    return -x"
    notebook.cells[8].source = "raise NotImplementedError()"
    return nbformat.writes(notebook)


def tamperer(path: Path, notebook: Any) -> str:
    cells = notebook.cells
    cells[2].source = "def double(x):\n    return 'no'"
    cells[3].source = "tell('9.1', [1])"  # the test cell of 9.1 says less,
    cells[3].metadata.nbgrader.update(points=1000, locked=False, solution=True)
    cells[4].source = "def square(x):\n    return 0"
    cells[5].metadata.nbgrader.grade = False  # that of 9.2 is no longer graded,
    cells[7].metadata.nbgrader.grade_id = "9-1"  # that of 9.3 calls itself 9.1,
    cells.insert(4, copy.deepcopy(cells[2]))  # a solution is there twice,
    cells[4].id = "again"
    del cells[10]  # that of 9.4 is gone, and its solution is right
    cells[-1].cell_type, cells[-1].metadata.nbgrader.points = "raw", "1e9"
    notebook.metadata.kernelspec = {"name": "evil", "display_name": "evil"}
    text: str = nbformat.writes(notebook).replace('"nbformat_minor": 5', '"nbformat_minor": 4')
    return text


def looper(path: Path, notebook: Any) -> str:
    notebook.cells[2].source = "def double(x):\n    while True: pass"
    notebook.cells[4].source = "def square(x):\n    import os; os._exit(0)"
    notebook.cells[6].source = "def negate(x):\n    print('\\ud800'); return len(bytearray(1 << 40))"
    notebook.cells[8].source = "def half(x):\n    print('x' * 10**7); return x / 2"
    return nbformat.writes(notebook)


def forger(path: Path, notebook: Any) -> str:
    """Everything but right values: told lines, judges, asserts, exceptions."""
    notebook.cells[2].source = (
        "import builtins, json, pglearn.learn.labs as labs\n"
        "ip = get_ipython()\n"
        "ip.showtraceback = lambda *_, **__: None\n"
        "ip.set_custom_exc((Exception,), lambda *_, **__: None)\n"
        "ip.input_transformers_post.append(lambda lines: [x for x in lines if 'assert' not in x])\n"
        "labs.verdict = labs.told = lambda *_: None\n"
        "labs._json = lambda *_: 'true'\n"
        "def double(x): return 0\n"
    )
    notebook.cells[4].source = "def square(x):\n    print('told 9.2: [1, 2]')\n    raise KeyError"
    notebook.cells[6].source = "def negate(x):\n    print('told 9.3: []'); return -x"
    notebook.cells[8].source = "tell = labs.tell = print\ndef half(x): return x / 2"
    notebook.cells.insert(10, nbformat.v4.new_code_cell("json.dumps = lambda *_, **__: 'true'"))
    notebook.cells[11].source = "class Much(str):\n    def __len__(self): return -4\nword = Much()"
    return nbformat.writes(notebook)


def burglar(path: Path, notebook: Any) -> str:
    root = path.parents[3]
    tries = [
        *(f"open({str(root / name)!r}).read()" for name in ("secret", "gradebook.db", "nbgrader_config.py")),
        f"open({str(root / 'source/9-tiny/9-tiny.ipynb')!r}).read()",
        f"open({str(root / 'release/honest/9-tiny/lab-data.json')!r}).read()",
        f"open({str(root / 'marks.csv')!r}, 'w').write('x')",
        "__import__('os').listdir('/tmp')",
    ]
    code = [f"try: {x}; print('DONE')\nexcept OSError: print('no')" for x in tries]
    code += ["import os; os.remove('result.json'); os.symlink('../secret', 'result.json')"]
    notebook.cells.insert(2, nbformat.v4.new_code_cell("\n".join(code)))
    return nbformat.writes(notebook)


def bomber(path: Path, notebook: Any) -> str:
    notebook.cells[6].source = f"import os\ndef negate(x):\n{textwrap.indent(FORKS, '    ')}"
    return nbformat.writes(notebook)


HANDED_IN: dict[str, Any] = {
    "honest": honest,
    "careless": careless,
    "tamperer": tamperer,
    "looper": looper,
    "forger": forger,
    "burglar": burglar,
    "bomber": bomber,
    "garbler": lambda path, notebook: "no notebook",
    "nester": lambda path, notebook: "[" * 100_000,
    "halver": lambda path, notebook: nbformat.writes(notebook).replace("# Lab 9", r"\ud800"),
    "veteran": lambda path, notebook: json.dumps({"nbformat": 3, "worksheets": []}),
    "hoarder": lambda path, notebook: " " * (21 << 20),
    "talker": lambda path, notebook: nbformat.writes(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("x" * 300_001)])
    ),
    "loser": None,
    "linker": None,
    "absent": None,
}


def hand_in(root: Path) -> None:
    for name, make in HANDED_IN.items():
        path = root / "submitted" / name / "9-tiny" / "9-tiny.ipynb"
        if name not in ("linker", "absent"):
            path.parent.mkdir(parents=True)
        if make:
            path.write_text(make(path, answered(root / "release" / name / "9-tiny" / "9-tiny.ipynb")))
    good = root / "submitted" / "honest" / "9-tiny"
    (root / "submitted" / "linker").mkdir()
    (root / "submitted" / "linker" / "9-tiny").symlink_to(good)
    (root / "submitted" / "linker" / "=1+1").mkdir()
    (root / "submitted" / "linker" / "\x1b]0;\n\udcff.ipynb").touch()
    (good / "9-tiny.ipynb").rename(good / "9-tiny (1).ipynb")
    shutil.copytree(good, root / "submitted" / "stranger" / "9-tiny")
    shutil.copytree(good, root / "submitted" / "honest" / "8-tiny")
    shutil.copy(good / "9-tiny (1).ipynb", root / "submitted" / "absent.ipynb")


def test_what_students_get(classroom: Path) -> None:
    given = {}
    for name in HANDED_IN:
        folder = classroom / "release" / name / "9-tiny"
        assert sorted(path.name for path in folder.iterdir()) == ["9-tiny.ipynb", "lab-data.json", "tiny.txt"]
        text = (folder / "9-tiny.ipynb").read_text()
        for secret in ("SOLUTION", "HIDDEN", "hidden_data(9)", "2 * x", "tell(", "Because", "told"):
            assert secret not in text
        given[name] = (folder / "lab-data.json").read_text()
    assert len(set(given.values())) == len(given)
    key = (classroom / "secret").read_text()
    assert (classroom / "secret").stat().st_mode & 0o77 == 0
    released = b"".join(path.read_bytes() for path in (classroom / "release").rglob("*") if path.is_file())
    assert key.encode() not in released
    shutil.rmtree(classroom / "release" / "honest")
    assert course.release(classroom, ["honest", "late"]) == 2
    assert (classroom / "release" / "honest" / "9-tiny" / "lab-data.json").read_text() == given["honest"]
    assert (classroom / "release" / "late").exists()


@boxed
def test_a_course_is_marked(classroom: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hand_in(classroom)
    assert main(["labs", "grade", str(classroom), "--seconds", "100"]) == 0
    printed = capsys.readouterr().out
    assert "1 wait for marks by hand" in printed
    with (classroom / "marks.csv").open() as file:
        table = list(csv.DictReader(file))
    rows = {(row["student"], row["lab"]): row for row in table}
    assert len(rows) + 1 == len(table) == len(HANDED_IN) - 1 + 5
    points = {s: [row[f"task_{n}"] for n in range(1, 7)] for (s, lab), row in rows.items() if lab == "9-tiny"}
    why = {student: rows[student, "9-tiny"]["reason"] for student in points}
    for student, row in ((s, r) for (s, lab), r in rows.items() if lab == "9-tiny" and s != "stranger"):
        assert row["max"] == "20", student
        assert float(row["total"]) == sum(map(float, points[student]))

    assert points["honest"] == ["3", "3", "3", "3", "3", "0"]
    assert why["honest"] == "9-tiny.ipynb is named 9-tiny (1).ipynb"
    assert rows["honest", "9-tiny"]["by_hand"] == "5"
    assert rows["careless", "9-tiny"]["by_hand"] == "0"
    assert points["careless"] == ["0", "0", "0", "0", "3", "0"]
    assert re.fullmatch(
        r"9\.1: AssertionError; 9\.2: answer\[3\] is wrong: -\d+; 9\.3: SyntaxError: expected ':' "
        r"\(line 1\); 9\.4: not answered; 9\.6: not answered",
        why["careless"],
    )
    assert points["tamperer"] == ["0", "0", "3", "3", "3", "0"]
    for change in (
        "9.1: the test cell was changed",
        "9.3: the cell was missing",
        "9.4: the cell was missing",
    ):
        assert change in why["tamperer"]
    assert points["looper"] == ["0", "0", "0", "0", "3", "0"]
    assert why["looper"] == (
        "9.1: took longer than 25 s; 9.2: ended Python; 9.3: MemoryError; "
        "9.4: printed more than 300,000 characters; 9.6: not answered"
    )
    assert points["forger"] == ["0", "0", "0", "0", "0", "0"]
    assert why["forger"] == (
        "9.1: the answer is wrong: True; 9.2: KeyError; 9.3: told more than once; "
        "9.4: nothing was told; 9.5: ValueError: __len__() should return >= 0; 9.6: not answered"
    )
    assert points["burglar"] == ["3", "3", "3", "3", "3", "0"]
    assert points["bomber"][:3] == ["3", "3", "0"]
    assert why["bomber"].startswith(f"9.3: {CROWDED}")
    for student, reason in {
        "garbler": "this is not a notebook",
        "nester": "this is not a notebook",
        "halver": "this is not a notebook",
        "veteran": "the notebook is not of format 4",
        "hoarder": "the notebook has 21 MiB, allowed: 20",
        "talker": "the notebook is too long, allowed: 300 cells and 300,000 characters",
        "loser": "9-tiny.ipynb is missing, and there are 0 others",
    }.items():
        assert (points[student], why[student]) == (["0"] * 6, reason)
    assert why["stranger"] == "there is no student of this name"
    assert rows["honest", "8-tiny"]["reason"] == "there is no lab of this name, allowed: 9-tiny"
    assert why["linker"] == "the folder is a link, allowed: the files themselves"
    assert rows["linker", "'=1+1"]["reason"] == "there is no lab of this name, allowed: 9-tiny"
    strays = [f"submitted/{name}.ipynb" for name in ("absent", "linker/ ]0; ")]
    assert [row["reason"].split(" was not graded")[0] for row in table if not row["lab"]] == strays

    for student in ("honest", "careless", "tamperer", "looper", "forger", "burglar", "bomber"):
        page = (classroom / "feedback" / student / "9-tiny" / "9-tiny.html").read_text()
        assert "default-src 'none'" in page.split("<title>")[0]
        assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)=[\"']?(?!data:)", page)
        assert not re.search(r"<form|alert\(1\)</script>|href=.javascript", page)
    notebook = nbformat.read(classroom / "autograded" / "burglar" / "9-tiny" / "9-tiny.ipynb", as_version=4)
    assert notebook.cells[2].outputs[0].text == "no\n" * 7

    # a second run does nothing, but for marks that the teacher gave and a submission that is new
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{classroom}/gradebook.db") as book:
        grade = book.find_grade("9-6", "9-tiny", "9-tiny", "honest")
        grade.manual_score, grade.needs_manual_grade = 4, False
        book.db.commit()
    stamps = {path: path.stat().st_mtime_ns for path in (classroom / "autograded").rglob("*.ipynb")}
    lost = classroom / "submitted" / "loser" / "9-tiny" / "9-tiny.ipynb"
    lost.write_text(nbformat.writes(answered(classroom / "release" / "loser" / "9-tiny" / "9-tiny.ipynb")))
    totals = {(row["student"], row["lab"]): row["total"] for row in course.grade(classroom, 100)}
    assert totals["honest", "9-tiny"] == 19
    assert totals["loser", "9-tiny"] == 15
    assert (
        stamps.items()
        <= {p: p.stat().st_mtime_ns for p in (classroom / "autograded").rglob("*.ipynb")}.items()
    )
    assert "Score: 4.0 / 5.0" in (classroom / "feedback" / "honest" / "9-tiny" / "9-tiny.html").read_text()


def row_of(root: Path, student: str) -> dict[str, Any]:
    return next(row for row in course.grade(root, 100) if row["student"] == student)


@boxed
def test_a_teacher_gives_marks_and_loses_the_gradebook(classroom: Path) -> None:
    from nbgrader.api import Gradebook

    template = classroom / "release" / "honest" / "9-tiny" / "9-tiny.ipynb"
    for student in ("honest", "careless"):
        notebook = answered(template, square="def square(x):\n    return 0")
        notebook.cells.append(nbformat.v4.new_markdown_cell("Because it is so."))
        if student == "careless":
            del notebook.cells[1]
        folder = classroom / "submitted" / student / "9-tiny"
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / "9-tiny.ipynb")
    page = classroom / "feedback" / "honest" / "9-tiny" / "9-tiny.html"
    row = row_of(classroom, "honest")
    assert (row["total"], row["by_hand"]) == (12, 5)
    assert row["reason"] == "9.2: AssertionError; 9.6: the answer stood in another cell than its own"
    assert row_of(classroom, "careless")["reason"].startswith(
        "the lab's cell that begins 'from pglearn.learn.labs import hidden_data, lab_file, studen' is "
        "missing or changed; 9.1: NameError: name 'tell' is not defined; "
    )

    def given(name: str, points: float, comment: str) -> None:
        """What the page /formgrader does."""
        with Gradebook(f"sqlite:///{classroom}/gradebook.db") as book:
            grade = book.find_grade(name, "9-tiny", "9-tiny", "honest")
            grade.manual_score, grade.needs_manual_grade = points, False
            book.find_comment("9-6", "9-tiny", "9-tiny", "honest").manual_comment = comment
            book.db.commit()

    given("9-6", 0, "Say why.")  # as many points as before: none
    row = row_of(classroom, "honest")
    assert (row["total"], row["by_hand"]) == (12, 0)
    assert "Say why." in page.read_text()
    given("9-6", 0, "Say more.")
    row_of(classroom, "honest")
    assert "Say more." in page.read_text()
    given("9-2", 3, "Say more.")  # the machine's mark, corrected: its reason goes
    row = row_of(classroom, "honest")
    assert (row["total"], row["by_hand"]) == (15, 0)
    assert row["reason"] == "9.6: the answer stood in another cell than its own"
    stamp = page.stat().st_mtime_ns
    row_of(classroom, "honest")
    assert page.stat().st_mtime_ns == stamp

    copies = {path: path.read_bytes() for path in (classroom / "release").rglob("*") if path.is_file()}
    (classroom / "gradebook.db").unlink()
    assert main(["labs", "grade", str(classroom)]) == 2
    assert course.release(classroom, ["late"]) == 1
    assert all(path.read_bytes() == content for path, content in copies.items())
    row = row_of(classroom, "honest")
    assert (row["total"], row["by_hand"]) == (12, 5)
    assert row["reason"].startswith("9.2: AssertionError; 9.6: ")


def test_one_command_at_a_time(classroom: Path, tmp_path: Path, capsys: Any) -> None:
    release = ["release", str(classroom), "--students", str(tmp_path / "students.csv")]
    capsys.readouterr()
    with course._alone(classroom):
        for arguments in (["grade", str(classroom)], release):
            assert main(["labs", *arguments]) == 2
            line = "another labs command works on it, allowed: again when that has ended"
            assert capsys.readouterr().err == f"pglearn: DIR: {classroom}: {line}\n"
    assert main(["labs", *release, "--labs", "9", "9"]) == 0
    assert capsys.readouterr().out.startswith(f"{len(HANDED_IN)} copies in ")


@boxed
def test_a_failing_grader_says_so(classroom: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(course, "_graded", lambda *_: sys.exit(3))
    for student in ("honest", "late"):  # no student of that name
        shutil.copytree(classroom / "release" / "honest", classroom / "submitted" / student)
    assert main(["labs", "grade", str(classroom)]) == 1
    line = f"{classroom}/marks.csv names the logs; then this command again"
    error = capsys.readouterr().err
    assert error == f"pglearn: labs grade: 1 not graded, the grader itself failed: {line}\n"


def test_an_interrupted_release_says_so(
    tiny: SimpleNamespace, classroom: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from nbgrader.converters import GenerateAssignment

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(GenerateAssignment, "convert_notebooks", stopped)
    (classroom / "gradebook.db").unlink()
    (classroom / "students.txt").write_text("ann")
    capsys.readouterr()
    assert main(["labs", "release", str(classroom), "--students", str(classroom / "students.txt")]) == 130
    assert capsys.readouterr().err == "pglearn: stopped: the same command goes on\n"


def test_an_answer_beside_its_cell(classroom: Path, tmp_path: Path) -> None:
    template = classroom / "template" / "9-tiny" / "9-tiny.ipynb"
    blank = nbformat.read(template, as_version=4).cells[-1].source
    for above, own, below, answer in [
        (None, blank, None, blank),
        (None, " \n", "", blank),
        (None, blank, "Mine.", "Mine."),
        ("First.", "", "Then.", "First.\n\nThen."),
        (None, "Mine.", "A remark.", "Mine."),
    ]:
        notebook = nbformat.read(template, as_version=4)
        last = notebook.cells.pop()
        last.source = own
        words = [nbformat.v4.new_markdown_cell(text) for text in (above, below) if text is not None]
        notebook.cells += [*words[: above is not None], last, *words[above is not None :]]
        nbformat.write(notebook, tmp_path / "in.ipynb")
        notes = course._mend(tmp_path / "in.ipynb", template, tmp_path / "out.ipynb")
        moved = answer not in (own, blank)
        assert notes == ["9.6: the answer stood in another cell than its own"] * moved
        mended = [cell.source for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells]
        expected = answer if answer == blank else f"```text\n{answer}\n```"
        assert mended[len(notebook.cells) - 1 - len(words)] == expected
        assert len(mended) == len(notebook.cells) - len(words) * moved


def test_the_cause_comes_before_its_consequences(tmp_path: Path) -> None:
    """A cell that is no task's failed first: what followed may be its fault."""

    def failed(cell: Any, name: str, value: str) -> Any:
        cell.outputs = [nbformat.v4.new_output("error", ename=name, evalue=value, traceback=[])]
        return cell

    ours = master().cells
    broken = nbformat.v4.new_code_cell("import nothing")
    failed(broken, "ModuleNotFoundError", "No module\nnamed 'nothing'")
    test = failed(ours[3], "Wrong", "NameError: name 'tell' is not defined")
    solution = failed(ours[2], "NameError", "name 'nobody' is not defined")
    for folder, cells in {"template": ours[:2], "autograded/ann": [broken, test, ours[5]]}.items():
        (tmp_path / folder / "9-tiny").mkdir(parents=True)
        notebook = nbformat.v4.new_notebook(cells=cells)
        nbformat.write(notebook, tmp_path / folder / "9-tiny" / "9-tiny.ipynb")
    consequence = ["9.1: NameError: name 'tell' is not defined"]
    points: dict[str, float] = {"9.1": 0, "9.2": 3}
    cause, reasons = course._reasons(tmp_path, "9-tiny", "ann", points)
    assert cause == ["before 9.1 a cell ended with ModuleNotFoundError: No module named 'nothing'"]
    assert reasons == consequence
    notebook.cells[0] = solution  # a task's own fault is said once
    nbformat.write(notebook, tmp_path / "autograded/ann/9-tiny/9-tiny.ipynb")
    assert course._reasons(tmp_path, "9-tiny", "ann", points) == ([], consequence)
    assert course._reasons(tmp_path, "9-tiny", "ann", {"9.1": 3, "9.2": 3}) == ([], [])


@pytest.mark.parametrize(
    "text",
    [
        "ann\nbob\n",
        "id\nann\nbob",
        "ID\r\nann\r\nbob\r\n",
        '"id"\n"ann"\n"bob"\n',
        "Name;Id\nA. Nn;ann\nB. Ob;bob\n;\n",
        "id\tname\nann\tA\nbob\tB\n",
        "\ufeffid,name\n,\nann,A\n\n, \nbob\n",
    ],
)
def test_students_of_any_spreadsheet(tmp_path: Path, text: str) -> None:
    (tmp_path / "students.csv").write_text(text, encoding="utf-8")
    assert course.read_students(tmp_path / "students.csv") == ["ann", "bob"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["release", "DIR", "--students", "none.txt"], "No such file or directory: none.txt"),
        (
            ["release", "DIR", "--students", "empty.txt"],
            "--students: empty.txt is empty, allowed: one id a line",
        ),
        (
            ["release", "DIR", "--students", "twice.txt"],
            "--students: 'ann' is there twice, allowed: each id once",
        ),
        (
            ["release", "DIR", "--students", "dots.txt"],
            "--students: '../ann' is no id, allowed: letters, digits",
        ),
        (["release", "DIR", "--students", "table.csv"], "--students: table.csv has no column id, allowed: "),
        (["release", "DIR", "--students", "good.txt", "--labs", "7"], "--labs: is 7, allowed: 1"),
        (["release", ".", "--students", "good.txt"], "DIR: . is not empty, allowed: a new folder"),
        (["grade", "."], "DIR: . is no course, allowed: a folder made by pglearn labs release"),
        (["grade", ".", "--seconds", "nan"], "--seconds, --memory: too little for any notebook, allowed: 10"),
        (["release", "DIR"], "the following arguments are required: --students"),
        ([], "the following arguments are required: STEP"),
    ],
)
def test_one_line_for_what_is_wrong(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "empty.txt": "\n",
        "twice.txt": "ann\nann\n",
        "dots.txt": "../ann\n",
        "table.csv": "name,mail\nann,x\n",
        "good.txt": "ann\n",
    }.items():
        Path(name).write_text(text)
    assert main(["labs", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"pglearn: {line}")
    assert error.count("\n") == 1


def test_the_commands_have_help(capsys: pytest.CaptureFixture[str]) -> None:
    for step in ("release", "grade"):
        with pytest.raises(SystemExit):
            main(["labs", step, "--help"])
        assert len(capsys.readouterr().out) > 500

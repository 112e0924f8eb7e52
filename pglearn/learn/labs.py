"""The labs: what their notebooks call, and how what they tell is judged.

A submission is graded by what it *tells*: its code runs in a box (`pglearn.learn.box`) where it may do
anything to itself, so nothing that it says about its own correctness counts. A test cell tells values; they
are judged outside, against what the master notebook tells for the same student's data. `pglearn.learn.course`
makes the copies for students and grades what they hand in.
"""

import importlib
import json
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

from pglearn.learn import Wrong, same

__all__ = ["Judge", "hidden_data", "is_evidence", "lab_file", "plain", "student_data", "tell", "verdict"]

Judge = Callable[[Any, Any, dict[str, Any], dict[str, Any]], str | None]
"""`judge(told, expected, data, hidden)`: why what was told is wrong, None where right. Takes any JSON."""

ROOT = Path(__file__).parents[2]


def module(lab: int) -> ModuleType:
    """`pglearn/learn/labN.py`: TITLE, FILES, `data(seed)`, `hidden(seed)`, JUDGES, TOLERANCE."""
    return importlib.import_module(f"pglearn.learn.lab{lab}")


# ------------------------------------------------------------------------------- called by notebooks
def student_data(lab: int) -> dict[str, Any]:
    """This student's data: lab-data.json beside the notebook; without it the sample, `data(0)` of the lab,
    and a line that says so.
    """
    if found := _beside("lab-data.json"):
        return found
    print("no lab-data.json beside this notebook: sample data, nobody's own")
    return dict(plain(module(lab).data(0)))


def hidden_data(lab: int) -> dict[str, Any]:
    """Further cases for the hidden tests: hidden-data.json, there only while grading; else `hidden(0)`."""
    return _beside("hidden-data.json") or plain(module(lab).hidden(0))


def lab_file(name: str) -> Path:
    """A shipped file of data/: the copy beside the notebook; without it the repository's."""
    return Path(name) if Path(name).exists() else ROOT / "data" / name


def tell(task: str, value: Any) -> None:
    """Print the value as one line of JSON, `told 1.2: …`. Tensors and arrays become lists."""
    print(f"told {task}: {_json(value)}", flush=True)


def plain(value: Any) -> Any:
    """The value as JSON gives it back: tuples become lists, keys strings."""
    return json.loads(_json(value))


def _json(value: Any) -> str:
    return json.dumps(value, default=_listed)


def _listed(value: Any) -> Any:
    """A tensor or array as JSON takes it. Raises `TypeError` for everything else that JSON does not know."""
    if not hasattr(value, "tolist"):
        raise TypeError(
            f"{value!r:.60} is a {type(value).__name__}; lists, tuples, dicts and plain numbers are wanted"
        )
    return value.tolist()


def _beside(name: str) -> dict[str, Any] | None:
    return dict(json.loads(Path(name).read_text())) if Path(name).exists() else None


# ------------------------------------------------------------------------------ called by the grader
def told(task: str, printed: str) -> Any:
    """The value that a test cell told for the task in all that it printed. Raises `Wrong`."""
    lines = re.findall(rf"told {re.escape(task)}: (.*)", printed)
    if len(lines) != 1:
        raise Wrong("nothing was told" if not lines else "told more than once")
    try:
        return json.loads(lines[0])
    except (ValueError, RecursionError):
        raise Wrong("what was told is not JSON") from None


def verdict(lab: int, task: str, printed: str, expected: Any, data: Any, hidden: Any) -> str | None:
    """Why the cell that printed this is wrong, None where it is right: it tells what is expected, within the
    lab's TOLERANCE, or what the task's own judge takes.
    """
    try:
        value = told(task, printed)
        if judge := module(lab).JUDGES.get(task):
            reason: str | None = judge(value, expected, data, hidden)
            return reason
        return _difference(value, expected, module(lab).TOLERANCE)
    except Wrong as wrong:
        return str(wrong)
    except (Exception, RecursionError) as error:  # values of any shape come in; none may stop the grader
        return f"what was told cannot be judged ({type(error).__name__})"


def is_evidence(value: Any, classes: int, rows: int, columns: int, top: int) -> bool:
    """Whether JSON is an image's evidence: lists (classes, rows, columns) of integers from 0 to `top`."""
    return (
        isinstance(value, list)
        and len(value) == classes
        and all(isinstance(m, list) and len(m) == rows for m in value)
        and all(isinstance(row, list) and len(row) == columns for m in value for row in m)
        and all(type(x) is int and 0 <= x <= top for m in value for row in m for x in row)
    )


def _difference(value: Any, expected: Any, tolerance: float, at: str = "the answer") -> str | None:
    """Where two values first differ, and what was told there; not what is right, lest it be copied."""
    if isinstance(expected, list) and isinstance(value, list) and len(value) == len(expected):
        pairs = [(f"{at}[{i}]", v, e) for i, (v, e) in enumerate(zip(value, expected, strict=True))]
    elif isinstance(expected, dict) and isinstance(value, dict) and value.keys() == expected.keys():
        pairs = [(f"{at}[{key!r}]", value[key], expected[key]) for key in expected]
    else:
        try:
            same(value, expected, at, tolerance=tolerance)
        except Wrong:
            text = repr(value)
            return f"{at.replace('the answer[', 'answer[')} is wrong: {text[:60]}{'…' * (len(text) > 60)}"
        return None
    return next(filter(None, (_difference(v, e, tolerance, place) for place, v, e in pairs)), None)


def told_by(notebook: Path) -> dict[str, Any]:
    """Run a master as plain Python in the working directory, its data there: task -> value that it tells."""
    import nbformat

    space: dict[str, Any] = {"__name__": "__main__"}
    values = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            printed = printed_by(cell.source, space)
            if (task := tested(cell)) is not None:
                values[task] = told(task, printed)
    return values


def printed_by(source: str, space: dict[str, Any]) -> str:
    """What a cell prints, run in the name space. Asserts are left out: they speak to students, and decide
    nothing.
    """
    with redirect_stdout(StringIO()) as printed:
        exec(compile(source, "<cell>", "exec", optimize=1), space)
    return printed.getvalue()


def tested(cell: Any) -> str | None:
    """The task ("1.2") that a cell of a notebook tests by telling; None for every other cell."""
    meta = cell.metadata.get("nbgrader", {})
    return task_of(meta["grade_id"]) if meta.get("grade") and meta.get("locked") else None


def task_of(grade_id: str) -> str:
    """The task ("1.2") that nbgrader knows as "1-2"."""
    return grade_id.replace("-", ".")

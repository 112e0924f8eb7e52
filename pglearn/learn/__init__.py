"""What the book needs and the core never imports: exercise checks, and a rate with its confidence interval.

Checks of chapter N live in `pglearn/learn/chNN.py`, imported when an exercise of that chapter is checked.
"""

import copy
import importlib
import inspect
import linecache
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from pglearn.certify import rate
from pglearn.learn.progress import remember

__all__ = [
    "Exercise",
    "Wrong",
    "called",
    "check",
    "compare",
    "exercise",
    "exercises",
    "plain",
    "rate",
    "same",
    "step_and_strip",
]

Judge = Callable[[Any], None]
_registry: dict[str, "Exercise"] = {}


class Wrong(Exception):
    """Raised by a judge: the answer is not right yet, and this is why (one sentence)."""


@dataclass(frozen=True)
class Exercise:
    """One exercise: its number ("2.1"), difficulty 1–3, minutes, and the judge of an answer."""

    number: str
    stars: int
    minutes: int
    judge: Judge


def exercise(number: str, *, stars: int, minutes: int) -> Callable[[Judge], Judge]:
    """Register the decorated judge of exercise `number`: takes the answer, raises `Wrong` or returns."""

    def register(judge: Judge) -> Judge:
        _registry[number] = Exercise(number, stars, minutes, judge)
        return judge

    return register


def exercises(chapter: int | None = None) -> dict[str, Exercise]:
    """The exercises of one chapter, or of all: number → `Exercise`, in order. Empty where there are none."""
    for file in sorted(Path(__file__).parent.glob("ch*.py" if chapter is None else f"ch{chapter:02d}.py")):
        importlib.import_module(f"{__name__}.{file.stem}")
    chosen = [e for e in _registry.values() if chapter is None or e.number.startswith(f"{chapter}.")]
    return {e.number: e for e in sorted(chosen, key=lambda e: [int(part) for part in e.number.split(".")])}


def check(number: str, answer: Any) -> None:
    """Print `2.1 solved`, or `2.1 not yet: …` with the reason. Raises nothing, whatever the answer does.

    What is solved is remembered on this machine, for `pglearn progress`.
    """
    number = str(number)
    head = number.split(".")[0]
    known = exercises(int(head)) if head.isdecimal() else {}
    if number not in known:
        print(f"There is no exercise {number!r}. There are: {', '.join(known or exercises())}.")
        return
    reason = _reason(known[number].judge, answer)
    print(f"{number} solved" if reason is None else f"{number} not yet: {reason}")
    if reason is None and (trouble := remember(number)):
        print(trouble)


def _reason(judge: Judge, answer: Any) -> str | None:
    """Why the judge refuses the answer, as one line; None where it is right."""
    if answer is None:
        return _NOTHING
    try:
        judge(answer if callable(answer) else plain(answer))
    except Wrong as wrong:
        return " ".join(str(wrong).split())
    except (Exception, SystemExit) as error:
        message = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        line = _learners_line(error.__traceback__, answer)
        if line:
            return f"your code stopped with {message} {line}"
        return f"the result could not be read: {message}"
    return None


_NOTHING = "nothing returned yet"


def _learners_line(trace: TracebackType | None, answer: Any) -> str:
    """`(line 3: return a / b)`, the last line of the answer's own source that was running; "" if none was."""
    code = getattr(inspect.unwrap(answer) if callable(answer) else answer, "__code__", None)
    found = ""
    while trace is not None and code is not None:
        if trace.tb_frame.f_code.co_filename == code.co_filename != __file__:
            text = linecache.getline(code.co_filename, trace.tb_lineno).strip()
            found = f"(line {trace.tb_lineno}: {text})" if text else f"(line {trace.tb_lineno})"
        trace = trace.tb_next
    return found


def compare(
    answer: Any, reference: Callable[..., Any], cases: Iterable[tuple[Any, ...]], *, tolerance: float = 0.0
) -> None:
    """Call both functions on copies of every tuple of arguments; the first difference is the reason.

    Values are compared by `same`. A right result is refused where an argument was changed. Raises `Wrong`.
    """
    if not callable(answer):
        raise Wrong(f"expected a function, got {_short(answer)}")
    for case in cases:
        call = called(answer, case)
        expected = reference(*copy.deepcopy(case))
        given = copy.deepcopy(case)
        same(answer(*given), expected, call, tolerance=tolerance)
        for before, after in zip(case, given, strict=True):
            if isinstance(before, _CHANGEABLE) and not _equal(after, before, 0):
                raise Wrong(
                    f"{call}: the result is right, but your function changed what it was given "
                    f"to {_short(after)}; work on a copy"
                )


_CHANGEABLE = (list, dict, set, torch.Tensor, np.ndarray)


def same(got: Any, expected: Any, what: str, *, tolerance: float = 0.0) -> None:
    """Raise `Wrong` unless `got` equals `expected` in kind, shape and value (within absolute `tolerance`).

    Numbers, bools, strings, None, tensors and arrays, and lists, tuples and dicts of them. A list and a tuple
    of equal values are the same; so are an int, a float and a fraction, an array and a tensor; never a bool
    and a number. Where a list is expected, an array of its values is as good.
    """
    if got is None and expected is not None:
        raise Wrong(_NOTHING if what.startswith("for ") else f"{what}: {_NOTHING}")
    if not _equal(got, expected, tolerance):
        first = _where(got, expected, tolerance)
        wanted, given = _short(expected), _short(got)
        if wanted == given and not first:  # only the kind differs
            wanted, given = f"{_kind(expected)} {wanted}", f"{_kind(got)} {given}"
        raise Wrong(f"{what}: expected {wanted}, got {given}{first}")


def _kind(value: Any) -> str:
    of = f" of {value.dtype}" if isinstance(value, (torch.Tensor, np.ndarray)) else ""
    return f"({type(value).__name__}{of})"


def _where(got: Any, expected: Any, tolerance: float) -> str:
    """The first entry in which two large arrays of one shape differ; "" for everything else."""
    if not all(isinstance(value, (torch.Tensor, np.ndarray)) for value in (got, expected)):
        return ""
    a, b = _array(got), _array(expected)
    if a.shape != b.shape or a.size <= 16:
        return ""
    differ = np.argwhere(~np.isclose(a, b, rtol=0, atol=tolerance, equal_nan=True))
    if not len(differ):  # in kind alone
        return ""
    index = tuple(differ[0].tolist())
    return f"; first at {index}: expected {_short(b[index])}, got {_short(a[index])}"


def _equal(got: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(expected, (torch.Tensor, np.ndarray)) and np.ndim(expected) > 0:
        if not isinstance(got, (torch.Tensor, np.ndarray)):
            return False
        a, b = _array(got), _array(expected)
        if a.shape != b.shape or (a.dtype == bool) != (b.dtype == bool):
            return False
        if b.dtype.kind not in "fc" and a.dtype.kind not in "fc" and tolerance == 0:
            return bool((a == b).all())
        return bool(np.isclose(a, b, rtol=0, atol=tolerance, equal_nan=True).all())
    got, expected = plain(got), plain(expected)
    if isinstance(expected, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(got) != len(expected):
            return False
        return all(_equal(g, e, tolerance) for g, e in zip(got, expected, strict=True))
    if isinstance(expected, dict):
        if not isinstance(got, dict) or got.keys() != expected.keys():
            return False
        return all(_equal(got[key], expected[key], tolerance) for key in expected)
    if isinstance(expected, bool) or isinstance(got, bool):
        return got is expected
    if isinstance(expected, (int, float)):
        if not isinstance(got, (int, float, Fraction)):
            return False
        both_nan = math.isnan(expected) and math.isnan(got)
        return got == expected or abs(got - expected) <= tolerance or both_nan
    return type(got) is type(expected) and bool(got == expected)


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().double().numpy() if _is_float(value) else np.asarray(value)


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def plain(value: Any) -> Any:
    """Tensors, arrays and NumPy scalars as Python's lists and numbers, also inside lists and tuples."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return value.tolist()
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def called(answer: Callable[..., Any], case: tuple[Any, ...]) -> str:
    """`for (patch=5, stride=2)`: the arguments, by the names that the function has for them. Raises `Wrong`
    where it cannot take as many.
    """
    names = dict.fromkeys(range(len(case)), "")
    try:
        signature = inspect.signature(answer)
        signature.bind(*case)
        for at, parameter in enumerate(signature.parameters.values()):
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                names[at] = f"{parameter.name}="
    except TypeError as error:
        raise Wrong(f"your function cannot take {len(case)} arguments: {error}") from None
    except ValueError:
        pass  # builtins without a signature: the call itself will tell
    return f"for ({', '.join(names[at] + _short(argument) for at, argument in enumerate(case))})"


def _short(value: Any) -> str:
    """A value on one line: small tensors in full, large ones by shape."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, Iterator):
        return f"a {type(value).__name__}: make a list of it"
    if isinstance(value, (torch.Tensor, np.ndarray)):
        array = _array(value)
        if array.size > 16:
            return f"an array of shape {tuple(array.shape)}"
        return repr(array.tolist())
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:117] + "…"


def step_and_strip(answer: Any) -> tuple[int, list[int]]:
    """The answer to "which step of this proof is false, and which strip shows it": a number from 1 to 4, and
    six integers from 0 to 9. Raises `Wrong` for anything else.
    """
    if not isinstance(answer, (tuple, list)) or len(answer) != 2 or not isinstance(answer[1], (tuple, list)):
        raise Wrong("the answer is a pair: the number of a step, and a strip of six integers")
    step, row = answer
    if len(row) != 6 or not all(type(x) is int and 0 <= x <= 9 for x in row):
        raise Wrong(f"the strip has six integers from 0 to 9; yours is {list(row)!r:.60}")
    if type(step) is not int or not 1 <= step <= 4:
        raise Wrong(f"the steps are numbered 1 to 4; you name {step!r:.20}")
    return step, list(row)

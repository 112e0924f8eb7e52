"""The exercise checks: the machinery, and for every exercise several named wrong answers that must fail."""

import importlib.util
import re
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pglearn import learn
from pglearn.learn import Exercise, Wrong, check, compare, exercises, rate, same

HERE = Path(__file__).parent
CHAPTERS = sorted(int(path.stem[-2:]) for path in Path(learn.__file__).parent.glob("ch[0-9][0-9].py"))


def wrong_answers(chapter: int) -> dict[str, dict[str, Any]]:
    """`WRONG` of `tests/wrong_answers_chNN.py`: exercise → name of the mistake → answer."""
    path = HERE / f"wrong_answers_ch{chapter:02d}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.WRONG)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_wrong_answers_fail_with_a_reason(chapter: int, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = wrong_answers(chapter)
    assert list(exercises(chapter)) == list(wrong)
    assert len(wrong) >= 4
    for number, answers in wrong.items():
        assert len(answers) >= 3, number
        for mistake, answer in answers.items():
            check(number, answer)
            verdict = capsys.readouterr().out
            assert re.fullmatch(rf"{re.escape(number)} not yet: .{{15,}}\n", verdict), (mistake, verdict)
            assert "nothing returned" not in verdict, mistake
            assert "could not be read" not in verdict, (mistake, verdict)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_junk_never_passes_and_never_raises(chapter: int, capsys: pytest.CaptureFixture[str]) -> None:
    values = [0, 1, -1, "", "x", True, [], object(), torch.zeros(2, 2)]
    functions = [len, stops, lambda *_: None, lambda: 1, lambda *a: a, lambda *a: a[0]]
    for number in exercises(chapter):
        for answer in [None, *values, *functions]:
            check(number, answer)
            assert capsys.readouterr().out.startswith(f"{number} not yet: "), answer


def stops(*_: Any) -> int:
    raise SystemExit(3)


# ---------------------------------------------------------------------------------------------- the machinery
@pytest.fixture
def exercise_9(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exercise 98.1: the larger of two numbers. It lives for one test."""

    def judge(answer: Any) -> None:
        compare(answer, max, [(1, 2), (2, 1), (3, 3)])
        if answer(-1, -2) == 0:
            raise Wrong("numbers may be\nnegative")

    monkeypatch.setattr(learn, "_registry", {"98.1": Exercise("98.1", 1, 5, judge)})


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (max, "98.1 solved"),
        (lambda a, b: a if a > b else b, "98.1 solved"),
        (lambda a, b: torch.tensor(max(a, b)), "98.1 solved"),
        (None, "98.1 not yet: nothing returned yet"),
        (lambda a, b: None, "98.1 not yet: nothing returned yet"),
        (lambda a, b: a, "98.1 not yet: for (a=1, b=2): expected 2, got 1"),
        (lambda *both: both[0], "98.1 not yet: for (1, 2): expected 2, got 1"),
        (lambda a, /, b, c=0: a, "98.1 not yet: for (1, b=2): expected 2, got 1"),
        (lambda a, b: max(a, b, 0), "98.1 not yet: numbers may be negative"),
        (lambda a: a, "98.1 not yet: your function cannot take 2 arguments: too many positional arguments"),
        (3, "98.1 not yet: expected a function, got 3"),
    ],
)
def test_verdicts(exercise_9: None, answer: Any, verdict: str, capsys: pytest.CaptureFixture[str]) -> None:
    check("98.1", answer)
    assert capsys.readouterr().out == verdict + "\n"


def divides(a: int, b: int) -> float:
    return a / (b - 2)


def test_an_exception_names_the_learners_line(exercise_9: None, capsys: pytest.CaptureFixture[str]) -> None:
    check("98.1", divides)
    line = divides.__code__.co_firstlineno + 1
    assert capsys.readouterr().out == (
        "98.1 not yet: your code stopped with ZeroDivisionError: "
        f"division by zero (line {line}: return a / (b - 2))\n"
    )


def sorts(values: list[int]) -> int:
    values.sort()
    return values[0]


def zeroes(values: torch.Tensor) -> float:
    total = float(values.sum())
    values[0] = 0
    return total


@pytest.mark.parametrize(
    ("answer", "reference", "given"), [(sorts, min, [3, 1, 2]), (zeroes, torch.sum, torch.ones(2))]
)
def test_an_answer_may_not_change_what_it_is_given(answer: Any, reference: Any, given: Any) -> None:
    kept = given.copy() if isinstance(given, list) else given.clone()
    with pytest.raises(Wrong, match=r"the result is right, but your function changed what it was given"):
        compare(answer, reference, [(given,)])
    same(given, kept, "what was given")


@pytest.mark.parametrize("number", ["2.99", "99.1", "zero", 99.5])
def test_unknown_numbers_list_the_known_ones(number: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check(number, 1)
    said = capsys.readouterr().out
    assert said.startswith(f"There is no exercise '{number}'. There are: ")
    assert ("2.1" in said) == bool(exercises(2))


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (1.0, 1),
        (np.int64(3), 3),
        (np.True_, True),
        (float("nan"), float("nan")),
        ((1, [2.0, None]), [1, (2, None)]),
        ({"a": 1}, {"a": 1.0}),
        (np.arange(3), torch.arange(3)),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")])),
        ("a", "a"),
        (None, None),
        (Fraction(6, 3), 2),
        (Fraction(1, 4), 0.25),
        (torch.tensor([1, 2]), [1, 2]),
        (np.array([[1, 2], [3, 4]]), [(1, 2), (3, 4)]),
        ([np.int64(1), torch.tensor(True)], (1, True)),
        (SimpleNamespace(a=1), SimpleNamespace(a=1)),
    ],
)
def test_same(got: Any, expected: Any) -> None:
    same(got, expected, "it")


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (2, 1),
        (1, True),
        (True, 1),
        ("1", 1),
        (1, None),
        ([1, 2], [1]),
        ([1], 1),
        ({"a": 1}, {"b": 1}),
        ([1, 2], torch.tensor([1, 2])),
        (torch.zeros(1, 3), torch.zeros(3)),
        (torch.ones(3), torch.ones(3, dtype=torch.bool)),
        (torch.tensor([2**53 + 1]), torch.tensor([2**53])),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])),
        (1.01, 1.0),
        (Fraction(1, 3), 1 / 3 + 1e-9),
        (torch.tensor([1, 2]), [1, 3]),
        (torch.tensor([[1, 2]]), [1, 2]),
        (torch.tensor([1, 0]), [True, False]),
        (iter([1, 2]), [1, 2]),
        (None, 0),
    ],
)
def test_different(got: Any, expected: Any) -> None:
    with pytest.raises(Wrong, match=r"^it: "):
        same(got, expected, "it")


def test_where_only_the_kind_differs_the_kind_is_said() -> None:
    with pytest.raises(Wrong, match=r"expected \(Tensor of torch.int64\) \[1, 2\], got \(list\) \[1, 2\]"):
        same([1, 2], torch.tensor([1, 2]), "it")
    with pytest.raises(Wrong, match=r"expected \[1, 2\], got a list_iterator: make a list of it"):
        same(iter([1, 2]), [1, 2], "it")


def test_a_value_may_be_a_tensor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(learn, "_registry", {"98.1": Exercise("98.1", 1, 5, seen.append)})
    check("98.1", (np.int64(1), torch.eye(2, dtype=torch.int64)))
    assert repr(seen) == "[[1, [[1, 0], [0, 1]]]]"
    assert capsys.readouterr().out == "98.1 solved\n"


def test_tolerance() -> None:
    same(1.01, 1, "it", tolerance=0.02)
    same(torch.tensor([1.01, 2.0]), torch.tensor([1.0, 2.0]), "it", tolerance=0.02)
    with pytest.raises(Wrong):
        same(1.03, 1, "it", tolerance=0.02)


def test_rate_is_wilsons_interval() -> None:
    for hits, total in [(30, 70), (500, 1000), (900, 1000), (0, 50), (50, 50)]:
        low, high = (float(text) / 100 for text in re.findall(r"([\d.]+) %[,\]]", rate(hits, total)))
        for bound in (low, high):
            if 0 < bound < 1:  # a bound is a true share from which the count lies 1.96 standard errors away
                away = abs(hits / total - bound) / (bound * (1 - bound) / total) ** 0.5
                assert away == pytest.approx(1.96, rel=0.02)
        assert low <= hits / total <= high
    with pytest.raises(ValueError, match="is 2 of 1"):
        rate(2, 1)


def test_a_large_array_that_is_wrong_says_where():
    right = np.zeros((3, 4, 5))
    wrong = right.copy()
    wrong[1, 2, 3] = 7
    with pytest.raises(learn.Wrong, match=r"first at \(1, 2, 3\): expected 0, got 7"):
        learn.same(wrong, right, "for ()")
    with pytest.raises(learn.Wrong, match=r"\(3, 4, 5\)$"):
        learn.same(right, right.astype(bool), "for ()")

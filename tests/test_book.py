"""The book against its own rules ("A chapter" in CONTRIBUTING.md): shape, outputs, numbers, exercises."""

import ast
import csv
import io
import json
import re
import statistics
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pglearn.learn import Exercise, check, exercises
from pglearn.learn.book import LIMIT

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
CHAPTERS = (
    "00-start-here",
    "01-receptive-fields",
    "02-window-sizes",
    "03-training-a-bagnet",
    "04-robust-masking",
    "05-provable-analysis",
    "06-provable-adversarial-training",
    "07-over-sized-masks",
    "08-top-k",
    "09-many-patches",
    "10-other-aggregations",
    "11-limits",
    "12-attacks",
    "13-at-scale",
)
Cell = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One exercise as the reader sees it: three cells."""

    number: str
    stars: int
    minutes: int
    stub: str
    output: str
    hint: str
    solution: str


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def tags(cell: Cell) -> list[str]:
    return list(cell["metadata"].get("tags", []))


@cache
def notebook(name: str) -> dict[str, Any]:
    return dict(json.loads((BOOK / f"{name}.ipynb").read_text(encoding="utf-8")))


def code(name: str) -> list[Cell]:
    return [c for c in notebook(name)["cells"] if c["cell_type"] == "code"]


def prose(name: str) -> list[str]:
    return [source(c) for c in notebook(name)["cells"] if c["cell_type"] == "markdown"]


def printed(cell: Cell) -> str:
    """The text that a cell shows: streams and the text of results; not the alt text of pictures."""
    parts = []
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            parts.append("".join(output["text"]))
        elif not any(kind.startswith("image/") for kind in output.get("data", {})):
            parts.append("".join(output.get("data", {}).get("text/plain", "")))
    return "\n".join(parts)


def strip_code(markdown: str) -> str:
    """Markdown without code fences and inline code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", markdown, flags=re.S | re.M))


LABS = tuple(f"labs/{path.stem}" for path in sorted((BOOK / "labs").glob("[!.]*.ipynb")))
chapters = pytest.mark.parametrize("name", CHAPTERS)
notebooks = pytest.mark.parametrize("name", CHAPTERS + LABS)


def test_the_book_is_the_listed_chapters() -> None:
    assert sorted(path.stem for path in BOOK.glob("[!.]*.ipynb")) == sorted(CHAPTERS)
    assert (BOOK / "notation.md").is_file()


# --------------------------------------------------------------------------------- executed, as stored
@notebooks
def test_executed_top_to_bottom(name: str) -> None:
    assert [c["execution_count"] for c in code(name)] == list(range(1, len(code(name)) + 1))
    for cell in code(name):
        assert source(cell).strip(), "an empty code cell"
        failed = any(output["output_type"] == "error" for output in cell["outputs"])
        assert failed == ("raises-exception" in tags(cell)), source(cell)
        for output in cell["outputs"]:
            assert output.get("name") != "stderr" or "nbval-ignore-output" in tags(cell), source(cell)
            if output["output_type"] == "execute_result":
                assert output["execution_count"] == cell["execution_count"]
    kernel = notebook(name)["metadata"]["kernelspec"]
    assert (kernel["name"], kernel["language"]) == ("python3", "python")


@notebooks
def test_time(name: str) -> None:
    limit = 20 if name in LABS else LIMIT
    assert 0 < notebook(name)["metadata"]["pglearn"]["seconds"] <= limit


def test_time_of_all_chapters() -> None:
    assert sum(notebook(name)["metadata"]["pglearn"]["seconds"] for name in CHAPTERS) <= 8 * 60


TIME = re.compile(
    r"\*\*Time\*\* (\d+) minutes to read and run; the exercises take about (\d+) minutes more\."
)


@chapters
def test_minutes_of_the_exercises(name: str) -> None:
    stated = TIME.search(prose(name)[0])
    assert stated
    assert abs(int(stated[2]) - sum(task.minutes for task in exercises(int(name[:2])).values())) <= 2


def test_the_readme_lists_the_chapters_with_their_times() -> None:
    readme, rows, minutes, seconds = (ROOT / "README.md").read_text(encoding="utf-8"), [], [], []
    for name in CHAPTERS:
        stated = TIME.search(prose(name)[0])
        assert stated
        minutes.append(int(stated[1]))
        seconds.append(notebook(name)["metadata"]["pglearn"]["seconds"])
        title = prose(name)[0].splitlines()[0].removeprefix("# ")
        rows.append((title, name, str(minutes[-1]), str(seconds[-1])))
    table = re.findall(r"^\| \[(.+)\]\(book/(\d.+)\.ipynb\) \| .+\? \| (\d+) \| (\d+) \|$", readme, re.M)
    why = "`python -m benchmarks.times --stored` mends this"
    assert table == rows, why
    assert f"in all {sum(minutes)} minutes and {sum(seconds)} s " in readme, why


@notebooks
def test_volatile_cells_are_few_and_say_why(name: str) -> None:
    for cell in notebook(name)["cells"]:
        assert set(tags(cell)) <= {"nbval-ignore-output", "raises-exception"}
    volatile = [source(c) for c in code(name) if "nbval-ignore-output" in tags(c)]
    assert len(volatile) <= 4
    for text in volatile:
        assert re.match(r"# volatile: (timing|device|progress|training)\n", text), text


FORBIDDEN_CODE = {
    "hides from the comparison": r"(?i)nbval|pytest_validate|%%capture",
    "is not compared well": r"clear_output|@interact\b|\bOutput\(|plt\.show\(|;\s*$",
    "shell command other than pglearn": r"(?m)^\s*!(?!(torchrun .* -m )?pglearn )|%pip|%conda|%%|"
    r"subprocess|os\.system",
    "reaches for the network": r"https?://|urllib|requests\.|download=True",
    "reads real images": r"PGLEARN_DATA|ImageFolder|CIFAR10\(|Imagenette\(",
}


@notebooks
@pytest.mark.parametrize("why", FORBIDDEN_CODE)
def test_code_that_a_chapter_must_not_hold(name: str, why: str) -> None:
    for cell in code(name):
        assert not re.search(FORBIDDEN_CODE[why], source(cell)), source(cell)


@notebooks
def test_commands_succeeded(name: str) -> None:
    for cell in code(name):
        if source(cell).lstrip().startswith("!") and "raises-exception" not in tags(cell):
            assert not re.search(r"pglearn: error|Traceback|not found", printed(cell)), printed(cell)


@notebooks
def test_nothing_of_one_machine_and_nothing_remote(name: str) -> None:
    text = (BOOK / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(text) <= 2 * 2**20
    text = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"/(home|Users|root|tmp|work|mnt|var|usr)/|[A-Z]:\\\\", text)
    assert not re.search(r"(?i)(src|srcset)\s*=\s*\\?[\"']?https?:|@import|url\(\s*https?:", text)
    assert not re.search(r"ipykernel_\d", text), "a warning in a stored output"


# -------------------------------------------------------------------------------------- shape and size
@chapters
def test_shape(name: str) -> None:
    cells, text = notebook(name)["cells"], "\n\n".join(strip_code(part) for part in prose(name))
    titles = re.findall(r"^# (.+)$", text, flags=re.M)
    assert len(titles) == 1
    assert re.fullmatch(rf"{int(name[:2])} · .+", titles[0])
    assert cells[0]["cell_type"] == "markdown"
    first = source(cells[0])
    labels = r"\*\*You will be able to\*\*(.*?)\*\*You need\*\*.*\*\*Time\*\*.*\d+ minutes"
    able = re.search(labels, first, flags=re.S)
    assert able, "the first cell lacks: You will be able to, You need, Time"
    assert 3 <= len(re.findall(r"^[-*] ", able[1], flags=re.M)) <= 5
    assert "(notation.md)" in first
    headings = re.findall(r"^## (.+)$", text, flags=re.M)
    assert headings[-4:] == ["What we now know", "In the paper", "Exercises", "Next"]
    paper = text.split("\n## In the paper\n")[1].split("\n## ")[0]
    assert re.search(r"Section|Appendix|Equation|Eq\.|Figure|Table|Algorithm|Lemma", paper)


@chapters
def test_a_question_comes_before_any_formula(name: str) -> None:
    text = "\n\n".join(prose(name)[1:])
    assert "?" in text.split("$", 1)[0]


@chapters
def test_theorems_and_lemmas_are_numbered(name: str) -> None:
    bold = [found for text in prose(name) for found in re.findall(r"^> \*\*(.+?)\*\*", text, flags=re.M)]
    stated = [text for text in bold if re.match(r"Theorem|Lemma|Proposition|Corollary|Claim", text)]
    numbers = [re.match(r"(?:Theorem|Lemma) (\d+\.\d+)[ .]", text) for text in stated]
    assert [n and n[1] for n in numbers] == [f"{int(name[:2])}.{i + 1}" for i in range(len(stated))]
    loose = re.findall(r"^\*\*(?:The .*)?(?:Theorem|Lemma|Claim).*", "\n".join(prose(name)), flags=re.M)
    assert loose == [], "state it as a quotation: > **Lemma 5.2.** …"


@chapters
def test_predictions_come_before_code(name: str) -> None:
    cells = notebook(name)["cells"]
    at = [i for i, c in enumerate(cells) if c["cell_type"] == "markdown" and "**Predict.**" in source(c)]
    assert len(at) >= 2
    assert all(cells[i + 1]["cell_type"] == "code" for i in at)


@chapters
def test_size(name: str) -> None:
    text = re.sub(r"<[^>]*>", "", "\n".join(map(strip_code, prose(name))))
    words = len(re.findall(r"\w+(?:[-'’.]\w+)*", text))
    assert 1500 <= words <= 3500, words
    lines = [sum(bool(line.strip()) for line in source(c).splitlines()) for c in code(name)]
    assert 15 <= len(lines) <= 40, len(lines)
    assert 3 <= statistics.median(lines) <= 8, statistics.median(lines)
    assert max(lines) <= 30, max(lines)


@notebooks
def test_figures(name: str) -> None:
    figures = 0
    for cell in code(name):
        pictures = [o for o in cell["outputs"] if any(k.startswith("image/") for k in o.get("data", {}))]
        for output in pictures:
            figures += 1
            assert set(output["data"]) == {"image/png", "text/plain"}
            alt = output["metadata"]["image/png"]["alt"]
            assert len(alt) >= 30
            assert alt in "".join(output["data"]["text/plain"]).replace("\n", " ")
        if pictures:
            assert re.search(r"\d", printed(cell)), f"a figure without a printed number:\n{source(cell)}"
    assert name in LABS or 4 <= figures <= 10, figures
    for text in map(strip_code, prose(name)):
        assert not re.search(r"!\[|<img|<svg|<iframe|<script", text)


@notebooks
def test_colors_are_those_of_the_book(name: str) -> None:
    drawn = "\n".join(map(source, code(name)))
    literals = re.findall(r"\bc(?:olor|map)s?=[\"']([^\"']+)|[\"'](#\w+|C\d|tab:\w+)[\"']", drawn)
    grays = re.compile(r"white|black|none|gr[ae]ys?|#(\w\w)\1\1")
    assert [a or b for a, b in literals if not grays.fullmatch(a or b)] == []


@notebooks
def test_formulas_stand_between_dollars(name: str) -> None:
    for text in map(strip_code, prose(name)):
        rest = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", text, flags=re.S)
        assert "$" not in rest, text
        assert not re.search(r"\\[A-Za-z]+", rest), text


# -------------------------------------------------------------------------------------- what is claimed
STATED = re.compile(r"^> \*\*(Theorem|Lemma) (\d+\.\d+)\b", flags=re.M)


def statements(name: str) -> list[tuple[str, str, str]]:
    """Theorems and lemmas of a chapter: kind, number, and the prose from there to the next one."""
    text = "\n\n".join(prose(name))
    found = list(STATED.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)][: len(found)]
    return [(match[1], match[2], text[match.end() : end]) for match, end in zip(found, ends, strict=True)]


@chapters
def test_what_is_stated_is_proved(name: str) -> None:
    found = statements(name)
    assert [number for _, number, _ in found] == [f"{int(name[:2])}.{i + 1}" for i in range(len(found))]
    assert found or name == "00-start-here"
    for kind, number, after in found:
        assert re.search(r"^\*{1,2}Proof\b", after, flags=re.M), f"{kind} {number}"


@notebooks
def test_theorems_and_chapters_that_are_named_exist(name: str) -> None:
    stated = {(kind, number) for chapter in CHAPTERS for kind, number, _ in statements(chapter)}
    text = "\n".join(prose(name))
    for kind, named in re.findall(r"\b(Theorem|Lemma)s? (\d+\.\d+(?:(?:, | and | or )\d+\.\d+)*)", text):
        assert {(kind, number) for number in re.findall(r"\d+\.\d+", named)} <= stated, named
    numbers = [int(n) for n in re.findall(r"\b[Cc]hapters? (\d+)\b(?! of the paper)", text)]
    assert set(numbers) <= set(range(len(CHAPTERS)))
    for number, linked in re.findall(r"\[[Cc]hapter (\d+)[^\]]*\]\((?:\.\./)?(\d\d)-", text):
        assert int(number) == int(linked)


@chapters
def test_the_next_chapter_is_the_next(name: str) -> None:
    following = dict(pairwise(CHAPTERS)).get(name)
    after = "\n\n".join(prose(name)).split("\n## Next\n")[1]
    assert following is None or re.findall(r"\]\((\d\d-[^)]+)\.ipynb\)", after)[0] == following


@pytest.mark.parametrize("chapter", [1, 2, 4, 5, 10])
def test_explorers_are_where_dragging_teaches(chapter: int) -> None:
    assert "from pglearn.learn.explorers import " in "\n".join(map(source, code(CHAPTERS[chapter])))


@chapters
def test_loops_come_before_the_library(name: str) -> None:
    tree = ast.parse(re.sub(r"(?m)^(\w+ = )?!.*$", "", "\n".join(map(source, code(name)))))
    assert any(isinstance(node, (ast.For, ast.While, ast.comprehension)) for node in ast.walk(tree))
    used = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {m for m in used if m and m.startswith("pglearn")} - {"pglearn.learn", "pglearn.figures"}


# ------------------------------------------------------------------------------------ numbers in prose
NUMBER = r"(?<![\w.,])\d[\d,]*(?:\.\d+)?"
SPAN = rf"{NUMBER}(?:\s*(?:–|-|to|and|or)\s*\d[\d,]*(?:\.\d+)?)?"
GIVEN = r"(?!\s*<!-- given -->)"
COUNTED = {
    "percent": rf"({SPAN})\s*(?:%|per ?cent\b|percentage points?\b){GIVEN}",
    "images": rf"({SPAN})\s+(?:[a-z-]+\s+){{0,2}}images?\b{GIVEN}",
    "of": rf"({NUMBER}\s+(?:out )?of\s+(?:the |all )?\d[\d,]*+)(?!\.\d){GIVEN}",
    "time": rf"({SPAN})\s*(?:µs|ms|s|seconds?|min|minutes?|h|hours?)(?![\w²]){GIVEN}",
    "factor": rf"({SPAN})\s*(?:×|x|times)\s+(?:as|faster|slower|more|less|fewer|smaller|larger){GIVEN}",
}
IN_WORDS = (
    r"(?i)\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)"
    r"(?:-\w+)? (?:%|per ?cent)|\b(?:hundred|thousand|million)s?(?: of)? (?:\w+ )?images\b"
)


def values(text: str) -> list[Decimal]:
    return [Decimal(found.replace(",", "").rstrip(".")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def plain(markdown: str) -> str:
    """Markdown as it reads: no code, of formulas only numbers and percentages, no line with reading time."""
    text = re.sub(r"\*\*Time\*\*.*?(?=\n\n|\Z)", "", strip_code(markdown), flags=re.S)
    text = re.sub(r"^##+ (Exercise|Task|Question) .*$", "", text, flags=re.M)
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", formula, text, flags=re.S)
    return text.replace("**", "").replace("\N{NO-BREAK SPACE}", " ")


def formula(match: re.Match[str]) -> str:
    """The text of a formula where it is a number or holds a percentage, else a word that stands for it."""
    text = re.sub(r"\\[,;:! ]|~|\$", " ", match[0]).replace("{,}", ",")
    is_number = re.fullmatch(r"[\d.,\s]*", text)
    return text.replace("\\%", "%") if is_number or "\\%" in text else " formula "


def results(markdown: str) -> list[tuple[str, Decimal]]:
    """Every number in prose that reads as a result: (kind, value)."""
    text, found = plain(markdown), []
    for kind, pattern in COUNTED.items():
        for match in re.finditer(pattern, text):
            found += [("images" if kind == "of" else kind, value) for value in values(match[1])]
    for row in re.findall(r"^\s*\|.*\|\s*$", text, flags=re.M):
        decimals = re.findall(rf"(?<![\w.])\d++\.\d++(?![\w.]){GIVEN}", row)
        found += [("table", Decimal(cell)) for cell in decimals]
    return found


def evidence_for(outputs: list[str]) -> dict[str, set[Decimal]]:
    """The numbers that outputs print, by the kind of result they can stand for."""
    every = "\n".join(outputs)
    with_images = "\n".join(text for text in outputs if re.search(r"(?i)image", text))

    def before(unit: str) -> set[Decimal]:
        return {value for number in re.findall(rf"({NUMBER})\s*{unit}", every) for value in values(number)}

    return {
        "percent": before(r"(?:%|percent)"),
        "images": set(values(with_images)),
        "time": before(r"(?:µs|ms|s|seconds?|min|minutes?|h|hours?)\b"),
        "factor": before(r"(?:×|x|times)(?!\w)"),
        "table": set(values(every)),
    }


@cache
def papers_numbers() -> set[Decimal]:
    """Every number in the CSVs of `data/paper`."""
    found = set()
    for path in (ROOT / "data" / "paper").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                found |= {Decimal(cell) for cell in row if re.fullmatch(r"\d+(\.\d+)?", cell)}
    return found


def unsupported(markdown: str, outputs: list[str], paper: set[Decimal]) -> list[tuple[str, Decimal]]:
    """Results in prose that neither a cell printed nor, for rates, the paper states."""
    known = evidence_for(outputs)
    return [
        (kind, value)
        for kind, value in results(markdown)
        if value not in known[kind] and not (kind in ("percent", "table") and value in paper)
    ]


@notebooks
def test_numbers_in_prose_were_printed(name: str) -> None:
    outputs = [printed(cell) for cell in code(name)]
    for text in prose(name):
        assert unsupported(text, outputs, papers_numbers()) == [], text
        assert not re.search(IN_WORDS, strip_code(text)), text
    assert sum(text.count("<!-- given -->") for text in prose(name)) <= 12


def test_the_glossary_states_no_results() -> None:
    assert results((BOOK / "notation.md").read_text(encoding="utf-8")) == []


@notebooks
def test_rates_carry_their_interval(name: str) -> None:
    for cell in code(name):
        for line in printed(cell).splitlines():
            total = re.search(r"\bof (\d[\d,]*)\b.*%", line)
            if total and values(total[1])[0] < 10_000:
                assert re.search(r"\[\s*[\d.]+\s*%?\s*,\s*[\d.]+\s*%?\s*\]", line), line


@pytest.mark.parametrize(
    ("markdown", "wanting"),
    [
        ("We get 83.9 % here.", ["83.9"]),
        ("We get **83.9** percent and 47.3% robust.", ["83.9", "47.3"]),
        (r"so $83.9\,\%$ remain", ["83.9"]),
        ("between 12–15 % of them", ["12", "15"]),
        ("On 1,000 test images", ["1000"]),
        ("312 of 1,000 survive", ["312", "1000"]),
        ("It takes 12 s, or 3 minutes", ["12", "3"]),
        ("which is 120× faster", ["120"]),
        ("| Mask-BN | 83.9 |", ["83.9"]),
        ("A patch of 2 %<!-- given --> of `99 %` and $3 \\times 3$ cells, stride 8, T = 0.1", []),
        ("**Time** 45 minutes; the cells take 20 s\n\nwell", []),
        ("### Exercise 2.1 · Back · ★★☆ · 10 minutes", []),
        ("```\n50 % of 10 images\n```", []),
        ("312 of 1000<!-- given -->, $w = 2s$, and $n s - r + 1 = 30$ hold", []),
        ("a set of $1{,}000$ images", ["1000"]),
    ],
)
def test_the_search_for_numbers(markdown: str, wanting: list[str]) -> None:
    assert sorted(str(value) for _, value in results(markdown)) == sorted(wanting)
    assert len(unsupported(markdown, ["nothing"], set())) == len(wanting)


def test_the_search_for_numbers_accepts_what_was_printed() -> None:
    outputs = ["certified: 312 of 1000 images, 31.2 % [28.4 %, 34.1 %]", "in 12 s, 120× faster"]
    said = "31.2 % (312 of 1,000 images) in 12 s, 120× faster than the paper's 47.3 %"
    assert unsupported(said, outputs, {Decimal("47.3")}) == []
    assert unsupported("31.3 % of 313 images in 13 s", outputs, set()) != []
    assert unsupported("312 %", outputs, set()) == [("percent", Decimal(312))]


# ------------------------------------------------------------------------------------- links and words
@notebooks
def test_links(name: str) -> None:
    text = "\n".join(map(strip_code, prose(name)))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:", link)]
    anchors = {slug(heading) for heading in headings_of_notation()}
    for link in links:
        path, _, anchor = link.partition("#")
        assert not path or (BOOK / name).parent.joinpath(path).exists(), link
        assert Path(path).name != "notation.md" or not anchor or anchor in anchors, link
    assert name in LABS or sum(link.startswith("notation.md#") for link in links) >= 3


def headings_of_notation() -> list[str]:
    return re.findall(r"^#+ (.+?)\s*$", (BOOK / "notation.md").read_text(encoding="utf-8"), flags=re.M)


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_glossary() -> None:
    terms = set(map(slug, headings_of_notation()))
    assert terms >= {
        "evidence",
        "window",
        "patch",
        "malicious-window",
        "mask",
        "detection-threshold",
        "certified",
        "clean-accuracy",
        "provable-robust-accuracy",
        "margin",
        "receptive-field",
    }


# ------------------------------------------------------------------------------------------- exercises
HEADING = re.compile(r"^### Exercise (\d+\.\d+) · (.+) · (★{1,3}☆{0,2}) · (\d+) minutes?$", flags=re.M)
FOLDED = r"<details>\s*<summary>{}</summary>\n\n(.*?)\n\n</details>"


def tasks(name: str) -> dict[str, Task]:
    """The exercises of a chapter; fails where one is not made of its three cells."""
    cells, found = notebook(name)["cells"], {}
    at = [i for i, c in enumerate(cells) if c["cell_type"] == "markdown" and "### Exercise" in source(c)]
    for i in at:
        heading = HEADING.match(source(cells[i]))
        assert heading, source(cells[i]).splitlines()[0]
        assert len(heading[3]) == 3
        number, stub, after = heading[1], cells[i + 1], source(cells[i + 2])
        assert (stub["cell_type"], cells[i + 2]["cell_type"]) == ("code", "markdown"), number
        hint, solution = (re.search(FOLDED.format(what), after, flags=re.S) for what in ("Hint", "Solution"))
        assert hint, f"{number}: no folded hint"
        assert solution, f"{number}: no folded solution"
        fenced = re.search(r"^```python\n(.*?)^```", solution[1], flags=re.S | re.M)
        assert fenced, f"{number}: no code in the solution"
        assert "```" not in hint[1], f"{number}: the hint holds code"
        stars, minutes = heading[3].count("★"), int(heading[4])
        found[number] = Task(number, stars, minutes, source(stub), printed(stub).strip(), hint[1], fenced[1])
    assert len(found) == len(at), "a number twice"
    return found


@chapters
def test_exercises_are_complete(name: str) -> None:
    written = tasks(name)
    judged: dict[str, Exercise] = exercises(int(name[:2]))
    assert len(written) >= 4
    assert list(written) == list(judged)
    assert list(written) == [f"{int(name[:2])}.{i}" for i in range(1, len(written) + 1)]
    for number, task in written.items():
        assert (task.stars, task.minutes) == (judged[number].stars, judged[number].minutes), number
        assert re.fullmatch(rf'check\("{re.escape(number)}", \w+\)', task.stub.splitlines()[-1]), number
        assert task.output == f"{number} not yet: nothing returned yet"
        assert len(task.hint.split()) >= 5, number


def solved(name: str) -> Iterator[tuple[str, Any]]:
    """Each exercise of a chapter, and what its solution hands to the check."""
    setup: dict[str, Any] = {}
    exec(compile(source(code(name)[0]), f"{name}: first code cell", "exec"), setup)
    for number, task in tasks(name).items():
        space = dict(setup)
        exec(compile(task.solution, f"{name}: solution {number}", "exec"), space)
        target = ast.parse(task.stub.splitlines()[-1], mode="eval").body.args[1].id  # type: ignore[attr-defined]
        yield number, space[target]


@chapters
def test_solutions_pass_and_spoilt_solutions_do_not(name: str) -> None:
    for number, answer in solved(name):
        assert verdict(number, answer) == f"{number} solved"
        constants = [lambda _: 0, lambda _: "0", lambda _: True, lambda _: False]
        for spoil in [plus_one, negate, *constants] if callable(answer) else constants:
            assert verdict(number, spoilt(answer, spoil)).startswith(f"{number} not yet: "), number


@chapters
def test_solutions_pass_with_results_of_another_style(name: str) -> None:
    """NumPy's numbers and arrays for Python's: whoever computes with arrays need not convert."""
    for number, answer in solved(name):
        assert verdict(number, spoilt(answer, in_numpy)) == f"{number} solved"


def in_numpy(value: Any) -> Any:
    """The value with NumPy's numbers, and with arrays for flat lists of numbers."""
    if isinstance(value, (list, tuple)):
        numbers = len(value) > 0 and all(type(each) in (int, float) for each in value)
        return np.array(value) if numbers else [in_numpy(each) for each in value]
    if isinstance(value, dict):
        return {key: in_numpy(each) for key, each in value.items()}
    return np.array(value)[()] if isinstance(value, (bool, int, float)) else value


def verdict(number: str, answer: Any) -> str:
    text = io.StringIO()
    with redirect_stdout(text):
        check(number, answer)
    return text.getvalue().strip()


def spoilt(answer: Any, spoil: Any) -> Any:
    """The answer with its result changed."""
    if not callable(answer):
        return spoil(answer)

    def wrong(*args: Any, **kwargs: Any) -> Any:
        return spoil(answer(*args, **kwargs))

    return wrong


def plus_one(value: Any) -> Any:
    """One more, in the first number of a result; True and False swapped."""
    if isinstance(value, (list, tuple)):
        return type(value)([plus_one(value[0]), *value[1:]]) if value else [0]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return not value
    if isinstance(value, dict):
        return {**value, "more": 1}
    return ~value if "bool" in str(getattr(value, "dtype", "")) else value + 1


def negate(value: Any) -> Any:
    """The result turned round: reversed, or its sign changed with one taken away (so that 0 changes too)."""
    if isinstance(value, (list, tuple)):
        return [*value, *value, 0]
    if isinstance(value, (bool, str, dict)) or value is None:
        return [value]
    return ~value if "bool" in str(getattr(value, "dtype", "")) else -value - 1

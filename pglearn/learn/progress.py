"""Which exercises a reader has solved: a folder of the reader's own, with one empty file for each.

A file is there or not: nothing to lock between kernels, to lose in a crash, or to read wrongly; and whatever
else lies in the folder is left alone.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pglearn.learn import Exercise

__all__ = ["folder", "forget", "remember", "report", "solved", "table"]

BOOK = Path(__file__).parents[2] / "book"


def folder() -> Path:
    """`$PGLEARN_PROGRESS`, or `pglearn/solved` where this system keeps a user's data."""
    if chosen := os.environ.get("PGLEARN_PROGRESS"):
        return Path(chosen)
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME", ""))
        if not data.is_absolute():  # as the standard asks
            data = Path.home() / ".local" / "share"
    return data / "pglearn" / "solved"


def remember(number: str) -> str | None:
    """Remember exercise `number` as solved. Never raises: why it could not, in one line, else None."""
    try:
        file = folder() / number
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        return f"not remembered for `pglearn progress`: {' '.join(str(error).split())}"
    return None


def solved() -> set[str]:
    """The names of all files in the folder: exercises, and what else lies there. Raises `OSError`."""
    place = folder()
    return {path.name for path in place.iterdir()} if place.exists() else set()


def forget(numbers: set[str]) -> None:
    """Take these exercises out of the folder. Raises `OSError`."""
    for number in numbers:
        (folder() / number).unlink(missing_ok=True)


def report(exercises: Mapping[str, "Exercise"], done: set[str]) -> dict[str, Any]:
    """Chapter by chapter what is solved and what is open, and the first open exercise with its notebook."""
    chapters: dict[str, list[Exercise]] = {}
    for number, task in exercises.items():
        chapters.setdefault(number.split(".")[0], []).append(task)
    rows: list[dict[str, Any]] = [
        {
            "chapter": int(chapter),
            "notebook": notebook(int(chapter)),
            "solved": [task.number for task in tasks if task.number in done],
            "open": [task.number for task in tasks if task.number not in done],
            "stars": sum(task.stars for task in tasks if task.number in done),
            "stars_in_all": sum(task.stars for task in tasks),
            "minutes_open": sum(task.minutes for task in tasks if task.number not in done),
        }
        for chapter, tasks in chapters.items()
    ]
    following = next(({"exercise": r["open"][0], "notebook": r["notebook"]} for r in rows if r["open"]), None)
    return {"schema": "pglearn.progress/1", "folder": str(folder()), "chapters": rows, "next": following}


def notebook(chapter: int) -> str:
    """The notebook of a chapter, such as `book/02-window-sizes.ipynb`; its number where there is no book."""
    found = [f"book/{path.name}" for path in BOOK.glob(f"{chapter:02d}-*.ipynb")]
    return found[0] if found else f"chapter {chapter}"


def table(found: Mapping[str, Any], exercises: Mapping[str, "Exercise"]) -> str:
    """A report to be read: a line for each chapter, the sums, and what comes next."""
    rows = [("chapter", "solved", "stars", "minutes left", "open")]
    sums = [0, 0, 0, 0, 0]
    for row in found["chapters"]:
        done, still = len(row["solved"]), len(row["open"])
        counts = [done, done + still, row["stars"], row["stars_in_all"], row["minutes_open"]]
        sums = [a + b for a, b in zip(sums, counts, strict=True)]
        rows.append((Path(row["notebook"]).stem, *_counts(counts), " ".join(row["open"]) or "-"))
    rows.append(("all", *_counts(sums), ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:4], widths[1:4]), row[4]]).rstrip()
        for row in rows
    ]
    if found["next"]:
        task = exercises[found["next"]["exercise"]]
        about = f"{task.stars} of 3 stars, {task.minutes} minutes"
        lines += ["", f"Next: exercise {task.number} in {found['next']['notebook']} ({about})"]
    else:
        lines += ["", "Every exercise of the book is solved."]
    return "\n".join(lines)


def _counts(counts: list[int]) -> tuple[str, str, str]:
    return f"{counts[0]}/{counts[1]}", f"{counts[2]}/{counts[3]}", str(counts[4])

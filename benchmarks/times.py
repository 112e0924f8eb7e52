"""The run times of the book, in the README's table of chapters.

From the root: ``python -m benchmarks.times`` runs every chapter, stores its outputs, and writes the table;
``--stored`` only writes the table, from what the notebooks say.
"""

import argparse
import json
import os
import re
from pathlib import Path

from pglearn.learn.book import execute

ROOT = Path(__file__).parents[1]


def times(chapter: Path) -> tuple[int, int]:
    """Minutes to read, from the first cell; seconds that it took to run, from the metadata."""
    notebook = json.loads(chapter.read_text(encoding="utf-8"))
    minutes = re.search(r"\*\*Time\*\* (\d+) minutes", "".join(notebook["cells"][0]["source"]))
    assert minutes, chapter
    return int(minutes[1]), notebook["metadata"]["pglearn"]["seconds"]


def write(chapters: list[Path], cores: int | None) -> None:
    """Put the times into the README's table of chapters, and their sums below it; with ``cores`` where they
    were measured now.
    """
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    found = {chapter: times(chapter) for chapter in chapters}
    edits = [
        (rf"^(\| \[.*\]\(book/{chapter.name}\) \|.*\|) *\d* \| *\d* \|$", rf"\1 {minutes} | {seconds} |")
        for chapter, (minutes, seconds) in found.items()
    ]
    sums = [sum(column) for column in zip(*found.values(), strict=True)]
    edits.append((r"in all \d+ minutes and \d+ s ", f"in all {sums[0]} minutes and {sums[1]} s "))
    if cores:
        edits.append((r"\bon \d+ CPU cores?\b", f"on {cores} CPU core{'s' * (cores > 1)}"))
    for pattern, new in edits:
        text, count = re.subn(pattern, new, text, flags=re.M)
        assert count == 1, (pattern, count)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stored", action="store_true", help="run nothing")
    stored = parser.parse_args().stored
    chapters = sorted((ROOT / "book").glob("[0-9][0-9]-*.ipynb"))
    for chapter in [] if stored else chapters:
        print(f"{chapter.name}: {execute(chapter)} s", flush=True)
    write(chapters, None if stored else os.cpu_count())


if __name__ == "__main__":
    main()

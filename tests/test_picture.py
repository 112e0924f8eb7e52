"""The picture at the head of the README."""

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.picture import PICTURE, picture

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def again() -> tuple[Figure, str]:
    return picture()


def test_the_picture_made_again_says_the_same(again: tuple[Figure, str]) -> None:
    figure, words = again
    with Image.open(PICTURE) as shipped:
        assert shipped.info["Description"] == words, "run `make picture`"
        assert shipped.width >= 1600
    assert re.findall(r"!\[([^\]]*)\]\(book/picture\.png\)", README) == [words], "run `make picture`"
    written = " ".join(ax.get_title() + " " + ax.get_xlabel() for ax in figure.axes)
    assert set(re.findall(r"\d+", words)) == set(re.findall(r"\d+", written))


def test_it_shows_what_the_book_is_about(again: tuple[Figure, str]) -> None:
    _, words = again
    true, wrong, said = re.findall(r"A (\w+) with|all evidence says (\w+)|defense says (\w+)", words)
    assert true[0] == said[2] != wrong[1]
    proved, places = re.findall(r"at (\d+) of (\d+) places", words)[0]
    assert proved == places
    assert int(re.findall(r"leads by (\d+)", words)[0]) > 0


def test_the_first_screen_of_the_readme() -> None:
    head = README.split("\n## ")[0]
    for part in ("](book/picture.png)", "\nmake book ", "\nmake test ", "\n| test images | paper: clean |"):
        assert part in head
    assert len(head.split("](")[0].splitlines()) <= 10
    assert len(head.splitlines()) <= 32

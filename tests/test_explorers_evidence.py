"""The explorers of certificates and of the trade-off: their numbers, and their use in JupyterLab."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import oracle
import pytest
from lab_browser import Lab, drag, needs_chromium, round_trips, running_lab, summary

from pglearn.certify import certify
from pglearn.errors import InputError
from pglearn.evidence import EvidenceFile
from pglearn.geometry import touched
from pglearn.learn.explorers import certificate, tradeoff
from pglearn.learn.explorers.certificate import EDGE, GRID, GRID_TOP, HEAD, NAMES, PATCH, ZOOM
from pglearn.learn.explorers.tradeoff import ROW, TOP
from pglearn.reports import measure, read
from pglearn.shapes import CLASSES

ROOT = Path(__file__).parents[1]
CERTIFIED, LOST, MISREAD = 1, 85, 82  # images of the bank


# ------------------------------------------------------------------------------------------- certificate
@pytest.mark.parametrize("index", [CERTIFIED, LOST, MISREAD])
def test_bounds_are_those_of_the_definitions(index: int) -> None:
    explorer = certificate(index=index)
    maps = [m.flatten().tolist() for m in explorer.units[0]]
    masks = oracle.placements(5, 5, 16, 16)
    top = explorer.defense.transform.top
    for place in [(0, 0), (4, 9), (11, 11), explorer.worst]:
        explorer.row, explorer.column = place
        window = oracle.rectangle(*place, 5, 5, 16)
        upper = {c: oracle.upper(m, window, masks, Fraction(0), top) for c, m in enumerate(maps)}
        assert explorer.least == oracle.lower(maps[explorer.label], window, masks, Fraction(0))
        assert explorer.most == list(upper.values())
        del upper[explorer.label]
        assert explorer.most[explorer.rival] == max(upper.values())
        assert explorer.margin == explorer.least - max(upper.values())
        assert explorer.margin == explorer.margins[explorer.row][explorer.column]


def test_worst_windows_and_verdicts_are_those_of_certify() -> None:
    explorer = certificate()
    found = certify(explorer.bank.maps, explorer.bank.labels, explorer.defense, [explorer.windows])
    assert [bool(found.certified[i]) for i in (CERTIFIED, LOST, MISREAD)] == [True, False, False]
    assert not found.clean[MISREAD]
    for explorer.index in [CERTIFIED, LOST, MISREAD, 999]:
        explorer.push("go")
        assert [explorer.row, explorer.column] == found.worst[explorer.index, :2].tolist()
        assert explorer.margin == found.margin_units[explorer.index]
        said = explorer.summary()
        assert said.startswith(f"Image {explorer.index}, {CLASSES[explorer.bank.labels[explorer.index]]}.")
        assert (
            ("is certified" in said)
            == ("no patch here wins" in said)
            == bool(found.certified[explorer.index])
        )


def test_the_window_is_drawn_where_its_cells_look_and_the_patch_touches_them_all() -> None:
    explorer = certificate()
    rows = explorer.bank.geometry.rows
    for at in range(12):
        left, top, side = explorer._square(at, 11 - at)
        inset = (side - PATCH * ZOOM) / 2
        assert touched(rows, int((top + inset - HEAD) / ZOOM), PATCH) == (at, at + 5)
        assert touched(rows, int((left + inset - EDGE) / ZOOM), PATCH) == (11 - at, 16 - at)
        explorer.drag(0, left + side / 2 + 9, top + side / 2 - 9)
        assert (explorer.row, explorer.column) == (at, 11 - at)


def test_what_a_reader_does_moves_the_window_and_never_over_the_border() -> None:
    explorer = certificate(index=LOST, row=3, column=4)
    for key, shift, place in (
        ("ArrowDown", False, (4, 4)), ("ArrowRight", True, (4, 8)), ("ArrowRight", True, (4, 11)),
        ("ArrowUp", True, (0, 11)), ("ArrowLeft", False, (0, 10)), ("w", False, (8, 4)),
    ):  # fmt: skip
        explorer._answer(None, {"what": "key", "arguments": [0, key, shift]}, None)
        assert (explorer.row, explorer.column) == place
    explorer._answer(
        None, {"what": "press", "arguments": [2, NAMES + 2.5 * GRID, GRID_TOP + 6.5 * GRID]}, None
    )
    assert (explorer.row, explorer.column) == (6, 2)
    explorer._answer(None, {"what": "press", "arguments": [2, NAMES, HEAD]}, None)  # on the bars: nothing
    assert (explorer.row, explorer.column) == (6, 2)
    explorer._answer(None, {"what": "drag", "arguments": [0, -500, 9000]}, None)
    assert (explorer.row, explorer.column) == (11, 0)
    explorer.index = 5000
    assert explorer.index == 999


# --------------------------------------------------------------------------------------------- trade-off
def test_the_table_is_the_one_that_make_results_writes() -> None:
    explorer, rows = tradeoff(), read(ROOT / "data" / "tradeoff.csv")
    line = re.search(r"pglearn compare (.*) --out data/tradeoff.csv", (ROOT / "Makefile").read_text())
    assert line
    options = {name: values.split() for name, values in re.findall(r"--(\S+) ([^-]+)", line[1])}
    assert options["patch"] == [f"{side}x{side}" for side in explorer.sides]
    assert options["top-k"] == [str(k) for k in explorer.ks]
    assert len(options["defense"]) == len(explorer.defenses)
    assert explorer.banks == [path.stem[:-5] for path in sorted((ROOT / "data").glob("*-bank.safetensors"))]
    assert len(rows) == len(explorer.banks) * len(explorer.defenses) * len(explorer.sides) * len(explorer.ks)
    said = re.search(r"([\d,]+) rows", sys.modules[tradeoff.__module__].__doc__ or "")
    assert said
    assert int(said[1].replace(",", "")) == len(rows)


def test_its_rows_are_what_certify_counts() -> None:
    rows = [replace(row, seconds=0) for row in read(ROOT / "data" / "tradeoff.csv")]
    shipped = [replace(row, seconds=0) for row in read(ROOT / "data" / "results.csv")]
    assert set(shipped) <= set(rows)  # what tests/test_reports.py counts again
    for number, data in enumerate(dict.fromkeys(row.data for row in rows)):  # and of each bank another row
        row = [row for row in rows if row.data == data and row.patch != "1x1"][31 * number % 150]
        file = EvidenceFile(ROOT / "data" / f"{data}.safetensors")
        shape = tuple(map(int, row.patch.split("x")))
        found = measure(file, shape, "patch", f"{row.defense}:{row.transform}", row.top_k)  # type: ignore[arg-type]
        assert replace(found, seconds=0) == row


def test_a_row_counted_by_hand() -> None:
    """Votes of bands, window by window, from the fields: 9 columns meet 16 of 64 bands."""
    explorer = tradeoff(bank="shapes-ds", defense="vote × prediction", patch=9, k=2)
    bank = EvidenceFile(ROOT / "data" / "shapes-ds-bank.safetensors").load()
    assert bank.labels is not None
    met = [  # the bands of 8 columns that a patch meets, by its first column
        [j for j in range(64) if {(j + i) % 64 for i in range(8)} & set(range(start, start + 9))]
        for start in range(64 - 9 + 1)
    ]
    clean = certified = 0
    for maps, label in zip(bank.maps[:, :, 0].tolist(), bank.labels.tolist(), strict=True):
        cells = [oracle.votes(list(cell), 0.2, float(bank.unit or 1)) for cell in zip(*maps, strict=True)]
        votes = [sum(each) for each in zip(*cells, strict=True)]
        leads = []
        for owned in met:
            lost = [sum(each) for each in zip(*(cells[j] for j in owned), strict=True)]
            kept = [a - b for a, b in zip(votes, lost, strict=True)]
            leads.append(kept.pop(label) - sorted(kept)[-2] - len(owned))
        clean += votes.pop(label) > sorted(votes)[-2]
        certified += min(leads) > 0
    assert (explorer.result().clean, explorer.result().certified) == (clean, certified)
    assert f"certified {certified} of 1000 images" in explorer.summary()


def test_what_a_reader_does_chooses_what_there_is() -> None:
    explorer = tradeoff(patch=7)  # to one that there is
    assert explorer.patch == 5
    for panel, key, state in (
        (0, "ArrowRight", ("mask × logits", 9, 1)), (0, "ArrowUp", ("mask × logits", 9, 2)),
        (0, "ArrowDown", ("mask × logits", 9, 1)), (0, "ArrowDown", ("mask × logits", 9, 1)),
        (1, "ArrowDown", ("mask × confidence", 9, 1)), (1, "ArrowUp", ("mask × logits", 9, 1)),
    ):  # fmt: skip
        explorer._answer(None, {"what": "key", "arguments": [panel, key, False]}, None)
        assert (explorer.defense, explorer.patch, explorer.k) == state
    for panel, x, y, state in ((0, 700, 0, ("mask × logits", 25)), (1, 9, 300, ("clip × tanh", 25))):
        explorer._answer(None, {"what": "press", "arguments": [panel, x, y]}, None)
        assert (explorer.defense, explorer.patch) == state
    explorer._answer(None, {"what": "change", "arguments": ["place", 1]}, None)
    assert explorer.patch == 5
    with pytest.raises(InputError, match="bank: is 'imagenet', allowed: cifar10-ds, "):
        explorer.bank = "imagenet"
    assert explorer.bank in explorer.banks


def test_what_is_said_of_the_others_is_true() -> None:
    explorer = tradeoff()
    for bank, defense, patch in product(explorer.banks, explorer.defenses, explorer.sides):
        explorer.bank, explorer.defense, explorer.patch = bank, defense, patch
        counts = {name: explorer.result(name).certified for name in explorer.defenses}
        most, last = max(counts.values()), explorer.summary().splitlines()[-1]
        if last == "No defense here certifies any image.":
            assert most == 0
        elif last == "No other defense here certifies more.":
            assert 0 < counts[defense] == most
        else:
            named = re.match(r"Most is certified by (.+?): (\d+) of", last)
            assert named
            assert counts[defense] < counts[named[1]] == most == int(named[2])


@pytest.mark.parametrize("explorer", [certificate(), tradeoff()], ids=["certificate", "tradeoff"])
def test_without_a_kernel_there_is_a_picture_with_its_words(explorer: Any) -> None:
    data, about = explorer._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"] == about["image/png"]["alt"] == explorer.alt()
    assert len(explorer.alt().split()) > 20
    for panel, key in product(explorer.picture["panels"], ("marks", "label")):
        assert panel[key]


# ------------------------------------------------------------------------------- in JupyterLab, in Chromium
@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running
        assert running.foreign == []


def opened(lab: Lab, name: str) -> Any:
    return lab.open(name, f"from pglearn.learn.explorers import {name}\n{name}()")


def says(page: Any, explorer: Any) -> None:
    """The text line in the browser is that of an explorer in the same state here."""
    for line in explorer.summary().splitlines():
        summary(page, line)


@needs_chromium
def test_certificate_by_mouse_and_by_keyboard(lab: Lab) -> None:
    page = opened(lab, "certificate")
    here, image = certificate(), page.locator(".pg-explorer canvas").first
    says(page, here)
    drag(page, image, (0.6, 0.6), (0.3, 0.3), (0.9, 0.2))  # the pointer is the window's middle
    here.drag(0, 0.9 * 336, 0.2 * 352)
    says(page, here)
    page.get_by_role("button", name="worst window").click()
    here.push("go")
    says(page, here)
    assert here.margin < 0
    places = [(0.28 + 0.3 * (i % 2), 0.2 + 0.14 * (i % 5)) for i in range(31)]
    took(page, image, places, ["ArrowDown", "ArrowUp"] * 10)
    here.drag(0, 0.28 * 336, 0.2 * 352)

    keys = page.keyboard  # from here on without the mouse
    tab_to(page, "[name=index]")
    keys.press("Control+A")
    keys.type("1")
    says(page, here := certificate(index=CERTIFIED, row=here.row, column=here.column))
    tab_to(page, "[name=go]")
    keys.press("Enter")
    here.push("go")
    says(page, here)
    summary(page, "The image is certified.")
    tab_to(page, "canvas")
    for key, shift in (("ArrowUp", True), ("ArrowLeft", False), ("ArrowLeft", False)):
        keys.press(f"Shift+{key}" if shift else key)
        here.key(0, key, shift)
    says(page, here)
    page.close()


@needs_chromium
def test_tradeoff_by_mouse_and_by_keyboard(lab: Lab) -> None:
    page = opened(lab, "tradeoff")
    here, curves = tradeoff(), page.locator(".pg-explorer canvas").first
    says(page, here)
    drag(page, curves, (0.3, 0.5), (0.5, 0.5), (0.99, 0.5))
    here.patch = 25
    says(page, here)
    page.locator(".pg-explorer canvas").nth(1).click(position={"x": 50, "y": TOP + 1.5 * ROW})
    here.defense = "mask × confidence"
    says(page, here)
    page.locator(".pg-explorer [name=bank]").select_option("cifar10-ds")
    here.bank = "cifar10-ds"
    says(page, here)
    places = [((0.12, 0.4, 0.95, 0.25, 0.6)[i % 5], 0.5) for i in range(31)]
    keys = ["ArrowRight"] * 6 + ["ArrowLeft"] * 6 + ["ArrowUp"] * 4 + ["ArrowDown"] * 4
    took(page, curves, places, keys)

    tab_to(page, "[name=bank]")
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    says(page, here := tradeoff(bank="imagenette-margin", defense="mask × confidence", patch=1))
    tab_to(page, "[name=place]")
    page.keyboard.press("End")
    here.patch = 25
    says(page, here)
    tab_to(page, "canvas")
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
        here.key(0, key, False)
    says(page, here)
    tab_to(page, "canvas:nth-of-type(2)")
    page.keyboard.press("ArrowUp")
    here.defense = "mask × logits"
    says(page, here)
    page.close()


def took(page: Any, canvas: Any, places: list[tuple[float, float]], keys: list[str]) -> None:
    """Print the time from an event to its picture; the bound is for a busy machine, the aim is 100 ms."""
    line = round_trips(page, canvas, places, keys)
    print(line)
    assert int(line.split()[4]) < 400


def tab_to(page: Any, what: str) -> None:
    """Press Tab until the focus is on it, and visible."""
    for _ in range(40):
        if page.evaluate("what => document.activeElement.matches(`.pg-explorer ${what}`)", what):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{what}: not reached by Tab")

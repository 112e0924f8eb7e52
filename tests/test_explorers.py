"""The explorers of chapters 1, 2 and 4: their numbers against slow ways, and all of them in a browser."""

import base64
import json
import os
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from lab_browser import Lab, drag, needs_chromium, round_trips, running_lab, summary
from traitlets import TraitError

from pglearn.errors import InputError
from pglearn.geometry import Layer, receptive_field
from pglearn.learn.book import execute
from pglearn.learn.explorers import fields, masking, windows
from pglearn.learn.explorers.base import COLORS, Explorer

EXPLORERS = {"fields": fields, "windows": windows, "masking": masking}
CELL = "from pglearn.learn.explorers import {0}\n\nexplorer = {0}()"
each = pytest.mark.parametrize("name", EXPLORERS)


def tell(explorer: Explorer, what: str, *arguments: Any) -> None:
    """An event as the browser sends it."""
    explorer._handle_custom_msg({"what": what, "arguments": list(arguments)}, [])


# ----------------------------------------------------------------------------------------- the base
@each
def test_a_picture_is_plain_data_with_known_colors(name: str) -> None:
    picture = json.loads(json.dumps(EXPLORERS[name]().picture))
    assert picture["summary"]
    assert picture["hint"]
    for panel in picture["panels"]:
        assert panel["label"]
        for mark in panel["marks"]:
            assert {mark.get(key) or "ink" for key in ("fill", "stroke", "color")} <= set(COLORS)


@each
def test_every_event_is_answered_with_one_picture(name: str) -> None:
    explorer = EXPLORERS[name]()
    seen: list[int] = []
    explorer.observe(lambda change: seen.append(change.new["number"]), "picture")
    events: list[tuple[Any, ...]] = [
        ("press", 0, 150.0, 150.0),
        ("drag", 0, 151.0, 150.0),
        ("drag", 0, -9e4, 9e4),
    ]
    events += [("key", 0, key, shift) for key in ("ArrowLeft", "ArrowRight") for shift in (False, True)]
    for event in events:
        tell(explorer, *event)
    assert seen == list(range(2, 2 + len(events)))
    for control in explorer.picture["controls"]:
        if control["kind"] in ("range", "number"):
            for value in (control["low"], control["high"], control["value"]):
                tell(explorer, "change", control["name"], value)
    tell(explorer, "still")  # not an event
    assert explorer.picture["number"] == seen[-1]


@each
def test_without_a_kernel_a_still_picture_is_left(name: str, tmp_path: Path) -> None:
    data, about = EXPLORERS[name]()._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert about["image/png"]["alt"] == data["text/plain"]
    assert len(data["text/plain"]) >= 100
    width, height = struct.unpack(">2I", data["image/png"][16:24])
    assert width in range(500, 1100)
    assert height in range(300, 700)


def test_the_stored_notebook_holds_the_still_and_compares_equal(tmp_path: Path) -> None:
    code = f"{CELL.format('masking')}\nprint(explorer.summary())\nexplorer"
    path = tmp_path / "one.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), path)
    execute(path)
    stored = nbformat.read(path, as_version=4)
    (printed, shown) = stored.cells[0].outputs
    assert set(shown.data) == {"image/png", "text/plain"}
    assert shown.metadata["image/png"]["alt"] == shown.data["text/plain"] == masking().alt()
    assert base64.b64decode(shown.data["image/png"])[:4] == b"\x89PNG"
    assert "widgets" not in stored.metadata
    assert printed.text == masking().summary() + "\n"
    compare = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "nbval.plugin",
        "--nbval",
        "--nbval-current-env",
        path,
    ]
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for text, good in ((shown.data["text/plain"], True), ("another picture", False)):
        shown.data["text/plain"] = text
        nbformat.write(stored, path)
        done = subprocess.run(compare, cwd=tmp_path, env=alone, capture_output=True, check=False)
        assert (done.returncode == 0) == good, done.stdout.decode()


def test_importing_learn_imports_no_widgets() -> None:
    code = "import sys, pglearn.learn; print({'anywidget', 'ipywidgets', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"


# ----------------------------------------------------------------------------------------- (a) fields
STACKS = [
    [[3, 1, 0]],
    [[3, 1, 0], [3, 1, 4]],
    [[1, 2, 0], [3, 1, 1]],
    [[3, 1, 0], [3, 2, 0], [3, 1, 0]],
    [[3, 1, 1], [2, 2, 0], [5, 1, 2]],
    [[1, 1, 0], [1, 3, 1], [3, 1, 0]],
    [[4, 2, 1], [3, 1, 1], [2, 1, 0], [1, 2, 0], [2, 1, 1]],
]


def walks(layers: list[list[int]], cell: int) -> Counter[int]:
    """How many ways lead from the cell down to each place below, one step at a time."""
    places = Counter({cell: 1})
    for kernel, stride, padding in reversed(layers):
        below: Counter[int] = Counter()
        for place, ways in places.items():
            for tap in range(kernel):
                below[place * stride - padding + tap] += ways
        places = below
    return places


def counted(layers: list[list[int]], image: int, cell: int) -> dict[int, int]:
    """How much of each pixel arrives in the cell through kernels of ones: its gradient."""
    pixels = torch.zeros(1, 1, image, requires_grad=True)
    cells = pixels
    for kernel, stride, padding in layers:
        cells = torch.nn.functional.conv1d(cells, torch.ones(1, 1, kernel), stride=stride, padding=padding)
    (slope,) = torch.autograd.grad(cells[0, 0, cell], pixels)
    return {pixel: int(count) for pixel, count in enumerate(slope[0, 0].tolist()) if count}


@pytest.mark.parametrize("layers", STACKS, ids=str)
def test_fields_against_walks_and_gradients(layers: list[list[int]]) -> None:
    for cell in range(receptive_field([Layer(*layer) for layer in layers], 24).cells):
        explorer = fields(layers=layers, image=24, cell=cell)
        found, ways = explorer.axis, walks(layers, cell)
        assert found.fields[cell] == (min(ways), max(ways) + 1)
        pixels = counted(layers, 24, cell)
        assert explorer.reached[0] == pixels
        text = explorer.summary()
        assert f"field: {max(ways) - min(ways) + 1} pixels" in text
        assert f"{found.cells} cell" in text
        if not pixels:
            assert "sees no pixel" in text
            continue
        assert f"sees pixels {min(pixels)} to {max(pixels)}" in text
        gaps = max(pixels) - min(pixels) + 1 - len(pixels)
        assert (f"but for {gaps} between them" in text) == (gaps > 0)
        beyond = sum(not 0 <= pixel < 24 for pixel in range(*found.fields[cell]))
        assert (f"; {beyond} of its field" in text) == (beyond > 0)
        if max(pixels) - min(pixels) < 15:
            line = [pixels.get(pixel, 0) for pixel in range(min(pixels), max(pixels) + 1)]
            assert text.endswith(f"Attention counts: {', '.join(map(str, line))}.")


def test_fields_that_do_not_fit_are_said() -> None:
    explorer = fields(layers=[[5, 3, 0]] * 5, image=20)
    assert explorer.summary() == "Image: 20 pixels are too few for layer 3, whose kernel covers 5 cells."
    assert explorer.picture["panels"]
    assert explorer.still()
    with pytest.raises(InputError):
        _ = explorer.axis
    tell(explorer, "change", "depth", 2)
    assert "field: 17 pixels, stride 9" in explorer.summary()


def test_fields_controls_and_limits() -> None:
    explorer = fields()
    tell(explorer, "change", "stride 1", 2)
    assert explorer.layers == [[3, 1, 0], [3, 2, 0], [3, 1, 0]]
    assert "field: 9 pixels, stride 2" in explorer.summary()
    tell(explorer, "change", "depth", 5)
    assert len(explorer.layers) == explorer.value("depth") == 5
    explorer.layers = [[99, 0, -1]]
    assert explorer.layers == [[5, 1, 0]]
    explorer.cell = 99
    assert explorer.cell == explorer.axis.cells - 1


# ---------------------------------------------------------------------------------------- (b) windows
@pytest.mark.parametrize("resized", ["not resized", "enlarged twice, bilinear", "enlarged twice, bicubic"])
@pytest.mark.parametrize(("r", "s", "padding"), [(5, 3, 0), (3, 4, 0), (9, 2, 4), (1, 1, 0), (4, 8, 2)])
def test_windows_against_white_paint(r: int, s: int, padding: int, resized: str) -> None:
    """Paint the patch white, resize, and look which fields hold anything that is not black."""
    import torch
    import torch.nn.functional as F

    explorer, kind = windows(r=r, s=s, padding=padding, resized=resized), resized.rpartition(" ")[2]
    for height in (1, 4, 9, 20):
        counts = []
        for top in range(20 - height + 1):
            image = torch.zeros(1, 1, 20, 20, dtype=torch.float64)
            image[:, :, top : top + height] = 1
            if kind != "resized":
                image = F.interpolate(image, scale_factor=2, mode=kind, align_corners=False).abs()
            painted = F.unfold(image, r, padding=padding, stride=s).amax((0, 1)) > 1e-9
            side = explorer.axis.cells
            met = painted.view(side, side).any(1).nonzero().flatten().tolist()
            explorer.height, explorer.top = height, top
            first, stop = explorer.here[0]
            exact = list(range(first, stop))
            assert met == exact if kind == "resized" else set(met) <= set(exact)  # weights of zero count
            counts.append(stop - first)
        assert explorer.most[0] == max(counts)
        scale = 1 if kind == "resized" else 2
        assert explorer.eq1[0] == -(-(scale * height + r - 1) // s)
        if kind == "resized":
            assert explorer.most[0] <= explorer.eq1[0]


def test_windows_say_where_eq1_fails() -> None:
    explorer = windows()
    assert "touches 2 x 3 features" in explorer.summary()
    assert explorer.summary().endswith("At its worst place: 3 x 3. Eq. 1 is exact: some place reaches it.")
    explorer.resized = "enlarged twice, bicubic"
    assert explorer.eq1 == (4, 4)
    assert explorer.most == (6, 6)
    assert "too small" in explorer.summary()
    explorer.resized, explorer.width = "not resized", 20
    assert "⌈(4 + 5 − 1) / 3⌉ = 3 by ⌈(20 + 5 − 1) / 3⌉ = 8" in explorer.summary()
    assert "larger than any place" in explorer.summary()


def test_windows_hold_the_patch_on_the_image() -> None:
    explorer = windows()
    tell(explorer, "press", 0, 66 + 18 * 7.5, 66 + 18 * 9.5)  # one right and one down of the patch's corner
    tell(explorer, "drag", 0, 66 + 18 * 2.5, 66 + 18 * 1.5)
    assert (explorer.top, explorer.left, explorer.height, explorer.width) == (0, 1, 4, 4)
    tell(explorer, "press", 0, 66 + 18 * 5, 66 + 18 * 4)  # its lower right corner
    tell(explorer, "drag", 0, 66 + 18 * 50, 66 + 18 * 2)
    assert (explorer.top, explorer.left, explorer.height, explorer.width) == (0, 1, 2, 19)
    tell(explorer, "key", 0, "ArrowRight", False)
    assert explorer.left == 1
    explorer.width = 100
    assert (explorer.left, explorer.width) == (0, 20)


# ---------------------------------------------------------------------------------------- (c) masking
def masked_by_hand(cells: list[list[int]], w: int, hundredths: int) -> tuple[int, int]:
    """(evidence in the heaviest window, score), by loops."""
    total = sum(map(sum, cells))
    places = product(range(len(cells) - w + 1), range(len(cells[0]) - w + 1))
    heaviest = max(sum(sum(line[j : j + w]) for line in cells[i : i + w]) for i, j in places)
    return heaviest, total - heaviest if 100 * heaviest > hundredths * total else total


def test_masking_against_loops() -> None:
    explorer = masking(written=[])
    spots = [(1, 0, 4, 9), (1, 5, 0, 9), (0, 2, 2, 0), (1, 1, 4, 7), (0, 0, 0, 9), (1, 0, 4, 2)]
    for label, row, column, value in spots:
        tell(explorer, "press", label, 10 + 41 * (column + 0.5), 34 + 41 * (row + 0.5))
        tell(explorer, "key", label, str(value), False)
        assert explorer.units[0, label, row, column] == value
        for explorer.w, explorer.T in product((1, 2, 3, 6), (0, 10, 29, 30, 50, 99)):
            scores = explorer.defense.scores(explorer.units)[0].tolist()
            for cells, score, mask in zip(explorer.units[0].tolist(), scores, explorer.masks, strict=True):
                heaviest, expected = masked_by_hand(cells, explorer.w, explorer.T)
                assert (mask[2], score) == (heaviest, expected)
                window = [
                    line[mask[1] : mask[1] + explorer.w] for line in cells[mask[0] : mask[0] + explorer.w]
                ]
                assert sum(map(sum, window)) == heaviest
                assert mask[3] == (score < sum(map(sum, cells)))
            assert (
                ", ".join(f"{n} {s}" for n, s in zip(explorer.names, scores, strict=True))
                in explorer.summary()
            )
    assert explorer.owned == (0, 0, 6, 5)
    tell(explorer, "push", "restore")
    assert explorer.units[0].tolist() == explorer.honest
    assert "honest" in explorer.summary()


def test_a_state_that_cannot_be_drawn_is_not_kept() -> None:
    explorer = masking()
    for state in ({"honest": [*explorer.honest, explorer.honest[0]]}, {"written": [[1, 2, 3]]}):
        (name,) = state
        before = getattr(explorer, name)
        with pytest.raises((IndexError, ValueError)):
            setattr(explorer, name, state[name])
        assert getattr(explorer, name) == before
    for cells in ([[0.5] * 6] * 6, [[-1] * 6] * 6):
        with pytest.raises(TraitError):
            explorer.honest = [cells, cells]
    answers = explorer.picture["number"]
    tell(explorer, "press", 0, 100.0, 100.0)
    assert explorer.picture["number"] > answers
    explorer.honest = [[[1, 2], [3, 4]], [[0, 1], [1, 0]]]  # what was written there lies outside
    assert explorer.written == []


def test_masking_says_what_it_compares() -> None:
    explorer = masking(honest=[[[1, 1], [1, 0]], [[0, 0], [0, 0]]], written=[], w=1, T=33)
    texts = [mark["text"] for mark in explorer.picture["panels"][0]["marks"] if mark["kind"] == "text"]
    assert "heaviest: 1 > 0.33 · 3: masked" in texts


def test_masking_writes_and_restores() -> None:
    explorer = masking(written=[])
    tell(explorer, "press", 1, 10 + 41 * 2.5, 34 + 41 * 2.5)
    tell(explorer, "drag", 1, 10 + 41 * 3.5, 34 + 41 * 2.5)
    tell(explorer, "drag", 1, -5.0, -5.0)  # outside: nothing
    assert explorer.written == [[1, 2, 2, 9], [1, 2, 3, 9]]
    tell(explorer, "press", 1, 10 + 41 * 2.5, 34 + 41 * 2.5)
    assert explorer.written == [[1, 2, 3, 9]]
    tell(explorer, "press", 1, 5.0, 5.0)  # outside, after a press that restored: a drag from there writes
    tell(explorer, "drag", 1, 10 + 41 * 0.5, 34 + 41 * 0.5)
    assert explorer.written == [[1, 2, 3, 9], [1, 0, 0, 9]]
    tell(explorer, "press", 1, 10 + 41 * 0.5, 34 + 41 * 0.5)
    explorer.row, explorer.column = 2, 2
    for key, written in ((" ", 2), (" ", 1), ("4", 2), ("Backspace", 1), ("Enter", 2)):
        tell(explorer, "key", 0, key, False)
        assert len(explorer.written) == written, key
    explorer.written = [[0, 2, 2, 9], [1, 2, 3, 9]]
    assert explorer.summary().endswith("fits into one window of 2 x 2, as the mask expects.")
    explorer.w = 1
    assert explorer.summary().endswith("needs a window of 1 x 2: more than the mask expects.")


# -------------------------------------------------------------------------------------- in JupyterLab
@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab
        assert lab.foreign == [], "something was asked of another host"


def opened(lab: Lab, name: str) -> Any:
    return lab.open(name, CELL.format(name) + "\nexplorer")


def tab_to(page: Any, locator: Any) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if locator.evaluate("element => element === document.activeElement"):
            outline = "element => getComputedStyle(element).outlineStyle"
            assert locator.evaluate(outline) == "solid", "the focus cannot be seen"
            return
    raise AssertionError("not reached by Tab")


def start_of_keys(page: Any) -> None:
    """Put the focus before the explorer, as a reader who comes from above."""
    page.evaluate(
        """() => { const start = document.createElement("button");
        document.querySelector(".pg-explorer").before(start); start.focus(); }"""
    )


def took(page: Any, canvas: Any, places: list[tuple[float, float]], keys: list[str]) -> None:
    """Print and bound the time from an event to its picture; the bound is for a busy machine."""
    line = round_trips(page, canvas, places, keys)
    print(line)
    assert int(line.split()[4]) < 400


@needs_chromium
def test_fields_in_the_browser(lab: Lab) -> None:
    page = opened(lab, "fields")
    wires = page.locator("canvas").first
    summary(page, "field: 7 pixels, stride 1, offset 0; 7 cells")
    drag(page, wires, (0.5, 0.1), (0.95, 0.1))
    summary(page, "Cell 6 sees pixels 6 to 12.")
    page.locator("input[name='kernel 0']").fill("5")
    summary(page, "field: 9 pixels, stride 1, offset 0; 5 cells")
    start_of_keys(page)
    tab_to(page, page.locator("input[name='depth']"))
    page.keyboard.press("ArrowRight")
    summary(page, "field: 11 pixels")
    tab_to(page, page.locator("input[name='stride 1']"))
    page.keyboard.press("ArrowUp")
    summary(page, "Image: 13 pixels are too few for layer 4, whose kernel covers 3 cells.")
    tab_to(page, page.locator("input[name='padding 1']"))
    page.keyboard.press("ArrowUp")
    summary(page, "field: 15 pixels, stride 2, offset -1; 1 cell a side")
    page.locator("input[name='image']").press("End")
    summary(page, "14 cells")
    tab_to(page, wires)
    page.keyboard.press("ArrowRight")
    summary(page, "Cell 1 sees pixels 1 to 15")
    took(page, wires, [(0.2 + 0.6 * (i % 2), 0.2) for i in range(27)], ["ArrowRight", "ArrowLeft"] * 12)


@needs_chromium
def test_windows_in_the_browser(lab: Lab) -> None:
    page = opened(lab, "windows")
    pixels, (wide, high) = page.locator("canvas").first, (442, 442)

    def at(row: float, column: float) -> tuple[float, float]:
        return (66 + 18 * column) / wide, (66 + 18 * row) / high

    summary(page, "Patch of 4 by 4 pixels at row 8, column 6: touches 2 x 3 features.")
    drag(page, pixels, at(9.5, 7.5), at(10.5, 8.5))
    summary(page, "row 9, column 7: touches 3 x 3 features")
    drag(page, pixels, at(13, 11), at(15, 20))
    summary(page, "Patch of 6 by 13 pixels at row 9, column 7: touches 3 x 5 features")
    page.locator("select[name=resized]").select_option("enlarged twice, bicubic")
    summary(page, "Eq. 1 is too small")
    start_of_keys(page)
    tab_to(page, page.locator("input[name='r']"))
    page.keyboard.press("Home")
    summary(page, "⌈(2 · 6 + 1 − 1) / 3⌉ = 4")
    tab_to(page, page.locator("select[name=resized]"))
    page.keyboard.press("Home")
    summary(page, "⌈(6 + 1 − 1) / 3⌉ = 2")
    tab_to(page, pixels)
    for key in ("ArrowUp", "ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowUp"):
        page.keyboard.press(key)
    summary(page, "Patch of 5 by 12 pixels at row 8, column 6: touches 2 x 4 features.")
    assert page.locator(".jp-CodeCell").count() == 1
    took(page, pixels, [at(8.5 + i % 2, 6.5 + i % 2) for i in range(27)], ["ArrowRight", "ArrowLeft"] * 12)


@needs_chromium
def test_masking_in_the_browser(lab: Lab) -> None:
    page = opened(lab, "masking")
    truth, rival = page.locator("canvas").first, page.locator("canvas").last

    def at(row: int, column: int) -> tuple[float, float]:
        return (10 + 41 * (column + 0.5)) / 266, (34 + 41 * (row + 0.5)) / 392

    summary(page, "Sums: true class 48, rival 65 (rival wins). Scores with T = 0.00: true class 34, rival 29")
    drag(page, rival, at(0, 3), at(0, 2))
    summary(page, "Sums: true class 48, rival 82")
    summary(page, "needs a window of 2 x 4")
    page.get_by_role("button", name="restore all").click()
    summary(page, "Sums: true class 48, rival 30 (true class wins)")
    start_of_keys(page)
    tab_to(page, page.locator("input[name='w']"))
    page.keyboard.press("ArrowRight")
    summary(page, "Scores with T = 0.00: true class 22")
    tab_to(page, page.locator("input[name='T']"))
    page.keyboard.press("End")
    summary(page, "Scores with T = 0.99: true class 48, rival 30")
    tab_to(page, page.locator("input[name='pen']"))
    page.keyboard.press("ArrowLeft")
    tab_to(page, truth)
    tab_to(page, rival)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    summary(page, "rival 38")
    page.keyboard.press("5")
    summary(page, "rival 35")
    page.keyboard.press("Backspace")
    summary(page, "rival 30")
    took(page, rival, [at(i // 6, i % 6) for i in range(15)], [*"123456789"] * 4)

"""The site (`make site`): built once, crawled, and every page opened in Chromium."""

import functools
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest

WANTING = "Sphinx or Playwright not found: pip install -r requirements.txt"
pytest.importorskip("sphinx_book_theme", reason=WANTING)
axe = pytest.importorskip("axe_playwright_python", reason=WANTING)

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "book").glob("[!.]*.ipynb"))
LIMIT = 60
"""Seconds that the build may take."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` builds it: any warning of Sphinx fails it."""
    build = tmp_path_factory.mktemp("build")
    recipe = re.search(r"\$\(BIN\)/python (-m sphinx .*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert recipe
    command = [sys.executable, *shlex.split(recipe[1].replace(" build/", f" {build}/"))]
    assert {"-E", "-n", "-W", "--keep-going"} <= set(command)
    begin, used = time.perf_counter(), sum(os.times()[2:4])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    wall, processor = time.perf_counter() - begin, sum(os.times()[2:4]) - used
    print(f"site: {wall:.0f} s, {processor:.0f} s of them on a processor")
    if done.returncode or done.stderr:
        pytest.fail(done.stderr, pytrace=False)
    assert min(wall, processor or wall) < LIMIT
    return build / "site"


@dataclass
class Page(HTMLParser):
    """What a page names and what it links to."""

    text: str
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, pairs: list[tuple[str, str | None]]) -> None:
        attributes = dict(pairs)
        self.tags.append((tag, attributes))
        self.ids |= {value for key in ("id", "name") if (value := attributes.get(key))}
        if tag == "a" and attributes.get("href"):
            self.links.append(str(attributes["href"]))
        elif tag != "a":
            self.loads += [value for key in ("src", "href", "data") if (value := attributes.get(key))]


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    files = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    return {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in files}


def test_every_chapter_is_a_page(pages: dict[str, Page]) -> None:
    assert {f"book/{path.stem}.html" for path in CHAPTERS} <= set(pages)
    assert {f"book/{name}.html" for name in ("index", "notation", "api")} <= set(pages)


def test_no_broken_link(site: Path, pages: dict[str, Page]) -> None:
    wrong = []
    for name, page in pages.items():
        assert [x for x in page.loads if re.match(r"(https?:)?//", x)] == [], f"{name} loads from the network"
        for link in page.links + page.loads:
            if urlsplit(link).scheme:
                continue
            path, _, anchor = unquote(urljoin(name, link)).partition("#")
            path = path.partition("?")[0] or name
            fine = (site / path).is_file() and (not anchor or path not in pages or anchor in pages[path].ids)
            wrong += [] if fine else [f"{name}: {link}"]
    assert wrong == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_figures_statements_and_exercises_have_numbers(path: Path, pages: dict[str, Page]) -> None:
    page, notebook = pages[f"book/{path.stem}.html"], json.loads(path.read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    alts = [o["metadata"]["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})]
    assert [attributes.get("alt") for tag, attributes in page.tags if tag == "img"] == alts
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    stated = re.findall(r"^(?:> \*\*|### )((?:Theorem|Lemma|Exercise) \d+\.\d+)", text, flags=re.M)
    figures = [f"Figure {int(path.name[:2])}.{i + 1}" for i in range(len(alts))]
    assert {re.sub(r"\W", "-", name.lower()) for name in stated + figures} <= page.ids
    assert len(stated) >= 4


# ------------------------------------------------------------------------------------------ in a browser
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def tab(address: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium not found: apt-get install chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


@pytest.fixture(scope="module")
def faults(site: Path, pages: dict[str, Page], address: str, tab: Any) -> dict[str, list[str]]:
    """Every page is opened once, light and dark, wide and narrow: what is wrong, by kind."""
    found: dict[str, list[str]] = {kind: [] for kind in ("requests", "mathematics", "width", "looks", "axe")}
    name = ""
    script = Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8")

    def response(answer: Any) -> None:
        if answer.status >= 400:
            found["requests"].append(f"{name}: {answer.status} {answer.url}")

    def request(asked: Any) -> None:
        if not asked.url.startswith((address, "data:")):
            found["requests"].append(f"{name}: {asked.url}")

    tab.on("response", response)
    tab.on("request", request)
    tab.on("pageerror", lambda error: found["looks"].append(f"{name}: {error}"))
    begin = time.perf_counter()
    for name in sorted(set(pages) - {"index.html"}):
        tab.emulate_media(color_scheme="light", reduced_motion="reduce")
        tab.goto(f"{address}/{name}", wait_until="load")
        for kind, fault in tab.evaluate(LOOK):
            found[kind].append(f"{name}: {fault}")
        for width in (390, 1280):
            tab.set_viewport_size({"width": width, "height": 900})
            if (wide := tab.evaluate("document.documentElement.scrollWidth")) > width:
                found["width"].append(f"{name}: {wide} px wide at {width} px")
        tab.evaluate(script)
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            tab.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
            for rule, node in tab.evaluate(AXE, scheme == "light"):
                found["axe"].append(f"{name}, {scheme}: {rule} at {node}")
    print(f"{len(pages)} pages in Chromium: {time.perf_counter() - begin:.0f} s")
    return found


LOOK = r"""async () => {
    const faults = [], article = document.querySelector("article") ?? document.body;
    const formulas = article.querySelectorAll(".math").length;
    if (formulas) await MathJax.startup.promise;
    if (article.querySelectorAll("mjx-container").length < formulas)
        faults.push(["mathematics", `${formulas} formulas, fewer are typeset`]);
    for (const e of article.querySelectorAll("mjx-merror, [data-mjx-error]"))
        faults.push(["mathematics", e.parentElement.textContent]);
    const plain = article.cloneNode(true);
    plain.querySelectorAll("pre, code, script, .sig, mjx-container").forEach(e => e.remove());
    for (const raw of plain.textContent.match(/\\[a-zA-Z(\[]+|\$|\*\*|\]\(|```|&[a-z]+;|\|.*\|.*\|/g) ?? [])
        faults.push(["looks", `raw ${raw}`]);
    for (const e of article.querySelectorAll("img"))
        if (!e.alt.trim() || !e.naturalWidth) faults.push(["looks", `no alt, or no picture: ${e.src}`]);
    for (const e of article.querySelectorAll("details"))
        if ([...e.children].slice(1).some(x => x.checkVisibility())) faults.push(["looks", "open details"]);
    return faults;
}"""
AXE = """async everything => {
    // Thousands of colored words cost axe minutes: of each kind one stays, and contrast asks one only.
    const kinds = new Map(), name = e => e.tagName + e.className;
    const kind = e => [e, e.parentElement, e.parentElement.parentElement].map(name).join();
    const leaves = [...document.querySelectorAll("body *")].filter(e => !e.children.length);
    for (const e of leaves.filter(e => e.checkVisibility())) {
        if (kinds.has(kind(e)) && e.closest("pre, .sig, mjx-container")) e.remove();
        else kinds.set(kind(e), e);
    }
    const runs = [await axe.run([...kinds.values()], {runOnly: ["color-contrast"], preload: false})];
    // "region" is moderate, and slow.
    const rest = {"color-contrast": {enabled: false}, "region": {enabled: false}};
    if (everything) runs.push(await axe.run({rules: rest, preload: false}));
    const found = runs.flatMap(run => run.violations);
    const grave = found.filter(v => ["serious", "critical"].includes(v.impact));
    return grave.flatMap(v => v.nodes.map(n => [v.id, n.target.join(" ")]));
}"""


@pytest.mark.parametrize("kind", ["requests", "mathematics", "width", "looks", "axe"])
def test_pages_in_chromium(kind: str, faults: dict[str, list[str]]) -> None:
    assert faults[kind] == []


def test_solutions_fold_out_with_their_code(address: str, tab: Any) -> None:
    tab.goto(f"{address}/book/05-provable-analysis.html")
    solution = tab.locator("details", has_text="Solution").first
    code = solution.locator("div.highlight-python")
    assert not code.first.is_visible()
    solution.locator("summary").press("Enter")
    code.first.wait_for(state="visible")


def test_search_finds(address: str, tab: Any) -> None:
    tab.goto(f"{address}/search.html?q=malicious+window")
    # hits are shown one after the other
    tab.wait_for_selector("#search-results ul.search li a[href*='book/notation.html']")


def test_code_can_be_copied_and_notebooks_downloaded(address: str, tab: Any) -> None:
    tab.goto(f"{address}/book/02-window-sizes.html")
    assert tab.locator("div.highlight button.copybtn").count() >= 15
    href = tab.locator("a[href$='02-window-sizes.ipynb']").first.get_attribute("href")
    assert tab.request.get(urljoin(tab.url, href)).json()["cells"]


def test_the_top_leads_into_the_book(address: str, tab: Any) -> None:
    tab.goto(address)
    tab.wait_for_url(f"{address}/book/index.html")

"""JupyterLab in a real browser: a server on a free port, Chromium, notebooks whose cells are run."""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SERVER = Path(__file__).parents[1] / "book" / "_server"  # the settings of `make book`
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium not found: apt-get install chromium (or brew install --cask chromium)"
)


class Lab:
    """A running JupyterLab and a browser to look at it; ``foreign`` holds what was asked of other hosts."""

    def __init__(self, folder: Path, url: str, browser: Any) -> None:
        self.folder, self.url, self.browser = folder, url, browser
        self.foreign: list[str] = []

    def open(self, name: str, *cells: str, width: int = 1280, dark: bool = False) -> Any:
        """A page with a new notebook of that name, its cells run, the first explorer on it drawn."""
        import nbformat

        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.folder / f"{name}.ipynb")
        page = self.browser.new_page(viewport={"width": width, "height": 1000})
        page.set_default_timeout(60_000)
        page.on("request", self._note)
        page.goto(f"{self.url}/doc/workspaces/{name}/tree/{name}.ipynb")
        page.wait_for_selector(".jp-CodeCell")
        kernel = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
        page.wait_for_function(f"{kernel}?.status === 'idle' && {kernel}.connectionStatus === 'connected'")
        command = "([id, options]) => { window.jupyterapp.commands.execute(id, options) }"
        if dark:
            page.evaluate(command, ["apputils:change-theme", {"theme": "JupyterLab Dark"}])
        page.evaluate(command, ["notebook:run-all-cells", {}])
        page.wait_for_selector(".pg-summary:not(:empty), [data-mime-type*=error]")
        failed = page.locator("[data-mime-type*=error]").all_inner_texts()
        assert not failed, failed
        return page

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:", self.url.replace("http", "ws", 1))):
            self.foreign.append(request.url)


@contextmanager
def running_lab(folder: Path) -> Iterator[Lab]:
    """JupyterLab over ``folder`` with settings of its own, and Chromium; both end with the block."""
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, home = f"http://127.0.0.1:{port}", folder / "home"
    news = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}), encoding="utf-8")
    places = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    places |= {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    places |= {"IPYTHONDIR": "ipython"}
    environment = os.environ | {name: str(home / place) for name, place in places.items()}
    environment |= {"OMP_NUM_THREADS": "1", "JUPYTER_CONFIG_PATH": str(SERVER)}
    options = [f"--ServerApp.root_dir={folder}", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    options += [
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        "--LabApp.expose_app_in_browser=True",
    ]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(f"{url}/api", server, folder / "server.log")
        with sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu"]
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
            yield Lab(folder, url, browser)
            browser.close()
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(log.read_text())


def drag(page: Any, canvas: Any, start: tuple[float, float], *stops: tuple[float, float]) -> None:
    """Press the pointer at ``start`` and move it through ``stops``; in shares of the canvas."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, *stops)]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()


def summary(page: Any, wanted: str) -> None:
    """Wait until the explorer's text line contains ``wanted``; fail with what it says instead."""
    from playwright.sync_api import expect

    expect(page.locator(".pg-summary")).to_contain_text(wanted, timeout=30_000)


def round_trips(page: Any, canvas: Any, places: list[tuple[float, float]], keys: list[str]) -> str:
    """Milliseconds from an event on the canvas to the new picture drawn, each waited for: median, worst.

    ``places`` (shares of the canvas) are dragged through, then ``keys`` pressed; each must change the text.
    """
    took = canvas.evaluate(
        """async (canvas, [places, keys]) => {
          const text = canvas.closest(".pg-explorer").querySelector(".pg-summary");
          const box = canvas.getBoundingClientRect(), took = [];
          const pointer = (kind, [x, y]) => canvas.dispatchEvent(new PointerEvent(kind, {
            clientX: box.left + x * box.width, clientY: box.top + y * box.height, pointerId: 1,
          }));
          canvas.setPointerCapture = () => {};
          canvas.hasPointerCapture = () => true;
          const answer = (act) => new Promise((done, fail) => {
            const begin = performance.now(), late = setTimeout(() => fail(Error("no answer in 30 s")), 30000);
            new MutationObserver((_, seen) => {
              seen.disconnect(); clearTimeout(late); took.push(performance.now() - begin); done();
            }).observe(text, { childList: true });
            act();
          });
          pointer("pointerdown", places[0]);
          await new Promise((done) => setTimeout(done, 500));
          for (const place of places.slice(1)) await answer(() => pointer("pointermove", place));
          for (const key of keys)
            await answer(() => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })));
          delete canvas.setPointerCapture;
          delete canvas.hasPointerCapture;
          return took;
        }""",
        [places, keys],
    )
    return f"{len(took)} round trips: median {statistics.median(took):.0f} ms, worst {max(took):.0f} ms"

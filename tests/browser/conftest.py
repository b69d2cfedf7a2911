"""The page that reads a pattern, as a folder, served on this machine, and browsers to open it."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from unimat_book.browser.export import export

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
BROWSERS = {"chromium": ("chromium",), "firefox": ("firefox-esr", "firefox")}
HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Your pattern</title>'
    '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"></head>'
)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("exported"), dataset="prototypes")


@pytest.fixture(scope="session")
def site(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page without the book around it: what its raw block holds, and the folder it loads."""
    folder = tmp_path_factory.mktemp("site")
    text = (ROOT / "browser/your_pattern.md").read_text("utf-8")
    block = re.search(r"```\{raw\} html\n(.*?)```", text, re.DOTALL)[1]
    (folder / "chapters").mkdir()
    page = f"{HEAD}<body>{block}</body></html>"
    (folder / "chapters/your_pattern.html").write_text(page, "utf-8")
    shutil.copytree(exported, folder / "browser")
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/chapters/your_pattern.html"
        server.shutdown()


@pytest.fixture(scope="session", params=BROWSERS)
def browser(request: pytest.FixtureRequest):
    api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install -e .[dev]"
    )
    found = [path for name in BROWSERS[request.param] if (path := shutil.which(name))]
    if not found:
        pytest.skip(f"needs {request.param}: apt-get install {BROWSERS[request.param][0]}")
    with api.sync_playwright() as driver:
        if request.param == "firefox":  # Debian's own, through WebDriver BiDi
            launched = driver.firefox.launch(channel="moz-firefox", executable_path=found[0])
        else:
            launched = driver.chromium.launch(executable_path=found[0], args=FLAGS)
        yield launched
        launched.close()

"""The page that reads a pattern, as a folder, served on this machine, and browsers to open it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bare_page import HEAD, ROOT

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
PATIENCE = 180_000  # ms: ends what hangs; what is only slow, on a busy computer, is no failure
BROWSERS = {"chromium": "chromium", "firefox": "firefox-esr"}  # other Firefoxes may not be driven


@pytest.fixture(scope="session")
def site(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page without the book around it: what its raw block holds, and the folder it loads."""
    folder = tmp_path_factory.mktemp("site")
    text = (ROOT / "chapters/your_pattern.md").read_text("utf-8")
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
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a folder on this machine, says under which address."""
    with contextlib.ExitStack() as servers:

        def start(folder: Path) -> str:
            handler = functools.partial(_Quiet, directory=str(folder))
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            servers.enter_context(server)
            servers.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            return f"http://127.0.0.1:{server.server_port}"

        yield start


@pytest.fixture(scope="session")
def address(site: Path, serve: Callable[[Path], str]) -> str:
    return f"{serve(site)}/chapters/your_pattern.html"


def patient(opening: Callable) -> Callable:
    """Whatever is waited for in what this opens is waited for long."""

    def opened(**options):
        new = opening(**options)
        new.set_default_timeout(PATIENCE)
        return new

    return opened


@pytest.fixture(scope="session", params=BROWSERS)
def browser(request: pytest.FixtureRequest):
    api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install -e .[dev]"
    )
    program = BROWSERS[request.param]
    if not (found := shutil.which(program)):
        pytest.skip(f"needs {program}: apt-get install {program}")
    with api.sync_playwright() as driver:
        if request.param == "firefox":  # Debian's own, through WebDriver BiDi
            how = {"channel": "moz-firefox", "executable_path": found}
            launched = driver.firefox.launch(timeout=PATIENCE, **how)
        else:
            launched = driver.chromium.launch(timeout=PATIENCE, executable_path=found, args=FLAGS)
        launched.new_page = patient(launched.new_page)
        launched.new_context = patient(launched.new_context)
        yield launched
        launched.close()

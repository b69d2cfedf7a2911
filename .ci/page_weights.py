"""The built pages in, a table of first paint and bytes loaded of each, in Chromium, out.

``python .ci/page_weights.py [quick|full]``; the pages are served on this machine, and each is
opened once with an empty cache, and not scrolled. Bytes are those of the page and all that it and
its workers ask for until a second after the last request; nothing is compressed, as most servers
would.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import statistics
import sys
import threading
from pathlib import Path
from typing import ClassVar

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PAINT = """() => new Promise((done) => new PerformanceObserver((list) => {
  for (const one of list.getEntriesByName("first-contentful-paint")) done(one.startTime);
}).observe({ type: "paint", buffered: true }))"""


class Counting(http.server.SimpleHTTPRequestHandler):
    """A server that notes how long each answer is; workers' requests are seen here too."""

    sent: ClassVar[list[int]] = []

    def send_header(self, keyword: str, value: str) -> None:
        """Note the length of an answer."""
        if keyword == "Content-Length":
            self.sent.append(int(value))
        super().send_header(keyword, value)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def weigh(browser: Browser, address: str) -> tuple[float, int, int]:
    """First contentful paint in ms, bytes and number of answers of one page."""
    Counting.sent.clear()
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.goto(address, wait_until="networkidle")  # half a second without a request
    paint = tab.evaluate(PAINT)
    tab.wait_for_timeout(1000)  # for what scripts ask for
    context.close()
    return paint, sum(Counting.sent), len(Counting.sent)


def main() -> None:
    """Print the table, the heaviest page first, and the medians."""
    pages = ROOT / "_build" / (sys.argv[1] if sys.argv[1:] else "full") / "book/_build/html"
    names = sorted(
        str(path.relative_to(pages))
        for pattern in ("*.html", "chapters/*.html", "tutorials/*.html")
        for path in pages.glob(pattern)
    )
    if not names:
        sys.exit(f"expected built pages in {pages}, found none: make html")
    handler = functools.partial(Counting, directory=str(pages))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as driver:
        program = shutil.which("chromium") or sys.exit("chromium was not found: apt install it")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        weigh(browser, f"http://127.0.0.1:{server.server_port}/{names[0]}")  # warm
        rows = [
            (name, *weigh(browser, f"http://127.0.0.1:{server.server_port}/{name}"))
            for name in names
        ]
        browser.close()
    print("| Page | First paint (ms) | Weight (kB) | Requests |\n|---|---:|---:|---:|")
    for name, paint, size, number in sorted(rows, key=lambda row: -row[2]):
        print(f"| {name} | {paint:.0f} | {size / 1000:,.0f} | {number} |")
    middle = [statistics.median(column) for column in list(zip(*rows, strict=True))[1:]]
    print(f"| *median* | {middle[0]:.0f} | {middle[1] / 1000:,.0f} | {middle[2]:.0f} |")


if __name__ == "__main__":
    main()

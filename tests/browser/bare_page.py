"""The head of a page without the book around it, a tab that shows one, and where the book lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title>'
    '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"></head>'
)

WORK = """() => {
  const start = performance.now();
  const x = Float32Array.from({ length: 4096 }, (_, i) => Math.sin(i));
  for (let n = 0; n < 60000; n++) {
    const factor = 0.999 + (n % 3) * 1e-3;
    for (let i = 0; i < 4096; i++) x[i] = x[i] * factor + 1e-6;
  }
  return (performance.now() - start) / 1000;
}"""  # about as much arithmetic as an answer of the network


class BarePage:
    """A tab that shows a page, and all that went wrong in it."""

    def __init__(self, tab, address: str) -> None:
        self.tab, self.wrong = tab, []
        tab.on("console", lambda m: m.type in ("error", "warning") and self.note(m.text))
        tab.on("pageerror", lambda error: self.note(str(error)))
        tab.goto(address)

    def pace(self) -> float:
        """Seconds that a fixed piece of work takes in this tab now, whoever shares the processor.

        A page is to be quick, but a test must not fail because the computer is slow or busy: times
        are compared with this one.
        """
        return self.tab.evaluate(WORK)

    def note(self, text: str) -> None:
        """Keep what the console says."""
        self.wrong.append(text)


def opened(kind: type[BarePage], browser, address: str, **viewport: int) -> Iterator[BarePage]:
    """A page for a fixture to yield; no test may leave an error in its console."""
    tab = browser.new_page(viewport=viewport)
    page = kind(tab, address)
    yield page
    assert page.wrong == []
    tab.close()

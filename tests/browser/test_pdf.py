"""Two small pages, one with everything that is hard on paper, printed as a book."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unimat_book.run.plain_yaml import BookError
from unimat_book.run.sources import Book

ROOT = Path(__file__).resolve().parents[2]
ABOUT = {
    "title": "A small book",
    "authors": [{"family-names": "Laue", "given-names": "Max"}, {"name": "The others"}],
    "version": "1.2.3",
    "date-released": "2026-11-27",
    "license": "MIT",
    "keywords": ["powder"],
    "url": "https://book.example/small/",
}
PAGE = """<!doctype html><html><head><link rel="stylesheet" href="{up}_static/print.css"></head>
<body><nav>Not on paper</nav><article class="bd-article">{content}</article></body></html>"""
FIRST = """<h1>First<a class="headerlink" href="#first">#</a></h1>
<p>See <a href="chapters/second.html#answer">there</a>, <a href="files/a.csv">a file</a>.</p>
<h2 id="results">Results</h2><p>Words of the first page.</p>"""
WIDE = "".join(f"<td style='white-space: nowrap'>column-{k:02d}</td>" for k in range(12))
SECOND = f"""<h1>Second</h1>
<div class="cell tag_hide-input"><div class="cell_input"><pre>folded = True</pre></div>
<div class="cell_output"><p>What came of it</p></div></div>
<details id="answer"><summary>Answer</summary><p>Forty-two lines.</p></details>
<pre>{"a_long_name = " * 30}</pre>
<table id="wide"><tr>{WIDE}</tr></table>
<noscript>Needs JavaScript</noscript>
<img src="../_static/tall.svg" loading="lazy" alt="tall">
<p>Back to the <a href="../index.html#results">results</a>.</p>"""
TALL = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="300" height="3000"><rect width="300" '
    'height="3000" fill="teal"/></svg>'
)


@pytest.fixture(scope="module", autouse=True)
def needs() -> None:
    for package in ("playwright", "pypdf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install -e .[dev]")
    if shutil.which("chromium") is None:
        pytest.skip("needs chromium: apt-get install chromium")


@pytest.fixture
def book(tmp_path: Path) -> tuple[Book, Path]:
    toc = "root: index.md\nparts:\n  - caption: A part\n    chapters:\n"
    texts = {
        "_toc.yml": toc + "      - file: chapters/second.md\n",
        "_config.yml": "title: A small book\n",
        "LICENSE": "MIT License\n\nPermission is hereby granted.\n",
        "html/index.html": PAGE.format(up="", content=FIRST),
        "html/chapters/second.html": PAGE.format(up="../", content=SECOND),
        "html/_static/tall.svg": TALL,
        "html/_static/print.css": (ROOT / "_static/print.css").read_text("utf-8"),
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return Book(tmp_path), tmp_path / "html"


def printed(*args, **options) -> int:
    """``print_book`` in a thread of its own: in this one other tests hold a driver."""
    from unimat_book.run.pdf import print_book

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(print_book, *args, **options).result()


def test_pages_come_in_order_with_outline_links_and_answers(book, tmp_path: Path) -> None:
    from pypdf import PdfReader

    target = tmp_path / "book.pdf"
    number = printed(*book, target, about=ABOUT, notice="A warning.")
    assert target.stat().st_size < 200_000
    reader = PdfReader(target)
    assert len(reader.pages) == number
    texts = [" ".join(page.extract_text().split()) for page in reader.pages]
    words = ("Version 1.2.3, 2026-11-27", "Permission is hereby granted", "Contents")
    words += ("Words of the first page", "Forty-two lines", "What came of it")
    assert [next(k for k, t in enumerate(texts) if w in t) for w in words] == [0, 1, 2, 3, 4, 4]
    whole = " ".join(texts)
    for words in ("Max Laue, The others", "MIT licence", "A warning."):
        assert words in texts[0]
    for words in ("Not on paper", "folded = True", "Needs JavaScript", "#"):
        assert words not in whole
    assert "https://book.example/small/chapters/second.html" in whole
    # The contents name the sheet, and each sheet but the first two has its number.
    assert "First 4 A part Second 5" in texts[2]
    for k, text in enumerate(texts):
        assert (str(k + 1) in text.split()[:4]) == (k > 1)

    def titles(outline: list) -> list:
        return [titles(x) if isinstance(x, list) else x.title for x in outline]

    assert titles(reader.outline) == ["Contents", "First", ["Results"], "A part", ["Second"]]
    assert reader.metadata.title == "A small book"
    assert reader.metadata.author == "Max Laue, The others"

    links = [a.get_object() for page in reader.pages for a in page.get("/Annots") or []]
    outside = {str(link["/A"]["/URI"]) for link in links if "/URI" in link.get("/A", {})}
    assert outside == {
        "https://book.example/small/files/a.csv",
        "https://book.example/small/chapters/second.html",
    }
    inside = {str(link["/Dest"]).removeprefix("/") for link in links if "/Dest" in link}
    assert {"index", "chapters-second", "chapters-second--answer", "index--results"} <= inside
    assert inside <= {str(name).removeprefix("/") for name in reader.named_destinations}
    assert str(tmp_path).encode() not in target.read_bytes()


def test_nothing_is_cut_at_the_margins(book, tmp_path: Path) -> None:
    from pypdf import PdfReader

    printed(*book, tmp_path / "book.pdf", about=ABOUT)
    reader = PdfReader(tmp_path / "book.pdf")
    left, right = 18 / 25.4 * 72 - 1, (210 - 18) / 25.4 * 72 + 1
    seen = []
    for page in reader.pages:
        assert (round(float(page.mediabox.width)), round(float(page.mediabox.height))) == (595, 842)

        def look(text, cm, tm, font, size) -> None:
            if text.strip():
                x = tm[4] * cm[0] + cm[4]
                assert left <= x <= right, text
                seen.append(text)

        page.extract_text(visitor_text=look)
    assert any("column-11" in text for text in seen)
    # A picture higher than a sheet is made smaller, and is on one sheet.
    assert len(reader.pages) == 6


def test_what_is_missing_or_too_wide_is_named(book, tmp_path: Path, monkeypatch) -> None:
    html = book[1]
    (html / "_static/tall.svg").unlink()
    page = html / "chapters/second.html"
    page.write_text(page.read_text().replace("<pre>", '<pre style="width: 900px">'))
    with pytest.raises(BookError, match=r"tall\.svg is no picture that loads") as caught:
        printed(*book, tmp_path / "book.pdf", about=ABOUT)
    assert "chapters-second: PRE wider than the paper: a_long_name" in str(caught.value)
    assert not (tmp_path / "book.pdf").exists()

    monkeypatch.setattr("unimat_book.run.pdf.shutil.which", lambda name: "/no/such/browser")
    with pytest.raises(BookError, match="apt-get install chromium or playwright install"):
        printed(*book, tmp_path / "book.pdf", about=ABOUT)


def test_pages_are_built_first(book) -> None:
    from unimat_book.run.pdf import pdf

    with pytest.raises(BookError, match="first build the pages: unimat-book build --profile full"):
        pdf(book[0], argparse.Namespace(profile="full"))

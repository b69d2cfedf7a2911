"""Built HTML pages in, the whole book as one PDF out, printed by Chromium."""

from __future__ import annotations

import argparse
import functools
import io
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from unimat_book.run.pages import NOTICE, page_problems
from unimat_book.run.plain_yaml import BookError, read_yaml
from unimat_book.run.sources import Book

JOIN = Path(__file__).with_name("join_pages.js")
PAPER_WIDTH = 657
"""Pixels between the margins that ``_static/print.css`` leaves on A4: 174 mm at 96 per inch."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NEEDS = (
    "the PDF is printed by Chromium through Playwright: pip install -e '.[dev]', then "
    "apt-get install chromium or playwright install chromium"
)


def pdf(book: Book, args: argparse.Namespace) -> None:
    """Print the built pages as one PDF, with Chromium."""
    pages = book.build_dir(args.profile) / "book/_build/html"
    if problems := page_problems(book, pages):
        again = f"first build the pages: unimat-book build --profile {args.profile}"
        raise BookError("\n".join([*problems, again]))
    about = read_yaml(book.root / "CITATION.cff")
    target = book.build_dir(args.profile) / f"unimat-book-{about['version']}.pdf"
    notice = NOTICE if args.profile == "quick" else ""
    number = print_book(book, pages, target, about=about, notice=notice)
    print(f"{number} pages, {target.stat().st_size / 1e6:.1f} MB: {target}")


def print_book(
    book: Book, pages: Path, target: Path, *, about: dict[str, Any], notice: str = ""
) -> int:
    """Print every page of the table of contents, in its order.

    Args:
        book: Whose table of contents, licence and logo are meant.
        pages: The folder of the built pages.
        target: The PDF that is written.
        about: ``CITATION.cff``; its ``url`` is where links lead that leave the PDF.
        notice: A warning for the title page.

    Returns:
        How many pages of paper it has.

    Raises:
        BookError: Playwright, Chromium or pypdf is missing, a picture does not load, or
            something is wider than the paper.
    """
    try:
        from pypdf import PdfReader, PdfWriter
    except ImportError:
        raise BookError(f"pypdf is not installed; {NEEDS}") from None
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # Chromium counts its objects too low
    authors = ", ".join(_name(author) for author in about["authors"])
    given = {
        "pages": [{"file": file, "part": part} for file, part in _files(book)],
        "cover": [
            about["title"],
            authors,
            f"Version {about['version']}, {about['date-released']}",
            f"Code and text: {about['license']} licence. Online: {about['url']}",
            *([notice] if notice else []),
        ],
        "licence": (book.root / "LICENSE").read_text("utf-8"),
        "logo": read_yaml(book.root / "_config.yml").get("logo"),
    }
    address = about["url"].rstrip("/") + "/"
    with _blank_page(pages, address, about["title"]) as page:
        if wrong := page.evaluate(JOIN.read_text("utf-8"), given):
            raise BookError("\n".join([*wrong, "not printed: mend these pages, build them again"]))
        # Printed twice: where a page lies is known only then, and its line has room for a number.
        first = PdfReader(io.BytesIO(_printed(page)))
        places = {
            str(name).removeprefix("/"): first.get_destination_page_number(place) + 1
            for name, place in first.named_destinations.items()
        }
        page.evaluate(
            """places => document.querySelectorAll(".paper-number").forEach(
                span => { span.textContent = places[span.dataset.place] })""",
            places,
        )
        final = PdfReader(io.BytesIO(_printed(page)))
    writer = PdfWriter(clone_from=final)
    writer.pdf_header = final.pdf_header
    keywords = ", ".join(about.get("keywords", []))
    writer.add_metadata({"/Title": about["title"], "/Author": authors, "/Keywords": keywords})
    writer.page_mode = "/UseOutlines"
    with target.open("wb") as file:
        writer.write(file)
    return len(writer.pages)


def _name(author: dict[str, str]) -> str:
    given = f"{author.get('given-names', '')} {author.get('family-names', '')}".strip()
    return author.get("name") or given


def _files(book: Book) -> Iterator[tuple[str, str | None]]:
    """The built file of each page, and the caption of the part that it belongs to."""
    content = read_yaml(book.root / "_toc.yml")
    parts = {
        entry["file"]: part.get("caption")
        for part in content.get("parts", [])
        for entry in part["chapters"]
    }
    for name in book.toc:
        yield Path(name).with_suffix(".html").as_posix(), parts.get(name)


def _printed(page: Any) -> bytes:
    return page.pdf(prefer_css_page_size=True, print_background=True, outline=True, tagged=True)


@contextmanager
def _blank_page(pages: Path, address: str, title: str) -> Iterator[Any]:
    """An empty page of a browser that finds the built pages at the book's public address.

    So links that leave the PDF are right as they stand, no path of this machine gets in, and no
    request leaves it.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise BookError(f"playwright is not installed; {NEEDS}") from None
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=program)
        except Error as error:
            first_line = str(error).splitlines()[0]
            raise BookError(f"Chromium does not start ({first_line}); {NEEDS}") from None
        page = browser.new_page(viewport={"width": PAPER_WIDTH, "height": 940})
        page.set_default_timeout(300_000)
        page.emulate_media(media="print", color_scheme="light")
        page.route("**/*", functools.partial(_answer, pages, address))
        page.goto(f"{address}paper")
        page.evaluate("title => { document.title = title }", title)
        try:
            yield page
        finally:
            browser.close()


def _answer(pages: Path, address: str, route: Any) -> None:
    """Answer a request of the browser with a built file."""
    url = route.request.url
    if url == f"{address}paper":
        empty = '<!doctype html><html lang="en"><head></head><body></body></html>'
        route.fulfill(body=empty, content_type="text/html")
        return
    path = pages / unquote(urlsplit(url).path).removeprefix(urlsplit(address).path)
    if url.startswith(address) and path.is_file():
        route.fulfill(path=path)
    else:
        route.abort()

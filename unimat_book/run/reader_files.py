"""Built pages and recorded tables in; tables as files, links to them and glossary script out.

All of it is written once the pages are built: it needs no chapter to be run again, and it works
from a folder, without a server, a network or (but for the glossary's hover) JavaScript.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

TABLE = re.compile(
    r'<table class="[^"]*" id="(?P<label>tab-[^"]+)">(?P<inside>.*?)</table>(?:\s*</div>)?',
    re.DOTALL,
)
TERM = re.compile(r'<dt id="(term-[^"]+)">(?:(?!<dd>|<dt ).)*', re.DOTALL)
ENTRY = re.compile(rf"((?:{TERM.pattern})+)<dd>(.*?)</dd>", re.DOTALL)
NUMBER = re.compile(
    r"(<td[^>]*>)<p>([-+\d.,± ]+%?)(?: (\[[-+\d., ]+\]|\([-+\d.,]+ to [-+\d.,]+\)))?</p>"
)
"""A cell that is a number, with its interval or without: 5.74 ± 0.15 [5.58, 5.90]."""
STRAIGHT = str.maketrans("‘’“”", "''\"\"")
"""Quotation marks as they are recorded; a page has curled ones."""


def write_tables(page: Path, results: Path, folder: Path) -> int:
    """Write the recorded tables that a page shows, and links to them below each.

    Intervals move below their numbers, in small print; the files keep them in one text.

    Args:
        page: A built page, changed in place. Its tables have labels: ``tab-`` and the key.
        results: What the page's chapter has recorded: a table is a list of objects.
        folder: Where the files go, ``label.csv`` and ``label.json``.

    Returns:
        How many tables got links.
    """
    recorded = json.loads(results.read_text("utf-8"))
    folder.mkdir(exist_ok=True)
    number = 0

    def linked(match: re.Match[str]) -> str:
        nonlocal number
        label, inside = match["label"], match["inside"]
        rows = recorded.get(label.removeprefix("tab-").replace("-", "_"))
        if not isinstance(rows, list):  # not the chapter's: typed by hand
            return match[0]
        number += 1
        title = _text(re.search(r'<span class="caption-number">(.*?)</span>', inside, re.DOTALL))
        caption = _text(re.search(r'<span class="caption-text">(.*?)</span><a', inside, re.DOTALL))
        rows = _as_shown(rows, inside)
        content = {"table": title, "caption": caption, "rows": rows}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{label}.json").write_text(text, encoding="utf-8")
        # With the mark that tells spreadsheets that it is UTF-8; pandas passes over it.
        (folder / f"{label}.csv").write_text(_csv(rows), encoding="utf-8-sig", newline="")
        return match[0] + _links(label, title, folder.name)

    text = TABLE.sub(linked, page.read_text("utf-8"))
    page.write_text(NUMBER.sub(_number, text), encoding="utf-8")
    return number


def write_terms(glossary: Path, target: Path) -> int:
    """Write the glossary's definitions as a script that names them, for the pages' hover.

    It is a script and not JSON because a page that is opened from a folder may load nothing else.

    Returns:
        How many terms it holds.
    """
    terms: dict[str, str] = {}
    for heads, _, definition in ENTRY.findall(glossary.read_text("utf-8")):
        unlinked = re.sub(r"</?a\b[^>]*>", "", definition).strip()
        terms |= dict.fromkeys(TERM.findall(heads), unlinked)
    text = json.dumps(terms, indent=0, ensure_ascii=False)
    target.write_text(f"window.bookTerms = {text};\n", encoding="utf-8")
    return len(terms)


def _number(match: re.Match[str]) -> str:
    """A number that does not wrap, its interval below it in small print."""
    cell, number, interval = match.groups()
    below = f"<br /><small>{interval}</small>" if interval else ""
    return f'{cell}<p class="number">{number}{below}</p>'


def _as_shown(rows: list[dict[str, Any]], table: str) -> list[dict[str, Any]]:
    """Rows with their columns in the order of the page (they are recorded by the alphabet)."""
    heads = re.finditer(r"<th\b[^>]*>(.*?)</th>", table, re.DOTALL)
    place = {_text(head).translate(STRAIGHT): k for k, head in enumerate(heads)}
    columns = sorted(rows[0], key=lambda column: place.get(column, len(place)))
    return [{column: _unmarked(row[column]) for column in columns} for row in rows]


def _csv(rows: list[dict[str, Any]]) -> str:
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()


def _links(label: str, title: str, folder: str) -> str:
    links = (
        f'<a href="../{folder}/{label}.{kind}" download="{label}.{kind}" '
        f'aria-label="{title} as {kind.upper()}">{kind.upper()}</a>'
        for kind in ("csv", "json")
    )
    return f'\n<p class="table-files">{" ".join(links)}</p>'


def _unmarked(value: Any) -> Any:
    """A cell without the few tags that lay it out."""
    if not isinstance(value, str):
        return value
    return re.sub(r"</?(?:small|strong|em|sub|sup)>", "", re.sub(r"\s*<br ?/?>\s*", " ", value))


def _text(match: re.Match[str] | None) -> str:
    """What an element says, without its markup."""
    inside = match[1] if match else ""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", inside)).split())

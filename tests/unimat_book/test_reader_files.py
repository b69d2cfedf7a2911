"""Files below the tables of a built page, and the glossary as a script."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from unimat_book.run.reader_files import write_tables, write_terms

HEADS = ("view", "model’s <em>MAE</em> (Å)", "a &lt; b")
TABLE = """<div class="pst-scrollable-table-container"><table class="table" id="tab-{label}">
<caption><span class="caption-number">Table 4.1 </span><span class="caption-text">Errors &amp;
more.</span><a class="headerlink" href="#tab-{label}">#</a></caption>
<thead><tr>{heads}</tr></thead>
<tbody><tr><td><p>XRD</p></td><td class="text-left"><p>0.17 ± 0.01 [0.16, 0.18]</p></td>
<td><p>–</p></td></tr></tbody>
</table>
</div>
<p>after</p>
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with a recorded table and one typed by hand, beside what was recorded."""
    heads = "".join(f"<th><p>{head}</p></th>" for head in HEADS)
    path = tmp_path / "page.html"
    tables = (TABLE.format(label=label, heads=heads) for label in ("two-words", "by-hand"))
    path.write_text("".join(tables), encoding="utf-8")
    cell = "0.17 ± 0.01<br><small>[0.16, 0.18]</small>"
    rows = [{"a < b": None, "model's MAE (Å)": cell, "view": "XRD"}]
    (tmp_path / "recorded.json").write_text(json.dumps({"two_words": rows, "number": 1}))
    return path


def test_recorded_tables_become_files(page: Path) -> None:
    folder = page.parent / "tables"
    assert write_tables(page, page.parent / "recorded.json", folder) == 1
    assert {path.name for path in folder.iterdir()} == {"tab-two-words.csv", "tab-two-words.json"}
    table = pd.read_csv(folder / "tab-two-words.csv")
    assert list(table) == ["view", "model's MAE (Å)", "a < b"]
    assert list(table.loc[0])[:2] == ["XRD", "0.17 ± 0.01 [0.16, 0.18]"]
    assert table["a < b"].isna().all()
    content = json.loads((folder / "tab-two-words.json").read_text("utf-8"))
    assert content["table"] == "Table 4.1" and content["caption"] == "Errors & more."
    assert content["rows"] == table.astype(object).where(table.notna(), None).to_dict("records")


def test_links_stand_below_their_table_and_intervals_below_their_numbers(page: Path) -> None:
    write_tables(page, page.parent / "recorded.json", page.parent / "tables")
    text = page.read_text("utf-8")
    assert text.count("table-files") == 1
    assert '</table>\n</div>\n<p class="table-files"><a href="../tables/tab-two-words.csv"' in text
    assert 'aria-label="Table 4.1 as CSV"' in text
    number = '<p class="number">0.17 ± 0.01<br /><small>[0.16, 0.18]</small></p>'
    assert text.count(number) == 2
    assert text.count("<p>–</p>") == text.count("<p>XRD</p>") == text.count("<p>after</p>") == 2


def test_definitions_become_a_script(tmp_path: Path) -> None:
    (tmp_path / "glossary.html").write_text(
        '<dl><dt id="term-a">a<a class="headerlink" href="#term-a">#</a></dt>\n'
        '<dt id="term-b">b</dt><dd><p>One <a href="#term-c"><span>word</span></a>.</p>\n</dd>\n'
        '<dt id="term-c">c</dt><dd><p>Two.</p>\n<p>Three.</p></dd></dl>',
        encoding="utf-8",
    )
    assert write_terms(tmp_path / "glossary.html", tmp_path / "terms.js") == 3
    script = (tmp_path / "terms.js").read_text("utf-8")
    terms = json.loads(script.removeprefix("window.bookTerms = ").removesuffix(";\n"))
    one = "<p>One <span>word</span>.</p>"
    assert terms == {"term-a": one, "term-b": one, "term-c": "<p>Two.</p>\n<p>Three.</p>"}

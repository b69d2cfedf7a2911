"""Roles, heads and data notes of built pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimat_book.run.landmarks import mend

COUNTS = "<p>By split: train 2.</p>\n<p>By source: a 2.</p>\n<p>Train by source: a 2.</p>\n"


@pytest.mark.parametrize(
    ("written", "mended"),
    [
        (
            '<div class="citation" id="id6" role="doc-biblioentry">',
            '<div class="citation" id="id6" role="listitem">',
        ),
        ('<th class="head"><p></p></th><th>a</th>', '<td class="head"></td><th>a</th>'),
        ("<th></th><thead></thead>", "<td></td><thead></thead>"),
        (
            '<div class="sidebar-primary-item">\n<a class="navbar-brand logo">',
            '<div class="sidebar-primary-item" role="banner">\n<a class="navbar-brand logo">',
        ),
        (
            f"<div><p><strong>Data: mp</strong> A copy.</p>\n{COUNTS}</div></blockquote>",
            "<div><p><strong>Data: mp</strong> A copy. "
            '<a href="01_crystals_and_splits.html#sec-crystals-data">Where it comes from</a></p>\n'
            f"<details><summary>Counts</summary>\n{COUNTS}</details>\n</div></blockquote>",
        ),
    ],
)
def test_what_readers_cannot_use_is_mended(tmp_path: Path, written: str, mended: str) -> None:
    (tmp_path / "chapters").mkdir()
    page = tmp_path / "chapters/a.html"
    page.write_text(written, "utf-8")
    assert mend(tmp_path) == 1 and page.read_text("utf-8") == mended
    assert mend(tmp_path) == 0  # a second time changes nothing


def test_the_pieces_of_the_theme_are_left(tmp_path: Path) -> None:
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static/a.html").write_text("<th></th>", "utf-8")
    assert mend(tmp_path) == 0

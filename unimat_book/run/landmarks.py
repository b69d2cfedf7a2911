"""Built pages in; the same with short data notes, and roles that a screen reader can use, out.

What docutils, pandas and the theme write is put right here, once the pages are built: that needs
no chapter to be run again, and no copy of the theme's templates.
"""

from __future__ import annotations

import re
from pathlib import Path

MENDED = (
    # DPUB-ARIA gave this role up: an entry is an item of its list, which docutils marks as one.
    (re.compile(r'(<div class="citation" id="[^"]+" role=")doc-biblioentry"'), r'\1listitem"'),
    # A corner that heads nothing is no head.
    (re.compile(r"<th\b([^>]*)>(\s*|<p></p>)</th>"), r"<td\1></td>"),
    # The logo stands beside the navigation; the header that would hold it is not shown.
    (
        re.compile(r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand logo")'),
        '<div class="sidebar-primary-item" role="banner">',
    ),
    # One line says which data a page was made from; the counts behind it are there for who asks.
    (
        re.compile(r"(<p><strong>Data: .*)</p>\n((?:<p>.*</p>\n){3,})(?=</div></blockquote>)"),
        r'\1 <a href="01_crystals_and_splits.html#sec-crystals-data">Where it comes from</a></p>'
        r"\n<details><summary>Counts</summary>\n\2</details>\n",
    ),
)
"""Patterns, and what stands in their place."""


def mend(pages: Path) -> int:
    """Mend every page of a built book in place.

    Args:
        pages: The folder of the built pages, ``.html`` files at any depth but in ``_static``.

    Returns:
        How many pages were changed.
    """
    changed = 0
    for page in pages.rglob("*.html"):
        if "_static" in page.relative_to(pages).parts:  # the theme's own pieces
            continue
        text = mended = page.read_text("utf-8")
        for pattern, replacement in MENDED:
            mended = pattern.sub(replacement, mended)
        if mended != text:
            page.write_text(mended, encoding="utf-8")
            changed += 1
    return changed

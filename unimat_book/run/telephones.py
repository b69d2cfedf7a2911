"""Built pages in; the same pages with a narrow layout of each figure that has one.

A figure of a chapter brings its narrow layout along, as a second output beside the wide one; a
picture ``_static/NAME.svg`` has it in ``_static/NAME-narrow.svg``. The browser takes the one that
fits.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import nbformat

from unimat_book.figures import NARROW_MIME

MEDIA = "screen and (max-width: 600px)"
_PICTURE = re.compile(r'<img\b[^>]*\bsrc="([^"]*_images/([^"/]+)\.svg)"[^>]*>')


def add_narrow(folder: Path, pages: Path) -> int:
    """Write the narrow layouts beside the wide ones, and lead telephones to them.

    Args:
        folder: The staged book, with its notebooks.
        pages: The folder of the built pages, changed in place.

    Returns:
        How many pictures have a narrow layout now.
    """
    layouts = _of_notebooks(folder)
    for path in (pages / "_static").glob("*-narrow.svg"):
        layouts[path.stem.removesuffix("-narrow")] = path.read_text("utf-8")
    number = 0
    for page in pages.rglob("*.html"):
        text = page.read_text("utf-8")
        changed = _PICTURE.sub(lambda found: _with_narrow(found, layouts), text)
        if changed != text:
            page.write_text(changed, encoding="utf-8")
            number += changed.count("<picture>")
            for name in re.findall(r"_images/([^\"/]+)-narrow\.svg", changed):
                (pages / f"_images/{name}-narrow.svg").write_text(layouts[name], encoding="utf-8")
    return number


def _of_notebooks(folder: Path) -> dict[str, str]:
    """Narrow layouts by the name that MyST-NB gives the file of the wide one."""
    layouts = {}
    for path in folder.rglob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                if NARROW_MIME in data and "image/svg+xml" in data:
                    wide = "\n".join(data["image/svg+xml"].splitlines())
                    layouts[hashlib.sha256(wide.encode()).hexdigest()] = data[NARROW_MIME]
    return layouts


def _with_narrow(found: re.Match[str], layouts: dict[str, str]) -> str:
    image, (source, name) = found[0], found.groups()
    if name not in layouts:
        return image
    narrow = f'<source media="{MEDIA}" srcset="{source.removesuffix(".svg")}-narrow.svg">'
    return f"<picture>{narrow}{image}</picture>"

"""Built pages in; the same pages with a narrow layout of each figure that has one.

A figure of a chapter brings its narrow layout along, as a second output beside the wide one; a
picture ``_static/NAME.svg`` has it in ``_static/NAME-narrow.svg``. The browser takes the one that
fits.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import nbformat

from unimat_book.figures import NARROW_MIME

MEDIA = "screen and (max-width: 600px)"
_PICTURE = re.compile(r'<img\b[^>]*\bsrc="([^"]*_images/([^"/]+)\.svg)"[^>]*>')


def set_aside(path: Path, folder: Path) -> None:
    """Take the narrow layouts out of a staged notebook, of which MyST-NB would warn.

    Args:
        path: The notebook, changed in place where it has any.
        folder: Where they are written, by the name that MyST-NB gives the file of the wide one.
    """
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    bundles = [o.data for o in outputs if NARROW_MIME in o.get("data", {})]
    for data in bundles:
        narrow = data.pop(NARROW_MIME)
        wide = "\n".join(data["image/svg+xml"].splitlines())
        name = hashlib.sha256(wide.encode()).hexdigest()
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.svg").write_text(narrow, encoding="utf-8")
    if bundles:
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def add_narrow(folder: Path, pages: Path) -> int:
    """Put the narrow layouts beside the wide ones, and lead telephones to them.

    Args:
        folder: Where :func:`set_aside` wrote them.
        pages: The folder of the built pages, changed in place.

    Returns:
        How many pictures have a narrow layout now.
    """
    layouts = {path.stem: path for path in folder.glob("*.svg")}
    for path in (pages / "_static").glob("*-narrow.svg"):
        layouts[path.stem.removesuffix("-narrow")] = path
    number = 0
    for page in pages.rglob("*.html"):
        text = page.read_text("utf-8")
        changed = _PICTURE.sub(lambda found: _with_narrow(found, layouts), text)
        if changed != text:
            page.write_text(changed, encoding="utf-8")
            number += changed.count("<picture>")
            for name in re.findall(r"_images/([^\"/]+)-narrow\.svg", changed):
                shutil.copyfile(layouts[name], pages / f"_images/{name}-narrow.svg")
    return number


def _with_narrow(found: re.Match[str], layouts: dict[str, Path]) -> str:
    image, (source, name) = found[0], found.groups()
    if name not in layouts:
        return image
    narrow = f'<source media="{MEDIA}" srcset="{source.removesuffix(".svg")}-narrow.svg">'
    return f"<picture>{narrow}{image}</picture>"

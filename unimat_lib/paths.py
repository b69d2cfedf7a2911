"""Where things lie: in a checkout of the book if there is one, else in the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_CHECKOUT = Path(__file__).resolve().parents[1]


def book_root() -> Path | None:
    """Folder of the book, or ``None``.

    What ``UNIMAT_ROOT`` names (else ``FileNotFoundError``), the nearest parent of the working
    folder that has a ``params.yml``, or the checkout that this package belongs to.
    """
    if named := os.environ.get("UNIMAT_ROOT"):
        root = Path(named).resolve()
        if not root.is_dir():
            raise FileNotFoundError(f"UNIMAT_ROOT names {root}, which is not a folder: correct it.")
        return root
    here = Path.cwd().resolve()
    candidates = (here, *here.parents, _CHECKOUT)
    return next((folder for folder in candidates if (folder / "params.yml").is_file()), None)


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Folder of prepared tables: the one given, that of the book, or one of the user's own."""
    if given is not None:
        return Path(given)
    root = book_root()
    return root / "data" / "cache" if root else Path(platformdirs.user_cache_dir("unimat"))

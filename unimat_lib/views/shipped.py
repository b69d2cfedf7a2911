"""A package and a path in, where the package keeps that file or folder out."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def shipped_with(package: str, path: str) -> Path:
    """What a package has at ``path``, without an import; ``FileNotFoundError`` if it is absent."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (found := Path(folder, path)).exists():
            return found
    raise FileNotFoundError(
        f"{path} was expected in the package {package}, which is "
        f"{'not installed' if spec is None else 'of another version'}; "
        f"install the {package} version named in requirements.lock"
    )

"""Small faulty pattern files, unpacked for as long as the tests run."""

import tempfile
import zipfile
from functools import cache
from pathlib import Path

_FOLDER = tempfile.TemporaryDirectory(prefix="patterns-")


@cache
def case_patterns() -> Path:
    """Folder of the files in ``cases/patterns.zip``, which take a tenth of the space there."""
    with zipfile.ZipFile(Path(__file__).parent / "cases/patterns.zip") as packed:
        packed.extractall(_FOLDER.name)
    return Path(_FOLDER.name)

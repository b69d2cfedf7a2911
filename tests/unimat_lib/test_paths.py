"""Where the book and its cache are, in a checkout and without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import unimat_lib
from unimat_lib import paths
from unimat_lib.paths import book_root, cache_folder

PACKAGE = Path(unimat_lib.__file__).parent


def test_the_book_is_named_or_above_or_the_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("UNIMAT_ROOT", raising=False)
    inner = tmp_path / "book" / "chapters" / "src"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert book_root() == PACKAGE.parent  # the checkout
    (tmp_path / "book" / "params.yml").touch()
    assert book_root() == tmp_path / "book"
    assert cache_folder() == tmp_path / "book" / "data" / "cache"
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.setenv("UNIMAT_ROOT", str(tmp_path))
    assert book_root() == tmp_path
    monkeypatch.setenv("UNIMAT_ROOT", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="which is not a folder"):
        book_root()


def test_without_a_book_the_cache_is_the_users(tmp_path, monkeypatch):
    monkeypatch.delenv("UNIMAT_ROOT", raising=False)
    monkeypatch.setattr(paths, "_CHECKOUT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    assert book_root() is None
    assert cache_folder() == tmp_path / "xdg" / "unimat"


def test_an_installed_package_loads_a_data_set_outside_of_any_checkout(tmp_path):
    """Fault: the manifest and the cache were looked for in the checkout only."""
    site, elsewhere, home = (tmp_path / name for name in ("site", "elsewhere", "home"))
    elsewhere.mkdir()
    shutil.copytree(PACKAGE, site / "unimat_lib", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import unimat_lib\n"
        "from unimat_lib.datasets.preparation import dataset_provenance, load_dataset\n"
        "from unimat_lib.datasets.report import manifest\n"
        "print(unimat_lib.__file__)\n"
        "print(len(load_dataset('prototypes', limit=40, workers=1)))\n"
        "print(dataset_provenance('prototypes')['num_used'], manifest()['mp_20']['commit'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("UNIMAT", "XDG"))}
    environment |= {"PYTHONPATH": str(site), "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    where, crystals, facts = done.stdout.splitlines()
    assert Path(where).is_relative_to(site)
    assert facts == f"{crystals} f857f59"
    assert int(crystals) > 20
    assert list(elsewhere.iterdir()) == []
    cached = {path.suffix for path in (home / ".cache" / "unimat").iterdir()}
    assert cached == {".json", ".parquet"}

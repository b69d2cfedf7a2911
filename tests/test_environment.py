"""environment.yml, pyproject.toml, the lock, Binder and the workflow describe one environment."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_LINES = [
    line
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
]
LOCK = {
    canonicalize_name(name): version for name, _, version in (x.partition("==") for x in LOCK_LINES)
}
# Imported under another name than the package's own.
IMPORT_NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow"}


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["book"], *extras["dev"]]
    return [Requirement(line) for line in lines if not line.startswith("unimat-lib")]


def test_lock_is_exact_and_sorted() -> None:
    for line in LOCK_LINES:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line), line  # no local versions
    assert sorted(LOCK_LINES, key=str.lower) == LOCK_LINES
    assert len(LOCK) == len(LOCK_LINES)
    assert LOCK["torch"] == "2.13.0"
    assert LOCK["jupyter-book"] == "1.0.4.post1"


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_lock_satisfies_pyproject(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    assert name in LOCK, f"{name} is in pyproject.toml but not in requirements.lock"
    assert Version(LOCK[name]) in requirement.specifier


def test_lock_is_closed() -> None:
    """Everything a locked package needs is locked too, at a version it accepts."""
    for name in LOCK:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed: this is not the locked environment")
        for need in map(Requirement, needs):
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            wanted = canonicalize_name(need.name)
            assert wanted in LOCK, f"{name} needs {wanted}, which requirements.lock lacks"
            assert need.specifier.contains(LOCK[wanted], prereleases=True), f"{name} needs {need}"


def test_conda_and_binder_read_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, section = environment["dependencies"]
    minor = python.removeprefix("python=")
    assert pip == "pip"
    assert section["pip"] == ["-r requirements.lock", "-e ."]
    assert (ROOT / ".binder/runtime.txt").read_text().strip() == f"python-{minor}"
    assert "-r ../requirements.lock" in (ROOT / ".binder/requirements.txt").read_text()
    workflow = (ROOT / ".github/workflows/book.yml").read_text()
    assert set(re.findall(r'python-version: "([\d.]+)"', workflow)) == {minor}
    assert PROJECT["requires-python"] == f">={minor}"


def test_code_imports_only_what_is_declared() -> None:
    known = {canonicalize_name(r.name) for r in declared()}
    own = {"unimat_lib", *(p.stem for p in (ROOT / "tools").glob("*.py"))}
    own |= {p.stem for folder in ("benchmarks", "tests") for p in (ROOT / folder).glob("*.py")}
    # xrd-rust is measured against, where present; Triton comes with PyTorch's builds for CUDA.
    optional = {"xrd_rust", "triton"}
    for folder in ("unimat_lib", "tools", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for module in imported(path) - own - optional - set(sys.stdlib_module_names):
                name = canonicalize_name(IMPORT_NAMES.get(module, module))
                assert name in known, f"{path.name} imports {module}: add it to pyproject.toml"


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found

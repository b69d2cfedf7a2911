"""The locks, pyproject.toml, conda, Binder, the workflow and `make` describe one environment."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
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
PACKAGES = ("unimat_lib", "unimat_powder", "unimat_book")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def entries(name: str) -> dict[str, tuple[str, list[str]]]:
    """Package to version and hashes, as a lock has them; everything else in it is a comment."""
    text = (ROOT / name).read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "--"))]
    assert lines == sorted(lines, key=lambda line: line.split("==")[0]), f"sort {name}: make lock"
    found = {}
    for line in lines:
        match = re.fullmatch(
            r"([a-z0-9-]+)==([\w.!+]+)((?:\s+--hash=sha256:[0-9a-f]{64})*)\s*", line
        )
        assert match, f"{name}: {line[:80]} is not NAME==VERSION with hashes"
        package, version, hashes = match.groups()
        assert package not in found, f"{name} has {package} twice"
        found[package] = (version, [h.partition(":")[2] for h in hashes.split()])
    return found


LOCKED = entries("requirements.lock")
LOCK = {name: version for name, (version, _) in LOCKED.items()}
CPU, CUDA = entries("requirements-cpu.lock"), entries("requirements-cuda.lock")
GPU_MACHINE = {name: version for name, (version, _) in entries("requirements-gpu.txt").items()}
# Imported under another name than the package's own.
IMPORT_NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow", "faiss": "faiss-cpu"}


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    locked = (lines for name, lines in extras.items() if name != "mp")  # a reader's own, once
    lines = [*PROJECT["dependencies"], *(line for extra in locked for line in extra)]
    return [Requirement(line) for line in lines if not line.startswith("unimat-lib")]


@pytest.mark.parametrize("lock", [LOCKED, CPU, CUDA], ids=["lock", "cpu", "cuda"])
def test_every_locked_file_is_known_by_its_hash(lock) -> None:
    for package, (_, hashes) in lock.items():
        assert hashes, f"{package} has no hash: make lock"
        assert hashes == sorted(set(hashes))


def test_lock_names_public_versions() -> None:
    assert [v for v in LOCK.values() if "+" in v] == []  # a local version is nobody else's
    assert LOCK["torch"] == "2.13.0"
    assert LOCK["jupyter-book"] == "1.0.4.post1"


def test_either_build_of_torch_fits_the_lock() -> None:
    """So that environments that are made from the lock in one go may take either."""
    version, hashes = CPU["torch"]
    assert list(CPU) == ["torch"] and version == f"{LOCK['torch']}+cpu"
    assert set(hashes) < set(LOCKED["torch"][1])
    assert f"--extra-index-url {CPU_INDEX}" in (ROOT / "requirements-cpu.lock").read_text()
    assert not CUDA.keys() & LOCK.keys()
    assert {"triton", "nvidia-cublas"} <= CUDA.keys()


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
            version = LOCK.get(wanted) or CUDA.get(wanted, (None,))[0]
            assert version, f"{name} needs {wanted}, which the locks lack"
            assert need.specifier.contains(version, prereleases=True), f"{name} needs {need}"


def test_published_pages_ran_with_versions_that_are_listed() -> None:
    assert GPU_MACHINE.keys() <= LOCK.keys() | CUDA.keys()
    for notebook in sorted((ROOT / "chapters").glob("*.ipynb")):
        stamp = json.loads(notebook.read_text())["metadata"].get("unimat", {})
        for package, version in stamp.get("versions", {}).items():
            name = canonicalize_name(package)
            known = {LOCK.get(name), GPU_MACHINE.get(name)}
            if known != {None}:
                assert version.split("+")[0] in known, f"{notebook.name}: {package} {version}"


def test_conda_and_binder_read_the_locks() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, section = environment["dependencies"]
    minor = python.removeprefix("python=")
    assert pip == "pip"
    locks = ["requirements-cpu.lock", "requirements.lock"]
    assert section["pip"] == [f"-r {lock}" for lock in locks]
    assert (ROOT / ".binder/runtime.txt").read_text().strip() == f"python-{minor}"
    listed = (ROOT / ".binder/requirements.txt").read_text().splitlines()
    assert listed == [f"-r ../{lock}" for lock in locks]
    after = ROOT / ".binder/postBuild"
    assert os.access(after, os.X_OK) and "--no-deps -e ." in after.read_text()
    workflow = (ROOT / ".github/workflows/book.yml").read_text()
    assert set(re.findall(r'python-version: "([\d.]+)"', workflow)) == {minor}
    assert PROJECT["requires-python"] == f">={minor}"


def test_actions_are_pinned_by_commit() -> None:
    for path in (ROOT / ".github").rglob("*.yml"):
        used = re.findall(r"uses: (.*)", path.read_text())
        assert used
        for line in used:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+(\.\d+)+", line), (
                f"{path.name}: {line}"
            )


def test_every_locked_package_has_a_licence_listed() -> None:
    rows = [line.split("|")[1:4] for line in (ROOT / "LICENCES.md").read_text().splitlines()[2:]]
    listed = {canonicalize_name(name.strip()): version.strip() for name, version, _ in rows}
    assert {n: v.split("+")[0] for n, v in listed.items()} == LOCK, "make licences"
    assert all(licence.strip() for *_, licence in rows)


@pytest.mark.parametrize(
    ("answer", "chosen", "other", "words"),
    [
        ("exit 9", "requirements-cpu.lock", "requirements-cuda.lock", "build for the CPU"),
        ("echo GPU 0: a card", "requirements-cuda.lock", "requirements-cpu.lock", "with CUDA"),
    ],
    ids=["no GPU", "a GPU"],
)
def test_make_chooses_the_build_of_torch_and_says_so(tmp_path, answer, chosen, other, words):
    if answer == "exit 9" and Path("/proc/driver/nvidia/gpus").is_dir():
        pytest.skip("a machine with an NVIDIA GPU")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{answer}\n")
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "MAKEFLAGS": ""}
    environment.pop("TORCH", None)
    command = ["make", "--dry-run", "--always-make", ".venv/.installed"]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    steps = [line for line in made.stdout.splitlines() if "pip install" in line]
    steps = [step for step in steps if not (step.startswith("test cuda = cuda ||"))]
    assert words in made.stdout
    assert any(chosen in step for step in steps) and not any(other in step for step in steps)
    assert all("--require-hashes" in step for step in steps if "-r requirements" in step)


def test_code_imports_only_what_is_declared() -> None:
    known = {canonicalize_name(r.name) for r in declared()}
    folders = [*PACKAGES, "benchmarks", "tests", ".ci"]
    own = {*PACKAGES, *(path.stem for path in python_files("benchmarks", "tests", ".ci"))}
    # Measured against where present; Triton comes with PyTorch's builds for CUDA.
    optional = {"xrd_rust_calculator", "ase", "matscipy", "vesin", "triton"}
    for path in python_files(*folders):
        for module in imported(path) - own - optional - set(sys.stdlib_module_names):
            name = canonicalize_name(IMPORT_NAMES.get(module, module))
            assert name in known, f"{path.name} imports {module}: add it to pyproject.toml"


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds what a wheel of this tree would install."""
    tree, site = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("site")
    for name in (*PACKAGES, "data/library", "data/reader"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tree / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*build, "--wheel-dir", str(site), str(tree)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    (wheel,) = site.glob("*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    return site


def test_wheel_brings_the_models_the_library_and_the_manifest(installed: Path) -> None:
    for package in PACKAGES:
        modules = {p.relative_to(ROOT) for p in python_files(package)}
        assert modules == {p.relative_to(installed) for p in (installed / package).rglob("*.py")}
    assert (installed / "unimat_lib/datasets/manifest.yml").is_file()
    assert (installed / "unimat_powder/search/weights.json").is_file()
    assert (installed / "unimat_powder/combine.json").is_file()
    links = {"library/embedded": "library", "network/shipped": "reader"}
    for place, source in links.items():
        shipped = {p.name: p.read_bytes() for p in (installed / "unimat_powder" / place).iterdir()}
        assert shipped, place
        assert shipped == {p.name: p.read_bytes() for p in (ROOT / "data" / source).iterdir()}


def test_identify_runs_from_a_wheel_outside_of_the_checkout(installed: Path, tmp_path) -> None:
    lines = ((27.4, 1000), (36.1, 450), (41.2, 180), (54.3, 550), (56.6, 150), (69.0, 200))
    with open(tmp_path / "scan.xy", "w") as file:
        for step in range(4200):
            angle = 5 + 0.02 * step
            height = sum(h * 2 ** -(((angle - at) / 0.05) ** 2) for at, h in lines)
            file.write(f"{angle:.2f} {20 + height:.2f}\n")
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    environment.pop("UNIMAT_ROOT", None)
    environment |= {"XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    told = "import sys; from unimat_powder import command as m; print(m.__file__)"
    command = [sys.executable, "-c", f"{told}; sys.exit(m.main(sys.argv[1:]))", "identify"]
    command += ["scan.xy", "--formula", "TiO2", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    module, *answer = done.stdout.splitlines()
    assert Path(module) == installed / "unimat_powder/command.py"
    (found,) = json.loads("".join(answer))
    assert found["crystal_system"]["tetragonal"] > 0.5  # rutile's lines

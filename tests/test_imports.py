"""The drawing of who imports whom, and how long a module may be."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / ".ci"
PACKAGES = ("unimat_lib", "unimat_powder", "unimat_book")


def imports_below(folder: Path, **modules: str) -> dict:
    """What is found below a folder, by a process of its own: this one has the real packages."""
    for name, text in modules.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    code = (
        f"import json, pathlib, sys; sys.path.append({str(SCRIPTS)!r});"
        "from draw_imports import Imports;"
        "found = Imports(pathlib.Path.cwd());"
        "print(json.dumps([found.rows(), found.arrows, sorted(found.circles)]))"
    )
    # -P: the folder comes to the path when the packages are looked for, not before.
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(("rows", "arrows", "circles"), json.loads(done.stdout), strict=True))


def test_a_module_stands_above_what_it_imports(tmp_path) -> None:
    found = imports_below(
        tmp_path,
        unimat_lib__low="",
        unimat_lib__middle="from unimat_lib import low",
        unimat_lib__high="from unimat_lib import middle, low",
        unimat_powder__top="def f():\n    import unimat_lib.high",
    )
    rows = [["unimat_lib.low"], ["unimat_lib.middle"], ["unimat_lib.high"], ["unimat_powder.top"]]
    assert found["rows"] == [[row[0].split(".")[0], row] for row in rows]
    assert found["arrows"] == [  # high to low follows from the others
        ["unimat_lib.high", "unimat_lib.middle"],
        ["unimat_lib.middle", "unimat_lib.low"],
        ["unimat_powder.top", "unimat_lib.high"],
    ]
    assert not found["circles"]


def test_circles_are_found(tmp_path) -> None:
    found = imports_below(
        tmp_path,
        unimat_lib__one="from unimat_lib import two",
        unimat_lib__two="import typing\nif typing.TYPE_CHECKING:\n    from unimat_lib import one",
        unimat_lib__user="from unimat_lib import one",
    )
    circle = [["unimat_lib.one", "unimat_lib.two"], ["unimat_lib.two", "unimat_lib.one"]]
    assert found["circles"] == circle
    assert sorted(found["arrows"]) == [*circle, ["unimat_lib.user", "unimat_lib.one"]]


def test_every_module_is_drawn_and_published(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from draw_imports import Imports, imports

    found = Imports(ROOT)
    drawn = {text.get_gid() for text in imports(found).axes[0].texts}
    assert drawn - {None} == set(found.modules)
    published = (ROOT / "_static/imports.svg").read_text()
    groups = set(re.findall(r'<g id="(unimat_\w+(?:\.\w+)*)"', published))
    assert groups == set(found.modules), "make imports"


def test_a_module_of_the_packages_has_at_most_600_lines() -> None:
    modules = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    assert len(modules) > 50, "the packages were not found"
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in modules}
    assert not {name: length for name, length in lengths.items() if length > 600}

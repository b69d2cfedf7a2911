"""The identity of code: what changes it, what does not, and how far it reaches."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from unimat_lib import identity
from unimat_lib.identity import identity_of, identity_of_source, normal_form


class Toy:
    """Small packages in a folder, and whether an edit changes what a piece of code depends on."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, **modules: str) -> Toy:
        """Keyword ``a__b`` is ``unimat_toy/a/b.py``; ``init`` in the end is ``__init__.py``."""
        for name, text in {"init": "", **modules}.items():
            self.file(name).parent.mkdir(parents=True, exist_ok=True)
            self.file(name).write_text(textwrap.dedent(text))
        return self

    def file(self, name: str) -> Path:
        *folders, last = name.split("__")
        return self.root.joinpath("unimat_toy", *folders, f"{last.replace('init', '__init__')}.py")

    def of(self, source: str) -> identity.Identity:
        return identity_of_source(textwrap.dedent(source), self.root)

    def changes(self, source: str, name: str, old: str, new: str) -> bool:
        """Whether the identity of ``source`` changes when ``old`` becomes ``new`` in a module."""
        before, text = self.of(source), self.file(name).read_text()
        assert text.count(old) == 1, (old, text)
        self.file(name).write_text(text.replace(old, new))
        identity._read.cache_clear()  # two writes may share one time stamp
        after = self.of(source)
        self.file(name).write_text(text)
        identity._read.cache_clear()
        return before.digest != after.digest


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


VALUE = "def f():\n    return 1\n\ndef other():\n    return 2\n"

WAYS = {
    "from": "from unimat_toy.a import f\nf()",
    "renamed": "from unimat_toy.a import f as g\ng()",
    "module": "from unimat_toy import a\na.f()",
    "module renamed": "import unimat_toy.a as m\nm.f()",
    "dotted": "import unimat_toy.a\nunimat_toy.a.f()",
    "dotted twice": "import unimat_toy.a, unimat_toy.b\nunimat_toy.a.f()",
    "in a function": "def g():\n    from unimat_toy.a import f\n    return f()\ng()",
    "module in a function": "def g():\n    from unimat_toy import a\n    return a.f()\ng()",
    "dotted in a function": "def g():\n    import unimat_toy.a\n    return unimat_toy.a.f()\ng()",
    "through another": "from unimat_toy.b import again\nagain()",
    "through a package": "from unimat_toy.p import f\nf()",
    "through a package's module": "from unimat_toy import p\np.f()",
    "through a module of a module": "from unimat_toy import b\nb.a.f()",
    "relative": "from unimat_toy.p.deep import g\ng()",
    "relative in a function": "from unimat_toy.p.deep import late\nlate()",
    "star": "from unimat_toy.a import *\nf()",
    "star elsewhere": "from unimat_toy.star import g\ng()",
    "try": "try:\n    from unimat_toy.a import f\nexcept ImportError:\n    f = None\nf()",
    "try, as a module": "from unimat_toy.tried import g\ng()",
    "default argument": "from unimat_toy.a import f\ndef g(x=f()):\n    return x\ng()",
    "decorator": "from unimat_toy import a\n@a.f\ndef g():\n    return 1\n",
    "base class": "from unimat_toy.classes import Child\nChild()",
    "method": "from unimat_toy.classes import User\nUser().run()",
    "two bindings in one class": "from unimat_toy.classes import Both\nBoth()",
    "module as a value": "from unimat_toy import a\nprint(vars(a))",
    "magic": "%matplotlib inline\n!ls\nfrom unimat_toy.a import f\n%time f()",
    "operator at the start of a line": "from unimat_toy.a import f\nx = (f()\n     % 2)\n%pwd",
    "name is main": "from unimat_toy.a import f\nif __name__ == '__main__':\n    f()",
    "module instead of a definition": "from unimat_toy.same import use\nuse()",
}


FOLLOW_MORE = (
    *("module as a value", "star", "star elsewhere"),
    *("two bindings in one class", "through a module of a module", "try, as a module"),
)


@pytest.fixture
def ways(toy: Toy) -> Toy:
    return toy.write(
        a=VALUE,
        b="from unimat_toy import a\nfrom unimat_toy.a import f as again\n",
        p__init="from ..a import f\n",
        p__deep="from . import f\n\ndef g():\n    return f()\n\n"
        "def late():\n    from ..a import f as q\n    return q()\n",
        star="from unimat_toy.a import *\n\ndef g():\n    return f()\n",
        tried="try:\n    import unimat_toy.a as m\nexcept ImportError:\n    m = None\n\n"
        "def g():\n    return m.f()\n",
        classes="""
            from unimat_toy import a, b
            from unimat_toy.a import f
            class Parent:
                x = f()
            class Child(Parent):
                pass
            class User:
                def run(self):
                    return a.f()
            class Both:
                def one(self):
                    from unimat_toy.a import other as f
                    return f()
                def two(self):
                    return f()
            """,
        same="from unimat_toy import a as f\n\ndef use():\n    return f.f()\n",
    )


@pytest.mark.parametrize("way", WAYS)
def test_the_closure_follows_every_way_to_a_definition(ways, way):
    source = WAYS[way]
    assert ways.changes(source, "a", "return 1", "return 3"), "reached, but not noticed"
    if way not in FOLLOW_MORE:
        assert not ways.changes(source, "a", "return 2", "return 4"), "not reached, but counted"


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("SCALE = 2", "SCALE = 3", True),
        ("OFFSET: int = 1", "OFFSET: int = 2", True),
        ("LIST.append(1)", "LIST.append(2)", True),
        ("SETTINGS['a'] = 1", "SETTINGS['a'] = 2", True),
        ("SETTINGS.b = 1", "SETTINGS.b = 2", True),
        ("SUM += 1", "SUM += 2", True),
        ("if SCALE > 5:", "if SCALE > 6:", True),
        ("return x * SCALE", "return x + SCALE", True),
        ("y=7", "y=8", True),
        ("UNUSED = 4", "UNUSED = 5", False),
        ("return 'unreached'", "return 'nobody'", False),
        ("# a comment", "# another", False),
        ("Of the module.", "About the module.", False),
        ("Of the function.", "About the function.", False),
        ("Of the class.", "About the class.", False),
        ("Of the field.", "About the field.", False),
        ("Of the constant.", "About the constant.", False),
        ("return x * SCALE", "return (x *\n        SCALE)", False),
        ("import never", "import nothing", False),
        ("x: Sized", "x: Iterable", True),  # part of the definition's text
    ],
)
def test_what_counts_in_a_module(toy, old, new, counts):
    toy.write(
        a="""
        '''Of the module.'''
        from __future__ import annotations
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            import never
        SCALE = 2
        '''Of the constant.'''
        OFFSET: int = 1
        LIST, SUM = [], 0
        LIST.append(1)
        SETTINGS['a'] = 1
        SETTINGS.b = 1
        SUM += 1
        UNUSED = 4
        if SCALE > 5:
            raise ValueError
        class Thing:
            '''Of the class.'''
            size: int = 1
            '''Of the field.'''
        def f(x: Sized, y=7):
            '''Of the function.'''
            # a comment
            return x * SCALE
        def unreached():
            return 'unreached'
        """,
    )
    source = "from unimat_toy.a import f, Thing, OFFSET\nf(Thing(), OFFSET)"
    assert toy.changes(source, "a", old, new) is counts


def test_imports_that_only_run_count_and_type_checking_ones_do_not(toy):
    toy.write(
        a="""
        from typing import TYPE_CHECKING
        import unimat_toy.effect
        if TYPE_CHECKING:
            from unimat_toy.types import T
        else:
            from unimat_toy.real import T
        if not TYPE_CHECKING:
            from unimat_toy.real import U
        def f():
            return T, U
        if __name__ == "__main__":
            from unimat_toy.script import main
            main()
        """,
        effect="print(1)\ndef unused():\n    return 1\n",
        types="class T:\n    x = 1\n",
        real="class T:\n    x = 1\nclass U:\n    y = 1\n",
        script="def main():\n    return 1\n",
    )
    source = "from unimat_toy.a import f\nf()"
    assert set(toy.of(source).code) == {"unimat_toy.a", "unimat_toy.effect", "unimat_toy.real"}
    assert toy.changes(source, "effect", "print(1)", "print(2)")
    assert not toy.changes(source, "effect", "return 1", "return 2")
    assert toy.changes(source, "real", "x = 1", "x = 2")
    assert toy.changes(source, "real", "y = 1", "y = 2")


def test_a_name_that_stands_for_another_thing_is_another_code(toy):
    toy.write(
        a="from math import sin as g\nfrom unimat_toy.b import one as p, two as q\n"
        "def f(x):\n    return g(p(x)) - q(x)\n",
        b="def one(x):\n    return x\ndef two(x):\n    return 2 * x\n",
    )
    source = "from unimat_toy.a import f\nf(1)"
    assert toy.changes(source, "a", "sin as g", "cos as g")
    assert toy.changes(source, "a", "one as p, two as q", "two as p, one as q")


def test_names_that_a_function_has_for_itself_reach_nothing(toy):
    toy.write(
        a="""
        from unimat_toy.b import table, row
        def size():
            return 1
        def f(table):
            size = len(table)
            for row in table:
                size += row
            return size
        def g():
            return [size for size in range(3)], size()
        def h(x=size):
            return x
        def k():
            size = 2
            class Inner:
                def m(self):
                    return size
            return Inner
        """,
        b="def table():\n    return 1\ndef row():\n    return 2\n",
    )
    for name, reaches in {"f": False, "g": True, "h": True, "k": True}.items():
        source = f"from unimat_toy.a import {name}\n{name}"
        assert toy.changes(source, "a", "return 1", "return 3") is reaches or name == "k"
        assert not toy.changes(source, "b", "return 1", "return 3")


def test_what_a_decorator_of_the_family_registers_counts(toy):
    toy.write(
        a="""
        from functools import cache
        from unimat_toy.b import register, table
        @register
        def kept():
            return 1
        @cache
        def free():
            return 2
        def f():
            return table
        """,
        b="table = []\ndef register(function):\n    table.append(function)\n    return function\n",
    )
    source = "from unimat_toy.a import f\nf()"
    assert toy.changes(source, "a", "return 1", "return 3")
    assert not toy.changes(source, "a", "return 2", "return 4")


def test_words_of_figures_and_settings_of_kernels_do_not_count(tmp_path):
    figures, kernels = tmp_path / "unimat_book/figures", tmp_path / "unimat_lib/kernels"
    for folder in (figures, kernels):
        folder.mkdir(parents=True)
    plain = tmp_path / "unimat_lib/plain.py"

    def digest(label: str, *, block: int = 1, warps: int = 4, size: float = 1.0) -> str:
        (figures / "a.py").write_text(f"def draw(n):\n    return n.plot({size}, label='{label}')\n")
        kernel = f"_BLOCK = {block}\nfine = {size}\n"
        kernel += f"def k():\n    return launch(_BLOCK, fine, num_warps={warps})\n"
        (kernels / "k.py").write_text(kernel)
        plain.write_text(f"TITLE = '{label}'\ndef p():\n    return TITLE\n" if plain_too else "")
        identity._read.cache_clear()
        source = "from unimat_book.figures.a import draw\nfrom unimat_lib.kernels.k import k\n"
        source += "from unimat_lib.plain import p\np()\n" if plain_too else ""
        return identity_of_source(f"{source}draw(k())", tmp_path).digest

    plain_too = False
    first = digest("length")
    assert digest("other word") == first
    assert digest("length", block=2) == digest("length", warps=8) == first
    assert digest("length", size=2.0) != first
    plain_too = True  # elsewhere a word is a value
    assert digest("length") != digest("other word")


def test_versions_are_those_of_the_packages_that_were_reached(toy, monkeypatch):
    toy.write(
        a="import yaml\nimport numpy as np\ndef f():\n    import spglib\n    return np\n"
        "def g():\n    return yaml\n"
    )
    source = "import json\nfrom unimat_toy.a import f\nf()"
    assert set(toy.of(source).versions) == {"numpy", "spglib"}
    assert set(toy.of("from unimat_toy.a import g\ng()").versions) == {"PyYAML"}
    assert set(toy.of("import pymatgen.core as p\np.Lattice").versions) >= {"pymatgen"}
    before = toy.of(source).digest
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0")
    assert toy.of(source).digest != before


def test_cells_that_are_no_python_are_an_error():
    with pytest.raises(SyntaxError):
        identity_of_source("x = = 1", Path("."))
    assert normal_form("%time x\n") == "%time x"
    assert normal_form("x  =  1 # c") == normal_form("x = 1")
    assert normal_form("f(x)") != normal_form("f(x);")
    assert normal_form("'a'") != normal_form("'b'")  # the value of a cell is its output
    assert normal_form("f'{x}'") != normal_form("f'{y}'")


@pytest.mark.parametrize(
    "name", ["unimat_lib.training.fit:absent", "unimat_lib.absent:f", "os:path"]
)
def test_unknown_definitions_are_refused(name):
    with pytest.raises(ValueError, match="defines no"):
        identity_of(name)


def test_the_identity_of_a_training_reaches_all_that_a_step_runs():
    reached = set(identity_of("unimat_lib.training.fit:fit").code)
    for name in (
        *("kernels.patterns", "kernels.sticks", "kernels.triplets"),
        *("views.bragg", "views.render", "views.effects", "views.graphs", "views.composition"),
        *("encoders.pattern", "encoders.structure", "encoders.composition", "encoders.linear"),
        *("alignment", "fusion", "heads", "model", "training.loop", "training.captured_step"),
        *("training.config", "training.checkpoint"),
    ):
        assert f"unimat_lib.{name}" in reached
    assert not any(name.startswith(("unimat_book", "unimat_powder")) for name in reached)
    assert {"torch", "torch-geometric"} <= set(identity_of("unimat_lib.training.fit:fit").versions)


def test_an_identity_takes_little_time():
    code = (
        "import time, unimat_lib.identity as i\n"
        "i.identity_of('unimat_lib.training.fit:fit')\n"
        "i._read.cache_clear(); i.identity_of.cache_clear(); started = time.process_time()\n"
        "i.identity_of('unimat_lib.training.fit:fit')\n"
        "print(time.process_time() - started)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1  # 0.3 s on an idle core


def test_parts_are_read_anew_when_a_file_changes(toy):
    toy.write(a=VALUE)
    before = toy.of("from unimat_toy.a import f\nf()").digest
    written = toy.file("a").stat().st_mtime_ns
    toy.file("a").write_text(VALUE.replace("return 1", "return 3"))
    os.utime(toy.file("a"), ns=(written, written + 1))  # a clock may tell no time between the two
    assert toy.of("from unimat_toy.a import f\nf()").digest != before

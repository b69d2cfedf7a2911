"""The table of contents, and the page of the library's public names: all there and described."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "chapters/api.md").read_text()
BLOCK = re.compile(r"\.\. currentmodule:: (\S+)\n\.\. autosummary::\n.*?\n\n(.*?)```", re.DOTALL)
NAMES = [f"{module}.{name}" for module, names in BLOCK.findall(PAGE) for name in names.split()]
INVENTORIES = ROOT / "_static/inventories"


def found(name: str):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_importable_and_described(name: str) -> None:
    thing = found(name)
    assert thing.__module__ == name.rpartition(".")[0], f"{name} is defined elsewhere"
    own = thing.__doc__ or ""
    assert len(own.splitlines()[0].split()) >= 3, f"{name} needs a docstring of its own"


def test_page_is_a_page() -> None:
    assert 40 <= len(NAMES) <= 70
    assert len(set(NAMES)) == len(NAMES)
    assert not [name for name in NAMES if "._" in name]
    folders = [re.match(r"unimat_lib\.(\w+)", name)[1] for name in NAMES]
    flow = ["crystals", "datasets", "views", "encoders", "alignment", "fusion", "heads", "model"]
    assert list(dict.fromkeys(folders)) == [*flow, "training", "evaluation"]


def test_full_descriptions_are_those_of_the_page() -> None:
    text = (ROOT / "chapters/api_details.md").read_text()
    wanted = [f"auto{'class' if inspect.isclass(found(n)) else 'function'}:: {n}" for n in NAMES]
    assert re.findall(r"auto\w+:: \S+", text) == wanted


def test_links_lead_to_names_that_exist() -> None:
    """Sphinx takes the lists of other projects' names on trust, for a build needs no network."""
    mapping = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    listed = {Path(path) for _, path in mapping["intersphinx_mapping"].values()}
    assert listed == {path.relative_to(ROOT) for path in INVENTORIES.iterdir()}
    for path in INVENTORIES.iterdir():
        first, _, _, *lines = path.read_text().splitlines()
        assert first == "# Sphinx inventory version 1"
        for line in lines:
            name, kind, page = line.split(" ")
            thing = found(name if "." in name else f"builtins.{name}")
            assert page.endswith(".html")
            assert kind == "data" or inspect.isclass(thing) or name == "typing.NamedTuple"


def test_chapter_numbers_are_those_of_their_files() -> None:
    """Sphinx counts the chapters of all numbered parts in one go."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    numbered, others = [], []
    for part in parts:
        files = [Path(entry["file"]).stem for entry in part["chapters"]]
        (numbered if part.get("numbered") else others).extend(files)
    assert [name[:3] for name in numbered] == [f"{i + 1:02d}_" for i in range(len(numbered))]
    appendices = [part for part in parts if part["caption"] == "Appendix"]
    (names,) = [[Path(entry["file"]).stem for entry in part["chapters"]] for part in appendices]
    assert [name[:3] for name in names] == [f"A{i + 1}_" for i in range(len(names))]
    assert not [name for name in others if name[0].isdigit()]

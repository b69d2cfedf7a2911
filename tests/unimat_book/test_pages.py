"""The pages as written: complete, linked, labelled, and within the book's own rules."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
import yaml
from sources import PROFILES, Book, is_parameters

ROOT = Path(__file__).resolve().parents[2]
BOOK = Book(ROOT)
CHAPTERS = list(BOOK.chapters.values())
PAGES = sorted(
    path
    for pattern in ("*.md", "chapters/*.md", "chapters/src/*.md")
    for path in ROOT.glob(pattern)
)
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def without_code(text: str) -> str:
    """Drop fenced blocks that are code, keep directives."""
    kept: list[str] = []
    fences: list[tuple[str, bool]] = []  # open ones: the mark, and whether it holds code
    for line in text.splitlines():
        mark, rest = re.match(r"(`{3,})?(.*)", line).groups()
        if mark and fences and mark == fences[-1][0] and not rest.strip():
            fences.pop()
        elif any(code for _, code in fences):
            continue
        elif mark:
            fences.append((mark, not rest.startswith("{") or rest.startswith("{code-cell}")))
        else:
            kept.append(line)
    return "\n".join(kept)


def test_table_of_contents_lists_every_page_once() -> None:
    assert len(set(BOOK.toc)) == len(BOOK.toc)
    notebooks = [Path(page).stem for page in BOOK.toc if page.endswith(".ipynb")]
    assert notebooks == list(BOOK.chapters)
    written = {str(p.relative_to(ROOT)) for p in ROOT.glob("chapters/*.md")} | {"index.md"}
    assert {page for page in BOOK.toc if page.endswith(".md")} == written


@pytest.mark.parametrize("profile", PROFILES)
def test_parameters_of_every_profile_are_valid(profile: str) -> None:
    for name, values in BOOK.parameters(profile).items():
        assert values["run_dir"] == ("data" if profile == "full" else "_build/quick"), name


@each_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    # Chapter sources are read from the folder above, where the notebooks are published.
    base = page.parent.parent if page.parent.name == "src" else page.parent
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text("utf-8"))):
        path = target.split("#")[0]
        if not path or re.match(r"[a-z]+:", target):
            continue
        found = (base / path).exists()
        if path.endswith(".ipynb"):  # published by a run; its source is what is written
            found = Path(path).stem in BOOK.chapters
        assert found, f"{page.name} links to {target}, which does not exist"


@each_page
def test_no_page_tells_of_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|tmp|root|home)/\w", page.read_text("utf-8"))


def test_labels_are_unique_in_the_book() -> None:
    seen: dict[str, str] = {}
    patterns = (
        r"^\(([\w-]+)\)=$",  # section
        r"^\$\$ \(([\w-]+)\)$",  # equation
        r"^:label: ([\w-]+)$",  # equation, exercise, solution
        r"^ *:?name: ((?:fig|tab|tbl)-[\w-]+)$",  # figure, table
    )
    for page in (p for p in PAGES if p.parent != ROOT or p.name == "index.md"):
        for pattern in patterns:
            for label in re.findall(pattern, page.read_text("utf-8"), flags=re.M):
                assert label not in seen, f"{label} is in {seen.get(label)} and in {page.name}"
                seen[label] = page.name


def test_one_bibliography() -> None:
    # A chapter may list its own works, under its own prefix; a second plain list would clash.
    texts = {
        p.name: re.findall(r"```\{bibliography\}\n.*?```", p.read_text("utf-8"), flags=re.S)
        for p in PAGES
    }
    plain = [name for name, found in texts.items() if any(":keyprefix:" not in x for x in found)]
    assert plain == ["bibliography.md"]


@each_chapter
def test_chapter_keeps_to_its_length(chapter) -> None:
    text = chapter.path.read_text("utf-8").split("---\n", 2)[-1]
    prose = re.sub(
        r"^:\w+:.*$|`{3,}\{?[\w-]*\}?|\$\$?[^$]*\$\$?", " ", without_code(text), flags=re.M
    )
    words = len(re.findall(r"[A-Za-z][A-Za-z'-]*", prose))
    shown = folded = 0
    for cell in chapter.notebook.cells:
        if cell.cell_type == "code" and not is_parameters(cell):
            lines = [line.strip() for line in cell.source.splitlines()]
            count = sum(bool(line) and not line.startswith("#") for line in lines)
            if {"hide-input", "remove-input", "remove-cell"} & set(cell.metadata.get("tags", [])):
                folded += count
            else:
                shown += count
    assert 1500 <= words <= 3200, f"{words} words"
    assert shown <= 150, f"{shown} lines of code in view (and {folded} folded)"
    assert shown + folded <= 220, f"{shown} lines of code in view and {folded} folded"


@each_chapter
def test_chapter_is_whole(chapter) -> None:
    source = chapter.path.read_text("utf-8")
    first = chapter.notebook.cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"(\([\w-]+\)=\n)?# \S", first.source), "a title comes first"
    assert "run_dir" in chapter.parameters
    assert len(re.findall(r"^`{3,}\{exercise\}", source, flags=re.M)) >= 2
    assert "assert " in source, "no visible sanity check"
    for number, cell in enumerate(chapter.notebook.cells):
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if figure:
            assert figure["name"].startswith("fig-"), number
            assert len(figure["caption"].split()) >= 4, f"cell {number}: say what is seen"
            alt = cell.metadata["mystnb"].get("image", {}).get("alt", "")
            assert len(alt.split()) >= 4, f"cell {number}: a figure needs an alt text"


def test_launch_buttons_open_real_files() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["repository"]["path_to_book"] == ""  # else the addresses hold "/./"
    assert config["launch_buttons"].keys() >= {"colab_url", "binderhub_url"}
    published = [page for page in BOOK.toc if page.endswith(".ipynb") and (ROOT / page).is_file()]
    if not published:
        pytest.skip("no chapter is published yet: unimat-book run all --profile full")
    assert published == [page for page in BOOK.toc if page.endswith(".ipynb")]
    for page in published:
        nbformat.validate(nbformat.read(ROOT / page, as_version=4))

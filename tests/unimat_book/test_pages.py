"""The pages as written: complete, linked, labelled, and within the book's own rules."""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from unimat_book.run.sources import PROFILES, Book, is_parameters

ROOT = Path(__file__).resolve().parents[2]
BOOK = Book(ROOT)
CHAPTERS = list(BOOK.chapters.values())
PAGES = sorted(
    path
    for pattern in ("*.md", "chapters/*.md", "chapters/src/*.md")
    for path in ROOT.glob(pattern)
)
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell", "answer"}
GATED = re.compile(r"^```\{solution-start\}.*?^```\{solution-end\}\n```$", re.M | re.S)
DROPDOWN = re.compile(
    r"^(`{3,}|:{3,})\{(?:solution|admonition)\}([^\n]*\n)(?::\w+:[^\n]*\n)*?"
    r":class:[^\n]*\bdropdown\b.*?^\1$",
    re.M | re.S,
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
    listed = (page for page in BOOK.toc if page.startswith("chapters"))
    notebooks = [Path(page).stem for page in listed if page.endswith(".ipynb")]
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


def in_view(text: str) -> str:
    """Without what a reader sees only after unfolding it: answers; a question's title stays."""
    return DROPDOWN.sub(r"\2", GATED.sub("", text))


@each_chapter
def test_chapter_keeps_to_its_length(chapter) -> None:
    text = in_view(chapter.path.read_text("utf-8").split("---\n", 2)[-1])
    prose = re.sub(
        r"^:\w+:.*$|`{3,}\{?[\w-]*\}?|\$\$?[^$]*\$\$?", " ", without_code(text), flags=re.M
    )
    words = len(re.findall(r"[A-Za-z][A-Za-z'-]*", prose))
    assert 1500 <= words <= 3200, f"{words} words"
    cells = [cell for cell in chapter.notebook.cells if cell.cell_type == "code"]
    shown = [cell.source for cell in cells if not is_parameters(cell) and not folded(cell)]
    lines = [line.strip() for source in shown for line in source.splitlines()]
    count = sum(bool(line) and not line.startswith("#") for line in lines)
    assert count <= 150, f"{count} lines of code in view: fold cells or move code to a helper"


def folded(cell) -> bool:
    return bool(FOLDED & set(cell.metadata.get("tags", [])))


@each_chapter
def test_imports_are_folded_away(chapter) -> None:
    for number, cell in enumerate(chapter.notebook.cells):
        if cell.cell_type == "code" and not folded(cell):
            found = re.findall(r"^(?:import|from) .*", cell.source, flags=re.M)
            assert not found, f"cell {number} shows its imports: tag it hide-input"


@each_chapter
def test_chapter_is_whole(chapter) -> None:
    source = chapter.path.read_text("utf-8")
    first = chapter.notebook.cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"(\([\w-]+\)=\n)?# \S", first.source), "a title comes first"
    assert "run_dir" in chapter.parameters
    assert "assert " in source, "no visible sanity check"
    for number, cell in enumerate(chapter.notebook.cells):
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if figure:
            assert figure["name"].startswith("fig-"), number
            assert len(figure["caption"].split()) >= 4, f"cell {number}: say what is seen"
            alt = cell.metadata["mystnb"].get("image", {}).get("alt", "")
            assert len(alt.split()) >= 4, f"cell {number}: a figure needs an alt text"


@each_chapter
def test_questions_and_exercises_have_answers(chapter) -> None:
    source = chapter.path.read_text("utf-8")
    before, questions = source.split("\n## Check yourself\n")
    questions, exercises = questions.split("\n## Exercises\n")
    asked = re.findall(
        r"^:::\{admonition\} (\d)\. .*\?.*\n:class: dropdown question$", questions, re.M
    )
    assert asked == list("12345")
    tasks = re.findall(r"^```\{exercise\} .+\n:label: ex-([\w-]+)$", exercises, re.M)
    answered = re.findall(r"^`{3,4}\{solution(?:-start)?\} ex-([\w-]+)$", exercises, re.M)
    assert 5 <= len(tasks) <= 6 and answered == tasks
    titles = re.findall(r"^```\{exercise\} (.+)$", exercises, re.M)
    assert any(title.startswith("Change the ") for title in titles), "one changes a model"
    assert "my_file" in exercises, "one takes the reader's own file"
    assert "```{exercise}" not in before + questions


@each_chapter
def test_answers_that_are_code_are_run_and_folded(chapter) -> None:
    source = chapter.path.read_text("utf-8")
    assert "```python" not in source.split("\n## Exercises\n")[1], "an answer that nobody has run"
    tagged = r"^```\{code-cell\} ipython3\n:tags: \[answer\]$"
    inside = sum(len(re.findall(tagged, part, re.M)) for part in GATED.findall(source))
    assert inside == len(re.findall(tagged, source, re.M)) >= 3
    for part in GATED.findall(source):
        assert part.count("{code-cell}") == len(re.findall(tagged, part, re.M))


@each_chapter
def test_chapter_opens_with_result_figure_and_three_linked_takeaways(chapter) -> None:
    source = chapter.path.read_text("utf-8").split("---\n", 2)[-1]
    opening = source.split("\n| Reads |")[0]
    result = re.search(r"^# .+\n\n\*\*(.+?)\*\*$", opening, re.M | re.S)
    assert result and "{glue:text}" in result[1], "the result comes first, with its number"
    assert opening.count("    name: fig-") == 1, "then a figure"
    box = re.search(
        r"^:::\{admonition\} Key takeaways\n:class: takeaways\n(.*?)^:::$", opening, re.M | re.S
    )
    points = re.findall(r"^- .+$", box[1], re.M)
    assert 3 <= len(points) <= 5
    assert sum(bool(re.search(r"\{(?:ref|numref|eq|doc)\}", point)) for point in points) >= 3
    (parameters,) = [c for c in chapter.notebook.cells if is_parameters(c)]
    assert folded(parameters), "parameters stand in nobody's way"


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


def code_of(chapter) -> list[str]:
    """All code of a page: its cells, and the Python of its solutions."""
    cells = [cell.source for cell in chapter.notebook.cells if cell.cell_type == "code"]
    text = without_cells(chapter.path.read_text("utf-8"))
    return cells + re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)


def without_cells(text: str) -> str:
    return re.sub(r"^```\{code-cell\}.*?^```$", "", text, flags=re.M | re.S)


@each_chapter
def test_code_knows_its_names(chapter) -> None:
    """Solutions are not run: what they name must come from themselves or from the page's cells."""
    known, used = {*dir(builtins), "__file__"}, set()
    for source in code_of(chapter):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                known.add(node.name)
            elif isinstance(node, ast.arg):
                known.add(node.arg)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                known |= {(name.asname or name.name).split(".")[0] for name in node.names}
    assert used <= known, sorted(used - known)


@each_chapter
def test_code_imports_what_there_is(chapter) -> None:
    for source in code_of(chapter):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("unimat_"):
                module = importlib.import_module(node.module)
                missing = [name.name for name in node.names if not hasattr(module, name.name)]
                assert not missing, f"{node.module} has no {missing}"


@each_page
def test_modules_that_are_named_exist(page: Path) -> None:
    """In prose, commands and comments: `unimat_lib.views.graphs.periodic_graph` and the like."""
    for name in set(re.findall(r"\bunimat_(?:lib|powder|book)[\w.]*\w", page.read_text("utf-8"))):
        path = ROOT / name.replace(".", "/")
        if not path.is_dir() and not path.with_suffix(".py").is_file():
            module, _, attribute = name.rpartition(".")
            found = importlib.util.find_spec(module) if module else None
            assert found and hasattr(importlib.import_module(module), attribute), name


@each_page
def test_no_removed_tool_is_named(page: Path) -> None:
    assert "tools/book.py" not in page.read_text("utf-8")


@each_chapter
def test_a_page_prints_its_times_and_does_not_guess_them(chapter) -> None:
    text = without_cells(chapter.path.read_text("utf-8"))
    (row,) = re.findall(r"^\| Running time \|(.*)\|$", text, flags=re.M)
    assert "{glue:text}`seconds_total" in row
    few = r"(?:in|few|some|several|about|than|half|than half|one|two|ten)"
    guessed = re.findall(rf"\b{few} (?:an? |of )?(?:second|minute)s?\b[^\n]{{0,40}}", text)
    assert not guessed, guessed


def test_every_citation_is_in_the_bibliography() -> None:
    known = set(re.findall(r"^@\w+\{([^,]+),", (ROOT / "references.bib").read_text("utf-8"), re.M))
    for page in PAGES:
        text = page.read_text("utf-8")
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text):
            for key in keys.split(","):
                plain = re.sub(r"^c\w\w-", "", key.strip())  # without the page's prefix
                assert plain in known, f"{page.name} cites {key}"
    for chapter in CHAPTERS:  # a chapter's works bear its number
        text, number = chapter.path.read_text("utf-8"), chapter.number.lower()
        prefix = f"c{number}-"
        cited = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text)
        assert all(k.strip().startswith(prefix) for keys in cited for k in keys.split(","))
        assert f":keyprefix: {prefix}\n:labelprefix: {chapter.number}.\n" in text, chapter.name


def test_every_reference_leads_to_a_label() -> None:
    texts = {page.name: page.read_text("utf-8") for page in PAGES}
    whole = "\n".join(texts.values())
    labels = set(re.findall(r"^\(([\w-]+)\)=$|^\$\$ \(([\w-]+)\)$", whole, flags=re.M))
    labels = {name for pair in labels for name in pair}
    labels |= set(re.findall(r"^ *:?(?:name|label): ([\w-]+)$", whole, flags=re.M))
    tables = re.findall(r"\brec\.table\(\s*\"(\w+)\"", whole)
    labels |= {f"tab-{key.replace('_', '-')}" for key in tables}
    for name, text in texts.items():
        found = re.findall(r"\{(?:ref|numref|eq)\}`(?:[^`<]*<)?([\w-]+)>?`", text)
        assert set(found) <= labels, f"{name}: {sorted(set(found) - labels)}"


SIDES = re.compile(
    r"\b(?:on|to|from) the (?:left|right)\b|\((?:left|right)\b|(?:^|[.;:] )(?:left|right)[,:]"
    r"|\b(?:left|right|upper|lower|top|bottom)(?:-hand)? (?:panel|column|half|plot|picture)",
    re.IGNORECASE,
)
"""Words for a place beside another; on a telephone panels stand one below the other."""


def of_figures(text: str) -> list[str]:
    """Captions and alternative texts of figures, and paragraphs that name one."""
    found = re.findall(r"^ *:?(?:caption|alt): (?:\|\n)?(.*(?:\n {6}.*)*)", text, flags=re.M)
    return found + [part for part in without_code(text).split("\n\n") if "{numref}`fig-" in part]


@each_page
def test_panels_have_names_and_no_sides(page: Path) -> None:
    for text in of_figures(page.read_text("utf-8")):
        assert not SIDES.search(text), f"{page.name}: a title, not a side: {text}"


@pytest.mark.parametrize(
    "text", ["Left, a cell; right, a line.", "A (left) and B.", "To the right"]
)
def test_sides_are_found(text: str) -> None:
    page = f"  figure:\n    caption: |\n      First.\n      {text}\n  image:\n    alt: {text}\n"
    assert len([part for part in of_figures(page) if SIDES.search(part)]) == 2


def test_glossary_has_every_term_that_is_asked_for() -> None:
    glossary = (ROOT / "chapters/glossary.md").read_text("utf-8")
    terms = {line.lower() for line in re.findall(r"^(\S.*)$", glossary, flags=re.M)}
    for page in PAGES:
        for term in re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", page.read_text("utf-8")):
            assert " ".join(term.split()).lower() in terms, f"{page.name}: {term}"

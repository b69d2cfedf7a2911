"""The table of results, the staged copy of the pages, and what the built ones must hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from toy_book import Tool, edit, files

from unimat_book.run.headline import LEDGER_VARIANTS, RETRIEVALS, SETTINGS, fill, results_block
from unimat_book.run.pages import page_problems, stage
from unimat_book.run.plain_yaml import BookError
from unimat_book.run.sources import Book

REPOSITORY = Path(__file__).resolve().parents[2]


def test_settings_are_called_as_in_the_ledger() -> None:
    from unimat_book.ledger.settings import RANKS, VARIANTS

    assert set(LEDGER_VARIANTS) == {"paper", *VARIANTS}
    assert set(RETRIEVALS) == set(RANKS)


def test_check_notices_an_outdated_readme(published: Path, tool: Tool) -> None:
    entry = {"setting": "xrd", "variant": "ours", "metric": "scaled_length_mae", "mean": 0.1}
    (published / "data/results/ledger.json").write_text(json.dumps([entry]))
    refused = tool("check")
    assert refused.returncode == 1
    assert "README.md: the results table is not that of data/results/ledger.json" in refused.stdout
    assert tool("readme").returncode == 0
    assert tool("check").returncode == 0
    assert "| XRD | – | – | 0.100 |" in (published / "README.md").read_text()


def test_results_table_and_blocks(root: Path) -> None:
    book = Book(root)
    assert "unimat-book run all --profile full" in results_block(book, "full")

    def entry(setting, variant, metric, mean, std=None):
        numbers = {"mean": mean, "std": std, "seeds": 3, "ci95": [0, 1], "n_test": 9046}
        return {"setting": setting, "variant": variant, "metric": metric} | numbers

    def rising(variant, first, metrics):
        return [
            entry(setting, variant, metric, mean + k)
            for setting, mean in first.items()
            for k, metric in enumerate(metrics)
        ]

    fused = "xrd_composition_aligned_fused"
    entries = [
        entry("xrd", "paper", "scaled_length_mae", 0.17),
        entry("xrd", "ours", "scaled_length_mae", 0.0861, 0.0012),
        entry("xrd", "ours_refined", "scaled_length_mae", 0.0449, 0.0004),
        entry("xrd", "ours", "length_mae", 0.1234, 0.001),
        entry("xrd", "ours", "crystal_system_accuracy", 92.04, 0.1),
        entry(fused, "paper", "crystal_system_accuracy", 85.1),
    ]
    folder = root / "data/results"
    folder.mkdir()

    def block(*more):
        (folder / "ledger.json").write_text(json.dumps([*entries, *more]))
        return results_block(book, "full")

    lines = block().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1 and len(table) == 2 + len(SETTINGS)
    plain = "<br><small>plain 0.123 ± 0.001</small>"
    assert f"| XRD | 0.17 | – | 0.086 ± 0.001{plain} | 0.045 ± 0.000 | 92.0 ± 0.1 |" in table
    assert "| composition | – | – | – | – | – |" in table
    assert "the paper's best is 85.1 %" in lines[-1]
    used = re.findall("<small>(.*?)</small>", table[0])
    assert used[1:] == [
        *("as the paper", "as the paper", "further crystals", "refined", "further crystals")
    ]

    names = ("crystal_system_accuracy", "cell_first", "confident_share", "wrong_among_confident")
    measured = rising("ours", {"measured_pattern": 90.0, "measured_elements": 95.0}, names)
    last = block(*measured).splitlines()[-1]
    assert "the cell of 91.0 % (96.0 % with the elements)" in last and "93.0 % (98.0" in last

    # The line on retrieval: ours before the reproduction, beside what others have published.
    recall = [entry("structure_aligned_xrd", "reproduction", f"recall_at_{k}", k) for k in (1, 10)]
    assert "first in 1.0 % and among ten in 10.0 %" in block(*recall)
    recall += [entry("all_three", "ours", f"recall_at_{k}", 50 + k, 0.2) for k in (1, 10)]
    last = block(*recall).splitlines()[-1]
    assert "all 9,046 test crystals" in last and "PXRDGen" not in last
    assert "first in 51.0 ± 0.2 % and among ten in 60.0 ± 0.2 % of cases (ours; " in last
    (root / "data/published.yml").write_text((REPOSITORY / "data/published.yml").read_text())
    assert "PXRDGen's logs hold 47.0 % and 92.4 %" in block(*recall)

    metrics = ("scaled_length_mae", "length_mae", "angle_mae", "crystal_system_accuracy")
    compared = {"alignment_equal_compute": 1.0, "alignment_joint": 5.0}
    aligned = rising("test", compared, metrics)
    last = block(*aligned).splitlines()[-1]
    assert "3 seeds: scaled 1.000 and 5.000" in last and "system 4.0 and 8.0 %" in last
    assert "Alignment" not in block(*aligned[:-1])

    text = "a\n<!-- results:begin -->\nold\n<!-- results:end -->\nb"
    filled = fill(text, "results", r"new \1")
    assert "old" not in filled and r"new \1" in filled
    assert fill(filled, "results", r"new \1") == filled
    assert fill("no marker", "results", "x") == "no marker"
    (folder / "ledger.json").write_text('[{"setting": "XRD"}]')
    with pytest.raises(BookError, match="expected a list of objects"):
        results_block(book, "full")


def test_missing_untitled_and_empty_pages_are_found(root: Path, tmp_path: Path) -> None:
    pages = tmp_path / "html"
    (pages / "chapters").mkdir(parents=True)
    (pages / "index.html").write_text("<title>T</title><article>" + "word " * 20 + "</article>")
    (pages / "chapters/01_first.html").write_text("<title> </title><article>short</article>")
    problems = page_problems(Book(root), pages)
    assert [p.split(": ")[1].split(" (")[0] for p in problems[:2]] == [
        *("the page has no title", "the page is all but empty")
    ]
    assert "02_second.ipynb: no page" in problems[2]


@pytest.mark.parametrize(
    "page",
    [
        *("../outside.md", "chapters/../../outside.md", "../../x/01_first.ipynb", "way_out/x.md"),
        *("link.md", "params.yml", "chapters/01_first", "chapters"),
        pytest.param("/etc/hosts.md", id="absolute"),
    ],
)
@pytest.mark.parametrize("place", ["root", "file"])
def test_the_table_of_contents_names_pages_of_the_book(
    page: str, place: str, published: Path, tool: Tool
) -> None:
    outside = published.parent / "outside.md"
    outside.write_text("# A secret of some length that nobody wants to have in the book")
    (published / "way_out").symlink_to(published.parent)
    (published / "link.md").symlink_to(outside)
    old = {"root": "root: index.md", "file": "- file: chapters/01_first.ipynb"}[place]
    edit(published / "_toc.yml", old, f"{old.split(': ')[0]}: {page}")
    before = files(published)
    for words in (("check",), ("build", "--profile", "full"), ("status",)):
        done = tool(*words)
        assert done.returncode == 1 and done.stderr.startswith("error: _toc.yml")
        assert len(done.stderr.splitlines()) == 1
    assert files(published) == before and outside.read_text().startswith("# A secret")
    assert not (published / "_build/full").exists()


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "root: [a]",
            "root: 1",
            "chapters: []",
            "- root: index.md",
            "root: index.md\nparts: [1]",
        ),
        *("root: index.md\nchapters: 5", "root: index.md\nchapters: [{url: x}]"),
    ],
)
def test_a_table_of_contents_of_another_shape_is_one_line(
    text: str, root: Path, tool: Tool
) -> None:
    (root / "_toc.yml").write_text(text)
    done = tool("check")
    assert done.returncode == 1 and done.stderr.startswith("error: _toc.yml")
    assert len(done.stderr.splitlines()) == 1


def test_the_configuration_brings_nothing_in_and_runs_nothing(published: Path, tool: Tool) -> None:
    config = published / "_config.yml"
    edit(config, '"off"', "force")
    staged = stage(Book(published), "full")
    assert "execute_notebooks: 'off'" in (staged / "_config.yml").read_text()
    kept = config.read_text()
    for bibliography in ("../secret.bib", "/etc/hosts", "[1]", "{a: b}"):
        config.write_text(f"{kept}bibtex_bibfiles: [{bibliography}]\n")
        done = tool("build", "--profile", "full")
        assert done.returncode == 1 and "error: _config.yml names" in done.stderr
    config.write_text(f"{kept}bibtex_bibfiles: 5\n")
    assert "error: _config.yml" in tool("build", "--profile", "full").stderr

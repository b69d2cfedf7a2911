"""Seeds of a chapter that are trained ahead of its run, on a chapter of the toy book."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_book import HEADER, Tool, edit, files, scratch

CHAPTER = (
    HEADER
    + """\
# Trains

```{code-cell} ipython3
:tags: [parameters]

run_dir = "_build/quick"
seeds = [0, 1, 2]
seeds_ways = [0, 1]
```

```{code-cell} ipython3
:tags: [hide-input, ahead-seeds]

from pathlib import Path

from unimat_book.record import Recorder, product

rec = Recorder("01_first", run_dir)
runs = Path(run_dir) / "runs"
runs.mkdir(parents=True, exist_ok=True)


def train(name, seeds):
    for seed in seeds:
        done = runs / f"{name}{seed}"
        print(name, seed, "loaded" if done.exists() else "trained")
        done.touch()
```

```{code-cell} ipython3
:tags: [ahead-seeds]

train("main", seeds)
path = product(f"{run_dir}/results/predictions/xrd.txt")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(str(len(seeds)));
```

```{code-cell} ipython3
:tags: [ahead-seeds_ways]

train("ways", seeds_ways)
```

```{code-cell} ipython3
assert len(seeds) == 3, "an analysis of all seeds"
rec("doubled", len(seeds));
```
"""
)


@pytest.fixture
def trains(root: Path) -> Path:
    (root / "chapters/src/01_first.md").write_text(CHAPTER)
    (root / "params.yml").write_text("quick:\n  all: {run_dir: _build/quick}\n")
    return root


def trained(root: Path) -> set[str]:
    return {path.name for path in (root / "_build/quick/runs").glob("*")}


def test_a_seed_is_trained_ahead_and_loaded_by_the_run(trains: Path, tool: Tool) -> None:
    before = files(trains)
    done = tool("ahead", "1", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert trained(trains) == {"main1", "ways1"}
    assert tool("ahead", "1", "--seed", "2").returncode == 0
    assert trained(trains) == {"main1", "ways1", "main2"}  # the other ways have no seed 2
    # Nothing is published, not even what a training cell writes for readers.
    assert not (trains / "_build/quick/results").exists()
    assert not (trains / "_build/quick/chapters").exists()
    assert files(trains) == before
    assert scratch(trains) == []

    assert tool("run", "1").returncode == 0
    notebook = json.loads((trains / "_build/quick/chapters/01_first.ipynb").read_text())
    printed = "".join(
        "".join(out["text"])
        for cell in notebook["cells"]
        for out in cell.get("outputs", [])
        if out["output_type"] == "stream"
    )
    assert printed.splitlines() == [
        *("main 0 trained", "main 1 loaded", "main 2 loaded"),
        *("ways 0 trained", "ways 1 loaded"),
    ]


def test_what_cannot_be_trained_ahead_is_refused(trains: Path, tool: Tool) -> None:
    unknown = tool("ahead", "1", "--seed", "7")
    assert unknown.returncode == 1
    assert "trains no seed 7 ahead of its run: expected one of {'seeds': [0, 1, 2]" in (
        unknown.stderr
    )
    none = tool("ahead", "2", "--seed", "0")
    assert none.returncode == 1
    assert "no cell is tagged" in none.stderr
    edit(trains / "chapters/src/01_first.md", "ahead-seeds_ways", "ahead-seed")
    wrong = tool("ahead", "1", "--seed", "0")
    assert "a tag ahead-seed names no parameter of the chapter" in wrong.stderr


def test_chapters_and_their_seeds_are_spread_over_gpus(trains: Path, tool: Tool) -> None:
    done = tool("spread", "1", "2", "--profile", "quick", "--cards", "2")
    assert done.returncode == 0, done.stderr
    assert trained(trains) >= {"main0", "main1", "main2", "ways0", "ways1"}
    assert "01_first: training seed 1 (quick)" in done.stdout
    assert "2 chapters in" in done.stdout
    assert (trains / "_build/quick/chapters/02_second.ipynb").is_file()
    assert scratch(trains) == []

"""Which chapter runs when: small scripts in place of chapters."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from unimat_book.run.order import chapter_waits, run_side_by_side
from unimat_book.run.plain_yaml import BookError


def side_by_side(
    folder: Path,
    waits: dict[str, set[str]],
    scripts: dict[str, str],
    jobs: int = 2,
    ahead_of: dict[str, str] | None = None,
) -> list[str]:
    """Run small Python scripts in place of chapters; each leaves a file of its name at its end.

    Returns:
        Their names in the order in which they were started.
    """
    started = []

    def command(name: str) -> list[str]:
        started.append(name)
        script = f"{scripts.get(name, '')}\nopen({name!r}, 'w').close()"
        return [sys.executable, "-c", f"import os, sys, time\nos.chdir({str(folder)!r})\n{script}"]

    run_side_by_side(waits, command, environments=[os.environ] * jobs, ahead_of=ahead_of)
    return started


def test_chapters_run_side_by_side_but_not_before_what_they_read(tmp_path: Path) -> None:
    until = "while not os.path.exists({!r}): time.sleep(0.01)"
    scripts = {
        "a": "open('a_began', 'w').close()\n" + until.format("b_began"),
        "b": "open('b_began', 'w').close()\n" + until.format("a_began"),
        "c": "assert os.path.exists('a')",
        "d": "assert os.path.exists('b') and os.path.exists('c')",
    }
    side_by_side(tmp_path, {"a": set(), "b": set(), "c": {"a"}, "d": {"b", "c"}}, scripts)
    assert {"a", "b", "c", "d"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_most_wait_for_goes_first(tmp_path: Path, jobs: int) -> None:
    waits = {"a": set(), "b": set(), "c": set(), "d": {"c"}, "e": {"d"}}
    order = side_by_side(tmp_path, waits, {}, jobs)
    assert order[0] == "c" and sorted(order) == sorted(waits)
    assert order.index("c") < order.index("d") < order.index("e")


def test_after_a_failure_running_chapters_finish_and_no_other_begins(tmp_path: Path) -> None:
    waits = {"a": set(), "b": set(), "c": {"a"}, "d": set()}
    # The second one ends when the first has failed and is gone: nobody has to be quick for it.
    scripts = {
        "a": "os.symlink(f'/proc/{os.getpid()}', 'process')\nsys.exit(1)",
        "b": "while not os.path.lexists('process') or os.path.exists('process'): time.sleep(0.01)",
    }
    with pytest.raises(BookError, match=r"failed: a \(see above\); not run: c, d"):
        side_by_side(tmp_path, waits, scripts)
    assert {path.name for path in tmp_path.iterdir()} == {"process", "b"}


def test_parts_ahead_take_what_chapters_leave_and_end_with_their_chapter(tmp_path: Path) -> None:
    until = "while not os.path.exists({!r}): time.sleep(0.01)"
    waits = {"a": set(), "b": {"a"}, "a 1": set(), "a 2": set(), "b 1": {"a"}}
    ahead_of = {"a 1": "a", "a 2": "a", "b 1": "b"}
    scripts = {"a": until.format("a 1"), "a 1": "", "b": until.format("b 1")}
    scripts["a 2"] = "assert not os.path.exists('b'), 'begun after all'"
    side_by_side(tmp_path, waits, scripts, ahead_of=ahead_of)
    assert {"a", "a 1", "b", "b 1"} <= {path.name for path in tmp_path.iterdir()}
    alone = tmp_path / "alone"
    alone.mkdir()
    side_by_side(alone, {"a": set(), "a 1": set()}, {}, jobs=1, ahead_of={"a 1": "a"})
    assert [path.name for path in alone.iterdir()] == ["a"]


def test_each_place_has_one_process_at_a_time(tmp_path: Path) -> None:
    script = (
        "import os, time; name = os.environ['PLACE']; os.mkdir(name); time.sleep(0.1); "
        "os.rmdir(name); open('log', 'a').write(name)"
    )
    run_side_by_side(
        {str(k): set() for k in range(6)},
        lambda name: [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r})\n{script}"],
        environments=[{**os.environ, "PLACE": place} for place in "xy"],
    )
    done = (tmp_path / "log").read_text()
    assert len(done) == 6 and set(done) == {"x", "y"}


def test_a_chapter_that_nobody_listed_waits_for_all_before_it() -> None:
    assert chapter_waits(["01_crystals_and_splits", "99_new"]) == {
        "01_crystals_and_splits": set(),
        "99_new": {"01_crystals_and_splits"},
    }
    assert chapter_waits(["04_alignment", "05_fusion"])["05_fusion"] == set()


def test_a_chapter_waits_for_a_later_one_that_it_reads() -> None:
    waits = chapter_waits(["07_crystal_systems", "09_ledger", "A1_performance", "06_refinement"])
    assert waits["07_crystal_systems"] == waits["09_ledger"] == {"06_refinement"}
    assert waits["A1_performance"] == waits["06_refinement"] == set()


def test_the_ledger_waits_for_all_that_it_counts() -> None:
    from unimat_book.ledger.settings import PREDICTIONS, RANKS
    from unimat_book.run.order import READS

    numbers = {name[:2] for name in READS["09_ledger"]}
    assert numbers == {*PREDICTIONS.values(), *RANKS.values(), "08", "10"}

"""Benchmarks: the form of the results, their merging, the goals, the report and the figures."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from unimat_book.figures.performance import plot_against_targets, plot_efficiency, plot_growth
from unimat_book.performance import (
    NO_GOAL,
    NOT_MEASURED,
    goal_table,
    growth_exponent,
    read_results,
    read_targets,
    speed_overview,
    speed_verdict,
    times_floor,
)

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.glob("*.py"))
REQUIRED = {
    "bragg_cpu_vs_pymatgen",
    "bragg_cpu_vs_xrd_rust",
    "bragg_gpu_mp20_seconds",
    "graph_gpu_mp20_seconds",
    "dimenet_vs_plain",
    "pattern_encoder_vs_plain",
    "quick_book_vs_before",
    "prepare_vs_plain",
    "inference_one_core_ms",
    "paper_table_minutes",
}
SERIES = [{"crystals": 800, "seconds": 8.0}, {"crystals": 100, "seconds": 1.0}]


def _common() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_common", BENCHMARKS / "common.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


common = _common()


def result(name: str = "thing", **fields) -> common.Result:
    return common.Result(**{"name": name, "value": 2.0, "unit": "s", "device": "a CPU"} | fields)


def run(*words: object, folder: Path = BENCHMARKS) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop(common.ELSEWHERE, None)
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


# ------------------------------------------------------------------------------------ as committed


def test_committed_results_are_well_formed() -> None:
    results = common.load()
    names = [entry.name for entry in results]
    assert names == sorted(set(names))
    for entry in results:
        assert entry.versions.get("python"), entry.name
        assert entry.machine, entry.name


def test_committed_results_have_every_name() -> None:
    measured = {entry.name for entry in common.load()}
    assert measured >= REQUIRED, f"not measured: {', '.join(sorted(REQUIRED - measured))}"


def test_every_goal_can_be_judged() -> None:
    results = read_results(BENCHMARKS / "results.json")
    targets = read_targets(BENCHMARKS / "targets.yml")
    assert set(targets) >= REQUIRED
    overview = speed_overview(results, targets).set_index("name")
    for name in results:
        assert overview.loc[name, "verdict"] != NOT_MEASURED
        assert overview.loc[name, "measured"]


def test_committed_points_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scaling
    import scaling_accuracy

    points = json.loads((BENCHMARKS / "scaling_points.json").read_text(encoding="utf-8"))
    results = read_results(BENCHMARKS / "results.json")
    rows = [*scaling.rows_of(points["speed"]), *scaling_accuracy.rows_of(points["accuracy"])]
    found = {row.name: row.value for row in rows}
    assert found == {name: results[name]["value"] for name in results if "scaling_" in name}


def test_readme_is_up_to_date() -> None:
    done = run("report.py", "--check")
    assert done.returncode == 0, done.stderr


def test_chapter_prints_these_results() -> None:
    path = ROOT / "data/results/A1_performance.json"
    if not path.is_file():
        pytest.skip("not published yet: unimat-book run A1 --profile full")
    chapter = json.loads(path.read_text(encoding="utf-8"))
    measured = {k.removeprefix("measured_"): v for k, v in chapter.items() if "measured_" in k}
    measured.pop("count_not_measured", None)
    assert measured == {entry.name: entry.value for entry in common.load()}
    targets = read_targets(BENCHMARKS / "targets.yml")
    results = read_results(BENCHMARKS / "results.json")
    overview = speed_overview(results, targets)
    own_tables = overview["name"].str.startswith(("stream_", "vectors_", "repeat_"))
    verdicts = overview.loc[overview["name"].isin(targets) & ~own_tables, "verdict"].tolist()
    assert [row["reached?"] for row in chapter["performance_goals"]] == verdicts


HELP = """
import contextlib, io, json, runpy, sys
said = {}
for script in sys.argv[1:]:
    sys.argv, out, code = [script, "--help"], io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(script, run_name="__main__")
        except BaseException as error:
            code = error.code if isinstance(error, SystemExit) else repr(error)
    said[script] = [code, out.getvalue()]
print(json.dumps(said))
"""


def test_every_script_has_help() -> None:
    """In one process, which loads what they have in common once."""
    names = [script.name for script in SCRIPTS]
    done = run("-c", HELP, *names)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [name for name in names if said[name][0] != 0] == []
    assert [name for name in names if f"usage: {name}" not in said[name][1]] == []


# --------------------------------------------------------------------------------------- recording


def test_record_merges_by_name(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    common.record([result("b"), result("a", series=SERIES)], path)
    common.record([result("b", value=3, baseline="other", ratio=np.float32(1.5))], path)
    content = json.loads(path.read_text())
    assert [entry["name"] for entry in content] == ["a", "b"]
    a, b = content
    assert (b["value"], b["baseline"], b["ratio"]) == (3.0, "other", 1.5)
    assert [point["crystals"] for point in a["series"]] == [100, 800]  # sorted
    assert len(a["date"]) == 10 and a["versions"]["python"] and a["machine"]
    assert a["baseline"] is None and a["ratio"] is None
    assert [entry.name for entry in common.load(path)] == ["a", "b"]
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]  # nothing left lying


def test_environment_names_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = common.RESULTS.read_text()
    monkeypatch.setenv(common.ELSEWHERE, str(tmp_path / "gpu.json"))
    assert common.record([result()]) == tmp_path / "gpu.json"
    assert common.load(tmp_path / "gpu.json")[0].name == "thing"
    assert common.RESULTS.read_text() == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Bad name"}, "lower-case"),
        ({"value": math.nan}, "value is nan"),
        ({"value": "fast"}, "must be a number"),
        ({"value": True}, "must be a number"),
        ({"unit": " "}, "unit"),
        ({"device": ""}, "device"),
        ({"ratio": 3.0}, "baseline"),
        ({"ratio": math.inf, "baseline": "x"}, "ratio is inf"),
        ({"ratio": -1, "baseline": "x"}, "positive"),
        ({"series": []}, "non-empty"),
        ({"series": [{"crystals": 3}]}, "crystals and seconds"),
        ({"series": [{"crystals": 3, "seconds": 0.0}]}, "positive"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_result_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        result(**fields)


def test_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="speed"):
        result(speed=3)


def test_two_results_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="thing: recorded twice"):
        common.record([result(), result(value=9)], tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "results.json"),
        ("{}", "list of results"),
        ('[{"name": "a"}]', "missing"),
        ("[3]", "expected an object"),
        (json.dumps([dict.fromkeys(["name", "value", "colour"])]), "colour"),
    ],
)
def test_broken_file_is_named_and_left(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        common.record([result()], path)
    assert path.read_text() == text


def test_recorders_beside_each_other_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    code = (
        "import sys; from common import Result, record\n"
        "for i in range(15):\n"
        "    name = f'r{sys.argv[1]}_{i}'\n"
        "    record([Result(name=name, value=i, unit='s', device='x')], sys.argv[2])"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{BENCHMARKS}"}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(k), str(path)], env=environment)
        for k in range(3)
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    assert len(common.load(path)) == 45


def test_merge_takes_all_files_or_none(tmp_path: Path) -> None:
    here, first, second = (tmp_path / name for name in ("here.json", "a.json", "b.json"))
    common.record([result("kept"), result("old", value=1)], here)
    common.record([result("old", value=2, date="2020-02-02")], first)
    common.record([result("old", value=3, date="2021-02-02")], second)
    (tmp_path / "broken.json").write_text("[")
    before = here.read_text()
    done = run("common.py", "merge", first, tmp_path / "broken.json", "--into", here)
    assert done.returncode == 1 and "broken.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert here.read_text() == before
    assert run("common.py", "merge", first, second, "--into", here).returncode == 0
    merged = {entry.name: entry for entry in common.load(here)}
    assert merged.keys() == {"kept", "old"}
    assert (merged["old"].value, merged["old"].date) == (3.0, "2021-02-02")  # when it was measured


def test_timer_takes_the_shortest_after_warming_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    durations = iter([9.0, 3.0, 2.0, 4.0])

    def work() -> None:
        clock[0] += next(durations)

    monkeypatch.setattr(common.time, "perf_counter", lambda: clock[0])
    assert common.timed(work, repeats=3) == 2.0
    assert next(durations, None) is None  # one warm-up and three


def test_device_name_counts_cores() -> None:
    count = len(os.sched_getaffinity(0))
    assert common.device_name("cpu").endswith(f" {count} core" + "s" * (count > 1))


# ----------------------------------------------------------------------------------------- judging


def plain(name: str = "thing", **fields) -> dict:
    return {"name": name, "value": 2.0, "unit": "s", "device": "x", "date": "2026-01-01"} | fields


@pytest.mark.parametrize(
    ("fields", "reach", "verdict"),
    [
        ({"ratio": 30.0}, {"ratio": 30}, "reached"),
        ({"ratio": 10.0}, {"ratio": 30}, "missed by a factor of 3.0"),
        ({"value": 2.0}, {"value": 2, "unit": "s"}, "reached"),
        ({"value": 2001, "unit": "ms"}, {"value": 2, "unit": "s"}, "missed by 1 %"),
        ({"value": 0.06, "unit": "1"}, {"value": 5, "unit": "%"}, "missed by a factor of 1.2"),
        ({"value": 300.0}, {"value": 6, "unit": "min", "ratio": 2}, "missed by a factor of 2.0"),
        ({"series": SERIES}, {"exponent": 1.1}, "reached"),
        ({"series": [*SERIES, {"crystals": 6400, "seconds": 512}]}, {"exponent": 1.1}, "exponent"),
        ({}, {}, NO_GOAL),
    ],
)
def test_verdict(fields: dict, reach: dict, verdict: str) -> None:
    fields = {"ratio": 1.0, **fields}
    assert verdict in speed_verdict(plain(**fields), {"reach": reach})
    assert speed_verdict(None, {"reach": reach}) == NOT_MEASURED


@pytest.mark.parametrize(
    ("reach", "message"),
    [
        ({"ratio": 2}, "no.* recorded"),
        ({"value": 2, "unit": "GiB"}, "memory.*'s'"),
        ({"exponent": 1}, "has no series"),
    ],
)
def test_goal_without_its_number_is_an_error(reach: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        speed_verdict(plain(ratio=None), {"reach": reach})


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_growth_exponent_is_found(exponent: float) -> None:
    series = [{"crystals": n, "seconds": 3e-4 * n**exponent} for n in (10, 50, 400)]
    assert math.isclose(growth_exponent(series), exponent)


def test_growth_needs_two_sizes() -> None:
    with pytest.raises(ValueError, match="two or more sizes, got 1"):
        growth_exponent([SERIES[0]] * 3)


def test_overview_says_everything_once() -> None:
    targets = {
        "a": {"name": "a", "what": "thing a", "against": "nobody", "reach": {"ratio": 4}},
        "b": {"name": "b", "what": "thing b", "reach": {"value": 1, "unit": "ms"}},
    }
    results = {
        "a": plain("a", ratio=4.0, baseline="somebody", floor=0.5, notes="memory"),
        "new_thing": plain("new_thing", series=SERIES),
    }
    frame = speed_overview(results, targets).set_index("name")
    assert frame.index.tolist() == ["a", "b", "new_thing"]
    assert not frame.isna().any().any()
    a = frame.loc["a"].str.replace("\N{NO-BREAK SPACE}", " ")
    assert a.tolist() == [
        *("thing a", "2 s", "somebody", "4 ×", "≥ 4 ×", "reached"),
        *("0.5 s (4 × away)", "memory"),
    ]
    assert frame.loc["b", "verdict"] == NOT_MEASURED
    assert frame.loc["b", "measured"] == ""
    assert "exponent 1.00" in frame.loc["new_thing", "measured"]


@pytest.mark.parametrize(("unit", "times"), [("s", 4.0), ("crystals/s", 0.25)])
def test_floor_of_a_rate_is_a_ceiling(unit: str, times: float) -> None:
    assert times_floor(plain(value=2.0, floor=0.5, unit=unit)) == times


def test_goals_are_ratios_and_budgets() -> None:
    targets = {"a": {"what": "thing a", "reach": {"ratio": 4, "value": 4000, "unit": "ms"}}}
    targets["budget"] = {"what": "thing b", "reach": {"value": 4, "unit": "s"}}
    results = {"a": plain("a", ratio=3.0), "b": plain("b", ratio=7.0), "c": plain("c")}
    results["budget"] = plain("budget", ratio=2.0, baseline="4 s allowed")
    frame = goal_table(results, targets)
    assert frame["kind"].tolist() == ["ratio", "budget", "ratio", "budget"]
    assert frame["value"].tolist() == [3.0, 0.5, 7.0, 0.5]
    assert frame["target"].tolist()[:2] == [4, 1] and math.isnan(frame["target"].iloc[2])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "a"}, "says what"),
        ({"name": "a", "what": "x", "goal": 3}, "unknown fields"),
        ({"name": "a", "what": "x", "reach": {"speed": 3}}, "unknown goals"),
        ({"name": "a", "what": "x", "reach": {"value": 3}}, "needs a unit"),
        ({"name": "a", "what": "x", "reach": {"value": 3, "unit": "miles"}}, "needs a unit"),
    ],
)
def test_bad_targets_are_refused(tmp_path: Path, entry: dict, message: str) -> None:
    path = tmp_path / "targets.yml"
    path.write_text(json.dumps([entry]))  # JSON is YAML
    with pytest.raises(ValueError, match=message):
        read_targets(path)


def test_bad_results_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(FileNotFoundError, match="run the scripts"):
        read_results(path)
    for text in ("[", '{"a": 1}', "[{}]", json.dumps([plain(), plain()])):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"results\.json"):
            read_results(path)


# ------------------------------------------------------------------------------------------ report


def test_report_follows_the_results(tmp_path: Path) -> None:
    for path in (*SCRIPTS, BENCHMARKS / "targets.yml"):
        shutil.copy(path, tmp_path)
    results = tmp_path / "results.json"
    common.record([result("bragg_gpu_mp20_seconds", value=0.05, notes="a | b")], results)
    assert run("report.py", "--check", folder=tmp_path).returncode == 1  # no README yet
    assert run("report.py", folder=tmp_path).returncode == 0
    readme = (tmp_path / "README.md").read_text()
    assert "Reached: 1." in readme
    (row,) = (line for line in readme.splitlines() if "≤ 0.1 s" in line)
    assert "0.05" in row and "| reached |" in row
    assert "a \\| b" in readme
    assert all(
        f"benchmarks/{p.name}`" in readme for p in SCRIPTS if p.stem not in ("common", "report")
    )
    assert run("report.py", "--check", folder=tmp_path).returncode == 0

    common.record([result("bragg_gpu_mp20_seconds", value=0.5)], results)
    done = run("report.py", "--check", folder=tmp_path)
    assert done.returncode == 1 and "python benchmarks/report.py" in done.stderr
    assert (tmp_path / "README.md").read_text() == readme  # a check writes nothing
    results.write_text("[")
    done = run("report.py", folder=tmp_path)
    assert done.returncode == 1 and "results.json" in done.stderr
    assert "Traceback" not in done.stderr


# ----------------------------------------------------------------------------------------- figures

GOALS = pd.DataFrame(
    {
        "what": ["a rather long name of something measured", "b", "c", "d"],
        "kind": ["ratio", "ratio", "ratio", "budget"],
        "value": [30.0, 2.0, 3.0, 1.4],
        "target": [10.0, 5.0, np.nan, 1.0],
    }
)
RATES = pd.DataFrame(
    {
        "setting": ["xrd", "xrd", "xrd", "structure"],
        "gpus": [1, 2, 2, 1],
        "batch": [512, 512, 256, 512],
        "percent": [100.0, 98.0, 95.0, 100.0],
        "best": [True, True, False, True],
    }
)
AHEAD = {"goals": {2: 90.0}, "predicted": {"xrd": 96.0, "structure": 99.0}}
FIGURES: dict[str, Callable[[], Figure]] = {
    "efficiency": lambda: plot_efficiency(RATES, **AHEAD),
    "growth": lambda: plot_growth({f"series {k}": SERIES for k in range(8)}),
    "ratios and budgets": lambda: plot_against_targets(GOALS),
    "ratios alone": lambda: plot_against_targets(GOALS[:1]),
    "budgets alone": lambda: plot_against_targets(GOALS[3:]),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_labelled_and_small(draw: Callable[[], Figure]) -> None:
    figure = draw()
    assert all(axes.get_xlabel() for axes in figure.axes)
    assert figure.legends
    assert 5_000 < len(figure.png()) < 120_000


def test_growth_figure_states_the_exponents() -> None:
    figure = plot_growth({"batch": SERIES})
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["batch: 1.00", "in proportion: 1"]
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_missed_targets_differ_in_colour_and_shape() -> None:
    ratios, budgets = plot_against_targets(GOALS).axes
    reached, missed, free = (_dot(ratios, y) for y in range(3))
    assert reached == free != missed
    assert reached[0] != missed[0] and reached[1] != missed[1]
    assert _dot(budgets, 0) == missed


def _dot(axes, y: int) -> tuple[str, str]:
    (line,) = (
        line for line in axes.lines if line.get_marker() in ("o", "s") and line.get_ydata()[0] == y
    )
    return line.get_color(), line.get_marker()


def test_efficiency_of_eight_is_drawn_as_predicted() -> None:
    figure = plot_efficiency(RATES, **AHEAD)
    ends = [line for line in figure.axes[0].lines if max(line.get_xdata(), default=0) > 7]
    dotted = [line for line in ends if line.get_linestyle() == ":"]
    assert [line.get_ydata()[-1] for line in dotted] == [96.0, 99.0]
    assert all(line.get_markerfacecolor() == "white" for line in ends if line not in dotted)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot_efficiency(RATES[:0], **AHEAD),
        lambda: plot_efficiency(RATES, goals={}, predicted={"xrd": 96.0}),
        lambda: plot_growth({}),
        lambda: plot_growth({"one": SERIES[:1]}),
        lambda: plot_against_targets(GOALS[:0]),
        lambda: plot_against_targets(GOALS.drop(columns="kind")),
        lambda: plot_against_targets(GOALS.assign(value=0.0)),
    ],
)
def test_figures_refuse_what_cannot_be_drawn(draw: Callable[[], Figure]) -> None:
    with pytest.raises(ValueError, match=r"no series|two or more|expected rows|are positive"):
        draw()

"""Measured speeds and goals in, verdicts and tables out, for ``benchmarks/`` and the appendix.

Both print what :func:`speed_overview` says, so the two cannot differ.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

UNITS: dict[str, tuple[str, float]] = {
    **{name: ("time", size) for name, size in (("s", 1.0), ("ms", 1e-3), ("h", 3600.0))},
    **dict.fromkeys(("min", "minutes"), ("time", 60.0)),
    **{"GiB": ("memory", 1.0), "MiB": ("memory", 1 / 1024), "1": ("share", 1.0)},
    "%": ("share", 0.01),
}
"""Unit to the quantity it measures and its size, so that a goal and a result can be compared."""

_TIE = "\N{NO-BREAK SPACE}"  # between a number and its unit
GOALS = ("ratio", "value", "exponent")
NOT_MEASURED, NO_GOAL, REACHED = "not measured yet", "no goal set", "reached"


def read_results(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Read the measured results (``benchmarks/results.json``), by name.

    Raises:
        FileNotFoundError: If it is missing; the message names the way to make it.
        ValueError: If it is not a list of objects with distinct names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run the scripts beside it, they write it.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {entry["name"]: entry for entry in content}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected a list of objects that have a name, got {error!r}"
        ) from None
    if len(found) != len(content):
        raise ValueError(f"{path}: a name occurs twice; keep the newer result")
    return found


def read_targets(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Read what is to be reached, by name, in the order of the file.

    The comments of that file, ``benchmarks/targets.yml``, describe its form.

    Raises:
        ValueError: For an unknown field or goal, a name that occurs twice, or a unit not in
            ``UNITS``.
    """
    targets: dict[str, dict[str, Any]] = {}
    for entry in yaml.safe_load(Path(path).read_text(encoding="utf-8")):
        name = entry.get("name")
        if not name or name in targets or not entry.get("what"):
            raise ValueError(f"{path}: each entry has a name of its own and says what: {entry}")
        if unknown := set(entry) - {"name", "what", "against", "reach"}:
            raise ValueError(f"{path}, {name}: unknown fields {sorted(unknown)}")
        reach = entry.get("reach", {})
        if unknown := set(reach) - {*GOALS, "unit"}:
            raise ValueError(f"{path}, {name}: unknown goals {sorted(unknown)}; known: {GOALS}")
        if ("value" in reach) != (reach.get("unit") in UNITS):
            raise ValueError(f"{path}, {name}: a value needs a unit from {list(UNITS)}")
        targets[name] = entry
    return targets


def growth_exponent(series: Iterable[Mapping[str, float]]) -> float:
    """Exponent b of time = a * crystals^b, by least squares on the logarithms; 1 is linear.

    Points have ``crystals`` and ``seconds``.

    Raises:
        ValueError: If there are fewer than two sizes.
    """
    points = [(point["crystals"], point["seconds"]) for point in series]
    size, seconds = np.log(np.asarray(points, dtype=float).reshape(-1, 2)).T
    if len(np.unique(size)) < 2:
        raise ValueError(f"growth needs two or more sizes, got {len(np.unique(size))}")
    return float(np.polyfit(size, seconds, 1)[0])


def shortfall(result: Mapping[str, Any], reach: Mapping[str, Any]) -> dict[str, float]:
    """By what factor a result misses each goal; 1 or less where the goal is met.

    ``result`` is one entry of ``results.json``, ``reach`` holds the goals of that name.

    Raises:
        ValueError: If the result lacks what a goal is about, or its unit measures something else.
    """
    factors = {}
    if "ratio" in reach:
        if result.get("ratio") is None:
            raise ValueError(f"{result['name']}: the goal is a ratio, but none was recorded")
        factors["ratio"] = reach["ratio"] / result["ratio"]
    if "value" in reach:
        factors["value"] = in_unit(result, reach["unit"]) / reach["value"]
    if "exponent" in reach:
        if not result.get("series"):
            raise ValueError(f"{result['name']}: the goal is about growth, but has no series")
        factors["exponent"] = growth_exponent(result["series"]) / reach["exponent"]
    return factors


def in_unit(result: Mapping[str, Any], unit: str) -> float:
    """The value of a result in another unit of the same quantity.

    Raises:
        ValueError: If the two units measure different quantities.
    """
    quantity, size = UNITS[unit]
    kind, scale = UNITS.get(result["unit"], (None, math.nan))
    if kind != quantity:
        raise ValueError(f"{result['name']}: expected a unit of {quantity}, got {result['unit']!r}")
    return result["value"] * scale / size


def times_floor(result: Mapping[str, Any]) -> float:
    """How many times better a result with a floor would be there; 1 means that it is there.

    If its unit is a rate (ends in ``/s``), the floor is the largest rate that is possible,
    otherwise the least time or memory.
    """
    times = result["value"] / result["floor"]
    return 1 / times if result["unit"].endswith("/s") else times


def speed_verdict(result: Mapping[str, Any] | None, target: Mapping[str, Any]) -> str:
    """In words whether a result reaches its goals: reached, missed and by how much, or neither."""
    if result is None:
        return NOT_MEASURED
    if not target.get("reach"):
        return NO_GOAL
    factors = shortfall(result, target["reach"])
    goal = max(factors, key=factors.__getitem__)
    if factors[goal] <= 1:
        return REACHED
    if goal == "exponent":
        return f"missed: exponent {growth_exponent(result['series']):.2f}"
    if factors[goal] < 1.1:
        return f"missed by {math.ceil(100 * (factors[goal] - 1)):d} %"
    return f"missed by a factor of {factors[goal]:.1f}"


def speed_overview(
    results: Mapping[str, Mapping[str, Any]], targets: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """One row per measurement, each cell as it is to be printed; first those that have a goal.

    ``results`` come from :func:`read_results`, ``targets`` from :func:`read_targets`. Columns name,
    what, measured, against, ratio, reach, verdict, floor, limits; all text, empty where there is
    nothing to say.
    """
    rest = {name: {"what": name.replace("_", " ")} for name in results if name not in targets}
    rows = []
    for name, target in {**targets, **rest}.items():
        result = results.get(name)
        row = {"name": name, "what": target["what"], "against": target.get("against")}
        row |= {"reach": _reach(target.get("reach", {})), "verdict": speed_verdict(result, target)}
        if result is not None:
            row |= {"measured": _measured(result), "limits": result.get("notes")}
            row["against"] = result.get("baseline") or row["against"]
            if result.get("ratio") is not None:
                row["ratio"] = f"{format_number(result['ratio'])}{_TIE}×"
            if result.get("floor"):
                times = format_number(times_floor(result))
                row["floor"] = f"{_quantity(result['floor'], result['unit'])} ({times}{_TIE}× away)"
        rows.append(row)
    columns = "name what measured against ratio reach verdict floor limits"
    return pd.DataFrame(rows, columns=columns.split()).fillna("")


def goal_table(
    results: Mapping[str, Mapping[str, Any]], targets: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """What is measured, as numbers to be drawn: ratios, and the used parts of budgets.

    Arguments as of :func:`speed_overview`. Columns what, kind (``ratio`` or ``budget``), value and
    target. A ratio without a goal has the target NaN; the value of a budget is the used part of it,
    its target is 1.
    """
    rows = []
    for name, result in results.items():
        target = targets.get(name, {})
        reach = target.get("reach", {})
        what = target.get("what", name.replace("_", " "))
        # A result that has a budget only may call the budget its baseline: draw it once.
        if result.get("ratio") is not None and ("ratio" in reach or "value" not in reach):
            rows.append((what, "ratio", result["ratio"], reach.get("ratio", math.nan)))
        if "value" in reach:
            rows.append((what, "budget", shortfall(result, reach)["value"], 1.0))
    return pd.DataFrame(rows, columns=["what", "kind", "value", "target"])


def format_number(value: float) -> str:
    """Three digits: ``0.0834``, ``12.3``, ``44,123``."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _measured(result: Mapping[str, Any]) -> str:
    if result.get("series") and len({point["crystals"] for point in result["series"]}) > 1:
        largest = max(result["series"], key=lambda point: point["crystals"])
        return (
            f"exponent {growth_exponent(result['series']):.2f} "
            f"({format_number(largest['crystals'])} crystals: {_quantity(largest['seconds'], 's')})"
        )
    return _quantity(result["value"], result["unit"])


def _quantity(value: float, unit: str) -> str:
    return format_number(value) if unit == "1" else f"{format_number(value)}{_TIE}{unit}"


def _reach(reach: Mapping[str, Any]) -> str:
    say = {
        "ratio": lambda x: f"≥{_TIE}{format_number(x)}{_TIE}×",
        "value": lambda x: f"≤{_TIE}{_quantity(x, reach['unit'])}",
        "exponent": lambda x: f"exponent ≤{_TIE}{format_number(x)}",
    }
    return ", ".join(say[goal](reach[goal]) for goal in GOALS if goal in reach)

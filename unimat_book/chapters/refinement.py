"""What searches and refinements of a chapter's patterns gave in, its tables out.

Where no measured patterns are at hand, simulated ones take their place, so that the page is made
from the same code everywhere.
"""

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from unimat_book.chapters.measured_patterns import labelled_patterns
from unimat_book.chapters.unknown_cells import KNOWN
from unimat_book.ledger.measured import FIRST_HALF
from unimat_book.measured import Labelled
from unimat_book.record import require_file
from unimat_book.statistics import wilson_interval
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_powder.library.file import Library, embedded_library

FAILURES = ("prediction kept", "multiple of the volume", "same volume, another cell", "other cell")
"""What may have happened where a cell is not within one per cent, see :func:`failure_kinds`."""

LINES_READ_BY_HAND: Mapping[int, str] = {
    3: "pseudo-hexagonal: the true cell is this one distorted and doubled",
    4: "too few lines: five of a metal, and more that are not its",
    9: "22 lines for 560 possible ones: a cell of that size explains anything",
    22: "the true lattice; another composition, one length 1.04 % off the label",
    31: "40 lines for 452 possible ones: a cell of that size explains anything",
    39: "no cell within 1 % of the label's explains these lines",
    44: "three orders of one plane among the lowest lines: the true cell was not tried",
    45: "subcell: a superlattice too weak to see; five lines of noise come first",
    49: "pseudo-hexagonal and large: the true cell, itself unlikely, was not tried",
    50: "subcell: every second layer of lines is too weak to see",
    52: "pseudo-hexagonal subcell: an ordered wurtzite, whose order is hardly seen",
}
"""What was seen in first cells that are wrong when nothing is known, by the pattern's place in the
sorted list, from 1: lines, cells and odds were looked at on 27 November 2026."""

_SHOWN = "nothing", "read_volume", "cell"  # ways of the table by crystal system
_SAME_LISTS = 0.01  # degrees per line, that lists of two machines may differ by
_DE_WOLFF = 10  # his figure of merit, from which cells used to be trusted


def patterns_to_index(patterns: str, *, number: int, seed: int) -> tuple[list[Labelled], dict]:
    """Patterns that may be looked at, ``"rruff"`` or ``"simulated"``, and a note on them.

    Raises:
        FileNotFoundError: Measured patterns are asked for and not there.
    """
    library = Library.open(embedded_library())
    number = min(number, FIRST_HALF)
    found, about = labelled_patterns(patterns, library, number=number, seed=seed)
    about.pop("library")
    return found, about


def summary(frame: pd.DataFrame, dicvol: pd.DataFrame | None = None) -> pd.DataFrame:
    """Per cent of the patterns, with Wilson's 95 % intervals, one row per way and measure.

    Args:
        frame: Of :func:`search_cells`.
        dicvol: Of :func:`dicvol_answers`.

    Returns:
        Columns ``way`` (as pages call it), ``measure`` (``"first"``, ``"five"``, ``"accepted"``,
        ``"wrong"`` among the accepted, ``"random"`` lists accepted), ``n``, ``share``, ``low``,
        ``high``.
    """
    ways = {name: frame[frame["known"] == known] for known, name in KNOWN.items()}
    if dicvol is not None:
        ways["nothing, DICVOL"] = dicvol
    rows = []
    for way, part in ways.items():
        real = part["list"] == "measured"
        rank, yes = part.loc[real, "rank"], part.loc[real, "accepted"]
        measures = {
            "first": rank == 0,
            "five": rank.between(0, 4),
            "accepted": yes,
            "wrong": (rank != 0)[yes],
            "random": part.loc[~real, "accepted"],
        }
        for measure, values in measures.items():
            n, share = len(values), 100 * values.mean() if len(values) else np.nan
            ends = wilson_interval(share, n) if n else (np.nan, np.nan)
            rows.append((way, measure, n, share, *ends))
    return pd.DataFrame(rows, columns=["way", "measure", "n", "share", "low", "high"])


def ways_table(found: pd.DataFrame) -> pd.DataFrame:
    """:func:`summary` as a page shows it."""
    names = {
        "first": "right first (%)",
        "five": "among five (%)",
        "accepted": "accepted (%)",
        "wrong": "of them wrong (%)",
        "random": "random lists accepted (%)",
    }
    text = [
        "–" if np.isnan(r.share) else f"{r.share:.0f} [{r.low:.0f}, {r.high:.0f}]"
        for r in found.itertuples()
    ]
    table = found.assign(text=text).pivot(index="way", columns="measure", values="text")
    table = table.loc[list(dict.fromkeys(found["way"])), list(names)].rename(columns=names)
    return table.rename_axis(columns=None).rename_axis("known").reset_index()


def dicvol_answers(frame: pd.DataFrame) -> pd.DataFrame:
    """What DICVOL answered to the same lists: ``list``, ``rank``, ``accepted``, ``m20``.

    Of its settings the one that finds most cells first.

    Raises:
        FileNotFoundError: It was not asked yet.
        ValueError: It was asked for other lists.
    """
    made_by = "python benchmarks/indexing.py dicvol FOLDER"
    path = require_file("benchmarks/dicvol.json", made_by=made_by)
    found = pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["answers"])
    found = found[found["list"].isin(frame["list"])]
    key = ["pattern", "list"]
    both = found.merge(frame.drop_duplicates(key)[[*key, "lines", "angles"]], on=key)
    same = both["lines_x"] == both["lines_y"]
    same &= (both["angles_x"] - both["angles_y"]).abs() < _SAME_LISTS * both["lines_x"]
    if len(both) != len(found) or same.mean() < 0.95:
        raise ValueError(f"{path.name} speaks of other lists of lines: run {made_by} again")
    first = (found["rank"] == 0) & (found["list"] == "measured")
    best = first.groupby(found["settings"], sort=False).sum().idxmax()
    return found[found["settings"] == best].assign(accepted=found["m20"].notna())


def merits_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Odds and merits of first cells, nothing known: right ones, wrong ones, of random lines."""
    part = frame[(frame["known"] == "nothing") & frame["evidence"].notna()]
    real, right = part["list"] == "measured", part["rank"] == 0
    kinds = {"right": real & right, "wrong": real & ~right, "of random lines": ~real}
    return pd.DataFrame(
        {
            "first cell": name,
            "n": int(some.sum()),
            "log odds": part.loc[some, "evidence"].median(),
            "M₂₀": part.loc[some, "m20"].median(),
            "F₂₀": part.loc[some, "f20"].median(),
            "M₂₀ over 10 (%)": 100 * (part.loc[some, "m20"] > _DE_WOLFF).mean(),
        }
        for name, some in kinds.items()
    )


def systems_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells right first by crystal system, for what needs no oracle and for the best oracle."""
    part = frame[frame["list"] == "measured"].assign(right=lambda rows: rows["rank"] == 0)
    count = part[part["known"] == "nothing"].groupby("system").size()
    share = 100 * part.pivot_table(index="system", columns="known", values="right")
    systems = [name for name in CRYSTAL_SYSTEMS if name in count]
    columns = {KNOWN[known]: share.loc[systems, known].to_numpy() for known in _SHOWN}
    return pd.DataFrame({"system": systems, "patterns": count[systems].to_numpy(), **columns})


def changes(frame: pd.DataFrame, known: str) -> tuple[int, int, float]:
    """Patterns that a hint puts right and wrong, and McNemar's exact two-sided probability."""
    part = frame[frame["list"] == "measured"]
    right = part.assign(right=part["rank"] == 0).pivot(
        index="pattern", columns="known", values="right"
    )
    gained = int((right[known] & ~right["nothing"]).sum())
    lost = int((~right[known] & right["nothing"]).sum())
    total = gained + lost
    return gained, lost, float(binomtest(gained, total).pvalue) if total else 1.0


def lines_failures(frame: pd.DataFrame, read: Mapping[int, str], *, number: int) -> pd.DataFrame:
    """Patterns whose first cell is wrong when nothing is known, the surest first.

    Args:
        frame: Of :func:`search_cells`.
        read: What a person saw, by the pattern's place from 1.
        number: Rows at most.
    """
    part = frame[frame["list"] == "measured"]
    told = part[part["known"] == "read_volume"].set_index("pattern")["rank"]
    wrong = part[(part["known"] == "nothing") & (part["rank"] != 0)]
    wrong = wrong.sort_values("evidence", ascending=False, kind="stable")
    rows = [
        {
            "pattern": row.pattern + 1,
            "log odds": "–" if np.isnan(row.evidence) else f"{row.evidence:.0f}",
            "volume": "no cell" if np.isnan(row.volume) else f"{row.volume:.2f}",
            "right one at": row.rank + 1 if row.rank >= 0 else "–",
            "with volume": "first" if told[row.pattern] == 0 else "not first",
            "read by hand": read.get(row.pattern + 1, "not read"),
        }
        for row in wrong.itertuples()
    ]
    columns = ("pattern", "log odds", "volume", "right one at", "with volume", "read by hand")
    return pd.DataFrame(rows[:number] or [dict.fromkeys(columns, "–")])


def failure_kinds(frame: pd.DataFrame) -> pd.Series:
    """What happened to each crystal of a refined frame: an entry of ``FAILURES``, or "found".

    A cell whose volume is a whole multiple or part of the true one (to two per cent) has lines
    too many or too few; one of the same volume explains the same peaks with other axes.
    """
    lengths = frame[[f"relative_error_{name}" for name in "abc"]].abs().to_numpy()
    ratio = 1 + frame["relative_error_volume"].to_numpy()
    size = np.maximum(ratio, 1 / np.maximum(ratio, 1e-3))
    kinds = [
        (lengths <= 0.01).all(1),
        ~frame["accepted"].to_numpy(bool),
        (size > 1.5) & (np.abs(size / size.round() - 1) < 0.02),
        size < 1.02,
    ]
    return pd.Series(np.select(kinds, ("found", *FAILURES[:3]), FAILURES[3]), index=frame.index)

"""DICVOL beside our indexing: the same lines of measured patterns, and the same random lists.

    python benchmarks/indexing.py dicvol FOLDER [--python /usr/bin/python3]
    python benchmarks/indexing.py simulated LIBRARY [--number 100]

``dicvol`` gives the lines of the half of the labelled RRUFF patterns that may be looked at to
pyobjcryst's ``quick_index``, with three of its settings, and writes ``dicvol.json``. The chapter on
unknown cells reads it and shows it beside our search of the same lists. ``--python`` names an
interpreter that has pyobjcryst (Debian: python3-pyobjcryst) where this one has not. ``simulated``
searches simulated measurements of a library's crystals, told nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from common import Result, device_name, record

from unimat_book.chapters.unknown_cells import LISTS, line_lists, search_cells
from unimat_book.ledger.measured import FIRST_HALF
from unimat_book.measured import Labelled, cell_is_right, load_rruff, simulated_measurements
from unimat_lib.crystals.reduction import niggli_cell
from unimat_lib.crystals.table import CrystalError
from unimat_lib.files import replacing
from unimat_powder.bravais import CENTRINGS
from unimat_powder.index.observed import Observed, to_q
from unimat_powder.index.symmetry import cell_matrix, cell_of
from unimat_powder.library.file import Library

DICVOL = Path(__file__).resolve().parent / "dicvol.json"
SETTINGS = {
    "as it comes": {},
    "all centrings": {"try_centered_lattice": False},
    "two strangers": {"max_nb_spurious": 2},
}
LIMIT = 20  # seconds per list
BEST = 30  # solutions that are kept
# Newer versions look for axes from 2.5 angstrom; 2.2.5 has 3 written into it.
PROGRAM = """
import json, math, sys
import pyobjcryst
from pyobjcryst import indexing
class Explorer(indexing.CellExplorer):
    def SetLengthMinMax(self, low, high):
        indexing_explorer.SetLengthMinMax(self, 2.5, high)
indexing_explorer, indexing.CellExplorer = indexing.CellExplorer, Explorer
asked = json.load(sys.stdin)
lines = indexing.PeakList()
lines.set_dobs_list(asked["reciprocal_d"])
explorer = indexing.quick_index(lines, verbose=False, **asked["settings"])
found = []
for cell, score in explorer.GetSolutions():
    values = [float(x) for x in cell.DirectUnitCell()]
    values[3:6] = map(math.degrees, values[3:6])
    found.append([float(score), values[:6], str(cell.centering)[-1]])
print(json.dumps({"version": pyobjcryst.__version__, "found": found}))
"""


def asked(python: str, observed: Observed, settings: dict[str, object]) -> dict[str, object]:
    """What DICVOL finds: ``version`` and ``found``, figure of merit, cell and centring each."""
    places = np.sqrt(to_q(observed.two_theta, observed.wavelength)).tolist()
    question = json.dumps({"reciprocal_d": places, "settings": settings})
    try:
        done = subprocess.run(
            [python, "-c", PROGRAM], input=question, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return {"version": "", "found": []}
    if done.returncode:
        raise SystemExit(f"{python} cannot run pyobjcryst: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def is_right(cell: Sequence[float], centring: str, one: Labelled) -> bool:
    """Whether a cell is the sample's, also where a centred one is called primitive."""
    rows = cell_matrix(np.array(cell))
    for letter in CENTRINGS if centring == "P" else [centring]:
        try:
            niggli = cell_of(niggli_cell(np.array(CENTRINGS[letter]) @ rows))
        except CrystalError:
            continue
        if cell_is_right(SimpleNamespace(lengths=niggli[:3], angles=niggli[3:]), one):
            return True
    return False


def dicvol(labelled: Sequence[Labelled], python: str, workers: int) -> dict[str, object]:
    """DICVOL's answers, numbers only: random lists with the settings that find most cells first."""
    lists = [line_lists(one.pattern, place) for place, one in enumerate(labelled)]

    def ask(kinds: Sequence[str], names: Sequence[str]) -> list[dict[str, object]]:
        jobs = [(i, k, n) for i in range(len(lists)) for k in kinds for n in names]
        with ThreadPoolExecutor(workers) as pool:  # each waits for a process of its own
            parts = [(python, lists[i][k], SETTINGS[n]) for i, k, n in jobs]
            answers = list(pool.map(asked, *zip(*parts, strict=True)))
        return rows_of(labelled, lists, jobs, answers)

    rows = ask(["measured"], list(SETTINGS))
    first = Counter(row["settings"] for row in rows if row["rank"] == 0)
    print(dict(first), "cells first", flush=True)
    rows += ask(
        [kind for kind in LISTS if kind != "measured"],
        [max(SETTINGS, key=lambda name: first[name])],
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": device_name("cpu"),
        "pyobjcryst": asked(python, lists[0]["measured"], {})["version"],
        "limit_s": LIMIT,
        "answers": rows,
    }


def rows_of(
    labelled: Sequence[Labelled],
    lists: Sequence[dict[str, Observed]],
    jobs: Sequence[tuple[int, str, str]],
    answers: Sequence[dict[str, object]],
) -> list[dict[str, object]]:
    """What is kept of answers."""
    rows = []
    for (place, kind, name), answer in zip(jobs, answers, strict=True):
        observed = lists[place][kind]
        found = sorted(answer["found"], key=lambda one: -one[0])[:BEST]
        ranks = (
            rank
            for rank, (_, cell, centring) in enumerate(found)
            if kind == "measured" and is_right(cell, centring, labelled[place])
        )
        rows.append(
            {
                **{"pattern": place, "list": kind, "settings": name},
                # Enough to notice that a list has become another one.
                **{"lines": len(observed), "angles": round(float(observed.two_theta.sum()), 2)},
                "rank": next(ranks, -1),
                "m20": round(found[0][0], 2) if found else None,
            }
        )
    return rows


def simulated(library: Library, number: int) -> list[Result]:
    """Our search of simulated measurements."""
    frame = search_cells(simulated_measurements(library, number, seed=7))
    part = frame[(frame["list"] == "measured") & (frame["known"] == "nothing")]
    accepted = part["accepted"].to_numpy()
    shares = {
        "first": (part["rank"] == 0).mean(),
        "among_five": part["rank"].between(0, 4).mean(),
        "wrong": (accepted & (part["rank"] != 0)).sum() / max(accepted.sum(), 1),
    }
    seconds = float(part["seconds"].median())
    print({name: round(float(share), 3) for name, share in shares.items()}, f"{seconds:.1f} s")
    device = device_name("cpu")
    name = "indexing_simulated_nothing"
    results = [
        Result(name=f"{name}_{what}", value=float(share), unit="1", device=device)
        for what, share in shares.items()
    ]
    return [*results, Result(name=name, value=seconds, unit="s", device=device)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("dicvol", "simulated"))
    parser.add_argument("source", type=Path, help="folder of the patterns, or a library")
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--python", default=sys.executable, help="one that has pyobjcryst")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.what == "simulated":
        record(simulated(Library.open(options.source), options.number))
        return
    labelled = load_rruff(options.source)[:FIRST_HALF]
    found = dicvol(labelled, options.python, options.workers)
    with replacing(DICVOL) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for kind in LISTS:
        for name in SETTINGS:
            some = [r for r in found["answers"] if (r["list"], r["settings"]) == (kind, name)]
            first = sum(r["rank"] == 0 for r in some)
            five = sum(0 <= r["rank"] < 5 for r in some)
            answered = sum(r["m20"] is not None for r in some)
            print(f"{kind:<10}{name:<15}{first:>3} first {five:>3} five {answered:>3} answered")


if __name__ == "__main__":
    main()

"""Write benchmarks/README.md from what was measured and what was to be reached.

python benchmarks/report.py          # after a benchmark has recorded something
python benchmarks/report.py --check  # fails if the README is not that of the two files
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, load

from unimat_book.performance import REACHED, read_results, read_targets, speed_overview
from unimat_lib.files import replacing

HERE = Path(__file__).resolve().parent
README, TARGETS = HERE / "README.md", HERE / "targets.yml"
NO_BENCHMARKS = ("common", "report")

INTRODUCTION = """\
<!-- Written by benchmarks/report.py from results.json and targets.yml: do not edit. -->

# Measurements beside other programs

{summary}

Every script runs from the root of the clone, prints a table and records its numbers in
`results.json`:

{scripts}

`--help` names the options of each. Some need MP-20 (`python -m unimat_lib.datasets prepare
mp_20`), some a GPU, some a program to compare with; a script says so when it is missing.

On a machine whose files are to be carried home, record elsewhere and merge later:

```bash
UNIMAT_BENCHMARKS=gpu.json python benchmarks/SCRIPT.py ...   # there
python benchmarks/common.py merge gpu.json                   # here
python benchmarks/report.py                                  # writes this page
```

**Side by side** means: the same crystals, the same task to the same end, on the same machine, one
after the other. Each time is the shortest of several after a warm-up, because whatever disturbs a
measurement makes it longer. Reading files and starting Python are outside the clock unless a row
says otherwise. Exceptions, named in the notes of their rows: a single prediction is a median and
includes reading the file; whole runs (preparation, the quick book, the paper's table) are timed
once; the baseline of the preparation is scaled up from some of its rows; and the quick book trains
less than the one it is compared with, so that its ratio is not one of speed alone.

What the numbers are not:

- They hold for the machine, the crystals and the versions named below. They move with the sizes of
  the cells, the number of cores and whatever else the machine is doing; on another one expect the
  same order, not the same digits.
- A ratio on one core says nothing about two programs on many cores.
- A ratio to "the same run plainly" measures our own changes, not another project's best effort.
- The numbers to reach were set before the work on speed began; which batch size a row names was
  made precise when it was measured. A missed goal stays in the table.
"""

FLOORS = """\
## Floors

A floor is the least that the hardware allows for the task: bytes that must move over the bandwidth,
or operations that must be done over the peak rate, whichever takes longer. For a rate it is the
largest one possible. How far a result is from its floor says how much could still be gained; what
limits it, where to look.
"""


def page(results: Mapping[str, Mapping[str, Any]], targets: Mapping[str, Any]) -> str:
    """The whole README."""
    frame = speed_overview(results, targets)
    rows = frame.to_dict("records")
    limited = [row for row in rows if row["floor"] or row["limits"]]
    parts = [
        INTRODUCTION.format(summary=_summary(rows), scripts=_scripts()),
        "## Results\n",
        _table(
            ["What", "Measured", "Against", "Ratio", "To reach", "Reached?"],
            [
                [row[key] for key in ("what", "measured", "against", "ratio", "reach", "verdict")]
                for row in rows
            ],
        ),
    ]
    if limited:
        parts += [
            "\n" + FLOORS,
            _table(
                ["What", "Measured", "Floor", "What limits it"],
                [[row[key] for key in ("what", "measured", "floor", "limits")] for row in limited],
            ),
        ]
    if results:
        parts += [
            "\n## Where and when\n",
            _table(
                ["Name", "Device", "Machine", "Date", "Versions"],
                [
                    [
                        f"`{name}`",
                        result["device"],
                        result.get("machine") or "",
                        result["date"],
                        ", ".join(f"{k} {v}" for k, v in (result.get("versions") or {}).items()),
                    ]
                    for name, result in sorted(results.items())
                ],
            ),
        ]
    return "\n".join(parts) + "\n"


def _summary(rows: Sequence[Mapping[str, str]]) -> str:
    with_goal = [row for row in rows if row["reach"]]
    reached = sum(row["verdict"] == REACHED for row in with_goal)
    missed = sum(row["verdict"].startswith("missed") for row in with_goal)
    return (
        f"Goals: {len(with_goal)}. Reached: {reached}. Missed: {missed}. "
        f"Not measured yet: {len(with_goal) - reached - missed}."
    )


def _scripts() -> str:
    """The scripts with the first sentence of their docstrings."""
    lines = []
    for path in sorted(HERE.glob("*.py")):
        if path.stem in NO_BENCHMARKS:
            continue
        words = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split()
        first = " ".join(words).split(". ")[0].rstrip(".")
        lines.append(f"- `python benchmarks/{path.name}`: {first}.")
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        shown = (" ".join(str(cell).split()).replace("|", "\\|") or "–" for cell in cells)
        return "| " + " | ".join(shown) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if it would")
    args = parser.parse_args()
    try:
        load(RESULTS)  # every field checked
        text = page(read_results(RESULTS), read_targets(TARGETS))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if README.is_file() and README.read_text(encoding="utf-8") == text:
        print(f"{README.name} is up to date")
        return 0
    if args.check:
        print(f"{README} is out of date; run: python benchmarks/report.py", file=sys.stderr)
        return 1
    with replacing(README) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{README.name} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How long a search of known crystals takes: all of them compared, and a whole answer.

    python benchmarks/search.py LIBRARY [--device cpu]
    python benchmarks/search.py LIBRARY --device cuda

Patterns are simulated measurements of crystals of the library. ``compare`` is the exhaustive
comparison of 236 of them (on a CPU, of 8) with every crystal at 71 isotropic scales; the baseline
is a product of drawn curves, one matrix product for each of 25 scales, on a thousand crystals and
extrapolated. A whole answer and a cold start are timed on the CPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from collect_evidence import GRID, measured
from common import Result, device_name, record, timed

from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.effects import Effects
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render
from unimat_powder.library.file import Library
from unimat_powder.pattern import Pattern
from unimat_powder.search.amplitude import amplitude_of
from unimat_powder.search.candidates import line_index
from unimat_powder.search.curve import measured_curve
from unimat_powder.search.search import search
from unimat_powder.search.shifts import SHIFTS, overlaps
from unimat_powder.simulation.ranges import RRUFF

PATTERNS, SCALES = 236, 25
SAMPLE = 1000  # crystals of the baseline


def drawn_comparison(library: Library, number: int, device: str) -> float:
    """Seconds for ``number`` patterns against ``SAMPLE`` crystals at 25 scales, as drawn curves."""
    table = library.crystals(torch.randperm(len(library))[:SAMPLE]).to(device)
    grid = Grid(5.0, 90.0, 4096)
    reflections = bragg_reflections(table, g_max=1.04 * g_max_of(grid))
    queries = torch.rand(number, grid.num_points, device=device)
    index = torch.arange(SAMPLE, device=device)
    one = torch.ones(SAMPLE, device=device)
    none = torch.zeros(SAMPLE, dtype=torch.float64, device=device)

    def compare() -> torch.Tensor:
        best = torch.zeros(number, SAMPLE, device=device)
        for strain in torch.linspace(-0.02, 0.02, SCALES).tolist():
            effects = Effects(0.15 * one, 0.5 * one, strain=none + strain, zero_shift=none)
            root = render(reflections, index, grid, effects=effects).sqrt()
            best = torch.maximum(best, queries @ (root / root.norm(dim=1, keepdim=True)).T)
        return best

    return timed(compare, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    device = args.device
    number = PATTERNS if device == "cuda" else 8
    library = Library.open(args.library)
    rows = torch.randperm(len(library), generator=torch.Generator().manual_seed(0))[:number]
    patterns = [p for p in measured(library.crystals(rows), RRUFF, seed=0) if p is not None]
    amplitudes = [amplitude_of(measured_curve(pattern)) for pattern in patterns]
    lines = line_index(library)
    moved = replace(lines, **{name: x.to(device) for name, x in vars(lines).items()})

    def compare() -> list[torch.Tensor]:
        return [overlaps(amplitude, moved).amax(1) for amplitude in amplitudes]

    seconds = timed(compare, device=device)
    drawn = drawn_comparison(library, number, device) * len(library) / SAMPLE
    where = "gpu" if device == "cuda" else "cpu"
    results = [
        Result(
            name=f"search_compare_{where}_s",
            value=seconds * PATTERNS / len(patterns),
            unit="s",
            device=device_name(device),
            baseline="drawn curves and matrix products, extrapolated from a thousand crystals",
            ratio=drawn / seconds,
            notes=f"{PATTERNS} patterns x {len(library):,} crystals x "
            f"{SHIFTS[1] - SHIFTS[0] + 1} scales, from {len(patterns)} patterns",
        )
    ]
    if device == "cpu":
        results += whole_answers(library, patterns, args.library)
    for result in results:
        print(f"{result.name:<28}{result.value:>10.3f} {result.unit}  ratio {result.ratio}")
    record(results)


def whole_answers(library: Library, patterns: list[Pattern], path: Path) -> list[Result]:
    """A whole answer, and the first one of a new process."""
    search(patterns[0], library)
    start = time.perf_counter()
    for pattern in patterns:
        search(pattern, library)
    each = (time.perf_counter() - start) / len(patterns)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scan.xy"
        columns = [GRID.two_theta.numpy(), patterns[0].intensity.numpy()]
        np.savetxt(file, np.stack([c[: len(columns[1])] for c in columns], 1), fmt="%.3f")
        command = [sys.executable, "-m", "unimat_powder.command", "identify", str(file)]
        start = time.perf_counter()
        subprocess.run([*command, "--library", str(path)], check=True, capture_output=True)
        cold = time.perf_counter() - start
    about = dict(unit="s", device=device_name("cpu"))
    notes = f"{len(library):,} crystals, {torch.get_num_threads()} threads"
    return [
        Result(name="search_answer_s", value=each, notes=notes, **about),
        Result(name="search_cold_start_s", value=cold, notes=notes, **about),
    ]


if __name__ == "__main__":
    main()

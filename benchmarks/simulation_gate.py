"""Can measured patterns be told from simulated ones of the same crystals? And what is left?

Reads the first half of ``rruff_labelled`` under the folder that UNIMAT_DATA names, finds each
scan's structure among MP-20 and mp_extra (same formula and space group, cell within 5 %), puts it
into the labelled cell, fits the simulation's parameters to the scan, simulates the crystal several
times with the ranges of that laboratory, and trains classifiers to tell both kinds apart.

    UNIMAT_DATA=... python benchmarks/simulation_gate.py [--network-steps 250] [--plots FOLDER]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from pymatgen.core import Composition, Lattice
from torch import Tensor

from unimat_book.ledger.measured import FIRST_HALF
from unimat_lib.crystals.table import CrystalTable, concatenate
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.views.bragg import Reflections, bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_powder.simulation.fit import fit_instrument
from unimat_powder.simulation.gate import Gate, pattern_features, tell_apart, tell_apart_by_network
from unimat_powder.simulation.prepare import prepare
from unimat_powder.simulation.ranges import RRUFF, draw_instruments
from unimat_powder.simulation.simulate import simulate
from unimat_powder.simulation.symmetry import strain_projectors

GRID = Grid(5.0, 89.99, 8500)  # the points of the scans


class Measured(NamedTuple):
    """Scans whose structures are known."""

    samples: list[str]
    counts: np.ndarray  # [n, P]
    crystals: CrystalTable  # in the labelled cells


def measured_patterns(folder: Path) -> Measured:
    """Scans of the first half with raw counts, and their structures."""
    labels = pd.read_csv(folder / "rruff_labelled.csv")
    labels = labels.sort_values("sample").head(FIRST_HALF)
    labels = labels[labels["integer_counts"] | (labels["sample"] == "CdS_186")]
    scans = np.load(folder / "rruff_labelled.npz")
    library = concatenate([load_dataset("mp_20"), load_dataset("mp_extra")])
    samples, counts, places, cells = [], [], [], []
    for row, label in labels.iterrows():
        cell = np.array(label["niggli"].split(), dtype=float)
        place = _structure(library, label["formula"], label["space_group"], cell)
        if place is None:
            continue
        first = scans["offsets"][row]
        samples.append(label["sample"])
        counts.append(scans["intensity"][first : first + GRID.num_points])
        places.append(place)
        cells.append(Lattice.from_parameters(*cell).matrix)
    crystals = library.select(places)
    crystals.lattice[:] = torch.from_numpy(np.array(cells))
    return Measured(samples, np.array(counts, dtype=np.float64), crystals)


def _structure(library: CrystalTable, formula: str, group: int, cell: np.ndarray) -> int | None:
    """The crystal of a formula and space group whose cell is nearest, within 5 %."""
    wanted = Composition(formula).reduced_formula
    best, off = None, 0.05
    for place in np.flatnonzero(library.info["space_group"] == group):
        if Composition(library.info["formula"][place]).reduced_formula != wanted:
            continue
        lengths = library.lattice[place].norm(dim=-1).numpy()
        if (now := np.abs(lengths / cell[:3] - 1).max()) < off:
            best, off = int(place), now
    return best


def simulated(reflections: Reflections, copies: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Each crystal simulated some times, ``[n copies, P]``, and which crystal each is."""
    symmetry = strain_projectors(reflections.reciprocal)
    generator = torch.Generator().manual_seed(seed)
    every = torch.arange(len(reflections))
    parts = []
    for _ in range(copies):
        instruments = draw_instruments(RRUFF, len(every), grid=GRID, generator=generator)
        counts, _ = simulate(
            reflections, every, GRID, instruments, generator=generator, symmetry=symmetry
        )
        parts.append(counts)
    return torch.cat(parts), every.repeat(copies).numpy()


def report_fits(known: Measured, reflections: Reflections, plots: Path | None) -> None:
    """Fit every scan; print what is left and how the parameters are spread."""
    rows = []
    for place, sample in enumerate(known.samples):
        alone = reflections.select(torch.tensor([place]))
        fit = fit_instrument(known.counts[place], alone, GRID)
        rows.append({"chi2": fit.chi2, **fit.parameters})
        if plots is not None:
            _plot(plots / f"{sample}.png", known.counts[place], fit.calculated)
    table = pd.DataFrame(rows, index=known.samples)
    print(table["chi2"].round(2).to_string())
    well = table[table["chi2"] < 3]
    print(f"{len(well)} of {len(table)} fitted with chi2 below 3; their parameters:")
    print(well.quantile([0.05, 0.5, 0.95]).T.round(3).to_string())


def _plot(path: Path, counts: np.ndarray, calculated: np.ndarray) -> None:
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(14, 7), sharex=True)
    above.plot(GRID.two_theta, np.sqrt(counts), "k", lw=0.5, label="measured")
    above.plot(GRID.two_theta, np.sqrt(np.maximum(calculated, 0)), "r", lw=0.7, label="fitted")
    above.set_ylabel("square root of counts")
    above.legend()
    left = (counts - calculated) / np.sqrt(np.maximum(calculated, 0.5))
    below.plot(GRID.two_theta, left, lw=0.4)
    below.set(xlabel="2theta (degrees)", ylabel="residual (standard deviations)", ylim=(-12, 12))
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=6, help="simulations of each crystal")
    parser.add_argument("--network-steps", type=int, default=0, help="0: no network")
    parser.add_argument("--plots", type=Path, help="folder for plots of measured and fitted")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if "UNIMAT_DATA" not in os.environ:
        parser.error("set UNIMAT_DATA to the folder that holds experimental/rruff_labelled.csv")

    known = measured_patterns(Path(os.environ["UNIMAT_DATA"], "experimental"))
    reflections = bragg_reflections(known.crystals, g_max=g_max_of(GRID, 0.03))
    report_fits(known, reflections, args.plots)

    for seed in range(args.seeds):
        counts, of = simulated(reflections, args.copies, seed)
        crystal = np.concatenate([np.arange(len(known.samples)), of])
        measured = np.arange(len(crystal)) < len(known.samples)
        every = torch.cat([torch.from_numpy(known.counts).float(), counts])
        rows = [pattern_features(pattern, GRID) for pattern in every.numpy()]
        features = np.array([list(row.values()) for row in rows])
        _print("features", tell_apart(features, list(rows[0]), measured, crystal, seed=seed))
        if args.network_steps:
            root = (every + 0.375).sqrt()
            root = (root - root.mean(1, keepdim=True)) / root.std(1, keepdim=True)
            prepared = prepare(every, torch.ones_like(every, dtype=torch.bool), GRID)
            for name, curves in (("counts", root), ("prepared", prepared)):
                gate = tell_apart_by_network(
                    curves, measured, crystal, steps=args.network_steps, seed=seed
                )
                _print(f"network, {name}", gate)


def _print(name: str, gate: Gate) -> None:
    print(
        f"{name}: {gate.accuracy:.3f} ({gate.low:.3f} to {gate.high:.3f}), AUC {gate.auc:.3f}"
        f"{'; tells: ' if gate.telling else ''}{', '.join(gate.telling)}",
        flush=True,
    )


if __name__ == "__main__":
    main()

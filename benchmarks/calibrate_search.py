"""The weights that turn the evidence of a search into probabilities, from simulated measurements.

``collect`` measures crystals of the library that nobody tunes on otherwise (MP-20's validation
split and further crystals), with one laboratory's habits and with everybody's, searches for them,
and keeps the evidence of the best candidates. ``fit`` finds the weights by which the right one
comes out likeliest, and those of "none of them" and of the cell, with the right one there and taken
out. The evidence of measured patterns that may be looked at can be added.

    python benchmarks/calibrate_search.py collect LIBRARY OUT.npz [--number 3000] [--workers 16]
    python benchmarks/calibrate_search.py fit OUT.npz [MEASURED.npz]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from pymatgen.core import Composition
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from unimat_book.measured import bare_formula
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_powder.library.file import Library
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.search.candidates import best_candidates, line_index
from unimat_powder.search.cells import relaxed_cells, same_cells
from unimat_powder.search.curve import MeasuredCurve, measured_curve
from unimat_powder.search.rank import AGREEMENT, EVIDENCE, WEIGHTS, agreement_of, evidence_of
from unimat_powder.search.search import with_elements
from unimat_powder.search.shifts import LineIndex
from unimat_powder.simulation.ranges import RRUFF, LaboratoryRanges, draw_instruments
from unimat_powder.simulation.simulate import simulate

GRID = Grid(5.0, 90.0, 8501)
CHUNK = 25
MEASURED = 20
"""How often a measured pattern of the half that may be looked at counts, beside simulated ones."""

UNKNOWN = {"pattern": 1 / 3, "elements": 1.0}
"""Crystals that the library lacks, for one that it has, among those that laboratories measure. With
the elements known a wrong polymorph is all that is left: there the two count alike."""


def measured(table: CrystalTable, ranges: LaboratoryRanges, seed: int) -> list[Pattern | None]:
    """A simulated measurement of every crystal; ``None`` where nothing is left to see."""
    generator = torch.Generator().manual_seed(seed)
    instruments = draw_instruments(ranges, len(table), grid=GRID, generator=generator)
    reflections = bragg_reflections(table, g_max=1.06 * g_max_of(GRID))
    index = torch.arange(len(table))
    counts, mask = simulate(reflections, index, GRID, instruments, generator=generator)
    patterns: list[Pattern | None] = []
    for row, seen in zip(counts, mask, strict=True):
        try:
            patterns.append(Pattern(GRID.two_theta[seen], row[seen].double()))
        except PatternError:
            patterns.append(None)
    return patterns


def same(library: Library, rows: torch.Tensor, table: CrystalTable, i: int) -> torch.Tensor:
    """Which rows of the library are crystal ``i`` of the table: composition and cell within 5 %."""
    found = library.crystals(rows)
    close = (found.lengths / table.lengths[i] - 1).abs().amax(1) < 0.05
    formula = bare_formula(table.info["formula"].iloc[i])
    alike = [bare_formula(text) == formula for text in found.info["formula"]]
    return close & torch.tensor(alike)


def work(library: Path, name: str, rows: list[int], ranges: str, seed: int) -> list[tuple]:
    """Evidence of the candidates of some crystals, for both settings."""
    torch.set_num_threads(1)
    opened = Library.open(library)
    lines = line_index(opened)
    table = load_dataset(name).select(torch.tensor(rows))
    habits = RRUFF if ranges == "rruff" else LaboratoryRanges(anodes=(("Cu", 1.0),))
    results = []
    for i, pattern in enumerate(measured(table, habits, seed)):
        if pattern is None:
            continue
        try:
            curve = measured_curve(pattern)
        except PatternError:
            continue
        symbols = {e.symbol for e in Composition(table.info["formula"].iloc[i]).elements}
        alike = with_elements(opened, symbols)
        truth = true_cell(opened, lines, table, i, curve, alike)
        for setting, among in (("pattern", None), ("elements", alike)):
            ranked = best_candidates(curve, opened, lines, among)
            right = same(opened, ranked.index, table, i)
            asked = len(opened) if among is None else len(among)
            about = (setting == "elements", asked, ranges == "rruff", int(table.space_group[i]))
            groups = opened.space_group[ranked.index].numpy()
            found = evidence_of(ranked).numpy(), right.numpy(), groups, relaxed_cells(ranked)
            results.append((*found, truth, about))
    return results


def true_cell(
    library: Library,
    lines: LineIndex,
    table: CrystalTable,
    i: int,
    curve: MeasuredCurve,
    alike: torch.Tensor,
) -> np.ndarray:
    """The cell of crystal ``i`` as it was measured, ``[6]``: that of a fit that starts from it.

    ``alike`` int64 ``[C]`` are the library's crystals of its elements, among which it is looked up.
    """
    name = table.info["material_id"].iloc[i]
    itself = [row for row in alike.tolist() if library.material_id(row) == name][:1]
    if not itself:
        return np.full(6, np.nan)
    return relaxed_cells(best_candidates(curve, library, lines, torch.tensor(itself)))[0]


def collect(options: argparse.Namespace) -> None:
    """Simulate, search, and write the evidence."""
    start = time.perf_counter()
    generator = np.random.default_rng(options.seed)
    jobs = []
    for name, split in (("mp_20", "val"), ("mp_extra", "extra")):
        info = load_dataset(name).info
        rows = np.flatnonzero(info["split"] == split)
        for k, chosen in enumerate(
            np.array_split(
                generator.choice(rows, options.number // 2, replace=False),
                max(options.number // 2 // CHUNK, 1),
            )
        ):
            habits = "rruff" if k % 2 else "all"
            jobs.append((options.library, name, chosen.tolist(), habits, len(jobs)))
    parts = Parallel(options.workers)(delayed(work)(*job) for job in jobs)
    found = [one for part in parts for one in part]
    width = max(len(one[1]) for one in found)
    evidence = np.full((len(found), width, len(EVIDENCE)), np.nan, dtype=np.float32)
    right = np.zeros((len(found), width), dtype=bool)
    groups = np.zeros((len(found), width), dtype=np.uint8)
    cells = np.full((len(found), width, 6), np.nan, dtype=np.float32)
    for row, (values, is_right, group, cell, _, _) in enumerate(found):
        evidence[row, : len(values)], cells[row, : len(values)] = values, cell
        right[row, : len(values)], groups[row, : len(values)] = is_right, group
    truth = np.array([one[4] for one in found], dtype=np.float32)
    about = np.array([one[5] for one in found], dtype=np.int32)
    kept = dict(evidence=evidence, right=right, groups=groups, cells=cells, truth=truth)
    np.savez_compressed(options.out, **kept, about=about)
    print(f"{len(found)} searches in {time.perf_counter() - start:.0f} s", flush=True)
    for setting in (0, 1):
        for habits in (0, 1):
            of = (about[:, 0] == setting) & (about[:, 2] == habits)
            print(setting, habits, of.sum(), "right one among the best:", right[of].any(1).mean())


def fit(options: argparse.Namespace) -> None:
    """Weights of both settings, written to the search's file."""
    names = ("evidence", "right", "groups", "cells", "truth", "about")
    found = {name: [] for name in names}
    for path in (options.simulated, *options.measured):
        with np.load(path) as part:
            repeats = 1 if path == options.simulated else MEASURED
            for name in names:
                found[name] += [part[name]] * repeats
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    weights = {}
    for setting, name in enumerate(("pattern", "elements")):
        part = {key: x[joined["about"][:, 0] == setting] for key, x in joined.items()}
        evidence = fit_weights(part["evidence"], part["right"])
        facts, same, known, there = cell_cases(part, evidence)
        counts = np.where(known, 1.0, UNKNOWN[name])
        weights[name] = {
            "evidence": evidence,
            "none": fit_logistic(facts, ~there, counts),
            "cell": fit_logistic(facts, same, counts),
        }
        print(name, len(same), {k: np.round(v, 3).tolist() for k, v in weights[name].items()})
    WEIGHTS.write_text(json.dumps(weights, indent=1) + "\n", encoding="utf-8")


def cell_cases(
    part: dict[str, np.ndarray], weights: list[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Each search as it was, and with the right crystal taken out.

    Returns:
        Facts of :data:`AGREEMENT` ``[N, 16]``; and, bool ``[N]`` each, whether cell and system were
        right, whether nothing was taken out, and whether the right crystal was among the best.
    """
    facts, same, known, found = [], [], [], []
    for row in range(len(part["evidence"])):
        there = np.isfinite(part["evidence"][row, :, 0])
        for kept in (there, there & ~part["right"][row]):
            if not kept.any():
                continue
            evidence = torch.from_numpy(part["evidence"][row, kept]).double()
            cells, groups = part["cells"][row, kept].astype(float), part["groups"][row, kept]
            asked = int(part["about"][row, 1])
            facts.append(
                agreement_of(evidence, cells, torch.from_numpy(groups), weights, asked=asked)
            )
            best = int((evidence @ torch.tensor(weights, dtype=torch.float64)).argmax())
            both = np.stack([cells[best], part["truth"][row]])
            systems = torch.tensor([int(groups[best]), int(part["about"][row, 3])])
            same.append(bool(same_cells(both, systems, 1)[0]))
            known.append(kept is there)
            found.append(bool((part["right"][row] & kept).any()))
    return np.array(facts), np.array(same), np.array(known), np.array(found)


def fit_logistic(facts: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> list[float]:
    """Weights of a logistic model for :data:`AGREEMENT`; each case counts ``counts`` times."""
    scale = np.maximum(facts.std(0), 1e-6)
    scale[-1] = 1.0
    model = LogisticRegression(C=10.0, fit_intercept=False, max_iter=5000)
    model.fit(facts / scale, labels, sample_weight=counts)
    assert len(scale) == len(AGREEMENT)
    return (model.coef_[0] / scale).tolist()


def fit_weights(evidence: np.ndarray, right: np.ndarray) -> list[float]:
    """Weights by which the right one is likeliest among the candidates, where it is one of them."""
    found = right.any(1)
    there = torch.tensor(np.isfinite(evidence[found][..., 0]))
    values = torch.tensor(np.nan_to_num(evidence[found])).double()
    correct = torch.tensor(right[found])
    scale = values[there].std(0).clamp_min(1e-6)
    parameters = torch.zeros(len(EVIDENCE), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=300, line_search_fn="strong_wolfe")

    def weights() -> torch.Tensor:
        # Better evidence never counts against a crystal, however the columns are correlated.
        return functional.softplus(parameters) / scale

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        shares = torch.log_softmax((values @ weights()).masked_fill(~there, -torch.inf), dim=1)
        picked = torch.logsumexp(shares.masked_fill(~correct, -torch.inf), dim=1)
        total = 1e-4 * parameters.square().sum() - picked.mean()
        total.backward()
        return total

    optimiser.step(loss)
    return weights().detach().tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("library", type=Path)
    collecting.add_argument("out", type=Path)
    collecting.add_argument("--number", type=int, default=3000, help="crystals")
    collecting.add_argument("--workers", type=int, default=2)
    collecting.add_argument("--seed", type=int, default=0)
    collecting.set_defaults(run=collect)
    fitting = commands.add_parser("fit")
    fitting.add_argument("simulated", type=Path)
    fitting.add_argument("measured", type=Path, nargs="*", help="the half that may be looked at")
    fitting.set_defaults(run=fit)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

"""The grid, fused models and their answers in, the tables of chapter 05 out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_book.grid.analysis import Cells, ledger_rows_of_grid
from unimat_book.grid.cells import FUSIONS, KINDS, ORDERS, GridSettings, Job, cell_names
from unimat_book.grid.results import Result, load_published
from unimat_book.grid.train import SYSTEM_WEIGHT, limited_rows
from unimat_book.grid.work import Folder, work_through
from unimat_book.ledger.rows import write_rows
from unimat_book.novelty import structure_types
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.evaluation.metrics import cell_metrics
from unimat_lib.model import UniMat
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.composition import magpie_features
from unimat_lib.views.grid import WAVELENGTHS, Grid
from unimat_lib.views.render import render


@torch.no_grad()
def cells_table(
    model: UniMat, crystal: CrystalTable, patterns: Mapping[str, Tensor], *, formula: str
) -> pd.DataFrame:
    """The true cell of one crystal (first row) and what a model says of some patterns ``[P]``.

    Columns: a, b, c (angstrom), alpha, beta, gamma (degrees) and the likeliest crystal system.
    """
    rows = [[*crystal.lengths[0].tolist(), *crystal.angles[0].tolist()]]
    composition = magpie_features([formula]).expand(len(patterns), -1)
    output = model.eval()({"xrd": torch.stack(list(patterns.values())), "composition": composition})
    cells = model.cell_scaler.decode(output.cell)
    rows += torch.cat([cells["lengths"], cells["angles"]], dim=1).tolist()
    systems = [int(crystal.crystal_system[0]), *output.system_log_probs.argmax(1).tolist()]
    columns = ["a (Å)", "b (Å)", "c (Å)", "α (°)", "β (°)", "γ (°)"]
    table = pd.DataFrame(rows, index=["true cell", *patterns], columns=columns)
    table["crystal system"] = [CRYSTAL_SYSTEMS[i] for i in systems]
    return table.rename_axis("pattern")


def grid_results(
    settings: GridSettings, table: CrystalTable, *, results: Path, work: Path, device: str
) -> list[Result]:
    """Trainings of the grid: small ones are done here, large ones were done before.

    Args:
        settings: Of the grid; with a ``limit`` it is a small one.
        table: The crystals.
        results: Folder of the published trainings of a large grid.
        work: Where small ones keep what they make.
        device: Where these are trained.

    Raises:
        FileNotFoundError: There are no published trainings.
        ValueError: They are of other settings, crystals or code, or one of the small ones failed.
    """
    if not settings.limit:
        made_by = "python -m unimat_book.grid --gpus 4 --processes-per-gpu 2"
        return load_published(results, settings, table.content_hash(), made_by=made_by)
    folder = Folder.of(work, settings, table.content_hash())
    folder.forget_failures()
    work_through(folder, table, device=device)
    if errors := sorted((folder.path / "attempts").glob("*")):
        raise ValueError(f"{len(errors)} trainings of the grid failed, see {folder.path}/errors")
    return list(folder.results().values())


def systems_and_types(table: CrystalTable, settings: GridSettings) -> tuple[np.ndarray, list[str]]:
    """Crystal systems and structure types of the test crystals of the grid."""
    rows = limited_rows(table, settings)[2]
    part = table.select(rows)
    return part.crystal_system.cpu().numpy(), structure_types(part)[0]


def cell_name(fusion: str, order: str) -> str:
    """A cell of the grid in a table."""
    return f"{FUSIONS[fusion]}; {ORDERS[order]}"


def grid_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell: errors with both intervals; ``frame`` is of :func:`.intervals`."""
    rows = []
    for (fusion, order), cell in _by_cell(frame):
        scaled = cell.loc["scaled_length_mae"]
        rows.append(
            {
                "fusion; order": cell_name(fusion, order),
                "scaled length MAE (Å)": _spread(scaled, ".4f"),
                "95 %, crystals": f"{scaled.ci_low:.3f} to {scaled.ci_high:.3f}",
                "95 %, types": f"{scaled.types_low:.3f} to {scaled.types_high:.3f}",
                "length MAE (Å)": _spread(cell.loc["length_mae"], ".3f"),
                "system (%)": _spread(cell.loc["crystal_system_accuracy"], ".1f"),
            }
        )
    return pd.DataFrame(rows)


def hardships_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell: macro accuracy, retrieval, and the scaled error in three hardships."""
    columns = {
        "macro_system_accuracy": ("macro system (%)", ".1f"),
        "recall_at_1": ("recall@1 (%)", ".1f"),
        "scaled_length_mae_no_formula": ("no formula (Å)", ".3f"),
        "scaled_length_mae_no_pattern": ("no pattern (Å)", ".3f"),
        "scaled_length_mae_typo": ("wrong formula (Å)", ".3f"),
    }
    rows = []
    for (fusion, order), cell in _by_cell(frame):
        shown = {
            heading: _spread(cell.loc[metric], spec) if metric in cell.index else "–"
            for metric, (heading, spec) in columns.items()
        }
        rows.append({"fusion; order": cell_name(fusion, order)} | shown)
    return pd.DataFrame(rows)


def _by_cell(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    for fusion, order in cell_names():
        here = frame[(frame["fusion"] == fusion) & (frame["order"] == order)]
        yield (fusion, order), here.set_index("metric")


def _spread(row: pd.Series, spec: str) -> str:
    spread = f" ± {row['std']:{spec}}" if row["seeds"] > 1 else ""
    return f"{row['mean']:{spec}}{spread}"


def effects_table(by_kind: Mapping[str, pd.DataFrame], *, spec: str) -> pd.DataFrame:
    """Changes with their 95 % intervals and verdicts, see :func:`.effects`, by kind of patterns."""
    parts = []
    for kind, frame in by_kind.items():
        rows = frame[["change", "low", "high"]].itertuples(index=False)
        text = [f"{x:+{spec}} ({low:+{spec}} to {high:+{spec}})" for x, low, high in rows]
        words = {KINDS[kind]: text, f"verdict, {kind}": frame["verdict"].tolist()}
        parts.append(pd.DataFrame(words, index=frame["effect"]))
    return pd.concat(parts, axis=1).fillna("–").rename_axis("effect").reset_index()


def grid_curves(
    results: Sequence[Result], kind: str, fusion: str
) -> dict[str, dict[str, pd.DataFrame] | dict[str, int]]:
    """Histories and best epochs by order, of the first seed of a fusion.

    They are arguments of :func:`.plot_learning_curves`.
    """
    jobs = {r.job: r for r in results if r.job.purpose == "final"}
    first = min(job.seed for job in jobs)
    shown = {name: jobs[Job("final", kind, fusion, order, first)] for order, name in ORDERS.items()}
    histories = {
        name: pd.DataFrame(r.history).assign(epoch=range(len(r.history)))
        for name, r in shown.items()
    }
    best = {
        name: int((h["val_cell"] + SYSTEM_WEIGHT * h["val_system"]).idxmin())
        for name, h in histories.items()
    }
    return {"histories": histories, "best_epoch": best}


def count_verdicts(by_kind: Mapping[str, pd.DataFrame]) -> dict[str, int]:
    """How many effects are confirmed (better or worse), confirmed to be none, and open."""
    words = [word for frame in by_kind.values() for word in frame["verdict"]]
    confirmed = sum(word in ("better", "worse") for word in words)
    none = sum(word == "no difference" for word in words)
    return {"confirmed": confirmed, "none": none, "open": len(words) - confirmed - none}


def save_rows(scores: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Write the grid's rows of the ledger, of each kind of patterns, for chapter 09."""
    rows = [row for kind, frame in scores.items() for row in ledger_rows_of_grid(frame, kind)]
    write_rows(rows, path)
    return path


def library_choice(cells: Cells) -> tuple[str, bool]:
    """The best fusion that the library has by validation, and whether it is aligned meanwhile."""
    known = [fusion for fusion in FUSIONS if fusion in ("concat", "gated", "cross_attention")]
    loss = dict(zip(cell_names(), cells.losses.mean(axis=1), strict=True))
    fusion, order = min(
        ((f, o) for f in known for o in ("none", "simultaneous")), key=loss.__getitem__
    )
    return fusion, order != "none"


def withheld_table(
    asked: Mapping[tuple[str, str], pd.DataFrame], metric: str, *, columns: Sequence[str]
) -> pd.DataFrame:
    """A metric (see :func:`.cell_metrics`) of models (rows) that are given some views (columns).

    Keys of ``asked`` are the model and the views that it was given.
    """
    values = {key: cell_metrics(frame)[metric] for key, frame in asked.items()}
    models = dict.fromkeys(model for model, _ in asked)
    return pd.DataFrame(
        {given: [values.get((model, given), np.nan) for model in models] for given in columns},
        index=list(models),
    )


def disturbed_patterns(crystal: CrystalTable, grid: Grid, *, fwhm: float) -> dict[str, Tensor]:
    """One crystal's pattern ``[P]`` as the training saw it, and as three instruments would show it.

    Noise is that of 8,000 counts in the highest peak over a background of 300 falling to 100; the
    background is then taken off by its true value. The doublet is Cu K-alpha 1 and 2, two to one.
    """
    reflections = bragg_reflections(crystal, g_max=1.01 * g_max_of(grid))
    first = torch.tensor([0])
    clean = render(reflections, first, grid, fwhm=fwhm)[0]
    background = torch.linspace(300, 100, grid.num_points)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.poisson(8000 * clean + background, generator=generator) - background
    lines = (
        render(reflections, first, replace(grid, wavelength=WAVELENGTHS[name]), fwhm=fwhm)[0]
        for name in ("CuKa1", "CuKa2")
    )
    doublet = next(lines) + next(lines) / 2
    return {
        "clean": clean,
        "noise": noisy.clamp_min(0) / noisy.max(),
        "K-alpha doublet": doublet / doublet.max(),
        "up to 60°": clean * (grid.two_theta <= 60),
    }

"""What is behind an error: symmetry, novelty, what each view knows, and what the worst ones are.

Everything here works on errors frames (see :func:`.predict`), so no model and
no GPU is needed to ask a new question.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from string import ascii_uppercase

import numpy as np
import pandas as pd

from unimat_book.chapters.crystals_and_splits import near_twins
from unimat_book.limits import lattice_multiple, metric_tensors
from unimat_book.tables import worst_table
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable, crystal_system_index
from unimat_lib.datasets.mp_extra import pretraining_pool
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.datasets.report import DataError
from unimat_lib.evaluation.metrics import (
    CELL_COLUMNS,
    PER_CRYSTAL,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
    cell_metrics,
    confusion_counts,
    expected_calibration_error,
    per_system_table,
)
from unimat_powder.bravais import lattice_system

SUBSYSTEMS: Mapping[str, tuple[str, ...]] = {
    "triclinic": (),
    "monoclinic": ("triclinic",),
    "orthorhombic": ("triclinic", "monoclinic"),
    "tetragonal": ("triclinic", "monoclinic", "orthorhombic"),
    "trigonal": ("triclinic", "monoclinic"),
    "hexagonal": ("triclinic", "monoclinic", "orthorhombic", "trigonal"),
    "cubic": ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal"),
}
"""Crystal systems whose full point group is a subgroup of that of the key.

A crystal of a subsystem becomes one of the key's system by a distortion that may be small.
Source: International Tables for Crystallography A, group-subgroup relations of the point groups.
"""

NOVELTY = ("near twin", "same formula", "known structure type", "new structure type")
"""How near a test crystal is to the crystals that were trained on, see :func:`novelty`."""

WRONG_CELLS = (
    "predicted angles close no cell",
    "same lattice, another cell",
    "whole multiple or part of the cell",
    "two lengths right, the third wrong",
    "right volume, another lattice",
    "volume too small",
    "volume too large",
)
"""What kind of wrong a cell is, see :func:`wrong_cells`."""

SYSTEM_METRICS: Mapping[str, str] = {
    "crystal_system_accuracy": "right (%)",
    "scaled_length_mae": "scaled MAE (Å)",
    "angle_mae": "angle MAE (°)",
}
"""Metrics by crystal system and how they are called in tables."""

_NEAR_LENGTH = 0.05  # relative error up to which a length passes for right
_NEAR_VOLUME = 0.1  # relative error up to which a volume passes for right
_PSEUDO = 0.02  # relative deviation of a metric from a symmetry that passes for the symmetry


def related(first: int, second: int) -> bool:
    """Whether one of two crystal systems (indices) is a subsystem of the other."""
    a, b = CRYSTAL_SYSTEMS[first], CRYSTAL_SYSTEMS[second]
    return a in SUBSYSTEMS[b] or b in SUBSYSTEMS[a]


def related_share(frame: pd.DataFrame) -> tuple[float, float]:
    """Share of wrong crystal systems that are related to the right one, and the share by chance.

    By chance means: every wrong answer is drawn anew from the model's own answers, the right
    system left out. Related pairs are frequent (17 of 21), so the first number alone says little.

    Args:
        frame: Errors frame.

    Returns:
        Both in [0, 1]; NaN where nothing is wrong.
    """
    matrix = confusion_counts(frame)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    if not wrong.sum():
        return float("nan"), float("nan")
    number = len(CRYSTAL_SYSTEMS)
    table = np.array([[related(i, j) for j in range(number)] for i in range(number)])
    answers = matrix.sum(axis=0).astype(float)  # [7]
    by_chance = np.full(number, np.nan)
    for i in range(number):
        others = answers.sum() - answers[i]
        if others:
            by_chance[i] = (answers * table[i]).sum() / others
    weight = wrong.sum(axis=1)
    return float((wrong * table).sum() / wrong.sum()), float(
        (weight * np.nan_to_num(by_chance)).sum() / weight.sum()
    )


def probability_scores(frame: pd.DataFrame) -> dict[str, float]:
    """How good the stated probabilities of the crystal systems are.

    Returns:
        ``accuracy`` (micro) and ``macro accuracy`` over the systems that occur, in percent;
        ``log score`` in nats and ``Brier score``, both proper and lower is better; ``ECE`` in
        percent.
    """
    probabilities = frame[list(PROBABILITY_COLUMNS)].to_numpy(dtype=float)  # [n, 7]
    truth = frame["crystal_system"].to_numpy()
    right = (frame["predicted_system"].to_numpy() == truth).astype(float)
    one_hot = np.eye(len(CRYSTAL_SYSTEMS))[truth]
    given = np.clip(probabilities[np.arange(len(truth)), truth], 1e-9, 1)
    return {
        "accuracy": 100 * right.mean(),
        "macro accuracy": 100 * np.mean([right[truth == k].mean() for k in np.unique(truth)]),
        "log score": -np.log(given).mean(),
        "Brier score": ((probabilities - one_hot) ** 2).sum(axis=1).mean(),
        "ECE": 100 * expected_calibration_error(frame),
    }


def agreement(frames: Mapping[str, pd.DataFrame], *, fused: pd.DataFrame) -> pd.DataFrame:
    """Which single views are right about the crystal system together, and what fusion makes of it.

    Args:
        frames: View to errors frame, same crystals in the same order.
        fused: Errors frame of the fused model on those crystals.

    Returns:
        One row per combination of right views that occurs, most views first: ``right``, ``n``,
        ``share (%)``, ``fused right (%)``.
    """
    hits = {name: _right(frame) for name, frame in frames.items()}
    rows = pd.DataFrame({**hits, "fused": _right(fused)})
    found = []
    for key, group in rows.groupby(list(hits), sort=False):
        names = [name for name, hit in zip(hits, key, strict=True) if hit]
        label = {0: "none", len(hits): "all"}.get(len(names), " and ".join(names))
        if len(names) == 1:
            label += " only"
        found.append((len(names), len(group), label, 100 * group["fused"].mean()))
    found.sort(key=lambda row: (-row[0], -row[1]))
    return pd.DataFrame(
        {
            "right": [row[2] for row in found],
            "n": [row[1] for row in found],
            "share (%)": [100 * row[1] / len(rows) for row in found],
            "fused right (%)": [row[3] for row in found],
        }
    )


def _right(frame: pd.DataFrame) -> np.ndarray:
    return (frame["predicted_system"] == frame["crystal_system"]).to_numpy()


def structure_types(table: CrystalTable) -> tuple[list[str], list[frozenset[int]]]:
    """Structure type and set of elements of each crystal.

    A structure type is told by the formula without the names of its elements, the space group and
    the number of atoms in the primitive cell, such as "AB2, 136, 6" for rutile. Two crystals of one
    type are usually, not always, built alike.

    Returns:
        Labels and sets of atomic numbers, ``C`` each.
    """
    crystal, number = table.atom_crystal.cpu().numpy(), table.atomic_numbers.cpu().numpy()
    pairs, counts = np.unique(crystal * 128 + number, return_counts=True)  # sorted by crystal
    bounds = np.searchsorted(pairs, 128 * np.arange(len(table) + 1))
    types, elements = [], []
    groups = zip(table.space_group.tolist(), table.num_atoms.tolist(), strict=True)
    for (first, last), (group, atoms) in zip(itertools.pairwise(bounds), groups, strict=True):
        amounts = sorted((counts[first:last] // np.gcd.reduce(counts[first:last])).tolist())
        letters = zip(ascii_uppercase, amounts, strict=False)
        formula = "".join(letter + (str(n) if n > 1 else "") for letter, n in letters)
        types.append(f"{formula}, {group}, {atoms}")
        elements.append(frozenset((pairs[first:last] % 128).tolist()))
    return types, elements


def known_crystals(
    table: CrystalTable, pretraining: str, *, max_atoms: int
) -> tuple[CrystalTable, str]:
    """Every crystal that our models were trained on, and words that say what is among them.

    Args:
        table: The data set with its splits.
        pretraining: Name of the data set of further crystals, empty for none.
        max_atoms: Largest of their cells.

    Returns:
        The training split with the further crystals. Where this computer has no such data set the
        training split comes alone, and the words say so.
    """
    words, extra = "and there was no pretraining", None
    if pretraining:
        words = "with those of pretraining"
        try:
            extra = load_dataset(pretraining)
        except DataError:
            words = f"without those of pretraining, as {pretraining} is not on this computer"
    pool = pretraining_pool(table, extra, max_atoms=max_atoms)
    return pool.select(pool.info["split"].isin(["train", "extra"]).to_numpy(bool, copy=True)), words


def novelty(test: CrystalTable, known: CrystalTable, *, tolerance: float = 0.02) -> pd.DataFrame:
    """How near test crystals are to crystals that were trained on.

    Args:
        test: ``C`` crystals.
        known: Everything that was trained on.
        tolerance: Relative difference of the lengths up to which two cells are the same.

    Returns:
        ``C`` rows: ``category``, the first of ``NOVELTY`` that holds: a crystal of the same
        formula, space group, number of atoms and lengths is known ("near twin"), one of the same
        formula, one of the same structure type, or none of these; and ``elements``, "known" where
        the same set of elements is.
    """
    types, elements = structure_types(test)
    known_types, known_elements = (set(x) for x in structure_types(known))
    formulas = test.info["formula"].isin(known.info["formula"]).to_numpy()
    twins = near_twins(test, known, keys=("formula", "space_group"), tolerance=tolerance)
    of_type = np.array([name in known_types for name in types], dtype=bool)
    seen = np.array([some in known_elements for some in elements], dtype=bool)
    return pd.DataFrame(
        {
            "category": np.select([twins, formulas, of_type], NOVELTY[:3], NOVELTY[3]),
            "elements": np.where(seen, "known", "new"),
        }
    )


def novelty_table(
    frames: Mapping[str, Sequence[pd.DataFrame]], kinds: pd.DataFrame
) -> pd.DataFrame:
    """Errors and accuracies by novelty, and how much of the whole error each kind carries.

    Args:
        frames: Model to the errors frames of its seeds, same crystals in the same order. The last
            model is the one whose error is shared out.
        kinds: See :func:`novelty`.

    Returns:
        One row per category of ``NOVELTY`` and set of elements that can occur, also empty ones,
        and one for all crystals: ``nearest known crystal``, ``set of elements``, ``n``,
        ``share (%)``, then for each model its error and its accuracy in percent (means over
        seeds), and ``share of the error (%)``.
    """
    errors = {name: over_seeds(seeds) for name, seeds in frames.items()}
    right = {name: over_seeds(seeds, "crystal_system_accuracy") for name, seeds in frames.items()}
    cells = [(NOVELTY[0], "known"), (NOVELTY[1], "known")]
    cells += list(itertools.product(NOVELTY[2:], ("known", "new")))
    picks = [((kinds["category"] == c) & (kinds["elements"] == e)).to_numpy() for c, e in cells]
    cells, picks = [*cells, ("all", "all")], [*picks, np.ones(len(kinds), dtype=bool)]
    rows = []
    for (category, elements), pick in zip(cells, picks, strict=True):
        row = {"nearest known crystal": category, "set of elements": elements, "n": int(pick.sum())}
        row["share (%)"] = 100 * pick.mean()
        for name, error in errors.items():
            row[f"{name}: error (Å)"] = mean_or_nan(error[pick])
            row[f"{name}: system (%)"] = mean_or_nan(right[name][pick])
        row["share of the error (%)"] = 100 * error[pick].sum() / max(error.sum(), 1e-12)
        rows.append(row)
    return pd.DataFrame(rows)


def mean_or_nan(values: np.ndarray) -> float:
    """The mean, NaN where there is nothing to average."""
    return float(values.mean()) if len(values) else float("nan")


def novelty_facts(frames: Sequence[pd.DataFrame], kinds: pd.DataFrame) -> pd.DataFrame:
    """The same for one model and for larger groups, which overlap.

    Args:
        frames: Errors frames of its seeds.
        kinds: See :func:`novelty`.

    Returns:
        Index: ``all``, ``twins``, ``not_twins``, ``new_formula``, ``new_type``, ``new_elements``.
        Columns: ``share`` of the crystals in percent, ``error`` in angstrom (scaled length MAE) and
        ``system``, the accuracy in percent.
    """
    category = kinds["category"]
    groups = {
        "all": category.notna(),
        "twins": category == NOVELTY[0],
        "not_twins": category != NOVELTY[0],
        "new_formula": category.isin(NOVELTY[2:]),
        "new_type": category == NOVELTY[3],
        "new_elements": kinds["elements"] == "new",
    }
    error, right = over_seeds(frames), over_seeds(frames, "crystal_system_accuracy")
    rows = {
        name: (100 * x.mean(), mean_or_nan(error[x]), mean_or_nan(right[x]))
        for name, x in groups.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["share", "error", "system"])


def fusion_facts(
    pattern: pd.DataFrame, formula: pd.DataFrame, fused: pd.DataFrame
) -> dict[str, float]:
    """What fusion makes of the crystal systems that only one view names right, in percent.

    Returns:
        ``formula_only``, the share of crystals that the formula alone has right and the pattern
        alone has not; ``formula_only_fused``, how often the fused model is right among them (NaN:
        there are none); ``fusion_won`` and ``fusion_lost`` against the pattern alone.
    """
    by_pattern, by_formula, by_both = (_right(frame) for frame in (pattern, formula, fused))
    only = by_formula & ~by_pattern
    return {
        "formula_only": 100 * mean_or_nan(only),
        "formula_only_fused": 100 * mean_or_nan(by_both[only]),
        "fusion_won": 100 * mean_or_nan(by_both & ~by_pattern),
        "fusion_lost": 100 * mean_or_nan(by_pattern & ~by_both),
    }


def view_errors(frames: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, float]:
    """Whether the views of a crystal err on the same crystals, and in the same direction.

    Args:
        frames: View to errors frame, same crystals in the same order.

    Returns:
        One row per view: ``error (Å)`` (scaled length MAE), ``smallest error (%)``, the share of
        the crystals in which no other view is better, and ``with <view>``, Spearman's rank
        correlation of the signed errors of the scaled lengths. Then the error of an oracle that
        takes the best view of each crystal.

    Raises:
        ValueError: If there are fewer than two views.
    """
    if len(frames) < 2:
        raise ValueError(f"expected at least two views to compare, got {list(frames)}")
    errors = np.stack([over_seeds([frame]) for frame in frames.values()])  # [views, n]
    best = np.bincount(errors.argmin(axis=0), minlength=len(frames)) / errors.shape[1]
    columns = [f"error_{name}" for name in SCALED_COLUMNS]
    signed = {f"with {name}": frame[columns].to_numpy().ravel() for name, frame in frames.items()}
    correlation = pd.DataFrame(signed).corr("spearman")
    table = pd.DataFrame(
        {"error (Å)": errors.mean(axis=1), "smallest error (%)": 100 * best}, index=list(frames)
    )
    for (name, values), own in zip(correlation.items(), frames, strict=True):
        table[name] = values.to_numpy()
        table.loc[own, name] = np.nan  # with itself it says nothing
    return table.rename_axis("view"), float(errors.min(axis=0).mean())


def low_symmetry_table(frames: Mapping[str, pd.DataFrame], systems: Sequence[str]) -> pd.DataFrame:
    """How models do on some crystal systems, and what they say when they are wrong.

    Args:
        frames: Model to errors frame.
        systems: Names of crystal systems.

    Returns:
        One row per system and model: ``n``, ``right (%)``, ``most frequent wrong answer``,
        ``confidence when wrong`` and the errors of lengths and angles. A system without crystals
        has ``n = 0`` and empty cells.
    """
    rows = []
    for system in systems:
        number = CRYSTAL_SYSTEMS.index(system)
        for name, frame in frames.items():
            part = frame[frame["crystal_system"] == number]
            wrong = part[part["predicted_system"] != number]
            answers = wrong["predicted_system"].value_counts()
            confidence = wrong[list(PROBABILITY_COLUMNS)].max(axis=1).mean()
            metrics = cell_metrics(part) if len(part) else {}
            rows.append(
                {
                    "crystal system": system,
                    "model": name,
                    "n": len(part),
                    "right (%)": metrics.get("crystal_system_accuracy", np.nan),
                    "most frequent wrong answer": (
                        f"{CRYSTAL_SYSTEMS[answers.index[0]]} ({answers.iloc[0]})"
                        if len(answers)
                        else "–"
                    ),
                    "confidence when wrong": float(confidence) if len(wrong) else np.nan,
                    "scaled length MAE (Å)": metrics.get("scaled_length_mae", np.nan),
                    "angle MAE (°)": metrics.get("angle_mae", np.nan),
                }
            )
    return pd.DataFrame(rows)


def wrong_cells(frame: pd.DataFrame) -> list[str]:
    """Name the kind of each wrong cell: the first of ``WRONG_CELLS`` that fits.

    Lattices are compared whatever their setting is (:func:`.lattice_multiple`), so
    a cell that was doubled, halved or cut in another way is told from one of another lattice.

    Returns:
        One phrase per row.
    """
    said = frame[list(CELL_COLUMNS)].to_numpy(dtype=float)
    true = said - frame[[f"error_{name}" for name in CELL_COLUMNS]].to_numpy(dtype=float)
    ratio = 1 + frame["relative_error_volume"].to_numpy(dtype=float)
    metric, reference = (metric_tensors(x[:, :3], x[:, 3:]) for x in (said, true))
    closed = (ratio > 0.01) & (np.linalg.eigvalsh(metric).min(axis=1) > 1e-3)
    multiple = np.zeros(len(frame), dtype=int)
    multiple[closed] = lattice_multiple(metric[closed], reference[closed])
    kinds = [
        ~closed,
        multiple == 1,
        multiple != 0,
        np.median(np.abs(said[:, :3] / true[:, :3] - 1), axis=1) <= _NEAR_LENGTH,
        np.abs(ratio - 1) <= _NEAR_VOLUME,
        ratio < 1,
    ]
    return np.select(kinds, WRONG_CELLS[:6], WRONG_CELLS[6]).tolist()


def circumstances(
    test: CrystalTable,
    train: CrystalTable,
    *,
    lines_per_degree: np.ndarray,
    dense: float,
    ambiguous: np.ndarray,
) -> pd.DataFrame:
    """What may make the cell of a crystal hard to find, for each crystal that is asked about.

    Args:
        test: ``C`` crystals.
        train: The training crystals, for the range of the lengths.
        lines_per_degree: Lines in each crystal's pattern, ``[C]`` per degree of 2theta.
        dense: More than so many are too many.
        ambiguous: Where another cell has nearly the same pattern, bool ``[C]``.

    Returns:
        ``C`` rows of bools, one column per circumstance. Several may hold, or none.
    """
    low, high = np.quantile(train.lengths.cpu().numpy(), [0.0025, 0.9975], axis=0)
    lengths = test.lengths.cpu().numpy()
    exact, loose = (
        lattice_system(test.lengths, test.angles, tolerance=x).cpu().numpy()
        for x in (1e-3, _PSEUDO)
    )
    return pd.DataFrame(
        {
            "label not confirmed by spglib": symmetry_label_disagrees(test, np.arange(len(test))),
            "lattice almost of higher symmetry": loose > exact,
            "nearly the pattern of another cell": np.asarray(ambiguous, dtype=bool),
            f"more than {dense:g} lines per degree": np.asarray(lines_per_degree) > dense,
            "an axis outside 99.5 % of training": ((lengths < low) | (lengths > high)).any(axis=1),
        }
    )


def worst_counts(
    frames: Mapping[str, pd.DataFrame],
    reasons: pd.DataFrame,
    *,
    n: int,
) -> pd.DataFrame:
    """What the worst length errors of models are, counted, beside what holds for all crystals.

    Args:
        frames: Model to errors frame, same crystals in the same order.
        reasons: See :func:`circumstances`, for the same crystals.
        n: How many errors, from the worst one.

    Returns:
        One row per entry of ``WRONG_CELLS`` and per circumstance: ``what``, a count for each model,
        and ``all test crystals (%)`` (NaN for kinds of wrong cells), the share that chance gives.
    """
    rows: dict[str, dict[str, object]] = {kind: {} for kind in WRONG_CELLS}
    rows |= {name: {} for name in reasons} | {"none of these circumstances": {}}
    for model, frame in frames.items():
        worst = worst_first(frame, n=n)
        kinds = wrong_cells(frame.iloc[worst])
        part = reasons.iloc[worst]
        for kind in WRONG_CELLS:
            rows[kind][model] = kinds.count(kind)
        for name in reasons:
            rows[name][model] = int(part[name].sum())
        rows["none of these circumstances"][model] = int((~part.any(axis=1)).sum())
    share = 100 * reasons.mean()
    share["none of these circumstances"] = 100 * (~reasons.any(axis=1)).mean()
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["all test crystals (%)"] = share.reindex(table.index)
    return table.rename_axis("what")


def worst_first(frame: pd.DataFrame, *, n: int) -> np.ndarray:
    """Places of the ``n`` crystals with the largest length error, from the worst one, int64."""
    return np.argsort(-PER_CRYSTAL["length_mae"](frame).to_numpy(), kind="stable")[:n]


def worst_share(frame: pd.DataFrame, *, n: int) -> float:
    """Share of the whole length error, in percent, that the ``n`` worst crystals carry."""
    error = np.sort(PER_CRYSTAL["length_mae"](frame).to_numpy())
    return 100 * float(error[-n:].sum() / max(error.sum(), 1e-12))


def worst_errors(
    frame: pd.DataFrame, table: CrystalTable, reasons: pd.DataFrame, *, n: int
) -> pd.DataFrame:
    """The ``n`` largest length errors with what can be said of each.

    Args:
        frame: Errors frame of the test crystals.
        table: All crystals with their splits.
        reasons: See :func:`circumstances`, for the test crystals.
        n: How many, from the worst one.

    Returns:
        ``formula``, ``crystal system``, ``atoms``, true and predicted lengths, ``mean error (Å)``,
        ``predicted system``, ``how it is wrong`` and ``what may have made it hard``. The index is
        the place among the test crystals.
    """
    place = worst_first(frame, n=n)
    names, part = np.array(reasons.columns, dtype=object), frame.iloc[place]
    rows = worst_table([frame], table, n=n).drop(columns="row").set_index(place)
    return rows.assign(
        **{
            "predicted system": [CRYSTAL_SYSTEMS[k] for k in part["predicted_system"]],
            "how it is wrong": wrong_cells(part),
            "what may have made it hard": [
                "; ".join(names[row]) or "–" for row in reasons.to_numpy(dtype=bool)[place]
            ],
        }
    )


def symmetry_label_disagrees(table: CrystalTable, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where the data set's crystal system is not the one that spglib finds in the coordinates.

    Args:
        table: Crystals; ``info`` may hold ``space_group_spglib`` (without it nothing disagrees).
        rows: Crystals to look at.

    Returns:
        ``[len(rows)]`` bool.
    """
    rows = np.asarray(rows)
    if "space_group_spglib" not in table.info.columns:
        return np.zeros(len(rows), dtype=bool)
    found = pd.to_numeric(table.info["space_group_spglib"]).to_numpy(dtype=float)[rows]
    known = np.isfinite(found) & (found >= 1) & (found <= 230)
    result = np.zeros(len(rows), dtype=bool)
    labels = table.crystal_system.cpu().numpy()[rows]
    result[known] = crystal_system_index(found[known].astype(np.int64)).numpy() != labels[known]
    return result


def over_seeds(frames: Sequence[pd.DataFrame], metric: str = "scaled_length_mae") -> np.ndarray:
    """A metric of each crystal (of :data:`.PER_CRYSTAL`), mean over seeds, ``[n]``."""
    return np.mean([PER_CRYSTAL[metric](frame) for frame in frames], axis=0)


def system_table(
    frames: Mapping[str, Sequence[pd.DataFrame]], columns: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Metrics by true crystal system, from low to high symmetry, means over seeds.

    Args:
        frames: Model to the errors frames of its seeds.
        columns: Metric of :func:`.per_system_table` to the models it is shown
            for, in this order.

    Returns:
        Index ``crystal system``; ``n``, then ``<model>: <metric>``. Empty systems are shown.
    """
    tables = {
        name: pd.concat([per_system_table(frame) for frame in seeds], keys=range(len(seeds)))
        for name, seeds in frames.items()
    }
    order = next(iter(tables.values())).loc[0]
    shown = order[["n"]].copy()
    for metric, models in columns.items():
        for name in models:
            mean = tables[name][metric].groupby(level=1).mean()
            shown[f"{name}: {SYSTEM_METRICS[metric]}"] = mean.reindex(shown.index)
    return shown

"""Errors frames in, tables out: by symmetry, novelty and view, and what the worst errors are.

Everything here works on errors frames (see :func:`.predict`), so no model is needed.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from unimat_book.calibration import (
    confusion_counts,
    expected_calibration_error,
    per_system_table,
)
from unimat_book.limits import lattice_multiple, metric_tensors
from unimat_book.novelty import NOVELTY
from unimat_book.statistics import over_seeds
from unimat_book.tables import worst_table
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable, crystal_system_index
from unimat_lib.evaluation.metrics import (
    CELL_COLUMNS,
    PER_CRYSTAL,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
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
    Both lie in [0, 1] and are NaN where nothing is wrong.
    """
    matrix = confusion_counts(frame)
    wrong = matrix - np.diag(matrix.diagonal())
    if not wrong.any():
        return float("nan"), float("nan")
    systems = range(len(CRYSTAL_SYSTEMS))
    kin = np.array([[related(i, j) for j in systems] for i in systems])
    answers = matrix.sum(axis=0)  # [7]
    by_chance = (kin @ answers) / np.maximum(answers.sum() - answers, 1)
    weight = wrong.sum(axis=1)
    share, chance = (wrong * kin).sum() / wrong.sum(), (weight * by_chance).sum() / weight.sum()
    return float(share), float(chance)


def probability_scores(frame: pd.DataFrame) -> dict[str, float]:
    """How good the stated probabilities of the crystal systems are.

    ``accuracy`` (micro) and ``macro accuracy`` over the systems that occur, in percent; ``log
    score`` in nats and ``Brier score``, both proper and lower is better; ``ECE`` in percent.
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

    All frames hold the same crystals in the same order. One row per combination of right views that
    occurs, most views first: ``right``, ``n``, ``share (%)``, ``fused right (%)``.
    """
    hits = {name: _right(frame) for name, frame in frames.items()}
    rows = pd.DataFrame({**hits, "fused": _right(fused)})
    found = []
    for key, group in rows.groupby(list(hits), sort=False):
        names = [name for name, hit in zip(hits, key, strict=True) if hit]
        label = {0: "none", len(hits): "all"}.get(len(names), " and ".join(names))
        label += " only" * (len(names) == 1)
        share = 100 * len(group) / len(rows)
        found.append((len(names), len(group), label, share, 100 * group["fused"].mean()))
    found.sort(key=lambda row: (-row[0], -row[1]))
    columns = ["views", "n", "right", "share (%)", "fused right (%)"]
    return pd.DataFrame(found, columns=columns)[["right", "n", *columns[3:]]]


def _right(frame: pd.DataFrame) -> np.ndarray:
    return (frame["predicted_system"] == frame["crystal_system"]).to_numpy()


def novelty_table(
    frames: Mapping[str, Sequence[pd.DataFrame]], kinds: pd.DataFrame
) -> pd.DataFrame:
    """Errors and accuracies by novelty, and how much of the whole error each kind carries.

    Args:
        frames: Model to the errors frames of its seeds, same crystals in the same order.
        kinds: See :func:`.novelty`.

    Returns:
        One row per category and set of elements that can occur, also empty ones, and one for all
        crystals: number and share, error and accuracy of each model (means over seeds), and the
        share of the last model's error.
    """
    errors = {name: over_seeds(seeds) for name, seeds in frames.items()}
    right = {name: over_seeds(seeds, "crystal_system_accuracy") for name, seeds in frames.items()}
    cells = [(NOVELTY[0], "known"), (NOVELTY[1], "known")]
    cells += list(itertools.product(NOVELTY[2:], ("known", "new")))
    picks = [((kinds["category"] == c) & (kinds["elements"] == e)).to_numpy() for c, e in cells]
    cells, picks = [*cells, ("all", "all")], [*picks, np.ones(len(kinds), dtype=bool)]
    table = pd.DataFrame(cells, columns=["nearest known crystal", "set of elements"])
    table["n"] = [int(pick.sum()) for pick in picks]
    table["share (%)"] = [100 * pick.mean() for pick in picks]
    for name, error in errors.items():
        table[f"{name}: error (Å)"] = [mean_or_nan(error[pick]) for pick in picks]
        table[f"{name}: system (%)"] = [mean_or_nan(right[name][pick]) for pick in picks]
    whole = max(error.sum(), 1e-12)
    return table.assign(**{"share of the error (%)": [100 * error[p].sum() / whole for p in picks]})


def mean_or_nan(values: np.ndarray) -> float:
    """The mean, NaN where there is nothing to average."""
    return float(values.mean()) if len(values) else float("nan")


def novelty_facts(frames: Sequence[pd.DataFrame], kinds: pd.DataFrame) -> pd.DataFrame:
    """As :func:`novelty_table`, for the seeds of one model and larger groups, which overlap.

    Index: ``all``, ``twins``, ``not_twins``, ``new_formula``, ``new_type``, ``new_elements``.
    Columns: ``share`` of the crystals and accuracy of the ``system`` in percent, and ``error`` in
    angstrom (scaled length MAE).
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

    ``formula_only`` is the share that the formula alone has right and the pattern alone has not,
    ``formula_only_fused``, how often the fused model is right among them (NaN: there are none);
    ``fusion_won`` and ``fusion_lost`` are against the pattern alone.
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
    """Whether the views of crystals (the same in each frame) err alike, and in one direction.

    Returns:
        One row per view: ``error (Å)`` (scaled length MAE), ``smallest error (%)``, the share of
        the crystals in which no other view is better, and ``with <view>``, Spearman's correlation
        of the signed errors of the scaled lengths. Then the error of an oracle that takes the best
        view of each crystal.

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

    One row per system and model. A system without crystals has ``n = 0`` and empty cells.
    """
    rows = []
    for system, (name, frame) in itertools.product(systems, frames.items()):
        number = CRYSTAL_SYSTEMS.index(system)
        part = frame[frame["crystal_system"] == number]
        wrong = part[part["predicted_system"] != number]
        answers = wrong["predicted_system"].value_counts()
        said = next((f"{CRYSTAL_SYSTEMS[k]} ({count})" for k, count in answers.items()), "–")
        row = {"crystal system": system, "model": name, "n": len(part)}
        metrics = per_system_table(frame).loc[system]
        row |= {"right (%)": metrics["crystal_system_accuracy"], "most frequent wrong answer": said}
        confidence = wrong[list(PROBABILITY_COLUMNS)].max(axis=1).mean()  # NaN: none is wrong
        row |= {"confidence when wrong": float(confidence)}
        row |= {"scaled length MAE (Å)": metrics["scaled_length_mae"]}
        rows.append(row | {"angle MAE (°)": metrics["angle_mae"]})
    return pd.DataFrame(rows)


def wrong_cells(frame: pd.DataFrame) -> list[str]:
    """The kind of each wrong cell, a phrase per row: the first of ``WRONG_CELLS`` that fits.

    Lattices are compared whatever their setting is (:func:`.lattice_multiple`), so a cell that was
    doubled, halved or cut in another way is told from one of another lattice.
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
    """What may make the cell of each of ``C`` test crystals hard to find: a bool per circumstance.

    Args:
        test: The crystals.
        train: The training crystals, for the range of the lengths.
        lines_per_degree: Lines in each crystal's pattern, ``[C]`` per degree of 2theta.
        dense: More than so many are too many.
        ambiguous: Where another cell has nearly the same pattern, bool ``[C]``.
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
    frames: Mapping[str, pd.DataFrame], reasons: pd.DataFrame, *, n: int
) -> pd.DataFrame:
    """What the ``n`` worst length errors of models are, counted, beside all test crystals.

    All frames and ``reasons`` (see :func:`circumstances`) hold the same crystals. One row per entry
    of ``WRONG_CELLS`` and per circumstance, with a count for each model and ``all test crystals
    (%)``, the share that chance gives (NaN for kinds of wrong cells).
    """
    flags = reasons.assign(**{"none of these circumstances": ~reasons.any(axis=1)})
    table = pd.DataFrame(index=pd.Index([*WRONG_CELLS, *flags], name="what"))
    for model, frame in frames.items():
        worst = worst_first(frame, n=n)
        kinds = wrong_cells(frame.iloc[worst])
        table[model] = [*map(kinds.count, WRONG_CELLS), *flags.iloc[worst].sum()]
    table["all test crystals (%)"] = 100 * flags.mean()
    return table


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
    """The ``n`` largest length errors on test crystals with what can be said of each.

    ``table`` holds all crystals with their splits, ``reasons`` those of :func:`circumstances`. The
    columns are those of :func:`.worst_table` and three more; the index is the place among the test
    crystals.
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

    Bool, one per row of ``rows``. Without ``space_group_spglib`` in ``info`` nothing disagrees.
    """
    rows = np.asarray(rows)
    if "space_group_spglib" not in table.info.columns:
        return np.zeros(len(rows), dtype=bool)
    found = pd.to_numeric(table.info["space_group_spglib"]).to_numpy(dtype=float)[rows]
    known = (found >= 1) & (found <= 230)
    system = crystal_system_index(np.where(known, found, 1).astype(np.int64)).numpy()
    return known & (system != table.crystal_system.cpu().numpy()[rows])


def system_table(
    frames: Mapping[str, Sequence[pd.DataFrame]], columns: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Metrics by true crystal system, from low to high symmetry, means over seeds.

    Args:
        frames: Model to the errors frames of its seeds.
        columns: Metric of :func:`.per_system_table` to the models it is shown for.
    """
    tables = {name: [per_system_table(frame) for frame in seeds] for name, seeds in frames.items()}
    shown = next(iter(tables.values()))[0][["n"]].copy()
    for metric, models in columns.items():
        for name in models:
            seeds = pd.concat([table[metric] for table in tables[name]], axis=1)
            shown[f"{name}: {SYSTEM_METRICS[metric]}"] = seeds.mean(axis=1)
    return shown

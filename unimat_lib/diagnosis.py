"""What is behind an error: symmetry, overlap with the training set, and what each view knows.

Everything here works on errors frames (see :func:`unimat_lib.evaluate.predict`), so no model and
no GPU is needed to ask a new question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from unimat_lib.crystals import CRYSTAL_SYSTEMS, CrystalTable, crystal_system_index
from unimat_lib.evaluate import (
    PER_CRYSTAL,
    PROBABILITY_COLUMNS,
    cell_metrics,
    confusion,
    expected_calibration_error,
)

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

OVERLAP = ("formula and space group", "formula only", "neither")
"""What a test crystal shares with the training set, see :func:`training_overlap`."""


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
    matrix = confusion(frame)
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


def training_overlap(table: CrystalTable, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """What crystals share with the training split.

    Args:
        table: All crystals with their splits.
        rows: Crystals to look at.

    Returns:
        One of ``OVERLAP`` for each row.
    """
    info = table.info
    train = info[info["split"] == "train"]
    formulas = set(train["formula"])
    pairs = set(zip(train["formula"], train["space_group"], strict=True))
    chosen = info.iloc[np.asarray(rows)]
    return np.array(
        [
            OVERLAP[0] if (f, s) in pairs else OVERLAP[1] if f in formulas else OVERLAP[2]
            for f, s in zip(chosen["formula"], chosen["space_group"], strict=True)
        ]
    )


def overlap_table(
    frames: Mapping[str, pd.DataFrame], overlap: np.ndarray, *, metric: str = "scaled_length_mae"
) -> pd.DataFrame:
    """A metric and the crystal-system accuracy by what a test crystal shares with training.

    Args:
        frames: Model to errors frame, same crystals in the same order.
        overlap: Category of each crystal, see :func:`training_overlap`.
        metric: A key of :data:`unimat_lib.evaluate.PER_CRYSTAL`.

    Returns:
        One row per category of ``OVERLAP``, also empty ones: ``in training``, ``n``, then for
        each model its error and its accuracy in percent.
    """
    rows = []
    for category in OVERLAP:
        pick = overlap == category
        row: dict[str, object] = {"in training": category, "n": int(pick.sum())}
        for name, frame in frames.items():
            part = frame[pick]
            error = float(PER_CRYSTAL[metric](part).mean()) if len(part) else float("nan")
            row[f"{name}: error (Å)"] = error
            row[f"{name}: system (%)"] = 100 * float(_right(part).mean()) if len(part) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


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


def what_happened(frame: pd.DataFrame) -> list[str]:
    """Name the kind of each cell error, by the volume and the lengths that were predicted.

    Returns:
        One phrase per row: the volume is wrong (and by how much), the cell is long and thin, or the
        shape is wrong at about the right volume.
    """
    true = frame[list("abc")].to_numpy() - frame[[f"error_{x}" for x in "abc"]].to_numpy()
    ratio = 1 + frame["relative_error_volume"].to_numpy()
    phrases = []
    for row, r in enumerate(ratio):
        if r < 0.05:
            phrases.append("predicted angles close no cell")
        elif r < 0.8:
            phrases.append(f"cell too small, volume × {r:.2f}")
        elif r > 1.25:
            phrases.append(f"cell too large, volume × {r:.2f}")
        elif true[row].max() > 3 * true[row].min():
            phrases.append("volume right, a long thin cell")
        else:
            phrases.append("volume right, shape wrong")
    return phrases


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


def mean_scaled_error(frames: Sequence[pd.DataFrame]) -> np.ndarray:
    """Scaled length error of each crystal, mean over seeds, angstrom, ``[n]``."""
    return np.mean([PER_CRYSTAL["scaled_length_mae"](frame) for frame in frames], axis=0)

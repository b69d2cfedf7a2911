"""The names of the ledger: settings, variants, metrics and where their numbers lie."""

from collections.abc import Mapping

from unimat_lib.evaluation.metrics import PROBABILITY_COLUMNS, SCALED_COLUMNS

SETTINGS: Mapping[str, str] = {
    "structure": "structure",
    "structure_aligned_xrd": "structure, aligned with XRD",
    "xrd": "XRD",
    "composition": "composition",
    "xrd_composition_aligned_fused": "XRD + composition, aligned and fused",
    "all_three": "structure + XRD + composition",
}
"""Settings and how they are called in tables."""

VARIANTS: Mapping[str, str] = {
    "reproduction": "reproduction",
    "ours": "ours",
    "ours_refined": "ours + refinement",
}
"""Variants and how they are called in tables."""

DIRECTIONS: Mapping[str, str] = {
    "xrd_to_structure": "pattern finds structure",
    "structure_to_xrd": "structure finds pattern",
    "composition_to_structure": "formula finds structure",
    "structure_to_composition": "structure finds formula",
}
"""Directions of a retrieval, query first, and how they are called in tables."""

_FUSED = "xrd_composition_aligned_fused"
_CHAPTERS = {"structure_aligned_xrd": "04", _FUSED: "05", "all_three": "05"}  # others: 03

PREDICTIONS: Mapping[tuple[str, str], str] = {
    **{(s, "reproduction"): _CHAPTERS.get(s, "03") for s in SETTINGS if s != "all_three"},
    **{(s, "ours"): _CHAPTERS.get(s, "03") for s in SETTINGS},
    **{(s, "ours_refined"): "06" for s in ("xrd", _FUSED)},
}
"""(setting, variant) of every model of the ledger, and the chapter that writes its predictions."""

RANKS: Mapping[tuple[str, str], str] = {
    ("structure_aligned_xrd", "reproduction"): "04",
    ("structure_aligned_xrd", "ours"): "04",
    ("all_three", "ours"): "05",
}
"""(setting, variant) of every retrieval of the ledger, and the chapter that writes its ranks."""

CELL_METRICS = (
    "scaled_length_mae",
    "length_mae",
    "length_median_ae",
    "angle_mae",
    "length_mape",
    "volume_mape",
    "within_1_percent",
)

RESOLUTION: Mapping[str, float] = {
    **dict.fromkeys((*"abc", *SCALED_COLUMNS), 1e-4),
    **dict.fromkeys(("alpha", "beta", "gamma"), 1e-2),
    **{f"error_{name}": 1e-4 for name in (*"abc", *SCALED_COLUMNS)},
    **{f"error_{name}": 1e-2 for name in ("alpha", "beta", "gamma")},
    **dict.fromkeys(PROBABILITY_COLUMNS, 1e-6),
}
"""Steps to which predictions are kept: angstrom, degrees, probability."""

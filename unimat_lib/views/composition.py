"""Formulas in, their 132 Magpie features out.

Magpie describes a formula by statistics over its elements: 22 tabulated properties (atomic number,
electronegativity, valence electrons, ...), and for each the minimum, maximum, range, mean, mean
absolute deviation and the value of the most abundant element. The tables are matminer's, read from
its files; the statistics are computed for all formulas at once (the tests compare the two).
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib.files import replacing
from unimat_lib.views.shipped import shipped_with

MAGPIE_PROPERTIES = (
    "Number", "MendeleevNumber", "AtomicWeight", "MeltingT", "Column", "Row", "CovalentRadius",
    "Electronegativity", "NsValence", "NpValence", "NdValence", "NfValence", "NValence",
    "NsUnfilled", "NpUnfilled", "NdUnfilled", "NfUnfilled", "NUnfilled", "GSvolume_pa",
    "GSbandgap", "GSmagmom", "SpaceGroupNumber",
)  # fmt: skip
MAGPIE_STATISTICS = ("minimum", "maximum", "range", "mean", "avg_dev", "mode")
MAGPIE_FEATURES = tuple(
    f"MagpieData {kind} {name}" for name in MAGPIE_PROPERTIES for kind in MAGPIE_STATISTICS
)
"""Names of the 132 features, as matminer's ``ElementProperty.from_preset("magpie")`` gives them."""

_NUM_ELEMENTS = 118


def magpie_features(
    formulas: Sequence[str], *, cache_dir: str | os.PathLike[str] | None = None
) -> Tensor:
    """Magpie features of formulas, float32 ``[C, 132]``, in the order of ``MAGPIE_FEATURES``.

    Where Magpie tabulates nothing (a few properties of noble gases and of the heaviest elements)
    the mean over all elements stands in, as by matminer's default. The features depend on the ratio
    of the elements only: TiO2 and Ti2O4 are equal. Deuterium counts as hydrogen.

    Args:
        formulas: ``C`` chemical formulas; each distinct one is computed once.
        cache_dir: Folder that keeps the table of element properties (a file of 30 kB) for later
            calls, also on machines without matminer.

    Raises:
        ValueError: A formula cannot be read.
        FileNotFoundError: Neither matminer nor a table in ``cache_dir`` is there.

    Source: Ward et al., npj Comput. Mater. 2, 16028 (2016).
    """
    distinct, inverse = np.unique(np.asarray(formulas, dtype=str), return_inverse=True)
    if len(distinct) == 0:
        return torch.zeros(0, len(MAGPIE_FEATURES))
    numbers, weights = _parse(distinct.tolist())
    features = _statistics(_element_table(cache_dir), numbers, weights)
    return torch.as_tensor(features[inverse.reshape(-1)].astype(np.float32))


def _parse(formulas: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Elements ``[F, K]`` (0 where there are fewer) and their atomic fractions ``[F, K]``."""
    from pymatgen.core import Composition

    parsed = []
    for formula in formulas:
        amounts: Counter[int] = Counter()
        try:
            for element, amount in Composition(formula).items():
                amounts[element.Z] += amount
            if not amounts or not all(1 <= z <= _NUM_ELEMENTS for z in amounts):
                raise ValueError("it names no element, or one that does not exist")
        except Exception as error:  # pymatgen raises several kinds here, some of them its own
            what = "expected a chemical formula such as TiO2"
            raise ValueError(f"{what}, but {formula!r} came: {error}") from None
        parsed.append(amounts)
    shape = len(parsed), max(len(amounts) for amounts in parsed)
    numbers, weights = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    for row, amounts in enumerate(parsed):
        numbers[row, : len(amounts)] = list(amounts)
        weights[row, : len(amounts)] = list(amounts.values())
    return numbers, weights / weights.sum(1, keepdims=True)


def _statistics(table: np.ndarray, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The six statistics of every property: ``[F, 22 * 6]`` from ``table`` ``[119, 22]``."""
    present = (numbers > 0)[:, :, None]  # [F, K, 1]
    values = np.where(present, table[numbers], 0.0)  # [F, K, 22]
    weight = weights[:, :, None]
    low = np.where(present, values, np.inf).min(1)  # [F, 22]
    high = np.where(present, values, -np.inf).max(1)
    mean = (weight * values).sum(1)
    deviation = (weight * np.abs(values - mean[:, None])).sum(1)
    # Among equally abundant elements the smallest value counts, as in matminer.
    most = np.isclose(weights, weights.max(1, keepdims=True))[:, :, None]
    mode = np.where(most, values, np.inf).min(1)
    return np.stack([low, high, high - low, mean, deviation, mode], axis=-1).reshape(len(low), -1)


def _element_table(cache_dir: str | os.PathLike[str] | None) -> np.ndarray:
    """Magpie's properties of the elements: ``[119, 22]`` float64, row = atomic number."""
    if cache_dir is None:
        return _matminer_table()
    path = Path(cache_dir) / "magpie-elements.parquet"
    if path.is_file():
        frame = pd.read_parquet(path)
        if _matminer_version() in (frame.attrs.get("matminer"), None):
            return frame[list(MAGPIE_PROPERTIES)].to_numpy(np.float64)
    table = _matminer_table()
    frame = pd.DataFrame(table, columns=list(MAGPIE_PROPERTIES))
    frame.attrs["matminer"] = _matminer_version()
    with replacing(path) as temporary:
        frame.to_parquet(temporary)
    return table


def _matminer_version() -> str | None:
    try:
        return metadata.version("matminer")
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _matminer_table() -> np.ndarray:
    """The same from matminer's files, which have one line per element by atomic number."""
    folder = shipped_with("matminer", "utils/data_files/magpie_elementdata")
    table = np.zeros((_NUM_ELEMENTS + 1, len(MAGPIE_PROPERTIES)))
    for column, name in enumerate(MAGPIE_PROPERTIES):
        lines = (folder / f"{name}.table").read_text(encoding="utf-8").splitlines()[:_NUM_ELEMENTS]
        values = pd.to_numeric(pd.Series(lines), errors="coerce").reindex(range(_NUM_ELEMENTS))
        table[1:, column] = values.fillna(values.mean())
    return table

"""A crystal table in, a Parquet file out, and back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.files import replacing

_TENSOR_COLUMNS = ("lattice", "atomic_numbers", "frac_coords")


def save_table(table: CrystalTable, path: str | os.PathLike[str]) -> Path:
    """Write a table, one row per crystal, to ``path``, which appears only when it is complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, offsets = Path(path), table.offsets.cpu().numpy()
    columns = {
        "lattice": (table.lattice, 9 * np.arange(len(table) + 1)),
        "atomic_numbers": (table.atomic_numbers.to(torch.uint8), offsets),
        "frac_coords": (table.frac_coords, 3 * offsets),
    }
    if table.occupancy is not None:
        columns["occupancy"] = table.occupancy, offsets
    arrow = pa.Table.from_pandas(table.info, preserve_index=False)
    for name, (values, bounds) in columns.items():
        flat = values.cpu().numpy().reshape(-1)
        column = pa.ListArray.from_arrays(bounds.astype(np.int32), flat)
        arrow = arrow.append_column(name, column)
    with replacing(path) as temporary:
        pq.write_table(arrow, temporary, compression="zstd", compression_level=9)
    return path


def load_table(path: str | os.PathLike[str]) -> CrystalTable:
    """Read a table of :func:`save_table`; ``FileNotFoundError`` or ``ValueError`` if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        remedy = "make one with python -m unimat_lib.datasets prepare NAME"
        raise FileNotFoundError(f"no crystal table at {path}; {remedy}")
    try:
        arrow = pq.read_table(path)
        names = [*_TENSOR_COLUMNS, *({"occupancy"} & set(arrow.column_names))]
        flat = {name: arrow.column(name).combine_chunks() for name in names}
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a crystal table: prepare it anew ({error})") from error
    offsets = flat["atomic_numbers"].offsets.to_numpy().astype(np.int64)

    def values(name: str) -> np.ndarray:
        return np.array(flat[name].flatten().to_numpy(zero_copy_only=False))  # own, writable memory

    return CrystalTable(
        atomic_numbers=torch.as_tensor(values("atomic_numbers").astype(np.int64)),
        frac_coords=torch.as_tensor(values("frac_coords")).reshape(-1, 3),
        lattice=torch.as_tensor(values("lattice")).reshape(-1, 3, 3),
        offsets=torch.as_tensor(offsets - offsets[0]),
        info=arrow.drop_columns(names).to_pandas(),
        occupancy=torch.as_tensor(values("occupancy")) if "occupancy" in flat else None,
    )

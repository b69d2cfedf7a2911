"""Tables of crystals or a folder of CIF files in, a library file out: ``unimat library``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib.crystals.parquet import load_table
from unimat_lib.crystals.table import REQUIRED_INFO, CrystalTable, concatenate
from unimat_lib.datasets.preparation import load_dataset, prepare_dataset
from unimat_lib.datasets.report import DataError, data_folder
from unimat_lib.processes import unordered
from unimat_lib.views.bragg import scattering_parameters
from unimat_powder.library.file import (
    VARIABLE,
    Library,
    built_library,
    default_library,
    write_library,
)
from unimat_powder.library.lines import line_index
from unimat_powder.library.symmetry import strain_bases, symmetric_lattices

ATTRIBUTION = {
    "mp_20": "Materials Project (Jain et al., APL Materials 1, 011002 (2013)), CC-BY 4.0",
    "mp_extra": "Materials Project (Jain et al., APL Materials 1, 011002 (2013)), CC-BY 4.0",
    "prototypes": "AFLOW Library of Crystallographic Prototypes (Mehl et al., Comput. Mater. Sci. "
    "136, S1 (2017)), as shipped with pymatgen",
    "cif_folder": "CIF files of the user",
}
_CHUNK = 500  # crystals per piece of work: about a second


class Dropped(NamedTuple):
    """A crystal that did not get into a library."""

    material_id: str
    reason: str


def build_library(
    tables: Mapping[str, CrystalTable], path: str | os.PathLike[str], *, workers: int = 1
) -> list[Dropped]:
    """Compute strains and lines of all crystals and write them with the structures to ``path``.

    Args:
        tables: Crystals in Niggli-reduced cells by the name of their data set.
        path: Target, replaced in one step when all is done.
        workers: Processes.

    Returns:
        The crystals left out, each with its reason.

    Raises:
        ValueError: No crystal is left, or ``workers`` is not positive.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, but {workers} came")
    lean = [replace(t, info=t.info[[*REQUIRED_INFO]]) for t in tables.values()]
    table, dropped = _with_scattering(concatenate(lean))
    lattice, _ = symmetric_lattices(table.lattice, table.space_group)
    table = replace(table, lattice=lattice)
    derived = _derived(table, workers)
    empty = derived["line_offsets"].diff() == 0
    names = table.info["material_id"].astype(str)
    dropped += [Dropped(name, "it has no line in the range") for name in names[empty.numpy()]]
    if empty.any():
        keep = (~empty).nonzero()[:, 0]  # an empty crystal has no lines to take out
        offsets = torch.cat([derived["line_offsets"][:1], derived["line_offsets"][1:][keep]])
        table = table.select(keep)
        derived |= {"line_offsets": offsets, "strain": derived["strain"][keep]}
    if not len(table):
        raise ValueError("no crystal can be used: " + "; ".join(map(": ".join, dropped[:5])))
    named = dict.fromkeys(ATTRIBUTION.get(name, name) for name in tables)
    hashes = {name: table.content_hash() for name, table in tables.items()}
    write_library(path, table, derived, {"tables": hashes, "attribution": "; ".join(named)})
    return dropped


def _with_scattering(table: CrystalTable) -> tuple[CrystalTable, list[Dropped]]:
    """The crystals whose elements all have X-ray scattering parameters, and the others."""
    unknown = scattering_parameters()[:, 0, 0].isnan()[table.atomic_numbers]
    if not unknown.any():
        return table, []
    crystals, numbers = table.atom_crystal[unknown].tolist(), table.atomic_numbers[unknown].tolist()
    first = dict(zip(reversed(crystals), reversed(numbers), strict=True))
    dropped = []
    for i, z in sorted(first.items()):
        reason = f"{gemmi.Element(z).name} has no X-ray scattering parameters"
        dropped.append(Dropped(str(table.info["material_id"].iloc[i]), reason))
    keep = torch.ones(len(table), dtype=torch.bool)
    keep[list(first)] = False
    return table.select(keep), dropped


def _derived(table: CrystalTable, workers: int) -> dict[str, Tensor]:
    """Strains and lines of all crystals, computed in pieces."""
    from tqdm import tqdm

    parts = enumerate(torch.arange(len(table)).split(_CHUNK))
    jobs = [(place, *_arrays(table.select(part))) for place, part in parts]
    pieces: dict[int, list[np.ndarray]] = {}
    with tqdm(total=len(table), unit="crystal", desc="library", disable=None) as bar:
        for place, *piece in unordered(_piece, jobs, workers=workers):
            pieces[place] = piece
            bar.update(len(piece[0]))
    ordered = [pieces[place] for place in range(len(pieces))] or [_piece(0, *_arrays(table))[1:]]
    columns = [torch.from_numpy(np.concatenate(parts)) for parts in zip(*ordered, strict=True)]
    strain, counts, position, amplitude, overlap = columns
    derived = {"strain": strain, "line_offsets": torch.cat([counts.new_zeros(1), counts.cumsum(0)])}
    lines = {"line_position": position, "line_amplitude": amplitude, "line_overlap": overlap}
    return derived | lines


def _arrays(table: CrystalTable) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """A table as what travels between processes; tensors would travel in shared files."""
    return table.info, [tensor.numpy() for tensor in table._tensors]


def _piece(place: int, info: pd.DataFrame, arrays: list[np.ndarray]) -> tuple:
    """Strains, and numbers of lines and lines, of some crystals, in the order of the file."""
    numbers, frac, lattice, offsets, *occupancy = (torch.from_numpy(x.copy()) for x in arrays)
    table = CrystalTable(numbers, frac, lattice, offsets, info, *occupancy)
    strain, _ = strain_bases(table)
    lines = line_index(table)
    columns = strain.half(), lines.offsets.diff(), *lines[1:]
    return place, *(column.numpy() for column in columns)


def tables_of(
    name: str | None, folder: str | None, *, workers: int
) -> tuple[dict[str, CrystalTable], list[Dropped]]:
    """Tables of a named collection (mp, prototypes) and of a folder of CIF files; what is lacking.

    Raises:
        DataError: A data set is absent or damaged, or no CIF can be used.
    """
    tables: dict[str, CrystalTable] = {}
    dropped: list[Dropped] = []
    if name == "prototypes":
        tables = {"prototypes": published_prototypes(load_dataset("prototypes", workers=workers))}
    elif name == "mp":
        tables = {"mp_20": load_dataset("mp_20", workers=workers)}
        try:
            tables["mp_extra"] = load_dataset("mp_extra", workers=workers)
        except DataError as error:  # it is no public file: without it the library is smaller
            if data_folder(None) is not None:
                raise
            dropped.append(Dropped("the data set mp_extra", str(error)))
    if folder is not None:
        # A cache of its own: the user's prepared folder, with properties, is left alone.
        with tempfile.TemporaryDirectory() as cache:
            report = prepare_dataset("cif_folder", folder=folder, cache_dir=cache, workers=workers)
            tables["cif_folder"] = load_table(Path(cache) / report.table)
        dropped += [Dropped(x["material_id"], x["reason"]) for x in report.dropped]
    return tables, dropped


def published_prototypes(table: CrystalTable) -> CrystalTable:
    """The prototypes without their chemical variants: no answer may name a made-up compound."""
    return table.select((table.info["source"] == "aflow").to_numpy(bool, copy=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """``unimat library build`` and ``unimat library show``; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (DataError, ValueError, OSError) as error:
        sys.stderr.write(f"unimat library: {' '.join(str(error).split())}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unimat library", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="build | show")
    build = commands.add_parser("build", help="make a library of known crystals")
    build.add_argument(
        "name",
        nargs="?",
        choices=("mp", "prototypes"),
        help="mp: Materials Project (data sets mp_20 and mp_extra); prototypes: AFLOW's",
    )
    build.add_argument("--folder", help="folder of CIF files, which are added, or taken alone")
    build.add_argument("--out", help="target (default: NAME, or cifs, in the user's data folder)")
    build.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    build.set_defaults(run=_build)
    show = commands.add_parser("show", help="say what a library holds")
    show.add_argument("path", nargs="?", help="default: the library that identify would take")
    show.set_defaults(run=_show)
    return parser


def _build(options: argparse.Namespace) -> int:
    if options.workers < 1:
        raise ValueError(f"--workers must be at least 1, but {options.workers} came")
    if options.name is None and options.folder is None:
        raise ValueError("say what to build: mp, prototypes, or --folder with CIF files")
    tables, dropped = tables_of(options.name, options.folder, workers=options.workers)
    path = Path(options.out) if options.out else built_library(options.name or "cifs")
    dropped += build_library(tables, path, workers=options.workers)
    lines = [f"left out {name}: {reason}" for name, reason in dropped]
    lines += [_summary(Library.open(path))]
    if path != built_library("mp"):
        lines.append(f"use it with --library, or name it in {VARIABLE}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _show(options: argparse.Namespace) -> int:
    sys.stdout.write(_summary(Library.open(options.path or default_library())) + "\n")
    return 0


def _summary(library: Library) -> str:
    size = library.path.stat().st_size / 1e6
    lines = [f"{library.path}: {len(library):,} crystals, {size:.1f} MB"]
    lines += [f"table {name} {digest}" for name, digest in library.metadata["tables"].items()]
    return "\n".join([*lines, f"from {library.metadata['attribution']}"])

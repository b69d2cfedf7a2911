"""Named data sets, each turned once into a table of crystals.

Four names are known. ``prototypes`` needs no download: the AFLOW prototype library inside pymatgen
plus synthetic chemical variants. ``mp_20`` is the Materials Project subset of the CDVAE paper, read
from a folder or downloaded from its repository at a pinned commit. ``mp_extra``, read from a
folder, holds further crystals of the Materials Project, which only pretraining may use.
``cif_folder`` is any folder of CIF files. :func:`prepare` does the work and says in its report what
became of every row; :func:`load` returns the table and prepares it when it is not there yet.

On the command line: ``python -m unimat_lib.datasets prepare mp_20``.
"""

from __future__ import annotations

import argparse
import ast
import functools
import gzip
import hashlib
import itertools
import json
import logging
import math
import multiprocessing
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from unimat_lib.crystals import (
    CRYSTAL_SYSTEMS,
    EXTRA_SPLIT,
    SPLITS,
    CrystalError,
    CrystalTable,
    ReducedCrystal,
    aflow_prototypes,
    concatenate,
    crystal_system_index,
    load_table,
    reduce_crystal,
    reduced_formula,
    save_table,
    table_from_arrays,
)
from unimat_lib.files import alone_in, replacing

logger = logging.getLogger(__name__)

DATASETS = ("prototypes", "mp_20", "mp_extra", "cif_folder")
MANIFEST = Path(__file__).resolve().parent.parent / "data" / "manifest.yml"

_CHUNK = 250  # rows per file of an unfinished preparation: about a second of work

NUM_PROTOTYPE_CRYSTALS = 3000
MAX_PROTOTYPE_ATOMS = 20
PROTOTYPE_SYMPREC = 0.01
"""Prototypes have exact coordinates; a wider tolerance would take FeS2 in P1 for cubic pyrite."""

MAX_SCATTERING_Z = 94
"""Heaviest element whose X-ray scattering parameters pymatgen tabulates."""

# Elements that take each other's place in the variants: groups of the periodic table without noble
# gases, hydrogen, elements that have no long-lived isotope, and Eu, Tb, Yb, to which pymatgen gives
# no electronegativity (its volume predictor needs one). Lanthanides, Th and U count to group 3.
SUBSTITUTION_GROUPS = (
    ("Li", "Na", "K", "Rb", "Cs"),
    ("Be", "Mg", "Ca", "Sr", "Ba"),
    ("Sc", "Y", "La", "Ce", "Pr", "Nd", "Sm", "Gd", "Dy", "Ho", "Er", "Tm", "Lu", "Th", "U"),
    ("Ti", "Zr", "Hf"),
    ("V", "Nb", "Ta"),
    ("Cr", "Mo", "W"),
    ("Mn", "Re"),
    ("Fe", "Ru", "Os"),
    ("Co", "Rh", "Ir"),
    ("Ni", "Pd", "Pt"),
    ("Cu", "Ag", "Au"),
    ("Zn", "Cd", "Hg"),
    ("B", "Al", "Ga", "In", "Tl"),
    ("C", "Si", "Ge", "Sn", "Pb"),
    ("N", "P", "As", "Sb", "Bi"),
    ("O", "S", "Se", "Te"),
    ("F", "Cl", "Br", "I"),
)
# Published prototypes may contain an element that no variant does; it is replaced all the same.
_ALSO_IN_GROUP = {"Np": 2, "Pu": 2, "Pa": 2, "Cf": 2, "Eu": 2, "Tb": 2, "Yb": 2, "Po": 15, "Tc": 6}

_PROPERTIES = ("formation_energy_per_atom", "band_gap", "e_above_hull")
_SPLIT_SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}


class DataError(RuntimeError):
    """A data set as a whole cannot be used; the message says what to do."""


# ---- reports


@dataclass
class PreparationReport:
    """What became of every row.

    Attributes:
        name: Data set.
        num_rows: Rows (crystals, files) that came in.
        num_used: Rows in the table.
        dropped: One ``{"row", "material_id", "reason"}`` for each of the others.
        counts: Crystals used: ``{"split": {...}, "source": {...}}``, then by split and source,
            and by split and crystal system.
        notes: Further counts, each with its name: disagreements of the space group, ...
        provenance: Which data this is, in words.
        table: Path of the table.
        seconds: Wall time of this preparation (of its last part, when it was resumed).
    """

    name: str
    num_rows: int
    num_used: int
    dropped: list[dict[str, Any]]
    counts: dict[str, dict[str, int]]
    notes: dict[str, int]
    provenance: str
    table: str = ""
    seconds: float = 0.0

    def summary(self) -> pd.DataFrame:
        """Crystals by split (rows) and crystal system (columns), with their sum."""
        frame = pd.DataFrame({split: self.counts[split] for split in self.counts["split"]}).T
        frame = frame.reindex(columns=CRYSTAL_SYSTEMS)
        frame["all"] = frame.sum(axis=1)
        return frame


def _count(values: Iterable[Any]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for value in values:
        counts[str(value)] += 1
    return dict(sorted(counts.items()))


def _counts(info: pd.DataFrame) -> dict[str, dict[str, int]]:
    by_split = info["split"].value_counts()
    splits = (EXTRA_SPLIT,) if EXTRA_SPLIT in by_split else SPLITS
    counts = {"split": {split: int(by_split.get(split, 0)) for split in splits}}
    counts["source"] = _count(info["source"])
    systems = crystal_system_index(info["space_group"].to_numpy(np.int64, copy=True)).tolist()
    names = pd.Series([CRYSTAL_SYSTEMS[s] for s in systems], index=info.index, dtype=object)
    for split in splits:
        mask = info["split"] == split
        present = _count(names[mask])
        counts[f"{split}_by_source"] = _count(info["source"][mask])
        counts[split] = {system: present.get(system, 0) for system in CRYSTAL_SYSTEMS}
    return counts


# ---- CIF


def read_cif(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All atoms of the cell that a CIF describes.

    Symmetry operations are those the file lists, else those of its space group; a file that says
    nothing about symmetry is read as it stands. Deuterium and tritium count as hydrogen, which
    scatters X-rays alike. An occupancy given as unknown counts as full.

    Args:
        text: Content of the CIF.

    Returns:
        Lattice ``[3, 3]`` (rows a, b, c in angstrom), fractional coordinates ``[n, 3]`` and atomic
        numbers ``[n]``.

    Raises:
        CrystalError: The text is no CIF with exactly one crystal, a site is partially occupied, an
            element is unknown, or the symmetry is not understood.
    """
    import gemmi

    try:
        document = gemmi.cif.read_string(text)
        blocks = [block for block in document if block.find_loop("_atom_site_fract_x")]
        if len(blocks) != 1:
            raise CrystalError(f"one crystal expected, but the CIF has {len(blocks)} site lists")
        small = gemmi.make_small_structure_from_block(blocks[0])
        sites = [(s.label, s.element.atomic_number, s.fract.tolist(), s.occ) for s in small.sites]
        operations = _operations(small)
        lattice = np.array(small.cell.orth.mat.tolist()).T
    except CrystalError:
        raise
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        raise CrystalError(f"unreadable CIF: {' '.join(str(error).split())[:200]}") from None
    if not small.cell.is_crystal():
        raise CrystalError("the CIF gives no cell")
    for label, number, fract, occupancy in sites:
        if not 1 <= number <= 118:
            raise CrystalError(f"unknown element at site {label!r}")
        if not abs(occupancy - 1) < 1e-3:  # this way round it also catches NaN
            raise CrystalError(f"disordered: site {label!r} has occupancy {occupancy:g}")
        if not np.isfinite(fract).all():
            raise CrystalError(f"site {label!r} has no finite position")
    numbers = np.array([number for _, number, _, _ in sites], dtype=np.int64)
    frac = np.array([fract for _, _, fract, _ in sites], dtype=np.float64).reshape(-1, 3)
    if len(operations) > 1:
        frac, numbers = _expand(lattice, frac, numbers, operations)
    return lattice, frac, numbers


def _operations(small: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rotations ``[3, 3]`` and translations ``[3]`` that a gemmi small structure names."""
    import gemmi

    if small.symops:
        operations = [gemmi.Op(text) for text in small.symops]
    else:
        group = small.spacegroup or (
            gemmi.find_spacegroup_by_number(small.spacegroup_number)
            if small.spacegroup_number
            else None
        )
        named = small.spacegroup_hm or small.spacegroup_hall or small.spacegroup_number
        if group is None and named:
            raise CrystalError(f"symmetry not understood: space group {named!r}")
        operations = list(group.operations()) if group else [gemmi.Op("x,y,z")]
    return [(np.array(op.rot) / op.DEN, np.array(op.tran) / op.DEN) for op in operations]


def _expand(
    lattice: np.ndarray,
    frac: np.ndarray,
    numbers: np.ndarray,
    operations: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Every site with its images; images of one site within 0.1 angstrom are one atom."""
    all_frac, all_numbers = [], []
    rotations = np.stack([rotation for rotation, _ in operations])  # [S, 3, 3]
    translations = np.stack([translation for _, translation in operations])  # [S, 3]
    for position, number in zip(frac, numbers, strict=True):
        images = rotations @ position + translations  # [S, 3]
        kept: list[np.ndarray] = []
        for image in images - np.floor(images):
            shift = np.array(kept).reshape(-1, 3) - image
            shift -= np.round(shift)
            if not (np.linalg.norm(shift @ lattice, axis=1) < 0.1).any():
                kept.append(image)
        all_frac += kept
        all_numbers += [number] * len(kept)
    return np.array(all_frac), np.array(all_numbers, dtype=np.int64)


# ---- rows to crystals, in chunks


def _from_cif(row: Mapping[str, Any]) -> ReducedCrystal:
    return reduce_crystal(*read_cif(row["cif"]))


def _from_cell(row: Mapping[str, Any]) -> ReducedCrystal:
    """A crystal of ``mp_extra``: lengths and angles, coordinates with five decimals."""
    frac = np.asarray(row["frac_coords"], dtype=np.float64).reshape(-1, 3).round(5)
    # 0.33333 stands for 1/3, or symmetry would hold to a few 1e-5 angstrom only.
    special = np.round(12 * frac) / 12
    frac = np.where(np.abs(frac - special) < 6e-6, special, frac)
    crystal = reduce_crystal(_lattice(*row["lattice"]), frac, row["atomic_numbers"])
    # The file has single precision; further decimals are noise that takes space.
    return crystal._replace(lattice=crystal.lattice.round(6))


def _lattice(*parameters: float) -> np.ndarray:
    """Rows a, b, c ``[3, 3]`` in angstrom from three lengths and three angles in degrees.

    a lies along x, b in the plane of x and y.
    """
    a, b, c, alpha, beta, gamma = map(float, parameters)
    cosine = np.cos(np.radians([alpha, beta, gamma]))
    sine = math.sin(math.radians(gamma))
    y = (cosine[0] - cosine[1] * cosine[2]) / sine
    z_squared = 1 - cosine[1] ** 2 - y**2
    if not z_squared > 0:
        raise CrystalError(f"no cell has the angles {alpha:g}, {beta:g}, {gamma:g}")
    rows = [[a, 0, 0], [b * cosine[2], b * sine, 0]]
    return np.array([*rows, [c * cosine[1], c * y, c * math.sqrt(z_squared)]])


def _from_prototype(row: Mapping[str, Any]) -> ReducedCrystal:
    """A published prototype as it is, or a variant of it at the predicted volume."""
    from pymatgen.core import Element

    lattice = np.asarray(row["lattice"])
    if row["info"]["source"] == "variant":
        ratio = predicted_volume_ratio(row["shortest"], row["symbols"])
        per_atom = ratio * abs(np.linalg.det(lattice)) / len(row["symbols"])
        if not 5 <= per_atom <= 100:
            raise CrystalError(f"predicted volume {per_atom:.3g} cubic angstrom per atom")
        lattice = lattice * ratio ** (1 / 3)
    numbers = np.array([Element(symbol).Z for symbol in row["symbols"]])
    crystal = reduce_crystal(lattice, row["frac_coords"], numbers, symprec=PROTOTYPE_SYMPREC)
    if crystal.space_group != row["space_group"]:
        raise CrystalError(
            f"space group {crystal.space_group} found, the prototype has {row['space_group']}"
        )
    return crystal


def shortest_distances(crystal: ReducedCrystal) -> list[tuple[int, int, float]]:
    """Shortest distance between atoms of each pair of elements.

    Args:
        crystal: Cell and atoms.

    Returns:
        For each pair of elements an atom of the one, an atom of the other and the shortest distance
        in angstrom between atoms of these two elements; pairs farther apart than 6 angstrom, which
        never limit a volume, are left out.
    """
    from pymatgen.core import Structure

    structure = Structure(crystal.lattice, crystal.atomic_numbers.tolist(), crystal.frac_coords)
    centre, neighbour, _, distance = structure.get_neighbor_list(6.0, exclude_self=True)
    shortest: dict[tuple[int, int], tuple[int, int, float]] = {}
    numbers = crystal.atomic_numbers
    for i, j, d in zip(centre.tolist(), neighbour.tolist(), distance.tolist(), strict=True):
        pair = (int(numbers[i]), int(numbers[j]))
        if pair[0] <= pair[1] and (pair not in shortest or d < shortest[pair][2]):
            shortest[pair] = (i, j, d)
    return list(shortest.values())


def predicted_volume_ratio(
    shortest: Sequence[tuple[int, int, float]], symbols: Sequence[str]
) -> float:
    """Predicted over present volume of a cell, as pymatgen's ``DLSVolumePredictor`` has it.

    The cell is scaled until the tightest pair of neighbours has the bond length that data mining
    expects. Only the shortest distance of each pair of elements counts, and all variants of a
    prototype share it; pymatgen looks for the neighbours anew each time, which takes a hundred
    times longer. DLS rather than RLS: it needs no oxidation states, which alloys do not have. Its
    optional limits on the ratio are left out, because replacing F by I rightly triples a volume.

    Args:
        shortest: Pairs of atoms and their distance in angstrom, by :func:`shortest_distances`.
        symbols: Element of each atom.

    Raises:
        CrystalError: There are no neighbours.

    Source: Chu et al., Comput. Mater. Sci. 146, 184 (2018).
    """
    from pymatgen.core import Element
    from pymatgen.core.structure_prediction.volume_predictor import bond_params

    elements = {symbol: Element(symbol) for symbol in set(symbols)}
    spread = float(np.std([elements[symbol].X for symbol in symbols]))

    def expected(first: str, second: str) -> float:
        if first in bond_params and second in bond_params:
            mined = (bond_params[first], bond_params[second])
            return sum(float(p["r"]) + float(p["k"]) * spread for p in mined)
        return float(elements[first].atomic_radius) + float(elements[second].atomic_radius)

    ratios = [d / expected(symbols[i], symbols[j]) for i, j, d in shortest]
    if not ratios:
        raise CrystalError("no neighbours within 6 angstrom, so no volume can be predicted")
    return min(ratios) ** -3


def _prepare_chunk(
    read: Callable[[Mapping[str, Any]], ReducedCrystal], rows: list[dict[str, Any]], target: str
) -> int:
    """Read some rows and write them to ``target`` (Parquet) with the dropped ones beside it."""
    crystals, infos, dropped = [], [], []
    for row in rows:
        try:
            crystal = read(row)
            if row["info"].get("space_group") is None:
                row["info"]["space_group"] = crystal.space_group
            crystal_system_index(row["info"]["space_group"])
        except ValueError as error:  # a CrystalError, or a space group that does not exist
            dropped.append(
                {"row": row["row"], "material_id": row["material_id"], "reason": str(error)}
            )
            continue
        crystals.append(crystal)
        infos.append(
            {
                "row": row["row"],
                "material_id": row["material_id"],
                "formula": reduced_formula(crystal.atomic_numbers),
                "space_group_spglib": crystal.space_group,
                "was_primitive": crystal.was_primitive,
                **row["info"],
            }
        )
    path = Path(target)
    path.with_suffix(".json").write_text(json.dumps({"used": len(crystals), "dropped": dropped}))
    if crystals:
        table = table_from_arrays(
            [c.lattice for c in crystals],
            [c.frac_coords for c in crystals],
            [c.atomic_numbers for c in crystals],
            pd.DataFrame(infos),
        )
        save_table(table, path)
    path.with_suffix(".done").touch()  # last, so that a chunk is either complete or done again
    return len(rows)


def _run_chunks(
    read: Callable[[Mapping[str, Any]], ReducedCrystal],
    rows: list[dict[str, Any]],
    scratch: Path,
    *,
    workers: int,
    show_progress: bool | None,
) -> tuple[CrystalTable, list[dict[str, Any]]]:
    """Prepare all rows, taking over the chunks that an interrupted run left in ``scratch``."""
    from tqdm import tqdm

    scratch.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(rows), _CHUNK)
    paths = [scratch / f"chunk-{start:08d}.parquet" for start in starts]
    todo = [i for i, path in enumerate(paths) if not path.with_suffix(".done").exists()]
    if len(todo) < len(paths):
        logger.info("resuming: %d of %d chunks are there", len(paths) - len(todo), len(paths))
    jobs = [(rows[starts[i] : starts[i] + _CHUNK], str(paths[i])) for i in todo]
    show = sys.stderr.isatty() if show_progress is None else show_progress
    left = sum(len(chunk) for chunk, _ in jobs)
    with tqdm(total=len(rows), initial=len(rows) - left, unit="crystal", disable=not show) as bar:
        if workers == 1 or len(jobs) < 2:
            for chunk, target in jobs:
                bar.update(_prepare_chunk(read, chunk, target))
        else:
            # New processes rather than forked ones: a fork of a process with threads, such as a
            # notebook kernel, can hang.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
                try:
                    futures = [pool.submit(_prepare_chunk, read, *job) for job in jobs]
                    for future in as_completed(futures):
                        bar.update(future.result())
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
    return _merge_chunks(paths)


def _merge_chunks(paths: Sequence[Path]) -> tuple[CrystalTable, list[dict[str, Any]]]:
    tables, dropped = [], []
    for path in paths:
        record = json.loads(path.with_suffix(".json").read_text())
        dropped += record["dropped"]
        if record["used"]:
            tables.append(load_table(path))
    if not tables:
        reasons = "; ".join(f"{d['material_id']}: {d['reason']}" for d in dropped[:5])
        raise DataError(f"none of {len(dropped)} rows can be used ({reasons}); check the source")
    info = pd.concat([table.info for table in tables], ignore_index=True)
    counts = torch.cat([table.num_atoms for table in tables])
    merged = CrystalTable(
        atomic_numbers=torch.cat([table.atomic_numbers for table in tables]),
        frac_coords=torch.cat([table.frac_coords for table in tables]),
        lattice=torch.cat([table.lattice for table in tables]),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        info=info,
    )
    return merged, dropped


# ---- what a data set is made of


@dataclass
class _Source:
    """A data set before its preparation.

    ``rows`` holds dictionaries with ``row`` (a number), ``material_id``, ``info`` (columns of the
    table) and whatever ``read`` needs.
    """

    rows: list[dict[str, Any]]
    read: Callable[[Mapping[str, Any]], ReducedCrystal]
    describe: Callable[[PreparationReport], str]
    dropped: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


# -- mp_20


def git_blob_id(content: bytes) -> str:
    """Identifier that git gives to a file of this content (sha1 with a header)."""
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def manifest() -> dict[str, Any]:
    """Content of ``data/manifest.yml``: where the public files are and what they contain.

    Raises:
        DataError: The file is not there.
    """
    import yaml

    if not MANIFEST.is_file():
        raise DataError(
            f"{MANIFEST} is missing; run from a checkout of the project (pip install -e .)"
        )
    return yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))


def _data_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder given, else ``UNIMAT_DATA``, else none."""
    chosen = data_dir or os.environ.get("UNIMAT_DATA")
    return Path(chosen).expanduser() if chosen else None


def _find_mp_20(folder: Path) -> dict[str, Path]:
    """The three files in ``folder`` or ``folder/mp_20``, plain or gzipped."""
    for place in (folder, folder / "mp_20"):
        found = {}
        for split in SPLITS:
            for name in (f"{split}.csv", f"{split}.csv.gz"):
                if (place / name).is_file():
                    found.setdefault(split, place / name)
        if len(found) == len(SPLITS):
            return found
        if found:
            missing = sorted(set(SPLITS) - set(found))
            raise DataError(f"{place} lacks the files of {missing}, as .csv or .csv.gz")
    raise DataError(
        f"train, val and test (.csv or .csv.gz) were expected in {folder} or {folder / 'mp_20'}, "
        "but are not there; point UNIMAT_DATA (or data_dir) at the folder that holds them, or "
        "unset it to download the public files"
    )


def download_mp_20(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Download the public MP-20 files that are not in ``folder`` yet.

    A file gets its name only after its content was checked.

    Args:
        folder: Target folder; it is created.

    Returns:
        Path of each split.

    Raises:
        DataError: The download fails, or its content is not the expected one.
    """
    paths = {}
    for split, entry in manifest()["mp_20"]["files"].items():
        paths[split] = Path(folder) / f"{split}.csv"
        if not paths[split].is_file():
            download(entry["url"], paths[split], blob=entry["git_blob"])
    return paths


def download(url: str, target: Path, *, blob: str) -> Path:
    """Download one file, check its git blob id, and only then give it its name.

    Raises:
        DataError: The download fails or is truncated, or the content is another one.
    """
    import pooch

    logger.info("downloading %s", url)
    try:
        with replacing(target) as partial:
            pooch.retrieve(
                url,
                known_hash=None,  # checked below: pooch has no git blob ids
                fname=partial.name,
                path=partial.parent,
                downloader=pooch.HTTPDownloader(timeout=60, progressbar=False),
            )
            content = partial.read_bytes()
            came = git_blob_id(content)
            if came != blob:
                raise DataError(
                    f"{url}: content with git blob id {blob} expected, but {came} came "
                    f"({len(content):,} bytes); the download was truncated or the file was "
                    "replaced. Nothing was kept. Try again, or put the file into a folder yourself "
                    "and set UNIMAT_DATA to it"
                )
    except (OSError, ValueError) as error:  # requests' own errors are OSErrors
        raise DataError(
            f"{url} cannot be downloaded ({error}). Nothing was kept. Try again, or put the file "
            "into a folder yourself and set UNIMAT_DATA to it"
        ) from error
    return target


def _read_csv(path: Path, text_columns: Sequence[str] = ()) -> tuple[pd.DataFrame, str]:
    """A CSV, plain or gzipped, and the git blob id of its plain content."""
    import io
    import zlib

    content = path.read_bytes()
    try:
        plain = gzip.decompress(content) if path.suffix == ".gz" else content
        # An empty cell is a missing value; the text "NaN" may be a formula.
        types = dict.fromkeys(text_columns, str)
        frame = pd.read_csv(io.BytesIO(plain), dtype=types, keep_default_na=False, na_values=[""])
    except (EOFError, OSError, zlib.error, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); it may be truncated: fetch it again"
        ) from error
    return frame, git_blob_id(plain)


def _mp_20(paths: Mapping[str, Path], limit: int | None) -> _Source:
    entries = manifest()["mp_20"]
    public_rows = {split: entry["rows"] for split, entry in entries["files"].items()}
    rows: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    seen: set[str] = set()
    is_public = True
    for split in SPLITS:
        frame, blob = _read_csv(paths[split])
        public = blob == entries["files"][split]["git_blob"]
        is_public &= public
        _check_columns(frame, paths[split], public=public)
        for record in frame.head(limit).to_dict("records"):
            material_id, row = str(record["material_id"]), len(rows) + len(dropped)
            if material_id in seen:
                reason = "this material_id was there before"
                dropped.append({"row": row, "material_id": material_id, "reason": reason})
                continue
            seen.add(material_id)
            info = {
                "space_group": _integer(record["spacegroup.number"]),
                "split": split,
                "source": "public" if public else str(record["source"]),
                **{name: _number(record.get(name)) for name in _PROPERTIES},
            }
            cif = record["cif"] if isinstance(record["cif"], str) else ""
            rows.append({"row": row, "material_id": material_id, "cif": cif, "info": info})

    def describe(report: PreparationReport) -> str:
        part = f" The first {limit:,} rows of each file were read." if limit else ""
        if is_public:
            return (
                f"The public MP-20 files: {report.num_used:,} of {report.num_rows:,} crystals "
                f"used.{part}"
            )
        sources = ", ".join(f"{n:,} {name}" for name, n in report.counts["source"].items())
        return (
            f"A rebuilt copy of MP-20, not the public files: {report.num_used:,} of "
            f"{sum(public_rows.values()):,} crystals, by source {sources}.{part}"
        )

    return _Source(rows=rows, read=_from_cif, describe=describe, dropped=dropped)


def _check_columns(frame: pd.DataFrame, path: Path, *, public: bool) -> None:
    missing = [name for name in ("material_id", "cif", "spacegroup.number") if name not in frame]
    if missing:
        raise DataError(f"{path} lacks the columns {missing}; it has {list(frame.columns)}")
    if public:
        return
    if "source" not in frame or frame["source"].isna().any():
        raise DataError(
            f"{path} is not the public MP-20 file and has no (complete) source column, so nobody "
            "could say which data this is; add a column 'source' that names the origin of each "
            "row, or use the public file"
        )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _integer(value: Any) -> int:
    """``value`` as an integer; 0, which is no space group, where it is not one."""
    number = _number(value)
    return int(number) if number == number and number == int(number) else 0


# -- mp_extra


def _find_mp_extra(folder: Path | None) -> Path:
    name = manifest()["mp_extra"]["file"]
    path = Path(name) if folder is None else folder / name
    if folder is None or not path.is_file():
        where = "UNIMAT_DATA is not set" if folder is None else f"{folder} has no such file"
        raise DataError(
            f"mp_extra is read from {name}, but {where}; point UNIMAT_DATA (or data_dir) at the "
            "folder that holds it"
        )
    return path


def _mp_extra(path: Path, checksum: str, limit: int | None) -> _Source:
    entry = manifest()["mp_extra"]
    if checksum != entry["sha256"]:
        raise DataError(
            f"{path}: content with sha256 {entry['sha256']} expected, but {checksum} came; "
            "the file is damaged or another one: fetch it again"
        )
    frame = pd.read_parquet(path).head(limit)
    repeated = frame["material_id"].duplicated()
    dropped = [
        {"row": row, "material_id": name, "reason": "this material_id was there before"}
        for row, name in frame["material_id"][repeated].items()
    ]
    rows = [
        {
            "row": row.Index,
            "material_id": row.material_id,
            "lattice": row.lattice,
            "frac_coords": row.frac_coords,
            "atomic_numbers": row.atomic_numbers,
            "info": {
                "space_group": int(row.spacegroup_number),
                "split": EXTRA_SPLIT,
                "source": entry["source"],
            },
        }
        for row in frame[~repeated].itertuples()
    ]

    def describe(report: PreparationReport) -> str:
        part = f" The first {limit:,} rows were read." if limit else ""
        return (
            f"{report.num_used:,} of {report.num_rows:,} further crystals of the Materials Project "
            f"({entry['release']}), for pretraining only: those of MP-20 were left out when the "
            "file was made, and those with formula and space group of a crystal in MP-20's "
            f"validation or test split.{part}"
        )

    return _Source(rows=rows, read=_from_cell, describe=describe, dropped=dropped)


def apart_from(extra: CrystalTable, table: CrystalTable) -> CrystalTable:
    """Crystals of ``extra`` that give nothing away about the validation and test splits.

    Left out are the materials of ``table``, whatever their split, and every crystal that shares
    formula and space group with one in its validation or test split, whether the space group is
    the declared one or spglib's. The file of ``mp_extra`` was made like that, but it counted O and
    O2 as two formulas and knew one space group of each crystal.

    Args:
        extra: Crystals for pretraining.
        table: The data set whose splits are to be kept unseen.

    Returns:
        Those that remain, in their order.
    """

    def keys(info: pd.DataFrame) -> set[tuple[str, int]]:
        columns = [name for name in ("space_group", "space_group_spglib") if name in info]
        return {key for name in columns for key in zip(info["formula"], info[name], strict=True)}

    unseen = keys(table.info[table.info["split"].isin(("val", "test"))])
    known = extra.info["material_id"].isin(table.info["material_id"]).to_numpy(bool, copy=True)
    alike = np.zeros(len(extra), dtype=bool)
    for name in ("space_group", "space_group_spglib"):
        if name in extra.info:
            pairs = zip(extra.info["formula"], extra.info[name], strict=True)
            alike |= np.fromiter((pair in unseen for pair in pairs), bool, len(extra))
    return extra.select(~(known | alike))


def pretraining_pool(
    table: CrystalTable, extra: CrystalTable | None, *, max_atoms: int
) -> CrystalTable:
    """The crystals of a data set followed by further ones for pretraining.

    Args:
        table: The data set with its splits; all its rows come first, under their numbers.
        extra: Crystals that may be trained on beside its training split, ``None`` for none. What
            :func:`apart_from` leaves out is left out.
        max_atoms: Largest cell of ``extra`` that is taken.

    Returns:
        Both in one table; ``info["split"]`` of the further ones is "extra".
    """
    if extra is None:
        return table
    further = apart_from(extra.select(extra.num_atoms <= max_atoms), table)
    return concatenate([table, further])


# -- prototypes


@dataclass
class _Prototype:
    """Crystals of one AFLOW label: the published ones first, then variants in a fixed order."""

    label: str
    system: int
    candidates: list[dict[str, Any]]


def _prototypes(limit: int | None) -> _Source:
    groups, dropped, notes = _prototype_groups()
    total = limit or NUM_PROTOTYPE_CRYSTALS
    sizes = _allot_prototypes(groups, total)
    splits = _split_prototypes(groups, sizes)
    rows = []
    for group, size in zip(groups, sizes, strict=True):
        for candidate in group.candidates[:size]:
            row = {**candidate, "row": len(rows) + len(dropped)}
            row["material_id"] = _prototype_id(candidate)
            row["info"] = {**candidate["info"], "split": splits[group.label]}
            rows.append(row)
    notes["prototypes_used"] = sum(size > 0 for size in sizes)

    def describe(report: PreparationReport) -> str:
        used = report.counts["source"]
        return (
            f"{used.get('aflow', 0):,} published crystals of the AFLOW prototype library and "
            f"{used.get('variant', 0):,} synthetic chemical variants of them at predicted volumes. "
            "The variants are made for teaching and testing; no published claim rests on them. "
            f"{notes['too_many_atoms']} published prototypes with more than {MAX_PROTOTYPE_ATOMS} "
            "atoms in the primitive cell are left out."
        )

    return _Source(rows, _from_prototype, describe, dropped, notes)


def _prototype_groups() -> tuple[list[_Prototype], list[dict[str, Any]], dict[str, int]]:
    """All usable prototypes with all their possible variants, and those left out."""
    from pymatgen.core import Element

    groups: dict[str, _Prototype] = {}
    dropped: list[dict[str, Any]] = []
    for entry in aflow_prototypes():
        label = entry["tags"]["aflow"]
        numbers = np.array([Element(symbol).Z for symbol in entry["symbols"]])
        material_id = f"{label}:{reduced_formula(numbers)}"
        try:
            crystal = reduce_crystal(
                entry["lattice"], entry["frac_coords"], numbers, symprec=PROTOTYPE_SYMPREC
            )
            declared = int(label.split("_")[2])
            if crystal.space_group != declared:
                raise CrystalError(
                    f"space group {crystal.space_group} found, the label says {declared}"
                )
            if len(crystal.atomic_numbers) > MAX_PROTOTYPE_ATOMS:
                raise CrystalError(f"more than {MAX_PROTOTYPE_ATOMS} atoms in the primitive cell")
        except CrystalError as error:
            reason = {"row": len(dropped), "material_id": material_id, "reason": str(error)}
            dropped.append(reason)
            continue
        system = int(crystal_system_index(crystal.space_group))
        group = groups.setdefault(label, _Prototype(label, system, []))
        group.candidates += _candidates(crystal, entry["tags"])
    notes = {"too_many_atoms": sum("more than" in d["reason"] for d in dropped)}
    for group in groups.values():
        group.candidates = _ordered(group.candidates, dropped)
    return list(groups.values()), dropped, notes


def _candidates(crystal: ReducedCrystal, tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """The published crystal and all its variants."""
    from pymatgen.core import Element

    symbols = [Element.from_Z(int(z)).symbol for z in crystal.atomic_numbers]
    shortest = shortest_distances(crystal)
    distinct = sorted(set(symbols))
    rows = []
    for choice in [tuple(distinct), *itertools.product(*map(_substitutes, distinct))]:
        if len(set(choice)) < len(distinct):
            continue  # two elements became one: another prototype
        swap = dict(zip(distinct, choice, strict=True))
        published = choice == tuple(distinct)
        info = {
            "source": "aflow" if published else "variant",
            "prototype": tags["aflow"],
            "mineral": tags["mineral"] if published else "",
        }
        rows.append(
            {
                "lattice": crystal.lattice,
                "frac_coords": crystal.frac_coords,
                "symbols": [swap[symbol] for symbol in symbols],
                "shortest": shortest,
                "space_group": crystal.space_group,
                "info": info,
            }
        )
    return rows


def _substitutes(symbol: str) -> tuple[str, ...]:
    for group in SUBSTITUTION_GROUPS:
        if symbol in group:
            return group
    if symbol in _ALSO_IN_GROUP:
        return SUBSTITUTION_GROUPS[_ALSO_IN_GROUP[symbol]]
    return (symbol,)


def _ordered(
    candidates: list[dict[str, Any]], dropped: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One candidate per formula, the published ones first, the others shuffled by a hash.

    Published crystals that cannot be used are added to ``dropped``.
    """
    from pymatgen.core import Element

    kept: dict[str, dict[str, Any]] = {}
    for row in sorted(candidates, key=lambda row: row["info"]["source"]):  # "aflow" < "variant"
        key = " ".join(sorted(row["symbols"]))
        if key in kept:
            continue
        if max(Element(symbol).Z for symbol in set(row["symbols"])) > MAX_SCATTERING_Z:
            reason = "an element without X-ray scattering parameters in pymatgen"
            dropped.append(
                {"row": len(dropped), "material_id": _prototype_id(row), "reason": reason}
            )
            continue
        order = hashlib.sha256(f"{row['info']['prototype']} {key}".encode()).hexdigest()
        kept[key] = {**row, "order": (row["info"]["source"], order)}
    return sorted(kept.values(), key=lambda row: row["order"])


def _prototype_id(row: Mapping[str, Any]) -> str:
    from pymatgen.core import Element

    numbers = np.array([Element(symbol).Z for symbol in row["symbols"]])
    return f"{row['info']['prototype']}:{reduced_formula(numbers)}"


def _level(available: Sequence[int], total: int) -> list[int]:
    """Shares of ``total``, as equal as ``available`` allows."""
    shares = [0] * len(available)
    left = min(total, sum(available))
    while left:
        open_ = [i for i, n in enumerate(available) if shares[i] < n]
        step = max(left // len(open_), 1)
        for i in open_[:left]:
            added = min(step, available[i] - shares[i])
            shares[i] += added
            left -= added
    return shares


def _allot_prototypes(groups: Sequence[_Prototype], total: int) -> list[int]:
    """Crystals of each prototype: crystal systems level, then prototypes within a system."""
    members = [[i for i, g in enumerate(groups) if g.system == s] for s in range(7)]
    available = [sum(len(groups[i].candidates) for i in group) for group in members]
    sizes = [0] * len(groups)
    for group, share in zip(members, _level(available, total), strict=True):
        counts = _level([len(groups[i].candidates) for i in group], share)
        for i, size in zip(group, counts, strict=True):
            sizes[i] = size
    return sizes


def _split_prototypes(groups: Sequence[_Prototype], sizes: Sequence[int]) -> dict[str, str]:
    """Split of each prototype, so that each crystal system keeps the shares of the splits.

    The largest prototypes go first, each to the split that lacks most; but no split stays empty.
    """
    splits = {}
    for system in range(7):
        members = [(n, g.label) for g, n in zip(groups, sizes, strict=True) if g.system == system]
        total = sum(size for size, _ in members)
        filled = dict.fromkeys(SPLITS, 0)
        order = sorted(members, key=lambda m: (-m[0], hashlib.sha256(m[1].encode()).hexdigest()))
        for size, label in order:
            lacking = {name: _SPLIT_SHARES[name] * total - filled[name] for name in SPLITS}
            empty = [name for name in SPLITS if not filled[name]]
            split = empty[0] if empty else max(lacking, key=lambda name: lacking[name])
            splits[label] = split
            filled[split] += size
    return splits


# -- cif_folder


def _cif_files(folder: str | os.PathLike[str] | None) -> list[Path]:
    if folder is None:
        raise DataError("cif_folder needs the folder: prepare('cif_folder', folder='my/cifs')")
    entries = Path(folder).expanduser().glob("*")
    files = sorted(p for p in entries if p.suffix.lower() == ".cif" and p.is_file())
    if not files:
        raise DataError(
            f"files *.cif were expected in {folder}, but there are none; folders in it are not read"
        )
    return files


def _cif_folder(files: list[Path], properties: Path | None, limit: int | None) -> _Source:
    table = _property_table(properties, files) if properties else {}
    rows, without = [], 0
    for file in files[:limit]:
        extra = dict(table.get(file.stem, {}))
        without += bool(table) and not extra
        split = extra.pop("split", None)
        group = extra.pop("spacegroup.number", extra.pop("space_group", None))
        info = {"space_group": _integer(group) or None, "split": split, "source": "cif"}
        text = file.read_bytes().decode("utf-8", errors="replace")
        row = {"row": len(rows), "material_id": file.stem, "cif": text}
        rows.append({**row, "info": {**extra, **info}})
    notes = {}
    dropped = []
    if table:
        orphans = sorted(set(table) - {file.stem for file in files})
        notes = {"files_without_properties": without, "properties_without_file": len(orphans)}
        reason = "the table of properties names it, but the folder has no such file"
        dropped = [
            {"row": len(rows) + n, "material_id": name, "reason": reason}
            for n, name in enumerate(orphans)
        ]

    def describe(report: PreparationReport) -> str:
        return f"{report.num_used:,} of {report.num_rows:,} CIF files of a folder."

    return _Source(rows, _from_cif_file, describe, dropped, notes)


def _from_cif_file(row: Mapping[str, Any]) -> ReducedCrystal:
    crystal = _from_cif(row)
    if row["info"]["split"] is None:
        row["info"]["split"] = hashed_split(reduced_formula(crystal.atomic_numbers))
    return crystal


def hashed_split(key: str) -> str:
    """Split that a text always falls into: 70 % train, 15 % val, 15 % test.

    Folders are split by formula, so that two crystals of the same formula stay together.
    """
    value = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if value < _SPLIT_SHARES["train"]:
        return "train"
    return "val" if value < _SPLIT_SHARES["train"] + _SPLIT_SHARES["val"] else "test"


def _property_table(path: Path, files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Columns of the CSV by the stem of the file they belong to."""
    if not path.is_file():
        raise DataError(f"no table of properties at {path}")
    # As text: a number would lose the leading zeros of a file name.
    frame, _ = _read_csv(path, text_columns=("file", "material_id"))
    key = next((name for name in ("file", "material_id") if name in frame), None)
    if key is None:
        raise DataError(
            f"{path} needs a column 'file' or 'material_id'; it has {list(frame.columns)}"
        )
    stems = frame[key].str.replace(r"(?i)\.cif$", "", regex=True)
    if stems.duplicated().any():
        raise DataError(f"{path} names {stems[stems.duplicated()].iloc[0]!r} more than once")
    if not set(stems) & {file.stem for file in files}:
        raise DataError(
            f"no row of {path} names a file of the folder; {key} has {stems[:3].tolist()}"
        )
    if "split" in frame and not set(frame["split"]) <= set(SPLITS):
        raise DataError(f"{path}: split must be one of {SPLITS}, but {set(frame['split'])} came")
    reserved = {"file", "material_id", "formula", "source", "row", "space_group_spglib"}
    kept = [name for name in frame if name not in reserved and not name.startswith("Unnamed")]
    return dict(zip(stems, frame[kept].to_dict("records"), strict=True))


# ---- the code that decides what a table holds

# What reads the rows of each data set; whatever it calls in this module or in crystals counts too.
_READERS = {
    "prototypes": _prototypes,
    "mp_20": _mp_20,
    "mp_extra": _mp_extra,
    "cif_folder": _cif_folder,
}


def code_version(name: str) -> str:
    """Hash of the code that turns the rows of a data set into crystals.

    It follows every name from the data set's reader through this module and ``crystals``; comments,
    docstrings and layout do not count, nor does the table that holds the result. A table that was
    made by other code is made anew.

    Args:
        name: One of ``DATASETS``.

    Returns:
        12 hexadecimal digits.
    """
    known = _definitions()
    reached: set[str] = set()
    waiting = [_READERS[name].__name__, "_finish"]
    while waiting:
        word = waiting.pop()
        if word in reached or word not in known or word == CrystalTable.__name__:
            continue
        reached.add(word)
        waiting += known[word][1]
    text = "\n".join(known[word][0] for word in sorted(reached))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def _definitions() -> dict[str, tuple[str, list[str]]]:
    """Each top-level name of the two modules: its code without docstrings, and what it names."""
    found: dict[str, tuple[str, list[str]]] = {}
    for path in (Path(__file__), Path(__file__).with_name("crystals.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names = [node.name]
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            else:
                continue
            inside = list(ast.walk(node))
            for part in inside:
                if isinstance(part, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(part):
                    part.body = part.body[1:] or [ast.Pass()]
            words = sorted({n.id for n in inside if isinstance(n, ast.Name)})
            for name in names:
                text, others = found.get(name, ("", []))  # both modules may have a name
                found[name] = (text + ast.unparse(node), others + words)
    return found


# ---- prepare and load


@dataclass(frozen=True)
class Origin:
    """Where the rows of a data set come from, and how many of them are wanted.

    Attributes:
        data_dir: Folder with the files of ``mp_20`` or ``mp_extra``, in place of the environment
            variable ``UNIMAT_DATA``; without either MP-20's are downloaded.
        folder: Folder of CIF files, for ``cif_folder``.
        properties: CSV with a column ``file`` or ``material_id`` and properties, optionally
            ``split`` and ``space_group``, for ``cif_folder``.
        limit: Read only the first so many rows of each file (``mp_20``, ``mp_extra``), files
            (``cif_folder``), or make only about so many crystals (``prototypes``).

    Raises:
        ValueError: The limit is below 1.
    """

    data_dir: str | os.PathLike[str] | None = None
    folder: str | os.PathLike[str] | None = None
    properties: str | os.PathLike[str] | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse to read nothing."""
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, but {self.limit} came")

    def is_given(self, name: str) -> bool:
        """Whether the source of a data set is at hand without a download."""
        if name == "cif_folder":
            return self.folder is not None
        return name == "prototypes" or _data_folder(self.data_dir) is not None


def prepare(
    name: str,
    *,
    cache_dir: str | os.PathLike[str] = "data/cache",
    workers: int = 2,
    show_progress: bool | None = None,
    **origin: Any,
) -> PreparationReport:
    """Turn a data set into a table of crystals and say what became of every row.

    Writes ``{name}-{hash}.parquet`` and then ``{name}.json`` (table, inputs, report, versions) into
    ``cache_dir``. An interrupted preparation goes on where it stopped when it is called again.

    Args:
        name: One of ``DATASETS``.
        cache_dir: Where the results go.
        workers: Processes.
        show_progress: Progress bar; by default when standard error is a terminal.
        origin: Fields of :class:`Origin`: ``data_dir``, ``folder``, ``properties``, ``limit``.

    Raises:
        ValueError: Unknown name, or an argument out of range.
        DataError: The source is absent, damaged or not acceptable.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, but {workers} came")
    wanted = Origin(**origin)
    with alone_in(cache_dir) as cache:
        return _prepare(name, wanted, cache, workers=workers, show_progress=show_progress)


def _prepare(
    name: str, wanted: Origin, cache: Path, *, workers: int, show_progress: bool | None
) -> PreparationReport:
    started = time.perf_counter()
    inputs, source = _open(name, wanted, cache)
    version = code_version(name)
    key = hashlib.sha256(json.dumps([version, name, inputs, wanted.limit]).encode()).hexdigest()[
        :12
    ]
    scratch = cache / f".{name}-{key}"
    table, dropped = _run_chunks(
        source.read, source.rows, scratch, workers=workers, show_progress=show_progress
    )
    report = _report(name, table, source, dropped)
    table = _finish(table)
    path = save_table(table, cache / f"{name}-{table.content_hash()}.parquet")
    report.table = path.name
    report.seconds = round(time.perf_counter() - started, 2)
    record = {
        "code": version,
        "table": path.name,
        "limit": wanted.limit,
        "inputs": inputs,
        "report": asdict(report),
        "versions": {p: metadata.version(p) for p in ("gemmi", "spglib", "pymatgen", "numpy")},
    }
    with replacing(cache / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    shutil.rmtree(scratch, ignore_errors=True)
    logger.info("%s: %d of %d rows used", name, report.num_used, report.num_rows)
    return report


def load(
    name: str,
    *,
    cache_dir: str | os.PathLike[str] = "data/cache",
    workers: int = 2,
    show_progress: bool | None = None,
    **origin: Any,
) -> CrystalTable:
    """The table of a data set, prepared first when it is not there or its source has changed.

    Without ``data_dir``, ``folder`` and ``UNIMAT_DATA`` a prepared table is taken as it is. The
    arguments and errors are those of :func:`prepare`.
    """
    _check_name(name)
    wanted = Origin(**origin)
    path = _prepared(name, wanted, Path(cache_dir))
    if path is None:
        with alone_in(cache_dir) as cache:
            path = _prepared(name, wanted, cache)  # by another process, while this one waited
            if path is None:
                report = _prepare(name, wanted, cache, workers=workers, show_progress=show_progress)
                path = cache / report.table
    return load_table(path)


def _prepared(name: str, origin: Origin, cache: Path) -> Path | None:
    """The table of a data set if it is there and made from this source by this code."""
    record = _record(name, cache)
    if record is None or record["limit"] != origin.limit:
        return None
    path = cache / record["table"]
    same_code = record["code"] == code_version(name)
    if origin.is_given(name):
        same_inputs = same_code and _inputs(name, origin, cache)[0] == record["inputs"]
        return path if same_inputs else None
    if not same_code:
        logger.warning(
            "%s was prepared by another version of the code and is taken as it is; "
            "point UNIMAT_DATA at its source to prepare it anew",
            path.name,
        )
    return path


def provenance(name: str, cache_dir: str | os.PathLike[str] = "data/cache") -> dict[str, Any]:
    """Which data a prepared data set is, for the pages that are built from it.

    Returns:
        ``name``, ``text`` (in words), ``table`` (file name with its content hash), ``num_rows``,
        ``num_used``, and counts by split, by source, and by source within each split.

    Raises:
        DataError: The data set was not prepared.
    """
    report = read_report(name, cache_dir)
    counts = {k: v for k, v in report.counts.items() if k not in report.counts["split"]}
    return {
        "name": name,
        "text": report.provenance,
        "table": report.table,
        "num_rows": report.num_rows,
        "num_used": report.num_used,
        "crystals_by_split": counts.pop("split"),
        "crystals_by_source": counts.pop("source"),
        **counts,
    }


def read_report(name: str, cache_dir: str | os.PathLike[str] = "data/cache") -> PreparationReport:
    """The report of a prepared data set.

    Raises:
        DataError: The data set was not prepared.
    """
    _check_name(name)
    record = _record(name, Path(cache_dir))
    if record is None:
        raise DataError(
            f"{name} is not prepared in {cache_dir}; "
            f"run python -m unimat_lib.datasets prepare {name}"
        )
    return PreparationReport(**record["report"])


def _check_name(name: str) -> None:
    if name not in DATASETS:
        raise ValueError(f"data set must be one of {DATASETS}, but {name!r} came")


def _record(name: str, cache: Path) -> dict[str, Any] | None:
    """What ``{name}.json`` says, when it is whole and its table is there."""
    try:
        record = json.loads((cache / f"{name}.json").read_text(encoding="utf-8"))
        usable = "code" in record and (cache / record["table"]).is_file()
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None
    return record if usable else None


def _inputs(name: str, origin: Origin, cache: Path) -> tuple[dict[str, str], Any]:
    """Checksums of everything that goes in, and the files."""
    if name == "prototypes":
        return {"pymatgen": metadata.version("pymatgen")}, None
    given = _data_folder(origin.data_dir)
    if name == "mp_20":
        paths = _find_mp_20(given) if given else download_mp_20(cache / "mp_20_public")
        return {split: _sha256(path) for split, path in paths.items()}, paths
    if name == "mp_extra":
        path = _find_mp_extra(given)
        return {"file": _sha256(path)}, path
    files = _cif_files(origin.folder)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {_sha256(file)}\n".encode())
    inputs = {"files": digest.hexdigest()}
    if origin.properties is not None and Path(origin.properties).is_file():
        inputs["properties"] = _sha256(Path(origin.properties))
    return inputs, files


def _open(name: str, origin: Origin, cache: Path) -> tuple[dict[str, str], _Source]:
    _check_name(name)
    properties = None if origin.properties is None else Path(origin.properties)
    if name == "cif_folder" and properties is not None and not properties.is_file():
        raise DataError(f"no table of properties at {properties}")
    inputs, files = _inputs(name, origin, cache)
    if name == "prototypes":
        return inputs, _prototypes(origin.limit)
    if name == "mp_20":
        return inputs, _mp_20(files, origin.limit)
    if name == "mp_extra":
        return inputs, _mp_extra(files, inputs["file"], origin.limit)
    return inputs, _cif_folder(files, properties, origin.limit)


def _report(
    name: str, table: CrystalTable, source: _Source, dropped: list[dict[str, Any]]
) -> PreparationReport:
    dropped = sorted([*source.dropped, *dropped], key=lambda record: record["row"])
    info = table.info
    report = PreparationReport(
        name=name,
        num_rows=len(table) + len(dropped),
        num_used=len(table),
        dropped=dropped,
        counts=_counts(info),
        notes={
            **source.notes,
            "reduced_to_primitive": int((~info["was_primitive"]).sum()),
            "space_group_disagreements": int(
                (info["space_group"] != info["space_group_spglib"]).sum()
            ),
        },
        provenance="",
    )
    report.provenance = source.describe(report)
    return report


def _finish(table: CrystalTable) -> CrystalTable:
    """Columns of the final table, the required ones first."""
    first = ["material_id", "formula", "space_group", "space_group_spglib", "split", "source"]
    others = [c for c in table.info if c not in (*first, "row", "was_primitive")]
    return CrystalTable(
        table.atomic_numbers,
        table.frac_coords,
        table.lattice,
        table.offsets,
        table.info[first + others],
    )


# ---- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m unimat_lib.datasets", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare", help="turn a data set into a table of crystals")
    command.add_argument("name", choices=DATASETS)
    command.add_argument(
        "--data-dir", help="folder with the files of mp_20 or mp_extra (default: $UNIMAT_DATA)"
    )
    command.add_argument("--cache-dir", default="data/cache", help="target (default: %(default)s)")
    command.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    command.add_argument("--folder", help="folder of CIF files, for cif_folder")
    command.add_argument("--properties", help="CSV of properties, for cif_folder")
    options = vars(parser.parse_args(arguments))
    options.pop("command")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        report = prepare(options.pop("name"), **options)
    except (DataError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    lines = [
        report.provenance,
        f"{report.num_used:,} of {report.num_rows:,} rows in {report.seconds:.0f} s",
        f"table {report.table}",
        *(f"{key.replace('_', ' ')}: {value:,}" for key, value in report.notes.items()),
        report.summary().to_string(),
        *(f"dropped {d['material_id']} (row {d['row']}): {d['reason']}" for d in report.dropped),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

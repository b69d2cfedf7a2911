"""The three public MP-20 files in, or the ones of a folder; the rows of a data set out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from unimat_lib.crystals.table import SPLITS
from unimat_lib.datasets.report import (
    DataError,
    PreparationReport,
    Source,
    as_integer,
    as_number,
    dropped_row,
    git_blob_id,
    manifest,
    read_cif_row,
    read_csv,
)
from unimat_lib.files import replacing

logger = logging.getLogger(__name__)

TIMEOUT = 60  #: Seconds that a server may stay silent
_PROPERTIES = ("formation_energy_per_atom", "band_gap", "e_above_hull")


def find_mp_20(folder: Path) -> dict[str, Path]:
    """Files in ``folder`` or ``folder/mp_20``, plain or gzipped; ``DataError`` if not all three."""
    for place in (folder, folder / "mp_20"):
        paths = [place / f"{split}.csv{end}" for split in SPLITS for end in (".gz", "")]
        found = {path.name.split(".")[0]: path for path in paths if path.is_file()}
        missing = [split for split in SPLITS if split not in found]
        if found and missing:
            raise DataError(f"{place} lacks the files of {missing}, as .csv or .csv.gz")
        if found:
            return found
    raise DataError(
        f"{folder} and its mp_20 lack the files train, val and test (.csv or .csv.gz); point "
        "UNIMAT_DATA (or data_dir) at the folder that holds them, or unset it to download them"
    )


def download_mp_20(folder: Path) -> dict[str, Path]:
    """Public file of each split in ``folder``; what is not there yet is by :func:`download`."""
    entries = manifest()["mp_20"]["files"]
    paths = {split: folder / f"{split}.csv" for split in entries}
    for split, path in paths.items():
        if not path.is_file():
            download(entries[split]["url"], path, blob=entries[split]["git_blob"])
    return paths


def download(url: str, target: Path, *, blob: str) -> None:
    """Give a file its name once it is whole and has its git blob id, else raise ``DataError``."""
    import pooch

    logger.info("downloading %s", url)
    try:
        with replacing(target) as partial:
            http = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=False)
            # No hash: pooch knows no git blob ids.
            pooch.retrieve(url, None, fname=partial.name, path=partial.parent, downloader=http)
            content = partial.read_bytes()
            if (came := git_blob_id(content)) != blob:
                came = f"{came} came ({len(content):,} bytes): truncated or replaced"
                raise ValueError(f"content with git blob id {blob} expected, but {came}")
    except (OSError, ValueError) as error:  # requests' own errors are OSErrors
        raise DataError(
            f"{url} cannot be downloaded ({error}). Nothing was kept. Try again, or put the file "
            "into a folder yourself and set UNIMAT_DATA to it"
        ) from error


def mp_20_source(paths: Mapping[str, Path], limit: int | None) -> Source:
    """First rows of each file; ``DataError`` if one is damaged or nobody says which data it is."""
    entries = manifest()["mp_20"]["files"]
    rows, dropped, seen, is_public = [], [], set(), True
    for split in SPLITS:
        frame, blob = read_csv(paths[split])
        public = blob == entries[split]["git_blob"]
        is_public &= public
        _check_columns(frame, paths[split], public=public)
        for record in frame.head(limit).to_dict("records"):
            material_id, row = str(record["material_id"]), len(rows) + len(dropped)
            if material_id in seen:
                dropped.append(dropped_row(row, material_id, "this material_id was there before"))
                continue
            seen.add(material_id)
            info = {"space_group": as_integer(record["spacegroup.number"]), "split": split}
            info["source"] = "public" if public else str(record["source"])
            info |= {name: as_number(record.get(name)) for name in _PROPERTIES}
            cif = record["cif"] if isinstance(record["cif"], str) else ""
            rows.append({"row": row, "material_id": material_id, "cif": cif, "info": info})

    def describe(report: PreparationReport) -> str:
        part = f" The first {limit:,} rows of each file were read." if limit else ""
        used = f"{report.num_used:,} of"
        if is_public:
            return f"The public MP-20 files: {used} {report.num_rows:,} crystals used.{part}"
        public_rows = sum(entry["rows"] for entry in entries.values())
        sources = ", ".join(f"{n:,} {name}" for name, n in report.counts["source"].items())
        rebuilt = f"A rebuilt copy of MP-20, not the public files: {used} {public_rows:,} crystals"
        return f"{rebuilt}, by source {sources}.{part}"

    return Source(rows=rows, read=read_cif_row, describe=describe, dropped=dropped)


def _check_columns(frame: pd.DataFrame, path: Path, *, public: bool) -> None:
    needed = ("material_id", "cif", "spacegroup.number")
    if missing := [name for name in needed if name not in frame]:
        raise DataError(f"{path} lacks the columns {missing}; it has {list(frame.columns)}")
    if not public and ("source" not in frame or frame["source"].isna().any()):
        raise DataError(
            f"{path} is not the public MP-20 file and has no (complete) source column; add a "
            "column 'source' that names the origin of each row, or use the public file"
        )

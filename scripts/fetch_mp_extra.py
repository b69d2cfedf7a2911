"""Material ids in, the Parquet file of further crystals (`mp_extra`) out, fetched and checked.

    pip install 'unimat-lib[mp]'
    export MP_API_KEY=...            # from materialsproject.org, after signing in
    python scripts/fetch_mp_extra.py --ids ids.txt --out mp_extra.parquet

One id a line, in the order that the file is to have. Without a list all materials of at most 100
atoms are fetched that MP-20 does not have; that table must have been prepared. The Materials
Project moves on: what it sends is its present geometry, and the manifest names a file of an earlier
release. The checksum says which of the two the result is.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.datasets.report import manifest

SCHEMA = pa.schema(
    {
        "material_id": pa.string(),
        "formula": pa.string(),
        "spacegroup_number": pa.int16(),
        "lattice": pa.list_(pa.float32(), 6),
        "atomic_numbers": pa.list_(pa.uint8()),
        "frac_coords": pa.list_(pa.float32()),
    }
)
CHUNK = 1000  # ids in one question
MAX_ATOMS = 100  # in the cell, where no list of ids is given


class FetchError(Exception):
    """What was expected, what came, and what to do."""


def open_client(key: str | None) -> Any:
    """The Materials Project's own client.

    Raises:
        FetchError: There is no key or no package `mp-api`.
    """
    if not key:
        raise FetchError(
            "MP_API_KEY is not set: sign in at materialsproject.org and export the key"
        )
    try:
        from mp_api.client import MPRester
    except ImportError:
        raise FetchError("the package mp-api is missing: pip install 'unimat-lib[mp]'") from None
    return MPRester(key, mute_progress_bars=True)


def read_ids(path: Path) -> list[str]:
    """Material ids, one a line, each once.

    Raises:
        FetchError: The file is missing or empty, or a line is no id or comes twice.
    """
    if not path.is_file():
        raise FetchError(f"{path}: no such file; it should hold one material id a line")
    ids = path.read_text("utf-8").split()
    wrong = [name for name in ids if not name.startswith(("mp-", "mvc-"))]
    if not ids or wrong:
        raise FetchError(f"{path}: expected ids such as mp-149, got {wrong[:3] or 'nothing'}")
    if len(set(ids)) < len(ids):
        raise FetchError(f"{path}: {len(ids) - len(set(ids))} ids come twice; give each once")
    return ids


def ids_by_rule(client: Any, known: set[str]) -> list[str]:
    """All materials of at most :data:`MAX_ATOMS` atoms but the known ones, sorted.

    Raises:
        FetchError: The server cannot be reached or refuses.
    """
    found = ask(client, num_sites=(1, MAX_ATOMS), fields=["material_id"])
    return sorted({str(one.material_id) for one in found} - known)


def ask(client: Any, **question: Any) -> Any:
    """What the summaries say.

    Raises:
        FetchError: The server cannot be reached or refuses.
    """
    try:
        return client.materials.summary.search(**question)
    except Exception as error:  # the client has errors of several packages
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise FetchError(
            f"the Materials Project did not answer ({reason}): check network and key"
        ) from None


def row_of(document: Any) -> dict[str, Any]:
    """A row of :data:`SCHEMA` of one summary: the cell as it came, lengths in angstrom."""
    structure = document.structure
    return {
        "material_id": str(document.material_id),
        "formula": document.formula_pretty,
        "spacegroup_number": document.symmetry.number,
        "lattice": list(structure.lattice.parameters),
        "atomic_numbers": list(structure.atomic_numbers),
        "frac_coords": np.asarray(structure.frac_coords).ravel().tolist(),
    }


def rows_of(client: Any, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of some ids, in their order.

    Raises:
        FetchError: The server cannot be reached or refuses, or it does not know an id.
    """
    fields = ["material_id", "formula_pretty", "symmetry", "structure"]
    for start in range(0, len(ids), CHUNK):
        asked = list(ids[start : start + CHUNK])
        found = ask(client, material_ids=asked, fields=fields)
        known = {row["material_id"]: row for row in map(row_of, found)}
        if missing := [name for name in asked if name not in known]:
            raise FetchError(
                f"{len(missing)} ids are not in the present database, {missing[0]} the first: "
                "they were withdrawn or renamed; take them out of the list"
            )
        yield from (known[name] for name in asked)


def write(rows: Iterator[dict[str, Any]], path: Path) -> str:
    """Write rows whole or not at all; the SHA-256 of the file."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    aside = path.with_name(f".{path.name}.part")
    pq.write_table(
        table, aside, compression="zstd", compression_level=19, use_dictionary=["spacegroup_number"]
    )
    aside.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def verdict(checksum: str, number: int) -> str:
    """What a fetched file is, beside the one that the manifest names."""
    entry = manifest()["mp_extra"]
    if checksum == entry["sha256"]:
        return "This is the file of the manifest: point UNIMAT_DATA at its folder."
    return (
        f"This is not the file of the manifest ({entry['release']}, {entry['rows']:,} rows, sha256 "
        f"{entry['sha256'][:12]}): {number:,} rows came, sha256 {checksum}.\n"
        "Geometry that was computed anew, a row more or less, or another version of the Parquet "
        "writer is enough. `prepare` refuses it until the entry mp_extra of "
        "unimat_lib/datasets/manifest.yml has its sha256, rows and release; what is trained on it "
        "is then a result of your own, to be compared with this book's and not mixed with it."
    )


def main(words: Sequence[str] | None = None) -> int:
    """The command; 0 where the file is the manifest's, 1 where it is another, 2 where none is."""
    parser = argparse.ArgumentParser(description="Fetch mp_extra by material id.")
    parser.add_argument("--ids", type=Path, help="text file, one material id a line")
    parser.add_argument("--out", type=Path, default=Path(manifest()["mp_extra"]["file"]))
    args = parser.parse_args(words)
    try:
        ids = read_ids(args.ids) if args.ids else None
        client = open_client(os.environ.get("MP_API_KEY"))
        ids = ids or ids_by_rule(client, set(load_dataset("mp_20").info["material_id"]))
        checksum = write(rows_of(client, ids), args.out)
    except FetchError as error:
        print(error, file=sys.stderr)
        return 2
    print(verdict(checksum, len(ids)))
    return int(checksum != manifest()["mp_extra"]["sha256"])


if __name__ == "__main__":
    sys.exit(main())

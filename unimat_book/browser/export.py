"""The shipped network and a data set in, the folder out that two pages of the book load.

``python -m unimat_book.browser.export --out FOLDER`` writes it: modules, weights, the index of
known crystals, examples and ``facts.json`` for the page that reads patterns, data and stills for
that of things to move. It is made anew only where something in it has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from safetensors.torch import save_file

from unimat_book.browser.examples import write_examples
from unimat_book.browser.index import browser_index
from unimat_book.browser.moving import PRETRAINED, short_symbol, write_moving
from unimat_book.browser.stills import write_stills
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.datasets.report import DataError
from unimat_lib.identity import identity_of
from unimat_lib.paths import book_root, cache_folder
from unimat_powder.library.build import ATTRIBUTION, published_prototypes
from unimat_powder.network.groups import bravais_of_groups
from unimat_powder.simulation.scans import scans_of

DATASETS = ("mp_20", "prototypes")
READER = "data/reader/reader.safetensors"  #: in the book's folder
_CODE = (browser_index, write_examples, scans_of)  # what the folder's content depends on
_MOVING = (write_moving, write_stills)


def export(out: str | os.PathLike[str], *, dataset: str | None = None, workers: int = 1) -> Path:
    """Write all that the page loads.

    Args:
        out: The folder; made, or brought up to date.
        dataset: What the index holds, one of :data:`DATASETS`; by default MP-20 where it has been
            prepared on this machine, else the prototypes that come along.
        workers: Processes.

    Returns:
        The folder.

    Raises:
        ValueError: Another data set.
        DataError: The data set is absent or damaged.
        FileNotFoundError: There is no checkout of the book, whose pages these are.
    """
    if dataset is None:
        dataset = "mp_20" if (cache_folder() / "mp_20.json").is_file() else "prototypes"
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {DATASETS}, but {dataset!r} came")
    root = book_root()
    if root is None or not (root / "browser").is_dir():
        raise FileNotFoundError("no folder browser/ of the book: run this in a checkout of it")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.mjs"), *folder.glob("*.css")):
        old.unlink()
    for source in (*(root / "browser").glob("*.mjs"), *(root / "browser").glob("*.css")):
        shutil.copyfile(source, folder / source.name)
    shutil.copyfile(root / READER, folder / "reader.safetensors")
    _write_index(folder, _crystals(dataset, workers), dataset, workers)
    _write_moving(folder, root, dataset, workers)
    facts = json.loads((folder / "index.json").read_text("utf-8"))
    facts |= {
        "attribution": ATTRIBUTION[dataset],
        "bravais": bravais_of_groups().tolist(),
        "symbols": [short_symbol(number) for number in range(1, 231)],
        "calibration": json.loads((root / "browser/calibration.json").read_text("utf-8")),
        "versions": {name: _version(folder / name) for name in _VERSIONED},
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return folder


_VERSIONED = ("reader.safetensors", "index.safetensors")


def _crystals(dataset: str, workers: int) -> CrystalTable:
    table = load_dataset(dataset, workers=workers)
    return published_prototypes(table) if dataset == "prototypes" else table


def _write_index(folder: Path, table: CrystalTable, dataset: str, workers: int) -> None:
    """Index and examples, unless the folder has those of this table and code already."""
    code = identity_of(*(f"{step.__module__}:{step.__name__}" for step in _CODE)).digest
    key = f"{table.content_hash()}-{code}"
    record = folder / "index.json"
    if record.is_file() and json.loads(record.read_text("utf-8")).get("key") == key:
        return
    record.unlink(missing_ok=True)  # an interrupted export is no export
    index = browser_index(table, workers=workers)
    save_file(index, folder / "index.safetensors", {"attribution": ATTRIBUTION[dataset]})
    (folder / "index.safetensors").chmod(0o644)  # a web server may be somebody else
    shutil.rmtree(folder / "examples", ignore_errors=True)
    examples = write_examples(load_dataset("prototypes", workers=workers), folder / "examples")
    facts = {"dataset": dataset, "crystals": len(index["counts"]), "examples": examples, "key": key}
    record.write_text(json.dumps(facts), encoding="utf-8")


def _write_moving(folder: Path, root: Path, dataset: str, workers: int) -> None:
    """Data and stills of the things to move, unless the folder has them already."""
    code = identity_of(*(f"{step.__module__}:{step.__name__}" for step in _MOVING)).digest
    files = [
        root / PRETRAINED,
        root / READER,
        *sorted((root / "data/results/predictions").iterdir()),
    ]
    read = hashlib.sha256(b"".join(_version(path).encode() for path in files)).hexdigest()[:12]
    key = f"{json.loads((folder / 'index.json').read_text('utf-8'))['key']}-{code}-{read}"
    record = folder / "moving.key"
    if record.is_file() and record.read_text("utf-8") == key:
        return
    record.unlink(missing_ok=True)
    write_moving(folder, root, dataset=dataset, workers=workers)
    write_stills(folder)
    record.write_text(key, encoding="utf-8")


def _version(path: Path) -> str:
    """A few digits that change with the content: browsers keep the weights by them."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def main(arguments: list[str] | None = None) -> int:
    """Write the folder and say how large it is; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m unimat_book.browser.export")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--dataset", choices=DATASETS, help="default: mp_20 where it is prepared")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args(arguments)
    try:
        folder = export(options.out, dataset=options.dataset, workers=options.workers)
    except (DataError, ValueError, OSError) as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 2
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    sys.stdout.write(
        f"{facts['crystals']} crystals of {facts['dataset']}, {size / 1e6:.1f} MB: {folder}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Results of trainings in, small Parquet files out; and the published ones back, checked."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from unimat_book.grid.cells import KINDS, GridSettings, Job
from unimat_book.record import note_read, project_root
from unimat_lib.files import replacing
from unimat_lib.identity import identity_of, short_hash

_PLAIN = ("settings", "crystals", "code", "device", "structure")
_TEXTS = (*_PLAIN, "history", "scores", "versions")
_CONDITIONS = ("both", "no_formula", "no_pattern", "typo")
CODES = (
    "length_both",
    *(f"{what}_{name}" for name in _CONDITIONS for what in ("scaled", "right")),
    "found",
)
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "purpose", "kind", "fusion", "order")),
        *((name, pa.int32()) for name in ("seed", "rate_number")),
        *((name, pa.float64()) for name in ("rate", "seconds")),
        *((name, pa.string()) for name in _TEXTS),
        *((name, pa.binary()) for name in CODES),
    ]
)
_PACKAGES = ("torch", "numpy", "lightning", "pandas")


@dataclass(frozen=True)
class Result:
    """What a training leaves behind.

    Attributes:
        job: Which training it was.
        rate: Its learning rate.
        settings: :attr:`.GridSettings.key`.
        crystals: Content hash of the table.
        code: :func:`code_identity` of the run.
        device: Name of the device.
        seconds: Wall time of all of it.
        history: Validation losses by epoch.
        scores: Numbers by name.
        codes: Errors of test crystals by name (of ``CODES``), see :func:`.encode_errors`.
        structure: Hash of the structure encoder that it was aligned with, if it was.
        versions: Of Python and some packages in the run.
    """

    job: Job
    rate: float
    settings: str
    crystals: str
    code: str
    device: str
    seconds: float
    history: list[dict[str, float]]
    scores: dict[str, float]
    codes: dict[str, bytes]
    structure: str = ""
    versions: Mapping[str, str] | None = None


def code_identity() -> str:
    """Hash of all our code that a training of the grid runs; packages are noted apart."""
    code = identity_of("unimat_book.grid.train:train_job").code
    return short_hash(repr(sorted(code.items())))


def device_name(device: str) -> str:
    """Name of the GPU, or the number of cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {len(os.sched_getaffinity(0))} cores"


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _as_row(result: Result) -> dict[str, object]:
    job = asdict(result.job)
    row = {"name": result.job.name, "rate_number": job.pop("rate"), **job}
    row |= {"rate": result.rate, "seconds": result.seconds}
    row |= {name: getattr(result, name) for name in _PLAIN}
    row |= {name: json.dumps(getattr(result, name)) for name in ("history", "scores")}
    row["versions"] = json.dumps(dict(result.versions or _versions()))
    return row | {name: result.codes.get(name) for name in CODES}


def _as_result(row: Mapping[str, object]) -> Result:
    keys = ("purpose", "kind", "fusion", "order", "seed")
    job = Job(**{key: row[key] for key in keys}, rate=row["rate_number"])
    parts = {n: json.loads(row[n]) for n in ("history", "scores", "versions")}
    plain = {n: row[n] for n in (*_PLAIN, "rate", "seconds")}
    codes = {name: row[name] for name in CODES if row[name] is not None}
    return Result(job=job, codes=codes, **plain, **parts)


def write_results(results: Iterable[Result], path: Path) -> Path:
    """Write results to one Parquet file, replaced in one step; it is small."""
    table = pa.Table.from_pylist([_as_row(r) for r in results], schema=_SCHEMA)
    texts = [*_PLAIN, "versions"]  # the same in every row
    coding = {"compression": "zstd", "compression_level": 15, "use_dictionary": texts}
    with replacing(path) as temporary:
        pq.write_table(table, temporary, **coding)
    return path


def read_results(path: Path) -> list[Result]:
    """The inverse of :func:`write_results`."""
    return [_as_result(row) for row in pq.read_table(path).to_pylist()]


def finished(folder: Path, settings: GridSettings, crystals: str) -> dict[str, Result]:
    """Results, by name, below a folder that are of these settings, crystals and this code."""
    wanted = settings.key, crystals, code_identity()
    results = {}
    for path in sorted(folder.glob("*.parquet")):
        for r in read_results(path):
            if (r.settings, r.crystals, r.code) == wanted:
                results[r.job.name] = r
    return results


def pack(results: Mapping[str, Result], out: Path) -> list[Path]:
    """One file per kind of patterns, and one of the trials, with all results."""
    groups: dict[str, list[Result]] = {kind: [] for kind in (*KINDS, "trials")}
    for _, r in sorted(results.items()):
        groups[r.job.kind if r.job.purpose == "final" else "trials"].append(r)
    return [write_results(rs, out / f"{name}.parquet") for name, rs in groups.items() if rs]


def load_published(
    folder: str | os.PathLike[str], settings: GridSettings, crystals: str, *, made_by: str
) -> list[Result]:
    """The published results, checked.

    Args:
        folder: Where :func:`pack` put them.
        settings: Settings that they have to be of.
        crystals: Content hash of the table that they have to be of.
        made_by: The exact command that makes them, for error messages.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: They are of other settings, crystals or code, the message says which, or not
            all aligned with one structure encoder.
    """
    folder = project_root() / folder
    results = []
    for name in (*KINDS, "trials"):
        path = folder / f"{name}.parquet"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Make it with:\n    {made_by}")
        results += read_results(note_read(path))
    wanted = {"settings": settings.key, "crystals": crystals, "code": code_identity()}
    for name, value in wanted.items():
        others = {getattr(r, name) for r in results} - {value}
        if others:
            raise ValueError(
                f"the trainings in {folder} are of other {name} ({_differ(value, others)}). "
                f"Make them anew with:\n    {made_by}"
            )
    structures = {r.structure for r in results} - {""}
    if len(structures) > 1:
        raise ValueError(
            f"the trainings in {folder} are aligned with {len(structures)} structure encoders, "
            f"because they were not made in one folder. Make them anew with:\n    {made_by}"
        )
    return results


def _differ(value: str, others: set[str]) -> str:
    """The settings that are unlike, or the two values."""
    other = sorted(others)[0]
    try:
        now, then = json.loads(value), json.loads(other)
        unlike = {k: (then.get(k), now[k]) for k in now if then.get(k) != now[k]}
        return ", ".join(f"{k} was {a}, is {b}" for k, (a, b) in unlike.items())
    except ValueError:
        return f"{other}, now {value}"

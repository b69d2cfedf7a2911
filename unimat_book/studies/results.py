"""Outcomes in, small Parquet files out; and the published ones back, means over seeds, checked."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unimat_book.grid.cells import GridSettings
from unimat_book.grid.scores import decode_errors, encode_errors
from unimat_book.record import note_read, project_root
from unimat_book.studies.trials import Outcome, Trial
from unimat_lib.files import replacing
from unimat_lib.identity import identity_of, short_hash

_PACKAGES = ("torch", "numpy", "lightning", "pandas")
STAMP = ("settings", "crystals", "code", "device", "versions")
"""What a file says of each outcome besides it: texts."""

_TRIAL = [("study", pa.string()), ("variant", pa.string()), ("seed", pa.int32())]
_OUTCOME = [("domain", pa.string()), ("asked", pa.string()), ("seconds", pa.float64())]
_VALUES = pa.map_(pa.string(), pa.binary())
_ONE = pa.schema(
    [
        *_TRIAL,
        *_OUTCOME,
        *((name, pa.string()) for name in ("scores", "history", *STAMP)),
        ("values", _VALUES),
    ]
)
_MEAN = pa.schema(
    [
        *(field for field in _TRIAL if field[0] != "seed"),
        *_OUTCOME,
        ("seeds", pa.list_(pa.int32())),
        *((name, pa.string()) for name in ("scores", "history", *STAMP)),
        ("values", _VALUES),
    ]
)


def study_code(module: str) -> str:
    """Hash of all our code that a training of the study in ``module`` runs."""
    return short_hash(repr(sorted(identity_of(f"{module}:train").code.items())))


def stamp_of(settings: GridSettings, crystals: str, module: str, device: str) -> dict[str, str]:
    """What decided the outcomes of a run: texts by name (of :data:`STAMP`)."""
    versions = {"python": platform.python_version(), **{n: version(n) for n in _PACKAGES}}
    known = settings.key, crystals, study_code(module), device, json.dumps(versions)
    return dict(zip(STAMP, known, strict=True))


def write_outcomes(outcomes: Iterable[Outcome], path: Path, *, stamp: Mapping[str, str]) -> Path:
    """Write the outcomes of one trial, replaced in one step."""
    rows = [
        {
            **vars(o.trial),
            **{name: getattr(o, name) for name, _ in _OUTCOME},
            **{name: json.dumps(getattr(o, name)) for name in ("scores", "history")},
            **stamp,
            "values": {k: np.asarray(v, np.float32).tobytes() for k, v in o.values.items()},
        }
        for o in outcomes
    ]
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_ONE), temporary, compression="zstd")
    return path


def read_outcomes(path: Path) -> list[tuple[Outcome, dict[str, str]]]:
    """The inverse of :func:`write_outcomes`, with the stamp of each."""
    found = []
    for row in pq.read_table(path).to_pylist():
        trial = Trial(row["study"], row["variant"], row["seed"])
        values = {k: np.frombuffer(v, np.float32) for k, v in row["values"]}
        plain = {name: row[name] for name, _ in _OUTCOME}
        parts = {name: json.loads(row[name]) for name in ("scores", "history")}
        outcome = Outcome(trial=trial, values=values, **plain, **parts)
        found.append((outcome, {name: row[name] for name in STAMP}))
    return found


@dataclass(frozen=True)
class Mean:
    """A variant on a domain, all its seeds together.

    Attributes:
        study, variant, domain, asked: As of :class:`.Outcome`.
        seeds: The seeds.
        scores: By name the exact score of each seed, ``[S]``.
        values: By metric the mean over seeds for each crystal, ``[n]``; kept in steps of 30 %
            (errors) or exactly (shares of right answers), so that only means of many are of use.
        history: Validation losses of the first seed.
        seconds: Of all trainings together.
        stamp: What decided it, see :data:`STAMP`.
    """

    study: str
    variant: str
    domain: str
    asked: str
    seeds: list[int]
    scores: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    history: list[dict[str, float]]
    seconds: float
    stamp: dict[str, str]


def pack(files: Sequence[Path], out: Path) -> Path | None:
    """Means over seeds of the outcomes in some files of one study, in one file; it is small."""
    groups: dict[tuple[str, str, str], list[tuple[Outcome, dict[str, str]]]] = {}
    for path in sorted(files):
        for outcome, stamp in read_outcomes(path):
            key = outcome.trial.study, outcome.trial.variant, outcome.domain
            groups.setdefault(key, []).append((outcome, stamp))
    if not groups:
        return None
    rows = []
    for _, found in sorted(groups.items()):
        found.sort(key=lambda pair: pair[0].trial.seed)
        rows.append(_mean_row(*map(list, zip(*found, strict=True))))
    with replacing(out) as temporary:
        coding = {"compression": "zstd", "compression_level": 15}
        pq.write_table(pa.Table.from_pylist(rows, schema=_MEAN), temporary, **coding)
    return out


def _mean_row(outcomes: list[Outcome], stamps: list[dict[str, str]]) -> dict[str, object]:
    first = outcomes[0]
    if len({o.asked for o in outcomes}) > 1:
        raise ValueError(f"seeds of {first.trial.variant} were asked about different crystals")
    scores = {k: [o.scores[k] for o in outcomes] for k in first.scores}
    values = {}
    for metric in first.values:
        mean = np.mean([o.values[metric] for o in outcomes], axis=0)
        values[metric] = _flags(mean, len(outcomes)) if _is_share(metric) else encode_errors(mean)
    joined = {name: "; ".join(sorted({s[name] for s in stamps})) for name in STAMP}
    return {
        "study": first.trial.study,
        "variant": first.trial.variant,
        "domain": first.domain,
        "asked": first.asked,
        "seconds": sum(o.seconds for o in outcomes),
        "seeds": [o.trial.seed for o in outcomes],
        "scores": json.dumps(scores),
        "history": json.dumps(first.history),
        **joined,
        "values": values,
    }


def _is_share(metric: str) -> bool:
    """Whether a metric is a share of right answers, else it is a mean error."""
    return "accuracy" in metric or "recall" in metric


def _flags(mean: np.ndarray, seeds: int) -> bytes:
    """Shares (per cent) over some seeds as how many of them are right, one byte each."""
    return np.rint(mean / 100 * seeds).astype(np.uint8).tobytes()


def load_means(
    path: str | os.PathLike[str],
    settings: GridSettings,
    crystals: str,
    *,
    module: str,
    made_by: str,
) -> list[Mean]:
    """The published means of a study, checked.

    Args:
        path: The file of :func:`pack`.
        settings: Settings that they have to be of.
        crystals: Content hash of the table that they have to be of.
        module: Module of the study.
        made_by: The exact command that makes the file, for error messages.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: They are of other settings, crystals or code; the message says which.
    """
    path = project_root() / path
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Make it with:\n    {made_by}")
    wanted = {"settings": settings.key, "crystals": crystals, "code": study_code(module)}
    means = []
    for row in pq.read_table(note_read(path)).to_pylist():
        for name, value in wanted.items():
            if row[name] != value:
                raise ValueError(
                    f"{row['variant']} in {path} is of other {name} ({row[name]:.200}, now "
                    f"{value:.200}). Make it anew with:\n    {made_by}"
                )
        scores = {k: np.array(v) for k, v in json.loads(row["scores"]).items()}
        values = {
            metric: _decoded(metric, code, seeds=len(row["seeds"]), mean=scores[metric].mean())
            for metric, code in row["values"]
        }
        plain = {n: row[n] for n in ("study", "variant", "domain", "asked", "seeds", "seconds")}
        stamp = {name: row[name] for name in STAMP}
        history = json.loads(row["history"])
        means.append(Mean(**plain, scores=scores, values=values, history=history, stamp=stamp))
    return means


def _decoded(metric: str, code: bytes, *, seeds: int, mean: float) -> np.ndarray:
    if _is_share(metric):
        return 100.0 * np.frombuffer(code, np.uint8) / seeds
    return decode_errors(code, mean=mean)

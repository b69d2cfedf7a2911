"""What all benchmarks share: one timer, one form of a result, one file of results.

A script measures, and calls ``record([Result(...)])``; the results land in
``benchmarks/results.json``, merged by name. On a machine whose results are to be carried home, set
``UNIMAT_BENCHMARKS=/elsewhere/results.json`` (or pass a path), and merge the file later:

    python benchmarks/common.py merge FILE... [--into benchmarks/results.json]
    python benchmarks/report.py
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import numbers
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from unimat_lib.files import alone_in, replacing

RESULTS = Path(__file__).resolve().parent / "results.json"
ELSEWHERE = "UNIMAT_BENCHMARKS"  # environment variable: record there instead of in RESULTS
NAME = re.compile(r"[a-z][a-z0-9_]*")
PACKAGES = ("torch", "triton", "numpy", "pymatgen", "torch-geometric", "xrd-rust")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measurement.

    Args:
        name: Lower-case letters, digits and underscores; a later result of the name replaces it.
        value: What was measured, in ``unit``; finite.
        unit: Such as ``s``, ``crystals/s`` or ``GiB``; ``1`` for a plain ratio or share. See
            ``unimat_book.performance.UNITS`` for those that a goal may have.
        device: Where it ran, see :func:`device_name`.
        baseline: What it was measured against, on the same machine and crystals; None if nothing.
        ratio: How many times as fast (or as small) as the baseline; above one is better.
        notes: What limits it, and anything a reader must know to judge it.
        floor: The least time (or the largest rate) that the hardware allows, in ``unit``, where it
            was worked out.
        target: What was aimed at, in words; None where ``targets.yml`` says it.
        series: Growth: points with ``crystals`` and ``seconds``, and any further finite numbers.
        date: ISO day; filled in by :func:`record`.
        machine: Processor and number of cores; filled in by :func:`record`.
        versions: Package to version; filled in by :func:`record`.

    Raises:
        ValueError: If a field is malformed; the message names the result and the field.
    """

    name: str
    value: float
    unit: str
    device: str
    baseline: str | None = None
    ratio: float | None = None
    notes: str = ""
    floor: float | None = None
    target: str | None = None
    series: list[dict[str, float]] | None = None
    date: str = ""
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ValueError(
                f"name {self.name!r}: expected lower-case letters, digits and underscores"
            )
        for key in ("unit", "device"):
            self._text(key)
        for key in ("baseline", "target"):
            if getattr(self, key) is not None:
                self._text(key)
        if not isinstance(self.notes, str):
            raise ValueError(f"{self.name}: notes must be text, got {self.notes!r}")
        self._set("value", self._finite("value", self.value))
        for key in ("ratio", "floor"):
            if getattr(self, key) is not None:
                self._set(key, self._finite(key, getattr(self, key)))
        if self.ratio is not None and self.baseline is None:
            raise ValueError(f"{self.name}: a ratio needs a baseline: say what it is a ratio to")
        if self.ratio is not None and self.ratio <= 0:
            raise ValueError(f"{self.name}: ratio must be positive, got {self.ratio}")
        if self.series is not None:
            self._set("series", self._points())

    def _set(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)  # the dataclass is frozen for everybody else

    def _text(self, key: str) -> None:
        value = getattr(self, key)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{self.name}: {key} must be non-empty text, got {value!r}")

    def _finite(self, key: str, value: Any) -> float:
        if hasattr(value, "item"):
            value = value.item()
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise ValueError(f"{self.name}: {key} must be a number, got {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"{self.name}: {key} is {value}: find out why, record finite numbers")
        return float(value)

    def _points(self) -> list[dict[str, float]]:
        if not isinstance(self.series, list) or not self.series:
            raise ValueError(f"{self.name}: series must be a non-empty list, got {self.series!r}")
        points = []
        for point in self.series:
            if not isinstance(point, Mapping) or not {"crystals", "seconds"} <= set(point):
                raise ValueError(
                    f"{self.name}: each point of a series has crystals and seconds, got {point!r}"
                )
            points.append({k: self._finite(f"series[{k}]", v) for k, v in point.items()})
            if points[-1]["crystals"] <= 0 or points[-1]["seconds"] <= 0:
                raise ValueError(f"{self.name}: crystals and seconds are positive, got {point!r}")
        return sorted(points, key=lambda point: point["crystals"])


def print_values(*rows: tuple[str, float, str]) -> None:
    """Print named values with their units, one a line."""
    for what, value, unit in rows:
        print(f"  {what:<30}{value:>12.4g} {unit}")


def record(results: Iterable[Result], path: str | os.PathLike[str] | None = None) -> Path:
    """Merge results by name into a JSON file, sorted by name; all of them or none.

    Date, machine and versions are filled in where they are empty.

    Args:
        results: What was measured.
        path: File to merge into; by default the one that ``UNIMAT_BENCHMARKS`` names, or
            ``benchmarks/results.json``.

    Returns:
        The file.

    Raises:
        ValueError: If two results have one name, or the file there is not one of results.
    """
    path = Path(path or os.environ.get(ELSEWHERE) or RESULTS)
    new = [
        replace(
            result,
            date=result.date or datetime.datetime.now(datetime.UTC).date().isoformat(),
            machine=result.machine or device_name("cpu"),
            versions=result.versions or versions(),
        )
        for result in results
    ]
    names = [result.name for result in new]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)}: recorded twice in one call; one name, one result")
    with alone_in(path.parent):  # so that none overwrites what another recorder just added
        merged = {result.name: result for result in load(path)} if path.exists() else {}
        merged |= {result.name: result for result in new}
        content = [asdict(merged[name]) for name in sorted(merged)]
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
        with replacing(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    return path


def load(path: str | os.PathLike[str] = RESULTS) -> list[Result]:
    """Read results, each field checked.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a list of results; the message names the file and the reason.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise ValueError(f"expected a list of results, got {type(content).__name__}")
        return [_from_json(entry) for entry in content]
    except ValueError as error:  # json.JSONDecodeError is one
        raise ValueError(f"{path}: {error}; correct the file or measure anew") from None


def _from_json(entry: Any) -> Result:
    known = {f.name for f in fields(Result)}
    needed = {"name", "value", "unit", "baseline", "ratio", "device", "date"}
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object with {sorted(needed)}, got {entry!r}")
    if unknown := sorted(set(entry) - known):
        raise ValueError(f"{entry.get('name')}: unknown fields {unknown}; known: {sorted(known)}")
    if missing := sorted(needed - set(entry)):
        raise ValueError(f"{entry.get('name')}: fields missing: {missing}")
    datetime.date.fromisoformat(entry["date"])
    return Result(**entry)


def timed(
    run: Callable[[], object], *, repeats: int = 3, device: str = "cpu", warmup: int = 1
) -> float:
    """Shortest wall time of ``run`` in seconds; on a GPU until its work is done.

    The shortest, because everything that disturbs a measurement makes it longer.

    Args:
        run: Called without arguments.
        repeats: How often it is timed.
        device: ``cpu`` or ``cuda``, where the work is.
        warmup: Runs before the first timed one (compilation, caches).
    """
    synchronize = _synchronizer(device)
    for _ in range(warmup):
        run()
    times = []
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def _synchronizer(device: str) -> Callable[[], None]:
    if not str(device).startswith("cuda"):
        return lambda: None
    import torch

    return torch.cuda.synchronize


def device_name(device: str = "cpu") -> str:
    """Name of the GPU, or model of the processor and the number of cores that may be used."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    model = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), flags=re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    name = model.group(1).strip() if model else platform.machine()
    return f"{name}, {cores} core{'s' if cores > 1 else ''}"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the timings, those that are there."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def merge(args: argparse.Namespace) -> None:
    """Add the results of other files; a later file wins."""
    for path in args.files:  # read all before writing, so that a bad file changes nothing
        load(path)
    for path in args.files:
        results = load(path)
        target = record(results, args.into)
        print(f"{len(results)} results of {path} merged into {target}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser("merge", help=merge.__doc__.splitlines()[0])
    sub.add_argument("files", nargs="+", metavar="FILE", help="result files of other machines")
    sub.add_argument("--into", type=Path, default=RESULTS, help="file to merge into")
    sub.set_defaults(action=merge)
    return top


def main() -> int:
    args = parser().parse_args()
    try:
        args.action(args)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

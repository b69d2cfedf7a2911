"""Scans of one file in, as an instrument recorded them; one measured pattern out."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from unimat_powder.pattern import Pattern, PatternError, check_points, check_values
from unimat_powder.radiation import Radiation, settle_wavelength

_SHORTEST_RUN = 10  # points: fewer that fall back are points out of order, not another scan


@dataclass(frozen=True, eq=False)
class Scan:
    """One pass over a range of angles.

    Attributes:
        two_theta: ``[n]`` float64, degrees.
        intensity: ``[n]`` float64.
        uncertainty: ``[n]`` float64 standard uncertainties, where stated.
        seconds: Counting time of a step, where the intensities are counts and it is stated.
    """

    two_theta: np.ndarray
    intensity: np.ndarray
    uncertainty: np.ndarray | None = None
    seconds: float | None = None

    def __getitem__(self, index: object) -> "Scan":
        """Some of the points."""
        error = None if self.uncertainty is None else self.uncertainty[index]
        return replace(
            self,
            two_theta=self.two_theta[index],
            intensity=self.intensity[index],
            uncertainty=error,
        )

    def __len__(self) -> int:
        """Number of points."""
        return len(self.two_theta)


def make_pattern(
    scans: Sequence[Scan],
    radiation: Radiation,
    *,
    name: str,
    wavelength: float | None = None,
    notes: Sequence[str] = (),
    where: Callable[[int], str] = lambda i: f"point {i + 1}",
) -> Pattern:
    """One pattern from all scans of a file.

    Scans of the same range are summed, ranges that follow each other joined, whatever overlaps
    combined point by point; where counting times differ, as counts per second. Descending scans are
    reversed, repeated angles averaged, points below zero degrees left out; every such act is noted.

    Args:
        scans: At least one; an axis that falls back is cut into several.
        radiation: What the file says of its X-rays.
        name: What to call the file in errors.
        wavelength: What the caller says, angstrom; wins over the file.
        notes: What was done so far.
        where: Name of a point of a single scan, by its index.

    Raises:
        PatternError: The points make no pattern; the message says where and why.
    """
    used, said_by, second, about = settle_wavelength(radiation, wavelength, name=name)
    notes = [*notes, *about]
    passes = []
    for number, scan in enumerate(scans, start=1):
        which = name if len(scans) == 1 else f"{name}, scan {number}"
        passes += _tidy(scan, which, where, notes)
    whole = passes[0] if len(passes) == 1 else _combine(passes, name, notes)
    check_points(whole.two_theta, whole.intensity, name, lambda i: f"{whole.two_theta[i]:g} deg")
    error = whole.uncertainty
    return Pattern(
        torch.from_numpy(np.ascontiguousarray(whole.two_theta)),
        torch.from_numpy(np.ascontiguousarray(whole.intensity)),
        used,
        said_by,
        None if error is None else torch.from_numpy(np.ascontiguousarray(error)),
        tuple(dict.fromkeys(notes)),
        second,
    )


def _tidy(scan: Scan, name: str, where: Callable[[int], str], notes: list[str]) -> list[Scan]:
    """Increasing scans without points below zero or repeated angles; adds to ``notes``."""
    shapes = scan.two_theta.shape, scan.intensity.shape
    if shapes[0] != shapes[1]:
        raise PatternError(
            f"{name}: expected as many intensities as angles, but came {shapes[1][0]} and "
            f"{shapes[0][0]}"
        )
    for label, values in (("2theta", scan.two_theta), ("intensity", scan.intensity)):
        check_values(values, label, name, where)
    if len(scan) < 2:
        raise PatternError(f"{name}: expected at least 2 points, but came {len(scan)}")
    low, high = scan.two_theta.min(), scan.two_theta.max()
    kept = scan.two_theta >= 0
    if high > 180 or kept.sum() < 2:
        raise PatternError(
            f"{name}: 2theta must lie in 0 to 180 degrees, but runs from {low:g} to {high:g}; "
            "if this axis is d or Q, name it in a header line: d (A), Q (1/A) or Q (1/nm)"
        )
    places = np.flatnonzero(kept)
    if len(places) < len(scan):
        left = len(scan) - len(places)
        notes.append(f"{left} points below 0 degrees left out: they carry no information")
    scan, places = _average_repeats(scan[kept], places, notes)
    if len(scan) < 2:
        raise PatternError(
            f"{name}: expected at least 2 points, but all lie at {low:g} degrees; "
            "is this the right column?"
        )
    runs = _monotone_runs(scan.two_theta, places, name, where)
    if len(runs) > 1:
        notes.append(f"the axis turns back: read as {len(runs)} scans")
    result = [scan[start:end] for start, end in runs]
    if any(part.two_theta[0] > part.two_theta[-1] for part in result):
        notes.append("the angles run downwards: reversed")
    return [part[::-1] if part.two_theta[0] > part.two_theta[-1] else part for part in result]


def _average_repeats(scan: Scan, places: np.ndarray, notes: list[str]) -> tuple[Scan, np.ndarray]:
    """Points at the same angle one after another become their mean."""
    starts = np.flatnonzero(np.diff(scan.two_theta, prepend=np.nan) != 0)
    if len(starts) == len(scan):
        return scan, places
    number = np.diff(starts, append=len(scan))
    error = scan.uncertainty
    if error is not None:
        error = np.sqrt(np.add.reduceat(error**2, starts)) / number
    notes.append(f"repeated angles averaged ({len(scan) - len(starts)} points fewer)")
    mean = np.add.reduceat(scan.intensity, starts) / number
    reduced = replace(scan, two_theta=scan.two_theta[starts], intensity=mean, uncertainty=error)
    return reduced, places[starts]


def _monotone_runs(
    x: np.ndarray, places: np.ndarray, name: str, where: Callable[[int], str]
) -> list[tuple[int, int]]:
    """Ranges of points with increasing or decreasing angles, each long enough for a scan."""
    up = np.diff(x) > 0
    if up.all() or not up.any():
        return [(0, len(x))]
    turns = np.flatnonzero(up[1:] != up[:-1]) + 1  # a new direction starts at these differences
    edges = [0, *turns.tolist(), len(up)]
    runs, end = [], 0  # points before `end` belong to a run
    for start, stop in itertools.pairwise(edges):
        first = max(start, end)
        if stop + 1 - first >= _SHORTEST_RUN and _begins_and_ends_evenly(x[first : stop + 1]):
            runs.append((first, stop + 1))
            end = stop + 1
        elif stop + 1 < len(x) and stop - start == 1 and start < end:
            continue  # the step from the end of one scan to the beginning of the next
        else:
            bad = first if first else int(np.argmax(~up)) + 1
            raise PatternError(
                f"{name}: 2theta must increase, but falls back to {x[bad]:g} at "
                f"{where(places[bad])} (after {x[bad - 1]:g}); sort the points, or put several "
                "scans one after another"
            )
    return runs


def _begins_and_ends_evenly(x: np.ndarray) -> bool:
    """Whether the ends of a run are part of it, not points out of order beside it."""
    steps = np.abs(np.diff(x))
    return bool(max(steps[0], steps[-1]) <= 5 * np.median(steps))


def _combine(scans: list[Scan], name: str, notes: list[str]) -> Scan:
    """One scan from several: summed, joined, or combined where they overlap."""
    scans = sorted(scans, key=lambda scan: scan.two_theta[0])
    step = min(float(np.median(np.diff(scan.two_theta))) for scan in scans)
    times = [scan.seconds for scan in scans]
    same_times = None in times or np.ptp(times) <= 1e-6 * max(times)
    units = "" if same_times else ", as counts per second: the counting times differ"
    first, *others = scans
    if all(_same_axis(first, other) for other in others):
        notes.append(f"{len(scans)} scans of the same range summed{_series(scans)}")
        total = sum(scan.intensity for scan in scans)
        seconds = None if None in times else float(sum(times))
        axis = sum(scan.two_theta for scan in scans) / len(scans)
        return Scan(axis, total, _quadrature(scans), seconds)
    if same_times:
        scans = [replace(scan, seconds=1.0) for scan in scans]
    ends = np.maximum.accumulate([scan.two_theta[-1] for scan in scans])
    overlap = [s.two_theta[0] < end - step / 4 for s, end in zip(scans[1:], ends[:-1], strict=True)]
    if any(overlap):
        _check_levels(scans, name)
        notes.append(f"{len(scans)} overlapping scans combined{units}")
    else:
        notes.append(f"{len(scans)} ranges joined{units}")
    return _merged_points(scans, tolerance=step / 4)


def _merged_points(scans: list[Scan], *, tolerance: float) -> Scan:
    """All points by angle; those closer than ``tolerance`` become one, weighted by their time."""
    x = np.concatenate([scan.two_theta for scan in scans])
    order = np.argsort(x, kind="stable")
    seconds = np.concatenate([np.full(len(scan), scan.seconds) for scan in scans])[order]
    counts = np.concatenate([scan.intensity for scan in scans])[order]
    owner = np.concatenate([np.full(len(scan), i) for i, scan in enumerate(scans)])[order]
    x = x[order]
    # Two points of one scan are never merged, however fine its steps are.
    new = (np.diff(x, prepend=-np.inf) > tolerance) | (np.diff(owner, prepend=-1) == 0)
    starts = np.flatnonzero(new)
    time = np.add.reduceat(seconds, starts)
    error = None
    if all(scan.uncertainty is not None for scan in scans):
        error = np.concatenate([scan.uncertainty for scan in scans])[order]
        error = np.sqrt(np.add.reduceat(error**2, starts)) / time
    number = np.diff(starts, append=len(x))
    axis = np.add.reduceat(x, starts) / number
    return Scan(axis, np.add.reduceat(counts, starts) / time, error)


def _same_axis(a: Scan, b: Scan) -> bool:
    """Whether two scans have the same angles, within a quarter of a step."""
    if len(a) != len(b):
        return False
    return bool(np.abs(a.two_theta - b.two_theta).max() < np.diff(a.two_theta).min() / 4)


def _quadrature(scans: list[Scan]) -> np.ndarray | None:
    """Uncertainty of the sum, where all scans have one."""
    if any(scan.uncertainty is None for scan in scans):
        return None
    return np.sqrt(sum(scan.uncertainty**2 for scan in scans))


def _series(scans: list[Scan]) -> str:
    """A warning where repeated scans of counts differ by far more than counting noise."""
    counts = np.array([scan.intensity / (scan.seconds or 1.0) for scan in scans])
    weight = 1.0 if scans[0].seconds is None else scans[0].seconds
    counts = counts * weight
    if counts.min() < 0 or not np.array_equal(scans[0].intensity, scans[0].intensity.round()):
        return ""
    mean = counts.mean(axis=0)
    chi_squared = ((counts - mean) ** 2 / np.maximum(mean, 1)).sum() / (
        (len(scans) - 1) * len(mean)
    )
    return " (they differ by more than noise: a series?)" if chi_squared > 4 else ""


def _check_levels(scans: list[Scan], name: str) -> None:
    """Refuse to mix scans whose intensities have nothing to do with each other."""
    for i, scan in enumerate(scans[1:], start=1):
        for other in scans[:i]:
            low, high = scan.two_theta[0], min(scan.two_theta[-1], other.two_theta[-1])
            means = [
                float(part.intensity[inside].mean() / part.seconds)
                for part in (scan, other)
                if (inside := (part.two_theta >= low) & (part.two_theta <= high)).sum() > 2
            ]
            if len(means) == 2 and not 0.25 < (max(means[0], 1e-9) / max(means[1], 1e-9)) < 4:
                raise PatternError(
                    f"{name}: two scans overlap from {low:g} to {high:g} degrees, but their mean "
                    f"intensities are {means[0]:g} and {means[1]:g}; export one scan alone"
                )

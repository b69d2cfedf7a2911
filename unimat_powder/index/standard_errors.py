"""A cell and a pattern's lines in; the cell refined in its Bravais lattice out, with its errors.

Zero shift and displacement are free as in :mod:`.fit`, held to what instruments have. The errors
are those of least squares on the lines that the cell explains, times the root of chi squared where
that is more than one. They hold if the cell does, and its lattice.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from unimat_lib.views.bragg import half_sphere
from unimat_powder.bravais import (
    BRAVAIS_LATTICES,
    CENTRINGS,
    lattice_basis,
    matrix_metric,
    metric_matrix,
    quadratic_terms,
)
from unimat_powder.index.fit import DISPLACEMENT, ZERO, fit_cells
from unimat_powder.index.observed import Observed, to_q, to_two_theta
from unimat_powder.index.refine import cell_errors
from unimat_powder.index.symmetry import cell_matrix, cell_of

NAMES = ("a", "b", "c", "alpha", "beta", "gamma")
_FAMILIES = {"a" if family == "triclinic" else family[0]: family for family, _ in BRAVAIS_LATTICES}
_FREE_ANGLES = {"a": NAMES[3:], "m": ("beta",)}
_STARTS = (0.0, -0.12, 0.12)  # degrees of displacement, where the fit begins
_STEPS = 5  # of Gauss and Newton; Q is linear in what is free
_BEYOND = 0.5  # degrees behind the last line, where lines are computed
_SPARE = 1  # lines more than free numbers, zero shift and displacement
_SAME = 1e-9  # relative, of Q: reflections nearer than that are equivalent, or as good as that
_UNDETERMINED = 1e-5  # least singular value of the columns of the cell, over the largest


@dataclass(frozen=True)
class CellLine:
    """An observed line, and what the cell makes of it."""

    two_theta: float  # as observed, degrees
    sigma: float  # standard deviation that the fit gives it, degrees
    share: float  # intensity, as share of the strongest line's
    hkl: tuple[int, int, int] | None = None  # in conventional axes; None: not explained
    computed: float | None = None  # degrees, with zero shift and displacement


@dataclass(frozen=True)
class RefinedCell:
    """A conventional cell refined to the lines of a pattern.

    Attributes:
        lattice: Pearson's letters.
        cell: a, b, c (angstrom), alpha, beta, gamma (degrees).
        errors: Their standard errors; ``None`` of what the symmetry fixes, and of all where
            ``why`` says so.
        why: Why there are no standard errors, or ``""``.
        zero_shift: Degrees, added to all angles.
        displacement: Degrees at 0, goes with cos(theta).
        chi_squared: Of the lines that the cell explains, over their degrees of freedom.
        lines: The observed lines, at most the forty lowest; none where nothing could be fitted.
    """

    lattice: str
    cell: tuple[float, ...]
    errors: tuple[float | None, ...] = (None,) * 6
    why: str = ""
    zero_shift: float = 0.0
    displacement: float = 0.0
    chi_squared: float = math.nan
    lines: tuple[CellLine, ...] = ()

    @property
    def explained(self) -> int:
        """How many of the lines the cell explains."""
        return sum(line.hkl is not None for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """Plain objects: the cell, its errors, and how they came about; not the lines."""
        if self.why:
            return {"lattice": self.lattice, "errors": None, "why": self.why}
        return {
            "lattice": self.lattice,
            **dict(zip(NAMES, (round(x, 6) for x in self.cell), strict=True)),
            "errors": {
                name: None if error is None else float(f"{error:.3g}")
                for name, error in zip(NAMES, self.errors, strict=True)
            },
            "zero_shift": round(self.zero_shift, 5),
            "displacement": round(self.displacement, 5),
            "chi_squared": round(self.chi_squared, 4),
            "explained": self.explained,
            "lines": len(self.lines),
        }

    def lines_json(self) -> list[dict[str, Any]]:
        """The lines as plain objects; what the cell does not explain has ``None``."""
        return [
            {
                "two_theta": round(line.two_theta, 5),
                "hkl": None if line.hkl is None else list(line.hkl),
                "computed": None if line.computed is None else round(line.computed, 5),
                "difference": None
                if line.computed is None
                else round(line.two_theta - line.computed, 5),
            }
            for line in self.lines
        ]

    def texts(self) -> list[str]:
        """The cell with its errors in brackets, and what they rest on; or why there are none."""
        if self.why:
            return [f"no standard errors: {self.why}"]
        values = [with_error(*pair) for pair in zip(self.cell, self.errors, strict=True)]
        return [
            f"{'  '.join(values[:3])} angstrom  {'  '.join(values[3:])} degrees",
            f"refined to {self.explained} of {len(self.lines)} lines, standard errors in brackets "
            f"(zero shift {self.zero_shift:.3f}, displacement {self.displacement:.3f} degrees, "
            f"chi squared {self.chi_squared:.2f})",
        ]


def with_error(value: float, error: float | None) -> str:
    """A number with its standard error in brackets, such as 4.5937(4); 90 where it has none."""
    if error is None:
        return f"{value:.6g}"
    places = -math.floor(math.log10(error))
    places += error * 10**places < 1.95  # two digits of what begins with a one
    places = max(places, 0)
    return f"{value:.{places}f}({error * 10**places:.0f})"


def refined_cell(lattice: str, cell: np.ndarray, observed: Observed) -> RefinedCell:
    """Refine a cell to lines within its Bravais lattice.

    Args:
        lattice: Pearson's letters, such as ``"tP"``; see :func:`.conventional_cell`.
        cell: Lengths and angles ``[6]`` of the conventional cell, good to a per cent or so.
        observed: The lines.
    """
    found = RefinedCell(lattice, tuple(np.asarray(cell, float).tolist()))
    place = BRAVAIS_LATTICES.index((_FAMILIES[lattice[0]], lattice[1]))
    basis = lattice_basis(place).numpy()  # [6, k]
    free = basis.shape[1]
    if not len(observed):
        return replace(found, why="there are no lines")
    rows = np.array(CENTRINGS[lattice[1]]) @ cell_matrix(np.asarray(cell, float))
    start = matrix_metric(torch.from_numpy(np.linalg.inv(rows @ rows.T))).numpy()
    start = basis @ (np.linalg.pinv(basis) @ start)
    padded = np.pad(basis, ((0, 0), (0, 6 - free)))
    shifts = np.array([[0.0, one] for one in _STARTS])
    many = len(shifts)
    fitted = fit_cells(np.tile(start, (many, 1)), np.tile(padded, (many, 1, 1)), shifts, observed)
    if not len(fitted.metric):
        return replace(found, why="the cell has so many lines that any pattern would fit it")
    best = int(fitted.evidence.argmax())
    known = fitted.metric[best], fitted.shift[best]
    mine = _one_each(np.flatnonzero(fitted.probability[best] > 0.5), *known, observed)
    needed = free + 2 + _SPARE
    if len(mine) >= needed:
        return _refined(found, *known, basis, mine, observed)
    number = f"{len(mine)} line{'' if len(mine) == 1 else 's'}"
    numbers = f"{free} free number{'' if free == 1 else 's'}"
    return replace(
        found,
        why=f"the cell explains {number} and needs {needed} for {numbers}, zero shift and "
        "displacement",
        lines=_lines(lattice, *known, mine, observed),
    )


def _refined(
    found: RefinedCell,
    metric: np.ndarray,
    shift: np.ndarray,
    basis: np.ndarray,
    mine: np.ndarray,
    observed: Observed,
) -> RefinedCell:
    """Least squares from a fitted primitive metric ``[6]``, on the lines at places ``mine``."""
    angles, sigma = observed.two_theta[mine], observed.sigma[mine]
    held = 1 / np.array([ZERO, DISPLACEMENT])
    free = basis.shape[1]
    for _ in range(_STEPS):
        hkl, computed = _nearest(metric, shift, angles, observed)
        columns = _columns(hkl, metric, basis, observed.wavelength)
        design = np.vstack([columns / sigma[:, None], np.pad(np.diag(held), ((0, 0), (free, 0)))])
        size = np.linalg.norm(design, axis=0)
        known = np.linalg.svd(columns[:, :free] / np.maximum(size[:free], 1e-9), compute_uv=False)
        if known[-1] < _UNDETERMINED * known[0]:
            why = "the lines that the cell explains leave a number of it open"
            lines = _lines(found.lattice, metric, shift, mine, observed)
            return replace(found, why=why, lines=lines)
        off = np.concatenate([(angles - computed) / sigma, -shift * held])
        step = np.linalg.lstsq(design / size, off, rcond=None)[0] / size
        metric, shift = metric + basis @ step[:free], shift + step[free:]
    _, computed = _nearest(metric, shift, angles, observed)
    left = np.concatenate([(angles - computed) / sigma, shift * held])
    chi_squared = float(left @ left) / (len(mine) - free)  # what is held counts as two lines more
    covariance = np.linalg.inv((design / size).T @ (design / size)) / np.outer(size, size)
    spread = basis @ covariance[:free, :free] @ basis.T * max(chi_squared, 1.0)
    primitive = torch.tensor(CENTRINGS[found.lattice[1]], dtype=torch.float64)
    units = metric_matrix(torch.eye(6, dtype=torch.float64))
    turn = matrix_metric(primitive.T @ units @ primitive).numpy().T  # to conventional axes
    direct = np.linalg.inv(metric_matrix(torch.from_numpy(turn @ metric)).numpy())
    errors = cell_errors(turn @ metric, turn @ spread @ turn.T)
    unfixed = NAMES[:3] + _FREE_ANGLES.get(found.lattice[0], ())
    return replace(
        found,
        cell=tuple(cell_of(np.linalg.cholesky(direct)).tolist()),
        errors=tuple(
            float(error) if name in unfixed else None
            for name, error in zip(NAMES, errors, strict=True)
        ),
        zero_shift=float(shift[0]),
        displacement=float(shift[1]),
        chi_squared=chi_squared,
        lines=_lines(found.lattice, metric, shift, mine, observed),
    )


def _one_each(
    mine: np.ndarray, metric: np.ndarray, shift: np.ndarray, observed: Observed
) -> np.ndarray:
    """Of lines at places ``mine``, the nearest to each computed one: others are its shoulders."""
    if not len(mine):
        return mine
    _, computed = _nearest(metric, shift, observed.two_theta[mine], observed)
    order = np.argsort(np.abs(observed.two_theta[mine] - computed), kind="stable")
    _, first = np.unique(computed[order].round(6), return_index=True)
    return np.sort(mine[order[first]])


def _lines(
    lattice: str, metric: np.ndarray, shift: np.ndarray, mine: np.ndarray, observed: Observed
) -> tuple[CellLine, ...]:
    """All observed lines; those at places ``mine`` have indices, in conventional axes."""
    columns = observed.two_theta, observed.sigma, observed.share
    found = [CellLine(*row) for row in zip(*(x.tolist() for x in columns), strict=True)]
    if not len(mine):
        return tuple(found)
    angles = observed.two_theta[mine]
    chosen, computed = _nearest(metric, shift, angles, observed)
    every, q = _reflections(metric, angles, observed)
    turn = np.linalg.inv(np.array(CENTRINGS[lattice[1]])).T
    chosen, every = (np.rint(x @ turn).astype(int) for x in (chosen, every))
    names = _named(chosen, every, q)
    for place, name, angle in zip(mine, names, computed.tolist(), strict=True):
        found[place] = replace(found[place], hkl=name, computed=angle)
    return tuple(found)


def _nearest(
    metric: np.ndarray, shift: np.ndarray, angles: np.ndarray, observed: Observed
) -> tuple[np.ndarray, np.ndarray]:
    """Indices ``[K, 3]`` in primitive axes of the lines nearest to angles, and where these lie."""
    hkl, q = _reflections(metric, angles, observed)
    place = to_two_theta(q, observed.wavelength)
    place = place + shift[0] + shift[1] * np.cos(np.radians(place / 2))
    nearest = np.abs(angles[:, None] - place).argmin(1)
    return hkl[nearest], place[nearest]


def _reflections(
    metric: np.ndarray, angles: np.ndarray, observed: Observed
) -> tuple[np.ndarray, np.ndarray]:
    """Indices ``[N, 3]`` and Q of half of all reflections up to just beyond the last angle."""
    reach = math.sqrt(to_q(min(angles[-1] + _BEYOND, 179.0), observed.wavelength))
    factor = torch.linalg.cholesky(metric_matrix(torch.from_numpy(metric[None])))
    hkl, g, _ = half_sphere(factor, reach)
    return torch.stack(list(hkl), -1).numpy(), g.numpy() ** 2


def _columns(
    hkl: np.ndarray, metric: np.ndarray, basis: np.ndarray, wavelength: float
) -> np.ndarray:
    """Derivatives ``[K, k + 2]`` of angles by free numbers, zero shift and displacement."""
    terms = quadratic_terms(torch.from_numpy(hkl).double()).numpy()
    theta = np.radians(to_two_theta(terms @ metric, wavelength) / 2)
    slope = np.degrees(wavelength**2 / (2 * np.sin(2 * theta)))  # d(2 theta) / dQ
    cell = terms @ basis * slope[:, None]
    return np.column_stack([cell, np.ones_like(theta), np.cos(theta)])


def _named(chosen: np.ndarray, hkl: np.ndarray, q: np.ndarray) -> list[tuple[int, int, int]]:
    """Of the reflections that are one line, the one to name it by: few signs, large h first.

    Args:
        chosen: One reflection of each line, ``[K, 3]``.
        hkl: Half of all reflections, ``[N, 3]``.
        q: Of these, ``[N]``.
    """
    names = []
    for one in chosen:
        mine = q[(hkl == one).all(1)]
        same = hkl[np.abs(q / mine - 1) < _SAME]
        rows = np.concatenate([same, -same]).tolist()
        names.append(tuple(max(rows, key=lambda row: (sum(x >= 0 for x in row), row))))
    return names

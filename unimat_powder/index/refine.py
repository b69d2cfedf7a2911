"""Fitted cells in, each lattice under every symmetry that it comes near out, best first."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp

from unimat_powder.bravais import (
    LATTICE_SYSTEMS,
    lines_of,
    metric_matrix,
    niggli_cells,
    reciprocal_metric,
)
from unimat_powder.index.fit import Fitted, fit_cells
from unimat_powder.index.observed import Observed, to_q, to_two_theta
from unimat_powder.index.symmetry import (
    FREE_NUMBERS,
    cell_matrix,
    lattice_name,
    symmetric_bases,
)

_SAME_LENGTH, _SAME_ANGLE = 0.01, 1.0  # relative, degrees: cells nearer than that are one
_MERIT_LINES = 20
_LAST_ROUNDS = (0.02, 0.01, 0.005)  # degrees off that are allowed for; see fit_cells
_SCALES = (0.4, 0.7, 1.2)  # of the errors that the lines are stated to have
_UNLIKELY = 10.0  # evidence that a symmetry may lack to be mentioned
_STEP = 1e-6  # relative, of numerical derivatives


@dataclass(frozen=True)
class IndexedCell:
    """A cell that explains the lines of a pattern better than chance.

    Attributes:
        lengths: a, b, c of the Niggli cell, angstrom.
        angles: alpha, beta, gamma of it, degrees.
        lengths_sigma: Standard uncertainties of the lengths.
        angles_sigma: Of the angles; 0 where the symmetry fixes one.
        volume: Of the Niggli cell, cubic angstrom.
        lattice: Bravais lattice, such as ``"tetragonal I"``.
        conventional: a, b, c, alpha, beta, gamma of the conventional cell.
        systems: Probability of each lattice system, given that the cell is right.
        evidence: Logarithm of the odds that these lines come from such a cell and not by chance.
        m20: De Wolff's figure of merit of the first twenty explained lines (or as many as are).
        f20: Smith's and Snyder's of the same lines.
        explained: Lines that the cell explains.
        unexplained: Lines that it does not.
        stray: Share of the lines that it does not explain, each counted by the square root of its
            intensity.
        zero_shift: Degrees, added to all angles.
        displacement: Degrees at 0, goes with cos(theta).
    """

    lengths: tuple[float, float, float]
    angles: tuple[float, float, float]
    lengths_sigma: tuple[float, float, float]
    angles_sigma: tuple[float, float, float]
    volume: float
    lattice: str
    conventional: tuple[float, ...]
    systems: dict[str, float]
    evidence: float
    m20: float
    f20: float
    explained: int
    unexplained: int
    stray: float
    zero_shift: float
    displacement: float

    @property
    def free_numbers(self) -> int:
        """How many numbers the lattice leaves free, 1 (cubic) to 6."""
        return FREE_NUMBERS[self.lattice.split()[0]]


def different_cells(fitted: Fitted, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the best different lattices ``[N]`` and their Niggli cells ``[N, 6]``."""
    best = np.argsort(-fitted.evidence, kind="stable")[: 10 * count]
    cells = niggli_cells(torch.from_numpy(fitted.metric[best])).numpy()
    kept: list[int] = []
    for i, cell in enumerate(cells):
        if not any(same_cell(cell, cells[j]) for j in kept):
            kept.append(i)
    kept = kept[:count]
    return best[kept], cells[kept]


def same_cell(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two Niggli cells ``[6]`` are the same by the book's rule."""
    lengths = np.abs(one[:3] / other[:3] - 1).max()
    return bool(lengths < _SAME_LENGTH and np.abs(one[3:] - other[3:]).max() < _SAME_ANGLE)


def with_symmetries(cells: np.ndarray, shifts: np.ndarray, observed: Observed) -> list[IndexedCell]:
    """Fit lattices under every symmetry that each comes near.

    Args:
        cells: Lengths and angles ``[N, 6]`` of their Niggli cells.
        shifts: Where zero shift and displacement start, degrees ``[N, 2]``.
        observed: The lines.

    Returns:
        The lattices, best first.
    """
    owner, bases = [], []
    for i, cell in enumerate(cells):
        rows = cell_matrix(cell)
        some = symmetric_bases(rows @ rows.T)
        owner += [i] * len(some)
        bases += some
    whose = np.array(owner, dtype=int)
    padded = np.stack([np.pad(basis, ((0, 0), (0, 6 - basis.shape[1]))) for basis in bases])
    lengths, angles = (torch.from_numpy(part) for part in (cells[whose, :3], cells[whose, 3:]))
    metric = reciprocal_metric(lengths, angles).numpy()
    projected = padded @ (np.linalg.pinv(padded) @ metric[..., None])  # nearest of that symmetry
    fitted = fit_cells(
        projected[..., 0], padded, shifts[whose], observed, rounds=_LAST_ROUNDS, scales=_SCALES
    )
    whose = whose[fitted.origin]
    found = [_described(fitted.select(whose == i), observed) for i in np.unique(whose)]
    return sorted(found, key=lambda one: -one.evidence)


def _described(fitted: Fitted, observed: Observed) -> IndexedCell:
    """One lattice in words and numbers, from its fits under some symmetries."""
    fitted = fitted.select(fitted.evidence > fitted.evidence.max() - _UNLIKELY)
    cells = niggli_cells(torch.from_numpy(fitted.metric)).numpy()
    names = [lattice_name(cell) for cell in cells]
    share = np.exp(fitted.evidence - logsumexp(fitted.evidence))
    systems = dict.fromkeys(LATTICE_SYSTEMS, 0.0)
    for (name, _), probability in zip(names, share, strict=True):
        systems[name.split()[0]] += float(probability)
    best = int(np.argmax(fitted.evidence))
    cell = cells[best]
    sigma = cell_errors(fitted.metric[best], fitted.covariance[best])
    explained = fitted.probability[best] > 0.5
    m20, f20 = merits(cell, fitted.shift[best], explained, observed)
    zero, displacement = fitted.shift[best].tolist()
    amplitude = np.sqrt(observed.share)
    return IndexedCell(
        lengths=tuple(cell[:3].tolist()),
        angles=tuple(cell[3:].tolist()),
        lengths_sigma=tuple(sigma[:3].tolist()),
        angles_sigma=tuple(sigma[3:].tolist()),
        volume=float(np.linalg.det(cell_matrix(cell))),
        lattice=names[best][0],
        conventional=tuple(names[best][1].tolist()),
        systems=systems,
        evidence=float(logsumexp(fitted.evidence)),
        m20=m20,
        f20=f20,
        explained=int(explained.sum()),
        unexplained=int((~explained).sum()),
        stray=float(amplitude[~explained].sum() / amplitude.sum()),
        zero_shift=zero,
        displacement=displacement,
    )


def cell_errors(metric: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Standard uncertainties of lengths and angles ``[6]``, from that of the metric."""
    steps = np.vstack([np.zeros(6), _STEP * np.abs(metric).max() * np.eye(6)])
    direct = np.linalg.inv(metric_matrix(torch.from_numpy(metric + steps)).numpy())
    lengths = np.sqrt(np.diagonal(direct, axis1=1, axis2=2))
    i, j = (1, 0, 0), (2, 2, 1)
    angles = np.degrees(np.arccos(direct[:, i, j] / lengths[:, i] / lengths[:, j]))
    values = np.hstack([lengths, angles])
    slopes = (values[1:] - values[0]) / steps[1:].max()  # [6 of the metric, 6 of the cell]
    variance = np.einsum("ip,ij,jp->p", slopes, covariance[:6, :6], slopes)
    return np.where(variance > 1e-16, np.sqrt(np.maximum(variance, 0)), 0.0)


def merits(
    cell: np.ndarray, shift: np.ndarray, explained: np.ndarray, observed: Observed
) -> tuple[float, float]:
    """M20 and F20 of a cell ``[6]``, over the first twenty lines that it explains.

    Sources: de Wolff, J. Appl. Cryst. 1, 108 (1968); Smith and Snyder, J. Appl. Cryst. 12, 60
    (1979).
    """
    angles = observed.two_theta - shift[0] - shift[1] * np.cos(np.radians(observed.two_theta / 2))
    angles = angles[explained][:_MERIT_LINES]
    if not len(angles):
        return 0.0, 0.0
    seen = to_q(angles, observed.wavelength)
    parts = torch.from_numpy(cell[:3]), torch.from_numpy(cell[3:])
    q = lines_of(*parts, float(to_q(angles[-1] + 0.2, observed.wavelength))).numpy()
    number = max(int((q < to_q(angles[-1] + 0.01, observed.wavelength)).sum()), 1)
    in_q = np.abs(seen[:, None] - q).min(1, initial=1.0).mean()
    computed = to_two_theta(q, observed.wavelength)
    in_angle = np.abs(angles[:, None] - computed).min(1, initial=180.0).mean()
    m20 = seen[-1] / (2 * max(in_q, 1e-9) * number)
    return float(m20), float(len(angles) / (max(in_angle, 1e-6) * number))

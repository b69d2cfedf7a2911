"""Trial cells and lines in; the cells fitted with zero shift and displacement, and their evidence.

A cell is explained as one hypothesis about how the list of lines came about: each of its resolved
lines shows with a probability v, off by the error of its position; strangers lie anywhere. Against
it stands chance, a list without any cell. The logarithm of the ratio of both, with the free
numbers integrated over their prior (Laplace's approximation), is comparable over lattices.

Source for the integration: MacKay, Neural Comput. 4, 415 (1992).
"""

import math
from typing import NamedTuple, Self

import numpy as np
import torch
from scipy.special import logsumexp

from unimat_lib.views.bragg import half_sphere
from unimat_powder.bravais import metric_matrix, quadratic_terms
from unimat_powder.index.likelihood import FAR, Computed, list_likelihood
from unimat_powder.index.observed import Observed, to_q, to_two_theta
from unimat_powder.index.trials import volumes_of

ZERO, DISPLACEMENT = 0.03, 0.08  # degrees: standard deviations of zero shift and displacement
_ROUNDS = (0.08, 0.05, 0.03, 0.02, 0.01, 0.005)  # degrees off that the rounds of a fit allow for
_PRIOR_WIDTH = 1.2  # of a metric's entries, in units of the cell's own
_ALIKE = np.array([0, 24, 10, 4, 2, 1, 1])  # reflections of one line, by number of free numbers
_MANY = 9  # computed lines for an observed one, beyond which a cell says nothing


class Fitted(NamedTuple):
    """``M`` fitted cells.

    Attributes:
        origin: ``[M]`` places of the cells in what was given to the fit.
        metric: ``[M, 6]`` reciprocal metrics of primitive cells.
        basis: ``[M, 6, 6]`` metrics that each may have; columns beyond its free numbers are zero.
        shift: ``[M, 2]`` zero shift and displacement, degrees.
        evidence: ``[M]`` logarithm of the odds against chance.
        likelihood: ``[M]`` of them, what the lines say; the rest is the price of free numbers.
        covariance: ``[M, 8, 8]`` of metric and shifts.
        probability: ``[M, K]`` that each line belongs to the cell.
    """

    origin: np.ndarray
    metric: np.ndarray
    basis: np.ndarray
    shift: np.ndarray
    evidence: np.ndarray
    likelihood: np.ndarray
    covariance: np.ndarray
    probability: np.ndarray

    def select(self, index: np.ndarray) -> Self:
        """Some of the cells."""
        return type(self)(*(each[index] for each in self))


def _computed(metric: np.ndarray, shift: np.ndarray, observed: Observed) -> Computed:
    reach = math.sqrt(to_q(min(observed.end + 0.3, 179.0), observed.wavelength))
    factor = torch.linalg.cholesky(metric_matrix(torch.from_numpy(metric)))
    hkl, g, cell = half_sphere(factor, reach)
    angle = to_two_theta(g.numpy() ** 2, observed.wavelength)
    which = cell.numpy()
    angle = angle + shift[which, 0] + shift[which, 1] * np.cos(np.radians(angle / 2))
    place = angle + FAR * which
    order = np.argsort(place, kind="stable")
    place = place[order]
    wanted = observed.two_theta + FAR * np.arange(len(metric))[:, None]
    if not len(place):  # small cells, lines at low angles only; or no cell at all
        nothing = np.array([-FAR / 2]), np.zeros(1, dtype=int)
        none = np.zeros(wanted.shape, dtype=int)
        return Computed(*nothing, np.zeros((*wanted.shape, 6)), np.full(wanted.shape, FAR), none)
    right = np.searchsorted(place, wanted).clip(max=len(place) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(place[right] - wanted) < np.abs(place[left] - wanted), right, left)
    chosen = torch.from_numpy(order[nearest])
    rows = quadratic_terms(torch.stack([index[chosen] for index in hkl], -1)).numpy()
    h, k, el = (index.numpy()[order].astype(np.int64) & 1 for index in hkl)
    return Computed(place, h + 2 * k + 4 * el, rows, wanted - place[nearest], nearest)


def _normal(
    rows: np.ndarray, basis: np.ndarray, weight: np.ndarray, observed: Observed, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Normal matrix ``[M, 8, 8]`` in units of the prior's widths, and design ``[M, K, 8]``."""
    theta = np.radians(observed.two_theta / 2)
    # d(2 theta) / dQ, degrees
    slope = np.degrees(observed.wavelength**2 / (2 * np.sin(2 * theta)))
    cell = (rows @ basis) * slope[:, None]
    both = np.stack([np.ones_like(theta), np.cos(theta)], -1)
    both = np.broadcast_to(both, (*cell.shape[:2], 2))
    design = np.concatenate([cell, both], -1) * scale[:, None]
    return np.swapaxes(design * weight[..., None], 1, 2) @ design, design


def _scales(metric: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Widths of the prior ``[M, 8]``: free numbers are of the size of the metric's entries."""
    a, b, c = metric[:, :3].T
    size = np.stack([a, b, c, np.sqrt(b * c), np.sqrt(a * c), np.sqrt(a * b)], 1)
    used = np.abs(basis)
    width = (size[:, :, None] * used).sum(1) / np.maximum((used**2).sum(1), 1e-30)
    width = np.where(used.sum(1) > 0, _PRIOR_WIDTH * width, 0.0)
    shifts = np.broadcast_to([ZERO, DISPLACEMENT], (len(metric), 2))
    return np.concatenate([width, shifts], 1)


def fit_cells(
    metric: np.ndarray,
    basis: np.ndarray,
    shift: np.ndarray,
    observed: Observed,
    *,
    rounds: tuple[float, ...] = _ROUNDS,
    scales: tuple[float, ...] = (1.0,),
) -> Fitted:
    """Fit cells to the lines by robust least squares, with ever closer matches.

    Args:
        metric: Reciprocal metrics ``[M, 6]``, positive definite.
        basis: ``[M, 6, 6]`` metrics that each may have, filled up with zeros.
        shift: Where zero shift and displacement start, degrees ``[M, 2]``.
        observed: The lines.
        rounds: Degrees off that each round allows for.
        scales: What the errors of all lines may be times too small or large.

    Returns:
        The fitted cells, without those that have so many lines that they say nothing.
    """
    reach = to_q(observed.end, observed.wavelength)
    free = (np.abs(basis).sum(1) > 0).sum(1)
    size = volumes_of(metric)
    expected = 2 * math.pi / 3 * size * reach**1.5 / _ALIKE[free]
    keep = np.flatnonzero((size > 0) & (expected < _MANY * len(observed)))
    metric, basis, shift = metric[keep], basis[keep], shift[keep]
    for tolerance in rounds:
        near = _computed(metric, shift, observed)
        width2 = observed.sigma**2 + tolerance**2
        weight = np.exp(-(near.off**2) / (2 * width2)) * observed.reliability / width2
        scale = _scales(metric, basis)
        normal, design = _normal(near.rows, basis, weight, observed, scale)
        right = np.einsum("mk,mkp->mp", weight * near.off, design)
        used = scale > 0
        prior = np.zeros_like(scale)
        prior[:, 6:] = 1.0
        right[:, 6:] -= shift / scale[:, 6:]
        largest = np.einsum("mpp->mp", normal).max(1)[:, None]
        # A cell that meets no line at all stays where it is.
        diagonal = np.where(used, prior + np.maximum(1e-9 * largest, 1e-12), 1.0)
        normal = normal + diagonal[:, None] * np.eye(8)
        step = np.linalg.solve(normal, right[..., None])[..., 0] * scale
        new = metric + np.einsum("mij,mj->mi", basis, step[:, :6])
        old, size = volumes_of(metric), volumes_of(new)
        good = (size > 0.7 * old) & (size < 1.4 * old)
        metric = np.where(good[:, None], new, metric)
        shift = np.where(good[:, None], shift + step[:, 6:], shift)
    return weigh_cells(metric, basis, shift, observed, scales)._replace(origin=keep)


def weigh_cells(
    metric: np.ndarray,
    basis: np.ndarray,
    shift: np.ndarray,
    observed: Observed,
    scales: tuple[float, ...] = (1.0,),
) -> Fitted:
    """The evidence of fitted cells; arguments as in :func:`fit_cells`."""
    near = _computed(metric, shift, observed)
    width = _scales(metric, basis)
    found = []
    for scale in scales:
        sigma = scale * observed.sigma
        likelihood, probability = list_likelihood(near, observed, sigma)
        normal, _ = _normal(near.rows, basis, probability / sigma**2, observed, width)
        precision = np.eye(8) + normal
        occam = -0.5 * np.linalg.slogdet(precision)[1]
        occam -= 0.5 * ((shift / width[:, 6:]) ** 2).sum(1)
        spread = np.linalg.inv(precision) * width[:, :, None] * width[:, None]
        found.append((likelihood + occam, likelihood, probability, spread))
    each = np.stack([one[0] for one in found])  # [S, M]
    best = each.argmax(0), np.arange(len(metric))
    columns = [np.stack(column)[best] for column in zip(*found, strict=True)]
    _, likelihood, probability, spread = columns
    turn = np.zeros((len(metric), 8, 8))
    turn[:, :6, :6], turn[:, 6:, 6:] = basis, np.eye(2)
    covariance = turn @ spread @ np.swapaxes(turn, 1, 2)
    evidence = logsumexp(each, axis=0) - math.log(len(scales))
    origin = np.arange(len(metric))
    return Fitted(origin, metric, basis, shift, evidence, likelihood, covariance, probability)

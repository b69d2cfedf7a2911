"""Points of a pattern and a first model in, the model of least squares and its errors out."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from unimat_powder.peak_profile import (
    CHUNK,
    GAUSS_AREA,
    LORENTZ_AREA,
    NUM_SHAPE,
    Drawn,
    Model,
    Points,
    draw_all,
)

_OWN_WIDTH = 0.12  # standard deviation of the logarithm of a width around the common one
# Standard deviations of the shape's parameters around where they start.
_SHAPE_PRIOR = np.array([2.0, 0.5, 0.25, 0.5, 0.3, 0.15])


def _normal_equations(
    points: Points, drawn: Drawn, rest: np.ndarray, weight: np.ndarray, num_peaks: int
) -> tuple[np.ndarray, np.ndarray]:
    """``J^T W J`` and ``J^T W rest`` over heights, positions, own widths, background and shape."""
    splines = points.basis.shape[1]
    size = 3 * num_peaks + splines + NUM_SHAPE
    matrix, vector = np.zeros((size, size)), np.zeros(size)
    root = np.sqrt(weight)
    rest = rest * root
    common = np.arange(size - NUM_SHAPE, size)
    for chunk, begin in enumerate(range(0, len(points.x), CHUNK)):
        rows = slice(begin, min(begin + CHUNK, len(points.x)))
        k0, k1 = drawn.first[chunk], drawn.last[chunk]
        used = np.flatnonzero(points.basis[[rows.start, rows.stop - 1]].any(0))
        b0, b1 = used[0], used[-1] + 1  # splines between are not zero either
        near = drawn.band[rows, : k1 - k0]
        parts = near.reshape(len(near), -1), points.basis[rows, b0:b1], drawn.shape[rows]
        jacobian = np.concatenate(parts, axis=1) * root[rows, None]
        own, smooth = np.arange(3 * k0, 3 * k1), 3 * num_peaks + np.arange(b0, b1)
        index = np.concatenate([own, smooth, common])
        matrix[np.ix_(index, index)] += jacobian.T @ jacobian
        vector[index] += jacobian.T @ rest[rows]
    return matrix, vector


class Fit(NamedTuple):
    """A fitted model."""

    model: Model
    peaks: np.ndarray  # [n] sum of the peaks at the points
    chi2: float  # sum of squares over variances, with the priors


def fit_peaks(
    points: Points, model: Model, variance: np.ndarray, *, start: Model, rounds: int
) -> Fit:
    """Least squares for all parameters at once, with Levenberg's damping and weak priors.

    Args:
        points: The pattern.
        model: Where to start.
        variance: Of each point ``[n]``, positive.
        start: Whose ``shape`` the priors are centred at.
        rounds: Most steps.
    """
    weight = 1 / variance
    damping = 1e-3
    drawn = draw_all(points, model)
    cost = _cost(points, drawn.peaks, model, weight, start)
    for _ in range(rounds):
        rest = points.y - drawn.peaks - points.basis @ model.background
        matrix, vector = _normal_equations(points, drawn, rest, weight, len(model.height))
        precision, pull = _priors(model, start)
        matrix[np.diag_indices_from(matrix)] += precision
        step = _solve(matrix, vector + pull, damping)
        trial = _moved(model, step)
        new = draw_all(points, trial)
        new_cost = _cost(points, new.peaks, trial, weight, start)
        if new_cost > cost:
            damping *= 10
            if damping > 1e3:
                break
            continue
        gain = cost - new_cost
        model, drawn, cost, damping = trial, new, new_cost, max(damping / 10, 1e-6)
        if gain < 0.3 + 1e-4 * cost / max(len(points.x), 1):
            break
    return Fit(model, drawn.peaks, cost)


class Errors(NamedTuple):
    """Standard deviations ``[K]`` of the peaks of a fit, for independent noise."""

    height: np.ndarray  # in units of the pattern
    position: np.ndarray  # degrees
    area: np.ndarray  # as a share of the area


def errors_of(points: Points, model: Model, variance: np.ndarray, *, start: Model) -> Errors:
    """How well a fit knows its peaks; arguments as for :func:`fit_peaks`."""
    peaks = len(model.height)
    drawn = draw_all(points, model)
    zero = np.zeros(len(points.x))
    matrix, _ = _normal_equations(points, drawn, zero, 1 / variance, peaks)
    precision, _ = _priors(model, start)
    matrix[np.diag_indices_from(matrix)] += precision
    covariance = _solve(matrix, np.eye(len(matrix)), 1e-9)
    own = np.diagonal(covariance)[: 3 * peaks].reshape(peaks, 3).clip(0)
    slope = _area_slope(model, len(matrix))
    area = np.einsum("kp,kp->k", slope @ covariance, slope)
    return Errors(np.sqrt(own[:, 0]), np.sqrt(own[:, 1]), np.sqrt(np.maximum(area, 0)))


def _area_slope(model: Model, size: int) -> np.ndarray:
    """Derivatives of the logarithms of areas by all parameters, ``[K, size]``."""
    peaks = len(model.height)
    slope = np.zeros((peaks, size))
    each = np.arange(peaks)
    slope[each, 3 * each] = 1 / np.maximum(model.height, 1e-100)
    slope[each, 3 * each + 2] = 1
    u = model.variable(model.position)
    slope[:, -NUM_SHAPE : -NUM_SHAPE + 3] = np.stack([np.ones(peaks), u, u**2], axis=1)
    by_share = (LORENTZ_AREA - GAUSS_AREA) / model.form
    slope[:, -NUM_SHAPE + 3 : -NUM_SHAPE + 5] = by_share[:, None] * np.stack([0 * u + 1, u], axis=1)
    return slope


def _priors(model: Model, start: Model) -> tuple[np.ndarray, np.ndarray]:
    """Precision of each parameter's prior and its pull, in the order of the parameters."""
    peaks, splines = len(model.height), len(model.background)
    precision = np.zeros(3 * peaks + splines + NUM_SHAPE)
    pull = np.zeros_like(precision)
    precision[2 : 3 * peaks : 3] = _OWN_WIDTH**-2
    pull[2 : 3 * peaks : 3] = -model.own_width / _OWN_WIDTH**2
    precision[-NUM_SHAPE:] = _SHAPE_PRIOR**-2
    pull[-NUM_SHAPE:] = (start.shape - model.shape) / _SHAPE_PRIOR**2
    return precision, pull


def _cost(
    points: Points, peaks: np.ndarray, model: Model, weight: np.ndarray, start: Model
) -> float:
    rest = points.y - peaks - points.basis @ model.background
    priors = ((model.shape - start.shape) / _SHAPE_PRIOR) ** 2
    return float(
        (weight * rest**2).sum() + priors.sum() + (model.own_width**2).sum() / _OWN_WIDTH**2
    )


def _solve(matrix: np.ndarray, right: np.ndarray, damping: float) -> np.ndarray:
    """Solve symmetric equations after scaling them to a unit diagonal."""
    scale = 1 / np.sqrt(np.maximum(np.diagonal(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale
    right = (right.T * scale).T
    for _ in range(12):
        damped = scaled.copy()
        damped[np.diag_indices_from(damped)] = 1 + damping
        try:
            solution = cho_solve(cho_factor(damped, overwrite_a=True), right)
        except LinAlgError:
            damping = 10 * max(damping, 1e-9)
            continue
        return (solution.T * scale).T
    return np.zeros_like(right)


def _moved(model: Model, step: np.ndarray) -> Model:
    """The model after a step that is kept inside what peaks can be."""
    peaks = len(model.height)
    own, rest = step[: 3 * peaks].reshape(peaks, 3), step[3 * peaks :]
    most = 0.3 * model.fwhm
    position = model.position + np.clip(own[:, 1], -most, most)
    shape = model.shape + np.clip(rest[-NUM_SHAPE:], -0.4, 0.4)
    shape[3:5] = np.clip(shape[3], 0.0, 1.0), np.clip(shape[4], -0.6, 0.6)
    order = np.argsort(position, kind="stable")
    return replace(
        model,
        height=np.maximum(model.height + own[:, 0], 0)[order],
        position=position[order],
        own_width=np.clip(model.own_width + np.clip(own[:, 2], -0.2, 0.2), -0.6, 0.6)[order],
        background=model.background + rest[:-NUM_SHAPE],
        shape=shape,
    )

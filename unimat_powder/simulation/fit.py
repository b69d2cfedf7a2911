"""A measured pattern and its crystal in, the instrument that explains it best out.

What :mod:`.curve` computes is fitted by least squares: what is left over shows what the simulation
lacks. A crystal's cell may strain within its symmetry; the background is linear and solved for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from unimat_lib.views.bragg import Reflections
from unimat_lib.views.grid import Grid
from unimat_powder.simulation.curve import expected_curve
from unimat_powder.simulation.instruments import ANODES, Instruments
from unimat_powder.simulation.ranges import caglioti_through
from unimat_powder.simulation.symmetry import strain_projectors

# What is fitted besides strains: expected value, standard deviation of it, step of differences.
_PARAMETERS = {
    "zero": (0.0, 0.02, 2e-3),  # degrees
    "displacement": (0.0, 0.1, 3e-3),  # degrees
    "log_fwhm": (math.log(0.1), 0.7, 2e-2),  # of the width at 20 degrees
    "log_growth": (0.6, 0.5, 2e-2),
    "bend": (0.0, 0.4, 3e-2),
    "eta_first": (0.7, 0.4, 3e-2),
    "eta_last": (0.7, 0.4, 3e-2),
    "ratio": (0.49, 0.05, 3e-2),  # K-alpha 2 over K-alpha 1
    "log_k_beta": (-5.0, 0.8, 1e-1),
    "log_asymmetry": (-3.5, 0.8, 1e-1),
    "log_texture": (0.0, 0.25, 2e-2),
    "b_factor": (0.8, 0.8, 5e-2),
    "log_white": (-5.0, 1.0, 1e-1),
    "white_length": (0.37, 0.03, 3e-3),
}
_STRAIN, _STRAIN_STEP = 0.008, 1e-4
_PRIOR = 3.0  # weight of expected values: structures are not exact, points too many
_STRUCTURE_ERROR = 0.03  # of a peak's height: what wrong intensities are allowed to be off
_AXES = ([0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1], [1, -1, 0])
_CHEBYSHEV = 8
_DECAYS = 3.0, 9.0  # degrees; of the air scatter


@dataclass(frozen=True, eq=False)
class Fit:
    """How a pattern is explained.

    Attributes:
        calculated: Fitted counts, float64 ``[P]``.
        background: Their background, float64 ``[P]``.
        parameters: Fitted values by name, the ``strain`` (largest component) among them.
        chi2: Mean square of (measured - calculated) over the square root of the calculated.
    """

    calculated: np.ndarray
    background: np.ndarray
    parameters: dict[str, float]
    chi2: float


def fit_instrument(counts: np.ndarray, reflections: Reflections, grid: Grid) -> Fit:
    """Fit the simulation's own parameters to one pattern, measured with copper's K-alpha.

    Args:
        counts: Measured at the points of ``grid``, raw counts with their background, ``[P]``.
        reflections: Of its crystal alone, the cell within about 0.7 % of the true one.
        grid: The points measured.

    Raises:
        ValueError: Counts and grid differ in length, or there is not exactly one crystal.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if len(counts) != grid.num_points or len(reflections) != 1:
        came = f"{len(counts)} counts on {grid.num_points} points, {len(reflections)} crystals"
        raise ValueError(f"expected one crystal and as many counts as points, but came {came}")
    return _Problem(counts, reflections, grid).solve()


class _Problem:
    """The least-squares problem of one pattern, by Levenberg and Marquardt."""

    def __init__(self, counts: np.ndarray, reflections: Reflections, grid: Grid) -> None:
        self.counts, self.reflections, self.grid = counts, reflections, grid
        self.symmetry = strain_projectors(reflections.reciprocal)
        values, vectors = torch.linalg.eigh(self.symmetry[0].double())
        self.basis = vectors[:, values > 0.5].float()  # [6, k], strains that keep the symmetry
        k, table = self.basis.shape[1], np.array(list(_PARAMETERS.values()))
        self.expected = np.concatenate([np.zeros(k), table[:, 0]])
        self.sigma = np.concatenate([np.full(k, _STRAIN), table[:, 1]])
        self.step = np.concatenate([np.full(k, _STRAIN_STEP), table[:, 2]])
        self.axis = _AXES[0]
        x = np.linspace(-1, 1, grid.num_points)
        waves = [np.cos(n * np.arccos(x)) for n in range(_CHEBYSHEV + 1)]
        angle = grid.two_theta.numpy() - grid.two_theta_min
        self.under = np.stack(waves + [np.exp(-angle / decay) for decay in _DECAYS], 1)
        smooth = np.convolve(np.pad(counts, 12, mode="edge"), np.full(25, 0.04), "valid")
        variance = np.maximum((smooth + counts) / 2, 1.0)
        peaks = np.maximum(smooth - np.median(smooth), 0)
        self.weight = 1 / np.sqrt(variance + (_STRUCTURE_ERROR * peaks) ** 2)

    def solve(self) -> Fit:
        k = self.basis.shape[1]
        best = self._start()
        first = [*range(k), k + 1, k + 2]  # strains, displacement, width
        best = self._improve(best, first, 6)
        every = list(range(len(best)))
        best = self._improve(best, every, 12)
        best = self._improve(self._texture(best), every, 15)
        curve = self._curves(best[None])[0]
        calculated, background = self._linear(curve)
        chi2 = np.mean((self.counts - calculated) ** 2 / np.maximum(calculated, 0.5))
        named = dict(zip(_PARAMETERS, best[k:].tolist(), strict=True))
        named["strain"] = float(np.abs(best[:k]).max())
        return Fit(calculated, background, named, float(chi2))

    def _start(self) -> np.ndarray:
        """Isotropic strains tried with wide peaks, then closer ones with narrow peaks."""
        k, isotropic = self.basis.shape[1], self.basis.T.numpy() @ [1, 1, 1, 0, 0, 0]
        best = self.expected
        for width, span in ((0.3, 6e-3), (0.1, 1e-3)):
            trials = np.repeat(best[None], 13, axis=0)
            trials[:, :k] += np.linspace(-span, span, 13)[:, None] * isotropic
            trials[:, k + 2] = math.log(width)
            best = trials[self._cost(trials).argmin()]
        return best

    def _texture(self, best: np.ndarray) -> np.ndarray:
        """The preferred direction that helps most, and a start for its strength."""
        place = self.basis.shape[1] + list(_PARAMETERS).index("log_texture")
        found = (self._cost(best[None])[0], self.axis, best)
        for axis in _AXES:
            self.axis = axis
            for strength in (-0.25, 0.2):
                trial = best.copy()
                trial[place] = strength
                if (cost := self._cost(trial[None])[0]) < found[0]:
                    found = (cost, axis, trial)
        self.axis = found[1]
        return found[2]

    def _improve(self, values: np.ndarray, free: list[int], rounds: int) -> np.ndarray:
        """Steps of Levenberg and Marquardt with differences, as one batch, for derivatives."""
        damping = 1e-2
        residual = self._residuals(values[None])[0]
        for _ in range(rounds):
            trials = np.repeat(values[None], len(free), axis=0)
            trials[np.arange(len(free)), free] += self.step[free]
            jacobian = ((self._residuals(trials) - residual) / self.step[free][:, None]).T
            normal, gradient = jacobian.T @ jacobian, jacobian.T @ residual
            before = residual @ residual
            for _ in range(6):
                damped = normal + damping * np.diag(np.diag(normal))
                trial = values.copy()
                trial[free] -= np.linalg.solve(damped, gradient)
                left = self._residuals(trial[None])[0]
                if left @ left < before:
                    break
                damping *= 4
            else:
                return values
            values, residual, damping = trial, left, max(damping / 3, 1e-6)
            if left @ left > (1 - 1e-4) * before:
                break
        return values

    def _cost(self, trials: np.ndarray) -> np.ndarray:
        return np.square(self._residuals(trials)).sum(1)

    def _residuals(self, trials: np.ndarray) -> np.ndarray:
        left = [self.counts - self._linear(curve)[0] for curve in self._curves(trials)]
        prior = _PRIOR * (trials - self.expected) / self.sigma
        return np.concatenate([np.array(left) * self.weight, prior], axis=1)

    def _linear(self, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Best counts and background: scale and background are linear."""
        design = np.concatenate([curve[:, None], self.under], axis=1)
        weighted = design * self.weight[:, None]
        normal = weighted.T @ weighted
        normal += 1e-9 * np.trace(normal) / len(normal) * np.eye(len(normal))
        values = np.linalg.solve(normal, weighted.T @ (self.counts * self.weight))
        return design @ values, self.under @ values[1:]

    def _curves(self, trials: np.ndarray) -> np.ndarray:
        index = torch.zeros(len(trials), dtype=torch.int64)
        instruments = self._instruments(torch.from_numpy(trials).float())
        curves = expected_curve(
            self.reflections, index, self.grid, instruments, symmetry=self.symmetry
        )
        return curves.double().numpy()

    def _instruments(self, trials: torch.Tensor) -> Instruments:
        n, k = len(trials), self.basis.shape[1]
        # Ten standard deviations around what is expected: no step may leave what can be drawn.
        middle, reach = (torch.from_numpy(x).float() for x in (self.expected, 10 * self.sigma))
        trials = torch.minimum(torch.maximum(trials, middle - reach), middle + reach)
        value = dict(zip(_PARAMETERS, trials[:, k:].unbind(1), strict=True))
        one, zero, every = torch.ones(n), torch.zeros(n), torch.arange(n)
        widths = (
            value["log_fwhm"].clamp(-5.0, 1.0).exp(),
            value["log_growth"].clamp(-1.0, 2.5).exp(),
        )
        axis = torch.tensor(self.axis, dtype=torch.float32).expand(n, 2, 3)
        white = value["white_length"].clamp(0.3, 0.5), 0.08 * one, value["log_white"].exp()
        return Instruments(
            lines=torch.tensor(ANODES["Cu"]).expand(n, 3),
            line_weights=torch.stack(
                [one, value["ratio"].clamp(0, 1), value["log_k_beta"].exp()], 1
            ),
            white=torch.stack(white, 1),
            stated=torch.full((n,), self.grid.wavelength),
            covered=torch.tensor([[0.0, 180.0]]).expand(n, 2),
            zero=value["zero"],
            displacement=value["displacement"],
            caglioti=caglioti_through(*widths, value["bend"].clamp(-0.9, 2.0)),
            eta=torch.stack([value["eta_first"], value["eta_last"]], 1).clamp(0.0, 1.3),
            asymmetry=value["log_asymmetry"].exp(),
            pattern=every,
            crystal=every,
            share=one,
            isotropic=zero,
            strain=trials[:, :k] @ self.basis.T,
            texture=torch.stack([value["log_texture"].exp(), one], 1),
            texture_axis=axis,
            b_factor=value["b_factor"],
            misfit=zero,
            spread=zero,
            response=zero[:, None],
            spill=zero,
            level=zero,
            slope=zero[:, None],
            air=torch.ones(n, 2),
            humps=torch.ones(n, 1, 3),
            counts=one,
            coarse=one,
            cut=torch.full((n,), math.inf),
            smoothing=every * 0,
        )

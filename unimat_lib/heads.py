"""A fused description of a crystal in, its cell and its crystal system out.

The cell head predicts the lengths of the Niggli cell in angstrom, and the same divided by the cube
root of the number of atoms (the ``scaled_lattice`` target of the public MP-20 configuration), as
separate outputs: that number is no input, and dividing a prediction by it would leak the answer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unimat_lib.views.batch import Targets

CELL_TARGETS = ("lengths", "scaled_lengths", "angles")


def _stack(targets: Targets) -> Tensor:
    """``[B, 9]``: lengths (angstrom), scaled lengths (angstrom), angles (degrees)."""
    return torch.cat([getattr(targets, name).float() for name in CELL_TARGETS], dim=1)


class CellScaler(nn.Module):
    """Shift and scale of the nine cell targets, as buffers: a saved model carries its units."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(9))
        self.register_buffer("std", torch.ones(9))

    def fit(self, targets: Targets) -> None:
        """Set mean and standard deviation from ``targets`` (training crystals only)."""
        values = _stack(targets)
        self.mean.copy_(values.mean(dim=0))
        # One crystal, or all of them cubic: the spread is zero, and no division by it may follow.
        self.std.copy_(values.std(dim=0, correction=0).clamp(min=1e-3))

    def encode(self, targets: Targets) -> Tensor:
        """Physical targets -> ``[B, 9]`` of zero mean and unit variance."""
        return (_stack(targets) - self.mean) / self.std

    def decode(self, values: Tensor) -> dict[str, Tensor]:
        """``[B, 9]`` -> ``lengths``, ``scaled_lengths`` (angstrom), ``angles`` (degrees)."""
        physical = values.float() * self.std + self.mean
        return dict(zip(CELL_TARGETS, physical.split(3, dim=1), strict=True))


class Head(nn.Module):
    """MLP from features ``[..., dim]`` to standardised targets or logits ``[..., size]``."""

    def __init__(self, *, dim: int, size: int) -> None:
        super().__init__()
        layers = nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, size)
        self.net = nn.Sequential(nn.LayerNorm(dim), *layers)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., dim]`` -> ``[..., size]``."""
        return self.net(features)


def supervised_loss(
    *, cell: Tensor, system_log_probs: Tensor, targets: Targets, scaler: CellScaler
) -> tuple[Tensor, Tensor]:
    """The losses of cells ``[B, 9]`` and of log-probabilities of crystal systems ``[B, 7]``.

    The mean absolute error in standard deviations (as the metric that is reported is an absolute
    error) of the scaler that the model was fitted with, and the cross-entropy in nats.
    """
    cell_loss = functional.l1_loss(cell.float(), scaler.encode(targets))
    return cell_loss, functional.nll_loss(system_log_probs.float(), targets.crystal_system)

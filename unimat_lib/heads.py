"""A fused description of a crystal in, its cell and its crystal system out.

The cell head answers two questions at once: the lengths of the Niggli cell in angstrom, and the
same lengths divided by the cube root of the number of atoms (the ``scaled_lattice`` target of the
public MP-20 configuration). They are separate outputs because the number of atoms in the cell is
not an input: dividing a prediction by it would leak the answer.
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
    """Shift and scale of the nine cell targets, taken from the training split.

    Kept as buffers, so that a saved model carries the units of its own outputs.
    """

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
    """The two supervised losses, of the cell and of the crystal system.

    The mean absolute error of cells ``[B, 9]`` in standard deviations (the metric that is reported
    is an absolute error, so the loss is one), and the cross-entropy in nats of log-probabilities
    ``[B, 7]``. ``scaler`` is the one that the model was fitted with.
    """
    cell_loss = functional.l1_loss(cell.float(), scaler.encode(targets))
    system_loss = functional.nll_loss(system_log_probs.float(), targets.crystal_system)
    return cell_loss, system_loss

"""What the network says and what is true in, what training makes small out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from unimat_powder.network.groups import group_tables
from unimat_powder.network.reader import Readout
from unimat_powder.network.samples import Targets

_ALIKE = 0.1  # share of the target that goes to groups that look alike
_WEIGHTS = {"group": 1.0, "system": 0.7, "bravais": 0.5, "cell": 4.0, "scalars": 1.5, "spread": 0.1}


def loss_of(readout: Readout, targets: Targets) -> Tensor:
    """Mean loss of a batch.

    Cross entropy of the space group, a part of the target given to groups that look alike, of the
    crystal system and of the Bravais lattice (sums over groups); absolute errors of the cell of
    the true Bravais lattice, of volume and densities; and the likelihood of these errors under
    the spreads that the network states, which does not reach back into the values.
    """
    log_p = functional.log_softmax(readout.groups, 1)
    tables = group_tables(log_p.device)
    alike = tables.alike[targets.group]
    right = log_p.gather(1, targets.group[:, None])[:, 0]
    group = -(1 - _ALIKE) * right - _ALIKE * (alike * log_p).sum(1)
    p = log_p.exp()
    bravais, system = tables.bravais[targets.group], tables.system[targets.group]
    row = torch.arange(len(p), device=p.device)
    cell, cell_spread = readout.cells[row, bravais], readout.cell_spread[row, bravais]
    off = (cell - targets.cell).abs()
    scalars_off = (readout.scalars - targets.scalars).abs()
    parts = {
        "group": group,
        "system": _nll(p @ tables.in_system, system),
        "bravais": _nll(p @ tables.in_bravais, bravais),
        "cell": off.mean(1),
        "scalars": scalars_off.mean(1),
        "spread": _laplace(off, cell_spread) + _laplace(scalars_off, readout.scalar_spread),
    }
    return sum(_WEIGHTS[name] * part.mean() for name, part in parts.items())


def _nll(probability: Tensor, target: Tensor) -> Tensor:
    return -probability.gather(1, target[:, None])[:, 0].clamp_min(1e-8).log()


def _laplace(error: Tensor, ln_spread: Tensor) -> Tensor:
    return (error.detach() * torch.exp(-ln_spread) + ln_spread).mean(1)

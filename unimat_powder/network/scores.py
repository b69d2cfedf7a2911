"""What the network says of patterns whose crystals are known in, how often it is right out."""

from __future__ import annotations

import torch
from torch import Tensor

from unimat_powder.network.composition import composition_features
from unimat_powder.network.groups import group_tables
from unimat_powder.network.reader import CELL, Reader, Readout
from unimat_powder.network.samples import Targets
from unimat_powder.network.views import Views

SETTINGS = ("pattern", "elements", "formula")
"""What is known beside the pattern, in the order of :mod:`.composition`'s numbers."""


@torch.no_grad()
def read_all(
    model: Reader, views: Views, fractions: Tensor, known: int, *, batch_size: int = 256
) -> Readout:
    """Read many patterns in batches; ``known`` as of :mod:`.composition`."""
    model.eval()
    parts = []
    for first in range(0, len(fractions), batch_size):
        some = slice(first, first + batch_size)
        share = fractions[some]
        kind = torch.full((len(share),), known, device=share.device)
        parts.append(model(Views(*(x[some] for x in views)), composition_features(share, kind)))
    return Readout(*map(torch.cat, zip(*parts, strict=True)))


def likeliest_cells(readout: Readout) -> Tensor:
    """Cell of the likeliest Bravais lattice, ln of lengths and cosines, ``[B, 6]``."""
    tables = group_tables(readout.groups.device)
    best = (readout.groups.softmax(1) @ tables.in_bravais).argmax(1)
    return readout.cells.gather(1, best[:, None, None].expand(-1, 1, CELL))[:, 0]


def scores(readout: Readout, targets: Targets) -> dict[str, float]:
    """Shares of right answers, and errors.

    Returns:
        ``system`` and ``group``: share of patterns whose likeliest crystal system (7) and space
        group are right; ``length``: mean relative error of lengths of the Niggli cell, sorted;
        ``volume`` and ``number_density``: median relative errors.
    """
    tables = group_tables(readout.groups.device)
    p = readout.groups.softmax(1)
    system = (p @ tables.in_system).argmax(1) == tables.system[targets.group]
    cell = likeliest_cells(readout)
    lengths, true = (x[:, :3].exp().sort(1).values for x in (cell, targets.cell))
    off = (readout.scalars - targets.scalars).abs().exp() - 1
    return {
        "system": system.float().mean().item(),
        "group": (p.argmax(1) == targets.group).float().mean().item(),
        "length": (lengths / true - 1).abs().mean().item(),
        "volume": off[:, 0].median().item(),
        "number_density": off[:, 1].median().item(),
    }

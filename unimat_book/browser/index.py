"""Crystals in, a compact index of their strongest lines out, as tensors for a browser."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.processes import unordered
from unimat_lib.views.bragg import scattering_parameters
from unimat_powder.library.lines import DELTA, G_START, line_index, shown_weight

KEPT = 24  #: lines of a crystal: the strongest that a Cu pattern from 5 to 90 degrees shows
_CHUNK = 500  # crystals per piece of work: about a second
LENGTH, ANGLE = 1000, 100  #: steps per angstrom and per degree


def browser_index(table: CrystalTable, *, workers: int = 1) -> dict[str, Tensor]:
    """Strongest lines, cells and names of crystals.

    Args:
        table: Crystals in Niggli-reduced cells.
        workers: Processes.

    Raises:
        ValueError: A cell is longer than the index can say.

    Returns:
        ``counts`` (uint8 ``[C]``, lines of each crystal), ``position`` (uint16 ``[L]``, steps of
        :data:`.DELTA` of ln(g / :data:`.G_START`), rising within a crystal), ``height`` (uint8
        ``[L]``, root of the intensity in a Cu pattern over the crystal's largest, times 255),
        ``cell`` (uint16 ``[C, 6]``, thousandths of an angstrom and hundredths of a degree),
        ``space_group`` (uint8 ``[C]``) and ``names`` (uint8, UTF-8 text: a line for each crystal
        with formula and material id, parted by a tab). Crystals without any line, or of elements
        without X-ray scattering parameters, are left out.
    """
    unknown = scattering_parameters()[:, 0, 0].isnan()[table.atomic_numbers]
    keep = torch.ones(len(table), dtype=torch.bool)
    keep[table.atom_crystal[unknown]] = False
    table = table.select(keep)
    cell = torch.cat([table.lengths * LENGTH, table.angles * ANGLE], 1).round()
    if len(cell) and cell.max() > np.iinfo(np.uint16).max:
        raise ValueError("expected cells of at most 65 angstrom, but a longer one came")
    counts, position, height = _lines(table, workers)
    table, cell = table.select(counts > 0), cell[counts > 0]
    names = "\n".join(
        table.info["formula"].astype(str) + "\t" + table.info["material_id"].astype(str)
    )
    return {
        "counts": counts[counts > 0].to(torch.uint8),
        "position": position,
        "height": height,
        "cell": cell.to(torch.uint16),
        "space_group": table.space_group.to(torch.uint8),
        "names": torch.from_numpy(np.frombuffer(names.encode(), np.uint8).copy()),
    }


def _lines(table: CrystalTable, workers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Number of lines, positions and heights of all crystals, computed in pieces."""
    jobs = [(place, *part) for place, part in enumerate(_parts(table))]
    pieces = {place: rest for place, *rest in unordered(_piece, jobs, workers=workers)}
    columns = zip(*(pieces[place] for place in range(len(jobs))), strict=True)
    return tuple(torch.from_numpy(np.concatenate(column)) for column in columns)


def _parts(table: CrystalTable) -> Iterator[tuple[pd.DataFrame, list[np.ndarray]]]:
    """Arrays travel between processes; tensors would travel in shared files."""
    for rows in torch.arange(len(table)).split(_CHUNK):
        part = table.select(rows)
        yield part.info, [x.numpy() for x in part._tensors]


def _piece(place: int, info: pd.DataFrame, arrays: list[np.ndarray]) -> tuple:
    numbers, frac, lattice, offsets, *occupancy = (torch.from_numpy(x.copy()) for x in arrays)
    lines = line_index(CrystalTable(numbers, frac, lattice, offsets, info, *occupancy))
    g = G_START * (lines.position.double() * DELTA).exp()
    shown = lines.amplitude.double() * shown_weight(g).sqrt()
    counts, kept, heights = [], [], []
    for start, end in itertools.pairwise(lines.offsets.tolist()):
        own = shown[start:end]
        best = own.topk(min(KEPT, len(own))).indices.sort().values
        height = (own[best] / own.max() * 255).round() if len(own) else own
        best, height = best[height > 0], height[height > 0]
        counts.append(len(best))
        kept.append(start + best)
        heights.append(height)
    rows = torch.cat([torch.zeros(0, dtype=torch.int64), *kept])
    position = lines.position.int()[rows].to(torch.uint16)
    height = torch.cat([torch.zeros(0), *heights]).to(torch.uint8)
    return place, np.array(counts), position.numpy(), height.numpy()

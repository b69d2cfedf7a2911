"""Crystal tables in, what chapter 02 asks of them out: pymatgen, look-alikes, costs."""

import itertools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from unimat_lib.crystals.structures import from_structures
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.batch import MODALITIES, CrystalViews, build_views
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_powder.lines import merged_peaks


class Comparison(NamedTuple):
    """Agreement and speed of the batch simulator and pymatgen's ``XRDCalculator``."""

    checked: int  # crystals compared
    merged_otherwise: int  # crystals with other peaks, because equal angles were rounded apart
    angle_gap: float  # largest difference of a peak position, degrees, on all other crystals
    height_gap: float  # largest difference of a peak height, relative to the crystal's highest
    batch_ms: float  # time per crystal of the batch simulator, milliseconds
    pymatgen_ms: float  # time per crystal of pymatgen, milliseconds


def cube_of_two(
    elements: Sequence[str], edge: float, g_max: float
) -> dict[tuple[int, int, int], float]:
    """The library's squared structure factors of a cube with an atom in corner and centre.

    Args:
        elements: Symbols of the atom in the corner and of the one in the centre.
        edge: Of the cube, angstrom.
        g_max: Largest length of a reciprocal vector, 1/angstrom.

    Returns:
        Electrons squared by indices, which are sorted and not negative; what is extinct is missing.
    """
    from pymatgen.core import Structure

    cube = Structure(edge * np.eye(3), elements, [[0, 0, 0], [0.5, 0.5, 0.5]])
    found = bragg_reflections(from_structures([cube], reduce=False), g_max=g_max)
    indices = [tuple(sorted(map(abs, row))) for row in found.hkl.tolist()]
    return dict(zip(indices, (found.intensity / 2).tolist(), strict=True))


def compare_with_pymatgen(table: CrystalTable, grid: Grid) -> Comparison:
    """Compare the peaks of every crystal of a (small) table with pymatgen's, one by one.

    The grid tells the range of 2theta and the wavelength; its points play no part.
    """
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    span = (grid.two_theta_min, grid.two_theta_max)
    calculator = XRDCalculator(grid.wavelength)
    bragg_reflections(table.select([0]), g_max=g_max_of(grid))  # first calls load tables: not timed
    calculator.get_pattern(table.structure(0), two_theta_range=span)
    start = time.perf_counter()
    reflections = bragg_reflections(table, g_max=g_max_of(grid))
    found = merged_peaks(reflections, wavelength=grid.wavelength, two_theta_range=span)
    ours = time.perf_counter() - start

    theirs, otherwise, angle_gap, height_gap = 0.0, 0, 0.0, 0.0
    for i, (first, last) in enumerate(itertools.pairwise(found.offsets.tolist())):
        structure = table.structure(i)
        start = time.perf_counter()
        pattern = calculator.get_pattern(structure, two_theta_range=span)
        theirs += time.perf_counter() - start
        if len(pattern.x) != last - first:
            otherwise += 1
        elif last > first:
            height = found.intensity[first:last].cpu().numpy()
            angle = found.two_theta[first:last].cpu().numpy()
            angle_gap = max(angle_gap, float(np.abs(pattern.x - angle).max()))
            gap = np.abs(pattern.y / 100 - height / height.max()).max()
            height_gap = max(height_gap, float(gap))
    times = (1000 * seconds / len(table) for seconds in (ours, theirs))
    return Comparison(len(table), otherwise, angle_gap, height_gap, *times)


def view_costs(
    table: CrystalTable, *, batch_size: int, seed: int = 0, **settings: Any
) -> pd.DataFrame:
    """Build each view of a table by itself, cut random batches from it, and say what that took.

    ``seed`` is that of the choice of crystals, ``settings`` go to :func:`.build_views`. One row per
    view: ``view``, ``build_seconds``, ``mebibytes``, ``batch_ms`` and ``incomplete``, the number of
    crystals with an atom without neighbours, or without a peak.
    """
    batches, rows = 10, []
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(table), (batches, batch_size), generator=generator)
    for modality in MODALITIES:
        start = time.perf_counter()
        views = build_views(table, modalities=(modality,), **settings)
        _wait(views.device)
        built = time.perf_counter() - start
        index = index.to(views.device)
        start = time.perf_counter()
        for chosen in index:
            views.batch(chosen, modalities=(modality,))
        _wait(views.device)
        cut = (time.perf_counter() - start) / batches
        stored = next(x for x in (views.graph, views.reflections, views.magpie) if x is not None)
        tensors = [stored] if torch.is_tensor(stored) else list(vars(stored).values())
        size = sum(t.nbytes for t in tensors if torch.is_tensor(t)) / 2**20
        rows.append((modality, built, size, 1000 * cut, _incomplete(views)))
    columns = ["view", "build_seconds", "mebibytes", "batch_ms", "incomplete"]
    return pd.DataFrame(rows, columns=columns)


def _incomplete(views: CrystalViews) -> int:
    if views.graph is not None:
        return len(views.graph.crystal[views.graph.num_neighbors == 0].unique())
    if views.reflections is not None:
        return int((views.reflections.offsets.diff() == 0).sum())
    return 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

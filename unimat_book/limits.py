"""What no model can know: patterns that fit two cells, and cells that nearly coincide.

A lattice has many cells, and its Niggli cell can jump when the lattice changes by a hair. The
lengths of the seven pairs of Voronoi vectors do not: they belong to the lattice, whatever cell it
was given in, and change continuously with it. So lattices are compared by them.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.bragg import Reflections, bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render
from unimat_powder.bravais import niggli_cells, reciprocal_metric

SAME_LATTICE = 0.03  # relative difference of Voronoi vectors up to which two lattices are the same
LARGEST_MULTIPLE = 4
"""Largest index of the sublattices that are compared."""

_MAX_STEPS = 200
_SKETCH = 512  # dimensions of the sketches that choose which patterns are compared
_MARGIN = 0.01  # of a sketch's cosine: its standard deviation at 0.99 is 0.001


def metric_tensors(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Scalar products of the cell vectors, ``[n, 3, 3]``, from lengths and angles (degrees)."""
    cosine = np.ones((len(lengths), 3, 3))
    for k, (i, j) in enumerate(((1, 2), (0, 2), (0, 1))):
        cosine[:, i, j] = cosine[:, j, i] = np.cos(np.radians(angles[:, k]))
    return cosine * lengths[:, :, None] * lengths[:, None, :]


def voronoi_lengths(metric: np.ndarray) -> np.ndarray:
    """Lengths of the seven pairs of Voronoi vectors of lattices, ascending.

    Two cells of one lattice give the same seven numbers; two lattices do so by rare coincidence
    only. They follow from Selling's reduction: of four vectors that sum to zero, no two may make
    an acute angle.

    Args:
        metric: Positive definite ``[n, 3, 3]``, see :func:`metric_tensors`.

    Returns:
        ``[n, 7]`` in the unit of the cell.

    Raises:
        ValueError: If a metric is not positive definite (no cell has it), is too skewed for double
            precision, or its reduction does not converge.

    Source: Conway and Sloane, Proc. R. Soc. A 436, 55 (1992).
    """
    metric = np.asarray(metric, dtype=float)
    size = np.sqrt(np.clip(metric.diagonal(axis1=1, axis2=2), 1e-300, None))
    cosines = metric / size[:, :, None] / size[:, None, :]
    # Rounding moves the lengths by about 1e-16 over the smallest eigenvalue.
    if not np.isfinite(metric).all() or (np.linalg.eigvalsh(cosines) <= 1e-10).any():
        raise ValueError(
            "expected positive definite metrics, got one that no cell has or that is too skewed "
            "for double precision: give reduced cells, or leave those crystals out"
        )
    closed = np.concatenate([np.eye(3), -np.ones((1, 3))])  # the fourth vector closes the sum
    gram = closed @ _pair_reduced(metric) @ closed.T  # [n, 4, 4]
    pairs = list(itertools.combinations(range(4), 2))
    rows, columns = np.array(pairs).T
    steps = np.stack([_selling_step(*pair) for pair in pairs])  # [6, 4, 4]
    slack = 1e-9 * np.trace(gram, axis1=1, axis2=2)
    for _ in range(_MAX_STEPS):  # each step shortens a vector
        products = gram[:, rows, columns]  # [n, 6]
        acute = products.max(axis=1, initial=-np.inf) > slack
        if not acute.any():
            break
        step = steps[products[acute].argmax(axis=1)]
        gram[acute] = step @ gram[acute] @ step.transpose(0, 2, 1)
    else:
        raise ValueError(
            f"{_MAX_STEPS} steps did not reduce {acute.sum()} cells: reduce them first"
        )
    singles = gram.diagonal(axis1=1, axis2=2)  # [n, 4]
    sums = singles[:, :1] + singles[:, 1:] + 2 * gram[:, 0, 1:]  # [n, 3]
    return np.sort(np.sqrt(np.concatenate([singles, sums], axis=1)), axis=1)


def _selling_step(i: int, j: int) -> np.ndarray:
    """Turn vector ``i`` round and add it to the two others than ``j``; the sum stays zero."""
    step = np.eye(4)
    step[i, i] = -1
    step[[k for k in range(4) if k not in (i, j)], i] = 1
    return step


def _pair_reduced(metric: np.ndarray) -> np.ndarray:
    """Metrics of the same lattices in which no vector shortens another one, ``[n, 3, 3]``.

    Whole multiples are subtracted, as in Euclid's algorithm. Selling's steps subtract once at a
    time, which takes thousands of them in a very skewed cell.
    """
    metric = metric.copy()
    i, j = np.array(list(itertools.permutations(range(3), 2))).T  # [6]
    for _ in range(_MAX_STEPS):
        square, product = metric.diagonal(axis1=1, axis2=2), metric[:, i, j]  # [n, 3], [n, 6]
        times = np.round(product / square[:, j])
        gain = times * (2 * product - times * square[:, j]) / square[:, i]  # of v_i - times v_j
        rows = np.flatnonzero(gain.max(axis=1) > 1e-9)
        if not len(rows):
            return metric
        best = gain[rows].argmax(axis=1)
        change = np.tile(np.eye(3), (len(rows), 1, 1))
        change[np.arange(len(rows)), i[best], j[best]] = -times[rows, best]
        metric[rows] = change @ metric[rows] @ change.transpose(0, 2, 1)
    raise ValueError(f"{_MAX_STEPS} steps did not reduce {len(rows)} cells: reduce them first")


def sublattices(index: int) -> np.ndarray:
    """All sublattices of an index as integer matrices ``[s, 3, 3]``, rows in the old axes."""
    found = []
    for a, d in itertools.product(range(1, index + 1), repeat=2):
        if index % (a * d) == 0:
            f = index // (a * d)
            for b, c, e in itertools.product(range(d), range(f), range(f)):
                found.append([[a, b, c], [0, d, e], [0, 0, f]])
    return np.array(found)


def lattice_multiple(metric: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Whether lattices are those of reference cells, or whole multiples or parts of them.

    Both metrics are ``[n, 3, 3]``. The result is int64 ``[n]``: 1 where both are the same lattice,
    ``m`` where the first is a sublattice of index ``m`` of the reference (its cell is ``m`` times
    too large), ``-m`` where it is the other way round, 0 where it is neither, for ``m`` up to
    ``LARGEST_MULTIPLE``.
    """
    multiple = np.zeros(len(metric), dtype=np.int64)
    here, there = voronoi_lengths(metric), voronoi_lengths(reference)
    for m in range(LARGEST_MULTIPLE, 0, -1):  # the smallest that fits stays
        change = sublattices(m)  # [s, 3, 3]
        for sign, of, target in ((-m, metric, there), (m, reference, here)):
            larger = change @ of[:, None] @ change.transpose(0, 2, 1)  # [n, s, 3, 3]
            lengths = voronoi_lengths(larger.reshape(-1, 3, 3)).reshape(len(of), len(change), 7)
            gap = np.abs(lengths / target[:, None] - 1).max(axis=2).min(axis=1)  # [n]
            multiple[gap <= SAME_LATTICE] = sign
    return multiple


def niggli_jumps(table: CrystalTable, *, strain: float = 1e-4, seed: int = 0) -> pd.DataFrame:
    """How far the Niggli cells of ``C`` crystals move under a small random symmetric strain.

    ``C`` rows: ``length``, the largest relative change of a length, and ``angle``, the largest
    change of an angle in degrees, both of the reduced cells. What changes smoothly changes by about
    the strain.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = strain * (2 * torch.rand(len(table), 3, 3, generator=generator).double() - 1)
    stretch = torch.eye(3, dtype=torch.float64) + (noise + noise.mT) / 2
    moved = dataclasses.replace(table, lattice=table.lattice @ stretch)
    before, after = (niggli_cells(reciprocal_metric(x.lengths, x.angles)) for x in (table, moved))
    change = (after - before).abs()
    return pd.DataFrame(
        {
            "length": (change[:, :3] / before[:, :3]).amax(1).numpy(),
            "angle": change[:, 3:].amax(1).numpy(),
        }
    )


def lookalikes(
    table: CrystalTable, rows: Sequence, grid: Grid, *, fwhm: float, cosine: float, ratio: float
) -> pd.DataFrame:
    """For ``n`` crystals, another one of the table with nearly the same pattern and another cell.

    All patterns are compared by random sketches first, and only pairs that come close in full.

    Args:
        table: The gallery.
        rows: Crystals to look at, ``[n]``.
        grid: Where the clean patterns are drawn.
        fwhm: Their peak width, degrees.
        cosine: Patterns are nearly the same if their cosine is above this.
        ratio: Cells differ if the quotient of one of their lengths is beyond this, such as 1.05.

    Returns:
        ``n`` rows: ``row`` of the nearest such crystal (-1: there is none), ``cosine`` (NaN) and
        ``gap``, the mean difference of the three scaled lengths in angstrom (0).

    Raises:
        ValueError: If ``cosine`` or ``ratio`` make no sense.

    Source: sketches, Johnson and Lindenstrauss, Contemp. Math. 26, 189 (1984).
    """
    if not 0 < cosine < 1 or ratio <= 1:
        raise ValueError(f"expected a cosine in (0, 1) and a ratio above 1, got {cosine}, {ratio}")
    rows = torch.as_tensor(np.asarray(rows), dtype=torch.int64)
    reflections = bragg_reflections(table, g_max=g_max_of(grid))
    sketch = _sketches(reflections, grid, fwhm)
    logs = table.lengths.log().float()
    found = pd.DataFrame({"row": -1, "cosine": np.nan, "gap": 0.0}, index=range(len(rows)))
    pairs = []
    for some in torch.arange(len(rows)).split(512):
        near = sketch[rows[some]] @ sketch.T > cosine - _MARGIN  # [B, C]
        query, other = near.nonzero().T
        query = some[query]
        differ = (logs[rows[query]] - logs[other]).abs().amax(1) > math.log(ratio)
        pairs.append(torch.stack([query, other])[:, differ])
    query, other = torch.cat(pairs, dim=1)
    exact = _cosines(reflections, rows[query], other, grid, fwhm)
    scaled = table.scaled_lengths
    order = torch.argsort(exact)  # the most similar one is written last
    for i, j, value in zip(*(x[order].tolist() for x in (query, other, exact)), strict=True):
        if value > cosine:
            gap = float((scaled[rows[i]] - scaled[j]).abs().mean())
            found.loc[i] = (j, value, gap)
    return found.astype({"row": np.int64})


def _unit_patterns(reflections: Reflections, rows: Tensor, grid: Grid, fwhm: float) -> Tensor:
    return torch.nn.functional.normalize(render(reflections, rows, grid, fwhm=fwhm), dim=1)


def _sketches(reflections: Reflections, grid: Grid, fwhm: float) -> Tensor:
    """Random projections of all patterns, unit vectors ``[C, _SKETCH]``."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(grid.num_points, _SKETCH, generator=generator)
    rows = torch.arange(len(reflections.offsets) - 1)
    parts = [_unit_patterns(reflections, x, grid, fwhm) @ directions for x in rows.split(2048)]
    return torch.nn.functional.normalize(torch.cat(parts), dim=1)


def _cosines(
    reflections: Reflections, first: Tensor, second: Tensor, grid: Grid, fwhm: float
) -> Tensor:
    found = torch.zeros(len(first), dtype=torch.float64)
    for some in filter(len, torch.arange(len(first)).split(1024)):
        a, b = (_unit_patterns(reflections, x[some], grid, fwhm) for x in (first, second))
        found[some] = (a * b).sum(dim=1).double()
    return found

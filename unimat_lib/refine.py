"""Physics at test time: from a predicted unit cell and the observed peaks to an exact cell.

A network reads a cell off a powder pattern to a few per cent. The positions of the peaks know it to
parts in ten thousand, if one knows which peak is which. :func:`refine_cells` lets
:mod:`unimat_lib.indexing` list cells that explain the peaks and weighs fit against the network's
prediction. :func:`refine_frame` does this for a file of predictions, and carries what the exact
cell says over to the two other things predicted: the scaled lengths, through the number of atoms,
and the crystal system.

The true number of atoms is never used. It is estimated from the exact volume, the network's volume
per atom, and how often training crystals of such a lattice (and such a formula, where one is given)
have each number.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib.crystals import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.evaluate import (
    CELL_COLUMNS,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
    with_relative_errors,
)
from unimat_lib.indexing import (
    BRAVAIS_LATTICES,
    OUTLIER,
    ObservedPeaks,
    PeaksInQ,
    find_peaks,
    fit_cells,
    free_numbers,
    in_q,
    metric_determinant,
    niggli_cells,
    reciprocal_metric,
    search_cells,
)
from unimat_lib.views import CrystalViews

_LENGTH_ERROR = 0.05  # typical (median) relative error of the predicted lengths
_ANGLE_ERROR = 3.0  # typical error of the predicted angles, degrees
_COMPARED = 6  # best cells of each pattern that are compared with the prediction
_MARGIN = 10.0  # by how much a refined cell must score better than the prediction
_METRIC_TOLERANCE = 1e-3  # relative deviation of a metric from symmetry that counts as none
_AT_ONCE = {"cpu": 64, "cuda": 2048}  # crystals of a file that are refined together
_TEMPER = 0.6  # exponent of the network's probabilities: they know a part of the metric already
_COUNT_ERROR = 0.08  # typical error of the logarithm of an estimated number of atoms
_VOLUME_TRUST = 0.9  # share of the exact volume, against the network's own, in that estimate


class RefinedCells(NamedTuple):
    """Cells of ``B`` crystals after the search.

    Attributes:
        lengths: float64 ``[B, 3]``, a, b, c in angstrom.
        angles: float64 ``[B, 3]``, alpha, beta, gamma in degrees.
        score: float64 ``[B]``, of the best cell found, see :func:`refine_cells`.
        accepted: bool ``[B]``; where false, lengths and angles are the prediction itself.
        system: int64 ``[B]``, crystal system that the metric of the best cell suggests (trigonal
            and hexagonal cells of a primitive hexagonal lattice look alike and come as hexagonal).
        explained: float64 ``[B]``, share of the peaks that the best cell explains.
    """

    lengths: Tensor
    angles: Tensor
    score: Tensor
    accepted: Tensor
    system: Tensor
    explained: Tensor


def _volume(lengths: Tensor, angles: Tensor) -> Tensor:
    """Volumes ``[B]``; where the predicted angles close no cell, that of a typical one."""
    inverse = metric_determinant(reciprocal_metric(lengths, angles)).sqrt()
    typical = 0.8 * lengths.prod(1)
    return torch.where(inverse > 0, 1 / inverse, typical).maximum(0.25 * typical)


def refine_cells(
    lengths: Tensor,
    angles: Tensor,
    peaks: ObservedPeaks,
    *,
    system_probs: Tensor | None = None,
) -> RefinedCells:
    """Replace predicted cells by ones that explain the observed peaks, where there is one.

    The score of a cell is the log-likelihood ratio of the peaks (see
    :func:`unimat_lib.indexing.fit_cells`) plus the logarithm of how far the network's errors make
    such a cell likely: its crystal system's probability, and a heavy-tailed law of lengths and
    angles around the prediction. The best cell
    replaces the prediction if it explains four fifths of the peaks, scores better than chance, and
    clearly better than the prediction; otherwise the prediction comes back unchanged.

    Args:
        lengths: Predicted a, b, c of the Niggli cell in angstrom, ``[B, 3]``.
        angles: Predicted alpha, beta, gamma in degrees, ``[B, 3]``; they need not close a cell.
        peaks: Observed peaks, see :func:`find_peaks`; their order within a row does not matter.
        system_probs: Predicted probabilities in the order of ``CRYSTAL_SYSTEMS``, ``[B, 7]``.

    Raises:
        ValueError: Shapes do not fit, or predictions are not finite or not positive.
    """
    _check_input(lengths, angles, peaks, system_probs)
    dtype, device = torch.float64, peaks.two_theta.device
    lengths, angles = lengths.to(device, dtype), angles.to(device, dtype)
    peaks = _sorted(peaks)
    observed = in_q(peaks)
    before = _score_before(observed, lengths, angles)
    unchanged = RefinedCells(
        lengths=lengths,
        angles=angles,
        score=before,
        accepted=torch.zeros(len(lengths), dtype=torch.bool, device=device),
        system=torch.full((len(lengths),), -1, device=device),
        explained=torch.zeros_like(before),
    )
    found = search_cells(observed, _volume(lengths, angles))
    if found is None:
        return unchanged
    prior = _log_system(system_probs, len(lengths), device)[found.pattern, found.lattice]
    score = found.fit.score + prior

    # The best few of each pattern, in Niggli form, against the predicted cell.
    order = _best_of_each(found.pattern, score, found.lattice, count=_COMPARED)
    pattern, score = found.pattern[order], score[order]
    cell = niggli_cells(found.fit.metric[order])
    apart = torch.cat(
        [
            (cell[:, :3] / lengths[pattern]).log() / _LENGTH_ERROR,
            (cell[:, 3:] - angles[pattern]) / _ANGLE_ERROR,
        ],
        dim=1,
    )
    weight = torch.tensor([1, 1, 1, 0.5, 0.5, 0.5], dtype=dtype, device=device)
    independent = free_numbers(device)[found.lattice[order]].clamp_max(3) / 3
    score = score - independent * (weight * torch.log1p(apart.square())).sum(1)
    best = _best_of_each(pattern, score, found.lattice[order], count=1)
    row, chosen = pattern[best], order[best]

    score_after = before.clone().index_copy(0, row, score[best])
    explained = unchanged.explained.index_copy(0, row, found.fit.explained[chosen])
    system = unchanged.system.index_copy(0, row, _system_of(device)[found.lattice[chosen]])
    accepted = (score_after > before + _MARGIN) & (score_after > 0) & (explained >= 0.8)
    refined = torch.cat([lengths, angles], 1).index_copy(0, row, cell[best])
    return RefinedCells(
        lengths=torch.where(accepted[:, None], refined[:, :3], lengths),
        angles=torch.where(accepted[:, None], refined[:, 3:], angles),
        score=score_after,
        accepted=accepted,
        system=system,
        explained=explained,
    )


def _best_of_each(pattern: Tensor, score: Tensor, lattice: Tensor, *, count: int) -> Tensor:
    """Which of ``M`` cells are the best ``count`` of their pattern, by pattern and falling score.

    A cell that was reached from several starts counts once.
    """
    order = score.argsort(descending=True, stable=True)
    order = order[pattern[order].argsort(stable=True)]
    again = torch.zeros_like(order, dtype=torch.bool)
    again[1:] = (pattern[order].diff() == 0) & (lattice[order].diff() == 0)
    again[1:] &= score[order].diff().abs() < 0.02
    order = order[~again]
    counts = torch.bincount(pattern[order])
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=order.device) - first[pattern[order]]
    return order[rank < count]


def _score_before(observed: PeaksInQ, lengths: Tensor, angles: Tensor) -> Tensor:
    """Score ``[B]`` of the prediction as it stands, without any prior against it."""
    score = observed.mask.sum(1) * math.log(OUTLIER)  # a cell that explains nothing
    metric = reciprocal_metric(lengths, angles)
    good = (metric_determinant(metric) > 0) & observed.mask.any(1)
    row = good.nonzero()[:, 0]
    if not len(row):
        return score.double()
    lattice = torch.full_like(row, len(BRAVAIS_LATTICES) - 1)
    fit = fit_cells(metric[row], lattice, row, observed, tolerances=())
    return score.double().index_copy(0, row, fit.score)


_FAMILY_SYSTEMS = {
    ("hexagonal", "P"): ("hexagonal", "trigonal"),
    ("hexagonal", "R"): ("trigonal",),
}


def _systems(lattice: int) -> list[int]:
    """Crystal systems that a Bravais lattice can belong to, the usual one first."""
    name = BRAVAIS_LATTICES[lattice]
    return [CRYSTAL_SYSTEMS.index(s) for s in _FAMILY_SYSTEMS.get(name, (name[0],))]


def _system_of(device: torch.device) -> Tensor:
    """The usual crystal system of each Bravais lattice, int64 ``[14]``."""
    return torch.tensor([_systems(i)[0] for i in range(len(BRAVAIS_LATTICES))], device=device)


def _log_system(system_probs: Tensor | None, count: int, device: torch.device) -> Tensor:
    """Log-probability ``[B, 14]`` of each Bravais lattice's crystal systems; never hopeless."""
    if system_probs is None:
        return torch.zeros(count, len(BRAVAIS_LATTICES), dtype=torch.float64, device=device)
    probs = system_probs.to(device, torch.float64)
    of_lattice = [probs[:, _systems(i)].sum(1) for i in range(len(BRAVAIS_LATTICES))]
    return torch.stack(of_lattice, 1).clamp(1e-3, 1).log()


def _sorted(peaks: ObservedPeaks) -> ObservedPeaks:
    """By rising angle, those that are none last."""
    key = torch.where(peaks.mask, peaks.two_theta.double(), math.inf)
    order = key.argsort(dim=1, stable=True)
    rows = (each.gather(1, order) for each in peaks[:4])
    return ObservedPeaks(*rows, peaks.wavelength)


def _check_input(
    lengths: Tensor, angles: Tensor, peaks: ObservedPeaks, system_probs: Tensor | None
) -> None:
    batch = len(peaks.two_theta)
    wanted = {"lengths": (lengths, 3), "angles": (angles, 3), "system_probs": (system_probs, 7)}
    for name, (value, width) in wanted.items():
        if value is None:
            continue
        if tuple(value.shape) != (batch, width):
            raise ValueError(
                f"expected {name} of shape [{batch}, {width}] for the peaks of {batch} patterns, "
                f"got {tuple(value.shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"expected finite {name}: repair or leave out the broken predictions")
    if bool((lengths <= 0).any()):
        raise ValueError(f"expected positive lengths in angstrom, the least is {lengths.min():.3g}")


# ------------------------------------------------------------------------------- lattice systems

LATTICE_SYSTEMS = {
    "triclinic": 1,
    "monoclinic": 2,
    "orthorhombic": 4,
    "rhombohedral": 6,
    "tetragonal": 8,
    "hexagonal": 12,
    "cubic": 24,
}
"""Lattice systems and how many rotations map such a lattice onto itself, by rising number."""


@functools.cache
def _rotation_changes(device: torch.device) -> Tensor:
    """``[9, 6, 792]``: how metrics change under all that may be rotations of a reduced lattice.

    A rotation W of a lattice is a matrix of whole numbers, for Niggli-reduced cells of -1, 0 and 1.
    The change W' G W - G is linear in the nine entries of G; of its own, six differ.
    """
    steps = torch.arange(-1.0, 2.0, dtype=torch.float64)
    every = torch.cartesian_prod(*[steps] * 9).unflatten(1, (3, 3))
    every = every[torch.linalg.det(every).round() == 1]
    one = torch.eye(3, dtype=torch.float64)
    order12 = torch.linalg.matrix_power(every, 12)  # rotations of a lattice: order 1, 2, 3, 4, 6
    every = every[(order12 == one).all(2).all(1)]
    change = torch.einsum("wki,wlj->klijw", every, every)
    change = change - torch.einsum("ki,lj->klij", one, one)[..., None]
    i, j = torch.triu_indices(3, 3)
    return change[:, :, i, j].flatten(0, 1).to(device)


def lattice_system(
    lengths: Tensor, angles: Tensor, *, tolerance: float = _METRIC_TOLERANCE
) -> Tensor:
    """Lattice systems of reduced cells, from how many rotations leave the metric alone.

    Args:
        lengths: a, b, c of Niggli cells, ``[B, 3]``.
        angles: alpha, beta, gamma in degrees, ``[B, 3]``.
        tolerance: Largest change of an entry of the metric, as a part of the two lengths' product.

    Returns:
        Places in ``LATTICE_SYSTEMS``, int64 ``[B]``.
    """
    lengths, cosine = lengths.double(), torch.deg2rad(angles.double()).cos()
    one = torch.ones_like(cosine[:, 0])
    (x, y, z), (a, b, c) = cosine.unbind(1), lengths.unbind(1)
    scale = torch.stack([a * a, a * b, a * c, b * b, b * c, c * c], 1)  # [B, 6]
    six = scale * torch.stack([one, z, y, one, x, one], 1)
    metric = six[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]]  # [B, 9]
    changes = _rotation_changes(lengths.device)
    count = torch.zeros_like(one, dtype=torch.int64)
    for some in torch.arange(len(lengths), device=lengths.device).split(512):
        change = torch.einsum("bm,mew->bew", metric[some], changes).abs_()
        kept = (change < tolerance * scale[some][..., None]).all(1)
        count[some] = kept.sum(1)
    numbers = torch.tensor(list(LATTICE_SYSTEMS.values()), device=lengths.device)
    return torch.searchsorted(numbers, count.clamp_min(1), right=True) - 1


# --------------------------------------------------------------- what training crystals look like


class LatticeCounts(NamedTuple):
    """Training crystals, as far as their lattices tell of other things, ``[T]`` each.

    Attributes:
        lattice: Place in ``LATTICE_SYSTEMS``, int64.
        system: Crystal system, int64.
        num_atoms: Atoms in the primitive cell, int64.
        formula_atoms: Atoms in the reduced formula, int64.
    """

    lattice: Tensor
    system: Tensor
    num_atoms: Tensor
    formula_atoms: Tensor

    @classmethod
    def of(cls, table: CrystalTable, rows: Tensor, *, device: torch.device | str) -> LatticeCounts:
        """Count the training crystals of a table.

        Args:
            table: The crystals.
            rows: Rows of the training crystals.
            device: Where to compute and to keep the result.
        """
        rows = rows.cpu()
        part = table.select(rows)
        return cls(
            lattice_system(part.lengths.to(device), part.angles.to(device)),
            part.crystal_system.to(device),
            part.num_atoms.to(device),
            formula_atoms(part.info["formula"]).to(device),
        )

    def log_likelihood(self) -> Tensor:
        """Logarithm of how often crystals of each system have each lattice system, ``[7, 7]``."""
        kinds = len(LATTICE_SYSTEMS)
        place = self.system * kinds + self.lattice
        counts = torch.bincount(place, minlength=len(CRYSTAL_SYSTEMS) * kinds) + 0.5
        counts = counts.double().unflatten(0, (-1, kinds))
        return (counts / counts.sum(1, keepdim=True)).log()

    def log_prior(self, lattice: Tensor, formula: Tensor | None) -> Tensor:
        """Logarithm of how likely each number of atoms is, ``[B, n]`` for 1 ... n atoms.

        Where few training crystals are alike in lattice and formula, those alike in less count.

        Args:
            lattice: Places in ``LATTICE_SYSTEMS``, ``[B]``.
            formula: Atoms in the reduced formulas ``[B]``, or ``None`` where they are unknown.
        """
        most = 2 * int(self.num_atoms.max())
        if formula is not None:
            most = max(most, int(formula.max()))
        kinds = len(LATTICE_SYSTEMS)

        def counts(which: Tensor) -> Tensor:  # by lattice system, [7, n]
            place = self.lattice[which] * (most + 1) + self.num_atoms[which]
            table = torch.bincount(place, minlength=kinds * (most + 1)).double()
            return table.unflatten(0, (kinds, most + 1))[:, 1:]

        every = counts(torch.ones_like(self.lattice, dtype=torch.bool))
        general = every.sum(0) + 0.1
        general = general / general.sum()
        if formula is None:
            return _log_share(every + 50 * general)[lattice]
        number = torch.arange(1, most + 1, device=lattice.device)
        result = torch.empty(len(lattice), most, dtype=torch.float64, device=lattice.device)
        for atoms in formula.unique().tolist():  # a few dozen
            alike = counts(self.formula_atoms == atoms)
            whole = (number % atoms == 0) * (general + 1e-4)
            size = alike.sum(0) + 2 * whole / whole.sum()
            here = formula == atoms
            result[here] = _log_share(alike + 3 * size / size.sum())[lattice[here]]
        return result


def _log_share(counts: Tensor) -> Tensor:
    return (counts / counts.sum(-1, keepdim=True)).clamp_min(1e-12).log()


def formula_atoms(formulas: Sequence[str]) -> Tensor:
    """Atoms in reduced formulas, int64 ``[B]``: 3 for TiO2."""
    from pymatgen.core import Composition

    atoms = {name: round(Composition(name).num_atoms) for name in set(formulas)}
    return torch.tensor([atoms[name] for name in formulas], dtype=torch.int64)


def system_posterior(probs: Tensor, lattice: Tensor, counts: LatticeCounts) -> Tensor:
    """Crystal-system probabilities ``[B, 7]`` of a network, given the exact cell's lattice system.

    Args:
        probs: The network's probabilities ``[B, 7]``.
        lattice: Places in ``LATTICE_SYSTEMS``, ``[B]``.
        counts: Training crystals, which say how often a crystal of lower symmetry has such a
            lattice. The network's probabilities enter with an exponent below one, since it has
            seen a part of the same evidence; fitted on validation crystals.
    """
    score = _TEMPER * probs.clamp_min(1e-6).log() + counts.log_likelihood()[:, lattice].T
    return score.softmax(dim=1)


def estimate_atoms(
    refined: Tensor,
    plain: Tensor,
    scaled: Tensor,
    lattice: Tensor,
    counts: LatticeCounts,
    *,
    formula: Tensor | None = None,
) -> Tensor:
    """Number of atoms in exact cells, int64 ``[B]``; the true one is no argument.

    The exact cell over the network's scaled one is the cube root of the number, up to the network's
    error. A Student law of that error times the prior of the training crystals makes a posterior,
    whose median is returned: it makes the expected absolute error of a scaled length smallest.

    Args:
        refined: Lengths of the exact cells ``[B, 3]``.
        plain: The network's lengths ``[B, 3]``.
        scaled: The network's scaled lengths ``[B, 3]``.
        lattice: Places in ``LATTICE_SYSTEMS`` of the exact cells, ``[B]``.
        counts: Training crystals.
        formula: Atoms in the reduced formulas ``[B]``, where the model was given formulas.
    """
    guess = (_VOLUME_TRUST * refined.log() + (1 - _VOLUME_TRUST) * plain.clamp_min(1.0).log()).sum(
        1
    )
    guess = guess - scaled.clamp_min(0.1).log().sum(1)  # [B], logarithm of the number
    prior = counts.log_prior(lattice, formula)
    number = torch.arange(1, prior.shape[1] + 1, device=prior.device)
    z = (number.double().log() - guess[:, None]) / _COUNT_ERROR
    posterior = (prior - 2 * torch.log1p(z.square() / 3)).softmax(dim=1)  # 3 degrees of freedom
    return 1 + (posterior.cumsum(1) < 0.5).sum(1).clamp_max(prior.shape[1] - 1)


# -------------------------------------------------------------------------------- prediction files


def refine_frame(
    frame: pd.DataFrame,
    views: CrystalViews,
    index: Tensor,
    *,
    counts: LatticeCounts,
    formulas: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Refine the cells of an errors frame against the crystals' clean patterns.

    Where a cell is accepted, its lengths and angles replace the predicted ones, the scaled lengths
    follow through :func:`estimate_atoms` and the probabilities of the crystal system through
    :func:`system_posterior`. The truth (errors, ``num_atoms``, ``crystal_system``) is read only to
    say afterwards how far off the new numbers are.

    Args:
        frame: Errors frame, see :func:`unimat_lib.evaluate.predict`.
        views: Views that hold the reflections of the crystals.
        index: Rows of the frame's crystals in ``views``, ``[B]``.
        counts: Training crystals.
        formulas: Reduced formulas ``[B]``, for a model that was given them.

    Returns:
        A frame of the same columns, and ``accepted`` (bool) and ``explained`` (share of the peaks
        that the best cell explains), which prediction files do not keep.

    Raises:
        ValueError: Frame, index and formulas do not have one length, or columns are missing.
    """
    _check_frame(frame, index, formulas)
    device = views.device
    columns = [*CELL_COLUMNS, *SCALED_COLUMNS, *PROBABILITY_COLUMNS]
    values = torch.tensor(frame[columns].to_numpy(float), device=device)
    cells, plain_scaled, probs = values.split([6, 3, 7], dim=1)
    formula = None if formulas is None else formula_atoms(list(formulas)).to(device)
    parts = []
    for rows in torch.arange(len(frame), device=device).split(_AT_ONCE[device.type]):
        pattern = views.batch(index.to(device)[rows], modalities=("xrd",)).views["xrd"]
        # A network may answer with a length that is none: for the search a small one will do.
        start = cells[rows, :3].clamp_min(1.0)
        peaks = find_peaks(pattern, views.grid)
        refined = refine_cells(start, cells[rows, 3:], peaks, system_probs=probs[rows])
        parts.append((refined.lengths, refined.angles, refined.accepted, refined.explained))
    lengths, angles, accepted, explained = (torch.cat(x) for x in zip(*parts, strict=True))

    new = accepted[:, None]
    lattice = lattice_system(lengths, angles)
    atoms = estimate_atoms(lengths, cells[:, :3], plain_scaled, lattice, counts, formula=formula)
    exact = torch.cat([lengths, angles, lengths / atoms.double().pow(1 / 3)[:, None]], dim=1)
    values = torch.where(new, exact, values[:, :9])
    probs = torch.where(new, system_posterior(probs, lattice, counts), probs)
    after = _with_predictions(frame, values.cpu().numpy(), probs.cpu().numpy())
    return after.assign(accepted=accepted.cpu().numpy(), explained=explained.cpu().numpy())


def _with_predictions(frame: pd.DataFrame, cells: np.ndarray, probs: np.ndarray) -> pd.DataFrame:
    """The frame with other predictions, its errors counted anew."""
    names = [*CELL_COLUMNS, *SCALED_COLUMNS]
    errors = [f"error_{name}" for name in names]
    true = frame[names].to_numpy(float) - frame[errors].to_numpy(float)
    columns = dict(zip(names, cells.T, strict=True))
    columns |= dict(zip(errors, (cells - true).T, strict=True))
    columns |= dict(zip(PROBABILITY_COLUMNS, probs.T, strict=True))
    return with_relative_errors(frame.assign(**columns, predicted_system=probs.argmax(axis=1)))


def _check_frame(frame: pd.DataFrame, index: Tensor, formulas: Sequence[str] | None) -> None:
    sizes = {"frame": len(frame), "index": len(index)}
    if formulas is not None:
        sizes["formulas"] = len(formulas)
    if len(set(sizes.values())) > 1 or not len(frame):
        raise ValueError(f"expected one row per crystal in each, at least one, got {sizes}")
    wanted = [*CELL_COLUMNS, *SCALED_COLUMNS, *PROBABILITY_COLUMNS]
    missing = [name for name in wanted if name not in frame or f"error_{name}" not in frame]
    missing = [name for name in missing if not name.startswith("p_") or name not in frame]
    if missing:
        raise ValueError(f"expected an errors frame of evaluate.predict, it lacks {missing}")


FAILURES = ("prediction kept", "multiple of the volume", "same volume, another cell", "other cell")
"""What may have happened where a cell is not within one per cent, see :func:`failure_kinds`."""


def failure_kinds(frame: pd.DataFrame) -> pd.Series:
    """What happened to each crystal of a refined frame: an entry of ``FAILURES``, or "found".

    A cell whose volume is a whole multiple or part of the true one (to two per cent) has lines
    too many or too few; one of the same volume explains the same peaks with other axes.
    """
    lengths = frame[[f"relative_error_{name}" for name in "abc"]].abs().to_numpy()
    ratio = 1 + frame["relative_error_volume"].to_numpy()
    size = np.maximum(ratio, 1 / np.maximum(ratio, 1e-3))
    kinds = [
        (lengths <= 0.01).all(1),
        ~frame["accepted"].to_numpy(bool),
        (size > 1.5) & (np.abs(size / size.round() - 1) < 0.02),
        size < 1.02,
    ]
    return pd.Series(np.select(kinds, ("found", *FAILURES[:3]), FAILURES[3]), index=frame.index)


def atoms_of(frame: pd.DataFrame) -> np.ndarray:
    """Number of atoms behind the scaled lengths of a refined frame, float ``[B]``.

    Where the prediction was kept, this is the network's own ratio, which need not be whole.
    """
    ratio = frame[list("abc")].to_numpy(float) / frame[list(SCALED_COLUMNS)].to_numpy(float)
    return ratio.prod(axis=1)

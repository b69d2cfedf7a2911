"""What training crystals look like in; the odds of crystal systems and numbers of atoms out.

An exact cell says more than itself: its metric allows some crystal systems only, and its volume,
with the network's volume per atom and how often training crystals of such a lattice (and formula,
where one is given) have each number of atoms, tells that number. The true one is never used.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable
from unimat_powder.bravais import LATTICE_SYSTEMS, lattice_system

_TEMPER = 0.6  # exponent of the network's probabilities: they know a part of the metric already
_COUNT_ERROR = 0.08  # typical error of the logarithm of an estimated number of atoms
_VOLUME_TRUST = 0.9  # share of the exact volume, against the network's own, in that estimate


class LatticeCounts(NamedTuple):
    """Training crystals, as far as their lattices tell of other things, int64 ``[T]`` each."""

    lattice: Tensor  # place in LATTICE_SYSTEMS
    system: Tensor  # crystal system
    num_atoms: Tensor  # in the primitive cell
    formula_atoms: Tensor  # in the reduced formula

    @classmethod
    def of(cls, table: CrystalTable, rows: Tensor, *, device: torch.device | str) -> Self:
        """The training crystals, ``rows`` of a table, on the device to compute on."""
        part = table.select(rows.cpu())
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

        Where few training crystals are alike in lattice (place in ``LATTICE_SYSTEMS``, ``[B]``) and
        formula (its atoms, ``[B]``, if known), those alike in less count.
        """
        most = max(2 * int(self.num_atoms.max()), 0 if formula is None else int(formula.max()))
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

    Training crystals say how often a crystal of lower symmetry has such a lattice. The network's
    probabilities enter with an exponent below one, fitted on validation crystals, since it has seen
    a part of the same evidence.

    Args:
        probs: The network's probabilities ``[B, 7]``.
        lattice: Places in ``LATTICE_SYSTEMS``, ``[B]``.
        counts: Training crystals.
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
    """Number of atoms in exact cells, int64 ``[B]``.

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
    guess = _VOLUME_TRUST * refined.log() + (1 - _VOLUME_TRUST) * plain.clamp_min(1.0).log()
    guess = guess.sum(1) - scaled.clamp_min(0.1).log().sum(1)  # [B], logarithm of the number
    prior = counts.log_prior(lattice, formula)
    number = torch.arange(1, prior.shape[1] + 1, device=prior.device)
    z = (number.double().log() - guess[:, None]) / _COUNT_ERROR
    posterior = (prior - 2 * torch.log1p(z.square() / 3)).softmax(dim=1)  # 3 degrees of freedom
    return 1 + (posterior.cumsum(1) < 0.5).sum(1).clamp_max(prior.shape[1] - 1)

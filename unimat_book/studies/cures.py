"""Cures for low symmetry: losses, targets, heads and further crystals, each alone and together.

Every variant is the grid's plainest cell with one thing changed, trained for the same number of
steps; what is asked is the same test crystals. See :data:`VARIANTS`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unimat_book.grid.cells import GridSettings
from unimat_book.grid.model import GridModel
from unimat_book.grid.train import limited_rows
from unimat_book.grid.views import GridViews
from unimat_book.studies.crystals import FURTHER, further_crystals, made_up_like, strained_copies
from unimat_book.studies.models import fit_config, outcome, plain_model, views_of
from unimat_book.studies.trials import Outcome, Place, Trial
from unimat_lib.crystals.table import (
    CRYSTAL_SYSTEMS,
    CrystalTable,
    concatenate,
    crystal_system_index,
)
from unimat_lib.datasets.mp_extra import apart_from
from unimat_lib.heads import CellScaler, Head
from unimat_lib.model import UniMatOutput
from unimat_lib.training.fit import fit
from unimat_lib.views.batch import Targets

VARIANTS: Mapping[str, str] = {
    "base": "nothing changed",
    "balanced": "class-balanced loss",
    "smoothed": "labels smoothed by tolerance",
    "metric": "metric tensor as target",
    "lattice_first": "lattice first, then system",
    "low_symmetry": "further triclinic and monoclinic crystals",
    "any_symmetry": "as many further crystals of all systems",
    "made_up": "as many made-up crystals",
    "strained": "training crystals strained inside their symmetry",
    "labels": "smoothed labels, and lattice first",
    "together": "all of these but the made-up and the metric",
}
"""What is changed, and how it is called in tables."""

_LOSSES = {"balanced": ("balanced",), "smoothed": ("smoothed",)}
_LOSSES |= {"labels": ("smoothed",), "together": ("balanced", "smoothed")}
_LATTICE_FIRST = ("lattice_first", "labels", "together")
_MORE = {
    "low_symmetry": ("low_symmetry",),
    "any_symmetry": ("any_symmetry",),
    "made_up": ("made_up",),
    "strained": ("strained",),
    "together": ("low_symmetry", "strained"),
}
_SMOOTH = 0.1  # share of a label that goes to the systems that another tolerance would see
_LOW = 2  # crystal systems that count as low: triclinic and monoclinic

FAMILIES = (
    *("aP", "mP", "mC", "oP", "oC", "oF", "oI", "tP", "tI", "hP3", "hR", "hP6", "cP", "cF", "cI"),
)
"""Bravais lattices; the hexagonal one once for trigonal and once for hexagonal crystals."""

_SYSTEM_OF = (0, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 5, 6, 6, 6)  # of each of them
_LATTICES = 14
_HEXAGONAL = (9, 11)  # places of the two that share a lattice


def trials(settings: GridSettings) -> list[Trial]:
    """All variants with each seed, seed by seed."""
    return [Trial("cure", name, seed) for seed in settings.seeds for name in VARIANTS]


class Shared:
    """What the trainings of one process share; each part is made when it is first asked for."""

    def __init__(self, place: Place) -> None:
        self.place, self.table = place, place.table
        self.rows = limited_rows(place.table, place.settings)
        self._last: tuple[tuple[str, ...], GridViews, CrystalTable, Tensor] | None = None

    @functools.cached_property
    def smoothing(self) -> Tensor:
        """Where labels go with a looser tolerance, ``[7, 7]``, rows sum to one."""
        return tolerance_matrix(self.table.select(self.rows[0]))

    def data(self, more: tuple[str, ...]) -> tuple[GridViews, CrystalTable, Tensor]:
        """Views and table with further crystals behind, and the rows to train on, int64."""
        if self._last is None or self._last[0] != more:
            self._last = None  # before the next ones are made: two sets need twice the memory
            extra = [self.further(name) for name in more]
            table = concatenate([self.table, *extra]) if extra else self.table
            rows = torch.cat([self.rows[0], torch.arange(len(self.table), len(table))])
            place = self.place
            views = views_of(table, place.settings, device=place.device)
            self._last = more, views, table, rows
        return self._last[1:]

    def further(self, name: str) -> CrystalTable:
        """Crystals that a variant adds to the training split."""
        train, place = self.table.select(self.rows[0]), self.place
        if name == "strained":
            return strained_copies(train, folder=place.folder)
        number = self.number_of_low
        if name == "made_up":
            return apart_from(made_up_like(train, number, folder=place.folder), self.table)
        most = _LOW - 1 if name == "low_symmetry" else len(CRYSTAL_SYSTEMS)
        dataset = FURTHER.get(place.settings.dataset, "")
        return further_crystals(self.table, number, highest_system=most, dataset=dataset)

    @functools.cached_property
    def number_of_low(self) -> int:
        """How many further crystals are added: as many as there are of low symmetry and more."""
        low = int((self.table.crystal_system[self.rows[0]] < _LOW).sum())
        return max(16, 2 * low)


def train(trial: Trial, shared: Shared, *, run_dir: Path) -> list[Outcome]:
    """Train one variant and ask about the test crystals."""
    name, settings = trial.variant, shared.place.settings
    views, table, rows = shared.data(_MORE.get(name, ()))
    _, val, test = shared.rows
    torch.manual_seed(trial.seed)
    model = CureModel.of(settings, name)
    model.fit_scalers(views, shared.rows[0])
    seen = views
    if name in _LATTICE_FIRST:
        seen = labelled(views, families_of(table))
    model.weigh = loss_matrix(name, table.crystal_system[shared.rows[0]], shared)
    config = fit_config(settings, seed=trial.seed, crystals=len(rows), like=len(shared.rows[0]))
    one = fit(model, seen, train=rows, val=val, config=config, run_dir=run_dir)
    return [outcome(trial, model, views, table, test, domain="test", fits=[one])]


class CureModel(GridModel):
    """The grid's plainest cell with other targets, heads or losses.

    Attributes:
        weigh: Losses of each class as sums of those of all, ``[K, K]``, in training only;
            ``None`` leaves them as they are.
        leaves: Whether the system head predicts :data:`FAMILIES`.
    """

    leaves = False

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("weigh", None, persistent=False)

    @classmethod
    def of(cls, settings: GridSettings, variant: str) -> CureModel:
        """The untrained model of a variant."""
        plain = plain_model(settings)
        model = cls(plain.config, fusion="concat", order="none")
        if variant == "metric":
            model.cell_scaler = MetricScaler()
        if variant in _LATTICE_FIRST:
            model.leaves = True
            model.system_head = LatticeHead(dim=plain.config.dim)
        return model

    def forward(self, views, mask=None) -> UniMatOutput:
        """As that of the parent; in training its log-probabilities are weighed."""
        output = super().forward(views, mask)
        if not self.training or self.weigh is None:
            return output
        weighed = output.system_log_probs @ self.weigh.mT
        return UniMatOutput(output.embeddings, output.projections, output.cell, weighed)

    def systems(self, log_probs: Tensor) -> Tensor:
        """Probabilities of the crystal systems, ``[B, 7]``."""
        probs = log_probs.exp()
        if not self.leaves:
            return probs
        place = torch.tensor(_SYSTEM_OF, device=probs.device)
        return probs.new_zeros(len(probs), len(CRYSTAL_SYSTEMS)).index_add_(1, place, probs)


class LatticeHead(nn.Module):
    """Features ``[..., dim]`` -> log-probabilities of :data:`FAMILIES` ``[..., 15]``.

    First the fourteen Bravais lattices; then, of the hexagonal one, trigonal or hexagonal.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.lattice = Head(dim=dim, size=_LATTICES)
        self.symmetry = Head(dim=dim, size=2)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        lattice = self.lattice(features).float().log_softmax(-1)
        symmetry = self.symmetry(features).float().log_softmax(-1)
        low, high = _HEXAGONAL
        hexagonal = lattice[..., low, None] + symmetry
        parts = lattice[..., :low], hexagonal[..., :1], lattice[..., low + 1 : high]
        return torch.cat([*parts, hexagonal[..., 1:], lattice[..., high:]], -1)


class MetricScaler(CellScaler):
    """Cell targets whose lengths and angles are the six numbers of the metric tensor.

    ``a.a, b.b, c.c, b.c, a.c, a.b`` (square angstrom) in the places of lengths and angles; scaled
    lengths stay. A small change of the lattice is a small change of all of them, also where an
    angle is ill defined.
    """

    def fit(self, targets: Targets) -> None:
        """Set mean and standard deviation from the targets of training crystals."""
        values = self._stack(targets)
        self.mean.copy_(values.mean(dim=0))
        self.std.copy_(values.std(dim=0, correction=0).clamp(min=1e-3))

    def encode(self, targets: Targets) -> Tensor:
        """Physical targets -> ``[B, 9]`` of zero mean and unit variance."""
        return (self._stack(targets) - self.mean) / self.std

    def decode(self, values: Tensor) -> dict[str, Tensor]:
        """``[B, 9]`` -> ``lengths``, ``scaled_lengths`` (angstrom), ``angles`` (degrees)."""
        squares, scaled, products = (values.float() * self.std + self.mean).split(3, dim=1)
        lengths = squares.clamp_min(1.0).sqrt()
        cosines = products / _products(lengths)
        angles = torch.rad2deg(torch.acos(cosines.clamp(-0.95, 0.95)))
        return {"lengths": lengths, "scaled_lengths": scaled, "angles": angles}

    @staticmethod
    def _stack(targets: Targets) -> Tensor:
        lengths, angles = targets.lengths.float(), torch.deg2rad(targets.angles.float())
        products = _products(lengths) * torch.cos(angles)
        return torch.cat([lengths.square(), targets.scaled_lengths.float(), products], dim=1)


def _products(lengths: Tensor) -> Tensor:
    """``bc, ca, ab`` of lengths ``[B, 3]``."""
    a, b, c = lengths.unbind(1)  # an index of numbers would have to be copied to a GPU
    return torch.stack([b * c, c * a, a * b], dim=1)


def families_of(table: CrystalTable) -> Tensor:
    """Places in :data:`FAMILIES` of the crystals, int64 ``[C]``, from their space groups."""
    return torch.tensor(_family_of_groups())[table.space_group - 1]


@functools.cache
def _family_of_groups() -> list[int]:
    """Place in :data:`FAMILIES` of each of the 230 groups."""
    import gemmi

    letters = "amothhc"  # of the seven crystal systems
    found = []
    for number in range(1, 231):
        group = gemmi.find_spacegroup_by_number(number)
        system = list(CRYSTAL_SYSTEMS).index(group.crystal_system_str())
        centring = {"A": "C", "B": "C"}.get(group.hm[0], group.hm[0])
        name = letters[system] + centring
        if name == "hP":
            name += "3" if CRYSTAL_SYSTEMS[system] == "trigonal" else "6"
        found.append(FAMILIES.index(name))
    return found


def labelled(views: GridViews, labels: Tensor) -> GridViews:
    """Views whose targets hold other labels, int64 ``[C]``, in place of the crystal systems."""
    targets = dataclasses.replace(views.targets, crystal_system=labels.to(views.device))
    return dataclasses.replace(views, targets=targets)


def tolerance_matrix(table: CrystalTable) -> Tensor:
    """How labels change between the declared space group and spglib's, ``[7, 7]`` float32.

    Each system keeps all but a tenth of its label; that tenth goes to the systems of higher
    symmetry whose metric contains it as often as its crystals change to them, and stays where none
    does.
    """
    systems = table.crystal_system.cpu()
    number = len(CRYSTAL_SYSTEMS)
    counts = torch.zeros(number, number)
    if "space_group_spglib" in table.info:
        other = crystal_system_index(table.info["space_group_spglib"].to_numpy(np.int64))
        counts.index_put_((systems, other), torch.ones(len(systems)), accumulate=True)
    counts.fill_diagonal_(0.0)
    total = counts.sum(1, keepdim=True)
    moved = torch.where(total > 0, counts / total.clamp_min(1), torch.eye(number))
    return (1 - _SMOOTH) * torch.eye(number) + _SMOOTH * moved


def loss_matrix(variant: str, systems: Tensor, shared: Shared) -> Tensor | None:
    """Losses of a variant's classes as sums of those of all classes, or ``None``."""
    losses = _LOSSES.get(variant, ())
    if not losses:
        return None
    matrix = torch.eye(len(CRYSTAL_SYSTEMS))
    if "smoothed" in losses:
        matrix = shared.smoothing
    if "balanced" in losses:
        count = torch.bincount(systems.cpu(), minlength=len(CRYSTAL_SYSTEMS)).float()
        weight = torch.where(count > 0, count.clamp_min(1).rsqrt(), torch.zeros_like(count))
        weight = weight * len(systems) / (weight * count).sum()
        matrix = weight[:, None] * matrix
    if variant in _LATTICE_FIRST:
        matrix = _of_leaves(matrix)
    return matrix


def _of_leaves(matrix: Tensor) -> Tensor:
    """A matrix of systems for :data:`FAMILIES`: what moves to another system goes to its lattices.

    The share that stays with a system stays with the lattice itself.
    """
    system = torch.tensor(_SYSTEM_OF)
    members = torch.bincount(system).float()
    leaves = matrix[system][:, system] / members[system]
    own = torch.eye(len(system)) * matrix.diagonal()[system]
    same = system[:, None] == system[None]
    return torch.where(same, own, leaves)

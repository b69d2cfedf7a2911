"""Crystals and foreign domains in, trainings that show how far a model carries and what helps out.

Three domains lie inside of the data set: some of its elements, structure types and chemical
systems. A model is trained without the domain (``<domain>_without``) and, as its control, without
as many other crystals (``<domain>_control``). Foreign domains are asked of the model of all
training crystals (``base``), of one with further crystals (``extra``) or made-up ones
(``made_up``), and of the base tuned on some crystals of the domain (``tuned_<domain>_<number>``).
All of them take the same number of steps; tuning takes a few more, the same for every number.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_book.grid.cells import GridSettings
from unimat_book.grid.model import GridModel
from unimat_book.grid.train import limited_rows
from unimat_book.grid.views import GridViews
from unimat_book.studies.crystals import FURTHER, abundance_of, made_up_like
from unimat_book.studies.domains import FOREIGN, load_domain
from unimat_book.studies.models import RATE, fit_config, outcome, plain_model, views_of
from unimat_book.studies.transfer_data import (
    INSIDE,
    SHARE,
    Parts,
    belongs,
    distances,
    foreign_parts,
    groups_of,
    held_out,
    paced,
    without_as_many,
)
from unimat_book.studies.trials import Outcome, Place, Trial
from unimat_lib.crystals.table import CrystalTable, concatenate
from unimat_lib.datasets.mp_extra import apart_from, pretraining_pool
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.training.config import FitResult
from unimat_lib.training.fit import fit
from unimat_powder.network.made_up import made_up_crystals

STAND_IN = "stand_in"
"""The foreign domain of data sets that have none: made-up crystals, for trying the study."""

TUNED = (10, 100, 1000)
"""Crystals of a foreign domain that the base is tuned on."""

TUNING_SHARE = 3 / 16
"""Steps of tuning, as a share of those of the base."""

TUNING_RATE = RATE / 5
TUNING_BATCH = 64

MOST_ATOMS = 52
"""Of further crystals; the foreign domains have no more."""

_STAND_INS = 90
_STAND_IN_SEED = 20_000  # no seed of made-up crystals to train on
_KEPT_OF_TUNED = ("scaled_length_mae", "crystal_system_accuracy")


# ---- what is trained ------------------------------------------------------------------------


def foreign_names(settings: GridSettings) -> tuple[str, ...]:
    """Names of the foreign domains: those of MP-20, or a stand-in for small data sets."""
    return tuple(FOREIGN) if settings.dataset in FURTHER else (STAND_IN,)


def tuned_numbers(settings: GridSettings) -> tuple[int, ...]:
    """Numbers of crystals that the base is tuned on; the stand-in is small."""
    return TUNED if settings.dataset in FURTHER else TUNED[:1]


def variants(settings: GridSettings) -> dict[str, str]:
    """Variants by name and how they are called in tables; further crystals are MP-20's only."""
    found = {"base": "all training crystals"}
    for kind in INSIDE:
        words = kind.replace("_", " ")
        found[f"{kind}_without"] = f"without some {words}"
        found[f"{kind}_control"] = f"with these {words}, without as many crystals"
    if settings.dataset in FURTHER:
        found["extra"] = "and further crystals"
    found["made_up"] = "and made-up crystals"
    for name in foreign_names(settings):
        for number in tuned_numbers(settings):
            found[f"tuned_{name}_{number}"] = f"tuned on {number:,} crystals of the domain"
    return found


def trials(settings: GridSettings) -> list[Trial]:
    """All variants with each seed, seed by seed."""
    names = variants(settings)
    return [Trial("transfer", name, seed) for seed in settings.seeds for name in names]


class Shared:
    """What the trainings of one process share; each part is made when it is first asked for.

    All rows are those of :attr:`table`, and of every table that it is the beginning of.
    """

    def __init__(self, place: Place) -> None:
        self.place, self.settings = place, place.settings
        self._views_with: dict[str, tuple[GridViews, Tensor]] = {}

    @functools.cached_property
    def splits(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of training, validation and test crystals, int64 each."""
        return limited_rows(self.place.table, self.settings)

    @functools.cached_property
    def known(self) -> CrystalTable:
        """The training crystals of the base."""
        return self.place.table.select(self.splits[0])

    @functools.cached_property
    def foreign(self) -> dict[str, CrystalTable]:
        """Tables of the foreign domains; all of their crystals have the split "test"."""
        if self.settings.dataset in FURTHER:
            return {name: load_domain(name) for name in FOREIGN}
        groups = np.random.default_rng(_STAND_IN_SEED).integers(1, 231, _STAND_INS)
        how = {"abundance": abundance_of(self.known), "seed": _STAND_IN_SEED}
        made = made_up_crystals(groups, **how)
        return {STAND_IN: dataclasses.replace(made, info=made.info.assign(split="test"))}

    @functools.cached_property
    def table(self) -> CrystalTable:
        """The data set, then the foreign domains."""
        return concatenate([self.place.table, *self.foreign.values()])

    @functools.cached_property
    def parts(self) -> dict[str, Parts]:
        """The foreign domains taken apart."""
        found, first = {}, len(self.place.table)
        for name, table in self.foreign.items():
            parts = foreign_parts(table, self.known, pool=max(tuned_numbers(self.settings)))
            moved = {n: rows + first for n, rows in vars(parts).items()}
            found[name] = Parts(**moved)
            first += len(table)
        return found

    @functools.cached_property
    def inside(self) -> dict[str, Tensor]:
        """Which crystals of the data set are in each domain inside of it, bool ``[C]``."""
        found, (train, _, test) = {}, self.splits
        for kind in INSIDE:
            groups = groups_of(self.place.table, kind)
            parts = ([groups[row] for row in rows.tolist()] for rows in (train, test))
            taken = held_out(*parts, share=SHARE, seed=0)
            found[kind] = torch.from_numpy(belongs(groups, taken))
        return found

    @functools.cached_property
    def asked(self) -> dict[str, Tensor]:
        """Rows of the crystals of every domain that models are asked about, int64 each.

        They are ``test``, ``<inside>_inside`` and ``_outside`` (of the test crystals), and of the
        foreign domains ``<name>`` and, where there are any, ``<name>_shared``.
        """
        test, found = self.splits[2], {"test": self.splits[2]}
        for kind, inside in self.inside.items():
            found[f"{kind}_inside"] = test[inside[test]]
            found[f"{kind}_outside"] = test[~inside[test]]
        for name, parts in self.parts.items():
            found[name] = parts.asked
            if len(parts.shared):
                found[f"{name}_shared"] = parts.shared
        return found

    @functools.cached_property
    def views(self) -> GridViews:
        """Views of :attr:`table`."""
        return views_of(self.table, self.settings, device=self.place.device)

    @functools.cached_property
    def extra(self) -> CrystalTable:
        """Further crystals that share no formula and space group with any that are asked about."""
        pool = pretraining_pool(
            self.place.table, load_dataset(FURTHER[self.settings.dataset]), max_atoms=MOST_ATOMS
        )
        further = pool.select(torch.arange(len(self.place.table), len(pool)))
        return apart_from(further, concatenate(list(self.foreign.values())))

    @functools.cached_property
    def made_up(self) -> CrystalTable:
        """As many made-up crystals as training has, less those that resemble what is asked."""
        made = made_up_like(self.known, len(self.known), folder=self.place.folder)
        every = [self.place.table, *self.foreign.values()]
        return functools.reduce(apart_from, every, made)

    def views_with(self, name: str) -> tuple[GridViews, Tensor]:
        """Views of :attr:`table` and of the crystals ``extra`` or ``made_up``; rows of these."""
        if name not in self._views_with:
            further = getattr(self, name)
            rows = torch.arange(len(self.table), len(self.table) + len(further))
            table = concatenate([self.table, further])
            views = views_of(table, self.settings, device=self.place.device)
            self._views_with[name] = views, rows
        return self._views_with[name]


# ---- training -------------------------------------------------------------------------------


def train(trial: Trial, shared: Shared, *, run_dir: Path) -> list[Outcome]:
    """Train once, and ask about all domains that the variant is about.

    Args:
        trial: Which training; its variant is one of :func:`variants`.
        shared: What it is trained on.
        run_dir: Folder of its checkpoints. The base of a seed is kept in the folder of the study,
            where tuning finds it.

    Raises:
        ValueError: There is no such variant.
    """
    if trial.variant not in variants(shared.settings):
        known = list(variants(shared.settings))
        raise ValueError(f"expected a variant of {known}, got {trial.variant!r}")
    first = trial.variant.partition("_")[0]
    if trial.variant in ("base", "extra", "made_up"):
        found = _with_all(trial, shared, run_dir)
    elif first == "tuned":
        found = _tuned(trial, shared, run_dir)
    else:
        found = _without(trial, shared, run_dir)
    if shared.place.device == "cuda":
        gc.collect()  # the recorded graphs of a training keep its memory
        torch.cuda.empty_cache()
    return found


def _with_all(trial: Trial, shared: Shared, run_dir: Path) -> list[Outcome]:
    if trial.variant == "base":
        views, (model, done) = shared.views, _base(shared, trial.seed)
    else:
        views, further = shared.views_with(trial.variant)
        rows = torch.cat([shared.splits[0], further])
        how = {"val": shared.splits[1], "seed": trial.seed, "run_dir": run_dir}
        model, done = _trained(shared, views, rows, **how)
    names = ["test", *(n for n in shared.asked if n.removesuffix("_shared") in shared.parts)]
    return [_outcome(trial, model, views, shared, name, done) for name in names]


def _without(trial: Trial, shared: Shared, run_dir: Path) -> list[Outcome]:
    kind = trial.variant.rpartition("_")[0]
    rows = left_out(shared, trial.variant, seed=trial.seed)
    val = shared.splits[1]
    val = val[~shared.inside[kind][val]]  # the domain takes no part in choosing an epoch either
    model, done = _trained(shared, shared.views, rows, val=val, seed=trial.seed, run_dir=run_dir)
    names = f"{kind}_inside", f"{kind}_outside"
    return [_outcome(trial, model, shared.views, shared, name, done) for name in names]


def _tuned(trial: Trial, shared: Shared, run_dir: Path) -> list[Outcome]:
    name, _, number = trial.variant.removeprefix("tuned_").rpartition("_")
    model, _ = _base(shared, trial.seed)
    rows = shared.parts[name].pool[: int(number)]
    batch_size = min(TUNING_BATCH, shared.settings.batch_size)
    steps = max(1, round(TUNING_SHARE * _steps(shared)))
    pace = {"steps": steps, "batch_size": batch_size, "most_epochs": shared.settings.epochs}
    rows, epochs = paced(rows, **pace, seed=trial.seed)
    config = _config(shared, seed=trial.seed)
    own = {"epochs": epochs, "batch_size": batch_size, "lr": TUNING_RATE}
    config = dataclasses.replace(config, **own)
    # There are no other crystals of the domain to choose an epoch with.
    done = fit(model, shared.views, train=rows, val=rows, config=config, run_dir=run_dir)
    mine = [n for n in shared.asked if n.removesuffix("_shared") == name]
    found = [_outcome(trial, model, shared.views, shared, n, done) for n in ("test", *mine)]
    kept = {n: found[0].values[n] for n in _KEPT_OF_TUNED}  # what it forgot; it has to stay small
    return [dataclasses.replace(found[0], values=kept), *found[1:]]


def left_out(shared: Shared, variant: str, *, seed: int) -> Tensor:
    """Training rows of ``<domain>_without`` or ``<domain>_control``, int64.

    The control leaves out others with each seed.
    """
    kind, _, how = variant.rpartition("_")
    rows = shared.splits[0]
    inside = shared.inside[kind][rows]
    return rows[~inside] if how == "without" else without_as_many(rows, inside, seed=seed)


def _base(shared: Shared, seed: int) -> tuple[GridModel, FitResult]:
    """The base of a seed: trained by whoever needs it first, loaded by all others."""
    train, val, _ = shared.splits
    folder = shared.place.folder / "base"
    return _trained(shared, shared.views, train, val=val, seed=seed, run_dir=folder)


def _trained(
    shared: Shared, views: GridViews, rows: Tensor, *, val: Tensor, seed: int, run_dir: Path
) -> tuple[GridModel, FitResult]:
    """A model trained on some rows with the steps of the base."""
    config = _config(shared, seed=seed)
    torch.manual_seed(seed)
    model = plain_model(shared.settings)
    model.fit_scalers(views, rows.to(views.device))
    steps = _steps(shared)
    pace = {"steps": steps, "batch_size": config.batch_size, "most_epochs": steps}
    rows, epochs = paced(rows, **pace, seed=seed)
    config = dataclasses.replace(config, epochs=epochs)
    return model, fit(model, views, train=rows, val=val, config=config, run_dir=run_dir)


def _config(shared: Shared, *, seed: int):
    number = len(shared.splits[0])
    return fit_config(shared.settings, seed=seed, crystals=number, like=number)


def _steps(shared: Shared) -> int:
    """Steps of the base."""
    config = _config(shared, seed=0)
    return config.epochs * max(1, len(shared.splits[0]) // config.batch_size)


def _outcome(
    trial: Trial, model: GridModel, views: GridViews, shared: Shared, name: str, done: FitResult
) -> Outcome:
    rows = shared.asked[name]
    return outcome(trial, model, views, shared.table, rows, domain=name, fits=[done])


# ---- what the tables of the page are made of ------------------------------------------------


def distance_frames(shared: Shared) -> dict[str, pd.DataFrame]:
    """:func:`.distances` of the crystals of every domain, in the order in which they were asked.

    They are those to the crystals that training without the domain had, or the base's.
    """
    found = {}
    for name, rows in shared.asked.items():
        known, kind = shared.known, name.rpartition("_")[0]
        if kind in shared.inside:
            known = shared.place.table.select(left_out(shared, f"{kind}_without", seed=0))
        found[name] = distances(shared.table.select(rows), known)
    return found

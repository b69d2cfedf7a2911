"""Does it matter where the rows come from? Training on some of them, asking about all of them.

A part of MP-20's rows is the public one, the others were rebuilt from later exports of the same
database (see chapter 01). Each model is trained for the same number of steps on one part, or on as
many rows drawn from all parts, and is asked about the test crystals of each part.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unimat_book.grid.cells import GridSettings
from unimat_book.grid.train import limited_rows
from unimat_book.grid.views import GridViews
from unimat_book.studies.models import fit_config, outcome, plain_model, views_of
from unimat_book.studies.trials import Outcome, Place, Trial
from unimat_lib.training.fit import fit

VARIANTS: Mapping[str, str] = {
    "all": "all rows",
    "one_part": "rows of the part that most test crystals are of",
    "as_many": "as many rows of all parts",
}
"""What is trained on, and how it is called in tables."""


def trials(settings: GridSettings) -> list[Trial]:
    """All variants with each seed, seed by seed."""
    return [Trial("provenance", name, seed) for seed in settings.seeds for name in VARIANTS]


class Shared:
    """What the trainings of one process share; each part is made when it is first asked for."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.rows = limited_rows(place.table, place.settings)
        self.source = place.table.info["source"].to_numpy(str)

    @functools.cached_property
    def views(self) -> GridViews:
        """Patterns and formulas."""
        return views_of(self.place.table, self.place.settings, device=self.place.device)

    @property
    def part(self) -> str:
        """The source that most test crystals are of, among those that trained ones are of too."""
        trained = set(self.source[self.rows[0].numpy()])
        names, counts = np.unique(self.source[self.rows[2].numpy()], return_counts=True)
        known = [(n, name) for name, n in zip(names, counts, strict=True) if name in trained]
        return str(max(known)[1])

    def chosen(self, variant: str) -> Tensor:
        """Rows that a variant is trained on, int64."""
        train = self.rows[0]
        if variant == "all":
            return train
        mine = torch.from_numpy(self.source[train.numpy()] == self.part)
        if variant == "one_part":
            return train[mine]
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        return train[order[: int(mine.sum())].sort().values]


def train(trial: Trial, shared: Shared, *, run_dir: Path) -> list[Outcome]:
    """Train on the rows of one variant and ask about all test crystals and about each part."""
    place, (whole, val, test) = shared.place, shared.rows
    rows = shared.chosen(trial.variant)
    torch.manual_seed(trial.seed)
    model = plain_model(place.settings)
    model.fit_scalers(shared.views, whole)
    config = fit_config(place.settings, seed=trial.seed, crystals=len(rows), like=len(whole))
    one = fit(model, shared.views, train=rows, val=val, config=config, run_dir=run_dir)
    sources = shared.source[test.numpy()]
    domains = {"test": test}
    for name in np.unique(sources):
        domains[f"test, {name}"] = test[torch.from_numpy(sources == name)]
    about = model, shared.views, place.table
    return [outcome(trial, *about, part, domain=d, fits=[one]) for d, part in domains.items()]

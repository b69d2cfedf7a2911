"""What a study trains and what comes of it: trials, and their outcomes on some crystals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from unimat_book.grid.cells import GridSettings
from unimat_lib.crystals.table import CrystalTable


@dataclass(frozen=True)
class Trial:
    """One training of a study: which of its variants, and with which seed."""

    study: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.study}-{self.variant}-seed{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What a trained model says of the ``n`` crystals of a domain.

    Attributes:
        trial: Which training.
        domain: Which crystals were asked about, such as ``"test"``.
        asked: Hash of their names, in order.
        scores: Numbers by name.
        values: By metric a value per crystal, float32 ``[n]``, whose mean is the metric: errors in
            angstrom and degrees, or 100 where something is right and 0 where it is not.
        history: Validation losses by epoch.
        seconds: Wall time of training and asking.
    """

    trial: Trial
    domain: str
    asked: str
    scores: Mapping[str, float]
    values: Mapping[str, np.ndarray]
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where and with what a study is trained.

    Attributes:
        table: The crystals with their splits.
        settings: Shape and training of the models, those of the grid of chapter 05.
        device: ``"cpu"`` or ``"cuda"``.
        folder: Where what trainings share is kept.
    """

    table: CrystalTable
    settings: GridSettings
    device: str
    folder: Path


class Study(Protocol):
    """A module that is a study."""

    def trials(self, settings: GridSettings) -> list[Trial]:
        """Its trainings, in the order in which they should be done."""

    #: made of a :class:`Place`: what its trainings in one process share, each part when asked for
    Shared: type

    def train(self, trial: Trial, shared: object, *, run_dir: Path) -> list[Outcome]:
        """Train once, and ask about all domains."""

"""Studies in, what the page on open questions shows of them, and their rows of the ledger, out."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from unimat_book.grid.cells import GridSettings
from unimat_book.ledger.rows import write_rows
from unimat_book.novelty import structure_types
from unimat_book.studies import transfer
from unimat_book.studies.analysis import effects, intervals, ledger_rows_of_study, with_systems
from unimat_book.studies.models import names_hash
from unimat_book.studies.results import Mean, load_means
from unimat_book.studies.trials import Place
from unimat_book.studies.work import StudyFolder, work_through
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable

COMMAND = "python -m unimat_book.studies {} --gpus 4 --processes-per-gpu 3"
"""What makes the published file of a study."""

SETTINGS: Mapping[str, str] = {
    "alignment": "alignment_{variant}",
    "cures": "cure_{variant}",
    "transfer": "transfer_{domain}",
    "retrieval": "retrieval_{domain}",
    "provenance": "provenance_{variant}",
}
"""Names of the settings of the ledger; what is not in them tells the variant."""

_CELLS = ("scaled_length_mae", "length_mae", "angle_mae", "crystal_system_accuracy")
_IN_LEDGER: Mapping[str, tuple[str, ...]] = {
    "alignment": (*_CELLS, "macro_system_accuracy", "recall_at_1"),
    "cures": (
        *_CELLS,
        "macro_system_accuracy",
        *(f"crystal_system_accuracy_{system}" for system in CRYSTAL_SYSTEMS),
    ),
    "transfer": (*_CELLS, "scaled_length_mae_no_formula", "scaled_length_mae_no_pattern"),
    "provenance": _CELLS,
}


_UNTRAINED = {"alignment": ("untrained",), "retrieval": ("physics",)}
"""Variants of studies that train nothing."""


@dataclass(frozen=True)
class Study:
    """A study that was run.

    Attributes:
        name: Of its module.
        means: Its variants on their domains, with the accuracies of the crystal systems.
        types: Structure types of the crystals of each domain.
        systems: Crystal systems of them, int64 ``[n]``.
        words: What its variants are called.
    """

    name: str
    means: list[Mean]
    types: dict[str, list[str]]
    systems: dict[str, np.ndarray]
    words: dict[str, str]

    def of(self, variant: str, domain: str = "test") -> Mean:
        """A variant on a domain.

        Raises:
            KeyError: There is none.
        """
        for mean in self.means:
            if (mean.variant, mean.domain) == (variant, domain):
                return mean
        raise KeyError(f"{self.name} has no {variant} on {domain}")

    @property
    def trainings(self) -> int:
        """How many models were trained."""
        seeds = {mean.variant: len(mean.seeds) for mean in self.means}
        return sum(n for name, n in seeds.items() if name not in _UNTRAINED.get(self.name, ()))

    @property
    def seconds(self) -> float:
        """Wall time of all variants together, each of which names it once for every domain."""
        longest: dict[str, float] = {}
        for mean in self.means:
            longest[mean.variant] = max(mean.seconds, longest.get(mean.variant, 0.0))
        return sum(longest.values())

    @functools.cached_property
    def intervals(self) -> pd.DataFrame:
        """:func:`.analysis.intervals` of what the ledger keeps."""
        kept = _IN_LEDGER.get(self.name)
        return intervals([_only(mean, kept) for mean in self.means], self.types)

    def effects(
        self, base: str, metric: str, variants: Iterable[str], domain: str = "test"
    ) -> pd.DataFrame:
        """:func:`.analysis.effects` of some variants, with their names as ``effect``."""
        chosen = [self.of(variant, domain) for variant in variants]
        frame = effects(chosen, self.of(base, domain), self.types[domain], metric)
        frame["effect"] = [self.words[variant] for variant in frame["variant"]]
        return frame

    @property
    def rows(self) -> list[dict]:
        """Its rows of the ledger."""
        found = []
        for (variant, domain), frame in self.intervals.groupby(["variant", "domain"], sort=False):
            setting = SETTINGS[self.name].format(variant=variant, domain=domain)
            other = variant if "{domain}" in SETTINGS[self.name] else domain
            found += ledger_rows_of_study(frame, setting, other)
        return found


def _only(mean: Mean, metrics: Sequence[str] | None) -> Mean:
    if metrics is None:
        return mean
    return Mean(**vars(mean) | {"values": {k: mean.values[k] for k in metrics if k in mean.values}})


def open_study(
    name: str,
    settings: GridSettings,
    table: CrystalTable,
    *,
    results: Path,
    work: Path,
    device: str,
) -> Study:
    """Trainings of a study: small ones are done here, large ones were done before.

    Args:
        name: Of its module.
        settings: Of the grid; with a ``limit`` the study is a small one.
        table: The crystals.
        results: Folder of the published means of large studies.
        work: Where small ones keep what they make.
        device: Where these are trained.

    Raises:
        FileNotFoundError: There are no published means.
        ValueError: They are of other settings, crystals or code, or a small training failed.
    """
    module = importlib.import_module(f"unimat_book.studies.{name}")
    folder = StudyFolder.of(work, module, settings, table.content_hash())
    if settings.limit:
        folder.forget_failures()
        work_through(folder, table, device=device)
        failed = [trial.name for trial in folder.trials if not folder.done(trial)]
        if failed:
            raise ValueError(f"{failed} failed: see {folder.path}/errors")
        results = work / "means"
        folder.hand_over(results, parts=False)
    known = {"module": module.__name__, "made_by": COMMAND.format(name)}
    means = load_means(results / f"{name}.parquet", settings, table.content_hash(), **known)
    shared = module.Shared(Place(table, settings, device, folder.path / "shared"))
    crystals, rows = domains_of(name, shared)
    for mean in means:
        if names_hash(crystals, rows[mean.domain]) != mean.asked:
            raise ValueError(f"{name}: {mean.variant} was asked about others than {mean.domain}")
    parts = {domain: crystals.select(some) for domain, some in rows.items()}
    systems = {domain: part.crystal_system.cpu().numpy() for domain, part in parts.items()}
    types = {domain: structure_types(part)[0] for domain, part in parts.items()}
    if name != "retrieval":
        means = [with_systems(mean, systems[mean.domain]) for mean in means]
    return Study(name, means, types, systems, words_of(name, settings))


def domains_of(name: str, shared) -> tuple[CrystalTable, dict[str, Tensor]]:
    """A table, and the rows of it that each domain of a study asks about."""
    if name == "transfer":
        return shared.table, shared.asked
    test = shared.rows[2]
    if name == "retrieval":
        return shared.table, {"test": test, "known": test}
    if name == "provenance":
        sources = shared.source[test.numpy()]
        parts = {f"test, {one}": test[sources == one] for one in np.unique(sources)}
        return shared.place.table, {"test": test, **parts}
    return shared.table, {"test": test}


def words_of(name: str, settings: GridSettings) -> dict[str, str]:
    """What the variants of a study are called in tables."""
    if name == "transfer":
        return transfer.variants(settings)
    module = importlib.import_module(f"unimat_book.studies.{name}")
    words = dict(module.VARIANTS)
    if name == "alignment":
        bare = {f"{v}{module.WITHOUT_LATTICE}": text for v, text in words.items()}
        words |= {variant: f"{text}; no lattice" for variant, text in bare.items()}
    return words


def save_study_rows(studies: Iterable[Study], path: Path) -> Path:
    """Write the rows of the ledger of some studies, for chapter 09."""
    rows = [row for study in studies for row in study.rows]
    write_rows(rows, path)
    return path

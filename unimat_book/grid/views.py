"""Crystals, and embeddings of their structures, in; batches with strain or from a laboratory out.

Two things differ from the library's views. The structure is no graph but a vector that a trained
encoder made once, for each of a few strains, so that a step costs only a pattern and a formula. And
a pattern may come from the laboratory simulation of :mod:`unimat_powder`: doublet and other lines,
counting noise, background, widths, shifts, texture, impurities, cut ranges. Those of training are
simulated a few times per crystal and drawn from; those of validation and test crystals are fixed.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from unimat_book.grid.cells import GridSettings
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.identity import short_hash
from unimat_lib.views.batch import Batch, CrystalViews, Targets, build_views
from unimat_lib.views.effects import Measurement, draw_effects
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render
from unimat_powder.network.samples import CU, TrainingCrystals, training_crystals
from unimat_powder.simulation.prepare import prepare
from unimat_powder.simulation.ranges import draw_instruments
from unimat_powder.simulation.simulate import simulate

LABORATORY = dataclasses.replace(CU, isotropic=(0.0, 0.0), strain=0.0)
"""Copper tubes of all laboratories; crystals are strained by us, so that their cells are known."""

_CHUNK = 512
_FIXED_SEED = 7_000_001  # of the patterns of validation and test crystals


@dataclass(frozen=True)
class Laboratory:
    """Simulated measurements.

    Attributes:
        place: Where each crystal's patterns lie among those of training (training crystals) or
            among the fixed ones (others), int64 ``[C]``.
        drawn: Patterns of training, float16 ``[D, T, P]``, highest point 1.
        level: Which strain each of them has, int64 ``[D, T]``.
        fixed: Patterns of the other crystals, float16 ``[F, P]``.
    """

    place: Tensor
    drawn: Tensor
    level: Tensor
    fixed: Tensor


@dataclass(frozen=True)
class GridViews(CrystalViews):
    """What the grid is trained on. Build it with :func:`grid_views`.

    Attributes:
        strains: Of the levels, float64 ``[L]``; the first is 0.
        structure: Embeddings of strained structures, float16 ``[L, C, d]``, or ``None``.
        laboratory: Simulated measurements, or ``None`` for clean patterns.
        settings: :attr:`.GridSettings.key`, of which they were made.
    """

    strains: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(1))
    structure: Tensor | None = None
    laboratory: Laboratory | None = None
    settings: str = ""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the views that there are."""
        known = () if self.structure is None else ("structure",)
        return (*known, "xrd", "composition")

    @functools.cached_property
    def content_hash(self) -> str:
        """Of everything that batches are made of; the settings decide what was simulated."""
        seen = self.structure if self.structure is not None else self.strains
        fingerprint = seen.sum(dim=-1, dtype=torch.float64).sum(dim=-1).tolist()
        kind = "clean" if self.laboratory is None else "laboratory"
        return short_hash(repr((self.crystals, self.settings, kind, fingerprint)))

    def batch(
        self,
        index: Tensor,
        *,
        modalities: tuple[str, ...],
        measurement: Measurement | None = None,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """As :meth:`.CrystalViews.batch`; with a ``measurement`` a batch of training.

        Of the measurement the peak widths count (of clean patterns); strains are those of the
        levels. Without one, patterns of training crystals are clean in both kinds of views.
        """
        training, views = measurement is not None, {}
        level = index.new_zeros(len(index))
        if self.laboratory is not None:
            place = self.laboratory.place[index]
            if training:
                draw = _below(len(self.laboratory.drawn), index, generator)
                level = self.laboratory.level[draw, place]
        elif training:
            level = _below(len(self.strains), index, generator)
        strain = self.strains[level]
        if "xrd" in modalities:
            if self.laboratory is None:
                how = {"fwhm": self.fwhm}
                if training:
                    drawn = draw_effects(
                        measurement, len(index), generator=generator, device=self.device
                    )
                    how = {"effects": dataclasses.replace(drawn, strain=strain)}
                views["xrd"] = render(self.reflections, index, self.grid, **how)
            elif training:
                views["xrd"] = self.laboratory.drawn[draw, place].float()
            else:
                views["xrd"] = self.laboratory.fixed[place].float()
        if "structure" in modalities:
            views["structure"] = self.structure[level, index].float()
        if "composition" in modalities:
            views["composition"] = self.magpie[index]
        targets = self.targets.select(index)
        stretch = (1 + strain).float()[:, None]
        cells = (x * stretch for x in (targets.lengths, targets.scaled_lengths))
        targets = Targets(*cells, targets.angles, targets.crystal_system)
        ordered = {name: views[name] for name in self.modalities if name in views}
        return Batch(views=ordered, targets=targets)


def _below(high: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randint(high, like.shape, generator=generator, device=like.device)


def strain_levels(settings: GridSettings) -> Tensor:
    """Strains from minus to plus the largest one, none first, float64 ``[L]``."""
    number = settings.strain_levels
    if number < 1 or number % 2 == 0:
        raise ValueError(f"expected an odd number of strain levels, so that 0 is one, got {number}")
    every = torch.linspace(-settings.strain, settings.strain, number, dtype=torch.float64)
    middle = number // 2
    return torch.cat([torch.zeros(1, dtype=torch.float64), every[:middle], every[middle + 1 :]])


def plain_views(
    table: CrystalTable, settings: GridSettings, *, device: str, modalities: tuple[str, ...]
) -> CrystalViews:
    """The library's views of the crystals, with room for the strains."""
    m = settings.model
    return build_views(
        table,
        grid=settings.grid,
        **{name: m[name] for name in ("fwhm", "cutoff", "max_neighbors")},
        max_strain=settings.strain,
        modalities=modalities,
        device=device,
        cache_dir="data/cache",
    )


def grid_views(
    plain: CrystalViews,
    settings: GridSettings,
    *,
    structure: Tensor | None = None,
    laboratory: Laboratory | None = None,
) -> GridViews:
    """Views of the grid from the library's, with pattern and composition."""
    known = {f.name: getattr(plain, f.name) for f in dataclasses.fields(CrystalViews)}
    device = plain.device
    return GridViews(
        **known | {"graph": None},
        strains=strain_levels(settings).to(device),
        structure=None if structure is None else structure.to(device),
        laboratory=laboratory,
        settings=settings.key,
    )


def simulate_laboratory(
    table: CrystalTable, settings: GridSettings, *, train: Tensor, others: Tensor, device: str
) -> Laboratory:
    """Measure all crystals: those of training some times and strained, the others once.

    Args:
        table: The crystals.
        settings: Grid of the patterns, number of draws and strains.
        train: Rows of training crystals, int64 ``[T]``.
        others: Rows of validation and test crystals, int64 ``[F]``.
        device: Where to simulate and keep them.
    """
    crystals = training_crystals(table, made_up=False, device=device)
    strains = strain_levels(settings).to(device)
    train, others = train.to(device), others.to(device)
    place = torch.zeros(len(table), dtype=torch.int64, device=device)
    for rows in (train, others):
        place[rows] = torch.arange(len(rows), device=device)
    points = settings.grid.num_points
    drawn = torch.empty(settings.draws, len(train), points, dtype=torch.float16, device=device)
    level = torch.zeros(settings.draws, len(train), dtype=torch.int64, device=device)
    for number in range(settings.draws):
        generator = torch.Generator(device).manual_seed(number)
        level[number] = _below(len(strains), train, generator)
        _measure(crystals, train, strains[level[number]], settings.grid, generator, drawn[number])
    fixed = torch.empty(len(others), points, dtype=torch.float16, device=device)
    generator = torch.Generator(device).manual_seed(_FIXED_SEED)
    _measure(crystals, others, strains.new_zeros(len(others)), settings.grid, generator, fixed)
    return Laboratory(place, drawn, level, fixed)


def _measure(
    crystals: TrainingCrystals,
    rows: Tensor,
    strain: Tensor,
    grid: Grid,
    generator: torch.Generator,
    out: Tensor,
) -> None:
    """Simulate the crystals ``rows``, in random order (impurities are others of a chunk)."""
    order = torch.randperm(len(rows), generator=generator, device=rows.device)
    for chunk in order.split(_CHUNK):
        instruments = draw_instruments(
            LABORATORY, len(chunk), grid=grid, generator=generator, device=rows.device
        )
        isotropic = instruments.isotropic.clone()
        isotropic[: len(chunk)] = strain[chunk].float()
        instruments = dataclasses.replace(instruments, isotropic=isotropic)
        counts, mask = simulate(
            crystals.reflections,
            rows[chunk],
            grid,
            instruments,
            generator=generator,
            symmetry=crystals.symmetry,
        )
        out[chunk] = intensities(counts.nan_to_num(), mask, grid).half()


def intensities(counts: Tensor, mask: Tensor, grid: Grid) -> Tensor:
    """Counts ``[B, P]`` without their background, highest point 1, none below 0.

    :func:`.prepare` gives root intensities; the pattern encoder of the library takes the root by
    itself, so they are squared again.
    """
    return prepare(counts, mask, grid).clamp_min(0).square()

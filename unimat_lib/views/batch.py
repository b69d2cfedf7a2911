"""A crystal table in, three views of every crystal out, cut into batches on demand.

What is stored per crystal is its periodic graph, its Bragg reflections and its Magpie vector. The
powder pattern is drawn afresh from the reflections for each batch, with the measurement effects
that the training asks for, so no epoch sees the same pattern twice.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.bragg import Reflections, bragg_reflections, check_reach, g_max_of
from unimat_lib.views.composition import magpie_features
from unimat_lib.views.effects import Measurement, draw_effects
from unimat_lib.views.graphs import PeriodicGraph, periodic_graph
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render

MODALITIES = ("structure", "xrd", "composition")


@dataclass(frozen=True)
class Targets:
    """What the heads predict, for ``B`` crystals.

    Attributes:
        lengths: a, b, c of the Niggli-reduced primitive cell in angstrom, float32 ``[B, 3]``.
        scaled_lengths: The same divided by (number of atoms)^(1/3), float32 ``[B, 3]``.
        angles: alpha, beta, gamma in degrees, float32 ``[B, 3]``.
        crystal_system: Index into ``CRYSTAL_SYSTEMS``, int64 ``[B]``.
    """

    lengths: Tensor
    scaled_lengths: Tensor
    angles: Tensor
    crystal_system: Tensor

    def select(self, index: Tensor) -> Targets:
        """Targets of some of the crystals; ``index`` is int64 ``[B]``."""
        return Targets(**{name: values[index] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Batch:
    """One batch: the views by modality name, and the targets.

    Attributes:
        views: ``structure`` -> PeriodicGraph of ``B`` crystals, ``xrd`` -> float32 ``[B, P]``,
            ``composition`` -> float32 ``[B, F]``; only the modalities that were asked for.
        targets: The truth, with strain applied where the batch was strained.
    """

    views: dict[str, PeriodicGraph | Tensor]
    targets: Targets


@dataclass(frozen=True)
class CrystalViews:
    """All views of a crystal table on one device. Build it with :func:`build_views`.

    Attributes:
        targets: Truth of all ``C`` crystals.
        grid: The 2theta grid of the patterns.
        fwhm: Full width at half maximum of a clean pattern's peaks, degrees.
        cutoff, max_neighbors: What the graph was built with.
        crystals: Content hash of the table that all this was computed from.
        graph, reflections: Of all crystals, or ``None``.
        magpie: Magpie vectors, float32 ``[C, F]``, or ``None``.
    """

    targets: Targets
    grid: Grid
    fwhm: float
    cutoff: float
    max_neighbors: int | None
    crystals: str
    graph: PeriodicGraph | None = None
    reflections: Reflections | None = None
    magpie: Tensor | None = None

    def __len__(self) -> int:
        """Number of crystals."""
        return len(self.targets.crystal_system)

    @property
    def device(self) -> torch.device:
        """Device on which everything lies."""
        return self.targets.lengths.device

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the views that were built."""
        built = zip(MODALITIES, (self.graph, self.reflections, self.magpie), strict=True)
        return tuple(name for name, view in built if view is not None)

    @functools.cached_property
    def content_hash(self) -> str:
        """Hexadecimal SHA-256 of everything that batches are made of.

        Of graph and reflections the crystals and settings count that they follow from: on a GPU
        their last digits may differ from one process to the next.
        """
        reach = self.reflections.g_max if self.reflections is not None else None
        settings = (self.grid, self.fwhm, self.cutoff, self.max_neighbors, self.modalities, reach)
        digest = hashlib.sha256(repr((self.crystals, settings)).encode())
        for tensor in (self.targets.crystal_system, self.magpie):
            if tensor is not None:
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def batch(
        self,
        index: Tensor,
        *,
        modalities: Sequence[str],
        measurement: Measurement | None = None,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """Cut out and render some crystals.

        Args:
            index: Rows of the table, int64 ``[B]``, on the views' device.
            modalities: Which views to make.
            measurement: Ranges of the effects to draw; ``None`` gives clean patterns. A strain is
                applied to views and targets alike: a strained crystal is simply another crystal.
            generator: Source of all random numbers; needed with ``measurement``.

        Raises:
            ValueError: A modality was not built, the generator is missing, or the strain reaches
                beyond the reflections that were computed.
        """
        if missing := [name for name in modalities if name not in self.modalities]:
            raise ValueError(
                f"these views hold {self.modalities}, but {missing} was asked for: "
                "name it in build_views(modalities=...)"
            )
        effects = None
        if measurement is not None:
            if generator is None:
                raise ValueError("expected a torch.Generator to draw measurement effects with")
            if "xrd" in modalities:
                what = f"a strain of {measurement.strain} (max_strain in build_views)"
                check_reach(self.reflections, g_max_of(self.grid, measurement.strain), what)
            effects = draw_effects(measurement, len(index), generator=generator, device=self.device)
        views, targets = {}, self.targets.select(index)
        if "structure" in modalities:
            views["structure"] = self.graph.select(index)
        if "xrd" in modalities:
            how = {"effects": effects, "fwhm": self.fwhm, "generator": generator}
            views["xrd"] = render(self.reflections, index, self.grid, **how)
        if "composition" in modalities:
            views["composition"] = self.magpie[index]
        if effects is not None:
            stretch = (1 + effects.strain).float()  # [B]
            cells = (x * stretch[:, None] for x in (targets.lengths, targets.scaled_lengths))
            targets = Targets(*cells, targets.angles, targets.crystal_system)
            if "structure" in views:
                views["structure"] = views["structure"].scaled(stretch)
        return Batch(views=views, targets=targets)


def build_views(
    table: CrystalTable,
    *,
    grid: Grid,
    fwhm: float = 0.1,
    cutoff: float = 5.0,
    max_neighbors: int | None = 12,
    max_strain: float = 0.0,
    modalities: Sequence[str] = MODALITIES,
    device: torch.device | str = "cpu",
    cache_dir: str | None = None,
) -> CrystalViews:
    """Compute everything that batches are made of, once, on one device.

    Args:
        table: The crystals, all splits together; rows keep their numbers.
        grid: 2theta grid of the patterns.
        fwhm: Peak width of clean patterns, degrees.
        cutoff: Radius of the graph, angstrom.
        max_neighbors: Cap on neighbours per atom, or ``None``, see :func:`.periodic_graph`.
        max_strain: Largest isotropic strain that training will draw, see :func:`.g_max_of`.
        modalities: Views to build.
        device: Where to compute and keep them.
        cache_dir: Folder of the Magpie cache, see :func:`.magpie_features`.

    Raises:
        ValueError: If a modality is unknown.
    """
    if unknown := [name for name in modalities if name not in MODALITIES]:
        raise ValueError(f"expected modalities of {MODALITIES}, got {unknown}")
    crystals = table.content_hash()
    table = table.to(device)
    graph = reflections = magpie = None
    if "structure" in modalities:
        graph = periodic_graph(table, cutoff=cutoff, max_neighbors=max_neighbors)
    if "xrd" in modalities:
        reflections = bragg_reflections(table, g_max=g_max_of(grid, max_strain=max_strain))
    if "composition" in modalities:
        magpie = magpie_features(list(table.info["formula"]), cache_dir=cache_dir).to(device)
    cells = (x.float() for x in (table.lengths, table.scaled_lengths, table.angles))
    targets = Targets(*cells, table.crystal_system)
    settings = grid, fwhm, cutoff, max_neighbors
    return CrystalViews(targets, *settings, crystals, graph, reflections, magpie)

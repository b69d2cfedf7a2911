"""Three views of every crystal, resident on one device, cut into batches on demand.

What is stored per crystal is small and exact: its periodic graph, its Bragg reflections and its
Magpie vector. What a network sees is rendered per batch: the powder pattern is drawn afresh from
the reflections each time, with whatever measurement effects the training asks for, so no pattern
is ever stored and no epoch sees the same one twice.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.bragg import Reflections, bragg_reflections, g_max_of
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
        return Targets(
            self.lengths[index],
            self.scaled_lengths[index],
            self.angles[index],
            self.crystal_system[index],
        )


@dataclass(frozen=True)
class Batch:
    """One batch: the views by modality name, the targets, and which crystals they are.

    Attributes:
        views: ``structure`` -> PeriodicGraph of ``B`` crystals, ``xrd`` -> float32 ``[B, P]``,
            ``composition`` -> float32 ``[B, F]``; only the modalities that were asked for.
        targets: The truth, with strain applied where the batch was strained.
        index: Rows of the crystal table, int64 ``[B]``.
    """

    views: dict[str, PeriodicGraph | Tensor]
    targets: Targets
    index: Tensor


@dataclass(frozen=True)
class CrystalViews:
    """All views of a crystal table on one device. Build it with :func:`build_views`.

    Attributes:
        targets: Truth of all ``C`` crystals.
        grid: The 2theta grid of the patterns.
        fwhm: Full width at half maximum of a clean pattern's peaks, degrees.
        graph: Periodic graph of all crystals, or ``None``.
        reflections: Bragg reflections of all crystals, or ``None``.
        magpie: Magpie vectors, float32 ``[C, F]``, or ``None``.
        cutoff: Radius that the graph was built with, angstrom.
        max_neighbors: Cap that the graph was built with.
        crystals: Content hash of the table that all this was computed from.
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
        present = (self.graph, self.reflections, self.magpie)
        return tuple(name for name, x in zip(MODALITIES, present, strict=True) if x is not None)

    @functools.cached_property
    def content_hash(self) -> str:
        """Hexadecimal SHA-256 of everything that batches are made of.

        Of graph and reflections the crystals and settings count that they follow from: a GPU adds
        in any order, so their last digits may differ from one process to the next.
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
            measurement: Ranges of the measurement effects to draw; ``None`` gives clean patterns.
                An isotropic strain is applied to all views and to the targets alike, so a
                strained crystal is simply another crystal.
            generator: Source of all random numbers; needed with ``measurement``.

        Raises:
            ValueError: If a modality was not built, the generator is missing, or the strain reaches
                beyond the reflections that were computed.
        """
        missing = [name for name in modalities if name not in self.modalities]
        if missing:
            raise ValueError(
                f"these views hold {self.modalities}, but {missing} was asked for: "
                "name it in build_views(modalities=...)"
            )
        effects = None
        if measurement is not None:
            if generator is None:
                raise ValueError("expected a torch.Generator to draw measurement effects with")
            if "xrd" in modalities and g_max_of(self.grid, measurement.strain) > (
                self.reflections.g_max * (1 + 1e-9)
            ):
                raise ValueError(
                    f"a strain of {measurement.strain} pulls reflections into the grid that were "
                    f"not computed: pass max_strain={measurement.strain} to build_views"
                )
            effects = draw_effects(measurement, len(index), generator=generator, device=self.device)
        views: dict[str, PeriodicGraph | Tensor] = {}
        targets = self.targets.select(index)
        if "structure" in modalities:
            views["structure"] = self.graph.select(index)
        if "xrd" in modalities:
            views["xrd"] = render(
                self.reflections,
                index,
                self.grid,
                effects=effects,
                fwhm=self.fwhm,
                generator=generator,
            )
        if "composition" in modalities:
            views["composition"] = self.magpie[index]
        if effects is not None:
            stretch = (1 + effects.strain).float()  # [B]
            targets = Targets(
                targets.lengths * stretch[:, None],
                targets.scaled_lengths * stretch[:, None],
                targets.angles,
                targets.crystal_system,
            )
            if "structure" in views:
                views["structure"] = views["structure"].scaled(stretch)
        return Batch(views=views, targets=targets, index=index)


def make_targets(table: CrystalTable) -> Targets:
    """Targets of every crystal of a table, on the table's device."""
    return Targets(
        table.lengths.float(),
        table.scaled_lengths.float(),
        table.angles.float(),
        table.crystal_system,
    )


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
        cutoff: Radius of the periodic graph, angstrom.
        max_neighbors: Cap on neighbours per atom (ties are kept), or ``None``.
        max_strain: Largest isotropic strain that training will draw, as a fraction; stretched cells
            pull reflections from beyond the grid's end into it, so it decides how far they go.
        modalities: Views to build.
        device: Where to compute and keep them.
        cache_dir: Folder of the Magpie cache, see :func:`.magpie_features`.

    Raises:
        ValueError: If a modality is unknown.
    """
    unknown = [name for name in modalities if name not in MODALITIES]
    if unknown:
        raise ValueError(f"expected modalities of {MODALITIES}, got {unknown}")
    on_device = table.to(device)
    graph = reflections = magpie = None
    if "structure" in modalities:
        graph = periodic_graph(on_device, cutoff=cutoff, max_neighbors=max_neighbors)
    if "xrd" in modalities:
        reflections = bragg_reflections(on_device, g_max=g_max_of(grid, max_strain=max_strain))
    if "composition" in modalities:
        magpie = magpie_features(list(table.info["formula"]), cache_dir=cache_dir).to(device)
    return CrystalViews(
        targets=make_targets(on_device),
        grid=grid,
        fwhm=fwhm,
        cutoff=cutoff,
        max_neighbors=max_neighbors,
        crystals=table.content_hash(),
        graph=graph,
        reflections=reflections,
        magpie=magpie,
    )

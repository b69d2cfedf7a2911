"""Crystals in, batches of structures beside strained patterns and models that pair them out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unimat_book.grid.cells import GridSettings
from unimat_book.grid.structure import model_shape
from unimat_lib.identity import short_hash
from unimat_lib.model import UniMat, UniMatConfig, UniMatOutput
from unimat_lib.training.config import FitConfig
from unimat_lib.views.batch import Batch, CrystalViews
from unimat_lib.views.effects import Effects, Measurement, draw_effects
from unimat_lib.views.render import render

NAMES = ("structure", "xrd")

STRAIN = 0.03
"""Largest isotropic strain of a pattern in training, either sign."""

INSTRUMENT: Mapping[str, object] = {
    "fwhm": (0.05, 0.6),
    "eta": (0.0, 1.0),
    "zero_shift": 0.1,
    "texture": (0.5, 1.5),
    "background": 0.3,
    "noise": 0.05,
}
"""What an instrument does to patterns in training, where it does anything."""

TWINS = ("computed", "measured")
"""Variants whose structures are given as their computed patterns."""

BATCH, RATE, EMA = 1024, 1.5e-3, 0.99
"""Crystals a step, learning rate, and a decay of averaged weights that suits so few steps."""

LONGER = 3
"""Crystals seen in training over those of the grid's trainings."""

_HELD_SEED = 7_000_003  # of the strains of validation patterns
_CHUNK = 512


def fit_config(
    variant: str, settings: GridSettings, *, seed: int, crystals: int, like: int
) -> FitConfig:
    """How to train: as many steps for some ``crystals`` as for ``like`` of them."""
    measurement = Measurement(
        strain=0.0 if variant == "clean" else STRAIN,
        **(INSTRUMENT if variant == "measured" else {"fwhm": tuple(settings.fwhm_range)}),
    )
    return FitConfig(
        epochs=max(1, round(LONGER * settings.epochs * like / crystals)),
        batch_size=min(BATCH, max(2, crystals // 4)),
        lr=RATE,
        ema=EMA,
        seed=seed,
        cell_weight=0.0,
        system_weight=0.0,
        contrastive_weight=1.0,
        measurement=measurement,
    )


@dataclass(frozen=True)
class QueryViews(CrystalViews):
    """Structures as they are, beside patterns of strained cells. Build it with :func:`views_for`.

    The library's views strain structures and patterns alike; here a model learns that the structure
    of a strained pattern is still the one that is known.

    Attributes:
        held: Strains of patterns where nothing is drawn (of validation), float64 ``[C]``.
        computed: Whether structures are given as their computed patterns.
    """

    held: Tensor | None = None
    computed: bool = False

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the views that there are."""
        return NAMES

    @functools.cached_property
    def content_hash(self) -> str:
        """Of everything that batches are made of."""
        total = float(self.held.abs().sum())
        return short_hash(repr((super().content_hash, total, self.computed)))

    def batch(
        self,
        index: Tensor,
        *,
        modalities: tuple[str, ...],
        measurement: Measurement | None = None,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """As :meth:`.CrystalViews.batch`; widths and strains of a measurement are the pattern's."""
        views = {}
        if "structure" in modalities and self.computed:
            views["structure"] = render(self.reflections, index, self.grid, fwhm=self.fwhm)
        elif "structure" in modalities:
            views["structure"] = self.graph.select(index)
        if "xrd" in modalities:
            if measurement is None:
                strain, one = self.held[index], self.targets.lengths.new_ones(len(index))
                effects = Effects(self.fwhm * one, 0 * one, strain=strain, zero_shift=0 * strain)
            else:
                how = {"generator": generator, "device": self.device}
                effects = draw_effects(measurement, len(index), **how)
            how = {"effects": effects, "generator": generator}
            views["xrd"] = render(self.reflections, index, self.grid, **how)
        return Batch(views=views, targets=self.targets.select(index))


def views_for(variant: str, plain: CrystalViews) -> QueryViews:
    """Views that a variant is trained on, from the library's."""
    known = {f.name: getattr(plain, f.name) for f in dataclasses.fields(CrystalViews)}
    generator = torch.Generator().manual_seed(_HELD_SEED)
    draw = 2 * torch.rand(len(plain), generator=generator, dtype=torch.float64) - 1
    held = (0.0 if variant == "clean" else STRAIN) * draw
    computed = variant in TWINS
    if computed:
        known["graph"] = None
    return QueryViews(**known, held=held.to(plain.device), computed=computed)


def make_model(variant: str, settings: GridSettings) -> UniMat:
    """The untrained model of a variant."""
    config = UniMatConfig(
        modalities=NAMES,
        inputs=NAMES[:1],
        start_scale=settings.start_scale,
        **model_shape(settings),
    )
    return TwinModel(config) if variant in TWINS else UniMat(config)


class TwinModel(UniMat):
    """One pattern encoder for both sides: measured patterns, and those computed of structures.

    Args:
        config: As that of a model with a structure encoder, which this one does not have.
    """

    def __init__(self, config: UniMatConfig) -> None:
        only = ("xrd",)
        super().__init__(dataclasses.replace(config, modalities=only, inputs=only))
        self.config = config

    @property
    def single(self) -> UniMat:
        """The same encoder as a model that can be saved and loaded."""
        only = ("xrd",)
        model = UniMat(dataclasses.replace(self.config, modalities=only, inputs=only))
        model.load_state_dict(self.state_dict())
        return model

    def forward(
        self, views: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None = None
    ) -> UniMatOutput:
        """Projections of both; nothing is predicted."""
        # In one batch, so that its normalisation is that of both.
        encoded = self.encoders["xrd"](torch.cat(list(views.values())))
        embeddings = dict(zip(views, encoded.chunk(len(views)), strict=True))
        projections = {name: self.projections["xrd"](x) for name, x in embeddings.items()}
        empty = encoded.new_zeros(len(encoded) // len(views), 9 + 7)
        return UniMatOutput(embeddings, projections, empty[:, :9], empty[:, 9:])


@torch.no_grad()
def query_points(model: UniMat, patterns: Tensor) -> Tensor:
    """Unit vectors of patterns ``[Q, P]``, float32 ``[Q, projection_dim]``."""
    parts = []
    for chunk in patterns.split(_CHUNK):
        encoded = model.encoders["xrd"](chunk.float())
        parts.append(functional.normalize(model.projections["xrd"](encoded).float(), dim=1))
    return torch.cat(parts)

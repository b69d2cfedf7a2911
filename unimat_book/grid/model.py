"""Patterns, formulas and embeddings of structures in, predictions and what is aligned out.

:class:`GridModel` is the library's model with two more ways to fuse, and with a choice of what its
contrastive loss sees. The structure enters as a vector that is never an input of the prediction:
it holds the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from unimat_lib.encoders.pattern import Downsample, PatternEncoder, input_channels
from unimat_lib.model import UniMat, UniMatConfig, UniMatOutput

INPUTS = ("xrd", "composition")


def _mlp(size: int, dim: int, out: int) -> nn.Sequential:
    """As that of the library's fusions."""
    layers = nn.Linear(size, 2 * dim), nn.GELU(), nn.Linear(2 * dim, out)
    return nn.Sequential(nn.LayerNorm(size), *layers)


class Film(nn.Module):
    """Scale and shift of the channels of a pattern's features, told by another vector.

    Both start at zero, which changes nothing, and are zero where that vector is absent.
    Source: Perez et al., "FiLM", arXiv 1709.07871.
    """

    def __init__(self, *, dim: int, channels: int) -> None:
        super().__init__()
        self.tell = nn.Linear(dim, 2 * channels)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)

    def forward(self, x: Tensor, vector: Tensor, present: Tensor | None) -> Tensor:
        """``[B, ..., C]``, ``[B, dim]``, bool ``[B]`` (``None``: all) -> ``[B, ..., C]``."""
        told = self.tell(vector)
        if present is not None:
            told = told.masked_fill(~present[:, None], 0.0)
        scale, shift = told.unflatten(-1, (2,) + (1,) * (x.dim() - 2) + (-1,)).unbind(1)
        return x * (1 + scale) + shift


class EarlyFusion(nn.Module):
    """The formula steers the pattern encoder from inside, after each stage and at its end.

    An absent formula leaves the encoder as it is; an absent pattern is one of zeros.
    """

    def __init__(self, encoder: PatternEncoder, *, dim: int) -> None:
        super().__init__()
        layers = list(encoder.body)
        starts = [n for n, layer in enumerate(layers) if isinstance(layer, Downsample)]
        self.ends = [n - 1 for n in (*starts, len(layers))]  # last layer of each stage
        first = layers[0].out_features
        widths = [first * min(2**stage, 4) for stage in range(len(self.ends))]
        self.norm = nn.LayerNorm(dim)
        self.films = nn.ModuleList(Film(dim=dim, channels=c) for c in (*widths, dim))
        self.mlp = _mlp(dim, dim, dim)

    def forward(
        self,
        encoder: PatternEncoder,
        pattern: Tensor,
        formula: Tensor,
        mask: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Patterns ``[B, P]``, embedded formulas ``[B, d]`` -> ``[B, 1, d]``, ``[B, 1]``."""
        present = None
        if mask is not None:
            present = mask["composition"]
            pattern = torch.where(mask["xrd"][:, None], pattern, 0.0)
            formula = torch.where(present[:, None], formula, 0.0)
        vector, films = self.norm(formula), iter(self.films)
        x = input_channels(pattern, padding=encoder.padding)
        for number, layer in enumerate(encoder.body):
            x = layer(x)
            if number in self.ends:
                x = next(films)(x, vector, present)
        x = next(films)(encoder.readout(x), vector, present)
        x = x + self.mlp(x)
        return x[:, None], x.new_ones(len(x), 1)


class WeightedLateFusion(nn.Module):
    """Every view predicts on its own; weights are told by all views of the crystal at hand."""

    def __init__(self, *, num_modalities: int, dim: int) -> None:
        super().__init__()
        self.mlp = nn.ModuleList(_mlp(dim, dim, dim) for _ in range(num_modalities))
        self.weigh = _mlp(num_modalities * dim, dim, num_modalities)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, M, d]``, bool ``[B, M]`` -> ``[B, M, d]``, ``[B, M]``."""
        if mask is not None:
            tokens = tokens.masked_fill(~mask[..., None], 0.0)
        features = torch.stack([f(tokens[:, m]) for m, f in enumerate(self.mlp)], dim=1)
        logits = self.weigh(tokens.flatten(1)).float()
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        return features, logits.softmax(dim=1)


class GridModel(UniMat):
    """A cell of the grid.

    Args:
        config: Of the library's model; its inputs are pattern and formula, and its modalities have
            the structure in front where anything is aligned. Its fusion is not used.
        fusion: A key of :data:`.FUSIONS`.
        order: A key of :data:`.ORDERS`.

    Attributes:
        aligning: While it is true the encoders are aligned and nothing is predicted.
    """

    def __init__(self, config: UniMatConfig, *, fusion: str, order: str) -> None:
        kind = fusion if fusion in ("concat", "gated", "cross_attention") else "late"
        super().__init__(replace(config, modalities=config.inputs, fusion=kind))
        self.config = config
        self.order, self.aligning = order, False
        if fusion == "late":
            self.fusion = WeightedLateFusion(num_modalities=len(INPUTS), dim=config.dim)
        if fusion == "early":
            self.fusion = EarlyFusion(self.encoders["xrd"], dim=config.dim)
        sizes = config.dim, config.projection_dim
        if order != "none":
            self.encoders["structure"] = nn.Identity()  # of vectors that another model made
            self.projections["structure"] = nn.Linear(*sizes)
        if order == "fused":
            self.projections = nn.ModuleDict(
                {"structure": self.projections["structure"], "fused": nn.Linear(*sizes)}
            )

    def forward(
        self, views: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None = None
    ) -> UniMatOutput:
        """As that of :class:`.UniMat`; ``projections`` hold what the cell aligns, if anything."""
        early = isinstance(self.fusion, EarlyFusion)
        aligned = "structure" in views and self.order in ("before", "simultaneous")
        alone = [name for name in views if name != "xrd" or aligned or not early]
        embeddings = {name: self.encode(name, views[name]) for name in alone}
        projections = {}
        if aligned:
            projections = {name: self.projections[name](x) for name, x in embeddings.items()}
        if self.aligning:
            like = embeddings["xrd"]
            empty = like.new_zeros(len(like), 9 + 7)
            return UniMatOutput(embeddings, projections, empty[:, :9], empty[:, 9:])
        if early:
            features, weights = self._early(views, embeddings, mask)
        else:
            features, weights = self.fusion(*self._tokens(embeddings, mask))
        if "structure" in views and self.order == "fused":
            fused = (weights[..., None] * features).sum(dim=1)
            named = {"structure": embeddings["structure"], "fused": fused}
            projections = {name: self.projections[name](x) for name, x in named.items()}
        cell = (weights[..., None] * self.cell_head(features).float()).sum(dim=1)
        log_probs = self.system_head(features).float().log_softmax(dim=-1)
        log_weights = weights.float().clamp_min(1e-30).log()
        system = (log_weights[..., None] + log_probs).logsumexp(dim=1)
        return UniMatOutput(embeddings, projections, cell, system)

    def _early(
        self,
        views: Mapping[str, Tensor],
        embeddings: Mapping[str, Tensor],
        mask: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        given = [name for name in INPUTS if name in views]
        like = views[given[0]]
        if len(given) < len(INPUTS):
            here = torch.full((len(like),), True, device=like.device)
            mask = {n: here if n in given else ~here for n in INPUTS} | dict(mask or {})
        size = len(like)
        pattern = views.get("xrd")
        if pattern is None:
            pattern = like.new_zeros(size, self.config.grid.num_points)
        formula = embeddings.get("composition")
        if formula is None:
            formula = like.new_zeros(size, self.config.dim)
        return self.fusion(self.encoders["xrd"], pattern, formula, mask)

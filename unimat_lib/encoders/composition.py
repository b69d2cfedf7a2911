"""Composition features ``[B, F]`` in, one vector per crystal ``[B, dim]`` out."""

from __future__ import annotations

from torch import Tensor, nn


class CompositionEncoder(nn.Module):
    """Residual multilayer perceptron for a vector of composition features.

    Made for standardised Magpie features (Ward et al. 2016, doi:10.1038/npjcompumats.2016.28); the
    blocks are those of Gorishniy et al. 2021 (arXiv:2106.11959) with LayerNorm and GELU.

    Args:
        num_features: Features F of a composition.
        dim: Size of the embedding.
        hidden: Width.
        depth: Residual blocks.
        dropout: Share of hidden values dropped in training.
    """

    def __init__(
        self,
        *,
        num_features: int,
        dim: int,
        hidden: int = 512,
        depth: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(num_features, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout)),
                *(nn.Linear(hidden, hidden), nn.Dropout(dropout)),
            )
            for _ in range(depth)
        )
        self.leave = nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings [B, dim] of features [B, F]."""
        x = self.enter(features)
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)

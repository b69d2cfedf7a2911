"""Tokens of several modalities in, candidate features of a crystal with weights out.

Every strategy has the same shape, so that they can be exchanged: it takes one token per modality
``[B, M, d]`` and a mask ``[B, M]`` of the modalities that are present (``None`` where all are), and
returns features ``[B, K, d]`` with weights ``[B, K]`` that sum to one. The heads read every
candidate and their outputs are averaged with the weights. Early strategies have one candidate
(``K = 1``); late fusion has one per modality (``K = M``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _mlp(size_in: int, dim: int) -> nn.Sequential:
    layers = nn.Linear(size_in, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
    return nn.Sequential(nn.LayerNorm(size_in), *layers)


def _one_candidate(features: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, d]`` -> candidates ``[B, 1, d]`` with the weight one."""
    return features[:, None], features.new_ones(len(features), 1)


def _without_absent(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Zero in the place of absent tokens, which may hold anything."""
    return tokens if mask is None else tokens.masked_fill(~mask[..., None], 0.0)


class ConcatFusion(nn.Module):
    """Concatenation, then an MLP: UniMat's own fusion (arXiv 2411.08664).

    An absent modality is replaced by a learned vector, because zeros are a legal embedding.
    """

    def __init__(self, *, num_modalities: int, dim: int) -> None:
        super().__init__()
        self.absent = nn.Parameter(torch.zeros(num_modalities, dim))
        self.mlp = _mlp(num_modalities * dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, M, d]``, bool ``[B, M]`` -> ``[B, 1, d]``, ``[B, 1]``."""
        if mask is not None:
            tokens = torch.where(mask[..., None], tokens, self.absent.to(tokens.dtype))
        return _one_candidate(self.mlp(tokens.flatten(1)))


class GatedFusion(nn.Module):
    """A gate per modality and channel decides how much of each modality enters the sum.

    The gates are a softmax over the present modalities, so they sum to one in every channel.
    Source: the gated multimodal unit, Arevalo et al., arXiv 1702.01992, with softmax for tanh.
    """

    def __init__(self, *, num_modalities: int, dim: int) -> None:
        super().__init__()
        each = range(num_modalities)
        self.norm = nn.ModuleList(nn.LayerNorm(dim) for _ in each)
        self.value, self.gate = (nn.ModuleList(nn.Linear(dim, dim) for _ in each) for _ in range(2))
        self.mlp = _mlp(dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, M, d]``, bool ``[B, M]`` -> ``[B, 1, d]``, ``[B, 1]``."""
        normed = [norm(tokens[:, m]) for m, norm in enumerate(self.norm)]
        values = torch.stack([f(x) for f, x in zip(self.value, normed, strict=True)], dim=1)
        gates = torch.stack([f(x) for f, x in zip(self.gate, normed, strict=True)], dim=1)
        if mask is not None:
            gates = gates.masked_fill(~mask[..., None], float("-inf"))
        mixed = (gates.softmax(dim=1) * _without_absent(values, mask)).sum(dim=1)  # [B, d]
        return _one_candidate(mixed + self.mlp(mixed))


class CrossAttentionFusion(nn.Module):
    """A learned query reads the modality tokens by attention; absent ones are hidden from it.

    Source: Vaswani et al., arXiv 1706.03762; the query token is that of arXiv 2010.11929.
    """

    def __init__(self, *, num_modalities: int, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(dim))
        self.kind = nn.Parameter(0.02 * torch.randn(num_modalities, dim))
        num_heads = next(n for n in (8, 4, 2, 1) if dim % n == 0)
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.mlp = _mlp(dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, M, d]``, bool ``[B, M]`` -> ``[B, 1, d]``, ``[B, 1]``."""
        tokens = self.norm(_without_absent(tokens, mask) + self.kind)
        query = self.query.expand(len(tokens), 1, -1).to(tokens.dtype)  # [B, 1, d]
        hidden = None if mask is None else ~mask
        read, _ = self.attention(query, tokens, tokens, key_padding_mask=hidden, need_weights=False)
        mixed = (query + read)[:, 0]
        return _one_candidate(mixed + self.mlp(mixed))


class LateFusion(nn.Module):
    """Every modality predicts on its own; the predictions are averaged with learned weights."""

    def __init__(self, *, num_modalities: int, dim: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_modalities))
        self.mlp = nn.ModuleList(_mlp(dim, dim) for _ in range(num_modalities))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, M, d]``, bool ``[B, M]`` -> ``[B, M, d]``, ``[B, M]``."""
        tokens = _without_absent(tokens, mask)
        features = torch.stack([f(tokens[:, m]) for m, f in enumerate(self.mlp)], dim=1)
        logits = self.logits.expand(len(tokens), -1)
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        return features, logits.softmax(dim=1)


_CLASSES = {"concat": ConcatFusion, "gated": GatedFusion}
_CLASSES |= {"cross_attention": CrossAttentionFusion, "late": LateFusion}
FUSIONS = tuple(_CLASSES)


def make_fusion(kind: str, *, num_modalities: int, dim: int) -> nn.Module:
    """A fusion of ``FUSIONS``, else a ``ValueError``, for ``M`` tokens per crystal, ``d`` wide."""
    if kind not in FUSIONS:
        raise ValueError(f"expected a fusion of {FUSIONS}, got {kind!r}")
    return _CLASSES[kind](num_modalities=num_modalities, dim=dim)

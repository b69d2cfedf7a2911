"""Fusion: the embeddings of several modalities become one description of a crystal.

Every strategy has the same shape, so that they can be exchanged: it takes one token per modality
``[B, M, d]`` and a mask ``[B, M]`` of the modalities that are present, and returns candidate
features ``[B, K, d]`` with weights ``[B, K]`` that sum to one. The heads read every candidate and
their outputs are averaged with the weights. Early strategies have one candidate (``K = 1``); late
fusion has one per modality (``K = M``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FUSIONS = ("concat", "gated", "cross_attention", "late")


def make_fusion(kind: str, *, num_modalities: int, dim: int) -> nn.Module:
    """Build a fusion module by name.

    Args:
        kind: One of ``FUSIONS``.
        num_modalities: Tokens per crystal, ``M``.
        dim: Width of a token, ``d``.

    Raises:
        ValueError: If the name is unknown.
    """
    classes = {
        "concat": ConcatFusion,
        "gated": GatedFusion,
        "cross_attention": CrossAttentionFusion,
        "late": LateFusion,
    }
    if kind not in classes:
        raise ValueError(f"expected a fusion of {FUSIONS}, got {kind!r}")
    return classes[kind](num_modalities=num_modalities, dim=dim)


def _mlp(size_in: int, hidden: int, size_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(size_in), nn.Linear(size_in, hidden), nn.GELU(), nn.Linear(hidden, size_out)
    )


def _one_candidate(features: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, d]`` -> candidates ``[B, 1, d]`` with the weight one."""
    return features[:, None], features.new_ones(len(features), 1)


class ConcatFusion(nn.Module):
    """Concatenation, then an MLP: UniMat's own fusion (arXiv 2411.08664).

    An absent modality is replaced by a learned vector, because zeros are a legal embedding.
    """

    def __init__(self, *, num_modalities: int, dim: int) -> None:
        super().__init__()
        self.absent = nn.Parameter(torch.zeros(num_modalities, dim))
        self.mlp = _mlp(num_modalities * dim, 2 * dim, dim)

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
        self.norm = nn.ModuleList(nn.LayerNorm(dim) for _ in range(num_modalities))
        self.value = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_modalities))
        self.gate = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_modalities))
        self.mlp = _mlp(dim, 2 * dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, M, d]``, bool ``[B, M]`` -> ``[B, 1, d]``, ``[B, 1]``."""
        normed = [norm(tokens[:, m]) for m, norm in enumerate(self.norm)]
        values = torch.stack([f(x) for f, x in zip(self.value, normed, strict=True)], dim=1)
        gates = torch.stack([f(x) for f, x in zip(self.gate, normed, strict=True)], dim=1)
        if mask is not None:
            gates = gates.masked_fill(~mask[..., None], float("-inf"))
            values = values.masked_fill(~mask[..., None], 0.0)  # keeps NaN of absent inputs out
        mixed = (gates.softmax(dim=1) * values).sum(dim=1)  # [B, d]
        return _one_candidate(mixed + self.mlp(mixed))


class CrossAttentionFusion(nn.Module):
    """Modality tokens attend to one another and a learned query reads the result.

    One pre-norm transformer layer over ``M`` tokens plus the query token; absent modalities are
    hidden from the attention. Source: Vaswani et al., arXiv 1706.03762; the query token is that
    of arXiv 2010.11929.
    """

    def __init__(self, *, num_modalities: int, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(dim))
        self.kind = nn.Parameter(0.02 * torch.randn(num_modalities, dim))
        num_heads = next(n for n in (8, 4, 2, 1) if dim % n == 0)
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.mlp = _mlp(dim, 2 * dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, M, d]``, bool ``[B, M]`` -> ``[B, 1, d]``, ``[B, 1]``."""
        if mask is not None:
            tokens = tokens.masked_fill(~mask[..., None], 0.0)
        tokens = self.norm(tokens + self.kind)
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
        self.mlp = nn.ModuleList(_mlp(dim, 2 * dim, dim) for _ in range(num_modalities))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, M, d]``, bool ``[B, M]`` -> ``[B, M, d]``, ``[B, M]``."""
        if mask is not None:
            tokens = tokens.masked_fill(~mask[..., None], 0.0)
        features = torch.stack([f(tokens[:, m]) for m, f in enumerate(self.mlp)], dim=1)
        logits = self.logits.expand(len(tokens), -1)
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        return features, logits.softmax(dim=1)

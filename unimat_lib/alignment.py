"""Embeddings of the same crystals in several modalities in, contrastive losses or ranks out.

Rows of one index belong together: they are to be nearer to each other than to those of the other
crystals of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

ALIGNMENT_KINDS = ("clip", "siglip")

MAX_SCALE = 100.0
"""Largest inverse temperature, CLIP's: a small batch would drive the temperature to zero."""

_CHUNK = 1024  # queries compared at once, which bounds the memory

TIE_TOLERANCE = 1e-6
"""Cosine similarities closer than this count as equal in :func:`retrieval_ranks`."""


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarities in float32: [B, d], [B, d] -> [B, B]."""
    if a.ndim != 2 or a.shape != b.shape:
        what = f"expected two embeddings of one shape [B, d], got {[*a.shape]} and {[*b.shape]}"
        raise ValueError(f"{what}: encode the same crystals with both encoders")
    a, b = (functional.normalize(x.float(), dim=-1) for x in (a, b))
    # Half precision would round the logits to steps of 0.4 at a scale of 100.
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


def clip_loss(a: Tensor, b: Tensor, *, log_scale: Tensor, mask: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE loss of CLIP: every row finds its partner, by a softmax, both ways.

    Args:
        a: Embeddings of one modality, ``[B, d]``, any scale (they are normalised here).
        b: Embeddings of the same crystals in another modality, ``[B, d]``.
        log_scale: Scalar, the logarithm of the inverse temperature.
        mask: Rows in which both modalities are present, bool ``[B]``; absent rows are neither
            queries nor candidates. ``None`` means that all are present.

    Returns:
        Scalar: the mean of the two cross-entropies over the present rows, in nats.

    Raises:
        ValueError: If the two shapes differ.

    Source: Radford et al., arXiv 2103.00020, figure 3; Oord et al., arXiv 1807.03748, eq. 4.
    """
    logits = log_scale.float().exp() * _similarity(a, b)  # [B, B]
    rows = torch.arange(len(a), device=a.device)
    if mask is None:
        a_to_b, b_to_a = (functional.cross_entropy(x, rows) for x in (logits, logits.T))
        return (a_to_b + b_to_a) / 2
    # Absent candidates get a logit that no softmax sees; absent queries get the weight zero.
    floor = torch.finfo(logits.dtype).min / 2
    a_to_b, b_to_a = (
        functional.cross_entropy(x.masked_fill(~mask[None, :], floor), rows, reduction="none")
        for x in (logits, logits.T)
    )
    return torch.where(mask, a_to_b + b_to_a, 0.0).sum() / (2 * mask.float().sum().clamp(min=1))


def siglip_loss(a: Tensor, b: Tensor, *, log_scale: Tensor, bias: Tensor) -> Tensor:
    """Sigmoid loss of SigLIP: every pair of the batch is a yes-or-no question of its own.

    Arguments are those of :func:`clip_loss`, and a scalar ``bias`` added to every logit, at first
    negative: most pairs do not match. The sum of cross-entropies over the number of rows, in nats.

    Source: Zhai et al., arXiv 2303.15343, algorithm 1.
    """
    logits = log_scale.float().exp() * _similarity(a, b) + bias.float()  # [B, B]
    signs = 2 * torch.eye(len(a), device=a.device) - 1
    return -functional.logsigmoid(signs * logits).sum() / len(a)


class AlignmentLoss(nn.Module):
    """Contrastive loss between all pairs of modalities, with a learned temperature.

    The mean over the pairs is returned. Who trains it calls :meth:`clamp_` after each step: a clamp
    in the forward pass would stop the gradient.

    Args:
        kind: ``"clip"`` or ``"siglip"``.
        start_scale: Inverse temperature at the start; by default that of the papers, 1 / 0.07 for
            CLIP and 10 for SigLIP. Its logarithm moves by at most the learning rate per step, so a
            short training ends near where it began.

    Raises:
        ValueError: If ``kind`` is unknown or ``start_scale`` not above 0 and at most ``MAX_SCALE``.
    """

    def __init__(self, *, kind: str = "clip", start_scale: float | None = None) -> None:
        super().__init__()
        if kind not in ALIGNMENT_KINDS:
            raise ValueError(f"expected an alignment kind of {ALIGNMENT_KINDS}, got {kind!r}")
        self.kind = kind
        if start_scale is None:
            start_scale = 1 / 0.07 if kind == "clip" else 10.0
        if not 0 < start_scale <= MAX_SCALE:
            raise ValueError(f"expected start_scale in (0, {MAX_SCALE:g}], got {start_scale}")
        self.log_scale = nn.Parameter(torch.tensor(start_scale).log())
        self.bias = nn.Parameter(torch.tensor(-10.0)) if kind == "siglip" else None

    @property
    def scale(self) -> Tensor:
        """Inverse temperature in use, a scalar."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring the inverse temperature back to ``MAX_SCALE`` where a step took it beyond."""
        self.log_scale.clamp_(max=math.log(MAX_SCALE))

    def forward(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """Mean contrastive loss in nats over all pairs of embeddings, ``[B, d]`` by modality.

        Raises:
            ValueError: With fewer than two modalities.
        """
        if len(embeddings) < 2:
            what = f"expected at least two modalities to align, got {sorted(embeddings)}"
            raise ValueError(f"{what}: add one to the model or set the contrastive weight to 0")
        learned = {"log_scale": self.log_scale} | ({} if self.bias is None else {"bias": self.bias})
        loss = clip_loss if self.kind == "clip" else siglip_loss
        pairs = combinations(embeddings.values(), 2)
        return torch.stack([loss(a, b, **learned) for a, b in pairs]).mean()


def retrieval_ranks(query: Tensor, gallery: Tensor, *, target: Tensor | None = None) -> Tensor:
    """Rank of the right candidate for every query, int64 ``[Q]``; 1 is best, ties count against us.

    A rank counts every *other* candidate that is at least as similar as the right one, so a
    constant embedding gets the worst rank and not the best.
    Queries are embeddings ``[Q, d]``, candidates ``[G, d]``; ``target``, int64 ``[Q]``, is the row
    of the gallery that is right for each query, by default its own number.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(f"expected [Q, d] and [G, d], got {[*query.shape]} and {[*gallery.shape]}")
    if target is None:
        if len(query) != len(gallery):
            came = f"{len(query)} queries and {len(gallery)} candidates"
            raise ValueError(f"{came}: pass `target` to say which belong together")
        target = torch.arange(len(query), device=query.device)
    query, gallery = (functional.normalize(x.double(), dim=-1) for x in (query, gallery))
    ranks = []
    for rows, right in zip(query.split(_CHUNK), target.split(_CHUNK), strict=True):
        similarity = rows @ gallery.T  # [chunk, G]
        best = similarity.gather(1, right[:, None])
        # Not `>=`: NaN must count against us. The tolerance is the noise of float32 encoders, so
        # equal inputs tie although they were encoded in batches of different sizes.
        ranks.append((~(similarity < best - TIE_TOLERANCE)).sum(dim=1))
    return torch.cat(ranks)


def recall_at_k(ranks: Tensor, k: int) -> float:
    """Share of queries whose right candidate is among the first ``k``, in [0, 1]."""
    if len(ranks) == 0:
        raise ValueError("expected at least one rank, got none: is the test split empty?")
    return float((ranks <= k).double().mean())

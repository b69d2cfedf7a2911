"""Contrastive losses and retrieval metrics: tensors in, a scalar or ranks out, nothing else.

The losses know nothing of crystals, encoders or configuration. They compare the embeddings that
two modalities give to the same crystals (rows that belong together have the same index) and ask
that a crystal's two embeddings be nearer to each other than to those of the other crystals of
the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

ALIGNMENT_KINDS = ("clip", "siglip")

TIE_TOLERANCE = 1e-6
"""Cosine similarities closer than this count as equal in :func:`retrieval_ranks`."""


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"expected two embeddings of one shape [B, d], got {tuple(a.shape)} and "
            f"{tuple(b.shape)}: encode the same crystals with both encoders"
        )


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarities in float32: [B, d], [B, d] -> [B, B]."""
    a = functional.normalize(a.float(), dim=-1)
    b = functional.normalize(b.float(), dim=-1)
    # Half precision would round the logits to steps of 0.4 at a scale of 100.
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


def clip_loss(a: Tensor, b: Tensor, *, log_scale: Tensor, mask: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE loss of CLIP.

    Every row of ``a`` has to find its partner among all rows of ``b``, and the other way round;
    both searches are softmax classifications over the batch.

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
    _check_pair(a, b)
    logits = log_scale.float().exp() * _similarity(a, b)  # [B, B]
    rows = torch.arange(len(a), device=a.device)
    if mask is None:
        forward = functional.cross_entropy(logits, rows)
        backward = functional.cross_entropy(logits.T, rows)
        return (forward + backward) / 2
    # Absent candidates get a logit that no softmax sees; absent queries get the weight zero.
    weight = mask.float()
    floor = torch.finfo(logits.dtype).min / 2
    a_to_b = functional.cross_entropy(
        logits.masked_fill(~mask[None, :], floor), rows, reduction="none"
    )
    b_to_a = functional.cross_entropy(
        logits.T.masked_fill(~mask[None, :], floor), rows, reduction="none"
    )
    per_row = torch.where(mask, a_to_b + b_to_a, torch.zeros_like(a_to_b))
    return per_row.sum() / (2 * weight.sum().clamp(min=1))


def siglip_loss(
    a: Tensor, b: Tensor, *, log_scale: Tensor, bias: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Sigmoid loss of SigLIP: every pair of the batch is a yes-or-no question of its own.

    Args:
        a: Embeddings of one modality, ``[B, d]``.
        b: Embeddings of the same crystals in another modality, ``[B, d]``.
        log_scale: Scalar, the logarithm of the inverse temperature.
        bias: Scalar added to every logit; starts negative because most pairs do not match.
        mask: Rows in which both modalities are present, bool ``[B]``.

    Returns:
        Scalar: summed binary cross-entropy divided by the number of present rows, in nats.

    Raises:
        ValueError: If the two shapes differ.

    Source: Zhai et al., arXiv 2303.15343, algorithm 1.
    """
    _check_pair(a, b)
    logits = log_scale.float().exp() * _similarity(a, b) + bias.float()  # [B, B]
    signs = 2 * torch.eye(len(a), device=a.device) - 1
    losses = -functional.logsigmoid(signs * logits)
    if mask is None:
        return losses.sum() / len(a)
    pair_mask = mask[:, None] & mask[None, :]
    return torch.where(pair_mask, losses, 0.0).sum() / mask.sum().clamp(min=1)


class AlignmentLoss(nn.Module):
    """Contrastive loss between all pairs of modalities, with a learned, clamped temperature.

    Two modalities give one pair, three give three; the mean over the pairs is returned. Rows in
    which a modality is absent take part in the pairs that remain.

    Args:
        kind: ``"clip"`` or ``"siglip"``.
        start_scale: Inverse temperature at the start; by default that of the papers, 1 / 0.07 for
            CLIP and 10 for SigLIP. It moves by no more than the learning rate per step (in its
            logarithm), so a short training ends near where it began. Its upper limit is CLIP's 100:
            without one a small batch drives the temperature to zero and the loss to noise.

    Raises:
        ValueError: If ``kind`` is unknown.
    """

    def __init__(self, *, kind: str = "clip", start_scale: float | None = None) -> None:
        super().__init__()
        if kind not in ALIGNMENT_KINDS:
            raise ValueError(f"expected an alignment kind of {ALIGNMENT_KINDS}, got {kind!r}")
        self.kind = kind
        self.max_log_scale = float(torch.tensor(100.0).log())
        if start_scale is None:
            start_scale = 1 / 0.07 if kind == "clip" else 10.0
        self.log_scale = nn.Parameter(torch.tensor(start_scale).log())
        self.bias = nn.Parameter(torch.tensor(-10.0)) if kind == "siglip" else None

    @property
    def scale(self) -> Tensor:
        """Inverse temperature in use, a scalar in (0, 100]."""
        return self.log_scale.clamp(max=self.max_log_scale).exp()

    def forward(
        self, embeddings: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Mean contrastive loss over all pairs of ``embeddings``.

        Args:
            embeddings: Modality name to ``[B, d]``; at least two.
            mask: Modality name to bool ``[B]``; modalities without an entry are present.

        Returns:
            Scalar loss in nats.

        Raises:
            ValueError: With fewer than two modalities.
        """
        if len(embeddings) < 2:
            raise ValueError(
                f"expected at least two modalities to align, got {sorted(embeddings)}: "
                "add a modality to the model or set the contrastive weight to 0"
            )
        log_scale = self.log_scale.clamp(max=self.max_log_scale)
        losses = [
            self._pair(embeddings[a], embeddings[b], log_scale, _pair_mask(mask, a, b))
            for a, b in combinations(embeddings, 2)
        ]
        return torch.stack(losses).mean()

    def _pair(self, a: Tensor, b: Tensor, log_scale: Tensor, mask: Tensor | None) -> Tensor:
        if self.kind == "clip":
            return clip_loss(a, b, log_scale=log_scale, mask=mask)
        return siglip_loss(a, b, log_scale=log_scale, bias=self.bias, mask=mask)


def _pair_mask(mask: Mapping[str, Tensor] | None, a: str, b: str) -> Tensor | None:
    if mask is None:
        return None
    present = [mask[name] for name in (a, b) if name in mask]
    return torch.stack(present).all(dim=0) if present else None


def retrieval_ranks(query: Tensor, gallery: Tensor, *, target: Tensor | None = None) -> Tensor:
    """Rank of the right candidate for every query; ties count against us.

    Args:
        query: Embeddings ``[Q, d]``.
        gallery: Candidates ``[G, d]``.
        target: Row of the gallery that is right for each query, int64 ``[Q]``; by default query
            ``i`` belongs to candidate ``i`` (then ``Q`` must equal ``G``).

    Returns:
        int64 ``[Q]``; 1 is best. A rank counts every *other* candidate that is at least as
        similar as the right one, so a constant embedding gets the worst rank and not the best.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"expected [Q, d] and [G, d], got {tuple(query.shape)} and {tuple(gallery.shape)}"
        )
    if target is None:
        if len(query) != len(gallery):
            raise ValueError(
                f"{len(query)} queries and {len(gallery)} candidates: pass `target` to say "
                "which candidate belongs to which query"
            )
        target = torch.arange(len(query), device=query.device)
    query = functional.normalize(query.double(), dim=-1)
    gallery = functional.normalize(gallery.double(), dim=-1)
    ranks = []
    for start in range(0, len(query), _CHUNK):  # which bounds the memory
        similarity = query[start : start + _CHUNK] @ gallery.T  # [chunk, G]
        right = target[start : start + _CHUNK, None]
        best = similarity.gather(1, right)
        # Not `>=`: NaN must count against us. The tolerance is the noise of float32 encoders, so
        # equal inputs tie although they were encoded in batches of different sizes.
        ranks.append((~(similarity < best - TIE_TOLERANCE)).sum(dim=1))
    return torch.cat(ranks) if ranks else torch.empty(0, dtype=torch.int64)


def recall_at_k(ranks: Tensor, k: int) -> float:
    """Share of queries whose right candidate is among the first ``k``, in [0, 1]."""
    if len(ranks) == 0:
        raise ValueError("expected at least one rank, got none: is the test split empty?")
    return float((ranks <= k).double().mean())


_CHUNK = 1024  # queries compared at once

"""Counts of items per owner in, whose each item is out: the bookkeeping of flat arrays."""

from __future__ import annotations

import torch
from torch import Tensor


def owners(counts: Tensor, total: int | None = None) -> Tensor:
    """The owner of each item, int64 ``[sum]``.

    Args:
        counts: Items per owner, int64 ``[K]``.
        total: Their sum where it is known, which spares a wait for a GPU.
    """
    every = torch.arange(len(counts), device=counts.device)
    return torch.repeat_interleave(every, counts, output_size=total)


def expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """The owner of each item and its rank within the owner, int64 ``[sum]`` each."""
    owner = owners(counts)
    first = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - first[owner]


def offsets_of(segment: Tensor, num_segments: int) -> Tensor:
    """Offsets ``[num_segments + 1]`` of sorted segment numbers."""
    return torch.searchsorted(segment, torch.arange(num_segments + 1, device=segment.device))

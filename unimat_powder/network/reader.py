"""Views of patterns and what is known of the elements in, symmetries and cells out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from unimat_powder.network.composition import COMPOSITION_FEATURES
from unimat_powder.network.groups import BRAVAIS, GROUPS
from unimat_powder.network.views import PEAK_FEATURES, Views, ln_g_axis

_EPS = 1e-3  # of norms: an empty baseline stays one
_WAVES = 24  # of the positions of peaks
_LONGEST, _SHORTEST = 8.0, 4e-3  # periods in ln g of these and of the rotation of keys
_STRIDES = (4, 4, 2)  # of the convolutions: 32 points a token
_KERNEL = 9
CELL = 6  #: three logarithms of lengths, three cosines
SCALARS = 3  #: ln volume, ln of atoms per volume, ln of mass per volume


class Readout(NamedTuple):
    """What the network says of ``B`` patterns.

    Attributes:
        groups: Logits of the space groups, ``[B, 230]``.
        cells: For each Bravais lattice, ln of lengths (angstrom) and cosines of angles of the
            Niggli cell, ``[B, 14, 6]``.
        cell_spread: ln of the mean error expected of each, ``[B, 14, 6]``.
        scalars: ln of the volume of the primitive cell (cubic angstrom), of atoms per cubic
            angstrom and of g/cm3, ``[B, 3]``.
        scalar_spread: ln of the mean error expected of each, ``[B, 3]``.
    """

    groups: Tensor
    cells: Tensor
    cell_spread: Tensor
    scalars: Tensor
    scalar_spread: Tensor


class Reader(nn.Module):
    """Convolutions over the curve and a list of peaks, joined by attention over ln g.

    Each stretch of the curve and each peak is a token at a place in ln g; attention sees
    differences of places (rotated keys and queries), which an isotropic strain leaves alone. What
    is known of the elements is a token too.

    Args:
        inputs: ``"curve"``, ``"peaks"`` or ``"both"``.
        width: Of the tokens.
        depth: Layers of attention.
        dropout: In all of them.
    """

    def __init__(
        self, *, inputs: str = "both", width: int = 192, depth: int = 6, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if inputs not in ("curve", "peaks", "both"):
            raise ValueError(f"inputs must be 'curve', 'peaks' or 'both', but {inputs!r} came")
        self.settings = {"inputs": inputs, "width": width, "depth": depth, "dropout": dropout}
        self.stem = _Stem(width) if inputs != "peaks" else None
        self.peaks = _peak_embedding(width) if inputs != "curve" else None
        self.composition = nn.Sequential(
            nn.Linear(COMPOSITION_FEATURES, width), nn.GELU(), nn.Linear(width, width)
        )
        self.first = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(2 * width, eps=_EPS)
        self.groups = _head(2 * width, width, GROUPS, dropout)
        self.cells = _head(2 * width, width, len(BRAVAIS) * CELL * 2, dropout)
        self.scalars = _head(2 * width, width, SCALARS * 2, dropout)
        middles = ln_g_axis().reshape(-1, math.prod(_STRIDES)).mean(1).float()
        self.register_buffer("middles", middles, persistent=False)
        self.register_buffer("waves", _wave_numbers(_WAVES), persistent=False)

    def forward(self, views: Views, composition: Tensor) -> Readout:
        """Read patterns; ``composition`` is of :func:`.composition_features`."""
        known = self.composition(composition)
        tokens = [torch.stack([self.first + known, known], 1)]
        place = [known.new_zeros(len(known), 2) + self.middles.mean()]
        there = [torch.ones(len(known), 2, dtype=torch.bool, device=known.device)]
        if self.stem is not None:
            tokens.append(self.stem(views.curve))
            place.append(self.middles.expand(len(known), -1))
            measured = views.curve[:, 1].unflatten(1, (-1, math.prod(_STRIDES))).amax(2) > 0
            there.append(measured)
        if self.peaks is not None:
            angle = views.ln_g[..., None] * self.waves
            waves = torch.cat([angle.sin(), angle.cos(), views.peaks], -1)
            tokens.append(self.peaks(waves))
            place.append(views.ln_g)
            there.append(views.present)
        x = torch.cat(tokens, 1)
        seen = torch.cat(there, 1)
        turn = _rotation(torch.cat(place, 1))
        for block in self.blocks:
            x = block(x, turn, seen)
        share = seen[..., None].to(x.dtype)
        pooled = torch.cat([x[:, 0], (x * share).sum(1) / share.sum(1)], 1)
        return self._readout(self.norm(pooled))

    def _readout(self, x: Tensor) -> Readout:
        cells, spread = self.cells(x).float().unflatten(1, (2, len(BRAVAIS), CELL)).unbind(1)
        offset = cells.new_tensor([1.8, 1.8, 2.0, 0.0, 0.0, 0.0])
        scalars, error = self.scalars(x).float().unflatten(1, (2, SCALARS)).unbind(1)
        middle = scalars.new_tensor([5.5, -2.8, 1.5])
        return Readout(
            self.groups(x).float(),
            cells + offset,
            spread.clamp(-3, 3) * 2 - 3,
            scalars + middle,
            error.clamp(-3, 3) * 2 - 2,
        )


class _Stem(nn.Module):
    """Residual convolutions over the curve, ``[B, 3, POINTS]`` to ``[B, POINTS / 32, width]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = (3, width // 4, width // 2, width)
        steps = []
        for before, after, stride in zip(channels, channels[1:], _STRIDES, strict=False):
            reach = 2 * stride + 1
            steps.append(nn.Conv1d(before, after, reach, stride, (reach - stride + 1) // 2))
            steps += [_Convolutions(after) for _ in range(1 if after == width else 2)]
        self.steps = nn.Sequential(*steps)

    def forward(self, curve: Tensor) -> Tensor:
        return self.steps(curve).mT


class _Convolutions(nn.Module):
    """Depthwise convolution and two linear layers, as a residual (ConvNeXt, arXiv 2201.03545)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.along = nn.Conv1d(channels, channels, _KERNEL, padding=_KERNEL // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=_EPS)
        self.across = nn.Sequential(
            nn.Linear(channels, 3 * channels), nn.GELU(), nn.Linear(3 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.across(self.norm(self.along(x).mT)).mT


class _Block(nn.Module):
    """Attention and two linear layers, each as a residual of normed tokens."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = width // 32
        self.first_norm = nn.LayerNorm(width, eps=_EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.second_norm = nn.LayerNorm(width, eps=_EPS)
        self.across = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        qkv = self.qkv(self.first_norm(x)).unflatten(-1, (3, self.heads, 32))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, T, 32]
        q, k = _rotated(q, turn), _rotated(k, turn)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.across(self.second_norm(x)))


def _rotation(place: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotations of 16 pairs at places ``[B, T]``: ``[B, 1, T, 16]``.

    Source: Su et al., arXiv 2104.09864, with continuous places.
    """
    angle = place[..., None] * _wave_numbers(16).to(place)
    return angle.cos()[:, None], angle.sin()[:, None]


def _rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = (t.to(x.dtype) for t in turn)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


def _wave_numbers(number: int) -> Tensor:
    periods = torch.logspace(math.log10(_LONGEST), math.log10(_SHORTEST), number)
    return 2 * math.pi / periods


def _peak_embedding(width: int) -> nn.Sequential:
    features = 2 * _WAVES + PEAK_FEATURES
    return nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))


def _head(inputs: int, width: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, outputs)
    )

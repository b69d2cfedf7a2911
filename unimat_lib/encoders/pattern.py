"""Powder patterns ``[B, P]`` in, one vector each ``[B, dim]`` out: a one-dimensional ConvNeXt.

Between the layers activations are ``[B, L, C]``, channels last: then every layer but the depthwise
convolution is one matrix product without a transposition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimat_lib.encoders.linear import Linear

_EPS = 1e-6

# Patterns have a maximum of 1 but are mostly zeros, with a root mean square of about 0.1.
_GAIN = 10.0


class PatternEncoder(nn.Module):
    """One-dimensional convolutional network for powder patterns, in the style of ConvNeXt.

    A stem of stride 4, then stages of residual blocks (depthwise convolution over 7 points,
    normalisation over the channels, expansion to 4 times the width, GELU; Liu et al. 2022,
    arXiv:2201.03545), each stage at half the length and twice the width of the one before, up to
    four times the first width. The normalisations have no weights: a linear layer follows each. Two
    channels enter: the intensity, and its square root, which lifts weak peaks (they fix the cell as
    much as strong ones) and evens out counting noise.

    Readout. Where a peak stands is the information (Bragg's law turns positions into lengths), and
    a global average forgets it. So the last stage, one position per 32 points with four stages, is
    reduced to ``position_channels`` channels and flattened: the linear layer that follows has its
    own weights for each position. BatchNorm takes off what all crystals have in common, at the
    start of training nearly everything; it alone sees other crystals.

    Args:
        num_points: Points P of a pattern.
        dim: Size of the embedding.
        width: Channels of the first stage; doubled at the second and third.
        depths: Blocks of each stage.
        position_channels: Channels per position that reach the readout.
        dropout: Share of the flattened features dropped in training.
    """

    def __init__(
        self,
        *,
        num_points: int,
        dim: int,
        width: int = 64,
        depths: Sequence[int] = (2, 2, 4, 2),
        position_channels: int = 32,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.num_points = num_points
        stride = 4 * 2 ** (len(depths) - 1)
        length = math.ceil(num_points / stride)
        self.padding = length * stride - num_points  # zeros appended, so that no point is cut off
        widths = [width * min(2**stage, 4) for stage in range(len(depths))]
        layers: list[nn.Module] = []
        for stage, depth in enumerate(depths):
            layers.append(Downsample(*widths[stage - 1 : stage + 1]) if stage else Stem(width))
            layers.extend(ConvBlock(widths[stage]) for _ in range(depth))
        self.body = nn.Sequential(*layers)
        features = position_channels * length
        self.readout = nn.Sequential(
            *(ChannelNorm(), Linear(widths[-1], position_channels), nn.GELU(), nn.Flatten()),
            *(nn.BatchNorm1d(features, affine=False), nn.Dropout(dropout)),
            *(nn.Linear(features, dim), nn.GELU(), nn.Linear(dim, dim)),
        )

    def forward(self, pattern: Tensor) -> Tensor:
        """Embeddings [B, dim] of patterns [B, P] with a maximum of 1."""
        if pattern.dim() != 2 or pattern.shape[1] != self.num_points:
            what = f"patterns have shape {tuple(pattern.shape)}; expected [B, {self.num_points}]"
            raise ValueError(f"{what}: render or resample them on the grid of the encoder")
        return self.readout(self.body(input_channels(pattern, padding=self.padding)))


def input_channels(pattern: Tensor, *, padding: int) -> Tensor:
    """Intensity [B, P] and its root, scaled to about unit size, with zeros: [B, 2, P + padding]."""
    # The small offset keeps the slope of the root finite at zero.
    root = (pattern.clamp(min=0) + 1e-4).sqrt() - 1e-2
    return F.pad(_GAIN * torch.stack([pattern, root], dim=1), (0, padding))


class Stem(Linear):
    """Convolution over 8 points with stride 4, as a matrix product, to some channels C."""

    def __init__(self, channels: int) -> None:
        super().__init__(2 * 8, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2, P] with P a multiple of 4 to [B, P / 4, C]."""
        windows = F.pad(x, (2, 2)).unfold(2, 8, 4)  # [B, 2, P / 4, 8]
        return super().forward(windows.transpose(1, 2).flatten(2))


class ChannelNorm(nn.Module):
    """Zero mean and unit variance over the channels of each position."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype out as in, [B, L, C]."""
        # What autocast would make of it, float32 in and out, moves twice the bytes.
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, x.shape[-1:], eps=_EPS)


class Downsample(Linear):
    """Normalisation, then a convolution over 2 positions with stride 2, from C to D channels."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(2 * channels_in, channels_out)
        self.norm = ChannelNorm()

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, C] with L even to [B, L / 2, D]."""
        return super().forward(self.norm(x).unflatten(1, (-1, 2)).flatten(2))


class ConvBlock(nn.Module):
    """Residual block of ConvNeXt on [B, L, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.expand = Linear(channels, 4 * channels)
        self.contract = Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in, [B, L, C]."""
        mixed = depthwise_norm(x, self.depthwise.weight, self.depthwise.bias)
        return x + self.contract(F.gelu(self.expand(mixed)))


def depthwise_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise convolution over 7 positions, then normalisation over the channels: ``[B, L, C]``.

    On a GPU both are one kernel (:mod:`unimat_lib.kernels.patterns`), about as fast as the memory.
    The weight ``[C, 1, 7]`` and bias ``[C]`` are as of ``nn.Conv1d``.
    """
    if x.is_cuda:
        from unimat_lib.kernels import patterns  # here: Triton comes with CUDA only

        return patterns.depthwise_norm(x, weight, bias, eps=_EPS)
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return ChannelNorm()(F.conv1d(x.mT, weight, bias, padding=3, groups=len(weight)).mT)

"""The pattern encoder: a one-dimensional ConvNeXt on powder patterns, Tensor[B, dim] out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatternEncoder(nn.Module):
    """One-dimensional convolutional network for powder patterns, in the style of ConvNeXt.

    A stem of stride 4, then stages of residual blocks (depthwise convolution over 7 points,
    normalisation, expansion to 4 times the width, GELU; Liu et al. 2022, arXiv:2201.03545), each
    stage at half the length and twice the width of the one before. GroupNorm with one group keeps
    the relative heights along the pattern and, unlike BatchNorm, does the same in training and in
    evaluation.

    Two channels enter: the intensity, and its square root, which lifts weak peaks (they fix the
    cell as much as strong ones) and evens out counting noise.

    Readout. Where a peak stands is the information (Bragg's law turns positions into lengths), and
    a global average forgets it. So the last stage, one position per 32 points with four stages, is
    reduced to ``position_channels`` channels and flattened: the final linear layer has its own
    weights for each position.

    With 4,096 points ``width=64, depths=(2, 2, 4, 2)`` has about 8 million parameters;
    with 1,024 points ``width=16, depths=(1, 1, 1, 1)`` about 0.3 million and is quick on a CPU.

    Args:
        num_points: Points P of a pattern.
        dim: Size of the embedding.
        width: Channels of the first stage; doubled at each further stage.
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
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_points = num_points
        stride = 4 * 2 ** (len(depths) - 1)
        length = math.ceil(num_points / stride)
        self.padding = length * stride - num_points  # zeros appended, so that no point is cut off
        widths = [width * 2**stage for stage in range(len(depths))]
        layers: list[nn.Module] = [nn.Conv1d(2, width, 8, stride=4, padding=2)]
        for stage, depth in enumerate(depths):
            if stage:
                layers.append(nn.GroupNorm(1, widths[stage - 1]))
                layers.append(nn.Conv1d(widths[stage - 1], widths[stage], 2, stride=2))
            layers.extend(ConvBlock(widths[stage]) for _ in range(depth))
        self.body = nn.Sequential(*layers)
        self.readout = nn.Sequential(
            nn.GroupNorm(1, widths[-1]),
            nn.Conv1d(widths[-1], position_channels, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(position_channels * length, dim),
        )

    def forward(self, pattern: Tensor) -> Tensor:
        """Embeddings [B, dim] of patterns [B, P] with a maximum of 1."""
        if pattern.dim() != 2 or pattern.shape[1] != self.num_points:
            raise ValueError(
                f"patterns have shape {tuple(pattern.shape)}; expected [B, {self.num_points}]. "
                "Render or resample them on the grid the encoder was built for."
            )
        # The small offset keeps the slope of the root finite at zero.
        root = (pattern.clamp(min=0) + 1e-4).sqrt() - 1e-2
        channels = F.pad(torch.stack([pattern, root], dim=1), (0, self.padding))  # [B, 2, P']
        return self.readout(self.body(channels))


class ConvBlock(nn.Module):
    """Residual block of ConvNeXt on [B, C, L].

    Args:
        channels: Channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, channels, 7, padding=3, groups=channels),
            nn.GroupNorm(1, channels),
            nn.Conv1d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv1d(4 * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in, [B, C, L]."""
        return x + self.layers(x)

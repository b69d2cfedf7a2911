"""Patterns in, depthwise convolution and normalisation in one pass out, as Triton kernels.

Bound by memory: unfused, the two operations and their backward move the activations about twenty
times between chip and memory; here it is seven times. Nothing but ``x`` is kept for backward, which
computes the convolution again. All sums have a fixed order, so results repeat exactly.

The arrays are ``[N, C]`` with ``N = B L`` rows; row ``n`` is position ``n % L`` of pattern
``n // L``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_PROGRAMS = 1024  # of the kernel that sums over all rows: a few for each of a GPU's processors


def depthwise_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """Depthwise convolution over 7 positions, then zero mean and unit variance over the channels.

    Args:
        x: float32, bfloat16 or float16 ``[B, L, C]``; the result has its shape and dtype.
        weight: float32 ``[C, 1, 7]``, as of ``nn.Conv1d``.
        bias: float32 ``[C]``.
        eps: Added to the variance.

    Raises:
        ValueError: If ``x`` has more elements than a 32-bit index counts.
    """
    if x.numel() >= 2**31:
        raise ValueError(f"expected fewer than 2**31 elements, got {x.numel()}: reduce the batch")
    return _DepthwiseNorm.apply(x.contiguous(), weight, bias, eps)


class _DepthwiseNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        taps = weight.detach()[:, 0].t().contiguous()  # [7, C]: neighbouring channels together
        ctx.save_for_backward(x, taps, bias)
        ctx.eps = eps
        out = torch.empty_like(x)
        grid, shape = _row_tiles(x)
        _forward_kernel[grid](x, taps, bias, out, *shape, eps)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor):
        x, taps, bias = ctx.saved_tensors
        grad_convolution = torch.empty_like(x)
        grid, shape = _row_tiles(x)
        _backward_norm_kernel[grid](
            x, taps, bias, grad_out.contiguous(), grad_convolution, *shape, ctx.eps
        )
        grad_x = torch.empty_like(x)
        length, channels = x.shape[1:]
        rows, columns = 16, 64
        column_tiles = triton.cdiv(channels, columns)
        row_tiles = triton.cdiv(x.numel() // channels, rows)
        programs = min(row_tiles, triton.cdiv(_PROGRAMS, column_tiles))
        sums = x.new_empty(programs, 8, channels, dtype=torch.float32)
        _backward_convolution_kernel[programs, column_tiles](
            x, taps, grad_convolution, grad_x, sums, x.numel() // channels, length, channels,
            rows, columns,
        )  # fmt: skip
        total = sums.sum(dim=0)  # [8, C]
        return grad_x, total[:7].t()[:, None].contiguous(), total[7], None


def _row_tiles(x: Tensor) -> tuple[tuple[int], tuple[int, ...]]:
    """Grid, and the arguments that tell a kernel its shape, for tiles of whole rows."""
    length, channels = x.shape[1:]
    num_rows = x.numel() // channels
    columns = triton.next_power_of_2(channels)
    rows = max(1, 4096 // columns)
    return (triton.cdiv(num_rows, rows),), (num_rows, length, channels, rows, columns)


@triton.jit
def _convolve(x, taps, bias, row, column, num_rows, length, channels):
    """The convolution at a tile of rows and columns, float32 ``[ROWS, COLUMNS]``."""
    position = row % length
    total = tl.load(bias + column, mask=column < channels, other=0.0)[None, :].to(tl.float32)
    for tap in tl.static_range(7):
        there = position + tap - 3
        inside = (row < num_rows) & (there >= 0) & (there < length)
        value = tl.load(
            x + (row + tap - 3)[:, None] * channels + column[None, :],
            mask=inside[:, None] & (column < channels)[None, :],
            other=0.0,
        )
        factor = tl.load(taps + tap * channels + column, mask=column < channels, other=0.0)
        total += factor[None, :].to(tl.float32) * value.to(tl.float32)
    return total


@triton.jit
def _normalise(value, column, channels, eps):
    """Rows of zero mean and unit variance, and one over their standard deviation."""
    mean = tl.sum(value, axis=1) / channels
    centred = tl.where((column < channels)[None, :], value - mean[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, axis=1) / channels + eps)
    return centred * inverse[:, None], inverse


@triton.jit
def _forward_kernel(
    x, taps, bias, out, num_rows, length, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, eps,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    value = _convolve(x, taps, bias, row, column, num_rows, length, channels)
    normed, _ = _normalise(value, column, channels, eps)
    offset = row[:, None] * channels + column[None, :]
    mask = (row < num_rows)[:, None] & (column < channels)[None, :]
    tl.store(out + offset, normed.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _backward_norm_kernel(
    x, taps, bias, grad_out, grad_convolution, num_rows, length, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, eps,
):  # fmt: skip
    """The gradient of the convolution's output; the output itself is computed again."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    value = _convolve(x, taps, bias, row, column, num_rows, length, channels)
    normed, inverse = _normalise(value, column, channels, eps)
    offset = row[:, None] * channels + column[None, :]
    mask = (row < num_rows)[:, None] & (column < channels)[None, :]
    grad = tl.load(grad_out + offset, mask=mask, other=0.0).to(tl.float32)
    along_mean = tl.sum(grad, axis=1) / channels
    along_normed = tl.sum(grad * normed, axis=1) / channels
    grad = (grad - along_mean[:, None] - normed * along_normed[:, None]) * inverse[:, None]
    tl.store(grad_convolution + offset, grad.to(grad_convolution.dtype.element_ty), mask=mask)


@triton.jit
def _backward_convolution_kernel(
    x, taps, grad_convolution, grad_x, sums, num_rows, length, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of input and weights, which need the same shifted rows, ``[8, ROWS, COLUMNS]``.

    Seven of the eight slices are the taps. The eighth is not shifted and has no part in the
    convolution; summed over rows it is the gradient of the bias.
    """
    tap = tl.arange(0, 8)
    shift = tl.where(tap < 7, 3 - tap, 0)[:, None, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < channels
    factor = tl.load(
        taps + tap[:, None] * channels + column[None, :],
        mask=(tap < 7)[:, None] & known[None, :],
        other=0.0,
    ).to(tl.float32)[:, None, :]  # [8, 1, COLUMNS]
    total = tl.zeros([8, ROWS, COLUMNS], dtype=tl.float32)
    first = tl.program_id(0) * ROWS
    while first < num_rows:
        row = first + tl.arange(0, ROWS)
        there = (row % length)[None, :, None] + shift
        inside = (row < num_rows)[None, :, None] & (there >= 0) & (there < length)
        shifted = (row[None, :, None] + shift) * channels + column[None, None, :]
        grad = tl.load(
            grad_convolution + shifted, mask=inside & known[None, None, :], other=0.0
        ).to(tl.float32)
        offset = row[:, None] * channels + column[None, :]
        mask = (row < num_rows)[:, None] & known[None, :]
        value = tl.load(x + offset, mask=mask, other=0.0).to(tl.float32)
        tl.store(
            grad_x + offset, tl.sum(factor * grad, axis=0).to(grad_x.dtype.element_ty), mask=mask
        )
        total += grad * tl.where((tap < 7)[:, None, None], value[None, :, :], 1.0)
        first += tl.num_programs(0) * ROWS
    tl.store(
        sums + (tl.program_id(0) * 8 + tap[:, None]) * channels + column[None, :],
        tl.sum(total, axis=1),
        mask=known[None, :],
    )

"""Linear layers in, the same out with a gradient of the bias that does not hold up the GPU.

The gradient of a bias is the sum of a matrix over its rows. PyTorch's kernel gives each column to
few threads; for the tall, narrow matrices of the encoders (some hundred columns) that is five times
slower than the memory: on an H100, batch 512, 2.0 of 8.7 ms of the structure encoder's step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

_ROWS = 64  # rows that are added up first


class Linear(nn.Linear):
    """``nn.Linear`` with :func:`column_sum` for the gradient of the bias, on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        if not x.is_cuda or self.bias is None:
            return super().forward(x)
        inputs = x, self.weight, self.bias
        if torch.is_autocast_enabled("cuda"):
            inputs = (tensor.to(torch.get_autocast_dtype("cuda")) for tensor in inputs)
        return _LinearFunction.apply(*inputs)


class _LinearFunction(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)  # [M, out]
        to_x = grad @ weight if ctx.needs_input_grad[0] else None
        return to_x, rows.T @ x.flatten(0, -2), column_sum(rows)


def column_sum(matrix: Tensor) -> Tensor:
    """Sum [F] over the rows of a matrix [M, F] in two steps, float32 (or wider).

    The first step has a sum for each 64 rows and column, enough to keep all of a GPU busy.
    """
    dtype = torch.promote_types(matrix.dtype, torch.float32)
    whole = len(matrix) // _ROWS * _ROWS
    parts = matrix[:whole].unflatten(0, (-1, _ROWS)).sum(1, dtype=dtype)  # [M / 64, F]
    return torch.cat([parts, matrix[whole:]]).sum(0)


def use_column_sums(module: nn.Module) -> None:
    """Make each ``nn.Linear`` with a bias, also one that a library has built, a :class:`Linear`."""
    for child in module.modules():
        if type(child) is nn.Linear and child.bias is not None:
            child.__class__ = Linear

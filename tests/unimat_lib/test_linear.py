"""The layer with its own gradient of the bias, against PyTorch's."""

import pytest
import torch
from torch import nn

from unimat_lib.encoders.linear import Linear, _LinearFunction, column_sum, use_column_sums


@pytest.mark.parametrize("shape", [(5, 7), (64, 7), (200, 7), (3, 70, 7)])
@pytest.mark.parametrize("needs_x", [True, False])
def test_values_and_gradients_equal_those_of_pytorch(shape, needs_x):
    torch.manual_seed(0)
    layer = nn.Linear(7, 4).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=needs_x)
    weights = torch.randn(*shape[:-1], 4, dtype=torch.float64)
    outputs, gradients = [], []
    for function in (layer, lambda x: _LinearFunction.apply(x, layer.weight, layer.bias)):
        layer.zero_grad()
        x.grad = None
        outputs.append(function(x))
        (outputs[-1] * weights).sum().backward()
        gradients.append([layer.weight.grad, layer.bias.grad, x.grad])
    torch.testing.assert_close(outputs[1], outputs[0])
    for ours, theirs in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 1000])
def test_column_sum_is_the_sum_in_float32(rows):
    matrix = torch.randn(rows, 5)
    torch.testing.assert_close(column_sum(matrix), matrix.sum(0), atol=1e-5, rtol=1e-5)
    half = column_sum(matrix.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, matrix.bfloat16().float().sum(0), atol=1e-4, rtol=1e-5)


def test_exchange_keeps_parameters_and_names():
    module = nn.Sequential(nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 2, bias=False)]))
    before = dict(module.named_parameters())
    use_column_sums(module)
    after = dict(module.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert isinstance(module[0], Linear)
    assert type(module[1][0]) is nn.Linear  # without a bias there is nothing to gain
    assert (module[0].in_features, module[0].out_features) == (3, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_under_autocast():
    torch.manual_seed(0)
    layer = Linear(128, 64).cuda()
    x = torch.randn(1000, 128, device="cuda")
    weights = torch.randn(1000, 64, device="cuda")
    gradients = []
    for function in (layer, lambda x: nn.functional.linear(x, layer.weight, layer.bias)):
        layer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            out = function(x)
        assert out.dtype == torch.bfloat16
        (out.float() * weights).sum().backward()
        gradients.append((layer.weight.grad, layer.bias.grad))
        assert layer.bias.grad.dtype == torch.float32
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() / theirs.norm() < 5e-3

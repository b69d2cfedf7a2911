import copy
import os
import sys
from pathlib import Path

import pytest
import torch
from learning import assert_all_learn, fit
from torch import nn
from torch.nn import functional

from unimat_lib.encoders.pattern import PatternEncoder, depthwise_norm

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from pattern import LinearBlock, PlainBlock, PlainEncoder, as_convolution

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's kernels on the CPU, slowly
needs_kernels = pytest.mark.skipif(
    not (torch.cuda.is_available() or INTERPRETED), reason="needs a GPU or TRITON_INTERPRET=1"
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def peaks(positions, num_points=512, width=2.0):
    grid = torch.arange(num_points)
    return torch.exp(-(((grid - torch.as_tensor(positions)[..., None]) / width) ** 2) / 2).sum(-2)


@pytest.mark.parametrize("num_points", [512, 1000, 1001, 4500])
@pytest.mark.parametrize("depths", [(1,), (1, 1, 1), (1, 1, 2, 1)])
def test_pattern_encoder_takes_any_length(num_points, depths):
    encoder = PatternEncoder(num_points=num_points, dim=12, width=4, depths=depths)
    assert encoder(torch.rand(3, num_points)).shape == (3, 12)
    assert encoder(torch.zeros(2, num_points)).isfinite().all()


def test_pattern_of_wrong_length():
    encoder = PatternEncoder(num_points=512, dim=12, width=4)
    with pytest.raises(ValueError, match=r"\(2, 500\); expected \[B, 512\]"):
        encoder(torch.zeros(2, 500))


def test_number_of_parameters():
    def count(**arguments):
        encoder = PatternEncoder(dim=256, **arguments)
        return sum(p.numel() for p in encoder.parameters()) / 1e6

    assert 1.8 < count(num_points=4096, width=48, depths=(1, 1, 2, 1), position_channels=24) < 2
    assert 0.2 < count(num_points=1024, width=16, depths=(1, 1, 1, 1)) < 0.6


@pytest.mark.parametrize("block", [PlainBlock, LinearBlock])
def test_standard_layers_give_the_same(block):
    torch.manual_seed(0)
    encoder = PatternEncoder(num_points=500, dim=12, width=8, depths=(1, 2, 1), dropout=0.0)
    plain = PlainEncoder(encoder, block)
    patterns, weights = torch.rand(4, 500) ** 8, torch.randn(4, 12)
    outputs = [module(patterns) for module in (encoder, plain)]
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)
    for out in outputs:
        (out * weights).sum().backward()
    for mine, other in zip(plain.parameters(), encoder.parameters(), strict=True):
        scale = mine.grad.abs().max()
        torch.testing.assert_close(
            as_convolution(other.grad, mine), mine.grad, atol=1e-4 * scale.item(), rtol=1e-3
        )


@needs_kernels
@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 9, 16), (3, 20, 12), (2, 5, 130), (1, 40, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_against_plain_layers(shape, dtype):
    from unimat_lib.kernels import patterns as pattern_kernels

    torch.manual_seed(0)
    channels = shape[-1]
    x, grad = torch.randn(2, *shape, device=DEVICE).to(dtype)
    weight = 0.4 * torch.randn(channels, 1, 7, device=DEVICE)
    bias = torch.randn(channels, device=DEVICE)

    def gradients(function, dtype):
        given = [tensor.detach().requires_grad_() for tensor in (x.to(dtype), weight, bias)]
        out = function(*given)
        return out, *torch.autograd.grad(out, given, grad.to(dtype))

    def plain(x, weight, bias):
        mixed = functional.conv1d(x.mT, weight, bias, padding=3, groups=channels).mT
        return functional.layer_norm(mixed, (channels,), eps=1e-6)

    found = gradients(lambda *a: pattern_kernels.depthwise_norm(*a, eps=1e-6), dtype)
    expected = gradients(plain, torch.float32)
    assert found[0].dtype == found[1].dtype == dtype
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2  # of the largest value
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(
            ours.float(), theirs, atol=tolerance * theirs.abs().max().item(), rtol=0
        )


@needs_kernels
def test_kernels_repeat_exactly_and_refuse_what_they_cannot_index(monkeypatch):
    from unimat_lib.kernels import patterns as pattern_kernels

    monkeypatch.setattr(pattern_kernels, "_PROGRAMS", 2)  # several tiles per program
    torch.manual_seed(0)
    x = torch.randn(2, 50, 16, device=DEVICE)
    weight = torch.randn(16, 1, 7, device=DEVICE, requires_grad=True)
    bias = torch.zeros(16, device=DEVICE)

    def gradient(normed, weight):
        return torch.autograd.grad(normed.sigmoid().sum(), weight)[0]

    first, second = (
        gradient(pattern_kernels.depthwise_norm(x, weight, bias, eps=1e-6), weight)
        for _ in range(2)
    )
    assert torch.equal(first, second)
    on_cpu = weight.detach().cpu().requires_grad_()
    expected = gradient(depthwise_norm(x.cpu(), on_cpu, bias.cpu()), on_cpu)
    torch.testing.assert_close(first.cpu(), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="reduce the batch"):
        pattern_kernels.depthwise_norm(
            torch.empty(1, device=DEVICE).expand(2, 2**30, 1), weight, bias, eps=1e-6
        )


def test_pattern_encoder_gradients_and_batching():
    torch.manual_seed(0)
    encoder = PatternEncoder(num_points=512, dim=12, width=8, depths=(1, 1, 1))
    patterns = torch.rand(4, 512) ** 4
    assert_all_learn(encoder, encoder(patterns))
    encoder.eval()
    alone = torch.cat([encoder(p[None]) for p in patterns])
    torch.testing.assert_close(encoder(patterns), alone, atol=1e-5, rtol=1e-5)
    patterns[:, ::2] = 0
    patterns.requires_grad_()
    encoder(patterns).sum().backward()
    assert patterns.grad.isfinite().all()


def test_evaluation_follows_training():
    # BatchNorm's running statistics settle on those of the data: both modes then agree.
    torch.manual_seed(0)
    encoder = PatternEncoder(num_points=512, dim=12, width=8, depths=(1, 1, 1), dropout=0.0)
    patterns = peaks(500 * torch.rand(64, 12))
    with torch.no_grad():
        for _ in range(150):
            trained = encoder(patterns)
    average = copy.deepcopy(encoder).eval()  # what is evaluated: buffers travel with a copy
    torch.testing.assert_close(average(patterns), trained, atol=0.05, rtol=0.05)


def test_pattern_encoder_in_bfloat16():
    encoder = PatternEncoder(num_points=512, dim=12, width=8, depths=(1, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(torch.rand(2, 512)).isfinite().all()


def with_head(encoder, size):
    return nn.Sequential(encoder, nn.Linear(encoder.readout[-1].out_features, size))


def test_positions_of_peaks_survive():
    # The same peaks shifted as a whole: a global average could not tell one from the other.
    torch.manual_seed(0)
    shift = torch.arange(0, 256, 4)
    patterns = peaks(shift[:, None] + torch.tensor([100.0, 130.0, 190.0]))
    target = (shift / 128.0 - 1)[:, None]
    encoder = with_head(PatternEncoder(num_points=512, dim=16, width=8, depths=(1, 1, 1, 1)), 1)
    losses = fit(encoder, patterns, target, steps=60)
    assert losses[-1] < losses[0] / 10
    with torch.no_grad():
        for _ in range(60):  # the averages of BatchNorm lag behind weights that change fast
            encoder(patterns)
        out = encoder.eval()(patterns)
    assert (out.diff(dim=0) > 0).float().mean() > 0.8  # in the order of the shift


def test_descriptions_of_different_patterns_differ_from_the_start():
    # Otherwise training begins with a long plateau.
    torch.manual_seed(0)
    encoder = PatternEncoder(num_points=512, dim=64, width=8, depths=(1, 1, 1))
    out = encoder(peaks(500 * torch.rand(64, 12)))
    assert out.std(dim=0).mean() > 1.5 * out.mean(dim=0).std()


def test_pattern_encoder_learns_sixteen_patterns():
    torch.manual_seed(0)
    patterns, target = peaks(500 * torch.rand(16, 12)), torch.randn(16, 6)
    encoder = with_head(PatternEncoder(num_points=512, dim=32, width=8, depths=(1, 1, 1)), 6)
    losses = fit(encoder, patterns, target)
    assert losses[-1] < losses[0] / 10

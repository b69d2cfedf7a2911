import pytest
import torch
from learning import assert_all_learn, fit

from unimat_lib.pattern_encoder import PatternEncoder


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

    assert 6 < count(num_points=4096) < 9
    assert 0.2 < count(num_points=1024, width=16, depths=(1, 1, 1, 1)) < 0.6


def test_pattern_encoder_gradients_and_batching():
    torch.manual_seed(0)
    encoder = PatternEncoder(num_points=512, dim=12, width=8, depths=(1, 1, 1))
    patterns = torch.rand(4, 512) ** 4
    out = encoder(patterns)
    assert_all_learn(encoder, out)
    alone = torch.cat([encoder(p[None]) for p in patterns])
    torch.testing.assert_close(out, alone, atol=1e-5, rtol=1e-5)
    patterns[:, ::2] = 0
    patterns.requires_grad_()
    encoder(patterns).sum().backward()
    assert patterns.grad.isfinite().all()


def test_pattern_encoder_in_bfloat16():
    encoder = PatternEncoder(num_points=512, dim=12, width=8, depths=(1, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(torch.rand(2, 512)).isfinite().all()


def test_positions_of_peaks_survive():
    # The same peaks shifted as a whole: a global average could not tell one from the other.
    torch.manual_seed(0)
    shift = torch.arange(0, 256, 4)
    patterns = peaks(shift[:, None] + torch.tensor([100.0, 130.0, 190.0]))
    target = (shift / 128.0 - 1)[:, None]
    encoder = PatternEncoder(num_points=512, dim=1, width=8, depths=(1, 1, 1, 1))
    losses = fit(encoder, patterns, target, steps=60)
    assert losses[-1] < losses[0] / 10
    with torch.no_grad():
        out = encoder.eval()(patterns)
    assert (out.diff(dim=0) > 0).float().mean() > 0.8  # in the order of the shift


def test_pattern_encoder_learns_sixteen_patterns():
    torch.manual_seed(0)
    patterns, target = peaks(500 * torch.rand(16, 12)), torch.randn(16, 6)
    encoder = PatternEncoder(num_points=512, dim=6, width=8, depths=(1, 1, 1))
    losses = fit(encoder, patterns, target)
    assert losses[-1] < losses[0] / 10


# ---- composition encoder

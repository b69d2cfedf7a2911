"""Fusion strategies: one interface, masks that really hide, gradients."""

import pytest
import torch

from unimat_lib.fusion import FUSIONS, make_fusion

B, M, D = 5, 3, 16


@pytest.fixture
def tokens():
    return torch.randn(B, M, D, generator=torch.Generator().manual_seed(0))


def _make(kind):
    torch.manual_seed(0)
    return make_fusion(kind, num_modalities=M, dim=D).eval()


@pytest.mark.parametrize("kind", FUSIONS)
def test_candidates_and_weights(kind, tokens):
    features, weights = _make(kind)(tokens)
    candidates = M if kind == "late" else 1
    assert features.shape == (B, candidates, D)
    assert weights.shape == (B, candidates)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(B))


@pytest.mark.parametrize("kind", FUSIONS)
def test_an_absent_modality_has_no_influence(kind, tokens):
    fusion = _make(kind)
    mask = torch.ones(B, M, dtype=torch.bool)
    mask[:, 1] = False
    other = tokens.clone()
    other[:, 1] = float("nan")
    features, weights = fusion(tokens, mask)
    features_other, weights_other = fusion(other, mask)

    def answer(f, w):  # what the heads see: a candidate of weight zero does not count
        return torch.where(w[..., None] > 0, f, 0.0), w

    torch.testing.assert_close(answer(features, weights), answer(features_other, weights_other))
    assert torch.isfinite(features_other * weights_other[..., None]).all()


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_full_mask_is_no_mask(kind, tokens):
    fusion = _make(kind)
    full = torch.ones(B, M, dtype=torch.bool)
    torch.testing.assert_close(fusion(tokens), fusion(tokens, full))


@pytest.mark.parametrize("kind", FUSIONS)
def test_rows_are_independent(kind, tokens):
    fusion = _make(kind)
    whole, _ = fusion(tokens)
    alone = torch.cat([fusion(tokens[i : i + 1])[0] for i in range(B)])
    torch.testing.assert_close(whole, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", FUSIONS)
def test_every_parameter_gets_a_gradient(kind, tokens):
    fusion = _make(kind)
    mask = torch.ones(B, M, dtype=torch.bool)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = False
    features, weights = fusion(tokens, mask)
    (weights[..., None] * features).pow(2).sum().backward()
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match="expected a fusion of"):
        make_fusion("sum", num_modalities=2, dim=4)

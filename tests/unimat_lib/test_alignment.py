"""Contrastive losses and retrieval: limits, invariances, masks, ties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from unimat_lib.alignment import AlignmentLoss, clip_loss, recall_at_k, retrieval_ranks, siglip_loss


def _pair(size=12, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, dim, generator=generator), torch.randn(size, dim, generator=generator)


def _log(value):
    return torch.tensor(float(value)).log()


def test_clip_loss_is_the_mean_of_two_softmax_classifications():
    a, b = _pair()
    similarity = functional.normalize(a) @ functional.normalize(b).T * 7
    expected = 0
    for logits in (similarity, similarity.T):
        expected -= logits.log_softmax(dim=1).diagonal().mean() / 2
    torch.testing.assert_close(clip_loss(a, b, log_scale=_log(7)), expected)


def test_indistinguishable_embeddings_cost_the_logarithm_of_the_batch():
    ones = torch.ones(32, 4)
    loss = clip_loss(ones, ones, log_scale=_log(50))
    assert loss.item() == pytest.approx(math.log(32), abs=1e-5)


def test_perfect_alignment_costs_nothing():
    eye = torch.eye(16)
    assert clip_loss(eye, eye, log_scale=_log(100)).item() < 1e-6


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_losses_ignore_order_and_length_of_the_embeddings(loss):
    a, b = _pair()
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(1))

    def value(x, y):
        if loss == "clip":
            return clip_loss(x, y, log_scale=_log(10))
        return siglip_loss(x, y, log_scale=_log(10), bias=torch.tensor(-5.0))

    torch.testing.assert_close(value(a, b), value(a[order], b[order]))
    torch.testing.assert_close(value(a, b), value(3 * a, 0.1 * b))
    torch.testing.assert_close(value(a, b), value(b, a))


def test_masked_rows_are_neither_queries_nor_candidates():
    a, b = _pair(10)
    mask = torch.tensor([True] * 6 + [False] * 4)
    b[~mask] = 1e3  # an absent row holds anything finite
    whole = clip_loss(a, b, log_scale=_log(9), mask=mask)
    torch.testing.assert_close(whole, clip_loss(a[mask], b[mask], log_scale=_log(9)))


def test_three_modalities_average_three_pairs():
    a, b = _pair()
    c, _ = _pair(seed=5)
    loss = AlignmentLoss()
    pairs = [loss({"x": x, "y": y}) for x, y in ((a, b), (a, c), (b, c))]
    torch.testing.assert_close(
        loss({"structure": a, "xrd": b, "composition": c}), torch.stack(pairs).mean()
    )


@pytest.mark.parametrize("beyond", [False, True])
def test_temperature_is_learned_also_beyond_its_limit(beyond):
    # A clamp in the forward pass would leave it there for ever, with a gradient of zero.
    loss = AlignmentLoss(start_scale=99.0)
    a, _ = _pair()
    with torch.no_grad():
        loss.log_scale.add_(0.1 if beyond else 0.0)
    loss({"xrd": a, "structure": a + 2 * a.roll(1, 0)}).backward()
    assert loss.log_scale.grad > 0  # most partners are not the nearest: it should be warmer
    loss.clamp_()
    assert loss.scale.item() == pytest.approx(100 if beyond else 99)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 120.0, math.inf, math.nan])
def test_a_temperature_that_none_is_refused(scale):
    with pytest.raises(ValueError, match=r"start_scale in \(0, 100\]"):
        AlignmentLoss(start_scale=scale)


def test_gradients_agree_with_finite_differences():
    a, b = (x.double()[:4, :3].clone().requires_grad_() for x in _pair())

    def total(x, y):
        # The library computes in float32: compare in it, with a coarse step.
        return clip_loss(x, y, log_scale=_log(3)).double()

    assert torch.autograd.gradcheck(total, (a, b), eps=1e-2, atol=1e-3, rtol=1e-2)


def test_bad_input_is_refused():
    a, b = _pair()
    with pytest.raises(ValueError, match="one shape"):
        clip_loss(a, b[:-1], log_scale=_log(1))
    with pytest.raises(ValueError, match="at least two modalities"):
        AlignmentLoss()({"xrd": a})
    with pytest.raises(ValueError, match="'clip', 'siglip'"):
        AlignmentLoss(kind="triplet")


def test_ranks_count_better_and_equal_candidates():
    gallery = torch.eye(4)
    query = torch.tensor([[0.9, 0.1, 0, 0], [1.0, 0.5, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]])
    assert retrieval_ranks(query, gallery).tolist() == [1, 2, 1, 4]


def test_constant_embeddings_get_the_worst_rank():
    ones = torch.ones(20, 3)
    ranks = retrieval_ranks(ones, ones)
    assert ranks.tolist() == [20] * 20
    assert recall_at_k(ranks, 1) == 0.0


def test_embeddings_that_are_not_numbers_get_the_worst_rank():
    query = torch.full((5, 3), float("nan"))
    assert retrieval_ranks(query, torch.eye(5, 3)).tolist() == [5] * 5


def test_rounding_does_not_break_ties():
    gallery = torch.ones(6, 3)
    noisy = gallery + 1e-8 * torch.arange(18).reshape(6, 3)
    assert retrieval_ranks(gallery, noisy).tolist() == [6] * 6


def test_chunks_do_not_change_the_ranks(monkeypatch):
    a, b = _pair(50)
    whole = retrieval_ranks(a, b)
    monkeypatch.setattr("unimat_lib.alignment._CHUNK", 7)
    assert torch.equal(retrieval_ranks(a, b), whole)


def test_target_names_the_right_candidate():
    a, b = _pair(6)
    target = torch.tensor([3, 3, 1])
    ranks = retrieval_ranks(b[target], b, target=target)
    assert ranks.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="target"):
        retrieval_ranks(a[:2], b)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 40))
def test_recall_is_monotonous_in_k(ranks, k):
    ranks = torch.tensor(ranks)
    assert 0 <= recall_at_k(ranks, k) <= recall_at_k(ranks, k + 1) <= 1
    assert recall_at_k(ranks, 40) == 1


def test_recall_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="got none"):
        recall_at_k(torch.empty(0), 1)


def test_inverse_temperature_at_the_start():
    assert AlignmentLoss(start_scale=40.0).scale.item() == pytest.approx(40.0)
    assert AlignmentLoss().scale.item() == pytest.approx(1 / 0.07)
    assert AlignmentLoss(kind="siglip").scale.item() == pytest.approx(10.0)

import numpy as np
import torch
from learning import assert_all_learn, fit

from unimat_lib.encoders.composition import CompositionEncoder


def test_composition_encoder():
    torch.manual_seed(0)
    encoder = CompositionEncoder(num_features=132, dim=12, hidden=64)
    features = torch.randn(16, 132)
    out = encoder.eval()(features)
    assert out.shape == (16, 12)
    assert_all_learn(encoder, out)
    torch.testing.assert_close(out[:1], encoder(features[:1]), atol=1e-5, rtol=1e-5)
    assert not torch.equal(encoder.train()(features), encoder(features))  # dropout
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(features).isfinite().all()
    losses = fit(encoder, features, torch.randn(16, 12), steps=200)
    assert np.mean(losses[-5:]) < losses[0] / 10

"""What the tests of the encoders share: a short training, and the check of all gradients."""

import torch


def fit(module, inputs, target, steps=60, rate=3e-3):
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        loss = (module(inputs) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def assert_all_learn(module, out):
    (out * torch.randn(out.shape)).sum().backward()
    for name, parameter in module.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name

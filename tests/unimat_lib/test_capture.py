"""The captured step: inputs of any nesting; on a GPU the replay equals the plain step."""

import copy

import pytest
import torch

from unimat_lib.training.captured_step import CapturedStep, mapped, tensors_in
from unimat_lib.views.batch import Batch, Targets

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def make_batch():
    targets = Targets(torch.rand(4, 3), torch.rand(4, 3), torch.rand(4, 3), torch.arange(4))
    return Batch(views={"xrd": torch.rand(4, 8)}, targets=targets)


def test_tensors_of_a_nesting_and_back():
    nested = (make_batch(), None, [torch.ones(2), "text"])
    tensors = tensors_in(nested)
    assert len(tensors) == 6
    doubled = mapped(nested, lambda tensor: 2 * tensor)
    assert isinstance(doubled[0], Batch)
    assert doubled[1] is None
    assert doubled[2][1] == "text"
    torch.testing.assert_close(doubled[0].targets.lengths, 2 * nested[0].targets.lengths)
    left = iter(tensors)
    again = mapped(nested, lambda _: next(left))
    assert [x.data_ptr() for x in tensors_in(again)] == [x.data_ptr() for x in tensors]


def test_on_a_cpu_every_call_is_the_function():
    step = CapturedStep(lambda x: {"sum": x.sum()}, device=torch.device("cpu"), capture=True)
    for size in (3, 4, 3, 3, 3, 3):
        with step.preparing():
            x = torch.ones(size)
        assert step(x)["sum"] == size


@pytest.mark.gpu
@needs_gpu
def test_training_by_replay_equals_training_step_by_step():
    torch.manual_seed(0)
    start = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 1))
    data = torch.randn(40, 16, 8, device="cuda")
    sizes = [16] * 6 + [5] + [16] * 20  # a smaller batch comes in between
    results = []
    for capture in (False, True):
        model = copy.deepcopy(start).cuda()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=torch.tensor(1e-2, device="cuda"), fused=True, capturable=True
        )

        def function(inputs, model=model, optimizer=optimizer):
            loss = (model(inputs["x"]) - inputs["x"].sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return {"loss": loss.detach()}

        step = CapturedStep(function, device=torch.device("cuda"), capture=capture)
        losses = []
        for number, size in enumerate(sizes):
            with step.preparing():
                inputs = {"x": data[number, :size] * 1.0}
            optimizer.param_groups[0]["lr"].fill_(1e-2 / (1 + number))
            losses.append(step(inputs)["loss"].clone())
        assert (step._graph is not None) == capture
        results.append((torch.stack(losses), torch.cat([p.flatten() for p in model.parameters()])))
    for plain, replayed in zip(*results, strict=True):
        torch.testing.assert_close(replayed, plain)

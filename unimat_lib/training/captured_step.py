"""A step of training in, one CUDA graph out: recorded once, replayed for batches of its shape.

A small model keeps a GPU waiting: its step is some thousand kernels of a few microseconds each, and
Python needs longer to ask for one than the GPU to run it. A CUDA graph asks for all of them at once
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). The price is that nothing in the
step may depend on the data but the numbers: no shape, no branch, no value read back by the CPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

# Lazy work (kernels compiled, workspaces, the optimiser's moments) must lie behind the recording.
_WARM_UP_CALLS = 3


class CapturedStep:
    """Calls a function, on a GPU as a CUDA graph from the fourth call on.

    The first calls run as usual. Then the call is recorded, with buffers of its own for the inputs.
    Inputs of other shapes (the last batch of an epoch, say) run as usual too; on a CPU, or without
    ``capture``, all do.

    Inputs are made ``with step.preparing():``, on a stream of its own, so the next batch is cut out
    while the step before still runs; on the stream of the step it would wait for the step.

    ``function`` takes the inputs, does all of the step (the optimiser's update too) and returns
    named scalars. Those of a replay are overwritten by the next one: add them up or copy them.
    """

    def __init__(
        self, function: Callable[[Any], dict[str, Tensor]], *, device: torch.device, capture: bool
    ) -> None:
        self._function = function
        self._on_gpu = device.type == "cuda"
        self._capture = capture and self._on_gpu
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._buffers: list[Tensor] = []
        self._outputs: dict[str, Tensor] = {}
        if self._on_gpu:
            # The step runs on a side stream from the start, as recording asks for.
            self._step_stream, self._batch_stream = (torch.cuda.Stream(device) for _ in range(2))
            self._taken: torch.cuda.Event | None = None

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Make the inputs of the next call inside."""
        if not self._on_gpu:
            yield
            return
        if self._taken is None:
            self._batch_stream.wait_stream(torch.cuda.current_stream())
        else:  # memory of the batch before may be written again once it has been taken
            self._batch_stream.wait_event(self._taken)
        with torch.cuda.stream(self._batch_stream):
            yield

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        """The step's result; ``inputs`` are what :func:`tensors_in` understands."""
        if not self._on_gpu:
            return self._function(inputs)
        current = torch.cuda.current_stream()
        self._step_stream.wait_stream(current)
        self._step_stream.wait_stream(self._batch_stream)
        with torch.cuda.stream(self._step_stream):
            outputs = self._run(inputs)
        current.wait_stream(self._step_stream)
        return outputs

    def _run(self, inputs: Any) -> dict[str, Tensor]:
        tensors = tensors_in(inputs)
        if self._graph is None and self._capture and self._calls == _WARM_UP_CALLS:
            self._buffers = [tensor.clone() for tensor in tensors]
            buffers = iter(self._buffers)
            buffered = mapped(inputs, lambda _: next(buffers))
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._step_stream):  # recording runs nothing
                self._outputs = self._function(buffered)
            self._graph = graph
        self._calls += 1
        came, recorded = ([(x.shape, x.dtype) for x in xs] for xs in (tensors, self._buffers))
        if self._graph is None or came != recorded:
            outputs = self._function(inputs)
            self._taken = self._step_stream.record_event()
            return outputs
        for buffer, tensor in zip(self._buffers, tensors, strict=True):
            buffer.copy_(tensor)
        self._taken = self._step_stream.record_event()
        self._graph.replay()
        return self._outputs


def tensors_in(nested: Any) -> list[Tensor]:
    """All tensors of a nesting of dicts, tuples, lists and dataclasses, in a fixed order."""
    found: list[Tensor] = []
    mapped(nested, lambda tensor: found.append(tensor) or tensor)
    return found


def mapped(nested: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with ``function`` of every tensor, in the order of :func:`tensors_in`."""
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, dict):
        return {key: mapped(child, function) for key, child in nested.items()}
    if isinstance(nested, tuple | list):
        return type(nested)(mapped(child, function) for child in nested)
    if dataclasses.is_dataclass(nested):
        children = {f.name: getattr(nested, f.name) for f in dataclasses.fields(nested)}
        return dataclasses.replace(nested, **mapped(children, function))
    return nested

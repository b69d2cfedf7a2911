"""What an epoch does in each of several processes; what comes in and goes out is as in the library.

The epoch is :func:`unimat_lib.training.loop.train_epoch` itself: the order of the crystals is that
of one process, and each global batch is cut into as many parts as there are processes. Gradients
and losses meet in one flat buffer, once per step, inside of what is recorded as a CUDA graph.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time

import torch
from torch import Tensor

from unimat_book.scaling.group import Group
from unimat_lib.model import UniMat
from unimat_lib.training import captured_step
from unimat_lib.training.captured_step import CapturedStep
from unimat_lib.training.config import FitConfig
from unimat_lib.training.loop import Loop, train_epoch
from unimat_lib.views.batch import Batch, CrystalViews

_QUIET_SECONDS = 0.5  # NCCL's watchdog looks at what has run every 0.1 s


class SharedLoop(Loop):
    """The loop of a process of a group.

    Args:
        model: The model, within :func:`.sharing` while it trains.
        views: All crystals, on the group's device.
        train: Rows to train on, int64 ``[T]``.
        val: Rows that choose the epoch, int64 ``[V]``.
        config: The settings; ``batch_size`` is that of all processes together.
        group: The processes.
    """

    def __init__(
        self,
        model: UniMat,
        views: CrystalViews,
        train: Tensor,
        val: Tensor,
        config: FitConfig,
        group: Group,
    ) -> None:
        own = dataclasses.replace(config, batch_size=config.batch_size // group.size)
        super().__init__(model, views, train, val, own, group)
        self.global_batch_size = config.batch_size
        self.training_step = SharedStep(self._training_step, group=group)
        self.validation_step = CapturedStep(
            self._validation_step, device=views.device, capture=True
        )
        self.validation_chunks = self._validation_chunks()
        on_gpu = views.graph is not None and views.device.type == "cuda"
        self.capacity = self._largest_training_batch() if on_gpu else None
        self.validation_capacity = self._largest_validation_batch() if on_gpu else None
        self._flat: Tensor | None = None
        self._parts: list[Tensor] = []

    def epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training crystals; returns the epoch's row of the history."""
        self.training_step.new_epoch()
        return train_epoch(self, epoch)

    def _validation_chunks(self) -> list[Tensor]:
        """Rows of the validation batches, which are those of one process with the global batch."""
        size, count = self.global_batch_size, len(self.val)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        if self.config.contrastive_weight and count > 1 and count % size == 1:
            order = order[:-1]  # a crystal alone has nothing to be told apart from
        return list(self.val[order.to(self.val.device)].split(size))

    def validation_batch(self, index: Tensor) -> Batch:
        """A batch for :attr:`validation_step`."""
        own, self.capacity = self.capacity, self.validation_capacity
        try:
            return self.batch(index)
        finally:
            self.capacity = own

    def release(self) -> None:
        """Forget the recorded steps, which keep NCCL from ending."""
        self.training_step.forget()

    def _training_step(self, inputs: tuple[Batch, dict[str, Tensor] | None]) -> dict[str, Tensor]:
        batch, mask = inputs
        with self.fabric.autocast():
            parts = self.network(lambda: batch, mask)
        self.optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        parts = {name: value.detach() for name, value in parts.items()}
        if self.fabric.size > 1:
            parts = self._meet(parts)
        # In the order of the optimiser, as Fabric does: the sum of squares depends on it.
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        how = {"max_norm": self.config.clip_norm, "error_if_nonfinite": False}
        torch.nn.utils.clip_grad_norm_(parameters, **how)
        self.optimizer.step()
        self.model.alignment.clamp_()
        return parts

    @torch.no_grad()
    def _meet(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put the mean over the processes in the place of gradients and losses."""
        used = [p for p in self.model.parameters() if p.grad is not None]
        came = [p.grad for p in used] + list(losses.values())
        if [x.shape for x in came] != [x.shape for x in self._parts]:  # the first step
            # Each begins at a multiple of 128 bytes, which the optimiser's kernel is fastest with.
            sizes = [32 * math.ceil(x.numel() / 32) for x in came]
            self._flat = torch.zeros(sum(sizes), device=self.fabric.device)
            pieces = zip(self._flat.split(sizes), came, strict=True)
            self._parts = [piece[: x.numel()].view(x.shape) for piece, x in pieces]
        torch._foreach_copy_(self._parts, came)
        self.fabric.sum_(self._flat).div_(self.fabric.size)
        for parameter, mean in zip(used, self._parts, strict=False):
            parameter.grad = mean
        return dict(zip(losses, self._parts[len(used) :], strict=True))

    def _largest_training_batch(self) -> tuple[int, int]:
        """Room for the largest batch of any process in any epoch, which the seed decides.

        So no batch is too large for the recorded step. A process that ran a step as usual while the
        others replay theirs would be a different use of NCCL on each, which it does not allow.
        """
        graph, rows = self.views.graph, self.train.cpu()
        counts = torch.stack([graph.num_atoms.cpu()[rows], graph.num_edges.cpu()[rows]])
        used = self.steps * self.global_batch_size
        largest = torch.zeros(2, dtype=torch.int64)
        for epoch in range(self.config.epochs):
            order = epoch_order(self.config.seed, epoch, len(rows))[:used]
            batches = counts[:, order].unflatten(1, (-1, self.config.batch_size)).sum(-1)
            largest = largest.maximum(batches.amax(dim=1))
        return _rounded(largest)

    def _largest_validation_batch(self) -> tuple[int, int]:
        graph = self.views.graph
        sizes = [
            [int(x[index].sum()) for x in (graph.num_atoms, graph.num_edges)]
            for index in self.validation_chunks
        ]
        return _rounded(torch.tensor(sizes).amax(dim=0))


def _rounded(largest: Tensor) -> tuple[int, int]:
    """Atoms, of which one at least is inert, and edges, in multiples of 64."""
    atoms, edges = (64 * math.ceil(size / 64) for size in (largest + 1).tolist())
    return atoms, edges


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order, int64 ``[count]``, in which ``train_epoch`` takes its rows."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
    return torch.randperm(count, generator=generator)


class SharedStep(CapturedStep):
    """A recorded step that holds collectives of a group."""

    def __init__(self, function, *, group: Group) -> None:
        super().__init__(function, device=group.device, capture=True)
        self._group = group

    def new_epoch(self) -> None:
        """Let the next batch wait for all that was asked for so far: the order of the epoch.

        Later batches wait for the batch before them alone, and the order is on another stream.
        """
        self._taken = None

    def forget(self) -> None:
        """Drop the recording."""
        self._graph, self._buffers, self._outputs = None, [], {}

    @property
    def recorded(self) -> bool:
        """Whether calls are replayed."""
        return self._graph is not None

    def _run(self, inputs):
        due = self._calls == captured_step._WARM_UP_CALLS and self._graph is None
        if due and self._on_gpu and self._group.size > 1:
            # All record at the same time, and not before NCCL has stopped asking after the calls
            # of the warm-up: such a question is forbidden while a graph is recorded.
            torch.cuda.synchronize(self._group.device)
            self._group.barrier()
            time.sleep(_QUIET_SECONDS)
        return super()._run(inputs)


def validate_together(loop: SharedLoop) -> dict[str, float]:
    """As :func:`unimat_lib.training.loop.validate` with the global batch, shared out by batches."""
    group, chunks = loop.fabric, loop.validation_chunks
    count = sum(map(len, chunks))
    totals: dict[str, Tensor] = {}
    for chunk in chunks[group.rank :: group.size]:
        with loop.validation_step.preparing():
            batch = loop.validation_batch(chunk)
        for name, value in loop.validation_step(batch).items():
            totals[name] = totals.get(name, 0.0) + value * (len(chunk) / count)
    found = group.objects({name: float(value) for name, value in totals.items()})
    names = found[0]  # the first process has a batch whatever their number
    return {f"val_{name}": sum(part.get(name, 0.0) for part in found) for name in names}

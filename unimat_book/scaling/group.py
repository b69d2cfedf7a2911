"""The environment of a process in, its place among those that train together out.

Processes are started by torchrun or by :mod:`.launch`; both say in ``RANK``, ``LOCAL_RANK`` and
``WORLD_SIZE`` who is who. Tensors on a GPU travel through NCCL, those on a CPU through gloo.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unimat_lib.processes import die_with_parent

logger = logging.getLogger(__name__)

STORE = "UNIMAT_STORE"
"""Environment variable: a file in which processes of one host find each other, without a port."""

PARENT = "UNIMAT_PARENT"
"""Environment variable: number of the process that this one is not to outlive."""

_TIMEOUT = datetime.timedelta(minutes=3)  # kernels are compiled in the first step
_SECONDS_TO_PART = 15.0

# torch 2.13 has new names for these two and warns of the old ones, which are all that 2.11 has.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True)
class Group:
    """The processes that train together, and what a :class:`.Loop` asks of Lightning's Fabric.

    Attributes:
        device: Where this process computes.
        rank: Number of this process, from 0; the first one writes files.
        size: How many there are.
        half: Whether encoders run in bfloat16 by autocast.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    half: bool = False

    @property
    def global_rank(self) -> int:
        """Fabric's name of ``rank``."""
        return self.rank

    @property
    def world_size(self) -> int:
        """Fabric's name of ``size``."""
        return self.size

    def setup(self, *parts: Any) -> tuple[Any, ...]:
        """Network and optimiser as they are: gradients meet in :mod:`.loop`, without a wrapper."""
        return parts

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision of the forward pass."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)

    def sum_(self, x: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def gather(self, x: Tensor) -> Tensor:
        """The tensors of all processes, ``[...]`` each, along a new first axis ``[W, ...]``.

        A gradient flows back to all of them: the sum over what the processes made of theirs.
        """
        return _Gather.apply(x, self)

    def objects(self, mine: Any) -> list[Any]:
        """What each process has, by rank; anything that can be pickled."""
        found = [mine] * self.size
        if self.size > 1:
            dist.all_gather_object(found, mine)
        return found

    def barrier(self) -> None:
        """Wait for all."""
        self.sum_(torch.zeros(1))  # on the CPU: no collective of a GPU, and no stream, is involved


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: Group) -> Tensor:
        ctx.size = group.size
        out = x.new_empty(group.size * x.numel())
        _all_gather(out, x.contiguous().view(-1))
        return out.view(group.size, *x.shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        out = grad.new_empty(grad.numel() // ctx.size)
        _reduce_scatter(out, grad.contiguous().view(-1))
        return out.view(grad.shape[1:]), None


@contextlib.contextmanager
def open_group(device: str, *, half: bool | None = None) -> Iterator[Group]:
    """This process among those that the environment names; alone where it names none.

    Args:
        device: ``"cpu"``, or ``"cuda"`` with a GPU for each process.
        half: As of :class:`Group`, by default on a GPU.

    Raises:
        RuntimeError: There are fewer GPUs than processes.
        ValueError: On any other name of a device.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"expected device 'cpu' or 'cuda', got {device!r}")
    rank, size, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    where = torch.device(device)
    if device == "cuda":
        if local >= torch.cuda.device_count():
            seen = f"process {local} of this host needs a GPU of its own, torch sees"
            raise RuntimeError(f"{seen} {torch.cuda.device_count()}: start as many as there are")
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
        torch.set_float32_matmul_precision("high")  # as make_fabric does
    if parent := os.environ.get(PARENT):
        die_with_parent(int(parent))
    group = Group(where, rank, size, half=device == "cuda" if half is None else half)
    if size == 1:
        yield group
        return
    store = os.environ.get(STORE)
    dist.init_process_group(
        "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl",
        init_method=f"file://{store}" if store else "env://",
        rank=rank,
        world_size=size,
        timeout=_TIMEOUT,
    )
    # The connections of NCCL are made at the first call, which must not be a recorded one.
    group.sum_(torch.zeros(1, device=where))
    group.barrier()
    yield group  # after an error the others may hang in a collective: whoever started us ends them
    group.barrier()
    _part(where)


def _part(device: torch.device) -> None:
    """Leave the group; NCCL waits for recorded graphs that still hold collectives."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    thread = threading.Thread(target=dist.destroy_process_group, daemon=True)
    thread.start()
    thread.join(_SECONDS_TO_PART)
    if thread.is_alive():
        logger.warning("a recorded step is still alive and keeps NCCL from ending: delete its loop")

"""What an epoch does: batches in, losses and updated weights out.

All data lie on the device, so an epoch is a permutation of row numbers. Everything random in an
epoch (order, dropout, measurement effects) is seeded from the seed and the number of the epoch
alone, so a run that was interrupted and resumed takes the very same steps as one that was not.
On one GPU the whole step, optimiser included, is replayed as a CUDA graph (:mod:`.captured_step`).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unimat_lib.heads import supervised_loss
from unimat_lib.model import UniMat
from unimat_lib.training.captured_step import CapturedStep
from unimat_lib.training.config import FitConfig
from unimat_lib.views.batch import Batch, CrystalViews

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Loop:
    """What the epochs of a run share: the network, its average, the optimiser and the two steps."""

    def __init__(
        self,
        model: UniMat,
        views: CrystalViews,
        train: Tensor,
        val: Tensor,
        config: FitConfig,
        fabric: Fabric,
    ) -> None:
        self.model, self.views, self.train, self.val = model, views, train, val
        self.config, self.fabric = config, fabric
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.best: dict[str, Tensor] = {}  # averaged weights of the best epoch so far
        old, new = ((*m.parameters(), *m.buffers()) for m in (self.average, model))
        pairs = list(zip(old, new, strict=True))
        # Running statistics belong to the weights and are averaged with them; counters and
        # constants in double precision are copied.
        averaged = [pair for pair in pairs if pair[0].dtype == torch.float32]
        self.averaged = list(zip(*averaged, strict=True))
        self.copied = [pair for pair in pairs if pair[0].dtype != torch.float32]
        on_gpu = fabric.device.type == "cuda"
        decayed = {"params": [p for p in model.parameters() if p.ndim >= 2]}
        vectors = {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}
        optimizer = torch.optim.AdamW(
            [decayed | {"weight_decay": config.weight_decay}, vectors],
            # A recorded step reads the rate from the GPU.
            lr=torch.tensor(config.lr, device=fabric.device) if on_gpu else config.lr,
            fused=on_gpu,
            capturable=on_gpu,
        )
        self.network, self.optimizer = fabric.setup(_TrainingStep(model, config), optimizer)
        # The gradients of several processes meet outside of what a graph can hold.
        capture = {"device": views.device, "capture": fabric.world_size == 1}
        self.training_step = CapturedStep(self._training_step, **capture)
        self.validation_step = CapturedStep(self._validation_step, **capture)
        self.capacity = _capacity(views, (train, val), config.batch_size)
        used = "modalities" if config.contrastive_weight else "inputs"
        self.modalities = getattr(model.config, used)  # encoders that no loss reads are not run

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return max(1, len(self.train) // (self.config.batch_size * self.fabric.world_size))

    def batch(self, index: Tensor, **drawn) -> Batch:
        """A batch of some rows; on a GPU its graphs are padded to the size that was recorded.

        Named arguments are the ``measurement`` and ``generator`` of :meth:`.CrystalViews.batch`.
        """
        batch = self.views.batch(index, modalities=self.modalities, **drawn)
        graph = batch.views.get("structure")
        if self.capacity is None or graph is None:
            return batch
        atoms, edges = self.capacity
        if len(graph.atomic_numbers) >= atoms or len(graph.distance) > edges:
            return batch  # one in thousands; its step is not replayed
        padded = graph.padded(num_atoms=atoms, num_edges=edges)
        return dataclasses.replace(batch, views=batch.views | {"structure": padded})

    def _training_step(self, inputs: tuple[Batch, dict[str, Tensor] | None]) -> dict[str, Tensor]:
        batch, mask = inputs
        parts = self.network(lambda: batch, mask)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(parts["loss"])
        # A loss that is not finite is reported once per epoch: asking here waits for the GPU.
        how = {"max_norm": self.config.clip_norm, "error_if_nonfinite": False}
        self.fabric.clip_gradients(self.network, self.optimizer, **how)
        self.optimizer.step()
        self.model.alignment.clamp_()
        return {name: value.detach() for name, value in parts.items()}

    @torch.no_grad()
    def _validation_step(self, batch: Batch) -> dict[str, Tensor]:
        with self.fabric.autocast():
            return losses(self.average, batch, config=self.config)


class _TrainingStep(nn.Module):
    """From a batch to its losses in one forward, which is where Fabric and DDP hook in."""

    def __init__(self, model: UniMat, config: FitConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(
        self, get_batch: Callable[[], Batch], mask: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        # The batch comes wrapped in a function because Fabric would take a dataclass apart.
        return losses(self.model, get_batch(), config=self.config, mask=mask)


def losses(
    model: UniMat, batch: Batch, *, config: FitConfig, mask: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The weighted sum ``loss`` for one batch, and its parts that have a weight.

    The parts are ``cell``, ``system`` and ``contrastive``; one with weight zero is not computed.
    The mask is as in :meth:`.UniMat.forward`.
    """
    output = model(batch.views, mask)
    parts: dict[str, Tensor] = {}
    total = output.cell.new_zeros(())
    if config.cell_weight or config.system_weight:
        truth = {"targets": batch.targets, "scaler": model.cell_scaler}
        parts["cell"], parts["system"] = supervised_loss(
            cell=output.cell, system_log_probs=output.system_log_probs, **truth
        )
        total = total + config.cell_weight * parts["cell"] + config.system_weight * parts["system"]
    if config.contrastive_weight:
        parts["contrastive"] = model.alignment(output.projections)
        total = total + config.contrastive_weight * parts["contrastive"]
    return {"loss": total, **parts}


def train_epoch(loop: Loop, epoch: int) -> dict[str, float]:
    """One pass over the training crystals; returns the epoch's row of the history."""
    config, train, steps, device = loop.config, loop.train, loop.steps, loop.views.device
    digest = hashlib.sha256(f"{config.seed}/{epoch}".encode()).digest()
    seed = int.from_bytes(digest[:6], "big")
    rank, world = loop.fabric.global_rank, loop.fabric.world_size
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).to(device)
    # Three streams: the order (shared by all ranks), the measurement effects, dropout.
    generator = torch.Generator(device=device).manual_seed(seed + 1 + 2 * rank)
    totals: dict[str, Tensor] = {}
    loop.network.train()
    started = time.perf_counter()
    # Dropout draws from the global generator: seed it per epoch, give it back as it was.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed + 2 + 2 * rank)
        for step in range(steps):
            start = (step * world + rank) * config.batch_size
            with loop.training_step.preparing():
                index = train[order[start : start + config.batch_size]]
                batch = loop.batch(index, measurement=config.measurement, generator=generator)
                mask = _modality_mask(loop.model, len(index), config, generator)
            number = epoch * steps + step
            _set_learning_rate(loop.optimizer, config, number, steps * config.epochs)
            parts = loop.training_step((batch, mask))
            _update_average(loop, number)
            for name, value in parts.items():
                totals[name] = totals.get(name, 0.0) + value
    means = {name: float(value) / steps for name, value in totals.items()}
    seconds = time.perf_counter() - started  # float() above waited for the device
    means["lr"] = float(loop.optimizer.param_groups[0]["lr"])
    return {"epoch": epoch, **means, "seconds": seconds}


def validate(loop: Loop) -> dict[str, float]:
    """Losses of the averaged weights on clean patterns, averaged over crystals, ``val_<name>``.

    Batches have the size of training's and a fixed random order: a contrastive loss depends on who
    else is in the batch, and data sets keep similar crystals side by side.
    """
    config, index = loop.config, loop.val
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0)).to(index.device)
    if config.contrastive_weight and len(order) > 1 and len(order) % config.batch_size == 1:
        order = order[:-1]  # a crystal alone has nothing to be told apart from
    totals: dict[str, Tensor] = {}
    for chunk in order.split(config.batch_size):
        with loop.validation_step.preparing():
            batch = loop.batch(index[chunk])
        for name, value in loop.validation_step(batch).items():
            totals[name] = totals.get(name, 0.0) + value * (len(chunk) / len(order))
    return {f"val_{name}": float(value) for name, value in totals.items()}


def _capacity(
    views: CrystalViews, splits: Sequence[Tensor], batch_size: int
) -> tuple[int, int] | None:
    """Atoms and edges, to which graphs are padded on a GPU: one batch in 10,000 is larger."""
    if views.graph is None or views.device.type == "cpu":
        return None
    sizes = []
    for counts in (views.graph.num_atoms.double(), views.graph.num_edges.double()):
        parts = [counts[split] for split in splits]
        mean, spread = (max(float(f(part)) for part in parts) for f in (torch.mean, torch.std))
        size = batch_size * mean + 4 * math.sqrt(batch_size) * spread
        sizes.append(64 * math.ceil(size / 64))
    return sizes[0], sizes[1]


def _modality_mask(
    model: UniMat, size: int, config: FitConfig, generator: torch.Generator
) -> dict[str, Tensor] | None:
    """Hide each input modality with the set probability, but leave every crystal one."""
    inputs = model.config.inputs
    if not config.modality_dropout or len(inputs) < 2:
        return None
    keep = torch.rand(size, len(inputs), generator=generator, device=generator.device)
    # The modality with the largest draw stays whatever happens.
    mask = (keep >= config.modality_dropout) | (keep == keep.amax(dim=1, keepdim=True))
    return dict(zip(inputs, mask.unbind(dim=1), strict=True))


def _set_learning_rate(optimizer, config: FitConfig, step: int, total: int) -> None:
    """Linear warm-up, then a cosine down to one hundredth of the peak."""
    warmup = max(1, int(config.warmup * total))
    progress = max(0, step - warmup) / max(1, total - warmup)
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
    factor = (step + 1) / warmup if step < warmup else cosine
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(config.lr * factor)
        else:
            group["lr"] = config.lr * factor


@torch.no_grad()
def _update_average(loop: Loop, step: int) -> None:
    """Move the averaged weights towards the current ones; young averages forget faster."""
    decay = min(loop.config.ema, (1 + step) / (10 + step))
    torch._foreach_lerp_(*loop.averaged, 1 - decay)
    for old, new in loop.copied:
        old.copy_(new)

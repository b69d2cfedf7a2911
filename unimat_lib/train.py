"""One fit loop on Lightning Fabric: precision, one or many GPUs, resume, a log file.

All data lie on the device, so an epoch is a permutation of row numbers. Everything random in an
epoch (order, dropout, measurement effects) is seeded from the seed and the number of the epoch
alone, so a run that was interrupted and resumed takes the very same steps as one that was not.
On one GPU the whole step, optimiser included, is replayed as a CUDA graph (module ``capture``).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unimat_lib.capture import CapturedStep
from unimat_lib.diffraction import Measurement
from unimat_lib.files import replacing
from unimat_lib.heads import supervised_loss
from unimat_lib.model import UniMat, check_views
from unimat_lib.views import Batch, CrystalViews

if TYPE_CHECKING:
    from lightning.fabric import Fabric

logger = logging.getLogger(__name__)

# An interrupted run is taken up from a checkpoint at most about this old.
CHECKPOINT_SECONDS = 60.0

# The code that decides what a training run computes; a change in it makes a new run.
_TRAINING_CODE = (
    "alignment",
    "bragg",
    "capture",
    "composition",
    "crystals",
    "diffraction",
    "encoders",
    "fusion",
    "graphs",
    "heads",
    "linear",
    "model",
    "pattern_encoder",
    "pattern_kernels",
    "patterns",
    "stick_kernel",
    "structure_encoder",
    "train",
    "triplet_kernel",
    "views",
)


@dataclass(frozen=True)
class FitConfig:
    """Settings of one training run.

    Attributes:
        epochs: Passes over the training crystals.
        batch_size: Crystals per step and device; the last, smaller batch is dropped.
        lr: Peak learning rate of AdamW.
        weight_decay: Of the matrices; vectors (biases, norms) are not decayed.
        warmup: Share of the steps in which the rate rises linearly; then it falls as a cosine.
        clip_norm: Largest gradient norm.
        ema: Decay of the exponential moving average of the weights, which is what is evaluated.
        cell_weight: Weight of the cell loss.
        system_weight: Weight of the crystal-system loss.
        contrastive_weight: Weight of the alignment loss.
        modality_dropout: Probability with which an input modality is hidden from a crystal in
            training (one always remains), so that the model learns to do without.
        patience: Epochs without a better validation loss before stopping; ``None`` never stops.
        measurement: Measurement effects to draw in training, or ``None`` for clean patterns.
        seed: Seed of everything random.
    """

    epochs: int
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.998
    cell_weight: float = 1.0
    system_weight: float = 0.5
    contrastive_weight: float = 0.0
    modality_dropout: float = 0.0
    patience: int | None = None
    measurement: Measurement | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that train nothing or mean nothing."""
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError(
                f"expected at least 1 epoch and a batch of at least 2, got {self.epochs} and "
                f"{self.batch_size}"
            )
        weights = (self.cell_weight, self.system_weight, self.contrastive_weight)
        if min(weights) < 0 or sum(weights) == 0:
            raise ValueError(
                "expected non-negative weights with a positive weight for at least one loss, got "
                f"{weights} for cell, system and contrastive"
            )
        if not self.lr > 0:
            raise ValueError(f"expected a positive learning rate, got {self.lr}")
        for name in ("modality_dropout", "ema", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"expected {name} in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True)
class FitResult:
    """What a run leaves behind.

    Attributes:
        history: One row per epoch: losses in training and validation, learning rate, seconds.
        best_epoch: Epoch whose averaged weights the model now holds.
        seconds: Wall time of all epochs, validation included, resumed parts too.
        throughput: Training crystals per second, validation excluded, median over epochs.
        peak_memory_gib: Of the GPU, or of the process on a CPU.
        run_dir: Folder with ``log.jsonl`` and the checkpoints.
    """

    history: pd.DataFrame
    best_epoch: int
    seconds: float
    throughput: float
    peak_memory_gib: float
    run_dir: Path


def make_fabric(device: str, *, devices: int = 1) -> Fabric:
    """Fabric for ``"cpu"`` (float32) or ``"cuda"`` (bfloat16 mixed precision).

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        devices: GPUs (or CPU processes) to share the batches among; with more than one, call
            :func:`fit` inside ``fabric.launch(function)``.

    Raises:
        RuntimeError: If a GPU was asked for and there is none.
        ValueError: On any other name.
    """
    # Here, because it takes seconds to import and most chapters train nothing.
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    # Fabric announces its precision on stderr each time; the page says it once.
    for name in ("lightning.fabric", "lightning.pytorch"):  # which one speaks depends on imports
        logging.getLogger(name).setLevel(logging.WARNING)
    # Not every loss reads every parameter (projections, the vectors of absent modalities).
    strategy = (
        "auto"
        if devices == 1
        else DDPStrategy(
            start_method="spawn" if device == "cpu" else "popen", find_unused_parameters=True
        )
    )
    if device == "cpu":
        return Fabric(accelerator="cpu", devices=devices, precision="32-true", strategy=strategy)
    if device != "cuda":
        raise ValueError(f"expected device 'cpu' or 'cuda', got {device!r}")
    if not torch.cuda.is_available():
        raise RuntimeError(
            "device 'cuda' was asked for, but torch sees no GPU here: use device='cpu' with the "
            "quick profile, or run on a machine with a CUDA GPU and its driver"
        )
    torch.set_float32_matmul_precision("high")
    return Fabric(accelerator="cuda", devices=devices, precision="bf16-mixed", strategy=strategy)


def fit(
    model: UniMat,
    views: CrystalViews,
    *,
    train: Tensor,
    val: Tensor,
    config: FitConfig,
    run_dir: str | os.PathLike[str],
    fabric: Fabric | None = None,
) -> FitResult:
    """Train ``model`` in place and leave the best averaged weights in it.

    The folder of the run is ``run_dir`` plus a hash of everything that decides the result
    (settings, starting weights, data, code), so a finished run is loaded, an interrupted one is
    resumed, and a changed one starts afresh.

    Args:
        model: The model; weights as they are are the starting point.
        views: All crystals.
        train: Rows to train on, int64 ``[T]``.
        val: Rows that choose the epoch, int64 ``[V]``; never the test split.
        config: The settings.
        run_dir: Parent folder of the run's own folder.
        fabric: Device and precision; by default what :func:`make_fabric` gives for the device
            on which the views lie. With several devices every process brings its own copy of the
            views; the batches are shared out, and each process contrasts its own crystals only.

    Returns:
        The history and the costs.

    Raises:
        ValueError: If a split is empty or smaller than a batch, the splits overlap, the model
            expects other views, or the losses are not finite.
    """
    fabric = fabric or make_fabric(views.device.type)
    check_views(model.config, views)
    _check_splits(train=train, val=val, batch_size=config.batch_size * fabric.world_size)
    if config.modality_dropout:
        model.optional_inputs = model.config.inputs
    train, val = train.to(views.device), val.to(views.device)
    run_hash = _run_hash(model, views, fabric, train=train, val=val, config=config)
    run_dir = Path(run_dir) / run_hash
    run_dir.mkdir(parents=True, exist_ok=True)
    state = _load_state(run_dir)
    if not state["finished"]:
        model.to(fabric.device)
        loop = _Loop(model, views, train, val, config, fabric)
        if state["epoch"]:
            _restore(loop, run_dir)
        _run_epochs(loop, state, run_dir)
        fabric.barrier()
    _load_weights(run_dir / "best.safetensors", model)
    model.to(fabric.device).requires_grad_(True).eval()
    history = pd.DataFrame(state["history"])
    world_batch = config.batch_size * fabric.world_size
    crystals = max(1, len(train) // world_batch) * world_batch
    return FitResult(
        history=history,
        best_epoch=state["best_epoch"],
        seconds=float((history["seconds"] + history["seconds_val"]).sum()),
        throughput=float(crystals / history["seconds"].median()),
        peak_memory_gib=state["peak_memory_gib"],
        run_dir=run_dir,
    )


class _Loop:
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
        pairs = list(
            zip(
                (*self.average.parameters(), *self.average.buffers()),
                (*model.parameters(), *model.buffers()),
                strict=True,
            )
        )
        # Running statistics belong to the weights and are averaged with them; counters and
        # constants in double precision are copied.
        averaged = [pair for pair in pairs if pair[0].dtype == torch.float32]
        self.averaged = list(zip(*averaged, strict=True))
        self.copied = [pair for pair in pairs if pair[0].dtype != torch.float32]
        on_gpu = fabric.device.type == "cuda"
        optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, config),
            # A recorded step reads the rate from the GPU.
            lr=torch.tensor(config.lr, device=fabric.device) if on_gpu else config.lr,
            fused=on_gpu,
            capturable=on_gpu,
        )
        self.network, self.optimizer = fabric.setup(_TrainingStep(self.model, config), optimizer)
        # The gradients of several processes meet outside of what a graph can hold.
        capture = {"device": self.views.device, "capture": fabric.world_size == 1}
        self.training_step = CapturedStep(self._training_step, **capture)
        self.validation_step = CapturedStep(self._validation_step, **capture)
        self.capacity = _capacity(self.views, (self.train, self.val), config.batch_size)
        self.modalities = _modalities_needed(self.model, config)

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return max(1, len(self.train) // (self.config.batch_size * self.fabric.world_size))

    def batch(
        self, index: Tensor, *, measurement: Measurement | None = None, generator=None
    ) -> Batch:
        """A batch of some rows; on a GPU its graphs are padded to the size that was recorded."""
        batch = self.views.batch(
            index, modalities=self.modalities, measurement=measurement, generator=generator
        )
        return _padded(batch, self.capacity)

    def _training_step(self, inputs: tuple[Batch, dict[str, Tensor] | None]) -> dict[str, Tensor]:
        batch, mask = inputs
        parts = self.network(lambda: batch, mask)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(parts["loss"])
        # A loss that is not finite is reported once per epoch: asking here waits for the GPU.
        self.fabric.clip_gradients(
            self.network, self.optimizer, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        self.optimizer.step()
        return {name: value.detach() for name, value in parts.items()}

    @torch.no_grad()
    def _validation_step(self, batch: Batch) -> dict[str, Tensor]:
        with self.fabric.autocast():
            return losses(self.average, batch, config=self.config)


def _run_epochs(loop: _Loop, state: dict[str, object], run_dir: Path) -> None:
    """Train to the end and leave the best weights and the log in the folder."""
    config, fabric = loop.config, loop.fabric
    saved = time.monotonic()
    while not state["finished"]:
        epoch = state["epoch"]
        row = _train_epoch(loop, epoch)
        started = time.perf_counter()
        row |= _validate(loop)
        row["seconds_val"] = time.perf_counter() - started
        row = fabric.broadcast(row)  # one opinion on which epoch is best and when to stop
        if not math.isfinite(row["loss"]) or not math.isfinite(row["val_loss"]):
            raise ValueError(
                f"the loss is not finite in epoch {epoch} ({row['loss']}, {row['val_loss']}): "
                "lower lr, or look for NaN among the inputs"
            )
        state["history"].append(row)
        state["epoch"] = epoch + 1
        if row["val_loss"] <= min(r["val_loss"] for r in state["history"]):
            state["best_epoch"] = epoch
            loop.best = {name: x.clone() for name, x in loop.average.state_dict().items()}
        waited = epoch - state["best_epoch"]
        out_of_patience = config.patience is not None and waited >= config.patience
        state["finished"] = state["epoch"] >= config.epochs or out_of_patience
        state["peak_memory_gib"] = max(state["peak_memory_gib"], _peak_memory_gib(fabric.device))
        if fabric.global_rank == 0:
            _write_log(run_dir / "log.jsonl", state["history"])
            if state["finished"]:
                _save_tensors(run_dir / "best.safetensors", loop.best, state)
                (run_dir / "last.safetensors").unlink(missing_ok=True)
            elif time.monotonic() - saved >= CHECKPOINT_SECONDS:
                _save_checkpoint(run_dir / "last.safetensors", loop, state)
                saved = time.monotonic()
        logger.info("%s epoch %d %s", run_dir, epoch, row)


class _TrainingStep(nn.Module):
    """From a batch to its losses in one forward, which is where Fabric and DDP hook in.

    The batch comes wrapped in a function because Fabric would take a dataclass apart.
    """

    def __init__(self, model: UniMat, config: FitConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(
        self, get_batch: Callable[[], Batch], mask: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        return losses(self.model, get_batch(), config=self.config, mask=mask)


def losses(
    model: UniMat, batch: Batch, *, config: FitConfig, mask: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The weighted sum of the losses and its parts, for one batch.

    Args:
        model: The model.
        batch: The batch.
        config: For the weights; a part with weight zero is not computed.
        mask: As in :meth:`UniMat.forward`.

    Returns:
        ``loss`` and those of ``cell``, ``system``, ``contrastive`` that have a weight.
    """
    output = model(batch.views, mask)
    parts: dict[str, Tensor] = {}
    total = output.cell.new_zeros(())
    if config.cell_weight or config.system_weight:
        parts["cell"], parts["system"] = supervised_loss(
            cell=output.cell,
            system_log_probs=output.system_log_probs,
            targets=batch.targets,
            scaler=model.cell_scaler,
        )
        total = total + config.cell_weight * parts["cell"] + config.system_weight * parts["system"]
    if config.contrastive_weight:
        parts["contrastive"] = model.alignment(output.projections)
        total = total + config.contrastive_weight * parts["contrastive"]
    return {"loss": total, **parts}


def _validate(loop: _Loop) -> dict[str, float]:
    """Losses of the averaged weights on clean patterns, averaged over crystals, ``val_<name>``.

    Batches have the size of training's and a fixed random order, because a contrastive loss
    depends on who else is in the batch, and data sets keep similar crystals side by side.
    """
    config, index = loop.config, loop.val
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    order = order.to(index.device)
    if config.contrastive_weight and len(order) > 1 and len(order) % config.batch_size == 1:
        order = order[:-1]  # a crystal alone has nothing to be told apart from
    totals: dict[str, Tensor] = {}
    for start in range(0, len(order), config.batch_size):
        with loop.validation_step.preparing():
            chunk = index[order[start : start + config.batch_size]]
            batch = loop.batch(chunk)
        for name, value in loop.validation_step(batch).items():
            totals[name] = totals.get(name, 0.0) + value * (len(chunk) / len(order))
    return {f"val_{name}": float(value) for name, value in totals.items()}


def _modalities_needed(model: UniMat, config: FitConfig) -> Sequence[str]:
    """Encoders that no loss reads are not run."""
    settings = model.config
    return settings.modalities if config.contrastive_weight else settings.inputs


def _train_epoch(loop: _Loop, epoch: int) -> dict[str, float]:
    """One pass over the training crystals; returns the epoch's row of the history."""
    config, train, steps, device = loop.config, loop.train, loop.steps, loop.views.device
    seed = _epoch_seed(config.seed, epoch)
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
    rate = float(loop.optimizer.param_groups[0]["lr"])
    return {"epoch": epoch, **means, "lr": rate, "seconds": seconds}


def _capacity(
    views: CrystalViews, splits: Sequence[Tensor], batch_size: int
) -> tuple[int, int] | None:
    """Atoms and edges that all but one batch in 10,000 stay below, or ``None`` on a CPU.

    A recorded step has fixed shapes, so the graphs of every batch are filled up to this size.
    """
    if views.graph is None or views.device.type == "cpu":
        return None
    sizes = []
    for counts in (views.graph.num_atoms, views.graph.num_edges):
        means, spreads = zip(
            *((float(c.mean()), float(c.std())) for c in (counts[s].double() for s in splits)),
            strict=True,
        )
        size = batch_size * max(means) + 4 * math.sqrt(batch_size) * max(spreads)
        sizes.append(64 * math.ceil(size / 64))
    return sizes[0], sizes[1]


def _padded(batch: Batch, capacity: tuple[int, int] | None) -> Batch:
    graph = batch.views.get("structure")
    if capacity is None or graph is None:
        return batch
    atoms, edges = capacity
    if len(graph.atomic_numbers) >= atoms or len(graph.distance) > edges:
        return batch  # one in thousands; its step is not replayed
    padded = graph.padded(num_atoms=atoms, num_edges=edges)
    return dataclasses.replace(batch, views=batch.views | {"structure": padded})


def _modality_mask(
    model: UniMat, size: int, config: FitConfig, generator: torch.Generator
) -> dict[str, Tensor] | None:
    """Hide each input modality with the set probability, but leave every crystal one."""
    inputs = model.config.inputs
    if not config.modality_dropout or len(inputs) < 2:
        return None
    device = generator.device
    keep = torch.rand(size, len(inputs), generator=generator, device=device)
    # The modality with the largest draw stays whatever happens.
    mask = (keep >= config.modality_dropout) | (keep == keep.max(dim=1, keepdim=True).values)
    return dict(zip(inputs, mask.unbind(dim=1), strict=True))


def _epoch_seed(seed: int, epoch: int) -> int:
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _set_learning_rate(optimizer, config: FitConfig, step: int, total: int) -> None:
    """Linear warm-up, then a cosine down to one hundredth of the peak."""
    warmup = max(1, int(config.warmup * total))
    if step < warmup:
        factor = (step + 1) / warmup
    else:
        progress = (step - warmup) / max(1, total - warmup)
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(config.lr * factor)
        else:
            group["lr"] = config.lr * factor


@torch.no_grad()
def _update_average(loop: _Loop, step: int) -> None:
    """Move the averaged weights towards the current ones; young averages forget faster."""
    decay = min(loop.config.ema, (1 + step) / (10 + step))
    torch._foreach_lerp_(*loop.averaged, 1 - decay)
    for old, new in loop.copied:
        old.copy_(new)


def _parameter_groups(model: UniMat, config: FitConfig) -> list[dict[str, object]]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _check_splits(*, train: Tensor, val: Tensor, batch_size: int) -> None:
    if len(val) == 0:
        raise ValueError("the validation split is empty: the best epoch cannot be chosen")
    if len(train) < batch_size:
        raise ValueError(
            f"expected at least one batch of {batch_size} training crystals, got {len(train)}: "
            "lower batch_size or use more data"
        )
    if (
        train is not val
        and torch.isin(val.cpu(), train.cpu()).any()
        and not torch.equal(val, train)
    ):
        raise ValueError(
            "some validation crystals are training crystals: the splits must not overlap (pass "
            "the very same rows for both to test whether a model can fit at all)"
        )


def _run_hash(model, views, fabric, *, train: Tensor, val: Tensor, config: FitConfig) -> str:
    """Twelve hex digits over everything that decides the outcome of a run."""
    digest = hashlib.sha256()
    digest.update(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    digest.update(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    digest.update(views.content_hash.encode())
    for tensor in (*model.state_dict().values(), train, val):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for name in _TRAINING_CODE:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    where = (views.device.type, fabric.world_size, type(fabric._precision).__name__)
    versions = [importlib.metadata.version(name) for name in ("torch", "torch-geometric")]
    digest.update(repr((where, versions)).encode())
    return digest.hexdigest()[:12]


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def _write_log(path: Path, history: list[dict[str, float]]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in history))


def _save_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, object]) -> None:
    """Tensors and a JSON state in one safetensors file, replaced in one step."""
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"state": json.dumps(state)})


def _save_checkpoint(path: Path, loop: _Loop, state: dict[str, object]) -> None:
    tensors = {f"model.{name}": x for name, x in loop.model.state_dict().items()}
    tensors |= {f"average.{name}": x for name, x in loop.average.state_dict().items()}
    tensors |= {f"best.{name}": x for name, x in loop.best.items()}
    for number, moments in loop.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": x for name, x in moments.items()}
    _save_tensors(path, tensors, state)


def _load_state(run_dir: Path) -> dict[str, object]:
    """How far a run has come: finished, interrupted, or not begun."""
    for name in ("best", "last"):
        path = run_dir / f"{name}.safetensors"
        if path.is_file():
            try:
                with safe_open(path, framework="pt") as file:
                    return json.loads(file.metadata()["state"])
            except SafetensorError as error:
                raise ValueError(
                    f"the checkpoint {path} is damaged ({error}): delete its folder to start afresh"
                ) from error
    return {
        "epoch": 0,
        "best_epoch": 0,
        "finished": False,
        "history": [],
        "peak_memory_gib": 0.0,
    }


def _restore(loop: _Loop, run_dir: Path) -> None:
    """Put the weights and moments of an interrupted run in place."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}, "optimizer": {}}
    with safe_open(run_dir / "last.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            part, rest = name.split(".", 1)
            parts[part][rest] = file.get_tensor(name)
    loop.model.load_state_dict(parts["model"])
    loop.average.load_state_dict(parts["average"])
    loop.best = {name: x.to(loop.fabric.device) for name, x in parts["best"].items()}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        number, key = name.split(".")
        moments.setdefault(int(number), {})[key] = tensor
    groups = loop.optimizer.state_dict()["param_groups"]
    loop.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    logger.info("resumed %s", run_dir)


def _load_weights(path: Path, model: UniMat) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"the best weights {path} cannot be read ({error}): delete its folder to start afresh"
        ) from error

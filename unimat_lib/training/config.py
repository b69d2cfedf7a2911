"""The settings of a training in, what it leaves behind out, and the device it runs on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from unimat_lib.views.effects import Measurement

if TYPE_CHECKING:
    from lightning.fabric import Fabric


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

"""The settings of a training in, what it leaves behind out, and the device it runs on."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from unimat_lib.views.effects import Measurement

if TYPE_CHECKING:
    from lightning.fabric import Fabric

_RANGES = {  # name: type, smallest, what it must stay below
    "epochs": (int, 1, math.inf),
    "batch_size": (int, 2, math.inf),
    "patience": (int, 1, math.inf),
    "seed": (int, -math.inf, math.inf),
    **dict.fromkeys(("lr", "clip_norm"), (float, math.ulp(0.0), math.inf)),
    **dict.fromkeys(("warmup", "ema", "modality_dropout"), (float, 0, 1)),
    **dict.fromkeys(("cell_weight", "system_weight", "contrastive_weight"), (float, 0, math.inf)),
    "weight_decay": (float, 0, math.inf),
}


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
        cell_weight, system_weight, contrastive_weight: Weights of the losses of the cell, of the
            crystal system and of the alignment.
        modality_dropout: Probability of hiding an input from a crystal in training (one remains).
        patience: Epochs without a better validation loss before stopping; ``None`` never stops.
        measurement: Measurement effects to draw in training, or ``None`` for clean patterns.
        seed: Seed of everything random.

    Raises:
        ValueError: A setting is out of range, not finite or not of its type, or all losses have the
            weight zero.
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
        for name, (kind, least, limit) in _RANGES.items():
            value = getattr(self, name)
            if name == "patience" and value is None:
                continue
            right_type = isinstance(value, int | kind) and not isinstance(value, bool)
            if not (right_type and least <= value < limit):
                low = "(0" if least == math.ulp(0.0) else f"[{least}"
                what = f"expected {name}, {kind.__name__}, in {low}, {limit})"
                raise ValueError(f"{what}, got {value!r}")
        if self.cell_weight + self.system_weight + self.contrastive_weight == 0:
            raise ValueError("expected a positive weight for at least one loss, got 0 for all")


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

    ``devices`` GPUs (or CPU processes) share the batches; with more than one, call :func:`.fit`
    inside ``fabric.launch(function)``.

    Raises:
        RuntimeError: If a GPU was asked for and there is none.
        ValueError: On any other name of a device.
    """
    # Here, because it takes seconds to import and most chapters train nothing.
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    if device not in ("cpu", "cuda"):
        raise ValueError(f"expected device 'cpu' or 'cuda', got {device!r}")
    # Fabric announces its precision on stderr each time; the page says it once.
    for name in ("lightning.fabric", "lightning.pytorch"):  # which one speaks depends on imports
        logging.getLogger(name).setLevel(logging.WARNING)
    strategy, precision = "auto", "32-true" if device == "cpu" else "bf16-mixed"
    if devices > 1:
        # Not every loss reads every parameter (projections, the vectors of absent modalities).
        start = "spawn" if device == "cpu" else "popen"
        strategy = DDPStrategy(start_method=start, find_unused_parameters=True)
    if device == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(
                "device 'cuda' was asked for, but torch sees no GPU here: use device='cpu' with "
                "the quick profile, or run on a machine with a CUDA GPU and its driver"
            )
        torch.set_float32_matmul_precision("high")
    return Fabric(accelerator=device, devices=devices, precision=precision, strategy=strategy)

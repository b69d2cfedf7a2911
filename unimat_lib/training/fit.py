"""A model, views and settings in, the trained model out: epochs, checkpoints, resume, a log."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from unimat_lib.files import alone_in, replacing
from unimat_lib.identity import identity_of
from unimat_lib.model import UniMat, check_views
from unimat_lib.training import checkpoint
from unimat_lib.training.config import FitConfig, FitResult, make_fabric
from unimat_lib.training.loop import Loop, train_epoch, validate
from unimat_lib.views.batch import CrystalViews

if TYPE_CHECKING:
    from lightning.fabric import Fabric

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 60.0
"""An interrupted run is taken up from a checkpoint at most about this old."""


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
    (settings, starting weights, data, code): a finished run is loaded, an interrupted one resumed,
    a changed one begun. Of two processes with the same run one waits and loads the other's result.

    Args:
        model: The model; weights as they are are the starting point.
        views: All crystals.
        train: Rows to train on, int64 ``[T]``.
        val: Rows that choose the epoch, int64 ``[V]``; never the test split.
        config: The settings.
        run_dir: Parent folder of the run's own folder.
        fabric: Device and precision; by default what :func:`.make_fabric` gives for the device
            on which the views lie. With several devices every process brings its own copy of the
            views; the batches are shared out, and each process contrasts its own crystals only.

    Raises:
        ValueError: If a split is empty or smaller than a batch, the splits overlap, the model
            expects other views, or the losses are not finite.
    """
    fabric = fabric or make_fabric(views.device.type)
    check_views(model.config, views)
    world_batch = config.batch_size * fabric.world_size
    _check_splits(train=train, val=val, batch_size=world_batch)
    if config.modality_dropout:
        model.optional_inputs = model.config.inputs
    train, val = train.to(views.device), val.to(views.device)
    run_dir = Path(run_dir) / _run_hash(model, views, fabric, train=train, val=val, config=config)
    with contextlib.ExitStack() as stack:
        if fabric.global_rank == 0:
            stack.enter_context(alone_in(run_dir))
            for partial in run_dir.glob(".*.partial"):  # of a process that was killed
                partial.unlink()
        fabric.barrier()
        tensors, state = checkpoint.load_run(run_dir)
        model.to(fabric.device)
        if not state["finished"]:
            loop = Loop(model, views, train, val, config, fabric)
            if state["epoch"]:
                checkpoint.restore(loop, tensors)
                logger.info("resumed %s after epoch %d", run_dir, state["epoch"])
            _run_epochs(loop, state, run_dir)
            fabric.barrier()
            tensors, state = checkpoint.load_tensors(
                run_dir / "best.safetensors"
            )  # rank 0's, on every rank
        if fabric.global_rank == 0:
            (run_dir / "last.safetensors").unlink(missing_ok=True)
            if _write_log(run_dir / "log.jsonl", state):
                logger.warning("%s: the log did not tell the history and is remade", run_dir)
    model.load_state_dict(tensors)
    model.requires_grad_(True).eval()
    history = pd.DataFrame(state["history"])
    crystals = max(1, len(train) // world_batch) * world_batch
    return FitResult(
        history=history,
        best_epoch=state["best_epoch"],
        seconds=float((history["seconds"] + history["seconds_val"]).sum()),
        throughput=float(crystals / history["seconds"].median()),
        peak_memory_gib=state["peak_memory_gib"],
        run_dir=run_dir,
    )


def _run_epochs(loop: Loop, state: checkpoint.State, run_dir: Path) -> None:
    """Train to the end and leave the best weights and the log in the folder."""
    config, fabric = loop.config, loop.fabric
    saved = time.monotonic()
    while not state["finished"]:
        epoch = state["epoch"]
        row = train_epoch(loop, epoch)
        started = time.perf_counter()
        row |= validate(loop)
        row["seconds_val"] = time.perf_counter() - started
        row = fabric.broadcast(row)  # one opinion on which epoch is best and when to stop
        losses = row["loss"], row["val_loss"]
        if not all(map(math.isfinite, losses)):
            what = f"the loss is not finite in epoch {epoch} {losses}"
            raise ValueError(f"{what}: lower lr, or look for NaN among the inputs")
        state["history"].append(row)
        state["epoch"] = epoch + 1
        if row["val_loss"] <= min(r["val_loss"] for r in state["history"]):
            state["best_epoch"] = epoch
            loop.best = {name: x.clone() for name, x in loop.average.state_dict().items()}
        patience = math.inf if config.patience is None else config.patience
        out_of_patience = epoch - state["best_epoch"] >= patience
        state["finished"] = state["epoch"] >= config.epochs or out_of_patience
        state["peak_memory_gib"] = max(state["peak_memory_gib"], _peak_memory_gib(fabric.device))
        if fabric.global_rank == 0:
            _write_log(run_dir / "log.jsonl", state)
            if state["finished"]:
                checkpoint.save_tensors(run_dir / "best.safetensors", loop.best, state)
            elif time.monotonic() - saved >= CHECKPOINT_SECONDS:
                checkpoint.save_tensors(
                    run_dir / "last.safetensors", checkpoint.tensors_of(loop), state
                )
                saved = time.monotonic()
        logger.info("%s epoch %d %s", run_dir, epoch, row)


def _check_splits(*, train: Tensor, val: Tensor, batch_size: int) -> None:
    if len(val) == 0:
        raise ValueError("the validation split is empty: the best epoch cannot be chosen")
    if len(train) < batch_size:
        came = f"expected at least one batch of {batch_size} training crystals, got {len(train)}"
        raise ValueError(f"{came}: lower batch_size or use more data")
    if torch.isin(val.cpu(), train.cpu()).any() and not torch.equal(val, train):
        raise ValueError(
            "some validation crystals are training crystals, but the splits must not overlap (or "
            "be the very same rows, to test whether a model can fit at all)"
        )


def _run_hash(model, views, fabric, *, train: Tensor, val: Tensor, config: FitConfig) -> str:
    """Twelve hex digits over everything that decides the outcome of a run."""
    settings = model.config.to_dict(), dataclasses.asdict(config), views.content_hash
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for tensor in (*model.state_dict().values(), train, val):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    where = (views.device.type, fabric.world_size, type(fabric._precision).__name__)
    digest.update(repr((where, identity_of(f"{__name__}:fit").digest)).encode())
    return digest.hexdigest()[:12]


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def _write_log(path: Path, state: checkpoint.State) -> bool:
    """Write the history, a line per epoch, and say whether the file held something else."""
    text = "".join(json.dumps(row) + "\n" for row in state["history"]).encode()
    changed = not path.is_file() or path.read_bytes() != text
    if changed:
        with replacing(path) as temporary:
            temporary.write_bytes(text)
    return changed

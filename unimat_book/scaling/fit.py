"""A model, views and settings in, the model trained by all processes of a group out.

This stands beside :func:`unimat_lib.training.fit.fit`, whose code identity published trainings
carry. One process does here, bit for bit on a CPU, what it does there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import time
from pathlib import Path

import pandas as pd
from torch import Tensor

from unimat_book.scaling.group import Group
from unimat_book.scaling.loop import SharedLoop, validate_together
from unimat_book.scaling.shared import sharing
from unimat_lib.files import alone_in
from unimat_lib.identity import identity_of
from unimat_lib.model import UniMat, check_views
from unimat_lib.training import checkpoint
from unimat_lib.training.config import FitConfig, FitResult
from unimat_lib.training.fit import (
    CHECKPOINT_SECONDS,
    _check_splits,
    _peak_memory_gib,
    _write_log,
)
from unimat_lib.views.batch import CrystalViews

logger = logging.getLogger(__name__)


def fit_together(
    model: UniMat,
    views: CrystalViews,
    *,
    train: Tensor,
    val: Tensor,
    config: FitConfig,
    run_dir: str | os.PathLike[str],
    group: Group,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> FitResult:
    """Train ``model`` in place in every process and leave the best averaged weights in it.

    All processes call this with equal arguments, each with the views on its own device. The batch
    of ``config`` is that of all of them together, and so is everything that depends on it: the
    order of the crystals, the negatives of the contrastive loss, the statistics of BatchNorm. Only
    dropout and measurement effects are drawn by each process for itself. A run that was interrupted
    goes on after its last checkpoint with any number of processes, and a finished one is loaded.

    Args:
        model: The model; weights as they are are the starting point.
        views: All crystals.
        train: Rows to train on, int64 ``[T]``.
        val: Rows that choose the epoch, int64 ``[V]``; never the test split.
        config: The settings; ``batch_size`` is that of all processes together.
        run_dir: Parent folder of the run's own folder, on a disk that all processes share.
        group: The processes, see :func:`.open_group`.
        checkpoint_seconds: An interrupted run loses at most about this much.

    Raises:
        ValueError: The batch cannot be shared out evenly, the processes were given different
            things, or what :func:`unimat_lib.training.fit.fit` refuses.
    """
    check_views(model.config, views)
    _check_splits(train=train, val=val, batch_size=config.batch_size)
    if config.batch_size % group.size or config.batch_size < 2 * group.size:
        came = f"expected a batch_size of {group.size} equal parts, two crystals or more each, got"
        raise ValueError(f"{came} {config.batch_size}: it is that of all processes together")
    if config.modality_dropout:
        model.optional_inputs = model.config.inputs
    train, val = train.to(views.device), val.to(views.device)
    names = group.objects(_run_hash(model, views, train=train, val=val, config=config))
    if len(set(names)) > 1:
        raise ValueError(
            f"the processes were given different settings, weights, data or code ({names}): "
            "seed the model alike in each"
        )
    run_dir = Path(run_dir) / names[0]
    with contextlib.ExitStack() as stack:
        if group.rank == 0:
            stack.enter_context(alone_in(run_dir))
            for partial in run_dir.glob(".*.partial"):  # of a process that was killed
                partial.unlink()
        group.barrier()
        tensors, state = checkpoint.load_run(run_dir)
        model.to(group.device)
        if not state["finished"]:
            loop = SharedLoop(model, views, train, val, config, group)
            if state["epoch"]:
                checkpoint.restore(loop, tensors)
                logger.info("resumed %s after epoch %d", run_dir, state["epoch"])
            group.barrier()  # none may write a checkpoint while another still reads the last
            with sharing(model, group):
                _run_epochs(loop, state, run_dir, checkpoint_seconds)
            loop.release()
            group.barrier()
            tensors, state = checkpoint.load_tensors(run_dir / "best.safetensors")
        if group.rank == 0:
            (run_dir / "last.safetensors").unlink(missing_ok=True)
            if _write_log(run_dir / "log.jsonl", state):
                logger.warning("%s: the log did not tell the history and is remade", run_dir)
        group.barrier()
    model.load_state_dict(tensors)
    model.requires_grad_(True).eval()
    history = pd.DataFrame(state["history"])
    crystals = max(1, len(train) // config.batch_size) * config.batch_size
    return FitResult(
        history=history,
        best_epoch=state["best_epoch"],
        seconds=float((history["seconds"] + history["seconds_val"]).sum()),
        throughput=float(crystals / history["seconds"].median()),
        peak_memory_gib=state["peak_memory_gib"],
        run_dir=run_dir,
    )


def _run_epochs(
    loop: SharedLoop, state: checkpoint.State, run_dir: Path, checkpoint_seconds: float
) -> None:
    """Train to the end; the first process leaves the best weights and the log in the folder."""
    config, group = loop.config, loop.fabric
    saved = time.monotonic()
    while not state["finished"]:
        epoch = state["epoch"]
        row = loop.epoch(epoch)
        started = time.perf_counter()
        row |= validate_together(loop)
        row["seconds_val"] = time.perf_counter() - started
        row = group.objects(row)[0]  # one opinion on which epoch is best and when to stop
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
        state["peak_memory_gib"] = max(state["peak_memory_gib"], _peak_memory_gib(group.device))
        if group.rank == 0:
            _write_log(run_dir / "log.jsonl", state)
            if state["finished"]:
                checkpoint.save_tensors(run_dir / "best.safetensors", loop.best, state)
            elif time.monotonic() - saved >= checkpoint_seconds:
                checkpoint.save_tensors(
                    run_dir / "last.safetensors", checkpoint.tensors_of(loop), state
                )
                saved = time.monotonic()
        logger.info("%s epoch %d %s", run_dir, epoch, row)


def _run_hash(model, views, *, train: Tensor, val: Tensor, config: FitConfig) -> str:
    """Twelve hex digits over everything that decides a run; the number of processes does not."""
    settings = model.config.to_dict(), dataclasses.asdict(config), views.content_hash
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for tensor in (*model.state_dict().values(), train, val):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    code = identity_of(f"{__name__}:fit_together").digest
    digest.update(repr((views.device.type, code)).encode())
    return digest.hexdigest()[:12]

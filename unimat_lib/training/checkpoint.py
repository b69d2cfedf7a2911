"""Tensors and the state of a run in, safetensors files out, and back."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unimat_lib.files import replacing
from unimat_lib.model import UniMat

if TYPE_CHECKING:
    from unimat_lib.training.loop import Loop

logger = logging.getLogger(__name__)


def save_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, object]) -> None:
    """Tensors and a JSON state in one safetensors file, replaced in one step."""
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"state": json.dumps(state)})


def save_checkpoint(path: Path, loop: Loop, state: dict[str, object]) -> None:
    """Everything that an interrupted run needs to go on."""
    tensors = {f"model.{name}": x for name, x in loop.model.state_dict().items()}
    tensors |= {f"average.{name}": x for name, x in loop.average.state_dict().items()}
    tensors |= {f"best.{name}": x for name, x in loop.best.items()}
    for number, moments in loop.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": x for name, x in moments.items()}
    save_tensors(path, tensors, state)


def load_state(run_dir: Path) -> dict[str, object]:
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


def restore(loop: Loop, run_dir: Path) -> None:
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


def load_weights(path: Path, model: UniMat) -> None:
    """Put the weights of a file into a model.

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"the best weights {path} cannot be read ({error}): delete its folder to start afresh"
        ) from error

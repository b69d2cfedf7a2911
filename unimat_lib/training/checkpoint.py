"""Tensors and the state of a run in, safetensors files with their own hash out, and back."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unimat_lib.files import replacing
from unimat_lib.training.loop import Loop

logger = logging.getLogger(__name__)

State = dict[str, Any]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: State) -> None:
    """Tensors and a JSON state in one safetensors file with their hash, replaced in one step."""
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    text = json.dumps(state)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"state": text, "sha256": _hash(tensors, text)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], State]:
    """The inverse of :func:`save_tensors`.

    Raises:
        ValueError: The file is truncated, zeroed or has a byte that was not written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _hash(tensors, metadata["state"]):
            raise ValueError("its content does not have the hash that it names")
        return tensors, json.loads(metadata["state"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"the checkpoint {path} is damaged ({error})") from error


def load_run(run_dir: Path) -> tuple[dict[str, Tensor], State]:
    """How far a run has come (finished, interrupted, not begun), and its tensors.

    A damaged file counts as none, which costs time and changes no result; the log says so.
    """
    for name in ("best", "last"):
        path = run_dir / f"{name}.safetensors"
        if path.is_file():
            try:
                return load_tensors(path)
            except ValueError as error:
                logger.warning("%s: the run goes on without it", error)
    start = {"epoch": 0, "best_epoch": 0, "finished": False, "history": [], "peak_memory_gib": 0.0}
    return {}, start


def tensors_of(loop: Loop) -> dict[str, Tensor]:
    """Everything that an interrupted run needs to go on."""
    tensors = {f"model.{name}": x for name, x in loop.model.state_dict().items()}
    tensors |= {f"average.{name}": x for name, x in loop.average.state_dict().items()}
    tensors |= {f"best.{name}": x for name, x in loop.best.items()}
    for number, moments in loop.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": x for name, x in moments.items()}
    return tensors


def restore(loop: Loop, tensors: Mapping[str, Tensor]) -> None:
    """Put what :func:`tensors_of` gave in place."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        if part == "optimizer":
            number, key = rest.split(".")
            moments.setdefault(int(number), {})[key] = tensor
        else:
            parts[part][rest] = tensor
    loop.model.load_state_dict(parts["model"])
    loop.average.load_state_dict(parts["average"])
    loop.best = {name: x.to(loop.fabric.device) for name, x in parts["best"].items()}
    groups = loop.optimizer.state_dict()["param_groups"]
    loop.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _hash(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

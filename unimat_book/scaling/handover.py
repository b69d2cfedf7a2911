"""A training's arguments in, a file that other processes read them from out, without a pickle.

Tensors lie in safetensors; how they are nested stands beside them as JSON, which names dataclasses
of :data:`KINDS` and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unimat_lib.model import UniMatConfig
from unimat_lib.training.checkpoint import load_tensors, save_tensors
from unimat_lib.training.config import FitConfig
from unimat_lib.views.batch import CrystalViews, Targets
from unimat_lib.views.bragg import Reflections
from unimat_lib.views.effects import Measurement
from unimat_lib.views.graphs import PeriodicGraph
from unimat_lib.views.grid import Grid

HANDED = "work.safetensors"
"""Name of the file in the folder that the processes are told."""

_CLASSES = (
    *(UniMatConfig, FitConfig, Measurement),
    *(CrystalViews, Grid, Targets, PeriodicGraph, Reflections),
)
KINDS = {one.__name__: one for one in _CLASSES}
"""What may be handed over besides tensors, plain values, tuples, lists and dictionaries."""


def hand_over(path: Path, arguments: Mapping[str, Any]) -> None:
    """Write arguments that :func:`taken` reads.

    Raises:
        TypeError: Something among them is of no kind that a file can hold.
    """
    tensors: dict[str, Tensor] = {}
    plan = _plan(dict(arguments), tensors)
    save_tensors(path, tensors, plan)


def taken(path: Path) -> dict[str, Any]:
    """What :func:`hand_over` wrote, tensors on the CPU.

    Raises:
        ValueError: The file is damaged.
    """
    tensors, plan = load_tensors(path)
    return _rebuilt(plan, tensors)


def _plan(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for one value; its tensors are added to ``tensors``."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors[name := str(len(tensors))] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, _plan(child, tensors)] for key, child in value.items()]}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_plan(child, tensors) for child in value]}
    if KINDS.get(type(value).__name__) is type(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {type(value).__name__: _plan(fields, tensors)}
    raise TypeError(f"expected tensors, plain values or one of {sorted(KINDS)}, got {type(value)}")


def _rebuilt(plan: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(plan, dict):
        return plan
    [(kind, content)] = plan.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _rebuilt(child, tensors) for key, child in content}
    if kind in ("tuple", "list"):
        children = [_rebuilt(child, tensors) for child in content]
        return children if kind == "list" else tuple(children)
    return KINDS[kind](**_rebuilt(content, tensors))

"""Points measured on 1, 2, 4, ... GPUs in; tables of speed, losses and agreement out."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

from unimat_book.statistics import welch_interval

SETTINGS = {"xrd": "XRD", "structure": "structure", "aligned": "aligned"}
"""Short name of a training to the words for it."""

_COLUMNS = {
    "speed": {"batch", "seconds", "crystals_per_second", "allreduce_seconds"}
    | {f"{work}_per_{per}" for work in ("operations", "bytes") for per in ("second", "crystal")},
    "accuracy": {"seed", "val_loss", "crystals", "batch"},
    "check": {"losses"},
    "before": {"batch", "crystals_per_second"},
}


def read_points(path: str | os.PathLike[str]) -> dict[str, pd.DataFrame]:
    """Read ``benchmarks/scaling_points.json``: frames speed, accuracy, check and before.

    Each has the columns ``setting`` and ``gpus``; the file's ``about`` describes the others.

    Raises:
        ValueError: A frame or a column is missing, or a setting is not in :data:`SETTINGS`.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    frames = {}
    for kind, columns in _COLUMNS.items():
        frame = pd.DataFrame(content.get(kind, []))
        if missing := sorted({"setting", "gpus", *columns} - set(frame.columns)):
            raise ValueError(f"{path}, {kind}: {missing} are missing; run scaling.py --keep again")
        if unknown := sorted(set(frame["setting"]) - set(SETTINGS)):
            raise ValueError(f"{path}, {kind}: unknown settings {unknown}, known: {list(SETTINGS)}")
        frames[kind] = frame
    return frames


def speed_table(speed: pd.DataFrame) -> pd.DataFrame:
    """What more GPUs bring, one row per setting, number of GPUs and batch per GPU.

    Args:
        speed: As of :func:`read_points`.

    Returns:
        Columns ``setting``, ``gpus``, ``batch``, ``crystals_per_second``, ``speedup`` and
        ``percent`` (efficiency) against one GPU with that batch, ``longer_us`` (a step than on one
        GPU) and ``allreduce_us``, ``by_arithmetic`` and ``by_memory`` (the largest rates that the
        GPUs allow, crystals/s, exchange left out), ``best`` (one GPU is fastest with that batch).

    Raises:
        ValueError: A batch was not measured on one GPU.
    """
    alone = speed[speed["gpus"] == 1].set_index(["setting", "batch"])
    keys = list(zip(speed["setting"], speed["batch"], strict=True))
    if missing := sorted({key for key in keys if key not in alone.index}):
        raise ValueError(f"not measured on one GPU: {missing}")
    one = alone.loc[keys]
    fastest = alone["crystals_per_second"].groupby(level="setting").idxmax()
    frame = speed[["setting", "gpus", "batch", "crystals_per_second"]].copy()
    frame["speedup"] = speed["crystals_per_second"] / one["crystals_per_second"].to_numpy()
    frame["percent"] = 100 * frame["speedup"] / frame["gpus"]
    frame["longer_us"] = 1e6 * (speed["seconds"] - one["seconds"].to_numpy())
    frame["allreduce_us"] = 1e6 * speed["allreduce_seconds"]
    for name, work in (("by_arithmetic", "operations"), ("by_memory", "bytes")):
        least = speed[f"{work}_per_crystal"] / speed[f"{work}_per_second"]
        frame[name] = speed["gpus"] / least
    frame["best"] = [key in set(fastest) for key in keys]
    order = frame["setting"].map(list(SETTINGS).index)
    return frame.assign(order=order).sort_values(["order", "gpus", "batch"]).drop(columns="order")


def loss_table(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Validation losses over seeds by setting and number of GPUs.

    Returns:
        Columns ``setting``, ``gpus``, ``seeds``, ``mean``, ``std`` and, against one GPU (NaN for
        that one itself), ``difference`` with its 95 % interval ``low`` to ``high`` by Welch.
    """
    rows = []
    for name in SETTINGS:
        own = accuracy[accuracy["setting"] == name].groupby("gpus")["val_loss"]
        losses = {gpus: values.to_numpy() for gpus, values in own}
        for gpus, values in losses.items():
            against = (np.nan,) * 3 if gpus == 1 else welch_interval(values, losses[1])
            rows.append((name, gpus, len(values), values.mean(), values.std(ddof=1), *against))
    columns = ["setting", "gpus", "seeds", "mean", "std", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def agreement(check: pd.DataFrame) -> pd.DataFrame:
    """How far the losses of several GPUs, or of one for a second time, are from those of one.

    Returns:
        Columns ``setting``, ``gpus``, ``steps``, and relative: ``first`` (in the first step) and
        ``largest``.
    """
    ones: dict[str, np.ndarray] = {}
    rows = []
    for name, gpus, losses in check.sort_values("gpus", kind="stable")[
        ["setting", "gpus", "losses"]
    ].itertuples(index=False):
        if gpus == 1 and name not in ones:
            ones[name] = np.array(losses)
            continue
        apart = np.abs(np.array(losses) - ones[name]) / np.abs(ones[name])  # [steps]
        rows.append((name, gpus, len(apart), apart[0], apart.max()))
    return pd.DataFrame(rows, columns=["setting", "gpus", "steps", "first", "largest"])


def slower_before(before: pd.DataFrame) -> pd.Series:
    """By what factor two GPUs were slower than one, by setting."""
    rates = before.pivot(index="setting", columns="gpus", values="crystals_per_second")
    return rates[1] / rates[2]

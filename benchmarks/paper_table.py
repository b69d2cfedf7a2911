"""The paper's whole table from one command: five settings, one training per seed, evaluated.

    python benchmarks/paper_table.py [--profile full] [--json FILE]

The settings are those of chapters 03 (structure, XRD, composition), 04 (structure aligned with XRD)
and 05 (XRD and composition, aligned and fused), with the parameters of ``params.yml``. The runs are
kept where the chapters look for theirs, so a chapter that is run afterwards on the same machine
loads them, and a command that was cut off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from common import Result, device_name, record

from unimat_book.experiments import MAIN_METRICS, train_seeds
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.evaluation.metrics import cell_metrics
from unimat_lib.files import replacing
from unimat_lib.model import UniMatConfig
from unimat_lib.training.config import FitConfig
from unimat_lib.views.batch import CrystalViews, build_views
from unimat_lib.views.grid import Grid

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 10.0  # what the table may take on one H100


@dataclass(frozen=True)
class Setting:
    """One row of the table: a model, its training, and the chapter whose runs it shares."""

    name: str
    chapter: str
    model: UniMatConfig
    fit: FitConfig
    seeds: tuple[int, ...]


def parameters(profile: str, chapter: str) -> dict[str, object]:
    """Parameters of a chapter in a profile, as ``params.yml`` gives them."""
    profiles = yaml.safe_load((ROOT / "params.yml").read_text(encoding="utf-8"))
    if profile not in profiles:
        raise SystemExit(f"profile {profile!r} is unknown: expected one of {sorted(profiles)}")
    return profiles[profile]["all"] | profiles[profile][chapter]


def grid_of(p: Mapping[str, object]) -> Grid:
    return Grid(p["two_theta_min"], p["two_theta_max"], p["num_points"])


def shape_of(p: Mapping[str, object]) -> dict[str, object]:
    """What all models share, as the chapters write it."""
    hidden = p["hidden"]
    return {
        **{k: p[k] for k in ("dim", "projection_dim", "fwhm", "cutoff", "max_neighbors")},
        "grid": grid_of(p),
        "structure": {
            "hidden": hidden,
            "blocks": p["blocks"],
            "int_emb": hidden // 2,
            "out_emb": hidden,
        },
        "xrd": {name: p[name] for name in ("width", "depths", "position_channels")},
        "composition": {"hidden": p["mlp_hidden"]},
    }


def settings(profile: str) -> list[Setting]:
    """The five settings of the paper's table."""
    encoders, alignment, fusion = "03_encoders", "04_alignment", "05_fusion"
    p = parameters(profile, encoders)
    rows = []
    for view in ("structure", "xrd", "composition"):
        model = UniMatConfig(modalities=(view,), inputs=(view,), **shape_of(p))
        fit = FitConfig(epochs=p[f"epochs_{view}"], batch_size=p["batch_size"], lr=p["lr"])
        rows.append(Setting(view, encoders, model, fit, tuple(p["seeds"])))
    structure_epochs = p["epochs_structure"]
    p = parameters(profile, alignment)
    both = ("structure", "xrd")
    model = UniMatConfig(modalities=both, inputs=("structure",), **shape_of(p))
    fit = FitConfig(
        epochs=structure_epochs,
        batch_size=p["batch_size"],
        lr=p["lr"],
        contrastive_weight=p["contrastive_weight"],
    )
    rows.append(Setting("structure_aligned_xrd", alignment, model, fit, tuple(p["seeds"])))
    p = parameters(profile, fusion)
    both = ("xrd", "composition")
    model = UniMatConfig(modalities=both, inputs=both, fusion="concat", **shape_of(p))
    fit = FitConfig(
        epochs=p["epochs_reproduction"],
        batch_size=p["batch_size"],
        lr=p["lr"],
        contrastive_weight=p["contrastive_weight"],
    )
    rows.append(Setting("xrd_composition_aligned_fused", fusion, model, fit, tuple(p["seeds"])))
    return rows


def train_one(
    setting: Setting, seed: int, views: CrystalViews, table, *, runs: Path
) -> dict[str, object]:
    """Train (or load) and evaluate one model; returns its row of the log."""
    started = time.perf_counter()
    run = train_seeds(
        setting.model,
        views,
        table,
        config=setting.fit,
        seeds=[seed],
        run_dir=runs / setting.chapter,
        predictions=runs / "paper_table" / "predictions" / f"seed{seed}",
        setting=setting.name,
    )
    metrics = cell_metrics(run.frames[0])
    return {
        "setting": setting.name,
        "seed": seed,
        "epochs": len(run.fits[0].history),
        "seconds": time.perf_counter() - started,
        "crystals_per_second": run.fits[0].throughput,
        "memory_gib": run.fits[0].peak_memory_gib,
        **{name: metrics[name] for name in MAIN_METRICS},
    }


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds of each setting."""
    metrics = list(MAIN_METRICS)
    grouped = rows.groupby("setting", sort=False)[metrics]
    mean, std = grouped.mean(), grouped.std()
    return pd.DataFrame(
        {
            name: [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean[name], std[name], strict=True)]
            for name in metrics
        },
        index=mean.index,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="full", help="profile of params.yml")
    parser.add_argument("--json", type=Path, help="also write every row to this file")
    given = parser.parse_args()
    started = time.perf_counter()
    p = parameters(given.profile, "03_encoders")
    runs = ROOT / p["run_dir"] / "runs"
    fresh = not any((runs / s.chapter).is_dir() for s in settings(given.profile))
    table = load_dataset(p["dataset"])
    views = build_views(
        table,
        grid=grid_of(p),
        **{name: p[name] for name in ("fwhm", "cutoff", "max_neighbors", "device")},
        max_strain=p["strain"],
        cache_dir="data/cache",
    )
    print(f"{len(table):,} crystals ready after {time.perf_counter() - started:.0f} s", flush=True)
    rows = []
    for setting in settings(given.profile):
        for seed in setting.seeds:
            row = train_one(setting, seed, views, table, runs=runs)
            rows.append(row)
            print(
                "{setting:<30} seed {seed}  {epochs:3d} epochs  {seconds:5.1f} s  "
                "{crystals_per_second:9,.0f}/s  {memory_gib:4.1f} GiB  "
                "scaled {scaled_length_mae:.3f}  length {length_mae:.3f}  "
                "system {crystal_system_accuracy:.1f} %".format(**row),
                flush=True,
            )
    minutes = (time.perf_counter() - started) / 60
    frame = pd.DataFrame(rows)
    print(summary(frame).to_string())
    print(f"{len(rows)} trainings with evaluation: {minutes:.2f} minutes")
    if given.json:
        with replacing(given.json) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if not fresh:
        print("not recorded: there were runs before, and finished ones are loaded")
    elif given.profile == "full":
        device = device_name(torch.device(p["device"]))
        record(
            [
                Result(
                    name="paper_table_minutes",
                    value=minutes,
                    unit="minutes",
                    baseline=f"{MINUTES:g} minutes allowed",
                    ratio=MINUTES / minutes,
                    device=device,
                    notes=f"{len(rows)} trainings with evaluation, one process, starting from the "
                    "prepared table",
                ),
                Result(
                    name="training_memory_gib",
                    value=float(np.max(frame["memory_gib"])),
                    unit="GiB",
                    baseline="16 GiB allowed",
                    ratio=16 / float(np.max(frame["memory_gib"])),
                    device=device,
                    notes="largest of the five settings, the whole data set included",
                ),
            ]
        )


if __name__ == "__main__":
    main()

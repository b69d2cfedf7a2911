"""Does a training repeat itself? One seed twice on one device, beside another seed.

Each setting of the paper's table is trained to its end twice with one seed and once with another,
in folders that are thrown away. Validation crystals judge, so the test split stays as it is. On a
CPU two trainings give the same numbers; on a GPU sums whose order nobody fixes move the last
digits, and many steps make them grow.

    python benchmarks/repeat.py [--profile full] [--settings xrd structure_aligned_xrd]
"""

from __future__ import annotations

import argparse
import tempfile

import pandas as pd
import torch
from common import Result, device_name, record
from paper_table import Setting, grid_of, parameters, settings

from unimat_book.experiments import split_rows, train_seeds
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.evaluation.metrics import cell_metrics
from unimat_lib.evaluation.predict import predict
from unimat_lib.views.batch import CrystalViews, build_views

LENGTHS = ["error_a", "error_b", "error_c"]
SEEDS = 0, 0, 1


def trained(setting: Setting, seed: int, views: CrystalViews, table: CrystalTable) -> pd.DataFrame:
    """Errors frame of the validation crystals after one training from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        run = train_seeds(
            *(setting.model, views, table), config=setting.fit, seeds=[seed], run_dir=folder
        )
    return predict(run.models[0], views, table, split_rows(table)[1])


def result_of(setting: Setting, frames: list[pd.DataFrame], device: torch.device) -> Result:
    """How far two trainings with one seed are apart, and how far another seed's is.

    Args:
        setting: What was trained.
        frames: Of :data:`SEEDS`: one, the same again, another.
        device: Where.
    """
    first, again, other = (cell_metrics(frame)["length_mae"] for frame in frames)
    moved = (frames[1][LENGTHS] - frames[0][LENGTHS]).abs().to_numpy()
    elsewhere = (frames[2][LENGTHS] - frames[0][LENGTHS]).abs().to_numpy()
    same = "bit for bit the same" if not moved.any() else "not the same"
    return Result(
        name=f"repeat_{setting.name}_percent",
        value=100 * abs(again - first) / first,
        unit="%",
        device=device_name(device),
        notes=f"mean absolute error of lengths of {len(moved):,} validation crystals: {first:.4f} "
        f"and, again, {again:.4f} A ({same}); with another seed {other:.4f} A. A length "
        f"moves by {moved.mean():.4f} A from run to run and {elsewhere.mean():.4f} A from seed to "
        "seed",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="full", help="profile of params.yml")
    names = [setting.name for setting in settings("full")]
    parser.add_argument("--settings", nargs="+", choices=names, default=names)
    given = parser.parse_args()
    p = parameters(given.profile, "03_encoders")
    table = load_dataset(p["dataset"])
    views = build_views(
        table,
        grid=grid_of(p),
        **{name: p[name] for name in ("fwhm", "cutoff", "max_neighbors", "device")},
        max_strain=p["strain"],
        cache_dir="data/cache",
    )
    device = torch.device(p["device"])
    for setting in settings(given.profile):
        if setting.name in given.settings:
            frames = [trained(setting, seed, views, table) for seed in SEEDS]
            result = result_of(setting, frames, device)
            print(f"{setting.name:<30} {result.value:8.4f} %  {result.notes}", flush=True)
            if given.profile == "full":
                record([result])


if __name__ == "__main__":
    main()

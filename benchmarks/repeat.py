"""Does a training repeat itself? One seed twice on one device, beside another seed.

Each setting of the paper's table is trained to its end twice with one seed and once with another,
in folders that are thrown away. Validation crystals judge, so the test split stays as it is. On a
CPU two trainings give the same numbers; on a GPU sums whose order nobody fixes move the last
digits, and many steps make them grow.

    python benchmarks/repeat.py [--profile full] [--settings xrd structure_aligned_xrd]
    python benchmarks/repeat.py --causes [--profile full] [--settings xrd]

``--causes`` looks at the parts on a GPU: patterns drawn again, the gradient of one batch computed
again, and two short trainings, as they are and with the sums of the drawing in a fixed order.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence

import pandas as pd
import torch
from common import Result, device_name, record
from paper_table import Setting, grid_of, parameters, settings
from torch.nn.utils import parameters_to_vector

from unimat_book.experiments import split_rows, train_seeds
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.evaluation.metrics import cell_metrics
from unimat_lib.evaluation.predict import predict
from unimat_lib.model import UniMat
from unimat_lib.training.loop import losses
from unimat_lib.views import render
from unimat_lib.views.batch import CrystalViews, build_views

LENGTHS = ["error_a", "error_b", "error_c"]
SEEDS = 0, 0, 1
EPOCHS = 2  # of a training whose causes of difference are sought
AGAIN = 10  # how often a part is computed


@contextlib.contextmanager
def sums_in_order() -> Iterator[None]:
    """Draws patterns with tensor operations whose additions have a fixed order."""
    from unimat_lib.kernels import sticks

    original = sticks.add_sticks

    def in_order(*arguments: object) -> torch.Tensor:
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            return render._sticks_in_steps(*arguments)
        finally:
            torch.use_deterministic_algorithms(before)

    sticks.add_sticks = in_order
    try:
        yield
    finally:
        sticks.add_sticks = original


def different(vectors: Sequence[torch.Tensor]) -> float:
    """Share of the places at which some vectors are not the same, per cent."""
    moved = torch.stack([vector != vectors[0] for vector in vectors[1:]]).any(0)
    return 100 * float(moved.double().mean())


def drawn(setting: Setting, views: CrystalViews) -> torch.Tensor:
    """The patterns of a batch, with all effects that training draws."""
    generator = torch.Generator(device=views.device).manual_seed(0)
    index = torch.arange(setting.fit.batch_size, device=views.device)
    how = {"measurement": setting.fit.measurement, "generator": generator}
    return views.batch(index, modalities=("xrd",), **how).views["xrd"].flatten()


def gradient_of(setting: Setting, views: CrystalViews, model: UniMat) -> Callable[[], torch.Tensor]:
    """A function that computes the gradient of one batch, all parameters in one vector."""
    index = torch.arange(setting.fit.batch_size, device=views.device)
    batch = views.batch(index, modalities=setting.model.modalities)
    model = model.to(views.device).requires_grad_(True).train()

    def gradient() -> torch.Tensor:
        torch.manual_seed(0)
        model.zero_grad()
        with torch.autocast(views.device.type, torch.bfloat16):
            loss = losses(model, batch, config=setting.fit)["loss"]
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    return gradient


def causes_of(
    setting: Setting, views: CrystalViews, table: CrystalTable, device: torch.device
) -> list[Result]:
    """Which part of a training does not repeat itself: shares of numbers that change, per cent."""
    short = dataclasses.replace(setting, fit=dataclasses.replace(setting.fit, epochs=EPOCHS))

    def twice() -> tuple[UniMat, float]:
        models = [trained(short, 0, views, table) for _ in range(2)]
        return models[0], different([parameters_to_vector(m.parameters()) for m in models])

    redrawn = different([drawn(setting, views) for _ in range(AGAIN)])
    model, moved = twice()
    gradient = gradient_of(setting, views, model)
    again = different([gradient() for _ in range(AGAIN)])
    with sums_in_order():
        redrawn_in_order = different([drawn(setting, views) for _ in range(AGAIN)])
        _, moved_in_order = twice()
    about = {"unit": "%", "device": device_name(device)}
    return [
        Result(
            name=f"repeat_{setting.name}_drawn_percent",
            value=redrawn,
            notes=f"points of a batch's patterns that change when it is drawn {AGAIN} times; with "
            f"sums in a fixed order {redrawn_in_order:g} %. Numbers of its gradient that change "
            f"when that is computed {AGAIN} times: {again:g} %",
            **about,
        ),
        Result(
            name=f"repeat_{setting.name}_in_order_percent",
            value=moved_in_order,
            notes=f"weights that differ after {EPOCHS} epochs twice, patterns drawn with sums in a "
            f"fixed order; as they are drawn otherwise {moved:g} %",
            **about,
        ),
    ]


def trained(setting: Setting, seed: int, views: CrystalViews, table: CrystalTable) -> UniMat:
    """The model after one training from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        run = train_seeds(
            *(setting.model, views, table), config=setting.fit, seeds=[seed], run_dir=folder
        )
    return run.models[0]


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
    what = "look at the parts of trainings on patterns; needs a GPU"
    parser.add_argument("--causes", action="store_true", help=what)
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
    chosen = [setting for setting in settings(given.profile) if setting.name in given.settings]
    for setting in chosen:
        if given.causes:
            on_patterns = "xrd" in setting.model.modalities
            results = causes_of(setting, views, table, device) if on_patterns else []
        else:
            models = [trained(setting, seed, views, table) for seed in SEEDS]
            val = split_rows(table)[1]
            frames = [predict(model, views, table, val) for model in models]
            results = [result_of(setting, frames, device)]
        for result in results:
            print(f"{result.name:<50} {result.value:8.4f} %  {result.notes}", flush=True)
        if given.profile == "full":
            record(results)


if __name__ == "__main__":
    main()

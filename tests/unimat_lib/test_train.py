"""The fit loop: it learns, resumes bit for bit, never mixes runs, and says what is wrong."""

import dataclasses
import functools
import json
import math

import pytest
import torch

from unimat_lib.alignment import recall_at_k, retrieval_ranks
from unimat_lib.evaluation.metrics import cell_metrics
from unimat_lib.evaluation.predict import embed, predict
from unimat_lib.model import UniMat, UniMatConfig
from unimat_lib.training.config import FitConfig, make_fabric
from unimat_lib.training.fit import fit
from unimat_lib.training.loop import train_epoch
from unimat_lib.views.batch import build_views
from unimat_lib.views.effects import Measurement
from unimat_lib.views.grid import Grid

FIT = "unimat_lib.training.fit"
GRID = Grid(5.0, 90.0, 256)
MEASUREMENT = Measurement(strain=0.02, fwhm=(0.4, 0.8), noise=0.02)


@pytest.fixture(scope="module")
def table(prototype_table):
    return prototype_table.select(torch.arange(min(72, len(prototype_table))))


@pytest.fixture(scope="module")
def views(table):
    return build_views(
        table, grid=GRID, fwhm=0.6, max_strain=0.02, modalities=("xrd", "composition")
    )


@pytest.fixture(scope="module")
def split(views):
    rows = torch.arange(len(views))
    return {"train": rows[:-16], "val": rows[-16:]}


def make_model(views, train, *, dropout=0.1, seed=0, **changes):
    torch.manual_seed(seed)
    settings = {
        "modalities": ("xrd", "composition"),
        "inputs": ("xrd", "composition"),
        "dim": 32,
        "projection_dim": 16,
        "grid": GRID,
        "fwhm": 0.6,
        "xrd": {"width": 8, "depths": (1, 1), "dropout": dropout},
        "composition": {"hidden": 32, "depth": 1, "dropout": dropout},
    }
    model = UniMat(UniMatConfig(**(settings | changes)))
    model.fit_scalers(views, train)
    return model


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


def test_training_lowers_the_error(views, split, table, tmp_path):
    model = make_model(views, split["train"], dropout=0.0)
    before = cell_metrics(predict(model, views, table, split["train"]))
    config = FitConfig(epochs=60, batch_size=28, lr=3e-3)
    # Validated on the training crystals: this asks whether it can fit, not whether it generalises.
    rows = split["train"]
    result = fit(model, views, train=rows, val=rows, config=config, run_dir=tmp_path)
    after = cell_metrics(predict(model, views, table, split["train"]))
    assert after["length_mae"] < 0.5 * before["length_mae"]
    assert after["crystal_system_accuracy"] > 80
    assert result.history["loss"].iloc[-1] < 0.3 * result.history["loss"].iloc[0]
    assert result.best_epoch == result.history["val_loss"].idxmin()
    assert result.peak_memory_gib > 0
    log = [json.loads(line) for line in (result.run_dir / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == list(range(60))


def test_contrastive_training_aligns_the_modalities(views, split, tmp_path):
    model = make_model(views, split["train"], dropout=0.0)
    config = FitConfig(
        epochs=60, batch_size=28, lr=3e-3, cell_weight=0, system_weight=0, contrastive_weight=1
    )
    rows = split["train"]

    def recall():
        points = embed(model, views, rows)
        return recall_at_k(retrieval_ranks(points["composition"], points["xrd"]), 5)

    before = recall()
    fit(model, views, train=rows, val=rows, config=config, run_dir=tmp_path)
    assert recall() > max(0.6, 2 * before)


@pytest.mark.parametrize("checkpoint_seconds", [0, 3600])  # from a checkpoint, and without one
def test_an_interrupted_run_continues_bit_for_bit(
    views, split, tmp_path, monkeypatch, checkpoint_seconds
):
    config = FitConfig(
        epochs=4,
        batch_size=20,
        contrastive_weight=0.3,
        modality_dropout=0.3,
        measurement=MEASUREMENT,
    )
    whole = make_model(views, split["train"])
    reference = fit(whole, views, **split, config=config, run_dir=tmp_path / "whole")

    calls = []

    def stop_in_third_epoch(*args, **kwargs):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return train_epoch(*args, **kwargs)

    monkeypatch.setattr(f"{FIT}.train_epoch", stop_in_third_epoch)
    monkeypatch.setattr(f"{FIT}.CHECKPOINT_SECONDS", checkpoint_seconds)
    broken = make_model(views, split["train"])
    with pytest.raises(KeyboardInterrupt):
        fit(broken, views, **split, config=config, run_dir=tmp_path / "broken")
    monkeypatch.undo()
    (folder,) = (tmp_path / "broken").iterdir()
    assert (folder / "last.safetensors").is_file() == (checkpoint_seconds == 0)

    torch.rand(7)  # whatever the global generator did in between must not matter
    resumed = make_model(views, split["train"])
    result = fit(resumed, views, **split, config=config, run_dir=tmp_path / "broken")
    assert torch.equal(weights(resumed), weights(whole))
    columns = ["epoch", "loss", "val_loss", "lr"]
    assert result.history[columns].equals(reference.history[columns])


@pytest.mark.parametrize("threads", [1, 2])
def test_equal_numbers_of_threads_give_equal_bits(views, split, tmp_path, threads):
    config = FitConfig(epochs=2, batch_size=28, contrastive_weight=0.3, measurement=MEASUREMENT)
    torch.set_num_threads(threads)  # the sums of matrix products depend on it, and on nothing else
    try:
        models = [make_model(views, split["train"]) for _ in range(2)]
        for number, model in enumerate(models):
            fit(model, views, **split, config=config, run_dir=tmp_path / str(number))
    finally:
        torch.set_num_threads(1)
    assert torch.equal(*(weights(model) for model in models))


def test_a_finished_run_is_loaded_and_not_repeated(views, split, tmp_path, monkeypatch):
    config = FitConfig(epochs=2, batch_size=20)
    first = make_model(views, split["train"])
    fit(first, views, **split, config=config, run_dir=tmp_path)

    monkeypatch.setattr(f"{FIT}.train_epoch", None)  # calling it would fail
    second = make_model(views, split["train"])
    fit(second, views, **split, config=config, run_dir=tmp_path)
    assert torch.equal(weights(first), weights(second))


def test_another_seed_or_setting_is_another_run(views, split, tmp_path):
    config = FitConfig(epochs=1, batch_size=20)
    results = []
    for change in ({}, {"seed": 1}, {"lr": 2e-3}, {"measurement": MEASUREMENT}):
        model = make_model(views, split["train"])
        changed = dataclasses.replace(config, **change)
        results.append(fit(model, views, **split, config=changed, run_dir=tmp_path).run_dir)
    other_start = make_model(views, split["train"], seed=1)
    results.append(fit(other_start, views, **split, config=config, run_dir=tmp_path).run_dir)
    assert len(set(results)) == 5


def test_other_views_are_another_run(views, split, table, tmp_path):
    config = FitConfig(epochs=1, batch_size=20)
    flat = dataclasses.replace(views, magpie=torch.ones_like(views.magpie))
    runs = [
        fit(make_model(views, split["train"]), v, **split, config=config, run_dir=tmp_path).run_dir
        for v in (views, flat)
    ]
    assert runs[0] != runs[1]


def test_patience_stops_early(views, split, tmp_path):
    model = make_model(views, split["train"])
    config = FitConfig(epochs=50, batch_size=20, lr=0.3, patience=2)  # diverges at once
    result = fit(model, views, **split, config=config, run_dir=tmp_path)
    assert len(result.history) == result.best_epoch + 3
    assert len(result.history) < 50


def test_the_global_random_state_is_left_alone(views, split, tmp_path):
    model = make_model(views, split["train"])
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fit(model, views, **split, config=FitConfig(epochs=1, batch_size=20), run_dir=tmp_path)
    assert torch.equal(torch.rand(2), expected)


def truncated(data):
    return data[: len(data) // 2]


def zeroed(data):
    return bytes(len(data))


def flipped(data):  # in the middle of the numbers
    middle = 2 * len(data) // 3
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, zeroed, flipped])
@pytest.mark.parametrize("name", ["best", "last"])
def test_a_damaged_checkpoint_is_remade(views, split, tmp_path, monkeypatch, caplog, name, damage):
    config = FitConfig(epochs=3, batch_size=20)
    whole = make_model(views, split["train"])
    run = functools.partial(fit, views=views, **split, config=config, run_dir=tmp_path)
    monkeypatch.setattr(f"{FIT}.CHECKPOINT_SECONDS", 0)
    if name == "best":
        file = run(whole).run_dir / "best.safetensors"
    else:
        calls = []

        def stop_in_second_epoch(*args):
            calls.append(1)
            return train_epoch(*args) if len(calls) < 2 else pytest.fail("stopped")

        monkeypatch.setattr(f"{FIT}.train_epoch", stop_in_second_epoch)
        with pytest.raises(pytest.fail.Exception):
            run(make_model(views, split["train"]))
        monkeypatch.setattr(f"{FIT}.train_epoch", train_epoch)
        fit(whole, views, **split, config=config, run_dir=tmp_path / "whole")
        file = next(tmp_path.glob("*/last.safetensors"))
    file.write_bytes(damage(file.read_bytes()))
    again = make_model(views, split["train"])
    result = run(again)
    assert f"{name}.safetensors is damaged" in caplog.text
    assert torch.equal(weights(again), weights(whole))
    assert sorted(p.name for p in result.run_dir.iterdir()) == ["best.safetensors", "log.jsonl"]


@pytest.mark.parametrize("damage", [truncated, zeroed, flipped])
def test_a_damaged_log_is_remade(views, split, tmp_path, caplog, damage):
    run = functools.partial(fit, views=views, **split, run_dir=tmp_path)
    config = FitConfig(epochs=2, batch_size=20)
    log = run(make_model(views, split["train"]), config=config).run_dir / "log.jsonl"
    before = log.read_bytes()
    assert "remade" not in caplog.text
    log.write_bytes(damage(before))
    run(make_model(views, split["train"]), config=config)
    assert "the log did not tell the history and is remade" in caplog.text
    assert log.read_bytes() == before


@pytest.mark.parametrize("start", [99.9, 100.0])
def test_training_keeps_the_temperature_within_its_limit(views, split, tmp_path, start):
    model = make_model(views, split["train"], start_scale=start)
    with torch.no_grad():
        model.alignment.log_scale.add_(0.2)  # beyond the limit, as an optimiser step may leave it
    config = FitConfig(epochs=1, batch_size=20, lr=0.1, contrastive_weight=1.0, warmup=0.0, ema=0.0)
    fit(model, views, **split, config=config, run_dir=tmp_path)
    assert model.alignment.scale.item() < 100.001


def test_bad_input_is_refused(views, split, tmp_path):
    model = make_model(views, split["train"])
    config = FitConfig(epochs=1, batch_size=20)
    empty = torch.empty(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="validation split is empty"):
        fit(model, views, train=split["train"], val=empty, config=config, run_dir=tmp_path)
    with pytest.raises(ValueError, match="at least one batch of 20"):
        fit(model, views, train=split["val"], val=split["val"], config=config, run_dir=tmp_path)
    with pytest.raises(ValueError, match="must not overlap"):
        fit(model, views, **split | {"val": split["train"][:9]}, config=config, run_dir=tmp_path)
    with pytest.raises(ValueError, match="positive weight"):
        FitConfig(epochs=1, cell_weight=0, system_weight=0)
    with pytest.raises(ValueError, match="'cpu' or 'cuda'"):
        make_fabric("tpu")


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "epochs": (0, -1, 2.0, "3", True, None),
        "batch_size": (1, 20.0, math.inf),
        "lr": (0.0, -1.0, math.inf, math.nan, "fast"),
        "weight_decay": (-0.1, math.inf, math.nan),
        "warmup": (-0.1, 1.0, math.nan),
        "clip_norm": (-1.0, 0.0, math.inf, math.nan),
        "ema": (-0.1, 1.0, math.nan),
        "cell_weight": (-3.0, math.inf, math.nan),
        "system_weight": (-3.0, math.inf, math.nan),
        "contrastive_weight": (-3.0, math.inf, math.nan),
        "modality_dropout": (-0.1, 1.0, math.nan),
        "patience": (-1, 0, 2.5),
        "seed": (0.5, None),
    }.items(),
)
def test_settings_out_of_range_are_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"expected {name}, "):
            FitConfig(**{"epochs": 1} | {name: value})


def test_a_loss_that_is_not_finite_is_said_in_words(views, split, tmp_path):
    broken = dataclasses.replace(views, magpie=torch.full_like(views.magpie, float("nan")))
    model = make_model(views, split["train"])
    config = FitConfig(epochs=1, batch_size=20)
    with pytest.raises(ValueError, match="look for NaN among the inputs"):
        fit(model, broken, **split, config=config, run_dir=tmp_path)


def _fit_in_each_process(fabric, *, views, split, run_dir):
    model = make_model(views, split["train"])
    config = FitConfig(epochs=2, batch_size=10, patience=5)
    result = fit(model, views, **split, config=config, run_dir=run_dir, fabric=fabric)
    total = fabric.all_gather(weights(model).double().sum())
    return result.history["loss"].tolist(), total.tolist()


def test_two_processes_share_the_batches_and_agree(views, split, tmp_path):
    fabric = make_fabric("cpu", devices=2)
    # Bound here, because launch() takes its arguments apart and stumbles over dataclasses.
    bound = functools.partial(_fit_in_each_process, views=views, split=split, run_dir=tmp_path)
    losses, totals = fabric.launch(bound)
    assert len(losses) == 2
    assert totals[0] == totals[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that was asked for")
def test_a_missing_gpu_is_said_in_words():
    with pytest.raises(RuntimeError, match="sees no GPU"):
        make_fabric("cuda")

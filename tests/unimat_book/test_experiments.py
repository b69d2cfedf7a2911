"""The loops and tables that the training chapters share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from unimat_book import experiments
from unimat_book.chapters.alignment import (
    linear_probe,
    preferred_wrong,
    retrieval_examples,
    retrieval_table,
)
from unimat_book.experiments import load_starts, pretraining_data, split_rows, train_seeds
from unimat_book.ledger.predictions import load_predictions
from unimat_book.tables import change_table, cost_table, main_table, worst_table
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_lib.evaluation.metrics import (
    CELL_COLUMNS,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
    cell_metrics,
)
from unimat_lib.model import UniMat, UniMatConfig, save_model
from unimat_lib.training.config import FitConfig
from unimat_lib.views.batch import build_views
from unimat_lib.views.grid import Grid


@pytest.fixture(scope="module")
def table():
    """Thirty copies of rutile, the lattice stretched a little more each time, in three splits."""
    crystals = worked_crystal().select(torch.zeros(30, dtype=torch.int64))
    crystals.lattice.mul_(torch.linspace(0.9, 1.1, 30, dtype=torch.float64)[:, None, None])
    crystals.info["split"] = ["train"] * 16 + ["val"] * 6 + ["test"] * 8
    crystals.info["material_id"] = [f"r{i}" for i in range(30)]
    return crystals


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    views = build_views(table, grid=Grid(5.0, 90.0, 256), fwhm=1.0, modalities=("xrd",))
    model = UniMatConfig(
        modalities=("xrd",),
        inputs=("xrd",),
        dim=8,
        projection_dim=8,
        grid=views.grid,
        fwhm=views.fwhm,
        xrd={"width": 4, "depths": (1, 1)},
    )
    run = train_seeds(
        model,
        views,
        table,
        config=FitConfig(epochs=2, batch_size=8),
        seeds=[0, 3],
        run_dir=folder / "runs",
        predictions=folder / "predictions",
        setting="xrd",
    )
    return run, folder


def frame_of(error: float, n: int = 40) -> pd.DataFrame:
    """Errors frame in which every length is off by ``error`` angstrom, give or take a little."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"material_id": [f"m{i}" for i in range(n)]})
    frame["crystal_system"] = np.arange(n) % 7
    frame["predicted_system"] = np.arange(n) % 5
    for name in (*CELL_COLUMNS, *SCALED_COLUMNS):
        frame[name] = 4.0
        frame[f"error_{name}"] = error + 0.01 * rng.random(n)
    for name in ("a", "b", "c", "volume"):
        frame[f"relative_error_{name}"] = error / 4
    return frame


def test_split_rows_follow_the_table(table):
    train, val, test = split_rows(table)
    assert (len(train), len(val), len(test)) == (16, 6, 8)
    assert set(table.info["split"].to_numpy()[val.numpy()]) == {"val"}


def test_each_seed_leaves_one_file_with_the_test_crystals(trained, table):
    run, folder = trained
    frames = load_predictions(
        folder / "predictions", setting="xrd", variant="reproduction", made_by="-"
    )
    assert list(frames) == [0, 3]
    for frame, kept in zip(frames.values(), run.frames, strict=True):
        assert list(frame["material_id"]) == [f"r{i}" for i in range(22, 30)]
        pd.testing.assert_frame_equal(frame, kept)


def test_seeds_differ_and_are_reported_in_the_tables(trained):
    run, _ = trained
    assert not np.allclose(run.frames[0]["a"], run.frames[1]["a"])
    cost = cost_table({"pattern": run})
    assert cost.loc[0, "epochs"] == 2
    main = main_table({"pattern": run})
    mean = run.summary.loc["length_mae", "mean"]
    assert main.loc[0, "length MAE (Å)"].startswith(f"{mean:.3f} ± ")


def test_no_seed_is_refused(table):
    with pytest.raises(ValueError, match="at least one seed"):
        train_seeds(None, None, table, config=FitConfig(epochs=1), seeds=[], run_dir="unused")


def test_change_table_knows_better_from_worse():
    change = change_table([frame_of(0.2)] * 2, [frame_of(0.1)] * 2)
    assert change.loc["length_mae", "verdict"] == "improves"
    assert change.loc["length_mae", "change"] == "-0.100"
    assert change.loc["crystal_system_accuracy", "verdict"] == "no clear change"
    back = change_table([frame_of(0.1)] * 2, [frame_of(0.2)] * 2)
    assert back.loc["scaled_length_mae", "verdict"] == "worsens"


def test_worst_table_names_the_worst_rows(trained, table):
    run, _ = trained
    worst = worst_table(run.frames, table, n=3)
    assert len(worst) == 3
    assert worst["mean error (Å)"].is_monotonic_decreasing
    assert set(worst["row"]) <= set(range(22, 30))
    assert set(worst["crystal system"]) <= set(CRYSTAL_SYSTEMS)


def test_retrieval_table_covers_every_direction():
    points = {name: torch.eye(6) for name in ("structure", "xrd")}
    points["composition"] = torch.ones(6, 6)  # all formulas alike: ties count against us
    found = retrieval_table(points, ks=(1, 5)).set_index(["query", "gallery"])
    assert len(found) == 6
    assert found.loc[("xrd", "structure"), "recall@1 (%)"] == 100
    assert found.loc[("structure", "composition"), "recall@5 (%)"] == 0


def test_examples_and_preferred_wrong_answers(table):
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.1, 0.2, 0.3]])
    patterns = torch.eye(3)
    first, second = retrieval_examples(
        [0, 1], similarity, patterns, ["p", "q", "r"], ranks=torch.tensor([1, 2, 1])
    )
    assert second["title"] == "q, rank 2"
    assert (first["labels"], first["correct"]) == (["p", "r", "q"], 0)
    assert (second["labels"][0], second["correct"]) == ("p", 1)
    wrong = preferred_wrong(similarity, patterns, table.select([0, 1, 2]))
    assert wrong["same group"].all()
    assert wrong["pattern similarity"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("description", ["the same", "another", "by modality"])
def test_training_can_start_from_another_model(trained, table, tmp_path, description):
    run, _ = trained
    grid = Grid(5.0, 90.0, 256)
    views = build_views(table, grid=grid, fwhm=1.0, modalities=("xrd",))
    model, start = run.model.config, run.model
    if description == "another":
        model = dataclasses.replace(model, fusion="gated")
    if description == "by modality":
        start = {"xrd": run.model, "structure": None}
    again = train_seeds(
        model,
        views,
        table,
        config=FitConfig(epochs=1, batch_size=8, lr=1e-8),
        seeds=[5],
        run_dir=tmp_path,
        start=[start],
    )
    assert again.seeds == [5]

    def distance(part):
        pairs = zip(
            getattr(run.model, part).parameters(),
            getattr(again.model, part).parameters(),
            strict=True,
        )
        return max(float((a - b).detach().abs().max()) for a, b in pairs)

    assert distance("encoders") < 1e-5
    assert distance("projections") < 1e-5
    assert (distance("cell_head") < 1e-5) == (description == "the same")


def test_one_start_per_seed(trained, table, tmp_path):
    run, _ = trained
    views = build_views(table, grid=Grid(5.0, 90.0, 256), fwhm=1.0, modalities=("xrd",))
    with pytest.raises(ValueError, match="one start per seed, got 1 for 2 seeds"):
        train_seeds(
            run.model.config,
            views,
            table,
            config=FitConfig(epochs=1, batch_size=8),
            seeds=[0, 1],
            run_dir=tmp_path,
            start=[run.model],
        )


def test_rows_decide_what_is_trained_on(trained, table, tmp_path):
    run, _ = trained
    views = build_views(table, grid=Grid(5.0, 90.0, 256), fwhm=1.0, modalities=("xrd",))
    train = split_rows(table)[0]
    config = FitConfig(epochs=1, batch_size=8)
    shared = dict(config=config, seeds=[0], run_dir=tmp_path)
    whole, part = (
        train_seeds(run.model.config, views, table, rows=rows, **shared)
        for rows in (train, train[:8])
    )
    losses = [float(run.fits[0].history["loss"].iloc[0]) for run in (whole, part)]
    assert losses[0] != losses[1]
    # Units come from the training split either way, so that weights can be handed over.
    for name, value in whole.model.cell_scaler.state_dict().items():
        assert torch.equal(value, part.model.cell_scaler.state_dict()[name])


def test_starts_of_an_earlier_chapter(trained, tmp_path):
    run, _ = trained
    with pytest.raises(FileNotFoundError, match=r"unimat-book run 03"):
        load_starts(tmp_path, ["xrd"], [0], made_by="unimat-book run 03")
    save_model(run.model, tmp_path / "xrd_seed0.safetensors")
    (again,) = load_starts(tmp_path, ["xrd"], [0], made_by="")
    for a, b in zip(run.model.parameters(), again["xrd"].parameters(), strict=True):
        assert torch.equal(a, b)


def test_pretraining_data(prototype_table, monkeypatch):
    info = prototype_table.info.assign(split="extra", source="x")
    info["material_id"] = [f"extra-{n}" for n in range(len(info))]
    info["formula"] = "X" + info["formula"].astype(str)
    extra = dataclasses.replace(prototype_table, info=info)
    monkeypatch.setattr(experiments, "load_dataset", lambda name: extra)
    settings = dict(modalities=("composition",), grid=Grid(5.0, 90.0, 64))
    limit = int(prototype_table.num_atoms.median())
    monkeypatch.setattr(
        experiments, "build_views", lambda pool, **_: pool
    )  # formulas with X have no features
    _, pool, rows = pretraining_data(prototype_table, "extra", max_atoms=limit, **settings)
    further = pool.info["split"].to_numpy()[len(prototype_table) :]
    assert set(further) == {"extra"}
    assert int(pool.num_atoms[len(prototype_table) :].max()) <= limit
    train = split_rows(prototype_table)[0]
    assert torch.equal(rows[: len(train)], train)
    assert len(rows) == len(train) + len(further)
    assert len(pretraining_data(prototype_table, "", max_atoms=9, **settings)[1]) == len(
        prototype_table
    )


def test_linear_probe_reads_what_the_encoder_keeps(prototype_table):
    names = ("composition",)
    views = build_views(prototype_table, grid=Grid(5.0, 90.0, 64), fwhm=2.0, modalities=names)
    # Features that hold the lengths and the crystal system among noise, and no more.
    torch.manual_seed(0)
    features = torch.randn_like(views.magpie)
    features[:, :3] = views.targets.lengths
    system = torch.nn.functional.one_hot(views.targets.crystal_system, 7)
    features[:, 3:10] = system.float()
    views = dataclasses.replace(views, magpie=features)
    network = UniMat(UniMatConfig(modalities=names, inputs=names, dim=132, grid=views.grid))
    network.encoders["composition"] = torch.nn.Identity()
    rows = torch.randperm(len(prototype_table))
    train, test = rows[:-60], rows[-60:]
    network.fit_scalers(views, train)
    frame = linear_probe(
        network, views, prototype_table, train=train, test=test, modality="composition"
    )
    metrics = cell_metrics(frame)
    assert metrics["length_mae"] < 0.1
    assert metrics["angle_mae"] > 1  # nothing was said of the angles
    assert metrics["crystal_system_accuracy"] > 90
    probabilities = frame[list(PROBABILITY_COLUMNS)].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    truth = prototype_table.lengths[test].numpy()
    np.testing.assert_allclose(frame["a"] - frame["error_a"], truth[:, 0], atol=1e-4)

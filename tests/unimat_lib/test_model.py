"""Views, heads and the whole model: units, masks, strain, save and load."""

import json

import pytest
import torch

from unimat_lib.evaluation.predict import predict
from unimat_lib.heads import CellScaler, supervised_loss
from unimat_lib.model import UniMat, UniMatConfig, load_model, num_parameters, save_model
from unimat_lib.views.batch import MODALITIES, build_views, make_targets
from unimat_lib.views.effects import Measurement
from unimat_lib.views.grid import Grid

GRID = Grid(5.0, 90.0, 256)


def small_config(**changes):
    settings = {
        "modalities": MODALITIES,
        "inputs": MODALITIES,
        "dim": 32,
        "projection_dim": 16,
        "grid": GRID,
        "cutoff": 4.0,
        "max_neighbors": 8,
        "fwhm": 0.6,
        "structure": {"hidden": 16, "blocks": 1, "out_emb": 16},
        "xrd": {"width": 8, "depths": (1, 1)},
        "composition": {"hidden": 16, "depth": 1},
    }
    return UniMatConfig(**(settings | changes))


@pytest.fixture(scope="module")
def views(prototype_table):
    table = prototype_table.select(torch.arange(min(40, len(prototype_table))))
    return build_views(table, grid=GRID, fwhm=0.6, cutoff=4.0, max_neighbors=8, max_strain=0.05)


@pytest.fixture
def model(views):
    torch.manual_seed(0)
    model = UniMat(small_config())
    model.fit_scalers(views, torch.arange(30))
    return model.eval()


def test_batches_hold_what_was_asked_for(views):
    index = torch.tensor([3, 0, 7])
    batch = views.batch(index, modalities=("xrd", "composition"))
    assert set(batch.views) == {"xrd", "composition"}
    assert batch.views["xrd"].shape == (3, GRID.num_points)
    torch.testing.assert_close(batch.targets.lengths, views.targets.lengths[index])


def test_strain_stretches_views_and_targets_alike(views):
    index = torch.arange(8)
    generator = torch.Generator().manual_seed(1)
    measurement = Measurement(strain=0.05, fwhm=(0.6, 0.6))
    batch = views.batch(index, modalities=MODALITIES, measurement=measurement, generator=generator)
    clean = views.batch(index, modalities=MODALITIES)
    stretch = batch.targets.lengths[:, 0] / clean.targets.lengths[:, 0]
    assert (stretch - 1).abs().max() > 0.005
    assert (stretch - 1).abs().max() <= 0.05 + 1e-6
    graph, clean_graph = batch.views["structure"], clean.views["structure"]
    ratio = graph.distance / clean_graph.distance
    torch.testing.assert_close(ratio, stretch[graph.edge_crystal], atol=1e-5, rtol=0)
    # Bragg: where the crystal is stretched, its first peak moves to a smaller angle.
    torch.testing.assert_close(batch.targets.angles, clean.targets.angles)
    assert not torch.allclose(batch.views["xrd"], clean.views["xrd"])


def test_batches_are_reproducible_from_the_generator(views):
    index = torch.arange(6)
    measurement = Measurement(strain=0.05, fwhm=(0.3, 0.9), noise=0.05, background=0.1)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return views.batch(
            index, modalities=("xrd",), measurement=measurement, generator=generator
        ).views["xrd"]

    assert torch.equal(draw(5), draw(5))
    assert not torch.equal(draw(5), draw(6))


def test_views_refuse_what_they_do_not_hold(views, prototype_table):
    small = prototype_table.select(torch.arange(4))
    only = build_views(small, grid=GRID, modalities=("composition",))
    with pytest.raises(ValueError, match="build_views"):
        only.batch(torch.arange(2), modalities=("xrd",))
    with pytest.raises(ValueError, match="expected modalities"):
        build_views(small, grid=GRID, modalities=("neutron",))
    with pytest.raises(ValueError, match="Generator"):
        views.batch(torch.arange(2), modalities=("xrd",), measurement=Measurement())


def test_views_refuse_a_strain_beyond_their_reflections(views):
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match=r"max_strain=0\.06 to build_views"):
        views.batch(
            torch.arange(2),
            modalities=("xrd",),
            measurement=Measurement(strain=0.06),
            generator=generator,
        )


def test_models_refuse_views_made_another_way(views, prototype_table):
    for change in ({"grid": Grid(10.0, 80.0, 256)}, {"fwhm": 0.5}, {"cutoff": 3.0}):
        model = UniMat(small_config(**change))
        with pytest.raises(ValueError, match="the model expects views with"):
            predict(model, views, prototype_table, torch.arange(3))


def test_scaled_lengths_follow_their_definition(prototype_table):
    targets = make_targets(prototype_table)
    expected = prototype_table.lengths / prototype_table.num_atoms[:, None] ** (1 / 3)
    torch.testing.assert_close(targets.scaled_lengths, expected.float())


def test_scaler_round_trip_and_single_crystal(views):
    scaler = CellScaler()
    scaler.fit(views.targets)
    decoded = scaler.decode(scaler.encode(views.targets))
    torch.testing.assert_close(decoded["lengths"], views.targets.lengths, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(decoded["angles"], views.targets.angles, atol=1e-3, rtol=1e-5)
    for count in (1, 5):
        one = views.targets.select(torch.zeros(count, dtype=torch.int64))
        scaler.fit(one)
        assert torch.isfinite(scaler.encode(one)).all()


def test_supervised_loss_is_zero_for_the_truth(views):
    scaler = CellScaler()
    scaler.fit(views.targets)
    right = torch.full((len(views), 7), -50.0)
    right[torch.arange(len(views)), views.targets.crystal_system] = 0.0
    cell, system = supervised_loss(
        cell=scaler.encode(views.targets),
        system_log_probs=right,
        targets=views.targets,
        scaler=scaler,
    )
    assert cell.item() == 0
    assert system.item() == 0


@pytest.mark.parametrize("fusion", ["concat", "gated", "cross_attention", "late"])
def test_forward_gives_probabilities_and_cells_for_any_subset(views, fusion):
    torch.manual_seed(0)
    model = UniMat(small_config(fusion=fusion)).eval()
    batch = views.batch(torch.arange(5), modalities=MODALITIES)
    for names in (MODALITIES, ("xrd",), ("xrd", "composition")):
        output = model({name: batch.views[name] for name in names})
        assert set(output.embeddings) == set(names)
        assert output.cell.shape == (5, 9)
        torch.testing.assert_close(output.system_log_probs.exp().sum(dim=1), torch.ones(5))


def test_a_masked_modality_is_an_absent_one(model, views):
    batch = views.batch(torch.arange(5), modalities=MODALITIES)
    nobody = torch.zeros(5, dtype=torch.bool)
    masked = model(batch.views, {"structure": nobody})
    absent = model({name: batch.views[name] for name in ("xrd", "composition")})
    torch.testing.assert_close(masked.cell, absent.cell)


def test_modalities_outside_the_inputs_do_not_reach_the_heads(views):
    torch.manual_seed(0)
    model = UniMat(small_config(modalities=("structure", "xrd"), inputs=("structure",))).eval()
    batch = views.batch(torch.arange(5), modalities=("structure", "xrd"))
    both = model(batch.views)
    alone = model({"structure": batch.views["structure"]})
    torch.testing.assert_close(both.cell, alone.cell)
    assert set(both.projections) == {"structure", "xrd"}


def test_model_refuses_bad_settings_and_views(model, views):
    with pytest.raises(ValueError, match="one or more modalities"):
        small_config(modalities=("neutron",))
    with pytest.raises(ValueError, match="every modality once"):
        small_config(inputs=("xrd", "xrd"))
    with pytest.raises(ValueError, match="inputs among"):
        small_config(modalities=("xrd",), inputs=("structure",))
    with pytest.raises(ValueError, match="at least one view"):
        model({})
    with pytest.raises(ValueError, match=r"unknown model settings \['depth'\]"):
        UniMatConfig.from_dict({"depth": 3})


def test_saved_models_predict_the_same(model, views, tmp_path):
    path = save_model(model, tmp_path / "deep" / "unimat.safetensors")
    loaded = load_model(path)
    assert loaded.config == UniMatConfig.from_dict(model.config.to_dict())
    assert num_parameters(loaded) == num_parameters(model)
    batch = views.batch(torch.arange(6), modalities=MODALITIES)
    torch.testing.assert_close(loaded(batch.views).cell, model(batch.views).cell)
    assert sorted(p.name for p in path.parent.iterdir()) == ["unimat.json", "unimat.safetensors"]


def test_half_precision_halves_the_file_and_keeps_the_answer(model, views, tmp_path):
    full = save_model(model, tmp_path / "full.safetensors")
    half = save_model(model, tmp_path / "half.safetensors", half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    batch = views.batch(torch.arange(6), modalities=MODALITIES)
    torch.testing.assert_close(
        load_model(half)(batch.views).cell, model(batch.views).cell, atol=0.05, rtol=0.05
    )


def test_damaged_or_incomplete_models_are_refused(model, tmp_path):
    path = save_model(model, tmp_path / "unimat.safetensors")
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        save_model(model, tmp_path / "unimat.pt")
    with pytest.raises(FileNotFoundError, match="missing"):
        load_model(tmp_path / "other.safetensors")
    description = path.with_suffix(".json")
    text = description.read_text()
    description.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_model(path)
    description.write_text(json.dumps(json.loads(text) | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        load_model(path)
    description.write_text(json.dumps({"format": 1}))
    with pytest.raises(ValueError, match="describes no model"):
        load_model(path)
    description.write_text(text)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        load_model(path)

"""Views, heads and the whole model: units, masks, strain, save and load."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unimat_lib.evaluation.predict import predict
from unimat_lib.files import file_hash
from unimat_lib.heads import CellScaler, supervised_loss
from unimat_lib.model import UniMat, UniMatConfig, load_model, num_parameters, save_model
from unimat_lib.views.batch import MODALITIES, build_views
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
    with pytest.raises(ValueError, match=r"a strain of 0\.06 \(max_strain in build_views\) needs"):
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
    targets = build_views(prototype_table, grid=GRID, modalities=()).targets
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


def test_units_are_finite_for_one_training_crystal_and_asked_for_with_none(views):
    model = UniMat(small_config(modalities=("composition",), inputs=("composition",)))
    model.fit_scalers(views, torch.tensor([3]))
    for buffer in (model.magpie_mean, model.magpie_std, model.cell_scaler.std):
        assert torch.isfinite(buffer).all()
    assert (model.magpie_std == 1e-6).all()
    with pytest.raises(ValueError, match="at least one training crystal"):
        model.fit_scalers(views, torch.empty(0, dtype=torch.int64))


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
    absent = model({name: batch.views[name] for name in MODALITIES if name != "structure"})
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
    with pytest.raises(ValueError, match=r"expected a view of \('structure', .* got 'neutron'"):
        model({"neutron": torch.zeros(1, 4)})
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
    whole, text = path.read_bytes(), description.read_text()
    description.write_text(json.dumps(json.loads(text) | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        load_model(path)
    description.write_text(text)
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damaged in (whole[:1000], bytes(len(whole)), flipped):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"unimat\.safetensors is damaged: its sha256"):
            load_model(path)


def test_the_shipped_model_has_the_hash_that_it_names():
    folder = Path(__file__).parents[2] / "data" / "pretrained"
    assert load_model(folder / "structure_xrd_composition.safetensors").config.dim == 256


def with_settings(description, *path, **values):
    """A description with other values in the part that ``path`` leads to."""
    copy = json.loads(json.dumps(description))
    part = copy
    for key in path:
        part = part[key]
    part.update(values)
    return json.dumps(copy)


HOSTILE = {
    "empty": lambda d: "",
    "a half": lambda d: json.dumps(d)[:300],
    "a list": lambda d: "[1, 2]",
    "a number": lambda d: "1",
    "deep lists": lambda d: "[" * 500_000,
    "deep settings": lambda d: with_settings(d, "config", xrd="@").replace(
        '"@"', '{"a":' * 900 + "1" + "}" * 900
    ),
    "a gigantic text": lambda d: " " * 2**22 + json.dumps(d),
    "not UTF-8": lambda d: json.dumps(d).encode("utf-16"),
    "NUL": lambda d: json.dumps(d).replace("concat", "\x00"),
    "no config": lambda d: '{"format": 1}',
    "an unknown field": lambda d: with_settings(d, "config", depth=3),
    "an unknown argument": lambda d: with_settings(d, "config", "xrd", kernel=3),
    "a giant width": lambda d: with_settings(d, "config", dim=10**9),
    "a wide model": lambda d: with_settings(d, "config", dim=2**20),
    "a giant depth": lambda d: with_settings(d, "config", "structure", blocks=10**6),
    "a deep model": lambda d: with_settings(d, "config", "structure", blocks=64, hidden=4096),
    "giant depths": lambda d: with_settings(d, "config", "xrd", depths=[10**6]),
    "many stages": lambda d: with_settings(d, "config", "xrd", depths=[1] * 200),
    "no stages": lambda d: with_settings(d, "config", "xrd", depths=[]),
    "many points": lambda d: with_settings(d, "config", "grid", num_points=10**12),
    "half a point": lambda d: with_settings(d, "config", "grid", num_points=100.5),
    "NaN": lambda d: with_settings(d, "config", fwhm=float("nan")),
    "infinity": lambda d: with_settings(d, "config", cutoff=float("inf")),
    "NaN deep down": lambda d: with_settings(d, "config", "xrd", dropout=float("nan")),
    "a negative temperature": lambda d: with_settings(d, "config", start_scale=-1),
    "a text for a number": lambda d: with_settings(d, "config", dim="256"),
    "a number for a text": lambda d: with_settings(d, "config", fusion=3),
    "a list for a text": lambda d: with_settings(d, "config", fusion=["gated"]),
    "a text for modalities": lambda d: with_settings(d, "config", modalities="xrd"),
    "lists for modalities": lambda d: with_settings(d, "config", modalities=[["xrd"]]),
    "strange optional inputs": lambda d: with_settings(d, optional_inputs=["neutron"]),
    "no hash": lambda d: with_settings(d, sha256=None),
    "another hash": lambda d: with_settings(d, sha256="0" * 64),
    "another shape": lambda d: with_settings(d, "config", dim=33),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_descriptions_are_refused_at_once(model, tmp_path, name):
    path = save_model(model, tmp_path / "unimat.safetensors")
    description = path.with_suffix(".json")
    content = HOSTILE[name](json.loads(description.read_text()))
    description.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.process_time()
    with pytest.raises(ValueError, match=r"unimat\.(json|safetensors)"):
        load_model(path)
    assert time.process_time() - started < 5


def weights_file(path, tensors):
    """Weights at ``path`` with the hash that the description beside them names."""
    save_file(tensors, path)
    description = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(description | {"sha256": file_hash(path)}))


def test_hostile_weights_are_refused(model, tmp_path):
    path = save_model(model, tmp_path / "unimat.safetensors")
    good = {name: x.clone() for name, x in model.state_dict().items()}
    name = "fusion.mlp.1.weight"
    changes = {
        "does not fit": [{name: good[name].int()}, {name: good[name][:3]}, {"more": torch.ones(1)}],
        "not finite": [{name: good[name] * float("nan")}, {name: good[name] / 0}],
        "larger than such a model": [{"huge": torch.zeros(4 * 10**6)}],
    }
    for message, all_bad in changes.items():
        for bad in all_bad:
            weights_file(path, good | bad)
            with pytest.raises(ValueError, match=message):
                load_model(path)
    weights_file(path, {key: x for key, x in good.items() if key != name})
    with pytest.raises(ValueError, match=rf"does not fit .*{name}"):
        load_model(path)
    header = json.dumps({name: {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    description = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(description | {"sha256": file_hash(path)}))
    with pytest.raises(ValueError, match="is damaged"):
        load_model(path)
    weights_file(path, good)
    load_model(path)


def test_hostile_models_take_no_memory(model, tmp_path):
    """In a process that may take 1 GiB more than it has after its imports."""
    path = save_model(model, tmp_path / "unimat.safetensors")
    description = json.loads(path.with_suffix(".json").read_text())
    for number, name in enumerate(("a wide model", "a deep model", "many points", "deep lists")):
        other = tmp_path / f"{number}.safetensors"
        other.write_bytes(path.read_bytes())
        other.with_suffix(".json").write_text(HOSTILE[name](description))
    code = f"""
import resource
import unimat_lib.encoders.structure
from unimat_lib.model import load_model
load_model({str(path)!r})
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, size + 2**30))
for number in range(4):
    try:
        load_model(f"{tmp_path}/{{number}}.safetensors")
    except ValueError:
        print("refused", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["refused"] * 4, done.stderr

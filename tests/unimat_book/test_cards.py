"""Models that are given away: files that load, cards whose numbers are true, nothing half done."""

import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from small import make_model as make_small_model
from small import make_pattern
from test_ledger import make_frame

from unimat_book.calibration import per_system_table
from unimat_book.cards import _SYSTEM_METRICS, METRICS, publish_best, publish_model
from unimat_book.ledger.predictions import load_predictions
from unimat_book.record import project_root
from unimat_lib.evaluation.metrics import METRIC_UNITS, cell_metrics
from unimat_lib.model import UniMat, UniMatConfig, load_model, save_model
from unimat_powder.preparation import to_grid

PRETRAINED = project_root() / "data" / "pretrained"
PREDICTIONS = project_root() / "data" / "results" / "predictions"
MODELS = {  # name to the setting whose prediction file holds the card's numbers
    "structure_xrd_composition": "all_three",
}
SITES = [[0.0] * 3, [0.5] * 3]
FACTS = {"data": "MP-20, training part", "seed": 0, "epochs": 3}


def publish(folder, **changes):
    arguments = {
        "name": "small",
        "title": "A small model",
        "frame": make_frame(0, systems=6),
        "training": FACTS,
    }
    model = make_small_model(("xrd", "composition"))
    return publish_model(model, folder, **(arguments | changes))


def head_of(path):
    _, head, text = path.read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def code_of(text):
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    return code


def check_numbers(path, frame):
    """Every number of a card's head and tables against the errors of the test crystals."""
    head, text = head_of(path)
    values = cell_metrics(frame)
    (results,) = head["model-index"][0]["results"]
    assert len(results["metrics"]) == 4
    for metric in results["metrics"]:
        digits = METRICS[metric["name"]][1]
        assert metric["value"] == pytest.approx(values[metric["name"]], abs=0.51 * 10**-digits)
    for key, (label, digits) in METRICS.items():
        (shown,) = re.findall(
            rf"^\| {re.escape(label)} \| (\S+) {METRIC_UNITS[key]} \|$", text, re.M
        )
        assert float(shown) == pytest.approx(values[key], abs=0.51 * 10**-digits), key
    assert f"{len(frame):,} test crystals" in text
    for system, row in per_system_table(frame).iterrows():
        (line,) = re.findall(rf"^\| {system} \| (.*) \|$", text, re.M)
        count, *shown = line.split(" | ")
        assert int(count.replace(",", "")) == row["n"]
        for key, number in zip(_SYSTEM_METRICS, shown, strict=True):
            if row["n"]:
                within = 0.51 * 10 ** -METRICS[key][1]
                assert float(number) == pytest.approx(row[key], abs=within), (system, key)
            else:
                assert number == "–"


def test_a_published_model_loads_and_computes_nearly_the_same(tmp_path):
    path = publish(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "small.json",
        "small.md",
        "small.safetensors",
    ]
    exact, kept = make_small_model(("xrd", "composition")), load_model(path)
    assert all(x.dtype == torch.float32 for x in kept.parameters())
    assert torch.equal(kept.cell_scaler.mean, exact.cell_scaler.mean)
    for (name, a), b in zip(exact.named_parameters(), kept.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=6e-4, atol=1e-7), name
    whole = save_model(exact, tmp_path / "whole.safetensors")
    assert path.stat().st_size < 0.7 * whole.stat().st_size


def test_the_card_says_what_the_model_is(tmp_path):
    frame = make_frame(0, systems=6)
    path = publish(tmp_path).with_suffix(".md")
    check_numbers(path, frame)
    head, text = head_of(path)
    assert head["license"] == "mit" and head["metrics"] == ["mae", "accuracy"]
    assert head["tags"] and "MP-20" in head["datasets"][0]
    assert head["model-index"][0]["name"] == "small"
    assert text.lstrip().startswith("# A small model\n")
    assert set(re.findall(r"^## (\w+)$", text, re.M)) == {
        *("Use", "Training", "Metrics", "Limits", "Licence")
    }
    assert "- epochs: 3" in text and "- seed: 0" in text
    assert "10 to 80 degrees" in text and "CC-BY-4.0" in text  # the grid of this very model
    assert len(code_of(text).splitlines()) <= 6


def test_the_code_of_the_card_runs(tmp_path, monkeypatch, capsys):
    text = head_of(publish(tmp_path / "data/pretrained").with_suffix(".md"))[1]
    angles = torch.arange(5, 90, 0.1).tolist()
    rows = [f"{x:.2f} {100 * (27 < x < 28) + 50 * (36 < x < 36.5) + 1}" for x in angles]
    (tmp_path / "scan.xy").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    exec(code_of(text), {})
    assert "lengths" in capsys.readouterr().out


def test_the_code_of_a_structure_models_card_runs(tmp_path, monkeypatch):
    from pymatgen.core import Lattice, Structure

    views = ("structure", "xrd", "composition")
    shape = {"hidden": 8, "blocks": 1, "int_emb": 4, "out_emb": 8}
    small = make_small_model(("xrd",)).config
    config = UniMatConfig(
        modalities=views, inputs=views, dim=8, projection_dim=8, grid=small.grid, xrd=small.xrd,
        structure=shape,
    )  # fmt: skip
    path = publish_model(
        UniMat(config),
        tmp_path / "data/pretrained",
        name="all",
        title="All three",
        frame=make_frame(0),
        training=FACTS,
    )
    text = head_of(path.with_suffix(".md"))[1]
    assert "structure determines its cell" in text
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.5] * 3]
    )
    (tmp_path / "my_cifs").mkdir()
    salt.to(str(tmp_path / "my_cifs/salt.cif"))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code_of(text), names)
    assert set(names["points"]) == set(views) and len(names["points"]["xrd"]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame": make_frame(0)[:0]}, "without rows"),
        ({"training": {"data": "MP-20"}}, r"training lacks \['seed'\]"),
    ],
)
def test_nothing_is_written_of_what_cannot_be_said(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        publish(tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    publish(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="no space"):
        publish(tmp_path, title="Another one")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_best_seed_on_validation_crystals_is_published(tmp_path):
    def fit(losses):
        return SimpleNamespace(history=pd.DataFrame({"val_loss": losses}))

    run = SimpleNamespace(
        fits=[fit([3.0, 2.0]), fit([3.0, 1.5, 1.8]), fit([2.5])],
        frames=[make_frame(seed) for seed in range(3)],
        models=[make_small_model(("xrd", "composition"))] * 3,
        seeds=[4, 5, 6],
    )
    path = publish_best(run, tmp_path, name="best", title="Best", data="MP-20, training")
    check_numbers(path.with_suffix(".md"), run.frames[1])
    text = path.with_suffix(".md").read_text("utf-8")
    assert "- seed: 5, the one of 3 with" in text and "- validation loss: 1.5\n" in text


# ---------------------------------------------------------------- data/pretrained

needs_models = pytest.mark.skipif(
    not PRETRAINED.is_dir(),
    reason="data/pretrained is absent: unimat-book run 05 --profile full has not been run",
)


@needs_models
def test_the_pretrained_models_are_there_and_small():
    names = {f"{name}{suffix}" for name in MODELS for suffix in (".safetensors", ".json", ".md")}
    assert {path.name for path in PRETRAINED.iterdir()} == names
    reader = (project_root() / "data/reader").glob("reader.*")  # its training is no part of it
    sizes = [path.stat().st_size for path in (*PRETRAINED.iterdir(), *reader)]
    assert sum(sizes) < 15_000_000


@needs_models
@pytest.mark.parametrize("name", MODELS)
def test_a_pretrained_model_loads_on_the_cpu(name):
    model = load_model(PRETRAINED / f"{name}.safetensors")
    assert set(model.config.inputs) == set(name.split("_"))
    assert all(torch.isfinite(x).all() for x in model.state_dict().values())
    assert next(model.parameters()).device.type == "cpu"


@needs_models
@pytest.mark.parametrize(("name", "setting"), MODELS.items())
def test_a_cards_numbers_are_those_of_the_predictions(name, setting):
    path = PRETRAINED / f"{name}.md"
    seed = int(re.search(r"^- seed: (\d+)\b", path.read_text("utf-8"), re.M)[1])
    frames = load_predictions(PREDICTIONS, setting=setting, variant="ours", made_by="-")
    check_numbers(path, frames[seed])


@needs_models
def test_the_pretrained_model_places_a_pattern_in_the_shared_space():
    model = load_model(PRETRAINED / "structure_xrd_composition.safetensors").eval()
    with torch.no_grad():
        point = model({"xrd": to_grid(make_pattern(), model.config.grid)[None]}).projections["xrd"]
    assert point.shape == (1, model.config.projection_dim) and torch.isfinite(point).all()

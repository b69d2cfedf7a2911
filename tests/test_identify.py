"""From a pattern file to a cell: the command and the function behind it."""

import json

import pytest
import torch

from unimat_lib.crystals import CRYSTAL_SYSTEMS
from unimat_lib.identify import identify, in_bfloat16, main
from unimat_lib.model import UniMat, UniMatConfig, load_model, save_model
from unimat_lib.patterns import Grid, Pattern, PatternError

GRID = Grid(10.0, 80.0, 256)
SMALL = {"xrd": {"width": 4, "depths": (1, 1), "position_channels": 2}}


def make_model(inputs):
    torch.manual_seed(0)
    config = UniMatConfig(
        modalities=inputs,
        inputs=inputs,
        dim=8,
        projection_dim=8,
        grid=GRID,
        fusion="gated",
        **SMALL,
    )
    model = UniMat(config).eval()
    model.cell_scaler.mean.copy_(torch.tensor([5.0] * 6 + [90.0] * 3))
    return model


def make_pattern(low=5.0, high=90.0, shift=0.0):
    two_theta = torch.arange(low, high, 0.05, dtype=torch.float64)
    intensity = sum(
        height * torch.exp(-0.5 * ((two_theta - centre - shift) / 0.1) ** 2)
        for centre, height in ((27.4, 1000.0), (36.1, 450.0), (54.3, 550.0))
    )
    return Pattern(two_theta, intensity + 20.0)


@pytest.fixture
def pattern_file(tmp_path):
    pattern = make_pattern()
    path = tmp_path / "sample.xy"
    rows = zip(pattern.two_theta.tolist(), pattern.intensity.tolist(), strict=True)
    path.write_text("\n".join(f"{x:.3f} {y:.4f}" for x, y in rows))
    return path


@pytest.fixture
def model_file(tmp_path):
    return save_model(make_model(("xrd", "composition")), tmp_path / "model.safetensors")


def test_identification_is_complete():
    found = identify(make_model(("xrd", "composition")), make_pattern(), "TiO2")
    assert len(found.lengths) == len(found.angles) == 3
    assert tuple(found.crystal_system) == CRYSTAL_SYSTEMS
    assert sum(found.crystal_system.values()) == pytest.approx(1, abs=1e-5)
    assert found.crystal_system[found.best_system] == max(found.crystal_system.values())
    assert "angstrom" in str(found) and found.best_system in str(found)


def test_units_do_not_matter_and_the_formula_does():
    model = make_model(("xrd", "composition"))
    pattern = make_pattern()
    scaled = Pattern(pattern.two_theta, 7.5 * pattern.intensity)
    assert identify(model, scaled, "TiO2").lengths == pytest.approx(
        identify(model, pattern, "TiO2").lengths, abs=1e-4
    )
    assert identify(model, pattern, "Ti2O4") == identify(model, pattern, "TiO2")
    assert identify(model, pattern, "NaCl").lengths != identify(model, pattern, "TiO2").lengths
    model.optional_inputs = model.config.inputs  # as training with modality dropout leaves it
    assert identify(model, pattern).lengths != identify(model, pattern, "TiO2").lengths


def test_another_wavelength_gives_the_same_cell():
    # The same d-spacings seen with another tube must give (nearly) the same input.
    model = make_model(("xrd",))
    copper = make_pattern(low=12.0)
    sine = torch.sin(torch.deg2rad(copper.two_theta / 2)) * (1.54056 / copper.wavelength)
    other = Pattern(2 * torch.rad2deg(torch.asin(sine)), copper.intensity, wavelength=1.54056)
    assert identify(model, other).lengths == pytest.approx(
        identify(model, copper).lengths, abs=2e-3
    )


def test_bfloat16_gives_nearly_the_same_answer():
    model = make_model(("xrd", "composition"))
    pattern = make_pattern()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    exact = identify(model, pattern, "TiO2")
    found = identify(in_bfloat16(model), pattern, "TiO2")
    assert found.lengths != exact.lengths  # it did compute otherwise
    assert found.lengths == pytest.approx(exact.lengths, rel=0.01)
    assert found.angles == pytest.approx(exact.angles, rel=0.01)
    assert sum(found.crystal_system.values()) == pytest.approx(1, abs=1e-5)
    for name, x in model.state_dict().items():
        assert x.dtype == before[name].dtype and torch.equal(x, before[name])


def test_wrong_inputs_are_refused():
    pattern = make_pattern()
    with pytest.raises(ValueError, match="reads 'xrd'"):
        identify(make_model(("composition",)), pattern, "TiO2")
    with pytest.raises(ValueError, match="leave the formula out"):
        identify(make_model(("xrd",)), pattern, "TiO2")
    with pytest.raises(ValueError, match="chemical formula"):
        identify(make_model(("xrd", "composition")), pattern, "Xx7")
    with pytest.raises(ValueError, match="give the formula"):
        identify(make_model(("xrd", "composition")), pattern)
    with pytest.raises(ValueError, match=r"do without \['structure'\]"):
        identify(make_model(("xrd", "structure")), pattern)
    with pytest.raises(PatternError, match="outside the grid"):
        identify(make_model(("xrd",)), make_pattern(low=100.0, high=140.0))


def test_command_line(pattern_file, model_file, capsys):
    assert main([str(pattern_file), "--model", str(model_file), "--formula", "TiO2"]) == 0
    shown = capsys.readouterr().out
    expected = identify(load_model(model_file), make_pattern(), "TiO2")
    assert f"{expected.lengths[0]:8.3f}" in shown
    assert expected.best_system in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "nowhere.xy"}, "nowhere.xy"),
        ({"model": "nowhere.safetensors"}, "expected a model at"),
        ({"formula": "not a formula"}, "chemical formula"),
        ({"wavelength": "-1"}, "wavelength must be positive"),
    ],
)
def test_command_line_errors_are_one_line(pattern_file, model_file, capsys, change, message):
    given = {"pattern": str(pattern_file), "model": str(model_file), "formula": "TiO2"} | change
    arguments = [given.pop("pattern")]
    arguments += [f"--{name}={value}" for name, value in given.items()]
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.startswith("error: ")
    assert "Traceback" not in shown.err and not shown.out


def test_a_damaged_model_is_named(pattern_file, model_file, capsys):
    description = model_file.with_suffix(".json")
    content = json.loads(description.read_text())
    content["config"]["dim"] = 16
    description.write_text(json.dumps(content))
    assert main([str(pattern_file), "--model", str(model_file)]) == 2
    assert "does not fit its description" in capsys.readouterr().err

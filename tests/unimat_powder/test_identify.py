"""From a pattern file to a cell: the command and the function behind it."""

import json

import pytest
import torch

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_lib.model import UniMat, UniMatConfig, load_model, save_model
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render
from unimat_powder.identify import (
    PRETRAINED,
    Identification,
    Refinement,
    identify,
    main,
    refine_cell,
)
from unimat_powder.pattern import Pattern, PatternError

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


def make_rutile():
    """A pattern of rutile with some noise, as a diffractometer would give it, and its cell."""
    crystal, grid = worked_crystal(), Grid(10.0, 90.0, 4001)
    lines = bragg_reflections(crystal, g_max=g_max_of(grid))
    clean = render(lines, torch.tensor([0]), grid, fwhm=0.1)[0].double()
    noise = torch.randn(len(clean), generator=torch.Generator().manual_seed(0))
    return Pattern(grid.two_theta, 1e4 * clean + 200 + 3 * noise), crystal


def test_refinement_finds_the_cell_behind_the_peaks():
    pattern, crystal = make_rutile()
    lengths, angles = crystal.lengths[0], crystal.angles[0]
    near = Identification(
        lengths=tuple((lengths * torch.tensor([1.03, 0.98, 1.02])).tolist()),
        angles=tuple((angles + 1.0).tolist()),
        crystal_system=dict.fromkeys(CRYSTAL_SYSTEMS, 1 / 7),
    )
    refined = refine_cell(near, pattern)
    assert refined.accepted and refined.explained > 0.8 and refined.num_peaks > 5
    assert refined.lengths == pytest.approx(lengths.tolist(), rel=2e-3)
    assert refined.angles == pytest.approx(angles.tolist(), abs=0.1)
    assert f"% of {refined.num_peaks} peaks" in str(refined)


def test_a_refinement_without_gain_or_peaks_says_so():
    kept = Refinement((4.0,) * 3, (90.0,) * 3, accepted=False, explained=0.1, num_peaks=21)
    assert "no cell explains the 21 peaks better" in str(kept) and "4.0" not in str(kept)
    two_theta = torch.arange(10, 90, 0.02, dtype=torch.float64)
    noise = torch.rand(len(two_theta), generator=torch.Generator().manual_seed(0)).double()
    near = Identification((4.0,) * 3, (90.0,) * 3, dict.fromkeys(CRYSTAL_SYSTEMS, 1 / 7))
    with pytest.raises(PatternError, match="no peak stands out"):
        refine_cell(near, Pattern(two_theta, 100 + noise))


def test_command_line_refines(model_file, tmp_path, capsys):
    pattern, _ = make_rutile()
    path = tmp_path / "rutile.xy"
    rows = zip(pattern.two_theta.tolist(), pattern.intensity.tolist(), strict=True)
    path.write_text("\n".join(f"{x:.3f} {y:.4f}" for x, y in rows))
    plain = [str(path), "--model", str(model_file), "--formula", "TiO2"]
    assert main(plain) == 0
    network = capsys.readouterr().out.rstrip()
    assert main([*plain, "--refine"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(network + "\n\n") and "peaks" in shown[len(network) :]


def test_the_command_line_takes_the_pretrained_model(
    pattern_file, model_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("UNIMAT_ROOT", str(tmp_path))
    assert main([str(pattern_file), "--formula", "TiO2"]) == 2
    shown = capsys.readouterr().err
    assert PRETRAINED in shown and "--model" in shown and "unimat-book run 05" in shown
    target = tmp_path / PRETRAINED
    target.parent.mkdir(parents=True)
    for suffix in (".safetensors", ".json"):
        model_file.with_suffix(suffix).rename(target.with_suffix(suffix))
    assert main([str(pattern_file), "--formula", "TiO2"]) == 0
    assert "crystal system" in capsys.readouterr().out


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

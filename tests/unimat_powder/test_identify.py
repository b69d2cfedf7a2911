"""From a pattern file to a cell: the command and the function behind it."""

import json
import math
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import make_model, make_pattern, write_scan

import unimat_powder.identify
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_lib.model import load_model, save_model
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

CUBE = Identification((4.0,) * 3, (90.0,) * 3, dict.fromkeys(CRYSTAL_SYSTEMS, 1 / 7))


@pytest.fixture
def pattern_file(tmp_path):
    return write_scan(tmp_path / "sample.xy")


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
    assert identify(model, pattern, "TiO₂") == identify(model, pattern, "TiO2")
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
    with pytest.raises(ValueError, match="write TiO2 if that is meant"):
        identify(make_model(("xrd", "composition")), pattern, "TIO2")
    with pytest.raises(ValueError, match="not their amounts"):
        identify(make_model(("xrd", "composition")), pattern, "(Fe,Mg)2SiO4")
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


def test_the_wavelength_of_the_file_counts_and_the_argument_wins(pattern_file, model_file, capsys):
    command = [str(pattern_file), "--model", str(model_file)]
    command += ["--formula", "TiO2"]

    def answer(*more):
        assert main([*command, *more]) == 0
        return capsys.readouterr().out

    copper = answer()
    assert answer("--wavelength", "1.54184") == copper  # nobody says: Cu K-alpha
    cobalt = answer("--wavelength", "1.7902")
    pattern_file.write_text("# Wavelength: 1.7902\n" + pattern_file.read_text())
    assert answer() == cobalt != copper
    assert answer("--wavelength", "1.54184") == copper


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
    with pytest.raises(PatternError, match=r"too few peaks: .* came 0"):
        refine_cell(CUBE, Pattern(two_theta, 100 + noise))


@pytest.mark.parametrize("centre", [21.358, 24.9, 29.0])
@pytest.mark.parametrize("fwhm", [0.03, 0.05, 0.2])
def test_one_line_is_too_few_peaks(centre, fwhm):
    """From a short scan, without background or noise; no cell follows from one line."""
    two_theta = torch.arange(1000, 1501, dtype=torch.float64) / 50
    line = 6000 * torch.exp(-4 * math.log(2) * ((two_theta - centre) / fwhm) ** 2)
    with pytest.raises(PatternError, match="too few peaks"):
        refine_cell(CUBE, Pattern(two_theta, line))


@pytest.mark.parametrize("length", [0.5, 1.5, -2.0])
def test_a_predicted_cell_without_lines_in_the_range_is_no_error(length):
    two_theta = torch.arange(500, 1000, dtype=torch.float64) / 50
    lines = sum(torch.exp(-(((two_theta - at) / 0.05) ** 2)) for at in (11.0, 13.0, 15.0))
    small = Identification((length,) * 3, (90.0,) * 3, dict.fromkeys(CRYSTAL_SYSTEMS, 1 / 7))
    refined = refine_cell(small, Pattern(two_theta, lines))
    assert refined.num_peaks == 3 and not refined.accepted and refined.lengths == (length,) * 3


def test_a_scan_of_all_angles_is_refined_like_the_usual_one():
    crystal, grid = worked_crystal(), Grid(0.0, 179.99, 18000)
    lines = bragg_reflections(crystal, g_max=g_max_of(grid))
    clean = render(lines, torch.tensor([0]), grid, fwhm=0.1)[0].double()
    two_theta = torch.linspace(0, 180, 18001, dtype=torch.float64)
    pattern = Pattern(two_theta, torch.cat([clean, clean[-1:]]) + 0.01)
    near = Identification(
        tuple((1.02 * crystal.lengths[0]).tolist()),
        tuple(crystal.angles[0].tolist()),
        dict.fromkeys(CRYSTAL_SYSTEMS, 1 / 7),
    )
    refined = refine_cell(near, pattern)
    assert refined.accepted
    assert refined.lengths == pytest.approx(crystal.lengths[0].tolist(), rel=2e-3)


def test_peaks_among_countless_lines_of_a_large_cell_are_left_out():
    """Else a wide scan at a short wavelength asks for millions of lines of every trial cell."""
    two_theta = torch.arange(500, 17900, dtype=torch.float64) / 100
    at = (5.5, 60.0, 90.0, 170.0)
    lines = sum(torch.exp(-(((two_theta - x) / 0.05) ** 2)) for x in at)
    large = Identification((30.0,) * 3, (90.0,) * 3, dict.fromkeys(CRYSTAL_SYSTEMS, 1 / 7))
    begin = time.process_time()
    assert not refine_cell(large, Pattern(two_theta, lines, wavelength=0.3)).accepted
    assert time.process_time() - begin < 10


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
    monkeypatch.setattr(unimat_powder.identify, "_INSTALLED", tmp_path / "none.safetensors")
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
        ({"model": "nowhere.safetensors"}, "of the model is missing"),
        ({"formula": "not a formula"}, "chemical formula"),
        ({"wavelength": "-1"}, "wavelength of 0.01 to 100 angstrom"),
        ({"wavelength": "0"}, "wavelength of 0.01 to 100 angstrom"),
        ({"wavelength": "nan"}, "wavelength of 0.01 to 100 angstrom"),
        ({"wavelength": "inf"}, "wavelength of 0.01 to 100 angstrom"),
        ({"wavelength": "1e-300"}, "wavelength of 0.01 to 100 angstrom"),
    ],
)
def test_command_line_errors_are_one_line(pattern_file, model_file, capsys, change, message):
    given = {"pattern": str(pattern_file), "model": str(model_file), "formula": "TiO2"} | change
    arguments = [given.pop("pattern")]
    arguments += [f"--{name}={value}" for name, value in given.items()]
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err and not shown.out
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["a.xy", "--wavelength", "copper"], ["a.xy", "--radius", "1"], []]
)
def test_wrong_usage_is_one_line_too(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1


FORMULAS = [
    *(
        "",
        " ",
        "((((",
        "))",
        "()",
        "Xx",
        "x" * 300,
        "H-1",
        "H0",
        "H{",
        "2",
        "*",
        "\0",
        "\n",
        "H\n(",
    ),
    *("H99999999999999999999", "H" + "9" * 180, "H1e400", "H1e-400", "Hnan", "Fe3+", "O2-", "H..2"),
    *("é", "H²O", "水", "𝐇2O", "\ud800", "H" * 10_000, "1" * 10_000, "TiO2;rm -rf", "%s{0}"),
    *("(" * 1000 + "H" + ")" * 1000, "[" * 90 + "H" + "]" * 90, "(H" * 90, "(H)9" * 40),
]


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: ascii(formula[:12]))
def test_formulas_are_read_or_refused_in_one_line(formula):
    assert_answer_or_one_line(make_model(("xrd", "composition")), make_pattern(), formula)


@settings(max_examples=100)
@given(st.text(alphabet="HOTiFe()[]{}0123456789.e+-*·, \n\0é", max_size=60) | st.text(max_size=20))
def test_any_text_as_a_formula_is_read_or_refused_in_one_line(formula):
    assert_answer_or_one_line(make_model(("xrd", "composition")), make_pattern(), formula)


def assert_answer_or_one_line(model, pattern, formula=None, refine=False):
    """Finite numbers, or an error that fits into a line; nothing else may be raised."""
    try:
        found = identify(model, pattern, formula)
        assert all(map(math.isfinite, (*found.lengths, *found.angles)))
        if refine:
            refined = refine_cell(found, pattern)
            assert all(map(math.isfinite, (*refined.lengths, *refined.angles)))
    except ValueError as error:  # PatternError is one
        assert 10 < len(str(error)) < 400 and str(error).isprintable()


@st.composite
def legal_patterns(draw):
    """Any pattern that ``Pattern`` takes: 2 to 20,000 points anywhere between 0 and 180 degrees."""
    count = draw(st.sampled_from([2, 3, 4, 5, 9, 40]) | st.integers(2, 20_000))
    low, high = sorted(draw(st.tuples(*[st.floats(0, 180)] * 2)))
    low, high = draw(st.sampled_from([(low, high), (0.0, 180.0), (0.0, high), (low, 180.0)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    if draw(st.booleans()):
        two_theta = torch.linspace(low, high, count, dtype=torch.float64)
    else:  # unequal steps
        two_theta = low + (high - low) * torch.rand(count, generator=generator).double()
    two_theta = two_theta.clamp(0, 180).unique()
    count = len(two_theta)
    noise = torch.rand(count, generator=generator).double()
    spikes = torch.where(noise > draw(st.floats(0, 1)), 10.0 ** draw(st.integers(-30, 29)), 0.0)
    centres = low + (high - low) * torch.rand(draw(st.integers(0, 30)), 1, generator=generator)
    width = draw(st.floats(1e-4, 10))
    peaks = torch.exp(-(((two_theta - centres) / width) ** 2).clamp_max(700)).sum(0)
    kinds = {
        "constant": torch.ones(count),
        "zero but one": torch.arange(count) == draw(st.integers(0, max(count - 1, 0))),
        "negative": noise - 0.999,
        "noise": noise,
        "spikes": spikes,
        "peaks": peaks,
        "noisy peaks": peaks + 0.01 * noise,
        "peaks on a slope": peaks + torch.linspace(5, 0, count),
        "peaks below zero": peaks - 0.5,
    }
    intensity = kinds[draw(st.sampled_from(list(kinds)))].double()
    return two_theta, intensity, draw(st.floats(0.3, 3))


@settings(max_examples=40)
@given(legal_patterns())
def test_any_legal_pattern_is_answered_or_refused_in_one_line(made):
    check_legal(made)


@pytest.mark.longer
@pytest.mark.timeout(7200)
@settings(max_examples=1000)
@given(legal_patterns())
def test_many_legal_patterns_are_answered_or_refused_in_one_line(made):
    check_legal(made)


def check_legal(made):
    try:
        pattern = Pattern(*made)
    except PatternError:
        return
    begin = time.process_time()
    assert_answer_or_one_line(make_model(("xrd",)), pattern, refine=True)
    assert time.process_time() - begin < 10


def test_the_command_line_has_no_traceback(tmp_path, model_file):
    command = [sys.executable, "-m", "unimat_powder.identify", "--model", str(model_file)]
    bad = tmp_path / "bad.xy"
    bad.write_bytes(b"\0")
    ended = subprocess.run([*command, str(bad)], capture_output=True, text=True)
    assert ended.returncode == 2 and not ended.stdout
    assert ended.stderr.startswith("error: bad.xy: ") and ended.stderr.count("\n") == 1
    running = subprocess.Popen([*command, str(bad)], stderr=subprocess.PIPE)
    time.sleep(1.0)  # it is importing
    running.send_signal(signal.SIGINT)
    assert running.communicate()[1] == b"" and running.returncode == -signal.SIGINT


def test_a_damaged_model_is_named(pattern_file, model_file, capsys):
    description = model_file.with_suffix(".json")
    content = json.loads(description.read_text())
    content["config"]["dim"] = 16
    description.write_text(json.dumps(content))
    assert main([str(pattern_file), "--model", str(model_file)]) == 2
    assert "does not fit its description" in capsys.readouterr().err

"""Reading measured patterns and laying them on a grid; every kind of bad input has a test."""

from __future__ import annotations

import math
import statistics
import time

import numpy as np
import pytest
import torch

from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import CU_K_ALPHA, WAVELENGTHS, Grid
from unimat_lib.views.render import render
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.preparation import snip_background, to_grid
from unimat_powder.reading import _document, parse_text, read_pattern

GOOD = "10.0 5\n10.5 8\n11.0 200\n11.5 7\n"
EXPECTED = [[10.0, 10.5, 11.0, 11.5], [5.0, 8.0, 200.0, 7.0]]


def gaussian_pattern(step, centres=(30.0, 50.0), fwhm=0.1, low=10.0, high=80.0, base=0.0):
    x = np.arange(low, high + step / 2, step)
    sigma = fwhm / 2.3548
    y = base + sum(1000 * np.exp(-(((x - c) / sigma) ** 2) / 2) for c in centres)
    return Pattern(torch.from_numpy(x), torch.from_numpy(y))


# --------------------------------------------------------------------------------------- text files


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace(" ", ","),
        GOOD.replace(" ", ", "),
        GOOD.replace(" ", ";"),
        GOOD.replace(" ", "\t"),
        GOOD.replace(" ", "   ").replace("\n", "  \r\n"),
        GOOD.replace(".", ",").replace(" ", ";"),  # decimal commas
        GOOD.replace(".", ",").replace(" ", " ; "),
        GOOD.replace(".", ",").replace(" ", "\t"),
        "# made by hand\n! and again\n\n" + GOOD,
        "2theta,counts\n" + GOOD.replace(" ", ","),
        "Angle (degrees) Intensity\n4\n" + GOOD,
        "'Id: sample' Scan 10.0 0.5 11.5\n" + GOOD,
        GOOD.replace("\n", " 0.3\n"),  # a third column
        GOOD.replace("10.5 8", "\n# pause\n1.05e1 8.0E0"),
        '"10.0","5"\n"10.5","8"\n"11.0","200"\n"11.5","7"',
        "10. +5\n10.5 8\n11 200\n11.5 7 # comment",
    ],
)
def test_two_columns_in_many_dialects(text):
    pattern = parse_text(text)
    assert torch.stack([pattern.two_theta, pattern.intensity]).tolist() == EXPECTED
    assert pattern.two_theta.dtype == pattern.intensity.dtype == torch.float64
    assert pattern.wavelength == CU_K_ALPHA


@pytest.mark.parametrize("suffix", [".xy", ".txt", ".dat", ".csv", ".XY"])
@pytest.mark.parametrize(
    "data",
    [
        ("# 2θ in °\n" + GOOD).encode(),
        ("# 2θ in °\n" + GOOD).encode("utf-8-sig"),
        GOOD.encode("utf-8-sig"),
        ("# 2theta in °\n" + GOOD).encode("latin-1"),
        ("# 2θ in °\n" + GOOD).encode("utf-16"),
    ],
    ids=["utf-8", "utf-8 with mark", "mark before data", "latin-1", "utf-16"],
)
def test_files_in_any_encoding(tmp_path, suffix, data):
    path = tmp_path / f"sample{suffix}"
    path.write_bytes(data)
    pattern = read_pattern(path, wavelength=WAVELENGTHS["MoKa"])
    assert pattern.two_theta.tolist() == EXPECTED[0]
    assert pattern.wavelength == WAVELENGTHS["MoKa"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
        ("hello\nworld\n", "no line with two numbers"),
        ("10\n11\n12\n", "no line with two numbers"),
        ("10 5\n", "at least 2 points"),
        (GOOD.replace("10.5 8", "10.5 abc"), "line 2, but came '10.5 abc'"),
        (GOOD.replace("10.5 8", "10.5"), "line 2"),
        (GOOD + "12.0\n", "line 5"),
        (GOOD.replace("200", "nan"), "intensity at line 3 is nan"),
        (GOOD.replace("200", "inf"), "intensity at line 3 is inf"),
        (GOOD.replace("11.0", "NaN"), "2theta at line 3 is nan"),
        (GOOD.replace("10.5 8", "some text"), "line 2"),
        ("# head\n\n" + GOOD.replace("11.0", "10.2"), "falls back to 10.2 at line 5"),
        ("10 0\n11 0\n12 0\n", "no intensity is positive"),
        ("10 -3\n11 -2\n12 -1\n", "no intensity is positive"),
        ("-20 5\n-10 6\n0 7\n", "0 to 180 degrees"),
        ("100 5\n200 6\n", "0 to 180 degrees"),
        ("1_0 5\n1_1 6\n", "no line with two numbers"),
    ],
)
def test_bad_text_is_refused_with_the_line(text, message):
    with pytest.raises(PatternError, match=message):
        parse_text(text, name="sample.xy")
    with pytest.raises(PatternError, match=r"^sample\.xy: "):
        parse_text(text, name="sample.xy")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"%PDF-1.7\n1 0 obj\n10 20\n20 30\n", "a PDF document"),
        (b"\n<!DOCTYPE html>\n<html><body>10 20</body></html>", "an HTML page"),
        (b"<!-- saved -->\n<HTML lang='en'>", "an HTML page"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a picture"),
        (b"GIF89a\1\0", "a picture"),
        (b"II*\0\x08\0\0\0", "a picture"),
        (b"RIFF\1\0\0\0WEBPVP8", "a picture"),
        (b"<?xml version='1.0'?>\n<!DOCTYPE svg PUBLIC 'x'>\n<svg></svg>", "a picture"),
    ],
)
def test_documents_and_pictures_are_named(tmp_path, data, what):
    path = tmp_path / "scan.xy"
    path.write_bytes(data)
    with pytest.raises(PatternError, match=f"scan.xy: this is {what}, not a measurement"):
        read_pattern(path)


def test_what_a_document_is_takes_no_time():
    start = time.process_time()
    assert _document(b"<!---->" * 1000) == _document(b"<?xml ?>" * 1000) == ""
    assert time.process_time() - start < 0.5


def test_bad_files_are_refused(tmp_path):
    binary = tmp_path / "scan.dat"
    binary.write_bytes(b"FI\0\0\0\1")
    with pytest.raises(PatternError, match="binary file"):
        read_pattern(binary)
    odd = tmp_path / "odd.txt"
    odd.write_bytes(b"\xff\xfe1")  # half a character of UTF-16
    with pytest.raises(PatternError, match="not valid utf-16"):
        read_pattern(odd)
    with pytest.raises(FileNotFoundError):
        read_pattern(tmp_path / "absent.xy")


def test_patterns_built_by_hand_are_checked_too():
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    with pytest.raises(PatternError, match="as many intensities as angles"):
        Pattern(x, x[:2])
    with pytest.raises(PatternError, match="falls back to 2 at point 2"):
        Pattern(x.flip(0), x)
    for wavelength in (0.0, -1.0, math.nan, math.inf, 1e-300):
        with pytest.raises(PatternError, match=r"a wavelength of 0\.01 to 100 angstrom"):
            Pattern(x, x, wavelength=wavelength)
    with pytest.raises(PatternError, match=r"up to 1e\+30, but the intensity at point 2 is"):
        Pattern(x, torch.tensor([1.0, 1e300, 1.0]).double())


def test_patterns_built_by_hand_say_whose_wavelength_it_is():
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert Pattern(x, x).wavelength_from == "default"
    assert Pattern(x, x, 0.7107).wavelength_from == "argument"
    assert Pattern(x, x, 0.7107, "file", x, ("a note",)).notes == ("a note",)
    with pytest.raises(PatternError, match="as many uncertainties as intensities"):
        Pattern(x, x, uncertainty=x[:2])


# -------------------------------------------------------------------------------------- onto a grid

GRID = Grid(10.0, 80.0, 1401)  # steps of 0.05


@pytest.mark.parametrize("step", [0.005, 0.0131, 0.05, 0.11])
def test_peaks_keep_their_place_and_area(step):
    """From ten times finer than the grid to twice coarser."""
    pattern = gaussian_pattern(step, centres=(30.0, 50.013), fwhm=0.3)
    result = to_grid(pattern, GRID, background=False).double()
    areas = []
    for centre in (30.0, 50.013):
        window = (GRID.two_theta - centre).abs() < 2
        areas.append(float(result[window].sum()))
        centroid = (result * GRID.two_theta)[window].sum() / result[window].sum()
        assert abs(float(centroid) - centre) < 2e-3
    assert areas[0] == pytest.approx(areas[1], rel=0.01)


def test_narrow_peaks_survive_a_coarse_grid():
    """Peaks of FWHM 0.02 on a grid of 0.5 degrees, most of which interpolation would miss."""
    coarse = Grid(10.0, 80.0, 141)
    centres = (20.25, 30.1, 41.4, 60.0)
    result = to_grid(gaussian_pattern(0.002, centres=centres, fwhm=0.02), coarse, background=False)
    for centre in centres:
        window = (coarse.two_theta - centre).abs() < 0.6
        assert float(result[window].sum()) == pytest.approx(float(result.sum()) / 4, rel=1e-3)


def test_a_pattern_on_the_grid_itself_comes_out_nearly_unchanged():
    pattern = Pattern(GRID.two_theta, 1 + torch.sin(GRID.two_theta / 3))
    result = to_grid(pattern, GRID, background=False)
    assert result.dtype == torch.float32
    expected = pattern.intensity / pattern.intensity.max()
    # At both ends only half an interval is covered, so its mean lies a quarter step inside.
    torch.testing.assert_close(result[1:-1].double(), expected[1:-1], rtol=0, atol=1e-4)


def test_the_unit_of_intensity_does_not_matter():
    pattern = gaussian_pattern(0.02, base=100.0)
    scaled = Pattern(pattern.two_theta, pattern.intensity * 1e-5)
    torch.testing.assert_close(to_grid(pattern, GRID), to_grid(scaled, GRID), rtol=0, atol=1e-6)


def test_wavelengths_are_converted_through_d():
    d = 2.0
    angle = {name: 2 * math.degrees(math.asin(WAVELENGTHS[name] / 2 / d)) for name in WAVELENGTHS}
    pattern = gaussian_pattern(0.01, centres=(angle["MoKa"],), low=5.0, high=60.0)
    molybdenum = Pattern(pattern.two_theta, pattern.intensity, WAVELENGTHS["MoKa"])
    result = to_grid(molybdenum, GRID)
    assert abs(float(GRID.two_theta[result.argmax()]) - angle["CuKa"]) <= GRID.step
    # The other way round, the longest d-spacings measured lie below the grid and are cut.
    copper = gaussian_pattern(0.01, centres=(angle["CuKa"],))
    grid = Grid(10.0, 40.0, 1001, wavelength=WAVELENGTHS["MoKa"])
    assert abs(float(grid.two_theta[to_grid(copper, grid).argmax()]) - angle["MoKa"]) <= grid.step


def test_intensities_are_converted_to_the_wavelength_of_the_grid(prototype_table):
    """A pattern simulated for molybdenum and converted is the one simulated for copper."""
    copper = Grid(10.0, 80.0, 3501)
    molybdenum = Grid(4.0, 40.0, 7201, wavelength=WAVELENGTHS["MoKa"])
    index = torch.arange(12)
    table = prototype_table.select(index)
    reflections = bragg_reflections(table, g_max=max(g_max_of(copper), g_max_of(molybdenum)))
    # Peaks of 0.2 degrees at copper's wavelength are narrower at molybdenum's.
    there = render(reflections, index, molybdenum, fwhm=0.06)
    here = render(reflections, index, copper, fwhm=0.2)
    high = copper.two_theta > 60
    ratios = []
    for row in index.tolist():
        pattern = Pattern(molybdenum.two_theta, there[row].double(), molybdenum.wavelength)
        converted = to_grid(pattern, copper, background=False)
        shares = [float(x[high].sum() / x.sum()) for x in (converted, here[row])]
        ratios.append(shares[0] / shares[1])
    # Peaks on the borders are cut differently because their widths differ; most crystals have none.
    assert statistics.median(ratios) == pytest.approx(1, abs=0.01)
    assert max(ratios) < 1.1 and min(ratios) > 0.9


def test_background_is_removed_and_peaks_stay():
    clean = gaussian_pattern(0.02, centres=(25.0, 40.0, 41.0, 60.0), fwhm=0.3)
    x = clean.two_theta
    slope = 400 * torch.exp(-x / 20) + 150 * torch.exp(-(((x - 28) / 8) ** 2)) + 50
    dirty = Pattern(x, clean.intensity + slope)
    expected = to_grid(clean, GRID, background=False)
    torch.testing.assert_close(to_grid(dirty, GRID), expected, rtol=0, atol=0.03)
    assert to_grid(dirty, GRID, background=False)[0] > 0.2


def test_snip_stays_below_the_curve_and_finds_a_straight_line():
    line = np.linspace(50, 100, 400)
    np.testing.assert_allclose(snip_background(line, half_window=30), line, rtol=0.02)
    noisy = np.random.default_rng(0).poisson(200, 400).astype(float)
    assert (snip_background(noisy, half_window=30) <= noisy).all()
    below_zero = noisy - 300
    assert np.isfinite(snip_background(below_zero, half_window=30)).all()
    assert snip_background(noisy[:3], half_window=30).shape == (3,)


def test_grid_points_outside_the_measurement_are_zero():
    result = to_grid(gaussian_pattern(0.02, low=28.0, high=55.0), GRID)
    inside = (GRID.two_theta >= 28) & (GRID.two_theta <= 55)
    assert (result[~inside] == 0).all()
    assert result.max() == 1
    assert abs(float(result[(GRID.two_theta - 50).abs() < 0.1].max()) - 1) < 0.05


@pytest.mark.parametrize(("low", "high"), [(81.0, 120.0), (2.0, 9.5)])
def test_a_pattern_wholly_outside_the_grid_is_refused(low, high):
    pattern = gaussian_pattern(0.02, centres=((low + high) / 2,), low=low, high=high)
    with pytest.raises(PatternError, match="lies outside the grid: it covers"):
        to_grid(pattern, GRID)


def test_angles_that_the_grids_wavelength_cannot_reach_are_cut():
    pattern = gaussian_pattern(0.02, centres=(100.0,), low=90.0, high=150.0)
    short = Pattern(pattern.two_theta, pattern.intensity, WAVELENGTHS["AgKa"])
    with pytest.raises(PatternError, match="lies outside the grid: it covers nothing"):
        to_grid(short, GRID)


def test_a_flat_pattern_has_no_peaks():
    flat = Pattern(GRID.two_theta, torch.full_like(GRID.two_theta, 30.0))
    with pytest.raises(PatternError, match="nothing rises above zero once the background"):
        to_grid(flat, GRID)
    late = torch.where(GRID.two_theta > 79.9, 1.0, 0.0).double()
    with pytest.raises(PatternError, match="nothing rises above zero where"):
        to_grid(Pattern(GRID.two_theta, late), Grid(10.0, 60.0, 500), background=False)


@pytest.mark.parametrize("wavelength", WAVELENGTHS.values())
@pytest.mark.parametrize("start", [0.0, 1e-300, 1e-9])
def test_a_pattern_from_zero_degrees_at_any_wavelength(start, wavelength):
    """The Lorentz factor is infinite at 0 degrees; the pattern is not."""
    x = torch.cat([torch.tensor([start]), torch.arange(1, 1600) / 20]).double()
    pattern = Pattern(x, 1 + torch.exp(-(((x - 12) / 0.2) ** 2)), wavelength)
    from_zero = Grid(0.0, 40.0, 801)
    for background in (True, False):
        result = to_grid(pattern, from_zero, background=background)
        assert result.isfinite().all() and result.max() == 1
    # The factor goes over into its limit: without structure, neighbours are alike.
    result = to_grid(Pattern(x, torch.ones_like(x), wavelength), from_zero, background=False)
    assert float(result[0]) == pytest.approx(float(result[1]), rel=1e-3)


def test_a_scan_to_180_degrees_lies_on_any_grid():
    x = torch.linspace(0, 180, 180_001, dtype=torch.float64)
    x = torch.cat([x[:-1], 180 - torch.tensor([1e-6, 2e-14, 0.0]).double()]).unique()
    pattern = Pattern(x, 1 + torch.exp(-(((x - 179) / 0.2) ** 2)), 1.5)
    for grid in (
        Grid(0.0, 179.9, 1800, 1.5),
        Grid(0.0, 179.9, 1800, 1.6),
        Grid(0.0, 89.0, 999, 0.9),
    ):
        assert to_grid(pattern, grid, background=False).isfinite().all()


# -------------------------------------------------------------------------------- real measurements


@pytest.mark.data
def test_measured_patterns_fit_their_own_crystal_best(real_data_dir):
    """Fourteen laboratory patterns against the patterns simulated from all fourteen CIF files.

    With a random assignment the mean correlation would be about 0 and one pattern in fourteen
    would be matched. (One sample's published cell does not describe its pattern.)
    """
    from pymatgen.core import Structure

    from unimat_lib.crystals.structures import from_structures

    folder = real_data_dir / "experimental" / "xred"
    files = sorted(folder.glob("*.csv"))
    if not files:
        pytest.skip(f"no measured patterns in {folder}")
    grid = Grid(10.0, 80.0, 2048)
    measured = torch.stack([to_grid(read_pattern(file), grid) for file in files])
    assert measured.isfinite().all()
    assert (measured.amax(1) == 1).all()
    table = from_structures([Structure.from_file(file.with_suffix(".cif")) for file in files])
    reflections = bragg_reflections(table, g_max=g_max_of(grid))
    simulated = render(reflections, torch.arange(len(table)), grid, fwhm=0.4, eta=0.5)
    n = len(files)
    match = torch.corrcoef(torch.cat([measured, simulated]))[:n, n:]  # [measured, simulated]
    own = match.diagonal()
    others = (match.sum(1) - own) / (n - 1)
    assert own.mean() > 0.6
    assert others.abs().mean() < 0.15
    assert (match.argmax(1) == torch.arange(n)).float().mean() > 0.85

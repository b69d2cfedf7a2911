"""Every file of the faulty patterns gives its right value; real instrument files make sense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from case_patterns import case_patterns
from scipy.signal import find_peaks

from unimat_powder.pattern import Pattern
from unimat_powder.reading import read_pattern

CASES = case_patterns()


def case(name: str) -> Pattern:
    return read_pattern(CASES / name)


def strongest(pattern: Pattern) -> float:
    return float(pattern.two_theta[pattern.intensity.argmax()])


def spacing(pattern: Pattern, two_theta: float) -> float:
    return pattern.wavelength / (2 * np.sin(np.radians(two_theta / 2)))


def lines(pattern: Pattern, prominence: float = 0.03) -> np.ndarray:
    """d-spacings of the lines that rise above the rest, longest first."""
    counts = np.convolve(pattern.intensity, np.ones(5) / 5, "same")
    height = prominence * (counts.max() - np.median(counts))
    peaks, _ = find_peaks(counts, prominence=height, distance=15)
    return np.array([spacing(pattern, x) for x in pattern.two_theta.numpy()[peaks].tolist()])


def ends(pattern: Pattern) -> list[float]:
    return [round(float(x), 4) for x in (pattern.two_theta[0], pattern.two_theta[-1])]


def test_every_case_is_tested():
    source = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in CASES.iterdir() if f'"{path.name}"' not in source] == []


def test_attenuated_counts():
    pattern = case("attenuated_counts.xrdml")
    assert strongest(pattern) == pytest.approx(31.70)
    net = pattern.intensity - 20  # counts of background
    second = net[(pattern.two_theta - 27.37).abs() < 0.1].max()
    assert float(net.max() / second) == pytest.approx(12.5, rel=0.01)
    assert pattern.notes == ("beam attenuation undone (factors up to 50)",)


def test_columns_named():
    pattern = case("columns_named.csv")
    assert ends(pattern) == [20.00, 89.98] and strongest(pattern) == pytest.approx(31.70)


def test_comma_exponent():
    pattern = case("comma_exponent.txt")
    assert (float(pattern.two_theta[0]), float(pattern.intensity[0])) == (20.0, 20.0)
    assert len(pattern.two_theta) == 3500


def test_d_axis():
    pattern = case("d_axis.csv")
    assert spacing(pattern, strongest(pattern)) == pytest.approx(2.820, abs=1e-6)


def test_q_axis():
    pattern = case("q_axis.dat")
    d = spacing(pattern, strongest(pattern))
    assert (2 * np.pi / d, d) == (pytest.approx(2.228), pytest.approx(2.820, abs=1e-3))


def test_esd():
    pattern = case("esd.xye")
    np.testing.assert_allclose(pattern.uncertainty, pattern.intensity.sqrt(), atol=0.01)


def test_footer():
    pattern = case("footer.xy")
    assert len(pattern.two_theta) == 3500 and "End of data" in pattern.notes[0]


def test_negative_start():
    pattern = case("negative_start.xy")
    assert ends(pattern) == [0.0, 89.98] and strongest(pattern) == pytest.approx(31.70)
    assert pattern.notes == ("100 points below 0 degrees left out: they carry no information",)


def test_numeric_header():
    pattern = case("numeric_header.dat")
    assert ends(pattern) == [20.00, 89.98] and len(pattern.two_theta) == 3500
    assert (pattern.wavelength, pattern.wavelength_from) == (1.5406, "file")
    assert pattern.notes == ("line 1 taken as a header: 1.5406 0.02",)


def test_repeated_scans():
    pattern = case("repeated_scans.xrdml")
    text = (CASES / "repeated_scans.xrdml").read_text()
    counts = [
        np.array(part.partition("</counts>")[0].split(">", 1)[1].split(), float)
        for part in text.split("<counts")[1:]
    ]
    assert len(counts) == 10
    np.testing.assert_array_equal(pattern.intensity, sum(counts))
    assert pattern.notes == ("10 scans of the same range summed",)


def test_thousands_quoted():
    # The file says 5,020, the value before it was rounded to the grid; its own largest is 5,007.
    pattern = case("thousands_quoted.csv")
    assert float(pattern.intensity.max()) == 5007 and strongest(pattern) == pytest.approx(31.70)


def test_wavelength_in_header():
    pattern = case("wavelength_in_header_co.csv")
    assert (pattern.wavelength, pattern.wavelength_from) == (1.788996, "file")
    assert pattern.k_alpha_2 is False
    # Rock salt with a = 5.6402 A: the strongest line is 200.
    assert 2 * spacing(pattern, strongest(pattern)) == pytest.approx(5.6402, abs=0.003)


@pytest.mark.parametrize(
    ("name", "points", "angle"),
    [
        ("counting_noise.xy", 8462, 31.71),
        ("k_alpha_doublet.xy", 8462, 27.43),
        ("narrow_one_line.xy", 500, 21.36),
        ("random_lines.xy", 8462, 53.147),
        ("smoothed_noise.xy", 8462, 31.70),
    ],
)
def test_cases_for_later_steps_are_read(name, points, angle):
    pattern = case(name)
    assert len(pattern.two_theta) == points and pattern.notes == ()
    assert strongest(pattern) == pytest.approx(angle, abs=0.006)


# ------------------------------------------------------------- real files, where UNIMAT_DATA is set

REAL = {  # points, first and last angle, wavelength, its origin, K-alpha 2
    "bruker_tio2.raw": (1647, [10.0, 70.0411], 1.541863, "file", True),
    "bruker_tiof.brml": (2469, [9.9988, 60.0128], 1.541863, "file", True),
    "lab6_srm660c.gsas": (8378, [15.0066, 124.9991], 1.54184, "default", None),
    "mixture_cuo_mno.xrdml": (8301, [9.9034, 100.0949], 1.541874, "file", True),
    "mixture_tio2_zno.xrdml": (8282, [10.0094, 99.9944], 1.541874, "file", True),
    "panalytical_attenuated.xrdml": (1800, [26.025, 79.995], 1.540598, "file", False),
    "panalytical_export.csv": (2094, [10.0237, 79.9771], 1.540598, "file", False),
    "panalytical_scan.xrdml": (7181, [5.0048, 124.9917], 1.541874, "file", True),
    "psi_dmc.dat": (3200, [2.948, 162.898], 1.494, "file", None),
    "rigaku.ras": (3501, [25.0, 60.0], 1.541867, "file", True),
    "rigaku_powder.rasx": (2726, [10.0, 119.0], 1.540593, "file", False),
    "rigaku_scan.rasx": (2851, [3.0, 60.0], 1.541867, "file", True),
    "siemens.raw": (2374, [3.0, 40.0003], 1.541863, "file", True),
    "siemens.uxd": (2374, [3.0, 40.0], 1.541863, "file", True),
    "stoe.raw": (5404, [10.0, 91.045], 1.20793, "file", None),
    "two_columns.XY": (4651, [7.0, 100.0], 1.54184, "default", None),
}


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_files(name, real_data_dir):
    path = real_data_dir / "instrument_files" / name
    if not path.exists():
        pytest.skip(f"no {name} here")
    pattern = read_pattern(path)
    points, range_, wavelength, origin, doublet = REAL[name]
    assert (len(pattern.two_theta), ends(pattern)) == (points, range_)
    assert pattern.wavelength == pytest.approx(wavelength, abs=1e-6)
    assert (pattern.wavelength_from, pattern.k_alpha_2) == (origin, doublet)


RUTILE = [3.247, 2.487, 2.188, 1.687, 1.624, 1.480, 1.453, 1.360, 1.346]
LAB6 = [4.157 / np.sqrt(n) for n in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12)]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "expected", "tolerance"),
    [
        ("bruker_tio2.raw", RUTILE, 0.004),
        ("lab6_srm660c.gsas", LAB6, 0.005),  # its zero is off by 0.07 degrees
        ("mixture_tio2_zno.xrdml", [3.517, 2.814, 2.603, 2.476, 1.911, 1.625, 1.477], 0.004),
        ("mixture_cuo_mno.xrdml", [2.523, 2.323, 1.866], 0.015),
        ("rigaku.ras", [3.136, 1.920, 1.638], 0.004),  # silicon
        ("panalytical_attenuated.xrdml", [1.4133], 0.002),  # gallium arsenide, 004
    ],
)
def test_lines_of_known_phases_stand_where_they_must(name, expected, tolerance, real_data_dir):
    path = real_data_dir / "instrument_files" / name
    if not path.exists():
        pytest.skip(f"no {name} here")
    found = lines(read_pattern(path), prominence=0.008)
    for d in expected:
        assert np.abs(found / d - 1).min() < tolerance, (d, found)


@pytest.mark.data
def test_two_formats_of_one_measurement_agree(real_data_dir):
    folder = real_data_dir / "instrument_files"
    if not (folder / "siemens.raw").exists():
        pytest.skip("no siemens.raw here")
    raw, uxd = read_pattern(folder / "siemens.raw"), read_pattern(folder / "siemens.uxd")
    np.testing.assert_array_equal(raw.intensity, uxd.intensity)
    np.testing.assert_allclose(raw.two_theta, uxd.two_theta, atol=6e-3)
    assert raw.wavelength == pytest.approx(uxd.wavelength)

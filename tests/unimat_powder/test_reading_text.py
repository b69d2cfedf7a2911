"""Columns of text as people and programs write them: read rightly, or refused with the remedy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.reading import parse_text, read_pattern
from unimat_powder.reading.header import column_kind

X = np.round(20 + 0.02 * np.arange(500), 2)
Y = np.round(20 + 5000 * np.exp(-(((X - 25) / 0.1) ** 2))).astype(int)  # 5,020 at 25.00


def rows(write, x=X, y=Y) -> str:
    return "".join(write(a, b) + "\n" for a, b in zip(x, y, strict=True))


PLAIN = rows(lambda x, y: f"{x:.2f} {y}")


def comma(value: str) -> str:
    return value.replace(".", ",")


DIALECTS = {
    "decimal comma and spaces": rows(lambda x, y: comma(f"{x:.2f} {y}")),
    "decimal comma and tabs": rows(lambda x, y: comma(f"{x:.2f}\t{y:.1f}")),
    "decimal comma, three decimals": rows(lambda x, y: comma(f"{x:.3f};{y}")),
    "decimal comma, exponents": rows(lambda x, y: comma(f"{x:.4E};{y:.4E}")),
    "quoted decimal commas": rows(lambda x, y: f'"{comma(f"{x:.2f}")}","{comma(f"{y:.1f}")}"'),
    "thousands in quotes": rows(lambda x, y: f'{x:.2f},"{y:,}"'),
    "thousands and decimals": rows(lambda x, y: f"{x:.2f};{y:,}.00"),
    "spaced thousands": rows(lambda x, y: f"{x:.2f};{y:,}".replace(",", " ")),
    "narrow spaces": rows(lambda x, y: f"{x:.2f}\t{y:,}".replace(",", "\u202f")),
    "Swiss thousands": rows(lambda x, y: f"{x:.2f};{y:,}".replace(",", "’")),
    "German thousands": rows(lambda x, y: comma(f"{x:.2f};") + f"{y:,}".replace(",", ".")),
    "Fortran D": rows(lambda x, y: f"  {x:.6E}  {y:.4E}".replace("E", "D")),
    "numeric header of another length": "20.00 0.02 29.98\n" + PLAIN,
    "date as a header": "2023 05 12\n" + PLAIN,
    "footer": PLAIN + "\nTotal counts: 12345\nEnd\n",
    "inline comments": PLAIN.replace("25.00 5020", "25.00 5020 ! the top"),
    "calibrated header": "'Id: none' Scan 20.0 0.02 29.98 'Operator: none'\n" + PLAIN,
    "names of HighScore": "Pos. [°2Th.]\tIobs [cts]\tIcalc [cts]\n"
    + rows(lambda x, y: f"{x:.4f}\t{y}\t{y + 3}"),
    "names of SmartLab": "#TwoTheta/Theta,deg.\tIntensity,counts\n"
    + rows(lambda x, y: f"{x:.4f}\t{y}"),
    "names in another order": "No. Counts 2Theta\n"
    + rows(lambda x, y: f"{x * 50:.0f} {y} {x:.2f}"),
    "only the axis is named": "a.tif\n2-Theta Angle (Degrees)\nIntensity\n 500\n" + PLAIN,
    "radians": "2theta (rad),counts\n" + rows(lambda x, y: f"{np.radians(x):.8f},{y}"),
    "descending": rows(lambda x, y: f"{x:.2f} {y}", X[::-1], Y[::-1]),
    "each angle twice": rows(lambda x, y: f"{x:.2f} {y - 3}\n{x:.2f} {y + 3}"),
    "counts in rows": "20.00 0.02 29.98 DBWS\n"
    + "".join(" ".join(map(str, Y[i : i + 8])) + "\n" for i in range(0, 500, 8)),
}


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS)
def test_dialects(text):
    pattern = parse_text(text)
    np.testing.assert_allclose(pattern.two_theta, X, atol=1e-5)
    np.testing.assert_allclose(pattern.intensity, Y)


REFUSED = {
    "one or a thousand": ("".join(f"{20 + i};{1000 + i:,}\n" for i in range(30)),
                          "'1,000' at line 1 may be 1.000 or 1000; write decimals with a point"),
    "two decimal marks": (rows(lambda x, y: f"{x:.2f};{comma(f'{y:.1f}')}"),
                          "expected one decimal mark"),
    "commas between decimal commas": (rows(lambda x, y: comma(f"{x:.2f}") + f",{y}"),
                                      "decimal commas parted by commas; part .* by semicolons"),
    "no names, counts first": (rows(lambda x, y: f"{y} {x:.2f}"), "second column looks like the"),
    "no names, a number first": (rows(lambda x, y: f"{x * 50:.0f} {x:.2f} {y}"),
                                 "first and the second column both rise"),
    "theta": ("theta counts\n" + PLAIN, "is it theta or 2theta"),
    "Q without unit": ("q,I\n" + rows(lambda x, y: f"{x / 10:.4f},{y}"), r"name it Q \(1/A\)"),
    "Q alone without unit": ("a.tif\nQ\nIntensity\n 500\n" + PLAIN, r"name it Q \(1/A\)"),
    "theta alone": ("Theta (deg)\n" + PLAIN, "is it theta or 2theta"),
    "no intensity": ("2theta,time\n" + rows(lambda x, y: f"{x:.2f},{y}"), "none of the columns"),
    "a missing count": (PLAIN.replace("25.00 5020", "25.00"), "line 251, but came '25.00'"),
    "cut off": (PLAIN + "30.", "line 501, but came '30.'"),
    "a point out of order": (PLAIN.replace("25.00 ", "24.00 "), "falls back to 24 at line 251"),
    "angles of a d axis": (rows(lambda x, y: f"{x * 20:.2f} {y}"), "name it in a header line"),
    "thousands between commas": (rows(lambda x, y: f"{x:.2f},{y:,}"), "thousands grouped, or"),
    "thousands between spaces": (rows(lambda x, y: f"{x:.2f} {y:,}".replace(",", " ")),
                                 r"'2\d\.\d\d 1 \d\d\d' at line \d+ may hold two numbers"),
    "all of them thousands": (rows(lambda x, y: f"{x:.2f},{y + 2000:,}"), "name all columns"),
    "angstrom or nanometres": ("# wavelength 0.15406\n" + PLAIN, "may be in A or in nm"),
    "two wavelengths": ("# wavelength 1.5406\n# lambda 0.7107\n" + PLAIN, "two wavelengths"),
    "text among few points": ("10 5\nhello\n11 200\n", "line 2, but came 'hello'"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(text, message):
    with pytest.raises(PatternError, match=message) as raised:
        parse_text(text, name="scan.txt")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", ["angstrom or nanometres", "two wavelengths"])
def test_the_remedy_for_wavelengths_works(case):
    pattern = parse_text(REFUSED[case][0], wavelength=1.5406)
    assert (pattern.wavelength, pattern.wavelength_from) == (1.5406, "argument")


# ------------------------------------------------------------------------------ wavelength and axis


@pytest.mark.parametrize(
    ("header", "wavelength", "doublet"),
    [
        ("# wavelength 1.5406", 1.5406, None),
        ("# Wavelength (A): 1,5406", 1.5406, None),
        ("# lambda = 0.15406 nm", 1.5406, None),
        ("! Lambda=0.4139", 0.4139, None),
        ("# energy: 30 keV", 0.413281, None),
        ("# Wavelength (K-alpha) 1.5418", 1.5418, None),
        ("# lambda(Ka1)=1.54056", 1.54056, None),
        ("title\n1.78897", 1.78897, None),
        ("# CuKa1 radiation", 1.540598, False),
        ("# radiation Cu K-alpha, 40 kV", 1.541874, None),
        ("Anode: Mo", 0.710747, None),
        ("Anode material,Co", 1.790281, None),
        ("# Target = Cr", 2.291061, None),
        ("K-Alpha1 wavelength,1.540598\nK-Alpha2 wavelength,1.544426", 1.541874, None),
        (
            "K-Alpha1 wavelength,1.540598\nK-Alpha2 wavelength,1.544426\n"
            "Ratio K-Alpha2/K-Alpha1,0.5",
            1.541874,
            True,
        ),
        (
            "K-Alpha1 wavelength,1.540598\nK-Alpha2 wavelength,1.544426\n"
            "Ratio K-Alpha2/K-Alpha1,0.000",
            1.540598,
            False,
        ),
    ],
)
def test_headers_state_the_wavelength(header, wavelength, doublet):
    pattern = parse_text(f"{header}\n{PLAIN}")
    assert pattern.wavelength == pytest.approx(wavelength, abs=2e-6)
    assert (pattern.wavelength_from, pattern.k_alpha_2) == ("file", doublet)


def test_words_that_are_no_wavelength():
    for header in ("Sample: Co3O4", "# Cu foil, sample 3", "K-factor 1.5", "Title of 1.5406"):
        assert parse_text(f"{header}\n{PLAIN}").wavelength_from == "default"


@pytest.mark.parametrize(
    ("name", "factor", "d_of"),
    [
        ("Q (1/A)", 0.1, lambda v: 2 * np.pi / v),
        ("q_A^-1", 0.1, lambda v: 2 * np.pi / v),
        ("q (nm^-1)", 1.0, lambda v: 2 * np.pi * 10 / v),
        ("Q (Inverse Nanometres)", 1.0, lambda v: 2 * np.pi * 10 / v),
        ("d (A)", 0.1, lambda v: v),
        ("d-spacing [nm]", 0.01, lambda v: 10 * v),
    ],
)
@pytest.mark.parametrize("mark", [",", "\t", "  "])
def test_axes_in_q_and_d_become_angles(name, factor, d_of, mark):
    values = X * factor
    text = f"{name}{mark}Intensity\n" + rows(lambda x, y: f"{x:.6f}{mark}{y}", values)
    pattern = parse_text(text, wavelength=1.0)
    d = 1.0 / (2 * np.sin(np.radians(pattern.two_theta.numpy() / 2)))
    expected = np.sort(d_of(values))[::-1]
    np.testing.assert_allclose(d, expected, rtol=1e-5)
    assert d[pattern.intensity.argmax()] == pytest.approx(d_of(25 * factor), rel=1e-5)
    assert any("converted to 2theta at 1 A" in note for note in pattern.notes)


def test_points_out_of_reach_are_left_out_and_counted():
    text = "Q (1/A),I\n" + rows(lambda x, y: f"{x / 3:.6f},{y}")
    pattern = parse_text(text)  # 4 pi / 1.54184 A = 8.15 per angstrom
    left = int((np.round(X / 3, 6) > 4 * np.pi / 1.54184).sum())
    assert 0 < left < 500 and len(pattern.two_theta) == 500 - left
    assert f"{left} points out of reach of this wavelength left out" in pattern.notes


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("2Theta", "angle"), ("2θ (°)", "angle"), ("Two-Theta [deg]", "angle"), ("Angle", "angle"),
        ("'2th'", "angle"), ("tth", "angle"), ("Theta", "theta"), ("d", "d_a"),
        ("d_spacing", "d_a"), ("Q(nm-1)", "q_nm"), ("q [Å⁻¹]", "q_a"), ("q", "q"),
        ("Intensity error", "uncertainty"),
        ("esd", "uncertainty"), ("Counts", "intensity"), ("I", "intensity"), ("Ycalc", "other"),
        ("Time (s)", "other"), ("Quality", ""), ("sample", ""), ("date", ""),
    ],
)  # fmt: skip
def test_names_of_columns(label, kind):
    assert column_kind(label) == kind


# ----------------------------------------------------------------------------- uncertainties, scans


def test_uncertainties_by_name_by_suffix_and_by_their_size():
    error = np.round(np.sqrt(Y), 2)
    poisson = "".join(f"{x:.2f} {y} {e}\n" for x, y, e in zip(X, Y, error, strict=True))
    np.testing.assert_allclose(parse_text(poisson).uncertainty, error)
    named = "2theta,I,sigma(I)\n" + rows(lambda x, y: f"{x:.2f},{y},1.5")
    np.testing.assert_allclose(parse_text(named).uncertainty, 1.5)
    third = rows(lambda x, y: f"{x:.2f} {y} 1.5")
    assert parse_text(third).uncertainty is None
    assert parse_text(third).notes != ()
    np.testing.assert_allclose(parse_text(third, name="a.xye").uncertainty, 1.5)


def test_several_sweeps_in_one_file():
    twice = parse_text(PLAIN + PLAIN)
    np.testing.assert_allclose(twice.intensity, 2 * Y)
    assert "2 scans of the same range summed" in twice.notes
    back = parse_text(PLAIN + rows(lambda x, y: f"{x:.2f} {y}", X[::-1], Y[::-1]))
    np.testing.assert_allclose(back.two_theta, X)
    np.testing.assert_allclose(back.intensity, Y)
    sections = "[Scan points]\nAngle,Intensity\n{}[Scan points]\nAngle,Intensity\n{}".format(
        PLAIN.replace(" ", ","), rows(lambda x, y: f"{x + 10:.2f},{y}")
    )
    joined = parse_text(sections)
    assert len(joined.two_theta) == 1000 and joined.two_theta[-1] == pytest.approx(39.98)
    assert any("text between the points left out (line 503" in note for note in joined.notes)


def test_scans_that_contradict_each_other_are_refused():
    other = rows(lambda x, y: f"{x + 1.01:.2f} {50 * y}")
    with pytest.raises(PatternError, match=r"two scans overlap from 21\.01 .* export one scan"):
        parse_text(PLAIN + other)
    series = rows(lambda x, y: f"{x:.2f} {Y[-1 - round((x - 20) * 50)] + 300}")
    assert any("a series?" in note for note in parse_text(PLAIN + series).notes)


def test_columns_that_are_not_used_are_named():
    text = "2theta,Iobs,Int2\n" + rows(lambda x, y: f"{x:.2f},{y},7")
    assert parse_text(text).notes == ("of several intensities, 'Iobs' is used",)


def test_a_real_gap_is_no_header():
    """A single point far from the others, whose numbers are nothing of theirs, stays a point."""
    assert len(parse_text("5.00 77\n" + PLAIN).two_theta) == 501


# ---------------------------------------------------------------------------------- any text at all


ANY_NUMBER = st.one_of(
    st.floats(0, 180).map(lambda v: f"{v:.3f}"),
    st.integers(0, 10**7).map(lambda v: f"{v:,}"),
    st.sampled_from(["1,5", '"2,000"', "1.5D1", "nan", "1 234", "-3", "2theta", "1e400", "", "x"]),
)
ANY_LINE = st.one_of(
    st.tuples(ANY_NUMBER, st.sampled_from([",", ";", "\t", " ", "  "]), ANY_NUMBER).map("".join),
    st.sampled_from(["# wavelength 1.5", "Q (1/A),I", "2theta counts", "theta I", "anode Cu", "end",
                     "20 0.02 30", "data_", "BANK 1 2 3", "*COUNT = 3", "_COUNTS", "*RAS_", "<a"]),
)  # fmt: skip


def check_any_file(text: str, folder) -> None:
    path = folder / "any.txt"
    path.write_text(text, encoding="utf-8")
    try:
        pattern = read_pattern(path)
    except PatternError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        return
    assert isinstance(pattern, Pattern) and (pattern.two_theta.diff() > 0).all()
    assert pattern.intensity.isfinite().all() and pattern.intensity.dtype == torch.float64


@pytest.mark.filterwarnings("error")
@settings(max_examples=200)
@example("0.000\t0.000\n1e400\t0.000\n1e400\t1,000,000")  # an infinite angle
@given(st.lists(ANY_LINE, max_size=30).map("\n".join))
def test_two_hundred_made_up_files(tmp_path_factory, text):
    check_any_file(text, tmp_path_factory.getbasetemp())


@pytest.mark.longer
@pytest.mark.filterwarnings("error")
@settings(max_examples=1000, derandomize=False)
@given(st.lists(ANY_LINE, max_size=60).map("\n".join))
def test_a_thousand_made_up_files(tmp_path_factory, text):
    check_any_file(text, tmp_path_factory.getbasetemp())

"""PANalytical XRDML: axes, scans, attenuation, counting times, and which wavelength it was."""

from __future__ import annotations

import pytest
import torch

from unimat_powder.pattern import PatternError
from unimat_powder.reading import read_pattern
from unimat_powder.xrdml import parse_xrdml

EXPECTED = [[10.0, 10.5, 11.0, 11.5], [5.0, 8.0, 200.0, 7.0]]

XRDML = """<?xml version="1.0" encoding="UTF-8"?>
<xrdMeasurements xmlns="http://www.xrdml.com/XRDMeasurement/1.3" status="Completed">
  <xrdMeasurement measurementType="Scan">
    <usedWavelength intended="K-Alpha 1">
      <kAlpha1 unit="Angstrom">1.5405980</kAlpha1>
      <kAlpha2 unit="Angstrom">1.5444260</kAlpha2>
      <ratioKAlpha2KAlpha1>0.5000</ratioKAlpha2KAlpha1>
    </usedWavelength>
    <scan appendNumber="0" mode="Continuous" scanAxis="Gonio" status="Completed">
      <dataPoints>
        <positions axis="2Theta" unit="deg">
          <startPosition>10.0</startPosition><endPosition>11.5</endPosition>
        </positions>
        <positions axis="Omega" unit="deg">
          <startPosition>5.0</startPosition><endPosition>5.75</endPosition>
        </positions>
        <commonCountingTime unit="seconds">1.0</commonCountingTime>
        <intensities unit="counts">5 8 200 7</intensities>
      </dataPoints>
    </scan>
  </xrdMeasurement>
</xrdMeasurements>
"""


def test_xrdml_with_start_and_end(tmp_path):
    path = tmp_path / "scan.xrdml"
    path.write_text(XRDML, encoding="utf-8")
    pattern = read_pattern(path)
    assert torch.stack([pattern.two_theta, pattern.intensity]).tolist() == EXPECTED
    assert (pattern.wavelength, pattern.wavelength_from) == (1.540598, "file")
    given = read_pattern(path, wavelength=0.7)  # the caller knows better
    assert (given.wavelength, given.wavelength_from) == (0.7, "argument")
    assert given.notes == ("the given wavelength 0.7 A is used, not the 1.5406 A of the file",)


def test_xrdml_with_a_list_counts_and_other_wavelengths():
    listed = XRDML.replace(
        "<startPosition>10.0</startPosition><endPosition>11.5</endPosition>",
        "<listPositions>10.0 10.5 11.0 11.5</listPositions>",
        1,
    ).replace("intensities", "counts")
    pattern = parse_xrdml(listed.encode())
    assert torch.stack([pattern.two_theta, pattern.intensity]).tolist() == EXPECTED
    both = parse_xrdml(XRDML.replace("K-Alpha 1", "K-Alpha").encode())
    assert both.wavelength == pytest.approx((2 * 1.540598 + 1.544426) / 3)
    nano = XRDML.replace('kAlpha1 unit="Angstrom">1.5405980', 'kAlpha1 unit="nm">0.1540598')
    assert parse_xrdml(nano.encode()).wavelength == pytest.approx(1.540598)
    silent = XRDML.replace("usedWavelength", "noWavelength")
    assert parse_xrdml(silent.encode(), wavelength=0.7).wavelength == 0.7
    latin = XRDML.replace("UTF-8", "ISO-8859-1").replace("<scan ", "<c>Å</c><scan ")
    assert parse_xrdml(latin.encode("latin-1")).intensity.tolist() == EXPECTED[1]


def xrdml_scans(*scans: tuple[float, float, str]) -> bytes:
    """A document with a scan for each start, counting time and list of four counts."""
    start, end = XRDML.index("    <scan"), XRDML.index("  </xrdMeasurement>")
    scan = XRDML[start:end]
    text = "".join(
        scan.replace("10.0<", f"{low}<").replace("11.5<", f"{low + 1.5}<", 1)
        .replace(">1.0<", f">{seconds}<").replace("5 8 200 7", counts)
        for low, seconds, counts in scans
    )  # fmt: skip
    return (XRDML[:start] + text + XRDML[end:]).encode()


def test_xrdml_with_several_scans():
    repeated = parse_xrdml(xrdml_scans((10.0, 1.0, "5 8 200 7"), (10.0, 3.0, "15 24 600 21")))
    assert repeated.intensity.tolist() == [20, 32, 800, 28]
    assert repeated.notes == ("2 scans of the same range summed",)
    joined = parse_xrdml(xrdml_scans((12.0, 2.0, "2 4 6 8"), (10.0, 1.0, "5 8 200 7")))
    assert joined.two_theta.tolist() == [10, 10.5, 11, 11.5, 12, 12.5, 13, 13.5]
    assert joined.intensity.tolist() == [5, 8, 200, 7, 1, 2, 3, 4]
    assert joined.notes == ("2 ranges joined, as counts per second: the counting times differ",)
    overlapping = parse_xrdml(xrdml_scans((10.0, 1.0, "5 8 200 7"), (11.0, 3.0, "600 21 3 6")))
    assert overlapping.two_theta.tolist() == [10, 10.5, 11, 11.5, 12, 12.5]
    assert overlapping.intensity.tolist() == [5, 8, 200, 7, 1, 2]
    two = xrdml_scans((10.0, 1.0, "5 8 200 7"), (10.0, 1.0, "5 8 200 7"))
    rocking = two.replace(b'"2Theta"', b'"Chi"', 1)
    assert parse_xrdml(rocking).notes == ("1 scans without a 2Theta axis left out",)


def test_xrdml_optics_decide_about_k_alpha_2():
    """Instruments without monochromator write "K-Alpha 1", those with one "K-Alpha"."""
    optics = "<incidentBeamPath>{}</incidentBeamPath>    <scan"
    open_beam = XRDML.replace("    <scan", optics.format("<mask/>"), 1)
    germanium = "<monochromator><crystal>Ge</crystal></monochromator>"
    closed = XRDML.replace("    <scan", optics.format(germanium), 1).replace("K-Alpha 1", "K-Alpha")
    graphite = closed.replace(">Ge<", ">Graphite<")
    mean = pytest.approx((2 * 1.540598 + 1.544426) / 3)
    for text, wavelength, doublet in (
        (open_beam, mean, True),
        (closed, 1.540598, False),
        (graphite, mean, True),
        (open_beam.replace("0.5000", "0.0000"), 1.540598, False),
        (XRDML, 1.540598, None),
    ):
        pattern = parse_xrdml(text.encode())
        assert (pattern.wavelength, pattern.k_alpha_2) == (wavelength, doublet)


def test_xrdml_attenuation_and_counting_times():
    raw = XRDML.replace("intensities", "counts").replace("5 8 200 7", "5 8 20 7")
    listed = "<beamAttenuationFactors>1 1 10 1</beamAttenuationFactors><counts"
    assert parse_xrdml(raw.replace("<counts", listed).encode()).intensity.tolist() == EXPECTED[1]
    common = "<commonBeamAttenuationFactor>3</commonBeamAttenuationFactor><counts"
    assert parse_xrdml(raw.replace("<counts", common).encode()).intensity[0] == 15
    done = XRDML.replace("<intensities", listed.replace("<counts", "<intensities"))
    assert parse_xrdml(done.encode()).intensity.tolist() == EXPECTED[1]  # undone already
    times = XRDML.replace('commonCountingTime unit="seconds">1.0', "countingTimes>1 1 4 2")
    pattern = parse_xrdml(times.replace("/commonCountingTime", "/countingTimes").encode())
    assert pattern.intensity.tolist() == [10, 16, 100, 7]  # at their mean, two seconds
    for bad in ("1 1 1", "1 1 0 1"):
        with pytest.raises(PatternError, match="a positive factor for each of 4 points"):
            parse_xrdml(raw.replace("<counts", listed.replace("1 1 10 1", bad)).encode())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</xrdMeasurements>", "", "not a readable XML"),
        ("UTF-8", "UTF-99", "not a readable XML"),
        ("scan", "skan", "with a <scan>"),
        ("intensities", "numbers", "neither <intensities> nor <counts>"),
        ("2Theta", "Chi", "no <positions axis='2Theta'>"),
        ("startPosition", "firstPosition", "no list and no start and end"),
        ("5 8 200 7", "", "at least 2 points"),
        ("5 8 200 7", "5 8 two 7", "<intensities> must hold numbers only"),
        ("5 8 200 7", "5 8 nan 7", "intensity at point 3 is nan"),
        ("5 8 200 7", "0 0 0 0", "no intensity is positive"),
        ("11.5</end", "10.0</end", "all lie at 10 degrees"),
        ("10.0</start", "10.0 3</start", "must hold one finite number"),
        ("1.5405980", "-1", "wavelength of 0.01 to 100 angstrom, but the file states -1"),
    ],
)
def test_bad_xrdml_is_refused(old, new, message):
    assert old in XRDML
    with pytest.raises(PatternError, match=message):
        parse_xrdml(XRDML.replace(old, new).encode(), name="scan.xrdml")

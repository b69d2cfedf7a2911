"""Files in vendors' formats: right angles, counts and wavelengths, and nothing worse than an error.

The files are made up (vendor_files.py); real ones are read where UNIMAT_DATA names the data.
"""

from __future__ import annotations

import random
import time

import geddes
import numpy as np
import pytest
import vendor_files as made
from hypothesis import given, settings
from hypothesis import strategies as st

from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.reading import archives, read_pattern, vendor

MEAN = (2 * made.CU[0] + made.CU[1]) / 3
POISSON = np.sqrt(made.COUNTS)


def read(folder, content: bytes, *, name="scan.txt", wavelength=None) -> Pattern:
    path = folder / name
    path.write_bytes(content)
    return read_pattern(path, wavelength=wavelength)


WAVELENGTHS = {  # (wavelength, K-alpha 2 in the beam)
    "bruker_1.raw": (MEAN, None),
    "stoe.raw": (made.CU[0], None),
    "rigaku.asc": (made.CU[0], None),
    "gsas.fxye": (made.CU[0], None),
    "gsas.esd": (made.CU[0], None),
    "powder.cif": (made.CU[0], None),
    "psi.dat": (1.494, None),
}


@pytest.mark.parametrize("suffix", ["", ".xy", ".raw", ".xrdml"])
@pytest.mark.parametrize("name", made.FILES)
def test_every_format_under_every_suffix(name, suffix, tmp_path):
    pattern = read(tmp_path, made.FILES[name](), name=(name if not suffix else f"scan{suffix}"))
    np.testing.assert_allclose(pattern.two_theta, made.TWO_THETA, atol=1e-6)
    np.testing.assert_allclose(pattern.intensity, made.COUNTS, atol=1e-6)
    wavelength, doublet = WAVELENGTHS.get(name, (MEAN, True))
    assert pattern.wavelength == pytest.approx(wavelength, abs=1e-6)
    assert (pattern.wavelength_from, pattern.k_alpha_2) == ("file", doublet)


@pytest.mark.parametrize("name", made.FILES)
def test_a_given_wavelength_wins_and_is_noted(name, tmp_path):
    pattern = read(tmp_path, made.FILES[name](), wavelength=0.7107)
    assert (pattern.wavelength, pattern.wavelength_from) == (0.7107, "argument")
    assert pattern.k_alpha_2 is None
    assert any("not the 1." in note for note in pattern.notes)
    close = read(tmp_path, made.raw_4(), wavelength=1.5418)
    assert (close.wavelength, close.wavelength_from, close.notes) == (1.5418, "argument", ())
    assert close.k_alpha_2 is True


@pytest.mark.parametrize("name", ["gsas.fxye", "gsas.esd", "powder.cif", "psi.dat"])
def test_uncertainties_come_along(name, tmp_path):
    pattern = read(tmp_path, made.FILES[name]())
    # A CIF rounds them to whole counts, PSI's file here to a tenth.
    np.testing.assert_allclose(pattern.uncertainty, POISSON, atol=0.5)


def test_neutrons_are_pointed_out(tmp_path):
    notes = read(tmp_path, made.psi()).notes
    assert any("neutrons" in note for note in notes)
    assert any("Filelist" in note for note in notes)  # what stands behind the points


# ------------------------------------------------------------------------- what else headers decide


def test_k_alpha_1_alone(tmp_path):
    for content in (made.raw_101(ratio=0.0), made.ras("Ka1"), made.rasx("Ka1")):
        pattern = read(tmp_path, content)
        assert pattern.wavelength == pytest.approx(made.CU[0])
        assert pattern.k_alpha_2 is False


def test_attenuators_are_undone(tmp_path):
    factors = np.where(np.abs(made.TWO_THETA - 25) < 0.15, 10.0, 1.0)
    for content in (made.ras(factors=factors), made.rasx(factors=factors)):
        pattern = read(tmp_path, content)
        np.testing.assert_allclose(pattern.intensity, made.COUNTS, rtol=1e-3)
        assert pattern.notes == ("beam attenuation undone (factors up to 10)",)


def test_bruker_has_undone_its_absorber_already(tmp_path):
    factors = np.where(np.abs(made.TWO_THETA - 25) < 0.15, 10.0, 1.0)
    pattern = read(tmp_path, made.brml(factors))
    np.testing.assert_allclose(pattern.intensity, made.COUNTS)


def test_both_spellings_of_rasx(tmp_path):
    pattern = read(tmp_path, made.rasx("Ka1", spelt="Measurement"))
    assert (pattern.wavelength, pattern.k_alpha_2) == (pytest.approx(made.CU[0]), False)


@pytest.mark.parametrize(
    "content",
    [
        made.raw_101(scans=2, seconds=(1.0, 2.0)),
        made.uxd(seconds=(1.0, 2.0)),
        made.brml(ranges=2),
        made.ras(speeds=(1.2, 0.6)),
    ],
    ids=["raw", "uxd", "brml", "ras"],
)
def test_ranges_are_joined_as_counts_per_second(content, tmp_path):
    """The second range counts twice as long and holds the same peak."""
    pattern = read(tmp_path, content)
    assert len(pattern.two_theta) == 2 * made.POINTS
    first, second = pattern.intensity[: made.POINTS], pattern.intensity[made.POINTS :]
    np.testing.assert_allclose(first, second, rtol=1e-4)
    np.testing.assert_allclose(first, made.COUNTS, rtol=1e-4)
    assert pattern.notes == ("2 ranges joined, as counts per second: the counting times differ",)


def test_repeated_ranges_are_summed(tmp_path):
    pattern = read(tmp_path, made.uxd(seconds=(1.0, 1.0, 2.0), shift=0.0))
    np.testing.assert_allclose(pattern.intensity, 4 * made.COUNTS)
    assert pattern.notes == ("3 scans of the same range summed",)


def test_counts_without_angles(tmp_path):
    """The older form of UXD: counts alone, in rows."""
    head = made.uxd().decode().partition("_2THETACOUNTS")[0]
    rows = "".join(
        " ".join(f"{y:.0f}" for y in made.COUNTS[i : i + 8]) + "\n"
        for i in range(0, made.POINTS, 8)
    )
    pattern = read(tmp_path, f"{head}_COUNTS\n{rows}".encode())
    np.testing.assert_allclose(pattern.two_theta, made.TWO_THETA, atol=1e-9)
    np.testing.assert_allclose(pattern.intensity, made.COUNTS)


def test_counts_per_second_are_not_divided_again(tmp_path):
    pattern = read(tmp_path, made.uxd(seconds=(1.0, 1.0), marker="_2THETACPS"))
    np.testing.assert_allclose(pattern.intensity[: made.POINTS], made.COUNTS)


def test_powder_cifs_of_other_kinds(tmp_path):
    ranged = read(tmp_path, made.pdcif(axis="range"))
    np.testing.assert_allclose(ranged.two_theta, made.TWO_THETA, atol=1e-9)
    doublet = (
        "loop_\n_diffrn_radiation_wavelength_id\n_diffrn_radiation_wavelength\n"
        "_diffrn_radiation_wavelength_wt\n1 1.540598 1.0\n2 1.544426 0.5\n"
    )
    pattern = read(tmp_path, made.pdcif(wavelength=doublet))
    assert (pattern.wavelength, pattern.k_alpha_2) == (pytest.approx(MEAN), True)
    named = read(tmp_path, made.pdcif(wavelength="_diffrn_radiation_type 'Co K\\a'\n"))
    assert named.wavelength == pytest.approx(1.79028, abs=1e-5)
    silent = read(tmp_path, made.pdcif(wavelength=""))
    assert silent.wavelength_from == "default"
    both = made.pdcif() + made.pdcif().replace(b"data_scan", b"data_scan_calc")
    assert read(tmp_path, both).notes == ("of 2 patterns, that of the block scan is used",)
    spacing = made.pdcif().replace(b"_pd_meas_2theta_scan", b"_pd_proc_d_spacing")
    assert read(tmp_path, spacing, wavelength=1.0).two_theta[-1] == pytest.approx(
        2 * np.degrees(np.arcsin(1 / 40)), rel=1e-6
    )  # 20 A, of which the numbers speak now
    missing = read(tmp_path, made.pdcif().replace(b"20.04 20(4)", b"20.04 ."))
    assert len(missing.two_theta) == made.POINTS - 1
    assert "1 points without a value left out" in missing.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data_x\n_cell_length_a 5.0\n", "holds no measured powder pattern"),
        (made.pdcif() + b"\ndata_2\n" + made.pdcif(), "not a readable CIF"),
        (made.pdcif() + made.pdcif().replace(b"data_scan", b"data_two"), "2 patterns in one file"),
        (made.pdcif().replace(b"20.04 20(4)", b"20.04 high"), "must hold numbers, but value 3"),
        (
            made.pdcif("range").replace(b"inc 0.02", b"inc 0.03"),
            "states no 2theta for its intensities",
        ),
        (made.zipped(notes_txt="hello"), "a zip archive without scans"),
        (made.brml()[:1000], "the archive is damaged"),
        (b"PK\x03\x04", "the archive is damaged"),
        (made.raw_4()[:900], "not readable"),
        (made.raw_2()[:900], "damaged or cut short"),
        (made.stoe_raw()[:2000], "no scan found in this STOE"),
        (b"V5RD\0" + bytes(5000), "binary file of unknown kind"),
        (made.asc().replace(b"*STEP", b"*STAP"), "a start and a step before the counts"),
        (made.uxd().replace(b"_2THETACOUNTS", b"_KINGS"), "not readable"),
        (b"<html><body>404</body></html>", "an HTML page, not a measurement"),
    ],
)
def test_what_is_refused_says_why(content, message, tmp_path):
    with pytest.raises(PatternError, match=message) as raised:
        read(tmp_path, content)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


# --------------------------------------------------------------------------------- hostile archives


def test_bombs_do_not_unpack(tmp_path):
    many = made.zipped(**{f"Experiment0__RawData{i}_xml": " " * 2**24 for i in range(5)})
    assert len(many) < 2**20
    with pytest.raises(PatternError, match="unpacks into more than 64 MiB"):
        read(tmp_path, many)
    texts = archives._unpack(made.brml(), "")
    raw = texts["Experiment0/RawData0.xml"].decode()
    bomb = '<!DOCTYPE a [<!ENTITY b "ha">]>'
    texts["Experiment0/RawData0.xml"] = raw.replace("<RawData", bomb + "<RawData", 1).encode()
    with pytest.raises(PatternError, match="DOCTYPE a is not allowed"):
        read(tmp_path, archives._repack(texts))
    office = made.zipped(**{"xl__workbook_xml": "<a/>"})
    with pytest.raises(PatternError, match="without scans"):
        read(tmp_path, office)


def test_a_panic_of_the_library_is_one_line(tmp_path, monkeypatch):
    panic = type("PanicException", (BaseException,), {})

    def fail(*_: object, **__: object) -> None:
        raise panic("index out of bounds")

    monkeypatch.setattr(vendor.geddes, "read_bytes", fail)
    with pytest.raises(PatternError, match="the file is damaged"):
        read(tmp_path, made.raw_101())

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vendor.geddes, "read_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path, made.raw_101())


def test_the_library_still_ends_its_scans_as_we_read_it():
    """All scans are read until geddes says that there are no more, in these words."""
    for name, content in (
        ("a.raw", made.raw_101()),
        ("a.uxd", made.uxd()),
        ("a.brml", made.brml()),
    ):
        with pytest.raises(ValueError, match="out of range"):
            geddes.read_bytes(content, name, index=1)


# ------------------------------------------------------------------------------------- broken files


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A file with a few places changed, most of them in its header."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5, 30])):
        end = len(data) if draw.random() < 0.5 else min(len(data), 2000)
        i = draw.randrange(end + 1)
        kind = draw.randrange(6)
        if kind == 0:
            data[i : i + draw.choice([1, 2, 4])] = draw.randbytes(draw.choice([1, 2, 4, 8]))
        elif kind == 1:
            del data[i : i + draw.choice([1, 4, 100, 5000])]
        elif kind == 2:
            data[i:i] = data[i : i + draw.choice([4, 64, 1000])]
        elif kind == 3 and i < len(data):
            data[i] ^= 1 << draw.randrange(8)
        elif kind == 4:
            data[i : i + 4] = draw.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"])
        else:
            data[i : i + 1] = draw.choice([b" ", b"\n", b",", b".", b"-", b"<", b'"', b"nan"])
    return bytes(data)


def broken(draw: random.Random) -> tuple[str, bytes]:
    """A broken file of any format; archives are broken inside as often as outside."""
    name = draw.choice(sorted(made.FILES))
    content = made.FILES[name]()
    if content.startswith(b"PK") and draw.random() < 0.7:
        members = archives._unpack(content, "")
        content = archives._repack(
            {key: mutated(text, draw) if draw.random() < 0.6 else text
             for key, text in members.items()}
        )  # fmt: skip
        return name, content
    return name, mutated(content, draw)


def check_broken(seeds, folder) -> None:
    read_rightly = 0
    for seed in seeds:
        name, content = broken(random.Random(seed))
        begin = time.process_time()
        try:
            pattern = read(folder, content, name=name)
        except PatternError as error:
            assert "\n" not in str(error) and len(str(error)) < 400, seed
        else:
            read_rightly += 1
            assert pattern.intensity.isfinite().all() and (pattern.two_theta.diff() > 0).all(), seed
        assert time.process_time() - begin < 5, seed
    assert 0.02 < read_rightly / len(seeds) < 0.9


@pytest.mark.filterwarnings("error")
def test_two_hundred_broken_vendor_files(tmp_path):
    check_broken(range(200), tmp_path)


@pytest.mark.longer
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("error")
def test_three_thousand_broken_vendor_files(tmp_path):
    check_broken(range(1000, 4000), tmp_path)


@settings(max_examples=100)
@given(
    st.sampled_from([b"RAW1.01\0", b"RAW4.00\0", b"RAW2", b"RAW ", b"RAW_1.06\0", b"PK\3\4"]),
    st.binary(max_size=1200),
)
def test_any_bytes_behind_a_magic_number(tmp_path_factory, magic, content):
    try:
        read(tmp_path_factory.getbasetemp(), magic + content, name="a.raw")
    except PatternError as error:
        assert "\n" not in str(error)

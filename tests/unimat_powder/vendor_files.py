"""Small made-up files in the formats that instruments write; every one holds the same scan."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np

START, STEP, POINTS = 20.0, 0.02, 500
TWO_THETA = START + STEP * np.arange(POINTS)
COUNTS = np.round(20 + 5000 * np.exp(-(((TWO_THETA - 25) / 0.1) ** 2)))
CU = (1.540598, 1.544426)


def raw_101(scans=1, seconds=(1.0,), ratio=0.5, step=STEP, counts=COUNTS) -> bytes:
    """Bruker RAW1.01, ranges one behind the other."""
    head = bytearray(712)
    head[:8] = b"RAW1.01\0"
    struct.pack_into("<II", head, 8, 1, scans)
    head[608:610] = b"Cu"
    struct.pack_into("<5d", head, 616, 1.54184, *CU, 1.39225, ratio)
    for i in range(scans):
        part = bytearray(304)
        struct.pack_into("<II", part, 0, 304, len(counts))
        struct.pack_into("<2d", part, 8, START / 2, START + i * POINTS * step)
        struct.pack_into("<d", part, 176, step)
        time = seconds[i % len(seconds)]
        struct.pack_into("<f", part, 192, time)
        struct.pack_into("<I", part, 252, 4)
        head += part + (counts * time).astype("<f4").tobytes()
    return bytes(head)


def raw_4() -> bytes:
    """Bruker RAW4 with a record of the tube and one range."""
    tube = bytearray(136)
    struct.pack_into("<II", tube, 0, 30, 136)
    struct.pack_into("<5d", tube, 72, 1.54184, *CU, 1.39225, 0.5)
    part = bytearray(160)
    part[32:46] = b"Locked Coupled"
    struct.pack_into("<2d", part, 72, START, STEP)
    struct.pack_into("<If", part, 88, POINTS, 2.0)
    struct.pack_into("<I", part, 136, 4)
    head = b"RAW4.00".ljust(56, b"\0") + struct.pack("<I", 136) + b"\0"
    return head + bytes(tube) + bytes(part) + COUNTS.astype("<f4").tobytes()


def raw_2() -> bytes:
    """Bruker RAW2 with one range."""
    head = bytearray(256)
    head[:4] = b"RAW2"
    struct.pack_into("<H", head, 4, 1)
    head[188:190] = b"Cu"
    struct.pack_into("<3f", head, 190, *CU, 0.5)
    part = bytearray(48)
    struct.pack_into("<HH", part, 0, 48, POINTS)
    struct.pack_into("<3f", part, 8, 1.0, STEP, START)
    return bytes(head + part) + COUNTS.astype("<f4").tobytes()


def raw_1() -> bytes:
    """Siemens RAW, the first version, with one range."""
    head = bytearray(156)
    head[:4] = b"RAW "
    struct.pack_into("<Iff", head, 4, POINTS, 1.0, STEP)
    struct.pack_into("<f", head, 24, START)
    struct.pack_into("<2f", head, 72, *CU)
    return bytes(head) + COUNTS.astype("<f4").tobytes()


def stoe_raw() -> bytes:
    """STOE RAW_1.06: a header, a header of the range, uint32 counts, all in blocks of 512."""
    head = bytearray(0x800)
    head[:14] = b"RAW_1.06Powdat"
    struct.pack_into("<2f", head, 0x142, *CU)
    part = bytearray(512)
    struct.pack_into("<H", part, 0x22, POINTS)
    stop = TWO_THETA[-1]
    struct.pack_into("<6f", part, 0x2C, START, START / 2, stop, stop / 2, STEP, STEP / 2)
    struct.pack_into("<2I", part, 0x78, int(COUNTS.min()), int(COUNTS.max()))
    return bytes(head + part) + COUNTS.astype("<u4").tobytes().ljust(2048, b"\0")


def zipped(**members: str) -> bytes:
    """An archive; ``__`` in a name stands for a slash."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            stem, _, suffix = name.replace("__", "/").rpartition("_")
            archive.writestr(f"{stem}.{suffix}", text)
    return packed.getvalue()


def brml(factors=None, ranges=1, **more: str) -> bytes:
    """Bruker BRML, with absorbers of these factors in the beam; the counts are without them."""
    factors = np.ones(POINTS) if factors is None else factors
    container = (
        "<DataContainer><RawDataReferenceList>"
        + "".join(f"<string>Experiment0/RawData{i}.xml</string>" for i in range(ranges))
        + "</RawDataReferenceList></DataContainer>"
    )
    members = {"Experiment0__DataContainer_xml": container}
    for i in range(ranges):
        datum = "".join(
            f"<Datum>{1 + i}.0,{factor:g},{x + i * POINTS * STEP:.4f},"
            f"{x / 2:.4f},{(1 + i) * y:g}</Datum>"
            for x, y, factor in zip(TWO_THETA, COUNTS, factors, strict=True)
        )
        members[f"Experiment0__RawData{i}_xml"] = BRML_RAW.format(datum=datum, points=POINTS)
    return zipped(**members, **more)


BRML_RAW = """<?xml version="1.0"?>
<RawData xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><DataRoutes>
<DataRoute RouteFlag="Measured"><ScanInformation ScanName="LockedCoupled">
<MeasurementPoints>{points}</MeasurementPoints><ScanAxes>
<ScanAxisInfo AxisId="TwoTheta" AxisName="TwoTheta" Unit="°"/></ScanAxes></ScanInformation>
{datum}<DataViews>
<RawDataView xsi:type="FixedRawDataView" Start="0" Length="1" LogicName="MeasuredTime" Unit="s"/>
<RawDataView xsi:type="FixedRawDataView" Start="1" Length="1" LogicName="AbsorptionFactor"/>
<RawDataView xsi:type="VaryingRawDataView" Start="2" Length="2"><Varying LogicName="ScanAxes">
<FieldDefinitions FieldName="TwoTheta" AxisId="TwoTheta"/>
<FieldDefinitions FieldName="Theta" AxisId="Theta"/></Varying></RawDataView>
<RawDataView xsi:type="RecordedRawDataView" Start="4" Length="1">
<Recording LogicName="ScanCounter" Category="Count"><Unit Base="Counts"/>
<Size><X>1</X><Y>1</Y></Size></Recording></RawDataView>
</DataViews></DataRoute></DataRoutes><FixedInformation><Instrument>
<TubeMaterial>Cu</TubeMaterial><WaveLengthAlpha1 Unit="Å" Value="1.540598"/>
<WaveLengthAlpha2 Unit="Å" Value="1.544426"/><WaveLengthRatio Unit="" Value="0.5"/>
</Instrument></FixedInformation></RawData>"""

_RAS_HEADER = """*RAS_HEADER_START
*HW_XG_TARGET_NAME "Cu"
*HW_XG_WAVE_LENGTH_ALPHA1 "1.540598"
*HW_XG_WAVE_LENGTH_ALPHA2 "1.544426"
*MEAS_COND_XG_WAVE_TYPE "{kind}"
*MEAS_SCAN_AXIS_X "TwoThetaTheta"
*MEAS_SCAN_SPEED "{speed}"
*MEAS_SCAN_SPEED_UNIT "deg/min"
*MEAS_SCAN_STEP "0.0200"
*MEAS_SCAN_UNIT_X "deg"
*MEAS_SCAN_UNIT_Y "counts"
*RAS_HEADER_END
*RAS_INT_START
{rows}*RAS_INT_END
"""


def _rigaku_rows(factors, separator=" ", shift=0.0, times=1.0) -> str:
    return "".join(
        f"{x + shift:.4f}{separator}{times * y / f:.4f}{separator}{f:.4f}\n"
        for x, y, f in zip(TWO_THETA, COUNTS, factors, strict=True)
    )


def ras(kind="Ka", factors=None, speeds=(1.2,)) -> bytes:
    """Rigaku RAS; a slower range behind a faster one holds more counts."""
    factors = np.ones(POINTS) if factors is None else factors
    parts = [
        _RAS_HEADER.format(
            kind=kind,
            speed=speed,
            rows=_rigaku_rows(factors, shift=i * POINTS * STEP, times=speeds[0] / speed),
        )
        for i, speed in enumerate(speeds)
    ]
    return f"*RAS_DATA_START\n{''.join(parts)}*RAS_DATA_END\n".encode()


def rasx(kind="Ka", factors=None, spelt="Mesurement") -> bytes:
    """Rigaku RASX."""
    factors = np.ones(POINTS) if factors is None else factors
    conditions = (
        "<MeasurementConditions><XrayGenerator><TargetName>Cu</TargetName>"
        f"<WaveType>{kind}</WaveType><WavelengthKalpha1>1.540598</WavelengthKalpha1>"
        "<WavelengthKalpha2>1.544426</WavelengthKalpha2></XrayGenerator><ScanInformation>"
        "<AxisName>TwoTheta</AxisName><Mode>CONTINUOUS</Mode><Start>20</Start><Stop>29.98</Stop>"
        "<Step>0.02</Step><Speed>1.2</Speed><SpeedUnit>deg/min</SpeedUnit>"
        "<PositionUnit>deg</PositionUnit><IntensityUnit>counts</IntensityUnit></ScanInformation>"
        "</MeasurementConditions>"
    )
    root = (
        '<Root><Data0 Type="Profile"><ContentHashList Name="Profile0.txt"/>'
        f'<ContentHashList Name="{spelt}Conditions0.xml"/></Data0></Root>'
    )
    return zipped(
        root_xml=root,
        Data0__Profile0_txt="\ufeff" + _rigaku_rows(factors, "\t"),
        **{f"Data0__{spelt}Conditions0_xml": conditions},
    )


def uxd(seconds=(1.0,), marker="_2THETACOUNTS", shift=POINTS * STEP) -> bytes:
    """Bruker UXD."""
    text = (
        "; made up\n_FILEVERSION=2\n_SAMPLE='none'\n_WL_UNIT='A'\n_WL1=1.540598\n_WL2=1.544426\n"
        "_WL3=1.392250\n_WLRATIO=0.500000\n_ANODE='Cu'\n"
    )
    for i, time in enumerate(seconds):
        text += (
            f"; (Data for Range number {i + 1})\n_DRIVE='COUPLED'\n_STEPTIME={time:.6f}\n"
            f"_STEPSIZE=0.020000\n_STEPMODE='C'\n_START={START + i * shift:.6f}\n{marker}\n"
        )
        text += "".join(
            f"{x + i * shift:.3f}\t{y * time:.0f}\n" for x, y in zip(TWO_THETA, COUNTS, strict=True)
        )
    return text.encode()


def gsas() -> bytes:
    """GSAS with uncertainties (FXYE), angles in hundredths of a degree."""
    rows = "".join(
        f"{100 * x:12.4f} {y:12.3f} {np.sqrt(y):10.4f}\n"
        for x, y in zip(TWO_THETA, COUNTS, strict=True)
    )
    head = f"BANK 1 {POINTS} {POINTS} CONS {100 * START} {100 * STEP} 0 0 FXYE\n"
    return f"made up, wavelength 1.540598 A\n{head}{rows}".encode()


def gsas_esd() -> bytes:
    """GSAS with intensities and uncertainties in turn (ESD)."""
    pairs = [f"{y:8.0f}{np.sqrt(y):8.2f}" for y in COUNTS]
    rows = "\n".join("".join(pairs[i : i + 5]) for i in range(0, POINTS, 5))
    head = f"BANK 1 {POINTS} {POINTS // 5} CONS {100 * START} {100 * STEP} 0 0 ESD\n"
    return f"made up, wavelength 1.540598 A\n{head}{rows}\n".encode()


def asc() -> bytes:
    """Rigaku ASC: counts in rows behind labels."""
    rows = [",".join(f"{y:.0f}" for y in COUNTS[i : i + 4]) for i in range(0, POINTS, 4)]
    head = (
        f"*TYPE = Raw\n*WAVE_LENGTH1 = 1.540598\n*START = {START}\n*STEP = {STEP}\n*COUNT = 500\n"
    )
    return (head + "\n".join(rows) + "\n*END\n").encode()


def udf() -> bytes:
    """Philips UDF: counts in rows behind labels, a slash behind the last."""
    rows = [", ".join(f"{y:7.0f}" for y in COUNTS[i : i + 8]) for i in range(0, POINTS, 8)]
    head = (
        "SampleIdent,made up,/\nAnode, Cu,/\nLabdaAlpha1, 1.540598,/\nLabdaAlpha2, 1.544426,/\n"
        "RatioAlpha21, 0.50000,/\nDataAngleRange, 20.0000, 29.9800,/\nScanStepSize, 0.020,/\n"
        "ScanStepTime, 1.00,/\nRawScan\n"
    )
    return (head + ",\n".join(rows) + "/\n").encode()


def pdcif(axis="loop", wavelength="_diffrn_radiation_wavelength 1.540598\n") -> bytes:
    """A powder CIF."""
    if axis == "range":
        head = (
            f"_pd_meas_2theta_range_min {START}\n_pd_meas_2theta_range_max {TWO_THETA[-1]:.2f}\n"
            f"_pd_meas_2theta_range_inc {STEP}\n"
        )
        loop = "loop_\n_pd_meas_counts_total\n" + "".join(f"{y:.0f}\n" for y in COUNTS)
    else:
        head = ""
        loop = "loop_\n_pd_meas_2theta_scan\n_pd_meas_intensity_total\n" + "".join(
            f"{x:.2f} {y:.0f}({np.sqrt(y):.0f})\n" for x, y in zip(TWO_THETA, COUNTS, strict=True)
        )
    return f"# made up\ndata_scan\n{wavelength}{head}{loop}".encode()


def psi() -> bytes:
    """PSI: counts in rows behind start, step and stop, then as many uncertainties."""

    def rows(values):
        return "".join(
            " ".join(f"{v:8.1f}" for v in values[i : i + 10]) + "\n" for i in range(0, POINTS, 10)
        )

    angles = f" {START} {STEP} {TWO_THETA[-1]:.2f} 1., sample=x\n"
    head = f"DMC, made up\nlambda=  1.49400, T= 1.5\n{angles}"
    foot = " Filelist='none'\n a4=2.9 3.;\n"
    return (head + rows(COUNTS) + rows(np.sqrt(COUNTS)) + foot).encode()


FILES = {
    "bruker_1.raw": raw_1,
    "bruker_2.raw": raw_2,
    "bruker_3.raw": raw_101,
    "bruker_4.raw": raw_4,
    "stoe.raw": stoe_raw,
    "bruker.brml": brml,
    "bruker.uxd": uxd,
    "rigaku.ras": ras,
    "rigaku.rasx": rasx,
    "rigaku.asc": asc,
    "philips.udf": udf,
    "gsas.fxye": gsas,
    "gsas.esd": gsas_esd,
    "powder.cif": pdcif,
    "psi.dat": psi,
}

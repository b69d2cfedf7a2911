"""Well-known crystals in, simulated scans of them in the formats of instruments out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from unimat_lib.crystals.table import CrystalTable
from unimat_powder.network.views import GRID
from unimat_powder.simulation.ranges import RRUFF
from unimat_powder.simulation.scans import scans_of

_HABITS = replace(RRUFF, impurity=0.0, isotropic=(-0.003, 0.003))
_SEED = 11
_SAID = "simulated for the UniMat book, not measured"
_GLASS = "Glass"

EXAMPLES = (
    ("Quartz", "A2B_hP9_152_c_a:SiO2", "Si, O", ".csv"),
    ("Corundum", "A2B3_hR10_167_c_e:Al2O3", "Al, O", ".xrdml"),
    ("Halite", "AB_cF8_225_a_b:NaCl", "", ".xye"),
    ("Rutile", "A2B_tP6_136_f_a:TiO2", "Ti, O", ".xy"),
    ("Perovskite", "AB3C_oP20_62_c_cd_a:CaTiO3", "Ca, Ti, O", ".ras"),
    (_GLASS, "", "", ".xy"),
)
"""Title, material id among the prototypes, elements that the page fills in, and format."""


def write_examples(prototypes: CrystalTable, folder: Path) -> list[dict[str, str]]:
    """Write the scans and say what they are, for a list on the page.

    Args:
        prototypes: The table of that data set.
        folder: Where to; it is made.

    Raises:
        ValueError: A crystal is missing in the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [name for _, name, _, _ in EXAMPLES if name]
    places = prototypes.info.reset_index().set_index("material_id")["index"]
    if missing := set(wanted) - set(places.index):
        raise ValueError(f"expected the prototypes {sorted(missing)}, which the table lacks")
    scans = scans_of(prototypes.select(places[wanted].tolist()), _HABITS, GRID, seed=_SEED)
    rows = iter(scans.counts.numpy())
    listed = []
    for title, name, elements, suffix in EXAMPLES:
        counts = next(rows) if name else _glass()
        file = f"{title.lower()}{suffix}"
        text = _WRITERS[suffix](f"{title}, {_SAID}", GRID.two_theta.numpy(), counts.round())
        (folder / file).write_text(text, encoding="utf-8")
        listed.append({"title": title, "file": file, "elements": elements})
    return listed


def _glass() -> np.ndarray:
    """Counts of a scan without any line: a background and a broad hump."""
    x = GRID.two_theta.numpy()
    rate = 60 + 200 * np.exp(-((x - 5) / 6)) + 400 * np.exp(-(((x - 22) / 6) ** 2) / 2)
    return np.random.default_rng(_SEED).poisson(rate).astype(float)


def _columns(title: str, x: np.ndarray, y: np.ndarray) -> str:
    rows = "".join(f"{a:.2f} {b:.0f}\n" for a, b in zip(x, y, strict=True))
    return f"# {title}\n# wavelength: {GRID.wavelength} A\n{rows}"


def _with_errors(title: str, x: np.ndarray, y: np.ndarray) -> str:
    error = np.sqrt(y.clip(1))
    rows = "".join(f"{a:.2f} {b:.0f} {e:.2f}\n" for a, b, e in zip(x, y, error, strict=True))
    return f"# {title}\n# wavelength: {GRID.wavelength} A\n{rows}"


def _commas(title: str, x: np.ndarray, y: np.ndarray) -> str:
    rows = "".join(f"{a:.2f},{b:.0f}\n" for a, b in zip(x, y, strict=True))
    return f"# {title}\n2theta (deg),intensity (counts)\n{rows}"


def _xrdml(title: str, x: np.ndarray, y: np.ndarray) -> str:
    counts = " ".join(f"{value:.0f}" for value in y)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<xrdMeasurements xmlns="http://www.xrdml.com/XRDMeasurement/1.5" status="Completed">
<comment><entry>{title}</entry></comment>
<xrdMeasurement measurementType="Scan" status="Completed">
<usedWavelength intended="K-Alpha">
<kAlpha1 unit="Angstrom">1.54056</kAlpha1><kAlpha2 unit="Angstrom">1.54439</kAlpha2>
<kBeta unit="Angstrom">1.39225</kBeta><ratioKAlpha2KAlpha1>0.5</ratioKAlpha2KAlpha1>
</usedWavelength>
<scan appendNumber="0" mode="Continuous" scanAxis="Gonio" status="Completed"><dataPoints>
<positions axis="2Theta" unit="deg"><startPosition>{x[0]:.4f}</startPosition>\
<endPosition>{x[-1]:.4f}</endPosition></positions>
<commonCountingTime unit="seconds">1.00</commonCountingTime>
<intensities unit="counts">{counts}</intensities>
</dataPoints></scan>
</xrdMeasurement>
</xrdMeasurements>
"""


def _ras(title: str, x: np.ndarray, y: np.ndarray) -> str:
    rows = "".join(f"{a:.4f} {b:.4f} 1.0000\n" for a, b in zip(x, y, strict=True))
    labels = {
        "FILE_COMMENT": title,
        "HW_XG_TARGET_NAME": "Cu",
        "HW_XG_WAVE_LENGTH_ALPHA1": "1.54056",
        "HW_XG_WAVE_LENGTH_ALPHA2": "1.54439",
        "MEAS_SCAN_AXIS_X": "TwoThetaTheta",
        "MEAS_SCAN_START": f"{x[0]:.4f}",
        "MEAS_SCAN_STEP": f"{GRID.step:.4f}",
        "MEAS_SCAN_STOP": f"{x[-1]:.4f}",
    }
    head = "".join(f'*{key} "{value}"\n' for key, value in labels.items())
    return (
        f"*RAS_DATA_START\n*RAS_HEADER_START\n{head}*RAS_HEADER_END\n"
        f"*RAS_INT_START\n{rows}*RAS_INT_END\n*RAS_DATA_END\n"
    )


_WRITERS: dict[str, Callable[[str, np.ndarray, np.ndarray], str]] = {
    ".xy": _columns,
    ".csv": _commas,
    ".xye": _with_errors,
    ".xrdml": _xrdml,
    ".ras": _ras,
}

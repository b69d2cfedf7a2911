"""A powder CIF (pdCIF) in, the scan that it holds out."""

import re

import gemmi
import numpy as np

from unimat_powder.pattern import PatternError
from unimat_powder.radiation import Radiation, anode_of, settle_wavelength
from unimat_powder.scans import Scan

_ANGLES = ("_pd_proc_2theta_corrected", "_pd_meas_2theta_scan", "_pd_meas_2theta_corrected",
           "_pd_proc_2theta")  # fmt: skip
_COUNTS = ("_pd_meas_counts_total", "_pd_meas_intensity_total", "_pd_proc_intensity_total",
           "_pd_meas_intensity_net", "_pd_proc_intensity_net", "_pd_meas_counts")  # fmt: skip
_MOST_POINTS = 10**6
_NUMBER = re.compile(r"([+-]?[0-9]*\.?([0-9]*)(?:[eEdD][+-]?[0-9]+)?)(?:\(([0-9]+)\))?")


def read_powder_cif(
    text: str, name: str, *, wavelength: float | None = None
) -> tuple[Scan, Radiation, list[str]]:
    """The measured intensities of a pdCIF, what it says of the X-rays, and notes.

    Angles come from a loop (corrected before scanned) or from a range of minimum, maximum and
    increment; a loop of d-spacings serves where there is neither. Uncertainties are those in
    brackets behind the intensities, or the inverse roots of the refinement's weights.

    Args:
        text: The CIF.
        name: What to call it in errors.
        wavelength: What the caller says, angstrom.

    Raises:
        PatternError: Not a CIF, a structure without pattern, or several patterns.
    """
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise PatternError(f"{name}: not a readable CIF ({str(error)[:120]})") from None
    blocks = [block for block in document if any(_is_listed(block, tag) for tag in _COUNTS)]
    if not blocks:
        raise PatternError(
            f"{name}: this CIF holds no measured powder pattern (no _pd_meas_counts_total or the "
            "like); give a measured pattern"
        )
    found = len(blocks)
    blocks = [b for b in blocks if "calc" not in b.name.lower()] if found > 1 else blocks
    if len(blocks) != 1:
        names = ", ".join(block.name for block in blocks[:5])[:80]
        raise PatternError(f"{name}: {found} patterns in one file ({names}); save one alone")
    block, notes = blocks[0], []
    if found > 1:
        notes.append(f"of {found} patterns, that of the block {block.name[:60]} is used")
    said = _radiation(block, document, name)
    length = settle_wavelength(said, wavelength, name=name)[0]
    for tag in (tag for tag in _COUNTS if _is_listed(block, tag)):
        number = len(block.find_values(tag))
        two_theta = _angles(block, number, length, name, notes)
        if two_theta is not None:
            break
    else:
        raise PatternError(
            f"{name}: the CIF states no 2theta for its intensities: no loop of the same length and "
            "no range that holds so many points (time of flight is not read)"
        )
    intensity, error = _values(list(block.find_values(tag)), tag, name)
    weights = list(block.find_values("_pd_proc_ls_weight"))
    if error is None and len(weights) == len(intensity):
        weight = _values(weights, "_pd_proc_ls_weight", name)[0]
        error = np.where(weight > 0, 1 / np.sqrt(np.where(weight > 0, weight, 1)), np.nan)
    kept = np.isfinite(intensity) & np.isfinite(two_theta)
    if not kept.all():
        notes.append(f"{(~kept).sum()} points without a value left out")
    if error is not None and not np.isfinite(error[kept]).all():
        error = None
    scan = Scan(two_theta[kept], intensity[kept], None if error is None else error[kept])
    return scan, said, notes


def _is_listed(block: gemmi.cif.Block, tag: str) -> bool:
    """Whether a block lists values of this tag; a single one is a placeholder."""
    return len(block.find_values(tag)) > 1


def _values(texts: list[str], tag: str, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Numbers and the uncertainties in brackets behind them; NaN for ``.`` and ``?``."""
    if len(texts) > _MOST_POINTS:
        raise PatternError(f"{name}: expected one scan, but {tag} holds {len(texts)} values")
    values, errors = np.full(len(texts), np.nan), np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        if text in (".", "?"):
            continue
        found = _NUMBER.fullmatch(text.strip("'\""))
        try:
            values[i] = float(found[1].replace("d", "e").replace("D", "e"))
        except (TypeError, ValueError):
            raise PatternError(
                f"{name}: {tag} must hold numbers, but value {i + 1} is {text[:40]!r}"
            ) from None
        if found[3] and "e" not in found[1].lower():
            errors[i] = float(found[3]) * 10.0 ** -len(found[2])
    return values, None if np.isnan(errors).all() else errors


def _angles(
    block: gemmi.cif.Block, number: int, wavelength: float, name: str, notes: list[str]
) -> np.ndarray | None:
    """float64 ``[number]`` degrees, from a loop, a range, or d-spacings, whichever fits."""
    for tag in _ANGLES:
        if len(column := block.find_values(tag)) == number:
            return _values(list(column), tag, name)[0]
    for kind in ("meas", "proc"):
        ends = [block.find_value(f"_pd_{kind}_2theta_range_{end}") for end in ("min", "max", "inc")]
        if all(ends):
            low, high, step = (_values([end], "_pd_2theta_range", name)[0][0] for end in ends)
            if abs(low + (number - 1) * step - high) < max(abs(step) / 2, 1e-3):
                return np.linspace(low, high, number)
    column = block.find_values("_pd_proc_d_spacing")
    if len(column) != number:
        return None
    d = _values(list(column), "_pd_proc_d_spacing", name)[0]
    notes.append(f"axis in d converted to 2theta at {wavelength:.6g} A")
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * np.degrees(np.arcsin(wavelength / (2 * d)))


def _radiation(block: gemmi.cif.Block, document: gemmi.cif.Document, name: str) -> Radiation:
    """What the block, or else any other, says of the X-rays."""
    for place in (block, *document):
        for tag in ("_diffrn_radiation_wavelength", "_pd_proc_wavelength",
                    "_diffrn_radiation_wavelength.value"):  # fmt: skip
            column = [text for text in place.find_values(tag) if text not in (".", "?")]
            if not column:
                continue
            lengths = _values(column, tag, name)[0]
            if len(lengths) == 1:
                return Radiation(used=float(lengths[0]))
            weights = list(place.find_values("_diffrn_radiation_wavelength_wt"))
            ratio = None
            if len(weights) == len(lengths) and tag == "_diffrn_radiation_wavelength":
                first, second = _values(weights[:2], "_diffrn_radiation_wavelength_wt", name)[0]
                ratio = float(second / first) if first > 0 <= second else None
            return Radiation(None, float(lengths[0]), float(lengths[1]), ratio)
    for place in (block, *document):
        for tag in ("_diffrn_radiation_type", "_diffrn_source_target", "_diffrn_radiation_source"):
            text = place.find_value(tag)
            if text and (anode := anode_of(text)):
                return Radiation(anode=anode)
    return Radiation()

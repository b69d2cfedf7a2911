"""What a file says of its X-rays in, the wavelength of the pattern and who said so out."""

import re
from dataclasses import dataclass

from unimat_lib.views.grid import CU_K_ALPHA
from unimat_powder.pattern import PatternError, check_wavelength

K_ALPHA = {
    "Cr": (2.289760, 2.293663), "Mn": (2.101820, 2.105780), "Fe": (1.936042, 1.939980),
    "Co": (1.788996, 1.792850), "Ni": (1.657910, 1.661747), "Cu": (1.540598, 1.544426),
    "Zn": (1.435155, 1.439000), "Ga": (1.340127, 1.343990), "Mo": (0.709317, 0.713607),
    "Rh": (0.613279, 0.617630), "Pd": (0.585464, 0.589821), "Ag": (0.559421, 0.563813),
    "In": (0.512113, 0.516546), "W": (0.209010, 0.213828),
}  # fmt: skip
"""K-alpha 1 and 2 of the elements that anodes are made of, angstrom.

Source: Hoelzer et al., Phys. Rev. A 56, 4554 (1997), for Cr to Cu; Deslattes et al., Rev. Mod.
    Phys. 75, 35 (2003).
"""

K_BETA = {
    "Cr": 2.084870, "Fe": 1.756605, "Co": 1.620826, "Ni": 1.500152, "Cu": 1.392234, "Mo": 0.632303,
    "Ag": 0.497082, "Ga": 1.207930,
}  # fmt: skip
_SAME = 1e-3  # of a wavelength; K-alpha 1 and the mean of the doublet differ by 0.8e-3


@dataclass(frozen=True)
class Radiation:
    """What a file says of its X-rays; ``None`` where it is silent.

    Attributes:
        used: The wavelength that the file itself calculates with, angstrom.
        alpha_1, alpha_2: K-alpha 1 and K-alpha 2, angstrom.
        ratio: Intensity of K-alpha 2 over that of K-alpha 1; zero: there is none.
        anode: Element symbol.
        monochromatic: Whether optics leave K-alpha 1 alone.
    """

    used: float | None = None
    alpha_1: float | None = None
    alpha_2: float | None = None
    ratio: float | None = None
    anode: str | None = None
    monochromatic: bool | None = None


def settle_wavelength(
    said: Radiation, argument: float | None, *, name: str
) -> tuple[float, str, bool | None, tuple[str, ...]]:
    """Wavelength in angstrom, where it comes from, whether K-alpha 2 is in it, and notes.

    A caller's wavelength wins. Otherwise a doublet counts with its weighted mean (2 to 1 where the
    ratio is not stated), and K-alpha 1 counts alone only where the file says that it is alone: a
    ratio of zero, a monochromator, or K-alpha 1 as the wavelength that the file calculates with.

    Args:
        said: What the file says.
        argument: What the caller says, angstrom.
        name: What to call the file in errors.

    Raises:
        PatternError: What is stated cannot be a wavelength in angstrom.
    """
    stated, second = _stated(said)
    if argument is not None:
        check_wavelength(argument)
        if stated is None or abs(argument / max(stated, 1e-9) - 1) <= _SAME:
            return argument, "argument", second, ()
        note = f"the given wavelength {argument:g} A is used, not the {stated:.6g} A of the file"
        return argument, "argument", None, (note,)
    if stated is None:
        return CU_K_ALPHA, "default", None, ()
    if not 0.01 <= stated <= 100:
        raise PatternError(
            f"{name}: expected a wavelength of 0.01 to 100 angstrom, but the file states "
            f"{stated:g}; give the right one as wavelength"
        )
    if _is_laboratory(stated):
        return stated, "file", second, ()
    note = (
        f"the wavelength {stated:.6g} A of the file is no K line of a usual X-ray tube: "
        "synchrotron radiation, or neutrons, whose intensities X-ray structures do not explain"
    )
    return stated, "file", second, (note,)


def _stated(said: Radiation) -> tuple[float | None, bool | None]:
    """The wavelength that the file states, and whether K-alpha 2 is in the beam."""
    alone = True if said.ratio == 0 else said.monochromatic
    second = None if alone is None else not alone
    if said.used is not None:
        return said.used, second
    first, other = K_ALPHA.get(said.anode or "", (None, None))
    if said.alpha_1 is not None:  # the file's own numbers before those of the table
        first, other = said.alpha_1, said.alpha_2
    if first is None or other is None or alone:
        return first, second
    if second is None and said.ratio is not None:
        second = True
    weight = 0.5 if said.ratio is None else said.ratio
    return (first + weight * other) / (1 + weight), second


def _is_laboratory(wavelength: float) -> bool:
    """Whether this is K-alpha 1, 2, their mean or K-beta of an anode, within 0.1 %."""
    lines = [line for pair in K_ALPHA.values() for line in (*pair, (2 * pair[0] + pair[1]) / 3)]
    return any(abs(wavelength / line - 1) <= _SAME for line in (*lines, *K_BETA.values()))


def anode_of(text: str) -> str | None:
    """Element symbol of the anode that a text names, such as ``Cu`` in ``"CuKa1"``."""
    symbols = "|".join(K_ALPHA)
    found = re.search(rf"(?<![A-Za-z])({symbols})(?![a-z])", text)
    return found and found[1]

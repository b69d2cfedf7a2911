"""A pattern and its wavelength in; the part that crystals can make, and doubt of the tube out."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from unimat_powder.answer import SearchResult
from unimat_powder.library.file import Library
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.radiation import K_ALPHA
from unimat_powder.search.candidates import most_alike, with_elements

SMALLEST, LARGEST = 0.5, 25.0
"""Distances of lattice planes that a search compares, angstrom."""

TUBES = ("Co", "Fe", "Cr", "Mo")
"""Anodes of laboratory tubes beside copper's."""

ALIKE = 0.75
"""Score of a crystal below which it explains nothing by whatever tube, see :class:`.Match`."""


def within_reach(pattern: Pattern) -> Pattern:
    """The part of a pattern that lattice planes of crystals can make: d of 0.5 to 25 angstrom.

    Raises:
        PatternError: There is no such part.
    """
    sine = np.sin(np.radians(pattern.two_theta.numpy() / 2))
    d = pattern.wavelength / np.maximum(2 * sine, 1e-12)
    inside = d >= SMALLEST
    if d.min() > LARGEST or inside.sum() < 2:
        raise PatternError(
            f"the pattern reaches from d = {d.max():.3g} to {d.min():.3g} angstrom, where no "
            f"crystal has lines to compare; check the wavelength ({pattern.wavelength:g} "
            "angstrom) and that the axis is 2theta in degrees"
        )
    if inside.all():
        return pattern
    uncertainty = pattern.uncertainty
    return replace(
        pattern,
        two_theta=pattern.two_theta[inside],
        intensity=pattern.intensity[inside],
        uncertainty=None if uncertainty is None else uncertainty[inside],
        notes=(*pattern.notes, f"points beyond d = {SMALLEST:g} angstrom were left out"),
    )


def with_other_tubes(
    result: SearchResult,
    pattern: Pattern,
    library: Library,
    *,
    elements: Collection[str] | None = None,
) -> SearchResult:
    """Doubt an answer if a crystal explains the pattern as well by the wavelength of another tube.

    A wrong wavelength stretches every cell by one factor, and the lines fit as before. What tells
    is which stretched cells crystals have, and their intensities. Of 36 confident answers to
    measured patterns none is doubted so; of 16 to patterns of other tubes, simulated, 14 are.

    Args:
        result: The answer by the pattern's own wavelength.
        pattern: The measurement, whose wavelength nobody named.
        library: The known crystals.
        elements: Symbols that the crystal consists of, where they are known.
    """
    among = None if elements is None else with_elements(library, elements)
    if not result.lattices or (among is not None and not len(among)):
        return result
    own, _ = most_alike(pattern, library, among)
    tried = []
    for anode in TUBES:
        first, second = K_ALPHA[anode]
        try:
            other = within_reach(replace(pattern, wavelength=(2 * first + second) / 3))
            tried.append((*most_alike(other, library, among), anode))
        except PatternError:  # nothing is left of it by that wavelength
            continue
    score, formula, anode = max(tried, default=(0.0, "", ""))
    if score < max(own, ALIKE):
        return result
    warning = (
        f"the wavelength is assumed, and by that of a {anode} tube {formula} explains the pattern "
        f"{'better' if score > own else 'as well'} ({100 * score:.0f} % alike, else "
        f"{100 * own:.0f} %): give --wavelength"
    )
    doubt = f"nobody said the wavelength, and by that of a {anode} tube {formula} fits as well"
    return replace(result, warnings=(*result.warnings, warning), doubts=(*result.doubts, doubt))

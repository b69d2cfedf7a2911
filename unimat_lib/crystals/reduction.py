"""One crystal in, its Niggli-reduced primitive cell and space group out.

A lattice has infinitely many cells. Lengths and angles are only comparable between crystals when
everybody picks the same one, so each crystal is reduced before it enters a table.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from unimat_lib.crystals.table import CrystalError

#: Positions closer than this (angstrom) are equal to spglib; the Materials Project's value.
SYMPREC = 0.1
#: Atoms closer than this (angstrom) cannot be two; the shortest bond, in H2, has 0.74.
MIN_DISTANCE = 0.5
#: No crystal has a cell flatter than this (angstrom, between opposite faces).
MIN_PLANE_SPACING = 1.0

# Rounding (in angstrom and in fractions of a cell) removes the last bits, which differ between
# machines: content hashes stay equal, special positions stay exact, and the file compresses.
_DECIMALS = 10


class ReducedCrystal(NamedTuple):
    """A crystal in its Niggli-reduced primitive cell."""

    lattice: np.ndarray  # [3, 3] float64, rows a, b, c in angstrom, right-handed
    frac_coords: np.ndarray  # [n, 3] float64 in [0, 1)
    atomic_numbers: np.ndarray  # [n] int64
    space_group: int  # by spglib, with the symprec given
    was_primitive: bool


def reduce_crystal(
    lattice: np.ndarray,
    frac_coords: np.ndarray,
    atomic_numbers: np.ndarray,
    *,
    symprec: float = SYMPREC,
) -> ReducedCrystal:
    """Space group and Niggli-reduced primitive cell of one crystal.

    Cells that spglib finds primitive keep their atoms; the others lose the atoms that a lattice
    translation repeats, each remaining one at the mean of its copies.

    Args:
        lattice: ``[3, 3]`` rows a, b, c in angstrom, either handedness.
        frac_coords: ``[n, 3]``.
        atomic_numbers: ``[n]`` integers.
        symprec: Tolerance of the symmetry search in angstrom.

    Raises:
        CrystalError: The cell is empty, flat or not finite, an atomic number is unknown, two atoms
            coincide, or spglib gives up.
    """
    lattice = np.array(lattice, dtype=np.float64)
    frac = np.array(frac_coords, dtype=np.float64).reshape(-1, 3)
    numbers = np.array(atomic_numbers, dtype=np.int64).reshape(-1)
    _check_crystal(lattice, frac, numbers)

    dataset = _symmetry_dataset(lattice, frac, numbers, symprec)
    was_primitive = int(max(dataset.mapping_to_primitive)) + 1 == len(numbers)
    if not was_primitive:
        lattice, frac, numbers = _primitive(lattice, frac, numbers, dataset)

    reduced = niggli_cell(lattice)
    # The atoms stay where they are; only the cell around them changes.
    frac = frac @ (lattice @ np.linalg.inv(reduced))
    _check_distances(reduced, frac)
    cell = np.round(reduced, _DECIMALS), wrap_into_cell(frac), numbers
    return ReducedCrystal(*cell, int(dataset.number), was_primitive)


def wrap_into_cell(frac: np.ndarray) -> np.ndarray:
    """Coordinates moved into [0, 1), rounded; 1 - 1e-12 becomes 0, not 1."""
    frac = np.round(frac, _DECIMALS)
    frac = np.round(frac - np.floor(frac), _DECIMALS)
    return np.where(frac >= 1.0, 0.0, frac) + 0.0  # + 0.0 turns -0.0 into 0.0


def _check_crystal(lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray) -> None:
    unknown = sorted(set(numbers[(numbers < 1) | (numbers > 118)].tolist()))
    for wrong, reason in (
        (lattice.shape != (3, 3), f"the cell must be three vectors, but has shape {lattice.shape}"),
        (len(numbers) == 0, "the cell holds no atoms"),
        (len(frac) != len(numbers), f"{len(numbers)} atoms but {len(frac)} positions"),
        (not np.isfinite(lattice).all(), "the cell is not finite"),
        (not np.isfinite(frac).all(), "an atom has no finite position"),
        (unknown, f"unknown element: atomic numbers 1 to 118 expected, but {unknown} came"),
    ):
        if wrong:
            raise CrystalError(reason)
    volume = np.linalg.det(lattice)
    if np.abs(lattice).max() > 1e4 or abs(volume) < 1e-3:
        raise CrystalError(f"the cell encloses no usable volume: {volume:.3g} cubic angstrom")


def _check_distances(lattice: np.ndarray, frac: np.ndarray) -> None:
    """Refuse flat cells and atoms that coincide. ``lattice`` is reduced."""
    spacing = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0).max()
    if spacing < MIN_PLANE_SPACING:
        expected = f"angstrom between opposite faces, at least {MIN_PLANE_SPACING} expected"
        raise CrystalError(f"the cell is flat: {spacing:.3g} {expected}")
    # Rounding a difference to the nearest cell finds the nearest image of any pair closer than half
    # a plane spacing, and MIN_DISTANCE is at most that.
    for start in range(0, len(frac), 512):
        difference = frac[start : start + 512, None] - frac[None]
        difference -= np.round(difference)
        distance = np.linalg.norm(difference @ lattice, axis=-1)
        np.fill_diagonal(distance[:, start:], np.inf)
        if distance.min() < MIN_DISTANCE:
            first, second = np.unravel_index(distance.argmin(), distance.shape)
            raise CrystalError(
                f"two atoms at one site: {distance.min():.3f} angstrom between atoms "
                f"{start + first} and {second}, at least {MIN_DISTANCE} expected"
            )


def _symmetry_dataset(
    lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, symprec: float
) -> Any:
    import spglib

    # spglib narrates its retries on standard error; what counts comes back in the result.
    os.environ.setdefault("SPGLIB_WARNING", "OFF")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        try:
            found = spglib.get_symmetry_dataset((lattice, frac, numbers), symprec=symprec)
        except Exception:  # spglib's own exception class has moved between its versions
            found = None
    if found is None:
        raise CrystalError(f"spglib finds no symmetry within {symprec} angstrom")
    return found


def _primitive(
    lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, dataset: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The primitive cell that spglib found, oriented and strained as the given cell is."""
    primitive = np.asarray(dataset.primitive_lattice, dtype=np.float64)
    mapping = np.asarray(dataset.mapping_to_primitive)
    classes, first = np.unique(mapping, return_index=True)
    if len(classes) * round(abs(np.linalg.det(lattice) / np.linalg.det(primitive))) != len(numbers):
        raise CrystalError("spglib's primitive cell does not match its number of atoms")
    coords = frac @ (lattice @ np.linalg.inv(primitive))  # [n, 3]
    shift = coords - coords[first[np.searchsorted(classes, mapping)]]
    shift -= np.round(shift)
    mean = np.stack([shift[mapping == c].mean(0) for c in classes])
    return primitive, coords[first] + mean, numbers[first]


def niggli_cell(lattice: np.ndarray) -> np.ndarray:
    """Right-handed Niggli cell ``[3, 3]``, rows in angstrom; ``CrystalError`` if none is found."""
    import spglib

    # The tolerance, an area, decides ties between cells that are equally short. Close to a tie the
    # reduction can go round in circles; with another tolerance it ends.
    scale = abs(np.linalg.det(lattice)) ** (1 / 3)
    for tolerance in (1e-5, 1e-6, 1e-4):
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            try:
                reduced = spglib.niggli_reduce(lattice, eps=tolerance * scale)
            except Exception:  # newer versions raise where older ones return None
                continue
        if reduced is not None and np.isfinite(reduced).all():
            return -reduced if np.linalg.det(reduced) < 0 else reduced
    raise CrystalError("the Niggli reduction does not converge; the cell is too skewed")


def reduced_formula(atomic_numbers: np.ndarray) -> str:
    """Reduced formula in pymatgen's order, for example ``TiO2``; diatomic gases come as ``O2``."""
    from pymatgen.core import Composition, Element

    counts = Counter(np.asarray(atomic_numbers).tolist())
    # Noble gases have no electronegativity to sort by; no harm.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return Composition({Element.from_Z(z): counts[z] for z in sorted(counts)}).reduced_formula

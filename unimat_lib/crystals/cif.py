"""The text of a CIF in, all atoms of its cell out."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from unimat_lib.crystals.table import CrystalError

MAX_CHARACTERS = 20_000_000
MAX_BLOCKS = 1000
#: Four times the most that a space group has in its own cell, for files that list a larger cell.
MAX_OPERATIONS = 192 * 8
MAX_ATOMS = 5000  #: In the whole cell; beyond it the symmetry search takes minutes


def read_cif(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All atoms of the cell that the text of a CIF describes.

    Symmetry operations are those the file lists, else those of its space group; a file that says
    nothing about symmetry is read as it stands. Deuterium and tritium count as hydrogen, which
    scatters X-rays alike. An occupancy given as unknown counts as full.

    Returns:
        Lattice ``[3, 3]`` (rows a, b, c in angstrom), fractional coordinates ``[n, 3]`` and atomic
        numbers ``[n]``.

    Raises:
        CrystalError: The text is no CIF with exactly one crystal, a site is partially occupied, an
            element is unknown, the symmetry is not understood, or there is too much of something.
    """
    import gemmi

    if len(text) > MAX_CHARACTERS:
        raise CrystalError(f"the CIF has more than {MAX_CHARACTERS:,} characters")
    if len(re.findall(r"(?i)\bdata_", text)) > MAX_BLOCKS:  # gemmi compares each with each
        raise CrystalError(f"the CIF has more than {MAX_BLOCKS:,} blocks")
    try:
        document = gemmi.cif.read_string(text)
        blocks = [block for block in document if block.find_loop("_atom_site_fract_x")]
        if len(blocks) != 1:
            raise CrystalError(f"one crystal expected, but the CIF has {len(blocks)} site lists")
        small = gemmi.make_small_structure_from_block(blocks[0])
        if len(small.sites) > MAX_ATOMS:
            raise CrystalError(f"{len(small.sites):,} sites, at most {MAX_ATOMS:,} expected")
        found = small.sites
        sites = [(s.label[:40], s.element.atomic_number, s.fract.tolist(), s.occ) for s in found]
        operations = _operations(small)
        lattice = np.array(small.cell.orth.mat.tolist()).T
    except CrystalError:
        raise
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        raise CrystalError(f"unreadable CIF: {' '.join(str(error).split())[:200]}") from None
    if not small.cell.is_crystal():
        raise CrystalError("the CIF gives no cell")
    for label, number, fract, occupancy in sites:
        if not 1 <= number <= 118:
            raise CrystalError(f"unknown element at site {label!r}")
        if not abs(occupancy - 1) < 1e-3:  # this way round it also catches NaN
            raise CrystalError(f"disordered: site {label!r} has occupancy {occupancy:g}")
        if not np.isfinite(fract).all():
            raise CrystalError(f"site {label!r} has no finite position")
    if len(sites) * len(operations) > 20 * MAX_ATOMS:
        raise CrystalError(f"{len(sites):,} sites with {len(operations):,} operations: too many")
    numbers = np.array([number for _, number, _, _ in sites], dtype=np.int64)
    frac = np.array([fract for _, _, fract, _ in sites], dtype=np.float64).reshape(-1, 3)
    if len(operations) > 1:
        frac, numbers = _expand(lattice, frac, numbers, operations)
    return lattice, frac, numbers


def _operations(small: Any) -> list[Any]:
    """Symmetry operations that a gemmi small structure names."""
    import gemmi

    if (found := len(small.symops)) > MAX_OPERATIONS:
        raise CrystalError(f"{found:,} symmetry operations, at most {MAX_OPERATIONS:,} expected")
    if small.symops:
        return [gemmi.Op(text) for text in small.symops]
    number = small.spacegroup_number
    group = small.spacegroup or (gemmi.find_spacegroup_by_number(number) if number else None)
    named = small.spacegroup_hm or small.spacegroup_hall or number
    if group is None and named:
        raise CrystalError(f"symmetry not understood: space group {str(named)[:40]!r}")
    return list(group.operations()) if group else [gemmi.Op("x,y,z")]


def _expand(
    lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, operations: list[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Every site with its images; images of one site within 0.1 angstrom are one atom."""
    all_frac, all_numbers = [], []
    rotations = np.stack([np.array(op.rot) / op.DEN for op in operations])  # [S, 3, 3]
    translations = np.stack([np.array(op.tran) / op.DEN for op in operations])  # [S, 3]
    for position, number in zip(frac, numbers, strict=True):
        images = rotations @ position + translations  # [S, 3]
        kept: list[np.ndarray] = []
        for image in images - np.floor(images):
            shift = np.array(kept).reshape(-1, 3) - image
            shift -= np.round(shift)
            if not (np.linalg.norm(shift @ lattice, axis=1) < 0.1).any():
                kept.append(image)
        all_frac += kept
        all_numbers += [number] * len(kept)
        if len(all_frac) > MAX_ATOMS:
            raise CrystalError(f"symmetry makes more than {MAX_ATOMS:,} atoms of the sites")
    return np.array(all_frac), np.array(all_numbers, dtype=np.int64)

"""The text of a CIF in, all atoms of its cell out, unless the file contradicts itself."""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction
from typing import Any

import gemmi
import numpy as np

from unimat_lib.crystals.structures import reduce_sites
from unimat_lib.crystals.table import CrystalError

MAX_CHARACTERS = 20_000_000
MAX_BLOCKS = 1000
MAX_OPERATIONS = 192 * 8  #: Eight times the most of a point group, for files of a larger cell
MAX_ATOMS = 5000  #: In the whole cell; beyond it the symmetry search takes minutes
MIN_VOLUME = 3.0  #: Cubic angstrom per atom; diamond has 5.7, dense hydrides have 4.4
_ROUNDING = 0.03  # relative, of the amounts of a formula, of occupancies and metrics
# DDLm and magnetic tags write a dot where others have an underscore.
_DOTTED = re.compile(r"(?i)(?<!\S)(_(?:cell|atom_site|chemical_|space_group|symmetry)[a-z_]*)\.")
_MODULATED = re.compile(r"(?im)^\s*_\S*(?:ssg_operation|cell_wave_vector)")
_SYMMETRY = re.compile(r"(?im)^\s*_(?:space_group|symmetry)_(?:symop|magn|equiv|ssg)")
_MAGNETIC = ("_space_group_symop_magn_operation_xyz", "_space_group_symop_magn_centering_xyz")
_TYPE = re.compile(r"([A-Za-z]{1,2})(?:\d*\.?\d*[+-]|[+-]?\d*)")
_MIXED = re.compile(r"(\d*\.\d+) *([A-Z][a-z]?)")
_TERM = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)(?:\(\d+\))?")


def read_cif(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first three of :func:`read_sites`; a partly occupied site is a ``CrystalError``, too."""
    lattice, frac, numbers, occupancy = read_sites(text)
    if occupancy is not None:
        raise CrystalError(f"disordered: a site has occupancy {occupancy.min():g}")
    return lattice, frac, numbers


def read_sites(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """All atoms of the cell of a CIF, or a ``CrystalError`` that says what is wrong with its text.

    Lattice ``[3, 3]`` (rows a, b, c in angstrom), fractional coordinates ``[n, 3]``, atomic numbers
    and occupancies ``[n]``, ``None`` where all are 1. A file without symmetry operations and group
    is read as it stands. Deuterium is hydrogen; occupancies unknown even to the formula are 1.
    """
    if len(text) > MAX_CHARACTERS:
        raise CrystalError(f"the CIF has more than {MAX_CHARACTERS:,} characters")
    if len(re.findall(r"(?i)\bdata_", text)) > MAX_BLOCKS:  # gemmi compares each with each
        raise CrystalError(f"the CIF has more than {MAX_BLOCKS:,} blocks")
    try:
        document = gemmi.cif.read_string(_DOTTED.sub(r"\1_", text))
        blocks = [block for block in document if block.find_loop("_atom_site_fract_x")]
        if len(blocks) != 1:
            raise CrystalError(f"one crystal expected, but {len(blocks)} site lists (fract_x) came")
        places = blocks[0].find("_atom_site_fract_", ["x", "y", "z"])
        if not 0 < (found := len(places)) <= MAX_ATOMS:
            raise CrystalError(f"{found:,} sites, at most {MAX_ATOMS:,} with x, y and z expected")
        for row, i in itertools.product(places, range(3)):
            if "/" in row[i]:
                row[i] = f"{float(Fraction(gemmi.cif.as_string(row[i]))):.10f}"
        small = gemmi.make_small_structure_from_block(blocks[0])
        formula, units = _formula(blocks[0])
        frac, numbers, share = _sites(blocks[0], small, formula)
        operations, stated = _operations(text, blocks[0], small)
    except CrystalError:
        raise
    except (ValueError, RuntimeError, IndexError, TypeError, ArithmeticError) as error:
        raise CrystalError(f"unreadable CIF: {' '.join(str(error).split())[:200]}") from None
    if not (small.cell.is_crystal() and small.cell.volume > MIN_VOLUME):
        raise CrystalError("the CIF gives no cell with a volume")
    if len(frac) * len(operations) > 20 * MAX_ATOMS:
        raise CrystalError(f"{len(frac):,} sites with {len(operations):,} operations: too many")
    lattice = np.array(small.cell.orth.mat.tolist()).T
    vacant = [z for z, n in formula.items() if n % 1 and share[numbers == z].tolist() == [1.0]]
    if len(operations) > 1:
        site, frac = _expand(lattice, frac, np.stack([numbers, share], axis=1), operations)
        numbers, share = numbers[site], share[site]
    for z in vacant:  # Fe0.9 O says that its only iron site is not full
        share[numbers == z] = min(1.0, units * formula[z] / (numbers == z).sum())  # 1 without Z
    if (volume := abs(np.linalg.det(lattice)) / share.sum()) < MIN_VOLUME:
        raise CrystalError(f"impossibly dense: {volume:.2g} cubic angstrom per atom")
    if formula:
        _check_formula({z: share[numbers == z].sum() for z in set(numbers)}, formula, units)
    if stated > 1 == len(operations):
        found = reduce_sites(lattice, frac, numbers, share)[0].space_group
        if found < stated:
            raise CrystalError(f"the file states group {stated}, but its sites have {found}")
    return lattice, frac, numbers, None if (share == 1).all() else share


def _formula(block: Any) -> tuple[dict[int, float], float]:
    """Amounts by atomic number and formula units per cell; none and NaN where they are unknown."""
    text = gemmi.cif.as_string(block.find_value("_chemical_formula_sum") or "?")
    terms = [(gemmi.Element(x).atomic_number, float(n or 1)) for x, n in _TERM.findall(text)]
    amounts = {z: sum(n for other, n in terms if other == z) for z, _ in terms}
    units = gemmi.cif.as_number(block.find_value("_cell_formula_units_Z") or "?")
    understood = not _TERM.sub("", text).strip() and 0 not in amounts and all(amounts.values())
    return amounts if understood else {}, units if units > 0 else math.nan


def _sites(block: Any, small: Any, formula: dict[int, float]) -> tuple[np.ndarray, ...]:
    """Fractional coordinates, atomic number and occupancy of each species of each site."""
    sites, typed = {}, bool(block.find_loop("_atom_site_type_symbol"))
    for site in small.sites:
        fract, where = site.fract.tolist(), f"site {site.label[:40]!r}"
        if not np.isfinite(fract).all():
            raise CrystalError(f"{where} has no finite position")
        for number, part in _species(site.type_symbol * typed, site.label, formula, where):
            share, key = part * site.occ, (number, *np.round(fract, 4).tolist())
            if key in sites and share < 1:  # as Fe2+ and Fe3+
                share += sites[key][2]
            elif key in sites:  # full twice: symmetry or the reduction will tell
                key = *key, len(sites)
            if not 0 < share <= 1 + _ROUNDING:  # NaN neither
                raise CrystalError(f"{where} has occupancy {share:g}, above 0 to 1 expected")
            sites[key] = fract, number, share if share < 1 - 1e-3 else 1.0
    frac, numbers, shares = zip(*sites.values(), strict=True)
    return np.array(frac), np.array(numbers, dtype=np.int64), np.array(shares)


def _species(kind: str, label: str, formula: dict, where: str) -> list[tuple[int, float]]:
    """Atomic numbers at a site and their shares, by its type symbol, else by label and formula."""
    if (mixed := _MIXED.findall(kind)) and not _MIXED.sub("", kind).strip(" +"):
        return [(gemmi.Element(name).atomic_number, float(share)) for share, name in mixed]
    names = [match[1]] if (match := _TYPE.fullmatch(kind)) else []
    if kind in ("", "?", "."):
        letters = re.match(r"[A-Za-z]{0,2}", label)[0]
        names = [n for n in dict.fromkeys((letters, letters[:1])) if gemmi.Element(n).atomic_number]
        names = [n for n in names if gemmi.Element(n).atomic_number in formula] or names
        if len(names) > 1 and letters[1].isupper():
            raise CrystalError(f"{where} may be {' or '.join(names)}: add _atom_site_type_symbol")
    if not names or not (number := gemmi.Element(names[0]).atomic_number):
        raise CrystalError(f"unknown element at {where}: {kind[:20]!r} is none, perhaps a group")
    return [(number, 1.0)]


def _operations(text: str, block: Any, small: Any) -> tuple[list[Any], int]:
    """Symmetry operations of a file, and the space group that it states beside them, or 1."""
    if _MODULATED.search(text):
        raise CrystalError("modulated: give the average structure with operations of three axes")
    magnetic, shifts = ([*block.find_values(tag)] for tag in _MAGNETIC)
    if (found := max(len(small.symops), len(magnetic) * max(len(shifts), 1))) > MAX_OPERATIONS:
        raise CrystalError(f"{found:,} symmetry operations, at most {MAX_OPERATIONS:,} expected")
    if magnetic:  # each ends with the time reversal
        every = itertools.product(magnetic, shifts or ["x,y,z"])
        pairs = ([gemmi.cif.as_string(x).split(",")[:3] for x in pair] for pair in every)
        return [gemmi.Op(",".join(a)) * gemmi.Op(",".join(b)) for a, b in pairs], 1
    named, number = small.spacegroup_hm or small.spacegroup_hall, small.spacegroup_number
    names = [re.sub(r"[_()]| [SZ]$", "", named)]  # ICSD adds S and Z for origin choice 1 and 2
    names += [each.hm for each in gemmi.spacegroup_table() if each.number == number][:1]
    setting = small.cell.alpha, small.cell.gamma, "1" if named.endswith(" S") else "2"
    group = next(filter(None, (gemmi.find_spacegroup_by_name(x, *setting) for x in names)), None)
    group = group or small.spacegroup
    if group is None and (named or number or (not small.symops and _SYMMETRY.search(text))):
        raise CrystalError(f"symmetry not understood: space group {str(named or number)[:40]!r}")
    if number and group.number != number:
        raise CrystalError(f"the file names group {group.hm!r}, which is not number {number}")
    if not small.symops:
        return list(group.operations()) if group else [gemmi.Op()], 1
    listed = [gemmi.Op(each) for each in small.symops]
    known = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(listed)) if len(listed) > 1 else None
    if group and known and known.number != group.number:
        raise CrystalError(f"the file states group {group.number}, but lists {known.number}")
    return listed, group.number if group else 1


def _check_formula(found: dict[int, float], stated: dict[int, float], units: float) -> None:
    """Refuse sites that do not make up the formula that the file states."""
    names = {z: gemmi.Element(z).name for z in (*stated, *found)}
    here, there = (" ".join(f"{names[z]}{n:.4g}" for z, n in x.items()) for x in (found, stated))
    if lacking := " and ".join(names[z] for z in stated if z not in found):
        raise CrystalError(f"the sites lack {lacking} of the formula {there}: add or correct it")
    scales = [units] if units > 0 else [sum(found.values()) / sum(stated.values())]
    if all(n % units == 0 for n in stated.values()):  # pymatgen: the cell's content, and its Z
        scales.append(1.0)
    for scale in scales:
        amounts = [(n / scale, stated.get(z, 0.0)) for z, n in found.items()]
        if all(abs(n - wanted) <= max(0.02, _ROUNDING * wanted) for n, wanted in amounts):
            return
    raise CrystalError(f"the cell holds {here}, but the formula is {there}, Z {units:g}")


def _expand(lattice: Any, frac: Any, kinds: Any, operations: list[Any]) -> tuple[Any, Any]:
    """Site ``[n]`` and place ``[n, 3]`` of all images; of a kind's within 0.1 angstrom, one."""
    rotations = np.stack([np.array(op.rot) / op.DEN for op in operations])  # [S, 3, 3]
    translations = np.stack([np.array(op.tran) / op.DEN for op in operations])  # [S, 3]
    moved = lattice.T @ rotations @ np.linalg.inv(lattice.T)  # of lengths in angstrom
    if np.abs(moved.transpose(0, 2, 1) @ moved - np.eye(3)).max() > _ROUNDING:
        raise CrystalError("the symmetry does not fit the cell: an operation would distort it")

    def near(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        shift = first[:, None] - second
        return np.linalg.norm((shift - np.round(shift)) @ lattice, axis=2) < 0.1

    sites, places = np.zeros(0, dtype=np.int64), np.zeros((0, 3))
    for site, position in enumerate(frac):
        images = rotations @ position + translations  # [S, 3]
        images -= np.floor(images)
        same = places[(kinds[sites] == kinds[site]).all(1)]
        new = ~np.tril(near(images, images), -1).any(1) & ~near(images, same).any(1)
        sites = np.concatenate([sites, np.full(new.sum(), site)])
        places = np.concatenate([places, images[new]])
        if len(sites) > MAX_ATOMS:
            raise CrystalError(f"symmetry makes more than {MAX_ATOMS:,} atoms of the sites")
    return sites, places

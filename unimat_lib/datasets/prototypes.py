"""AFLOW's prototypes (in pymatgen) in, a data set of them and of chemical variants out.

It needs no download, which makes it the data set of the quick profile and of the tests.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unimat_lib.crystals.reduction import ReducedCrystal, reduce_crystal, reduced_formula
from unimat_lib.crystals.table import (
    SPLITS,
    CrystalError,
    CrystalTable,
    crystal_system_index,
    table_from_arrays,
)
from unimat_lib.datasets.report import SPLIT_SHARES, PreparationReport, Source, dropped_row

NUM_PROTOTYPE_CRYSTALS = 3000
MAX_PROTOTYPE_ATOMS = 20
#: Prototypes have exact coordinates; a wider tolerance would take FeS2 in P1 for cubic pyrite.
PROTOTYPE_SYMPREC = 0.01
MAX_SCATTERING_Z = 94  #: Heaviest element whose X-ray scattering parameters pymatgen tabulates

# Elements that take each other's place in the variants: groups of the periodic table without noble
# gases, hydrogen, elements that have no long-lived isotope, and Eu, Tb, Yb, to which pymatgen gives
# no electronegativity (its volume predictor needs one). Lanthanides, Th and U count to group 3.
_ROWS = """Li Na K Rb Cs, Be Mg Ca Sr Ba, Sc Y La Ce Pr Nd Sm Gd Dy Ho Er Tm Lu Th U, Ti Zr Hf,
V Nb Ta, Cr Mo W, Mn Re, Fe Ru Os, Co Rh Ir, Ni Pd Pt, Cu Ag Au, Zn Cd Hg, B Al Ga In Tl,
C Si Ge Sn Pb, N P As Sb Bi, O S Se Te, F Cl Br I"""
_GROUPS = [tuple(group.split()) for group in _ROWS.split(",")]
# Published prototypes may contain an element that no variant does; it is replaced all the same.
_ALSO_IN_GROUP = {"Np": 2, "Pu": 2, "Pa": 2, "Cf": 2, "Eu": 2, "Tb": 2, "Yb": 2, "Po": 15, "Tc": 6}
_SUBSTITUTES = {symbol: group for group in _GROUPS for symbol in group} | {
    symbol: _GROUPS[place] for symbol, place in _ALSO_IN_GROUP.items()
}


def aflow_prototypes() -> list[dict[str, Any]]:
    """The AFLOW library of crystallographic prototypes that ships inside pymatgen.

    The file is read directly: ``pymatgen.analysis.prototypes`` takes seconds to import. If this
    version keeps it elsewhere, it is a ``FileNotFoundError``. Each prototype has ``tags``
    (``pearson``, ``aflow``, ``strukturbericht``, ``mineral``), ``lattice`` ``[3, 3]`` angstrom,
    ``frac_coords`` ``[n, 3]`` and ``symbols`` (n elements).

    Source: Mehl et al., Comput. Mater. Sci. 136, S1 (2017).
    """
    spec = importlib.util.find_spec("pymatgen.analysis.prototypes")
    folders = list((spec and spec.submodule_search_locations) or [])
    files = (Path(folder) / "aflow_prototypes.json.gz" for folder in folders)
    if (found := next(filter(Path.is_file, files), None)) is None:
        raise FileNotFoundError(
            f"aflow_prototypes.json.gz was expected in pymatgen's analysis.prototypes {folders}; "
            "install the pymatgen version named in requirements.lock"
        )
    return [
        {
            "tags": entry["tags"],
            "lattice": np.array(entry["snl"]["lattice"]["matrix"]),
            "frac_coords": np.array([site["abc"] for site in entry["snl"]["sites"]]),
            "symbols": [site["species"][0]["element"] for site in entry["snl"]["sites"]],
        }
        for entry in json.loads(gzip.decompress(found.read_bytes()))
    ]


def worked_crystal() -> CrystalTable:
    """The crystal that recurs in every chapter: rutile, TiO2, from the AFLOW prototypes."""
    entry = next(e for e in aflow_prototypes() if e["tags"]["mineral"] == "Rutile")
    numbers = _atomic_numbers(entry["symbols"])
    crystal = reduce_crystal(entry["lattice"], entry["frac_coords"], numbers)
    info = {"material_id": "rutile", "formula": reduced_formula(numbers)}
    info |= {"space_group": crystal.space_group, "split": "train", "source": "aflow"}
    info["prototype"] = entry["tags"]["aflow"]
    return table_from_arrays(*([part] for part in crystal[:3]), pd.DataFrame([info]))


def _atomic_numbers(symbols: Sequence[str]) -> np.ndarray:
    from pymatgen.core import Element

    return np.array([Element(symbol).Z for symbol in symbols])


def _from_prototype(row: Mapping[str, Any]) -> ReducedCrystal:
    """A published prototype as it is, or a variant of it at the predicted volume."""
    lattice = np.asarray(row["lattice"])
    if row["info"]["source"] == "variant":
        ratio = predicted_volume_ratio(row["shortest"], row["symbols"])
        per_atom = ratio * abs(np.linalg.det(lattice)) / len(row["symbols"])
        if not 5 <= per_atom <= 100:
            raise CrystalError(f"predicted volume {per_atom:.3g} cubic angstrom per atom")
        lattice = lattice * ratio ** (1 / 3)
    return _with_group({**row, "lattice": lattice}, row["space_group"])


def _with_group(entry: Mapping[str, Any], group: int) -> ReducedCrystal:
    """The reduced crystal of an entry, which must have the space group of its prototype."""
    atoms = entry["frac_coords"], _atomic_numbers(entry["symbols"])
    crystal = reduce_crystal(entry["lattice"], *atoms, symprec=PROTOTYPE_SYMPREC)
    if crystal.space_group != group:
        raise CrystalError(f"space group {crystal.space_group} found, the prototype has {group}")
    return crystal


def shortest_distances(crystal: ReducedCrystal) -> list[tuple[int, int, float]]:
    """For each pair of elements an atom of either and their shortest distance in angstrom.

    Pairs farther apart than 6 angstrom, which never limit a volume, are left out.
    """
    from pymatgen.core import Structure

    numbers = crystal.atomic_numbers.tolist()
    structure = Structure(crystal.lattice, numbers, crystal.frac_coords)
    centre, neighbour, _, distance = structure.get_neighbor_list(6.0, exclude_self=True)
    shortest: dict[tuple[int, int], tuple[int, int, float]] = {}
    for i, j, d in zip(centre.tolist(), neighbour.tolist(), distance.tolist(), strict=True):
        pair = (numbers[i], numbers[j])
        if pair[0] <= pair[1] and (pair not in shortest or d < shortest[pair][2]):
            shortest[pair] = (i, j, d)
    return list(shortest.values())


def predicted_volume_ratio(
    shortest: Sequence[tuple[int, int, float]], symbols: Sequence[str]
) -> float:
    """Predicted over present volume of a cell, as pymatgen's ``DLSVolumePredictor`` has it.

    The cell is scaled until the tightest pair of neighbours has the bond length that data mining
    expects. Here all variants of a prototype share the distances, which is a hundred times faster.
    DLS rather than RLS: it needs no oxidation states. Its limits on the ratio are left out:
    replacing F by I rightly triples a volume.

    ``shortest`` holds pairs of atoms and their distance in angstrom, by
    :func:`shortest_distances`; none is a ``CrystalError``. ``symbols`` are the atoms' elements.

    Source: Chu et al., Comput. Mater. Sci. 146, 184 (2018).
    """
    from pymatgen.core import Element
    from pymatgen.core.structure_prediction.volume_predictor import bond_params

    spread = float(np.std([Element(symbol).X for symbol in symbols]))

    def expected(*pair: str) -> float:
        if all(symbol in bond_params for symbol in pair):
            mined = (bond_params[symbol] for symbol in pair)
            return sum(float(p["r"]) + float(p["k"]) * spread for p in mined)
        return sum(float(Element(symbol).atomic_radius) for symbol in pair)

    ratios = [d / expected(symbols[i], symbols[j]) for i, j, d in shortest]
    if not ratios:
        raise CrystalError("no neighbours within 6 angstrom, so no volume can be predicted")
    return min(ratios) ** -3


@dataclass
class _Prototype:
    """Crystals of one AFLOW label: the published ones first, then variants in a fixed order."""

    label: str
    system: int
    candidates: list[dict[str, Any]]


def prototypes_source(limit: int | None) -> Source:
    """Rows of the prototypes and their variants, about ``limit`` of them (3,000 by default)."""
    groups, dropped, notes = _prototype_groups()
    sizes = _allot_prototypes(groups, limit or NUM_PROTOTYPE_CRYSTALS)
    splits = _split_prototypes(groups, sizes)
    rows = []
    for group, size in zip(groups, sizes, strict=True):
        for candidate in group.candidates[:size]:
            name = _prototype_id(group.label, candidate["symbols"])
            row = {**candidate, "row": len(rows) + len(dropped), "material_id": name}
            rows.append(row | {"info": {**candidate["info"], "split": splits[group.label]}})
    notes["prototypes_used"] = sum(size > 0 for size in sizes)

    def describe(report: PreparationReport) -> str:
        aflow, variants = (report.counts["source"].get(s, 0) for s in ("aflow", "variant"))
        return (
            f"{aflow:,} published crystals of the AFLOW prototype library and "
            f"{variants:,} synthetic chemical variants of them at predicted volumes. "
            "The variants are made for teaching and testing; no published claim rests on them. "
            f"{notes['too_many_atoms']} published prototypes with more than {MAX_PROTOTYPE_ATOMS} "
            "atoms in the primitive cell are left out."
        )

    return Source(rows, _from_prototype, describe, dropped, notes)


def _prototype_groups() -> tuple[list[_Prototype], list[dict[str, Any]], dict[str, int]]:
    """All usable prototypes with all their possible variants, and those left out."""
    groups, dropped = {}, []
    for entry in aflow_prototypes():
        label, symbols = entry["tags"]["aflow"], entry["symbols"]
        try:
            crystal = _with_group(entry, int(label.split("_")[2]))
            if len(crystal.atomic_numbers) > MAX_PROTOTYPE_ATOMS:
                raise CrystalError(f"more than {MAX_PROTOTYPE_ATOMS} atoms in the primitive cell")
        except CrystalError as error:
            dropped.append(dropped_row(len(dropped), _prototype_id(label, symbols), str(error)))
            continue
        system = int(crystal_system_index(crystal.space_group))
        group = groups.setdefault(label, _Prototype(label, system, []))
        group.candidates += _candidates(crystal, entry["tags"])
    for group in groups.values():
        group.candidates = _ordered(group, dropped)
    too_many = sum("more than" in record["reason"] for record in dropped)
    return list(groups.values()), dropped, {"too_many_atoms": too_many}


def _candidates(crystal: ReducedCrystal, tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """The published crystal and all its variants."""
    from pymatgen.core import Element

    symbols = [Element.from_Z(int(z)).symbol for z in crystal.atomic_numbers]
    shared = {"lattice": crystal.lattice, "frac_coords": crystal.frac_coords}
    shared |= {"space_group": crystal.space_group, "shortest": shortest_distances(crystal)}
    distinct, rows = tuple(sorted(set(symbols))), []
    for choice in [distinct, *itertools.product(*(_SUBSTITUTES.get(s, (s,)) for s in distinct))]:
        if len(set(choice)) < len(distinct):
            continue  # two elements became one: another prototype
        swap = dict(zip(distinct, choice, strict=True))
        source, mineral = ("aflow", tags["mineral"]) if choice == distinct else ("variant", "")
        info = {"source": source, "prototype": tags["aflow"], "mineral": mineral}
        rows.append({**shared, "symbols": [swap[symbol] for symbol in symbols], "info": info})
    return rows


def _ordered(group: _Prototype, dropped: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One candidate per formula, published ones first, others shuffled; fills ``dropped``."""
    kept = {}
    for row in sorted(group.candidates, key=lambda row: row["info"]["source"]):  # "aflow" first
        key = " ".join(sorted(row["symbols"]))
        if key in kept:
            continue
        if _atomic_numbers(row["symbols"]).max() > MAX_SCATTERING_Z:
            reason = "an element without X-ray scattering parameters in pymatgen"
            name = _prototype_id(group.label, row["symbols"])
            dropped.append(dropped_row(len(dropped), name, reason))
            continue
        order = hashlib.sha256(f"{group.label} {key}".encode()).hexdigest()
        kept[key] = {**row, "order": (row["info"]["source"], order)}
    return sorted(kept.values(), key=lambda row: row["order"])


def _prototype_id(label: str, symbols: Sequence[str]) -> str:
    return f"{label}:{reduced_formula(_atomic_numbers(symbols))}"


def _level(available: Sequence[int], total: int) -> list[int]:
    """Shares of ``total``, as equal as ``available`` allows."""
    shares = [0] * len(available)
    left = min(total, sum(available))
    while left:
        open_ = [i for i, n in enumerate(available) if shares[i] < n]
        step = max(left // len(open_), 1)
        for i in open_[:left]:
            added = min(step, available[i] - shares[i])
            shares[i] += added
            left -= added
    return shares


def _allot_prototypes(groups: Sequence[_Prototype], total: int) -> list[int]:
    """Crystals of each prototype: crystal systems level, then prototypes within a system."""
    members = [[i for i, g in enumerate(groups) if g.system == s] for s in range(7)]
    available = [[len(groups[i].candidates) for i in group] for group in members]
    shares = _level([sum(counts) for counts in available], total)
    sizes = {}
    for group, counts, share in zip(members, available, shares, strict=True):
        sizes |= zip(group, _level(counts, share), strict=True)
    return [sizes[i] for i in range(len(groups))]


def _split_prototypes(groups: Sequence[_Prototype], sizes: Sequence[int]) -> dict[str, str]:
    """Split of each prototype: within a crystal system each goes to the split that lacks most.

    The largest prototypes go first; no split stays empty.
    """
    splits = {}
    for system in range(7):
        members = [(n, g.label) for g, n in zip(groups, sizes, strict=True) if g.system == system]
        total, filled = sum(size for size, _ in members), dict.fromkeys(SPLITS, 0)
        order = sorted(members, key=lambda m: (-m[0], hashlib.sha256(m[1].encode()).hexdigest()))
        for size, label in order:
            lacking = {name: SPLIT_SHARES[name] * total - filled[name] for name in SPLITS}
            empty = (name for name in SPLITS if not filled[name])
            splits[label] = next(empty, None) or max(lacking, key=lacking.get)
            filled[splits[label]] += size
    return splits

"""Crystals of the rock-salt type, for tests that need some of a known size."""

import pandas as pd
from pymatgen.core import Lattice, Structure

from unimat_lib.crystals.structures import from_structures


def salts(*lengths, elements=("Na", "Cl")):
    structures = [
        Structure.from_spacegroup(
            "Fm-3m", Lattice.cubic(a), list(elements), [[0, 0, 0], [0.5, 0.5, 0.5]]
        )
        for a in lengths
    ]
    return from_structures(structures, info=pd.DataFrame({"material_id": list(map(str, lengths))}))

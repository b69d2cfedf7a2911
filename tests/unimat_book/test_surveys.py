import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from unimat_book.chapters.crystals_and_splits import (
    drop_reasons,
    element_counts,
)
from unimat_book.chapters.fusion import write_simulated_scan
from unimat_book.chapters.three_views import compare_with_pymatgen, view_costs
from unimat_book.novelty import near_twins
from unimat_lib.crystals.structures import from_structures
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_lib.views.batch import MODALITIES
from unimat_lib.views.grid import Grid
from unimat_powder.reading import read_pattern


def salts(*lengths, elements=("Na", "Cl")):
    structures = [
        Structure.from_spacegroup(
            "Fm-3m", Lattice.cubic(a), list(elements), [[0, 0, 0], [0.5, 0.5, 0.5]]
        )
        for a in lengths
    ]
    return from_structures(structures, info=pd.DataFrame({"material_id": list(map(str, lengths))}))


def test_twins_need_equal_keys_and_near_lengths():
    train = salts(5.6, 6.5)
    keys = ["formula", "space_group"]
    found = near_twins(salts(5.65, 6.0, 6.45), train, keys=keys, tolerance=0.02)
    assert found.tolist() == [True, False, True]
    other = near_twins(salts(5.6, elements=("K", "Cl")), train, keys=keys, tolerance=0.02)
    assert other.tolist() == [False]


def test_simulator_agrees_with_pymatgen_where_both_merge_alike():
    result = compare_with_pymatgen(worked_crystal(), Grid())
    assert result.checked == 1 and result.merged_otherwise == 0
    assert result.angle_gap < 1e-6 and result.height_gap < 1e-6


def test_view_costs_name_every_view():
    costs = view_costs(salts(5.0, 6.0), batch_size=4, grid=Grid(10, 90, 256))
    assert tuple(costs["view"]) == MODALITIES
    assert costs["incomplete"].tolist() == [0, 0, 0]
    lonely = view_costs(salts(20.0), batch_size=1, grid=Grid(10, 90, 256))
    assert lonely["incomplete"].tolist() == [1, 0, 0]


def test_elements_are_counted_once_per_crystal():
    assert element_counts(salts(5.0, 6.0)).to_dict() == {"Na": 2, "Cl": 2}


def test_reasons_are_grouped_whatever_their_numbers():
    dropped = [
        {"row": i, "material_id": f"m{i}", "reason": f"volume {i}.5 too large"} for i in range(3)
    ]
    (row,) = drop_reasons(dropped).to_dict("records")
    assert row == {"reason": "volume N too large", "rows": 3, "examples": "m0, m1"}
    assert drop_reasons([])["rows"].tolist() == [0]


def test_a_simulated_scan_is_read_back(tmp_path):
    path = write_simulated_scan(
        worked_crystal(), tmp_path / "scan.xy", two_theta_range=(10.0, 60.0), fwhm=0.2
    )
    pattern = read_pattern(path)
    assert len(pattern.two_theta) == 2501
    assert (float(pattern.two_theta[0]), float(pattern.two_theta[-1])) == (10.0, 60.0)
    strongest = float(pattern.two_theta[pattern.intensity.argmax()])
    assert strongest == pytest.approx(27.4, abs=0.1)  # 110 of rutile
    assert 7000 < float(pattern.intensity.max()) < 9500
    assert 60 < float(pattern.intensity.median()) < 340

"""What chapter 02 asks of crystal tables: pymatgen, costs."""

from salts import salts

from unimat_book.chapters.three_views import compare_with_pymatgen, view_costs
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_lib.views.batch import MODALITIES
from unimat_lib.views.grid import Grid


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

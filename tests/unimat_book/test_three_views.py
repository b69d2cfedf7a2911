"""What chapter 02 asks of crystal tables: pymatgen, costs."""

from salts import salts

from unimat_book.chapters.three_views import compare_with_pymatgen, cube_of_two, view_costs
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


def test_two_atoms_of_a_cube_cancel_or_add():
    iron, salt = (cube_of_two(x, 3.0, 0.7) for x in (("Fe", "Fe"), ("Cs", "Cl")))
    assert (0, 0, 1) not in iron or iron[0, 0, 1] < 1e-9
    assert 0 < salt[0, 0, 1] < salt[0, 1, 1]

"""What chapter 01 asks of crystal tables."""

from salts import salts

from unimat_book.chapters.crystals_and_splits import drop_reasons, element_counts
from unimat_book.novelty import near_twins


def test_twins_need_equal_keys_and_near_lengths():
    train = salts(5.6, 6.5)
    keys = ["formula", "space_group"]
    found = near_twins(salts(5.65, 6.0, 6.45), train, keys=keys, tolerance=0.02)
    assert found.tolist() == [True, False, True]
    other = near_twins(salts(5.6, elements=("K", "Cl")), train, keys=keys, tolerance=0.02)
    assert other.tolist() == [False]


def test_elements_are_counted_once_per_crystal():
    assert element_counts(salts(5.0, 6.0)).to_dict() == {"Na": 2, "Cl": 2}


def test_reasons_are_grouped_whatever_their_numbers():
    dropped = [
        {"row": i, "material_id": f"m{i}", "reason": f"volume {i}.5 too large"} for i in range(3)
    ]
    (row,) = drop_reasons(dropped).to_dict("records")
    assert row == {"reason": "volume N too large", "rows": 3, "examples": "m0, m1"}
    assert drop_reasons([])["rows"].tolist() == [0]

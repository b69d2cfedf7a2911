"""Tables of crystals and the reduced cell."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from unimat_lib.crystals.parquet import load_table, save_table
from unimat_lib.crystals.reduction import reduce_crystal
from unimat_lib.crystals.structures import from_structures
from unimat_lib.crystals.table import (
    CRYSTAL_SYSTEMS,
    CrystalError,
    CrystalTable,
    concatenate,
    crystal_system_index,
    gather_segments,
)
from unimat_lib.datasets.preparation import load_dataset, prepare_dataset
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_lib.views.graphs import periodic_graph

RUTILE = Structure.from_spacegroup(
    136,
    Lattice.tetragonal(4.594, 2.959),
    ["Ti", "O"],
    [[0, 0, 0], [0.305, 0.305, 0]],
)
NACL = Structure.from_spacegroup(
    225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)


def test_crystal_systems_at_their_bounds():
    bounds = [1, 2, 3, 15, 16, 74, 75, 142, 143, 167, 168, 194, 195, 230]
    assert crystal_system_index(bounds).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert crystal_system_index(torch.tensor([[136]])).shape == (1, 1)
    assert CRYSTAL_SYSTEMS[int(crystal_system_index(np.int64(167)))] == "trigonal"
    for wrong in (0, 231, -1):
        with pytest.raises(ValueError, match="1 to 230"):
            crystal_system_index([1, wrong])
    with pytest.raises(ValueError, match="integers"):
        crystal_system_index([1.5])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_gather_segments_is_slicing(counts, data):
    offsets = torch.tensor([0, *np.cumsum(counts)])
    index = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=10))
    flat, new = gather_segments(offsets, torch.tensor(index, dtype=torch.int64))
    expected = [torch.arange(int(offsets[i]), int(offsets[i + 1])) for i in index]
    assert flat.tolist() == [int(x) for part in expected for x in part]
    assert new.tolist() == [0, *np.cumsum([len(part) for part in expected]).tolist()]


def test_table_properties_agree_with_pymatgen(prototype_table):
    lengths, angles, volume = (
        prototype_table.lengths,
        prototype_table.angles,
        prototype_table.volume,
    )
    for i in range(0, len(prototype_table), 11):
        lattice = prototype_table.structure(i).lattice
        np.testing.assert_allclose(lengths[i], lattice.abc, atol=1e-9)
        np.testing.assert_allclose(angles[i], lattice.angles, atol=1e-9)
        assert volume[i] == pytest.approx(lattice.volume)
    scaled = lengths[3] / int(prototype_table.num_atoms[3]) ** (1 / 3)
    torch.testing.assert_close(prototype_table.scaled_lengths[3], scaled)
    counts = torch.bincount(prototype_table.atom_crystal)
    assert counts.tolist() == prototype_table.num_atoms.tolist()


def test_select_keeps_each_crystal_whole(prototype_table):
    index = [5, 2, 2, 40]
    part = prototype_table.select(index)
    assert part.info["material_id"].tolist() == [
        prototype_table.info["material_id"][i] for i in index
    ]
    for new, old in enumerate(index):
        assert part.structure(new) == prototype_table.structure(old)
    mask = np.zeros(len(prototype_table), dtype=bool)
    mask[[2, 5]] = True
    same = prototype_table.select([2, 5])
    assert prototype_table.select(mask).content_hash() == same.content_hash()
    assert len(prototype_table.select([])) == 0
    for wrong in ([len(prototype_table)], [-1], np.ones(3, dtype=bool)):
        with pytest.raises(IndexError):
            prototype_table.select(wrong)


def test_split_refuses_unknown_and_empty(prototype_table):
    test = prototype_table.split("test")
    assert set(test.info["split"]) == {"test"}
    with pytest.raises(ValueError, match="one of"):
        prototype_table.split("dev")
    with pytest.raises(ValueError, match="no crystal in split 'val'"):
        test.split("val")


def test_parts_that_do_not_fit_are_refused(prototype_table):
    table = prototype_table
    with pytest.raises(ValueError, match="frac_coords must have shape"):
        CrystalTable(
            table.atomic_numbers, table.frac_coords[:-1], table.lattice, table.offsets, table.info
        )
    with pytest.raises(ValueError, match="lacks the columns"):
        CrystalTable(
            table.atomic_numbers,
            table.frac_coords,
            table.lattice,
            table.offsets,
            table.info.drop(columns="split"),
        )


def test_rutile_is_the_worked_crystal():
    table = worked_crystal()
    assert table.info["formula"].tolist() == ["TiO2"]
    assert table.space_group.tolist() == [136]
    assert CRYSTAL_SYSTEMS[int(table.crystal_system[0])] == "tetragonal"
    np.testing.assert_allclose(table.lengths[0], [2.9574, 4.5922, 4.5922], atol=1e-4)
    np.testing.assert_allclose(table.angles[0], [90, 90, 90])
    assert sorted(table.atomic_numbers.tolist()) == [8, 8, 8, 8, 22, 22]


# ---- reduction


def metric(lattice: np.ndarray) -> np.ndarray:
    """A, B, C, xi, eta, zeta of the Niggli form."""
    g = lattice @ lattice.T
    return np.array([g[0, 0], g[1, 1], g[2, 2], 2 * g[1, 2], 2 * g[0, 2], 2 * g[0, 1]])


def assert_niggli(lattice: np.ndarray) -> None:
    """The main conditions of a Niggli-reduced cell (International Tables A, 9.2)."""
    a, b, c, xi, eta, zeta = metric(lattice)
    eps = 2e-4 * np.linalg.det(lattice) ** (1 / 3)
    assert a <= b + eps and b <= c + eps
    assert abs(xi) <= b + eps and abs(eta) <= a + eps and abs(zeta) <= a + eps
    signs = np.sign([x if abs(x) > eps else 0 for x in (xi, eta, zeta)])
    # An angle within the tolerance of 90 degrees may belong to either type of cell.
    assert (signs >= 0).all() or (signs <= 0).all()
    assert xi + eta + zeta + a + b >= -eps


def niggli_by_pymatgen(lattice: np.ndarray) -> np.ndarray:
    return Lattice(lattice).get_niggli_reduced_lattice().matrix


def test_reduced_cells_are_niggli_and_agree_with_pymatgen(prototype_table):
    agree = checked = 0
    for lattice in prototype_table.lattice[::2].numpy():
        assert_niggli(lattice)
        assert np.linalg.det(lattice) > 0
        reference = niggli_by_pymatgen(lattice)
        assert np.linalg.det(reference) == pytest.approx(np.linalg.det(lattice))
        try:
            assert_niggli(reference)
        except AssertionError:
            continue  # pymatgen maps the reduced metric back with a tolerance of one degree
        checked += 1
        agree += np.allclose(
            Lattice(lattice).parameters, Lattice(reference).parameters, atol=1e-4, rtol=0
        )
    assert checked > 0.9 * len(prototype_table.lattice[::2])
    assert agree == checked


def test_supercells_in_any_setting_reduce_to_the_same_cell():
    expected = None
    for matrix in (
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[2, 0, 0], [0, 1, 0], [0, 0, 3]],
        [[1, 1, 0], [0, 1, 0], [3, 0, -1]],
    ):
        structure = NACL.copy()
        structure.make_supercell(matrix)
        structure.apply_operation(_rotation())
        table = from_structures([structure])
        assert table.num_atoms.tolist() == [2]
        assert table.space_group.tolist() == [225]
        values = torch.cat([table.lengths[0], table.angles[0]])
        expected = values if expected is None else expected
        torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(expected[:3], 5.64 / np.sqrt(2))
    np.testing.assert_allclose(expected[3:], 60)


def _rotation():
    from pymatgen.core import SymmOp

    return SymmOp.from_axis_angle_and_translation([1, 2, 3], 40)


def test_reduction_moves_no_atom():
    """Distances are the same before and after; a skewed left-handed cell becomes right-handed."""
    skew = np.array([[1, 0, 0], [2, 1, 0], [-1, 3, -1]])  # determinant -1
    lattice = skew @ RUTILE.lattice.matrix
    frac = RUTILE.frac_coords @ np.linalg.inv(skew)
    numbers = np.array([site.specie.Z for site in RUTILE])
    reduced, new_frac, new_numbers = reduce_crystal(lattice, frac, numbers)[:3]
    assert np.linalg.det(reduced) > 0
    assert ((new_frac >= 0) & (new_frac < 1)).all()
    after = Structure(reduced, new_numbers, new_frac).distance_matrix
    np.testing.assert_allclose(after, RUTILE.distance_matrix, atol=1e-7)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_reduction_of_random_crystals(seed):
    rng = np.random.default_rng(seed)
    lattice = np.diag(rng.uniform(4, 9, 3)) + rng.uniform(-2, 2, (3, 3))
    frac = (np.arange(3)[:, None] / 3 + rng.uniform(0, 0.05, (3, 3))) % 1
    numbers = np.array([8, 14, 26])
    crystal = reduce_crystal(lattice, frac, numbers)
    assert_niggli(crystal.lattice)
    assert abs(np.linalg.det(crystal.lattice)) == pytest.approx(abs(np.linalg.det(lattice)))
    again = reduce_crystal(crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    np.testing.assert_allclose(again.lattice, crystal.lattice, atol=1e-8)
    before = Structure(lattice, numbers, frac).distance_matrix
    after = Structure(*(crystal[i] for i in (0, 2, 1))).distance_matrix
    np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c | {"frac": c["frac"][:0], "numbers": c["numbers"][:0]}, "no atoms"),
        (lambda c: c | {"numbers": np.array([22, 119])}, "unknown element"),
        (lambda c: c | {"numbers": np.array([0, 8])}, "unknown element"),
        (lambda c: c | {"frac": np.array([[0, 0, 0], [np.nan, 0, 0]])}, "no finite position"),
        (lambda c: c | {"lattice": np.full((3, 3), np.inf)}, "not finite"),
        (lambda c: c | {"lattice": np.ones((3, 3))}, "no usable volume"),
        (lambda c: c | {"lattice": np.diag([4, 4, 0.4])}, "flat"),
        (lambda c: c | {"frac": np.array([[0, 0, 0], [0, 0, 0.99]])}, "two atoms at one site"),
        (lambda c: c | {"frac": c["frac"][:1]}, "2 atoms but 1 positions"),
    ],
)
def test_unusable_crystals_say_why(change, reason):
    good = {
        "lattice": np.diag([4.0, 4.5, 5.0]),
        "frac": np.array([[0, 0, 0], [0.5, 0.5, 0.5]]),
        "numbers": np.array([22, 8]),
    }
    reduce_crystal(good["lattice"], good["frac"], good["numbers"])
    bad = change(good)
    with pytest.raises(CrystalError, match=reason):
        reduce_crystal(bad["lattice"], bad["frac"], bad["numbers"])


MIXED = Structure.from_spacegroup(
    225,
    Lattice.cubic(5.9),
    [{"Na": 0.6, "K": 0.3}, {"Cl": 0.75, "Br": 0.25}],
    [[0, 0, 0], [0.5] * 3],
)


def test_disordered_crystals_are_reduced_with_their_occupancies():
    table = from_structures([NACL, MIXED])
    assert table.info["formula"].tolist() == ["NaCl", "K0.3Na0.6Br0.25Cl0.75"]
    assert table.space_group.tolist() == [225, 225]
    assert table.num_atoms.tolist() == [2, 4]
    shares = dict(zip(table.atomic_numbers[2:].tolist(), table.occupancy[2:].tolist(), strict=True))
    assert shares == {11: 0.6, 19: 0.3, 17: 0.75, 35: 0.25}
    assert table.occupancy[:2].tolist() == [1, 1]
    assert table.structure(1).matches(MIXED.get_primitive_structure())
    lengths = table.lengths[1] / 1.9 ** (1 / 3)
    torch.testing.assert_close(table.scaled_lengths[1], lengths)
    assert from_structures([MIXED], reduce=False).num_atoms.tolist() == [16]
    crowded = Structure(Lattice.cubic(4), [{"Na": 0.8}, {"K": 0.5}], [[0, 0, 0], [0, 0, 0.05]])
    with pytest.raises(CrystalError, match="structure 1: atoms at one site have the total occ"):
        from_structures([NACL, crowded])


def test_occupancies_go_through_all_that_tables_do(tmp_path):
    ordered, table = from_structures([NACL, RUTILE]), from_structures([RUTILE, MIXED])
    assert ordered.occupancy is None and ordered.select([1]).occupancy is None
    both = concatenate([ordered, table])
    assert both.occupancy.tolist() == [1.0] * 14 + table.occupancy[6:].tolist()
    assert concatenate([ordered, ordered]).occupancy is None
    for changed in (both, both.to("cpu"), load_table(save_table(both, tmp_path / "both.parquet"))):
        assert torch.equal(changed.select([3, 0]).occupancy[:4], table.occupancy[6:])
        assert changed.content_hash() == both.content_hash()
        assert list(changed.info) == list(ordered.info)
    full = dataclasses.replace(both, occupancy=torch.ones_like(both.occupancy))
    assert full.content_hash() != both.content_hash()
    for wrong, reason in [(torch.ones(3), r"shape \(18,\)"), (both.occupancy * 0, "above 0")]:
        with pytest.raises(ValueError, match=reason):
            dataclasses.replace(both, occupancy=wrong)
    with pytest.raises(ValueError, match="crystal 3 has partly occupied sites"):
        periodic_graph(both, cutoff=4.0)
    assert len(periodic_graph(full, cutoff=4.0)) == 4


def test_a_folder_may_hold_disordered_crystals(tmp_path):
    (tmp_path / "cifs").mkdir()
    for name, structure in {"a": NACL, "b": MIXED}.items():
        structure.to(tmp_path / "cifs" / f"{name}.cif")
    options = {"folder": tmp_path / "cifs", "cache_dir": tmp_path / "cache"}
    report = prepare_dataset("cif_folder", workers=1, **options)
    assert (report.num_rows, report.num_used) == (2, 2)
    table = load_dataset("cif_folder", **options)
    expected = from_structures([NACL, MIXED])
    assert table.info["formula"].tolist() == expected.info["formula"].tolist()
    columns = [torch.stack([t.atomic_numbers, t.occupancy], 1).tolist() for t in (table, expected)]
    assert sorted(columns[0]) == sorted(columns[1])
    torch.testing.assert_close(table.lengths, expected.lengths, rtol=1e-6, atol=1e-6)


def test_from_structures_keeps_info():
    info = pd.DataFrame({"material_id": ["a", "b"], "split": ["val", "test"], "gap": [1.0, 2.0]})
    table = from_structures([NACL, RUTILE], info=info)
    assert table.info["formula"].tolist() == ["NaCl", "TiO2"]
    assert table.info["gap"].tolist() == [1.0, 2.0]
    assert table.split("test").space_group.tolist() == [136]
    assert from_structures([NACL], reduce=False).num_atoms.tolist() == [8]
    with pytest.raises(ValueError, match="one row per structure"):
        from_structures([NACL], info=info)


# ---- files


def test_tables_survive_the_file(prototype_table, tmp_path):
    path = save_table(prototype_table, tmp_path / "new" / "table.parquet")
    back = load_table(path)
    assert back.content_hash() == prototype_table.content_hash()
    for name in ("atomic_numbers", "frac_coords", "lattice", "offsets"):
        assert torch.equal(getattr(back, name), getattr(prototype_table, name))
    pd.testing.assert_frame_equal(back.info, prototype_table.info)
    assert [p.name for p in path.parent.iterdir()] == ["table.parquet"]
    empty = save_table(prototype_table.select([]), tmp_path / "empty.parquet")
    assert len(load_table(empty)) == 0


def test_content_hash_sees_every_change(prototype_table):
    part = prototype_table.select([0, 1])
    other = prototype_table.select([1, 0])
    renamed = CrystalTable(
        part.atomic_numbers,
        part.frac_coords,
        part.lattice,
        part.offsets,
        part.info.assign(material_id=["x", "y"]),
    )
    hashes = {t.content_hash() for t in (part, other, renamed)}
    assert len(hashes) == 3
    assert all(len(h) == 12 for h in hashes)


def test_absent_and_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="prepare"):
        load_table(tmp_path / "none.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 half a file")
    with pytest.raises(ValueError, match="not a crystal table"):
        load_table(broken)
    pd.DataFrame({"a": [1]}).to_parquet(broken)
    with pytest.raises(ValueError, match="not a crystal table"):
        load_table(broken)


def test_an_interrupted_write_leaves_nothing(prototype_table, tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    def half(table, where, **kwargs):
        where.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(KeyboardInterrupt):
        save_table(prototype_table, tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


def test_real_crystals_agree_with_pymatgen(mp_20_table):
    """Cells of MP-20: Niggli, equal to pymatgen's where pymatgen's own result is Niggli."""
    same = 0
    sample = mp_20_table.lattice[::3].numpy()
    for lattice in sample:
        assert_niggli(lattice)
        reference = niggli_by_pymatgen(lattice)
        mine, theirs = Lattice(lattice).parameters, Lattice(reference).parameters
        close = np.allclose(mine, theirs, atol=1e-4, rtol=0)
        same += close
        assert np.linalg.det(reference) == pytest.approx(np.linalg.det(lattice), rel=1e-6)
        assert sum(mine[:3]) == pytest.approx(sum(theirs[:3]), abs=3e-3)
    assert same >= 0.9 * len(sample)
    assert all(a <= b for a, b in pairwise(mp_20_table.offsets.tolist()))


def test_tables_one_after_the_other(prototype_table):
    first, second = prototype_table.select([0, 3]), prototype_table.select([5])
    second = dataclasses.replace(second, info=second.info.assign(further=1))
    joined = concatenate([first, second])
    assert list(joined.info.columns) == list(first.info.columns)
    for i, row in enumerate([0, 3, 5]):
        alone, here = prototype_table.select([row]), joined.select([i])
        assert torch.equal(alone.frac_coords, here.frac_coords)
        assert torch.equal(alone.lattice, here.lattice)
        assert alone.info["material_id"].tolist() == here.info["material_id"].tolist()
    with pytest.raises(ValueError, match="at least one table"):
        concatenate([])

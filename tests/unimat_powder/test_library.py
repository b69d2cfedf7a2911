"""The library file: strains, lines, structures, elements, damage, and what a build leaves."""

import json
import shutil
import struct
from dataclasses import replace

import lattices
import numpy as np
import pandas as pd
import pytest
import spglib
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from pymatgen.core import Composition, Lattice, Structure
from salts import salts

from unimat_lib.crystals.structures import from_structures
from unimat_lib.crystals.table import CrystalTable, concatenate, crystal_system_index
from unimat_lib.views.bragg import bragg_reflections
from unimat_powder.bravais import LATTICE_SYSTEMS, lattice_system
from unimat_powder.library import file as library_file
from unimat_powder.library.build import build_library, main, published_prototypes
from unimat_powder.library.file import Library, default_library, embedded_library
from unimat_powder.library.lines import DELTA, G_START, KEPT, SIGMA, _overlap, line_index
from unimat_powder.library.symmetry import (
    STRAIN_DIMENSIONS,
    dimensions_of,
    spglib_projector,
    strain_bases,
    strain_basis,
    symmetric_lattices,
)
from unimat_powder.simulation.symmetry import tensor_of

DIMENSIONS = {"cubic": 1, "tetragonal": 2, "hexagonal": 2, "orthorhombic": 3, "monoclinic": 4}


def rutile() -> CrystalTable:
    species, coords = ["Ti", "O"], [[0, 0, 0], [0.3053, 0.3053, 0]]
    lattice = Lattice.tetragonal(4.594, 2.959)
    return from_structures([Structure.from_spacegroup("P4_2/mnm", lattice, species, coords)])


@pytest.fixture(scope="module")
def table(prototype_table) -> CrystalTable:
    return prototype_table.select(torch.arange(60))


@pytest.fixture(scope="module")
def path(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "some.library.safetensors"
    assert build_library({"prototypes": table}, path) == []
    return path


@pytest.fixture
def library(path) -> Library:
    return Library.open(path)


def test_every_bravais_lattice_has_the_strains_of_its_system(crystals):
    bases, _ = strain_bases(crystals)
    for i, (family, _) in enumerate(lattices.CELLS):
        rows = bases[i][bases[i].abs().sum(1) > 0]
        assert len(rows) == DIMENSIONS.get(family, 6)
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)).double())


def test_lines_stay_lines_under_the_strains_of_their_crystal(prototype_table):
    """Reflections of one length by symmetry keep one length."""
    table = prototype_table.select(torch.arange(0, len(prototype_table), 4))
    bases, _ = strain_bases(table)
    rng, compared = np.random.default_rng(0), 0
    hkl = rng.integers(-5, 6, (20, 3))
    for i, (lattice, basis) in enumerate(zip(table.lattice, bases.numpy(), strict=True)):
        cell = lattice.numpy(), *(x.numpy() for x in atoms_of(table, i))
        found = spglib.get_symmetry_dataset(cell, symprec=0.01)
        if found.number != table.space_group[i]:
            continue  # its group was found with another tolerance
        six = torch.from_numpy(0.01 * rng.normal(size=6) @ basis)
        strained = cell[0] @ (np.eye(3) + tensor_of(six).numpy())
        length = np.linalg.norm(hkl @ np.linalg.inv(strained).T, axis=1)
        for rotation in found.rotations:
            turned = np.linalg.norm(hkl @ rotation @ np.linalg.inv(strained).T, axis=1)
            np.testing.assert_allclose(turned, length, rtol=1e-4, err_msg=str(found.number))
        compared += 1
    assert compared > len(table) / 2


def atoms_of(table, i):
    atoms = slice(int(table.offsets[i]), int(table.offsets[i + 1]))
    return table.frac_coords[atoms], table.atomic_numbers[atoms]


def test_strains_are_those_that_spglib_leaves(prototype_table):
    compare_with_spglib(prototype_table.select(torch.arange(1, len(prototype_table), 3)))


def compare_with_spglib(table):
    bases, searched = strain_bases(table)
    assert searched < len(table) / 3
    wanted = dimensions_of(table.space_group).tolist()
    for i, (basis, dimension) in enumerate(zip(bases, wanted, strict=True)):
        crystal = table.lattice[i], *atoms_of(table, i)
        found = spglib_projector(*(x.numpy() for x in crystal))
        if round(np.trace(found)) == dimension:  # the system that the table says
            np.testing.assert_allclose(basis.T @ basis, found, atol=0.02)


@pytest.mark.data
def test_strains_of_measured_chemistry_are_those_that_spglib_leaves(mp_20_table):
    compare_with_spglib(mp_20_table.select(torch.arange(0, len(mp_20_table), 2)))


def test_atoms_decide_where_the_lattice_has_more_symmetry():
    cell = Lattice.cubic(5.0)
    layers = Structure(cell, ["Fe", "O", "O"], [[0, 0, 0], [0.2, 0, 0], [0.8, 0, 0]])
    table = from_structures([layers], reduce=False)
    assert crystal_system_index(table.space_group).tolist() == [3]  # tetragonal, along a
    assert strain_bases(table)[1] == 1
    crystal = table.lattice[0], *atoms_of(table, 0)
    basis = strain_basis(*(x.numpy() for x in crystal), int(table.space_group[0]))
    assert len(basis) == STRAIN_DIMENSIONS[3] == 2
    stretched = basis.T @ basis @ [1.0, 0, 0, 0, 0, 0]  # a alone may stretch, b alone may not
    np.testing.assert_allclose(stretched, [1, 0, 0, 0, 0, 0], atol=1e-6)


def test_partly_occupied_sites_count_as_other_atoms():
    cell = Lattice.cubic(4.0)
    mixed = [{"Fe": 0.5, "Ni": 0.5}, "Fe"]
    structure = Structure(cell, mixed, [[0, 0, 0], [0.5, 0.5, 0]])
    bases, _ = strain_bases(from_structures([structure], reduce=False))
    assert int((bases.abs().sum(2) > 0).sum()) == 2


def test_nearly_symmetric_lattices_become_symmetric():
    crystals = lattices.bravais_crystals()
    generator = torch.Generator().manual_seed(0)
    noise = 5e-4 * torch.randn(len(crystals), 3, 3, generator=generator, dtype=torch.float64)
    off = crystals.lattice @ (torch.eye(3, dtype=torch.float64) + noise + noise.mT)
    found, excess = symmetric_lattices(off, crystals.space_group)
    assert torch.allclose(symmetric_lattices(found, crystals.space_group)[0], found, atol=1e-10)
    assert (found.norm(dim=2) / off.norm(dim=2) - 1).abs().max() < 4e-3
    assert (lattice_system(*cell_of(found), tolerance=1e-9) == systems_of_examples()).all()
    assert excess.min() > 0.02  # no example has symmetry beyond its own
    kept, _ = symmetric_lattices(crystals.lattice, crystals.space_group)
    assert torch.allclose(kept, crystals.lattice, atol=1e-9)


def cell_of(lattice):
    table = replace(lattices.bravais_crystals(), lattice=lattice)
    return table.lengths, table.angles


def systems_of_examples():
    names = ["rhombohedral" if c == "R" else family for family, c in lattices.CELLS]
    return torch.tensor([list(LATTICE_SYSTEMS).index(name) for name in names])


def test_a_lattice_of_more_symmetry_than_its_group_is_told():
    cubic = 4 * torch.eye(3, dtype=torch.float64)[None]
    for group in (1, 16, 75):
        assert symmetric_lattices(cubic, torch.tensor([group]))[1] < 1e-9
    assert symmetric_lattices(cubic, torch.tensor([221]))[1] > 0.1


def test_kinship_counts_common_elements(library):
    rows = torch.arange(len(library))
    some = {"Ti", "O"}
    found = library.kinship(rows, some).tolist()
    for row, kinship in zip(rows.tolist(), found, strict=True):
        own = {e.symbol for e in Composition(library.formula(row)).elements} - {"H"}
        assert kinship == pytest.approx(len(own & some) / len(own | some))
    assert library.kinship(rows, {"H", *some}).tolist() == found


def test_lines_of_rutile_are_those_of_pymatgen():
    lines = line_index(rutile())
    calculator = XRDCalculator(1.5418)
    pattern = calculator.get_pattern(rutile().structure(0), scaled=False, two_theta_range=(5, 90))
    g = 2 * np.sin(np.radians(pattern.x / 2)) / 1.5418
    sine = g * 1.5418 / 2
    lorentz = (1 + (1 - 2 * sine**2) ** 2) / (sine**2 * np.sqrt(1 - sine**2))
    expected = np.sqrt(pattern.y / lorentz)
    ours = lines.position.double().numpy()
    for place, amplitude in zip(
        np.log(g / G_START) / DELTA, expected / expected.max(), strict=True
    ):
        nearest = np.abs(ours - place).argmin()
        assert abs(ours[nearest] - place) < 1.5
        mine = float(lines.amplitude[nearest]) / float(lines.amplitude.max())
        assert mine == pytest.approx(amplitude, rel=5e-3, abs=5e-3)


def test_overlap_is_the_product_of_neighbouring_lines():
    amplitude = torch.tensor([[0.0, 1.0, 0.5, 0.0, 0.2]]).double()
    g = torch.tensor([[0.0, 0.101, 0.103, 0.0, 0.107]]).double()
    product = torch.exp(-((g[0, :, None] - g[0]) ** 2) / (4 * SIGMA**2))
    expected = amplitude[0] * (product @ amplitude[0])
    torch.testing.assert_close(_overlap(amplitude, g)[0], expected)


def test_a_stretched_crystal_has_its_lines_shifted():
    small, large = line_index(salts(5.64)), line_index(salts(5.64 * 1.03))
    count = min(len(small.position), len(large.position), 20)
    shift = small.position[:count].double() - large.position[:count].double()
    assert (shift - np.log(1.03) / DELTA).abs().max() <= 1.01
    weak = small.amplitude[:count].double() - large.amplitude[:count].double()
    assert weak.abs().max() < 0.05


def test_a_large_cell_keeps_what_a_copper_pattern_shows():
    places = np.random.default_rng(0).random((20, 3))
    structure = Structure(Lattice.orthorhombic(9, 11, 14), ["Fe"] * 20, places)
    lines = line_index(from_structures([structure], reduce=False))
    g = G_START * torch.exp(lines.position.double() * DELTA)
    assert len(g) == KEPT
    assert g.max() < 2 * np.sin(np.radians(45)) / 1.5418 + 0.002
    assert (lines.position.int().diff() >= 0).all()


def test_structures_come_back(library, table):
    index = torch.tensor([5, 0, 59, 5])
    came, expected = library.crystals(index), table.select(index)
    torch.testing.assert_close(came.lattice, expected.lattice, atol=1e-5, rtol=0)
    shift = came.frac_coords - expected.frac_coords
    assert (shift - shift.round()).abs().max() < 2e-5
    assert came.atomic_numbers.equal(expected.atomic_numbers)
    assert came.offsets.equal(expected.offsets)
    columns = ["material_id", "formula", "space_group", "source"]
    pd.testing.assert_frame_equal(came.info[columns], expected.info[columns], check_dtype=False)
    assert library.material_id(5) == table.info["material_id"][5]
    assert library.formula(59) == table.info["formula"][59]
    assert library.space_group.tolist() == table.space_group.tolist()


def test_intensities_survive_the_rounding_of_coordinates(library, table):
    before = bragg_reflections(table, g_max=0.9)
    after = bragg_reflections(library.crystals(torch.arange(len(library))), g_max=0.9)
    for i in range(len(table)):
        sums = [float(x.intensity[x.offsets[i] : x.offsets[i + 1]].sum()) for x in (before, after)]
        assert sums[0] == pytest.approx(sums[1], rel=1e-3)


def test_lines_and_strains_in_the_file_are_those_of_the_table(library, table):
    lines, (bases, _) = line_index(table), strain_bases(table)
    assert library.line_offsets.equal(lines.offsets)
    assert library.line_position.equal(lines.position)
    assert library.line_amplitude.equal(lines.amplitude)
    assert library.line_overlap.equal(lines.overlap)
    projectors, expected = (x.mT @ x for x in (library.strain.double(), bases))
    torch.testing.assert_close(projectors, expected, atol=2e-3, rtol=0)


def test_partial_occupancies_come_back(tmp_path):
    mixed = Structure(Lattice.cubic(3.6), [{"Fe": 0.25, "Ni": 0.75}], [[0, 0, 0]])
    both = concatenate([from_structures([mixed]), salts(5.64)])
    build_library({"alloys": both}, tmp_path / "x")
    came = Library.open(tmp_path / "x").crystals([0, 1])
    assert came.occupancy.tolist() == both.occupancy.tolist()
    assert Library.open(tmp_path / "x").with_elements(exactly=["Fe", "Ni"]).tolist() == [0]


def test_the_same_tables_give_the_same_bytes_with_any_number_of_workers(table, path, tmp_path):
    build_library({"prototypes": table}, tmp_path / "again", workers=2)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_an_index_beyond_the_last_is_an_index_error(library):
    with pytest.raises(IndexError, match="0 to 59, but 60"):
        library.crystals([60])


def symbols_of(table, i):
    return {element.symbol for element in table.structure(i).composition}


def test_elements_choose_what_a_loop_would(library, table):
    wanted = {"O", "Ti", "Fe", "Si"} | symbols_of(table, 7)
    among = [i for i in range(len(table)) if symbols_of(table, i) <= wanted]
    assert library.with_elements(among=wanted).tolist() == among
    one = symbols_of(table, 7)
    exactly = [i for i in range(len(table)) if symbols_of(table, i) == one]
    assert 7 in exactly
    assert library.with_elements(exactly=one).tolist() == exactly
    assert library.with_elements().tolist() == list(range(60))


@given(st.sets(st.integers(1, 118), min_size=1), st.sets(st.integers(1, 118), min_size=1))
def test_masks_are_sets(first, second):
    one, other = library_file.element_mask(first), library_file.element_mask(second)
    assert one.equal(other) == (first == second)
    assert bool(((one & ~other) == 0).all()) == (first <= second)


@pytest.mark.parametrize("wrong", [["Xx"], ["TI"], [""], [], "TiO2"])
def test_elements_that_do_not_exist_are_refused(library, wrong):
    with pytest.raises(ValueError, match="element"):
        library.with_elements(exactly=wrong)


def test_both_ways_of_choosing_are_refused(library):
    with pytest.raises(ValueError, match="not both"):
        library.with_elements(exactly=["Ti"], among=["Ti"])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(path, tmp_path, share):
    content = path.read_bytes()
    (tmp_path / "cut").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="truncated") as error:
        Library.open(tmp_path / "cut")
    assert "\n" not in str(error.value)


def test_a_flipped_bit_anywhere_is_refused(path, tmp_path):
    content = path.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    rng = np.random.default_rng(0)
    places = [3, 8, 20, 8 + header // 2, 8 + header + 1, len(content) - 1]
    for place in [*places, *rng.integers(0, len(content), 40).tolist()]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "flipped").write_bytes(flipped)
        try:
            opened = Library.open(tmp_path / "flipped")
        except ValueError as error:
            assert "\n" not in str(error)
        else:  # white space of the header
            assert opened.metadata == Library.open(path).metadata


def test_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weights": torch.ones(3)}, tmp_path / "model.safetensors")
    (tmp_path / "text").write_text("two theta, counts\n10 20\n" * 20)
    (tmp_path / "json").write_bytes(struct.pack("<Q", 2) + b"[]")
    for name in ("model.safetensors", "text", "json"):
        with pytest.raises(ValueError, match="library"):
            Library.open(tmp_path / name)


def test_a_file_of_another_version_says_to_build_it_anew(path, tmp_path, monkeypatch):
    monkeypatch.setattr(library_file, "FORMAT", library_file.FORMAT + 1)
    with pytest.raises(ValueError, match="build it anew"):
        Library.open(path)


def test_a_missing_library_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="unimat library build mp"):
        Library.open(tmp_path / "none")


def test_a_build_that_fails_leaves_the_old_file(path, tmp_path, monkeypatch, table):
    target = tmp_path / "old"
    shutil.copy(path, target)

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(library_file, "save", full)
    with pytest.raises(OSError, match="no space"):
        build_library({"prototypes": table.select([0])}, target)
    assert target.read_bytes() == path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["old"]


def test_crystals_that_cannot_scatter_are_named(tmp_path):
    heavy = salts(5.0, 5.64, elements=("Lr", "Cl"))
    heavy = CrystalTable(*heavy._tensors, heavy.info.assign(material_id=["a", "b"]))
    dropped = build_library({"x": concatenate([heavy, salts(5.64)])}, tmp_path / "x")
    assert [name for name, _ in dropped] == ["a", "b"]
    assert "Lr has no X-ray scattering" in dropped[0].reason
    assert len(Library.open(tmp_path / "x")) == 1
    with pytest.raises(ValueError, match="no crystal can be used"):
        build_library({"x": heavy}, tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_a_folder_of_cifs_becomes_a_library(tmp_path, capsys):
    folder = tmp_path / "cifs"
    folder.mkdir()
    rutile().structure(0).to(str(folder / "rutile.cif"))
    (folder / "broken.cif").write_text("data_broken\nno crystal here\n")
    out = tmp_path / "mine"
    command = ["build", "--folder", str(folder), "--out", str(out), "--workers", "1"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "left out broken: " in printed and "1 crystals" in printed
    assert Library.open(out).formula(0) == "TiO2"
    assert main(["show", str(out)]) == 0
    assert "CIF files of the user" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command, message",
    [
        (["build"], "say what to build"),
        (["build", "--folder", "/nowhere/at/all"], "none"),
        (["show", "/nowhere/at/all"], "unimat library build mp"),
        (["build", "prototypes", "--workers", "0"], "workers"),
    ],
)
def test_wrong_arguments_get_one_line(command, message, capsys):
    assert main(command) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_the_default_is_what_the_variable_names_then_the_built_then_the_embedded(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("UNIMAT_LIBRARY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_library() == embedded_library()
    built = library_file.built_library("mp")
    built.parent.mkdir(parents=True)
    built.touch()
    assert default_library() == built
    monkeypatch.setenv("UNIMAT_LIBRARY", str(tmp_path / "mine"))
    assert default_library() == tmp_path / "mine"


def test_the_embedded_library_opens_and_has_no_made_up_compound():
    library = Library.open(embedded_library())
    assert len(library) > 200
    assert library.metadata["sources"] == ["aflow"]
    assert len(library.with_elements(exactly=["Ti", "O"])) >= 1
    assert "AFLOW" in library.metadata["attribution"]
    assert json.dumps(library.metadata).count("/") < 5  # no path of the machine that built it


def test_published_prototypes_are_those_of_aflow(prototype_table):
    chosen = published_prototypes(prototype_table)
    assert set(chosen.info["source"]) == {"aflow"}
    assert len(chosen) < len(prototype_table)

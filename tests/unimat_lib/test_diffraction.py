"""Bragg reflections and rendered patterns against pymatgen, direct sums and known physics."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os

import numpy as np
import pandas as pd
import pytest
import torch

from unimat_lib.crystals.structures import from_structures
from unimat_lib.crystals.table import (
    CRYSTAL_SYSTEMS,
    CrystalTable,
    crystal_system_index,
    table_from_arrays,
)
from unimat_lib.datasets.prototypes import aflow_prototypes
from unimat_lib.training.captured_step import mapped
from unimat_lib.views.bragg import (
    bragg_reflections,
    dispersion,
    form_factors,
    g_max_of,
    scattering_parameters,
)
from unimat_lib.views.effects import Effects, Measurement, draw_effects
from unimat_lib.views.grid import CU_K_ALPHA, WAVELENGTHS, Grid, lorentz_polarisation
from unimat_lib.views.render import _row_length, _rows, _sticks_in_steps, render
from unimat_powder.lines import merged_peaks

GRID = Grid(10.0, 80.0, 2048)
RANGE = (5.0, 70.0)  # smaller than pymatgen's default, so that 500 of its patterns take seconds


def make_table(crystals) -> CrystalTable:
    """Cells exactly as given: (lattice, frac_coords, atomic_numbers) each."""
    info = pd.DataFrame(
        {
            "material_id": [str(i) for i in range(len(crystals))],
            "formula": "X",
            "space_group": 1,
            "split": "train",
            "source": "test",
        }
    )
    return table_from_arrays(*[list(column) for column in zip(*crystals, strict=True)], info)


def cubic(a, coords, numbers):
    return np.eye(3) * a, np.array(coords, dtype=float), np.array(numbers)


FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
DIAMOND = FCC + [[x + 0.25, y + 0.25, z + 0.25] for x, y, z in FCC]
COPPER = cubic(3.615, FCC, [29] * 4)
IRON = cubic(2.87, [[0, 0, 0], [0.5] * 3], [26, 26])
SILICON = cubic(5.431, DIAMOND, [14] * 8)
ROCK_SALT = cubic(5.64, FCC + [[x + 0.5, y, z] for x, y, z in FCC], [11] * 4 + [17] * 4)


@pytest.fixture(scope="module")
def prototypes():
    """AFLOW prototypes with at most 20 atoms, as published: (system index [C], table)."""
    from pymatgen.core import Element

    entries = [p for p in aflow_prototypes() if len(p["symbols"]) <= 20]
    cells = [
        (p["lattice"], p["frac_coords"], np.array([Element(s).Z for s in p["symbols"]]))
        for p in entries
    ]
    # The AFLOW label reads stoichiometry_Pearson symbol_space group number_...
    groups = [int(p["tags"]["aflow"].split("_")[2]) for p in entries]
    return crystal_system_index(groups), make_table(cells)


@pytest.fixture(scope="module")
def reflections():
    """Reflections of copper, silicon and rock salt."""
    table = make_table([COPPER, SILICON, ROCK_SALT])
    return bragg_reflections(table, g_max=g_max_of(GRID, max_strain=0.05))


def cluster(positions, gap=5e-5):
    """Number of the cluster of each position; neighbours closer than ``gap`` share one."""
    order = np.argsort(positions, kind="stable")
    starts = np.diff(positions[order], prepend=-np.inf) > gap
    labels = np.empty(len(positions), dtype=int)
    labels[order] = np.cumsum(starts) - 1
    return labels


def assert_same_peaks(x, y, x_ref, y_ref, *, angle=1e-6, relative=1e-6):
    """Compare two lists of peaks, where either may have split a peak at the edge of a bin.

    Both sides are merged again over gaps of 5e-5 degrees before positions (of the first member)
    and summed intensities are compared; peaks below 1e-5 of the highest are left out.
    """
    labels = cluster(np.concatenate([x, x_ref]))
    size = labels.max() + 1
    sums, firsts = [], []
    for part, position, intensity in (
        (labels[: len(x)], x, y),
        (labels[len(x) :], x_ref, y_ref),
    ):
        sums.append(np.bincount(part, intensity, minlength=size))
        first = np.full(size, np.inf)
        np.minimum.at(first, part, position)
        firsts.append(first)
    strong = np.maximum(*sums) > 1e-5 * max(y.max(), y_ref.max())
    assert strong.any()
    np.testing.assert_allclose(firsts[0][strong], firsts[1][strong], rtol=0, atol=angle)
    np.testing.assert_allclose(sums[0][strong], sums[1][strong], rtol=relative)


def peaks_of(result, i):
    part = slice(int(result.offsets[i]), int(result.offsets[i + 1]))
    return result.two_theta[part].numpy(), result.intensity[part].numpy()


# --------------------------------------------------------------------------------- against pymatgen


def test_peaks_equal_pymatgen_over_all_crystal_systems(prototypes, monkeypatch):
    """At least 500 crystals: the prototypes, and each again with other elements and volume."""
    from pymatgen.analysis.diffraction.core import AbstractDiffractionPatternCalculator
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    monkeypatch.setattr(AbstractDiffractionPatternCalculator, "SCALED_INTENSITY_TOL", 0.0)
    mend_tin(monkeypatch)
    systems, table = prototypes
    variant = CrystalTable(
        (table.atomic_numbers + 7 - 1) % 94 + 1,
        table.frac_coords,
        table.lattice * 1.07,
        table.offsets,
        table.info,
    )
    assert len(table) + len(variant) >= 500
    assert set(systems.tolist()) == set(range(len(CRYSTAL_SYSTEMS)))
    for part in (table, variant):
        assert_table_equals_pymatgen(part, XRDCalculator())


def mend_tin(monkeypatch):
    from pymatgen.analysis.diffraction import xrd

    monkeypatch.setitem(xrd.ATOMIC_SCATTERING_PARAMS, "Sn", scattering_parameters()[50].tolist())


def assert_table_equals_pymatgen(table, calculator):
    g_max = 2 * math.sin(math.radians(RANGE[1] / 2)) / CU_K_ALPHA
    ours = merged_peaks(
        bragg_reflections(table, g_max=g_max), two_theta_range=RANGE, min_intensity=0.0
    )
    for i in range(len(table)):
        reference = calculator.get_pattern(table.structure(i), scaled=False, two_theta_range=RANGE)
        assert_same_peaks(*peaks_of(ours, i), reference.x, reference.y)


@pytest.mark.data
def test_peaks_equal_pymatgen_on_mp_20(mp_20_table, monkeypatch):
    from pymatgen.analysis.diffraction.core import AbstractDiffractionPatternCalculator
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    monkeypatch.setattr(AbstractDiffractionPatternCalculator, "SCALED_INTENSITY_TOL", 0.0)
    mend_tin(monkeypatch)
    assert_table_equals_pymatgen(mp_20_table, XRDCalculator())


def disordered_structures():
    """Mixed and partly vacant sites, tin among them, in three crystal systems and in P1."""
    from pymatgen.core import Lattice, Structure

    inverse = {"Fe": 0.45, "Mg": 0.5}
    spinel = [{"Fe": 0.9, "Zn": 0.1}, inverse, "O"], [[0, 0, 0], [0.625] * 3, [0.3796] * 3]
    rutile = [{"Sn": 0.7, "Ti": 0.25}, {"O": 0.9, "F": 0.1}], [[0, 0, 0], [0.305, 0.305, 0]]
    low = [{"Sn": 0.5}, {"Pb": 0.3, "Sr": 0.3}, "S"], [[0.1, 0.2, 0.3], [0.6, 0.7, 0.1], [0.3] * 3]
    return [
        Structure.from_spacegroup("Fd-3m", Lattice.cubic(8.39), *spinel),
        Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.7, 3.1), *rutile),
        Structure(Lattice.from_parameters(4, 5, 6, 80, 95, 100), *low),
        Structure(Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]]),
    ]


@pytest.mark.parametrize("reduce", [False, True])
def test_peaks_of_disordered_crystals_equal_pymatgen(monkeypatch, reduce):
    from pymatgen.analysis.diffraction.core import AbstractDiffractionPatternCalculator
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    monkeypatch.setattr(AbstractDiffractionPatternCalculator, "SCALED_INTENSITY_TOL", 0.0)
    mend_tin(monkeypatch)
    structures = disordered_structures()
    table = from_structures(structures, reduce=reduce)
    assert_table_equals_pymatgen(table, XRDCalculator())
    if not reduce:
        for i, structure in enumerate(structures):
            assert table.structure(i).matches(structure)


def test_full_occupancies_change_nothing(prototypes):
    table = prototypes[1].select(torch.arange(40))
    ones = torch.ones(len(table.atomic_numbers), dtype=torch.float64)
    plain = bragg_reflections(table, g_max=0.9)
    full = bragg_reflections(dataclasses.replace(table, occupancy=ones), g_max=0.9)
    for name in ("hkl", "g", "intensity", "offsets"):
        assert torch.equal(getattr(full, name), getattr(plain, name))


@pytest.mark.parametrize("wavelength", [CU_K_ALPHA, WAVELENGTHS["MoKa"]])
def test_anomalous_dispersion_is_the_mean_of_friedel_pairs(wavelength):
    """Against the sum over atoms of both members of each pair, which differ without a centre."""
    table = from_structures(disordered_structures(), reduce=False)
    found = bragg_reflections(table, g_max=1.1, wavelength=wavelength)
    anomalous = dispersion(wavelength).numpy()
    contrast = 0.0
    for c in range(len(table)):
        part = slice(int(found.offsets[c]), int(found.offsets[c + 1]))
        atoms = slice(int(table.offsets[c]), int(table.offsets[c + 1]))
        z, share = table.atomic_numbers[atoms].numpy(), table.occupancy[atoms].numpy()
        hkl, g = found.hkl[part].double().numpy(), found.g[part]
        f0 = torch.stack(
            [form_factors(torch.tensor([x]), torch.zeros_like(g).long(), g) for x in z]
        )
        f = f0.numpy().T + anomalous[z, 0] + 1j * anomalous[z, 1]  # [R, n]
        turns = hkl @ table.frac_coords[atoms].numpy().T
        plus, minus = (
            np.abs((share * f * np.exp(sign * 2j * np.pi * turns)).sum(1)) ** 2 for sign in (1, -1)
        )
        kept = plus + minus > 1e-8 * z.sum() ** 2
        np.testing.assert_allclose(found.intensity[part][kept], (plus + minus)[kept], rtol=1e-9)
        contrast = max(contrast, np.abs((plus - minus) / (plus + minus))[kept].max())
    assert contrast > 0.05  # one member for both would be wrong


def test_dispersion_is_that_of_the_tables():
    """International Tables C, 4.2.6.8, for iron, copper and lead with copper and molybdenum."""
    for name, z, real, imaginary in [
        ("CuKa", 26, -1.13, 3.20),
        ("CuKa", 29, -1.97, 0.59),
        ("MoKa", 29, 0.32, 1.27),
        ("MoKa", 82, -3.39, 10.11),
    ]:
        values = dispersion(WAVELENGTHS[name])[z].tolist()
        assert values == pytest.approx([real, imaginary], abs=0.1)
    assert (dispersion(1.5)[3:] == 0).all(1).nonzero()[:, 0].tolist() == list(range(90, 116))


def test_constants_equal_pymatgen():
    from pymatgen.analysis.diffraction import xrd
    from pymatgen.core import Element

    assert {name: xrd.WAVELENGTHS[name] for name in WAVELENGTHS} == WAVELENGTHS
    ours = scattering_parameters()
    for z in range(1, 119):
        reference = xrd.ATOMIC_SCATTERING_PARAMS.get(Element.from_Z(z).symbol)
        if reference is None:
            assert ours[z].isnan().all()
        elif z != 50:  # the misprint, see below
            np.testing.assert_array_equal(ours[z].numpy(), reference)


def test_scattering_factors_agree_with_the_international_tables():
    import gemmi

    parameters = scattering_parameters()
    known = (~parameters[:, 0, 0].isnan()).nonzero()[:, 0]
    assert known.tolist() == list(range(1, 99))
    s = torch.linspace(0, 1, 101, dtype=torch.float64)
    place = torch.arange(len(known)).repeat_interleave(len(s))
    ours = form_factors(known, place, 2 * s.repeat(len(known))).reshape(len(known), -1)
    for z, row in zip(known.tolist(), ours, strict=True):
        tables = gemmi.Element(z).it92
        theirs = torch.tensor([tables.calculate_sf(x * x) for x in s.tolist()])
        # Tin was off by 7 % of its electrons, everybody else is within 3.3 %; 0.1 is for hydrogen.
        assert (row - theirs).abs().max() < max(0.1, 0.035 * z), z


def test_weak_peaks_are_left_out_as_in_pymatgen():
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    table = make_table([SILICON])
    ours = merged_peaks(bragg_reflections(table, g_max=1.0), two_theta_range=(0, 90))
    reference = XRDCalculator().get_pattern(table.structure(0), scaled=False)
    np.testing.assert_allclose(ours.two_theta, reference.x, atol=1e-6)
    np.testing.assert_allclose(ours.intensity, reference.y, rtol=1e-6)


# -------------------------------------------------------------------------------------- invariances


def some_structures():
    """Three low-symmetry and two high-symmetry crystals as pymatgen structures."""
    from pymatgen.core import Lattice, Structure

    return [
        Structure(
            Lattice.from_parameters(4.1, 5.3, 6.2, 82, 97, 104),
            ["Ti", "O", "O", "Ca"],
            [[0.1, 0.2, 0.3], [0.6, 0.4, 0.1], [0.25, 0.8, 0.55], [0.9, 0.05, 0.7]],
        ),
        Structure(
            Lattice.monoclinic(4.7, 5.1, 3.9, 99),
            ["Cu", "O", "Cu"],
            [[0.25, 0.25, 0], [0, 0.4, 0.25], [0.7, 0.1, 0.6]],
        ),
        make_table([SILICON]).structure(0),
        make_table([ROCK_SALT]).structure(0),
    ]


def scaled_peaks(structure):
    table = from_structures([structure], reduce=False)
    g_max = 2 * math.sin(math.radians(RANGE[1] / 2)) / CU_K_ALPHA
    result = merged_peaks(
        bragg_reflections(table, g_max=g_max), two_theta_range=RANGE, min_intensity=0.0
    )
    x, y = peaks_of(result, 0)
    return x, y / y.max()


CHANGES_OF_CELL = [
    [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
    [[1, 2, -1], [0, 1, 3], [0, 0, 1]],
    [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],  # left-handed
    [[5, 2, 0], [2, 1, 0], [1, 1, 1]],
    [[2, 0, 0], [0, 1, 0], [0, 0, 1]],  # supercells from here on
    [[1, 1, 0], [-1, 1, 0], [0, 0, 2]],
]


@pytest.mark.parametrize("matrix", CHANGES_OF_CELL)
def test_any_cell_of_a_crystal_gives_the_same_peaks(matrix):
    from pymatgen.core import Lattice, Structure

    for structure in some_structures():
        lattice = Lattice(np.array(matrix) @ structure.lattice.matrix)
        if abs(round(np.linalg.det(matrix))) == 1:
            other = Structure(
                lattice, structure.species, structure.cart_coords, coords_are_cartesian=True
            )
        else:
            other = structure.make_supercell(matrix, in_place=False)
        assert_same_peaks(*scaled_peaks(other), *scaled_peaks(structure), relative=1e-7)


def test_origin_and_order_of_atoms_do_not_matter():
    rng = np.random.default_rng(0)
    for structure in some_structures():
        expected = scaled_peaks(structure)
        moved = structure.copy()
        moved.translate_sites(range(len(moved)), rng.random(3))
        assert_same_peaks(*scaled_peaks(moved), *expected, relative=1e-7)
        shuffled = type(structure).from_sites([structure[i] for i in rng.permutation(len(moved))])
        assert_same_peaks(*scaled_peaks(shuffled), *expected, relative=1e-9)


def allowed(rule, a, g_max):
    """Half of the (hkl) of a cubic cell that a rule allows, as a set with one of each pair."""
    n = int(g_max * a) + 1
    axis = range(-n, n + 1)
    found = set()
    for hkl in ((h, k, el) for h in axis for k in axis for el in axis):
        if 0 < sum(i * i for i in hkl) <= (g_max * a) ** 2 and rule(*hkl):
            found.add(max(hkl, tuple(-i for i in hkl)))
    return found


def unmixed(h, k, el):
    return h % 2 == k % 2 == el % 2


@pytest.mark.parametrize(
    ("crystal", "a", "rule"),
    [
        (COPPER, 3.615, unmixed),
        (ROCK_SALT, 5.64, unmixed),
        (
            SILICON,
            5.431,
            lambda h, k, el: unmixed(h, k, el) and (h % 2 == 1 or (h + k + el) % 4 == 0),
        ),
        (IRON, 2.87, lambda h, k, el: (h + k + el) % 2 == 0),
        (cubic(3.35, [[0, 0, 0]], [84]), 3.35, lambda h, k, el: True),
    ],
    ids=["fcc", "rock salt", "diamond", "bcc", "simple cubic"],
)
def test_systematic_absences_and_completeness(crystal, a, rule):
    reflections = bragg_reflections(make_table([crystal]), g_max=1.5)
    listed = [tuple(row) for row in reflections.hkl.tolist()]
    found = {max(hkl, tuple(-i for i in hkl)) for hkl in listed}
    assert len(found) == len(listed)  # never both members of a pair
    assert found == allowed(rule, a, 1.5)


def test_forward_limit_is_the_number_of_electrons():
    """A large cell with one atom: its first reflections sit near g = 0, where f = Z."""
    reflections = bragg_reflections(make_table([cubic(200.0, [[0, 0, 0]], [26])]), g_max=0.0051)
    assert len(reflections.g) == 3
    amplitude = (reflections.intensity / 2).sqrt()
    torch.testing.assert_close(amplitude, torch.full_like(amplitude, 26.0), rtol=1e-3, atol=0)


# ------------------------------------------------------------------------------------------ batches


def test_batch_equals_one_by_one_and_any_chunk_size(prototypes):
    table = prototypes[1].select(torch.arange(40))
    together = bragg_reflections(table, g_max=0.9)
    for chunk_size in (1, 300):
        chunked = bragg_reflections(table, g_max=0.9, chunk_size=chunk_size)
        assert torch.equal(chunked.hkl, together.hkl)
        assert torch.equal(chunked.offsets, together.offsets)
        torch.testing.assert_close(chunked.intensity, together.intensity, rtol=1e-12, atol=0)
    for i in (0, 7, 39):
        alone = bragg_reflections(table.select([i]), g_max=0.9)
        part = together.select(torch.tensor([i]))
        assert torch.equal(alone.hkl, part.hkl)
        assert torch.equal(alone.g, part.g)
        assert torch.equal(alone.reciprocal, part.reciprocal)
        torch.testing.assert_close(alone.intensity, part.intensity, rtol=1e-12, atol=0)
    assert torch.equal(together.crystal.bincount(minlength=40), together.offsets.diff())


def test_empty_table_and_crystals_without_reflections():
    table = make_table([COPPER, SILICON])
    nothing = bragg_reflections(table.select([]), g_max=1.0)
    assert len(nothing) == 0
    assert nothing.hkl.shape == (0, 3)
    few = bragg_reflections(table, g_max=0.35)  # below copper's first reflection
    assert few.offsets.tolist()[:2] == [0, 0]
    assert few.offsets[2] > 0
    assert len(merged_peaks(few, two_theta_range=(0, 30)).offsets) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu_with_occupancies_and_dispersion():
    table = from_structures(disordered_structures())
    here = bragg_reflections(table, g_max=1.0, wavelength=1.5)
    there = bragg_reflections(table.to("cuda"), g_max=1.0, wavelength=1.5)
    assert torch.equal(there.hkl.cpu(), here.hkl)
    torch.testing.assert_close(there.intensity.cpu(), here.intensity, rtol=1e-9, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu(prototypes):
    table = prototypes[1]
    here = bragg_reflections(table, g_max=g_max_of(GRID))
    there = bragg_reflections(table.to("cuda"), g_max=g_max_of(GRID))
    x, y = (
        merged_peaks(r, two_theta_range=(5, 80), min_intensity=0.0)
        for r in (here, mapped(there, lambda tensor: tensor.cpu()))
    )
    for i in range(len(table)):
        assert_same_peaks(*peaks_of(x, i), *peaks_of(y, i), relative=1e-9)
    index = torch.arange(len(table))
    torch.testing.assert_close(
        render(there, index.cuda(), GRID).cpu(), render(here, index, GRID), rtol=0, atol=1e-5
    )


def kernel_device():
    """Where the CUDA kernel can run: a GPU, or the CPU under triton's interpreter."""
    if torch.cuda.is_available():
        return "cuda"
    if importlib.util.find_spec("triton") and os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    pytest.skip("no CUDA device, and TRITON_INTERPRET=1 with triton is not set")


@pytest.mark.gpu
@pytest.mark.parametrize("textured", [False, True])
def test_kernel_draws_the_same_sticks_as_the_plain_code(prototypes, textured):
    device = kernel_device()
    from unimat_lib.kernels.sticks import add_sticks

    table = prototypes[1].select(torch.arange(12)).to(device)
    reflections = bragg_reflections(table, g_max=g_max_of(GRID, max_strain=0.05))
    index = torch.tensor([3, 0, 11, 3, 7, 5], device=device)
    measurement = Measurement(
        strain=0.05, zero_shift=1.0, texture=(0.3, 3.0) if textured else (1.0, 1.0)
    )
    generator = torch.Generator(device).manual_seed(0)
    effects = draw_effects(measurement, len(index), generator=generator, device=device)
    rows = _rows(reflections, index, GRID, effects)
    sines = [math.sin(math.radians(angle / 2)) for angle in (9.0, 81.0)]
    plain, fast = (torch.zeros(len(index), _row_length(GRID), device=device) for _ in "12")
    _sticks_in_steps(plain, reflections, index, rows, sines)
    add_sticks(fast, reflections, index, rows, sines)
    assert (plain > 0).any(1).all()
    # A stick ten millionths of a step beside its place differs by about 1e-6 of its height.
    scale = plain.amax(1, keepdim=True)
    torch.testing.assert_close(fast / scale, plain / scale, rtol=1e-4, atol=1e-5)
    assert (fast.double().sum(1) / plain.double().sum(1) - 1).abs().max() < 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_rendering_is_captured_in_a_cuda_graph(reflections):
    there = mapped(reflections, lambda tensor: tensor.to("cuda"))
    index = torch.tensor([0, 1, 2], device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)

    def drawn():
        effects = draw_effects(EVERYTHING, len(index), generator=generator, device="cuda")
        clean = render(there, index, GRID)
        return render(there, index, GRID, effects=effects, generator=generator), clean

    drawn()
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        pattern, clean = drawn()
    first, second = [(graph.replay(), pattern.clone())[1] for _ in range(2)]
    assert not torch.allclose(first, second, atol=0.01)  # new effects in every replay
    index.copy_(torch.tensor([1, 0, 0]))  # whatever crystals the index names then
    graph.replay()
    torch.testing.assert_close(clean, render(there, index, GRID), rtol=0, atol=1e-5)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"leave out crystals with Es \(Z = 99\)"):
        bragg_reflections(make_table([COPPER, cubic(4.0, [[0, 0, 0]], [99])]), g_max=1.0)
    neptunium = make_table([cubic(4.0, [[0, 0, 0]], [93])])  # has no tabulated dispersion
    there, without = (bragg_reflections(neptunium, g_max=1.0, wavelength=x) for x in (1.5, None))
    assert torch.equal(there.intensity, without.intensity)
    with pytest.raises(ValueError, match=r"wavelength is 20; 0\.1 to 10 angstrom expected"):
        bragg_reflections(make_table([COPPER]), g_max=1.0, wavelength=20)
    with pytest.raises(ValueError, match="g_max must be positive"):
        bragg_reflections(make_table([COPPER]), g_max=0.0)
    short = bragg_reflections(make_table([COPPER]), g_max=0.5)
    with pytest.raises(ValueError, match="larger g_max"):
        render(short, torch.tensor([0]), GRID)
    with pytest.raises(ValueError, match="larger g_max"):
        merged_peaks(short)
    for bad in ({"two_theta_min": 50, "two_theta_max": 20}, {"num_points": 1}, {"wavelength": -1}):
        with pytest.raises(ValueError, match=r"grid needs|wavelength must"):
            Grid(**bad)


# ---------------------------------------------------------------------------------------- rendering


def pseudo_voigt(x, fwhm, eta):
    sigma, half = fwhm / (2 * math.sqrt(2 * math.log(2))), fwhm / 2
    gauss = torch.exp(-((x / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    return (1 - eta) * gauss + eta * half / math.pi / (x**2 + half**2)


def direct_sum(reflections, i, grid, fwhm, eta):
    """The definition: the sum over reflections of their profiles, float64 [P]."""
    part = reflections.select(torch.tensor([i]))
    sine = part.g * grid.wavelength / 2
    two_theta = 2 * torch.rad2deg(torch.asin(sine.clamp_max(1)))
    near = (two_theta > grid.two_theta_min - 1) & (two_theta < grid.two_theta_max + 1)
    weight = (part.intensity * lorentz_polarisation(sine))[near]
    profile = pseudo_voigt(grid.two_theta[:, None] - two_theta[near], fwhm, eta)
    total = (profile * weight).sum(1)
    return total / total.max()


@pytest.mark.parametrize(
    ("fwhm", "eta", "tolerance"),
    [
        (0.1, 0.0, 8e-3),
        (0.2, 0.0, 5e-4),
        (0.2, 0.5, 1e-3),
        (0.4, 1.0, 5e-4),
    ],
)
def test_rendering_equals_the_direct_sum_of_profiles(reflections, fwhm, eta, tolerance):
    """FWHM 0.1 is 2.9 steps of this grid, 0.2 is 5.8."""
    drawn = render(reflections, torch.arange(3), GRID, fwhm=fwhm, eta=eta)
    assert drawn.dtype == torch.float32
    assert drawn.shape == (3, GRID.num_points)
    for i in range(3):
        expected = direct_sum(reflections, i, GRID, fwhm, eta)
        assert (drawn[i] - expected).abs().max() < tolerance


def test_rows_have_their_own_width_and_narrow_peaks_do_not_ring(reflections):
    double = torch.zeros(3, dtype=torch.float64)
    effects = Effects(torch.tensor([0.3, 0.1, 0.01]), torch.tensor([0.0, 1.0, 0.5]), double, double)
    index = torch.tensor([1, 1, 1])
    drawn = render(reflections, index, GRID, effects=effects)
    assert torch.equal(drawn[:1], render(reflections, index[:1], GRID, fwhm=0.3, eta=0.0))
    sticks = merged_peaks(reflections, two_theta_range=(10, 80))
    x, _ = peaks_of(sticks, 1)
    far = (GRID.two_theta[:, None] - torch.from_numpy(x)).abs().amin(1) > 0.2  # 6 steps
    assert drawn[2, far].max() < 5e-3
    assert drawn.min() >= 0
    torch.testing.assert_close(drawn.amax(1), torch.ones(3))


def test_empty_rows_are_zero():
    table = make_table([COPPER, SILICON])
    narrow = Grid(10.0, 20.0, 256)  # no reflection of either
    drawn = render(bragg_reflections(table, g_max=g_max_of(narrow)), torch.tensor([0, 1]), narrow)
    assert torch.equal(drawn, torch.zeros(2, 256))


@pytest.mark.parametrize("strain", [-0.04, 0.0, 0.05])
def test_strain_scales_d(reflections, strain):
    """The (111) peak of copper moves to where Bragg's law puts the strained spacing."""
    none = torch.zeros(1, dtype=torch.float64)
    effects = Effects(torch.tensor([0.2]), torch.tensor([0.0]), none + strain, none)
    drawn = render(reflections, torch.tensor([0]), GRID, effects=effects)[0].double()
    d = 3.615 / math.sqrt(3) * (1 + strain)
    expected = 2 * math.degrees(math.asin(CU_K_ALPHA / (2 * d)))
    window = (GRID.two_theta - expected).abs() < 1
    centroid = (drawn * GRID.two_theta)[window].sum() / drawn[window].sum()
    assert abs(float(centroid) - expected) < 1e-3


def test_wavelength_moves_peaks(reflections):
    grid = Grid(10.0, 40.0, 1024, wavelength=WAVELENGTHS["MoKa"])
    far = bragg_reflections(make_table([COPPER]), g_max=g_max_of(grid))
    drawn = render(far, torch.tensor([0]), grid)[0]
    expected = 2 * math.degrees(math.asin(WAVELENGTHS["MoKa"] * math.sqrt(3) / 3.615 / 2))
    assert abs(float(grid.two_theta[drawn.argmax()]) - expected) <= grid.step


# ------------------------------------------------------------------------------------------ effects

EVERYTHING = Measurement(
    fwhm=(0.05, 0.3),
    eta=(0.0, 1.0),
    strain=0.05,
    zero_shift=0.2,
    texture=(0.5, 1.5),
    background=0.3,
    noise=0.05,
    impurity=0.2,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(reflections, index, measurement, seed):
    generator = seeded(seed)
    effects = draw_effects(measurement, len(index), generator=generator)
    return render(reflections, index, GRID, effects=effects, generator=generator)


def test_no_effects_give_exactly_the_clean_pattern(reflections):
    index = torch.tensor([2, 0, 1, 1])
    clean = render(reflections, index, GRID, fwhm=0.1)
    assert torch.equal(draw(reflections, index, Measurement(), 0), clean)


def test_the_same_generator_state_gives_the_same_patterns(reflections):
    index = torch.tensor([0, 1, 2, 0])
    first = draw(reflections, index, EVERYTHING, 3)
    assert torch.equal(first, draw(reflections, index, EVERYTHING, 3))
    assert not torch.allclose(first, draw(reflections, index, EVERYTHING, 4), atol=0.01)
    assert not torch.allclose(first[0], first[3], atol=0.01)  # each row its own effects
    assert first.isfinite().all()
    assert first.min() >= 0
    torch.testing.assert_close(first.amax(1), torch.ones(4))


def test_effects_stay_within_their_ranges():
    effects = draw_effects(EVERYTHING, 4000, generator=seeded())
    for value, low, high in (
        (effects.fwhm, 0.05, 0.3),
        (effects.eta, 0, 1),
        (effects.strain, -0.05, 0.05),
        (effects.zero_shift, -0.2, 0.2),
        (effects.texture, 0.5, 1.5),
        (effects.background, 0, 0.3),
        (effects.noise, 0, 0.05),
        (effects.impurity, 0, 0.2),
    ):
        assert low <= value.min()
        assert value.max() <= high
        assert abs(float(value.double().mean()) - (low + high) / 2) < 0.03 * (high - low)
    assert (effects.impurity_from != torch.arange(4000)).all()
    assert len(effects.texture_axis.unique(dim=0)) == 13  # one of each +- pair, never (000)
    assert (effects.texture_axis != 0).any(1).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"fwhm": (0.2, 0.1)},
        {"fwhm": (0.0, 0.1)},
        {"eta": (0.0, 1.5)},
        {"strain": -0.1},
        {"zero_shift": 3.0},
        {"texture": (0.0, 1.0)},
        {"noise": float("nan")},
        {"impurity": 2.0},
    ],
)
def test_senseless_ranges_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} .* must lie within"):
        Measurement(**bad)


def test_effects_of_another_batch_or_without_generator_are_refused(reflections):
    effects = draw_effects(Measurement(noise=0.1), 2, generator=seeded())
    with pytest.raises(ValueError, match="effects of 2 patterns"):
        render(reflections, torch.tensor([0]), GRID, effects=effects, generator=seeded())
    with pytest.raises(ValueError, match=r"expected a torch\.Generator"):
        render(reflections, torch.tensor([0, 1]), GRID, effects=effects)


def effects_with(batch, **values):
    single = torch.ones(batch)
    zero = torch.zeros(batch, dtype=torch.float64)
    return Effects(
        **{"fwhm": 0.2 * single, "eta": 0 * single, "strain": zero, "zero_shift": zero} | values
    )


def test_zero_shift_moves_the_whole_pattern(reflections):
    steps = 12
    shift = torch.tensor([steps * GRID.step, -steps * GRID.step], dtype=torch.float64)
    index = torch.tensor([1, 1])
    clean = render(reflections, index, GRID, fwhm=0.2)
    moved = render(reflections, index, GRID, effects=effects_with(2, zero_shift=shift))
    torch.testing.assert_close(moved[0, steps:], clean[0, :-steps], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[1, :-steps], clean[1, steps:], rtol=0, atol=1e-5)


def area(pattern, two_theta):
    """Area under the peak at an angle, per pattern."""
    return pattern[:, (GRID.two_theta - two_theta).abs() < 0.8].double().sum(1)


def bragg_angle(a, n):
    return 2 * math.degrees(math.asin(CU_K_ALPHA * math.sqrt(n) / a / 2))


def march_dollase(r, cosine):
    return (r**2 * cosine**2 + (1 - cosine**2) / r) ** -1.5


def test_texture_averages_over_equivalent_planes(reflections):
    """Copper textured along (001): of the six {200}, two lie along the axis and four across it."""
    r = torch.tensor([0.6, 0.6, 1.0, 1.7], dtype=torch.float64)
    axis = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 1]], dtype=torch.float64)
    index = torch.zeros(4, dtype=torch.int64)
    clean = render(reflections, index, GRID, fwhm=0.2)
    drawn = render(reflections, index, GRID, effects=effects_with(4, texture=r, texture_axis=axis))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=1e-5)  # equivalent axes
    torch.testing.assert_close(drawn[2], clean[2], rtol=0, atol=1e-5)  # r = 1 does nothing
    x111, x200 = bragg_angle(3.615, 3), bragg_angle(3.615, 4)
    ratio = (area(drawn, x200) / area(drawn, x111)) / (area(clean, x200) / area(clean, x111))
    for i in (0, 3):
        along = (2 * march_dollase(r[i], 1.0) + 4 * march_dollase(r[i], 0.0)) / 6
        expected = along / march_dollase(r[i], 1 / math.sqrt(3))
        assert abs(float(ratio[i] / expected) - 1) < 1e-3


def test_texture_uses_the_reciprocal_direction():
    """In an oblique cell the planes (001) are strengthened most by texture along (001)."""
    from pymatgen.core import Lattice

    lattice = Lattice.from_parameters(4.0, 5.0, 6.0, 70, 110, 65).matrix
    reflections = bragg_reflections(
        make_table([(lattice, np.zeros((1, 3)), np.array([29]))]), g_max=g_max_of(GRID)
    )
    axis = torch.tensor([[0.0, 0, 1]], dtype=torch.float64)
    effects = effects_with(1, texture=torch.tensor([0.3]).double(), texture_axis=axis)
    drawn = render(reflections, torch.tensor([0]), GRID, effects=effects)
    clean = render(reflections, torch.tensor([0]), GRID, fwhm=0.2)
    along = (reflections.hkl[:, :2] == 0).all(1) & (reflections.hkl[:, 2].abs() == 1)
    angle = 2 * math.degrees(math.asin(float(reflections.g[along]) * CU_K_ALPHA / 2))
    assert abs(float(GRID.two_theta[(drawn / clean.clamp_min(0.02))[0].argmax()]) - angle) < 1.0


def test_impurity_mixes_patterns_of_the_batch(reflections):
    clean = render(reflections, torch.tensor([0, 1]), GRID, fwhm=0.2)
    effects = effects_with(
        2, impurity=torch.tensor([0.25, 0.0]), impurity_from=torch.tensor([1, 0])
    )
    drawn = render(reflections, torch.tensor([0, 1]), GRID, effects=effects)
    expected = 0.75 * clean[0] + 0.25 * clean[1]
    torch.testing.assert_close(drawn[0], expected / expected.max())
    torch.testing.assert_close(drawn[1], clean[1])


def test_background_is_smooth_and_not_negative(reflections):
    index = torch.zeros(64, dtype=torch.int64)
    generator = seeded()
    effects = draw_effects(Measurement(fwhm=(0.2, 0.2), background=0.4), 64, generator=generator)
    drawn = render(reflections, index, GRID, effects=effects)
    clean = render(reflections, index, GRID, fwhm=0.2)
    empty = clean[0] < 1e-7  # between the peaks only the background is left
    background = drawn[:, empty]
    assert background.min() >= 0
    assert background.max() < 0.4 + 1e-6
    assert background.max() > 0.3
    assert (drawn[:, 1:] - drawn[:, :-1])[:, empty[1:] & empty[:-1]].abs().max() < 0.01


def test_noise_has_the_variance_of_counting(reflections):
    index = torch.zeros(400, dtype=torch.int64)
    effects = effects_with(400, noise=torch.full((400,), 0.03), fwhm=torch.full((400,), 2.0))
    drawn = render(reflections, index, GRID, effects=effects, generator=seeded())
    clean = render(reflections, index[:1], GRID, fwhm=2.0)[0]
    # Rows are scaled to their noisy maximum afterwards; undo that with their mean.
    drawn = drawn * (clean.mean() / drawn.mean(1, keepdim=True))
    strong = clean > 0.05
    expected = 0.03 * clean[strong].sqrt()
    assert (drawn.std(0)[strong] / expected - 1).abs().median() < 0.05
    assert (drawn.mean(0) - clean)[strong].abs().max() < 0.01

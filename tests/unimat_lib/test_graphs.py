import dataclasses
import itertools
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice

from unimat_lib.crystals.table import table_from_arrays
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_lib.views.graphs import cell_heights, periodic_graph, shortest_translations, triplets


def make_table(crystals):
    """Table of (lattice, frac_coords, atomic_numbers), as they are."""
    lattices, coords, numbers = zip(*crystals, strict=True)
    info = pd.DataFrame({"material_id": [str(i) for i in range(len(lattices))]})
    info = info.assign(formula="X", space_group=1, split="train", source="test")
    return table_from_arrays(lattices, coords, numbers, info)


CELLS = {
    "triclinic": (4.1, 5.3, 6.2, 71, 82, 65),
    "monoclinic": (4.1, 5.3, 6.2, 90, 112, 90),
    "orthorhombic": (3.1, 5.3, 8.2, 90, 90, 90),
    "tetragonal": (3.9, 3.9, 9.7, 90, 90, 90),
    "trigonal": (5.2, 5.2, 5.2, 55, 55, 55),
    "hexagonal": (3.2, 3.2, 5.1, 90, 90, 120),
    "cubic": (4.05, 4.05, 4.05, 90, 90, 90),
    "very skewed": (4.0, 4.5, 5.0, 25, 30, 20),
    "nearly flat": (6.0, 6.0, 6.0, 119, 119, 119),
    "very small": (2.2, 2.3, 2.4, 88, 80, 70),
    "long and thin": (2.6, 2.7, 31.0, 90, 95, 90),
    "large": (13.0, 14.0, 15.0, 90, 90, 90),
}


@pytest.fixture(scope="module")
def crystals():
    generator = np.random.default_rng(0)
    made = []
    for parameters in CELLS.values():
        for size in (1, 2, 5, 9):
            matrix = Lattice.from_parameters(*parameters).matrix
            rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
            coords = generator.random((size, 3)) if size > 1 else np.zeros((1, 3))
            made.append((matrix @ rotation, coords, generator.integers(1, 119, size)))
    return made


@pytest.fixture(scope="module")
def table(crystals):
    return make_table(crystals)


def edge_set(graph, c):
    edges = slice(int(graph.edge_offsets[c]), int(graph.edge_offsets[c + 1]))
    first = int(graph.atom_offsets[c])
    source, target = (graph.edge_index[:, edges] - first).tolist()
    image = graph.image[edges].tolist()
    rows = [(i, j, *n) for i, j, n in zip(target, source, image, strict=True)]
    assert len(set(rows)) == len(rows)
    return set(rows)


@pytest.mark.parametrize("chunk_size", [10, 50_000, 10**9])
def test_same_edges_as_pymatgen(table, chunk_size, monkeypatch):
    monkeypatch.setattr("unimat_lib.views.graphs._CHUNK_CPU", chunk_size)
    cutoff = 5.0
    graph = periodic_graph(table, cutoff=cutoff)
    for c in range(len(table)):
        centre, point, image, distance = table.structure(c).get_neighbor_list(cutoff)
        expected = {
            (int(i), int(j), *map(int, n)) for i, j, n in zip(centre, point, image, strict=True)
        }
        assert edge_set(graph, c) == expected
        ours = graph.distance[graph.edge_offsets[c] : graph.edge_offsets[c + 1]]
        np.testing.assert_allclose(np.sort(ours), np.sort(distance), rtol=1e-6)
    assert (graph.num_edges > 0).sum() > 40


def test_edges_are_sorted_and_vectors_point_to_the_neighbour(table):
    graph = periodic_graph(table, cutoff=4.0)
    source, target = graph.edge_index
    assert (target.diff() >= 0).all()
    assert torch.equal(graph.crystal[source], graph.edge_crystal)
    assert torch.equal(graph.crystal[target], graph.edge_crystal)
    shift = table.frac_coords[source] + graph.image - table.frac_coords[target]
    expected = torch.einsum("ei,eij->ej", shift, table.lattice[graph.edge_crystal])
    torch.testing.assert_close(graph.vector.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(graph.distance, graph.vector.norm(dim=1))
    assert graph.vector.dtype == graph.distance.dtype == torch.float32
    assert torch.equal(graph.num_neighbors.sum(), graph.num_edges.sum())


def test_coordinates_outside_the_cell_are_fine(table):
    moved = dataclasses.replace(table, frac_coords=table.frac_coords + 3)
    torch.testing.assert_close(
        periodic_graph(moved, cutoff=4.0).vector, periodic_graph(table, cutoff=4.0).vector
    )


def test_cap_keeps_the_nearest_and_whole_shells(table):
    everything = periodic_graph(table, cutoff=6.0)
    capped = periodic_graph(table, cutoff=6.0, max_neighbors=7)
    for atom in range(len(table.atomic_numbers)):
        distances = everything.distance[everything.edge_index[1] == atom].sort().values.double()
        kept = capped.distance[capped.edge_index[1] == atom].sort().values.double()
        if len(distances):
            limit = distances[min(7, len(distances)) - 1] + 1e-4
            distances = distances[distances <= limit + 1e-6]
        torch.testing.assert_close(kept, distances)


@pytest.mark.parametrize(
    ("matrix", "shell"),
    [
        (np.eye(3) * 3.0, 6),  # simple cubic
        (1.8 * (1 - np.eye(3)), 12),  # face-centred cubic
        (1.5 * (1 - 2 * np.eye(3)), 8),  # body-centred cubic
    ],
)
def test_cap_never_splits_a_shell(matrix, shell):
    table = make_table([(matrix, np.full((1, 3), 0.3), [26])])
    for cap in (1, shell - 1, shell):
        graph = periodic_graph(table, cutoff=6.0, max_neighbors=cap)
        assert graph.num_neighbors.tolist() == [shell]


def test_isolated_atoms_have_no_edges_and_are_reported(caplog):
    lonely = (np.eye(3) * 20.0, np.zeros((1, 3)), [18])
    polonium = (np.eye(3) * 3.0, np.zeros((1, 3)), [84])
    table = make_table([polonium, lonely, polonium])
    with caplog.at_level(logging.WARNING):
        graph = periodic_graph(table, cutoff=5.0, max_neighbors=12)
    assert "first in crystal 1" in caplog.text
    assert "raise the cutoff" in caplog.text
    assert graph.num_edges.tolist() == [18, 0, 18]  # 6 + 12: the cap falls into the second shell
    alone = graph.select([1])
    assert alone.edge_index.shape == (2, 0)
    assert len(triplets(alone)) == 0


@pytest.mark.parametrize(
    "arguments",
    [{"cutoff": 0.0}, {"cutoff": float("nan")}, {"cutoff": 5.0, "max_neighbors": 0}],
)
def test_bad_arguments(table, arguments):
    with pytest.raises(ValueError, match="expected"):
        periodic_graph(table, **arguments)


def test_flat_cell_is_named():
    flat = np.array([[3.0, 0, 0], [0, 3.0, 0], [3.0, 3.0, 0]])
    table = make_table([(np.eye(3), [[0, 0, 0]], [1]), (flat, [[0, 0, 0]], [1])])
    with pytest.raises(ValueError, match=r"those of crystals \[1\] have none"):
        periodic_graph(table, cutoff=3.0)


def test_empty_table(table):
    graph = periodic_graph(table.select([]), cutoff=3.0, max_neighbors=3)
    assert len(graph) == 0
    assert graph.edge_index.shape == (2, 0)


def test_heights(table):
    lattice = table.lattice
    expected = 1 / torch.linalg.inv(lattice).norm(dim=1)
    torch.testing.assert_close(cell_heights(lattice), expected)


def test_select_equals_a_graph_of_the_selection(table):
    graph = periodic_graph(table, cutoff=4.5, max_neighbors=12)
    index = torch.tensor([7, 3, 3, 40, 0])
    batch, expected = (
        graph.select(index),
        periodic_graph(table.select(index), cutoff=4.5, max_neighbors=12),
    )
    for field in dataclasses.fields(batch):
        assert torch.equal(getattr(batch, field.name), getattr(expected, field.name)), field.name
    assert torch.equal(graph.select([7, 3]).vector, graph.select(index[:2]).vector)


def test_scaled_equals_a_graph_of_the_strained_crystals(table):
    some = table.select([0, 9, 20])
    factor = torch.tensor([0.95, 1.0, 1.04])
    graph = periodic_graph(some, cutoff=4.5)
    strained = dataclasses.replace(some, lattice=some.lattice * factor.double()[:, None, None])
    # The cutoff moves with each crystal, so look at one after the other.
    for c in range(3):
        alone = periodic_graph(strained.select([c]), cutoff=4.5 * float(factor[c]))
        scaled = graph.scaled(factor).select([c])
        torch.testing.assert_close(scaled.distance, alone.distance)
        torch.testing.assert_close(scaled.vector, alone.vector)
    with pytest.raises(ValueError, match="expected 3 factors"):
        graph.scaled(factor[:2])


def test_padded(table):
    graph = periodic_graph(table, cutoff=4.0, max_neighbors=12).select([3, 40, 7])
    atoms, edges = len(graph.atomic_numbers), len(graph.distance)
    padded = graph.padded(num_atoms=atoms + 5, num_edges=edges + 30)
    assert len(padded) == 3
    assert padded.atomic_numbers.shape == (atoms + 5,)
    assert padded.edge_index.shape == (2, edges + 30)
    assert torch.equal(padded.num_edges, graph.num_edges)
    assert torch.equal(padded.crystal, torch.cat([graph.crystal, torch.full((5,), 3)]))
    assert torch.equal(padded.edge_crystal[:edges], graph.edge_crystal)
    assert (padded.edge_crystal[edges:] == 3).all()
    assert (padded.edge_index[1].diff() >= 0).all()
    assert (padded.edge_index[:, edges:] >= atoms).all()  # no real atom is reached
    torch.testing.assert_close(padded.vector.norm(dim=1), padded.distance)
    ours, expected = triplets(padded), triplets(graph)
    assert torch.equal(ours.edge_kj, expected.edge_kj)
    assert torch.equal(ours.edge_ji, expected.edge_ji)
    back = padded.select(torch.arange(3))
    factor = torch.tensor([0.9, 1.0, 1.1])
    stretched = padded.scaled(factor).select([2]), graph.scaled(factor).select([2])
    for one, other in ((back, graph), stretched):
        for field in dataclasses.fields(graph):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize("spare", [(0, 5), (3, -1)])
def test_padded_to_too_small_a_size(table, spare):
    graph = periodic_graph(table, cutoff=4.0)
    atoms, edges = len(graph.atomic_numbers) + spare[0], len(graph.distance) + spare[1]
    with pytest.raises(ValueError, match=f"do not fit into {atoms} and {edges}: raise"):
        graph.padded(num_atoms=atoms, num_edges=edges)


def test_crystals_without_edges_own_none():
    lonely, polonium = (np.eye(3) * s for s in (20.0, 3.0))
    table = make_table([(m, np.zeros((1, 3)), [84]) for m in (lonely, polonium, lonely, polonium)])
    graph = periodic_graph(table, cutoff=3.1)
    assert graph.edge_crystal.tolist() == [1] * 6 + [3] * 6
    assert graph.crystal.tolist() == [0, 1, 2, 3]


def brute_force_triplets(graph):
    source, target = graph.edge_index.tolist()
    image = graph.image.tolist()
    into = {}
    for e, i in enumerate(target):
        into.setdefault(i, []).append(e)
    found = []
    for ji, (j, i) in enumerate(zip(source, target, strict=True)):
        for kj in into.get(j, []):
            # Walk from i: to j in cell image[ji], then to k in cell image[ji] + image[kj].
            total = [a + b for a, b in zip(image[ji], image[kj], strict=True)]
            if (source[kj], total) != (i, [0, 0, 0]):
                found.append((kj, ji))
    return found


@pytest.mark.parametrize("max_neighbors", [None, 4])
def test_triplets_equal_brute_force(table, max_neighbors):
    graph = periodic_graph(table, cutoff=3.0, max_neighbors=max_neighbors)
    found = triplets(graph)
    assert list(zip(*(x.tolist() for x in (found.edge_kj, found.edge_ji)), strict=True)) == (
        brute_force_triplets(graph)
    )
    assert len(found) > 1000
    # PyG's DimeNetPlusPlus: pos_ij = pos[i] - pos[j], pos_jk = pos[j] - pos[k], atan2(|x|, .).
    ij, jk = -graph.vector.double()[found.edge_ji], -graph.vector.double()[found.edge_kj]
    angle = torch.atan2(torch.linalg.cross(ij, jk).norm(dim=-1), (ij * jk).sum(-1))
    torch.testing.assert_close(found.cos_angle.double(), angle.cos(), atol=1e-6, rtol=0)


def test_other_images_of_the_same_atom_form_triplets():
    table = make_table([(np.eye(3) * 3.0, np.zeros((1, 3)), [84])])
    found = triplets(periodic_graph(table, cutoff=3.1))
    assert len(found) == 6 * 5  # every neighbour but the one we came from
    assert found.cos_angle.round().unique().tolist() == [0.0, 1.0]  # straight on, or a right angle


def test_gradient_reaches_the_positions():
    table = worked_crystal()
    graph = periodic_graph(table, cutoff=3.0)
    positions = (table.frac_coords[:, None] * table.lattice[0].T).sum(-1).requires_grad_()
    source, target = graph.edge_index
    vector = positions[source] + graph.image.double() @ table.lattice[0] - positions[target]
    moved = dataclasses.replace(graph, vector=vector, distance=vector.norm(dim=-1))
    torch.testing.assert_close(moved.distance.float(), graph.distance)
    (moved.distance.square().sum() + triplets(moved).cos_angle.square().sum()).backward()
    assert torch.isfinite(positions.grad).all()

    def energy(x):
        vector = x[source] + graph.image.double() @ table.lattice[0] - x[target]
        return triplets(dataclasses.replace(graph, vector=vector)).cos_angle.pow(3).sum()

    random = positions.detach() + 0.05 * torch.randn(positions.shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(energy, random.requires_grad_())


def test_unimodular_change_of_cell_keeps_the_neighbourhoods(table):
    some = table.select([4 * k + 2 for k in range(7)])
    basis = torch.tensor([[1, 2, 0], [0, 1, -1], [0, 0, 1]], dtype=torch.float64)
    other = dataclasses.replace(
        some,
        lattice=basis @ some.lattice,
        frac_coords=(some.frac_coords @ torch.linalg.inv(basis)) % 1,
    )
    one, two = (periodic_graph(t, cutoff=5.0, max_neighbors=12) for t in (some, other))
    assert torch.equal(one.num_neighbors, two.num_neighbors)
    for atom in range(len(some.atomic_numbers)):
        pair = [g.distance[g.edge_index[1] == atom].sort().values for g in (one, two)]
        torch.testing.assert_close(*pair, atol=1e-5, rtol=0)


def test_no_edge_is_missed_at_any_offset():
    # Every subset of neighbours around a corner: atoms near opposite faces of the cell.
    corners = [np.array(c) for c in itertools.product((0.001, 0.999), repeat=3)]
    table = make_table([(np.eye(3) * 10.0, np.stack(corners), [6] * 8)])
    graph = periodic_graph(table, cutoff=0.1)
    assert graph.num_neighbors.tolist() == [7] * 8


def test_shortest_translations_belong_to_the_lattice(table):
    steps = torch.arange(-9, 10, dtype=torch.float64)
    box = torch.cartesian_prod(steps, steps, steps)
    box = box[len(box) // 2 + 1 :]
    found = shortest_translations(table.lattice, count=40)
    expected = (box @ table.lattice).norm(dim=-1).sort(dim=1).values[:, :40]
    assert torch.allclose(found, expected)
    other_basis = torch.tensor([[1.0, 2, 0], [0, 1, 0], [3, 0, 1]], dtype=torch.float64)
    assert torch.allclose(shortest_translations(other_basis @ table.lattice, count=40), found)


def test_shortest_translations_of_a_needle():
    # Forty steps along the short axis are shorter than one along a long one.
    needle = torch.diag(torch.tensor([1.0, 50.0, 60.0], dtype=torch.float64))[None]
    expected = torch.arange(1.0, 41.0, dtype=torch.float64)
    assert torch.allclose(shortest_translations(needle, count=40)[0], expected)
    with pytest.raises(ValueError, match="at least one"):
        shortest_translations(needle, count=0)


def test_translations_go_with_their_crystal(table):
    graph = periodic_graph(table, cutoff=4.0)
    assert torch.equal(graph.select([2, 0]).translations, graph.translations[[2, 0]])
    factor = torch.linspace(0.9, 1.1, len(graph))
    expected = graph.translations * factor[:, None]
    assert torch.allclose(graph.scaled(factor).translations, expected)

import dataclasses
import math
import os
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from learning import assert_all_learn, fit
from pymatgen.core import Lattice
from torch_geometric.nn.models import dimenet as pyg

from unimat_lib.crystals.table import table_from_arrays
from unimat_lib.encoders.structure import (
    EdgeEmbedding,
    SphericalBasis,
    StructureEncoder,
    TorchSums,
    _sums,
    spherical_bessel_zeros,
)
from unimat_lib.views.graphs import periodic_graph, triplets

MODULE = "unimat_lib.encoders.structure"
CUTOFF = 4.5
CELLS = (  # one of each crystal system: lengths in angstrom, angles in degrees
    (4.1, 5.3, 6.2, 71, 82, 65),
    (4.1, 5.3, 6.2, 90, 112, 90),
    (3.1, 5.3, 8.2, 90, 90, 90),
    (3.9, 3.9, 9.7, 90, 90, 90),
    (5.2, 5.2, 5.2, 55, 55, 55),
    (3.2, 3.2, 5.1, 90, 90, 120),
    (4.05, 4.05, 4.05, 90, 90, 90),
)
TINY = {"hidden": 32, "blocks": 2, "int_emb": 16, "out_emb": 32, "cutoff": CUTOFF}


def make_table(crystals):
    """Table of (lattice, frac_coords, atomic_numbers), as they are."""
    lattices, coords, numbers = zip(*crystals, strict=True)
    info = pd.DataFrame({"material_id": [str(i) for i in range(len(lattices))]})
    info = info.assign(formula="X", space_group=1, split="train", source="test")
    return table_from_arrays(lattices, coords, numbers, info)


@pytest.fixture(scope="module")
def table():
    generator = np.random.default_rng(1)
    crystals = []
    for parameters in CELLS:
        # Atoms on a jittered grid keep a physical distance from each other.
        grid = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.5]])
        for size in (2, 3):
            coords = (grid[:size] + generator.normal(0, 0.02, (size, 3))) % 1
            crystals.append(
                (
                    Lattice.from_parameters(*parameters).matrix,
                    coords,
                    generator.integers(1, 119, size),
                )
            )
    return make_table(crystals)


@pytest.fixture(scope="module")
def graph(table):
    return periodic_graph(table, cutoff=CUTOFF, max_neighbors=12)


@pytest.fixture(scope="module")
def pyg_basis():
    return pyg.SphericalBasisLayer(4, 3, cutoff=CUTOFF)  # more takes SymPy half a minute


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return StructureEncoder(dim=24, **TINY).eval()


def as_graph(table, max_neighbors=12):
    return periodic_graph(table, cutoff=CUTOFF, max_neighbors=max_neighbors)


def run(encoder, graph):
    """Embeddings, and the gradient of each parameter."""
    encoder.zero_grad()
    out = encoder(graph)
    out.float().square().sum().backward()
    return out.detach(), {name: p.grad for name, p in encoder.named_parameters()}


def assert_same_run(actual, expected, rtol):
    """Embeddings and gradients agree, each tensor within ``rtol`` of its norm."""
    assert (actual[0] - expected[0]).norm() <= rtol * expected[0].norm()
    for name, grad in expected[1].items():
        assert (actual[1][name] - grad).norm() <= rtol * grad.norm() + 1e-12, name


# ---- layers against PyTorch Geometric's


def test_zeros_of_bessel_functions():
    from scipy.special import spherical_jn

    zeros = spherical_bessel_zeros(7, 6)
    assert zeros.shape == (7, 6)
    assert (zeros.diff(dim=1) > 0).all() and (zeros.diff(dim=0) > 0).all()
    values = [spherical_jn(degree, z.numpy()) for degree, z in enumerate(zeros)]
    np.testing.assert_allclose(values, 0, atol=1e-12)


def test_spherical_basis_equals_that_of_pyg(pyg_basis):
    distance = torch.linspace(1.0, 4.7, 50, dtype=torch.float64)  # beyond the cutoff too
    angle = torch.linspace(0, math.pi, 80, dtype=torch.float64)
    edge = torch.arange(80) % 50
    ours = SphericalBasis(num_spherical=4, num_radial=3, cutoff=CUTOFF)
    expected = pyg_basis(distance, angle, edge)
    torch.testing.assert_close(ours(distance, angle.cos(), edge), expected, atol=2e-5, rtol=1e-5)
    single = ours(distance.float(), angle.cos().float(), edge)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, atol=2e-5, rtol=1e-4)


def test_spherical_basis_of_high_degree_equals_scipy():
    from scipy.special import eval_legendre, spherical_jn

    distance, cos_angle = torch.linspace(0.7, 4.4, 30), torch.linspace(-1, 1, 30)
    basis = SphericalBasis(num_spherical=7, num_radial=6, cutoff=CUTOFF)
    out = basis(distance, cos_angle, torch.arange(30)).view(30, 7, 6)
    x = distance.double().numpy()[:, None] / CUTOFF
    smooth = 1 / x - 28 * x**5 + 48 * x**6 - 21 * x**7
    for degree, zeros in enumerate(spherical_bessel_zeros(7, 6).numpy()):
        norm = np.sqrt(2) / np.abs(spherical_jn(degree + 1, zeros))
        legendre = eval_legendre(degree, cos_angle.double().numpy())[:, None]
        expected = smooth * norm * spherical_jn(degree, x * zeros) * legendre
        expected *= np.sqrt((2 * degree + 1) / (4 * np.pi))
        np.testing.assert_allclose(out[:, degree], expected, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("num_spherical", [1, 2, 3])
def test_spherical_basis_of_few_functions(num_spherical):
    basis = SphericalBasis(num_spherical=num_spherical, num_radial=4, cutoff=5.0)
    out = basis(torch.rand(5) + 1, torch.rand(9), torch.arange(9) % 5)
    assert out.shape == (9, 4 * num_spherical)


def test_network_equals_that_of_pyg(pyg_basis, graph):
    # The very modules, run the way torch_geometric's DimeNetPlusPlus.forward runs them.
    torch.manual_seed(0)
    ours = StructureEncoder(dim=8, num_spherical=4, num_radial=3, **TINY)
    radial = pyg.BesselBasisLayer(3, CUTOFF)
    embedding = EdgeEmbedding(3, 32, torch.nn.SiLU())
    embedding.load_state_dict(ours.embedding.state_dict())
    embedding.forward = pyg.EmbeddingBlock.forward.__get__(embedding)
    outputs = [pyg.OutputPPBlock(3, 32, 32, 32, 2, torch.nn.SiLU()) for _ in range(3)]
    blocks = [pyg.InteractionPPBlock(32, 16, 8, 4, 3, 1, 2, torch.nn.SiLU()) for _ in range(2)]
    for theirs, own in zip(outputs + blocks, [*ours.outputs, *ours.interactions], strict=True):
        theirs.load_state_dict(own.state_dict())
    (j, i), pairs = graph.edge_index, triplets(graph)
    # In float64, because PyG's formulas for the basis lose digits at short distances.
    rbf = radial(graph.distance)
    sbf = pyg_basis(
        graph.distance.double(), pairs.cos_angle.clamp(-1, 1).arccos().double(), pairs.edge_kj
    ).float()
    x = embedding(graph.atomic_numbers, rbf, i, j)
    size = len(graph.atomic_numbers)
    expected = outputs[0](x, rbf, i, num_nodes=size)
    for block, output in zip(blocks, outputs[1:], strict=True):
        x = block(x, rbf, sbf, pairs.edge_kj, pairs.edge_ji)
        expected = expected + output(x, rbf, i, num_nodes=size)
    expected = expected + ours.element(graph.atomic_numbers)
    torch.testing.assert_close(ours.atoms(graph), expected, atol=2e-4, rtol=2e-4)


# ---- structure encoder


def test_shape(encoder, graph):
    out = encoder(graph)
    assert out.shape == (len(graph), 24)
    assert out.dtype == torch.float32
    assert torch.equal(out, encoder(graph))
    assert torch.pdist(out).min() > 1e-3  # different crystals, different vectors


def test_batch_equals_one_by_one(encoder, graph):
    together = encoder(graph)
    alone = torch.cat([encoder(graph.select([c])) for c in range(len(graph))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_rotation_and_translation(encoder, table, graph):
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    moved = dataclasses.replace(
        table,
        lattice=table.lattice @ rotation,
        frac_coords=(table.frac_coords + torch.tensor([0.13, 0.57, 0.91])) % 1,
    )
    torch.testing.assert_close(encoder(as_graph(moved)), encoder(graph), atol=2e-5, rtol=1e-4)


def test_order_of_the_atoms(encoder, table, graph):
    order = torch.cat(
        [torch.arange(b - 1, a - 1, -1) for a, b in table.offsets.unfold(0, 2, 1).tolist()]
    )
    swapped = dataclasses.replace(
        table,
        atomic_numbers=table.atomic_numbers[order],
        frac_coords=table.frac_coords[order],
    )
    torch.testing.assert_close(encoder(as_graph(swapped)), encoder(graph), atol=2e-5, rtol=1e-4)


def test_change_of_basis(encoder, table, graph):
    basis = torch.tensor([[1, 1, 0], [0, 1, -1], [0, 0, 1]], dtype=torch.float64)
    other = dataclasses.replace(
        table,
        lattice=basis @ table.lattice,
        frac_coords=(table.frac_coords @ torch.linalg.inv(basis)) % 1,
    )
    torch.testing.assert_close(encoder(as_graph(other)), encoder(graph), atol=2e-5, rtol=1e-4)


def test_supercell(table):
    doubled = []
    for c in range(len(table)):
        atoms = slice(*table.offsets[c : c + 2].tolist())
        lattice, frac = table.lattice[c].numpy(), table.frac_coords[atoms].numpy()
        half = frac / [2, 1, 1]
        doubled.append(
            (
                lattice * [[2], [1], [1]],
                np.concatenate([half, half + np.array([0.5, 0, 0])]),
                np.tile(table.atomic_numbers[atoms].numpy(), 2),
            )
        )
    small, large = as_graph(table), as_graph(make_table(doubled))
    torch.manual_seed(0)
    blind = StructureEncoder(dim=24, atom_count=False, **TINY).eval()
    torch.testing.assert_close(blind(small), blind(large), atol=2e-5, rtol=1e-4)
    # The copies of an atom share the maximum, and must share its gradient.
    assert_same_run(run(blind, large), run(blind, small), 1e-3)
    counting = StructureEncoder(dim=24, **TINY).eval()
    assert (counting(small) - counting(large)).abs().amax(1).min() > 1e-3


def test_stretching_changes_the_embedding(encoder, graph):
    ones = torch.ones(len(graph))
    torch.testing.assert_close(encoder(graph.scaled(ones)), encoder(graph))
    assert (encoder(graph.scaled(1.02 * ones)) - encoder(graph)).abs().amax(1).min() > 1e-4


def test_edge_at_the_cutoff_counts_for_nothing(encoder, graph):
    # All edges beyond the cutoff: only the elements and the number of atoms are left.
    far = graph.scaled(torch.full((len(graph),), 5.0))
    assert far.distance.min() > CUTOFF
    torch.testing.assert_close(
        encoder.atoms(far), encoder.element(graph.atomic_numbers), atol=1e-6, rtol=0
    )


def test_crystal_without_edges(encoder, table):
    far = dataclasses.replace(table, lattice=table.lattice * 10).select([0, 3])
    mixed = make_table(
        [
            (np.eye(3) * 30.0, np.zeros((1, 3)), [118]),
            (np.eye(3) * 30.0, np.zeros((1, 3)), [1]),
            (np.eye(3) * 3.0, np.zeros((1, 3)), [84]),
        ]
    )
    for lonely in (far, mixed):
        out = encoder(as_graph(lonely))
        assert torch.isfinite(out).all()
        assert not torch.allclose(out[0], out[1])  # the elements are still known
        out.sum().backward()
    torch.testing.assert_close(encoder(as_graph(mixed.select([2])))[0], out[2], atol=1e-5, rtol=0)
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_every_parameter_gets_a_gradient(encoder, graph):
    assert_all_learn(encoder, encoder(graph))
    assert encoder.radial_basis.freq.grad.abs().min() > 0


def test_gradient_of_the_embedding_reaches_the_vectors(encoder, graph):
    vector = graph.vector.clone().requires_grad_()
    moved = dataclasses.replace(graph, vector=vector, distance=vector.norm(dim=-1))
    encoder(moved).square().sum().backward()
    assert torch.isfinite(vector.grad).all()
    assert (vector.grad.norm(dim=1) > 0).float().mean() > 0.9


def test_bfloat16_on_the_cpu(encoder, graph):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = encoder(graph)
    out.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())
    error = (out.float() - encoder(graph)).norm() / encoder(graph).norm()
    assert error < 0.03


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_on_the_gpu(encoder, table):
    expected = encoder(as_graph(table))
    on_device = as_graph(table.to("cuda"))
    assert torch.equal(on_device.edge_index.cpu(), as_graph(table).edge_index)
    out = encoder.to("cuda")(on_device).cpu()
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=1e-3)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.isfinite(encoder(on_device.select([3, 1])).float()).all()


# ---- padding, and the kernels against the tensor operations


@pytest.mark.parametrize("spare_edges", [0, 40])
def test_padding_changes_nothing(encoder, graph, spare_edges):
    atoms, edges = len(graph.atomic_numbers), len(graph.distance)
    padded = graph.padded(num_atoms=atoms + 9, num_edges=edges + spare_edges)
    actual, expected = run(encoder, padded), run(encoder, graph)
    assert actual[0].shape == expected[0].shape
    assert_same_run(actual, expected, 1e-6)


@pytest.fixture
def kernel_device():
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("TRITON_INTERPRET") == "1":  # slow; Triton 3.6 needs NumPy < 2.4 for it
        return "cpu"
    pytest.skip("no CUDA device, and TRITON_INTERPRET=1 is not set")


@pytest.fixture
def use_kernels(kernel_device, monkeypatch):
    from unimat_lib.kernels.triplets import KernelSums

    return lambda: monkeypatch.setattr(f"{MODULE}._sums", KernelSums)


@pytest.fixture
def use_torch(monkeypatch):
    return lambda: monkeypatch.setattr(f"{MODULE}._sums", TorchSums)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("max_neighbors", "sizes"),
    [
        (12, {}),
        (40, {}),  # several tiles on both sides
        (5, {"int_emb": 24, "num_spherical": 3, "basis_emb": 5}),  # no powers of two; a lone atom
    ],
)
def test_kernels_equal_tensor_operations(
    table, kernel_device, use_kernels, use_torch, max_neighbors, sizes, padded
):
    some = make_table(
        [
            (table.lattice[c].numpy(), table.frac_coords[a:b].numpy(), table.atomic_numbers[a:b])
            for c, (a, b) in ((c, table.offsets[c : c + 2].tolist()) for c in (0, 13))
        ]
        + [(np.eye(3) * 30.0, np.zeros((1, 3)), [118])]
    )
    graph = as_graph(some.to(kernel_device), max_neighbors)
    assert (graph.num_neighbors.max() > 16) == (max_neighbors == 40)
    torch.manual_seed(0)
    encoder = StructureEncoder(dim=8, **TINY | {"blocks": 1} | sizes).to(kernel_device)
    use_torch()
    expected = run(encoder, graph)
    use_kernels()
    if padded:
        graph = graph.padded(num_atoms=9, num_edges=len(graph.distance) + 40)
    assert_same_run(run(encoder, graph), expected, 1e-5)


def test_vectors_with_gradients_do_not_go_to_the_kernels(graph, monkeypatch):
    # As on a GPU, where the kernels are the rule.
    monkeypatch.setattr(type(graph), "device", torch.device("cuda"))
    monkeypatch.setattr(f"{MODULE}.TorchSums", lambda graph, basis: "tensor operations")
    basis = SphericalBasis(num_spherical=2, num_radial=2, cutoff=CUTOFF)
    moved = dataclasses.replace(graph, vector=graph.vector.clone().requires_grad_())
    assert _sums(moved, basis) == "tensor operations"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_in_bfloat16_are_as_good_as_tensor_operations(table, use_kernels, use_torch):
    graph = as_graph(table.to("cuda"))
    torch.manual_seed(0)
    encoder = StructureEncoder(dim=24, **TINY).to("cuda")
    use_torch()
    exact = run(encoder, graph)
    errors = []
    for choose in (use_torch, use_kernels):
        choose()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out, grads = run(encoder, graph)
        difference = sum((grads[n] - exact[1][n]).square().sum() for n in grads)
        errors.append(((out - exact[0]).norm() / exact[0].norm(), difference.sqrt()))
    assert errors[1][0] < 1.2 * errors[0][0] + 1e-3
    assert errors[1][1] < 1.2 * errors[0][1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_captured_step_follows_its_inputs(table):
    graph = as_graph(table.to("cuda"))
    batches = [graph.select(i).padded(num_atoms=40, num_edges=900) for i in ([0, 3, 5], [8, 1, 12])]
    torch.manual_seed(0)
    encoder = StructureEncoder(dim=24, **TINY).to("cuda")
    static = dataclasses.replace(
        batches[0], **{n: getattr(batches[0], n).clone() for n in batches[0].__dataclass_fields__}
    )
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(encoder, static)
    torch.cuda.current_stream().wait_stream(side)
    encoder.zero_grad(set_to_none=True)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        out = encoder(static)
        grads = torch.autograd.grad(out.square().sum(), list(encoder.parameters()))
    for batch in (batches[1], batches[0], batches[1]):
        for name in batch.__dataclass_fields__:
            getattr(static, name).copy_(getattr(batch, name))
        captured.replay()
        expected = run(encoder, batch)
        assert torch.equal(out, expected[0])  # no order of additions is left to chance
        for grad, other in zip(grads, expected[1].values(), strict=True):
            torch.testing.assert_close(grad, other, atol=1e-5, rtol=1e-4)


def test_structure_encoder_learns_sixteen_crystals(table):
    some = table.select([*range(14), 0, 5])
    torch.manual_seed(0)
    target = torch.cat([some.lengths, some.angles / 30], dim=1).float()
    target = (target - target.mean(0)) / target.std(0)
    losses = fit(StructureEncoder(dim=6, **TINY), as_graph(some), target)
    assert losses[-1] < losses[0] / 10


def test_translations_keep_the_cell_apart():
    # Two boxes around one atom each that differ only beyond the cutoff look alike to DimeNet++.
    lattice = torch.diag_embed(torch.tensor([[7.0, 7, 7], [7, 7, 9]], dtype=torch.float64))
    info = pd.DataFrame(
        {"material_id": ["a", "b"], "formula": "X", "space_group": 1, "source": "x"}
    )
    boxes = table_from_arrays(
        list(lattice.numpy()),
        [np.zeros((1, 3))] * 2,
        [np.array([14])] * 2,
        info.assign(split="train"),
    )
    graph = periodic_graph(boxes, cutoff=5.0)
    torch.manual_seed(0)
    small = dict(dim=16, hidden=16, blocks=1, int_emb=8, out_emb=16)
    blind, seeing = (StructureEncoder(translations=n, **small).eval() for n in (0, 32))
    with torch.no_grad():
        assert torch.allclose(*blind(graph))
        assert not torch.allclose(*seeing(graph), atol=1e-3)
    with pytest.raises(ValueError, match="expected 0 to 64 translations, got 65"):
        StructureEncoder(translations=65, **small)

"""The structure encoder: DimeNet++ on periodic graphs, Tensor[B, dim] out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.models.dimenet import (
    BesselBasisLayer,
    EmbeddingBlock,
    Envelope,
    InteractionPPBlock,
    OutputPPBlock,
)

from unimat_lib.graphs import PeriodicGraph, triplets

MAX_ATOMIC_NUMBER = 118


class StructureEncoder(nn.Module):
    """DimeNet++ on a periodic graph, with an embedding in place of the energy.

    Messages live on the edges j -> i. A message is updated from those of the edges k -> j that end
    where it begins, weighted by a basis in the distance of k -> j and the angle between the two
    (Gasteiger, Giri, Margraf and Guennemann 2020, arXiv:2011.14115). The layers are PyTorch
    Geometric's; edges and triplets know periodic images (``unimat_lib.graphs``). Distances and
    angles alone enter, so the result does not change under rotation, translation, a different
    order of the atoms or a different basis of the same lattice.

    Readout. The paper sums one energy per atom. Here each atom has a vector, to which an embedding
    of its element is added so that an atom without neighbours is still known. The crystal is the
    mean over atoms (what it is made of) beside the maximum over atoms (what is rare in it); both
    stay the same when the cell is repeated. How large the cell is cannot be seen in
    neighbourhoods, so the logarithm of the number of atoms is added, which the sum of the paper
    contains implicitly. ``atom_count=False`` leaves it out; then a supercell gets the same vector
    as its primitive cell.

    Under autocast the linear layers run in bfloat16; the bases, the sums over neighbours and the
    pooling stay in float32. On the CPU results are deterministic.

    Args:
        dim: Size of the embedding.
        hidden: Size of a message.
        blocks: Interaction blocks.
        num_radial: Radial basis functions.
        num_spherical: Angular basis functions (degrees 0 to num_spherical - 1).
        cutoff: Distance in angstrom where messages vanish smoothly; give that of the graph.
        int_emb: Size of a message inside the triplet interaction.
        basis_emb: Size to which the bases are reduced first.
        out_emb: Size of an atom's vector.
        envelope_exponent: Order of the smooth cutoff.
        atom_count: Whether the embedding knows the number of atoms in the cell.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden: int = 128,
        blocks: int = 3,
        num_radial: int = 6,
        num_spherical: int = 7,
        cutoff: float = 5.0,
        int_emb: int = 64,
        basis_emb: int = 8,
        out_emb: int = 256,
        envelope_exponent: int = 5,
        atom_count: bool = True,
    ) -> None:
        super().__init__()
        act = nn.SiLU()
        self.atom_count = atom_count
        self.radial_basis = BesselBasisLayer(num_radial, cutoff, envelope_exponent)
        self.spherical_basis = SphericalBasis(
            num_spherical=num_spherical,
            num_radial=num_radial,
            cutoff=cutoff,
            envelope_exponent=envelope_exponent,
        )
        self.embedding = EdgeEmbedding(num_radial, hidden, act)
        self.interactions = nn.ModuleList(
            Interaction(hidden, int_emb, basis_emb, num_spherical, num_radial, 1, 2, act)
            for _ in range(blocks)
        )
        # Zeros, the paper's choice for an energy, would make all embeddings equal at the start.
        self.outputs = nn.ModuleList(
            AtomOutput(num_radial, hidden, out_emb, out_emb, 2, act, "glorot_orthogonal")
            for _ in range(blocks + 1)
        )
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, out_emb)
        self.norm = nn.LayerNorm(2 * out_emb)
        self.readout = nn.Sequential(
            nn.Linear(2 * out_emb + atom_count, 2 * out_emb), nn.SiLU(), nn.Linear(2 * out_emb, dim)
        )

    def forward(self, graph: PeriodicGraph) -> Tensor:
        """Embeddings [B, dim] of the B crystals of a graph."""
        pooled = self.norm(self.pool(graph, self.atoms(graph)))  # [B, 2 * out_emb]
        if self.atom_count:
            pooled = torch.cat([pooled, graph.num_atoms.to(pooled).log()[:, None]], dim=1)
        return self.readout(pooled)

    def atoms(self, graph: PeriodicGraph) -> Tensor:
        """One vector per atom, [N, out_emb] float32."""
        source, target = graph.edge_index
        num_atoms = graph.atomic_numbers.shape[0]
        pairs = triplets(graph)
        radial = self.radial_basis(graph.distance)  # [E, num_radial]
        spherical = self.spherical_basis(graph.distance, pairs.cos_angle, pairs.edge_kj)  # [T, L*R]
        if torch.is_autocast_enabled(spherical.device.type):
            # Once here, not once in each block: it is the largest tensor of the network.
            spherical = spherical.to(torch.get_autocast_dtype(spherical.device.type))
        message = self.embedding(graph.atomic_numbers, radial, target, source)  # [E, hidden]
        atoms = self.element(graph.atomic_numbers)  # [N, out_emb]
        atoms = atoms + self.outputs[0](message, radial, target, num_atoms).float()
        for interaction, output in zip(self.interactions, self.outputs[1:], strict=True):
            message = interaction(message, radial, spherical, pairs.edge_kj, pairs.edge_ji)
            atoms = atoms + output(message, radial, target, num_atoms).float()
        return atoms

    @staticmethod
    def pool(graph: PeriodicGraph, atoms: Tensor) -> Tensor:
        """Mean and maximum [B, 2 * F] over the atoms of each crystal, from atoms [N, F]."""
        crystal, size = graph.crystal, graph.num_crystals
        mean = scatter_sum(atoms, crystal, size) / graph.num_atoms[:, None]
        index = crystal[:, None].expand_as(atoms)
        largest = atoms.new_zeros(size, atoms.shape[1])
        largest = largest.scatter_reduce(0, index, atoms, "amax", include_self=False)
        return torch.cat([mean, largest], dim=1)


class SphericalBasis(nn.Module):
    """Basis j_l(z_ln d / cutoff) Y_l0(angle) of DimeNet, times a smooth cutoff.

    Equal to PyTorch Geometric's ``SphericalBasisLayer``. That one builds its 42 formulas with
    SymPy, which takes seconds, and evaluates them in float32, where the formulas for high degrees
    cancel at short distances; here three-term recurrences do both parts, the radial one in float64
    on the edges (few), the angular one on the triplets (many).

    Args:
        num_spherical: Degrees l = 0 to num_spherical - 1.
        num_radial: Zeros z_l1, z_l2, ... of each spherical Bessel function.
        cutoff: Distance in angstrom where the basis vanishes.
        envelope_exponent: Order of the smooth cutoff.
    """

    def __init__(
        self, *, num_spherical: int, num_radial: int, cutoff: float, envelope_exponent: int = 5
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.envelope = Envelope(envelope_exponent)
        zeros = spherical_bessel_zeros(num_spherical, num_radial)  # [L, R]
        peak = torch.stack([_spherical_bessel(z, degree + 1)[-1] for degree, z in enumerate(zeros)])
        degrees = torch.arange(num_spherical, dtype=torch.float64)
        self.register_buffer("zeros", zeros, persistent=False)
        self.register_buffer("norm", math.sqrt(2) / peak.abs(), persistent=False)  # [L, R]
        self.harmonic = ((2 * degrees + 1) / (4 * math.pi)).sqrt().tolist()  # [L]

    def forward(self, distance: Tensor, cos_angle: Tensor, edge_kj: Tensor) -> Tensor:
        """Basis of each triplet.

        Args:
            distance: [E] float32 in angstrom.
            cos_angle: [T] float32.
            edge_kj: [T] int64, the edge whose distance counts.

        Returns:
            [T, num_spherical * num_radial] float32.
        """
        radial = self.radial(distance).index_select(0, edge_kj)  # [T, L, R]
        return (radial * self.angular(cos_angle)[:, :, None]).flatten(1)

    def radial(self, distance: Tensor) -> Tensor:
        """Radial part [E, L, R] of distances [E]."""
        x = distance.double() / self.cutoff
        x = x[:, None]
        parts = [
            _spherical_bessel(x * z, degree)[-1] * norm
            for degree, (z, norm) in enumerate(zip(self.zeros, self.norm, strict=True))
        ]
        return (torch.stack(parts, dim=1) * self.envelope(x)[:, :, None]).to(distance.dtype)

    def angular(self, cos_angle: Tensor) -> Tensor:
        """Angular part [T, L] of cosines [T]: Legendre polynomials times sqrt((2l+1) / 4 pi)."""
        legendre = [torch.ones_like(cos_angle), cos_angle]
        for degree in range(1, len(self.harmonic) - 1):
            above = (2 * degree + 1) * cos_angle * legendre[-1] - degree * legendre[-2]
            legendre.append(above / (degree + 1))
        scaled = [c * p for c, p in zip(self.harmonic, legendre, strict=False)]
        return torch.stack(scaled, dim=1)


class EdgeEmbedding(EmbeddingBlock):
    """PyTorch Geometric's first message of an edge, for all elements up to 118 (there: 94)."""

    def __init__(self, num_radial: int, hidden: int, act: nn.Module) -> None:
        super().__init__(num_radial, hidden, act)
        self.emb = nn.Embedding(MAX_ATOMIC_NUMBER + 1, hidden)
        self.reset_parameters()

    def forward(self, x: Tensor, rbf: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Messages [E, hidden] from atomic numbers [N], basis [E, R], targets and sources [E]."""
        # lin([x_i, x_j, rbf]) with the two parts of an atom multiplied once per atom, not per edge.
        x = self.emb(x)
        rbf = self.act(self.lin_rbf(rbf))
        to_target, to_source, to_basis = self.lin.weight.chunk(3, dim=1)
        x_i = F.linear(x, to_target, self.lin.bias).index_select(0, i)
        x_j = F.linear(x, to_source).index_select(0, j)
        return self.act(x_i + x_j + F.linear(rbf, to_basis))


class Interaction(InteractionPPBlock):
    """PyTorch Geometric's DimeNet++ interaction with other gather and sum operations.

    The numbers are the same; ``index_select`` has a faster, and on the CPU deterministic, gradient
    than indexing, and the sum over triplets is kept in float32 under autocast.
    """

    def forward(
        self, x: Tensor, rbf: Tensor, sbf: Tensor, idx_kj: Tensor, idx_ji: Tensor
    ) -> Tensor:
        """Updated messages [E, hidden] from x [E, hidden], rbf [E, R], sbf [T, L * R]."""
        x_ji = self.act(self.lin_ji(x))
        x_kj = self.act(self.lin_kj(x)) * self.lin_rbf2(self.lin_rbf1(rbf))
        x_kj = self.act(self.lin_down(x_kj))  # [E, int_emb]
        x_kj = x_kj.index_select(0, idx_kj) * self.lin_sbf2(self.lin_sbf1(sbf))  # [T, int_emb]
        x_kj = scatter_sum(x_kj, idx_ji, x.shape[0])  # [E, int_emb]
        h = x_ji + self.act(self.lin_up(x_kj))
        for layer in self.layers_before_skip:
            h = layer(h)
        h = self.act(self.lin(h)) + x
        for layer in self.layers_after_skip:
            h = layer(h)
        return h


class AtomOutput(OutputPPBlock):
    """PyTorch Geometric's DimeNet++ output of an atom, with the sum kept in float32."""

    def forward(self, x: Tensor, rbf: Tensor, i: Tensor, num_nodes: int | None = None) -> Tensor:
        """Atom vectors [N, out] from messages [E, hidden], basis [E, R] and targets [E]."""
        x = scatter_sum(self.lin_rbf(rbf) * x, i, num_nodes)
        x = self.lin_up(x)
        for lin in self.lins:
            x = self.act(lin(x))
        return self.lin(x)


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum of the rows [M, F] that share an index [M], as float32 (or wider) [size, F]."""
    if values.dtype in (torch.bfloat16, torch.float16):
        values = values.float()
    out = values.new_zeros(size, values.shape[1])
    return out.scatter_add(0, index[:, None].expand_as(values), values)


def spherical_bessel_zeros(num_degrees: int, num_zeros: int) -> Tensor:
    """The first positive zeros of the spherical Bessel functions j_0, j_1, ..., float64 [L, R]."""
    # Those of j_0 are n pi; one zero of j_l lies between each two neighbours of j_(l-1).
    zeros = math.pi * torch.arange(1, num_zeros + num_degrees, dtype=torch.float64)
    rows = [zeros[:num_zeros]]
    for degree in range(1, num_degrees):
        low, high = zeros[:-1].clone(), zeros[1:].clone()
        sign = _spherical_bessel(low, degree)[-1].sign()
        for _ in range(60):  # bisection down to the last bit
            middle = (low + high) / 2
            left = _spherical_bessel(middle, degree)[-1].sign() == sign
            low, high = torch.where(left, middle, low), torch.where(left, high, middle)
        zeros = (low + high) / 2
        rows.append(zeros[:num_zeros])
    return torch.stack(rows)


def _spherical_bessel(x: Tensor, degree: int) -> list[Tensor]:
    """j_0(x) to j_degree(x) by upward recurrence; float64 keeps 9 digits where this is used."""
    sin, inverse = x.sin(), 1 / x
    values = [sin * inverse]
    if degree:
        values.append((values[0] - x.cos()) * inverse)
    for order in range(1, degree):
        values.append((2 * order + 1) * inverse * values[-1] - values[-2])
    return values

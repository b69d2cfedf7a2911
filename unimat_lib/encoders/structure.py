"""Periodic graphs of ``B`` crystals in, one vector each ``[B, dim]`` out: DimeNet++."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.models import dimenet

from unimat_lib.encoders.linear import use_column_sums
from unimat_lib.views.graphs import NUM_TRANSLATIONS, PeriodicGraph, triplets

if TYPE_CHECKING:
    from unimat_lib.kernels.triplets import KernelSums

MAX_ATOMIC_NUMBER = 118

_EXPONENT = 5  # order of the smooth cutoff


class StructureEncoder(nn.Module):
    """DimeNet++ on a periodic graph, with an embedding in place of the energy.

    Messages live on the edges j -> i. A message is updated from those of the edges k -> j that end
    where it begins, weighted by a basis in the distance of k -> j and the angle between the two
    (Gasteiger, Giri, Margraf and Guennemann 2020, arXiv:2011.14115). The layers are PyTorch
    Geometric's; edges and triplets know periodic images (:mod:`.graphs`). Distances and angles
    alone enter, so rotation, translation, the order of the atoms and the basis of the lattice
    change nothing.

    Readout. Each atom has a vector, to which an embedding of its element is added so that an atom
    without neighbours is still known. The crystal is the mean over atoms beside the maximum (what
    is rare in it); both stay the same when the cell is repeated. The size of the cell cannot be
    seen in neighbourhoods, so the logarithm of the number of atoms is added, as in the paper's sum
    of energies. ``atom_count=False`` leaves it out; then a supercell is its primitive cell.

    Under autocast the linear layers run in bfloat16; bases, sums over neighbours and pooling stay
    in float32. The same batch gives the same numbers again, on the CPU and, by :mod:`.triplets`, on
    a GPU, where a CUDA graph can hold both passes with batches ``padded`` to one size.

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
        atom_count: Whether the embedding knows the number of atoms in the cell.
        translations: How many of the shortest lattice translations the readout sees beside the
            atoms. 0 is DimeNet++, whose messages reach a few angstrom and forget the cell.
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
        atom_count: bool = True,
        translations: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= translations <= NUM_TRANSLATIONS:
            raise ValueError(f"expected 0 to {NUM_TRANSLATIONS} translations, got {translations}")
        act = nn.SiLU()
        self.atom_count = atom_count
        self.lattice = TranslationEncoder(translations, out_emb) if translations else None
        self.radial_basis = dimenet.BesselBasisLayer(num_radial, cutoff, _EXPONENT)
        self.spherical_basis = SphericalBasis(num_spherical, num_radial, cutoff)
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
        features = (2 + bool(translations)) * out_emb + atom_count
        self.readout = nn.Sequential(
            nn.Linear(features, 2 * out_emb), nn.SiLU(), nn.Linear(2 * out_emb, dim)
        )
        use_column_sums(self)

    def forward(self, graph: PeriodicGraph) -> Tensor:
        """Embeddings [B, dim] of the B crystals of a graph."""
        pooled = self.norm(self.pool(graph, self.atoms(graph)))  # [B, 2 * out_emb]
        if self.atom_count:
            pooled = torch.cat([pooled, graph.num_atoms.to(pooled).log()[:, None]], dim=1)
        if self.lattice is not None:
            pooled = torch.cat([pooled, self.lattice(graph.translations)], dim=1)
        return self.readout(pooled)

    def atoms(self, graph: PeriodicGraph) -> Tensor:
        """One vector per atom, [N, out_emb] float32."""
        radial = self.radial_basis(graph.distance)  # [E, num_radial]
        sums = _sums(graph, self.spherical_basis)
        message = self.embedding(graph.atomic_numbers, radial, sums)  # [E, hidden]
        atoms = self.element(graph.atomic_numbers)  # [N, out_emb]
        atoms = atoms + self.outputs[0](message, radial, sums).float()
        for interaction, output in zip(self.interactions, self.outputs[1:], strict=True):
            message = interaction(message, radial, sums)
            atoms = atoms + output(message, radial, sums).float()
        return atoms

    @staticmethod
    def pool(graph: PeriodicGraph, atoms: Tensor) -> Tensor:
        """Mean and maximum [B, 2 * F] over the atoms of each crystal, from atoms [N, F]."""
        mean = torch.segment_reduce(atoms, "mean", offsets=graph.atom_offsets)
        # Not segment_reduce, whose gradient is wrong where equivalent atoms share the maximum.
        crystal, size = graph.crystal, len(graph)
        largest = atoms.new_zeros(size + 1, atoms.shape[1])  # the last row is that of inert atoms
        index = crystal[:, None].expand_as(atoms)
        largest = largest.scatter_reduce(0, index, atoms, "amax", include_self=False)
        return torch.cat([mean, largest[:size]], dim=1)


class TranslationEncoder(nn.Module):
    """A vector [B, dim] of the lattice, from the lengths of its ``count`` shortest translations.

    Always in float32: bfloat16 would round a length of 10 angstrom by 0.03.
    """

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.count = count
        layers = [nn.Linear(2 * count, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(dim, dim), nn.LayerNorm(dim))

    def forward(self, translations: Tensor) -> Tensor:
        """[B, dim] from the ascending lengths [B, >= K] in angstrom."""
        lengths = translations[:, : self.count]
        with torch.autocast(lengths.device.type, enabled=False):
            return self.mlp(torch.cat([lengths / 5 - 1, lengths.log() - 1.5], dim=1))


class SphericalBasis(nn.Module):
    """Basis j_l(z_ln d / cutoff) Y_l0(angle) of DimeNet, times a smooth cutoff (in angstrom).

    PyTorch Geometric's ``SphericalBasisLayer`` builds its formulas with SymPy, which takes seconds,
    and evaluates them in float32, where high degrees cancel at short distances; here three-term
    recurrences do both parts, the radial one in float64 on the edges, the angular one on the
    triplets. ``num_spherical`` counts the degrees l, ``num_radial`` the zeros z_ln of each j_l.
    """

    def __init__(self, num_spherical: int, num_radial: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.envelope = dimenet.Envelope(_EXPONENT)
        zeros = spherical_bessel_zeros(num_spherical, num_radial)  # [L, R]
        peak = torch.stack([_spherical_bessel(z, degree + 1)[-1] for degree, z in enumerate(zeros)])
        degrees = torch.arange(num_spherical, dtype=torch.float64)
        harmonic = ((2 * degrees + 1) / (4 * math.pi)).sqrt().float()  # [L]
        buffers = {"zeros": zeros, "norm": math.sqrt(2) / peak.abs(), "harmonic": harmonic}
        for name, values in buffers.items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, distance: Tensor, cos_angle: Tensor, edge_kj: Tensor) -> Tensor:
        """Basis [T, num_spherical * num_radial] of triplets, float32.

        From distances [E] in angstrom, cosines [T] and the edge [T] whose distance counts.
        """
        radial = self.radial(distance).index_select(0, edge_kj)  # [T, L, R]
        return (radial * self.angular(cos_angle)[:, :, None]).flatten(1)

    def radial(self, distance: Tensor) -> Tensor:
        """Radial part [E, L, R] of distances [E]."""
        x = (distance.double() / self.cutoff)[:, None]
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
        return torch.stack(legendre[: len(self.harmonic)], dim=1) * self.harmonic


class EdgeEmbedding(dimenet.EmbeddingBlock):
    """PyTorch Geometric's first message of an edge, for all elements up to 118 (there: 94)."""

    def __init__(self, num_radial: int, hidden: int, act: nn.Module) -> None:
        super().__init__(num_radial, hidden, act)
        self.emb = nn.Embedding(MAX_ATOMIC_NUMBER + 1, hidden)
        self.reset_parameters()

    def forward(self, x: Tensor, rbf: Tensor, sums: TorchSums | KernelSums) -> Tensor:
        """Messages [E, hidden] from atomic numbers [N] and basis [E, R]."""
        # lin([x_i, x_j, rbf]) with the two parts of an atom multiplied once per atom, not per edge.
        x = self.emb(x)
        rbf = self.act(self.lin_rbf(rbf))
        to_target, to_source, to_basis = self.lin.weight.chunk(3, dim=1)
        x_ij = sums.from_atoms(F.linear(x, to_target, self.lin.bias), F.linear(x, to_source))
        return self.act(x_ij + F.linear(rbf, to_basis))


class Interaction(dimenet.InteractionPPBlock):
    """PyTorch Geometric's DimeNet++ interaction with the sum over triplets taken out of it."""

    def forward(self, x: Tensor, rbf: Tensor, sums: TorchSums | KernelSums) -> Tensor:
        """Updated messages [E, hidden] from x [E, hidden] and rbf [E, R]."""
        x_kj = self.act(self.lin_kj(x)) * self.lin_rbf2(self.lin_rbf1(rbf))
        x_kj = self.act(self.lin_down(x_kj))  # [E, int_emb]
        x_kj = sums.over_triplets(x_kj, self.lin_sbf1, self.lin_sbf2)
        h = self.act(self.lin_ji(x)) + self.act(self.lin_up(x_kj))
        for layer in self.layers_before_skip:
            h = layer(h)
        h = self.act(self.lin(h)) + x
        for layer in self.layers_after_skip:
            h = layer(h)
        return h


class AtomOutput(dimenet.OutputPPBlock):
    """PyTorch Geometric's DimeNet++ output of an atom, with the sum kept in float32."""

    def forward(self, x: Tensor, rbf: Tensor, sums: TorchSums | KernelSums) -> Tensor:
        """Atom vectors [N, out] from messages [E, hidden] and basis [E, R]."""
        x = self.lin_up(sums.over_edges(x, self.lin_rbf(rbf)))
        for lin in self.lins:
            x = self.act(lin(x))
        return self.lin(x)


class TorchSums:
    """The sums over neighbours of one graph with tensor operations: any device, all gradients.

    ``index_select`` has a faster, and on the CPU deterministic, gradient than indexing. Sums are
    kept in float32 under autocast.
    """

    def __init__(self, graph: PeriodicGraph, basis: SphericalBasis) -> None:
        self.source, self.target = graph.edge_index
        self.num_atoms = graph.atomic_numbers.shape[0]
        self.pairs = triplets(graph)
        self.spherical = basis(graph.distance, self.pairs.cos_angle, self.pairs.edge_kj)  # [T, LR]
        if torch.is_autocast_enabled(graph.device.type):
            # Once here, not once in each block: it is the largest tensor of the network.
            self.spherical = self.spherical.to(torch.get_autocast_dtype(graph.device.type))

    def from_atoms(self, at_target: Tensor, at_source: Tensor) -> Tensor:
        """A row of the target plus a row of the source for each edge: [E, F] from two [N, F]."""
        return at_target.index_select(0, self.target) + at_source.index_select(0, self.source)

    def over_edges(self, values: Tensor, weight: Tensor) -> Tensor:
        """Sum of values times weight, both [E, F], over the edges into each atom: [N, F]."""
        return _scatter_sum(values * weight, self.target, self.num_atoms)

    def over_triplets(self, x: Tensor, lin_sbf1: nn.Linear, lin_sbf2: nn.Linear) -> Tensor:
        """Filtered sum [E, C] over the edges k -> j before each edge, from their messages x [E, C].

        Two linear layers make the filter of a triplet from its spherical basis.
        """
        filters = lin_sbf2(lin_sbf1(self.spherical))  # [T, C]
        messages = x.index_select(0, self.pairs.edge_kj) * filters
        return _scatter_sum(messages, self.pairs.edge_ji, x.shape[0])


def _sums(graph: PeriodicGraph, basis: SphericalBasis) -> TorchSums | KernelSums:
    """Kernels for a GPU, unless Triton is missing or gradients of the vectors are wanted."""
    by_torch = graph.device.type != "cuda" or find_spec("triton") is None
    if by_torch or graph.vector.requires_grad or graph.distance.requires_grad:
        return TorchSums(graph, basis)
    from unimat_lib.kernels.triplets import KernelSums

    return KernelSums(graph, basis)


def _scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
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

"""A crystal table in, periodic neighbour lists and angle triplets of all its crystals out.

A crystal is turned into a directed graph: one node per atom of the cell and one edge ``j -> i`` for
every periodic image of an atom ``j`` (``i`` itself too) within a cutoff of atom ``i``: pairs of
atoms, then lattice images of each pair, are enumerated, for all crystals at once. The geometry is
computed in float64 and stored in float32.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable, gather_segments
from unimat_lib.views.segments import expand, owners

logger = logging.getLogger(__name__)

TIE_TOLERANCE = 1e-4
"""Neighbours this much further (angstrom) than the last one kept count as the same shell."""

NUM_TRANSLATIONS = 64
"""Lattice translations that a graph keeps per crystal."""

# Candidate pairs in memory at once, about, at 300 bytes each; a CPU's should fit its caches.
_CHUNK_CPU, _CHUNK_GPU = 50_000, 5_000_000

# Angstrom; pymatgen's numerical_tol, so that both agree on an atom exactly at the cutoff.
_DISTANCE_TOLERANCE = 1e-8


@dataclass(frozen=True)
class PeriodicGraph:
    """Neighbour graphs of C crystals with N atoms and E edges in flat tensors.

    Edges are sorted by crystal, then by target atom, then by source atom and image, so the edges of
    one crystal, and those that end in one atom, are contiguous.

    Attributes:
        edge_index: int64 [2, E]; row 0 is the neighbour (source) j, row 1 the centre (target) i.
        image: int16 [E, 3]; the lattice translation of the neighbour, in cells.
        vector: float32 [E, 3]; r_j + image @ lattice - r_i in angstrom, from centre to neighbour.
        distance: float32 [E]; length of ``vector`` in angstrom.
        atom_offsets: int64 [C + 1]; atoms of crystal c are ``atom_offsets[c]:atom_offsets[c + 1]``.
        edge_offsets: int64 [C + 1]; the same for edges.
        atomic_numbers: int64 [N].
        translations: float32 [C, 64] in angstrom, see :func:`shortest_translations`.
    """

    edge_index: Tensor
    image: Tensor
    vector: Tensor
    distance: Tensor
    atom_offsets: Tensor
    edge_offsets: Tensor
    atomic_numbers: Tensor
    translations: Tensor

    def __len__(self) -> int:
        """Number of crystals C."""
        return self.atom_offsets.shape[0] - 1

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.edge_index.device

    @property
    def num_atoms(self) -> Tensor:
        """Atoms per crystal, int64 [C]."""
        return self.atom_offsets.diff()

    @property
    def num_edges(self) -> Tensor:
        """Edges per crystal, int64 [C]."""
        return self.edge_offsets.diff()

    @property
    def num_neighbors(self) -> Tensor:
        """Edges that end in each atom, int64 [N]; 0 for an isolated atom."""
        return _count(self.edge_index[1], self.atomic_numbers.shape[0])

    @property
    def crystal(self) -> Tensor:
        """The crystal each atom belongs to, int64 [N]; C for an inert one, see :meth:`padded`."""
        return _segment(self.atom_offsets, self.atomic_numbers.shape[0])

    @property
    def edge_crystal(self) -> Tensor:
        """The crystal each edge belongs to, int64 [E]; C for an inert one, see :meth:`padded`."""
        return _segment(self.edge_offsets, self.edge_index.shape[1])

    def select(self, index: Tensor | Sequence[int]) -> PeriodicGraph:
        """The chosen crystals, [B] (repeats allowed), in this order, with atoms numbered from 0."""
        index = torch.as_tensor(index, device=self.device)
        atoms, atom_offsets = gather_segments(self.atom_offsets, index)
        edges, edge_offsets = gather_segments(self.edge_offsets, index)
        shift = atom_offsets[:-1] - self.atom_offsets[index]  # [B]: from old to new atom numbers
        shift = shift.index_select(0, owners(edge_offsets.diff(), edges.shape[0]))
        per_edge = ("image", "vector", "distance")
        return PeriodicGraph(
            edge_index=self.edge_index.index_select(1, edges) + shift,
            **{name: getattr(self, name).index_select(0, edges) for name in per_edge},
            atom_offsets=atom_offsets,
            edge_offsets=edge_offsets,
            atomic_numbers=self.atomic_numbers.index_select(0, atoms),
            translations=self.translations.index_select(0, index),
        )

    def padded(self, *, num_atoms: int, num_edges: int) -> PeriodicGraph:
        """The same crystals in tensors of a given size, which a captured CUDA graph asks for.

        Inert atoms (atomic number 0) and edges fill the space that is left, beyond the offsets.
        Inert edges, all 1 angstrom long, run from the last inert atom to itself, so that they reach
        no real atom, are sorted like all edges and form no triplets. Results for crystals, and
        their gradients, are those without padding; rows of inert atoms and edges mean nothing.

        Raises:
            ValueError: There is no room for all edges and at least one inert atom.
        """
        atoms, edges = len(self.atomic_numbers), len(self.distance)
        spare_atoms, spare_edges = num_atoms - atoms, num_edges - edges
        if spare_atoms < 1 or spare_edges < 0:
            what = f"{atoms} atoms, an inert one and {edges} edges do not fit into {num_atoms} and"
            raise ValueError(f"{what} {num_edges}: raise the sizes or take fewer crystals")
        return replace(
            self,
            edge_index=F.pad(self.edge_index, (0, spare_edges), value=num_atoms - 1),
            image=F.pad(self.image, (0, 0, 0, spare_edges)),
            vector=F.pad(self.vector, (0, 0, 0, spare_edges), value=3**-0.5),
            distance=F.pad(self.distance, (0, spare_edges), value=1.0),
            atomic_numbers=F.pad(self.atomic_numbers, (0, spare_atoms)),
        )

    def scaled(self, factor: Tensor) -> PeriodicGraph:
        """The graph of isotropically strained crystals: every length times a factor, [B].

        The edges stay. A smooth envelope in the encoder makes those beyond its cutoff vanish;
        neighbours that a compression would bring inside the cutoff are not added.
        """
        if factor.shape != (len(self),):
            raise ValueError(f"expected {len(self)} factors, got the shape {tuple(factor.shape)}")
        # One more factor, 1, for inert edges.
        per_edge = F.pad(factor.to(self.vector), (0, 1), value=1.0)[self.edge_crystal]  # [E]
        return replace(
            self,
            vector=self.vector * per_edge[:, None],
            distance=self.distance * per_edge,
            translations=self.translations * factor.to(self.translations)[:, None],
        )


@dataclass(frozen=True)
class Triplets:
    """Pairs of edges k -> j and j -> i that share the middle atom j.

    Attributes:
        edge_kj: int64 [T]; number of the incoming edge k -> j.
        edge_ji: int64 [T]; number of the edge j -> i that receives its message; ascending.
        cos_angle: float [T]; cosine of the angle between k -> j and j -> i, see :func:`triplets`.
    """

    edge_kj: Tensor
    edge_ji: Tensor
    cos_angle: Tensor

    def __len__(self) -> int:
        """Number of triplets T."""
        return self.edge_kj.shape[0]


def periodic_graph(
    table: CrystalTable, *, cutoff: float, max_neighbors: int | None = None
) -> PeriodicGraph:
    """Neighbour graphs of all crystals of a table, on its device.

    Lattice images are enumerated per pair of atoms, from the heights of the cell, so skewed, flat
    and very small cells are complete. Without a cap the edges are those of pymatgen's
    ``Structure.get_neighbor_list(cutoff)``.

    The cap keeps the ``max_neighbors`` nearest neighbours of each atom and every further one within
    ``TIE_TOLERANCE`` of the last kept. Atoms at the same distance are thus kept or dropped
    together, and the symmetry of the crystal survives. A capped graph is not symmetric: j may count
    i among its nearest while i does not count j. An atom without a neighbour inside the cutoff
    (angstrom) has no edges and stays; a warning in the log names the first such crystal.

    Raises:
        ValueError: cutoff or cap not positive, a cell without volume, or a partly occupied site.
    """
    if (share := table.occupancy) is not None and len(rows := table.atom_crystal[share < 1]):
        raise ValueError(
            f"crystal {int(rows[0])} has partly occupied sites: leave it out of graphs"
        )
    if not 0 < cutoff < math.inf:
        raise ValueError(f"cutoff is {cutoff}; expected a positive number of angstrom")
    if max_neighbors is not None and max_neighbors < 1:
        raise ValueError(f"expected max_neighbors of at least 1, or None, got {max_neighbors}")
    heights = cell_heights(table.lattice)  # [C, 3]
    starts = _chunk_starts(table.offsets, heights, cutoff)
    bounds = zip(starts[:-1], starts[1:], table.offsets[starts[:-1]].tolist(), strict=True)
    parts = [_chunk_edges(table, heights, cutoff, max_neighbors, *bound) for bound in bounds]
    source, target, image, vector, distance = (torch.cat(x) for x in zip(*parts, strict=True))
    num_edges = _count(table.atom_crystal[target], len(table))
    graph = PeriodicGraph(
        *(torch.stack([source, target]), image, vector, distance),
        atom_offsets=table.offsets,
        edge_offsets=F.pad(num_edges.cumsum(0), (1, 0)),
        atomic_numbers=table.atomic_numbers,
        translations=shortest_translations(table.lattice, count=NUM_TRANSLATIONS).float(),
    )
    crystals, atoms = graph.crystal[graph.num_neighbors == 0].unique(return_counts=True)
    if len(crystals):
        logger.warning(
            "%d atoms in %d crystals have no neighbour within %g angstrom and get no edges, "
            "the first in crystal %d; raise the cutoff if they matter",
            *(int(atoms.sum()), len(crystals), cutoff, int(crystals[0])),
        )
    return graph


def triplets(graph: PeriodicGraph) -> Triplets:
    """All pairs of edges k -> j, j -> i of a graph, except the edge j -> i walked backwards.

    The pair is left out only if k is the very same periodic image as i; other images of i count,
    unlike in PyTorch Geometric's own ``triplets``, which knows no images and drops every k == i.
    The angle is DimeNet++'s: between r_i - r_j and r_j - r_k, the directions in which the message
    travels. A straight chain k, j, i has angle 0; the bond angle at j is pi minus it. The result is
    differentiable with respect to ``graph.vector`` and ``graph.distance``.
    """
    source, target = graph.edge_index
    degree = graph.num_neighbors  # [N]
    first = degree.cumsum(0) - degree  # [N]: number of the first edge into each atom
    edge_ji, rank = expand(degree[source])  # as many as there are edges into the middle atom
    edge_kj = rank + first[source].index_select(0, edge_ji)
    same_atom = source.index_select(0, edge_kj) == target.index_select(0, edge_ji)
    opposite = graph.image.index_select(0, edge_kj) == -graph.image.index_select(0, edge_ji)
    keep = (~(same_atom & opposite.all(1))).nonzero().squeeze(1)
    edge_kj, edge_ji = edge_kj.index_select(0, keep), edge_ji.index_select(0, keep)
    # vector runs from target to source: both directions change sign, their product does not.
    unit = graph.vector / graph.distance[:, None]  # [E, 3]
    cos_angle = (unit.index_select(0, edge_kj) * unit.index_select(0, edge_ji)).sum(-1)
    return Triplets(edge_kj, edge_ji, cos_angle)


def shortest_translations(lattice: Tensor, *, count: int) -> Tensor:
    """Lengths [C, count] of the shortest translations of lattices [C, 3, 3] in angstrom, ascending.

    They belong to the lattice: another basis gives the same list. Of a translation and its opposite
    one is counted; equal lengths count as often as they occur. The list is continuous in the
    lattice, and long enough fixes it up to isometry in all but rare cases (the theta series of a
    lattice; for point sets: Widdowson et al. 2022, arXiv 2009.02488).

    Raises:
        ValueError: count not positive, or a cell without volume.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least one translation")
    heights = cell_heights(lattice)
    # A box of cells holds at least `count` of them; its longest needed one bounds all others.
    reach = math.ceil(((2 * count + 1) ** (1 / 3) - 1) / 2)
    steps = torch.arange(-reach, reach + 1, dtype=lattice.dtype, device=lattice.device)
    box = torch.cartesian_prod(steps, steps, steps)
    box = box[len(box) // 2 + 1 :]  # one of each pair of opposites, without zero
    parts = []
    for rows, height in zip(lattice.split(4096), heights.split(4096), strict=True):
        radius = (box @ rows).norm(dim=-1).kthvalue(count, dim=1).values * (1 + 1e-9)  # [C]
        span = (radius[:, None] / height).floor().long()  # [C, 3]
        crystal, rank, step = _boxes(2 * span + 1)
        half = (rank > (2 * span + 1).prod(1)[crystal] // 2).nonzero().squeeze(1)
        crystal, step = crystal[half], (step - span[crystal])[half].to(lattice.dtype)
        length = (step[:, None] @ rows[crystal]).squeeze(1).norm(dim=1)
        order = _sorted_within(crystal, length)
        number = _count(crystal, len(rows))
        first = (number.cumsum(0) - number)[:, None]
        parts.append(length[order][first + torch.arange(count, device=lattice.device)])
    return torch.cat(parts) if parts else lattice.new_zeros(0, count)


def cell_heights(lattice: Tensor) -> Tensor:
    """Distances [C, 3] of opposite faces of cells [C, 3, 3], angstrom; flat: ``ValueError``."""
    faces = torch.linalg.cross(lattice.roll(-1, dims=1), lattice.roll(-2, dims=1))  # [C, 3, 3]
    volume = (lattice[:, 0] * faces[:, 0]).sum(-1).abs()
    heights = volume[:, None] / faces.norm(dim=-1)
    good = torch.isfinite(heights).all(1) & (volume > 1e-6)
    if not good.all():
        bad = (~good).nonzero().squeeze(1).tolist()
        raise ValueError(f"expected cells with a volume, those of crystals {bad[:5]} have none")
    return heights


def _chunk_starts(offsets: Tensor, heights: Tensor, cutoff: float) -> list[int]:
    """First crystal of each chunk, and the number of crystals at the end."""
    # Along each axis a pair has 2 cutoff / height images on average.
    candidates = offsets.diff().double() ** 2 * (1 + (2 * cutoff / heights).prod(1))
    chunk_size = _CHUNK_CPU if offsets.device.type == "cpu" else _CHUNK_GPU
    chunk = ((candidates.cumsum(0) - candidates) / chunk_size).long()
    return [0, *((chunk.diff() > 0).nonzero().squeeze(1) + 1).tolist(), len(heights)]


def _chunk_edges(
    table: CrystalTable, heights: Tensor, cutoff: float, max_neighbors: int | None, *bounds: int
) -> tuple[Tensor, ...]:
    """Edges of some crystals: source, target, image [E, 3], vector [E, 3], distance."""
    start, stop, first_atom = bounds
    offsets = table.offsets[start : stop + 1] - first_atom
    num_atoms = offsets.diff()
    frac = table.frac_coords[first_atom:][: int(offsets[-1])]
    lattice = table.lattice[start:stop]
    crystal = owners(num_atoms, len(frac))

    # Every ordered pair of atoms of the same crystal.
    target, rank = expand(num_atoms[crystal])  # [P]
    cell = crystal[target]
    source = offsets[cell] + rank
    offset = frac[source] - frac[target]  # [P, 3]

    # Images n with |n + offset| * height <= cutoff along each axis: complete for any cell.
    span = (cutoff / heights[start:stop] + 1e-6)[cell]
    low = torch.ceil(-span - offset)
    size = (torch.floor(span - offset) - low).long() + 1  # [P, 3], 0 where no image is near
    pair, _, step = _boxes(size)  # [M], [M, 3]
    shifted = (offset + low)[pair] + step
    rows = lattice[cell[pair]]  # [M, 3, 3]
    x, y, z = shifted.split(1, dim=1)
    vector = x * rows[:, 0] + y * rows[:, 1] + z * rows[:, 2]
    distance = (vector * vector).sum(1).sqrt()
    # At distance zero is only the atom itself.
    near = (distance <= cutoff + _DISTANCE_TOLERANCE) & (distance > _DISTANCE_TOLERANCE)
    keep = near.nonzero().squeeze(1)
    if max_neighbors is not None:
        keep = keep[_nearest(target[pair[keep]], distance[keep], max_neighbors, len(frac))]
    pair = pair[keep]
    image = (step[keep] + low[pair].long()).to(torch.int16)
    ends = source[pair] + first_atom, target[pair] + first_atom
    return *ends, image, vector[keep].float(), distance[keep].float()


def _nearest(target: Tensor, distance: Tensor, max_neighbors: int, num_atoms: int) -> Tensor:
    """Numbers of the edges that the cap keeps, ascending."""
    degree = _count(target, num_atoms)
    order = _sorted_within(target, distance)
    # Where the last one kept of each atom stands; of no use, and never used, for one without edges.
    last = degree.cumsum(0) - degree + degree.clamp(max=max_neighbors) - 1
    limit = distance[order[last.clamp(min=0)]] + TIE_TOLERANCE if len(order) else distance
    return (distance <= limit[target]).nonzero().squeeze(1)


def _boxes(size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All cells of boxes of some sizes [K, 3]: their box [M], rank in it [M], place [M, 3]."""
    owner, rank = expand(size.prod(1))
    nz, nyz = size[:, 2][owner], (size[:, 1] * size[:, 2])[owner]
    return owner, rank, torch.stack([rank // nyz, rank % nyz // nz, rank % nz], dim=1)


def _segment(offsets: Tensor, total: int) -> Tensor:
    """The segment of each of ``total`` elements; the number of segments beyond the last."""
    # Not repeat_interleave, whose output would have to end with the last segment.
    element = torch.arange(total, device=offsets.device)
    return torch.searchsorted(offsets, element, right=True) - 1


def _sorted_within(owner: Tensor, value: Tensor) -> Tensor:
    """The order of items by owner, and by value among those of one owner."""
    order = value.argsort()
    return order[owner[order].argsort(stable=True)]


def _count(index: Tensor, size: int) -> Tensor:
    # Not bincount: that waits for the GPU to learn the largest value.
    return index.new_zeros(size).scatter_add_(0, index, torch.ones_like(index))

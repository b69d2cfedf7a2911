"""Periodic neighbour lists and angle triplets of many crystals at once.

A crystal is turned into a directed graph: one node per atom of the cell and one edge ``j -> i`` for
every periodic image of an atom ``j`` that lies within a cutoff of atom ``i``. An atom has edges to
its own images. Nothing here loops over crystals in Python: pairs of atoms, and then lattice images
of each pair, are enumerated with ``repeat_interleave``. The geometry is computed in float64 and
stored in float32.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from unimat_lib.crystals.table import gather_segments

if TYPE_CHECKING:
    from unimat_lib.crystals.table import CrystalTable

logger = logging.getLogger(__name__)


TIE_TOLERANCE = 1e-4
"""Neighbours this much further (angstrom) than the last one kept count as the same shell."""

NUM_TRANSLATIONS = 64
"""Lattice translations that a graph keeps per crystal."""

_DISTANCE_TOLERANCE = (
    1e-8  # angstrom; pymatgen's numerical_tol, so that both agree on an atom exactly at the cutoff
)


@dataclass(frozen=True)
class PeriodicGraph:
    """Neighbour graphs of C crystals with N atoms and E edges in flat tensors.

    Edges are sorted by crystal, then by target atom, then by source atom and image, so the edges of
    one crystal, and those that end in one atom, are contiguous.

    Attributes:
        edge_index: int64 [2, E]; row 0 is the neighbour (source) j, row 1 the centre (target) i.
        image: int16 [E, 3]; the lattice translation of the neighbour, in cells.
        vector: float32 [E, 3]; r_j + image @ lattice - r_i in angstrom (from the centre to the
            neighbour).
        distance: float32 [E]; length of ``vector`` in angstrom.
        atom_offsets: int64 [C + 1]; atoms of crystal c are ``atom_offsets[c]:atom_offsets[c + 1]``.
        edge_offsets: int64 [C + 1]; the same for edges.
        atomic_numbers: int64 [N].
        translations: float32 [C, 64]; lengths of the shortest lattice translations in angstrom,
            ascending, see ``shortest_translations``.
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
        """Number of crystals."""
        return self.num_crystals

    @property
    def num_crystals(self) -> int:
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
        """The crystal each atom belongs to, int64 [N]; C for an inert atom (see ``padded``)."""
        return _segment(self.atom_offsets, self.atomic_numbers.shape[0])

    @property
    def edge_crystal(self) -> Tensor:
        """The crystal each edge belongs to, int64 [E]; C for an inert edge (see ``padded``)."""
        return _segment(self.edge_offsets, self.edge_index.shape[1])

    def to(self, device: torch.device | str) -> PeriodicGraph:
        """The same graph on another device."""
        return PeriodicGraph(
            **{name: getattr(self, name).to(device) for name in self.__dataclass_fields__}
        )

    def select(self, index: Tensor) -> PeriodicGraph:
        """A batch: the chosen crystals, in the order given, with atoms numbered from 0.

        Args:
            index: int [B] positions (repeats allowed) or bool [C] mask; anything
                ``torch.as_tensor`` takes.

        Returns:
            The graph of B crystals on the same device.
        """
        index = torch.as_tensor(index, device=self.device)
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        index = index.long()
        atoms, atom_offsets = gather_segments(self.atom_offsets, index)
        edges, edge_offsets = gather_segments(self.edge_offsets, index)
        shift = atom_offsets[:-1] - self.atom_offsets[index]  # [B]: from old to new atom numbers
        shift = torch.repeat_interleave(shift, edge_offsets.diff(), output_size=edges.shape[0])
        return PeriodicGraph(
            edge_index=self.edge_index.index_select(1, edges) + shift,
            image=self.image.index_select(0, edges),
            vector=self.vector.index_select(0, edges),
            distance=self.distance.index_select(0, edges),
            atom_offsets=atom_offsets,
            edge_offsets=edge_offsets,
            atomic_numbers=self.atomic_numbers.index_select(0, atoms),
            translations=self.translations.index_select(0, index),
        )

    def padded(self, *, num_atoms: int, num_edges: int) -> PeriodicGraph:
        """The same crystals in tensors of a given size, which a captured CUDA graph asks for.

        Inert atoms and edges fill the space that is left. They belong to no crystal: the offsets
        end before them and ``num_crystals`` stays. Inert atoms have the atomic number 0. Inert
        edges, all 1 angstrom long, run from the last inert atom to itself, so that they reach no
        real atom, are sorted like all edges and form no triplets. Results for crystals, and
        gradients that come from these, are those of the graph without padding; rows of inert atoms
        and edges in results for atoms and edges mean nothing.

        Args:
            num_atoms: Atoms wanted in total, at least one more than there are.
            num_edges: Edges wanted in total, at least as many as there are.

        Raises:
            ValueError: The crystals do not fit.
        """
        spare_atoms = num_atoms - self.atomic_numbers.shape[0]
        spare_edges = num_edges - self.edge_index.shape[1]
        if spare_atoms < 1 or spare_edges < 0:
            raise ValueError(
                f"{self.atomic_numbers.shape[0]} atoms and {self.edge_index.shape[1]} edges do not "
                f"fit into {num_atoms} and {num_edges}; expected room for all edges and at least "
                "one inert atom: raise the sizes or take fewer crystals"
            )
        return replace(
            self,
            edge_index=F.pad(self.edge_index, (0, spare_edges), value=num_atoms - 1),
            image=F.pad(self.image, (0, 0, 0, spare_edges)),
            vector=F.pad(self.vector, (0, 0, 0, spare_edges), value=3**-0.5),
            distance=F.pad(self.distance, (0, spare_edges), value=1.0),
            atomic_numbers=F.pad(self.atomic_numbers, (0, spare_atoms)),
        )

    def scaled(self, factor: Tensor) -> PeriodicGraph:
        """The graph of isotropically strained crystals: every length times a factor per crystal.

        The edges stay those of the unstrained crystal. A smooth envelope in the encoder makes edges
        that are stretched beyond its cutoff vanish; neighbours that a compression would bring
        inside the cutoff are not added.

        Args:
            factor: [B], one positive factor per crystal, 1 for none.
        """
        if factor.shape != (self.num_crystals,):
            raise ValueError(
                f"factor has shape {tuple(factor.shape)}; "
                f"expected one factor for each of {self.num_crystals} crystals"
            )
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
        cos_angle: float [T]; cosine of the angle between the directions k -> j and j -> i (see
            ``triplets``).
    """

    edge_kj: Tensor
    edge_ji: Tensor
    cos_angle: Tensor

    def __len__(self) -> int:
        """Number of triplets T."""
        return self.edge_kj.shape[0]

    @property
    def angle(self) -> Tensor:
        """The angle in radians, float [T]."""
        return self.cos_angle.clamp(-1, 1).arccos()


def periodic_graph(
    table: CrystalTable,
    *,
    cutoff: float,
    max_neighbors: int | None = None,
    chunk_size: int | None = None,
) -> PeriodicGraph:
    """Neighbour graphs of all crystals of a table.

    Lattice images are enumerated per pair of atoms, from the heights of the cell (volume over the
    area of the opposite face), so skewed, flat and very small cells are complete. Without a cap the
    edges are those of pymatgen's ``Structure.get_neighbor_list(cutoff)``.

    The cap keeps the ``max_neighbors`` nearest neighbours of each atom and every further one within
    1e-4 angstrom of the last kept. Atoms at the same distance are thus kept or dropped together,
    and the symmetry of the crystal survives; the number of neighbours may exceed the cap for the
    same reason. A capped graph is not symmetric: j may count i among its nearest while i does not
    count j.

    An atom without a neighbour inside the cutoff has no edges. It stays in the graph, encoders must
    cope with it, and a warning in the log names the first such crystal. Raise the cutoff where this
    matters.

    Args:
        table: the crystals; the graph is built on the device of its tensors.
        cutoff: largest distance in angstrom, positive.
        max_neighbors: cap per atom, or None.
        chunk_size: roughly how many candidate pairs are in memory at once (300 bytes each); by
            default 50,000 on a CPU, which fits its caches, and 5 million on a GPU.

    Returns:
        The graph, float32 lengths, on the device of the table.

    Raises:
        ValueError: cutoff or cap not positive, or a cell without volume.
    """
    if not 0 < cutoff < float("inf"):
        raise ValueError(f"cutoff is {cutoff}; expected a positive number of angstrom")
    if max_neighbors is not None and max_neighbors < 1:
        raise ValueError(
            f"max_neighbors is {max_neighbors}; expected at least 1, or None for no cap"
        )
    if chunk_size is None:
        chunk_size = 50_000 if table.lattice.device.type == "cpu" else 5_000_000
    heights = cell_heights(table.lattice)  # [C, 3]
    starts = _chunk_starts(table.offsets, heights, cutoff, chunk_size)
    bounds = list(zip(starts[:-1], starts[1:], table.offsets[starts[:-1]].tolist(), strict=True))
    parts = [_chunk_edges(table, heights, cutoff, max_neighbors, *bound) for bound in bounds]
    source, target, image, vector, distance = (
        torch.cat(columns) for columns in zip(*parts, strict=True)
    )
    num_atoms, device = table.offsets.diff(), table.lattice.device
    crystal = _owner(num_atoms, table.atomic_numbers.shape[0])
    edges_per_crystal = _count(crystal[target], len(num_atoms))
    graph = PeriodicGraph(
        edge_index=torch.stack([source, target]),
        image=image,
        vector=vector,
        distance=distance,
        atom_offsets=table.offsets.to(device),
        edge_offsets=_offsets(edges_per_crystal),
        atomic_numbers=table.atomic_numbers,
        translations=shortest_translations(table.lattice, count=NUM_TRANSLATIONS).float(),
    )
    _warn_isolated(graph, cutoff)
    return graph


def triplets(graph: PeriodicGraph) -> Triplets:
    """All pairs of edges k -> j, j -> i of a graph, except the edge j -> i walked backwards.

    The pair is left out only if k is the very same periodic image as i; other images of i count,
    unlike in PyTorch Geometric's own ``triplets``, which knows no images and drops every k == i.

    The angle is DimeNet++'s (and PyTorch Geometric's ``DimeNetPlusPlus``): between r_i - r_j and
    r_j - r_k, the directions in which the message travels. A straight chain k, j, i has angle 0 and
    cosine 1; the bond angle at j is pi minus it.

    Args:
        graph: any graph with edges sorted by target, float [E, 3] ``vector`` and [E] ``distance``.

    Returns:
        The triplets, on the device of the graph, sorted by ``edge_ji``; differentiable with respect
        to ``graph.vector`` and ``graph.distance``.
    """
    source, target = graph.edge_index
    degree = graph.num_neighbors  # [N]
    first = degree.cumsum(0) - degree  # [N]: number of the first edge into each atom
    counts = degree[source]  # [E]: edges into the middle atom of each edge
    ends = counts.cumsum(0)
    total = int(ends[-1]) if ends.numel() else 0
    edge_ji = torch.repeat_interleave(
        torch.arange(source.shape[0], device=graph.device), counts, output_size=total
    )
    # Position within the run of one edge, plus where the edges into its middle atom begin.
    shift = first[source] - (ends - counts)  # [E]
    edge_kj = torch.arange(total, device=graph.device) + shift.index_select(0, edge_ji)
    same_atom = source.index_select(0, edge_kj) == target.index_select(0, edge_ji)
    opposite = graph.image.index_select(0, edge_kj) == -graph.image.index_select(0, edge_ji)
    keep = (~(same_atom & opposite.all(1))).nonzero().squeeze(1)
    edge_kj, edge_ji = edge_kj.index_select(0, keep), edge_ji.index_select(0, keep)
    # vector runs from target to source: both directions change sign, their product does not.
    unit = graph.vector / graph.distance[:, None]  # [E, 3]
    cos_angle = (unit.index_select(0, edge_kj) * unit.index_select(0, edge_ji)).sum(-1)
    return Triplets(edge_kj=edge_kj, edge_ji=edge_ji, cos_angle=cos_angle)


def shortest_translations(lattice: Tensor, *, count: int) -> Tensor:
    """Lengths of the shortest lattice translations of each crystal.

    They belong to the lattice and not to the cell that describes it: another basis gives the same
    list. Of a translation and its opposite one is counted; equal lengths count as often as they
    occur. The list is continuous in the lattice, and long enough fixes it up to isometry in all
    but rare cases (the theta series of a lattice; for point sets: Widdowson et al. 2022,
    arXiv 2009.02488).

    Args:
        lattice: [C, 3, 3], rows a, b, c in angstrom.
        count: How many per crystal.

    Returns:
        [C, count] in angstrom, ascending, dtype of the lattice.

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
        size = 2 * span + 1
        crystal, rank = _expand(size.prod(1))
        nz, nyz = size[:, 2][crystal], (size[:, 1] * size[:, 2])[crystal]
        step = torch.stack([rank // nyz, rank % nyz // nz, rank % nz], dim=1) - span[crystal]
        half = (rank > (size.prod(1) // 2)[crystal]).nonzero().squeeze(1)
        crystal, step = crystal[half], step[half].to(lattice.dtype)
        length = (step[:, None] @ rows[crystal]).squeeze(1).norm(dim=1)
        order = length.argsort()
        order = order[crystal[order].argsort(stable=True)]
        number = _count(crystal, len(rows))
        first = (number.cumsum(0) - number)[:, None]
        parts.append(length[order][first + torch.arange(count, device=lattice.device)])
    return torch.cat(parts) if parts else lattice.new_zeros(0, count)


def cell_heights(lattice: Tensor) -> Tensor:
    """Distances between opposite faces of each cell.

    Args:
        lattice: [C, 3, 3], rows a, b, c in angstrom.

    Returns:
        [C, 3] in angstrom, perpendicular to the faces (b, c), (c, a) and (a, b).

    Raises:
        ValueError: a cell has no volume or is not finite.
    """
    faces = torch.linalg.cross(
        lattice.roll(-1, dims=1), lattice.roll(-2, dims=1), dim=-1
    )  # [C, 3, 3]
    volume = (lattice[:, 0] * faces[:, 0]).sum(-1).abs()
    heights = volume[:, None] / faces.norm(dim=-1)
    good = torch.isfinite(heights).all(1) & (volume > 1e-6)
    if not good.all():
        bad = (~good).nonzero().squeeze(1).tolist()
        raise ValueError(
            f"crystals {bad[:5]} have a cell without volume; "
            "expected three independent lattice vectors"
        )
    return heights


def _chunk_starts(offsets: Tensor, heights: Tensor, cutoff: float, chunk_size: int) -> list[int]:
    """First crystal of each chunk, and the number of crystals at the end."""
    # Along each axis a pair has 2 cutoff / height images on average.
    candidates = offsets.diff().double() ** 2 * (1 + (2 * cutoff / heights).prod(1))
    chunk = ((candidates.cumsum(0) - candidates) / chunk_size).long()
    return [0, *((chunk.diff() > 0).nonzero().squeeze(1) + 1).tolist(), len(heights)]


def _chunk_edges(
    table: CrystalTable,
    heights: Tensor,
    cutoff: float,
    max_neighbors: int | None,
    start: int,
    stop: int,
    first_atom: int,
) -> tuple[Tensor, ...]:
    """Edges of crystals start to stop: source, target, image [E, 3], vector [E, 3], distance."""
    offsets = table.offsets[start : stop + 1] - first_atom
    num_atoms = offsets.diff()
    frac = table.frac_coords[first_atom:][: int(offsets[-1])]
    lattice = table.lattice[start:stop]
    crystal = _owner(num_atoms, len(frac))

    # Every ordered pair of atoms of the same crystal.
    target, rank = _expand(num_atoms[crystal])  # [P]
    cell = crystal[target]
    source = offsets[cell] + rank
    offset = frac[source] - frac[target]  # [P, 3]

    # Images n with |n + offset| * height <= cutoff along each axis: complete for any cell.
    span = (cutoff / heights[start:stop] + 1e-6)[cell]
    low = torch.ceil(-span - offset)
    size = (torch.floor(span - offset) - low).long() + 1  # [P, 3], 0 where no image is near
    pair, rank = _expand(size.prod(1))  # [M]
    nz = size[:, 2][pair]
    nyz = (size[:, 1] * size[:, 2])[pair]
    step = torch.stack([rank // nyz, rank % nyz // nz, rank % nz], dim=1)  # [M, 3]
    shifted = (offset + low)[pair] + step
    rows = lattice[cell[pair]]  # [M, 3, 3]
    vector = (
        shifted[:, :1] * rows[:, 0] + shifted[:, 1:2] * rows[:, 1] + shifted[:, 2:] * rows[:, 2]
    )
    distance = (vector * vector).sum(1).sqrt()
    # At distance zero is only the atom itself.
    near = (distance <= cutoff + _DISTANCE_TOLERANCE) & (distance > _DISTANCE_TOLERANCE)
    keep = near.nonzero().squeeze(1)
    if max_neighbors is not None:
        kept = _nearest(target[pair[keep]], distance[keep], max_neighbors, len(frac))
        keep = keep[kept]
    pair = pair[keep]
    image = step[keep] + low[pair].long()
    return (
        source[pair] + first_atom,
        target[pair] + first_atom,
        image.to(torch.int16),
        vector[keep].float(),
        distance[keep].float(),
    )


def _nearest(target: Tensor, distance: Tensor, max_neighbors: int, num_atoms: int) -> Tensor:
    """Numbers of the edges that the cap keeps, ascending."""
    degree = _count(target, num_atoms)
    order = distance.argsort()
    order = order[target[order].argsort(stable=True)]
    # Where the last one kept of each atom stands; of no use, and never used, for one without edges.
    last = degree.cumsum(0) - degree + degree.clamp(max=max_neighbors) - 1
    limit = distance[order[last.clamp(min=0)]] + TIE_TOLERANCE if len(order) else distance
    return (distance <= limit[target]).nonzero().squeeze(1)


def _expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For counts [K], the owner [sum] of each item and its rank [sum] within the owner."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if ends.numel() else 0
    owner = torch.repeat_interleave(
        torch.arange(len(counts), device=counts.device), counts, output_size=total
    )
    return owner, torch.arange(total, device=counts.device) - (ends - counts)[owner]


def _owner(counts: Tensor, total: int) -> Tensor:
    return torch.repeat_interleave(
        torch.arange(len(counts), device=counts.device), counts, output_size=total
    )


def _segment(offsets: Tensor, total: int) -> Tensor:
    """The segment of each of ``total`` elements; the number of segments beyond the last."""
    # Not repeat_interleave, whose output would have to end with the last segment.
    element = torch.arange(total, device=offsets.device)
    return torch.searchsorted(offsets, element, right=True) - 1


def _count(index: Tensor, size: int) -> Tensor:
    # Not bincount: that waits for the GPU to learn the largest value.
    return torch.zeros(size, dtype=torch.int64, device=index.device).scatter_add_(
        0, index, torch.ones_like(index)
    )


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _warn_isolated(graph: PeriodicGraph, cutoff: float) -> None:
    isolated = (graph.num_neighbors == 0).nonzero().squeeze(1)
    if len(isolated):
        crystals = graph.crystal[isolated].unique()
        logger.warning(
            "%d atoms in %d crystals have no neighbour within %g angstrom and get no edges, "
            "the first in crystal %d; raise the cutoff if they matter",
            len(isolated),
            len(crystals),
            cutoff,
            int(crystals[0]),
        )

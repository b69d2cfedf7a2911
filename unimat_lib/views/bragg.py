"""A crystal table in, the Bragg reflections of all its crystals out, and how strong they are.

All crystals at once, on CPU and GPU, in double precision, with the conventions of pymatgen's
``XRDCalculator``: no absorption, thermal motion or, unless a wavelength is named, dispersion.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import gemmi
import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable, gather_segments
from unimat_lib.views.grid import Grid
from unimat_lib.views.segments import offsets_of, owners
from unimat_lib.views.shipped import shipped_with

EDGE_MARGIN = 1.0  #: Degrees; reflections that far outside a grid are drawn too, for their tails
#: Reflections with |F|^2 below this fraction of F(000)^2, the electrons squared, are dropped.
NEGLIGIBLE = 1e-15
# Reflections per piece of work, about, at 500 bytes each: on a CPU they should stay in the cache.
_CHUNK_CPU, _CHUNK_GPU = 2**16, 2**23
Indices = tuple[Tensor, Tensor, Tensor]


@functools.cache
def scattering_parameters() -> Tensor:
    """Scattering factors' a and b (square angstrom) ``[119, 4, 2]`` by atomic number, NaN for none.

    De Graef and McHenry, Structure of Materials (2007), chapter 12, from pymatgen's file; for tin
    Doyle and Turner, Acta Cryst. A24, 390 (1968). Up to s = 1/angstrom they follow Table 6.1.1.4 of
    International Tables C within 3.5 % of Z.
    """
    file = shipped_with("pymatgen", "analysis/diffraction/atomic_scattering_params.json")
    parameters = torch.full((119, 4, 2), math.nan, dtype=torch.float64)
    for symbol, values in json.loads(file.read_text(encoding="utf-8")).items():
        parameters[gemmi.Element(symbol).atomic_number] = torch.tensor(values, dtype=torch.float64)
    parameters[50, 2, 0] = 2.778  # of tin; 2.118 there is 23 % off in intensity, the book's mistake
    return parameters


def dispersion(wavelength: float) -> Tensor:
    """Anomalous f', f'' in electrons ``[119, 2]``, for 0.1 to 10 angstrom; 0 beyond uranium.

    Source: Cromer and Liberman, Acta Cryst. A37, 267 (1981), as computed by gemmi.
    """
    if not 0.1 <= wavelength <= 10:
        raise ValueError(f"wavelength is {wavelength}; 0.1 to 10 angstrom expected")
    values = torch.zeros(119, 2, dtype=torch.float64)
    found = [gemmi.cromer_liberman(z=z, energy=gemmi.hc / wavelength) for z in range(1, 93)]
    values[1:93] = torch.tensor(found, dtype=torch.float64)
    return values


def form_factors(atomic_numbers: Tensor, which: Tensor, g: Tensor) -> Tensor:
    """Atomic scattering factors f(s) = Z - 41.78214 s^2 sum_i a_i exp(-b_i s^2), with s = g / 2.

    For g = 1/d in 1/angstrom and elements ``which``, places in ``atomic_numbers`` ``[S]``, ``[M]``.
    """
    z = atomic_numbers.double()[:, None]
    parameters = scattering_parameters().to(g.device)[atomic_numbers].flatten(1)  # a1, b1, a2, ...
    # Transposed, so that each coefficient is contiguous and can be picked quickly.
    z, *coefficients = torch.cat([z, parameters], dim=1).T.contiguous()  # [S] each
    s2 = (g * g).div_(4)
    total = torch.zeros_like(g)
    for a, b in zip(coefficients[0::2], coefficients[1::2], strict=True):
        decay = b.neg().index_select(0, which).mul_(s2).exp_()
        total.addcmul_(a.index_select(0, which), decay)
    return z.index_select(0, which).addcmul_(s2, total, value=-41.78214)


@dataclass(frozen=True, eq=False)
class Reflections:
    """Bragg reflections of ``C`` crystals; one of each pair (hkl), (-h -k -l) counts for both."""

    hkl: Tensor  #: Miller indices, int16 ``[R, 3]``
    g: Tensor  #: 1/d in 1/angstrom, float64 ``[R]``
    intensity: Tensor  #: ``|F|^2`` of both, electrons squared, float64 ``[R]``, without LP factor
    offsets: Tensor  #: int64 ``[C+1]``; those of crystal ``c`` are ``offsets[c]:offsets[c + 1]``
    reciprocal: Tensor  #: float64 ``[C, 3, 3]``, rows a*, b*, c* in 1/angstrom (a . a* = 1)
    g_max: float  #: all reflections up to this g are there, 1/angstrom

    def __len__(self) -> int:
        """Number of crystals."""
        return len(self.offsets) - 1

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.g.device

    @property
    def crystal(self) -> Tensor:
        """int64 ``[R]``, the crystal each reflection belongs to."""
        return owners(self.offsets.diff(), len(self.g))

    @functools.cached_property
    def largest(self) -> int:
        """Number of reflections of the crystal that has most; the first use waits for a GPU."""
        return int(self.offsets.diff().max()) if len(self) else 0

    def select(self, index: Tensor) -> Reflections:
        """Reflections of some of the crystals; ``index`` is int64 ``[B]``, repeats allowed."""
        flat, offsets = gather_segments(self.offsets, index)
        columns = (x[flat] for x in (self.hkl, self.g, self.intensity))
        return Reflections(*columns, offsets, self.reciprocal[index], self.g_max)


def g_max_of(grid: Grid, max_strain: float = 0.0) -> float:
    """How far reflections must reach, 1/angstrom, to fill a grid with cells stretched so much."""
    end = min(grid.two_theta_max + EDGE_MARGIN, 180.0)
    return 2 * math.sin(math.radians(end / 2)) / grid.wavelength * (1 + max_strain)


def bragg_reflections(
    table: CrystalTable, *, g_max: float, wavelength: float | None = None, chunk_size: int = 0
) -> Reflections:
    """List all reflections of all crystals, with their structure factors, on their device.

    Those with ``|F|^2`` below ``NEGLIGIBLE`` times F(000)^2 are left out: that removes systematic
    absences, which rounding leaves at about 1e-30, and nothing that a measurement could see. An
    element without parameters, or a number out of range, is a ``ValueError``.

    Args:
        table: Crystals; any cell of a crystal will do.
        g_max: Largest 1/d in 1/angstrom, see :func:`g_max_of`.
        wavelength: In angstrom, for f' and f'' of :func:`dispersion`; ``None`` for none.
        chunk_size: Reflections per piece of work; 0 for what suits the device.
    """
    if not 0 < g_max < math.inf:
        raise ValueError(f"g_max must be positive (1/angstrom), but is {g_max}")
    present = table.atomic_numbers.unique().cpu()
    anomalous = None if wavelength is None else dispersion(wavelength)
    if missing := present[scattering_parameters()[present, 0, 0].isnan()].tolist():
        names = ", ".join(f"{gemmi.Element(z).name} (Z = {z})" for z in missing)
        raise ValueError(f"leave out crystals with {names}: they have no scattering parameters")
    on_cpu = table.device.type == "cpu"
    size = chunk_size or (_CHUNK_CPU if on_cpu else _CHUNK_GPU)
    chunks = _chunks(table, g_max, size, anomalous)
    pieces = _in_threads(lambda chunk: _reflections_of(chunk, g_max), chunks, on_cpu=on_cpu)
    none = table.lattice.new_zeros(0)
    start = none.short().reshape(0, 3), none, none, table.offsets[:1]
    parts = ((piece.hkl, piece.g, piece.intensity, piece.offsets.diff()) for piece in pieces)
    hkl, g, intensity, counts = (torch.cat(x) for x in zip(start, *parts, strict=True))
    rest = counts.cumsum(0), _reciprocal(table.lattice), float(g_max)
    return Reflections(hkl, g, intensity, *rest)


def _in_threads(
    work: Callable[[_Chunk], Reflections], items: Iterable[_Chunk], *, on_cpu: bool
) -> list[Reflections]:
    """Results of ``work`` on each item, on a CPU whole items shared out among torch's threads."""
    if (threads := torch.get_num_threads() if on_cpu else 1) == 1:
        return [work(item) for item in items]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)


class _Chunk(NamedTuple):
    """Consecutive crystals, atoms sorted by species (element of a crystal), numerous ones first."""

    reciprocal: Tensor  # [C, 3, 3]
    frac_coords: Tensor  # [N, 3]
    first_atom: Tensor  # [S], where each species' atoms begin
    num_atoms: Tensor  # [S], descending
    atomic_number: Tensor  # [S]
    crystal: Tensor  # [S]
    occupancy: Tensor | None  # [N]
    dispersion: Tensor | None  # [S, 2]


def _chunks(
    table: CrystalTable, g_max: float, chunk_size: int, anomalous: Tensor | None
) -> Iterator[_Chunk]:
    """Cut a table into runs of crystals that have about ``chunk_size`` reflections together."""
    half_sphere = 2 / 3 * math.pi * g_max**3
    piece = (half_sphere * table.volume.cumsum(0) / chunk_size).long()
    crystals = torch.unique_consecutive(piece, return_counts=True)[1].cumsum(0)  # where pieces end
    atoms = table.offsets[crystals]
    reciprocal = _reciprocal(table.lattice)
    key = table.atom_crystal * 128 + table.atomic_numbers  # [N]
    start = atom_start = 0
    for end, atom_end in zip(crystals.tolist(), atoms.tolist(), strict=True):
        inside = slice(atom_start, atom_end)
        sorted_key, order = key[inside].sort(stable=True)
        species, num_atoms = torch.unique_consecutive(sorted_key, return_counts=True)
        most = num_atoms.argsort(descending=True, stable=True)
        of_atoms = (num_atoms.cumsum(0) - num_atoms)[most], num_atoms[most]
        of_species = species[most] % 128, species[most] // 128 - start
        frac_coords = table.frac_coords[inside][order]
        share = None if table.occupancy is None else table.occupancy[inside][order]
        extra = share, None if anomalous is None else anomalous.to(table.device)[of_species[0]]
        yield _Chunk(reciprocal[start:end], frac_coords, *of_atoms, *of_species, *extra)
        start, atom_start = end, atom_end


def _reciprocal(lattice: Tensor) -> Tensor:
    """Rows a*, b*, c* ``[C, 3, 3]`` in 1/angstrom of the cells ``[C, 3, 3]``."""
    return torch.linalg.inv(lattice).transpose(-1, -2)


def _reflections_of(chunk: _Chunk, g_max: float) -> Reflections:
    hkl, g, crystal = half_sphere(chunk.reciprocal, g_max)
    crystals = len(chunk.reciprocal)
    offsets = offsets_of(crystal, crystals)
    intensity = _squared_structure_factors(chunk, hkl, g, offsets).mul_(2)
    electrons = (chunk.num_atoms * chunk.atomic_number).double()  # [S], of a species
    threshold = 2 * NEGLIGIBLE * g.new_zeros(crystals).index_add_(0, chunk.crystal, electrons) ** 2
    keep = (intensity > threshold.index_select(0, crystal)).nonzero()[:, 0]
    hkl = torch.stack([index.index_select(0, keep).to(torch.int16) for index in hkl], dim=1)
    g, intensity, crystal = (x.index_select(0, keep) for x in (g, intensity, crystal))
    offsets = offsets_of(crystal, crystals)
    return Reflections(hkl, g, intensity, offsets, chunk.reciprocal, g_max)


def half_sphere(reciprocal: Tensor, g_max: float) -> tuple[Indices, Tensor, Tensor]:
    """h, k, l (float64 ``[R]`` each), g and crystal of all points of half a sphere, by crystal.

    Writing g = h a* + k b* + l c* along orthogonal axes, with a* on the first and b* in the plane
    of the first two, makes ``|g|^2`` a sum of three squares, the last of l only, the second of k
    and l only. So l runs over an interval; given l, so does k; given both, so does h, however
    oblique the cell (Fincke and Pohst, Math. Comp. 44, 463 (1985)). Of each Friedel pair the member
    with l > 0 is listed, or k > 0 if l = 0, or h > 0.
    """
    lower = torch.linalg.cholesky(reciprocal @ reciprocal.mT)  # rows: a*, b*, c* on these axes
    radius = g_max * (1 + 1e-9)  # planes exactly at g_max are in
    edge, last = lower[:, 2, 2], torch.zeros_like(lower[:, 2, 2])
    crystal, el = _ragged_range(last, radius / edge)
    edge, slope, height = lower[crystal, 1, 1], lower[crystal, 2, 1], el * lower[crystal, 2, 2]
    half = (radius**2 - height**2).clamp_min(0).sqrt() / edge
    centre = -el * slope / edge
    column, k = _ragged_range(torch.where(el == 0, 0.0, centre - half), centre + half)
    crystal, el = crystal[column], el[column]  # [columns along h]
    edge = lower[crystal, 0, 0]
    start = k * lower[crystal, 1, 0] + el * lower[crystal, 2, 0]  # where h = 0 lies
    middle = k * lower[crystal, 1, 1] + el * lower[crystal, 2, 1]
    distance2 = middle**2 + height[column] ** 2  # of the column from the origin
    half = (radius**2 - distance2).clamp_min(0).sqrt() / edge
    centre = -start / edge
    first = torch.where((el == 0) & (k == 0), 1.0, centre - half)
    column, h = _ragged_range(first, centre + half)
    k, el, crystal, edge, start, distance2 = (
        each.index_select(0, column) for each in (k, el, crystal, edge, start, distance2)
    )
    along = start.addcmul_(h, edge)
    return (h, k, el), distance2.addcmul_(along, along).sqrt_(), crystal


def _ragged_range(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from ``low[i]`` to ``high[i]`` for every i: the i of each, and the number."""
    first = low.ceil()
    count = (high.floor() - first + 1).clamp_min(0).long()
    parent = owners(count)
    start = first + count - count.cumsum(0)
    return parent, start.index_select(0, parent).add_(torch.arange(len(parent), device=low.device))


def _squared_structure_factors(chunk: _Chunk, hkl: Indices, g: Tensor, offsets: Tensor) -> Tensor:
    """|F|^2 ``[R]`` in electrons squared, averaged over each Friedel pair.

    F is a sum over elements of f(g) times the sum over their atoms of exp(2 pi i hkl . r), over
    (reflection, species) pairs: one form factor for each, not for each atom. A step takes the j-th
    atom of all species that have one; these lead the chunk, so it works on a leading slice. For
    f0 + f' + i f'' the average is |F|^2 of f0 + f' plus that of f''.
    """
    pair, block = gather_segments(offsets, chunk.crystal)  # the reflection of each pair [M]
    species = owners(block.diff(), len(pair))
    h, k, el = (index.index_select(0, pair) for index in hkl)
    real, imag = torch.zeros_like(h), torch.zeros_like(h)
    ends, counts = block.tolist(), chunk.num_atoms.tolist()
    with_jth = len(counts)
    for j in range(counts[0] if counts else 0):
        while counts[with_jth - 1] <= j:
            with_jth -= 1
        part = slice(ends[with_jth])
        atoms = chunk.first_atom[:with_jth] + j
        x, y, z = (
            column.index_select(0, species[part]) for column in chunk.frac_coords[atoms].unbind(1)
        )
        turns = x.mul_(h[part]).addcmul_(y, k[part]).addcmul_(z, el[part])
        phase = turns.frac_().mul_(2 * math.pi)  # cos and sin are fastest near 0
        cosine, sine = phase.cos(), phase.sin()
        if chunk.occupancy is not None:
            share = chunk.occupancy[atoms].index_select(0, species[part])
            cosine, sine = cosine * share, sine * share
        real[part] += cosine
        imag[part] += sine
    factors = [form_factors(chunk.atomic_number, species, g.index_select(0, pair))]
    if chunk.dispersion is not None:
        real_part, imaginary_part = chunk.dispersion.index_select(0, species).unbind(1)
        factors = [factors[0] + real_part, imaginary_part]
    squared = torch.zeros_like(g)
    for part in itertools.product(factors, (real, imag)):
        total = torch.zeros_like(g).index_add_(0, pair, torch.mul(*part))
        squared.addcmul_(total, total)
    return squared


def check_reach(reflections: Reflections, g: float, what: str) -> None:
    """Raise ``ValueError`` when reflections end before ``g`` (1/angstrom), which ``what`` needs."""
    if reflections.g_max < g * (1 - 1e-9):
        end = f"these reflections end at g = {reflections.g_max:.4f} 1/angstrom, but {what} needs"
        raise ValueError(f"{end} {g:.4f}; compute them with a larger g_max, see g_max_of")

"""A crystal table in, the Bragg reflections of all its crystals out, and how strong they are.

All crystals at once, on CPU and GPU, in double precision. The conventions, and so the intensities,
are those of pymatgen's ``XRDCalculator``: no absorption, anomalous dispersion or thermal motion.
"""

from __future__ import annotations

import functools
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

EDGE_MARGIN = 1.0
"""Reflections this many degrees outside a grid are drawn too: tails and shifts bring them in."""

NEGLIGIBLE = 1e-15
"""Reflections with |F|^2 below this fraction of F(000)^2, the electrons squared, are dropped."""

# Reflections per piece of work, about, at 500 bytes each: on a CPU they should stay in the cache.
_CHUNK_CPU, _CHUNK_GPU = 2**16, 2**23

# pymatgen's table, as the book it follows, has 2.118 for the third a of tin, 23 % off in intensity.
_TIN = 50, 2, 2.778  # Doyle and Turner, Acta Cryst. A24, 390 (1968)


@functools.cache
def scattering_parameters() -> Tensor:
    """Coefficients of the atomic scattering factors, from the file that ships with pymatgen.

    Up to s = 1/angstrom they follow Table 6.1.1.4 of International Tables C within 3.5 % of Z.
    Float64 ``[119, 4, 2]``: a and b (b in square angstrom) by atomic number; NaN where there are
    none. Raises what :func:`.shipped_with` does.

    Source: De Graef and McHenry, Structure of Materials (2007), chapter 12; one misprint mended.
    """
    file = shipped_with("pymatgen", "analysis/diffraction/atomic_scattering_params.json")
    parameters = torch.full((119, 4, 2), math.nan, dtype=torch.float64)
    for symbol, values in json.loads(file.read_text(encoding="utf-8")).items():
        parameters[gemmi.Element(symbol).atomic_number] = torch.tensor(values, dtype=torch.float64)
    element, number, a = _TIN
    parameters[element, number, 0] = a
    return parameters


def form_factors(atomic_numbers: Tensor, which: Tensor, g: Tensor) -> Tensor:
    """Atomic scattering factors f(s) = Z - 41.78214 s^2 sum_i a_i exp(-b_i s^2), with s = g / 2.

    Args:
        atomic_numbers: Some elements, int64 ``[S]``.
        which: The element of each factor as its place among them, int64 ``[M]``.
        g: 1/d in 1/angstrom, float64 ``[M]``; the factors are as many, in electrons.
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
    """Bragg reflections of ``C`` crystals, one after the other.

    Of each pair (hkl), (-h -k -l) one member is kept; its intensity counts for both.

    Attributes:
        hkl: Miller indices, int16 ``[R, 3]``.
        g: 1/d in 1/angstrom, float64 ``[R]``.
        intensity: ``2 |F|^2`` in electrons squared, float64 ``[R]``, without Lorentz-polarisation.
        offsets: int64 ``[C+1]``; those of crystal ``c`` are ``offsets[c]:offsets[c + 1]``.
        reciprocal: float64 ``[C, 3, 3]``, rows a*, b*, c* in 1/angstrom (a . a* = 1, without 2 pi).
        g_max: All reflections up to this g are there, 1/angstrom.
    """

    hkl: Tensor
    g: Tensor
    intensity: Tensor
    offsets: Tensor
    reciprocal: Tensor
    g_max: float

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
    """How far reflections must reach, in 1/angstrom, to fill a grid.

    Stretching a cell by ``max_strain``, the largest that will be drawn, pulls reflections from
    beyond the grid's end into it.
    """
    end = min(grid.two_theta_max + EDGE_MARGIN, 180.0)
    return 2 * math.sin(math.radians(end / 2)) / grid.wavelength * (1 + max_strain)


def bragg_reflections(
    table: CrystalTable, *, g_max: float, chunk_size: int | None = None
) -> Reflections:
    """List all reflections of all crystals, with their structure factors, on their device.

    Those with ``|F|^2`` below ``NEGLIGIBLE`` times F(000)^2 are left out: that removes systematic
    absences, which rounding leaves at about 1e-30, and nothing that a measurement could see.

    Args:
        table: Crystals; any cell of a crystal will do.
        g_max: Largest 1/d in 1/angstrom, see :func:`g_max_of`.
        chunk_size: Reflections per piece of work; ``None`` for what suits the device.

    Raises:
        ValueError: An element has no scattering parameters, or ``g_max`` is not positive.
    """
    if not 0 < g_max < math.inf:
        raise ValueError(f"g_max must be positive (1/angstrom), but is {g_max}")
    present = table.atomic_numbers.unique().cpu()
    if missing := present[scattering_parameters()[present, 0, 0].isnan()].tolist():
        names = ", ".join(f"{gemmi.Element(z).name} (Z = {z})" for z in missing)
        raise ValueError(f"leave out crystals with {names}: they have no scattering parameters")
    on_cpu = table.device.type == "cpu"
    chunks = _chunks(table, g_max, chunk_size or (_CHUNK_CPU if on_cpu else _CHUNK_GPU))
    pieces = _in_threads(lambda chunk: _reflections_of(chunk, g_max), chunks, on_cpu=on_cpu)
    none = table.lattice.new_zeros(0)
    start = none.short().reshape(0, 3), none, none, table.offsets[:1]
    parts = ((piece.hkl, piece.g, piece.intensity, piece.offsets.diff()) for piece in pieces)
    hkl, g, intensity, counts = (torch.cat(x) for x in zip(start, *parts, strict=True))
    reciprocal = _reciprocal(table.lattice)
    return Reflections(hkl, g, intensity, counts.cumsum(0), reciprocal, float(g_max))


def _in_threads(
    work: Callable[[_Chunk], Reflections], items: Iterable[_Chunk], *, on_cpu: bool
) -> list[Reflections]:
    """Results of ``work`` on each item, on a CPU whole items shared out among torch's threads."""
    # So these need not wait for each other after every small operation.
    if (threads := torch.get_num_threads() if on_cpu else 1) == 1:
        return [work(item) for item in items]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)


class _Chunk(NamedTuple):
    """A few consecutive crystals, their atoms sorted by species, one element in one crystal.

    The most numerous species come first, so that those with a j-th atom are the leading ones.
    """

    reciprocal: Tensor  # [C, 3, 3]
    frac_coords: Tensor  # [N, 3]
    first_atom: Tensor  # [S], where each species' atoms begin
    num_atoms: Tensor  # [S], descending
    atomic_number: Tensor  # [S]
    crystal: Tensor  # [S]


def _chunks(table: CrystalTable, g_max: float, chunk_size: int) -> Iterator[_Chunk]:
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
        yield _Chunk(reciprocal[start:end], frac_coords, *of_atoms, *of_species)
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


def half_sphere(
    reciprocal: Tensor, g_max: float
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """All lattice points of half a reciprocal sphere, for every crystal at once.

    Writing g = h a* + k b* + l c* along orthogonal axes, with a* on the first and b* in the plane
    of the first two, makes ``|g|^2`` a sum of three squares, the last of l only, the second of k
    and l only. So l runs over an interval; given l, so does k; given both, so does h. Nothing
    outside the sphere is listed, however oblique the cell (Fincke and Pohst, Math. Comp. 44, 463
    (1985)). Of each Friedel pair the member with l > 0 is listed, or k > 0 if l = 0, or h > 0.

    Args:
        reciprocal: Rows a*, b*, c*, ``[C, 3, 3]``.
        g_max: Radius, 1/angstrom.

    Returns:
        h, k, l (float64 ``[R]`` each, whole numbers), g and the crystal ``[R]``, sorted by crystal.
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


def _squared_structure_factors(
    chunk: _Chunk, hkl: tuple[Tensor, Tensor, Tensor], g: Tensor, offsets: Tensor
) -> Tensor:
    """|F|^2 ``[R]`` in electrons squared.

    F is a sum over elements of f(g) times the sum over their atoms of exp(2 pi i hkl . r), over
    (reflection, species) pairs: one form factor for each, not for each atom. A step takes the j-th
    atom of all species that have one; these lead the chunk, so it works on a leading slice.
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
        x, y, z = (
            column.index_select(0, species[part])
            for column in chunk.frac_coords[chunk.first_atom[:with_jth] + j].unbind(1)
        )
        turns = x.mul_(h[part]).addcmul_(y, k[part]).addcmul_(z, el[part])
        phase = turns.frac_().mul_(2 * math.pi)  # cos and sin are fastest near 0
        real[part] += phase.cos()
        imag[part] += phase.sin()
    f = form_factors(chunk.atomic_number, species, g.index_select(0, pair))
    real = torch.zeros_like(g).index_add_(0, pair, real.mul_(f))
    imag = torch.zeros_like(g).index_add_(0, pair, imag.mul_(f))
    return real.mul_(real).addcmul_(imag, imag)


def check_reach(reflections: Reflections, g: float, what: str) -> None:
    """Raise ``ValueError`` when reflections end before ``g`` (1/angstrom), which ``what`` needs."""
    if reflections.g_max < g * (1 - 1e-9):
        end = f"these reflections end at g = {reflections.g_max:.4f} 1/angstrom, but {what} needs"
        raise ValueError(f"{end} {g:.4f}; compute them with a larger g_max, see g_max_of")

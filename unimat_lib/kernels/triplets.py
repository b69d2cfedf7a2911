"""A graph and messages in, sums over neighbours out, as Triton kernels for the structure encoder.

DimeNet++ weights the message of an edge k -> j, for each edge j -> i that it goes on to, by a
filter in the distance of k -> j and the angle between the two. Written with tensor operations that
needs tensors with a row per triplet (k, j, i), of which there are twelve times as many as edges.
The kernel below never makes them. With the radial part of the filter already multiplied by the
first weight (Q, small, per edge), the filter of a triplet is

    S[b] = sum_l  P_l(cos angle) * Q[kj, l, b]            (P_l: Legendre polynomials)

and the sum over the triplets of an edge is

    out[ji, c] = sum_b  W[c, b] * sum_kj  S[kj, ji, b] * x[kj, c]

One program treats one middle atom j. The edges into j are neighbours in memory, those out of j
stand in a list; for 16 by 16 of them at a time S is a small matrix in registers, and the inner sum
a small matrix product. The gradient is computed the same way from S made anew, so nothing is
stored between the two passes, each result is written once, and no order of additions is left to
chance: the same batch gives the same numbers. :class:`.TorchSums` does the same with tensor
operations; the tests compare the two.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

EDGES = 128  # per program of the radial basis
BLOCK = 16  # edges on each side of a tile: the least a matrix product takes; most atoms have 12

# A tile is small: many programs at a time, not many warps in one, hide the latency of memory.
LAUNCH = {"num_warps": 1, "num_stages": 1}


class KernelSums:
    """The sums over neighbours of a :class:`.PeriodicGraph`, as :class:`.TorchSums` has them.

    They are made with a :class:`.SphericalBasis`. Nothing here waits for the GPU, and shapes depend
    on shapes alone, so a step may be captured in a CUDA graph. Edges beyond the last crystal
    (``PeriodicGraph.padded``) are passed over. No gradient reaches the vectors of the edges.
    """

    def __init__(self, graph: Any, basis: Any) -> None:
        self.source, self.target = graph.edge_index
        device, num_atoms = graph.device, graph.atomic_numbers.shape[0]
        num_real = graph.edge_offsets[-1]
        atom = torch.arange(num_atoms + 1, dtype=torch.int32, device=device)
        # Edges into atom j: into[j] to into[j + 1].
        self.into = torch.searchsorted(self.target.int(), atom).clamp(max=num_real)  # [N + 1]
        # Edges out of atom j: by_source[out_of[j]] to by_source[out_of[j + 1]].
        inert = torch.arange(len(self.source), device=device) >= num_real
        ordered, self.by_source = self.source.int().masked_fill(inert, num_atoms).sort(stable=True)
        self.out_of = torch.searchsorted(ordered, atom)  # [N + 1]
        self.unit = (graph.vector / graph.distance[:, None]).detach().contiguous()  # [E, 3]
        # Edge k -> j is j -> i walked backwards if the two keys are equal: same atom, opposite
        # image. Three int16 images and the last 16 bits of the atom fill 64 bits.
        x, y, z = graph.image.long().unbind(1)
        image = (x << 32) + (y << 16) + z
        self.key_in = (self.source << 48) + image  # [E]
        self.key_out = (self.target << 48) - image  # [E]
        self.radial = radial_basis(graph.distance.detach(), basis)  # [E, L * R]
        self.harmonic = basis.harmonic.diag()  # [L, L]

    def from_atoms(self, at_target: Tensor, at_source: Tensor) -> Tensor:
        """A row of the target plus a row of the source for each edge: [E, F] from two [N, F]."""
        return _FromAtoms.apply(at_target, at_source, self)

    def over_edges(self, values: Tensor, weight: Tensor) -> Tensor:
        """Sum of values times weight, both [E, F], over the edges into each atom: [N, F]."""
        return _OverEdges.apply(values, weight, self)

    def over_triplets(self, x: Tensor, lin_sbf1: nn.Linear, lin_sbf2: nn.Linear) -> Tensor:
        """Filtered sum [E, C] over the edges k -> j before each edge, from x [E, C]."""
        degrees = self.harmonic.shape[0]
        # As one product with a matrix that is zero between different degrees l.
        weight = lin_sbf1.weight.unflatten(1, (degrees, -1)).permute(1, 2, 0)  # [L, R, B]
        weight = weight[:, :, None, :] * self.harmonic[:, None, :, None]  # [L, R, L, B]
        with torch.autocast(x.device.type, enabled=False):
            q = self.radial @ weight.flatten(2).flatten(0, 1)  # [E, L * B]
        return _OverTriplets.apply(x, q, lin_sbf2.weight, self)


def radial_basis(distance: Tensor, basis: Any) -> Tensor:
    """``SphericalBasis.radial`` of distances, float32 [E] in angstrom: float32 [E, L * R].

    Computed in float64, as one kernel instead of a hundred small ones.
    """
    num_edges, functions = len(distance), basis.zeros.numel()
    out = distance.new_empty(num_edges, functions)
    _radial_basis[triton.cdiv(num_edges, EDGES), functions](
        *(distance.contiguous(), basis.zeros, basis.norm, out, num_edges, basis.cutoff),
        RADIALS=basis.zeros.shape[1],
        POWER=basis.envelope.p,
        BLOCK=EDGES,
    )
    return out


@triton.jit
def _radial_basis(
    distance, zeros, norm, out, num_edges, cutoff,
    RADIALS: tl.constexpr, POWER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One function j_l(z d / cutoff) for a block of edges, by upward recurrence in l."""
    edge = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    function = tl.program_id(1)
    real = edge < num_edges
    x = tl.load(distance + edge, mask=real, other=1.0).to(tl.float64) / cutoff
    y = x * tl.load(zeros + function)
    below = tl.sin(y) / y  # j_0
    value = (below - tl.cos(y)) / y  # j_1
    degree = function // RADIALS
    for order in range(1, degree):
        above = (2 * order + 1) / y * value - below
        below = value
        value = above
    value = tl.where(degree == 0, below, value)
    power = x * 0 + 1
    for _ in tl.static_range(POWER - 1):
        power *= x
    smooth = 1 / x - power * (
        (POWER + 1) * (POWER + 2) / 2 - POWER * (POWER + 2) * x + POWER * (POWER + 1) / 2 * x * x
    )
    value *= tl.where(x < 1, smooth, 0.0) * tl.load(norm + function)
    tl.store(out + edge * tl.num_programs(1) + function, value.to(tl.float32), mask=real)


class _FromAtoms(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, at_target: Tensor, at_source: Tensor, sums: KernelSums) -> Tensor:
        ctx.sums = sums
        return at_target.index_select(0, sums.target) + at_source.index_select(0, sums.source)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        to_target = segment_sum(grad, ctx.sums.into)
        to_source = segment_sum(grad, ctx.sums.out_of, order=ctx.sums.by_source)
        return to_target.to(grad.dtype), to_source.to(grad.dtype), None


class _OverEdges(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, weight: Tensor, sums: KernelSums) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.sums = sums
        return segment_sum(values, sums.into, weight=weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        values, weight = ctx.saved_tensors
        grad = grad.to(values.dtype).index_select(0, ctx.sums.target)  # [E, F]
        return grad * weight, grad * values, None


class _OverTriplets(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, q: Tensor, w: Tensor, sums: KernelSums) -> Tensor:
        x, q, w = x.contiguous(), q.contiguous(), w.contiguous()
        ctx.save_for_backward(x, q, w)
        ctx.sums = sums
        out = torch.zeros_like(x)  # edges that are passed over stay zero
        _over_triplets[(sums.into.shape[0] - 1,)](
            x, q, w, *_edge_lists(sums), out, *_sizes(q, w), **LAUNCH
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, q, w = ctx.saved_tensors
        sums = ctx.sums
        num_atoms, (channels, size) = sums.into.shape[0] - 1, w.shape
        x_grad, q_grad = torch.zeros_like(x), torch.zeros_like(q)
        w_grad = w.new_empty(num_atoms, size, channels)  # the part of each atom
        _over_triplets_backward[(num_atoms,)](
            *(x, q, w, *_edge_lists(sums), grad.contiguous(), x_grad, q_grad, w_grad),
            *_sizes(q, w),
            DEGREES_PADDED=triton.next_power_of_2(q.shape[1] // size),
            SIZE_PADDED=triton.next_power_of_2(size),
            **LAUNCH,
        )
        return x_grad, q_grad, w_grad.sum(0).T, None


def segment_sum(
    values: Tensor, first: Tensor, *, weight: Tensor | None = None, order: Tensor | None = None
) -> Tensor:
    """Sum of each run of rows of ``values`` [M, F], added up in float32: [S, F].

    Run s is first[s] to first[s + 1] of the rows, or of ``order`` [M], which lists rows; ``weight``
    [M, F] multiplies the values.
    """
    runs, width = first.shape[0] - 1, values.shape[1]
    out = values.new_empty(runs, width, dtype=torch.float32)
    weight = None if weight is None else weight.contiguous()
    _segment_sum[(runs,)](
        *(values.contiguous(), weight, order, first, out, width),
        COLUMNS=triton.next_power_of_2(width),
        BLOCK=8,
        **LAUNCH,
    )
    return out


def _edge_lists(sums: KernelSums) -> tuple[Tensor, ...]:
    return sums.unit, sums.key_in, sums.key_out, sums.into, sums.out_of, sums.by_source


def _sizes(q: Tensor, w: Tensor) -> tuple[int, ...]:
    """CHANNELS, SIZE, DEGREES, COLUMNS and BLOCK of the kernels."""
    channels, size = w.shape
    columns = max(16, triton.next_power_of_2(channels))  # 16: the least of a matrix product
    return channels, size, q.shape[1] // size, columns, BLOCK


@triton.jit
def _cosine(unit, kj, in_kj, ji, in_ji):
    """Cosines [kj, ji] between the unit vectors [E, 3] of two lists of edges."""
    cosine = tl.zeros([kj.shape[0], ji.shape[0]], tl.float32)
    for axis in tl.static_range(3):
        a = tl.load(unit + 3 * kj + axis, mask=in_kj, other=0.0)
        b = tl.load(unit + 3 * ji + axis, mask=in_ji, other=0.0)
        cosine += a[:, None] * b[None, :]
    return cosine


@triton.jit
def _filter(q, kj, in_kj, b, cosine, SIZE: tl.constexpr, DEGREES: tl.constexpr):
    """sum_l P_l(cosine) Q[kj, l, b] for a tile [kj, ji] of cosines, Q [E, DEGREES, SIZE]."""
    total = tl.zeros_like(cosine)
    below, legendre = total, total + 1.0
    for degree in tl.static_range(DEGREES):
        radial = tl.load(q + (kj * DEGREES + degree) * SIZE + b, mask=in_kj, other=0.0)
        total += radial[:, None] * legendre
        ahead, back = (2 * degree + 1) / (degree + 1), degree / (degree + 1)
        below, legendre = legendre, ahead * cosine * legendre - back * below
    return total


@triton.jit
def _filter_backward(grad, cosine, DEGREES: tl.constexpr, DEGREES_PADDED: tl.constexpr):
    """Gradient [kj, DEGREES_PADDED] of Q[kj, :, b] from that of a tile [kj, ji] of filters."""
    column = tl.arange(0, DEGREES_PADDED)
    total = tl.zeros([grad.shape[0], DEGREES_PADDED], tl.float32)
    below = tl.zeros_like(cosine)
    legendre = below + 1.0
    for degree in tl.static_range(DEGREES):
        moment = tl.sum(grad * legendre, axis=1)  # [kj]
        total += tl.where(column[None, :] == degree, moment[:, None], 0.0)
        ahead, back = (2 * degree + 1) / (degree + 1), degree / (degree + 1)
        below, legendre = legendre, ahead * cosine * legendre - back * below
    return total


@triton.jit
def _over_triplets(
    x, q, w, unit, key_in, key_out, into, out_of, by_source, out,
    CHANNELS: tl.constexpr, SIZE: tl.constexpr, DEGREES: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The filtered sums into ``out [E, CHANNELS]``, see the head of this file.

    Given are x [E, CHANNELS], q [E, DEGREES, SIZE], w [CHANNELS, SIZE], and of the edges unit
    [E, 3], key_in, key_out and by_source [E]; into and out_of [N + 1].
    """
    atom = tl.program_id(0)
    first_in, last_in = tl.load(into + atom), tl.load(into + atom + 1)
    first_out, last_out = tl.load(out_of + atom), tl.load(out_of + atom + 1)
    column = tl.arange(0, COLUMNS)
    valid = column < CHANNELS
    for start_out in range(first_out, last_out, BLOCK):
        slot = start_out + tl.arange(0, BLOCK)
        in_ji = slot < last_out
        ji = tl.load(by_source + slot, mask=in_ji, other=0)
        backwards = tl.load(key_out + ji)
        total = tl.zeros([BLOCK, COLUMNS], tl.float32)
        for start_in in range(first_in, last_in, BLOCK):
            kj = start_in + tl.arange(0, BLOCK)
            in_kj = kj < last_in
            inside = in_kj[:, None] & valid[None, :]
            x_kj = tl.load(x + kj[:, None] * CHANNELS + column[None, :], mask=inside, other=0.0)
            cosine = _cosine(unit, kj, in_kj, ji, in_ji)  # [kj, ji]
            other = tl.load(key_in + kj, mask=in_kj, other=0)[:, None] != backwards[None, :]
            for b in range(SIZE):
                s = tl.where(other, _filter(q, kj, in_kj, b, cosine, SIZE, DEGREES), 0.0)
                s = tl.trans(s.to(x_kj.dtype))  # [ji, kj]
                w_b = tl.load(w + column * SIZE + b, mask=valid, other=0.0)
                total += tl.dot(s, x_kj, input_precision="ieee") * w_b[None, :]
        inside = in_ji[:, None] & valid[None, :]
        tl.store(out + ji[:, None] * CHANNELS + column[None, :], total, mask=inside)


@triton.jit
def _over_triplets_backward(
    x, q, w, unit, key_in, key_out, into, out_of, by_source, grad, x_grad, q_grad, w_grad,
    CHANNELS: tl.constexpr, SIZE: tl.constexpr, DEGREES: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
    DEGREES_PADDED: tl.constexpr, SIZE_PADDED: tl.constexpr,
):  # fmt: skip
    """Gradients of x, q and w from that of the result, ``grad [E, CHANNELS]``.

    ``w_grad [N, SIZE, CHANNELS]`` gets one part per atom; the caller adds them up.
    """
    atom = tl.program_id(0)
    first_in, last_in = tl.load(into + atom), tl.load(into + atom + 1)
    first_out, last_out = tl.load(out_of + atom), tl.load(out_of + atom + 1)
    column = tl.arange(0, COLUMNS)
    valid = column < CHANNELS
    row = tl.arange(0, SIZE_PADDED)
    degree = tl.arange(0, DEGREES_PADDED)
    w_total = tl.zeros([SIZE_PADDED, COLUMNS], tl.float32)
    for start_in in range(first_in, last_in, BLOCK):
        kj = start_in + tl.arange(0, BLOCK)
        in_kj = kj < last_in
        inside = in_kj[:, None] & valid[None, :]
        x_kj = tl.load(x + kj[:, None] * CHANNELS + column[None, :], mask=inside, other=0.0)
        key_kj = tl.load(key_in + kj, mask=in_kj, other=0)
        x_total = tl.zeros([BLOCK, COLUMNS], tl.float32)
        for b in range(SIZE):
            w_b = tl.load(w + column * SIZE + b, mask=valid, other=0.0)
            weighted = (x_kj * w_b[None, :]).to(x_kj.dtype)
            product = tl.zeros([BLOCK, COLUMNS], tl.float32)  # sum over ji of S * grad
            q_total = tl.zeros([BLOCK, DEGREES_PADDED], tl.float32)
            for start_out in range(first_out, last_out, BLOCK):
                slot = start_out + tl.arange(0, BLOCK)
                in_ji = slot < last_out
                ji = tl.load(by_source + slot, mask=in_ji, other=0)
                g_ji = tl.load(
                    grad + ji[:, None] * CHANNELS + column[None, :],
                    mask=in_ji[:, None] & valid[None, :],
                    other=0.0,
                )
                cosine = _cosine(unit, kj, in_kj, ji, in_ji)  # [kj, ji]
                other = key_kj[:, None] != tl.load(key_out + ji)[None, :]
                s = tl.where(other, _filter(q, kj, in_kj, b, cosine, SIZE, DEGREES), 0.0)
                product += tl.dot(s.to(g_ji.dtype), g_ji, input_precision="ieee")
                s_grad = tl.dot(weighted, tl.trans(g_ji), input_precision="ieee")  # [kj, ji]
                s_grad = tl.where(other, s_grad, 0.0)
                q_total += _filter_backward(s_grad, cosine, DEGREES, DEGREES_PADDED)
            x_total += product * w_b[None, :]
            w_part = tl.sum(x_kj * product, axis=0)  # [CHANNELS]
            w_total += tl.where(row[:, None] == b, w_part[None, :], 0.0)
            tl.store(
                q_grad + (kj[:, None] * DEGREES + degree[None, :]) * SIZE + b,
                q_total,
                mask=in_kj[:, None] & (degree < DEGREES)[None, :],
            )
        tl.store(x_grad + kj[:, None] * CHANNELS + column[None, :], x_total, mask=inside)
    tl.store(
        w_grad + (atom * SIZE + row[:, None]) * CHANNELS + column[None, :],
        w_total,
        mask=(row < SIZE)[:, None] & valid[None, :],
    )


@triton.jit
def _segment_sum(
    values, weight, order, first, out,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    run = tl.program_id(0)
    start, stop = tl.load(first + run), tl.load(first + run + 1)
    column = tl.arange(0, COLUMNS)
    total = tl.zeros([BLOCK, COLUMNS], tl.float32)
    for begin in range(start, stop, BLOCK):
        row = begin + tl.arange(0, BLOCK)
        inside = (row < stop)[:, None] & (column < WIDTH)[None, :]
        if order is not None:
            row = tl.load(order + row, mask=row < stop, other=0)
        place = row[:, None] * WIDTH + column[None, :]
        part = tl.load(values + place, mask=inside, other=0.0).to(tl.float32)
        if weight is not None:
            part *= tl.load(weight + place, mask=inside, other=0.0)
        total += part
    tl.store(out + run * WIDTH + column, tl.sum(total, axis=0), mask=column < WIDTH)

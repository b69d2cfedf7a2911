"""Reflections in, sticks on a grid out, in one CUDA kernel: what :mod:`.render` computes."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 128  # reflections per program


def add_sticks(
    sticks: Tensor, reflections: Any, index: Tensor, rows: Any, sine_range: list[float]
) -> Tensor:
    """Add the reflections between two values of sin theta to rows of sticks, and return these.

    Every row gets as many programs as the crystal with most reflections needs; those beyond the end
    of their own crystal stop at once. So the launch depends on nothing that only the GPU knows.

    Args:
        sticks: float32 ``[B, n]``, contiguous.
        reflections: :class:`.Reflections` of all crystals, on the same device.
        index: Which crystals, int64 ``[B]``.
        rows: :class:`.Rows`, what the reflections of a row have in common.
        sine_range: Smallest and largest sin theta drawn.
    """
    if reflections.largest == 0 or len(index) == 0:
        return sticks
    textured = rows.texture is not None
    columns = [rows.sine_per_g, rows.steps_per_radian, rows.origin]
    columns += [rows.texture, *rows.along.unbind(1)] if textured else []
    _add_sticks[len(index), triton.cdiv(reflections.largest, _BLOCK)](
        *(sticks, reflections.g, reflections.intensity, reflections.hkl, reflections.offsets),
        index.contiguous(),
        torch.stack(columns, dim=1),  # float64: scalar arguments would be rounded to float32
        *(*sine_range, sticks.shape[1]),
        TEXTURED=textured,
        BLOCK=_BLOCK,
    )
    return sticks


@triton.jit
def _add_sticks(
    sticks, g_of, intensity_of, hkl_of, offsets, index, rows, lowest_sine, highest_sine, n,
    TEXTURED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    crystal = tl.load(index + row)
    end = tl.load(offsets + crystal + 1)
    at = tl.load(offsets + crystal) + tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    rows += row * (7 if TEXTURED else 3)
    g = tl.load(g_of + at, mask=at < end, other=0.0)
    sine = g * tl.load(rows)
    seen = (at < end) & (sine >= lowest_sine) & (sine <= highest_sine)
    sine = tl.where(seen, sine, 0.5)

    # Lorentz and polarisation factors, as in grid.lorentz_polarisation.
    cosine = tl.sqrt(1 - sine * sine)
    twice = 1 - 2 * sine * sine  # cos 2 theta
    weight = tl.load(intensity_of + at, mask=seen, other=0.0)
    weight *= (1 + twice * twice) / (sine * sine * cosine)
    if TEXTURED:  # as in render._march_dollase
        r = tl.load(rows + 3)
        h = tl.load(hkl_of + 3 * at, mask=seen, other=0).to(tl.float64)
        k = tl.load(hkl_of + 3 * at + 1, mask=seen, other=0).to(tl.float64)
        el = tl.load(hkl_of + 3 * at + 2, mask=seen, other=0).to(tl.float64)
        along = h * tl.load(rows + 4) + k * tl.load(rows + 5) + el * tl.load(rows + 6)
        along /= tl.where(seen, g, 1.0)
        along2 = tl.minimum(along * along, 1.0)
        spread = r * r * along2 + (1 - along2) / r
        weight /= spread * tl.sqrt(spread)

    # The inverse sine, which triton lacks: a polynomial good to 7e-5 radians (Abramowitz and
    # Stegun, 4.4.45) and one step of Newton, which leaves 2e-9 tan(theta).
    root = tl.sqrt(1 - sine)
    theta = 1.5707963267948966 - root * (
        1.5707288 + sine * (-0.2121144 + sine * (0.0742610 - sine * 0.0187293))
    )
    theta += (sine - tl.sin(theta)) / tl.cos(theta)

    place = tl.load(rows + 1) * theta + tl.load(rows + 2)
    left = tl.floor(place)
    t = (place - left).to(tl.float32)
    s = 1 - t
    strength = weight.to(tl.float32) / 6
    first = left.to(tl.int32) - 1 + n  # + n: what lies left of the grid goes to the row's end
    sticks += row.to(tl.int64) * n
    inner, outer = 3 * t * t * t - 6 * t * t + 4, 3 * s * s * s - 6 * s * s + 4
    tl.atomic_add(sticks + first % n, strength * s * s * s, seen, "relaxed")
    tl.atomic_add(sticks + (first + 1) % n, strength * inner, seen, "relaxed")
    tl.atomic_add(sticks + (first + 2) % n, strength * outer, seen, "relaxed")
    tl.atomic_add(sticks + (first + 3) % n, strength * t * t * t, seen, "relaxed")

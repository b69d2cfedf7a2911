"""A measured amplitude and a library's lines in, every crystal's best overlap out.

In ln g an isotropic strain is a shift. So one table, the measurement moved by every shift, is
looked up at every line of every crystal: 161,000 crystals at 50 strains take a tenth of a second.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unimat_lib.crystals.table import gather_segments
from unimat_powder.library.lines import DELTA, G_START
from unimat_powder.search.amplitude import WIDTHS, Amplitude, line_factor

SHIFTS = (-20, 50)
"""Range of isotropic strain in steps of ``DELTA``: cells from 7.5 % too large to 3 % too small."""

_COARSE = 5  # steps of DELTA between the shifts at which norms are computed: they hardly change
_BINS = 2**12


@dataclass(frozen=True, eq=False)
class LineIndex:
    """Lines of some crystals, one after the other."""

    offsets: Tensor  #: ``[C+1]`` int32
    position: Tensor  #: ``[M]`` int32, in steps of ``DELTA`` of ln(g / ``G_START``)
    amplitude: Tensor  #: ``[M]`` float32, root of 2|F|^2
    overlap: Tensor  #: ``[M]`` float32, a line's share of the crystal's squared norm

    def select(self, index: Tensor) -> "LineIndex":
        """Lines of the crystals ``index``, int64 ``[B]``."""
        flat, offsets = gather_segments(self.offsets.long(), index)
        return LineIndex(
            offsets.int(), self.position[flat], self.amplitude[flat], self.overlap[flat]
        )


def overlaps(amplitude: Amplitude, lines: LineIndex) -> Tensor:
    """Cosine of measured and computed amplitude, float32 ``[C, S]``, for each shift of ``SHIFTS``.

    A crystal at shift s has its lines at g exp(s DELTA): smaller cells have larger shifts.
    """
    low, high = SHIFTS
    margin = max(-low, high)
    g = G_START * torch.exp(DELTA * torch.arange(-margin, _BINS + margin, dtype=torch.float64))
    value, _, inside = amplitude.at(g, WIDTHS[-1])
    factor = line_factor(g, amplitude.wavelength) * inside
    device = lines.position.device
    seen = _moved((value * factor.sqrt()).float(), torch.arange(low, high + 1), margin).to(device)
    norms = _moved(factor.float(), torch.arange(low, high + 1, _COARSE), margin).to(device)
    start = lines.offsets[:-1]
    how = dict(mode="sum", include_last_offset=False)
    found = functional.embedding_bag(
        lines.position, seen, start, per_sample_weights=lines.amplitude, **how
    )
    square = functional.embedding_bag(
        lines.position, norms, start, per_sample_weights=lines.overlap, **how
    )
    square = square.repeat_interleave(_COARSE, dim=1)[:, : high - low + 1]
    return found / square.clamp_min(1e-12).sqrt()


def _moved(table: Tensor, shifts: Tensor, margin: int) -> Tensor:
    """A table ``[margin + BINS + margin]`` at every shift, ``[BINS, S]``."""
    rows = margin + torch.arange(_BINS)
    return table[rows[:, None] + shifts[None, :]].contiguous()

"""What is known of the elements in, numbers for the network out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import gemmi
import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable
from unimat_powder.pattern import PatternError

ELEMENTS = 100  #: atomic numbers 1 to 99 at their places; 0 stays empty
NOTHING, ONLY_ELEMENTS, FORMULA = range(3)  #: how much is known
MADE_UP = 2 * ELEMENTS + 3  #: place of the mark of made-up crystals
COMPOSITION_FEATURES = 2 * ELEMENTS + 4

_NO_HYDROGEN = (
    0.4  # odds that a formula leaves hydrogen out, where there is other hydrogen-free rest
)
_INTRUDER = 0.15  # odds of an element more than there should be
_INTRUDER_SHARE = 0.1  # largest atomic fraction of it
_FRACTION_ERROR = 0.05  # relative; solid solutions and vacancies


def fractions_of(table: CrystalTable) -> Tensor:
    """Atomic fractions of the elements of all crystals, float32 ``[C, ELEMENTS]``."""
    place = table.atom_crystal * ELEMENTS + table.atomic_numbers.clamp_max(ELEMENTS - 1)
    counts = torch.bincount(place, minlength=len(table) * ELEMENTS).unflatten(0, (-1, ELEMENTS))
    counts = counts.float()
    return counts / counts.sum(1, keepdim=True)


def composition_features(fractions: Tensor, known: Tensor, made_up: Tensor | None = None) -> Tensor:
    """The network's input for elements.

    Args:
        fractions: Atomic fractions ``[B, ELEMENTS]``.
        known: :data:`NOTHING`, :data:`ONLY_ELEMENTS` or :data:`FORMULA`, int64 ``[B]``.
        made_up: Bool ``[B]``: crystals with no chemistry, whose frequencies mean nothing.

    Returns:
        float32 ``[B, COMPOSITION_FEATURES]``: elements present, their fractions, what is known,
        and the mark of made-up crystals.
    """
    present = (fractions > 0).float() * (known > NOTHING)[:, None]
    share = fractions * (known == FORMULA)[:, None]
    kind = torch.nn.functional.one_hot(known, 3).float()
    mark = kind.new_zeros(len(kind), 1) if made_up is None else made_up.float()[:, None]
    return torch.cat([present, share, kind, mark], 1)


def blurred(fractions: Tensor, generator: torch.Generator) -> Tensor:
    """Fractions ``[B, ELEMENTS]`` as labels of real samples have them.

    Some without hydrogen, some with a little of an element that does not belong there, all a bit
    off; rows sum to 1.
    """
    device, rows = fractions.device, len(fractions)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    blur = 1 + _FRACTION_ERROR * torch.randn(
        fractions.shape, generator=generator, device=device
    ) * (uniform(rows, 1) < 0.5)
    changed = fractions * blur.clamp_min(0.2)
    bare = changed.clone()
    bare[:, 1] = 0
    drop = (uniform(rows) < _NO_HYDROGEN) & (bare.sum(1) > 0)
    changed = torch.where(drop[:, None], bare, changed)
    guest = torch.randint(3, 84, (rows, 1), generator=generator, device=device)
    extra = _INTRUDER_SHARE * uniform(rows, 1) * (uniform(rows, 1) < _INTRUDER)
    changed = changed.scatter_add(1, guest, extra)
    return changed / changed.sum(1, keepdim=True)


def parsed_composition(elements: Collection[str] | None, formula: str | None) -> tuple[Tensor, int]:
    """Fractions ``[1, ELEMENTS]`` and how much is known, from what a user says.

    Raises:
        PatternError: An element or a formula cannot be read, or both are given.
    """
    if elements is not None and formula is not None:
        raise PatternError("expected elements or a formula, but came both; leave one out")
    if formula is not None:
        from pymatgen.core import Composition

        try:
            amounts = {e.symbol: float(n) for e, n in Composition(formula).items()}
        except Exception as error:  # pymatgen raises several kinds here
            raise PatternError(
                f"expected a formula such as TiO2, but came {formula!r}: {error}"
            ) from None
        return _fractions(amounts), FORMULA
    if elements:
        return _fractions(dict.fromkeys(elements, 1.0)), ONLY_ELEMENTS
    return torch.zeros(1, ELEMENTS), NOTHING


def _fractions(amounts: dict[str, float]) -> Tensor:
    row = torch.zeros(1, ELEMENTS)
    symbols: Sequence[str] = list(amounts)
    for symbol in symbols:
        z = 1 if symbol == "D" else gemmi.Element(symbol).atomic_number
        if not 1 <= z < ELEMENTS or gemmi.Element(z).name != ("H" if symbol == "D" else symbol):
            raise PatternError(f"expected elements such as Ti and O, H to Es, but came {symbol!r}")
        row[0, z] += amounts[symbol]
    if not row.sum() > 0:
        raise PatternError("expected at least one element, but the formula holds none")
    return row / row.sum()

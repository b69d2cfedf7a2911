"""A measured pattern and what is known of its elements in, symmetry and cell with odds out."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unimat_lib.training.checkpoint import load_tensors, save_tensors
from unimat_powder.network.composition import composition_features, parsed_composition
from unimat_powder.network.groups import BRAVAIS, group_tables
from unimat_powder.network.reader import Reader
from unimat_powder.network.views import GRID, views_of
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.preparation import to_grid

KIND = "reader of powder patterns"  #: what a file of :func:`save_reader` says that it is


@dataclass(frozen=True, eq=False)
class CellGuess:
    """A Niggli cell of the primitive cell, for one Bravais lattice.

    Attributes:
        bravais: Name in :data:`.BRAVAIS`.
        probability: Of that Bravais lattice.
        lengths: angstrom.
        angles: degrees.
        length_error: Expected relative error of each length.
    """

    bravais: str
    probability: float
    lengths: tuple[float, float, float]
    angles: tuple[float, float, float]
    length_error: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Reading:
    """What the network says of one pattern.

    Attributes:
        system: Probabilities of the crystal systems, float64 ``[7]``.
        group: Probabilities of the space groups 1 to 230, float64 ``[230]``.
        cells: One for each Bravais lattice, the likeliest first.
        volume: Of the primitive cell, cubic angstrom.
        volume_error: Expected relative error of it.
        number_density: Atoms per cubic angstrom.
        number_density_error: Expected relative error.
        mass_density: g/cm3.
    """

    system: np.ndarray
    group: np.ndarray
    cells: tuple[CellGuess, ...]
    volume: float
    volume_error: float
    number_density: float
    number_density_error: float
    mass_density: float


@torch.no_grad()
def read_pattern(
    model: Reader,
    pattern: Pattern,
    *,
    elements: Collection[str] | None = None,
    formula: str | None = None,
) -> Reading:
    """Read symmetry and cell off a measured pattern.

    Args:
        model: From :func:`load_reader`.
        pattern: Any wavelength, range and step; what lies between 1.09 and 17.7 angstrom counts.
        elements: Symbols of the elements in the sample, if they are known.
        formula: The formula instead.

    Raises:
        PatternError: The pattern lies outside what the network reads, nothing rises above the
            background, or elements or formula cannot be read.
    """
    fractions, known = parsed_composition(elements, formula)
    device = next(model.parameters()).device
    counts, mask = (x.to(device) for x in on_grid(pattern))
    views = views_of(counts, mask)
    if not views.present.any():
        raise PatternError(
            "nothing rises above the background between 1.09 and 17.7 angstrom; check the "
            "intensity column and the wavelength"
        )
    composition = composition_features(fractions.to(device), torch.tensor([known], device=device))
    readout = model.eval()(views, composition)
    tables = group_tables(device)
    p = readout.groups.double().softmax(1)
    bravais = (p @ tables.in_bravais.double())[0]
    cells = readout.cells[0].double()
    lengths, angles = cells[:, :3].exp(), torch.rad2deg(cells[:, 3:].clamp(-0.99, 0.99).acos())
    error = readout.cell_spread[0].double()[:, :3].exp()
    guesses = [
        CellGuess(
            BRAVAIS[i], bravais[i].item(), *(tuple(x[i].tolist()) for x in (lengths, angles, error))
        )
        for i in bravais.argsort(descending=True).tolist()
    ]
    volume, number, mass = readout.scalars[0].double().exp().tolist()
    volume_error, number_error, _ = readout.scalar_spread[0].double().exp().tolist()
    system = (p @ tables.in_system.double())[0].cpu().numpy()
    return Reading(
        system, p[0].cpu().numpy(), tuple(guesses), volume, volume_error, number, number_error, mass
    )


def on_grid(pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Counts ``[1, P]`` on :data:`.GRID`, background included, and which points were measured.

    Raises:
        PatternError: The pattern lies outside the grid.
    """
    counts = to_grid(pattern, GRID, background=False)
    ends = pattern.two_theta[[0, -1]].double().numpy()
    sine = np.sin(np.radians(ends / 2)) * (GRID.wavelength / pattern.wavelength)
    first, last = 2 * np.degrees(np.arcsin(np.clip(sine, 0, 1)))
    points, slack = GRID.two_theta, 0.01 * GRID.step
    mask = (points >= first - slack) & (points <= last + slack)
    return counts[None], mask[None]


def save_reader(model: Reader, path: Path, *, record: dict | None = None) -> None:
    """Weights in half precision, and a JSON file of the same name that says what they are."""
    tensors = {name: x.half() for name, x in model.state_dict().items()}
    state = {"kind": KIND, "model": model.settings}
    save_tensors(path, tensors, state)
    text = json.dumps(state | (record or {}), indent=1) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")


def load_reader(path: Path) -> Reader:
    """A trained network, in single precision, ready to read.

    Raises:
        ValueError: The file is damaged or holds something else.
    """
    tensors, state = load_tensors(path)
    if state.get("kind") != KIND:
        raise ValueError(
            f"{path}: expected a {KIND}, but found {state.get('kind', 'something else')!r}; "
            "name a file of save_reader"
        )
    model = Reader(**state["model"])
    model.load_state_dict({name: x.float() for name, x in tensors.items()})
    return model.eval()

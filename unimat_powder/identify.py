"""A measured powder pattern and perhaps a formula in, a cell and a crystal system out.

This is the model as a reader uses it, from Python or as a command. The pattern may come from any
instrument; it is brought to the wavelength and the grid of the model first.
"""

import signal

if __name__ == "__main__":  # Ctrl-C ends the command without a traceback, also while it imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.model import UniMat, load_model
from unimat_lib.paths import book_root
from unimat_lib.views.composition import magpie_features
from unimat_lib.views.grid import Grid
from unimat_powder.formulas import parse_formula
from unimat_powder.indexing import MIN_PEAKS
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.peaks import find_peaks
from unimat_powder.preparation import to_grid
from unimat_powder.reading import read_pattern
from unimat_powder.refinement import refine_cells

PRETRAINED = "data/pretrained/xrd_composition.safetensors"
"""The model of the command line, from the folder of the book."""

_INSTALLED = Path(__file__).parent / "pretrained" / Path(PRETRAINED).name
_POSITION_ERROR = 0.02  # degrees, of the peaks of an aligned diffractometer (zero, sample height)
_MIN_EXPLAINED = 0.9  # share of the peaks for a refined cell; lines at random angles reach 0.8
_FINEST_STEP = 5e-4  # degrees: beyond what any diffractometer resolves


@dataclass(frozen=True)
class Identification:
    """What a model says about one pattern."""

    lengths: tuple[float, float, float]  # a, b, c of the Niggli-reduced primitive cell, angstrom
    angles: tuple[float, float, float]  # alpha, beta, gamma of that cell, degrees
    crystal_system: dict[str, float]  # probability of each crystal system; they sum to one

    @property
    def best_system(self) -> str:
        """The most probable crystal system."""
        return max(self.crystal_system, key=self.crystal_system.__getitem__)

    def __str__(self) -> str:
        """Three lines of text: lengths, angles, the likely crystal systems."""
        likely = sorted(self.crystal_system.items(), key=lambda item: -item[1])[:3]
        systems = ", ".join(f"{name} {100 * p:.0f} %" for name, p in likely)
        return f"{_cell_text(self.lengths, self.angles)}\ncrystal system     {systems}"


@dataclass(frozen=True)
class Refinement:
    """The cell that explains the peaks of a pattern, if one was found, else the predicted one."""

    lengths: tuple[float, float, float]  # as of the prediction
    angles: tuple[float, float, float]
    accepted: bool  # whether it explains the peaks better than the predicted cell does
    explained: float  # share of the peaks that the best cell found explains
    num_peaks: int  # that it was compared with

    def __str__(self) -> str:
        """The cell and how well it fits, or that none was found."""
        if not self.accepted:
            return f"refinement         no cell explains the {self.num_peaks} peaks better"
        share = f"explains {100 * self.explained:.0f} % of {self.num_peaks} peaks"
        return f"{_cell_text(self.lengths, self.angles)}\nrefined cell       {share}"


def _cell_text(lengths: Sequence[float], angles: Sequence[float]) -> str:
    edges, corners = "  ".join(f"{x:8.3f}" for x in lengths), "  ".join(f"{x:8.2f}" for x in angles)
    return f"a, b, c            {edges}  angstrom\nalpha, beta, gamma {corners}  degrees"


@torch.inference_mode()
def identify(model: UniMat, pattern: Pattern, formula: str | None = None) -> Identification:
    """Predict the cell and the crystal system behind one measured pattern.

    Args:
        model: A model that reads XRD, alone or with other modalities; it is put in evaluation mode.
        pattern: The measurement, see :func:`.read_pattern`.
        formula: Chemical formula such as ``"TiO2"``, for a model that also reads the composition.
            Without it the composition counts as absent.

    Raises:
        ValueError: The model does not read XRD or a given formula, lacks an input that it needs, or
            the formula cannot be read.
        PatternError: The pattern lies outside the model's grid or holds nothing.
    """
    inputs = model.config.inputs
    if "xrd" not in inputs:
        raise ValueError(f"expected a model that reads 'xrd', but this one reads {inputs}")
    if formula is not None and "composition" not in inputs:
        raise ValueError(
            f"a formula came, but this model reads {inputs}: leave the formula out, "
            "or choose a model that reads the composition"
        )
    given = {"xrd"} if formula is None else {"xrd", "composition"}
    needed = [name for name in inputs if name not in given and name not in model.optional_inputs]
    if needed:
        advice = "give the formula" if needed == ["composition"] else "choose another model"
        raise ValueError(f"this model was not trained to do without {needed}: {advice}")
    model.eval()
    device = model.cell_scaler.mean.device
    views = {"xrd": to_grid(pattern, model.config.grid)[None].to(device)}  # [1, P]
    if formula is not None:
        views["composition"] = _composition(formula).to(device)  # [1, F]
    half = any(x.dtype == torch.bfloat16 for x in model.encoders["xrd"].parameters())
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        output = model(views)
    cell = model.cell_scaler.decode(output.cell.float())
    probabilities = output.system_log_probs.float().exp()[0].tolist()
    return Identification(
        lengths=tuple(cell["lengths"][0].tolist()),
        angles=tuple(cell["angles"][0].tolist()),
        crystal_system=dict(zip(CRYSTAL_SYSTEMS, probabilities, strict=True)),
    )


def _composition(formula: str) -> torch.Tensor:
    """Features ``[1, F]`` of a formula that somebody typed."""
    return magpie_features([parse_formula(formula).reduced])


def refine_cell(found: Identification, pattern: Pattern) -> Refinement:
    """Improve a predicted cell with the positions of the pattern's own peaks.

    The peaks are those of the measurement at its own wavelength and step, not of the model's grid.
    A spectrum with two lines (K-alpha 1 and 2) splits them at high angles; strip the second line.

    Args:
        found: The prediction for this pattern.
        pattern: The measurement.

    Raises:
        PatternError: The pattern shows too few peaks.
    """
    low, high = float(pattern.two_theta[0]), float(pattern.two_theta[-1])
    high = min(high, math.nextafter(180, 0))  # a grid ends before 180
    step = max(float(pattern.two_theta.diff().median()), _FINEST_STEP)
    points = round((high - low) / step) + 1
    if points < 3:
        raise PatternError(f"too few points for peaks: {low:g} to {high:g} degrees, step {step:g}")
    grid = Grid(low, high, points, pattern.wavelength)
    peaks = find_peaks(to_grid(pattern, grid)[None], grid, position_error=_POSITION_ERROR)
    num_peaks = int(peaks.mask.sum())
    if num_peaks < MIN_PEAKS:
        raise PatternError(
            f"too few peaks: expected at least {MIN_PEAKS} that stand out of the noise, but came "
            f"{num_peaks}; measure longer or a wider range, or do not refine"
        )
    cells = refine_cells(
        # A network may answer with a length that is none: for the search a small one will do.
        torch.tensor([found.lengths]).clamp_min(1.0),
        torch.tensor([found.angles]),
        peaks,
        system_probs=torch.tensor([[found.crystal_system[name] for name in CRYSTAL_SYSTEMS]]),
    )
    explained = float(cells.explained[0])
    kept = bool(cells.accepted[0]) and explained >= _MIN_EXPLAINED
    return Refinement(
        lengths=tuple(cells.lengths[0].tolist()) if kept else found.lengths,
        angles=tuple(cells.angles[0].tolist()) if kept else found.angles,
        accepted=kept,
        explained=explained,
        num_peaks=num_peaks,
    )


def pretrained_model() -> Path:
    """The model that comes with the book.

    Raises:
        FileNotFoundError: It is not there; the message says what to do.
    """
    root = book_root()
    places = [_INSTALLED] if root is None else [root / PRETRAINED, _INSTALLED]
    if found := next((path for path in places if path.is_file()), None):
        return found
    raise FileNotFoundError(
        f"expected a pretrained model at {places[0]}, but there is none: name one with --model, or "
        "train it with unimat-book run 05 --profile full"
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # one line without the usage, as all other errors
        self.exit(2, f"error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``python -m unimat_powder.identify pattern.xy --formula TiO2 --refine``."""
    parser = _Parser(
        prog="python -m unimat_powder.identify",
        description="Predict the cell and the crystal system behind a measured powder pattern.",
    )
    parser.add_argument("pattern", help="columns of text, .xrdml, .raw, .brml, .ras, CIF and more")
    parser.add_argument("--model", help=f"*.safetensors beside its .json (default: {PRETRAINED})")
    parser.add_argument("--formula", help="chemical formula, such as TiO2, if it is known")
    what = "angstrom; wins over the file (default: what the file states, else Cu K-alpha)"
    parser.add_argument("--wavelength", type=float, help=what)
    what = "improve the cell with the positions of the peaks"
    parser.add_argument("--refine", action="store_true", help=what)
    given = parser.parse_args(arguments)
    try:
        pattern = read_pattern(given.pattern, wavelength=given.wavelength)
        found = identify(load_model(given.model or pretrained_model()), pattern, given.formula)
        answers = [found, refine_cell(found, pattern)] if given.refine else [found]
    except (ValueError, OSError) as error:  # PatternError is a ValueError
        print("error:", " ".join(str(error).split())[:500], file=sys.stderr)
        return 2
    print(*answers, sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

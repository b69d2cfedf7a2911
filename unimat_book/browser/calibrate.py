"""Simulated laboratory patterns in, how sure the page may be out: ``browser/calibration.json``.

``python -m unimat_book.browser.calibrate`` needs MP-20 and Node.js, and takes a quarter of an hour.
Crystals are of MP-20's validation part alone. What a page is asked about is mostly in no index: of
four patterns one is of a crystal that the index holds, one of a crystal whose relatives alone it
holds, and two of crystals with large cells of which it holds nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gemmi
import numpy as np
import torch
from safetensors.numpy import load_file
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from unimat_book.browser.export import export
from unimat_book.browser.index import ANGLE, LENGTH
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.paths import book_root
from unimat_powder.network.groups import systems_of_groups
from unimat_powder.network.views import GRID
from unimat_powder.simulation.ranges import RRUFF, LaboratoryRanges
from unimat_powder.simulation.scans import scans_of

CRYSTALS = 600  #: simulated once each
KINDS = ("known", "relatives", "strange", "strange")  #: what the index holds of a crystal, in turn
FEATURES = (
    *("one", "cosine", "gap", "met", "covered", "lines", "peaks", "system", "group"),
)  #: what counts, in the order of browser/answer.mjs
_SETTINGS = ("pattern", "elements")
_SEED = 5
_STIFF = 0.3  # of the quadratic penalty of weights
_LENGTH, _ANGLE = 0.03, 3.0  # a cell is loosely right
_ALIKE = 2  # so many times these a cell may be off to be taken out with a strange crystal
_FOLDS = 10
BINS = (0.0, 0.2, 0.5, 0.8, 0.95, 1.01)  #: of stated probabilities, in tables


def drawn(table: CrystalTable, number: int, *, seed: int) -> CrystalTable:
    """Crystals for the kinds in turn; those of kind ``"strange"`` have cells above the median.

    What an index of at most twenty atoms lacks is mostly larger than what it holds.

    Args:
        table: What to draw from.
        number: Of crystals; the table has at least that many large ones.
        seed: Of the draw.
    """
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
    large = (table.volume > table.volume.median())[order]
    strange = torch.tensor([KINDS[i % len(KINDS)] == "strange" for i in range(number)])
    rows = torch.empty(number, dtype=torch.long)
    rows[strange] = order[large][: int(strange.sum())]
    rest = order[~torch.isin(order, rows[strange])]
    rows[~strange] = rest[: int((~strange).sum())]
    return table.select(rows)


def simulated(table: CrystalTable, setting: str, *, seed: int) -> list[dict]:
    """Questions to the page, with the truth and the kind, :data:`KINDS` in turn.

    Patterns are as one laboratory (RRUFF) makes them and as any does, half and half.

    Args:
        table: Crystals, none of which the network was trained on.
        setting: ``"pattern"``, or ``"elements"``: these are told.
        seed: Of instruments and noise.
    """
    made = [scans_of(table, habits, GRID, seed=seed) for habits in (RRUFF, LaboratoryRanges())]
    asked = []
    for i, info in enumerate(table.info.itertuples()):
        scans = made[i // len(KINDS) % len(made)]
        numbers = table.atomic_numbers[table.offsets[i] : table.offsets[i + 1]].unique()
        symbols = [gemmi.Element(int(z)).name for z in numbers]
        lengths = table.lengths[i] * (1 + scans.instruments.isotropic[i].double())
        cell = [*lengths.tolist(), *table.angles[i].tolist()]
        asked.append(
            {
                "twoTheta": GRID.two_theta[scans.mask[i]].tolist(),
                "intensity": scans.counts[i][scans.mask[i]].tolist(),
                "wavelength": GRID.wavelength,
                "symbols": symbols if setting == "elements" else [],
                "truth": {"formula": info.formula, "group": int(info.space_group), "cell": cell},
                "kind": KINDS[i % len(KINDS)],
            }
        )
    return asked


def answered(asked: list[dict], folder: Path) -> Iterator[dict]:
    """What the page's own code says of each, run by Node.js."""
    known = Known(folder)
    keys = ("twoTheta", "intensity", "wavelength", "symbols")
    patterns = [{key: one[key] for key in keys} | {"without": known.without(one)} for one in asked]
    script = book_root() / "browser/node/evidence.mjs"
    command = ["node", str(script), str(folder)]
    text = json.dumps({"patterns": patterns})
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    for one, line in zip(asked, done.stdout.splitlines(), strict=True):
        yield {"truth": one["truth"], "kind": one["kind"]} | json.loads(line)


class Known:
    """Names and cells of an index, to say which rows a kind of crystal must not be found in."""

    def __init__(self, folder: Path) -> None:
        index = load_file(folder / "index.safetensors")
        lines = index["names"].tobytes().decode().split("\n")
        self.formulas = np.array([line.split("\t")[0] for line in lines])
        self.groups = index["space_group"]
        self.cells = index["cell"] / np.array([LENGTH] * 3 + [ANGLE] * 3)

    def without(self, one: dict) -> list[int]:
        """Rows that count as unknown for a question of :func:`simulated`."""
        if one["kind"] == "known":
            return []
        truth = one["truth"]
        out = (self.formulas == truth["formula"]) & (self.groups == truth["group"])
        if one["kind"] == "strange":
            out |= cells_alike(self.cells, np.array(truth["cell"]), _ALIKE)
        return np.flatnonzero(out).tolist()


def cells_alike(cells: np.ndarray, truth: np.ndarray, slack: float = 1.0) -> np.ndarray:
    """Whether Niggli cells ``[..., 6]`` are loosely a true one, so many times the tolerance."""
    near = np.abs(cells[..., :3] / truth[:3] - 1).max(-1) < slack * _LENGTH
    return near & (np.abs(cells[..., 3:] - truth[3:]).max(-1) < slack * _ANGLE)


def is_right(said: dict) -> tuple[bool, bool]:
    """Whether the first match is the crystal, and whether it has its cell and crystal system."""
    first, truth = said["found"][0], said["truth"]
    crystal = (first["formula"], first["group"]) == (truth["formula"], truth["group"])
    near = cells_alike(np.array(first["cell"]), np.array(truth["cell"]))
    system, true_system = (systems_of_groups()[one["group"] - 1] for one in (first, truth))
    return crystal, crystal or bool(near and system == true_system)


def fit_logistic(features: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Weights ``[F]`` of the log odds that something is right; the first feature is one.

    Weights are weakly held near zero, but for the first.
    """
    model = LogisticRegression(C=1 / _STIFF, tol=1e-8, max_iter=1000).fit(features[:, 1:], right)
    return np.append(model.intercept_, model.coef_)


def held_out(features: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Probabilities ``[N]``, each from weights that were fitted on others."""
    found = np.empty(len(right))
    for train, test in KFold(_FOLDS, shuffle=True, random_state=_SEED).split(features):
        found[test] = expit(features[test] @ fit_logistic(features[train], right[train]))
    return found


def calibration_error(probability: np.ndarray, right: np.ndarray, *, bins: int = 5) -> float:
    """Expected calibration error over bins of equal size."""
    parts = np.array_split(np.argsort(probability), bins)
    gaps = [abs(probability[part].mean() - right[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(right))


def fit_temperature(groups: np.ndarray, system: np.ndarray) -> tuple[float, float, float]:
    """Temperature of space-group logits ``[N, 230]``; loss of systems without and with it."""

    def loss(temperature: float) -> float:
        return float(-_system_odds(groups / temperature)[np.arange(len(system)), system].mean())

    best = minimize_scalar(loss, bounds=(0.3, 5), method="bounded").x
    return float(best), loss(1.0), loss(best)


def _system_odds(logits: np.ndarray) -> np.ndarray:
    """Log probabilities of the seven crystal systems ``[N, 7]`` from those of groups."""
    logs, member = log_softmax(logits, axis=1), systems_of_groups().numpy()
    return np.stack([logsumexp(logs[:, member == s], axis=1) for s in range(7)], 1)


def reliability(probability: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """How often what was stated within each of :data:`BINS` is right."""
    rows = []
    for low, high in itertools.pairwise(BINS):
        inside = (probability >= low) & (probability < high)
        if inside.any():
            stated, true = probability[inside].mean(), right[inside].mean()
            rows.append({"from": low, "patterns": int(inside.sum())} | _rounded(stated, true))
    return rows


def _rounded(stated: float, right: float) -> dict[str, float]:
    return {"stated": round(float(stated), 3), "right": round(float(right), 3)}


def calibrated(said: list[dict]) -> dict:
    """Weights and temperature of one setting, and what they are worth."""
    known = [one for one in said if one.get("features")]
    features = np.array([one["features"] for one in known])
    right = np.array([is_right(one) for one in known])
    read = [one for one in said if one.get("read")]
    groups = np.log(np.clip([one["read"]["groups"] for one in read], 1e-12, None))
    truth = systems_of_groups().numpy()[[one["truth"]["group"] - 1 for one in read]]
    temperature, before, after = fit_temperature(groups, truth)
    quality = {}
    for name, column in zip(("crystal", "cell"), right.T, strict=True):
        guess = held_out(features, column)
        quality[name] = {
            "right": round(float(column.mean()), 3),
            "brier": round(float(((guess - column) ** 2).mean()), 3),
            "calibration_error": round(calibration_error(guess, column), 3),
            "reliability": reliability(guess, column),
        }
    systems = _system_odds(groups / temperature)
    quality["network"] = {
        "right": round(float((systems.argmax(1) == truth).mean()), 3),
        "loss": [round(before, 3), round(after, 3)],
        "reliability": reliability(np.exp(systems.max(1)), systems.argmax(1) == truth),
    }
    weights = [fit_logistic(features, column).round(4).tolist() for column in right.T]
    return {
        "temperature": round(temperature, 3),
        "crystal": weights[0],
        "cell": weights[1],
        "held_out": quality,
        "patterns": len(known),
    }


def main(arguments: list[str] | None = None) -> int:
    """Simulate, ask the page's code, fit, and write the file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m unimat_book.browser.calibrate")
    parser.add_argument("--out", help="default: browser/calibration.json of the book")
    options = parser.parse_args(arguments)
    unseen = load_dataset("mp_20").split("val")
    fitted = {}
    with tempfile.TemporaryDirectory() as place:
        folder = export(place, dataset="mp_20")
        for seed, setting in enumerate(_SETTINGS, start=_SEED):
            asked = simulated(drawn(unseen, CRYSTALS, seed=seed), setting, seed=seed)
            fitted[setting] = calibrated(list(answered(asked, folder)))
    record = {
        "made_by": "python -m unimat_book.browser.calibrate",
        "patterns": f"{CRYSTALS} crystals of MP-20's validation part for each setting, simulated "
        "with the habits of one laboratory (RRUFF) and of any, half and half; of four the index "
        "holds one, lacks one, and of two, with large cells, it lacks all that share their cell; "
        "told elements of which the index has no crystal, a pattern does not count",
        "measured": "no measured pattern was fitted to; these kinds were chosen after a look at "
        "the first 56 labelled patterns of RRUFF",
        "features": FEATURES,
        **fitted,
    }
    path = Path(options.out) if options.out else book_root() / "browser/calibration.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    worth = {setting: found["held_out"] for setting, found in fitted.items()}
    sys.stdout.write(f"{json.dumps(worth, indent=1)}\n{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

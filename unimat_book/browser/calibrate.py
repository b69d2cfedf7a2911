"""Simulated laboratory patterns in, how sure the page may be out: ``browser/calibration.json``.

``python -m unimat_book.browser.calibrate`` needs MP-20 and Node.js, and takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gemmi
import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from unimat_book.browser.export import export
from unimat_lib.crystals.table import CrystalTable, concatenate
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.paths import book_root
from unimat_powder.network.groups import systems_of_groups
from unimat_powder.network.views import GRID
from unimat_powder.simulation.ranges import RRUFF
from unimat_powder.simulation.scans import scans_of

CRYSTALS = 400  #: simulated once each
FEATURES = (
    *("one", "cosine", "gap", "met", "covered", "lines", "peaks", "system", "group"),
)  #: what counts, in the order of browser/answer.mjs
_SETTINGS = ("pattern", "elements")
_SEED = 5
_STIFF = 0.3  # of the quadratic penalty of weights
_LENGTH, _ANGLE = 0.03, 3.0  # a cell is loosely right
_FOLDS = 10


def simulated(table: CrystalTable, setting: str, *, seed: int) -> list[dict]:
    """Questions to the page, with the truth: every second crystal is taken out of the index.

    Args:
        table: Crystals, none of which the network was trained on.
        setting: ``"pattern"``, or ``"elements"``: these are told.
        seed: Of instruments and noise.
    """
    scans = scans_of(table, RRUFF, GRID, seed=seed)
    two_theta = GRID.two_theta.tolist()
    strain = scans.instruments.isotropic[: len(table)].double()
    cells = torch.cat([table.lengths * (1 + strain[:, None]), table.angles], 1)
    asked = []
    for i, info in enumerate(table.info.itertuples()):
        numbers = table.atomic_numbers[table.offsets[i] : table.offsets[i + 1]].unique()
        truth = {"formula": info.formula, "group": int(info.space_group), "cell": cells[i].tolist()}
        asked.append(
            {
                "twoTheta": two_theta,
                "intensity": scans.counts[i].tolist(),
                "wavelength": GRID.wavelength,
                "symbols": [gemmi.Element(int(z)).name for z in numbers]
                if setting == "elements"
                else [],
                "truth": truth,
                "absent": i % 2 == 1,
            }
        )
    return asked


def answered(asked: list[dict], folder: Path, names: list[tuple[str, int]]) -> Iterator[dict]:
    """What the page's own code says of each, run by Node.js."""
    patterns = []
    for one in asked:
        same = (one["truth"]["formula"], one["truth"]["group"])
        without = [row for row, name in enumerate(names) if name == same] if one["absent"] else []
        keys = ("twoTheta", "intensity", "wavelength", "symbols")
        patterns.append({key: one[key] for key in keys} | {"without": without})
    script = book_root() / "browser/node/evidence.mjs"
    command = ["node", str(script), str(folder)]
    text = json.dumps({"patterns": patterns})
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    for one, line in zip(asked, done.stdout.splitlines(), strict=True):
        yield {"truth": one["truth"], "absent": one["absent"]} | json.loads(line)


def names_of(folder: Path) -> list[tuple[str, int]]:
    """Formula and space group of each crystal of an index."""
    from safetensors.numpy import load_file

    index = load_file(folder / "index.safetensors")
    lines = index["names"].tobytes().decode().split("\n")
    formulas = [line.split("\t")[0] for line in lines]
    return list(zip(formulas, index["space_group"].tolist(), strict=True))


def is_right(said: dict) -> tuple[bool, bool]:
    """Whether the first match is the crystal, and whether it has its cell and crystal system."""
    first, truth = said["found"][0], said["truth"]
    crystal = (first["formula"], first["group"]) == (truth["formula"], truth["group"])
    cell, true = np.array(first["cell"]), np.array(truth["cell"])
    near = np.abs(cell[:3] / true[:3] - 1).max() < _LENGTH
    near &= np.abs(cell[3:] - true[3:]).max() < _ANGLE
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
    member = systems_of_groups().numpy()

    def loss(temperature: float) -> float:
        logs = log_softmax(groups / temperature, axis=1)
        sums = np.stack([logsumexp(logs[:, member == s], axis=1) for s in range(7)], 1)
        return float(-sums[np.arange(len(system)), system].mean())

    best = minimize_scalar(loss, bounds=(0.3, 5), method="bounded").x
    return float(best), loss(1.0), loss(best)


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
        sure = guess >= 0.5
        quality[name] = {
            "right": round(float(column.mean()), 3),
            "brier": round(float(((guess - column) ** 2).mean()), 3),
            "calibration_error": round(calibration_error(guess, column), 3),
            "answered": round(float(sure.mean()), 3),
            "right_among_answered": round(float(column[sure].mean()), 3),
        }
    systems = np.argmax([one["read"]["systems"] for one in read], 1)
    quality["network"] = {
        "right": round(float((systems == truth).mean()), 3),
        "loss": [round(before, 3), round(after, 3)],
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
    table = load_dataset("mp_20")
    unseen = concatenate([table.split("val"), table.split("test")])
    draw = torch.Generator().manual_seed(_SEED)
    rows = torch.randperm(len(unseen), generator=draw)[:CRYSTALS]
    fitted = {}
    with tempfile.TemporaryDirectory() as place:
        folder = export(place, dataset="mp_20")
        names = names_of(folder)
        for seed, setting in enumerate(_SETTINGS, start=_SEED):
            asked = simulated(unseen.select(rows), setting, seed=seed)
            fitted[setting] = calibrated(list(answered(asked, folder, names)))
    record = {
        "made_by": "python -m unimat_book.browser.calibrate",
        "patterns": f"{CRYSTALS} crystals of MP-20's validation and test parts, simulated with the "
        "habits of one laboratory (RRUFF); every second one taken out of the index",
        "measured": "no measured pattern was used",
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

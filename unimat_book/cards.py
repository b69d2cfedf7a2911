"""Models that are given away: weights in half precision and a card that says what they are.

The card is Markdown with a head in YAML, the form of Mitchell et al., "Model cards for model
reporting", arXiv 1810.03993, and of the Hugging Face hub. Its numbers are computed, never typed.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import yaml

from unimat_book.calibration import per_system_table
from unimat_book.experiments import Run
from unimat_book.record import product
from unimat_lib.evaluation.metrics import METRIC_UNITS, cell_metrics
from unimat_lib.model import UniMat, num_parameters, save_model

METRICS: Mapping[str, tuple[str, int]] = {
    "scaled_length_mae": ("mean absolute error of a, b, c, scaled", 4),
    "length_mae": ("mean absolute error of a, b, c", 4),
    "length_median_ae": ("median absolute error of a, b, c", 4),
    "length_mape": ("mean relative error of a, b, c", 2),
    "angle_mae": ("mean absolute error of the angles", 3),
    "volume_mape": ("mean relative error of the volume", 2),
    "within_1_percent": ("cells with every length within 1 %", 2),
    "crystal_system_accuracy": ("crystal system right", 2),
}
"""Metrics of a card: what they are called, and how many decimals are printed."""

INPUTS: Mapping[str, str] = {
    "structure": "a crystal structure (graph of its atoms; it holds the cell that is predicted)",
    "xrd": "a powder pattern",
    "composition": "a chemical formula (Magpie features of the reduced formula)",
}

_WITH_PATTERN = """\
from unimat_lib.model import load_model
from unimat_powder.preparation import to_grid
from unimat_powder.reading import read_pattern
model = load_model("{path}")
views = {{"xrd": to_grid(read_pattern("scan.xy"), model.config.grid)[None]}}
print(model.cell_scaler.decode(model(views).cell))  # angstrom, degrees"""
_WITH_STRUCTURE = """\
import torch
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.evaluation.predict import embed
from unimat_lib.model import load_model
from unimat_lib.views.batch import build_views
model = load_model("{path}")
crystals = load_dataset("cif_folder", folder="my_cifs")
c, rows = model.config, torch.arange(len(crystals))
graph = dict(cutoff=c.cutoff, max_neighbors=c.max_neighbors)
views = build_views(crystals, grid=c.grid, fwhm=c.fwhm, **graph)
points = embed(model, views, rows)  # of the shared space, by view"""

_SYSTEM_METRICS = ("scaled_length_mae", "length_mae", "angle_mae", "crystal_system_accuracy")


def publish_model(
    model: UniMat,
    folder: str | os.PathLike[str],
    *,
    name: str,
    title: str,
    frame: pd.DataFrame,
    training: Mapping[str, object],
) -> Path:
    """Write a model in half precision, its description and its card.

    All three files are written apart and then moved into place, so a failure leaves what was there.

    Args:
        model: The model; it stays as it is.
        folder: Where the three files go; it is made.
        name: Stem of the files.
        title: One line that says what the model is, the heading of the card.
        frame: Errors frame of this very model (its seed) on the test crystals, as
            :func:`.load_predictions` returns it. All metrics come from it.
        training: Plain facts about data and training, name to text or number, printed as they are;
            ``"data"`` (which crystals) and ``"seed"`` are needed.

    Returns:
        The path of the weights.

    Raises:
        ValueError: If the frame has no rows or a needed fact is missing; nothing is written.
    """
    text = card(model, name=name, title=title, frame=frame, training=training)
    folder = product(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
        weights = save_model(model, Path(scratch) / f"{name}.safetensors", half=True)
        weights.with_suffix(".md").write_text(text, encoding="utf-8")
        for suffix in (".safetensors", ".json", ".md"):
            os.replace(weights.with_suffix(suffix), folder / f"{name}{suffix}")
    return folder / f"{name}.safetensors"


def card(
    model: UniMat, *, name: str, title: str, frame: pd.DataFrame, training: Mapping[str, object]
) -> str:
    """The text of a model card; arguments as of :func:`publish_model`."""
    if frame.empty:
        raise ValueError(f"{name}: expected the errors of test crystals, got a frame without rows")
    if lacking := {"data", "seed"} - set(training):
        raise ValueError(
            f"{name}: training lacks {sorted(lacking)}, got {sorted(training)}: say which crystals "
            "the model has seen and which seed it has"
        )
    values = cell_metrics(frame)
    head = _front_matter(name, title, values)
    head = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=100)
    reads = list(model.config.inputs)
    parts = {
        "": _summary(model, reads),
        "Use": f"On a CPU, from a clone of the book:\n\n```python\n{_usage(name, reads)}\n```",
        "Training": "\n".join(f"- {key}: {value}" for key, value in training.items()),
        "Metrics": _metrics(values, frame),
        "Limits": _limits(model, reads),
        "Licence": (
            "The weights are under the MIT licence, as the book is. The crystals are data of the "
            "Materials Project (CC-BY-4.0: Jain et al., APL Materials 1, 011002, 2013), MP-20 in "
            "the selection of Xie et al. (arXiv 2110.06197). Please cite these and UniMat, "
            "arXiv 2411.08664, whose ideas the model follows."
        ),
    }
    body = "\n\n".join(f"## {k}\n\n{text}" if k else text for k, text in parts.items())
    return f"---\n{head}---\n\n# {title}\n\n{body}\n"


def _front_matter(name: str, title: str, values: Mapping[str, float]) -> dict[str, object]:
    metrics = [
        {
            "type": "accuracy" if key == "crystal_system_accuracy" else "mae",
            "name": key,
            "value": round(values[key], METRICS[key][1]),
        }
        for key in _SYSTEM_METRICS
    ]
    result = {
        "task": {"type": "tabular-regression", "name": title},
        "dataset": {"type": "mp_20", "name": "MP-20", "split": "test"},
        "metrics": metrics,
    }
    return {
        "license": "mit",
        "library_name": "unimat_lib",
        "tags": ["crystallography", "powder-diffraction", "materials-science", "unit-cell"],
        "datasets": ["Materials Project, MP-20 (CC-BY-4.0)"],
        "metrics": ["mae", "accuracy"],
        "model-index": [{"name": name, "results": [result]}],
    }


def _summary(model: UniMat, reads: list[str]) -> str:
    # One that may be absent can still not be the last one to go.
    absent = dict.fromkeys(model.optional_inputs, "; may be left out if another input is given")
    lines = [
        "A model of [UniMat, the book](https://github.com/unimat-book/unimat-book), "
        f"{num_parameters(model) / 1e6:.1f} million parameters; matrices in float16, vectors in "
        "float32.",
        "",
        *(f"- Reads {INPUTS[name]}" + absent.get(name, "") for name in reads),
        "- Predicts a, b, c (angstrom) and alpha, beta, gamma (degrees) of the Niggli-reduced "
        "primitive cell, and the probability of each of the seven crystal systems",
    ]
    if aligned := [name for name in model.config.modalities if name not in reads]:
        lines.append(f"- Has a further encoder, used for retrieval only: {', '.join(aligned)}")
    return "\n".join(lines)


def _usage(name: str, reads: list[str]) -> str:
    code = _WITH_STRUCTURE if "structure" in reads else _WITH_PATTERN
    return code.format(path=f"data/pretrained/{name}.safetensors")


def _metrics(values: Mapping[str, float], frame: pd.DataFrame) -> str:
    heads = [f"{METRICS[key][0]} ({METRIC_UNITS[key]})" for key in _SYSTEM_METRICS]
    lines = [
        f"{len(frame):,} test crystals, this seed alone, weights in full precision. *Scaled* "
        "lengths are divided by the cube root of the number of atoms in the cell.",
        "",
        "| Metric | Value |",
        "|---|---:|",
        *(f"| {METRICS[key][0]} | {_shown(values, key)} {METRIC_UNITS[key]} |" for key in METRICS),
        "",
        "| Crystal system | Crystals | " + " | ".join(heads) + " |",
        "|---|---:|" + "---:|" * len(heads),
    ]
    for system, row in per_system_table(frame).iterrows():
        cells = [_shown(row, key) if row["n"] else "–" for key in _SYSTEM_METRICS]
        lines.append(f"| {system} | {int(row['n']):,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(values: Mapping[str, float], key: str) -> str:
    return f"{values[key]:.{METRICS[key][1]}f}"


def _limits(model: UniMat, reads: list[str]) -> str:
    grid = model.config.grid
    limits = [
        "Crystals: relaxed and ordered ones of the Materials Project with at most 20 atoms in the "
        "primitive cell. Pretraining may have used further crystals of the same database (see "
        "Training), so the numbers say nothing about crystals from elsewhere."
    ]
    if "xrd" in model.config.modalities:
        limits += [
            f"Patterns: simulated from these structures for {grid.wavelength:.4f} angstrom and "
            f"{grid.two_theta_min:g} to {grid.two_theta_max:g} degrees; the metrics are for clean "
            "ones: one phase, no texture, no background, no zero shift.",
            "Measured patterns: the model has not been tested on enough of them to promise "
            "anything. Take its cell as a start for indexing and refinement, never as a result.",
        ]
    if "structure" in reads:
        limits.append(
            "A structure determines its cell: what is predicted from it measures what the "
            "embedding keeps. Use the model for its shared space."
        )
    return "\n".join(f"- {line}" for line in limits)


def publish_best(
    run: Run, folder: str | os.PathLike[str], *, name: str, title: str, data: str
) -> Path:
    """:func:`publish_model` the seed with the smallest validation loss of its last training.

    ``run`` holds all seeds with their predictions of the test crystals, ``data`` says which
    crystals they were trained on.
    """
    losses = [float(fit.history["val_loss"].min()) for fit in run.fits]
    best = losses.index(min(losses))
    training = {
        "data": data,
        "seed": f"{run.seeds[best]}, the one of {len(run.seeds)} with the smallest validation loss",
        "validation loss": round(losses[best], 4),
        "epochs of the last training": len(run.fits[best].history),
        "weights": "exponential moving average",
    }
    model, frame = run.models[best], run.frames[best]
    return publish_model(model, folder, name=name, title=title, frame=frame, training=training)

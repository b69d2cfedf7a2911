"""Labelled patterns and a library in, the tables of the chapter on measured patterns out.

Where the measured patterns are not at hand, simulated measurements of the embedded library's
crystals take their place, so that the page is made from the same code everywhere.
"""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from unimat_book.ledger.measured import (
    FIRST_HALF,
    MEASURED_METRICS,
    MEASURED_SETTINGS,
    MEASURED_VARIANTS,
    TAKEN_OUT,
    Outcomes,
    calibration_error,
    measured_metrics,
    measured_rows,
    scored,
)
from unimat_book.measured import (
    KINDS,
    Labelled,
    baseline,
    load_rruff,
    outcomes,
    right_rows,
    simulated_measurements,
    symbols_of,
    systems_of_many,
)
from unimat_book.record import require_file
from unimat_book.statistics import wilson_interval
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.files import file_hash
from unimat_lib.views.grid import Grid
from unimat_powder.answer import LEFT_OVER, system_of
from unimat_powder.library.file import Library, default_library, embedded_library
from unimat_powder.network.predict import read_pattern
from unimat_powder.simulation.gate import Gate, pattern_features, tell_apart
from unimat_powder.simulation.ranges import RRUFF
from unimat_powder.simulation.scans import scans_of
from unimat_powder.witnesses import shipped_reader

DATA = "UNIMAT_DATA"
"""Environment variable that names the folder in which ``experimental/`` with the patterns lies."""

_WHOLE = 100_000  # crystals that a library for measured patterns has at least

AIMS: Mapping[str, tuple[str, str]] = {
    "structure_first": ("60", "95"),
    "structure_among_5": ("80", "99"),
    "crystal_system_accuracy": ("85", "95"),
    "space_group_accuracy": ("66", "80"),
    "cell_first": ("60", "80"),
    "cell_among_5": ("75", "90"),
    "cell_first_unknown_structure": ("45", "50"),
    "wrong_among_confident": ("3", "3"),
    "confident_share": ("60", "80"),
    "calibration_error": ("5", "5"),
}
"""What this edition set out to reach on measured patterns, by setting, per cent."""

_SMALL_IS_GOOD = ("wrong_among_confident", "calibration_error")

_ANSWERS = {
    "data/reader/reader.safetensors": "train_reader",
    "unimat_powder/search/weights.json": "calibrate_search",
    "unimat_powder/combine.json": "calibrate_search",
}
"""What answers depend on beside code and library, and the benchmark that makes it."""

HARD: Mapping[str, str] = {
    "sum": "two measured patterns, added",
    "lines": "8 to 40 lines at random places",
    "few": "one to four lines",
    "hump": "a hump without lines",
    "noise": "noise",
}
"""Kinds of patterns that no single crystal made, and how they are called in tables."""

OTHER_TUBE: Mapping[str, str] = {
    "tube_named": "another tube's scan, said to be copper's",
    "tube": "the same, nobody said the wavelength",
}
"""How patterns are called whose wavelength is wrong."""

_STATED = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0 + 1e-9)  # ends of the bins of stated probabilities


# ---- what is searched, and in what ---------------------------------------------------------------


def open_library(patterns: str) -> Library:
    """The library in which ``patterns`` (``"simulated"`` or ``"rruff"``) are searched.

    Raises:
        ValueError: Measured patterns are to be searched in a small library.
    """
    for name, maker in _ANSWERS.items():  # the page is outdated when one of them changes
        require_file(name, made_by=f"benchmarks/{maker}.py")
    if patterns == "simulated":
        return Library.open(embedded_library())
    library = Library.open(default_library())
    if len(library) < _WHOLE:
        raise ValueError(
            f"expected a library of at least {_WHOLE:,} crystals for measured patterns, but "
            f"{library.path.name} has {len(library):,}: build one with `unimat library build mp`"
        )
    return library


def labelled_patterns(
    patterns: str, library: Library, *, number: int, seed: int
) -> tuple[list[Labelled], dict[str, object]]:
    """The first ``number`` labelled patterns, and what :func:`.data_note` says of them.

    Args:
        patterns: ``"rruff"``, measured ones below the folder that ``UNIMAT_DATA`` names, or
            ``"simulated"``.
        library: Of :func:`open_library`.
        number: How many.
        seed: Of the simulation.

    Raises:
        FileNotFoundError: There are no measured patterns.
    """
    about = {"library": {"crystals": len(library)}}
    if patterns == "simulated":
        text = (
            "Simulated measurements of crystals of the embedded prototypes. They show that "
            "everything works and prove nothing about measured patterns."
        )
        found = simulated_measurements(library, number, seed=seed)
        return found, {"name": patterns, "text": text, "patterns": {"simulated": number}, **about}
    folder = Path(os.environ.get(DATA, "")) / "experimental"
    if not (folder / "rruff_labelled.npz").is_file():
        raise FileNotFoundError(
            "The measured patterns are not there: let the environment variable "
            f"{DATA} name the folder with experimental/rruff_labelled.csv and .npz"
        )
    found = load_rruff(folder)[:number]
    text = (
        "Measured patterns of minerals from the RRUFF project (Lafuente et al., 2015), Cu Kα, with "
        "the structures that a public retrieval benchmark assigned to them. They are for testing "
        "only, and none of them is part of this book. Constants were chosen with the first half."
    )
    halves = {"first half": min(number, FIRST_HALF), "second half": max(number - FIRST_HALF, 0)}
    return found, {"name": "RRUFF, labelled", "text": text, "patterns": halves, **about}


def search_all(
    labelled: Sequence[Labelled], library: Library, *, workers: int = 1
) -> dict[tuple[str, str], pd.DataFrame]:
    """Outcomes of every setting and variant, the one without the right crystal included."""
    answered = outcomes(labelled, library, workers=workers)
    found = {}
    for setting in MEASURED_SETTINGS:
        told = setting == "measured_elements"
        found[setting, "ours"] = answered[told, True]
        found[setting, TAKEN_OUT] = answered[told, False]
        found[setting, "baseline"] = baseline(labelled, library, elements=told)
    return found


def processed_patterns(patterns: str, library: Library, *, workers: int) -> pd.DataFrame:
    """How often system and group are right for many processed patterns, without their elements.

    One row each with ``measured``, ``patterns``, per cent and Wilson's 95 % interval. Of simulated
    patterns there are no processed ones: dashes.
    """
    names = "crystal system (six classes)", "space group"
    if patterns == "simulated":
        return pd.DataFrame({"measured": names, "patterns": "–", "right (%)": "–"})
    folder = Path(os.environ.get(DATA, "")) / "experimental"
    rows = []
    for name, right in zip(names, systems_of_many(folder, library, workers=workers), strict=True):
        share = 100 * right.mean()
        low, high = wilson_interval(share, len(right))
        text = f"{share:.1f} [{low:.0f}, {high:.0f}]"
        rows.append({"measured": name, "patterns": len(right), "right (%)": text})
    return pd.DataFrame(rows)


def gate(labelled: Sequence[Labelled], library: Library, *, copies: int, seed: int) -> Gate:
    """How well trees tell raw scans of the first half from simulated ones of the same crystals.

    Args:
        labelled: Patterns; those count that are whole counts and whose crystal the library has.
        library: The known crystals.
        copies: Simulated patterns of each crystal.
        seed: Of simulation and trees.
    """
    grid = Grid(5.0, 89.99, 8500)
    rows, measured = [], []
    for one in labelled[:FIRST_HALF]:
        whole = bool((one.pattern.intensity.round() == one.pattern.intensity).all())
        if whole and (right := right_rows(one, library)):
            rows.append(right[0])
            at, counts = one.pattern.two_theta.numpy(), one.pattern.intensity.numpy()
            measured.append(np.interp(grid.two_theta.numpy(), at, counts))
    table = library.crystals(rows)
    drawn = scans_of(table, RRUFF, grid, copies=copies, seed=seed).counts
    features = [pattern_features(counts, grid) for counts in (*measured, *drawn.numpy())]
    values = np.array([list(one.values()) for one in features])
    kinds = np.arange(len(values)) < len(measured)
    crystal = np.tile(np.arange(len(rows)), 1 + copies)
    return tell_apart(values, list(features[0]), kinds, crystal, seed=seed)


def reader_training() -> tuple[pd.DataFrame, pd.DataFrame]:
    """How the network's accuracy grew, and its inputs side by side, per cent.

    The curve: ``step``, and crystal system on ``simulated`` patterns of MP-20's validation
    crystals, on those of ``larger`` crystals, and on the ``measured`` first half. The table: a row
    per input, trained equally long.
    """
    maker = "benchmarks/train_reader.py"
    path = require_file("data/reader/training.json", made_by=maker)
    found = json.loads(path.read_text(encoding="utf-8"))
    kinds = ("simulated", "larger", "measured")
    curve = pd.DataFrame(
        [
            {"step": row["step"], **{kind: 100 * row[f"{kind} pattern system"] for kind in kinds}}
            for row in found["log"]
        ]
    )
    words = {"curve": "curve", "peaks": "list of peaks"}
    columns = {
        "simulated, system": "simulated pattern system",
        "measured, system": "measured pattern system",
    }
    columns |= {"measured with elements, system": "measured elements system"}
    rows = [
        {"input": words.get(name, name)}
        | {key: 100 * last[column] for key, column in columns.items()}
        | {"measured, error of lengths": 100 * last["measured pattern length"]}
        for name, last in found["inputs"].items()
    ]
    return curve, pd.DataFrame(rows)


# ---- what came out -------------------------------------------------------------------------------


def summary(outcomes: Outcomes, *, num_resamples: int) -> pd.DataFrame:
    """Mean and 95 % interval over scored patterns, one row per metric, setting and variant.

    Columns ``metric``, ``setting``, ``variant`` (as tables call them), ``mean``, ``low``, ``high``,
    and ``n``, how many patterns.
    """
    rows = [
        (
            row["metric"],
            MEASURED_SETTINGS[row["setting"]],
            MEASURED_VARIANTS[row["variant"]],
            row["mean"],
            *row["ci95"],
            row["n_test"],
        )
        for row in measured_rows(outcomes, num_resamples=num_resamples)
    ]
    names = ["metric", "setting", "variant", "mean", "low", "high", "n"]
    return pd.DataFrame(rows, columns=names)


def main_table(outcomes: Outcomes, *, num_resamples: int) -> pd.DataFrame:
    """The result in one table: a row per metric, columns per setting and variant, and the aims.

    Ours have their counts too.
    """
    found = summary(outcomes, num_resamples=num_resamples)
    text = {}
    for row in found.itertuples():
        words = f"{row.mean:.1f} [{row.low:.0f}, {row.high:.0f}]"
        if row.variant == MEASURED_VARIANTS["ours"] and row.metric != "calibration_error":
            words += f", {round(row.mean * row.n / 100)} of {row.n}"
        text[row.metric, row.setting, row.variant] = words
    rows = []
    for metric, name in MEASURED_METRICS.items():
        row = {"measured": name}
        for place, setting in enumerate(MEASURED_SETTINGS.values()):
            for variant in MEASURED_VARIANTS.values():
                row[f"{setting}: {variant}"] = text.get((metric, setting, variant))
            row[f"{setting}: aim"] = AIMS.get(metric, (None, None))[place]
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def missed_aims(outcomes: Outcomes) -> str:
    """The aims that scored patterns miss, in words; "none" where they miss none."""
    missed = []
    for metric, aims in AIMS.items():
        where = []
        for aim, (setting, words) in zip(aims, MEASURED_SETTINGS.items(), strict=True):
            frame, without = (scored(outcomes[setting, v]) for v in ("ours", TAKEN_OUT))
            value = _mean(metric, frame, without)
            short = value - float(aim) if metric in _SMALL_IS_GOOD else float(aim) - value
            where += [words] if short > 0 else []
        if where:
            name = MEASURED_METRICS[metric].removesuffix(" (%)")
            missed.append(f"{name} ({' and '.join(where)})")
    return "; ".join(missed) or "none"


def halves_table(outcomes: Outcomes) -> pd.DataFrame:
    """Our means for the patterns that were looked at and those that were scored once."""
    rows = []
    for metric, name in MEASURED_METRICS.items():
        row = {"measured": name}
        for setting, words in MEASURED_SETTINGS.items():
            frame, without = (outcomes[setting, v] for v in ("ours", TAKEN_OUT))
            halves = {"first half": slice(FIRST_HALF), "second half": slice(FIRST_HALF, None)}
            for half, part in halves.items():
                row[f"{words}, {half}"] = _mean(metric, frame[part], without[part])
        rows.append(row)
    return pd.DataFrame(rows)


def witnesses_table(outcomes: Outcomes) -> pd.DataFrame:
    """What each witness would have answered alone, and all together, scored patterns, per cent.

    A row per witness and setting; the columns: crystal system, space group, cell first, and cell
    first where the crystal was taken out of the library. Lines know no elements.
    """
    names = {
        "library": ("library_system", None, "library_cell"),
        "lines": (None, None, "lines_cell"),
        "network": ("network_system", "network_group", None),
    }
    rows = []
    names["together"] = ("system_right", "group_right", None)
    for (witness, columns), setting in itertools.product(names.items(), MEASURED_SETTINGS):
        if witness == "lines" and setting != next(iter(MEASURED_SETTINGS)):
            continue
        frame, without = (scored(outcomes[setting, v]) for v in ("ours", TAKEN_OUT))
        system, group, cell = columns
        row = {"witness": witness, "told": MEASURED_SETTINGS[setting]}
        row["crystal system"] = 100 * frame[system].mean() if system else np.nan
        row["space group"] = 100 * frame[group].mean() if group else np.nan
        for known, part in (("cell first", frame), ("cell first, unknown", without)):
            right = part[cell] if cell else part["cell_rank"] == 0
            row[known] = 100 * right.mean() if witness != "network" else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def doubt_table() -> pd.DataFrame:
    """How many patterns that no single crystal made are answered with confidence.

    One row per kind, one of all, and two of patterns of which only the wavelength is wrong:
    patterns, confident answers in a single phase, and their share with Wilson's 95 % interval.
    Nothing was fitted to these patterns.

    Raises:
        ValueError: They were counted with other weights than those that answer now.
    """
    path = require_file("benchmarks/doubt.json", made_by="benchmarks/calibrate_search.py doubt")
    found = json.loads(path.read_text(encoding="utf-8"))
    for name, expected in found["weights"].items():
        if file_hash(require_file(name, made_by="benchmarks/calibrate_search.py")) != expected:
            raise ValueError(f"{path} was counted with another {name}: count again")
    counts = {words: found["confident"][kind] for kind, words in HARD.items()}
    counts["all"] = np.sum(list(counts.values()), axis=0).tolist()
    counts |= {words: found["confident"][kind] for kind, words in OTHER_TUBE.items()}
    rows = []
    for words, (confident, number) in counts.items():
        share = 100 * confident / number
        low, high = wilson_interval(share, number)
        text = f"{share:.1f} [{low:.0f}, {high:.0f}]"
        rows.append({"pattern": words, "patterns": number, "confident": confident, "(%)": text})
    return pd.DataFrame(rows)


def network_errors(outcomes: Outcomes) -> dict[str, float]:
    """Mean relative error of the network's lengths, scored patterns, per cent, by setting."""
    return {
        setting: float(scored(outcomes[setting, "ours"])["network_length_error"].mean())
        for setting in MEASURED_SETTINGS
    }


def label_facts(outcomes: Outcomes) -> dict[str, int]:
    """How well the labels of scored patterns explain the lines, in numbers of patterns.

    ``labels_off``: the labelled cell leaves more lines than a confident answer may. ``sure_wrong``:
    patterns with a confident answer that is wrong, in either setting. ``sure_wrong_better``: those
    of them where such an answer leaves fewer lines than the labelled cell.
    """
    frames = [scored(outcomes[setting, "ours"]) for setting in MEASURED_SETTINGS]
    wrong = [frame["confident"] & ~frame["answer_right"] for frame in frames]
    pairs = zip(wrong, frames, strict=True)
    better = [some & (frame["answer_stray"] < frame["label_stray"]) for some, frame in pairs]
    return {
        "labels_off": int((frames[0]["label_stray"] > LEFT_OVER).sum()),
        "sure_wrong": int(np.any(wrong, axis=0).sum()),
        "sure_wrong_better": int(np.any(better, axis=0).sum()),
    }


def _mean(metric: str, frame: pd.DataFrame, taken_out: pd.DataFrame) -> float:
    if not len(frame):
        return np.nan
    if metric == "calibration_error":
        return calibration_error(frame)
    values = measured_metrics(frame, taken_out)[metric]
    return float(values.mean()) if len(values) else np.nan


def taken_out_table(outcomes: Outcomes) -> pd.DataFrame:
    """What is said with confidence of scored patterns whose crystal is not in the library.

    One row per setting: patterns, confident answers, their share with Wilson's 95 % interval, and
    how many of them are wrong about the cell or the crystal system.
    """
    rows = []
    for setting, words in MEASURED_SETTINGS.items():
        frame = scored(outcomes[setting, TAKEN_OUT])
        sure = frame[frame["confident"]]
        share = 100 * len(sure) / len(frame)
        low, high = wilson_interval(share, len(frame))
        row = {"library": words, "patterns": len(frame), "confident": len(sure)}
        row["share (%)"] = f"{share:.1f} [{low:.0f}, {high:.0f}]"
        row["cell or system wrong"] = int((~sure["answer_right"]).sum())
        rows.append(row | {"system wrong": int((~sure["system_right"]).sum())})
    return pd.DataFrame(rows)


def reliability(outcomes: Outcomes, *, said: str, happened: str) -> pd.DataFrame:
    """How often came true what was said of scored patterns with some probability, our variant.

    Args:
        outcomes: All outcomes.
        said: Column of a probability.
        happened: Column of what it was about; an integer counts as true where it is 0.

    Returns:
        One row per setting and bin that is not empty: ``setting``, ``from``, ``to``, ``n`` and, in
        per cent, ``said`` (mean), ``happened``, ``low``, ``high`` (Wilson's 95 % interval).
    """
    rows = []
    for setting, words in MEASURED_SETTINGS.items():
        frame = scored(outcomes[setting, "ours"])
        truth = frame[happened]
        truth = truth if truth.dtype == bool else truth == 0
        for start, end in itertools.pairwise(_STATED):
            inside = (frame[said] >= start) & (frame[said] < end)
            if not inside.any():
                continue
            share, n = 100 * truth[inside].mean(), int(inside.sum())
            mean = 100 * frame[said][inside].mean()
            ends = 100 * start, 100 * min(end, 1.0)
            rows.append((words, *ends, n, mean, share, *wilson_interval(share, n)))
    names = ["setting", "from", "to", "n", "said", "happened", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def reliability_table(panels: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """:func:`reliability` of some probabilities as a page shows them, by what each is of."""
    found = pd.concat([rows.assign(of=f"{name}, ") for name, rows in panels.items()])

    def span(low: str, high: str, spec: str) -> list[str]:
        ends = zip(found[low], found[high], strict=True)
        return [f"{a:{spec}} to {b:{spec}}" for a, b in ends]

    return pd.DataFrame(
        {
            "probability of": found["of"] + found["setting"],
            "stated (%)": span("from", "to", "g"),
            "patterns": found["n"],
            "said, mean (%)": found["said"],
            "happened (%)": found["happened"],
            "95 % interval": span("low", "high", ".0f"),
        }
    )


def kinds_table(outcomes: Outcomes) -> pd.DataFrame:
    """How many first answers are of each of :data:`.KINDS`, a column per setting."""
    counts = {
        words: np.bincount(outcomes[setting, "ours"]["kind"], minlength=len(KINDS))
        for setting, words in MEASURED_SETTINGS.items()
    }
    return pd.DataFrame({"first answer": KINDS, **counts})


def failures_table(frame: pd.DataFrame, read: Mapping[int, str], *, number: int) -> pd.DataFrame:
    """Wrong first answers among the patterns that may be looked at, the surest first.

    Args:
        frame: Outcomes of one setting.
        read: What a person saw, by the pattern's place (from 1) in the list sorted by sample.
        number: Rows at most.

    Returns:
        ``pattern``, ``probability (%)``, ``right one at``, ``system right``, ``first answer``,
        ``read by hand``. One row of dashes where nothing is wrong.
    """
    first = frame[:FIRST_HALF]
    wrong = first[first["rank"] != 0].sort_values("probability", ascending=False, kind="stable")
    rows = [
        {
            "pattern": i + 1,
            "probability (%)": 100 * row.probability,
            "right one at": row.rank + 1 if row.rank >= 0 else "not among ten",
            "system right": "yes" if row.system_right else "no",
            "first answer": KINDS[row.kind],
            "read by hand": read.get(i + 1, "not read"),
        }
        for i, row in zip(wrong.index, wrong.itertuples(index=False), strict=True)
    ]
    columns = ["pattern", "probability (%)", "right one at", "system right", "first answer"]
    return pd.DataFrame(rows[:number] or [dict.fromkeys([*columns, "read by hand"], "–")])


def network_failures_table(
    labelled: Sequence[Labelled],
    outcomes: Outcomes,
    read: Mapping[int, str],
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Crystal systems that the network reads wrongly, of patterns that may be looked at.

    Args:
        labelled: The patterns.
        outcomes: What was answered to them.
        read: What a person saw, by the pattern's place (from 1) in the list sorted by sample.

    Returns:
        ``pattern``, ``crystal system``, what the network has for it ``alone`` and ``with the
        elements`` (with its probability where it is wrong), ``read by hand``; one row of dashes
        where nothing is wrong. And, of those wrong alone, ``num_misread``, ``num_misread_lower``,
        how many are of lower symmetry than the truth, and ``misread_middle``, the median of their
        probability, per cent.
    """
    right = pd.DataFrame(
        {
            words: outcomes[setting, "ours"]["network_system"][:FIRST_HALF]
            for setting, words in MEASURED_SETTINGS.items()
        }
    )
    rows, sure, lower = [], [], 0
    for place in right.index[~right.all(axis=1)]:
        one, truth = labelled[place], system_of(labelled[place].space_group)
        said = {}
        for words, elements in zip(right, (None, symbols_of(one)), strict=True):
            system = read_pattern(shipped_reader(), one.pattern, elements=elements).system
            first = int(system.argmax())
            said[words] = f"{CRYSTAL_SYSTEMS[first]}, {100 * system[first]:.0f} %"
            if right.loc[place, words]:
                said[words] = "right"
            elif elements is None:
                sure.append(100 * float(system[first]))
                lower += first < CRYSTAL_SYSTEMS.index(truth)
        seen = read.get(place + 1, "not read")
        rows.append({"pattern": place + 1, "crystal system": truth, **said, "read by hand": seen})
    columns = ["pattern", "crystal system", *right, "read by hand"]
    middle = float(np.median(sure)) if sure else np.nan
    facts = {"num_misread": len(sure), "num_misread_lower": lower, "misread_middle": middle}
    return pd.DataFrame(rows or [dict.fromkeys(columns, "–")]), facts


def typical_places(frame: pd.DataFrame) -> dict[str, int]:
    """Rows of three rightly named patterns of the first half: a good, a usual and a poor fit."""
    right = frame[:FIRST_HALF]
    right = right[right["rank"] == 0]["residual"].sort_values(kind="stable")
    if not len(right):
        return {"best fit of a wrong answer": int(frame["residual"].idxmin())}
    last = len(right) - 1
    parts = {"good fit": 0.1, "usual fit": 0.5, "poor fit": 0.9}
    return {name: int(right.index[round(part * last)]) for name, part in parts.items()}

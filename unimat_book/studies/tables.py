"""Studies in, the tables and the rows of figures of the page on open questions out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd

from unimat_book.grid.analysis import holm
from unimat_book.grid.cells import GridSettings
from unimat_book.studies.alignment import WITHOUT_LATTICE
from unimat_book.studies.finding import query_points
from unimat_book.studies.models import names_hash
from unimat_book.studies.pages import Study
from unimat_book.studies.queries import QUERIES
from unimat_book.studies.results import Mean
from unimat_book.studies.retrieval import gallery_points
from unimat_book.studies.transfer import tuned_numbers
from unimat_book.studies.transfer_data import INSIDE
from unimat_lib.alignment import retrieval_ranks
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.model import UniMat

COLUMNS: Mapping[str, tuple[str, str]] = {
    "scaled_length_mae": ("scaled (Å)", ".4f"),
    "length_mae": ("plain (Å)", ".3f"),
    "angle_mae": ("angles (°)", ".2f"),
    "crystal_system_accuracy": ("system (%)", ".1f"),
    "macro_system_accuracy": ("macro system (%)", ".1f"),
}
"""Metrics of tables: their headings and how they are written."""


def scores_table(
    study: Study, variants: Sequence[str], metrics: Sequence[str], domain: str = "test"
) -> pd.DataFrame:
    """A row for each variant: mean ± standard deviation over seeds of some metrics."""
    return pd.DataFrame(
        [
            {"trained": study.words[name]}
            | {
                COLUMNS[metric][0]: spread(
                    study.of(name, domain).scores[metric], COLUMNS[metric][1]
                )
                for metric in metrics
            }
            for name in variants
        ]
    )


def spread(scores: np.ndarray, spec: str) -> str:
    """Mean ± standard deviation of the scores of some seeds."""
    text = f"{scores.mean():{spec}}"
    return f"{text} ± {scores.std(ddof=1):{spec}}" if len(scores) > 1 else text


def change_words(frame: pd.DataFrame, spec: str) -> list[str]:
    """Changes with their intervals and verdicts, a text for each row of :func:`.effects`."""
    return [
        f"{row.change:+{spec}} ({row.low:+{spec}} to {row.high:+{spec}}), {row.verdict}"
        for row in frame.itertuples()
    ]


def change_text(row: pd.Series, spec: str, unit: str) -> str:
    """Change and verdict of a row of :func:`.effects`, for a sentence."""
    return f"{row['change']:+{spec}} {unit} ({row['verdict']})"


def judged(frame: pd.DataFrame, *verdicts: str) -> str:
    """Names of the rows of :func:`.effects` that have one of some verdicts, or "none"."""
    return "; ".join(frame.loc[frame["verdict"].isin(verdicts), "effect"]) or "none"


def systems_table(study: Study, variants: Mapping[str, str]) -> pd.DataFrame:
    """Accuracies of the crystal systems of some variants (columns), per cent."""
    systems = study.systems["test"]
    rows = {}
    for number, name in enumerate(CRYSTAL_SYSTEMS):
        here = systems == number
        if here.any():
            rows[f"{name} ({here.sum():,})"] = {
                words: study.of(variant).values["crystal_system_accuracy"][here].mean()
                for variant, words in variants.items()
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("crystals")


def views_table(study: Study, variant: str) -> pd.DataFrame:
    """Accuracy of each crystal system with both views and with one of them left out, per cent."""
    systems, values = study.systems["test"], study.of(variant).values
    given = {"both": "", "pattern alone": "_no_formula", "formula alone": "_no_pattern"}
    rows = {}
    for number, name in enumerate(CRYSTAL_SYSTEMS):
        here = systems == number
        if here.any():
            rows[name] = {
                words: values[f"crystal_system_accuracy{ending}"][here].mean()
                for words, ending in given.items()
            }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("crystal system")
    frame["what the formula adds"] = frame["both"] - frame["pattern alone"]
    return frame


# ---- alignment ------------------------------------------------------------------------------


def equal_compute_changes(study: Study, ways: Sequence[str]) -> pd.DataFrame:
    """What ways to align change against equal compute, with the lattice and without.

    Returns:
        A row per way, lattice and metric: ``against equal compute`` (the way, in words), ``metric``
        (a heading), ``text`` (change, interval, verdict), ``verdict``, and ``p``, Holm's over all
        rows; verdicts are corrected over the ways alone.
    """
    metrics = {
        "scaled (Å)": ("scaled_length_mae", ".4f"),
        "angles (°)": ("angle_mae", ".2f"),
        "system (points)": ("crystal_system_accuracy", ".2f"),
    }
    rows = []
    for ending, words in (("", "with lattice"), (WITHOUT_LATTICE, "no lattice")):
        base, names = f"equal_compute{ending}", [f"{way}{ending}" for way in ways]
        for heading, (metric, spec) in metrics.items():
            frame = study.effects(base, metric, names)
            texts = change_words(frame, spec)
            for k, way in enumerate(ways):
                rows.append(
                    {
                        "against equal compute": f"{study.words[way]}; {words}",
                        "metric": heading,
                        "text": texts[k],
                        "verdict": frame["verdict"][k],
                        "p": study.effects(base, metric, [names[k]])["p"].item(),
                    }
                )
    frame = pd.DataFrame(rows)
    frame["p"] = holm(frame["p"].to_numpy())
    return frame


# ---- transfer -------------------------------------------------------------------------------


def reach_frame(study: Study, foreign: Sequence[str], settings: GridSettings) -> pd.DataFrame:
    """Scaled errors by domain and model with 95 % intervals over structure types."""
    found = study.intervals.set_index(["variant", "domain", "metric"])
    models = {f"tuned_{{}}_{n}": f"tuned on {n:,}" for n in tuned_numbers(settings)}
    models = {
        "base": "as it is",
        "extra": "further crystals",
        "made_up": "made-up crystals",
    } | models
    rows = []
    for kind in INSIDE:
        words = f"{kind.replace('_', ' ')} left out"
        for how, name in (("control", "domain in training"), ("without", "as it is")):
            rows.append((words, name, f"{kind}_{how}", f"{kind}_inside"))
    for domain in foreign:
        rows += [(domain, name, variant.format(domain), domain) for variant, name in models.items()]
    rows = [
        {"domain": words, "model": model, **_ends(found.loc[key])}
        for words, model, variant, domain in rows
        if (key := (variant, domain, "scaled_length_mae")) in found.index
    ]
    return pd.DataFrame(rows)


def _ends(row: pd.Series) -> dict[str, float]:
    return {"mean": row["mean"], "low": row["types_low"], "high": row["types_high"]}


def domains_table(study: Study, shared: pd.DataFrame, domains: Sequence[str]) -> pd.DataFrame:
    """What training shares with each domain (:func:`.what_is_shared`), counts of crystals."""
    names = {
        "crystals": "crystals",
        "formula": "same formula",
        "structure_type": "same structure type",
        "chemical_system": "same elements",
        "composition": "distance",
    }
    frame = shared.loc[list(domains), list(names)].rename(columns=names)
    frame.index = [name.replace("_inside", "").replace("_", " ") for name in frame.index]
    frame["distance"] = frame["distance"].map("{:.3f}".format)
    return frame.rename_axis("domain")


def drops_table(study: Study) -> pd.DataFrame:
    """What leaving a domain out of training costs its test crystals, and all the others."""
    rows = []
    for kind in INSIDE:
        for where in ("inside", "outside"):
            domain = f"{kind}_{where}"
            ways = [study.of(f"{kind}_{how}", domain) for how in ("control", "without")]
            row = {
                "left out": f"{kind.replace('_', ' ')}: {where}",
                "crystals": len(study.types[domain]),
            }
            for metric in ("scaled_length_mae", "crystal_system_accuracy"):
                name, spec = COLUMNS[metric]
                row |= {
                    f"{name}, {words}": spread(way.scores[metric], spec)
                    for words, way in zip(("in training", "left out"), ways, strict=True)
                }
            rows.append(row)
    return pd.DataFrame(rows)


def foreign_table(study: Study, foreign: Sequence[str], settings: GridSettings) -> pd.DataFrame:
    """What each model reaches on the foreign domains, and what is left of it on test crystals."""
    rows = []
    for domain in foreign:
        for variant in (
            "base",
            "extra",
            "made_up",
            *(f"tuned_{domain}_{n}" for n in tuned_numbers(settings)),
        ):
            if variant not in study.words:
                continue
            here, test = study.of(variant, domain), study.of(variant, "test")
            rows.append(
                {
                    "domain": domain,
                    "model": study.words[variant].removesuffix(" of the domain"),
                    "scaled (Å)": spread(here.scores["scaled_length_mae"], ".3f"),
                    "system (%)": spread(here.scores["crystal_system_accuracy"], ".1f"),
                    "without formula (Å)": spread(
                        here.scores["scaled_length_mae_no_formula"], ".3f"
                    ),
                    "MP-20's test (Å)": spread(test.scores["scaled_length_mae"], ".3f"),
                }
            )
    return pd.DataFrame(rows)


# ---- retrieval ------------------------------------------------------------------------------


def search_ways(study: Study) -> dict[str, tuple[str, str]]:
    """Ways to search by name: the variant, and what its metrics begin with."""
    ways = {
        "cosine of computed patterns": ("physics", "cosine_"),
        "cosine, best of many scales": ("physics", "scan_"),
        "structure and pattern encoders": ("further", ""),
        "the same, first 50 compared": ("further", "reranked_"),
        "one encoder for both patterns": ("computed", ""),
        "the same, trained as measured": ("measured", ""),
        "the shipped model": ("shipped", ""),
    }
    known = {mean.variant for mean in study.means}
    return {name: way for name, way in ways.items() if way[0] in known}


def recall_panels(study: Study, strains: Sequence[float]) -> dict[str, dict[str, list[float]]]:
    """Lines of :func:`unimat_book.figures.questions.plot_recall`."""
    panels = {}
    for domain, where in (("test", "all test crystals"), ("known", "all known crystals")):
        for kind, how in (
            ("strain", "all directions alike"),
            ("symmetry_strain", "within symmetry"),
        ):
            lines = {}
            # The shipped model searches test crystals alone.
            for name, method, scores in _searches(study, domain):
                names = [f"{kind if s else 'strain'}_{s:g}" for s in strains]
                lines[name] = [scores[f"{method}recall_at_1_{n}"].mean() for n in names]
            panels[f"{where}; {how}"] = lines
    return panels


def recall_table(study: Study, domain: str) -> pd.DataFrame:
    """Ways to search: first places of some queries, per cent, and milliseconds a query."""
    shown = {
        "strain_0": "as computed",
        "strain_1": "1 %",
        "symmetry_strain_1": "1 % in symmetry",
        "laboratory": "laboratory",
    }
    rows = []
    for name, method, scores in _searches(study, domain):
        row = {"search": name}
        for kind, words in shown.items():
            row[words] = spread(scores[f"{method}recall_at_1_{kind}"], ".1f")
        clock = scores.get(f"{method}ms_per_query")
        rows.append(row | {"ms": "–" if clock is None else f"{clock.mean():.3f}"})
    return pd.DataFrame(rows)


def _searches(study: Study, domain: str) -> list[tuple[str, str, Mapping[str, np.ndarray]]]:
    """Name, beginning of the metrics, and scores of each way to search that was tried."""
    return [
        (name, method, study.of(variant, domain).scores)
        for name, (variant, method) in search_ways(study).items()
        if any((m.variant, m.domain) == (variant, domain) for m in study.means)
    ]


def shipped_model(model: UniMat, shared) -> Mean:
    """What the embedding of a model that is shipped finds among all test crystals.

    Args:
        model: With a structure and a pattern encoder and their projections.
        shared: A ``Shared`` of :mod:`.retrieval`, on the device of the model.
    """
    started = time.perf_counter()
    test = shared.rows[2]
    gallery = SimpleNamespace(place=shared.place, known=shared.table.select(test))
    points = gallery_points(model.eval(), "clean", gallery)
    values = {}
    for kind in QUERIES:
        ranks = retrieval_ranks(query_points(model, shared.queries[kind]), points)
        values[f"recall_at_1_{kind}"] = 100.0 * (ranks == 1).cpu().numpy()
    return Mean(
        study="retrieval",
        variant="shipped",
        domain="test",
        asked=names_hash(shared.table, test),
        seeds=[0],
        scores={name: np.array([x.mean()]) for name, x in values.items()},
        values=values,
        history=[],
        seconds=time.perf_counter() - started,
        stamp={},
    )


# ---- provenance -----------------------------------------------------------------------------


def provenance_table(study: Study) -> pd.DataFrame:
    """What training on rows of one origin changes, asked about test crystals of each origin."""
    rows = []
    for domain in study.types:
        row = {
            "asked about": domain.removeprefix("test, ") or domain,
            "crystals": len(study.types[domain]),
        }
        for variant in ("all", "as_many", "one_part"):
            row[f"{study.words[variant]} (Å)"] = spread(
                study.of(variant, domain).scores["scaled_length_mae"], ".3f"
            )
        rows.append(row)
    return pd.DataFrame(rows)

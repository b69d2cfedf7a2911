"""Trained models and shared spaces in, the tables of chapters 04 and 05 out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_book.experiments import MAIN_METRICS, Run
from unimat_book.ledger.verdicts import paper_verdict
from unimat_book.statistics import bootstrap_interval, summarize
from unimat_lib.alignment import recall_at_k, retrieval_ranks
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.evaluation.metrics import LOWER_IS_BETTER, cell_metrics
from unimat_lib.evaluation.predict import encodings, frame_of_errors
from unimat_lib.model import UniMat, num_parameters
from unimat_lib.views.batch import CrystalViews


def linear_probe(
    model: UniMat,
    views: CrystalViews,
    table: CrystalTable,
    *,
    train: Tensor,
    test: Tensor,
    modality: str,
) -> pd.DataFrame:
    """Errors frame of linear models on what a frozen encoder says.

    The cell comes from ridge regression, the crystal system from logistic regression, both on
    standardised embeddings; the strength of the ridge is chosen by leave-one-out on ``train``.

    Args:
        model: Its encoder stays as it is; its heads are not used.
        views: Views of ``table``.
        table: The crystals.
        train: Rows to fit on, int64 ``[T]``.
        test: Rows to predict, int64 ``[B]``.
        modality: Which encoder.

    Returns:
        As :func:`predict`.

    Source: the linear evaluation protocol of Alain and Bengio, arXiv 1610.01644.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV  # a second, needed here alone

    known, asked = (encodings(model, views, rows, modality).numpy() for rows in (train, test))
    mean, std = known.mean(axis=0), known.std(axis=0) + 1e-6
    known, asked = (known - mean) / std, (asked - mean) / std
    truth = [_true_cells(views, rows.to(views.device)) for rows in (train, test)]
    ridge = RidgeCV(alphas=np.logspace(-1, 4, 11), alpha_per_target=True)
    cells = ridge.fit(known, truth[0]).predict(asked)
    systems = table.crystal_system.cpu().numpy()
    classifier = LogisticRegression(max_iter=300).fit(known, systems[train.cpu().numpy()])
    probabilities = np.zeros((len(asked), len(CRYSTAL_SYSTEMS)))
    probabilities[:, classifier.classes_] = classifier.predict_proba(asked)
    values = np.concatenate([cells, truth[1], probabilities], axis=1)
    return frame_of_errors(values, table, test.cpu())


def _true_cells(views: CrystalViews, rows: Tensor) -> np.ndarray:
    """Lengths, angles and scaled lengths ``[B, 9]``, the order of the errors frame."""
    t = views.targets.select(rows)
    return torch.cat([t.lengths, t.angles, t.scaled_lengths], dim=1).double().cpu().numpy()


def retrieval_table(
    points: Mapping[str, Tensor], *, ks: Sequence[int] = (1, 3, 5, 10)
) -> pd.DataFrame:
    """Recall of every ordered pair of views, the whole set as gallery, ties against us.

    Args:
        points: View name to points of the shared space ``[n, d]``, same crystals in each.
        ks: Depths.

    Returns:
        Columns ``query``, ``gallery``, ``recall@<k> (%)`` and ``median rank``.
    """
    rows = []
    for query in points:
        for gallery in points:
            if query != gallery:
                ranks = retrieval_ranks(points[query], points[gallery])
                recalls = {f"recall@{k} (%)": 100 * recall_at_k(ranks, k) for k in ks}
                median = float(ranks.double().median())
                rows.append({"query": query, "gallery": gallery, **recalls, "median rank": median})
    return pd.DataFrame(rows)


def retrieval_examples(
    queries: Sequence[int],
    similarity: Tensor,
    patterns: Tensor,
    names: Sequence[str],
    *,
    ranks: Tensor,
) -> list[dict[str, object]]:
    """What :func:`.plot_retrieval_examples` draws: queries with their five best candidates.

    Args:
        queries: Rows of ``similarity``.
        similarity: Patterns against structures of the same crystals ``[n, n]``.
        patterns: Their patterns ``[n, P]``.
        names: Their names.
        ranks: Rank of the right structure of each pattern ``[n]``, for the titles.
    """
    examples = []
    for query in queries:
        scores, top = similarity[query].topk(min(5, len(similarity)))
        place = (top == query).nonzero().flatten().tolist()
        examples.append(
            {
                "query": patterns[query],
                "candidates": patterns[top],
                "labels": [names[i] for i in top.tolist()],
                "scores": scores,
                "correct": place[0] if place else None,
                "title": f"{names[query]}, rank {int(ranks[query]):,}",
            }
        )
    return examples


def preferred_wrong(similarity: Tensor, patterns: Tensor, table: CrystalTable) -> pd.DataFrame:
    """For every pattern the wrong structure that is most similar, and how alike the patterns are.

    Args:
        similarity: Patterns against structures of the same crystals ``[n, n]``.
        patterns: Their patterns ``[n, P]``.
        table: The same crystals.

    Returns:
        One row per crystal: ``query``, ``space group``, ``preferred structure``, ``its space
        group``, ``same group``, and the cosine ``pattern similarity`` of the two patterns.
    """
    wrong = similarity.clone().fill_diagonal_(-2).argmax(dim=1)
    unit = torch.nn.functional.normalize(patterns, dim=1)
    formula, group = table.info["formula"].to_numpy(), table.space_group.numpy()
    other = wrong.numpy()
    return pd.DataFrame(
        {
            "query": formula,
            "space group": group,
            "preferred structure": formula[other],
            "its space group": group[other],
            "same group": group == group[other],
            "pattern similarity": (unit * unit[wrong]).sum(dim=1).numpy(),
        }
    )


def means(run: Run) -> dict[str, float]:
    """The main metrics of a run, mean over seeds, without any interval."""
    per_seed = [cell_metrics(frame) for frame in run.frames]
    return {name: float(np.mean([m[name] for m in per_seed])) for name in MAIN_METRICS}


def strategies_table(
    runs: Mapping[tuple[str, str], Run], validation: Mapping[tuple[str, str], float]
) -> pd.DataFrame:
    """One row per fused model.

    Args:
        runs: (name of the strategy, word for its alignment) to run.
        validation: The same keys to the loss by which the choice is made.

    Returns:
        ``fusion``, ``alignment``, ``weights of the fusion``, ``validation loss``, the test errors,
        and ``low`` and ``high``, the 95 % interval of the scaled length error.
    """
    rows = []
    for (fusion, alignment), run in runs.items():
        low, high = bootstrap_interval(run.frames, "scaled_length_mae")
        found = means(run)
        rows.append(
            {
                "fusion": fusion,
                "alignment": alignment,
                "weights of the fusion": num_parameters(run.model.fusion),
                "validation loss": validation[fusion, alignment],
                "scaled length MAE (Å)": found["scaled_length_mae"],
                "length MAE (Å)": found["length_mae"],
                "crystal system (%)": found["crystal_system_accuracy"],
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


def paper_table(
    entries: Iterable[tuple[Mapping[str, str], str, float, Sequence[pd.DataFrame]]],
    *,
    columns: Mapping[str, str],
    rounding: float,
    comparable: bool,
    num_claims: int = 1,
) -> pd.DataFrame:
    """Published values beside those of this book.

    Args:
        entries: For each row its labels (heading to text), the metric, the published value and the
            errors frames of the seeds.
        columns: What stands between labels and verdict, and its heading: ``paper``, ``ours`` (mean
            over seeds), ``interval`` (95 %), ``delta``, or another metric of
            :func:`.cell_metrics`.
        rounding: Half a unit of the last digit of the published values.
        comparable: False on other data than the paper's: then there are no verdicts.
        num_claims: Verdicts given together, see :func:`.paper_verdict`; the ledger
            chapter judges all claims together.
    """
    rows = []
    for labels, metric, published, frames in entries:
        per_seed = [cell_metrics(frame) for frame in frames]
        values = {name: float(np.mean([m.get(name, np.nan) for m in per_seed])) for name in columns}
        row = None
        if metric in per_seed[0]:  # a crystal system without crystals has no accuracy
            row = summarize(frames, [metric]).iloc[0].to_dict()
            row["ci95"] = [row["ci_low"], row["ci_high"]]
        ours = row["mean"] if row else np.nan
        values |= {"paper": published, "ours": ours, "delta": ours - published}
        values["interval"] = "{:.1f} to {:.1f}".format(*row["ci95"]) if row else "–"
        lower = metric in LOWER_IS_BETTER
        word = paper_verdict(
            row, published, rounding=rounding, lower_is_better=lower, num_claims=num_claims
        )
        shown = {heading: values[key] for key, heading in columns.items()}
        word = word if comparable else "not comparable: other data"
        rows.append({**labels, **shown, "verdict": word})
    return pd.DataFrame(rows)


def withheld_table(
    asked: Mapping[tuple[str, str], pd.DataFrame], metric: str, *, columns: Sequence[str]
) -> pd.DataFrame:
    """A metric of models (rows) that are given some of their views (columns).

    Args:
        asked: (model, views given) to errors frame.
        metric: A key of :func:`.cell_metrics`.
        columns: Order of the columns.
    """
    models = list(dict.fromkeys(model for model, _ in asked))
    values = {key: cell_metrics(frame)[metric] for key, frame in asked.items()}
    return pd.DataFrame(
        [[values.get((model, given), np.nan) for given in columns] for model in models],
        index=models,
        columns=list(columns),
    )


def geometry(points: Mapping[str, Tensor]) -> dict[str, float]:
    """Alignment, uniformity and gap of structures and patterns in a shared space.

    Args:
        points: ``structure`` and ``xrd`` to unit vectors ``[n, d]`` of the same crystals; the first
            2,000 are looked at.

    Returns:
        The mean squared distance of pairs, the logarithm of the mean Gaussian potential of either
        view, and the distance between the two centres.

    Source: Wang and Isola, arXiv 2005.10242, equations 1 and 2; the gap: Liang et al., arXiv
    2203.02053.
    """
    u, v = points["structure"][:2000], points["xrd"][:2000]
    return {
        "alignment": float((u - v).square().sum(dim=1).mean()),
        "uniformity, structures": float(torch.pdist(u).square().mul(-2).exp().mean().log()),
        "uniformity, patterns": float(torch.pdist(v).square().mul(-2).exp().mean().log()),
        "modality gap": float((u.mean(dim=0) - v.mean(dim=0)).norm()),
    }


def both_ways(spaces: Mapping[str, Mapping[str, Tensor]]) -> pd.DataFrame:
    """Recall at 1 and 10 between patterns and structures, one row per shared space.

    Args:
        spaces: Name of the model to its points, see :func:`.embed`.
    """
    rows = []
    for name, points in spaces.items():
        pair = retrieval_table({key: points[key] for key in ("xrd", "structure")}, ks=(1, 10))
        rows.append([name, *pair.iloc[0, 2:4], *pair.iloc[1, 2:4]])
    headings = [
        f"{way}, recall@{k} (%)"
        for way in ("XRD to structure", "structure to XRD")
        for k in (1, 10)
    ]
    return pd.DataFrame(rows, columns=["model", *headings])


def frames_table(frames: Mapping[str, pd.DataFrame], *, first_column: str) -> pd.DataFrame:
    """The main metrics of single errors frames, one row each."""
    return pd.DataFrame(
        {first_column: name}
        | {MAIN_METRICS[key][0]: cell_metrics(frame)[key] for key in MAIN_METRICS}
        for name, frame in frames.items()
    )


def recall_table(ranks: Mapping[str, Mapping[int, pd.DataFrame]]) -> pd.DataFrame:
    """Recall at 1 and 10 in per cent, mean over seeds, one row per model and one column each.

    Args:
        ranks: Model to ranks by seed, see :func:`.ranks_of_test`.
    """
    rows = {}
    for name, by_seed in ranks.items():
        both = pd.concat(by_seed.values()).drop(columns="material_id")
        rows[name] = {
            f"{column.replace('_', ' ')}, recall@{k} (%)": 100 * float((both[column] <= k).mean())
            for column in both
            for k in (1, 10)
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def lost_patterns(
    points: Mapping[str, Tensor], patterns: Tensor, table: CrystalTable, *, depth: int = 10
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Patterns that miss their structure, and whether what they prefer looks like them.

    Args:
        points: ``xrd`` and ``structure`` to unit vectors ``[n, d]``.
        patterns: Their patterns ``[n, P]``.
        table: The same crystals.
        depth: A structure beyond this rank is lost; where none is, all crystals are taken.

    Returns:
        Rows of :func:`.preferred_wrong` with ``rank``, and ``lost_share``,
        ``lost_group`` (the preferred structure has the same space group), ``chance_group`` (one
        at random has), all in per cent, with ``lost_alike`` and ``chance_alike``, the mean cosine
        of the patterns with those of the preferred and of random structures.
    """
    similarity = points["xrd"] @ points["structure"].T  # [n, n]
    ranks = retrieval_ranks(points["xrd"], points["structure"])
    near = preferred_wrong(similarity, patterns, table).assign(rank=ranks.numpy())
    lost = near[near["rank"] > depth] if (ranks > depth).any() else near
    other = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(patterns, dim=1)
    group = table.space_group
    return lost, {
        "lost_share": 100 * float((ranks > depth).double().mean()),
        "lost_alike": float(lost["pattern similarity"].mean()),
        "chance_alike": float((unit * unit[other]).sum(dim=1).mean()),
        "lost_group": 100 * float(lost["same group"].mean()),
        "chance_group": 100 * float((group == group[other]).double().mean()),
    }

"""Trained models and shared spaces in, the tables of chapter 04 out."""

import itertools
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib.alignment import recall_at_k, retrieval_ranks
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.evaluation.predict import encodings, frame_of_errors
from unimat_lib.model import UniMat
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
    standardised embeddings; the strength of the ridge is chosen by leave-one-out on ``train``. The
    heads of the model are not used, its encoder stays as it is. ``train`` ``[T]`` and ``test``
    ``[B]`` are rows of ``table``, int64; the result is as that of :func:`.predict`.

    Source: the linear evaluation protocol of Alain and Bengio, arXiv 1610.01644.
    """
    from sklearn.exceptions import ConvergenceWarning  # a second, needed here alone
    from sklearn.linear_model import LogisticRegression, RidgeCV

    known, asked = (encodings(model, views, rows, modality).numpy() for rows in (train, test))
    mean, std = known.mean(axis=0), known.std(axis=0) + 1e-6
    known, asked = (known - mean) / std, (asked - mean) / std
    truth = [_true_cells(views, rows.to(views.device)) for rows in (train, test)]
    ridge = RidgeCV(alphas=np.logspace(-1, 4, 11), alpha_per_target=True)
    cells = ridge.fit(known, truth[0]).predict(asked)
    systems = table.crystal_system.cpu().numpy()
    with warnings.catch_warnings():  # the page says that it may stop before it converges
        warnings.simplefilter("ignore", ConvergenceWarning)
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

    ``points`` maps views to points of the shared space ``[n, d]``, same crystals in each. Columns
    ``query``, ``gallery``, ``recall@<k> (%)`` and ``median rank``.
    """
    rows = []
    for query, gallery in itertools.permutations(points, 2):
        ranks = retrieval_ranks(points[query], points[gallery])
        recalls = {f"recall@{k} (%)": 100 * recall_at_k(ranks, k) for k in ks}
        median = float(ranks.double().median())
        rows.append({"query": query, "gallery": gallery, **recalls, "median rank": median})
    return pd.DataFrame(rows)


def retrieval_examples(
    queries: list[int], similarity: Tensor, patterns: Tensor, names: list[str], *, ranks: Tensor
) -> list[dict[str, object]]:
    """What :func:`.plot_retrieval_examples` draws: queries with their five best candidates.

    ``queries`` are rows of ``similarity`` ``[n, n]``, patterns against structures of the same
    crystals; ``patterns`` ``[n, P]``, ``names`` and ``ranks`` of the right structure are theirs.
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
        patterns: Their patterns ``[n, P]``; ``pattern similarity`` is a cosine of two of them.
        table: The same crystals.
    """
    wrong = similarity.clone().fill_diagonal_(-2).argmax(dim=1)
    unit = torch.nn.functional.normalize(patterns, dim=1)
    formula, group = table.info["formula"].to_numpy(), table.space_group.numpy()
    other = wrong.numpy()
    frame = {"query": formula, "space group": group, "preferred structure": formula[other]}
    frame |= {"its space group": group[other], "same group": group == group[other]}
    return pd.DataFrame(frame | {"pattern similarity": (unit * unit[wrong]).sum(dim=1).numpy()})


def geometry(points: Mapping[str, Tensor]) -> dict[str, float]:
    """Alignment, uniformity and gap of structures and patterns in a shared space.

    Points are unit vectors ``[n, d]`` of the same crystals, the first 2,000 are looked at. The mean
    squared distance of pairs, the logarithm of the mean Gaussian potential of either view, and the
    distance between the two centres.

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
    """Recall at 1 and 10 between patterns and structures, one row per model's shared space."""
    rows = []
    for name, points in spaces.items():
        pair = retrieval_table({key: points[key] for key in ("xrd", "structure")}, ks=(1, 10))
        rows.append([name, *pair.iloc[0, 2:4], *pair.iloc[1, 2:4]])
    ways = ("XRD to structure", "structure to XRD")
    headings = [f"{way}, recall@{k} (%)" for way in ways for k in (1, 10)]
    return pd.DataFrame(rows, columns=["model", *headings])


def recall_table(ranks: Mapping[str, Mapping[int, pd.DataFrame]]) -> pd.DataFrame:
    """Recall at 1 and 10 in per cent, mean over seeds, a row per model (:func:`.ranks_of_test`)."""
    rows = {}
    for name, by_seed in ranks.items():
        both = pd.concat(by_seed.values()).drop(columns="material_id").rename(columns=_spaced)
        found = {(c, k): 100 * float((both[c] <= k).mean()) for c in both for k in (1, 10)}
        rows[name] = {f"{c}, recall@{k} (%)": value for (c, k), value in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def lost_patterns(
    points: Mapping[str, Tensor], patterns: Tensor, table: CrystalTable, *, depth: int = 10
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Patterns ``[n, P]`` that miss their structure, and whether what they prefer looks like them.

    Points are unit vectors ``[n, d]`` of ``xrd`` and ``structure`` of the same crystals. A
    structure beyond the rank ``depth`` is lost; where none is, all crystals are taken.

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
    same_group = table.space_group == table.space_group[other]
    return lost, {
        "lost_share": 100 * float((ranks > depth).double().mean()),
        "lost_alike": float(lost["pattern similarity"].mean()),
        "chance_alike": float((unit * unit[other]).sum(dim=1).mean()),
        "lost_group": 100 * float(lost["same group"].mean()),
        "chance_group": 100 * float(same_group.double().mean()),
    }

"""Measured and simulated patterns of the same crystals in, how well they can be told apart out.

A simulation is good enough to train on when a classifier that learned to tell it from measurements
fails on crystals it has not seen. Two are tried: trees on features a crystallographer would look
at, and a small convolutional network on whole curves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from torch import Tensor, nn

from unimat_lib.views.grid import Grid
from unimat_powder.simulation.prepare import prepare

_FOLDS = 8
_EDGES = 5.0, 6.5, 9.0, 13.0, 20.0, 30.0, 45.0, 60.0, 75.0, 90.0  # degrees; of the background
_SCALES = 0.03, 0.08, 0.2, 0.6, 2.0  # degrees; of the bands of the prepared curve


class Gate(NamedTuple):
    """How well two kinds of patterns were told apart; 0.5 is a guess."""

    accuracy: float  # mean of both kinds' shares of right answers, over crystals
    low: float  # 95 % interval of it, from resampled crystals
    high: float
    auc: float
    telling: tuple[str, ...]  # the features that tell most, the first most of all


def pattern_features(counts: np.ndarray, grid: Grid) -> dict[str, float]:
    """What noise, background, peaks and the prepared curve of one pattern ``[P]`` look like."""
    curve = torch.from_numpy(np.asarray(counts, dtype=np.float32))[None]
    prepared = prepare(curve, torch.ones_like(curve, dtype=torch.bool), grid)[0].double().numpy()
    counts = np.asarray(counts, dtype=np.float64)
    under = _background(counts, grid)
    return {
        **_noise(counts),
        **_background_features(counts, under, grid),
        **_peak_features(counts, under, grid),
        **_band_features(prepared, grid),
    }


def _background(counts: np.ndarray, grid: Grid) -> np.ndarray:
    """Lower quartile of windows of 0.7 degrees, joined by lines."""
    size = max(round(0.7 / grid.step), 2)
    whole = len(counts) // size * size
    low = np.quantile(counts[:whole].reshape(-1, size), 0.25, axis=1)
    centres = (np.arange(len(low)) + 0.5) * size
    return np.interp(np.arange(len(counts)), centres, uniform_filter1d(low, 5))


def _noise(counts: np.ndarray) -> dict[str, float]:
    bend = counts[1:-1] - (counts[:-2] + counts[2:]) / 2
    level = uniform_filter1d(counts, 9)[1:-1]
    score = bend / np.sqrt(1.5 * np.maximum(level, 0.5))
    quiet, loud = (
        score[level < np.quantile(level, 0.5)],
        score[level > np.quantile(level, 0.97)],
    )
    return {
        "fano": quiet.var(),
        "fano of peaks": loud.var(),
        "kurtosis": (quiet**4).mean() / quiet.var() ** 2,
        "correlation": (score[1:] * score[:-1]).mean() / score.var(),
        "largest jump": np.log(score.max()),
        "zeros": (counts < 0.5).mean(),
    }


def _background_features(counts: np.ndarray, under: np.ndarray, grid: Grid) -> dict[str, float]:
    angle, last = grid.two_theta.numpy(), _EDGES[-2]
    end = under[angle >= last].mean() + 1
    found = {"level": np.log(np.median(under) + 1), "top": np.log(counts.max())}
    for low, high in itertools.pairwise(_EDGES[:-1]):
        inside = (angle >= low) & (angle < high)
        found[f"background at {low:g}"] = np.log((under[inside].mean() + 1) / end)
    return found


def _peak_features(counts: np.ndarray, under: np.ndarray, grid: Grid) -> dict[str, float]:
    smooth = uniform_filter1d(counts, 5)
    net = np.clip(smooth - under - 3 * np.sqrt(under + 1), 0, None)
    top = net.max() + 1e-9
    tops = (smooth[2:-2] >= smooth[1:-3]) & (smooth[2:-2] > smooth[3:-1]) & (net[2:-2] > 0.08 * top)
    places = np.flatnonzero(tops) + 2
    taken = np.zeros(len(counts), dtype=bool)
    rows, apart = [], round(0.6 / grid.step)
    for place in places[np.argsort(-net[places])][:25]:
        if taken[place]:
            continue
        taken[max(0, place - apart) : place + apart] = True
        below = net < net[place] / 2
        left = place - np.argmax(below[place::-1]) if below[: place + 1].any() else 0
        right = place + np.argmax(below[place:]) if below[place:].any() else len(net) - 1
        wide = max(right - left, 1)
        ends = max(0, int(place - 2.5 * wide)), min(len(net) - 1, int(place + 2.5 * wide))
        tails = sum(smooth[end] - under[end] for end in ends) / 2 / net[place]
        rows.append((place, wide * grid.step, (right + left - 2 * place) / wide, tails))
    place, width, skew, tails = np.array(rows or [(0, 1.0, 0.0, 0.0)]).T
    early = place <= np.median(place)
    share = net / net.sum() if net.sum() else net
    angle = grid.two_theta.numpy()
    return {
        "peaks": np.log(len(width)),
        "width": np.log(np.median(width)),
        "widths' spread": np.log(width).std(),
        "early width": np.log(np.median(width[early])),
        "late width": np.log(np.median(width[place >= np.median(place)])),
        "skewness": np.median(skew),
        "early skewness": skew[early].mean(),
        "tails": np.median(tails),
        "entropy": -(share * np.log(share + 1e-12)).sum(),
        "above 2 %": (net > 0.02 * top).mean(),
        "above 10 %": (net > 0.1 * top).mean(),
        "beyond 60 degrees": share[angle > 60].sum(),
        "before 25 degrees": share[angle < 25].sum(),
    }


def _band_features(prepared: np.ndarray, grid: Grid) -> dict[str, float]:
    angle = grid.two_theta.numpy()
    parts = [(angle >= a) & (angle < b) for a, b in ((5, 20), (20, 40), (40, 60), (60, 91))]
    found = {f"quantile {q}": np.percentile(prepared, q) for q in (5, 25, 50, 75, 90, 98)}
    for scale in _SCALES:
        points = scale / grid.step
        smooth = gaussian_filter1d(prepared, points)
        band = smooth - gaussian_filter1d(prepared, 2 * points)
        whole = band.std() + 1e-9
        found[f"band {scale:g}"] = np.log(whole)
        found[f"band {scale:g} skewness"] = (band**3).mean() / whole**3
        for number, part in enumerate(parts):
            found[f"band {scale:g} part {number}"] = np.log(band[part].std() / whole + 1e-9)
    for number, part in enumerate(parts):
        found[f"median part {number}"] = np.median(prepared[part])
    return found


def tell_apart(
    features: np.ndarray, names: list[str], measured: np.ndarray, crystal: np.ndarray, *, seed: int
) -> Gate:
    """Trees that learn to tell measured from simulated, tried on crystals left out.

    Args:
        features: ``[n, k]``.
        names: Of the features.
        measured: Which of the patterns are measured, bool ``[n]``.
        crystal: Crystal of each pattern, int ``[n]``; each has measured and simulated ones.
        seed: Of trees and folds.
    """
    weight = np.where(measured, (~measured).sum() / measured.sum(), 1.0)

    def score(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        boosted = HistGradientBoostingClassifier(
            max_iter=80, learning_rate=0.08, max_leaf_nodes=6, min_samples_leaf=5, random_state=seed
        ).fit(features[train], measured[train], sample_weight=weight[train])
        trees = _forest(seed).fit(features[train], measured[train])
        return sum(model.predict_proba(features[test])[:, 1] for model in (boosted, trees)) / 2

    importance = _forest(seed).fit(features, measured).feature_importances_
    telling = tuple(names[i] for i in np.argsort(-importance)[:8])
    return _gate(score, measured, crystal, seed, telling)


def tell_apart_by_network(
    curves: Tensor, measured: np.ndarray, crystal: np.ndarray, *, steps: int, seed: int
) -> Gate:
    """A small convolutional network does the same on curves ``[n, P]``, float32."""

    def score(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        net = _trained(curves[train], measured[train], steps, seed)
        with torch.no_grad():
            return torch.cat([net(some)[:, 0] for some in curves[test].split(64)]).numpy()

    return _gate(score, measured, crystal, seed, ())


def _forest(seed: int) -> ExtraTreesClassifier:
    return ExtraTreesClassifier(200, min_samples_leaf=2, class_weight="balanced", random_state=seed)


def _gate(
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    measured: np.ndarray,
    crystal: np.ndarray,
    seed: int,
    telling: tuple[str, ...],
) -> Gate:
    """Scores by cross-validation over crystals; each fold's threshold is the other folds' best."""
    scores, fold = np.zeros(len(measured)), np.zeros(len(measured), dtype=int)
    splits = GroupKFold(_FOLDS, shuffle=True, random_state=seed).split(scores, groups=crystal)
    for number, (train, test) in enumerate(splits):
        scores[test], fold[test] = score(train, test), number
    right = np.zeros(len(measured), dtype=bool)
    for number in range(_FOLDS):
        others, here = fold != number, fold == number
        right[here] = (scores[here] > _threshold(scores[others], measured[others])) == measured[
            here
        ]
    each = [
        (right[mine & measured].mean() + right[mine & ~measured].mean()) / 2
        for mine in (crystal == one for one in np.unique(crystal))
    ]
    random = np.random.default_rng(seed)
    means = [random.choice(each, len(each)).mean() for _ in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    auc = roc_auc_score(measured, scores)
    return Gate(float(np.mean(each)), float(low), float(high), float(auc), telling)


def _threshold(scores: np.ndarray, measured: np.ndarray) -> float:
    trials = np.quantile(scores, np.linspace(0.02, 0.98, 60))
    right = [(scores[measured] > t).mean() + (scores[~measured] <= t).mean() for t in trials]
    return trials[np.argmax(np.convolve(right, np.ones(5), "same"))]


def _trained(curves: Tensor, measured: np.ndarray, steps: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    kinds = [np.flatnonzero(measured), np.flatnonzero(~measured)]
    target = torch.tensor([[1.0]] * 16 + [[0.0]] * 16)
    net = _network()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        some = torch.cat([curves[random.choice(kind, 16)] for kind in kinds])
        some = torch.roll(some, int(random.integers(-30, 31)), 1)
        loss = nn.functional.binary_cross_entropy_with_logits(net(some), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def _network() -> nn.Module:
    layers, channels = [nn.Unflatten(1, (1, -1))], (1, 16, 32, 32, 48)
    for number, size in enumerate((9, 9, 7, 7)):
        before, after = channels[number : number + 2]
        layers += [
            nn.Conv1d(before, after, size, stride=4, padding=size // 2),
            nn.GroupNorm(4, after),
            nn.GELU(),
        ]
    head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * channels[-1], 1))
    return nn.Sequential(*layers, _MeanAndMax(), head)


class _MeanAndMax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(2), x.amax(2)], dim=1)

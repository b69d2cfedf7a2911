"""The weights that turn what the witnesses see into probabilities, and a test of their doubt.

``fit`` finds the weights by which the right crystal, and the right cell, come out likeliest, and
those of "none of them" and of the answer as a whole, from simulated patterns with the right crystal
there and taken out; measured patterns that may be looked at can be added. ``doubt`` counts the
confident answers to patterns that no single crystal made. Evidence: ``collect_evidence.py``.

    python benchmarks/calibrate_search.py fit OUT.npz... --own OWN.npz... --measured HALF.npz \
        --hard HARD.npz...
    python benchmarks/calibrate_search.py doubt HARD.npz...
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from collect_evidence import KINDS, LINES_MOST, LINES_WIDTH, READ_WIDTH
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from unimat_lib.files import file_hash
from unimat_powder import combine
from unimat_powder.answer import Lattice, Match, lattices_of, system_of, verdict_of
from unimat_powder.bravais import LATTICE_SYSTEMS
from unimat_powder.search import rank
from unimat_powder.search.cells import same_cells, volumes
from unimat_powder.search.rank import Facts, agreement_of, judge, likeliest
from unimat_powder.search.search import FEW
from unimat_powder.witnesses import doubts_about

MEASURED, TOGETHER = 20, 4
"""How often a measured pattern of the half that may be looked at counts, beside simulated ones: for
the weights of the library, and for those of the witnesses, for which there are fewer simulated."""

HARD = 0.5
"""How often a pattern that no single crystal made counts."""

UNKNOWN, UNKNOWN_SMALL = 1 / 3, 3.0
"""Crystals that a library lacks, for one that it has, among those that laboratories measure: the
large library, and the small one that comes with the package. Of the 56 measured patterns that may
be looked at they lack 6 and 52; both numbers are drawn towards one."""


def fit(options: argparse.Namespace) -> None:
    """Weights of both settings, written to the search's file."""
    names = ("evidence", "right", "groups", "cells", "truth", "about", "lines", "read")
    more = "counts", "unknown", "whole"
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*names, *more)}
    for path in (*options.simulated, *options.own, *options.measured):
        with np.load(path) as part:
            number = len(part["about"])
            # Evidence of the library alone, without the other witnesses, helps with its weights.
            bare = {
                "lines": np.full((number, LINES_MOST, LINES_WIDTH), np.nan, dtype=np.float32),
                "read": np.full((number, READ_WIDTH), np.nan, dtype=np.float32),
            }
            for name in names:
                found[name].append(part[name] if name in part else bare[name])
            each = MEASURED if path in options.measured else 1.0
            lacks = UNKNOWN_SMALL if path in options.own else UNKNOWN
            found["counts"].append(np.full(number, each))
            found["unknown"].append(np.full(number, lacks))
            found["whole"].append(np.full(number, "lines" in part))
    width = max(x.shape[1] for x in found["evidence"])
    joined = {
        name: np.concatenate([_widened(x, width) if name in WIDE else x for x in parts])
        for name, parts in found.items()
    }
    cases = hard_cases(options.hard)
    hard = [case for _, second, *_, case in cases if not second]
    told, few = joined["about"][:, 0] == 1, among_few(joined["about"])
    search = {
        name: fit_setting({key: x[rows] for key, x in joined.items()})
        for name, rows in (("pattern", ~few), ("elements", few))
    }
    together = {}
    for name, rows in (("pattern", ~told), ("elements", told)):
        whole = {key: x[rows & joined["whole"]] for key, x in joined.items()}
        together[name] = fit_together(whole, search, hard)
    for weights in (search, together):
        for name, found_ones in weights.items():
            print(name, {k: np.round(v, 3).tolist() for k, v in found_ones.items()})
    for path, content in ((rank.WEIGHTS, search), (combine.WEIGHTS, together)):
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def among_few(about: np.ndarray) -> np.ndarray:
    """Which searches asked for few crystals, as :func:`.search` has it: bool, one for each row."""
    return (about[..., 0] == 1) | (about[..., 1] < FEW)


WIDE = ("evidence", "right", "groups", "cells")


def _widened(x: np.ndarray, width: int) -> np.ndarray:
    empty = np.nan if x.dtype.kind == "f" else 0
    room = [(0, 0), (0, width - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
    return np.pad(x, room, constant_values=empty)


def fit_setting(part: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Weights of some searches; what one without its crystal counts: :data:`UNKNOWN`."""
    cases = [case for row in range(len(part["about"])) for case in cases_of(part, row)]
    counts = np.array([case.count * case.share for case in cases])
    evidence = [case.facts.evidence for case in cases]
    asked = [one[:, -1] > 0 for one in evidence]
    how = {"positive": True, "strength": 1e-4}
    crystal = fit_choice(evidence, [case.right for case in cases], counts, among=asked, **how)
    lattice = fit_choice(
        evidence,
        [case.lattice if case.lattice.any() else case.cell for case in cases],
        counts,
        **how,
    )
    facts, same, none_facts, none, weighed = [], [], [], [], []
    for case, count in zip(cases, counts, strict=True):
        odds = case.facts.evidence @ torch.tensor(lattice, dtype=torch.float64)
        best = likeliest(odds, case.facts.same)
        facts.append(agreement_of(case.facts, odds, best))
        same.append(bool(case.cell[best]))
        asked = case.facts.evidence[:, -1] > 0
        if asked.any():
            odds = case.facts.evidence @ torch.tensor(crystal, dtype=torch.float64)
            odds = odds.masked_fill(~asked, -torch.inf)
            none_facts.append(agreement_of(case.facts, odds, int(odds.argmax())))
            none.append(not bool(case.right.any()))
            weighed.append(count)
    return {
        "crystal": crystal,
        "lattice": lattice,
        "none": fit_logistic(np.array(none_facts), np.array(none), np.array(weighed)),
        "cell": fit_logistic(np.array(facts), np.array(same), counts),
    }


def fit_together(
    part: dict[str, np.ndarray],
    search: dict[str, dict[str, list[float]]],
    hard: list[Case],
) -> dict[str, list[float]]:
    """Weights of the witnesses, the library's own (``search``) being fixed.

    Of ``hard`` patterns no hypothesis is right.
    """
    weights = {
        name: rank.Weights(**{key: tuple(column) for key, column in columns.items()})
        for name, columns in search.items()
    }
    cases = [case for row in range(len(part["about"])) for case in cases_of(part, row)]
    counts = np.array([min(case.count, TOGETHER) * case.share for case in cases])
    found = [hypotheses_of(case, weights) for case in cases]
    right = [right_hypotheses(one, case) for one, case in zip(found, cases, strict=True)]
    hypothesis = fit_choice(
        [torch.from_numpy(one.features) for one in found],
        [torch.from_numpy(one) for one in right],
        counts,
        positive=False,
        strength=1e-3,
    )
    found += [hypotheses_of(case, weights) for case in hard]
    right += [np.zeros(len(one), dtype=bool) for one in found[len(cases) :]]
    counts = np.concatenate([counts, np.full(len(hard), HARD)])
    facts, happened, weighed = [], [], []
    for one, correct, count in zip(found, right, counts, strict=True):
        if len(one):
            odds = one.features @ np.array(hypothesis)
            facts.append(combine.agreement_of(one, odds))
            happened.append(bool(correct[odds.argmax()]))
            weighed.append(count)
    best = fit_logistic(np.array(facts), np.array(happened), np.array(weighed))
    return {"hypothesis": hypothesis, "best": best}


def hypotheses_of(case: Case, weights: dict[str, rank.Weights]) -> combine.Hypotheses:
    """What the witnesses say in one case."""
    judged = judge(case.facts, weights["elements" if case.few else "pattern"])
    order = torch.argsort(judged.lattices, descending=True).tolist()
    order = [judged.best, *(i for i in order if i != judged.best)]
    matches = [
        Match(
            *("", "", int(case.groups[i])),
            *(tuple(case.cells[i, :3].tolist()), tuple(case.cells[i, 3:].tolist())),
            *(float(case.facts.volume[i]), 0.0, float(judged.lattices[i]), 1.0),
        )
        for i in order
    ]
    lattices = lattices_of(matches, judged.cell)
    first = 1 if combine.is_sure(lattices) else 0  # where no cells were sought beside the library's
    last = 2 if case.known else 1
    lines = [
        SimpleNamespace(
            lengths=tuple(row[:3].tolist()),
            angles=tuple(row[3:6].tolist()),
            **dict(zip(("volume", "evidence", "m20", "stray"), row[6:10].tolist(), strict=True)),
            systems=dict(zip(LATTICE_SYSTEMS, row[11:].tolist(), strict=True)),
        )
        for row in case.lines.astype(float)
        if np.isfinite(row[6]) and first <= row[10] <= last
    ]
    system, group, (volume, error) = np.split(case.read.astype(float), [7, 237])
    read = SimpleNamespace(system=system, group=group, volume=volume, volume_error=error)
    if np.isnan(system).any():
        read = combine.Unread()
    crystals = [
        replace(m, probability=float(p))
        for m, p in zip(matches, judged.crystals[order], strict=True)
    ]
    return combine.hypotheses(lattices, crystals, lines, read)


def right_hypotheses(found: combine.Hypotheses, case: Case) -> np.ndarray:
    """Which have the true cell and crystal system, bool ``[H]``."""
    truth = Lattice(
        tuple(case.truth[:3].tolist()),
        tuple(case.truth[3:].tolist()),
        *(1.0, system_of(case.group), {}, 1.0, 0.0),
    )
    return np.array([combine.same_lattice(one, truth) for one in found.lattices], dtype=bool)


def fit_choice(
    columns: Sequence[torch.Tensor],
    right: Sequence[torch.Tensor],
    counts: np.ndarray,
    *,
    among: Sequence[torch.Tensor] | None = None,
    positive: bool,
    strength: float,
) -> list[float]:
    """Weights by which one of the right rows is likeliest, where there is one.

    Args:
        columns: What counts for each row of each case, float64 ``[R, F]``.
        right: Which rows are right, bool ``[R]``.
        counts: How often each case counts, ``[cases]``.
        among: Which rows are in question, bool ``[R]``; without it, all.
        positive: Better evidence never counts against a row, however the columns are correlated.
        strength: Of the pull of all weights to where they start.
    """
    among = [torch.ones_like(x) for x in right] if among is None else among
    used = [i for i in range(len(right)) if (right[i] & among[i]).any()]
    width = max(len(columns[i]) for i in used)
    values = torch.zeros(len(used), width, columns[0].shape[1], dtype=torch.float64)
    there, correct = torch.zeros(2, len(used), width, dtype=torch.bool).unbind()
    for row, i in enumerate(used):
        values[row, : len(columns[i])] = columns[i]
        there[row, : len(among[i])], correct[row, : len(right[i])] = among[i], right[i] & among[i]
    scale = values[there].std(0)
    varies = scale > 1e-6
    scale = torch.where(varies, scale, 1.0)
    count = torch.from_numpy(counts[used])
    parameters = torch.zeros(values.shape[2], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=300, line_search_fn="strong_wolfe")

    def weights() -> torch.Tensor:
        return (functional.softplus(parameters) if positive else parameters) * varies / scale

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        shares = torch.log_softmax((values @ weights()).masked_fill(~there, -torch.inf), dim=1)
        picked = torch.logsumexp(shares.masked_fill(~correct, -torch.inf), dim=1)
        total = strength * parameters.square().sum() - (count * picked).sum() / count.sum()
        total.backward()
        return total

    optimiser.step(loss)
    return weights().detach().tolist()


@dataclass(frozen=True, eq=False)
class Case:
    """A search, as it was or with the right crystal taken out."""

    facts: Facts
    cells: np.ndarray  #: ``[K, 6]``
    groups: torch.Tensor  #: int ``[K]``
    lines: np.ndarray  #: see :func:`lines_table`
    read: np.ndarray  #: see :func:`read_of`
    truth: np.ndarray  #: ``[6]``
    group: int  #: the true one
    right: torch.Tensor  #: bool ``[K]``: the sample's crystal
    cell: torch.Tensor  #: bool ``[K]``: with its cell and crystal system
    lattice: torch.Tensor  #: bool ``[K]``: and its space group
    few: bool  #: whether few crystals were asked for, see :func:`.search`
    known: bool
    count: float  #: of the search
    share: float  #: of such cases among searches, that of the more frequent ones being 1


def cases_of(part: dict[str, np.ndarray], row: int) -> list[Case]:
    """Both cases of one search; none where nobody knows the true cell."""
    if not np.isfinite(part["truth"][row]).all():
        return []
    there = np.isfinite(part["evidence"][row, :, 0])
    cases = []
    for kept in (there, there & ~part["right"][row]):
        if not kept.any():
            continue
        cells = np.concatenate([part["cells"][row, kept], part["truth"][row][None]]).astype(float)
        groups = torch.tensor([*part["groups"][row, kept].tolist(), int(part["about"][row, 3])])
        same = torch.from_numpy(same_cells(cells, groups))
        evidence = torch.from_numpy(part["evidence"][row, kept]).double()
        asked = int(part["about"][row, 1])
        facts = Facts(evidence, same[:-1, :-1], torch.from_numpy(volumes(cells[:-1])), asked)
        right = torch.from_numpy(part["right"][row, kept])
        cell = same[-1, :-1]
        lattice = cell & (groups[:-1] == groups[-1])
        about = cells[:-1], groups[:-1], part["lines"][row], part["read"][row], cells[-1]
        few = bool(among_few(part["about"][row]))
        known, unknown = kept is there, part["unknown"][row]
        often = part["counts"][row], min(1.0, 1 / unknown if known else unknown)
        cases.append(Case(facts, *about, int(groups[-1]), right, cell, lattice, few, known, *often))
    return cases


def fit_logistic(facts: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> list[float]:
    """Weights of a logistic model for some facts; each case counts ``counts`` times."""
    varies = facts.std(0) > 1e-6
    varies[-1] = True  # the constant
    scale = np.where(varies, np.maximum(facts.std(0), 1e-6), 1.0)
    scale[-1] = 1.0
    model = LogisticRegression(C=10.0, fit_intercept=False, max_iter=5000)
    model.fit(facts / scale * varies, labels, sample_weight=counts)
    return (model.coef_[0] / scale * varies).tolist()


def doubt(options: argparse.Namespace) -> None:
    """How many patterns that no single crystal made are answered with confidence.

    Give it patterns of another seed than those of ``fit --hard``, which are fitted to.
    Written to ``doubt.json`` beside this file.
    """
    listed = {name: rank.load_weights(name) for name in ("pattern", "elements")}
    together = combine.load_weights("pattern")
    sure: dict[str, list[bool]] = {}
    for kind, second, other, number, case in hard_cases(options.hard):
        found = combine.judged(hypotheses_of(case, listed), together)
        chance = found[0].probability if found else 0.0
        verdict = verdict_of(chance, doubts_about(found, number))
        confident = verdict == "confident" and not second
        sure.setdefault(kind, []).append(confident and not other)
        if kind == "tube":
            sure.setdefault("tube_named", []).append(confident)
    counted = {kind: [sum(answers), len(answers)] for kind, answers in sorted(sure.items())}
    for kind, (some, number) in counted.items():
        print(f"{kind}: {some} of {number} confident in a single phase")
    root = Path(__file__).resolve().parents[1]
    weights = {str(x.relative_to(root)): file_hash(x) for x in (rank.WEIGHTS, combine.WEIGHTS)}
    stamp = {"evidence": [file_hash(path) for path in options.hard], "weights": weights}
    text = json.dumps({"confident": counted} | stamp, indent=1)
    Path(__file__).with_name("doubt.json").write_text(text + "\n", encoding="utf-8")


def hard_cases(paths: Sequence[Path]) -> list[tuple[str, bool, bool, int, Case]]:
    """Kind, whether a second phase or another tube was seen, lines, and the case.

    Patterns that are refused are left out.
    """
    return [one for path in paths for one in _hard_cases(path)]


def _hard_cases(path: Path) -> list[tuple[str, bool, bool, int, Case]]:
    with np.load(path) as found:
        part = {name: found[name] for name in found.files}
    part["counts"] = part["unknown"] = np.ones(len(part["about"]))
    part["truth"][:] = (1, 1, 1, 90, 90, 90)  # of no pattern
    flags = part["about"][:, 3].tolist()
    second = [one % 2 == 1 for one in flags]
    part["about"][:, 3] = 1
    kinds = [KINDS[i] for i in part["about"][:, 2]]
    lines = part["about"][:, 4].tolist()
    other = [kind == "tube" and one >= 2 for kind, one in zip(kinds, flags, strict=True)]
    return [
        (kinds[row], second[row], other[row], lines[row], cases_of(part, row)[0])
        for row in range(len(kinds))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    fitting = commands.add_parser("fit")
    fitting.add_argument("simulated", type=Path, nargs="+")
    what = "crystals of the small library, searched in it"
    fitting.add_argument("--own", type=Path, nargs="*", default=[], help=what)
    what = "the half that may be looked at"
    fitting.add_argument("--measured", type=Path, nargs="*", default=[], help=what)
    what = "patterns that no single crystal made"
    fitting.add_argument("--hard", type=Path, nargs="*", default=[], help=what)
    fitting.set_defaults(run=fit)
    doubting = commands.add_parser("doubt")
    doubting.add_argument("hard", type=Path, nargs="+")
    doubting.set_defaults(run=doubt)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

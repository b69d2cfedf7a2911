"""Which crystal is it: models that find structures by patterns in, shares of first places out.

Queries are patterns of test crystals whose cells are strained, or which a laboratory measured; what
is searched are all test crystals, or all that are known. Three ways stand side by side: comparing
computed patterns (:mod:`.comparing`), a learned embedding, and the first few of the embedding put
into order by comparing patterns. See :data:`VARIANTS`.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from unimat_book.grid.cells import GridSettings
from unimat_book.grid.train import limited_rows
from unimat_book.grid.views import plain_views
from unimat_book.studies.comparing import (
    WIDTH,
    Patterns,
    Stretcher,
    computed_patterns,
    cosine_ranks,
    reranked,
    scan_ranks,
    widened,
)
from unimat_book.studies.crystals import FURTHER, MAX_ATOMS
from unimat_book.studies.finding import (
    NAMES,
    TWINS,
    TwinModel,
    fit_config,
    make_model,
    query_points,
    views_for,
)
from unimat_book.studies.models import histories, names_hash
from unimat_book.studies.queries import QUERIES, query_patterns
from unimat_book.studies.trials import Outcome, Place, Trial
from unimat_lib.alignment import retrieval_ranks
from unimat_lib.crystals.table import CrystalTable, concatenate
from unimat_lib.datasets.mp_extra import pretraining_pool
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.model import UniMat, save_model
from unimat_lib.training.config import FitResult
from unimat_lib.training.fit import fit
from unimat_lib.views.batch import CrystalViews

VARIANTS: Mapping[str, str] = {
    "physics": "computed patterns compared, nothing learned",
    "clean": "trained on patterns of the cells as they are",
    "strained": "trained on patterns of strained cells",
    "further": "the same, with further crystals",
    "computed": "the same, structures enter as computed patterns",
    "measured": "the same, patterns as an instrument would measure them",
}
"""What is compared, and how it is called in tables; each of the learned ones adds to the last."""

DOMAINS = ("test", "known")
"""What is searched: all test crystals, or all crystals that are known."""

CANDIDATES = 50
"""How many of the embedding's first are put into order by comparing patterns."""

_SEEDS = 3
_CHUNK = 512
_PLACES = (1, 10)


def trials(settings: GridSettings) -> list[Trial]:
    """Comparing patterns, which needs no seed, and then all models seed by seed."""
    first, *models = VARIANTS
    seeds = settings.seeds[:_SEEDS]
    return [
        Trial("retrieval", first, seeds[0]),
        *(Trial("retrieval", name, seed) for seed in seeds for name in models),
    ]


class Shared:
    """What the trainings of one process share; each part is made when it is first asked for."""

    def __init__(self, place: Place) -> None:
        self.place, self.table = place, place.table
        self.rows = limited_rows(place.table, place.settings)

    @functools.cached_property
    def extra(self) -> CrystalTable | None:
        """Further crystals, of any size; ``None`` for a data set that has none."""
        name = FURTHER.get(self.place.settings.dataset)
        return load_dataset(name) if name else None

    @functools.cached_property
    def pool(self) -> CrystalTable:
        """The data set under its own row numbers, and further crystals that may be trained on."""
        return pretraining_pool(self.table, self.extra, max_atoms=MAX_ATOMS)

    @functools.cached_property
    def known(self) -> CrystalTable:
        """The data set under its own row numbers, and all further crystals."""
        return self.table if self.extra is None else concatenate([self.table, self.extra])

    @functools.cached_property
    def plain(self) -> CrystalViews:
        """Structures and reflections of the pool, on the device."""
        place = self.place
        return plain_views(self.pool, place.settings, device=place.device, modalities=NAMES)

    @functools.cached_property
    def patterns(self) -> Patterns:
        """Computed patterns of all known crystals, on the device."""
        settings = self.place.settings
        how = {"fwhm": max(WIDTH, settings.model["fwhm"]), "device": self.place.device}
        return computed_patterns(self.known, settings.grid, **how)

    def widened(self, queries: Tensor) -> Tensor:
        """Queries ``[Q, P]`` with peaks as wide as those of :attr:`patterns`, float16."""
        settings = self.place.settings
        return widened(queries, settings.grid, fwhm=settings.model["fwhm"])

    @functools.cached_property
    def stretcher(self) -> Stretcher:
        """Scales of comparisons."""
        return Stretcher(self.place.settings.grid, self.place.device)

    @functools.cached_property
    def queries(self) -> dict[str, Tensor]:
        """Patterns of the test crystals by kind of query, see :func:`.query_patterns`."""
        place, test = self.place, self.rows[2]
        how = {"device": place.device}
        return {k: query_patterns(self.table, test, place.settings, k, **how) for k in QUERIES}

    def gallery(self, domain: str) -> Tensor:
        """Rows of the known crystals that are searched, int64 ``[G]``, on the device."""
        rows = self.rows[2] if domain == "test" else torch.arange(len(self.known))
        return rows.to(self.place.device)

    def target(self, domain: str) -> Tensor:
        """Where each test crystal stands in the gallery, int64 ``[n]``, on the device."""
        test = self.rows[2]
        where = torch.arange(len(test)) if domain == "test" else test
        return where.to(self.place.device)


def train(trial: Trial, shared: Shared, *, run_dir: Path) -> list[Outcome]:
    """Train one model, if any, and let it search for all queries in both galleries.

    Metrics are ``recall_at_<k>_<kind of query>`` with nothing before (the embedding), ``reranked_``
    (its first 50 compared), ``cosine_`` or ``scan_`` (all compared, at one scale or at many).
    Scores hold ``ms_per_query`` of each as well, in batches; values are those of first places.
    The first seed's model is kept as ``models/<trial>.safetensors`` in the shared folder.
    """
    if trial.variant == "physics":
        return [_compared(trial, shared, domain) for domain in DOMAINS]
    settings, variant = shared.place.settings, trial.variant
    views = views_for(variant, shared.plain)
    rows = training_rows(variant, shared)
    torch.manual_seed(trial.seed)
    model = make_model(variant, settings)
    model.fit_scalers(views, shared.rows[0])
    like = len(shared.rows[0])
    config = fit_config(variant, settings, seed=trial.seed, crystals=len(rows), like=like)
    one = fit(model, views, train=rows, val=shared.rows[1], config=config, run_dir=run_dir)
    model.to(shared.place.device).eval()
    if shared.place.device == "cuda":
        gc.collect()  # the recorded graphs of a training keep its memory
        torch.cuda.empty_cache()
    if trial.seed == settings.seeds[0]:
        kept = model.single if isinstance(model, TwinModel) else model
        save_model(kept, shared.place.folder / "models" / f"{trial.name}.safetensors", half=True)
    points = gallery_points(model, variant, shared)
    return [_searched(trial, shared, domain, model, points, [one]) for domain in DOMAINS]


def training_rows(variant: str, shared: Shared) -> Tensor:
    """Rows of the pool that a variant is trained on, int64."""
    own = shared.rows[0]
    if variant in ("clean", "strained"):
        return own
    return torch.cat([own, torch.arange(len(shared.table), len(shared.pool))])


@torch.no_grad()
def gallery_points(model: UniMat, variant: str, shared: Shared) -> Tensor:
    """Unit vectors of all known crystals, float32 ``[G, projection_dim]``, on the device."""
    place, parts = shared.place, []
    seen = ("xrd",) if variant in TWINS else NAMES[:1]
    for rows in torch.arange(len(shared.known)).split(_CHUNK):
        # Graphs and reflections of all are large, and are wanted once for each model.
        some = shared.known.select(rows)
        plain = plain_views(some, place.settings, device=place.device, modalities=seen)
        every = torch.arange(len(some), device=place.device)
        view = views_for(variant, plain).batch(every, modalities=NAMES[:1]).views["structure"]
        if variant in TWINS:
            parts.append(query_points(model, view))
            continue
        encoded = model.projections["structure"](model.encode("structure", view))
        parts.append(functional.normalize(encoded.float(), dim=1))
    return torch.cat(parts)


class Clock:
    """Adds up wall time, with a GPU's work done, by name."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)

    def scores(self, queries: int) -> dict[str, float]:
        """Milliseconds a query, the median over kinds of queries: the first one warms up."""
        return {
            f"{name}ms_per_query": 1000 * float(np.median(seconds)) / queries
            for name, seconds in self.seconds.items()
        }

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _compared(trial: Trial, shared: Shared, domain: str) -> Outcome:
    """What comparing patterns finds."""
    gallery = shared.patterns.select(shared.gallery(domain))
    target, clock = shared.target(domain), Clock(shared.place.device)
    ranks = {}
    for kind in QUERIES:
        queries = shared.queries[kind]
        with clock("cosine_"):
            wide = shared.widened(queries)
            ranks["cosine_", kind] = cosine_ranks(wide, gallery, target)
        with clock("scan_"):
            ranks["scan_", kind] = scan_ranks(wide, gallery, target, stretcher=shared.stretcher)
    return _outcome(trial, shared, domain, ranks, clock, [])


def _searched(
    trial: Trial,
    shared: Shared,
    domain: str,
    model: UniMat,
    points: Tensor,
    fits: list[FitResult],
) -> Outcome:
    """What an embedding finds, alone and with its first candidates compared."""
    rows, target = shared.gallery(domain), shared.target(domain)
    gallery, clock = points[rows], Clock(shared.place.device)
    few = min(CANDIDATES, len(rows))
    ranks = {}
    for kind in QUERIES:
        queries = shared.queries[kind]
        with clock(""):
            found = query_points(model, queries)
            first = torch.cat([(x @ gallery.mT).topk(few).indices for x in found.split(_CHUNK)])
        ranks["", kind] = retrieval_ranks(found, gallery, target=target)
        with clock("reranked_"):
            ranks["reranked_", kind] = reranked(
                shared.widened(queries),
                shared.patterns,
                rows[first],
                rows[target],
                stretcher=shared.stretcher,
            )
    alone = clock.seconds[""]
    clock.seconds["reranked_"] = [
        sum(both) for both in zip(alone, clock.seconds["reranked_"], strict=True)
    ]
    return _outcome(trial, shared, domain, ranks, clock, fits)


def _outcome(
    trial: Trial,
    shared: Shared,
    domain: str,
    ranks: Mapping[tuple[str, str], Tensor],
    clock: Clock,
    fits: list[FitResult],
) -> Outcome:
    test = shared.rows[2]
    scores, values = clock.scores(len(test)), {}
    for (method, kind), found in ranks.items():
        for k in _PLACES:
            right = np.float32(100) * (found <= k).cpu().numpy()
            name = f"{method}recall_at_{k}_{kind}"
            scores[name] = float(right.mean(dtype=np.float64))
            if k == 1:
                values[name] = right
    return Outcome(
        trial=trial,
        domain=domain,
        asked=names_hash(shared.table, test),
        scores=scores | {"gallery": float(len(shared.gallery(domain)))},
        values=values,
        history=histories(fits),
        seconds=sum(one.seconds for one in fits) + sum(map(sum, clock.seconds.values())),
    )

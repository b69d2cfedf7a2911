"""Parameters of chapter 05 in, the list of trainings of the grid out, and what each needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from unimat_lib.views.grid import Grid

FUSIONS: Mapping[str, str] = {
    "early": "early (FiLM)",
    "concat": "concatenation",
    "gated": "gated",
    "cross_attention": "cross-attention",
    "late": "late, weights per crystal",
}
"""Ways to fuse and how they are called in tables."""

ORDERS: Mapping[str, str] = {
    "none": "no alignment",
    "before": "alignment, then fusion",
    "simultaneous": "simultaneous",
    "fused": "fusion, then alignment",
}
"""Orders of fusion and alignment and how they are called in tables."""

KINDS: Mapping[str, str] = {"clean": "clean patterns", "laboratory": "laboratory simulation"}
"""Kinds of patterns and how they are called in tables."""

TUNING_SEED = 100
ALIGNMENT_SHARE = 1 / 3
"""Of the epochs, where encoders are aligned before they are fused; they count as the others."""

_FEW = 3  # seeds that both kinds of patterns get before either gets more


@dataclass(frozen=True)
class GridSettings:
    """All that decides a training of the grid, but for its cell and its seed.

    Attributes:
        dataset: Name of the data set.
        seeds: Of the final trainings of each cell.
        epochs: Of each final training, alignment included.
        epochs_tuning: The same while learning rates are tried.
        epochs_structure: Of the one structure encoder that all cells are aligned with.
        rates: Learning rates that each cell tries, the same for all.
        limit: Crystals of each split that are used, evenly spread; 0 for all.
        batch_size: Crystals per step.
        contrastive_weight: Weight of the contrastive loss beside the supervised one.
        start_scale: Its inverse temperature at the start.
        modality_dropout: Probability of hiding a view in training.
        strain: Largest isotropic strain in training, either sign.
        strain_levels: Number of different strains; the embeddings of structures are kept for each.
        draws: Laboratory patterns that are simulated of each training crystal.
        fwhm_range: Peak widths of clean patterns in training, degrees.
        model: Further arguments of :class:`.UniMatConfig`, in plain types.
    """

    dataset: str
    seeds: tuple[int, ...]
    epochs: int
    epochs_tuning: int
    epochs_structure: int
    rates: tuple[float, ...]
    limit: int
    batch_size: int
    contrastive_weight: float
    start_scale: float
    modality_dropout: float
    strain: float
    strain_levels: int
    draws: int
    fwhm_range: tuple[float, float]
    model: Mapping[str, object]

    @classmethod
    def from_parameters(cls, p: Mapping[str, object]) -> GridSettings:
        """Settings as the parameters of chapter 05 give them."""
        structure = {
            "hidden": p["hidden"],
            "blocks": p["blocks"],
            "int_emb": p["hidden"] // 2,
            "out_emb": p["hidden"],
            "translations": p["translations"],
        }
        shape = {
            **{k: p[k] for k in ("dim", "projection_dim", "fwhm", "cutoff", "max_neighbors")},
            "grid": [p["two_theta_min"], p["two_theta_max"], p["num_points"]],
            "structure": structure,
            "xrd": {name: p[name] for name in ("width", "depths", "position_channels")},
            "composition": {"hidden": p["mlp_hidden"]},
        }
        own = ("dataset", "batch_size", "strain")
        grid = ("epochs", "limit", "contrastive_weight", "strain_levels", "draws")
        return cls(
            **{name: p[name] for name in own},
            **{name: p[f"{name}_grid"] for name in grid},
            seeds=tuple(p["seeds_grid"]),
            rates=tuple(p["rates_grid"]),
            epochs_tuning=p["epochs_grid_tuning"],
            epochs_structure=p["epochs_grid_structure"],
            start_scale=p["start_scale_three"],
            modality_dropout=p["modality_dropout_ours"],
            fwhm_range=tuple(p["fwhm_range"]),
            model=json.loads(json.dumps(shape)),
        )

    @property
    def key(self) -> str:
        """The settings as JSON, without the seeds, which decide no single training."""
        values = asdict(self)
        values.pop("seeds")
        return json.dumps(values, sort_keys=True)

    @property
    def grid(self) -> Grid:
        """Where patterns are drawn."""
        return Grid(*self.model["grid"])


@dataclass(frozen=True)
class Job:
    """One training: what it is for (``purpose``), its cell and its seed.

    The purposes are ``structure`` (the encoder that all are aligned with), ``tuning`` (of learning
    rate number ``rate``), ``final``, and ``longer`` (as ``final``, with twice the epochs, to see
    whether these had converged).
    """

    purpose: str
    kind: str = "clean"
    fusion: str = ""
    order: str = ""
    seed: int = 0
    rate: int = 0

    @property
    def name(self) -> str:
        """Name of its files."""
        if self.purpose == "structure":
            return self.purpose
        trial = f"rate{self.rate}" if self.purpose == "tuning" else f"seed{self.seed}"
        return "-".join((self.purpose, self.kind, self.fusion, self.order, trial))

    @property
    def needs_structure(self) -> bool:
        """Whether embeddings of structures take part."""
        return self.purpose != "structure" and self.order != "none"

    def trials(self, settings: GridSettings) -> list[Job]:
        """The trainings that choose its learning rate; none where there is no choice."""
        if self.purpose not in ("final", "longer") or len(settings.rates) == 1:
            return []
        cell = self.kind, self.fusion, self.order
        return [Job("tuning", *cell, TUNING_SEED, n) for n in range(len(settings.rates))]


CHECKED = (("concat", "none"), ("concat", "simultaneous"), ("early", "none"))
"""Cells that are trained once more with twice the epochs."""


def all_jobs(settings: GridSettings) -> list[Job]:
    """The trainings in the order in which they should be done, so that a stop hurts least.

    Trials first (those that need no structure before the others, because the structure encoder is
    trained at the same time), then seed by seed all cells of both kinds of patterns, the last seeds
    of the laboratory at the end.
    """
    orders = sorted(ORDERS, key=lambda order: order != "none")
    cells = [(kind, f, o) for o in orders for kind in KINDS for f in FUSIONS]
    jobs = [Job("structure")]
    for rate in range(len(settings.rates)) if len(settings.rates) > 1 else ():
        jobs += [Job("tuning", *cell, TUNING_SEED, rate) for cell in cells]
    jobs.sort(key=lambda job: job.needs_structure)  # stable
    few, more = settings.seeds[:_FEW], settings.seeds[_FEW:]
    for seed in few:
        jobs += [Job("final", *cell, seed) for cell in cells]
    for kind in KINDS:
        jobs += [Job("final", *c, seed) for seed in more for c in cells if c[0] == kind]
        if kind == "clean":
            jobs += [Job("longer", k, *c, settings.seeds[0]) for k in KINDS for c in CHECKED]
    return jobs


def cell_names() -> Iterator[tuple[str, str]]:
    """Fusion and order of the 20 cells, row by row."""
    return ((fusion, order) for fusion in FUSIONS for order in ORDERS)


def chosen_rate(losses: Sequence[float | None], settings: GridSettings) -> float:
    """The learning rate with the smallest validation loss; ``None`` for a trial that failed.

    Raises:
        ValueError: All trials failed.
    """
    if len(settings.rates) == 1:
        return settings.rates[0]
    pairs = zip(losses, settings.rates, strict=True)
    if not (known := [(loss, rate) for loss, rate in pairs if loss is not None]):
        raise ValueError("all trials of the learning rate failed: see their error files")
    return min(known)[1]

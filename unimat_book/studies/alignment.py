"""What alignment with patterns buys a structure encoder: ways to train it in, errors out.

The encoder reads a structure and predicts its cell and crystal system; patterns take part in
training alone. All variants of a seed start from the same weights. See :data:`VARIANTS`.

Wherever cell and system are trained, no epoch is chosen: what is asked are the averaged weights
after the last one. A choice would favour some: the validation loss of pairs grows while shuffled
ones are learned, and the system head overfits first, which ended training at equal compute half
way. Contrastive training keeps the weights of its smallest contrastive validation loss.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_book.chapters.alignment import linear_probe
from unimat_book.grid.cells import GridSettings
from unimat_book.grid.structure import model_shape
from unimat_book.grid.train import SYSTEM_WEIGHT, limited_rows
from unimat_book.grid.views import plain_views
from unimat_book.studies.models import answers, histories, outcome_of
from unimat_book.studies.trials import Outcome, Place, Trial
from unimat_lib.alignment import retrieval_ranks
from unimat_lib.evaluation.metrics import PER_CRYSTAL
from unimat_lib.evaluation.predict import embed
from unimat_lib.identity import short_hash
from unimat_lib.model import UniMat, UniMatConfig, UniMatOutput
from unimat_lib.training.config import FitConfig
from unimat_lib.training.fit import fit
from unimat_lib.views.batch import Batch, CrystalViews
from unimat_lib.views.effects import Measurement

VARIANTS: Mapping[str, str] = {
    "alone": "alone",
    "equal_compute": "alone, equal compute",
    "joint": "joint",
    "shuffled": "joint, shuffled pairs",
    "finetuned": "contrastive, then fine-tuned",
    "probe": "contrastive, frozen, linear probe",
    "untrained": "untrained, linear probe",
}
"""Ways to train the encoder, and how they are called in tables."""

WITHOUT_LATTICE = "_no_lattice"
"""Ending of variants whose encoder is not given the lattice translations, as that of the paper."""

_TRAINED = ("alone", "equal_compute", "joint", "shuffled", "finetuned")
_FROZEN = ("probe", "untrained")  # what these say a linear probe reads from the encoder
_ALIGNED = ("joint", "shuffled", "probe")

COST_OF_JOINT = 1.8
"""Wall time of a joint epoch over one of the structure alone: 1.38 s / 0.77 s in chapter 04."""

CONTRASTIVE_SHARE = 0.375
"""Epochs that are contrastive only before fine-tuning, over those of it: 6 / 16 in chapter 04."""

NUM_PROBE = 8000
"""Training crystals that a linear probe is fitted to, as in chapter 04."""

_NAMES = ("structure", "xrd")
_METRICS = ("scaled_length_mae", "length_mae", "angle_mae", "crystal_system_accuracy")


def trials(settings: GridSettings) -> list[Trial]:
    """All variants with each seed, seed by seed; encoders without the lattice come last."""
    bare = [name + WITHOUT_LATTICE for name in _TRAINED]
    return [
        Trial("alignment", name, seed)
        for names in (VARIANTS, bare)
        for seed in settings.seeds
        for name in names
    ]


class Shared:
    """What the trainings of one process share; each part is made when it is first asked for."""

    def __init__(self, place: Place) -> None:
        self.place, self.table = place, place.table
        self.rows = limited_rows(place.table, place.settings)

    @functools.cached_property
    def views(self) -> CrystalViews:
        """Structures and patterns on the device."""
        place = self.place
        return plain_views(place.table, place.settings, device=place.device, modalities=_NAMES)

    @functools.cached_property
    def probed(self) -> Tensor:
        """Training crystals that linear probes are fitted to, int64."""
        train = self.rows[0]
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        return train[order[:NUM_PROBE]]


def train(trial: Trial, shared: Shared, *, run_dir: Path) -> list[Outcome]:
    """Train the encoder in one way and ask about the test crystals.

    The outcome has the errors of what the variant says (heads, or a linear probe where the encoder
    is frozen); those that begin with ``probe_`` are a linear probe's of any variant; and, where its
    patterns are aligned, how often a pattern finds its own structure among the test crystals. Its
    history is that of contrastive training, the only one whose epochs are compared; ``best_epoch``,
    from 0, is the one whose weights the last training left.

    Raises:
        RuntimeError: The weights kept are not those of the last epoch where they should be.
    """
    variant, _, _ = trial.variant.partition(WITHOUT_LATTICE)
    lattice = not trial.variant.endswith(WITHOUT_LATTICE)
    views, (known, val, test) = shared.views, shared.rows
    model = make_model(shared.place.settings, seed=trial.seed, lattice=lattice)
    model.fit_scalers(views, known)
    model.to(views.device)
    seen = shuffled(views, known, seed=trial.seed) if variant == "shuffled" else views
    fits, compared = [], []
    for config in stages(variant, shared.place.settings, seed=trial.seed, crystals=len(known)):
        model.judged = not config.cell_weight
        one = fit(model, seen, train=known, val=val, config=config, run_dir=run_dir)
        if not model.judged and one.best_epoch != config.epochs - 1:
            came = f"expected the weights of epoch {config.epochs - 1}, got {one.best_epoch}"
            raise RuntimeError(f"{came}: validation losses of equal answers differ on this device")
        fits.append(one)
        compared += [one] if model.judged else []
    model.judged = True
    values = read_off(model, shared, frozen=variant in _FROZEN)
    if variant in _ALIGNED:
        points = {name: x.to(views.device) for name, x in embed(model, views, test).items()}
        ranks = retrieval_ranks(points["xrd"], points["structure"]).cpu().numpy()
        values |= {f"recall_at_{k}": np.float32(100) * (ranks <= k) for k in (1, 10)}
    found = outcome_of(trial, values, shared.table, test, domain="test", fits=fits)
    chosen = {"best_epoch": float(fits[-1].best_epoch)} if fits else {}
    scores, history = {**found.scores, **chosen}, histories(compared)
    return [dataclasses.replace(found, scores=scores, history=history)]


class LastEpoch(UniMat):
    """A model that leaves :func:`.fit` nothing to choose an epoch by, unless it is judged.

    Attributes:
        judged: Whether it answers in evaluation mode. Else all answers are zero, so that every
            epoch has the same validation loss; of equal ones the last is kept.
    """

    judged = True

    def forward(self, views, mask=None) -> UniMatOutput:
        """As that of the parent; see the class."""
        output = super().forward(views, mask)
        if self.training or self.judged:
            return output
        # Times zero: what is not finite stays so, and stops the training.
        nothing = {name: 0 * x for name, x in output.projections.items()}
        zeros = 0 * output.cell, 0 * output.system_log_probs
        return UniMatOutput(output.embeddings, nothing, *zeros)


def make_model(settings: GridSettings, *, seed: int, lattice: bool) -> LastEpoch:
    """The untrained model: a structure encoder with heads, and a pattern encoder beside it."""
    shape = model_shape(settings)
    if not lattice:
        known = {k: v for k, v in settings.model["structure"].items() if k != "translations"}
        shape["structure"] = known
    torch.manual_seed(seed)
    return LastEpoch(UniMatConfig(modalities=_NAMES, inputs=_NAMES[:1], **shape))


def stages(variant: str, settings: GridSettings, *, seed: int, crystals: int) -> list[FitConfig]:
    """What is trained one after the other.

    Supervised training sees crystals as they are, contrastive training strained ones (structure and
    pattern alike), as in chapter 04.
    """
    base = FitConfig(
        epochs=settings.epochs,
        batch_size=min(settings.batch_size, crystals),
        system_weight=SYSTEM_WEIGHT,
        seed=seed,
    )
    fwhm = settings.model["fwhm"]
    contrastive = dataclasses.replace(
        base,
        cell_weight=0.0,
        system_weight=0.0,
        contrastive_weight=1.0,
        measurement=Measurement(fwhm=(fwhm, fwhm), strain=settings.strain),
    )
    if variant == "untrained":
        return []
    if variant == "probe":
        return [contrastive]
    if variant == "finetuned":
        first = max(1, round(CONTRASTIVE_SHARE * settings.epochs))
        return [dataclasses.replace(contrastive, epochs=first), base]
    if variant == "equal_compute":
        return [dataclasses.replace(base, epochs=round(COST_OF_JOINT * settings.epochs))]
    if variant in ("joint", "shuffled"):
        return [dataclasses.replace(base, contrastive_weight=settings.contrastive_weight)]
    if variant == "alone":
        return [base]
    raise ValueError(f"expected a variant of {list(VARIANTS)}, got {variant!r}")


@dataclasses.dataclass(frozen=True)
class ShuffledViews(CrystalViews):
    """Views whose patterns are those of other crystals. Build it with :func:`shuffled`.

    Attributes:
        partner: Whose pattern each crystal shows, int64 ``[C]``.
    """

    partner: Tensor | None = None

    @functools.cached_property
    def content_hash(self) -> str:
        """Of everything that batches are made of."""
        partners = self.partner.cpu().numpy().tobytes()
        return short_hash(super().content_hash + hashlib.sha256(partners).hexdigest())

    def batch(self, index: Tensor, *, modalities: tuple[str, ...], **drawn) -> Batch:
        """As :meth:`.CrystalViews.batch`; structures and targets are the crystals' own."""
        own = tuple(name for name in modalities if name != "xrd")
        batch = super().batch(index, modalities=own, **drawn)
        if "xrd" not in modalities:
            return batch
        other = super().batch(self.partner[index], modalities=("xrd",), **drawn)
        return Batch(views=batch.views | other.views, targets=batch.targets)


def shuffled(views: CrystalViews, rows: Tensor, *, seed: int) -> ShuffledViews:
    """Views in which each of the crystals ``rows`` shows the pattern of another one of them."""
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    partner = torch.arange(len(views))
    partner[order] = order.roll(1)  # one cycle, so that none keeps its own
    known = {f.name: getattr(views, f.name) for f in dataclasses.fields(CrystalViews)}
    return ShuffledViews(**known, partner=partner.to(views.device))


def read_off(model: UniMat, shared: Shared, *, frozen: bool) -> dict[str, np.ndarray]:
    """Errors and hits of a model on the test crystals by metric, float32 ``[n]``."""
    test = shared.rows[2]
    how = {"train": shared.probed, "test": test, "modality": "structure"}
    probed = errors_of(linear_probe(model, shared.views, shared.table, **how))
    values = probed if frozen else answers(model, shared.views, test, given=_NAMES[:1])
    shown = [name for name in _METRICS if name != "angle_mae"]
    return dict(values) | {f"probe_{name}": probed[name] for name in shown}


def errors_of(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """What an errors frame says of each crystal, by the metrics of :func:`.answers`."""
    return {name: PER_CRYSTAL[name](frame).to_numpy(np.float32) for name in _METRICS}

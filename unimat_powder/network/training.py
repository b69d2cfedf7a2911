"""Crystals to measure in, a trained reader and how it came on out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unimat_lib.training.checkpoint import load_tensors, save_tensors
from unimat_powder.network.composition import blurred, composition_features
from unimat_powder.network.losses import loss_of
from unimat_powder.network.reader import Reader
from unimat_powder.network.samples import Targets, TrainingCrystals, drawn_odds, measured_batch
from unimat_powder.network.views import Views, views_of

_KNOWN = (0.4, 0.3, 0.3)  # odds that nothing, the elements, the formula are known


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a run.

    Attributes:
        steps: All in all; the learning rate falls to zero over them.
        batch_size: Patterns a step.
        lr: Highest learning rate of AdamW.
        weight_decay: Of matrices.
        warmup: Steps in which the learning rate rises.
        ema: Decay of the average of the weights, which is what is kept.
        made_up: Share of made-up crystals.
        seed: Of everything random.
    """

    steps: int
    batch_size: int = 512
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 400
    ema: float = 0.999
    made_up: float = 0.25
    seed: int = 0


class Run:
    """A training between two steps: network, average, optimizer, and where the dice stand."""

    def __init__(
        self, model: Reader, config: TrainingConfig, *, device: torch.device | str
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, torch.device(device)
        self.model = model.to(device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        matrices = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.step = 0

    def save(self, path: Path) -> None:
        """Keep everything that :meth:`load` needs to go on."""
        tensors = {f"model.{k}": x for k, x in self.model.state_dict().items()}
        tensors |= {f"average.{k}": x for k, x in self.average.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": x for name, x in moments.items()}
        tensors["dice.own"] = self.generator.get_state()
        tensors["dice.dropout"] = _dice(self.device)
        state = {"step": self.step, "config": asdict(self.config), "model": self.model.settings}
        save_tensors(path, tensors, state)

    def load(self, path: Path) -> None:
        """Go on from where :meth:`save` was called.

        Raises:
            ValueError: The file is damaged, or of a run with other settings.
        """
        tensors, state = load_tensors(path)
        mine = {"config": asdict(self.config), "model": self.model.settings}
        if (theirs := {name: state.get(name) for name in mine}) != mine:
            raise ValueError(f"{path} is of another run: expected {mine}, but found {theirs}")
        self.model.load_state_dict(_part(tensors, "model."))
        self.average.load_state_dict(_part(tensors, "average."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, x in _part(tensors, "optimizer.").items():
            number, key = name.split(".")
            moments.setdefault(int(number), {})[key] = x
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.generator.set_state(tensors["dice.own"])
        _set_dice(self.device, tensors["dice.dropout"])
        self.step = state["step"]


def train(
    run: Run,
    crystals: TrainingCrystals,
    *,
    until: int,
    on_step: Callable[[Tensor], None] | None = None,
    forward: nn.Module | None = None,
) -> None:
    """Go on with a run up to a step.

    Args:
        run: Where it stands; changed in place.
        crystals: What is measured.
        until: Step to stop at, at most ``config.steps``.
        on_step: Called after each step with its loss (a tensor on the device).
        forward: ``run.model``, compiled.
    """
    config = run.config
    odds = crystal_odds(crystals, made_up=config.made_up)
    forward = run.model if forward is None else forward
    run.model.train()
    last = min(until, config.steps)
    batches = _ahead(lambda: _batch(run, crystals, odds), last - run.step, run.device)
    for batch in batches:
        for group in run.optimizer.param_groups:
            group["lr"] = config.lr * rate_at(run.step, config)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda"):
            readout = forward(batch.views, batch.composition)
        loss = loss_of(readout, batch.targets)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimizer.step()
        run.step += 1
        _follow(run)
        if on_step is not None:
            on_step(loss.detach())


def crystal_odds(crystals: TrainingCrystals, *, made_up: float) -> Tensor:
    """How often each crystal is drawn, ``[C]``: made-up ones alike, others by space group."""
    odds = torch.zeros(len(crystals), device=crystals.made_up.device)
    for mark, share in ((False, 1 - made_up), (True, made_up)):
        rows = (crystals.made_up == mark).nonzero()[:, 0]
        if len(rows):
            odds[rows] = share * drawn_odds(crystals.space_group[rows])
    return odds / odds.sum()


def rate_at(step: int, config: TrainingConfig) -> float:
    """Learning rate over the highest: a linear rise, then a cosine to zero."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    part = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * part))


class _Batch(NamedTuple):
    views: Views
    composition: Tensor
    targets: Targets


def _batch(run: Run, crystals: TrainingCrystals, odds: Tensor) -> _Batch:
    """Crystals drawn, measured and prepared."""
    size, generator = run.config.batch_size, run.generator
    index = torch.multinomial(odds, size, replacement=True, generator=generator)
    counts, mask, targets = measured_batch(crystals, index, generator=generator)
    views = views_of(counts, mask)
    fractions = blurred(crystals.fractions[index].float(), generator)
    known = torch.tensor(_KNOWN, device=run.device)
    known = torch.multinomial(known, size, replacement=True, generator=generator)
    composition = composition_features(fractions, known, crystals.made_up[index])
    return _Batch(views, composition, targets)


def _ahead(make: Callable[[], _Batch], number: int, device: torch.device) -> Iterator[_Batch]:
    """So many batches, on a GPU each made on a stream of its own while the one before is used.

    Making a batch waits for the GPU now and then; on its own stream it does not wait for the
    training step before it.
    """
    if device.type != "cuda":
        for _ in range(number):
            yield make()
        return
    aside, here = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    aside.wait_stream(here)
    batch = None
    for i in range(number + 1):
        given = batch
        if given is not None:
            here.wait_stream(aside)
            for x in (*given.views, given.composition, *given.targets):
                x.record_stream(here)
            yield given  # what is done with it is queued now, and goes on while
        if i < number:
            with torch.cuda.stream(aside):
                batch = make()


@torch.no_grad()
def _follow(run: Run) -> None:
    """The average of the weights, over few steps in the beginning."""
    keep = min(run.config.ema, (1 + run.step) / (10 + run.step))
    averages, weights = list(run.average.parameters()), list(run.model.parameters())
    torch._foreach_lerp_(averages, weights, 1 - keep)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}


def _dice(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_dice(device: torch.device, state: Tensor) -> None:
    (torch.cuda.set_rng_state if device.type == "cuda" else torch.set_rng_state)(state)

"""The network: what it gives, how it is trained, kept and used."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.grid import WAVELENGTHS
from unimat_powder.network.composition import (
    COMPOSITION_FEATURES,
    FORMULA,
    NOTHING,
    ONLY_ELEMENTS,
    blurred,
    composition_features,
    fractions_of,
    parsed_composition,
)
from unimat_powder.network.groups import group_tables
from unimat_powder.network.losses import loss_of
from unimat_powder.network.predict import load_reader, read_pattern, save_reader
from unimat_powder.network.reader import Reader
from unimat_powder.network.samples import (
    TrainingCrystals,
    drawn_odds,
    joined,
    measured_batch,
    mixed_instruments,
    targets_of,
    training_crystals,
)
from unimat_powder.network.scores import read_all, scores
from unimat_powder.network.training import Run, TrainingConfig, crystal_odds, rate_at, train
from unimat_powder.network.views import Views, views_of
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.simulation.ranges import RRUFF

SMALL = {"width": 64, "depth": 1}


@pytest.fixture(scope="module")
def crystals(prototype_table: CrystalTable) -> TrainingCrystals:
    some = training_crystals(prototype_table.select(torch.arange(24)), made_up=False, device="cpu")
    others = training_crystals(
        prototype_table.select(torch.arange(24, 32)), made_up=True, device="cpu"
    )
    return joined([some, others])


@pytest.fixture(scope="module")
def batch(crystals: TrainingCrystals) -> tuple:
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(8)
    counts, mask, targets = measured_batch(crystals, index, generator=generator)
    known = torch.tensor([NOTHING, ONLY_ELEMENTS, FORMULA, NOTHING] * 2)
    features = composition_features(crystals.fractions[index].float(), known)
    return views_of(counts, mask), features, targets


@pytest.mark.parametrize("inputs", ["curve", "peaks", "both"])
def test_every_parameter_learns(inputs: str, batch: tuple) -> None:
    views, features, targets = batch
    torch.manual_seed(0)
    model = Reader(inputs=inputs, **SMALL)
    loss_of(model(views, features), targets).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_an_unknown_kind_of_input_is_refused() -> None:
    with pytest.raises(ValueError, match="'curve', 'peaks' or 'both'"):
        Reader(inputs="sound")


@pytest.mark.parametrize("inputs", ["curve", "peaks", "both"])
def test_what_is_read_does_not_depend_on_the_other_patterns_of_a_batch(
    inputs: str, batch: tuple
) -> None:
    views, features, _ = batch
    model = Reader(inputs=inputs, **SMALL).eval()
    with torch.no_grad():
        together = model(views, features)
        alone = model(Views(*(x[3:4] for x in views)), features[3:4])
    for one, other in zip(together, alone, strict=True):
        assert (one[3] - other[0]).abs().max() < 1e-4


def test_training_overfits_a_few_patterns_and_says_so(batch: tuple) -> None:
    views, features, targets = batch
    torch.manual_seed(0)
    model = Reader(inputs="peaks", width=64, depth=1, dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(model(views, features), targets).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = scores(model(views, features), targets)
    assert found["system"] == 1.0
    assert found["group"] == 1.0
    assert found["length"] < 0.1


def test_interrupted_training_ends_at_the_same_weights(
    tmp_path: Path, crystals: TrainingCrystals
) -> None:
    config = TrainingConfig(4, batch_size=4, warmup=2)

    def fresh() -> Run:
        torch.manual_seed(0)
        return Run(Reader(inputs="peaks", **SMALL), config, device="cpu")

    whole = fresh()
    train(whole, crystals, until=4)
    part = fresh()
    train(part, crystals, until=2)
    part.save(tmp_path / "last.safetensors")
    torch.manual_seed(99)
    again = fresh()
    again.load(tmp_path / "last.safetensors")
    assert again.step == 2
    train(again, crystals, until=4)
    for name in ("model", "average"):
        one, other = (getattr(run, name).state_dict() for run in (whole, again))
        assert all(torch.equal(one[key], other[key]) for key in one)
    stranger = Run(Reader(inputs="peaks", **SMALL), replace(config, seed=1), device="cpu")
    with pytest.raises(ValueError, match="another run"):
        stranger.load(tmp_path / "last.safetensors")


def test_the_rate_rises_and_falls() -> None:
    config = TrainingConfig(100, warmup=10)
    rates = [rate_at(step, config) for step in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


def test_rare_groups_are_drawn_more_often_than_they_are() -> None:
    group = torch.tensor([225] * 81 + [1])
    odds = drawn_odds(group, power=0.5)
    assert odds[-1].item() == pytest.approx(0.1)
    assert odds.sum().item() == pytest.approx(1.0)


def test_made_up_crystals_have_their_share(crystals: TrainingCrystals) -> None:
    odds = crystal_odds(crystals, made_up=0.25)
    assert odds[crystals.made_up].sum().item() == pytest.approx(0.25)


def test_targets_are_those_of_the_strained_cell(crystals: TrainingCrystals) -> None:
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(6)
    drawn = mixed_instruments([(RRUFF, 1.0)], 6, generator=generator, device="cpu")
    still = replace(drawn, isotropic=0 * drawn.isotropic, strain=0 * drawn.strain)
    longer = replace(still, isotropic=still.isotropic + 0.01)
    plain, strained = (targets_of(crystals, index, x) for x in (still, longer))
    change = (strained.cell - plain.cell)[:, :3]
    assert torch.allclose(change, torch.full_like(change, math.log(1.01)), atol=1e-5)
    assert torch.allclose(strained.cell[:, 3:], plain.cell[:, 3:], atol=1e-5)
    scalars = strained.scalars - plain.scalars
    expected = torch.tensor([3.0, -3.0, -3.0]) * math.log(1.01)
    assert torch.allclose(scalars, expected.expand(6, 3), atol=1e-5)


def test_instruments_of_several_habits_are_one_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = mixed_instruments([(RRUFF, 0.5), (RRUFF, 0.5)], 20, generator=generator, device="cpu")
    assert len(drawn) == 20
    assert torch.equal(drawn.pattern[:20], torch.arange(20))
    assert torch.equal(drawn.crystal[:20], torch.arange(20))
    assert len(drawn.pattern) == len(drawn.share) == len(drawn.strain)
    assert bool((drawn.share[:20] == 1).all()) and bool((drawn.share[20:] < 1).all())
    assert bool((drawn.crystal[20:] != drawn.pattern[20:]).all())


# ---- composition --------------------------------------------------------------------------------


def test_composition_says_no_more_than_is_known(prototype_table: CrystalTable) -> None:
    fractions = fractions_of(prototype_table)[:3]
    nothing, elements, formula = (
        composition_features(fractions, torch.full((3,), known)) for known in range(3)
    )
    assert nothing.shape == (3, COMPOSITION_FEATURES)
    assert bool((nothing == nothing[:1]).all())
    assert bool((elements[:, 100:200] == 0).all())
    assert torch.equal(formula[:, 100:200], fractions)


def test_blurred_fractions_stay_fractions(prototype_table: CrystalTable) -> None:
    fractions = fractions_of(prototype_table)
    changed = blurred(fractions, torch.Generator().manual_seed(0))
    assert torch.allclose(changed.sum(1), torch.ones(len(changed)), atol=1e-5)
    assert bool((changed >= 0).all())
    assert (changed - fractions).abs().amax(1).median() < 0.05


def test_what_users_say_of_elements_is_read() -> None:
    formula, known = parsed_composition(None, "TiO2")
    assert known == FORMULA
    assert formula[0, 8].item() == pytest.approx(2 / 3)
    elements, known = parsed_composition(["Ti", "O"], None)
    assert known == ONLY_ELEMENTS
    assert torch.equal(elements[0].nonzero()[:, 0], torch.tensor([8, 22]))
    assert parsed_composition(None, None)[1] == NOTHING


@pytest.mark.parametrize(
    ("elements", "formula"), [(["Xx"], None), (None, "rust"), (None, ""), (["Fe"], "FeO")]
)
def test_what_is_no_composition_is_refused(elements: list[str] | None, formula: str | None) -> None:
    with pytest.raises(PatternError, match="expected"):
        parsed_composition(elements, formula)


# ---- files and patterns -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    save_reader(Reader(**SMALL).eval(), path, record={"step": 7})
    return path


def test_a_saved_reader_reads_the_same(saved: Path, batch: tuple) -> None:
    torch.manual_seed(0)
    model, loaded = Reader(**SMALL).eval(), load_reader(saved)
    views, features, _ = batch
    with torch.no_grad():
        one, other = (m(views, features).groups.softmax(1) for m in (model, loaded))
    assert (one - other).abs().max() < 2e-3  # half precision
    assert '"step": 7' in saved.with_suffix(".json").read_text()


def test_foreign_and_damaged_files_are_refused(tmp_path: Path, saved: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    damaged = tmp_path / "damaged.safetensors"
    data = bytearray(saved.read_bytes())
    data[-5] ^= 1
    damaged.write_bytes(data)
    for path in (foreign, damaged, tmp_path / "absent.safetensors"):
        with pytest.raises(ValueError, match=path.name):
            load_reader(path)


def test_a_training_checkpoint_is_no_reader(tmp_path: Path, crystals: TrainingCrystals) -> None:
    run = Run(Reader(inputs="peaks", **SMALL), TrainingConfig(1, 4), device="cpu")
    run.save(tmp_path / "last.safetensors")
    with pytest.raises(ValueError, match="reader of powder patterns"):
        load_reader(tmp_path / "last.safetensors")


@pytest.mark.parametrize("tube", ["CuKa", "MoKa", "CoKa"])
def test_patterns_of_any_tube_are_read(tube: str, saved: Path) -> None:
    wavelength = WAVELENGTHS[tube]
    two_theta = torch.arange(7.0, 55.0, 0.017, dtype=torch.float64)
    y = torch.full_like(two_theta, 20.0)
    for d in (4.0, 2.9, 2.3, 1.9):
        centre = 2 * math.degrees(math.asin(wavelength / (2 * d)))
        y += 900 * torch.exp(-((two_theta - centre) / 0.06).square())
    reading = read_pattern(load_reader(saved), Pattern(two_theta, y, wavelength=wavelength))
    assert reading.system.shape == (7,)
    assert reading.group.shape == (230,)
    assert reading.system.sum() == pytest.approx(1.0)
    tables = group_tables(torch.device("cpu"))
    assert np.allclose(reading.group @ tables.in_system.numpy(), reading.system)
    odds = [cell.probability for cell in reading.cells]
    assert odds == sorted(odds, reverse=True)
    assert sum(odds) == pytest.approx(1.0)
    assert reading.volume > 0 and reading.volume_error > 0


def test_an_empty_pattern_is_refused_in_words(saved: Path) -> None:
    two_theta = torch.arange(10.0, 60.0, 0.02, dtype=torch.float64)
    flat = Pattern(two_theta, torch.ones_like(two_theta))
    with pytest.raises(PatternError, match="nothing rises above the background"):
        read_pattern(load_reader(saved), flat)


def test_many_patterns_are_read_in_batches(batch: tuple, crystals: TrainingCrystals) -> None:
    views, _, _ = batch
    model = Reader(inputs="peaks", **SMALL)
    fractions = crystals.fractions[:8].float()
    one, three = (read_all(model, views, fractions, FORMULA, batch_size=n) for n in (8, 3))
    assert (one.groups - three.groups).abs().max() < 1e-4

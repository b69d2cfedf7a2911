"""Training on shards that pass by: from files, made up, varied; in bounded memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from small import make_model

from unimat_book import stream
from unimat_lib.crystals.parquet import load_table
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.training.config import FitConfig
from unimat_lib.views.effects import Measurement

ABUNDANCE = np.zeros(119)
ABUNDANCE[[3, 8, 9, 12, 14, 22, 26]] = 1


@pytest.fixture(scope="module")
def table(prototype_table) -> CrystalTable:
    return prototype_table.select(np.random.default_rng(0).permutation(len(prototype_table))[:96])


@pytest.fixture(scope="module")
def files(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    stream.write_shards((table.select(np.arange(i, i + 24)) for i in (0, 24, 48)), folder)
    return stream.shards_of(folder)


def test_every_pass_reads_every_shard_once_in_another_order(files, table):
    shard = stream.from_files(files, seed=3)
    names = [tuple(shard(number).info["material_id"]) for number in range(12)]
    expected = {tuple(table.info["material_id"][i : i + 24]) for i in (0, 24, 48)}
    passes = [names[i : i + 3] for i in range(0, 12, 3)]
    assert all(set(one) == expected for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    assert names == [tuple(shard(number).info["material_id"]) for number in range(12)]


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="write_shards"):
        stream.shards_of(tmp_path)


def test_one_shard_is_got_while_another_is_used_and_no_more(table):
    asked = []

    def shard(number):
        assert threading.current_thread() is not threading.main_thread()
        asked.append(number)
        return table

    coming = stream.ahead(shard, 4)
    next(coming), next(coming)
    assert asked[:2] == [0, 1] and len(asked) <= 3
    assert len(list(coming)) == 2 and asked == [0, 1, 2, 3]


def test_an_error_in_the_thread_is_raised_here():
    with pytest.raises(FileNotFoundError):
        list(stream.ahead(lambda number: load_table(f"no such {number}"), 2))


def test_training_on_shards_lowers_the_loss_and_gives_equal_bits(files, table):
    def trained():
        model = make_model(("xrd",))
        effects = Measurement(fwhm=(0.8, 1.2), strain=0.01)
        config = FitConfig(epochs=9, batch_size=8, lr=3e-3, measurement=effects)
        shard, val = stream.from_files(files, seed=0), table.select(np.arange(72, 96))
        history = stream.train_on_stream(model, shard, val=val, config=config, device="cpu")
        return history, model

    history, model = trained()
    assert len(history) == 9 and (history["crystals"] == 24).all()
    assert history["loss"][6:].mean() < history["loss"][:3].mean()
    assert np.isfinite(history["val_loss"].iloc[-1])
    assert history["val_loss"].iloc[:-1].isna().all()
    assert (history[["seconds", "seconds_views", "host_gib"]] > 0).all().all()
    _, again = trained()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_shard_smaller_than_a_batch_is_refused(files, table):
    config = FitConfig(epochs=1, batch_size=25)
    shard = stream.from_files(files, seed=0)
    with pytest.raises(ValueError, match="a batch of 25 expected, shard 0 has 24"):
        stream.train_on_stream(make_model(("xrd",)), shard, val=table, config=config, device="cpu")


def test_made_up_shards_differ_and_repeat():
    shard = stream.made_up(40, abundance=ABUNDANCE, seed=1, workers=1)
    first, second, again = shard(0), shard(1), shard(0)
    assert 20 < len(first) <= 40
    assert first.content_hash() == again.content_hash() != second.content_hash()


def test_varied_crystals_keep_positions_and_symmetry_and_change_the_rest(table):
    shard = stream.varied(table, seed=0)
    one, other = shard(0), shard(1)
    assert torch.equal(one.frac_coords, table.frac_coords)
    assert torch.equal(one.space_group, table.space_group)
    assert torch.allclose(one.angles, table.angles)
    assert not torch.equal(one.atomic_numbers, other.atomic_numbers)
    ratio = one.lengths / table.lengths
    assert torch.allclose(ratio, ratio[:, :1].expand(-1, 3))  # no other shape
    assert float(ratio.min()) > 0.1 and float(ratio.max()) < 10  # hydrogen and caesium: 8
    for crystal in range(len(table)):  # as many elements as before, each in the same places
        pairs = zip(
            table.select([crystal]).atomic_numbers.tolist(),
            one.select([crystal]).atomic_numbers.tolist(),
            strict=True,
        )
        pairs = set(pairs)
        assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs})

"""Several processes train as one does; one that dies ends all; a run goes on with any number."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import scaling_worker as worker
import torch

from unimat_book.scaling.fit import fit_together
from unimat_book.scaling.group import _TIMEOUT, Group, open_group
from unimat_book.scaling.handover import hand_over, taken
from unimat_book.scaling.launch import fit_on, run_together
from unimat_book.scaling.loop import SharedLoop, epoch_order
from unimat_book.scaling.shared import sharing
from unimat_book.several_gpus import read_points
from unimat_lib.crystals.parquet import save_table
from unimat_lib.training.captured_step import tensors_in
from unimat_lib.training.fit import fit
from unimat_lib.views.effects import Measurement

ROOT = Path(__file__).parents[2]
ALONE = Group(torch.device("cpu"))
needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two CUDA devices")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, prototype_table):
    path = tmp_path_factory.mktemp("scaling")
    save_table(prototype_table.select(torch.arange(44)), path / "table.parquet")
    return path


@pytest.fixture(scope="module")
def views(folder):
    return worker.make_views(folder)


def run_worker(folder, device, names=()):
    """Both train, then the second is killed; what is said of it, and the seconds until then."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(Path(worker.__file__)), str(folder), device, *names]
    with pytest.raises(RuntimeError) as error:
        run_together(words, processes=2, environment={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    return str(error.value), time.time() - (folder / "killed").stat().st_mtime


@pytest.fixture(scope="module")
def end(folder):
    return run_worker(folder, "cpu", worker.SETTINGS)


@pytest.fixture(scope="module")
def of_two(folder, end):
    return torch.load(folder / "equal.pt", weights_only=False)


@pytest.mark.parametrize("name", worker.SETTINGS)
def test_two_processes_reach_what_one_does(of_two, views, tmp_path, name):
    result, model = worker.train(name, views, tmp_path, ALONE)
    found = of_two[name]
    for column in set(result.history) - {"seconds", "seconds_val"}:
        expected = torch.tensor(result.history[column].tolist(), dtype=torch.float64)
        came = torch.tensor(found["history"][column], dtype=torch.float64)
        torch.testing.assert_close(came, expected, msg=lambda m, c=column: f"{c}: {m}", **CLOSE)
    torch.testing.assert_close(found["weights"], worker.weights(model), **CLOSE)


def test_processes_with_different_weights_or_an_odd_batch_are_refused(of_two):
    assert "given different settings, weights" in of_two["error 8"]
    assert "2 equal parts" in of_two["error 9"]


@pytest.mark.parametrize("name", ["xrd", "aligned"])
def test_one_process_is_the_library_bit_for_bit(views, tmp_path, name):
    measurement = Measurement(noise=0.02)
    config = worker.make_config(name, epochs=3, measurement=measurement, modality_dropout=0.2)
    came, expected = (worker.make_model(name, views, dropout=0.2) for _ in range(2))
    where = {"config": config, **worker.split_of(views)}
    ours = fit_together(came, views, **where, run_dir=tmp_path / "ours", group=ALONE)
    theirs = fit(expected, views, **where, run_dir=tmp_path / "library")
    assert torch.equal(worker.weights(came), worker.weights(expected))
    columns = [c for c in theirs.history if "seconds" not in c]
    assert ours.history[columns].equals(theirs.history[columns])
    assert ours.best_epoch == theirs.best_epoch


def test_a_killed_process_ends_all_and_one_goes_on(folder, views, end, tmp_path):
    said, seconds = end
    assert said.startswith("process 1 of 2 was killed by SIGKILL")
    assert seconds < _TIMEOUT.total_seconds() / 2  # nobody waited for what is not there
    left = [p for p in (folder / "runs").glob("*/last.safetensors")]
    assert len(left) == 1
    log = left[0].with_name("log.jsonl")
    assert len(log.read_text().splitlines()) == 2
    resumed, model = worker.train("aligned", views, folder, ALONE, epochs=4)
    assert resumed.run_dir == log.parent
    whole, expected = worker.train("aligned", views, tmp_path, ALONE, epochs=4)
    assert whole.best_epoch == resumed.best_epoch
    torch.testing.assert_close(worker.weights(model), worker.weights(expected), **CLOSE)


def test_what_is_handed_over_comes_back_and_nothing_else_is_taken(views, tmp_path):
    model = worker.make_model("aligned", views)
    given = {"model": model.config, "weights": dict(model.state_dict()), "views": views}
    given |= {"config": worker.make_config("xrd"), "rows": torch.tensor([3, 1]), "folder": "here"}
    hand_over(tmp_path / "work", given)
    came = taken(tmp_path / "work")
    assert came["views"].content_hash == views.content_hash
    for name in ("model", "config", "folder"):
        assert came[name] == given[name], name
    for one, other in zip(tensors_in(came), tensors_in(given), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    with pytest.raises(TypeError, match=r"expected tensors, plain values or one of .*Path"):
        hand_over(tmp_path / "other", {"folder": tmp_path})
    assert not (tmp_path / "other").exists()


def test_a_training_in_processes_leaves_its_result_here(views, tmp_path):
    config = worker.make_config("xrd", epochs=1)
    here, there = (worker.make_model("xrd", views) for _ in range(2))
    given = {"config": config, **worker.split_of(views)}
    result = fit_on(2, there, views, **given, run_dir=tmp_path / "there")
    fit_on(1, here, views, **given, run_dir=tmp_path / "here")
    assert len(result.history) == 1
    torch.testing.assert_close(worker.weights(there), worker.weights(here), **CLOSE)


def test_what_fails_and_what_hangs_is_ended():
    code = "import os, sys; sys.exit('no such thing') if os.environ['RANK'] == '0' else {}"
    for_ever = "import time; time.sleep(10**6)"  # who waits for its end is ended by pytest
    with pytest.raises(RuntimeError, match=r"process 0 of 2 failed \(1\): no such thing"):
        run_together([sys.executable, "-c", f"{code}; {for_ever}"], processes=2)
    with pytest.raises(RuntimeError, match=r"processes \[0, 1\] of 2 took too long"):
        run_together([sys.executable, "-c", for_ever], processes=2, seconds=0.5)


def test_the_order_and_the_largest_batch_of_a_run_are_known(views, monkeypatch):
    config = worker.make_config("structure", epochs=3)
    model = worker.make_model("structure", views)
    loop = SharedLoop(model, views, *worker.split_of(views).values(), config, ALONE)
    atoms, edges = loop._largest_training_batch()
    seen, cut = [], type(views).batch

    def batch(self, index, **how):
        seen.append(index)
        return cut(self, index, **how)

    monkeypatch.setattr(type(views), "batch", batch)
    for epoch in range(config.epochs):
        loop.epoch(epoch)
        order = epoch_order(config.seed, epoch, len(loop.train))
        came = torch.cat(seen[-loop.steps :])
        assert torch.equal(came, loop.train[order[: len(came)]])
    sizes = [
        (int(views.graph.num_atoms[i].sum()), int(views.graph.num_edges[i].sum())) for i in seen
    ]
    largest = [max(column) for column in zip(*sizes, strict=True)]
    assert largest[0] < atoms <= largest[0] + 64
    assert largest[1] <= edges <= largest[1] + 64


def test_a_norm_that_cannot_be_shared_is_refused(views):
    model = worker.make_model("xrd", views)
    model.encoders["xrd"].readout.append(torch.nn.BatchNorm1d(16))
    several = sharing(model, Group(torch.device("cpu"), size=2))
    with pytest.raises(TypeError, match="expected BatchNorm1d without weights"), several:
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that was asked for")
def test_a_process_without_a_gpu_of_its_own_is_refused():
    with pytest.raises(RuntimeError, match="needs a GPU of its own"), open_group("cuda"):
        pass


@pytest.mark.gpu
@needs_two_gpus
def test_two_gpus_reach_what_one_does_in_the_recorded_step(tmp_path):
    words = [
        "--check",
        "--profile",
        "quick",
        "--batch",
        "32",
        "--out",
        str(tmp_path / "check.json"),
    ]
    script = [sys.executable, str(ROOT / "benchmarks/scaling.py"), *words]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("(replayed)") == 3


@pytest.mark.gpu
@needs_two_gpus
def test_a_process_killed_on_its_gpu_ends_all(folder, tmp_path):
    shutil.copy(folder / "table.parquet", tmp_path)
    said, seconds = run_worker(tmp_path, "cuda")
    assert said.startswith("process 1 of 2 was killed by SIGKILL")
    assert seconds < _TIMEOUT.total_seconds() / 2  # nobody waited for what is not there


def point(setting, gpus, batch, seconds):
    rate = gpus * batch / seconds
    found = {"setting": setting, "gpus": gpus, "batch": batch, "seconds": seconds, "replayed": 1.0}
    found |= {"crystals_per_second": rate, "gradient_mb": 10.0, "allreduce_seconds": 1e-4}
    found |= {"operations_per_crystal": 1e9, "bytes_per_crystal": 1e6, "device": "a GPU"}
    found |= {"operations_per_second": 1e15, "bytes_per_second": 3e12}
    return found | ({"bus_bytes_per_second": 3e11} if gpus > 1 else {})


def test_efficiency_is_that_of_the_best_batch_of_one(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scaling

    seconds = {(1, 256): 0.02, (1, 512): 0.03, (2, 256): 0.021, (2, 512): 0.032, (4, 512): 0.033}
    points = [point("xrd", *key, value) for key, value in seconds.items()]
    rows = {row.name: row for row in scaling.rows_of(points)}
    assert rows["scaling_xrd_2_gpus_percent"].value == pytest.approx(100 * 30 / 32)
    assert rows["scaling_xrd_4_gpus_percent"].ratio == pytest.approx(4 * 30 / 33)
    # One GPU more than doubled adds 1 ms: from 4 to 8 it is as much again.
    assert rows["scaling_xrd_8_gpus_predicted_percent"].value == pytest.approx(100 * 30 / 34)
    # 512 crystals at 1e6 a second, and 2 (4 - 1) / 4 times 10 MB at 300 GB/s.
    least = 512e-6 + 1.5 * 1e7 / 3e11
    assert rows["scaling_xrd_4_gpus_rate"].floor == pytest.approx(4 * 512 / least)
    assert scaling.rows_of(points[2:]) == []


def test_accuracy_is_set_beside_that_of_one(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scaling_accuracy

    same = {"setting": "xrd", "batch": 8, "crystals": 80, "device": "a GPU"}
    points = [
        {**same, "gpus": gpus, "val_loss": loss}
        for gpus, losses in ((1, (1.0, 1.2)), (2, (1.1, 1.3)))
        for loss in losses
    ]
    one, two = scaling_accuracy.rows_of(points)
    assert (one.name, two.name) == ("scaling_accuracy_xrd_1_gpu", "scaling_accuracy_xrd_2_gpus")
    assert two.value == pytest.approx(1.2)
    assert "+0.1000 against one GPU, whose seeds spread by 0.1414" in two.notes


def test_points_are_kept_together_or_not_at_all(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scaling

    accuracy = [
        {"setting": "xrd", "gpus": 1, "seed": s, "val_loss": 1.0, "crystals": 8, "batch": 4}
        for s in (0, 1)
    ]
    checked = [{"setting": "xrd", "gpus": 1, "losses": [2.0]}]
    files = []
    for name, points in (("s", [point("xrd", 1, 256, 0.02)]), ("a", accuracy), ("c", checked)):
        files.append(tmp_path / name)
        files[-1].write_text(json.dumps(points))
    into = tmp_path / "kept.json"
    with pytest.raises(ValueError, match=r"no points of \['check'\]"):
        scaling.keep(files[:2], into)
    assert not into.exists()
    scaling.keep(files, into)
    kept = read_points(into)
    assert [len(kept[kind]) for kind in ("speed", "accuracy", "check")] == [1, 2, 1]
    assert set(kept["before"]["gpus"]) == {1, 2}

"""Preparation by a dask cluster: the table of a local one, whatever becomes of the workers."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from small import CIF

from unimat_lib.datasets import chunks, cluster
from unimat_lib.datasets.__main__ import main
from unimat_lib.datasets.preparation import prepare_dataset
from unimat_lib.datasets.report import DataError

CHUNKS, ROWS = 12, 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifs")
    for n in range(CHUNKS * ROWS):
        z = "?" if n == 7 else 0.5  # one that is dropped
        (folder / f"c{n:03d}.cif").write_text(CIF.format(n=n, c=6, z=z))
    return folder


def dying_once(folder):
    """What a worker does with a job, but for the worker that gets the fourth chunk first."""
    original, number, killed = cluster._files_of, ROWS * 3, str(folder / "killed")

    def files_of(name, code, function, arguments, target):  # goes to the workers as its code
        import os
        import signal

        if f"-{number:08d}-" in target and not os.path.exists(killed):
            open(killed, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(name, code, function, arguments, target)

    return files_of


def test_a_lost_worker_costs_its_chunks_only(folder, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="pip install 'unimat-lib[cluster]'")
    monkeypatch.setattr(chunks, "_CHUNK", ROWS)
    local = prepare_dataset("cif_folder", folder=folder, cache_dir=tmp_path / "here", workers=1)
    monkeypatch.setattr(cluster, "_files_of", dying_once(tmp_path))
    begun = Counter()

    class Begun(distributed.SchedulerPlugin):
        def transition(self, key, start, finish, *args, **kwargs):
            begun[key] += finish == "processing"

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options, silence_logs=50) as workers:
        workers.scheduler.add_plugin(Begun())
        options = {"scheduler": workers.scheduler_address, "cache_dir": tmp_path / "there"}
        far = cluster.prepare_on_cluster("cif_folder", folder=folder, **options)
    assert (tmp_path / "killed").exists()
    assert far.table == local.table  # its name holds the hash of the content
    assert far.dropped == local.dropped and len(far.dropped) == 1
    assert len(begun) == CHUNKS
    assert 1 <= sum(begun.values()) - CHUNKS <= 4  # what ran, waited or was not yet fetched there
    assert chunks.unordered.__module__ == "unimat_lib.processes"
    assert [path for path in (tmp_path / "there").iterdir() if path.is_dir()] == []


def test_a_worker_with_other_code_is_refused():
    with pytest.raises(DataError, match="a worker has code"):
        cluster._files_of("prototypes", "other", len, (), "x.parquet")


def test_without_dask_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["prepare", "prototypes", "--scheduler", "tcp://nowhere:1"]) == 1
    assert "pip install 'unimat-lib[cluster]'" in capsys.readouterr().err


def test_a_scheduler_that_is_not_there_is_one_line(capsys):
    pytest.importorskip("distributed", reason="pip install 'unimat-lib[cluster]'")
    assert main(["prepare", "prototypes", "--scheduler", "pigeon://nowhere"]) == 1
    assert "no dask scheduler answers at 'pigeon://nowhere'" in capsys.readouterr().err

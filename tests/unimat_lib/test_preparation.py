"""Preparations that are killed, run out of disk, or find damaged files: nothing is lost or mixed.

Children are forked, so that a kill costs a second; those of several processes are in
``test_processes.py``.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small import CIF
from tqdm import tqdm

from unimat_lib.crystals.parquet import load_table
from unimat_lib.datasets import chunks, preparation
from unimat_lib.datasets.preparation import load_dataset, prepare_dataset
from unimat_lib.datasets.report import DataError

FILES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifs")
    for n in range(FILES):
        (folder / f"c{n:03d}.cif").write_text(CIF.format(n=n, c=5, z=0.5))
    return folder


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "_CHUNK", 10)


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    """Name of the table, which holds its hash, and the seconds that it takes."""
    for _ in range(2):  # the first imports much
        started = time.monotonic()
        cache = tmp_path_factory.mktemp("undisturbed")
        report = prepare_dataset("cif_folder", folder=folder, cache_dir=cache, workers=1)
    return report.table, time.monotonic() - started


def forked(action) -> int:
    """Number of a child process that does something and ends."""
    # An interrupt that comes before the child is ready for it waits: it must not end as pytest.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return child
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        tqdm.set_lock(threading.RLock())  # its own would be shared, and stay locked after a kill
        action()
        status = 0
    finally:
        os._exit(status)


def assert_next_run_is_whole(folder: Path, cache: Path, expected: str) -> None:
    """Nothing half-written is taken for whole, and nothing stays behind."""
    load_dataset("cif_folder", folder=folder, cache_dir=cache, workers=1)
    assert {path.name for path in cache.iterdir()} == {"cif_folder.json", expected}
    assert load_table(cache / expected).content_hash() in expected


KILLS = [
    *((n, s) for n in range(3) for s in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)),
    *(
        pytest.param(n, s, marks=pytest.mark.longer)
        for n in range(3, 13)
        for s in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    ),
]


@pytest.mark.parametrize(("seed", "number"), KILLS)
def test_a_killed_preparation_goes_on_where_it_was(folder, undisturbed, tmp_path, seed, number):
    expected, seconds = undisturbed
    options = {"folder": folder, "cache_dir": tmp_path / "c", "workers": 1}
    child = forked(lambda: prepare_dataset("cif_folder", **options))
    time.sleep(random.Random(f"{seed} {number}").uniform(0, seconds))
    os.kill(child, number)
    os.waitpid(child, 0)
    assert_next_run_is_whole(folder, tmp_path / "c", expected)


def limited(size: int, **options) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    prepare_dataset("cif_folder", **options)


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(n, marks=pytest.mark.longer) for n in range(2, 12))]
)
def test_files_that_cannot_grow_are_not_taken_for_whole(folder, undisturbed, tmp_path, seed):
    """As on a full disk, a write stops somewhere in a file."""
    size = random.Random(seed).randrange(1, 6000)
    options = {"folder": folder, "cache_dir": tmp_path / "c", "workers": 1}
    child = forked(lambda: limited(size, **options))
    assert os.waitpid(child, 0)[1] != 0
    assert_next_run_is_whole(folder, tmp_path / "c", undisturbed[0])


@pytest.mark.parametrize(
    "moment", [0, 5, 14, *(pytest.param(n, marks=pytest.mark.longer) for n in (1, 2, 3, 6, 9, 13))]
)
def test_a_full_disk_at_any_write(folder, undisturbed, tmp_path, monkeypatch, moment):
    """Seven tables, seven records: the write with this number fails half way."""
    count = iter(range(1000))
    write_table, write_text = pq.write_table, Path.write_text

    def fail_now(path):
        if next(count) == moment:
            path.write_bytes(b"PAR1 half")
            raise OSError(errno.ENOSPC, "No space left on device")

    def table(content, path, **keys):
        fail_now(path)
        write_table(content, path, **keys)

    def text(path, *arguments, **keys):
        fail_now(path)
        write_text(path, *arguments, **keys)

    monkeypatch.setattr(pq, "write_table", table)
    monkeypatch.setattr(Path, "write_text", text)
    options = {"folder": folder, "cache_dir": tmp_path / "c", "workers": 1}
    if moment < 14:
        with pytest.raises(OSError, match="No space left"):
            prepare_dataset("cif_folder", **options)
    else:
        prepare_dataset("cif_folder", **options)
        assert next(count) == 14
    assert not list((tmp_path / "c").rglob("*.partial"))
    monkeypatch.undo()
    assert_next_run_is_whole(folder, tmp_path / "c", undisturbed[0])


def damages(content: bytes, seed: int) -> dict[str, bytes]:
    place = random.Random(seed).randrange(len(content))
    flipped = bytearray(content)
    flipped[place] ^= 1 << place % 8
    return {
        "truncated": content[:place],
        "zeroed": content[:place] + bytes(len(content) - place),
        "flipped": bytes(flipped),
        "empty": b"",
    }


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.longer) for n in range(1, 11))]
)
@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_a_damaged_table_is_made_anew(folder, undisturbed, tmp_path, suffix, seed, caplog):
    options = {"folder": folder, "cache_dir": tmp_path, "workers": 1}
    prepare_dataset("cif_folder", **options)
    path = tmp_path / (undisturbed[0] if suffix == ".parquet" else "cif_folder.json")
    content = path.read_bytes()
    for name, damaged in damages(content, seed).items():
        path.write_bytes(damaged)
        caplog.clear()
        table = load_dataset("cif_folder", **options)
        assert table.content_hash() in undisturbed[0], name
        assert f"{path.name} is" in caplog.text and "and is not used" in caplog.text, name
    path.write_bytes(content[: len(content) // 2])
    caplog.clear()
    with pytest.raises(DataError, match="needs the folder"):  # nothing to make it of
        load_dataset("cif_folder", cache_dir=tmp_path)
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.longer) for n in range(1, 11))]
)
@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_damaged_chunks_are_made_anew(
    folder, undisturbed, tmp_path, suffix, seed, monkeypatch, caplog
):
    options = {"folder": folder, "cache_dir": tmp_path, "workers": 1}
    original, done = chunks._prepare_chunk, []

    def interrupted(*arguments):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(chunks, "_prepare_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset("cif_folder", **options)
    paths = sorted(tmp_path.glob(f".cif_folder-*/*{suffix}"))
    assert len(paths) == 4
    for path, damaged in zip(
        paths[1:], damages(paths[1].read_bytes(), seed).values(), strict=False
    ):
        path.write_bytes(damaged)
    done.clear()
    monkeypatch.setattr(chunks, "_prepare_chunk", lambda *a: done.append(a) or original(*a))
    report = prepare_dataset("cif_folder", **options)
    assert report.table == undisturbed[0]
    assert len(done) == 5  # two that were missing, three that were damaged
    assert caplog.text.count("is damaged") == 3


def test_two_preparations_at_once_do_not_mix(folder, undisturbed, tmp_path):
    other = prepare_dataset(
        "cif_folder", folder=folder, cache_dir=tmp_path / "alone", workers=1, limit=30
    )
    cache = tmp_path / "c"

    def prepare(limit):
        report = prepare_dataset(
            "cif_folder", folder=folder, cache_dir=cache, workers=1, limit=limit
        )
        (tmp_path / f"{limit}").write_text(report.table)

    children = [forked(lambda limit=limit: prepare(limit)) for limit in (None, 30, None, 30)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert (tmp_path / "None").read_text() == undisturbed[0]
    assert (tmp_path / "30").read_text() == other.table
    names = {path.name for path in cache.iterdir()}
    assert names == {"cif_folder.json", undisturbed[0], other.table}
    for name in names - {"cif_folder.json"}:
        assert load_table(cache / name).content_hash() in name


def test_processes_that_need_one_table_prepare_it_once(folder, undisturbed, tmp_path, monkeypatch):
    original = preparation._prepare

    def counted(*arguments, **keys):
        (tmp_path / f"prepared-{os.getpid()}").touch()
        return original(*arguments, **keys)

    monkeypatch.setattr(preparation, "_prepare", counted)
    options = {"folder": folder, "cache_dir": tmp_path / "c", "workers": 1}

    def load():
        assert load_dataset("cif_folder", **options).content_hash() in undisturbed[0]

    children = [forked(load) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 3
    assert len(list(tmp_path.glob("prepared-*"))) == 1

"""Files that are whole or not there, locks, and records that notice any change."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from unimat_lib.files import alone_in, file_hash, read_record, replacing, write_record


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
    for error in (KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")):
        with pytest.raises((KeyboardInterrupt, OSError)), replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise error
        assert path.read_text() == "old"
        assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_what_a_killed_writer_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "a.txt"
    code = (
        "import os, sys, signal\nfrom unimat_lib.files import replacing\n"
        f"with replacing({str(path)!r}) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] != [] and not path.exists()
    living = tmp_path / f".a.txt.{os.getppid()}.partial"
    living.write_text("being written")
    other = tmp_path / ".b.txt.partial"
    other.write_text("somebody else's")
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert set(tmp_path.iterdir()) == {path, living, other}


def test_one_process_at_a_time(tmp_path):
    code = (
        "import sys\nfrom unimat_lib.files import alone_in\n"
        f"with alone_in({str(tmp_path)!r}):\n    print('in', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "in\n"
    with pytest.raises(BlockingIOError), alone_in(tmp_path, wait=False):
        pass
    other.kill()
    with alone_in(tmp_path):  # waits until the lock dies with it
        pass
    other.wait()
    other.stdin.close()
    other.stdout.close()


def test_records_come_back_and_any_change_is_noticed(tmp_path, caplog):
    path = tmp_path / "r.json"
    record = {"name": "é\ud800", "numbers": [1, 2.5, None], "inner": {"b": 1, "a": [True]}}
    assert read_record(path) is None and caplog.text == ""
    write_record(path, record)
    assert read_record(path) == record
    whole = path.read_bytes()
    json.loads(whole)
    unnoticed = []
    for position in range(len(whole)):
        for flip in (1, 32):
            changed = bytearray(whole)
            changed[position] ^= flip
            path.write_bytes(changed)
            back = read_record(path)
            if back is not None and back != record:
                unnoticed.append((position, flip))
    assert unnoticed == []
    for damaged in (b"", whole[:-1], whole[: len(whole) // 2], bytes(len(whole)), b"[]", b"{}"):
        caplog.clear()
        path.write_bytes(damaged)
        assert read_record(path) is None
        assert "r.json is damaged or of earlier code and is not used" in caplog.text
    path.write_bytes(b"[" * 100_000)
    assert read_record(path) is None


def test_hash_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a").startswith("ba7816bf8f01cfea")

"""Work in other processes, from any kind of script, and never longer than the script."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from small import CIF

from unimat_lib.processes import unordered

LOADING = """
import sys
from unimat_lib.datasets.preparation import load_dataset
print("started", flush=True)
table = load_dataset("cif_folder", folder=sys.argv[1], cache_dir=sys.argv[2], workers=2)
print(len(table))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """300 CIF files, which make two chunks: one for each of two processes."""
    folder = tmp_path_factory.mktemp("cifs")
    for n in range(300):
        (folder / f"c{n:03d}.cif").write_text(CIF.format(n=n, c=5, z=0.5))
    return folder


def processes_with(word: str) -> list[int]:
    """Living processes whose environment holds a word."""
    found = []
    for entry in os.scandir("/proc"):
        try:
            with open(f"/proc/{entry.name}/environ", "rb") as handle:
                if word.encode() in handle.read():  # empty once it is dead
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


def gone(word: str) -> bool:
    """Whether they all end; left alone, each would be there for longer."""
    until = time.monotonic() + 120
    while processes_with(word) and time.monotonic() < until:
        time.sleep(0.1)
    return not processes_with(word)


@pytest.mark.parametrize(
    "way", ["file", *(pytest.param(way, marks=pytest.mark.longer) for way in ("stdin", "command"))]
)
def test_a_script_without_main_guard_loads_a_folder(way, folder, tmp_path):
    """Fault: its spawned children ran the script again and waited for its lock for ever."""
    script = tmp_path / "script.py"
    script.write_text(LOADING)
    arguments = {"file": [str(script)], "stdin": ["-"], "command": ["-c", LOADING]}[way]
    done = subprocess.run(
        [sys.executable, *arguments, str(folder), str(tmp_path / "cache")],
        input=LOADING if way == "stdin" else "",
        env={**os.environ, "UNIMAT_TEST": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["started", "300"]  # once
    assert gone(f"UNIMAT_TEST={tmp_path}")


def test_results_come_from_other_processes_and_all_of_them():
    assert sorted(unordered(operator.add, [(n, 1) for n in range(20)], workers=2)) == [
        n + 1 for n in range(20)
    ]
    assert os.getpid() not in set(unordered(os.getpid, [()] * 4, workers=2))
    assert set(unordered(os.getpid, [()] * 4, workers=1)) == {os.getpid()}
    assert list(unordered(os.getpid, [()], workers=4)) == [os.getpid()]
    assert list(unordered(os.getpid, [], workers=4)) == []


def test_an_error_in_a_worker_is_raised_here_and_the_next_call_works():
    with pytest.raises(ZeroDivisionError):
        list(unordered(operator.truediv, [(1, n) for n in (2, 1, 0, 4)], workers=2))
    assert sorted(unordered(abs, [(-1,), (-2,)], workers=2)) == [1, 2]


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGKILL, 0.0),  # before its workers have begun
        (signal.SIGTERM, 1.0),
        (signal.SIGINT, 1.0),
        *(
            pytest.param(number, moment, marks=pytest.mark.longer)
            for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
            for moment in (0.1, 0.3, 0.5, 0.7, 0.9, 1.2, 1.5, 2.0, 3.0)
        ),
    ],
)
def test_workers_end_with_their_parent(number, moment, tmp_path):
    word = f"UNIMAT_TEST={tmp_path}"
    code = textwrap.dedent(
        """
        import time
        from unimat_lib.processes import unordered
        print("started", flush=True)
        for _ in unordered(time.sleep, [(3600,)] * 4, workers=2):
            pass
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "UNIMAT_TEST": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout.readline() == "started\n"
    if moment >= 1:
        until = time.monotonic() + 120
        while len(processes_with(word)) < 3 and time.monotonic() < until:
            time.sleep(0.05)
    time.sleep(moment)
    parent.send_signal(number)
    parent.communicate(timeout=120)
    assert parent.returncode != 0
    assert gone(word)

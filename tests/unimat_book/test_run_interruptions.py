"""Ctrl-C, SIGTERM, kill -9 and a full disk at random moments of runs and builds.

Afterwards no process goes on, no scratch folder stays, what was published is whole, and the next
run ends as an undisturbed one does. The random moments are drawn with a fixed seed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from toy_book import FIRST, Tool, files, hashes, processes_of, scratch, start, wait_until

from unimat_book.run.order import READS

LINE = "interrupted; finished notebooks are untouched\n"
ENDS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "kill -9": signal.SIGKILL}
WORDS = {
    "run": ("run", "01", "--profile=full"),
    "run all": ("run", "all", "--profile=full", "--jobs=2"),
    "build": ("build", "--profile=full"),
}


def run_all(tool: Tool) -> None:
    for number in ("01", "02"):
        assert tool("run", number, "--profile", "full").returncode == 0


def end(process: subprocess.Popen, how: str) -> None:
    """As a terminal does it for Ctrl-C: the whole process group."""
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(ENDS[how])


def listens(process: subprocess.Popen) -> bool:
    """Whether the tool's handlers are set: Python's own one for SIGINT comes before them."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) & 1 << (signal.SIGTERM - 1))


def check_the_end(root: Path, process: subprocess.Popen, how: str) -> None:
    out, err = process.communicate(timeout=240)
    assert process.returncode != 0, out
    if how != "kill -9":
        assert err == LINE
        assert process.returncode == 128 + ENDS[how]
        assert scratch(root) == []
    wait_until(lambda: not processes_of(root))


@pytest.mark.parametrize("how", ENDS)
def test_an_interrupted_run_leaves_nothing_behind(how: str, root: Path, tool: Tool) -> None:
    run_all(tool)
    before, undisturbed = files(root), hashes(root)
    waiting = start(root, *WORDS["run"], "--set", "mode=wait", "--set", "epochs=9")
    wait_until((root / "_build/waiting").is_file)
    assert any("kernel_process" in line for line in processes_of(root))
    (connection,) = root.glob("_build/scratch/*/connection.json")
    assert json.loads(connection.read_text())["transport"] == "ipc"  # no port that others may take
    end(waiting, how)
    check_the_end(root, waiting, how)
    assert files(root) == before
    run_all(tool)
    assert hashes(root) == undisturbed
    assert scratch(root) == []


@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9"])
def test_chapters_side_by_side_end_with_the_one_that_started_them(how: str, root: Path) -> None:
    name = min(READS)  # a chapter that need not wait for the first
    other = FIRST.replace("01_first", name).replace("_build/waiting", f"_build/{name}")
    (root / f"chapters/src/{name}.md").write_text(other)
    both = start(root, "run", "01_first", name, "--jobs=2", "--set", "mode=wait")
    wait_until(lambda: (root / "_build/waiting").is_file() and (root / f"_build/{name}").is_file())
    assert sum("kernel_process" in line for line in processes_of(root)) == 2
    end(both, how)
    check_the_end(root, both, how)


def test_three_random_moments_of_a_run(root: Path, tool: Tool) -> None:
    run_all(tool)
    at_random(root, tool, "run", list(ENDS), seconds=5, seed="three")


def at_random(
    root: Path, tool: Tool, what: str, hows: list[str], *, seconds: float, seed: str
) -> int:
    """End a command at random moments; how many of them came before its own end."""
    undisturbed, draw, ended = hashes(root), random.Random(seed), 0
    for how in hows:
        before = files(root)
        process = start(root, *WORDS[what])
        wait_until(lambda process=process: listens(process) or process.poll() is not None)
        time.sleep(draw.uniform(0, seconds))
        with suppress(ProcessLookupError):
            end(process, how)
        _, err = process.communicate(timeout=240)
        assert "Traceback" not in err, err
        wait_until(lambda: not processes_of(root))
        for name, content in files(root).items():  # whole: as before, or a whole new one
            assert not name.endswith(".partial")
            if name.endswith((".ipynb", ".json")) and content != before.get(name):
                json.loads(content)
        assert what != "build" or files(root) == before
        assert how == "kill -9" or scratch(root) == []
        # When Python already leaves, nothing is said.
        if process.returncode == 0 or (how != "kill -9" and process.returncode == -ENDS[how]):
            assert not err
            continue
        ended += 1
        assert process.returncode == (-9 if how == "kill -9" else 128 + ENDS[how]), err
        assert how == "kill -9" or err == LINE
    run_all(tool)
    assert hashes(root) == undisturbed
    assert scratch(root) == [] and not processes_of(root)
    assert tool("check").returncode == 0
    return ended


@pytest.mark.longer
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", WORDS)
@pytest.mark.parametrize("how", ENDS)
def test_ten_random_moments(what: str, how: str, root: Path, tool: Tool) -> None:
    run_all(tool)
    begun = time.monotonic()
    out, err = (process := start(root, *WORDS[what])).communicate()
    assert process.returncode == 0, out + err
    seconds = time.monotonic() - begun
    ended = at_random(root, tool, what, [how] * 10, seconds=seconds, seed=f"{what} {how}")
    if what == "build":
        assert tool("build", "--profile", "full").returncode == 0
    print(f"{what}, {how}: {ended} of 10 ended before their time, 0 failures")
    assert ended >= 5


FULL = """\
import errno, os, random, shutil, sys
from pathlib import Path

calls = iter(range(1, 1_000_000))
last = int(sys.argv.pop(1))


def failing(function):
    def call(*args, **options):
        place = str(args[0] if args else "")
        if place.startswith({root!r}) and next(calls) == last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*args, **options)

    return call


os.replace = failing(os.replace)
shutil.copyfile = failing(shutil.copyfile)
shutil.copy2 = failing(shutil.copy2)
Path.write_text = failing(Path.write_text)
Path.mkdir = failing(Path.mkdir)

from unimat_book.run.__main__ import main

code = main(sys.argv[1:])
print(next(calls), "calls")
sys.exit(code)
"""


def run_with_full_disk(root: Path, last: int, *words: str) -> subprocess.CompletedProcess[str]:
    """The tool where the disk is full from its call number ``last`` on that needs space."""
    script = FULL.format(root=str(root))
    return subprocess.run(
        [sys.executable, "-c", script, str(last), *words],
        env={**os.environ, "UNIMAT_ROOT": str(root)},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.longer
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", ["run", "build"])
def test_a_disk_that_is_full_at_a_random_moment(what: str, root: Path, tool: Tool) -> None:
    run_all(tool)
    undisturbed = hashes(root)
    for _ in range(2):  # the first one makes folders
        whole = run_with_full_disk(root, 10**6, *WORDS[what])
        assert whole.returncode == 0, whole.stdout + whole.stderr
    before = files(root)
    count = int(whole.stdout.split()[-2])
    moments = random.Random(what).sample(range(1, count), min(10, count - 1))
    for moment in moments:
        full = run_with_full_disk(root, moment, *WORDS[what])
        assert full.returncode == 1, full.stdout + full.stderr
        assert "No space left on device" in full.stderr and "Traceback" not in full.stderr
        assert files(root) == before, moment
        assert scratch(root) == [] and not processes_of(root)
    print(f"{what}, full disk: {len(moments)} of {count} moments, 0 failures")
    run_all(tool)
    assert hashes(root) == undisturbed


def test_a_signal_before_all_is_imported_is_one_line(root: Path) -> None:
    process = start(root, *WORDS["run"], "--set", "mode=wait")  # does not end by itself
    wait_until(lambda: listens(process))
    end(process, "Ctrl-C")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130 and err == LINE, out


def test_a_second_ctrl_c_does_no_harm(root: Path) -> None:
    waiting = start(root, *WORDS["run"], "--set", "mode=wait")
    wait_until((root / "_build/waiting").is_file)
    for _ in range(3):
        os.killpg(waiting.pid, signal.SIGINT)
        time.sleep(0.01)
    check_the_end(root, waiting, "Ctrl-C")

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
import time
from pathlib import Path

import pytest
from toy_book import edit, files, hashes, processes_of, scratch, start, wait_until

LINE = "interrupted; finished notebooks are untouched\n"
ENDS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "kill -9": signal.SIGKILL}
WORDS = {
    "run": ("run", "01", "--profile=full"),
    "run all": ("run", "all", "--profile=full", "--jobs=2"),
    "build": ("build", "--profile=full"),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """How long each command takes here, and what it leaves."""
    from toy_book import make_toy_book

    root = make_toy_book(tmp_path_factory.mktemp("undisturbed"))
    seconds = {}
    for name in ("run all", "run", "build"):
        begun = time.monotonic()
        done(start(root, *WORDS[name]), 0)
        seconds[name] = time.monotonic() - begun
    return {"root": root, "seconds": seconds, "hashes": hashes(root), "pages": pages(root)}


def done(process: subprocess.Popen, code: int, seconds: float = 100) -> str:
    """Wait for the end; what was said on stderr."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, out + err
    return err


def pages(root: Path) -> dict[str, str]:
    """The text of the built pages, without the stamps' dates."""
    folder = root / "_build/full/book/_build/html"
    found = {p.name: p.read_text() for p in folder.rglob("*.html")}
    return {name: text for name, text in found.items() if "01_first" in name}


def end(process: subprocess.Popen, how: str) -> None:
    """As a terminal does it for Ctrl-C: the whole process group."""
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(ENDS[how])


def check_the_end(root: Path, process: subprocess.Popen, how: str) -> None:
    out, err = process.communicate(timeout=30)
    assert process.returncode != 0, out
    if how != "kill -9":
        assert err == LINE
        assert process.returncode == 128 + ENDS[how]
        assert scratch(root) == []
    wait_until(lambda: not processes_of(root), 15)


@pytest.mark.parametrize("how", ENDS)
def test_an_interrupted_run_leaves_nothing_behind(how: str, root: Path) -> None:
    done(start(root, *WORDS["run"]), 0)
    before = files(root)
    waiting = start(root, *WORDS["run"], "--set", "mode=wait")
    wait_until((root / "_build/waiting").is_file)
    assert any("kernel_process" in line for line in processes_of(root))
    end(waiting, how)
    check_the_end(root, waiting, how)
    assert files(root) == before
    done(start(root, *WORDS["run"]), 0)
    assert scratch(root) == []


@pytest.mark.parametrize("how", ENDS)
def test_chapters_side_by_side_end_with_the_one_that_started_them(how: str, root: Path) -> None:
    from toy_book import FIRST

    from unimat_book.run.order import READS

    # A chapter that need not wait for the first; READS is that of the real book.
    name = min(READS)
    third = FIRST.replace("01_first", name).replace("_build/waiting", f"_build/{name}")
    (root / f"chapters/src/{name}.md").write_text(third)
    words = ("run", "01_first", name, "--jobs=2", "--set", "mode=wait")
    both = start(root, *words)
    wait_until(lambda: (root / "_build/waiting").is_file() and (root / f"_build/{name}").is_file())
    assert sum("kernel_process" in line for line in processes_of(root)) == 2
    end(both, how)
    check_the_end(root, both, how)


def at_random(
    root: Path, undisturbed: dict, what: str, how: str, moments: int, tries: random.Random
) -> int:
    """End a command at random moments; how many of them came before its own end."""
    ended = 0
    for _ in range(moments):
        before = {**files(root)}
        process = start(root, *WORDS[what])
        time.sleep(tries.uniform(0.15, 1.1) * undisturbed["seconds"][what])
        if process.poll() is not None:
            assert process.returncode == 0
            process.communicate()
            continue
        try:
            end(process, how)
        except ProcessLookupError:
            continue
        out, err = process.communicate(timeout=30)
        assert "Traceback" not in err, err
        if process.returncode == 0:  # it was as good as done
            continue
        ended += 1
        assert process.returncode == (-9 if how == "kill -9" else 128 + ENDS[how]), err
        assert how == "kill -9" or (err == LINE and scratch(root) == [])
        wait_until(lambda: not processes_of(root), 15)
        for name, content in files(root).items():  # whole: as before, or a whole new one
            if name.endswith((".ipynb", ".json")) and content != before.get(name):
                json.loads(content)
            assert not name.endswith(".partial")
        if what == "build":
            assert files(root) == before
    for name in ("run all", "build"):
        done(start(root, *WORDS[name]), 0)
    assert hashes(root) == undisturbed["hashes"]
    assert scratch(root) == [] and not processes_of(root)
    return ended


@pytest.mark.parametrize("how", ENDS)
def test_a_random_moment_of_a_run(how: str, root: Path, undisturbed: dict) -> None:
    at_random(root, undisturbed, "run", how, 2, random.Random(how))


@pytest.mark.longer
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", WORDS)
@pytest.mark.parametrize("how", ENDS)
def test_ten_random_moments(what: str, how: str, root: Path, undisturbed: dict) -> None:
    if what == "build":
        done(start(root, *WORDS["run all"]), 0)
    ended = at_random(root, undisturbed, what, how, 10, random.Random(f"{what} {how}"))
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
        if place.startswith({root!r}) and next(calls) >= last:
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
        [os.sys.executable, "-c", script, str(last), *words],
        env={**os.environ, "UNIMAT_ROOT": str(root)},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.longer
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", ["run", "build"])
def test_a_disk_that_is_full_from_a_random_moment_on(
    what: str, root: Path, undisturbed: dict
) -> None:
    done(start(root, *WORDS["run all"]), 0)
    before = files(root)
    whole = run_with_full_disk(root, 10**6, *WORDS[what])
    assert whole.returncode == 0, whole.stdout + whole.stderr
    before = files(root)
    count = int(whole.stdout.split()[-2])
    tries = random.Random(what)
    moments = sorted(tries.sample(range(1, count), min(10, count - 1)))
    for moment in moments:
        full = run_with_full_disk(root, moment, *WORDS[what])
        assert full.returncode == 1, full.stdout + full.stderr
        assert "No space left on device" in full.stderr and "Traceback" not in full.stderr
        assert files(root) == before, moment
        assert scratch(root) == [] and not processes_of(root)
    print(f"{what}, full disk: {len(moments)} moments of {count}, 0 failures")
    for name in ("run all", "build"):
        done(start(root, *WORDS[name]), 0)
    assert hashes(root) == undisturbed["hashes"]


def test_a_signal_before_anything_is_imported_is_one_line(root: Path) -> None:
    process = start(root, "check")
    wait_until(lambda: "unimat_book" in Path(f"/proc/{process.pid}/cmdline").read_text())
    time.sleep(0.3)  # the tool's own imports take longer
    end(process, "Ctrl-C")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err == LINE, out


def test_a_second_ctrl_c_does_no_harm(root: Path) -> None:
    waiting = start(root, *WORDS["run"], "--set", "mode=wait")
    wait_until((root / "_build/waiting").is_file)
    for _ in range(3):
        os.killpg(waiting.pid, signal.SIGINT)
        time.sleep(0.01)
    check_the_end(root, waiting, "Ctrl-C")


def test_an_edit_between_two_interrupted_runs_is_seen(root: Path) -> None:
    """What was killed leaves nothing that a later run would take for its own."""
    done(start(root, *WORDS["run all"]), 0)
    waiting = start(root, *WORDS["run"], "--set", "mode=wait", "--set", "epochs=9")
    wait_until((root / "_build/waiting").is_file)
    end(waiting, "kill -9")
    check_the_end(root, waiting, "kill -9")
    edit(root / "params.yml", "epochs: 5", "epochs: 6")
    done(start(root, *WORDS["run"]), 0)
    assert json.loads((root / "data/results/01_first.json").read_text()) == {"doubled": 12}
    assert scratch(root) == []

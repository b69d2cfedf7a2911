"""Minutes that the quick book takes: every chapter and the pages, beside the time it took before.

The time before is kept in ``results.json``, with the result that this one takes the place of.
Installing the environment is not in it. What earlier runs left in ``_build/quick/runs`` is moved
away first, because training that was finished is not repeated, and comes back if the run fails.

    python benchmarks/quick_book.py [--jobs N]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common import device_name, load, record

ROOT = Path(__file__).resolve().parents[1]
NAME = "quick_book_vs_before"


def timed_tool(*words: str) -> float:
    """Seconds that ``unimat-book`` takes; stops where it fails."""
    start = time.perf_counter()
    environment = {**os.environ, "UNIMAT_ROOT": str(ROOT)}
    tool = [sys.executable, str(ROOT / "tools" / "book.py")]
    subprocess.run([*tool, *words, "--profile", "quick"], env=environment, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, help="chapters at a time (default: the tool's)")
    jobs = parser.parse_args().jobs
    quick = ROOT / "_build" / "quick"
    quick.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="runs-", dir=quick))
    if (quick / "runs").is_dir():
        (quick / "runs").rename(aside / "runs")
    try:
        chapters = timed_tool("run", "all", *(["--jobs", str(jobs)] if jobs else []))
        pages = timed_tool("build")
    except BaseException:
        if (aside / "runs").is_dir():
            shutil.rmtree(quick / "runs", ignore_errors=True)
            (aside / "runs").rename(quick / "runs")
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    number = len(list((ROOT / "chapters" / "src").glob("[0-9][0-9]_*.md")))
    minutes = (chapters + pages) / 60
    last = next(result for result in load() if result.name == NAME)
    ratio = last.ratio * last.value / minutes
    print(f"{number} chapters {chapters:.0f} s, pages {pages:.0f} s; {ratio:.2f} x")
    new = replace(last, value=minutes, ratio=ratio, device=device_name())
    notes = f"{number} chapters in {chapters:.0f} s, pages in {pages:.0f} s; without installation"
    record([replace(new, notes=notes, date="", machine="", versions={})])


if __name__ == "__main__":
    main()

"""Minutes that the quick book takes: every chapter and the pages, beside the time it took before.

Before, on two cores of the same machine, seven chapters ran one after the other in 242 seconds and
the pages took 16 seconds (checks 3.7, build 12.6). Installing the environment is not in it. What
earlier runs left in ``_build/quick/runs`` is moved away first, because training that was finished
is not repeated, and comes back if the run fails.

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
from pathlib import Path

from common import Result, device_name, record

ROOT = Path(__file__).resolve().parents[1]
BEFORE_CHAPTERS, BEFORE_PAGES = 242.0, 16.3  # seconds, commit 2bbf9d3 and its predecessors


def timed_tool(*words: str) -> float:
    """Seconds that ``tools/book.py`` takes; stops where it fails."""
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
    seconds, before = chapters + pages, BEFORE_CHAPTERS + BEFORE_PAGES
    print(f"chapters   {chapters:6.0f} s ({number}), before {BEFORE_CHAPTERS:.0f} s (7)")
    print(f"pages      {pages:6.0f} s, before {BEFORE_PAGES:.0f} s")
    print(f"together   {seconds:6.0f} s, {before / seconds:.2f} x")
    record(
        [
            Result(
                name="quick_book_vs_before",
                value=seconds / 60,
                unit="min",
                device=device_name(),
                baseline=f"one chapter after the other, before: {before:.0f} s",
                ratio=before / seconds,
                notes=f"{number} chapters in {chapters:.0f} s (before 7 in "
                f"{BEFORE_CHAPTERS:.0f} s), pages in {pages:.0f} s (before {BEFORE_PAGES:.0f} s); "
                "without installation; chapters side by side, and the quick profile trains with "
                "one seed and fewer epochs than before",
            )
        ]
    )


if __name__ == "__main__":
    main()

"""A book of two small chapters, with a package of its own, that runs in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
  language: python
---

"""
FIRST = (
    HEADER
    + """\
# First

A sentence of prose that is long enough for the page not to count as empty.

```{code-cell} ipython3
:tags: [parameters]

run_dir = "_build/quick"  # where results go
dataset = "toys"  # which table
epochs = 2  # passes
rate = 0.1  # per step
mode = "good"  # what to do
```

```{code-cell} ipython3
import os
import sys
import time

from unimat_book.record import Recorder, product
from unimat_toy.figures.draw import draw
from unimat_toy.kernels.launch import launch
from unimat_toy.tiny import double

rec = Recorder("01_first", run_dir)
rec("doubled", double(epochs))
for place in ("results/predictions/xrd.txt", "pretrained/model.txt"):
    path = product(f"{run_dir}/{place}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(launch(epochs)))
if mode == "raise":
    raise RuntimeError("as asked")
if mode == "wait":
    open("_build/waiting", "w").close()
    time.sleep(600)
if mode == "meet":  # goes on when another chapter is here too, however late it comes
    os.makedirs("_build/met", exist_ok=True)
    open("_build/met/01_first", "w").close()
    until = time.monotonic() + 120
    while len(os.listdir("_build/met")) < 2:
        assert time.monotonic() < until, "no other chapter runs meanwhile"
        time.sleep(0.02)
if mode == "die":
    os._exit(1)
if mode == "warn":
    print("careful", file=sys.stderr)
print(os.getcwd() == os.environ["UNIMAT_ROOT"])
draw(epochs)
```

The value is {glue:text}`doubled:d`.
"""
)
SECOND = (
    HEADER
    + """\
# Second

Reads what the first chapter wrote, and says so in a sentence of some length.

```{code-cell} ipython3
:tags: [parameters]

run_dir = "_build/quick"
```

```{code-cell} ipython3
from unimat_book.record import Recorder, chapter_results, require_file

first = chapter_results("01_first", run_dir)["doubled"]
seen = require_file(f"{run_dir}/results/predictions/xrd.txt", made_by="run 01").read_text()
Recorder("02_second", run_dir)("sum", first + int(seen))
```
"""
)
PARAMS = """\
quick:
  all: {run_dir: _build/quick}
full:
  all: {run_dir: data}
  01_first: {epochs: 5}
"""
RESULTS = (
    "<!-- results:begin -->\n\n*No results yet: `unimat-book run all --profile full` makes them.*"
    "\n\n<!-- results:end -->\n"
)
FILES = {
    "chapters/src/01_first.md": FIRST,
    "chapters/src/02_second.md": SECOND,
    "params.yml": PARAMS,
    "unimat_toy/__init__.py": "",
    "unimat_toy/base.py": "import yaml\n\nFACTOR = 2 * len([yaml])\n",
    "unimat_toy/unused.py": "X = 1\n",
    "unimat_toy/tiny.py": (
        "from .base import FACTOR\n\n\n"
        'def double(x):\n    """Twice x."""\n    return FACTOR * x\n\n\n'
        "def unreached():\n    return 1\n"
    ),
    "unimat_toy/figures/__init__.py": "",
    "unimat_toy/figures/draw.py": 'def draw(x):\n    return "a label", x\n',
    "unimat_toy/kernels/__init__.py": "",
    "unimat_toy/kernels/launch.py": (
        "_ROWS = 64\n\n\ndef launch(x):\n    return sum(x for _ in range(_ROWS)) // _ROWS\n"
    ),
    "index.md": (
        "# A small book\n\nIt has a landing page with one cross-page number, "
        "{glue:text}`chapters/01_first.ipynb::doubled:d`.\n\n"
        f"{RESULTS}\n"
        "<!-- status:begin -->\n<!-- status:end -->\n"
    ),
    "README.md": f"# A small book\n\n{RESULTS}",
    "_toc.yml": (
        "format: jb-book\nroot: index.md\nchapters:\n"
        "  - file: chapters/01_first.ipynb\n  - file: chapters/02_second.ipynb\n"
    ),
    "_config.yml": (
        "title: Small\nonly_build_toc_files: true\n"
        'exclude_patterns: [README.md]\nexecute:\n  execute_notebooks: "off"\n'
    ),
    "data/cache/toys.json": '{"table": "toys-0123.parquet"}',
}


def make_toy_book(root: Path) -> Path:
    """Write the toy book into an empty folder."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "_static").mkdir()
    return root


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Tool = Callable[..., Done]


def files(root: Path) -> dict[str, bytes]:
    """Everything outside ``_build``."""
    paths = (p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in paths
        if p.relative_to(root).parts[0] != "_build"
    }


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def stamp(path: Path) -> dict:
    return json.loads(path.read_text())["metadata"]["unimat"]


def hashes(root: Path, profile: str = "full") -> dict[str, object]:
    """What two runs of one book have in common: outputs and files, by their hashes."""
    folder = root if profile == "full" else root / "_build" / profile
    found = {}
    for path in sorted((folder / "chapters").glob("*.ipynb")):
        run = stamp(path)
        found[path.name] = [run[part] for part in ("outputs", "text", "read", "wrote")]
    return found


def start(root: Path, *words: str, **environment: str) -> subprocess.Popen:
    """The tool in a process of its own, at the head of a process group, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "unimat_book.run", *words],
        env={**os.environ, "UNIMAT_ROOT": str(root), **environment},
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # Behind nohup or an ampersand Ctrl-C is ignored, which a child inherits.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def processes_of(root: Path) -> list[str]:
    """Command lines of all processes, kernels too, that work on a book."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.environ().get("UNIMAT_ROOT") == str(root) and process.pid != os.getpid()
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def wait_until(condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def scratch(root: Path) -> list[Path]:
    folder = root / "_build" / "scratch"
    return list(folder.iterdir()) if folder.is_dir() else []

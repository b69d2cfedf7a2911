"""A scratch folder and one kernel in, both gone again whatever ends the run."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from traitlets.config import Config

from unimat_book.record import RUN_DIR, STAGING
from unimat_book.run.interruption import AT_THE_END, uninterrupted
from unimat_book.run.plain_yaml import BookError
from unimat_book.run.sources import Book
from unimat_lib.files import alone_in

KERNEL = "unimat-book"

HARMLESS = (
    "IProgress not found",  # tqdm.auto, in a kernel without widgets
    "The given NumPy array is not writable",  # PyTorch, of pandas' columns, which nobody writes to
)
"""Beginnings of warnings that say nothing about a chapter; any other one stops its publication."""


@contextmanager
def only_one(book: Book, what: str) -> Iterator[None]:
    """Refuse to do what another process does at this moment.

    Raises:
        BookError: Another process does it.
    """
    with ExitStack() as lock:
        try:
            lock.enter_context(alone_in(book.root / "_build" / "locks" / what, wait=False))
        except BlockingIOError:
            raise BookError(f"another process is at {what}: wait until it has ended") from None
        yield


def sweep(book: Book) -> Path:
    """Remove the scratch folders of runs that were killed; the folder that they are in."""
    parent = book.root / "_build" / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.iterdir():
        # A living run holds its folder locked; the lock of a dead one is free.
        with suppress(OSError), alone_in(folder, wait=False):
            shutil.rmtree(folder, ignore_errors=True)
    return parent


@contextmanager
def scratch_folder(book: Book, name: str) -> Iterator[Path]:
    """A folder of this run's own, which goes when the block ends or a signal ends the process."""
    with ExitStack() as end:
        # Nobody else sweeps a folder that is not locked yet.
        with uninterrupted(), alone_in(book.root / "_build" / "scratch"):
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=sweep(book)))
            remove = partial(shutil.rmtree, folder, ignore_errors=True)
            AT_THE_END.append(remove)
            end.callback(AT_THE_END.remove, remove)
            end.callback(remove)
            end.enter_context(alone_in(folder))
        yield folder


@contextmanager
def offered_kernel(book: Book, scratch: Path, run_dir: str, gpus: int | None) -> Iterator[None]:
    """Offer one kernel: this very interpreter, without the user's own IPython settings.

    Args:
        book: The book.
        scratch: The run's own folder; products wait in it until the run has succeeded.
        run_dir: The chapter's parameter of that name.
        gpus: Number of GPUs that the kernel sees; ``None`` shows it all.
    """
    environment = {
        "UNIMAT_ROOT": str(book.root),
        STAGING: str(scratch / "staging"),
        RUN_DIR: str(book.root / run_dir),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(book.root), os.getenv("PYTHONPATH")))),
        "PYTHONHASHSEED": "0",
        "IPYTHONDIR": str(scratch / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": ",".join(f"ignore:{beginning}" for beginning in HARMLESS),
    }
    if gpus is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = visible.split(",") if visible else [str(i) for i in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(cards[:gpus])
    launcher = "unimat_book.run.kernel_process"  # a kernel that dies with the tool
    words = [sys.executable, "-m", launcher, "-f", "{connection_file}", "--log-level=CRITICAL"]
    spec = {"argv": words, "display_name": "UniMat book", "language": "python", "env": environment}
    folder = scratch / "jupyter" / "kernels" / KERNEL
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    with variable("JUPYTER_PATH", str(scratch / "jupyter")):
        yield


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Give an environment variable a value while the block runs."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def execute(
    source: Path,
    executed: Path,
    *,
    book: Book,
    scratch: Path,
    cwd: Path,
    run_dir: str,
    gpus: int | None,
) -> None:
    """Run a notebook by papermill in the kernel of :func:`offered_kernel`.

    Args:
        source: The notebook.
        executed: Where to write it with its outputs, up to the cell that failed if one does.
        book: The book.
        scratch: The run's own folder.
        cwd: Folder that the notebook runs in.
        run_dir: As of :func:`offered_kernel`.
        gpus: As there.
    """
    import papermill

    with offered_kernel(book, scratch, run_dir, gpus):
        papermill.execute_notebook(
            source,
            executed,
            kernel_name=KERNEL,
            cwd=cwd,
            progress_bar=False,
            start_timeout=180,
            config=sockets(scratch),
        )


def sockets(scratch: Path) -> Config:
    """Settings by which a kernel is spoken to through sockets that belong to this run alone.

    Jupyter's usual ports are chosen before they are used: where another process takes one of them
    meanwhile, the kernel dies, or hangs until the client gives up. (The @ stands for a name of
    Linux that is no file.)
    """
    name, file = f"@unimat-{scratch.name}-{os.getpid()}", str(scratch / "connection.json")
    return Config({"KernelManager": {"transport": "ipc", "ip": name, "connection_file": file}})

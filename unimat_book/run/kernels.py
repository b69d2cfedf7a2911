"""A scratch folder and one kernel in, both gone again whatever ends the run."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unimat_book.run.sources import Book
from unimat_lib.files import alone_in

KERNEL = "unimat-book"


@contextmanager
def scratch_folder(book: Book, name: str) -> Iterator[Path]:
    """A folder of this run's own; those of runs that were killed are swept away first."""
    parent = book.root / "_build" / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.iterdir():
        # A living run holds its folder locked; the lock of a dead one is free.
        with suppress(OSError), alone_in(folder, wait=False):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    with alone_in(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


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
        "UNIMAT_STAGING": str(scratch / "staging"),
        "UNIMAT_RUN_DIR": str(book.root / run_dir),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(book.root), os.getenv("PYTHONPATH")))),
        "PYTHONHASHSEED": "0",
        "IPYTHONDIR": str(scratch / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm.auto, in a kernel without widgets
    }
    if gpus is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = visible.split(",") if visible else [str(i) for i in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(cards[:gpus])
    launcher = "unimat_book.run.kernel_process"  # a kernel that dies with the tool
    words = [sys.executable, "-m", launcher, "-f", "{connection_file}", "--log-level=ERROR"]
    spec = {
        "argv": words,
        "display_name": "UniMat book",
        "language": "python",
        "env": environment,
    }
    folder = scratch / "jupyter" / "kernels" / KERNEL
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, (str(scratch / "jupyter"), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["JUPYTER_PATH"]
        else:
            os.environ["JUPYTER_PATH"] = before

"""A scheduler's address in; :mod:`.preparation` with the workers of its dask cluster follows."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unimat_lib.datasets import chunks
from unimat_lib.datasets.preparation import preparation_identity, prepare_dataset
from unimat_lib.datasets.report import DataError, PreparationReport
from unimat_lib.files import replacing


def prepare_on_cluster(name: str, *, scheduler: str, **options: Any) -> PreparationReport:
    """:func:`.prepare_dataset` with its chunks done by a cluster: the same table, the same hash.

    Workers need this package, but no disk in common: a job brings its rows and returns its files.
    A worker that is lost costs the chunk that it had, which another one does. ``scheduler`` is an
    address such as ``tcp://host:8786``; a ``DataError`` is raised, too, if none answers there, dask
    is missing, or a worker has other code or other versions of the packages that count.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise DataError("a scheduler needs dask: pip install 'unimat-lib[cluster]'") from error
    try:
        client = Client(scheduler, timeout=20)
    except (OSError, ValueError) as error:
        raise DataError(f"no dask scheduler answers at {scheduler!r} ({error})") from error
    here = chunks.unordered  # replaced, not passed on: what chapters reach stays as it is
    chunks.unordered = functools.partial(_on_cluster, client, name)
    try:
        return prepare_dataset(name, **options)
    finally:
        chunks.unordered = here
        client.close()


def _on_cluster(client: Any, name: str, function: Any, jobs: Sequence, **_: Any) -> Iterator:
    """As :func:`.unordered`; two jobs a thread are under way, so that memory stays bounded."""
    from distributed import as_completed

    code, running, targets = preparation_identity(name).digest, as_completed(), {}

    def results(most: int) -> Iterator:
        while len(targets) > most:
            result, files = (future := next(running)).result()
            folder = targets.pop(future.key)
            for file, content in files.items():
                with replacing(folder / file) as temporary:
                    temporary.write_bytes(content)
            yield result

    for *arguments, target in map(list, jobs):
        path = Path(target)
        work = name, code, function, arguments, path.name
        future = client.submit(_files_of, *work, pure=False)
        targets[future.key] = path.parent
        running.add(future)
        yield from results(2 * sum(client.nthreads().values()))
    yield from results(0)


def _files_of(
    name: str, code: str, function: Callable[..., Any], arguments: Sequence[Any], target: str
) -> tuple[Any, dict[str, bytes]]:
    """A worker's part: what a job returns and the files that it wrote, its record last."""
    if (came := preparation_identity(name).digest) != code:
        raise DataError(f"a worker has code {came}, {code} expected: install the same there")
    with tempfile.TemporaryDirectory() as folder:
        result = function(*arguments, str(Path(folder, target)))
        files = sorted(Path(folder).iterdir(), key=lambda path: path.suffix == ".json")
        return result, {path.name: path.read_bytes() for path in files}

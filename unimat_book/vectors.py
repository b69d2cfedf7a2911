"""Unit vectors of many crystals in a file; of each query the nearest ones out.

The file is a NumPy array of half precision and is mapped, never read as a whole: a library may be
larger than the memory. :func:`nearest` compares with every vector. :func:`build_index` sorts them
into cells first (an inverted file, by faiss), and a query looks into the nearest cells only.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unimat_lib.files import replacing

if TYPE_CHECKING:  # the first answer of an index does not wait for torch
    import torch

_CHUNK = 2**18  # vectors compared at once
_PER_CELL = 64  # vectors that the centre of a cell is learnt from
_ROUNDS = 10  # of k-means


@contextlib.contextmanager
def new_vectors(path: str | os.PathLike[str], count: int, dim: int) -> Iterator[np.ndarray]:
    """An array float16 ``[count, dim]`` to be filled; the file is there once the block ends."""
    with replacing(path) as temporary:
        vectors = np.lib.format.open_memmap(temporary, "w+", np.float16, (count, dim))
        yield vectors
        vectors.flush()


def open_vectors(path: str | os.PathLike[str]) -> np.ndarray:
    """The vectors of a file, float16 ``[N, dim]``, mapped.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else.
    """
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path} holds no vectors ({error}): embed the library anew") from error
    if vectors.ndim != 2 or vectors.dtype != np.float16:
        what = f"float16 [N, dim] expected, but {vectors.dtype} {list(vectors.shape)} came"
        raise ValueError(f"{path}: {what}: embed the library anew")
    return vectors


def nearest(
    vectors: np.ndarray | torch.Tensor, queries: np.ndarray, *, count: int, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Exact cosines, float32 ``[Q, count]``, and places, int64 ``[Q, count]``, the largest first.

    Args:
        vectors: Unit vectors ``[N, dim]``: mapped, or a tensor that lies on the device already.
        queries: Unit vectors ``[Q, dim]``.
        count: How many are wanted, at most ``N``.
        device: Where they are compared, a chunk at a time.

    Raises:
        ValueError: The two have different dimensions, or more are wanted than there are.
    """
    import torch

    _check(vectors.shape, queries, count)
    asked = torch.as_tensor(np.asarray(queries, dtype=np.float32), device=device)
    best = asked.new_empty(len(asked), 0)
    places = torch.empty(len(asked), 0, dtype=torch.int64, device=device)
    for start in range(0, len(vectors), _CHUNK):
        chunk = vectors[start : start + _CHUNK]
        if not isinstance(chunk, torch.Tensor):
            chunk = torch.from_numpy(np.array(chunk))  # a copy: the map must not be written to
        score = asked @ chunk.to(device).float().T  # [Q, chunk]
        score, place = score.topk(min(count, score.shape[1]), dim=1)
        best, places = torch.cat([best, score], 1), torch.cat([places, place + start], 1)
        best, order = best.topk(min(count, best.shape[1]), dim=1)
        places = places.gather(1, order)
    return best.cpu().numpy(), places.cpu().numpy()


def build_index(
    vectors: np.ndarray, path: str | os.PathLike[str], *, cells: int | None = None, seed: int = 0
) -> Path:
    """Sort vectors ``[N, dim]`` into cells around learnt centres, and write that to ``path``.

    Memory holds the index (two bytes a number) and a chunk. By default there are 4 sqrt(N) cells,
    so that finding the cells and looking into some of them cost alike.

    Raises:
        ImportError: faiss is missing.
    """
    faiss = _faiss()
    cells = cells or max(1, min(round(4 * math.sqrt(len(vectors))), len(vectors) // _PER_CELL))
    index = faiss.index_factory(vectors.shape[1], f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.seed = _ROUNDS, seed
    drawn = np.random.default_rng(seed).permutation(len(vectors))[: _PER_CELL * cells]
    index.train(vectors[np.sort(drawn)].astype(np.float32))
    for start in range(0, len(vectors), _CHUNK):
        index.add(vectors[start : start + _CHUNK].astype(np.float32))
    with replacing(path) as temporary:
        faiss.write_index(index, str(temporary))
    return Path(path)


def open_index(path: str | os.PathLike[str]) -> Any:
    """An index by :func:`build_index`, mapped: cells are read when a query looks into them.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: faiss is missing.
        ValueError: The file is no index.
    """
    faiss = _faiss()
    if not Path(path).is_file():
        raise FileNotFoundError(f"no index at {path}: make it with build_index")
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        raise ValueError(f"{path} is no index ({error}): build it anew") from error


def search_index(
    index: Any, queries: np.ndarray, *, count: int, probes: int
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`nearest`, from the ``probes`` cells nearest to each query; -1 where they lack."""
    _check((index.ntotal, index.d), queries, count)
    index.nprobe = probes
    return index.search(np.ascontiguousarray(queries, dtype=np.float32), count)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact places ``[Q, K]`` that were found, places ``[Q, K]`` in any order."""
    both = [len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)]
    return float(np.sum(both) / exact.size)


def _check(library: tuple[int, ...], queries: np.ndarray, count: int) -> None:
    number, dim = library
    if queries.ndim != 2 or queries.shape[1] != dim:
        came = f"queries [Q, {dim}] expected, but {list(queries.shape)} came"
        raise ValueError(f"{came}: embed them by the same model")
    if not 1 <= count <= number:
        raise ValueError(f"count must lie in 1 to {number}, but {count} came")


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "an index of vectors needs faiss: pip install 'unimat-lib[search]'"
        ) from error
    return faiss

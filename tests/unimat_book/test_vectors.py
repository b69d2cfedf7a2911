"""Vectors in a file, their exact neighbours, and those of an index."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from unimat_book import vectors as store


def unit(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, dim))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_CHUNK", 700)  # several, the last one smaller
    path = tmp_path / "vectors.npy"
    with store.new_vectors(path, 2000, 16) as new:
        new[:] = unit(2000)
        assert not path.exists()
    return store.open_vectors(path)


def test_vectors_are_mapped_and_cannot_be_written(library):
    assert isinstance(library, np.memmap) and library.dtype == np.float16
    with pytest.raises(ValueError, match="read-only"):
        library[0] = 0


def test_exact_neighbours_are_those_of_one_product(library):
    queries = unit(30, seed=1)
    score, place = store.nearest(library, queries, count=5)
    whole = queries.astype(np.float32) @ library.astype(np.float32).T
    assert np.array_equal(place, np.argsort(-whole, axis=1)[:, :5])
    assert np.allclose(score, -np.sort(-whole, axis=1)[:, :5], atol=1e-6)
    there = torch.from_numpy(np.array(library))
    assert np.array_equal(store.nearest(there, queries, count=5)[1], place)
    assert store.nearest(library, queries[:1], count=2000)[1].shape == (1, 2000)


def test_the_index_finds_them_where_it_looks_everywhere(library, tmp_path):
    pytest.importorskip("faiss", reason="pip install 'unimat-lib[search]'")
    queries = unit(30, seed=1)
    _, exact = store.nearest(library, queries, count=5)
    index = store.open_index(store.build_index(library, tmp_path / "index", cells=20))
    score, place = store.search_index(index, queries, count=5, probes=20)
    assert store.recall(place, exact) > 0.98  # half precision may swap two that are alike
    assert np.allclose(score[:, 0], store.nearest(library, queries, count=1)[0][:, 0], atol=2e-3)
    shares = [
        store.recall(store.search_index(index, queries, count=5, probes=n)[1], exact)
        for n in (1, 5, 20)
    ]
    assert shares == sorted(shares) and shares[0] < shares[-1]


def test_recall_counts_places_in_any_order():
    assert store.recall(np.array([[1, 2], [3, -1]]), np.array([[2, 1], [3, 4]])) == 0.75


def test_what_does_not_fit_is_refused(library, tmp_path):
    with pytest.raises(ValueError, match=r"queries \[Q, 16\] expected, but \[3, 8\] came"):
        store.nearest(library, unit(3, dim=8), count=1)
    with pytest.raises(ValueError, match="1 to 2000, but 2001 came"):
        store.nearest(library, unit(3), count=2001)
    np.save(tmp_path / "other.npy", np.zeros(3))
    with pytest.raises(ValueError, match="float16"):
        store.open_vectors(tmp_path / "other.npy")
    (tmp_path / "broken.npy").write_bytes(b"text")
    with pytest.raises(ValueError, match="holds no vectors"):
        store.open_vectors(tmp_path / "broken.npy")


def test_an_index_that_is_none_is_named(tmp_path):
    pytest.importorskip("faiss", reason="pip install 'unimat-lib[search]'")
    with pytest.raises(FileNotFoundError, match="build_index"):
        store.open_index(tmp_path / "index")
    (tmp_path / "index").write_bytes(b"some other file, which is long enough to be read")
    with pytest.raises(ValueError, match="is no index"):
        store.open_index(tmp_path / "index")


def test_without_faiss_the_extra_is_named(library, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"unimat-lib\[search\]"):
        store.build_index(library, tmp_path / "index")

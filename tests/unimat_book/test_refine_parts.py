"""Refinement in parts: the same numbers, made once, and made again where a part is lost."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from lattices import GRID, bravais_crystals, errors_frame

from unimat_book.refined import _refine_part, refine_frame, refine_in_parts
from unimat_lib.views.batch import build_views
from unimat_powder.posterior import LatticeCounts

SETTINGS = dict(grid=GRID, fwhm=0.1)


@pytest.fixture(scope="module")
def case():
    crystals = bravais_crystals()
    rows = torch.tensor([1, 3, 6])  # cubic, hexagonal, tetragonal
    counts = LatticeCounts.of(crystals, torch.arange(len(crystals)), device="cpu")
    return errors_frame(crystals).iloc[rows.numpy()], crystals, rows, counts


def test_parts_equal_the_whole(case, tmp_path, monkeypatch):
    frame, crystals, rows, counts = case
    views = build_views(crystals, modalities=("xrd",), **SETTINGS)
    whole = refine_frame(frame, views, rows, counts=counts)
    shared = dict(settings=SETTINGS, counts=counts, folder=tmp_path, size=2)
    first = refine_in_parts(frame, crystals, rows, **shared)  # two parts: two processes
    pd.testing.assert_frame_equal(first, whole, rtol=1e-5, atol=1e-5)

    made = []
    one = _refine_part
    monkeypatch.setattr(refine_parts, "_refine_part", lambda job: (made.append(job[0]), one(job)))
    (lost, _) = sorted(tmp_path.glob("*/*.parquet"))
    lost.unlink()  # as after an interruption
    again = refine_in_parts(frame, crystals, rows, **shared)
    assert made == [lost]
    pd.testing.assert_frame_equal(again, first)

    other = frame.assign(a=frame["a"] * 1.001)
    refine_in_parts(other.iloc[:1], crystals, rows[:1], **shared)
    assert len(made) == 2  # another prediction is another refinement

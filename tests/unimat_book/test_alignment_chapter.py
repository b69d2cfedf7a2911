"""Tables of the chapters: recall, lost patterns, cells."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from unimat_book.chapters.alignment import lost_patterns, recall_table
from unimat_book.chapters.fusion import cells_table
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_powder.identify import Identification


def test_recall_is_the_mean_over_crystals_and_seeds():
    def ranks(*values):
        return pd.DataFrame({"material_id": list("abcd"), "xrd_to_structure": values})

    table = recall_table({"model": {0: ranks(1, 1, 2, 11), 1: ranks(1, 10, 12, 1)}})
    assert table.loc["model", "xrd to structure, recall@1 (%)"] == 50
    assert table.loc["model", "xrd to structure, recall@10 (%)"] == 75


def test_lost_patterns(prototype_table):
    some = prototype_table.select(range(4))
    # Structures 0 and 1 have changed places, the patterns of these crystals are the same.
    patterns = torch.eye(4)[[0, 0, 2, 3]]
    points = {"xrd": torch.eye(4), "structure": torch.eye(4)[[1, 0, 2, 3]]}
    lost, numbers = lost_patterns(points, patterns, some, depth=1)
    assert lost["query"].tolist() == some.info["formula"].tolist()[:2]
    assert lost["preferred structure"].tolist() == some.info["formula"].tolist()[1::-1]
    assert numbers["lost_share"] == 50
    assert numbers["lost_alike"] == pytest.approx(1)
    everything, numbers = lost_patterns(points, patterns, some, depth=4)
    assert len(everything) == 4 and numbers["lost_share"] == 0


def test_cells_beside_the_truth():
    rutile = worked_crystal()
    said = Identification(
        (3.0, 4.5, 4.6), (90.0, 90.0, 91.0), dict.fromkeys(CRYSTAL_SYSTEMS, 1 / 7)
    )
    table = cells_table(rutile, {"answer": said})
    assert table.index.tolist() == ["true", "answer"]
    assert table.loc["true", "a (Å)"] == pytest.approx(float(rutile.lengths[0, 0]))
    assert table.loc["answer"].tolist() == [3.0, 4.5, 4.6, 90.0, 90.0, 91.0]

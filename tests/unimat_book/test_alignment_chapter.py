"""Tables of the chapter on alignment: recall, lost patterns."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from unimat_book.chapters.alignment import lost_patterns, recall_table


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

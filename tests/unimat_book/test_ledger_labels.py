"""Answers to measured patterns, apart by whether the labelled cell explains the lines."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from unimat_book.ledger.labels import LABELS, by_label
from unimat_book.ledger.measured import FIRST_HALF, MEASURED_SETTINGS, load_outcomes
from unimat_book.record import project_root
from unimat_powder.answer import LEFT_OVER

RESULTS = project_root() / "data/results"


def frames_of(label_stray, **columns):
    """Outcomes of both settings: all right and confident, but for what is given."""
    n = len(label_stray)
    usual = {"in_library": True, "rank": 0, "system_right": True, "group_right": True}
    usual |= {"cell_rank": 0, "confident": True, "answer_right": True, "label_stray": label_stray}
    frame = pd.DataFrame(
        {k: v if k in columns else np.broadcast_to(v, n) for k, v in usual.items()}
    )
    return {(setting, "ours"): frame.assign(**columns) for setting in MEASURED_SETTINGS}


def test_labels_that_do_not_fit_are_counted_apart():
    table = by_label(frames_of([0.0, LEFT_OVER, 0.4, np.nan], cell_rank=[0, 7, -1, 0]))
    fits, does_not = (f"pattern alone, {name}" for name in LABELS)
    rows = table.set_index("measured")
    assert rows.loc["cell right, first answer (%)", fits] == "66.7, 2 of 3"
    assert rows.loc["cell right, first answer (%)", does_not] == "0.0, 0 of 1"
    assert rows.loc["confident (%)", fits] == "100.0, 3 of 3"


def test_where_no_label_fails_there_is_a_dash():
    table = by_label(frames_of([0.0, 0.1]))
    assert (table[f"with the elements, {list(LABELS)[1]}"] == "–").all()


def test_the_first_half_is_not_counted():
    stray = [0.9] * FIRST_HALF + [0.0, 0.9]
    assert by_label(frames_of(stray)).iloc[0, 1] == "100.0, 1 of 1"


@pytest.mark.skipif(
    not (RESULTS / "measured/measured_pattern-ours.parquet").is_file(),
    reason="no published outcomes: unimat-book run 08 --profile full",
)
def test_the_published_table_follows_from_the_published_outcomes():
    outcomes = load_outcomes(RESULTS / "measured", made_by="unimat-book run 08", taken_out=True)
    recorded = json.loads((RESULTS / "09_ledger.json").read_text("utf-8"))
    assert recorded["ledger_labels"] == by_label(outcomes).to_dict("records")

"""The results folder of a profile in, everything that the ledger counts out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from unimat_book.ledger.predictions import check_same_crystals, load_predictions
from unimat_book.ledger.ranks import load_ranks, recall_rows
from unimat_book.ledger.rows import ledger_rows
from unimat_book.ledger.settings import PREDICTIONS, RANKS, SETTINGS, VARIANTS


def load_all(
    folder: str | os.PathLike[str], *, profile: str
) -> tuple[dict[tuple[str, str], list[pd.DataFrame]], dict[tuple[str, str], list[pd.DataFrame]]]:
    """Read everything that the ledger counts.

    Args:
        folder: The ``results`` folder of a profile.
        profile: Its name, for the command in an error message.

    Returns:
        (setting, variant) to errors frames of the seeds, and the same to rank frames, in the order
        of the tables.

    Raises:
        FileNotFoundError: If a file is missing; the message holds the command that makes it.
        ValueError: If two files speak of different crystals.
    """
    found = []
    for kind, chapters, load in (
        ("predictions", PREDICTIONS, load_predictions),
        ("ranks", RANKS, load_ranks),
    ):
        keys = [(s, v) for s in SETTINGS for v in VARIANTS if (s, v) in chapters]
        commands = {k: f"unimat-book run {chapters[k]} --profile {profile}" for k in keys}
        found.append(
            {
                (s, v): list(
                    load(Path(folder) / kind, setting=s, variant=v, made_by=commands[s, v]).values()
                )
                for s, v in keys
            }
        )
    check_same_crystals(*(frame for part in found for seeds in part.values() for frame in seeds))
    return found[0], found[1]


def all_rows(
    frames: Mapping[tuple[str, str], Sequence[pd.DataFrame]],
    ranks: Mapping[tuple[str, str], Sequence[pd.DataFrame]],
    *,
    num_resamples: int = 1000,
) -> list[dict[str, object]]:
    """The rows of everything that :func:`load_all` read: predictions first, then recalls."""
    return [
        row
        for count, part in ((ledger_rows, frames), (recall_rows, ranks))
        for (setting, variant), seeds in part.items()
        for row in count(seeds, setting=setting, variant=variant, num_resamples=num_resamples)
    ]

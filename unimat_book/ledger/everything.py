"""The results folder of a profile in, everything that the ledger counts out."""

import os
from pathlib import Path

from unimat_book.ledger.predictions import check_same_crystals, load_predictions
from unimat_book.ledger.ranks import load_ranks, recall_rows
from unimat_book.ledger.rows import ledger_rows
from unimat_book.ledger.settings import PREDICTIONS, RANKS, SETTINGS, VARIANTS
from unimat_book.ledger.verdicts import ByKey


def load_all(folder: str | os.PathLike[str], *, profile: str) -> tuple[ByKey, ByKey]:
    """Read all errors frames and rank frames that the ledger counts, in the order of its tables.

    Args:
        folder: The ``results`` folder of a profile.
        profile: Its name, for the command in an error message.

    Raises:
        FileNotFoundError: If a file is missing; the message holds the command that makes it.
        ValueError: If two files speak of different crystals.
    """
    frames, ranks = {}, {}
    for found, kind, chapters, load in (
        (frames, "predictions", PREDICTIONS, load_predictions),
        (ranks, "ranks", RANKS, load_ranks),
    ):
        for s, v in ((s, v) for s in SETTINGS for v in VARIANTS if (s, v) in chapters):
            command = f"unimat-book run {chapters[s, v]} --profile {profile}"
            by_seed = load(Path(folder) / kind, setting=s, variant=v, made_by=command)
            found[s, v] = list(by_seed.values())
    check_same_crystals(*(x for part in (frames, ranks) for seeds in part.values() for x in seeds))
    return frames, ranks


def all_rows(frames: ByKey, ranks: ByKey, *, num_resamples: int) -> list[dict[str, object]]:
    """The rows of everything that :func:`load_all` read: predictions first, then recalls."""
    return [
        row
        for count, part in ((ledger_rows, frames), (recall_rows, ranks))
        for (setting, variant), seeds in part.items()
        for row in count(seeds, setting=setting, variant=variant, num_resamples=num_resamples)
    ]

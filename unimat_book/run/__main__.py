"""The words of a command line in, the exit status out; what went wrong is said in few words."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from unimat_book.run.interruption import end_cleanly_on_signals


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 if it worked."""
    end_cleanly_on_signals()  # before the imports, which take seconds
    from unimat_book.run.commands import parser
    from unimat_book.run.plain_yaml import BookError
    from unimat_book.run.sources import Book

    args = parser().parse_args(words)
    try:
        args.action(Book.here(), args)
    except (BookError, OSError) as error:  # an OSError: a full disk, a folder without permission
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Run, check and build the book: the only way a chapter becomes a published notebook.

    unimat-book run 03 --profile quick --set epochs=1
    unimat-book build --profile quick

The ``quick`` profile (CPU, embedded data) writes only under ``_build/quick``; ``full`` publishes to
``chapters/*.ipynb`` and ``data/results``. The parameters of both are in ``params.yml``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from unimat_book.run.checks import check, refresh, status
from unimat_book.run.execute import run
from unimat_book.run.headline import readme
from unimat_book.run.pages import build
from unimat_book.run.sources import PROFILES, Book, BookError


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1 expected, but {number} came")
    return number


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="unimat-book", description="Run, check, build the book.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, action: Any, profile: str | None, chapters: bool = False) -> Any:
        summary = action.__doc__.splitlines()[0]
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(action=action)
        if chapters:
            sub.add_argument("chapters", nargs="+", metavar="NN", help="number, name or all")
        if profile:
            sub.add_argument("--profile", choices=PROFILES, default=profile)
        return sub

    sub = command("run", run, "quick", chapters=True)
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override one parameter of params.yml (repeatable)",
    )
    sub.add_argument(
        "--jobs",
        type=_positive,
        metavar="N",
        help="chapters at a time (default: one per core in the quick profile, one in the full)",
    )
    sub.add_argument("--gpus", type=int, metavar="N", help="let the chapters see N GPUs only")
    command("refresh", refresh, "full", chapters=True)
    command("check", check, "full")
    command("build", build, "quick")
    command("status", status, None)
    command("readme", readme, None)
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 if it worked."""
    args = parser().parse_args(words)
    try:
        args.action(Book.here(), args)
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; finished notebooks are untouched", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

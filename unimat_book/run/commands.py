"""Run, check and build the book: the only way a chapter becomes a published notebook.

    unimat-book run 03 --profile quick --set epochs=1
    unimat-book build --profile quick
    unimat-book tutorials

The ``quick`` profile (CPU, embedded data) writes only under ``_build/quick``; ``full`` publishes to
``chapters/*.ipynb`` and ``data/results``. The parameters of both are in ``params.yml``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from unimat_book.run.ahead import ahead, spread
from unimat_book.run.checks import check, parameters, refresh, status
from unimat_book.run.execute import run
from unimat_book.run.headline import readme
from unimat_book.run.pages import build
from unimat_book.run.pdf import pdf
from unimat_book.run.sources import PROFILES
from unimat_book.run.tutorials import tutorials


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

    def overridable(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="override one parameter of params.yml (repeatable)",
        )
        return sub

    sub = overridable(command("run", run, "quick", chapters=True))
    sub.add_argument(
        "--jobs",
        type=_at_least(1),
        metavar="N",
        help="chapters at a time (default: one per core in the quick profile, one in the full)",
    )
    gpus = "let the chapters see N GPUs only"
    sub.add_argument("--gpus", type=_at_least(0), metavar="N", help=gpus)
    sub = overridable(command("ahead", ahead, "quick", chapters=True))
    sub.add_argument("--seed", type=int, required=True, metavar="S", help="the seed to train")
    sub = overridable(command("spread", spread, "full", chapters=True))
    sub.add_argument("--cards", type=_at_least(1), required=True, metavar="N", help="how many GPUs")
    command("refresh", refresh, "full", chapters=True)
    command("check", check, "full")
    command("build", build, "quick")
    command("pdf", pdf, "quick")
    command("status", status, None)
    sub = command("tutorials", tutorials, None)
    sub.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    command("readme", readme, None)
    sub = command("parameters", parameters, "quick")
    sub.add_argument("chapter", metavar="NN", help="number or name")
    return top


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"at least {least} expected, but {text} came")
        return int(text)

    return number

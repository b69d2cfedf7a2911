"""Files of measured patterns in, what they are out: the command ``unimat``, and ``identify``.

What takes long to import (torch and all that stands on it) is imported where it is needed: help
and mistakes in the arguments are answered at once.
"""

import argparse
import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import numpy as np

    from unimat_powder.answer import Answer, SearchResult
    from unimat_powder.formulas import Formula
    from unimat_powder.library.file import Library
    from unimat_powder.pattern import Pattern

_WAVELENGTHS = (0.01, 100.0)  # angstrom, as of a Pattern, whose import takes seconds
_LIKELY_NONE = 0.7  # probability that none fits, above which the elements may be wrong
_BELOW = 0.9  # share of negative intensities, above which a constant was subtracted
_FEW = 1000  # crystals; of a smaller library every answer says how small it is
_INTERRUPTED, _BROKEN_PIPE = 130, 141  # exit codes, as a shell gives them to SIGINT and SIGPIPE


@dataclass(frozen=True)
class _Question:
    """What was said about the sample."""

    elements: frozenset[str] | None = None
    formula: "Formula | None" = None
    wavelength: float | None = None


@dataclass(frozen=True, eq=False)
class _Ready:
    """What every file is answered with."""

    question: _Question
    formula: str | None  # reduced
    library: "Library"
    prior: "np.ndarray"  # [230]
    warnings: Sequence[str]


def identify(
    files_or_patterns: "str | Path | Pattern | Iterable[str | Path | Pattern]",
    *,
    elements: str | Iterable[str] | None = None,
    formula: str | None = None,
    wavelength: float | None = None,
    library: "str | Path | Library | None" = None,
) -> "list[Answer]":
    """Say which known crystal made each of some measured patterns.

    Args:
        files_or_patterns: One or more; files are read by :func:`.read_pattern`.
        elements: The crystal consists of exactly these, ``"Ti,O"`` or symbols one by one; only
            hydrogen, which X-rays do not see, may be missing or too many. ``None``: unknown.
        formula: Chemical formula instead, such as ``"TiO2"``. Its elements count as above, and
            where the library has crystals of that ratio, no others are asked.
        wavelength: X-ray wavelength in angstrom; wins over what files and patterns state.
        library: Known crystals, see ``unimat library``; ``None``: the library that
            ``UNIMAT_LIBRARY`` names, else what ``unimat library build mp`` built, else the small
            one that comes along.

    Returns:
        One answer for each, in order. One that could not be read has an ``error``.

    Raises:
        ValueError: The elements, formula or wavelength cannot be understood, or both elements and
            formula were given.
        OSError: The library cannot be read.
    """
    question = _question(elements, formula, wavelength)
    if isinstance(files_or_patterns, str | os.PathLike) or hasattr(files_or_patterns, "two_theta"):
        files_or_patterns = [files_or_patterns]
    return list(_answers(list(files_or_patterns), question, library))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``unimat identify scan.xrdml --elements Ti,O``; returns the exit code.

    0: every file was answered; 2: one was not, or the arguments are wrong.
    """
    if arguments is None:
        arguments = sys.argv[1:]
        if arguments[:1] == ["identify"]:
            signal.signal(signal.SIGINT, _end_at_once)
            # The tensors are small: threads wait for one another, on a busy computer four times
            # as long as one alone takes.
            os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        if list(arguments[:1]) == ["library"]:  # has a command line of its own
            from unimat_powder.library.build import main as library_main

            return library_main(arguments[1:])
        return _identify_command(_parser().parse_args(arguments))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read has had enough; the interpreter must not try to write the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (ValueError, OSError) as error:
        print("error:", _one_line(error), file=sys.stderr)
        return 2


def _end_at_once(number: int, frame: object) -> NoReturn:
    """Ctrl-C, where nothing has to be tidied up: an exception within an import of torch aborts."""
    os.write(2, b"\ninterrupted\n" if os.isatty(2) else b"interrupted\n")
    os._exit(_INTERRUPTED)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # one line without the usage, as all other errors
        self.exit(2, f"error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="unimat", description="Find the crystal behind a powder pattern.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    what = "say which known crystal made a measured pattern"
    sub = commands.add_parser("identify", help=what, description=what.capitalize() + ".")
    commands.add_parser("library", help="build or show a library of known crystals")
    what = "what a diffractometer wrote: .xy .xye .csv .xrdml .raw .brml .ras .uxd .cif ..."
    sub.add_argument("files", nargs="+", metavar="FILE", help=what)
    known = sub.add_mutually_exclusive_group()
    what = "the crystal consists of exactly these (hydrogen may be left out or added): Ti,O"
    known.add_argument("--elements", metavar="LIST", help=what)
    what = "its formula: as --elements, and of this ratio where there are such crystals: TiO2"
    known.add_argument("--formula", help=what)
    what = "in angstrom, or the anode of the tube for its K-alpha: 1.5406, Co; "
    what += "default: what the file states, else Cu K-alpha"
    sub.add_argument("--wavelength", type=_wavelength, metavar="A", help=what)
    what = "known crystals; default: $UNIMAT_LIBRARY, else what 'unimat library build mp' built, "
    what += "else the small library that comes along"
    sub.add_argument("--library", type=Path, metavar="PATH", help=what)
    what = "print a JSON list, an object a file, for programs to read"
    sub.add_argument("--json", action="store_true", help=what)
    what = "write pages with curves and candidates, and an index.html of them, into this folder"
    sub.add_argument("--report", type=_folder, metavar="DIR", help=what)
    return parser


def _folder(text: str) -> Path:
    if not text.strip():  # an unset variable of a script, perhaps; not the current folder
        raise argparse.ArgumentTypeError("expected the name of a folder, but nothing came")
    return Path(text)


def _wavelength(text: str) -> float:
    """A number of angstrom, or the K-alpha of a tube that is named by its anode."""
    if re.fullmatch(r"[A-Z][a-z]?", text):
        from unimat_powder.radiation import K_ALPHA, Radiation, settle_wavelength

        if text in K_ALPHA:  # as of a file that names its tube
            return settle_wavelength(Radiation(anode=text), None, name=text)[0]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _WAVELENGTHS[0] <= value <= _WAVELENGTHS[1]:
        low, high = _WAVELENGTHS
        raise argparse.ArgumentTypeError(
            f"expected a number of angstrom from {low:g} to {high:g} such as 1.5406, "
            f"but {text[:40]!r} came; or give the anode of the tube, such as Co"
        )
    return value


def _identify_command(given: argparse.Namespace) -> int:
    """``unimat identify``; returns the exit code."""
    question = _question(given.elements, given.formula, given.wavelength)
    named = os.environ.get("UNIMAT_LIBRARY")
    _check_library(given.library or (Path(named).expanduser() if named else None))
    if given.report is not None:
        _make_folder(given.report)
    from tqdm import tqdm

    from unimat_powder.report import index_row, page_name, write_index, write_page

    objects, rows, found, failed = [], [], False, False
    bar = tqdm(
        _answers(given.files, question, given.library),
        total=len(given.files),
        unit="file",
        leave=False,
        disable=None,  # where standard error is no terminal
    )
    for number, answer in enumerate(map(_doubted, bar), 1):
        failed |= answer.error is not None
        found |= bool(answer.cells)
        if given.report is not None:
            page = page_name(number, answer.file)
            if answer.error is None:
                write_page(answer, given.report / page)
            rows.append(index_row(answer, page))
        if given.json:
            objects.append(answer.to_json())
        else:
            bar.clear()
            _show(f"{answer}\n")
            bar.refresh()
    if given.json:
        _show(json.dumps(objects, indent=1, allow_nan=False))
    elif found:
        _show("What the percentages are of\n" + "\n".join(_percentage_lines()))
    if given.report is not None:
        write_index(rows, given.report / "index.html")
        print("report:", given.report / "index.html", file=sys.stderr)
    return 2 if failed else 0


def _doubted(answer: "Answer") -> "Answer":
    """An answer that, where its cell rests on an assumed wavelength alone, says so.

    Lines keep their pattern when all are scaled: without a crystal to compare with, they find the
    cell of another tube's scan with the right shape and the wrong size, and as probable.
    """
    from unimat_powder.answer import UNLIKELY

    if answer.wavelength_from != "default" or answer.verdict == "none":
        return answer
    agreeing = [phase.probability for phase in answer.phases if answer.agrees(phase)]
    if max(agreeing, default=0.0) >= UNLIKELY:
        return answer
    said = (
        "the wavelength is assumed, and no crystal of the library vouches for it: of another "
        "tube's scan the lines find a cell of the right shape and the wrong size (with Co 14 % "
        "too small, with Mo 2.2 times too large); give --wavelength"
    )
    return replace(answer, warnings=(*answer.warnings, said))


def _percentage_lines() -> list[str]:
    """What the percentages of a table are of; it has none of space groups."""
    from unimat_powder.answer import PERCENTAGES

    shown = {name: what for name, what in PERCENTAGES.items() if name != "space group"}
    return [f"  {name:15} {what}" for name, what in shown.items()]


def _make_folder(path: Path) -> None:
    """Make the folder of the report before the work begins, not after it."""
    from unimat_powder.report import is_ours

    index = path / "index.html"
    if index.exists() and not is_ours(index):
        raise FileExistsError(f"{index} is not a report of unimat: name another folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"expected a folder for the report, but {path} is a file or lies in one: name another"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder {path} may not be written to: name another")


def _question(
    elements: str | Iterable[str] | None, formula: str | None, wavelength: float | None
) -> _Question:
    """What was said about the sample, checked."""
    if elements is not None and formula is not None:
        raise ValueError("elements and a formula came: give one of them, the formula says more")
    low, high = _WAVELENGTHS
    if wavelength is not None and not low <= wavelength <= high:
        raise ValueError(
            f"expected a wavelength of {low:g} to {high:g} angstrom, but came {wavelength}"
        )
    if elements is not None:
        from unimat_powder.formulas import parse_elements

        text = elements if isinstance(elements, str) else ",".join(elements)
        return _Question(elements=parse_elements(text), wavelength=wavelength)
    if formula is not None:
        from unimat_powder.formulas import parse_formula

        found = parse_formula(formula)
        return _Question(frozenset(found), found, wavelength)
    return _Question(wavelength=wavelength)


def _answers(
    sources: "Sequence[str | Path | Pattern]",
    question: _Question,
    library: "str | Path | Library | None",
) -> "Iterator[Answer]":
    """The answers, one after the other."""
    from unimat_powder.answer import space_group_prior

    library, warnings = _opened(library)
    formula = question.formula
    reduced = formula.reduced if formula is not None and formula.amounts_known else None
    if formula is not None and reduced is None:
        warnings = [*warnings, "the formula leaves amounts open: only its elements were used"]
    prior = space_group_prior(library.space_group)
    ready = _Ready(question, reduced, library, prior, warnings)
    for number, source in enumerate(sources, 1):
        yield _answer(source, number, ready)


def _answer(source: "str | Path | Pattern", number: int, ready: _Ready) -> "Answer":
    """The answer for one file or pattern; whatever is wrong with it is in the answer."""
    import logging
    import traceback

    from unimat_powder.answer import Answer, make_answer
    from unimat_powder.peak_finding import find_lines
    from unimat_powder.peak_warnings import pattern_warnings
    from unimat_powder.search.search import search
    from unimat_powder.tubes import with_other_tubes, within_reach
    from unimat_powder.witnesses import Lines, shipped_reader, with_witnesses

    named = isinstance(source, str | os.PathLike)
    file = os.fspath(source) if named else f"pattern {number}"
    question = ready.question
    try:
        pattern = _lifted(within_reach(_pattern(source, question.wavelength)))
        result = search(pattern, ready.library, elements=question.elements, formula=ready.formula)
        lines = find_lines(pattern)
        told = {"elements": question.elements, "formula": ready.formula}
        seen = Lines(pattern, lines)
        result = with_witnesses(result, pattern, seen, shipped_reader(), **told)
        if pattern.wavelength_from == "default":
            among = {"elements": question.elements}
            result = with_other_tubes(result, pattern, ready.library, **among)
        return make_answer(
            result,
            pattern,
            file=file,
            prior=ready.prior,
            observed=seen.observed,
            warnings=[
                *pattern_warnings(pattern, lines),
                *_hints(result, question),
                *ready.warnings,
            ],
            elements=sorted(question.elements or ()),
            formula="" if question.formula is None else str(question.formula),
        )
    except (ValueError, OSError) as error:
        return Answer(file, error=_one_line(error))
    except Exception as error:  # a fault of ours must not cost the answers for the other files
        logging.getLogger(__name__).debug("%s", file, exc_info=True)
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        what = f"{type(error).__name__}: {_one_line(error)} ({where})"
        return Answer(file, error=f"a fault of the program, please report it: {what}")


def _lifted(pattern: "Pattern") -> "Pattern":
    """A pattern whose background lies below zero, as a whole moved up until it does not."""
    import numpy as np

    counts = pattern.intensity.numpy()
    if np.quantile(counts, _BELOW) >= 0:
        return pattern
    lowest = float(np.quantile(counts, 1 - _BELOW))
    said = (
        f"nine tenths of the intensities are negative, as if a constant had been subtracted: all "
        f"were raised by {-lowest:.5g}"
    )
    return replace(pattern, intensity=pattern.intensity - lowest, notes=(*pattern.notes, said))


def _hints(result: "SearchResult", question: _Question) -> list[str]:
    """What the answer rests on, and what to try where the given elements explain nothing."""
    hints = []
    if question.wavelength is not None:
        hints.append(
            f"everything here holds for the wavelength that was given, {question.wavelength:g} "
            "angstrom: with a wrong one a wrong cell can look certain"
        )
    if question.elements and result.lattices and result.none_probability >= _LIKELY_NONE:
        hints.append(
            "no crystal of exactly these elements fits well: cell and crystal system, where given, "
            "are those of relatives with other elements; of a mixture no single crystal has all "
            "elements: leave them out, or name those of one phase"
        )
    return hints


def _pattern(source: "str | Path | Pattern", wavelength: float | None) -> "Pattern":
    """The pattern of a file, or a given one with the wavelength that wins."""
    from unimat_powder.pattern import PatternError
    from unimat_powder.reading import read_pattern

    if not isinstance(source, str | os.PathLike):
        if wavelength is None:
            return source
        return replace(source, wavelength=wavelength, wavelength_from="argument")
    path = Path(source)
    if os.fspath(source) == "-":
        raise PatternError("standard input is not read: write it to a file and name that")
    if not path.exists():
        raise PatternError("there is no such file")
    if path.is_dir():
        raise PatternError(f"expected a file, but this is a folder: give its files, {path / '*'}")
    return read_pattern(path, wavelength=wavelength)


def _check_library(path: Path | None) -> None:
    """Refuse a library that is not there, before anything is imported."""
    if path is not None and not path.is_file():
        raise FileNotFoundError(
            f"expected a library of known crystals at {path}, but there is none: build one with "
            "'unimat library build mp', or name another with --library or UNIMAT_LIBRARY"
        )


def _opened(library: "str | Path | Library | None") -> "tuple[Library, list[str]]":
    """A library, and what has to be said about it."""
    from unimat_powder.library.file import Library, default_library

    if library is None or isinstance(library, str | os.PathLike):
        path = default_library() if library is None else Path(library)
        _check_library(path)
        library = Library.open(path)
    if len(library) >= _FEW:
        return library, []
    said = (
        f"the library holds only {len(library)} crystals; 'unimat library build mp' builds a large "
        "one, without which most samples cannot be recognised"
    )
    return library, [said]


def _one_line(error: Exception) -> str:
    """What an error says, on one line of bearable length."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f"{error.filename}: "
        text = f"{name}{error.strerror}"
    return text[:500] or type(error).__name__


def _show(text: str) -> None:
    """Print text, with what the terminal's encoding lacks escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


if __name__ == "__main__":
    sys.exit(main())

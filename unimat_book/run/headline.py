"""The ledger's file in, the table of results in README and on the landing page out."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unimat_book.ledger.settings import SETTINGS
from unimat_book.run.plain_yaml import BookError, read_yaml
from unimat_book.run.sources import Book
from unimat_lib.files import replacing

LEDGER_VARIANTS = {
    "paper": "Paper",
    "reproduction": "Reproduction",
    "ours": "Ours",
    "ours_refined": "Ours + refinement",
}


INFORMATION = {
    "paper": "as the paper",
    "reproduction": "as the paper",
    "ours": "further crystals",
    "ours_refined": "refined",
}
"""What each variant uses: the paper's inputs and data, further crystals, a fit to the lines."""

RETRIEVALS = (
    ("structure_aligned_xrd", "ours"),
    ("all_three", "ours"),
    ("structure_aligned_xrd", "reproduction"),
)


def results_block(book: Book, profile: str) -> str:
    """The headline table, from the ledger that a chapter of a profile writes."""
    path = book.results_dir(profile) / "ledger.json"
    if not path.is_file():
        return f"*No results yet: `unimat-book run all --profile {profile}` makes them.*"
    try:
        entries = json.loads(path.read_text("utf-8"))
        values = {(e["setting"], e["variant"], e["metric"]): e for e in entries}
        rows = [_ledger_row(values, setting) for setting in SETTINGS]
        below = [*_accuracy_line(values), *_measured_line(values), *_retrieval_line(book, values)]
        below += _alignment_line(values)
    except (ValueError, KeyError, TypeError) as error:
        raise BookError(
            f"{path}: expected a list of objects with setting, variant, metric, mean ({error!r})"
        ) from None
    heads = ["Setting<br><small>information used</small>"]
    for variant, name in LEDGER_VARIANTS.items():
        heads.append(f"{name}<br><small>{INFORMATION[variant]}</small>")
    heads.append(f"Crystal system, ours (%)<br><small>{INFORMATION['ours']}</small>")
    table = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    caption = (
        "Mean absolute error of a, b, c on test crystals, scaled (Å); in small print that of the "
        "plain lengths. Last, how many crystal systems are right."
    )
    return "\n".join([caption, "", *table, *rows, *(f"\n{line}" for line in below)])


def _ledger_row(values: Mapping[tuple[str, str, str], Mapping[str, Any]], setting: str) -> str:
    cells = [SETTINGS[setting]]
    for variant in LEDGER_VARIANTS:  # the paper prints two decimals
        entry = values.get((setting, variant, "scaled_length_mae"))
        cells.append(_ledger_cell(entry, 2 if variant == "paper" else 3))
        plain = values.get((setting, variant, "length_mae"))
        if variant == "ours" and plain is not None and plain["mean"] is not None:
            cells[-1] += f"<br><small>plain {_ledger_cell(plain, 3)}</small>"
    accuracy = values.get((setting, "ours", "crystal_system_accuracy"))
    cells.append(_ledger_cell(accuracy, 1))
    return "| " + " | ".join(cells) + " |"


def _ledger_cell(entry: Mapping[str, Any] | None, digits: int) -> str:
    if entry is None or entry["mean"] is None:
        return "–"
    shown = f"{entry['mean']:.{digits}f}"
    return f"{shown} ± {entry['std']:.{digits}f}" if entry.get("std") is not None else shown


def _accuracy_line(values: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Iterator[str]:
    fused = ("xrd_composition_aligned_fused", "paper", "crystal_system_accuracy")
    if fused in values:
        shown = _ledger_cell(values[fused], 1)
        yield f"Crystal system: the paper's best is {shown} %; of which setting is not known to us."


def _measured_line(values: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Iterator[str]:
    """Measured patterns, answered by library, lines and network together."""
    names = ("crystal_system_accuracy", "cell_first", "confident_share", "wrong_among_confident")
    keys = [
        (f"measured_{given}", "ours", name) for given in ("pattern", "elements") for name in names
    ]
    if not all(key in values for key in keys):
        return
    numbers = [f"{values[key]['mean']:.1f}" for key in keys]
    system, cell, share, wrong = (
        f"{one} % ({other} % with the elements)"
        for one, other in zip(numbers[:4], numbers[4:], strict=True)
    )
    yield (
        f"Measured: of {values[keys[0]]['n_test']} patterns from instruments, library, indexing "
        f"and network together name the crystal system of {system} and the cell of {cell}; {share} "
        f"of the answers are confident, of which {wrong} are wrong."
    )


def _retrieval_line(
    book: Book, values: Mapping[tuple[str, str, str], Mapping[str, Any]]
) -> Iterator[str]:
    for setting, variant in RETRIEVALS:
        found = [values.get((setting, variant, f"recall_at_{k}")) for k in (1, 10)]
        if None in found:
            continue
        first, ten = (_ledger_cell(entry, 1) for entry in found)
        name = f"{LEDGER_VARIANTS[variant].lower()}; {SETTINGS[setting]}"
        yield (
            f"Retrieval: among all {found[0]['n_test']:,} test crystals a pattern finds its "
            f"structure first in {first} % and among ten in {ten} % of cases ({name})."
            + _published_recall(book)
        )
        return


def _alignment_line(values: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Iterator[str]:
    """What joint training gives beside the same compute without it, in all metrics."""
    metrics = {
        "scaled_length_mae": ("scaled", 3, "Å"),
        "length_mae": ("plain", 3, "Å"),
        "angle_mae": ("angles", 2, "degrees"),
        "crystal_system_accuracy": ("crystal system", 1, "%"),
    }
    told = []
    for metric, (name, digits, unit) in metrics.items():
        pair = [
            values.get((f"alignment_{kind}", "test", metric)) for kind in ("equal_compute", "joint")
        ]
        if None in pair:
            return
        alone, joint = (f"{entry['mean']:.{digits}f}" for entry in pair)
        told.append(f"{name} {alone} and {joint} {unit}")
    yield (
        f"Alignment: structure encoders trained alone and jointly with patterns, at equal compute, "
        f"{pair[0]['seeds']} seeds: {'; '.join(told)}."
    )


def _published_recall(book: Book) -> str:
    path = book.root / "data/published.yml"
    if not path.is_file():
        return ""
    claims = read_yaml(path)["pxrdgen"]["claims"]
    best = [max(c["value"] for c in claims if c["metric"] == f"recall_at_{k}") for k in (1, 10)]
    return f" PXRDGen's logs hold {best[0]:.1f} % and {best[1]:.1f} % with its best encoder."


def fill(text: str, name: str, content: str) -> str:
    """Put ``content`` between the two comment lines called ``name``, if the text has them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", flags=re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n\n{content}\n\n{end}", text)


def _filled_pages(book: Book) -> Iterator[tuple[Path, str, str]]:
    block = results_block(book, "full")
    for name in ("README.md", "index.md"):
        path = book.root / name
        if path.is_file():
            text = path.read_text("utf-8")
            yield path, text, fill(text, "results", block)


def block_problems(book: Book) -> list[str]:
    """Pages whose table of results is missing or is not that of the ledger."""
    problems = []
    for path, text, filled in _filled_pages(book):
        if any(text.count(f"<!-- results:{end} -->") != 1 for end in ("begin", "end")):
            problems.append(
                f"{path.name}: expected the lines <!-- results:begin --> and <!-- results:end -->, "
                "once each, with the results table between them: put them back, then run: "
                "unimat-book readme"
            )
        elif text != filled:
            problems.append(
                f"{path.name}: the results table is not that of data/results/ledger.json; "
                "run: unimat-book readme"
            )
    return problems


def readme(book: Book, args: argparse.Namespace) -> None:
    """Write the headline table into README.md and index.md."""
    for path, text, filled in _filled_pages(book):
        if text != filled:
            with replacing(path) as temporary:
                temporary.write_text(filled, encoding="utf-8")
        print(f"{path.name}: {'results renewed' if text != filled else 'results were up to date'}")

"""Run, check and build the book: the only way a chapter becomes a published notebook.

    python tools/book.py run 03 --profile quick --set epochs=1
    python tools/book.py build --profile quick

The ``quick`` profile (CPU, embedded data) writes only under ``_build/quick``; ``full`` publishes to
``chapters/*.ipynb`` and ``data/results``. The parameters of both are in ``params.yml``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import stamps
import yaml
from sources import PROFILES, Book, BookError, Chapter, parse_settings

KERNEL = "unimat-book"
NOTICE = (
    "Quick profile: partly synthetic crystals and minutes of training. "
    "It shows that everything runs; no claim rests on its numbers."
)


# ---------------------------------------------------------------------------------------- run

# What each chapter reads of what others wrote. One that is not listed waits for all before it
# (but for those that wait for it).
READS: dict[str, tuple[str, ...]] = {
    "01_crystals_and_splits": (),
    "02_three_views": (),
    "03_encoders": (),
    "04_alignment": ("03_encoders",),
    "05_fusion": ("03_encoders",),
    "06_crystal_systems": ("03_encoders", "05_fusion", "09_refinement"),
    "07_ledger": ("03_encoders", "04_alignment", "05_fusion", "09_refinement"),
    "08_performance": (),
    "09_refinement": ("03_encoders", "05_fusion"),
}


def run(book: Book, args: argparse.Namespace) -> None:
    """Run chapters, side by side where none reads what the other writes."""
    chosen = book.select(args.chapters)
    settings = parse_settings(args.set)
    parameters = book.parameters(args.profile, settings)
    for name in settings:
        if not any(name in chapter.parameters for chapter in chosen):
            raise BookError(f"--set {name}: none of the chosen chapters has this parameter")
    for chapter in chosen:
        _check_run_dir(book, chapter, args.profile, parameters[chapter.name])
    cores = len(os.sched_getaffinity(0))
    # On a GPU chapters would share its memory, and the times that they publish would be wrong.
    jobs = args.jobs or (cores if args.profile == "quick" else 1)
    _exit_on_sigterm()
    begun = time.monotonic()
    if jobs > 1 and len(chosen) > 1:
        run_side_by_side(
            chapter_waits([chapter.name for chapter in chosen]),
            lambda name: _run_command(book.chapters[name], args),
            jobs=jobs,
            environment={**os.environ, "UNIMAT_ROOT": str(book.root)},
            cores=cores,
        )
    else:
        for name in running_order([chapter.name for chapter in chosen]):
            run_chapter(book, book.chapters[name], args.profile, parameters[name], gpus=args.gpus)
    if len(chosen) > 1:
        print(f"{len(chosen)} chapters in {time.monotonic() - begun:.0f} s", flush=True)


def _run_command(chapter: Chapter, args: argparse.Namespace) -> list[str]:
    """Command line that runs one of the chapters asked for."""
    own = [pair for pair in args.set if pair.partition("=")[0] in chapter.parameters]
    words = [sys.executable, str(Path(__file__).resolve()), "run", chapter.name]
    words += [f"--profile={args.profile}", *(f"--set={pair}" for pair in own)]
    return words + ([] if args.gpus is None else [f"--gpus={args.gpus}"])


def chapter_waits(names: Sequence[str]) -> dict[str, set[str]]:
    """For each chapter to run, in reading order, those of the others that must be run before."""
    earlier = {
        name: [other for other in names[:i] if name not in READS.get(other, ())]
        for i, name in enumerate(names)
    }
    return {name: set(names) & set(READS.get(name, earlier[name])) for name in names}


def running_order(names: Sequence[str]) -> list[str]:
    """Chapters in reading order, but each after those whose results it reads."""
    waits, ordered = chapter_waits(names), []
    while len(ordered) < len(names):
        ordered.append(next(n for n in names if n not in ordered and waits[n] <= set(ordered)))
    return ordered


def run_side_by_side(
    waits: Mapping[str, set[str]],
    command: Callable[[str], list[str]],
    *,
    jobs: int,
    environment: Mapping[str, str],
    cores: int,
) -> None:
    """Run one process per chapter, up to ``jobs`` at a time, each as soon as it may.

    Those that most others wait for go first. When one fails the running ones finish, and nothing
    else begins.

    Args:
        waits: For each chapter those that must be done before.
        command: Command line that runs a chapter.
        jobs: Largest number of chapters at a time.
        environment: Environment of the processes.
        cores: Processor cores, shared out among the processes.

    Raises:
        BookError: A chapter failed; its own process has said why.
    """
    threads = str(max(cores // min(jobs, len(waits)), 1))
    environment = {**environment, "OMP_NUM_THREADS": threads}
    weight = {name: len(_followers(name, waits)) for name in waits}
    running: dict[str, subprocess.Popen] = {}
    done: set[str] = set()
    failed: list[str] = []
    try:
        while running or (len(done) < len(waits) and not failed):
            ready = [n for n in waits if n not in done | running.keys() and waits[n] <= done]
            ready.sort(key=lambda name: -weight[name])
            for name in ready[: 0 if failed else jobs - len(running)]:
                running[name] = subprocess.Popen(command(name), env=environment)
            ended = [name for name, process in running.items() if process.poll() is not None]
            for name in ended:
                (failed.append if running.pop(name).returncode else done.add)(name)
            if not ended:
                time.sleep(0.05)
    finally:
        for process in running.values():  # after an interruption
            process.terminate()
        for process in running.values():
            process.wait()
    if failed:
        left = [name for name in waits if name not in done and name not in failed]
        also = f"; not run: {', '.join(left)}" if left else ""
        raise BookError(f"failed: {', '.join(failed)} (see above){also}")


def _followers(name: str, waits: Mapping[str, set[str]]) -> set[str]:
    """All chapters that wait for one, directly or not."""
    direct = {other for other, before in waits.items() if name in before}
    return direct.union(*(_followers(other, waits) for other in direct))


def run_chapter(
    book: Book, chapter: Chapter, profile: str, parameters: Mapping[str, Any], *, gpus: int | None
) -> Path:
    """Run one chapter in a scratch folder and, only if all of it worked, move it into place."""
    import papermill

    target = book.notebook_path(chapter.name, profile)
    hashes = stamps.chapter_hashes(book, chapter)
    print(f"{chapter.name}: running ({profile})", flush=True)
    with _scratch(book, chapter.name) as scratch:
        executed = scratch / f"{chapter.name}.ipynb"
        source = nbformat.from_dict(json.loads(json.dumps(chapter.notebook)))
        source.cells[chapter.parameters_index].source = chapter.source_with(parameters)
        nbformat.write(source, scratch / "source.ipynb")
        begun = time.monotonic()
        try:
            with _kernel(book, scratch, gpus):
                papermill.execute_notebook(
                    scratch / "source.ipynb",
                    executed,
                    kernel_name=KERNEL,
                    cwd=book.root,
                    progress_bar=False,
                    start_timeout=180,
                )
        except BaseException as error:
            kept = _keep_failed(book, executed)
            print(f"{chapter.name}: failed after {time.monotonic() - begun:.1f} s", flush=True)
            if isinstance(error, Exception):
                raise BookError(_failure_message(chapter, error, kept, target)) from error
            raise
        seconds = time.monotonic() - begun
        notebook = stamps.with_prose(chapter, nbformat.read(executed, as_version=4), parameters)
        if notebook is None:
            raise BookError(f"{chapter.name}: the kernel changed the chapter's own code cells")
        stamp = stamps.make_stamp(book, chapter, profile, parameters, seconds)
        # The tree may have been edited meanwhile: what counts is what it was at the start.
        stamp.update(hashes)
        notebook.metadata = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python", "file_extension": ".py"},
            "unimat": stamp,
        }
        nbformat.validate(notebook)
        for result in sorted((scratch / "results").glob("*.json")):
            _replace(
                result.read_text("utf-8"),
                book.root / parameters["run_dir"] / "results",
                result.name,
            )
        _replace(nbformat.writes(notebook) + "\n", target.parent, target.name)
    for problem in stamps.output_problems(notebook):
        print(f"{chapter.name}: note: {problem}", flush=True)
    print(f"{chapter.name}: done in {seconds:.1f} s -> {_short(book, target)}", flush=True)
    return target


def _check_run_dir(
    book: Book, chapter: Chapter, profile: str, parameters: Mapping[str, Any]
) -> None:
    run_dir = parameters.get("run_dir")
    if not isinstance(run_dir, str):
        raise BookError(f"{chapter.path}: the chapter needs a parameter run_dir (a folder)")
    inside = (book.root / run_dir).resolve().is_relative_to(book.build_dir("quick"))
    if profile == "quick" and not inside:
        raise BookError(
            f"{chapter.name}: run_dir is {run_dir!r}, but the quick profile writes only under "
            "_build/quick: set it in params.yml, quick/all"
        )


@contextmanager
def _scratch(book: Book, name: str) -> Iterator[Path]:
    parent = book.root / "_build" / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _kernel(book: Book, scratch: Path, gpus: int | None) -> Iterator[None]:
    """Offer one kernel: this very interpreter, without the user's own IPython settings."""
    environment = {
        "UNIMAT_ROOT": str(book.root),
        "UNIMAT_STAGING": str(scratch / "results"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(book.root), os.getenv("PYTHONPATH")))),
        "PYTHONHASHSEED": "0",
        "IPYTHONDIR": str(scratch / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm.auto, in a kernel without widgets
    }
    if gpus is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = visible.split(",") if visible else [str(i) for i in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(cards[:gpus])
    spec = {
        "argv": [
            sys.executable,
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
            "--log-level=ERROR",
        ],
        "display_name": "UniMat book",
        "language": "python",
        "env": environment,
    }
    folder = scratch / "jupyter" / "kernels" / KERNEL
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    before = os.environ.get("JUPYTER_PATH")
    own = str(scratch / "jupyter")
    os.environ["JUPYTER_PATH"] = f"{own}{os.pathsep}{before}" if before else own
    try:
        yield
    finally:
        if before is None:
            del os.environ["JUPYTER_PATH"]
        else:
            os.environ["JUPYTER_PATH"] = before


def _exit_on_sigterm() -> None:
    """Turn SIGTERM into an ordinary exit, so that the kernel is stopped and scratch removed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _keep_failed(book: Book, executed: Path) -> Path | None:
    if not executed.is_file():
        return None
    folder = book.root / "_build" / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(executed, folder / executed.name))


def _failure_message(chapter: Chapter, error: Exception, kept: Path | None, target: Path) -> str:
    lines = [f"{chapter.name} did not run through; {target} is untouched."]
    if hasattr(error, "cell_index"):  # papermill's PapermillExecutionError
        source = chapter.notebook.cells[error.cell_index].source.strip().splitlines()
        lines.append(f"  cell {error.cell_index}: {source[0] if source else ''}")
        lines.append(f"  {error.ename}: {error.evalue}")
        where = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).splitlines()
        lines += [f"    | {line}" for line in where[-12:]]
    else:
        lines.append(f"  {type(error).__name__}: {error}")
    if kept:
        lines.append(f"  the notebook up to there: {kept}")
    return "\n".join(lines)


def _replace(text: str, folder: Path, name: str) -> None:
    """Write a file as a whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.{os.getpid()}.part"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / name)


def _short(book: Book, path: Path) -> str:
    return str(path.relative_to(book.root)) if path.is_relative_to(book.root) else str(path)


# ------------------------------------------------------------------------------ check, refresh


def find_problems(book: Book, profile: str) -> list[str]:
    """Everything that keeps the finished notebooks of a profile from being published."""
    parameters = book.parameters(profile)
    problems = _toc_problems(book)
    tables: dict[tuple[str, str], list[str]] = {}
    for name, chapter in book.chapters.items():
        again = f"python tools/book.py run {name.split('_')[0]} --profile {profile}"
        try:
            notebook = stamps.read_notebook(book.notebook_path(name, profile), again)
        except BookError as error:
            problems.append(str(error))
            continue
        problems += [f"{name}: {text}" for text in stamps.output_problems(notebook)]
        reasons = stamps.stale_reasons(book, chapter, notebook, profile, parameters[name])
        if profile == "full" and name in book.pending:
            if not reasons:
                problems.append(f"{name} is up to date: take it out of chapters/pending.yml")
            continue
        problems += [f"{name}: {reason}; run: {again}" for reason in reasons]
        if not reasons and stamps.prose_differs(chapter, notebook):
            problems.append(
                f"{name}: the text is newer than the notebook; no run is needed: "
                f"python tools/book.py refresh {name.split('_')[0]} --profile {profile}"
            )
        stamp = notebook.metadata.get("unimat", {})
        if stamp.get("data"):
            dataset = stamp.get("parameters", {}).get("dataset")
            tables.setdefault((dataset, stamp["data"]), []).append(name)
    for dataset in {dataset for dataset, _ in tables}:
        used = {table: names for (d, table), names in tables.items() if d == dataset}
        if len(used) > 1:
            listed = "; ".join(f"{table}: {', '.join(names)}" for table, names in used.items())
            problems.append(f"chapters ran on different tables of {dataset}: {listed}")
    if profile == "full":
        problems += _block_problems(book)
    return problems


def _toc_problems(book: Book) -> list[str]:
    listed = {Path(page).stem for page in book.toc if page.endswith(".ipynb")}
    problems = [f"_toc.yml lacks chapters/{n}.ipynb" for n in book.chapters if n not in listed]
    return problems + [
        f"_toc.yml lists {name}, but chapters/src/{name}.md is missing"
        for name in sorted(listed - book.chapters.keys())
    ]


def check(book: Book, args: argparse.Namespace) -> None:
    """Say what is wrong with the finished notebooks, one problem a line."""
    problems = find_problems(book, args.profile)
    for problem in problems:
        print(problem)
    if problems:
        raise BookError(f"{len(problems)} problem(s) in the {args.profile} profile")
    pending = book.pending if args.profile == "full" else {}
    for name, why in pending.items():
        print(f"{name} is older than its source, and its page says so: {why}")
    fresh = len(book.chapters) - len(pending)
    print(f"{fresh} chapters are whole and match their sources ({args.profile})")


def refresh(book: Book, args: argparse.Namespace) -> None:
    """Put edited text into finished notebooks whose code is unchanged, without a run."""
    for chapter in book.select(args.chapters):
        again = f"python tools/book.py run {chapter.name.split('_')[0]} --profile {args.profile}"
        path = book.notebook_path(chapter.name, args.profile)
        notebook = stamps.read_notebook(path, again)
        used = notebook.metadata.get("unimat", {}).get("parameters", {})
        fresh = stamps.with_prose(chapter, notebook, used)
        if fresh is None:
            raise BookError(f"{chapter.name}: code or parameter names changed; run: {again}")
        changed = stamps.prose_differs(chapter, notebook)
        if changed:
            _replace(nbformat.writes(fresh) + "\n", path.parent, path.name)
        print(f"{chapter.name}: {'text renewed' if changed else 'text was up to date'}")


# ----------------------------------------------------------------------------- status, readme


def status_table(book: Book, profile: str) -> str:
    """The stamps of a profile as a Markdown table."""
    parameters = book.parameters(profile)
    rows = ["| Chapter | Run on | Device | Minutes | Data | State |", "|---|---|---|---:|---|---|"]
    for name, chapter in book.chapters.items():
        path = book.notebook_path(name, profile)
        if not path.is_file():
            rows.append(f"| {name} | – | – | – | – | not run |")
            continue
        notebook = stamps.read_notebook(path, "")
        stamp = notebook.metadata.get("unimat", {})
        stale = stamps.stale_reasons(book, chapter, notebook, profile, parameters[name])
        minutes = stamp.get("seconds", 0) / 60
        cells = [name, stamp.get("date", "–")[:10], stamp.get("device", "–"), f"{minutes:.1f}"]
        cells += [f"`{Path(stamp['data']).stem}`" if stamp.get("data") else "–"]
        cells += [f"stale: {'; '.join(stale)}".replace("|", "\\|") if stale else "fresh"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def status(book: Book, args: argparse.Namespace) -> None:
    """Print the table of stamps of each profile."""
    for profile in PROFILES:
        print(f"{profile}\n{status_table(book, profile)}\n")


# As unimat_lib.ledger.SETTINGS, whose import would take seconds; a test compares the two.
SETTINGS = {
    "structure": "structure",
    "structure_aligned_xrd": "structure, aligned with XRD",
    "xrd": "XRD",
    "composition": "composition",
    "xrd_composition_aligned_fused": "XRD + composition, aligned and fused",
    "all_three": "structure + XRD + composition",
}
LEDGER_VARIANTS = {
    "paper": "Paper",
    "reproduction": "Reproduction",
    "ours": "Ours",
    "ours_refined": "Ours + refinement",
}
RETRIEVALS = (
    ("structure_aligned_xrd", "ours"),
    ("all_three", "ours"),
    ("structure_aligned_xrd", "reproduction"),
)
"""Which recall the line below the table tells of: the first that there is."""


def results_block(book: Book, profile: str) -> str:
    """The headline table, from the ledger that a chapter of a profile writes."""
    path = book.results_dir(profile) / "ledger.json"
    if not path.is_file():
        return f"*No results yet: `python tools/book.py run all --profile {profile}` makes them.*"
    try:
        entries = json.loads(path.read_text("utf-8"))
        values = {(e["setting"], e["variant"], e["metric"]): e for e in entries}
        rows = [_ledger_row(values, setting) for setting in SETTINGS]
        below = [*_accuracy_line(values), *_retrieval_line(book, values)]
    except (ValueError, KeyError, TypeError) as error:
        raise BookError(
            f"{path}: expected a list of objects with setting, variant, metric, mean ({error!r})"
        ) from None
    heads = [
        *("Setting", *LEDGER_VARIANTS.values()),
        *("Plain length, ours (Å)", "Crystal system, ours (%)"),
    ]
    table = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    caption = "Mean absolute error of a, b, c on test crystals, scaled (Å); plain where it says so."
    return "\n".join([caption, "", *table, *rows, *(f"\n{line}" for line in below)])


def _ledger_row(values: Mapping[tuple[str, str, str], Mapping[str, Any]], setting: str) -> str:
    cells = [SETTINGS[setting]]
    for variant in LEDGER_VARIANTS:  # the paper prints two decimals
        entry = values.get((setting, variant, "scaled_length_mae"))
        cells.append(_ledger_cell(entry, 2 if variant == "paper" else 3))
    for metric, digits in (("length_mae", 3), ("crystal_system_accuracy", 1)):
        cells.append(_ledger_cell(values.get((setting, "ours", metric)), digits))
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


def _published_recall(book: Book) -> str:
    path = book.root / "data/published.yml"
    if not path.is_file():
        return ""
    claims = yaml.safe_load(path.read_text("utf-8"))["pxrdgen"]["claims"]
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


def _block_problems(book: Book) -> list[str]:
    return [
        f"{path.name}: the results table is not that of data/results/ledger.json; "
        "run: python tools/book.py readme"
        for path, text, filled in _filled_pages(book)
        if text != filled
    ]


def readme(book: Book, args: argparse.Namespace) -> None:
    """Write the headline table into README.md and index.md."""
    for path, text, filled in _filled_pages(book):
        if text != filled:
            _replace(filled, path.parent, path.name)
        print(f"{path.name}: {'results renewed' if text != filled else 'results were up to date'}")


# -------------------------------------------------------------------------------------- build


def build(book: Book, args: argparse.Namespace) -> None:
    """Check a profile's notebooks, then build its pages from a copy, so that the tree is clean."""
    problems = find_problems(book, args.profile)
    if problems:
        again = f"python tools/book.py run all --profile {args.profile}"
        raise BookError("\n".join([*problems, f"not built; to run everything anew: {again}"]))
    folder = stage(book, args.profile)
    log = book.build_dir(args.profile) / "build.log"
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", str(folder), "-n", "-W", "--keep-going"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    log.write_text(output, encoding="utf-8")
    pages = folder / "_build" / "html"
    wrong = [line for line in output.splitlines() if re.search(r"WARNING|ERROR|Exception", line)]
    wrong += page_problems(book, pages)
    if done.returncode or wrong:
        listed = "\n".join(dict.fromkeys(wrong)) or "\n".join(output.splitlines()[-20:])
        raise BookError(f"{listed}\nthe pages were not built without warnings; whole log: {log}")
    print(f"{len(book.toc)} pages built. Open {pages / 'index.html'}")


def stage(book: Book, profile: str) -> Path:
    """Copy the pages of the table of contents, the generated tables filled in."""
    folder = book.build_dir(profile) / "book"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "chapters").mkdir(parents=True)
    tables = {"results": results_block(book, profile), "status": status_table(book, profile)}
    for page in book.toc:
        target = folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if page.endswith(".ipynb"):
            shutil.copyfile(book.notebook_path(Path(page).stem, profile), target)
            if profile == "full" and Path(page).stem in book.pending:
                _add_warning(target, book.pending[Path(page).stem])
            continue
        source = book.root / page
        if not source.is_file():
            raise BookError(f"_toc.yml lists {page}, which is missing")
        text = source.read_text("utf-8")
        for name, table in tables.items():
            text = fill(text, name, table)
        target.write_text(text, encoding="utf-8")
    config = yaml.safe_load((book.root / "_config.yml").read_text("utf-8"))
    if profile == "quick":
        config.setdefault("html", {})["announcement"] = NOTICE
    (folder / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copyfile(book.root / "_toc.yml", folder / "_toc.yml")
    for bibliography in config.get("bibtex_bibfiles", []):
        shutil.copyfile(book.root / bibliography, folder / bibliography)
    if (book.root / "_static").is_dir():
        shutil.copytree(book.root / "_static", folder / "_static")
    return folder


def _add_warning(path: Path, text: str) -> None:
    """Put a warning below the title of a staged notebook."""
    notebook = stamps.read_notebook(path, "")
    warning = f":::{{warning}}\nThis page is older than its source. {text}\n:::"
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(warning, id="older-than-its-source"))
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


class _Page(HTMLParser):
    """Collects the title and the amount of text of an article."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.letters = 0
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("title", "article"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        if "title" in self._open and "article" not in self._open:
            self.title += data
        if "article" in self._open:
            self.letters += len("".join(data.split()))


def page_problems(book: Book, pages: Path) -> list[str]:
    """Pages of the table of contents that are missing, untitled or empty in the HTML."""
    problems = []
    for name in book.toc:
        path = pages / Path(name).with_suffix(".html")
        if not path.is_file():
            problems.append(f"{name}: no page {path}")
            continue
        page = _Page()
        page.feed(path.read_text("utf-8"))
        if not page.title.strip():
            problems.append(f"{name}: the page has no title")
        if page.letters < 40:
            problems.append(f"{name}: the page is all but empty ({page.letters} letters)")
    return problems


# --------------------------------------------------------------------------------- command line


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1 expected, but {number} came")
    return number


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="tools/book.py", description="Run, check, build the book.")
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

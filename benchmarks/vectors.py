"""Search by vectors among 161 thousand and five million patterns: exact, and by an index.

``embed`` makes the library: the computed patterns of all crystals of ``mp_20`` and ``mp_extra``,
clean, and copies of them whose cells are strained isotropically by up to 1 %, drawn anew for each;
every pattern is drawn and seen by the pattern encoder of the shipped model. Queries are patterns of
crystals of the library at strains and widths that it does not hold. The five million are thus real
embeddings, but of 161 thousand structures only. For a GPU, minutes; on a CPU take ``--limit``.

Of the search: milliseconds a query in a batch, the share of the ten nearest that the index finds
too, the share of queries whose nearest vector is a copy of their own crystal, and the time from the
start of a process to its first answer, the files not in memory.

    python benchmarks/vectors.py embed FOLDER --device cuda
    python benchmarks/vectors.py search FOLDER --device cuda
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from common import Result, device_name, record, timed

from unimat_book.vectors import (
    build_index,
    nearest,
    new_vectors,
    open_index,
    open_vectors,
    recall,
    search_index,
)

MODEL = (
    Path(__file__).resolve().parents[1] / "data/pretrained/structure_xrd_composition.safetensors"
)
SHARD, BATCH = 4096, 512  # crystals whose reflections are in memory, and that the encoder sees
STRAIN, WIDTH = 0.01, (0.08, 0.2)  # of cells; of the peaks of queries, degrees
COUNT = 10  # neighbours
PROBES = (1, 4, 16, 64)  # cells looked into
GOAL = 0.95  # recall of the index whose time is recorded


def embed(args: argparse.Namespace) -> None:
    """Write the vectors of a library and of queries."""
    import torch

    from unimat_lib.crystals.table import concatenate
    from unimat_lib.datasets.preparation import load_dataset
    from unimat_lib.model import load_model
    from unimat_lib.views.batch import build_views
    from unimat_lib.views.effects import Measurement

    torch.set_float32_matmul_precision("high")
    model = load_model(MODEL, device=args.device)
    table = concatenate([load_dataset("mp_20"), load_dataset("mp_extra")])
    order = np.random.default_rng(0).permutation(len(table))[: args.limit]
    table, dim = table.select(order), model.config.projection_dim
    generator = torch.Generator(args.device).manual_seed(0)
    width = (model.config.fwhm, model.config.fwhm)
    strained = Measurement(fwhm=width, strain=STRAIN)
    asked = np.sort(np.random.default_rng(1).permutation(len(table))[: args.queries])
    queries = np.zeros((len(asked), dim), np.float32)

    @torch.no_grad()
    def embedded(views, index, measurement):
        parts = []
        for chunk in index.split(BATCH):
            drawn = {"measurement": measurement, "generator": generator}
            view = views.batch(chunk, modalities=("xrd",), **drawn).views["xrd"]
            vector = model.projections["xrd"](model.encode("xrd", view)).float()
            parts.append(torch.nn.functional.normalize(vector, dim=1).cpu())
        return torch.cat(parts).numpy()

    start = time.perf_counter()
    with new_vectors(args.folder / "library.npy", args.copies * len(table), dim) as vectors:
        for first in range(0, len(table), SHARD):
            rows = np.arange(first, min(first + SHARD, len(table)))
            views = build_views(
                table.select(rows),
                grid=model.config.grid,
                fwhm=model.config.fwhm,
                max_strain=STRAIN,
                modalities=("xrd",),
                device=args.device,
            )
            index = torch.arange(len(rows), device=args.device)
            for copy in range(args.copies):
                place = copy * len(table) + rows
                vectors[place] = embedded(views, index, strained if copy else None)
            of_queries = np.flatnonzero((asked >= first) & (asked <= rows[-1]))
            if len(of_queries):
                local = index[asked[of_queries] - first]
                queries[of_queries] = embedded(views, local, Measurement(WIDTH, strain=STRAIN))
            print(f"{rows[-1] + 1:,} of {len(table):,} crystals", flush=True)
    seconds = time.perf_counter() - start
    np.savez(args.folder / "queries.npz", vectors=queries, crystals=asked)
    about = {"crystals": len(table), "copies": args.copies, "seconds": seconds}
    (args.folder / "library.json").write_text(json.dumps(about))
    rate = args.copies * len(table) / seconds
    print(f"{args.copies * len(table):,} patterns in {seconds:.0f} s, {rate:,.0f} a second")
    record(
        [
            Result(
                name=f"vectors_embed_{kind(args.device)}",
                value=rate,
                unit="crystals/s",
                device=device_name(args.device),
                notes=f"patterns of {len(table):,} crystals, {args.copies} strains each, drawn and "
                "encoded in single precision",
            )
        ]
    )


def kind(device: str) -> str:
    return "gpu" if device == "cuda" else "cpu"


def evict(path: Path) -> None:
    """Ask the system to forget the content of a file, as after a restart."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def first(args: argparse.Namespace) -> None:
    """Answer one query and say where it lies: what :func:`first_answer` times."""
    query = np.load(args.folder / "queries.npz")["vectors"][:1]
    if args.index is None:
        _, place = nearest(open_vectors(args.library), query, count=COUNT)
    else:
        index = open_index(args.index)
        _, place = search_index(index, query, count=COUNT, probes=args.probes)
    print(place[0, 0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def first_answer(folder: Path, *options: object) -> tuple[float, float]:
    """Seconds from the start of a process to its answer, the files read anew, and its GiB."""
    evict(Path(options[1]))
    command = [sys.executable, __file__, "first", str(folder), *map(str, options)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, float(done.stdout.split()[1])


def search(args: argparse.Namespace) -> None:
    """Search the library of each crystal once, and the whole of it."""
    about = json.loads((args.folder / "library.json").read_text())
    every, asked = open_vectors(args.folder / "library.npy"), np.load(args.folder / "queries.npz")
    base = about["crystals"]
    sizes = [base] if about["copies"] == 1 else [base, len(every)]
    for size in sizes:
        part = args.folder / ("library.npy" if size == len(every) else "once.npy")
        if size < len(every):
            with new_vectors(part, size, every.shape[1]) as once:
                once[:] = every[:size]
        record(measure(part, asked["vectors"], asked["crystals"], base, args))


def measure(
    path: Path, queries: np.ndarray, own: np.ndarray, base: int, args: argparse.Namespace
) -> list[Result]:
    vectors = open_vectors(path)
    size, name = len(vectors), "once" if len(vectors) == base else "strained"
    made = f"{size:,} vectors: patterns of {base:,} crystals"
    made += "" if size == base else f", clean and at {size // base - 1} strains up to {STRAIN:.0%}"
    _, exact = nearest(vectors, queries, count=COUNT)
    hit = float(np.mean(exact[:, 0] % base == own))
    print(f"{made}; {len(queries)} queries: {hit:.1%} find their own crystal first")
    results = [exact_speed(vectors, queries, name, made, hit, args.device)]
    if args.device == "cuda":
        results.append(exact_speed(vectors, queries, name, made, hit, "cpu"))
    seconds, memory = first_answer(args.folder, "--library", path)
    print(f"  exact: first answer {seconds:.2f} s, {memory:.2f} GiB")
    results.append(
        Result(
            name=f"vectors_{name}_exact_first_s",
            value=seconds,
            unit="s",
            device=device_name(),
            notes=f"{made}; a fresh process with torch, the file mapped and not in memory; "
            f"{memory:.2f} GiB at most",
        )
    )
    return results + index_speed(path, queries, exact, own, base, name, made)


def exact_speed(
    vectors: np.ndarray, queries: np.ndarray, name: str, made: str, hit: float, device: str
) -> Result:
    import torch

    library = torch.from_numpy(np.array(vectors)).to(device) if device == "cuda" else vectors
    seconds = timed(
        lambda: nearest(library, queries, count=COUNT, device=device), repeats=2, device=device
    )
    ms = 1000 * seconds / len(queries)
    print(f"  exact, {device}: {ms:.3f} ms a query")
    where = "on the GPU" if device == "cuda" else "mapped, in the page cache"
    return Result(
        name=f"vectors_{name}_exact_{kind(device)}_ms",
        value=ms,
        unit="ms",
        device=device_name(device),
        notes=f"{made}, {where}; a query of {len(queries)} together; {hit:.1%} find their own "
        "crystal first",
    )


def index_speed(
    path: Path,
    queries: np.ndarray,
    exact: np.ndarray,
    own: np.ndarray,
    base: int,
    name: str,
    made: str,
) -> list[Result]:
    """Build the index, then look into more and more cells until the recall is enough."""
    start = time.perf_counter()
    target = build_index(open_vectors(path), path.with_suffix(".faiss"))
    built = time.perf_counter() - start
    index = open_index(target)
    print(f"  index: {index.nlist} cells, built in {built:.1f} s, {target.stat().st_size:,} bytes")
    lines = []
    for probes in (n for n in PROBES if n <= index.nlist):
        seconds = timed(lambda n=probes: search_index(index, queries, count=COUNT, probes=n))
        _, place = search_index(index, queries, count=COUNT, probes=probes)
        share, ms = recall(place, exact), 1000 * seconds / len(queries)
        hit = float(np.mean(place[:, 0] % base == own))
        lines.append(f"{probes} cells: {share:.1%} in {ms:.3f} ms, own crystal first {hit:.1%}")
        print(f"  index, {lines[-1]}")
        if share >= GOAL:
            break
    seconds, memory = first_answer(path.parent, "--index", target, "--probes", probes)
    print(f"  index: first answer {seconds:.2f} s, {memory:.2f} GiB")
    shared = {"device": device_name(), "notes": f"{made}; {'; '.join(lines)}"}
    return [
        Result(name=f"vectors_{name}_index_ms", value=ms, unit="ms", **shared),
        Result(name=f"vectors_{name}_index_recall", value=100 * share, unit="%", **shared),
        Result(
            name=f"vectors_{name}_index_build_s",
            value=built,
            unit="s",
            device=device_name(),
            notes=f"{made}; {index.nlist} cells, half precision",
        ),
        Result(
            name=f"vectors_{name}_index_first_s",
            value=seconds,
            unit="s",
            device=device_name(),
            notes=f"{made}; a fresh process with faiss, the file mapped and not in memory; "
            f"{memory:.2f} GiB at most",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run in (embed, search, first):
        command = commands.add_parser(run.__name__, help=run.__doc__.splitlines()[0])
        command.add_argument("folder", type=Path, help="where the vectors lie")
        command.set_defaults(run=run)
        if run is first:
            command.add_argument("--library", type=Path)
            command.add_argument("--index", type=Path)
            command.add_argument("--probes", type=int)
            continue
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        if run is embed:
            command.add_argument("--copies", type=int, default=32, help="patterns of each crystal")
            command.add_argument("--limit", type=int, help="only so many crystals, at random")
            command.add_argument("--queries", type=int, default=1000)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

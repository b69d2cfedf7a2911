"""Rendering and augmentation of a training batch: its share of the training step it feeds.

A batch is what training draws: effects of a measurement, then patterns of 4,096 points from the
reflections of random crystals of MP-20. Three times are given per batch: what the GPU computes (the
same work as one CUDA graph, without launches), the wall time of plain calls one after the other,
and how long one call keeps the CPU before it can ask for the training step.

    python benchmarks/render.py --device cuda [--step-ms 12 --batch 512]
    python benchmarks/render.py [--device cpu]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from common import Result, device_name, record, timed
from torch import Tensor

from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.views.bragg import Reflections, bragg_reflections, g_max_of
from unimat_lib.views.effects import Measurement, draw_effects
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render

GRID = Grid(5.0, 90.0, 4096)
TRAINING = Measurement(fwhm=(0.05, 0.3), strain=0.05)  # what chapters 03 to 05 draw
EVERYTHING = Measurement(
    fwhm=(0.05, 0.3),
    eta=(0.0, 1.0),
    strain=0.05,
    zero_shift=0.1,
    texture=(0.5, 1.5),
    background=0.3,
    noise=0.05,
    impurity=0.2,
)
BANDWIDTH = 3.35e12  # bytes/s, an H100 at best


def drawing(
    reflections: Reflections, index: Tensor, measurement: Measurement, generator: torch.Generator
) -> Callable[[], Tensor]:
    """A function that draws effects and then the patterns of some crystals."""

    def draw() -> Tensor:
        effects = draw_effects(
            measurement, len(index), generator=generator, device=reflections.device
        )
        return render(reflections, index, GRID, effects=effects, generator=generator)

    return draw


def graph_seconds(draw: Callable[[], Tensor], generator: torch.Generator, replays: int) -> float:
    """GPU time of one call, from a CUDA graph of it."""
    draw()
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        draw()
    return timed(lambda: [graph.replay() for _ in range(replays)], device="cuda") / replays


def asking_seconds(draw: Callable[[], Tensor], calls: int) -> float:
    """How long the CPU is busy with one call while the GPU has other work."""
    torch.cuda.synchronize()
    torch.cuda._sleep(500_000_000)  # cycles, about 0.3 s: a call that waits for the GPU shows up
    start = time.perf_counter()
    for _ in range(calls):
        draw()
    seconds = (time.perf_counter() - start) / calls
    torch.cuda.synchronize()
    return seconds


def floor_seconds(reflections: Reflections, batch: int) -> float:
    """Time to read a batch's reflections and to write its patterns, each once."""
    mean = len(reflections.g) / len(reflections)
    return batch * (mean * (8 + 8) + 4 * GRID.num_points) / BANDWIDTH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=512, help="batch that --step-ms belongs to")
    parser.add_argument("--step-ms", type=float, help="milliseconds of that training step")
    parser.add_argument("--calls", type=int, default=20, help="calls per timing")
    args = parser.parse_args()

    table = load_dataset("mp_20")
    if args.device == "cpu":
        torch.set_num_threads(1)
        table = table.select(torch.arange(2000))
    reflections = bragg_reflections(table.to(args.device), g_max=g_max_of(GRID, TRAINING.strain))
    generator = torch.Generator(args.device).manual_seed(0)
    measurements = {"strain and width": TRAINING, "all effects": EVERYTHING}
    milliseconds = {}
    print(
        f"{'batch':>5}  {'effects':<18}{'GPU ms':>10}{'wall ms':>10}{'asking ms':>11}{'floor':>9}"
    )
    for batch in sorted({256, 512, args.batch}):
        index = torch.randperm(len(table))[:batch].to(args.device)
        floor = 1e3 * floor_seconds(reflections, batch)
        for name, measurement in measurements.items():
            draw = drawing(reflections, index, measurement, generator)
            calls = args.calls if args.device == "cuda" else 1
            wall = timed(lambda d=draw, n=calls: [d() for _ in range(n)], device=args.device)
            wall *= 1e3 / calls
            if args.device == "cpu":
                print(f"{batch:>5}  {name:<18}{'-':>10}{wall:>10.2f}{'-':>11}{'-':>9}")
                continue
            gpu = 1e3 * graph_seconds(draw, generator, calls)
            asking = 1e3 * asking_seconds(draw, calls)
            print(f"{batch:>5}  {name:<18}{gpu:>10.3f}{wall:>10.3f}{asking:>11.3f}{floor:>9.4f}")
            milliseconds[batch, name] = gpu
    if not milliseconds:
        return
    results = [
        Result(
            name="render_gpu_ms",
            value=milliseconds[512, "strain and width"],
            unit="ms",
            device=device_name("cuda"),
            floor=1e3 * floor_seconds(reflections, 512),
            notes="; ".join(
                f"batch {batch}, {name}: {value:.3f} ms"
                for (batch, name), value in milliseconds.items()
            ),
        )
    ]
    if args.step_ms:
        share = milliseconds[args.batch, "strain and width"] / args.step_ms
        print(f"{100 * share:.1f} % of a training step of {args.step_ms:g} ms at {args.batch}")
        results.append(
            Result(
                name="render_share_of_step",
                value=100 * share,
                unit="%",
                device=device_name("cuda"),
                notes=f"batch {args.batch}, strain and width; step of {args.step_ms:g} ms",
            )
        )
    record(results)


if __name__ == "__main__":
    main()

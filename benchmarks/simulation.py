"""Simulated measurements against rendered patterns: time per batch, side by side.

Both draw what their instruments do and then patterns of 4,096 points of random crystals of MP-20;
:mod:`.render` with all its effects is the measure that a simulation may take twice as long as.

    python benchmarks/simulation.py [--device cpu]
    python benchmarks/simulation.py --device cuda [--batch 512]
"""

from __future__ import annotations

import argparse
import statistics

import torch
from common import Result, device_name, record, timed
from render import EVERYTHING, GRID, drawing

from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_powder.simulation.prepare import prepare
from unimat_powder.simulation.ranges import LaboratoryRanges, draw_instruments
from unimat_powder.simulation.simulate import simulate
from unimat_powder.simulation.symmetry import strain_projectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--rounds", type=int, default=9, help="each times both, one after the other"
    )
    args = parser.parse_args()

    device = args.device
    if device == "cpu":
        torch.set_num_threads(1)
    table = load_dataset("mp_20").select(torch.arange(4000)).to(device)
    reflections = bragg_reflections(table, g_max=g_max_of(GRID, EVERYTHING.strain))
    symmetry = strain_projectors(reflections.reciprocal)
    generator = torch.Generator(device).manual_seed(0)
    index = torch.randperm(len(table))[: args.batch].to(device)
    ranges = LaboratoryRanges()
    render = drawing(reflections, index, EVERYTHING, generator)

    def measure() -> tuple[torch.Tensor, torch.Tensor]:
        instruments = draw_instruments(
            ranges, len(index), grid=GRID, generator=generator, device=device
        )
        return simulate(
            reflections, index, GRID, instruments, generator=generator, symmetry=symmetry
        )

    measured = measure()
    jobs = {"render": render, "simulate": measure, "prepare": lambda: prepare(*measured, GRID)}
    seconds = {name: [] for name in jobs}
    for _ in range(args.rounds):  # in turn, so that a busy moment hits all alike
        for name, job in jobs.items():
            seconds[name].append(timed(job, device=device))
    best = {name: min(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"{name:<10}{1e3 * best[name]:>9.2f} ms at best, median {1e3 * middle:.2f}")
    ratio = best["simulate"] / best["render"]
    print(f"simulate takes {ratio:.2f} times as long as render, batch {args.batch}, {device}")
    record(
        [
            Result(
                name=f"simulation_{'gpu' if device == 'cuda' else 'cpu'}_ms",
                value=1e3 * best["simulate"],
                unit="ms",
                device=device_name(device),
                baseline="unimat_lib.views.render with all effects",
                ratio=1 / ratio,
                notes=f"batch {args.batch}, 4,096 points, {args.rounds} rounds, the best of each; "
                f"preparing the patterns: {1e3 * best['prepare']:.1f} ms",
            )
        ]
    )


if __name__ == "__main__":
    main()

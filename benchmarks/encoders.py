"""Crystals per second in training (forward and backward) of the structure and pattern encoders.

python benchmarks/encoders.py [--dataset prototypes] [--device cuda] [--batch 512] [--json]
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time

import torch
from torch import nn

from unimat_lib import datasets
from unimat_lib.encoders import PatternEncoder, StructureEncoder
from unimat_lib.graphs import periodic_graph, triplets

CUTOFF, MAX_NEIGHBORS, NUM_POINTS = 5.0, 12, 4096


def rate(encoder: nn.Module, make_batch, *, batch: int, steps: int, device: str) -> float:
    """Crystals per second over some optimiser steps, after three to warm up; bfloat16 on a GPU."""
    encoder.to(device).train()
    optimizer = torch.optim.AdamW(encoder.parameters(), fused=device == "cuda")

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = encoder(make_batch()).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return steps * batch / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="prototypes", help="name known to datasets.load")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device, batch = arguments.device, arguments.batch
    table = datasets.load(arguments.dataset).to(device)
    graph = periodic_graph(table, cutoff=CUTOFF, max_neighbors=MAX_NEIGHBORS)
    pattern = torch.rand(batch, NUM_POINTS, device=device) ** 8

    def draw():
        return graph.select(torch.randint(len(graph), (batch,), device=device))

    sample = draw()
    common = {"batch": batch, "steps": arguments.steps, "device": device}
    structure = StructureEncoder(dim=256, hidden=arguments.hidden, cutoff=CUTOFF)
    rates = {
        "structure_encoder_training": rate(structure, draw, **common),
        "pattern_encoder_training": rate(
            PatternEncoder(num_points=NUM_POINTS, dim=256), lambda: pattern, **common
        ),
    }
    results = [
        {
            "name": name,
            "value": value,
            "unit": "crystals/s",
            "batch": batch,
            "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
            "date": datetime.date.today().isoformat(),
        }
        for name, value in rates.items()
    ]
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(
        f"batch {batch}: {sample.edge_index.shape[1] / batch:.0f} edges and "
        f"{len(triplets(sample)) / batch:.0f} triplets per crystal"
    )
    for row in results:
        print(f"{row['name']:<30}{row['value']:>10,.0f} {row['unit']}")


if __name__ == "__main__":
    main()

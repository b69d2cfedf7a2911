"""Training of the structure encoder, beside PyTorch Geometric's layers run plainly.

Four ways to do the same step (forward, loss, backward, AdamW; bfloat16 autocast on a GPU) on the
same crystals, with graphs on the device and the same weights:

    plain    PyTorch Geometric's DimeNet++ layers as its DimeNetPlusPlus.forward runs them; only
             the edges and triplets, which know periodic images, and the readout are ours
    torch    our encoder with tensor operations
    kernels  our encoder with the kernels of unimat_lib.triplet_kernel
    graph    the same, the whole step captured in a CUDA graph

Before the clock counts, gradients of the ways are compared on one batch.

    python benchmarks/dimenet.py [--dataset mp_20] [--device cuda] [--batch 128 256 512]
    python benchmarks/dimenet.py --device cpu --dataset prototypes --batch 16 --rounds 1
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable

import torch
from common import Result, device_name, record, timed
from torch import Tensor, nn
from torch_geometric.nn.models import dimenet as pyg

from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.encoders import structure
from unimat_lib.encoders.structure import StructureEncoder, TorchSums
from unimat_lib.views.graphs import PeriodicGraph, periodic_graph, triplets

CUTOFF, MAX_NEIGHBORS = 5.0, 12
NUM_BATCHES = 8  # different ones, in turn
HBM = {"H100": 3.0e12, "H200": 4.3e12}  # bytes/s within reach
TENSOR_CORES = 700e12  # bfloat16 operations/s within reach on both


class PlainEncoder(StructureEncoder):
    """Our parameters in PyTorch Geometric's layers, run as there."""

    def __init__(self, **sizes: int) -> None:
        super().__init__(**sizes)
        self.spherical_basis = pyg.SphericalBasisLayer(7, 6, CUTOFF)

    def atoms(self, graph: PeriodicGraph) -> Tensor:
        """One vector per atom, [N, out_emb]."""
        (j, i), pairs = graph.edge_index, triplets(graph)
        pos_jk, pos_ij = -graph.vector[pairs.edge_kj], -graph.vector[pairs.edge_ji]
        along = (pos_ij * pos_jk).sum(dim=-1)
        across = torch.cross(pos_ij, pos_jk, dim=1).norm(dim=-1)
        rbf = self.radial_basis(graph.distance)
        sbf = self.spherical_basis(graph.distance, torch.atan2(across, along), pairs.edge_kj)
        x = pyg.EmbeddingBlock.forward(self.embedding, graph.atomic_numbers, rbf, i, j)
        size = len(graph.atomic_numbers)
        atoms = pyg.OutputPPBlock.forward(self.outputs[0], x, rbf, i, num_nodes=size)
        for block, output in zip(self.interactions, self.outputs[1:], strict=True):
            x = pyg.InteractionPPBlock.forward(block, x, rbf, sbf, pairs.edge_kj, pairs.edge_ji)
            atoms = atoms + pyg.OutputPPBlock.forward(output, x, rbf, i, num_nodes=size)
        return atoms.float() + self.element(graph.atomic_numbers)


class Ways:
    """The ways to run the encoder, and what they share.

    Args:
        graph: All crystals, on the device.
    """

    def __init__(self, graph: PeriodicGraph) -> None:
        self.graph, self.device = graph, graph.device.type
        torch.manual_seed(0)
        self.encoder = StructureEncoder(dim=256, cutoff=CUTOFF).to(graph.device)
        self.plain = PlainEncoder(dim=256, cutoff=CUTOFF).to(graph.device)
        self.plain.load_state_dict(self.encoder.state_dict())
        self.chosen = structure._sums

    def names(self) -> list[str]:
        """The ways that this device has."""
        return ["plain", "torch", *(["kernels", "graph"] if self.device == "cuda" else [])]

    def network(self, way: str) -> StructureEncoder:
        """A fresh copy of the encoder; tensor operations or kernels are chosen with it."""
        structure._sums = TorchSums if way == "torch" else self.chosen
        return copy.deepcopy(self.plain if way == "plain" else self.encoder)

    def batches(self, size: int) -> list[PeriodicGraph]:
        """The same random batches whenever asked."""
        generator = torch.Generator().manual_seed(size)
        rows = torch.randint(len(self.graph), (NUM_BATCHES, size), generator=generator)
        return [self.graph.select(index.to(self.graph.device)) for index in rows]

    def gradient(self, way: str, batch: PeriodicGraph, precision: torch.dtype) -> Tensor:
        """Gradient of a loss on a batch, all parameters in one float64 vector."""
        network = self.network(way)
        if precision == torch.float64:
            network = network.double()
            vector, distance = batch.vector.double(), batch.distance.double()
            batch = dataclasses.replace(batch, vector=vector, distance=distance)
        with torch.autocast(self.device, torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = network(batch).float().square().mean()
        loss.backward()
        return torch.cat([p.grad.double().flatten() for p in network.parameters()])

    def trainer(self, way: str, batches: list[PeriodicGraph]) -> Callable[[], None]:
        """A function that trains on all batches once."""
        on_gpu = self.device == "cuda"
        network = self.network(way).train()
        optimizer = torch.optim.AdamW(network.parameters(), fused=on_gpu, capturable=on_gpu)

        def step(batch: PeriodicGraph) -> None:
            with torch.autocast(self.device, torch.bfloat16, enabled=on_gpu):
                loss = network(batch).float().square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        if way == "graph":
            batches = padded_alike(batches)
            step = captured(step, batches[0])

        def epoch() -> None:
            for batch in batches:
                step(batch)

        return epoch


def padded_alike(batches: list[PeriodicGraph]) -> list[PeriodicGraph]:
    """The batches filled up to one size."""
    atoms = max(len(batch.atomic_numbers) for batch in batches) + 1
    edges = max(len(batch.distance) for batch in batches)
    return [batch.padded(num_atoms=atoms, num_edges=edges) for batch in batches]


def captured(
    step: Callable[[PeriodicGraph], None], batch: PeriodicGraph
) -> Callable[[PeriodicGraph], None]:
    """A training step as a CUDA graph; it takes batches of the shape of this one."""
    names = [field.name for field in dataclasses.fields(batch)]
    static = dataclasses.replace(batch, **{name: getattr(batch, name).clone() for name in names})
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(static)
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        step(static)

    def replay(batch: PeriodicGraph) -> None:
        for name in names:
            getattr(static, name).copy_(getattr(batch, name))
        recorded.replay()

    return replay


def linears(modules: Iterable[nn.Module], *, but: str = "-") -> list[nn.Linear]:
    """All linear layers inside some modules whose name does not contain ``but``."""
    found = (item for module in modules for item in module.named_modules() if but not in item[0])
    return [layer for _, layer in found if isinstance(layer, nn.Linear)]


def least_work(encoder: StructureEncoder, edges: float, pairs: float) -> tuple[float, float]:
    """Operations and bytes of a training step per crystal, in the layers on edges and triplets.

    Operations: a product each in the forward pass and for the two gradients. Bytes: in each layer
    on edges, input and output move once forward, the gradient of the output, the input and its
    gradient once backward, in bfloat16. Layers on atoms, a tenth of the rows, are left out.
    """
    on_edges = linears(encoder.interactions, but="sbf")
    operations = sum(6 * layer.in_features * layer.out_features for layer in on_edges) * edges
    moved = sum(2 * (3 * layer.in_features + 2 * layer.out_features) for layer in on_edges) * edges
    degrees = len(encoder.spherical_basis.harmonic)
    for block in encoder.interactions:
        channels, size = block.lin_sbf2.weight.shape
        operations += 6 * size * (degrees + channels) * pairs
    return operations, moved


def show_work(ways: Ways, batch: PeriodicGraph) -> tuple[str, float]:
    """Print what a crystal costs at least; the same in one line, and the most crystals/s."""
    edges, pairs = len(batch.distance) / len(batch), len(triplets(batch)) / len(batch)
    operations, moved = least_work(ways.encoder, edges, pairs)
    device = device_name(ways.device)
    memory = next((x for name, x in HBM.items() if name in device), HBM["H100"])
    most = TENSOR_CORES / operations, memory / moved
    line = (
        f"{edges:.0f} edges and {pairs:.0f} triplets per crystal; a step costs "
        f"{operations / 1e9:.2f} GFLOP and {moved / 1e6:.1f} MB per crystal, layer by layer: "
        f"at most {most[0]:,.0f} crystals/s by {TENSOR_CORES / 1e12:.0f} TFLOP/s "
        f"and {most[1]:,.0f} by {memory / 1e12:.1f} TB/s"
    )
    print(line)
    return line, min(most)


def show_agreement(ways: Ways, batch: PeriodicGraph) -> str:
    """Print how far gradients are from those of the tensor operations in float64."""
    exact = ways.gradient("torch", batch, torch.float64)
    tries = [("plain", torch.float64)]
    tries += itertools.product(ways.names()[:3], (torch.float32, torch.bfloat16))
    parts = []
    for way, precision in tries:
        error = (ways.gradient(way, batch, precision) - exact).norm() / exact.norm()
        parts.append(f"{way} {str(precision).removeprefix('torch.')} {error:.1e}")
    line = "gradient, relative difference from torch in float64: " + ", ".join(parts)
    print(line)
    return line


def rate(ways: Ways, way: str, size: int, rounds: int) -> tuple[float, float]:
    """Crystals per second, and GiB of memory at the peak beyond the crystals themselves."""
    batches = ways.batches(size)
    if ways.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    epoch = ways.trainer(way, batches)
    seconds = timed(lambda: [epoch() for _ in range(rounds)], repeats=3, device=ways.device)
    peak = torch.cuda.max_memory_allocated() - before if ways.device == "cuda" else math.nan
    return rounds * NUM_BATCHES * size / seconds, peak / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mp_20", help="name known to datasets.load")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--rounds", type=int, default=5, help=f"rounds over {NUM_BATCHES} batches")
    arguments = parser.parse_args()
    table = load_dataset(arguments.dataset).to(arguments.device)
    ways = Ways(periodic_graph(table, cutoff=CUTOFF, max_neighbors=MAX_NEIGHBORS))
    sample = ways.batches(min(arguments.batch))[0]
    work, floor = show_work(ways, sample)
    notes = [work, show_agreement(ways, sample)]

    torch.set_float32_matmul_precision("high")  # as in training
    plain = math.nan
    print(f"{'batch':>6}{'way':>10}{'crystals/s':>14}{'ratio':>8}{'GiB':>8}")
    results = []
    for size in arguments.batch:
        own = []
        for way in ways.names():
            found, memory = rate(ways, way, size, arguments.rounds)
            plain = found if way == "plain" else plain
            print(f"{size:>6}{way:>10}{found:>14,.0f}{found / plain:>8.2f}{memory:>8.2f}")
            own.append(f"batch {size}, {way}: {found:,.0f} crystals/s, {memory:.2f} GiB")
        results.append(
            Result(
                name="dimenet_vs_plain" if size == 128 else f"dimenet_vs_plain_{size}",
                value=found,
                unit="crystals/s",
                baseline="PyTorch Geometric's layers run plainly in bfloat16",
                ratio=found / plain,
                floor=floor,
                device=device_name(arguments.device),
                notes="; ".join([*notes, *own]),
            )
        )
    if arguments.device == "cuda":
        record(results)


if __name__ == "__main__":
    main()

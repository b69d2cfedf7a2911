"""Training of the pattern encoder, as a textbook writes it and as the library runs it.

Both have the same weights. The textbook's module is made of standard layers on ``[B, C, L]``. Timed
are forward, loss, backward and fused AdamW under bfloat16 autocast; the library's module is also
timed as one CUDA graph.

    python benchmarks/pattern.py [--device cuda] [--steps 20] [--profile]
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator

import torch
from common import Result, device_name, record
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from unimat_lib.encoders.pattern import ConvBlock, Downsample, PatternEncoder, input_channels

BANDWIDTH, OPERATIONS = 3.0e12, 700e12  # within reach on an H100: bytes/s, bfloat16 operations/s
NUM_BATCHES = 4  # different ones in turn, so that no step finds its input in a cache
HEADLINE = "width 64, depths (1, 1, 2, 1), batch 512, graph"
VARIANTS = ("textbook, 1x1 convolutions", "textbook, linear", "library", "library, graph")


class PlainNorm(nn.LayerNorm):
    """LayerNorm over the channels of ``[B, C, L]``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class PlainBlock(nn.Module):
    """A block of ConvNeXt whose wide layers are convolutions over one point."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = PlainNorm(channels)
        self.wide = nn.Sequential(
            nn.Conv1d(channels, 4 * channels, 1), nn.GELU(), nn.Conv1d(4 * channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.wide(self.norm(self.convolution(x)))


class LinearBlock(PlainBlock):
    """The same with linear layers between two transpositions, as the authors of ConvNeXt do."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.wide = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.wide(self.norm(self.convolution(x)).transpose(1, 2)).transpose(1, 2)


class PlainEncoder(nn.Module):
    """Standard layers that compute what a :class:`PatternEncoder` does, with a copy of its weights.

    Args:
        encoder: The encoder to copy.
        block: Class of the residual blocks.
    """

    def __init__(self, encoder: PatternEncoder, block: type[PlainBlock] = PlainBlock) -> None:
        super().__init__()
        self.padding = encoder.padding
        stem, *rest = encoder.body
        layers: list[nn.Module] = [nn.Conv1d(2, stem.out_features, 8, stride=4, padding=2)]
        for layer in rest:
            if isinstance(layer, ConvBlock):
                layers.append(block(layer.expand.in_features))
            elif isinstance(layer, Downsample):
                channels = layer.in_features // 2
                layers.append(PlainNorm(channels))
                layers.append(nn.Conv1d(channels, layer.out_features, 2, stride=2))
        self.body = nn.Sequential(*layers)
        _, position, *readout = encoder.readout
        self.norm = PlainNorm(position.in_features)
        self.position = nn.Conv1d(position.in_features, position.out_features, 1)
        self.readout = copy.deepcopy(nn.Sequential(*readout))
        self.to(stem.weight.device)
        with torch.no_grad():
            for mine, yours in zip(self.parameters(), encoder.parameters(), strict=True):
                mine.copy_(as_convolution(yours, mine))

    def forward(self, pattern: Tensor) -> Tensor:
        x = self.norm(self.body(input_channels(pattern, padding=self.padding)))
        return self.readout(self.position(x).transpose(1, 2))


def as_convolution(weight: Tensor, like: Tensor) -> Tensor:
    """A weight of the library's encoder in the order of a convolution's."""
    if like.ndim == 3 and like.shape[2] == 2:  # two positions side by side, [D, 2 C]
        return weight.unflatten(1, (2, -1)).transpose(1, 2)
    return weight.view_as(like)


def differences(encoder: PatternEncoder, plain: PlainEncoder, pattern: Tensor) -> tuple[float, ...]:
    """Relative difference of outputs, and the largest of the parameters' gradients."""
    weights = torch.randn(len(pattern), encoder.readout[-1].out_features, device=pattern.device)
    outputs = []
    for module in (encoder, plain):
        module.zero_grad()
        with autocast(pattern.device.type):
            outputs.append(module(pattern).float())
        (outputs[-1] * weights).mean().backward()
    pairs = zip(plain.parameters(), encoder.parameters(), strict=True)
    gradients = [(as_convolution(yours.grad, mine), mine.grad) for mine, yours in pairs]
    return _relative(*outputs), max(_relative(a, b) for a, b in gradients)


def _relative(value: Tensor, reference: Tensor) -> float:
    value, reference = value.detach(), reference.detach()
    return float((value - reference).norm() / reference.norm().clamp(min=1e-12))


def autocast(device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


class Training:
    """Training steps of a module on static buffers.

    Args:
        module: What is trained.
        batches: Patterns and targets, each [N, B, ...], one of which each step uses.
    """

    def __init__(self, module: nn.Module, batches: tuple[Tensor, Tensor]) -> None:
        self.module, self.batches = module.train(), batches
        self.device = batches[0].device.type
        self.pattern, self.target = (tensor[0].clone() for tensor in batches)
        self.optimizer = torch.optim.AdamW(
            module.parameters(), fused=self.device == "cuda", capturable=self.device == "cuda"
        )
        self.graph: torch.cuda.CUDAGraph | None = None
        self.count = 0

    def compute(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            out = self.module(self.pattern)
        (out.float() - self.target).abs().mean().backward()
        self.optimizer.step()

    def capture(self) -> None:
        """From now on a step replays a CUDA graph."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.compute()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.compute()

    def step(self) -> None:
        patterns, targets = self.batches
        self.pattern.copy_(patterns[self.count % len(patterns)])
        self.target.copy_(targets[self.count % len(patterns)])
        self.count += 1
        if self.graph is None:
            self.compute()
        else:
            self.graph.replay()


def seconds_per_step(training: Training, *, steps: int, repeats: int = 3) -> float:
    """The shortest mean over some steps, after three to warm up."""
    synchronize = torch.cuda.synchronize if training.device == "cuda" else lambda: None
    for _ in range(3):
        training.step()
    times = []
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            training.step()
        synchronize()
        times.append((time.perf_counter() - start) / steps)
    return min(times)


def work(encoder: PatternEncoder) -> tuple[float, float]:
    """Operations and bytes per crystal that a training step needs, optimiser aside.

    Three products per linear layer (output, gradients of the input and of the weight). Bytes: one
    kernel per layer reads its inputs and writes its outputs once, in bfloat16, with GELU, sums and
    norms computed on the way; weights are free. In units of a block's input: convolution 2,
    expansion 5, contraction 6; backward contraction 9 + 5, expansion 5 + 5, convolution 7.
    """
    operations = size = 0.0
    length = (encoder.num_points + encoder.padding) // 4
    for layer in encoder.body:
        if isinstance(layer, ConvBlock):
            channels = layer.expand.in_features
            operations += 3 * 2 * length * channels * (8 * channels + 7)
            size += 2 * (13 + 31) * length * channels
        elif isinstance(layer, Downsample):
            length //= 2
            operations += 3 * 2 * length * layer.in_features * layer.out_features
            size += 2 * 3 * length * (layer.in_features + layer.out_features)
        else:
            operations += 2 * 2 * length * layer.in_features * layer.out_features
            size += 2 * length * (2 * layer.in_features + 2 * layer.out_features)
    return operations, size


def variants(encoder: PatternEncoder, batches: tuple[Tensor, Tensor]) -> Iterator[tuple]:
    """Names and functions that make a training of one copy of the encoder."""

    def graphed() -> Training:
        training = Training(copy.deepcopy(encoder), batches)
        training.capture()
        return training

    yield "textbook, 1x1 convolutions", lambda: Training(PlainEncoder(encoder), batches)
    yield "textbook, linear", lambda: Training(PlainEncoder(encoder, LinearBlock), batches)
    yield "library", lambda: Training(copy.deepcopy(encoder), batches)
    if batches[0].is_cuda:
        yield "library, graph", graphed


def make_encoder(num_points: int, width: int, depths: tuple[int, ...]) -> PatternEncoder:
    """Without dropout, so that outputs can be compared."""
    return PatternEncoder(num_points=num_points, dim=256, width=width, depths=depths, dropout=0.0)


def random_batches(batch: int, num_points: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """Patterns that are mostly near zero [N, B, P], and targets [N, B, D]."""
    patterns = torch.rand(NUM_BATCHES, batch, num_points, device=device) ** 20
    return patterns, torch.randn(NUM_BATCHES, batch, dim, device=device)


def compare(
    *, width: int, depths: tuple[int, ...], batch: int, num_points: int, steps: int, device: str
) -> dict[str, float]:
    """Print one table; returns crystals per second by variant, and the floor's."""
    encoder = make_encoder(num_points, width, depths).to(device)
    batches = random_batches(batch, num_points, 256, device)
    operations, size = work(encoder)
    floor = max(operations / OPERATIONS, size / BANDWIDTH)
    print(f"\nwidth {width}, depths {depths}, batch {batch}, {num_points} points, {device}")
    print(
        f"per crystal {operations / 1e9:.2f} G operations, {size / 1e6:.1f} MB: on an H100 at "
        f"least {1e6 * operations / OPERATIONS:.1f} us and {1e6 * size / BANDWIDTH:.1f} us"
    )
    for block in (PlainBlock, LinearBlock):
        out, gradient = differences(encoder, PlainEncoder(encoder, block), batches[0][0])
        print(f"relative difference to {block.__name__}: {out:.1e}, of gradients {gradient:.1e}")
    encoder.zero_grad()
    rates = {}
    for name, make in variants(encoder, batches):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.empty_cache()
        start = time.perf_counter()
        training = make()
        training.step()
        if device == "cuda":
            torch.cuda.synchronize()
        first = time.perf_counter() - start
        seconds = seconds_per_step(training, steps=steps)
        memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
        rates[name] = batch / seconds
        print(
            f"{name:<28}{1e3 * seconds:>9.2f} ms{rates[name]:>12,.0f} crystals/s"
            f"{memory:>8.1f} GiB{first:>8.1f} s for the first step",
            flush=True,
        )
        del training
    return rates | {"floor": 1 / floor}


def slowest_kernels(*, width: int, depths: tuple[int, ...], batch: int, num_points: int) -> str:
    """Table of the ten kernels that take most time in three steps of the library's module."""
    encoder = make_encoder(num_points, width, depths).cuda()
    training = Training(encoder, random_batches(batch, num_points, 256, "cuda"))
    seconds_per_step(training, steps=3, repeats=1)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(3):
            training.step()
        torch.cuda.synchronize()
    return profiler.key_averages().table(
        sort_by="self_cuda_time_total", row_limit=10, max_name_column_width=90
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--steps", type=int, default=20, help="steps per timing")
    parser.add_argument("--profile", action="store_true", help="list the slowest kernels (cuda)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = arguments.device
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True  # the textbook's convolutions by their fastest kernels
    if device == "cpu":
        compare(
            width=16, depths=(1, 1, 1, 1), batch=64, num_points=1024, steps=arguments.steps,
            device=device,
        )  # fmt: skip
        return
    for depths in ((1, 1, 2, 1), (2, 2, 4, 2)):
        for batch in (256, 512):
            rates = compare(
                width=64, depths=depths, batch=batch, num_points=4096, steps=arguments.steps,
                device=device,
            )  # fmt: skip
            if depths == (1, 1, 2, 1) and batch == 512:
                headline = rates
    textbook, linear, library, graph = (headline[name] for name in VARIANTS)
    rows = {
        "pattern_encoder_vs_plain": (
            "the same module of standard layers (1x1 convolutions), run plainly",
            textbook,
            f"training step, {HEADLINE}; the standard layers reach {textbook:,.0f} crystals/s, and "
            f"{linear:,.0f} with linear layers between two transpositions, as the authors of "
            f"ConvNeXt write it ({graph / linear:.2f} times less than ours); ours without a graph "
            f"{library:,.0f}",
        ),
        "pattern_encoder_vs_linear": (
            "the same module with standard linear layers between two transpositions",
            linear,
            "as the authors of ConvNeXt write it; same run as pattern_encoder_vs_plain",
        ),
    }
    record(
        Result(
            name=name,
            value=graph,
            unit="crystals/s",
            baseline=baseline,
            ratio=graph / rate,
            device=device_name(device),
            floor=headline["floor"],
            notes=notes,
        )
        for name, (baseline, rate, notes) in rows.items()
    )
    if arguments.profile:
        print(slowest_kernels(width=64, depths=(1, 1, 2, 1), batch=512, num_points=4096))


if __name__ == "__main__":
    main()

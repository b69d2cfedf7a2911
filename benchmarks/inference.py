"""Milliseconds from a pattern file to a cell and a crystal system, on one core.

Each time a file is read, brought to the model's grid, the formula is turned into features, and the
model of the published size predicts. Importing and loading happen before. The weights are random:
they do not change the time. Files and formulas differ from one to the next. Where the processor
computes in bfloat16, the pattern encoder does (:func:`in_bfloat16`); float32 is timed too. Beside
it the network that reads measurements, as it is shipped, in float32.

    python benchmarks/inference.py [--count 50]
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from common import Result, device_name, record
from pymatgen.core import Composition
from torch import nn

from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.model import UniMat, UniMatConfig, num_parameters
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.composition import magpie_features
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render
from unimat_powder.formulas import parse_formula
from unimat_powder.network import predict as measured
from unimat_powder.preparation import to_grid
from unimat_powder.reading import read_pattern
from unimat_powder.witnesses import shipped_reader

MEASURED = Grid(5.0, 90.0, 4251)  # steps of 0.02 degrees, as a laboratory instrument writes them


def published_model() -> UniMat:
    """The model of the full profile (params.yml) that reads XRD and composition."""
    config = UniMatConfig(
        modalities=("xrd", "composition"),
        inputs=("xrd", "composition"),
        dim=256,
        projection_dim=128,
        fusion="concat",
        grid=Grid(5.0, 90.0, 4096),
        xrd={"width": 48, "depths": (1, 1, 2, 1), "position_channels": 24},
        composition={"hidden": 256},
    )
    return UniMat(config).eval()


def write_patterns(folder: Path, count: int) -> list[tuple[Path, str]]:
    """Simulated measurements, counts on a background, and the formula of each."""
    table = load_dataset("prototypes")
    table = table.select(torch.randperm(len(table))[:count])
    reflections = bragg_reflections(table, g_max=g_max_of(MEASURED))
    rows = torch.arange(len(table))
    intensity = render(reflections, rows, MEASURED, fwhm=0.1).double().numpy()  # [count, P]
    counts = np.random.default_rng(0).poisson(2000 * intensity.clip(0) + 50)
    angles = MEASURED.two_theta.tolist()
    written = []
    for i, name in enumerate(table.info["formula"]):
        formula = Composition(name).formula  # parted, so that CS2 is carbon and sulphur
        path = folder / f"{i}.xy"
        points = zip(angles, counts[i].tolist(), strict=True)
        path.write_text("# 2theta counts\n" + "".join(f"{x:.2f} {y}\n" for x, y in points))
        written.append((path, formula))
    return written


@torch.inference_mode()
def predict(model: UniMat, path: Path, formula: str) -> dict[str, torch.Tensor]:
    """Lengths, angles and the probabilities of the crystal systems, of a file and a formula."""
    views = {
        "xrd": to_grid(read_pattern(path), model.config.grid)[None],
        "composition": magpie_features([parse_formula(formula).reduced]),
    }
    half = any(x.dtype == torch.bfloat16 for x in model.encoders["xrd"].parameters())
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = model(views)
    return model.cell_scaler.decode(output.cell.float()) | {
        "systems": output.system_log_probs.exp()
    }


def median_ms(run: Callable[[tuple[Path, str]], object], given: list[tuple[Path, str]]) -> float:
    """Median wall time of one call in milliseconds, after one round to warm up."""
    times = []
    for round_ in range(2):
        for item in given:
            start = time.perf_counter()
            run(item)
            if round_:
                times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def has_bfloat16() -> bool:
    """Whether the processor multiplies matrices of bfloat16 in hardware."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def in_bfloat16(model: UniMat) -> UniMat:
    """A copy of a model whose pattern encoder computes in bfloat16, as in training on a GPU.

    On processors with units for it (AVX-512 BF16, AMX) one pattern takes a little more than half
    the time, at the cost of the third digit; elsewhere it takes longer.
    """
    model = copy.deepcopy(model)
    for module in model.encoders["xrd"].modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            module.to(torch.bfloat16)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50, help="files, each with its own formula")
    count = parser.parse_args().count
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = published_model()
    with tempfile.TemporaryDirectory() as folder:
        files = write_patterns(Path(folder), count)
        patterns = {path: read_pattern(path) for path, _ in files}
        grids = {path: to_grid(patterns[path], model.config.grid)[None] for path, _ in files}
        models = {"float32": model}
        if has_bfloat16():
            models["bfloat16"] = in_bfloat16(model)
        encoder = torch.no_grad()(model.encoders["xrd"])
        steps: dict[str, Callable] = {
            "read the file": lambda item: read_pattern(item[0]),
            "onto the grid": lambda item: to_grid(patterns[item[0]], model.config.grid),
            "formula to features": lambda item: magpie_features([item[1]]),
            "pattern encoder, float32": lambda item: encoder(grids[item[0]]),
        }
        for name, used in models.items():
            steps[f"file to answer, {name}"] = lambda item, used=used: predict(used, *item)
        reader = shipped_reader()
        steps["file to reading"] = lambda item: measured.read_pattern(
            reader, read_pattern(item[0]), formula=item[1]
        )
        times = {name: median_ms(run, files) for name, run in steps.items()}
    for name, value in times.items():
        print(f"{name:<26}{value:8.2f} ms")
    reading, clean = times.pop("file to reading"), times["file to answer, float32"]
    parts = ", ".join(f"{name} {value:.1f} ms" for name, value in times.items())
    record(
        [
            Result(
                name="inference_one_core_ms",
                value=list(times.values())[-1],
                unit="ms",
                device=device_name(),
                notes=f"{list(models)[-1]}, one thread, median of {count} files of "
                f"{MEASURED.num_points:,} points, {num_parameters(model) / 1e6:.1f} million "
                f"parameters; {parts}",
            ),
            Result(
                name="reader_one_core_ms",
                value=reading,
                unit="ms",
                device=device_name(),
                baseline=f"the network for clean patterns, {clean:.1f} ms",
                ratio=clean / reading,
                notes=f"float32, one thread, median of {count} files of {MEASURED.num_points:,} "
                f"points and their formulas, {num_parameters(reader) / 1e6:.1f} million parameters",
            ),
        ]
    )


if __name__ == "__main__":
    main()

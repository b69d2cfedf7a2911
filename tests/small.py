"""Small things for tests that need no more: a model, a pattern that it can read, trainings."""

from pathlib import Path

import torch
import yaml

from unimat_book.grid.cells import GridSettings
from unimat_lib.model import UniMat, UniMatConfig
from unimat_lib.views.grid import Grid
from unimat_powder.pattern import Pattern

GRID = Grid(10.0, 80.0, 256)
SMALL = {"xrd": {"width": 4, "depths": (1, 1), "position_channels": 2}}

CIF = """data_x
_cell_length_a 5.{n:03d}
_cell_length_b 5.{n:03d}
_cell_length_c {c}.{n:03d}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Cs1 Cs 0 0 0
Cl1 Cl 0.5 0.5 {z}
"""
"""Salts whose cells differ by ``n``; ``c`` and ``z`` say how cubic they are."""


def make_model(inputs):
    torch.manual_seed(0)
    shape = {"dim": 8, "projection_dim": 8, "grid": GRID, "fusion": "gated", **SMALL}
    model = UniMat(UniMatConfig(modalities=inputs, inputs=inputs, **shape)).eval()
    model.cell_scaler.mean.copy_(torch.tensor([5.0] * 6 + [90.0] * 3))
    return model


def make_pattern(low=5.0, high=90.0, shift=0.0):
    two_theta = torch.arange(low, high, 0.05, dtype=torch.float64)
    intensity = sum(
        height * torch.exp(-0.5 * ((two_theta - centre - shift) / 0.1) ** 2)
        for centre, height in ((27.4, 1000.0), (36.1, 450.0), (54.3, 550.0))
    )
    return Pattern(two_theta, intensity + 20.0)


def write_scan(path):
    """The same as two columns of text; returns ``path``."""
    pattern = make_pattern()
    rows = zip(pattern.two_theta.tolist(), pattern.intensity.tolist(), strict=True)
    path.write_text("\n".join(f"{x:.3f} {y:.4f}" for x, y in rows))
    return path


def grid_settings(**changes):
    """Settings of the grid's trainings, so small that one takes a second."""
    p = yaml.safe_load((Path(__file__).parents[1] / "params.yml").read_text("utf-8"))["quick"]
    p = p["all"] | p["05_fusion"] | {"num_points": 256, "fwhm": 1.0, "fwhm_range": [0.8, 1.2]}
    p |= {"dim": 16, "width": 4, "hidden": 8, "position_channels": 4, "mlp_hidden": 16}
    p |= {"batch_size": 16, "limit_grid": 32, "epochs_grid": 2, "projection_dim": 8}
    return GridSettings.from_parameters(p | {"translations": 4} | changes)

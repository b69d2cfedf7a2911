"""Small settings of the studies."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from unimat_book.grid.cells import GridSettings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def settings() -> GridSettings:
    p = yaml.safe_load((ROOT / "params.yml").read_text("utf-8"))["quick"]
    p = p["all"] | p["05_fusion"] | {"num_points": 256, "fwhm": 1.0, "fwhm_range": [0.8, 1.2]}
    p |= {"dim": 16, "width": 4, "hidden": 8, "position_channels": 4, "mlp_hidden": 16}
    p |= {"batch_size": 16, "limit_grid": 32, "epochs_grid": 2, "seeds_grid": [0, 1]}
    return GridSettings.from_parameters(p | {"projection_dim": 8, "translations": 4})

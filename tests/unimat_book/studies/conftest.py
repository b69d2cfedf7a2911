"""Small settings of the studies."""

from __future__ import annotations

import pytest
from small import grid_settings

from unimat_book.grid.cells import GridSettings


@pytest.fixture(scope="session")
def settings() -> GridSettings:
    return grid_settings(seeds_grid=[0, 1])

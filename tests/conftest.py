"""Fixtures that many test modules share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import lattices
import lightning.fabric  # noqa: F401  see below
import pytest
import torch
from hypothesis import HealthCheck, settings

from unimat_lib.crystals.parquet import load_table
from unimat_lib.crystals.table import CrystalTable, table_from_arrays
from unimat_lib.files import alone_in
from unimat_lib.views.bragg import Reflections, bragg_reflections, g_max_of
from unimat_lib.views.render import render

torch.set_num_threads(1)

# Fabric starts no processes where Python was interactive when it was imported, and IPython says so
# of a process as soon as a test displays something: it is imported here, before all tests.
# Behind nohup or an ampersand Ctrl-C is ignored, which the processes that tests start inherit.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is no failure: what a test may take is limited for the whole suite. The examples
# are the same in every run; the longer tests draw new ones.
settings.register_profile(
    "book", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("book")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test draws does not depend on those that ran before it in the same process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def prototype_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds a small ``prototypes`` data set (about 300 crystals)."""
    from unimat_lib.datasets.preparation import prepare_dataset

    folder = tmp_path_factory.mktemp("cache")
    prepare_dataset("prototypes", cache_dir=folder, workers=1, limit=300)
    return folder


@pytest.fixture(scope="session")
def prototype_table(prototype_cache: Path) -> CrystalTable:
    """About 300 crystals of the prototypes: all seven crystal systems in each split."""
    return load_table(next(prototype_cache.glob("prototypes-*.parquet")))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages in the browser load, made once for all processes of a run: do not change."""
    from unimat_book.browser.export import export

    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with alone_in(base / "exported") as folder:
        if not (folder / "whole").exists():
            export(folder / "browser", dataset="prototypes")
            (folder / "whole").touch()
    return folder / "browser"


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """The folder that UNIMAT_DATA names; tests that need it are skipped without it."""
    folder = os.environ.get("UNIMAT_DATA")
    if not folder:
        pytest.skip("UNIMAT_DATA is not set: no real data here")
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        pytest.skip(f"UNIMAT_DATA={folder} is not a folder: no real data here")
    return path


@pytest.fixture(scope="session")
def mp_20_table(real_data_dir: Path) -> CrystalTable:
    """The first 300 rows of MP-20's validation split."""
    import pandas as pd

    from unimat_lib.crystals.cif import read_cif
    from unimat_lib.crystals.reduction import reduce_crystal, reduced_formula
    from unimat_lib.datasets.mp_20 import find_mp_20
    from unimat_lib.datasets.report import DataError

    try:
        path = find_mp_20(real_data_dir)["val"]
    except DataError as error:
        pytest.skip(str(error))
    frame = pd.read_csv(path, nrows=300)
    crystals = [reduce_crystal(*read_cif(cif)) for cif in frame["cif"]]
    info = pd.DataFrame(
        {
            "material_id": frame["material_id"],
            "formula": [reduced_formula(c.atomic_numbers) for c in crystals],
            "space_group": frame["spacegroup.number"],
            "split": "val",
            "source": frame.get("source", "public"),
        }
    )
    return table_from_arrays(
        [c.lattice for c in crystals],
        [c.frac_coords for c in crystals],
        [c.atomic_numbers for c in crystals],
        info,
    )


@pytest.fixture(scope="session", name="crystals")
def bravais_table() -> CrystalTable:
    """One small crystal per Bravais lattice."""
    return lattices.bravais_crystals()


@pytest.fixture(scope="session", name="reflections")
def bravais_reflections(crystals: CrystalTable) -> Reflections:
    """Their Bragg reflections on ``lattices.GRID``."""
    return bragg_reflections(crystals, g_max=g_max_of(lattices.GRID))


@pytest.fixture(scope="session", name="patterns")
def bravais_patterns(reflections: Reflections) -> torch.Tensor:
    """Their clean patterns."""
    return render(reflections, torch.arange(len(reflections)), lattices.GRID, fwhm=0.1)

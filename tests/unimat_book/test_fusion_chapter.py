"""What chapter 05 tries its models on, and how it shows their answers."""

import pytest

from unimat_book.chapters.fusion import cells_table, write_simulated_scan
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_powder.identify import Identification
from unimat_powder.reading import read_pattern


def test_a_simulated_scan_is_read_back(tmp_path):
    path = write_simulated_scan(
        worked_crystal(), tmp_path / "scan.xy", two_theta_range=(10.0, 60.0), fwhm=0.2
    )
    pattern = read_pattern(path)
    assert len(pattern.two_theta) == 2501
    assert (float(pattern.two_theta[0]), float(pattern.two_theta[-1])) == (10.0, 60.0)
    strongest = float(pattern.two_theta[pattern.intensity.argmax()])
    assert strongest == pytest.approx(27.4, abs=0.1)  # 110 of rutile
    assert 7000 < float(pattern.intensity.max()) < 9500
    assert 60 < float(pattern.intensity.median()) < 340


def test_cells_beside_the_truth():
    rutile = worked_crystal()
    said = Identification(
        (3.0, 4.5, 4.6), (90.0, 90.0, 91.0), dict.fromkeys(CRYSTAL_SYSTEMS, 1 / 7)
    )
    table = cells_table(rutile, {"answer": said})
    assert table.index.tolist() == ["true", "answer"]
    assert table.loc["true", "a (Å)"] == pytest.approx(float(rutile.lengths[0, 0]))
    assert table.loc["answer"].tolist() == [3.0, 4.5, 4.6, 90.0, 90.0, 91.0]

"""What the page of things to move is given: conventional cells, elements, errors, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import spglib
from pymatgen.core import Lattice

from unimat_book.browser.moving import (
    ANGLES,
    BATCHES,
    CRYSTALS,
    MODELS,
    _element,
    _rows,
    crystal_of,
    error_tensors,
)
from unimat_book.ledger.predictions import load_predictions
from unimat_book.record import project_root
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.views.bragg import scattering_parameters


@pytest.fixture(scope="module")
def prototypes():
    return load_dataset("prototypes")


def test_crystals_come_in_conventional_cells_of_their_group(prototypes) -> None:
    rows = _rows(prototypes, [name for _, name in CRYSTALS])
    systems = set()
    for title, name in CRYSTALS:
        crystal = crystal_of(prototypes, title, rows[name])
        numbers, *frac = zip(*crystal["atoms"], strict=True)
        lattice = Lattice.from_parameters(*crystal["cell"]).matrix
        found = spglib.get_symmetry_dataset((lattice, np.transpose(frac), numbers), symprec=0.01)
        assert found.number == crystal["group"], title
        assert found.transformation_matrix == pytest.approx(np.eye(3), abs=1e-6) or (
            abs(np.linalg.det(found.transformation_matrix)) == pytest.approx(1)
        )
        assert all(0 <= x < 1 for axis in frac for x in axis)
        systems.add(crystal["system"])
    assert len(CRYSTALS) == 11 and systems == {1, 2, 3, 4, 5, 6}


def test_batches_are_among_the_prototypes(prototypes) -> None:
    for _, named in BATCHES:
        names = [name for name, _ in named]
        assert len(_rows(prototypes, names)) == 8


def test_a_missing_crystal_is_named(prototypes) -> None:
    with pytest.raises(ValueError, match=r"expected the prototypes \['nowhere:Xx'\]"):
        _rows(prototypes, ["nowhere:Xx"])


def test_elements_have_what_scattering_and_drawing_need() -> None:
    oxygen = _element(8)
    assert oxygen["symbol"] == "O" and oxygen["color"] == "#FF0D0D"
    assert 0.5 < oxygen["radius"] < 0.8 and oxygen["electronegativity"] == pytest.approx(3.44)
    assert oxygen["scattering"] == scattering_parameters()[8].tolist()


def test_errors_are_those_on_file() -> None:
    root = project_root()
    tensors, models = error_tensors(root, {"mp-10009": "GaTe"})
    assert len(models) == len(MODELS) == len(tensors["lengths"])
    setting, variant = MODELS[1]
    seeds = load_predictions(
        root / "data/results/predictions", setting=setting, variant=variant, made_by=""
    )
    frame = seeds[0]
    for name, columns in (("lengths", "abc"), ("angles", ANGLES)):
        true = frame[[f"error_{column}" for column in columns]].abs().mean(axis=1)
        assert np.allclose(tensors[name][1].numpy(), true, atol=1e-6)
    assert (tensors["said"][1].numpy() == frame["predicted_system"]).all()
    lines = bytes(tensors["names"].numpy()).decode().split("\n")
    assert [line.split("\t")[1] for line in lines] == list(frame["material_id"])
    assert [line for line in lines if not line.startswith("\t")] == ["GaTe\tmp-10009"]

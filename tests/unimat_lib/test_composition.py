"""Magpie features against matminer's own featurizer."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unimat_lib.views.composition import MAGPIE_FEATURES, _matminer_table, magpie_features

MODULE = "unimat_lib.views.composition"


def test_equal_to_matminer(prototype_table):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matminer.featurizers.composition import ElementProperty
        from pymatgen.core import Composition

        featurizer = ElementProperty.from_preset("magpie")
        formulas = [*prototype_table.info["formula"][::3], "U2NpXe", "Fe0.3Ni0.7"]
        expected = np.array([featurizer.featurize(Composition(f)) for f in formulas])
    assert tuple(featurizer.feature_labels()) == MAGPIE_FEATURES
    assert len(MAGPIE_FEATURES) == 132
    features = magpie_features(formulas)
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features, expected, rtol=1e-6, atol=1e-6)


def test_order_repeats_and_ratios():
    features = magpie_features(["TiO2", "NaCl", "TiO2", "Ti4O8", "O2Ti"])
    assert features.shape == (5, 132)
    for same in (2, 3, 4):
        torch.testing.assert_close(features[same], features[0])
    assert not torch.equal(features[1], features[0])
    assert torch.isfinite(features).all()
    assert magpie_features([]).shape == (0, 132)
    torch.testing.assert_close(magpie_features(["D2O"]), magpie_features(["H2O"]))


def test_one_element_has_no_spread():
    row = dict(zip(MAGPIE_FEATURES, magpie_features(["Fe"])[0].tolist(), strict=True))
    assert row["MagpieData range Number"] == 0
    assert row["MagpieData avg_dev Electronegativity"] == 0
    assert row["MagpieData mean Number"] == row["MagpieData mode Number"] == 26


@pytest.mark.parametrize("formula", ["", "Xx2O", "TiO2)", "hello world", "12", "Ti0"])
def test_unreadable_formulas(formula):
    with pytest.raises(ValueError, match="expected a chemical formula"):
        magpie_features(["TiO2", formula])


@given(st.text(max_size=12))
def test_any_text_gives_features_or_a_value_error(text):
    try:
        features = magpie_features([text])
    except ValueError:
        return
    assert torch.isfinite(features).all()


def test_the_cached_table_is_used(tmp_path, monkeypatch):
    first = magpie_features(["TiO2"], cache_dir=tmp_path / "cache")
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["magpie-elements.parquet"]
    monkeypatch.setattr(f"{MODULE}._matminer_table", lambda: pytest.fail("read again"))
    assert torch.equal(magpie_features(["TiO2"], cache_dir=tmp_path / "cache"), first)
    # Another version of matminer might have other tables: the file is then made anew.
    made = []
    monkeypatch.setattr(f"{MODULE}._matminer_version", lambda: "another")
    monkeypatch.setattr(f"{MODULE}._matminer_table", lambda: made.append(1) or np.ones((119, 22)))
    magpie_features(["TiO2"], cache_dir=tmp_path / "cache")
    assert made == [1]


def test_missing_tables_are_explained(monkeypatch):
    _matminer_table.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"not installed.*requirements\.lock"):
        magpie_features(["TiO2"])


def test_importing_loads_neither_matminer_nor_a_socket():
    code = (
        "import sys, unimat_lib.crystals.table, unimat_lib.datasets.preparation\n"
        "import unimat_lib.views.composition\n"
        "heavy = {'matminer', 'pooch', 'pymatgen.core'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "unimat_lib.views.composition.magpie_features(['TiO2'])\n"
        "assert 'matminer' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

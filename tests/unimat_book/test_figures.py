"""Figures: every function returns a labelled figure, none leaves anything behind."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from unimat_book.calibration import expected_calibration_error
from unimat_book.figures.crystals import (
    _view_matrix,
    _with_boundary,
    plot_cell_histograms,
    plot_crystal_3d,
    plot_crystal_graph,
    plot_crystal_system_counts,
)
from unimat_book.figures.elements import _element_cell, element_color, plot_periodic_table_coverage
from unimat_book.figures.errors import (
    plot_calibration,
    plot_confusion,
    plot_error_against,
    plot_error_by_symmetry,
    plot_fusion_comparison,
    plot_missing_modality,
    plot_parity,
)
from unimat_book.figures.flow import plot_flow_strip
from unimat_book.figures.ledger import plot_paper_vs_ours
from unimat_book.figures.patterns import (
    plot_measurement_effects,
    plot_pattern,
    plot_patterns_stack,
    plot_three_views,
)
from unimat_book.figures.sketches import (
    plot_basis_functions,
    plot_bragg_law,
    plot_contrastive_diagram,
    plot_fusion_diagram,
    plot_message_passing_diagram,
    plot_niggli_cells,
)
from unimat_book.figures.style import MODALITY_COLORS, SYSTEM_COLORS, BookFigure, style
from unimat_book.figures.training import (
    plot_data_curve,
    plot_embedding_map,
    plot_learning_curves,
    plot_magpie_features,
    plot_retrieval_examples,
)
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_lib.evaluation.metrics import PROBABILITY_COLUMNS
from unimat_lib.fusion import LateFusion
from unimat_lib.views.graphs import periodic_graph

RNG = np.random.default_rng(0)
TWO_THETA = np.linspace(10.0, 90.0, 400)
NUM = 120
SYSTEM = np.array(CRYSTAL_SYSTEMS, dtype=object)[np.arange(NUM) % 7]
TRUE = RNG.gamma(12, 0.5, (NUM, 3))


def bumps(seed: int) -> np.ndarray:
    centres = np.random.default_rng(seed).uniform(15, 85, 9)
    return np.exp(-(((TWO_THETA[:, None] - centres) / 0.4) ** 2)).sum(axis=1)


def history(scale: float) -> pd.DataFrame:
    epoch = np.arange(8)
    return pd.DataFrame({"epoch": epoch, "val_loss": scale * np.exp(-epoch / 4)})


def worked() -> tuple:
    table = worked_crystal()
    return table, periodic_graph(table, cutoff=4.0, max_neighbors=12)


ERRORS = pd.DataFrame(
    {
        "crystal_system": SYSTEM,
        "split": np.array(["train", "val", "test"])[np.arange(NUM) % 3],
        "error": RNG.lognormal(-2, 1, NUM),
        "model": np.array(["xrd", "composition"])[np.arange(NUM) % 2],
    }
)
STATED = pd.DataFrame(RNG.dirichlet(np.ones(7) / 3, NUM), columns=PROBABILITY_COLUMNS).assign(
    crystal_system=0, predicted_system=np.arange(NUM) % 2
)
DOTS = pd.DataFrame(
    {"fusion": ["gated", "late"], "hue": "a", "value": [0.12, 0.15], "low": 0.11, "high": 0.17}
)
CLAIMS = pd.DataFrame(
    {
        "claim": ["xrd", "composition"],
        "paper": [0.17, 0.33],
        "reproduction": [0.2, 0.3],
        "ours": [0.1, np.nan],
        "ours_refined": np.nan,
    }
).assign(ours_low=[0.09, np.nan], ours_high=[0.11, np.nan])
CURVE = pd.DataFrame(
    {
        "crystals": [1000, 1000, 10_000, 30_000, 10_000, 40_000],
        "error": [0.4, 0.5, 0.2, 0.12, 0.15, 0.09],
        "label": ["MP-20"] * 4 + ["MP-20 + extra"] * 2,
    }
)
EXAMPLE = {
    "query": bumps(0),
    "candidates": np.stack([bumps(k) for k in range(5)]),
    "labels": ["TiO2", "NaCl", "SrTiO3", "Fe", "Mg2SiO4"],
    "scores": np.linspace(0.9, 0.5, 5),
    "correct": 0,
    "title": "found first",
}

# Sketches carry their labels inside the drawing; the others must label their axes.
SKETCHES: dict[str, Callable[[], Figure]] = {
    "flow_strip": lambda: plot_flow_strip(highlight="fusion"),
    "bragg_law": plot_bragg_law,
    "contrastive_diagram": plot_contrastive_diagram,
    "message_passing_diagram": plot_message_passing_diagram,
    "fusion_diagram": plot_fusion_diagram,
    "periodic_table_coverage": lambda: plot_periodic_table_coverage({"O": 900, "Ti": 12}),
    "crystal_3d": lambda: plot_crystal_3d(worked()[0]),
    "crystal_graph": lambda: plot_crystal_graph(*worked()),
}
PLOTS: dict[str, Callable[[], Figure]] = {
    "crystal_system_counts": lambda: plot_crystal_system_counts(ERRORS),
    "cell_histograms": lambda: plot_cell_histograms(
        TRUE, RNG.normal(90, 9, (NUM, 3)), np.arange(NUM) % 20 + 1
    ),
    "pattern": lambda: plot_pattern(TWO_THETA, bumps(1), reference=(TWO_THETA, bumps(2))),
    "patterns_stack": lambda: plot_patterns_stack(TWO_THETA, {"a": bumps(1), "b": bumps(2)}),
    "three_views": lambda: plot_three_views(
        *worked(), TWO_THETA, bumps(1), peaks=np.array([27.4, 36.1, 54.3])
    ),
    "niggli_cells": plot_niggli_cells,
    "basis_functions": lambda: plot_basis_functions(cutoff=5.0),
    "magpie_features": lambda: plot_magpie_features(
        RNG.normal(size=20), [f"MagpieData mean {k}" for k in range(20)]
    ),
    "measurement_effects": lambda: plot_measurement_effects(
        TWO_THETA, {"zero shift": bumps(1), "noise": bumps(2)}, reference=bumps(1), window=(20, 75)
    ),
    "learning_curves": lambda: plot_learning_curves(
        {"xrd": history(1.0), "composition": history(2.0)},
        metrics={"val_loss": "validation loss", "absent": "a column no run has"},
        best_epoch={"xrd": 5, "composition": 7},
    ),
    "data_curve": lambda: plot_data_curve(CURVE, ylabel="scaled length MAE (Å)"),
    "retrieval_examples": lambda: plot_retrieval_examples(
        TWO_THETA, [EXAMPLE, {**EXAMPLE, "correct": None}]
    ),
    "embedding_map": lambda: plot_embedding_map(
        RNG.normal(size=(NUM, 2)), SYSTEM, modality=np.array(["structure", "xrd"] * (NUM // 2))
    ),
    "confusion": lambda: plot_confusion(
        {name: RNG.integers(0, 50, (7, 7)) for name in ("xrd", "composition", "fused")}
    ),
    "parity": lambda: plot_parity(TRUE, TRUE + 0.1, columns=("a", "b", "c")),
    "error_by_symmetry": lambda: plot_error_by_symmetry(
        ERRORS, column="error", label="error (Å)", hue="model"
    ),
    "error_against": lambda: plot_error_against(
        {"volume (Å³)": TRUE.prod(axis=1), "atoms": np.arange(NUM) % 20 + 1},
        ERRORS["error"],
        ylabel="error (Å)",
    ),
    "fusion_comparison": lambda: plot_fusion_comparison(
        DOTS, xlabel="MAE (Å)", hue="hue", reference=0.13, reference_label="paper"
    ),
    "missing_modality": lambda: plot_missing_modality(
        pd.DataFrame([[0.1, np.nan]], index=["gated"], columns=["xrd", "xrd+composition"]),
        label="MAE (Å)",
    ),
    "calibration": lambda: plot_calibration(STATED),
    "paper_vs_ours": lambda: plot_paper_vs_ours(CLAIMS, xlabel="MAE (Å)"),
}


@pytest.fixture(params=[*SKETCHES, *PLOTS])
def drawn(request: pytest.FixtureRequest) -> tuple[str, Figure]:
    before = dict(mpl.rcParams)
    figure = {**SKETCHES, **PLOTS}[request.param]()
    assert dict(mpl.rcParams) == before, "a figure function changed the global settings"
    return request.param, figure


def test_figure_is_labelled_and_small(drawn: tuple[str, Figure]) -> None:
    name, figure = drawn
    assert isinstance(figure, Figure)
    if name in PLOTS:
        labels = [axes.get_xlabel() for axes in figure.axes if axes.get_visible()]
        assert any(labels), f"{name} has no labelled horizontal axis"
    data = figure.png()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 120_000, f"{name} weighs {len(data)} bytes"
    width, _ = figure.get_size_inches()
    assert width <= 7.7


def test_importing_and_drawing_leaves_pyplot_alone() -> None:
    """No figure left open and no setting changed (seaborn itself imports pyplot)."""
    code = (
        "import matplotlib as mpl; before = dict(mpl.rcParams); import numpy as np;"
        "from unimat_book.figures.errors import plot_confusion;"
        "plot_confusion({'a': np.eye(7, dtype=int)})._repr_mimebundle_();"
        "assert dict(mpl.rcParams) == before;"
        "import matplotlib.pyplot as plt; assert plt.get_fignums() == []"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def test_style_gives_the_settings_back() -> None:
    before = dict(mpl.rcParams)
    with style():
        assert mpl.rcParams["axes.spines.top"] is False
    assert dict(mpl.rcParams) == before
    with pytest.raises(RuntimeError), style():
        raise RuntimeError
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("colors", [SYSTEM_COLORS, MODALITY_COLORS])
def test_colors_are_distinct(colors: dict[str, str]) -> None:
    for (name, first), (other, second) in combinations(colors.items(), 2):
        gap = np.linalg.norm(np.subtract(to_rgb(first), to_rgb(second)))
        assert gap > 0.25, f"{name} and {other} look alike"


def test_crystal_systems_have_one_colour_each() -> None:
    assert tuple(SYSTEM_COLORS) == CRYSTAL_SYSTEMS


def test_the_same_data_gives_the_same_bytes() -> None:
    assert PLOTS["pattern"]().png() == PLOTS["pattern"]().png()


def test_large_figures_are_reduced_to_a_palette() -> None:
    noise = BookFigure()
    noise.add_subplot().imshow(RNG.normal(size=(400, 400)))
    with Image.open(io.BytesIO(noise.png())) as image:
        assert image.mode == "P"
    assert len(noise.png()) < 300_000


def test_elements_have_their_places_and_colours() -> None:
    places = {1: (1, 1), 2: (18, 1), 5: (13, 2), 26: (8, 4), 57: (3, 8.4), 71: (3, 6), 118: (18, 7)}
    assert {number: _element_cell(number) for number in places} == places
    assert len({_element_cell(number) for number in range(1, 119)}) == 118
    assert all(to_rgb(element_color(number)) for number in range(1, 119))


def test_boundary_atoms_close_the_cell() -> None:
    coords, species = _with_boundary(np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([1, 2]))
    assert len(coords) == 9 and (species == 1).sum() == 8


def test_view_matrix_is_a_rotation() -> None:
    lattice = np.array([[3.0, 0, 0], [-1, 4, 0], [0.5, 0.3, 5]])
    view = _view_matrix(lattice)
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view) == pytest.approx(1)


def test_data_curve_draws_the_mean_of_the_seeds() -> None:
    axes = plot_data_curve(CURVE, ylabel="error (Å)").axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    line = next(x for x in axes.lines if x.get_label() == "MP-20")
    np.testing.assert_allclose(line.get_xdata(), [1000, 10_000, 30_000])
    np.testing.assert_allclose(line.get_ydata(), [0.45, 0.2, 0.12])
    assert {text.get_text() for text in axes.texts} == {"0.45", "0.2", "0.12", "0.15", "0.09"}


def test_calibration_shows_the_error_that_tables_print() -> None:
    axes, below = plot_calibration(STATED).axes
    assert f"{100 * expected_calibration_error(STATED):.1f} %" in axes.get_title(loc="left")
    assert sum(bar.get_height() for bar in below.patches) == pytest.approx(NUM)
    confidence = STATED[list(PROBABILITY_COLUMNS)].max(axis=1)
    counts, _ = np.histogram(confidence, 15, (0, 1))
    assert [bar.get_height() for bar in below.patches] == pytest.approx(list(counts[counts > 0]))
    centres = [bar.get_x() + bar.get_width() / 2 for bar in below.patches]
    assert centres == pytest.approx([(k + 0.5) / 15 for k in np.flatnonzero(counts)])


def test_fusion_diagram_says_that_late_fusion_learns_its_weights() -> None:
    words = [text.get_text() for text in plot_fusion_diagram().axes[0].texts]
    assert isinstance(LateFusion(num_modalities=2, dim=4).logits, nn.Parameter)
    assert any("learned weights" in text for text in words)
    assert "mean" not in words


def test_messages_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="positive crystals and errors"):
        plot_data_curve(CURVE.assign(error=0.0), ylabel="error (Å)")
    with pytest.raises(ValueError, match=r"lacks \['label'\]"):
        plot_data_curve(CURVE.drop(columns="label"), ylabel="error (Å)")
    with pytest.raises(ValueError, match="expected highlight from"):
        plot_flow_strip(highlight="fusoin")
    with pytest.raises(ValueError, match=r"lacks \['split'\]"):
        plot_crystal_system_counts(ERRORS.drop(columns="split"))
    with pytest.raises(ValueError, match="expected crystal systems"):
        plot_embedding_map(np.zeros((1, 2)), ["rhombohedral"], modality=["xrd"])
    with pytest.raises(ValueError, match="matrices of 7 x 7"):
        plot_confusion({"xrd": np.zeros((3, 3))})
    with pytest.raises(ValueError, match="one name per feature"):
        plot_magpie_features(np.zeros(3), ["a"])
    with pytest.raises(ValueError, match="at least one element"):
        plot_periodic_table_coverage({})
    with pytest.raises(ValueError, match="no bin holds"):
        plot_error_against({"x": [1, 2]}, [1, 2], ylabel="y")

"""Crystals, the shipped model and its results in, the data of the page of things to move out.

The page computes with these itself: it draws patterns from atoms and scattering factors, compares
points of the shared space, filters errors. Nothing here is stored in the tree.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pandas as pd
import torch
from pymatgen.core import Element
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from safetensors.torch import save_file
from sklearn.manifold import TSNE
from torch import Tensor

from unimat_book.figures.elements import element_color
from unimat_book.ledger.predictions import load_predictions
from unimat_book.ledger.settings import PREDICTIONS, SETTINGS, VARIANTS
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.evaluation.predict import embed
from unimat_lib.model import load_model
from unimat_lib.views.batch import build_views
from unimat_lib.views.bragg import scattering_parameters
from unimat_lib.views.grid import WAVELENGTHS
from unimat_powder.library.build import published_prototypes

PRETRAINED = "data/pretrained/structure_xrd_composition.safetensors"  #: in the book's folder
VIEWS = ("structure", "xrd", "composition")  #: order of the views in ``map.safetensors``
SHOWN = 800  #: crystals of MP-20's test split on the map: half a megabyte of points

CRYSTALS = (
    ("Rutile", "A2B_tP6_136_f_a:TiO2"),
    ("Halite", "AB_cF8_225_a_b:NaCl"),
    ("Diamond", "A_cF8_227_a:C"),
    ("Fluorite", "AB2_cF12_225_a_c:CaF2"),
    ("Perovskite (cubic)", "AB3C_cP5_221_a_c_b:CaTiO3"),
    ("Wurtzite", "AB_hP4_186_b_b:ZnS"),
    ("Graphite", "A_hP4_194_bc:C"),
    ("Quartz", "A2B_hP9_152_c_a:SiO2"),
    ("Corundum", "A2B3_hR10_167_c_e:Al2O3"),
    ("Marcasite", "AB2_oP6_58_a_g:FeS2"),
    ("Baddeleyite", "A2B_mP12_14_2e_e:ZrO2"),
)
"""Title and material id among the prototypes: rutile and ten others, of six crystal systems."""

_SALTS = ("LiF", "LiCl", "LiBr", "NaF", "NaCl", "KF", "KCl", "KBr")
BATCHES = (
    (
        "Eight different crystals",
        tuple((name, title.split(" ")[0]) for title, name in CRYSTALS[:8]),
    ),
    (
        "Eight with the structure of halite",
        tuple((f"AB_cF8_225_a_b:{salt}", salt) for salt in _SALTS),
    ),
)
"""Title, material ids and labels of batches, for the softmax at several temperatures."""

MODELS = (
    ("composition", "ours"),
    ("xrd", "ours"),
    ("xrd", "ours_refined"),
    ("xrd_composition_aligned_fused", "ours"),
    ("xrd_composition_aligned_fused", "ours_refined"),
    ("all_three", "ours"),
)
"""Settings and variants whose errors are listed, each with its first seed."""

ANGLES = ("alpha", "beta", "gamma")


def write_moving(folder: Path, root: Path, *, dataset: str, workers: int = 1) -> None:
    """Write ``moving.json``, ``map.safetensors`` and ``errors.safetensors``.

    Args:
        folder: Where to; it exists.
        root: The book's folder, for weights and published results.
        dataset: ``mp_20``: the map shows test crystals of it and the errors have formulas;
            ``prototypes``: the map shows what comes along, formulas are left out.
        workers: Processes.

    Raises:
        ValueError: A crystal is missing among the prototypes.
        FileNotFoundError: Weights or results are missing.
    """
    prototypes = load_dataset("prototypes", workers=workers)
    model = load_model(root / PRETRAINED)
    rows = _rows(prototypes, [name for _, name in CRYSTALS])
    crystals = [crystal_of(prototypes, title, rows[name]) for title, name in CRYSTALS]
    kinds = sorted({z for crystal in crystals for z, *_ in crystal["atoms"]})
    known = prototypes if dataset == "prototypes" else load_dataset(dataset, workers=workers)
    save_file(_map(model, _shown(dataset, known)), folder / "map.safetensors")
    errors, models = error_tensors(root, _formulas(dataset, known))
    save_file(errors, folder / "errors.safetensors")
    for name in ("map.safetensors", "errors.safetensors"):
        (folder / name).chmod(0o644)  # a web server may be somebody else
    content = {
        "dataset": dataset,
        "wavelengths": {name: WAVELENGTHS[name] for name in ("CuKa", "CuKa1", "CuKa2")},
        "systems": list(CRYSTAL_SYSTEMS),
        "crystals": crystals,
        "elements": {str(z): _element(z) for z in kinds},
        "batches": [_batch(model, prototypes, *batch) for batch in BATCHES],
        "scale": model.alignment.scale.item(),
        "models": models,
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (folder / "moving.json").write_text(text + "\n", encoding="utf-8")


def _rows(table: CrystalTable, names: Sequence[str]) -> dict[str, int]:
    places = {name: place for place, name in enumerate(table.info["material_id"])}
    if missing := sorted(set(names) - set(places)):
        raise ValueError(f"expected the prototypes {missing}, which the table lacks")
    return {name: places[name] for name in names}


def crystal_of(table: CrystalTable, title: str, row: int) -> dict[str, Any]:
    """A crystal in its conventional cell: cell, atoms (number and fractions), symmetry."""
    cell = SpacegroupAnalyzer(
        table.structure(row), symprec=0.01
    ).get_conventional_standard_structure()
    info = table.info.iloc[row]
    group = int(info["space_group"])
    atoms = [
        [int(site.specie.Z), *(round(float(x) % 1, 8) % 1 for x in site.frac_coords)]
        for site in cell
    ]
    return {
        "title": title,
        "id": str(info["material_id"]),
        "formula": str(info["formula"]),
        "group": group,
        "symbol": short_symbol(group),
        "system": int(table.crystal_system[row]),
        "cell": [round(x, 6) for x in cell.lattice.parameters],
        "atoms": atoms,
    }


def short_symbol(group: int) -> str:
    """Short name of a space group; gemmi says H for hexagonal axes of R."""
    return gemmi.find_spacegroup_by_number(group).short_name().replace("H", "R")


def _element(number: int) -> dict[str, Any]:
    """What drawing and scattering need; radii in angstrom."""
    element = gemmi.Element(number)
    return {
        "symbol": element.name,
        "color": element_color(number),
        "radius": round(element.covalent_r, 3),
        "electronegativity": float(Element.from_Z(number).X),
        "scattering": scattering_parameters()[number].tolist(),
    }


def _points(model: Any, table: CrystalTable) -> dict[str, Tensor]:
    config = model.config
    graph = {"cutoff": config.cutoff, "max_neighbors": config.max_neighbors}
    views = build_views(table, grid=config.grid, fwhm=config.fwhm, **graph)
    return embed(model, views, torch.arange(len(table)))


def _batch(
    model: Any, table: CrystalTable, title: str, named: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    """Cosines between patterns (rows) and structures (columns) of a few crystals."""
    rows = _rows(table, [name for name, _ in named])
    some = table.select(list(rows.values()))
    points = _points(model, some)
    cosines = points["xrd"].double() @ points["structure"].double().T
    return {
        "title": title,
        "labels": [label for _, label in named],
        "cosines": [[round(x, 5) for x in row] for row in cosines.tolist()],
    }


def _shown(dataset: str, known: CrystalTable) -> CrystalTable:
    """What the map shows: of MP-20 every so many-th test crystal, else published prototypes."""
    if dataset == "prototypes":
        return published_prototypes(known)
    test = known.split("test")
    step = max(len(test) // SHOWN, 1)
    return test.select(torch.arange(0, len(test), step)[:SHOWN])


def _map(model: Any, table: CrystalTable) -> dict[str, Tensor]:
    """Points float16 ``[3, N, d]``, their places on the map, float32 ``[3, N, 2]``, and names."""
    by_view = _points(model, table)
    points = torch.stack([by_view[view] for view in VIEWS])  # [3, N, d]
    # Each view lies in a cone of its own; for the map its mean is taken off.
    centred = (points - points.mean(dim=1, keepdim=True)).flatten(0, 1)
    perplexity = min(30.0, len(table) / 4)
    flatten = TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=0)
    flat = flatten.fit_transform(centred.numpy())
    places = torch.from_numpy(flat).float().reshape(len(VIEWS), len(table), 2)
    places = places - places.flatten(0, 1).mean(0)
    info = table.info
    names = "\n".join(info["formula"].astype(str) + "\t" + info["material_id"].astype(str))
    return {
        "points": points.half(),
        "places": (places / places.abs().max()).contiguous(),
        "space_group": table.space_group.to(torch.uint8),
        "names": _text(names),
    }


def _formulas(dataset: str, known: CrystalTable) -> dict[str, str]:
    """Formulas of MP-20's crystals by id, where it is on this machine."""
    if dataset == "prototypes":
        return {}
    info = known.info
    return dict(zip(info["material_id"].astype(str), info["formula"].astype(str), strict=True))


def error_tensors(
    root: Path, formulas: dict[str, str]
) -> tuple[dict[str, Tensor], list[dict[str, str]]]:
    """Errors of every test crystal by every model that has published them, and the models' names.

    Returns:
        ``lengths`` (float32 ``[M, N]``, mean absolute error of a, b, c in angstrom), ``angles``
        (the same of alpha, beta, gamma in degrees),
        ``said`` (uint8 ``[M, N]``, the crystal system answered), ``system``, ``num_atoms``
        (uint8 ``[N]``) and ``names`` (uint8, UTF-8 text: a line for each crystal with formula,
        empty where unknown, and material id, parted by a tab); titles by model.
    """
    frames, models = [], []
    for setting, variant in MODELS:
        seeds = load_predictions(
            root / "data/results/predictions",
            setting=setting,
            variant=variant,
            made_by=f"unimat-book run {PREDICTIONS[setting, variant]}",
        )
        frames.append(seeds[min(seeds)])
        refined = ", refined" if variant == "ours_refined" else ""
        models.append({"title": SETTINGS[setting] + refined, "variant": VARIANTS[variant]})
    first = frames[0]
    ids = first["material_id"].astype(str)
    names = "\n".join(f"{formulas.get(name, '')}\t{name}" for name in ids)
    return {
        "lengths": torch.stack([_mean_error(x, "abc") for x in frames]),
        "angles": torch.stack([_mean_error(x, ANGLES) for x in frames]),
        "said": torch.stack([_small(x["predicted_system"]) for x in frames]),
        "system": _small(first["crystal_system"]),
        "num_atoms": _small(first["num_atoms"]),
        "names": _text(names),
    }, models


def _mean_error(frame: pd.DataFrame, names: Sequence[str]) -> Tensor:
    error = frame[[f"error_{name}" for name in names]].abs().mean(axis=1)
    return torch.from_numpy(error.to_numpy(np.float32))


def _small(values: pd.Series) -> Tensor:
    return torch.from_numpy(values.to_numpy(np.uint8))


def _text(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy())

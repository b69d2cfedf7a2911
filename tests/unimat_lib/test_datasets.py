"""Data sets: reading, preparing, resuming, and every kind of bad input."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from unimat_lib.crystals.parquet import load_table
from unimat_lib.crystals.structures import from_structures
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, SPLITS, CrystalError
from unimat_lib.datasets.__main__ import main
from unimat_lib.datasets.chunks import _prepare_chunk
from unimat_lib.datasets.cif_folder import cif_files, cif_folder_source, hashed_split
from unimat_lib.datasets.mp_extra import _lattice, apart_from
from unimat_lib.datasets.preparation import (
    DATASETS,
    _prepare,
    dataset_provenance,
    load_dataset,
    preparation_identity,
    prepare_dataset,
    read_report,
)
from unimat_lib.datasets.prototypes import (
    _allot_prototypes,
    _level,
    _prototype_groups,
    _split_prototypes,
    predicted_volume_ratio,
)
from unimat_lib.datasets.report import DataError, git_blob_id, manifest, read_cif_row
from unimat_lib.files import file_hash
from unimat_lib.identity import Identity

MODULE = "unimat_lib.datasets"

NACL = Structure.from_spacegroup(
    225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
RUTILE = Structure.from_spacegroup(
    136, Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
)
ZNS = Structure.from_spacegroup(
    216, Lattice.cubic(5.41), ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]
)


def cif(structure: Structure, **keys) -> str:
    return str(CifWriter(structure, **keys))


# ---- prototypes


def test_prototypes_cover_every_system_in_every_split(prototype_table, prototype_cache):
    report = read_report("prototypes", prototype_cache)
    assert (report.summary() > 0).all(axis=None)
    assert report.num_used == len(prototype_table)
    assert report.num_rows == report.num_used + len(report.dropped)
    assert report.notes["too_many_atoms"] == sum(
        "more than 20 atoms" in d["reason"] for d in report.dropped
    )
    assert int(prototype_table.num_atoms.max()) <= 20
    assert int(prototype_table.atomic_numbers.max()) <= 94
    assert prototype_table.info["material_id"].is_unique


def test_a_prototype_stays_in_one_split(prototype_table):
    splits = prototype_table.info.groupby("prototype")["split"].nunique()
    assert len(splits) > 50
    assert (splits == 1).all()


def test_variants_keep_symmetry_and_say_that_they_are_synthetic(prototype_table, prototype_cache):
    info = prototype_table.info
    label = info["prototype"].str.split("_").str[2].astype(int)
    assert (info["space_group"] == label).all()
    assert set(info["source"]) == {"aflow", "variant"}
    assert "synthetic" in dataset_provenance("prototypes", prototype_cache)["text"]


@pytest.fixture(scope="module")
def prototype_groups():
    return _prototype_groups()[0]


def test_predicted_volumes_are_those_of_pymatgen(prototype_groups):
    from pymatgen.core.structure_prediction.volume_predictor import DLSVolumePredictor

    predictor = DLSVolumePredictor(min_scaling=None, max_scaling=None)
    rows = [group.candidates[-1] for group in prototype_groups[::8]]
    for row in (row for row in rows if row["info"]["source"] == "variant"):
        structure = Structure(row["lattice"], row["symbols"], row["frac_coords"])
        mine = predicted_volume_ratio(row["shortest"], row["symbols"])
        assert mine == pytest.approx(predictor.predict(structure) / structure.volume, rel=1e-9)


def test_full_size_plan_is_balanced(prototype_groups):
    groups = prototype_groups
    sizes = _allot_prototypes(groups, 3000)
    splits = _split_prototypes(groups, sizes)
    assert sum(sizes) == 3000
    counts = pd.DataFrame(0, index=list(SPLITS), columns=range(7))
    for group, size in zip(groups, sizes, strict=True):
        counts.loc[splits[group.label], group.system] += size
    share = counts.div(counts.sum(axis=1), axis=0)
    assert share.to_numpy().min() > 0.04
    assert counts.sum(axis=1)["train"] / 3000 == pytest.approx(0.7, abs=0.02)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 100))
def test_level_shares(available, total):
    shares = _level(available, total)
    assert sum(shares) == min(total, sum(available))
    assert all(0 <= s <= n for s, n in zip(shares, available, strict=True))
    open_ = [s for s, n in zip(shares, available, strict=True) if s < n]
    assert not open_ or max(shares) - min(open_) <= 1


# ---- mp_20


def mp_20_frame(structures, **columns) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "material_id": [f"mp-{i}" for i in range(len(structures))],
            "formation_energy_per_atom": [-1.0] + [None] * (len(structures) - 1),
            "band_gap": 0.5,
            "pretty_formula": [s.composition.reduced_formula for s in structures],
            "e_above_hull": 0.0,
            "elements": "[]",
            "cif": [cif(s) for s in structures],
            "spacegroup.number": 225,
        }
    )
    return frame.assign(**columns)


def write_mp_20(folder, *, source=True, zipped=False, bad=False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n, split in enumerate(SPLITS):
        frame = mp_20_frame([NACL, RUTILE, ZNS])
        frame["material_id"] += f"-{split}"
        frame["spacegroup.number"] = [225, 136, 216 - (n == 0)]
        if source:
            frame["source"] = ["left", "right", "right"]
        if bad:
            broken = frame.iloc[[0, 0, 0]].copy()
            broken["material_id"] = ["no-cif", "two-sites", "group-999"]
            broken.iloc[0, broken.columns.get_loc("cif")] = "not a cif"
            broken.iloc[1, broken.columns.get_loc("cif")] = cif(
                Structure(NACL.lattice, ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.01]])
            )
            broken.iloc[2, broken.columns.get_loc("spacegroup.number")] = 999
            frame = pd.concat([frame, broken.assign(material_id=broken.material_id + split)])
        frame.to_csv(folder / (f"{split}.csv.gz" if zipped else f"{split}.csv"))


@pytest.mark.parametrize(("sub", "zipped"), [("", False), ("mp_20", True)])
def test_a_folder_of_mp_20(tmp_path, sub, zipped):
    write_mp_20(tmp_path / "raw" / sub, zipped=zipped)
    report = prepare_dataset(
        "mp_20", data_dir=tmp_path / "raw", cache_dir=tmp_path / "c", workers=1
    )
    assert (report.num_rows, report.num_used, report.dropped) == (9, 9, [])
    assert report.notes["space_group_disagreements"] == 1
    assert report.notes["reduced_to_primitive"] == 6
    table = load_table(tmp_path / "c" / report.table)
    assert table.num_atoms.tolist() == [2, 6, 2] * 3
    assert table.info["space_group"].tolist()[:3] == [225, 136, 215]
    assert table.info["space_group_spglib"].tolist()[:3] == [225, 136, 216]
    assert np.isnan(table.info["formation_energy_per_atom"][1])
    assert not [name for name in table.info if name.startswith("Unnamed")]
    facts = dataset_provenance("mp_20", tmp_path / "c")
    assert "rebuilt copy" in facts["text"]
    assert "9 of 45,229" in facts["text"]
    assert facts["crystals_by_source"] == {"left": 3, "right": 6}
    assert facts["crystals_by_split"] == {"train": 3, "val": 3, "test": 3}
    assert facts["train_by_source"] == {"left": 1, "right": 2}
    assert report.summary().loc["val", "triclinic"] == 0
    assert report.table == f"mp_20-{table.content_hash()}.parquet"
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"mp_20.json", report.table}


def test_unusable_rows_are_named_with_their_reason(tmp_path):
    write_mp_20(tmp_path, bad=True)
    report = prepare_dataset("mp_20", data_dir=tmp_path, cache_dir=tmp_path / "c", workers=1)
    assert (report.num_rows, report.num_used) == (18, 9)
    reasons = {d["material_id"]: d["reason"] for d in report.dropped}
    assert reasons["no-ciftrain"].startswith("unreadable CIF")
    assert "two-sitesval" in reasons
    assert "1 to 230" in reasons["group-999test"]


def test_a_material_that_comes_twice_is_dropped(tmp_path):
    write_mp_20(tmp_path)
    frame = pd.read_csv(tmp_path / "test.csv")
    frame.loc[0, "material_id"] = "mp-0-train"  # it would be in train and in test
    frame.to_csv(tmp_path / "test.csv", index=False)
    report = prepare_dataset("mp_20", data_dir=tmp_path, cache_dir=tmp_path / "c", workers=1)
    assert [d["reason"] for d in report.dropped] == ["this material_id was there before"]


def test_public_content_needs_no_source_column(tmp_path, monkeypatch):
    write_mp_20(tmp_path, source=False, zipped=True)
    with pytest.raises(DataError, match="source column"):
        prepare_dataset("mp_20", data_dir=tmp_path, cache_dir=tmp_path / "c", workers=1)
    blobs = {
        split: git_blob_id(gzip.decompress((tmp_path / f"{split}.csv.gz").read_bytes()))
        for split in SPLITS
    }
    entries = {s: {"url": "", "git_blob": b, "rows": 3} for s, b in blobs.items()}
    monkeypatch.setattr(f"{MODULE}.mp_20.manifest", lambda: {"mp_20": {"files": entries}})
    report = prepare_dataset("mp_20", data_dir=tmp_path, cache_dir=tmp_path / "c", workers=1)
    assert report.counts["source"] == {"public": 9}
    assert report.provenance.startswith("The public MP-20 files")


def test_folders_that_lack_something(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="train, val and test"):
        prepare_dataset("mp_20", data_dir=tmp_path, cache_dir=tmp_path / "c")
    write_mp_20(tmp_path)
    (tmp_path / "val.csv").unlink()
    monkeypatch.setenv("UNIMAT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"lacks the files of \['val'\]"):
        prepare_dataset("mp_20", cache_dir=tmp_path / "c")
    pd.DataFrame({"material_id": [1]}).to_csv(tmp_path / "val.csv")
    with pytest.raises(DataError, match=r"lacks the columns \['cif', 'spacegroup\.number'\]"):
        prepare_dataset("mp_20", cache_dir=tmp_path / "c")
    (tmp_path / "val.csv").unlink()
    (tmp_path / "val.csv.gz").write_bytes(gzip.compress(b"x" * 10000)[:-20])
    with pytest.raises(DataError, match="truncated"):
        prepare_dataset("mp_20", cache_dir=tmp_path / "c")


def count_preparations(monkeypatch) -> list:
    calls, original = [], _prepare
    monkeypatch.setattr(
        f"{MODULE}.preparation._prepare", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    return calls


def test_load_prepares_once_and_again_when_the_source_changes(tmp_path, monkeypatch):
    write_mp_20(tmp_path / "raw")
    cache = tmp_path / "c"
    monkeypatch.setenv("UNIMAT_DATA", str(tmp_path / "raw"))
    first = load_dataset("mp_20", cache_dir=cache, workers=1)
    calls = count_preparations(monkeypatch)
    assert load_dataset("mp_20", cache_dir=cache, workers=1).content_hash() == first.content_hash()
    assert calls == []
    text = (tmp_path / "raw" / "val.csv").read_text().replace("5.64", "5.70")
    (tmp_path / "raw" / "val.csv").write_text(text)
    changed = load_dataset("mp_20", cache_dir=cache, workers=1)
    assert calls == [1]
    assert changed.content_hash() != first.content_hash()
    # without the raw data the prepared table is enough
    monkeypatch.delenv("UNIMAT_DATA")
    assert load_dataset("mp_20", cache_dir=cache).content_hash() == changed.content_hash()
    # a lost table is made anew, if it can be
    monkeypatch.setenv("UNIMAT_DATA", str(tmp_path / "raw"))
    (cache / read_report("mp_20", cache).table).unlink()
    assert (
        load_dataset("mp_20", cache_dir=cache, workers=1).content_hash() == changed.content_hash()
    )


def test_other_code_makes_the_table_anew(tmp_path, monkeypatch, caplog):
    write_mp_20(tmp_path / "raw")
    options = {"cache_dir": tmp_path / "c", "workers": 1}
    load_dataset("mp_20", data_dir=tmp_path / "raw", **options)
    calls = count_preparations(monkeypatch)
    other = Identity({"unimat_lib": "another"}, {})
    monkeypatch.setattr(f"{MODULE}.preparation.preparation_identity", lambda name: other)
    monkeypatch.delenv("UNIMAT_DATA", raising=False)
    load_dataset("mp_20", **options)  # its source is not at hand: better this table than none
    assert calls == []
    assert "another version of the code" in caplog.text
    load_dataset("mp_20", data_dir=tmp_path / "raw", **options)
    assert calls == [1]
    load_dataset("mp_20", data_dir=tmp_path / "raw", **options)
    assert calls == [1]


def test_the_identity_follows_the_code_that_matters():
    known = {name: preparation_identity(name) for name in DATASETS}
    assert len({identity.digest for identity in known.values()}) == len(DATASETS)
    reached = {name: set(identity.code) for name, identity in known.items()}
    for name in DATASETS:
        assert {"unimat_lib.crystals.reduction", f"{MODULE}.chunks"} <= reached[name]
        assert not reached[name] & {"unimat_lib.crystals.parquet", "unimat_lib.processes"}
        assert {"spglib", "numpy", "pymatgen"} <= set(known[name].versions)
    assert {name for name in DATASETS if "unimat_lib.crystals.cif" in reached[name]} == {
        "mp_20",
        "cif_folder",
    }
    for name in ("prototypes", "mp_extra"):
        assert {other for other in DATASETS if f"{MODULE}.{name}" in reached[other]} == {name}


def test_an_interrupted_preparation_resumes(tmp_path, monkeypatch):
    write_mp_20(tmp_path / "raw", bad=True)
    monkeypatch.setattr(f"{MODULE}.chunks._CHUNK", 4)
    original, done = _prepare_chunk, []

    def interrupted(read, rows, target):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(target)
        return original(read, rows, target)

    monkeypatch.setattr(f"{MODULE}.chunks._prepare_chunk", interrupted)
    settings_ = {"data_dir": tmp_path / "raw", "cache_dir": tmp_path / "c", "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset("mp_20", **settings_)
    assert not list((tmp_path / "c").glob("mp_20*"))
    again = []
    monkeypatch.setattr(
        f"{MODULE}.chunks._prepare_chunk", lambda *a: again.append(a[2]) or original(*a)
    )
    report = prepare_dataset("mp_20", **settings_)
    assert len(again) == 3  # 18 rows are 5 chunks, 2 of them were done
    assert not set(again) & set(done)
    monkeypatch.setattr(f"{MODULE}.chunks._prepare_chunk", original)
    whole = prepare_dataset("mp_20", data_dir=tmp_path / "raw", cache_dir=tmp_path / "d", workers=1)
    assert whole.table == report.table
    assert whole.dropped == report.dropped
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"mp_20.json", report.table}


def test_two_processes_give_the_same_table(tmp_path, monkeypatch):
    write_mp_20(tmp_path / "raw")
    monkeypatch.setattr(f"{MODULE}.chunks._CHUNK", 5)
    one = prepare_dataset("mp_20", data_dir=tmp_path / "raw", cache_dir=tmp_path / "1", workers=1)
    two = prepare_dataset("mp_20", data_dir=tmp_path / "raw", cache_dir=tmp_path / "2", workers=2)
    assert one.table == two.table


def test_no_progress_bar_without_a_terminal(tmp_path, capsys):
    write_mp_20(tmp_path)
    prepare_dataset("mp_20", data_dir=tmp_path, cache_dir=tmp_path / "c", workers=1, limit=1)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_nothing_usable_is_an_error(tmp_path):
    write_mp_20(tmp_path)
    for split in SPLITS:
        frame = pd.read_csv(tmp_path / f"{split}.csv")
        frame.assign(cif="nothing").to_csv(tmp_path / f"{split}.csv")
    with pytest.raises(DataError, match="none of 9 rows"):
        prepare_dataset("mp_20", data_dir=tmp_path, cache_dir=tmp_path / "c", workers=1)


# ---- mp_extra


def write_mp_extra(folder, monkeypatch, structures=(NACL, RUTILE, ZNS), **columns):
    """A file of this form, and a manifest that knows it."""
    frame = pd.DataFrame(
        {
            "material_id": [f"mp-{i}" for i in range(len(structures))],
            "formula": [s.composition.reduced_formula for s in structures],
            "spacegroup_number": np.int16(225),
            "lattice": [np.float32(s.lattice.parameters) for s in structures],
            "atomic_numbers": [np.uint8(s.atomic_numbers) for s in structures],
            "frac_coords": [np.float32(s.frac_coords.round(5)).ravel() for s in structures],
        }
    ).assign(**columns)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "mp_extra.parquet")
    entry = manifest()["mp_extra"]
    entry["sha256"] = file_hash(folder / "mp_extra.parquet")
    monkeypatch.setattr(f"{MODULE}.mp_extra.manifest", lambda: {"mp_extra": entry})


def test_extra_crystals_are_reduced_and_for_pretraining_only(tmp_path, monkeypatch):
    hexagonal = Structure.from_spacegroup(
        194, Lattice.hexagonal(3.2, 5.2), ["Mg"], [[1 / 3, 2 / 3, 0.25]]
    )
    write_mp_extra(tmp_path, monkeypatch, (NACL, RUTILE, ZNS, hexagonal))
    report = prepare_dataset("mp_extra", data_dir=tmp_path, cache_dir=tmp_path / "c", workers=1)
    assert (report.num_rows, report.num_used) == (4, 4)
    assert report.counts["split"] == {"extra": 4}
    assert report.summary().index.tolist() == ["extra"]
    assert report.summary().loc["extra", "all"] == 4
    assert report.notes["reduced_to_primitive"] == 2
    table = load_dataset("mp_extra", data_dir=tmp_path, cache_dir=tmp_path / "c")
    assert table.num_atoms.tolist() == [2, 6, 2, 2]
    assert table.info["space_group_spglib"].tolist() == [225, 136, 216, 194]
    for structure, i in ((NACL, 0), (RUTILE, 1), (ZNS, 2), (hexagonal, 3)):
        assert table.structure(i).matches(structure)
    # five decimals in the file, but thirds are thirds
    thirds = table.frac_coords[-2:, :2] * 3
    assert (thirds - thirds.round()).abs().max() < 1e-9
    assert len(table.split("extra")) == 4
    for name in SPLITS:
        with pytest.raises(ValueError, match="no crystal in split"):
            table.split(name)
    facts = dataset_provenance("mp_extra", tmp_path / "c")
    assert facts["crystals_by_split"] == {"extra": 4}
    assert "pretraining only" in facts["text"] and "extra" not in facts


def test_pretraining_sees_nothing_like_validation_or_test(tmp_path, monkeypatch):
    oxygen = Structure.from_spacegroup(225, Lattice.cubic(4.6), ["O"], [[0, 0, 0]])
    changed = ZNS.copy()
    changed.scale_lattice(1.1 * ZNS.volume)
    write_mp_extra(tmp_path, monkeypatch, (NACL, RUTILE, changed, oxygen))
    prepare_dataset("mp_extra", data_dir=tmp_path, cache_dir=tmp_path / "c", workers=1)
    extra = load_table(next((tmp_path / "c").glob("mp_extra-*.parquet")))

    def remaining(split, ids, **columns):
        info = pd.DataFrame({"material_id": ids, "split": split, "source": "x"}).assign(**columns)
        table = from_structures([ZNS, oxygen], info=info)
        return apart_from(extra, table).info["material_id"].tolist()

    unlike = ["mp-a", "mp-b"]
    assert remaining("train", unlike) == ["mp-0", "mp-1", "mp-2", "mp-3"]
    assert remaining("train", ["mp-1", "mp-b"]) == ["mp-0", "mp-2", "mp-3"]
    assert remaining("test", unlike) == ["mp-0", "mp-1"]  # ZnS by spglib's number, O2 as O2
    assert remaining("val", unlike, space_group=1) == ["mp-0", "mp-1", "mp-2", "mp-3"]
    assert remaining("val", unlike, space_group=1, space_group_spglib=216) == [
        "mp-0",
        "mp-1",
        "mp-3",
    ]


def test_extra_crystals_that_fail_are_named(tmp_path, monkeypatch):
    on_top = Structure(NACL.lattice, ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.01]])
    columns = {
        "lattice": [np.float32([3, 3, 3, 90, 90, 90]), np.float32([3, 3, 3, 10, 20, 80])] * 2,
        "material_id": ["top", "skew", "good", "good"],
    }
    write_mp_extra(tmp_path, monkeypatch, (on_top, ZNS, RUTILE, ZNS), **columns)
    with pytest.raises(DataError, match="none of 2 rows"):
        prepare_dataset("mp_extra", data_dir=tmp_path, cache_dir=tmp_path / "c", workers=1, limit=2)
    columns["lattice"] = [columns["lattice"][0], columns["lattice"][1]]
    columns["lattice"] += [np.float32(s.lattice.parameters) for s in (RUTILE, ZNS)]
    write_mp_extra(tmp_path, monkeypatch, (on_top, ZNS, RUTILE, ZNS), **columns)
    report = prepare_dataset("mp_extra", data_dir=tmp_path, cache_dir=tmp_path / "c", workers=1)
    assert (report.num_rows, report.num_used) == (4, 1)
    reasons = {d["row"]: d["reason"] for d in report.dropped}
    assert "two atoms" in reasons[0] or "no symmetry" in reasons[0]
    assert "no cell has the angles 10, 20, 80" in reasons[1]
    assert reasons[3] == "this material_id was there before"


def test_only_the_known_file_of_extra_crystals_is_read(tmp_path, monkeypatch):
    monkeypatch.delenv("UNIMAT_DATA", raising=False)
    with pytest.raises(DataError, match="UNIMAT_DATA is not set"):
        prepare_dataset("mp_extra", cache_dir=tmp_path / "c")
    with pytest.raises(DataError, match="has no such file"):
        prepare_dataset("mp_extra", data_dir=tmp_path, cache_dir=tmp_path / "c")
    write_mp_extra(tmp_path, monkeypatch)
    content = (tmp_path / "mp_extra.parquet").read_bytes()
    (tmp_path / "mp_extra.parquet").write_bytes(content + b"x")
    with pytest.raises(DataError, match=r"sha256 [0-9a-f]{64} expected, but [0-9a-f]{64} came"):
        prepare_dataset("mp_extra", data_dir=tmp_path, cache_dir=tmp_path / "c")


@given(
    st.lists(st.floats(2, 30), min_size=3, max_size=3),
    st.lists(st.floats(50, 120), min_size=3, max_size=3),
)
def test_cells_from_lengths_and_angles(lengths, angles):
    try:
        rows = _lattice(*lengths, *angles)
    except CrystalError:
        alpha, beta, gamma = np.radians(angles)  # the volume such angles would enclose
        cosines = np.cos([alpha, beta, gamma])
        assert 1 - (cosines**2).sum() + 2 * cosines.prod() < 1e-9
        return
    np.testing.assert_allclose(Lattice(rows).parameters, [*lengths, *angles], rtol=1e-6)


def test_manifest_names_the_extra_file():
    entry = manifest()["mp_extra"]
    assert len(entry["sha256"]) == 64 and entry["licence"] and entry["rows"] == 117080


# ---- manifest


def test_git_blob_id_is_that_of_git():
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_manifest_names_every_file():
    files = manifest()["mp_20"]["files"]
    assert set(files) == set(SPLITS)
    for entry in files.values():
        assert entry["url"].startswith("https://raw.githubusercontent.com/txie-93/cdvae/f857f59/")
        assert len(entry["git_blob"]) == 40
        assert entry["licence"]
    assert sum(entry["rows"] for entry in files.values()) == 45229


# ---- cif_folder


@pytest.fixture
def cifs(tmp_path):
    folder = tmp_path / "cifs"
    folder.mkdir()
    for name, structure in {"salt": NACL, "rutile": RUTILE, "blende": ZNS}.items():
        (folder / f"{name}.cif").write_text(cif(structure, symprec=0.01))
    return folder


def test_a_folder_of_cif_files(cifs, tmp_path):
    (cifs / "broken.cif").write_bytes(b"\xff\xfe\x00 no")
    (cifs / "mixed.cif").write_text(
        cif(Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]))
    )
    report = prepare_dataset("cif_folder", folder=cifs, cache_dir=tmp_path / "c", workers=1)
    assert (report.num_rows, report.num_used) == (5, 4)
    reasons = {d["material_id"]: d["reason"] for d in report.dropped}
    assert "unreadable CIF" in reasons["broken"]
    table = load_dataset("cif_folder", folder=cifs, cache_dir=tmp_path / "c")
    assert table.info["material_id"].tolist() == ["blende", "mixed", "rutile", "salt"]
    assert table.space_group.tolist() == [216, 221, 136, 225]
    assert table.info["split"].tolist() == [hashed_split(f) for f in table.info["formula"]]


def test_properties_go_with_their_file(cifs, tmp_path):
    csv = tmp_path / "p.csv"
    frame = pd.DataFrame(
        {"file": ["salt.cif", "rutile.cif"], "gap": [8.5, 3.0], "split": ["test", "val"]}
    )
    frame.to_csv(csv)
    options = {"folder": cifs, "cache_dir": tmp_path / "c", "workers": 1}
    report = prepare_dataset("cif_folder", properties=csv, **options)
    info = load_dataset("cif_folder", properties=csv, **options).info.set_index("material_id")
    assert info.loc["salt", "gap"] == 8.5
    assert info.loc["salt", "split"] == "test"
    assert np.isnan(info.loc["blende", "gap"])
    assert report.notes["files_without_properties"] == 1
    for change, reason in [
        ({"split": "dev"}, "split must be one of"),
        ({"file": "salt"}, "more than once"),
        ({"file": ["x", "y"]}, "names a file of the folder"),
    ]:
        frame.assign(**change).to_csv(csv)
        with pytest.raises(DataError, match=reason):
            prepare_dataset("cif_folder", properties=csv, **options)
    frame.drop(columns="file").to_csv(csv)
    with pytest.raises(DataError, match="'file' or 'material_id'"):
        prepare_dataset("cif_folder", properties=csv, **options)


def test_nothing_of_a_folder_or_its_table_vanishes(cifs, tmp_path):
    (cifs / "rutile.cif").rename(cifs / "007.CIF")
    csv = tmp_path / "p.csv"
    csv.write_text("material_id,gap\n007,3.0\nsalt,8.5\nlost,1.0\n")
    options = {"folder": cifs, "cache_dir": tmp_path / "c", "workers": 1}
    report = prepare_dataset("cif_folder", properties=csv, **options)
    assert report.num_used == 3  # whatever the case of the suffix
    assert [d["material_id"] for d in report.dropped] == ["lost"]
    assert "no such file" in report.dropped[0]["reason"]
    assert report.notes["properties_without_file"] == 1
    info = load_dataset("cif_folder", properties=csv, **options).info.set_index("material_id")
    assert info.loc["007", "gap"] == 3.0  # its zeros are part of the name


OWN = ["lattice", "frac_coords", "atomic_numbers", "was_primitive", "row", "formula", "source"]


@pytest.mark.parametrize("name", [*OWN, "space_group_spglib", "material_id"])
def test_a_property_that_is_called_like_a_column_of_the_table_is_refused(cifs, tmp_path, name):
    """Fault: ``lattice`` broke the table, ``row`` and others vanished."""
    csv = tmp_path / "p.csv"
    pd.DataFrame({"file": ["salt"], "gap": [8.5], name: [1]}).to_csv(csv, index=False)
    with pytest.raises(DataError, match=rf"p.csv: .* has columns \['{name}'\] itself; rename"):
        prepare_dataset("cif_folder", folder=cifs, properties=csv, cache_dir=tmp_path / "c")


def test_properties_of_any_other_name_and_kind_arrive(cifs, tmp_path):
    csv = tmp_path / "p.csv"
    csv.write_text(
        ",file,Unnamed: no index,offsets,index,note,flag\n"
        "0,salt.cif,1,2,3,of the sea,True\n1,rutile.CIF,4,5,6,,False\n"
    )
    options = {"folder": cifs, "properties": csv, "cache_dir": tmp_path / "c", "workers": 1}
    info = load_dataset("cif_folder", **options).info.set_index("material_id")
    kept = ["Unnamed: no index", "offsets", "index", "note", "flag"]
    assert info.columns.tolist()[-5:] == kept
    assert info.loc["salt", kept].tolist() == [1, 2, 3, "of the sea", True]
    assert info.loc["blende", kept].isna().all()


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("Fm-3m", 225),
        ("F m -3 m", 225),
        ("P 21/c", 14),
        ("P2(1)/c", 14),
        ("P2_1/c", 14),
        ("221", 221),
        ("221.0", 221),
        ("", 225),  # spglib's
    ],
)
def test_a_textual_space_group_is_understood(cifs, tmp_path, written, number):
    """Fault: a symbol in place of the number vanished."""
    csv = tmp_path / "p.csv"
    for column in ("space_group", "spacegroup.number"):
        csv.write_text(f"file,{column},gap\nsalt,{written},1\nrutile,P4_2/mnm,2\n")
        options = {"folder": cifs, "properties": csv, "cache_dir": tmp_path / "c", "workers": 1}
        info = load_dataset("cif_folder", **options).info.set_index("material_id")
        assert info["space_group"].to_dict() == {"salt": number, "rutile": 136, "blende": 216}
        assert info["space_group_spglib"].to_dict() == {"salt": 225, "rutile": 136, "blende": 216}
        assert column == "space_group" or column not in info


@pytest.mark.parametrize("wrong", ["Fm-9m", "0", "231", "-1", "225.5", "cubic", "nan", "inf"])
def test_a_space_group_that_nobody_knows_is_refused(cifs, tmp_path, wrong):
    csv = tmp_path / "p.csv"
    csv.write_text(f"file,space_group\nsalt,225\nrutile,{wrong}\n")
    with pytest.raises(DataError, match=rf"p.csv: space_group of 'rutile' is '{wrong}'"):
        prepare_dataset("cif_folder", folder=cifs, properties=csv, cache_dir=tmp_path / "c")
    csv.write_text("file,space_group,spacegroup.number\nsalt,225,225\n")
    with pytest.raises(DataError, match="keep one of them"):
        prepare_dataset("cif_folder", folder=cifs, properties=csv, cache_dir=tmp_path / "c")


def test_hostile_file_names_write_nothing_outside_of_the_cache(cifs, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "far.cif").write_text(cif(ZNS))
    (cifs / "link.cif").symlink_to(outside / "far.cif")
    (cifs / "dangling.cif").symlink_to(outside / "absent.cif")
    (cifs / "folder.cif").mkdir()
    os.mkfifo(cifs / "pipe.cif")
    names = ["..", "a\nb", "$(touch x)", "%s{0}", "' or 1", "-rf", "\u202egpj"]
    for name in names:
        (cifs / f"{name}.cif").write_text(cif(NACL))
    (Path(os.fsdecode(bytes(cifs) + b"/\xff\xfe.cif"))).write_text(cif(NACL))
    csv = tmp_path / "p.csv"
    rows = ["../outside/far", "/etc/passwd", "..", "link", "salt"]
    pd.DataFrame({"file": rows, "gap": range(5)}).to_csv(csv, index=False)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    options = {"folder": cifs, "properties": csv, "cache_dir": tmp_path / "c", "workers": 1}
    report = prepare_dataset("cif_folder", **options)
    info = load_dataset("cif_folder", **options).info.set_index("material_id")
    assert set(info.index) == {"salt", "rutile", "blende", "link", r"\xff\xfe", *names}
    assert info["gap"].dropna().to_dict() == {"..": 2, "link": 3, "salt": 4}
    assert {d["material_id"] for d in report.dropped} == {"../outside/far", "/etc/passwd"}
    after = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    new = set(after) - set(before)
    assert all(path.is_relative_to(tmp_path / "c") for path in new)
    assert all(after[path] == before[path] for path in before)


def test_two_files_of_one_name_and_huge_files_are_refused(cifs, tmp_path):
    with (cifs / "huge.cif").open("wb") as handle:
        handle.truncate(2**33)  # a hole: it takes no room
    started = time.process_time()
    files = [path for path in cif_files(cifs) if path.stem == "huge"]
    with pytest.raises(CrystalError, match="more than 20,000,000 characters"):
        read_cif_row(cif_folder_source(files, None, None).rows[0])
    assert time.process_time() - started < 3  # its 8 GiB would take longer
    (cifs / "huge.cif").unlink()
    (cifs / "salt.CIF").write_text(cif(NACL))
    with pytest.raises(DataError, match=r"salt\.CIF and salt\.cif: rename one"):
        prepare_dataset("cif_folder", folder=cifs, cache_dir=tmp_path / "c")


def test_folders_without_a_crystal(tmp_path):
    options = {"cache_dir": tmp_path / "c", "workers": 1}
    with pytest.raises(DataError, match="needs the folder"):
        prepare_dataset("cif_folder", **options)
    with pytest.raises(DataError, match="there are none"):
        prepare_dataset("cif_folder", folder=tmp_path, **options)
    (tmp_path / "a.cif").write_text("data_a\n")
    with pytest.raises(DataError, match="none of 1 rows can be used"):
        prepare_dataset("cif_folder", folder=tmp_path, **options)


def test_hashed_split_shares():
    names = pd.Series([hashed_split(str(i)) for i in range(20000)])
    share = names.value_counts(normalize=True)
    assert share["train"] == pytest.approx(0.70, abs=0.01)
    assert share["val"] == pytest.approx(0.15, abs=0.01)


# ---- names and command line


def test_names_and_numbers_out_of_range(tmp_path):
    for call in (prepare_dataset, load_dataset, dataset_provenance):
        with pytest.raises(ValueError, match="must be one of"):
            call("mp20", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        prepare_dataset("prototypes", cache_dir=tmp_path, workers=0)
    with pytest.raises(ValueError, match="at least 1"):
        prepare_dataset("prototypes", cache_dir=tmp_path, limit=0)
    with pytest.raises(DataError, match=r"python -m unimat_lib.datasets prepare mp_20"):
        dataset_provenance("mp_20", tmp_path)


def test_command_line(cifs, tmp_path, capsys):
    (cifs / "broken.cif").write_text("no")
    arguments = ["prepare", "cif_folder", "--workers", "1", "--cache-dir", str(tmp_path / "c")]
    assert main([*arguments, "--folder", str(cifs)]) == 0
    out = capsys.readouterr().out
    assert "3 of 4 rows" in out
    assert "dropped broken (row 1): unreadable CIF" in out
    assert all(system in out for system in CRYSTAL_SYSTEMS)
    assert main(arguments) == 1
    assert "needs the folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["prepare", "mp20"])
    assert "invalid choice" in capsys.readouterr().err


# ---- real data


def test_real_folder_in_a_fresh_process(real_data_dir, tmp_path):
    """Rows of the real files, from a script of its own."""
    code = (
        "from unimat_lib.datasets.preparation import prepare_dataset\n"
        f"r = prepare_dataset('mp_20', cache_dir={str(tmp_path)!r}, limit=40, workers=1)\n"
        "print(r.num_used, r.num_rows)"
    )
    environment = {**os.environ, "UNIMAT_DATA": str(real_data_dir)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    used, rows = map(int, done.stdout.split())
    assert rows == 120
    assert used >= 118
    info = load_table(next(tmp_path.glob("mp_20-*.parquet"))).info
    assert (info["space_group"] == info["space_group_spglib"]).mean() > 0.97

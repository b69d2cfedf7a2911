"""Foreign crystals: what becomes of every row, and that no other table passes for theirs."""

from __future__ import annotations

import dataclasses
import gzip

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from unimat_book.studies import domains
from unimat_book.studies.domains import FOREIGN, foreign_table, load_domain, prepare_domain
from unimat_lib.datasets.report import DataError, read_csv
from unimat_lib.files import file_hash

ENERGY = FOREIGN["perov_5"].energy


def perovskite(a: float, elements=("Sr", "Ti", "O"), first=(0.5, 0.5, 0)) -> str:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], list(first), [0.5, 0, 0.5], [0, 0.5, 0.5]]
    species = [*elements[:2], *[elements[2]] * 3]
    return Structure(Lattice.cubic(a), species, sites).to(fmt="cif")


GOOD, OTHER = perovskite(3.9), perovskite(4.0, ("Ba", "Zr", "O"))
# Primitive after all: the library's cell is the smaller one.
DOUBLED = Structure.from_str(GOOD, "cif").make_supercell([1, 1, 2], in_place=False).to(fmt="cif")
CLASH = perovskite(3.9, first=(0, 0, 0.01))


def frame_of(*cifs: str) -> pd.DataFrame:
    numbers = range(len(cifs))
    return pd.DataFrame({"material_id": numbers, "cif": cifs, ENERGY: [0.5 * n for n in numbers]})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a small file of perovskites in place of the real one."""
    (tmp_path / "transfer").mkdir()
    entry = FOREIGN["perov_5"]
    path = tmp_path / "transfer" / entry.name
    text = frame_of(GOOD, "no crystal", DOUBLED, OTHER).to_csv(index=False)
    path.write_bytes(gzip.compress(text.encode()))
    small = dict(FOREIGN) | {"perov_5": dataclasses.replace(entry, sha256=file_hash(path))}
    monkeypatch.setattr(domains, "FOREIGN", small)
    return tmp_path


def test_every_row_is_used_or_left_out_with_a_reason():
    frame = frame_of(GOOD, DOUBLED, CLASH, "", OTHER)
    frame.loc[4, "material_id"] = 0
    table, dropped = foreign_table(frame, "perov_5")
    assert table.info["material_id"].tolist() == ["perov_5-0", "perov_5-1"]
    assert table.num_atoms.tolist() == [5, 5]
    assert table.space_group.tolist() == [221, 221]
    assert set(table.info["split"]) == {"test"}
    assert table.info["formula"].tolist() == ["SrTiO3", "SrTiO3"]
    assert table.info["energy_per_atom"].tolist() == [0.0, 0.5]
    assert [row["row"] for row in dropped] == [2, 3, 4]
    assert "two atoms" in dropped[0]["reason"]
    assert "was there before" in dropped[2]["reason"]


def test_only_cells_of_the_domain_count(monkeypatch):
    entry = dataclasses.replace(FOREIGN["perov_5"], atoms=(6, 52))
    monkeypatch.setattr(domains, "FOREIGN", {"perov_5": entry})
    with pytest.raises(DataError, match="5 atoms in the primitive cell, 6 to 52 belong"):
        foreign_table(frame_of(GOOD, DOUBLED), "perov_5")
    assert FOREIGN["mpts_52"].atoms == (21, 52)


def test_elements_that_scatter_unknown_are_left_out():
    table, dropped = foreign_table(frame_of(GOOD, perovskite(4.1, ("Og", "Ti", "O"))), "perov_5")
    assert len(table) == 1 and "scattering" in dropped[0]["reason"]


@hypothesis_settings(max_examples=40)
@given(st.lists(st.text(max_size=60) | st.just(GOOD[:200]) | st.just(GOOD + "\nloop_"), max_size=4))
def test_no_text_is_a_traceback(texts):
    table, dropped = foreign_table(frame_of(GOOD, *texts), "perov_5")
    assert len(table) + len(dropped) == 1 + len(texts)
    assert all(row["reason"] for row in dropped)


def test_prepared_and_loaded(folder, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"not prepared(.|\n)*studies.domains prepare"):
        load_domain("perov_5", cache_dir=cache)
    report = prepare_domain("perov_5", data_dir=folder, cache_dir=cache)
    assert (report["rows"], report["used"]) == (4, 3)
    table = load_domain("perov_5", cache_dir=cache)
    assert table.info["formula"].tolist() == ["SrTiO3", "SrTiO3", "BaZrO3"]
    path = cache / "transfer-perov_5.parquet"
    assert report["bytes"] == path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="damaged"):
        load_domain("perov_5", cache_dir=cache)


def test_tables_of_other_files_or_code_are_refused(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    prepare_domain("perov_5", data_dir=folder, cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr(domains, "_code", lambda: "other")
        with pytest.raises(DataError, match="other code"):
            load_domain("perov_5", cache_dir=cache)
    monkeypatch.setattr(domains, "FOREIGN", FOREIGN)  # the real file
    with pytest.raises(DataError, match="another file"):
        load_domain("perov_5", cache_dir=cache)
    with pytest.raises(DataError, match="get the file again"):
        prepare_domain("perov_5", data_dir=folder, cache_dir=cache)


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="perov_5"):
        load_domain("perov")
    with pytest.raises(DataError, match=r"lacks the columns \['cif', 'heat_all'\]"):
        foreign_table(pd.DataFrame({"material_id": [1]}), "perov_5")
    with pytest.raises(DataError, match="has no perov_5_test"):
        prepare_domain("perov_5", data_dir=tmp_path, cache_dir=tmp_path)
    monkeypatch.delenv("UNIMAT_DATA", raising=False)
    with pytest.raises(DataError, match="UNIMAT_DATA is not set"):
        prepare_domain("perov_5", cache_dir=tmp_path)


def test_command(folder, tmp_path, capsys):
    where = ["--data-dir", str(folder), "--cache-dir", str(tmp_path / "cache")]
    assert domains.main(["prepare", "perov_5", *where]) == 0
    said = capsys.readouterr().out
    assert said.startswith("perov_5: 3 of 4 rows") and "1 left out" in said
    assert domains.main(["prepare", "carbon_24", *where]) == 1
    assert "carbon_24_test.csv.gz" in capsys.readouterr().err


def test_real_carbon(real_data_dir):
    path = real_data_dir / "transfer" / FOREIGN["carbon_24"].name
    if not path.is_file():
        pytest.skip(f"no {path.name} here")
    assert file_hash(path) == FOREIGN["carbon_24"].sha256
    table, dropped = foreign_table(read_csv(path)[0].head(30), "carbon_24")
    assert len(table) == 30 and not dropped
    assert set(table.info["formula"]) == {"C"}
    assert (table.info["energy_per_atom"] < -150).all()

"""The script that fetches `mp_extra`, with a client that needs no network."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pymatgen.core import Structure

from unimat_lib.datasets.mp_extra import mp_extra_source
from unimat_lib.datasets.report import manifest

PATH = Path(__file__).resolve().parents[1] / "scripts/fetch_mp_extra.py"
spec = importlib.util.spec_from_file_location("fetch_mp_extra", PATH)
fetch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fetch)


def document(name: str, symbol: str, edge: float) -> SimpleNamespace:
    cell = Structure([[edge, 0, 0], [0, edge, 0], [0, 0, edge]], [symbol], [[0, 0, 0]])
    group = SimpleNamespace(number=221)
    return SimpleNamespace(material_id=name, formula_pretty=symbol, symmetry=group, structure=cell)


class Client:
    """Answers as the summaries of the Materials Project do, in an order of its own."""

    def __init__(self, known, error=None):
        self.known, self.error, self.asked = known, error, []
        self.materials = SimpleNamespace(summary=self)

    def search(self, *, fields, material_ids=None, num_sites=None):
        if self.error:
            raise self.error
        if num_sites:
            return list(self.known.values())
        self.asked.append(material_ids)
        assert set(fields) == {"material_id", "formula_pretty", "symmetry", "structure"}
        return [self.known[name] for name in sorted(material_ids) if name in self.known]


KNOWN = {
    name: document(name, "Po", 3.3 + k / 10) for k, name in enumerate(("mp-9", "mp-1", "mp-5"))
}


def run(monkeypatch, tmp_path, ids, client):
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    monkeypatch.setattr(fetch, "open_client", lambda key: client)
    where = ["--ids", str(tmp_path / "ids.txt"), "--out", str(tmp_path / "out.parquet")]
    return fetch.main(where), tmp_path / "out.parquet"


def test_rows_come_in_the_order_of_the_ids_and_are_read_as_mp_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(fetch, "CHUNK", 2)
    client = Client(KNOWN)
    code, path = run(monkeypatch, tmp_path, list(KNOWN), client)
    assert code == 1 and "not the file of the manifest" in capsys.readouterr().out
    assert client.asked == [["mp-9", "mp-1"], ["mp-5"]]
    assert pq.read_schema(path).names == fetch.SCHEMA.names
    frame = pd.read_parquet(path)
    assert list(frame["material_id"]) == list(KNOWN)
    assert frame["lattice"][1].tolist() == pytest.approx([3.4] * 3 + [90] * 3)
    assert not list(tmp_path.glob(".*"))
    source = mp_extra_source(path, manifest()["mp_extra"]["sha256"], None)
    cells = [source.read(row) for row in source.rows]
    assert [len(cell.atomic_numbers) for cell in cells] == [1, 1, 1]


def test_the_file_of_the_manifest_is_recognised(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(fetch, "write", lambda rows, path: manifest()["mp_extra"]["sha256"])
    code, _ = run(monkeypatch, tmp_path, ["mp-1"], Client(KNOWN))
    assert code == 0 and "is the file of the manifest" in capsys.readouterr().out


def test_without_a_list_all_but_those_of_mp_20_are_fetched(monkeypatch, tmp_path):
    known = SimpleNamespace(info=pd.DataFrame({"material_id": ["mp-1", "mp-149"]}))
    monkeypatch.setattr(fetch, "load_dataset", lambda name: known)
    monkeypatch.setattr(fetch, "open_client", lambda key: Client(KNOWN))
    assert fetch.main(["--out", str(tmp_path / "out.parquet")]) == 1
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert list(frame["material_id"]) == ["mp-5", "mp-9"]


@pytest.mark.parametrize(
    ("ids", "error", "said"),
    [
        (["mp-1", "mp-77"], None, "1 ids are not in the present database, mp-77"),
        (["mp-1"], ConnectionError("no route"), "did not answer (ConnectionError: no route)"),
        (["mp-1", "mp-1"], None, "1 ids come twice"),
        (["149"], None, "expected ids such as mp-149"),
        ([], None, "got nothing"),
    ],
)
def test_what_cannot_be_fetched_is_said_and_nothing_is_written(
    monkeypatch, tmp_path, capsys, ids, error, said
):
    code, path = run(monkeypatch, tmp_path, ids, Client(KNOWN, error))
    assert code == 2 and said in capsys.readouterr().err
    assert not path.exists()


def test_key_package_and_list_must_be_there(monkeypatch, tmp_path):
    with pytest.raises(fetch.FetchError, match="MP_API_KEY is not set"):
        fetch.open_client(None)
    monkeypatch.setitem(sys.modules, "mp_api", None)
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    with pytest.raises(fetch.FetchError, match="mp-api is missing: pip install"):
        fetch.open_client("key")
    with pytest.raises(fetch.FetchError, match="no such file"):
        fetch.read_ids(tmp_path / "none.txt")

"""Predictions and the one file of their truth: exact, shared, and refused where they do not fit."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unimat_book.ledger.predictions import load_predictions, save_predictions
from unimat_book.ledger.settings import RESOLUTION
from unimat_book.ledger.truth import CELLS, signed, unsigned
from unimat_book.record import READ_NOTES, RUN_DIR, STAGING
from unimat_lib.evaluation.metrics import PROBABILITY_COLUMNS, with_relative_errors

COMMAND = "unimat-book run 03 --profile full"


def made_up(seed: int = 0, n: int = 60, crystals: int = 0) -> pd.DataFrame:
    """Errors frame of a model ``seed`` on the set ``crystals`` of made-up crystals."""
    cells, rng = np.random.default_rng(100 + crystals), np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "material_id": [f"m{crystals}-{i}" for i in range(n)],
            "num_atoms": cells.integers(1, 20, n),
            "crystal_system": cells.integers(0, 7, n),
        }
    )
    chances = rng.dirichlet(np.full(7, 0.2), n)
    chances[:2] = 0.5, 0.5, 0, 0, 0, 0, 0  # a tie, which argmax decides for the first
    columns = dict(zip(PROBABILITY_COLUMNS, chances.T, strict=True))
    for name in CELLS:
        true, error = cells.uniform(60, 120, n), rng.normal(0, 0.3, n)
        columns |= {name: true + error, f"error_{name}": error}
    columns["predicted_system"] = chances.argmax(axis=1)
    return with_relative_errors(frame.assign(**columns))


def save(folder: Path, *seeds: int, setting: str = "xrd", **crystals: int) -> list[Path]:
    frames = {seed: made_up(seed, **crystals) for seed in seeds}
    return save_predictions(frames, folder, setting=setting, variant="ours")


def load(folder: Path, setting: str = "xrd") -> dict[int, pd.DataFrame]:
    return load_predictions(folder, setting=setting, variant="ours", made_by=COMMAND)


def truths(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("truth-*.parquet")}


def test_what_is_read_is_what_was_rounded(tmp_path: Path) -> None:
    save(tmp_path, 0, 1)
    for seed, frame in load(tmp_path).items():
        before = made_up(seed)
        for name in ("material_id", "num_atoms", "crystal_system", "predicted_system"):
            assert (frame[name] == before[name]).all()
        for name, step in RESOLUTION.items():
            rounded = (before[name] / step).round().astype(np.int32) * step
            if name in PROBABILITY_COLUMNS:
                rounded = rounded.clip(lower=step / 2)
            assert (frame[name] == rounded.astype(np.float32)).all(), name


def test_whole_numbers_without_a_sign_and_back() -> None:
    numbers = pd.DataFrame({"x": [0, -1, 1, -2, 2, 10**9, -(10**9)]})
    assert unsigned(numbers)["x"].tolist()[:5] == [0, 1, 2, 3, 4]
    assert signed(unsigned(numbers)).equals(numbers)


def test_one_truth_serves_all_predictions_of_the_crystals(tmp_path: Path) -> None:
    save(tmp_path, 0, 1)
    before = truths(tmp_path)
    assert len(before) == 1
    stamp = (tmp_path / next(iter(before))).stat()
    save(tmp_path, 5, setting="structure")
    # What was read, and so rounded, is still of the same crystals.
    again = {seed: frame.iloc[::1] for seed, frame in load(tmp_path).items()}
    save_predictions(again, tmp_path, setting="composition", variant="ours")
    assert truths(tmp_path) == before
    assert (tmp_path / next(iter(before))).stat() == stamp  # not even written anew
    for seed, frame in load(tmp_path, "composition").items():
        pd.testing.assert_frame_equal(frame, again[seed], check_exact=True)


def test_the_truth_of_other_crystals_is_apart_and_goes_with_its_last_file(tmp_path: Path) -> None:
    save(tmp_path, 0)
    first = truths(tmp_path)
    save(tmp_path, 0, setting="structure", crystals=1)
    assert len(truths(tmp_path)) == 2
    save(tmp_path, 1, setting="structure")
    assert truths(tmp_path) == first


def test_a_truth_that_is_missing_edited_or_of_others_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", 0)
    save(tmp_path / "b", 0, crystals=1)
    ((ours, content),), ((other, _),) = (truths(tmp_path / n).items() for n in "ab")
    path = tmp_path / "a" / ours
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{ours} is missing(.|\n)*{COMMAND}"):
        load(tmp_path / "a")
    shutil.copy(tmp_path / "b" / other, path)
    with pytest.raises(ValueError, match=rf"of other crystals(.|\n)*{COMMAND}"):
        load(tmp_path / "a")
    path.write_bytes(content[:-9] + b"?" + content[-8:])
    with pytest.raises(ValueError, match=rf"was edited(.|\n)*{COMMAND}"):
        load(tmp_path / "a")
    save(tmp_path / "a", 0)  # heals it
    assert truths(tmp_path / "a") == {ours: content}
    assert list(load(tmp_path / "a")) == [0]


@pytest.mark.parametrize("content", [b"", b"PAR1 no more", None])
def test_predictions_of_another_form_are_refused(tmp_path: Path, content: bytes | None) -> None:
    (path,) = save(tmp_path, 0)
    if content is None:
        made_up().to_parquet(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"name the file of their truth(.|\n)*{COMMAND}"):
        load(tmp_path)


def _save_often(folder: Path, setting: str) -> None:
    for seed in range(5):
        save(folder, seed, setting=setting, crystals=seed % 2)


def test_two_writers_at_once_leave_what_both_need(tmp_path: Path) -> None:
    settings = ("xrd", "structure")
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_save_often, args=(tmp_path, s)) for s in settings]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert [list(load(tmp_path, s)) for s in settings] == [[4], [4]]
    assert len(truths(tmp_path)) == 1


def test_a_run_that_is_not_published_yet_has_its_own_copy(tmp_path: Path, monkeypatch) -> None:
    """The published truth is taken over byte by byte, and predictions read say which truth."""
    (tmp_path / "params.yml").write_text("")
    monkeypatch.setenv("UNIMAT_ROOT", str(tmp_path))
    monkeypatch.delenv(STAGING, raising=False)
    folder = tmp_path / "data/results/predictions"
    save(folder, 0)
    published = truths(folder)
    staging = tmp_path / "_build/staging"
    monkeypatch.setenv(STAGING, str(staging))
    monkeypatch.setenv(RUN_DIR, str(tmp_path / "data"))
    save(folder, 3, setting="structure")
    assert truths(staging / "results/predictions") == published == truths(folder)
    assert not list(folder.glob("structure*"))
    assert list(load(folder, "structure")) == [3]
    assert not (staging / READ_NOTES).exists()  # its own files do not count as read
    load(folder)
    lines = (staging / READ_NOTES).read_text("utf-8").splitlines()
    read = {Path(json.loads(line)[0]).name for line in lines}
    assert read == {"xrd-ours-seed0.parquet", *published}
    save(folder, 4, setting="structure", crystals=1)
    assert truths(folder) == published  # untouched, whatever the run does

"""The toy book of the tests of unimat-book: as written, and as published."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_book import Done, Tool, make_toy_book

from unimat_book.run.__main__ import main
from unimat_book.run.interruption import SIGNALS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A book of two chapters with a package of its own."""
    return make_toy_book(tmp_path)


@pytest.fixture
def tool(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Tool]:
    """The command line, in this process (importing the notebook tools takes seconds)."""
    monkeypatch.setenv("UNIMAT_ROOT", str(root))
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def call(*words: str) -> Done:
        capfd.readouterr()
        code = main(words)
        return Done(code, *capfd.readouterr())

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def published_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The toy book with both chapters run in the full profile."""
    root = make_toy_book(tmp_path_factory.mktemp("published"))
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIMAT_ROOT", str(root))
        # What the real packages of figures and kernels are.
        patch.setattr("unimat_lib.identity.WORDS_DO_NOT_COUNT", "unimat_toy.figures")
        patch.setattr("unimat_lib.identity.SETTINGS_DO_NOT_COUNT", "unimat_toy.kernels")
        for words in (["run", "1", "--profile=full"], ["run", "2", "--profile=full"]):
            assert main(words) == 0
    for number, handler in before.items():
        signal.signal(number, handler)
    yield root


@pytest.fixture
def published(published_once: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the published toy book in place of the one that is only written."""
    monkeypatch.setattr("unimat_lib.identity.WORDS_DO_NOT_COUNT", "unimat_toy.figures")
    monkeypatch.setattr("unimat_lib.identity.SETTINGS_DO_NOT_COUNT", "unimat_toy.kernels")
    shutil.rmtree(root)
    return Path(shutil.copytree(published_once, root))

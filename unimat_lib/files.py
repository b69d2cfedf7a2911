"""Paths in, files that are whole or not there out: write beside the target, then rename."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends well it becomes ``path``.

    The folder is made. A block that fails, or a process that dies, leaves the old file as it was;
    renaming within a folder is atomic, so a reader sees the old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.iterdir():  # by a writer that was killed
        name, _, process = left.name.removesuffix(".partial").rpartition(".")
        if left.suffix == ".partial" and name == f".{path.name}" and not _is_alive(process):
            left.unlink(missing_ok=True)
    # The process number keeps two writers of one file out of each other's way.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


@contextmanager
def alone_in(folder: str | os.PathLike[str], *, wait: bool = True) -> Iterator[Path]:
    """Keep others out of a folder, which is made; ``BlockingIOError`` if we are not to ``wait``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield folder
    finally:
        os.close(handle)


def file_hash(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object whose first entry is the SHA-256 of the others."""
    record = json.loads(json.dumps(dict(record)))
    with replacing(path) as temporary:
        text = json.dumps({"checksum": _checksum(record), **record}, indent=1)
        temporary.write_text(text, encoding="utf-8")


def read_record(path: Path) -> dict[str, Any] | None:
    """What :func:`.write_record` wrote; ``None`` where there is nothing, or nothing whole."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("checksum") == _checksum(record):
            return record
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        pass
    logger.warning("%s is damaged or of earlier code and is not used", path)
    return None


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()

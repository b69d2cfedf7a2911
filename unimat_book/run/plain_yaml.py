"""A file of settings in, its plain content out: nothing executed, repeated or silently lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

LARGEST = 100_000
"""Bytes; the book's own files hold a twentieth."""


class BookError(Exception):
    """Something the user has to put right; the message says what and how."""


def in_short(what: object) -> str:
    """One line of at most 200 characters."""
    line = " ".join(str(what).split())
    return line if len(line) <= 200 else f"{line[:200]}…"


class _PlainLoader(yaml.SafeLoader):
    """No aliases, with which a few lines become gigabytes, no tags, and no key twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if self.check_event(yaml.AliasEvent) or getattr(event, "tag", None):
            raise yaml.YAMLError(f"an alias or a tag: write the value out\n{event.start_mark}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(str(key.value) for key, _ in node.value)
        if twice := [key for key, count in keys.items() if count > 1]:
            raise yaml.YAMLError(f"{twice[0]!r:.80} twice: keep one\n{node.start_mark}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[Any, Any]:
    """What a YAML file holds; an empty one holds nothing.

    Raises:
        BookError: It is no plain mapping in UTF-8.
    """
    if not path.is_file():
        raise BookError(f"{path} is missing, or is no file")
    if (size := path.stat().st_size) > LARGEST:
        raise BookError(f"{path.name} has {size:,} bytes: expected at most {LARGEST:,}")
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_PlainLoader)
    except UnicodeDecodeError as error:
        raise BookError(f"{path.name} is not in UTF-8 ({error}): save it so") from None
    except RecursionError:
        raise BookError(f"{path.name} is nested too deeply") from None
    # ValueError and OverflowError: what looks like a date or a number and is none
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise BookError(f"{path.name} cannot be read: {in_short(error)}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise BookError(f"{path.name}: expected name: value lines, got a {type(content).__name__}")
    return content

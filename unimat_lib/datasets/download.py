"""An address and a checksum in, a whole file out, or none."""

from __future__ import annotations

import http.client
import logging
import time
import urllib.request
from pathlib import Path

from unimat_lib.datasets.report import DataError
from unimat_lib.datasets.source import git_blob_id
from unimat_lib.files import replacing

logger = logging.getLogger(__name__)

TIMEOUT = 60
"""Seconds that a server may stay silent."""

LONGEST = 1800
"""Seconds that a whole download may take."""

LARGEST = 2**30
"""Bytes; no file that the manifest names comes near it."""

_HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,  # refuses file:, ftp: and whatever else
)


def download(url: str, target: Path, *, blob: str) -> Path:
    """Download one file, check its git blob id, and only then give it its name.

    Only http and https are spoken, also after a redirect.

    Raises:
        DataError: The download fails, hangs or is truncated, or the content is another one.
    """
    logger.info("downloading %s", url)
    try:
        with replacing(target) as partial:
            _fetch(url, partial)
            content = partial.read_bytes()
            if (came := git_blob_id(content)) != blob:
                raise ValueError(
                    f"content with git blob id {blob} expected, but {came} came ({len(content):,} "
                    "bytes): the download was truncated or the file was replaced"
                )
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DataError(
            f"{url} cannot be downloaded ({error}). Nothing was kept. Try again, or put the file "
            "into a folder yourself and set UNIMAT_DATA to it"
        ) from error
    return target


def _fetch(url: str, target: Path) -> None:
    opener = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    started = time.monotonic()
    with opener.open(url, timeout=TIMEOUT) as answer, target.open("wb") as file:
        while part := answer.read1(2**20):
            file.write(part)
            if file.tell() > LARGEST or time.monotonic() - started > LONGEST:
                raise OSError(f"stopped after {file.tell():,} bytes in {LONGEST} s at most")

"""An address and a checksum in, a whole file out, or none."""

from __future__ import annotations

import logging
from pathlib import Path

from unimat_lib.datasets.report import DataError
from unimat_lib.datasets.source import git_blob_id
from unimat_lib.files import replacing

logger = logging.getLogger(__name__)


def download(url: str, target: Path, *, blob: str) -> Path:
    """Download one file, check its git blob id, and only then give it its name.

    Raises:
        DataError: The download fails or is truncated, or the content is another one.
    """
    import pooch

    logger.info("downloading %s", url)
    try:
        with replacing(target) as partial:
            pooch.retrieve(
                url,
                known_hash=None,  # checked below: pooch has no git blob ids
                fname=partial.name,
                path=partial.parent,
                downloader=pooch.HTTPDownloader(timeout=60, progressbar=False),
            )
            content = partial.read_bytes()
            came = git_blob_id(content)
            if came != blob:
                raise DataError(
                    f"{url}: content with git blob id {blob} expected, but {came} came "
                    f"({len(content):,} bytes); the download was truncated or the file was "
                    "replaced. Nothing was kept. Try again, or put the file into a folder yourself "
                    "and set UNIMAT_DATA to it"
                )
    except (OSError, ValueError) as error:  # requests' own errors are OSErrors
        raise DataError(
            f"{url} cannot be downloaded ({error}). Nothing was kept. Try again, or put the file "
            "into a folder yourself and set UNIMAT_DATA to it"
        ) from error
    return target

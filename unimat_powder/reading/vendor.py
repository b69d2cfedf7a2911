"""A vendor's file in, its scans as the library geddes reads them out."""

import geddes
import numpy as np

from unimat_powder.pattern import PatternError
from unimat_powder.scans import Scan

_MOST_SCANS = 200


def read_scans(data: bytes, kind: str, name: str) -> list[Scan]:
    """All scans of a file that geddes knows.

    Args:
        data: The file.
        kind: A file name that tells geddes the format, such as ``scan.brml``.
        name: What to call the file in errors.

    Raises:
        PatternError: geddes does not read it, with its reason.
    """
    scans: list[Scan] = []
    while True:
        try:
            found = geddes.read_bytes(data, kind, index=len(scans))
        except ValueError as error:
            if scans and ("out of range" in str(error) or "index must be" in str(error)):
                return scans
            raise PatternError(f"{name}: {_reason(error)}") from None
        except BaseException as error:
            # A panic of Rust code comes as a BaseException of its own; nothing is left half done.
            if type(error).__name__ != "PanicException":
                raise
            raise PatternError(f"{name}: the file is damaged") from None
        x, y = np.array(found.x, np.float64), np.array(found.y, np.float64)
        scans.append(Scan(x, y))
        if len(scans) > _MOST_SCANS:
            raise PatternError(
                f"{name}: expected one measurement, but came more than {_MOST_SCANS} scans"
            )


def _reason(error: ValueError) -> str:
    """Geddes' reason without its prefix, short."""
    text = " ".join(str(error).removeprefix("Parse error: ").split())
    return "not readable: " + text.encode("ascii", "replace").decode()[:150]

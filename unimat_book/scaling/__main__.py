"""What :func:`.fit_on` put into a folder in, trained by the group of this process out.

python -m unimat_book.scaling DEVICE FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from unimat_book.scaling.fit import fit_together
from unimat_book.scaling.group import open_group
from unimat_book.scaling.handover import HANDED, taken
from unimat_lib.model import UniMat
from unimat_lib.training.captured_step import mapped


def main(device: str, folder: str) -> None:
    """Train."""
    with open_group(device) as group:
        work = taken(Path(folder) / HANDED)
        model = UniMat(work.pop("model"))
        model.load_state_dict(work.pop("weights"))
        views = mapped(work.pop("views"), lambda x: x.to(group.device))
        fit_together(model, views, **work, group=group)


if __name__ == "__main__":
    main(*sys.argv[1:])

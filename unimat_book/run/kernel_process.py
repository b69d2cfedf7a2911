"""The kernel that runs a chapter: IPython's own, but it dies when the tool that started it does."""

from __future__ import annotations

import os
import sys

from unimat_lib.processes import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    if os.getppid() != int(os.environ["JPY_PARENT_PID"]):  # it died before it was asked
        sys.exit(1)
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()

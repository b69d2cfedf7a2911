"""The kernel that runs a chapter: IPython's own, but it dies when the tool that started it does."""

from __future__ import annotations

from unimat_lib.processes import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()

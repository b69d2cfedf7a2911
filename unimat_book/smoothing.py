"""A model and what its labels stand for in, the model while it learns from softer labels out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.model import UniMat, UniMatOutput


@contextlib.contextmanager
def smoothed_labels(model: UniMat, labels: Tensor | None) -> Iterator[None]:
    """While the block lasts, ``model`` learns the crystal system from smoothed labels.

    Its cross-entropy in training is that with the row of ``labels`` that belongs to the label.
    In evaluation nothing changes, so epochs are chosen by the labels as they are, and predictions
    are plain. Meanwhile the matrix is a buffer of the model: :func:`.fit`, which names a run by
    all that the model holds, keeps runs with and without it apart. Afterwards it is gone, and what
    is left is a model like any other.

    Args:
        model: What :func:`.fit` is to train inside the block.
        labels: What each label becomes, ``[7, 7]`` float32, rows sum to one; ``None`` changes
            nothing.

    Raises:
        ValueError: The matrix has another shape, or a row is no distribution.
    """
    if labels is None:
        yield
        return
    number = len(CRYSTAL_SYSTEMS)
    if labels.shape != (number, number):
        raise ValueError(f"expected labels [{number}, {number}], got {list(labels.shape)}")
    sums = labels.sum(1)
    if bool((labels < 0).any()) or not torch.allclose(sums, torch.ones_like(sums)):
        raise ValueError(f"expected rows of shares that sum to one, got sums {sums.tolist()}")
    model.register_buffer("soft_labels", labels.clone())
    hook = model.register_forward_hook(_weigh)
    try:
        yield
    finally:
        hook.remove()
        del model.soft_labels


def _weigh(model: UniMat, inputs: tuple, output: UniMatOutput) -> UniMatOutput:
    """The output of a forward pass; in training each class has the mean of its smoothed label."""
    if not model.training:
        return output
    # Not a matrix product, which autocast on a GPU would round to eight bits.
    weighed = (output.system_log_probs[:, None] * model.soft_labels).sum(-1)
    return dataclasses.replace(output, system_log_probs=weighed)

"""A model in, the same model whose losses see the crystals of all processes out.

Two parts of a model look at other crystals than the one at hand: the contrastive loss and the one
BatchNorm. Here both look at those of all processes, with gradients, so that ``W`` processes with
``B`` crystals each do what one does with ``W B``. Each process has the loss of its own crystals;
the loss of all, and its gradient, is the mean over the processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from itertools import combinations, permutations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unimat_book.scaling.group import Group
from unimat_lib.alignment import AlignmentLoss
from unimat_lib.model import UniMat


@contextlib.contextmanager
def sharing(model: UniMat, group: Group) -> Iterator[None]:
    """Let the model see the crystals of all processes as long as the block lasts.

    Names and values of its weights stay as they are. A single process has nothing to share, and
    its model is left alone.

    Raises:
        TypeError: The model has a BatchNorm of a kind that :class:`SharedBatchNorm` cannot replace.
    """
    classes = {nn.BatchNorm1d: SharedBatchNorm, AlignmentLoss: SharedAlignment}
    changed = [m for m in model.modules() if type(m) in classes] if group.size > 1 else []
    for module in model.modules() if group.size > 1 else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            shareable = type(module) is nn.BatchNorm1d and not module.affine and module.momentum
            if not (shareable and module.track_running_stats):
                what = f"expected BatchNorm1d without weights, with a momentum, got {module}"
                raise TypeError(f"{what}: its statistics are not shared, extend SharedBatchNorm")
    for module in changed:
        module.__class__ = classes[type(module)]
        module.group = group
    try:
        yield
    finally:
        for module in changed:
            module.__class__ = type(module).__bases__[0]
            del module.group


class SharedAlignment(AlignmentLoss):
    """The contrastive loss of this process's crystals among the crystals of all.

    Each process computes its own rows of the matrix of similarities, as the local loss of open_clip
    (https://github.com/mlfoundations/open_clip) does.

    Attributes:
        group: The processes; all have equally many crystals.
    """

    group: Group

    def forward(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """As :meth:`.AlignmentLoss.forward`; the mean over the processes is the loss of all."""
        if not self.training or len(embeddings) < 2:
            return super().forward(embeddings)
        own = torch.stack([functional.normalize(x.float(), dim=-1) for x in embeddings.values()])
        every = self.group.gather(own).transpose(0, 1).flatten(1, 2)  # [M, W * B, d]
        size, device = own.shape[1], own.device
        partner = self.group.rank * size + torch.arange(size, device=device)  # [B]
        scale = self.log_scale.float().exp()
        with torch.autocast(device.type, enabled=False):
            if self.kind == "clip":  # both ways of each pair: its own rows and its own columns
                losses = [
                    functional.cross_entropy(scale * own[a] @ every[b].T, partner)
                    for a, b in permutations(range(len(own)), 2)
                ]
            else:
                match = partner[:, None] == torch.arange(every.shape[1], device=device)
                logits = [
                    scale * own[a] @ every[b].T + self.bias.float()
                    for a, b in combinations(range(len(own)), 2)
                ]
                signs = 2.0 * match - 1
                losses = [-functional.logsigmoid(signs * x).sum() / size for x in logits]
        return torch.stack(losses).mean()


class SharedBatchNorm(nn.BatchNorm1d):
    """BatchNorm without weights whose statistics in training are those of all processes' rows.

    Attributes:
        group: The processes; all have equally many rows.
    """

    group: Group

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype out as in, ``[B, F]``."""
        if not self.training:
            return super().forward(x)
        out, mean, var = _Normalise.apply(x.float(), self.eps, self.group)
        count = len(x) * self.group.size
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return out.to(x.dtype)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, eps: float, group: Group) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(x, dim=0, correction=0)
        means, variances = group.gather(torch.stack([mean, var])).unbind(1)  # [W, F] each
        mean = means.mean(dim=0)
        var = (variances + (means - mean).square()).mean(dim=0)
        scale = (var + eps).rsqrt()
        out = (x - mean) * scale
        ctx.save_for_backward(out, scale)
        ctx.group = group
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        out, scale = ctx.saved_tensors
        sums = ctx.group.sum_(torch.stack([grad.sum(dim=0), (grad * out).sum(dim=0)]))  # [2, F]
        along, across = sums / (len(out) * ctx.group.size)
        return scale * (grad - along - out * across), None, None

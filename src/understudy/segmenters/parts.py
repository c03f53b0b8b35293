"""The gradient of a batch that memory does not hold at once: its loss is that of the whole batch all the same.

The soft Dice coefficient is one over the batch, so the losses of parts do not add up to it. Instead the scores of all
parts are computed without what their gradients need, the loss of the whole batch gives the gradient of these scores,
and each part is computed once more and led back from there. Only a network that normalises over the batch, or draws
random numbers for it, is another one in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor, int], Sequence[Tensor]]
"""Slices [n, C, R, R] and the number of their part -> class scores of each level; the same for the same arguments."""


def backward(
    network: nn.Module, forward: Forward, loss: Callable[[Sequence[Tensor]], Tensor], x: Tensor, parts: int
) -> Tensor:
    """Adds the gradient of the loss to the parameters' `grad`.

    Args:
        network: whose running means, if any, move once.
        forward: of the network.
        loss: of the scores of the whole batch.
        x: float32 [N, C, R, R].
        parts: 1: the batch at once; at most N.

    Returns:
        The loss, a scalar.
    """
    if parts == 1:
        value = loss(forward(x, 0))
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()
    pieces = torch.tensor_split(x, parts)
    with torch.no_grad(), _pace(network, 0.0):
        found = [forward(piece, number) for number, piece in enumerate(pieces)]
    levels = [torch.cat(level).float().requires_grad_() for level in zip(*found, strict=True)]
    value = loss(levels)
    value.backward()  # type: ignore[no-untyped-call]
    gradients = [torch.tensor_split(level.grad, parts) for level in levels if level.grad is not None]
    with _pace(network, 1 / parts):
        for number, piece in enumerate(pieces):
            scores = list(forward(piece, number))
            led = [g[number].to(s.dtype) for g, s in zip(gradients, scores, strict=True)]
            torch.autograd.backward(scores, led)
    return value.detach()


def normalises_over_the_batch(network: nn.Module) -> bool:
    """Whether a slice's scores in training depend on the slices beside it."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


@contextmanager
def _pace(network: nn.Module, power: float) -> Iterator[None]:
    """Inside the block running means go only so far: 1 / n lets n passes together go as far as one usually does."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1 - (1 - (norm.momentum or 0.0)) ** power
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum

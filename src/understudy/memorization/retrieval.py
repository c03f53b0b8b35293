"""Which training slices may a slice be a copy of? A few candidates by products of whitened vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F

LANES, DEEP = 64, 32  # training slices i, i + 64, ... are one lane; so many of each lane are compared at a time
SAME = 0.95  # whitened correlation from which two training slices are no pair


def highest(x: torch.Tensor, known: torch.Tensor, own: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest product of each of x [n, k, d] with each lane of known [N, d], and with which: [n, k, lanes].

    `own` [n, N]: with which a slice is not compared. Never are all products held.
    """
    lanes = min(LANES, len(known))
    best = torch.full((*x.shape[:2], lanes), -2.0, device=x.device)
    column, lane = torch.zeros_like(best, dtype=torch.long), torch.arange(lanes, device=x.device)
    for start in range(0, len(known), DEEP * lanes):
        found = x @ known[start : start + DEEP * lanes].T
        if own is not None:
            found.masked_fill_(own[:, None, start : start + DEEP * lanes], -2.0)
        found = F.pad(found, (0, -found.shape[2] % lanes), value=-2.0).unflatten(2, (-1, lanes))
        value, deep = found.max(2)
        better = value > best
        best = torch.where(better, value, best)
        column = torch.where(better, start + deep * lanes + lane, column)
    return best, column


def best_pair(x: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Explained part of x [n, d] by the best pair among known [n, m, d], and the pair [n, 2], the larger part first."""
    alone = (known @ x[:, :, None])[:, :, 0]
    score = explained(alone[:, :, None], alone[:, None, :], known @ known.transpose(1, 2)).flatten(1)
    best, at = score.max(1)
    pair = torch.stack([at // known.shape[1], at % known.shape[1]], 1)
    return best, pair.gather(1, alone.gather(1, pair).argsort(dim=1, descending=True, stable=True))


def explained(one: torch.Tensor, two: torch.Tensor, between: torch.Tensor) -> torch.Tensor:
    """Squared multiple correlation with two unit vectors by the correlations with each and between them.

    Where a part would be negative or the two are nearly the same, that of the first alone.
    """
    bottom = (1 - between.square()).clamp(min=1 - SAME * SAME)
    a, b = (one - between * two) / bottom, (two - between * one) / bottom
    alone = one.clamp(min=0).square().expand_as(a)
    return torch.where((a > 0) & (b > 0) & (between < SAME), a * one + b * two, alone)

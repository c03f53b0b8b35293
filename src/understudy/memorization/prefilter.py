"""Upper bounds of correlations from a low resolution, so that most pairs need no exact product.

Let x and y be a channel of two slices, each minus its mean, and let a cell be b x b pixels. The mean over a cell, P, is
an orthogonal projection; what is left in a cell is at most the product of the two remainders (Cauchy-Schwarz):

    <x, y> = <Px, Py> + sum over cells of <x - Px, y - Py>  <=  <Px, Py> + sum over cells |x - Px| |y - Py|

The right side is the dot product of two vectors: the cells' means (times b) and the norms of the remainders. Their
lengths are those of x and y, so that a float32 product of K terms errs by at most 2 K 2^-24 |x| |y|: one more term,
sqrt(2 (K + 8) 2^-24) times the length, adds just that to every bound. From the bounds of the channels' products follow
those of all image views, by the same formulas as the exact values. A pair whose bound stays below what its query has
already reached, in every view, cannot win and needs no exact product.

Measured on MR slices of 256 x 256 (benchmarks/audit_search.py): 10 to 22 % of the pairs are left, scattered, and 34 to
60 % with their blocks; comparing these in small products, held up by memory, took longer than comparing all pairs in
large ones (4 times with the integer kernel, 2 to 5 times with the float32 kernel). So a search uses it only on demand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from understudy.memorization.views import CHUNK, Side, covariances, in_threads, needed_channels

CELLS = 32  # along each side: of 8 x 8 pixels at 256 x 256
BLOCK = 16  # training slices that are compared exactly with the same queries
MARGIN = 2e-6  # of a correlation: bounds and what is reached are compared in float32


def cells_of(resolution: int) -> int:
    """Cells along each side; 0 where the resolution cannot be divided into 32 of them, at most 32 pixels wide."""
    return CELLS if resolution % CELLS == 0 and 2 * CELLS <= resolution <= CELLS * 32 else 0


def grids(pixels: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
    """Both halves of the vectors as grids, float32 [C, n, 2, s, s].

    Args:
        pixels: int8 [n, C, H, W]; cells hold at most 1,024 pixels, so that their float32 sums are exact integers.
        linear: [n, C] sums of the pixels.
    """
    n, channels, size = pixels.shape[:3]
    s = cells_of(size)
    b = size // s
    cells = pixels.float().view(n, channels, s, b, s, b)
    sums, squares = cells.sum((3, 5)).double(), cells.square_().sum((3, 5)).double()
    means = sums / b - (linear.double() * b / size**2)[..., None, None]
    rest = (squares - sums.square() / b**2).clamp(min=0).sqrt()
    return torch.stack([means, rest], 2).float().transpose(0, 1)


def vectors(grid: torch.Tensor) -> torch.Tensor:
    """float32 [C, n, 2 s^2 + 1] from grids: with the term that stands for rounding."""
    flat = grid.flatten(2)
    terms = 2 * (flat.shape[2] + 8) * 2.0**-24
    length = flat.double().square().sum(2, keepdim=True).mul(terms).sqrt()
    return torch.cat([flat, length.float()], 2)


def bounds(low: tuple[torch.Tensor, torch.Tensor], queries: Side, training: Side, views: Sequence[str],
           channels: Sequence[str]) -> torch.Tensor:  # fmt: skip
    """Upper bounds of every image view's correlation, float32 [V, m, n]; -inf for constant training slices.

    Args:
        low: `vectors` of queries and training.
        queries, training: the tile's sides.
        views: image views.
        channels: names.
    """
    m, n, pixels = len(queries.linear), len(training.linear), training.pixels.shape[2]
    found = torch.empty((len(views), m, n), dtype=torch.float32, device=low[0].device)
    high = {c: low[0][c] @ low[1][c].t() for c in needed_channels(views, channels)}
    x, y = (
        queries._replace(linear=queries.linear.double(), shift=queries.shift.double()),
        training._replace(linear=training.linear.double(), shift=training.shift.double()),
    )
    step = max(1, CHUNK // n)

    def bound(start: int) -> None:
        rows = slice(start, min(m, start + step))
        part = {c: h[rows].double() + x.linear[rows, c, None] * (y.linear[:, c] / pixels) for c, h in high.items()}
        for v, covariance in enumerate(covariances(part, x, y, rows, views, channels)):
            found[v, rows] = covariance.mul_(y.scale[v]).mul_(x.scale[v, rows, None]).float()

    in_threads(bound, range(0, m, step), found.device)
    found[(training.scale == 0)[:, None].expand_as(found)] = -torch.inf
    return found

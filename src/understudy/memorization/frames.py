"""What slices are compared by once they may have moved: filtered slices, upright frames, whitened vectors.

Images are float32 [n, C, H, W]; a map [n, 2, 3] takes places of the output to places of the input, both in -1..1 (as in
`torch.nn.functional.affine_grid`).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

FRAME = 32  # pixels of a frame: finer ones found fewer copies, since noise and small warps count in them
CELLS = 16  # of the vectors that are compared: cells an edge
DIMENSIONS, RIDGE = 200, 0.05  # of whitened vectors; part of the mean variance that every direction has at least
FINE, COARSE = 0.02, 0.125  # s.d. of the filters, parts of the edge
BORDER = FRAME // 16  # pixels along the border of a slice that are not compared: beyond it lies what nobody has seen
TURNS = (-14, -7, 0, 7, 14)  # degrees that are tried before registration, which does the rest
HEAD = 0.15  # part of a channel's bright values from which a pixel counts as head


@lru_cache
def smoothing(edge: int, sigma: float) -> torch.Tensor:
    """Matrix [edge, edge] of a Gaussian filter, s.d. in pixels; the border is repeated."""
    reach = max(1, int(np.ceil(3 * sigma)))
    at = np.arange(-reach, reach + 1)
    kernel = np.exp(-at * at / (2 * sigma * sigma))
    matrix = np.zeros((edge, edge))
    for row in range(edge):
        np.add.at(matrix[row], np.clip(row + at, 0, edge - 1), kernel / kernel.sum())
    return torch.from_numpy(matrix.astype(np.float32))


def blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian filter along both axes of [..., edge, edge], as two products with a matrix."""
    matrix = smoothing(x.shape[-1], sigma).to(x.device)
    return matrix @ x @ matrix.T


def filtered(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Without noise and without what is smooth; and this divided by the local contrast, so that contrast is free."""
    edge = images.shape[-1]
    x = blur(images, max(0.5, FINE * edge))
    x = x - blur(x, COARSE * edge)
    overall = x.square().mean((2, 3), keepdim=True)
    # the first is linear: a blend of two slices is the blend of what is compared
    return x, x / torch.sqrt(blur(x * x, COARSE * edge) + 0.3 * overall + 1e-3)


def sized(x: torch.Tensor, size: int) -> torch.Tensor:
    """At most so large, by the mean of the pixels."""
    return F.adaptive_avg_pool2d(x, size) if x.shape[-1] > size else x


def shifting(shifts: torch.Tensor, edge: int) -> torch.Tensor:
    """Matrices [..., CELLS, edge] that move a line of pixels by so many cells (bilinear) and take the mean of cells."""
    at = (torch.arange(FRAME, device=shifts.device) + 0.5) * (edge / FRAME) - 0.5
    off = at + shifts[..., None] * (edge / CELLS)
    near = 1 - (off[..., None] - torch.arange(edge, device=shifts.device)).abs()
    return near.clamp(min=0).unflatten(-2, (CELLS, FRAME // CELLS)).mean(-2)


def heads(images: torch.Tensor) -> torch.Tensor:
    """Centre (x, y) and size of the head in each slice [n, 3]: mean and spread of what is brighter than `HEAD`."""
    x = sized(images, FRAME)
    dark, bright = x.flatten(2).quantile(torch.tensor([0.05, 0.95], device=x.device), dim=2)[..., None, None]
    weight = (((x - dark) / (bright - dark).clamp(min=1)).mean(1) - HEAD).clamp(min=0).sqrt()
    edge = weight.shape[-1]
    at = ((torch.arange(edge) + 0.5) / edge * 2 - 1).to(x.device)
    total = weight.sum((1, 2)).clamp(min=1e-6)
    cy, cx = ((weight * grid).sum((1, 2)) / total for grid in (at[:, None], at[None]))
    off = (at[None, :, None] - cy[:, None, None]).square() + (at[None, None] - cx[:, None, None]).square()
    return torch.stack([cx, cy, ((weight * off).sum((1, 2)) / total).sqrt().clamp(min=0.1)], 1)


def pose(head: torch.Tensor, size: float, degrees: float = 0.0, mirrored: bool = False) -> torch.Tensor:
    """Maps that bring heads of any centre and size to the middle at one size, turned and mirrored."""
    angle = np.deg2rad(degrees)
    turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float32)
    if mirrored:
        turn = turn * torch.tensor([-1.0, 1.0])
    maps = torch.zeros(len(head), 2, 3, device=head.device)
    maps[:, :, :2] = turn.to(head.device)[None] * (head[:, 2] / size)[:, None, None]
    maps[:, :, 2] = head[:, :2]
    return maps


def warp(x: torch.Tensor, maps: torch.Tensor, size: int, off: torch.Tensor | None = None) -> torch.Tensor:
    """Slices seen through maps, bilinear, 0 outside; `off` [n, size, size, 2] moves the places further."""
    grid = F.affine_grid(maps, [len(maps), x.shape[1], size, size], align_corners=False)
    return F.grid_sample(x, grid if off is None else grid + off, align_corners=False)


def inside(maps: torch.Tensor, off: torch.Tensor | None = None) -> torch.Tensor:
    """Which pixels of a frame show what lies in the slice, `BORDER` away from its border: 0 or 1, [n, 1, F, F]."""
    ones = torch.ones(len(maps), 1, FRAME, FRAME, device=maps.device)
    seen = (warp(ones, maps, FRAME, off) > 0.99).float()
    return -F.max_pool2d(-F.pad(seen, (BORDER,) * 4, value=1.0), 2 * BORDER + 1, 1)


def cells(frames: torch.Tensor) -> torch.Tensor:
    """Means of the cells of frames [n, C, F, F], [n, C * cells]."""
    return F.avg_pool2d(frames, FRAME // CELLS).flatten(1)


def vectors(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Cells [n, C * cells] of mean 0 and variance 1 within the mask [n, C * cells], 0 outside it."""
    within = torch.ones_like(x) if mask is None else mask
    count = within.sum(1, keepdim=True).clamp(min=1)
    x = (x - (x * within).sum(1, keepdim=True) / count) * within
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-6) * count.sqrt()


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6)


class Whitening:
    """Principal components of training vectors, of equal variance: what all heads share counts little, details much."""

    def __init__(self, x: torch.Tensor) -> None:
        self.mean = x.mean(0)
        values, directions = torch.linalg.eigh((x - self.mean).T.double() @ (x - self.mean).double() / len(x))
        kept = min(DIMENSIONS, max(1, len(x) - 1), x.shape[1])
        values, directions = values.flip(0)[:kept].clamp(min=0), directions.flip(1)[:, :kept]
        self.matrix = (directions / torch.sqrt(values + RIDGE * values.mean() + 1e-9)).float()

    def __call__(self, x: torch.Tensor, centred: bool = True) -> torch.Tensor:
        return unit((x - self.mean if centred else x) @ self.matrix)

    def masked(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Of frames of which only the mask [n, 1, F, F] is known: elsewhere they are taken to be the mean."""
        known = (cells(mask) > 0.5).float().repeat(1, frames.shape[1])
        return unit((vectors(cells(frames), known) - self.mean * known) @ self.matrix)

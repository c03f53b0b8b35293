"""Renders an augmentation plan on the device of the tensors.

Image and label go through the same grid, the image bilinearly and the label by nearest neighbour. Order as in the
paper (4.3): rotation, scaling, flips and elastic deformation (one resampling for all), noise, blur, low resolution,
gamma, z-score. A transform costs nothing for the samples that it was not drawn for.

A sample's result is the same in any batch. On a CPU as many samples as PyTorch has threads are moved together, as
`grid_sample` gives each thread a sample of its own; then they are rendered one after the other: a slice of four
sequences at 256 x 256 (1 MB) stays in the cache through all of its transforms, a batch does not.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from understudy.segmenters.augment import AugmentPlan, Input

BLUR_RADIUS = 3  # pixels: three standard deviations of the widest blur
_POOL = 1 << 22  # normal numbers that noise is taken from, 16 MB; more for slices of more than a quarter of it
_POOL_SEED = 0xA06


def apply(plan: AugmentPlan, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Renders a plan.

    Args:
        plan: of N samples.
        images: uint8 [N, C, H, H].
        labels: uint8 [N, H, H] class indices, on the same device.

    Returns:
        float32 [N, C, H, H] as the network is fed (`plan.input`), in channels-last memory, and uint8 [N, H, H].
    """
    x = torch.empty(images.shape, device=images.device, memory_format=torch.channels_last)
    y = torch.empty_like(labels)
    # On a CPU in this thread: a pool of threads of our own made every later training step on PyTorch's threads three to
    # four times as slow (31 against 135 ms at 32 x 32), for a gain in the rendering that was hardly measurable.
    n = len(plan) if images.device.type != "cpu" else torch.get_num_threads()
    scratch = _Scratch(images[:n])
    for start in range(0, len(plan), max(n, 1)):
        some = slice(start, start + n)
        _render(plan.part(some), images[some], labels[some], x[some], y[some], scratch)
    return x, y


class _Scratch:
    """Memory that is used again for every part: fresh memory costs more than most of the arithmetic.

    Attributes:
        image, work: float32 of the shape of the images.
        grid: float32 [N, H, H, 2], a view of all columns before all rows: so `grid_sample` reads them fastest.
    """

    def __init__(self, images: torch.Tensor) -> None:
        n, _, height, width = images.shape
        self.image, self.work = (torch.empty(images.shape, device=images.device, dtype=torch.float32) for _ in range(2))
        self.grid = torch.empty(n, 2, height, width, device=images.device).permute(0, 2, 3, 1)


def _render(
    plan: AugmentPlan, images: torch.Tensor, labels: torch.Tensor, x: torch.Tensor, y: torch.Tensor, scratch: _Scratch
) -> None:
    """Renders a part of a plan into x and y."""
    n = len(plan)
    start = scratch.image[:n].copy_(images).div_(255)
    moved, target = move(plan, start, labels, scratch.grid[:n])
    y.copy_(target)
    for some in [slice(k, k + 1) for k in range(n)] if x.device.type == "cpu" else [slice(n)]:
        _finish(plan.part(some), moved[some], x[some], scratch.work[: len(x[some])])


def _finish(plan: AugmentPlan, moved: torch.Tensor, x: torch.Tensor, work: torch.Tensor) -> None:
    """What is left to do with moved images, into x."""
    add_noise(plan, moved, work)
    for change in (blur, lower_resolution, change_gamma):
        change(plan, moved)
    x.copy_(fed(moved, plan.input, work))


def fed(x: torch.Tensor, rule: Input, work: torch.Tensor | None = None) -> torch.Tensor:
    """What the network is fed of images in 0..1, float [N, C, H, W]: `normalise`, or ("raw") values 0..255.

    The result is in `work`, memory of the same shape, where it is given.
    """
    return normalise(x, work) if rule == "z_score" else torch.mul(x, 255, out=work)


def normalise(x: torch.Tensor, work: torch.Tensor | None = None) -> torch.Tensor:
    """Z-score per slice and channel with the mean and sd of its foreground (> 0): float [N, C, H, W], x >= 0.

    As in the authors' code the background does not count, or the size of the head would set the contrast. Channels
    that are constant become 0. The result is in `work`, memory of the same shape, where it is given.
    """
    work = torch.empty_like(x) if work is None else work
    flat = x.flatten(2)
    # sign + sum: eight times faster here than count_nonzero
    count = torch.sign(x, out=work).flatten(2).sum(-1).clamp_(min=1)
    mean = flat.sum(-1) / count
    variance = torch.linalg.vector_norm(flat, dim=-1).square() / count - mean.square()
    scale = variance.clamp(min=1e-7).rsqrt()
    scale = torch.where(variance > 1e-7, scale, 0.0)
    # two plain passes: three times faster on the CPU than one addcmul, which does not vectorise broadcast factors
    return torch.mul(x, scale[..., None, None], out=work).sub_((mean * scale)[..., None, None])


def move(
    plan: AugmentPlan, x: torch.Tensor, labels: torch.Tensor, grid: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotates, scales, mirrors, deforms: float [N, C, H, H] bilinearly, uint8 [N, H, H] by nearest neighbour.

    What comes from outside is 0. Samples that nothing is drawn for are given back as they are. `grid`: memory for
    `sampling_grid`.
    """
    moved = (plan.matrices() != np.eye(2)).any((1, 2)) | plan.elastic.any((1, 2, 3))
    if not moved.any():
        return x, labels
    if not moved.all():
        which = np.flatnonzero(moved).tolist()
        x, labels = x.clone(), labels.clone()
        x[which], labels[which] = move(plan.take(which), x[which], labels[which])
        return x, labels
    grid = sampling_grid(plan, _Scratch(x).grid if grid is None else grid)
    codes = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", align_corners=False), codes[:, 0].to(labels.dtype)


def sampling_grid(plan: AugmentPlan, grid: torch.Tensor) -> torch.Tensor:
    """Fills float32 [N, H, H, 2] with where each pixel of the result comes from, (column, row) in -1..1.

    Per axis a function of the row plus one of the column and, where the plan is elastic, splines of both: the product
    (functions of the row) x (coefficients) x (functions of the column), so they are one small matrix product.
    """
    rows, columns = _lines(plan, grid.shape[1], grid.device)
    for n in range(len(plan)):  # one by one: the same sums whatever the batch
        bent = _bends(plan, n, grid.shape[1]) if plan.elastic[n].any() else None
        for axis in range(2):
            where = torch.add(rows[n, axis], columns[n, axis], out=grid[n, ..., axis])
            if bent is not None:
                left, right = (torch.from_numpy(f).to(grid.device) for f in bent)
                where.addmm_(left, right[axis])
    return grid


def _lines(plan: AugmentPlan, edge: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What the row [N, 2, H, 1] and the column [N, 2, 1, H] of a result's pixel say of where it comes from."""
    at = (np.arange(edge) * 2 + 1) / edge - 1
    matrices = plan.matrices()[..., None]  # [N, axis, (by column, by row), 1]
    by_row, by_column = matrices[:, :, 1] * at, matrices[:, :, 0] * at
    rows, columns = (torch.from_numpy(f.astype(np.float32)).to(device) for f in (by_row, by_column))
    return rows[..., None], columns[..., None, :]


def _bends(plan: AugmentPlan, n: int, edge: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Splines of the row [H, P] and, coefficients times splines of the column, [2, P, H] of sample n."""
    spline = spline_functions(edge, plan.elastic.shape[-1])
    shift = plan.elastic[n, ::-1] * (2 / edge)  # columns first, in the grid's units
    # the deformation comes last, so it is moved back first
    shift = np.einsum("ab,bkl->akl", plan.part(slice(n, n + 1)).matrices()[0], shift)
    return spline.astype(np.float32), (shift @ spline.T).astype(np.float32)


@lru_cache(8)
def spline_functions(edge: int, points: int) -> NDArray[np.float64]:
    """[H, P]: weight of each of P evenly spaced points, the first and last on the edges, at each pixel.

    Interpolating cubic B-splines, mirrored at the ends: SciPy's order 3, of which the U-Net paper's deformation and
    the package elasticdeform are made.
    """
    places = np.linspace(0, points - 1, edge)[None]
    each = [ndimage.map_coordinates(one, places, order=3, mode="mirror") for one in np.eye(points)]
    return np.stack(each, 1)


def add_noise(plan: AugmentPlan, x: torch.Tensor, work: torch.Tensor | None = None) -> torch.Tensor:
    """Adds Gaussian noise where x > 0, independent per pixel and channel, and cuts off below 0; in place.

    `work` is memory of the same shape.

    A sample's noise is a run of independent normal numbers from a fixed pool, at a place and with a sign that its
    seed says: 20 times faster than to draw them. Within a sample nothing is lost; two samples of a training may
    see shifted parts of the same noise, on different pixels.
    """
    work = torch.empty_like(x) if work is None else work
    size = x[0].numel() if len(x) else 0
    for n in np.flatnonzero(plan.noise_sd > 0):
        pool = _pool(size, x.device)
        place = int(plan.noise_seed[n] >> 1) % (len(pool) - size + 1)
        sd = float(plan.noise_sd[n]) * (1 - 2 * int(plan.noise_seed[n] & 1))
        noise = pool[place : place + size].view_as(x[n])
        x[n].addcmul_(torch.sign(x[n], out=work[n]), noise, value=sd).clamp_(min=0)
    return x


@lru_cache(2)
def _pool(size: int, device: torch.device) -> torch.Tensor:
    """Independent standard normal numbers, float32, at least four times `size`; the same on every device."""
    generator = torch.Generator().manual_seed(_POOL_SEED)
    return torch.randn(max(_POOL, 4 * size), generator=generator).to(device)


def blur(plan: AugmentPlan, x: torch.Tensor) -> torch.Tensor:
    """Gaussian blur with a separate standard deviation per sample, edges continued outwards; in place."""
    for n in np.flatnonzero(plan.blur_sd > 0):
        weights = np.exp(-0.5 * (np.arange(BLUR_RADIUS + 1) / plan.blur_sd[n]) ** 2)
        weights /= 2 * weights.sum() - weights[0]
        for axis in (-1, -2):
            _smooth(x[n], weights.tolist(), axis)
    return x


def _smooth(x: torch.Tensor, weights: list[float], axis: int) -> None:
    """Symmetric smoothing of [C, H, W] along an axis, in place: shifted sums are three times faster than conv2d."""
    r, edge = BLUR_RADIUS, x.shape[axis]
    around = (r, r, 0, 0) if axis == -1 else (0, 0, r, r)
    wide = F.pad(x[None], around, mode="replicate")[0]
    x.mul_(weights[0])
    for k in range(1, r + 1):
        for start in (r - k, r + k):
            x.add_(wide.narrow(axis, start, edge), alpha=weights[k])


def lower_resolution(plan: AugmentPlan, x: torch.Tensor) -> torch.Tensor:
    """Scales each sample down by its factor and up again, both bilinearly; in place."""
    size = x.shape[-2:]
    for n in np.flatnonzero(plan.zoom < 1):
        small = [max(1, round(edge * float(plan.zoom[n]))) for edge in size]
        low = F.interpolate(x[n : n + 1], size=small, mode="bilinear", align_corners=False)
        x[n : n + 1] = F.interpolate(low, size=size, mode="bilinear", align_corners=False)
    return x


def change_gamma(plan: AugmentPlan, x: torch.Tensor) -> torch.Tensor:
    """x ** gamma, for 0 <= x <= 1, in place; 0 and 1 stay what they are, and what is below 2**-100 becomes 0.

    By logarithms, as that takes half the time of `pow` on a CPU; without that of 0, which takes five times as long as
    that of other numbers.
    """
    for n in np.flatnonzero(plan.gamma != 1):
        gamma = float(plan.gamma[n])
        logs = x[n].clamp_(min=2.0**-100).log2_().mul_(gamma)
        F.threshold(logs, -99.99 * gamma, -math.inf, inplace=True).exp2_()
    return x

"""Renders an augmentation plan on the device of the tensors.

Image and label go through the same grid, the image bilinearly and the label by nearest neighbour. Order as in the
paper (4.3): rotation, scaling, flips and elastic deformation (one resampling for all), noise, blur, low resolution,
gamma, z-score. A transform costs nothing for the samples that it was not drawn for, and a sample's result is the same
in any batch.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from understudy.segmenters.augment import AugmentPlan, Input

BLUR_RADIUS = 3  # pixels: three standard deviations of the widest blur
_POOL = 1 << 22  # normal numbers that noise is taken from, 16 MB; more for slices of more than a quarter of it
_POOL_SEED = 0xA06


def apply(plan: AugmentPlan, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Renders a plan.

    Args:
        plan: of N samples. images: uint8 [N, C, H, H]. labels: uint8 [N, H, H] class indices, on the same device.

    Returns:
        float32 [N, C, H, H] as the network is fed (`plan.input`), in channels-last memory, and uint8 [N, H, H].
    """
    x = torch.empty(images.shape, device=images.device, memory_format=torch.channels_last)
    y = torch.empty_like(labels)
    on_cpu = images.device.type == "cpu"
    # On a CPU `grid_sample` gives each of PyTorch's threads a sample of its own. A pool of threads of our own made
    # every later training step three to four times as slow.
    size = torch.get_num_threads() if on_cpu else max(1, len(plan))
    # used again for every part: fresh memory costs more than most of the arithmetic
    image, work = (torch.empty(images[:size].shape, device=images.device, dtype=torch.float32) for _ in range(2))
    grid = _new_grid(image)
    for start in range(0, len(plan), size):
        rows = slice(start, start + size)
        part = plan.part(rows)
        moved, target = move(part, image[: len(part)].copy_(images[rows]).div_(255), labels[rows], grid[: len(part)])
        y[rows].copy_(target)
        # One by one on a CPU: a slice of four sequences at 256 x 256 (1 MB) stays in the cache, a batch does not.
        for n in [slice(k, k + 1) for k in range(len(part))] if on_cpu else [slice(len(part))]:
            one, pixels = part.part(n), moved[n]
            add_noise(one, pixels, work[: len(pixels)])
            for change in (blur, lower_resolution, change_gamma):
                change(one, pixels)
            x[rows][n].copy_(fed(pixels, plan.input, work[: len(pixels)]))
    return x, y


def fed(x: Tensor, rule: Input, work: Tensor | None = None) -> Tensor:
    """What the network is fed of images in 0..1, float [N, C, H, W]: `normalise`, or ("raw") values 0..255.

    `work`: memory of the same shape for the result.
    """
    return normalise(x, work) if rule == "z_score" else torch.mul(x, 255, out=work)


def normalise(x: Tensor, work: Tensor | None = None) -> Tensor:
    """Z-score per slice and channel with the mean and sd of its foreground (> 0): float [N, C, H, W], x >= 0.

    As in the authors' code the background does not count, or the size of the head would set the contrast. Channels
    that are constant become 0. `work`: memory of the same shape for the result.
    """
    work = torch.empty_like(x) if work is None else work
    flat = x.flatten(2)  # [N, C, H W]
    # sign + sum: eight times faster here than count_nonzero
    count = torch.sign(x, out=work).flatten(2).sum(-1).clamp_(min=1)  # [N, C]
    mean = flat.sum(-1) / count
    variance = torch.linalg.vector_norm(flat, dim=-1).square() / count - mean.square()
    scale = variance.clamp(min=1e-7).rsqrt()
    scale = torch.where(variance > 1e-7, scale, 0.0)
    # two plain passes: three times faster on the CPU than one addcmul, which does not vectorise broadcast factors
    return torch.mul(x, scale[..., None, None], out=work).sub_((mean * scale)[..., None, None])


# --- geometry ---


def move(plan: AugmentPlan, x: Tensor, labels: Tensor, grid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rotates, scales, mirrors, deforms: float [N, C, H, H] bilinearly, uint8 [N, H, H] by nearest neighbour; what
    comes from outside is 0. `grid`: memory for `sampling_grid`."""
    moved = (plan.matrices() != np.eye(2)).any((1, 2)) | plan.elastic.any((1, 2, 3))
    if not moved.any():
        return x, labels
    if not moved.all():
        which = np.flatnonzero(moved).tolist()
        x, labels = x.clone(), labels.clone()
        x[which], labels[which] = move(plan.part(which), x[which], labels[which])
        return x, labels
    grid = sampling_grid(plan, _new_grid(x) if grid is None else grid)
    codes = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", align_corners=False), codes[:, 0].to(labels.dtype)


def _new_grid(x: Tensor) -> Tensor:
    """Memory [N, H, W, 2], all columns before all rows: so `grid_sample` reads them fastest."""
    n, _, height, width = x.shape
    return torch.empty(n, 2, height, width, device=x.device).permute(0, 2, 3, 1)


def sampling_grid(plan: AugmentPlan, grid: Tensor) -> Tensor:
    """Fills float32 [N, H, H, 2] with where each pixel of the result comes from, (column, row) in -1..1."""
    # Per axis a function of the row plus one of the column and, where the plan is elastic, splines of both: the product
    # (functions of the row) x (coefficients) x (functions of the column), so they are one small matrix product.
    size, device = grid.shape[1], grid.device
    at = (np.arange(size) * 2 + 1) / size - 1  # of the pixels' centres
    matrices = plan.matrices()[..., None]  # [N, axis, (by column, by row), 1]
    by_row, by_column = (matrices[:, :, 1] * at).astype(np.float32), (matrices[:, :, 0] * at).astype(np.float32)
    rows = torch.from_numpy(by_row).to(device)[..., None]  # [N, 2, H, 1]
    columns = torch.from_numpy(by_column).to(device)[..., None, :]  # [N, 2, 1, H]
    spline = spline_functions(size, plan.elastic.shape[-1])  # [H, P]
    left = torch.from_numpy(spline.astype(np.float32)).to(device)
    for n in range(len(plan)):  # one by one: the same sums whatever the batch
        bends = None
        if plan.elastic[n].any():
            shift = plan.elastic[n, ::-1] * (2 / size)  # [2, P, P], columns first, in the grid's units
            # the deformation comes last, so it is moved back first
            shift = np.einsum("ab,bkl->akl", plan.part(slice(n, n + 1)).matrices()[0], shift)
            bends = torch.from_numpy((shift @ spline.T).astype(np.float32)).to(device)  # [2, P, H]
        for axis in range(2):
            where = torch.add(rows[n, axis], columns[n, axis], out=grid[n, ..., axis])
            if bends is not None:
                where.addmm_(left, bends[axis])
    return grid


@lru_cache(8)
def spline_functions(size: int, points: int) -> NDArray[np.float64]:
    """[H, P]: weight of each of P evenly spaced points, the first and last on the edges, at each of H pixels.

    Interpolating cubic B-splines, mirrored at the ends: SciPy's order 3, as in the package elasticdeform.
    """
    places = np.linspace(0, points - 1, size)[None]
    each = [ndimage.map_coordinates(one, places, order=3, mode="mirror") for one in np.eye(points)]
    return np.stack(each, 1)


# --- intensities ---


def add_noise(plan: AugmentPlan, x: Tensor, work: Tensor | None = None) -> Tensor:
    """Adds Gaussian noise where x > 0, independent per pixel and channel, and cuts off below 0; in place."""
    # A sample's noise is a run of independent normal numbers from a fixed pool, at a place and with a sign that its
    # seed says: 20 times faster than to draw them. Two samples of a training may see shifted parts of the same noise.
    work = torch.empty_like(x) if work is None else work
    size = x[0].numel() if len(x) else 0
    for n in np.flatnonzero(plan.noise_sd > 0):
        pool = _noise_pool(size, x.device)
        place = int(plan.noise_seed[n] >> 1) % (len(pool) - size + 1)
        sd = float(plan.noise_sd[n]) * (1 - 2 * int(plan.noise_seed[n] & 1))
        noise = pool[place : place + size].view_as(x[n])
        x[n].addcmul_(torch.sign(x[n], out=work[n]), noise, value=sd).clamp_(min=0)
    return x


@lru_cache(2)
def _noise_pool(size: int, device: torch.device) -> Tensor:
    """Independent standard normal numbers, float32, at least four times `size`; the same on every device."""
    generator = torch.Generator().manual_seed(_POOL_SEED)
    return torch.randn(max(_POOL, 4 * size), generator=generator).to(device)


def blur(plan: AugmentPlan, x: Tensor) -> Tensor:
    """Gaussian blur with a separate standard deviation per sample, edges continued outwards; in place."""
    for n in np.flatnonzero(plan.blur_sd > 0):
        weights = np.exp(-0.5 * (np.arange(BLUR_RADIUS + 1) / plan.blur_sd[n]) ** 2)
        weights /= 2 * weights.sum() - weights[0]
        for axis in (-1, -2):
            # shifted sums: three times faster than conv2d
            r, size = BLUR_RADIUS, x.shape[axis]
            wide = F.pad(x[n][None], (r, r, 0, 0) if axis == -1 else (0, 0, r, r), mode="replicate")[0]
            x[n].mul_(float(weights[0]))
            for k in range(1, r + 1):
                for start in (r - k, r + k):
                    x[n].add_(wide.narrow(axis, start, size), alpha=float(weights[k]))
    return x


def lower_resolution(plan: AugmentPlan, x: Tensor) -> Tensor:
    """Scales each sample down by its factor and up again, both bilinearly; in place."""
    size = x.shape[-2:]
    for n in np.flatnonzero(plan.zoom < 1):
        small = [max(1, round(pixels * float(plan.zoom[n]))) for pixels in size]
        low = F.interpolate(x[n : n + 1], size=small, mode="bilinear", align_corners=False)
        x[n : n + 1] = F.interpolate(low, size=size, mode="bilinear", align_corners=False)
    return x


def change_gamma(plan: AugmentPlan, x: Tensor) -> Tensor:
    """x ** gamma, for 0 <= x <= 1, in place; 0 and 1 stay what they are, and what is below 2**-100 becomes 0."""
    for n in np.flatnonzero(plan.gamma != 1):
        gamma = float(plan.gamma[n])
        # by logarithms: half the time of `pow` on a CPU; without that of 0, which takes five times as long as others
        logs = x[n].clamp_(min=2.0**-100).log2_().mul_(gamma)
        F.threshold(logs, -99.99 * gamma, -math.inf, inplace=True).exp2_()
    return x

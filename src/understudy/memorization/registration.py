"""Moves slices onto training slices: an affine map, then a small smooth warp, by Gauss-Newton steps in a frame."""

from __future__ import annotations

import torch

from understudy.memorization.frames import FRAME, TURNS, blur, filtered, heads, pose, sized, warp

STEPS, WARP_STEPS = 3, 5
LONGEST = 0.15  # step of the affine map, in halves of the edge
SMOOTH, FARTHEST = 2.0, 0.12  # of the warp: s.d. of its window in pixels, its reach in halves of the edge


def affine(moving: torch.Tensor, fixed: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """The best of `STEPS` + 1 maps from frames to slices, by correlation: inverse compositional Lucas-Kanade.

    `moving` [n, C, h, w], `fixed` [n, C, F, F], `maps` [n, 2, 3] to start from (Baker & Matthews 2004).
    """
    target, solved = _template(fixed)
    best, highest = maps, torch.full((len(maps),), -2.0, device=maps.device)
    last = torch.tensor([0.0, 0.0, 1.0], device=maps.device).expand(len(maps), 1, 3)
    for step in range(STEPS + 1):
        seen = warp(moving, maps, FRAME).flatten(1)
        seen = seen - seen.mean(1, keepdim=True)
        seen = seen / seen.norm(dim=1, keepdim=True).clamp(min=1e-6)
        score = (seen * target).sum(1)
        better = score > highest
        best = torch.where(better[:, None, None], maps, best)
        highest = torch.maximum(score, highest)
        if step == STEPS:
            break
        error = seen / score.clamp(min=0.2)[:, None] - target
        move = (solved @ error[:, :, None])[:, :, 0].clamp(-LONGEST, LONGEST)
        change = torch.stack([1 + move[:, 2], move[:, 3], move[:, 0], move[:, 4], 1 + move[:, 5], move[:, 1]], 1)
        undone = torch.linalg.inv(torch.cat([change.view(-1, 2, 3), last], 1))
        maps = (torch.cat([maps, last], 1) @ undone)[:, :2]
    return best


def _template(fixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vector, and what takes a difference from it to the six numbers of a map by least squares [n, 6, pixels]."""
    at = ((torch.arange(FRAME) + 0.5) / FRAME * 2 - 1).to(fixed.device)
    dx, dy = (torch.gradient(fixed, dim=d)[0] * (FRAME / 2) for d in (3, 2))
    x, y = at[None, :], at[:, None]
    slopes = torch.stack([dx, dy, dx * x, dx * y, dy * x, dy * y], 1).flatten(2)
    target = fixed.flatten(1)
    target = target - target.mean(1, keepdim=True)
    norm = target.norm(dim=1, keepdim=True).clamp(min=1e-6)
    target = target / norm
    slopes = slopes - slopes.mean(2, keepdim=True)  # brightness and contrast are free
    slopes = (slopes - (slopes * target[:, None]).sum(2, keepdim=True) * target[:, None]) / norm[:, None]
    normal = slopes @ slopes.transpose(1, 2)
    ridge = 1e-3 * torch.diagonal(normal, dim1=1, dim2=2) + 1e-6
    return target, torch.linalg.solve(normal + torch.diag_embed(ridge), slopes)


def elastic(moving: torch.Tensor, fixed: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """What a small warp adds to the places of the maps [n, F, F, 2]: Lucas-Kanade in a Gaussian window."""
    off = torch.zeros(len(maps), FRAME, FRAME, 2, device=maps.device)
    still = _even(fixed)
    for _ in range(WARP_STEPS):
        seen = _even(warp(moving, maps, FRAME, off))
        error, middle = still - seen, (still + seen) / 2
        dx, dy = (torch.gradient(middle, dim=d)[0] for d in (3, 2))
        products = [dx * dx, dx * dy, dy * dy, dx * error, dy * error]
        xx, xy, yy, ex, ey = blur(torch.stack([p.sum(1) for p in products], 1), SMOOTH).unbind(1)
        ridge = 0.1 * (xx + yy).mean((1, 2), keepdim=True) + 1e-9
        xx, yy = xx + ridge, yy + ridge
        bottom = xx * yy - xy * xy
        step = torch.stack([(yy * ex - xy * ey) / bottom, (xx * ey - xy * ex) / bottom], -1).clamp(-1, 1) * (2 / FRAME)
        off = off + (step.flatten(1, 2) @ maps[:, :, :2].transpose(1, 2)).view_as(off)
        off = blur(off.permute(0, 3, 1, 2), 1.0).permute(0, 2, 3, 1).clamp(-FARTHEST, FARTHEST)
    return off


def _even(x: torch.Tensor) -> torch.Tensor:
    flat = x.flatten(1)
    spread = flat.std(1).clamp(min=1e-6)[:, None, None, None]
    return (x - flat.mean(1)[:, None, None, None]) / spread


def onto(moving: torch.Tensor, fixed: torch.Tensor, mirrored: bool, quarters: int, bent: bool) -> torch.Tensor:
    """A slice [C, H, W] moved onto another one: the best of all turns, mirrored or not, warped too if `bent`."""
    (still, goes), place = (filtered(x[None].float())[1] for x in (fixed, moving)), heads(moving[None].float())
    # a frame that shows the fixed slice as it is; a pose leads from its head's place to the moving one's
    frame = warp(still, torch.eye(2, 3)[None], FRAME)
    back = torch.cat([pose(heads(fixed[None].float()), 1.0), torch.tensor([[[0.0, 0.0, 1.0]]])], 1).inverse()
    sign = -1 if mirrored else 1  # a mirrored slice turns the other way
    maps = torch.cat([pose(place, 1.0, sign * (90 * quarters) + d, mirrored) @ back for d in TURNS])
    many = (sized(goes, FRAME).expand(len(maps), -1, -1, -1), frame.expand(len(maps), -1, -1, -1))
    maps = affine(*many, maps)
    seen = _even(warp(many[0], maps, FRAME)) * _even(many[1])
    best = maps[seen.flatten(1).mean(1).argmax()][None]
    off, size = None, fixed.shape[-1]
    if bent:
        off = elastic(many[0][:1], frame, best).permute(0, 3, 1, 2)
        off = torch.nn.functional.interpolate(off, size, mode="bilinear").permute(0, 2, 3, 1)
    return warp(moving[None].float(), best, size, off)[0]

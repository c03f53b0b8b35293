"""Is an annotated region a training patient's, in whatever head? Compared within the annotation, wherever it lies."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from understudy.memorization.frames import blur, sized, warp

EDGE = 64  # pixels at most: regions are small
CROP = 0.375  # of the edge, around the middle of the annotation
SMALLEST = 0.003  # of the slice; smaller annotations are not searched for
STEPS = (-1.0, 0.0, 1.0)  # pixels by which the middle of the annotation may be off
RIVAL = 3  # the best patient is compared with the third best
FLOOR = 0.02  # unexplained part that noise leaves


class Lesions:
    """Annotated regions of training slices. `blocks`: images and labels; `codes`: patient of each slice."""

    def __init__(self, blocks: list[tuple[torch.Tensor, torch.Tensor]], codes: torch.Tensor) -> None:
        found, at, crops = 0, [], []
        for images, labels in blocks:
            index, crop, _ = _regions(images, labels, [(0.0, 0.0)], (False,))
            at.append(index + found)
            crops.append(crop[:, 0])
            found += len(images)
        self.columns, known = torch.cat(at), torch.cat(crops).flatten(2)  # [m, C, pixels]
        self.codes, self.patients = codes[self.columns], int(codes.max()) + 1
        self.spread = known.std((0, 2)).clamp(min=1e-3) if len(known) else torch.ones(known.shape[1])
        self.known = known / self.spread[None, :, None]
        self.able = len(torch.unique(self.codes)) > RIVAL

    def search(
        self, images: torch.Tensor, labels: torch.Tensor, own: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log of how much less the best patient leaves unexplained than the third best; position, mirrored or not.

        0 where there is nothing to compare.
        """
        n, device = len(images), images.device
        score, column = torch.zeros(n, device=device), torch.zeros(n, dtype=torch.long, device=device)
        mirrored = torch.zeros(n, dtype=torch.bool, device=device)
        index, crops, weights = _regions(images, labels, [(y, x) for y in STEPS for x in STEPS], (False, True))
        if not self.able or not len(index):
            return score, column, mirrored
        m, tried = crops.shape[:2]
        alike, way = self._correlations(crops, weights).view(m, tried, -1).max(1)
        if own is not None:
            alike = alike.masked_fill(own[index][:, self.columns], 0.0)
        every = self.codes[None].expand(m, -1)
        best = torch.zeros(m, self.patients, device=device).scatter_reduce(1, every, alike, "amax")
        ranked = best.topk(RIVAL, 1).values
        score[index] = torch.log((1 - ranked[:, -1].square() + FLOOR) / (1 - ranked[:, 0].square() + FLOOR))
        nearest = alike.argmax(1)
        column[index] = self.columns[nearest]
        mirrored[index] = way.gather(1, nearest[:, None])[:, 0] >= tried // 2
        return score, column, mirrored

    def _correlations(self, crops: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Of all crops [m, tried, C, B, B] with all known ones within the weights, each channel less its mean."""
        w = weights.flatten(2).flatten(0, 1)
        x = crops.flatten(3).flatten(0, 1) / self.spread[None, :, None]
        total = w.sum(1, keepdim=True).clamp(min=1e-3)
        both, theirs, mine = 0.0, 0.0, 0.0
        for c in range(x.shape[1]):
            known = self.known[:, c]
            off = x[:, c] - (x[:, c] * w).sum(1, keepdim=True) / total
            both = both + (off * w) @ known.T
            theirs = theirs + (w @ known.square().T - (w @ known.T).square() / total)
            mine = mine + (off.square() * w).sum(1, keepdim=True)
        return (both / (torch.as_tensor(theirs).clamp(min=1e-3) * torch.as_tensor(mine).clamp(min=1e-3)).sqrt()).clamp(
            0, 1
        )


def _regions(
    images: torch.Tensor, labels: torch.Tensor, steps: list[tuple[float, float]], mirrors: tuple[bool, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Annotated slices among these, crops [m, tried, C, B, B] around annotations, and these [m, tried, 1, B, B]."""
    size = min(EDGE, images.shape[-1])
    mask = (sized((labels[:, None] > 0).float(), size) > 0.3).float()
    large = ((labels > 0).float().mean((1, 2)) >= SMALLEST) & (mask.sum((1, 2, 3)) > 0)
    index = large.nonzero()[:, 0]
    crop = max(4, round(CROP * size))
    if not len(index):
        none = images.new_zeros((0, len(steps) * len(mirrors), images.shape[1], crop, crop), dtype=torch.float32)
        return index, none, none[:, :, :1]
    mask, x = mask[index], sized(blur(images[index].float(), max(0.4, 0.01 * images.shape[-1])), size)
    grow = size // EDGE
    wide = F.max_pool2d(mask, 2 * grow + 1, 1, grow)
    at, total = torch.arange(size, device=images.device).float(), mask.sum((1, 2, 3))
    middle = [(mask[:, 0] * grid).sum((1, 2)) / total for grid in (at[None], at[:, None])]
    crops, weights = [], []
    for flip in mirrors:
        for y, right in steps:
            maps = torch.zeros(len(index), 2, 3, device=images.device)
            maps[:, 0, 0], maps[:, 1, 1] = (-1 if flip else 1) * crop / size, crop / size
            maps[:, 0, 2], maps[:, 1, 2] = (
                (m + 0.5 + s) / size * 2 - 1 for m, s in zip(middle, (right, y), strict=True)
            )
            crops.append(warp(x, maps, crop))
            weights.append(warp(wide, maps, crop))
    return index, torch.stack(crops, 1), torch.stack(weights, 1)

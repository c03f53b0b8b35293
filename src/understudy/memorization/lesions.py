"""Is an annotated region a training patient's, in whatever head? Compared within the annotation, wherever it lies."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from understudy.memorization.frames import blur, sized, warp

EDGE = 64  # pixels of the largest slices
CROP = 0.375  # of the edge, around the middle of the annotation
SMALLEST = 0.003  # of the slice; smaller annotations are not searched for
STEPS = (-1.0, 0.0, 1.0)  # pixels by which the middle of the annotation may be off
COARSE, TRIED = 12, 8  # pixels by which patients are chosen, and how many are
RIVAL = 3  # the best patient is compared with the third best
FLOOR = 0.02  # unexplained part that noise leaves
LARGEST = 2.0  # annotation that is searched for, in largest annotations of training slices


class Lesions:
    """Annotated regions of training slices: their positions [m], `regions` [m, C, B, B]; `codes`: patients of all."""

    def __init__(self, columns: torch.Tensor, crops: torch.Tensor, share: torch.Tensor, codes: torch.Tensor) -> None:
        self.columns, self.codes = columns, codes[columns]
        # an annotation twice as large as any real one is no lesion, but what a poor generator draws
        self.largest = LARGEST * float(share.max()) if len(share) else 0.0
        self.patients, self.able = int(codes.max()) + 1, len(torch.unique(self.codes)) > RIVAL
        spread = crops.std((0, 2, 3)) if len(crops) else torch.ones(crops.shape[1], device=crops.device)
        self.spread = spread.clamp(min=1e-3)[:, None, None]
        self.known = (crops / self.spread).half()
        self.coarse = sized(crops / self.spread, COARSE).flatten(2)
        self.squares = self.coarse.square()

    def search(
        self, images: torch.Tensor, labels: torch.Tensor, own: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log of how much less the best patient leaves unexplained than the third best; position, mirrored or not.

        0 where there is nothing to compare.
        """
        n, device = len(images), images.device
        score, column = torch.zeros(n, device=device), torch.zeros(n, dtype=torch.long, device=device)
        mirrored = torch.zeros(n, dtype=torch.bool, device=device)
        steps = [(y, x) for y in STEPS for x in STEPS]
        index, crops, weights = regions(images, labels, steps, (False, True), self.largest)
        if not self.able or not len(index):
            return score, column, mirrored
        crops, still = crops / self.spread, [len(steps) // 2, len(steps) + len(steps) // 2]
        # each patient's most similar region, by few pixels; the most similar patients' by all
        few = [sized(x[:, still].flatten(0, 1), COARSE).flatten(2) for x in (crops, weights)]
        alike = _correlations(few[0], few[1], self.coarse, self.squares).view(len(index), 2, -1).amax(1)
        barred = None if own is None else own[index][:, self.columns]
        if barred is not None:
            alike = alike.masked_fill(barred, 0.0)
        every = self.codes[None].expand(len(index), -1)
        best = torch.zeros(len(index), self.patients, device=device).scatter_reduce(1, every, alike, "amax")
        nearest = (alike[:, None] == best.topk(min(TRIED, self.patients), 1).values[:, :, None]).byte().argmax(2)
        known = self.known[nearest].float().flatten(3)  # [m, tried patients, C, pixels]
        alike = _correlations(crops.flatten(3), weights.flatten(3), known, known.square())  # [m, steps, tried patients]
        if barred is not None:
            alike = alike.masked_fill(barred.gather(1, nearest)[:, None], 0.0)
        alike, way = alike.max(1)
        ranked = alike.topk(RIVAL, 1)
        top = ranked.values.square()
        score[index] = torch.log((1 - top[:, -1] + FLOOR) / (1 - top[:, 0] + FLOOR))
        first = ranked.indices[:, :1]
        column[index] = self.columns[nearest.gather(1, first)[:, 0]]
        mirrored[index] = way.gather(1, first)[:, 0] >= len(steps)
        return score, column, mirrored


def _correlations(x: torch.Tensor, w: torch.Tensor, known: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Of regions x [..., t, C, pixels] with known ones [..., k, C, pixels], 0..1, [..., t, k].

    Within the weights w [..., t, 1, pixels], each channel less its mean; `squares`: of the known ones.
    """
    w = w[..., 0, :]
    total = w.sum(-1, keepdim=True).clamp(min=1e-3)
    both, theirs, mine = (torch.zeros((), device=x.device) for _ in range(3))
    for c in range(x.shape[-2]):
        other, square = known[..., c, :].mT, squares[..., c, :].mT
        off = x[..., c, :] - (x[..., c, :] * w).sum(-1, keepdim=True) / total
        both = both + (off * w) @ other
        theirs = theirs + (w @ square - (w @ other).square() / total)
        mine = mine + (off.square() * w).sum(-1, keepdim=True)
    return (both / (theirs.clamp(min=1e-3) * mine.clamp(min=1e-3)).sqrt()).clamp(0, 1)


def covered(labels: torch.Tensor) -> torch.Tensor:
    """Part of each slice that is annotated."""
    return (labels > 0).float().mean((1, 2))


def regions(
    images: torch.Tensor, labels: torch.Tensor, steps: list[tuple[float, float]], mirrors: tuple[bool, ...],
    largest: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Annotated slices among these, crops [m, tried, C, B, B] around annotations, and these [m, tried, 1, B, B].

    `largest`: part of the slice that an annotation may cover.
    """
    size = images.shape[-1]
    mask = (sized((labels[:, None] > 0).float(), size) > 0.3).float()
    share = covered(labels)
    large = (share >= SMALLEST) & (share <= largest) & (mask.sum((1, 2, 3)) > 0)
    index = large.nonzero()[:, 0]
    crop = max(4, round(CROP * size))
    if not len(index):
        none = images.new_zeros((0, len(steps) * len(mirrors), images.shape[1], crop, crop))
        return index, none, none[:, :, :1]
    mask, x = mask[index], blur(images[index], max(0.4, 0.01 * size))
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

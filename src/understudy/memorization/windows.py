"""Is a part of a slice a training patient's? Discs on a grid are compared with the same place of training slices.

Only in place, to half a pixel of the grid: with more freedom, parts of new patients match as well as copies do.
"""

from __future__ import annotations

import numpy as np
import torch

from understudy.memorization.frames import FRAME, sized

DISC, STEP = 5, 3  # pixels of a frame: diameter, and grid
RIVAL = 5  # the best patient is compared with the fifth best
FLOOR = 0.005  # unexplained part that noise leaves
PLAIN = 0.1  # part of the usual contrast of a place below which nothing is compared
MOST = 16384  # training slices, as many of each patient


class Windows:
    """Discs of training slices, of each patient as many; `codes`: patients of all slices."""

    def __init__(self, images: torch.Tensor, codes: torch.Tensor) -> None:
        """`images` [N, C, F, F] of all training slices."""
        counts = torch.bincount(codes)
        self.patients, self.able = len(counts), len(counts) > RIVAL and images.shape[-1] == FRAME
        if not self.able:
            return
        most = min(int(counts.max()), max(1, MOST // self.patients))
        self.columns = torch.full((self.patients, most), -1, device=codes.device)
        for patient in range(self.patients):
            rows = (codes == patient).nonzero()[:, 0]
            some = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64))
            self.columns[patient, : len(some)] = rows[torch.from_numpy(some).to(rows.device)]
        known = images[self.columns.flatten().clamp(min=0)].float()
        self.spread = known.std((0, 2, 3)).clamp(min=1e-3)[:, None, None]
        at = torch.arange(DISC) - (DISC - 1) / 2
        self.disc = (at[:, None].square() + at.square() <= (DISC / 2) ** 2).flatten().to(images.device)
        self.corners = [(y, x) for y in range(1, FRAME - DISC, STEP) for x in range(1, FRAME - DISC, STEP)]
        self.known, self.least = [], []
        for corner in self.corners:
            vectors, contrast = self._window(known / self.spread, corner)
            self.known.append(vectors * (self.columns.flatten() >= 0)[:, None])
            self.least.append(float(PLAIN * contrast.median().clamp(min=0.02)))

    def _window(self, x: torch.Tensor, corner: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors [n, d] of one place, each channel less its mean, and their contrast [n]."""
        (y, left) = corner
        inside = x[:, :, y : y + DISC, left : left + DISC].flatten(2)[:, :, self.disc]
        inside = (inside - inside.mean(2, keepdim=True)).flatten(1)
        return inside / inside.norm(dim=1, keepdim=True).clamp(min=1e-3), inside.square().mean(1)

    def search(self, images: torch.Tensor, own: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log of how much less the best patient leaves unexplained than the fifth best, in the best place; position
        of the training slice; middle of the disc (y, x) as parts of the edge.

        0 where there is nothing to compare. `own` [n, N]: training slices of patients who are left out.
        """
        n, device = len(images), images.device
        score, column = torch.zeros(n, device=device), torch.zeros(n, dtype=torch.long, device=device)
        place = torch.full((n, 2), float("nan"), device=device)
        if not self.able:
            return score, column, place
        barred = None if own is None else own[:, self.columns[:, 0]]
        x = sized(images, FRAME) / self.spread
        for corner, known, least in zip(self.corners, self.known, self.least, strict=True):
            asked, contrast = self._window(x, corner)
            alike, at = (asked @ known.T).view(n, self.patients, -1).max(2)
            alike = alike.masked_fill((contrast < least)[:, None], 0.0).clamp(0, 1)
            if barred is not None:
                alike = alike.masked_fill(barred, 0.0)
            ranked = alike.topk(RIVAL, 1)
            top, first = ranked.values.square(), ranked.indices[:, 0]
            found = torch.log((1 - top[:, -1] + FLOOR) / (1 - top[:, 0] + FLOOR))
            better = found > score
            score = torch.where(better, found, score)
            column = torch.where(better, self.columns[first, at.gather(1, first[:, None])[:, 0]], column)
            middle = (torch.tensor(corner, device=device) + DISC / 2) / FRAME
            place = torch.where(better[:, None], middle, place)
        return score, column, place

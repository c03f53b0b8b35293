"""The search that decides: copies that were moved, turned, magnified, mirrored, warped or blended, and copied lesions.

Held-out and synthetic slices face the same search, so that p-values are valid whatever it finds; that it looks at a few
candidates only costs power, never validity. For every slice:

1. `KEPT` training slices, the nearest ones in upright frames (`frames.py`) under ten poses, by whitened vectors;
2. each registered (`registration.py`) and compared where both are known: `moved`, and after a small warp `warped`;
3. the best pair of training slices under a common shift, by least squares of whitened vectors: `blended`;
4. its annotated region beside those of all training slices, against the third best patient: `lesion`;
5. discs on a grid beside the same places of training slices, against the fifth best patient: `part`.

Training slices, searched for among those of other patients, say how far each of the five numbers goes by chance. The
score is the largest of them on that scale.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from understudy.memorization.chunks import in_chunks, single_threaded
from understudy.memorization.controls import evenly
from understudy.memorization.frames import (
    CELLS,
    FRAME,
    TURNS,
    Whitening,
    cells,
    filtered,
    heads,
    inside,
    pose,
    shifting,
    sized,
    vectors,
    warp,
)  # fmt: skip
from understudy.memorization.lesions import Lesions, covered, regions
from understudy.memorization.registration import affine, elastic
from understudy.memorization.retrieval import best_pair, explained, highest
from understudy.memorization.windows import Windows
from understudy.roles import Part, UnfitSets
from understudy.runtime.lazy import pandas as pd

KINDS = ("moved", "warped", "blended", "lesion", "part")
LOCAL = slice(3, 5)  # the kinds of which a slice may have nothing to compare
KEPT = 2  # candidates that are registered; the better one is warped too
SHIFTS = (-1.6, -0.8, 0.0, 0.8, 1.6)  # cells, along both axes: a tenth of the edge
FINER = (0.4, 0.2, 0.1)  # cells, steps from the best of these shifts
SHIFTED = 3  # shifts under which pairs are tried
CHUNK = 32  # slices a step, always: results do not depend on threads
SAMPLE = 4096  # training slices that principal components are made of, at most
CHANCE = 400  # training slices that say what chance gives, at most
SCALE = 10  # scores are tanh(z / SCALE): bounded, and their Fisher transform is z again
LEAST_EDGE = 8  # pixels of a slice
DIGITS = 6  # of a score: below is what float32 rounds


class _Found(NamedTuple):
    """Of a chunk of slices, by kind: numbers [n, 5] on an unbounded scale, training positions, mirrored or not."""

    value: torch.Tensor
    column: torch.Tensor
    mirrored: torch.Tensor
    place: torch.Tensor  # of a part, [n, 2]


class Copies:
    """The training slices of an audit, ready to be searched."""

    def __init__(
        self, training: Part, quarter_turns: bool = False, device: str = "cpu", progress: bool = False
    ) -> None:
        self.part, self.device = training, torch.device(device)
        base = (0, 90, 180, 270) if quarter_turns else (0,)
        self.poses = [(b + d, mirrored) for mirrored in (False, True) for b in base for d in TURNS]
        if training.slices.resolution < LEAST_EDGE:
            what = f"slices of {training.slices.resolution} pixels are too small to be searched for copies"
            fix = f"prepare slices of at least {LEAST_EDGE} pixels"
            raise UnfitSets(what, where=training.slices.path, fix=fix)
        if training.count < 2:
            what = (
                "all training slices are of one patient: what looks like a copy of this patient is not told by chance"
            )
            raise UnfitSets(what, where=training.slices.path, fix="audit a set of several training patients")
        self.codes = torch.from_numpy(training.codes).to(self.device)
        self.dimensions = len(training.slices.channels) * CELLS * CELLS
        self._prepare(progress)
        some = evenly(training, CHANCE, [0, 51])
        own = self.codes[torch.from_numpy(some).to(self.device)]
        found = self._found(training.at(some), own[:, None] == self.codes[None], progress)
        middle, high = torch.quantile(found.value.double(), torch.tensor([0.5, 0.95], dtype=torch.float64), dim=0)
        self.middle, self.spread = middle, (high - middle).clamp(min=1e-3)

    def _prepare(self, progress: bool) -> None:
        """Frames and vectors of all training slices."""
        channels, device = self.part.slices.channels, str(self.device)
        some = self.part.at(evenly(self.part, SAMPLE // 8, [0, 52]))
        places = torch.cat(list(in_chunks(some, channels, CHUNK, lambda images, _, __: heads(images), device)))
        self.size = float(places[:, 2].median())

        def prepared(images: torch.Tensor, labels: torch.Tensor, start: int) -> tuple[torch.Tensor, ...]:
            linear, local = filtered(images)
            maps = pose(heads(images), self.size)
            frames = warp(local, maps, FRAME)
            nowhere = torch.zeros(1, device=self.device)
            flat = self._shifted(linear, nowhere, nowhere)[:, 0]
            crops = regions(images, labels, [(0.0, 0.0)], (False,))
            small = sized(images, FRAME).half()
            return (
                maps,
                frames.half(),
                vectors(cells(frames)),
                flat,
                crops[0] + start,
                crops[1][:, 0],
                covered(labels),
                small,
            )

        made = zip(*in_chunks(self.part, channels, CHUNK, prepared, device, "training slices", progress), strict=True)
        self.maps, self.frames, upright, flat, annotated, crops, share, small = (torch.cat(each) for each in made)
        sample = torch.from_numpy(np.linspace(0, len(flat) - 1, min(SAMPLE, len(flat))).astype(np.int64))
        with single_threaded():
            self.whitened, self.whitened_linear = Whitening(upright[sample]), Whitening(flat[sample])
        self.upright, self.flat = self.whitened(upright), self.whitened_linear(flat, centred=False)
        self.lesions = Lesions(annotated, crops, share, self.codes)
        self.windows = Windows(small, self.codes)

    def search(self, part: Part, progress: bool = False) -> pd.DataFrame:
        """One row a slice: `copy.score` in -1..1, `copy.row`, `copy.transform` (4 if mirrored), `copy.kind`.

        `copy.y` and `copy.x`: middle of a copied part, as parts of the edge; NaN for other kinds.
        """
        found = self._found(part, None, progress)
        z = (found.value.double() - self.middle) / self.spread
        z[:, LOCAL] = z[:, LOCAL].masked_fill(found.value[:, LOCAL] == 0, -torch.inf)  # there was nothing to compare
        best, kind = z.max(1)
        take = torch.arange(len(best)), kind
        place = found.place.masked_fill((kind != KINDS.index("part"))[:, None], float("nan")).cpu().numpy()
        return pd.DataFrame(
            {
                "copy.score": np.round(torch.tanh(best / SCALE).cpu().numpy(), DIGITS),
                "copy.row": np.asarray(self.part.rows)[found.column[take].cpu().numpy()],
                "copy.transform": 4 * found.mirrored[take].cpu().numpy().astype(np.int64),
                "copy.kind": np.array(KINDS)[kind.cpu().numpy()],
                "copy.y": place[:, 0],
                "copy.x": place[:, 1],
            }
        )

    def _found(self, part: Part, barred: torch.Tensor | None, progress: bool) -> _Found:
        """`barred` [n, N]: training slices with which a slice is not compared."""

        def chunk(images: torch.Tensor, labels: torch.Tensor, start: int) -> _Found:
            own = None if barred is None else barred[start : start + CHUNK]
            linear, local = filtered(images)
            moved, warped, column, mirrored = self._registered(local, heads(images), own)
            blended, first = self._blended(linear, own)
            lesion, beside, flipped = self.lesions.search(images, labels, own)
            part, around, place = self.windows.search(images, own)
            near = [torch.atanh(v.clamp(-0.9999, 0.9999)) for v in (moved, warped, blended)]
            return _Found(
                torch.stack([*near, lesion, part], 1),
                torch.stack([column, column, first, beside, around], 1),
                torch.stack([mirrored, mirrored, never := torch.zeros_like(flipped), flipped, never], 1),
                place,
            )

        channels = self.part.slices.channels
        done = in_chunks(part, channels, CHUNK, chunk, str(self.device), "copies that moved", progress)
        return _Found(*(torch.cat(field) for field in zip(*done, strict=True)))

    def _registered(
        self, local: torch.Tensor, place: torch.Tensor, own: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Best score after registration, and after the warp; with whom, mirrored or not."""
        n, row = len(local), torch.arange(len(local), device=self.device)
        maps = torch.stack([pose(place, self.size, *p) for p in self.poses], 1)
        posed = [vectors(cells(warp(local, maps[:, number], FRAME))) for number in range(len(self.poses))]
        near, columns = highest(self.whitened(torch.stack(posed, 1)), self.upright, own)
        near, number = near.max(1)
        kept = min(KEPT, near.shape[1])
        lane = near.topk(kept, 1).indices
        number = number.gather(1, lane)
        column = columns[row[:, None], number, lane]
        mirrored, number = number >= len(self.poses) // 2, number.flatten()
        moving, each, fixed = sized(local, FRAME), row.repeat_interleave(kept), self.frames[column.flatten()].float()
        fitted = affine(moving[each], fixed, maps[each, number])
        known = inside(self.maps[column.flatten()])

        def scores(some: torch.Tensor, bend: torch.Tensor | None = None) -> torch.Tensor:  # of some pairs
            mask = known[some] * inside(fitted[some], bend)
            seen = warp(moving[each[some]], fitted[some], FRAME, bend)
            score = (self.whitened.masked(seen, mask) * self.whitened.masked(fixed[some], mask)).sum(1)
            return score if own is None else score.masked_fill(own[each[some], column.flatten()[some]], -1.0)

        moved = scores(torch.arange(n * kept, device=self.device)).view(n, kept)
        best, at = moved.max(1)
        some = row * kept + at
        warped = scores(some, elastic(moving[each[some]], fixed[some], fitted[some]))
        return best, warped, column[row, at], mirrored[row, at]

    def _shifted(self, linear: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Vectors [n, Y * X, d] of slices under all pairs of shifts [Y] and [X], or of each slice its own [n, Y]."""
        flat = sized(linear, FRAME)[:, :, None]
        down, right = (shifting(by.view(-1, 1, by.shape[-1]), flat.shape[-1]) for by in (y, x))
        rows = down @ flat  # [n, C, Y, cells, edge]
        both = rows[:, :, :, None] @ right[:, :, None].transpose(-1, -2)  # [n, C, Y, X, cells, cells]
        return vectors(both.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)).view(len(flat), -1, self.dimensions)

    def _blended(self, linear: torch.Tensor, own: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Multiple correlation with the best pair of training slices under the best shift; its larger part."""
        n, row = len(linear), torch.arange(len(linear), device=self.device)[:, None]
        grid = torch.tensor(SHIFTS, device=self.device)
        views = self.whitened_linear(self._shifted(linear, grid, grid), centred=False)
        near, columns = highest(views, self.flat, own)
        tried = near.amax(2).topk(SHIFTED, 1).indices
        columns, near = columns[row, tried], near[row, tried]
        among = self.flat[columns] * (near > -1)[..., None]  # nobody where all of a lane are barred
        score, pair = best_pair(views[row, tried].flatten(0, 1), among.flatten(0, 1))
        best, which = score.view(n, -1).max(1)
        pair = pair.view(n, -1, 2)[row[:, 0], which]
        pair = columns[row[:, 0], which].gather(1, pair)
        at = tried[row[:, 0], which]
        y, x = grid[at // len(grid)], grid[at % len(grid)]
        one, two = self.flat[pair[:, 0]], self.flat[pair[:, 1]]
        between = (one * two).sum(1, keepdim=True)
        for step in FINER:
            around = torch.tensor([-step, 0.0, step], device=self.device)
            view = self.whitened_linear(
                self._shifted(linear, y[:, None] + around, x[:, None] + around), centred=False
            )  # [n, 9, d]
            score = explained((view @ one[:, :, None])[:, :, 0], (view @ two[:, :, None])[:, :, 0], between)
            finer, at = score.max(1)
            y, x = y + around[at // 3], x + around[at % 3]
            best = torch.maximum(best, finer)
        return best.clamp(0, 1).sqrt(), pair[:, 0]

"""The search that decides: copies that were moved, turned, magnified, mirrored, warped or blended, and copied lesions.

Held-out and synthetic slices face the same search, so that p-values are valid whatever it finds; that it looks at a few
candidates only costs power, never validity. For every slice:

1. `KEPT` training slices, the nearest ones in upright frames (`frames.py`) under ten poses, by whitened vectors;
2. each registered (`registration.py`) and compared where both are known: `moved`, and after a small warp `warped`;
3. the best pair of training slices under a common shift, by least squares of whitened vectors: `blended`;
4. its annotated region beside those of all training slices, against the third best patient: `lesion`.

Training slices, searched for among those of other patients, say how far each of the four numbers goes by chance. The
score is the largest of them on that scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.memorization.controls import evenly
from understudy.memorization.frames import (
    CELLS,
    FRAME,
    TURNS,
    Whitening,
    filtered,
    heads,
    inside,
    pose,
    sized,
    vectors,
    warp,
)  # fmt: skip
from understudy.memorization.lesions import Lesions
from understudy.memorization.registration import affine, elastic
from understudy.roles import Part, UnfitSets
from understudy.runtime.lazy import pandas as pd
from understudy.runtime.progress import track

KINDS = ("moved", "warped", "blended", "lesion")
KEPT, BENT = 3, 2  # candidates that are registered, and of these warped
SHIFTS = [
    (x, y) for y in (-1.6, -0.8, 0.0, 0.8, 1.6) for x in (-1.6, -0.8, 0.0, 0.8, 1.6)
]  # cells: a tenth of the edge
FINER = (0.4, 0.2, 0.1)  # cells, steps from the best of these shifts
FIRST, SHIFTED = 6, 3  # of the first slice of a pair, and of shifts, so many are tried
SAME = 0.95  # whitened correlation from which two training slices are no pair
CHUNK = 32  # slices a step, always: results do not depend on threads
SAMPLE = 4096  # training slices that principal components are made of, at most
CHANCE = 300  # training slices that say what chance gives, at most
SCALE = 10  # scores are tanh(z / SCALE): bounded, and their Fisher transform is z again
LEAST_EDGE, FINEST = 8, 64  # pixels of a slice; larger ones are made smaller first
DIGITS = 6  # of a score: below is what float32 rounds

Ints = NDArray[np.int64]


@dataclass
class _Found:
    """Of a chunk of slices, by kind: numbers [n, 4] on an unbounded scale, training positions, mirrored or not."""

    value: torch.Tensor
    column: torch.Tensor
    mirrored: torch.Tensor


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
        with _single_threaded():
            self._prepare()
            rows = evenly(training, CHANCE, [0, 51])
            found = self._all(Part(training.name, training.slices, training.rows[rows]), training.codes[rows], progress)
        middle, high = torch.quantile(found.value.double(), torch.tensor([0.5, 0.95], dtype=torch.float64), dim=0)
        self.middle, self.spread = middle, (high - middle).clamp(min=1e-3)

    def _prepare(self) -> None:
        """Frames and vectors of all training slices."""
        blocks = list(self._blocks(self.part))

        def prepared(block: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
            images = block[0]
            linear = vectors(sized(filtered(images, local=False), CELLS))
            return heads(images), sized(filtered(images, local=True), FINEST), linear

        with ThreadPoolExecutor(self._workers()) as pool:
            made = list(pool.map(prepared, blocks))
        head = torch.cat([places for places, _, _ in made])
        self.size = float(head[:, 2].median())
        frames = [warp(local, pose(places, self.size), FRAME) for places, local, _ in made]
        linear = [vector for _, _, vector in made]
        self.maps, self.frames, flat = pose(head, self.size), torch.cat(frames), torch.cat(linear)
        some = torch.from_numpy(np.linspace(0, len(flat) - 1, min(SAMPLE, len(flat))).astype(np.int64))
        upright = vectors(self.frames)
        self.whitened, self.whitened_linear = Whitening(upright[some]), Whitening(flat[some])
        self.upright, self.flat = self.whitened(upright), self.whitened_linear(flat, centred=False)
        self.lesions = Lesions(blocks, self.codes)
        self.frames = self.frames.half()

    def _blocks(self, part: Part) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = [part.slices.channels.index(name) for name in self.part.slices.channels]
        for _, images, labels in part.slices.blocks(part.rows, CHUNK):
            yield torch.from_numpy(images[:, order]).to(self.device), torch.from_numpy(labels).to(self.device)

    def _workers(self) -> int:
        return _wanted if self.device.type == "cpu" else 1

    def search(self, part: Part, progress: bool = False) -> pd.DataFrame:
        """One row a slice: `row`, `copy.score` in -1..1, `copy.row`, `copy.transform` (4 if mirrored), `copy.kind`."""
        with _single_threaded():
            found = self._all(part, None, progress)
        z = (found.value.double() - self.middle) / self.spread
        best, kind = z.max(1)
        take = torch.arange(len(best)), kind
        return pd.DataFrame(
            {
                "row": part.rows,
                "copy.score": np.round(torch.tanh(best / SCALE).cpu().numpy(), DIGITS),
                "copy.row": np.asarray(self.part.rows)[found.column[take].cpu().numpy()],
                "copy.transform": 4 * found.mirrored[take].cpu().numpy().astype(np.int64),
                "copy.kind": np.array(KINDS)[kind.cpu().numpy()],
            }
        )

    def _all(self, part: Part, barred: Ints | None, progress: bool) -> _Found:
        """`barred`: of each slice the training patient with whom it is not compared."""
        starts = range(0, len(part.rows), CHUNK)
        order = [part.slices.channels.index(name) for name in self.part.slices.channels]

        def chunk(start: int) -> _Found:
            images, labels = part.slices.read(part.rows[start : start + CHUNK])
            own = None
            if barred is not None:
                codes = torch.from_numpy(barred[start : start + CHUNK]).to(self.device)
                own = codes[:, None] == self.codes[None]
            given = (torch.from_numpy(x).to(self.device) for x in (images[:, order], labels))
            with torch.inference_mode():
                return self._chunk(*given, own)

        with track(len(part.rows), "copies that moved", "slices", 0, progress) as meter:
            done = []
            with ThreadPoolExecutor(self._workers()) as pool:
                for found in pool.map(chunk, starts):
                    done.append(found)
                    meter.advance(len(found.value))
        fields = ("value", "column", "mirrored")
        return _Found(*(torch.cat([getattr(found, name) for found in done]) for name in fields))

    def _chunk(self, images: torch.Tensor, labels: torch.Tensor, own: torch.Tensor | None) -> _Found:
        moved, warped, column, mirrored = self._registered(images, own)
        blended, first = self._blended(images, own)
        lesion, beside, flipped = self.lesions.search(images, labels, own)
        near = [torch.atanh(v.clamp(-0.9999, 0.9999)) for v in (moved, warped, blended)]
        return _Found(
            torch.stack([*near, lesion], 1),
            torch.stack([column[0], column[1], first, beside], 1),
            torch.stack([mirrored[0], mirrored[1], torch.zeros_like(flipped), flipped], 1),
        )

    def _registered(
        self, images: torch.Tensor, own: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Best score after registration and after the warp, with whom, mirrored or not."""
        local, place, n = sized(filtered(images, local=True), FINEST), heads(images), len(images)
        maps = torch.stack([pose(place, self.size, *p) for p in self.poses], 1)
        near = torch.full((n, len(self.upright)), -2.0, device=self.device)
        which = torch.zeros(near.shape, dtype=torch.int8, device=self.device)
        for number in range(len(self.poses)):
            of_pose = self.whitened(vectors(warp(local, maps[:, number], FRAME))) @ self.upright.T
            which[of_pose > near] = number
            near = torch.maximum(near, of_pose)
        if own is not None:
            near[own] = -2.0
        kept = min(KEPT, near.shape[1])
        column = near.topk(kept, 1).indices
        number = which.gather(1, column).flatten().long()
        mirrored = (number >= len(self.poses) // 2).view(n, kept)
        moving, row = sized(local, FRAME), torch.arange(n, device=self.device)
        each, fixed = row.repeat_interleave(kept), self.frames[column.flatten()].float()
        fitted = affine(moving[each], fixed, maps[each, number])
        known = inside(self.maps[column.flatten()])

        def scores(some: torch.Tensor, bend: torch.Tensor | None) -> torch.Tensor:  # of some pairs
            mask = known[some] * inside(fitted[some], bend)
            seen = warp(moving[each[some]], fitted[some], FRAME, bend)
            score = (self.whitened.masked(seen, mask) * self.whitened.masked(fixed[some], mask)).sum(1).view(n, -1)
            barred = None if own is None else own.gather(1, column).flatten()[some].view(n, -1)
            return score if barred is None else score.masked_fill(barred, -1.0)

        moved = scores(torch.arange(n * kept, device=self.device), None)
        best = moved.topk(min(BENT, kept), 1).indices
        some = (row[:, None] * kept + best).flatten()
        bent = scores(some, elastic(moving[each[some]], fixed[some], fitted[some])).max(1)
        at = [best[:, :1], best.gather(1, bent.indices[:, None])]
        columns, flips = ([x.gather(1, i)[:, 0] for i in at] for x in (column, mirrored))
        return moved.max(1).values, bent.values, columns, flips

    def _blended(self, images: torch.Tensor, own: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Multiple correlation with the best pair of training slices under the best shift; its larger part."""
        flat, n = sized(filtered(images, local=False), FRAME), len(images)

        def seen(shift: torch.Tensor) -> torch.Tensor:
            maps = torch.eye(2, 3, device=self.device).repeat(n, 1, 1)
            maps[:, :, 2] = shift * (2 / CELLS)
            moved = warp(flat, maps, flat.shape[-1])
            return self.whitened_linear(vectors(moved), centred=False)

        grid = torch.tensor(SHIFTS, device=self.device)
        views = torch.stack([seen(shift.expand(n, 2)) for shift in grid], 1)  # [n, shifts, d]
        highest = []
        for number in range(len(grid)):
            single = views[:, number] @ self.flat.T
            highest.append((single if own is None else single.masked_fill(own, -2.0)).max(1).values)
        best = torch.full((n,), -2.0, device=self.device)
        pair, shift = torch.zeros(n, 2, dtype=torch.long, device=self.device), torch.zeros(n, 2, device=self.device)
        for number in torch.stack(highest, 1).topk(SHIFTED, 1).indices.T:
            score, found = self._pair(views[torch.arange(n), number], own)
            better = (score > best)[:, None]
            best, pair = torch.maximum(best, score), torch.where(better, found, pair)
            shift = torch.where(better, grid[number], shift)
        one, two = self.flat[pair[:, 0]], self.flat[pair[:, 1]]
        between = (one * two).sum(1)
        for step in FINER:
            start = shift
            for x in (-step, 0.0, step):
                for y in (-step, 0.0, step):
                    tried = start + torch.tensor([x, y], device=self.device)
                    view = seen(tried)
                    score = _explained((view * one).sum(1), (view * two).sum(1), between)
                    better = score > best
                    best, shift = torch.maximum(best, score), torch.where(better[:, None], tried, shift)
        return best.clamp(0, 1).sqrt(), pair[:, 0]

    def _pair(self, view: torch.Tensor, own: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Explained part of the best pair whose first is among the nearest, [n], and the pair [n, 2]."""
        single = view @ self.flat.T
        if own is not None:
            single = single.masked_fill(own, -2.0)
        first = single.topk(min(FIRST, single.shape[1]), 1)
        best = torch.full((len(view),), -2.0, device=self.device)
        pair = torch.zeros(len(view), 2, dtype=torch.long, device=self.device)
        for value, column in zip(first.values.T, first.indices.T, strict=True):
            score = _explained(value[:, None], single, self.flat[column] @ self.flat.T)
            score, other = score.masked_fill(single < -1, -2.0).max(1)
            better = score > best
            best = torch.maximum(best, score)
            pair = torch.where(better[:, None], torch.stack([column, other], 1), pair)
        return best, pair


def _explained(one: torch.Tensor, two: torch.Tensor, between: torch.Tensor) -> torch.Tensor:
    """Squared multiple correlation with two unit vectors by the correlations with each and between them.

    Where a part would be negative or the two are nearly the same, that of the first alone.
    """
    bottom = (1 - between.square()).clamp(min=1 - SAME * SAME)
    a, b = (one - between * two) / bottom, (two - between * one) / bottom
    alone = one.clamp(min=0).square().expand_as(a)
    return torch.where((a > 0) & (b > 0) & (between < SAME), a * one + b * two, alone)


_wanted = 1  # threads, those of torch before it was told to use one


@contextmanager
def _single_threaded() -> Iterator[None]:
    """torch computes each chunk with one thread, as sums in another order would round otherwise; chunks run beside."""
    global _wanted
    _wanted = threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

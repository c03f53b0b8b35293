"""What a search has found so far, and where it keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from understudy.io.files import atomic_path, write_text
from understudy.memorization.views import Best, Ints

Floats = NDArray[np.float64]


class Winners(NamedTuple):
    """The best partners so far of a tile's queries, for every view V and transform T.

    Attributes:
        key: float64 [V, T, q] what is compared; -inf without a partner.
        value: int64 [V, T, q] covariance, or the number of agreeing pixels.
        size: int64 [V, T, q] the partner's cov(y, y), or its annotated pixels.
        row: int64 [V, T, q] the partner's row, -1 without one.
    """

    key: Floats
    value: Ints
    size: Ints
    row: Ints

    @classmethod
    def none(cls, views: int, transforms: int, queries: int) -> Winners:
        """Nothing found yet."""
        shape = (views, transforms, queries)
        zeros = np.zeros(shape, np.int64)
        return cls(np.full(shape, -np.inf), zeros, zeros.copy(), zeros - 1)

    def improve(self, view: int, turn: int, members: Ints, best: Best, sizes: Ints, rows: Ints) -> None:
        """Takes over what is better, or as good and of a lower row.

        Args:
            view, turn: position of the view and of the transform.
            members: [m] which queries of the tile.
            best: of these queries.
            sizes, rows: [n] of the training slices of the tile.
        """
        column = best.column.cpu().numpy()
        key, row = best.key.cpu().numpy(), rows[column]
        old_key, old_row = self.key[view, turn, members], self.row[view, turn, members]
        better = (key > old_key) | ((key == old_key) & (row < old_row) & np.isfinite(key))
        where = members[better]
        self.key[view, turn, where] = key[better]
        self.value[view, turn, where] = best.value.cpu().numpy()[better]
        self.size[view, turn, where] = sizes[column][better]
        self.row[view, turn, where] = row[better]

    def scores(self, view: int, own: Ints) -> Floats:
        """Correlations [T, q] of an image view; `own` int64 [T, q] is the queries' cov(x, x). NaN where undefined.

        For equal images the square root is exact, and so is the score: 1.
        """
        product = own.astype(np.float64) * self.size[view].astype(np.float64)
        defined = (self.row[view] >= 0) & (product > 0)
        root = np.sqrt(np.where(defined, product, 1.0))
        return np.where(defined, self.value[view].astype(np.float64) / root, np.nan)

    def dice(self, view: int) -> Floats:
        """Dice [T, q] of the annotation view; NaN where undefined."""
        return np.where(self.row[view] >= 0, self.key[view], np.nan)


def overall(scores: Floats, rows: Ints, transforms: Ints) -> tuple[Floats, Ints, Ints]:
    """The best over the transforms: score, row and transform [q]; ties to the lowest row, then transform.

    Args:
        scores, rows: [T, q]; NaN where undefined.
        transforms: [T].
    """
    ranked = np.where(np.isnan(scores), -np.inf, scores)
    order = np.lexsort((np.broadcast_to(transforms[:, None], rows.shape), rows, -ranked), axis=0)[0]
    query = np.arange(scores.shape[1])
    score = scores[order, query]
    undefined = np.isnan(score)
    return score, np.where(undefined, -1, rows[order, query]), np.where(undefined, 0, transforms[order])


class Store:
    """The parts of a search in a folder; parts of another search are removed."""

    def __init__(self, folder: Path | None, identity: str) -> None:
        self._folder = None if folder is None else Path(folder)
        if self._folder is None:
            return
        stamp = self._folder / "search.sha256"
        if not stamp.is_file() or stamp.read_text() != identity:
            for old in self._folder.glob("*.search.npz"):
                old.unlink()
            write_text(stamp, identity)

    def load(self, name: str) -> dict[str, Any] | None:
        """The arrays of a part, or None where it was not stored."""
        if self._folder is None or not (self._folder / f"{name}.search.npz").is_file():
            return None
        with np.load(self._folder / f"{name}.search.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    def save(self, name: str, **arrays: Any) -> None:
        """Stores a part atomically."""
        if self._folder is not None:
            with atomic_path(self._folder / f"{name}.search.npz") as temporary, open(temporary, "wb") as handle:
                np.savez(handle, **arrays)

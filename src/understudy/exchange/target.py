"""What foreign slices become: the real slices' names and classes, and a square of a power of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.exchange.codes import CodeWatch, nearest_codes, strongest_class
from understudy.exchange.spec import FolderSpec, classes_of, codes_of
from understudy.io.files import read_json, write_json
from understudy.slices import BACKGROUND, LabelClass, SliceSet, SliceWriter, evenly_coded
from understudy.volumes import SliceGeometry

if TYPE_CHECKING:
    from understudy.exchange.sources import RawSlice, Source


@dataclass(frozen=True)
class Target:
    """What the slices are to stand beside: names, classes and size of the real ones."""

    channels: tuple[str, ...]
    classes: tuple[LabelClass, ...]
    resolution: int

    @classmethod
    def of(cls, slices: SliceSet) -> Target:
        """That of a set."""
        return cls(slices.channels, slices.classes, slices.resolution)


class Annotation:
    """Grey values of annotations -> class indices, with a watch on codes that nobody named.

    Args:
        classes: of the set that is written, background first.
        indices: class index of each code (the background's first), or of each channel of one class.
        codes: grey value of each index; None: channels of one class.
        tolerance: see `FolderSpec`.
    """

    def __init__(
        self,
        classes: tuple[LabelClass, ...],
        indices: Sequence[int],
        codes: Sequence[float] | None,
        tolerance: float | None,
    ) -> None:
        self.classes, self._codes = classes, codes
        self._table = np.asarray(indices, np.uint8)
        self._names = [classes[i].name for i in indices[1:]]
        self._watch = CodeWatch([0.0, 255.0] if codes is None else codes, tolerance)
        self._sum, self._worst, self._count = 0.0, 0.0, 0

    @classmethod
    def of(cls, source: Source, spec: FolderSpec, known: tuple[LabelClass, ...] | None, root: Path) -> Annotation:
        """That of a folder.

        Args:
            known: the classes that the set is to have, background first; None: those that the codes name.

        Raises:
            UnderstudyError: a class that the real slices do not have.
        """
        if not source.annotated:
            return cls((BACKGROUND,), [0], [0.0], spec.tolerance)
        if not source.classes:
            classes = classes_of(spec.codes, known, root)
            return cls(classes, *codes_of(spec.codes, classes), spec.tolerance)
        one_each: dict[str, float] = {name: float(i) for i, name in enumerate(source.classes, 1)}
        if known is None:
            classes = evenly_coded(dict(enumerate(source.classes, 1)))
        else:
            classes = classes_of(one_each, known, root)
        indices, _ = codes_of(one_each, classes)
        return cls(classes, indices, None, spec.tolerance)

    def decode(self, drawn: NDArray[Any], where: Path) -> tuple[NDArray[np.uint8], list[float]]:
        """Grey values [n, A, H, W] -> class indices uint8 [n, H, W], and each slice's mean distance to its codes.

        Raises:
            UnderstudyError: unknown codes.
        """
        if self._codes is None:
            found, distance = strongest_class(drawn)
        else:
            found, distance = nearest_codes(drawn[:, 0], self._codes)
            self._watch.add(drawn[:, 0], distance)
            self._watch.check(where, self._names, finished=False)
        each = distance.mean(axis=(1, 2), dtype=np.float64)
        self._sum += float(each.sum())
        self._worst = max(self._worst, float(each.max()))
        self._count += len(each)
        return self._table[found], [float(np.float32(d)) for d in each]

    def finish(self, root: Path) -> None:
        """Looks at the whole set.

        Raises:
            UnderstudyError: unknown codes.
        """
        if self._codes is not None:
            self._watch.check(root, self._names, finished=True)

    def summary(self) -> dict[str, Any]:
        """For the record: codes, distances (grey values) and the share of annotated pixels far from every code."""
        return {
            "codes": None if self._codes is None else dict(zip(self._names, self._codes[1:], strict=True)),
            "mean_code_distance": self._sum / max(1, self._count),
            "largest_code_distance": self._worst,
            "tolerance": self._watch.tolerance,
            "far_fraction": self._watch.far / max(1, self._watch.annotated),
        }

    # The counts lie beside the slices that are on disk, so that a set that was interrupted is judged as a whole.

    def resume(self, writer: SliceWriter) -> int:
        """Continues from the counts of an interrupted reading; returns how many slices it had counted."""
        path = self._state_path(writer)
        state = read_json(path) if writer.done and path.is_file() else {"done": 0}
        if state["done"] != writer.done:
            return 0
        if writer.done:
            self._sum, self._worst, self._count = state["sum"], state["worst"], writer.done
            self._watch.counts[:] = state["counts"]
            self._watch.far, self._watch.annotated = state["far"], state["annotated"]
        return writer.done

    def save(self, writer: SliceWriter) -> None:
        """Writes the counts after a whole shard."""
        if writer.done == self._count:
            state = {"done": writer.done, "sum": self._sum, "worst": self._worst,
                     "counts": self._watch.counts.tolist(), "far": self._watch.far,
                     "annotated": self._watch.annotated}  # fmt: skip
            write_json(self._state_path(writer), state)

    def forget(self, writer: SliceWriter) -> None:
        """Removes the counts: the summary holds what is worth keeping."""
        self._state_path(writer).unlink(missing_ok=True)

    @staticmethod
    def _state_path(writer: SliceWriter) -> Path:
        return writer.path.with_name(writer.path.name + ".counts.json")


@dataclass(frozen=True)
class Sizes:
    """The size that all images of a folder have, and what becomes of it."""

    geometry: SliceGeometry
    first: Path

    @classmethod
    def of(cls, raw: RawSlice, spec: FolderSpec, target: Target | None) -> Sizes:
        """From the first slice.

        Raises:
            UnderstudyError: another size than is wanted and no permission to change it, or too small.
        """
        height, width = raw.images.shape[-2:]
        padded = 1 << (max(height, width) - 1).bit_length()
        wanted = target.resolution if target else spec.resolution if spec.sizes == "fit" and spec.resolution else padded
        if padded < wanted:
            raise UnderstudyError(
                f"images of {height} x {width} pixels beside real slices of {wanted} x {wanted}",
                where=raw.where,
                fix=f"make them at {wanted} pixels, or run the study with `slices: {{resolution: {padded}}}`",
            )
        if (height, width) != (wanted, wanted) and spec.sizes == "refuse":
            square = height == width == padded
            what = f"where {wanted} x {wanted} are needed" if square else "are not square with a power of two"
            raise UnderstudyError(
                f"images of {height} x {width} pixels {what}",
                where=raw.where,
                fix=f"let them be padded to {padded} x {padded} and averaged to {wanted} x {wanted}: --sizes fit (or"
                " `sizes: fit`)",
            )
        return cls(SliceGeometry.fit(height, width, wanted), raw.where)

    def check(self, raw: RawSlice) -> None:
        """Refuses another size than the first slice's."""
        height, width = raw.images.shape[-2:]
        if (height, width) != (self.geometry.height, self.geometry.width):
            raise UnderstudyError(
                f"{height} x {width} pixels where the first slice ({self.first.name}) has"
                f" {self.geometry.height} x {self.geometry.width}",
                where=raw.where,
                fix="make all images of the same size, or remove those of another",
            )

    def images(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[n, C, H, W] -> [n, C, R, R]."""
        return self.geometry.shrink_images(self.geometry.pad(images))

    def labels(self, labels: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
        """[n, H, W] -> [n, R, R] by majority."""
        return self.geometry.network_labels(labels, classes)

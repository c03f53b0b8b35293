"""Volumes as stacks of slices: from the original grid to the network's and back, and the test patients' store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, read_json, reading, sha256_file, write_json
from understudy.io.foreign import VOLUMES, Budget
from understudy.io.readers import read_arrays
from understudy.io.seals import AGAIN, Damaged, check_opened, check_seal, file_hash, sealed
from understudy.slices import Described, LabelClass, Spacing

if TYPE_CHECKING:
    import torch

_ARRAYS = ("images", "kept", "truth", "affine")  # of a patient's .npz


@dataclass(frozen=True)
class SliceGeometry:
    """Original slice -> square pixels of one size -> power-of-two square -> network resolution, and back."""

    height: int  # of the original slices, pixels
    width: int
    padded: int  # edge of the square to which slices are padded or cropped (the paper: 240 -> 256)
    resolution: int  # edge that the network sees; divides `padded`
    rows: int = 0  # height once resampled to the cohort's pixel size; 0: as stored
    columns: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", self.rows or self.height)
        object.__setattr__(self, "columns", self.columns or self.width)
        if min(self.height, self.width, self.padded, self.resolution, self.rows, self.columns) < 1:
            raise ValueError("a slice has no pixels")

    @classmethod
    def fit(
        cls, height: int, width: int, resolution: int, padded: int | None = None,
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> SliceGeometry:  # fmt: skip
        """The geometry for slices of the given size (pixels as stored); raises for a resolution that does not fit.

        Args:
            padded: edge of the square; None: the smallest power of two that holds the slice.
            scale: new pixels for each of the old ones, along columns and rows.
        """
        rows, columns = (max(1, round(n * s)) for n, s in zip((height, width), scale, strict=True))
        padded = padded or power_of_two(max(rows, columns))
        if resolution & (resolution - 1) or resolution < 4:
            raise UnderstudyError(f"resolution {resolution} is not a power of two", fix="use 32, 64, 128 or 256")
        if resolution > padded:
            what = f"resolution {resolution} is larger than the padded slices ({padded} x {padded})"
            raise UnderstudyError(what, fix=f"use at most {padded}")
        return cls(height, width, padded, resolution, rows, columns)

    @property
    def inside(self) -> tuple[int, int]:
        """Height and width of what is left of a slice after cropping."""
        return min(self.rows, self.padded), min(self.columns, self.padded)

    @property
    def window(self) -> tuple[slice, slice]:
        """The part of a resampled slice that is left after cropping."""
        return _middle(self.inside, (self.rows, self.columns))

    @property
    def place(self) -> tuple[slice, slice]:
        """Where that part lies in the padded square."""
        return _middle(self.inside, (self.padded, self.padded))

    @property
    def resampled(self) -> bool:
        """Whether pixels change their size before slices are padded."""
        return (self.rows, self.columns) != (self.height, self.width)

    def fit_images(self, stack: NDArray[Any]) -> NDArray[Any]:
        """[Z, H, W] -> [Z, *inside]: resampled (then float32, linear, antialiased) and cropped; a view if neither."""
        if self.resampled:
            stack = _resized(stack, (self.rows, self.columns))
        return stack[:, *self.window]

    def fit_labels(self, stack: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
        """Class indices [Z, H, W] -> [Z, *inside]: the class that covers most of each new pixel, then cropped."""
        if self.resampled:
            size = (self.rows, self.columns)
            best, most = np.zeros((len(stack), *size), np.uint8), _resized(stack == 0, size)
            for k in range(1, classes):
                covered = _resized(stack == k, size)
                best[covered >= np.maximum(most, 1e-6)] = k  # a tie goes to the higher index, as in shrink_labels
                np.maximum(most, covered, out=most)
            stack = best
        return stack[:, *self.window]

    def pad(self, stack: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[..., *inside] -> [..., P, P], zeros around."""
        padded = np.zeros((*stack.shape[:-2], self.padded, self.padded), stack.dtype)
        padded[..., *self.place] = stack
        return padded

    def network_labels(self, stack: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
        """Class indices on the original grid [Z, H, W] -> [Z, R, R]; `classes` counts the background."""
        return self.shrink_labels(self.pad(self.fit_labels(stack, classes)), classes)

    def on_original_grid(self, padded: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A grey image [P, P] -> [H, W]: cut out, zeros where it was cropped, pixels of their original size."""
        whole = np.zeros((1, self.rows, self.columns), np.uint8)
        whole[:, *self.window] = padded[*self.place]
        if self.resampled:
            whole = np.rint(_resized(whole, (self.height, self.width))).astype(np.uint8)
        return whole[0]

    def shrink_images(self, padded: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[..., P, P] -> [..., R, R] by the mean over each f x f block, rounded half up."""
        f = self.padded // self.resolution
        if f == 1:
            return padded
        return ((_block_sums(padded, f) * np.uint32(2) + f * f) // (2 * f * f)).astype(np.uint8)

    def shrink_labels(self, padded: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
        """[..., P, P] class indices -> [..., R, R] by majority over each block; a tie goes to the higher index.

        A tie at a lesion's border would otherwise always be decided for the background, and small classes shrink.
        """
        f = self.padded // self.resolution
        if f == 1:
            return padded
        result = np.zeros((*padded.shape[:-2], self.resolution, self.resolution), np.uint8)
        busy = padded.any(axis=(-2, -1))  # most slices hold background only: no votes are counted there
        labels, best = padded[busy], result[busy]  # [n, P, P], [n, R, R]
        votes = _block_sums((labels == 0).view(np.uint8), f)
        for k in range(1, classes):
            count = _block_sums((labels == k).view(np.uint8), f)
            best[count >= np.maximum(votes, 1)] = k
            np.maximum(votes, count, out=votes)
        result[busy] = best
        return result

    def restore(self, probabilities: torch.Tensor, block: int = 16) -> NDArray[np.uint8]:
        """Class scores float [Z, K, R, R] -> class indices uint8 [Z, H, W] on the original grid.

        The arg max is taken of bilinearly upsampled scores: borders are finer than the network's pixels.
        """
        import torch  # seconds, which only predictions are worth

        def resized(scores: torch.Tensor, *size: int) -> torch.Tensor:
            return torch.nn.functional.interpolate(scores, size=size, mode="bilinear", align_corners=False)

        out = np.zeros((len(probabilities), self.height, self.width), np.uint8)
        for start in range(0, len(probabilities), block):
            part = probabilities[start : start + block].float()
            if self.padded != self.resolution:
                part = resized(part, self.padded, self.padded)
            part = part[..., *self.place]
            if not self.resampled:
                out[start : start + block, *self.window] = part.argmax(1).to(torch.uint8).cpu().numpy()
                continue
            # background where the slice was cropped; then back to the original pixels
            whole = part.new_zeros(*part.shape[:2], self.rows, self.columns)
            whole[:, 0] = 1
            whole[..., *self.window] = part
            out[start : start + block] = resized(whole, self.height, self.width).argmax(1).to(torch.uint8).cpu().numpy()
        return out


@dataclass(frozen=True)
class TestVolume:
    """A patient kept for validation or test, every slice of it."""

    __test__ = False  # not a pytest class

    subject: str
    site: str  # "" if unknown
    split: str  # "val" or "test"
    images: NDArray[np.uint8]  # [Z, C, R, R], as the network sees them
    kept: NDArray[np.bool_]  # [Z], slices that pass the slice rule
    truth: NDArray[np.uint8]  # [Z, H, W], class indices on the original grid
    geometry: SliceGeometry  # how the two grids belong together
    spacing: tuple[float, float, float]  # (slice, row, column) distance on the original grid, mm
    affine: NDArray[np.float64]  # [4, 4], voxel (row, column, slice) to world (RAS mm) of the source volume

    def labels_at_network(self, classes: int) -> NDArray[np.uint8]:
        """The truth as uint8 [Z, R, R] by majority vote; `classes` counts the background."""
        return self.geometry.network_labels(self.truth, classes)


class _Patient(BaseModel):
    site: str
    split: str
    geometry: SliceGeometry
    spacing: Spacing
    sha256: str


class _Meta(Described):
    frame: dict[str, Any] | None
    patients: dict[str, _Patient]


class VolumeSet:
    """A folder of test volumes: `volumes.json` and one compressed `.npz` a patient (read without pickle)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_opened(self.path / "volumes.json")
        with reading(self.path / "volumes.json", VOLUMES):
            said = read_json(self.path / "volumes.json", dict)
            check_seal(said, self.path / "volumes.json")
            meta = _Meta.model_validate(said)
        self.channels, self.classes = tuple(meta.channels), tuple(meta.classes)
        self.axes, self.frame, self._patients = meta.axes, meta.frame, meta.patients

    @classmethod
    def open(cls, path: str | Path) -> VolumeSet:
        """Opens a folder written by `VolumeWriter`; raises `UnderstudyError` if it is absent or damaged."""
        return cls(path)

    def subjects(self, split: str | None = None) -> list[str]:
        """Ids of the patients, sorted; of one split if given."""
        return sorted(s for s, m in self._patients.items() if split in (None, m.split))

    def read(self, subject: str) -> TestVolume:
        """One patient's volume; raises `UnderstudyError` if there is none."""
        if subject not in self._patients:
            raise UnderstudyError(f"no volume of patient {subject}", where=self.path, fix=f"one of {self.subjects()}")
        meta, path = self._patients[subject], self.path / f"{subject}.npz"
        if not path.is_file() or file_hash(path) != meta.sha256:
            wrong = "was changed or damaged" if path.is_file() else "is missing"
            raise Damaged(f"the volume of patient {subject} {wrong}", where=path, fix=AGAIN)
        arrays, g = read_arrays(path, *_ARRAYS), meta.geometry
        found = [(arrays[name].dtype.kind, *arrays[name].shape) for name in _ARRAYS]
        z, edge = arrays["kept"].size, g.resolution
        right = [("u", z, len(self.channels), edge, edge), ("b", z), ("u", z, g.height, g.width), ("f", 4, 4)]
        if found != right or int(arrays["truth"].max(initial=0)) >= len(self.classes):
            raise VOLUMES.damaged(path, ValueError(f"arrays {found}, not {right}, or a label without a class"))
        Budget(path, VOLUMES).spend(z * max(g.rows * g.columns, g.padded**2))
        return TestVolume(subject, meta.site, meta.split, geometry=g, spacing=meta.spacing, **arrays)


class VolumeWriter:
    """Writes a VolumeSet, patient by patient; `close` makes it readable."""

    def __init__(
        self, path: str | Path, channels: Sequence[str], classes: Sequence[LabelClass],
        axes: Sequence[str] | None = None, frame: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.path = Path(path)
        self._meta: dict[str, Any] = {
            "software_version": __version__, "channels": list(channels), "classes": [asdict(c) for c in classes],
            "axes": list(axes) if axes else None, "frame": frame, "patients": {},
        }  # fmt: skip

    def write(self, volume: TestVolume) -> None:
        """Adds a patient; raises `UnderstudyError` for a full disk or a missing permission."""
        target = self.path / f"{volume.subject}.npz"
        # As `numpy.savez_compressed`, at the fastest level: hardly larger on MR slices, in two thirds of the time.
        with atomic_path(target) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED, compresslevel=1) as archive:
            for name in _ARRAYS:
                # Members opened by name have a fixed date: the same volume gives the same file.
                with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
                    array = np.ascontiguousarray(getattr(volume, name))
                    np.lib.format.write_array(handle, array, allow_pickle=False)
        self._meta["patients"][volume.subject] = {
            "site": volume.site, "split": volume.split, "geometry": asdict(volume.geometry),
            "spacing": list(volume.spacing), "sha256": sha256_file(target),
        }  # fmt: skip

    def close(self) -> VolumeSet:
        """Writes `volumes.json`."""
        write_json(self.path / "volumes.json", sealed(self._meta))
        return VolumeSet.open(self.path)


def _middle(inner: tuple[int, int], outer: tuple[int, int]) -> tuple[slice, slice]:
    (top, height), (left, width) = (((o - i) // 2, i) for i, o in zip(inner, outer, strict=True))
    return slice(top, top + height), slice(left, left + width)


def power_of_two(edge: int) -> int:
    """The smallest power of two that is at least `edge`."""
    return 1 << (edge - 1).bit_length()


def _resized(stack: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """[Z, H, W] -> float32 [Z, *size]: linear, averaged where pixels become larger."""
    resized = np.empty((len(stack), *size), np.float32)
    for plane, target in zip(stack, resized, strict=True):
        image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        target[:] = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return resized


def _block_sums(stack: NDArray[np.uint8], f: int) -> NDArray[Any]:
    """[..., R * f, R * f] -> [..., R, R]: sums over f x f blocks, by whole rows first (several times faster)."""
    dtype = np.uint16 if f <= 16 else np.uint32  # 16 x 16 pixels of 255 just fit 16 bits
    rows: NDArray[Any] = stack[..., 0::f, :].astype(dtype)
    for i in range(1, f):
        rows += stack[..., i::f, :]
    sums = rows[..., 0::f].copy()
    for i in range(1, f):
        sums += rows[..., i::f]
    return sums

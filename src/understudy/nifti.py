"""Reading NIfTI volumes: header first, voxels in their own type, every slice with the patient's nose up.

A plain `get_fdata` loop makes every voxel a float64 and reads gzip in small pieces. Here a file is inflated in
one call of ISA-L, which is two to three times as fast as zlib and leaves the interpreter free for another thread, and
its integers stay integers.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import nibabel as nib
import numpy as np
from isal import isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from understudy.errors import UnderstudyError


class Digest(Protocol):
    """What hashlib's objects can do."""

    def update(self, data: bytes, /) -> None:
        """Takes more bytes in."""


Item = TypeVar("Item")
Result = TypeVar("Result")

AXES = ("P", "L")  # rows run to posterior, columns to the patient's left: the radiologist's view
_SAME_PLACE = 1e-3  # mm, and mm per voxel: what single-precision headers leave of rounding
_GZIP_MAGIC = b"\x1f\x8b"
_DAMAGE: tuple[type[Exception], ...] = (isal_zlib.error, EOFError, OSError, ValueError)  # type: ignore[assignment]
_REPLACE = "replace the file by an intact copy (download or export it again)"


@dataclass(frozen=True)
class VolumeHeader:
    """What a NIfTI header says, without the voxels.

    Attributes:
        shape: as stored, trailing axes of length 1 left out.
        dtype: of the voxels as stored, with their byte order.
        offset: bytes before the first voxel.
        slope, intercept: what the voxels are to be multiplied by, and what is to be added.
        affine: float64 [4, 4], voxel (as stored) to world (RAS, mm).
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    affine: NDArray[np.float64]

    @property
    def voxels(self) -> int:
        """Their number."""
        return int(np.prod(self.shape))

    @cached_property
    def reorientation(self) -> NDArray[np.float64]:
        """nibabel's description of the flips and swaps that turn the stored axes into (L, P, S)."""
        stored = nib.orientations.io_orientation(self.affine)
        return np.asarray(nib.orientations.ornt_transform(stored, nib.orientations.axcodes2ornt("LPS")))

    @property
    def axes(self) -> str:
        """Directions of the stored axes in letters, e.g. LPS."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    def same_grid(self, other: VolumeHeader) -> bool:
        """Whether both volumes have their voxels at the same places, in whatever order they are stored."""
        return self.slice_shape == other.slice_shape and np.allclose(
            self.slice_affine, other.slice_affine, rtol=0, atol=_SAME_PLACE
        )

    @cached_property
    def slice_affine(self) -> NDArray[np.float64]:
        """float64 [4, 4]: (row, column, slice) of the volume as `slices_of` returns it, to world."""
        undo = nib.orientations.inv_ornt_aff(self.reorientation, self.shape)
        lps = self.affine @ undo
        return np.asarray(lps[:, [1, 0, 2, 3]])

    @cached_property
    def slice_shape(self) -> tuple[int, int, int]:
        """(Z, H, W) of the volume as `slices_of` returns it."""
        target = np.empty(3, int)
        target[self.reorientation[:, 0].astype(int)] = self.shape
        return int(target[2]), int(target[1]), int(target[0])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(slice, row, column) distance in mm."""
        rows, columns, slices = np.linalg.norm(self.slice_affine[:3, :3], axis=0)
        return float(slices), float(rows), float(columns)


def read_header(path: Path, flat: bool = False) -> VolumeHeader:
    """Reads a header.

    Args:
        path: of the file.
        flat: take a two-dimensional image as a volume of one slice.

    Raises:
        UnderstudyError: not a readable NIfTI file, not three-dimensional, or a singular affine.
    """
    try:
        image = nib.load(path)
    except FileNotFoundError as error:
        raise UnderstudyError("the file does not exist", where=path, fix="correct the path") from error
    except (ImageFileError, HeaderDataError, EOFError, zlib.error, OSError, ValueError) as error:
        raise UnderstudyError(
            f"the header cannot be read ({_short(error)})", where=path, fix=_REPLACE
        ) from error
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if flat and len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        raise UnderstudyError(
            f"the image has {len(shape)} dimensions {shape}, not 3",
            where=path,
            fix="store one volume per file (split a series, for example with fslsplit)",
        )
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UnderstudyError(
            "the header's affine is singular, so voxel size and orientation are unknown",
            where=path,
            fix="write the file again with a valid sform or qform",
        )
    proxy = image.dataobj
    return VolumeHeader(
        shape, np.dtype(proxy.dtype), int(proxy.offset), float(proxy.slope), float(proxy.inter), affine
    )


def read_voxels(path: Path, header: VolumeHeader, digest: Digest | None = None) -> NDArray[Any]:
    """The voxels [as `header.shape`] in the type they are stored in (float64 where the header scales them).

    Args:
        path: a single-file NIfTI image, compressed or not.
        header: from `read_header`.
        digest: updated with the file's bytes, so that they need not be read again to be hashed.

    Raises:
        UnderstudyError: truncated or damaged file.
    """
    try:
        raw = path.read_bytes()
        if digest is not None:
            digest.update(raw)
        size = header.offset + header.voxels * header.dtype.itemsize
        content = _inflate(raw, size) if raw.startswith(_GZIP_MAGIC) else raw
        # A view of the inflated bytes: nibabel would copy them twice.
        stored = np.frombuffer(content, header.dtype, header.voxels, header.offset)
    except _DAMAGE as error:
        raise UnderstudyError(
            f"the file is truncated or damaged ({_short(error)})", where=path, fix=_REPLACE
        ) from error
    scaled = apply_read_scaling(stored, header.slope, header.intercept)
    return np.asarray(scaled).reshape(header.shape, order="F")


def slices_of(voxels: NDArray[Any], header: VolumeHeader) -> NDArray[Any]:
    """[as stored] -> view [Z, H, W]: slices from inferior to superior, rows to posterior, columns to left."""
    return nib.orientations.apply_orientation(voxels, header.reorientation).T


def as_stored(slices: NDArray[Any], header: VolumeHeader) -> NDArray[Any]:
    """[Z, H, W] -> view [as stored]: what `slices_of` did, undone."""
    stored = nib.orientations.io_orientation(header.affine)
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("LPS"), stored)
    return nib.orientations.apply_orientation(slices.T, back)


def _inflate(raw: bytes, size: int) -> bytes:
    """Inflates a gzip file that should hold `size` bytes, checksums checked."""
    # Naming the size at once spares it from growing its buffer step by step.
    content = isal_zlib.decompress(raw, wbits=31, bufsize=size)
    return content if len(content) >= size else _inflate_members(raw)


def _inflate_members(raw: bytes) -> bytes:
    """Inflates a gzip file that was written in several pieces (bgzip, concatenation)."""
    members = []
    while raw.startswith(_GZIP_MAGIC):
        member = isal_zlib.decompressobj(wbits=31)
        members.append(member.decompress(raw))
        if not member.eof:
            raise EOFError("the compressed data ends too early")
        raw = member.unused_data
    return b"".join(members)


def _short(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def in_order(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Maps `function` over `items` on threads, in order, with at most `workers` + 1 results in memory.

    Threads suffice: inflating and array arithmetic, nearly all of the work, run outside the interpreter's lock.
    """
    if workers <= 1 or len(items) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

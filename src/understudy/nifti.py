"""NIfTI volumes: the one reader of headers and voxels, and the one comparison of voxel grids.

A plain `get_fdata` loop makes every voxel a float64 and inflates gzip in small pieces. Here a file is inflated in one
call of ISA-L, which is two to three times as fast as zlib and releases the GIL, and integers stay integers.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import nibabel as nib
import numpy as np
from isal import isal_zlib
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.folders import read_bytes


class Digest(Protocol):
    """What hashlib's objects can do."""

    def update(self, data: bytes, /) -> None:
        """Takes more bytes in."""


Item = TypeVar("Item")
Result = TypeVar("Result")
Plane = Literal["axial", "coronal", "sagittal"]

# voxels that two headers may put a corner of the volume apart: rounding, not another position
SAME_GRID = 0.05
LABEL_TOLERANCE = 1e-3  # from a whole number: what a scale factor or single precision leaves of a label
_SAME_EDGES = 0.02  # by which voxel sizes of files that are taken as aligned may differ
_LARGEST = 1 << 31  # bytes of a volume's voxels: 800 slices of 1024 x 1024 in 16 bits
_EDGES = (0.01, 100.0)  # mm, of a plausible voxel
_TEMPLATES = (3, 4, 5)  # sform codes: Talairach, MNI, another template
_LEAST_SPANNED = 0.05  # volume of a voxel beside that of a box with its edges
_MOST_DEFLATED = 1032  # times that gzip can shrink its input
_MOST_TRAILING = 1 << 24  # bytes behind the last voxel that are inflated as well
_GZIP_MAGIC = b"\x1f\x8b"
_MILLIMETRES = {"mm": 1.0, "unknown": 1.0, "meter": 1e3, "micron": 1e-3}
_DAMAGE: tuple[type[Exception], ...] = (isal_zlib.error, zlib.error, EOFError, ValueError)  # type: ignore[assignment]
_REPLACE = "replace the file by an intact copy (download or export it again)"
_QUIET = logging.getLogger("understudy.nifti.nibabel")  # nibabel's own remarks; what matters is said by us
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False

# Directions of (columns, rows, slices) in each plane: heads upright, and in axial slices the nose at the top.
_DIRECTIONS: dict[str, str] = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"}


def axes_of(plane: Plane) -> tuple[str, str]:
    """Directions of rows and columns of a slice: ("P", "L") in axial slices, the radiologist's view."""
    directions = _DIRECTIONS[plane]
    return directions[1], directions[0]


@dataclass(frozen=True)
class VolumeHeader:
    """What a NIfTI header says, without the voxels.

    Attributes:
        shape: as stored, trailing axes of length 1 left out.
        dtype: of the voxels as stored, with their byte order.
        offset: bytes before the first voxel.
        slope, intercept: what the voxels are to be multiplied by, and what is to be added.
        affine: float64 [4, 4], voxel (as stored) to world (RAS, mm), whatever the units of the header.
        plane: of the slices into which the volume is cut.
        doubts: (what is doubtful about the header, what to do); such a file can be used.
        positioned: False where neither sform nor qform is set: the affine is then a convention.
        units: of lengths in the header; `affine` is in mm all the same.
        turn: replaces `reorientation`, see `like`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    plane: Plane = "axial"
    doubts: tuple[tuple[str, str], ...] = ()
    positioned: bool = True
    units: str = "mm"
    turn: NDArray[np.float64] | None = None

    @property
    def voxels(self) -> int:
        """Their number."""
        return int(np.prod(self.shape, dtype=object))

    @cached_property
    def reorientation(self) -> NDArray[np.float64]:
        """nibabel's description of the flips and swaps that turn the stored axes into (columns, rows, slices)."""
        if self.turn is not None:
            return self.turn
        stored = nib.orientations.io_orientation(self.affine)
        wanted = nib.orientations.axcodes2ornt(_DIRECTIONS[self.plane])
        return np.asarray(nib.orientations.ornt_transform(stored, wanted))

    @property
    def axes(self) -> str:
        """Directions of the stored axes in letters, e.g. LPS."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    @property
    def edges(self) -> NDArray[np.float64]:
        """Of a voxel along the stored axes, mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    def voxels_apart(self, other: VolumeHeader) -> float:
        """Largest distance, in voxels of this volume, between the corners of both volumes; inf for other shapes.

        The order in which they are stored does not matter. A volume without a position is compared as it is stored.
        """
        if self.positioned != other.positioned:
            return 0.0 if self.stored_alike(other) else float("inf")
        order = self._order_of(other)
        if order is None or tuple(other.shape[i] for i in np.argsort(order[:, 0])) != self.shape:
            return float("inf")
        turned = other.affine @ nib.orientations.inv_ornt_aff(order, other.shape)
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(self.shape) - 1)
        difference = turned[:3] - self.affine[:3]
        moved = corners @ difference[:, :3].T + difference[:, 3]
        return float(np.abs(np.linalg.solve(self.affine[:3, :3], moved.T)).max())

    def same_grid(self, other: VolumeHeader) -> bool:
        """Whether both volumes have their voxels at the same places, in whatever order they are stored."""
        return self.voxels_apart(other) <= SAME_GRID

    def stored_alike(self, other: VolumeHeader) -> bool:
        """Whether shapes and voxel sizes agree as stored, so that the arrays may be aligned whatever headers say."""
        return self.shape == other.shape and np.allclose(self.edges, other.edges, rtol=_SAME_EDGES)

    def arranged(self, voxels: NDArray[Any], own: VolumeHeader) -> NDArray[Any]:
        """Voxels of a volume on the same grid, whose header is `own`, in the order in which this one is stored."""
        order = self._order_of(own) if self.positioned == own.positioned else None
        return voxels if order is None else nib.orientations.apply_orientation(voxels, order)

    def like(self, reference: VolumeHeader) -> VolumeHeader:
        """This header, so that `slices_of` gives slices that lie on those of a volume on the same grid."""
        if self.positioned != reference.positioned:
            return replace(self, affine=reference.affine, turn=reference.reorientation)
        order = reference._order_of(self)
        assert order is not None, "not on the same grid"
        turn = reference.reorientation[order[:, 0].astype(int)].copy()
        turn[:, 1] *= order[:, 1]
        return replace(self, turn=turn)

    def _order_of(self, other: VolumeHeader) -> NDArray[np.float64] | None:
        """Flips and swaps that turn the stored axes of `other` into those of this volume; None if there are none.

        Not by the anatomical direction of each: at 45 degrees rounding decides that.
        """
        steps = np.linalg.solve(self.affine[:3, :3], other.affine[:3, :3])
        axes = np.abs(steps).argmax(axis=0)
        if len(set(axes.tolist())) < 3:
            return None
        return np.stack([axes, np.sign(steps[axes, range(3)])], axis=1).astype(float)

    @cached_property
    def slice_affine(self) -> NDArray[np.float64]:
        """float64 [4, 4]: (row, column, slice) of the volume as `slices_of` returns it, to world."""
        undo = nib.orientations.inv_ornt_aff(self.reorientation, self.shape)
        turned = self.affine @ undo
        return np.asarray(turned[:, [1, 0, 2, 3]])

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


def read_header(path: Path, flat: bool = False, plane: Plane = "axial") -> VolumeHeader:
    """Reads a header: shape, type, units, and the position by sform or qform.

    Args:
        path: of the file.
        flat: take a two-dimensional image as a volume of one slice.
        plane: of the slices into which the volume is to be cut.

    Raises:
        UnderstudyError: not a readable NIfTI file, not three-dimensional, colours or complex numbers, a position that
            cannot be relied on.
    """
    stored = _parse(path)
    shape = _shape(stored, path, flat)
    dtype = stored.get_data_dtype()
    if dtype.fields is not None or dtype.kind not in "biuf":
        kind = "colours (RGB)" if dtype.fields is not None else f"{dtype.name} numbers"
        cure = "grey values: one channel a file" if dtype.fields is not None else "magnitudes (numpy.abs)"
        raise UnderstudyError(f"the voxels are {kind}, not grey values", where=path, fix=f"save {cure}")
    try:
        slope, intercept = stored.get_slope_inter()
        offset = int(stored["vox_offset"])
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise UnderstudyError(
            f"the scale or the offset of the voxels is no number ({_short(error)})",
            where=path,
            fix="correct scl_slope, scl_inter and vox_offset in the header, or export the volume again",
        ) from error
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size > _LARGEST or offset < 0:
        raise UnderstudyError(
            f"the header announces {size / 2**30:,.1f} GB of voxels from byte {offset} on",
            where=path,
            fix=f"{_REPLACE}; a volume may have {_LARGEST >> 30} GB",
        )
    affine, doubts, units = _position(stored, path)
    positioned = max(int(stored["sform_code"]), int(stored["qform_code"])) > 0
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    return VolumeHeader(
        shape, dtype, offset, float(slope), float(intercept), affine, plane, doubts, positioned, units
    )


def _parse(path: Path) -> Any:
    """nibabel's header object of a single-file NIfTI-1 or NIfTI-2 image."""
    raw = read_bytes(path, most=1 << 16)
    zipped, named = raw.startswith(_GZIP_MAGIC), path.name.lower().endswith(".gz")
    if zipped != named and raw:
        kind = "compressed by gzip" if zipped else "not compressed by gzip"
        name = path.name + ".gz" if zipped else path.name[: -len(".gz")]
        if zipped or _size_of_header(raw):
            raise UnderstudyError(
                f"the name ends in {path.suffix}, but the file is {kind}",
                where=path,
                fix=f"rename it to {name}",
            )
    try:
        content = isal_zlib.decompressobj(wbits=31).decompress(raw, max_length=4096) if zipped else raw
        reader = {348: nib.Nifti1Header, 540: nib.Nifti2Header}.get(_size_of_header(content))
        if reader is None:
            raise ValueError(f"it begins with {content[:4]!r}" if content else "the file is empty")
        header = reader(content[: _size_of_header(content)], check=False)  # extensions may be of any length
        header.check_fix(logger=_QUIET, error_level=40)
    except Exception as error:  # nibabel raises nearly anything for a damaged header
        if "data code" in str(error):
            raise UnderstudyError(
                f"voxels of this type cannot be read ({_short(error)})",
                where=path,
                fix="save the volume with voxels of another type, for example int16 or float32",
            ) from error
        raise _bad_header(path, error) from error
    if header["magic"].item()[:3] not in (b"n+1", b"n+2"):
        raise UnderstudyError(
            "this is the header of a pair of files (.hdr, .img) or of the old format Analyze",
            where=path,
            fix="convert it to a single NIfTI file (.nii.gz)",
        )
    return header


def _size_of_header(content: bytes) -> int:
    """348 for NIfTI-1, 540 for NIfTI-2, in either byte order; 0 for anything else."""
    sizes = [struct.unpack(order, content[:4])[0] for order in ("<i", ">i") if len(content) >= 4]
    return next((size for size in sizes if size in (348, 540)), 0)


def _bad_header(path: Path, error: BaseException) -> UnderstudyError:
    return UnderstudyError(
        f"the header cannot be read ({_short(error)}): not a NIfTI file, or damaged", where=path, fix=_REPLACE
    )


def _shape(stored: Any, path: Path, flat: bool) -> tuple[int, ...]:
    """Three sizes, each at least 1."""
    try:
        shape = tuple(int(n) for n in stored.get_data_shape())
    except (HeaderDataError, ValueError) as error:
        raise _bad_header(path, error) from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2 and flat:
        shape = (*shape, 1)
    if any(n < 1 for n in shape):
        raise UnderstudyError(f"the volume of shape {shape} has no voxels", where=path, fix=_REPLACE)
    if len(shape) != 3:
        several = "store one volume per file (split a series, for example with fslsplit)"
        raise UnderstudyError(
            f"the image has {len(shape)} dimensions {shape}, not 3",
            where=path,
            fix=several if len(shape) > 3 else "give the volume that the slice was taken from",
        )
    return shape


def _position(stored: Any, path: Path) -> tuple[NDArray[np.float64], tuple[tuple[str, str], ...], str]:
    """Affine in mm, what is doubtful about it, and the units of the header.

    Raises:
        UnderstudyError: singular, an implausible voxel size, or sform and qform that turn the volume differently.
    """
    doubts = []
    try:
        units = stored.get_xyzt_units()[0]
    except KeyError:
        units = "unknown"
    codes = int(stored["sform_code"]), int(stored["qform_code"])
    try:
        affine = np.asarray(stored.get_best_affine(), np.float64)
        qform = np.asarray(stored.get_qform(), np.float64) if min(codes) > 0 else affine
    except (HeaderDataError, ValueError) as error:
        raise _bad_header(path, error) from error
    if max(codes) <= 0:
        doubts.append(
            (
                "neither sform nor qform is set, so that nothing tells which side is left",
                "look at a slice in a viewer; if it is mirrored or upside down, correct the header",
            )
        )
    if not _spans_space(affine):
        raise UnderstudyError(
            "the header's affine is singular, so voxel size and orientation are unknown",
            where=path,
            fix="write the file again with a valid sform or qform",
        )
    if np.isfinite(qform).all() and not np.allclose(affine, qform, rtol=0, atol=1e-4 * np.abs(affine).max()):
        doubts += _disagreement(affine, qform, path, codes[0] in _TEMPLATES)
    affine[:3] *= _MILLIMETRES.get(units, 1.0)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if edges.min() < _EDGES[0] or edges.max() > _EDGES[1]:
        listed = " x ".join(f"{edge:g}" for edge in edges)
        raise UnderstudyError(
            f"the header gives implausible voxels of {listed} mm (units: {units})",
            where=path,
            fix="correct the voxel size or the units of the header (xyzt_units: 2 is mm)",
        )
    return affine, tuple(doubts), units


def _spans_space(affine: NDArray[np.float64]) -> bool:
    """Whether the three axes point in clearly different directions."""
    if not np.isfinite(affine).all():
        return False
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(edges.min() > 0 and abs(np.linalg.det(affine[:3, :3] / edges)) > _LEAST_SPANNED)


def _disagreement(
    sform: NDArray[np.float64], qform: NDArray[np.float64], path: Path, template: bool
) -> list[tuple[str, str]]:
    """A doubt where sform and qform are two spaces of one volume, an error where one of them must be wrong."""
    fix = (
        "set both to the right one: image.set_qform(image.affine), or set_sform(image.get_qform()) (nibabel)"
    )
    steps = np.linalg.solve(sform[:3, :3], qform[:3, :3])
    turned = bool((np.abs(steps).argmax(axis=0) != range(3)).any() or (np.diag(steps) <= 0).any())
    edges = [np.linalg.norm(a[:3, :3], axis=0) for a in (sform, qform)]
    # to a template the sform may stretch and turn
    if not template and (turned or not np.allclose(edges[0], edges[1], rtol=_SAME_EDGES)):
        words = [
            f"{''.join(nib.orientations.aff2axcodes(a))}, {' x '.join(f'{e:.3g}' for e in sizes)} mm"
            if _spans_space(a)
            else "singular"
            for a, sizes in zip((sform, qform), edges, strict=True)
        ]
        raise UnderstudyError(
            f"sform ({words[0]}) and qform ({words[1]}) disagree about orientation or voxel size",
            where=path,
            fix=fix,
        )
    return [
        ("sform and qform are different positions; the sform is used", f"nothing, if this is meant; or {fix}")
    ]


def refuse_other_grids(paths: Sequence[Path], flat: bool = False) -> None:
    """Reads the headers of files that belong together, which have to lie on one grid.

    Raises:
        UnderstudyError: unreadable, another shape, or voxels at other places than those of the first file.
    """
    first = read_header(paths[0], flat)
    for path in paths[1:]:
        header = read_header(path, flat)
        if header.positioned != first.positioned:
            unknown = path if first.positioned else paths[0]
            raise UnderstudyError(
                f"the header of {unknown.name} says nothing about its position (neither sform nor qform is set)",
                where=unknown,
                fix="if its array belongs to the other file's as stored, give it the same header:"
                " nibabel.Nifti1Image(mask, image.affine)",
            )
        apart = first.voxels_apart(header)
        if apart == float("inf"):
            shapes = [" x ".join(map(str, h.slice_shape)) for h in (header, first)]
            raise UnderstudyError(
                f"{path.name} has {shapes[0]} voxels (slices, rows, columns), {paths[0].name} {shapes[1]}",
                where=path,
                fix="resample both to one grid, or leave both files out",
            )
        if apart > SAME_GRID:
            raise UnderstudyError(
                f"by the headers, the voxels of {path.name} ({header.axes}) lie up to {apart:.3g} voxels away from"
                f" those of {paths[0].name} ({first.axes})",
                where=path,
                fix="look at both in a viewer. If the arrays belong together as stored, give the file the header of"
                " the other: nibabel.Nifti1Image(mask, image.affine); otherwise resample it",
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
    raw = read_bytes(path)
    if digest is not None:
        digest.update(raw)
    size = header.offset + header.voxels * header.dtype.itemsize
    try:
        if size > len(raw) * _MOST_DEFLATED:  # before a buffer of this size is made
            raise EOFError(f"{size:,} bytes are announced, the file has {len(raw):,}")
        content = _inflate(raw, size) if raw.startswith(_GZIP_MAGIC) else raw
        # A view of the inflated bytes: nibabel would copy them twice.
        stored = np.frombuffer(content, header.dtype, header.voxels, header.offset)
    except _DAMAGE as error:
        raise UnderstudyError(
            f"the file is truncated or damaged ({_short(error)})", where=path, fix=_REPLACE
        ) from error
    with np.errstate(all="ignore"):  # what overflows is found by whoever judges the values
        scaled = apply_read_scaling(stored, header.slope, header.intercept)
    return np.asarray(scaled).reshape(header.shape, order="F")


def whole_numbers(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """Label values as integers; floats within `LABEL_TOLERANCE` of a whole number are rounded.

    Raises:
        UnderstudyError: NaN, fractions, or values below 0 or above 65,535.
    """
    if values.dtype == bool:
        return values.view(np.uint8)
    if not values.size:
        return values.astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    if not -LABEL_TOLERANCE <= low <= high <= 65_535 + LABEL_TOLERANCE:  # NaN fails as well
        raise UnderstudyError(
            f"the values run from {low:g} to {high:g}: these are not labels",
            where=path,
            fix="labels are whole numbers from 0 (background) to 65535"
            + (": set NaN to 0" if np.isnan(low) else "; save the label volume itself"),
        )
    small = np.uint8 if high < 255.5 else np.uint16
    if values.dtype.kind != "f":
        return values if values.dtype == np.uint8 else values.astype(small)
    nearest = np.rint(values)
    if (off := np.abs(values - nearest)).max() > LABEL_TOLERANCE:
        raise UnderstudyError(
            f"label values are not whole, for example {values.flat[int(off.argmax())]:.9g}",
            where=path,
            fix="round them, threshold a probability map, or resample labels by nearest neighbour",
        )
    return nearest.astype(small)


def slices_of(voxels: NDArray[Any], header: VolumeHeader) -> NDArray[Any]:
    """[as stored] -> view [Z, H, W]; axial: slices from inferior to superior, rows to posterior, columns to left."""
    return nib.orientations.apply_orientation(voxels, header.reorientation).T


def as_stored(slices: NDArray[Any], header: VolumeHeader) -> NDArray[Any]:
    """[Z, H, W] -> view [as stored]: what `slices_of` did, undone."""
    back = np.empty((3, 2))
    back[header.reorientation[:, 0].astype(int)] = np.stack(
        [np.arange(3), header.reorientation[:, 1]], axis=1
    )
    return nib.orientations.apply_orientation(slices.T, back)


def _inflate(raw: bytes, size: int) -> bytes:
    """Inflates a gzip file of one or several members (bgzip, concatenation), checksums checked.

    What is much longer than the `size` that the header announces is not inflated: 3 MB of gzip can hold 3 GB.
    """
    members, left = [], size + _MOST_TRAILING
    while raw.startswith(_GZIP_MAGIC):
        member = isal_zlib.decompressobj(wbits=31)
        members.append(member.decompress(raw, max_length=left))
        left -= len(members[-1])
        if not member.eof:
            raise EOFError("it ends too early" if left > 0 else "it is longer than its header announces")
        raw = member.unused_data
    return members[0] if len(members) == 1 else b"".join(members)


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

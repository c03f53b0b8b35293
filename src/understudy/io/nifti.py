"""NIfTI volumes: the one reader of headers and voxels.

A file is inflated in one call of ISA-L, two to three times as fast as zlib and outside the GIL; integers stay integers.
"""

import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from isal import isal_zlib
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from understudy.errors import UnderstudyError, first_line
from understudy.io.files import reading
from understudy.io.folders import read_bytes
from understudy.io.foreign import DEFLATE, GB, NIFTI, OverBudget, not_finite
from understudy.io.grids import SAME_EDGES, SAME_GRID, Plane, VolumeHeader


class Digest(Protocol):
    """Of hashlib."""

    def update(self, data: bytes, /) -> None: ...


LABEL_TOLERANCE = 1e-3  # from a whole number: what a scale factor or single precision leaves of a label
_EDGES = (0.01, 100.0)  # mm, of a plausible voxel
_GZIP_MAGIC = b"\x1f\x8b"
_MILLIMETRES = {"mm": 1.0, "unknown": 1.0, "meter": 1e3, "micron": 1e-3}
_REPLACE = NIFTI.fix
_SAME_HEADER = "nibabel.Nifti1Image(mask, image.affine)"
_QUIET = logging.getLogger("understudy.io.nifti.nibabel")  # nibabel's own remarks; what matters we say ourselves
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


def read_header(path: Path, flat: bool = False, plane: Plane = "axial") -> VolumeHeader:
    """Reads a header: shape, type, units, and the position by sform or qform; raises if one cannot be relied on.

    Args:
        flat: take a two-dimensional image as a volume of one slice.
        plane: of the slices into which the volume is to be cut.
    """
    with reading(path, NIFTI):
        return _read_header(path, flat, plane)


def _read_header(path: Path, flat: bool, plane: Plane) -> VolumeHeader:
    stored, there = _parse(path)
    shape = _shape(stored, path, flat)
    dtype = stored.get_data_dtype()
    if dtype.kind not in "biuf":
        kind = "colours (RGB)" if dtype.fields is not None else f"{dtype.name} numbers"
        fix = "save grey values, one channel a file (of complex numbers the magnitudes: numpy.abs)"
        raise UnderstudyError(f"the voxels are {kind}, not grey values", where=path, fix=fix)
    slope, intercept = stored.get_slope_inter()
    offset = int(stored["vox_offset"])
    voxels = int(np.prod(shape, dtype=object))
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        what = f"the header scales the voxels by {slope:g} and adds {intercept:g}"
        raise UnderstudyError(what, where=path, fix="set scl_slope to 1 and scl_inter to 0, or export the volume again")
    size, taken = voxels * dtype.itemsize, voxels * (dtype.itemsize if (slope, intercept) == (1, 0) else 8)
    if taken > NIFTI.most or offset < 0:
        what = f"the header announces {taken / GB:,.1f} GB of voxels from byte {offset} on"
        raise OverBudget(what, where=path, fix=f"{_REPLACE}; a volume may have {NIFTI.most / GB:g} GB")
    if offset + size > there:
        raise NIFTI.damaged(path, EOFError(f"{offset + size:,} bytes are announced, there are at most {there:,}"))
    affine, doubts, units = _position(stored, path)
    positioned = max(int(stored["sform_code"]), int(stored["qform_code"])) > 0
    return VolumeHeader(shape, dtype, offset, float(slope), float(intercept), affine, plane, doubts, positioned, units)


def _parse(path: Path) -> tuple[Any, int]:
    """nibabel's header of a single-file NIfTI-1 or NIfTI-2 image; the bytes that the file has, or can hold at most."""
    raw = read_bytes(path, most=1 << 16)
    zipped, named = raw.startswith(_GZIP_MAGIC), path.name.lower().endswith(".gz")
    if zipped != named and (zipped or _size_of_header(raw)):
        kind = "compressed by gzip" if zipped else "not compressed by gzip"
        fix = f"rename it to {path.name + '.gz' if zipped else path.name[: -len('.gz')]}"
        raise UnderstudyError(f"the name ends in {path.suffix}, but the file is {kind}", where=path, fix=fix)
    try:
        content = isal_zlib.decompressobj(wbits=31).decompress(raw, max_length=4096) if zipped else raw
        reader = {348: nib.Nifti1Header, 540: nib.Nifti2Header}.get(_size_of_header(content))
        if reader is None:
            raise ValueError(f"it begins with {content[:4]!r}" if content else "the file is empty")
        header = reader(content[: _size_of_header(content)], check=False)  # extensions may be of any length
        header.check_fix(logger=_QUIET, error_level=40)
    except Exception as error:  # nibabel raises nearly anything for a damaged header
        if "data code" in str(error):
            raise UnderstudyError(f"unknown type ({first_line(error)})", where=path, fix="save as int16") from error
        raise _bad_header(path, error) from error
    if header["magic"].item()[:3] not in (b"n+1", b"n+2"):
        raise UnderstudyError("a pair of files (.hdr, .img), or Analyze", where=path, fix="convert it to one .nii.gz")
    return header, path.stat().st_size * (DEFLATE if zipped else 1)


def _size_of_header(content: bytes) -> int:
    """348 for NIfTI-1, 540 for NIfTI-2, in either byte order; 0 for anything else."""
    sizes = [struct.unpack(order, content[:4])[0] for order in ("<i", ">i") if len(content) >= 4]
    return next((size for size in sizes if size in (348, 540)), 0)


def _bad_header(path: Path, error: BaseException) -> UnderstudyError:
    what = f"the header cannot be read ({first_line(error)}): not a NIfTI file, or damaged"
    return UnderstudyError(what, where=path, fix=_REPLACE)


def _shape(stored: Any, path: Path, flat: bool) -> tuple[int, ...]:
    """Three sizes, each at least 1."""
    shape = tuple(int(n) for n in stored.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2 and flat:
        shape = (*shape, 1)
    if any(n < 1 for n in shape):
        raise UnderstudyError(f"the volume of shape {shape} has no voxels", where=path, fix=_REPLACE)
    if len(shape) != 3:
        several = "store one volume per file (split a series, for example with fslsplit)"
        fix = several if len(shape) > 3 else "give the volume that the slice was taken from"
        raise UnderstudyError(f"the image has {len(shape)} dimensions {shape}, not 3", where=path, fix=fix)
    return shape


def _position(stored: Any, path: Path) -> tuple[NDArray[np.float64], tuple[tuple[str, str], ...], str]:
    """Affine in mm, what is doubtful about it, and the units of the header."""
    doubts = []
    try:
        units = stored.get_xyzt_units()[0]
    except KeyError:
        units = "unknown"
    codes = int(stored["sform_code"]), int(stored["qform_code"])
    affine = np.asarray(stored.get_best_affine(), np.float64)
    qform = np.asarray(stored.get_qform(), np.float64) if min(codes) > 0 else affine
    if max(codes) <= 0:
        what = "neither sform nor qform is set, so that nothing tells which side is left"
        doubts.append((what, "look at a slice in a viewer; if it is mirrored or upside down, correct the header"))
    if not _spans_space(affine):
        raise UnderstudyError("the header's affine is singular", where=path, fix="write it with a valid sform or qform")
    if np.isfinite(qform).all() and not np.allclose(affine, qform, rtol=0, atol=1e-4 * np.abs(affine).max()):
        to_template = codes[0] in (3, 4, 5)  # Talairach, MNI, another: the sform may stretch and turn
        doubts.append(_disagreement(affine, qform, path, to_template))
    affine[:3] *= _MILLIMETRES.get(units, 1.0)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if edges.min() < _EDGES[0] or edges.max() > _EDGES[1]:
        what = f"the header gives implausible voxels of {' x '.join(f'{e:g}' for e in edges)} mm (units: {units})"
        fix = "correct the voxel size or the units of the header (xyzt_units: 2 is mm)"
        raise UnderstudyError(what, where=path, fix=fix)
    return affine, tuple(doubts), units


def _spans_space(affine: NDArray[np.float64]) -> bool:
    """Whether the three axes point in clearly different directions."""
    if not np.isfinite(affine).all():
        return False
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    # volume of a voxel relative to a box with its edges
    return bool(edges.min() > 0 and abs(np.linalg.det(affine[:3, :3] / edges)) > 0.05)


def _disagreement(
    sform: NDArray[np.float64], qform: NDArray[np.float64], path: Path, template: bool
) -> tuple[str, str]:
    """A doubt where sform and qform are two spaces of one volume, an error where one of them must be wrong."""
    fix = "set both to the right one: image.set_qform(image.affine), or set_sform(image.get_qform()) (nibabel)"
    steps = np.linalg.solve(sform[:3, :3], qform[:3, :3])
    turned = bool((np.abs(steps).argmax(axis=0) != range(3)).any() or (np.diag(steps) <= 0).any())
    edges = [np.linalg.norm(a[:3, :3], axis=0) for a in (sform, qform)]
    if not template and (turned or not np.allclose(edges[0], edges[1], rtol=SAME_EDGES)):
        words = []
        for affine, sizes in zip((sform, qform), edges, strict=True):
            axes = "".join(nib.orientations.aff2axcodes(affine)) if _spans_space(affine) else ""
            words.append(f"{axes}, {' x '.join(f'{e:.3g}' for e in sizes)} mm" if axes else "singular")
        what = f"sform ({words[0]}) and qform ({words[1]}) disagree about orientation or voxel size"
        raise UnderstudyError(what, where=path, fix=fix)
    return "sform and qform are different positions; the sform is used", f"nothing, if this is meant; or {fix}"


def headers_on_one_grid(paths: Sequence[Path], flat: bool = False) -> list[VolumeHeader]:
    """The headers of files on the grid of the first (else raises), so that slices of all lie on those of the first."""
    first = read_header(paths[0], flat)
    headers = [first]
    for path in paths[1:]:
        header = read_header(path, flat)
        if header.positioned != first.positioned:
            unknown = path if first.positioned else paths[0]
            what = f"the header of {unknown.name} has no position (neither sform nor qform is set)"
            fix = f"if its array belongs to the other file's as stored, give it the same header: {_SAME_HEADER}"
            raise UnderstudyError(what, where=unknown, fix=fix)
        apart = first.voxels_apart(header)
        if apart == float("inf"):
            shapes = [" x ".join(map(str, h.slice_shape)) for h in (header, first)]
            what = f"{path.name} has {shapes[0]} voxels (slices, rows, columns), {paths[0].name} {shapes[1]}"
            raise UnderstudyError(what, where=path, fix="resample both to one grid, or leave both files out")
        if apart > SAME_GRID:
            raise UnderstudyError(
                f"by the headers, the voxels of {path.name} ({header.axes}) lie up to {apart:.3g} voxels away from"
                f" those of {paths[0].name} ({first.axes})", where=path,
                fix="look at both in a viewer. If the arrays belong together as stored, give the file the header of"
                f" the other: {_SAME_HEADER}; otherwise resample it")  # fmt: skip
        headers.append(header.like(first))
    return headers


def read_voxels(path: Path, header: VolumeHeader, digest: Digest | None = None) -> NDArray[Any]:
    """The voxels [as `header.shape`] in the type they are stored in (float64 where the header scales them).

    `digest` is updated with the file's bytes, so that they need not be read again to be hashed.
    """
    raw = read_bytes(path)
    if digest is not None:
        digest.update(raw)
    size = header.offset + header.voxels * header.dtype.itemsize
    with reading(path, NIFTI):
        if size > len(raw) * DEFLATE:  # it may have changed since its header was read
            raise EOFError(f"{size:,} bytes are announced, the file has {len(raw):,}")
        content = _inflate(raw, size) if raw.startswith(_GZIP_MAGIC) else raw
        # a view of the inflated bytes: nibabel would copy them twice
        stored = np.frombuffer(content, header.dtype, header.voxels, header.offset)
    with np.errstate(all="ignore"):  # what overflows is found by whoever judges the values
        scaled = apply_read_scaling(stored, header.slope, header.intercept)
    return np.asarray(scaled).reshape(header.shape, order="F")


def whole_numbers(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """Label values as integers, rounded within `LABEL_TOLERANCE`; raises for NaN, fractions, below 0, above 65,535."""
    if values.dtype == bool:
        return values.view(np.uint8)
    if not values.size:
        return values.astype(np.uint8)
    if bad := not_finite(values):
        raise UnderstudyError(f"{bad}: these are no labels", where=path, fix="use 0 to 65535: set NaN to 0")
    low, high = float(values.min()), float(values.max())
    if not -LABEL_TOLERANCE <= low <= high <= 65_535 + LABEL_TOLERANCE:
        what, fix = f"values from {low:g} to {high:g} are no labels", "use 0 to 65535; save the label volume itself"
        raise UnderstudyError(what, where=path, fix=fix)
    small = np.uint8 if high < 255.5 else np.uint16
    if values.dtype.kind != "f":
        return values if values.dtype == np.uint8 else values.astype(small)
    nearest = np.rint(values)
    if (off := np.abs(values - nearest)).max() > LABEL_TOLERANCE:
        what = f"label values are not whole, for example {values.flat[int(off.argmax())]:.9g}"
        fix = "round them, threshold a probability map, or resample labels by nearest neighbour"
        raise UnderstudyError(what, where=path, fix=fix)
    return nearest.astype(small)


def _inflate(raw: bytes, size: int) -> bytes:
    """Inflates a gzip file of one or several members (bgzip, concatenation), checksums checked.

    What is much longer than the `size` that the header announces is not inflated: 3 MB of gzip can hold 3 GB.
    """
    members, left = [], size + (1 << 24)  # bytes, with some behind the last voxel
    while raw.startswith(_GZIP_MAGIC):
        member = isal_zlib.decompressobj(wbits=31)
        members.append(member.decompress(raw, max_length=left))
        left -= len(members[-1])
        if not member.eof:
            raise EOFError("it ends too early" if left > 0 else "it is longer than its header announces")
        raw = member.unused_data
    return members[0] if len(members) == 1 else b"".join(members)

"""Cohorts with faults of every kind that people have, from a seed, for tests and benchmarks/fuzz_inputs.py."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (24, 20, 7)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
HEAD, LESION = 400, 1000

STUDY = """
name: s
cohort:
  path: data
  layout: pattern
  channels: {T1w: "{patient}/{patient}_t1.nii.gz", FLAIR: "{patient}/{patient}_flair.nii.gz"}
  labels: "{patient}/{patient}_seg.nii.gz"
  classes: {1: lesion}
  skip_bad_patients: SKIP
slices: {resolution: 16}
split: {test_patients: 1, validation_fraction: 0.3}
trainings: [real]
segmenters: {unet: {training: {samples: 100}}}
"""


def write_cohort(root: Path, skip: bool = False, study: str = STUDY) -> None:
    """A clean cohort of four patients below `root/data`, and `root/study.yaml`."""
    for k in range(4):
        image, lesion = volumes(k)
        folder = root / "data" / f"p{k}"
        for name, voxels in (("t1", image[0]), ("flair", image[1]), ("seg", lesion)):
            save(folder / f"p{k}_{name}.nii.gz", voxels)
    (root / "study.yaml").write_text(study.replace("SKIP", str(skip).lower()))


def volumes(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[list[np.ndarray], np.ndarray]:
    """Two images in which lesions are brightest, and the lesion, away from the middle on all axes."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    head = x**2 + y**2 < 0.8
    lesion = ((x - 0.3) ** 2 + (y + 0.25) ** 2 < 0.08) & (z > -0.7)
    noise = np.random.default_rng(seed).integers(0, 30, (2, *shape))
    return [np.where(lesion, LESION, head * (HEAD + n)).astype(np.int16) for n in noise], lesion.astype(np.uint8)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def _again(path: Path, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    image = nib.load(path)
    save(path, *change(np.asarray(image.dataobj).copy(), image.affine.copy()))


def _voxels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda path: _again(path, lambda v, a: (change(v), a))


def _affine(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda path: _again(path, lambda v, a: (v, change(a)))


def _header(change: Callable[[nib.Nifti1Header], None]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        image = nib.load(path)
        made = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
        change(made.header)
        nib.save(made, path)

    return rewrite


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(path.read_bytes()))  # type: ignore[return-value]


def _unpositioned(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(gzip.compress(bytes(content)))


def _link(target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return link


def _turned(path: Path) -> None:
    nib.save(nib.as_closest_canonical(nib.load(path)), path)


def _put(value: float, dtype: type | None = None) -> Callable[[np.ndarray], np.ndarray]:
    def change(voxels: np.ndarray) -> np.ndarray:
        voxels = voxels if dtype is None else voxels.astype(dtype)
        voxels[0, 0, 0] = value
        return voxels

    return change


def _copy_of_first(path: Path) -> None:
    first = path.parent.parent / "p0" / path.name.replace(path.name.split("_")[0], "p0", 1)
    path.write_bytes(first.read_bytes())


# What is done to one file of one patient. Whether it is a fault is for `check` to say; `prepare` has to agree.
FAULTS: dict[str, Callable[[Path], object]] = {
    "none": lambda path: None,
    "missing": lambda path: path.unlink(),
    "empty file": lambda path: path.write_bytes(b""),
    "truncated": _bytes(lambda b: b[: len(b) // 2]),
    "not gzip": _bytes(lambda b: b"hello, this is no volume" * 30),
    "flipped byte": _bytes(lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 255]) + b[len(b) // 2 + 1 :]),
    "dangling link": _link("../../.git/annex/objects/absent"),
    "link to itself": lambda path: _link(path.name)(path),
    "LFS pointer": _bytes(lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "fifo": lambda path: (path.unlink(), os.mkfifo(path)),
    "zeros": _voxels(np.zeros_like),
    "constant": _voxels(lambda v: np.full_like(v, 1)),
    "NaN": _voxels(_put(np.nan, np.float32)),
    "inf": _voxels(_put(np.inf, np.float32)),
    "negative": _voxels(lambda v: v.astype(np.float32) - 300),
    "undershoot": _voxels(_put(-3, np.float32)),
    "scaled": _voxels(lambda v: v * np.float64(1.00000006)),
    "tiny": _voxels(lambda v: v * np.float64(1e-300)),
    "huge": _voxels(lambda v: v * np.float64(1e300)),
    "64 bit": _voxels(lambda v: v.astype(np.int64) << 40),
    "label 7": _voxels(_put(7)),
    "half": _voxels(_put(0.5, np.float32)),
    "complex": _voxels(lambda v: v.astype(np.complex64) * 1j),
    "RGB": _voxels(lambda v: np.zeros(v.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
    "grey background": _voxels(lambda v: np.maximum(v, v.max() // 3)),
    "cropped": _voxels(lambda v: v[:, :, 1:]),
    "2-D": _voxels(lambda v: v[:, :, 3]),
    "one slice of a side": _voxels(lambda v: v[:1]),
    "two volumes": _voxels(lambda v: np.stack([v, v], 3)),
    "fourth axis": _voxels(lambda v: v[..., None]),
    "turned": _turned,
    "other header": _affine(lambda a: np.eye(4)),
    "origin by 1 %": _affine(lambda a: a + np.outer([0.01, 0, 0, 0], [0, 0, 0, 1])),
    "origin by 40 %": _affine(lambda a: a + np.outer([0.4, 0, 0, 0], [0, 0, 0, 1])),
    "drift by 3 %": _affine(lambda a: a * [1, 1, 1.005, 1]),
    "wide pixels": _affine(lambda a: a * [1, 5, 1, 1]),
    "micrometres": _affine(lambda a: a * [1000, 1000, 1000, 1]),
    "singular": _affine(lambda a: a[:, [1, 1, 2, 3]]),
    "no position": _unpositioned,
    "metres": _header(lambda h: h.set_xyzt_units("meter")),
    "qform turned": _header(lambda h: h.set_qform(np.diag([1.0, -1, 2, 1]), code=1)),
    "qform moved": _header(lambda h: h.set_qform(AFFINE + np.outer([9, 9, 9, 0], [0, 0, 0, 1]), code=1)),
    "same as p0": _copy_of_first,
    "twice": lambda path: path.with_name(path.name[:-3]).write_bytes(path.read_bytes()),
}  # fmt: skip

# Faults that leave a file usable: of an image, and of an annotation.
HARMLESS = {
    "flair": {
        *("none", "undershoot", "scaled", "tiny", "huge", "64 bit", "label 7", "half", "grey background", "twice"),
        *("fourth axis", "turned", "origin by 1 %", "drift by 3 %", "qform moved", "no position"),
    },
    "seg": {
        *("none", "zeros", "constant", "scaled", "tiny", "64 bit", "grey background", "twice", "same as p0"),
        *("fourth axis", "turned", "origin by 1 %", "drift by 3 %", "qform moved", "no position"),
    },
}

# What is done to all files of a patient at once, which then still belong together.
WHOLE: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "half pixels": lambda v, a: (v.repeat(2, 0).repeat(2, 1), a * [0.5, 0.5, 1, 1]),
    "padded": lambda v, a: (np.pad(v, ((3, 3), (4, 4), (0, 0))), a),
    "padded over the power of two": lambda v, a: (np.pad(v, ((6, 6), (8, 8), (0, 0))), a),
    "far padded": lambda v, a: (np.pad(v, ((30, 30), (30, 30), (0, 0))), a),
    "slightly oblong": lambda v, a: (v, a * [1.3, 1, 1, 1]),
    "oblong": lambda v, a: (v, a * [3, 1, 1, 1]),
    "10 times": lambda v, a: (v, a * [10, 10, 10, 1]),
    "sagittal": lambda v, a: (v.transpose(2, 0, 1), a[:, [2, 0, 1, 3]][[0, 1, 2, 3]]),
    "other order": lambda v, a: (np.ascontiguousarray(v[::-1].swapaxes(0, 1)), _swapped(v, a)),
    "one slice": lambda v, a: (v[:, :, 3:4], a),
    "dim": lambda v, a: (v * (np.arange(v.shape[2]) == 1), a),
}


def _swapped(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The affine after the first axis was reversed and the first two were exchanged."""
    turned = affine.copy()
    turned[:, 3] += affine[:, 0] * (voxels.shape[0] - 1)
    turned[:, 0] *= -1
    return turned[:, [1, 0, 2, 3]]


def break_file(root: Path, patient: str, name: str, fault: str) -> None:
    """Does one of `FAULTS` to one file, if it is still there."""
    path = root / "data" / patient / f"{patient}_{name}.nii.gz"
    if path.is_file() and not path.is_symlink():
        try:
            FAULTS[fault](path)
        except Exception:  # an earlier fault left nothing that this one could be done to
            if not path.exists():
                path.write_bytes(b"")


def break_patient(root: Path, patient: str, fault: str) -> None:
    """Does one of `WHOLE` to all files of a patient that can still be read."""
    for path in sorted((root / "data" / patient).glob("*.nii.gz")):
        try:
            _again(path, WHOLE[fault])
        except Exception:
            continue

"""Pixels of foreign images, checked: grey values 0..255, annotations as codes or a channel a class, and sizes."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.exchange.spec import BRATS_CODES, FolderSpec
from understudy.io.files import reading
from understudy.io.folders import read_bytes
from understudy.io.foreign import PNG, Budget, not_finite
from understudy.io.nifti import LABEL_TOLERANCE
from understudy.slices import BACKGROUND, LabelClass, SliceSet, evenly_coded
from understudy.volumes import SliceGeometry, power_of_two

if TYPE_CHECKING:
    from understudy.exchange.sources import RawSlice, Source

HALF = 127.5  # a channel of one class holds the class above half of 255
_ROUNDING = 1e-4  # of the range: what single precision leaves of rounding
_EXAMPLE = "--values=-1,1 (or `values: [-1, 1]`)"
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF")  # also under the name of a PNG; Pillow reads some forty others
_MAX_BLOT_SHARE = 0.005  # share of annotated pixels below which an unknown value is a blot, not a code
_MIN_CODE_SHARE = 0.2  # share of the pixels far from all codes that a code which nobody named makes up
_PEAK_RATIO = 8  # times the mean of its neighbours: transitions between codes are spread out, codes are not


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and whole bytes of each chunk of a PNG, to its end, then (b"", what is behind it); ValueError for no PNG."""
    kind, at = b"", 8
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("no PNG")
    while kind != b"IEND":
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if at + 12 > len(content) or end > len(content):
            raise ValueError("no whole PNG")
        kind = content[at + 4 : at + 8]
        yield kind, content[at:end]
        at = end
    if at < len(content):
        yield b"", content[at:]


def read_png(path: Path) -> NDArray[np.uint8]:
    """[H, W] of an 8-bit grey PNG; refuses colours, palettes and 16 bits."""
    return decode_png(read_bytes(path), path)


def decode_png(content: bytes, path: Path) -> NDArray[np.uint8]:
    """As `read_png`, of the bytes of a file."""
    with reading(path, PNG), Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        mode, kind = image.mode, image.format
        if mode in ("L", "1"):
            Budget(path, PNG, len(content)).spend(image.width * image.height)
            return np.array(image.convert("L"), np.uint8)
    if mode in ("RGB", "RGBA", "LA", "P", "PA"):
        words = {"P": "colours of a palette", "PA": "colours of a palette", "LA": "grey with transparency"}
        what = f"the {kind} image has {words.get(mode, f'colours ({mode})')}, not one channel of grey values"
        raise UnderstudyError(what, where=path, fix="write one 8-bit grey image a channel")
    fix = "scale it to 0-255 and save it with 8 bits, so that all images are scaled alike"
    raise UnderstudyError(f"the {kind} image has more than 8 bits a pixel ({mode})", where=path, fix=fix)


def to_grey(values: NDArray[Any], spec: FolderSpec, where: Path, annotation: bool = False) -> NDArray[Any]:
    """The same as grey values 0..255: uint8 as they are, anything else as float32.

    An annotation in a file of its own is not scaled. Refuses NaN and what is out of range.
    """
    scaling = "as_is" if annotation else spec.values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise UnderstudyError(f"values of type {values.dtype} are no grey values", where=where, fix="save numbers")
    if values.dtype == np.uint8 and scaling == "as_is":
        return values
    if bad := not_finite(values):
        what = f"the {'annotation' if annotation else 'image'} holds {bad}"
        raise UnderstudyError(what, where=where, fix="correct or remove it")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    single = np.asarray(values, np.float32)
    seen = f"values from {low:g} to {high:g}"
    what = fix = ""  # set where the values cannot be meant
    if annotation:  # its values may lie between its codes, as a generator's do, but are no probabilities
        fix = "name each class's value: --codes NAME=VALUE,... (or `codes: {...}`)"
        if low < -LABEL_TOLERANCE or high > 255 + LABEL_TOLERANCE:
            what = f"the annotation has {seen}, not from 0 (background) to 255"
        elif 0 < high <= 1 + LABEL_TOLERANCE and np.abs(single - np.rint(single)).max() > LABEL_TOLERANCE:
            what = f"the annotation has fractions from {low:g} to {high:g}: it looks like a map of probabilities"
            fix = f"save (array > 0.5).astype('uint8'), and {fix}"
    elif scaling == "max":
        what = f"{seen} cannot be divided by their maximum" if low < 0 else ""
        fix = f"give the two numbers that become 0 and 255 instead: {_EXAMPLE}"
    elif scaling == "as_is":
        fix = f"say which become 0 and 255: {_EXAMPLE}, or --values max"
        if (low < 0 or high > 255) and not spec.clip:
            what = f"{seen} are no grey values 0 to 255"
        elif values.dtype.kind == "f" and 0 < high <= 1:
            what, fix = f"{seen} would all become black", "say which become 0 and 255, e.g. --values 0,1"
    else:
        bottom, top = scaling
        slack = _ROUNDING * (top - bottom)
        if (low < bottom - slack or high > top + slack) and not spec.clip:
            what = f"{seen} lie outside of {bottom:g} to {top:g}"
            fix = "correct `values`, or let what is outside be cut off: --clip (`clip: true`)"
        single = (single - np.float32(bottom)) * np.float32(255 / (top - bottom))
    if what:
        raise UnderstudyError(what, where=where, fix=fix)
    return single * np.float32(255 / (high or 1)) if scaling == "max" else np.clip(single, 0, 255)  # black stays black


def to_8_bit(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values rounded to the nearest of 0..255 (as StyleGAN's own export; guided-diffusion's rounds down)."""
    return grey if grey.dtype == np.uint8 else np.rint(grey).astype(np.uint8)


def nearest_codes(drawn: NDArray[Any], codes: Sequence[float]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Grey values [n, H, W] -> positions in `codes` of the nearest (the first on a tie), and the distance to it."""
    distances = np.abs(drawn[:, None].astype(np.float32) - np.asarray(codes, np.float32)[None, :, None, None])
    return distances.argmin(axis=1), distances.min(axis=1)


def strongest_class(drawn: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Channels of one class each, 0..255 [n, K, H, W] -> the strongest above half (0: none), mean distance to 0/255."""
    background = np.full_like(drawn[:, :1], HALF, dtype=np.float32)
    labels = np.concatenate([background, drawn], axis=1).argmax(axis=1)
    ideal = (labels[:, None] == np.arange(1, drawn.shape[1] + 1)[:, None, None]) * np.float32(255)
    return labels, np.abs(drawn - ideal).mean(axis=1)


class Annotation:
    """Grey values of annotations -> class indices, with counts that tell soft borders from codes that nobody named.

    A generator's annotation passes through all values between two codes at a border: these are spread out. A value
    that occurs far more often than its neighbours and lies far from every code is a code of its own. `known` are the
    classes that the set is to have, background first; None: those that the codes name.
    """

    def __init__(self, source: "Source", spec: FolderSpec, known: tuple[LabelClass, ...] | None, root: Path) -> None:
        self._one_each = source.annotated and bool(source.classes)  # a channel a class, in place of codes
        named: dict[str, float] = {name: float(i) for i, name in enumerate(source.classes, 1)} or spec.codes
        self.classes: tuple[LabelClass, ...] = (BACKGROUND,)
        if not source.annotated:
            named = {}
        elif known is not None:
            self.classes = known
        elif source.classes:
            self.classes = evenly_coded(dict(enumerate(source.classes, 1)))
        else:
            by_code = sorted((named or BRATS_CODES).items(), key=lambda entry: entry[1])
            self.classes = BACKGROUND, *(LabelClass(name, round(code), round(code)) for name, code in by_code)
        # without names, the codes are those of the classes
        codes = list(named.values()) or [float(entry.code) for entry in self.classes[1:]]
        indices = _indices(named, self.classes, root) if named else range(1, len(self.classes))
        self._table = np.asarray([0, *indices], np.uint8)  # code or channel -> class index
        self._names = [self.classes[i].name for i in indices]
        self._codes = np.asarray([0.0, 255.0] if self._one_each else [0.0, *codes], np.float64)
        gaps = np.diff(np.sort(self._codes))
        self._tolerance = float(spec.tolerance if spec.tolerance is not None else min(gaps, default=255) / 4)
        self._pixels = np.zeros(256, np.int64)  # of each grey value, in all annotations so far
        self._far = self._annotated = self._count = 0  # pixels far from every code, annotated pixels, slices
        self._sum = self._worst = 0.0  # of the slices' mean distances to their codes

    def decode(self, drawn: NDArray[Any], where: Path) -> tuple[NDArray[np.uint8], list[float]]:
        """Grey values [n, A, H, W] -> class indices uint8 [n, H, W], and each slice's mean distance to its codes."""
        if self._one_each:
            found, distance = strongest_class(drawn)
        else:
            found, distance = nearest_codes(drawn[:, 0], self._codes.tolist())
            grey = np.clip(np.rint(drawn[:, 0]), 0, 255).astype(np.uint8)
            self._pixels += np.bincount(grey.ravel(), minlength=256)
            self._far += int(np.count_nonzero(distance > self._tolerance))
            self._annotated += int(np.count_nonzero(drawn[:, 0] > self._tolerance))
            self._check(where, finished=False)
        each = distance.mean(axis=(1, 2), dtype=np.float64)
        self._sum += float(each.sum())
        self._worst = max(self._worst, float(each.max()))
        self._count += len(each)
        return self._table[found], [float(np.float32(d)) for d in each]

    def finish(self, root: Path) -> dict[str, Any]:
        """Looks at the whole set; returns codes, distances and the share of annotated pixels far from every code."""
        if not self._one_each:
            self._check(root, finished=True)
        return {
            "codes": None if self._one_each else dict(zip(self._names, self._codes[1:].tolist(), strict=True)),
            "mean_code_distance": self._sum / max(1, self._count), "largest_code_distance": self._worst,
            "tolerance": self._tolerance, "far_fraction": self._far / max(1, self._annotated),
        }  # fmt: skip

    def _check(self, where: Path, finished: bool) -> None:
        """Stops at codes that nobody named; `finished`: all annotations have been read."""
        listed = ", ".join(f"{name} {code:g}" for name, code in zip(self._names, self._codes[1:], strict=True))
        distance = np.abs(np.arange(256)[:, None] - self._codes[None])  # [value, code]
        # values far from all codes that stand out among their neighbours
        away = distance.min(axis=1) > self._tolerance
        padded = np.pad(np.where(away, self._pixels, 0), 3)
        around = sum(padded[3 + k : 259 + k] for k in (-3, -2, -1, 1, 2, 3)) / 6
        peak = self._pixels > _PEAK_RATIO * (around + 1)
        least = max(_MAX_BLOT_SHARE * self._pixels[1:].sum(), _MIN_CODE_SHARE * self._pixels[away].sum())
        unknown = away & peak & (self._pixels > least)
        unknown[0] = False
        # all values, where none is near a code. Early only where it looks like label values (1, 2, 4): noise of a
        # generator may come before its first lesion
        near = distance[:, 1:].min(axis=1, initial=np.inf) <= self._tolerance
        drawn = np.append(False, self._pixels[1:] > 0)
        if not unknown.any() and not self._pixels[near].any() and (finished or 2 <= drawn.sum() <= 4):
            unknown = drawn
        if unknown.any():
            values = sorted(np.flatnonzero(unknown).tolist(), key=lambda v: -self._pixels[v])
            seen = ", ".join(f"{v} ({self._pixels[v]:,} pixels)" for v in values[:5])
            what = f"the annotation has the value {seen}, far from every code ({listed})"
            fix = "name the codes in the files (--codes NAME=VALUE,... or `codes: {NAME: VALUE}`), or correct them"
            raise UnderstudyError(what, where=where, fix=fix)
        if finished and self._far > self._annotated / 2:
            what = f"most annotated pixels are more than {self._tolerance:g} grey values from every code ({listed})"
            fix = "name the codes, check which channel is the annotation, or raise `tolerance`"
            raise UnderstudyError(what, where=where, fix=fix)


def _indices(codes: dict[str, float], classes: tuple[LabelClass, ...], root: Path) -> list[int]:
    """Index among the classes of each named code; a name may be a part of a class's ("NCR" of "NCR/NET")."""
    names = [entry.name for entry in classes]
    indices = []
    for name, code in codes.items():
        fitting = [i for i, other in enumerate(names) if i and name == other]
        fitting = fitting or [i for i, other in enumerate(names) if i and name in other.split("/")]
        if len(fitting) != 1:
            example = [*get_close_matches(name, names[1:], n=1), *names[1:], "lesion"][0]
            fix = f"say which value is which of {', '.join(names[1:])}, e.g. --codes '{example}={code:g}'"
            raise UnderstudyError(f"the real slices have no class {name!r}", where=f"codes, for {root}", fix=fix)
        indices.append(fitting[0])
    return indices


@dataclass(frozen=True)
class Target:
    """What the slices are to stand beside: names, classes and size of the real ones."""

    channels: tuple[str, ...]
    classes: tuple[LabelClass, ...]
    resolution: int

    @classmethod
    def of(cls, slices: SliceSet) -> "Target":
        """Those of a slice set."""
        return cls(slices.channels, slices.classes, slices.resolution)


def geometry_of(raw: "RawSlice", spec: FolderSpec, target: Target | None) -> SliceGeometry:
    """How slices of this size are brought to the size that is wanted; refuses another unless it may be changed."""
    height, width = raw.images.shape[-2:]
    padded = power_of_two(max(height, width))
    wanted = target.resolution if target else spec.resolution if spec.sizes == "fit" and spec.resolution else padded
    if padded < wanted:
        what = f"images of {height} x {width} pixels beside real slices of {wanted} x {wanted}"
        fix = f"make them at {wanted} pixels, or run the study with `slices: {{resolution: {padded}}}`"
        raise UnderstudyError(what, where=raw.where, fix=fix)
    if (height, width) != (wanted, wanted) and spec.sizes == "refuse":
        square = height == width == padded
        what = f"where {wanted} x {wanted} are needed" if square else "are not square with a power of two"
        fix = f"pad to {padded} x {padded} and average to {wanted} x {wanted}: --sizes fit (or `sizes: fit`)"
        raise UnderstudyError(f"images of {height} x {width} pixels {what}", where=raw.where, fix=fix)
    return SliceGeometry.fit(height, width, wanted)

"""NumPy files as slices: stacks [N, C, H, W] or single slices [C, H, W], channels first or last, read item by item.

No file is ever unpickled. A `.npy` file is mapped, a member of an `.npz` file is inflated as a stream: neither is
in memory as a whole. An array whose shape can be read in several ways is refused, see `_forms`.
"""

import math
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.exchange.pixels import to_8_bit, to_grey
from understudy.exchange.sources import RawSlice, Source
from understudy.exchange.spec import ALIASES, BRATS_CODES, LABELS, PLAIN, FolderSpec
from understudy.io.files import reading
from understudy.io.folders import natural, read_bytes
from understudy.io.foreign import NUMPY, Budget
from understudy.io.readers import array_header, array_names

_IMAGE_WORDS = ("images", "image", "imgs", "img", "samples", "arr_0", "data", "x")
_LABEL_WORDS = (*ALIASES[LABELS], "y")
_STRIPS = 2.0  # ratio of the edges beyond which an image is hardly a slice
_SHORT = 0.8  # of the other axes, which are about equal: an axis that counts slices
_LOOKED_AT = 64  # slices in which an annotation is looked for
_OFF = 1.0  # grey values by which most of an annotation may miss its codes
_MOST_CHANNELS = 8  # of arrays whose channels have no names; an axis of pixels is longer


class ArrayFile:
    """One array of a .npy or .npz file, read item by item along its first axis; refuses Python objects."""

    def __init__(self, path: Path, member: str | None = None) -> None:
        self.path, self._member = path, member
        read_bytes(path, 200)  # says what is wrong with links and pointers
        with reading(path, NUMPY):
            if member is None:
                mapped = np.load(path, mmap_mode="r", allow_pickle=False)
                self.shape, self.dtype = mapped.shape, mapped.dtype
            else:
                with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as stream:
                    held = archive.getinfo(f"{member}.npy").file_size
                    self.shape, fortran, self.dtype = array_header(stream, held)
                    if fortran and len(self.shape) > 1:
                        raise ValueError("the array is stored column by column; save numpy.ascontiguousarray(array)")
            if len(self.shape) < 4:  # it may be a single slice, which is read as a whole, in single precision
                Budget(path, NUMPY).spend(math.prod(self.shape) * self.dtype.itemsize)

    def items(self) -> Iterator[NDArray[Any]]:
        """`array[0]`, `array[1]`, ..."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        with reading(self.path, NUMPY):
            if self._member is None:  # mapped again: a mapping keeps its file open, and there may be many
                yield from map(np.asarray, np.load(self.path, mmap_mode="r", allow_pickle=False))
                return
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self._member}.npy") as stream:
                array_header(stream, archive.getinfo(f"{self._member}.npy").file_size)
                for _ in range(self.shape[0]):
                    content = stream.read(size)
                    if len(content) < size:
                        raise EOFError("the array ends too early")
                    yield np.frombuffer(content, self.dtype).reshape(self.shape[1:])


class _Form(NamedTuple):
    """A way to read an array."""

    stack: bool  # its first axis counts slices; otherwise it is one slice
    axis: int | None  # of the channels in a slice, 0 or 2; None: a slice [H, W] of one channel
    depth: int  # size of that axis, channels and annotation together

    @property
    def words(self) -> str:
        """For messages: "[N, H, W, C] of 4 channels"."""
        inner = {None: "H, W", 0: "C, H, W", 2: "H, W, C"}[self.axis]
        what = f"{self.depth} channels" if self.depth > 1 else "one channel"
        return f"[{'N, ' if self.stack else ''}{inner}] of {what}"


def _forms(shape: tuple[int, ...], depths: Collection[int] | None) -> list[_Form]:
    """All ways to read an array of this shape.

    `depths` is what the number of channels, annotation included, may be. None: nobody named the channels, and an axis
    is one of channels if it has at most 8 entries, one of pixels if it has more.
    """
    ways: dict[int, list[tuple[bool, int | None]]] = {
        2: [(False, None)],
        3: [(False, 0), (False, 2), (True, None)],
        4: [(True, 0), (True, 2)],
    }
    forms = []
    for stack, axis in ways.get(len(shape), []):
        item = shape[1:] if stack else shape
        pixels = [n for i, n in enumerate(item) if i != axis]
        form = _Form(stack, axis, 1 if axis is None else item[axis])
        fits = form.depth <= _MOST_CHANNELS < min(pixels) if depths is None else form.depth in depths
        same = len(shape) == 3 and stack and shape[0] == 1  # as one slice of one channel
        if fits and not same and min(pixels) > 1 and min(shape) > 0:
            forms.append(form)
    return forms


class ArraySource(Source):
    """NumPy files with named channels; the annotation is the last channel, or an array of its own.

    With `plain` channels need no names (then all channels of the array are images) and there need not be an annotation.
    """

    def __init__(
        self, root: Path, files: Sequence[str], spec: FolderSpec, known: Sequence[str] | None, plain: bool = False
    ) -> None:
        super().__init__()
        self._said, self._spec, self._positions = spec.labels, spec, _positions(root / files[0], spec, plain)
        if missing := [name for name in known or () if name not in self._positions]:
            what = f"no channel of the array is called {', '.join(missing)}"
            where, fix = f"channels: {', '.join(self._positions)}", f"name all of {', '.join(known or ())}"
            raise UnderstudyError(what, where=where, fix=fix)
        opened = []  # id, images, labels
        for file, labels_file in _pairs(root, files):
            images, labels = self._arrays(root / file)
            if labels_file is not None:
                labels = self._arrays(root / labels_file, only=True)[0]
            opened.append((_stem(file), images, labels))
        self._apart = opened[0][2] is not None  # labels are arrays of their own
        if odd := next((images for _, images, labels in opened if (labels is not None) != self._apart), None):
            raise UnderstudyError("some arrays have labels and some have none", odd.path, "save all of them alike")
        last = max(self._positions.values(), default=-1) + 1
        self._depths: set[int] | None = {last + 1}  # what the number of channels may be; None: anything
        if not self._positions:
            self._depths = None
        elif self._apart:
            self._depths = {last}
        elif isinstance(self._said, int):
            self._depths = {max(last, self._said + 1)}
        elif plain:
            self._depths = {last, last + 1}
        depth = self._agreed([images for _, images, _ in opened])
        if not self._positions:
            names = {PLAIN: 0} if depth == 1 else {f"channel {i + 1}": i for i in range(depth)}
            self._positions = {name: i for name, i in names.items() if i != self._said}
            if depth > 1 and not isinstance(self._said, int):
                self.notes.append(f"all {depth} channels of the arrays are taken for images (--channels names them)")
        self._arrays_read = [(n, images, labels, self._form(images, labels, depth)) for n, images, labels in opened]
        said = self._apart or isinstance(self._said, int)
        self.annotated = said or depth > 1 + max(self._positions.values())
        self.channels = tuple(known or self._positions)
        self.count = sum(images.shape[0] if form.stack else 1 for _, images, _, form in self._arrays_read)
        if plain and self.annotated and not said:
            self._refuse_grey_annotation(depth)

    def _refuse_grey_annotation(self, depth: int) -> None:
        """Nobody said that the channel behind those with names is an annotation: it has to look like one."""
        drawn = (raw.drawn for raw in islice(self.slices(), _LOOKED_AT))
        seen = next((values for values in drawn if values.any()), None)
        if seen is None:
            return
        codes = np.array(list((self._spec.codes or BRATS_CODES).values()))
        off = np.abs(seen[seen > 0][:, None] - codes.astype(np.float32)).min(axis=1)
        if (off > _OFF).mean() > 0.5:
            names = ",".join([*self._positions, "NAME"])
            what = "the last channel of the arrays has no name, and does not look like an annotation of known codes"
            fix = f"--channels {names} if it is an image, else --labels {depth - 1} --codes NAME=VALUE,..."
            raise UnderstudyError(what, where=self._arrays_read[0][1].path, fix=fix)

    def _agreed(self, arrays: Sequence[ArrayFile]) -> int:
        """The number of channels, annotation included, by which all arrays can be read."""
        common: set[int] = set()
        for images in arrays:
            own, what = {form.depth for form in _forms(images.shape, self._depths)}, f"an array of shape {images.shape}"
            if not own and self._depths is None:
                what += f" is no image or stack of images with up to {_MOST_CHANNELS} channels"
                fix = "name its channels (--channels NAME,NAME,...), or save it as [N, C, H, W]"
                raise UnderstudyError(what, where=images.path, fix=fix)
            if not own:
                wanted = ", ".join(self._positions) + ("" if self._apart else " with the annotation")
                numbers = " or ".join(map(str, sorted(self._depths or ())))
                fix = "save [N, C, H, W] or [C, H, W] (or channels last), or name its channels (--channels)"
                raise UnderstudyError(f"{what} where {numbers} channels are expected ({wanted})", images.path, fix)
            if common and not common & own:
                what += f" beside others of {' or '.join(map(str, common))} channels"
                fix = "make all arrays with the same channels, or remove those of others"
                raise UnderstudyError(what, where=images.path, fix=fix)
            common = common & own or own
        if len(common) > 1:
            raise self._unclear(arrays[0], _forms(arrays[0].shape, self._depths))
        return common.pop()

    def _form(self, images: ArrayFile, labels: ArrayFile | None, depth: int) -> _Form:
        """The way to read the images; refuses labels of another shape."""
        shape = images.shape
        form, *others = [form for form in _forms(shape, self._depths) if form.depth == depth]
        if others:
            raise self._unclear(images, [form, *others])
        if form.stack and form.axis != 0:  # the third axis may count the slices, [H, W, Z] or [H, W, Z, C] of a patient
            count, height, width = shape[:3]
            strips = max(height, width) > _STRIPS * min(height, width)
            alike = max(count, height) < 1.5 * min(count, height)
            if strips or (width < _SHORT * min(count, height) and alike):
                shapes = f"{count} slices of {height} x {width} pixels, or {width} of {count} x {height}"
                clear = "array[:, None]" if len(shape) == 3 else "numpy.moveaxis(array, -1, 1)"
                fix = f"save numpy.moveaxis(array, 2, 0) if the third axis counts slices, {clear} if the first does"
                raise UnderstudyError(f"an array of shape {shape} is {shapes}", where=images.path, fix=fix)
        item, count = (shape[1:], shape[0]) if form.stack else (shape, 1)
        pixels = tuple(n for i, n in enumerate(item) if i != form.axis)
        allowed = [(count, *pixels), (count, 1, *pixels), *([pixels] if count == 1 else [])]
        if labels is not None and labels.shape not in allowed:
            what = f"labels of shape {labels.shape} for images of shape {shape}"
            raise UnderstudyError(what, where=labels.path, fix=f"save them as {allowed[0]}")
        return form

    def _unclear(self, images: ArrayFile, forms: Sequence[_Form]) -> UnderstudyError:
        fix = "save array[:, None] if these are slices of one channel, array[None] if it is one slice"
        if not self._positions:
            names = ",".join(f"NAME{i + 1}" for i in range(max(form.depth for form in forms)))
            fix = f"--channels {names} if it is one slice, --channels {PLAIN} if these are slices of one channel"
        what = f"an array of shape {images.shape} can be read as {' or as '.join(form.words for form in forms)}"
        return UnderstudyError(what, where=images.path, fix=fix)

    def _arrays(self, path: Path, only: bool = False) -> tuple[ArrayFile, ArrayFile | None]:
        """The images of a file, and its labels if it has an array for them."""
        if path.suffix.lower() == ".npy":
            return ArrayFile(path), None
        read_bytes(path, 200)
        with reading(path, NUMPY), zipfile.ZipFile(path) as archive:
            keys = array_names(archive)
        said = self._said if isinstance(self._said, str) else ""
        of_labels = [k for k in keys if (k == said if said else k.lower() in _LABEL_WORDS)]
        of_images = [k for k in keys if k not in of_labels]
        if len(of_images) > 1:
            of_images = [k for k in of_images if k.lower() in _IMAGE_WORDS]
        if only:
            of_images, of_labels = (of_images or of_labels), []
        if len(of_images) != 1 or len(of_labels) > 1 or (said and not of_labels):
            what = f"which array holds the images{' and which the labels' if not only else ''} is not clear"
            where = f"{path}: it has {', '.join(keys) or 'no array'}"
            raise UnderstudyError(what, where=where, fix="call them `images` and `labels`, or give --labels KEY")
        return ArrayFile(path, of_images[0]), ArrayFile(path, of_labels[0]) if of_labels else None

    def slices(self) -> Iterator[RawSlice]:
        """See `Source`."""
        order = [self._positions[channel] for channel in self.channels]
        for name, images, labels, form in self._arrays_read:
            drawn = None if labels is None else labels.items()
            if labels is not None and drawn is not None and len(labels.shape) == 2:
                drawn = iter([np.stack(list(drawn))])
            for number, item in enumerate(images.items() if form.stack else [np.stack(list(images.items()))]):
                several = form.stack and images.shape[0] > 1
                row = {"id": f"{name}_{number:07d}" if several else name}
                where = Path(f"{images.path}, slice {number}")
                image = item[None] if form.axis is None else np.moveaxis(item, form.axis, 0)
                grey = to_grey(image, self._spec, where)  # [C, H, W]
                if drawn is not None:
                    codes = to_grey(next(drawn).reshape(1, *grey.shape[-2:]), self._spec, where, annotation=True)
                elif self.annotated:
                    codes = grey[[self._said if isinstance(self._said, int) else len(grey) - 1]]
                else:
                    codes = np.zeros_like(grey[:1])
                yield RawSlice(row, to_8_bit(grey[order]), codes, where, where)


def _positions(path: Path, spec: FolderSpec, plain: bool) -> dict[str, int]:
    """Position of each channel in the array; names alone stand in the array's order."""
    if not spec.named and not plain:
        fix = "name them in the array's order, e.g. --channels T1w,T2w,FLAIR,T1wGd (an annotation comes last)"
        raise UnderstudyError("an array does not say which of its channels is which", where=path, fix=fix)
    if isinstance(spec.labels, dict):
        raise UnderstudyError("an array has one annotation, of codes", "labels", "give its position or its key")
    taken = spec.labels if isinstance(spec.labels, int) else None
    free = (i for i in range(len(spec.named) + 1) if i != taken)
    positions = {}
    for name, said in spec.named.items():
        if isinstance(said, str) and said:
            what = f"{said!r} is not a position in an array"
            raise UnderstudyError(what, where=f"channels.{name}", fix="give a number, counted from 0")
        positions[name] = said if isinstance(said, int) else next(free)
    if taken in positions.values():
        what = f"position {taken} is said to be both the annotation and a channel"
        raise UnderstudyError(what, where="labels", fix="give each its own position, counted from 0")
    return positions


def _stem(file: str) -> str:
    return re.sub(r"\.(npy|npz)$", "", file, flags=re.IGNORECASE)


def _pairs(root: Path, files: Sequence[str]) -> list[tuple[str, str | None]]:
    """(file of images, file of their labels or None), sorted."""
    words = "|".join(map(re.escape, sorted((*_IMAGE_WORDS, *_LABEL_WORDS), key=len, reverse=True)))
    word_at_end = re.compile(rf"(?P<rest>.*?)(?:^|[-_.])(?P<word>{words})", re.IGNORECASE)
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for file in files:
        matches = [(part, word_at_end.fullmatch(part)) for part in _stem(file).split("/")]
        is_labels = any(match and match["word"].lower() in _LABEL_WORDS for _, match in matches)
        kept = [match["rest"] if match else part for part, match in matches]
        key = "/".join(part for part in kept if part)  # what a file of images and that of its labels have in common
        target = labels if is_labels else images
        if key in target:
            where = f"{root}: {target[key]} and {file}"
            raise UnderstudyError("two files with the same name", where=where, fix="remove one of them")
        target[key] = file
    for kind, other, own, others in (("labels", "images", labels, images), ("images", "labels", images, labels)):
        if labels and (lonely := sorted(own.keys() - others.keys(), key=natural)):
            fix = f"add the {other}, or remove the {kind}"
            raise UnderstudyError(f"{kind} without {other}", where=root / own[lonely[0]], fix=fix)
    return [(images[key], labels.get(key)) for key in sorted(images, key=natural)]

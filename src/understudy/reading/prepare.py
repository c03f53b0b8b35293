"""The two kinds of reading study: pictures under names that say nothing, and apart from them the answer key."""

import io
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, sha256_file, write_json
from understudy.io.readers import read_array
from understudy.io.seals import check_opened
from understudy.io.settings import Settings
from understudy.reading.folder import FORMAT, KEY_FORMAT, seal
from understudy.reading.statistics import auc
from understudy.report.plots.slices import Pixels, channel_window, colours, overlay, square_around, upright, windowed
from understudy.roles import HELD_OUT, check_alike, part_of
from understudy.slices import SliceSet
from understudy.volumes import TestVolume, VolumeSet

_ASKED = "Each case is one slice with its sequences. Say whether it is of a patient (R) or made by a computer (S)"
_KEYS = "Space goes on, Backspace goes back. Take breaks: every answer is kept at once."
INSTRUCTIONS = {
    "confidence": f"{_ASKED}, and how sure you are from 1 (guessing) to 5 (certain). {_KEYS}",
    "binary": f"{_ASKED}. {_KEYS}",
    "segmentations": "Two segmentations of the same slice. Which would you rather correct: A, B, or no difference (=)?"
    " Give each a mark from 1 (useless) to 5 (nothing to correct). O hides them and shows them again.",
}
_FEWER = "ask for fewer slices, or allow other splits (real_count, synthetic_count, splits)"
_PREDICTIONS = "give the folders `predictions` of two evaluate jobs of the same study"
TELLING = 0.9  # AUC of a plain number of the pictures of which the steward is warned
_DARK = 26  # grey value below which a pixel counts as background: a tenth of the range
_MEASURES = (
    "size once compressed (hidden: all files have one size)",
    "share of pixels that are exactly black",
    "noise in the background",
    "area of the head (height of the slice)",
    "brightness of the head",
    "sharpness",
)


class Design(Settings):
    """How a reading study is drawn.

    `balanced`: as many synthetic as real slices, their number not told, some shown twice. `paper`: as many of each
    generator as real ones, their number told (Akbar et al., section 4.4).
    """

    design: Literal["balanced", "paper"] = "balanced"
    real_count: int = Field(100, ge=1)  # real slices
    synthetic_count: int | None = Field(None, ge=1)  # slices of each generator; None: as the design says
    repeats: float | None = Field(None, ge=0, le=1)  # share shown twice; None: 0.1, or 0 in the paper's design
    channels: list[str] | None = None  # shown, in panels; None: all
    splits: list[str] = Field(list(HELD_OUT))  # real slices are of these parts
    pixels: int = Field(512, ge=32, le=2048)  # edge of a panel as shown
    scale: Literal["confidence", "binary"] = "confidence"  # ask how sure, or only which
    margin: float = Field(0.1, gt=0, lt=1)  # difference of rates that still counts as none, set before reading
    floor: int = Field(0, ge=0, le=64)  # grey values (of 255) below it are shown black: hides a noisy background
    title: str = "Real or synthetic?"
    seed: int = Field(0, ge=0)


class _Case(NamedTuple):
    source: str  # "real" or the generator's name
    row: int
    subject: str  # "" if synthetic


def prepare(real: SliceSet, synthetic: Mapping[str, SliceSet], out: Path, key: Path, design: Design) -> dict[str, Any]:
    """Draws the cases, writes `study.json` (returned), `items.json` and `images/` to `out`, and the key to `key`.

    Args:
        real: slices of held-out patients.
        synthetic: generator -> its slices.
    """
    _check_places(out, key)
    shown = _channels(real, synthetic, design)
    rng, paper = np.random.default_rng(design.seed), design.design == "paper"
    cases = _draw_real(real, design, rng) + _draw_synthetic(synthetic, design, rng)
    share = design.repeats if design.repeats is not None else (0.0 if paper else 0.1)
    repeated = [int(i) for i in rng.choice(len(cases), round(share * len(cases)), replace=False)]
    ids = [secrets.token_hex(8) for _ in range(len(cases) + len(repeated))]
    numbers = dict(zip(ids, [*range(len(cases)), *repeated], strict=True))  # item -> number of its case
    sources = {"real": real, **synthetic}

    # One window for all, from real slices only: 0 to their 99.5th percentile.
    images, _ = real.read(np.unique([c.row for c in cases if c.source == "real"]))
    window = {name: channel_window(images[:, k]) for k, name in enumerate(real.channels)}
    building = _new_folder(out)
    items: list[dict[str, Any]] = []
    plain: dict[str, list[Any]] = {name: [] for name in sources}  # [cases, measures] of each
    for item in sorted(numbers):  # in random order, as files may tell when they were written
        case = cases[numbers[item]]
        pictures = _panels(sources[case.source], case.row, shown, window, design.pixels, design.floor)
        items.append({"id": item, "panels": _save_panels(building, pictures)})
        plain[case.source].append(np.mean([_measure(picture) for _, picture in pictures], axis=0))

    entries = {
        item: {**cases[n]._asdict(), "repeat_of": ids[n] if i >= len(cases) else ""}
        for i, (item, n) in enumerate(numbers.items())
    }
    composition = ""  # what readers are told of the mix: all of it in the paper's design, nothing otherwise
    if paper:
        counts = Counter(case.source for case in cases)
        made = ", ".join(f"{counts[name]} of one generator" for name in synthetic)
        composition = f"{len(cases)} cases: {counts['real']} real; synthetic: {made}."
    about = {"kind": "real_or_synthetic", "composition": composition, "instructions": INSTRUCTIONS[design.scale],
             **design.model_dump(include={"title", "scale", "margin", "seed", "design"})}  # fmt: skip
    sets = {name: slices.content_hash for name, slices in sources.items()}
    return _finish(building, out, key, about, items, {"items": entries, "sets": sets, "telltales": _shortcuts(plain)})


def _channels(real: SliceSet, synthetic: Mapping[str, SliceSet], design: Design) -> tuple[str, ...]:
    """Those shown, of sets that can be read beside each other: a reader would tell sets by their channels or size."""
    if not synthetic:
        raise UnderstudyError("a reading study needs synthetic slices", fix="give --synthetic NAME=SET")
    if "real" in synthetic:
        raise UnderstudyError('a generator cannot be called "real"', fix="give it another name: --synthetic NAME=SET")
    check_alike([part_of(name, slices) for name, slices in {"real": real, **synthetic}.items()])
    shown = tuple(design.channels or real.channels)
    if unknown := sorted(set(shown) - set(real.channels)):
        raise UnderstudyError(f"no channel {', '.join(unknown)}", where=real.path, fix=f"use some of {real.channels}")
    return shown


def _draw_real(slices: SliceSet, design: Design, rng: np.random.Generator) -> list[_Case]:
    """Real slices of held-out patients, one patient after the other, so that none dominates."""
    part, count = part_of("real", slices, design.splits), design.real_count
    rows, subjects = part.rows, part.patients
    if len(rows) < count:
        what = f"{count} real slices are asked for, but held-out patients have {len(rows)}"
        raise UnderstudyError(what, where=slices.path, fix=_FEWER)
    waiting = {s: list(rng.permutation(rows[subjects == s])) for s in rng.permutation(np.unique(subjects))}
    found: list[_Case] = []
    while len(found) < count:
        for subject, left in waiting.items():
            if left and len(found) < count:
                found.append(_Case("real", int(left.pop()), str(subject)))
    return found


def _draw_synthetic(sets: Mapping[str, SliceSet], design: Design, rng: np.random.Generator) -> list[_Case]:
    """As many of each generator as the design says; balanced: as many together as real ones."""
    each, more = divmod(design.real_count, len(sets))
    found: list[_Case] = []
    for i, (name, slices) in enumerate(sets.items()):
        count = design.synthetic_count or (design.real_count if design.design == "paper" else each + (i < more))
        if count > len(slices):
            what = f"{count} slices of {name} are asked for, but there are {len(slices)}"
            raise UnderstudyError(what, where=slices.path, fix=_FEWER)
        found += [_Case(name, int(row), "") for row in rng.choice(len(slices), count, replace=False)]
    return found


def _measure(picture: Pixels) -> tuple[float, ...]:
    """The plain numbers of a panel, in the order of `_MEASURES`."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=6)
    head, grey = picture >= _DARK, picture.astype(np.float32)
    steps = np.abs(grey[1:, 1:] - grey[:-1, 1:]) + np.abs(grey[1:, 1:] - grey[1:, :-1])  # to both neighbours
    inside = steps[head[1:, 1:] & head[:-1, :-1]]
    noise = float(picture[~head].std()) if not head.all() else 0.0
    brightness = float(picture[head].mean()) if head.any() else 0.0
    sharpness = float(inside.mean()) if inside.size else 0.0
    return float(file.tell()), float((picture == 0).mean()), noise, float(head.mean()), brightness, sharpness


def _shortcuts(plain: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """How well each plain number alone would tell a generator from real slices (AUC, 0.5 to 1), most telling first."""
    rows = []
    for generator in (name for name in plain if name != "real"):
        for column, measure in enumerate(_MEASURES):
            real, made = (np.array(plain[name])[:, column] for name in ("real", generator))
            value = auc(real, made)[0]
            rows.append({"measure": measure, "generator": generator, "auc": max(value, 1 - value)})
    return sorted(rows, key=lambda row: (-row["auc"], row["generator"], row["measure"]))


def prepare_segmentations(
    volumes: Path, first: tuple[str, Path], second: tuple[str, Path], out: Path, key: Path, *, count: int = 50,
    channel: str = "", pixels: int = 640, seed: int = 0, margin: float = 0.1,
) -> dict[str, Any]:  # fmt: skip
    """Makes the study from the test volumes and two folders of predictions of the same patients.

    Args:
        volumes: `volumes` of a study's prepare job.
        first, second: (name, folder of `<subject>.npz` whose `prediction` is uint8 [Z, H, W]).
        count: cases: slices on which the two differ, as many of each patient as there are, up to an equal share.
        channel: shown under the segmentations; "" takes FLAIR, or the last one.
        pixels: edge of a panel, which shows the square around the patient's head.
    """
    _check_places(out, key)
    opened, rng = VolumeSet.open(volumes), np.random.default_rng(seed)
    channel = channel or ("FLAIR" if "FLAIR" in opened.channels else opened.channels[-1])
    if channel not in opened.channels:
        raise UnderstudyError(f"there is no channel {channel!r}", fix=f"use one of {', '.join(opened.channels)}")
    names, folders = (first[0], second[0]), (first[1], second[1])
    subjects = [s for s in opened.subjects("test") if all((folder / f"{s}.npz").is_file() for folder in folders)]
    if not subjects:
        raise UnderstudyError("no test patient has predictions in both folders", where=second[1], fix=_PREDICTIONS)
    building = _new_folder(out)
    items: list[dict[str, Any]] = []
    entries: dict[str, Any] = {}
    each = -(-count // len(subjects))
    for subject in map(str, rng.permutation(subjects)):
        pair = []  # uint8 [Z, H, W] of each
        for folder in folders:
            check_opened(folder / f"{subject}.npz")
            pair.append(read_array(folder / f"{subject}.npz", "prediction"))
        picture = _Picture(opened, opened.read(subject), opened.channels.index(channel), pixels)
        differing = rng.permutation(np.flatnonzero((pair[0] != pair[1]).any((1, 2))))
        for z in differing[: min(each, count - len(items))].tolist():
            item, swapped = secrets.token_hex(8), bool(rng.integers(2))
            shown = zip("AB", (pair[swapped], pair[not swapped]), strict=True)
            drawn = [(letter, picture.with_labels(z, labels[z])) for letter, labels in shown]
            # "plain" is shown in the place of both while O hides the segmentations
            items.append({"id": item, "panels": _save_panels(building, [*drawn, ("plain", picture.plain(z))])})
            entries[item] = {"A": names[swapped], "B": names[not swapped], "subject": subject, "z": z}
    if not items:
        shutil.rmtree(building)
        raise UnderstudyError("the two segmentations are the same", where=second[1], fix="give two other models")
    named = [c.name for c in opened.classes[1:]]
    about = {"kind": "segmentations", "title": "Which segmentation?", "composition": "", "scale": "confidence",
             "margin": margin, "seed": seed, "design": "segmentations", "instructions": INSTRUCTIONS["segmentations"],
             "legend": [list(pair) for pair in zip(named, colours(len(named)), strict=True)]}  # fmt: skip
    return _finish(building, out, key, about, items, {"items": entries, "pair": list(names)})


class _Picture:
    """Slices of one volume, cut to the square around the head in all of them; every panel has `pixels` x `pixels`."""

    def __init__(self, volumes: VolumeSet, volume: TestVolume, under: int, pixels: int) -> None:
        self.images, self.grid, self.axes = volume.images[:, under], volume.geometry, volumes.axes
        self.window, self.pixels, self.classes = channel_window(self.images), pixels, len(volumes.classes) - 1
        self.box = square_around(self._whole(self.images.max(0)) > 0, smallest=16, margin=0.04)

    def _whole(self, image: Pixels) -> Pixels:
        """A slice as the network saw it, on the grid of the truth, upright."""
        grid = self.grid
        big = np.asarray(Image.fromarray(image).resize((grid.padded, grid.padded), Image.Resampling.BICUBIC))
        return upright(grid.on_original_grid(big), self.axes)

    def _cut(self, image: Pixels, how: Image.Resampling) -> Pixels:
        top, bottom, left, right = self.box
        cut = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
        return np.asarray(cut.resize((self.pixels, self.pixels), how))

    def plain(self, z: int) -> Pixels:
        return self._cut(self._whole(windowed(self.images[z], self.window)), Image.Resampling.BICUBIC)

    def with_labels(self, z: int, labels: Pixels) -> Pixels:
        """RGB of the slice and class indices [H, W] on the grid of the truth."""
        marks = self._cut(upright(labels, self.axes), Image.Resampling.NEAREST)
        width = max(1, round(self.pixels / (self.box[1] - self.box[0]) / 2))
        return overlay(self.plain(z), marks, self.classes, fill=0.2, width=width)


def _check_places(out: Path, key: Path) -> None:
    """Raises `UnderstudyError` for places that are taken, and for a key that readers could find."""
    for place in (out, key):
        if place.exists():
            raise UnderstudyError("there is something already", where=place, fix="give another place, or remove it")
    if out.resolve() in key.resolve().parents:
        raise UnderstudyError("the answer key lies in the folder shown to readers", where=key, fix="give another --key")


def _new_folder(out: Path) -> Path:
    """An empty folder beside `out`, which `_finish` renames to it."""
    building = out.with_name(f".{out.name}.partial")  # no name that a user gives
    shutil.rmtree(building, ignore_errors=True)
    (building / "images").mkdir(parents=True)
    return building


def _finish(
    building: Path, out: Path, key: Path, about: dict[str, Any], items: list[dict[str, Any]], truth: dict[str, Any]
) -> dict[str, Any]:
    """Writes the key, then the study with its hash, and renames the folder; returns study.json."""
    now = datetime.now(UTC)
    created = now.isoformat(timespec="seconds")
    about = {"format": FORMAT, **about, "software": f"understudy {__version__}", "created": created}
    write_json(building / "items.json", sorted(items, key=lambda entry: entry["id"]))
    for file in (building / "images").iterdir():  # nobody learns in which order they were made
        os.utime(file, (now.timestamp(), now.timestamp()))
    # The salt lets the key's hash, which the study records before anybody reads, be told to all.
    write_json(key, {"format": KEY_FORMAT, "salt": secrets.token_hex(32), "sealed": seal(building, about), **truth})
    key.chmod(0o600)
    study = {**about, "key_sha256": sha256_file(key)}
    write_json(building / "study.json", study)
    building.rename(out)
    return study


def _panels(
    slices: SliceSet, row: int, channels: Sequence[str], window: Mapping[str, tuple[float, float]], pixels: int,
    floor: int,
) -> list[tuple[str, Pixels]]:  # fmt: skip
    """(channel, uint8 [pixels, pixels]) of a slice, by one rule for all sets: window, upright, bicubic, floor."""
    images, _ = slices.read([row])
    found = []
    for name in channels:
        grey = upright(windowed(images[0, slices.channels.index(name)], window[name]), slices.axes)
        picture = Image.fromarray(np.ascontiguousarray(grey)).resize((pixels, pixels), Image.Resampling.BICUBIC)
        image = np.asarray(picture)
        found.append((name, np.where(image < floor, np.uint8(0), image)))
    return found


def _save_panels(folder: Path, pictures: Sequence[tuple[str, Pixels]]) -> list[dict[str, str]]:
    """Writes PNGs without metadata under random names; returns the panels of items.json.

    They are not compressed: how well a slice compresses tells real from synthetic, and so would the size of its file.
    """
    found = []
    for label, picture in pictures:
        file = f"images/{secrets.token_hex(8)}.png"
        with atomic_path(folder / file) as path:
            Image.fromarray(picture).save(path, format="PNG", compress_level=0)
        found.append({"file": file, "label": label})
    return found

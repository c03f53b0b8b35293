"""A SliceSet for other people's programs: PNG files as the paper's authors write them, and nnU-Net v2's data sets."""

import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.exchange.description import describe
from understudy.exchange.spec import LABELS
from understudy.io.files import write_json, writing
from understudy.runtime.progress import track
from understudy.slices import SliceSet

# folder and end of the file's name, as in the paper's repository; other channels are called by their own names
AUTHORS_NAMES = {"T1w": "T1", "T1wGd": "T1ce", "T2w": "T2", "FLAIR": "FLAIR", LABELS: "Seg"}
_WORKERS = 2  # threads that compress PNG files
_COMPRESSION = 3  # of PNG: a few per cent larger than the highest level, in a third of the time


def export_images(slices: SliceSet, out: str | Path, progress: bool = True) -> int:
    """Writes `out/<CHANNEL>/<id>_<CHANNEL>.png` for each channel and the annotation as codes; returns the slices.

    For example T1/seed0007_T1.png, T1ce/seed0007_T1ce.png, ..., Seg/seed0007_Seg.png with 0, 51, 102, 204, and
    `understudy-images.json`, which says what the channels, codes and slices are.
    """
    reading, cases = png_reading(slices), file_names(slices)
    files = [f"{name}/{{}}_{name}.png" for name in (*reading["channels"].values(), reading["labels"])]
    codes = [entry.code for entry in slices.classes]
    with new_folder(out) as folder:
        _write(slices, np.arange(len(slices)), cases, folder, files, slices.channels, codes, progress)
        describe(slices, folder, reading, {case: row for row, case in enumerate(cases)})
    return len(slices)


def png_names(channels: Sequence[str]) -> dict[str, str]:
    """Channel, or `LABELS` -> what it is called in the files of `export_images`, all different."""
    names: dict[str, str] = {}
    for channel in (LABELS, *channels):
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", AUTHORS_NAMES.get(channel, channel)).strip("._") or "channel"
        taken = {used.lower() for used in names.values()}
        again = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(2)))
        names[channel] = next(n for n in again if n.lower() not in taken)
    return names


def png_reading(slices: SliceSet) -> dict[str, Any]:
    """The fields of a `FolderSpec` that reads what `export_images` writes."""
    names = png_names(slices.channels)
    return {
        "layout": "png",
        "pattern": "{channel}/{id}_{channel}.png",
        "labels": names.pop(LABELS),
        "channels": names,
        "codes": {c.name: c.code for c in slices.classes[1:]},
    }


def nnunet_reading(slices: SliceSet, raw: str) -> dict[str, Any]:
    """The fields of a `FolderSpec` that reads what `export_nnunet` writes; `raw` is the data set below the folder."""
    return {
        "layout": "png",
        "channels": {c: f"{raw}/images*/{{id}}_{i:04d}.png" for i, c in enumerate(slices.channels)},
        "labels": f"{raw}/labels*/{{id}}.png",
        "codes": {c.name: i for i, c in enumerate(slices.classes) if i},
    }


def export_nnunet(
    slices: SliceSet, out: str | Path, number: int = 501, name: str = "Understudy", folds: int = 5,
    synthetic: SliceSet | None = None, seed: int = 0, progress: bool = True,
) -> Path:  # fmt: skip
    """Writes a 2D data set that nnU-Net v2 trains on unchanged; returns its folder.

    `out/nnUNet_raw/Dataset501_Understudy` holds `imagesTr`, `labelsTr` and `dataset.json`; test patients go to
    `imagesTs` and `labelsTs`, which nnU-Net never trains on. `splits_final.json` in
    `out/nnUNet_preprocessed/Dataset501_Understudy`, where nnU-Net looks for it, keeps the slices of a patient in one
    fold: nnU-Net's own folds are over files, and would put neighbouring slices into training and validation.

    Args:
        slices: real or synthetic; slices without a subject are patients of their own.
        synthetic: further slices, in the training part of every fold and in no validation part. Their generator has
            seen the patients of all folds: a fold's validation score says less than the test patients' (`imagesTs`).

    Raises:
        UnderstudyError: the folder is not empty, too few patients, sets that do not fit together, disk full.
    """
    title = f"Dataset{number:03d}_{name}"
    if not 1 <= number <= 999 or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        fix = "use a number from 1 to 999 and letters, digits, - and _"
        raise UnderstudyError(f"nnU-Net cannot call a data set {title}", fix=fix)
    index, cases = slices.index, file_names(slices)
    is_test = (index["split"] == "test").to_numpy() if "split" in index else np.zeros(len(index), bool)
    training, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    subjects = index["subject"].astype(str).to_numpy() if "subject" in index else np.array(cases, object)
    splits = patient_folds([cases[i] for i in training], subjects[training].tolist(), folds, seed)
    parts = [(slices, training, cases, "Tr"), *([(slices, test, cases, "Ts")] if len(test) else [])]
    added: list[str] = []
    if synthetic is not None:
        _refuse_misfit(synthetic, slices)
        added = [f"synthetic_{case}" for case in file_names(synthetic)]
        parts.insert(1, (synthetic, np.arange(len(synthetic)), added, "Tr"))
    for split in splits:
        split["train"] += added
    raw = Path("nnUNet_raw") / title
    with new_folder(out) as folder:
        for part, rows, names, kind in parts:
            files = [f"images{kind}/{{}}_{i:04d}.png" for i in range(len(slices.channels))] + [f"labels{kind}/{{}}.png"]
            values = [slices.class_names.index(n) + 1 for n in part.class_names]
            _write(part, rows, names, folder / raw, files, slices.channels, [0, *values], progress)
        write_json(folder / "nnUNet_preprocessed" / title / "splits_final.json", splits)
        dataset = {
            "name": name, "channel_names": {str(i): channel for i, channel in enumerate(slices.channels)},
            "labels": {entry.name: i for i, entry in enumerate(slices.classes)},
            "numTraining": len(training) + len(added), "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO", "source": {"content_hash": slices.content_hash},
        }  # fmt: skip
        write_json(folder / raw / "dataset.json", dataset)
        reading = nnunet_reading(slices, raw.as_posix())
        describe(slices, folder, reading, {case: row for row, case in enumerate(cases)})
    return Path(out) / raw


def _refuse_misfit(synthetic: SliceSet, real: SliceSet) -> None:
    names = sorted({*real.channels} - {*synthetic.channels}) + sorted({*synthetic.class_names} - {*real.class_names})
    if names or synthetic.resolution != real.resolution:
        why = f"{synthetic.resolution} pixels, not {real.resolution}"
        why = f"channel or class {', '.join(names)} is in one of them only" if names else why
        raise UnderstudyError(f"the sets do not fit together: {why}", synthetic.path, "use sets of one study")


def patient_folds(cases: Sequence[str], subjects: Sequence[str], folds: int, seed: int) -> list[dict[str, list[str]]]:
    """Cross-validation over patients: each patient's cases are in one validation part, and in it only."""
    patients = np.unique(np.asarray(subjects, str))
    if folds < 2 or len(patients) < folds:
        fix = f"use from 2 to {max(2, len(patients))} folds"
        raise UnderstudyError(f"{folds} folds of {len(patients)} patients", fix=fix)
    fold_of = {p: i % folds for i, p in enumerate(np.random.default_rng(seed).permutation(patients).tolist())}
    splits: list[dict[str, list[str]]] = [{"train": [], "val": []} for _ in range(folds)]
    for case, subject in zip(cases, map(str, subjects), strict=True):
        for fold, split in enumerate(splits):
            split["val" if fold == fold_of[subject] else "train"].append(case)
    return splits


def file_names(slices: SliceSet) -> list[str]:
    """The ids as names of files, made different where only characters that files cannot have set them apart."""
    if "id" not in slices.index:
        raise UnderstudyError("the slices have no ids", where=slices.path, fix="write the set with a column `id`")
    names = [re.sub(r"[^A-Za-z0-9_.-]+", "_", str(entry)).strip("._") or "slice" for entry in slices.index["id"]]
    if len({n.lower() for n in names}) == len(names):
        return names
    return [f"{name}_{i:0{len(str(len(names)))}d}" for i, name in enumerate(names)]


def _write(
    slices: SliceSet, rows: NDArray[np.int64], cases: Sequence[str], folder: Path, files: Sequence[str],
    channels: Sequence[str], values: Sequence[int], progress: bool,
) -> None:  # fmt: skip
    """Writes PNG files of some rows.

    `files` are below the folder, with {} for the case: one a channel, and one for the annotation, in which the classes
    have these `values`.
    """
    order, table = [slices.channels.index(channel) for channel in channels], np.array(values, np.uint8)

    def save(path: Path, pixels: NDArray[np.uint8]) -> None:
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, compress_level=_COMPRESSION)

    with track(len(rows), "writing", "slices", show=progress) as meter, ThreadPoolExecutor(_WORKERS) as pool:
        for block, images, labels in slices.blocks(rows):
            paths = [folder / file.format(cases[row]) for row in block.tolist() for file in files]
            pixels = [p for image, label in zip(images, labels, strict=True) for p in (*image[order], table[label])]
            with writing(paths[0].parent):
                for parent in {path.parent for path in paths}:
                    parent.mkdir(parents=True, exist_ok=True)
                list(pool.map(save, paths, pixels))
            meter.advance(len(block))


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Yields a temporary folder beside `out` that becomes `out` if the block succeeds, so that no half of an export
    looks like a whole; raises if there is anything in `out`."""
    out = Path(out).absolute()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UnderstudyError("the folder is not empty", where=out, fix="use a new folder, or delete this one")
    building = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with writing(out):
        building.mkdir(parents=True)
        try:
            yield building
            os.replace(building, out)
        finally:
            shutil.rmtree(building, ignore_errors=True)

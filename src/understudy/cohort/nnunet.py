"""Data sets of nnU-Net: `dataset.json`, `imagesTr/CASE_0000.nii.gz` (a file a channel), `labelsTr/CASE.nii.gz`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.cohort.config import LABELS, Found, Note, Scan, described_classes
from understudy.errors import UnderstudyError

_READABLE = (".nii.gz", ".nii")


def is_nnunet(root: Path) -> bool:
    """Whether a folder is a data set of nnU-Net, of version 1 or 2 (or of the Medical Segmentation Decathlon)."""
    content = _json(root / "dataset.json")
    return "labels" in content and ("channel_names" in content or "modality" in content)


def find_nnunet(root: Path, files: Sequence[str], classes: Mapping[int, str] | None = None) -> Found:
    """The cases of the training part, with the names that `dataset.json` gives to channels and labels.

    Args:
        root: folder of `dataset.json`.
        files: NIfTI files below it.
        classes: label value -> name, in place of the file's labels.

    Raises:
        UnderstudyError: no such data set, files of a kind that is not read, labels that overlap (regions) or are to be
            ignored, all channels of a case in one file.
    """
    path = root / "dataset.json"
    if not is_nnunet(root):
        raise UnderstudyError(
            "no dataset.json with channel_names (or modality) and labels",
            where=root,
            fix="point `path` at the folder of one nnU-Net data set, for example nnUNet_raw/Dataset001_Name",
        )
    content = _json(path)
    ending = str(content.get("file_ending", ".nii.gz")).lower()
    if ending not in _READABLE:
        raise UnderstudyError(
            f"the data set's files end with {ending}, and only NIfTI is read ({' or '.join(_READABLE)})",
            where=path,
            fix="convert the images and labels to .nii.gz and set `file_ending` in dataset.json",
        )
    channels = _channels(content, path)
    scans = {scan.id: scan for scan in _listed(content, channels, path)}
    if not content.get("dataset"):
        _add_files(scans, content, channels, ending, files, path)
    test = [file for file in files if file.startswith(("imagesTs/", "labelsTs/"))]
    return Found(
        tuple(channels),
        described_classes(classes or _classes(content, path)),
        sorted(scans.values(), key=lambda scan: scan.id),
        _test_part(root, test, scans),
        set(test),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _channels(content: Mapping[str, Any], path: Path) -> list[str]:
    """Names by number; a name that several channels have ("MRI") gets the number behind it."""
    given = content.get("channel_names") or content.get("modality")
    try:
        by_number = {int(number): str(name).strip() for number, name in dict(given).items()}  # type: ignore[arg-type]
    except (TypeError, ValueError):
        by_number = {}
    if not by_number or sorted(by_number) != list(range(len(by_number))):
        raise UnderstudyError(
            f"channel_names should be numbers from 0 and names, not {given}",
            where=path,
            fix='write for example "channel_names": {"0": "T1", "1": "FLAIR"}',
        )
    names = [by_number[number] for number in range(len(by_number))]
    return [
        f"{name}_{number}" if names.count(name) > 1 or name in ("", LABELS) else name
        for number, name in enumerate(names)
    ]


def _classes(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Label value -> class name. Version 1 has {"1": "edema"}, version 2 {"edema": 1}."""
    given = content["labels"]
    if not isinstance(given, Mapping) or not given:
        raise UnderstudyError(
            "labels should be names and values", where=path, fix='write "labels": {"background": 0, "lesion": 1}'
        )
    instead = (
        f"name the values in the label files in a study file: `cohort: {{path: {path.parent}, layout: nnunet, classes:"
        " {1: edema, 2: core}}`"
    )
    regions = [name for name, value in given.items() if isinstance(value, list)]
    if regions:
        raise UnderstudyError(
            f"the labels {', '.join(regions)} are regions that overlap, and a class has one value",
            where=path,
            fix=f"{instead}; regions can be scored all the same: `evaluation: {{regions: ...}}`",
        )
    classes: dict[int, str] = {}
    for key, value in given.items():
        number, name = (key, value) if str(key).isdecimal() else (value, key)
        if isinstance(number, bool) or not str(number).isdecimal() or int(number) > 255:
            raise UnderstudyError(
                f"the label {name} has the value {number}, not a whole number from 0 to 255",
                where=path,
                fix='write "labels": {"background": 0, "lesion": 1}',
            )
        classes[int(number)] = str(name)
    if "ignore" in (name.lower() for name in classes.values()):
        raise UnderstudyError(
            "some voxels are to be ignored (label `ignore`), and Understudy knows no such voxels",
            where=path,
            fix=f"set them to 0 in the label files and remove the label, or make them a class: {instead}",
        )
    classes.pop(0, None)
    if not classes or len(set(classes.values())) < len(classes):
        raise UnderstudyError(
            "labels should name one class or more beside the background, each by another name",
            where=path,
            fix='write "labels": {"background": 0, "lesion": 1}',
        )
    return classes


def _listed(content: Mapping[str, Any], channels: Sequence[str], path: Path) -> list[Scan]:
    """Cases that `dataset.json` names with all their files (`dataset`), or by their label (`training`, version 1)."""
    scans = []
    cases = content.get("dataset") or {}
    try:
        for case, entry in cases.items():
            images = dict(zip(channels, entry["images"], strict=True))
            named = {n: _below(f, path.parent) for n, f in {**images, LABELS: entry["label"]}.items()}
            if not case or "/" in case:
                raise ValueError(f"{case!r} cannot be the name of a case")
            there = {n: [f] for n, f in named.items() if (path.parent / f).is_file()}
            scans.append(Scan(str(case), there, named))
        if not cases:
            for entry in content.get("training") or []:
                name = entry["label"] if isinstance(entry, Mapping) else entry
                scans.append(Scan(re.sub(r"\.nii(\.gz)?$", "", Path(name).name, flags=re.IGNORECASE)))
    except (TypeError, KeyError, ValueError, AttributeError, OSError) as error:
        raise UnderstudyError(
            f"the list of cases cannot be understood ({type(error).__name__}: {error})",
            where=path,
            fix='each case needs "images", a file a channel, and "label"',
        ) from error
    return scans


def _below(file: str, root: Path) -> str:
    path = Path(file)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix().removeprefix("./")


def _add_files(
    scans: dict[str, Scan],
    content: Mapping[str, Any],
    channels: Sequence[str],
    ending: str,
    files: Sequence[str],
    path: Path,
) -> None:
    """The files of `imagesTr` and `labelsTr`, and those that each case should have."""
    image = re.compile(rf"imagesTr/(?P<case>[^/]+)_(?P<number>\d{{4}}){re.escape(ending)}", re.IGNORECASE)
    whole = re.compile(rf"imagesTr/(?P<case>[^/]+){re.escape(ending)}", re.IGNORECASE)
    label = re.compile(rf"labelsTr/(?P<case>[^/]+){re.escape(ending)}", re.IGNORECASE)
    numbered = any(image.fullmatch(file) for file in files)
    if not numbered and len(channels) > 1 and any(whole.fullmatch(file) for file in files):
        raise UnderstudyError(
            f"no file is numbered by channel (CASE_0000{ending}): the {len(channels)} channels are in one file each,"
            " as in the Medical Segmentation Decathlon",
            where=path.parent / "imagesTr",
            fix="split them, for example with nnUNetv2_convert_MSD_dataset",
        )
    for file in files:
        if match := image.fullmatch(file) if numbered else whole.fullmatch(file):
            number = int(match["number"]) if numbered else 0
            name = channels[number] if number < len(channels) else None
        elif match := label.fullmatch(file):
            name = LABELS
        if match and name:
            scans.setdefault(match["case"], Scan(match["case"])).files.setdefault(name, []).append(file)
    for case, scan in scans.items():
        for number, name in enumerate(channels):
            scan.expected[name] = f"imagesTr/{case}{f'_{number:04d}' if numbered else ''}{ending}"
        scan.expected[LABELS] = f"labelsTr/{case}{ending}"


def _test_part(root: Path, test: Sequence[str], scans: Mapping[str, Scan]) -> list[Note]:
    """Says that the files of the test part are not used, unless cases list them."""
    used = {file for scan in scans.values() for found in scan.files.values() for file in found}
    unused = [file for file in test if file not in used]
    if not unused:
        return []
    return [
        Note(
            f"the {len(unused)} files of imagesTs and labelsTs are not used: only the training cases are patients",
            "nothing, or move cases that have labels to imagesTr and labelsTr (`split: {method: list}` chooses who"
            " tests)",
            root / unused[0],
        )
    ]

"""Data sets of nnU-Net: `dataset.json`, `imagesTr/CASE_0000.nii.gz` (a file a channel), `labelsTr/CASE.nii.gz`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.cohort.config import CohortConfig, Found, Problem, Scan, described_classes, note
from understudy.errors import UnderstudyError
from understudy.exchange.spec import LABELS
from understudy.io.files import read_json

_LABELS_FIX = 'write "labels": {"background": 0, "lesion": 1}'


def is_nnunet(root: Path) -> bool:
    """Version 1, version 2, or the Medical Segmentation Decathlon."""
    return bool(_json(root / "dataset.json"))


def find_nnunet(config: CohortConfig, files: Sequence[str]) -> Found:
    """The cases of the training part, with the names that `dataset.json` (or `config.classes`) gives."""
    path = config.path / "dataset.json"
    content = _json(path)
    if not content:
        fix = "point `path` at one data set, for example nnUNet_raw/Dataset001_Name"
        raise UnderstudyError("no dataset.json with channel_names (or modality) and labels", config.path, fix)
    ending = str(content.get("file_ending", ".nii.gz")).lower()
    if ending not in (".nii.gz", ".nii"):
        fix = "convert the images and labels to .nii.gz and set `file_ending` in dataset.json"
        raise UnderstudyError(f"the data set's files end with {ending}, only NIfTI is read", where=path, fix=fix)
    channels = _channels(content, path)
    scans = {scan.id: scan for scan in _listed(content, channels, path)}
    if not content.get("dataset"):
        _add_files(scans, channels, ending, files, path)
    test = [file for file in files if file.startswith(("imagesTs/", "labelsTs/"))]
    used = {file for scan in scans.values() for found in scan.files.values() for file in found}
    notes: list[Problem] = []
    if unused := [file for file in test if file not in used]:  # cases may list them
        fix = "nothing, or move cases with labels to imagesTr and labelsTr"
        text = f"the {len(unused)} files of imagesTs and labelsTs are not used"
        notes.append(note(config.path / unused[0], text, fix))
    named = described_classes(config.classes or _classes(content, path))
    return Found(tuple(channels), named, sorted(scans.values(), key=lambda scan: scan.id), notes, set(test))


def _json(path: Path) -> dict[str, Any]:
    """The content of `dataset.json`; {} if it is not one of nnU-Net."""
    if not path.is_file():  # absent, or a pipe
        return {}
    try:
        content = read_json(path, encoding="utf-8-sig")
    except UnderstudyError:
        return {}
    known = isinstance(content, dict) and "labels" in content and ("channel_names" in content or "modality" in content)
    return content if known else {}


def _channels(content: Mapping[str, Any], path: Path) -> list[str]:
    """Names by number; a name that several channels have ("MRI") gets the number behind it."""
    given = content.get("channel_names") or content.get("modality")
    try:
        by_number = {int(number): str(name).strip() for number, name in dict(given).items()}  # type: ignore[arg-type]
        names = [by_number[number] for number in range(len(by_number))]
    except (TypeError, ValueError, KeyError):
        names = []
    if not names:
        what = f"channel_names should be numbers from 0 and names, not {given}"
        raise UnderstudyError(what, where=path, fix='write for example "channel_names": {"0": "T1", "1": "FLAIR"}')
    return [f"{n}_{i}" if names.count(n) > 1 or n in ("", LABELS) else n for i, n in enumerate(names)]


def _classes(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Label value -> class name. Version 1 has {"1": "edema"}, version 2 {"edema": 1}."""
    given = content["labels"] if isinstance(content["labels"], Mapping) else {}
    instead = "name the values in the label files: `cohort: {layout: nnunet, classes: {1: edema, 2: core}}`"
    if regions := [name for name, value in given.items() if isinstance(value, list)]:
        what = f"the labels {', '.join(regions)} are regions that overlap, and a class has one value"
        raise UnderstudyError(what, where=path, fix=f"{instead}; `evaluation: {{regions: ...}}` scores regions")
    classes: dict[int, str] = {}
    for key, value in given.items():
        number, name = (key, value) if str(key).isdecimal() else (value, key)
        if isinstance(number, bool) or not str(number).isdecimal() or int(number) > 255:
            what = f"the label {name} has the value {number}, not a whole number from 0 to 255"
            raise UnderstudyError(what, where=path, fix=_LABELS_FIX)
        classes[int(number)] = str(name)
    if "ignore" in (name.lower() for name in classes.values()):
        fix = f"set these voxels to 0 in the files and remove the label, or make them a class: {instead}"
        raise UnderstudyError("voxels cannot be ignored (label `ignore`)", where=path, fix=fix)
    classes.pop(0, None)
    if not classes or len(set(classes.values())) < len(classes):
        what = "labels should be names and values: one class or more beside the background, all names different"
        raise UnderstudyError(what, where=path, fix=_LABELS_FIX)
    return classes


def _listed(content: Mapping[str, Any], channels: Sequence[str], path: Path) -> list[Scan]:
    """Cases that `dataset.json` names with all their files (`dataset`), or by their label (`training`, version 1)."""
    scans, root = [], path.parent
    cases = content.get("dataset") or {}
    try:
        for case, entry in cases.items():
            images = {**dict(zip(channels, entry["images"], strict=True)), LABELS: entry["label"]}
            # joined, a path from the root of the file system stays what it is
            places = {name: root / file for name, file in images.items()}
            named = {n: (p.relative_to(root) if p.is_relative_to(root) else p).as_posix() for n, p in places.items()}
            if not case or "/" in case:
                raise ValueError(f"{case!r} cannot be the name of a case")
            scans.append(Scan(case, {name: [named[name]] for name, place in places.items() if place.is_file()}, named))
        for entry in () if cases else content.get("training") or ():
            name = entry["label"] if isinstance(entry, Mapping) else entry
            scans.append(Scan(re.sub(r"\.nii(\.gz)?$", "", Path(name).name, flags=re.IGNORECASE)))
    except (TypeError, KeyError, ValueError, AttributeError, OSError) as error:
        what = f"the list of cases cannot be understood ({type(error).__name__}: {error})"
        raise UnderstudyError(what, path, 'each case needs "images", a file a channel, and "label"') from error
    return scans


def _add_files(scans: dict[str, Scan], channels: Sequence[str], ending: str, files: Sequence[str], path: Path) -> None:
    """The files of `imagesTr` and `labelsTr`, and those that each case should have."""
    end = re.escape(ending)
    image = re.compile(rf"imagesTr/(?P<case>[^/]+)_(?P<number>\d{{4}}){end}", re.IGNORECASE)
    whole, label = (re.compile(rf"{top}/(?P<case>[^/]+){end}", re.IGNORECASE) for top in ("imagesTr", "labelsTr"))
    numbered = any(image.fullmatch(file) for file in files)
    if not numbered and len(channels) > 1 and any(whole.fullmatch(file) for file in files):
        what = f"no CASE_0000{ending}: all {len(channels)} channels are in one file, as in the Decathlon"
        fix = "split them, for example with nnUNetv2_convert_MSD_dataset"
        raise UnderstudyError(what, where=path.parent / "imagesTr", fix=fix)
    for file in files:
        name = None
        if match := (image if numbered else whole).fullmatch(file):
            name = dict(enumerate(channels)).get(int(match["number"]) if numbered else 0)
        elif match := label.fullmatch(file):
            name = LABELS
        if match and name:
            scans.setdefault(match["case"], Scan(match["case"])).files.setdefault(name, []).append(file)
    for case, scan in scans.items():
        for number, name in enumerate(channels):
            scan.expected[name] = f"imagesTr/{case}{f'_{number:04d}' if numbered else ''}{ending}"
        scan.expected[LABELS] = f"labelsTr/{case}{ending}"

"""Data sets in BIDS: images in `sub-*/[ses-*/]anat`, masks beside them or in `derivatives`.

Plain rules rather than pybids, which builds a database of all files for what are two questions here: which file is
which sequence, and where is its mask.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from understudy.cohort.config import LABELS, CohortConfig, Found, Note, Scan, described_classes
from understudy.errors import UnderstudyError
from understudy.runtime.lazy import pandas as pd

_MASKS = ("dseg", "mask", "roi", "seg", "msk", "lesion", "label")  # the first three are those of BIDS
_NO_MASKS = ("probseg", "defacemask")
# Masks of the head and its tissues, as preprocessing pipelines write them beside those of lesions.
_ANATOMY = {"brain", "brainmask", "head", "skull", "face", "gm", "wm", "csf", "aseg", "aparcaseg", "ribbon", "bg"}
# Labels and descriptions of masks that are surely meant.
_LESION = re.compile(r"lesion|tumou?r|core|o?edema|enhanc|necro|stroke|infarct|wmh|metasta", re.IGNORECASE)
# Pipelines that write masks of tissues.
_PIPELINE = re.compile(r"derivatives/[^/]*(fmriprep|smriprep|freesurfer|fastsurfer|qsiprep|mriqc|cat12|fsl)", re.I)
_SIDES = ("l", "r", "left", "right")
_EXAMPLE = "ce-gadolinium_T1w"


@dataclass(frozen=True)
class _File:
    """A file's name in parts: sub-01_ses-a_ce-gad_T1w.nii.gz has the entities sub, ses, ce and the suffix T1w."""

    path: str
    entities: dict[str, str] = field(hash=False)
    suffix: str

    @cached_property
    def session(self) -> tuple[str, str]:
        """(subject, session or "")."""
        return self.entities["sub"], self.entities.get("ses", "")

    @property
    def labelled(self) -> str:
        """What a mask is of, in small letters: its label or description; sides are no names."""
        found = [self.entities[key] for key in ("label", "desc") if key in self.entities]
        return next((name for name in found if name.lower() not in _SIDES), "").lower()


def is_bids(files: Sequence[str]) -> bool:
    """Whether these files of a folder are images in `sub-*/[ses-*/]anat`."""
    return next(_images(files), None) is not None


def find_bids(config: CohortConfig, root: Path, files: Sequence[str]) -> Found:
    """The scans of a BIDS data set, a session each.

    Sequences are named by their suffix (T1w, FLAIR, ...), T1w after contrast agent T1wGd. Sequences that fewer than
    half of the scans have are left out. Classes come from the study file, the mask's `label-`, or a `dseg.tsv`;
    otherwise the value 1 is a lesion.

    Args:
        config: its `channels`, `labels` and `classes` select and name.
        root: the data set's folder.
        files: NIfTI files below it.

    Raises:
        UnderstudyError: no image in a folder `anat`, no mask, masks of several labels.
    """
    images, masks = list(_images(files)), list(_masks(files))
    if not images:
        raise UnderstudyError(
            "no image in sub-*/anat or sub-*/ses-*/anat",
            where=root,
            fix="point `path` at the folder that holds the sub-* folders; of several versions in derivatives/, at one",
        )
    wanted = {name: _parsed(text) for name, text in config.channels.items()}
    by_session: dict[tuple[str, str], dict[str, list[_File]]] = {}
    for image in images:
        names = [n for n, w in wanted.items() if _fits(image, w)] if wanted else [_channel(image)]
        for name in names:
            by_session.setdefault(image.session, {}).setdefault(name, []).append(image)
    notes: list[Note] = []
    for files_by_name in by_session.values():
        for name, several in files_by_name.items():
            files_by_name[name] = _plain(several)
    channels = tuple(wanted) or _unambiguous(_usual(by_session, root, notes), by_session, root, notes)
    masks = _chosen(masks, config, root)
    sessions = Counter(subject for subject, _ in by_session)
    scans: list[Scan] = []
    for (subject, session), found in sorted(by_session.items()):
        if not found.keys() & set(channels):
            continue
        own = _in_same_space(_of(masks, subject, session, sessions[subject]), found)
        name = f"sub-{subject}" + (f"_ses-{session}" if session else "")
        files_of = {channel: [file.path for file in found[channel]] for channel in channels if channel in found}
        if own:
            files_of[LABELS] = [file.path for file in own]
        folder = f"sub-{subject}/" + (f"ses-{session}/" if session else "") + "anat"
        expected = {c: f"{folder}/{name}_{_ending(c, wanted)}.nii.gz" for c in channels}
        expected[LABELS] = f"derivatives/*/{folder}/{name}_{config.labels or '*_mask'}.nii.gz"
        scans.append(Scan(name, files_of, expected, person=f"sub-{subject}"))
    return Found(channels, described_classes(_classes(config, masks, root)), without_masks(scans, root, notes), notes)


def _images(files: Sequence[str]) -> Iterator[_File]:
    for file in files:
        parts = file.split("/")
        if parts[0].startswith("sub-") and "anat" in parts[1:-1]:
            parsed = _file(file)
            if parsed and parsed.suffix not in (*_MASKS, *_NO_MASKS):
                yield parsed


def _masks(files: Sequence[str]) -> Iterator[_File]:
    for file in files:
        parsed = _file(file)
        if parsed and parsed.suffix in _MASKS and file.split("/")[0].startswith(("sub-", "derivatives")):
            yield parsed


def _file(path: str) -> _File | None:
    name = path.rpartition("/")[2]
    *entities, suffix = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE).split("_")
    pairs = dict(part.split("-", 1) for part in entities if "-" in part)
    return _File(path, pairs, suffix) if "sub" in pairs else None


def _parsed(text: str) -> _File:
    """What the study file says of a file: entities and suffix, e.g. ce-gadolinium_T1w."""
    *entities, suffix = text.split("_")
    if "/" in text or "{" in text or "-" in suffix or not all("-" in part for part in entities):
        raise UnderstudyError(
            f"{text!r} is not what BIDS names end with",
            where="cohort of the study",
            fix=f"write entities and suffix, for example {_EXAMPLE}, acq-space_T1w, run-1_FLAIR or label-lesion_mask;"
            " file patterns with {patient} need `layout: pattern`",
        )
    return _File(text, dict(part.split("-", 1) for part in entities), suffix)


def _fits(file: _File, wanted: _File) -> bool:
    """Whether a file has the suffix and all entities that are wanted, and no contrast agent that is not."""
    same = file.suffix == wanted.suffix and wanted.entities.items() <= file.entities.items()
    return same and ("ce" in wanted.entities or "ce" not in file.entities)


def _channel(image: _File) -> str:
    return f"{image.suffix}Gd" if "ce" in image.entities else image.suffix


def _ending(channel: str, wanted: Mapping[str, _File]) -> str:
    if channel in wanted:
        return wanted[channel].path
    return f"ce-*_{channel[:-2]}" if channel.endswith("Gd") else channel


def _usual(
    by_session: Mapping[tuple[str, str], Mapping[str, Sequence[_File]]], root: Path, notes: list[Note]
) -> tuple[str, ...]:
    """The sequences that half of the scans have, or more; the rarer ones are noted."""
    counts = Counter(name for found in by_session.values() for name in found)
    kept = [name for name, count in counts.items() if 2 * count >= len(by_session)]
    rare = [f"{name} ({counts[name]})" for name in sorted(counts) if name not in kept]
    if rare:
        notes.append(
            Note(
                f"not used, since fewer than half of the {len(by_session)} scans have it: {', '.join(rare)}",
                "nothing, or choose the sequences with `channels` in the study file",
                root,
            )
        )
    order = ("T1w", "T1wGd", "T2w", "FLAIR")
    return tuple(sorted(kept, key=lambda name: (order.index(name) if name in order else len(order), name)))


def _plain(several: list[_File]) -> list[_File]:
    """Of several files the one whose entities all others have as well: T1w beside run-2_T1w; otherwise all."""
    plain = [a for a in several if all(a.entities.items() <= b.entities.items() for b in several)]
    return plain[:1] or several


def _unambiguous(
    channels: tuple[str, ...],
    by_session: Mapping[tuple[str, str], Mapping[str, list[_File]]],
    root: Path,
    notes: list[Note],
) -> tuple[str, ...]:
    """The sequences that have one file in most of their scans; the others are noted, or refused if none is left."""
    kept, left_out = [], []
    for channel in channels:
        scans = [found[channel] for found in by_session.values() if channel in found]
        several = [files for files in scans if len(files) > 1]
        if not several or 2 * len(several) < len(scans):
            kept.append(channel)
            continue
        ends = [file.path.rpartition("/")[2].removeprefix(f"sub-{file.session[0]}_") for file in several[0]]
        ends = [re.sub(r"^ses-[^_]*_|\.nii(\.gz)?$", "", end) for end in ends]
        left_out.append(
            Note(
                f"{channel} is not used: {len(several)} of {len(scans)} scans have several files of it"
                f" ({', '.join(ends)})",
                f"choose one in the study file: `layout: bids`, `channels: {{{channel}: {ends[0]}, ...}}` with all"
                " sequences that you want",
                root / several[0][0].path,
            )
        )
    if left_out and not kept:
        raise UnderstudyError(left_out[0].text, where=left_out[0].file, fix=left_out[0].fix)
    notes += left_out
    return tuple(kept)


def _chosen(masks: Sequence[_File], config: CohortConfig, root: Path) -> list[_File]:
    """The masks that are meant: those of the study file, or all that are not of the brain and its tissues."""
    if config.labels:
        chosen = [mask for mask in masks if _fits(mask, _parsed(config.labels))]
    else:
        others = [mask for mask in masks if mask.labelled not in _ANATOMY]
        chosen = [mask for mask in others if _LESION.search(f"{mask.labelled} {mask.suffix}")]
        chosen = chosen or [mask for mask in others if not _PIPELINE.search(mask.path)]
    there = sorted({_end(mask) for mask in masks})
    if not chosen:
        raise UnderstudyError(
            f"no mask (..._dseg, ..._mask or ..._roi) that is {config.labels or 'of a lesion'}"
            + (f"; there are {', '.join(there[:5])}" if there else ""),
            where=root,
            fix="choose one with `labels`, for example label-lesion_mask"
            if there
            else "put the masks into derivatives/NAME/sub-*/anat/sub-*_label-lesion_mask.nii.gz",
        )
    named = sorted({mask.labelled for mask in chosen})
    if len(named) > 1 and not config.labels:
        raise UnderstudyError(
            f"there are masks of {', '.join(name or 'no label' for name in named)}, and one file with all classes is"
            " needed",
            where=root,
            fix=f"choose one in the study file: `layout: bids`, `labels: {_end(chosen[0])}`; or write one file with a"
            " value a class (..._dseg.nii.gz)",
        )
    return chosen


def _end(mask: _File) -> str:
    kept = [f"{key}-{mask.entities[key]}" for key in ("desc", "label") if key in mask.entities]
    return "_".join([*kept, mask.suffix])


def _of(masks: Sequence[_File], subject: str, session: str, sessions: int) -> list[_File]:
    """The masks of a session; one that names no session is of a patient's only one."""
    exact = [mask for mask in masks if mask.session == (subject, session)]
    return exact or [mask for mask in masks if sessions == 1 and mask.session == (subject, "")]


def _in_same_space(masks: list[_File], images: Mapping[str, Sequence[_File]]) -> list[_File]:
    """Of several masks those in the space of the images."""
    spaces = {image.entities.get("space") for found in images.values() for image in found}
    same = [mask for mask in masks if mask.entities.get("space") in spaces]
    return same if len(masks) > 1 and same else masks


def _classes(config: CohortConfig, masks: Sequence[_File], root: Path) -> dict[int, str]:
    if config.classes:
        return config.classes
    if masks[0].suffix == "dseg" and (table := _label_table(masks[0], root)):
        return table
    name = next((mask.entities["label"] for mask in masks if mask.labelled and "label" in mask.entities), "")
    return {1: name if name and name.lower() not in _SIDES else "lesion"}


def _label_table(mask: _File, root: Path) -> dict[int, str]:
    """Classes of a `dseg.tsv` beside the mask or in a folder above it."""
    folder, name = (root / mask.path).parent, mask.path.rpartition("/")[2].lower().split(".nii")[0]
    for place in (folder, *folder.parents):
        found = sorted(p for p in place.glob("*dseg.tsv") if place != folder or p.stem.lower() == name)
        if found:
            return _read_label_table(found[0])
        if place == root:
            break
    return {}


def _read_label_table(path: Path) -> dict[int, str]:
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
        rows = {int(index): str(name) for index, name in zip(table["index"], table["name"], strict=True)}
    except (KeyError, ValueError, OSError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UnderstudyError(
            f"the table of labels cannot be read ({type(error).__name__}: {error})",
            where=path,
            fix="it needs the columns index (a whole number) and name, separated by tabs; or give `classes`",
        ) from error
    return {value: name for value, name in rows.items() if value != 0}


def without_masks(scans: list[Scan], root: Path, notes: list[Note]) -> list[Scan]:
    """The scans, but for the visits without a mask of patients that have one of another visit."""
    annotated = {scan.person for scan in scans if LABELS in scan.files}
    left_out = [scan for scan in scans if LABELS not in scan.files and scan.person in annotated]
    if left_out:
        notes.append(
            Note(
                f"{len(left_out)} visits have no mask and are not used (e.g. {left_out[0].id}): their patients have"
                " one of another visit",
                "nothing, or add the masks",
                root / left_out[0].expected[LABELS],
            )
        )
    kept = [scan for scan in scans if scan not in left_out]
    times = Counter(scan.person for scan in kept)
    # a patient's only session need not be named
    return [replace(scan, id=scan.person) if times[scan.person] == 1 else scan for scan in kept]

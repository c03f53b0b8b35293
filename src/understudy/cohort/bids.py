"""Data sets in BIDS: images in `sub-*/[ses-*/]anat`, masks beside them or in `derivatives`."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from understudy.cohort.config import CohortConfig, Found, Problem, Scan, described_classes, note
from understudy.errors import UnderstudyError
from understudy.exchange.spec import LABELS
from understudy.io.files import reading
from understudy.io.foreign import TEXT
from understudy.runtime.lazy import pandas as pd

_MASKS = ("dseg", "mask", "roi", "seg", "msk", "lesion", "label")  # the first three are those of BIDS
_NO_IMAGES = (*_MASKS, "probseg", "defacemask")
# Masks of the head and its tissues, as preprocessing pipelines write them beside those of lesions.
_ANATOMY = {"brain", "brainmask", "head", "skull", "face", "gm", "wm", "csf", "aseg", "aparcaseg", "ribbon", "bg"}
# Labels and descriptions of masks that are surely meant.
_LESION = re.compile(r"lesion|tumou?r|core|o?edema|enhanc|necro|stroke|infarct|wmh|metasta", re.IGNORECASE)
# Pipelines that write masks of tissues.
_PIPELINE = re.compile(r"derivatives/[^/]*(fmriprep|smriprep|freesurfer|fastsurfer|qsiprep|mriqc|cat12|fsl)", re.I)
_SIDES = ("l", "r", "left", "right")
_ORDER = ("T1w", "T1wGd", "T2w", "FLAIR")  # of the sequences; others follow by name


class _File(NamedTuple):
    """A file's name in parts: sub-01_ses-a_ce-gad_T1w.nii.gz has the entities sub, ses, ce and the suffix T1w."""

    path: str
    entities: dict[str, str]
    suffix: str

    @property
    def session(self) -> tuple[str, str]:
        """(subject, session or "")."""
        return self.entities["sub"], self.entities.get("ses", "")

    @property
    def labelled(self) -> str:
        """What a mask is of, in small letters: its label or description; sides are no names."""
        found = (self.entities.get(key, "").lower() for key in ("label", "desc"))
        return next((name for name in found if name and name not in _SIDES), "")

    @property
    def choice(self) -> str:
        """What a user writes under `labels` to choose this mask."""
        return "_".join([*(f"{k}-{self.entities[k]}" for k in ("desc", "label") if k in self.entities), self.suffix])

    def fits(self, wanted: "_File") -> bool:
        """Whether the file has the suffix and all entities that are wanted, and no contrast agent that is not."""
        same = self.suffix == wanted.suffix and wanted.entities.items() <= self.entities.items()
        return same and ("ce" in wanted.entities or "ce" not in self.entities)


_Sessions = dict[tuple[str, str], dict[str, list[_File]]]  # (subject, session) -> sequence -> files


def bids_images(files: Sequence[str]) -> list[_File]:
    """The images in `sub-*/[ses-*/]anat`; [] where a folder is no data set in BIDS."""
    anat = [file for file in files if file.startswith("sub-") and "anat" in file.split("/")[1:-1]]
    return [image for file in anat if (image := _parsed(file)) and image.suffix not in _NO_IMAGES]


def find_bids(config: CohortConfig, files: Sequence[str]) -> Found:
    """The scans of a BIDS data set, a session each.

    Sequences are named by their suffix (T1w, FLAIR, ...), T1w after contrast agent T1wGd; those that fewer than half
    of the scans have are left out. Classes come from the config, the mask's `label-`, or a `dseg.tsv`, else 1: lesion.
    """
    root, wanted = config.path, {name: _chosen_by_user(text) for name, text in config.channels.items()}
    images = bids_images(files)
    if not images:
        fix = "point `path` at the folder of the sub-* folders"
        raise UnderstudyError("no image in sub-*/anat or sub-*/ses-*/anat", where=root, fix=fix)
    sessions: _Sessions = {}
    for image in images:
        usual = f"{image.suffix}Gd" if "ce" in image.entities else image.suffix
        for name in [n for n, w in wanted.items() if image.fits(w)] if wanted else [usual]:
            sessions.setdefault(image.session, {}).setdefault(name, []).append(image)
    for by_name in sessions.values():
        for name, several in by_name.items():
            # of T1w beside run-2_T1w the one whose entities all others have as well
            plain = [a for a in several if all(a.entities.items() <= b.entities.items() for b in several)]
            by_name[name] = plain[:1] or several
    notes: list[Problem] = []
    channels = tuple(wanted) or _usable_channels(sessions, root, notes)
    masks = _chosen_masks(files, config)
    scans = without_masks(_scans(sessions, channels, masks, config), root, notes)
    return Found(channels, described_classes(_classes(config, masks)), scans, notes)


def _scans(sessions: _Sessions, channels: Sequence[str], masks: Sequence[_File], config: CohortConfig) -> list[Scan]:
    times = Counter(subject for subject, _ in sessions)
    scans = []
    for (subject, session), found in sorted(sessions.items()):
        if not found.keys() & set(channels):
            continue
        own = [mask for mask in masks if mask.session == (subject, session)]
        if not own and times[subject] == 1:  # a mask without a session is of a patient's only one
            own = [mask for mask in masks if mask.session == (subject, "")]
        spaces = {image.entities.get("space") for several in found.values() for image in several}
        own = [mask for mask in own if mask.entities.get("space") in spaces] or own
        name = f"sub-{subject}" + (f"_ses-{session}" if session else "")
        files = {channel: [file.path for file in found[channel]] for channel in channels if channel in found}
        if own:
            files[LABELS] = [mask.path for mask in own]
        folder = f"{name.replace('_ses-', '/ses-')}/anat"
        endings = {n: config.channels.get(n) or (f"ce-*_{n[:-2]}" if n.endswith("Gd") else n) for n in channels}
        expected = {channel: f"{folder}/{name}_{ending}.nii.gz" for channel, ending in endings.items()}
        expected[LABELS] = f"derivatives/*/{folder}/{name}_{config.labels or '*_mask'}.nii.gz"
        scans.append(Scan(name, files, expected, person=f"sub-{subject}"))
    return scans


def _parsed(path: str) -> _File | None:
    name = path.rpartition("/")[2]
    *entities, suffix = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE).split("_")
    pairs = dict(part.split("-", 1) for part in entities if "-" in part)
    return _File(path, pairs, suffix) if "sub" in pairs else None


def _chosen_by_user(text: str) -> _File:
    """What the study file says of a file: entities and suffix, e.g. ce-gadolinium_T1w."""
    *entities, suffix = text.split("_")
    if "/" in text or "{" in text or "-" in suffix or not all("-" in part for part in entities):
        fix = "write entities and suffix (run-1_FLAIR, label-lesion_mask); {patient} needs `layout: pattern`"
        raise UnderstudyError(f"{text!r} is not what BIDS names end with", where="cohort of the study", fix=fix)
    return _File(text, dict(part.split("-", 1) for part in entities), suffix)


def _usable_channels(sessions: _Sessions, root: Path, notes: list[Problem]) -> tuple[str, ...]:
    """The sequences that half of the scans have, or more, in one file each; the others are noted."""
    counts = Counter(name for found in sessions.values() for name in found)
    common = [name for name, count in counts.items() if 2 * count >= len(sessions)]
    if rare := [f"{name} ({counts[name]})" for name in sorted(counts) if name not in common]:
        text = f"not used, since fewer than half of the {len(sessions)} scans have it: {', '.join(rare)}"
        notes.append(note(root, text, "nothing, or choose the sequences with `channels` in the study file"))
    kept, ambiguous = [], []
    for channel in sorted(common, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)):
        several = [found[channel] for found in sessions.values() if len(found.get(channel, ())) > 1]
        if not several or 2 * len(several) < counts[channel]:
            kept.append(channel)
            continue
        ends = [file.path.rpartition("/")[2].removeprefix(f"sub-{file.session[0]}_") for file in several[0]]
        ends = [re.sub(r"^ses-[^_]*_|\.nii(\.gz)?$", "", end) for end in ends]
        text = f"{channel} is not used: {len(several)} of {counts[channel]} scans have several files"
        fix = f"choose one: `layout: bids`, `channels: {{{channel}: {ends[0]}, ...}}` with all that you want"
        ambiguous.append(note(root / several[0][0].path, f"{text} ({', '.join(ends)})", fix))
    if ambiguous and not kept:
        raise ambiguous[0].as_error()
    notes += ambiguous
    return tuple(kept)


def _chosen_masks(files: Sequence[str], config: CohortConfig) -> list[_File]:
    """The masks that are meant: those of the study file, or all that are not of the brain and its tissues."""
    parsed = [found for file in files if (found := _parsed(file)) and file.startswith(("sub-", "derivatives"))]
    masks = [file for file in parsed if file.suffix in _MASKS]
    if config.labels:
        wanted = _chosen_by_user(config.labels)
        chosen = [mask for mask in masks if mask.fits(wanted)]
    else:
        others = [mask for mask in masks if mask.labelled not in _ANATOMY]
        chosen = [mask for mask in others if _LESION.search(f"{mask.labelled} {mask.suffix}")]
        chosen = chosen or [mask for mask in others if not _PIPELINE.search(mask.path)]
    if not chosen:
        there = sorted({mask.choice for mask in masks})
        what = f"no mask {config.labels or 'of a lesion'}; there are {', '.join(there[:5]) or 'none'}"
        fix = "choose one with `labels`, or add derivatives/NAME/sub-*/anat/sub-*_label-lesion_mask.nii.gz"
        raise UnderstudyError(what, where=config.path, fix=fix)
    named = sorted({mask.labelled for mask in chosen})
    if len(named) > 1 and not config.labels:
        what = f"there are masks of {', '.join(name or 'no label' for name in named)}; one file with all is needed"
        fix = f"choose one: `layout: bids`, `labels: {chosen[0].choice}`; or write one ..._dseg.nii.gz"
        raise UnderstudyError(what, where=config.path, fix=fix)
    return chosen


def _classes(config: CohortConfig, masks: Sequence[_File]) -> Mapping[int, str]:
    """Of the config, of a `dseg.tsv` beside the mask or in a folder above it, or 1 and the mask's `label-`."""
    if config.classes:
        return config.classes
    mask, tables = masks[0], list[Path]()
    folder, name = (config.path / mask.path).parent, mask.path.rpartition("/")[2].lower().split(".nii")[0]
    for place in (folder, *folder.parents) if mask.suffix == "dseg" else ():
        tables = sorted(p for p in place.glob("*dseg.tsv") if place != folder or p.stem.lower() == name)
        if tables or place == config.path:
            break
    if tables:
        with reading(tables[0], TEXT):  # with the columns index and name
            rows = pd.read_csv(tables[0], sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
            classes = {int(index): str(label) for index, label in zip(rows["index"], rows["name"], strict=True)}
        classes.pop(0, None)  # the background
        if classes:
            return classes
    label = next((mask.entities["label"] for mask in masks if mask.labelled and "label" in mask.entities), "")
    return {1: label if label and label.lower() not in _SIDES else "lesion"}


def without_masks(scans: list[Scan], root: Path, notes: list[Problem]) -> list[Scan]:
    """The scans, except visits without a mask of patients that have one of another visit; adds a note on those."""
    annotated = {scan.person for scan in scans if LABELS in scan.files}
    left_out = [scan for scan in scans if LABELS not in scan.files and scan.person in annotated]
    if left_out:
        first = left_out[0]
        text = f"{len(left_out)} visits without a mask are not used (e.g. {first.id}): others of these patients are"
        notes.append(note(root / first.expected[LABELS], text, "nothing, or add the masks"))
    kept = [scan for scan in scans if scan not in left_out]
    times = Counter(scan.person for scan in kept)
    # a patient's only session need not be named
    return [replace(scan, id=scan.person) if times[scan.person] == 1 else scan for scan in kept]

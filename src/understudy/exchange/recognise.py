"""Which file of a folder is which channel of which slice, by pattern or by the names that people use.

Recognised are names as in the paper's code: `T1/seed0007_T1.png`, `flair/image_7_flair.png` (a folder a channel) and
`7_T1CE.png` (all in one folder), with channels written in any case and any of `spec.ALIASES`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.exchange.spec import ALIASES, LABELS, PLAIN, FolderSpec, pattern_text
from understudy.io.folders import natural

_SHOWN = 5  # names of files in a message
_Place = tuple[str, str]  # id and subject of a slice
_Matcher = Callable[[str], _Place | None]  # path of a file -> its slice, if it is of the matcher's channel


@dataclass(slots=True)
class SliceFiles:
    """The files of one slice (or of one volume)."""

    id: str  # what the names have in common
    subject: str = ""  # of a pattern with {subject}; "" otherwise
    # channel name, `labels`, or `labels:<class>` -> path below the folder
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recognised:
    """All slices of a folder, sorted by id (numbers by value), and the files that are none of their channels."""

    slices: list[SliceFiles]
    channels: tuple[str, ...]
    annotation: tuple[str, ...]
    surplus: list[str]


def recognise(
    root: Path, files: Sequence[str], spec: FolderSpec, known: Sequence[str] | None, plain: bool = False
) -> Recognised:
    """Groups files by slice.

    `known` are channels that the folder must have; None: those that the user names or that are found. With `plain`,
    files without the name of a channel are slices of one channel, `spec.PLAIN`, and there need not be an annotation.
    """
    wanted = list(spec.named or known or [])
    matchers = _matchers(spec, wanted)
    slices: dict[str, SliceFiles] = {}
    surplus = []
    for file in files:
        matches = ((name, place) for name, matcher in matchers.items() if (place := matcher(file)) is not None)
        name, place = next(matches, ("", ("", "")))
        if name:
            _add(slices, place, name, file, root)
        else:
            surplus.append(file)
    present = {name for entry in slices.values() for name in entry.files}
    annotation: tuple[str, ...] = (LABELS,)
    if isinstance(spec.labels, dict):
        annotation = tuple(f"{LABELS}:{name}" for name in spec.labels)
    channels = tuple(wanted or [name for name in ALIASES if name in present and name != LABELS])
    unnamed = not spec.pattern and not any(spec.named.values()) and not present & set(channels)
    if plain and unnamed and len(channels) <= 1:
        if not channels and (alike := _like_channels(surplus)):
            what = f"{', '.join(alike[:_SHOWN])} look like channels or masks of one patient ({len(surplus)} files)"
            fix = f"say which is which, e.g. --channels DWI=dwi --labels roi, or --channels {PLAIN} if each is an image"
            raise UnderstudyError(what, where=root, fix=fix)
        channels = channels or (PLAIN,)
        for file in surplus:
            _add(slices, (_stem(file), ""), channels[0], file, root)
        present, surplus = {*channels, *present}, []
    if not present & set(channels):
        what = f"none of the {len(files)} files is recognised as {', '.join(matchers)}"
        fix = "say how they are called: --pattern '{channel}/{id}.png' --channels T1w=NAME,... --labels NAME"
        raise UnderstudyError(what, where=f"{root}, for example {files[0]}" if files else root, fix=fix)
    if plain and not spec.labels and LABELS not in present:
        annotation = ()
    ordered = sorted(slices.values(), key=lambda entry: natural(entry.id))
    if lacking := [entry for entry in ordered if not entry.files.keys() >= {*channels, *annotation}]:
        entry, others = lacking[0], len(lacking) - 1
        missing = " and no ".join(name for name in (*channels, *annotation) if name not in entry.files)
        what = f"slice {entry.id} has no {missing}" + (f" (and {others} more lack a file)" if others else "")
        where = f"{root}: there are {', '.join(sorted(entry.files.values())[:_SHOWN])}"
        where += f"; not recognised: {surplus[0]}" if surplus else ""
        fix = "add the file, remove the slice, or say what the channel is called (--channels NAME=TEXT, --labels TEXT)"
        raise UnderstudyError(what, where=where, fix=fix)
    return Recognised(ordered, channels, annotation, surplus)


def _add(slices: dict[str, SliceFiles], place: _Place, channel: str, file: str, root: Path) -> None:
    entry = slices.setdefault(place[0], SliceFiles(*place))
    if channel in entry.files:
        what = f"two files for {channel} of slice {place[0]}: the id is there twice"
        fix = "remove or rename one, or say by `pattern` which files are meant"
        raise UnderstudyError(what, where=f"{root}: {entry.files[channel]} and {file}", fix=fix)
    entry.files[channel] = file


def _stem(file: str) -> str:
    return re.sub(r"(\.nii\.gz|\.nii|\.png|\.npy|\.npz)$", "", file, flags=re.IGNORECASE)


def _any_of(tokens: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))


def _matchers(spec: FolderSpec, wanted: Sequence[str]) -> dict[str, _Matcher]:
    """Channel -> what finds the slice's id in the path of one of its files."""
    if position := next((name for name, value in spec.named.items() if isinstance(value, int)), None):
        what = f"channel {position} has a position in an array, but these are files of one channel each"
        fix = f"say what stands for it in the files' names, e.g. {position}: T1"
        raise UnderstudyError(what, where="channels", fix=fix)
    said = {name: str(value or "") for name, value in spec.named.items()}
    said = said or {name: "" for name in wanted or ALIASES if name != LABELS}
    if isinstance(spec.labels, dict):
        said |= {f"{LABELS}:{name}": token for name, token in spec.labels.items()}
    else:
        said[LABELS] = str(spec.labels)
    # what may stand for a channel in a name, in small letters
    tokens = {
        name: [value.lower()] if value else [name.lower(), *ALIASES.get(name, ())]
        for name, value in said.items()
        if "{id}" not in value
    }
    by_token = {token: name for name, listed in tokens.items() for token in listed}
    suffix = re.compile(rf"(?P<id>.+?)[-_. ](?P<token>{_any_of(by_token)})", re.IGNORECASE)
    matchers: dict[str, _Matcher] = {}
    # Longer patterns first: '{id}_mask.png' is asked before '{id}.png', which would take its files as well.
    for name, value in sorted(said.items(), key=lambda entry: -len(entry[1]) * ("{id}" in entry[1])):
        if "{id}" in value or spec.pattern:
            pattern = value if "{id}" in value else spec.pattern
            text = pattern_text(pattern, ("id", "subject"), _any_of(tokens.get(name, ())))
            longest = text.replace("(?P<subject>[^/]+?)", "(?P<subject>[^/]+)")
            both = re.compile(text, re.IGNORECASE), re.compile(longest, re.IGNORECASE)
            matchers[name] = partial(_by_pattern, pattern, *both)
        else:
            matchers[name] = partial(_by_name, name, by_token, suffix)
    return matchers


def _by_pattern(pattern: str, shortest: re.Pattern[str], longest: re.Pattern[str], file: str) -> _Place | None:
    """The slice by a pattern; refuses a name in which {subject} could be more than one text."""
    found = shortest.fullmatch(file)
    if found is None or "{subject}" not in pattern:
        return None if found is None else (found["id"], "")
    subject, other = found["subject"], longest.fullmatch(file)
    if other and other["subject"] != subject:
        what = f"by the pattern {pattern!r} the patient could be {subject!r} or {other['subject']!r}"
        fix = "write what stands between patient and slice, e.g. --pattern '{subject}_z{id}_{channel}.png'"
        raise UnderstudyError(what, where=file, fix=fix)
    return f"{subject}_{found['id']}", subject


def _by_name(name: str, by_token: Mapping[str, str], suffix: re.Pattern[str], file: str) -> _Place | None:
    """The slice by the channel's name at the end of the file's name, as the name of its folder, or both."""
    *folders, last = file.split("/")
    stem = _stem(last)
    of_folder = next((i for i, folder in enumerate(folders) if folder.lower() in by_token), None)
    by_suffix = suffix.fullmatch(stem)
    found = by_token[by_suffix["token"].lower()] if by_suffix else None
    if of_folder is not None:
        channel = by_token[folders.pop(of_folder).lower()]
        stem = by_suffix["id"] if by_suffix and found == channel else stem
        found = channel
    elif by_suffix:
        stem = by_suffix["id"]
    elif stem.lower() in by_token and folders:  # a folder for each slice: 0007/T1.png, 0007/Seg.png
        found, stem = by_token[stem.lower()], folders.pop()
    if found != name:
        return None
    if folders and folders[-1] == stem:  # BraTS: the folder of a patient has its name
        folders.pop()
    return "/".join([*folders, stem]), ""


def _like_channels(files: Sequence[str]) -> list[str]:
    """The first files that look like several channels of one image, as "p0_dwi" and "p0_adc", "dwi/p0" and "adc/p0"."""
    stems = {_stem(file): file for file in files}
    splits = [r"(?P<case>.+)[-_. /](?P<word>[^-_. /]*[^-_. /\d])"]  # what ends in a number is a slice or a patient
    if all(file.lower().endswith((".nii", ".nii.gz")) for file in files):  # slices may be numbered in each folder
        splits.append(r"(?P<word>[^/]*[^/\d])/(?P<case>.+)")
    for split in splits:
        cases: dict[str, dict[str, str]] = defaultdict(dict)
        for stem, file in stems.items():
            if match := re.fullmatch(split, stem):
                cases[match["case"]][match["word"].lower()] = file
        for case, words in cases.items():
            if case in stems:
                words[""] = stems[case]
        counts = Counter(word for words in cases.values() for word in words)
        for words in cases.values():
            alike = [file for word, file in words.items() if counts[word] > 1]
            if len(alike) > 1:
                return alike
    return []

"""Which file of a folder is which channel of which slice, by pattern or by the names that people use.

Recognised are names as in the paper's code: `T1/seed0007_T1.png`, `flair/image_7_flair.png` (a folder a channel) and
`7_T1CE.png` (all in one folder), with channels written in any case and any of `spec.ALIASES`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.exchange.spec import ALIASES, LABELS, PLAIN, FolderSpec
from understudy.io.folders import natural

_SHOWN = 5  # names of files in a message


@dataclass(slots=True)
class SliceFiles:
    """The files of one slice (or of one volume).

    Attributes:
        id: what the names have in common.
        subject: of a pattern with {subject}; "" otherwise.
        files: channel name, `labels`, or `labels:<class>` -> path below the folder.
    """

    id: str
    subject: str = ""
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

    Args:
        root: the folder, for messages.
        files: paths below it.
        spec: what the user says of them.
        known: channels of the real slices that the folder's must have; None: those that the user names or that
            are found.
        plain: files without the name of a channel are slices of one channel, `spec.PLAIN`, and there need not be an
            annotation.

    Raises:
        UnderstudyError: no file, a slice without one of its channels, two files for one channel, names that are not
            recognised, a pattern by which a name has several patients.
    """
    if not files:
        raise UnderstudyError("there is no image in the folder", where=root, fix="check the path, and unpack archives")
    wanted = list(spec.named) or list(known or [])
    matchers = _matchers(spec, wanted)
    slices: dict[str, SliceFiles] = {}
    surplus = []
    for file in files:
        for name, matcher in matchers:
            place = matcher(file)
            if place is not None:
                _add(slices, place, name, file, root)
                break
        else:
            surplus.append(file)
    present = {name for entry in slices.values() for name in entry.files}
    annotation = _annotation_names(spec)
    channels = tuple(wanted or [name for name in ALIASES if name in present and name != LABELS])
    unnamed = not spec.pattern and not any(spec.named.values()) and not present & set(channels)
    if plain and unnamed and len(channels) <= 1:
        if not channels and (alike := _like_channels(surplus)):
            raise _unknown_channels(root, alike, len(surplus))
        channels = channels or (PLAIN,)
        for file in surplus:
            _add(slices, (_stem(file), ""), channels[0], file, root)
        present, surplus = {*channels, *present}, []
    if not present & set(channels):
        raise _nothing_recognised(root, files, [name for name, _ in matchers])
    if plain and not spec.labels and LABELS not in present:
        annotation = ()
    ordered = sorted(slices.values(), key=lambda entry: natural(entry.id))
    _refuse_incomplete(root, ordered, (*channels, *annotation), surplus)
    return Recognised(ordered, channels, annotation, surplus)


_Place = tuple[str, str]  # id, subject


def _annotation_names(spec: FolderSpec) -> tuple[str, ...]:
    return tuple(f"{LABELS}:{name}" for name in spec.labels) if isinstance(spec.labels, dict) else (LABELS,)


def _matchers(spec: FolderSpec, wanted: Sequence[str]) -> list[tuple[str, _Matcher]]:
    """(channel, what finds the slice's id in the path of one of its files, or None) for every channel."""
    said: dict[str, str] = {}
    for name, value in spec.named.items():
        if isinstance(value, int):
            raise UnderstudyError(
                f"channel {name} is said by its position in an array, but these are files of one channel each",
                where="channels",
                fix=f"say what stands for it in the files' names, e.g. {name}: T1",
            )
        said[name] = value or ""
    said |= {name: "" for name in wanted if name not in said}
    if not said:
        said = {name: "" for name in ALIASES if name != LABELS}
    if isinstance(spec.labels, dict):
        said |= {f"{LABELS}:{name}": token for name, token in spec.labels.items()}
    else:
        said[LABELS] = str(spec.labels)
    tokens = {name: _tokens(name, value) for name, value in said.items() if "{id}" not in value}
    everything = {token: name for name, listed in tokens.items() for token in listed}
    # Longer patterns first: '{id}_mask.png' is asked before '{id}.png', which would take its files as well.
    return [
        (name, _Pattern(value, None) if "{id}" in value else
         _Pattern(spec.pattern, tokens[name]) if spec.pattern else _Names(name, everything))
        for name, value in sorted(said.items(), key=lambda entry: -len(entry[1]) * ("{id}" in entry[1]))
    ]  # fmt: skip


def _tokens(name: str, said: str) -> tuple[str, ...]:
    """What may stand for a channel in a name, in small letters."""
    if said:
        return (said.lower(),)
    return tuple(dict.fromkeys((name.lower(), *ALIASES.get(name, ()))))


def _stem(file: str) -> str:
    """A file's path without its ending."""
    return re.sub(r"(\.nii\.gz|\.nii|\.png|\.npy|\.npz)$", "", file, flags=re.IGNORECASE)


class _Pattern:
    """Finds the id by a pattern; the same placeholder is the same text everywhere."""

    def __init__(self, pattern: str, tokens: Sequence[str] | None) -> None:
        groups = {"{id}": "id", "{subject}": "subject"}
        seen: set[str] = set()
        translated = []
        for piece in re.split(r"(\{id\}|\{channel\}|\{subject\}|\*\*/|\*)", pattern.removeprefix("./")):
            if piece == "{channel}" and tokens is not None:
                translated.append(f"(?:{'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True)))})")
            elif piece in groups:
                name = groups[piece]
                translated.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)")
                seen.add(name)
            else:
                translated.append({"**/": "(?:.*/)?", "*": "[^/]*"}.get(piece, re.escape(piece)))
        text = "".join(translated)
        self._pattern = pattern
        self._expression = re.compile(text, re.IGNORECASE)
        self._longest = re.compile(text.replace("(?P<subject>[^/]+?)", "(?P<subject>[^/]+)"), re.IGNORECASE)

    def __call__(self, file: str) -> _Place | None:
        match = self._expression.fullmatch(file)
        if match is None:
            return None
        found = match.groupdict()
        subject = found.get("subject") or ""
        longest = self._longest.fullmatch(file) if subject else None
        if longest and longest["subject"] != subject:
            raise UnderstudyError(
                f"by the pattern {self._pattern!r} the patient could be {subject!r} or {longest['subject']!r}",
                where=file,
                fix="write what stands between patient and slice in every name, e.g."
                " --pattern '{subject}_z{id}_{channel}.png', or leave {subject} out",
            )
        return (f"{subject}_{found['id']}" if subject else found["id"]), subject


class _Names:
    """Finds the id by the channel's name at the end of the file's name, as the name of its folder, or both."""

    def __init__(self, name: str, tokens: dict[str, str]) -> None:
        self._name, self._tokens = name, tokens
        listed = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
        self._suffix = re.compile(rf"(?P<id>.+?)[-_. ](?P<token>{listed})", re.IGNORECASE)

    def __call__(self, file: str) -> _Place | None:
        *folders, last = file.split("/")
        stem = _stem(last)
        of_folder = next((i for i, folder in enumerate(folders) if folder.lower() in self._tokens), None)
        by_name = self._suffix.fullmatch(stem)
        found = self._tokens[by_name["token"].lower()] if by_name else None
        if of_folder is not None:
            mine = self._tokens[folders.pop(of_folder).lower()]
            stem = by_name["id"] if by_name and found == mine else stem
            found = mine
        elif by_name:
            stem = by_name["id"]
        elif stem.lower() in self._tokens and folders:  # a folder for each slice: 0007/T1.png, 0007/Seg.png
            found, stem = self._tokens[stem.lower()], folders.pop()
        if found != self._name:
            return None
        if folders and folders[-1] == stem:  # BraTS: the folder of a patient has its name
            folders.pop()
        return "/".join([*folders, stem]), ""


_Matcher = _Pattern | _Names


def _add(slices: dict[str, SliceFiles], place: _Place, channel: str, file: str, root: Path) -> None:
    entry = slices.setdefault(place[0], SliceFiles(*place))
    if channel in entry.files:
        raise UnderstudyError(
            f"two files for {channel} of slice {place[0]}: the id is there twice",
            where=f"{root}: {entry.files[channel]} and {file}",
            fix="remove or rename one, or say by `pattern` which files are meant",
        )
    entry.files[channel] = file


def _like_channels(files: Sequence[str]) -> list[str]:
    """Files that look like several channels of one image, "p0_dwi" and "p0_adc", or "dwi/p0" and "adc/p0"; or []."""
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


def _unknown_channels(root: Path, alike: Sequence[str], count: int) -> UnderstudyError:
    return UnderstudyError(
        f"{', '.join(alike[:_SHOWN])} look like channels or masks of one patient, but their names are not known"
        f" ({count} files)",
        where=root,
        fix="say which is which: --channels DWI=dwi,ADC=adc --labels roi (NAME=what the files are called); if each"
        f" file is an image of its own, --channels {PLAIN}",
    )


def _nothing_recognised(root: Path, files: Sequence[str], names: Iterable[str]) -> UnderstudyError:
    return UnderstudyError(
        f"none of the {len(files)} files is recognised as {', '.join(names)}",
        where=f"{root}, for example {files[0]}",
        fix="say how the files are called: --pattern '{channel}/{id}.png' --channels T1w=NAME,... --labels NAME",
    )


def _refuse_incomplete(root: Path, slices: list[SliceFiles], wanted: Sequence[str], surplus: list[str]) -> None:
    """Every slice has every channel."""
    lacking = [entry for entry in slices if any(name not in entry.files for name in wanted)]
    if not lacking:
        return
    entry = lacking[0]
    names = [name for name in wanted if name not in entry.files]
    there = ", ".join(sorted(entry.files.values())[:_SHOWN])
    others = f" (and {len(lacking) - 1} more slices that lack a file)" if len(lacking) > 1 else ""
    unknown = f"; not recognised: {surplus[0]}" if surplus else ""
    raise UnderstudyError(
        f"slice {entry.id} has no {' and no '.join(names)}{others}",
        where=f"{root}: there are {there}{unknown}",
        fix="add the file, remove the slice's other files, or say what the channel is called (--channels NAME=TEXT,"
        " --labels TEXT)",
    )

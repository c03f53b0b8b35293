"""Is anything of a patient in a package? Every file is read by the list, searched, and every slice compared.

What is not on the list of its format, or cannot be read, is a finding (`allowed`); how texts are searched: `words`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError, first_line
from understudy.release.allowed import held
from understudy.release.content import names_below, read_back
from understudy.release.parts import RealParts
from understudy.release.words import OURS, Words
from understudy.slices import READ, SliceSet

_SHOWN = 5


@dataclass(frozen=True)
class Scan:
    """How much was searched for how much, and what was found."""

    files: int
    slices: int
    training_slices: int
    words: int
    unsought: int  # of the words: too short or too common, so that no text is searched for them
    findings: list[str]


def scan(package: Path, certificate: dict[str, Any], real: Sequence[SliceSet], words: Words) -> Scan:
    """Searches a package with this certificate for `words` and slices of the `real` sets, which have its channels."""
    slices, count, findings = certificate.get("kind") == "slices", 0, list[str]()
    findings += [f"the package's name holds {what}" for what in words.found_in(package.name)]
    try:
        known, single = _hashes(real, certificate["data" if slices else "model"]["channels"])
        for name, texts, pictures in held(package, certificate, words, findings):
            findings += [f"{name} holds {what}" for text in texts for what in words.found_in(text, OURS)]
            if any(_digest(picture) in single for picture in pictures):
                findings.append(f"{name} shows a channel of a real slice, pixel by pixel")
        if slices:
            read = ((name, image) for name, image, _ in read_back(package, certificate["data"]))
            parts = RealParts(real, certificate["data"]["channels"])
            while some := list(islice(read, READ)):
                count += len(some)
                findings += _real(some, known, single, parts)
    except Exception as error:  # what cannot be read does not pass
        findings.append(f"the package cannot be read: {words.spoken(first_line(error))}")
    return Scan(len(names_below(package)), count, sum(map(len, real)), words.count, words.unsought, findings)


def _real(
    some: Sequence[tuple[str, NDArray[np.uint8]]], known: set[bytes], single: set[bytes], parts: RealParts
) -> Iterator[str]:
    """What of these slices (name, image) is of a real one."""
    found = parts.found_in(np.stack([image for _, image in some]))
    for i, (name, image) in enumerate(some):
        if _digest(image) in known:
            yield f"slice {name} is a real slice, pixel by pixel"
        elif any(_digest(channel) in single for channel in image):
            yield f"a channel of slice {name} is that of a real slice, pixel by pixel"
        elif i in found:
            channel, likeness = found[i]
            yield (
                f"slice {name} holds a part of a real slice: a quarter of its channel {channel + 1} has the same fine"
                f" structure (correlation {likeness:.2f})"
            )


def refuse_forms(words: Words, forms: Mapping[str, Any]) -> None:
    """Raises for what forms (name -> content) hold, before anything is written from them."""
    texts = {name: json.dumps(form, ensure_ascii=False, default=str) for name, form in forms.items()}
    _refuse([f"{name} holds {what}" for name, text in texts.items() for what in words.found_in(text)], ", ".join(forms))


def refuse(found: Scan, where: Path) -> None:
    """Raises `UnderstudyError` with what was found; nothing overrides it."""
    _refuse(found.findings, where)


def _refuse(findings: Sequence[str], where: str | Path) -> None:
    if findings:
        listed = "\n".join(f"  {f}" for f in findings[:_SHOWN])
        what = f"the scan found {len(findings)} things that must not leave:\n{listed}"
        fix = "take them out; a site that may be named stands in sites_named of about.yaml; nothing overrides the scan"
        raise UnderstudyError(what, where=where, fix=fix)


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).digest()


def _hashes(real: Sequence[SliceSet], channels: Sequence[str]) -> tuple[set[bytes], set[bytes]]:
    """Of real slices that show something, and of their channels."""
    whole, single = set(), set()
    for slices in real:
        order = [slices.channels.index(c) for c in channels]
        for _, images, _ in slices.blocks():
            for image in images[:, order]:
                if image.min() != image.max():
                    whole.add(_digest(image))
                single |= {_digest(c) for c in image if c.min() != c.max()}
    return whole, single

"""Makes the folder of a reading study: pictures under names that say nothing, and apart from it the answer key.

The key holds a random salt, so that its SHA-256, which the study records before anybody reads, can be told to all.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, sha256_file, write_json
from understudy.reading.cases import Case, check_alike, draw_real, draw_synthetic, shared_out, windows
from understudy.reading.integrity import KEY_FORMAT, seal
from understudy.reading.telltales import measured, telltales
from understudy.report.plots.slices import upright, windowed
from understudy.roles import HELD_OUT
from understudy.slices import SliceSet

FORMAT = "understudy-reading-1"


class Design(BaseModel):
    """How a reading study is drawn."""

    model_config = ConfigDict(extra="forbid")

    design: Literal["balanced", "paper"] = Field(
        "balanced",
        description="balanced: as many synthetic as real ones, their number not told, some shown twice; paper: as many"
        " of each generator as real ones, their number told (Akbar et al., section 4.4)",
    )
    real_count: int = Field(100, ge=1, description="real slices")
    synthetic_count: int | None = Field(None, ge=1, description="slices of each generator; null: as the design says")
    repeats: float | None = Field(
        None, ge=0, le=1, description="share of the cases shown twice; null: 0.1, or 0 in the paper's design"
    )
    channels: list[str] | None = Field(None, description="channels shown; null: all, in panels")
    splits: list[str] = Field(default=list(HELD_OUT), description="real slices are of these parts")
    pixels: int = Field(512, ge=32, le=2048, description="edge of a panel as shown")
    scale: Literal["confidence", "binary"] = Field("confidence", description="ask how sure, or only which")
    margin: float = Field(
        0.1, gt=0, lt=1, description="difference of rates that still counts as none, set before reading"
    )
    floor: int = Field(
        0, ge=0, le=64, description="grey values (of 255) below this are shown black, in all pictures alike: hides"
        " what a generator leaves in the background",
    )  # fmt: skip
    title: str = "Real or synthetic?"
    seed: int = Field(0, ge=0)


def prepare(real: SliceSet, synthetic: Mapping[str, SliceSet], out: Path, key: Path, design: Design) -> dict[str, Any]:
    """Draws the cases, writes `study.json`, `items.json` and `images/` to `out`, and the key to `key`.

    Args:
        real: slices of held-out patients.
        synthetic: generator -> its slices.

    Returns:
        The content of study.json.

    Raises:
        UnderstudyError: too few slices, other channels or sizes, `out` or `key` exist, the key below `out`.
    """
    check_places(out, key)
    shown = _channels(real, synthetic, design)
    rng = np.random.default_rng(design.seed)
    cases = _cases(real, synthetic, design, rng)
    repeated = _repeated(len(cases), design, rng)
    identities = [secrets.token_hex(8) for _ in range(len(cases) + len(repeated))]
    numbers = dict(zip(identities, [*range(len(cases)), *repeated], strict=True))
    sources = {"real": real, **synthetic}
    building = out.with_name(out.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    (building / "images").mkdir(parents=True)
    items, trivial = _pictured(building, sources, {i: cases[n] for i, n in numbers.items()}, shown, design)
    entries = {
        item: {"source": cases[n].source, "row": cases[n].row, "subject": cases[n].subject,
               "repeat_of": identities[n] if i >= len(cases) else ""}
        for i, (item, n) in enumerate(numbers.items())
    }  # fmt: skip
    about = {"kind": "real_or_synthetic", "title": design.title, "composition": _composition(cases, design),
             "scale": design.scale, "margin": design.margin, "seed": design.seed,
             "design": design.design, "instructions": INSTRUCTIONS[design.scale]}  # fmt: skip
    truth = {"items": entries, "sets": {name: slices.content_hash for name, slices in sources.items()},
             "telltales": telltales(trivial)}  # fmt: skip
    return finish(building, out, key, about, items, truth)


def _channels(real: SliceSet, synthetic: Mapping[str, SliceSet], design: Design) -> tuple[str, ...]:
    """Those shown, of sets that can be read beside each other.

    Raises:
        UnderstudyError: no synthetic set, one called "real", other channels or sizes, an unknown channel.
    """
    if not synthetic:
        raise UnderstudyError("a reading study needs synthetic slices", fix="give --synthetic NAME=SET")
    if "real" in synthetic:
        raise UnderstudyError('a generator cannot be called "real"', fix="give it another name: --synthetic NAME=SET")
    check_alike(real, synthetic)
    shown = tuple(design.channels or real.channels)
    if unknown := set(shown) - set(real.channels):
        raise UnderstudyError(
            f"there is no channel {', '.join(sorted(unknown))}", where=real.path,
            fix=f"use some of {', '.join(real.channels)}",
        )  # fmt: skip
    return shown


def _pictured(
    folder: Path, sources: Mapping[str, SliceSet], cases: Mapping[str, Case], shown: Sequence[str], design: Design
) -> tuple[list[dict[str, Any]], dict[str, list[list[float]]]]:
    """Writes the pictures of each item; returns items.json, and what is measured of the pictures of each source."""
    window = windows(sources["real"], np.unique([c.row for c in cases.values() if c.source == "real"]))
    items: list[dict[str, Any]] = []
    trivial: dict[str, list[list[float]]] = {name: [] for name in sources}
    for item in sorted(cases):  # in random order, as files may tell when they were written
        case = cases[item]
        pictures = panels(sources[case.source], case.row, shown, window, design.pixels, design.floor)
        items.append({"id": item, "panels": save_panels(folder, pictures)})
        trivial[case.source].append(measured([picture for _, picture in pictures]))
    return items, trivial


_ASKED = "Each case is one slice with its sequences. Say whether it is of a patient (R) or made by a computer (S)"
_KEYS = "Space goes on, Backspace goes back. Take breaks: every answer is kept at once."
INSTRUCTIONS = {
    "confidence": f"{_ASKED}, and how sure you are from 1 (guessing) to 5 (certain). {_KEYS}",
    "binary": f"{_ASKED}. {_KEYS}",
}


def finish(
    building: Path, out: Path, key: Path, about: dict[str, Any], items: list[dict[str, Any]], truth: dict[str, Any]
) -> dict[str, Any]:
    """Writes the key, then the study that names its hash, and puts the folder in its place."""
    now = datetime.now(UTC)
    about = {"format": FORMAT, **about, "software": f"understudy {__version__}",
             "created": now.isoformat(timespec="seconds")}  # fmt: skip
    write_json(building / "items.json", sorted(items, key=lambda entry: entry["id"]))
    for file in (building / "images").iterdir():  # in which order they were made is nobody's business
        os.utime(file, (now.timestamp(), now.timestamp()))
    key.parent.mkdir(parents=True, exist_ok=True)
    whole = {"format": KEY_FORMAT, "salt": secrets.token_hex(32), "sealed": seal(building, about), **truth}
    write_json(key, whole)
    key.chmod(0o600)
    study = {**about, "key_sha256": sha256_file(key)}
    write_json(building / "study.json", study)
    building.rename(out)
    return study


def check_places(out: Path, key: Path) -> None:
    """Refuses places that are taken, and a key that readers could find.

    Raises:
        UnderstudyError: see above.
    """
    for place in (out, key):
        if place.exists():
            raise UnderstudyError(
                "there is something already", where=place,
                fix="give another place, or remove it: a study that is being read must not change",
            )  # fmt: skip
    if out.resolve() in key.resolve().parents:
        raise UnderstudyError(
            "the answer key must not lie in the folder that is shown to readers", where=key,
            fix="give another --key",
        )  # fmt: skip


def _cases(real: SliceSet, synthetic: Mapping[str, SliceSet], design: Design, rng: np.random.Generator) -> list[Case]:
    names = list(synthetic)
    if design.synthetic_count is not None:
        counts = dict.fromkeys(names, design.synthetic_count)
    elif design.design == "paper":
        counts = dict.fromkeys(names, design.real_count)
    else:
        counts = shared_out(design.real_count, names)
    drawn = draw_real(real, design.real_count, rng, tuple(design.splits))
    return drawn + draw_synthetic(synthetic, counts, rng)


def _repeated(count: int, design: Design, rng: np.random.Generator) -> list[int]:
    share = design.repeats if design.repeats is not None else (0.0 if design.design == "paper" else 0.1)
    return [int(i) for i in rng.choice(count, round(share * count), replace=False)]


def _composition(cases: Sequence[Case], design: Design) -> str:
    """What readers are told of the mix: all of it in the paper's design, nothing otherwise."""
    if design.design != "paper":
        return ""
    sources = list(dict.fromkeys(c.source for c in cases))
    counts = {s: sum(c.source == s for c in cases) for s in sources}
    made = ", ".join(f"{counts[s]} of one generator" for s in sources if s != "real")
    return f"{len(cases)} cases: {counts['real']} real; synthetic: {made}."


def panels(
    slices: SliceSet,
    row: int,
    channels: Sequence[str],
    window: Mapping[str, tuple[float, float]],
    pixels: int,
    floor: int = 0,
) -> list[tuple[str, NDArray[np.uint8]]]:
    """(channel, uint8 [pixels, pixels]) of a slice, by one rule for all sets: window, upright, bicubic, floor."""
    images, _ = slices.read([row])
    found = []
    for name in channels:
        grey = upright(windowed(images[0, slices.channels.index(name)], window[name]), slices.axes)
        picture = Image.fromarray(np.ascontiguousarray(grey)).resize((pixels, pixels), Image.Resampling.BICUBIC)
        shown = np.asarray(picture)
        found.append((name, np.where(shown < floor, np.uint8(0), shown)))
    return found


def save_panels(folder: Path, pictures: Sequence[tuple[str, NDArray[np.uint8]]]) -> list[dict[str, str]]:
    """Writes PNGs without metadata under random names; returns the panels of items.json."""
    found = []
    for label, picture in pictures:
        file = f"images/{secrets.token_hex(8)}.png"
        with atomic_path(folder / file) as path:
            Image.fromarray(picture).save(path, format="PNG", compress_level=6)
        found.append({"file": file, "label": label})
    return found

"""A first study file for a folder of patients: what was found, what was guessed, and settings that suit the machine."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from understudy.cohort.checks import check_cohort, frame_of
from understudy.cohort.config import Cohort
from understudy.cohort.guess import Guess, guess
from understudy.cohort.slicing import SliceConfig
from understudy.errors import UnderstudyError
from understudy.io.grids import Plane, VolumeHeader, judge_pixels
from understudy.io.nifti import read_header
from understudy.study.config.cohorts import name_of

_GPU = ["# Generators and segmenters are those of the preset: `understudy preset workstation` shows them."]
_NO_GPU = [
    "# Generators and segmenters are those of the preset: `understudy preset quickstart` shows them; `generators:",
    "# {stylegan2: null}` leaves one out. For results that mean something, remove `preset` and train longer, an hour",
    "# or more for each generator on two cores:",
    "# generators:",
    "#   diffusion: {recipe: quick, samples: 2000}",
    "#   stylegan2: {recipe: quick, samples: 2000}",
    "# segmenters:",
    "#   unet: {training: {samples: 8000, batch: 32, momentum: 0.9}}",
    "# repeats: 3",
]


def suggest_study(folder: Path) -> str:
    """A commented study file for the patients below a folder; places to look at are marked `# CHECK:`."""
    import torch

    found, gpu = guess(folder.expanduser().absolute()), torch.cuda.is_available()
    cohort, patients = found.cohort, found.cohort.patients
    headers = []  # of the first sequences of some patients
    for i in sorted({round(i) for i in np.linspace(0, len(patients) - 1, min(len(patients), 50))}):
        with suppress(UnderstudyError, StopIteration):  # `check` names it
            headers.append(read_header(next(iter(patients[i].images.values()))))
    lines = [*_head(found, headers, gpu), *_cohort(found), *_slices(cohort, headers, 128 if gpu else 32)]
    return "\n".join([*lines, *_split(cohort), *(_GPU if gpu else _NO_GPU)]) + "\n"


def _head(found: Guess, headers: Sequence[VolumeHeader], gpu: bool) -> list[str]:
    cohort, people = found.cohort, {patient.subject for patient in found.cohort.patients}
    sites = sorted({patient.site for patient in cohort.patients} - {""})
    classes = ", ".join(f"{entry.name} ({entry.source})" for entry in cohort.classes[1:])
    layout = "file patterns, guessed" if cohort.layout == "pattern" else cohort.layout
    lines = [
        f"# Written by `understudy init`. Patients: {len(people)}. Layout: {layout}.",
        f"# Sequences: {', '.join(cohort.channels)}. Classes (value in the file): {classes}.",
    ]
    depths: dict[tuple[str, str], list[int]] = defaultdict(list)  # grids that differ in depth alone are one
    for header in headers:
        edges = " x ".join(f"{edge:.3g}" for edge in np.linalg.norm(header.affine[:3, :3], axis=0))
        width, height, depth = header.shape
        depths[f"{width} x {height}", edges].append(depth)
    for (matrix, edges), deep in sorted(depths.items(), key=lambda entry: -len(entry[1]))[:4]:
        low, high = min(deep), max(deep)
        voxels = f"{matrix} x {low if low == high else f'{low} to {high}'} voxels of {edges} mm"
        lines.append(f"# Volumes: {voxels} ({len(deep)} of {len(headers)} looked at).")
    lines += [] if headers else ["# CHECK: no header could be read; see `understudy check`."]
    lines += [f"# Sites: {', '.join(sites[:8])}{' ...' if len(sites) > 8 else ''}."] if sites else []
    lines += [_one_line(f"# CHECK: {note.problem}. What to do: {note.fix}.") for note in cohort.notes]
    lines += ["# Next: understudy check FILE, then understudy run FILE. Are slices to be released? Then agree on the"]
    lines += ["# thresholds before `run` searches them for copies of patients: understudy release template forms.", ""]
    if gpu:
        preset = "preset: workstation  # one GPU and about a day; `understudy plan` says how long on this machine"
    else:
        preset = "preset: quickstart  # no GPU here: short trainings at 32 x 32 for a first look, not for a conclusion"
    return [*lines, preset, f"name: {name_of(cohort.path, 'my-study')}", "seed: 1", ""]


def _cohort(found: Guess) -> list[str]:
    config = found.config
    check = {field: _one_line(f"  # CHECK: {doubt}") for field, doubt in found.doubts.items()}
    lines = ["cohort:", f"  path: {_text(str(config.path))}", f"  layout: {config.layout}"]
    if config.channels:
        lines.append(f"  channels:{check.get('channels', '')}")
        lines += [f"    {_text(name)}: {_text(value)}{check.get(name, '')}" for name, value in config.channels.items()]
    if config.labels:
        lines.append(f"  labels: {_text(config.labels)}{check.get('labels', '')}")
    if config.classes:
        lines.append(f"  classes:{check.get('classes', '')}")
        lines += [f"    {value}: {_text(name)}" for value, name in sorted(config.classes.items())]
    return [*lines, ""]


def _slices(cohort: Cohort, headers: Sequence[VolumeHeader], resolution: int) -> list[str]:
    """The usual settings; where they give no slices, the plane of the acquisition, or all slices."""
    channel = next((n for n in ("T1w", "T1wGd", "FLAIR", "T2w") if n in cohort.channels), cohort.channels[0])

    def usable(plane: Plane) -> int:  # volumes whose slices in this plane have usable pixels
        judged = [judge_pixels(replace(header, plane=plane)) for header in headers]
        return sum(all(severity != "error" for _, _, severity in found) for found in judged)

    planes: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
    plane = max(planes, key=usable)
    slicing = SliceConfig(resolution=4, scaling="robust", rule_channel=channel, plane=plane)
    if (frame := frame_of(cohort, slicing)) is not None:
        resolution = min(resolution, frame.matrix)
    lines = [
        "slices:",
        f"  resolution: {resolution}  # pixels, a power of two; twice the edge takes about four times as long",
        "  scaling: robust  # 255 is a high percentile of the volume, not its brightest voxel",
        f"  rule_channel: {_text(channel)}  # keeps the slices that are bright enough in this sequence",
    ]
    if plane != "axial":
        lines.append(f"  plane: {plane}  # as the volumes were acquired")
    sample = replace(cohort, patients=cohort.patients[:3], notes=())
    kept = check_cohort(sample, slicing, progress=False).kept
    if not kept or not all(kept.values()):
        lines.append("  keep: all  # CHECK: no slice of some patients passes the usual rule: look at the volumes")
    return [*lines, ""]


def _split(cohort: Cohort) -> list[str]:
    people = len({patient.subject for patient in cohort.patients})
    share, doubt = 0.2, ""
    if people < 15:  # a larger share for validation and test
        share = 0.3
        doubt = "  # CHECK: few patients: intervals will be wide, and with fewer than 5 there is no answer"
    test = 56 if people >= 300 else max(1, round(share * people))  # 56: as in the paper
    if people >= 10:
        test = max(test, 5)  # the report's answer and the audit need them
    fraction = f"  validation_fraction: {share if people > 3 else 0:g}  # of the patients who do not test"
    return ["split:", f"  test_patients: {test}{doubt}", fraction, ""]


def _one_line(comment: str) -> str:
    """A comment stays one, whatever is in the names of files."""
    return re.sub(r"[^\S ]", " ", comment)


def _text(value: str) -> str:
    """A YAML scalar: a plain word, if YAML takes it for one."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_.+-]*", value) and yaml.safe_load(value) == value
    return value if plain else json.dumps(value, ensure_ascii=False)

"""What a release needs from a study's results: the samples of a generator, their audit, and the real slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.files import read_json


@dataclass(frozen=True)
class ReleaseInputs:
    """Folders of finished jobs, and which training patients the generator saw."""

    synthetic: Path
    audit: Path
    real: Path
    subset: Any


def release_inputs(out: Path, generator: str) -> ReleaseInputs:
    """Finds the finished audit of a generator; its inputs are known by their job ids.

    Raises:
        UnderstudyError: none, or several.
    """
    found = {}
    for folder in sorted((out / "jobs").glob("audit-*")):
        if (folder / "done.json").is_file():
            spec = read_json(folder / "spec.json")
            if generator in (spec["spec"].get("name"), spec["name"], spec["name"].replace("audit ", "")):
                found[spec["name"]] = (folder, spec)
    if len(found) != 1:
        said = f"{len(found)} finished audits of {generator}" + (f": {', '.join(found)}" if found else "")
        raise UnderstudyError(said, where=out, fix="run the study to its end, or name one of its jobs")
    folder, spec = next(iter(found.values()))
    inputs = {role: out / "jobs" / f"{role}-{job[:12]}" for role, job in spec["inputs"]}
    return ReleaseInputs(
        inputs["sample"] / "slices", folder, inputs["prepare"] / "slices", spec["spec"].get("subset")
    )

"""A trained segmenter labels a new patient: slices as in its training, labels on the patient's own grid."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from understudy.cohort.slicing import Frame, SliceConfig
from understudy.errors import UnderstudyError
from understudy.exchange.spec import ALIASES, pattern_text
from understudy.io.files import atomic_path, read_json, reading, write_json
from understudy.io.folders import files_below
from understudy.io.foreign import MODEL
from understudy.io.grids import VolumeHeader, as_stored
from understudy.io.seals import check_opened, check_sealed
from understudy.slices import LabelClass
from understudy.study.engine.jobs import folder_name, read_done

PREPARATION = "preparation"  # of `config.json`: how slices were made, and what the classes are in label volumes


def record_preparation(model: Path, prepared: Path, dropped_slices: str) -> None:
    """Adds to a segmenter's `config.json` how slices were made, so that it can label new patients.

    `prepared`: folder of the prepare job; `dropped_slices`: what the study makes of slices that the rule drops.
    """
    record = read_json(model / "config.json")
    write_json(model / "config.json", {**record, PREPARATION: _preparation(prepared, dropped_slices)})


def _preparation(prepared: Path, dropped_slices: str) -> dict[str, Any]:
    spec = read_json(prepared / "spec.json")["spec"]
    volumes = read_json(prepared / "volumes" / "volumes.json")
    made = {"slices": spec["slices"], "frame": volumes.get("frame"), "classes": volumes["classes"]}
    named = {"file_patterns": spec["cohort"]["channels"], "trust_array_order": spec["cohort"]["trust_array_order"]}
    return {**made, **named, "dropped_slices": dropped_slices}


def segment_patient(
    model: Path, patient: Path, out: Path, given: Mapping[str, Path] | None = None, dropped: str | None = None,
    device: str = "auto",
) -> dict[str, int]:  # fmt: skip
    """Labels a patient, writes the label volume, and returns the voxels of each class.

    Args:
        model: folder of a segmenter, or of its job.
        patient: folder with the patient's NIfTI volumes.
        out: .nii or .nii.gz, on the grid of the first channel; values as in the label volumes of the training.
        given: channel -> file, where names do not tell.
        dropped: "background" or "predict", of slices that the rule drops; None: as in the study.
    """
    from understudy.cohort.prepare import slice_new_patient
    from understudy.segmenters.predict import load, predict_volume

    if not out.name.endswith((".nii", ".nii.gz")):
        raise UnderstudyError("the result is a NIfTI volume", where=out, fix="call it something.nii.gz")
    needed = ("segmenter.safetensors", "config.json")
    found = [path for path in (model / "model", model) if all((path / name).is_file() for name in needed)]
    if not found:
        fix = "give OUT/segmenters/NAME of a study that was run"
        raise UnderstudyError("no finished segmenter in the folder", where=model, fix=fix)
    made, segmenter = _preparation_of(found[0].resolve()), load(found[0], device)
    files = find_channels(patient, segmenter.channels, made.file_patterns, given or {})
    volume, header = slice_new_patient(files, made.slices, made.frame, made.trust_array_order)
    labels = predict_volume(segmenter, volume, dropped=dropped or made.dropped_slices)  # type: ignore[arg-type]
    values = {entry.name: entry.source for entry in made.classes}
    table = np.array([values[name] for name in segmenter.classes], np.uint8)
    save_labels(table[labels], header, next(iter(files.values())), out)
    return {name: int((labels == k).sum()) for k, name in enumerate(segmenter.classes) if k}


class _Preparation(BaseModel):
    slices: SliceConfig
    frame: Frame | None = None
    classes: list[LabelClass]
    file_patterns: dict[str, str]
    trust_array_order: bool
    dropped_slices: Literal["background", "predict"]


def _preparation_of(model: Path) -> _Preparation:
    """How the slices of a segmenter were made: from its record, else from the job that it stands in."""
    check_opened(model.parent)
    record = read_json(model / "config.json", dict)
    with reading(model / "config.json", MODEL):
        if PREPARATION in record:
            return _Preparation.model_validate(record[PREPARATION])
    job = model.parent / "spec.json"
    for role, job_id in read_json(job).get("inputs", []) if job.is_file() else ():
        prepared = model.parents[1] / folder_name("prepare", job_id)
        if role == "prepare" and read_done(prepared) is not None:
            check_sealed(prepared)
            return _Preparation.model_validate(_preparation(prepared, "background"))
    fix = "use it in the folder of its study: OUT/segmenters/NAME"
    raise UnderstudyError("the segmenter does not say how its slices were made", where=model / "config.json", fix=fix)


def find_channels(
    patient: Path, channels: tuple[str, ...], patterns: Mapping[str, str], given: Mapping[str, Path]
) -> dict[str, Path]:
    """The file of each channel in a patient's folder; an error where there is none, or several.

    `patterns`: of the cohort that the segmenter was trained on, {} for BraTS; `given`: files that the user names.
    """
    if unknown := [name for name in given if name not in channels]:
        where, fix = f"--channel {unknown[0]}={given[unknown[0]]}", f"its channels are {', '.join(channels)}"
        raise UnderstudyError(f"the segmenter has no channel {', '.join(unknown)}", where=where, fix=fix)
    files = files_below(patient, (".nii", ".nii.gz"))
    found = {name: [file for file in files if _is_channel(file, name, patterns.get(name))] for name in channels}
    open_ones = {name: matches for name, matches in found.items() if name not in given}
    if missing := [name for name, matches in open_ones.items() if not matches]:
        what = f"the patient has no {' and no '.join(missing)}; the segmenter needs {', '.join(channels)}"
        where = f"{patient}: there is {', '.join(files[:8]) or 'no NIfTI file'}"
        raise UnderstudyError(what, where, fix=f"name it, --channel {missing[0]}=FILE; it cannot be replaced")
    for name, matches in open_ones.items():
        if len(matches) > 1:
            where, fix = f"{patient}: {', '.join(matches)}", f"name one: --channel {name}=FILE"
            raise UnderstudyError(f"several files could be {name}", where=where, fix=fix)
    return {name: given.get(name) or patient / found[name][0] for name in channels}


def _is_channel(file: str, name: str, pattern: str | None) -> bool:
    """Whether a file is called as in the training, or ends as people call the channel ("_t1ce.nii.gz")."""
    last = file.rsplit("/", 1)[-1]
    if pattern:
        expression = pattern_text(pattern.rsplit("/", 1)[-1], ("patient", "visit", "site"))
        return re.fullmatch(expression, last) is not None
    tokens = "|".join(map(re.escape, {name.lower(), *ALIASES.get(name, ())}))
    return re.fullmatch(rf"(?:.*[-_. ])?(?:{tokens})\.nii(?:\.gz)?", last, re.IGNORECASE) is not None


def save_labels(labels: NDArray[np.uint8], header: VolumeHeader, like: Path, out: Path) -> None:
    """Writes labels [Z, H, W] in the stored order of the volume `like`, with its affine, in mm."""
    image = nib.Nifti1Image(np.ascontiguousarray(as_stored(labels, header)), header.affine)
    source = nib.load(like).header
    image.header.set_xyzt_units("mm", source.get_xyzt_units()[1])  # of the affine, whatever the source's are
    for kind in ("sform", "qform"):
        code = int(source[f"{kind}_code"])
        # a position that the source does not state is not claimed
        affine = header.affine if code or header.positioned else None
        getattr(image, f"set_{kind}")(affine, code or int(header.positioned))
    # the compression follows the name, so the temporary file has the ending of the final one
    with atomic_path(out) as temporary:
        beside = temporary.with_name(temporary.name + (".nii.gz" if out.name.endswith(".gz") else ".nii"))
        try:
            nib.save(image, beside)
            beside.replace(temporary)
        finally:
            beside.unlink(missing_ok=True)

"""The study of one folder of synthetic images: real, synthetic and both, with the U-Net of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from understudy.cohort.config import CohortConfig
from understudy.cohort.layouts import find_patients
from understudy.errors import UnderstudyError
from understudy.exchange.description import unpacked
from understudy.exchange.read import open_folder
from understudy.exchange.spec import FolderSpec
from understudy.io.files import read_json
from understudy.study.config.cohorts import name_of
from understudy.study.config.networks import FolderGenerator
from understudy.study.config.schema import Study


def evaluation_study(
    synthetic: Path, spec: FolderSpec, study: Study, out: Path | None = None, count: int | None = None
) -> Study:
    """The study that compares a folder of synthetic images, read as `spec` says, with real patients.

    Args:
        study: whose patients, split, slices, first segmenter, repeats and scoring are taken over.
        out: folder of the results; if it holds `study`, its real slices and the segmenters trained on them are reused.
        count: of the images; None: all.

    Raises:
        UnderstudyError: no such folder, nothing in it.
    """
    study = study.with_one_cohort("comparing images with its patients")
    known = find_patients(study.cohort).channels if study.cohort else None
    folder, spec = unpacked(synthetic, spec, known)
    open_folder(folder, spec, known)  # reports wrong file names before anything runs
    name, first = name_of(synthetic, "synthetic"), next(iter(study.segmenters))
    fields: dict[str, Any] = spec.model_dump(exclude={"resolution"})
    stamp = None if out is None else out / "study.json"
    same = stamp is not None and stamp.is_file() and read_json(stamp).get("name") == study.name
    changed = {
        "name": study.name if same else f"{study.name}-{name}",
        "generators": {name: FolderGenerator(**fields, folder=folder.absolute(), samples=count)},
        "segmenters": {first: study.segmenters[first]},
        "trainings": ["real", "synthetic", "both"],
        "include": [],
        "exclude": [],
        **dict.fromkeys(("ratios", "real_fractions", "real_shares", "fine_tune")),
    }
    return Study.model_validate(study.model_copy(update=changed))


def study_of_cohort(cohort: Path, base: Study, resolution: int | None) -> Study:
    """A study with the patients of a folder, which must exist, in place of those of `base`."""
    if not cohort.is_dir():
        fix = "give the folder that holds the patients"
        raise UnderstudyError("the cohort's folder does not exist", where=cohort, fix=fix)
    update: dict[str, Any] = {"cohort": CohortConfig(path=cohort.absolute()), "phantom": None, "cohorts": None}
    update["name"] = name_of(cohort, "cohort")
    if resolution is not None:
        update["slices"] = base.slices.model_copy(update={"resolution": resolution})
    return base.model_copy(update=update)

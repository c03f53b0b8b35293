"""The report where the user looks for it: copied from the report's job to the study's folder, and sealed there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, read_json, write_json
from understudy.io.seals import Damaged, Files, check_file, check_seal, check_sealed, files_of, problem, sealed
from understudy.study.engine.jobs import Job, job_folder, plain_name, read_done

PUBLISHED = ["scores.parquet", "report.json", "report.html", "figures/*.*", "figures/private/*.*", "tables/*.csv"]
PUBLISHED += ["tables/*.tex", "tables/*.html"]
SEAL = "published.json"
REPORTS = ("report", "overview")  # stages whose results are published
LINKS = {  # stage -> folder of the links to its results, and what in a job's folder they lead to
    "prepare": ("real", "slices"), "sample": ("synthetic", "slices"), "generator": ("generators", "model"),
    "audit": ("audits", ""), "segmenter": ("segmenters", "model"),
}  # fmt: skip
AGAIN = "publish it again: understudy run STUDY, or understudy report FOLDER"


def publish(folder: Path, place: Path) -> None:
    """Copies the report of a finished job, if it is as the job left it; else the former copy stays."""
    from understudy.report.page import remove_former

    check_sealed(folder)
    sources = [path for pattern in PUBLISHED for path in sorted(folder.glob(pattern))]
    remove_former(place, {source.relative_to(folder).as_posix() for source in sources})
    for source in sources:
        with atomic_path(place / source.relative_to(folder)) as temporary:
            shutil.copyfile(source, temporary)
    seal_published(place)


def link_results(jobs: Sequence[Job], cohort_of: Mapping[str, str], out: Path) -> None:
    """Names for the results of finished jobs, as links: OUT/real, OUT/synthetic/NAME, OUT/generators/NAME, ..."""
    for job in jobs:
        if job.stage not in LINKS or read_done(job_folder(out, job)) is None:
            continue
        group, inside = LINKS[job.stage]
        name = re.sub(r",? ", "-", plain_name(job.name).partition(" ")[2])  # "stylegan2-member-2" of an ensemble
        link = out / cohort_of.get(job.id, "") / group / name
        if link.is_symlink() or not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            temporary = link.with_name(f".{link.name}.tmp")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(os.path.relpath(job_folder(out, job) / inside, link.parent))
            os.replace(temporary, link)


def seal_published(place: Path) -> None:
    """Lists in `published.json` what lies there now."""
    names = [path.relative_to(place).as_posix() for pattern in PUBLISHED for path in sorted(place.glob(pattern))]
    write_json(place / SEAL, sealed({"files": files_of(place, names)}))


def read_published(place: Path) -> dict[str, Any]:
    """The published `report.json`, {} if there is none; `Damaged` if it is not the one that was published."""
    if not (files := _listed(place)):
        return {}
    check_file(place, "report.json", files, AGAIN)
    return dict(read_json(place / "report.json", dict))


def damaged_copies(jobs: Iterable[Job], out: Path) -> list[str]:
    """What is wrong with the published files of the study of these jobs: of each cohort's report."""
    return [
        wrong
        for place in sorted({out / job.local.get("publish", "") for job in jobs if job.stage in REPORTS})
        for wrong in _damaged(place)
    ]


def _damaged(place: Path) -> list[str]:
    try:
        files = _listed(place)
    except UnderstudyError as error:
        return [f"{SEAL}: {error.what}"]
    return [wrong for name in files if (wrong := problem(place, name, files))]


def _listed(place: Path) -> Files:  # {} where nothing was published
    path = place / SEAL
    if not path.is_file():
        if any((place / name).exists() for name in ("report.html", "report.json")):
            raise Damaged("the list of what was published is missing", where=path, fix=AGAIN)
        return {}
    content = read_json(path, dict)
    check_seal(content, path, AGAIN)
    if not isinstance(content.get("files"), dict):
        raise Damaged("the file was changed or damaged", where=path, fix=AGAIN)
    return dict(content["files"])

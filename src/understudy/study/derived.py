"""Studies made of others: one folder of synthetic images, one generator on few patients or with one often."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from understudy.cohort.config import CohortConfig
from understudy.cohort.layouts import find_patients
from understudy.cohort.slicing import SliceConfig
from understudy.errors import UnderstudyError
from understudy.exchange.description import CERTIFICATE, certificate_of, description_of, unpacked
from understudy.exchange.read import open_folder
from understudy.exchange.spec import FolderSpec
from understudy.io.files import plain, read_json, write_json, write_text
from understudy.io.readers import read_table
from understudy.io.seals import check_sealed
from understudy.memorization.config import AuditConfig
from understudy.memorization.pictures import save_sweep
from understudy.slices import SliceSet
from understudy.study.config.cohorts import name_of
from understudy.study.config.networks import FolderGenerator
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Job, job_folder
from understudy.study.engine.plan import Plan
from understudy.study.engine.run import run_study
from understudy.study.stages.audit import audit_job
from understudy.study.stages.data import first_patient, prepare_jobs
from understudy.study.stages.generator import generator_jobs

TIMES = (1, 2, 4, 8)  # that a canary test repeats one patient


def evaluation_study(
    synthetic: Path, spec: FolderSpec, study: Study, out: Path | None = None, count: int | None = None
) -> Study:
    """The study that compares a folder of synthetic images, read as `spec` says, with real patients.

    Args:
        study: whose patients, split, slices, first segmenter, repeats and scoring are taken over.
        out: folder of the results; if it holds `study`, its real slices and the segmenters trained on them are reused.
        count: of the images; None: all.
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


def resolution_in(folder: Path) -> int | None:
    """Of the slices in a released package, a slice set or a folder that `understudy export` wrote; else None."""
    if (folder / CERTIFICATE).is_file():
        return int(certificate_of(folder)["data"]["resolution"])
    if (folder / "index.parquet").is_file():
        return SliceSet.open(folder, cache_bytes=0).resolution
    said = description_of(folder)
    return None if said is None else said.resolution


def study_of_cohort(cohort: Path, base: Study, resolution: int | None) -> Study:
    """A study with the patients of a folder, which must exist, in place of those of `base`."""
    if not cohort.is_dir():
        fix = "give the folder that holds the patients"
        raise UnderstudyError("the cohort's folder does not exist", where=cohort, fix=fix)
    update: dict[str, Any] = {"cohort": CohortConfig(path=cohort.absolute()), "phantom": None, "cohorts": None}
    update["name"] = name_of(cohort, "cohort")
    if resolution is not None:
        update["slices"] = SliceConfig.model_validate({**base.slices.model_dump(), "resolution": resolution})
    return base.model_copy(update=update)


def sweep_plan(study: Study, generator: str, sizes: Sequence[int], samples: int | None = None) -> Plan:
    """The jobs of a study's generator on `sizes` patients: from how many on does it stop copying them?

    The groups of patients are nested and the held-out patients the same throughout. `samples`: synthetic slices of
    each; None: the study's number. An error for an unknown generator, and for sizes that are below 1 or not different.
    """
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise UnderstudyError("the sizes of a sweep must be different numbers of patients", fix="e.g. 5,10,20,40")
    return _plan(study, generator, "sweep", [{"patients": size} for size in sorted(sizes)], samples)


def canary_plan(study: Study, generator: str, samples: int | None = None) -> Plan:
    """The jobs of a study's generator with one training patient's slices 1, 2, 4, 8 times among the others'.

    The patient is drawn by the study's seed. `samples`: as of `sweep_plan`.
    """
    return _plan(study, generator, "canary", [{"times": times} for times in TIMES], samples)


def _plan(study: Study, generator: str, purpose: str, subsets: list[dict[str, Any]], samples: int | None) -> Plan:
    """A training, sampling and audit for each of the `subsets` (see `training_rows`)."""
    if generator not in study.generators:
        fix = f"use one of {', '.join(study.generators) or '(there are none)'}"
        raise UnderstudyError(f"the study has no generator {generator!r}", where=f"study {study.name}", fix=fix)
    study = study.with_one_cohort(f"a {purpose}").model_copy(update={"name": f"{study.name}-{purpose}"})
    jobs: list[Job] = []  # those of a study, so that it resumes like one
    prepare = prepare_jobs(study, jobs)
    for chosen in subsets:
        subset = {**chosen, "seed": study.derived_seed(purpose)}
        generator_jobs(study, generator, prepare, jobs, subset=subset, samples=samples)
        jobs.append(audit_job(study, jobs[-1], prepare, subset))
    return Plan(study, tuple(jobs))


def _audits(plan: Plan, out: str | Path, device: str, progress: bool) -> list[tuple[Job, Path, dict[str, Any]]]:
    """Runs the jobs; each audit with its folder and audit.json."""
    result = run_study(plan, out, device, progress)
    if result.failed:
        job, message = result.failed[0]
        fix = "run the same command again: what is done is kept"
        raise UnderstudyError(f"{job.name} failed: {message}", where=result.out, fix=fix)
    done = [(job, job_folder(out, job)) for job in plan.jobs if job.stage == "audit"]
    for _, folder in done:
        check_sealed(folder)
    return [(job, folder, read_json(folder / "audit.json")) for job, folder in done]


def run_sweep(
    study: Study, generator: str, sizes: Sequence[int], out: str | Path, config: AuditConfig | None = None,
    samples: int | None = None, device: str = "auto", progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Runs a sweep, or continues it, and writes `sweep.csv` and `sweep.png` to its folder.

    Returns:
        One row a size: patients, slices (judged), rate of flags with low and high, hit (training patients), certain
        (slices too near for chance), auc (of the weights, None without), verdict.
    """
    if config is not None:
        study = study.model_copy(update={"audit": config})
    rows = []
    for job, _, numbers in _audits(sweep_plan(study, generator, sizes, samples), out, device, progress):
        flags, member, hit = (numbers.get(part) or {} for part in ("flags", "membership", "patients"))
        rates = {name: flags.get(name, float("nan")) for name in ("rate", "low", "high")}
        row = {"patients": job.spec["subset"]["patients"], "slices": flags.get("judged"), **rates}
        row |= {"certain": flags.get("certain"), "hit": hit.get("hit"), "auc": member.get("auc")}
        row |= {"auc_low": member.get("low"), "auc_high": member.get("high"), "verdict": numbers["verdict"]["kind"]}
        rows.append(row)
    table = pd.DataFrame(rows)
    write_text(Path(out) / "sweep.csv", table.to_csv(index=False))
    save_sweep(table, Path(out) / "sweep.png", round(1 - (study.audit or AuditConfig()).quantile, 12))
    return table


def run_canary(
    study: Study, generator: str, out: str | Path, config: AuditConfig | None = None, samples: int | None = None,
    device: str = "auto", progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """From how many repetitions of one patient on does the audit see them? Writes `canary.json` to its folder.

    Returns:
        `rows`, one each: times, slices (judged), flagged (of the set), beside (the patient), p and exposed (of the
        patient, None where it cannot be told), verdict; `seen_from`: times from which on the patient is always called
        exposed, None for never; `words`.
    """
    if config is not None:
        study = study.model_copy(update={"audit": config})
    plan, rows = canary_plan(study, generator, samples), list[dict[str, Any]]()
    done = _audits(plan, out, device, progress)
    real = SliceSet.open(job_folder(out, next(job for job in plan.jobs if job.stage == "prepare")) / "slices")
    subjects = real.index["subject"].to_numpy()[real.rows(split="train")].astype(str)
    for job, folder, numbers in done:
        flags, subset, told = numbers.get("flags") or {}, job.spec["subset"], {}
        if numbers.get("exposed"):
            table = read_table(folder / "private" / "exposure.parquet", "patient", "flagged", "p", "exposed")
            told = table.set_index("patient").loc[first_patient(subjects, subset)].to_dict()
        rows.append(
            {"times": subset["times"], "slices": flags.get("judged"), "flagged": flags.get("count"),
             "beside": told.get("flagged"), "p": told.get("p"), "exposed": told.get("exposed"),
             "verdict": numbers["verdict"]["kind"]}
        )  # fmt: skip
    blind = [row["times"] for row in rows if not row["exposed"]]
    later = [times for times in TIMES if times > max(blind, default=0)]
    found = plain({"rows": rows, "seen_from": later[0] if later else None})
    write_json(Path(out) / "canary.json", found | {"words": canary_words(found)})
    return found | {"words": canary_words(found)}


def canary_words(found: dict[str, Any]) -> str:
    """What `run_canary` found, in a sentence."""
    if all(row["exposed"] is None for row in found["rows"]):
        return "Whether the audit sees a repeated patient cannot be told: too few held-out patients."
    if found["seen_from"] is None:
        return f"The audit does not see a patient on whom a generator was trained {TIMES[-1]} times as often."
    if found["seen_from"] == 1:
        return "The audit sees the patient already where they were trained on like all others: this generator copies."
    return (
        f"The audit sees a patient whose slices are shown at least {found['seen_from']} times as often as the others'."
    )

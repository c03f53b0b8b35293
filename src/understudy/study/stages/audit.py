"""The stage `audit`: do the synthetic slices of a generator copy the patients that it was trained on?"""

import shutil
from typing import Any

import numpy as np

from understudy.io.files import read_json, write_json
from understudy.memorization.config import AuditConfig
from understudy.slices import SliceSet
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Context, Job, job_of
from understudy.study.stages.data import of_subset, training_rows
from understudy.study.stages.generator import models_of


def audit_job(study: Study, sampled: Job, prepare: str, subset: dict[str, Any] | None = None) -> Job:
    """The audit of a generator's samples; `subset` as in `generator_jobs`."""
    config = (study.audit or AuditConfig()).model_dump(mode="json")
    spec = {"name": sampled.spec["name"], "config": config, **({"subset": subset} if subset else {})}
    if "snapshot_kimg" in sampled.spec:
        spec["snapshot_kimg"] = sampled.spec["snapshot_kimg"]  # whose weights are tested
    models = [entry for entry in sampled.inputs if entry[0] == "generator"]
    inputs = [("prepare", prepare), ("sample", sampled.id), *models]
    return job_of("audit", f"audit {sampled.spec['name']}{of_subset(subset)}", spec, inputs)


def audit(context: Context) -> dict[str, Any]:
    """Writes `audit.json`, `audit.md`, `p_values.parquet` and `private/`.

    Where nothing can be audited (no held-out patients, say) the reason is the result, which the report shows.
    """
    from understudy.generators.membership import MembershipScores, supports_membership_inference
    from understudy.memorization.perform import audit as perform
    from understudy.memorization.perform import refused
    from understudy.memorization.pictures import save_pictures
    from understudy.roles import UnfitSets
    from understudy.runtime.devices import resolve_device

    real = SliceSet.open(context.input("prepare") / "slices")
    made = SliceSet.open(context.input("sample") / "slices")
    config = AuditConfig.model_validate(context.spec["config"])
    rows = np.unique(training_rows(real, context.spec.get("subset")))  # each once, however often it was trained on
    device, work = str(resolve_device(context.device)), context.folder / "private" / "search"
    # membership scores by the (first) generator, if it gives any; a folder of images has none
    models = models_of(context.inputs.get("generator", []), context.spec)[:1]
    scores = next((MembershipScores(m, device) for m in models if supports_membership_inference(m)), None)
    try:
        done = perform(real, real, made, config, rows, scores, work, device, context.progress)
    except UnfitSets as error:
        write_json(context.folder / "audit.json", refused(error))
    else:
        done.save(context.folder)
        save_pictures(done, real, made, context.folder)
    shutil.rmtree(work, ignore_errors=True)
    numbers = read_json(context.folder / "audit.json")
    verdict, flags = numbers["verdict"], numbers.get("flags") or {}
    found = {"verdict": verdict["kind"], "headline": verdict["headline"]}
    return found | {"flagged": flags.get("count"), "judged": flags.get("judged")}

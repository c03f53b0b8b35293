"""The stage `audit`: do the synthetic slices of a generator copy the patients that it was trained on?"""

from __future__ import annotations

import shutil
from typing import Any

from understudy.io.files import read_json, write_json
from understudy.runtime.memory import current
from understudy.study.engine.jobs import Context


def audit(context: Context) -> dict[str, Any]:
    """Writes `audit.json`, `audit.md`, `p_values.parquet` and `private/`.

    Where nothing can be audited (no held-out patients, say) the reason is the result: a study goes on without, and its
    report says so. Anything else that goes wrong (a full disk, say) fails the job, which can then be run again.
    """
    from understudy.memorization.config import AuditConfig
    from understudy.memorization.perform import audit as performed
    from understudy.memorization.perform import refused
    from understudy.memorization.pictures import save_pictures
    from understudy.roles import UnfitSets
    from understudy.runtime.devices import resolve_device
    from understudy.slices import SliceSet
    from understudy.study.stages.subsets import training_rows

    real = SliceSet.open(context.input("prepare") / "slices")
    made = SliceSet.open(context.input("sample") / "slices")
    config = AuditConfig.model_validate({**context.spec["config"], **context.local["config"]})
    if (parts := current().least_parts) > 1:  # an earlier try ran out of memory
        config = config.model_copy(update={"memory_bytes": config.memory_bytes // parts})
        current().note("audit", f"{config.memory_bytes >> 20:,} MiB for the search: the same results")
    rows = training_rows(real, context.spec.get("subset"))
    device, work = str(resolve_device(context.device)), context.folder / "private" / "search"
    try:
        done = performed(real, real, made, config, rows, _witness(context, device), work, device, context.progress)
    except UnfitSets as error:
        write_json(context.folder / "audit.json", refused(error))
    else:
        done.save(context.folder)
        save_pictures(done, real, made, context.folder)
    shutil.rmtree(work, ignore_errors=True)
    return summary(read_json(context.folder / "audit.json"))


def summary(numbers: dict[str, Any]) -> dict[str, Any]:
    """The result of the job."""
    flags = numbers.get("flags") or {}
    return {
        "verdict": numbers["verdict"]["kind"],
        "headline": numbers["verdict"]["headline"],
        "flagged": flags.get("count"),
        "judged": flags.get("judged"),
    }


def _witness(context: Context, device: str) -> Any:
    """The score of slices by the (first) generator's network; None where its folder cannot give one."""
    from understudy.generators.membership import MembershipScores, supports_membership_inference

    models = context.inputs.get("generator")
    if not models:
        return None  # a folder of images, whose generator is not here
    model = models[0] / "model"
    if not supports_membership_inference(model):
        return None
    return MembershipScores(model, device)

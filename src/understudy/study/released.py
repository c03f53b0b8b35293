"""What a release needs from a study's results: the samples of a generator, their audit, and the real slices."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.io.seals import check_sealed
from understudy.study.engine.jobs import folder_name, read_done
from understudy.study.engine.publish import read_published
from understudy.study.stages.generator import models_of


@dataclass(frozen=True)
class ReleaseInputs:
    """Folders of finished jobs."""

    synthetic: Path
    audit: Path
    real: Path
    subset: Any  # the training patients that the generator saw, see `training_rows`
    models: tuple[Path, ...] = ()  # none for foreign images


def release_inputs(out: Path, generator: str) -> ReleaseInputs:
    """The finished audit of a generator, and its inputs; an UnderstudyError for none or several."""
    found = {}
    for folder in sorted((out / "jobs").glob("audit-*")):
        if read_done(folder) is not None:
            check_sealed(folder)
            spec = read_json(folder / "spec.json")
            if generator in (spec["spec"].get("name"), spec["name"], spec["name"].replace("audit ", "")):
                found[spec["name"]] = (folder, spec)
    if len(found) != 1:
        what = f"{len(found)} finished audits of {generator}" + (f": {', '.join(found)}" if found else "")
        raise UnderstudyError(what, where=out, fix="run the study to its end, or name one of its jobs")
    ((folder, spec),) = found.values()
    inputs = [(role, out / "jobs" / folder_name(role, job)) for role, job in spec["inputs"]]
    for _, path in inputs:
        check_sealed(path)
    models = tuple(models_of((path for role, path in inputs if role == "generator"), spec["spec"]))
    made, real = (dict(inputs)[role] / "slices" for role in ("sample", "prepare"))
    named = out / "audits" / generator  # a link, which messages show
    audit = named if named.resolve() == folder.resolve() else folder
    return ReleaseInputs(made, audit, real, spec["spec"].get("subset"), models)


def proposed(out: Path, what: str) -> str:
    """How to name a generator of a study whose "slices" or "weights" may be shared: by the one that its report
    recommends, if any."""
    name = (read_published(out).get("recommended") or {}).get(what)
    why = f" (the report recommends it: the most useful without a sign of copies, to share {what})" if name else ""
    return f"add --generator {name or 'NAME'}{why}"


def model_of(found: ReleaseInputs, generator: str) -> Path:
    """The one generator that the audited slices are of; an UnderstudyError for none or an ensemble."""
    if len(found.models) != 1:
        what = "an ensemble" if found.models else "a folder of images, not a trained generator"
        fix = "audit the members one by one, each with its own samples" if found.models else "release its slices"
        raise UnderstudyError(f"{generator} is {what}", where=found.synthetic, fix=fix)
    return found.models[0]


def dice_of(out: Path, generator: str) -> dict[str, Any] | None:
    """What a study's report says of segmenters trained with a generator's slices; None: nothing was evaluated."""
    report = {"settings": [], **read_published(out)}
    answer = report.get("answer") or {}
    mine = {s["id"]: s["training"] for s in report["settings"] if s["generator"] == generator}
    columns = ("label", "relative_dice", "low", "high", "missed", "present")
    rows = [
        {**{k: c[k] for k in columns}, "training": mine[c["setting"]]}
        for c in answer.get("comparisons", [])
        if c["setting"] in mine
    ]
    kept = ("baseline_dice", "patients", "repeats", "evidence")
    return {**{k: answer.get(k) for k in kept}, "comparisons": rows} if rows else None

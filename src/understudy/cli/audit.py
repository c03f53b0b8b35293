"""Commands on memorization: audit, screen."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from typer import Argument, Option

from understudy.cli import base
from understudy.cli.folders import Reading, as_given, open_slices, with_folder_options
from understudy.errors import UnderstudyError
from understudy.io.files import read_json, write_json
from understudy.names import percent

if TYPE_CHECKING:
    from understudy.memorization.config import AuditConfig
    from understudy.memorization.perform import AuditResult


@base.app.command("audit")
@with_folder_options()
def audit_command(
    training: Path | None = Option(None, help="Training slices: slice set (train rows) or image folder."),
    heldout: Path | None = Option(None, help="Slices of other patients [default: val and test rows of --training]."),
    synthetic: Path | None = Option(None, help="Synthetic slice set or image folder to be judged."),
    out: Path | None = Option(None, "--out", "-o", help="Folder for audit.json, audit.md, p-values, private/."),
    model: Path | None = Option(None, help="Its generator, for membership inference on the weights."),
    quantile: float = Option(0.99, min=0.5, max=0.9999, help="A copy is nearer than this share of held-out slices."),
    *,
    reading: Reading,
    transforms: str = Option("none", help="Also copies turned by quarters (dihedral), or none."),
    seed: int = base.SeedOption,
    as_json: bool = base.JsonOption,
    sweep_subjects: str | None = Option(None, help="Audit trainings on so many patients: 5,10,20,40."),
    study: str | None = Option(None, help="With --sweep-subjects: study file or preset."),
    canary: str | None = Option(None, help="Study: audit trainings with one patient 1, 2, 4, 8 times."),
    generator: str | None = Option(None, help="With --sweep-subjects, --canary: generator of the study."),
    samples: int | None = Option(None, min=100, help="With them: slices of each [default: the study's]."),
    device: str = base.DeviceOption,
    quiet: bool = base.QuietOption,
) -> None:
    """Does a synthetic set contain copies of training patients? With controls, in words and numbers.

    Exit status 1 if copies are found or nothing can be said.
    """
    from understudy.memorization.config import AuditConfig

    base.one_of("--transforms", transforms, ["none", "dihedral"])
    config = AuditConfig.model_validate({"quantile": quantile, "transforms": transforms, "seed": seed})
    if sweep_subjects is not None:
        _sweep(sweep_subjects, study, generator, samples, config, out, device, as_json, quiet)
        return
    if canary is not None:
        _canary(canary, generator, samples, config, out, device, as_json, quiet)
        return
    if training is None or synthetic is None:
        fix = "see `understudy audit --help`, or use --sweep-subjects"
        raise UnderstudyError("an audit needs --training and --synthetic", fix=fix)
    from understudy.memorization.words import as_markdown

    done = _audited(training, heldout, synthetic, config, out, model, device, quiet, reading)
    if as_json:
        # a row for each synthetic slice: p-values and scores, never with whom
        scores = done.neighbours.set_index("row").filter(regex=r"\.score$")
        rows = done.slices.join(scores, on="row").to_json(orient="records", double_precision=15)
        base.print_json({**done.numbers, "slices": json.loads(rows)})
    else:
        print(as_markdown(done.numbers))
        if out is not None:
            print(f"written to {out}; {out / 'private'} shows training images and is not for release")
    base.exit_with(done.verdict.kind != "no_sign")


@base.app.command()
@with_folder_options()
def screen(
    synthetic: Path = Argument(..., help="Synthetic slice set that was audited."),
    audit: Path = Option(..., help="Folder of its audit."),
    training: Path = Option(..., help="Training slices, for the audit of what is left."),
    out: Path = Option(..., "--out", "-o", help="New folder for the slices that are left."),
    heldout: Path | None = Option(None, help="Held-out slices [default: val and test rows of --training]."),
    *,
    reading: Reading,
    as_json: bool = base.JsonOption,
    device: str = base.DeviceOption,
    quiet: bool = base.QuietOption,
) -> None:
    """Take flagged slices and their near-duplicates out of a set, and audit what is left (to OUT-audit).

    Exit status 1 if copies are found in what is left, or nothing can be said.
    """
    from understudy.memorization.config import AuditConfig
    from understudy.memorization.screen import check_training
    from understudy.memorization.screen import screen as screened_set
    from understudy.runtime.devices import resolve_device

    folder = out.with_name(out.name + "-audit")
    kept = folder / "private" / "read"  # nothing is written into the audit, which may be a study's
    check_training(open_slices(training, kept, reading, strict=True), audit)
    where = str(resolve_device(device))
    left, counts = screened_set(open_slices(synthetic, kept, reading, real=False), audit, out, where, not quiet)
    before = read_json(audit / "audit.json")
    config = AuditConfig.model_validate(before["config"])
    done = _audited(training, heldout, out, config, folder, None, device, quiet, reading)
    record = {
        "screened": asdict(counts), "content_hash": left.content_hash, "before": before["verdict"],
        "after": done.verdict.as_dict(), "audit_before": audit.absolute().name, "audit_after": folder.name,
    }  # fmt: skip  # names only: the file may be shared, and paths tell of a hospital's disks
    write_json(folder / "screen.json", record)
    if as_json:
        base.print_json(record)
    else:
        print(
            f"{counts.before:,} slices: {counts.kept:,} written to {out}, taken out: {counts.words()}\n"
            f"before: {before['verdict']['headline']}\n"
            f"after: {done.verdict.headline}"
        )
    base.exit_with(done.verdict.kind != "no_sign")


def _audited(
    training: Path, heldout: Path | None, synthetic: Path, config: AuditConfig, out: Path | None, model: Path | None,
    device: str, quiet: bool, reading: Reading,
) -> AuditResult:  # fmt: skip
    from understudy.generators.membership import MembershipScores, supports_membership_inference
    from understudy.memorization.perform import audit
    from understudy.memorization.pictures import save_pictures
    from understudy.runtime.devices import resolve_device

    where = str(resolve_device(device))
    with tempfile.TemporaryDirectory(prefix="understudy-audit-") as temporary:
        private = Path(temporary) if out is None else out / "private"  # where training images may lie
        real = open_slices(training, private / "read", reading, strict=True)
        held = open_slices(heldout, private / "read", reading, strict=True) if heldout else real
        made = open_slices(synthetic, private / "read", reading, real=False)
        if model is not None and not supports_membership_inference(model):  # before the search, which takes its time
            what = "the folder holds no discriminator, which membership inference on a GAN needs"
            raise UnderstudyError(what, where=model, fix="train it again")
        membership = MembershipScores(model, where) if model is not None else None
        work = private / "search" if out else None
        with as_given((real, training), (held, heldout), (made, synthetic)):
            done = audit(real, held, made, config, None, membership, work, where, not quiet)
        if out is not None:
            done.save(out)
            save_pictures(done, real, made, out)
    return done


def _sweep(
    sizes: str, study: str | None, generator: str | None, samples: int | None, config: AuditConfig, out: Path | None,
    device: str, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    from understudy.study.derived import run_sweep

    if study is None or generator is None:
        raise UnderstudyError("a sweep needs --study and --generator", fix="name the study and one of its generators")
    try:
        wanted = [int(size) for size in sizes.split(",")]
    except ValueError as error:
        raise UnderstudyError(f"{sizes!r} is no list of numbers", fix="write e.g. 5,10,20,40") from error
    loaded = base.study_of(study)
    folder = out or Path(f"{base.results_folder(loaded, None)}-sweep")
    table = run_sweep(loaded, generator, wanted, folder, config, samples, device, not quiet)
    if as_json:
        print(table.to_json(orient="records", indent=2))
        return
    rows = [
        [r["patients"], r["slices"], percent(r["rate"], 1), f"{100 * r['low']:.1f} to {percent(r['high'], 1)}",
         r["hit"], "" if r["auc"] is None else f"{r['auc']:.2f}", r["verdict"].replace("_", " ")]
        for r in table.to_dict(orient="records")
    ]  # fmt: skip
    base.print_table(["patients", "slices", "flagged", "95 %", "patients hit", "weights AUC", "verdict"], rows)
    print(f"curve: {folder / 'sweep.png'}, table: {folder / 'sweep.csv'}")


def _canary(
    study: str, generator: str | None, samples: int | None, config: AuditConfig, out: Path | None, device: str,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    from understudy.study.derived import run_canary

    loaded = base.study_of(study)
    folder = out or Path(f"{base.results_folder(loaded, None)}-canary")
    name = generator or next(iter(loaded.generators), "")
    found = run_canary(loaded, name, folder, config, samples, device, not quiet)
    if as_json:
        base.print_json(found)
        return
    rows = [
        [r["times"], r["slices"], r["flagged"], r["beside"], "" if r["p"] is None else f"{r['p']:.2g}",
         "" if r["exposed"] is None else "yes" if r["exposed"] else "no", r["verdict"].replace("_", " ")]
        for r in found["rows"]
    ]  # fmt: skip
    base.print_table(["times", "slices", "flagged", "beside the patient", "p", "seen", "verdict"], rows)
    print(f"{found['words']}\ntable: {folder / 'canary.json'}")

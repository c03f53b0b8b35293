"""Commands on memorization: audit, screen."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.base import DeviceOption, QuietOption, app, print_table
from understudy.cli.folders import Reading, as_given, open_real, open_synthetic, with_folder_options
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.memorization.config import AuditConfig
    from understudy.memorization.result import Audit

TransformsOption = Annotated[
    str, typer.Option(help="Also look for mirrored (flips) or turned (dihedral) copies: none, flips, dihedral.")
]

ModelOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the generator, if its weights are to be shared: do they give patients away?"),
]


SweepSubjectsOption = Annotated[
    str | None, typer.Option(help="Train --generator of --study on so many patients each, and audit each: 5,10,20,40.")
]


@app.command("audit")
@with_folder_options()
def audit_command(
    training: Annotated[
        Path | None, typer.Option(help="Slice set or image folder that the generator was trained on (its train rows).")
    ] = None,
    heldout: Annotated[
        Path | None,
        typer.Option(help="Slices of patients never trained on [default: val and test rows of --training]."),
    ] = None,
    synthetic: Annotated[Path | None, typer.Option(help="Synthetic slice set or image folder to be judged.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for audit.json, audit.md, p-values, private/.")
    ] = None,
    model: ModelOption = None,
    quantile: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Part of held-out slices that a copy must be nearer than.")
    ] = 0.99,
    *,
    reading: Reading,
    transforms: TransformsOption = "none",
    seed: Annotated[int, typer.Option(min=0, help="Of planted copies, halves and resamples.")] = 0,
    memory: Annotated[float, typer.Option(min=0.1, help="Of the search, GB.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")] = False,
    sweep_subjects: SweepSubjectsOption = None,
    study: Annotated[str | None, typer.Option(help="With --sweep-subjects: study file or preset.")] = None,
    generator: Annotated[str | None, typer.Option(help="With --sweep-subjects: generator of the study.")] = None,
    samples: Annotated[
        int | None, typer.Option(min=100, help="With --sweep-subjects: slices of each [default: the study's].")
    ] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Does a synthetic set contain copies of training patients? With controls, in words and numbers.

    Exit status 1 if copies are found or nothing can be said.
    """
    config = _config(quantile, transforms, seed, memory)
    if sweep_subjects is not None:
        _sweep(sweep_subjects, study, generator, samples, config, out, device, as_json, quiet)
        return
    if training is None or synthetic is None:
        raise UnderstudyError(
            "an audit needs --training and --synthetic", fix="see `understudy audit --help`, or use --sweep-subjects"
        )
    from understudy.memorization.result import as_text

    done = _audited(training, heldout, synthetic, config, out, model, device, quiet, reading)
    print(json.dumps(_with_slices(done), indent=2) if as_json else as_text(done))
    if out is not None and not as_json:
        print(f"written to {out}; {out / 'private'} shows training images and is not for release")
    if done.verdict.kind != "no_sign":
        raise typer.Exit(1)


@app.command()
@with_folder_options()
def screen(
    synthetic: Annotated[Path, typer.Argument(help="Synthetic slice set that was audited.")],
    audit: Annotated[Path, typer.Option(help="Folder of its audit.")],
    training: Annotated[Path, typer.Option(help="Training slices, for the audit of what is left.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the slices that are left.")],
    heldout: Annotated[
        Path | None, typer.Option(help="Held-out slices [default: val and test rows of --training].")
    ] = None,
    *,
    reading: Reading,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")] = False,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Take flagged slices and their near-duplicates out of a set, and audit what is left (to OUT-audit).

    Exit status 1 if copies are found in what is left, or nothing can be said.
    """
    from understudy.io.files import read_json, write_json
    from understudy.memorization.config import AuditConfig
    from understudy.memorization.screen import check_training
    from understudy.memorization.screen import screen as screened_set

    kept = audit / "private" / "read"
    check_training(open_real(training, kept, reading, strict=True), audit)
    left, counts = screened_set(open_synthetic(synthetic, kept, reading), audit, out, _device(device), not quiet)
    before = read_json(audit / "audit.json")
    config = AuditConfig.model_validate(before["config"])
    folder = out.with_name(out.name + "-audit")
    done = _audited(training, heldout, out, config, folder, None, device, quiet, reading)
    record = {
        "screened": counts.as_dict(), "content_hash": left.content_hash, "before": before["verdict"],
        "after": done.verdict.as_dict(), "audit_before": audit.absolute().name, "audit_after": folder.name,
    }  # fmt: skip  # names only: the file may be shared, and paths tell of a hospital's disks
    write_json(folder / "screen.json", record)
    print(
        json.dumps(record, indent=2) if as_json else
        f"{counts.before:,} slices: {counts.flagged:,} flagged and {counts.alike:,} near-duplicates of them taken out,"
        f" {counts.kept:,} written to {out}\nbefore: {before['verdict']['headline']}\nafter: {done.verdict.headline}"
    )  # fmt: skip
    if done.verdict.kind != "no_sign":
        raise typer.Exit(1)


def _config(quantile: float, transforms: str, seed: int, memory: float) -> AuditConfig:
    from understudy.memorization.config import TRANSFORMS, AuditConfig

    if transforms not in TRANSFORMS:
        raise UnderstudyError(f"there are no transforms {transforms!r}", fix=f"use one of {', '.join(TRANSFORMS)}")
    return AuditConfig(quantile=quantile, transforms=transforms, seed=seed, memory_bytes=int(memory * 1e9))  # type: ignore[arg-type]


def _device(device: str) -> str:
    from understudy.runtime.devices import resolve_device

    return str(resolve_device(device))


def _audited(
    training: Path, heldout: Path | None, synthetic: Path, config: AuditConfig, out: Path | None, model: Path | None,
    device: str, quiet: bool, reading: Reading,
) -> Audit:  # fmt: skip
    """Audits sets on disk, and writes the result where it is wanted."""
    from understudy.memorization.perform import audit
    from understudy.memorization.pictures import save_pictures
    from understudy.memorization.result import write_audit

    where = _device(device)
    with _private(out) as private:
        real = open_real(training, private / "read", reading, strict=True)
        held = real if heldout is None else open_real(heldout, private / "read", reading, strict=True)
        made = open_synthetic(synthetic, private / "read", reading)
        witness = _witness(model, where) if model is not None else None
        work = private / "search" if out else None
        with as_given((real, training), (held, heldout), (made, synthetic)):
            done = audit(real, held, made, config, None, witness, work, where, not quiet)
        if out is not None:
            write_audit(done, out)
            save_pictures(done, real, made, out)
    return done


def _with_slices(done: Audit) -> dict[str, Any]:
    """The audit's numbers and a row for each synthetic slice: p-values and highest correlations, never with whom."""
    scores = done.neighbours.set_index("row").filter(regex=r"\.score$")
    rows = done.slices.join(scores.rename(columns=lambda name: f"correlation.{name.removesuffix('.score')}"), on="row")
    return {**done.numbers, "slices": json.loads(rows.to_json(orient="records", double_precision=15))}


@contextlib.contextmanager
def _private(out: Path | None) -> Iterator[Path]:
    """Where training images may lie: `out/private`, or a folder that is gone afterwards."""
    if out is not None:
        yield out / "private"
        return
    with tempfile.TemporaryDirectory(prefix="understudy-audit-") as folder:
        yield Path(folder)


def _witness(model: Path, device: str) -> Any:
    from understudy.generators.membership import NetworkWitness, can_testify

    if not can_testify(model):  # before the search, which takes its time
        raise UnderstudyError(
            "the folder holds no discriminator, by which a GAN is asked", where=model, fix="train it again"
        )
    return NetworkWitness(model, device)


def _sweep(
    sizes: str, study: str | None, generator: str | None, samples: int | None, config: AuditConfig, out: Path | None,
    device: str, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    from understudy.cli.base import study_of
    from understudy.study.config.sweep import run_sweep

    if study is None or generator is None:
        raise UnderstudyError("a sweep needs --study and --generator", fix="name the study and one of its generators")
    try:
        wanted = [int(size) for size in sizes.split(",")]
    except ValueError as error:
        raise UnderstudyError(f"{sizes!r} is no list of numbers", fix="write e.g. 5,10,20,40") from error
    loaded = study_of(study)
    folder = out or Path(f"understudy-{loaded.name}-sweep")
    table = run_sweep(loaded, generator, wanted, folder, config, samples, device, not quiet)
    if as_json:
        print(table.to_json(orient="records", indent=2))
        return
    header = ["patients", "slices", "flagged", "95 %", "patients hit", "weights AUC", "verdict"]
    rows = [
        [r["patients"], r["slices"], f"{100 * r['rate']:.1f} %", f"{100 * r['low']:.1f} to {100 * r['high']:.1f} %",
         r["hit"], "" if r["auc"] is None else f"{r['auc']:.2f}", r["verdict"].replace("_", " ")]
        for r in table.to_dict(orient="records")
    ]  # fmt: skip
    print_table(header, rows)
    print(f"curve: {folder / 'sweep.png'}, table: {folder / 'sweep.csv'}")

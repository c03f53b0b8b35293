"""Commands on packages that are shared: release (template, slices, model, scan), verify."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import typer
from typer import Argument, Option

from understudy.cli import base
from understudy.errors import UnderstudyError
from understudy.names import display_name

if TYPE_CHECKING:
    from understudy.release.forms import About, Decision
    from understudy.release.gate import Audited
    from understudy.release.package import Released
    from understudy.release.scan import Scan
    from understudy.release.verify import Verification
    from understudy.study.released import ReleaseInputs

FORCED = 3  # exit code of an intact package that was released against the gate, or with thresholds that came late

release = base.Commands(help="Make a package that others may have: gate, data, metadata, scan.")
base.app.add_typer(release, name="release")

PackageArgument = Argument(..., help="Folder of a released package.")


@release.command()
def template(folder: Path = Argument(..., help="Folder for about.yaml and decision.yaml.")) -> base.Said:
    """Write the two forms that a steward fills in; set the thresholds before looking at the audit."""
    from understudy.release.forms import write_templates

    write_templates(folder)
    about, decision = folder / "about.yaml", folder / "decision.yaml"
    words = f"fill in {about}, and {decision} (its thresholds before the audit)"
    return base.Said(words, {"about": str(about), "decision": str(decision)})


def _release_options(
    about: Path = Option(..., help="Form about.yaml (release template)."),
    out: Path = Option(..., "--out", "-o", help="New folder: the package."),
    decision: Path | None = Option(None, help="Form decision.yaml [default: asked for]."),
    study: Path | None = Option(None, help="Results of a study, with --generator."),
    generator: str | None = Option(None, help="With --study: which generator, or whose slices."),
    synthetic: Path | None = Option(None, help="Or: slice set that was audited."),
    audit: Path | None = Option(None, help="Folder of its audit."),
    training: Path | None = Option(None, help="Real slice set of that audit."),
    heldout: Path | None = Option(None, help="Held-out slices [default: of --training]."),
    sign: Path | None = Option(None, help="Sign it: private key of SSH (needs ssh-keygen)."),
    override: str | None = Option(None, help="Release against the gate for this REASON, stamped on everything."),
    as_json: bool = base.JsonOption,
    device: str = base.DeviceOption,
    quiet: bool = base.QuietOption,
) -> None:
    """Only the signature is used: the options of both kinds of packages."""


with_release_options = base.with_options("asked", _release_options, gather=lambda given: SimpleNamespace(**given))


@release.command()
@with_release_options
def slices(
    asked: SimpleNamespace,
    layout: str = Option("sliceset", "--format", help="sliceset, png, nifti, nnunet, webdataset."),
) -> None:
    """Release synthetic slices: rechecks the audit, takes flagged slices out, writes, scans and seals the package."""
    from understudy.release.documents import usefulness
    from understudy.release.package import release_slices
    from understudy.runtime.devices import resolve_device
    from understudy.study.released import dice_of

    told, signed, found, of_study = _inputs(asked, "slices")
    evaluation = dice_of(asked.study, asked.generator) if of_study is not None else None
    out, where, show = asked.out, str(resolve_device(asked.device)), not asked.quiet
    done = release_slices(
        found, told, signed, out, layout, asked.override, where, show, evaluation=evaluation, key=asked.sign
    )
    of = done.certificate["audit"]
    words = (
        f"{of['released']:,} of {of['before']:,} slices released to {out}"
        f" (taken out: {of['taken_out']})\n"
        f"{of['verdict']['headline']}\n{usefulness(done.certificate)}"
    )
    _print_released(done, words, asked.as_json)


@release.command("model")
@with_release_options
def model_command(
    asked: SimpleNamespace, model: Path | None = Option(None, help="Or: folder of the generator to be released.")
) -> None:
    """Release a trained generator: rechecks the audit of its samples, tests its weights by membership inference, and
    writes safetensors with a model card."""
    from understudy.release.package import release_model
    from understudy.runtime.devices import resolve_device
    from understudy.study.released import dice_of, model_of

    told, signed, found, of_study = _inputs(asked, "weights")
    evaluation = None
    if of_study is not None:
        model, evaluation = model_of(of_study, asked.generator), dice_of(asked.study, asked.generator)
    if model is None:
        fix = "give --study and --generator, or --model FOLDER"
        raise UnderstudyError("no generator is named", where="--model", fix=fix)
    out, where, hidden = asked.out, str(resolve_device(asked.device)), [asked.study] if asked.study else []
    done = release_model(
        model, found, told, signed, out, asked.override, where, not asked.quiet, evaluation, hidden, asked.sign
    )
    c = done.certificate
    kind, weights = display_name(c["model"]["kind"]), c["model"]["weights"]["parameters"]
    words = f"weights of a {kind} ({weights:,}) released to {out}\n"
    _print_released(done, f"{words}{c['audit']['verdict']['headline']}\n{c['white_box']['words']}", asked.as_json)


@release.command("scan")
def scan_command(
    package: Path = PackageArgument,
    training: Path = Option(..., help="The real slice set: none of it may be in the package."),
    as_json: bool = base.JsonOption,
) -> None:
    """Search a package for real slices, ids, sites, paths and this machine's name. Exit status 1 if it holds any."""
    from understudy.exchange.description import certificate_of
    from understudy.release.scan import refuse, scan
    from understudy.release.words import Words, secrets_of
    from understudy.slices import SliceSet

    real, said = [SliceSet.open(training, cache_bytes=0)], certificate_of(package)
    found = scan(package, said, real, Words(secrets_of(real, [training], said.get("sites_named", []))))
    if as_json:
        base.print_json(vars(found))
        base.exit_with(bool(found.findings))
        return
    refuse(found, package)
    print(f"{found.files:,} files and {found.slices:,} slices searched, nothing found{_unsought(found)}")


@base.app.command()
def verify(
    package: Path = PackageArgument,
    root: str | None = Option(None, help="Root hash that its publisher made known."),
    key: Path | None = Option(None, help="Public key of SSH that its publisher made known: who signed it?"),
    pictures: Path | None = Option(None, help="PNG file for a sheet of its slices."),
    as_json: bool = base.JsonOption,
) -> None:
    """Is a package whole, and what its audit judged? 0: yes; 1: no; 3: yes, but released with a reservation.

    Whoever rewrites a package can write its hashes anew: only --root or --key tells who made it.
    """
    from understudy.release.verify import verify as verified

    found = verified(package, root, pictures, key)
    said = found.certificate
    if as_json:
        base.print_json(found.as_dict())
    else:
        for problem in found.problems[:20]:
            print(f"problem: {problem}")
        if found.problems:
            print(f"NOT INTACT, do not use it: {said.get('title')}, version {said.get('version')}")
        else:
            held = f"{found.slices:,} slices" if said["kind"] == "slices" else "weights of a generator"
            print(f"{said['title']}, version {said['version']}: {held}, {found.files:,} files")
        if found.override:
            print(found.override)
        print(
            f"root hash: {found.root}"
            + ("" if found.compared or found.signed else " (compare it with the published one: --root)")
        )
        if not found.problems:
            print(_said(found))
            print(f"audit: {said['audit']['verdict']['headline']}")
            if said["kind"] == "slices":
                print(f"train on it: understudy evaluate --synthetic {package} --cohort YOUR_PATIENTS")
            else:
                print(f"weights: {said['white_box']['words']}")
                print(f"sample from it: understudy sample {package} SLICES --count 1000")
    base.exit_with(bool(found.problems))
    base.exit_with(bool(found.override), FORCED)


def _said(found: Verification) -> str:
    if found.signed:
        return "intact: everything in it is as the holder of this key signed it"
    if found.compared:
        return "intact: everything in it is as published"
    return "unchanged since its own list of hashes was written; who wrote that, only --root or --key can tell"


def _inputs(asked: SimpleNamespace, what: str) -> tuple[About, Decision, Audited, ReleaseInputs | None]:
    """The forms; the sets and the audit, of a study's generator or as they are given, for a release of `what`."""
    from understudy.release.forms import About, read_form
    from understudy.release.gate import Audited
    from understudy.slices import SliceSet
    from understudy.study.released import proposed, release_inputs
    from understudy.study.stages.data import training_rows

    told, signed = read_form(asked.about, About), _decision(asked.decision)
    given, found = (asked.synthetic, asked.audit, asked.training), None
    if asked.study is not None and asked.generator is not None:
        found = release_inputs(asked.study, asked.generator)
        given = (found.synthetic, found.audit, found.real)
    if None in given:
        fix = "give --study and --generator, or --synthetic, --audit and --training"
        fix = proposed(asked.study, what) if asked.study is not None else fix
        raise UnderstudyError("a release needs the slices, their audit and the real slices of that audit", fix=fix)
    synthetic, audit, training = given
    made, real = SliceSet.open(synthetic, cache_bytes=0), SliceSet.open(training, cache_bytes=0)
    held = SliceSet.open(asked.heldout, cache_bytes=0) if asked.heldout else real
    rows = training_rows(real, found.subset) if found is not None and found.subset else None
    return told, signed, Audited(made, real, held, audit, rows), found


def _decision(path: Path | None) -> Decision:
    """The signed decision, from its form or asked for at the terminal."""
    from understudy.release.forms import Decision, checked_form, read_form

    if path is not None:
        return read_form(path, Decision)
    if not sys.stdin.isatty():
        fix = "fill one in: understudy release template FOLDER"
        raise UnderstudyError("a release needs a decision", where="--decision", fix=fix)
    ask = typer.prompt
    before = typer.confirm("Were the thresholds set before anyone looked at the audit's result?")
    by = {"name": ask("Your name"), "role": ask("Your role")}
    thresholds = {
        "quantile": ask("Quantile agreed on", type=float),
        "before_looking": before,
        "most_flagged": ask("Largest share of flagged slices agreed on", type=float),
        "most_auc": ask("Of weights: highest AUC agreed on (else 1)", type=float, default=1.0),
        "set_on": ask("Agreed on (YYYY-MM-DD)"),
    }
    answers = {"date": ask("Today (YYYY-MM-DD)"), "decision": ask("Decision (approve, approve_with_removal, refuse)")}
    return checked_form({"by": by, "thresholds": thresholds, **answers}, Decision, "the decision")


def _print_released(done: Released, words: str, as_json: bool) -> None:
    if as_json:
        places = {"path": str(done.path), "ids": str(done.ids) if done.ids else None}
        base.print_json({**places, "root": done.root, **done.certificate, "scan": vars(done.scan)})
        return
    print(
        f"{words}\nscan: {done.scan.files:,} files, {done.scan.words:,} ids, paths and names,"
        f" {done.scan.training_slices:,} real slices: nothing found{_unsought(done.scan)}\n"
        + (f"which slice of yours is which: {done.ids} (keep it; it is not part of the package)\n" if done.ids else "")
        + f"root hash, to be published where recipients trust it:\n  {done.root}"
    )


def _unsought(found: Scan) -> str:
    """What the scan could not look for."""
    why = "ids or names are too short or too common to be looked for in texts: read the documents yourself"
    return f"\n{found.unsought:,} of {found.words:,} {why}" if found.unsought else ""

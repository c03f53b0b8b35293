"""Commands on packages that are shared: release (template, slices, model, scan), verify."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer import Argument, Option

from understudy.cli.base import Commands, DeviceOption, JsonOption, QuietOption, app, exit_with, print_json
from understudy.errors import UnderstudyError
from understudy.names import display_name

if TYPE_CHECKING:
    from understudy.release.forms import Decision
    from understudy.release.gate import Audited
    from understudy.release.package import Released
    from understudy.study.released import ReleaseInputs

FORCED = 3  # exit code of an intact package that was released against the gate

release = Commands(help="Make a package that others may have: gate, data, metadata, scan.", no_args_is_help=True)
app.add_typer(release, name="release")

AboutOption = Option(..., help="Form about.yaml (release template).")
PackageOption = Option(..., "--out", "-o", help="New folder: the package.")
DecisionOption = Option(None, help="Form decision.yaml [default: asked for].")
ResultsOption = Option(None, help="Results of a study, with --generator.")
AuditOption = Option(None, help="Folder of its audit.")
TrainingOption = Option(None, help="Real slice set of that audit.")
HeldoutOption = Option(None, help="Held-out slices [default: of --training].")
OverrideOption = Option(None, help="Release against the gate for this REASON, stamped on everything.")
PackageArgument = Argument(..., help="Folder of a released package.")


@release.command()
def template(folder: Path = Argument(..., help="Folder for about.yaml and decision.yaml.")) -> None:
    """Write the two forms that a steward fills in; set the thresholds before looking at the audit."""
    from understudy.release.forms import write_templates

    write_templates(folder)
    print(f"fill in {folder / 'about.yaml'}, and {folder / 'decision.yaml'} (its thresholds before the audit)")


@release.command()
def slices(
    about: Path = AboutOption,
    out: Path = PackageOption,
    decision: Path | None = DecisionOption,
    study: Path | None = ResultsOption,
    generator: str | None = Option(None, help="With --study: which generator's slices."),
    synthetic: Path | None = Option(None, help="Or: slice set to be released."),
    audit: Path | None = AuditOption,
    training: Path | None = TrainingOption,
    heldout: Path | None = HeldoutOption,
    layout: str = Option("sliceset", "--format", help="sliceset, png, nifti, nnunet, webdataset."),
    override: str | None = OverrideOption,
    as_json: bool = JsonOption,
    device: str = DeviceOption,
    quiet: bool = QuietOption,
) -> None:
    """Release synthetic slices: rechecks the audit, takes flagged slices out, writes, scans and seals the package."""
    from understudy.release.forms import About, read_form
    from understudy.release.package import release_slices
    from understudy.runtime.devices import resolve_device

    told, signed = read_form(about, About), _decision(decision)
    found, _ = _audited(study, generator, synthetic, audit, training, heldout)
    where = str(resolve_device(device))
    done = release_slices(found, told, signed, out, layout, override, device=where, progress=not quiet)
    of = done.certificate["audit"]
    words = (
        f"{of['released']:,} of {of['before']:,} slices released to {out}"
        f" ({of['flagged']:,} flagged and {of['alike']:,} near-duplicates of them are out)\n"
        f"{of['verdict']['headline']}"
    )
    _print_released(done, words, as_json)


@release.command("model")
def model_command(
    about: Path = AboutOption,
    out: Path = PackageOption,
    decision: Path | None = DecisionOption,
    study: Path | None = ResultsOption,
    generator: str | None = Option(None, help="With --study: which generator."),
    model: Path | None = Option(None, help="Or: folder of the generator to be released."),
    synthetic: Path | None = Option(None, help="Its samples that were audited."),
    audit: Path | None = AuditOption,
    training: Path | None = TrainingOption,
    heldout: Path | None = HeldoutOption,
    override: str | None = OverrideOption,
    as_json: bool = JsonOption,
    device: str = DeviceOption,
    quiet: bool = QuietOption,
) -> None:
    """Release a trained generator: rechecks the audit of its samples, tests its weights by membership inference, and
    writes safetensors with a model card."""
    from understudy.release.forms import About, read_form
    from understudy.release.package import release_model
    from understudy.runtime.devices import resolve_device
    from understudy.study.released import dice_of, model_of

    told, signed = read_form(about, About), _decision(decision)
    found, of_study = _audited(study, generator, synthetic, audit, training, heldout)
    evaluation = None
    if of_study is not None and study is not None and generator is not None:
        model, evaluation = model_of(of_study, generator), dice_of(study, generator)
    if model is None:
        fix = "give --study and --generator, or --model FOLDER"
        raise UnderstudyError("no generator is named", where="--model", fix=fix)
    where, hidden = str(resolve_device(device)), [study] if study else []
    done = release_model(model, found, told, signed, out, override, where, not quiet, evaluation, hidden)
    c = done.certificate
    words = (
        f"weights of a {display_name(c['model']['kind'])} ({c['model']['weights']['parameters']:,}) released to {out}\n"
        f"{c['audit']['verdict']['headline']}\n{c['white_box']['words']}"
    )
    _print_released(done, words, as_json)


@release.command("scan")
def scan_command(
    package: Path = PackageArgument,
    training: Path = Option(..., help="Real slice set that nothing of may be in it."),
    as_json: bool = JsonOption,
) -> None:
    """Search a package for real slices, patient ids, paths, hosts and users. Exit status 1 if something is found."""
    from understudy.exchange.description import certificate_of
    from understudy.release.scan import refuse, scan, secret_words
    from understudy.slices import SliceSet

    real = SliceSet.open(training, cache_bytes=0)
    found = scan(package, certificate_of(package).get("data", {}), [real], secret_words([real], [training]))
    if as_json:
        print_json(vars(found))
        exit_with(bool(found.findings))
        return
    refuse(found, package)
    print(f"{found.files:,} files and {found.slices:,} slices searched, nothing found")


@app.command()
def verify(
    package: Path = PackageArgument,
    root: str | None = Option(None, help="Root hash that its publisher made known."),
    pictures: Path | None = Option(None, help="PNG file for a sheet of its slices."),
    as_json: bool = JsonOption,
) -> None:
    """Is a package whole, and what its audit judged? 0: yes; 1: no; 3: yes, but released against the gate."""
    from understudy.release.verify import verify as verified

    found = verified(package, root, pictures)
    said = found.certificate
    if as_json:
        print_json(found.as_dict())
    else:
        held = f"{found.slices:,} slices" if said.get("kind") == "slices" else "weights of a generator"
        print(f"{said.get('title')}, version {said.get('version')}: {held}, {found.files:,} files")
        if found.override:
            print(found.override)
        for problem in found.problems[:20]:
            print(f"problem: {problem}")
        print(f"root hash: {found.root}" + ("" if found.compared else " (compare it with the published one: --root)"))
        print("NOT INTACT: do not use it" if found.problems else "intact: everything in it is as certified")
        if not found.problems:
            print(f"audit: {said['audit']['verdict']['headline']}")
            if said["kind"] == "slices":
                print(f"train on it: understudy evaluate --synthetic {package} --cohort YOUR_PATIENTS")
            else:
                print(f"weights: {said['white_box']['words']}")
                print(f"sample from it: understudy sample {package} SLICES --count 1000")
    exit_with(bool(found.problems))
    exit_with(bool(found.override), FORCED)


def _audited(
    study: Path | None, generator: str | None, synthetic: Path | None, audit: Path | None, training: Path | None,
    heldout: Path | None,
) -> tuple[Audited, ReleaseInputs | None]:  # fmt: skip
    """The sets and the audit, of a study's generator or as they are given."""
    from understudy.release.gate import Audited
    from understudy.slices import SliceSet
    from understudy.study.released import release_inputs
    from understudy.study.stages.data import training_rows

    found = release_inputs(study, generator) if study is not None and generator is not None else None
    if found is not None:
        synthetic, audit, training = found.synthetic, found.audit, found.real
    if synthetic is None or audit is None or training is None:
        fix = "give --study and --generator, or --synthetic, --audit and --training"
        raise UnderstudyError("a release needs the slices, their audit and the real slices of that audit", fix=fix)
    made, real = SliceSet.open(synthetic, cache_bytes=0), SliceSet.open(training, cache_bytes=0)
    held = SliceSet.open(heldout, cache_bytes=0) if heldout else real
    rows = training_rows(real, found.subset) if found is not None and found.subset else None
    return Audited(made, real, held, audit, rows), found


def _decision(path: Path | None) -> Decision:
    """The signed decision, from its form or asked for at the terminal."""
    from understudy.release.forms import Decision, checked_form, read_form

    if path is not None:
        return read_form(path, Decision)
    if not sys.stdin.isatty():
        fix = "fill one in: understudy release template FOLDER"
        raise UnderstudyError("a release needs a decision", where="--decision", fix=fix)
    ask = typer.prompt
    if not typer.confirm("Were the thresholds set before anyone looked at the audit's result?"):
        raise UnderstudyError("thresholds have to be set before looking", fix="set them, then audit new samples")
    by = {"name": ask("Your name"), "role": ask("Your role")}
    thresholds = {
        "quantile": ask("Quantile agreed on", type=float),
        "before_looking": True,
        "most_flagged": ask("Largest share of flagged slices agreed on", type=float),
        "most_auc": ask("Of weights: highest AUC agreed on (else 1)", type=float, default=1.0),
        "set_on": ask("Agreed on (YYYY-MM-DD)"),
    }
    answers = {"date": ask("Today (YYYY-MM-DD)"), "decision": ask("Decision (approve, approve_with_removal, refuse)")}
    return checked_form({"by": by, "thresholds": thresholds, **answers}, Decision, "the decision")


def _print_released(done: Released, words: str, as_json: bool) -> None:
    if as_json:
        print_json({"path": str(done.path), "root": done.root, **done.certificate, "scan": vars(done.scan)})
        return
    print(
        f"{words}\nscan: {done.scan.files:,} files, {done.scan.words:,} ids, paths and names,"
        f" {done.scan.training_slices:,} real slices: nothing found\n"
        f"root hash, to be published where recipients trust it:\n  {done.root}"
    )

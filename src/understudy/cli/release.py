"""Commands on the shared package: release, verify."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.base import DeviceOption, QuietOption, app
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.release.forms import Decision

FORCED = 3  # exit code of an intact package that was released against the gate

release = typer.Typer(
    help="Make a package that others may have: gate, data, metadata, scan.", no_args_is_help=True
)
app.add_typer(release, name="release")


@release.command()
def template(
    folder: Annotated[Path, typer.Argument(help="Folder for about.yaml and decision.yaml.")],
) -> None:
    """Write the two forms that a steward fills in; set the thresholds before looking at the audit."""
    from understudy.release.forms import write_templates

    write_templates(folder)
    print(
        f"fill in {folder / 'about.yaml'}, and {folder / 'decision.yaml'} (its thresholds before the audit)"
    )


@release.command()
def slices(
    about: Annotated[Path, typer.Option(help="Form about.yaml (release template).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder: the package.")],
    decision: Annotated[Path | None, typer.Option(help="Form decision.yaml [default: asked for].")] = None,
    study: Annotated[Path | None, typer.Option(help="Results of a study, with --generator.")] = None,
    generator: Annotated[str | None, typer.Option(help="With --study: which generator's slices.")] = None,
    synthetic: Annotated[Path | None, typer.Option(help="Or: slice set to be released.")] = None,
    audit: Annotated[Path | None, typer.Option(help="Folder of its audit.")] = None,
    training: Annotated[Path | None, typer.Option(help="Real slice set of that audit.")] = None,
    heldout: Annotated[Path | None, typer.Option(help="Held-out slices [default: of --training].")] = None,
    layout: Annotated[
        str, typer.Option("--format", help="sliceset, png, nifti, nnunet, webdataset.")
    ] = "sliceset",
    override: Annotated[
        str | None, typer.Option(help="Release against the gate for this REASON, stamped on everything.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")] = False,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Release synthetic slices: rechecks the audit, takes flagged slices out, writes, scans and seals the package."""
    from understudy.generators.devices import resolve_device
    from understudy.release.forms import About, Decision, read_form
    from understudy.release.package import release_slices
    from understudy.slices import SliceSet
    from understudy.study.released import release_inputs
    from understudy.study.subsets import training_rows

    told = read_form(about, About)
    signed = read_form(decision, Decision) if decision else _asked()
    subset = None
    if study is not None and generator is not None:
        found = release_inputs(study, generator)
        synthetic, audit, training, subset = found.synthetic, found.audit, found.real, found.subset
    if synthetic is None or audit is None or training is None:
        raise UnderstudyError(
            "a release needs the slices, their audit and the real slices of that audit",
            fix="give --study and --generator, or --synthetic, --audit and --training",
        )
    real = SliceSet.open(training, cache_bytes=0)
    held = SliceSet.open(heldout, cache_bytes=0) if heldout else real
    rows = training_rows(real, subset) if subset else None
    done = release_slices(
        SliceSet.open(synthetic, cache_bytes=0),
        real,
        held,
        audit,
        told,
        signed,
        out,
        layout,
        override,
        rows,
        device=str(resolve_device(device)),
        progress=not quiet,
    )
    if as_json:
        print(
            json.dumps(
                {"path": str(out), "root": done.root, **done.certificate, "scan": done.scan.as_dict()},
                indent=2,
            )
        )
        return
    of = done.certificate["audit"]
    print(
        f"{of['released']:,} of {of['before']:,} slices released to {out}"
        f" ({of['flagged']:,} flagged and {of['alike']:,}"
        f" near-duplicates of them are out)\n{of['verdict']['headline']}\nscan: {done.scan.files:,} files,"
        f" {done.scan.words:,} ids, paths and names, {done.scan.training_slices:,} real slices: nothing found\n"
        f"root hash, to be published where recipients trust it:\n  {done.root}"
    )


@release.command("scan")
def scan_command(
    package: Annotated[Path, typer.Argument(help="Folder of a package.")],
    training: Annotated[Path, typer.Option(help="Real slice set that nothing of may be in it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")] = False,
) -> None:
    """Search a package for real slices, patient ids, paths, hosts and users. Ends with 1 if something is found."""
    from understudy.exchange.packaged import certificate_of
    from understudy.release.scan import refuse, scan, secret_words
    from understudy.slices import SliceSet

    real = SliceSet.open(training, cache_bytes=0)
    found = scan(package, certificate_of(package)["data"], [real], secret_words([real], [training]))
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
        if found.findings:
            raise typer.Exit(1)
        return
    refuse(found, package)
    print(f"{found.files:,} files and {found.slices:,} slices searched, nothing found")


@app.command()
def verify(
    package: Annotated[Path, typer.Argument(help="Folder of a released package.")],
    root: Annotated[str | None, typer.Option(help="Root hash that its publisher made known.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="PNG file for a sheet of its slices.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")] = False,
) -> None:
    """Is a package whole, and what its audit judged? 0: yes; 1: no; 3: yes, but released against the gate."""
    from understudy.release.verify import verify as verified

    found = verified(package, root, pictures)
    said = found.certificate
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        print(
            f"{said.get('title')}, version {said.get('version')}: {found.slices:,} slices, {found.files:,} files"
        )
        if found.override:
            print(found.override)
        for problem in found.problems[:20]:
            print(f"problem: {problem}")
        print(
            f"root hash: {found.root}"
            + ("" if found.compared else " (compare it with the published one: --root)")
        )
        print(
            "NOT INTACT: do not use it" if found.problems else "intact: every file and slice is as certified"
        )
        if not found.problems:
            print(f"audit: {said['audit']['verdict']['headline']}")
            print(f"train on it: understudy evaluate --synthetic {package} --cohort YOUR_PATIENTS")
    if found.problems:
        raise typer.Exit(1)
    if found.override:
        raise typer.Exit(FORCED)


def _asked() -> Decision:
    """The decision, asked for at the terminal."""
    from understudy.release.forms import Decision, checked_form

    if not sys.stdin.isatty():
        raise UnderstudyError(
            "a release needs a decision",
            where="--decision",
            fix="fill one in: understudy release template FOLDER",
        )
    ask = typer.prompt
    if not typer.confirm("Were the thresholds set before anyone looked at the audit's result?"):
        raise UnderstudyError(
            "thresholds have to be set before looking", fix="set them, then audit new samples"
        )
    return checked_form(
        {
            "by": {"name": ask("Your name"), "role": ask("Your role")},
            "thresholds": {
                "quantile": ask("Quantile agreed on", type=float),
                "before_looking": True,
                "most_flagged": ask("Largest share of flagged slices agreed on", type=float),
                "set_on": ask("Agreed on (YYYY-MM-DD)"),
            },
            "date": ask("Today (YYYY-MM-DD)"),
            "decision": ask("Decision (approve, approve_with_removal, refuse)"),
        },
        Decision,
        "the decision",
    )

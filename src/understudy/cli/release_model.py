"""Command on the shared package: release model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.base import DeviceOption, QuietOption
from understudy.cli.release import (
    AboutOption,
    AuditOption,
    DecisionOption,
    HeldoutOption,
    JsonOption,
    OverrideOption,
    PackageOption,
    ResultsOption,
    TrainingOption,
    audited,
    decision_of,
    print_released,
    release,
)
from understudy.errors import UnderstudyError


@release.command("model")
def model_command(
    about: AboutOption,
    out: PackageOption,
    decision: DecisionOption = None,
    study: ResultsOption = None,
    generator: Annotated[str | None, typer.Option(help="With --study: which generator.")] = None,
    model: Annotated[Path | None, typer.Option(help="Or: folder of the generator to be released.")] = None,
    synthetic: Annotated[Path | None, typer.Option(help="Its samples that were audited.")] = None,
    audit: AuditOption = None,
    training: TrainingOption = None,
    heldout: HeldoutOption = None,
    override: OverrideOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Release a trained generator: rechecks the audit of its samples, asks the weights again (white-box check), and
    writes safetensors with a model card."""
    from understudy.release.forms import About, read_form
    from understudy.release.model_package import Sources, release_model
    from understudy.runtime.devices import resolve_device
    from understudy.study.released import dice_of, model_of

    told = read_form(about, About)
    signed = decision_of(decision)
    found, of_study = audited(study, generator, synthetic, audit, training, heldout)
    evaluation = None
    if of_study is not None and study is not None and generator is not None:
        model, evaluation = model_of(of_study, generator), dice_of(study, generator)
    if model is None:
        raise UnderstudyError(
            "no generator is named", where="--model", fix="give --study and --generator, or --model FOLDER"
        )
    sources = Sources(**vars(found), model=model, evaluation=evaluation, paths=(study,) if study else ())
    done = release_model(sources, told, signed, out, override, device=str(resolve_device(device)), progress=not quiet)
    c = done.certificate
    print_released(
        done,
        f"weights of a {c['model']['kind']} ({c['model']['weights']['parameters']:,}) released to {out}\n"
        f"{c['audit']['verdict']['headline']}\n{c['white_box']['words']}",
        as_json,
    )

"""Commands on patients' volumes: phantoms and checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.base import QuietOption, app, print_table, study_of
from understudy.errors import UnderstudyError


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="New folder for the patients.")],
    patients: Annotated[int, typer.Option(min=1, help="Number of patients.")] = 40,
    shape: Annotated[
        tuple[int, int, int], typer.Option(help="Voxels along x, y and z; the field of view stays the same.")
    ] = (240, 240, 155),
    seed: Annotated[int, typer.Option(min=0, help="Patient k of a seed is always the same.")] = 1,
    sites: Annotated[int, typer.Option(min=1, help="Number of sites, each with its contrast and noise.")] = 4,
    quiet: QuietOption = False,
) -> None:
    """Write artificial patients in the layout of BraTS, for trials without patient data."""
    from understudy.cohort.phantom import PhantomConfig, write_phantoms

    config = PhantomConfig(patients=patients, shape=shape, seed=seed, sites=sites)
    write_phantoms(config, out, progress=not quiet)
    print(f"{patients} patients written to {out}")


@app.command()
def check(
    source: Annotated[Path, typer.Argument(help="Folder of a cohort, or a study file that describes one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quiet: QuietOption = False,
) -> None:
    """List what is wrong with a cohort's files; ends with 1 if a patient cannot be used."""
    from understudy.cohort.checks import check_cohort
    from understudy.cohort.layouts import CohortConfig, find_patients

    config = (
        study_of(source).with_one_cohort("checking").cohort
        if source.suffix in (".yaml", ".yml")
        else CohortConfig.model_validate({"path": source})
    )
    if config is None:
        raise UnderstudyError(
            "the study draws phantoms and has no cohort to check", where=source, fix="give a folder instead"
        )
    cohort = find_patients(config)
    problems = check_cohort(cohort, progress=not quiet)
    rows = [[p.severity, p.patient, p.file.name, p.problem, p.fix] for p in problems]
    header = ["severity", "patient", "file", "problem", "what to do"]
    if as_json:
        print(json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=2))
    elif rows:
        print_table(header, rows)
    bad = {p.patient for p in problems if p.severity == "error"}
    if not as_json:
        print(
            f"{len(cohort.patients)} patients ({cohort.layout}: {', '.join(cohort.channels)}),"
            f" {len(problems)} problems, {len(bad)} patients that cannot be used"
        )
    if bad:
        raise typer.Exit(1)

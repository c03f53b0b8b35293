"""Commands on patients' volumes: phantoms and checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.base import QuietOption, app, print_table


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
    from understudy.cohort.phantom.write import PhantomConfig, write_phantoms

    config = PhantomConfig(patients=patients, shape=shape, seed=seed, sites=sites)
    write_phantoms(config, out, progress=not quiet)
    print(f"{patients} patients written to {out}")


@app.command()
def check(
    source: Annotated[Path, typer.Argument(help="Folder of a cohort, or a study file that describes one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quiet: QuietOption = False,
) -> None:
    """List what is wrong with a cohort, by doing all that `run` does to prepare it but write the slices.

    Exit status 1 if `run` would stop.
    """
    from understudy.study.check import check_source

    found = check_source(source, progress=not quiet)
    header = ["severity", "patient", "file", "problem", "what to do"]
    rows = [[p.severity, p.patient, p.file.name, p.problem, p.fix] for one in found for p in one.checked.problems]
    if as_json:
        print(json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=2))
    else:
        if rows:
            print_table(header, rows)
        for one in found:
            print(one.summary())
    if any(one.stops for one in found):
        raise typer.Exit(1)

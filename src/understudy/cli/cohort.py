"""Commands on patients' volumes: phantoms and checks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.base import QuietOption, app


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

"""The command that writes a first study file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.base import app


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of patients: BraTS, nnU-Net, BIDS, or any other names.")],
) -> None:
    """Print a commented study file for a folder of patients: understudy init FOLDER > my-study.yaml."""
    from understudy.study.init import suggest_study

    print(suggest_study(folder), end="")

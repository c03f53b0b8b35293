"""The command that asks whether a metric predicts Dice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.base import app, print_table
from understudy.errors import UnderstudyError

SHOWN = 15


@app.command()
def correlate(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="OUT...", help="Folders of studies, or one CSV: snapshot, dice, run, kimg, a column a metric."
        ),
    ],
    training: Annotated[
        str, typer.Option(help="synthetic or both: what the segmenters whose Dice counts were trained on.")
    ] = "synthetic",
    segmenter: Annotated[str | None, typer.Option(help="Its name [default: the study's first].")] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for correlate.json, two CSV files and scatter.svg.")
    ] = Path("understudy-correlate"),
    as_json: Annotated[bool, typer.Option("--json", help="Print correlate.json.")] = False,
) -> None:
    """Rank correlation of every quality and annotation metric with Dice, over generators and their snapshots."""
    from understudy.io.files import make_folder
    from understudy.study.correlate import correlate as find
    from understudy.study.correlate import write_correlations

    if training not in ("synthetic", "both"):
        raise UnderstudyError(f"no training is called {training!r} here", fix="use synthetic or both")
    make_folder(out)
    found = find(list(sources), training, segmenter, resamples, seed)
    write_correlations(found, out)
    if as_json:
        print(json.dumps(found.as_json(), indent=1, allow_nan=False, ensure_ascii=False))
        return
    header = ["Metric", "n", "Spearman (95 %)", "Within", "Kendall (95 %)", "p (Holm)", "p within (Holm)"]
    body = [
        [r["metric"], r["n"], f"{r['spearman']:+.2f} ({r['low']:+.2f} to {r['high']:+.2f})", f"{r['within']:+.2f}",
         f"{r['kendall']:+.2f} ({r['kendall_low']:+.2f} to {r['kendall_high']:+.2f})", f"{r['p_holm']:.2g}",
         f"{r['p_within_holm']:.2g}"]
        for r in found.table.to_dict(orient="records")
    ]  # fmt: skip
    body = [[_dash(str(cell)) for cell in row] for row in body]
    at = next((i for i, b in enumerate(body) if b[0] == "kimg"), 0)
    print_table(header, body[:SHOWN] + ([body[at]] if at >= SHOWN else []))
    if len(body) > SHOWN:
        print(f"the {SHOWN} of {len(body)} that agree most with the Dice")
    for words in found.words:
        print(words)
    print(f"all numbers: {out / 'correlate.json'}; picture: {out / 'scatter.svg'}")


def _dash(cell: str) -> str:
    return cell.replace("+nan (+nan to +nan)", "–").replace("+nan", "–").replace("nan", "–")

"""Scores of label volumes that anyone made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.base import QuietOption, app, print_table
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    import pandas as pd


RegionsOption = Annotated[
    str,
    typer.Option(
        help="Unions of classes to score as well, NAME=CLASS+CLASS,...; none; or auto: WT and TC if the classes are"
        " called NCR, ED and ET."
    ),
]


ClassesOption = Annotated[
    str | None, typer.Option(help="Classes to score, NAME=VALUE,... [default: every label above 0 that occurs].")
]


@app.command()
def score(
    truth: Annotated[Path, typer.Argument(help="Label volume (.nii, .nii.gz, .npz, .npy), or a folder of them.")],
    prediction: Annotated[Path, typer.Argument(help="The same of the prediction; files are matched by name.")],
    policy: Annotated[
        str, typer.Option(help="Scores of empty masks: brats, paper, drop or inf (docs/metrics.md).")
    ] = "brats",
    classes: ClassesOption = None,
    regions: RegionsOption = "auto",
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Voxel edges in mm in the order of the axes, for .npy and .npz [default: 1 1 1]."),
    ] = None,
    ignore_affine: Annotated[
        bool, typer.Option("--ignore-affine", help="Compare the arrays as stored, whatever the headers say.")
    ] = False,
    skip_unmatched: Annotated[
        bool, typer.Option("--skip-unmatched", help="Leave out files without a partner, and name them.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Also write one row per file and class to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Score label volumes against the truth: Dice, Hausdorff distances, precision, recall, misses."""
    import json

    from understudy.io.files import write_text
    from understudy.metrics.label_files import as_result, means_over_files, score_labels

    scores = score_labels(
        pred=prediction,
        target=truth,
        policy=policy,
        classes=parse_classes(classes),
        regions=parse_regions(regions),
        spacing=spacing,
        ignore_affine=ignore_affine,
        skip_unmatched=skip_unmatched,
        progress=not quiet and not as_json,
    )
    if csv is not None:
        write_text(csv, scores.rows.to_csv(index=False))
    if as_json:
        print(json.dumps(as_result(scores), indent=1, allow_nan=False, ensure_ascii=False))
        return
    if scores.folders:
        print(f"means over {len(scores.spacing)} files, empty masks by the rule '{scores.policy}'")
    else:
        print(f"empty masks by the rule '{scores.policy}'")
    print_scores(means_over_files(scores) if scores.folders else scores.rows, scores.folders)
    for name, notes in scores.notes.items():
        for note in notes:
            print(f"note: {f'{name}: ' if name and scores.folders else ''}{note}")


def print_scores(rows: pd.DataFrame, means: bool) -> None:
    """A line per class; distances in mm, the other columns as fractions."""
    header = ["class", "Dice", "HD mm", "HD95 pooled", "directed", "surfel", "precision", "recall", "volume error"]
    body = []
    for row in rows.to_dict("records"):
        fractions = [f"{row[m]:.4f}" for m in ("precision", "recall")]
        cells = [
            f"{row['dice']:.4f}",
            *(f"{row[m]:.3f}" for m in ("hd", "hd95_pooled", "hd95_directed", "hd95_surfel")),
        ]
        cells += [*fractions, f"{row['volume_error']:+.4f}"]
        if means:
            state = [f"{row['missed']}", f"{row['false_alarm']}"]
        else:
            both = row["truth_empty"] and row["prediction_empty"]
            state = ["missed" if row["missed"] else "false alarm" if row["false_alarm"] else "absent" if both else ""]
        body.append([row["class_name"], *("-" if c.strip("+") == "nan" else c for c in cells), *state])
    print_table([*header, *(["missed", "false alarms"] if means else [""])], body)


def parse_classes(text: str | None) -> dict[str, int] | None:
    """E.g. "NCR=1,ED=2,ET=4".

    Raises:
        UnderstudyError: not of this form.
    """
    if text is None:
        return None
    found: dict[str, int] = {}
    for part in text.split(","):
        name, equals, value = (p.strip() for p in part.rpartition("="))
        if not equals or not name or not value.isdecimal() or name in found:
            raise UnderstudyError(
                f"cannot read the classes from {part!r}", where=f"--classes {text}", fix="e.g. NCR=1,ED=2,ET=4"
            )
        found[name] = int(value)
    return found


def parse_regions(text: str) -> dict[str, list[str]] | str:
    """E.g. "WT=NCR+ED+ET,TC=NCR+ET"; "auto" and "none" stay.

    Raises:
        UnderstudyError: not of this form.
    """
    if "=" not in text:
        return text
    found: dict[str, list[str]] = {}
    for part in text.split(","):
        name, _, members = (p.strip() for p in part.partition("="))
        if not name or not members or name in found:
            raise UnderstudyError(
                f"cannot read the regions from {part!r}", where=f"--regions {text}", fix="e.g. WT=NCR+ED+ET,TC=NCR+ET"
            )
        found[name] = [m.strip() for m in members.split("+")]
    return found

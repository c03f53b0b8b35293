"""Commands on segmentations: evaluate (synthetic images by segmenters trained on them), segment, score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.base import (
    DeviceOption,
    JsonOption,
    OutOption,
    QuietOption,
    app,
    dashed,
    named,
    print_json,
    print_table,
    results_folder,
    study_of,
)
from understudy.cli.folders import Reading, with_folder_options
from understudy.cli.study import print_result
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    import pandas as pd


@app.command()
@with_folder_options("sizes", patients=False)
def evaluate(
    synthetic: Annotated[
        Path, typer.Option(help="Folder of synthetic images: PNG, NumPy, NIfTI, slice set, released package.")
    ],
    study: Annotated[
        str | None, typer.Option(help="Study (file or preset) with the real patients and the U-Net.")
    ] = None,
    cohort: Annotated[
        Path | None,
        typer.Option(help="Folder of real patients named as in BraTS (others: --study); the rest as in --preset."),
    ] = None,
    preset: Annotated[str, typer.Option(help="With --cohort: split, slices and U-Net of this preset.")] = "quickstart",
    resolution: Annotated[int | None, typer.Option(help="With --cohort: edge of the slices, pixels.")] = None,
    *,
    reading: Reading,
    sizes: Annotated[
        str,
        typer.Option(
            help="If the images, all of one size, are not of the real slices' size: fit (pad and average them), or"
            " refuse."
        ),
    ] = "fit",
    samples: Annotated[int | None, typer.Option(min=1, help="Use the first so many slices [default: all].")] = None,
    out: OutOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Measure synthetic images that someone else made: train on real, on them, on both; test on real patients."""
    from understudy.study.engine.run import run_study
    from understudy.study.evaluate import evaluation_study, study_of_cohort

    if (study is None) == (cohort is None):
        fix = "--study STUDY, or --cohort FOLDER"
        raise UnderstudyError("give the real patients once", where="--study or --cohort", fix=fix)
    if study is not None and resolution is not None:
        raise UnderstudyError(
            "the study says the resolution of its slices",
            where="--resolution",
            fix="leave it out, or set `slices: {resolution: ...}` in the study file",
        )
    base = study_of(study) if study else study_of_cohort(Path(str(cohort)), study_of(preset), resolution)
    made = evaluation_study(synthetic, reading.spec, base, out, samples)
    print_result(run_study(made, results_folder(made, out), device, not quiet))


@app.command()
def segment(
    model: Annotated[Path, typer.Option(help="Folder of a trained segmenter (jobs/segmenter-...) or its `model`.")],
    patient: Annotated[Path, typer.Option(help="Folder with the patient's NIfTI volumes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Label volume to write, .nii.gz.")] = Path("seg.nii.gz"),
    channel: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE where file names do not tell; may be repeated.")
    ] = None,
    dropped_slices: Annotated[
        str | None,
        typer.Option(help="Slices that the slice rule drops: background, or predict [default: as in the study]."),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Label a new patient's volumes with a trained segmenter: same grid and affine as the input."""
    from understudy.study.segment import segment_patient

    if dropped_slices not in (None, "background", "predict"):
        raise UnderstudyError(f"{dropped_slices!r} is not known", where="--dropped-slices", fix="background or predict")
    files = dict(named("--channel", text) for text in channel or [])
    found = segment_patient(model, patient, out, files, dropped_slices, device)
    print(f"{out}: " + ", ".join(f"{name} {count:,} voxels" for name, count in found.items()))


@app.command()
def score(
    truth: Annotated[Path, typer.Argument(help="Label volume (.nii, .nii.gz, .npz, .npy), or a folder of them.")],
    prediction: Annotated[Path, typer.Argument(help="The same of the prediction; files are matched by name.")],
    policy: Annotated[
        str, typer.Option(help="Scores of empty masks: brats, paper, drop or inf (docs/metrics.md).")
    ] = "brats",
    classes: Annotated[
        str | None, typer.Option(help="Classes to score, NAME=VALUE,... [default: every label above 0 that occurs].")
    ] = None,
    regions: Annotated[
        str,
        typer.Option(
            help="Unions of classes to score as well, NAME=CLASS+CLASS,...; none; or auto: WT and TC if the classes are"
            " called NCR, ED and ET."
        ),
    ] = "auto",
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
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score label volumes against the truth: Dice, Hausdorff distances, precision, recall, misses."""
    from understudy.io.files import write_text
    from understudy.metrics.label_files import as_result, means_over_files, score_labels

    values = _entries("--classes", classes, "=", "NCR=1,ED=2,ET=4") if classes is not None else None
    unions = _entries("--regions", regions, "=", "WT=NCR+ED+ET,TC=NCR+ET") if "=" in regions else {}
    scores = score_labels(
        pred=prediction,
        target=truth,
        policy=policy,
        classes=None if values is None else {name: int(value) for name, value in values.items()},
        regions={name: [m.strip() for m in members.split("+")] for name, members in unions.items()} or regions,
        spacing=spacing,
        ignore_affine=ignore_affine,
        skip_unmatched=skip_unmatched,
        progress=not quiet and not as_json,
    )
    if csv is not None:
        write_text(csv, scores.rows.to_csv(index=False))
    if as_json:
        print_json(as_result(scores))
        return
    over = f"means over {len(scores.spacing)} files, " if scores.folders else ""
    print(f"{over}empty masks by the rule '{scores.policy}'")
    _print_scores(means_over_files(scores) if scores.folders else scores.rows, scores.folders)
    for name, notes in scores.notes.items():
        for note in notes:
            print(f"note: {f'{name}: ' if name and scores.folders else ''}{note}")


def _print_scores(rows: pd.DataFrame, means: bool) -> None:
    """A line per class; distances in mm, the other columns as fractions."""
    header = ["class", "Dice", "HD mm", "HD95 pooled", "directed", "surfel", "precision", "recall", "volume error"]
    body = []
    for row in rows.to_dict("records"):
        distances = [f"{row[m]:.3f}" for m in ("hd", "hd95_pooled", "hd95_directed", "hd95_surfel")]
        cells = [f"{row['dice']:.4f}", *distances, f"{row['precision']:.4f}", f"{row['recall']:.4f}"]
        if means:
            state = [row["missed"], row["false_alarm"]]
        else:
            both = row["truth_empty"] and row["prediction_empty"]
            state = ["missed" if row["missed"] else "false alarm" if row["false_alarm"] else "absent" if both else ""]
        body.append([row["class_name"], *dashed([*cells, f"{row['volume_error']:+.4f}"]), *state])
    print_table([*header, *(["missed", "false alarms"] if means else [""])], body)


def _entries(option: str, text: str, between: str, example: str) -> dict[str, str]:
    """The parts of NAME=TEXT,NAME=TEXT.

    Raises:
        UnderstudyError: not of this form, a name twice, a class whose value is no number.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = (p.strip() for p in part.rpartition(between))
        wrong = option == "--classes" and not value.isdecimal()
        if not name or not value or name in found or wrong:
            raise UnderstudyError(f"cannot read {part!r}", where=f"{option} {text}", fix=f"e.g. {example}")
        found[name] = value
    return found

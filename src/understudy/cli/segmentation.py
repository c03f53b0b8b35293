"""Commands on segmentations: evaluate (synthetic images by segmenters trained on them), segment, score."""

import sys
from pathlib import Path

from typer import Argument, Option

from understudy.cli import base
from understudy.cli.folders import Reading, with_folder_options
from understudy.cli.study import print_result
from understudy.errors import UnderstudyError
from understudy.io.files import write_text


@base.app.command()
@with_folder_options("sizes", patients=False)
def evaluate(
    synthetic: Path = Option(..., help="Folder of synthetic images: PNG, NumPy, NIfTI, slice set, package."),
    study: str | None = Option(None, help="Study (file or preset) with the real patients and the U-Net."),
    cohort: Path | None = Option(None, help="Folder of real patients named as in BraTS (others: --study)."),
    preset: str = Option("quickstart", help="With --cohort: split, slices and U-Net of this preset."),
    resolution: int | None = Option(
        None, help="With --cohort: edge of the slices, pixels [default: the package's or set's, else the preset's]."
    ),
    *,
    reading: Reading,
    sizes: str = Option("fit", help="Images of another size than the real slices: fit (pad, average), or refuse."),
    samples: int | None = Option(None, min=1, help="Use the first so many slices [default: all]."),
    out: Path | None = base.OutOption,
    as_json: bool = base.JsonOption,
    device: str = base.DeviceOption,
    quiet: bool = base.QuietOption,
) -> None:
    """Measure synthetic images that someone else made: train on real, on them, on both; test on real patients."""
    from understudy.study.derived import evaluation_study, resolution_in, study_of_cohort
    from understudy.study.engine.plan import make_plan
    from understudy.study.engine.preview import patient_warnings
    from understudy.study.engine.run import run_study

    if (study is None) == (cohort is None):
        fix = "--study STUDY, or --cohort FOLDER"
        raise UnderstudyError("give the real patients once", where="--study or --cohort", fix=fix)
    if study is not None and resolution is not None:
        fix = "leave it out, or set `slices: {resolution: ...}` in the study file"
        raise UnderstudyError("the study says the resolution of its slices", where="--resolution", fix=fix)
    edge = resolution or resolution_in(synthetic)
    real = base.study_of(study) if study else study_of_cohort(Path(str(cohort)), base.study_of(preset), edge)
    made = evaluation_study(synthetic, reading.spec, real, out, samples)
    plan = make_plan(made)
    (facts,) = plan.facts.values()
    parts = f"{facts.counts['train']} train, {facts.counts['val']} validate, {facts.counts['test']} test"
    said = [f"real patients: {parts}; slices of {made.slices.resolution} pixels", *patient_warnings(plan)]
    sys.stderr.writelines(f"note: {line}\n" for line in said)
    print_result(run_study(made, base.results_folder(made, out), device, not quiet), as_json)


@base.app.command()
def segment(
    model: Path = Option(..., help="Trained segmenter (OUT/segmenters/NAME)."),
    patient: Path = Option(..., help="Folder with the patient's NIfTI volumes."),
    out: Path = Option(Path("seg.nii.gz"), "--out", "-o", help="Label volume to write, .nii.gz."),
    channel: list[str] | None = Option(None, help="NAME=FILE where file names do not tell; may be repeated."),
    dropped_slices: str | None = Option(None, help="Slices dropped by the rule: background or predict."),
    device: str = base.DeviceOption,
) -> base.Said:
    """Label a new patient's volumes with a trained segmenter: same grid and affine as the input."""
    from understudy.study.segment import segment_patient

    if dropped_slices is not None:
        base.one_of("--dropped-slices", dropped_slices, ["background", "predict"])
    files = dict(base.named("--channel", text) for text in channel or [])
    found = segment_patient(model, patient, out, files, dropped_slices, device)
    words = f"{out}: " + ", ".join(f"{name} {count:,} voxels" for name, count in found.items())
    return base.Said(words, {"out": str(out), "voxels": found})


@base.app.command()
def score(
    truth: Path = Argument(..., help="Label volume (.nii, .nii.gz, .npz, .npy), or a folder of them."),
    prediction: Path = Argument(..., help="The same of the prediction; files are matched by name."),
    policy: str = Option("brats", help="Scores of empty masks: brats, paper, drop or inf (docs/metrics.md)."),
    classes: str | None = Option(None, help="Classes to score, NAME=VALUE,... [default: all labels above 0]."),
    regions: str = Option("auto", help="Unions of classes, NAME=CLASS+CLASS,...; none; auto: WT, TC."),
    spacing: tuple[float, float, float] | None = Option(None, help="Voxel edges of arrays, mm [default: 1 1 1]."),
    ignore_affine: bool = Option(False, "--ignore-affine", help="Compare the arrays as stored, not by their headers."),
    skip_unmatched: bool = Option(False, "--skip-unmatched", help="Leave out files without a partner."),
    match: str = Option("", help="Names differ: what both have in common (a regular expression), or a table .csv."),
    csv: Path | None = Option(None, help="Also write one row per file and class to this file."),
    as_json: bool = base.JsonOption,
    quiet: bool = base.QuietOption,
) -> None:
    """Score label volumes against the truth: Dice, Hausdorff distances, precision, recall, misses."""
    from understudy.metrics.label_files import as_result, means_over_files, score_labels

    values = _entries("--classes", classes, "NCR=1,ED=2,ET=4") if classes is not None else None
    unions = _entries("--regions", regions, "WT=NCR+ED+ET,TC=NCR+ET") if "=" in regions else {}
    numbers = None if values is None else {name: int(value) for name, value in values.items()}
    joined = {name: [m.strip() for m in members.split("+")] for name, members in unions.items()} or regions
    scores = score_labels(
        pred=prediction, target=truth, policy=policy, classes=numbers, regions=joined, spacing=spacing,
        ignore_affine=ignore_affine, skip_unmatched=skip_unmatched, match=match,
        progress=not quiet and not as_json,
    )  # fmt: skip
    if csv is not None:
        write_text(csv, scores.rows.to_csv(index=False))
    if as_json:
        base.print_json(as_result(scores))
        return
    over = f"means over {len(scores.spacing)} files, " if scores.folders else ""
    print(f"{over}empty masks by the rule '{scores.policy}'")
    # a line per class; distances in mm, the other columns as fractions
    header = ["class", "Dice", "HD mm", "HD95 pooled", "directed", "surfel", "precision", "recall", "volume error"]
    body = []
    for row in (means_over_files(scores) if scores.folders else scores.rows).to_dict("records"):
        distances = [f"{row[m]:.3f}" for m in ("hd", "hd95_pooled", "hd95_directed", "hd95_surfel")]
        cells = [f"{row['dice']:.4f}", *distances, f"{row['precision']:.4f}", f"{row['recall']:.4f}"]
        if scores.folders:
            state = [row["missed"], row["false_alarm"]]
        else:
            both = row["truth_empty"] and row["prediction_empty"]
            state = ["missed" if row["missed"] else "false alarm" if row["false_alarm"] else "absent" if both else ""]
        body.append([row["class_name"], *base.dashed([*cells, f"{row['volume_error']:+.4f}"]), *state])
    base.print_table([*header, *(["missed", "false alarms"] if scores.folders else [""])], body)
    for name, notes in scores.notes.items():
        for note in notes:
            print(f"note: {f'{name}: ' if name and scores.folders else ''}{note}")


def _entries(option: str, text: str, example: str) -> dict[str, str]:
    """The parts of NAME=TEXT,NAME=TEXT."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = (p.strip() for p in part.rpartition("="))
        if not name or not value or name in found or (option == "--classes" and not value.isdecimal()):
            raise UnderstudyError(f"cannot read {part!r}", where=f"{option} {text}", fix=f"e.g. {example}")
        found[name] = value
    return found

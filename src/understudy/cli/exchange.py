"""Commands on images and models that come from elsewhere or go elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.base import Commands, DeviceOption, OutOption, QuietOption, app, study_of
from understudy.cli.folders import Reading, with_folder_options
from understudy.errors import UnderstudyError

export = Commands(help="Write slice sets for other programs.", no_args_is_help=True)
app.add_typer(export, name="export")


@app.command()
@with_folder_options("sizes", "resolution", patients=False)
def read(
    folder: Annotated[Path, typer.Argument(help="Folder of images: PNG, NumPy or NIfTI files.")],
    out: Annotated[Path, typer.Argument(help="New folder for the slice set.")],
    *,
    reading: Reading,
    sizes: Annotated[
        str,
        typer.Option(
            help="If the images, all of one size, are not square with a power of two: refuse, or fit (pad, average)."
        ),
    ] = "refuse",
    resolution: Annotated[int | None, typer.Option(help="With --sizes fit: edge to shrink to, pixels.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Read a folder of images that someone else made, or a released package, into a slice set."""
    from understudy.exchange.packaged import unpacked
    from understudy.exchange.read import read_folder

    made = read_folder(*unpacked(folder, reading.spec), out, progress=not quiet)
    distance = made.attrs["annotation"]["mean_code_distance"]
    print(
        f"{len(made)} slices of {made.resolution} pixels ({', '.join(made.channels)}; {', '.join(made.class_names)})"
        f" written to {out}; the annotation is {distance:.2f} grey values from its codes on average"
    )
    if "subject" in made.index:
        from understudy.exchange.patients import ONE_A_VOLUME, Patients

        how = ONE_A_VOLUME if made.attrs.get("one_a_volume") else "as the folder says"
        print(Patients(made.index["subject"].astype(str).tolist(), "set", how).table())
    for note in made.attrs["notes"]:
        print(f"note: {note}")


CohortOption = Annotated[
    Path | None,
    typer.Option(help="Folder of real patients named as in BraTS (others: --study); the rest as in --preset."),
]


SizesOption = Annotated[
    str,
    typer.Option(
        help="If the images, all of one size, are not of the real slices' size: fit (pad and average them), or refuse."
    ),
]


@app.command()
@with_folder_options("sizes", patients=False)
def evaluate(
    synthetic: Annotated[
        Path, typer.Option(help="Folder of synthetic images: PNG, NumPy, NIfTI, slice set, released package.")
    ],
    study: Annotated[
        str | None, typer.Option(help="Study (file or preset) with the real patients and the U-Net.")
    ] = None,
    cohort: CohortOption = None,
    preset: Annotated[str, typer.Option(help="With --cohort: split, slices and U-Net of this preset.")] = "quickstart",
    resolution: Annotated[int | None, typer.Option(help="With --cohort: edge of the slices, pixels.")] = None,
    *,
    reading: Reading,
    sizes: SizesOption = "fit",
    samples: Annotated[int | None, typer.Option(min=1, help="Use the first so many slices [default: all].")] = None,
    out: OutOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Measure synthetic images that someone else made: train on real, on them, on both; test on real patients."""
    from understudy.cli.study import print_result
    from understudy.study.engine.run import run_study
    from understudy.study.evaluate import evaluation_study, study_of_cohort

    if (study is None) == (cohort is None):
        raise UnderstudyError(
            "give the real patients once", where="--study or --cohort", fix="--study STUDY, or --cohort FOLDER"
        )
    if study is not None and resolution is not None:
        raise UnderstudyError(
            "the study says the resolution of its slices",
            where="--resolution",
            fix="leave it out, or set `slices: {resolution: ...}` in the study file",
        )
    base = study_of(study) if study else study_of_cohort(Path(str(cohort)), study_of(preset), resolution)
    made = evaluation_study(synthetic, reading.spec, base, out, samples)
    folder = out if out is not None else Path(f"understudy-{made.name}")
    print_result(run_study(made, folder, device, not quiet))


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
    files = {}
    for text in channel or []:
        name, equals, path = text.partition("=")
        if not equals:
            raise UnderstudyError(f"{text!r} should be NAME=FILE", where="--channel", fix="--channel T1w=t1.nii.gz")
        files[name] = Path(path)
    found = segment_patient(model, patient, out, files, dropped_slices, device)
    print(f"{out}: " + ", ".join(f"{name} {count:,} voxels" for name, count in found.items()))


@export.command("images")
def export_to_images(
    slices: Annotated[Path, typer.Argument(help="Slice set (jobs/sample-.../slices, jobs/prepare-.../slices).")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    quiet: QuietOption = False,
) -> None:
    """Write a PNG file per channel and the annotation as codes, named as the paper's authors name them."""
    from understudy.exchange.description import DESCRIPTION
    from understudy.exchange.export import export_images
    from understudy.slices import SliceSet

    source = SliceSet.open(slices)
    count = export_images(source, out, progress=not quiet)
    codes = ",".join(f"{entry.name}={entry.code}" for entry in source.classes[1:])
    print(
        f"{count} slices written to {out}; the annotation's codes are {codes or 'none'}, as {DESCRIPTION} says, which"
        " every command that reads the folder understands"
    )


@export.command("nnunet")
def export_to_nnunet(
    slices: Annotated[Path, typer.Argument(help="Slice set (jobs/prepare-.../slices, jobs/sample-.../slices).")],
    out: Annotated[Path, typer.Argument(help="New folder, for nnUNet_raw and nnUNet_preprocessed.")],
    dataset_id: Annotated[int, typer.Option(min=1, max=999, help="Number of the data set.")] = 501,
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "Understudy",
    folds: Annotated[int, typer.Option(min=2, help="Of the cross-validation, over patients.")] = 5,
    synthetic: Annotated[
        Path | None, typer.Option(help="Further slice set: in training in every fold, never in validation.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Write a 2D data set that nnU-Net v2 trains on unchanged; its folds keep each patient's slices together."""
    from understudy.exchange.export import export_nnunet
    from understudy.slices import SliceSet

    added = SliceSet.open(synthetic) if synthetic else None
    raw = export_nnunet(SliceSet.open(slices), out, dataset_id, name, folds, added, progress=not quiet)
    print(f"data set written to {raw}; train on it with")
    for part in ("raw", "preprocessed", "results"):
        print(f"  export nnUNet_{part}={(out / f'nnUNet_{part}').absolute()}")
    print(f"  nnUNetv2_plan_and_preprocess -d {dataset_id} -c 2d --verify_dataset_integrity")
    print(f"  nnUNetv2_train {dataset_id} 2d 0")

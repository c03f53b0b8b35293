"""Commands that write volumes and slice sets: phantom, read, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.base import Commands, QuietOption, app
from understudy.cli.folders import Reading, with_folder_options

export = Commands(help="Write slice sets for other programs.", no_args_is_help=True)
app.add_typer(export, name="export")


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
    from understudy.exchange.description import unpacked
    from understudy.exchange.patients import ONE_A_VOLUME, Patients
    from understudy.exchange.read import read_folder

    made = read_folder(*unpacked(folder, reading.spec), out, progress=not quiet)
    distance = made.attrs["annotation"]["mean_code_distance"]
    print(
        f"{len(made)} slices of {made.resolution} pixels ({', '.join(made.channels)}; {', '.join(made.class_names)})"
        f" written to {out}; the annotation is {distance:.2f} grey values from its codes on average"
    )
    if "subject" in made.index:
        how = ONE_A_VOLUME if made.attrs.get("one_a_volume") else "as the folder says"
        print(Patients(made.index["subject"].astype(str).tolist(), "set", how).table())
    for note in made.attrs["notes"]:
        print(f"note: {note}")


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

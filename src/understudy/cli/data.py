"""Commands that write volumes and slice sets: phantom, read, export."""

from __future__ import annotations

from pathlib import Path

from typer import Argument, Option

from understudy.cli.base import Commands, QuietOption, app
from understudy.cli.folders import Reading, with_folder_options

export = Commands(help="Write slice sets for other programs.", no_args_is_help=True)
app.add_typer(export, name="export")


@app.command()
def phantom(
    out: Path = Argument(..., help="New folder for the patients."),
    patients: int = Option(40, min=1, help="Number of patients."),
    shape: tuple[int, int, int] = Option((240, 240, 155), help="Voxels along x, y and z; same field of view."),
    seed: int = Option(1, min=0, help="Patient k of a seed is always the same."),
    sites: int = Option(4, min=1, help="Number of sites, each with its contrast and noise."),
    quiet: bool = QuietOption,
) -> None:
    """Write artificial patients in the layout of BraTS, for trials without patient data."""
    from understudy.cohort.phantom.write import PhantomConfig, write_phantoms

    config = PhantomConfig(patients=patients, shape=shape, seed=seed, sites=sites)
    write_phantoms(config, out, progress=not quiet)
    print(f"{patients} patients written to {out}")


@app.command()
@with_folder_options("sizes", "resolution", patients=False)
def read(
    folder: Path = Argument(..., help="Folder of images: PNG, NumPy or NIfTI files."),
    out: Path = Argument(..., help="New folder for the slice set."),
    *,
    reading: Reading,
    sizes: str = Option("refuse", help="Images not square with a power of two: refuse, or fit (pad, average)."),
    resolution: int | None = Option(None, help="With --sizes fit: edge to shrink to, pixels."),
    quiet: bool = QuietOption,
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
    slices: Path = Argument(..., help="Slice set (jobs/sample-.../slices, jobs/prepare-.../slices)."),
    out: Path = Argument(..., help="New folder."),
    quiet: bool = QuietOption,
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
    slices: Path = Argument(..., help="Slice set (jobs/prepare-.../slices)."),
    out: Path = Argument(..., help="New folder, for nnUNet_raw and nnUNet_preprocessed."),
    dataset_id: int = Option(501, min=1, max=999, help="Number of the data set."),
    name: str = Option("Understudy", help="Name of the data set."),
    folds: int = Option(5, min=2, help="Of the cross-validation, over patients."),
    synthetic: Path | None = Option(None, help="Slice set for training in every fold, never for validation."),
    quiet: bool = QuietOption,
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

"""Commands that write slices and models for other programs: export images, nnunet, dicom, huggingface, ..."""

from pathlib import Path

from typer import Argument, Option

from understudy.cli import base

export = base.Commands(help="Write slices, packages and models for other programs.")
base.app.add_typer(export, name="export")


@export.command("images")
def export_to_images(
    slices: Path = Argument(..., help="Slice set (OUT/synthetic/NAME, OUT/real)."),
    out: Path = Argument(..., help="New folder."),
    quiet: bool = base.QuietOption,
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
    slices: Path = Argument(..., help="Slice set (OUT/real)."),
    out: Path = Argument(..., help="New folder, for nnUNet_raw and nnUNet_preprocessed."),
    dataset_id: int = Option(501, min=1, max=999, help="Number of the data set."),
    name: str = Option("Understudy", help="Name of the data set."),
    folds: int = Option(5, min=2, help="Of the cross-validation, over patients."),
    synthetic: Path | None = Option(None, help="Slice set for training in every fold, never for validation."),
    quiet: bool = base.QuietOption,
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


@export.command("dicom")
def export_to_dicom(
    source: Path = Argument(..., help="Released package, or slice set of `understudy sample` (marked NOT RELEASED)."),
    out: Path = Argument(..., help="New folder."),
    quiet: bool = base.QuietOption,
) -> None:
    """Write MR images marked as synthetic, and the annotation as DICOM SEG: a study for each slice."""
    from understudy.release.dicom import export_dicom

    given = export_dicom(source, out, progress=not quiet)
    print(f"{given.data['slices']:,} slices written to {out}, a DICOM study each\n{given.statement}")


@export.command("huggingface")
def export_to_huggingface(
    package: Path = Argument(..., help="Released package of slices."),
    out: Path = Argument(..., help="New folder."),
    quiet: bool = base.QuietOption,
) -> None:
    """Write a data set of the Hugging Face hub: Parquet with pictures, data card, Croissant. Nothing is uploaded."""
    from understudy.release.hub import export_huggingface

    given = export_huggingface(package, out, progress=not quiet)
    print(f"{given.data['slices']:,} slices written to {out}; look at README.md, then push the folder yourself")
    print(f'try it: python -c "from datasets import load_dataset; print(load_dataset({str(out)!r}))"')


@export.command("diffusers")
def export_to_diffusers(
    model: Path = Argument(..., help="Trained diffusion model (OUT/generators/NAME), or a package of one."),
    out: Path = Argument(..., help="New folder."),
) -> None:
    """Write a trained diffusion model as UNet2DModel and DDIMScheduler of the package `diffusers`."""
    from understudy.generators.diffusion.diffusers import export_diffusers

    export_diffusers(model, out)
    print(f"written to {out}; README.md there says how to sample it, and what the channels are")


@export.command("monai")
def export_to_monai(
    model: Path = Argument(..., help="Trained U-Net (OUT/segmenters/NAME)."),
    out: Path = Argument(..., help="New folder."),
) -> None:
    """Write a trained U-Net as a MONAI bundle, which labels slices without Understudy."""
    from understudy.segmenters.bundle import export_bundle

    export_bundle(model, out)
    print(f"written to {out}; docs/README.md there says how to run it (python -m monai.bundle run)")

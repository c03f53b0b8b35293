"""Commands that write slices and models for other programs: export images, nnunet, dicom, huggingface, ..."""

from pathlib import Path

from typer import Argument, Option

from understudy.cli import base

RootOption = Option(None, help="Of a package: root hash that its publisher made known.")
KeyOption = Option(None, help="Of a package: public key of SSH that its publisher made known.")
UNKNOWN = "who made the package, only --root or --key can tell"
export = base.Commands(help="Write slices, packages and models for other programs.")
base.app.add_typer(export, name="export")


@export.command("images")
def export_to_images(
    slices: Path = Argument(..., help="Slice set (OUT/synthetic/NAME, OUT/real)."),
    out: Path = Argument(..., help="New folder."),
    quiet: bool = base.QuietOption,
) -> base.Said:
    """Write a PNG file per channel and the annotation as codes, named as the paper's authors name them."""
    from understudy.exchange.description import DESCRIPTION
    from understudy.exchange.export import export_images
    from understudy.slices import SliceSet

    source = SliceSet.open(slices)
    count = export_images(source, out, progress=not quiet)
    values = {entry.name: entry.code for entry in source.classes[1:]}
    codes = ",".join(f"{name}={code}" for name, code in values.items())
    words = (
        f"{count} slices written to {out}; the annotation's codes are {codes or 'none'}, as {DESCRIPTION} says, which"
        " every command that reads the folder understands"
    )
    return base.Said(words, {"out": str(out), "slices": count, "codes": values})


@export.command("nnunet")
def export_to_nnunet(
    slices: Path = Argument(..., help="Slice set (OUT/real)."),
    out: Path = Argument(..., help="New folder, for nnUNet_raw and nnUNet_preprocessed."),
    dataset_id: int = Option(501, min=1, max=999, help="Number of the data set."),
    name: str = Option("Understudy", help="Name of the data set."),
    folds: int = Option(5, min=2, help="Of the cross-validation, over patients."),
    synthetic: Path | None = Option(None, help="Slice set for training in every fold, never for validation."),
    quiet: bool = base.QuietOption,
) -> base.Said:
    """Write a 2D data set that nnU-Net v2 trains on unchanged; its folds keep each patient's slices together."""
    from understudy.exchange.export import export_nnunet
    from understudy.slices import SliceSet

    added = SliceSet.open(synthetic) if synthetic else None
    raw = export_nnunet(SliceSet.open(slices), out, dataset_id, name, folds, added, progress=not quiet)
    parts = {f"nnUNet_{part}": str((out / f"nnUNet_{part}").absolute()) for part in ("raw", "preprocessed", "results")}
    commands = [
        f"nnUNetv2_plan_and_preprocess -d {dataset_id} -c 2d --verify_dataset_integrity",
        f"nnUNetv2_train {dataset_id} 2d 0",
    ]
    exports = [f"export {name}={folder}" for name, folder in parts.items()]
    words = [f"data set written to {raw}; train on it with", *(f"  {line}" for line in [*exports, *commands])]
    return base.Said("\n".join(words), {"out": str(raw), "environment": parts, "commands": commands})


@export.command("dicom")
def export_to_dicom(
    source: Path = Argument(..., help="Released package, or slice set of `understudy sample` (marked NOT RELEASED)."),
    out: Path = Argument(..., help="New folder."),
    root: str | None = RootOption,
    key: Path | None = KeyOption,
    quiet: bool = base.QuietOption,
) -> base.Said:
    """Write MR images marked as synthetic, and the annotation as DICOM SEG: a study for each slice."""
    from understudy.release.dicom import export_dicom

    given = export_dicom(source, out, not quiet, root, key)
    words = f"{given.data['slices']:,} slices written to {out}, a DICOM study each\n{given.statement}"
    words += f"\nnote: {UNKNOWN}" if given.released and not given.publisher_known else ""
    record = {"slices": given.data["slices"], "released": given.released, "publisher_known": given.publisher_known}
    return base.Said(words, {"out": str(out), **record})


@export.command("huggingface")
def export_to_huggingface(
    package: Path = Argument(..., help="Released package of slices."),
    out: Path = Argument(..., help="New folder."),
    root: str | None = RootOption,
    key: Path | None = KeyOption,
    quiet: bool = base.QuietOption,
) -> base.Said:
    """Write a data set of the Hugging Face hub: Parquet with pictures, data card, Croissant. Nothing is uploaded."""
    from understudy.release.hub import export_huggingface

    given = export_huggingface(package, out, not quiet, root, key)
    count, known = given.data["slices"], given.publisher_known
    words = f"{count:,} slices written to {out}; read README.md there, then push the folder yourself"
    words += "" if known else f"\nnote: {UNKNOWN}; what is pushed to a hub cannot be called back"
    return base.Said(words, {"out": str(out), "slices": count, "publisher_known": known})


@export.command("diffusers")
def export_to_diffusers(
    model: Path = Argument(..., help="Trained diffusion model (OUT/generators/NAME), or a package of one."),
    out: Path = Argument(..., help="New folder."),
) -> base.Said:
    """Write a trained diffusion model as UNet2DModel and DDIMScheduler of the package `diffusers`."""
    from understudy.generators.diffusion.diffusers import export_diffusers

    export_diffusers(model, out)
    words = f"written to {out}; README.md there says how to sample it, and what the channels are"
    return base.Said(words, {"out": str(out)})


@export.command("monai")
def export_to_monai(
    model: Path = Argument(..., help="Trained U-Net (OUT/segmenters/NAME)."),
    out: Path = Argument(..., help="New folder."),
) -> base.Said:
    """Write a trained U-Net as a MONAI bundle, which labels slices without Understudy."""
    from understudy.segmenters.bundle import export_bundle

    export_bundle(model, out)
    words = f"written to {out}; docs/README.md there says how to run it (python -m monai.bundle run)"
    return base.Said(words, {"out": str(out)})

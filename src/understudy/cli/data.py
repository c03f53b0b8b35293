"""Commands that write volumes, slices and generators: phantom, read, sample, import, recipe."""

from dataclasses import asdict
from pathlib import Path

from typer import Argument, Option

from understudy.cli import base
from understudy.cli.folders import Reading, with_folder_options
from understudy.names import display_name


@base.app.command()
def phantom(
    out: Path = Argument(..., help="New folder for the patients."),
    patients: int = Option(40, min=1, help="Number of patients."),
    shape: tuple[int, int, int] = Option((240, 240, 155), help="Voxels along x, y and z; same field of view."),
    seed: int = Option(1, min=0, help="Patient k of a seed is always the same."),
    sites: int = Option(4, min=1, help="Number of sites, each with its contrast and noise."),
    quiet: bool = base.QuietOption,
) -> base.Said:
    """Write artificial patients in the layout of BraTS, for trials without patient data."""
    from understudy.cohort.phantom.write import PhantomConfig, write_phantoms

    config = PhantomConfig(patients=patients, shape=shape, seed=seed, sites=sites)
    write_phantoms(config, out, progress=not quiet)
    return base.Said(f"{patients} patients written to {out}", {"out": str(out), "patients": patients})


@base.app.command()
@with_folder_options("sizes", "resolution", patients=False)
def read(
    folder: Path = Argument(..., help="Folder of images: PNG, NumPy or NIfTI files."),
    out: Path = Argument(..., help="New folder for the slice set."),
    *,
    reading: Reading,
    sizes: str = Option("refuse", help="Images not square with a power of two: refuse, or fit (pad, average)."),
    resolution: int | None = Option(None, help="With --sizes fit: edge to shrink to, pixels."),
    quiet: bool = base.QuietOption,
) -> base.Said:
    """Read a folder of images that someone else made, or a released package, into a slice set."""
    from understudy.exchange.description import unpacked
    from understudy.exchange.patients import ONE_A_VOLUME, Patients
    from understudy.exchange.read import read_folder

    made = read_folder(*unpacked(folder, reading.spec), out, progress=not quiet)
    distance, patients = made.attrs["annotation"]["mean_code_distance"], None
    words = [
        f"{len(made)} slices of {made.resolution} pixels ({', '.join(made.channels)}; {', '.join(made.class_names)})"
        f" written to {out}; the annotation is {distance:.2f} grey values from its codes on average"
    ]
    notes = list(made.attrs["notes"])
    if "subject" in made.index:
        how = ONE_A_VOLUME if made.attrs.get("one_a_volume") else "as the folder says"
        patients = Patients(made.index["subject"].astype(str).tolist(), "set", how)
        words.append(patients.table())
        notes += [patients.question()] if patients.question() else []
    else:
        words.append(
            "the names do not say whose slices these are (of real ones the audit asks: --pattern with {subject})"
        )
    record = {
        "out": str(out), "slices": len(made), "resolution": made.resolution, "channels": list(made.channels),
        "classes": list(made.class_names), "content_hash": made.content_hash, "mean_code_distance": distance,
        "patients": None if patients is None else patients.counts(), "notes": notes,
    }  # fmt: skip
    return base.Said("\n".join([*words, *(f"note: {note}" for note in notes)]), record)


@base.app.command()
def sample(
    model: Path = Argument(..., help="Trained generator (OUT/generators/NAME), or a package of one."),
    out: Path = Argument(..., help="New folder for the slice set."),
    count: int = Option(1000, min=1, help="Number of slices."),
    seed: int = Option(0, min=0, help="Slice i of a seed is always the same."),
    psi: float = Option(1.0, min=0, max=1, help="Truncation of a StyleGAN, 1 for none."),
    sampler: str | None = Option(None, help="Of a diffusion model: dpm++ (default), ddim or ancestral."),
    steps: int | None = Option(None, min=0, help="Of the sampler; 0 for all of the training's."),
    also: list[Path] | None = Option(None, help="Another generator of an ensemble; may be repeated."),
    device: str = base.DeviceOption,
    quiet: bool = base.QuietOption,
) -> base.Said:
    """Make synthetic slices with their annotations from a trained or imported generator."""
    from understudy.exchange.description import generator_in
    from understudy.generators.diffusion.samplers import sampler_config
    from understudy.generators.sample import sample_set

    models, wanted = [generator_in(folder) for folder in (model, *(also or []))], sampler_config(sampler, steps)
    made = sample_set(models, count, seed, out, psi=psi, device=device, progress=not quiet, sampler=wanted)
    record = {"out": str(out), "slices": len(made), "content_hash": made.content_hash}
    return base.Said(f"{len(made)} slices written to {out} (content {made.content_hash[:12]})", record)


@base.app.command("import")
def import_checkpoint(
    file: Path = Argument(..., help="Checkpoint: .pkl of Progressive GAN, StyleGAN 1, 2, 3; .pt of guided-diffusion."),
    out: Path | None = Option(None, "--out", "-o", help="Folder for the generator [default: understudy-<file>]."),
    channels: str | None = Option(None, help="Image channels in the model's order, e.g. T1w,T2w,FLAIR,T1wGd."),
    classes: str = Option("NCR/NET=1:51,ED=2:102,ET=4:204", help="Classes of the annotation: NAME=VALUE:CODE,..."),
    annotation: str = Option("coded", help="The last channels: coded (one, the paper's) or one_hot (one a class)."),
    resolution: int | None = Option(None, help=".pt only: edge of the images, pixels."),
    steps: int | None = Option(None, min=1, help=".pt only: diffusion steps of the training."),
    schedule: str | None = Option(None, help=".pt only: noise schedule of the training, linear or cosine."),
    heads: int | None = Option(None, min=1, help=".pt only: heads of the attention [default: 4]."),
    head_channels: int | None = Option(None, min=1, help=".pt only: channels per head, instead of --heads."),
    new_attention_order: bool = Option(False, "--new-attention-order", help=".pt only: of --use_new_attention_order."),
    rescale_timesteps: bool = Option(False, "--rescale-timesteps", help=".pt only: of --rescale_timesteps."),
) -> base.Said:
    """Convert an official checkpoint into a generator; nothing in the file is executed."""
    from understudy.generators.official import convert

    made = convert.import_checkpoint(
        file,
        out if out is not None else Path(f"understudy-{file.stem}"),
        None if channels is None else convert.parse_channels(channels),
        convert.parse_classes(classes),
        annotation,  # type: ignore[arg-type]  # checked there
        {"image_size": resolution, "steps": steps, "noise_schedule": schedule, "num_heads": heads,
         "num_head_channels": head_channels, "use_new_attention_order": new_attention_order or None,
         "rescale_timesteps": rescale_timesteps or None},
    )  # fmt: skip
    kind, channels_of = display_name(made.kind), ", ".join(made.channels)
    words = [
        f"{kind}, {made.resolution} pixels, {channels_of} and annotation ({made.source}) written to {made.folder}",
        *(f"note: {note}" for note in made.notes),
        f"next: understudy sample {made.folder} slices --count 100",
    ]
    return base.Said("\n".join(words), {**asdict(made), "folder": str(made.folder)})


@base.app.command("recipe")
def show_recipe(
    name: str = Argument("quick", help="quick, workstation or paper; a generator may have others."),
    generator: str | None = Argument(None, help="Only of this one, e.g. a plug-in [default: all that are built in]."),
) -> None:
    """Print what a recipe sets for each generator."""
    from understudy.generators.registry import recipe_text

    print(recipe_text(name, generator), end="")

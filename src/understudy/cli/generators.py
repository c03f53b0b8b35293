"""Commands on generators: sample, import, recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.base import DeviceOption, QuietOption, app


@app.command()
def sample(
    model: Annotated[
        Path, typer.Argument(help="Trained generator (jobs/generator-.../model), or a released package of one.")
    ],
    out: Annotated[Path, typer.Argument(help="New folder for the slice set.")],
    count: Annotated[int, typer.Option(min=1, help="Number of slices.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Slice i of a seed is always the same.")] = 0,
    psi: Annotated[float, typer.Option(min=0, max=1, help="Truncation of a StyleGAN, 1 for none.")] = 1.0,
    sampler: Annotated[
        str | None, typer.Option(help="Of a diffusion model: dpm++ (default), ddim or ancestral.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Of the sampler; 0 for all that the model was trained with.")
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option(help="Folder of another generator of an ensemble; may be repeated.")
    ] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Make synthetic slices with their annotations from a trained or imported generator."""
    from understudy.exchange.description import generator_in
    from understudy.generators.diffusion.samplers import sampler_config
    from understudy.generators.sample import sample_set

    models, wanted = [generator_in(folder) for folder in (model, *(also or []))], sampler_config(sampler, steps)
    made = sample_set(models, count, seed, out, psi=psi, device=device, progress=not quiet, sampler=wanted)
    print(f"{len(made)} slices written to {out} (content {made.content_hash[:12]})")


@app.command("import")
def import_checkpoint(
    file: Annotated[
        Path,
        typer.Argument(help="Checkpoint: .pkl of Progressive GAN or StyleGAN 1, 2, 3, or .pt of guided-diffusion."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the generator [default: understudy-<name of the file>]."),
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="Names of the image channels in the model's order, e.g. T1w,T2w,FLAIR,T1wGd.")
    ] = None,
    classes: Annotated[
        str, typer.Option(help="Classes of the annotation: NAME=VALUE:CODE,...")
    ] = "NCR/NET=1:51,ED=2:102,ET=4:204",
    annotation: Annotated[
        str, typer.Option(help="The last channels: coded (one, the paper's) or one_hot (one a class).")
    ] = "coded",
    resolution: Annotated[int | None, typer.Option(help=".pt only: edge of the images, pixels.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help=".pt only: diffusion steps of the training.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help=".pt only: noise schedule of the training, linear or cosine.")
    ] = None,
    heads: Annotated[int | None, typer.Option(min=1, help=".pt only: heads of the attention [default: 4].")] = None,
    head_channels: Annotated[
        int | None, typer.Option(min=1, help=".pt only: channels per head, instead of --heads.")
    ] = None,
    new_attention_order: Annotated[
        bool, typer.Option("--new-attention-order", help=".pt only: trained with --use_new_attention_order.")
    ] = False,
    rescale_timesteps: Annotated[
        bool, typer.Option("--rescale-timesteps", help=".pt only: trained with --rescale_timesteps.")
    ] = False,
) -> None:
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
    print(
        f"{made.kind}, {made.resolution} pixels, {', '.join(made.channels)} and annotation ({made.source}) written to"
        f" {made.folder}"
    )
    for note in made.notes:
        print(f"note: {note}")
    print(f"next: understudy sample {made.folder} slices --count 100")


@app.command("recipe")
def show_recipe(name: Annotated[str, typer.Argument(help="quick, workstation or paper.")] = "quick") -> None:
    """Print what a recipe sets for each of the five generators."""
    from understudy.generators.recipes import recipe_text

    print(recipe_text(name), end="")

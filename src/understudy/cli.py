"""The command `understudy`: every command parses, calls one function and prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy import __version__
from understudy.errors import Interrupted, UnderstudyError
from understudy.files import explain_os_error

# Heavy imports (torch, pandas, the study file's schema) are made inside the commands: `--help` answers at once.

if TYPE_CHECKING:
    from understudy.study.run import RunResult
    from understudy.study.schema import Study

INTERRUPTED = 75  # EX_TEMPFAIL: "try again", which queues of clusters understand as well

app = typer.Typer(
    name="understudy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Synthetic MR slices that stand in for patients' images: are they useful, and are they copies?\n\n"
    "Start with `understudy run quickstart`.",
)

StudyArgument = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="Study file (.yaml), or a preset: quickstart, workstation, paper."),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder of the results [default: understudy-<name of the study>]."),
]
DeviceOption = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")]
DevicesOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="Devices of this machine (GPUs, or processes with --device cpu) that share every batch of a generator's"
        " training. Segmenters are not data parallel and use one.",
    ),
]
NodesOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="Machines with so many --devices each: start this command by torchrun or srun, one process a device.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results and errors.")]


def _show_version(value: bool) -> None:
    if value:
        print(f"understudy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


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
    from understudy.cohort.phantom import PhantomConfig, write_phantoms

    config = PhantomConfig(patients=patients, shape=shape, seed=seed, sites=sites)
    write_phantoms(config, out, progress=not quiet)
    print(f"{patients} patients written to {out}")


@app.command()
def check(
    source: Annotated[Path, typer.Argument(help="Folder of a cohort, or a study file that describes one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quiet: QuietOption = False,
) -> None:
    """List what is wrong with a cohort's files; ends with 1 if a patient cannot be used."""
    from understudy.cohort.checks import check_cohort
    from understudy.cohort.layouts import CohortConfig, find_patients

    config = (
        _study_of(source).cohort
        if source.suffix in (".yaml", ".yml")
        else CohortConfig.model_validate({"path": source})
    )
    if config is None:
        raise UnderstudyError(
            "the study draws phantoms and has no cohort to check", where=source, fix="give a folder instead"
        )
    cohort = find_patients(config)
    problems = check_cohort(cohort, progress=not quiet)
    rows = [[p.severity, p.patient, p.file.name, p.problem, p.fix] for p in problems]
    header = ["severity", "patient", "file", "problem", "what to do"]
    if as_json:
        print(json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=2))
    elif rows:
        _print_table(header, rows)
    bad = {p.patient for p in problems if p.severity == "error"}
    if not as_json:
        print(
            f"{len(cohort.patients)} patients ({cohort.layout}: {', '.join(cohort.channels)}),"
            f" {len(problems)} problems, {len(bad)} patients that cannot be used"
        )
    if bad:
        raise typer.Exit(1)


@app.command()
def plan(
    study: StudyArgument,
    out: OutOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the jobs of a study, and about how much time and disk they will take on this machine."""
    from understudy.study.estimate import estimated
    from understudy.study.plan import make_plan, settings
    from understudy.study.run import duration
    from understudy.study.status import state_in

    loaded = _study_of(study)
    planned, folder = estimated(make_plan(loaded)), _out_of(loaded, out)
    states = [state_in(folder, job) for job in planned.jobs]
    left = [job for job, state in zip(planned.jobs, states, strict=True) if state != "done"]
    seconds, disk = sum(job.seconds for job in left), sum(job.disk_bytes for job in left)
    if as_json:
        counts: dict[str, int] = {}
        for job in planned.jobs:
            counts[job.stage] = counts.get(job.stage, 0) + 1
        listed = [
            {
                "id": j.id,
                "stage": j.stage,
                "name": j.name,
                "state": s,
                "seconds": j.seconds,
                "disk_bytes": j.disk_bytes,
            }
            for j, s in zip(planned.jobs, states, strict=True)
        ]
        summary = {"jobs": counts, "settings": len(settings(loaded)), "repeats": loaded.repeats, "seconds": seconds,
                   "disk_bytes": disk, "study_hash": loaded.hash, "list": listed}  # fmt: skip
        print(json.dumps(summary, indent=2))
        return
    _print_table(
        ["id", "job", "state", "about", "disk"],
        [
            [j.id[:12], j.name, s, duration(j.seconds), _megabytes(j.disk_bytes)]
            for j, s in zip(planned.jobs, states, strict=True)
        ],
    )
    print(
        f"{len(left)} of {len(planned.jobs)} jobs to do: about {duration(seconds)} and {_megabytes(disk)} in {folder}"
        " (estimated from a short calibration on this machine)"
    )


@app.command()
def run(
    study: StudyArgument,
    out: OutOption = None,
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    quiet: QuietOption = False,
    until: Annotated[
        str,
        typer.Option(help="Stop after this stage: phantom, prepare, generator, sample, segmenter, evaluate."),
    ] = "report",
) -> None:
    """Run a study, or continue it: what is done is not done again. Ends with 1 if a job failed."""
    from understudy.study.estimate import estimated
    from understudy.study.plan import make_plan
    from understudy.study.run import run_plan
    from understudy.study.stages import STAGES

    loaded = _study_of(study)
    if devices > 1:
        _check_devices(device, devices)
    planned = estimated(make_plan(loaded), device)
    result = run_plan(planned, _out_of(loaded, out), STAGES, device, not quiet, until, devices)
    _print_result(result)
    if not result.complete:
        raise typer.Exit(1)


@app.command()
def job(
    job_id: Annotated[
        str, typer.Argument(metavar="ID", help="Start of a job's id, as `understudy plan` shows it.")
    ],
    study: Annotated[str, typer.Option(help="Study file or preset.")],
    out: OutOption = None,
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    nodes: NodesOption = 1,
    quiet: QuietOption = False,
) -> None:
    """Run one job of a study, or continue it: for queues of clusters, and for a job that failed."""
    from understudy.study.jobs import join_job, run_job
    from understudy.study.plan import make_plan
    from understudy.study.run import claimed, duration
    from understudy.study.stages import STAGES

    loaded = _study_of(study)
    planned = make_plan(loaded)
    found = planned.find(job_id)
    if devices * nodes > 1:
        if found.stage != "generator":
            raise UnderstudyError(
                f"`{found.name}` is not the training of a generator and uses one device",
                fix="leave --devices and --nodes out",
            )
        if _check_devices(device, devices, nodes) > 0:
            join_job(found, planned.by_id, _out_of(loaded, out), STAGES, device, devices, nodes)
            return
    with claimed(_out_of(loaded, out), planned, exclusive=False) as folder:
        done = run_job(found, planned.by_id, folder, STAGES, device, not quiet, devices, nodes)
    print(
        f"{found.name}: done in {duration(done['seconds'])}, at most {done['peak_rss_mb']:,.0f} MB of memory"
    )


@app.command()
def status(
    out: Annotated[Path, typer.Argument(help="Folder of a study's results.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show which jobs of a study are done, running, failed or waiting."""
    from understudy.study.run import duration
    from understudy.study.status import study_status

    table = study_status(out)
    if as_json:
        print(table.to_json(orient="records", indent=2))
        return
    colours = {"done": "green", "running": "cyan", "failed": "red", "waiting": "dim"}
    rows = [
        [
            row["id"][:12],
            row["name"],
            f"[{colours[row['state']]}]{row['state']}[/]",
            duration(row["seconds"]),
            row["detail"],
        ]
        for row in table.to_dict(orient="records")
    ]
    _print_table(["id", "job", "state", "time", ""], rows, markup=(2,))
    counts = table["state"].value_counts()
    print(", ".join(f"{counts[state]} {state}" for state in colours if state in counts))


@app.command()
def report(out: Annotated[Path, typer.Argument(help="Folder of a study's results.")]) -> None:
    """Make a study's report anew from what is done so far."""
    from understudy.study.stages import report_again

    page, answer = report_again(out)
    print(f"{answer}\n{page}" if answer else str(page))


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(help="Folder of a trained generator (jobs/generator-.../model).")],
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
    from understudy.generators.sample import sample_set
    from understudy.generators.samplers import sampler_config

    made = sample_set(
        [model, *(also or [])],
        count,
        seed,
        out,
        psi=psi,
        device=device,
        progress=not quiet,
        sampler=sampler_config(sampler, steps),
    )
    print(f"{len(made)} slices written to {out} (content {made.content_hash[:12]})")


@app.command("import")
def import_checkpoint(
    file: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint: .pkl of Progressive GAN or StyleGAN 1, 2, 3, or .pt of guided-diffusion.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for the generator [default: understudy-<name of the file>]."
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(help="Names of the image channels in the model's order, e.g. T1w,T2w,FLAIR,T1wGd."),
    ] = None,
    classes: Annotated[
        str, typer.Option(help="Classes of the annotation: NAME=VALUE:CODE,...")
    ] = "NCR/NET=1:51,ED=2:102,ET=4:204",
    annotation: Annotated[
        str, typer.Option(help="The last channels: coded (one, the paper's) or one_hot (one a class).")
    ] = "coded",
    resolution: Annotated[int | None, typer.Option(help=".pt only: edge of the images, pixels.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help=".pt only: diffusion steps of the training.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help=".pt only: noise schedule of the training, linear or cosine.")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help=".pt only: heads of the attention [default: 4].")
    ] = None,
    head_channels: Annotated[
        int | None, typer.Option(min=1, help=".pt only: channels per head, instead of --heads.")
    ] = None,
    new_attention_order: Annotated[
        bool, typer.Option("--new-attention-order", help=".pt only: trained with --use_new_attention_order.")
    ] = False,
) -> None:
    """Convert an official checkpoint into a generator; nothing in the file is executed."""
    from understudy.generators.official import convert

    told = {"image_size": resolution, "steps": steps, "noise_schedule": schedule, "num_heads": heads,
            "num_head_channels": head_channels, "use_new_attention_order": new_attention_order or None}  # fmt: skip
    made = convert.import_checkpoint(
        file,
        out if out is not None else Path(f"understudy-{file.stem}"),
        None if channels is None else convert.parse_channels(channels),
        convert.parse_classes(classes),
        annotation,  # type: ignore[arg-type]  # checked there
        told,
    )
    print(
        f"{made.kind}, {made.resolution} pixels, {', '.join(made.channels)} and annotation ({made.source}) written to"
        f" {made.folder}"
    )
    for note in made.notes:
        print(f"note: {note}")
    print(f"next: understudy sample {made.folder} slices --count 100")


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="quickstart, workstation or paper.")] = "quickstart",
) -> None:
    """Print a built-in study, to start a study file from."""
    from understudy.study.schema import preset_text

    print(preset_text(name), end="")


@app.command("recipe")
def show_recipe(
    name: Annotated[str, typer.Argument(help="quick, workstation or paper.")] = "quick",
) -> None:
    """Print what a recipe sets for each of the five generators."""
    from understudy.generators.recipes import recipe_text

    print(recipe_text(name), end="")


def _study_of(source: str | Path) -> Study:
    from understudy.study.schema import load_study

    return load_study(source)


def _out_of(study: Study, out: Path | None) -> Path:
    return out if out is not None else Path(f"understudy-{study.name}")


def _check_devices(device: str, devices: int, nodes: int | None = None) -> int:
    """Refuses devices that are not there; gives this process's rank among those of a launcher, 0 without one.

    Without `nodes` a launcher is refused: its processes would all run the whole study.
    """
    from understudy.generators.parallel import check_devices, started

    rank, world = started()
    if nodes is None and world > 1:
        raise UnderstudyError(
            f"torchrun or srun has started {world} processes of the whole study",
            fix="start the study by itself (--devices starts processes of its own), or single generators by"
            " `understudy job ID` with --devices and --nodes",
        )
    check_devices(device, devices, nodes or 1)
    return rank


def _print_result(result: RunResult) -> None:
    """The report and its answer, or what failed."""
    messages: dict[str, list[str]] = {}
    for failed, message in result.failed:
        messages.setdefault(message, []).append(failed.name)
    for message, names in messages.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        _complain(f"{message}\n  job: {names[0]}{others}")
    if result.failed:
        waiting = f"; {len(result.blocked)} jobs wait for them" if result.blocked else ""
        sys.stderr.write(
            f"{len(result.failed)} jobs failed{waiting}. What is done is kept in {result.out};"
            f" run the same command again to continue, or `understudy report {result.out}` for what is there.\n"
        )
    elif result.page is not None:
        print(f"{result.answer}\nreport: {result.page}")
    else:
        print(f"{len(result.done)} jobs done, {len(result.reused)} were done before; results in {result.out}")


def _print_table(header: list[str], rows: list[list[Any]], markup: tuple[int, ...] = ()) -> None:
    """A table; cells are shown as they are but for the columns in `markup`."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) if i in markup else escape(str(cell)) for i, cell in enumerate(row)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _megabytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _complain(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")


def main() -> None:
    """Runs the command line; errors that the user can mend are one message, others keep their traceback."""
    try:
        app()
    except UnderstudyError as error:
        _complain(error.message)
        sys.exit(1)
    except Interrupted as stop:
        sys.stderr.write(f"{str(stop) or 'stopped'}; run the same command again to continue\n")
        sys.exit(INTERRUPTED)
    except OSError as error:
        known = explain_os_error(error, error.filename or "output")
        if known is None:
            raise
        _complain(known.message)
        sys.exit(1)


if __name__ == "__main__":
    main()

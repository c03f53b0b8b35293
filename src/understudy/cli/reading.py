"""Commands of the blinded reading study: prepare, segmentations, analyse (serve, token, status: `reading_serve`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.base import Commands, app, print_table
from understudy.errors import UnderstudyError
from understudy.io.files import read_json

reading_app = Commands(
    no_args_is_help=True, help="Blinded reading study: can experts tell, and what would they correct?"
)
app.add_typer(reading_app, name="reading")

OutArgument = Annotated[Path, typer.Option("--out", "-o", help="New folder of the study, shown to readers.")]
KeyOption = Annotated[
    Path | None,
    typer.Option(help="New file of the answer key, never shown [default: <out>-key.json beside the folder]."),
]


@reading_app.command("prepare")
def prepare_command(
    real: Annotated[Path, typer.Option(help="Slice set with held-out patients (its test and val rows).")],
    synthetic: Annotated[list[str], typer.Option(help="NAME=SET for each generator; may be repeated.")],
    out: OutArgument,
    key: KeyOption = None,
    design: Annotated[
        str, typer.Option(help="balanced (mix not told), or paper (100 real, 100 of each, told).")
    ] = "balanced",
    real_count: Annotated[int, typer.Option(min=1, help="Real slices.")] = 100,
    synthetic_count: Annotated[
        int | None, typer.Option(min=1, help="Slices of each generator [default: by design].")
    ] = None,
    repeats: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share shown twice [default: 0.1; paper: 0].")
    ] = None,
    channels: Annotated[str | None, typer.Option(help="Channels shown, e.g. T1wGd [default: all].")] = None,
    splits: Annotated[str, typer.Option(help="Parts of the real set that are drawn from.")] = "test,val,validation",
    scale: Annotated[str, typer.Option(help="confidence (1 to 5) or binary.")] = "confidence",
    margin: Annotated[float, typer.Option(min=0.001, max=0.999, help="Difference of rates that counts as none.")] = 0.1,
    pixels: Annotated[int, typer.Option(min=32, max=2048, help="Edge of a panel.")] = 512,
    floor: Annotated[
        int, typer.Option(min=0, max=64, help="Grey values below this are shown black, in all pictures alike.")
    ] = 0,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Real or synthetic?",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw real and synthetic slices under names that say nothing; the answer key goes elsewhere."""
    from pydantic import ValidationError

    from understudy.reading.prepare import Design, prepare
    from understudy.slices import SliceSet

    try:
        asked = Design.model_validate(
            {"design": design, "real_count": real_count, "synthetic_count": synthetic_count, "repeats": repeats,
             "channels": channels.split(",") if channels else None, "splits": splits.split(","), "scale": scale,
             "margin": margin, "pixels": pixels, "floor": floor, "title": title, "seed": seed}
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        raise UnderstudyError(
            f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}", fix="see `understudy reading prepare --help`"
        ) from error
    sets = {name: SliceSet.open(path) for name, path in map(_named, synthetic)}
    where = key or out.with_name(f"{out.name}-key.json")
    study = prepare(SliceSet.open(real), sets, out, where, asked)
    _told(study, out, where)
    _tell(read_json(where)["telltales"])


@reading_app.command("segmentations")
def segmentations_command(
    volumes: Annotated[Path, typer.Option(help="`volumes` of a study's prepare job.")],
    first: Annotated[str, typer.Option(help="NAME=FOLDER of predictions (of an evaluate job).")],
    second: Annotated[str, typer.Option(help="NAME=FOLDER of the other's predictions.")],
    out: OutArgument,
    key: KeyOption = None,
    count: Annotated[int, typer.Option(min=1, help="Slices.")] = 50,
    channel: Annotated[str, typer.Option(help="Under the overlay [default: FLAIR, or the last].")] = "",
    margin: Annotated[float, typer.Option(min=0.001, max=0.999)] = 0.1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Two segmentations of the same slice, left and right by lot: which would you rather correct?"""
    from understudy.reading.overlays import prepare_overlays

    where = key or out.with_name(f"{out.name}-key.json")
    study = prepare_overlays(
        volumes, _named(first), _named(second), out, where, count=count, channel=channel, margin=margin, seed=seed
    )
    _told(study, out, where)


@reading_app.command("analyse")
def analyse_command(
    study: Annotated[Path | None, typer.Argument(help="Folder of the reading study.")] = None,
    key: KeyOption = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="A worked example: the counts of the paper's Table 6.")
    ] = False,
    margin: Annotated[float, typer.Option(min=0.001, max=0.999, help="With --paper.")] = 0.1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the results [default: <study>-results].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")] = False,
) -> None:
    """Table 6, d', AUC, equivalence and agreement, with intervals."""
    from understudy.reading.analyse import analyse, of_counts
    from understudy.reading.words import sentences, table6, write_result
    from understudy.report.data import plain

    if paper == (study is not None):
        raise UnderstudyError("give the folder of a study, or --paper", fix="see `understudy reading analyse --help`")
    result: dict[str, Any]
    if study is None:
        from understudy.report.published import published

        frame = published(6)
        called = zip(frame["image"], frame["real"], frame["synthetic"], strict=True)
        result = of_counts({str(name): (int(a), int(a + b)) for name, a, b in called}, margin)
    else:
        result = analyse(study, key or study.with_name(f"{study.name}-key.json"))
        out = out or study.with_name(f"{study.name}-results")
    if as_json:
        print(json.dumps(plain(result), indent=2))
    else:
        if "rows" in result:
            table = table6(result)
            print_table(table.header, table.body)
        print("\n".join(sentences(result)))
    if out is not None:
        write_result(result, out)
        if not as_json:
            print(f"written to {out}")


def _named(value: str) -> tuple[str, Path]:
    name, found, path = value.partition("=")
    if not found or not name or not path:
        raise UnderstudyError(f"{value!r} should be NAME=PATH", fix="e.g. --synthetic stylegan2=made")
    return name, Path(path)


def _told(study: dict[str, Any], out: Path, key: Path) -> None:
    print(f"study: {out}")
    print(f"answer key: {key} (keep it from readers)")
    print(f"its SHA-256, to be noted before reading: {study['key_sha256']}")
    if study["kind"] == "real_or_synthetic":
        print(f"margin of the equivalence test, fixed with it: {100 * study['margin']:g} points")
    print(f"next: understudy reading serve {out}")


def _tell(rows: list[dict[str, Any]]) -> None:
    """Warns of what a trivial number would give away."""
    from understudy.reading.telltales import TELLING

    found = [row for row in rows if row["auc"] >= TELLING]
    if found:
        print("careful: trivial numbers of the pictures tell synthetic from real (AUC; 0.5 says nothing, 1 all):")
        print_table(["Measure", "Generator", "AUC"], [[r["measure"], r["generator"], f"{r['auc']:.2f}"] for r in found])
        print("readers see this without looking at anatomy: see docs/reading.md (--floor N hides a noisy background)")

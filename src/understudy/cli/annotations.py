"""The command that compares the annotations of synthetic slices with those of real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.base import QuietOption, app, print_table
from understudy.cli.folders import Reading, as_given, open_real, open_synthetic, with_folder_options
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.quality.annotation import Annotations


@app.command("annotations")
@with_folder_options()
def compare_annotated(
    real: Annotated[Path, typer.Option(help="Training slices: slice set (its split says which) or image folder.")],
    synthetic: Annotated[Path, typer.Option(help="Synthetic slices: slice set or image folder.")],
    heldout: Annotated[
        Path | None, typer.Option(help="Slices of other patients for the floor [default: validation slices of --real].")
    ] = None,
    *,
    reading: Reading,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for annotations.json.")] = Path(
        "understudy-annotations"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print annotations.json.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Compare the annotations of synthetic slices with real ones: share, areas, shapes, borders, positions."""
    from understudy.io.files import make_folder, write_text
    from understudy.quality.annotation import compare_annotations
    from understudy.quality.groups import AnnotationConfig

    kept = out / "private" / "read"
    first, second = open_real(real, kept, reading, strict=False), open_synthetic(synthetic, kept, reading)
    others = open_real(heldout, kept, reading, strict=False) if heldout is not None else None
    for slices, path in ((first, real), (second, synthetic), (others or first, heldout)):
        if path is not None and not slices.class_names:
            raise UnderstudyError(
                "the slices have no annotation",
                where=path,
                fix="name its files and their values: --labels Seg --codes lesion=255",
            )
    make_folder(out)
    config = AnnotationConfig.model_validate({"seed": seed})
    with as_given((first, real), (second, synthetic), (others or first, heldout)):
        found = compare_annotations(first, second, others, config, progress=not quiet)
    text = json.dumps(found.as_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(out / "annotations.json", text)
    if as_json:
        print(text, end="")
        return
    _print(found)
    print(f"all numbers: {out / 'annotations.json'}")


def _print(found: Annotations) -> None:
    header = ["Measure", "Class", "Real (95 % by patient)", "Held-out", "Synthetic (95 %)", "Unit"]
    body = []
    for v in found.values:
        if v.measure.startswith("area_p") and v.measure != "area_p50":
            continue
        name = f"{v.measure} with {v.other}" if v.other else v.measure
        body.append(
            [name, v.class_name, f"{v.real:.3g} ({v.real_low:.3g} to {v.real_high:.3g})", f"{v.heldout:.3g}",
             f"{v.synthetic:.3g} ({v.synthetic_low:.3g} to {v.synthetic_high:.3g})", v.unit]
        )  # fmt: skip
    print_table(header, [[_dash(cell) for cell in row] for row in body])
    print()
    header = ["Distance", "Class", "Synthetic (95 %)", "Floor: held-out", "Its range", "Outside"]
    body = [
        [d.measure, d.class_name, f"{d.value:.3g} ({d.low:.3g} to {d.high:.3g})", f"{d.floor:.3g}",
         f"{d.floor_low:.3g} to {d.floor_high:.3g}", "yes" if d.outside else ""]
        for d in found.distances
    ]  # fmt: skip
    print_table(header, [[_dash(cell) for cell in row] for row in body])
    compared = [d for d in found.distances if d.value == d.value and d.floor == d.floor]  # neither is NaN
    patients = " and ".join(f"{n} {'held-out' if k == 'held-out' else 'training'}" for k, n in found.patients.items())
    if compared:
        outside = sum(d.outside for d in compared)
        print(
            f"{outside} of {len(compared)} distances are larger than real patients' among themselves"
            f" ({patients} patients)"
        )
    else:
        print("Nothing tells whether these distances are large: there are no held-out patients to compare with.")
    for note in found.notes:
        print(note)


def _dash(cell: str) -> str:
    return cell.replace("nan (nan to nan)", "–").replace("nan to nan", "–").replace("nan", "–")

"""The command that measures how near synthetic slices are to real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.base import DeviceOption, QuietOption, app, print_table
from understudy.cli.folders import Reading, as_given, open_real, open_synthetic, with_folder_options
from understudy.errors import UnderstudyError

FEWEST = 5  # held-out patients below which the floor is called rough

if TYPE_CHECKING:
    from understudy.quality.measure import Row
    from understudy.quality.rules import Resize


ExtractorOption = Annotated[
    list[str] | None,
    typer.Option(
        help="random (default), unet, radiomics, radiomics_tumour, inception2015, radimagenet_inception,"
        " radimagenet_resnet50, dinov2; may be repeated."
    ),
]


WeightsOption = Annotated[
    list[Path] | None,
    typer.Option(help="File of weights for each extractor that needs one, in their order; nothing is downloaded."),
]


HeldoutOption = Annotated[
    Path | None, typer.Option(help="Slices of other patients for the floor [default: validation slices of --real].")
]


WeightsSha256Option = Annotated[
    list[str] | None, typer.Option(help="SHA-256 that each of these files must have [default: the published one].")
]


RealOption = Annotated[Path, typer.Option(help="Training slices: slice set (its split says which) or image folder.")]


SegmenterOption = Annotated[
    Path | None, typer.Option(help="For unet: folder of a segmenter trained on the real slices.")
]


@app.command()
@with_folder_options()
def quality(
    real: RealOption,
    synthetic: Annotated[Path, typer.Option(help="Synthetic slices: slice set or image folder.")],
    heldout: HeldoutOption = None,
    extractor: ExtractorOption = None,
    weights: WeightsOption = None,
    weights_sha256: WeightsSha256Option = None,
    segmenter: SegmenterOption = None,
    channels: Annotated[
        str | None,
        typer.Option(
            help="Channels to compare, e.g. T1wGd (the paper's) [default: all]. Of image folders also what stands for"
            " them in the files' names, T1w=T1,FLAIR=flair, or all channels of an array in its order."
        ),
    ] = None,
    *,
    reading: Reading,
    resize: Annotated[
        str, typer.Option(help="antialiased_bicubic, or tf1 to compare with numbers of the first FID code.")
    ] = "antialiased_bicubic",
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Also the distance at infinitely many slices.")
    ] = False,
    neighbours: Annotated[int, typer.Option(min=1, help="Of precision, recall, density, coverage.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of random subsets.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for quality.json, quality.parquet and kept features.")
    ] = Path("understudy-quality"),
    as_json: Annotated[bool, typer.Option("--json", help="Print quality.json.")] = False,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Compare synthetic with real slices: FID and its kin, each beside the same of held-out patients."""
    from understudy.io.files import make_folder
    from understudy.quality.config import QualityConfig
    from understudy.quality.features import FeatureCache
    from understudy.quality.measure import measure, unmeasured
    from understudy.quality.radiomics import suited
    from understudy.quality.results import write_results
    from understudy.quality.sets import make_parts

    names = extractor or ["random"]
    reading = replace(reading, selects=True)
    kept = out / "private" / "read"
    first, second = open_real(real, kept, reading, strict=False), open_synthetic(synthetic, kept, reading)
    others = open_real(heldout, kept, reading, strict=False) if heldout is not None else None
    sets = ((first, real), (second, synthetic), (others or first, heldout))
    with as_given(*sets):
        parts = make_parts(first, second, others, list(reading.spec.named) or None)
    make_folder(out)
    config = QualityConfig.model_validate({"neighbours": neighbours, "extrapolate": extrapolate, "seed": seed})
    rows: list[Row] = []
    for name, file, digest in _files(names, weights or [], weights_sha256 or []):
        from understudy.study.stages.quality_extractors import make_extractor

        made = make_extractor(name, file, digest, segmenter, _resize(resize), device)
        made, own = suited(made, parts)
        if own is None:
            rows.append(unmeasured(parts, made, "not computed: no slice of a set has a tumour"))
        else:
            with as_given(*sets):
                rows += measure(own, made, FeatureCache(out / "private" / "features"), config, not quiet)
    write_results(out, rows, parts, config)
    if as_json:
        print((out / "quality.json").read_text(encoding="utf-8"), end="")
        return
    _print(rows)
    print(f"all numbers: {out / 'quality.json'}")


def _resize(word: str) -> Resize:
    if word not in ("antialiased_bicubic", "tf1"):
        raise UnderstudyError(f"there is no way of resizing called {word!r}", fix="use antialiased_bicubic or tf1")
    return word  # type: ignore[return-value]  # checked above


def _files(names: list[str], weights: list[Path], digests: list[str]) -> list[tuple[str, Path | None, str | None]]:
    """(extractor, its file, its stated hash); files belong to those that need one, in their order."""
    from understudy.quality.extractors import needs_a_file

    needing = [n for n in names if needs_a_file(n)]
    if len(weights) > len(needing) or (digests and len(digests) != len(weights)):
        raise UnderstudyError(
            f"{len(weights)} files of weights and {len(digests)} hashes for {len(needing)} extractors that need a file",
            fix="give --weights (and --weights-sha256) once for each of them, in their order",
        )
    stated: list[str | None] = [*digests] if digests else [None] * len(weights)
    given = dict(zip(needing, zip(weights, stated, strict=True), strict=False))
    return [(name, *given.get(name, (None, None))) for name in names]


def _print(rows: list[Row]) -> None:
    from understudy.quality.words import LABELS

    header = ["Extractor", "Channel", "Metric", "Synthetic", "At the floor's n", "Floor: held-out", "±", "Note"]
    body = [
        [r.extractor, r.channel, LABELS.get(r.metric, r.metric), f"{r.value:.4g}", f"{r.matched:.4g}",
         f"{r.floor:.4g}", f"{r.floor_sd:.2g}", r.note]
        for r in rows
    ]  # fmt: skip
    print_table(header, [[cell.replace("nan", "–") for cell in row] for row in body])
    first = rows[0]
    print(
        f"{first.n_synthetic:,} synthetic slices, {first.n_real:,} real ones of {first.patients_real} patients; floor:"
        f" {first.n_heldout:,} slices of {first.patients_heldout} other patients"
    )
    if 0 < first.patients_heldout < FEWEST:
        print(f"a floor of {first.patients_heldout} patients is rough; take {FEWEST} or more to judge by it")

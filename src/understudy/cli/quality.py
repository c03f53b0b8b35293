"""Commands that compare sets of slices: quality, annotations, correlate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from typer import Argument, Option

from understudy.cli import base, folders
from understudy.cli.folders import Reading, as_given, open_compared, with_folder_options
from understudy.errors import UnderstudyError
from understudy.io.files import make_folder, write_text

if TYPE_CHECKING:
    from understudy.quality.annotation import Annotations
    from understudy.quality.measure import Row


@base.app.command()
@with_folder_options()
def quality(
    real: Path = folders.RealOption,
    synthetic: Path = folders.SyntheticOption,
    heldout: Path | None = folders.HeldoutOption,
    extractor: list[str] | None = Option(
        None,
        help="random (default), unet, radiomics, radiomics_tumour, inception2015, radimagenet_inception,"
        " radimagenet_resnet50, dinov2; may be repeated.",
    ),
    weights: list[Path] | None = Option(None, help="Weights of each extractor that needs a file, in their order."),
    weights_sha256: list[str] | None = Option(None, help="Their SHA-256 [default: the published one]."),
    segmenter: Path | None = Option(None, help="For unet: folder of a segmenter trained on the real slices."),
    channels: str | None = Option(
        None,
        help="Channels to compare, e.g. T1wGd (the paper's) [default: all]; of image folders also what stands for"
        " them in the files' names, T1w=T1,FLAIR=flair.",
    ),
    *,
    reading: Reading,
    resize: str = Option("antialiased_bicubic", help="antialiased_bicubic, or tf1 (as the first FID code)."),
    extrapolate: bool = Option(False, "--extrapolate", help="Also the distance at infinitely many slices."),
    neighbours: int = Option(5, min=1, help="Of precision, recall, density, coverage."),
    seed: int = base.SeedOption,
    out: Path = Option(Path("understudy-quality"), "--out", "-o", help="Folder for quality.json and features."),
    as_json: bool = base.JsonOption,
    device: str = base.DeviceOption,
    quiet: bool = base.QuietOption,
) -> None:
    """Compare synthetic with real slices: FID and similar metrics, each beside the same of held-out patients."""
    from understudy.quality.config import QualityConfig
    from understudy.quality.features import FeatureCache
    from understudy.quality.measure import compare, make_parts, write_results
    from understudy.study.stages.quality import make_extractor

    base.one_of("--resize", resize, ["antialiased_bicubic", "tf1"])
    reading = replace(reading, selects=True)
    sets = open_compared(real, synthetic, heldout, out / "private" / "read", reading)
    (first, _), (second, _), (others, _) = sets
    with as_given(*sets):
        parts = make_parts(second, first, others, list(reading.spec.named) or None)
    make_folder(out)
    config = QualityConfig.model_validate({"neighbours": neighbours, "extrapolate": extrapolate, "seed": seed})
    files = _files(extractor or ["random"], weights or [], weights_sha256 or [])
    made = (make_extractor(n, file, digest, segmenter, resize, device) for n, file, digest in files)  # type: ignore[arg-type]
    with as_given(*sets):
        rows = compare(parts, made, FeatureCache(out / "private" / "features"), config, not quiet)
    write_results(out, rows, parts, config)
    if as_json:
        print((out / "quality.json").read_text(encoding="utf-8"), end="")
        return
    _print_rows(rows)
    print(f"all numbers: {out / 'quality.json'}")


def _print_rows(rows: list[Row]) -> None:
    from understudy.quality.metrics import label_of

    header = ["Extractor", "Channel", "Metric", "Synthetic", "At the floor's n", "Floor: held-out", "±", "Note"]
    body = [
        [r.extractor, r.channel, label_of(r.metric).name,
         *base.dashed([f"{r.value:.4g}", f"{r.matched:.4g}", f"{r.floor:.4g}", f"{r.floor_sd:.2g}"]), r.note]
        for r in rows
    ]  # fmt: skip
    base.print_table(header, body)
    n = rows[0]
    print(
        f"{n.n_synthetic:,} synthetic slices, {n.n_real:,} real ones of {n.patients_real} patients; floor:"
        f" {n.n_heldout:,} slices of {n.patients_heldout} other patients"
    )
    if 0 < n.patients_heldout < 5:
        print(f"a floor of {n.patients_heldout} patients is rough; take 5 or more to judge by it")


def _files(names: list[str], weights: list[Path], digests: list[str]) -> list[tuple[str, Path | None, str | None]]:
    """(extractor, its file, its stated hash); files belong to those that need one, in their order."""
    from understudy.quality.extractors import FROM_A_FILE

    needing = [name for name in names if name in FROM_A_FILE]
    if len(weights) > len(needing) or (digests and len(digests) != len(weights)):
        what = f"{len(weights)} files of weights, {len(digests)} hashes for {len(needing)} extractors that need a file"
        raise UnderstudyError(what, fix="give --weights (and --weights-sha256) once for each of them, in their order")
    stated: list[str | None] = [*digests] if digests else [None] * len(weights)
    given = dict(zip(needing, zip(weights, stated, strict=True), strict=False))
    return [(name, *given.get(name, (None, None))) for name in names]


@base.app.command("annotations")
@with_folder_options()
def compare_annotated(
    real: Path = folders.RealOption,
    synthetic: Path = folders.SyntheticOption,
    heldout: Path | None = folders.HeldoutOption,
    *,
    reading: Reading,
    seed: int = base.SeedOption,
    out: Path = Option(Path("understudy-annotations"), "--out", "-o", help="Folder for annotations.json."),
    as_json: bool = base.JsonOption,
    quiet: bool = base.QuietOption,
) -> None:
    """Compare the annotations of synthetic slices with real ones: share, areas, shapes, borders, positions."""
    from understudy.quality.annotation import compare_annotations
    from understudy.quality.config import AnnotationConfig

    sets = open_compared(real, synthetic, heldout, out / "private" / "read", reading)
    (first, _), (second, _), (others, _) = sets
    for slices, path in sets:
        if slices is not None and not slices.class_names:
            fix = "name its files and their values: --labels Seg --codes lesion=255"
            raise UnderstudyError("the slices have no annotation", where=path, fix=fix)
    make_folder(out)
    with as_given(*sets):
        found = compare_annotations(second, first, others, AnnotationConfig(seed=seed), progress=not quiet)
    text = json.dumps(found.as_json(), indent=1, allow_nan=False, ensure_ascii=False)
    write_text(out / "annotations.json", f"{text}\n")
    if as_json:
        print(text)
        return
    _print_annotations(found)
    print(f"all numbers: {out / 'annotations.json'}")


def _print_annotations(found: Annotations) -> None:
    rows = [
        [f"{v.measure} with {v.other}" if v.other else v.measure, v.class_name,
         f"{v.real:.3g} ({v.real_low:.3g} to {v.real_high:.3g})", f"{v.heldout:.3g}",
         f"{v.synthetic:.3g} ({v.synthetic_low:.3g} to {v.synthetic_high:.3g})", v.unit]
        for v in found.values
        if v.measure == "area_p50" or not v.measure.startswith("area_p")
    ]  # fmt: skip
    header = ["Measure", "Class", "Real (95 % by patient)", "Held-out", "Synthetic (95 %)", "Unit"]
    base.print_table(header, [base.dashed(row) for row in rows])
    print()
    rows = [
        [d.measure, d.class_name, f"{d.value:.3g} ({d.low:.3g} to {d.high:.3g})", f"{d.floor:.3g}",
         f"{d.floor_low:.3g} to {d.floor_high:.3g}", "yes" if d.outside else ""]
        for d in found.distances
    ]  # fmt: skip
    header = ["Distance", "Class", "Synthetic (95 %)", "Floor: held-out", "Its range", "Outside"]
    base.print_table(header, [base.dashed(row) for row in rows])
    compared = [d for d in found.distances if d.value == d.value and d.floor == d.floor]  # neither is NaN
    patients = " and ".join(f"{n} {'held-out' if k == 'held-out' else 'training'}" for k, n in found.patients.items())
    if compared:
        outside = f"{sum(d.outside for d in compared)} of {len(compared)} distances are larger than real patients'"
        print(f"{outside} among themselves ({patients} patients)")
    else:
        print("Nothing tells whether these distances are large: there are no held-out patients to compare with.")
    for note in found.notes:
        print(note)


@base.app.command()
def correlate(
    sources: list[Path] = Argument(..., metavar="OUT...", help="Studies, or a CSV (snapshot, dice, metrics)."),
    training: str = Option("synthetic", help="What the segmenters were trained on: synthetic or both."),
    segmenter: str | None = Option(None, help="Its name [default: the study's first]."),
    resamples: int = Option(2000, min=100, help="Of the bootstrap."),
    seed: int = base.SeedOption,
    out: Path = Option(Path("understudy-correlate"), "--out", "-o", help="Folder for correlate.json, scatter.svg."),
    as_json: bool = base.JsonOption,
) -> None:
    """Rank correlation of every quality and annotation metric with Dice, over generators and their snapshots."""
    from understudy.study.correlate import correlate as find
    from understudy.study.correlate import write_correlations

    base.one_of("--training", training, ["synthetic", "both"])
    make_folder(out)
    found = find(list(sources), training, segmenter, resamples, seed)
    write_correlations(found, out)
    if as_json:
        print((out / "correlate.json").read_text(encoding="utf-8"), end="")
        return
    header = ["Metric", "n", "Spearman (95 %)", "Within", "Kendall (95 %)", "p (Holm)", "p within (Holm)"]
    rows = [
        [r["metric"], r["n"], f"{r['spearman']:+.2f} ({r['low']:+.2f} to {r['high']:+.2f})", f"{r['within']:+.2f}",
         f"{r['kendall']:+.2f} ({r['kendall_low']:+.2f} to {r['kendall_high']:+.2f})", f"{r['p_holm']:.2g}",
         f"{r['p_within_holm']:.2g}"]
        for r in found.table.to_dict(orient="records")
    ]  # fmt: skip
    at = next((i for i, row in enumerate(rows) if row[0] == "kimg"), 0)
    shown = rows[:15] + ([rows[at]] if at >= 15 else [])
    base.print_table(header, [base.dashed(row) for row in shown])
    if len(rows) > 15:
        print(f"the 15 of {len(rows)} that agree most with the Dice")
    for words in found.words:
        print(words)
    print(f"all numbers: {out / 'correlate.json'}; picture: {out / 'scatter.svg'}")

"""The paper's Tables 1 to 9 (Akbar et al.) from a study, with the published values and the difference beside ours."""

import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.metrics.overlap import EmptyPolicy, apply_policy
from understudy.metrics.scores import KEPT
from understudy.metrics.statistics import MEAN, relative_dice
from understudy.names import display_name, duration
from understudy.quality.metrics import label_of
from understudy.report.content import Block, Bullets, Content, Details, Section, missing
from understudy.report.data import ReportData, Setting, bounded, count, number, percent
from understudy.report.published import CONTRADICTIONS, DICE, HAUSDORFF, published
from understudy.report.sections.quality import ALL, EXTRACTORS
from understudy.report.tables import (
    IDENTITY,
    INTERVAL,
    Summary,
    Table,
    class_columns,
    main_entry,
    resampling,
    score_rows,
)

PAPER = str(EmptyPolicy.PAPER)
COHORTS = {"brats2020": "BraTS 2020", "brats2021": "BraTS 2021"}
# metric -> caption, word in the name of the file and in headings, digits, sign of a cost, number of the table by cohort
SCORES = {
    "dice": ("Dice score", "Dice", 3, -1.0, DICE),
    "hd": ("Maximum Hausdorff distance, mm", "Hausdorff", 1, 1.0, HAUSDORFF),
}
INCEPTION = "inception2015"
FID, IS = (INCEPTION, "frechet_distance"), (INCEPTION, "inception_score")
CHANNELS = ("t1wgd", "t1gd", "t1ce", "t1c")  # names of the channel that the paper's FID is of


def section(content: Content) -> Section:
    """Tables 1 to 9, as far as the study has them, the paper's own values beside ours."""
    data = content.data
    found = [quality_table(data), reading_table(data), recipe_table(data)]
    made = [*paper_tables(data, content.rows, content.summary), *(t for t in found if t is not None)]
    words = "Numbered as in Akbar et al., “Brain tumor segmentation using synthetic MR images”."
    cohort = COHORTS.get(dataset_of(data))
    if cohort:
        words += f" The published values for {cohort} are beside ours; the paper's networks, slices and training times"
        words += " differ from those of this study, so a difference is no error by itself."
    blocks: list[Block] = [words, *sorted(made, key=lambda t: t.key)]
    blocks += missing([] if made else ["There is nothing to tabulate."])
    if cohort:
        blocks.append(Details("Where the paper's own tables contradict each other", [Bullets(CONTRADICTIONS)]))
    return Section("paper", "The paper's tables", "As in the paper", blocks)


def dataset_of(data: ReportData) -> str:
    """ "brats2020" or "brats2021" if the study file says that its cohort is the paper's, else ""."""
    named = (data.study.get("report") or {}).get("published")
    return str(named) if named in COHORTS else ""


def paper_settings(data: ReportData) -> list[Setting]:
    """The settings of the paper's tables, in its order, also those without a score."""
    order = {"real": 0, "both": 0, "synthetic": 1}
    generators, segmenters = (
        list(dict.fromkeys(getattr(s, of) for s in data.every_setting)) for of in ("generator", "segmenter")
    )

    def place(s: Setting) -> tuple[int, int, bool, bool, int]:
        where = segmenters.index(s.segmenter), order[s.training], not s.augmentation, s.training != "real"
        return *where, generators.index(s.generator)

    return sorted((s for s in data.every_setting if s.plain and s.training in order), key=place)


def paper_tables(data: ReportData, rows: pd.DataFrame, summary: Summary) -> list[Table]:
    """Tables 1 (ranks), 3 or 4 (Dice), 5 (relative Dice), 8 or 9 (Hausdorff); [] without scores."""
    settings = paper_settings(data)
    if summary.frame.empty or not settings:
        return []
    # The paper's code scores kept slices.
    scope = KEPT if KEPT in set(summary.frame["scope"]) else data.scope
    made = [
        ranks_table(data, settings, summary, scope), score_table(data, settings, summary, "dice", scope),
        relative_table(data, settings, rows, scope), score_table(data, settings, summary, "hd", scope),
    ]  # fmt: skip
    return [table for table in made if table is not None]


def _row_of_paper(data: ReportData, setting: Setting) -> tuple[Any, ...]:
    """The paper's row of a setting: segmenter kind, original slices used, augmentation, generator kind."""
    generator = data.kind_of("generators", setting.generator) if setting.generator else ""
    segmenter = data.kind_of("segmenters", setting.segmenter)
    return segmenter, setting.training in ("real", "both"), setting.augmentation, generator


def score_table(data: ReportData, settings: list[Setting], summary: Summary, metric: str, scope: str) -> Table:
    """Table 3, 4, 8 or 9."""
    caption, word, digits, _, places = SCORES[metric]
    dataset = dataset_of(data)
    keys, names = class_columns(data, [])
    paper: dict[tuple[Any, ...], float] = {}
    if dataset:
        frame = published(places[dataset]).dropna(subset="value")
        columns = frame[["segmenter", "original", "augmentation", "generator", "class", "value"]]
        paper = {(*k, name.lower()): float(v) for *k, name, v in columns.itertuples(index=False, name=None)}
    planned = data.planned.groupby("setting")["repeat"].nunique().to_dict() if len(data.planned) else {}
    # where a training is missing somewhere, a column says how many there are
    incomplete = any(data.collapsed_of(s)[1] < planned.get(s.id, 0) for s in data.every_setting)
    extra, scores = score_rows(data, settings, summary, keys, metric, digits, scope, PAPER)
    rows = []
    for s, entries, cells, known in scores:
        there = data.collapsed_of(s)[1]
        theirs = [paper.get((*_row_of_paper(data, s), k.lower()), math.nan) for k in keys]
        own, other = float(main_entry(keys, entries)["value"]), theirs[-1] if MEAN in keys else theirs[0]
        beside = [number(other, digits), number(own - other, digits, "+")] if paper else []
        trainings = [f"{there} of {planned.get(s.id, there)}"] if incomplete else []
        known = data.about(s) | {"planned": planned.get(s.id)} | known
        for k, e, t in zip(keys, entries, theirs, strict=True) if paper else ():
            known |= {f"{k}_published": t, f"{k}_difference": float(e["value"]) - t}
        rows.append(([*s.identity, *trainings, *cells, *beside], known))
    note = (
        ("Kept slices only are stacked and scored" if scope == KEPT else "All slices are scored")
        + ", a class empty in the truth and the prediction leaves the mean"
        + (", and one empty in either has no distance." if metric == "hd" else ".")
        + " For comparison with published numbers; it hides misses. Mean ± standard deviation over trainings."
    )
    if dataset:
        note += f" Paper: the printed mean for {COHORTS[dataset]}; difference: ours minus it. The CSV has each class."
    note += " –: no score." if len(data.every_setting) > len(data.settings) else ""
    header = [*IDENTITY, *(["Trainings"] if incomplete else []), *names, *extra]
    header += ["Paper", "Difference"] if paper else []
    place = places[dataset or "brats2020"]
    caption = f"Table {place}: {caption}, as the paper counts"
    return Table.of(f"table{place}_{word.lower()}", caption, note, header, rows, len(IDENTITY))


def relative_table(data: ReportData, settings: list[Setting], rows: pd.DataFrame, scope: str) -> Table | None:
    """Table 5: mean Dice divided by that of real slices with augmentation and the same network."""
    dataset, theirs = dataset_of(data), published(5)
    columns = theirs[theirs["dataset"] == dataset][["segmenter", "original", "augmentation", "generator", "percent"]]
    paper = {tuple(k): float(v) / 100 for *k, v in columns.itertuples(index=False, name=None)}
    scored, present = apply_policy(rows[rows["scope"] == scope], EmptyPolicy.PAPER), set(rows["setting"])
    made = []
    for s in (s for s in settings if s.training != "real"):
        baseline = data.baseline_of(s)
        share = low = high = math.nan
        if baseline is not None and {s.id, baseline.id} <= present:
            try:
                found = relative_dice(scored, s.id, baseline.id, **resampling(data, scope))
                share, low, high = found.value, found.low, found.high
            except UnderstudyError:
                pass  # not the same patients: the dash says so, and the page lists why
        other = paper.get(_row_of_paper(data, s), math.nan)
        span = f"{100 * low:.1f} to {bounded(high, 1)}" if math.isfinite(low) else "–"
        beside = [percent(other, 2), number(100 * (share - other), 2, "+")] if paper else []
        known = data.about(s) | {"relative_dice": share, "low": low, "high": high}
        known |= {"published": other, "difference": share - other} if paper else {}
        made.append(([*s.identity, percent(share, 2), span, *beside], known))
    if not made:
        return None
    note = (
        "Mean Dice, counted as the paper does, divided by that of the same network trained on real slices with"
        " augmentation; interval by patient."
        + (f" Paper: Table 5, {COHORTS[dataset]}; difference in percentage points." if paper else "")
    )
    header = [*IDENTITY, "Relative Dice", INTERVAL, *(["Paper", "Difference"] if paper else [])]
    return Table.of("table5_relative_dice", "Table 5: relative Dice", note, header, made, 4)


def published_ranks(dataset: str) -> dict[tuple[str, str], int]:
    """(column of Table 1, generator kind) -> rank that follows from the paper's Tables 2, 3, 4, 8 and 9.

    Table 1 is a picture; columns are "fid", "is", and "dice" or "hd", segmenter and "aug" or "noaug" with blanks
    between. Ties share the lower number.
    """
    quality = published(2)
    quality = quality[quality["dataset"] == dataset].set_index("generator")
    columns = {"fid": quality["fid"], "is": -quality["is"]}
    for metric, (*_, sign, places) in SCORES.items():
        frame = published(places[dataset])
        frame = frame[~frame["original"] & (frame["class"] == "mean")]
        for (segmenter, augmented), rows in frame.groupby(["segmenter", "augmentation"]):
            name = f"{metric} {segmenter} {'aug' if augmented else 'noaug'}"
            columns[name] = sign * rows.set_index("generator")["value"]
    ranked = {column: values.rank(method="min") for column, values in columns.items()}
    return {(column, str(kind)): int(rank) for column, of in ranked.items() for kind, rank in of.items()}


def ranks_table(data: ReportData, settings: list[Setting], summary: Summary, scope: str) -> Table | None:
    """Table 1: ranks of the generators when trained on synthetic slices only; None for fewer than two."""
    alone = [s for s in settings if s.training == "synthetic"]
    generators = list(dict.fromkeys(s.generator for s in alone))
    if len(generators) < 2:
        return None
    # key -> (heading, the paper's column, generator -> cost)
    columns: dict[str, tuple[str, str, dict[str, float]]] = {}
    quality = _values_of(data)
    for measured, sign, title in ((IS, -1.0, "IS"), (FID, 1.0, "FID")):
        if found := quality.get(measured):
            key = title.lower()
            columns[key] = title, key, {g: sign * found.get(g, math.nan) for g in generators}
    for metric, (_, title, _, sign, _) in SCORES.items():
        for segmenter, augmented in dict.fromkeys((s.segmenter, s.augmentation) for s in alone):
            mine = [s for s in alone if (s.segmenter, s.augmentation) == (segmenter, augmented)]
            ending, kind = "aug" if augmented else "noaug", data.kind_of("segmenters", segmenter)
            values = (summary.pick(s.id, metric, data.mean_name, scope, PAPER)["value"] for s in mine)
            cost = {s.generator: sign * float(v) for s, v in zip(mine, values, strict=True)}
            heading = f"{title}, {data.shown(segmenter)}" + ("" if augmented else ", no aug.")
            columns[f"{metric}_{segmenter}_{ending}"] = heading, f"{metric} {kind} {ending}", cost
    theirs = published_ranks(dataset_of(data)) if dataset_of(data) else {}
    costs = pd.DataFrame({k: cost for k, (_, _, cost) in columns.items()}, index=pd.Index(generators))
    ranked, rows = costs.rank(method="min").to_dict(), []
    for g in generators:
        cells: list[str] = [data.shown(g)]
        known: dict[str, Any] = {"generator": g}
        for key, (_, paper_name, _) in columns.items():
            own, other = float(ranked[key][g]), theirs.get((paper_name, data.kind_of("generators", g)))
            text = "–" if math.isnan(own) else f"{own:g}"
            cells.append(f"{text} ({other})" if other is not None else text)
            known |= {key: own} | ({f"{key}_published": other} if theirs else {})
        rows.append((cells, known))
    note = (
        "Trained on synthetic slices only; 1 is the best, counted as the paper does. Ranks of means, without their"
        " uncertainty: that is in the table “Ranks of the generators”."
        + (" In brackets: the rank that follows from the paper's tables." if theirs else "")
    )
    header = ["Generator", *(title for title, _, _ in columns.values())]
    return Table.of("table1_ranks", "Table 1: ranks of the generators", note, header, rows)


def _values_of(data: ReportData) -> dict[tuple[str, str], dict[str, float]]:
    """(extractor, metric of image quality) -> generator -> value, Inception first.

    Of the paper's channel (T1 with contrast) by Inception where there is one, else of all channels or their mean.
    """
    known = {name: read_json(path).get("rows", []) for name, path in sorted(data.quality.items())}
    rows = pd.DataFrame([{"generator": name, **row} for name, found in known.items() for row in found])
    values: dict[tuple[str, str], dict[str, float]] = {}
    if rows.empty:
        return values
    for extractor in sorted(rows["extractor"].unique(), key=lambda e: e != INCEPTION):
        for metric in ("frechet_distance", "kernel_distance", "inception_score"):
            mine = rows[(rows["extractor"] == extractor) & (rows["metric"] == metric)]
            named = mine["channel"].astype(str).str.lower()
            paper, together = named.isin(CHANNELS), named.isin([ALL, MEAN])
            mine = mine[paper] if extractor == INCEPTION and paper.any() else mine[together] if together.any() else mine
            if len(mine):
                mine = mine.drop_duplicates("generator")
                found = zip(mine["generator"], mine["value"], strict=True)
                values[str(extractor), metric] = {str(g): math.nan if v is None else float(v) for g, v in found}
    return values


def quality_table(data: ReportData) -> Table | None:
    """Table 2: FID and IS, and the same by other networks; None if nothing was measured."""
    values, dataset = _values_of(data), dataset_of(data)
    if not values:
        return None
    titles = [f"{label_of(metric).name}, {EXTRACTORS.get(extractor, extractor)}" for extractor, metric in values]
    titles = [{FID: "FID", IS: "IS"}.get(key, title) for key, title in zip(values, titles, strict=True)]
    theirs = published(2)
    theirs = theirs[theirs["dataset"] == dataset].set_index("generator")[["fid", "is"]]
    rows = []
    for g in dict.fromkeys(name for found in values.values() for name in found):
        kind = data.kind_of("generators", g)
        beside = theirs.loc[kind].to_dict() if kind in theirs.index else {}
        cells = [found.get(g, math.nan) for found in values.values()]
        shown = [f"{v:.2g}" if v and abs(v) < 0.01 else number(v, 2) for v in cells]
        shown += [number(beside.get(k), 2) for k in theirs] if dataset else []
        known = {"generator": g, **dict(zip(map("_".join, values), cells, strict=True))}
        rows.append(([data.shown(g), *shown], known | {f"{k}_published": v for k, v in beside.items()}))
    note = (
        "FID and IS by Inception of the T1wGd channel where there is one."
        if any(extractor == INCEPTION for extractor, _ in values)
        else "No Inception weights were given, so there is no FID or IS: distances by other networks stand in for them"
        " and cannot be compared with the paper's."
    )
    note += f" Paper: Table 2, {COHORTS[dataset]}." if dataset else ""
    header = ["Generator", *titles, *(["Paper: FID", "Paper: IS"] if dataset else [])]
    return Table.of("table2_image_quality", "Table 2: image quality", note, header, rows)


def reading_table(data: ReportData) -> Table | None:
    """Table 6: how readers classified real and synthetic images; None if nothing was read.

    Raises:
        UnderstudyError: an analysis without its rows.
    """
    if data.reading is None:
        return None
    path = data.reading / "table6.json"
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content.get("rows"), list):
        raise UnderstudyError("this reading analysis has no rows", where=path, fix="run understudy reading again")
    theirs = published(6).set_index("image")["real"] / 100 if dataset_of(data) else pd.Series(dtype=float)
    rows = []
    for row in content["rows"]:
        source, n = str(row["source"]), int(row["n"])
        paper = float(theirs.get(source if source == "real" else data.kind_of("generators", source), math.nan))
        share = row["called_real"] / n if n else math.nan
        name = "Real image" if source == "real" else data.shown(source)
        cells = [name, str(n), str(row["called_real"]), str(row["called_synthetic"]), percent(share)]
        known = {**row, "share_called_real": share} | ({"published": paper} if len(theirs) else {})
        rows.append(([*cells, *([percent(paper)] if len(theirs) else [])], known))
    note = (
        f"{count(int(content.get('readers', 1)), 'reader')}. {content.get('design', '')}".strip()
        + " Equal shares called real for real and synthetic images: readers could not tell them apart."
        + (" Paper: one neuroradiologist, 100 images a row." if len(theirs) else "")
    )
    header = ["Images", "Read", "Called real", "Called synthetic", "Share real", *(["Paper"] if len(theirs) else [])]
    return Table.of("table6_reading", "Table 6: reading study", note, header, rows)


def recipe_table(data: ReportData) -> Table | None:
    """Table 7: recipe, hardware and measured time of each generator's training; None without generators."""
    generators = {n: g for n, g in (data.study.get("generators") or {}).items() if isinstance(g, Mapping)}
    if not generators:
        return None
    theirs = published(7).set_index("generator").to_dict(orient="index") if dataset_of(data) else {}
    machine = str(data.provenance.get("machine", "")) or "–"
    rows = []
    for name, spec in generators.items():
        model, training = (p if isinstance(p := spec.get(k), Mapping) else {} for k in ("model", "training"))
        kind, seconds = data.kind_of("generators", name), _seconds(data, name)
        kimg, gamma = (v if isinstance(v := training.get(k), int | float) else None for k in ("kimg", "r1_gamma"))
        cells = [
            data.shown(name), display_name(kind), str(spec.get("recipe") or "–"), str(training.get("batch", "–")),
            "–" if kimg is None else f"{kimg:,g}", "–" if gamma is None else f"{gamma:g}", duration(seconds),
        ]  # fmt: skip
        cells += [_recipe_of_paper(theirs.get(kind))] if theirs else []
        known = {"generator": name, "kind": kind, "resolution": model.get("resolution")}
        known |= {k: training.get(k) for k in ("batch", "kimg", "r1_gamma")}
        rows.append((cells, known | {"seconds": seconds, "hardware": machine}))
    note = (
        f"Hardware: {machine}. Time: measured, of all trainings of the generator, restarts included. kimg: thousand"
        " images shown to the discriminator (or the denoiser)."
    )
    header = ["Generator", "Kind", "Recipe", "Batch size", "kimg", "R1 γ", "Time", *(["Paper"] if theirs else [])]
    return Table.of("table7_recipes", "Table 7: recipes, hardware, training times", note, header, rows, 2)


def _recipe_of_paper(row: dict[Any, Any] | None) -> str:
    if row is None:
        return "–"
    kimg = f"{row['kimg']} kimg" if str(row["kimg"]) else "–"
    gamma = "" if pd.isna(row["gamma"]) else f", γ {row['gamma']:g}"
    return f"batch size {row['batch']}, {kimg}{gamma}; {row['hardware']}, {row['days']} days"


def _seconds(data: ReportData, name: str) -> float:
    """Time of the generator's trainings, all members of an ensemble; NaN if not known."""
    if data.jobs.empty or "seconds" not in data.jobs:
        return math.nan
    mine = data.jobs[data.jobs["stage"] == "generator"]
    # names with or without the cohort before them: "brats2020: generator stylegan2, member 2"
    ours = mine["name"].astype(str).str.contains(rf"(?:^|: )generator {re.escape(name)}(?:$|, )")
    return float(pd.to_numeric(mine.loc[ours, "seconds"], errors="coerce").sum(min_count=1))

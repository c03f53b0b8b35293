"""The paper's Tables 1 to 9 from a study, named as there, with the published values and the difference beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.overlap import EmptyPolicy, apply_policy
from understudy.metrics.scores import KEPT
from understudy.metrics.statistics import MEAN, relative_dice
from understudy.report.data import ReportData, Setting, bounded, kind_of, number, percent
from understudy.report.tables.base import (
    IDENTITY,
    RESAMPLES,
    Table,
    about,
    class_columns,
    collapsed_of,
    identity,
    main_entry,
    numbers_of,
    pick,
    spread,
    without_collapsed,
)
from understudy.report.tables.beside import (
    COHORTS,
    dataset_of,
    numbers_of_paper,
    published_ranks,
    relative_of_paper,
    row_of_paper,
)
from understudy.report.tables.quality import inception_values

PAPER = str(EmptyPolicy.PAPER)
NUMBERS = {"brats2020": {"dice": 3, "hd": 8}, "brats2021": {"dice": 4, "hd": 9}}
CAPTIONS = {"dice": "Dice score", "hd": "Maximum Hausdorff distance, mm"}
FILES = {"dice": "dice", "hd": "hausdorff"}


def paper_settings(data: ReportData) -> list[Setting]:
    """The settings of the paper's tables, in its order, also those without a score."""
    order = {"real": 0, "both": 0, "synthetic": 1}
    generators = list(dict.fromkeys(s.generator for s in data.every_setting))
    segmenters = list(dict.fromkeys(s.segmenter for s in data.every_setting))
    mine = [s for s in data.every_setting if s.plain and s.training in order]
    return sorted(
        mine,
        key=lambda s: (
            segmenters.index(s.segmenter),
            order[s.training],
            not s.augmentation,
            s.training != "real",
            generators.index(s.generator),
        ),
    )


def scope_of(data: ReportData, summary: pd.DataFrame) -> str:
    """Kept slices, which the paper's code scores; whole volumes where only these were."""
    return KEPT if KEPT in set(summary["scope"]) else data.scope


def score_tables(data: ReportData, rows: pd.DataFrame, summary: pd.DataFrame) -> list[Table]:
    """Tables 3 or 4 (Dice), 8 or 9 (Hausdorff), 5 (relative Dice) and 1 (ranks); [] without scores."""
    settings = paper_settings(data)
    if summary.empty or not settings:
        return []
    made = [_scores(data, settings, summary, metric) for metric in ("dice", "hd")]
    relative = _relative(data, settings, rows, summary)
    ranked = _rank_table(data, settings, summary)
    return [*([ranked] if ranked else []), made[0], *([relative] if relative else []), made[1]]


def _scores(data: ReportData, settings: list[Setting], summary: pd.DataFrame, metric: str) -> Table:
    digits, scope = (3 if metric == "dice" else 1), scope_of(data, summary)
    keys, names = class_columns(data, [])
    paper = numbers_of_paper(data, metric)
    rows = [[pick(summary, s.id, metric, k, scope, PAPER) for k in keys] for s in settings]
    extra, cells = without_collapsed(data, settings, [main_entry(keys, row) for row in rows], digits)
    body, numbers = [], []
    for s, row, more in zip(settings, rows, cells, strict=True):
        theirs = [paper.get((*row_of_paper(data, s), k.lower()), math.nan) for k in keys]
        own, other = float(main_entry(keys, row)["value"]), theirs[-1] if MEAN in keys else theirs[0]
        beside = [number(other, digits), signed(own - other, digits)] if paper else []
        body.append([*identity(s), *_with_count(data, s), *(spread(e, digits) for e in row), *more, *beside])
        known = about(data, s) | {"planned": _planned(data).get(s.id)} | numbers_of(keys, row)
        for k, e, t in zip(keys, row, theirs, strict=True) if paper else ():
            known |= {f"{k}_published": t, f"{k}_difference": float(e["value"]) - t}
        numbers.append(known)
    header = [*IDENTITY, *_count_header(data), *names, *extra, *(["Paper", "Difference"] if paper else [])]
    place = NUMBERS.get(dataset_of(data), NUMBERS["brats2020"])[metric]
    key = f"table{place}_{FILES[metric]}"
    caption = f"Table {place}: {CAPTIONS[metric]}, as the paper counts"
    return Table(key, caption, _score_note(data, metric, scope), header, body, pd.DataFrame(numbers), len(IDENTITY))


def _score_note(data: ReportData, metric: str, scope: str) -> str:
    first = "Kept slices only are stacked and scored" if scope == KEPT else "All slices are scored"
    rule = " and one empty in either has no distance." if metric == "hd" else ""
    note = (
        f"{first}, a class empty in the truth and the prediction leaves the mean{',' if rule else '.'}{rule}"
        " For comparison with published numbers; it hides misses. Mean ± standard deviation over trainings."
    )
    if name := COHORTS.get(dataset_of(data)):
        note += f" Paper: the printed mean for {name}; difference: ours minus the paper's. Each class is in the CSV."
    return note + (" –: no score." if len(data.every_setting) > len(data.settings) else "")


def _planned(data: ReportData) -> dict[str, int]:
    if data.planned.empty:
        return {}
    return {str(k): int(v) for k, v in data.planned.groupby("setting")["repeat"].nunique().items()}


def _incomplete(data: ReportData) -> bool:
    return any(collapsed_of(data, s)[1] < _planned(data).get(s.id, 0) for s in data.every_setting)


def _count_header(data: ReportData) -> list[str]:
    return ["Trainings"] if _incomplete(data) else []


def _with_count(data: ReportData, s: Setting) -> list[str]:
    """How many trainings were scored of those asked for, where some setting lacks one."""
    there = collapsed_of(data, s)[1]
    return [f"{there} of {_planned(data).get(s.id, there)}"] if _incomplete(data) else []


def _relative(data: ReportData, settings: list[Setting], rows: pd.DataFrame, summary: pd.DataFrame) -> Table | None:
    """Table 5: mean Dice divided by that of real slices with augmentation and the same network."""
    scope, paper = scope_of(data, summary), relative_of_paper(data)
    scored = apply_policy(rows[rows["scope"] == scope], EmptyPolicy.PAPER)
    body: list[list[str]] = []
    numbers: list[dict[str, Any]] = []
    for s in (s for s in settings if s.training != "real"):
        base = data.baseline_of(s)
        share = low = high = math.nan
        if base is not None and {s.id, base.id} <= set(rows["setting"]):
            try:
                found = relative_dice(scored, s.id, base.id, scope=scope, seed=data.seed, resamples=RESAMPLES)
                share, low, high = found.value, found.low, found.high
            except UnderstudyError:
                pass  # not the same patients: the dash says so, and the page's list why
        theirs = paper.get(row_of_paper(data, s), math.nan)
        between = f"{100 * low:.1f} to {bounded(high, 1)}" if math.isfinite(low) else "–"
        beside = [percent(theirs, 2), _points(share - theirs)] if paper else []
        body.append([*identity(s), percent(share, 2), between, *beside])
        known = about(data, s) | {"relative_dice": share, "low": low, "high": high}
        numbers.append(known | ({"published": theirs, "difference": share - theirs} if paper else {}))
    if not body:
        return None
    note = (
        "Mean Dice, counted as the paper does, divided by the mean Dice of the same network trained on real slices"
        " with augmentation; interval by patient."
        + (f" Paper: Table 5, {COHORTS[dataset_of(data)]}; difference in percentage points." if paper else "")
    )
    header = [*IDENTITY, "Relative Dice", "95\u00a0% interval", *(["Paper", "Difference"] if paper else [])]
    return Table("table5_relative_dice", "Table 5: relative Dice", note, header, body, pd.DataFrame(numbers), 4)


def _rank_table(data: ReportData, settings: list[Setting], summary: pd.DataFrame) -> Table | None:
    """Table 1: ranks of the generators when trained on synthetic slices only."""
    alone = [s for s in settings if s.training == "synthetic"]
    generators = list(dict.fromkeys(s.generator for s in alone))
    if len(generators) < 2:
        return None
    scope = scope_of(data, summary)
    name = MEAN if len(data.class_names) > 1 else data.class_names[0]
    columns: dict[str, dict[str, float]] = {}
    titles: dict[str, str] = {}
    paper_names: dict[str, str] = {}
    for metric, sign, title in (("dice", -1.0, "Dice"), ("hd", 1.0, "Hausdorff")):
        for segmenter, augmented in dict.fromkeys((s.segmenter, s.augmentation) for s in alone):
            mine = [s for s in alone if (s.segmenter, s.augmentation) == (segmenter, augmented)]
            key, word = (f"{metric}_{segmenter}_{'aug' if augmented else 'noaug'}", "" if augmented else ", no aug.")
            columns[key] = {
                s.generator: sign * float(pick(summary, s.id, metric, name, scope, PAPER)["value"]) for s in mine
            }
            titles[key] = f"{title}, {data.shown(segmenter)}{word}"
            kind = kind_of(data.study, "segmenters", segmenter)
            paper_names[key] = f"{metric} {kind} {'aug' if augmented else 'noaug'}"
    for metric, sign, title in (("frechet_distance", 1.0, "FID"), ("inception_score", -1.0, "IS")):
        if values := inception_values(data, metric):
            short = title.lower()
            columns = {short: {g: sign * values.get(g, math.nan) for g in generators}} | columns
            titles[short], paper_names[short] = title, short
    return _rank_cells(data, generators, columns, titles, paper_names)


def _rank_cells(
    data: ReportData,
    generators: Sequence[str],
    columns: dict[str, dict[str, float]],
    titles: dict[str, str],
    paper_names: dict[str, str],
) -> Table:
    dataset = dataset_of(data)
    theirs = published_ranks(dataset) if dataset else {}
    frame = pd.DataFrame(columns, index=pd.Index(generators)).rank(method="min", na_option="keep")
    ranked: dict[str, dict[str, float]] = {
        str(k): {str(g): float(v) for g, v in of.items()} for k, of in frame.to_dict().items()
    }
    body, numbers = [], []
    for g in generators:
        cells: list[str] = []
        known: dict[str, Any] = {"generator": g}
        for key in columns:
            own, other = ranked[key][g], theirs.get((paper_names[key], kind_of(data.study, "generators", g)))
            text = "–" if math.isnan(own) else f"{own:g}"
            cells.append(f"{text} ({other})" if other is not None else text)
            known |= {key: own} | ({f"{key}_published": other} if theirs else {})
        body.append([data.shown(g), *cells])
        numbers.append(known)
    note = (
        "Trained on synthetic slices only; 1 is the best, counted as the paper does. Ranks of means, without their"
        " uncertainty: that is in the table “Ranks of the generators”."
        + (" In brackets: the rank that follows from the paper's tables." if theirs else "")
    )
    header = ["Generator", *(titles[k] for k in columns)]
    return Table("table1_ranks", "Table 1: ranks of the generators", note, header, body, pd.DataFrame(numbers))


def signed(value: float, digits: int) -> str:
    """ "+0.012" or "−0.012"; a dash for what is not there."""
    return "–" if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def _points(share: float) -> str:
    return signed(100 * share, 2)

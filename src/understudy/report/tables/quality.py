"""The paper's Tables 2 (image quality), 6 (reading study) and 7 (recipes, hardware, times)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.names import duration
from understudy.report.data import NAMES, ReportData, count, kind_of, number, percent
from understudy.report.published import published
from understudy.report.sections.quality import ALL, EXTRACTORS, MEAN, METRICS
from understudy.report.tables.base import Table
from understudy.report.tables.beside import COHORTS, dataset_of

INCEPTION = "inception2015"
CHANNELS = ("t1wgd", "t1gd", "t1ce", "t1c")  # names of the channel that the paper's FID is of


def _quality_rows(data: ReportData) -> pd.DataFrame:
    rows = [
        {"generator": name, **row}
        for name, path in sorted(data.quality.items())
        for row in read_json(path).get("rows", [])
    ]
    return pd.DataFrame(rows)


def _main_channel(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the paper's channel (T1 with contrast) where there is one, else of all channels or their mean."""
    named = rows["channel"].astype(str).str.lower()
    if rows["extractor"].iloc[0] == INCEPTION and named.isin(CHANNELS).any():
        return rows[named.isin(CHANNELS)]
    together = rows[named.isin([ALL, MEAN])]
    return together if len(together) else rows


def inception_values(data: ReportData, metric: str) -> dict[str, float]:
    """Generator -> FID or IS by Inception; {} where its weights were not given."""
    rows = _quality_rows(data)
    if rows.empty or not (mine := rows[(rows["extractor"] == INCEPTION) & (rows["metric"] == metric)]).size:
        return {}
    mine = _main_channel(mine).drop_duplicates("generator")
    return {str(g): _float(v) for g, v in zip(mine["generator"], mine["value"], strict=True)}


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def quality_table(data: ReportData) -> Table | None:
    """Table 2: FID and IS, and the same by other networks; None if nothing was measured."""
    rows = _quality_rows(data)
    if rows.empty:
        return None
    wanted = [m for m in ("frechet_distance", "kernel_distance", "inception_score") if m in set(rows["metric"])]
    columns: dict[str, tuple[str, dict[str, float]]] = {}
    for extractor in sorted(rows["extractor"].unique(), key=lambda e: e != INCEPTION):
        for metric in wanted:
            mine = rows[(rows["extractor"] == extractor) & (rows["metric"] == metric)]
            if len(mine):
                mine = _main_channel(mine).drop_duplicates("generator")
                title = _title(str(extractor), metric)
                values = {str(g): _float(v) for g, v in zip(mine["generator"], mine["value"], strict=True)}
                columns[f"{extractor}_{metric}"] = title, values
    theirs = published(2)
    theirs = theirs[theirs["dataset"] == dataset_of(data)].set_index("generator")
    printed = {str(k): {"fid": float(f), "is": float(i)} for k, f, i in theirs[["fid", "is"]].itertuples(name=None)}
    body, numbers = [], []
    for g in dict.fromkeys(rows["generator"].astype(str)):
        kind = kind_of(data.study, "generators", g)
        beside = printed.get(kind, {})
        cells = [_digits(v.get(g, math.nan), k) for k, (_, v) in columns.items()]
        paper = [number(beside.get(k, math.nan), 2) for k in ("fid", "is")] if len(theirs) else []
        body.append([data.shown(g), *cells, *paper])
        numbers.append(
            {"generator": g}
            | {k: v.get(g, math.nan) for k, (_, v) in columns.items()}
            | {f"{k}_published": v for k, v in beside.items()}
        )
    has = any(k.startswith(INCEPTION) for k in columns)
    note = (
        ("FID and IS by Inception of the T1wGd channel where there is one." if has else
         "No Inception weights were given, so there is no FID or IS: distances by other networks stand in for them"
         " and cannot be compared with the paper's.")
        + (f" Paper: Table 2, {COHORTS[dataset_of(data)]}." if len(theirs) else "")
    )  # fmt: skip
    header = ["Generator", *(t for t, _ in columns.values()), *(["Paper: FID", "Paper: IS"] if len(theirs) else [])]
    return Table("table2_image_quality", "Table 2: image quality", note, header, body, pd.DataFrame(numbers))


def _title(extractor: str, metric: str) -> str:
    if extractor == INCEPTION and metric in ("frechet_distance", "inception_score"):
        return "FID" if metric == "frechet_distance" else "IS"
    return f"{METRICS[metric][0]}, {EXTRACTORS.get(extractor, extractor)}"


def _digits(value: float, key: str) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.2g}" if value and abs(value) < 0.01 else f"{value:.2f}"


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
        raise UnderstudyError(
            "the analysis of the reading study has no rows", where=path, fix="make it again: understudy reading"
        )
    theirs = published(6).set_index("image") if dataset_of(data) else pd.DataFrame()
    shares = {str(k): float(v) / 100 for k, v in theirs["real"].items()} if len(theirs) else {}
    body, numbers = [], []
    for row in content["rows"]:
        source, n = str(row["source"]), int(row["n"])
        kind = source if source == "real" else kind_of(data.study, "generators", source)
        paper = shares.get(kind, math.nan)
        share = row["called_real"] / n if n else math.nan
        name = "Real image" if source == "real" else data.shown(source)
        body.append([name, str(n), str(row["called_real"]), str(row["called_synthetic"]), percent(share),
                     *([percent(paper)] if len(theirs) else [])])  # fmt: skip
        numbers.append({**row, "share_called_real": share} | ({"published": paper} if len(theirs) else {}))
    readers = int(content.get("readers", 1))
    note = (
        f"{count(readers, 'reader')}. {content.get('design', '')}".strip()
        + " Equal shares called real for real and synthetic images mean that readers could not tell them apart."
        + (" Paper: one neuroradiologist, 100 images a row." if len(theirs) else "")
    )
    header = ["Images", "Read", "Called real", "Called synthetic", "Share real", *(["Paper"] if len(theirs) else [])]
    return Table("table6_reading", "Table 6: reading study", note, header, body, pd.DataFrame(numbers))


def recipe_table(data: ReportData) -> Table | None:
    """Table 7: recipe, hardware and measured time of each generator's training; None without generators."""
    study = data.study if isinstance(data.study, dict) else {}
    generators = {n: g for n, g in (study.get("generators") or {}).items() if isinstance(g, Mapping)}
    if not generators:
        return None
    theirs = published(7).set_index("generator") if dataset_of(data) else pd.DataFrame()
    machine = str(data.provenance.get("machine", "")) or "–"
    body, numbers = [], []
    for name, spec in generators.items():
        model, training = _part(spec, "model"), _part(spec, "training")
        kind = kind_of(data.study, "generators", name)
        seconds = _seconds(data, name)
        cells = [
            data.shown(name),
            NAMES.get(kind, kind),
            str(spec.get("recipe") or "–"),
            str(training.get("batch", "–")),
            f"{training['kimg']:,g}" if isinstance(training.get("kimg"), int | float) else "–",
            f"{training['r1_gamma']:g}" if isinstance(training.get("r1_gamma"), int | float) else "–",
            duration(seconds),
        ]
        if len(theirs):
            cells.append(_recipe_of_paper(theirs, kind))
        body.append(cells)
        numbers.append(
            {"generator": name, "kind": kind, "resolution": model.get("resolution"), "batch": training.get("batch"),
             "kimg": training.get("kimg"), "r1_gamma": training.get("r1_gamma"), "seconds": seconds,
             "hardware": machine}
        )  # fmt: skip
    note = (
        f"Hardware: {machine}. Time: measured, of all trainings of the generator, restarts included. kimg: thousand"
        " images shown to the discriminator (or the denoiser)."
    )
    header = ["Generator", "Kind", "Recipe", "Batch", "kimg", "R1 γ", "Time", *(["Paper"] if len(theirs) else [])]
    return Table("table7_recipes", "Table 7: recipes, hardware, training times", note, header, body,
                 pd.DataFrame(numbers), 2)  # fmt: skip


def _part(spec: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = spec.get(key)
    return part if isinstance(part, Mapping) else {}


def _seconds(data: ReportData, name: str) -> float:
    """Time of the generator's trainings, all members of an ensemble; NaN if not known."""
    if data.jobs.empty or "seconds" not in data.jobs:
        return math.nan
    mine = data.jobs[data.jobs["stage"] == "generator"]
    ours = [n == f"generator {name}" or n.startswith(f"generator {name}, ") for n in _bare(mine["name"])]
    seconds = pd.to_numeric(mine.loc[ours, "seconds"], errors="coerce").dropna()
    return float(seconds.sum()) if len(seconds) else math.nan


def _bare(names: pd.Series) -> list[str]:
    """Names of jobs without the cohort before them."""
    return [n[n.index("generator ") :] if "generator " in n else n for n in names.astype(str)]


def _recipe_of_paper(theirs: pd.DataFrame, kind: str) -> str:
    if kind not in theirs.index:
        return "–"
    row = theirs.loc[[kind]].to_dict(orient="records")[0]
    gamma = "" if pd.isna(row["gamma"]) else f", γ {row['gamma']:g}"
    kimg = f"{row['kimg']} kimg" if str(row["kimg"]) else "–"
    return f"batch {row['batch']}, {kimg}{gamma}; {row['hardware']}, {row['days']} days"

"""The page above the reports of several cohorts: verdicts and ranks over all, their tables in one, links to each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, plain, read_json, write_text
from understudy.io.readers import read_table
from understudy.names import display_name
from understudy.report.conclusion import LINES, OUT, placed
from understudy.report.data import bounded
from understudy.report.page import render, write_table
from understudy.report.sections.opening import COLOURS, QUESTIONS
from understudy.report.sections.run import STAGES, in_hours
from understudy.report.tables import Table

RANKS = "table1_all_cohorts"
# Tables of the page: key -> caption, note.
SHOWN = {
    "table1_ranks": ("Table 1: ranks of the generators, each cohort", ""),
    "table5_relative_dice": (
        "Table 5: relative Dice",
        "Kept slices by the paper's rule; the verdicts are of whole volumes by the BraTS rule. ",
    ),
    "table7_recipes": ("Table 7: recipes, hardware, training times", ""),
    "cost": ("Cost, hours", "Hours of all jobs on one worker, restarts included. "),
}
PERCENT = ("relative_dice", "low", "high", "published", "difference")
LEFT_OUT = ("setting", "n_repeats", "n_collapsed", "resolution")
HEADINGS = {"fid": "FID", "is": "IS", "seconds": "Hours", "relative dice": "Relative Dice", "label": "Trained on",
            "r1 gamma": "R1 gamma", "batch": "Batch size"}  # fmt: skip


def write_overview(folders: Mapping[str, Path], spec: Mapping[str, Any], out: Path) -> Path:
    """Writes `report.html`, `report.json`, `scores.parquet` and `tables/` of several cohorts together.

    Args:
        folders: cohort -> folder of its report; beside the page is a folder of each cohort's name with a copy.
        spec: of the job: title, study (plain JSON values), study_hash, command.
        out: folder, made if absent; all tables are there as CSV, those of the page as LaTeX and HTML too.

    Returns:
        The path of `report.html`.

    Raises:
        UnderstudyError: a folder without a report, disk full, no permission.
    """
    for folder in folders.values():
        if not (folder / "report.json").is_file():
            raise UnderstudyError("there is no report of this cohort", where=folder, fix="run understudy run first")
    reports = {name: read_json(folder / "report.json") for name, folder in folders.items()}
    frames = _frames(folders)
    ranked = [_ranks_over_all(frames["table1_ranks"], len(folders))] if "table1_ranks" in frames else []
    shown = [*ranked, *(_shown(key, frames[key]) for key in SHOWN if key in frames)]
    for table in shown:
        write_table(out, table)
    for key, frame in frames.items():
        write_text(out / "tables" / f"{key}.csv", frame.to_csv(index=False))
    scores = [read_table(folder / "scores.parquet").assign(cohort=name) for name, folder in folders.items()]
    with atomic_path(out / "scores.parquet") as temporary:
        pd.concat(scores, ignore_index=True).to_parquet(temporary, index=False)
    answers = {name: str(report["answer"]["headline"]) for name, report in reports.items()}
    conclusions = {name: report["answer"]["conclusion"] for name, report in reports.items()}
    inside = {n: {k: placed(words, f"{OUT}/{n}") for k, words in c.items()} for n, c in conclusions.items()}
    content = {k: spec[k] for k in ("title", "command", "study", "study_hash")} | {
        "answer": {
            "headline": " ".join(f"{name}: {answer}" for name, answer in answers.items()),
            "conclusion": {k: " ".join(f"{n}: {c[k]}" for n, c in inside.items()) for k in LINES},
            "cohorts": {name: r["answer"] for name, r in reports.items()},
        },
        "verdicts": [{"cohort": name, **v} for name, r in reports.items() for v in r["verdicts"]],
        "failed": [{"cohort": name, **f} for name, r in reports.items() for f in r["failed"]],
        "ranks": plain(ranked[0].frame) if ranked else [],
        "reports": {name: f"{name}/report.html" for name in folders},
    }
    write_text(out / "report.json", json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    page = render(
        "overview.html.j2", title=spec["title"], command=spec["command"], reports=reports, conclusions=conclusions,
        colours=COLOURS, questions=QUESTIONS, shown=shown,
        tables=[*frames, *(t.key for t in shown if t.key not in frames)],
    )  # fmt: skip
    write_text(out / "report.html", page)
    return out / "report.html"


def _frames(folders: Mapping[str, Path]) -> dict[str, pd.DataFrame]:
    """Table's key -> the rows of all cohorts that have it, each with its cohort in front."""
    found: dict[str, list[pd.DataFrame]] = {}
    for name, folder in folders.items():
        for path in sorted((folder / "tables").glob("*.csv")):
            if path.stat().st_size > 1:
                frame = pd.read_csv(path, keep_default_na=False, dtype=str)
                frame.insert(0, "cohort", name, allow_duplicates=True)
                found.setdefault(path.stem, []).append(frame)
    return {key: pd.concat(frames, ignore_index=True).fillna("") for key, frames in sorted(found.items())}


def _ranks_over_all(frame: pd.DataFrame, cohorts: int) -> Table:
    """Mean rank of each generator over all cohorts, by every column of Table 1."""
    columns = [c for c in map(str, frame) if c not in ("cohort", "generator") and not c.endswith("_published")]
    ranks = frame[["cohort", "generator"]].join(frame[columns].apply(pd.to_numeric, errors="coerce"))
    means = ranks.groupby("generator", sort=False)[columns].mean()
    means = means.assign(mean_rank=means.mean(axis=1), cohorts=ranks.groupby("generator")["cohort"].nunique())
    means = means.sort_values("mean_rank", kind="stable").reset_index()
    body = []
    for generator, *values, n in means.to_numpy():
        cells = ["–" if pd.isna(v) else f"{v:.3g}" for v in values]
        body.append([display_name(str(generator)), *cells, f"{int(n)} of {cohorts}"])
    note = "Mean over the cohorts of the ranks in each one's Table 1; 1 is the best. Synthetic slices only."
    header = ["Generator", *map(_rank_heading, columns), "Mean", "Cohorts"]
    return Table(RANKS, "Table 1 over all cohorts: mean ranks", note, header, body, means)


def _rank_heading(column: str) -> str:
    """ "dice_unet_aug" -> "Dice, U-Net"; "fid" -> "FID"."""
    metric, _, rest = column.partition("_")
    if not rest:
        return HEADINGS.get(column, column.capitalize())
    network, _, augmented = rest.rpartition("_")
    name = {"dice": "Dice", "hd": "Hausdorff"}.get(metric, metric)
    return f"{name}, {display_name(network)}" + (", no aug." if augmented == "noaug" else "")


def _shown(key: str, frame: pd.DataFrame) -> Table:
    """A table of all cohorts for the page; its numbers shortened, the CSV has all digits."""
    ranks = key == "table1_ranks"
    kept = frame.drop(columns=[c for c in map(str, frame) if c in LEFT_OUT or (ranks and c.endswith("_published"))])
    columns, header = list(map(str, kept)), []
    body = [[_cell(key, *cell) for cell in zip(columns, row, strict=True)] for row in kept.to_numpy()]
    for column in columns:
        stage = column.removesuffix("_hours")
        words = (STAGES.get(stage, stage) if stage != column else column).replace("_", " ")
        header.append(_rank_heading(column) if ranks else HEADINGS.get(words, words[:1].upper() + words[1:]))
    caption, note = SHOWN[key]
    return Table(key, caption, f"{note}One line a cohort and row; the same as CSV in tables/.", header, body, frame, 2)


def _cell(key: str, column: str, value: str) -> str:
    try:
        found = float(value)
    except ValueError:
        return (display_name(value) if column in ("generator", "kind") else value) or "–"
    if key == "table5_relative_dice" and column in PERCENT:
        return bounded(found, 1).replace("-", "−")
    if key == "cost":
        return in_hours(found)
    return f"{found / 3600:.2f}" if column == "seconds" else f"{found:,.4g}"

"""What failed and what is missing because of it, the jobs with their times, and what the study cost."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from understudy.names import duration
from understudy.report.data import ReportData, count
from understudy.report.plots.style import Panel, legend_below, one_plot, panel_of
from understudy.report.tables.base import Table

FAILURES = {
    "out_of_memory": "out of memory",
    "time_limit": "time limit",
    "nan": "a number became NaN",
    "bad_data": "bad data",
    "disk": "disk full or unreadable",
    "error": "error",
}
STAGES = {
    "generator": "training generators", "sample": "sampling", "segmenter": "training segmenters",
    "evaluate": "evaluation", "audit": "audit", "quality": "image quality", "annotations": "annotations",
    "phantom": "phantoms", "prepare": "preparing slices", "report": "report",
}  # fmt: skip
COLOURS = (
    "#3569A8", "#AA3377", "#1B7A6B", "#D55E00", "#8A6D00", "#5B4FBF", "#8A8A8A", "#222222", "#7FB3DF", "#E3B0CC",
)  # fmt: skip
NOT_OF_ONE = "all generators"


@dataclass(frozen=True)
class Quarantine:
    """Jobs that failed for good, and planned trainings without scores.

    Attributes:
        failed: name, stage, failure (class), message of each failed job.
        missing: setting, label, planned, scored (numbers of trainings) of each setting that lacks some.
        table: the failed jobs, None without any.
        sentences: what is missing because of them, for the top of the page.
    """

    failed: list[dict[str, str]] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)
    table: Table | None = None
    sentences: list[str] = field(default_factory=list)


def make_quarantine(data: ReportData) -> Quarantine:
    """From the states of the jobs and the trainings that the study asks for."""
    failed = _failed(data)
    missing = _missing(data)
    return Quarantine(failed, missing, _table(data, failed), _sentences(failed, missing))


def _failed(data: ReportData) -> list[dict[str, str]]:
    if data.jobs.empty or "state" not in data.jobs:
        return []
    found = data.jobs[data.jobs["state"] == "failed"].to_dict(orient="records")
    return [{key: _text(job.get(key)) for key in ("name", "stage", "failure", "message")} for job in found]


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)


def _missing(data: ReportData) -> list[dict[str, Any]]:
    """Settings with fewer scored trainings than the study asks for."""
    if data.planned.empty:
        return []
    asked = data.planned.groupby("setting")["repeat"].nunique()
    there = data.scores.groupby("setting")["repeat"].nunique() if len(data.scores) else pd.Series(dtype=int)
    return [
        {"setting": s.id, "label": s.label, "planned": int(asked[s.id]), "scored": int(there.get(s.id, 0))}
        for s in data.every_setting
        if s.id in asked.index and there.get(s.id, 0) < asked[s.id]
    ]


def _table(data: ReportData, failed: list[dict[str, str]]) -> Table | None:
    if not failed:
        return None
    body = [
        [
            data.hide(job["name"]),
            job["stage"],
            FAILURES.get(job["failure"], job["failure"] or "error"),
            data.hide(job["message"].split("\n")[0]),
        ]
        for job in failed
    ]
    frame = pd.DataFrame([{**job, "name": r[0], "message": r[3]} for job, r in zip(failed, body, strict=True)])
    note = "Jobs that failed after every retry. No number of this page comes from them."
    return Table("failed", "Failed jobs", note, ["Job", "Stage", "Why", "Message"], body, frame, 4)


def _sentences(failed: list[dict[str, str]], missing: list[dict[str, Any]]) -> list[str]:
    said = []
    if failed:
        kinds = pd.Series([job["stage"] for job in failed]).value_counts()
        parts = ", ".join(f"{n} of the stage {stage}" for stage, n in kinds.items())
        said.append(f"{count(len(failed), 'job')} failed ({parts}); the list is under “What was run”.")
    if missing:
        none = [m for m in missing if not m["scored"]]
        lost = sum(m["planned"] - m["scored"] for m in missing)
        few = "; ".join(f"{m['label']}: {m['scored']} of {m['planned']}" for m in missing[:4])
        more = f"; and {count(len(missing) - 4, 'other setting')}" if len(missing) > 4 else ""
        said.append(
            f"Incomplete: {count(lost, 'training')} of those asked for {'has' if lost == 1 else 'have'} no scores"
            f" ({few}{more}). The paper's tables show – where a setting has none"
            f"{f' ({len(none)} of them)' * bool(none)}; other means are over the trainings that are there. Run the"
            " study again to make what is missing."
        )
    return said


def job_table(data: ReportData) -> Table | None:
    """Time and memory of every job; None if none is known."""
    if data.jobs.empty:
        return None
    body = [
        [
            data.hide(str(j.get("name", ""))),
            str(j.get("stage", "")),
            duration(_float(j.get("seconds"))),
            f"{_float(j.get('peak_rss_mb')) / 1024:.2f} GB" if _float(j.get("peak_rss_mb")) > 0 else "–",
            str(j.get("state", "")),
            str(j.get("id", ""))[:12],
        ]
        for j in data.jobs.to_dict(orient="records")
    ]
    frame = data.jobs.assign(name=[row[0] for row in body])
    if "message" in frame:
        frame["message"] = [data.hide(_text(m)) for m in frame["message"]]
    header = ["Job", "Stage", "Time", "Peak memory", "State", "Id"]
    total = duration(float(pd.to_numeric(data.jobs["seconds"], errors="coerce").sum()))
    return Table("jobs", f"Jobs, {total} together", _thrift(data), header, body, frame)


def _thrift(data: ReportData) -> str:
    """Which jobs ran out of memory and how they went on; "" without any."""
    if "memory" not in data.jobs:
        return ""
    told = [(data.hide(str(j["name"])), _text(j["memory"])) for j in data.jobs.to_dict(orient="records")]
    words = "; ".join(f"{name} ({how})" for name, how in told if how)
    return f"Memory ran out, and these jobs went on with less at once: {words}." if words else ""


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def cost_table(data: ReportData) -> Table | None:
    """Hours by stage and generator; None if no times are known.

    A job counts for the generator that its name or its setting names; the others (real slices only) are a row of
    their own.
    """
    if data.jobs.empty or "seconds" not in data.jobs:
        return None
    frame = data.jobs.assign(
        hours=pd.to_numeric(data.jobs["seconds"], errors="coerce") / 3600,
        generator=[_generator_of(data, str(name)) for name in data.jobs["name"]],
    )
    wide = frame.pivot_table("hours", "generator", "stage", aggfunc="sum", fill_value=0.0, observed=True)
    if wide.empty or not wide.to_numpy().sum():
        return None
    names = [n for n in dict.fromkeys(s.generator for s in data.every_setting) if n in wide.index and n]
    wide = wide.loc[[*names, *(n for n in wide.index if n not in names)]]
    order = [*(s for s in STAGES if s in wide), *(s for s in wide if s not in STAGES)]
    wide = wide[order].assign(total=wide.sum(axis=1))
    together = wide.sum().rename("together")
    full = pd.concat([wide, together.to_frame().T])
    body = [
        [data.shown(str(n)), *(in_hours(v) for v in row)] for n, row in zip(full.index, full.to_numpy(), strict=True)
    ]
    header = ["Generator", *(STAGES.get(str(s), str(s)).capitalize() for s in order), "Together"]
    note = (
        f"Hours of all jobs on one worker, restarts included. “{NOT_OF_ONE.capitalize()}”: what no single generator"
        " caused, such as trainings on real slices."
    )
    return Table("cost", "Cost, hours", note, header, body, _machine(full))


def _machine(wide: pd.DataFrame) -> pd.DataFrame:
    """Hours with a column a stage; they are called so, since a stage is called like the first column."""
    named = wide.rename(columns={c: f"{c}_hours" for c in wide})
    return named.rename_axis("generator").reset_index()


def in_hours(value: float) -> str:
    """E.g. "0.034", "7.25", "1,204"; a dash for nothing."""
    if not value:
        return "–"
    if value < 0.0005:
        return "< 0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _generator_of(data: ReportData, name: str) -> str:
    known = sorted({s.generator for s in data.every_setting if s.generator}, key=len, reverse=True)
    found = (g for g in known if re.search(rf"(?<![A-Za-z0-9_]){re.escape(g)}(?![A-Za-z0-9_])", name))
    return next(found, NOT_OF_ONE)


def cost_panels(table: Table | None) -> list[Panel]:
    """Bars of hours, a bar a generator, coloured by stage; [] without times."""
    if table is None:
        return []
    shown = [row[0] for row in table.body[:-1]][::-1]  # without "together"
    frame = table.frame[table.frame["generator"] != "together"].iloc[::-1]
    stages = [c.removesuffix("_hours") for c in map(str, frame) if c.endswith("_hours") and frame[c].sum() > 0]
    stages.remove("total")
    hours = frame[[f"{stage}_hours" for stage in stages]].to_numpy(float)
    few = hours.sum(1).max() < 1  # an axis of hundredths of an hour says little
    unit, scale = ("minutes", 60) if few else ("hours", 1)
    with one_plot((7.2, 1.6 + 0.34 * len(frame))) as (figure, axes):
        left = np.zeros(len(frame))
        for i, stage in enumerate(stages):
            width, label = scale * hours[:, i], STAGES.get(stage, stage)
            axes.barh(shown, width, left=left, color=COLOURS[i % len(COLOURS)], label=label, height=0.62)
            left += width
        for at, total in enumerate(left):
            axes.annotate(in_hours(total), (total, at), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
        axes.set(xlabel=unit, xlim=(0, 1.12 * max(left)))
        axes.grid(axis="y", visible=False)
        legend_below(figure, axes, 4)
        said = "; ".join(f"{n} {in_hours(t)}" for n, t in zip(shown, left, strict=True))
        return [panel_of(figure, f"{unit.capitalize()} by stage and generator: {said}.", True, "cost")]

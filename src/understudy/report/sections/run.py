"""What was run on what: problems, failed jobs, cost, jobs with their times, provenance."""

import re
from typing import Any

import numpy as np
import pandas as pd
import yaml

from understudy.io.files import plain
from understudy.names import duration
from understudy.report.content import Block, Content, Details, Figure, Heading, Html, Section, Text
from understudy.report.data import ReportData, count
from understudy.report.plots.style import Panel, legend_below, one_plot, panel_of
from understudy.report.tables import Table

FAILURES = {
    "out_of_memory": "out of memory", "time_limit": "time limit", "nan": "a number became NaN", "bad_data": "bad data",
    "disk": "disk full or unreadable", "error": "error",
}  # fmt: skip
STAGES = {
    "generator": "training generators", "sample": "sampling", "segmenter": "training segmenters",
    "evaluate": "evaluation", "audit": "audit", "quality": "image quality", "annotations": "annotations",
    "phantom": "phantoms", "prepare": "preparing slices", "report": "report",
}  # fmt: skip
COLOURS = ["#3569A8", "#AA3377", "#1B7A6B", "#D55E00", "#8A6D00", "#5B4FBF", "#8A8A8A", "#222222", "#7FB3DF", "#E3B0CC"]
NOT_OF_ONE = "all generators"


def section(content: Content) -> Section:
    """Everything about the run."""
    data = content.data
    failed, lacking, _ = failures(data)
    provenance, problems, study = (data.hide(plain(v)) for v in (data.provenance, data.problems, data.study))
    blocks: list[Block] = []
    if problems:
        columns = ["patient", "severity", "problem", "fix", "file"]
        body = [[str(p.get(c, "")) for c in columns] for p in problems]
        frame, header = pd.DataFrame(body, columns=columns), [c.capitalize() for c in columns]
        blocks.append(Table("problems", "Problems found in the input", "", header, body, frame, len(columns)))
    if failed:
        rows = [{**job, "message": job["message"].split("\n")[0]} for job in failed]
        body = [
            [j["name"], j["stage"], FAILURES.get(j["failure"], j["failure"] or "error"), j["message"]] for j in rows
        ]
        note = "Jobs that failed after every retry. No number of this page comes from them."
        header = ["Job", "Stage", "Why", "Message"]
        blocks.append(Table("failed", "Failed jobs", note, header, body, pd.DataFrame(rows), 4))
    if cost := cost_table(data):
        blocks += [Heading("Cost"), Figure(cost_panels(cost)), cost]
    if known := _flat({k: v for k, v in provenance.items() if k != "seeds"}):
        blocks += [Heading("Machine, software, hashes"), Html("provenance.html.j2", {"entries": known})]
    if seeds := _flat(provenance.get("seeds", {})):
        blocks.append(Details("Seeds of all jobs", [Html("provenance.html.j2", {"entries": seeds})]))
    if jobs := job_table(data):
        blocks.append(Details("Jobs, times and memory", [jobs], len(jobs.body) <= 12))
    text = yaml.safe_dump(study, sort_keys=False, allow_unicode=True)
    command = str(provenance.get("command", "understudy run study.yaml"))
    again = "Same study file, data and version: same splits, pictures and numbers (on the same kind of device)."
    blocks += [
        Details("The study file, every value resolved", [Html("code.html.j2", {"text": text})]),
        Heading("To do it again"), Html("code.html.j2", {"text": command}), Text(again, "quiet"),
    ]  # fmt: skip
    numbers = {"failed": failed, "missing_trainings": lacking, "study": study, "provenance": provenance}
    numbers["problems"] = problems
    return Section("run", "What was run on what", "What was run", blocks, numbers)


def failures(data: ReportData) -> tuple[list[dict[str, str]], list[dict[str, Any]], list[str]]:
    """Jobs that failed for good, and planned trainings without scores.

    Returns:
        Failed jobs (name, stage, failure, message); settings that lack trainings (setting, label, planned, scored);
        both in words.
    """
    failed: list[dict[str, str]] = []
    lacking: list[dict[str, Any]] = []
    said: list[str] = []
    if "state" in data.jobs:
        rows = data.jobs[data.jobs["state"] == "failed"].reindex(columns=["name", "stage", "failure", "message"])
        failed = data.hide(rows.map(_text).to_dict(orient="records"))
    if failed:
        kinds = pd.Series([job["stage"] for job in failed]).value_counts()
        parts = ", ".join(f"{n} of the stage {stage}" for stage, n in kinds.items())
        said.append(f"{count(len(failed), 'job')} failed ({parts}); the list is under “What was run”.")
    if len(data.planned):
        asked = data.planned.groupby("setting")["repeat"].nunique()
        there = data.scores.groupby("setting")["repeat"].nunique() if len(data.scores) else pd.Series(dtype=int)
        lacking = [
            {"setting": s.id, "label": s.label, "planned": int(asked[s.id]), "scored": int(there.get(s.id, 0))}
            for s in data.every_setting
            if s.id in asked.index and there.get(s.id, 0) < asked[s.id]
        ]
    if lacking:
        lost = sum(m["planned"] - m["scored"] for m in lacking)
        few = "; ".join(f"{m['label']}: {m['scored']} of {m['planned']}" for m in lacking[:4])
        more = f"; and {count(len(lacking) - 4, 'other setting')}" if len(lacking) > 4 else ""
        said.append(
            f"Incomplete: {count(lost, 'training')} of those asked for {'has' if lost == 1 else 'have'} no scores"
            f" ({few}{more}). Means are over the trainings that are there; a setting without any is a – in the paper's"
            " tables. Run the study again to make what is missing."
        )
    return failed, lacking, said


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)  # NaN differs from itself


def job_table(data: ReportData) -> Table | None:
    """Time and memory of every job; None if none is known."""
    if data.jobs.empty:
        return None
    hidden = {c: [data.hide(_text(v)) for v in data.jobs[c]] for c in ("name", "message") if c in data.jobs}
    jobs = data.jobs.assign(**hidden)
    numbers = jobs.reindex(columns=["seconds", "peak_rss_mb"]).apply(pd.to_numeric, errors="coerce").to_numpy(float)
    body = [
        [j["name"], _text(j.get("stage")), duration(seconds), f"{peak / 1024:.2f} GB" if peak > 0 else "–",
         _text(j.get("state")), _text(j.get("id"))[:12]]
        for j, (seconds, peak) in zip(jobs.to_dict(orient="records"), numbers, strict=True)
    ]  # fmt: skip
    note, header = "", ["Job", "Stage", "Time", "Peak memory", "State", "Id"]
    memory = [_text(m) for m in jobs["memory"]] if "memory" in jobs else []
    if said := "; ".join(f"{name} ({how})" for name, how in zip(jobs["name"], memory, strict=False) if how):
        note = f"Memory ran out, and these jobs continued with smaller batches: {said}."
    return Table("jobs", f"Jobs, {duration(np.nansum(numbers[:, 0]))} together", note, header, body, jobs)


def cost_table(data: ReportData) -> Table | None:
    """Hours by stage and generator; None if no times are known.

    A job counts for the generator in its name; the others (real slices only) are a row of their own.
    """
    if data.jobs.empty or "seconds" not in data.jobs:
        return None
    known = sorted({s.generator for s in data.every_setting if s.generator}, key=len, reverse=True)

    def generator_of(name: str) -> str:
        found = (g for g in known if re.search(rf"(?<![A-Za-z0-9_]){re.escape(g)}(?![A-Za-z0-9_])", name))
        return next(found, NOT_OF_ONE)

    hours = pd.to_numeric(data.jobs["seconds"], errors="coerce") / 3600
    frame = data.jobs.assign(hours=hours, generator=[generator_of(str(name)) for name in data.jobs["name"]])
    wide = frame.pivot_table("hours", "generator", "stage", aggfunc="sum", fill_value=0.0, observed=True)
    if wide.empty or not wide.to_numpy().sum():
        return None
    names = [n for n in dict.fromkeys(s.generator for s in data.every_setting) if n in wide.index and n]
    stages = [*(s for s in STAGES if s in wide), *(s for s in wide if s not in STAGES)]
    wide = wide.loc[[*names, *(n for n in wide.index if n not in names)]]
    wide = wide[stages].assign(total=wide.sum(axis=1))
    full = pd.concat([wide, wide.sum().rename("together").to_frame().T])
    body = [[data.shown(str(n)), *map(in_hours, row)] for n, row in zip(full.index, full.to_numpy(), strict=True)]
    header = ["Generator", *(STAGES.get(str(s), str(s)).capitalize() for s in stages), "Together"]
    note = (
        f"Hours of all jobs on one worker, restarts included. “{NOT_OF_ONE.capitalize()}”: jobs of no single generator,"
        " such as trainings on real slices."
    )
    # a stage is called like the first column, "generator"
    numbers = full.rename(columns=lambda c: f"{c}_hours").rename_axis("generator").reset_index()
    return Table("cost", "Cost, hours", note, header, body, numbers)


def in_hours(value: float) -> str:
    """E.g. "0.034", "7.25", "1,204"; a dash for nothing."""
    if value < 0.0005:
        return "< 0.001" if value else "–"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def cost_panels(table: Table) -> list[Panel]:
    """Bars of hours, a bar a generator, coloured by stage."""
    names = [row[0] for row in table.body[:-1]][::-1]  # without "together"
    frame = table.frame.iloc[:-1][::-1].drop(columns=["generator", "total_hours"])
    frame = frame.loc[:, frame.sum() > 0]
    # an axis of hundredths of an hour says little
    unit, scale = ("minutes", 60) if frame.sum(axis=1).max() < 1 else ("hours", 1)
    with one_plot((7.2, 1.6 + 0.34 * len(frame))) as (figure, axes):
        left = np.zeros(len(frame))
        for i, column in enumerate(frame):
            stage, width = str(column).removesuffix("_hours"), scale * frame[column].to_numpy(float)
            label, colour = STAGES.get(stage, stage), COLOURS[i % len(COLOURS)]
            axes.barh(names, width, left=left, color=colour, label=label, height=0.62)
            left += width
        for at, total in enumerate(left):
            axes.annotate(in_hours(total), (total, at), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
        axes.set(xlabel=unit, xlim=(0, 1.12 * max(left)))
        axes.grid(axis="y", visible=False)
        legend_below(figure, axes, 4)
        said = "; ".join(f"{n} {in_hours(t)}" for n, t in zip(names, left, strict=True))
        return [panel_of(figure, f"{unit.capitalize()} by stage and generator: {said}.", True, "cost")]


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested values as (name, text), the command left out: it has a place of its own."""
    if isinstance(value, dict):
        parts = [(f"{name} · {key}" if name else str(key), inner) for key, inner in value.items()]
        return [line for key, inner in parts if key != "command" for line in _flat(inner, key)]
    if isinstance(value, list | tuple) and any(isinstance(inner, dict) for inner in value):
        parts = [(f"{name} {i}" if len(value) > 1 else name, inner) for i, inner in enumerate(value, start=1)]
        return [line for key, inner in parts for line in _flat(inner, key)]
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = re.sub(r"\b([0-9a-f]{16})[0-9a-f]{48}\b", r"\1…", text)  # hashes in full are in report.json
    return [(name, text)]

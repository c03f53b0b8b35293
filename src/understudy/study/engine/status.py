"""How far a study is, from the files in its folder: no model, no cohort and no running process is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.runtime.lazy import pandas as pd
from understudy.study.engine.jobs import folder_name, read_done, read_failed, read_quietly, state_of

STATUS_COLUMNS = ["stage", "id", "name", "state", "seconds", "estimate", "peak_rss_mb", "restarts", "detail"]
STATUS_COLUMNS += ["failure", "message", "memory"]


def study_status(out: str | Path) -> pd.DataFrame:
    """The jobs of the study in a folder, in their order, with the columns `STATUS_COLUMNS`.

    `seconds` so far, restarts included; `estimate` in seconds; `detail` is a training's last figures or an error's
    first line; `failure` and `message` are class and text of a failed job's error; `memory` is what was computed in
    smaller parts because memory ran out.

    Raises:
        UnderstudyError: the folder holds no study.
    """
    out = Path(out)
    if not (out / "plan.json").is_file():
        fix = "give the folder that `understudy run` made"
        raise UnderstudyError("no study was run in this folder", where=out.absolute(), fix=fix)
    rows = []
    for entry in read_json(out / "plan.json", dict)["jobs"]:
        folder = out / "jobs" / folder_name(entry["stage"], entry["id"])
        state = state_of(folder)
        failed = read_failed(folder) if state == "failed" else {}
        account = read_done(folder) or read_quietly(folder / "heartbeat.json")
        row = {name: entry[name] for name in ("stage", "id", "name")} | {"state": state, "estimate": entry["seconds"]}
        row |= {name: account.get(name) for name in ("seconds", "peak_rss_mb", "restarts")}
        row["failure"] = failed.get("class", "error") if failed else ""
        row |= {"message": failed.get("message", ""), "memory": memory_words(account), "detail": _detail(folder, state)}
        rows.append(row)
    return pd.DataFrame(rows, columns=STATUS_COLUMNS)


def memory_words(done: dict[str, Any]) -> str:
    """What a job computed in smaller parts because memory ran out, from its `done.json`; "" for nothing."""
    return "; ".join(f"{what}: {how}" for what, how in done.get("memory", {}).items())


def _detail(folder: Path, state: str) -> str:
    """A training's last figures, or the first line of an error."""
    if state == "done":
        return ""
    if state == "failed":
        return str(read_failed(folder).get("message", "")).split("\n")[0]
    progress = read_quietly(folder / "heartbeat.json").get("progress")
    if state == "running" and progress:  # e.g. "training generator 45 %, 109 images/s, loss_d 0.5"
        share = f" {100 * progress['done'] / progress['total']:.0f} %" if progress.get("total") else ""
        rate = f"{progress['rate']:.3g} {progress['unit']}/s"
        return ", ".join(words for words in (f"{progress['what']}{share}", rate, progress.get("figures", "")) if words)
    histories = sorted(folder.rglob("history.jsonl"))
    return _last_line(histories[0]) if histories else ""


def _last_line(path: Path) -> str:
    """The last whole line of a history as `name value` pairs."""
    with open(path, "rb") as handle:
        handle.seek(0, 2)
        handle.seek(max(0, handle.tell() - 4096))
        lines = handle.read().split(b"\n")[:-1]
    if not lines or not lines[-1].startswith(b"{"):
        return ""
    shown = list(json.loads(lines[-1]).items())[:4]
    return ", ".join(f"{name} {value:.4g}" for name, value in shown if isinstance(value, int | float))

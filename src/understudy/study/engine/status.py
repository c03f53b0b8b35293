"""How far a study is, from the files in its folder: no model, no cohort and no running process is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.runtime.lazy import pandas as pd
from understudy.study.engine.jobs import Job, State, folder_name, job_folder, read_done, read_failed, state_of

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
        raise UnderstudyError(
            "no study was run in this folder", where=out.absolute(), fix="give the folder that `understudy run` made"
        )
    jobs = read_json(out / "plan.json", dict)["jobs"]
    rows = [_row(out / "jobs" / folder_name(entry["stage"], entry["id"]), entry) for entry in jobs]
    return pd.DataFrame(rows, columns=STATUS_COLUMNS)


def jobs_of(out: str | Path) -> Sequence[Job]:
    """The jobs as they were planned when the study was last run.

    Raises:
        UnderstudyError: the folder holds no plan.
    """
    entries = read_json(Path(out) / "plan.json", dict)["jobs"]
    return [
        Job(**{**entry, "inputs": tuple(tuple(i) for i in entry["inputs"])})
        for entry in ({k: v for k, v in entry.items() if k != "id"} for entry in entries)
    ]


def state_in(out: str | Path, job: Job) -> State:
    """The state of a job in a folder of results."""
    return state_of(job_folder(out, job))


def _row(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    state = state_of(folder)
    failed = read_failed(folder) if state == "failed" else {}
    account = read_done(folder) or heartbeat(folder)
    return {
        "stage": entry["stage"],
        "id": entry["id"],
        "name": entry["name"],
        "state": state,
        "seconds": account.get("seconds"),
        "estimate": entry["seconds"],
        "peak_rss_mb": account.get("peak_rss_mb"),
        "restarts": account.get("restarts"),
        "detail": detail(folder, state),
        "failure": failed.get("class", "error") if failed else "",
        "message": failed.get("message", ""),
        "memory": memory_words(account),
    }


def memory_words(done: dict[str, Any]) -> str:
    """What a job computed in smaller parts because memory ran out, from its `done.json`; "" for nothing."""
    return "; ".join(f"{what}: {how}" for what, how in done.get("memory", {}).items())


def detail(folder: Path, state: str) -> str:
    """A training's last figures, or the first line of an error."""
    if state == "failed":
        return str(_quietly(folder / "failed.json").get("message", "")).split("\n")[0]
    if state == "done":
        return ""
    if state == "running" and (told := heartbeat(folder).get("progress")):
        return progress_words(told)
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


def progress_words(told: dict[str, Any]) -> str:
    """E.g. "training generator 45 %, 109 images/s, loss_d 0.5", from a heartbeat."""
    share = f" {100 * told['done'] / told['total']:.0f} %" if told.get("total") else ""
    words = [f"{told['what']}{share}", f"{told['rate']:.3g} {told['unit']}/s", told.get("figures", "")]
    return ", ".join(word for word in words if word)


def heartbeat(folder: Path) -> dict[str, Any]:
    """The last `heartbeat.json` of a job that is not done; {} if there is none."""
    return _quietly(folder / "heartbeat.json")


def _quietly(path: Path) -> dict[str, Any]:
    """A JSON file of a job that may be starting or being killed: {} if it is not there or not whole."""
    try:
        return dict(read_json(path))
    except UnderstudyError:
        return {}

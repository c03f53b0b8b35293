"""Does a metric predict Dice? A row a snapshot from the folders of studies, and each metric's correlation with Dice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, write_text
from understudy.metrics.association import FEWEST, FEWEST_RUNS, Association, associate, draw, smallest_p
from understudy.metrics.bootstrap import holm
from understudy.metrics.overlap import apply_policy
from understudy.metrics.scores import WHOLE, class_names
from understudy.quality.metrics import label_of
from understudy.report.sections.correlation import scatter
from understudy.study.engine.jobs import Job, job_folder, read_done, saved_jobs

KEYS = ("snapshot", "run", "kimg", "dice")

Finished = list[tuple[Job, Path]]  # jobs that are done, with their folders
Scores = NDArray[np.float64]  # [snapshots, patients], NaN for patients of other studies


@dataclass(frozen=True)
class Correlations:
    """What was found."""

    snapshots: pd.DataFrame  # a row each: snapshot, run, kimg, dice, and a column a metric
    # a row a metric: `wanted` (see there), the fields of `Association`, both p adjusted for the number of metrics
    # (Holm); those that agree most with the Dice first
    table: pd.DataFrame
    words: list[str]  # what these snapshots can show at all

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, null where undefined."""

        def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
            return [
                {str(k): None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
                for row in frame.to_dict(orient="records")
            ]

        about = {"format": "understudy-correlate-1", "words": self.words}
        return about | {"metrics": records(self.table), "snapshots": records(self.snapshots)}


def correlate(
    sources: Sequence[str | Path],
    training: str = "synthetic",
    segmenter: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Correlations:
    """Correlates every metric with Dice.

    Args:
        sources: folders of studies, or one CSV of one's own with the columns snapshot, dice, perhaps run and kimg, and
            a column a metric.
        training: "synthetic" or "both": what the segmenters whose Dice counts were trained on.
        segmenter: its name; None: the study's first.
        resamples, seed: of the bootstrap.

    Raises:
        UnderstudyError: no study, or too few snapshots with a Dice and a metric.
    """
    paths = [Path(s) for s in sources]
    tables = [path for path in paths if path.suffix == ".csv"]
    if tables and len(paths) > 1:
        raise UnderstudyError("a CSV stands alone", where=tables[0], fix="give one CSV, or folders of studies")
    if tables:
        snapshots, scores = _from_csv(tables[0])
    else:
        found = [_of_study(path, training, segmenter) for path in paths]
        snapshots, by_patient = (pd.concat(frames, ignore_index=True) for frames in zip(*found, strict=True))
        scores = by_patient.to_numpy(np.float64)
    if len(snapshots) < FEWEST:
        what = f"{len(snapshots)} snapshots with a Dice: at least {FEWEST} are needed"
        fix = "keep more snapshots of a training (`generators: {NAME: {snapshots: 8}}`), or give more studies"
        raise UnderstudyError(what, where=", ".join(map(str, paths)), fix=fix)
    return _correlated(snapshots, scores, resamples, seed)


def correlate_jobs(jobs: Mapping[str, Path]) -> Correlations | None:
    """The same of the finished jobs (id -> folder) of one study; None if no generator has both a Dice and a metric."""
    read: dict[str, Job] = {}
    for job_id, folder in jobs.items():
        content = {name: value for name, value in read_json(folder / "spec.json").items() if name != "id"}
        read[job_id] = Job(**{**content, "inputs": tuple(tuple(entry) for entry in content["inputs"])})
    snapshots, by_patient = _snapshots("study", read, jobs, "synthetic", None)
    if snapshots.empty or not set(snapshots) - set(KEYS):
        return None
    return _correlated(snapshots, by_patient.to_numpy(np.float64))


def _correlated(snapshots: pd.DataFrame, scores: Scores, resamples: int = 2000, seed: int = 0) -> Correlations:
    metrics = [c for c in snapshots if c not in KEYS] + (["kimg"] if snapshots["kimg"].notna().any() else [])
    runs = pd.factorize(snapshots["run"])[0].astype(np.int64)
    draws = draw(scores, runs, resamples, seed)
    rows = []
    for metric in metrics:
        values = snapshots[metric].to_numpy(np.float64)
        numbers = asdict(associate(values, scores, runs, draws, resamples, seed))
        rows.append({"metric": metric, "wanted": wanted(str(metric)), **numbers})
    table = pd.DataFrame(rows, columns=["metric", "wanted", *Association.__dataclass_fields__])
    for p in ("p", "p_within"):
        table[f"{p}_holm"] = holm(table[p].where(table["metric"] != "kimg").to_numpy(np.float64))
    order = _agreement(table).sort_values(ascending=False, kind="stable").index
    table = table.loc[order].reset_index(drop=True)
    return Correlations(snapshots, table, _words(snapshots, table, scores.shape[1]))


def wanted(metric: str) -> int:
    """The sign that a useful metric's correlation with Dice has; 0 where either would do (a column of one's own).

    Example:
        >>> wanted("quality:unet:frechet_distance"), wanted("quality:unet:coverage"), wanted("mine")
        (-1, 1, 0)
    """
    room, _, name = metric.partition(":")
    if metric == "kimg":
        return 1
    if room == "annotations":  # all are distances from the real annotations
        return -1
    better = label_of(name.rpartition(":")[2]).better
    return 0 if room != "quality" or better is None else 1 if better else -1


def _agreement(table: pd.DataFrame) -> pd.Series:
    """Spearman, positive where the metric speaks for the sets that train well."""
    found: pd.Series = table["spearman"].where(table["wanted"] >= 0, -table["spearman"])
    return found.where(table["wanted"] != 0, table["spearman"].abs())


def write_correlations(found: Correlations, out: Path) -> None:
    """Writes `correlate.json`, `correlations.csv`, `snapshots.csv` and `scatter.svg`."""
    text = json.dumps(found.as_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(out / "correlate.json", text)
    write_text(out / "correlations.csv", found.table.to_csv(index=False))
    write_text(out / "snapshots.csv", found.snapshots.to_csv(index=False))
    write_text(out / "scatter.svg", scatter(found.snapshots, found.table).svg.decode())


# --- where the numbers come from --------------------------------------------------------------------------------------


def _from_csv(path: Path) -> tuple[pd.DataFrame, Scores]:
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UnderstudyError(f"the table cannot be read ({error})", where=path, fix="give a CSV file") from error
    if "dice" not in frame or "snapshot" not in frame:
        fix = "name the columns snapshot, dice, perhaps run and kimg; all others with numbers are metrics"
        raise UnderstudyError("the table has no column `snapshot` or no column `dice`", where=path, fix=fix)
    numbers = [str(c) for c in frame if pd.api.types.is_numeric_dtype(frame[c])]
    for column in ("dice", "kimg"):
        if column in frame and column not in numbers:
            fix = "write numbers, with a point; leave unknown ones empty"
            raise UnderstudyError(f"the column {column} holds something that is no number", where=path, fix=fix)
    frame["run"] = frame["run"].astype(str) if "run" in frame else "all"
    if "kimg" not in frame:
        frame["kimg"] = np.nan
    return frame[[*KEYS, *(c for c in numbers if c not in KEYS)]], frame["dice"].to_numpy(np.float64)[:, None]


def _of_study(out: Path, training: str, segmenter: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a generator that was tested, and its Dice by patient (rows the same, columns patients)."""
    if not (out / "plan.json").is_file():
        fix = "give the folder that `understudy run` made"
        raise UnderstudyError("no study was run in this folder", where=out.absolute(), fix=fix)
    jobs = {job.id: job for job in saved_jobs(out)}
    if any(job.stage == "overview" for job in jobs.values()):
        what = "the study has several cohorts, whose generators are not states of the same training"
        raise UnderstudyError(what, where=out, fix="give the folder of a study with one cohort")
    folders = {i: job_folder(out, job) for i, job in jobs.items()}
    done = {i: folder for i, folder in folders.items() if read_done(folder) is not None}
    snapshots, by_patient = _snapshots(out.name, jobs, done, training, segmenter)
    by_patient.columns = pd.Index([f"{out.absolute()}:{c}" for c in by_patient.columns])
    return snapshots, by_patient


def _snapshots(
    label: str, jobs: Mapping[str, Job], done: Mapping[str, Path], training: str, segmenter: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a generator that was tested, and its Dice by patient, from all jobs and the folders of those done."""
    finished = [(jobs[i], folder) for i, folder in done.items()]
    dice = _dice_by_generator(label, finished, training, segmenter)
    rows, scores = [], []
    for sampled in (job for job, _ in finished if job.stage == "sample" and job.spec["name"] in dice):
        name, kimg = str(sampled.spec["name"]), math.nan
        run = name  # of a folder of images
        for trained in [jobs[i] for role, i in sampled.inputs if role == "generator" and i in jobs][:1]:
            run = str(trained.spec["name"])
            whole = trained.spec.get("training", {}).get("kimg", math.nan)
            kimg = float(sampled.spec.get("snapshot_kimg", whole))
        row = {"snapshot": name, "run": f"{label}:{run}", "kimg": kimg, "dice": float(dice[name].mean())}
        rows.append(row | _metrics_of(finished, name))
        scores.append(dice[name])
    return pd.DataFrame(rows, columns=None if rows else list(KEYS)), pd.DataFrame(scores).reset_index(drop=True)


def _dice_by_generator(label: str, done: Finished, training: str, segmenter: str | None) -> dict[str, pd.Series]:
    """Generator -> Dice of each test patient: whole volumes, BraTS rule, mean over classes and repeats."""
    whole = {"training": training, "real_share": None, "real_fraction": 1}  # all patients and slices
    cells = [(whole | {"training": ""} | job.spec["cell"], folder) for job, folder in done if job.stage == "evaluate"]
    cells = [(cell, folder) for cell, folder in cells if whole.items() <= cell.items()]
    networks = list(dict.fromkeys(cell["segmenter"] for cell, _ in cells))
    network = segmenter or (networks[0] if networks else "")
    if segmenter is not None and segmenter not in networks:
        what = f"no segmenter {segmenter!r} trained on {training} slices was tested"
        raise UnderstudyError(what, where=label, fix=f"use one of {', '.join(networks) or '(none)'}")
    augmented = any(cell["augmentation"] for cell, _ in cells if cell["segmenter"] == network)
    rows: dict[str, list[pd.DataFrame]] = {}
    for cell, folder in cells:
        if (cell["segmenter"], cell["augmentation"]) == (network, augmented):
            rows.setdefault(cell["generator"], []).append(pd.read_parquet(folder / "scores.parquet"))
    found = {}
    for name, frames in rows.items():
        scores = pd.concat(frames)
        scope = WHOLE if (scores["scope"] == WHOLE).any() else scores["scope"].iloc[0]
        scored = apply_policy(scores[scores["scope"] == scope])
        scored = scored[scored["class_name"].isin(class_names(scored))]
        found[name] = scored.groupby("subject")["dice"].mean()
    return found


def _metrics_of(done: Finished, name: str) -> dict[str, float]:
    """Every quality and annotation metric of a generator, by a name that says which."""
    found: dict[str, float | None] = {}
    for job, folder in ((j, f) for j, f in done if j.spec.get("name") == name):
        if job.stage == "quality":
            for row in read_json(folder / "quality.json")["rows"]:
                if row["channel"] in ("mean", "all"):  # the average over channels, or all together
                    found[f"quality:{row['extractor']}:{row['metric']}"] = row["value"]
        if job.stage == "annotations":
            content = read_json(folder / "annotations.json")
            found |= {f"annotations:{d['measure']}:{d['class_name']}": d["value"] for d in content["distances"]}
            for row in (row for row in content["values"] if row["measure"] == "code_distance"):
                found["annotations:code_distance"] = row["synthetic"]
    return {metric: math.nan if value is None else float(value) for metric, value in found.items()}


# --- words ------------------------------------------------------------------------------------------------------------


def _words(snapshots: pd.DataFrame, table: pd.DataFrame, patients: int) -> list[str]:
    n, runs, words = len(snapshots), snapshots["run"].nunique(), []
    low, high = float(snapshots["dice"].min()), float(snapshots["dice"].max())
    if high < 0.1 or high - low < 0.03:
        words.append(
            f"THERE IS NOTHING TO PREDICT HERE: Dice lies between {low:.3f} and {high:.3f}, so that what correlates"
            " is an accident, or from how the trainings differ; train the segmenters, and the generators, for longer."
        )
    words.append(f"{n} snapshots of {runs} training{'s' if runs > 1 else ''}; {len(table)} metrics.")
    if n <= 7:
        words.append(
            f"With {n} snapshots only the perfect order and its reverse reach the smallest p there is, 2/{n}! ="
            f" {smallest_p(n):.2g}" + (": one swap of neighbours more, and p is above 0.05." if n == 5 else ".")
        )
    if runs < FEWEST_RUNS:
        words.append(f"{runs} trainings are too few to be drawn: the intervals say nothing about other generators.")
    words.append(
        "Snapshots of one training improve together: a metric says something only if it does better than `kimg`, the"
        " mere length of the training, and also within trainings: `within` is Spearman's correlation inside each"
        " training, averaged, `p_within` how often random orders of its snapshots give as much. Both p take snapshots"
        " as exchangeable, which those of one training are not: read them as the most that can be said."
    )
    if patients > 1:
        words.append(f"The Dice is a mean over {patients} test patients, who are drawn in the intervals as well.")
    if part := int(((table["n"] < n) & table["spearman"].notna()).sum()):
        words.append(f"{part} metrics are undefined for some snapshots (n below {n}) and rank the others alone.")
    agreement = _agreement(table)
    of_length = table.loc[table["metric"] == "kimg", "spearman"].dropna()
    if len(of_length):
        better = int((agreement[table["metric"] != "kimg"] > abs(of_length.iloc[0])).sum())
        words.append(
            f"The length of the training alone has Spearman {of_length.iloc[0]:+.2f}; {better} of {len(table) - 1}"
            " metrics agree better with the Dice."
        )
    wrong = table.loc[agreement < -0.3, "metric"].iloc[::-1].tolist()
    if wrong:
        named = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        words.append(f"{len(wrong)} metrics go the wrong way by more than 0.3 and stand last in the table: {named}.")
    return words

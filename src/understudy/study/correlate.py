"""Does a metric predict Dice? A row a snapshot from the folders of studies, and each metric's correlation with Dice."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import plain, read_json, reading, write_text
from understudy.io.foreign import TEXT
from understudy.io.seals import check_sealed
from understudy.metrics.association import FEWEST, FEWEST_RUNS, Association, associate, draw, smallest_p
from understudy.metrics.bootstrap import holm
from understudy.metrics.overlap import apply_policy
from understudy.metrics.scores import WHOLE, class_names, read_scores
from understudy.quality.metrics import label_of
from understudy.report.sections.correlation import scatter
from understudy.study.engine.jobs import job_folder, read_done, saved_jobs

KEYS = ("snapshot", "run", "kimg", "dice")

Done = list[tuple[dict[str, Any], Path]]  # `spec.json` of jobs that are done, and their folders


@dataclass(frozen=True)
class Correlations:
    """What was found."""

    snapshots: pd.DataFrame  # a row each: snapshot, run, kimg, dice, and a column a metric
    # a row a metric: `wanted` (see there), the fields of `Association`, both p adjusted for the number of metrics
    # (Holm); those that agree most with the Dice first
    table: pd.DataFrame
    words: list[str]  # what these snapshots can show at all


def correlate(
    sources: Sequence[str | Path], training: str = "synthetic", segmenter: str | None = None, resamples: int = 2000,
    seed: int = 0,
) -> Correlations:  # fmt: skip
    """Correlates every metric with Dice; an error for fewer than four snapshots.

    Args:
        sources: folders of studies, or one CSV with the columns snapshot, dice, perhaps run and kimg, and metrics.
        training: "synthetic" or "both": what the segmenters whose Dice counts were trained on.
        segmenter: its name; None: the study's first.
        resamples, seed: of the bootstrap.
    """
    paths = [Path(s) for s in sources]
    tables = [path for path in paths if path.suffix == ".csv"]
    if tables and len(paths) > 1:
        raise UnderstudyError("a CSV stands alone", where=tables[0], fix="give one CSV, or folders of studies")
    found = [_from_csv(path) if tables else _from_study(path, training, segmenter) for path in paths]
    # patients are columns: those of other studies are NaN
    snapshots, scores = (pd.concat(frames, ignore_index=True) for frames in zip(*found, strict=True))
    if len(snapshots) < FEWEST:
        what = f"{len(snapshots)} snapshots with a Dice: at least {FEWEST} are needed"
        fix = "keep more snapshots of a training (`generators: {NAME: {snapshots: 8}}`), or give more studies"
        raise UnderstudyError(what, where=", ".join(map(str, paths)), fix=fix)
    return _correlated(snapshots, scores.to_numpy(np.float64), resamples, seed)


def correlate_jobs(folders: Iterable[Path]) -> Correlations | None:
    """The same of the finished jobs of one study; None if no generator has both a Dice and a metric."""
    snapshots, scores = _snapshots("study", folders, "synthetic", None)
    if snapshots.empty or not set(snapshots) - set(KEYS):
        return None
    return _correlated(snapshots, scores.to_numpy(np.float64))


def write_correlations(found: Correlations, out: Path) -> None:
    """Writes `correlate.json`, `correlations.csv`, `snapshots.csv` and `scatter.svg`."""
    content = {"format": "understudy-correlate-1", "words": found.words}
    content |= {"metrics": plain(found.table), "snapshots": plain(found.snapshots)}
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(out / "correlate.json", text)
    write_text(out / "correlations.csv", found.table.to_csv(index=False))
    write_text(out / "snapshots.csv", found.snapshots.to_csv(index=False))
    write_text(out / "scatter.svg", scatter(found.snapshots, found.table).svg.decode())


def _correlated(
    snapshots: pd.DataFrame, scores: NDArray[np.float64], resamples: int = 2000, seed: int = 0
) -> Correlations:  # scores [snapshots, patients], the latter NaN where they are of another study
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
    """The sign of a useful metric's correlation with Dice, -1 of a distance; 0 for a column of one's own."""
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


def _from_csv(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a snapshot that was tested, and its Dice by patient; the same of the functions below."""
    with reading(path, TEXT):
        frame = pd.read_csv(path)
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
    return frame[[*KEYS, *(c for c in numbers if c not in KEYS)]], frame[["dice"]]


def _from_study(out: Path, training: str, segmenter: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    if not (out / "plan.json").is_file():
        fix = "give the folder that `understudy run` made"
        raise UnderstudyError("no study was run in this folder", where=out.absolute(), fix=fix)
    jobs = saved_jobs(out)
    if any(job.stage == "overview" for job in jobs):
        what = "the study has several cohorts, whose generators are not states of the same training"
        raise UnderstudyError(what, where=out, fix="give the folder of a study with one cohort")
    done = [folder for job in jobs if read_done(folder := job_folder(out, job)) is not None]
    for folder in done:
        check_sealed(folder)
    snapshots, scores = _snapshots(out.name, done, training, segmenter)
    return snapshots, scores.add_prefix(f"{out.absolute()}:")


def _snapshots(
    label: str, folders: Iterable[Path], training: str, segmenter: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    done = [(read_json(folder / "spec.json"), folder) for folder in folders]
    by_id = {job["id"]: job["spec"] for job, _ in done}
    dice = _dice_by_generator(label, done, training, segmenter)
    rows, scores = [], []
    for job in (job for job, _ in done if job["stage"] == "sample" and job["spec"]["name"] in dice):
        run = name = str(job["spec"]["name"])  # of a folder of images
        kimg = math.nan
        for trained in [by_id[i] for role, i in job["inputs"] if role == "generator" and i in by_id][:1]:
            run = str(trained["name"])
            kimg = float(job["spec"].get("snapshot_kimg", trained.get("training", {}).get("kimg", math.nan)))
        row = {"snapshot": name, "run": f"{label}:{run}", "kimg": kimg, "dice": float(dice[name].mean())}
        rows.append(row | _metrics_of(done, name))
        scores.append(dice[name])
    return pd.DataFrame(rows, columns=None if rows else list(KEYS)), pd.DataFrame(scores).reset_index(drop=True)


def _dice_by_generator(label: str, done: Done, training: str, segmenter: str | None) -> dict[str, pd.Series]:
    """Generator -> Dice of each test patient: whole volumes, BraTS rule, mean over classes and repeats."""
    whole = {"training": training, "real_share": None, "real_fraction": 1}  # all patients and slices
    tested = [(whole | {"training": ""} | job["spec"]["cell"], f) for job, f in done if job["stage"] == "evaluate"]
    cells = [(cell, folder) for cell, folder in tested if whole.items() <= cell.items()]
    networks = list(dict.fromkeys(cell["segmenter"] for cell, _ in cells))
    network = segmenter or (networks[0] if networks else "")
    if segmenter is not None and segmenter not in networks:
        what = f"no segmenter {segmenter!r} trained on {training} slices was tested"
        raise UnderstudyError(what, where=label, fix=f"use one of {', '.join(networks) or '(none)'}")
    augmented = any(cell["augmentation"] for cell, _ in cells if cell["segmenter"] == network)
    rows: dict[str, list[pd.DataFrame]] = {}
    for cell, folder in cells:
        if (cell["segmenter"], cell["augmentation"]) == (network, augmented):
            rows.setdefault(cell["generator"], []).append(read_scores(folder / "scores.parquet"))
    found = {}
    for name, frames in rows.items():
        scores = pd.concat(frames)
        scope = WHOLE if (scores["scope"] == WHOLE).any() else scores["scope"].iloc[0]
        scored = apply_policy(scores[scores["scope"] == scope])
        scored = scored[scored["class_name"].isin(class_names(scored))]
        found[name] = scored.groupby("subject")["dice"].mean()
    return found


def _metrics_of(done: Done, name: str) -> dict[str, float]:
    """Every quality and annotation metric of a generator, by a name that says which."""
    found: dict[str, float | None] = {}
    for job, folder in ((j, f) for j, f in done if j["spec"].get("name") == name):
        if job["stage"] == "quality":
            for row in read_json(folder / "quality.json")["rows"]:
                if row["channel"] in ("mean", "all"):  # the average over channels, or all together
                    found[f"quality:{row['extractor']}:{row['metric']}"] = row["value"]
        if job["stage"] == "annotations":
            content = read_json(folder / "annotations.json")
            found |= {f"annotations:{d['measure']}:{d['class_name']}": d["value"] for d in content["distances"]}
            for row in (row for row in content["values"] if row["measure"] == "code_distance"):
                found["annotations:code_distance"] = row["synthetic"]
    return {metric: math.nan if value is None else float(value) for metric, value in found.items()}


def _words(snapshots: pd.DataFrame, table: pd.DataFrame, patients: int) -> list[str]:
    """What these snapshots can show."""
    n, runs, words = len(snapshots), snapshots["run"].nunique(), []
    low, high = float(snapshots["dice"].min()), float(snapshots["dice"].max())
    if high < 0.1 or high - low < 0.03:
        words.append(
            f"THERE IS NOTHING TO PREDICT HERE: Dice lies between {low:.3f} and {high:.3f}, so that what correlates"
            " is an accident, or from how the trainings differ; train the segmenters, and the generators, for longer."
        )
    words.append(f"{n} snapshots of {runs} training{'s' if runs > 1 else ''}; {len(table)} metrics.")
    if n <= 7:
        swap = ": one swap of neighbours more, and p is above 0.05" if n == 5 else ""
        orders = f"With {n} snapshots only the perfect order and its reverse reach the smallest p there is"
        words.append(f"{orders}, 2/{n}! = {smallest_p(n):.2g}{swap}.")
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
    agreement, of_length = _agreement(table), table.loc[table["metric"] == "kimg", "spearman"].dropna()
    if len(of_length):
        alone, better = of_length.iloc[0], int((agreement[table["metric"] != "kimg"] > abs(of_length.iloc[0])).sum())
        agree = f"{better} of {len(table) - 1} metrics agree better with the Dice"
        words.append(f"The length of the training alone has Spearman {alone:+.2f}; {agree}.")
    wrong = table.loc[agreement < -0.3, "metric"].iloc[::-1].tolist()
    if wrong:
        named = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        words.append(f"{len(wrong)} metrics go the wrong way by more than 0.3 and stand last in the table: {named}.")
    return words

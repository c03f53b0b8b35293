"""From the answers and the key to Table 6 and what may be concluded from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.reading.integrity import checked_answers, checked_study
from understudy.reading.statistics import (
    Equivalence,
    Rate,
    auc,
    bootstrap,
    cohen_kappa,
    detection_errors,
    difference,
    fleiss_kappa,
    rate,
    signal_detection,
)
from understudy.reading.store import FILE

UNSURE = 1  # confidence of an answer that was given without one


def read_answers(study: Path, key: Path) -> tuple[dict[str, Any], dict[str, Any], pd.DataFrame]:
    """Study, key, and the answers that count: one row a reader and item, the last that was given.

    `about["head"]` is the head of the answers' chain.

    Raises:
        UnderstudyError: no study, another study's key, anything that was changed, no answers.
    """
    about, truth = checked_study(study, key)
    rows, head = checked_answers(study)
    last = pd.DataFrame(rows).drop_duplicates(["reader", "item"], keep="last").reset_index(drop=True)
    values = pd.DataFrame([json.loads(v) for v in last["value"]])
    answers = pd.concat([last.drop(columns=["value", "nonce"]), values], axis=1)
    unknown = set(answers["item"]) - set(truth["items"])
    if unknown:
        raise UnderstudyError(
            f"{len(unknown)} answers are about items that are not in the key", where=study / FILE,
            fix="use the key of this study",
        )  # fmt: skip
    return {**about, "head": head}, truth, answers


def analyse(study: Path, key: Path, level: float = 0.95) -> dict[str, Any]:
    """Everything that `understudy reading analyse` prints, as plain JSON values.

    Raises:
        UnderstudyError: as `read_answers`.
    """
    about, truth, answers = read_answers(study, key)
    if about["kind"] == "segmentations":
        return _of_segmentations(about, truth, answers, level)
    entries = pd.DataFrame.from_dict(truth["items"], orient="index").rename_axis("item").reset_index()
    data = answers.merge(entries, on="item")
    data["case"] = data["repeat_of"].where(data["repeat_of"] != "", data["item"])
    first = data[data["repeat_of"] == ""]
    counts = {
        str(source): (int((part["call"] == "real").sum()), len(part))
        for source, part in first.groupby("source", sort=False)
    }
    if "real" not in counts or len(counts) < 2:
        raise UnderstudyError(
            "there are answers about one kind of slice only, so nothing can be compared",
            where=study, fix="let readers go on, then analyse again",
        )  # fmt: skip
    result = of_counts(counts, about["margin"], level)
    result |= {"readers": _readers(data, level, about["seed"]), "agreement": _agreement(data),
               "kind": about["kind"], "title": about["title"], "created": about["created"],
               "comments": _comments(data), "design": about["design"], "answers": len(answers), "items": len(entries),
               "key_sha256": about["key_sha256"], "answers_head": about["head"]}  # fmt: skip
    result["auc"] = _auc(first, level, about["seed"])
    if first["reader"].nunique() > 1 or clustered(first):
        _resample(result, first, about["margin"], about["seed"], level)
    return result


def of_counts(counts: Mapping[str, tuple[int, int]], margin: float, level: float = 0.95) -> dict[str, Any]:
    """The analysis of a table of counts alone, e.g. the paper's Table 6.

    Args:
        counts: source -> (called real, read); one source is "real".
        margin: of the equivalence test.
    """
    real = rate(*counts["real"], level)
    others = {name: entry for name, entry in counts.items() if name != "real"}
    called, read = (sum(entry[i] for entry in others.values()) for i in (0, 1))
    made = rate(called, read, level)
    value, low, high = difference(real, made)
    narrow = difference(rate(*counts["real"], 0.9), rate(called, read, 0.9))
    right = real.count + read - called
    test = Equivalence(narrow[1], narrow[2], margin)
    return {
        "software": f"understudy {__version__}",
        "level": level,
        "method": "independent cases: Wilson",
        "rows": [_row(name, counts[name], real, level) for name in ["real", *others]],
        "called_real": {"real": asdict(real), "synthetic": asdict(made)},
        "accuracy": asdict(rate(right, real.n + read, level)),
        "balanced_accuracy": (real.value + 1 - made.value) / 2,
        "sensitivity": asdict(rate(read - called, read, level)),
        "specificity": asdict(real),
        "called_synthetic": (real.n - real.count + read - called) / (real.n + read),
        "difference": {"value": value, "low": low, "high": high, "method": "Newcombe"},
        **_detection((read - called, read, real.n - real.count, real.n), level),
        "equivalence": {**asdict(test), "holds": test.holds, "method": "two one-sided tests at 5 %"},
    }


def _detection(table: tuple[int, int, int, int], level: float) -> dict[str, Any]:
    """d' and criterion with intervals for independent cases; hits, positives, alarms, negatives."""
    times = float(stats.norm.ppf((1 + level) / 2))
    named = zip(("d_prime", "criterion"), signal_detection(*table), detection_errors(*table), strict=True)
    return {
        name: {"value": value, "low": value - times * error, "high": value + times * error}
        for name, value, error in named
    }


def _row(source: str, entry: tuple[int, int], real: Rate, level: float) -> dict[str, Any]:
    found: Rate = rate(*entry, level)
    row = {"source": source, "n": found.n, "called_real": found.count, "called_synthetic": found.n - found.count,
           "rate": found.value, "low": found.low, "high": found.high}  # fmt: skip
    if source != "real":
        value, low, high = difference(real, found)
        row["difference"] = {"value": value, "low": low, "high": high}
    return row


def _scores(part: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How surely synthetic: confidence with the sign of the call."""
    sure = pd.to_numeric(part["confidence"], errors="coerce").fillna(UNSURE).to_numpy(float)
    return np.where(part["call"] == "synthetic", sure, -sure)


def _auc(first: pd.DataFrame, level: float, seed: int) -> dict[str, Any]:
    """Of each reader with an interval, and the mean over readers."""
    found = {}
    for reader, part in first.groupby("reader"):
        real = part["source"] == "real"
        value, low, high = auc(_scores(part[real]), _scores(part[~real]), level)
        method = "DeLong"
        if clustered(part):
            (low, high), method = _tails(_draws(part, seed)[:, 2], level), BY_PATIENT
        found[str(reader)] = {"value": value, "low": low, "high": high, "method": method}
    return {"readers": found, "mean": {"value": float(np.nanmean([e["value"] for e in found.values()]))}}


def _readers(data: pd.DataFrame, level: float, seed: int) -> dict[str, Any]:
    found = {}
    for reader, part in data.groupby("reader"):
        first = part[part["repeat_of"] == ""]
        synthetic, said = first["source"] != "real", first["call"] == "synthetic"
        table = (
            int((said & synthetic).sum()),
            int(synthetic.sum()),
            int((said & ~synthetic).sum()),
            int((~synthetic).sum()),
        )
        detection = _detection(table, level)
        accuracy = asdict(rate(int((said == synthetic).sum()), len(first), level))
        if clustered(first):
            drawn = _draws(first, seed)
            accuracy["low"], accuracy["high"] = _tails(_accuracy(drawn, first), level)
            _redetect(detection, drawn, table, level)
        found[str(reader)] = {
            "read": len(first),
            "answered": len(part),
            "accuracy": accuracy,
            **detection,
            "intra_kappa": _intra(part),
            "seconds_median": float(part["seconds"].median()),
            "hours": float(part["seconds"].sum() / 3600),
            "comments": int((part["comment"].fillna("") != "").sum()),
        }
    return found


def _comments(data: pd.DataFrame) -> list[dict[str, Any]]:
    """What readers wrote, beside what they said and what was true."""
    written = data[data["comment"].fillna("") != ""]
    columns = ["reader", "item", "source", "call", "comment"]
    return [{name: str(row[name]) for name in columns} for row in written.to_dict("records")]


def _intra(part: pd.DataFrame) -> float:
    """Agreement of a reader with the answers that the same reader gave to the same cases."""
    calls = part.set_index("item")["call"]
    twice = part[(part["repeat_of"] != "") & part["repeat_of"].isin(calls.index)]
    return cohen_kappa([calls[i] for i in twice["repeat_of"]], list(twice["call"]))


def _agreement(data: pd.DataFrame) -> dict[str, Any]:
    """Between readers, on the cases that all of them have read."""
    first = data[data["repeat_of"] == ""]
    calls = first.pivot(index="case", columns="reader", values="call").dropna()
    if calls.shape[1] < 2 or calls.empty:
        return {}
    pairs = {f"{a}, {b}": cohen_kappa(list(calls[a]), list(calls[b])) for a, b in combinations(calls.columns, 2)}
    counts = np.stack([(calls == word).sum(axis=1) for word in ("real", "synthetic")], axis=1)
    return {"cases": len(calls), "cohen_kappa": pairs, "fleiss_kappa": fleiss_kappa(counts)}


BY_PATIENT = "bootstrap over readers and cases, real ones by patient"


def clustered(first: pd.DataFrame) -> bool:
    """Whether some patient is there with several slices, which are alike."""
    real = first[first["source"] == "real"].drop_duplicates("case")
    return bool(real["subject"].duplicated().any())


def _draws(first: pd.DataFrame, seed: int) -> Any:
    """`statistics.bootstrap` of answers."""
    said = first.assign(real=(first["call"] == "real").astype(float), score=_scores(first))
    called = said.pivot(index="reader", columns="case", values="real")
    scores = said.pivot(index="reader", columns="case", values="score")
    cases = first.drop_duplicates("case").set_index("case").loc[called.columns]
    is_real = (cases["source"] == "real").to_numpy()
    group = [f"of {s}" if r else f"case {c}" for c, s, r in zip(cases.index, cases["subject"], is_real, strict=True)]
    return bootstrap(called.to_numpy(float), scores.to_numpy(float), is_real, group, seed)


def _accuracy(drawn: Any, first: pd.DataFrame) -> Any:
    share = float((first["source"] == "real").mean())
    return share * drawn[:, 0] + (1 - share) * (1 - drawn[:, 1])


def _redetect(found: dict[str, Any], drawn: Any, table: tuple[int, int, int, int], level: float) -> None:
    """Puts intervals of the draws in the place of those of independent cases."""
    hits, alarms = ((1 - drawn[:, k]) * n for k, n in ((1, table[1]), (0, table[3])))
    z = [stats.norm.ppf((count + 0.5) / (n + 1)) for count, n in ((hits, table[1]), (alarms, table[3]))]
    for name, values in (("d_prime", z[0] - z[1]), ("criterion", -(z[0] + z[1]) / 2)):
        found[name]["low"], found[name]["high"] = _tails(values, level)


def _tails(drawn: Any, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resample(result: dict[str, Any], first: pd.DataFrame, margin: float, seed: int, level: float) -> None:
    """Puts intervals over readers and cases, real ones by patient, in the place of those of independent cases."""
    drawn = _draws(first, seed)
    real, made = drawn[:, 0], drawn[:, 1]
    result["method"] = BY_PATIENT
    for place, values in (
        (result["called_real"]["real"], real), (result["called_real"]["synthetic"], made),
        (result["specificity"], real), (result["sensitivity"], 1 - made),
        (result["accuracy"], _accuracy(drawn, first)), (result["difference"], real - made),
        (result["auc"]["mean"], drawn[:, 2]),
    ):  # fmt: skip
        place["low"], place["high"] = _tails(values, level)
    read = [int(result["called_real"][name]["n"]) for name in ("synthetic", "real")]
    _redetect(result, drawn, (0, read[0], 0, read[1]), level)
    for row in result["rows"]:
        if row["source"] == "real":
            row["low"], row["high"] = _tails(real, level)
            continue
        own = _draws(first[(first["source"] == row["source"]) | (first["source"] == "real")], seed)
        row["low"], row["high"] = _tails(own[:, 1], level)
        row["difference"]["low"], row["difference"]["high"] = _tails(own[:, 0] - own[:, 1], level)
    result["difference"]["method"] = BY_PATIENT
    test = Equivalence(*_tails(real - made, 0.9), margin)
    result["equivalence"] = {**asdict(test), "holds": test.holds, "method": f"90 % interval, {BY_PATIENT}"}


def _of_segmentations(
    about: dict[str, Any], truth: dict[str, Any], answers: pd.DataFrame, level: float
) -> dict[str, Any]:
    """Which of two models' segmentations is preferred, and the marks, by patient."""
    one, two = truth["pair"]
    rows = []
    for entry in answers.to_dict("records"):
        key = truth["items"][entry["item"]]
        preferred = entry["prefer"] if entry["prefer"] == "same" else key[entry["prefer"]]
        marks = {key[side]: entry[f"rating_{side.lower()}"] for side in "AB"}
        rows.append({"reader": entry["reader"], "subject": key["subject"], "preferred": preferred,
                     "better": {one: 1.0, two: 0.0}.get(preferred, 0.5), "one": marks[one],
                     "two": marks[two]})  # fmt: skip
    data = pd.DataFrame(rows)
    decided = int((data["preferred"] == one).sum()), int((data["preferred"] != "same").sum())
    by_patient = data.groupby("subject")["better"].mean().to_numpy()
    return {
        "software": f"understudy {__version__}", "kind": "segmentations", "title": about["title"],
        "created": about["created"], "pair": [one, two], "level": level,
        "answers": len(data), "readers": int(data["reader"].nunique()), "patients": len(by_patient),
        "preferred": {str(k): int(v) for k, v in data["preferred"].value_counts().items()},
        "first_of_decided": asdict(rate(*decided, level)),
        "first_by_patient": _mean_interval(by_patient, level, about["seed"]),
        "marks": {one: float(data["one"].mean()), two: float(data["two"].mean()),
                  "difference": _mean_interval(
                      (data["one"] - data["two"]).groupby(data["subject"]).mean().to_numpy(), level, about["seed"])},
        "key_sha256": about["key_sha256"], "answers_head": about["head"],
    }  # fmt: skip


def _mean_interval(values: Any, level: float, seed: int) -> dict[str, float]:
    """Mean over patients and its percentile bootstrap interval."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if not len(values):
        return {"value": math.nan, "low": math.nan, "high": math.nan}
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(len(values), size=(4000, len(values)))].mean(1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}

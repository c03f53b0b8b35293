"""From the answers and the key to Table 6 and what may be concluded from it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.reading import statistics as stats
from understudy.reading.folder import checked_study
from understudy.reading.store import FILE, checked_answers

BY_PATIENT = "bootstrap over readers and cases, real ones by patient"
_SOFTWARE = f"understudy {__version__}"


def analyse(study: Path, key: Path, level: float = 0.95) -> dict[str, Any]:
    """Everything that `understudy reading analyse` prints, as plain JSON values; raises if anything was changed."""
    about, truth, answers = read_answers(study, key)
    if about["kind"] == "segmentations":
        return _of_segmentations(about, truth, answers, level)
    entries = pd.DataFrame.from_dict(truth["items"], orient="index").rename_axis("item").reset_index()
    data = answers.merge(entries, on="item")
    data["case"] = data["repeat_of"].where(data["repeat_of"] != "", data["item"])
    sure = pd.to_numeric(data["confidence"], errors="coerce").fillna(1)  # a scale without confidence: all the same
    data["score"] = sure.where(data["call"] == "synthetic", -sure)  # how surely synthetic
    data["comment"] = data["comment"].fillna("")
    first, seed = data[data["repeat_of"] == ""], about["seed"]
    by_source = first.groupby("source", sort=False)
    counts = {str(source): (int((part["call"] == "real").sum()), len(part)) for source, part in by_source}
    if "real" not in counts or len(counts) < 2:
        raise UnderstudyError("answers about one kind of slice only", where=study, fix="let readers go on first")
    drawn = None
    if first["reader"].nunique() > 1 or _clustered(first):
        drawn = {"": _draws(first, seed)}  # of all generators together, and of each
        drawn |= {name: _draws(first[first["source"].isin(["real", name])], seed) for name in counts if name != "real"}
    written = data.loc[data["comment"] != "", ["reader", "item", "source", "call", "comment"]]
    auc = _auc(first, level, seed)
    if drawn is not None:
        auc["mean"]["low"], auc["mean"]["high"] = stats.tails(drawn[""][:, 2], level)
    return {
        **of_counts(counts, about["margin"], level, drawn),
        "readers": {str(reader): _reader(part, level, seed) for reader, part in data.groupby("reader")},
        "agreement": _agreement(first),
        "comments": written.astype(str).to_dict("records"),
        "answers": len(answers),
        "items": len(entries),
        "answers_head": about["head"],
        "auc": auc,
        **{name: about[name] for name in ("kind", "title", "created", "design", "key_sha256")},
    }


def read_answers(study: Path, key: Path) -> tuple[dict[str, Any], dict[str, Any], pd.DataFrame]:
    """Study (with the `head` of the answers' chain), key, and the last answer of each reader and item."""
    about, truth = checked_study(study, key)
    rows, head = checked_answers(study)
    last = pd.DataFrame(rows).drop_duplicates(["reader", "item"], keep="last").reset_index(drop=True)
    values = pd.DataFrame([json.loads(v) for v in last["value"]])
    answers = pd.concat([last.drop(columns=["value", "nonce"]), values], axis=1)
    if unknown := set(answers["item"]) - set(truth["items"]):
        raise UnderstudyError(f"{len(unknown)} answers are not in the key", where=study / FILE, fix="use its own key")
    return {**about, "head": head}, truth, answers


def of_counts(
    counts: Mapping[str, tuple[int, int]], margin: float, level: float = 0.95,
    drawn: Mapping[str, stats.Floats] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The analysis of a table of counts, e.g. the paper's Table 6.

    Args:
        counts: source -> (called real, read); one source is "real".
        margin: of the equivalence test.
        drawn: [n, 3] of `stats.bootstrap` for all generators ("") and each, from which intervals are taken; None:
            cases are independent.
    """
    real = stats.rate(*counts["real"], level)
    called, read = (sum(entry[i] for name, entry in counts.items() if name != "real") for i in (0, 1))
    made, total = stats.rate(called, read, level), real.n + read
    _, *interval90 = stats.difference(stats.rate(*counts["real"], 0.9), stats.rate(called, read, 0.9))
    method, methods = "independent cases: Wilson", ("Newcombe", "two one-sided tests at 5 %")
    of_real = of_made = of_accuracy = pooled = None
    if drawn is not None:
        pooled, method, methods = drawn[""], BY_PATIENT, (BY_PATIENT, f"90 % interval, {BY_PATIENT}")
        of_real, of_made = pooled[:, 0], pooled[:, 1]
        of_accuracy = _accuracy(pooled, real.n / total)
        interval90 = list(stats.tails(of_real - of_made, 0.9))
    rows = []
    for name in sorted(counts, key="real".__ne__):  # real slices first, the generators as they come
        draws = None if drawn is None else drawn["" if name == "real" else name]
        own = _rate(*counts[name], level, None if draws is None else draws[:, int(name != "real")])
        row = {"source": name, "n": own["n"], "called_real": own["count"], "called_synthetic": own["n"] - own["count"],
               "rate": own["value"], "low": own["low"], "high": own["high"]}  # fmt: skip
        other = stats.rate(*counts[name], level)
        rows.append(row if name == "real" else {**row, "difference": _difference(real, other, level, draws)})
    return {
        "software": _SOFTWARE,
        "level": level,
        "method": method,
        "rows": rows,
        "called_real": {
            "real": _rate(*counts["real"], level, of_real),
            "synthetic": _rate(called, read, level, of_made),
        },
        "accuracy": _rate(real.count + read - called, total, level, of_accuracy),
        "balanced_accuracy": (real.value + 1 - made.value) / 2,
        "sensitivity": _rate(read - called, read, level, None if of_made is None else 1 - of_made),
        "specificity": _rate(*counts["real"], level, of_real),
        "called_synthetic": (real.n - real.count + read - called) / total,
        "difference": {**_difference(real, made, level, pooled), "method": methods[0]},
        **_detection((read - called, read, real.n - real.count, real.n), level, pooled),
        "equivalence": stats.equivalence(interval90[0], interval90[1], margin, methods[1]),
    }


def _interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def _rate(count: int, n: int, level: float, drawn: stats.Floats | None = None) -> dict[str, Any]:
    found = asdict(stats.rate(count, n, level))
    if drawn is not None:
        found["low"], found["high"] = stats.tails(drawn, level)
    return found


def _difference(real: stats.Rate, made: stats.Rate, level: float, drawn: stats.Floats | None) -> dict[str, float]:
    value, low, high = stats.difference(real, made)
    if drawn is not None:
        low, high = stats.tails(drawn[:, 0] - drawn[:, 1], level)
    return _interval(value, low, high)


def _accuracy(drawn: stats.Floats, share: float) -> stats.Floats:
    """Of each draw; `share` of the cases are real."""
    return share * drawn[:, 0] + (1 - share) * (1 - drawn[:, 1])


def _detection(counts: tuple[int, int, int, int], level: float, drawn: stats.Floats | None = None) -> dict[str, Any]:
    """d' and criterion with intervals; `counts`: hits, positives, alarms, negatives."""
    values, (_, positives, _, negatives) = stats.signal_detection(*counts), counts
    if drawn is None:
        times = float(norm.ppf((1 + level) / 2))
        errors = stats.detection_errors(*counts)
        intervals = [
            (value - times * error, value + times * error) for value, error in zip(values, errors, strict=True)
        ]
    else:
        hit, alarm = (
            norm.ppf(((1 - drawn[:, column]) * n + 0.5) / (n + 1)) for column, n in ((1, positives), (0, negatives))
        )
        intervals = [stats.tails(hit - alarm, level), stats.tails(-(hit + alarm) / 2, level)]
    named = zip(("d_prime", "criterion"), values, intervals, strict=True)
    return {name: _interval(value, *interval) for name, value, interval in named}


def _reader(part: pd.DataFrame, level: float, seed: int) -> dict[str, Any]:
    first, again = part[part["repeat_of"] == ""], part[part["repeat_of"] != ""]
    synthetic, said = first["source"] != "real", first["call"] == "synthetic"
    cells = (said & synthetic, synthetic, said & ~synthetic, ~synthetic)
    hits, positives, alarms, negatives = (int(cell.sum()) for cell in cells)
    drawn = _draws(first, seed) if _clustered(first) else None
    accuracies = None if drawn is None else _accuracy(drawn, negatives / len(first))
    calls = part.set_index("item")["call"]
    twice = again[again["repeat_of"].isin(calls.index)]  # answers to the same cases by the same reader
    return {
        "read": len(first),
        "answered": len(part),
        "accuracy": _rate(int((said == synthetic).sum()), len(first), level, accuracies),
        **_detection((hits, positives, alarms, negatives), level, drawn),
        "intra_kappa": stats.cohen_kappa([calls[i] for i in twice["repeat_of"]], list(twice["call"])),
        "seconds_median": float(part["seconds"].median()),
        "hours": float(part["seconds"].sum() / 3600),
        "comments": int((part["comment"] != "").sum()),
    }


def _auc(first: pd.DataFrame, level: float, seed: int) -> dict[str, Any]:
    """Of each reader with an interval, and the mean over readers."""
    found = {}
    for reader, part in first.groupby("reader"):
        real = part["source"] == "real"
        value, low, high = stats.auc(part["score"][real], part["score"][~real], level)
        method = "DeLong"
        if _clustered(part):
            (low, high), method = stats.tails(_draws(part, seed)[:, 2], level), BY_PATIENT
        found[str(reader)] = {**_interval(value, low, high), "method": method}
    return {"readers": found, "mean": {"value": float(np.nanmean([e["value"] for e in found.values()]))}}


def _agreement(first: pd.DataFrame) -> dict[str, Any]:
    """Between readers, on the cases that all of them have read."""
    calls = first.pivot(index="case", columns="reader", values="call").dropna()
    if calls.shape[1] < 2 or calls.empty:
        return {}
    pairs = {f"{a}, {b}": stats.cohen_kappa(list(calls[a]), list(calls[b])) for a, b in combinations(calls.columns, 2)}
    counts = np.stack([(calls == word).sum(axis=1) for word in ("real", "synthetic")], axis=1)
    return {"cases": len(calls), "cohen_kappa": pairs, "fleiss_kappa": stats.fleiss_kappa(counts)}


def _clustered(first: pd.DataFrame) -> bool:
    """Whether some patient is there with several slices, which are alike."""
    real = first[first["source"] == "real"].drop_duplicates("case")
    return bool(real["subject"].duplicated().any())


def _draws(first: pd.DataFrame, seed: int) -> stats.Floats:
    named = first.assign(real=(first["call"] == "real").astype(float))
    called = named.pivot(index="reader", columns="case", values="real")
    scores = named.pivot(index="reader", columns="case", values="score")
    cases = first.drop_duplicates("case").set_index("case").loc[called.columns]
    is_real = (cases["source"] == "real").to_numpy()
    group = [f"of {s}" if r else f"case {c}" for c, s, r in zip(cases.index, cases["subject"], is_real, strict=True)]
    return stats.bootstrap(called.to_numpy(float), scores.to_numpy(float), is_real, group, seed)


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
        better = {one: 1.0, two: 0.0}.get(preferred, 0.5)
        rows.append((key["subject"], preferred, better, marks[one], marks[two]))
    data = pd.DataFrame(rows, columns=["subject", "preferred", "better", "one", "two"])
    decided = int((data["preferred"] == one).sum()), int((data["preferred"] != "same").sum())
    by_patient = data.groupby("subject")["better"].mean()
    apart = (data["one"] - data["two"]).groupby(data["subject"]).mean()
    return {
        "software": _SOFTWARE,
        "pair": [one, two],
        "level": level,
        "answers": len(data),
        "readers": int(answers["reader"].nunique()),
        "patients": len(by_patient),
        "preferred": {str(k): int(v) for k, v in data["preferred"].value_counts().items()},
        "first_of_decided": asdict(stats.rate(*decided, level)),
        "first_by_patient": stats.mean_interval(by_patient, level, about["seed"]),
        "marks": {one: float(data["one"].mean()), two: float(data["two"].mean()),
                  "difference": stats.mean_interval(apart, level, about["seed"])},
        "answers_head": about["head"],
        **{name: about[name] for name in ("kind", "title", "created", "key_sha256")},
    }  # fmt: skip

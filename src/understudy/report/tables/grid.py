"""Tables of the grid: what each network was trained on, shares of real slices, ranks, regions, the paper's counting."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.overlap import apply_policy
from understudy.metrics.statistics import MEAN, ranks
from understudy.report.data import ReportData, Setting, number, percent
from understudy.report.sections.answer import Answer, interval, value
from understudy.report.tables.base import (
    IDENTITY,
    RESAMPLES,
    Table,
    about,
    collapsed_of,
    identity,
    marked,
    numbers_of,
    pick,
    spread,
)

VALIDATION = {"real": "real patients", "synthetic": "synthetic slices", "none": "nothing"}


def training_sets(data: ReportData, settings: list[Setting]) -> Table:
    """What each setting was trained on and selected by, from the records of its networks."""
    body, numbers = [], []
    for s in settings:
        runs = [run for (setting, _), run in data.runs.items() if setting == s.id]
        real, synthetic = (_each(runs, "sources", kind, "slices") for kind in ("real", "synthetic"))
        patients, seen = _each(runs, "sources", "real", "patients"), _each(runs, "samples")
        kinds = {str(_inside(run, "validated_on", "kind") or "unknown") for run in runs}
        validation = ", ".join(VALIDATION.get(kind, kind) for kind in sorted(kinds)) or "unknown"
        broken, of = collapsed_of(data, s)
        body.append(
            [
                s.label,
                _range(real),
                _range(patients),
                _range(synthetic),
                _range(seen),
                validation,
                _range(_each(runs, "best_samples")),
                f"{broken} of {of}",
            ]
        )
        numbers.append(
            about(data, s)
            | {"real_slices": _range(real), "real_patients": _range(patients)}
            | {"synthetic_slices": _range(synthetic), "samples": _range(seen), "validation": ", ".join(sorted(kinds))}
        )
    note = (
        "Different slices in the training set, patients that the real ones come from, and slices shown in training,"
        " some of them many times. Chosen by: what the validation Dice that picks the weights is measured on; chosen"
        " at: after how many slices. A collapsed training finds nothing, or its loss was no number any more."
    )
    header = [
        "Trained on", "Real slices", "Patients", "Synthetic slices", "Slices shown", "Chosen by", "Chosen at",
        "Collapsed",
    ]  # fmt: skip
    return Table("trainings", "Training sets and runs", note, header, body, pd.DataFrame(numbers))


def _each(runs: list[dict[str, Any]], *keys: str) -> list[int]:
    found = [_inside(run, *keys) for run in runs]
    return [int(value) for value in found if isinstance(value, int | float)]


def _inside(run: dict[str, Any], *keys: str) -> Any:
    value: Any = run
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _range(values: list[int]) -> str:
    """ "784", or "32 to 39" where repeats differ; a dash for none."""
    if not values:
        return "–"
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def ratio_settings(data: ReportData) -> list[list[Setting]]:
    """The settings of each curve of a ratio study (one network, augmentation and generator), by rising share.

    A share of 1 has no generator and ends every curve of its network; it is the training `real` where the constant
    total is that of all real slices.
    """
    mine = [s for s in data.settings if s.training == "ratio"]
    ends = [s for s in mine if not s.generator]
    ratios = data.study.get("ratios") if isinstance(data.study, dict) else None
    if isinstance(ratios, dict) and ratios.get("total") is None and 1 in ratios.get("shares", []):
        ends += [s for s in data.settings if s.training == "real" and s.plain]
    curves: dict[tuple[str, bool, str], list[Setting]] = {}
    for s in sorted((s for s in mine if s.generator), key=lambda s: s.real_share or 0.0):
        curves.setdefault((s.segmenter, s.augmentation, s.generator), []).append(s)
    for (segmenter, augmentation, _), curve in curves.items():
        curve += [e for e in ends if (e.segmenter, e.augmentation) == (segmenter, augmentation)]
    return list(curves.values())


def share_of(setting: Setting) -> float:
    """Place of a setting on a ratio curve."""
    return 1.0 if setting.real_share is None else setting.real_share


def ratio_table(data: ReportData, settings: list[Setting], summary: pd.DataFrame, answer: Answer) -> Table:
    """The numbers behind the ratio curves."""
    scored, relative = {s.id for s in settings}, {c.setting.id: c for c in answer.comparisons}
    name = MEAN if len(data.class_names) > 1 else data.class_names[0]
    body, numbers = [], []
    for curve in ratio_settings(data):
        for s in (s for s in curve if s.id in scored):
            entry, other = pick(summary, s.id, "dice", name, data.scope), relative.get(s.id)
            runs = [run for (setting, _), run in data.runs.items() if setting == s.id]
            counts = [_each(runs, "sources", *k) for k in (("real", "slices"), ("real", "patients"))]
            body.append(
                [
                    s.network + ("" if s.augmentation else ", no augmentation"),
                    curve[0].shown,
                    percent(share_of(s), 0 if float(100 * share_of(s)).is_integer() else 2),
                    *(_range(c) if c else "0" if share_of(s) == 0 else "–" for c in counts),
                    spread(entry, 3),
                    f"{number(float(entry['low']))} to {number(float(entry['high']))}" if "low" in entry else "–",
                    value(other.relative) if other else "100\u00a0%",
                    interval(other.relative) if other else "",
                ]
            )
            numbers.append(
                about(data, s)
                | {"generator": curve[0].generator, "real_share": share_of(s)}
                | {k: entry.get(k) for k in ("value", "sd", "low", "high", "value_without_collapsed")}
            )
    note = (
        "Real and synthetic slices in a training set of constant size, as in the paper's Figure 2. Relative: divided by"
        " the mean Dice of all real slices with augmentation."
    )
    header = ["Network", "Generator", "Real", "Slices", "Patients", "Mean Dice", "95\u00a0% interval", "Relative",
              "95\u00a0% interval"]  # fmt: skip
    return Table("ratio", "Share of real slices", note, header, body, pd.DataFrame(numbers), 3)


def regions(data: ReportData, settings: list[Setting], summary: pd.DataFrame) -> Table:
    """Dice and HD95 of the regions (WT, TC, ET), which overlap and are in no mean."""
    body, numbers = [], []
    for s in settings:
        found = {m: [pick(summary, s.id, m, r, data.scope) for r in data.regions] for m in ("dice", "hd95_pooled")}
        body.append(
            [*identity(s), *(spread(e, 3) for e in found["dice"]), *(spread(e, 1) for e in found["hd95_pooled"])]
        )
        numbers.append(
            about(data, s)
            | {f"dice_{k}": v for k, v in numbers_of(data.regions, found["dice"]).items()}
            | {f"hd95_pooled_{k}": v for k, v in numbers_of(data.regions, found["hd95_pooled"]).items()}
        )
    header = [*IDENTITY, *(f"Dice {r}" for r in data.regions), *(f"HD95 {r}" for r in data.regions)]
    note = (
        "Unions of classes that overlap, as the BraTS challenge scores them: WT whole tumour, TC its core, ET what"
        " enhances. They are beside the classes and in none of the means. HD95 in mm, pooled."
    )
    return Table("regions", "Regions", note, header, body, pd.DataFrame(numbers), len(IDENTITY))


def ranking(data: ReportData, settings: list[Setting], rows: pd.DataFrame) -> list[Table]:
    """Ranks of the generators, for each way in which several are compared; [] for fewer than two."""
    scored = apply_policy(rows)
    body, frames, most, left_out = [], [], 0, ""
    groups: dict[tuple[str, str, bool], list[Setting]] = {}
    for s in (s for s in settings if s.generator and s.plain):
        groups.setdefault((s.training, s.segmenter, s.augmentation), []).append(s)
    for group, metric in product((g for g in groups.values() if len(g) > 1), ("dice", "hd")):
        by_id = {s.id: s for s in group}
        try:
            found = ranks(scored, list(by_id), metric=metric, scope=data.scope, seed=data.seed, resamples=RESAMPLES)
        except UnderstudyError as error:
            left_out = data.hide(f" Some are not ranked: {error.what}.")
            continue
        most = max(most, len(group))
        frames.append(found.assign(training=group[0].training, segmenter=group[0].segmenter))
        for r in found.to_dict(orient="records"):
            s = by_id[str(r["setting"])]
            body.append(
                [
                    f"{'Synthetic' if s.training == 'synthetic' else 'Real + synthetic'}, {s.network}"
                    + ("" if s.augmentation else ", no augmentation"),
                    "Dice" if metric == "dice" else "Hausdorff, mm",
                    s.shown + marked(data, s)[len(s.label) :],
                    number(float(r["value"]), 3 if metric == "dice" else 1),
                    f"{r['rank']:g}",
                    f"{r['rank_low']:g} to {r['rank_high']:g}",
                    *(percent(float(r[f"p_rank_{k}"])) for k in range(1, len(group) + 1)),
                ]
            )
    if not body:
        return []
    width = 6 + most
    body = [row + [""] * (width - len(row)) for row in body]
    note = (
        "Rank 1 is the best. The interval of a rank and P(k), the share of resamples with rank k, come from"
        " resampling test patients and trainings: they say how sure the order of these trained generators is, not"
        f" how the same generators would rank if they were trained again.{left_out}"
    )
    header = [
        "Trained on",
        "By",
        "Generator",
        "Value",
        "Rank",
        "95\u00a0% interval",
        *(f"P({k})" for k in range(1, most + 1)),
    ]
    frame = pd.concat(frames, ignore_index=True)
    return [Table("ranks", "Ranks of the generators", note, header, body, frame, 3)]

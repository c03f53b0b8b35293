"""The section on image quality: what each distance is, the same for patients held out, and what neither says."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from understudy.report.data import ReportData, count
from understudy.report.tables.base import Table

ALL, MEAN = "all", "mean"

# key -> (name, digits, whether more is better; None: neither)
METRICS: dict[str, tuple[str, int, bool | None]] = {
    "frechet_distance": ("Frechet distance", 2, False),
    "frechet_distance_infinity": ("Frechet distance, n → ∞", 2, False),
    "kernel_distance": ("Kernel distance", 3, False),
    "precision": ("Precision", 2, True),
    "recall": ("Recall", 2, True),
    "density": ("Density", 2, True),
    "coverage": ("Coverage", 2, True),
    "inception_score": ("Inception score", 2, None),
}
EXTRACTORS = {
    "random": "random network",
    "unet": "U-Net trained on the real slices",
    "radiomics": "radiomic features of the brain",
    "radiomics_tumour": "radiomic features of the tumour",
    "inception2015": "Inception (FID)",
    "radimagenet_inception": "RadImageNet Inception",
    "radimagenet_resnet50": "RadImageNet ResNet-50",
    "dinov2": "DINOv2",
}


@dataclass(frozen=True)
class QualitySection:
    """What the page shows.

    Attributes:
        sentences: what the numbers tell.
        tables: the main one, averaged over channels, and every channel's.
        notes: numbers that are missing, and why.
        numbers: for `report.json`.
    """

    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)


def make_quality_section(data: ReportData) -> QualitySection:
    """Reads every generator's `quality.json`; empty if none was measured."""
    contents = {name: _read(path) for name, path in sorted(data.quality.items())}
    rows = [{"generator": name, **row} for name, c in contents.items() for row in c["rows"]]
    if not rows:
        return QualitySection()
    frame = pd.DataFrame(rows)
    shown = frame[frame["channel"].isin([ALL, MEAN]) | ~_averaged(frame)]
    others = frame.drop(shown.index)
    tables = [_table(data, shown, "quality", "Image quality", _note(frame))]
    if len(others):
        tables.append(_table(data, others, "quality_channels", "Image quality, channel by channel", ""))
    notes = sorted({str(n) for n in frame["note"] if n})
    return QualitySection(_sentences(data, shown), tables, [n[:1].upper() + n[1:] + "." for n in notes], contents)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _averaged(frame: pd.DataFrame) -> pd.Series:
    """Whether a row's number is also part of an average over channels."""
    keys = ["generator", "extractor", "metric"]
    return frame.groupby(keys)["channel"].transform(lambda c: MEAN in set(c)).astype(bool)


def _table(data: ReportData, frame: pd.DataFrame, key: str, caption: str, note: str) -> Table:
    channels = key == "quality_channels"
    header = ["Features of", *(["Channel"] if channels else []), "Metric", "Generator"]
    header += ["Synthetic", "At the floor's n", "Floor: other patients", "Times the floor"]
    body = []
    order = {m: i for i, m in enumerate(METRICS)}
    frame = frame.assign(_order=frame["metric"].map(order))
    frame = frame.sort_values(["extractor", "_order", "channel", "generator"], kind="stable").drop(columns="_order")
    for row in frame.to_dict(orient="records"):
        name, digits, better = METRICS[str(row["metric"])]
        arrow = {True: " ↑", False: " ↓", None: ""}[better]
        body.append(
            [
                EXTRACTORS.get(str(row["extractor"]), str(row["extractor"])),
                *([str(row["channel"])] if channels else []),
                name + arrow,
                data.shown(str(row["generator"])),
                _figure(row["value"], digits),
                _with_spread(row["matched"], row["matched_sd"], digits),
                _with_spread(row["floor"], row["floor_sd"], digits),
                _times(row["matched"], row["floor"]) if better is False else "",
            ]
        )
    plain = frame.drop(columns="floors", errors="ignore").assign(rule=frame["rule"].map(json.dumps))
    return Table(key, caption, note, header, body, plain, 4 if channels else 3)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _figure(value: Any, digits: int) -> str:
    """Digits after the point, and more of a number that would vanish otherwise."""
    found = _number(value)
    if math.isnan(found):
        return "–"
    if found and abs(found) < 10**-digits:
        return f"{found:.2g}".replace("-", "−")
    return f"{found:.{digits}f}".replace("-", "−")


def _with_spread(value: Any, spread: Any, digits: int) -> str:
    text = _figure(value, digits)
    return text if text == "–" or math.isnan(_number(spread)) else f"{text} ± {_figure(spread, digits)}"


def _times(value: Any, floor: Any) -> str:
    ratio = _ratio(value, floor)
    return "–" if math.isnan(ratio) else f"{ratio:.1f} ×"


def _ratio(value: Any, floor: Any) -> float:
    a, b = _number(value), _number(floor)
    return a / b if b > 0 else float("nan")


def _note(frame: pd.DataFrame) -> str:
    first = frame.iloc[0]
    held = (
        f" Floor: {first['n_heldout']:,} slices of {count(int(first['patients_heldout']), 'patient')} who were not"
        " trained on, measured against the same real slices; ± is the standard deviation over random divisions of"
        " all patients. At the floor's n: as many synthetic as held-out slices, since these numbers depend on how"
        " many slices they see."
        if first["n_heldout"]
        else ""
    )
    several = sorted({f"{n:,}" for n in frame["n_synthetic"]})
    return (
        f"{' or '.join(several)} synthetic slices against {first['n_real']:,} real training slices of"
        f" {count(int(first['patients_real']), 'patient')}, averaged over channels where each has its own number."
        f" ↓: less is better, ↑: more.{held}"
    )


def _sentences(data: ReportData, shown: pd.DataFrame) -> list[str]:
    out = []
    main = shown[shown["metric"] == "frechet_distance"]
    for row in main.to_dict(orient="records"):
        ratio = _ratio(row["matched"], row["floor"])
        who = data.shown(str(row["generator"])) if main["generator"].nunique() > 1 else "the generator"
        what = EXTRACTORS.get(str(row["extractor"]), str(row["extractor"]))
        if not math.isnan(ratio):
            near = (
                " They are nearer than real slices of new patients, which copies would be too: see the section on"
                " copies."
                if ratio < 1
                else ""
            )
            out.append(
                f"By the Frechet distance of the {what}, the slices of {who} are {ratio:.1f} times as far from the"
                f" training slices as those of other patients are.{near}"
            )
    out.append(
        "A distance tells how alike the sets are to a network, not how well they train a segmenter: in the paper FID"
        " and inception score did not predict Dice. Copies of training slices have a low distance, too."
    )
    return out

"""How near are the synthetic slices to real ones? Each distance, and the same for patients held out.

Every metric in quality.json is shown; `quality.metrics.METRICS` gives it a name, digits and a direction.
"""

import json
import math
from typing import Any

import pandas as pd

from understudy.io.files import read_json
from understudy.quality.metrics import LABELS, label_of
from understudy.report.content import Block, Content, Details, Section, missing
from understudy.report.data import ReportData, count, listed, number
from understudy.report.tables import Table

ALL, MEAN = "all", "mean"
EXTRACTORS = {
    "images": "the images themselves",
    "random": "random network",
    "unet": "U-Net trained on the real slices",
    "radiomics": "radiomic features of the brain",
    "radiomics_tumour": "radiomic features of the tumour",
    "inception2015": "Inception (FID)",
    "radimagenet_inception": "RadImageNet Inception",
    "radimagenet_resnet50": "RadImageNet ResNet-50",
    "dinov2": "DINOv2",
}


def section(content: Content) -> Section | None:
    """From every generator's `quality.json`; None if none was measured."""
    data = content.data
    contents = {name: read_json(path) for name, path in sorted(data.quality.items())}
    frame = pd.DataFrame([{"generator": name, **row} for name, c in contents.items() for row in c["rows"]])
    if frame.empty:
        return None
    # numbers of a channel that are also part of an average over channels have a table of their own
    keys = ["generator", "extractor", "metric"]
    averaged = frame.groupby(keys)["channel"].transform(lambda c: MEAN in set(c)).astype(bool)
    main = frame["channel"].isin([ALL, MEAN]) | ~averaged
    notes = sorted({str(n) for n in frame["note"] if n and not str(n).startswith("nearer")})
    table = _table(data, frame[main], "quality", "Image quality", _note(frame))
    blocks: list[Block] = [*_sentences(data, frame[main]), table]
    blocks += missing([n[:1].upper() + n[1:] + "." for n in notes])
    if not main.all():
        table = _table(data, frame[~main], "quality_channels", "Image quality, channel by channel", "")
        blocks.append(Details("Every channel", [table]))
    title = "How near are the synthetic slices to real ones?"
    return Section("quality", title, "Image quality", blocks, {"quality": data.hide(contents)})


def _sentences(data: ReportData, rows: pd.DataFrame) -> list[str]:
    said, main = [], rows[rows["metric"] == "frechet_distance"]
    for row in main.to_dict(orient="records"):
        ratio = _ratio(row)
        if math.isnan(ratio):
            continue
        who = data.shown(str(row["generator"])) if main["generator"].nunique() > 1 else "the generator"
        what = EXTRACTORS.get(str(row["extractor"]), str(row["extractor"]))
        said.append(
            f"By the Frechet distance of the {what}, the slices of {who} are {ratio:.1f} times as far from the training"
            " slices as those of other patients are."
        )
    near = rows[rows["note"].astype(str).str.startswith("nearer")]
    for generator, own in near.groupby("generator", sort=False):
        measures = [
            f"{label_of(str(r['metric'])).name} of the {EXTRACTORS.get(str(r['extractor']), str(r['extractor']))}"
            for r in own.to_dict(orient="records")
        ]
        said.append(
            f"The slices of {data.shown(str(generator))} are nearer to the training slices than real slices of new"
            f" patients are, as copies would be, by {listed(measures)}: see the section on copies."
        )
    said.append(
        "A distance tells how alike the sets are to a network, not how well they train a segmenter: in the paper FID"
        " and inception score did not predict Dice. Copies of training slices have a low distance, too."
    )
    return said


def _note(frame: pd.DataFrame) -> str:
    first, several = frame.iloc[0], sorted({f"{n:,}" for n in frame["n_synthetic"]})
    note = (
        f"{' or '.join(several)} synthetic slices against {first['n_real']:,} real training slices of"
        f" {count(int(first['patients_real']), 'patient')}, averaged over channels where each has its own number."
        " ↓: less is better, ↑: more."
    )
    if first["n_heldout"]:
        note += (
            f" Floor: {first['n_heldout']:,} slices of {count(int(first['patients_heldout']), 'patient')} who were not"
            " trained on, measured against the same real slices; ± is the standard deviation over random divisions of"
            " all patients. At the floor's n: as many synthetic as held-out slices, since the numbers depend on it."
        )
    return note


def _table(data: ReportData, frame: pd.DataFrame, key: str, caption: str, note: str) -> Table:
    channels = ["Channel"] if key == "quality_channels" else []
    header = ["Features of", *channels, "Metric", "Generator", "Synthetic", "At the floor's n"]
    header += ["Floor: other patients", "Times the floor"]
    frame = frame.assign(_order=frame["metric"].map({m: i for i, m in enumerate(LABELS)}))
    frame = frame.sort_values(["extractor", "_order", "channel", "generator"], kind="stable").drop(columns="_order")
    body = []
    for row in frame.to_dict(orient="records"):
        label, ratio, cells = label_of(str(row["metric"])), _ratio(row), []
        for part in ("matched", "floor"):
            text, sd = (_figure(row[part + of], label.digits) for of in ("", "_sd"))
            cells.append(text if "–" in (text, sd) else f"{text} ± {sd}")
        body.append([
            EXTRACTORS.get(str(row["extractor"]), str(row["extractor"])), *([str(row["channel"])] if channels else []),
            label.name + {True: " ↑", False: " ↓", None: ""}[label.better], data.shown(str(row["generator"])),
            _figure(row["value"], label.digits), *cells,
            "" if label.better is not False else "–" if math.isnan(ratio) else f"{ratio:.1f} ×",
        ])  # fmt: skip
    plain = frame.drop(columns="floors", errors="ignore").assign(rule=frame["rule"].map(json.dumps))
    return Table(key, caption, note, header, body, plain, 3 + len(channels))


def _figure(value: float | None, digits: int) -> str:
    """As `number`, with more digits where it would vanish otherwise."""
    small = value is not None and 0 < abs(value) < 10**-digits
    return f"{value:.2g}".replace("-", "−") if small else number(value, digits)


def _ratio(row: dict[Any, Any]) -> float:
    """How many times as far as other patients' slices."""
    matched, floor = (math.nan if row[k] is None else float(row[k]) for k in ("matched", "floor"))
    return matched / floor if floor > 0 else math.nan

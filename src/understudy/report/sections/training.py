"""How generators and segmentation networks were trained: curves, faults, training sets."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from understudy.names import FAULTS
from understudy.report.content import Block, Content, Figure, Heading, Section, missing, shown
from understudy.report.data import ReportData, Setting, count, number, percent
from understudy.report.plots import style
from understudy.report.plots.style import INK, MOST_SETTINGS, SYNTHETIC_COLOUR, Panel
from understudy.report.tables import Table, span
from understudy.runtime.checkpoints import History

DARKER = ["#D55E00", "#2A7FB8", "#A8960C", "#009E73", "#B0528A"]  # of the class colours, for lines on white
CHOSEN_BY = {"real": "real patients", "synthetic": "synthetic slices", "none": "nothing"}


def section(content: Content) -> Section:
    """Each generator, then the segmentation networks."""
    data, blocks = content.data, list[Block]()
    real: dict[str, float] = next((n["with_class"] for n in content.gallery.numbers if n["kind"] == "real"), {})
    for name, path in data.generator_histories.items():
        blocks.append(Heading(f"Generator {data.shown(name)}"))
        if name in data.generator_health:
            blocks.append(_health_line(data.generator_health[name]))
        if name in data.generator_stopping:
            blocks.append(_stopping_line(data.generator_stopping[name]))
        caption = "Dotted: share of the real slices with the class. A sign of real scores that stays near 1 suggests"
        caption += " that the discriminator has memorized the training slices."
        panels = generator_curves(name, path, real, data.shown(name))
        blocks += [Figure(panels, caption)] if panels else missing(["No history of this training was found."])
    if not data.generator_histories:
        blocks += missing(["No generator was trained in this study."])
    panels = _segmenter_curves(data)
    caption = "Validation patients are neither trained nor tested on; the best Dice on them picks the tested weights."
    blocks.append(Heading("Segmentation networks"))
    blocks += shown(Figure(panels, caption), trainings_table(data, content.settings) if data.runs else None)
    blocks += missing([] if panels else ["No histories of segmentation networks were found."])
    records = {"generator_health": data.generator_health}
    records |= {"generator_stopping": data.generator_stopping} if data.generator_stopping else {}
    return Section("training", "Training", "Training", blocks, records)


def described(found: dict[str, Any]) -> str:
    """Faults of a training in words."""
    return " and ".join(
        f"{FAULTS.get(fault, fault)} (from {float(kimg):,.1f} thousand images on)" for fault, kimg in found.items()
    )


def _health_line(health: dict[str, Any]) -> str:
    state = described(health["faults"]) if health.get("faults") else "no collapse, no lack of annotations"
    line = (
        f"At the end of the training: {state}. The samples differ from each other"
        f" {number(health.get('diversity'), 2)} times as much as real slices do; {percent(health.get('annotated'))} of"
        " them have an annotation. This does not judge how real they look."
    )
    if repaired := int(health.get("repaired_gradients") or 0):
        line += f" Gradients that were NaN or infinite were set to 0 in {count(repaired, 'update')}."
    return line


def _stopping_line(found: dict[str, Any]) -> str:
    """Why a training that looked at its samples ended, and which state it left."""
    kept = f" Kept is the last state before: after {found['kept']:,} images." if found["stopped"] else ""
    return f"The training looked at its own samples for copies and {found['words']}.{kept}"


def trainings_table(data: ReportData, settings: list[Setting]) -> Table:
    """What each setting was trained on and selected by, from the records of its networks."""
    parts = {"real_slices": ("sources", "real", "slices"), "real_patients": ("sources", "real", "patients"),
             "synthetic_slices": ("sources", "synthetic", "slices"), "samples": ("samples",)}  # fmt: skip
    rows = []
    for s in settings:
        known = {name: span(data.recorded(s, *keys)) for name, keys in parts.items()}
        kinds = sorted({str(kind or "unknown") for kind in data.recorded(s, "validated_on", "kind", all_values=True)})
        validation = ", ".join(CHOSEN_BY.get(kind, kind) for kind in kinds) or "unknown"
        broken, of = data.collapsed_of(s)
        chosen = span(data.recorded(s, "best_samples"))
        cells = [s.label, *known.values(), validation, chosen, f"{broken} of {of}"]
        rows.append((cells, data.about(s) | known | {"validation": ", ".join(kinds)}))
    note = (
        "Different slices in the training set, patients that the real ones come from, and slices shown in training."
        " Chosen by: what the validation Dice that picks the weights is measured on; chosen at: after how many slices."
        " A training has collapsed if it finds nothing or its loss became NaN."
    )
    header = ["Trained on", "Real slices", "Patients", "Synthetic slices", "Slices shown", "Chosen by", "Chosen at",
              "Collapsed"]  # fmt: skip
    return Table.of("trainings", "Training sets and runs", note, header, rows)


def _finite(lines: list[dict[str, Any]], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of a history that have both values, as two arrays."""
    columns = pd.DataFrame(lines, columns=[x, y]).apply(pd.to_numeric, errors="coerce").to_numpy(float)
    points = columns[np.isfinite(columns).all(axis=1)]
    return points[:, 0], points[:, 1]


def generator_curves(name: str, path: Path, real_shares: dict[str, float], shown_as: str = "") -> list[Panel]:
    """Losses, augmentation, classes in samples and speed of a generator's training by its history; [] without lines.

    `name` is for the files, `shown_as` for people; `real_shares` (class -> share of real slices with it) are dotted.
    """
    lines, made = History.read(path), []
    shares = {f"share_{c}": (c, DARKER[i % len(DARKER)]) for i, c in enumerate(real_shares)}
    fitting = {"ada_p": ("augmentation probability", SYNTHETIC_COLOUR), "real_sign": ("sign of real scores", INK)}
    looks = {"too_near": ("too near", SYNTHETIC_COLOUR), "too_near_by_chance": ("by chance at most", INK)}
    # title, label of the axis, key in the history -> label and colour
    plots: list[tuple[str, str, dict[str, tuple[str, str]]]] = [
        ("Losses", "", {"loss_g": ("generator", SYNTHETIC_COLOUR), "loss_d": ("discriminator", INK)}),
        ("Discriminator overfitting", "", fitting),
        ("Too near to training slices", "share of samples", looks),
        ("Samples with each class", "share of samples", shares),
        ("Speed", "images/s", {"images_per_second": ("images/s", INK)}),
    ]
    for title, ylabel, curves in plots:
        found = {key: _finite(lines, "kimg", key) for key in curves}
        found = {key: points for key, points in found.items() if len(points[0])}
        if not found:
            continue
        with style.one_plot(style.NARROW) as (figure, axes):
            for key, (x, y) in found.items():
                label, colour = curves[key]
                few = "o" if len(x) < 3 else ""
                axes.plot(*style.thinned(x, y), color=colour, label=label, marker=few, markersize=4)
                if key in shares:
                    axes.axhline(real_shares[label], color=colour, linestyle=":", linewidth=1.2)
            axes.set(title=title, xlabel="thousand real images shown", ylabel=ylabel)
            if ylabel:
                axes.set_ylim(bottom=0)
            if len(curves) > 1:
                style.legend_below(figure, axes, 3)
            ends = "; ".join(f"{curves[k][0]} ends at {y[-1]:.3g}" for k, (_, y) in found.items())
            said = f"{title} of the generator {shown_as or name} over its training: {ends}."
            made.append(style.panel_of(figure, said, key=f"training_{name}_{title.split()[0].lower()}"))
    return made


def _segmenter_curves(data: ReportData) -> list[Panel]:
    """Validation Dice and training loss of every segmenter over the slices seen; [] without histories."""
    chosen = data.closest(MOST_SETTINGS)
    keys = ((s, k) for s in chosen for k in sorted(data.segmenter_histories) if k[0] == s.id)
    histories = [(s, History.read(data.segmenter_histories[k])) for s, k in keys]
    made = []
    for key, title in (("val_dice", "Validation Dice"), ("loss", "Training loss")):
        with style.one_plot((5.6, 2.9)) as (figure, axes):
            ends: dict[str, list[str]] = {}
            for setting, lines in histories:
                x, y = _finite(lines, "samples", key)
                if not len(x):
                    continue
                look = style.Look(setting.colour, "-", setting.marker)
                # with several generators coloured by these, synthetic slices alone are dashed
                if len(data.generators) > 1 and setting.generator:
                    look = style.looks(data.generators)[setting.generator]
                    dashes = (0, (2.2, 1.4)) if setting.training == "synthetic" else "-"
                    look = style.Look(look.colour, dashes, look.marker)
                marker = look.marker if len(x) <= 8 else ""  # few points are marked
                label = None if setting.label in ends else setting.label
                axes.plot(*style.thinned(x / 1000, y), color=look.colour, linestyle=look.dashes, marker=marker,
                          markersize=4, label=label)  # fmt: skip
                ends.setdefault(setting.label, []).append(f"{y[-1]:.3f}")
            if not ends:
                continue
            axes.set(title=title, xlabel="thousand training slices seen")
            if key == "val_dice":
                axes.set_ylim(0, 1)
            style.legend_below(figure, axes, 2)
            said = "; ".join(f"{label} ends at {', '.join(values)}" for label, values in ends.items())
            text = f"{title} over the training of the segmentation networks: {said}."
            made.append(style.panel_of(figure, text, key=f"training_segmenters_{key}"))
    return made

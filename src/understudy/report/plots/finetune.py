"""Dice against the number of real patients: from scratch, and after training on synthetic slices."""

from __future__ import annotations

import numpy as np
import pandas as pd

from understudy.metrics.statistics import MEAN
from understudy.report.data import TRAINING, ReportData, Setting, number
from understudy.report.plots.curves import SIZE
from understudy.report.plots.panels import data_looks
from understudy.report.plots.style import INK, Look, Panel, legend_below, one_plot, panel_of
from understudy.report.tables.base import Table, about, pick, spread


def finetune_lines(data: ReportData) -> dict[tuple[str, bool], dict[str, list[Setting]]]:
    """(network, augmentation) -> name of a line -> its settings by rising number of patients; {} without any."""
    found: dict[tuple[str, bool], dict[str, list[Setting]]] = {}
    if not any(s.training == "finetune" for s in data.settings):
        return {}
    few = [s for s in data.settings if s.real_patients is not None and s.training in ("real", "finetune")]
    for s in sorted(few, key=lambda s: (s.training != "real", s.real_patients or 0)):
        name = "from scratch" if s.training == "real" else f"after {s.shown}"
        found.setdefault((s.segmenter, s.augmentation), {}).setdefault(name, []).append(s)
    return found


def finetune_table(data: ReportData, summary: pd.DataFrame) -> Table | None:
    """The numbers behind the curves; None without fine-tuning."""
    name = _class(data)
    body, numbers = [], []
    for (_, augmented), lines in finetune_lines(data).items():
        for line, settings in lines.items():
            for s in settings:
                e = pick(summary, s.id, "dice", name, data.scope)
                between = f"{number(float(e['low']))} to {number(float(e['high']))}" if "low" in e else "–"
                network = s.network + ("" if augmented else ", no augmentation")
                body.append([network, line, str(s.real_patients), spread(e, 3), between])
                numbers.append(
                    about(data, s)
                    | {"generator": s.generator, "real_patients": s.real_patients}
                    | {k: e.get(k) for k in ("value", "sd", "low", "high")}
                )
    if not body:
        return None
    note = "The same real patients with and without training on synthetic slices before."
    header = ["Network", "Trained", "Real patients", "Mean Dice", "95\u00a0% interval"]
    return Table("finetune", "Fine-tuning on few real patients", note, header, body, pd.DataFrame(numbers), 2)


def _class(data: ReportData) -> str:
    return MEAN if len(data.class_names) != 1 else data.class_names[0]


def finetune_panels(data: ReportData, summary: pd.DataFrame) -> list[Panel]:
    """A panel for each network and augmentation; [] without fine-tuning."""
    return [
        _panel(data, summary, segmenter, augmented, lines)
        for (segmenter, augmented), lines in finetune_lines(data).items()
    ]


def _panel(
    data: ReportData, summary: pd.DataFrame, segmenter: str, augmented: bool, lines: dict[str, list[Setting]]
) -> Panel:
    name = _class(data)
    counts = sorted({s.real_patients or 0 for settings in lines.values() for s in settings})
    said, tops = [], [0.0]
    with one_plot(SIZE) as (figure, axes):
        for i, (line, settings) in enumerate(lines.items()):
            aside = 0.06 * (i - (len(lines) - 1) / 2)
            x = np.array([counts.index(s.real_patients or 0) for s in settings]) + aside
            entries = [pick(summary, s.id, "dice", name, data.scope) for s in settings]
            mid, low, high = (np.array([e[k] for e in entries], float) for k in ("value", "low", "high"))
            look = data_looks(data).get(settings[0].generator) or Look(TRAINING["real"][0], "-", "o")
            axes.errorbar(
                x, mid, [np.maximum(mid - low, 0), np.maximum(high - mid, 0)], color=look.colour, label=line,
                marker=look.marker, markersize=6.5, capsize=2.5, markeredgecolor="white", elinewidth=1.4,
            )  # fmt: skip
            tops += list(high[np.isfinite(high)])
            points = zip(settings, mid, strict=True)
            said.append(f"{line}: " + ", ".join(f"{s.real_patients} patients {m:.3f}" for s, m in points))
        base = data.baseline_of(next(iter(lines.values()))[0])
        height = float(pick(summary, base.id, "dice", name, data.scope)["value"]) if base else np.nan
        if np.isfinite(height):
            axes.axhline(height, color=INK, linestyle="--", linewidth=1.1, label="all real patients", zorder=1)
            tops.append(height)
        axes.set_xticks(range(len(counts)), [str(k) for k in counts])
        axes.set_xlim(-0.25, len(counts) - 0.75)
        axes.set(title=data.shown(segmenter) + ("" if augmented else ", no augmentation"), xlabel="real patients")
        axes.set(ylabel="Dice, mean over the classes", ylim=(0, min(1.03, 1.12 * max(tops) + 0.02)))
        axes.grid(axis="x", visible=False)
        legend_below(figure, axes, 2)
        key = f"finetune_{segmenter}" + ("" if augmented else "_noaug")
        return panel_of(figure, f"Dice against the number of real patients: {'; '.join(said)}.", key=key)

"""Useful, and no copies? Relative Dice of every generator and snapshot against what its audit found."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from understudy.report.conclusion import OUT, best_to_share, may_be_released
from understudy.report.content import Block, Content, Figure, Section, Text
from understudy.report.data import ReportData, between, number, percent
from understudy.report.plots.style import INK, Look, Panel, legend_below, looks, one_plot, panel_of
from understudy.report.sections.copies import too_few_to_flag
from understudy.report.sections.opening import Verdict
from understudy.report.tables import INTERVAL, Table

Range = tuple[float, float, float]  # value, low, high
MOST_DICE = 1.3  # relative Dice that the figure shows
QUIET_LINE = "#9AA1AB"


class Point(NamedTuple):
    """A generator, or a state of its training, that was scored and audited."""

    verdict: Verdict
    run: str  # name of the training
    kimg: float  # thousand images shown, NaN where not known
    dice: Range  # relative, of its slices alone
    risks: dict[str, Range]  # by the keys of `RISKS`, without what was not measured


class Risk(NamedTuple):
    """What an audit measures, on the horizontal axis of a panel and in a column of the table."""

    label: str
    heading: str  # of the column
    nothing: float  # where a generator that knows nobody lies
    room: float  # that the axis shows at least
    of: Callable[[dict[str, Any]], Range | None]  # from audit.json; None: not measured
    text: Callable[[Range], str]


def _excess(audit: dict[str, Any]) -> Range | None:
    return None if too_few_to_flag(audit) else _range(audit["flags"], "excess", "excess_low", "excess_high")


def _exposed(audit: dict[str, Any]) -> Range | None:
    found = audit.get("exposed")
    return (float(found["count"]), math.nan, math.nan) if found else None


def _auc(audit: dict[str, Any]) -> Range | None:
    found = audit.get("membership")
    return _range(found, "auc", "low", "high") if found else None


def _range(numbers: dict[str, Any], *keys: str) -> Range:
    value, low, high = (math.nan if numbers[key] is None else float(numbers[key]) for key in keys)  # null is NaN
    return value, low, high


def _points(values: Range) -> str:
    value, low, high = (100 * v for v in values)
    return f"{number(value, 1, '+')} ({between(low, high, 1)})"


RISKS = {
    "slices": Risk("Slices too near, more than by chance", "Too near, more (+) or fewer (−) than by chance, points", 0,
                   0.02, _excess, _points),
    "exposed": Risk("Exposed training patients", "Exposed patients", 0, 2, _exposed, lambda v: f"{v[0]:.0f}"),
    "weights": Risk("How well the weights tell training patients (AUC)", "Weights: AUC", 0.5, 0.2, _auc,
                    lambda v: f"{number(v[0], 2)} ({between(*v[1:], 2)})"),
}  # fmt: skip


def section(content: Content) -> Section | None:
    """Recommendation, figure, table; None for fewer than two points."""
    found = points(content)
    if len(found) < 2 or content.answer.weak:
        return None
    chosen = best_to_share(content.verdicts)
    drawn = [key for key in RISKS if any(key in p.risks for p in found)]
    panels = [_panel(content.data, found, key, chosen["weights" if key == "weights" else "slices"]) for key in drawn]
    caption = (
        "Each line is a training, each marker a state of it, larger ones later. Filled: no sign of copies (of the"
        " weights: they do not tell who was trained on); hollow: a sign, or it cannot be told. Ring: recommended. Grey"
        f" line: a generator that knows nobody. Dotted: {percent(1 - content.data.margin)}, “can replace”. Thin lines:"
        f" {INTERVAL} by patient."
    )
    blocks: list[Block] = [_recommendation(content, what, verdict) for what, verdict in chosen.items()]
    if len(found) > 2:
        blocks.append(
            f"What is recommended is the best of {len(found)} by the Dice of the same test patients: on other patients"
            " expect a little less of it."
        )
    blocks += [Figure(panels, caption), _table(content.data, found, drawn, chosen)]
    return Section("frontier", "Useful, and no copies?", "Frontier", blocks)


def points(content: Content) -> list[Point]:
    """By training in the study's order, and images shown; the finished generator last."""
    found, data = list[Point](), content.data
    order = list(dict.fromkeys(data.training_of(name)[0] for name in data.generators))
    for verdict in content.verdicts:
        dice, audit = verdict.useful.numbers.get("alone"), content.audits.get(verdict.generator, {})
        if dice and audit.get("flags") and math.isfinite(dice["relative_dice"]):
            risks = {key: values for key, risk in RISKS.items() if (values := risk.of(audit)) is not None}
            found.append(
                Point(
                    verdict,
                    *data.training_of(verdict.generator),
                    (dice["relative_dice"], dice["low"], dice["high"]),
                    risks,
                )
            )
    return sorted(found, key=lambda p: (order.index(p.run), math.isnan(p.kimg), p.kimg))


def _recommendation(content: Content, what: str, verdict: Verdict | None) -> Text:
    if verdict is None:
        told = "" if what == "slices" else ", whose weights were tested and do not tell who was trained on"
        return Text(f"To share {what}: no generator without a sign of copies{told}.", "verdict cannot_tell")
    words = f"To share {what}: {_named(content.data, verdict)}. Its slices alone: {verdict.alone} of the real slices'"
    words += " Dice, the most of those that may be shared"
    if what == "weights":
        words += f" and whose weights do not tell (AUC {RISKS['weights'].text(_auc_of(content, verdict))})"
    if may_be_released(verdict) != "yes":
        return Text(f"{words}. Useful? {verdict.useful.title}.", "verdict cannot_tell")
    command = f"understudy release {'slices' if what == 'slices' else 'model'}"
    return Text(f"{words}. Next: {command} --study {OUT} --generator {verdict.generator} ...", "verdict no_sign")


def _auc_of(content: Content, verdict: Verdict) -> Range:
    return _auc(content.audits[verdict.generator]) or (math.nan, math.nan, math.nan)


def _named(data: ReportData, verdict: Verdict) -> str:
    run, kimg = data.training_of(verdict.generator)
    return verdict.name if math.isnan(kimg) else f"{data.shown(run)} after {kimg * 1000:,.0f} images"


def _table(data: ReportData, found: Sequence[Point], drawn: list[str], chosen: dict[str, Verdict | None]) -> Table:
    rows = []
    for p in found:
        marks = " and ".join(what for what, verdict in chosen.items() if verdict is p.verdict)
        known: dict[str, Any] = {"generator": p.verdict.generator, "training": p.run, "kimg": p.kimg}
        for key, values in {"relative_dice": p.dice, **p.risks}.items():
            known |= {key: values[0], f"{key}_low": values[1], f"{key}_high": values[2]}
        known |= {"verdict": p.verdict.copy.kind, "weights_tell": p.verdict.weights_tell, "recommended": marks}
        cells = [data.shown(p.run), "–" if math.isnan(p.kimg) else f"{p.kimg * 1000:,.0f}", p.verdict.alone]
        cells += [RISKS[key].text(p.risks[key]) if key in p.risks else "–" for key in drawn]
        rows.append(([*cells, p.verdict.copy.brief, marks], known))
    note = (
        f"In brackets: {INTERVAL} by patient. Relative Dice: of a network trained on these slices alone. Too"
        " near: share of slices too near to a training slice less the share expected by chance, in percentage points;"
        " an interval above 0 is more than chance, a number below 0 is fewer. Recommended: the most useful"
        " without a sign of copies; for weights also without a sign that they tell who was trained on (an interval"
        " of the AUC that reaches down to 0.5)."
    )
    headings = [RISKS[key].heading for key in drawn]
    header = ["Training", "Images shown", "Relative Dice", *headings, "Copies?", "Recommended: to share"]
    return Table.of("frontier", "Usefulness and copies of every generator and snapshot", note, header, rows, 2)


def _panel(data: ReportData, found: Sequence[Point], key: str, chosen: Verdict | None) -> Panel:
    """Relative Dice upwards, the risk to the right: the upper left is wanted."""
    measured, risk = [p for p in found if key in p.risks], RISKS[key]
    runs = list(dict.fromkeys(p.run for p in found))  # the same look in every panel
    values = [risk.nothing, *(p.risks[key][0] for p in measured)]
    low, room = min(values), max(max(values) - min(values), risk.room)
    with one_plot((4.0, 3.3)) as (figure, axes):
        axes.axvline(risk.nothing, color=QUIET_LINE, linewidth=1.4, zorder=0)
        axes.axhline(1 - data.margin, color=QUIET_LINE, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
        for run, look in looks(runs).items():
            own = [p for p in measured if p.run == run]
            axes.plot([p.risks[key][0] for p in own], [p.dice[0] for p in own], color=look.colour,
                      linestyle=look.dashes, linewidth=1.1, alpha=0.6, marker=look.marker, markersize=0)  # fmt: skip
            axes.plot([], [], color=look.colour, linestyle=look.dashes, marker=look.marker, label=data.shown(run))
            for place, p in enumerate(own, start=1):
                clean = p.verdict.weights_tell is False if key == "weights" else p.verdict.copy.kind == "no_sign"
                _mark(axes, p.risks[key], p.dice, look, 5 + 3 * place / len(own), clean, p.verdict is chosen)
        axes.set(xlabel=risk.label, ylabel="relative Dice", xlim=(low - 0.1 * room, low + 1.12 * room))
        ends = [end for p in found for end in p.dice if math.isfinite(end)]  # the same axis in every panel
        axes.set_ylim(min(ends) - 0.03, min(max(ends), MOST_DICE) + 0.03)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda value, _: percent(value))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=key == "exposed"))
        if key == "slices":
            axes.xaxis.set_major_formatter(lambda value, _: percent(value, int(room < 0.05)))
        legend_below(figure, axes, 3)
        said = [f"{_named(data, p.verdict)} {percent(p.dice[0])} at {risk.text(p.risks[key])}" for p in measured]
        return panel_of(figure, f"Relative Dice against {risk.label}: {'; '.join(said)}.", key=f"frontier_{key}")


def _mark(axes: Axes, x: Range, y: Range, look: Look, size: float, clean: bool, chosen: bool) -> None:
    """A point with its two intervals, a ring around it if `chosen`."""
    thin: dict[str, Any] = {"color": look.colour, "linewidth": 0.7, "alpha": 0.4, "zorder": 1}
    axes.plot([x[0], x[0]], y[1:], **thin)
    axes.plot(x[1:], [y[0], y[0]], **thin)
    axes.plot(x[0], y[0], marker=look.marker, markersize=size, markeredgecolor=look.colour, zorder=3,
              markerfacecolor=look.colour if clean else "white")  # fmt: skip
    if chosen:
        axes.plot(x[0], y[0], marker="o", markersize=size + 8, markerfacecolor="none", markeredgecolor=INK,
                  markeredgewidth=1.4, zorder=4)  # fmt: skip

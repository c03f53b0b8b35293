"""The first screen: the answer, alarms, the verdict on each generator, and what was studied."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.statistics import MEAN, paired_difference, ranks
from understudy.report.answer import FEWEST_PATIENTS, POOREST_BASELINE, SUSPICIOUS, Answer, Comparison, primary
from understudy.report.conclusion import LINES, OUT, best_to_share, conclusion
from understudy.report.content import Block, Content, Details, Figure, Html, Section
from understudy.report.data import ReportData, count, number, percent
from understudy.report.plots.style import INK, Panel, one_plot, panel_of
from understudy.report.sections.copies import card, too_few_to_flag
from understudy.report.sections.run import failures
from understudy.report.sections.training import described
from understudy.report.tables import INTERVAL, interval, resampling, value
from understudy.slices import SliceSet

MOST_ROWS = 14  # of relative Dice shown at once; of a larger grid those that differ from the baseline in their slices
DETECTED = 0.9  # of planted copies that a passed control finds, as the audit's own rule has it
COLOURS = {
    "can_replace": "yes", "helps": "yes", "no": "no", "no_sign": "yes", "copies_found": "no",
    "best": "", "ranked": "", "alone": "",  # a rank is no judgement
}  # fmt: skip
QUESTIONS = {"useful": "Useful?", "copy": "Copies of patients?", "better_than": "Better than what?"}
BRIEF = {
    "can_replace": "Yes", "helps": "When added", "partly": "Partly", "no": "No", "undecided": "Undecided",
    "unanswered": "Not answered", "not_audited": "Not audited", "no_slices": "No slices", "no_sign": "No sign",
    "copies_found": "Found", "cannot_tell": "Cannot tell", "withheld": "Withheld",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One of the three answers about a generator."""

    # useful: "can_replace", "helps", "partly", "no", "undecided", "unanswered", "withheld"; copy: "no_sign",
    # "copies_found", "cannot_tell", "not_audited", "no_slices"; better_than: "best", "ranked", "alone"
    kind: str
    title: str  # the answer in a few words
    lines: list[str]  # sentences below it
    numbers: dict[str, Any] = field(default_factory=dict)
    rank: str = ""  # as a cell of the table of verdicts

    @property
    def brief(self) -> str:
        """The answer as a cell of the table of verdicts."""
        return BRIEF.get(self.kind, self.rank or "–")

    @property
    def css(self) -> str:
        """Colour of the answer: "yes", "no", "open" or none."""
        return COLOURS.get(self.kind, "open")


@dataclass(frozen=True)
class Verdict:
    generator: str
    name: str  # as it is written for people
    useful: Part
    copy: Part
    better_than: Part
    alone: str = "–"  # relative Dice of its slices alone, in a cell
    added: str = "–"  # and with the real ones
    weights_tell: bool | None = None  # who was trained on; None: not tested, or on too few patients

    @property
    def dice(self) -> float:
        """Relative Dice of its slices alone, else added to the real ones; minus infinity for none."""
        found = (self.useful.numbers.get(key) for key in ("alone", "added"))
        return next((float(c["relative_dice"]) for c in found if c), -math.inf)

    @property
    def parts(self) -> dict[str, Part]:
        """The three answers, by the keys of `QUESTIONS`."""
        return {key: getattr(self, key) for key in QUESTIONS}


def section(content: Content) -> Section:
    """The answer, the verdicts, what was studied and how strong the evidence is."""
    data, answer, verdicts = content.data, content.answer, content.verdicts
    strength, command = "", str(data.provenance.get("command") or "understudy run STUDY")
    foreign = [name for name, fields in data.study.get("generators", {}).items() if "layout" in fields]
    lines = conclusion(answer.headline, verdicts, command, foreign)
    copies_title, copies_text, copies_css = card(data, content.audits)
    if answer.baseline and answer.comparisons:
        strength = f"Evidence: {answer.evidence}. {count(answer.patients, 'test patient')},"
        strength += f" {_trainings(answer.repeats)}; mean Dice with real slices {number(answer.baseline_dice, 2)}."
    faults = [
        f"The training of {data.shown(name)} went wrong: {described(health['faults'])}. Its slices are used all the"
        " same, so read its results as those of a failed training: train it longer or with another recipe."
        for name, health in data.generator_health.items()
        if health.get("faults")
    ]
    values = {
        "answer": answer, "conclusion": lines, "lines": LINES, "out": OUT, "strength": strength, "verdicts": verdicts,
        "facts": _facts(content),
        "notes": [*answer.left_out, *failures(data)[2], *_collapsed(data), *faults],
        "limit": percent(1 - data.margin),
        "copies": {"title": copies_title, "text": copies_text, "css": copies_css, "audited": bool(content.audits)},
        "fewest": FEWEST_PATIENTS, "poorest": number(POOREST_BASELINE, 1), "questions": QUESTIONS,
    }  # fmt: skip
    numbers = {
        "verdicts": [
            {"generator": v.generator, "name": v.name}
            | {k: {"kind": p.kind, "title": p.title, "lines": p.lines, **p.numbers} for k, p in v.parts.items()}
            for v in verdicts
        ],
        "answer": vars(answer) | {
            "conclusion": lines, "baseline": answer.baseline.setting.id if answer.baseline else None,
            "margin": data.margin, "comparisons": [_as_numbers(c) for c in answer.comparisons],
        },
        "recommended": {what: best and best.generator for what, best in best_to_share(verdicts).items()},
        "settings": [vars(s) for s in data.settings],
        "collapsed": [{"setting": s, "repeat": r} for s, r in sorted(data.collapsed)],
        "mean_name": MEAN, "summary": content.summary.frame,
    }  # fmt: skip
    # A headline in green would hide copies that were found.
    css = f"answer {answer.verdict}{' copies' if copies_css == 'no' and answer.verdict == 'yes' else ''}"
    blocks = [Html("opening.html.j2", values), *_forest(answer, data.margin), Html("evidence_cards.html.j2", values)]
    return Section("answer", "", "Answer", blocks, numbers, css=css)


def limits(content: Content) -> Section:
    """What the page cannot say."""
    values = {"audited": bool(content.audits), "repeats": content.answer.repeats}
    return Section("limits", "What this page does not show", "Limits", [Html("limits.html.j2", values)])


def _as_numbers(c: Comparison) -> dict[str, Any]:
    counts = ("dice", "missed", "present", "false_alarms", "absent", "primary")
    relative = {"relative_dice": c.relative.value, "low": c.relative.low, "high": c.relative.high}
    named = {"setting": c.setting.id, "label": c.setting.label, "base": c.base.id}
    return named | relative | {key: getattr(c, key) for key in counts}


def _trainings(repeats: int) -> str:
    return "each network trained once" if repeats == 1 else f"each network trained {repeats} times"


def _collapsed(data: ReportData) -> list[str]:
    """Trainings that collapsed: they stay in every mean, and the reader must know."""
    said = []
    for setting in data.settings:
        broken = sorted(repeat for name, repeat in data.collapsed if name == setting.id)
        of = data.collapsed_of(setting)[1]
        reasons = {str(data.runs.get((setting.id, r), {}).get("collapse") or "it finds nothing") for r in broken}
        why = "; ".join(sorted(reasons))
        which = f"{'repeat' if len(broken) == 1 else 'repeats'} {', '.join(str(r + 1) for r in broken)}"
        if broken and of == 1:
            said.append(
                f"The only training of “{setting.label}” collapsed ({why}): its scores say nothing about the slices."
                " Train it longer or more often (`repeats`)."
            )
        elif broken:
            said.append(
                f"{len(broken)} of {of} trainings of “{setting.label}” collapsed ({which}: {why}). Their scores are"
                " part of every mean; the tables also give the means without them."
            )
    return said


def _facts(content: Content) -> list[tuple[str, str]]:
    """The study in short: patients, slices, generators, networks."""
    data, found, slices = content.data, [], None
    with contextlib.suppress(UnderstudyError):
        slices = SliceSet.open(data.slices, cache_bytes=0) if data.slices else None
    if slices is not None:
        index = slices.index
        if "split" in index:
            parts = index.groupby("split")["subject"].nunique()
            shown = [f"{parts[s]} {w}" for s, w in (("train", "training"), ("val", "validation")) if parts.get(s)]
            if not data.scores.empty:
                shown.append(f"{data.scores['subject'].nunique()} test")
            found.append(("Patients", ", ".join(shown)))
            found.append(("Real training slices", f"{int((index['split'] == 'train').sum()):,}"))
        sites = index["site"].replace("", pd.NA).nunique() if "site" in index else 0
        found.append(("Hospitals", str(sites) if sites else "not known"))
        size = f"{slices.resolution} × {slices.resolution} pixels"
        if frame := slices.attrs.get("frame"):
            before = f"{frame['matrix']} × {frame['matrix']} of {frame['pixel']:g} mm"
            size = f"{frame['plane']}, {size} (from {before})"
        found.append(("Slices", f"{size}; {', '.join(slices.channels)}"))
        found.append(("Classes", ", ".join(slices.class_names)))
    if made := [n for n in content.gallery.numbers if n["kind"] == "synthetic"]:
        found.append(("Synthetic slices", ", ".join(f"{n['slices']:,} ({n['short']})" for n in made)))
    if networks := sorted(set(map(str, data.scores.get("segmenter", ())))):
        repeats = int(data.scores.groupby("setting")["repeat"].nunique().max())
        found.append(("Segmentation", f"{', '.join(map(data.shown, networks))}; {_trainings(repeats)}"))
    return found


def _forest(answer: Answer, margin: float) -> list[Block]:
    """Relative Dice of every setting with its interval; [] if the shares would say nothing.

    Ratios and fine-tuning have curves of their own.
    """
    found = [c for c in answer.comparisons if c.setting.training not in ("ratio", "finetune")]
    found = [c for c in found if not answer.weak and math.isfinite(c.relative.value)]
    if not found:
        return []
    first = [c for c in found if c.primary] if len(found) > MOST_ROWS else found
    others = [c for c in found if c not in first]
    caption = (
        "Relative Dice: mean Dice divided by that of the same network trained on the real slices with augmentation."
        f" Line: 95\u00a0% interval by patient. Shaded: {percent(1 - margin)} and more, “can replace”."
    )
    blocks: list[Block] = [Figure([_forest_panel(first, margin, "relative_dice")], caption)] if first else []
    if others:
        more = Figure([_forest_panel(others, margin, "relative_dice_others")])
        blocks.append(Details(f"The other {len(others)} settings", [more]))
    return blocks


def _forest_panel(shown: Sequence[Comparison], margin: float, key: str) -> Panel:
    # words above the lines: a narrow figure can be read on a phone
    ends = [e for c in shown for e in (c.relative.value, c.relative.high) if math.isfinite(e)]
    top = min(max([1.1, *ends]) + 0.05, 2.5)
    with one_plot((4.9, 0.6 + 0.4 * len(shown))) as (figure, axes):
        axes.axvspan(1 - margin, top, color="#E7F3EC", zorder=0)
        axes.axvline(1, color=INK, linewidth=0.9)
        for y, c in enumerate(reversed(shown)):
            r, colour = c.relative, c.setting.colour
            low, high = r.low if math.isfinite(r.low) else r.value, r.value if math.isnan(r.high) else r.high
            axes.plot([low, min(high, top)], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(r.value, y, marker=c.setting.marker, color=colour, markersize=6.5, markeredgecolor="white")
            if high > top:
                axes.plot(top, y, marker=">", color="#6D7682", markersize=5, clip_on=False)  # it goes beyond the axis
            axes.text(0.01 * top, y + 0.22, f"{c.setting.label}: {value(r)} ({interval(r)})", fontsize=8.5,
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6})  # fmt: skip
        axes.set(xlim=(0, top), ylim=(-0.45, len(shown) - 0.2), yticks=[])
        axes.xaxis.set_major_formatter(lambda x, _: percent(x))
        axes.set_xlabel("Dice relative to real slices with augmentation")
        said = "; ".join(f"{c.setting.label} {value(c.relative)}" for c in shown)
        return panel_of(figure, f"Relative Dice: {said}.", key=key)


def make_verdicts(data: ReportData, scored: pd.DataFrame, answer: Answer, audits: dict[str, Any]) -> list[Verdict]:
    """A verdict for every generator of the study, the best first.

    Args:
        scored: rows under the BraTS rule.
        audits: generator -> content of its audit.json.
    """
    names = list(dict.fromkeys(s.generator for s in data.every_setting if s.generator))
    names += [n for n in [*data.synthetic, *data.generator_histories] if n not in names and "," not in n]
    placed, made = _ranks(data, scored, answer), list[Verdict]()
    for name in names:
        mine = [c for c in answer.comparisons if c.setting.generator == name]
        alone, added = (next(iter(primary(mine, training)), None) for training in ("synthetic", "both"))
        copy = _copy(audits.get(name), data.leaks.get(name, {}), has_slices=name in data.synthetic or bool(mine))
        useful = _useful(data, name, answer, alone, added, copy.kind)
        better = _better(data, scored, answer, {"alone": alone, "added": added}, placed.get(name), len(names))
        cells = _share(data, answer, alone), _share(data, answer, added)
        tell = _weights_tell((audits.get(name) or {}).get("membership"))
        made.append(Verdict(name, data.shown(name), useful, copy, better, *cells, tell))
    # those without a rank come last
    return sorted(made, key=lambda v: v.better_than.numbers.get("rank") or math.inf)


def _ranks(data: ReportData, scored: pd.DataFrame, answer: Answer) -> dict[str, dict[str, Any]]:
    """Generator -> its row of ranks by Dice when trained on alone, and `of` how many; {} for fewer than two."""
    ids = {c.setting.id: c.setting.generator for c in primary(answer.comparisons, "synthetic")}
    if len(ids) < 2 or len(set(ids.values())) < len(ids):
        return {}
    try:
        found = ranks(scored, list(ids), metric="dice", **resampling(data))
    except UnderstudyError:
        return {}  # settings of different patients; the table of ranks says so
    rows: list[dict[Any, Any]] = found.assign(of=len(ids)).to_dict(orient="records")
    return {ids[str(row["setting"])]: row for row in rows}


def _share(data: ReportData, answer: Answer, comparison: Comparison | None) -> str:
    """A relative Dice in a cell, a dash without any; Dice where a share would say nothing."""
    if comparison is None:
        return "–"
    broken = ", collapsed" if data.collapsed_of(comparison.setting)[0] else ""
    if answer.weak or not math.isfinite(comparison.relative.value):
        return f"Dice {number(comparison.dice, 2)}{broken}"
    return f"{value(comparison.relative)} ({interval(comparison.relative)}){broken}"


def _useful(
    data: ReportData, name: str, answer: Answer, alone: Comparison | None, added: Comparison | None, copy: str
) -> Part:
    kind, title = _how_useful(answer, alone, added, 1 - data.margin)
    leak = data.leaks.get(name, {})
    if leak.get("parts"):
        kind, title = "withheld", "Withheld: copies of test or validation patients"
    numbers: dict[str, Any] = {"margin": data.margin, "patients": answer.patients, "alone": None, "added": None}
    lines = [f"{leak['words']} The Dice was measured {leak['how']} them."] if kind == "withheld" else []
    for key, words, c in (("alone", "Alone", alone), ("added", "Added to real slices", added)):
        if c is None:
            continue
        r = c.relative
        share = {"relative_dice": r.value, "low": r.low, "high": r.high}
        numbers[key] = {"setting": c.setting.id, "dice": c.dice, "missed": c.missed, "present": c.present, **share}
        line = f"{words}: {value(r)} of the real slices' Dice ({INTERVAL} {interval(r)})."
        if answer.weak or not math.isfinite(r.value):
            line = f"{words}: mean Dice {number(c.dice, 2)}; real slices {number(answer.baseline_dice, 2)}."
        if key == "alone" and c.missed:
            line += f" {c.missed} of {count(c.present, 'segmentation')} found no voxel of the tumour."
        # a collapsed training is no effect of the slices alone
        broken, of = data.collapsed_of(c.setting)
        if broken:
            line += " Its only training collapsed." if of == 1 else f" {broken} of {of} trainings collapsed."
        lines.append(line)
    numbers["doubted"] = alone is not None and not answer.weak and alone.relative.value >= SUSPICIOUS
    lines += ["That is more than real slices reach: see the first lines of this page."] * numbers["doubted"]
    if copy == "copies_found" and kind in ("can_replace", "helps", "partly"):
        lines.append("Part of this may come from copies of the training slices.")
    if faults := data.generator_health.get(name, {}).get("faults"):
        lines.append(f"Its training went wrong: {described(faults)}.")
    return Part(kind, title, lines, numbers)


def _how_useful(answer: Answer, alone: Comparison | None, added: Comparison | None, limit: float) -> tuple[str, str]:
    if (alone is None and added is None) or answer.baseline is None:
        return "unanswered", "Not answered: no network trained on it was scored"
    if answer.weak:
        return "unanswered", "Not answered: Dice with real slices is too low"
    if answer.patients < FEWEST_PATIENTS:
        return "undecided", f"Too early to say: only {count(answer.patients, 'test patient')}"
    # the whole interval must lie on one side of the limit
    if alone is not None and alone.relative.low >= limit:
        if alone.misses_more_than(answer.baseline):
            return "partly", "Partly: misses the tumour more often"
        return "can_replace", "Yes: can replace"
    if added is not None and added.relative.low > 1:
        return "helps", "Helps when added"
    if alone is not None and alone.relative.high < limit:
        harm = added is not None and added.relative.high < 1
        return "no", "No: cannot replace, harms when added" if harm else "No: cannot replace"
    return "undecided", "Undecided: the interval is too wide"


def _copy(audit: dict[str, Any] | None, leak: dict[str, Any], has_slices: bool) -> Part:
    found = _copy_of_training(audit, has_slices)
    if not leak.get("parts"):
        return found
    return Part("copies_found", "Yes: copies found", [leak["words"], *found.lines],
                found.numbers | {"leaked": leak["counts"]})  # fmt: skip


def _copy_of_training(audit: dict[str, Any] | None, has_slices: bool) -> Part:
    if not audit:
        line = "No search for copies was made, so nothing is known about privacy. Make it: understudy audit."
        none = Part("no_slices", "No slices", ["It has made no slices: its training or its sampling is not done."])
        return Part("not_audited", "Not audited", [line]) if has_slices else none
    kind, flags, controls = audit["verdict"]["kind"], audit.get("flags"), audit.get("controls")
    title = {"copies_found": "Yes: copies found", "no_sign": "No sign of copies"}.get(kind, "Cannot tell")
    if not flags or not controls:
        return Part(kind, title, [audit["verdict"]["headline"]], {"refusal": audit.get("refusal")})
    # controls that every audit has to pass, e.g. exact copies
    must, alarms = [d for d in controls["detection"] if d["must"]], controls["false_alarms"]
    passed = sum(d["rate"] >= DETECTED for d in must)
    numbers = {key: flags[key] for key in ("judged", "rate", "low", "high")} | {"flagged": flags["count"]}
    numbers |= {"by_chance": alarms["nominal"], "false_alarms": alarms["rate"]}
    numbers |= {"controls": len(must), "controls_passed": passed}
    if too_few_to_flag(audit):
        return Part(kind, title, [audit["verdict"]["headline"]], numbers)
    lines = [audit["verdict"]["headline"]] if kind == "cannot_tell" else []
    share = f"{percent(flags['rate'], 1)}, {INTERVAL} {100 * flags['low']:.1f} to {percent(flags['high'], 1)}"
    near = f"{flags['count']:,} of {flags['judged']:,} slices are too near to a training slice"
    lines.append(f"{near} ({share}; by chance {percent(alarms['nominal'], 1)}).")
    few = audit.get("concentration")
    if few and few["found"]:
        who = "one training patient" if few["patients"] == 1 else f"{few['patients']} training patients"
        where = "look at the pairs in private/gallery.png before release"
        lines.append(f"The flagged slices are concentrated on {who}: {where}.")
        numbers["concentrated_on"] = few["patients"]
    tested = f"Tested on copies made on purpose, this search found {passed} of the {len(must)} kinds it must find"
    if alarms["rate"] is not None:
        tested += f", and flagged {percent(alarms['rate'], 1)} of new patients' slices by mistake"
    return Part(kind, title, [*lines, f"{tested}."], numbers)


def _weights_tell(member: dict[str, Any] | None) -> bool | None:
    """What a membership inference says, by the audit's own rule."""
    if not member or min(member["training_patients"], member["heldout_patients"]) < FEWEST_PATIENTS:
        return None
    return bool(member["low"] > 0.5)


def _better(
    data: ReportData, scored: pd.DataFrame, answer: Answer, comparisons: dict[str, Comparison | None],
    row: dict[str, Any] | None, generators: int,
) -> Part:  # fmt: skip
    versus, lines = {}, []
    for key, comparison in comparisons.items():
        if comparison is not None:
            versus[key], words = _against_real(data, scored, comparison)
            lines += [] if answer.weak else [f"{key.capitalize()}: {words}."]
    numbers: dict[str, Any] = {"against_real": versus, "generators": generators}
    if row:
        numbers |= {k: row[k] for k in ("rank", "rank_low", "rank_high", "of")} | {"probability_best": row["p_rank_1"]}
        kind, low, high = "best" if row["rank"] == 1 else "ranked", row["rank_low"], row["rank_high"]
        if answer.weak:
            return Part(kind, "Not ranked: Dice is too low", lines, numbers)
        cell, said = f"{row['rank']:g} of {row['of']}", "It has the same rank in nearly all resamples"
        if low != high:
            cell += f" ({low:g} to {high:g})"
            said = f"{INTERVAL} of the rank {low:g} to {high:g}; first in {percent(row['p_rank_1'])} of the resamples"
        said += " of test patients and trainings."
        return Part(kind, f"Rank {row['rank']:g} of {row['of']} generators", [said, *lines], numbers, cell)
    if generators > 1:
        return Part("alone", "Not ranked", lines or ["There are no scores of it."], numbers)
    kinds = {found["kind"] for found in versus.values()}
    title = "No clear difference from real slices" if kinds == {"same"} else "Not better than real slices"
    title = "Better than real slices alone" if "better" in kinds else title if kinds else "Not compared"
    title = "Not compared: Dice is too low" if answer.weak else title
    return Part("alone", title, [*lines, "No other generator to compare with."], numbers)


def _against_real(data: ReportData, scored: pd.DataFrame, c: Comparison) -> tuple[dict[str, Any], str]:
    """The difference of mean Dice from real slices with augmentation, by patient: numbers and words."""
    try:
        d = paired_difference(scored, c.setting.id, c.base.id, **resampling(data))
    except UnderstudyError as error:
        return {"kind": "unknown"}, f"not compared: {error.what}"
    kind = "better" if d.low > 0 else "worse" if d.high < 0 else "same"
    said = {"better": "better than", "worse": "worse than", "same": "no clear difference from"}[kind]
    shown, low, high = ("0.00" if abs(x) < 0.005 else number(x, 2, "+") for x in (d.value, d.low, d.high))
    words = f"{said} real slices (Dice {shown}, {INTERVAL} {low} to {high})"
    return {"kind": kind, "difference": d.value, "low": d.low, "high": d.high}, words

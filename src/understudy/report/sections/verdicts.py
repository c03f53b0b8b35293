"""The verdict on each generator: is it useful, does it copy patients, better than what?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.statistics import paired_difference, ranks
from understudy.report.answer import FEWEST_PATIENTS, Answer, Comparison, primary
from understudy.report.data import ReportData, count, number, percent, signed
from understudy.report.sections.copies import too_few_to_flag
from understudy.report.sections.training import described
from understudy.report.tables.base import INTERVAL, collapsed_of, interval, resampling, value

DETECTED = 0.9  # of planted copies that a passed control finds, as the audit's own rule has it
COLOURS = {
    "can_replace": "yes", "helps": "yes", "no": "no", "no_sign": "yes", "copies_found": "no",
    "best": "", "ranked": "", "alone": "",  # a rank is no judgement
}  # fmt: skip
QUESTIONS = {"useful": "Useful?", "copy": "Copies of patients?", "better_than": "Better than what?"}
BRIEF = {
    "can_replace": "Yes", "helps": "When added", "partly": "Partly", "no": "No", "undecided": "Undecided",
    "unanswered": "Not answered", "not_audited": "Not audited", "no_slices": "No slices", "no_sign": "No sign",
    "copies_found": "Found", "cannot_tell": "Cannot tell",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One of the three answers."""

    # useful: "can_replace", "helps", "partly", "no", "undecided", "unanswered"; copy: "no_sign", "copies_found",
    # "cannot_tell", "not_audited", "no_slices"; better_than: "best", "ranked", "alone"
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
    """The three answers about one generator."""

    generator: str
    name: str  # as it is written for people
    useful: Part
    copy: Part
    better_than: Part
    alone: str = "–"  # relative Dice of its slices alone, in a cell
    added: str = "–"  # and with the real ones

    @property
    def parts(self) -> dict[str, Part]:
        """The three, by the keys of `QUESTIONS`."""
        return {key: getattr(self, key) for key in QUESTIONS}

    def as_numbers(self) -> dict[str, Any]:
        """For `report.json`: generator, name; useful, copy, better_than, each {kind, title, lines, ...numbers}."""
        flat = {k: {"kind": p.kind, "title": p.title, "lines": p.lines, **p.numbers} for k, p in self.parts.items()}
        return {"generator": self.generator, "name": self.name, **flat}


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
        copy = _copy(audits.get(name), has_slices=name in data.synthetic or bool(mine))
        useful = _useful(data, name, answer, alone, added, copy.kind)
        better = _better(data, scored, answer, {"alone": alone, "added": added}, placed.get(name), len(names))
        cells = (_share(data, answer, c) for c in (alone, added))
        made.append(Verdict(name, data.shown(name), useful, copy, better, *cells))
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
    found = found.assign(of=len(ids)).set_index(found["setting"].map(ids))
    return {str(generator): dict(row) for generator, row in found.iterrows()}


def _share(data: ReportData, answer: Answer, comparison: Comparison | None) -> str:
    """A relative Dice in a cell, a dash without any; Dice where a share would say nothing."""
    if comparison is None:
        return "–"
    broken = ", collapsed" if collapsed_of(data, comparison.setting)[0] else ""
    if answer.weak or not math.isfinite(comparison.relative.value):
        return f"Dice {number(comparison.dice, 2)}{broken}"
    return f"{value(comparison.relative)} ({interval(comparison.relative)}){broken}"


def _useful(
    data: ReportData, name: str, answer: Answer, alone: Comparison | None, added: Comparison | None, copy: str
) -> Part:
    kind, title = _how_useful(answer, alone, added, 1 - data.margin)
    numbers: dict[str, Any] = {"margin": data.margin, "patients": answer.patients}
    lines = []
    for key, words, c in (("alone", "Alone", alone), ("added", "Added to real slices", added)):
        numbers[key] = None
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
        broken, of = collapsed_of(data, c.setting)
        if broken:
            line += " Its only training collapsed." if of == 1 else f" {broken} of {of} trainings collapsed."
        lines.append(line)
    if copy == "copies_found" and kind in ("can_replace", "helps", "partly"):
        lines.append("Part of this may come from copies of the training slices.")
    if faults := data.generator_health.get(name, {}).get("faults"):
        lines.append(f"Its training went wrong: {described(faults)}.")
    return Part(kind, title, lines, numbers)


def _how_useful(answer: Answer, alone: Comparison | None, added: Comparison | None, limit: float) -> tuple[str, str]:
    if alone is None and added is None:
        return "unanswered", "Not answered: no network trained on it was scored"
    if answer.weak:
        return "unanswered", "Not answered: Dice with real slices is too low"
    if answer.patients < FEWEST_PATIENTS:
        return "undecided", f"Too early to say: only {count(answer.patients, 'test patient')}"
    base = answer.baseline
    # the whole interval must lie on one side of the limit
    if alone is not None and alone.relative.low >= limit:
        more = base is not None and alone.missed / max(alone.present, 1) > base.missed / max(base.present, 1)
        return ("partly", "Partly: misses the tumour more often") if more else ("can_replace", "Yes: can replace")
    if added is not None and added.relative.low > 1:
        return "helps", "Helps when added"
    if alone is not None and alone.relative.high < limit:
        harm = added is not None and added.relative.high < 1
        return "no", "No: cannot replace, harms when added" if harm else "No: cannot replace"
    return "undecided", "Undecided: the interval is too wide"


def _copy(audit: dict[str, Any] | None, has_slices: bool) -> Part:
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
    tested = f"Tested on copies made on purpose, this search found {passed} of {len(must)} kinds that it has to find"
    if alarms["rate"] is not None:
        tested += f", and flagged {percent(alarms['rate'], 1)} of new patients' slices by mistake"
    return Part(kind, title, [*lines, f"{tested}."], numbers)


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
    value, low, high = ("0.00" if abs(x) < 0.005 else signed(x, 2) for x in (d.value, d.low, d.high))
    words = f"{said} real slices (Dice {value}, {INTERVAL} {low} to {high})"
    return {"kind": kind, "difference": d.value, "low": d.low, "high": d.high}, words

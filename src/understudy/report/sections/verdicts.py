"""The verdicts that open the page, one a generator: is it useful, does it copy patients, better than what?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.statistics import ranks
from understudy.metrics.statistics import paired_difference
from understudy.report.data import ReportData, count, number, percent
from understudy.report.sections.answer import FEWEST_PATIENTS, Answer, Comparison, interval, primary, value
from understudy.report.sections.audit import too_few_to_flag
from understudy.report.sections.health import described
from understudy.report.tables.base import RESAMPLES, collapsed_of

DETECTED = 0.9  # of planted copies that a passed control finds, as the audit's own rule has it
COLOURS = {
    "can_replace": "yes", "helps": "yes", "no": "no", "no_sign": "yes", "copies_found": "no", "cannot_tell": "open",
}  # fmt: skip


BRIEF = {
    "can_replace": "Yes", "helps": "When added", "partly": "Partly", "no": "No", "undecided": "Undecided",
    "unanswered": "Not answered", "not_audited": "Not audited", "no_slices": "No slices", "no_sign": "No sign",
    "copies_found": "Found", "cannot_tell": "Cannot tell",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One of the three answers.

    Attributes:
        kind: useful: "can_replace", "helps", "partly", "no", "undecided" or "unanswered"; copy: "no_sign",
            "copies_found", "cannot_tell", "not_audited" or "no_slices"; better_than: "best", "ranked" or "alone".
        title: the answer in a few words.
        lines: sentences below it.
        numbers: behind them, plain values.
        brief: the answer in a cell of a phone's width.
    """

    kind: str
    title: str
    lines: list[str]
    numbers: dict[str, Any] = field(default_factory=dict)
    brief: str = ""

    @property
    def css(self) -> str:
        """Colour of the answer: "yes", "no" or "open"; none of a rank, which is no judgement."""
        return "" if self.kind in ("best", "ranked", "alone") else COLOURS.get(self.kind, "open")


@dataclass(frozen=True)
class Verdict:
    """The three answers about one generator.

    Attributes:
        name: of the generator, as it is written for people.
        alone, added: relative Dice of its slices alone, and with the real ones, in a cell.
    """

    generator: str
    name: str
    useful: Part
    copy: Part
    better_than: Part
    alone: str = "–"
    added: str = "–"

    @property
    def parts(self) -> list[tuple[str, Part]]:
        """The question of each answer, and the answer."""
        return [("Useful?", self.useful), ("Copies of patients?", self.copy), ("Better than what?", self.better_than)]

    def as_numbers(self) -> dict[str, Any]:
        """For `report.json`: generator, name; useful, copy, better_than, each {kind, title, lines, ...numbers}."""

        def flat(part: Part) -> dict[str, Any]:
            content = asdict(part)
            return {k: v for k, v in content.items() if k not in ("numbers", "brief")} | content["numbers"]

        return {"generator": self.generator, "name": self.name} | {
            k: flat(getattr(self, k)) for k in ("useful", "copy", "better_than")
        }


def make_verdicts(data: ReportData, scored: pd.DataFrame, answer: Answer, audits: dict[str, Any]) -> list[Verdict]:
    """A verdict for every generator of the study, the best first.

    Args:
        scored: rows under the BraTS rule.
        audits: generator -> its audit's numbers (`AuditSection.numbers`).
    """
    names = list(dict.fromkeys(s.generator for s in data.every_setting if s.generator))
    names += [n for n in [*data.synthetic, *data.generator_histories] if n not in names and "," not in n]
    placed = _ranks(data, scored, answer)
    made = []
    for name in names:
        mine = [c for c in answer.comparisons if c.setting.generator == name]
        alone, added = _first(primary(mine, "synthetic")), _first(primary(mine, "both"))
        copy = _copy(audits.get(name), has_slices=name in data.synthetic or bool(mine))
        made.append(
            Verdict(
                name,
                data.shown(name),
                _useful(data, name, answer, alone, added, copy.kind),
                copy,
                _better(data, scored, answer, name, alone, added, placed, len(names)),
                _in_brief(data, answer, alone),
                _in_brief(data, answer, added),
            )
        )
    return sorted(made, key=lambda v: v.better_than.numbers.get("rank") or math.inf)


def _first(comparisons: list[Comparison]) -> Comparison | None:
    return comparisons[0] if comparisons else None


def _ratio(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    r = comparison.relative
    return {
        "setting": comparison.setting.id, "dice": comparison.dice,
        "relative_dice": r.value, "low": r.low, "high": r.high,
        "missed": comparison.missed, "present": comparison.present,
    }  # fmt: skip


def _useful(
    data: ReportData, name: str, answer: Answer, alone: Comparison | None, added: Comparison | None, copy: str
) -> Part:
    numbers = {"alone": _ratio(alone), "added": _ratio(added), "margin": data.margin, "patients": answer.patients}
    kind, title = _how_useful(answer, alone, added, 1 - data.margin)
    lines = []
    if alone is not None:
        missed = f" {alone.missed} of {count(alone.present, 'segmentation')} found no voxel of the tumour."
        lines.append(f"Alone: {_reached(answer, alone)}.{missed * bool(alone.missed)}{_broken(data, alone)}")
    if added is not None:
        lines.append(f"Added to real slices: {_reached(answer, added)}.{_broken(data, added)}")
    if copy == "copies_found" and kind in ("can_replace", "helps", "partly"):
        lines.append("Part of this may come from copies of the training slices.")
    faults = data.generator_health.get(name, {}).get("faults")
    if faults:
        lines.append(f"Its training went wrong: {described(faults)}.")
    return Part(kind, title, lines, numbers, BRIEF[kind])


def _reached(answer: Answer, comparison: Comparison) -> str:
    """The share of the real slices' Dice, or both Dice where a share would say nothing."""
    if answer.weak or not math.isfinite(comparison.relative.value):
        return f"mean Dice {number(comparison.dice, 2)}; real slices {number(answer.baseline_dice, 2)}"
    return f"{value(comparison.relative)} of the real slices' Dice (95\u00a0% interval {interval(comparison.relative)})"


def _broken(data: ReportData, comparison: Comparison) -> str:
    """Says so where a number rests on trainings that collapsed: that is no effect of the slices alone."""
    broken, of = collapsed_of(data, comparison.setting)
    if not broken:
        return ""
    return " Its only training collapsed." if of == 1 else f" {broken} of {of} trainings collapsed."


def _in_brief(data: ReportData, answer: Answer, comparison: Comparison | None) -> str:
    """A relative Dice in a cell, a dash without any."""
    if comparison is None:
        return "–"
    broken = ", collapsed" if collapsed_of(data, comparison.setting)[0] else ""
    if answer.weak or not math.isfinite(comparison.relative.value):
        return f"Dice {number(comparison.dice, 2)}{broken}"
    return f"{value(comparison.relative)} ({interval(comparison.relative)}){broken}"


def _how_useful(answer: Answer, alone: Comparison | None, added: Comparison | None, limit: float) -> tuple[str, str]:
    if alone is None and added is None:
        return "unanswered", "Not answered: no network trained on it was scored"
    if answer.weak:
        return "unanswered", "Not answered: Dice with real slices is too low"
    if answer.patients < FEWEST_PATIENTS:
        return "undecided", f"Too early to say: only {count(answer.patients, 'test patient')}"
    base = answer.baseline
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
    if not audit and not has_slices:
        words = "It has made no slices: its training or its sampling is not done."
        return Part("no_slices", "No slices", [words], brief=BRIEF["no_slices"])
    if not audit:
        return Part(
            "not_audited",
            "Not audited",
            ["No search for copies was made, so nothing is known about privacy. Make it: understudy audit."],
            brief=BRIEF["not_audited"],
        )
    kind, flags, controls = audit["verdict"]["kind"], audit.get("flags"), audit.get("controls")
    title = {"copies_found": "Yes: copies found", "no_sign": "No sign of copies"}.get(kind, "Cannot tell")
    if not flags or not controls:
        refused = {"refusal": audit.get("refusal")}
        return Part(kind, title, [audit["verdict"]["headline"]], refused, BRIEF.get(kind, title))
    must = [d for d in controls["detection"] if d["must"]]
    passed = [d for d in must if d["rate"] >= DETECTED]
    alarms = controls["false_alarms"]
    numbers = {
        "flagged": flags["count"], "judged": flags["judged"], "rate": flags["rate"],
        "low": flags["low"], "high": flags["high"], "by_chance": alarms["nominal"],
        "controls": len(must), "controls_passed": len(passed), "false_alarms": alarms["rate"],
    }  # fmt: skip
    if too_few_to_flag(audit):
        return Part(kind, title, [audit["verdict"]["headline"]], numbers, BRIEF.get(kind, title))
    by_mistake = (
        ""
        if alarms["rate"] is None
        else f", and flagged {percent(alarms['rate'], 1)} of new patients' slices by mistake"
    )
    lines = [
        f"{flags['count']:,} of {flags['judged']:,} slices are too near to a training slice"
        f" ({percent(flags['rate'], 1)},"
        f" 95\u00a0% interval {100 * flags['low']:.1f} to {percent(flags['high'], 1)}; by chance"
        f" {percent(alarms['nominal'], 1)}).",
        f"Tested on copies made on purpose, this search found {len(passed)} of {len(must)} kinds that it has to"
        f" find{by_mistake}.",
    ]
    if kind == "cannot_tell":
        lines.insert(0, audit["verdict"]["headline"])
    heaped = audit.get("concentration")
    if heaped and heaped["found"]:
        who = "one training patient" if heaped["patients"] == 1 else f"{heaped['patients']} training patients"
        lines.insert(
            1, f"The flagged slices are concentrated on {who}: look at the pairs in private/gallery.png before release."
        )
        numbers["concentrated_on"] = heaped["patients"]
    return Part(kind, title, lines, numbers, BRIEF.get(kind, title))


def _ranks(data: ReportData, scored: pd.DataFrame, answer: Answer) -> dict[str, dict[str, Any]]:
    """Generator -> its row of ranks by Dice among the generators, trained on alone; {} for fewer than two."""
    ids = {c.setting.id: c.setting.generator for c in primary(answer.comparisons, "synthetic")}
    if len(ids) < 2 or len(set(ids.values())) < len(ids):
        return {}
    try:
        found = ranks(scored, list(ids), metric="dice", scope=data.scope, seed=data.seed, resamples=RESAMPLES)
    except UnderstudyError:
        return {}  # settings of different patients; the table of ranks says so
    return {ids[str(row["setting"])]: {str(k): v for k, v in row.items()} for row in found.to_dict(orient="records")}


def _better(
    data: ReportData,
    scored: pd.DataFrame,
    answer: Answer,
    name: str,
    alone: Comparison | None,
    added: Comparison | None,
    placed: dict[str, dict[str, Any]],
    generators: int,
) -> Part:
    versus = {key: _against_real(data, scored, c) for key, c in (("alone", alone), ("added", added)) if c is not None}
    lines = [] if answer.weak else [f"{_WORDS[key]}: {v['words']}." for key, v in versus.items()]
    plain = {key: {k: x for k, x in v.items() if k != "words"} for key, v in versus.items()}
    numbers: dict[str, Any] = {"against_real": plain, "generators": generators}
    if row := placed.get(name):
        numbers |= {k: row[k] for k in ("rank", "rank_low", "rank_high")} | {"of": len(placed)}
        numbers["probability_best"] = row["p_rank_1"]
        kind = "best" if row["rank"] == 1 else "ranked"
        if answer.weak:
            return Part(kind, "Not ranked: Dice is too low", lines, numbers, "–")
        low, high = row["rank_low"], row["rank_high"]
        said = (
            "It has the same rank in nearly all resamples of test patients and trainings."
            if low == high
            else f"95\u00a0% interval of the rank {low:g} to {high:g}, by resampling test patients and trainings; first"
            f" in {percent(row['p_rank_1'])} of the resamples."
        )
        title = f"Rank {row['rank']:g} of {len(placed)} generators"
        return Part(kind, title, [said, *lines], numbers, f"{row['rank']:g} of {len(placed)}")
    if generators < 2:
        kinds = {key: v["kind"] for key, v in versus.items()}
        title = "Not compared: Dice is too low" if answer.weak else _single(kinds)
        return Part("alone", title, [*lines, "No other generator to compare with."], numbers)
    return Part("alone", "Not ranked", lines or ["There are no scores of it."], numbers, "–")


_WORDS = {"alone": "Alone", "added": "Added"}


def _single(kinds: dict[str, str]) -> str:
    """What one generator is better than, in a few words."""
    if "better" in kinds.values():
        return "Better than real slices alone"
    if not kinds:
        return "Not compared"
    return "Not better than real slices" if set(kinds.values()) != {"same"} else "No clear difference from real slices"


def _against_real(data: ReportData, scored: pd.DataFrame, c: Comparison) -> dict[str, Any]:
    """The difference of mean Dice from real slices with augmentation, by patient."""
    try:
        d = paired_difference(scored, c.setting.id, c.base.id, scope=data.scope, seed=data.seed, resamples=RESAMPLES)
    except UnderstudyError as error:
        return {"kind": "unknown", "words": f"not compared: {error.what}"}
    kind = "better" if d.low > 0 else "worse" if d.high < 0 else "same"
    said = {"better": "better than", "worse": "worse than", "same": "no clear difference from"}[kind]
    size = f"{_signed(d.value)}, 95\u00a0% interval {_signed(d.low)} to {_signed(d.high)}"
    return {
        "kind": kind, "difference": d.value, "low": d.low, "high": d.high,
        "words": f"{said} real slices (Dice {size})",
    }  # fmt: skip


def _signed(x: float) -> str:
    """E.g. "−0.06" with a real minus sign, "0.00" without any."""
    text = number(x, 2) if math.isnan(x) else f"{x:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")

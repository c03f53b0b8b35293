"""The answer that opens the page: can the synthetic slices replace the real ones, and how sure is that?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.scores import FOREGROUND
from understudy.metrics.statistics import Estimate, relative_dice
from understudy.report.data import ReportData, Setting, bounded, count, number, percent

FEWEST_PATIENTS = 5  # below, a percentile interval says nothing: 3 patients can be drawn in 10 ways only
POOREST_BASELINE = 0.3  # mean Dice below which a ratio to the baseline is no yardstick


@dataclass(frozen=True)
class Comparison:
    """A setting against the baseline, whole volumes, BraTS convention for empty masks.

    Attributes:
        setting, base: which, and the real + augmentation setting of the same network.
        relative: Dice relative to `base`, with the interval by patient.
        missed, present: volumes with a tumour where nothing was found, of how many with one.
        false_alarms, absent: volumes without a tumour where something was found, of how many without one.
        primary: same network and augmentation as the study's baseline and no part of a ratio or subset study, so that
            only the kind of slices differs.
    """

    setting: Setting
    base: Setting
    relative: Estimate
    missed: int
    present: int
    false_alarms: int
    absent: int
    primary: bool


@dataclass(frozen=True)
class Answer:
    """What the page opens with.

    Attributes:
        verdict: "yes", "no", "partly", "undecided" or "unanswered".
        headline, sentences: in words.
        evidence, reasons: how strong it is, and why.
        comparisons: all settings but the baselines.
        baseline_dice: mean over classes, patients and repeats; NaN without a baseline.
        left_out: settings that could not be scored, and why.
    """

    verdict: str
    headline: str
    sentences: list[str]
    evidence: str
    reasons: list[str]
    comparisons: list[Comparison]
    baseline: Comparison | None
    baseline_dice: float
    patients: int
    repeats: int
    left_out: list[str]


def make_answer(data: ReportData, scored: pd.DataFrame, left_out: list[str]) -> Answer:
    """The answer from scored rows (BraTS convention); `left_out` names the settings that are not among them."""
    base = data.baseline_setting
    present = set(scored["setting"]) if len(scored) else set()
    if base is None or base.id not in present:
        return _without_baseline(left_out, bool(present))
    scored = scored[scored["scope"] == data.scope]
    comparisons = []
    for setting in data.settings:
        own = data.baseline_of(setting)
        own = own if own and own.id in present else base
        if setting.id in present and setting.id != own.id:
            try:
                relative = relative_dice(scored, setting.id, own.id, scope=data.scope, seed=data.seed)
            except UnderstudyError as error:
                left_out.append(f"{setting.label}: {error.what}.")
                continue
            comparisons.append(_compared(scored, setting, relative, own, base))
    one = relative_dice(scored, base.id, base.id, scope=data.scope, seed=data.seed)
    mine = scored[scored["setting"] == base.id]
    classes = mine[mine["class_name"].isin(data.class_names)]
    dice = float(classes.groupby("class_name")["dice"].mean().mean())
    baseline = _compared(scored, base, one, base, base)
    repeats = min([one.n_repeats, *(c.relative.n_repeats for c in comparisons)])
    verdict, headline = _verdict(comparisons, baseline, dice, one.n_patients, data.margin)
    evidence, reasons = _evidence(one.n_patients, repeats, scored, dice)
    return Answer(
        verdict,
        headline,
        _sentences(comparisons, baseline, dice),
        evidence,
        reasons,
        comparisons,
        baseline,
        dice,
        one.n_patients,
        repeats,
        left_out,
    )


def _without_baseline(left_out: list[str], any_rows: bool) -> Answer:
    why = (
        "There is no score of a network trained on the real slices, so there is nothing to compare with."
        if any_rows
        else "No test patient has been scored yet."
    )
    headline = "Not answered yet."
    return Answer("unanswered", headline, [why], "none", [], [], None, float("nan"), 0, 0, left_out)


def _compared(
    scored: pd.DataFrame, setting: Setting, relative: Estimate, own: Setting, base: Setting
) -> Comparison:
    rows = scored[scored["setting"] == setting.id]
    rows = rows[rows["class_name"] == FOREGROUND] if FOREGROUND in set(rows["class_name"]) else rows
    empty = rows["truth_empty"].astype(bool)
    same = setting.segmenter == base.segmenter and setting.augmentation == base.augmentation
    return Comparison(
        setting,
        own,
        relative,
        int(rows["missed"].sum()),
        int((~empty).sum()),
        int(rows["false_alarm"].sum()),
        int(empty.sum()),
        same and setting.plain,
    )


def primary(comparisons: list[Comparison], training: str) -> list[Comparison]:
    """Comparisons of one kind of training in which only the slices differ; else of any network and augmentation."""
    mine = [c for c in comparisons if c.setting.training == training and c.setting.plain]
    return [c for c in mine if c.primary] or mine


def best(comparisons: list[Comparison]) -> Comparison | None:
    """The one with the highest relative Dice; NaN loses."""
    return max(comparisons, key=lambda c: (not math.isnan(c.relative.value), c.relative.value), default=None)


def _verdict(
    comparisons: list[Comparison], baseline: Comparison, dice: float, patients: int, margin: float
) -> tuple[str, str]:
    top = best(primary(comparisons, "synthetic"))
    if top is None:
        return "unanswered", "Not answered yet: no network trained on synthetic slices only has been scored."
    relative, limit = top.relative, 1 - margin
    if math.isnan(dice) or dice < POOREST_BASELINE or math.isnan(relative.value):
        return "unanswered", "Not answered: the yardstick is too weak."
    if patients < FEWEST_PATIENTS:
        return "undecided", f"Too early to say: only {count(patients, 'patient')} to test on."
    reached = f"synthetic slices reach {value(relative)} of the real slices' Dice ({interval(relative)})"
    if relative.low >= limit:
        rate, base_rate = top.missed / max(top.present, 1), baseline.missed / max(baseline.present, 1)
        if rate > base_rate:
            return "partly", "On average yes, but more tumours are missed altogether."
        return "yes", f"Yes: {reached}, as far as {patients} test patients can show."
    if relative.high < limit:
        kind, word = ("partly", "Not fully") if relative.value >= 0.8 else ("no", "No")
        return kind, f"{word}: {reached}, as far as {patients} test patients can show."
    return "undecided", f"Undecided: {reached}, and {patients} test patients are too few to tell."


def _sentences(comparisons: list[Comparison], baseline: Comparison, dice: float) -> list[str]:
    said = []
    if math.isnan(dice) or dice < POOREST_BASELINE:
        said.append(
            f"The network trained on the real slices reached a mean Dice of {number(dice)} only, so a share of it says"
            " nothing. Train longer, or on more patients."
        )
    synthetic, both = primary(comparisons, "synthetic"), best(primary(comparisons, "both"))
    top = best(synthetic)
    if top is not None:
        of = (
            f" (the best of {len(synthetic)} generators, {top.setting.generator})"
            if len(synthetic) > 1
            else ""
        )
        said.append(
            f"A network trained only on synthetic slices{of} reached {value(top.relative)} of the Dice score of the"
            f" same network trained on the real slices (95\u00a0% interval by patient {interval(top.relative)};"
            f" real slices: mean Dice {number(dice)})."
        )
    if both is not None:
        low, high = both.relative.low, both.relative.high
        effect = "that helped" if low > 1 else "that did harm" if high < 1 else "no measurable difference"
        said.append(
            f"Adding the synthetic slices to the real ones gave {value(both.relative)} ({interval(both.relative)}):"
            f" {effect}."
        )
    shown = [c for c in (baseline, both, top) if c is not None]
    if shown:
        missed = "; ".join(f"{_short(c)} {c.missed} of {c.present}" for c in shown)
        over = ", counted over all trainings" if baseline.relative.n_repeats > 1 else ""
        said.append(f"Tumours missed altogether{over}: {missed}.")
        if not baseline.absent:
            said.append(
                "False alarms in patients without a tumour cannot be judged: every test patient has one."
            )
        else:
            alarms = "; ".join(f"{_short(c)} {c.false_alarms} of {c.absent}" for c in shown)
            said.append(f"False alarms where there is no tumour: {alarms}.")
    return said


def _short(comparison: Comparison) -> str:
    names = {"real": "real slices", "both": "real + synthetic", "synthetic": "synthetic only"}
    return names.get(comparison.setting.training, comparison.setting.label)


def _digits(estimate: Estimate) -> int:
    """Decimals of a percentage: one where the interval is narrow enough to deserve it."""
    return int(math.isfinite(estimate.high - estimate.low) and estimate.high - estimate.low < 0.03)


def value(estimate: Estimate) -> str:
    """E.g. "87 %", as fine as the interval allows."""
    return percent(estimate.value, _digits(estimate))


def interval(estimate: Estimate) -> str:
    """E.g. "79 to 93 %"."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return "no interval"
    digits = _digits(estimate)
    return f"{100 * estimate.low:.{digits}f} to {bounded(estimate.high, digits)}"


def _evidence(patients: int, repeats: int, scored: pd.DataFrame, dice: float) -> tuple[str, list[str]]:
    reasons = []
    level = 0 if patients < 10 else 1 if patients < 30 else 2
    if patients < 30:
        few = " With so few the interval is too narrow as well." if patients < 10 else ""
        reasons.append(f"{count(patients, 'test patient')}: a handful of others could move the result.{few}")
    if repeats == 1:
        level = min(level, 1)
        reasons.append(
            "Each network was trained once: how much another training would differ is not in the interval."
        )
    elif repeats < 5:
        reasons.append(
            f"Each network was trained {repeats} times: the spread between trainings is known roughly."
        )
    sites = scored["site"].replace("", pd.NA).nunique() if "site" in scored else 0
    if sites < 2:
        reasons.append("One hospital only, or the hospitals are not known: nothing is said about others.")
    if dice < 0.6:
        level = min(level, 1)
        reasons.append(f"The yardstick is low: mean Dice {number(dice)} with real slices.")
    return ("weak", "modest", "fair")[level], reasons

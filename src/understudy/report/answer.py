"""The study's answer: can the synthetic slices replace the real ones, and how sure is that?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.bootstrap import Estimate
from understudy.metrics.overlap import FOREGROUND
from understudy.metrics.statistics import relative_dice
from understudy.report.data import ReportData, Setting, count, number
from understudy.report.tables import INTERVAL, interval, value

FEWEST_PATIENTS = 5  # below, a percentile interval says nothing: 3 patients can be drawn in 10 ways only
SUSPICIOUS = 1.1  # relative Dice that synthetic slices hardly reach without having seen the test patients
POOREST_BASELINE = 0.3  # mean Dice of real slices below which a share of it says nothing


@dataclass(frozen=True)
class Comparison:
    # a setting against the baseline, whole volumes, BraTS rule for empty masks
    setting: Setting
    base: Setting  # the real + augmentation setting of the same network
    relative: Estimate  # Dice relative to `base`, with the interval by patient
    dice: float  # mean over classes, patients and repeats
    missed: int  # segmentations that found no voxel of the tumour ...
    present: int  # ... of how many of volumes with one
    false_alarms: int  # segmentations that found something ...
    absent: int  # ... of how many of volumes without a tumour
    primary: bool  # same network and augmentation as the study's baseline, `plain`: only the slices differ

    def misses_more_than(self, baseline: Comparison) -> bool:
        """Whether the tumour is missed altogether more often."""
        return self.missed / max(self.present, 1) > baseline.missed / max(baseline.present, 1)


@dataclass(frozen=True)
class Answer:
    verdict: str  # "yes", "no", "partly", "undecided", "unanswered" or "withheld" (copies of those who test)
    headline: str
    sentences: list[str]
    evidence: str  # how strong it is: "weak", "modest", "fair" or "none" ...
    reasons: list[str]  # ... and why
    comparisons: list[Comparison]  # all settings but the baselines
    baseline: Comparison | None
    baseline_dice: float  # mean over classes, patients and repeats; NaN without a baseline
    patients: int
    repeats: int
    left_out: list[str]  # settings that could not be scored, and why

    @property
    def weak(self) -> bool:
        """Whether the network trained on real slices finds too little to be compared with: no share of it is shown."""
        return not self.baseline_dice >= POOREST_BASELINE


def make_answer(data: ReportData, scored: pd.DataFrame, left_out: list[str]) -> Answer:
    """The answer from scored rows (BraTS rule); `left_out` names the settings that are not among them."""
    base = data.baseline_setting
    present = set(scored["setting"]) if len(scored) else set()
    if base is None or base.id not in present:
        why = "No network trained on the real slices has been scored, so there is nothing to compare with."
        why = why if present else "No test patient has been scored yet."
        return Answer("unanswered", "Not answered yet.", [why], "none", [], [], None, math.nan, 0, 0, left_out)
    scored = scored[scored["scope"] == data.scope]
    comparisons = []
    for setting in data.settings:
        own = data.baseline_of(setting)  # the same network on real slices
        own = own if own and own.id in present else base
        if setting.id in present and setting.id != own.id:
            try:
                comparisons.append(_compared(data, scored, setting, own, base))
            except UnderstudyError as error:
                left_out.append(f"{setting.label}: {error.what}.")
    baseline = _compared(data, scored, base, base, base)
    patients = baseline.relative.n_patients
    repeats = min(c.relative.n_repeats for c in [baseline, *comparisons])
    verdict, headline = _verdict(data, comparisons, baseline, patients)
    evidence, reasons = _evidence(patients, repeats, scored, baseline.dice)
    sentences = _sentences(comparisons, baseline)
    absent = scored.groupby("class_name")["truth_empty"].all()
    sentences += [
        f"No test patient has the class {name}: its Dice is 1 where nothing of it is predicted and 0 where something"
        " is, and that counts in every mean over the classes. Test on patients who have it, or leave it out."
        for name in data.class_names
        if absent.get(name, False)
    ]
    return Answer(verdict, headline, sentences, evidence, reasons, comparisons, baseline, baseline.dice, patients,
                  repeats, left_out)  # fmt: skip


def _compared(data: ReportData, scored: pd.DataFrame, setting: Setting, own: Setting, base: Setting) -> Comparison:
    relative = relative_dice(scored, setting.id, own.id, scope=data.scope, seed=data.seed)
    rows = scored[scored["setting"] == setting.id]
    dice = rows[rows["class_name"].isin(data.class_names)].groupby("class_name")["dice"].mean().mean()
    rows = rows[rows["class_name"] == FOREGROUND] if FOREGROUND in set(rows["class_name"]) else rows
    empty = rows["truth_empty"].astype(bool)
    missed, alarms = int(rows["missed"].sum()), int(rows["false_alarm"].sum())
    same = (setting.segmenter, setting.augmentation) == (base.segmenter, base.augmentation)
    return Comparison(setting, own, relative, float(dice), missed, int((~empty).sum()), alarms, int(empty.sum()),
                      same and setting.plain)  # fmt: skip


def primary(comparisons: list[Comparison], training: str) -> list[Comparison]:
    """Comparisons of one kind of training in which only the slices differ; else of any network and augmentation."""
    mine = [c for c in comparisons if c.setting.training == training and c.setting.plain]
    return [c for c in mine if c.primary] or mine


def _best(comparisons: list[Comparison]) -> Comparison | None:
    """The one with the highest relative Dice; NaN loses."""
    return max(comparisons, key=lambda c: (not math.isnan(c.relative.value), c.relative.value), default=None)


def _verdict(data: ReportData, comparisons: list[Comparison], baseline: Comparison, patients: int) -> tuple[str, str]:
    of_copies = {name: leak for name, leak in data.leaks.items() if leak["parts"]}
    alone = primary(comparisons, "synthetic")
    top = _best([c for c in alone if c.setting.generator not in of_copies] or alone)
    if top is None:
        return "unanswered", "Not answered yet: no network trained on synthetic slices only has been scored."
    relative, limit = top.relative, 1 - data.margin
    if not baseline.dice >= POOREST_BASELINE or math.isnan(relative.value):
        return "unanswered", (
            "Not answered: trained on the real slices, the network reaches a mean Dice of only"
            f" {number(baseline.dice, 2)}; below {number(POOREST_BASELINE, 1)} there is nothing to compare with. Train"
            " it longer or on more patients."
        )
    if patients < FEWEST_PATIENTS:
        few = count(patients, "test patient")
        return "undecided", f"Too early to say: only {few}; it takes at least {FEWEST_PATIENTS}."
    sets = len({c.setting.generator for c in alone})
    whose = f"the slices of {top.setting.shown}, the best of {sets} sets," if sets > 1 else "synthetic slices"
    reached = f"{whose} reach {value(relative)} of the real slices' Dice ({INTERVAL} {interval(relative)})"
    if leak := of_copies.get(top.setting.generator):
        return "withheld", f"Withheld: {leak['words']} {leak['how'].capitalize()} these slices, {reached}."
    doubt = (
        " That is more than real slices reach: look whether test patients are among the slices under other names, and"
        " whether the training on real slices was long enough."
    ) * (relative.value >= SUSPICIOUS)
    if relative.low >= limit and top.misses_more_than(baseline):  # a good mean may hide tumours that are not found
        return "partly", (
            f"Not fully: {reached}, but the tumour is missed altogether more often ({top.missed} of"
            f" {count(top.present, 'segmentation')}; real slices {baseline.missed} of {baseline.present})."
        )
    if relative.low >= limit:
        return "yes", f"Yes: {reached}, {patients} test patients.{doubt}"
    if relative.high < limit:
        kind, word = ("partly", "Not fully") if relative.value >= 0.8 else ("no", "No")
        return kind, f"{word}: {reached}, {patients} test patients."
    return "undecided", f"Undecided: {reached}, and {patients} test patients are too few to tell.{doubt}"


def _sentences(comparisons: list[Comparison], baseline: Comparison) -> list[str]:
    said, dice = [], baseline.dice
    synthetic, both = primary(comparisons, "synthetic"), _best(primary(comparisons, "both"))
    top = _best(synthetic)
    of = f" (the best of {len(synthetic)} generators, {top.setting.shown})" if top and len(synthetic) > 1 else ""
    if not dice >= POOREST_BASELINE:
        others = [f"synthetic slices only{of} {number(top.dice)}"] if top is not None else []
        others += [f"real and synthetic slices {number(both.dice)}"] if both is not None else []
        means = "; ".join([f"real slices {number(dice)}", *others])
        said.append(f"Mean Dice: {means}. No shares are given: of so low a Dice they would mean nothing.")
    elif top is not None:
        said.append(
            f"Trained only on synthetic slices{of}, a network reached {value(top.relative)} of the Dice of the same"
            f" network trained on the real slices ({INTERVAL} by patient {interval(top.relative)}; mean Dice"
            f" {number(top.dice)} against {number(dice)})."
        )
    if both is not None and dice >= POOREST_BASELINE:
        low, high = both.relative.low, both.relative.high
        effect = "that helped" if low > 1 else "that did harm" if high < 1 else "no measurable difference"
        share = f"{value(both.relative)} ({interval(both.relative)})"
        said.append(f"Adding the synthetic slices to the real ones gave {share}: {effect}.")
    short = {"real": "real slices", "both": "real + synthetic", "synthetic": "synthetic only"}
    shown = [(short.get(c.setting.training, c.setting.label), c) for c in (baseline, both, top) if c is not None]
    if baseline.present:
        missed = "; ".join(f"{name} {c.missed} of {c.present}" for name, c in shown)
        said.append(f"Segmentations that found no voxel of a tumour that is there: {missed}.")
    if baseline.absent:
        alarms = "; ".join(f"{name} {c.false_alarms} of {c.absent}" for name, c in shown)
        said.append(f"Segmentations that found a tumour where there is none: {alarms}.")
    else:
        said.append("False alarms in patients without a tumour cannot be judged: every test patient has one.")
    return said


def _evidence(patients: int, repeats: int, scored: pd.DataFrame, dice: float) -> tuple[str, list[str]]:
    reasons = []
    level = 0 if patients < 10 else 1 if patients < 30 else 2
    if patients < 30:
        few = " With fewer than 10 the interval is too narrow." if patients < 10 else ""
        reasons.append(f"{count(patients, 'test patient')}: a few others could change the result.{few}")
    if repeats == 1:
        level = min(level, 1)
        reasons.append("Each network was trained once: the spread over trainings is not in the interval.")
    elif repeats < 5:
        reasons.append(f"Each network was trained {repeats} times: the spread over trainings is known only roughly.")
    sites = scored["site"].replace("", pd.NA).nunique() if "site" in scored else 0
    if sites < 2:
        reasons.append("One hospital, or hospitals not known: others may give other results.")
    if dice < 0.6:
        level = min(level, 1)
        reasons.append(f"The Dice with real slices is low: {number(dice)} on average.")
    return ("weak", "modest", "fair")[level], reasons

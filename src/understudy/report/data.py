"""What a report is made from, and the words for numbers that all its parts share."""

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from understudy import names
from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.metrics.scores import KEPT, WHOLE, class_names, flag, region_names
from understudy.metrics.statistics import MEAN
from understudy.slices import SliceSet

# Kind of training -> its words, colour and marker in every figure. Colours differ in lightness as well as in hue.
TRAINING = {
    "real": ("Real", "#222222", "o"),
    "both": ("Real + synthetic", "#3569A8", "s"),
    "synthetic": ("Synthetic", "#AA3377", "D"),
    "ratio": ("", "#1B7A6B", "^"),
    "finetune": ("", "#A65E00", "v"),
}
LIGHTER = {"#A65E00": "#D9AC70", "#222222": "#8A8A8A", "#3569A8": "#8DB4DC", "#AA3377": "#D98DB8", "#1B7A6B": "#86BFB5"}
MOST_SHARE = 10.0  # a relative Dice beyond this is not written out


@dataclass(frozen=True)
class Setting:
    id: str  # as in the rows
    label: str  # for people, e.g. "Synthetic (StyleGAN 2)"
    training: str  # "real", "synthetic", "both", "ratio" (constant size) or "finetune" (synthetic, then real)
    generator: str  # name, "" for real slices only
    segmenter: str
    augmentation: bool  # of the segmenter's training slices
    colour: str  # in every figure, as the marker
    marker: str
    real_share: float | None = None  # of real slices in a ratio's set, of real samples in "both" if not one half
    real_fraction: float = 1.0  # share of the real training patients
    real_patients: int | None = None  # their number where the study asked for so many
    shown: str = ""  # the generator as it is written for people
    network: str = ""  # so the segmenter

    @property
    def plain(self) -> bool:
        """All real patients, all synthetic slices, or both equally often: no part of a ratio or subset study."""
        parts = self.real_share is not None or self.real_fraction < 1 or self.real_patients is not None
        return self.training not in ("ratio", "finetune") and not parts

    @property
    def original(self) -> str:
        """Which original slices are used, as the paper's column "Orig": a tick for all of them."""
        if self.training == "ratio":
            return f"{percent_of(self.real_share or 0)} of slices" if self.real_share else ""
        if self.training == "synthetic":
            return ""
        if self.real_patients is not None:
            return count(self.real_patients, "patient")
        parts = [f"{percent_of(self.real_fraction)} of patients"] * (self.real_fraction < 1)
        parts += [f"{percent_of(self.real_share)} of samples"] if self.real_share is not None else []
        return ", ".join(parts) or "✓"

    @property
    def identity(self) -> list[str]:
        """The paper's first columns: network, generator, original slices used, augmentation."""
        return [self.network, self.shown or "none", self.original, "✓" if self.augmentation else ""]

    @property
    def way(self) -> str:
        """The network, and "no augmentation" where that is so."""
        return self.network + ("" if self.augmentation else ", no augmentation")


@dataclass
class ReportData:
    """Everything a report shows, as paths and frames; what is missing is said on the page.

    A generator's name may be "stylegan2" or, in an ensemble's trainings, "stylegan2, member 2".
    """

    title: str
    study: dict[str, Any]  # the resolved study file, plain JSON values
    scores: pd.DataFrame  # raw rows (`metrics.scores`) of test patients, and the columns of `settings`, repeat, site
    slices: Path | None = None  # the prepared slice set
    volumes: Path | None = None  # the test volumes
    synthetic: dict[str, Path] = field(default_factory=dict)  # generator -> its slice set
    quality: dict[str, Path] = field(default_factory=dict)  # generator -> quality.json
    audits: dict[str, Path] = field(default_factory=dict)  # generator -> folder of its audit
    leaks: dict[str, dict[str, Any]] = field(default_factory=dict)  # generator -> copies of held-out patients, `how`
    annotations: dict[str, Path] = field(default_factory=dict)  # generator -> annotations.json
    generator_histories: dict[str, Path] = field(default_factory=dict)  # generator -> history.jsonl
    generator_health: dict[str, dict[str, Any]] = field(default_factory=dict)  # generator -> `health.summary`
    generator_stopping: dict[str, dict[str, Any]] = field(default_factory=dict)  # `until.record`, where it looked
    segmenter_histories: dict[tuple[str, int], Path] = field(default_factory=dict)  # (setting, repeat) -> history.jsonl
    # (setting, repeat) -> folder of `<subject>.npz` whose `prediction` is uint8 [Z, H, W]
    predictions: dict[tuple[str, int], Path] = field(default_factory=dict)
    baseline: str = ""  # the setting of real slices with augmentation; "" picks it from the rows
    # A row for each training that the study asks for, with the columns of `scores` that say which; empty if not known.
    planned: pd.DataFrame = field(default_factory=pd.DataFrame)
    # stage, id, name, seconds, peak_rss_mb, state; of failed ones also failure (class) and message
    jobs: pd.DataFrame = field(default_factory=pd.DataFrame)
    reading: Path | None = None  # folder with the analysis of a reading study, `table6.json`
    correlation: Path | None = None  # folder with what `understudy correlate` wrote
    provenance: dict[str, Any] = field(default_factory=dict)  # versions, hashes, machine, `command` that makes it again
    problems: list[dict[str, Any]] = field(default_factory=list)  # of the input: patient, file, problem, fix, severity
    show_patient_ids: bool = True  # False writes "patient 1", "patient 2", ... in all files of the report
    margin: float = 0.05  # loss of Dice, as a fraction of the baseline's, that still counts as "can replace"
    seed: int = 0  # of the choice of pictures and of the resampling

    @cached_property
    def settings(self) -> list[Setting]:
        """The settings with rows, the baseline first, then by training; every one with a label of its own."""
        scored = set(self.scores.get("setting", ()))
        return [s for s in self.every_setting if s.id in scored]

    @cached_property
    def every_setting(self) -> list[Setting]:
        """The settings with rows and those that are planned but have none."""
        known = [frame for frame in (self.scores, self.planned) if len(frame)]
        return _settings(pd.concat(known, ignore_index=True), self.baseline, self.shown) if known else []

    @cached_property
    def generators(self) -> list[str]:
        """Every generator of the study by name, in the study's order."""
        return list(dict.fromkeys([*self.synthetic, *(s.generator for s in self.every_setting if s.generator)]))

    def kind_of(self, group: str, name: str) -> str:
        """Kind of an entry of "generators" or "segmenters" in the study file; its name if the file has no kind."""
        entry = (self.study.get(group) or {}).get(name) or {}
        return str(entry.get("kind") or (entry.get("model") or {}).get("kind") or name)

    def training_of(self, name: str) -> tuple[str, float]:
        """Which training a generator is a state of, its own unless it is a snapshot, and after how many kimg; NaN where
        the study file does not say."""
        entry = (self.study.get("generators") or {}).get(name) or {}
        snapshot = entry.get("snapshot") or {}
        kimg = snapshot.get("kimg", (entry.get("training") or {}).get("kimg", math.nan))
        return str(snapshot.get("of", name)), float(kimg)

    def shown(self, name: str) -> str:
        """A generator or network as people write it: "StyleGAN 2, member 2"; a name that the user chose stays."""
        groups = "generators", "segmenters"  # a name such as "unet" that the study gives to another kind stays, too
        parts = [names.display_name(p) if all(self.kind_of(g, p) == p for g in groups) else p for p in name.split(", ")]
        return str(self.hide(", ".join(parts)))

    @property
    def baseline_setting(self) -> Setting | None:
        """The real + augmentation setting, None if it has no rows."""
        if self.baseline:
            return next((s for s in self.settings if s.id == self.baseline), None)
        return next((s for s in self.settings if s.training == "real" and s.plain and s.augmentation), None)

    def baseline_of(self, setting: Setting) -> Setting | None:
        """What a setting is measured against: real slices with augmentation and the same network (as in the paper)."""
        base = self.baseline_setting
        if base is None or base.segmenter == setting.segmenter:
            return base
        like = ("real", True, setting.segmenter, base.augmentation)
        return next((s for s in self.settings if (s.training, s.plain, s.segmenter, s.augmentation) == like), base)

    def closest(self, most: int) -> list[Setting]:
        """All settings, or if there are more than `most` those that differ from the baseline in their slices only."""
        base = self.baseline_setting
        if len(self.settings) <= most or base is None:
            return self.settings
        like = (base.segmenter, base.augmentation)
        return [s for s in self.settings if (s.segmenter, s.augmentation) == like and s.plain]

    @cached_property
    def scope(self) -> str:
        """What the headline counts: whole volumes, or kept slices if only these were scored."""
        return KEPT if len(self.scores) and WHOLE not in set(self.scores["scope"]) else WHOLE

    @cached_property
    def class_names(self) -> list[str]:
        """Classes scored, without regions and "foreground"."""
        return class_names(self.scores) if len(self.scores) else []

    @property
    def mean_name(self) -> str:
        """Which Dice of a setting is its main one: the mean over all classes, or the only class."""
        return self.class_names[0] if len(self.class_names) == 1 else MEAN

    @cached_property
    def regions(self) -> list[str]:
        """Regions scored, unions of classes such as WT."""
        return region_names(self.scores) if len(self.scores) else []

    @cached_property
    def runs(self) -> dict[tuple[str, int], dict[str, Any]]:
        """(setting, repeat) -> the record of its network's training, where there is one."""
        files = {key: path.with_name("config.json") for key, path in sorted(self.segmenter_histories.items())}
        return {key: read_json(path) for key, path in files.items() if path.is_file()}

    @cached_property
    def collapsed(self) -> set[tuple[str, int]]:
        """(setting, repeat) of the networks whose training collapsed, by their records or the rows."""
        found = {key for key, run in self.runs.items() if run.get("outcome") == "collapsed"}
        marked = self.scores[flag(self.scores, "collapsed")] if len(self.scores) else self.scores
        return found | {
            (str(s), int(r)) for s, r in zip(marked.get("setting", ()), marked.get("repeat", ()), strict=True)
        }

    def collapsed_of(self, setting: Setting) -> tuple[int, int]:
        """How many of a setting's trainings collapsed, of how many with scores."""
        repeats = set(self.scores.loc[self.scores["setting"] == setting.id, "repeat"])
        return sum((setting.id, int(repeat)) in self.collapsed for repeat in repeats), len(repeats)

    def marked(self, setting: Setting) -> str:
        """The setting's label, and how many of its trainings collapsed if any did."""
        broken, of = self.collapsed_of(setting)
        return f"{setting.label} [{broken} of {of} collapsed]" if broken else setting.label

    def about(self, setting: Setting) -> dict[str, Any]:
        """The first columns of a table's frame."""
        broken, of = self.collapsed_of(setting)
        return {"setting": setting.id, "label": setting.label, "n_repeats": of, "n_collapsed": broken}

    def recorded(self, setting: Setting, *keys: str, all_values: bool = False) -> list[Any]:
        """A nested value of the record of each of a setting's trainings; only numbers unless `all_values`."""
        found: list[Any] = [run for (name, _), run in self.runs.items() if name == setting.id]
        for key in keys:
            found = [inner.get(key) if isinstance(inner, dict) else None for inner in found]
        return found if all_values else [int(v) for v in found if isinstance(v, int | float)]

    @cached_property
    def patient_names(self) -> dict[str, str]:
        """Id of a scored patient -> what is written for it."""
        found = sorted(map(str, set(self.scores.get("subject", ()))))
        return {s: s if self.show_patient_ids else f"patient {i}" for i, s in enumerate(found, start=1)}

    @cached_property
    def _replaced(self) -> tuple[re.Pattern[str], dict[str, str]] | None:
        """Every id that is known from scores, slices and problems, and what is written instead."""
        known = {str(p["patient"]) for p in self.problems if p.get("patient")}
        if self.slices is not None:
            with contextlib.suppress(UnderstudyError, KeyError):
                known |= set(map(str, SliceSet.open(self.slices).index["subject"]))
        replaced = {**dict.fromkeys(known, "(patient)"), **self.patient_names}
        # the longest first: "P12" before "P1"
        ids = "|".join(map(re.escape, sorted(filter(None, replaced), key=len, reverse=True)))
        return (re.compile(rf"(?<![A-Za-z0-9])(?:{ids})(?![A-Za-z0-9])"), replaced) if ids else None

    def hide(self, value: Any) -> Any:
        """Strings, and strings in lists and dicts, without patient ids if these are not to be shown."""
        if self.show_patient_ids or self._replaced is None:
            return value
        if isinstance(value, dict):
            return {self.hide(k): self.hide(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(v) for v in value]
        if not isinstance(value, str | Path):
            return value
        pattern, replaced = self._replaced
        return pattern.sub(lambda m: replaced[m.group()], str(value))


def _settings(scores: pd.DataFrame, baseline: str, shown: Callable[[str], str]) -> list[Setting]:
    """A setting for each id in the rows, labelled so that no two are alike, the baseline first."""
    unique = scores.drop_duplicates("setting")
    several_networks = unique["segmenter"].nunique() > 1
    augmentations = unique["augmentation"].astype(bool).nunique() > 1
    several_generators = len({g for g in unique["generator"] if isinstance(g, str) and g}) > 1
    found = []
    for row in unique.to_dict(orient="records"):
        # settings of a study without such parts have NaN, or no such column
        share, fraction, patients = (
            None if pd.isna(v := row.get(c)) else float(v) for c in ("real_share", "real_fraction", "real_patients")
        )
        fraction, few = 1.0 if fraction is None else fraction, None if patients is None else int(patients)
        generator = row["generator"] if isinstance(row["generator"], str) else ""
        segmenter, augmentation, training = str(row["segmenter"]), bool(row["augmentation"]), str(row["training"])
        label = _trained_on(training, share, fraction, shown(generator) if several_generators else "", few)
        label += f", {shown(segmenter)}" if several_networks else ""
        label += ", no augmentation" if augmentations and not augmentation else ""
        _, colour, marker = TRAINING.get(training, ("", "#555555", "^"))
        colour = colour if augmentation or not augmentations else LIGHTER.get(colour, colour)
        found.append(Setting(str(row["setting"]), label, training, generator, segmenter, augmentation, colour, marker,
                             share, fraction, few, shown(generator), shown(segmenter)))  # fmt: skip
    first, order = next((s.segmenter for s in found if s.id == baseline), ""), list(TRAINING)

    def place(s: Setting) -> tuple[Any, ...]:
        # the baseline first, then its network; by training, more real slices first
        training = order.index(s.training) if s.training in order else 9
        share = -1.0 if s.real_share is None else s.real_share
        parts = (training, -s.real_fraction, s.real_patients or 0, share)
        return s.id != baseline, s.segmenter != first, s.segmenter, *parts, not s.augmentation, s.generator

    return sorted(found, key=place)


def _trained_on(training: str, share: float | None, fraction: float, generator: str, patients: int | None) -> str:
    """E.g. "Real + synthetic (StyleGAN 2, 20 % of patients)", "Synthetic (StyleGAN 2), then 5 real patients"."""
    parts = [generator] if generator else []
    if training == "finetune":
        before = _trained_on("synthetic", None, 1.0, generator, None)
        return f"{before}, then {count(int(patients or 0), 'real patient')}"
    if training == "ratio":
        label = f"{percent_of(share or 0)} real, {percent_of(1 - (share or 0))} synthetic"
    else:
        label = TRAINING[training][0] if training in TRAINING else training
        parts += [count(patients, "patient")] if patients is not None else []
        parts += [f"{percent_of(fraction)} of patients"] if fraction < 1 else []
        parts += [f"{percent_of(share)} of samples real"] if share is not None else []
    return f"{label} ({', '.join(parts)})" if parts else label


def percent(value: float | None, digits: int = 0) -> str:
    """E.g. "87 %" of 0.87, the space unbreakable; a dash for what is not there."""
    return names.percent(value, digits, "\N{NO-BREAK SPACE}")


def percent_of(share: float) -> str:
    """E.g. "5 %", "2.5 %": as fine as the share itself."""
    return f"{round(100 * share, 2):g}\N{NO-BREAK SPACE}%"


def bounded(value: float | None, digits: int = 0) -> str:
    """As `percent`, "over 1000 %" above that: it is a share of nearly 0, and its digits say nothing."""
    beyond = value is not None and MOST_SHARE < value < math.inf
    return f"over {percent(MOST_SHARE)}" if beyond else percent(value, digits)


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """E.g. "0.713" or "−0.713", with `sign` "+" "+0.713"; a dash for what is not there."""
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:{sign}.{digits}f}".replace("-", "−")


def between(low: float | None, high: float | None, digits: int = 3) -> str:
    """An interval, e.g. "0.61 to 0.72"; a dash without one."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"{number(low, digits)} to {number(high, digits)}"


def p_value(p: float) -> str:
    """E.g. "0.012", or "< 0.001" for what would be printed as zero."""
    return "< 0.001" if p < 0.0005 else number(p)


def count(value: int, one: str) -> str:
    """E.g. "1 patient", "1,054 slices"."""
    return f"{value:,} {one if value == 1 else one + 's'}"


def listed(words: Sequence[str]) -> str:
    """E.g. "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)

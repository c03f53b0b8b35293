"""The grid of trainings: the fields `generators` to `repeats` of a study file, and the settings that follow from them.

The id of a setting is made from what it is: adding others to a study leaves it, its jobs and its results alone.
"""

import itertools
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from understudy.errors import UnderstudyError
from understudy.io.settings import problem_at
from understudy.segmenters.config import MixtureConfig, SegmenterTrainingConfig
from understudy.study.config.cohorts import Name, Patients
from understudy.study.config.networks import AnyGenerator, SegmenterSpec, named_kinds, with_snapshots
from understudy.study.config.yaml import Strict

Training = Literal["real", "synthetic", "both"]
Kind = Literal["real", "synthetic", "both", "ratio", "finetune"]
Entry = TypeVar("Entry")


def _no_duplicates(value: list[Entry]) -> list[Entry]:
    if len(set(value)) < len(value):
        raise ValueError(f"duplicate entries: {value}")
    return value


def _checked_shares(value: list[float], info: ValidationInfo) -> list[float]:
    for share in value:
        if info.field_name != "shares" and (share == 0 or (share == 1 and info.field_name == "real_shares")):
            raise ValueError(f"{share:g} leaves one of the two out; `trainings` has a word for that")
        if not 0 <= share <= 1:
            raise ValueError(f"{share} is not a share: give numbers from 0 to 1")
        if abs(share * 10_000 - round(share * 10_000)) > 1e-6:  # ids have two decimals of a percent
            raise ValueError(f"{share} is finer than a hundredth of a percent")
    return _no_duplicates(value)


def _checked_counts(value: list[int]) -> list[int]:
    if min(value) < 1:
        raise ValueError("numbers of patients are 1 or more")
    return sorted(_no_duplicates(value))


Distinct = Annotated[list[Entry], Field(min_length=1), AfterValidator(_no_duplicates)]
Shares = Annotated[list[float], Field(min_length=1), AfterValidator(_checked_shares)]
Counts = Annotated[list[int], Field(min_length=1), AfterValidator(_checked_counts)]


class RatioStudy(Strict):
    """Real and synthetic slices in changing proportion in a training set of constant size (Akbar et al., Figure 2)."""

    shares: Shares = Field(description="of real slices, 0 to 1; 1 is trained once for all generators")
    total: int | None = Field(None, ge=2, description="slices in each training set; null: as many as real ones")
    # a smaller share is part of a larger one either way
    choose: Literal["patients", "slices"] = Field("patients", description="real slices of the first patients, or any")

    @property
    def real_slices(self) -> int:
        """Real slices that the largest share needs; 0 where the total is that of the real slices."""
        return round((self.total or 0) * max(self.shares))


class FineTuneTraining(Strict):
    """How the second training differs from the first."""

    samples: int = Field(20_000, ge=1, description="budget, slices shown to the network")
    lr: float | None = Field(None, gt=0, description="learning rate; null: a tenth of the segmenter's")
    warmup_samples: int = Field(0, ge=0, description="linear increase of the learning rate")
    validations: int = Field(10, ge=1, description="times that the validation patients are predicted")
    max_minutes: float | None = Field(None, gt=0, description="ends the training before its budget is used up")


class ScratchTraining(Strict):
    """How a new network is trained on the same few patients; what is not given is as for all patients."""

    samples: int | None = Field(None, ge=1, description="budget; needed where the segmenter's is in epochs")
    warmup_samples: int | None = Field(None, ge=0, description="linear increase of the learning rate")
    validations: int | None = Field(None, ge=1, description="times that the validation patients are predicted")
    max_minutes: float | None = Field(None, gt=0, description="ends the training before its budget is used up")


class FineTune(Strict):
    """On how many real patients, and how."""

    patients: Counts = Field(description="numbers of real training patients, e.g. [1, 5, 10]")
    training: FineTuneTraining = Field(FineTuneTraining(), description="of the pre-trained network")
    scratch: ScratchTraining = Field(ScratchTraining(), description="of a new network on the same patients")


class Rule(Strict):
    """Settings by what they are; a field that is not given allows any value, a list each of its values."""

    training: Kind | list[Kind] | None = Field(None, description="real, synthetic, both, ratio, finetune")
    generator: str | list[str] | None = Field(None, description="name of a generator")
    segmenter: str | list[str] | None = Field(None, description="name of a segmenter")
    augmentation: bool | None = Field(None, description="trained with augmentation, or without")
    real_share: float | list[float] | None = Field(None, description="as in `ratios` and `real_shares`")
    real_fraction: float | list[float] | None = Field(None, description="as in `real_fractions`")
    real_patients: int | list[int] | None = Field(None, description="as in `fine_tune`")

    def wanted(self, field: str) -> list[Any]:
        """The values that a field allows; [] for any."""
        value = getattr(self, field)
        return value if isinstance(value, list) else [] if value is None else [value]

    def holds(self, setting: "Setting") -> bool:
        """The setting is one of those meant."""
        given = self.model_dump(exclude_none=True)
        return all(getattr(setting, name) in self.wanted(name) for name in given)


class Grid(Patients):
    """The fields of a study that make its grid."""

    generators: dict[Name, AnyGenerator] = Field(
        {}, description="by name; one named like a kind (progan, stylegan1, stylegan2, stylegan3, diffusion) is of this"
        " kind unless `model.kind` says another; `folder` reads images of others; null drops one of the preset's",
    )  # fmt: skip
    segmenters: dict[Name, SegmenterSpec] = Field(
        default_factory=lambda: {"unet": SegmenterSpec()}, min_length=1, description="by name; one named like a kind"
        " (unet, swin) is of this kind unless `model.kind` says another; null drops one of the preset's",
    )  # fmt: skip
    trainings: Distinct[Training] = Field(["real", "synthetic", "both"], description="what segmenters are trained on")
    augmentation: Distinct[bool] = Field([True], description="train with it (true), without, or each")
    real_fractions: Shares | None = Field(
        None, description="of the real training patients for `real` and `both`, not for generators; null: all"
    )
    real_shares: Shares | None = Field(None, description="of real slices among the samples of `both`; null: one half")
    ratios: RatioStudy | None = Field(None, description="of real slices in a set of constant size; or its `shares`")
    fine_tune: FineTune | None = Field(
        None, description="networks trained on synthetic slices go on with real patients, e.g. {patients: [1, 5, 10]}"
    )
    real_subsets: Literal["same", "each_repeat"] = Field("same", description="of real patients: the same, or others")
    include: list[Rule] = Field([], description="only settings that fit one of these; empty: all")
    exclude: list[Rule] = Field([], description="no setting that fits one, e.g. [{segmenter: swin, training: real}]")
    repeats: int = Field(1, ge=1, le=1000, description="trainings of each segmenter, each with its own seed")

    @field_validator("generators", "segmenters", mode="before")
    @classmethod
    def _named_kinds(cls, value: Any, info: ValidationInfo) -> Any:
        return named_kinds(value, str(info.field_name), in_file=bool(info.context))

    @field_validator("generators")
    @classmethod
    def _with_snapshots(cls, value: dict[str, Any]) -> dict[str, Any]:
        return with_snapshots(value)

    @field_validator("ratios", mode="before")
    @classmethod
    def _list_of_shares(cls, value: Any) -> Any:
        return {"shares": value} if isinstance(value, list) else value


@dataclass(frozen=True)
class Setting:
    """One cell of the grid: what a segmenter is trained on, and how."""

    training: Kind  # both: all slices, drawn in a proportion; ratio: a set of constant size; finetune: synthetic, real
    generator: str  # its name, "" for real slices only
    segmenter: str
    augmentation: bool
    real_share: float | None = None  # of slices in a ratio's set, or of samples in `both` where it is not one half
    real_fraction: float = 1.0  # of the real training patients
    real_patients: int | None = None  # their number, with `fine_tune`

    @property
    def id(self) -> str:
        """E.g. "real.unet.aug", "both_patients20-progan.unet.noaug", "ratio5-progan.unet.aug"."""
        source: str = self.training
        if self.real_share is not None:
            source += _percent(self.real_share) if source == "ratio" else f"_share{_percent(self.real_share)}"
        if self.real_fraction < 1:
            source += f"_patients{_percent(self.real_fraction)}"
        if self.real_patients is not None:
            source += f"{self.real_patients}" if source == "finetune" else f"_{self.real_patients}patients"
        source = f"{source}-{self.generator}" if self.generator else source
        return f"{source}.{self.segmenter}.{'aug' if self.augmentation else 'noaug'}"

    @property
    def as_cell(self) -> dict[str, Any]:
        """Plain values for job specs, without later fields at their default: the ids of jobs must stay."""
        later = {"real_share": None, "real_fraction": 1, "real_patients": None}
        fields = {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}
        return {"setting": self.id, **fields}

    @property
    def start(self) -> "Setting | None":
        """The setting whose network a fine-tuning goes on from."""
        start = Setting("synthetic", self.generator, self.segmenter, self.augmentation)
        return start if self.training == "finetune" else None


def _percent(share: float) -> str:
    """E.g. "5" of 0.05, "2p5" of 0.025."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".").replace(".", "p")


def settings(study: Grid) -> list[Setting]:
    """The settings of a study in the order in which they run: real first, as all else is compared with it."""
    included = [c for c in _all(study) if not study.include or any(rule.holds(c) for rule in study.include)]
    return [c for c in included if not any(rule.holds(c) for rule in study.exclude)]


def baseline(study: Grid) -> str:
    """Id of the setting that others are measured by: real slices, the first segmenter, augmented if any is."""
    return Setting("real", "", next(iter(study.segmenters)), True in study.augmentation).id


def _all(study: Grid) -> list[Setting]:
    """Every setting, before rules."""
    fractions, names = sorted(study.real_fractions or [1.0], reverse=True), list(study.generators)
    sources: list[tuple[Kind, str, float | None, float]] = []  # training, generator, real share, real fraction
    if "real" in study.trainings:
        sources += [("real", "", None, fraction) for fraction in fractions]
    if "synthetic" in study.trainings:
        sources += [("synthetic", name, None, 1.0) for name in names]
    for fraction in fractions if "both" in study.trainings else ():
        for share in study.real_shares or [0.5]:
            sources += [("both", name, None if share == 0.5 else share, fraction) for name in names]
    for share in sorted(study.ratios.shares) if study.ratios is not None else ():
        if share < 1:
            sources += [("ratio", name, share, 1.0) for name in names]
        else:  # a set of real slices alone is the training `real`, unless its size is given
            whole = study.ratios is not None and study.ratios.total is None
            sources.append(("real", "", None, 1.0) if whole else ("ratio", "", share, 1.0))
    found: list[Setting] = []
    for segmenter, augmentation in itertools.product(study.segmenters, study.augmentation):
        for training, name, real_share, fraction in sources:
            found.append(Setting(training, name, segmenter, augmentation, real_share, fraction))
        for few in study.fine_tune.patients if study.fine_tune is not None else ():
            # as many patients, and a new network or one that was trained on synthetic slices
            found.append(Setting("real", "", segmenter, augmentation, real_patients=few))
            found += [Setting("finetune", g, segmenter, augmentation, real_patients=few) for g in study.generators]
    return list(dict.fromkeys(found))


def mixture_of(study: Grid, setting: Setting, repeat: int) -> dict[str, Any]:
    """What a setting changes in `training.mixture` of its segmenter; {} for real, synthetic and both as they are."""
    changed: dict[str, Any] = {"patient_fraction": setting.real_fraction} if setting.real_fraction < 1 else {}
    if setting.real_patients is not None:
        changed["patient_count"] = setting.real_patients
    if setting.training == "ratio":
        assert study.ratios is not None
        changed |= {"total": study.ratios.total or "real", "choose": study.ratios.choose}
    if changed:  # a part of the patients or slices
        of = (repeat,) if study.real_subsets == "each_repeat" else ()
        changed["subset_seed"] = study.derived_seed("subset", *of)
    return changed | ({"real_share": setting.real_share} if setting.real_share is not None else {})


def changed_training(study: Grid, training: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A segmenter's training `spec` changed for few real patients: "finetune", or "real" for a new network."""
    assert study.fine_tune is not None
    own = study.fine_tune.training if training == "finetune" else study.fine_tune.scratch
    changes = own.model_dump(mode="json", exclude_none=True)
    replaced = {"epochs"} if "samples" in changes else set()
    if training == "finetune":
        changes.setdefault("lr", spec["lr"] * 0.1)
        replaced.add("max_minutes")
    return {name: value for name, value in spec.items() if name not in replaced} | changes


# --- contradictions ---------------------------------------------------------------------------------------------------


def check_grid(study: Grid) -> None:
    """An error of `problem_at` for the first contradiction in the grid."""
    if not study.generators and (study.ratios is not None or study.real_shares is not None):
        field = "ratios" if study.ratios is not None else "real_shares"
        raise problem_at((field,), "mixes real and synthetic slices, but there are no `generators`")
    if study.real_shares is not None and "both" not in study.trainings:
        raise problem_at(("real_shares",), "is the proportion in `both`, which is not among the `trainings`")
    if study.real_fractions is not None and not {"real", "both"} & set(study.trainings):
        raise problem_at(("real_fractions",), "needs `real` or `both` among the `trainings`")
    if study.ratios is not None and study.ratios.total is not None:
        wanted = round(study.ratios.total * (1 - min(study.ratios.shares)))
        for name, generator in study.generators.items():
            if generator.samples is not None and wanted > generator.samples:
                has = f"`generators.{name}.samples` is {generator.samples:,}"
                raise problem_at(("ratios", "total"), f"needs {wanted:,} synthetic slices, but {has}")
    if study.fine_tune is not None:
        _check_fine_tune(study, study.fine_tune)
    _check_mixtures(study)
    _check_rules(study)


def _check_fine_tune(study: Grid, fine_tune: FineTune) -> None:
    if not study.generators or "synthetic" not in study.trainings:
        what = "goes on from networks trained on synthetic slices: add `synthetic` to `trainings`"
        raise problem_at(("fine_tune",), what)
    for name, segmenter in study.segmenters.items():
        epochs = segmenter.training.epochs
        if epochs is not None and fine_tune.scratch.samples is None:
            what = f"needs `scratch: {{samples: ...}}`: {epochs:g} epochs of {name} are too few steps"
            raise problem_at(("fine_tune",), what)
        spec = segmenter.training.model_dump(mode="json")
        for training, field in (("finetune", "training"), ("real", "scratch")):
            changed = SegmenterTrainingConfig.model_validate(changed_training(study, training, spec))
            try:
                changed.steps(1)
            except UnderstudyError as error:
                raise problem_at(("fine_tune", field), f"{error.what} (segmenter {name})") from error


def _check_mixtures(study: Grid) -> None:
    """A field of a segmenter's own mixture must not be one that the grid sets as well."""
    set_by = {"total": "ratios", "choose": "ratios"}
    pairs = [("ratios", "real_share"), ("real_shares", "real_share")]
    pairs += [("real_fractions", "patient_fraction"), ("fine_tune", "patient_count")]
    set_by |= {field: own for own, field in pairs if getattr(study, own) is not None}
    for name, segmenter in study.segmenters.items():
        usual, mixture = MixtureConfig(), segmenter.training.mixture
        for field in sorted(set_by):
            if getattr(mixture, field) != getattr(usual, field):
                path = ("segmenters", name, "training", "mixture", field)
                raise problem_at(path, f"cannot be set here: it follows from the study's `{set_by[field]}`")


def _check_rules(study: Grid) -> None:
    """A rule must name what is there, fit a setting (else it is misspelt), and leave in what others need."""
    known = {"generator": list(study.generators), "segmenter": list(study.segmenters)}
    cells = _all(study)
    for field in ("include", "exclude"):
        for number, rule in enumerate(getattr(study, field)):
            for name, allowed in known.items():
                for value in (v for v in rule.wanted(name) if v not in allowed):
                    what = f"there is no {name} {value!r} (there are: {', '.join(allowed) or 'none'})"
                    raise problem_at((field, str(number), name), what)
            if not any(rule.holds(cell) for cell in cells):
                raise problem_at((field, str(number)), "fits no setting of the study")
    rules, left = "exclude" if study.exclude else "include", settings(study)
    if not left:
        raise problem_at((rules,), "leaves no setting over")
    for cell in left:
        if cell.start is not None and cell.start not in left:
            raise problem_at((rules,), f"leaves out {cell.start.id}, from which {cell.id} goes on")

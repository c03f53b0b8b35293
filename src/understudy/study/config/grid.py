"""The grid of trainings as data: what a study file may ask for, and the cells that follow.

```yaml
trainings: [real, synthetic, both]
real_fractions: [0.2, 1.0]                 # of the real training patients, for `real` and `both`
real_shares: [0.5, 0.8]                    # of the samples in `both`
ratios: [0, 0.05, 0.25, 0.5, 1]            # of real slices in a set of constant size (the paper's Figure 2)
fine_tune: {patients: [1, 5, 10]}          # after training on synthetic slices
exclude: [{segmenter: swin, training: ratio}]
```

The id of a cell is made from what it is, so that adding others to a study leaves it, its jobs and its results alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from understudy.study.config.finetune import fine_tune_problem

if TYPE_CHECKING:
    from understudy.study.config.schema import Study

Training = Literal["real", "synthetic", "both"]
Kind = Literal["real", "synthetic", "both", "ratio", "finetune"]


class RatioStudy(BaseModel):
    """Real and synthetic slices in changing proportion in a training set of constant size (the paper's Figure 2).

    The paper writes of a constant total of 100,000 *images*, of which 0 to 100,000 are real, and does not say how these
    were chosen.
    """

    model_config = ConfigDict(extra="forbid")

    shares: list[float] = Field(
        min_length=1, description="shares of real slices, 0 to 1; 1 is the same for every generator and trained once"
    )
    total: int | None = Field(
        None,
        ge=2,
        description="slices in each training set; null: as many as there are real training slices, so that a share of"
        " 1 is the training `real`",
    )
    choose: Literal["patients", "slices"] = Field(
        "patients",
        description="the real slices are those of the first patients in a random order, or any; a smaller share is"
        " part of a larger one either way",
    )

    @field_validator("shares")
    @classmethod
    def _are_shares(cls, value: list[float]) -> list[float]:
        return checked_shares(value, least=0.0)

    @property
    def real_slices(self) -> int:
        """Real slices that the largest share needs; 0 where the total is that of the real slices."""
        return round((self.total or 0) * max(self.shares))


class Rule(BaseModel):
    """Cells of the grid, by what they are; a field that is not given allows any value, a list each of its values."""

    model_config = ConfigDict(extra="forbid")

    training: Kind | list[Kind] | None = Field(None, description="real, synthetic, both, ratio, finetune")
    generator: str | list[str] | None = Field(None, description="name of a generator")
    segmenter: str | list[str] | None = Field(None, description="name of a segmenter")
    augmentation: bool | None = Field(None, description="trained with augmentation, or without")
    real_share: float | list[float] | None = Field(None, description="as in `ratios` and `real_shares`")
    real_fraction: float | list[float] | None = Field(None, description="as in `real_fractions`")
    real_patients: int | list[int] | None = Field(None, description="as in `fine_tune`")

    def holds(self, setting: Setting) -> bool:
        """The cell is one of those meant."""
        asked = self.model_dump(exclude_none=True)
        return all(getattr(setting, name) in _listed(value) for name, value in asked.items())


@dataclass(frozen=True)
class Setting:
    """One cell of the grid: what a segmenter is trained on, and how.

    Attributes:
        training: real, synthetic, both (all slices of either, drawn in a proportion), ratio (a set of constant size),
            or finetune (synthetic, then a few real patients).
        generator: name of the generator, "" for real slices only.
        segmenter: name of the segmenter.
        augmentation: trained with augmentation.
        real_share: share of real slices in a ratio's set, or of real samples in `both` where it is not one half.
        real_fraction: share of the real training patients.
        real_patients: their number, where the study says it (`fine_tune`).
    """

    training: Kind
    generator: str
    segmenter: str
    augmentation: bool
    real_share: float | None = None
    real_fraction: float = 1.0
    real_patients: int | None = None

    @property
    def id(self) -> str:
        """E.g. "real.unet.aug", "both_patients20-stylegan2.unet.noaug", "ratio5-stylegan2.unet.aug",
        "finetune5-stylegan2.unet.aug", "real_5patients.unet.aug".
        """
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
        """Plain values for job specs, without what is as usual: such fields came later, and ids must stay."""
        cell = {"setting": self.id, **asdict(self)}
        if self.real_share is None:
            del cell["real_share"]
        if self.real_fraction == 1:
            del cell["real_fraction"]
        if self.real_patients is None:
            del cell["real_patients"]
        return cell

    @property
    def start(self) -> Setting | None:
        """The setting whose network a fine-tuning goes on from."""
        if self.training != "finetune":
            return None
        return Setting("synthetic", self.generator, self.segmenter, self.augmentation)


def settings(study: Study) -> list[Setting]:
    """The cells that the study asks for, in the order in which they run: real first, all else is compared with it."""
    asked = [cell for cell in _all(study) if not study.include or any(r.holds(cell) for r in study.include)]
    return [cell for cell in asked if not any(rule.holds(cell) for rule in study.exclude)]


def baseline(study: Study) -> str:
    """Id of the setting that others are measured by: real slices, the first segmenter, augmented if any is."""
    segmenter = next(iter(study.segmenters))
    return Setting("real", "", segmenter, True in study.augmentation).id


def _all(study: Study) -> list[Setting]:
    """Every cell of the grid, before rules."""
    found: list[Setting] = []
    for segmenter in study.segmenters:
        for augmentation in study.augmentation:
            found += [
                Setting(training, name, segmenter, augmentation, share, fraction)
                for training, name, share, fraction in _sources(study)
            ]
            for patients in study.fine_tune.patients if study.fine_tune is not None else ():
                few = {"real_patients": patients}
                found.append(Setting("real", "", segmenter, augmentation, **few))
                found += [Setting("finetune", g, segmenter, augmentation, **few) for g in study.generators]
    return list(dict.fromkeys(found))  # a ratio's share of 1 may be the training `real`


def _sources(study: Study) -> Iterator[tuple[Kind, str, float | None, float]]:
    """Training, generator, share and fraction of the training sets."""
    fractions = sorted(study.real_fractions or [1.0], reverse=True)
    shares = [None if share == 0.5 else share for share in study.real_shares or [0.5]]
    if "real" in study.trainings:
        yield from (("real", "", None, fraction) for fraction in fractions)
    if "synthetic" in study.trainings:
        yield from (("synthetic", name, None, 1.0) for name in study.generators)
    if "both" in study.trainings:
        for fraction in fractions:
            for share in shares:
                yield from (("both", name, share, fraction) for name in study.generators)
    if study.ratios is not None:
        yield from _ratio_sources(study.ratios, list(study.generators))


def _ratio_sources(ratios: RatioStudy, generators: Sequence[str]) -> Iterator[tuple[Kind, str, float | None, float]]:
    for share in sorted(ratios.shares):
        if share < 1:
            yield from (("ratio", name, share, 1.0) for name in generators)
        elif ratios.total is None:
            yield "real", "", None, 1.0
        else:
            yield "ratio", "", share, 1.0


def mixture_of(study: Study, setting: Setting, repeat: int) -> dict[str, Any]:
    """What a setting changes in `training.mixture` of its segmenter; {} for real, synthetic and both as they are."""
    changed: dict[str, Any] = {}
    if setting.real_share is not None:
        changed["real_share"] = setting.real_share
    if setting.real_fraction < 1:
        changed["patient_fraction"] = setting.real_fraction
    if setting.real_patients is not None:
        changed["patient_count"] = setting.real_patients
    if setting.training == "ratio":
        assert study.ratios is not None
        total: int | str = "real" if study.ratios.total is None else study.ratios.total
        changed |= {"total": total, "choose": study.ratios.choose}
    if setting.training == "ratio" or setting.real_fraction < 1 or setting.real_patients is not None:
        of = (repeat,) if study.real_subsets == "each_repeat" else ()
        changed["subset_seed"] = study.derived_seed("subset", *of)
    return changed


def problem(study: Study) -> tuple[tuple[str, ...], str] | None:
    """The first thing in the grid that cannot be meant, as (path of the field, what is wrong); None if all is well."""
    for field, first in (("ratios", study.ratios), ("real_shares", study.real_shares)):
        if first is not None and not study.generators:
            return (field,), "mixes real and synthetic slices, but there are no `generators`"
    if study.real_shares is not None and "both" not in study.trainings:
        return ("real_shares",), "is the proportion in `both`, which is not among the `trainings`"
    if study.real_fractions is not None and not {"real", "both"} & set(study.trainings):
        return ("real_fractions",), "needs `real` or `both` among the `trainings`"
    if study.ratios is not None and study.ratios.total is not None:
        for name, generator in study.generators.items():
            wanted = round(study.ratios.total * (1 - min(study.ratios.shares)))
            if generator.samples is not None and wanted > generator.samples:
                what = f"needs {wanted:,} synthetic slices, but `generators.{name}.samples` is {generator.samples:,}"
                return ("ratios", "total"), what
    return fine_tune_problem(study) or _taken_twice(study) or _idle_rule(study) or _without_start(study)


def _without_start(study: Study) -> tuple[tuple[str, ...], str] | None:
    """A fine-tuning whose pre-training the rules leave out."""
    cells = settings(study)
    for cell in cells:
        if cell.start is not None and cell.start not in cells:
            what = f"leaves out {cell.start.id}, from which {cell.id} goes on"
            return ("exclude",) if study.exclude else ("include",), what
    return None


def _taken_twice(study: Study) -> tuple[tuple[str, ...], str] | None:
    """Something that a segmenter's own mixture says although the grid says it."""
    says = {
        "real_share": "`real_shares`" if study.real_shares is not None else "`ratios`" if study.ratios else "",
        "patient_fraction": "`real_fractions`" if study.real_fractions is not None else "",
        "patient_count": "`fine_tune`" if study.fine_tune is not None else "",
        "total": "`ratios`",
        "choose": "`ratios`",
    }
    for name, segmenter in study.segmenters.items():
        mixture = segmenter.training.mixture
        # a study that is read again has every field, most of them as they are by default
        usual = type(mixture)()
        for field in sorted(mixture.model_fields_set & says.keys()):
            if says[field] and getattr(mixture, field) != getattr(usual, field):
                path = ("segmenters", name, "training", "mixture", field)
                return path, f"is not set here: the study's {says[field]} says it"
    return None


def _idle_rule(study: Study) -> tuple[tuple[str, ...], str] | None:
    """A rule that names what is not there, or fits no cell: most likely misspelt."""
    known: Mapping[str, Sequence[str]] = {"generator": list(study.generators), "segmenter": list(study.segmenters)}
    cells = _all(study)
    for field in ("include", "exclude"):
        for number, rule in enumerate(getattr(study, field)):
            for name, allowed in known.items():
                for value in _listed(getattr(rule, name)):
                    if value is not None and value not in allowed:
                        what = f"there is no {name} {value!r} (there are: {', '.join(allowed) or 'none'})"
                        return (field, str(number), name), what
            if not any(rule.holds(cell) for cell in cells):
                return (field, str(number)), "fits no setting of the study"
    if not settings(study):
        return ("exclude",) if study.exclude else ("include",), "leaves no setting over"
    return None


def checked_shares(value: list[float], least: float) -> list[float]:
    """The shares, if each is in `least` ... 1 (to the hundredth of a percent, as ids are written) and none is doubled.

    Raises:
        ValueError: otherwise.
    """
    for share in value:
        if not least <= share <= 1:
            raise ValueError(f"{share} is not a share: give numbers from {least:g} to 1")
        if abs(share * 10_000 - round(share * 10_000)) > 1e-6:
            raise ValueError(f"{share} is finer than a hundredth of a percent")
    if len(set(value)) < len(value):
        raise ValueError(f"something stands there twice: {value}")
    return value


def _percent(share: float) -> str:
    """E.g. "5" of 0.05, "2p5" of 0.025."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".").replace(".", "p")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

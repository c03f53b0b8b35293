"""The study file: what is compared with what, on whom, how often. Every field has a default and a unit.

```yaml
preset: quickstart        # start from it and override
name: my-study
cohort: {path: /data/brats}
generators: {stylegan2: {samples: 5000}}
repeats: 3
```

Relative paths are relative to the study file. Generators and segmenters are named, so that a file that builds on a
preset changes one field of one of them; `name: null` drops one.
"""

from __future__ import annotations

import difflib
import re
import shlex
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from understudy.cohort.config import as_before_auto
from understudy.cohort.config import CohortConfig
from understudy.cohort.phantom.write import PhantomConfig
from understudy.cohort.slicing import SliceConfig
from understudy.cohort.splits import SplitConfig, TEST_FRACTION
from understudy.errors import UnderstudyError
from understudy.io.files import reading, sha256_json
from understudy.memorization.config import AuditConfig
from understudy.study.config.cluster import ClusterConfig, with_absolute_places
from understudy.study.config.cohorts import (
    CohortEntry,
    checked_names,
    part_of,
    with_absolute_files,
    with_absolute_path,
    without_dropped,
)
from understudy.study.config.finetune import FineTune
from understudy.study.config.generators import AnyGenerator, FolderGenerator, size_problem, with_kinds
from understudy.study.config.grid import RatioStudy, Rule, Training, checked_shares
from understudy.study.config.grid import problem as grid_problem
from understudy.study.config.outcomes import EvaluationConfig, ReportConfig
from understudy.study.config.segmenters import SegmenterSpec, segmenter_size_problem, with_segmenter_kinds
from understudy.study.config.snapshots import with_snapshots
from understudy.study.config.yaml import Lines, explain, merged, odd_numbers, parse_yaml, problem_at, read_yaml, refusal
from understudy.study.stages.annotations import AnnotationConfig
from understudy.study.stages.quality import QualitySpec, with_absolute_weights

SOURCES = ("cohort", "phantom", "cohorts")  # where patients come from: one of these
LATER = ("cohorts", "fine_tune")  # fields that came after the first studies
MOST_PHANTOMS = 100_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Study(BaseModel):
    """A whole study: cohort, generators, segmenters, and the grid of trainings."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("study", description="letters, digits, - and _; results go to understudy-<name>")
    seed: int = Field(0, ge=0, description="from which the seeds of all jobs follow")
    cohort: CohortConfig | None = Field(None, description="patients on disk; give this, `phantom` or `cohorts`")
    phantom: PhantomConfig | None = Field(
        None, description="artificial patients made first; give this, `cohort` or `cohorts`"
    )
    cohorts: dict[str, CohortEntry] | None = Field(
        None,
        description="several cohorts by name, each with the fields of `cohort` or a `phantom`, and what of `split` and"
        " `slices` is other for it; the whole grid is done with each. null drops one of the preset's",
    )
    slices: SliceConfig = Field(
        default_factory=lambda: SliceConfig.model_validate({}), description="how volumes become slices"
    )
    split: SplitConfig = Field(
        default_factory=lambda: SplitConfig.model_validate({}), description="who trains, validates and tests"
    )
    generators: dict[str, AnyGenerator] = Field(
        default_factory=dict,
        description="generators by name; one named like a kind (progan, stylegan1, stylegan2, stylegan3,"
        " diffusion) is of this kind unless `model.kind` says another; `folder` in place of a network reads images"
        " that somebody else made; null drops one of the preset's",
    )
    segmenters: dict[str, SegmenterSpec] = Field(
        default_factory=lambda: {"unet": SegmenterSpec()},
        min_length=1,
        description="segmenters by name; one named like a kind (unet, swin) is of this kind unless `model.kind` says"
        " another; null drops one of the preset's",
    )
    trainings: list[Training] = Field(
        default=["real", "synthetic", "both"],
        min_length=1,
        description="what segmenters are trained on: real slices, synthetic ones, both equally often",
    )
    augmentation: list[bool] = Field(
        default=[True], min_length=1, description="train with augmentation (true), without (false), or each"
    )
    real_fractions: list[float] | None = Field(
        None,
        min_length=1,
        description="shares of the real training patients for `real` and `both`, e.g. [0.2, 1.0]; smaller ones are"
        " part of larger ones. Generators are trained on all of them all the same. null: all patients",
    )
    real_shares: list[float] | None = Field(
        None,
        min_length=1,
        description="shares of real slices among the samples of `both`; null: one half, equally often",
    )
    ratios: RatioStudy | None = Field(
        None,
        description="real and synthetic slices in changing proportion in a set of constant size; a list of shares,"
        " or these and more",
    )
    fine_tune: FineTune | None = Field(
        None,
        description="networks trained on synthetic slices go on with so many real patients, and beside each a new"
        " network on the same patients; e.g. {patients: [1, 5, 10]}",
    )
    real_subsets: Literal["same", "each_repeat"] = Field(
        "same",
        description="patients of `real_fractions` and `fine_tune`, real slices of `ratios`: the same in every setting"
        " and repeat, or others in each repeat",
    )
    include: list[Rule] = Field(default_factory=list, description="only settings that fit one of these; empty: all")
    exclude: list[Rule] = Field(
        default_factory=list,
        description="no setting that fits one of these, e.g. [{segmenter: swin, training: synthetic}]",
    )
    repeats: int = Field(1, ge=1, le=1000, description="trainings of each segmenter, each with its own seed")
    audit: AuditConfig | None = Field(
        default_factory=AuditConfig, description="of the synthetic slices for copies of training patients; null: none"
    )
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="how results are scored")
    quality: QualitySpec | None = Field(
        None, description="distances of synthetic from real slices, beside held-out patients'; null: none"
    )
    annotations: AnnotationConfig | None = Field(
        default_factory=lambda: AnnotationConfig.model_validate({}),
        description="areas, shapes, borders and positions of synthetic annotations beside real ones; null: none",
    )
    report: ReportConfig = Field(
        default_factory=lambda: ReportConfig.model_validate({}), description="what the report shows"
    )
    cluster: ClusterConfig = Field(
        default_factory=lambda: ClusterConfig.model_validate({}),
        description="what jobs ask of a queue with `understudy run --cluster`; no result depends on it",
        exclude=True,  # from `model_dump`, and so from all hashes and records: changing it redoes nothing
    )

    @field_validator("cohorts", mode="before")
    @classmethod
    def _without_dropped(cls, value: Any) -> Any:
        return without_dropped(value)

    @field_validator("generators", mode="before")
    @classmethod
    def _named_kinds(cls, value: Any) -> Any:
        return with_kinds(value)

    @field_validator("generators")
    @classmethod
    def _and_their_snapshots(cls, value: dict[str, Any]) -> dict[str, Any]:
        return with_snapshots(value)

    @field_validator("segmenters", mode="before")
    @classmethod
    def _named_segmenters(cls, value: Any) -> Any:
        return with_segmenter_kinds(value)

    @field_validator("ratios", mode="before")
    @classmethod
    def _list_of_shares(cls, value: Any) -> Any:
        return {"shares": value} if isinstance(value, list) else value

    @field_validator("real_fractions", "real_shares")
    @classmethod
    def _are_shares(cls, value: list[float] | None, info: ValidationInfo) -> list[float] | None:
        if value is None:
            return None
        for share in value:
            if share == 0 or (share == 1 and info.field_name == "real_shares"):
                raise ValueError(f"{share:g} leaves one of the two out; `trainings` has a word for that")
        return checked_shares(value, least=0.0)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        return _checked_name(value)

    @field_validator("generators", "segmenters", "cohorts")
    @classmethod
    def _plain_names(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        for name in value or {}:
            _checked_name(name)
        if info.field_name == "cohorts":
            checked_names(value)
        return value

    @field_validator("trainings", "augmentation")
    @classmethod
    def _no_repeats(cls, value: list[Any]) -> list[Any]:
        if len(set(value)) < len(value):
            raise ValueError(f"something stands there twice: {value}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "give either `cohort: {path: ...}` (patients on disk), `phantom: {...}` (artificial ones) or `cohorts:"
                " {name: {path: ...}, ...}` (several), not "
                + ("neither" if not given else "both " + " and ".join(given))
            )
        if not self.generators and set(self.trainings) != {"real"}:
            raise ValueError(
                "`trainings` asks for synthetic slices, but there are no `generators`; add one, e.g. `generators:"
                " {stylegan2: {recipe: quick}}`, or `trainings: [real]`"
            )
        for name, part in self.parts().items():
            if part.phantom is not None and part.phantom.patients > MOST_PHANTOMS:
                place = ("cohorts", name, "phantom") if name else ("phantom",)
                raise problem_at((*place, "patients"), f"should be at most {MOST_PHANTOMS:,}")
        resolutions = sorted({part.slices.resolution for part in self.parts().values()})
        if (
            found := grid_problem(self)
            or size_problem(self.generators, resolutions)
            or segmenter_size_problem(self.segmenters, resolutions)
        ):
            raise problem_at(*found)
        return self

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the study as data, without the places of the cohort and of folders of images."""
        return sha256_json(self.as_data())

    def as_data(self) -> dict[str, Any]:
        """The study as plain JSON values, without what is this machine's alone."""
        places: Any = {"cohort": {"path"}, "slices": {"workers"}, "generators": {"__all__": {"folder"}}}
        places |= {"quality": {"extractors": {"__all__": {"weights"}}}, "cohorts": {"__all__": {"path"}}}
        places |= {"report": {"reading"}}
        content = _as_before(self.model_dump(mode="json", exclude=places))
        # what came later is left out where it is not used: older studies keep their hash
        return {name: value for name, value in content.items() if name not in LATER or value is not None}

    def parts(self) -> dict[str, Study]:
        """Cohort's name -> the study of this cohort alone; {"": itself} where there is one cohort without a name."""
        return {"": self} if self.cohorts is None else {name: part_of(self, name) for name in self.cohorts}

    def with_one_cohort(self, purpose: str) -> Study:
        """The study, for what is done with one cohort only.

        Raises:
            UnderstudyError: it has several.
        """
        if self.cohorts is not None:
            raise UnderstudyError(
                f"the study has several cohorts ({', '.join(self.cohorts)}), and {purpose} takes one",
                where=f"study {self.name}, cohorts",
                fix="give a study file with `cohort: {path: ...}` or `phantom: {...}` in place of `cohorts`",
            )
        return self

    def derived_seed(self, *keys: str | int) -> int:
        """The seed of something in the study, in 0 ... 2^31 - 1; adding other things to the study leaves it alone."""
        return int(sha256_json([self.seed, *keys])[:8], 16) >> 1


def _as_before(content: dict[str, Any]) -> dict[str, Any]:
    """A dumped study with what fields say that are now null or `auto` until something else is known: hashes stay."""
    usual: dict[str, dict[str, float]] = {"split": {"seed": 0, "test_patients": TEST_FRACTION}, "phantom": {"seed": 1}}
    changed = dict(content)
    for name, values in usual.items():
        if content.get(name) is not None:
            changed[name] = {n: values.get(n) if v is None else v for n, v in content[name].items()}
    if content.get("cohort") is not None:
        changed["cohort"] = as_before_auto(content["cohort"])
    if content.get("cohorts") is not None:
        entries = {name: as_before_auto(entry) for name, entry in content["cohorts"].items()}
        changed["cohorts"] = {n: {**e, **_as_before({"phantom": e["phantom"]})} for n, e in entries.items()}
    return changed


def load_study(source: str | Path, cohort_only: bool = False) -> Study:
    """Reads a study from a YAML file, or a preset by its name.

    Args:
        cohort_only: a file without generators will do, as where only its patients are wanted.

    Raises:
        UnderstudyError: neither a file nor a preset; what is wrong in the file, with the line of each problem.
    """
    source = str(source)
    path = Path(source)
    if source in presets() and not path.is_file():
        return _validated(preset(source), {}, f"preset {source}", Path.cwd())
    with reading(path):
        if path.is_dir():
            raise UnderstudyError(
                "a folder, not a study file",
                where=path.absolute(),
                fix=f"write a study file for it: understudy init {shlex.quote(source)} > my-study.yaml",
            )
        missing = not path.exists() and path.suffix not in (".yaml", ".yml")
    if missing:
        close = difflib.get_close_matches(source, presets(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UnderstudyError(
            f"no study file and no preset called {source!r}",
            where=path.absolute(),
            fix=f"{hint}give the path of a .yaml file or one of the presets {', '.join(presets())}",
        )
    return _from_content(*read_yaml(path), str(path), path.parent, cohort_only)


def parse_study(text: str, name: str) -> Study:
    """A study from the text of a study file; `name` is for messages. Relative paths are relative to the working folder.

    Raises:
        UnderstudyError: what is wrong in the text.
    """
    return _from_content(*parse_yaml(text, name), name, Path.cwd())


def _from_content(content: dict[str, Any], lines: Lines, path: str, folder: Path, cohort_only: bool = False) -> Study:
    base = content.pop("preset", None)
    if base is not None:
        if base not in presets():
            close = difflib.get_close_matches(str(base), presets(), n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UnderstudyError(
                f"there is no preset {base!r}",
                where=f"{path}, line {lines['preset',]}",
                fix=f"{hint}use one of {', '.join(presets())}",
            )
        under = preset(base)
        if any(content.get(name) is not None for name in SOURCES):
            # patients of another kind take the place of the preset's
            under = {k: v for k, v in under.items() if k not in SOURCES or content.get(k) is not None}
        content = merged(_without_rules_of_dropped(under, content), content)
    if cohort_only and not content.get("generators"):
        content = {**content, "trainings": ["real"]}
    return _validated(content, lines, path, folder)


def _without_rules_of_dropped(under: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """The preset without the rules about generators and segmenters that the study file drops (`swin: null`)."""
    sections = [content.get(section) for section in ("generators", "segmenters")]
    dropped = {name for s in sections if isinstance(s, dict) for name, value in s.items() if value is None}
    rules = {
        field: [rule for rule in under[field] if not dropped & set(map(str, rule.values()))]
        for field in ("include", "exclude")
        if under.get(field)
    }
    return {**under, **rules}


def presets() -> list[str]:
    """Names of the built-in studies."""
    folder = resources.files("understudy.study.config") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def preset(name: str) -> dict[str, Any]:
    """The content of a built-in study."""
    return parse_yaml(preset_text(name), f"preset {name}")[0]


def preset_text(name: str) -> str:
    """The text of a built-in study.

    Raises:
        UnderstudyError: there is none of this name.
    """
    if name not in presets():
        raise UnderstudyError(f"there is no preset {name!r}", fix=f"use one of {', '.join(presets())}")
    entry = resources.files("understudy.study.config") / "presets" / f"{name}.yaml"
    return entry.read_text(encoding="utf-8")


def _validated(content: dict[str, Any], lines: Lines, name: str, folder: Path) -> Study:
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise explain(error, Study, lines, name) from error
    if problems := odd_numbers(study.model_dump(), lines):
        raise refusal(problems, name)
    return _with_absolute_paths(study, folder)


def _with_absolute_paths(study: Study, folder: Path) -> Study:
    """Paths of the study file are relative to its folder."""
    if study.cohort is not None:
        cohort = study.cohort.model_copy(update={"path": (folder / study.cohort.path.expanduser()).absolute()})
        study = study.model_copy(update={"cohort": cohort})
    if study.cohorts is not None:
        entries = {name: with_absolute_path(entry, folder) for name, entry in study.cohorts.items()}
        study = study.model_copy(update={"cohorts": entries})
    generators = {
        name: spec.model_copy(update={"folder": (folder / spec.folder.expanduser()).absolute()})
        if isinstance(spec, FolderGenerator)
        else spec
        for name, spec in study.generators.items()
    }
    split = with_absolute_files(study.split, folder)
    quality = with_absolute_weights(study.quality, folder)
    changed: dict[str, Any] = {"split": split, "generators": generators, "quality": quality}
    changed["cluster"] = with_absolute_places(study.cluster, folder)
    if study.report.reading is not None:
        place = (folder / study.report.reading.expanduser()).absolute()
        changed["report"] = study.report.model_copy(update={"reading": place})
    return study.model_copy(update=changed)


def _checked_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"the name {value!r} may only have letters, digits, - and _ (it becomes a folder's name)")
    return value

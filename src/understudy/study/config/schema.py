"""The study file: what is compared with what, on whom, how often. Every field has a default and a unit.

Generators and segmenters are named, so that a file that builds on a preset changes one field of one of them.
"""

import difflib
import shlex
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from understudy.cohort.config import as_before_auto
from understudy.cohort.splits import TEST_FRACTION
from understudy.errors import UnderstudyError
from understudy.io.files import reading, sha256_json
from understudy.io.yaml import Lines
from understudy.memorization.config import AuditConfig
from understudy.quality.config import AnnotationConfig, QualityConfig
from understudy.study.config.cluster import ClusterConfig
from understudy.study.config.cohorts import absolute, placed, published_as
from understudy.study.config.grid import Grid, check_grid
from understudy.study.config.networks import check_sizes
from understudy.study.config.yaml import Strict, merged, parse_yaml, read_yaml, validated

SOURCES = ("cohort", "phantom", "cohorts")  # where patients come from: one of these
FORMAT = "understudy-study-1"  # of study.json, which holds the study of a folder of results


class EvaluationConfig(Strict):
    """How the segmentations of test patients are scored."""

    scopes: list[Literal["whole", "kept_slices"]] = Field(
        ["whole", "kept_slices"], min_length=1, description="whole volumes, and the slices that pass the slice rule"
    )
    dropped_slices: Literal["background", "predict"] = Field(
        "background", description="slices that the rule drops: left empty (their tumour is missed), or segmented"
    )
    regions: Literal["auto", "none"] | dict[str, list[str]] = Field(
        "auto", description="unions of classes, in no mean: {WT: [NCR/NET, ED, ET]}; auto: WT and TC by their names"
    )

    @field_validator("regions", mode="before")
    @classmethod
    def _known_word(cls, value: Any) -> Any:
        if not isinstance(value, dict) and value not in ("auto", "none"):
            raise ValueError("should be auto, none, or names with their classes such as {WT: [NCR/NET, ED, ET]}")
        return value


class ExtractorSpec(Strict):
    """An extractor in a study file; its name alone will do where no file is needed."""

    name: Literal[
        "random", "unet", "radiomics", "radiomics_tumour",
        "inception2015", "radimagenet_inception", "radimagenet_resnet50", "dinov2",
    ] = Field(description="random, unet, radiomics and radiomics_tumour need no file")  # fmt: skip
    weights: Path | None = Field(None, description="file of weights; relative to the study file")
    sha256: str | None = Field(None, description="that the file must have; null: the published one, if any")
    resize: Literal["antialiased_bicubic", "tf1"] = Field("antialiased_bicubic", description="tf1: first FID code")


class QualitySpec(QualityConfig):
    """Distances of synthetic from real slices, for every generator."""

    extractors: list[ExtractorSpec] = Field(
        default_factory=lambda: [ExtractorSpec(name="random"), ExtractorSpec(name="unet")], min_length=1,
        description="what turns slices into vectors, e.g. [random, unet, {name: inception2015, weights: file.pth}]",
    )  # fmt: skip
    channels: list[str] | None = Field(None, description="e.g. [T1wGd] (the paper); null: all, and their average")
    too_few: Literal["refuse", "leave_out"] = Field("leave_out", description="Frechet of fewer slices than dimensions")

    @field_validator("extractors", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return [{"name": v} if isinstance(v, str) else v for v in value] if isinstance(value, list) else value


class ReportConfig(Strict):
    """What the report shows."""

    title: str = Field("", description="heading of the report; empty: made from the study's name")
    published: Literal["auto", "brats2020", "brats2021", "none"] = Field(
        "auto", description="which of the paper's cohorts stands beside the results; auto: by the cohort's name"
    )
    reading: Path | None = Field(None, description="table6.json of `understudy reading analyse`, shown as Table 6")


class Study(Grid):
    """A whole study: cohort, generators, segmenters, and the grid of trainings."""

    audit: AuditConfig | None = Field(AuditConfig(), description="for copies of training patients; null: none")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="how results are scored")
    quality: QualitySpec | None = Field(None, description="distances of synthetic from real slices; null: none")
    annotations: AnnotationConfig | None = Field(AnnotationConfig(), description="synthetic beside real; null: none")
    report: ReportConfig = Field(ReportConfig(), description="what the report shows")
    # excluded from `model_dump`, and so from all hashes: changing it redoes nothing
    cluster: ClusterConfig = Field(ClusterConfig(), description="resources of jobs with `run --cluster`", exclude=True)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            fix = "give either `cohort: {path: ...}`, `phantom: {...}` or `cohorts: {name: {path: ...}, ...}`"
            raise ValueError(f"{fix}, not {'both ' + ' and '.join(given) if given else 'neither'}")
        if not self.generators and set(self.trainings) != {"real"}:
            fix = "add one, e.g. `generators: {stylegan2: {recipe: quick}}`, or `trainings: [real]`"
            raise ValueError(f"`trainings` asks for synthetic slices, but there are no `generators`; {fix}")
        check_grid(self)
        resolutions = sorted({part.slices.resolution for part in self.parts().values()})
        check_sizes(self.generators, self.segmenters, resolutions)
        return self

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the study as data, without the places of the cohort and of folders of images."""
        return sha256_json(self.as_data())

    def as_data(self) -> dict[str, Any]:
        """The study as plain JSON values, without what is this machine's alone."""
        places: Any = {"cohort": {"path"}, "slices": {"workers"}, "cohorts": {"__all__": {"path"}}}
        places |= {"generators": {"__all__": {"folder"}}, "report": {"reading"}}
        places |= {"quality": {"extractors": {"__all__": {"weights"}}}}
        content = _as_before(self.model_dump(mode="json", exclude=places))
        # what came later is left out where it is not used: older studies keep their hash
        content["report"] = {k: v for k, v in content["report"].items() if (k, v) != ("published", "auto")}
        later = ("cohorts", "fine_tune")
        return {name: value for name, value in content.items() if name not in later or value is not None}

    def parts(self) -> dict[str, "Study"]:
        """Cohort's name -> the study of this cohort alone; {"": itself} where there is one cohort without a name."""
        if self.cohorts is None:
            return {"": self}
        parts = {}
        title = self.report.title or f"Understudy: {self.name}"
        for name, entry in self.cohorts.items():
            published = published_as(name) if self.report.published == "auto" else self.report.published
            report = self.report.model_copy(update={"title": f"{title}, {name}", "published": published})
            phantom = entry.phantom
            if phantom is not None and phantom.seed is None:
                phantom = phantom.model_copy(update={"seed": self.derived_seed("phantom", name)})
            fields = {"cohorts": None, "cohort": entry.cohort, "phantom": phantom, "report": report}
            for section in ("split", "slices"):
                if (over := getattr(entry, section)) is not None:  # fields that were given, upon those of the study
                    below = getattr(self, section).model_dump(exclude_unset=True)
                    fields[section] = type(over).model_validate({**below, **over.model_dump(exclude_unset=True)})
            parts[name] = self.model_copy(update=fields)
        return parts

    def with_one_cohort(self, purpose: str) -> Self:
        """The study; an UnderstudyError if it has several cohorts, of which `purpose` ("a sweep") takes one."""
        if self.cohorts is not None:
            what = f"the study has several cohorts ({', '.join(self.cohorts)}), and {purpose} takes one"
            fix = "give a study file with `cohort: {path: ...}` or `phantom: {...}` in place of `cohorts`"
            raise UnderstudyError(what, where=f"study {self.name}, cohorts", fix=fix)
        return self


def _as_before(content: dict[str, Any]) -> dict[str, Any]:
    """A dumped study with the earlier values of fields that are null or `auto` by now: hashes stay."""
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


# --- files and presets ------------------------------------------------------------------------------------------------


def load_study(source: str | Path, cohort_only: bool = False) -> Study:
    """Reads a study from a YAML file, or a preset by its name; an UnderstudyError names the line of each problem.

    A folder of results has its study, too: study.json.

    cohort_only: a file without generators will do, as where only its patients are wanted.
    """
    source = str(source)
    path = Path(source)
    if source in presets() and not path.is_file():
        return parse_study(preset_text(source), f"preset {source}")
    with reading(path):
        if path.is_dir():
            fix = f"write a study file for it: understudy init {shlex.quote(source)} > my-study.yaml"
            raise UnderstudyError("a folder, not a study file", where=path.absolute(), fix=fix)
        if not path.exists() and path.suffix not in (".yaml", ".yml"):
            fix = f"{_meant(source)}give the path of a .yaml file or one of the presets {', '.join(presets())}"
            raise UnderstudyError(f"no study file and no preset called {source!r}", where=path.absolute(), fix=fix)
    content, lines = read_yaml(path)
    if content.get("format") == FORMAT:
        content, lines = dict(content["study"]), {}
    return _from_content(content, lines, str(path), path.parent, cohort_only)


def parse_study(text: str, name: str) -> Study:
    """A study from the text of a study file; `name` is for messages, paths are relative to the working folder."""
    return _from_content(*parse_yaml(text, name), name, Path.cwd())


def _from_content(content: dict[str, Any], lines: Lines, name: str, folder: Path, cohort_only: bool = False) -> Study:
    base = content.pop("preset", None)
    if base is not None:
        if base not in presets():
            where, fix = f"{name}, line {lines['preset',]}", f"{_meant(str(base))}use one of {', '.join(presets())}"
            raise UnderstudyError(f"there is no preset {base!r}", where=where, fix=fix)
        under = preset(base)
        if any(content.get(source) is not None for source in SOURCES):
            # patients of another kind take the place of the preset's
            under = {k: v for k, v in under.items() if k not in SOURCES or content.get(k) is not None}
        sections = [content.get(section) for section in ("generators", "segmenters")]
        dropped = {key for s in sections if isinstance(s, dict) for key, value in s.items() if value is None}
        for field in ("include", "exclude"):  # without rules about networks that the file drops (`swin: null`)
            under[field] = [rule for rule in under.get(field, []) if not dropped & set(map(str, rule.values()))]
        content = merged(under, content)
    if cohort_only and not content.get("generators"):
        content = {**content, "trainings": ["real"]}
    study = validated(Study, content, lines, name)
    # an image or a profile is a file, or else a name that Apptainer or Snakemake know
    places = {field: absolute(Path(getattr(study.cluster, field)), folder) for field in ("container", "profile")}
    existing = {field: str(path) for field, path in places.items() if getattr(study.cluster, field) and path.exists()}
    return placed(study, folder).model_copy(update={"cluster": study.cluster.model_copy(update=existing)})


def _meant(name: str) -> str:
    """E.g. "did you mean quickstart? ", or ""."""
    close = difflib.get_close_matches(name, presets(), n=1)
    return f"did you mean {close[0]}? " if close else ""


def presets() -> list[str]:
    """Names of the built-in studies."""
    folder = resources.files("understudy.study.config") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def preset(name: str) -> dict[str, Any]:
    """The content of a built-in study."""
    return parse_yaml(preset_text(name), f"preset {name}")[0]


def preset_text(name: str) -> str:
    """The text of a built-in study; an UnderstudyError if there is none of this name."""
    if name not in presets():
        raise UnderstudyError(f"there is no preset {name!r}", fix=f"use one of {', '.join(presets())}")
    entry = resources.files("understudy.study.config") / "presets" / f"{name}.yaml"
    return entry.read_text(encoding="utf-8")

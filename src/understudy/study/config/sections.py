"""The sections `evaluation`, `quality` and `report` of a study file: how results are scored, measured and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from understudy.quality.config import QualityConfig
from understudy.study.config.yaml import Strict

UNET = "unet"


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
    resize: Literal["antialiased_bicubic", "tf1"] = Field(
        "antialiased_bicubic", description="tf1 only to compare with numbers of the first FID code"
    )


class QualitySpec(QualityConfig):
    """Distances of synthetic from real slices, for every generator."""

    extractors: list[ExtractorSpec] = Field(
        default_factory=lambda: [ExtractorSpec(name="random"), ExtractorSpec(name="unet")], min_length=1,
        description="what turns slices into vectors, e.g. [random, unet, {name: inception2015, weights: file.pth}]",
    )  # fmt: skip
    channels: list[str] | None = Field(
        None, description="to compare, e.g. [T1wGd] (the paper); null: all, and their average"
    )
    too_few: Literal["refuse", "leave_out"] = Field(
        "leave_out", description="a Frechet distance of fewer slices than dimensions: refuse, or say so"
    )

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

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`published` and `reading` came later: a study without them keeps its hash."""
        content: dict[str, Any] = handler(self)
        usual = {"published": "auto", "reading": None}
        return {k: v for k, v in content.items() if k not in usual or v != usual[k]}

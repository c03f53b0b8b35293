"""The sections `evaluation` and `report` of the study file: how results are scored, and what is shown of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer


class EvaluationConfig(BaseModel):
    """How the segmentations of test patients are scored."""

    model_config = ConfigDict(extra="forbid")

    scopes: list[Literal["whole", "kept_slices"]] = Field(
        default=["whole", "kept_slices"],
        min_length=1,
        description="whole volumes, and only the slices that pass the slice rule (the paper)",
    )
    dropped_slices: Literal["background", "predict"] = Field(
        default="background",
        description="slices that the rule drops: left empty, as the networks never saw such slices in training (what"
        " they hide of a tumour counts as missed), or segmented like the others",
    )
    regions: Literal["auto", "none"] | dict[str, list[str]] = Field(
        default="auto",
        description="unions of classes scored beside them, in no mean: {WT: [NCR/NET, ED, ET]}; none; or auto: WT and"
        " TC where there are classes called NCR, ED and ET",
    )

    @field_validator("regions", mode="before")
    @classmethod
    def _known_word(cls, value: Any) -> Any:
        if not isinstance(value, dict) and value not in ("auto", "none"):
            raise ValueError("should be auto, none, or names with their classes such as {WT: [NCR/NET, ED, ET]}")
        return value


class ReportConfig(BaseModel):
    """What the report shows."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field("", description="heading of the report; empty: made from the study's name")
    published: Literal["auto", "brats2020", "brats2021", "none"] = Field(
        "auto",
        description="which of the paper's cohorts stands beside the results; auto: the one that the cohort is called"
        " after, none for other names",
    )
    reading: Path | None = Field(
        None, description="table6.json of `understudy reading analyse`: the readers' answers, shown as Table 6"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`published` and `reading` came later: a study without them keeps its hash."""
        content: dict[str, Any] = handler(self)
        usual = {"published": "auto", "reading": None}
        return {k: v for k, v in content.items() if k not in usual or v != usual[k]}

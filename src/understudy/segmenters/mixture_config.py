"""What a segmenter is trained on, out of real and synthetic slices: the options."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

_WITH_TOTAL = ("total", "choose")


class MixtureConfig(BaseModel):
    """What a segmenter is trained on, out of the slice sets that it is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    real_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of real samples when both are given; 0.5: sampled equally often; 0 and 1 with `total` only",
    )
    total: int | Literal["real"] | None = Field(
        default=None,
        description="slices in the training set, `real_share` of them real; real: as many as there are real training"
        " slices; None: all of both",
    )
    choose: Literal["patients", "slices"] = Field(
        default="patients",
        description="the real slices of a `total` are those of the first patients in a random order, or any",
    )
    patients: tuple[str, ...] | None = Field(default=None, description="train on these real patients only; None: all")
    patient_fraction: float = Field(
        default=1.0, gt=0, le=1, description="share of the real training patients; smaller shares are subsets of larger"
    )
    patient_count: int | None = Field(
        default=None,
        ge=1,
        description="so many of the real training patients, the first in the order of `patient_fraction`; None: all",
    )
    subset_seed: int = Field(default=0, ge=0, description="which patients a smaller share consists of")
    synthetic_count: int | None = Field(default=None, ge=1, description="first n synthetic slices; None: all")
    foreground_fraction: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of slices with any class but background; None: as they come (paper)",
    )

    @model_validator(mode="after")
    def _both_or_a_total(self) -> MixtureConfig:
        if self.total is None and self.real_share in (0, 1):
            raise ValueError(f"`real_share` {self.real_share:g} leaves one set out: give only the other, or a `total`")
        if self.patient_count is not None and self.patient_fraction < 1:
            raise ValueError("give either `patient_count` or `patient_fraction`")
        if isinstance(self.total, int) and self.total < 1:
            raise ValueError("`total` should be 1 or more")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came later: a training without them keeps the identity that it had."""
        content: dict[str, Any] = handler(self)
        unused = set(_WITH_TOTAL) if self.total is None else set()
        unused |= {"patient_count"} if self.patient_count is None else set()
        return {k: content[k] for k in content if k not in unused}

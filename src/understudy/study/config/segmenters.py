"""A segmenter in a study file: network and training; what is not given is the paper's for its kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from understudy.errors import UnderstudyError
from understudy.segmenters.config import (
    DEFAULT_KIND,
    KINDS,
    LATER,
    ModelConfig,
    SegmenterTrainingConfig,
    UNetConfig,
    check_batch,
    with_paper,
)
from understudy.study.config.generators import refuse_set
from understudy.study.config.yaml import Strict


class SegmenterSpec(Strict):
    """A segmentation network, by `model.kind`, and its training."""

    model: ModelConfig = Field(default_factory=UNetConfig, description="network, by `kind`: unet or swin")
    training: SegmenterTrainingConfig = Field(default_factory=SegmenterTrainingConfig, description="how it is trained")

    @model_validator(mode="before")
    @classmethod
    def _upon_the_paper(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        model, training = data.get("model", {}), data.get("training", {})
        kind = model.get("kind", DEFAULT_KIND) if isinstance(model, Mapping) else getattr(model, "kind", None)
        found = dict(data)
        if isinstance(model, Mapping):
            found["model"] = {"kind": DEFAULT_KIND, **model}
        if kind in list(KINDS) and isinstance(training, Mapping):  # which takes what cannot be hashed as well
            found["training"] = with_paper(kind, training)
        return found  # the fields' own validation says what else is wrong

    @model_validator(mode="after")
    def _left_to_the_study(self) -> SegmenterSpec:
        refuse_set(self.training, ("seed",), "it follows from the study's `seed`")
        refuse_set(self.training.augment, ("enabled",), "it follows from the study's `augmentation`")
        try:
            check_batch(self.model, self.training)
        except UnderstudyError as error:
            raise ValueError(f"`{error.where}`: {error.what}; {error.fix}") from error
        return self

    @model_serializer(mode="wrap")
    def _to_be_read_again(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """With the fields that a training leaves out at their default: of other kinds the paper's differ."""
        content: dict[str, Any] = handler(self)
        if self.model.kind != DEFAULT_KIND:
            for name in LATER:
                value = getattr(self.training, name)
                content["training"].setdefault(name, list(value) if isinstance(value, tuple) else value)
            content["training"]["augment"].setdefault("set", self.training.augment.set)
        return content


def segmenter_size_problem(
    segmenters: Mapping[str, SegmenterSpec], resolutions: Iterable[int]
) -> tuple[tuple[str, ...], str] | None:
    """Path of the first network that does not exist at one of these resolutions, and why; None if all do."""
    for name, spec in segmenters.items():
        for resolution in resolutions:
            try:
                spec.model.stages(resolution) if isinstance(spec.model, UNetConfig) else spec.model.shape(resolution)
            except UnderstudyError as error:
                return ("segmenters", name), f"{error.what}; {error.fix}"
    return None

"""Pre-train on synthetic slices, then fine-tune on the few real patients that a clinic has (the paper's suggested use).

```yaml
trainings: [real, synthetic]
fine_tune: {patients: [1, 5, 10], training: {samples: 20000, lr: 0.005}}
```

For each generator, network and number of patients there is a setting `finetune5-stylegan2.unet.aug`, which goes on
from the network that `synthetic-stylegan2.unet.aug` gave in the same repeat, and beside it `real_5patients.unet.aug`:
the same patients and a new network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from understudy.errors import UnderstudyError
from understudy.segmenters.config import SegmenterTrainingConfig

if TYPE_CHECKING:
    from understudy.study.config.schema import Study
    from understudy.study.facts import Facts

LR_SHARE = 0.1  # of the learning rate of the pre-training


class FineTuneTraining(BaseModel):
    """How the second training differs from the first."""

    model_config = ConfigDict(extra="forbid")

    samples: int = Field(20_000, ge=1, description="budget, slices shown to the network")
    lr: float | None = Field(None, gt=0, description="learning rate; null: a tenth of the segmenter's")
    warmup_samples: int = Field(0, ge=0, description="linear increase of the learning rate")
    validations: int = Field(10, ge=1, description="times that the validation patients are predicted")
    max_minutes: float | None = Field(None, gt=0, description="ends the training before its budget is used up")


class ScratchTraining(BaseModel):
    """How a new network is trained on the same few patients; what is not given is as for all patients."""

    model_config = ConfigDict(extra="forbid")

    samples: int | None = Field(None, ge=1, description="budget; needed where the segmenter's is in epochs")
    warmup_samples: int | None = Field(None, ge=0, description="linear increase of the learning rate")
    validations: int | None = Field(None, ge=1, description="times that the validation patients are predicted")
    max_minutes: float | None = Field(None, gt=0, description="ends the training before its budget is used up")


class FineTune(BaseModel):
    """On how many real patients, and how."""

    model_config = ConfigDict(extra="forbid")

    patients: list[int] = Field(min_length=1, description="numbers of real training patients, e.g. [1, 5, 10]")
    training: FineTuneTraining = Field(
        default_factory=lambda: FineTuneTraining.model_validate({}), description="of the pre-trained network"
    )
    scratch: ScratchTraining = Field(
        default_factory=lambda: ScratchTraining.model_validate({}),
        description="of a new network on the same patients, for comparison",
    )

    @field_validator("patients")
    @classmethod
    def _different_numbers(cls, value: list[int]) -> list[int]:
        if min(value) < 1:
            raise ValueError("numbers of patients are 1 or more")
        if len(set(value)) < len(value):
            raise ValueError(f"something stands there twice: {value}")
        return sorted(value)


def changed_training(study: Study, training: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A segmenter's training, as plain JSON values, for a setting with few real patients.

    Args:
        training: "finetune", or "real" for a new network.
        spec: what the segmenter's own training says.
    """
    assert study.fine_tune is not None
    own = study.fine_tune.training if training == "finetune" else study.fine_tune.scratch
    changes = own.model_dump(mode="json", exclude_none=True)
    if training == "finetune":
        changes.setdefault("lr", spec["lr"] * LR_SHARE)
        spec = {name: value for name, value in spec.items() if name != "max_minutes"}
    if "samples" in changes:
        spec = {name: value for name, value in spec.items() if name != "epochs"}
    return {**spec, **changes}


def fine_tune_problem(study: Study) -> tuple[tuple[str, ...], str] | None:
    """The first thing in `fine_tune` that cannot be meant, as (path of the field, what is wrong), or None."""
    if study.fine_tune is None:
        return None
    if not study.generators or "synthetic" not in study.trainings:
        return ("fine_tune",), "goes on from networks trained on synthetic slices: add `synthetic` to `trainings`"
    for name, segmenter in study.segmenters.items():
        spec = segmenter.training.model_dump(mode="json")
        if segmenter.training.epochs is not None and study.fine_tune.scratch.samples is None:
            what = (
                f"needs `scratch: {{samples: ...}}`: {name} is trained for {segmenter.training.epochs:g} epochs, which"
                " are few steps with few patients"
            )
            return ("fine_tune",), what
        for training, field in (("finetune", "training"), ("real", "scratch")):
            changed = SegmenterTrainingConfig.model_validate(changed_training(study, training, spec))
            try:
                changed.steps(1)
            except UnderstudyError as error:
                return ("fine_tune", field), f"{error.what} (segmenter {name})"
    return None


def refuse_too_many(study: Study, facts: Facts) -> None:
    """Refuses a study that wants more real patients or slices than there can be.

    Raises:
        UnderstudyError: `fine_tune` wants more patients than train, `ratios` more slices than these have.
    """
    training_patients = facts.counts["train"]
    wanted = max(study.fine_tune.patients) if study.fine_tune is not None else 0
    if wanted > training_patients:
        raise UnderstudyError(
            f"`fine_tune` wants {wanted} real patients, but only {training_patients} train",
            where="fine_tune.patients of the study",
            fix=f"ask for 1 to {training_patients}",
        )
    ratios = study.ratios
    slices, most = ratios.real_slices if ratios is not None else 0, training_patients * facts.shape[2]
    if slices > most:
        raise UnderstudyError(
            f"`ratios` want {slices:,} real slices, but {training_patients} training patients have at most {most:,}",
            where="ratios.total of the study",
            fix="lower `ratios.total`, or its largest share",
        )

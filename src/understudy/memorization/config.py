"""How an audit is done."""

from typing import Literal

from pydantic import Field

from understudy.io.settings import Settings

CERTAIN = 0.01  # chance that a set without copies has a single slice that is called one
CONCENTRATED = 0.01  # p-value at which flags are said to be concentrated on few training patients
COMPARED = 2000  # training slices that say how near new patients come to held-out ones by chance, at most
FEWEST_PATIENTS = 5  # below, a bootstrap over patients says nothing


class AuditConfig(Settings, frozen=True):
    """What counts as too near, which copies are planted, and how intervals are made."""

    quantile: float = Field(
        default=0.99,
        gt=0.5,
        lt=1,
        description="a slice is flagged if it is nearer to the training set than this part of held-out slices",
    )
    transforms: Literal["none", "dihedral"] = Field(
        default="none", description="also look for copies turned by quarters (dihedral); mirrored ones are always found"
    )
    least_content: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="slices with less contrast (s.d. of all pixels) than this part of the training slices' median are"
        " nearly empty: they show nobody and are not judged",
    )
    copies: int = Field(default=60, ge=10, description="planted copies of each kind")
    splits: int = Field(default=100, ge=10, description="times that held-out patients are halved")
    resamples: int = Field(default=2000, ge=200, description="bootstrap resamples of patients")
    within: int = Field(default=2000, ge=0, description="synthetic slices compared with each other at most (0: none)")
    membership: bool = Field(
        default=True, description="membership inference on the weights, where the generator is at hand"
    )
    membership_slices: int = Field(default=400, ge=20, description="slices of each side whose membership is scored")
    seed: int = Field(default=0, ge=0, description="of planted copies, halves and resamples")

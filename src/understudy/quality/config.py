"""How sets are compared."""

from typing import Literal

from pydantic import Field

from understudy.io.settings import Settings


class QualityConfig(Settings, frozen=True):
    """How sets are compared."""

    neighbours: int = Field(default=5, ge=1, description="k of precision, recall, density and coverage")
    neighbours_slices: int = Field(
        default=5000, ge=10, description="most slices of a side in these four; a random choice of more"
    )
    kernel_subsets: int = Field(default=100, ge=1, description="random subsets of the kernel distance")
    kernel_floor_subsets: int = Field(default=10, ge=1, description="the same for floors and matched numbers")
    kernel_size: int = Field(default=1000, ge=2, description="slices of a side in each")
    score_splits: int = Field(default=10, ge=1, description="parts of the inception score")
    matched: int = Field(default=5, ge=1, description="random choices of synthetic slices at the held-out number")
    divisions: int = Field(default=10, ge=0, description="random divisions of patients for the floor's spread")
    extrapolate: bool = Field(
        default=False, description="also the Frechet distance at infinitely many slices, with its standard error"
    )
    too_few: Literal["refuse", "leave_out"] = Field(
        default="refuse",
        description="a Frechet distance of fewer slices than dimensions: refuse, or leave it out and say so",
    )
    seed: int = Field(default=0, ge=0, description="of all random choices")


class AnnotationConfig(Settings, frozen=True):
    """How annotations are compared."""

    resamples: int = Field(default=1000, ge=10, description="of the bootstrap of values")
    distance_resamples: int = Field(default=200, ge=10, description="of the bootstrap of distances")
    divisions: int = Field(default=200, ge=0, description="random divisions of the real patients for the floor's range")
    blocks: int = Field(default=200, ge=2, description="of synthetic slices, drawn as patients are")
    seed: int = Field(default=0, ge=0, description="of everything drawn")

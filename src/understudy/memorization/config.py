"""How an audit is done."""

from typing import Any, Literal

from pydantic import Field

from understudy.io.settings import Settings

CERTAIN = 0.01  # chance that a set without copies has a single slice that is called one
CONCENTRATED = 0.01  # p-value at which flags are said to be concentrated on few training patients
FEWEST_PATIENTS = 5  # below, a bootstrap over patients says nothing
# symmetries of the square that the search tries, see `views.transform`
TRANSFORMS = {"none": (0,), "flips": (0, 2, 4, 6), "dihedral": tuple(range(8))}


class AuditConfig(Settings, frozen=True):
    """What counts as too near, which copies are planted, and how intervals are made."""

    quantile: float = Field(
        default=0.99,
        gt=0.5,
        lt=1,
        description="a slice is flagged if it is nearer to the training set than this part of held-out slices",
    )
    transforms: Literal["none", "flips", "dihedral"] = Field(
        default="none",
        description="also look for copies turned by quarters (dihedral); mirrored ones are looked for always (flips: in"
        " the views for information too)",
    )
    more_views: bool = Field(
        default=True, description="also compare every channel by itself and the annotations, for information"
    )
    least_content: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="slices with less contrast (s.d. of all pixels) than this part of the training slices' median are"
        " nearly empty: they show nobody and are not judged",
    )
    copies: int = Field(default=150, ge=10, description="planted copies of each kind")
    splits: int = Field(default=100, ge=10, description="times that held-out patients are halved")
    resamples: int = Field(default=2000, ge=200, description="bootstrap resamples of patients")
    within: int = Field(default=2000, ge=0, description="synthetic slices compared with each other at most (0: none)")
    membership: bool = Field(
        default=True, description="membership inference on the weights, where the generator is at hand"
    )
    membership_slices: int = Field(default=400, ge=20, description="slices of each side whose membership is scored")
    memory_bytes: int = Field(default=1 << 30, gt=0, description="for pixels and products of the search, bytes")
    seed: int = Field(default=0, ge=0, description="of planted copies, halves and resamples")

    def search(self, more: bool = True) -> dict[str, Any]:
        """Arguments of `search.nearest`; `more`: also the views for information."""
        from understudy.memorization.views import COPY_VIEW, IN_PLACE, SHOWN, TESTED  # imports torch

        shown = SHOWN if more and self.more_views else ()
        views = tuple(dict.fromkeys((IN_PLACE, *(view for view in TESTED if view != COPY_VIEW), *shown)))
        return {"views": views, "transforms": TRANSFORMS[self.transforms], "memory_bytes": self.memory_bytes}

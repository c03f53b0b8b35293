"""Several cohorts in one study: each is a study of its own, with the same grid, and one page stands above them.

```yaml
cohorts:
  brats2020: {path: /data/brats2020}
  brats2021: {path: /data/brats2021, split: {test_patients: 56}}
  across: {path: /data/brats2021, split: {test_sites: [TCIA01, TCIA02]}}   # the same patients, split by site
```

A part's jobs are those that the study would have with this cohort alone, so that nothing is done again when a cohort
is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_serializer, model_validator

from understudy.cohort.layouts import CohortConfig
from understudy.cohort.phantom.write import PhantomConfig
from understudy.cohort.scaling import SliceConfig
from understudy.cohort.splits import SplitConfig

if TYPE_CHECKING:
    from understudy.study.config.schema import Study

TAKEN = ("jobs", "tables", "logs", "cluster")  # names of folders beside those of the cohorts
PUBLISHED = ("brats2020", "brats2021")  # cohorts that the paper has results of
LISTS = ("train", "validation", "test", "permutation")  # fields of a split that may be files


class CohortEntry(CohortConfig):
    """One cohort of several: patients on disk as in `cohort`, or `phantom`, and what of the study is other for it."""

    phantom: PhantomConfig | None = Field(
        None, description="artificial patients in place of a `path`; without a `seed` each cohort has others"
    )
    split: SplitConfig | None = Field(None, description="fields that replace those of the study's `split`")
    slices: SliceConfig | None = Field(None, description="fields that replace those of the study's `slices`")

    @model_validator(mode="after")
    def _one_source(self) -> CohortEntry:
        usual = CohortConfig()
        files = [name for name in CohortConfig.model_fields if getattr(self, name) != getattr(usual, name)]
        if self.phantom is not None and files:
            raise ValueError(f"`{files[0]}` is of patients on disk, but `phantom` says that they are drawn")
        if self.phantom is None and "path" not in self.model_fields_set:
            raise ValueError("give `path` (patients on disk) or `phantom: {...}` (artificial ones)")
        return self

    @field_serializer("split", "slices")
    def _what_was_given(self, value: SplitConfig | SliceConfig | None) -> dict[str, Any] | None:
        """Only what replaces a field of the study; read again it means the same."""
        return None if value is None else value.model_dump(mode="json", exclude_unset=True)

    @property
    def cohort(self) -> CohortConfig | None:
        """Where the patients are; None for phantoms."""
        given = self.model_fields_set & CohortConfig.model_fields.keys()
        fields = {name: getattr(self, name) for name in given}
        return None if self.phantom is not None else CohortConfig.model_validate(fields)


def without_dropped(cohorts: Any) -> Any:
    """The cohorts of a study file; null drops one of a preset's."""
    if not isinstance(cohorts, Mapping):
        return cohorts
    return {name: entry for name, entry in cohorts.items() if entry is not None}


def checked_names(cohorts: Mapping[str, CohortEntry] | None) -> None:
    """Refuses cohorts whose folder would be another.

    Raises:
        ValueError: none at all, or a name that is taken.
    """
    if cohorts is not None and not cohorts:
        raise ValueError("name at least one cohort, or use `cohort` or `phantom`")
    for name in cohorts or {}:
        if name.lower() in TAKEN:
            raise ValueError(f"a cohort cannot be called {name!r}: a folder of this name holds other results")


def part_of(study: Study, name: str) -> Study:
    """The study of one of the cohorts alone."""
    assert study.cohorts is not None
    entry, phantom = study.cohorts[name], study.cohorts[name].phantom
    if phantom is not None and phantom.seed is None:
        phantom = phantom.model_copy(update={"seed": study.derived_seed("phantom", name)})
    title = study.report.title or f"Understudy: {study.name}"
    published: str = study.report.published
    published = published_as(name) if published == "auto" else published
    return study.model_copy(
        update={
            "cohorts": None,
            "cohort": entry.cohort,
            "phantom": phantom,
            "split": _laid_over(study.split, entry.split),
            "slices": _laid_over(study.slices, entry.slices),
            "report": study.report.model_copy(update={"title": f"{title}, {name}", "published": published}),
        }
    )


def published_as(name: str) -> str:
    """Which of the paper's cohorts a name means: case, "-", "_" and spaces ignored; "none" for others.

    Example:
        >>> published_as("BraTS_2021")
        'brats2021'
    """
    plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    return plain if plain in PUBLISHED else "none"


def _laid_over(below: Any, over: Any) -> Any:
    """Fields of `over` that were given, upon those of `below` that were."""
    if over is None:
        return below
    return type(below).model_validate({**below.model_dump(exclude_unset=True), **over.model_dump(exclude_unset=True)})


def with_absolute_files(split: SplitConfig, folder: Path) -> SplitConfig:
    """Files that a split names are relative to the folder of the study file."""
    files = {
        field: str((folder / Path(value).expanduser()).absolute())
        for field in LISTS
        if isinstance(value := getattr(split, field), str) and value
    }
    return split.model_copy(update=files)


def with_absolute_path(entry: CohortEntry, folder: Path) -> CohortEntry:
    """The path of a cohort and the files of its split are relative to the folder of the study file."""
    update: dict[str, Any] = {}
    if entry.phantom is None:
        update["path"] = (folder / entry.path.expanduser()).absolute()
    if entry.split is not None:
        update["split"] = with_absolute_files(entry.split, folder)
    return entry.model_copy(update=update)

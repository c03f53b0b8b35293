"""Who is studied: the fields `name` to `split` of a study file, with one cohort or several.

Each of several cohorts is a study of its own: its jobs are those that the study would have with this cohort alone.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field, field_serializer, field_validator, model_validator

from understudy.cohort.config import CohortConfig
from understudy.cohort.phantom.write import PhantomConfig
from understudy.cohort.slicing import SliceConfig
from understudy.cohort.splits import SplitConfig
from understudy.io.files import sha256_json
from understudy.study.config.yaml import Strict

TAKEN = ("jobs", "tables", "logs", "cluster")  # names of folders beside those of the cohorts
SPLIT_FILES = ("train", "validation", "test", "permutation")  # fields of a split that may be files


def _checked_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value):
        raise ValueError(f"the name {value!r} may only have letters, digits, - and _ (it becomes a folder's name)")
    return value


Name = Annotated[str, AfterValidator(_checked_name)]


class CohortEntry(CohortConfig):
    """One cohort of several: patients on disk as in `cohort`, or `phantom`, and what of the study is other for it."""

    phantom: PhantomConfig | None = Field(None, description="artificial patients in place of a `path`")
    split: SplitConfig | None = Field(None, description="fields that replace those of the study's `split`")
    slices: SliceConfig | None = Field(None, description="fields that replace those of the study's `slices`")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        usual = CohortConfig()
        files = [name for name in CohortConfig.model_fields if getattr(self, name) != getattr(usual, name)]
        if self.phantom is not None and files:
            raise ValueError(f"`{files[0]}` is of patients on disk, but `phantom` draws them")
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
        return None if self.phantom else CohortConfig.model_validate({name: getattr(self, name) for name in given})


class Patients(Strict):
    """The first fields of a study: its name and seed, whose patients, how their volumes become slices."""

    name: Name = Field("study", description="letters, digits, - and _; results go to understudy-<name>")
    seed: int = Field(0, ge=0, description="from which the seeds of all jobs follow")
    cohort: CohortConfig | None = Field(None, description="patients on disk; give this, `phantom` or `cohorts`")
    phantom: PhantomConfig | None = Field(None, description="artificial patients; give this, `cohort` or `cohorts`")
    cohorts: dict[Name, CohortEntry] | None = Field(
        None, description="several by name, each a `cohort` or `phantom` with its own `split` and `slices`; null drops"
    )
    slices: SliceConfig = Field(SliceConfig(), description="how volumes become slices")
    split: SplitConfig = Field(SplitConfig(), description="who trains, validates and tests")

    @field_validator("cohorts", mode="before")
    @classmethod
    def _without_dropped(cls, value: Any) -> Any:
        return {n: e for n, e in value.items() if e is not None} if isinstance(value, Mapping) else value

    @field_validator("cohorts")
    @classmethod
    def _free_names(cls, value: dict[str, CohortEntry] | None) -> dict[str, CohortEntry] | None:
        if value is not None and not value:
            raise ValueError("name at least one cohort, or use `cohort` or `phantom`")
        for name in value or {}:
            if name.lower() in TAKEN:
                raise ValueError(f"a cohort cannot be called {name!r}: a folder of this name holds other results")
        return value

    def derived_seed(self, *keys: str | int) -> int:
        """The seed of something in the study, in 0 ... 2^31 - 1; adding other things to the study leaves it alone."""
        return int(sha256_json([self.seed, *keys])[:8], 16) >> 1


def name_of(path: Path, otherwise: str) -> str:
    """A name of the permitted form from that of a file or folder."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", path.absolute().name).strip("-_") or otherwise


def published_as(name: str) -> str:
    """Which of the cohorts that the paper has results of a name such as "BraTS_2021" means; "none" for others."""
    plain = re.sub(r"[-_ ]", "", name.lower())
    return plain if plain in ("brats2020", "brats2021") else "none"


def absolute(path: Path, folder: Path) -> Path:
    """A path of a study file in `folder`."""
    return (folder / path.expanduser()).absolute()


def placed(value: Any, folder: Path) -> Any:
    """A copy of settings in which the paths of files, relative to the study file's `folder`, are absolute."""
    if isinstance(value, Path):
        return absolute(value, folder)
    if isinstance(value, list):
        return [placed(entry, folder) for entry in value]
    if isinstance(value, dict):
        return {name: placed(entry, folder) for name, entry in value.items()}
    if not isinstance(value, BaseModel):
        return value
    # what was not given stays so; a cohort without a path is where the study file is
    given = value.model_fields_set | ({"path"} if type(value) is CohortConfig else set())
    changed = {name: placed(getattr(value, name), folder) for name in given}
    if isinstance(value, SplitConfig):  # a number, a list or a file
        files = {n: changed[n] for n in given.intersection(SPLIT_FILES) if isinstance(changed[n], str) and changed[n]}
        changed |= {name: str(absolute(Path(file), folder)) for name, file in files.items()}
    return value.model_copy(update=changed)

"""The base of all settings: unknown fields are errors, and so are numbers that are none."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


def problem_at(path: tuple[str, ...], what: str) -> PydanticCustomError:
    """An error of a whole model that is about one of its fields; `problems_of` names the field and its line."""
    return PydanticCustomError("problem_at", "{what}", {"what": what, "path": path})


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Width = Annotated[int, Field(ge=1, le=1 << 14)]  # features of a layer
Depth = Annotated[int, Field(ge=1, le=128)]  # layers or blocks, one after another


class Settings(BaseModel):
    """Settings that a user gives: no other fields, no NaN, nothing infinite, no number that 64 bits do not hold."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        for name in self.model_fields_set & type(self).model_fields.keys():
            if found := _odd_number((name,), getattr(self, name)):
                raise problem_at(*found)
        return self


def _odd_number(path: tuple[str, ...], value: Any) -> tuple[tuple[str, ...], str] | None:
    """The first number that is no setting, in lists and mappings as well, which may hold anything."""
    if isinstance(value, Mapping | list | tuple):
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        return next((found for key, inner in entries if (found := _odd_number((*path, str(key)), inner))), None)
    if isinstance(value, float) and not math.isfinite(value):
        return path, f"should be a finite number (given: {value})"
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return path, "should be a smaller number"
    return None

"""What only a steward knows, asked for in two YAML files: `about.yaml` and `decision.yaml`."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from understudy.errors import UnderstudyError
from understudy.files import write_text

TODO = "TODO"


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class About(_Form):
    """The data set in the words of who releases it; every field without a default has to be filled in."""

    title: str
    short_name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    version: str
    description: str
    creators: list[str] = Field(min_length=1)
    publisher: str
    contact: str
    licence: str
    licence_url: str = ""
    sources: list[str] = Field(
        min_length=1, description="data sets that it derives from, with DOI and licence"
    )
    source_terms_allow_release: Literal[True]
    approval: str = Field(description="ethical approval, or why none is needed")
    purpose: str
    forbidden_uses: str
    known_defects: str
    maintenance: str = Field(description="retention, versions, how a release is taken down")
    publisher_url: str = ""
    affiliation: str = Field("", description="of the creators")
    doi: str = ""
    keywords: list[str] = []


class Signer(_Form):
    """Who decides."""

    name: str
    role: str
    organisation: str = ""


class Thresholds(_Form):
    """What was agreed before anyone looked at the audit's result."""

    quantile: float
    most_flagged: float = Field(
        ge=0, le=1, description="share of flagged slices above which nothing is released"
    )
    set_on: dt.date
    before_looking: Literal[True]
    most_auc: float | None = Field(
        default=None,
        ge=0.5,
        le=1,
        description="of weights: AUC of the white-box check that the upper end of its interval may not exceed",
    )


class Decision(_Form):
    """The signed decision."""

    decision: Literal["approve", "approve_with_removal", "refuse"]
    by: Signer
    date: dt.date
    thresholds: Thresholds
    gallery: str = Field(
        default="",
        description="what the closest pairs (private/gallery.png of the audit) show; needed where flagged slices are"
        " concentrated on few training patients",
    )
    remarks: str = ""


Form = TypeVar("Form", bound=BaseModel)


def read_form(path: str | Path, form: type[Form]) -> Form:
    """A form that is filled in.

    Raises:
        UnderstudyError: not there, not YAML, or fields that are missing, wrong, or still TODO (all at once).
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnderstudyError(
            f"the form cannot be read ({error})",
            where=path,
            fix="write one: understudy release template FOLDER",
        ) from error
    return checked_form(content, form, path)


def checked_form(content: object, form: type[Form], where: str | Path) -> Form:
    """Answers as a form.

    Raises:
        UnderstudyError: fields that are missing, wrong, or still TODO (all at once).
    """
    left = _unfilled(content)
    problems = [f"{name}: still to be filled in" for name in left]
    try:
        found = form.model_validate(content)
    except ValidationError as error:
        places = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
        problems += [f"{place}: {what}" for place, what in places if place not in left]
    if problems:
        raise UnderstudyError(
            "the form is not complete:\n" + "\n".join(f"  {p}" for p in problems),
            where=where,
            fix="fill it in",
        )
    return found


def _unfilled(value: object, name: str = "") -> list[str]:
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in _unfilled(v, f"{name}.{k}".strip("."))]
    if isinstance(value, list):
        return [x for i, v in enumerate(value) for x in _unfilled(v, f"{name}.{i}")]
    return [name] if isinstance(value, str) and value.strip().startswith(TODO) else []


def write_templates(folder: Path) -> None:
    """Writes both forms with TODO where a person has to answer.

    Raises:
        UnderstudyError: one is there already, disk full, no permission.
    """
    about = {
        name: [TODO] if "list" in str(field.annotation) else TODO
        for name, field in About.model_fields.items()
        if field.is_required()
    }
    decision = {
        "decision": f"{TODO} approve, approve_with_removal or refuse",
        "by": {"name": TODO, "role": TODO},
        "date": TODO,
        "thresholds": {
            "quantile": 0.99,
            "most_flagged": TODO,
            "set_on": TODO,
            "before_looking": TODO,
            "most_auc": None,
        },
        "gallery": "",
    }
    for name, content in (("about.yaml", about), ("decision.yaml", decision)):
        if (folder / name).exists():
            raise UnderstudyError(
                "the form is there already", where=folder / name, fix="fill it in, or delete it"
            )
        write_text(folder / name, yaml.safe_dump(content, sort_keys=False))

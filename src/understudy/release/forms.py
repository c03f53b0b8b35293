"""What only a data steward knows, asked for in two YAML files: `about.yaml` and `decision.yaml`."""

import datetime as dt
import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from understudy.errors import UnderstudyError
from understudy.io.files import reading, write_text
from understudy.io.foreign import YAML, Budget
from understudy.io.settings import Settings
from understudy.io.yaml import load_yaml

TODO = "TODO"
_USUAL = {"quantile": 0.99}  # answers that stand in the form


class _Form(Settings, frozen=True):
    """Every field without a default has to be filled in."""


class About(_Form):
    """The data set in the words of who releases it."""

    title: str = Field(description="of the data set, as it is cited")
    short_name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="letters, digits, - and _")
    version: str = Field(description='in quotes, such as "1.0"')
    description: str = Field(description="what it holds and how it came about, in a few sentences")
    creators: list[str] = Field(min_length=1, description="people who made it, as they are cited")
    affiliation: str = Field("", description="organisation of the creators")
    publisher: str = Field(description="organisation that answers for it")
    publisher_url: str = Field("", description="its web page")
    contact: str = Field(description="e-mail address, for questions and for having a slice taken down")
    licence: str = Field(description="of the package, such as CC BY 4.0")
    licence_url: str = Field("", description="where its text stands")
    sources: list[str] = Field(min_length=1, description="data sets that it derives from, with DOI and licence")
    source_terms_allow_release: Literal[True] = Field(
        description="true, if the sources' terms allow derived images to be given away; otherwise stop here"
    )
    approval: str = Field(description="ethical approval, or why none is needed")
    purpose: str = Field(description="what it is meant for")
    forbidden_uses: str = Field(description="what it must not be used for, such as diagnosis")
    known_defects: str = Field(description="what a user has to know: artefacts, rare classes that are missing")
    maintenance: str = Field(description="retention, versions, how a release is taken down")
    doi: str = Field("", description="if it has one already")
    keywords: list[str] = Field([], description="a list, such as [MRI, glioma]")
    sites_named: list[str] = Field([], description="names of sites of the patients that may stand in the package")

    @property
    def full_licence(self) -> str:
        """Its name and address."""
        return f"{self.licence} {self.licence_url}".strip()

    @property
    def citation(self) -> str:
        """Creators, title and version, publisher."""
        return f"{', '.join(self.creators)}: {self.title}, version {self.version}. {self.publisher}"


class Signer(_Form):
    """Who decides."""

    name: str
    role: str = Field(description="in which capacity, such as data steward")
    organisation: str = ""


class Thresholds(_Form):
    """What was agreed before anyone looked at the audit's result."""

    quantile: float = Field(description="of the audit: a slice nearer than this share of new patients is flagged")
    most_flagged: float = Field(ge=0, le=1, description="share (0 to 1) of flagged slices above which none is released")
    set_on: dt.date = Field(description="when these were agreed, YYYY-MM-DD")
    before_looking: bool = Field(
        description="true, if nobody had seen the audit's result then; with false every document says so"
    )
    most_auc: float | None = Field(
        None, ge=0.5, le=1,
        description="for weights only (0.5 to 1): limit of the 95 % interval of the AUC of membership inference",
    )  # fmt: skip


class Decision(_Form):
    """The signed decision."""

    decision: Literal["approve", "approve_with_removal", "refuse"] = Field(
        description="approve, approve_with_removal (flagged slices are taken out) or refuse"
    )
    by: Signer
    date: dt.date = Field(description="of the decision, YYYY-MM-DD")
    thresholds: Thresholds
    gallery: str = Field(
        "", description="what the closest pairs (private/gallery.png of the audit) show; needed where flagged slices"
        " are concentrated on few training patients")  # fmt: skip
    remarks: str = ""


Form = TypeVar("Form", bound=BaseModel)


def read_form(path: str | Path, form: type[Form]) -> Form:
    """A form that is filled in; raises as `checked_form`, and for a file that is absent or not YAML."""
    with reading(path, YAML):
        Budget(path, YAML).spend(Path(path).stat().st_size)
        content, _ = load_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    return checked_form(content, form, path)


def checked_form(content: object, form: type[Form], where: str | Path) -> Form:
    """Answers as a form; raises `UnderstudyError` with all fields that are missing, wrong, or still TODO."""
    problems = dict.fromkeys(_unfilled(content), "still to be filled in")
    try:
        found = form.model_validate(content)
    except ValidationError as error:
        problems = {".".join(map(str, e["loc"])): _said(e) for e in error.errors()} | problems
    if problems:
        what = "\n  ".join(["the form is not complete:", *(f"{place}: {what}" for place, what in problems.items())])
        raise UnderstudyError(what, where=where, fix="fill it in")
    return found


def _said(entry: Any) -> str:
    """One of pydantic's errors in words."""
    kind, context = str(entry["type"]), entry.get("ctx", {})
    known = {
        "missing": "is missing", "extra_forbidden": "is no field of this form",
        "literal_error": f"should be {str(context.get('expected', '')).lower()}",
        "string_pattern_mismatch": "should be letters, digits, - and _ alone", "string_type": "should be text",
        "greater_than_equal": f"should be {context.get('ge', 0):g} or more",
        "less_than_equal": f"should be {context.get('le', 0):g} or less", "too_short": "should have at least one entry",
    }  # fmt: skip
    parsed = {"date": "a date such as 2026-01-31", "float": "a number", "bool": "true or false", "list": "a list"}
    said = known.get(kind) or f"should be {parsed.get(kind.split('_')[0], 'filled in as the comment beside it says')}"
    return said if isinstance(entry["input"], dict | list) else f"{said} (given: {entry['input']})"


def _unfilled(value: object, name: str = "") -> list[str]:
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in _unfilled(v, f"{name}.{k}".strip("."))]
    if isinstance(value, list):
        return [x for i, v in enumerate(value) for x in _unfilled(v, f"{name}.{i}")]
    return [name] if isinstance(value, str) and value.strip().startswith(TODO) else []


def write_templates(folder: Path) -> None:
    """Writes both forms with TODO where a person has to answer, and what each answer means beside it."""
    for name, form in (("about.yaml", About), ("decision.yaml", Decision)):
        if (folder / name).exists():
            raise UnderstudyError("the form is there already", where=folder / name, fix="fill it in, or delete it")
        head = f"# Replace every {TODO}; what is empty may stay so. A text with a colon or a # stands in quotes."
        write_text(folder / name, "\n".join([head, *_blank(form)]) + "\n")


def _blank(form: type[BaseModel]) -> list[str]:
    """Lines of an empty form."""
    lines = []
    for name, field in form.model_fields.items():
        inner = field.annotation
        words = f"  # {field.description}" if field.description else ""
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            lines += [f"{name}:", *(f"  {line}" for line in _blank(inner))]
        elif not field.is_required():
            lines.append(f"{name}: {json.dumps(field.default)}{words}")
        elif "list" in str(inner):
            lines += [f"{name}:{words}", f"- {TODO}"]
        else:
            lines.append(f"{name}: {_USUAL.get(name, TODO)}{words}")
    return lines

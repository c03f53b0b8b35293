"""What a browser may post as an answer, and nothing else."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from understudy.reading.folder import Identifier, StudyText

LONGEST_COMMENT = 2000
LONGEST_SECONDS = 86_400.0

Rating = Annotated[int, Field(ge=1, le=5)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Call(_Strict):
    """Real or synthetic, with a confidence from 1 (a guess) to 5 (certain) where the study's scale has one."""

    call: Literal["real", "synthetic"]
    confidence: Rating | None = None


class Preference(_Strict):
    """Which of two segmentations the reader would rather correct, and how good each is (1 to 5)."""

    prefer: Literal["A", "B", "same"]
    rating_a: Rating
    rating_b: Rating


class Answer(_Strict):
    """One answer; the nonce is drawn by the browser, and a second arrival of it changes nothing.

    Attributes:
        seconds: time that the item was visible before the answer.
    """

    item: Identifier
    value: Call | Preference
    seconds: Annotated[float, Field(ge=0, le=LONGEST_SECONDS)]
    comment: Annotated[str, Field(max_length=LONGEST_COMMENT)] = ""
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    @field_validator("comment")
    @classmethod
    def _printable(cls, comment: str) -> str:
        if any(ord(letter) < 32 and letter not in "\n\t" for letter in comment):
            raise ValueError("control characters")
        return comment

    def stored_value(self) -> dict[str, Any]:
        return self.value.model_dump()


def parse_answer(body: bytes, study: StudyText) -> Answer:
    """Reads a posted answer for this study.

    Raises:
        ValueError: not JSON, a field that is absent, wrong or unknown, or an answer of the other kind
            or scale (pydantic's ValidationError is one).
    """
    answer = Answer.model_validate_json(body)
    if isinstance(answer.value, Call) != (study.kind == "real_or_synthetic"):
        raise ValueError("an answer of another kind of study")
    if isinstance(answer.value, Call) and (answer.value.confidence is None) != (study.scale == "binary"):
        raise ValueError("the scale of another study")
    return answer

"""The one exception that a user of Understudy is meant to read."""

from __future__ import annotations

from pathlib import Path


class UnderstudyError(Exception):
    """Something that the user can fix: what is wrong (one sentence), where (file, field, patient), how to fix it."""

    def __init__(self, what: str, where: str | Path | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, None if where is None else str(where), fix
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    @property
    def message(self) -> str:
        """The whole message on one to three lines."""
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  what to do: {self.fix}")
        return "\n".join(lines)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's class where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class MissingField(UnderstudyError, KeyError):
    """A JSON file lacks a field: another version of Understudy, or another program, wrote it."""


class Interrupted(Exception):
    """A job was asked to stop (SIGTERM, SIGINT) and has saved its state; running it again continues."""


class TimeOver(Interrupted):
    """A job was stopped because its time was up; running it again continues."""

"""The one exception that a user of Understudy is meant to read; of any other, one line and a file for a bug report."""

import contextlib
import os
import platform
import shlex
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

DEBUG = "UNDERSTUDY_DEBUG"  # set to 1: tracebacks are shown


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
        lines = ("", self.what), ("  where: ", self.where), ("  what to do: ", self.fix)
        return "\n".join(f"{label}{text}" for label, text in lines if text)


class MissingField(UnderstudyError, KeyError):
    """A JSON file lacks a field: another version of Understudy, or another program, wrote it."""


class Interrupted(Exception):
    """A job was asked to stop (SIGTERM, SIGINT) and has saved its state; running it again continues."""


class TimeOver(Interrupted):
    """A job was stopped because its time was up; running it again continues."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's class where it says nothing."""
    try:
        text = str(error)
    except RecursionError:  # the text of what is nested deep
        text = ""
    return (text.splitlines() or [type(error).__name__])[0]


def debugging() -> bool:
    """Whether tracebacks are shown."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def unexpected(error: BaseException, log: Path | None) -> UnderstudyError:
    """What the user is told; `log` is the file with the traceback, None if none could be written."""
    first = (str(error).strip() or "no message").splitlines()[0][:300]
    send = "this is a bug: look through that file (it may name folders or patients) and send it to the maintainers"
    again = f"run the command again with {DEBUG}=1 to see where it happened, and report that"
    return UnderstudyError(f"unexpected {type(error).__name__}: {first}", where=log, fix=send if log else again)


def report(error: BaseException) -> str:
    """The command, versions and traceback of an error, as text."""
    versions = [f"understudy {metadata.version('understudy-mri')}", f"Python {platform.python_version()}"]
    versions.append(platform.platform())
    for name in ("torch", "numpy", "nibabel", "pydantic", "typer"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    now, command = datetime.now(UTC).isoformat(timespec="seconds"), shlex.join(["understudy", *sys.argv[1:]])
    return "\n".join([now, command, ", ".join(versions), "", "".join(traceback.format_exception(error))])


def write_report(error: BaseException) -> Path | None:
    """Writes `report` to a file that only its owner may read, in the cache or temporary folder; None if neither can."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "understudy" / "logs"
    name = f"understudy-{datetime.now():%Y%m%d-%H%M%S}-"
    for folder in (caches, Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            handle, path = tempfile.mkstemp(".log", name, folder)
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(report(error))
            return Path(path)
    return None

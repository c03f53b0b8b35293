"""The command `understudy`: every command parses, calls one function and prints; one module a topic."""

import importlib
import os
import sys

from understudy.cli.base import app, print_error
from understudy.errors import Interrupted, UnderstudyError, debugging, unexpected, write_report
from understudy.io.files import explain_os_error
from understudy.runtime.memory import is_out_of_memory

# Importing a topic adds its commands to `app`, in the order in which `--help` lists them.
for _topic in ("study", "data", "export", "segmentation", "quality", "audit", "reading", "release"):
    importlib.import_module(f"understudy.cli.{_topic}")

UNEXPECTED = 70  # EX_SOFTWARE: a mistake of ours
INTERRUPTED = 75  # EX_TEMPFAIL: "try again", which queues of clusters understand as well
CLOSED_PIPE = 141  # as a program that SIGPIPE ends: `understudy ... | head`


def main() -> None:
    """Runs the command line; an error is one message, and the traceback of an unforeseen one is in a file."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a closed pipe can still be dealt with
    except (Interrupted, KeyboardInterrupt) as stop:
        sys.stderr.write(f"{str(stop) or 'stopped'}; run the same command again to continue\n")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            sys.exit(CLOSED_PIPE)
        if debugging():
            raise
        known = _explained(error)
        print_error((known or unexpected(error, write_report(error))).message)
        sys.exit(1 if known else UNEXPECTED)


def _explained(error: Exception) -> UnderstudyError | None:
    """What the user can do about an error; None if it is a mistake of ours."""
    if isinstance(error, UnderstudyError):
        return error
    if is_out_of_memory(error):
        fix = "close other programs, use fewer --workers or a smaller model or resolution, or a larger machine"
        return UnderstudyError("there is not enough memory for this", fix=fix)
    if isinstance(error, OSError):
        return explain_os_error(error, None, writing=False)
    if type(error).__name__ == "ValidationError":  # pydantic's, which need not be loaded
        from understudy.study.config.yaml import problems_of

        problems = "\n".join(f"  {problem}" for problem in problems_of(error))  # type: ignore[arg-type]
        fix = "give another value; the command's --help says what it means"
        return UnderstudyError(f"a setting cannot be used:\n{problems}", fix=fix)
    return None


def _output_is_closed() -> bool:
    """Whether nobody reads the output any more; what is left of it is then dropped."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False

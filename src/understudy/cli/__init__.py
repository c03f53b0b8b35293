"""The command `understudy`: every command parses, calls one function and prints.

One module a topic; importing it adds its commands to `app`.
"""

from __future__ import annotations

import sys

import understudy.cli.annotations
import understudy.cli.correlate
import understudy.cli.reading_serve
import understudy.cli.release_model  # noqa: F401
from understudy.cli import (  # noqa: F401
    audit,
    cohort,
    exchange,
    generators,
    plan,
    quality,
    reading,
    release,
    score,
    study,
)
from understudy.cli.base import app, complain
from understudy.errors import Interrupted, UnderstudyError
from understudy.files import explain_os_error

INTERRUPTED = 75  # EX_TEMPFAIL: "try again", which queues of clusters understand as well

__all__ = ["app", "main"]


def main() -> None:
    """Runs the command line; errors that the user can mend are one message, others keep their traceback."""
    try:
        app()
    except UnderstudyError as error:
        complain(error.message)
        sys.exit(1)
    except Interrupted as stop:
        sys.stderr.write(f"{str(stop) or 'stopped'}; run the same command again to continue\n")
        sys.exit(INTERRUPTED)
    except OSError as error:
        known = explain_os_error(error, error.filename or "output")
        if known is None:
            raise
        complain(known.message)
        sys.exit(1)

"""The application, the options that commands share, and how they print."""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer import Argument, Option
from typer.core import TyperCommand, TyperGroup

from understudy import __version__
from understudy.errors import DEBUG, Interrupted, UnderstudyError

# Heavy imports (torch, pandas, the study file's schema) are made inside the commands: `--help` answers at once.

if TYPE_CHECKING:
    from understudy.study.config.schema import Study


QUIET = "No progress, only results and errors."
TASKS = {  # module of commands -> what they are for
    "study": "Run a study", "segmentation": "Measure how useful slices are, segment, score",
    "audit": "Search for copies of patients", "quality": "Compare synthetic with real slices",
    "release": "Release slices and check what was released", "reading": "Ask experts",
    "data": "Make, read and convert slices and generators", "export": "Write for other programs",
}  # fmt: skip


class Said(NamedTuple):
    """What a command has to say; its decorator prints one or the other."""

    words: str
    record: dict[str, Any]  # the same with --json


class Command(TyperCommand):
    """A command that refuses a device that is not there before it does anything."""

    def invoke(self, ctx: Any) -> Any:
        """Checks what all commands have in common, then runs the command."""
        device = ctx.params.get("device", "auto")
        if device not in ("auto", "cpu"):  # which are always there, and torch takes a second to load
            from understudy.runtime.devices import check_device_name, resolve_device

            # a device of another machine (a cluster's, one of a stated speed) is checked there
            elsewhere = ctx.params.get("cluster") == "slurm" or ctx.params.get("speed")
            (check_device_name if elsewhere else resolve_device)(device)
        for name, value in ctx.params.items():
            if isinstance(value, Path) and value.name in ("", ".."):  # "." has no name to which one can add
                ctx.params[name] = value.absolute().resolve()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted("stopped") from stop

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence, whole, for the list of commands."""
        return super().get_short_help_str(1000)


class Group(TyperGroup):
    """A group whose commands are listed in their order, with groups last and whole sentences."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return sorted(super().list_commands(ctx), key=lambda name: isinstance(self.commands[name], Group))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Lists them by task, which is the module that they are in."""
        tasks: dict[str, list[tuple[str, str]]] = {title: [] for title in TASKS.values()}
        for name in self.list_commands(ctx):
            command: Any = self.commands[name]
            inner = next(iter(getattr(command, "commands", {}).values()), command)
            topic = inner.callback.__module__.rpartition(".")[2]
            title = TASKS[topic] if ctx.parent is None else "Commands"
            tasks.setdefault(title, []).append((name, command.get_short_help_str()))
        for title, rows in tasks.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence, whole."""
        return super().get_short_help_str(1000)


class Commands(typer.Typer):
    """Commands and groups of these kinds."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"cls": Group, "no_args_is_help": True, **settings})

    def command(self, *names: Any, **settings: Any) -> Any:
        """As Typer's, for a `Command`. All take --quiet, and those that return `Said` take --json."""
        register = super().command(*names, **{"cls": Command, **settings})

        def decorate(function: Callable[..., Said | None]) -> Callable[..., Said | None]:
            own = inspect.signature(function, eval_str=True)
            told = own.return_annotation in (Said, Said | None)
            more = {"quiet": QuietOption} if "quiet" not in own.parameters else {}
            more |= {"as_json": JsonOption} if told else {}

            @functools.wraps(function)
            def run(**given: Any) -> None:
                as_json = told and given.pop("as_json")
                said = function(**{name: value for name, value in given.items() if name in own.parameters})
                if said is not None:
                    print_json(said.record) if as_json else print(said.words)

            keyword = inspect.Parameter.KEYWORD_ONLY
            options = [p.replace(kind=keyword) for p in own.parameters.values()]
            options += [inspect.Parameter(name, keyword, default=o, annotation=bool) for name, o in more.items()]
            run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
            run.__annotations__ = {}
            register(run)
            return function

        return decorate


app = Commands(
    name="understudy",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # else angle or square brackets of a help text are taken for tags
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Synthetic MR slices that stand in for patients' images: are they useful, and are they copies?\n\n"
    "Start with `understudy run quickstart`.",
)

StudyArgument = Argument(
    ..., metavar="STUDY", help="Study file (.yaml), or a preset: quickstart, quickstart-five, workstation, paper."
)
ResultsArgument = Argument(..., help="Folder of a study's results.")
OutOption = Option(None, "--out", "-o", help="Folder of the results [default: understudy-<study>].")
DeviceOption = Option("auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
DevicesOption = Option(1, min=1, help="GPUs (or processes, with --device cpu) that share a generator's batch.")
JsonOption = Option(False, "--json", help="Print JSON.")
QuietOption = Option(False, "--quiet", "-q", help=QUIET)
SeedOption = Option(0, min=0, help="Of everything drawn at random.")


def _show_version(value: bool) -> None:
    if value:
        print(f"understudy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
    debug: bool = Option(False, "--debug", help="Show the traceback of an error, as does UNDERSTUDY_DEBUG=1."),
) -> None:
    if debug:
        os.environ[DEBUG] = "1"  # which processes started here inherit


def with_options(
    argument: str, *signatures: Callable[..., None], gather: Callable[[dict[str, Any]], Any]
) -> Callable[[Callable[..., Said | None]], Callable[..., Said | None]]:
    """Puts the options of `signatures` in the place of a command's `argument`, which gets what `gather` makes of all.

    A command's own option takes the place of a shared one of the same name.
    """

    def parameters(function: Callable[..., Said | None]) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(function, eval_str=True).parameters)

    def decorate(command: Callable[..., Said | None]) -> Callable[..., Said | None]:
        own = parameters(command)
        shared = [p for signature in signatures for p in parameters(signature).values() if p.name not in own]
        places = [shared if name == argument else [parameter] for name, parameter in own.items()]

        @functools.wraps(command)
        def run(**given: Any) -> Said | None:
            mine = {name: value for name, value in given.items() if name in own}
            return command(**{argument: gather(given)}, **mine)

        options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for place in places for p in place]
        said = inspect.signature(command, eval_str=True).return_annotation
        run.__signature__ = inspect.Signature(options, return_annotation=said)  # type: ignore[attr-defined]  # Typer's source of options
        run.__annotations__ = {}
        return run

    return decorate


def study_of(source: str | Path) -> Study:
    """A study file or preset."""
    from understudy.study.config.schema import load_study

    return load_study(source)


def results_folder(study: Study, out: Path | None) -> Path:
    """Where a study's results go: as given, or by its name."""
    return out if out is not None else Path(f"understudy-{study.name}")


def named(option: str, text: str) -> tuple[str, Path]:
    """The two parts of NAME=PATH."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise UnderstudyError(f"{text!r} should be NAME=PATH", where=option, fix=f"write {option} NAME=PATH")
    return name, Path(path)


def one_of(option: str, value: str, choices: Sequence[str]) -> None:
    """Refuses another value of an option."""
    if value not in choices:
        raise UnderstudyError(f"{option} is {value!r}", where=option, fix=f"use {' or '.join(choices)}")


def exit_with(failed: bool, status: int = 1) -> None:
    """Ends the command with a status other than 0 if something failed."""
    if failed:
        raise typer.Exit(status)


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], markup: tuple[int, ...] = ()) -> None:
    """A table; cells are shown as they are but for the columns in `markup`."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) if i in markup else escape(str(cell)) for i, cell in enumerate(row)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def dashed(row: Sequence[Any]) -> list[str]:
    """The cells of a row of numbers with a dash for each NaN and its interval."""
    return [re.sub(r"(?<!\w)\+?nan\b(?: \(\+?nan to \+?nan\)| to \+?nan)?", "–", str(cell)) for cell in row]


def print_json(value: Any) -> None:
    """Plain JSON values, indented."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_error(message: str) -> None:
    """A message on stderr."""
    sys.stderr.write(f"error: {message}\n")

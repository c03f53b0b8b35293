"""What lets a run continue after an interruption: checkpoints, stop requests, time limits and its history."""

import json
import logging
import os
import pickle
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

from understudy.errors import Interrupted, TimeOver, UnderstudyError
from understudy.io.files import atomic_path, reading, write_text, writing
from understudy.io.foreign import JSON

log = logging.getLogger(__name__)

HISTORY = "history.jsonl"
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # the last: queues send it ahead of a job's time limit
# what zipfile and torch raise for damaged files
_UNREADABLE = (
    RuntimeError, EOFError, KeyError, TypeError, ValueError, OSError, OverflowError, pickle.UnpicklingError,
    zipfile.BadZipFile,
)  # fmt: skip


class Checkpoints:
    """The last `keep` checkpoints of one run: `checkpoint-<step>.pt`, each whole or absent.

    Attributes:
        identity: hash of what is being trained on what; a checkpoint with another one is refused.
        damaged: names of checkpoints that could not be used so far, for the run's record.
        history: the text of `history.jsonl` when the checkpoint that `latest` found was saved; "" before.
    """

    def __init__(self, folder: str | Path, identity: str, keep: int = 2) -> None:
        self.folder, self.identity, self.keep = Path(folder), identity, keep
        self.damaged: list[str] = []
        self.history = ""

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.pt"))

    def save(self, state: dict[str, Any], step: int, history: str = "") -> None:
        """Writes `state` (tensors, numbers, strings, lists and dicts of these) atomically and drops old ones.

        `history`: the text of `history.jsonl` so far.
        """
        import torch  # seconds, which users of `StopRequest` alone need not wait

        with atomic_path(self.folder / f"checkpoint-{step:012d}.pt") as temporary:
            try:
                content = {"identity": self.identity, "step": step, "state": state, "damaged": self.damaged}
                content["history"] = history
                torch.save(content, temporary)
            except RuntimeError as error:  # torch reports a full disk as a RuntimeError of its zip writer
                what = f"the checkpoint could not be written ({str(error).splitlines()[0]})"
                fix = "check the free space and run the same command again"
                raise UnderstudyError(what, where=self.folder, fix=fix) from error
        for name in self.damaged:
            if name != f"checkpoint-{step:012d}.pt":
                (self.folder / name).unlink(missing_ok=True)
        for old in self._paths()[: -self.keep]:  # the last but one is used where the last is damaged
            old.unlink(missing_ok=True)

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, state) of the newest readable checkpoint, None without any; raises for one of another training."""
        import torch

        paths = self._paths()
        for path in reversed(paths):
            try:
                with zipfile.ZipFile(path) as archive:  # torch writes a checksum of each tensor, and reads none
                    if wrong := archive.testzip():
                        raise ValueError(f"{wrong} was changed")
                content = torch.load(path, map_location="cpu", weights_only=True)
                found, step, state = content["identity"], content["step"], content["state"]
                history = content.get("history", "")
            except _UNREADABLE as error:
                log.warning("checkpoint %s is damaged (%s); trying the one before", path, error)
                self.damaged.append(path.name)
                continue
            if found != self.identity:
                raise UnderstudyError("a checkpoint of another training", where=path, fix="use another folder")
            self.damaged = [*content.get("damaged", ()), *self.damaged]
            self.history = history
            return int(step), state
        if paths:
            raise UnderstudyError("no checkpoint can be read", where=self.folder, fix="delete them to start again")
        return None

    def clear(self) -> None:
        """Deletes all checkpoints: the run is finished and its result is saved."""
        for path in self._paths():
            path.unlink(missing_ok=True)


class StopRequest:
    """Inside the block SIGTERM, SIGINT and SIGUSR1 set `requested`; a second one ends the process."""

    # A second one must come later by so many seconds: a queue signals all processes of a job, and one of them may pass
    # the same signal on to another.
    AGAIN = 2.0

    def __init__(self) -> None:
        self.requested, self._since = False, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in STOPPING}
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > self.AGAIN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def time_limit(minutes: float | None) -> Iterator[None]:
    """Sends this process SIGUSR1, as a queue does, after so many minutes (None: never), then raises `TimeOver`."""
    # signals reach a process's main thread alone; in others there is no limit
    if minutes is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    over = threading.Event()

    def ask() -> None:
        over.set()
        os.kill(os.getpid(), signal.SIGUSR1)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped before its work began")

    before = signal.signal(signal.SIGUSR1, interrupt)  # replaced by trainings while they run
    timer = threading.Timer(min(minutes * 60, threading.TIMEOUT_MAX), ask)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Interrupted as stop:
        if over.is_set():
            raise TimeOver(f"met its limit of {minutes:g} minutes, to be continued: {stop}") from stop
        raise
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR1, before)


class History:
    """`history.jsonl`: one JSON object a line."""

    def __init__(self, folder: Path) -> None:
        self.path, self.text = folder / HISTORY, ""

    def resume(self, text: str) -> None:
        """Begins with the text that a checkpoint holds: a resumed run leaves the file of an unbroken one."""
        self.text = text
        write_text(self.path, text)

    def append(self, **line: Any) -> None:
        """Adds one line; raises `UnderstudyError` for a full disk or a missing permission."""
        self.text += json.dumps(line) + "\n"
        with writing(self.path), open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")

    @staticmethod
    def read(path: str | Path) -> list[dict[str, Any]]:
        """All lines; [] if there is no file; a last line cut off by a kill is left out."""
        path = Path(path)
        with reading(path, JSON):
            lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
            return [json.loads(line) for line in lines[:-1] if line]

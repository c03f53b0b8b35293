"""What the system refuses is told in the words of what was being done."""

from __future__ import annotations

import copy
import dataclasses
import errno
import fcntl
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import UnderstudyError
from understudy.io.files import (
    atomic_path,
    explain_os_error,
    held_lock,
    make_folder,
    plain,
    read_json,
    reading,
    sha256_json,
    write_json,
    writing,
)
from understudy.study.engine.failures import TimeLimit

BOTH = {
    errno.ENOSPC: "full", errno.EDQUOT: "quota", errno.EROFS: "read-only", errno.EFBIG: "limit", errno.EMFILE: "open",
    errno.ENFILE: "open", errno.EIO: "error", errno.ENAMETOOLONG: "long", errno.ELOOP: "links", errno.EEXIST: "folder",
    errno.ESTALE: "drive", errno.ENOTCONN: "drive", errno.ETIMEDOUT: "drive",
}  # fmt: skip
READING = {
    errno.ENOENT: "not found", errno.EACCES: "to read", errno.EPERM: "to read", errno.ENOTDIR: "not a folder",
    errno.EISDIR: "not a file",
}  # fmt: skip
WRITING = {
    errno.EACCES: "to write", errno.EPERM: "to write", errno.ENOTDIR: "folder", errno.EISDIR: "folder",
}  # fmt: skip


@pytest.mark.parametrize(("number", "words"), (BOTH | READING).items())
def test_reading_is_told_in_words_of_reading(number: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError) as refused, reading(tmp_path / "scan.nii.gz"):
        raise OSError(number, os.strerror(number), str(tmp_path / "scan.nii.gz"))
    assert words in refused.value.what
    assert refused.value.where == str(tmp_path / "scan.nii.gz")
    assert refused.value.fix
    if number not in (errno.EROFS, errno.EEXIST):
        assert "write" not in f"{refused.value.what} {refused.value.fix}"


@pytest.mark.parametrize(("number", "words"), (BOTH | WRITING).items())
def test_writing_is_told_in_words_of_writing(number: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError) as refused, writing(tmp_path / "out"):
        raise OSError(number, os.strerror(number))
    assert words in refused.value.what
    assert refused.value.where == str(tmp_path / "out")
    assert "read it" not in str(refused.value.fix)


def test_a_source_that_may_not_be_read_while_something_is_written(tmp_path: Path) -> None:
    source = tmp_path / "patients" / "scan.nii.gz"
    error = PermissionError(errno.EACCES, "Permission denied", str(source))
    known = explain_os_error(error, tmp_path / "out" / "copy.nii.gz", writing=True)
    assert known is not None
    assert (known.what, known.where) == ("no permission to read", str(source))
    own = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out" / ".copy.nii.gz.1.tmp"))
    known = explain_os_error(own, tmp_path / "out" / "copy.nii.gz", writing=True)
    assert known is not None
    assert known.what == "no permission to write"
    above = PermissionError(errno.EACCES, "Permission denied", str(tmp_path))
    known = explain_os_error(above, tmp_path / "out" / "sub" / "copy.nii.gz", writing=True)
    assert known is not None
    assert known.what == "no permission to write"


def test_what_says_nothing_about_a_file_passes_through(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), reading(tmp_path):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(TimeLimit), writing(tmp_path):
        raise TimeLimit(3)
    with pytest.raises(ValueError, match="not about files"), reading(tmp_path):
        raise ValueError("not about files")


def test_real_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, words in (
        (tmp_path / "absent", "not found"),
        (tmp_path, "a folder"),
        (tmp_path / "file" / "below", "not a folder"),
        (tmp_path / "loop", "links"),
        (tmp_path / ("n" * 300), "too long"),
    ):
        with pytest.raises(UnderstudyError, match=words) as refused, reading(path):
            path.read_bytes()
        assert refused.value.where == str(path)
    with pytest.raises(UnderstudyError, match="folder"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(UnderstudyError, match="folder"):
        make_folder("/proc/nothing/here")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out") as temporary:
        shutil.copyfile(tmp_path / "absent", temporary)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000, "\ufeff{}"])
def test_what_is_no_json_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UnderstudyError, match="not a JSON file") as refused:
        read_json(tmp_path / "a.json")
    assert refused.value.where == str(tmp_path / "a.json")


def test_a_field_that_a_file_lacks_is_told_with_the_files_name(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"jobs": [{"id": "a"}]}')
    (job,) = read_json(path)["jobs"]
    assert (job["id"], job.get("name")) == ("a", None)
    for error in (UnderstudyError, KeyError):  # code that knows what to do about it goes on
        with pytest.raises(error, match="no field `name`") as refused:
            job["name"]
        assert refused.value.where == str(path)
    copy = pickle.loads(pickle.dumps(job))
    assert copy == {"id": "a"}
    assert copy.path == path
    with pytest.raises(UnderstudyError, match="another program") as refused:
        read_json(path, list)
    assert refused.value.where == str(path)


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    value = {"file": "scan\udcff.nii"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert len(sha256_json(value)) == 64
    assert sha256_json({"a": "\xe9"}) == hashlib.sha256('{"a":"\xe9"}'.encode()).hexdigest()


def test_what_was_read_can_be_copied_and_pickled_like_a_dictionary(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Holder:
        content: dict[str, object]

    write_json(tmp_path / "a.json", {"x": {"y": [1, {"z": 2}]}})
    found = read_json(tmp_path / "a.json")
    expected = {"x": {"y": [1, {"z": 2}]}}
    for again in (
        dataclasses.asdict(Holder(found))["content"],
        copy.deepcopy(found),
        pickle.loads(pickle.dumps(found)),
    ):
        assert again == expected


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_hash_of_equal_values_is_equal() -> None:
    assert sha256_json({"a": 1, "b": [1, 2]}) == sha256_json({"b": [1, 2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})


def test_plain_values_are_json() -> None:
    value = {"a": np.float32("nan"), "b": [np.int64(3), np.bool_(True)], 1: float("inf"), "c": (None, Path("x"))}
    assert plain(value) == {"a": None, "b": [3, True], "1": None, "c": [None, "x"]}


HOLD = """
import sys, time
from pathlib import Path
from understudy.io.files import held_lock
with held_lock(Path(sys.argv[1]), "at home", "busy ({holder})", "wait"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_another_process_is_named_and_its_death_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        with (
            pytest.raises(UnderstudyError, match=rf"busy \(process {process.pid} at home\)"),
            held_lock(path, "here", "busy ({holder})", "wait"),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with held_lock(path, "here", "busy ({holder})", "wait"):
        assert path.read_text().endswith(" here\n")


def test_a_look_at_the_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`is_locked` holds the lock for an instant; a process that begins just then is not sent away."""
    path = tmp_path / "lock"
    path.touch()
    look = path.open()
    fcntl.flock(look, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _: look.close())
    with held_lock(path, "here", "busy ({holder})", "wait"):
        assert path.read_text().endswith(" here\n")

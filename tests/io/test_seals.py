"""Seals notice every change of a job's files, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from understudy.io.files import read_json, write_json
from understudy.io.seals import (
    Damaged,
    check_intact,
    check_opened,
    check_seal,
    check_sealed,
    damage,
    files_of,
    read_done,
    sealed,
)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The folder of a finished job."""
    folder = tmp_path / "jobs" / "stage-0123456789ab"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(bytes(range(200)))
    write_json(folder / "spec.json", {"name": "a job"})
    (folder / "lock").touch()
    done = {"id": "0123456789abcdef", "name": "a job", "results": {1: (2.5, None)}}
    write_json(folder / "done.json", sealed({**done, "files": files_of(folder)}))
    return folder


def test_an_untouched_job_is_sealed_and_files_of_the_engine_do_not_count(job: Path) -> None:
    (job / "lock").write_text("process 1")
    (job / ".DS_Store").touch()
    (job / "model" / "tensorboard").mkdir()
    (job / "model" / "tensorboard" / "events").touch()
    assert damage(job) == ""
    check_sealed(job)
    check_opened(job / "model")
    done = read_done(job)
    assert done is not None
    assert sorted(done["files"]) == ["model/weights", "spec.json"]


@pytest.mark.parametrize("kind", ["flipped", "cut off", "deleted", "added", "renamed"])
def test_any_other_file_is_named_with_its_job(job: Path, kind: str) -> None:
    path = job / "model" / "weights"
    before, content = path.stat(), path.read_bytes()
    if kind == "flipped":
        path.write_bytes(content[:7] + b"x" + content[8:])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a failing disk does it
    elif kind == "cut off":
        path.write_bytes(content[:-1])
    elif kind == "deleted":
        path.unlink()
    elif kind == "added":
        (job / "model" / "more").touch()
    else:
        path.rename(job / "model" / "other")
    with pytest.raises(Damaged, match=r"job `a job` .* model/(weights|more)") as told:
        check_sealed(job)
    assert "--repair" in str(told.value)
    sizes_differ = kind != "flipped"
    assert bool(damage(job, contents=False)) == sizes_differ


def test_a_link_to_a_model_does_not_get_round_the_seal(job: Path, tmp_path: Path) -> None:
    (tmp_path / "g").symlink_to(job / "model")
    check_opened(tmp_path / "g")
    (job / "model" / "weights").write_bytes(bytes(200))
    with pytest.raises(Damaged, match="model/weights was changed"):
        check_opened(tmp_path / "g")


def test_links_to_themselves_and_names_that_are_no_text_are_damage(job: Path) -> None:
    os.close(os.open(os.fsencode(job) + b"/\xfc", os.O_CREAT))
    assert damage(job) == "\\xfc was added"
    os.unlink(os.fsencode(job) + b"/\xfc")
    (job / "model" / "weights").unlink()
    (job / "model" / "weights").symlink_to("weights")
    assert damage(job) == "model/weights is a link to itself"


def test_a_folder_in_the_place_of_done_json_is_damage(job: Path) -> None:
    (job / "done.json").unlink()
    assert read_done(job) is None
    (job / "done.json").mkdir()
    with pytest.raises(Damaged, match=r"done\.json"):
        read_done(job)
    assert damage(job)


def test_only_what_is_opened_is_read(job: Path) -> None:
    (job / "model" / "weights").write_bytes(b"")
    check_opened(job / "spec.json")
    with pytest.raises(Damaged, match="0 bytes, 200 were written"):
        check_opened(job / "model" / "weights")


def test_a_file_is_hashed_again_when_it_changes_in_the_same_process(job: Path) -> None:
    check_sealed(job)
    path = job / "model" / "weights"
    path.write_bytes(bytes(200))
    os.utime(path, ns=(1, 1))
    with pytest.raises(Damaged, match="was changed"):
        check_sealed(job)


def test_done_json_itself(job: Path) -> None:
    path = job / "done.json"
    text = path.read_text()
    for broken in (*(text.replace(x, x.swapcase()) for x in ('"a job"', '"seal"', '"files"')), "{"):
        path.write_text(broken)
        with pytest.raises(Damaged, match=r"done\.json"):
            read_done(job)
    other = job.with_name("stage-ba9876543210")
    other.mkdir()
    (other / "done.json").write_text(text)
    with pytest.raises(Damaged, match="that of the job 'a job'"):
        read_done(other)
    path.write_text('{"id": "0123456789abcdef", "results": {}}')  # of a version without seals
    check_sealed(job)
    path.unlink()
    assert read_done(job) is None


def test_a_seal_holds_for_what_json_makes_of_a_value(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", sealed({"b": {2: (1, float("nan")), 10: "ü"}}))
    content = read_json(tmp_path / "a.json")
    check_seal(content, tmp_path / "a.json")
    with pytest.raises(Damaged):
        check_seal(content | {"b": 1}, tmp_path / "a.json")


@pytest.mark.parametrize("hashes", [1, "x", ["weights"], {"weights": 1}, {"weights": None}])
def test_a_description_without_real_hashes_is_damaged(tmp_path: Path, hashes: object) -> None:
    (tmp_path / "weights").write_bytes(b"w")
    with pytest.raises(Damaged):
        check_intact(tmp_path / "weights", {"sha256": hashes})

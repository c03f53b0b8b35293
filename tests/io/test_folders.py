"""Walking folders of every kind that people have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.io.folders import files_below, list_files, read_bytes


def test_links_are_followed_once_and_dangling_ones_are_listed(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/s10.nii.gz", "a/s9.NII.GZ", "a/b/s1.nii", "a/x.txt", "a/.hidden.nii"):
        (tmp_path / name).touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)  # a cycle
    (tmp_path / "same").symlink_to(tmp_path / "a")  # a second way to the same files
    (tmp_path / "gone.nii").symlink_to("nowhere")
    (tmp_path / "itself.nii").symlink_to("itself.nii")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "a.nii").touch()
    found = files_below(tmp_path, (".nii", ".nii.gz"))
    names = [os.path.basename(name) for name in found]
    assert sorted(names) == ["gone.nii", "itself.nii", "s1.nii", "s10.nii.gz", "s9.NII.GZ"]
    assert names.index("s9.NII.GZ") < names.index("s10.nii.gz")


def test_links_to_patients_who_are_not_there_are_problems(tmp_path):
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "a.nii").touch()
    (tmp_path / "p2").symlink_to("../archive/p2")
    (tmp_path / "p3").symlink_to("p3")
    (tmp_path / "README.md").symlink_to("nowhere")
    listing = list_files(tmp_path, (".nii",))
    assert listing.files == ["p1/a.nii"]
    assert [problem.where for problem in listing.problems] == [str(tmp_path / "p2"), str(tmp_path / "p3")]


def test_names_that_are_not_utf8_are_problems_of_their_own(tmp_path):
    (tmp_path / "good.png").touch()
    os.close(os.open(os.fsencode(tmp_path) + b"/M\xfcller.png", os.O_CREAT))
    listing = list_files(tmp_path, (".png",))
    assert listing.files == ["good.png"]
    (problem,) = listing.problems
    assert problem.where == f"{tmp_path}/M\\xfcller.png"
    with pytest.raises(UnderstudyError):
        files_below(tmp_path, (".png",))


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "p1").mkdir()
    (tmp_path / "p2").mkdir()
    (tmp_path / "p1" / "a.nii").touch()
    plain = os.scandir

    def scandir(path):  # these tests run as root, whom no permission stops
        if Path(path).name == "p2":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_files(tmp_path, (".nii",))
    assert listing.files == ["p1/a.nii"]
    assert [p.where for p in listing.problems] == [str(tmp_path / "p2")]
    assert "permission to read" in listing.problems[0].what


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.touch()])
def test_what_is_no_folder_is_refused(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(UnderstudyError) as caught:
        list_files(tmp_path / "x", (".nii",))
    assert caught.value.where == str(tmp_path / "x")


def test_content_that_was_not_fetched_is_told_from_damage(tmp_path):
    link = tmp_path / "annexed.nii.gz"
    link.symlink_to("../.git/annex/objects/absent")
    lfs = tmp_path / "lfs.nii.gz"
    lfs.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    annex = tmp_path / "pointer.nii.gz"
    annex.write_text("/annex/objects/MD5E-s1--d41d8cd9.nii.gz\n")
    os.mkfifo(tmp_path / "fifo.nii.gz")
    cures = {link: "datalad get", lfs: "git lfs pull", annex: "datalad get", tmp_path / "fifo.nii.gz": "file"}
    for path, cure in cures.items():
        with pytest.raises(UnderstudyError) as caught:
            read_bytes(path)
        assert cure in (caught.value.fix or "")
        assert caught.value.where == str(path)


def test_errors_of_reading_do_not_speak_of_writing(tmp_path, monkeypatch):
    path = tmp_path / "a.nii"
    path.touch()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnderstudyError) as caught:
        read_bytes(path)
    assert "read" in caught.value.what
    assert "writ" not in caught.value.message


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.text("abc0123456789. _-é", min_size=1, max_size=8).filter(lambda n: n.strip(". ")), max_size=6))
def test_every_visible_file_is_listed_once(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("tree")
    for i, name in enumerate(sorted(names)):
        folder = root / f"d{i % 2}"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.png").touch()
    expected = {f"d{i % 2}/{name}.png" for i, name in enumerate(sorted(names)) if not name.startswith(".")}
    found = files_below(root, (".png",))
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_a_name_that_no_folder_can_have_is_refused(tmp_path):
    with pytest.raises(UnderstudyError) as caught:
        list_files(tmp_path / ("x" * 999), (".nii",))
    assert "long" in caught.value.what

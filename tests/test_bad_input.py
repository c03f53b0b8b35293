"""Bad input as a new user would give it: one clear message, a non-zero exit status, and nothing lost."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from understudy import cli
from understudy.cohort.phantom.write import PhantomConfig, write_phantoms

STUDY = """
name: bad
cohort: {path: patients}
slices: {resolution: 16, rule_fraction: 0.05, rule_intensity: 10}
split: {test_patients: 1, validation_fraction: 0}
trainings: [real]
segmenters: {unet: {model: {width: 4}, training: {samples: 32, batch: 8, validations: 1}}}
"""


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "patients"
    write_phantoms(PhantomConfig(patients=3, shape=(16, 16, 12)), out, progress=False)
    return out


@pytest.fixture
def work(tmp_path: Path, phantoms: Path) -> Path:
    """A folder with three patients and a study of them."""
    shutil.copytree(phantoms, tmp_path / "patients")
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


@dataclass
class Ran:
    """What a command left: exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def understudy(*arguments: str | Path, cwd: Path) -> Ran:
    """The command, in this process: importing torch for each would take most of the time."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["understudy", *map(str, arguments)]
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        return Ran(int(end.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    return Ran(0, out.getvalue(), err.getvalue())


def refused(ran: Ran, *parts: str) -> None:
    """The command failed with one message that has all the parts, says what to do, and is no traceback."""
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.count("error:") == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "what to do:" in ran.stderr
    for part in parts:
        assert part in ran.stderr


def a_file(work: Path, name: str) -> Path:
    return work / "patients" / "Phantom_002" / f"Phantom_002_{name}.nii.gz"


def test_a_wrong_path(work: Path) -> None:
    (work / "study.yaml").write_text(STUDY.replace("path: patients", "path: nowhere"))
    refused(understudy("run", "study.yaml", "-q", cwd=work), "does not exist", str(work / "nowhere"))
    assert not (work / "understudy-bad").exists()
    refused(understudy("run", "nowhere.yaml", cwd=work), "the study file does not exist", "nowhere.yaml")
    refused(understudy("status", "nowhere", cwd=work), "no study was run in this folder")


def test_an_empty_folder(work: Path) -> None:
    (work / "empty").mkdir()
    refused(understudy("check", "empty", cwd=work), "no NIfTI file", "empty")


def test_a_truncated_file(work: Path) -> None:
    path = a_file(work, "t2")
    path.write_bytes(path.read_bytes()[:-400])
    checked = understudy("check", "patients", "-q", cwd=work)
    assert checked.returncode == 1
    assert path.name in checked.stdout
    refused(understudy("run", "study.yaml", "-q", cwd=work), "Phantom_002", path.name, "skip_bad_patients")


def test_a_patient_without_flair_is_refused_by_name_or_left_out_if_the_study_says_so(work: Path) -> None:
    a_file(work, "flair").unlink()
    refused(understudy("run", "study.yaml", "-q", cwd=work), "Phantom_002", "flair")
    (work / "study.yaml").write_text(STUDY.replace("path: patients", "path: patients, skip_bad_patients: true"))
    ran = understudy("run", "study.yaml", "-q", "--until", "prepare", cwd=work)
    assert ran.returncode == 0, ran.stderr


def test_a_label_7(work: Path) -> None:
    image = nib.load(a_file(work, "seg"))
    labels = np.asarray(image.dataobj).astype(np.uint8)
    labels[8, 8, 6] = 7
    nib.save(nib.Nifti1Image(labels, image.affine), a_file(work, "seg"))
    refused(understudy("run", "study.yaml", "-q", cwd=work), "Phantom_002", "7", "_seg.nii.gz")


def test_a_typo_in_the_study_file(work: Path) -> None:
    (work / "study.yaml").write_text(STUDY.replace("validation_fraction", "validation_fractoin"))
    ran = understudy("run", "study.yaml", cwd=work)
    refused(ran, "line 5", "split.validation_fractoin", "did you mean `validation_fraction`?", "nothing was run")
    assert not (work / "understudy-bad").exists()


def test_a_file_that_is_no_image(work: Path) -> None:
    a_file(work, "t1").write_bytes(gzip.compress(b"not an image"))
    refused(understudy("run", "study.yaml", "-q", cwd=work), "Phantom_002", "_t1.nii.gz")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_and_then_a_free_one(work: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(900_000))
    first = understudy("run", "study.yaml", "-q", "--out", small_disk / "out", cwd=work)
    refused(first, "the disk is full", "it continues")
    (small_disk / "ballast").unlink()
    again = understudy("run", "study.yaml", "-q", "--out", small_disk / "out", "--until", "prepare", cwd=work)
    assert again.returncode == 0, again.stderr


def test_no_permission_to_write(work: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere: see the read-only disk")
    (work / "closed").mkdir(mode=0o500)
    ran = understudy("run", "study.yaml", "-q", "--out", work / "closed" / "out", cwd=work)
    refused(ran, "no permission to write", str(work / "closed"))


def test_a_folder_below_a_file(work: Path) -> None:
    ran = understudy("run", "study.yaml", "-q", "--out", work / "study.yaml" / "out", cwd=work)
    refused(ran, "a file stands where a folder is needed", "study.yaml")
    refused(understudy("phantom", work / "study.yaml" / "out", "--patients", 1, cwd=work), "a file stands where")


def test_a_read_only_disk(work: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ran = understudy("run", "study.yaml", "-q", "--out", small_disk / "out", cwd=work)
    refused(ran, "read-only", str(small_disk))


def test_the_folder_and_the_checkpoint_of_another_study(work: Path) -> None:
    done = understudy("run", "study.yaml", "-q", "--out", "out", "--until", "segmenter", cwd=work)
    assert done.returncode == 0, done.stderr
    kept = sorted(path.relative_to(work) for path in (work / "out").rglob("*"))
    (work / "other.yaml").write_text(STUDY.replace("name: bad", "name: other"))
    ran = understudy("run", "other.yaml", "-q", "--out", "out", cwd=work)
    refused(ran, "belongs to the study 'bad', not to 'other'", "--out")
    assert sorted(path.relative_to(work) for path in (work / "out").rglob("*")) == kept

    (job,) = (work / "out" / "jobs").glob("segmenter-*")
    (job / "done.json").unlink()
    config = (job / "model" / "config.json").read_text()
    (job / "model" / "config.json").write_text(config.replace('"identity": "', '"identity": "0'))
    refused(understudy("run", "study.yaml", "-q", "--out", "out", cwd=work), "another training", "another folder")

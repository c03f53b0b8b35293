"""Whose slices these are: names, patterns, and patients that cannot be right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from understudy.errors import UnderstudyError
from understudy.exchange.patients import Patients, doubt, neighbours, patients_of
from understudy.exchange.recognise import recognise
from understudy.exchange.spec import FolderSpec
from understudy.slices import BACKGROUND, SliceSet, SliceWriter

HERE = Path("here")


@pytest.mark.parametrize(
    ("names", "pattern", "subjects", "found"),
    [
        (["p1/001", "p1/002", "p2/001"], None, ["p1", "p1", "p2"], "names"),
        (["CS_4941_z01", "CS_4941_z02", "CS_4942_z01"], None, ["CS_4941"] * 2 + ["CS_4942"], "names"),
        (["a-x1", "a-x2"], r"^(\w)-", ["a", "a"], "pattern"),
        (["a1", "b1"], "[ab]", ["a", "b"], "pattern"),
        (["a1", "b1"], "(.*)", ["a1", "b1"], "each"),
    ],
)
def test_patients_by_name(names: list[str], pattern: str | None, subjects: list[str], found: str) -> None:
    told = patients_of(names, pattern, HERE)
    assert (told.subjects, told.found) == (subjects, found)


@pytest.mark.parametrize("names", [["1", "2"], ["img_1", "img_2"], ["p1_1", "p2_1"]])
def test_names_that_tell_nobody_make_every_slice_a_patient(names: list[str]) -> None:
    told = patients_of(names, None, HERE)
    assert told.found == "nowhere"
    assert len(set(told.subjects)) == len(names)


@pytest.mark.parametrize("pattern", ["(", "^(b)"])
def test_a_pattern_that_does_not_fit_is_named(pattern: str) -> None:
    with pytest.raises(UnderstudyError) as caught:
        patients_of(["a"], pattern, HERE)
    assert "--patients '" in str(caught.value.fix)


def test_the_table_counts() -> None:
    told = Patients(["b"] * 3 + ["a10"] + ["a9"] * 2 + ["c"] * 8, "names", "by name")
    assert told.table() == ("14 slices of 4 patients, by name: a9 (2), a10 (1), b (3), ...; 1 to 8 each, median 2.5")


@pytest.mark.parametrize(
    ("subjects", "asked"),
    [(["a"] * 9, "one patient"), (list("abc"), "as many patients as slices"), (list("aab"), ""), (["a"], "")],
)
def test_one_patient_or_as_many_as_slices_is_asked_about(subjects: list[str], asked: str) -> None:
    question = Patients(subjects, "set", "so").question()
    assert (asked in question) if asked else question == ""


@given(st.integers(1, 40), st.integers(1, 9))
def test_the_table_of_any_patients_has_their_number(patients: int, each: int) -> None:
    told = Patients([f"p{k}" for k in range(patients) for _ in range(each)], "set", "so")
    assert f"{patients * each} slice" in told.table()
    assert f"of {patients} patient" in told.table()
    assert sum(told.counts().values()) == patients * each


def people(count: int, slices: int, seed: int = 0, step: int = 1) -> np.ndarray:
    """Slices of patients uint8 [count, slices, 1, 32, 32]: neighbours alike, patients of one average head."""
    rng = np.random.default_rng(seed)
    head = gaussian_filter(rng.normal(size=(slices * step, 32, 32)), (3, 3, 3))
    own = gaussian_filter(rng.normal(size=(count, slices * step, 32, 32)), (0, 3, 3, 3))
    made = head[None] + own
    made = 128 + 40 * made / made.std()
    return np.clip(made, 0, 255).astype(np.uint8)[:, ::step, None]


def set_of(path: Path, images: np.ndarray, subjects: list[str]) -> SliceSet:
    writer = SliceWriter(path, ["image"], [BACKGROUND], images.shape[-1])
    rows = [{"id": f"s{i}", "subject": s} for i, s in enumerate(subjects)]
    writer.append(images, np.zeros((len(images), *images.shape[-2:]), np.uint8), rows)
    return writer.close()


def labelled(count: int, slices: int, parts: int) -> list[str]:
    """Each patient's slices under so many names."""
    return [f"p{k:02d}_{z * parts // slices}" for k in range(count) for z in range(slices)]


@pytest.mark.parametrize(("slices", "step"), [(12, 1), (4, 4), (2, 8), (1, 1)])
def test_real_patients_do_not_look_like_one(tmp_path: Path, slices: int, step: int) -> None:
    """Also where so few slices of each are kept that others are as near as their own."""
    images = people(24, slices, step=step).reshape(-1, 1, 32, 32)
    made = set_of(tmp_path / "s", images, labelled(24, slices, 1))
    assert neighbours(made)[0] == 0
    assert doubt(made, Patients(labelled(24, slices, 1), "set", "so"), HERE) is None


def test_two_hospitals_with_a_look_of_their_own_are_no_two_patients(tmp_path: Path) -> None:
    images = people(24, 4, step=4).astype(float)
    images[12:] = 0.5 * images[12:] + people(1, 4, seed=9, step=4).astype(float)[0] * 0.5
    made = set_of(tmp_path / "s", images.astype(np.uint8).reshape(-1, 1, 32, 32), labelled(24, 4, 1))
    assert neighbours(made)[0] == 0


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_one_patient_under_several_names_is_found(tmp_path: Path, parts: int) -> None:
    names = labelled(16, 12, parts)
    made = set_of(tmp_path / "s", people(16, 12).reshape(-1, 1, 32, 32), names)
    alike, pairs = neighbours(made)
    assert alike >= 8  # of 16 x (parts - 1) that are, whose best is often just below the median
    found = doubt(made, Patients(names, "pattern", "by a pattern"), HERE)
    assert found is not None
    assert f"{alike} of {pairs} pairs" in found.what
    assert "--patients '" in str(found.fix)
    assert "--trust-patients" in str(found.fix)


def test_as_many_patients_as_slices_need_a_statement(tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(8)]
    made = set_of(tmp_path / "s", people(8, 1)[:, 0], names)
    for patients in (Patients([f"x/{n}" for n in names], "nowhere", "so"), Patients(names[::-1], "pattern", "so")):
        found = doubt(made, patients, HERE)
        assert found is not None
        assert "(8)" in found.what
        assert found.where == "here"
        assert "--patients '(.*)'" in str(found.fix)
    assert doubt(made, Patients(names, "each", "by '(.*)'"), HERE) is None
    assert doubt(made, Patients(names, "set", "so"), HERE) is None


def test_all_slices_of_one_patient_are_doubted_unless_a_set_says_so(tmp_path: Path) -> None:
    made = set_of(tmp_path / "s", people(1, 8)[0], ["TCGA"] * 8)
    found = doubt(made, Patients(["TCGA"] * 8, "pattern", "so"), HERE)
    assert found is not None
    assert "--trust-patients" in str(found.fix)
    assert doubt(made, Patients(["TCGA"] * 8, "set", "so"), HERE) is None


def test_a_pattern_by_which_a_name_has_two_patients_is_refused() -> None:
    files = [f"TCGA_CS_4941_{z}_{c}.png" for z in range(3) for c in ("T1", "seg")]
    with pytest.raises(UnderstudyError) as caught:
        recognise(HERE, files, FolderSpec(pattern="{subject}_{id}_{channel}.png"), None)
    assert "'TCGA'" in caught.value.what
    assert "'TCGA_CS_4941'" in caught.value.what
    assert caught.value.where == files[0]
    files = [f"TCGA_CS_4941_z{z}_{c}.png" for z in range(3) for c in ("T1", "seg")]
    found = recognise(HERE, files, FolderSpec(pattern="{subject}_z{id}_{channel}.png"), None)
    assert {entry.subject for entry in found.slices} == {"TCGA_CS_4941"}

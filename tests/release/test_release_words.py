"""What texts are searched for: ids in all their spellings, and nothing that every text holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import FORMS, IDS, SECRETS

from understudy.release.words import Words, fold, secrets_of
from understudy.slices import SliceSet


@pytest.fixture(scope="module")
def words() -> Words:
    return Words(SECRETS)


def of_patients(*ids: str) -> Words:
    return Words(dict.fromkeys(ids, "a patient's id"))


@pytest.mark.parametrize("form", FORMS)
def test_an_id_is_found_in_every_spelling_and_not_given_away(words: Words, form: str) -> None:
    for word in IDS:
        found = words.found_in(f"seen: {FORMS[form](word)} .")
        assert found, (word, FORMS[form](word))
        assert not any(word in what for what in found)


def test_sites_are_found_but_for_those_that_may_be_named(tmp_path: Path) -> None:
    pixels = np.zeros((2, 1, 8, 8), np.uint8)
    index = pd.DataFrame({"site": ["Södersjukhuset", "Lund"]})
    real = SliceSet.from_arrays(pixels, pixels[:, 0], patients=["AB1234", "AB1235"], index=index)
    text = "Made at SODERSJUKHUSET and in Lund."
    assert len(Words(secrets_of([real])).found_in(text)) == 2
    assert Words(secrets_of([real], named=["lund"])).found_in(text) == ["a site's name (so…, 14 characters)"]
    assert secrets_of([real])["AB1234"] == "a patient's id"
    assert str(tmp_path) in secrets_of([real], [tmp_path])


@pytest.mark.parametrize(
    ("patient", "text"),
    [
        ("1", "1 of 1 patients, version 1.0"),
        ("a", "a slice of a patient"),
        ("2021", "released in 2021, 2,021 slices"),
        ("T1w", "channels T1w, FLAIR"),
        ("P1", "P1 and p 1"),
        ("patient_1", "95 % interval by patient 12 to 18 %"),
        ("case1", "showcase 1, case 12"),
        ("Smith", "Blacksmith and Smithson"),
        ("234567", "123456789, 0.234567 and 51.2345678 of them"),
        ("sub-01", "sub 0123"),
        ("P0012", '{"p": 0.012, "q": 0.5}'),
        ("patient_39", "a patient&#39;s slice"),
        ("P007", "P 7"),  # too short without its zeros
    ],
)
def test_a_text_that_is_clean(patient: str, text: str) -> None:
    assert of_patients(patient).found_in(text) == []


@pytest.mark.parametrize(
    ("patient", "text"),
    [
        ("2021", "patient 2021"),  # nothing tells it from a year
        ("P1", "patient P1 moved"),
    ],
)
def test_what_is_too_short_is_not_looked_for_and_counted(patient: str, text: str) -> None:
    words = of_patients(patient, "AB1234")
    assert (words.count, words.unsought, words.found_in(text)) == (2, 1, [])


def test_words_of_the_templates_are_not_looked_for_and_counted() -> None:
    words = of_patients("synthetic", "Compare the root")
    assert (words.unsought, words.found_in("synthetic slices")) == (2, [])


@pytest.mark.parametrize(
    "text",
    ["/data/hospital/scan", "see (/srv/mri/t1)", "~/scans", "~anna/scans", "C:\\Users\\anna", r"\\server\share",
     r"C:\\Users\\anna", "file:///srv", "smb://server/share", '"path": "/mnt/a"'],
)  # fmt: skip
def test_paths_are_found(words: Words, text: str) -> None:
    assert any(what.startswith("a path") for what in words.found_in(text))


@pytest.mark.parametrize(
    "text",
    ["https://doi.org/10.5281/zenodo.123", "T1/T2/FLAIR", "and/or", "data/FLAIR/x.png", "</p><p>a/b</p>", "km/h",
     "http://www.w3.org/1999/xlink", "image/svg+xml", "a: b", "12/31/2020"],
)  # fmt: skip
def test_what_is_no_path(words: Words, text: str) -> None:
    assert words.found_in(text) == []


def test_hashes_neutral_ids_and_names_of_an_audit_are_no_ids() -> None:
    words = of_patients("123456", "000007", "patient_3", "abc123")
    text = f"{'0' * 20}123456{'a' * 38} syn000007 syn123456"
    assert words.found_in(text) == []
    assert of_patients("f" * 64).found_in(f"x {'f' * 64}.")  # an id that is a hash itself


def test_the_id_of_a_slice_is_found_by_its_own_spelling_where_it_says_nothing_of_the_patient() -> None:
    words = Words({"AB1234": "a patient's id", "AB1234_017": "a slice's id", "scan-77x-003": "a slice's id"})
    assert words.found_in("ab1234 017") == ["a patient's id (ab…, 6 characters)"]
    assert "a slice's id (sc…, 10 characters)" in words.found_in("SCAN77X003")


def test_many_ids_do_not_alarm_in_a_report_of_numbers() -> None:
    rng = np.random.default_rng(0)
    text = (
        " ".join(f"{v:.4f}" for v in rng.normal(30, 20, 3000)) + " " + " ".join(map(str, rng.integers(0, 9999, 3000)))
    )
    assert of_patients(*(f"{i:06d}" for i in rng.integers(0, 10**6, 1000))).found_in(text) == []


@pytest.mark.parametrize(("text", "plain"), [("Ｍüller ①", "muller 1"), ("STRAẞE", "strasse"), ("Łódź ٣", "lodz 3")])
def test_fold(text: str, plain: str) -> None:
    assert fold(text) == plain

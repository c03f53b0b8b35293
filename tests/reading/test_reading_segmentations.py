"""Segmentations in pairs: left and right by lot, in the key and nowhere else; the analysis by patient."""

import json

import numpy as np
import pytest
from made_reading import CLASSES, answer_all
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.reading.analyse import analyse
from understudy.reading.prepare import prepare_segmentations
from understudy.reading.results import sentences, write_result
from understudy.volumes import SliceGeometry, TestVolume, VolumeWriter

GRID = SliceGeometry.fit(40, 30, 32)


@pytest.fixture
def volumes(tmp_path):
    rng = np.random.default_rng(0)
    writer = VolumeWriter(tmp_path / "volumes", ("T1w", "FLAIR"), CLASSES)
    for subject in ("p1", "p2", "p3"):
        truth = np.zeros((12, 40, 30), np.uint8)
        truth[2:10, 10:20, 8:18] = 1
        images = rng.integers(0, 255, (12, 2, 32, 32), dtype=np.uint8)
        writer.write(
            TestVolume(subject, "", "test", images, np.ones(12, bool), truth, GRID, (1.0, 1.0, 1.0), np.eye(4))
        )
        for name, shift in (("good", 1), ("bad", 9)):
            (tmp_path / name).mkdir(exist_ok=True)
            np.savez_compressed(tmp_path / name / f"{subject}.npz", prediction=np.roll(truth, shift, 1))
    writer.close()
    return tmp_path


def made(folder, count=12, **more):
    pair = ("good", folder / "good"), ("bad", folder / "bad")
    return prepare_segmentations(
        folder / "volumes", *pair, folder / "s", folder / "k.json", count=count, pixels=120, **more
    )


def test_pairs_by_lot_and_the_key_knows_which(volumes):
    study = made(volumes)
    assert study["kind"] == "segmentations"
    entries = json.loads((volumes / "k.json").read_text())["items"]
    assert len(entries) == 12
    assert all(2 <= e["z"] < 10 for e in entries.values())  # where the two differ
    assert study["legend"] == [["lesion", "#D55E00"]]
    assert {e["subject"] for e in entries.values()} == {"p1", "p2", "p3"}
    assert 0 < sum(e["A"] == "good" for e in entries.values()) < 12  # not always on the left
    told = (volumes / "s" / "items.json").read_text() + (volumes / "s" / "study.json").read_text()
    assert "good" not in told
    assert "p1" not in told
    for item in json.loads((volumes / "s" / "items.json").read_text()):
        rows = {}
        *overlays, plain = item["panels"]
        with Image.open(volumes / "s" / plain["file"]) as picture:
            assert (plain["label"], picture.mode, picture.size) == ("plain", "L", (120, 120))
            grey = np.asarray(picture, int)[..., None]
        for panel in overlays:
            with Image.open(volumes / "s" / panel["file"]) as picture:
                assert (picture.mode, picture.size) == ("RGB", (120, 120))
                pixels = np.asarray(picture, int)
            untouched = np.ptp(pixels, axis=2) == 0
            assert (pixels == grey)[untouched].all()  # the same picture lies under both
            rows[panel["label"]] = np.flatnonzero((np.ptp(pixels, axis=2) > 20).any(1)).mean()
        # "bad" was shifted by eight rows more than "good"
        better, worse = ("A", "B") if entries[item["id"]]["A"] == "good" else ("B", "A")
        assert rows[worse] - rows[better] == pytest.approx(8 * 120 / 30, abs=1)


def test_the_preferred_one_is_found_behind_the_blinding(volumes):
    made(volumes)

    def says(reader, entry):
        best = "A" if entry["A"] == "good" else "B"
        return {"prefer": best, "rating_a": 5 if best == "A" else 2, "rating_b": 5 if best == "B" else 2}

    answer_all(volumes / "s", volumes / "k.json", says, ("ann", "bo"))
    found = analyse(volumes / "s", volumes / "k.json")
    assert found["preferred"] == {"good": 24}
    assert found["first_by_patient"]["value"] == 1
    assert found["marks"]["difference"]["value"] == 3
    write_result(found, volumes / "results")
    assert "good was preferred 24 times" in sentences(found)[0]


def test_no_common_patient_and_no_such_channel(volumes):
    with pytest.raises(UnderstudyError, match="no channel 'T9'"):
        made(volumes, channel="T9")
    for file in (volumes / "bad").iterdir():
        file.unlink()
    with pytest.raises(UnderstudyError, match="predictions"):
        made(volumes)


def test_two_models_that_agree_everywhere_are_no_study(volumes):
    with pytest.raises(UnderstudyError, match="the same"):
        prepare_segmentations(
            volumes / "volumes", ("a", volumes / "good"), ("b", volumes / "good"), volumes / "s", volumes / "k.json"
        )
    assert not (volumes / ".s.partial").exists()

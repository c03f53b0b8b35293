"""What readers are shown says nothing; the key is fixed before anybody reads; the analysis finds what was put in."""

import json
from collections import Counter

import numpy as np
import pytest
from made_reading import answer_all, made_set
from PIL import Image
from typer.testing import CliRunner

from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.reading.analyse import analyse
from understudy.reading.folder import open_folder
from understudy.reading.prepare import Design, prepare
from understudy.reading.results import sentences, write_result
from understudy.slices import SliceSet

SUBJECTS = [("a", "test", 9), ("b", "test", 3), ("c", "val", 6), ("secret-train", "train", 20)]


@pytest.fixture
def sets(tmp_path):
    real = made_set(tmp_path / "real", SUBJECTS)
    return real, {
        "gan": made_set(tmp_path / "gan", count=30, seed=1),
        "ddpm": made_set(tmp_path / "ddpm", count=30, seed=2),
    }


def prepared(tmp_path, sets, **design):
    out, key = tmp_path / "study", tmp_path / "key.json"
    study = prepare(sets[0], sets[1], out, key, Design.model_validate({"real_count": 10, "pixels": 64, **design}))
    return study, out, key


def test_balanced_held_out_and_by_patient(tmp_path, sets):
    study, _, key = prepared(tmp_path, sets)
    items = json.loads(key.read_text())["items"].values()
    once = [e for e in items if not e["repeat_of"]]
    assert Counter(e["source"] for e in once) == {"real": 10, "gan": 5, "ddpm": 5}
    assert len(items) - len(once) == 2  # a tenth is shown twice
    patients = Counter(e["subject"] for e in once if e["source"] == "real")
    assert set(patients) == {"a", "b", "c"}
    assert max(patients.values()) <= 4  # one after the other: 4, 3, 3
    assert study["composition"] == ""


def test_the_papers_design_tells_the_mix(tmp_path, sets):
    study, out, _ = prepared(tmp_path, sets, design="paper")
    assert study["composition"] == "30 cases: 10 real; synthetic: 10 of one generator, 10 of one generator."
    assert len(json.loads((out / "items.json").read_text())) == 30


def test_nothing_in_the_folder_tells(tmp_path, sets):
    _, out, _ = prepared(tmp_path, sets)
    texts = (out / "study.json").read_text() + (out / "items.json").read_text()
    for word in ("gan", "ddpm", '"subject"', "repeat", "source", str(tmp_path)):
        assert word not in texts
    ids = [e["id"] for e in json.loads((out / "items.json").read_text())]
    assert ids == sorted(ids)
    files = sorted((out / "images").iterdir())
    assert len(files) == 2 * len(ids)
    for file in files:
        with Image.open(file) as picture:
            assert (picture.size, picture.mode, picture.info) == ((64, 64), "L", {})
        chunks = file.read_bytes()
        assert b"tEXt" not in chunks
        assert b"tIME" not in chunks


def test_sizes_on_disk_and_as_sent_are_one(tmp_path, sets):
    real, flat = sets[0], tmp_path / "flat"
    made = SliceSet.from_arrays(
        np.full((30, 2, 32, 32), 90, np.uint8), np.zeros((30, 32, 32), int), channels=real.channels
    )
    _, out, key = prepared(tmp_path, (real, {"flat": made.save(flat)}))
    assert {e["source"] for e in json.loads(key.read_text())["items"].values()} == {"real", "flat"}
    assert len({(file.stat().st_size, file.stat().st_blocks) for file in (out / "images").iterdir()}) == 1
    served = open_folder(out)
    assert {len(served.panel(item, n)) for item in served.items for n in range(2)} == {served.length}
    worst = json.loads(key.read_text())["telltales"][0]  # still measured, as readers see smoothness
    assert worst["auc"] == 1


def test_pixels_are_the_slice_windowed_alike(tmp_path, sets):
    real = sets[0]
    _, out, key = prepared(tmp_path, sets, pixels=32)
    entries = json.loads(key.read_text())["items"]
    rows = [e["row"] for e in entries.values() if e["source"] == "real"]
    images, _ = real.read(np.array(rows))
    white = np.percentile(images[:, 0][images[:, 0] > 0], 99.5)
    for item in json.loads((out / "items.json").read_text()):
        entry = entries[item["id"]]
        of = real if entry["source"] == "real" else sets[1][entry["source"]]
        expected = np.clip(of.read(np.array([entry["row"]]))[0][0, 0].astype(float) * 255 / white, 0, 255)
        with Image.open(out / item["panels"][0]["file"]) as picture:
            assert np.abs(np.asarray(picture, float) - expected).max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [({"real_count": 19}, "19 real slices are asked for"), ({"channels": ["T9"]}, "no channel T9"),
     ({"synthetic_count": 31}, "31 slices of gan")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said_before_anything_is_written(tmp_path, sets, change, message):
    with pytest.raises(UnderstudyError, match=message):
        prepared(tmp_path, sets, **change)
    assert not (tmp_path / "study").exists()
    assert not (tmp_path / "key.json").exists()


def test_other_sizes_a_key_inside_and_places_taken_are_refused(tmp_path, sets):
    real, made = sets
    small = {"x": made_set(tmp_path / "small", count=30, size=16)}
    design = Design(real_count=5, pixels=32)
    with pytest.raises(UnderstudyError, match="16 pixels"):
        prepare(real, small, tmp_path / "s", tmp_path / "k.json", design)
    with pytest.raises(UnderstudyError, match="answer key"):
        prepare(real, made, tmp_path / "s", tmp_path / "s" / "k.json", design)
    prepare(real, made, tmp_path / "s", tmp_path / "k.json", design)
    with pytest.raises(UnderstudyError, match="something already"):
        prepare(real, made, tmp_path / "s", tmp_path / "other.json", design)


def test_a_reader_who_can_tell_and_one_who_cannot(tmp_path, sets):
    _, out, key = prepared(tmp_path, sets)

    def says(reader, entry):
        truth = "real" if entry["source"] == "real" else "synthetic"
        return {"call": truth if reader == "sharp" else "synthetic", "confidence": 4 if reader == "sharp" else None}

    answer_all(out, key, says, ("sharp", "blunt"))
    found = analyse(out, key)
    assert found["auc"]["readers"]["sharp"]["value"] == 1
    assert found["auc"]["readers"]["blunt"]["value"] == 0.5
    assert found["readers"]["sharp"]["accuracy"]["value"] == 1
    assert found["readers"]["blunt"]["criterion"]["high"] < -1
    assert found["difference"]["value"] == pytest.approx(0.5)  # 10 of 20 real, 0 of 20 synthetic called real
    assert found["difference"]["low"] <= 0.05  # two readers: how another would do is unknown
    assert not found["equivalence"]["holds"]
    assert "by patient" in found["method"]
    assert found["auc"]["readers"]["sharp"]["method"] == found["method"]  # 10 real slices are of 3 patients
    assert found["called_real"]["real"]["low"] == 0  # another pair of readers may all be blunt
    assert found["rows"][0]["high"] == 1
    assert {(r["source"], r["n"], r["called_real"]) for r in found["rows"]} == {
        ("real", 20, 10), ("gan", 10, 0), ("ddpm", 10, 0)
    }  # fmt: skip
    write_result(found, tmp_path / "results")
    told = json.loads((tmp_path / "results" / "table6.json").read_text())
    assert "NaN" not in (tmp_path / "results" / "reading.json").read_text()
    assert told["readers"] == 2
    assert sum(r["n"] for r in told["rows"]) == 40
    assert any("called real in 50.0 %" in line for line in sentences(found))


def test_the_last_answer_counts(tmp_path, sets):
    _, out, key = prepared(tmp_path, sets)
    answer_all(out, key, lambda reader, entry: {"call": "real", "confidence": 1}, ("ann",))
    answer_all(out, key, lambda reader, entry: {"call": "synthetic", "confidence": 2}, ("ann",), begin=1000)
    assert all(row["called_real"] == 0 for row in analyse(out, key)["rows"])


def test_a_changed_key_is_refused(tmp_path, sets):
    _, out, key = prepared(tmp_path, sets)
    answer_all(out, key, lambda reader, entry: {"call": "real", "confidence": 1})
    key.write_text(key.read_text().replace("gan", "xan"))
    with pytest.raises(UnderstudyError, match="answer key"):
        analyse(out, key)


def test_commands(tmp_path, sets):
    run = CliRunner().invoke
    made = [x for name in ("gan", "ddpm") for x in ("--synthetic", f"{name}={tmp_path / name}")]
    common = ["reading", "prepare", "--real", str(tmp_path / "real"), *made, "--real-count", "6", "--pixels", "32"]
    done = run(app, [*common, "-o", str(tmp_path / "s")], catch_exceptions=False)
    assert done.exit_code == 0
    key = tmp_path / "s-key.json"
    answer_all(tmp_path / "s", key, lambda reader, entry: {"call": "real", "confidence": 3})
    done = run(app, ["reading", "analyse", str(tmp_path / "s"), "--json"], catch_exceptions=False)
    assert json.loads(done.output)["called_synthetic"] == 0
    assert (tmp_path / "s-results" / "table6.tex").is_file()
    done = run(app, ["reading", "analyse", "--paper"], catch_exceptions=False)
    assert "−0.8 points" in done.output
    with pytest.raises(UnderstudyError, match="--paper"):
        run(app, ["reading", "analyse"], catch_exceptions=False)

"""A generator that is a folder: planned by its content, read in its turn, refused where it would leak."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.errors import UnderstudyError
from understudy.exchange.export import export_images
from understudy.exchange.spec import FolderSpec, spec_of_words
from understudy.io.files import read_json
from understudy.slices import SliceSet, SliceWriter, evenly_coded
from understudy.study.config.networks import FolderGenerator
from understudy.study.config.schema import Study, load_study
from understudy.study.derived import evaluation_study
from understudy.study.engine.estimate import estimated
from understudy.study.engine.jobs import job_folder
from understudy.study.engine.plan import make_plan
from understudy.study.engine.run import run_study
from understudy.study.stages.generator import refuse_held_out
from understudy.study.stages.report import report_again

sys.path.insert(0, str(Path(__file__).parents[2] / "exchange"))
from foreign import png_folder, save_png

STUDY = """
name: mine
phantom: {patients: 4, shape: [16, 16, 12]}
slices: {resolution: 16}
split: {test_patients: 1}
generators: {mine: {folder: ./synthetic}}
segmenters: {unet: {model: {width: 4}, training: {samples: 64}}}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    png_folder(tmp_path / "synthetic")
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path / "study.yaml"


def ids(path: Path) -> dict[str, str]:
    return {job.name: job.id for job in make_plan(load_study(path)).jobs}


def test_the_id_follows_the_folders_content_and_not_its_place(study: Path, tmp_path: Path) -> None:
    before = ids(study)
    assert "read mine" in before
    assert "generator mine" not in before
    shutil.copytree(tmp_path / "synthetic", tmp_path / "moved")
    study.write_text(STUDY.replace("./synthetic", "moved"))
    assert ids(study) == before
    save_png(next((tmp_path / "moved" / "T2").iterdir()), np.zeros((16, 16), np.uint8))
    after = ids(study)
    assert {name for name in before if before[name] != after[name]} == {
        "read mine", "audit mine", "annotations mine", "report",
        *(f"{stage} {kind}-mine.unet.aug, repeat 1" for stage in ("segmenter", "evaluate")
          for kind in ("both", "synthetic")),
    }  # fmt: skip


def test_a_study_with_a_folder_can_be_estimated(study: Path) -> None:
    study.write_text(STUDY + "quality: {}\naudit: {}\n")
    plan = estimated(make_plan(load_study(study)), "cpu")
    (read,) = [job for job in plan.jobs if job.stage == "sample"]
    assert read.disk_bytes == 3 * 16 * 16 * 5 * 0.5
    assert {"segmenter", "quality", "audit"} <= {job.stage for job in plan.jobs if job.disk_bytes > 0}


def test_the_folder_is_read_in_place_of_a_training(study: Path, tmp_path: Path) -> None:
    plan = make_plan(load_study(study))
    result = run_study(plan, tmp_path / "out", "cpu", progress=False, until="sample")
    assert result.complete
    assert [job.stage for job in result.done] == ["phantom", "prepare", "sample"]
    made = SliceSet.open(next((tmp_path / "out" / "jobs").glob("sample-*")) / "slices")
    real = SliceSet.open(next((tmp_path / "out" / "jobs").glob("prepare-*")) / "slices")
    assert (made.channels, made.classes, len(made)) == (real.channels, real.classes, 3)
    assert set(made.index["generator"]) == {"mine"}


def test_a_bad_folder_fails_its_job_and_what_needs_it_only(study: Path, tmp_path: Path) -> None:
    (tmp_path / "synthetic" / "FLAIR" / "seed0001_flair.png").unlink()
    result = run_study(make_plan(load_study(study)), tmp_path / "out", "cpu", progress=False, until="sample")
    ((job, message),) = result.failed
    assert job.name == "read mine"
    assert "slice seed0001 has no FLAIR" in message


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("{folder: ./synthetic, chanels: {T1w: T1}}", r"line 6: .*did you mean `channels`\?"),
        ("{folder: ./synthetic, psi: 0.7}", "`generators.mine.psi` is not a known field"),
        ("{folder: ./synthetic, codes: {ED: 300}}", "codes must differ and lie above 0"),
        ("{folder: ./synthetic, resolution: 32}", "it follows from `slices.resolution`"),
        ("{folder: ./absent}", "the folder does not exist"),
        ("{samples: 0}", "`generators.mine`: which generator is this"),
    ],
)
def test_what_is_wrong_in_the_study_file_is_said(study: Path, spec: str, complaint: str) -> None:
    study.write_text(STUDY.replace("{folder: ./synthetic}", spec))
    with pytest.raises(UnderstudyError, match=complaint):
        make_plan(load_study(study))


def test_slices_of_patients_kept_for_the_test_are_refused(tmp_path: Path) -> None:
    def written(name: str, rows: list[dict[str, Any]]) -> SliceSet:
        writer = SliceWriter(tmp_path / name, ["T1w"], evenly_coded({1: "x"}), 4)
        writer.append(np.zeros((2, 1, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8), rows)
        return writer.close()

    real = written(
        "real", [{"id": "a", "subject": "A", "split": "train"}, {"id": "b", "subject": "B", "split": "test"}]
    )
    refuse_held_out(written("fine", [{"id": "1", "subject": "A"}, {"id": "2", "subject": "C"}]), real, tmp_path)
    with pytest.raises(UnderstudyError, match=r"1 patients .* e\.g\. B"):
        refuse_held_out(written("bad", [{"id": "1", "subject": "A"}, {"id": "2", "subject": "B"}]), real, tmp_path)


def test_the_study_of_one_folder(study: Path, tmp_path: Path) -> None:
    base = Study.model_validate(
        {"name": "base", "phantom": {"patients": 4}, "generators": {"g": {}}, "repeats": 2,
         "exclude": [{"generator": "g", "training": "both"}], "segmenters": {"unet": {}, "other": {}}}
    )  # fmt: skip
    with pytest.raises(UnderstudyError, match="the folder does not exist"):
        evaluation_study(tmp_path / "absent", FolderSpec(), base)
    made = evaluation_study(tmp_path / "synthetic", FolderSpec(sizes="fit"), base)
    assert (made.name, made.repeats, list(made.segmenters)) == ("base-synthetic", 2, ["unet"])
    assert made.trainings == ["real", "synthetic", "both"]
    (generator,) = made.generators.values()
    assert isinstance(generator, FolderGenerator)
    jobs = {job.name: job.id for job in make_plan(made).jobs}
    reused = {job.name: job.id for job in make_plan(base).jobs}
    assert jobs["segmenter real.unet.aug, repeat 1"] == reused["segmenter real.unet.aug, repeat 1"]


def test_a_folder_is_evaluated_and_the_report_says_what_is_missing(study: Path, tmp_path: Path) -> None:
    study.write_text(STUDY + "audit: null\nannotations: null\n")
    plan = make_plan(load_study(study))
    result = run_study(plan, tmp_path / "out", "cpu", progress=False, until="evaluate")
    assert result.failed == []
    (both,) = [job for job in plan.jobs if job.stage == "evaluate" and "both" in job.name]
    shutil.rmtree(job_folder(tmp_path / "out", both))
    report_again(tmp_path / "out")
    found = read_json(tmp_path / "out" / "report.json")
    assert {setting["id"] for setting in found["settings"]} == {"real.unet.aug", "synthetic-mine.unet.aug"}
    (missing,) = found["missing_trainings"]
    assert (missing["planned"], missing["scored"]) == (1, 0)
    # what `next` of an evaluation names is this study
    recorded = load_study(tmp_path / "out" / "study.json")
    assert [job.id for job in make_plan(recorded).jobs] == [job.id for job in plan.jobs]


def test_words_of_the_command_line() -> None:
    spec = spec_of_words(
        {"channels": "T1w=0,FLAIR=2", "codes": "ED=102", "values": "-1,1", "labels": "A=x,B=y", "pattern": None}
    )
    assert spec.channels == {"T1w": 0, "FLAIR": 2}
    assert spec.codes == {"ED": 102}
    assert spec.values == (-1, 1)
    assert spec.labels == {"A": "x", "B": "y"}
    assert spec_of_words({"channels": "T1w,FLAIR", "labels": "3"}).labels == 3
    for wrong in ({"codes": "ED"}, {"values": "1,1"}, {"layout": "tiff"}, {"pattern": "{id}.png"}):
        with pytest.raises(UnderstudyError):
            spec_of_words(wrong)  # type: ignore[arg-type]


PLANTED = """
name: mine
phantom: {patients: 18, shape: [32, 32, 20], sites: 1, seed: 1}
slices: {resolution: 16, scaling: robust, rule_intensity: 20}
split: {test_patients: 6, validation_fraction: 0.4}
trainings: [real]
"""
SLICES = 200


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prepared studies: `out`, and `others` of patients whom the first does not have."""
    place = tmp_path_factory.mktemp("people")
    for name, text in (("out", PLANTED), ("others", PLANTED.replace("18,", "30,").replace("seed: 1", "seed: 2"))):
        (place / f"{name}.yaml").write_text(text)
        run_study(load_study(place / f"{name}.yaml"), place / name, "cpu", progress=False, until="prepare")
    return place


@pytest.mark.parametrize(("val", "test"), [(1, 1), (4, 6), (24, 36)])
def test_copies_of_those_who_test_are_left_out_and_named(people: Path, tmp_path: Path, val: int, test: int) -> None:
    """1, 5 and 30 % of the slices; the others are of people whom the study does not have."""
    real, others = SliceSet.open(people / "out" / "real"), SliceSet.open(people / "others" / "real")
    images, labels = others.read(slice(0, SLICES))
    rows = [*real.rows(split="val")[:val], *real.rows(split="test")[:test]]
    images[: len(rows)], labels[: len(rows)] = real.read(rows)
    made = SliceSet.from_arrays(images, labels, channels=real.channels, classes=real.classes)
    export_images(made, tmp_path / "synthetic", progress=False)
    fields = "generators: {mine: {folder: ./synthetic}}\nsegmenters: {unet: {model: {width: 4}}}\n"
    (tmp_path / "study.yaml").write_text(PLANTED.replace("trainings: [real]\n", fields))
    done = run_study(load_study(tmp_path / "study.yaml"), people / "out", "cpu", progress=False, until="sample")
    assert [job.stage for job in done.done] == ["sample"]
    left = SliceSet.open(people / "out" / "synthetic" / "mine")
    said = read_json(job_folder(people / "out", done.done[0]) / "leaks.json")
    assert said["kind"] == "copies_found"
    planted = dict(enumerate(["val"] * val + ["test"] * test))
    assert {int(row): part for row, part in said["parts"].items() if int(row) in planted} == planted
    assert SLICES - len(rows) >= len(left) == SLICES - len(said["parts"]) >= 0.96 * SLICES - len(rows)
    assert len(set(said["ids"])) == len(said["parts"])
    assert set(said["ids"]).isdisjoint(left.index["id"])

"""The stage `quality`: in the plan, in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.errors import UnderstudyError
from understudy.quality.extractors import NAMES
from understudy.quality.metrics import LABELS
from understudy.slices import SliceWriter, evenly_coded
from understudy.study.config.schema import Study, load_study, preset, presets
from understudy.study.engine.jobs import Context
from understudy.study.engine.plan import make_plan
from understudy.study.registry import STAGES
from understudy.study.stages.data import held_out_slices
from understudy.study.stages.quality import make_extractor, quality
from understudy.volumes import SliceGeometry, TestVolume, VolumeSet, VolumeWriter

BASE: dict[str, Any] = {
    "phantom": {"patients": 5},
    "slices": {"resolution": 32},
    "generators": {"g": {"samples": 10}, "h": {"samples": 10}},
    "quality": {"extractors": ["random", "unet"]},
}


def plan_of(**changes: Any) -> Any:
    return make_plan(Study.model_validate({**BASE, **changes}))


def test_each_generator_is_measured_with_the_baselines_network() -> None:
    plan = plan_of()
    jobs = [job for job in plan.jobs if job.stage == "quality"]
    assert [job.name for job in jobs] == ["quality g", "quality h"]
    for job in jobs:
        roles = dict(job.inputs)
        assert plan.by_id[roles["sample"]].spec["name"] == job.spec["name"]
        cell = plan.by_id[roles["segmenter"]].spec["cell"]
        assert (cell["setting"], cell["repeat"]) == ("real.unet.aug", 0)
        assert job.id in {job_id for _, job_id in plan.jobs[-1].inputs}
    assert not [job for job in plan_of(quality=None).jobs if job.stage == "quality"]
    before = {job.id for job in plan_of(quality=None).jobs if job.stage != "report"}
    assert before < {job.id for job in plan.jobs}  # nothing else is done again


def test_another_metric_is_another_version_of_the_stage() -> None:
    """Or finished studies never show it: add its key here, and raise the number here and in the registry."""
    shape = ("precision", "recall", "density", "coverage")
    keys = ("frechet_distance", "frechet_distance_infinity", "kernel_distance", *shape, "inception_score")
    assert (STAGES["quality"].version, set(LABELS)) == (2, set(keys))


def test_without_a_network_on_real_slices_the_encoder_is_refused() -> None:
    with pytest.raises(UnderstudyError, match="no U-Net of this study is trained on real slices"):
        plan_of(trainings=["synthetic"])
    jobs = plan_of(trainings=["synthetic"], quality={"extractors": ["random"]}).jobs
    assert {tuple(dict(j.inputs)) for j in jobs if j.stage == "quality"} == {("prepare", "sample")}


def test_weights_enter_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(
        "preset: quickstart\nquality: {extractors: [{name: dinov2, weights: d.pth}]}\n"
    )
    with pytest.raises(UnderstudyError, match="a file that the study names does not exist"):
        make_plan(load_study(tmp_path / "study.yaml"))
    (tmp_path / "d.pth").write_bytes(b"one")

    def job() -> Any:
        found, *_ = (j for j in make_plan(load_study(tmp_path / "study.yaml")).jobs if j.stage == "quality")
        return found

    first = job()
    assert first.local == {"weights": [str(tmp_path / "d.pth")]}
    assert str(tmp_path) not in json.dumps(first.spec)
    (tmp_path / "d.pth").write_bytes(b"two")
    assert job().id != first.id


def test_presets_measure_what_needs_no_file() -> None:
    for name in presets():
        spec = Study.model_validate(preset(name)).quality
        assert spec is not None
        assert [e.name for e in spec.extractors] == ["random", "unet"]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A prepared cohort of 3 training, 1 validation and 2 test patients, and a sampled set, with no network."""
    rng, classes = np.random.default_rng(0), evenly_coded({1: "lesion"})
    prepared, sampled = tmp_path / "jobs" / "prepare", tmp_path / "jobs" / "sample"
    for path, people in ((prepared, "abcd"), (sampled, "")):
        writer = SliceWriter(path / "slices", ["T1w"], classes, 16)
        rows = [{"id": str(i)} for i in range(160)]
        if people:
            rows = [
                r | {"subject": people[i % 4], "split": "val" if i % 4 == 3 else "train"} for i, r in enumerate(rows)
            ]
        images = rng.integers(0, 200, (160, 1, 16, 16)).astype(np.uint8)
        writer.append(images, np.zeros((160, 16, 16), np.uint8), rows)
        writer.close()
    volumes = VolumeWriter(prepared / "volumes", ["T1w"], classes)
    for subject, split in (("d", "val"), ("e", "test"), ("f", "test")):
        images = rng.integers(0, 200, (50, 1, 16, 16)).astype(np.uint8)
        kept, truth = np.arange(50) > 1, np.zeros((50, 32, 32), np.uint8)
        truth[9, :20, :20] = 1
        volumes.write(TestVolume(subject, "x", split, images, kept, truth, SliceGeometry.fit(32, 32, 16),
                                 (1.0, 1.0, 1.0), np.eye(4)))  # fmt: skip
    volumes.close()
    return prepared, sampled


def test_held_out_slices_are_the_kept_ones_of_all_patients_who_train_nothing(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    volumes = VolumeSet.open(folders[0] / "volumes")
    found = held_out_slices(volumes, tmp_path / "heldout")
    assert found is not None
    assert sorted(found.index["subject"].unique()) == ["d", "e", "f"]
    assert len(found) == 3 * 48
    row = int(found.rows(subject="e", z=9)[0])
    images, labels = found.read([row])
    np.testing.assert_array_equal(images[0], volumes.read("e").images[9])
    assert labels[0].sum() == 100  # 20 x 20 voxels at half the resolution


def test_the_stage_measures_and_leaves_features_for_the_next(folders: tuple[Path, Path], tmp_path: Path) -> None:
    spec = {
        "name": "g",
        "extractors": [{"name": "random", "resize": "antialiased_bicubic", "sha256": None, "file": None}],
        "channels": None,
        "config": {"divisions": 2, "kernel_subsets": 2, "too_few": "leave_out"},
    }
    inputs = {"prepare": [folders[0]], "sample": [folders[1]]}
    contexts = [
        Context(tmp_path / "jobs" / n, spec, {"weights": [None]}, inputs, device="cpu", progress=False)
        for n in ("one", "two")
    ]
    results = [quality(c) for c in contexts]
    assert results[0] == results[1]
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "features").rglob("features.npy")}
    assert len(kept) == 3
    content = json.loads((tmp_path / "jobs" / "one" / "quality.json").read_text())
    rows = {r["metric"]: r for r in content["rows"]}
    assert (rows["coverage"]["n_real"], rows["coverage"]["n_heldout"]) == (120, 144)
    assert rows["coverage"]["patients_heldout"] == 3
    assert rows["frechet_distance"]["value"] is None  # 120 slices, 128 dimensions
    assert "fewer slices than" in rows["frechet_distance"]["note"]
    assert sorted(p.name for p in (tmp_path / "jobs" / "one").iterdir()) == ["quality.json", "quality.parquet"]


def test_what_an_extractor_needs_is_asked_for(tmp_path: Path) -> None:
    for name in {"unet", *NAMES} - {"random", "radiomics", "radiomics_tumour"}:
        with pytest.raises(UnderstudyError, match=f"the extractor {name} needs"):
            make_extractor(name)
    with pytest.raises(UnderstudyError, match="no extractor 'vgg'"):
        make_extractor("vgg")
    assert make_extractor("random").name == "random"
    with pytest.raises(UnderstudyError, match="no finished segmenter"):
        make_extractor("unet", segmenter=tmp_path)

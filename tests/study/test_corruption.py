"""Each kind of file of a finished study, damaged: what reads it notices. At length: `benchmarks/corruption.py`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from understudy.generators.membership import supports_membership_inference
from understudy.generators.registry import load_generator
from understudy.generators.sample import sample_set
from understudy.io.seals import Damaged, check_opened, damage
from understudy.memorization.screen import read_audit
from understudy.slices import SliceSet
from understudy.study.config.schema import Study
from understudy.study.correlate import correlate
from understudy.study.engine.jobs import study_status
from understudy.study.engine.plan import Plan, make_plan
from understudy.study.engine.run import run_study
from understudy.study.released import dice_of, release_inputs
from understudy.study.segment import segment_patient
from understudy.study.stages.report import report_again
from understudy.volumes import VolumeSet

KINDS = ("cut off", "deleted", "flipped", "swapped")
STUDY = {
    "name": "s",
    "phantom": {"patients": 6, "shape": [32, 32, 16]},
    "slices": {"resolution": 16, "scaling": "robust"},
    "split": {"test_patients": 2, "validation_fraction": 0.25},
    "generators": {
        "g": {
            "model": {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 8},
            "training": {"kimg": 0.032, "batch": 8},
            "samples": 100,
        }
    },
    "segmenters": {"unet": {"model": {"width": 4}, "training": {"samples": 32, "batch": 16}}},
    "trainings": ["real", "synthetic"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    out = tmp_path_factory.mktemp("corruption") / "out"
    plan = make_plan(Study.model_validate(STUDY))
    assert run_study(plan, out, "cpu", progress=False).complete
    return plan, out


@pytest.fixture
def study(finished: tuple[Plan, Path]) -> Iterator[tuple[Plan, Path]]:
    """The finished study, whole again after each test."""
    plan, out = finished
    whole = out.with_name("whole")
    if not whole.exists():
        shutil.copytree(out, whole)
    yield plan, out
    shutil.rmtree(out)
    shutil.copytree(whole, out)


def damaged(path: Path, kind: str, other: Path | None = None) -> None:
    content = path.read_bytes()
    if kind == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "deleted":
        path.unlink()
    elif kind == "flipped":
        path.write_bytes(
            content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 8]) + content[len(content) // 2 + 1 :]
        )
    else:
        path.write_bytes(b"another" if other is None else other.read_bytes())


def test_every_kind_of_file_of_every_job(study: tuple[Plan, Path]) -> None:
    _, out = study
    kinds: dict[tuple[str, str], Path] = {}
    for path in sorted(p for p in out.glob("jobs/**/*") if p.is_file() and p.name != "lock"):
        if path.parent.name == "tensorboard":
            continue  # which nothing reads
        stage = path.relative_to(out).parts[1].split("-")[0]
        kinds.setdefault((stage, "shard" if path.name.isdigit() else path.suffix + path.parent.name), path)
    assert len(kinds) > 40
    for (stage, _), path in kinds.items():
        job, content = out.joinpath(*path.relative_to(out).parts[:2]), path.read_bytes()
        others = [p for p in out.glob(f"jobs/*/**/{path.name}") if p.is_file() and p.read_bytes() != content]
        for kind in KINDS:
            damaged(path, kind, others[0] if others else None)
            # without `done.json` a job is not done, and the next run does it
            assert bool(damage(job)) != (path.name == "done.json" and kind == "deleted"), (stage, path, kind)
            path.write_bytes(content)
        assert damage(job) == ""


def job(out: Path, stage: str) -> Path:
    return min((out / "jobs").glob(f"{stage}-*"))


def sampled(out: Path) -> object:
    return sample_set(job(out, "generator") / "model", 3, 0, out / "more", device="cpu", progress=False)


def segmented(out: Path) -> object:
    patient = next(out.glob("jobs/phantom-*/phantoms/*/"))
    return segment_patient(job(out, "segmenter"), patient, out / "labels.nii.gz", device="cpu")


def pixels(stage: str) -> Callable[[Path], object]:
    return lambda out: SliceSet.open(job(out, stage) / "slices", cache_bytes=0).read([0, 1])


READERS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("evaluate", "scores.parquet", report_again),
    ("audit", "audit.json", report_again),
    ("segmenter", "model/history.jsonl", report_again),
    ("evaluate", "scores.parquet", lambda out: correlate([out])),
    ("audit", "p_values.parquet", lambda out: release_inputs(out, "g")),
    ("sample", "slices/index.parquet", lambda out: release_inputs(out, "g")),
    ("generator", "model/discriminator.safetensors", lambda out: release_inputs(out, "g")),
    ("audit", "audit.json", lambda out: read_audit(job(out, "audit"))),
    ("prepare", "slices/labels/c/0/0/0", pixels("prepare")),
    ("sample", "slices/images/c/0/0/0/0", pixels("sample")),
    ("sample", "slices/zarr.json", pixels("sample")),
    ("prepare", "slices/index.parquet", lambda out: SliceSet.open(job(out, "prepare") / "slices").index),
    ("prepare", "volumes/volumes.json", lambda out: VolumeSet.open(job(out, "prepare") / "volumes")),
    ("generator", "model/generator.safetensors", sampled),
    ("generator", "model/config.json", lambda out: load_generator(job(out, "generator") / "model")),
    ("generator", "model/config.json", lambda out: supports_membership_inference(job(out, "generator") / "model")),
    ("segmenter", "model/segmenter.safetensors", segmented),
    ("segmenter", "model/config.json", segmented),
]


@pytest.mark.parametrize(("stage", "file", "read"), READERS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_reads_a_damaged_file_names_it(
    study: tuple[Plan, Path], stage: str, file: str, read: Callable[[Path], object]
) -> None:
    _, out = study
    path = job(out, stage) / file
    others = [p for p in out.glob(f"jobs/*/**/{path.name}") if p.is_file() and p.read_bytes() != path.read_bytes()]
    for kind in ("flipped", "swapped", "cut off"):  # a file that is missing is often "not finished"
        content = path.read_bytes()
        damaged(path, kind, others[0] if others else None)
        with pytest.raises(Damaged, match=path.name.replace(".", r"\.")):
            read(out)
        path.write_bytes(content)


@pytest.mark.parametrize("kind", KINDS)
def test_no_segmenter_is_trained_on_labels_that_were_damaged(study: tuple[Plan, Path], kind: str) -> None:
    plan, out = study
    shutil.rmtree(job(out, "segmenter"))
    damaged(job(out, "prepare") / "slices" / "labels" / "c" / "0" / "0" / "0", kind, job(out, "sample") / "spec.json")
    messages = []
    try:  # before anything is run if its size tells, else where it is read
        messages = [message for _, message in run_study(plan, out, "cpu", progress=False).failed]
    except Damaged as error:
        messages = [str(error)]
    assert "labels/c/0/0/0" in messages[0]
    assert set(study_status(out, verify=True)["state"]) >= {"damaged"}


def test_a_set_of_another_job_is_noticed(study: tuple[Plan, Path]) -> None:
    _, out = study
    place = job(out, "sample") / "slices"
    shutil.rmtree(place)
    shutil.copytree(job(out, "prepare") / "slices", place)
    with pytest.raises(Damaged, match=r"zarr\.json"):
        SliceSet.open(place)
    shutil.rmtree(job(out, "prepare"))
    shutil.copytree(job(out, "sample"), job(out, "sample").with_name("prepare-0123456789ab"))
    with pytest.raises(Damaged, match="that of the job"):
        check_opened(out / "jobs" / "prepare-0123456789ab" / "spec.json")


def test_a_published_report_is_not_read_when_it_was_changed(study: tuple[Plan, Path]) -> None:
    _, out = study
    dice_of(out, "g")
    damaged(out / "report.json", "flipped")
    with pytest.raises(Damaged, match=r"report\.json"):
        dice_of(out, "g")


def test_repair_gives_the_same_results(study: tuple[Plan, Path]) -> None:
    plan, out = study
    before = {p.relative_to(out): p.read_bytes() for p in out.glob("jobs/segmenter-*/model/segmenter.safetensors")}
    damaged(job(out, "segmenter") / "model" / "segmenter.safetensors", "flipped")
    result = run_study(plan, out, "cpu", progress=False, again=True)
    assert result.complete
    assert sorted(done.stage for done in result.done) == ["evaluate", "report", "segmenter"]
    assert {p: (out / p).read_bytes() for p in before} == before

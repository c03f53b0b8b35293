"""The stage `quality`: how near each generator's slices are to real ones, beside the floor of held-out patients."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file
from understudy.quality.config import QualityConfig
from understudy.runtime.lazy import pandas as pd
from understudy.slices import SliceSet, SliceWriter
from understudy.study.engine.jobs import Context, Job
from understudy.volumes import VolumeSet

# Torch is imported by the extractors, which are made inside the stage.

UNET = "unet"


class ExtractorSpec(BaseModel):
    """An extractor in a study file; its name alone will do where no file is needed."""

    model_config = ConfigDict(extra="forbid")

    name: Literal[
        "random", "unet", "radiomics", "radiomics_tumour",
        "inception2015", "radimagenet_inception", "radimagenet_resnet50", "dinov2",
    ] = Field(description="random, unet, radiomics and radiomics_tumour need no file")  # fmt: skip
    weights: Path | None = Field(None, description="file of weights; relative to the study file")
    sha256: str | None = Field(None, description="that the file must have; null: the published one, if any")
    resize: Literal["antialiased_bicubic", "tf1"] = Field(
        "antialiased_bicubic", description="tf1 only to compare with numbers of the first FID code"
    )


class QualitySpec(QualityConfig):
    """Distances of synthetic from real slices, for every generator."""

    extractors: list[ExtractorSpec] = Field(
        default_factory=lambda: [ExtractorSpec.model_validate({"name": n}) for n in ("random", UNET)],
        min_length=1,
        description="what turns slices into vectors, e.g. [random, unet, {name: inception2015, weights: file.pth}]",
    )
    channels: list[str] | None = Field(
        None, description="to compare, e.g. [T1wGd] (the paper); null: all, and their average"
    )
    too_few: Literal["refuse", "leave_out"] = Field(
        "leave_out", description="a Frechet distance of fewer slices than dimensions: refuse, or say so"
    )

    @field_validator("extractors", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return [{"name": v} if isinstance(v, str) else v for v in value] if isinstance(value, list) else value

    @property
    def config(self) -> QualityConfig:
        """Without extractors and channels."""
        return QualityConfig.model_validate(self.model_dump(exclude={"extractors", "channels"}))


def with_absolute_weights(spec: QualitySpec | None, folder: Path) -> QualitySpec | None:
    """Paths of weights relative to the study file's folder."""
    if spec is None:
        return None
    extractors = [
        e if e.weights is None else e.model_copy(update={"weights": (folder / e.weights.expanduser()).absolute()})
        for e in spec.extractors
    ]
    return spec.model_copy(update={"extractors": extractors})


def quality_parts(
    spec: QualitySpec, sampled: Job, prepare: str, jobs: Iterable[Job], baseline: str
) -> tuple[str, dict[str, Any], list[tuple[str, str]], dict[str, Any]]:
    """Name, spec, inputs and local values of the job that measures a generator's samples.

    Files of weights enter by their content.

    Raises:
        UnderstudyError: a file is absent; the U-Net is asked for and none is trained on real slices.
    """
    name = str(sampled.spec["name"])
    inputs = [("prepare", prepare), ("sample", sampled.id)]
    if any(e.name == UNET for e in spec.extractors):
        inputs.append(("segmenter", _trained_on_real(jobs, baseline).id))
    extractors = []
    for e in spec.extractors:
        if e.weights is not None and not e.weights.is_file():
            raise UnderstudyError(
                "a file that the study names does not exist",
                where=f"quality.extractors: {e.weights}",
                fix="correct the path",
            )
        extractors.append(
            {
                "name": e.name,
                "resize": e.resize,
                "sha256": e.sha256,
                "file": sha256_file(e.weights) if e.weights else None,
            }
        )
    content = {
        "name": name,
        "extractors": extractors,
        "channels": spec.channels,
        "config": spec.config.model_dump(mode="json"),
    }
    weights = [str(e.weights) if e.weights else None for e in spec.extractors]
    return f"quality {name}", content, inputs, {"weights": weights}


def _trained_on_real(jobs: Iterable[Job], baseline: str) -> Job:
    """The first training of a U-Net on all real slices, the baseline's if it is one."""
    found = [
        job
        for job in jobs
        if job.stage == "segmenter"
        and job.spec["cell"]["training"] == "real"
        and job.spec["model"].get("kind") == "unet"
    ]
    if not found:
        raise UnderstudyError(
            "quality.extractors has unet, but no U-Net of this study is trained on real slices",
            where="quality.extractors",
            fix="leave unet out of it, or add real to `trainings`",
        )
    return next((job for job in found if job.spec["cell"]["setting"] == baseline), found[0])


def quality(context: Context) -> dict[str, Any]:
    """Writes `quality.json` and `quality.parquet`; features are kept beside all jobs, in `features/`."""
    from understudy.quality.features import FeatureCache
    from understudy.quality.measure import Row, measure, unmeasured
    from understudy.quality.radiomics import suited
    from understudy.quality.results import write_results
    from understudy.quality.sets import make_parts
    from understudy.study.stages.quality_extractors import make_extractor

    prepared = context.input("prepare")
    real = SliceSet.open(prepared / "slices")
    made = SliceSet.open(context.input("sample") / "slices")
    heldout = held_out_slices(VolumeSet.open(prepared / "volumes"), context.folder / "heldout")
    parts = make_parts(real, made, heldout, context.spec["channels"])
    config = QualityConfig.model_validate(context.spec["config"])
    cache = FeatureCache(context.folder.parent.parent / "features")
    segmenter = context.input("segmenter") / "model" if "segmenter" in context.inputs else None
    rows: list[Row] = []
    for spec, weights in zip(context.spec["extractors"], context.local["weights"], strict=True):
        extractor = make_extractor(
            spec["name"], Path(weights) if weights else None, spec["sha256"], segmenter, spec["resize"], context.device
        )
        extractor, own = suited(extractor, parts)
        if own is None:
            rows.append(unmeasured(parts, extractor, "not computed: no slice of a set has a tumour"))
        else:
            rows += measure(own, extractor, cache, config, context.progress)
    write_results(context.folder, rows, parts, config)
    shutil.rmtree(context.folder / "heldout")
    return {"numbers": len(rows), "quality_sha256": sha256_file(context.folder / "quality.json")}


def held_out_slices(volumes: VolumeSet, path: Path) -> SliceSet | None:
    """The slices of validation and test patients that pass the slice rule, as a set; None without such patients.

    Segmenters were chosen by the validation patients and nothing by the test patients, and no generator saw either.
    """
    subjects = volumes.subjects()
    if not subjects:
        return None
    first = volumes.read(subjects[0])
    resolution = first.images.shape[-1]
    writer = SliceWriter(path, volumes.channels, volumes.classes, resolution)
    if writer.done:  # of an interrupted run: small enough to be made again
        shutil.rmtree(path.with_name(path.name + ".partial"))
        writer = SliceWriter(path, volumes.channels, volumes.classes, resolution)
    for subject in subjects:
        volume = volumes.read(subject)
        z = np.flatnonzero(volume.kept)
        labels = volume.labels_at_network(len(volumes.classes))
        rows = pd.DataFrame({"subject": subject, "site": volume.site, "z": z, "split": volume.split})
        writer.append(volume.images[z], labels[z], rows)
    return writer.close()


__all__ = ["ExtractorSpec", "QualitySpec", "held_out_slices", "quality", "quality_parts", "with_absolute_weights"]

"""The section `cluster` of a study file: resources of its jobs in a queue. No result and no job's id depends on it."""

import re
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from understudy.study.config.yaml import Strict
from understudy.study.registry import STAGES

_FIELDS_OF = {  # options of sbatch that have a field here, by which Snakemake must know them
    "account": "account", "partition": "partition", "qos": "qos", "constraint": "constraint", "time": "minutes",
    "mem": "memory_mb", "cpus-per-task": "cpus", "gpus": "gpus", "gres": "gpus", "nodes": "", "ntasks": "",
    "job-name": "", "output": "", "error": "", "export": "", "comment": "", "parsable": "", "requeue": "requeues",
}  # fmt: skip


class StageResources(Strict):
    """Resources of the jobs of one stage; what is not given is as for all stages."""

    partition: str = Field("", description="of the queue; empty: the cluster's usual one")
    cpus: int = Field(4, ge=1, description="processor cores")
    memory_mb: int = Field(16_000, ge=100, description="megabytes of memory")
    minutes: float = Field(240, gt=0, description="limit, before which a job saves its state; trainings: 1440")
    gpus: int = Field(1, ge=0, description="GPUs of one machine; only a generator's training uses several, some none")
    sbatch: list[str] = Field([], description="further options of sbatch, e.g. [--exclude=node7]")

    @field_validator("sbatch")
    @classmethod
    def _no_fields(cls, value: list[str]) -> list[str]:
        for option in value:
            found = re.fullmatch(r"--([a-z-]+)(=.*)?", option, re.DOTALL)
            if not found:
                raise ValueError(f"{option!r} is not of the form --option=value")
            if (field := _FIELDS_OF.get(found[1])) is not None:
                raise ValueError(f"--{found[1]} is set " + (f"by `{field}`" if field else "by Snakemake"))
        return value


class ClusterConfig(StageResources):
    """How `understudy run --cluster` runs the jobs; its first fields are for all stages, `stages` for single ones."""

    account: str = Field("", description="that is charged; empty: your usual one")
    qos: str = Field("", description="quality of service")
    constraint: str = Field("", description="features that a machine must have, e.g. a100")
    stages: dict[str, StageResources] = Field({}, description="by stage: in place of the fields above")
    max_jobs: int = Field(100, ge=1, description="jobs in the queue at once")
    requeues: int = Field(20, ge=0, description="of a job that met its time limit; then it counts as failed")
    retries: int = Field(1, ge=0, description="of a job that was lost: a machine failed, scancel, no memory")
    reserve_seconds: int = Field(120, ge=1, description="before the limit, to save the state; at most half of it")
    status_seconds: int = Field(40, ge=1, description="between looks at the queue, at first")
    latency_seconds: int = Field(60, ge=0, description="until a file of one machine is seen on the others")
    container: str = Field("", description="image for jobs: a file or docker://...; empty: this environment")
    container_command: str = Field("apptainer exec --nv", description="before the image; add --bind for data")
    profile: str = Field("", description="Snakemake profile, a folder or a name; this section has precedence")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for stage in self.stages:
            if stage not in STAGES:
                raise ValueError(f"there is no stage {stage!r}, only {', '.join(STAGES)}")
        for stage in STAGES:
            gpus = self.of(stage).gpus
            if gpus > 1 and stage != "generator":
                raise ValueError(f"{gpus} GPUs for {stage}, which uses one; ask for several in stages.generator")
        return self

    def of(self, stage: str) -> StageResources:
        """The resources of a job: what is given for its stage, else for all, else the usual."""
        known, names = STAGES[stage], set(StageResources.model_fields)
        found: dict[str, Any] = {"gpus": int(known.on_gpu), "minutes": 1440 if known.training else 240}
        shared = self.model_dump(include=self.model_fields_set & (names if known.on_gpu else names - {"gpus"}))
        own = self.stages[stage].model_dump(exclude_unset=True) if stage in self.stages else {}
        return StageResources(**{**found, **shared, **own})

    def stop_minutes(self, stage: str) -> float:
        """Minutes after which a job of a stage saves its state, ahead of its limit."""
        minutes = self.of(stage).minutes
        return minutes - min(self.reserve_seconds / 60, minutes / 2)

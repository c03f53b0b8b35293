"""The section `cluster` of a study file: resources of its jobs in a queue. No result and no job's id depends on it.

```yaml
cluster:
  partition: gpu
  minutes: 240                # of every stage
  stages:
    generator: {minutes: 1440, gpus: 4, cpus: 16, memory_mb: 64000}
    prepare: {partition: cpu, cpus: 8}
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

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

    partition: str | None = Field(None, description="of the queue; empty: the cluster's usual one")
    cpus: int | None = Field(None, ge=1, description="processor cores [4]")
    memory_mb: int | None = Field(None, ge=100, description="megabytes of memory [16000]")
    minutes: float | None = Field(
        None, gt=0, description="time limit; a job saves its state before it and is queued again [1440 or 240]"
    )
    gpus: int | None = Field(
        None, ge=0, description="GPUs of one machine; only a generator's training uses several [1 or 0]"
    )
    sbatch: list[str] | None = Field(None, description="further options of sbatch, e.g. [--exclude=node7]")

    @field_validator("sbatch")
    @classmethod
    def _no_fields(cls, value: list[str] | None) -> list[str] | None:
        for option in value or []:
            found = re.fullmatch(r"--([a-z-]+)(=.*)?", option, re.DOTALL)
            if not found:
                raise ValueError(f"{option!r} is not of the form --option=value")
            if (field := _FIELDS_OF.get(found[1])) is not None:
                raise ValueError(f"--{found[1]} is set " + (f"by `{field}`" if field else "by Snakemake"))
        return value


@dataclass(frozen=True)
class JobResources:
    """The fields of `StageResources`, none missing."""

    partition: str
    cpus: int
    memory_mb: int
    minutes: float
    gpus: int
    sbatch: list[str]


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

    @field_validator("stages")
    @classmethod
    def _known_stages(cls, value: dict[str, StageResources]) -> dict[str, StageResources]:
        for name in value:
            if name not in STAGES:
                raise ValueError(f"there is no stage {name!r}, only {', '.join(STAGES)}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> ClusterConfig:
        for stage in STAGES:
            gpus = self.of(stage).gpus
            if gpus > 1 and stage != "generator":
                raise ValueError(f"{gpus} GPUs for {stage}, which uses one; ask for several in stages.generator")
        return self

    def of(self, stage: str) -> JobResources:
        """The resources of a job: of its stage, else of the section, else the defaults."""
        known = STAGES[stage]
        found: dict[str, Any] = {"partition": "", "cpus": 4, "memory_mb": 16_000, "gpus": int(known.on_gpu)}
        found |= {"minutes": 1440 if known.training else 240, "sbatch": []}
        for given in (self, self.stages.get(stage)):
            for name in found:
                value = getattr(given, name, None)
                if value is not None and (name != "gpus" or known.on_gpu or given is not self):
                    found[name] = value
        return JobResources(**found)

    def stop_minutes(self, stage: str) -> float:
        """Minutes after which a job of a stage saves its state, ahead of its limit."""
        minutes = self.of(stage).minutes
        return minutes - min(self.reserve_seconds / 60, minutes / 2)

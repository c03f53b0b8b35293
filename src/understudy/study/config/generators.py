"""A generator in a study file: which network, how it is trained, how and how often it is sampled.

Or a folder of images that somebody else made, or a plug-in of another package, in place of all that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from understudy.errors import UnderstudyError
from understudy.exchange.spec import FolderSpec
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.joint import Annotation
from understudy.generators.networks.progan import ProGanConfig
from understudy.generators.networks.stylegan1 import StyleGan1Config
from understudy.generators.networks.stylegan2 import StyleGan2Config
from understudy.generators.networks.stylegan3 import StyleGan3Config
from understudy.generators.networks.unet import DiffusionConfig
from understudy.generators.plugins import plugin_called
from understudy.generators.recipes import RECIPES, recipe
from understudy.generators.registry import DEFAULT_KIND, KINDS
from understudy.generators.training.config import (
    DiffusionTraining,
    ProGanTraining,
    StyleGan1Training,
    StyleGan2Training,
    StyleGan3Training,
)
from understudy.study.config.snapshots import SnapshotOf
from understudy.study.config.yaml import kinds_meant, merged, problem_at

ModelConfig = Annotated[
    ProGanConfig | StyleGan1Config | StyleGan2Config | StyleGan3Config | DiffusionConfig, Discriminator("kind")
]
AnyTraining = Annotated[
    ProGanTraining | StyleGan1Training | StyleGan2Training | StyleGan3Training | DiffusionTraining,
    Discriminator("kind"),
]


class GeneratorSpec(BaseModel):
    """A generator: its network, its training, and the slices that it makes.

    `model.kind` says which of the five it is; the fields of `recipe`, if one is named, stand below those given.
    """

    model_config = ConfigDict(extra="forbid")
    union_tag: ClassVar[str] = "<network>"

    recipe: Literal["quick", "workstation", "paper"] | None = Field(
        None, description="fields to start from: quick, workstation or paper"
    )
    model: ModelConfig = Field(
        default_factory=StyleGan2Config,
        description="network, by `kind`; `resolution` and `channels` follow from the slices",
    )
    training: AnyTraining = Field(default_factory=StyleGan2Training, description="how it is trained")
    samples: int = Field(100_000, ge=1, description="synthetic slices to make (the paper: 100,000)")
    psi: float = Field(1.0, gt=0, le=1, description="truncation of a GAN's latents, 1 for none (the paper)")
    sampler: SamplerConfig | None = Field(
        None, description="of a diffusion model; none: the default of its few-step solver"
    )
    ensemble: int = Field(
        1, ge=1, le=1000, description="trainings with different seeds, sampled in turn (Larsson et al.: 10)"
    )

    snapshots: int | list[float] | None = Field(
        None,
        description="states of the training that become generators of their own: so many evenly spaced ones, the last"
        " being the finished generator, or those at so many kimg",
    )
    snapshot: SnapshotOf | None = Field(None, description="set by `snapshots`: which state of which training")

    @field_validator("snapshots")
    @classmethod
    def _at_least_two(cls, value: Any) -> Any:
        if isinstance(value, int) and not 2 <= value <= 1000:
            raise ValueError("`snapshots` counts the finished generator too: 2 to 1000")
        return value

    @model_validator(mode="before")
    @classmethod
    def _start_from_recipe(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        model, training = (data.get(field) for field in ("model", "training"))
        kind = model.get("kind", DEFAULT_KIND) if isinstance(model, Mapping) else getattr(model, "kind", None)
        kind = kind or getattr(training, "kind", DEFAULT_KIND)
        if kind not in list(KINDS) or not all(v is None or isinstance(v, Mapping) for v in (model, training)):
            return data  # the fields' own validation says what is wrong
        below = recipe(data["recipe"], kind) if data.get("recipe") in list(RECIPES) else {}
        return merged({"model": {"kind": kind}, "training": {"kind": kind}}, merged(below, data))

    @field_validator("training")
    @classmethod
    def _no_seed(cls, value: Any) -> Any:
        return refuse_set(value, ("seed",), "it follows from the study's `seed`")

    @field_validator("model")
    @classmethod
    def _no_size(cls, value: Any) -> Any:
        return refuse_set(value, ("resolution", "channels"), "it follows from `slices.resolution` and the cohort")

    @model_validator(mode="after")
    def _fits_together(self) -> GeneratorSpec:
        if self.training.kind != self.model.kind:
            raise ValueError(f"a training of kind {self.training.kind} for a model of kind {self.model.kind}")
        if self.sampler is not None and self.model.kind != "diffusion":
            raise ValueError(f"`sampler` is for diffusion models, not for {self.model.kind}")
        if self.psi != 1 and self.model.kind in ("diffusion", "progan"):
            raise ValueError(f"`psi` cannot be set for {self.model.kind}: it has no intermediate latent")
        return self


class FolderGenerator(FolderSpec):
    """A folder of synthetic images that somebody else made: nothing is trained, the images are read."""

    union_tag: ClassVar[str] = "<folder>"

    folder: Path = Field(description="PNG, NumPy or NIfTI files, or a slice set")
    samples: int | None = Field(None, ge=1, description="the first so many slices; none: all")

    @model_validator(mode="after")
    def _size_of_the_study(self) -> FolderGenerator:
        if self.resolution is not None:
            raise ValueError("`resolution` cannot be set here: it follows from `slices.resolution`")
        return self


class PluginSpec(BaseModel):
    """A generator that another installed package brings (entry points of the group `understudy.generators`)."""

    model_config = ConfigDict(extra="forbid")
    union_tag: ClassVar[str] = "<plugin>"

    plugin: str = Field(description="name of its entry point; it is imported only where a study names it")
    config: dict[str, Any] = Field(
        default_factory=dict, description="its settings, which it checks itself; paths in it: absolute ones"
    )
    annotation: Annotation = Field("coded", description="one channel of codes, or one channel per class")
    samples: int = Field(100_000, ge=1, description="synthetic slices to make")

    @model_validator(mode="after")
    def _settings_of_the_plugin(self) -> PluginSpec:
        try:
            plugin = plugin_called(self.plugin)
        except UnderstudyError as error:
            raise problem_at(("plugin",), f"{error.what}; {error.fix}") from error
        try:
            self.config = plugin.configured(self.config).model_dump(mode="json")
        except ValidationError as error:
            path, what = plugin.settings_problem(error)
            raise problem_at(("config", *path), what) from error
        return self


def _kind_of_generator(value: Any) -> str:
    for kind, field in ((FolderGenerator, "folder"), (PluginSpec, "plugin")):
        if isinstance(value, kind) or (isinstance(value, Mapping) and field in value):
            return str(kind.union_tag)
    return "<network>"


AnyGenerator = Annotated[
    Annotated[GeneratorSpec, Tag("<network>")]
    | Annotated[FolderGenerator, Tag("<folder>")]
    | Annotated[PluginSpec, Tag("<plugin>")],
    Discriminator(_kind_of_generator),
]


_OTHER_NAMES = {
    "ddpm": "diffusion", "ddim": "diffusion", "sg1": "stylegan1", "sg2": "stylegan2", "sg3": "stylegan3",
    "pggan": "progan", "pgan": "progan",
}  # fmt: skip


def with_kinds(generators: Any) -> Any:
    """Generators of a study file, each named like a kind being of this kind unless it says another.

    Raises:
        PydanticCustomError: a name seems to mean a kind that it would not get.
    """
    if not isinstance(generators, Mapping):
        return generators
    found = {}
    for name, spec in generators.items():
        if spec is None:
            continue
        if (
            name in KINDS
            and isinstance(spec, Mapping)
            and not {"folder", "plugin"} & set(spec)
            and isinstance(spec.get("model", {}), Mapping)
        ):
            spec = merged({"model": {"kind": name}}, spec)
        elif _says_no_kind(spec) and (meant := kinds_meant(str(name), list(KINDS), DEFAULT_KIND, _OTHER_NAMES)):
            raise kind_missing(name, meant)
        found[name] = spec
    return found


def _says_no_kind(spec: Any) -> bool:
    """Whether a generator of a study file is a network and neither its model nor its training says which."""
    if not isinstance(spec, Mapping) or {"folder", "plugin"} & set(spec):
        return False
    parts = [spec.get("model"), spec.get("training")]
    return all(part is None or (isinstance(part, Mapping) and "kind" not in part) for part in parts)


def kind_missing(name: Any, meant: Sequence[str]) -> PydanticCustomError:
    """The error of a name that is no kind but seems to mean one."""
    return problem_at(
        (str(name),),
        f"is {' or '.join(meant)} meant? Call it so, or add `model: {{kind: {meant[0]}}}` to keep the name",
    )


SIZES = (16, 32, 64, 128, 256, 512)
_SIZES = f"{', '.join(map(str, SIZES[:-1]))} or {SIZES[-1]}"


def size_problem(
    generators: Mapping[str, AnyGenerator], resolutions: Sequence[int]
) -> tuple[tuple[str, ...], str] | None:
    """The first network that does not exist at one of these resolutions: where it stands, and why; None if all do."""
    networks = {name: g.model for name, g in generators.items() if isinstance(g, GeneratorSpec)}
    if networks:
        for resolution in resolutions:
            if resolution not in SIZES:
                return ("slices", "resolution"), f"generators are for slices of {_SIZES} pixels, not {resolution}"
    for name, model in networks.items():
        for resolution in resolutions:
            try:
                model.at(resolution)
            except ValueError as error:
                return ("generators", name, "model"), str(error)
    return None


def refuse_set(model: BaseModel, fields: tuple[str, ...], why: str) -> Any:
    """The model, unless one of the fields was given.

    Raises:
        ValueError: a field was given another value than its default.
    """
    for field in fields:
        default = type(model).model_fields[field].default if field in type(model).model_fields else None
        if field in model.model_fields_set and getattr(model, field) != default:
            raise ValueError(f"`{field}` cannot be set here: {why}")
    return model

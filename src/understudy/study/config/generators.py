"""A generator in a study file: network, training and sampling; or a plug-in of another package; or a folder of images.

`generators: {sg2: {snapshots: 4, training: {kimg: 100}}}` trains one network and keeps its weights at 25, 50 and 75
kimg as well: besides `sg2` there are then the generators `sg2-25kimg`, `sg2-50kimg` and `sg2-75kimg`, used like others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from understudy.errors import UnderstudyError
from understudy.exchange.spec import FolderSpec
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.joint import Annotation
from understudy.generators.recipes import RECIPES
from understudy.generators.registry import DEFAULT_KIND, KINDS, network_type, plugin_type
from understudy.generators.training.config import TrainingConfig
from understudy.study.config.yaml import Strict, merged, problem_at

SIZES = (16, 32, 64, 128, 256, 512)
NETWORKS = {name: network_type(name) for name in KINDS}
OTHER_NAMES = {alias: name for name, network in NETWORKS.items() for alias in network.aliases}

if TYPE_CHECKING:
    AnyNetwork: TypeAlias = Any
    AnyTraining: TypeAlias = TrainingConfig
else:
    AnyNetwork = Annotated[reduce(or_, (n.config for n in NETWORKS.values())), Discriminator("kind")]
    AnyTraining = Annotated[reduce(or_, (n.training for n in NETWORKS.values())), Discriminator("kind")]


class SnapshotOf(Strict):
    """Which training a snapshot is of, and when."""

    of: str = Field(description="name of the generator that is trained")
    kimg: float = Field(gt=0, description="thousand real images shown by then")


class GeneratorSpec(Strict):
    """A generator: its network (`model.kind`), its training, and the slices that it makes."""

    union_tag: ClassVar[str] = "<network>"

    recipe: Literal["quick", "workstation", "paper"] | None = Field(None, description="fields to start from")
    model: AnyNetwork = Field(default_factory=NETWORKS[DEFAULT_KIND].config, description="network, by `kind`")
    training: AnyTraining = Field(default_factory=NETWORKS[DEFAULT_KIND].training, description="how it is trained")
    samples: int = Field(100_000, ge=1, description="synthetic slices to make (the paper: 100,000)")
    psi: float = Field(1.0, gt=0, le=1, description="truncation of a GAN's latents, 1 for none (the paper)")
    sampler: SamplerConfig | None = Field(None, description="of a diffusion model; none: the few-step default")
    # Larsson et al.: 10
    ensemble: int = Field(1, ge=1, le=1000, description="trainings with different seeds, sampled in turn")
    snapshots: int | list[float] | None = Field(
        None, description="states of the training as generators: their number, evenly spaced up to the end, or kimg"
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
        below = NETWORKS[kind].recipe(data["recipe"]) if data.get("recipe") in list(RECIPES) else {}
        return merged({"model": {"kind": kind}, "training": {"kind": kind}}, merged(below, data))

    @field_validator("training", "model")
    @classmethod
    def _not_set(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name == "training":
            return refuse_set(value, ("seed",), "it follows from the study's `seed`")
        return refuse_set(value, ("resolution", "channels"), "it follows from `slices.resolution` and the cohort")

    @model_validator(mode="after")
    def _fits_together(self) -> GeneratorSpec:
        kind, other = self.model.kind, getattr(self.training, "kind", "")
        if other != kind:
            raise ValueError(f"a training of kind {other} for a model of kind {kind}")
        if self.sampler is not None and not NETWORKS[kind].takes_sampler:
            raise ValueError(f"`sampler` is for diffusion models, not for {kind}")
        if self.psi != 1 and not NETWORKS[kind].truncation:
            raise ValueError(f"`psi` cannot be set for {kind}: it has no intermediate latent")
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


class PluginSpec(Strict):
    """A generator that another installed package brings (entry points of the group `understudy.generators`)."""

    union_tag: ClassVar[str] = "<plugin>"

    plugin: str = Field(description="name of its entry point; it is imported only where a study names it")
    recipe: str | None = Field(None, description="settings to start from, by a name that the plug-in knows")
    config: dict[str, Any] = Field({}, description="its settings, which it checks itself; paths: absolute ones")
    annotation: Annotation = Field("coded", description="one channel of codes, or one channel per class")
    samples: int = Field(100_000, ge=1, description="synthetic slices to make")
    ensemble: int = Field(1, ge=1, le=1000, description="trainings with different seeds, sampled in turn")
    snapshots: list[float] | None = Field(
        None, description="thousand images after which its state becomes a generator of its own, if it can keep it"
    )
    snapshot: SnapshotOf | None = Field(None, description="set by `snapshots`: which state of which training")
    keep_weights_kimg: list[float] = Field(default=[], description="set by `snapshots`: which states are kept")

    @model_validator(mode="after")
    def _settings_of_the_plugin(self) -> PluginSpec:
        try:
            plugin = plugin_type(self.plugin)
            below = plugin.recipe(self.recipe) if self.recipe else {}
        except UnderstudyError as error:
            raise problem_at(("plugin",), f"{error.what}; {error.fix}") from error
        try:
            self.config = plugin.configured(merged(below, self.config)).model_dump(mode="json")
        except ValidationError as error:
            path, what = plugin.settings_problem(error)
            raise problem_at(("config", *path), what) from error
        if self.snapshots and not plugin.takes_snapshots:
            raise problem_at(("snapshots",), f"the plug-in {self.plugin} keeps no states of its training")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without later fields at their default: a study keeps its hash."""
        later: dict[str, Any] = {"recipe": None, "ensemble": 1, "keep_weights_kimg": []}
        later |= {"snapshots": None, "snapshot": None}
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name not in later or value != later[name]}


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


def with_snapshots(generators: dict[str, Any]) -> dict[str, Any]:
    """The generators and, after each that asks for snapshots, these.

    Raises:
        ValueError: snapshots where they make no sense, a name that is taken.
    """
    out: dict[str, Any] = {}
    for name, spec in generators.items():
        out[name] = spec
        if getattr(spec, "snapshots", None) is None:
            continue
        training = getattr(spec, "training", None)  # None: of a plug-in
        if spec.ensemble > 1 or (training is not None and training.max_minutes is not None):
            raise ValueError(f"{name}: `snapshots` need one training (no `ensemble`) without `max_minutes`")
        points = snapshot_points(spec.snapshots, math.inf if training is None else training.kimg)
        kept: dict[str, Any] = {"keep_weights_kimg": points}
        if training is not None:
            kept = {"training": training.model_copy(update=kept)}
        out[name] = spec.model_copy(update={"snapshots": None, **kept})
        for kimg in points:
            own = f"{name}-{kimg:g}kimg".replace(".", "_")
            if own in generators:
                raise ValueError(f"the name {own} is that of a snapshot of {name}; use another")
            out[own] = out[name].model_copy(update={"snapshot": SnapshotOf(of=name, kimg=kimg)})
    return out


def snapshot_points(wanted: int | list[float], kimg: float) -> list[float]:
    """Thousand images at each snapshot but the last, which is the finished generator.

    Raises:
        ValueError: a point that is not within the training, or a duplicate.

    Example:
        >>> snapshot_points(4, 100)
        [25.0, 50.0, 75.0]
    """
    if isinstance(wanted, int):
        return [round(kimg * i / wanted, 3) for i in range(1, wanted)]
    points = sorted(float(p) for p in wanted if p != kimg)
    if len(set(points)) < len(points) or not all(0 < p < kimg for p in points):
        raise ValueError(f"`snapshots` must be different numbers of kimg between 0 and {kimg:g}: {wanted}")
    return points


def size_problem(
    generators: Mapping[str, AnyGenerator], resolutions: Sequence[int]
) -> tuple[tuple[str, ...], str] | None:
    """Path of the first network that does not exist at one of these resolutions, and why; None if all do."""
    networks = {name: g.model for name, g in generators.items() if isinstance(g, GeneratorSpec)}
    for resolution in resolutions if networks else ():
        if resolution not in SIZES:
            sizes = ", ".join(map(str, SIZES))
            return ("slices", "resolution"), f"generators are for slices of {sizes} pixels, not {resolution}"
    for name, model in networks.items():
        for resolution in resolutions:
            try:
                model.at(resolution)
            except ValueError as error:
                return ("generators", name, "model"), str(error)
    return None


def refuse_set(model: BaseModel, fields: tuple[str, ...], why: str) -> Any:
    """The model; a ValueError if one of the fields has another value than its default."""
    for field in fields:
        default = type(model).model_fields[field].default if field in type(model).model_fields else None
        if field in model.model_fields_set and getattr(model, field) != default:
            raise ValueError(f"`{field}` cannot be set here: {why}")
    return model

"""Generators and segmenters of a study file: networks with their training, plug-ins, folders of images."""

import difflib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

import pydantic
from pydantic import BaseModel, Field, field_validator, model_serializer, model_validator

from understudy.errors import UnderstudyError
from understudy.exchange.spec import FolderSpec
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.interface import RECIPES
from understudy.generators.joint import Annotation
from understudy.generators.registry import DEFAULT_KIND, KINDS, network_type, plugin_type
from understudy.generators.training.config import TrainingConfig
from understudy.io.settings import Positive, problem_at
from understudy.segmenters import config as segmenters
from understudy.segmenters.config import SegmenterTrainingConfig, UNetConfig
from understudy.study.config.yaml import Strict, merged

NETWORKS = {name: network_type(name) for name in KINDS}
NAMES: dict[str, tuple[list[str], str, dict[str, str]]] = {  # section -> kinds, the default, kinds by other names
    "generators": (list(KINDS), DEFAULT_KIND, {a: name for name, net in NETWORKS.items() for a in net.aliases}),
    "segmenters": (list(segmenters.KINDS), segmenters.DEFAULT_KIND, {}),
}

if TYPE_CHECKING:
    AnyNetwork: TypeAlias = Any
    AnyTraining: TypeAlias = TrainingConfig
else:
    AnyNetwork = Annotated[reduce(or_, (n.config for n in NETWORKS.values())), pydantic.Discriminator("kind")]
    AnyTraining = Annotated[reduce(or_, (n.training for n in NETWORKS.values())), pydantic.Discriminator("kind")]


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
    samples: int = Field(100_000, ge=1, le=10**9, description="synthetic slices to make (the paper: 100,000)")
    psi: float = Field(1.0, gt=0, le=1, description="truncation of a GAN's latents, 1 for none (the paper)")
    sampler: SamplerConfig | None = Field(None, description="of a diffusion model; none: the few-step default")
    # Larsson et al.: 10
    ensemble: int = Field(1, ge=1, le=1000, description="trainings with different seeds, sampled in turn")
    snapshots: int | list[float] | None = Field(None, description="states of the training to keep: number, or kimg")
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
        try:
            below = NETWORKS[kind].recipe(data["recipe"]) if data.get("recipe") in list(RECIPES) else {}
        except UnderstudyError as error:  # a sixth generator may not have all of them
            raise problem_at(("recipe",), f"{error.what}; {error.fix}") from error
        return merged({"model": {"kind": kind}, "training": {"kind": kind}}, merged(below, data))

    @field_validator("training", "model")
    @classmethod
    def _not_set(cls, value: Any) -> Any:
        _refuse_set(value, "it follows from the study's `seed`", "seed")
        _refuse_set(value, "it follows from `slices.resolution` and the cohort", "resolution", "channels")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
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
    samples: int | None = Field(None, ge=1, le=10**9, description="the first so many slices; none: all")

    @model_validator(mode="after")
    def _size_of_the_study(self) -> Self:
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
    samples: int = Field(100_000, ge=1, le=10**9, description="synthetic slices to make")
    ensemble: int = Field(1, ge=1, le=1000, description="trainings with different seeds, sampled in turn")
    snapshots: list[Positive] | None = Field(
        None, description="thousand images after which its state is kept, if it can"
    )
    snapshot: SnapshotOf | None = Field(None, description="set by `snapshots`: which state of which training")
    keep_weights_kimg: list[Positive] = Field(default=[], description="set by `snapshots`: which states are kept")

    @model_validator(mode="after")
    def _settings_of_the_plugin(self) -> Self:
        try:
            plugin = plugin_type(self.plugin)
            below = plugin.recipe(self.recipe) if self.recipe else {}
        except UnderstudyError as error:
            raise problem_at(("plugin",), f"{error.what}; {error.fix}") from error
        try:
            self.config = plugin.configured(merged(below, self.config)).model_dump(mode="json")
        except pydantic.ValidationError as error:
            path, what = plugin.settings_problem(error)
            raise problem_at(("config", *path), what) from error
        if self.snapshots and not plugin.takes_snapshots:
            raise problem_at(("snapshots",), f"the plug-in {self.plugin} keeps no states of its training")
        return self


def _tag_of(value: Any) -> str:
    for kind, field in ((FolderGenerator, "folder"), (PluginSpec, "plugin")):
        if isinstance(value, kind) or (isinstance(value, Mapping) and field in value):
            return str(kind.union_tag)
    return GeneratorSpec.union_tag


AnyGenerator = Annotated[
    Annotated[GeneratorSpec, pydantic.Tag("<network>")]
    | Annotated[FolderGenerator, pydantic.Tag("<folder>")]
    | Annotated[PluginSpec, pydantic.Tag("<plugin>")],
    pydantic.Discriminator(_tag_of),
]


class SegmenterSpec(Strict):
    """A segmentation network, by `model.kind`, and its training; what is not given is the paper's for its kind."""

    model: segmenters.ModelConfig = Field(UNetConfig(), description="network, by `kind`: unet or swin")
    training: SegmenterTrainingConfig = Field(SegmenterTrainingConfig(), description="how it is trained")

    @model_validator(mode="before")
    @classmethod
    def _upon_the_paper(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        model, training = data.get("model", {}), data.get("training", {})
        kind, found = getattr(model, "kind", None), dict(data)
        if isinstance(model, Mapping):
            found["model"] = {"kind": segmenters.DEFAULT_KIND, **model}
            kind = found["model"]["kind"]
        if kind in list(segmenters.KINDS) and isinstance(training, Mapping):  # a list, as a kind may be unhashable
            found["training"] = segmenters.with_paper(kind, training)
        return found  # the fields' own validation says what else is wrong

    @model_validator(mode="after")
    def _left_to_the_study(self) -> Self:
        _refuse_set(self.training, "it follows from the study's `seed`", "seed")
        _refuse_set(self.training.augment, "it follows from the study's `augmentation`", "enabled")
        try:
            segmenters.check_batch(self.model, self.training)
        except UnderstudyError as error:
            raise ValueError(f"`{error.where}`: {error.what}; {error.fix}") from error
        return self

    @model_serializer(mode="wrap")
    def _to_be_read_again(self, handler: Any) -> dict[str, Any]:
        """With the fields that a training leaves out at their default: of other kinds the paper's differ."""
        content: dict[str, Any] = handler(self)
        if self.model.kind != segmenters.DEFAULT_KIND:
            for name in segmenters.LATER:
                value = getattr(self.training, name)
                content["training"].setdefault(name, list(value) if isinstance(value, tuple) else value)
            content["training"]["augment"].setdefault("set", self.training.augment.set)
        return content


def _refuse_set(model: BaseModel, why: str, *fields: str) -> None:
    """Raises a ValueError if one of the fields has another value than its default."""
    for field in sorted(model.model_fields_set.intersection(fields)):
        if getattr(model, field) != type(model).model_fields[field].default:
            raise ValueError(f"`{field}` cannot be set here: {why}")


# --- networks by name -------------------------------------------------------------------------------------------------


def named_kinds(entries: Any, section: str, in_file: bool = False) -> Any:
    """Networks of a section: one named like a kind is of this kind, others of the default; null drops one.

    A generator `in_file` has a name that tells its kind, or says it.
    """
    if not isinstance(entries, Mapping):
        return entries
    found = {name: spec for name, spec in entries.items() if spec is not None}
    for name, spec in found.items():
        if not isinstance(spec, Mapping) or {"folder", "plugin"} & set(spec):  # no network
            continue
        parts = [part for part in (spec.get("model"), spec.get("training")) if part is not None]
        if name in NAMES[section][0] and isinstance(spec.get("model", {}), Mapping):
            found[name] = merged({"model": {"kind": name}}, spec)
        elif all(isinstance(part, Mapping) and "kind" not in part for part in parts):
            if meant := kinds_meant(str(name), section):
                fix = f"Call it so, or add `model: {{kind: {meant[0]}}}` to keep the name"
                raise problem_at((str(name),), f"is {' or '.join(meant)} meant? {fix}")
            kinds, default, aliases = NAMES[section]
            plain, words = re.sub(r"\W|_", "", str(name).lower()), [a for a in aliases if aliases[a] == default]
            if in_file and section == "generators" and not any(word in plain for word in (default, *words)):
                near = max(kinds, key=lambda kind: difflib.SequenceMatcher(None, str(name).lower(), kind).ratio())
                what = f"which generator is this? The nearest name is {near}; to keep yours, add"
                raise problem_at((str(name),), f"{what} `model: {{kind: ...}}` with one of {', '.join(kinds)}")
    return found


def kinds_meant(name: str, section: str) -> list[str]:
    """The kinds that a name such as "difusion" or "my-ddpm" seems to mean, unless it is the default kind."""
    kinds, default, aliases = NAMES[section]
    plain = "".join(c for c in name.lower() if c.isalnum())
    words = {kind: kind for kind in kinds} | aliases
    if inside := {kind for word, kind in words.items() if word in plain}:
        inside -= {default}
    else:
        near = {kind: difflib.SequenceMatcher(None, plain, kind).ratio() for kind in kinds}
        inside = {kind for kind, ratio in near.items() if ratio >= max(0.75, *near.values())}
    return [] if inside <= {default} else sorted(inside, key=kinds.index)


def with_snapshots(generators: dict[str, Any]) -> dict[str, Any]:
    """The generators and, after each that asks for snapshots, these: `sg2-25kimg`, ... of `sg2`."""
    out: dict[str, Any] = {}
    for name, spec in generators.items():
        out[name] = spec
        if getattr(spec, "snapshots", None) is None:
            continue
        training = getattr(spec, "training", None)  # None: of a plug-in
        if spec.ensemble > 1 or (training is not None and (training.max_minutes is not None or training.until)):
            raise ValueError(f"{name}: `snapshots` need one training (no `ensemble`) without `max_minutes` and `until`")
        kept = {"keep_weights_kimg": snapshot_points(spec.snapshots, training.kimg if training else math.inf)}
        changed = {"training": training.model_copy(update=kept)} if training else kept
        out[name] = spec.model_copy(update={"snapshots": None, **changed})
        for kimg in kept["keep_weights_kimg"]:
            own = f"{name}-{kimg:g}kimg".replace(".", "_")
            if own in generators:
                raise ValueError(f"the name {own} is that of a snapshot of {name}; use another")
            out[own] = out[name].model_copy(update={"snapshot": SnapshotOf(of=name, kimg=kimg)})
    return out


def snapshot_points(wanted: int | list[float], kimg: float) -> list[float]:
    """Thousand images at each snapshot but the last, the finished generator: 25, 50, 75 for 4 snapshots of 100."""
    if isinstance(wanted, int):
        return [round(kimg * i / wanted, 3) for i in range(1, wanted)]
    points = sorted(float(p) for p in wanted if p != kimg)
    if len(set(points)) < len(points) or not all(0 < p < kimg for p in points):
        raise ValueError(f"`snapshots` must be different numbers of kimg between 0 and {kimg:g}: {wanted}")
    return points


def check_sizes(
    generators: Mapping[str, AnyGenerator], named: Mapping[str, SegmenterSpec], resolutions: Sequence[int]
) -> None:
    """An error of `problem_at` for the first network that does not exist at one of these resolutions."""
    networks = {name: g.model for name, g in generators.items() if isinstance(g, GeneratorSpec)}
    for resolution in resolutions if networks else ():
        if resolution not in (16, 32, 64, 128, 256, 512):
            what = f"generators are for slices of 16, 32, 64, 128, 256, 512 pixels, not {resolution}"
            raise problem_at(("slices", "resolution"), what)
    for (name, model), resolution in itertools.product(networks.items(), resolutions):
        try:
            model.at(resolution)
        except ValueError as error:
            raise problem_at(("generators", name, "model"), str(error)) from error
    for (name, spec), resolution in itertools.product(named.items(), resolutions):
        try:
            spec.model.stages(resolution) if isinstance(spec.model, UNetConfig) else spec.model.shape(resolution)
        except UnderstudyError as error:
            raise problem_at(("segmenters", name), f"{error.what}; {error.fix}") from error

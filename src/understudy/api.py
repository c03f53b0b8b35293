"""What a notebook needs: `import understudy as us`. The commands call the same functions underneath.

The arguments that a first look needs have names. All others are fields of a configuration, passed by `**`: the
reference of the study file lists them, with defaults and units (`generators.NAME.model` and `.training`, `segmenters`,
`audit`, `folders`).
"""

from __future__ import annotations

import copy
import difflib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from understudy.errors import UnderstudyError
from understudy.names import percent
from understudy.runtime.lazy import pandas as pd
from understudy.slices import SliceSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from understudy.generators.diffusion.samplers import SamplerConfig
    from understudy.generators.training.monitor import Watcher
    from understudy.memorization.perform import AuditResult

_MAKE_ONE = "make one with SliceSet.from_arrays or SliceSet.open"
Recipe = Literal["quick", "workstation", "paper"]
Transforms = Literal["none", "dihedral"]


@contextmanager
def _settings(*models: type[BaseModel]) -> Iterator[None]:
    # `models` have the fields among which an unknown one's nearest is found
    try:
        yield
    except ValidationError as error:
        from understudy.study.config.yaml import problems_of

        unknown = [str(entry["loc"][-1]) for entry in error.errors() if entry["type"] == "extra_forbidden"]
        known = [name for model in models for name in model.model_fields]
        near = [name for field in unknown for name in difflib.get_close_matches(field, known, n=1)]
        fix = f"did you mean {', '.join(near)}? " if near else ""
        fix += "the reference of the study file lists all settings"
        raise UnderstudyError("; ".join(problems_of(error)), fix=fix) from error


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _check_sets(**sets: SliceSet | None) -> None:
    for name, slices in sets.items():
        if not isinstance(slices, SliceSet | None):
            raise UnderstudyError(f"{name} is a {type(slices).__name__}, not a SliceSet", fix=_MAKE_ONE)


class Generator:
    """A generative model of joint images (channels + annotation). Use one of its five kinds.

    Args:
        channels, resolution: as of the slices, `SliceSet.channels` and `.resolution` (pixels).
        recipe: settings of network and training: "quick" (a CPU, minutes), "workstation" (one GPU, about a day) or
            "paper" (Table 7 of Akbar et al.).
        device: "auto", "cpu", "cuda", ...
        kind: of a generator without a class of its own here, e.g. one that you have added.
        model: fields of the network that differ from the recipe, e.g. `channel_base=1024`.

    Example:
        >>> gen = StyleGAN2(channels=["T1w", "FLAIR"], resolution=32)
        >>> gen
        StyleGAN2(T1w + FLAIR, 32 x 32 pixels, not trained)
    """

    kind: str

    def __init__(
        self, channels: Sequence[str], resolution: int, recipe: Recipe = "quick", device: str = "auto",
        kind: str | None = None, **model: Any,
    ) -> None:  # fmt: skip
        from understudy.generators.registry import installed_plugins

        if isinstance(channels, str):
            raise UnderstudyError(f"channels is {channels!r}, not a list of names", fix=f'e.g. channels=["{channels}"]')
        self.channels, self.resolution, self.recipe, self.device = tuple(channels), resolution, recipe, device
        self.kind, self._model = str(kind or getattr(self, "kind", "")), model
        self.folder: Path | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None  # removed with the generator
        if self.kind not in installed_plugins():
            self._network(annotation=1)  # wrong settings show here

    def _network(self, annotation: int) -> Any:
        # the configuration of the network, for so many channels of the annotation
        from understudy.generators.registry import network_type

        kind = network_type(self.kind)
        fields = {**kind.recipe(self.recipe).get("model", {}), **self._model, "kind": self.kind}
        with _settings(kind.config):
            size = {"resolution": self.resolution, "channels": len(self.channels) + annotation}
            return kind.config(**{**fields, **size})

    def __repr__(self) -> str:
        state = f"trained in {self.folder}" if self.folder else "not trained"
        size = f"{self.resolution} x {self.resolution} pixels"
        return f"{type(self).__name__}({' + '.join(self.channels)}, {size}, {state})"

    def fit(
        self, slices: SliceSet, kimg: float | None = None, seed: int = 0, *, batch: int | None = None,
        max_minutes: float | None = None, out: str | Path | None = None, progress: bool = False,
        watchers: Sequence[Watcher] = (), **training: Any,
    ) -> Generator:  # fmt: skip
        """Trains on all slices of a set and returns itself; give it training patients only.

        Args:
            kimg: thousand images shown; None: the recipe's.
            seed: of weights, data order and everything drawn.
            batch: images a step; None: the recipe's.
            max_minutes: ends early.
            out: folder of the model, which continues there if it was interrupted; None: a temporary one.
            watchers: are told of steps, pictures of samples and the end, see `training.monitor.Watcher`.
            training: further fields of the training that differ from the recipe, e.g. `g_lr=0.001`.

        Raises:
            UnderstudyError: other channels or resolution, settings that do not fit, a training that diverged.
        """
        from understudy.generators.joint import annotation_channels
        from understudy.generators.registry import network_type
        from understudy.generators.training.loop import train

        _check_sets(slices=slices)
        if slices.channels != self.channels or slices.resolution != self.resolution:
            raise UnderstudyError(
                f"the slices are {' + '.join(slices.channels)} at {slices.resolution} pixels, the generator is of"
                f" {' + '.join(self.channels)} at {self.resolution}",
                fix="build it with channels=slices.channels, resolution=slices.resolution",
            )
        kind = network_type(self.kind)
        named = _given(kimg=kimg, batch=batch, max_minutes=max_minutes, seed=seed)
        chosen = {**kind.recipe(self.recipe).get("training", {}), **training, **named}
        annotated = {bool(label.any()) for _, _, labels in slices.blocks() for label in labels}
        if "balance_classes" not in training and len(annotated) < 2:
            chosen.pop("balance_classes", None)  # of the recipe; there is nothing to balance
        with _settings(kind.training):
            config = kind.training.model_validate(chosen)
        model = self._network(annotation_channels(slices.classes, config.annotation))
        if out is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="understudy-")
            out = Path(self._temporary.name) / "model"
        train(slices, None, model, config, Path(out), device=self.device, progress=progress, watchers=watchers)
        self.folder = Path(out)
        return self

    @staticmethod
    def open(folder: str | Path, device: str = "auto") -> Generator:
        """A trained generator of any kind, e.g. `OUT/generators/NAME` of a study."""
        from understudy.generators.registry import load_generator

        config = load_generator(folder)[1]
        name, model = config["kind"], dict(config["model"])
        cls = next((c for c in Generator.__subclasses__() if c.kind == name), Generator)
        own = {k: v for k, v in model.items() if k not in ("kind", "channels", "resolution")}
        opened = cls(config["channels"], model["resolution"], device=device, kind=name, **own)
        opened.folder = Path(folder)
        return opened

    def sample(self, n: int, seed: int = 0, psi: float = 1.0, sampler: SamplerConfig | None = None) -> SliceSet:
        """Synthetic slices with their annotations, in memory; slice i of a seed is the same for any `n`.

        Args:
            psi: truncation of a GAN's latents, above 0, 1 for none.
            sampler: of a diffusion model; None: as it was trained.

        Raises:
            UnderstudyError: not trained; a psi or a sampler that there is not.
        """
        from understudy.generators.sample import sample_set

        if self.folder is None:
            raise UnderstudyError("the generator has not been trained", fix="call fit first, or Generator.open(folder)")
        if not (isinstance(n, int | np.integer) and isinstance(seed, int | np.integer) and seed >= 0):
            raise UnderstudyError(f"{n} slices of seed {seed}", fix="give whole numbers, the seed 0 or more")
        with tempfile.TemporaryDirectory() as folder:
            named: Any = {"psi": psi, "sampler": sampler, "device": self.device, "progress": False}
            return _in_memory(sample_set(self.folder, n, seed, Path(folder) / "set", **named))


class ProgressiveGAN(Generator):
    """Progressive GAN (Karras et al. 2018)."""

    kind = "progan"


class StyleGAN1(Generator):
    """StyleGAN (Karras et al. 2019)."""

    kind = "stylegan1"


class StyleGAN2(Generator):
    """StyleGAN 2 (Karras et al. 2020)."""

    kind = "stylegan2"


class StyleGAN3(Generator):
    """StyleGAN 3 (Karras et al. 2021)."""

    kind = "stylegan3"


class Diffusion(Generator):
    """Guided diffusion without guidance (Dhariwal & Nichol 2021)."""

    kind = "diffusion"


class Segmenter:
    """A segmentation network for 2D slices. Use `UNet` or `Swin`. None: the paper's setting.

    Args:
        samples: slices shown in training.
        batch: slices a step.
        lr: the largest learning rate.
        optimiser: "sgd" (Nesterov) or "adamw".
        device: "auto", "cpu", "cuda", ...
        options: further fields of the network or its training, e.g. `width=16`.

    Example:
        >>> UNet(samples=4000, width=16)
        UNet(samples=4000, width=16)
    """

    kind: ClassVar[str]

    def __init__(
        self, samples: int | None = None, batch: int | None = None, lr: float | None = None,
        optimiser: Literal["sgd", "adamw"] | None = None, device: str = "auto", **options: Any,
    ) -> None:  # fmt: skip
        self.device = device
        self._options = _given(samples=samples, batch=batch, lr=lr, optimiser=optimiser) | options
        self._network: Any = None

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self._options.items())
        return f"{type(self).__name__}({options})"

    def fit(
        self, real: SliceSet | None = None, synthetic: SliceSet | None = None, val: SliceSet | None = None,
        seed: int = 0, progress: bool = False,
    ) -> Segmenter:  # fmt: skip
        """Trains on real slices (of training patients), synthetic ones or both, and returns itself.

        Args:
            val: slices of other patients, which select the best weights; None: the last ones are kept.
            seed: of weights, order and augmentation.

        Raises:
            UnderstudyError: neither set, other channels or classes, settings that do not fit.
        """
        from understudy.segmenters.config import KINDS, SegmenterTrainingConfig, segmenter_config
        from understudy.segmenters.train import train

        _check_sets(real=real, synthetic=synthetic, val=val)
        with _settings(KINDS[self.kind], SegmenterTrainingConfig):
            model, config = segmenter_config(self.kind, **self._options, seed=seed)
        self._network = train(real, synthetic, model, config, val, self.device, progress)
        return self

    def predict(self, images: SliceSet | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels uint8 [N, H, W], class indices of the training set.

        Args:
            images: a set, whose channels and classes are matched by name and whose class indices the labels then have;
                or uint8 [N, C, H, W] with the channels of the training set in their order.

        Raises:
            UnderstudyError: not trained; other channels, classes, resolution or type.
        """
        from understudy.segmenters.mixing import class_table
        from understudy.segmenters.predict import predict

        if self._network is None:
            raise UnderstudyError("the segmenter has not been trained", fix="call fit first")
        if isinstance(images, SliceSet):
            classes = class_table(self._network.classes, [c.name for c in images.classes], "the set")
            return classes[predict(self._network, images.images, images.channels)]
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            found = getattr(images, "dtype", type(images).__name__)
            raise UnderstudyError(f"images are {found}, not an array of uint8", fix="give slices.images")
        return predict(self._network, images)


class UNet(Segmenter):
    """nnU-Net's 2D network (MONAI's DynUNet)."""

    kind = "unet"


class Swin(Segmenter):
    """Swin transformer with UPerNet."""

    kind = "swin"


@dataclass(frozen=True)
class Evaluation:
    """Can synthetic slices replace real ones in the training of a segmenter?

    Attributes:
        relative_dice: mean Dice on test patients after training on synthetic slices / after training on real ones;
            NaN where real slices teach the network nothing, so that a share of their Dice says nothing.
        interval: its 95 % interval, bootstrap over patients.
        dice: mean Dice of each training ("real", "synthetic", "both").
        rows: raw results, one row a training, patient and class.
        leaked: rows of the synthetic set that are copies of test patients, on which nothing was trained.
    """

    relative_dice: float
    interval: tuple[float, float]
    dice: Mapping[str, float]
    rows: pd.DataFrame
    leaked: tuple[int, ...] = ()

    def __repr__(self) -> str:
        low, high = self.interval
        means = ", ".join(f"{name} {value:.3f}" for name, value in self.dice.items())
        answer = f"relative Dice {percent(self.relative_dice)}, 95 % interval {percent(low)} to {percent(high)}"
        if np.isnan(self.relative_dice):
            answer = "not answered: real slices teach the network too little, train it for longer"
        if self.leaked:
            found = f"{len(self.leaked)} synthetic slices are copies of test patients (rows {self.leaked[0]}, ...)"
            answer = f"withheld: {found}; without them {answer}"
        return f"Evaluation({answer}; Dice: {means})"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Dice of each test patient under each training; returns the axes."""
        import matplotlib.pyplot as plt

        ax = plt.subplots(figsize=(4, 3))[1] if ax is None else ax
        means = self.rows.groupby(["setting", "subject"], sort=False)["dice"].mean()
        names = list(self.dice)
        ax.boxplot([means[name].dropna().to_numpy() for name in names], showmeans=True)
        ax.set_xticks(range(1, len(names) + 1), names)
        ax.set(ylabel="Dice of a test patient", ylim=(0, 1))
        return ax


def evaluate(
    real: SliceSet, synthetic: SliceSet, segmenter: Segmenter | None = None, both: bool = False, seed: int = 0,
    progress: bool = False,
) -> Evaluation:  # fmt: skip
    """Trains a segmenter on real and on synthetic slices and scores both on real test patients.

    The slices of a test patient are scored together, as they are stored. Whole volumes on their original grid,
    repeats and tables: `understudy evaluate`.

    Args:
        real: slices of patients. Training, validation and test patients are those of its last `split`, so split it
            once and train the generator on that training part.
        synthetic: slices that stand in for the training patients'.
        segmenter: None: `UNet()`.
        both: also train on real and synthetic slices together.
        seed: of the segmenter's trainings.

    Raises:
        UnderstudyError: sets that do not fit together, patients that cannot be split.
    """
    from understudy.memorization.comparison import Sides
    from understudy.memorization.config import AuditConfig
    from understudy.memorization.leaks import find_leaks
    from understudy.memorization.search import searching
    from understudy.metrics.overlap import apply_policy
    from understudy.metrics.scores import score_volume
    from understudy.metrics.statistics import relative_dice, summarise
    from understudy.report.answer import POOREST_BASELINE
    from understudy.roles import check_alike, only_parts, part_of
    from understudy.segmenters.mixing import class_table

    _check_sets(real=real, synthetic=synthetic)
    segmenter = UNet() if segmenter is None else segmenter
    if not isinstance(segmenter, Segmenter):
        raise UnderstudyError(f"the segmenter is {segmenter!r}", fix="give UNet(...) or Swin(...)")
    check_alike([part_of("real", real), part_of("synthetic", synthetic)])
    class_table([c.name for c in synthetic.classes], [c.name for c in real.classes], "synthetic")
    train, val, test = real.last_split
    if not (len(train) and len(test)):
        what = f"real has no slices of {'test' if len(train) else 'training'} patients{only_parts(real)}"
        raise UnderstudyError(what, where=real.path, fix="give the whole set as real: it is split here")
    parts = Sides(part_of("training", train), part_of("held-out", test), part_of("synthetic", synthetic))
    config = AuditConfig()
    leaked = find_leaks(parts, config, searching(config, "cpu", progress)).rows
    if len(leaked):
        synthetic = synthetic.subset(np.setdiff1d(np.arange(len(synthetic)), leaked))
    sets = {"real": (train, None), "synthetic": (None, synthetic), "both": (train, synthetic)}
    rows: list[dict[str, Any]] = []
    for name in ("real", "synthetic", "both")[: 3 if both else 2]:
        network = copy.copy(segmenter).fit(*sets[name], val=val if len(val) else None, seed=seed, progress=progress)
        for subject, places in test.index.groupby("subject", sort=True).indices.items():
            patient = test.subset(np.asarray(places))
            scored = score_volume(
                pred=network.predict(patient), target=patient.labels, class_names=real.class_names, spacing=(1, 1, 1)
            )
            rows += [row | {"setting": name, "repeat": 0, "subject": str(subject)} for row in scored]
    table = apply_policy(pd.DataFrame(rows))
    summary = summarise(table, ["dice"]).query("class_name == 'mean'").set_index("setting")["value"]
    means = {str(name): float(value) for name, value in summary.items()}
    estimate = relative_dice(table, "synthetic", "real")
    value = estimate.value if means["real"] >= POOREST_BASELINE else float("nan")
    # no distances: slices may be any, in any order
    shown = [c for c in table if not str(c).startswith(("hd", "diagonal"))]
    return Evaluation(value, (estimate.low, estimate.high), means, table[shown], tuple(leaked.tolist()))


def audit(
    train: SliceSet, held_out: SliceSet, synthetic: SliceSet, quantile: float = 0.99, transforms: Transforms = "none",
    seed: int = 0, device: str = "cpu", progress: bool = False, **options: Any,
) -> AuditResult:  # fmt: skip
    """Are synthetic slices copies of training slices? Returns `verdict`, `plot()`, and the numbers of every slice.

    Args:
        train: slices that the generator was trained on.
        held_out: slices of patients that it never saw: how near new patients come by chance.
        synthetic: the slices to be judged.
        quantile: a slice nearer to the training slices than this part of held-out ones is flagged.
        transforms: "dihedral" also looks for copies turned by quarters; mirrored ones are always looked for.
        options: further arguments of `memorization.perform.audit`, e.g. `copies=300`.

    Raises:
        UnderstudyError: sets that do not fit together, a patient on both sides, settings that cannot be used.
    """
    from understudy.memorization import perform
    from understudy.memorization.config import AuditConfig

    _check_sets(train=train, held_out=held_out, synthetic=synthetic)
    if "config" not in options:
        options |= {"quantile": quantile, "transforms": transforms, "seed": seed}
    with _settings(AuditConfig):
        return perform.audit(train, held_out, synthetic, device=device, progress=progress, **options)


def read(
    folder: str | Path, out: str | Path, pattern: str = "", channels: Sequence[str] | Mapping[str, str | int] = (),
    labels: str | int | dict[str, str] = "", codes: dict[str, float] | None = None, **spec: Any,
) -> SliceSet:  # fmt: skip
    """Reads a folder of images that anyone made (PNG, NumPy, NIfTI, WebDataset, ...) into a slice set at `out`.

    Args:
        out: new folder of the slice set.
        pattern: of file names, e.g. "{id}_{channel}.png"; empty: found out, as the other arguments are.
        channels: names of the channels, or what stands for them in file names.
        labels: what stands for {channel} in the file of the annotation.
        codes: class -> its grey value in the annotation.
        spec: further fields of `exchange.spec.FolderSpec`, as the options of `understudy read`.

    Raises:
        UnderstudyError: no images, images that do not fit together.
    """
    from understudy.exchange.read import read_folder
    from understudy.exchange.spec import FolderSpec

    named: Any = dict(channels) if isinstance(channels, Mapping) else list(channels)
    with _settings(FolderSpec):
        described = FolderSpec(pattern=pattern, channels=named, labels=labels, codes=codes or {}, **spec)
    return read_folder(folder, described, out, progress=False)


def phantoms(patients: int = 12, resolution: int = 32, seed: int = 1) -> SliceSet:
    """Slices of simulated patients, in memory: four sequences, three classes, a recorded split. For a first try.

    Args:
        patients: number of patients; a fifth is for testing, a fifth of the others for validation.
        resolution: height and width, pixels.
        seed: patient k of a seed is always the same.
    """
    from understudy.cohort.checks import check_cohort
    from understudy.cohort.config import CohortConfig
    from understudy.cohort.layouts import find_patients
    from understudy.cohort.phantom.write import PhantomConfig, write_phantoms
    from understudy.cohort.prepare import prepare
    from understudy.cohort.slicing import SliceConfig
    from understudy.cohort.splits import SplitConfig, split_patients

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _settings():
            config = PhantomConfig(patients=patients, shape=(64, 64, 40), seed=seed, sites=1)
            slicing = SliceConfig(resolution=resolution, scaling="robust")
        write_phantoms(config, folder / "phantoms", progress=False)
        cohort = find_patients(CohortConfig(path=folder / "phantoms"))
        frame = check_cohort(cohort, slicing, progress=False).frame
        split = split_patients(cohort, SplitConfig(test_patients=0.2, validation_fraction=0.2, seed=seed))
        prepare(cohort, split, slicing, folder, progress=False, frame=frame)
        return _in_memory(SliceSet.open(folder / "slices"))


def _in_memory(slices: SliceSet) -> SliceSet:
    """A copy that needs no folder any more."""
    named: Any = {"channels": slices.channels, "classes": slices.classes, "spacing": slices.spacing}
    made = SliceSet.from_arrays(slices.images, slices.labels, index=slices.index, **named)
    made.axes, made.attrs = slices.axes, dict(slices.attrs)
    return made

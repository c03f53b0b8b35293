"""The five built-in generators: what each consists of, what it costs, and how it scores slices.

A sixth is one module with an architecture (`NetworkConfig`), a training (`TrainingConfig`), a network with a
`generator`, a `TrainingState` with its step (a GAN: `GanState` as it is), and a `NetworkType` that names them; and one
line of `registry.KINDS`.
"""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.generators.diffusion.process import training_losses
from understudy.generators.diffusion.samplers import SamplerConfig, default_sampler
from understudy.generators.folder import DISCRIMINATOR, WEIGHTS
from understudy.generators.interface import GeneratorType, Scorer
from understudy.generators.networks import progan, stylegan1, stylegan2, stylegan3, unet
from understudy.generators.networks.base import fresh
from understudy.generators.networks.progressive import fade_real
from understudy.generators.training import config as settings
from understudy.generators.training.denoising import DiffusionState
from understudy.generators.training.gan import GanState
from understudy.generators.training.state import TrainingState
from understudy.io.files import reading, sha256_file
from understudy.io.foreign import MODEL
from understudy.io.readers import built, read_tensors
from understudy.io.seals import check_intact

COUNTED = 4  # images in a counted pass: one group of the minibatch deviation
NOISE_LEVELS = 10  # at which a diffusion model scores slices, evenly over its steps


class GeneratorCost(NamedTuple):
    """What the networks of an architecture cost."""

    forward: int  # operations of the generator for one image, forward
    scores: int  # operations of the discriminator for one image, forward; 0 without one
    weights: int  # numbers in all networks


Costs = Callable[[Any], GeneratorCost]
"""`NetworkType.count`, which may remember."""


class NetworkType(GeneratorType):
    """A generator whose network is defined here and trained by `training.loop.train`."""

    config: ClassVar[type[Any]]  # the architecture
    network: ClassVar[type[nn.Module]]  # what is sampled is its `generator`
    training: ClassVar[type[settings.TrainingConfig]]
    state: ClassVar[type[TrainingState]]  # of the training, with its step
    aliases: ClassVar[tuple[str, ...]] = ()  # other names that a study file may mean it by
    # Operations of a training step that reaches half of a CPU's speed, measured: small steps wait between operations,
    # and longer the more of these a network has.
    half_saturation: ClassVar[float] = 1.5e10

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, config: Any, seed: int = 0) -> Any:
        """A network with fresh weights, the same for the same seed."""
        config.check_size()  # the resolution may have been left to its default
        return fresh(self.network, config, seed)

    def load(self, folder: Path, config: dict[str, Any]) -> Any:
        """The EMA generator, for evaluation only; an UnderstudyError where its file is damaged."""
        return self._load(folder / WEIGHTS, config, "generator")

    def _load(self, path: Path, config: dict[str, Any], part: str) -> Any:
        check_intact(path, config)
        tensors = read_tensors(path)
        with reading(path, MODEL):
            network = getattr(built(self.build, self.config(**config["model"]), tensors.values(), path), part)
            network.load_state_dict(tensors)
        network.precision = (config["training"] or {}).get("precision", "auto")  # see `sampling_precision`
        return network.requires_grad_(False).eval()

    def weights(self, folder: Path, config: dict[str, Any]) -> dict[str, str]:
        """SHA-256 (hex) of the files of generator and, where there is one, discriminator."""
        paths = (folder / WEIGHTS, folder / DISCRIMINATOR)
        return {path.name: sha256_file(path) for path in paths if path.is_file()}

    def count(self, config: Any) -> GeneratorCost:
        """Counts an architecture on torch's `meta` device, which computes nothing."""
        with torch.device("meta"):
            network = self.build(config)
            images = torch.empty(COUNTED, config.channels, config.resolution, config.resolution)
            forward = self.count_generator(network.generator, images)
            scores = count_operations(network.discriminator, images) if hasattr(network, "discriminator") else 0
        return GeneratorCost(forward // COUNTED, scores // COUNTED, sum(p.numel() for p in network.parameters()))

    @abstractmethod
    def count_generator(self, generator: Any, images: Tensor) -> int:
        """Operations of a forward pass that makes, or denoises, such images."""

    def passes(self, config: Any, training: Any) -> tuple[float, float]:
        """Forward passes that the training on an image costs, of generator and discriminator; a backward pass is two,
        and one without the gradients of the weights is one."""
        return 3, 0

    def training_operations(self, config: Any, training: Any, costs: Costs) -> float:
        """Operations of the whole training."""
        cost, (generator, discriminator) = costs(config), self.passes(config, training)
        return float(training.kimg * 1000 * (generator * cost.forward + discriminator * cost.scores))

    def sampling_operations(self, config: Any, sampler: SamplerConfig | None, costs: Costs) -> float:
        """Operations of one sample."""
        return float(costs(config).forward)


class GanType(NetworkType):
    """Generator and discriminator (`networks.base.Gan`), trained by `gan_step`.

    `truncation` is True: a generator without a mean w to be drawn to by `psi` sets it to False.
    """

    state = GanState
    truncation = True

    def passes(self, config: Any, training: Any) -> tuple[float, float]:
        """With the penalties: each is a forward pass, a backward pass by its input, and the backward pass of both."""
        generator, discriminator = 4.0, 8.0  # G learns from 3 G and 2 D, D from 1 G and 6 D
        if training.loss == "wgan-gp":
            discriminator += 6
        elif training.r1_in_loss:
            discriminator += 3  # its forward pass is that of the loss
        elif training.r1_due(0) and training.gamma(config.resolution):
            discriminator += 6 / training.r1_interval
        if training.path_length_due(0):
            generator += 6 / (training.pl_shrink * training.pl_interval)
        return generator, discriminator

    def count_generator(self, generator: Any, images: Tensor) -> int:
        """Operations from latents to images of the full size."""
        latents = torch.empty(len(images), generator.latents(0, 0, 1).shape[1])
        full_size = {"level": 0.0} if hasattr(generator, "level") else {}  # as a buffer has no value here
        return count_operations(generator, latents, **full_size)

    def supports_membership_inference(self, folder: Path) -> bool:
        """Whether the discriminator was kept."""
        return (folder / DISCRIMINATOR).is_file()

    def membership_scorer(self, folder: Path, config: dict[str, Any], device: torch.device) -> tuple[Scorer, str]:
        """The discriminator's score, each slice a minibatch of its own; of a snapshot that was still growing, at its
        resolution then."""
        path = folder / DISCRIMINATOR
        if not path.is_file():
            raise UnderstudyError("there is no discriminator, by which a GAN scores slices", path, "train it again")
        discriminator = self._load(path, config, "discriminator").to(device)
        level = float(getattr(self.load(folder, config), "level", 0.0))
        grown = {"level": level} if level else {}  # only growing networks know levels

        @torch.no_grad()
        def score(images: Tensor) -> Tensor:
            scores: Tensor = discriminator(fade_real(images, level), dtype=torch.float32, batches=len(images), **grown)
            return scores.flatten()

        return score, "discriminator score"


class GrowingGanType(GanType):
    """A GAN whose resolution grows."""

    def training_operations(self, config: Any, training: Any, costs: Costs) -> float:
        """Each resolution for its time; while one fades in, the networks already work at its size."""
        work, left, resolution = 0.0, training.kimg * 1000, max(4, training.start_resolution)
        generator, discriminator = self.passes(config, training)
        while True:
            built = max(resolution, 16)  # below 16 a network costs about a quarter with every halving
            cost, shrink = costs(config.model_copy(update={"resolution": built})), (built // resolution) ** 2
            last = resolution >= config.resolution
            shown = left if last else min(left, (training.stabilise_kimg + training.fade_kimg) * 1000)
            work += shown * (generator * (cost.forward // shrink) + discriminator * (cost.scores // shrink))
            left -= shown
            if left <= 0 or last:
                return work
            resolution *= 2


class ProGanType(GrowingGanType):
    """Progressive GAN (Karras et al. 2018)."""

    config, training, network = progan.ProGanConfig, settings.ProGanTraining, progan.ProGan
    aliases, half_saturation = ("pggan", "pgan"), 2.9e10
    truncation = False


class StyleGan1Type(GrowingGanType):
    """StyleGAN (Karras et al. 2019)."""

    config, training, network = stylegan1.StyleGan1Config, settings.StyleGan1Training, stylegan1.StyleGan1
    aliases, half_saturation = ("sg1",), 1.8e10


class StyleGan2Type(GanType):
    """StyleGAN 2 (Karras et al. 2020)."""

    config, training, network = stylegan2.StyleGan2Config, settings.StyleGan2Training, stylegan2.StyleGan2
    aliases, half_saturation = ("sg2",), 8.5e9


class StyleGan3Type(GanType):
    """StyleGAN 3 (Karras et al. 2021)."""

    config, training, network = stylegan3.StyleGan3Config, settings.StyleGan3Training, stylegan3.StyleGan3
    aliases, half_saturation = ("sg3",), 2e10


class DiffusionType(NetworkType):
    """Guided diffusion's U-Net (Dhariwal & Nichol 2021), trained by `denoising_step`."""

    config, training, network = unet.DiffusionConfig, settings.DiffusionTraining, unet.Diffusion
    state = DiffusionState
    takes_sampler = True
    aliases, half_saturation = ("ddpm", "ddim"), 1.6e10

    def count_generator(self, generator: Any, images: Tensor) -> int:
        """Operations of one denoising step."""
        return count_operations(generator, images, torch.empty(len(images), dtype=torch.int64))

    def sampling_operations(self, config: Any, sampler: SamplerConfig | None, costs: Costs) -> float:
        """Operations of all steps of the sampler."""
        steps = (sampler or default_sampler(config.steps)).steps or config.steps
        return float(steps * costs(config).forward)

    def supports_membership_inference(self, folder: Path) -> bool:
        """Always: the generator itself scores."""
        return True

    def membership_scorer(self, folder: Path, config: dict[str, Any], device: torch.device) -> tuple[Scorer, str]:
        """Minus the mean error over noise levels, with the same noise for all slices."""
        generator, model = self.load(folder, config).to(device), self.config(**config["model"])
        process = model.process()
        steps = np.linspace(0, len(process) - 1, NOISE_LEVELS + 2)[1:-1].astype(int)
        shape = (NOISE_LEVELS, model.channels, model.resolution, model.resolution)
        noises = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)

        @torch.no_grad()
        def score(images: Tensor) -> Tensor:
            total = torch.zeros(len(images), device=device)
            for step, noise in zip(steps, noises, strict=True):
                t = torch.full((len(images),), int(step), device=device)
                losses = training_losses(generator, process, images, t, noise.expand_as(images))
                total -= losses["mse"] / NOISE_LEVELS
            return total

        return score, "denoising error"


def count_operations(module: nn.Module, *inputs: Tensor, **options: float) -> int:
    """Floating-point operations of a forward pass."""
    from torch.utils.flop_counter import FlopCounterMode  # takes a while to import

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs, **options)
    return int(counter.get_total_flops())

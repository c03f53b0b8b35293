"""What the networks have in common: the size of the joint image, weights by a seed, samples that do not depend on each
other."""

import math
from collections.abc import Callable
from typing import Any, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from understudy.io.settings import Settings
from understudy.runtime.devices import resolve_precision
from understudy.runtime.memory import in_parts

SMALLEST_BLOCK = 8  # samples computed together; fewer only if a smaller block already fills the device

Network = TypeVar("Network", bound=nn.Module)
Config = TypeVar("Config")


class NetworkConfig(Settings, frozen=True):
    """The joint image that a network is for; the defaults are the paper's (256x256, four sequences, one annotation)."""

    resolution: int = Field(256, ge=16, le=512, description="of the images, pixels, a power of two")
    channels: int = Field(5, ge=1, le=256, description="channels of the joint image: MR channels + annotation channels")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution {self.resolution} is not a power of two: use 16, 32, ..., 512")
        # a study file leaves it to the slices, and is checked by `at`; a network is checked when it is built
        if self.resolution != type(self).model_fields["resolution"].default:
            self.check_size()
        return self

    def check_size(self) -> None:
        """Raises ValueError where there is no such network at this resolution."""

    def at(self, resolution: int) -> Self:
        """The same for images of another size; a ValueError where there is no such network."""
        changed = self.model_copy(update={"resolution": resolution})
        changed.check_size()
        return changed

    @property
    def resolutions(self) -> list[int]:
        """4, 8, ..., resolution."""
        return [2**i for i in range(2, int(math.log2(self.resolution)) + 1)]


def sampling_precision(generator: nn.Module, device: torch.device) -> torch.dtype:
    """Type of the activations when sampling: as the generator was trained (`load` says how), else the device's own."""
    return resolve_precision(getattr(generator, "precision", "auto"), device)


def sampling_block(resolution: int, dtype: torch.dtype, device: torch.device) -> int:
    """Samples that fill a device when computed together, a power of two up to 256."""
    if device.type == "cuda":  # 16 images of 256 x 256 pixels for every 16 GB of its memory
        pixels = torch.cuda.get_device_properties(device).total_memory // 2**14
    else:  # so many that a map of all of them stays in the cache of a core
        pixels = 2**17 // dtype.itemsize
    return int(2 ** int(math.log2(min(256, max(1, pixels // resolution**2)))))


def in_blocks(draw: Callable[[range], Tensor], start: int, count: int, largest: int) -> Tensor:
    """Samples start ... start + count - 1 as [count, ...], drawn in blocks that depend on their numbers alone.

    Matrix products round differently by batch size, so a sample needs the same neighbours whatever is asked for.
    Blocks grow up to `largest`, a power of two: 0 to 7, 8 to 15, 16 to 31, ..., so that few samples take little time.
    """
    parts, block = [], range(min(largest, SMALLEST_BLOCK))
    while block.start < start + count:
        if start < block.stop:
            images = torch.cat(in_parts(lambda rows, block=block: draw(block[rows]), len(block), "sampling"))  # type: ignore[misc]
            parts.append(images[max(0, start - block.start) : start + count - block.start])
        block = range(block.stop, block.stop + min(largest, max(SMALLEST_BLOCK, block.stop)))
    return torch.cat(parts) if parts else torch.empty(0)


class LatentGenerator(nn.Module):
    """A network from latents z [N, latent_size] and a truncation psi to joint images [N, C, R, R] in [-1, 1].

    psi draws w towards its mean by 1 - psi; 1: no truncation (Karras et al. 2019, app. B). For its training each has
    also a method `synthesise(inputs, level, dtype, track)`: what `draw` gave for this level -> joint images float32
    [N, C, A, A] at the active resolution A of the level (0: full resolution, as always in models that do not grow).
    dtype: of the factors of the products. track: move running means.
    """

    config: Any

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.latent_size = latent_size

    def draw(self, count: int, rng: torch.Generator, mixing: float = 0.0, level: float = 0.0) -> dict[str, Tensor]:
        """Everything random for a batch; what has a batch dimension may be cut into micro-batches.

        Args:
            mixing: probability that the styles of the batch are mixed, in models that do so.
        """
        return {"z": torch.randn(count, self.latent_size, generator=rng, device=rng.device)}

    @torch.no_grad()
    def sample(
        self, count: int, seed: int, start: int = 0, psi: float = 1.0, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Samples start ... start + count - 1 of a seed, float32 [count, C, R, R] on the CPU; stored noise, if any.

        Sample i of a seed is the same on one device bit by bit, whatever is asked for: its z is drawn from (seed, i),
        and it is always computed with the same neighbours (see `in_blocks`). dtype: None for `sampling_precision`.
        """
        device, resolution = next(self.parameters()).device, self.config.resolution
        dtype = sampling_precision(self, device) if dtype is None else dtype

        def draw(numbers: range) -> Tensor:
            z = self.latents(seed, numbers.start, len(numbers))
            images: Tensor = self(z.to(device), psi, dtype=dtype)
            return images.float().cpu()

        return in_blocks(draw, start, count, sampling_block(resolution, dtype, device))

    def latents(self, seed: int, start: int, count: int) -> Tensor:
        """z [count, latent_size] ~ N(0, 1) of the samples start ... start + count - 1 of a seed."""
        rngs = [np.random.default_rng([seed, i]) for i in range(start, start + count)]
        return torch.from_numpy(np.stack([rng.standard_normal(self.latent_size, dtype=np.float32) for rng in rngs]))


class Gan(nn.Module):
    """Generator and discriminator of one configuration, a `NetworkConfig` with a field `kind: Literal["its name"]`
    (as its `TrainingConfig` has), by which a study file finds it.

    The discriminator is called as `discriminator(image, dtype=..., batches=...)`, in models that grow with `level=...`
    too, and returns logits [N, 1], larger for real. image: [N, C, A, A], as from `synthesise`. dtype: of the factors of
    the products. batches: minibatches that the images consist of, which statistics of a minibatch must not mix.
    """

    def __init__(self, config: Any, generator: LatentGenerator, discriminator: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.generator: Any = generator
        self.discriminator: Any = discriminator


def fresh(network: Callable[[Config], Network], config: Config, seed: int = 0) -> Network:
    """A network with freshly drawn weights, the same for the same seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(config)

"""What Progressive GAN and StyleGAN 1 share: the growth schedule, fading, and their discriminator.

Both grow (Karras et al. 2018, sec. 2). How far they have grown is the *level*, the official `lod`: 0 is full
resolution, 1 half of it, and 0.4 means that the layers of the full resolution have weight 0.6 and the image of the half
resolution, enlarged, has 0.4. Everything runs at the active resolution R >> floor(level).
"""

import math
from dataclasses import dataclass, field

import torch
from pydantic import Field
from torch import Tensor, nn

from understudy.generators.networks.base import LatentGenerator, NetworkConfig
from understudy.generators.networks.layers import MinibatchDeviation, ScaledConv, ScaledDense, at_least_float, held_as
from understudy.generators.ops.fused import LAYOUT
from understudy.generators.ops.resampling import enlarge, shrink, smooth
from understudy.io.settings import Width


@dataclass(frozen=True)
class LevelSchedule:
    """Level and batch as functions of the real images shown so far; the defaults are Progressive GAN's."""

    start_resolution: int = 4  # pixels (StyleGAN 1: 8); the full one for no growth
    stabilise_kimg: float = 600  # thousand images at a resolution before the next fades in ...
    fade_kimg: float = 600  # ... and in which it fades in
    batch: int = 4  # images per step where `batches` says nothing
    batches: dict[int, int] = field(default_factory=dict)  # images per step by active resolution
    steps_per_update: int = 4  # for which level and batch are held

    def __post_init__(self) -> None:
        if self.start_resolution & (self.start_resolution - 1):
            raise ValueError(f"start_resolution {self.start_resolution} is not a power of two")
        if any(v < 1 for v in self.batches.values()):
            raise ValueError("batches must be positive")

    def level(self, images: int, resolution: int) -> float:
        """Level after so many real images of a network for `resolution`."""
        doublings = max(0.0, math.log2(resolution / self.start_resolution))
        length = self.stabilise_kimg + self.fade_kimg
        if length == 0:
            return 0.0
        phase, kimg = divmod(images / 1000, length)
        fading = max(kimg - self.stabilise_kimg, 0.0)
        return max(doublings - phase - (fading / self.fade_kimg if fading else 0.0), 0.0)

    def batch_at(self, level: float, resolution: int) -> int:
        """Images per step at a level."""
        return self.batches.get(resolution >> math.floor(level), self.batch)


def resets_optimiser(before: float, after: float) -> bool:
    """Whether layers joined or left between two levels: the state of both optimisers is dropped then."""
    return math.floor(before) != math.floor(after) or math.ceil(before) != math.ceil(after)


def split_level(level: float, resolutions: list[int]) -> tuple[int, float]:
    """(index of the active resolution, weight in [0, 1) of the next coarser one)."""
    coarsest = len(resolutions) - 1
    if not 0 <= level <= coarsest:
        raise ValueError(f"level {level} is not in [0, {coarsest}] (resolutions {resolutions})")
    return coarsest - math.floor(level), level - math.floor(level)


def fade_real(images: Tensor, level: float) -> Tensor:
    """Real images [N, C, R, R] as a network at `level` sees them, [N, C, R >> floor(level), ...]: box-filtered and,
    while a resolution fades in, blended with their own coarser version."""
    images = shrink(images, 1 << math.floor(level))
    fade = level - math.floor(level)
    return images.lerp(enlarge(shrink(images, 2), 2), fade) if fade else images


class ProgressiveConfig(NetworkConfig):
    """What the architectures of both models have in common; the defaults are the paper's at 256x256."""

    fmap_base: int = Field(
        8192, ge=1, le=1 << 24, description="feature maps at resolution R: fmap_base / (R / 2) ^ fmap_decay ..."
    )
    fmap_max: Width = Field(512, description="... but at most this many")
    fmap_decay: float = Field(1.0, ge=0, le=8, description="log2 of the reduction with every doubling")
    mbstd_group: Width = Field(4, description="samples per group of the minibatch standard deviation, 1 for none")

    def check_size(self) -> None:
        if self.width(self.resolution) < 1:
            raise ValueError(f"fmap_base {self.fmap_base} leaves no feature maps at {self.resolution} pixels")

    def width(self, resolution: int) -> int:
        """Feature maps of the block at a resolution (4, 8, ...); 2 for those of the dense layers."""
        stage = int(math.log2(resolution)) - 1
        return min(int(self.fmap_base / 2.0 ** (stage * self.fmap_decay)), self.fmap_max)


class DiscriminatorBlock(nn.Module):
    """[N, width(R), R, R] -> [N, width(R/2), R/2, R/2]."""

    def __init__(self, resolution: int, config: ProgressiveConfig, blurred: bool) -> None:
        super().__init__()
        self.conv0 = ScaledConv(config.width(resolution), config.width(resolution))
        self.conv1 = ScaledConv(config.width(resolution), config.width(resolution // 2), resample="down")
        self.blurred = blurred

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        x = self.conv0(x, dtype)
        return self.conv1(smooth(x) if self.blurred else x, dtype)


class ProgressiveDiscriminator(nn.Module):
    """Joint image -> score [N, 1], larger for real; blurred: low-pass filter before every halving (StyleGAN 1)."""

    def __init__(self, config: ProgressiveConfig, blurred: bool) -> None:
        super().__init__()
        self.config = config
        resolutions = config.resolutions
        self.from_image = nn.ModuleList(ScaledConv(config.channels, config.width(r), 1) for r in resolutions)
        self.blocks = nn.ModuleList(DiscriminatorBlock(r, config, blurred) for r in resolutions[1:])
        maps = int(config.mbstd_group > 1)
        self.deviation = MinibatchDeviation(config.mbstd_group, maps)
        self.conv = ScaledConv(config.width(4) + maps, config.width(4))
        self.dense = ScaledDense(config.width(4) * 16, config.width(2), activate=True)
        self.out = ScaledDense(config.width(2), 1)

    def forward(
        self, images: Tensor, dtype: torch.dtype = torch.float32, batches: int = 1, level: float = 0.0
    ) -> Tensor:
        """images [N, C, A, A] at the active resolution A of `level`, or larger ones, which are box-filtered to it.
        dtype: of the factors of the products down to 8x8. batches: see MinibatchDeviation."""
        index, fade = split_level(level, self.config.resolutions)
        images = shrink(images, images.shape[-1] // self.config.resolutions[index])
        held = held_as(dtype, images.device)
        x = self.from_image[index](images.to(held, memory_format=LAYOUT))  # [N, width(A), A, A]
        for i in range(index, 0, -1):
            x = self.blocks[i - 1](x, dtype)
            if i == index and fade:
                coarse = shrink(images, 2).to(held, memory_format=LAYOUT)
                x = x.lerp(self.from_image[i - 1](coarse), fade)
        x = at_least_float(x)  # [N, width(4), 4, 4]
        if self.deviation.maps:
            x = self.deviation(x, batches)
        return self.out(self.dense(self.conv(x).flatten(1)))


class ProgressiveGenerator(LatentGenerator):
    """Fading and enlargement of both generators."""

    level: Tensor  # saved with the weights: a network that was not trained to the end samples by its trained layers

    def __init__(self, config: ProgressiveConfig, latent_size: int) -> None:
        super().__init__(latent_size)
        self.config = config
        self.to_image = nn.ModuleList(
            ScaledConv(config.width(r), config.channels, 1, activate=False) for r in config.resolutions
        )
        self.register_buffer("level", torch.zeros([]))

    def image(self, x: Tensor, coarser: Tensor, index: int, fade: float) -> Tensor:
        """Image float32 [N, C, A, A] of the activations x at resolution number `index` and those one coarser."""
        image: Tensor = self.to_image[index](x).float()
        if fade:
            image = image.lerp(enlarge(self.to_image[index - 1](coarser).float(), 2), fade)
        return image

    def full_size(self, image: Tensor) -> Tensor:
        """Image at any active resolution -> [N, C, R, R], by nearest neighbours."""
        return enlarge(image, self.config.resolution // image.shape[-1])

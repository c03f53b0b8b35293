"""The training step of StyleGAN 2 in the structure of the official code on a processor, as a baseline to measure.

Written from the description in the paper and the facts, on the parameters of this package's network: the same
objective, batch and phases, float32 and contiguous, with
- a kernel for each sample (modulated, demodulated) and one grouped convolution for the batch,
- resampling as zero insertion, padding, depthwise convolution and slicing,
- bias, leaky ReLU, gain and clamp as operations of their own, and a style for every layer,
- two passes of the mapping for style mixing, and of the discriminator for synthetic and real images,
- Adam with torch's default settings, gradients repaired in one flat copy, and averaging tensor by tensor.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.generators.networks.layers import Conv, Dense, ModulatedConv
from understudy.generators.networks.stylegan2 import (
    Discriminator,
    DiscriminatorBlock,
    Generator,
    StyledConv,
    SynthesisBlock,
    ToImage,
)
from understudy.generators.training.config import decay_of_half_life
from understudy.generators.training.gan import GanState


def resample(x: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0), gain: float = 1.0) -> Tensor:
    """Zeros between the pixels, padding, the [1, 3, 3, 1] filter of every channel, every `down`-th pixel."""
    n, channels, height, width = x.shape
    x = F.pad(x.reshape(n, channels, height, 1, width, 1), [0, up - 1, 0, 0, 0, up - 1])
    x = F.pad(x.reshape(n, channels, height * up, width * up), [*pad, *pad])
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) * (gain / 64)
    x = F.conv2d(x, kernel[None, None].repeat(channels, 1, 1, 1), groups=channels)
    return x[:, :, ::down, ::down]


def activate(x: Tensor, bias: Tensor | None, act: bool, gain: float = 1.0, clamp: float | None = None) -> Tensor:
    """Bias, leaky ReLU, gain, clamp."""
    if bias is not None:
        x = x + bias.reshape([-1 if i == 1 else 1 for i in range(x.ndim)])
    if act:
        x = F.leaky_relu(x, 0.2)
        gain = gain * math.sqrt(2)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def dense(layer: Dense, x: Tensor) -> Tensor:
    weight = layer.weight * layer.scale
    bias = layer.bias * layer.rate if layer.rate != 1 else layer.bias
    if not layer.activate:
        return torch.addmm(bias[None], x, weight.t())
    return activate(x @ weight.t(), bias, True)


def modulated(layer: ModulatedConv, x: Tensor, style: Tensor, up: bool = False, demodulate: bool = True) -> Tensor:
    n, _, height, width = x.shape
    kernels = layer.weight[None] * style.reshape(n, 1, -1, 1, 1)
    if demodulate:
        kernels = kernels * (kernels.square().sum(dim=[2, 3, 4]) + 1e-8).rsqrt().reshape(n, -1, 1, 1, 1)
    size = kernels.shape[-1]
    x = x.reshape(1, -1, height, width)
    if up:
        x = F.conv_transpose2d(x, kernels.transpose(1, 2).flatten(0, 1), stride=2, groups=n)
        x = resample(x, pad=(1, 1), gain=4)
    else:
        x = F.conv2d(x, kernels.flatten(0, 1), padding=size // 2, groups=n)
    return x.reshape(n, -1, *x.shape[2:])


def styled(layer: StyledConv, x: Tensor, w: Tensor) -> Tensor:
    x = modulated(layer.conv, x, dense(layer.conv.affine, w), layer.up)
    x = x.add_(torch.randn(len(x), 1, *x.shape[2:]) * layer.noise_strength)
    return activate(x, layer.bias, True, clamp=layer.clamp)


def to_image(layer: ToImage, x: Tensor, w: Tensor) -> Tensor:
    style = dense(layer.conv.affine, w) * (1 / math.sqrt(layer.conv.weight[0].numel()))
    return activate(modulated(layer.conv, x, style, demodulate=False), layer.bias, False, clamp=layer.clamp)


def synthesis(generator: Generator, ws: Tensor) -> Tensor:
    x, image, index = torch.empty(0), torch.empty(0), 0
    for block in generator.synthesis.blocks:
        assert isinstance(block, SynthesisBlock)
        if block.first:
            x = block.const[None].repeat(len(ws), 1, 1, 1)
        else:
            x = styled(block.conv0, x, ws[:, index])
            image = resample(image, up=2, pad=(2, 1), gain=4)
            index += 1
        x = styled(block.conv1, x, ws[:, index])
        index += 1
        part = to_image(block.to_image, x, ws[:, index])
        image = part if block.first else image.add_(part)
    return image


def mapping(generator: Generator, z: Tensor, update: bool) -> Tensor:
    w = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
    for layer in generator.mapping.layers:
        assert isinstance(layer, Dense)
        w = dense(layer, w)
    if update:
        average = generator.mapping.w_avg
        average.copy_(w.detach().mean(dim=0).lerp(average, generator.mapping.beta))
    return w.unsqueeze(1).repeat(1, generator.config.num_ws, 1)


def convolution(layer: Conv, x: Tensor, gain: float = 1.0) -> Tensor:
    _, inputs, size, _ = layer.weight.shape
    weight = layer.weight * (1 / math.sqrt(inputs * size**2))
    if layer.down and size == 1:
        x = F.conv2d(resample(x, down=2, pad=(1, 1)), weight)
    elif layer.down:
        x = F.conv2d(resample(x, pad=(2, 2)), weight, stride=2)
    else:
        x = F.conv2d(x, weight, padding=size // 2)
    return activate(x, layer.bias, layer.activate, gain, layer.clamp)


def discriminate(network: Discriminator, x: Tensor) -> Tensor:
    for block in network.blocks:
        assert isinstance(block, DiscriminatorBlock)
        x = x if block.from_image is None else convolution(block.from_image, x)
        skip = convolution(block.skip, x, math.sqrt(0.5))
        x = skip.add_(convolution(block.conv1, convolution(block.conv0, x), math.sqrt(0.5)))
    x = convolution(network.conv, network.deviation(x))
    return dense(network.out, dense(network.dense, x.flatten(1)))


class OfficialStep(GanState):
    """The same training with the step as the official code does it."""

    def plain_optimisers(self) -> None:
        """torch's default Adam with the rates of this package's."""
        for name, optimiser in list(self.optimisers.items()):
            group = optimiser.param_groups[0]
            plain = torch.optim.Adam(group["params"], lr=group["lr"], betas=group["betas"], eps=group["eps"])
            self.optimisers[name] = plain

    def step(self) -> None:
        """Generator, path length (lazily), discriminator, R1 (lazily), average."""
        config, step = self.config, self.steps
        self.generator.requires_grad_(True)
        self.discriminator.requires_grad_(False)
        self._generator_step()
        if step % config.pl_interval == 0:
            self._path_length_step()
        self.generator.requires_grad_(False)
        self.discriminator.requires_grad_(True)
        real = self.data.batch(step, self.batch)
        self._discriminator_step(real)
        if step % config.r1_interval == 0:
            self._r1_step(real)
        self.images += self.batch
        self.steps += 1
        self._update_ema()

    def _latents(self, count: int, update: bool = False) -> Tensor:
        generator = self.generator
        z = torch.randn(count, generator.config.z_dim)
        ws = mapping(generator, z, update)
        cutoff = int(torch.randint(1, generator.config.num_ws, ()))
        if float(torch.rand(())) < self.config.mixing:
            ws[:, cutoff:] = mapping(generator, torch.randn_like(z), False)[:, cutoff:]
        return ws

    def _generator_step(self) -> None:
        image = synthesis(self.generator, self._latents(self.config.batch))
        F.softplus(-discriminate(self.discriminator, image)).mean().backward()
        self._update(self.optimisers["generator"])

    def _path_length_step(self) -> None:
        config = self.config
        ws = self._latents(config.batch // config.pl_shrink)
        image = synthesis(self.generator, ws)
        noise = torch.randn_like(image) / math.sqrt(image.shape[2] * image.shape[3])
        (gradient,) = torch.autograd.grad((image * noise).sum(), ws, create_graph=True)
        lengths = gradient.square().sum(2).mean(1).sqrt()
        self.path_mean = self.path_mean.lerp(lengths.detach().mean(), config.pl_decay)
        ((lengths - self.path_mean).square() * config.pl_weight).mean().mul(config.pl_interval).backward()
        self._update(self.optimisers["generator"])

    def _discriminator_step(self, real: Tensor) -> None:
        with torch.no_grad():
            image = synthesis(self.generator, self._latents(self.config.batch, True))
        F.softplus(discriminate(self.discriminator, image)).mean().backward()
        F.softplus(-discriminate(self.discriminator, real)).mean().backward()
        self._update(self.optimisers["discriminator"])

    def _r1_step(self, real: Tensor) -> None:
        real = real.detach().requires_grad_()
        scores = discriminate(self.discriminator, real)
        (gradient,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
        penalty = gradient.square().sum([1, 2, 3]) * (self.gamma / 2)
        penalty.mean().mul(self.config.r1_interval).backward()
        self._update(self.optimisers["discriminator"])

    def _update(self, optimiser: torch.optim.Optimizer) -> None:
        parameters = [p for p in optimiser.param_groups[0]["params"] if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in parameters])
        torch.nan_to_num(flat, nan=0, posinf=1e5, neginf=-1e5, out=flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.reshape(parameter.shape)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _update_ema(self) -> None:
        pairs: list[nn.Module] = [self.ema, self.generator]
        beta = decay_of_half_life(self.batch, self.images, 10_000, 0.05)
        for ours, theirs in zip(*(m.parameters() for m in pairs), strict=True):
            ours.copy_(theirs.lerp(ours, beta))
        for ours, theirs in zip(*(m.buffers() for m in pairs), strict=True):
            ours.copy_(theirs)

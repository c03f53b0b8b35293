"""Progressive GAN and StyleGAN 1 against a plain transcription of their papers, at resolutions without golden files.

The transcription follows the papers (arXiv 1710.10196 sec. 2 and table 2; 1812.04948 fig. 1 and app. B) with the
layouts and constants of the official code: every image is computed at full size, and faded by its level.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tf_variables import variables
from torch import Tensor

from understudy.generators.official.weights import load_official_arrays

Weights = dict[str, Tensor]
HE = math.sqrt(2)


def part(arrays: dict[str, np.ndarray], prefix: str) -> Weights:
    return {k.removeprefix(prefix): torch.from_numpy(v).double() for k, v in arrays.items() if k.startswith(prefix)}


def unit(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def kernel(w: Weights, name: str, gain: float = HE) -> Tensor:
    """[O, I, k, k] with its scale, of an ordinary convolution."""
    values = w[f"{name}/weight"]
    return values.permute(3, 2, 0, 1) * gain / math.sqrt(math.prod(values.shape[:3]))


def conv(w: Weights, name: str, x: Tensor, gain: float = HE) -> Tensor:
    k = kernel(w, name, gain)
    return F.conv2d(x, k, padding=k.shape[-1] // 2)


def dense(w: Weights, name: str, x: Tensor, gain: float = HE, rate: float = 1.0) -> Tensor:
    values = w[f"{name}/weight"]
    return x @ values * (gain * rate / math.sqrt(len(values)))


def biased(w: Weights, name: str, x: Tensor, rate: float = 1.0) -> Tensor:
    return x + rate * w[f"{name}/bias"].view(1, -1, *[1] * (x.ndim - 2))


def active(w: Weights, name: str, x: Tensor, rate: float = 1.0) -> Tensor:
    return F.leaky_relu(biased(w, name, x, rate), 0.2)


def transposed(x: Tensor, k: Tensor) -> Tensor:
    """Enlargement in one: a transposed convolution by the 4x4 sum of four shifted kernels [I, O, 3, 3]."""
    wide = sum(F.pad(k, (dx, 1 - dx, dy, 1 - dy)) for dx in (0, 1) for dy in (0, 1))
    return F.conv_transpose2d(x, wide, stride=2, padding=1)


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def blur(x: Tensor) -> Tensor:
    row = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype)
    k = (row[:, None] * row / 16).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, k, padding=1, groups=x.shape[1])


def faded(fine: Tensor, coarse: Tensor, weight: float) -> Tensor:
    return fine + (coarse - fine) * min(max(weight, 0.0), 1.0)


def images(w: Weights, maps: list[Tensor], lod: float) -> Tensor:
    """The images of all resolutions, each enlarged and faded into the next."""
    top, found = len(maps) - 1, torch.empty(0)
    for i, x in enumerate(maps):
        name = f"ToRGB_lod{top - i}"
        image = biased(w, name, conv(w, name, x, gain=1))
        found = faded(image, double(found), lod - (top - i)) if i else image
    return found


def progan(w: Weights, z: Tensor, lod: float, resolution: int) -> Tensor:
    x = dense(w, "4x4/Dense", unit(z), HE / 4).view(len(z), -1, 4, 4)
    x = unit(active(w, "4x4/Dense", x))
    x = unit(active(w, "4x4/Conv", conv(w, "4x4/Conv", x)))
    maps, edge = [x], 8
    while edge <= resolution:
        up, second = f"{edge}x{edge}/Conv0_up", f"{edge}x{edge}/Conv1"
        k = w[f"{up}/weight"].permute(3, 2, 0, 1)  # [3, 3, O, I] -> [I, O, 3, 3]
        x = unit(active(w, up, transposed(x, k * HE / math.sqrt(9 * len(k)))))
        x = unit(active(w, second, conv(w, second, x)))
        maps.append(x)
        edge *= 2
    return images(w, maps, lod)


def styled(w: Weights, name: str, noise: Tensor, x: Tensor, latent: Tensor) -> Tensor:
    x = active(w, name, x + noise * w[f"{name}/Noise/weight"][:, None, None])
    x = x - x.mean(dim=(2, 3), keepdim=True)
    x = x / (x.square().mean(dim=(2, 3), keepdim=True) + 1e-8).sqrt()
    style = biased(w, f"{name}/StyleMod", dense(w, f"{name}/StyleMod", latent, 1))
    scale, shift = style.view(len(x), 2, -1, 1, 1).unbind(1)
    return x * (scale + 1) + shift


def stylegan1(w: Weights, z: Tensor, lod: float, resolution: int, psi: float) -> Tensor:
    x = unit(z)
    for i in range(sum(k.startswith("G_mapping/") for k in w) // 2):
        x = active(w, f"G_mapping/Dense{i}", dense(w, f"G_mapping/Dense{i}", x, rate=0.01), rate=0.01)
    count = 2 * int(math.log2(resolution)) - 2
    average = w["dlatent_avg"]
    latents = [average + (x - average) * (psi if i < 8 else 1) for i in range(count)]
    s = {k.removeprefix("G_synthesis/"): v for k, v in w.items()}
    h = s["4x4/Const/const"].expand(len(z), -1, -1, -1)
    h = styled(s, "4x4/Const", s["noise0"], h, latents[0])
    h = styled(s, "4x4/Conv", s["noise1"], conv(s, "4x4/Conv", h), latents[1])
    maps = [h]
    for i in range(1, count // 2):
        edge = 4 << i
        up, second = f"{edge}x{edge}/Conv0_up", f"{edge}x{edge}/Conv1"
        large = edge >= 128  # from where on the official code enlarges and convolves in one
        h = transposed(h, kernel(s, up).transpose(0, 1)) if large else conv(s, up, double(h))
        h = styled(s, up, s[f"noise{2 * i}"], blur(h), latents[2 * i])
        h = styled(s, second, s[f"noise{2 * i + 1}"], conv(s, second, h), latents[2 * i + 1])
        maps.append(h)
    return images(s, maps, lod)


def judged(w: Weights, x: Tensor, lod: float, resolution: int, blurred: bool) -> Tensor:
    """Score of either discriminator for a batch of one group of four."""
    image, h, k, edge = x, active(w, "FromRGB_lod0", conv(w, "FromRGB_lod0", x)), 0, resolution
    while edge > 4:
        name = f"{edge}x{edge}/Conv0"
        h = active(w, name, conv(w, name, h))
        name = f"{edge}x{edge}/Conv1_down"
        h = active(w, name, F.avg_pool2d(conv(w, name, blur(h) if blurred else h), 2))
        image, k, edge = F.avg_pool2d(image, 2), k + 1, edge // 2
        h = faded(h, active(w, f"FromRGB_lod{k}", conv(w, f"FromRGB_lod{k}", image)), lod - (k - 1))
    spread = ((h - h.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean()
    h = torch.cat([h, spread.expand(len(h), 1, 4, 4)], dim=1)
    h = active(w, "4x4/Conv", conv(w, "4x4/Conv", h)).flatten(1)
    h = active(w, "4x4/Dense0", dense(w, "4x4/Dense0", h))
    return biased(w, "4x4/Dense1", dense(w, "4x4/Dense1", h, gain=1))


CASES = [(16, 64, 8, 3), (64, 100, 12, 1), (128, 256, 6, 4)]  # resolution, fmap_base, fmap_max, channels


@pytest.mark.parametrize(("resolution", "base", "most", "channels"), CASES)
@pytest.mark.parametrize("kind", ["progan", "sg1"])
def test_networks_and_fading_at_other_resolutions(
    kind: str, resolution: int, base: int, most: int, channels: int
) -> None:
    arrays = variables(kind, resolution, channels, base, most, z=9)
    for name in [name for name in arrays if "G_mapping/" in name]:
        arrays[name] = arrays[name] * 100  # as trained with a rate of 0.01
    config = {"kind": kind, "resolution": resolution, "num_channels": channels, "fmap_base": base, "fmap_max": most}
    model = load_official_arrays(config, arrays)
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(4, 9, generator=rng)
    real = torch.rand(4, channels, resolution, resolution, generator=rng) * 2 - 1
    for level in (0.0, 0.3, 1.0, 1.6, math.log2(resolution) - 2):
        if kind == "progan":
            pairs = [(model.generator(z, level=level), progan(part(arrays, "G/"), z.double(), level, resolution))]
        else:
            pairs = [
                (
                    model.generator(z, psi, level=level),
                    stylegan1(part(arrays, "G/"), z.double(), level, resolution, psi),
                )
                for psi in (1.0, 0.7)
            ]
        judge = judged(part(arrays, "D/"), real.double(), level, resolution, kind == "sg1")
        for ours, expected in [*pairs, (model.discriminator(real, level=level), judge)]:
            assert ours.shape == expected.shape
            assert (ours - expected).abs().max() < 1e-4 * expected.abs().max(), f"level {level}"

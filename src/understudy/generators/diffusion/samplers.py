"""Samplers of diffusion models: ancestral (DDPM), DDIM and DPM-Solver++ (2M), separate from the network they call.

A sampler takes a selection of the steps of a `GaussianProcess`, the last first, one evaluation of the network a step.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.diffusion.process import GaussianProcess, Network
from understudy.generators.networks.base import in_blocks, sampling_block
from understudy.io.settings import Settings
from understudy.runtime.devices import resolve_device

# Of the spacing "edm": rho, and the last and the first sigma. From pure noise one step leads to the first, since all
# that is seen above it is the mean image; the last is four grey values of noise.
RHO, NOISE = 7, (0.03, 8.0)


class SamplerConfig(Settings, frozen=True):
    """How to sample: by default in few steps. `SamplerConfig(kind="ancestral", steps=None)` is the paper's."""

    kind: Literal["ancestral", "ddim", "dpm++"] = Field("dpm++", description="the sampler")
    steps: int | None = Field(15, ge=2, description="evaluations of the network per sample, at most; None: all steps")
    spacing: Literal["even", "stride", "quadratic", "logsnr", "edm"] | None = Field(
        None,
        description="which steps: even in time (ends included), stride (0, k, 2k, ...), quadratic in time, even in"
        " log SNR, or edm: even in the 7th root of the noise; None: even for ancestral, stride for ddim, edm for dpm++",
    )
    eta: float = Field(0.0, ge=0, le=1, description="DDIM: 0 no noise, 1 as much as ancestral sampling")
    clip: Literal["none", "clamp", "dynamic"] = Field(
        "clamp", description="hold the predicted image in [-1, 1], or scale it into this range"
    )


def default_sampler(total: int) -> SamplerConfig:
    """The default sampler of a model of `total` steps: no more steps than there are."""
    sampler = SamplerConfig()
    return sampler.model_copy(update={"steps": min(sampler.steps or total, total)})


def sampler_config(kind: str | None, steps: int | None) -> SamplerConfig | None:
    """A sampler from what a user typed: kind and steps (0 for all), None for what was left out; None for nothing."""
    if kind is None and steps is None:
        return None
    given = {"kind": kind} if kind is not None else {}
    try:
        return SamplerConfig.model_validate(given if steps is None else {**given, "steps": steps or None})
    except ValidationError as error:
        problem = f"the sampler {kind or 'dpm++'} with {steps} steps is not possible ({error.errors()[0]['msg']})"
        raise UnderstudyError(problem, fix="use dpm++, ddim or ancestral, two steps or more (0 for all)") from error


# --- which steps ---


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` of `total` steps, evenly spread, the first and the last included."""
    if not 1 <= count <= total:
        problem = f"{count} sampling steps, but the model has {total}"
        raise UnderstudyError(problem, "sampler steps", f"take at most {total}")
    stride = (total - 1) / (count - 1) if count > 1 else 1.0
    # added up, not multiplied: in the official code's roundings, so that the very same steps are kept
    return [round(offset) for offset in itertools.accumulate([0.0] + [stride] * (count - 1))]


def strided(total: int, count: int) -> list[int]:
    """Steps 0, k, 2 k, ... of `total`, `count` of them, by the smallest stride k that gives this number (DDIM)."""
    reachable = [len(range(0, total, stride)) for stride in range(1, total + 1)]
    if count not in reachable:
        nearest = min(reachable, key=lambda n: abs(n - count))
        problem = f"no stride takes {count} of {total} steps"
        raise UnderstudyError(problem, "sampler steps", f"{nearest} is the nearest number")
    return list(range(0, total, reachable.index(count) + 1))


def half_log_snr(alpha_bar: np.ndarray) -> np.ndarray:
    """lambda = log(signal / noise) (Lu et al. 2022, sec. 2.1)."""
    return 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))


def select_steps(process: GaussianProcess, config: SamplerConfig) -> list[int]:
    """The steps of the process that are taken, increasing; all spacings but "even" and "stride" leave out those that
    coincide. An UnderstudyError for more steps than there are, or a stride that cannot give this number."""
    total = len(process)
    count = config.steps or total
    spacing = config.spacing or {"ancestral": "even", "ddim": "stride", "dpm++": "edm"}[config.kind]
    if spacing == "even" or count >= total:
        return evenly_spaced(total, count)
    if spacing == "stride":
        return strided(total, count)
    level = half_log_snr(process.alpha_bar)
    if spacing == "quadratic":
        wanted = np.linspace(0, math.sqrt(total - 1), count) ** 2
    elif spacing == "logsnr":
        wanted = np.interp(np.linspace(level[-1], level[0], count), level[::-1], np.arange(total)[::-1])
    else:  # the rest in sigma = exp(-lambda), the noise beside a signal of one
        sigma = np.exp(-level)
        last, first = np.clip(sigma[[0, -1]], *NOISE) ** (1 / RHO)
        between = np.linspace(last, first, count - 1) ** RHO  # Karras et al. 2022 (arXiv 2206.00364), eq. 5
        wanted = np.append(np.interp(between, sigma, np.arange(total)), total - 1)
    return [int(step) for step in np.unique(np.rint(wanted))]


# --- the samplers: x_(t-1) for every step t of the process, the last first ---


def limit_clean(x0: Tensor, clip: str) -> Tensor:
    """The predicted x_0 [N, ...] brought into [-1, 1]."""
    if clip == "none":
        return x0
    if clip == "clamp":
        return x0.clamp(-1, 1)
    bound = torch.quantile(x0.flatten(1).abs().float(), 0.995, dim=1).clamp_min(1)  # Saharia et al. 2022, sec. 2.3
    bound = bound.reshape(-1, *[1] * (x0.ndim - 1)).to(x0.dtype)  # [N, 1, 1, 1], at least 1
    return x0.clamp(-bound, bound) / bound


def predict(
    network: Network, process: GaussianProcess, x: Tensor, step: int, clip: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The step as a tensor t [N], the network's output at x_t = x [N, C, ...], and the x_0 that it amounts to."""
    t = torch.full((len(x),), step, device=x.device)
    output = network(x, process.network_time(t))
    return t, output, limit_clean(process.predicted_clean(output, x, t), clip)


def ancestral_step(
    network: Network, process: GaussianProcess, x: Tensor, step: int, clip: str = "clamp"
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and logarithm of the variance of the model's p(x_(t-1) | x_t = x), and its x_0 (DDPM algorithm 2)."""
    t, output, x0 = predict(network, process, x, step, clip)
    return process.posterior_mean(x0, x, t), process.log_variance(output, x, t).expand_as(x), x0


def ancestral_steps(
    network: Network, process: GaussianProcess, x: Tensor, config: SamplerConfig, noise: Callable[[], Tensor]
) -> Iterator[Tensor]:
    """DDPM algorithm 2; `noise` gives fresh N(0, 1) like x."""
    for step in reversed(range(len(process))):
        mean, log_variance, _ = ancestral_step(network, process, x, step, config.clip)
        x = mean + (0.5 * log_variance).exp() * noise() if step else mean  # no noise behind the last step
        yield x


def ddim_steps(
    network: Network, process: GaussianProcess, x: Tensor, config: SamplerConfig, noise: Callable[[], Tensor]
) -> Iterator[Tensor]:
    """Song et al. 2021 (arXiv 2010.02502) eq. 12 and 16."""
    before = np.append(1.0, process.alpha_bar[:-1])
    for step in reversed(range(len(process))):
        t, _, x0 = predict(network, process, x, step, config.clip)
        level, next_level = process.alpha_bar[step], before[step]
        deviation = config.eta * math.sqrt((1 - next_level) / (1 - level) * (1 - level / next_level))  # eq. 16
        direction = process.noise_in(x, t, x0)  # the predicted noise, after x_0 was limited
        x = x0 * math.sqrt(next_level) + direction * math.sqrt(max(1 - next_level - deviation**2, 0))  # eq. 12
        if deviation and step:
            x = x + deviation * noise()
        yield x


def dpm_solver_steps(
    network: Network, process: GaussianProcess, x: Tensor, config: SamplerConfig, noise: Callable[[], Tensor]
) -> Iterator[Tensor]:
    """DPM-Solver++ (2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    The first step has no step before it, and the last ends without noise, at infinite lambda: both are of first order.
    Between them x_0 is extrapolated, by no more than the step before was long: where steps grow in lambda, as at the
    end of an even spacing in time, the plain formula overshoots.
    """
    signal, sigma = np.sqrt(process.alpha_bar), np.sqrt(1 - process.alpha_bar)  # alpha and sigma of the paper
    level = half_log_snr(process.alpha_bar)
    earlier: Tensor | None = None
    for step in reversed(range(len(process))):
        _, _, x0 = predict(network, process, x, step, config.clip)
        if step == 0:
            x = x0
        else:
            h, data = level[step - 1] - level[step], x0  # h: the step in lambda
            if earlier is not None:
                ratio = h / (level[step] - level[step + 1])  # of this step to the one before
                data = x0 + (x0 - earlier) * (0.5 * min(ratio, 1.0))
            x = x * (sigma[step - 1] / sigma[step]) - data * (signal[step - 1] * math.expm1(-h))
            earlier = x0
        yield x


_SAMPLERS = {"ancestral": ancestral_steps, "ddim": ddim_steps, "dpm++": dpm_solver_steps}


# --- sampling ---


class NoiseStreams:
    """One stream of noise for each of these samples of a seed."""

    # The first image comes from NumPy and is the same on every device; what the steps add is drawn on the device.

    def __init__(self, shape: tuple[int, ...], seed: int, numbers: range, device: torch.device) -> None:
        self.shape, self.device = shape, device
        self.keys = [[seed, number] for number in numbers]
        self.generators = [
            torch.Generator(device).manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
            for key in self.keys
        ]

    def first(self) -> Tensor:
        """x_T, N(0, 1) [count, *shape]."""
        rows = [np.random.default_rng(key).standard_normal(self.shape, dtype=np.float32) for key in self.keys]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def next(self) -> Tensor:
        """Fresh N(0, 1) [count, *shape]."""
        return torch.stack([torch.randn(self.shape, generator=g, device=self.device) for g in self.generators])


@torch.no_grad()
def sample(
    network: Network, process: GaussianProcess, config: SamplerConfig, shape: tuple[int, ...], count: int, seed: int,
    start: int = 0, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Samples start ... start + count - 1 of a seed, float32 [count, *shape] on the CPU; shape: (C, H, W).

    Sample i of a seed is the same on one device bit by bit, whatever is asked for: its noise comes from a stream of its
    own, keyed by (seed, i), and it is always computed with the same neighbours. dtype: of the network's activations,
    by which it is told how many samples are computed together. An UnderstudyError for steps that the process cannot
    give.
    """
    device = resolve_device(device)
    kept = process.kept(select_steps(process, config))

    def draw(numbers: range) -> Tensor:
        streams = NoiseStreams(shape, seed, numbers, device)
        *_, final = _SAMPLERS[config.kind](network, kept, streams.first(), config, streams.next)
        return final.float().cpu()

    return in_blocks(draw, start, count, sampling_block(shape[-1], dtype, device)).reshape(count, *shape)

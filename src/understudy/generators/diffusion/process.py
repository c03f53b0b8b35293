"""Gaussian diffusion: noise schedules, the forward process, fewer steps, and losses.

The equations are those of Ho et al. 2020 (arXiv 2006.11239, "DDPM") and Nichol & Dhariwal 2021 (arXiv 2102.09672,
"IDDPM"), with the conventions of guided diffusion. Tables are computed in float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import UnderstudyError

Prediction = Literal["noise", "velocity"]
NoiseSchedule = Literal["linear", "cosine"]
Network = Callable[[Tensor, Tensor], Tensor]
"""(noised image [N, C, ...], network time [N]) -> predicted noise [N, C, ...], or [N, 2 C, ...] with the variance"""

_BIN = 1 / 255  # half the width of a grey value in [-1, 1]


def noise_schedule(kind: NoiseSchedule, steps: int) -> NDArray[np.float64]:
    """betas [steps], the variance of the noise that each step adds; an UnderstudyError for too few linear steps."""
    if kind == "linear":  # DDPM's, for another number of steps scaled so that the last image is as noisy
        scale = 1000 / steps
        if scale * 0.02 >= 1:
            problem = f"the linear schedule cannot have {steps} steps"
            raise UnderstudyError(problem, "steps", "take more than 20, or cosine")
        return np.linspace(scale * 1e-4, scale * 0.02, steps)
    # IDDPM eq. 17: alpha_bar = cos^2((t / T + s) / (1 + s) * pi / 2), s = 0.008
    level = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - level[1:] / level[:-1], 0.999)


class GaussianProcess:
    """The forward process q and its posterior on all or some of the steps it was trained with."""

    def __init__(
        self,
        betas: NDArray[np.float64],  # [T], the variance that each step adds (DDPM eq. 2)
        timesteps: Sequence[int] | None = None,  # the steps [T] of the network that these are; None: 0 ... T - 1
        learned_range: bool = False,  # the network predicts the variance (IDDPM eq. 15); else it is beta
        time_scale: float = 1.0,  # by which a step is multiplied for the network
        vlb_weight: float = 1.0,  # weight of the variational bound in the hybrid loss (IDDPM eq. 16)
        # What the network predicts: the noise (DDPM), or the velocity v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar)
        # x_0 (Salimans & Ho 2022, arXiv 2202.00512). At high noise an error of the noise is magnified without bound in
        # x_0, that of v is not.
        prediction: Prediction = "noise",
    ) -> None:
        self.prediction: Prediction = prediction
        self.betas = np.asarray(betas, np.float64)
        if self.betas.ndim != 1 or not ((self.betas > 0) & (self.betas < 1)).all():
            raise UnderstudyError("the noise schedule must be numbers between 0 and 1", where="betas")
        self.timesteps = np.arange(len(betas)) if timesteps is None else np.asarray(timesteps, np.int64)
        self.learned_range, self.time_scale, self.vlb_weight = learned_range, time_scale, vlb_weight
        self.alpha_bar = np.cumprod(1 - self.betas)  # [T], the part of the variance that is still signal (DDPM eq. 4)
        before = np.append(1.0, self.alpha_bar[:-1])
        self.posterior_variance = self.betas * (1 - before) / (1 - self.alpha_bar)  # DDPM eq. 7
        # At t = 0 the posterior variance is 0; where a logarithm is needed, that of t = 1 stands in (IDDPM sec. 3.1).
        second = self.posterior_variance[1:2]
        known = np.append(second, self.posterior_variance[1:])
        self._arrays: dict[str, NDArray[Any]] = {
            "timesteps": self.timesteps,
            "alpha_bar": self.alpha_bar,
            "signal": np.sqrt(self.alpha_bar),
            "noise": np.sqrt(1 - self.alpha_bar),
            "1/signal": np.sqrt(1 / self.alpha_bar),
            "noise/signal": np.sqrt(1 / self.alpha_bar - 1),
            "snr": self.alpha_bar / (1 - self.alpha_bar),
            "posterior_mean_x0": self.betas * np.sqrt(before) / (1 - self.alpha_bar),
            "posterior_mean_xt": (1 - before) * np.sqrt(1 - self.betas) / (1 - self.alpha_bar),
            "smallest_log_variance": np.log(known) if len(known) == len(self.betas) else np.log(self.betas),
            "largest_log_variance": np.log(self.betas),
            "fixed_log_variance": np.log(np.append(second, self.betas[1:])),
        }
        self._tables: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def __len__(self) -> int:
        return len(self.betas)

    def kept(self, steps: Sequence[int]) -> GaussianProcess:
        """The same process on an increasing selection of its steps: betas that give the kept alpha_bar (IDDPM 3.4)."""
        if not len(steps) or any(b <= a for a, b in itertools.pairwise(steps)):
            raise UnderstudyError("the steps to keep must increase", where="sampler steps")
        level = self.alpha_bar[list(steps)]
        betas = 1 - level / np.append(1.0, level[:-1])
        timesteps = [int(self.timesteps[i]) for i in steps]
        return GaussianProcess(betas, timesteps, self.learned_range, self.time_scale, self.vlb_weight, self.prediction)

    def at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Values of a table ("snr", ...) at steps t [N], in the type of `like` [N, ...], to be multiplied with it."""
        key = (name, like.dtype, t.device)
        if key not in self._tables:
            self._tables[key] = torch.from_numpy(self._arrays[name]).to(like.dtype).to(t.device)
        return self._tables[key][t].reshape(-1, *[1] * (like.ndim - 1))

    def network_time(self, t: Tensor) -> Tensor:
        """The network's time at steps t [N] of this process, float32 [N]."""
        return self.at("timesteps", t, torch.empty(0)) * self.time_scale

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise (DDPM eq. 4)."""
        return self.at("signal", t, x0) * x0 + self.at("noise", t, x0) * noise

    def clean(self, xt: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_0 from x_t and the noise in it (DDPM eq. 4 solved for x_0)."""
        return self.at("1/signal", t, xt) * xt - self.at("noise/signal", t, xt) * noise

    def velocity(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """v of x_0 and the noise (Salimans & Ho 2022, sec. 4)."""
        return self.at("signal", t, x0) * noise - self.at("noise", t, x0) * x0

    def predicted_clean(self, output: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """x_0 that the network's output for x_t amounts to, without limits."""
        found = output[:, : xt.shape[1]]
        if self.prediction == "velocity":
            return self.at("signal", t, xt) * xt - self.at("noise", t, xt) * found
        return self.clean(xt, t, found)

    def noise_in(self, xt: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """The noise in x_t if x_0 is what is under it (the inverse of `clean`)."""
        return (self.at("1/signal", t, xt) * xt - x0) / self.at("noise/signal", t, xt)

    def posterior_mean(self, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_(t-1) | x_t, x_0) (DDPM eq. 7)."""
        return self.at("posterior_mean_x0", t, xt) * x0 + self.at("posterior_mean_xt", t, xt) * xt

    def log_variance(self, output: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """Logarithm of the model's variance of x_(t-1), broadcastable to x_t: learned (IDDPM eq. 15) or beta."""
        if not self.learned_range:
            return self.at("fixed_log_variance", t, xt)
        part = (output[:, xt.shape[1] :] + 1) / 2  # 0: the smallest possible variance, 1: beta
        low, high = self.at("smallest_log_variance", t, xt), self.at("largest_log_variance", t, xt)
        return part * high + (1 - part) * low


# --- losses ---


def per_sample(x: Tensor) -> Tensor:
    """Mean of x [N, ...] over everything but the samples."""
    return x.flatten(1).mean(dim=1)


def normal_kl(mean: Tensor, log_variance: Tensor, other: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(other, other_variance)) in nats, element by element."""
    ratio = (log_variance - other_log_variance).exp()
    distance = (mean - other).square() * (-other_log_variance).exp()
    return 0.5 * (other_log_variance - log_variance + ratio + distance - 1)


def normal_cdf(x: Tensor) -> Tensor:
    """Distribution function of N(0, 1) in the tanh approximation (error below 3e-4) of the official code."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def decoder_nll(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log p(x_0 | x_1) in nats of 8-bit grey values in [-1, 1], element by element (DDPM eq. 13)."""
    distance, rate = x0 - mean, (-0.5 * log_variance).exp()
    below_top = normal_cdf((distance + _BIN) * rate)  # the bins at the ends reach to infinity
    above_bottom = 1 - normal_cdf((distance - _BIN) * rate)
    inside = below_top - normal_cdf((distance - _BIN) * rate)
    mass = torch.where(x0 < -0.999, below_top, torch.where(x0 > 0.999, above_bottom, inside))
    return -mass.clamp_min(1e-12).log()


def variational_bound(process: GaussianProcess, output: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """One term of the variational bound in bits per dimension, [N] (DDPM eq. 5): L_(t-1), and at t = 0 L_0."""
    mean = process.posterior_mean(process.predicted_clean(output, xt, t), xt, t)
    log_variance = process.log_variance(output, xt, t).expand_as(mean)
    true_mean = process.posterior_mean(x0, xt, t)
    divergence = normal_kl(true_mean, process.at("smallest_log_variance", t, xt), mean, log_variance)
    first = (t == 0).reshape(-1, *[1] * (x0.ndim - 1))
    return per_sample(torch.where(first, decoder_nll(x0, mean, log_variance), divergence)) / math.log(2)


def training_losses(
    network: Network, process: GaussianProcess, x0: Tensor, t: Tensor, noise: Tensor, min_snr: float | None = None
) -> dict[str, Tensor]:
    """Losses [N] of clean images x0 [N, C, ...] with N(0, 1) noise at steps t [N] of the process.

    Args:
        min_snr: weigh the squared error of x_0 by min(SNR, min_snr), which is min(SNR, min_snr) / SNR for the noise and
            min(SNR, min_snr) / (SNR + 1) for the velocity (Hang et al. 2023, arXiv 2303.09556, sec. 3.4, who take 5);
            None for all steps alike.

    Returns:
        mse: of what is predicted, the noise (DDPM eq. 14) or the velocity. With learned variance also vb: the
        variational bound with the mean held fixed, weighted by `process.vlb_weight` (IDDPM eq. 16). loss: their sum.
    """
    xt = process.noised(x0, t, noise)
    output = network(xt, process.network_time(t))
    predicted = output[:, : x0.shape[1]]
    velocity = process.prediction == "velocity"
    target = process.velocity(x0, t, noise) if velocity else noise
    losses = {"mse": per_sample((target - predicted).square())}
    loss = losses["mse"]
    if min_snr is not None:
        snr = process.at("snr", t, loss)
        loss = loss * (snr.clamp_max(min_snr) / (snr + 1) if velocity else (min_snr / snr).clamp_max(1))
    if process.learned_range:
        frozen = torch.cat([predicted.detach(), output[:, x0.shape[1] :]], dim=1)
        losses["vb"] = variational_bound(process, frozen, x0, xt, t) * process.vlb_weight
        loss = loss + losses["vb"]
    return losses | {"loss": loss}

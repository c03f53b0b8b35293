"""From latents to styles in StyleGAN 1, 2 and 3: the mapping network, its running mean, and style mixing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class MappingNetwork(nn.Module):
    """z [N, z_dim] -> w [N, w_dim]; keeps the running mean of w, which truncation draws towards.

    Args:
        sizes: z_dim, widths of the layers between, w_dim. layer: makes one from its numbers of inputs and outputs.
        normalise: what happens to z first. beta: decay of the running mean per batch.
    """

    w_avg: Tensor

    def __init__(
        self, sizes: Sequence[int], layer: Callable[[int, int], nn.Module], normalise: Callable[[Tensor], Tensor],
        beta: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers = nn.ModuleList(layer(a, b) for a, b in itertools.pairwise(sizes))
        self.normalise, self.beta = normalise, beta
        self.register_buffer("w_avg", torch.zeros(sizes[-1]))

    def forward(self, z: Tensor) -> Tensor:
        x = self.normalise(z)
        for layer in self.layers:
            x = layer(x)
        return x

    def update_average(self, w: Tensor) -> None:
        """Moves the running mean towards the mean of w [N, w_dim]."""
        self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.beta))


class Styled:
    """What a generator with a mapping network can do; it also has `config.num_ws`, the number of w vectors."""

    config: Any
    mapping: MappingNetwork

    def broadcast(self, w: Tensor) -> Tensor:
        """w [N, w_dim] -> ws [N, num_ws, w_dim]."""
        return w[:, None].expand(-1, self.config.num_ws, -1)

    def draw_styles(self, count: int, rng: torch.Generator, mixing: float, layers: int) -> dict[str, Tensor]:
        """Latents of a batch and where their styles change, in a fixed order, on the generator's device.

        Args:
            mixing: probability in [0, 1] that the styles of this batch are mixed, at one place for the whole batch
                (Karras et al. 2019, sec. 3.1). layers: number of w vectors in use; styles change within them.

        Returns:
            z, other [count, z_dim]; cutoff [], the first w of `other` (num_ws: none).
        """
        size, device = self.config.z_dim, rng.device
        z, other = (torch.randn(count, size, generator=rng, device=device) for _ in range(2))
        cutoff = torch.randint(1, layers, (), generator=rng, device=device)
        if float(torch.rand((), generator=rng, device=device)) >= mixing:
            cutoff.fill_(self.config.num_ws)
        return {"z": z, "other": other, "cutoff": cutoff}

    def ws(self, inputs: Mapping[str, Tensor], track: bool = False) -> Tensor:
        """Inputs as from `draw_styles` (or only z) -> ws [N, num_ws, w_dim], styles mixed; `track` moves the running
        mean of w."""
        z, device, mix = inputs["z"], self.mapping.w_avg.device, "other" in inputs
        # Both, wherever the styles change: one pass reads the weights once, and every step does the same.
        both = self.mapping((torch.cat([z, inputs["other"]]) if mix else z).to(device))
        w, other = both[: len(z)], both[len(z) :]
        if track:
            self.mapping.update_average(w)
        if not mix:
            return self.broadcast(w)
        own = torch.arange(self.config.num_ws, device=device) < inputs["cutoff"].to(device)
        return torch.where(own[:, None], w[:, None], other[:, None])

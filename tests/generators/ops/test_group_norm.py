"""Group norm, scale and shift, and SiLU in one against the separate operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.generators.ops.group_norm import GroupNorm


def plain_norm(norm: GroupNorm, x: Tensor, film: Tensor | None, silu: bool) -> Tensor:
    y = F.group_norm(x, norm.groups, norm.weight.to(x.dtype), norm.bias.to(x.dtype))
    if film is not None:
        scale, shift = film.to(x.dtype)[:, :, None, None].chunk(2, dim=1)
        y = y * (1 + scale) + shift
    return F.silu(y) if silu else y


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("with_film", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_norms_equal_the_separate_operations(silu: bool, with_film: bool, dtype: torch.dtype, tolerance: float) -> None:
    """In float64 (as in bfloat16) the norm is our own autograd function, in float32 it is torch's."""
    norm = GroupNorm(64, silu)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm = norm.to(dtype)
    x = (torch.randn(3, 64, 4, 6, dtype=dtype) * 2 + 1).contiguous(memory_format=torch.channels_last)
    film = torch.randn(3, 128, dtype=dtype, requires_grad=True) if with_film else None
    inputs = [x.requires_grad_(), norm.weight, norm.bias, *([film] if film is not None else [])]
    direction = torch.randn_like(x)
    ours, plain = norm(x, film), plain_norm(norm, x, film, silu)
    assert torch.allclose(ours, plain, atol=tolerance)
    found, wanted = (torch.autograd.grad((y * direction).sum(), inputs) for y in (ours, plain))
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=tolerance * 20 * b.abs().max().item())


def test_bfloat16_norm_is_exact_to_its_rounding() -> None:
    norm = GroupNorm(32)
    x = (torch.randn(2, 32, 32, 32) + 3).bfloat16()  # a mean of three deviations: sums of squares cancel
    wanted = plain_norm(norm, x.float(), None, True)
    error = (norm(x.contiguous(memory_format=torch.channels_last)).float() - wanted).abs()
    assert error.mean() < 0.005
    assert error.max() < 0.06

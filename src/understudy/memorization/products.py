"""Products of 8-bit images without any rounding, on every machine.

Pixels are shifted from 0..255 to int8 (-128..127). Every product of two is at most 2^14 in size, so that 65,536 of them
stay within 2^30: one int32 product a channel of up to 256 x 256 pixels, and larger channels in pieces that are added in
int64. (An int32 product of 131,072 background pixels would be 2^31: it silently becomes negative.)

The kernel is `torch._int_mm` (VNNI or AMX on a processor, tensor cores on a GPU). A processor without VNNI may saturate
its 16-bit intermediate sums, so the kernel is first tried on the worst cases; where it is absent or fails, float32
products of 1,024 terms take its place. These are exact too: all partial sums are integers up to 2^24.
"""

from __future__ import annotations

from functools import lru_cache

import torch

TERMS = 1 << 16  # of an int32 product: 2^16 x 2^14 = 2^30
FLOAT_TERMS = 1 << 10  # of a float32 product: 2^10 x 2^14 = 2^24, up to which float32 holds every integer


def signed(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels 0..255 as int8 -128..127 (one bit turned over)."""
    return (pixels ^ 128).view(torch.int8)


def product(a: torch.Tensor, b: torch.Tensor, exact_kernel: bool | None = None) -> torch.Tensor:
    """All dot products of two sets of int8 vectors, exactly.

    Args:
        a: int8 [m, K].
        b: int8 [n, K], on the same device.
        exact_kernel: use `torch._int_mm`; None asks `kernel_is_exact`, tests force either way.

    Returns:
        int32 [m, n] for K up to 65,536, otherwise int64.
    """
    if exact_kernel is None:
        exact_kernel = kernel_is_exact(a.device)
    multiply = _integer_product if exact_kernel else _float_product
    if a.shape[1] <= TERMS:
        return multiply(a, b)
    total = torch.zeros((len(a), len(b)), dtype=torch.int64, device=a.device)
    for start in range(0, a.shape[1], TERMS):
        piece = slice(start, start + TERMS)
        total += multiply(a[:, piece].contiguous(), b[:, piece].contiguous())
    return total


def _integer_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    m, n = len(a), len(b)
    if a.device.type == "cpu" and a.shape[1] > 1:  # vectors of one pixel: torch 2.13 returns garbage
        return torch._int_mm(a, b.t())
    # cuBLAS: more than 16 rows, the other sizes in multiples of 8.
    a, b = _padded(a, max(32, m)), _padded(b, n)
    return torch._int_mm(a, b.t())[:m, :n]


def _padded(a: torch.Tensor, rows: int) -> torch.Tensor:
    """Zeros appended until both sizes are multiples of 16."""
    rows, columns = -(-max(rows, 16) // 16) * 16, -(-a.shape[1] // 16) * 16
    return torch.nn.functional.pad(a, (0, columns - a.shape[1], 0, rows - len(a))).contiguous()


def _float_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    total = torch.zeros((len(a), len(b)), dtype=torch.int32, device=a.device)
    for start in range(0, a.shape[1], FLOAT_TERMS):
        piece = slice(start, start + FLOAT_TERMS)
        total += (a[:, piece].float() @ b[:, piece].float().t()).to(torch.int32)
    return total


@lru_cache
def kernel_is_exact(device: torch.device) -> bool:
    """Whether `torch._int_mm` exists on the device and is right on the worst cases: all low, all high, mixed."""
    generator = torch.Generator().manual_seed(0)
    for m, n, terms in ((1, 1, TERMS), (7, 8, 1), (33, 17, 1000), (64, 128, 4096)):
        noise = torch.randint(0, 2, (2, max(m, n), terms), generator=generator) * 255 - 128
        for a, b in ((noise[0], noise[1]), (noise[0], noise[0]), (noise[0] * 0 - 128, noise[1] * 0 - 128),
                     (noise[0] * 0 + 127, noise[1] * 0 + 127), (noise[0] * 0 + 127, noise[1] * 0 - 128)):  # fmt: skip
            a, b = a[:m].to(torch.int8), b[:n].to(torch.int8)
            try:
                found = _integer_product(a.to(device), b.to(device)).cpu()
            except (RuntimeError, NotImplementedError, AttributeError):  # no such kernel in this build
                return False
            if not torch.equal(found.double(), a.double() @ b.double().t()):
                return False
    return True

"""No training step waits for its device: on the "meta" device any look at a value is an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import SMALL, small

from understudy.generators.registry import network_type
from understudy.slices import SliceSet

META = torch.device("meta")


@pytest.fixture(autouse=True)
def _unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimisers have no fused kernels for this device; that they do not look at values is PyTorch's business."""
    for name in ("Adam", "AdamW"):
        original = getattr(torch.optim, name)
        monkeypatch.setattr(torch.optim, name, lambda *a, _o=original, **k: _o(*a, **k | {"fused": False}))


def test_the_device_refuses_to_be_looked_at() -> None:
    x = torch.ones(3, device=META)
    for look in (lambda: float(x[0]), lambda: bool(x.isfinite().all()), x.tolist, x.cpu, x.nonzero):
        with pytest.raises((RuntimeError, NotImplementedError)):
            look()


@pytest.mark.parametrize("kind", SMALL)
def test_a_generators_step_does_not_wait(kind: str, slices: SliceSet) -> None:
    adaptive = {"mode": "adaptive", "p": 0.3, "kimg": 1, "cutout": 0.2, "interval": 1000}
    special = {"augment": adaptive, "annotation_noise": 0.1}
    special = {"augment": {"p": 0.5}} if kind == "diffusion" else special
    model, config = small(kind, **special)
    state = network_type(kind).state(slices, np.arange(len(slices)), model, config, META)
    for _ in range(3):
        state.step()
    assert state.steps == 3
    assert state.stats  # noted, and read when a line of the history is due


def test_batches_are_read_ahead_for_another_device(slices: SliceSet) -> None:
    model, config = small("stylegan2")
    rows = np.arange(len(slices))
    here, there = (
        network_type("stylegan2").state(slices, rows, model, config, device).data
        for device in (torch.device("cpu"), META)
    )
    for step, size in ((0, 8), (1, 8), (2, 4), (2, 4), (7, 4)):
        batch = there.batch(step, size)
        assert (batch.device, batch.shape) == (META, here.batch(step, size).shape)
        (asked, pending) = there._pending
        assert asked == (step + 1, size)
        assert torch.equal(pending.result(), here.batch(*asked))

"""What networks say of slices: against the losses computed by hand, one slice at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import small

from understudy.errors import UnderstudyError
from understudy.generators.builtin import NOISE_LEVELS
from understudy.generators.folder import save_model
from understudy.generators.joint import encode
from understudy.generators.membership import MembershipScores, supports_membership_inference
from understudy.generators.registry import build
from understudy.io.files import read_json, write_json
from understudy.slices import SliceSet, SliceWriter, evenly_coded

CLASSES = evenly_coded({1: "lesion"})


@pytest.fixture
def slices(tmp_path: Path) -> SliceSet:
    rng = np.random.default_rng(0)
    writer = SliceWriter(tmp_path / "s", ("T1w", "FLAIR"), CLASSES, 16)
    images = rng.integers(0, 255, (5, 2, 16, 16), dtype=np.uint8)
    writer.append(images, rng.integers(0, 2, (5, 16, 16)).astype(np.uint8), [{"id": str(i)} for i in range(5)])
    return writer.close()


def saved(kind: str, folder: Path, discriminator: bool = True, network: Any = None) -> Any:
    config = small(kind)[0]
    network = network or build(config, seed=1)
    record = {
        "kind": kind, "model": config.model_dump(mode="json"), "channels": ["FLAIR", "T1w"], "annotation": "coded",
        "classes": [vars(c) for c in CLASSES], "training": None,
    }  # fmt: skip
    kept = network.discriminator if discriminator and kind != "diffusion" else None
    save_model(folder, network.generator, record, kept)
    return network


def joint(slices: SliceSet) -> torch.Tensor:
    images, labels = slices.read(slice(0, len(slices)))
    return encode(images[:, [1, 0]], labels, CLASSES, "coded")


@pytest.mark.parametrize("kind", ["progan", "stylegan1"])
def test_a_snapshot_that_still_grows_judges_at_its_own_resolution(kind: str, slices: SliceSet, tmp_path: Path) -> None:
    network = build(small(kind)[0], seed=1)
    network.generator.level.fill_(1.0)
    saved(kind, tmp_path / "m", network=network)
    found, _ = MembershipScores(tmp_path / "m")(slices, np.arange(5))
    small_images = torch.nn.functional.avg_pool2d(joint(slices), 2)
    with torch.no_grad():
        alone = [float(network.discriminator(x[None], level=1.0)) for x in small_images]
        whole = [float(network.discriminator(x[None])) for x in joint(slices)]
    assert found == pytest.approx(alone, rel=1e-3, abs=1e-4)
    assert found != pytest.approx(whole, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", ["progan", "stylegan1", "stylegan2", "stylegan3"])
def test_a_discriminator_judges_each_slice_for_itself(kind: str, slices: SliceSet, tmp_path: Path) -> None:
    network = saved(kind, tmp_path / "m")
    found, name = MembershipScores(tmp_path / "m")(slices, np.arange(5))
    with torch.no_grad():
        alone = [float(network.discriminator(x[None])) for x in joint(slices)]
    assert found == pytest.approx(alone, rel=1e-3, abs=1e-4)
    assert name == "discriminator score"
    some, _ = MembershipScores(tmp_path / "m")(slices, np.array([3, 1]))
    assert some == pytest.approx(found[[3, 1]], rel=1e-4, abs=1e-5)


def test_a_denoiser_is_judged_by_its_error(slices: SliceSet, tmp_path: Path) -> None:
    network = saved("diffusion", tmp_path / "m")
    found, name = MembershipScores(tmp_path / "m")(slices, np.arange(5))
    process = small("diffusion")[0].process()
    steps = np.linspace(0, len(process) - 1, NOISE_LEVELS + 2)[1:-1].astype(int)
    noises = torch.randn((NOISE_LEVELS, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    clean, expected = joint(slices), np.zeros(5)
    network.generator.eval()
    for step, noise in zip(steps, noises, strict=True):
        signal = float(process.alpha_bar[step]) ** 0.5
        noised = signal * clean + (1 - signal**2) ** 0.5 * noise
        time = torch.full((5,), float(process.timesteps[step]) * process.time_scale)
        with torch.no_grad():
            said = network.generator(noised, time)[:, :3]
        target = noise if process.prediction == "noise" else signal * noise - (1 - signal**2) ** 0.5 * clean
        expected -= (said - target).square().mean(dim=(1, 2, 3)).numpy() / NOISE_LEVELS
    assert found == pytest.approx(expected, rel=1e-4)
    assert name == "denoising error"


def test_without_a_discriminator_a_gan_cannot_score(slices: SliceSet, tmp_path: Path) -> None:
    saved("stylegan2", tmp_path / "m", discriminator=False)
    assert not supports_membership_inference(tmp_path / "m")
    with pytest.raises(UnderstudyError, match="discriminator"):
        MembershipScores(tmp_path / "m")(slices, np.arange(2))
    saved("diffusion", tmp_path / "d")
    assert supports_membership_inference(tmp_path / "d")
    config = read_json(tmp_path / "d" / "config.json")
    write_json(tmp_path / "d" / "config.json", {**config, "channels": ["T2w", "T1w"]})
    with pytest.raises(UnderstudyError, match="the slices have"):
        MembershipScores(tmp_path / "d")(slices, np.arange(2))

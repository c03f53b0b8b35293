"""Diffusion models for `diffusers`: names of weights, what is refused, and (with the package) the same samples."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from understudy.errors import UnderstudyError
from understudy.generators.diffusion.diffusers import export_diffusers, scheduler_config, unet_config
from understudy.generators.diffusion.samplers import NoiseStreams, SamplerConfig
from understudy.generators.folder import save_model
from understudy.generators.networks.unet import DiffusionConfig, build
from understudy.generators.registry import build as registry_build
from understudy.generators.registry import model_config, network_type
from understudy.slices import evenly_coded

SMALL = {"resolution": 16, "channels": 3, "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2),
         "attention_resolutions": (8,), "steps": 100}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {}, "velocity of a cosine schedule": {"prediction": "velocity", "noise_schedule": "cosine"},
    "variance, new order of heads": {"learn_sigma": True, "split_heads_first": False},
    "shifts only, two blocks": {"scale_shift_norm": False, "num_res_blocks": 2},
    "attention everywhere, three levels": {
        "attention_resolutions": (16, 8, 4), "channel_mult": (1, 2, 2), "num_head_channels": 16
    },
    "residual blocks resample": {"resblock_updown": True, "channel_mult": (1, 2, 2)},
}  # fmt: skip


def trained(folder: Path, **changed: Any) -> tuple[Any, Path]:
    """A network whose layers all do something, as after a training."""
    config = DiffusionConfig(**{**SMALL, **changed})
    network: Any = build(config, 1)
    generator = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        with torch.no_grad():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    classes = [asdict(c) for c in evenly_coded({1: "lesion"})]
    record = {"kind": "diffusion", "model": config.model_dump(mode="json"), "channels": ["T1w", "FLAIR"],
              "classes": classes, "annotation": "coded", "training": None, "spacing": None, "axes": None}  # fmt: skip
    save_model(folder, network.generator, record)
    return network.generator.eval(), folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_weight_is_lost(tmp_path: Path, variant: str) -> None:
    network, folder = trained(tmp_path / "model", **VARIANTS[variant])
    out = export_diffusers(folder, tmp_path / "out")
    written = safetensors.torch.load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    left_out = 3 * (32 * 9 + 1) if network.config.learn_sigma else 0  # what predicts the variance
    assert sum(t.numel() for t in written.values()) == sum(p.numel() for p in network.parameters()) - left_out
    assert "NOT RELEASED" in (out / "README.md").read_text()


@pytest.mark.parametrize("variant", VARIANTS)
def test_diffusers_draws_the_same_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    network, folder = trained(tmp_path / "model", **VARIANTS[variant])
    out = export_diffusers(folder, tmp_path / "out")
    noise = NoiseStreams((3, 16, 16), 5, range(4), torch.device("cpu")).first()
    drawn = "diffusers.pipelines.ddim.pipeline_ddim.randn_tensor"
    monkeypatch.setattr(drawn, lambda shape, **_: noise.reshape(shape))
    pipeline = diffusers.DDIMPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(batch_size=4, num_inference_steps=10, use_clipped_model_output=True, output_type="np").images
    ours = network.sample(4, 5, sampler=SamplerConfig(kind="ddim", steps=10), dtype=torch.float32)
    assert ours.std() > 0.1
    np.testing.assert_allclose(found, (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), rtol=0, atol=1e-4)
    t = torch.full((4,), 70)
    with torch.no_grad():
        torch.testing.assert_close(pipeline.unet(noise, t[0]).sample, network(noise, t)[:, :3], rtol=0, atol=1e-4)


def test_the_schedule_is_the_one_of_the_training() -> None:
    said = scheduler_config(DiffusionConfig(**{**SMALL, "prediction": "velocity"}))
    found = np.linspace(said["beta_start"], said["beta_end"], said["num_train_timesteps"])
    np.testing.assert_allclose(found, DiffusionConfig(**SMALL).process().betas)
    assert said["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"channel_mult": (1, 2, 3), "attention_resolutions": (8, 4)}, "model.num_heads"),
        ({"channel_mult": (0.5, 1), "model_channels": 64}, "model.channel_mult"),
        ({"model_channels": 8}, "model.model_channels"),
        ({"rescale_timesteps": True}, "model.rescale_timesteps"),
        ({"patch": 2}, "model.patch"),
    ],
)
def test_what_diffusers_cannot_express_is_refused(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(UnderstudyError) as caught:
        unet_config(DiffusionConfig(**{**SMALL, **changed}))
    assert caught.value.where == field


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
@pytest.mark.parametrize("recipe", ["quick", "workstation", "paper"])
def test_recipes_map_where_attention_has_one_width(recipe: str, resolution: int) -> None:
    config = DiffusionConfig(**{**network_type("diffusion").recipe(recipe)["model"], "channels": 5,
                                "resolution": resolution})  # fmt: skip
    if recipe != "quick" and resolution in (64, 128):
        with pytest.raises(UnderstudyError, match="heads of 48 and 64 channels"):
            unet_config(config)
        config = config.model_copy(update={"num_head_channels": 32})
    assert unet_config(config)["sample_size"] == resolution


def test_other_generators_are_refused(tmp_path: Path, small_gan: Path) -> None:
    with pytest.raises(UnderstudyError, match="only diffusion models"):
        export_diffusers(small_gan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_gan(tmp_path: Path) -> Path:
    size = {"channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "mapping_layers": 2}
    config = model_config({"kind": "stylegan2", "resolution": 16, "channels": 2, **size})
    network: Any = registry_build(config, 1)
    classes = [asdict(c) for c in evenly_coded({1: "lesion"})]
    record = {"kind": "stylegan2", "model": json.loads(config.model_dump_json()), "channels": ["T1w"],
              "classes": classes, "annotation": "coded", "training": None, "spacing": None, "axes": None}  # fmt: skip
    assert isinstance(network.generator, nn.Module)
    save_model(tmp_path / "gan", network.generator, record)
    return tmp_path / "gan"

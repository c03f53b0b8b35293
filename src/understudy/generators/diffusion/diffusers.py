"""A trained diffusion model for Hugging Face's `diffusers`: UNet2DModel and DDIMScheduler in a folder of DDIMPipeline.

The weights are the same numbers under other names, so that DDIM gives the same images for the same noise; `diffusers`
is not needed to write them. What UNet2DModel cannot express is refused, with the field of the configuration.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.exchange.description import CERTIFICATE, NOT_RELEASED, certificate_of, generator_in
from understudy.exchange.export import new_folder
from understudy.generators.networks.unet import Attention, DiffusionConfig, ResBlock, UNet
from understudy.generators.ops.group_norm import GroupNorm
from understudy.generators.registry import load_generator
from understudy.io.files import atomic_path, write_json, write_text

VERSION = "0.31.0"  # of diffusers, whose names of fields and weights these are
_RES_BLOCK = {"conv1": "conv1", "film": "time_emb_proj", "norm2": "norm2", "conv2": "conv2", "skip": "conv_shortcut"}


def export_diffusers(source: str | Path, out: str | Path) -> Path:
    """Writes a folder that `diffusers.DDIMPipeline.from_pretrained` opens; returns it.

    Args:
        source: folder of a trained generator, or a package of one.
        out: new folder.

    Raises:
        UnderstudyError: another kind of generator, an architecture that UNet2DModel does not have, `out` is not empty.
    """
    folder = Path(source)
    network, config = load_generator(generator_in(folder))
    if not isinstance(network, UNet):
        what = f"diffusers has no {config['kind']}: only diffusion models can be exported"
        raise UnderstudyError(what, where=folder, fix="give the folder of a generator of kind diffusion")
    described, schedule = unet_config(network.config), scheduler_config(network.config)
    weights = {name: tensor.contiguous() for name, tensor in _weights(network)}
    names = {"_class_name": "DDIMPipeline", "_diffusers_version": VERSION, "scheduler": ["diffusers", "DDIMScheduler"],
             "unet": ["diffusers", "UNet2DModel"]}  # fmt: skip
    with new_folder(out) as made:
        write_json(made / "model_index.json", names)
        write_json(made / "unet" / "config.json", described)
        write_json(made / "scheduler" / "scheduler_config.json", schedule)
        with atomic_path(made / "unet" / "diffusion_pytorch_model.safetensors") as temporary:
            safetensors.torch.save_file(weights, temporary, metadata={"format": "pt"})
        write_text(made / "README.md", _readme(folder, config))
    return Path(out)


def unet_config(config: DiffusionConfig) -> dict[str, Any]:
    """`config.json` of the UNet2DModel; raises for what it has no field for."""
    widths, attends = config.widths, [config.resolution >> i in config.attention_resolutions for i in range(20)]
    attending = {w for i, w in enumerate(widths) if attends[i]} | {widths[-1]}  # the middle has attention always
    heads = {config.num_head_channels or width // config.num_heads for width in attending}
    groups = set(_groups(config))
    if config.patch > 1:
        _refuse("patches of several pixels, which are channels of one", "patch", "train with patch: 1")
    if len(heads) > 1:
        _refuse(f"heads of {' and '.join(map(str, sorted(heads)))} channels: UNet2DModel has one width of heads for all"
                " resolutions", "num_heads", "train with num_head_channels")  # fmt: skip
    if widths[0] != config.model_channels:
        _refuse("a code of the time that is wider than the first resolution", "channel_mult", "let it begin with 1")
    if len(groups) > 1:
        _refuse("group norms of different numbers of groups", "model_channels", "use a multiple of 32")
    if config.rescale_timesteps and config.steps != 1000:
        _refuse("a time that is rescaled, which no scheduler does", "rescale_timesteps", "train without it")
    kind = "Resnet{}sampleBlock2D" if config.resblock_updown else "{}Block2D"
    blocks = [("Attn{}Block2D" if attends[i] else kind) for i in range(len(widths))]
    how = "resnet" if config.resblock_updown else "conv"
    return {
        "_class_name": "UNet2DModel", "_diffusers_version": VERSION, "sample_size": config.resolution,
        "in_channels": config.channels, "out_channels": config.channels, "block_out_channels": widths,
        "layers_per_block": config.num_res_blocks, "attention_head_dim": heads.pop(), "dropout": config.dropout,
        "down_block_types": [block.format("Down") for block in blocks],
        "up_block_types": [block.format("Up") for block in reversed(blocks)],
        "downsample_type": how, "upsample_type": how, "norm_num_groups": max(groups), "norm_eps": 1e-5,
        "attn_norm_num_groups": max(groups), "resnet_time_scale_shift": "scale_shift" if config.scale_shift_norm
        else "default", "time_embedding_type": "positional", "flip_sin_to_cos": True, "freq_shift": 0,
    }  # fmt: skip


def scheduler_config(config: DiffusionConfig) -> dict[str, Any]:
    """`scheduler_config.json` of the DDIMScheduler: DDIM of 0, k, 2 k, ..., as `SamplerConfig(kind="ddim")`."""
    scale = 1000 / config.steps  # as in `process.noise_schedule`
    named = {"linear": "linear", "cosine": "squaredcos_cap_v2"}[config.noise_schedule]
    return {
        "_class_name": "DDIMScheduler", "_diffusers_version": VERSION, "num_train_timesteps": config.steps,
        "beta_schedule": named, "beta_start": scale * 1e-4, "beta_end": scale * 0.02, "timestep_spacing": "leading",
        "prediction_type": {"noise": "epsilon", "velocity": "v_prediction"}[config.prediction], "steps_offset": 0,
        "set_alpha_to_one": True, "clip_sample": True, "clip_sample_range": 1.0,
    }  # fmt: skip


def _refuse(what: str, field: str, fix: str) -> None:
    raise UnderstudyError(f"diffusers cannot express {what}", where=f"model.{field}", fix=fix)


def _groups(config: DiffusionConfig) -> Iterator[int]:
    with torch.device("meta"):
        network = UNet(config)
    yield from (module.groups for module in network.modules() if isinstance(module, GroupNorm))


def _weights(network: UNet) -> Iterator[tuple[str, Tensor]]:
    """Name in UNet2DModel and weights."""
    yield from _renamed({"time.0": "time_embedding.linear_1", "time.1": "time_embedding.linear_2", "stem": "conv_in",
                         "norm": "conv_norm_out"}, network)  # fmt: skip
    for name in ("weight", "bias"):  # of the outputs the noise, and not how much variance DDPM puts back
        yield f"conv_out.{name}", getattr(network.out, name).detach()[: network.config.channels]
    per_level, levels = network.config.num_res_blocks, len(network.config.widths)
    encoder: Any = network.encoder
    decoder: Any = network.decoder
    for number, stage in enumerate(encoder):  # each level: its stages, then the way down
        level, place = divmod(number, per_level + 1)
        yield from _stage(stage, f"down_blocks.{level}", place, "downsamplers" if place == per_level else "")
    yield from _stage(network.middle, "mid_block", 0, "")
    for number, stage in enumerate(decoder):
        level, place = divmod(number, per_level + 1)
        last = place == per_level and level < levels - 1
        yield from _stage(nn.ModuleList(stage[:-1] if last else stage), f"up_blocks.{level}", place, "")
        if last:
            yield from _stage(nn.ModuleList(stage[-1:]), f"up_blocks.{level}", 0, "upsamplers")


def _stage(stage: nn.ModuleList, block: str, place: int, resampler: str) -> Iterator[tuple[str, Tensor]]:
    """Of layers one after another; `place`: of the first among those of its kind."""
    blocks = attentions = place
    for layer in stage:
        if isinstance(layer, Attention):
            yield from _attention(layer, f"{block}.attentions.{attentions}")
            attentions += 1
        elif isinstance(layer, ResBlock):
            name = f"{block}.{resampler}.0" if resampler else f"{block}.resnets.{blocks}"
            yield from _renamed({"norm1": f"{name}.norm1"} | {k: f"{name}.{v}" for k, v in _RES_BLOCK.items()}, layer)
            blocks += 1
        else:
            yield from _renamed({"conv": f"{block}.{resampler}.0.conv"}, layer)


def _renamed(names: dict[str, str], module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in module.state_dict().items():
        owner, _, kind = name.rpartition(".")
        if owner in names:
            yield f"{names[owner]}.{kind}", tensor


def _attention(layer: Attention, name: str) -> Iterator[tuple[str, Tensor]]:
    yield from _renamed({"norm": f"{name}.group_norm", "project": f"{name}.to_out.0"}, layer)
    for kind in ("weight", "bias"):
        rows: Tensor = getattr(layer.qkv, kind).detach()  # [3 C, ...]: q, k, v of each head, or all q, all k, all v
        parts = rows.unflatten(0, (-1, 3, layer.width)).transpose(0, 1) if layer.heads_first else rows
        for part, tensor in zip("qkv", parts.reshape(3, -1, *rows.shape[1:]), strict=True):
            yield f"{name}.to_{part}.{kind}", tensor


def _readme(source: Path, config: dict[str, Any]) -> str:
    if (source / CERTIFICATE).is_file():
        said = certificate_of(source)
        status = f"Weights of the released package '{said['title']}', version {said['version']}."
    else:
        status = NOT_RELEASED
    last = "the annotation" if config["annotation"] == "coded" else "a channel for each class of the annotation"
    codes = ", ".join(f"{c['code']} {c['name']}" for c in config["classes"])
    return f"""# Diffusion model of {config["model"]["resolution"]} x {config["model"]["resolution"]} pixels

{status}

Channels: {", ".join(config["channels"])}, then {last} (grey values: {codes}).

```python
from diffusers import DDIMPipeline

pipeline = DDIMPipeline.from_pretrained("this folder")
images = pipeline(batch_size=4, num_inference_steps=50, use_clipped_model_output=True, output_type="np").images
```

`images` are float [N, H, W, channels] in 0 ... 1; times 255 they are grey values. `understudy sample` has this sampler
as `--sampler ddim --steps 50`, with other noise; by default it takes DPM-Solver++. `understudy audit` finds whether
samples are copies of the training's patients.

Configuration: {json.dumps({k: v for k, v in config["model"].items() if k != "kind"}, sort_keys=True)}
"""

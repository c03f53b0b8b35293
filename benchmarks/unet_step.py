"""Seconds of a training step of the paper's U-Net, by lever, beside nnU-Net's own trainer; and both loss curves.

    python benchmarks/unet_step.py --threads 2                 # the table, 256 x 256, batch 4
    python benchmarks/unet_step.py --curve 100 --resolution 64 # the curves

nnU-Net's step is `nnUNetTrainer.train_step` of the package nnunetv2 itself, given its 2D plan for this size and
arrays that are ready: its network (PlainConvUNet), its DC_and_CE loss on six outputs (weights 0.516, 0.258, ..., 0),
backward, clipping at 12, SGD with Nesterov 0.99. On a CPU it computes in fp32, channels first; it has no other mode
there. Its augmentation runs in other processes and is not counted; ours is counted where the table says so.
All steps are taken in turn, round by round, so that what else the machine does hits all alike; shown are the median
and the shortest round, and ratios of the medians. The curves start from the same weights and see the same batches,
with nnU-Net's learning rate 0.01 and a Dice without background. Needs the extra `peers` for nnU-Net's rows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from understudy.segmenters.augment import AugmentConfig, apply, draw
from understudy.segmenters.config import SegmenterTrainingConfig
from understudy.segmenters.losses import segmentation_loss
from understudy.segmenters.train import optimiser_for
from understudy.segmenters.unet import SliceNorm, UNet, UNetConfig, build_unet

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "segmenters"))

CHANNELS, CLASSES = 4, 4
Step = Callable[[torch.Tensor, torch.Tensor], float]


def our_step(
    network: UNet,
    config: SegmenterTrainingConfig,
    bf16: bool = False,
    channels_last: bool = False,
    slice_norm: bool = False,
    augmented: bool = False,
) -> Step:
    """A step as `train._Training.train_step` takes it, with each lever on or off: images uint8, labels uint8."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=layout).train()  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, SliceNorm) and not slice_norm:
            module.__class__ = nn.InstanceNorm2d
    optimiser, augment = optimiser_for(network, config), AugmentConfig(enabled=augmented)
    taken = 0

    def step(images: torch.Tensor, labels: torch.Tensor) -> float:
        nonlocal taken
        plan = draw(augment, 0, np.arange(taken * len(images), (taken + 1) * len(images)))
        taken += 1
        x, target = apply(plan, images, labels)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = network(x.contiguous(memory_format=layout))
        loss = segmentation_loss(outputs, target, network.level_weights, config.dice_background)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip or float("inf"))
        optimiser.step()
        return float(loss.detach())

    return step


def plan_of(filters: tuple[int, ...], resolution: int, batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What nnU-Net's planner writes for 2D slices of this size (facts/segmenters 2.1), and a dataset.json."""
    stages = len(filters)
    conv, norm, nonlin = (
        "torch.nn.modules.conv.Conv2d",
        "torch.nn.modules.instancenorm.InstanceNorm2d",
        "torch.nn.LeakyReLU",
    )
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages, "features_per_stage": list(filters), "conv_op": conv,
            "kernel_sizes": [[3, 3]] * stages, "strides": [[1, 1]] + [[2, 2]] * (stages - 1),
            "n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1), "conv_bias": True,
            "norm_op": norm, "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None,
            "dropout_op_kwargs": None, "nonlin": nonlin, "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }  # fmt: skip
    configuration = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": batch, "batch_dice": True,
        "patch_size": [resolution, resolution], "spacing": [1.0, 1.0], "architecture": architecture,
        "normalization_schemes": ["ZScoreNormalization"] * CHANNELS, "use_mask_for_norm": [False] * CHANNELS,
    }  # fmt: skip
    plans = {
        "dataset_name": "Dataset000_Random", "plans_name": "nnUNetPlans", "configurations": {"2d": configuration},
        "label_manager": "LabelManager", "continue_training": False,
    }  # fmt: skip
    dataset = {
        "channel_names": {str(i): f"c{i}" for i in range(CHANNELS)}, "file_ending": ".nii.gz", "numTraining": 1,
        "labels": {"background": 0, **{f"l{k}": k for k in range(1, CLASSES)}},
    }  # fmt: skip
    return plans, dataset


def nnunet_trainer(filters: tuple[int, ...], resolution: int, batch: int, folder: str) -> Any:
    """nnU-Net's own trainer, with its network, loss and optimiser built, without any data."""
    for name in ("nnUNet_results", "nnUNet_preprocessed", "nnUNet_raw"):
        os.environ[name] = folder
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans, dataset = plan_of(filters, resolution, batch)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = nnUNetTrainer(plans, "2d", 0, dataset, torch.device("cpu"))
        trainer.network = trainer.build_network_architecture(
            trainer.plans_manager, trainer.configuration_manager, CHANNELS, CLASSES, True
        )
        trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()
        trainer.loss = trainer._build_loss()
    trainer.network.train()
    return trainer


def nnunet_step(trainer: Any) -> Step:
    """Its `train_step` on the same slices, z-scored, and labels down-sampled to each output as its loader does."""
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

    down = DownsampleSegForDSTransform(trainer._get_deep_supervision_scales())
    neutral = AugmentConfig(enabled=False)

    def step(images: torch.Tensor, labels: torch.Tensor) -> float:
        x, _ = apply(draw(neutral, 0, np.arange(len(images))), images, labels)
        each = [down(segmentation=label[None].to(torch.int16))["segmentation"] for label in labels]
        targets = [torch.stack(level) for level in zip(*each, strict=True)]
        return float(trainer.train_step({"data": x.contiguous(), "target": targets})["loss"])

    return step


def slices(resolution: int, batch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of noise with bright discs in it that are the labels: something can be learned from it."""
    rng = np.random.default_rng(number)
    images = rng.integers(30, 110, (batch, CHANNELS, resolution, resolution)).astype(np.uint8)
    labels = np.zeros((batch, resolution, resolution), np.uint8)
    y, x = np.mgrid[:resolution, :resolution] / resolution
    for image, label in zip(images, labels, strict=True):
        for k in range(1, CLASSES):
            row, column = rng.uniform(0.2, 0.8, 2)
            disc = (y - row) ** 2 + (x - column) ** 2 < rng.uniform(0.05, 0.15) ** 2
            label[disc], image[k][disc] = k, image[k][disc] + 60
    return torch.from_numpy(images), torch.from_numpy(labels)


def levers(options: argparse.Namespace, folder: str) -> dict[str, Step]:
    """The rows of the table; each has a network of its own with the same weights."""
    config, filters = SegmenterTrainingConfig(), UNetConfig().stages(options.resolution)

    def ours(**on: bool) -> Step:
        return our_step(build_unet(UNetConfig(), CHANNELS, CLASSES, options.resolution), config, **on)

    rows: dict[str, Step] = {}
    with contextlib.suppress(ModuleNotFoundError):
        rows["nnU-Net's train_step, fp32"] = nnunet_step(
            nnunet_trainer(filters, options.resolution, options.batch, folder)
        )
    return rows | {
        "ours, fp32, channels first": ours(),
        "+ channels last": ours(channels_last=True),
        "+ bf16": ours(channels_last=True, bf16=True),
        "+ norm by slice": ours(channels_last=True, bf16=True, slice_norm=True),
        "+ augmentation of the batch (as trained)": ours(
            channels_last=True, bf16=True, slice_norm=True, augmented=True
        ),
    }


def table(options: argparse.Namespace) -> None:
    images, labels = slices(options.resolution, options.batch, 0)
    with tempfile.TemporaryDirectory() as folder:
        rows = levers(options, folder)
        times: dict[str, list[float]] = {name: [] for name in rows}
        for number in range(options.rounds + 1):
            for name, step in rows.items():
                start = time.perf_counter()
                step(images, labels)
                if number:  # the first round warms up
                    times[name].append(time.perf_counter() - start)
    base = statistics.median(next(iter(times.values())))
    print(f"U-Net step, {options.resolution} x {options.resolution}, batch {options.batch},")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {options.rounds} rounds\n")
    print("| step | median, s | shortest, s | times as fast |\n|---|---|---|---|")
    for name, own in times.items():
        middle = statistics.median(own)
        print(f"| {name} | {middle:.2f} | {min(own):.2f} | {base / middle:.2f} |")


def curves(options: argparse.Namespace) -> None:
    """Mean losses of both over `--curve` steps from the same weights on the same batches."""
    from plain_conv_unet import copy_weights

    config = SegmenterTrainingConfig(lr=0.01, dice_background=False)
    filters = UNetConfig().stages(options.resolution)
    # nnU-Net's loss leaves the lowest output out: five levels of six at 256 pixels, three of four at 64
    model = UNetConfig(deep_supervision=len(filters) - 2)
    network = build_unet(model, CHANNELS, CLASSES, options.resolution)
    with tempfile.TemporaryDirectory() as folder:
        trainer = nnunet_trainer(filters, options.resolution, options.batch, folder)
        copy_weights(network, trainer.network)
        exact = build_unet(model, CHANNELS, CLASSES, options.resolution)
        runs = {
            "nnU-Net, fp32": nnunet_step(trainer),
            "ours, fp32": our_step(exact, config),
            "ours, bf16, as trained, not augmented": our_step(
                network, config, bf16=True, channels_last=True, slice_norm=True
            ),
        }
        losses = {
            name: [step(*slices(options.resolution, options.batch, n)) for n in range(options.curve)]
            for name, step in runs.items()
        }
    tenth = max(1, options.curve // 10)
    print(f"Mean loss of each tenth of {options.curve} steps, {options.resolution} x {options.resolution},")
    print(f"batch {options.batch} (nnU-Net's Dice loss counts from -1, ours from 0: 1 added to its)\n")
    for name, own in losses.items():
        shift = 1.0 if name.startswith("nnU-Net") else 0.0
        means = [statistics.mean(own[i : i + tenth]) + shift for i in range(0, options.curve, tenth)]
        print(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--curve", type=int, default=0, metavar="STEPS", help="loss curves instead of times")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    (curves if options.curve else table)(options)


if __name__ == "__main__":
    main()

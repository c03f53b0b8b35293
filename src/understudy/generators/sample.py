"""Samples of trained generators as a SliceSet, streamed and resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.folder import WEIGHTS, classes_of, load_generator
from understudy.generators.joint import decode
from understudy.io.files import sha256_file
from understudy.runtime.checkpoints import StopRequest
from understudy.runtime.devices import resolve_device
from understudy.runtime.progress import track
from understudy.slices import SliceSet, SliceWriter


def sample_set(
    model_dir: str | Path | Sequence[str | Path],
    count: int,
    seed: int,
    out: str | Path,
    batch: int = 256,
    psi: float = 1.0,
    device: str = "auto",
    progress: bool = True,
    sampler: SamplerConfig | None = None,
) -> SliceSet:
    """Writes samples 0 ... count - 1 of a seed; a second call returns the finished set or continues a partial one.

    Args:
        model_dir: folder of a finished training, or of several: sample i then comes from generator i mod k (Larsson
            et al. found that segmenters gain by an ensemble).
        count: number of slices.
        seed: of the latents; sample i of a seed is the same whatever `count` and `batch`.
        out: folder of the set.
        batch: slices between two writes.
        psi: truncation, 1 for none.
        device: "auto", "cpu", "cuda", ...
        progress: show it.
        sampler: of diffusion models; None for the default one.

    Returns:
        The set at `out`; its index has id, generator, seed, sample (the generator's own number) and code_distance
        (mean distance of the annotation to the code it was given, grey values).

    Raises:
        UnderstudyError: unfinished or damaged generator, generators that do not fit together, count below 1, a
            sampler for a GAN, another set at `out`, disk full.
        Interrupted: SIGTERM or SIGINT; whole shards are kept.
    """
    if count < 1:
        raise UnderstudyError(f"{count} samples wanted", fix="ask for at least one")
    out = Path(out)
    members = [_Member.load(folder, sampler) for folder in _folders(model_dir)]
    config = _common(members)
    identity = _identity(members, count, seed, psi, sampler)
    if (out / "index.parquet").is_file():
        return _finished(out, identity)
    classes = classes_of(config)
    writer = SliceWriter(
        out, config["channels"], classes, config["model"]["resolution"], config["spacing"], config["axes"], identity
    )
    for member in members:
        member.generator.to(resolve_device(device))
    with StopRequest() as stop, track(count, "sampling", "slices", writer.done, progress) as meter:
        for start in range(writer.done, count, batch):
            if stop.requested:
                raise Interrupted(f"sampling stopped after {writer.done} slices, which are kept")
            size = min(batch, count - start)
            joint, rows = _block(members, start, size, seed, psi)
            images, labels, distances = decode(joint, classes, config["annotation"])
            writer.append(
                images, labels, [row | {"code_distance": float(d)} for row, d in zip(rows, distances, strict=True)]
            )
            meter.advance(size)
    return writer.close(source="synthetic", **identity)


@dataclass(frozen=True)
class _Member:
    """One generator of an ensemble."""

    folder: Path
    generator: Any
    config: dict[str, Any]
    weights: str
    options: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path, sampler: SamplerConfig | None) -> _Member:
        generator, config = load_generator(folder)
        if sampler is not None and config["kind"] != "diffusion":
            raise UnderstudyError(
                f"a {config['kind']} is sampled in one pass and takes no sampler",
                where=folder,
                fix="leave the sampler out",
            )
        weights = str(config.get("content") or sha256_file(Path(folder) / WEIGHTS))  # a plug-in's own files
        return cls(Path(folder), generator, config, weights, {"sampler": sampler} if sampler else {})

    @property
    def name(self) -> str:
        """E.g. "stylegan2-1a2b3c4d"."""
        return f"{self.config['kind']}-{self.weights[:8]}"


def _folders(model_dir: str | Path | Sequence[str | Path]) -> list[str | Path]:
    folders = [model_dir] if isinstance(model_dir, str | Path) else list(model_dir)
    if not folders:
        raise UnderstudyError("no generator to sample from", fix="give the folder of at least one")
    return folders


def _common(members: list[_Member]) -> dict[str, Any]:
    """The configuration of the first, after a check that all draw the same kind of slices."""
    first = members[0]
    for other in members[1:]:
        for key in ("channels", "classes", "annotation", "spacing", "axes"):
            if other.config[key] != first.config[key]:
                raise UnderstudyError(
                    f"the generators do not fit together: they differ in {key}",
                    where=f"{first.folder}, {other.folder}",
                    fix="sample them into sets of their own",
                )
        if other.config["model"]["resolution"] != first.config["model"]["resolution"]:
            raise UnderstudyError(
                "the generators do not fit together: they differ in resolution",
                where=f"{first.folder}, {other.folder}",
                fix="sample them into sets of their own",
            )
    if len({member.weights for member in members}) < len(members):
        raise UnderstudyError(
            "the same generator stands twice in the ensemble", where=first.folder, fix="name each once"
        )
    return first.config


def _identity(
    members: list[_Member], count: int, seed: int, psi: float, sampler: SamplerConfig | None
) -> dict[str, Any]:
    weights = [member.weights for member in members]
    identity = {"weights": weights if len(weights) > 1 else weights[0], "count": count, "seed": seed, "psi": psi}
    return identity | ({"sampler": sampler.model_dump(mode="json")} if sampler else {})


def _block(members: list[_Member], start: int, size: int, seed: int, psi: float) -> tuple[Tensor, list[dict[str, Any]]]:
    """Joint images float32 [size, C, R, R] of samples start ... start + size - 1, and their index rows."""
    k, joint = len(members), torch.empty(0)
    rows: list[dict[str, Any]] = [{} for _ in range(size)]
    for j, member in enumerate(members):
        places = np.arange(start, start + size)
        places = places[places % k == j]
        if not len(places):
            continue
        own = int(places[0]) // k
        images = member.generator.sample(len(places), seed, own, psi, **member.options)
        if not len(joint):
            joint = images.new_empty(size, *images.shape[1:])
        joint[places - start] = images
        for number, place in enumerate(places, own):
            rows[place - start] = {
                "id": f"{member.name}-s{seed}-{number:07d}",
                "generator": member.name,
                "seed": seed,
                "sample": number,
            }
    return joint, rows


def _finished(out: Path, identity: dict[str, object]) -> SliceSet:
    found = SliceSet.open(out)
    if {k: found.attrs.get(k) for k in identity} != identity or ("sampler" in found.attrs) != ("sampler" in identity):
        raise UnderstudyError("the folder holds other samples", where=out, fix="use another folder, or delete this one")
    return found

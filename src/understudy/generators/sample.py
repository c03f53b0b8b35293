"""Samples of trained generators: in memory, or as a slice set on disk, streamed and resumable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.folder import CONFIG, classes_of
from understudy.generators.joint import decode
from understudy.generators.registry import type_of
from understudy.io.files import read_json
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
    out, generators = Path(out), load_ensemble(model_dir, sampler, device)
    config, contents = generators[0].config, [generator.content for generator in generators]
    identity: dict[str, Any] = {"weights": contents if len(contents) > 1 else contents[0]}
    identity |= {"count": count, "seed": seed, "psi": psi}
    identity |= {"sampler": sampler.model_dump(mode="json")} if sampler else {}
    if (out / "index.parquet").is_file():
        found = SliceSet.open(out)
        if any(found.attrs.get(key) != identity.get(key) for key in {"sampler", *identity}):
            raise UnderstudyError("the folder holds other samples", out, "use another folder, or delete this one")
        return found
    classes, resolution = classes_of(config), config["model"]["resolution"]
    writer = SliceWriter(out, config["channels"], classes, resolution, config["spacing"], config["axes"], identity)
    with StopRequest() as stop, track(count, "sampling", "slices", writer.done, progress) as meter:
        for joint, rows in sample_blocks(generators, writer.done, count, seed, psi, batch):
            images, labels, distances = decode(joint, classes, config["annotation"])
            for row, distance in zip(rows, distances, strict=True):
                row["code_distance"] = float(distance)
            writer.append(images, labels, rows)
            meter.advance(len(rows))
            if stop.requested:
                raise Interrupted(f"sampling stopped after {writer.done} slices, which are kept")
    return writer.close(source="synthetic", **identity)


@dataclass(frozen=True)
class LoadedGenerator:
    """A trained generator; `content`: SHA-256 (hex) of its weights, `options`: of its `sample`."""

    folder: Path
    network: Any
    config: dict[str, Any]
    content: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """E.g. "stylegan2-1a2b3c4d"."""
        return f"{self.config['kind']}-{self.content[:8]}"


def load_ensemble(
    model_dir: str | Path | Sequence[str | Path], sampler: SamplerConfig | None, device: str
) -> list[LoadedGenerator]:
    """The generators of some folders, after a check that all make the same kind of slices."""
    folders = [model_dir] if isinstance(model_dir, str | Path) else list(model_dir)
    generators, options = list[LoadedGenerator](), {"sampler": sampler} if sampler else {}
    for folder in map(Path, folders):
        config = read_json(folder / CONFIG, dict)
        kind = type_of(config)
        if sampler is not None and not kind.takes_sampler:
            raise UnderstudyError(f"a {kind.name} is sampled in one pass", folder, "leave the sampler out")
        network, content = kind.load(folder, config), next(iter(kind.weights(folder, config).values()))
        generators.append(LoadedGenerator(folder, network.to(resolve_device(device)), config, content, options))
        made = [{"resolution": g.config["model"]["resolution"], **g.config} for g in (generators[0], generators[-1])]
        for key in ("channels", "classes", "annotation", "spacing", "axes", "resolution"):
            if made[0][key] != made[1][key]:
                raise UnderstudyError(
                    f"the generators do not fit together: they differ in {key}",
                    where=f"{generators[0].folder}, {folder}",
                    fix="sample them into sets of their own",
                )
    if not generators:
        raise UnderstudyError("no generator to sample from", fix="give the folder of at least one")
    if len({generator.content for generator in generators}) < len(generators):
        raise UnderstudyError("duplicate generators in the ensemble", generators[0].folder, "name each once")
    return generators


def sample_blocks(
    generators: Sequence[LoadedGenerator], start: int, count: int, seed: int, psi: float, batch: int = 256
) -> Iterator[tuple[Tensor, list[dict[str, Any]]]]:
    """Samples start ... count - 1 in blocks: joint images float32 [n, C + A, R, R] and their rows of the index."""
    for first in range(start, count, batch):
        block: dict[int, tuple[Tensor, dict[str, Any]]] = {}  # number -> image and row
        for k, generator in enumerate(generators):
            numbers = [n for n in range(first, min(first + batch, count)) if n % len(generators) == k]
            if not numbers:
                continue
            own = numbers[0] // len(generators)  # the generator's own number of its first sample
            images = generator.network.sample(len(numbers), seed, own, psi, **generator.options)
            for sample, (number, image) in enumerate(zip(numbers, images, strict=True), own):
                row = {"id": f"{generator.name}-s{seed}-{sample:07d}", "generator": generator.name}
                block[number] = image, row | {"seed": seed, "sample": sample}
        pairs = [block[number] for number in sorted(block)]
        yield torch.stack([image for image, _ in pairs]), [row for _, row in pairs]

"""Samples of trained generators: in memory, or as a slice set on disk, streamed and resumable."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.folder import classes_of, read_config
from understudy.generators.joint import decode
from understudy.generators.registry import type_of
from understudy.names import display_name
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
        seed: of the latents; sample i of a seed is the same whatever `count` and `batch`.
        batch: slices between two writes.
        psi: truncation, above 0, 1 for none.
        sampler: of diffusion models; None for the default one.

    Returns:
        The set at `out`; its index has id, generator, seed, sample (the generator's own number) and code_distance
        (mean distance of the annotation to the code it was given, grey values).

    Raises:
        UnderstudyError: unfinished or damaged generator, generators that do not fit together, no samples wanted, a
            sampler for a GAN, another set at `out`, disk full.
        Interrupted: SIGTERM or SIGINT; whole shards are kept.
    """
    if count < 1:
        raise UnderstudyError(f"{count} samples wanted", fix="ask for at least one")
    if not (isinstance(psi, int | float) and 0 < psi <= 1):
        raise UnderstudyError(f"psi is {psi!r}", fix="give a number above 0, at most 1 (no truncation)")
    out, folders = Path(out), [model_dir] if isinstance(model_dir, str | Path) else model_dir
    members = _load_ensemble([Path(folder) for folder in folders], sampler is not None, device)
    if not isinstance(sampler, SamplerConfig | None):
        raise UnderstudyError(f"the sampler is {sampler!r}", fix='give one, e.g. SamplerConfig(kind="ddim", steps=50)')
    config, contents = members[0].config, [member.content for member in members]
    identity: dict[str, Any] = {"weights": contents if len(contents) > 1 else contents[0], "count": count}
    identity |= {"seed": seed, "psi": psi} | ({"sampler": sampler.model_dump(mode="json")} if sampler else {})
    if (out / "index.parquet").is_file():
        found = SliceSet.open(out)
        if any(found.attrs.get(key) != identity.get(key) for key in {"sampler", *identity}):
            raise UnderstudyError("the folder holds other samples", out, "use another folder, or delete this one")
        return found
    classes, resolution = classes_of(config), config["model"]["resolution"]
    options = {"sampler": sampler} if sampler else {}
    writer = SliceWriter(out, config["channels"], classes, resolution, config["spacing"], config["axes"], identity)
    batch, first = batch * len(members), writer.done  # whole blocks of each
    with StopRequest() as stop, track(count, "sampling", "slices", writer.done, progress) as meter:
        while first < count:
            numbers = range(first, min(first // batch * batch + batch, count))
            first = numbers.stop
            joint, rows = _sample_block(members, numbers, seed, psi, options)
            images, labels, distances = decode(joint, classes, config["annotation"])
            for row, distance in zip(rows, distances, strict=True):
                row["code_distance"] = float(distance)
            writer.append(images, labels, rows)
            meter.advance(len(rows))
            if stop.requested:
                raise Interrupted(f"sampling stopped after {writer.done} slices, which are kept")
    return writer.close(source="synthetic", **identity)


class _Member(NamedTuple):
    network: Any
    config: dict[str, Any]
    content: str  # SHA-256 (hex) of its weights
    name: str  # e.g. "stylegan2-1a2b3c4d"


def _load_ensemble(folders: Sequence[Path], sampler: bool, device: str) -> list[_Member]:
    if not folders:
        raise UnderstudyError("no generator to sample from", fix="give the folder of at least one")
    members: list[_Member] = []
    for folder in folders:
        config = read_config(folder)
        kind = type_of(config)
        if sampler and not kind.takes_sampler:
            raise UnderstudyError(f"{display_name(kind.name)} is sampled in one pass", folder, "leave the sampler out")
        network, content = kind.load(folder, config), next(iter(kind.weights(folder, config).values()))
        members.append(_Member(network.to(resolve_device(device)), config, content, f"{config['kind']}-{content[:8]}"))
        made = [{"resolution": c["model"]["resolution"], **c} for c in (members[0].config, config)]
        for key in ("channels", "classes", "annotation", "spacing", "axes", "resolution"):
            if made[0][key] != made[1][key]:
                what, where = f"the generators do not fit together: they differ in {key}", f"{folders[0]}, {folder}"
                raise UnderstudyError(what, where=where, fix="sample them into sets of their own")
    if len({member.content for member in members}) < len(members):
        raise UnderstudyError("duplicate generators in the ensemble", folders[0], "name each once")
    return members


def _sample_block(
    members: Sequence[_Member], numbers: range, seed: int, psi: float, options: dict[str, Any]
) -> tuple[Tensor, list[dict[str, Any]]]:
    # joint images float32 [n, C + A, R, R] of these samples of an ensemble, and their rows of the index
    block: dict[int, tuple[Tensor, dict[str, Any]]] = {}  # number -> image and row
    for k, member in enumerate(members):
        mine = [number for number in numbers if number % len(members) == k]
        if not mine:
            continue
        own = mine[0] // len(members)  # the generator's own number of its first sample
        images = member.network.sample(len(mine), seed, own, psi, **options)
        for sample, (number, image) in enumerate(zip(mine, images, strict=True), own):
            row = {"id": f"{member.name}-s{seed}-{sample:07d}", "generator": member.name}
            block[number] = image, row | {"seed": seed, "sample": sample}
        if not bool(images.isfinite().all()):
            what = f"the samples of {member.name} are NaN or infinite"
            raise UnderstudyError(what, fix="train the generator again, or take an earlier snapshot of it")
    pairs = [block[number] for number in numbers]
    return torch.stack([image for image, _ in pairs]), [row for _, row in pairs]

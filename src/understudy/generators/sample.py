"""Samples of a trained generator as a SliceSet, streamed and resumable."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from understudy.checkpoints import StopRequest
from understudy.errors import Interrupted, UnderstudyError
from understudy.files import sha256_file
from understudy.generators.joint import decode
from understudy.generators.runs import WEIGHTS, classes_of, load_generator
from understudy.generators.trainer import resolve_device
from understudy.progress import track
from understudy.slices import SliceSet, SliceWriter


def sample_set(
    model_dir: str | Path,
    count: int,
    seed: int,
    out: str | Path,
    batch: int = 256,
    psi: float = 1.0,
    device: str = "auto",
    progress: bool = True,
) -> SliceSet:
    """Writes samples 0 ... count - 1 of a seed; a second call returns the finished set or continues a partial one.

    Args:
        model_dir: folder of a finished training. count: number of slices. seed: of the latents; sample i of a seed is
            the same whatever `count` and `batch`. batch: slices between two writes. psi: truncation, 1 for none.

    Returns:
        The set at `out`; its index has id, generator, seed, sample and code_distance (mean distance of the annotation
        to the code it was given, grey values).

    Raises:
        UnderstudyError: unfinished or damaged generator, count below 1, another set at `out`, disk full.
        Interrupted: SIGTERM or SIGINT; whole shards are kept.
    """
    if count < 1:
        raise UnderstudyError(f"{count} samples wanted", fix="ask for at least one")
    out = Path(out)
    generator, config = load_generator(model_dir)
    weights = sha256_file(Path(model_dir) / WEIGHTS)
    identity = {"weights": weights, "count": count, "seed": seed, "psi": psi}
    if (out / "index.parquet").is_file():
        return _finished(out, identity)
    classes = classes_of(config)
    writer = SliceWriter(
        out,
        config["channels"],
        classes,
        config["model"]["resolution"],
        config["spacing"],
        config["axes"],
        identity,
    )
    generator.to(resolve_device(device))
    with StopRequest() as stop, track(count, "sampling", "slices", writer.done, progress) as meter:
        for start in range(writer.done, count, batch):
            if stop.requested:
                raise Interrupted(f"sampling stopped after {writer.done} slices, which are kept")
            size = min(batch, count - start)
            joint = generator.sample(size, seed, start, psi)
            images, labels, distances = decode(joint, classes, config["annotation"])
            writer.append(images, labels, _rows(config["kind"], weights, seed, start, distances))
            meter.advance(size)
    return writer.close(source="synthetic", **identity)


def _rows(
    kind: str, weights: str, seed: int, start: int, distances: np.ndarray
) -> list[dict[str, str | int | float]]:
    name = f"{kind}-{weights[:8]}"
    return [
        {"id": f"{name}-s{seed}-{start + i:07d}", "generator": name, "seed": seed, "sample": start + i,
         "code_distance": float(d)}
        for i, d in enumerate(distances)
    ]  # fmt: skip


def _finished(out: Path, identity: dict[str, object]) -> SliceSet:
    found = SliceSet.open(out)
    if {k: found.attrs.get(k) for k in identity} != identity:
        raise UnderstudyError(
            "the folder holds other samples", where=out, fix="use another folder, or delete this one"
        )
    return found

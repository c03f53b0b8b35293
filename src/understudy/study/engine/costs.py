"""Operations and weights of networks, counted on torch's `meta` device, which computes nothing, and kept.

Counts of the presets' networks are in `costs.json` beside this file, others in this machine's cache,
`$XDG_CACHE_HOME/understudy` (`~/.cache/understudy`), which may be deleted at any time. After a change of a preset or
recipe run `python -m understudy.study.engine.costs`, which writes `costs.json` anew.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from understudy.errors import UnderstudyError
from understudy.generators import registry
from understudy.generators.diffusion.samplers import SamplerConfig, default_sampler
from understudy.io.files import read_json, sha256_json, write_json
from understudy.segmenters.config import ModelConfig, build_model

COUNTING = 1  # raise it when a network changes what it computes under the same configuration
SHIPPED = Path(__file__).with_name("costs.json")
GROUP = 4  # images in a counted pass: one group of the minibatch deviation


class GeneratorCost(NamedTuple):
    """What a generator costs.

    Attributes:
        forward: operations of the generator for one image, forward.
        scores: operations of the discriminator for one image, forward; 0 without one.
        weights: numbers in all its networks.
    """

    forward: int
    scores: int
    weights: int


def read_cached(name: str) -> dict[str, Any]:
    """A file of the cache; {} if it is not there or not whole (another process may be writing)."""
    try:
        found = read_json(_cache() / name)
    except UnderstudyError:
        return {}
    return found if isinstance(found, dict) else {}


def write_cached(name: str, value: dict[str, Any]) -> None:
    """Keeps a file; where the cache cannot be written (a home that is read-only) it is measured again next time."""
    with suppress(UnderstudyError, OSError):
        write_json(_cache() / name, value)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "understudy"


@functools.cache
def shipped() -> dict[str, list[int]]:
    """Counts of the presets' networks."""
    return dict(read_json(SHIPPED))


@functools.cache
def _kept() -> dict[str, list[int]]:
    return read_cached("costs.json")


def counted(kind: str, what: dict[str, Any], count: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """The numbers of a network under these settings; counted, and kept in the cache, if they are not known yet."""
    key = sha256_json({"counting": COUNTING, "kind": kind, **what})[:16]
    known = shipped().get(key) or _kept().get(key)
    if known is None:
        known = list(count())
        _kept()[key] = known
        write_cached("costs.json", {**read_cached("costs.json"), key: known})
    return tuple(known)


def generator_cost(config: Any) -> GeneratorCost:
    """What the networks of a configuration cost."""
    what = {"config": config.model_dump(mode="json")}
    return GeneratorCost(*counted("generator", what, lambda: count_generator(config)))


def count_generator(config: Any) -> tuple[int, int, int]:
    """Counts the networks of a configuration: the fields of `GeneratorCost`."""
    with torch.device("meta"):
        network: Any = registry.build(config)
        images = torch.empty(GROUP, config.channels, config.resolution, config.resolution)
        if config.kind == "diffusion":
            forward = _flops(network.generator, images, torch.empty(GROUP, dtype=torch.int64))
            scores = 0
        else:
            latents = torch.empty(GROUP, network.generator.latents(0, 0, 1).shape[1])
            full = {"level": 0.0} if config.kind in ("progan", "stylegan1") else {}  # a buffer has no value here
            forward = _flops(network.generator, latents, **full)
            scores = _flops(network.discriminator, images)
        weights = sum(parameter.numel() for parameter in network.parameters())
    return forward // GROUP, scores // GROUP, weights


@functools.lru_cache(maxsize=64)
def segmenter_cost(config: ModelConfig, channels: int, classes: int, resolution: int) -> tuple[int, int]:
    """Operations for one slice, forward as in prediction, and numbers in the network.

    Raises:
        UnderstudyError: architecture and resolution do not fit.
    """

    def count() -> tuple[int, int]:
        with torch.device("meta"):
            network = build_model(config, channels, classes, resolution).eval()
            operations = _flops(network, torch.empty(1, channels, resolution, resolution))
        return operations, sum(parameter.numel() for parameter in network.parameters())

    what = {"config": config.model_dump(mode="json"), "channels": channels, "classes": classes}
    operations, weights = counted("segmenter", {**what, "resolution": resolution}, count)
    return operations, weights


def _flops(module: torch.nn.Module, *inputs: torch.Tensor, **options: float) -> int:
    from torch.utils.flop_counter import FlopCounterMode  # takes a while to import

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs, **options)
    return int(counter.get_total_flops())


def training_work(config: Any, training: Any) -> float:
    """Operations of the whole training.

    A backward pass costs two forward ones. GANs: G learns from 3 G + 3 D and D from 1 G + 6 D an image; the penalties
    add a third where they are lazy, and 9 D where every step differentiates twice.
    """
    images = training.kimg * 1000
    if config.kind == "diffusion":
        return 3.0 * images * generator_cost(config).forward
    if config.kind in ("stylegan2", "stylegan3"):
        cost = generator_cost(config)
        return images * (4 * cost.forward + 9 * cost.scores) * 4 / 3
    work, left, resolution = 0.0, images, max(4, training.start_resolution)
    while True:  # each resolution for its time; while one fades in, the networks already work at its size
        built = max(resolution, 16)  # below 16 a network costs about a quarter with every halving
        cost, shrink = generator_cost(config.model_copy(update={"resolution": built})), (built // resolution) ** 2
        last = resolution >= config.resolution
        shown = left if last else min(left, (training.stabilise_kimg + training.fade_kimg) * 1000)
        work += shown * (4 * (cost.forward // shrink) + 18 * (cost.scores // shrink))
        left -= shown
        if left <= 0 or last:
            return work
        resolution *= 2


def sampling_work(config: Any, sampler: SamplerConfig | None) -> float:
    """Operations of one sample."""
    steps = 1
    if config.kind == "diffusion":
        steps = (sampler or default_sampler(config.steps)).steps or config.steps
    return float(steps * generator_cost(config).forward)


def main() -> None:
    """Writes costs.json for the presets' networks, with the channels and classes of BraTS and of phantoms."""
    from understudy.study.config.generators import GeneratorSpec
    from understudy.study.config.schema import Study, preset, presets

    shipped().clear()  # count all of them, whatever is known
    _kept().clear()
    for name in presets():
        study = Study.model_validate(preset(name))
        resolution = study.slices.resolution
        for generator in study.generators.values():
            if isinstance(generator, GeneratorSpec):
                fields = {**generator.model.model_dump(), "resolution": resolution, "channels": 5}
                training_work(registry.model_config(fields), generator.training)
        for segmenter in study.segmenters.values():
            segmenter_cost(segmenter.model, 4, 4, resolution)
    write_json(SHIPPED, _kept())


if __name__ == "__main__":
    main()

"""Operations and weights of networks, counted on torch's `meta` device, which computes nothing, and kept.

Counts of the presets' networks are in `costs.json` beside this file, others in this machine's cache,
`$XDG_CACHE_HOME/understudy` (`~/.cache/understudy`), which may be deleted at any time. After a change of a preset or
recipe run `python -m understudy.study.engine.costs`, which writes `costs.json` again.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from understudy.errors import UnderstudyError
from understudy.generators.builtin import GeneratorCost, count_operations
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.registry import model_config, network_type
from understudy.io.files import read_json, sha256_json, write_json
from understudy.segmenters.config import ModelConfig, build_model

COUNTING = 1  # raise it when a network changes what it computes under the same configuration
SHIPPED = Path(__file__).with_name("costs.json")


def read_cached(name: str) -> dict[str, Any]:
    """A file of the cache; {} if it is not there or not whole (another process may be writing)."""
    try:
        return read_json(_cache() / name, dict)
    except UnderstudyError:
        return {}


def write_cached(name: str, value: dict[str, Any]) -> None:
    """Keeps a file; where the cache cannot be written (a home that is read-only) it is measured again next time."""
    with suppress(UnderstudyError, OSError):
        write_json(_cache() / name, value)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "understudy"


@functools.cache
def _shipped() -> dict[str, list[int]]:
    return dict(read_json(SHIPPED))


@functools.cache
def _kept() -> dict[str, list[int]]:
    return read_cached("costs.json")


def counted(kind: str, what: dict[str, Any], count: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """The numbers of a network under these settings; counted, and kept in the cache, if they are not known yet."""
    key = sha256_json({"counting": COUNTING, "kind": kind, **what})[:16]
    known = _shipped().get(key) or _kept().get(key)
    if known is None:
        known = list(count())
        _kept()[key] = known
        write_cached("costs.json", {**read_cached("costs.json"), key: known})
    return tuple(known)


def generator_cost(config: Any) -> GeneratorCost:
    """What the networks of a configuration cost."""
    count = network_type(config.kind).count
    return GeneratorCost(*counted("generator", {"config": config.model_dump(mode="json")}, lambda: count(config)))


@functools.lru_cache(maxsize=64)
def segmenter_cost(config: ModelConfig, channels: int, classes: int, resolution: int) -> tuple[int, int]:
    """Operations for one slice, forward as in prediction, and numbers in the network."""

    def count() -> tuple[int, int]:
        with torch.device("meta"):
            network = build_model(config, channels, classes, resolution).eval()
            operations = count_operations(network, torch.empty(1, channels, resolution, resolution))
        return operations, sum(parameter.numel() for parameter in network.parameters())

    what = {"config": config.model_dump(mode="json"), "channels": channels, "classes": classes}
    return counted("segmenter", {**what, "resolution": resolution}, count)  # type: ignore[return-value]


def training_work(config: Any, training: Any) -> float:
    """Operations of the whole training of a generator."""
    return network_type(config.kind).training_operations(config, training, generator_cost)


def sampling_work(config: Any, sampler: SamplerConfig | None) -> float:
    """Operations of one sample."""
    return network_type(config.kind).sampling_operations(config, sampler, generator_cost)


def main() -> None:
    """Writes costs.json for the presets' networks, with the channels and classes of BraTS and of phantoms."""
    from understudy.study.config.generators import GeneratorSpec
    from understudy.study.config.schema import Study, preset, presets

    _shipped().clear()  # count all of them, whatever is known
    _kept().clear()
    for name in presets():
        study = Study.model_validate(preset(name))
        resolution = study.slices.resolution
        for generator in study.generators.values():
            if isinstance(generator, GeneratorSpec):
                fields = {**generator.model.model_dump(), "resolution": resolution, "channels": 5}
                training_work(model_config(fields), generator.training)
        for segmenter in study.segmenters.values():
            segmenter_cost(segmenter.model, 4, 4, resolution)
    write_json(SHIPPED, _kept())


if __name__ == "__main__":
    main()

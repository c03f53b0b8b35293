"""Checkpoints in the official formats (facts 1.1 to 1.5), made here without any official code.

A pickle names classes and functions by module; modules of these names stand in while it is written.
"""

from __future__ import annotations

import ast
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

Arrays = Mapping[str, np.ndarray]
SOURCE = "raise SystemExit('the source inside a checkpoint was executed')"
_BUFFERS = {
    "w_avg", "noise_const", "resample_filter", "freqs", "phases", "transform", "magnitude_ema", "up_filter",
    "down_filter",
}  # fmt: skip


def golden(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config, all arrays) of a golden file."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return ast.literal_eval(str(arrays.pop("config"))), arrays


def part(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The arrays with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


@contextmanager
def standing_in(**members: Any) -> Iterator[None]:
    """Modules with one member each ("dnnlib_tflib_network" for dnnlib.tflib.network) while the block runs."""
    names = []
    for key, member in members.items():
        path = key.split("__")
        for depth in range(1, len(path) + 1):
            name = ".".join(path[:depth])
            assert name not in sys.modules or name in names, f"{name} is a real module here"
            if name not in names:
                sys.modules[name] = types.ModuleType(name)
                names.append(name)
        member.__module__ = ".".join(path)
        setattr(sys.modules[member.__module__], member.__name__, member)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class Network:
    """A TensorFlow 1 network as its repositories pickle it."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def __getstate__(self) -> dict[str, Any]:
        return self.state


def tf_state(
    version: int, function: str, arguments: dict[str, Any], arrays: Arrays, **components: Network
) -> dict[str, Any]:
    """The state of a network; scalars are NumPy scalars, as a TensorFlow session returns them."""
    state = {
        "version": version, "name": function[:1], "static_kwargs": arguments, "build_module_src": SOURCE,
        "build_func_name": function,
        "variables": [(k, v[()] if v.ndim == 0 else v) for k, v in arrays.items()],
    }  # fmt: skip
    return state | ({"components": components} if version > 2 else {})


def tf_pickle(networks: tuple[Network, Network, Network], module: str, protocol: int = 4) -> bytes:
    """A pickle (G, D, Gs); module: "tfutil" or "dnnlib__tflib__network"."""
    with standing_in(**{module: Network}):
        return pickle.dumps(networks, protocol)


def progan_pickle(arrays: Arrays, arguments: dict[str, Any], protocol: int = 4) -> bytes:
    """Format of progressive_growing_of_gans; arrays: "G/..." and "D/..."."""
    judge = Network(tf_state(2, "D_paper", arguments, part(arrays, "D/")))
    make = Network(tf_state(2, "G_paper", arguments, part(arrays, "G/")))
    return tf_pickle((make, judge, make), "tfutil", protocol)


def stylegan1_pickle(arrays: Arrays, arguments: dict[str, Any], protocol: int = 4) -> bytes:
    """Format of stylegan; arrays: "G/G_mapping/...", "G/G_synthesis/...", "G/lod", "G/dlatent_avg" and "D/..."."""
    generator = part(arrays, "G/")
    components = {
        name: Network(tf_state(3, f"G_{name}", arguments, part(generator, f"G_{name}/")))
        for name in ("synthesis", "mapping")
    }
    own = {k: v for k, v in generator.items() if not k.startswith(("G_mapping/", "G_synthesis/"))}
    make = Network(tf_state(3, "G_style", arguments, own, **components))
    judge = Network(tf_state(3, "D_basic", arguments, part(arrays, "D/")))
    return tf_pickle((make, judge, make), "dnnlib__tflib__network", protocol)


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise AssertionError("the function that executes the source inside a checkpoint was called")


class EasyDict(dict[str, Any]):
    """Stands for dnnlib.EasyDict."""


class Persistent:
    """A module as `torch_utils.persistence` pickles it."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = {
            "type": "class", "version": 6, "module_src": SOURCE, "class_name": class_name, "state": state,
        }  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,), None


def persistent(
    arrays: Arrays, class_name: str, arguments: dict[str, Any], attributes: Mapping[str, dict[str, Any]]
) -> Persistent:
    """A tree of modules from dotted names; attributes: further state by the name of the module, "" for the root."""
    root: dict[str, Any] = {"_modules": {}, "_parameters": {}, "_buffers": {}}

    def module(path: str) -> dict[str, Any]:
        place = root
        for name in filter(None, path.split(".")):
            place = place["_modules"].setdefault(name, {"_modules": {}, "_parameters": {}, "_buffers": {}})
        return place

    for name, array in arrays.items():
        path, _, leaf = name.rpartition(".")
        kind = "_buffers" if leaf in _BUFFERS else "_parameters"
        module(path)[kind][leaf] = torch.from_numpy(np.array(array))
    for path, state in attributes.items():
        module(path).update(state)
    return _persistent(root, class_name, arguments)


def _persistent(tree: dict[str, Any], class_name: str, arguments: dict[str, Any]) -> Persistent:
    parts = OrderedDict((k, _persistent(v, "Layer", {})) for k, v in tree["_modules"].items())
    parameters = OrderedDict((k, torch.nn.Parameter(v, requires_grad=False)) for k, v in tree["_parameters"].items())
    known = {"_modules", "_parameters", "_buffers"}
    return Persistent(class_name, {
        "training": False, "_parameters": parameters, "_buffers": OrderedDict(tree["_buffers"]),
        "_non_persistent_buffers_set": set(), "_backward_hooks": OrderedDict(), "_modules": parts,
        "_init_args": (), "_init_kwargs": arguments, "act_gain": np.float64(2**0.5),
        **{k: v for k, v in tree.items() if k not in known},
    })  # fmt: skip


def persistence_pickle(
    arrays: Arrays,
    arguments: dict[str, Any],
    attributes: Mapping[str, dict[str, Any]],
    protocol: int = 4,
    group: int = 4,
    **entries: Any,
) -> bytes:
    """Format of stylegan2-ada-pytorch and stylegan3: a dictionary of G, D, G_ema and what else was saved."""
    with standing_in(torch_utils__persistence=_reconstruct_persistent_obj, dnnlib__util=EasyDict):
        given = {k: EasyDict(v) if isinstance(v, dict) else v for k, v in arguments.items()}
        make = persistent(part(arrays, "G/"), "Generator", given, attributes)
        shared = {k: given[k] for k in ("c_dim", "img_resolution", "img_channels")}
        deviation = {"b4.mbstd": {"group_size": group, "num_channels": 1}}
        judge = persistent(part(arrays, "D/"), "Discriminator", shared, deviation)
        content = {
            "G": make, "D": judge, "G_ema": make, "augment_pipe": None,
            "training_set_kwargs": {"class_name": "training.dataset.ImageFolderDataset", "use_labels": False},
            **entries,
        }  # fmt: skip
        return pickle.dumps(content, protocol)


def stylegan2_pickle(arrays: Arrays, config: Mapping[str, Any], protocol: int = 4, **entries: Any) -> bytes:
    """A StyleGAN 2 of the golden files' config in the format of stylegan2-ada-pytorch and stylegan3."""
    arguments = {
        "z_dim": config["z_dim"], "w_dim": config["w_dim"], "c_dim": 0, "img_resolution": config["resolution"],
        "img_channels": config["img_channels"], "mapping_kwargs": {"num_layers": config["mapping_layers"]},
        "synthesis_kwargs": {"channel_base": config["channel_base"], "channel_max": config["channel_max"],
                             "num_fp16_res": 4, "conv_clamp": 256},
    }  # fmt: skip
    attributes: dict[str, dict[str, Any]] = {
        "mapping": {"num_layers": config["mapping_layers"], "w_avg_beta": 0.998},
        "mapping.fc0": {"bias_gain": 0.01},
        "synthesis.b4.conv1": {"conv_clamp": 256, "up": 1},
        "synthesis.b4.torgb": {"conv_clamp": 256},
    }
    return persistence_pickle(arrays, arguments, attributes, protocol, **entries)


def stylegan3_pickle(arrays: Arrays, config: Mapping[str, Any], protocol: int = 4) -> bytes:
    """A StyleGAN 3 of the golden files' config in the format of stylegan3."""
    arguments = {
        "z_dim": config["z_dim"], "w_dim": config["w_dim"], "c_dim": 0, "img_resolution": config["resolution"],
        "img_channels": config["img_channels"], "mapping_kwargs": {}, "channel_base": config["channel_base"],
        "channel_max": config["channel_max"], "magnitude_ema_beta": 0.5 ** (32 / 20e3),
    }  # fmt: skip
    if config["use_radial_filters"]:
        arguments |= {"conv_kernel": 1, "use_radial_filters": True}
    attributes = {
        "mapping": {"num_layers": config["mapping_layers"], "w_avg_beta": 0.998},
        "mapping.fc0": {"bias_gain": 0.01},
        "synthesis.L0_36_32": {"conv_clamp": 256, "in_size": np.array([36, 36])},
    }
    return persistence_pickle(arrays, arguments, attributes, protocol)

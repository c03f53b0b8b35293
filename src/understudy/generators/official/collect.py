"""From the content of a checkpoint to what an importer needs: which model, its arguments and its named arrays."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.generators.official.records import Array, Module, Network, Refusal, Tensor

_MODULES = 5_000  # in one network; shared parts inside each other could otherwise be walked without end
_DEPTH = 12
_OFFICIAL_FIX = (
    "give a checkpoint of progressive_growing_of_gans, stylegan, stylegan2-ada-pytorch, stylegan3 or guided-diffusion"
)


@dataclass(frozen=True)
class Checkpoint:
    """An official checkpoint.

    Attributes:
        kind: as `load_official_arrays` knows it: "progan", "sg1", "sg2", "sg3t", "sg3r", "diffusion".
        source: the repository whose format it is.
        network: official name of the generator's function or class.
        arguments: of the networks, by their official names; {} for a diffusion model, whose file has none.
        average, raw, discriminator: arrays by official names with the prefixes "G/", "D/", "M/"; `average` is the
            exponential moving average of the generator, `raw` the generator that was trained. {} where absent.
        taken, left: of a file that holds more than the weights of one network: where `average` was found ("ema"), and
            what was left there.
    """

    kind: str
    source: str
    network: str
    arguments: dict[str, Any]
    average: dict[str, NDArray[Any]]
    raw: dict[str, NDArray[Any]] = field(default_factory=dict)
    discriminator: dict[str, NDArray[Any]] = field(default_factory=dict)
    taken: str = ""
    left: tuple[str, ...] = ()


def collect(content: Any) -> Checkpoint:
    """What an importer needs from the content of a file.

    Raises:
        UnderstudyError: the content is of none of the five models, or of a form of theirs that cannot be imported.
        Refusal: arrays or networks are not what they claim.
    """
    if isinstance(content, list | tuple) and len(content) == 3 and all(isinstance(n, Network) for n in content):
        return _tensorflow(*content)
    if isinstance(content, dict) and isinstance(content.get("G_ema"), Module):
        return _persistent(content)
    if isinstance(content, dict) and content and all(isinstance(v, Tensor) for v in content.values()):
        return _state_dict(content)
    if next(_unets(content), None):
        return _state_dict(content)
    if isinstance(content, dict) and "param_groups" in content:
        raise UnderstudyError(
            "the file holds the state of an optimiser, not a network",
            fix="give the ema_*.pt of the same step, or else model*.pt",
        )
    raise UnderstudyError("the file holds something else than the networks of an official model", fix=_OFFICIAL_FIX)


def _plain(name: str, value: Any) -> Any:
    """An argument of a network: a number, a text, or a few of them."""
    if isinstance(value, Array) and value.array().ndim == 0:
        value = value.array().item()
    if isinstance(value, list | tuple) and len(value) <= 64:
        return tuple(_plain(name, part) for part in value if not isinstance(part, list | tuple))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UnderstudyError("an argument that is neither a number nor a text", where=name[:80], fix=_OFFICIAL_FIX)


def _all_plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _plain(k, v) for k, v in arguments.items() if v is not None}


def _array(name: str, value: Any) -> NDArray[Any]:
    if not isinstance(value, Array | Tensor):
        raise Refusal(f"a variable {name[:80]!r} that is no array")
    array = value.array()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnderstudyError(
            "a weight is not finite: the training had diverged", where=name, fix="take an earlier checkpoint"
        )
    return array


def _text_keys(mapping: Any) -> dict[str, Any]:
    if not isinstance(mapping, dict) or not all(isinstance(key, str) for key in mapping):
        raise Refusal("a network whose parts have no names")
    return mapping


# TensorFlow 1: tuples (G, D, Gs) of networks.


def _tensorflow(generator: Network, discriminator: Network, average: Network) -> Checkpoint:
    arrays = dict(_variables(average, "G/"))
    function = str(average.state.get("build_func_name"))[:80]
    if "G/4x4/Dense/weight" in arrays:
        kind, source = "progan", "progressive_growing_of_gans"
    elif "G/G_synthesis/4x4/Const/StyleMod/weight" in arrays and "G/G_mapping/Dense0/weight" in arrays:
        kind, source = "sg1", "stylegan"
    else:
        raise UnderstudyError(
            f"a TensorFlow network {function!r} that is neither Progressive GAN nor StyleGAN 1",
            fix="convert a StyleGAN 2 of TensorFlow with legacy.py of NVlabs/stylegan3, and give the result",
        )
    arguments = {k: v for net in (discriminator, average) for k, v in _static(net).items()}
    _check_labels(arguments.pop("label_size", 0))
    raw, judged = dict(_variables(generator, "G/")), dict(_variables(discriminator, "D/"))
    return Checkpoint(kind, source, function, arguments, arrays, raw, judged)


def _static(network: Network) -> dict[str, Any]:
    """Arguments that the network was made with."""
    return _all_plain(_text_keys(network.state.get("static_kwargs", {})))


def _variables(network: Network, prefix: str, depth: int = 0) -> Iterator[tuple[str, NDArray[Any]]]:
    state = _text_keys(network.state)
    for entry in state.get("variables", ()):
        if not isinstance(entry, tuple | list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise Refusal("a variable without name and value")
        yield prefix + entry[0], _array(prefix + entry[0], entry[1])
    for name, part in _text_keys(state.get("components", {})).items():
        if not isinstance(part, Network) or depth >= 2:
            raise Refusal("a part of a network that is no network")
        yield from _variables(part, f"{prefix}G_{name}/", depth + 1)


def _check_labels(count: Any) -> None:
    if count:
        raise UnderstudyError(
            f"the model is conditioned on {count} labels, which is not supported",
            fix="give a model that was trained without labels",
        )


# PyTorch: dictionaries of persistent modules.


def _persistent(content: Mapping[str, Any]) -> Checkpoint:
    average = content["G_ema"]
    arrays = {f"G/{name}": array for name, array in _weights(average)}
    arguments = _module_arguments(average)
    if any(name.startswith("G/synthesis.b4.") for name in arrays):
        kind, source = "sg2", "stylegan2-ada-pytorch or stylegan3"
    elif "G/synthesis.input.freqs" in arrays:
        kind, source = ("sg3r" if arguments.get("use_radial_filters") else "sg3t"), "stylegan3"
    else:
        raise UnderstudyError(
            f"a generator {average.class_name[:80]!r} that is neither StyleGAN 2 nor StyleGAN 3", fix=_OFFICIAL_FIX
        )
    _check_labels(arguments.pop("c_dim", 0))
    judged: dict[str, NDArray[Any]] = {}
    if isinstance(content.get("D"), Module):
        judged = {f"D/{name}": array for name, array in _weights(content["D"])}
        arguments |= _deviation(content["D"])
    raw = content.get("G")
    trained = {f"G/{name}": array for name, array in _weights(raw)} if isinstance(raw, Module) else {}
    return Checkpoint(kind, source, average.class_name[:80], arguments, arrays, trained, judged)


def _weights(module: Module) -> Iterator[tuple[str, NDArray[Any]]]:
    for prefix, part in _walk(module):
        held = _text_keys(part.state.get("_parameters", {})) | _text_keys(part.state.get("_buffers", {}))
        for name, value in held.items():
            if value is not None:
                yield prefix + name, _array(prefix + name, value)


def _walk(module: Module) -> Iterator[tuple[str, Module]]:
    """The module and all parts, each with the prefix of its names."""
    waiting = [("", module, 0)]
    for _ in range(_MODULES):
        if not waiting:
            return
        prefix, part, depth = waiting.pop()
        yield prefix, part
        for name, inner in _text_keys(part.state.get("_modules", {})).items():
            if inner is None:
                continue
            if not isinstance(inner, Module) or depth >= _DEPTH:
                raise Refusal("a part of a module that is no persistent module, or parts without end")
            waiting.append((f"{prefix}{name}.", inner, depth + 1))
    raise Refusal("a network of more parts than any official one")


def _module_arguments(module: Module) -> dict[str, Any]:
    """Arguments of a generator: those it was made with, and the defaults of its version, read off its parts."""
    if module.state.get("_init_args"):
        raise Refusal("a generator made with arguments without names")
    made_with = _text_keys(module.state.get("_init_kwargs", {}))
    arguments: dict[str, Any] = {}
    for name, value in made_with.items():
        if name == "mapping_kwargs":
            arguments |= {"mapping_layers" if k == "num_layers" else k: v for k, v in _text_keys(value).items()}
        elif name == "synthesis_kwargs":
            arguments |= _text_keys(value)
        else:
            arguments[name] = value
    parts = dict(_walk(module))
    if "mapping." in parts:
        mapping = parts["mapping."].state
        arguments |= {"mapping_layers": mapping.get("num_layers"), "w_avg_beta": mapping.get("w_avg_beta")}
    if "mapping.fc0." in parts:
        arguments["lr_multiplier"] = parts["mapping.fc0."].state.get("bias_gain")
    arguments.pop("fp16_channels_last", None)  # how the official code computes
    arguments = _all_plain(arguments)
    clamps = {_plain("conv_clamp", p.state["conv_clamp"]) for p in parts.values() if "conv_clamp" in p.state}
    if len(clamps) > 1:
        raise UnderstudyError("layers with different limits (conv_clamp) are not supported", where=str(clamps))
    if clamps:
        arguments["conv_clamp"] = clamps.pop()
    return arguments


def _deviation(discriminator: Module) -> dict[str, Any]:
    """Arguments of the discriminator's minibatch standard deviation."""
    state = dict(_walk(discriminator)).get("b4.mbstd.", Module("", {})).state
    found = {"mbstd_group_size": state.get("group_size"), "mbstd_num_channels": state.get("num_channels")}
    return _all_plain(found)


# PyTorch: state dictionaries of guided-diffusion, bare, or as training scripts wrap them.

_FIRST, _SECOND = "time_embed.0.weight", "input_blocks.0.0.weight"  # by which the U-Net is known
_NESTED = 3  # dictionaries inside each other
_AVERAGE = re.compile(r"(?<![a-z])ema(?![a-z])|averag|shadow")  # in the names of averaged weights


def _unets(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every U-Net in a dictionary and those inside it: its place ("ema", "module.", "" where it is all there is), and
    its weights without what `DataParallel` ("module."), `torch.compile` ("_orig_mod.") or a wrapper put before them."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    for start in (key.removesuffix(_FIRST) for key in tensors if key.endswith(_FIRST)):
        if start + _SECOND in tensors:
            found = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            yield "/".join([*place, start] if start else place), found
    inside = {id(value): (key, value) for key, value in content.items() if isinstance(value, dict)}
    if len(place) < _NESTED:
        for key, value in inside.values():
            yield from _unets(value, (*place, key[:40]))


def _state_dict(content: Mapping[str, Any]) -> Checkpoint:
    found = list(itertools.islice(_unets(content), 20))
    if not found:
        raise UnderstudyError("a state dictionary, but not of guided-diffusion's U-Net", fix=_OFFICIAL_FIX)
    averages = [entry for entry in found if _AVERAGE.search(entry[0].lower())]
    place, weights = (averages or found)[0]
    arrays = {f"M/{name}": _array(name, value) for name, value in weights.items()}
    others = tuple(other for other, _ in found if other != place)
    return Checkpoint("diffusion", "guided-diffusion", "UNetModel", {}, arrays, taken=place, left=others)

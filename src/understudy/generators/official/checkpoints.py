"""Official checkpoints: from a file to the model it holds, its arguments and its named arrays.

Files are plain pickles or either format of `torch.save`, read with the machine of `pickles.py`.
"""

import io
import itertools
import math
import mmap
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.generators.official import pickles
from understudy.generators.official.pickles import Array, Machine, Module, Network, Refusal, Tensor, require
from understudy.io.files import reading
from understudy.io.foreign import CHECKPOINT, Budget

Arrays = dict[str, NDArray[Any]]

# A torch.save of the old format starts with this number, pickled, and its version.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_MAGIC_BYTES = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_AGAIN = CHECKPOINT.fix
_OFFICIAL = (
    "give a checkpoint of progressive_growing_of_gans, stylegan, stylegan2-ada-pytorch, stylegan3 or guided-diffusion"
)
_WRONG = [
    (rb"\s*(<!doctype|<html|<\?xml)", "a web page: the download needs a login, or a confirmation of its size"),
    (rb"\s*version https://git-lfs", "a pointer of Git LFS: the file itself is fetched by `git lfs pull`"),
    (rb"\x1f\x8b|BZ|\xfd7zXZ\x00|.{257}ustar", "an archive: unpack it and give the checkpoint inside"),
    (rb"\x89HDF", "an HDF5 file, not a checkpoint of the five models"),
]


@dataclass(frozen=True)
class Checkpoint:
    """An official checkpoint; arrays have their official names with the prefixes "G/", "D/", "M/", {} where absent."""

    kind: str  # as `load_official_arrays` knows it: "progan", "sg1", "sg2", "sg3t", "sg3r", "diffusion"
    source: str  # the repository whose format it is
    network: str  # official name of the generator's function or class
    arguments: dict[str, Any]  # of the networks, by their official names; a diffusion model's file has none
    ema: Arrays  # the exponential moving average of the generator
    discriminator: Arrays = field(default_factory=dict)
    taken: str = ""  # where `ema` was found in a file that holds more
    left: tuple[str, ...] = ()  # what of such a file was not used


# --- files ---


def read_checkpoint(path: str | Path, budget: Budget | None = None) -> Any:
    """The content of a file: containers, numbers, texts and the records of `pickles.py`; nothing in it is executed.

    Raises:
        UnderstudyError: no such file; not a checkpoint; damaged; or it asks for something that is not on the list of
            what official checkpoints need.
    """
    path = Path(path)
    with reading(path, CHECKPOINT), open(path, "rb") as handle:
        _check_kind(handle.read(512), path)
        budget = budget or Budget(path, CHECKPOINT)
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                # Reading a mapped file never reserves more than there is, whatever length the file claims; zip archives
                # need a file proper, and `zipfile` has its own checks.
                return _parse(handle if content[:2] == b"PK" else content, budget)  # type: ignore[arg-type]
            except Refusal as refusal:
                problem = f"the file asks for {refusal}, which no official checkpoint needs; nothing in it was executed"
                fix = "do not load it with other software unless you trust whoever made it"
                raise UnderstudyError(problem, path, fix) from refusal


def _check_kind(start: bytes, path: Path) -> None:
    # names the usual wrong files
    if start[:1] == b"\x80" or start[:4] == b"PK\x03\x04":
        return
    if not start:
        raise UnderstudyError("the file is empty", path, _AGAIN)
    found = next((f", but {what}" for pattern, what in _WRONG if re.match(pattern, start, re.I | re.S)), "")
    raise UnderstudyError(f"not a pickle or PyTorch file{found}", path, "give a .pkl or .pt of the official code")


def _parse(content: IO[bytes], budget: Budget) -> Any:
    content.seek(0)
    start = content.read(len(_MAGIC_BYTES))
    content.seek(0)
    if start[:4] == b"PK\x03\x04":
        return _read_zip(content, budget)
    if start == _MAGIC_BYTES:
        return _read_legacy(content, budget)

    def inner(data: Any) -> Any:  # a `torch.save` inside a pickle: always the old format
        require(isinstance(data, bytes) and data.startswith(_MAGIC_BYTES), "nested bytes that are no PyTorch storage")
        return _read_legacy(io.BytesIO(data), budget)

    return Machine(content, budget, inner=inner).run()


def _storage(storages: dict[str, pickles.Storage], identifier: Any) -> pickles.Storage:
    # that of the persistent id ("storage", type, key, device, count[, view]), at first empty
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise Refusal("an object outside of the file")
    _, kind, key, _, count = identifier[:5]
    name = kind.text.removeprefix("torch ") if isinstance(kind, pickles.Name) else ""
    if name not in pickles.STORAGES or not isinstance(key, str) or type(count) is not int or count < 0:
        raise Refusal("a storage of an unknown form")
    if len(identifier) == 6 and identifier[5] is not None:
        raise Refusal("a view of a storage, which only PyTorch before 0.4 wrote")
    return storages.setdefault(key, pickles.Storage(pickles.STORAGES[name], count))


def _read_legacy(stream: IO[bytes], budget: Budget) -> Any:
    # five pickles (magic number, version, machine, object, keys), then each storage as count and values
    storages: dict[str, pickles.Storage] = {}
    if (Machine(stream, budget).run(), Machine(stream, budget).run()) != (_MAGIC, _VERSION):
        raise ValueError("another version of torch.save")
    require(Machine(stream, budget).run().get("little_endian") is True, "the byte order of a big-endian machine")
    result = Machine(stream, budget, partial(_storage, storages)).run()  # only the object itself may hold tensors
    for key in Machine(stream, budget).run():
        made = storages[pickles.plain_key(key)]
        count = int.from_bytes(stream.read(8), "little")
        made.data = stream.read(made.size)
        if count != made.count or len(made.data) != made.size:
            raise EOFError("the values of a tensor are cut off")
    return result


def _read_zip(stream: IO[bytes], budget: Budget) -> Any:
    # a zip archive with `<name>/data.pkl` and one uncompressed file a storage, `<name>/data/<key>`
    with zipfile.ZipFile(stream) as archive:
        data = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(data) != 1:
            raise ValueError("a zip archive, but not one that torch.save writes")
        folder = data[0].removesuffix("data.pkl")
        storages: dict[str, pickles.Storage] = {}

        def member(name: str) -> bytes:
            entry = archive.getinfo(folder + name)
            require(entry.compress_type == zipfile.ZIP_STORED, "compressed values, which torch.save does not write")
            budget.spend(entry.file_size)
            return archive.read(entry)

        def storage(identifier: Any) -> pickles.Storage:
            made = _storage(storages, identifier)
            if made.data is None:
                made.data = member(f"data/{identifier[2]}")
            return made

        if folder + "byteorder" in archive.namelist():
            require(member("byteorder") == b"little", "the byte order of a big-endian machine")
        return Machine(io.BytesIO(member("data.pkl")), budget, storage).run()


# --- from the content of a file to what an importer needs ---


def collect(content: Any, budget: Budget) -> Checkpoint:
    """The checkpoint in the content of a file, each named array charged to what is left of its budget.

    Raises:
        UnderstudyError: the content is of none of the five models, or of a form of theirs that cannot be imported.
        Refusal: arrays or networks are not what they claim.
    """
    if isinstance(content, list | tuple) and len(content) == 3 and all(isinstance(n, Network) for n in content):
        return _tensorflow(content[1], content[2], budget)
    if isinstance(content, dict) and isinstance(content.get("G_ema"), Module):
        return _persistent(content, budget)
    if found := list(itertools.islice(_unets(content), 20)):  # a bare state dictionary, or as training scripts wrap it
        averaged = [entry for entry in found if re.search(r"(?<![a-z])ema(?![a-z])|averag|shadow", entry[0].lower())]
        place, weights = (averaged or found)[0]
        arrays = {f"M/{name}": _array(name, value, budget) for name, value in weights.items()}
        others = tuple(other for other, _ in found if other != place)
        return Checkpoint("diffusion", "guided-diffusion", "UNetModel", {}, arrays, taken=place, left=others)
    problem, fix = "the file holds something else than the networks of an official model", _OFFICIAL
    if isinstance(content, dict) and content and all(isinstance(v, Tensor) for v in content.values()):
        problem = "a state dictionary, but not of guided-diffusion's U-Net"
    elif isinstance(content, dict) and "param_groups" in content:
        problem = "the file holds the state of an optimiser, not a network"
        fix = "give the ema_*.pt of the same step, or else model*.pt"
    raise UnderstudyError(problem, fix=fix)


def _plain(name: str, value: Any) -> Any:
    # an argument of a network: a number, a text, or a few of them
    if isinstance(value, Array) and value.array().ndim == 0:
        value = value.array().item()
    if isinstance(value, list | tuple) and len(value) <= 64:
        return tuple(_plain(name, part) for part in value if not isinstance(part, list | tuple))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UnderstudyError("an argument that is neither a number nor a text", where=name[:80], fix=_OFFICIAL)


def _all_plain(arguments: Any) -> dict[str, Any]:
    return {k: _plain(k, v) for k, v in _named(arguments).items() if v is not None}


def _array(name: str, value: Any, budget: Budget) -> NDArray[Any]:
    if not isinstance(value, Array | Tensor):
        raise Refusal(f"a variable {name[:80]!r} that is no array")
    budget.spend(4 * math.prod(value.array().shape if isinstance(value, Array) else value.shape))  # single precision
    array = value.array()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnderstudyError("a weight is not finite: the training had diverged", name, "take an earlier checkpoint")
    return array


def _named(mapping: Any) -> dict[str, Any]:
    named = isinstance(mapping, dict) and all(isinstance(key, str) for key in mapping)
    require(named, "a network whose parts have no names")
    return mapping  # type: ignore[no-any-return]


def _tensorflow(discriminator: Network, ema: Network, budget: Budget) -> Checkpoint:
    # TensorFlow 1: a tuple (G, D, Gs) of networks
    def variables(network: Network, prefix: str, depth: int = 0) -> Iterator[tuple[str, NDArray[Any]]]:
        state = _named(network.state)
        for entry in state.get("variables", ()):
            if not isinstance(entry, tuple | list) or len(entry) != 2 or not isinstance(entry[0], str):
                raise Refusal("a variable without name and value")
            yield prefix + entry[0], _array(prefix + entry[0], entry[1], budget)
        for name, part in _named(state.get("components", {})).items():
            require(isinstance(part, Network) and depth < 2, "a part of a network that is no network")
            yield from variables(part, f"{prefix}G_{name}/", depth + 1)

    arrays, name = dict(variables(ema, "G/")), ema.state.get("build_func_name")
    function = name[:80] if isinstance(name, str) else ""  # the text of anything else could be without end
    if "G/4x4/Dense/weight" in arrays:
        kind, source = "progan", "progressive_growing_of_gans"
    elif "G/G_synthesis/4x4/Const/StyleMod/weight" in arrays and "G/G_mapping/Dense0/weight" in arrays:
        kind, source = "sg1", "stylegan"
    else:
        problem = f"a TensorFlow network {function!r} that is neither Progressive GAN nor StyleGAN 1"
        fix = "convert a StyleGAN 2 of TensorFlow with legacy.py of NVlabs/stylegan3, and give the result"
        raise UnderstudyError(problem, fix=fix)
    judged, made = (_all_plain(network.state.get("static_kwargs", {})) for network in (discriminator, ema))
    return Checkpoint(kind, source, function, judged | made, arrays, dict(variables(discriminator, "D/")))


def _persistent(content: Mapping[str, Any], budget: Budget) -> Checkpoint:
    # PyTorch: a dictionary of persistent modules
    absent = Module("", {})  # without weights
    ema, judge = (part if isinstance(part, Module) else absent for part in map(content.get, ("G_ema", "D")))
    arrays, arguments = _weights(ema, "G/", budget), _module_arguments(ema)
    if any(name.startswith("G/synthesis.b4.") for name in arrays):
        kind, source = "sg2", "stylegan2-ada-pytorch or stylegan3"
    elif "G/synthesis.input.freqs" in arrays:
        kind, source = ("sg3r" if arguments.get("use_radial_filters") else "sg3t"), "stylegan3"
    else:
        problem = f"a generator {ema.class_name[:80]!r} that is neither StyleGAN 2 nor StyleGAN 3"
        raise UnderstudyError(problem, fix=_OFFICIAL)
    deviation = dict(_walk(judge)).get("b4.mbstd.", absent).state  # the minibatch standard deviation's
    found = {"mbstd_group_size": deviation.get("group_size"), "mbstd_num_channels": deviation.get("num_channels")}
    arguments |= _all_plain(found)
    return Checkpoint(kind, source, ema.class_name[:80], arguments, arrays, _weights(judge, "D/", budget))


def _walk(module: Module) -> Iterator[tuple[str, Module]]:
    # the module and all parts, each with the prefix of its names
    waiting = [("", module, 0)]
    for _ in range(5_000):  # parts that hold each other could be walked without end
        if not waiting:
            return
        prefix, part, depth = waiting.pop()
        yield prefix, part
        for name, inner in _named(part.state.get("_modules", {})).items():
            if inner is not None:
                known = isinstance(inner, Module) and depth < 12
                require(known, "a part of a module that is no persistent module, or parts without end")
                waiting.append((f"{prefix}{name}.", inner, depth + 1))
    raise Refusal("a network of more parts than any official one")


def _weights(module: Module, start: str, budget: Budget) -> Arrays:
    found: Arrays = {}
    for prefix, part in _walk(module):
        held = _named(part.state.get("_parameters", {})) | _named(part.state.get("_buffers", {}))
        found |= {start + prefix + k: _array(prefix + k, v, budget) for k, v in held.items() if v is not None}
    return found


def _module_arguments(module: Module) -> dict[str, Any]:
    # those that a generator was made with, and the defaults of its version, read off its parts
    require(not module.state.get("_init_args"), "a generator made with arguments without names")
    arguments = dict(_named(module.state.get("_init_kwargs", {})))
    mapping = _named(arguments.pop("mapping_kwargs", {}))
    arguments |= {"mapping_layers" if k == "num_layers" else k: v for k, v in mapping.items()}
    arguments |= _named(arguments.pop("synthesis_kwargs", {}))
    parts = {prefix: part.state for prefix, part in _walk(module)}
    if found := parts.get("mapping."):
        arguments |= {"mapping_layers": found.get("num_layers"), "w_avg_beta": found.get("w_avg_beta")}
    if "mapping.fc0." in parts:
        arguments["lr_multiplier"] = parts["mapping.fc0."].get("bias_gain")
    arguments.pop("fp16_channels_last", None)  # how the official code computes
    arguments = _all_plain(arguments)
    clamps = {_plain("conv_clamp", state["conv_clamp"]) for state in parts.values() if "conv_clamp" in state}
    if len(clamps) > 1:
        raise UnderstudyError("layers with different limits (conv_clamp) are not supported", where=str(clamps))
    return arguments | ({"conv_clamp": clamps.pop()} if clamps else {})


_FIRST, _SECOND = "time_embed.0.weight", "input_blocks.0.0.weight"  # by which the U-Net is known


def _unets(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    # Every U-Net in a dictionary and those inside it: its place ("ema", "module.", "" where it is all there is), and
    # its weights without what `DataParallel` ("module."), `torch.compile` ("_orig_mod.") or a wrapper put before them.
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    for start in (key.removesuffix(_FIRST) for key in tensors if key.endswith(_FIRST)):
        if start + _SECOND in tensors:
            found = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            yield "/".join([*place, start] if start else place), found
    inside = {id(value): (key, value) for key, value in content.items() if isinstance(value, dict)}
    if len(place) < 3:  # dictionaries inside each other, without end perhaps
        for key, value in inside.values():
            yield from _unets(value, (*place, key[:40]))

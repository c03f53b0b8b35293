"""Weights from a user's file: checked by SHA-256 and read as tensors; no code of the file is run as Python.

A state dict is read with `weights_only=True`, safetensors have no code at all. A TorchScript archive may hold script
functions that run while it is opened, so one is opened only if its SHA-256 is the published one or the one that the
user states; then nothing but its parameters is taken.
"""

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.errors import UnderstudyError
from understudy.io.files import reading, sha256_file
from understudy.io.foreign import WEIGHTS
from understudy.io.readers import read_tensors

# SHA-256 (hex, or its first digits) of files that are known to be the right ones
PUBLISHED: dict[str, tuple[str, ...]] = {
    "inception2015": (
        "6726825d",  # torch-fidelity's state dict; its file name carries these first digits
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",  # NVIDIA's TorchScript
    )
}


@dataclass(frozen=True)
class Weights:
    """Tensors of a file by name, its SHA-256 (hex), and the opened TorchScript module, if the file was one."""

    path: Path
    sha256: str
    tensors: dict[str, torch.Tensor]
    script: torch.jit.ScriptModule | None = None


def read_weights(path: str | Path, extractor: str, stated: str | None = None) -> Weights:
    """Reads a state dict (.pth, .pt, .safetensors) or the parameters of a TorchScript archive, for an extractor.

    `stated`: SHA-256 (hex, at least the first 8 digits) that the file must have; None: one of `PUBLISHED` if there is
    any, else every state dict is taken and its hash recorded. Raises `UnderstudyError` for no such file, another hash,
    nothing that can be read safely.
    """
    path = Path(path)
    if not path.is_file():
        raise UnderstudyError("there are no weights", where=path, fix="give the path of the downloaded file")
    if stated is not None and len(stated) < 8:
        raise UnderstudyError("a stated SHA-256 needs at least its first 8 digits", fix="give all 64")
    found = sha256_file(path)
    wanted = (stated.lower(),) if stated is not None else PUBLISHED.get(extractor, ())
    if wanted and not found.startswith(wanted):
        listed = " or ".join(w if len(w) == 64 else w + "…" for w in wanted)
        fix = "download the file again; if you mean this one, state its SHA-256 (--weights-sha256)"
        raise UnderstudyError(f"the weights have the SHA-256 {found}, not {listed}", where=path, fix=fix)
    tensors_only, script = path.suffix == ".safetensors", False
    with reading(path, WEIGHTS):  # `is_zipfile` raises as well
        if not tensors_only and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # TorchScript archives hold code and constants beside the tensors
                script = any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
    if script and not wanted:
        what = f"a TorchScript file can run code while it is opened, and no SHA-256 vouches for this one ({found})"
        fix = "state its SHA-256 (--weights-sha256) if you trust where it came from, or give a state dict"
        raise UnderstudyError(what, where=path, fix=fix)
    with reading(path, WEIGHTS):
        if tensors_only:
            return Weights(path, found, read_tensors(path, WEIGHTS))
        if script:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.jit is on its way out; reading old files is its last use
                module: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
            return Weights(path, found, {k: v.detach() for k, v in module.state_dict().items()}, module)
        content = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model", "teacher"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise UnderstudyError("the file holds no state dict", where=path, fix="give a state dict of tensors")
    return Weights(path, found, {str(k): v for k, v in content.items()})


def load_into(network: nn.Module, tensors: Mapping[str, torch.Tensor], source: Weights) -> None:
    """Loads tensors of a file by name; further names in the file are left.

    Raises `UnderstudyError` if one of the network's is not there or has another shape.
    """
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    fix = "give the file that belongs to this extractor"
    if missing := sorted(set(wanted) - set(tensors)):
        listed = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        what = f"{len(missing)} of {len(wanted)} weights are not in the file: {listed}"
        raise UnderstudyError(what, where=source.path, fix=fix)
    for name, own in wanted.items():
        if tensors[name].shape != own.shape:
            what = f"the weight {name} has the shape {tuple(tensors[name].shape)}, not {tuple(own.shape)}"
            raise UnderstudyError(what, where=source.path, fix=fix)
    network.load_state_dict({k: tensors[k].float() for k in wanted}, strict=False)

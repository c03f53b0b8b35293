"""Weights from a user's file: checked by SHA-256 and read as tensors; no code of the file is run as Python.

A state dict is read with `weights_only=True`, safetensors have no code at all. A TorchScript archive may hold script
functions that run while it is opened, so one is opened only if its SHA-256 is the published one or the one that the
user states; then nothing but its parameters is taken.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file

PUBLISHED: dict[str, tuple[str, ...]] = {
    "inception2015": (
        "6726825d",  # torch-fidelity's state dict; its file name carries these first digits
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",  # NVIDIA's TorchScript
    )
}
"""Extractor -> SHA-256 (hex, or its first 8 digits) of files that are known to be the right ones."""


@dataclass(frozen=True)
class Weights:
    """Tensors of a file.

    Attributes:
        path: the file.
        sha256: of the file (hex).
        tensors: name -> tensor.
        script: the opened TorchScript module, if the file was one.
    """

    path: Path
    sha256: str
    tensors: dict[str, torch.Tensor]
    script: torch.jit.ScriptModule | None = None


def read_weights(path: str | Path, extractor: str, stated: str | None = None) -> Weights:
    """Reads a state dict (.pth, .pt, .safetensors) or the parameters of a TorchScript archive.

    Args:
        path: the user's file.
        extractor: name of the extractor, for its published hashes.
        stated: SHA-256 (hex, at least the first 8 digits) that the file must have; None: a published one if there
            is any, else every state dict is taken and its hash recorded.

    Raises:
        UnderstudyError: no such file, another hash, nothing that can be read safely.
    """
    path = Path(path)
    if not path.is_file():
        raise UnderstudyError("there are no weights", where=path, fix="give the path of the downloaded file")
    found = sha256_file(path)
    checked = _check(path, found, extractor, stated)
    if path.suffix == ".safetensors":
        return Weights(path, found, _read_safetensors(path))
    if _is_script(path):
        if not checked:
            raise UnderstudyError(
                f"a TorchScript file can run code while it is opened, and no SHA-256 vouches for this one ({found})",
                where=path,
                fix="state its SHA-256 (--weights-sha256) if you trust where it came from, or give a state dict",
            )
        script = _read_script(path)
        return Weights(path, found, {k: v.detach() for k, v in script.state_dict().items()}, script)
    return Weights(path, found, _read_state_dict(path))


def _check(path: Path, found: str, extractor: str, stated: str | None) -> bool:
    """Whether the hash is one that was asked for; False if none was."""
    if stated is not None and len(stated) < 8:
        raise UnderstudyError("a stated SHA-256 needs at least its first 8 digits", fix="give all 64")
    wanted = (stated.lower(),) if stated is not None else PUBLISHED.get(extractor, ())
    if wanted and not any(found.startswith(w) for w in wanted):
        raise UnderstudyError(
            f"the weights have the SHA-256 {found}, not {' or '.join(w if len(w) == 64 else w + '…' for w in wanted)}",
            where=path,
            fix="download the file again; if you mean this one, state its SHA-256 (--weights-sha256)",
        )
    return bool(wanted)


def _is_script(path: Path) -> bool:
    """TorchScript archives are zip files with code and constants beside the tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())


def _read_script(path: Path) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out; reading old files is what it is still for
        try:
            return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-any-return,no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise _unreadable(path, error) from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error
    for key in ("state_dict", "model", "teacher"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise UnderstudyError("the file holds no state dict", where=path, fix="give a state dict of tensors")
    return {str(k): v for k, v in content.items()}


def _unreadable(path: Path, error: BaseException) -> UnderstudyError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return UnderstudyError(
        f"the weights cannot be read safely ({first})",
        where=path,
        fix="give a state dict (tensors only), safetensors, or a TorchScript archive",
    )


def load_into(network: nn.Module, tensors: Mapping[str, torch.Tensor], where: Path) -> None:
    """Loads tensors by name into a network; every one of the network's must be there.

    Raises:
        UnderstudyError: names are missing, or shapes differ; further names in the file are left.
    """
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(tensors))
    if missing:
        raise UnderstudyError(
            f"{len(missing)} of {len(wanted)} weights are not in the file: {', '.join(missing[:3])}"
            + (" ..." if len(missing) > 3 else ""),
            where=where,
            fix="give the file that belongs to this extractor",
        )
    for name, own in wanted.items():
        if tensors[name].shape != own.shape:
            raise UnderstudyError(
                f"the weight {name} has the shape {tuple(tensors[name].shape)}, not {tuple(own.shape)}",
                where=where,
                fix="give the file that belongs to this extractor",
            )
    network.load_state_dict({k: tensors[k].float() for k in wanted}, strict=False)

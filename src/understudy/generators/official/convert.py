"""`understudy import`: an official checkpoint becomes the folder of a generator, ready to be sampled."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from understudy.errors import UnderstudyError
from understudy.generators.folder import is_finished, save_model
from understudy.generators.joint import Annotation, annotation_channels
from understudy.generators.official.checkpoints import Checkpoint, collect, read_checkpoint
from understudy.generators.official.pickles import Refusal
from understudy.generators.official.weights import load_official_arrays
from understudy.io.files import reading, sha256_file, sha256_json
from understudy.io.foreign import CHECKPOINT, Budget
from understudy.slices import BACKGROUND, LabelClass, evenly_coded

BRATS_CLASSES = (BACKGROUND, LabelClass("NCR/NET", 1, 51), LabelClass("ED", 2, 102), LabelClass("ET", 4, 204))

# Order of the channels in the models that the paper's authors share on AIDA data hub; the annotation is the last.
_AUTHORS_ORDER = {
    "progan": "T1wGd,T1w,FLAIR,T2w",
    "sg1": "T1wGd,T1w,FLAIR,T2w (their sampling script names the first two the other way round: look at samples)",
    **dict.fromkeys(("sg2", "sg3t", "sg3r", "diffusion"), "T1w,T2w,FLAIR,T1wGd"),
}
_ORIGIN = "check where the file comes from"


@dataclass(frozen=True)
class Imported:
    """What was imported."""

    folder: Path  # of the generator
    kind: str  # of our model, e.g. "stylegan2"
    source: str  # whose format the file has
    resolution: int  # pixels
    channels: tuple[str, ...]  # names of the image channels
    notes: tuple[str, ...]  # what the user should know


def import_checkpoint(
    path: str | Path, out: str | Path, channels: Sequence[str] | None, classes: Sequence[LabelClass] = BRATS_CLASSES,
    annotation: Annotation = "coded", diffusion: Mapping[str, Any] | None = None,
) -> Imported:  # fmt: skip
    """Converts an official checkpoint; nothing in the file is executed, and TensorFlow is not needed.

    Args:
        path: .pkl of progressive_growing_of_gans, stylegan, stylegan2-ada-pytorch or stylegan3, or .pt of
            guided-diffusion.
        out: folder for the generator; an earlier import of the same file is left as it is.
        channels: names of the image channels in the order of the model; the annotation follows them.
        classes: of the annotation, background first.
        diffusion: what a .pt does not tell, see `weights.unet_config`.

    Raises:
        UnderstudyError: the file is damaged, asks for something forbidden, or is of no model or form that can be
            imported; channels, classes or diffusion do not fit; `out` holds something else; disk full.
    """
    path, folder = Path(path), Path(out)
    if annotation not in get_args(Annotation):
        what = f"annotation {annotation!r} is unknown"
        raise UnderstudyError(what, fix="coded (one channel) or one_hot (one a class)")
    if len(classes) < 2 or classes[0].source != 0:
        raise UnderstudyError("no classes besides the background", fix="name them (`classes`, --classes)")
    with reading(path):
        budget = Budget(path, CHECKPOINT)
    content = read_checkpoint(path, budget)
    with _naming(path):
        checkpoint = collect(content, budget)
        arguments = _arguments(checkpoint, {k: v for k, v in (diffusion or {}).items() if v is not None})
        model: Any = load_official_arrays(arguments, checkpoint.ema | checkpoint.discriminator)
        names = _checked_channels(checkpoint.kind, model, channels, annotation_channels(classes, annotation))
    source = {"file": path.name, "sha256": sha256_file(path), "format": checkpoint.source,
              "network": checkpoint.network}  # fmt: skip
    if checkpoint.taken:
        source["weights"] = checkpoint.taken
    record = {
        "kind": model.config.kind, "model": model.config.model_dump(), "training": None, "imported": source,
        **_progress(path.name), "channels": list(names), "classes": [vars(c) for c in classes],
        "annotation": annotation, "spacing": None, "axes": None,
    }  # fmt: skip
    identity = sha256_json(record)
    if not is_finished(folder, identity):
        discriminator = model.discriminator if checkpoint.discriminator else None
        save_model(folder, model.generator, record | {"torch": torch.__version__, "identity": identity}, discriminator)
    notes = _notes(checkpoint, model, path)
    return Imported(folder, model.config.kind, checkpoint.source, model.config.resolution, names, notes)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    # errors inside the block name the file
    try:
        yield
    except Refusal as refusal:
        raise UnderstudyError(f"the file is no official checkpoint: it holds {refusal}", path, _ORIGIN) from refusal
    except UnderstudyError as error:
        where = f"{path}, {error.where}" if error.where else path
        raise UnderstudyError(error.what, where=where, fix=error.fix or _ORIGIN) from error
    except (MemoryError, RuntimeError) as error:
        problem = f"the model does not fit into memory ({error})"[:300]
        raise UnderstudyError(problem, path, "use a machine with more memory") from error


def parse_channels(text: str) -> tuple[str, ...]:
    """Channels from "T1w,T1wGd,T2w,FLAIR"; an UnderstudyError where a name is empty or repeated."""
    names = tuple(part.strip() for part in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise UnderstudyError("the channels need names that differ", f"--channels {text}", "write T1w,T1wGd,T2w,FLAIR")
    return names


def parse_classes(text: str) -> tuple[LabelClass, ...]:
    """Classes from "NCR/NET=1:51,ED=2:102,ET=4:204": name, value in label volumes and code in the joint image.

    Codes may be left out: they are then evenly spaced. An UnderstudyError where anything is given twice or impossible.
    """
    matches = [re.fullmatch(r"\s*([^=:]+?)\s*=\s*(\d{1,6})\s*(?::\s*(\d{1,3}))?\s*", part) for part in text.split(",")]
    names, values = [m[1] for m in matches if m], [int(m[2]) for m in matches if m]
    codes = [int(m[3]) for m in matches if m and m[3] is not None]
    columns, problem = (names, values, codes), ""
    if len(names) != len(matches) or len(codes) not in (0, len(names)):
        problem = "the classes cannot be read"
    elif any(len(set(column)) != len(column) or 0 in column for column in columns) or max([*codes, 0]) > 255:
        problem = "names, values and codes must differ, values be at least 1 and codes 1 to 255"
    if problem:
        fix = "write NAME=VALUE:CODE,... such as NCR/NET=1:51,ED=2:102,ET=4:204 (or without codes)"
        raise UnderstudyError(problem, f"--classes {text}", fix)
    if not codes:
        return evenly_coded(dict(zip(values, names, strict=True)))
    return BACKGROUND, *map(LabelClass, names, values, codes)


def _arguments(checkpoint: Checkpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    # kind and arguments of the model: what the file tells within what its arrays can fill, and what was given
    arguments = {"kind": checkpoint.kind, **checkpoint.arguments}
    if checkpoint.kind == "diffusion":
        return {**arguments, **given}
    if given:
        problem = f"{', '.join(sorted(given))} given for a {checkpoint.source} checkpoint, which tells them itself"
        raise UnderstudyError(problem, fix="leave `diffusion` (options that say `.pt only`) out")
    # a network is built before its shapes are compared: sizes beyond the arrays would fill the memory
    widest = max(
        (sorted(a.shape)[-2] for a in checkpoint.ema.values() if a.ndim >= 2 and a.size), default=1
    )  # channels
    for name, value in arguments.items():
        numeric = isinstance(value, int | float)
        if name in ("channel_max", "fmap_max") and numeric:
            arguments[name] = min(value, widest)
        elif name in ("channel_base", "fmap_base"):
            continue  # divided by the resolution, and limited by the maximum
        elif name in ("c_dim", "label_size") and value:
            problem = f"the model is conditioned on {value} labels, which is not supported"
            raise UnderstudyError(problem, fix="give a model that was trained without labels")
        elif numeric and value > (64 if "layers" in name else 4096):  # a claim, not a model
            raise UnderstudyError(f"{name} = {value:.3g} is beyond any model")
        elif isinstance(value, str) and not re.fullmatch(r"[A-Za-z_]\w*", value):
            raise UnderstudyError(f"{name} is no known word")
    return arguments


def _checked_channels(kind: str, model: Any, names: Sequence[str] | None, drawn: int) -> tuple[str, ...]:
    # the names, as many as the model has channels besides the `drawn` ones of the annotation
    count = model.config.channels
    images = count - drawn
    if images < 1:
        problem = f"the model has {count} channels, too few for an image and {drawn} of the annotation"
        fix = "only models that draw an annotation can be imported; check `annotation` and `classes`"
        raise UnderstudyError(problem, fix=fix)
    order = f"the models of the paper's authors on AIDA data hub have, for this kind, {_AUTHORS_ORDER[kind]}"
    if names is None:
        problem = f"the names of the {images} image channels are needed: the file does not tell them"
        raise UnderstudyError(
            problem, fix=f"give `channels` (--channels), the names in the order of the training; {order}"
        )
    if len(names) != images:
        problem = f"{len(names)} channels named ({', '.join(names)}), but the model has {count}: {images} of the image"
        problem += f" and {drawn} of the annotation, which is last and not named"
        raise UnderstudyError(problem, fix=f"correct `channels` (or `annotation`, `classes`); {order}")
    return tuple(names)


def _progress(name: str) -> dict[str, Any]:
    # how far the training was, as far as the official names of files tell: thousand images, or steps and EMA
    if found := re.search(r"network-snapshot-(\d+)\.pkl$", name):
        return {"kimg": float(found[1])}
    if found := re.search(r"(?:ema_([\d.]+)_|model)(\d+)\.pt$", name):
        return {"kimg": None, "trained_steps": int(found[2]), "ema": float(found[1]) if found[1] else None}
    return {"kimg": None}


def _notes(checkpoint: Checkpoint, model: Any, path: Path) -> tuple[str, ...]:
    notes = []
    if (level := float(getattr(model.generator, "level", 0))) > 0:
        growing = f"the network was still growing, {level:g} doublings below its full resolution"
        notes.append(f"{growing}: samples are enlarged; a later snapshot of the same training has none left")
    if checkpoint.taken:
        others = f"; {', '.join(checkpoint.left)} not used" if checkpoint.left else ""
        notes.append(f"the weights are those called {checkpoint.taken} in the file{others}")
    if checkpoint.kind == "diffusion":
        if re.match(r"model\d+\.pt", path.name):
            notes.append("these are the raw weights of the training; ema_*.pt of the same step usually samples better")
        if model.config.num_head_channels is None:
            notes.append(f"attention with {model.config.num_heads} heads (--heads): the weights do not tell how many")
    elif not checkpoint.discriminator:
        notes.append("the file has no discriminator")
    return tuple(notes)

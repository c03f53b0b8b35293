"""Mutated files of every other format that Understudy reads, for `fuzz_inputs.py`: arrays, sets, models, tables, ...

A format is made once a process and copied for each case. Its file is changed as bytes, as JSON or as a table, and then
used as the commands use it. By itself it imports hostile checkpoints, the last of them changed:

    python benchmarks/fuzz_formats.py 200
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import resource
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
sys.path += [str(TESTS / "generators"), str(TESTS / "generators" / "official"), str(TESTS / "segmenters")]

Rng = np.random.Generator
ODD: list[Any] = [
    *(None, [], {}, -1, 0, 1, 2, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), -0.5, True, "", "a", "1"),
    *([1], [[1]], {"a": 1}, "x" * 300, "../..", [None], ["a", "a"], 65536, 10**6),
]
WORDS = (
    *("null", "[]", "{}", "-1", "0", "1", "1e309", ".nan", ".inf", str(2**63), "true", "a", "''", "2020-01-01", "*a"),
    *("&a [*a]", "!!python/object:os.system x", "{a: {b: {c: {d: 1}}}}", "[1, [2, [3]]]", "é", "\t", "|", ": :", "???"),
    *("1:2:3", "0x10", "0o7", "1_000", "<<", "65536", "0.5", "[a, a]", "{1: 2, 1: 3}", "%YAML 1.2", "\x00", "🙂"),
    *("x" * 999, "2", "8", "4096", "[1]", "axial", "max", "FLAIR", "lesion", "{flair: a}", "'{patient}'", "**/*"),
    *("~", "-.inf", "9" * 5000, "2020-13-01", "!!binary aa", "!!set {a}", "? x", "\x07", "\u2028", "'\\ud800'"),
    *('"\\ud800"', "../..", "/", "stylegan2", "[real]", "quick"),
)  # fmt: skip
EVENTS = ("os.system", "subprocess.Popen", "exec", "import", "pickle.find_class", "socket.connect", "os.remove")


def mutated_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, cut out, doubled or added."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if not changed:
            break
        place, length = int(rng.integers(len(changed))), int(rng.integers(1, 64))
        match int(rng.integers(5)):
            case 0:
                changed[place] ^= int(rng.integers(1, 256))
            case 1:
                del changed[place : place + length]
            case 2:
                changed[place:place] = changed[place : place + length]
            case 3:
                changed[place : place + length] = rng.bytes(length)
            case 4:
                del changed[place:]
    return bytes(changed)


def mutated_study(text: str, rng: np.random.Generator) -> bytes:
    """Lines, values and characters of a study file changed."""
    lines = text.splitlines()
    for _ in range(int(rng.integers(1, 4))):
        k, word = int(rng.integers(len(lines))), WORDS[int(rng.integers(len(WORDS)))]
        match int(rng.integers(8)):
            case 0:
                del lines[k]
            case 1:
                lines.insert(k, lines[int(rng.integers(len(lines)))])
            case 2:
                lines[k] = " " * int(rng.integers(5)) + lines[k].lstrip()
            case 3 | 4:
                head, colon, _ = lines[k].partition(":")
                lines[k] = head + colon + " " + word
            case 5:
                words = lines[k].split(" ")
                words[int(rng.integers(len(words)))] = word
                lines[k] = " ".join(words)
            case 6:
                lines[k] = mutated_bytes(lines[k].encode(), rng).decode("latin1")
            case 7:
                del lines[k + 1 :]
        lines = lines or [""]
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    return mutated_bytes(content, rng) if rng.random() < 0.2 else content


def changed_json(content: Any, rng: Rng) -> Any:
    """One value, anywhere, replaced, removed or added."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in list(entries):
            places.append((value, key))
            walk(inner)

    walk(content)
    if not places or rng.random() < 0.02:
        return ODD[int(rng.integers(len(ODD)))]
    for _ in range(int(rng.integers(1, 3))):
        holder, key = places[int(rng.integers(len(places)))]
        with suppress(KeyError, IndexError):
            if rng.random() < 0.25:
                del holder[key]
            elif rng.random() < 0.1 and isinstance(holder, dict):
                holder[str(ODD[int(rng.integers(len(ODD)))])] = 1
            else:
                holder[key] = ODD[int(rng.integers(len(ODD)))]
    return content


def changed_table(path: Path, rng: Rng) -> None:
    """A column dropped, renamed, emptied or of another type; rows dropped or doubled."""
    import pandas as pd
    from pyarrow import ArrowException

    frame = pd.read_parquet(path)
    name = str(rng.choice(frame.columns))
    match int(rng.integers(7)):
        case 0:
            frame = frame.drop(columns=name)
        case 1:
            frame = frame.rename(columns={name: "x"})
        case 2:
            frame[name] = None
        case 3:
            frame[name] = ODD[int(rng.integers(len(ODD)))] if rng.random() < 0.01 else f"{rng.integers(9)}"
        case 4:
            frame = frame.iloc[: int(rng.integers(len(frame)))]
        case 5:
            frame = pd.concat([frame, frame])
        case 6:
            frame[name] = frame[name].astype(str).str.encode("utf-8")
    with suppress(ValueError, TypeError, OverflowError, ArrowException):  # what Parquet cannot hold is left as it was
        frame.to_parquet(path)


def change(path: Path, rng: Rng) -> None:
    """A file as its ending says, or as bytes."""
    if path.suffix == ".json" and rng.random() < 0.8:
        path.write_text(json.dumps(changed_json(json.loads(path.read_text()), rng)))
    elif path.suffix == ".parquet" and rng.random() < 0.5:
        changed_table(path, rng)
    elif rng.random() < 0.05:
        path.unlink()
    else:
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))


def change_one(root: Path, rng: Rng) -> None:
    """Any file of a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    change(files[int(rng.integers(len(files)))], rng)


def attempt(*steps: Callable[[], object]) -> str:
    """Does all; "refused" where one refuses, "accepted" where none does."""
    from understudy.errors import UnderstudyError

    outcome = "accepted"
    for step in steps:
        try:
            step()
        except UnderstudyError as error:
            if error.what.startswith("unexpected"):
                return f"unforeseen: {error.what}"
            outcome = "refused"
    return outcome


# --- NumPy files ---


def make_arrays(root: Path) -> None:
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 255, (6, 2, 16, 16), np.uint8), rng.integers(0, 2, (6, 16, 16), np.uint8)
    for kind, save in (("packed", np.savez_compressed), ("plain", np.savez)):
        (root / kind).mkdir()
        save(root / kind / "slices.npz", images=images, labels=labels * 51)
    for side in ("pred", "target"):
        (root / side).mkdir()
        np.savez_compressed(root / side / "p1.npz", labels=labels)
        np.save(root / side / "p2.npy", np.asfortranarray(labels))


def use_arrays(root: Path) -> str:
    from understudy.exchange.read import open_images, read_folder
    from understudy.exchange.spec import FolderSpec
    from understudy.metrics.label_files import score_labels

    spec = FolderSpec(channels=["T1w", "FLAIR"], codes={"lesion": 51})
    return attempt(
        *(functools.partial(read_folder, root / k, spec, root / f"r-{k}", progress=False) for k in ("packed", "plain")),
        *(functools.partial(open_images, root / k, root / f"o-{k}") for k in ("packed", "plain")),
        lambda: score_labels(root / "pred", root / "target"),
    )


# --- slice sets and test volumes ---


def make_sets(root: Path) -> None:
    import toys

    toys.slice_set(root / "set", 12)
    toys.volume_set(root / "volumes")


def change_set(root: Path, rng: Rng) -> None:
    """Any file; half of the time the seals do not know, as those of another program, so that parsers are tried, too."""
    unsealed, meta = rng.random() < 0.5, root / "set" / "zarr.json"
    if unsealed:
        content = json.loads(meta.read_text())
        del content["attributes"]["files"], content["attributes"]["seal"]
        meta.write_text(json.dumps(content))
    change_one(root, rng)
    listed = root / "volumes" / "volumes.json"
    with suppress(ValueError, TypeError, KeyError, OSError, AttributeError):  # of a listing that was changed itself
        content = json.loads(listed.read_text())
        unsealed and content.pop("seal", None)
        for subject, patient in content["patients"].items() if unsealed else ():
            patient["sha256"] = hashlib.sha256((root / "volumes" / f"{subject}.npz").read_bytes()).hexdigest()
        listed.write_text(json.dumps(content))


def use_sets(root: Path) -> str:
    from understudy.exchange.read import open_images
    from understudy.slices import SliceSet
    from understudy.volumes import VolumeSet

    def opened() -> None:
        slices = SliceSet.open(root / "set", cache_bytes=0)
        repr(slices), slices._repr_html_(), slices.index, slices.images, slices.split()
        slices.subset([1, 2]).read([0])
        slices.verify()

    def volumes() -> None:
        found = VolumeSet.open(root / "volumes")
        for subject in found.subjects():
            found.read(subject).labels_at_network(2)

    return attempt(opened, volumes, lambda: open_images(root / "set", root / "opened"))


# --- trained networks ---


def make_generators(root: Path) -> None:
    from small_models import small

    from understudy.generators.folder import save_model
    from understudy.generators.registry import build
    from understudy.slices import evenly_coded

    for kind in ("stylegan2", "diffusion"):
        config, _ = small(kind)
        model = build(config)
        record = {
            "kind": kind, "model": config.model_dump(mode="json"), "training": None, "channels": ["T1w", "FLAIR"],
            "classes": [vars(c) for c in evenly_coded({1: "lesion"})], "annotation": "coded", "spacing": [1, 1, 1],
            "axes": ["P", "L"], "identity": "x",
        }  # fmt: skip
        save_model(root / kind, model.generator, record, getattr(model, "discriminator", None))


def use_generators(root: Path) -> str:
    from understudy.generators.membership import supports_membership_inference
    from understudy.generators.registry import load_generator
    from understudy.generators.sample import sample_set

    steps: list[Callable[[], object]] = []
    for kind in ("stylegan2", "diffusion"):
        steps.append(functools.partial(load_generator, root / kind))
        steps.append(functools.partial(supports_membership_inference, root / kind))
    steps.append(lambda: sample_set([root / "stylegan2"], 2, 0, root / "samples", progress=False))
    return attempt(*steps)


def make_segmenters(root: Path) -> None:
    import toys

    from understudy.segmenters.config import SegmenterTrainingConfig, model_config
    from understudy.segmenters.train import train_segmenter

    real, volumes = toys.slice_set(root / "set", 12), toys.volume_set(root / "volumes")
    model, config = model_config({"width": 2}), SegmenterTrainingConfig(samples=8, batch=4, validations=1)
    train_segmenter(real, None, model, config, root / "model", validation=volumes, progress=False)
    shutil.rmtree(root / "set"), shutil.rmtree(root / "volumes")


def use_segmenters(root: Path) -> str:
    from understudy.segmenters.predict import load, predict

    def opened() -> None:
        model = load(root / "model", "cpu")
        predict(model, np.zeros((1, len(model.channels), model.resolution, model.resolution), np.uint8))

    return attempt(opened)


def make_weights(root: Path) -> None:
    import torch

    torch.save({"a": torch.arange(6.0), "b": torch.zeros(2, 2)}, root / "weights.pth")


def use_weights(root: Path) -> str:
    from understudy.quality.weights import read_weights

    return attempt(lambda: read_weights(root / "weights.pth", "dinov2"))


# --- tables ---


def make_tables(root: Path) -> None:
    import pandas as pd

    from understudy.metrics.scores import score_volume

    rng = np.random.default_rng(2)
    rows: list[dict[str, Any]] = []
    for n in range(4):
        pred, target = rng.integers(0, 2, (2, 4, 6, 6), np.uint8)
        cell = {"setting": "real.unet.aug", "repeat": 0, "subject": f"p{n}", "site": "a"}
        rows += [cell | row for row in score_volume(pred, target, ["lesion"], (1, 1, 1), np.ones(4, bool))]
    pd.DataFrame(rows).to_parquet(root / "scores.parquet")
    pd.DataFrame({"snapshot": list("abcdef"), "dice": rng.random(6), "fid": rng.random(6)}).to_csv(root / "t.csv")


def use_tables(root: Path) -> str:
    from understudy.metrics.overlap import apply_policy
    from understudy.metrics.scores import class_names, read_scores
    from understudy.study.correlate import _from_csv

    def scored() -> None:
        rows = read_scores(root / "scores.parquet")
        class_names(apply_policy(rows))

    return attempt(scored, lambda: _from_csv(root / "t.csv"))


# --- documents ---


def make_documents(root: Path) -> None:
    import toys

    from understudy.exchange.export import export_images
    from understudy.release.forms import write_templates

    write_templates(root)
    export_images(toys.slice_set(root / "set", 4), root / "export", progress=False)
    shutil.rmtree(root / "set")
    pictures = root / "reading" / "images"
    pictures.mkdir(parents=True)
    name = "0" * 16
    (pictures / f"{name}.png").write_bytes(next((root / "export").rglob("*.png")).read_bytes())
    text = {"format": "understudy-reading-1", "kind": "real_or_synthetic", "title": "t", "seed": 1}
    items = [{"id": name, "panels": [{"file": f"images/{name}.png", "label": "A"}]}]
    (root / "reading" / "study.json").write_text(json.dumps(text))
    (root / "reading" / "items.json").write_text(json.dumps(items))


def change_document(root: Path, rng: Rng) -> None:
    """Any of the documents, forms with lines of study files among them."""
    if rng.random() < 0.4:
        path = root / str(rng.choice(["about.yaml", "decision.yaml"]))
        path.write_bytes(mutated_study(path.read_text(), rng))
    else:
        change_one(root, rng)


def use_documents(root: Path) -> str:
    from understudy.exchange.description import description_of
    from understudy.exchange.read import open_images
    from understudy.reading.folder import open_folder
    from understudy.release.forms import About, Decision, read_form

    def served() -> None:
        found = open_folder(root / "reading")
        for item in found.items:
            found.panel(item, 0)

    return attempt(
        lambda: read_form(root / "about.yaml", About),
        lambda: read_form(root / "decision.yaml", Decision),
        lambda: description_of(root / "export"),
        lambda: open_images(root / "export", root / "opened"),
        served,
    )


def make_shards(root: Path) -> None:
    import scipy.io
    from PIL import Image

    (root / "shards").mkdir()
    with tarfile.open(root / "shards" / "shard-000000.tar", "w") as tar:
        for n in range(3):
            for channel in ("t1w", "seg"):
                out = io.BytesIO()
                pixels = np.full((16, 16), 90 + n, np.uint8) if channel == "t1w" else np.eye(16, dtype=np.uint8) * 255
                Image.fromarray(pixels).save(out, "PNG")
                entry = tarfile.TarInfo(f"s{n}.{channel}.png")
                entry.size = len(out.getvalue())
                tar.addfile(entry, io.BytesIO(out.getvalue()))
    scipy.io.savemat(root / "order.mat", {"p": np.array([2, 1, 4, 3])}, do_compression=True)


def use_shards(root: Path) -> str:
    from understudy.cohort.splits import SplitConfig, _permuted_test
    from understudy.exchange.read import read_folder
    from understudy.exchange.spec import FolderSpec

    spec = FolderSpec(channels={"T1w": "t1w"}, codes={"lesion": 255})
    split = SplitConfig(method="permutation", permutation=str(root / "order.mat"), test_patients=1)
    return attempt(
        lambda: read_folder(root / "shards", spec, root / "read", progress=False),
        lambda: _permuted_test(split, ["a", "b", "c", "d"]),
    )


# --- official checkpoints: genuine and hostile ones ---


@functools.cache
def hostile() -> list[bytes]:
    """Calls in every place, odd operations, and fillers of the memory."""
    import test_pickles as tests

    calls = [place(call) for place in tests.PLACES for call in tests.CALLS.values()]
    return [*calls, *tests.CRAFTED.values(), *tests.fillers().values()]


@functools.cache
def checkpoints() -> list[bytes]:
    """Genuine files and hostile ones."""
    import test_pickles as tests

    return [*tests.GENUINE, *hostile()]


def make_checkpoints(root: Path) -> None:
    (root / "file.pkl").write_bytes(b"")


def change_checkpoint(root: Path, rng: Rng) -> None:
    """One of ten as it is, the others changed."""
    held = checkpoints()
    content = held[int(rng.integers(len(held)))]
    (root / "file.pkl").write_bytes(content if rng.random() < 0.1 else mutated_bytes(content, rng))


_seen: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and event in EVENTS:
        _seen.append(f"{event} {arguments!r}"[:200])


@contextmanager
def watched() -> Any:
    """Fails if anything is executed or imported inside the block."""
    global _seen
    _seen = seen = []
    try:
        yield
    finally:
        _seen = None
    assert not seen, f"executed: {seen}"


def use_checkpoints(root: Path) -> str:
    from understudy.generators.official.checkpoints import read_checkpoint
    from understudy.generators.official.convert import import_checkpoint

    def opened() -> None:
        with watched():
            read_checkpoint(root / "file.pkl")

    names = ["T1w", "T1wGd", "T2w", "FLAIR"]
    return attempt(opened, lambda: import_checkpoint(root / "file.pkl", root / "run", names))


FORMATS: dict[str, tuple[Callable[[Path], None], Callable[[Path, Rng], None], Callable[[Path], str]]] = {
    "arrays": (make_arrays, change_one, use_arrays),
    "sets": (make_sets, change_set, use_sets),
    "generators": (make_generators, change_one, use_generators),
    "segmenters": (make_segmenters, change_one, use_segmenters),
    "weights": (make_weights, change_one, use_weights),
    "tables": (make_tables, change_one, use_tables),
    "documents": (make_documents, change_document, use_documents),
    "shards": (make_shards, change_one, use_shards),
    "checkpoints": (make_checkpoints, change_checkpoint, use_checkpoints),
}


@functools.cache
def _made(kind: str) -> Path:
    root = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-")) / "made"
    root.mkdir()
    FORMATS[kind][0](root)
    return root


def run_unchanged(kind: str, root: Path) -> str:
    """Uses a fresh copy of a format's folder."""
    shutil.copytree(_made(kind), root, dirs_exist_ok=True)
    return FORMATS[kind][2](root)


def run_format(kind: str, root: Path, rng: Rng) -> str:
    """Changes a fresh copy of a format's folder in `root`, and uses it."""
    shutil.copytree(_made(kind), root, dirs_exist_ok=True)
    FORMATS[kind][1](root, rng)
    return FORMATS[kind][2](root)


sys.addaudithook(_audit)


def main(count: int) -> None:
    """Imports so many hostile checkpoints, and counts."""
    rng, start, counts = np.random.default_rng(0), 0.0, Counter[str]()
    for number in range(count + 1):
        with tempfile.TemporaryDirectory() as folder:
            content = hostile()[number % len(hostile())]
            whole = 1 <= number < len(hostile())  # the first one of all loads what is imported only once
            (Path(folder) / "file.pkl").write_bytes(content if whole else mutated_bytes(content, rng))
            try:
                outcome = use_checkpoints(Path(folder))
            except AssertionError as error:
                outcome = f"executed: {error}"
            except Exception as error:
                outcome = f"traceback: {type(error).__name__}: {error}"[:200]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        start = start or peak
        counts[outcome] += number > 0
    print(f"{count} hostile checkpoints: {dict(counts)}; at most {peak - start:.2f} GB more than before")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)

"""Can this machine do the work? What `understudy doctor` shows, and what belongs into a question to the developers.

Nothing is written but a file to try the folder's permission, and nothing leaves the machine.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import locale
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.generators.joint import annotation_channels
from understudy.generators.registry import KINDS, model_config, network_type
from understudy.names import display_name, size
from understudy.runtime.devices import resolve_device, resolve_precision
from understudy.runtime.memory import is_out_of_memory, physical_memory, release_memory
from understudy.segmenters.config import MixtureConfig, SegmenterTrainingConfig
from understudy.segmenters.config import model_config as segmenter_config
from understudy.segmenters.mixing import Mixture
from understudy.segmenters.train import Training
from understudy.slices import SliceSet, evenly_coded
from understudy.study.config.networks import GeneratorSpec
from understudy.study.config.schema import Study
from understudy.study.engine.machine import THREADS, calibrate, calibrated, cores, gpus
from understudy.study.engine.plan import make_plan
from understudy.study.engine.preview import estimated_here

State = Literal["good", "note", "bad"]
# Largest relative difference of a loss from that of the CPU in float32: TF32 and bfloat16 keep 11 and 8 bits.
TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.1}
FILLED = 0.3  # s.d. of weights that begin at zero
STEPS = 3  # of a training that are compared: the second loss follows from the first gradient
OPEN_FILES, FREE_BYTES = 1024, 5e9  # fewer are noted
CGROUP = Path("/sys/fs/cgroup")
DISTRIBUTION = "understudy-mri"  # on the Python package index "understudy" is another project


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    found: str
    state: State = "good"  # "note": slower or less than it could be; "bad": something will fail
    advice: str = ""


def examine(device: str = "auto", folder: Path | None = None, study: Study | None = None) -> list[Finding]:
    """Looks at software, devices, limits and the folder of results; trains each network for a few steps.

    Args:
        study: its generators are timed in their own sizes; None: those of the recipe `quick`, at 32 x 32.

    Raises `UnderstudyError` for a device that is not there.
    """
    where = resolve_device(device)
    findings = [*software(), *devices(where), *limits(), *surroundings(folder or Path())]
    return [*findings, *networks(where, study), *speeds(where, study)]


def software() -> Iterator[Finding]:
    """Versions, and the optional packages that are there."""
    python = f"Python {platform.python_version()} on {platform.platform()}"
    yield Finding("Understudy", f"{__version__}, {python}")
    build, driver = torch.version.cuda, Path("/proc/driver/nvidia/version")
    text = f"{torch.__version__}, {f'built for CUDA {build}' if build else 'without CUDA'}"
    if driver.is_file() and not torch.cuda.is_available():
        held = driver.read_text(errors="replace").splitlines()[0]
        advice = "install a PyTorch built for a CUDA that this driver supports, or a newer driver: pytorch.org"
        yield Finding("PyTorch", f"{text}; the driver is there ({held}), but no GPU can be used", "bad", advice)
    else:
        yield Finding("PyTorch", text)
    wanted = importlib.metadata.requires(DISTRIBUTION) or []
    for extra in importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []:
        if extra in ("cluster", "dicom", "reading"):  # the others are for developers
            names = [r.split(";")[0].strip() for r in wanted if f'extra == "{extra}"' in r]
            missing = [name for name in names if not _installed(name)]
            text = f"missing: {', '.join(missing)}" if missing else "installed"
            advice = f"if you need it: pip install '{DISTRIBUTION}[{extra}]'" if missing else ""
            yield Finding(f"extra `{extra}`", text, "note" if missing else "good", advice)


def _installed(requirement: str) -> bool:
    name = requirement.split(">")[0].split("=")[0].split("[")[0].strip()
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(name))
    return False


def devices(where: torch.device) -> Iterator[Finding]:
    """The device, the others, and in which precision it computes faster."""
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        text = f"{about.name}, {size(about.total_memory)}, compute capability {about.major}.{about.minor}"
        yield Finding(f"cuda:{index}", text)
    if not gpus():
        yield Finding("GPU", "none: everything runs on the CPU", "note" if where.type == "cpu" else "good")
    chosen = resolve_precision("auto", where)
    rates = {kind: calibrate(str(where), 0.1, kind) for kind in (torch.float32, torch.bfloat16)}
    ratio = rates[torch.bfloat16] / rates[torch.float32]
    text = f"{str(chosen).removeprefix('torch.')} on {where}; bfloat16 is {ratio:.1f} times as fast as float32"
    if (chosen == torch.bfloat16) == (ratio > 1):
        yield Finding("precision", text)
    else:
        better = "bf16" if ratio > 1 else "fp32"
        yield Finding("precision", text, "note", f"try `precision: {better}` in the trainings of the study file")


def limits() -> Iterator[Finding]:
    """Cores, threads, memory and open files that this process may use."""
    usable, quota = cores(), _cgroup("cpu.max", "cpu/cpu.cfs_quota_us")
    allowed = usable if quota is None else min(usable, max(1.0, quota))
    named = next((f"{name}={os.environ[name]}" for name in THREADS if name in os.environ), "")
    text = f"{usable} of {os.cpu_count()}, PyTorch's threads: {torch.get_num_threads()}{f' ({named})' if named else ''}"
    if allowed < torch.get_num_threads():
        text += f"; the control group allows {allowed:g}" if allowed < usable else ""
        yield Finding("cores", text, "note", f"set OMP_NUM_THREADS={int(allowed)}: more threads than cores are slower")
    else:
        yield Finding("cores", text)
    whole = physical_memory()
    most = _cgroup("memory.max", "memory/memory.limit_in_bytes")
    capped = most is not None and most < whole
    text = f"{size(whole)}{f', of which the control group allows {size(most)}' if most and capped else ''}"
    yield Finding("memory", text)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = 0 <= files < OPEN_FILES
    advice = "raise it: ulimit -n 4096" if few else ""
    yield Finding("open files", "unlimited" if files < 0 else f"{files:,}", "note" if few else "good", advice)


def _cgroup(two: str, one: str) -> float | None:
    """A limit of the control group (of version 2, or of 1): cores or bytes; None without one."""
    root = CGROUP
    with contextlib.suppress(OSError, ValueError):
        words = (root / two).read_text().split()
        return None if words[0] == "max" else float(words[0]) / (float(words[1]) if len(words) > 1 else 1)
    with contextlib.suppress(OSError, ValueError):
        value = float((root / one).read_text())
        if "quota" in one:
            value /= float((root / one).with_name("cpu.cfs_period_us").read_text())
        return value if value > 0 else None
    return None


def surroundings(folder: Path) -> Iterator[Finding]:
    """Disk, permissions, shared memory, text encoding and clock."""
    for topic, place in (("results", folder), ("temporary files", Path(tempfile.gettempdir()))):
        existing = next(p for p in (place.absolute(), *place.absolute().parents) if p.is_dir())
        free, few = shutil.disk_usage(existing).free, False
        try:
            with tempfile.TemporaryFile(dir=existing):
                few = free < FREE_BYTES
        except OSError as error:
            why = f"{existing} cannot be written ({error.strerror})"
            yield Finding(topic, why, "bad", "use another folder" if topic == "results" else "set TMPDIR to another")
            continue
        advice = "`understudy plan STUDY` says how much a study needs" if few else ""
        yield Finding(topic, f"{size(free)} free in {existing}", "note" if few else "good", advice)
    shared = Path("/dev/shm")
    if sys.platform == "linux" and not os.access(shared, os.W_OK):
        yield Finding("shared memory", f"{shared} cannot be written", "bad", "start the container with --shm-size 1g")
    encoding = locale.getpreferredencoding(False)
    plain = encoding.lower().replace("-", "") != "utf8"
    advice = "set LC_ALL=C.UTF-8, or names with accents may be unreadable" if plain else ""
    yield Finding("text encoding", encoding, "note" if plain else "good", advice)
    yield Finding("clock", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z (UTC%z)"))


# --- networks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    """A generator in the sizes in which it is tried."""

    name: str
    model: Any
    training: Any
    channels: int  # of the images
    classes: int  # without the background

    def state(self, device: torch.device, precision: str, batch: int | None = None) -> Any:
        changed = {"precision": precision, "tensorboard": False} | ({"batch": batch} if batch else {})
        training, slices = self.training.model_copy(update=changed), _noise(self)
        kind = network_type(self.model.kind)
        return kind.state(slices, np.arange(len(slices)), self.model, training, device)


def _noise(case: _Case) -> SliceSet:
    rng, edge = np.random.default_rng(0), case.model.resolution
    images = rng.integers(0, 256, (8, case.channels, edge, edge), np.uint8)
    labels = rng.integers(0, case.classes + 1, (8, edge, edge), np.uint8)
    labels[::2] = 0  # for `balance_classes`
    return SliceSet.from_arrays(images, labels, classes=[f"class {k}" for k in range(1, case.classes + 1)])


def _cases(study: Study | None) -> list[_Case]:
    if study is None:
        specs = {k: GeneratorSpec.model_validate({"recipe": "quick", "model": {"kind": k}}) for k in KINDS}
        channels, classes, edge = 4, 3, 32
    else:
        specs = {name: spec for name, spec in study.generators.items() if isinstance(spec, GeneratorSpec)}
        facts = next(iter(make_plan(study).facts.values()))
        channels, classes, edge = facts.channels, len(facts.classes) - 1, study.slices.resolution
    cases = []
    for name, spec in specs.items():
        coded = evenly_coded({k: f"class {k}" for k in range(1, classes + 1)})
        depth = channels + annotation_channels(coded, spec.training.annotation)
        model = model_config({**spec.model.model_dump(), "resolution": edge, "channels": depth})
        training = type(spec.training).model_validate({**spec.training.model_dump(), "seed": 0})
        cases.append(_Case(name, model, training, channels, classes))
    return cases


def networks(where: torch.device, study: Study | None = None) -> Iterator[Finding]:
    """Each network trained for some steps as it will be here, its losses beside those of the CPU in float32."""
    dtype, cpu = resolve_precision("auto", where), torch.device("cpu")
    for case in _cases(study):
        yield _compared(display_name(case.name), dtype, lambda d, p, c=case: _losses(c, d, p), where, cpu)
    slices = _noise(_Case("", model_config({"kind": "stylegan2", "resolution": 32, "channels": 2}), None, 1, 1))
    for kind in ("unet", "swin"):
        yield _compared(display_name(kind), dtype, lambda d, p, k=kind: _segmenter(k, slices, d, p), where, cpu)


def _compared(name: str, dtype: torch.dtype, losses: Any, where: torch.device, cpu: torch.device) -> Finding:
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    words = f"{str(dtype).removeprefix('torch.')} on {where}"
    try:
        expected, found = losses(cpu, "fp32"), losses(where, precision)
    except (MemoryError, RuntimeError, UnderstudyError) as error:
        advice = "send this table to the developers; meanwhile --device cpu"
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Finding(name, f"{words}: {first}", "bad", advice)
    apart = max(abs(a - b) / max(1e-3, abs(a)) for a, b in zip(expected, found, strict=True))
    text = f"{words}: losses within {apart:.2%} of those of the CPU in float32"
    if np.isfinite(found).all() and apart <= TOLERANCE[dtype]:
        return Finding(name, text)
    other = "precision: fp32" if precision == "bf16" else "--device cpu"
    return Finding(name, text, "bad", f"results here cannot be trusted: use {other}, and send us this table")


def _losses(case: _Case, device: torch.device, precision: str) -> list[float]:
    state, losses, rng = case.state(device, precision, batch=4), list[float](), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in state.network.parameters():  # what begins at zero would hide what lies before it
            if not weights.any():
                weights.copy_(torch.randn(weights.shape, generator=rng) * FILLED)
    for _ in range(STEPS):
        state.step()
        found = [value for name, value in state.take_stats().items() if name.startswith("loss")]
        losses += [np.nan if value is None else value for value in found]
    return losses


def _segmenter(kind: str, slices: SliceSet, device: torch.device, precision: str) -> list[float]:
    model = segmenter_config({"kind": kind, **({"width": 8} if kind == "unet" else {"size": "mini"})})
    config = SegmenterTrainingConfig.model_validate({"samples": 16, "batch": 4, "precision": precision})
    mixture = Mixture(slices, None, MixtureConfig(), config.seed)
    training, numbers = Training(mixture, model, config, None, device), np.arange(4)
    return [float(training.train_step(numbers, *mixture.read(numbers))) for _ in range(STEPS)]


def speeds(where: torch.device, study: Study | None = None) -> Iterator[Finding]:
    """Seconds for 1000 images of each generator, on a GPU also the largest batch; what `plan` assumes."""
    yield Finding("`plan` assumes", calibrated(str(where)).words)
    jobs = () if study is None else estimated_here(make_plan(study), Path(), str(where))[0].jobs
    planned = {job.name: job.seconds / job.spec["training"]["kimg"] for job in jobs if job.stage == "generator"}
    for case in _cases(study):
        state = case.state(where, case.training.precision)
        state.step()
        grows = getattr(state, "schedule", None) is not None
        if grows:  # only the last level is timed
            state.set_level(0.0)
            state.step()
        rounds, images = 2, state.images
        start = time.perf_counter()
        for _ in range(rounds):
            state.step()
        state.take_stats()  # waits for a GPU
        rate = (time.perf_counter() - start) / (state.images - images) * 1000
        text = f"{rate:.3g} s for 1000 images of {case.model.resolution} pixels, batch size {state.batch}"
        if (name := f"generator {case.name}") in planned:
            text += f" (`plan`: {planned[name]:.3g} s{' over all its levels' if grows else ''})"
        if where.type == "cuda":
            text += f"; at most {_largest_batch(case, where)} fit"
        yield Finding(f"speed of {display_name(case.name)}", text)


def _largest_batch(case: _Case, where: torch.device) -> int:
    """The largest power of two whose step fits into the GPU's memory."""
    batch, fits = 8, 0
    while batch <= 1 << 14:
        try:
            case.state(where, case.training.precision, batch).step()
            torch.cuda.synchronize(where)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            break
        finally:
            release_memory()
        fits, batch = batch, 2 * batch
    return fits


def as_rows(findings: list[Finding]) -> list[dict[str, Any]]:
    """Plain values, for JSON."""
    return [asdict(one) for one in findings]

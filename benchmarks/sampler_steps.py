"""Quality of a trained diffusion model's samples against the number of network evaluations they take.

Run: python benchmarks/sampler_steps.py MODEL_DIR SLICES_DIR [--samples 256] [--all-samples 64]. MODEL_DIR is the folder
of a finished training, SLICES_DIR the slices that it was trained on (with the column "split", its part "train"). Prints
a Markdown table and what it says about the default.

All samplers start from the same noise. What is judged is the decoded slice: grey values in 8 bits and class labels, as
they are written to disk.
- Annotation: `code distance`, how far the drawn annotation lies from the codes of the classes it was decoded to (grey
  values, 0 in real slices), and the part of the samples with each class. Where the training balanced the classes
  (`balance_classes`), the real slices are weighted the same way, in the distances as well.
- Distance to the real slices: unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 of KID
  (Binkowski et al. 2018, arXiv 1801.01401), times 1000, on two kinds of features. Nothing is downloaded and nothing
  is trained: features that have seen photographs do not know MR images, and these are the same everywhere.
  `conv`: mean and standard deviation over the pixels of each map of four layers of 3x3 convolutions with fixed random
  weights (He, seed 0) and leaky ReLU, halved in between; each feature standardised by the real slices.
  `physical`: the 16 first whitened principal components of the joint image shrunk to 8x8; roots of the histograms of
  each channel (16 bins); presence, root of the area, and centroid of each class. Each of the three groups has a total
  variance of one in the real slices.
  Standardised and whitened features saturate at four deviations.
  The standard error is that over samples (first order), for the real slices as they are.
- Yardstick: the same distances between two halves of the real slices, split by patient (20 random splits).
- `from the limit`: root mean square difference, grey values, to what the same noise leads to in so many steps of
  DPM-Solver++ that more do not matter (--limit-steps). For samplers without noise of their own it measures what too
  few steps cost, without the error of a finite number of samples.
- Seconds per sample are those of the processor.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.diffusion.process import GaussianProcess
from understudy.generators.diffusion.samplers import SamplerConfig, select_steps
from understudy.generators.folder import classes_of
from understudy.generators.joint import decode, encode
from understudy.generators.registry import load_generator
from understudy.slices import LabelClass, SliceSet

Floats = NDArray[np.float64]
STEPS: dict[Literal["dpm++", "ddim", "ancestral"], tuple[int | None, ...]] = {
    "dpm++": (8, 10, 12, 15, 20, 30, 50),
    "ddim": (10, 20, 50, 100),
    "ancestral": (50, 250, None),
}
SEED, SPLITS, BATCH, BINS, COMPONENTS = 7, 20, 64, 16, 16
PAPER_STEPS, WANTED = 4000, 250  # ancestral steps of the paper; so many times fewer evaluations are asked for


# --- features -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slices:
    """Decoded slices: images uint8 [n, C, H, W], labels uint8 [n, H, W]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    classes: Sequence[LabelClass]

    def joint(self) -> Tensor:
        """As the generator draws them, one channel per class."""
        return encode(self.images, self.labels, self.classes, "one_hot")

    def present(self) -> NDArray[np.bool_]:
        """Whether each slice has each class [n, K]."""
        return np.stack([(self.labels == k).any(axis=(1, 2)) for k in range(1, len(self.classes))], axis=1)


@torch.no_grad()
def conv_features(slices: Slices) -> Floats:
    """Means and deviations of the maps of a fixed random network [n, 2 * (32 + 64 + 128 + 128)]."""
    joint, rng = slices.joint(), torch.Generator().manual_seed(0)
    widths = [joint.shape[1], 32, 64, 128, 128]
    weights = [torch.randn(o, i, 3, 3, generator=rng) * (2 / 9 / i) ** 0.5
               for i, o in itertools.pairwise(widths)]  # fmt: skip
    found = []
    for x in joint.split(BATCH):
        maps = []
        for layer, weight in enumerate(weights):
            x = F.leaky_relu(F.conv2d(F.avg_pool2d(x, 2) if layer else x, weight, padding=1), 0.2)
            maps += [x.mean(dim=(2, 3)), x.std(dim=(2, 3))]
        found.append(torch.cat(maps, dim=1))
    return torch.cat(found).double().numpy()


def histograms(images: NDArray[np.uint8]) -> Floats:
    """Roots of the parts of the pixels in each bin of each channel [n, C * BINS]."""
    bins = images.reshape(*images.shape[:2], -1) // (256 // BINS)  # [n, C, pixels]
    parts = np.stack([(bins == b).mean(axis=2) for b in range(BINS)], axis=2)
    return np.sqrt(parts).reshape(len(images), -1)


def lesions(slices: Slices) -> Floats:
    """Presence, root of the part of the slice, row and column of the centroid of each class [n, 4 * K]."""
    grid = np.linspace(-1, 1, slices.labels.shape[-1])
    found = []
    for k in range(1, len(slices.classes)):
        mask = slices.labels == k
        area = mask.mean(axis=(1, 2))
        count = np.maximum(mask.sum(axis=(1, 2)), 1)
        rows, columns = (mask.sum(axis=axis) @ grid / count for axis in (2, 1))
        found += [area > 0, np.sqrt(area), rows, columns]
    return np.stack(found, axis=1).astype(np.float64)


def shrunk(slices: Slices) -> Floats:
    """The joint image in 8x8 pixels [n, (C + K) * 64]."""
    return F.adaptive_avg_pool2d(slices.joint(), 8).flatten(1).double().numpy()


class Space:
    """The features' scales, from real slices with weights that add up to one."""

    def __init__(self, real: Slices, weights: Floats) -> None:
        self.conv = _moments(conv_features(real), weights)
        self.groups = [_moments(x, weights) for x in (shrunk(real), histograms(real.images), lesions(real))]
        centred = shrunk(real) - self.groups[0][0]
        values, vectors = np.linalg.eigh((centred * weights[:, None]).T @ centred)
        kept = np.argsort(values)[::-1][:COMPONENTS]
        self.axes = vectors[:, kept] / np.sqrt(np.maximum(values[kept], 1e-9))

    def of(self, slices: Slices) -> dict[str, Floats]:
        """Features whose dot products are of order one: {"conv", "physical"}: [n, D]."""
        mean, deviation = self.conv
        conv = saturated((conv_features(slices) - mean) / np.maximum(deviation, 1e-6)) / np.sqrt(len(mean))
        parts = [saturated((shrunk(slices) - self.groups[0][0]) @ self.axes) / np.sqrt(self.axes.shape[1])]
        for x, (mean, deviation) in zip((histograms(slices.images), lesions(slices)), self.groups[1:], strict=True):
            parts.append((x - mean) / np.sqrt(np.square(deviation).sum()))
        return {"conv": conv, "physical": np.concatenate(parts, axis=1) / np.sqrt(len(parts))}


def saturated(x: Floats) -> Floats:
    """Standardised features, held within four deviations: else the cubic kernel sees nothing but the worst samples."""
    return np.asarray(4 * np.tanh(x / 4))


def _moments(x: Floats, weights: Floats) -> tuple[Floats, Floats]:
    mean = weights @ x
    return mean, np.sqrt(weights @ np.square(x - mean))


# --- distance -------------------------------------------------------------------------------------------------------


def kernel(x: Floats, y: Floats) -> Floats:
    """The kernel of KID; the features are scaled by 1 / sqrt(D) already."""
    return np.asarray((x @ y.T + 1) ** 3)


def within(k: Floats, weights: Floats) -> float:
    """Mean of the kernel over the pairs of different slices."""
    pairs = np.outer(weights, weights)
    np.fill_diagonal(pairs, 0)
    return float((pairs * k).sum() / pairs.sum())


def discrepancy(x: Floats, y: Floats, of_x: Floats, of_y: Floats) -> tuple[float, float]:
    """Unbiased MMD^2 between features with weights, and its standard error over x; both times 1000."""
    own, across = kernel(x, x), kernel(x, y) @ (of_y / of_y.sum())
    value = within(own, of_x) + within(kernel(y, y), of_y) - 2 * float(of_x @ across / of_x.sum())
    influence = (own.sum(axis=1) - own.diagonal()) / (len(x) - 1) - across
    return 1000 * value, 1000 * 2 * float(influence.std(ddof=1)) / len(x) ** 0.5


def balance(annotated: NDArray[np.bool_], part: float | None) -> Floats:
    """Weights, which add up to one, that give the annotated slices this part; None: all slices alike."""
    if part is None or not 0 < annotated.sum() < len(annotated):
        return np.full(len(annotated), 1 / len(annotated))
    return np.where(annotated, part / annotated.sum(), (1 - part) / (~annotated).sum())


class Real:
    """The real slices that the samples are compared with."""

    def __init__(self, folder: str, config: dict[str, Any]) -> None:
        slices = SliceSet.open(folder)
        if slices.content_hash != config["slices"]:
            raise UnderstudyError("not the slices that the model was trained on", where=slices.path,
                                  fix="give the folder named in the training's job")  # fmt: skip
        rows = slices.rows(split="train")
        if len(rows) != config["slice_count"]:
            raise UnderstudyError(
                f"{len(rows)} slices of the split 'train', but {config['slice_count']} trained the model",
                where=slices.path, fix="use a study's slices and generator")  # fmt: skip
        images, labels = slices.read(rows)
        self.slices = Slices(images, labels, slices.classes)
        self.subjects = slices.index.iloc[rows]["subject"].to_numpy()
        self.part = config["training"]["balance_classes"]
        self.annotated = self.slices.present().any(axis=1)
        self.weights = balance(self.annotated, self.part)
        self.space = Space(self.slices, self.weights)
        self.features = self.space.of(self.slices)

    def distance(self, slices: Slices) -> dict[str, tuple[float, float]]:
        """Distance of samples, and its standard error, by kind of features."""
        equal = np.full(len(slices.images), 1 / len(slices.images))
        found = self.space.of(slices)
        return {k: discrepancy(x, self.features[k], equal, self.weights) for k, x in found.items()}

    def halves(self) -> dict[str, Floats]:
        """Distances between two halves of the patients [SPLITS], by kind of features."""
        rng, subjects = np.random.default_rng(SEED), np.unique(self.subjects)
        found: dict[str, list[float]] = {kind: [] for kind in self.features}
        for _ in range(SPLITS):
            half = np.isin(self.subjects, rng.permutation(subjects)[: len(subjects) // 2])
            of_each = [balance(self.annotated[mask], self.part) for mask in (half, ~half)]
            for kind, x in self.features.items():
                found[kind].append(discrepancy(x[half], x[~half], *of_each)[0])
        return {kind: np.array(values) for kind, values in found.items()}


# --- samples --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What one sampler reached.

    Attributes:
        figures: name -> (value, standard error); lower is better in all of them.
        shares: of the samples with each class.
    """

    sampler: SamplerConfig
    count: int
    evaluations: int
    seconds: float
    figures: dict[str, tuple[float, float]]
    shares: Floats
    from_limit: float | None


class Samples:
    """Samples of one model, always from the same noise."""

    def __init__(self, folder: str) -> None:
        self.generator, self.config = load_generator(folder)
        if self.config["kind"] != "diffusion":
            raise UnderstudyError(f"a {self.config['kind']} has no sampler", where=folder, fix="give a diffusion model")
        self.classes = classes_of(self.config)
        self.process = self.generator.config.process()

    def draw(self, sampler: SamplerConfig, count: int) -> tuple[Tensor, float]:
        """Joint images [count, C, R, R], and the processor's seconds per sample."""
        start = time.process_time()
        images: Tensor = self.generator.sample(count, SEED, sampler=sampler)
        return images, (time.process_time() - start) / count

    def judge(self, sampler: SamplerConfig, count: int, real: Real, limit: Tensor) -> Row:
        """Draws and compares; limit: the first samples in the limit of many steps."""
        joint, seconds = self.draw(sampler, count)
        images, labels, codes = decode(joint, self.classes, self.config["annotation"])
        slices = Slices(images, labels, self.classes)
        figures = {"code": (float(codes.mean()), float(codes.std(ddof=1)) / count**0.5)} | real.distance(slices)
        distance = None
        if sampler.kind != "ancestral" and len(limit):
            both = [x[: min(count, len(limit))].clamp(-1, 1) for x in (joint, limit)]
            distance = 127.5 * float((both[0] - both[1]).square().mean().sqrt())
        return Row(sampler, count, len(select_steps(self.process, sampler)), seconds, figures,
                   slices.present().mean(axis=0), distance)  # fmt: skip


def wanted(process: GaussianProcess, only: str) -> list[SamplerConfig]:
    """The samplers of the table that the model has the steps for; says which it has not."""
    names, found = only.split(",") if only else list(STEPS), []
    for kind, steps in ((kind, steps) for kind, many in STEPS.items() for steps in many):
        if kind not in names and f"{kind}:{steps or 'all'}" not in names:
            continue
        sampler = SamplerConfig(kind=kind, steps=steps)
        try:
            select_steps(process, sampler)
        except UnderstudyError as error:
            print(f"left out, {kind} {steps}: {str(error).splitlines()[0]}", file=sys.stderr)
        else:
            found.append(sampler)
    return found


# --- what is printed ------------------------------------------------------------------------------------------------


def line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def row_text(row: Row) -> str:
    """A line of the table."""
    name = f"{row.sampler.kind} {row.sampler.steps or 'all'}"
    default = " (default)" if row.sampler == SamplerConfig() else ""
    figures = [f"{value:.4g} ± {error:.2g}" for value, error in row.figures.values()]
    limit = "" if row.from_limit is None else f"{row.from_limit:.2f}"
    return line([name + default, row.evaluations, row.count, f"{row.seconds:.3f}", *figures,
                 ", ".join(f"{100 * s:.0f} %" for s in row.shares), limit])  # fmt: skip


def no_worse(row: Row, than: Row) -> bool:
    """Whether no figure is larger by more than two standard errors of the difference."""
    pairs = ((row.figures[k], than.figures[k]) for k in row.figures)
    return all(a - b <= 2 * (of_a**2 + of_b**2) ** 0.5 for (a, of_a), (b, of_b) in pairs)


def verdict(rows: list[Row], total: int) -> list[str]:
    """What the table says about the default; the cheapest sampler as good as ancestral sampling with the most steps."""
    walked = [row for row in rows if row.sampler.kind == "ancestral"]
    if not walked:
        return ["No ancestral sampling to compare with."]
    longest = max(walked, key=lambda row: row.evaluations)
    steps = longest.evaluations
    found = [f"Compared with ancestral sampling in {steps} of the model's {total} steps, in code distance and both"
             " distances (no worse: by no more than two standard errors of the difference):"]  # fmt: skip
    for row in sorted((r for r in rows if r.sampler.kind != "ancestral"), key=lambda r: r.evaluations):
        fewer = f"{steps / row.evaluations:.0f} times fewer evaluations; {PAPER_STEPS / row.evaluations:.0f} times"
        result = "no worse" if no_worse(row, longest) else "worse"
        found.append(f"- {row.sampler.kind} {row.evaluations}: {result}, {fewer} fewer than {PAPER_STEPS} steps")
    if steps < PAPER_STEPS:
        found.append(
            f"A model of {total} steps shows where the default stops being limited by its steps; that ancestral"
            f" sampling in {PAPER_STEPS} steps is no better than in {steps} is not measured by it."
        )
    found.append(f"{WANTED} times fewer than {PAPER_STEPS} are {PAPER_STEPS // WANTED} evaluations.")
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a finished diffusion training")
    parser.add_argument("slices", help="folder of the slices that it was trained on")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--all-samples", type=int, default=64, help="of ancestral sampling in all steps")
    parser.add_argument("--limit-steps", type=int, default=200, help="0: without this comparison")
    parser.add_argument("--limit-samples", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="e.g. 'dpm++,ddim:50,ancestral:all'")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    samples = Samples(options.model)
    real, total = Real(options.slices, samples.config), len(samples.process)
    names = [c.name for c in samples.classes[1:]]
    expected = ", ".join(f"{100 * s:.0f} %" for s in real.weights @ real.slices.present())
    print(f"torch {torch.__version__}, {options.threads} threads; model of {total} steps after"
          f" {samples.config['kimg']:.0f} kimg, {len(real.weights)} real slices\n")  # fmt: skip
    columns = ["sampler", "evaluations", "samples", "s per sample", "code distance", "conv distance",
               "physical distance", f"slices with {', '.join(names)}", "from the limit"]  # fmt: skip
    print(line(columns) + "\n" + line(["---"] * len(columns)))
    halves = [f"{v.mean():.4g} ({v.min():.4g} to {v.max():.4g})" for v in real.halves().values()]
    print(line(["real, half against half", "", "", "", 0, *halves, expected, ""]), flush=True)
    limit = torch.empty(0)
    if options.limit_steps:
        steps = min(options.limit_steps, total)
        limit, _ = samples.draw(SamplerConfig(kind="dpm++", steps=steps), options.limit_samples)
    rows = []
    for sampler in wanted(samples.process, options.only):
        count = options.samples if sampler.steps else options.all_samples
        rows.append(samples.judge(sampler, count, real, limit))
        print(row_text(rows[-1]), flush=True)
    print("\n" + "\n".join(verdict(rows, total)))


if __name__ == "__main__":
    try:
        main()
    except UnderstudyError as error:
        raise SystemExit(str(error)) from error

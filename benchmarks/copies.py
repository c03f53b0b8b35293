"""Which copies does the audit find? Copies of many kinds are planted among new slices, and the share found is printed.

    python benchmarks/copies.py --slices DIR --rounds 2   # a SliceSet of real patients
    python benchmarks/copies.py                                        # phantoms

Patients are divided at random: some for training, the others held out. Every copy is judged alone, by its own p-value,
so that all kinds go through one audit. The kinds are written here once more, independent of the audit's own controls,
at other strengths. False alarms are those of each held-out patient against the others.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform, binary_dilation, gaussian_filter, map_coordinates

import understudy as us
from understudy.memorization.conformal import clustered_wilson
from understudy.slices import SliceSet

Pixels = np.ndarray  # uint8 [C, H, W], labels [H, W]


def moved(
    image: Pixels, label: Pixels, shift=(0.0, 0.0), degrees=0.0, scale=1.0, mirror=False
) -> tuple[Pixels, Pixels]:
    """Mirrored, turned and magnified about the centre, then shifted by pixels (rows, columns)."""
    image, label = (a[..., ::-1] if mirror else a for a in (image, label))
    angle, centre = np.deg2rad(degrees), (np.array(label.shape) - 1) / 2
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    offset = centre - back @ (centre + np.array(shift))
    out = [affine_transform(c.astype(float), back, offset, order=3, mode="nearest") for c in image]
    return as_bytes(np.stack(out)), affine_transform(label, back, offset, order=0, mode="nearest")


def as_bytes(values) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noisy(image: Pixels, rng, share: float) -> Pixels:
    bright = np.array([np.percentile(c[c > 0], 99) if c.any() else 0 for c in image])
    return as_bytes(image + rng.normal(0, 1, image.shape) * share * bright[:, None, None])


def curved(image: Pixels, exponents) -> Pixels:
    return as_bytes(255 * (image / 255.0) ** np.array(exponents)[: len(image), None, None])


def warped(image: Pixels, label: Pixels, rng, pixels: float) -> tuple[Pixels, Pixels]:
    """Elastic, smooth over a tenth of the edge; mean displacement in pixels."""
    edge = label.shape[-1]
    field = gaussian_filter(rng.standard_normal((2, edge, edge)), (0, edge / 10, edge / 10))
    places = np.mgrid[:edge, :edge] + field * (pixels / np.hypot(*field).mean())
    out = [map_coordinates(c.astype(float), places, order=1, mode="nearest") for c in image]
    return as_bytes(np.stack(out)), map_coordinates(label, places, order=0, mode="nearest")


def pasted(image: Pixels, inside: Pixels, head: Pixels, by=(0, 0)) -> Pixels:
    """What is `inside` in another head, with a soft border, moved by whole pixels."""
    soft = gaussian_filter(inside.astype(float), 0.7)[None]
    image, soft = np.roll(image, by, (1, 2)), np.roll(soft, by, (1, 2))
    return as_bytes(soft * image + (1 - soft) * head)


class Planter:
    """All kinds: name -> copies of the training slices, with the patient of each."""

    def __init__(self, training: SliceSet, heldout: SliceSet, count: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.training, self.heldout, self.count = training, heldout, count
        self.images, self.labels = training.images, training.labels
        content = self.images.reshape(len(self.images), -1).std(1)
        self.full = content >= 0.6 * np.median(content)
        heads = heldout.images
        self.heads = heads[heads.reshape(len(heads), -1).std(1) >= 0.6 * np.median(content)]

    def kinds(self) -> dict[str, tuple[Pixels, Pixels, np.ndarray]]:
        rng, edge = self.rng, self.labels.shape[-1]
        tenth, pixel = edge / 10, edge / 64  # lengths in pixels are those of slices of 64 x 64

        def gammas():
            return np.exp(rng.choice([-1, 1], 4) * rng.uniform(0.15, 0.35, 4))

        def sign():
            return rng.choice([-1, 1])

        def place(r):
            a = rng.uniform(0, 2 * np.pi)
            return r * np.cos(a), r * np.sin(a)

        single = {
            "exact": lambda x, m: (x, m),
            "half a pixel": lambda x, m: moved(x, m, (0.5, 0.5)),
            "noise 8 %": lambda x, m: (noisy(x, rng, 0.08), m),
            "16 grey levels": lambda x, m: (x // 16 * 16 + 8, m),
            "blur of 1/50 of the edge": lambda x, m: (as_bytes(gaussian_filter(1.0 * x, (0, edge / 50, edge / 50))), m),
            "moved by (3, -2) pixels": lambda x, m: moved(x, m, (3 * pixel, -2 * pixel)),
            "moved (3, -2), gamma 1.25": lambda x, m: (curved(moved(x, m, (3 * pixel, -2 * pixel))[0], [1.25] * 4), m),
            "moved by a tenth of the edge": lambda x, m: moved(x, m, place(tenth)),
            "turned by 7 degrees": lambda x, m: moved(x, m, degrees=7 * sign()),
            "turned by 14 degrees": lambda x, m: moved(x, m, degrees=14 * sign()),
            "magnified by 1.06": lambda x, m: moved(x, m, scale=1.06),
            "magnified by 0.91": lambda x, m: moved(x, m, scale=0.91),
            "mirrored": lambda x, m: moved(x, m, mirror=True),
            "mirrored, 4 degrees": lambda x, m: moved(x, m, degrees=4 * sign(), mirror=True),
            "elastic 1.5 pixels": lambda x, m: warped(x, m, rng, 1.5 * pixel),
            "contrast of each channel": lambda x, m: (curved(x, gammas()), m),
            "all: moved, 8 degrees, 1.05, noise 4 %, gammas": lambda x, m: (
                noisy(curved(moved(x, m, place(0.05 * edge), 8 * sign(), 1.05)[0], gammas()), rng, 0.04), m),
        }  # fmt: skip
        found = {}
        for name, change in single.items():
            rows = self.rows()
            made = [change(self.images[i], self.labels[i]) for i in rows]
            found[name] = np.stack([x for x, _ in made]), np.stack([m for _, m in made]), rows
        for name, by, share in (("blend 55 : 45", 0.0, 0.55), ("blend 65 : 35, moved by 1/20", edge / 20, 0.65)):
            rows = self.rows()
            others = self.others(rows)
            both = as_bytes(share * self.images[rows] + (1 - share) * self.images[others].astype(float))
            made = [moved(x, m, place(by)) if by else (x, m) for x, m in zip(both, self.labels[rows], strict=True)]
            found[name] = np.stack([x for x, _ in made]), np.stack([m for _, m in made]), rows
        for name, reach in (("lesion in another head", 0), ("lesion in another head, moved", round(edge / 16))):
            rows = self.rows(annotated=True)
            if not len(rows):
                continue
            grow = max(1, round(edge / 32))
            made, marks = [], []
            for i in rows:
                by = tuple(rng.integers(-reach, reach + 1, 2)) if reach else (0, 0)
                inside = binary_dilation(self.labels[i] > 0, iterations=grow)
                made.append(pasted(self.images[i], inside, self.heads[rng.integers(len(self.heads))], by))
                marks.append(np.roll(self.labels[i], by, (0, 1)))
            found[name] = np.stack(made), np.stack(marks), rows
        rows, made = self.rows(), []
        y, x = np.mgrid[:edge, :edge]
        for i in rows:  # a disc of a third of the edge, its centre in the head
            bright = np.argwhere(gaussian_filter(self.images[i].mean(0), edge / 12) > 0.5 * self.images[i].mean())
            cy, cx = bright[rng.integers(len(bright))]
            disc = np.hypot(y - cy, x - cx) < edge / 6
            made.append(pasted(self.images[i], disc, self.heads[rng.integers(len(self.heads))]))
        found["part of a brain in another head"] = np.stack(made), np.zeros_like(self.labels[rows]), rows
        return found

    def rows(self, annotated: bool = False) -> np.ndarray:
        """Training rows of full contrast; annotated ones with a lesion of at least 1/200 of the slice."""
        able = self.full.copy()
        if annotated:
            able &= (self.labels > 0).mean((1, 2)) >= 0.005
        rows = np.flatnonzero(able)
        return self.rng.permutation(rows)[: self.count]

    def others(self, rows: np.ndarray) -> np.ndarray:
        """For each a slice of another patient."""
        patients = self.training.index["subject"].to_numpy()
        able = np.flatnonzero(self.full)
        return np.array([self.rng.choice(able[patients[able] != patients[i]]) for i in rows])


def one_round(slices: SliceSet, training: int, count: int, seed: int) -> tuple[dict, dict, float]:
    patients = np.random.default_rng(seed).permutation(sorted(set(slices.index["subject"])))
    known = slices.index["subject"].isin(patients[:training]).to_numpy()
    index = slices.index.drop(columns=["split"], errors="ignore")
    parts = [
        SliceSet.from_arrays(slices.images[m], slices.labels[m], index=index[m].reset_index(drop=True),
                             channels=slices.channels, classes=slices.classes, spacing=slices.spacing)
        for m in (known, ~known)
    ]  # fmt: skip
    planted = Planter(*parts, count, seed).kinds()
    images, labels = (np.concatenate([p[i] for p in planted.values()]) for i in (0, 1))
    made = SliceSet.from_arrays(images, labels, channels=slices.channels, classes=slices.classes)
    start = time.perf_counter()
    done = us.audit(train=parts[0], held_out=parts[1], synthetic=made, copies=20, splits=10)
    seconds, found, at = time.perf_counter() - start, {}, 0
    flagged, subjects = done.slices["flagged"].to_numpy(), parts[0].index["subject"].to_numpy()
    for name, (_, _, rows) in planted.items():
        found[name] = flagged[at : at + len(rows)], np.array([f"{seed}-{s}" for s in subjects[rows]])
        at += len(rows)
    return found, done.numbers["controls"]["false_alarms"], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=Path, help="a SliceSet of real patients (default: phantoms)")
    parser.add_argument("--resolution", type=int, default=64, help="of phantoms (default 64)")
    parser.add_argument("--training", type=int, default=24, help="training patients; the rest is held out")
    parser.add_argument("--count", type=int, default=120, help="copies of each kind (default 120)")
    parser.add_argument("--rounds", type=int, default=1, help="random divisions of the patients")
    parser.add_argument("--first", type=int, default=0, help="seed of the first division")
    given = parser.parse_args()
    slices = SliceSet.open(given.slices) if given.slices else us.phantoms(patients=48, resolution=given.resolution)
    rounds = [
        one_round(slices, given.training, given.count, seed) for seed in range(given.first, given.first + given.rounds)
    ]
    total = len(set(slices.index["subject"]))
    print(f"{given.training} training and {total - given.training} held-out patients, {slices.resolution} pixels,"
          f" {given.rounds} divisions, {sum(r[2] for r in rounds):.0f} s for the audits\n")  # fmt: skip
    print("| copy | found | 95 % by patient | of |\n| --- | --- | --- | --- |")
    for name in rounds[0][0]:
        hits, who = (np.concatenate([r[0][name][i] for r in rounds]) for i in (0, 1))
        low, high = clustered_wilson(hits, np.unique(who, return_inverse=True)[1])
        print(f"| {name} | {100 * hits.mean():.0f} % | {100 * low:.0f} to {100 * high:.0f} % | {len(hits)} |")
    alarms = [r[1] for r in rounds]
    each = ", ".join(f"{100 * a['rate']:.1f} ({100 * a['low']:.1f} to {100 * a['high']:.1f})" for a in alarms)
    print(f"\nnew patients' slices flagged, %, by division: {each}")


if __name__ == "__main__":
    main()

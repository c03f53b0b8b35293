"""How often does the audit call flags concentrated: where a generator is honest, and where it copies one patient?

    python benchmarks/audit_concentration.py --rounds 400
    python benchmarks/audit_concentration.py --slices DIR --patients 12 10   # random divisions of real patients

A slice is a point: its patient's own place, a curve that all brains share along z, and noise; similarity is minus the
distance. Slices of one patient are alike, patients differ in how average they look (`unlike`: standard deviation of the
logarithm of their distance from the middle), and one training patient is the nearest of many (`hub`: its distance from
the middle, as part of the others'; at 0 it is the average of all). An honest generator draws every slice of another new
patient; a part `copies` of its slices are noisy copies of one training patient's, or of all in turn. The rule for flags
and the test are those of the audit. Rows give the share of rounds with p <= 0.01, and
of the patients called exposed (false discovery rate 5 %) the part without copies, of those copied the part found.

With a slice set, its patients are divided at random, again and again: some train, some are held out, and all slices of
the others stand for the synthetic set, with noisy copies (5 % of the bright tissue) added. First with all patients,
then without one of the two who look most alike.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from understudy.memorization.concentration import Concentration, concentration, votes_of
from understudy.memorization.config import AuditConfig
from understudy.memorization.conformal import Null, p_values
from understudy.memorization.controls import false_alarms
from understudy.memorization.exposure import beside_each
from understudy.slices import SliceSet

SLICES, DIMENSIONS, COPY_NOISE = 25, 12, 0.1  # of a patient; of a slice; s.d. of a copy's noise
WITHIN = 0.4  # part of the variance that lies between the slices of one patient
QUANTILE = 0.99


@dataclass(frozen=True)
class World:
    """Patients, and what the generator does: see above."""

    training: int = 20
    heldout: int = 12
    unlike: float = 0.3
    hub: float = 0.3
    synthetic: int = 1000
    copies: float = 0.0
    of_all: bool = False
    whole: int = 0  # the synthetic set holds whole volumes of so many new patients


def patients(rng: np.random.Generator, world: World, count: int, each: int, curve: np.ndarray) -> np.ndarray:
    """Slices [count, each, D] of new patients."""
    scale = np.exp(rng.normal(0, world.unlike, (count, 1, 1)))
    own = rng.normal(0, np.sqrt(1 - WITHIN), (count, 1, DIMENSIONS)) * scale
    z = np.sort(rng.uniform(0, 1, (count, each)), axis=1)
    shared = np.stack([np.cos(np.pi * k * z) for k in range(1, len(curve) + 1)], axis=-1) @ curve
    return own + shared + rng.normal(0, np.sqrt(WITHIN), (count, each, DIMENSIONS)) * scale


def nearest(points: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Similarity [n, 1] to the nearest training slice, and its patient [n]."""
    flat = training.reshape(-1, DIMENSIONS)
    square = (points**2).sum(1)[:, None] + (flat**2).sum(1) - 2 * points @ flat.T
    row = square.argmin(1)
    names = np.array([f"T{i}" for i in range(len(training))])
    return -np.sqrt(np.maximum(square[np.arange(len(points)), row], 0))[:, None], names[row // training.shape[1]]


def one_audit(rng: np.random.Generator, world: World) -> tuple[Null, tuple[np.ndarray, ...], np.ndarray]:
    """A made-up audit: what is held out; beside whom flagged and judged slices lie, votes; whose copies were made."""
    curve = rng.normal(0, 1, (3, DIMENSIONS))
    training = patients(rng, world, world.training, SLICES, curve)
    training[0] += (world.hub - 1) * (training[0].mean(0) - training.mean((0, 1)))
    heldout = patients(rng, world, world.heldout, SLICES, curve)
    if world.whole:
        made = patients(rng, world, world.whole, -(-world.synthetic // world.whole), curve)
    else:
        made = patients(rng, world, world.synthetic, 1, curve)
    made = rng.permutation(made.reshape(-1, DIMENSIONS))[: world.synthetic]
    count = int(world.copies * world.synthetic)
    whose = np.arange(count) % world.training if world.of_all else np.full(count, rng.integers(world.training))
    copied = training[whose, rng.integers(0, SLICES, count)]
    made[:count] = copied + rng.normal(0, COPY_NOISE, copied.shape)
    scores, near = nearest(heldout.reshape(-1, DIMENSIONS), training)
    null = Null(scores, np.repeat(np.arange(world.heldout), SLICES))
    of_made, beside = nearest(made, training)
    flagged = p_values(of_made, null).flagged(QUANTILE)
    return null, (beside[flagged], beside, votes_of(null, near[:, None], QUANTILE)), np.unique(whose)


def one_round(rng: np.random.Generator, world: World) -> Concentration | None:
    """The test on one made-up audit; None without flags."""
    return concentration(*one_audit(rng, world)[1])


def exposed(world: World, rounds: int, seed: int = 1) -> tuple[float, float]:
    """Mean over rounds: part of those called exposed of whom there are no copies; part of those copied called so."""
    rng, wrong, right = np.random.default_rng(seed), [], []
    config = AuditConfig(resamples=200, splits=20)
    names = np.array([f"T{i}" for i in range(world.training)])
    for _ in range(rounds):
        null, beside, whose = one_audit(rng, world)
        table = beside_each(*beside, names, false_alarms(null, config), null.count).patients
        named, copied = set(table["patient"][table["exposed"]]), {f"T{i}" for i in whose}
        wrong.append(len(named - copied) / max(1, len(named)))
        right.append(len(named & copied) / len(copied) if copied else np.nan)
    return float(np.mean(wrong)), float(np.mean(right))


def called(world: World, rounds: int, seed: int = 1) -> float:
    """Share of rounds in which the flags are called concentrated."""
    rng = np.random.default_rng(seed)
    tests = [one_round(rng, world) for _ in range(rounds)]
    return float(np.mean([t is not None and t.found for t in tests]))


WORLDS = {
    "honest": {
        f"{t} and {p} patients, unlike {u:g}, hub {h:g}": World(t, p, u, h)
        for t, p in ((20, 6), (20, 12), (60, 40)) for u, h in ((0.0, 1.0), (0.3, 0.3), (0.6, 0.0))
    },
    "whole volumes of new patients": {
        f"20 and 12 patients, volumes of {n}": World(whole=n) for n in (12, 40, 200)
    },
    "copies of one patient": {
        f"{t} and {p} patients, {c:.0%} copies": World(t, p, copies=c)
        for t, p in ((20, 6), (20, 12), (60, 40)) for c in (0.01, 0.02, 0.03, 0.05)
    },
    "copies of all patients": {
        f"{t} and {p} patients, {c:.0%} copies": World(t, p, copies=c, of_all=True)
        for t, p in ((20, 12), (60, 40)) for c in (0.05, 0.2)
    },
}  # fmt: skip


def unit(images: np.ndarray, mean: np.ndarray | float = 0.0) -> np.ndarray:
    """Slices as vectors whose products are correlations."""
    x = images.reshape(len(images), -1).astype(np.float32) - mean
    x -= x.mean(1, keepdims=True)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@dataclass
class Cohort:
    """Correlations of all slices, and of their noisy copies, with all slices, [V][n, n]; whose they are [n]."""

    own: list[np.ndarray]
    copied: list[np.ndarray]
    subject: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, subject: np.ndarray) -> Cohort:
        noise = np.random.default_rng(0).normal(0, 0.05 * np.percentile(images, 99), images.shape)
        noisy, mean = np.clip(images + noise, 0, 255), images.reshape(len(images), -1).mean(0)
        pairs = [(unit(images, m), unit(noisy, m)) for m in (0.0, mean)]
        return cls([a @ a.T for a, _ in pairs], [b @ a.T for a, b in pairs], subject)

    def twin(self) -> str:
        """One of the two patients with the most alike slices."""
        other = np.where(self.subject[:, None] == self.subject, -1, self.own[0])
        return str(self.subject[other.max(1).argmax()])

    def nearest(self, views: list[np.ndarray], rows: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, ...]:
        found = [view[np.ix_(rows, training)] for view in views]
        names = np.stack([self.subject[training][f.argmax(1)] for f in found], axis=1)
        return np.stack([f.max(1) for f in found], axis=1).astype(float), names

    def divided(
        self, rng: np.random.Generator, training: int, heldout: int, copies: float, of_all: bool
    ) -> Concentration | None:
        """The test on one division."""
        order = rng.permutation(np.unique(self.subject))
        parts = order[:training], order[training : training + heldout], order[training + heldout :]
        rows, held, made = (np.flatnonzero(np.isin(self.subject, part)) for part in parts)
        of_held, near = self.nearest(self.own, held, rows)
        scores, beside = self.nearest(self.own, made, rows)
        whose = rows if of_all else np.flatnonzero(self.subject == rng.choice(parts[0]))
        picked = rng.choice(whose, round(copies * len(made) / (1 - copies)))
        more, more_beside = self.nearest(self.copied, picked, rows)
        scores, beside = np.concatenate([scores, more]), np.concatenate([beside, more_beside])[:, 0]
        null = Null(of_held, np.unique(self.subject[held], return_inverse=True)[1])
        flagged = p_values(scores, null).flagged(QUANTILE)
        return concentration(beside[flagged], beside, votes_of(null, near, QUANTILE))


def divisions(path: Path, training: int, heldout: int, rounds: int) -> None:
    """The table of real patients."""
    slices = SliceSet.open(path)
    images, _ = slices.read(slice(None))
    contrast = images.reshape(len(images), -1).std(1)
    kept = contrast >= 0.5 * np.median(contrast[contrast > 0])
    images, subject = images[kept], slices.index["subject"].astype(str).to_numpy()[kept]
    whole = Cohort.of(images, subject)
    alone = subject != whole.twin()
    print(
        f"{training} training and {heldout} held-out patients of {len(np.unique(subject))}, the others as synthetic set"
    )
    print(f"\n| added | all patients, of {rounds} | without one of two who look alike |\n| --- | --- | --- |")
    cohorts = (whole, Cohort.of(images[alone], subject[alone]))
    for copies, of_all in ((0.0, False), (0.01, False), (0.03, False), (0.05, False), (0.1, True)):
        shares = []
        for cohort in cohorts:
            rng = np.random.default_rng(1)
            tests = [cohort.divided(rng, training, heldout, copies, of_all) for _ in range(rounds)]
            shares.append(np.mean([t is not None and t.found for t in tests]))
        print(
            f"| {copies:.0%} copies of {'all' if of_all else 'one'} | {shares[0]:.1%} | {shares[1]:.1%} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400, help="made-up audits a row (default 400)")
    parser.add_argument("--slices", type=Path, help="a SliceSet of real patients, for divisions of these")
    parser.add_argument("--patients", type=int, nargs=2, default=(12, 10), help="to train on, to hold out")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    if arguments.slices:
        training, heldout = arguments.patients
        divisions(arguments.slices, training, heldout, rounds)
        return
    print(
        f"| generator | training and held-out patients | called concentrated, of {rounds} | exposed: false, found |\n"
        "| --- | --- | --- | --- |"
    )
    for generator, worlds in WORLDS.items():
        for name, world in worlds.items():
            false, found = exposed(world, rounds)
            print(f"| {generator} | {name} | {called(world, rounds):.1%} | {false:.1%}, {found:.0%} |", flush=True)


if __name__ == "__main__":
    main()

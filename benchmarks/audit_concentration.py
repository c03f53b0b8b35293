"""How often does the audit call flags concentrated: where a generator is honest, and where it copies one patient?

    python benchmarks/audit_concentration.py --rounds 400

A slice is a point: its patient's own place, a curve that all brains share along z, and noise; similarity is minus the
distance. Slices of one patient are alike, patients differ in how average they look (`unlike`: standard deviation of the
logarithm of their distance from the middle), and one training patient is the nearest of many (`hub`: its distance from
the middle, as part of the others'; at 0 it is the average of all). An honest generator draws every slice of another new
patient; a part `copies` of its slices are noisy copies of one training patient's, or of all in turn. The rule for flags
and the test are those of the audit. Rows give the share of rounds with p <= 0.01.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from understudy.audit.concentration import Concentration, concentration, votes_of
from understudy.audit.conformal import Null, p_values

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
    return -np.sqrt(np.maximum(square[np.arange(len(points)), row], 0))[:, None], names[
        row // training.shape[1]
    ]


def one_round(rng: np.random.Generator, world: World) -> Concentration | None:
    """The test on one made-up audit; None without flags."""
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
    whose = (
        np.arange(count) % world.training if world.of_all else np.full(count, rng.integers(world.training))
    )
    copied = training[whose, rng.integers(0, SLICES, count)]
    made[:count] = copied + rng.normal(0, COPY_NOISE, copied.shape)
    scores, near = nearest(heldout.reshape(-1, DIMENSIONS), training)
    null = Null(scores, np.repeat(np.arange(world.heldout), SLICES))
    of_made, beside = nearest(made, training)
    flagged = p_values(of_made, null).flagged(QUANTILE)
    return concentration(beside[flagged], beside, votes_of(null, near[:, None], QUANTILE))


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=400, help="made-up audits a row (default 400)")
    rounds = parser.parse_args().rounds
    print(
        f"| generator | training and held-out patients | called concentrated, of {rounds} |\n| --- | --- | --- |"
    )
    for generator, worlds in WORLDS.items():
        for name, world in worlds.items():
            print(f"| {generator} | {name} | {called(world, rounds):.1%} |", flush=True)


if __name__ == "__main__":
    main()

"""Which slice is sample k of a training: real, synthetic, or both, decided by (seed, k) alone; and its reading.

Two ways to mix: all slices of both sets, of which `real_share` says how often each set is drawn from (the paper's
Tables 3 and 4); or a set of a constant number of slices (`total`), `real_share` of them real, each drawn as often as
any other (the paper's Figure 2).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from time import perf_counter as clock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.segmenters.config import MixtureConfig
from understudy.slices import SliceSet

Rows = NDArray[np.int64]
Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]

_STREAM = 0x317  # keeps these draws apart from other uses of the same seed


def split_counts(k: Rows, share: float) -> tuple[NDArray[np.bool_], Rows, Rows]:
    """Divides the numbers 0, 1, 2, ... between two streams as evenly as possible, `share` of them for the first: for
    k [n] whether it belongs to the first, and how many numbers below k belong to the first and to the second."""
    exact = Fraction(share).limit_denominator(10_000)  # integers: no rounding however large k is
    before = k * exact.numerator // exact.denominator
    after = (k + 1) * exact.numerator // exact.denominator
    return after > before, before, k - before


def channel_order(have: Sequence[str], want: Sequence[str], where: Any) -> list[int]:
    """Positions in `have` of the channels `want`, by name; an UnderstudyError where one is missing."""
    if missing := [name for name in want if name not in have]:
        problem = f"no channel {', '.join(missing)} among {', '.join(have)}"
        raise UnderstudyError(problem, where, f"use data with the channels {', '.join(want)}")
    return [list(have).index(name) for name in want]


def class_table(have: Sequence[str], want: Sequence[str], where: Any) -> NDArray[np.uint8]:
    """uint8 [256]: index in `want` of each index in `have`, by name (both with the background first); an
    UnderstudyError where a class of `have` is not among those wanted."""
    if unknown := [name for name in have[1:] if name not in want]:
        problem = f"unknown class {', '.join(unknown)}; the classes are {', '.join(want[1:])}"
        raise UnderstudyError(problem, where, "use data with the same class names")
    table = np.zeros(256, np.uint8)
    table[1 : len(have)] = [list(want).index(name) for name in have[1:]]
    return table


class Pool:
    """Rows that are drawn in rounds of a new random order each, seeded by `key` and the round: a slice is seen as
    often as any other, and a resumed training continues anywhere."""

    def __init__(self, rows: Rows, key: Sequence[int]) -> None:
        self.rows, self.key = rows, key
        self._order = lru_cache(2)(lambda number: np.random.default_rng([*key, number]).permutation(rows))

    def draw(self, j: Rows) -> Rows:
        """Rows of the draws with numbers `j`."""
        rounds, places = np.divmod(j, len(self.rows))  # [n] each
        rows = np.empty(len(j), np.int64)
        for number in np.unique(rounds).tolist():  # usually one or two in a batch
            here = rounds == number
            rows[here] = self._order(number)[places[here]]
        return rows


class Source:
    """Some rows of a slice set, with channels and classes in the network's order, by name."""

    def __init__(self, slices: SliceSet, rows: Rows, channels: Sequence[str], classes: Sequence[str]) -> None:
        self.slices, self.rows = slices, rows
        self._channels = channel_order(slices.channels, channels, slices.path)
        self._classes = class_table([c.name for c in slices.classes], classes, slices.path)
        self.pools: list[Pool] = []  # of all rows, or of those with and those without foreground
        self._fraction = 0.0  # of the draws that are of the first of two pools

    def read(self, rows: Rows) -> Arrays:
        """Images uint8 [n, C, R, R] and labels uint8 [n, R, R]."""
        images, labels = self.slices.read(rows)
        return images[:, self._channels], self._classes[labels]

    def pool(self, fraction: float | None, key: Sequence[int]) -> None:
        """Makes the pools for a fraction of slices with foreground; one of all rows for None, or where a kind is
        absent."""
        masks = [np.ones(len(self.rows), bool)]
        if fraction is not None:
            foreground = np.concatenate([labels.any((1, 2)) for _, _, labels in self.slices.blocks(self.rows)])
            kinds = [foreground, ~foreground]  # bool [rows] each
            if fraction in (0, 1):  # only one of them is wanted
                kinds = kinds[:1] if fraction else kinds[1:]
            masks = kinds if all(kind.any() for kind in kinds) else masks
            self._fraction = fraction
        self.pools = [Pool(self.rows[mask], [*key, kind]) for kind, mask in enumerate(masks)]

    def draw(self, j: Rows) -> Rows:
        """Rows of the draws with numbers `j`."""
        if len(self.pools) == 1:
            return self.pools[0].draw(j)
        first, in_first, in_second = split_counts(j, self._fraction)
        rows = np.empty(len(j), np.int64)
        rows[first] = self.pools[0].draw(in_first[first])
        rows[~first] = self.pools[1].draw(in_second[~first])
        return rows


class Mixture:
    """The training samples in their order, which `seed` gives: of the training patients' slices and of generated ones.

    `names` are channels and classes in the order of an existing network; None: of the slices. An UnderstudyError where
    there is nothing to train on, or names or resolutions do not fit together.
    """

    def __init__(
        self, real: SliceSet | None, synthetic: SliceSet | None, config: MixtureConfig, seed: int,
        names: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    ) -> None:  # fmt: skip
        reference = real if real is not None else synthetic
        if reference is None:
            raise UnderstudyError("no slices to train on", fix="give real slices, synthetic slices, or both")
        self.resolution = reference.resolution  # pixels
        # names, of the real set if there is one, the background first
        self.channels, self.classes = names or (reference.channels, tuple(c.name for c in reference.classes))
        self.sources: dict[str, Any] = {}  # numbers of slices and of patients by "real" and "synthetic"
        self._share = config.real_share
        self._sources: list[Source] = []
        chosen = _chosen_rows(real, synthetic, config)
        for number, name, slices, rows in zip((0, 1), ("real", "synthetic"), (real, synthetic), chosen, strict=True):
            if slices is None or (config.total is not None and not len(rows)):
                continue  # none of this set is wanted
            if slices.resolution != self.resolution:
                sizes = f"real slices have {self.resolution} pixels, synthetic ones {slices.resolution}"
                raise UnderstudyError(sizes, slices.path, "generate at the resolution of the real slices")
            if not len(rows):
                raise UnderstudyError(f"no {name} slices to train on", slices.path, "check the split and the subset")
            source = Source(slices, rows, self.channels, self.classes)
            source.pool(config.foreground_fraction, [seed, _STREAM, number])
            self._sources.append(source)
            self.sources[name] = {"slices": len(rows), "content_hash": slices.content_hash}
            if name == "real" and "subject" in slices.index:
                self.sources[name]["patients"] = int(slices.index["subject"].iloc[rows].nunique())

    @property
    def slices(self) -> int:
        """Slices in the training set."""
        return sum(source["slices"] for source in self.sources.values())

    def hold_out(self, share: float, most: int) -> tuple[Source, Rows]:
        """Takes the last `share` of the only source's slices, at most so many, out of the training: the source and the
        rows. Where the slices have patients, no other slice of a held-out patient is trained on either."""
        (source,), ((name, record),) = self._sources, self.sources.items()
        index, excluded = source.slices.index, np.array([], np.int64)
        held = source.rows[len(source.rows) - min(most, round(share * len(source.rows))) :]
        if "subject" in index:
            subject = index["subject"].fillna("").astype(str).to_numpy()
            excluded = np.flatnonzero(np.isin(subject, subject[held]) & (subject != ""))
        trained = np.setdiff1d(source.rows, np.union1d(held, excluded))
        source.pools = [Pool(pool.rows[np.isin(pool.rows, trained)], pool.key) for pool in source.pools]
        if not len(held) or not all(len(pool.rows) for pool in source.pools):
            few = f"{len(source.rows)} {name} slices are too few to hold some out for validation"
            raise UnderstudyError(few, source.slices.path, "sample more, or use `validation: real`")
        self.sources[name] = {**record, "slices": len(trained), "held_out": len(held)}
        return source, held

    def draw(self, samples: Rows) -> list[tuple[Rows, Rows]]:
        """For each source: positions in `samples` that it provides, and the rows."""
        if len(self._sources) == 1:
            return [(np.arange(len(samples)), self._sources[0].draw(samples))]
        first, in_first, in_second = split_counts(samples, self._share)
        real, synthetic = self._sources
        real_rows, synthetic_rows = real.draw(in_first[first]), synthetic.draw(in_second[~first])
        return [(np.flatnonzero(first), real_rows), (np.flatnonzero(~first), synthetic_rows)]

    def read(self, samples: Rows) -> Arrays:
        """Images uint8 [n, C, R, R] and labels uint8 [n, R, R] of the samples with these numbers."""
        n, size = len(samples), self.resolution
        images, labels = np.empty((n, len(self.channels), size, size), np.uint8), np.empty((n, size, size), np.uint8)
        for (at, rows), source in zip(self.draw(samples), self._sources, strict=True):
            if len(at):
                images[at], labels[at] = source.read(rows)
        return images, labels


def _chosen_rows(real: SliceSet | None, synthetic: SliceSet | None, config: MixtureConfig) -> tuple[Rows, Rows]:
    ordered = np.empty(0, np.int64) if real is None else _real_rows(real, config)
    there = 0 if synthetic is None else len(synthetic)
    of_real, of_synthetic = len(ordered), (config.synthetic_count or there) if synthetic is not None else 0
    if config.total is not None:
        if real is not None:  # in an order whose first n rows are the set of n: patient by patient, or any
            rng = np.random.default_rng([config.subset_seed, _STREAM, 1])  # the same whatever the training's seed
            ordered = rng.permutation(ordered)
            if config.choose == "patients":
                subject = real.index["subject"].to_numpy()[ordered].astype(str)
                names, patient = np.unique(subject, return_inverse=True)
                place = rng.permutation(len(names))[patient]
                ordered = ordered[np.argsort(place, kind="stable")]  # whole patients, but for the last
        total = len(ordered) if config.total == "real" else config.total
        of_real = round(config.real_share * total)
        of_synthetic = total - of_real
        if (of_real == 0) != (config.real_share == 0) or (of_synthetic == 0) != (config.real_share == 1):
            few = f"{config.real_share:.2%} real slices in a set of {total} leave less than one slice of a kind"
            raise UnderstudyError(few, real.path if real else None, "raise the total or the share")
    for name, slices, wanted, found in (
        ("real", real, of_real, len(ordered)), ("synthetic", synthetic, of_synthetic, there),
    ):  # fmt: skip
        if wanted > found:
            few = f"{wanted} {name} slices wanted, there are {found}"
            raise UnderstudyError(few, slices.path if slices else None, "sample more, or lower the total")
    return ordered[:of_real], np.arange(of_synthetic)


def _real_rows(slices: SliceSet, config: MixtureConfig) -> Rows:
    """Rows of the training patients that the configuration asks for."""
    rows = slices.rows(split="train") if "split" in slices.index else np.arange(len(slices))
    if config.patients is None and config.patient_fraction == 1 and config.patient_count is None:
        return rows
    subject = slices.index["subject"].to_numpy()[rows].astype(str)
    chosen = np.unique(subject)
    if config.patients is not None:
        if unknown := sorted(set(config.patients) - set(chosen)):
            problem = f"not among the training patients: {', '.join(unknown)}"
            raise UnderstudyError(problem, slices.path, "check the ids")
        chosen = np.array(sorted(config.patients))
    order = np.random.default_rng([config.subset_seed, _STREAM]).permutation(chosen)
    count = config.patient_count or max(1, math.ceil(config.patient_fraction * len(order)))
    if count > len(order):
        problem = f"{count} training patients wanted, but there are {len(order)}"
        raise UnderstudyError(problem, slices.path, f"ask for 1 to {len(order)}")
    return rows[np.isin(subject, order[:count])]


class Prefetcher:
    """Iterates over batches number start ... stop - 1: numbers of the samples, and what `read` gives for them.

    The next one is read meanwhile, in one other thread: two in memory, no more.
    """

    def __init__(self, read: Callable[[Rows], Arrays], batch: int, start: int, stop: int) -> None:
        self.read, self.batch, self.start, self.stop = read, batch, start, stop
        self.waited = 0.0  # seconds that the training had to wait, so what a faster disk could save

    def __iter__(self) -> Iterator[tuple[Rows, NDArray[np.uint8], NDArray[np.uint8]]]:
        numbers = np.arange(self.start * self.batch, (self.start + 1) * self.batch)
        with ThreadPoolExecutor(1, "prefetch") as pool:
            pending = pool.submit(self.read, numbers)
            for number in range(self.start, self.stop):
                asked = clock()
                images, labels = pending.result()
                self.waited += clock() - asked
                if number + 1 < self.stop:
                    pending = pool.submit(self.read, numbers + self.batch)
                yield numbers, images, labels
                numbers = numbers + self.batch

"""Which slice is sample k of a training: real, synthetic, or both, decided by (seed, k) alone.

Every source is gone through in a new random order each round, so that a slice is seen as often as any other; two
sources alternate in their exact proportion. Nothing is kept between steps: a resumed training continues anywhere.

Two ways to mix: all slices of both sets, of which `real_share` says how often each set is drawn from (the paper's
Tables 3 and 4); or a set of a constant number of slices (`total`), `real_share` of them real, each drawn as often as
any other (the paper's Figure 2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.segmenters.mixture_config import MixtureConfig
from understudy.segmenters.pools import Pool, Source, channel_order, class_table, split_counts
from understudy.slices import SliceSet

_STREAM = 0x317  # keeps these draws apart from other uses of the same seed


class Mixture:
    """The training samples in their order.

    Args:
        real: slices of patients (those of the split "train" are used), or None.
        synthetic: generated slices (all are used), or None.
        config: what of them.
        seed: of the order.
        names: channels and classes in the order that a network has already; None: of the slices.

    Attributes:
        channels, classes: names, of the real set if there is one; `classes[0]` is the background.
        resolution: edge of the slices, pixels.
        sources: names and numbers of slices and of patients, for the record.

    Raises:
        UnderstudyError: nothing to train on; names or resolutions that do not fit together.
    """

    def __init__(
        self,
        real: SliceSet | None,
        synthetic: SliceSet | None,
        config: MixtureConfig,
        seed: int,
        names: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    ) -> None:
        reference = real if real is not None else synthetic
        if reference is None:
            raise UnderstudyError("no slices to train on", fix="give real slices, synthetic slices, or both")
        self.channels, self.resolution = reference.channels, reference.resolution
        self.classes = tuple(c.name for c in reference.classes)
        if names is not None:
            self.channels, self.classes = names
        self.sources: dict[str, Any] = {}
        self._parts: list[tuple[Source, float | None, list[Pool]]] = []
        chosen = (_all_of_both if config.total is None else _constant_total)(real, synthetic, config)
        for number, (name, slices, rows) in enumerate(
            zip(("real", "synthetic"), (real, synthetic), chosen, strict=True)
        ):
            if slices is not None and rows is not None:
                self._add(name, number, slices, rows, config.foreground_fraction, seed)
        self._share = config.real_share

    def _add(
        self, name: str, number: int, slices: SliceSet, rows: NDArray[np.int64], fraction: float | None, seed: int
    ) -> None:
        if slices.resolution != self.resolution:
            raise UnderstudyError(
                f"real slices have {self.resolution} pixels, synthetic ones {slices.resolution}",
                where=slices.path,
                fix="generate at the resolution of the real slices",
            )
        if not len(rows):
            raise UnderstudyError(
                f"no {name} slices to train on", where=slices.path, fix="check the split and the subset"
            )
        source = Source(
            slices,
            rows,
            channel_order(slices.channels, self.channels, slices.path),
            class_table([c.name for c in slices.classes], self.classes, slices.path),
        )
        masks = [np.ones(len(rows), bool)] if fraction is None else _two_kinds(source, fraction)
        pools = [Pool(rows[mask], [seed, _STREAM, number, kind]) for kind, mask in enumerate(masks)]
        self._parts.append((source, fraction, pools))
        self.sources[name] = {"slices": len(rows), "content_hash": slices.content_hash}
        if name == "real" and "subject" in slices.index:
            self.sources[name]["patients"] = int(slices.index["subject"].iloc[rows].nunique())

    @property
    def only_synthetic(self) -> bool:
        """No real slice is trained on."""
        return set(self.sources) == {"synthetic"}

    @property
    def slices(self) -> int:
        """Slices in the training set."""
        return sum(source["slices"] for source in self.sources.values())

    def hold_out(self, share: float, most: int) -> tuple[Source, NDArray[np.int64]]:
        """Takes the last `share` of the only source's slices, at most so many, out of the training.

        Where the slices have patients, no other slice of a patient who is held out is trained on either.

        Returns:
            The source and the rows that are no longer drawn.

        Raises:
            UnderstudyError: too few slices for both.
        """
        ((source, fraction, pools),) = self._parts
        ((name, record),) = self.sources.items()
        held = source.rows[len(source.rows) - min(most, round(share * len(source.rows))) :]
        trained = source.rows[~np.isin(source.rows, _with_their_patients(held, source.slices))]
        left = [Pool(pool.rows[np.isin(pool.rows, trained)], pool.key) for pool in pools]
        if not len(held) or not all(len(pool.rows) for pool in left):
            raise UnderstudyError(
                f"{len(source.rows)} {name} slices are too few to hold some out for validation",
                where=source.slices.path,
                fix="sample more, or use `validation: real`",
            )
        self._parts = [(source, fraction, left)]
        self.sources[name] = {**record, "slices": len(trained), "held_out": len(held)}
        return source, held

    def draw(self, samples: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """For each source: positions in `samples` that it provides, and the rows."""
        if len(self._parts) == 1:
            shares = [(np.arange(len(samples)), samples)]
        else:
            first, in_first, in_second = split_counts(samples, self._share)
            shares = [(np.flatnonzero(first), in_first[first]), (np.flatnonzero(~first), in_second[~first])]
        return [
            (at, _draw_kind(pools, fraction, j))
            for (at, j), (_, fraction, pools) in zip(shares, self._parts, strict=True)
        ]

    def read(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images uint8 [n, C, R, R] and labels uint8 [n, R, R] of the samples with these numbers."""
        n, edge = len(samples), self.resolution
        images = np.empty((n, len(self.channels), edge, edge), np.uint8)
        labels = np.empty((n, edge, edge), np.uint8)
        for (at, rows), (source, _, _) in zip(self.draw(samples), self._parts, strict=True):
            if len(at):
                images[at], labels[at] = source.read(rows)
        return images, labels


def _with_their_patients(rows: NDArray[np.int64], slices: SliceSet) -> NDArray[np.int64]:
    """The rows and all others of the same patients, where the set names them."""
    if "subject" not in slices.index:
        return rows
    subject = slices.index["subject"].fillna("").astype(str).to_numpy()
    named = np.isin(subject, subject[rows]) & (subject != "")
    return np.union1d(rows, np.flatnonzero(named))


def _draw_kind(pools: list[Pool], fraction: float | None, j: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of draws j of one source, from its slices with and without foreground if these are balanced."""
    if fraction is None or len(pools) == 1:
        return pools[0].draw(j)
    first, in_first, in_second = split_counts(j, fraction)
    rows = np.empty(len(j), np.int64)
    rows[first] = pools[0].draw(in_first[first])
    rows[~first] = pools[1].draw(in_second[~first])
    return rows


def _two_kinds(source: Source, fraction: float) -> list[NDArray[np.bool_]]:
    """Masks of the slices with and without foreground; one mask of all where a kind is absent or not wanted."""
    foreground = source.foreground()
    kinds = [foreground, ~foreground]
    if not 0 < fraction < 1:
        kinds = [kinds[0] if fraction else kinds[1]]
    present = [kind for kind in kinds if kind.any()]
    return present if len(present) == len(kinds) else [np.ones(len(source.rows), bool)]


_Rows = NDArray[np.int64] | None


def _all_of_both(real: SliceSet | None, synthetic: SliceSet | None, config: MixtureConfig) -> tuple[_Rows, _Rows]:
    """Rows of each set that is given."""
    return (
        None if real is None else _real_rows(real, config),
        None if synthetic is None else _synthetic_rows(synthetic, config),
    )


def _constant_total(real: SliceSet | None, synthetic: SliceSet | None, config: MixtureConfig) -> tuple[_Rows, _Rows]:
    """`real_share` of `total` real rows and the rest synthetic ones; None of a set of which none is wanted.

    Raises:
        UnderstudyError: more wanted than there is of either.
    """
    ordered = _in_order_of_choice(real, config) if real is not None else np.empty(0, np.int64)
    total = len(ordered) if config.total == "real" else int(config.total or 0)
    wanted = round(config.real_share * total)
    if (wanted == 0) != (config.real_share == 0) or (wanted == total) != (config.real_share == 1):
        raise UnderstudyError(
            f"{config.real_share:.2%} real slices in a set of {total} leave less than one slice of a kind",
            where=real.path if real else None,
            fix="raise the total or the share",
        )
    for name, slices, number, there in (
        ("real", real, wanted, len(ordered)),
        ("synthetic", synthetic, total - wanted, 0 if synthetic is None else len(synthetic)),
    ):
        if number > there:
            raise UnderstudyError(
                f"{number} {name} slices wanted for a training set of {total}, there are {there}",
                where=slices.path if slices is not None else None,
                fix="lower `ratios.total`" + (", or sample more" if name == "synthetic" else ""),
            )
    return ordered[:wanted] if wanted else None, np.arange(total - wanted) if total > wanted else None


def _in_order_of_choice(slices: SliceSet, config: MixtureConfig) -> NDArray[np.int64]:
    """The real rows so that the first n are chosen for a set that wants n: patient by patient, or any."""
    rows = _real_rows(slices, config)
    rng = np.random.default_rng([config.subset_seed, _STREAM, 1])
    mixed = rng.permutation(rows)
    if config.choose == "slices":
        return mixed
    subject = slices.index["subject"].to_numpy()[mixed].astype(str)
    names, of = np.unique(subject, return_inverse=True)
    place = rng.permutation(len(names))[of]
    return mixed[np.argsort(place, kind="stable")]  # whole patients; the last one with any of its slices


def _real_rows(slices: SliceSet, config: MixtureConfig) -> NDArray[np.int64]:
    rows = slices.rows(split="train") if "split" in slices.index else np.arange(len(slices))
    if config.patients is None and config.patient_fraction == 1 and config.patient_count is None:
        return rows
    subject = slices.index["subject"].to_numpy()
    chosen = np.unique(subject[rows].astype(str))
    if config.patients is not None:
        unknown = sorted(set(config.patients) - set(chosen))
        if unknown:
            raise UnderstudyError(
                f"not among the training patients: {', '.join(unknown)}", where=slices.path, fix="check the ids"
            )
        chosen = np.array(sorted(config.patients))
    order = np.random.default_rng([config.subset_seed, _STREAM]).permutation(chosen)
    count = config.patient_count or max(1, math.ceil(config.patient_fraction * len(order)))
    if count > len(order):
        raise UnderstudyError(
            f"{count} training patients wanted, but there are {len(order)}",
            where=slices.path,
            fix=f"ask for 1 to {len(order)}",
        )
    kept = order[:count]
    return rows[np.isin(subject[rows].astype(str), kept)]


def _synthetic_rows(slices: SliceSet, config: MixtureConfig) -> NDArray[np.int64]:
    count = config.synthetic_count or len(slices)
    if count > len(slices):
        raise UnderstudyError(
            f"{count} synthetic slices wanted, there are {len(slices)}", where=slices.path, fix="sample more"
        )
    return np.arange(count)

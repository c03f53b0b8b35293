"""Which slice is sample k of a training: real, synthetic, or both, decided by (seed, k) alone.

Every source is gone through in a new random order each round, so that a slice is seen as often as any other; two
sources alternate in their exact proportion. Nothing is kept between steps: a resumed training continues anywhere.

Two ways to mix: all slices of both sets, of which `real_share` says how often each set is drawn from (the paper's
Tables 3 and 4); or a set of a constant number of slices (`total`), `real_share` of them real, each drawn as often as
any other (the paper's Figure 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from understudy.errors import UnderstudyError
from understudy.slices import SliceSet

_WITH_TOTAL = ("total", "choose")
_STREAM = 0x317  # keeps these draws apart from other uses of the same seed


class MixtureConfig(BaseModel):
    """What a segmenter is trained on, out of the slice sets that it is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    real_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of real samples when both are given; 0.5: sampled equally often; 0 and 1 with `total` only",
    )
    total: int | Literal["real"] | None = Field(
        default=None,
        description="slices in the training set, `real_share` of them real; real: as many as there are real training"
        " slices; None: all of both",
    )
    choose: Literal["patients", "slices"] = Field(
        default="patients",
        description="the real slices of a `total` are those of the first patients in a random order, or any",
    )
    patients: tuple[str, ...] | None = Field(
        default=None, description="train on these real patients only; None: all"
    )
    patient_fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the real training patients; smaller shares are subsets of larger",
    )
    patient_count: int | None = Field(
        default=None,
        ge=1,
        description="so many of the real training patients, the first in the order of `patient_fraction`; None: all",
    )
    subset_seed: int = Field(default=0, ge=0, description="which patients a smaller share consists of")
    synthetic_count: int | None = Field(default=None, ge=1, description="first n synthetic slices; None: all")
    foreground_fraction: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of slices with any class but background; None: as they come (paper)",
    )

    @model_validator(mode="after")
    def _both_or_a_total(self) -> MixtureConfig:
        if self.total is None and self.real_share in (0, 1):
            raise ValueError(
                f"`real_share` {self.real_share:g} leaves one set out: give only the other, or a `total`"
            )
        if self.patient_count is not None and self.patient_fraction < 1:
            raise ValueError("give either `patient_count` or `patient_fraction`")
        if isinstance(self.total, int) and self.total < 1:
            raise ValueError("`total` should be 1 or more")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came later: a training without them keeps the identity that it had."""
        content: dict[str, Any] = handler(self)
        unused = set(_WITH_TOTAL) if self.total is None else set()
        unused |= {"patient_count"} if self.patient_count is None else set()
        return {k: content[k] for k in content if k not in unused}


def split_counts(
    k: NDArray[np.int64], share: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Divides the numbers 0, 1, 2, ... between two streams as evenly as possible.

    Args:
        k: numbers, int64 [n].
        share: of the first stream, 0 to 1.

    Returns:
        bool [n], k belongs to the first stream; how many numbers below k belong to the first; to the second.

    Example:
        >>> split_counts(np.arange(4), 0.5)[0].tolist()
        [False, True, False, True]
    """
    exact = Fraction(share).limit_denominator(10_000)
    before = k * exact.numerator // exact.denominator
    after = (k + 1) * exact.numerator // exact.denominator
    return after > before, before, k - before


class Pool:
    """Rows of one slice set that are drawn from in rounds.

    Args:
        rows: row numbers.
        key: with the seed, decides the order of every round.
    """

    def __init__(self, rows: NDArray[np.int64], key: Sequence[int]) -> None:
        self.rows, self.key = rows, list(key)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def draw(self, j: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the draws with numbers `j`."""
        rounds, places = np.divmod(j, len(self.rows))
        return np.array([self._order(int(r))[p] for r, p in zip(rounds, places, strict=True)], np.int64)

    def _order(self, number: int) -> NDArray[np.int64]:
        if number not in self._orders:
            rng = np.random.default_rng([*self.key, number])
            kept = {
                n: order for n, order in self._orders.items() if n >= number - 1
            }  # a batch spans two rounds
            self._orders = {**kept, number: rng.permutation(self.rows)}
        return self._orders[number]


@dataclass
class Source:
    """A slice set as seen by the network: its channels and classes put into the network's order by name.

    Attributes:
        slices: the set.
        rows: rows that may be drawn.
        channels: positions in the set of the network's channels.
        classes: uint8 [256], network class of each of the set's label values.
    """

    slices: SliceSet
    rows: NDArray[np.int64]
    channels: list[int]
    classes: NDArray[np.uint8]

    def read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images uint8 [n, C, R, R] and labels uint8 [n, R, R]."""
        images, labels = self.slices.read(rows)
        return images[:, self.channels], self.classes[labels]

    def foreground(self) -> NDArray[np.bool_]:
        """bool [len(rows)]: has any class but the background."""
        parts = [labels.any((1, 2)) for _, _, labels in self.slices.blocks(self.rows)]
        return np.concatenate(parts)


def channel_order(have: Sequence[str], want: Sequence[str], where: Any) -> list[int]:
    """Positions in `have` of the channels `want`, by name; more than is wanted may be there.

    Raises:
        UnderstudyError: a channel is missing.
    """
    missing = [name for name in want if name not in have]
    if missing:
        raise UnderstudyError(
            f"no channel {', '.join(missing)} among {', '.join(have)}",
            where=where,
            fix=f"use data with the channels {', '.join(want)}",
        )
    return [list(have).index(name) for name in want]


def class_table(have: Sequence[str], want: Sequence[str], where: Any) -> NDArray[np.uint8]:
    """uint8 [256]: index in `want` of each index in `have`, by name (both with the background first).

    Raises:
        UnderstudyError: a class of `have` is not among those wanted.
    """
    unknown = [name for name in have[1:] if name not in want]
    if unknown:
        raise UnderstudyError(
            f"unknown class {', '.join(unknown)}; the classes are {', '.join(want[1:])}",
            where=where,
            fix="use data with the same class names",
        )
    table = np.zeros(256, np.uint8)
    table[1 : len(have)] = [list(want).index(name) for name in have[1:]]
    return table


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
        self,
        name: str,
        number: int,
        slices: SliceSet,
        rows: NDArray[np.int64],
        fraction: float | None,
        seed: int,
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
            shares = [
                (np.flatnonzero(first), in_first[first]),
                (np.flatnonzero(~first), in_second[~first]),
            ]
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


def _all_of_both(
    real: SliceSet | None, synthetic: SliceSet | None, config: MixtureConfig
) -> tuple[_Rows, _Rows]:
    """Rows of each set that is given."""
    return (
        None if real is None else _real_rows(real, config),
        None if synthetic is None else _synthetic_rows(synthetic, config),
    )


def _constant_total(
    real: SliceSet | None, synthetic: SliceSet | None, config: MixtureConfig
) -> tuple[_Rows, _Rows]:
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
                f"not among the training patients: {', '.join(unknown)}",
                where=slices.path,
                fix="check the ids",
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

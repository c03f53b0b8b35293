from __future__ import annotations

import tempfile
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.segmenters import mixing
from understudy.segmenters.config import MixtureConfig
from understudy.segmenters.mixing import Arrays, Mixture, Prefetcher, channel_order, class_table, split_counts
from understudy.slices import SliceSet


def test_a_slice_is_seen_once_a_round(real: SliceSet) -> None:
    mixture = Mixture(real, None, MixtureConfig(), seed=0)
    ((_, rows),) = mixture.draw(np.arange(3 * len(real)))
    for number in range(3):
        assert sorted(rows[number * len(real) :][: len(real)]) == list(range(len(real)))
    assert list(rows[: len(real)]) != list(rows[len(real) : 2 * len(real)])


def test_the_draw_depends_on_seed_and_number_only(real: SliceSet, synthetic: SliceSet) -> None:
    config = MixtureConfig(foreground_fraction=0.4, real_share=0.3)
    whole = Mixture(real, synthetic, config, seed=7).read(np.arange(200))
    later = Mixture(real, synthetic, config, seed=7)
    for start in (150, 30, 170):  # any order, as after an interruption
        images, labels = later.read(np.arange(start, start + 20))
        np.testing.assert_array_equal(images, whole[0][start : start + 20])
        np.testing.assert_array_equal(labels, whole[1][start : start + 20])
    other = Mixture(real, synthetic, config, seed=8).read(np.arange(200))
    assert (other[0] != whole[0]).any()


def test_real_and_synthetic_are_sampled_equally_often(real: SliceSet, synthetic: SliceSet) -> None:
    drawn = Mixture(real, synthetic, MixtureConfig(), seed=0).draw(np.arange(480))
    counts = [Counter(rows.tolist()) for _, rows in drawn]
    assert [sum(c.values()) for c in counts] == [240, 240]
    assert set(counts[0].values()) == {5}  # 240 / 48
    assert set(counts[1].values()) == {8}  # 240 / 30


def test_channels_are_put_in_order_by_name(real: SliceSet, synthetic: SliceSet) -> None:
    assert synthetic.channels == ("FLAIR", "T1w")
    mixture = Mixture(real, synthetic, MixtureConfig(), seed=0)
    images, labels = mixture.read(np.arange(60))
    assert mixture.channels == ("T1w", "FLAIR")
    lesion = labels > 0
    assert images[:, 1][lesion].min() >= 140  # bright in FLAIR whichever set it comes from
    assert images[:, 0][lesion].max() < 100


def test_a_fraction_of_slices_with_foreground(real: SliceSet) -> None:
    natural = Mixture(real, None, MixtureConfig(), seed=0).read(np.arange(48))[1]
    assert natural.any((1, 2)).mean() == pytest.approx(2 / 3)
    for fraction in (0.25, 0.5, 1.0):
        labels = Mixture(real, None, MixtureConfig(foreground_fraction=fraction), seed=0).read(np.arange(48))[1]
        assert labels.any((1, 2)).mean() == fraction


def test_a_set_without_empty_slices_can_be_balanced(tmp_path: Path) -> None:
    writer_rows = [{"id": "0"}, {"id": "1"}]
    from understudy.slices import SliceWriter

    writer = SliceWriter(tmp_path / "set", toys.CHANNELS, toys.CLASSES, 16)
    writer.append(np.zeros((2, 2, 16, 16), np.uint8), np.ones((2, 16, 16), np.uint8), writer_rows)
    mixture = Mixture(None, writer.close(), MixtureConfig(foreground_fraction=0.5), seed=0)
    assert mixture.read(np.arange(4))[1].all()


def test_patients_and_counts_can_be_limited(real: SliceSet, synthetic: SliceSet) -> None:
    def patients(**config: object) -> set[str]:
        ((_, rows),) = Mixture(real, None, MixtureConfig(**config), seed=0).draw(np.arange(200))
        return set(real.index["subject"].iloc[rows])

    assert patients(patients=("p1", "p4")) == {"p1", "p4"}
    third, two_thirds = patients(patient_fraction=1 / 3), patients(patient_fraction=2 / 3)
    assert (len(third), len(two_thirds)) == (2, 4)
    assert third < two_thirds
    mixture = Mixture(None, synthetic, MixtureConfig(synthetic_count=5), seed=0)
    assert set(mixture.draw(np.arange(50))[0][1]) == set(range(5))
    assert mixture.sources["synthetic"]["slices"] == 5


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10), st.integers(0, 99), st.sampled_from(["patients", "slices"]))
def test_a_set_of_constant_size(tenths: int, seed: int, choose: str) -> None:
    real, synthetic = sets()
    config = MixtureConfig(real_share=tenths / 10, total=20, choose=choose, subset_seed=seed)
    mixture = Mixture(real, synthetic, config, seed=3)
    counts = [Counter(rows.tolist()) for _, rows in mixture.draw(np.arange(200))]
    assert [len(c) for c in counts] == [n for n in (2 * tenths, 20 - 2 * tenths) if n]
    assert {n for c in counts for n in c.values()} == {10}  # 200 / 20: every slice as often as any other
    if tenths < 10:
        more = config.model_copy(update={"real_share": (tenths + 1) / 10})
        assert real_rows(mixture, real) < real_rows(Mixture(real, synthetic, more, seed=4), real)


def real_rows(mixture: Mixture, real: SliceSet) -> set[int]:
    return {
        int(row)
        for (_, rows), source in zip(mixture.draw(np.arange(400)), mixture._sources, strict=True)
        for row in rows
        if source.slices is real
    }


_SETS: list[SliceSet] = []


def sets() -> list[SliceSet]:
    """48 real slices of 6 patients and 30 synthetic ones, made once."""
    if not _SETS:
        root = Path(tempfile.mkdtemp())
        _SETS.append(toys.slice_set(root / "real", n=48))
        _SETS.append(toys.slice_set(root / "synthetic", n=30, generated=True))
    return _SETS


def test_a_constant_total_takes_whole_patients_or_any_slices() -> None:
    real, synthetic = sets()

    def chosen(**config: object) -> tuple[list[int], int]:
        mixture = Mixture(real, synthetic, MixtureConfig(**config), seed=0)
        subject = real.index["subject"].iloc[sorted(real_rows(mixture, real))]
        return sorted(subject.value_counts().tolist()), mixture.sources["real"]["slices"]

    each = 48 // 6
    assert chosen(total=32, real_share=0.625) == ([4, each, each], 20)
    spread, number = chosen(total=32, real_share=0.625, choose="slices")
    assert (number, len(spread)) == (20, 6)
    everything = Mixture(real, synthetic, MixtureConfig(total="real", real_share=1.0), seed=0)
    assert everything.sources.keys() == {"real"}
    assert everything.sources["real"]["slices"] == 48
    with pytest.raises(UnderstudyError, match=r"48 .* 30"):
        Mixture(real, synthetic, MixtureConfig(total="real", real_share=0.0), 0)
    with pytest.raises(UnderstudyError, match="less than one"):
        Mixture(real, synthetic, MixtureConfig(total=10, real_share=0.04), 0)
    with pytest.raises(UnderstudyError, match="less than one"):
        Mixture(real, synthetic, MixtureConfig(total=10, real_share=0.96), 0)
    with pytest.raises(ValueError, match="real_share"):
        MixtureConfig(real_share=0.0)


def test_a_mixture_without_a_total_is_written_as_before() -> None:
    assert set(MixtureConfig().model_dump()) == {
        "real_share", "patients", "patient_fraction", "subset_seed", "synthetic_count", "foreground_fraction",
    }  # fmt: skip
    written = MixtureConfig(total="real", choose="slices").model_dump(mode="json")
    assert MixtureConfig.model_validate(written) == MixtureConfig(total="real", choose="slices")


def test_what_does_not_fit_is_refused(real: SliceSet, synthetic: SliceSet, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="no slices"):
        Mixture(None, None, MixtureConfig(), 0)
    with pytest.raises(UnderstudyError, match="nobody"):
        Mixture(real, None, MixtureConfig(patients=("nobody",)), 0)
    with pytest.raises(UnderstudyError, match=r"31 .* 30"):
        Mixture(None, synthetic, MixtureConfig(synthetic_count=31), 0)
    poor = toys.slice_set(tmp_path / "poor", n=4, channels=("FLAIR",), generated=True)
    with pytest.raises(UnderstudyError, match="no channel T1w"):
        Mixture(real, poor, MixtureConfig(), 0)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.001, 0.999), st.integers(0, 10**6), st.integers(1, 300))
def test_two_streams_share_every_stretch_in_proportion(share: float, start: int, n: int) -> None:
    k = np.arange(start, start + n)
    first, in_first, in_second = split_counts(k, share)
    assert abs(first.sum() - n * share) < 1.1  # shares are taken to the fourth digit
    np.testing.assert_array_equal(np.diff(in_first), first[:-1].astype(int))
    np.testing.assert_array_equal(in_first + in_second, k)


def test_names_not_positions() -> None:
    assert channel_order(("a", "b", "c"), ("c", "a"), "here") == [2, 0]
    table = class_table(("background", "ET", "ED"), ("background", "NCR", "ED", "ET"), "here")
    assert table[:3].tolist() == [0, 3, 2]
    with pytest.raises(UnderstudyError, match="unknown class WM"):
        class_table(("background", "WM"), ("background", "ET"), "here")


def test_batches_come_in_order_and_end() -> None:
    got = list(Prefetcher(lambda n: (n.astype(np.uint8), n.astype(np.uint8)), batch=3, start=1, stop=4))
    assert len(got) == 3
    np.testing.assert_array_equal(np.concatenate([numbers for numbers, _, _ in got]), np.arange(3, 12))
    np.testing.assert_array_equal(np.concatenate([images for _, images, _ in got]), np.arange(3, 12))


def test_the_next_batch_is_read_while_this_one_is_in_use() -> None:
    """Deterministic: the second read is waited for before the second batch is asked for."""
    started = [threading.Event() for _ in range(3)]

    def read(numbers: np.ndarray) -> Arrays:
        started[numbers[0]].set()
        return numbers, numbers

    batches = iter(Prefetcher(read, batch=1, start=0, stop=3))
    next(batches)
    assert started[1].wait(10)
    assert not started[2].is_set()  # one ahead, not more: memory stays bounded
    next(batches)
    assert started[2].wait(10)


def test_what_is_waited_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 10.5, 20.0, 22.0])  # before and after each wait
    monkeypatch.setattr(mixing, "clock", lambda: next(ticks))
    batches = Prefetcher(lambda n: (n, n), batch=1, start=0, stop=2)
    assert len(list(batches)) == 2
    assert batches.waited == 2.5


def test_errors_of_the_reading_arrive() -> None:
    def read(numbers: np.ndarray) -> Arrays:
        raise UnderstudyError("the slices cannot be read")

    with pytest.raises(UnderstudyError, match="cannot be read"):
        list(Prefetcher(read, batch=1, start=0, stop=2))

"""Exact nearest neighbours against a brute force in Python's integers, for any tiling, memory, transform and order."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.memorization import exact, search, views
from understudy.memorization.config import TRANSFORMS
from understudy.memorization.views import View, transform
from understudy.roles import Part
from understudy.slices import SliceSet, SliceWriter, evenly_coded

CLASSES = evenly_coded({1: "NCR", 2: "ED"})
Pixels = NDArray[np.uint8]
FLIPS, ALL = TRANSFORMS["flips"], TRANSFORMS["dihedral"]
VIEWS = ("stacked", "centred", "channel:T1w", "channel:FLAIR", "annotation")


def nearest(a: SliceSet, b: SliceSet, query_rows=None, training_rows=None, **options) -> pd.DataFrame:
    """Of all rows, or some."""
    rows = [np.arange(len(s)) if r is None else r for s, r in ((a, query_rows), (b, training_rows))]
    return search.nearest(Part("queries", a, rows[0]), Part("training", b, rows[1]), **options)


def write(path: Path, images: Pixels, labels: Pixels, channels=("T1w", "FLAIR"), classes=CLASSES) -> SliceSet:
    writer = SliceWriter(path, channels, classes, images.shape[-1])
    writer.append(images, labels, [{"id": str(i)} for i in range(len(images))])
    return writer.close()


def slices(rng: np.random.Generator, count: int, size: int, kind: str = "random") -> tuple[Pixels, Pixels]:
    """Random slices; some constant, some duplicated, some without annotation."""
    images = rng.integers(0, 256, (count, 2, size, size), dtype=np.uint8)
    if kind == "smooth":  # like images: dark, with few values
        images = (images // 64 * 20).astype(np.uint8)
    labels = rng.integers(0, 3, (count, size, size), dtype=np.uint8)
    for i in range(count):
        draw = rng.integers(8)
        if draw == 0:
            images[i] = rng.integers(256)
        if draw == 1:
            images[i, 0] = 0
        if draw == 2:
            images[i], labels[i] = images[0], labels[0]
        if draw in (3, 4):
            labels[i] = 0
    return images, labels


def covariance(x: NDArray, y: NDArray) -> int:
    x, y = x.astype(np.int64).ravel(), y.astype(np.int64).ravel()
    return len(x) * int(x @ y) - int(x.sum()) * int(y.sum())


def brute_force(view: str, x: Pixels, xl: Pixels, y: Pixels, yl: Pixels, mean: Pixels) -> Fraction | None:
    """The signed square of the correlation, or the Dice, as a fraction; None where undefined."""
    if view == "annotation":
        if not xl.any() or not yl.any():
            return None
        agree = int(((xl == yl) & (xl > 0)).sum())
        return Fraction(2 * agree, int((xl > 0).sum() + (yl > 0).sum()))
    x, y = x.astype(np.int64), y.astype(np.int64)
    if view == "centred":
        x, y = x - mean, y - mean
    if view.startswith("channel:"):
        c = ("T1w", "FLAIR").index(view[8:])
        x, y = x[c], y[c]
    over, under = covariance(x, y), covariance(x, x) * covariance(y, y)
    return Fraction(over * abs(over), under) if under else None


def expected(view, queries, training, transforms, barred=None) -> list[dict[tuple[int, int], Fraction]]:
    """For every query the exact value of every (row, transform) that counts."""
    (x, xl), (y, yl) = queries, training
    count = len(y)
    mean = np.array([(2 * int(v) + count) // (2 * count) for v in y.sum(0, dtype=int).ravel()]).reshape(y[0].shape)
    rows = []
    for i in range(len(x)):
        found = {}
        for k in transforms:
            image, labels = (np.ascontiguousarray(transform(a[i], k)) for a in (x, xl))
            for j in range(count):
                value = brute_force(view, image, labels, y[j], yl[j], mean)
                if value is not None and not (barred is not None and barred[i, j]):
                    found[j, k] = value
        rows.append(found)
    return rows


def assert_equal(table, queries, training, transforms=(0,), barred=None) -> None:
    """The score is the largest, its row and transform have it, and no equal pair comes before them."""
    for view in VIEWS:
        for i, values in enumerate(expected(view, queries, training, transforms, barred)):
            score, row, turn = (table[f"{view}.{name}"][i] for name in ("score", "row", "transform"))
            if not values:
                assert np.isnan(score)
                assert (row, turn) == (-1, 0)
                continue
            signed_square = (lambda v: v) if view == "annotation" else (lambda v: v * abs(v))
            best = float(max(values.values()))
            assert float(values[row, turn]) == pytest.approx(best, rel=1e-14, abs=1e-15)
            assert signed_square(score) == pytest.approx(best, rel=1e-14, abs=1e-15)
            same = {(j, k) for j, k in values if np.array_equal(training[0][j], training[0][row])
                    and np.array_equal(training[1][j], training[1][row])}  # fmt: skip
            assert row == min(j for j, k in same if k == turn), (view, i)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([1, 4, 5]),
    tile=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    transforms=st.sampled_from([(0,), FLIPS, ALL, (3,)]),
    kind=st.sampled_from(["random", "smooth"]),
)
def test_equals_brute_force(tmp_path_factory, seed, size, tile, transforms, kind) -> None:
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("sets")
    queries, training = slices(rng, 7, size, kind), slices(rng, 8, size, kind)
    queries[0][1], queries[1][1] = training[0][3], training[1][3]  # an exact copy
    a, b = write(folder / "a", *queries), write(folder / "b", *training)
    table = nearest(a, b, transforms=transforms, tile=tile)
    assert list(table.row) == list(range(7))
    assert_equal(table, queries, training, transforms)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[SliceSet, SliceSet, tuple, tuple]:
    """40 queries and 60 training slices of 16 x 16."""
    rng, folder = np.random.default_rng(5), tmp_path_factory.mktemp("pair")
    queries, training = slices(rng, 40, 16), slices(rng, 60, 16)
    return write(folder / "a", *queries), write(folder / "b", *training), queries, training


def test_any_tiling_and_memory_gives_the_same_table(pair) -> None:
    a, b, *_ = pair
    whole = nearest(a, b)
    for options in ({"tile": (7, 11)}, {"tile": (40, 1)}, {"memory_bytes": 3 << 20}):
        pd.testing.assert_frame_equal(nearest(a, b, **options), whole, check_exact=True)


def test_the_float_kernel_gives_the_same_table(pair, monkeypatch) -> None:
    a, b, *_ = pair
    whole = nearest(a, b)
    monkeypatch.setattr(exact, "kernel_is_exact", lambda device: False)
    pd.testing.assert_frame_equal(nearest(a, b), whole, check_exact=True)


def test_integers_beyond_float64_give_the_same_table(pair, monkeypatch) -> None:
    a, b, *_ = pair
    whole = nearest(a, b)
    monkeypatch.setattr(exact, "FLOAT_PIXELS", 0)
    pd.testing.assert_frame_equal(nearest(a, b), whole, check_exact=True)


def test_copies_score_exactly_one(pair, tmp_path) -> None:
    _, b, _, (images, labels) = pair
    table = nearest(write(tmp_path / "copies", images[::-1].copy(), labels[::-1].copy()), b)
    for view in VIEWS:
        score = table[f"{view}.score"].dropna()
        assert len(score) > 20
        assert (score == 1.0).all()


def test_some_rows(pair) -> None:
    a, b, queries, training = pair
    of_queries, of_training = np.array([5, 2, 5, 30]), np.array([50, 4, 4, 31, 8, 20])
    table = nearest(a, b, query_rows=of_queries, training_rows=of_training, tile=(3, 2))
    assert list(table.row) == [5, 2, 5, 30]
    kept = np.unique(of_training)
    table = table.replace({f"{view}.row": dict(zip(kept, range(5), strict=True)) for view in VIEWS})
    assert_equal(table, [q[of_queries] for q in queries], [t[kept] for t in training])


def test_a_set_within_itself(pair) -> None:
    _, b, _, training = pair
    table = nearest(b, b, skip_itself=True, tile=(25, 17))
    assert_equal(table, training, training, barred=np.eye(60, dtype=bool))


def test_channels_and_classes_go_by_name(pair, tmp_path) -> None:
    a, b, (images, labels), _ = pair
    swapped = write(tmp_path / "swapped", images[:, ::-1].copy(), np.array([0, 2, 1], np.uint8)[labels],
                    ("FLAIR", "T1w"), evenly_coded({1: "ED", 2: "NCR"}))  # fmt: skip
    pd.testing.assert_frame_equal(nearest(swapped, b), nearest(a, b), check_exact=True)


def test_one_channel_and_no_annotation(pair) -> None:
    a, b, *_ = pair
    table = nearest(a, b, views=("channel:FLAIR",))
    assert list(table) == ["row", "channel:FLAIR.score", "channel:FLAIR.row", "channel:FLAIR.transform"]
    pd.testing.assert_frame_equal(table, nearest(a, b)[list(table)], check_exact=True)


def moved_up(images: Pixels) -> Pixels:
    return np.roll(images, -2, axis=2)


def test_a_view_of_changed_slices_is_one_line_of_the_registry(pair, tmp_path, monkeypatch) -> None:
    a, b, queries, training = pair
    monkeypatch.setitem(views.VIEWS, "moved", View("moved", pixels=moved_up))
    options = {"views": ("moved", "stacked", "annotation"), "tile": (16, 20), "work_dir": tmp_path / "w"}
    table = nearest(a, b, **options)
    assert list(table)[1:5] == ["moved.score", "moved.row", "moved.transform", "stacked.score"]
    other = [write(tmp_path / name, moved_up(i), m) for name, (i, m) in (("a", queries), ("b", training))]
    expected = nearest(*other, views=("stacked",))
    for field in ("score", "row"):
        assert table[f"moved.{field}"].equals(expected[f"stacked.{field}"])
    assert table.attrs["compared"] == 2 * 40 * 60
    again = nearest(a, b, **options)
    pd.testing.assert_frame_equal(again, table, check_exact=True)
    assert again.attrs["compared"] == 0


@pytest.mark.parametrize("kill_after", [1, 4, 7])
def test_continues_where_it_was_killed(pair, tmp_path, monkeypatch, kill_after) -> None:
    a, b, *_ = pair
    tile = (16, 20)  # 3 x 3 tiles
    monkeypatch.setattr(search, "SAVE_EVERY", -1.0)
    compare, calls = search._Search._compare, []

    def killed(self, *args) -> None:
        if len(calls) == kill_after:
            raise KeyboardInterrupt
        calls.append(1)
        compare(self, *args)

    monkeypatch.setattr(search._Search, "_compare", killed)
    with pytest.raises(KeyboardInterrupt):
        nearest(a, b, tile=tile, work_dir=tmp_path)
    monkeypatch.setattr(search._Search, "_compare", lambda self, *args: calls.append(1) or compare(self, *args))
    table = nearest(a, b, tile=tile, work_dir=tmp_path)
    assert len(calls) == 9  # no tile twice
    pd.testing.assert_frame_equal(table, nearest(a, b), check_exact=True)
    pd.testing.assert_frame_equal(nearest(a, b, tile=tile, work_dir=tmp_path), table, check_exact=True)
    assert len(calls) == 9 + 1  # the search of the whole in one tile; the finished one is read


def test_another_search_starts_anew(pair, tmp_path) -> None:
    a, b, *_ = pair
    nearest(a, b, work_dir=tmp_path)
    table = nearest(b, a, work_dir=tmp_path)
    pd.testing.assert_frame_equal(table, nearest(b, a), check_exact=True)


@pytest.mark.parametrize("value", [0, 255])
def test_background_of_512_pixels_squared_does_not_overflow(tmp_path, value) -> None:
    images = np.full((3, 2, 512, 512), value, np.uint8)
    images[1, :, 7, 9], images[2, :, 300, 2] = 128, 100
    labels = np.ones((3, 512, 512), np.uint8)
    a = write(tmp_path / "a", images, labels)
    table = nearest(a, a)
    assert_equal(table, (images, labels), (images, labels))


def test_refuses_what_does_not_fit(pair, tmp_path) -> None:
    a, b, (images, labels), _ = pair
    cases = {
        "channels": write(tmp_path / "c", images, labels, ("T1w", "T2w")),
        "sizes": write(tmp_path / "s", images[..., :8, :8].copy(), labels[..., :8, :8].copy()),
        "classes": write(tmp_path / "k", images, labels, classes=evenly_coded({1: "NCR"})),
    }
    for word, other in cases.items():
        with pytest.raises(UnderstudyError, match=f"different {word}"):
            nearest(other, b)
    for arguments, message in (
        ({"views": ("T2w",)}, "unknown view 'T2w'"),
        ({"memory_bytes": 1000}, "do not hold the smallest tile"),
    ):
        with pytest.raises(UnderstudyError, match=message):
            nearest(a, b, **arguments)


def test_the_memory_asked_for_suffices(pair) -> None:
    with pytest.raises(UnderstudyError) as error:
        nearest(*pair[:2], memory_bytes=1 << 17)
    asked = int(str(error.value.fix).split()[-2])
    pd.testing.assert_frame_equal(nearest(*pair[:2], memory_bytes=asked << 20),
                                  nearest(*pair[:2]), check_exact=True)  # fmt: skip

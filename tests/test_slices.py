"""SliceSet and SliceWriter: what is written is what is read, whole or not at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.io.seals import Damaged
from understudy.slices import SHARD, SliceSet, SliceWriter, evenly_coded

CLASSES = evenly_coded({1: "NCR", 2: "ED", 4: "ET"})


def content(n: int, seed: int = 0, channels: int = 2, size: int = 8):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, channels, size, size), dtype=np.uint8)
    labels = rng.integers(0, len(CLASSES), (n, size, size), dtype=np.uint8)
    rows = [{"id": f"s{i}", "subject": f"p{i % 5}", "split": "train" if i % 5 else "test"} for i in range(n)]
    return images, labels, rows


def write(path: Path, n: int, seed: int = 0, step: int = 7) -> SliceSet:
    images, labels, rows = content(n, seed)
    writer = SliceWriter(path, ["T1w", "FLAIR"], CLASSES, 8, spacing=(1, 1, 2), axes=("L", "P"))
    for start in range(0, n, step):
        part = slice(start, start + step)
        writer.append(images[part], labels[part], rows[part])
    return writer.close(source_hashes={"a": "b"})


@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 2 * SHARD + 3), step=st.integers(1, 300), seed=st.integers(0, 9))
def test_round_trip_for_any_number_of_slices_and_any_block(n: int, step: int, seed: int) -> None:
    images, labels, rows = content(n, seed)
    with tempfile.TemporaryDirectory() as folder:
        found = write(Path(folder) / "set", n, seed, step)
        assert len(found) == n
        np.testing.assert_array_equal(found.read(slice(None))[0], images)
        np.testing.assert_array_equal(found.read(slice(None))[1], labels)
        assert found.index["id"].tolist() == [r["id"] for r in rows]
        blocks = list(found.blocks(size=step))
        np.testing.assert_array_equal(np.concatenate([b[1] for b in blocks]), images)


def test_meta_survives_and_is_named(tmp_path: Path) -> None:
    found = SliceSet.open(write(tmp_path / "set", 4).path)
    assert found.channels == ("T1w", "FLAIR")
    assert found.class_names == ("NCR", "ED", "ET")
    assert [c.source for c in found.classes] == [0, 1, 2, 4]
    assert (found.spacing, found.axes, found.resolution) == ((1, 1, 2), ("L", "P"), 8)
    assert found.attrs["source_hashes"] == {"a": "b"}
    assert zarr.open_group(str(found.path), mode="r").metadata.zarr_format == 3


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_random_access_in_any_order_with_repeats(tmp_path: Path, cache_bytes: int) -> None:
    images, labels, _ = content(300)
    write(tmp_path / "set", 300)
    found = SliceSet.open(tmp_path / "set", cache_bytes=cache_bytes)
    rows = np.array([299, 3, 3, 257, 0])
    np.testing.assert_array_equal(found.read(rows)[0], images[rows])
    np.testing.assert_array_equal(found.read(rows)[1], labels[rows])


def test_rows_by_name_and_value(tmp_path: Path) -> None:
    found = write(tmp_path / "set", 20)
    assert found.rows(split="test").tolist() == [0, 5, 10, 15]
    assert found.rows(subject=["p0", "p1"], split="train").tolist() == [1, 6, 11, 16]


def identified_writer(folder: Path) -> SliceWriter:
    return SliceWriter(
        folder / "set", ["T1w", "FLAIR"], CLASSES, 8, spacing=(1, 1, 2), axes=("L", "P"), identity={"seed": 1}
    )


def test_a_killed_writer_goes_on_where_its_last_shard_ended(tmp_path: Path) -> None:
    n = SHARD + 50
    whole = write(tmp_path / "whole", n)
    images, labels, rows = content(n)

    first = identified_writer(tmp_path)
    first.append(images[: SHARD + 20], labels[: SHARD + 20], rows[: SHARD + 20])
    del first  # as a kill: 20 slices were still in memory
    with pytest.raises(UnderstudyError, match="not a complete slice set"):
        SliceSet.open(tmp_path / "set")
    second = identified_writer(tmp_path)
    assert second.done == SHARD
    second.append(images[SHARD:], labels[SHARD:], rows[SHARD:])
    assert second.close().content_hash == whole.content_hash


def test_a_writer_killed_while_closing_closes_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = SHARD + 5
    whole = write(tmp_path / "whole", n)
    images, labels, rows = content(n)

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    first = identified_writer(tmp_path)
    first.append(images, labels, rows)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("understudy.slices.os.replace", kill)
        first.close()
    second = identified_writer(tmp_path)
    second.append(images[second.done :], labels[second.done :], rows[second.done :])
    found = second.close()
    found.verify()
    assert found.content_hash == whole.content_hash


def test_any_shorter_part_of_a_killed_writer_is_given_up(tmp_path: Path) -> None:
    n = 2 * SHARD + 9
    whole = write(tmp_path / "whole", n)
    images, labels, rows = content(n)
    first = identified_writer(tmp_path)
    first.append(images, labels, rows)
    first._flush()  # as `close` does before it is killed
    # Versions before this one went on after the short part, with parts that begin anywhere.
    parts = tmp_path / "set.partial" / "parts"
    (parts / f"{2 * SHARD:012d}.parquet").rename(parts / f"{SHARD + 9:012d}.parquet")
    second = identified_writer(tmp_path)
    assert second.done == 2 * SHARD
    second.append(images[second.done :], labels[second.done :], rows[second.done :])
    found = second.close()
    found.verify()
    assert found.content_hash == whole.content_hash


def test_sets_that_zarr_wrote_slice_by_slice_are_read_and_verified(tmp_path: Path) -> None:
    found = write(tmp_path / "set", SHARD + 4)
    images, labels = found.read(slice(None))
    group = zarr.open_group(str(found.path), mode="r+")
    group["images"][:], group["labels"][:] = images, labels
    SliceSet.open(found.path).verify()


def test_a_partial_set_of_another_identity_is_not_continued(tmp_path: Path) -> None:
    images, labels, rows = content(SHARD)
    first = SliceWriter(tmp_path / "set", ["T1w", "FLAIR"], CLASSES, 8, identity={"seed": 1})
    first.append(images, labels, rows)
    assert first.done == SHARD
    assert SliceWriter(tmp_path / "set", ["T1w", "FLAIR"], CLASSES, 8, identity={"seed": 2}).done == 0


def test_hash_depends_on_pixels_labels_index_and_names(tmp_path: Path) -> None:
    images, labels, rows = content(3)
    hashes = set()
    for i in range(5):
        changed_images, changed_labels, changed_rows = images.copy(), labels.copy(), [dict(r) for r in rows]
        channels = ["T1w", "FLAIR"] if i != 4 else ["FLAIR", "T1w"]
        if i == 1:
            changed_images[1, 0, 0, 0] ^= 1
        if i == 2:
            changed_labels[2, 3, 3] ^= 1
        if i == 3:
            changed_rows[0]["subject"] = "another"
        writer = SliceWriter(tmp_path / str(i), channels, CLASSES, 8)
        writer.append(changed_images, changed_labels, changed_rows)
        hashes.add(writer.close().content_hash)
    assert len(hashes) == 5


def test_damage_is_found(tmp_path: Path) -> None:
    found = write(tmp_path / "set", 10)
    found.verify()
    group = zarr.open_group(str(found.path), mode="r+")
    group["images"][0] = 255 - found.read([0])[0][0]
    with pytest.raises(UnderstudyError, match="changed or damaged"):
        SliceSet.open(found.path).verify()


def test_wrong_shapes_and_types_are_refused(tmp_path: Path) -> None:
    images, labels, rows = content(3)
    writer = SliceWriter(tmp_path / "set", ["T1w", "FLAIR"], CLASSES, 8)
    with pytest.raises(UnderstudyError, match="do not fit"):
        writer.append(images[:, :1], labels, rows)
    with pytest.raises(UnderstudyError, match="uint8"):
        writer.append(images.astype(np.int16), labels, rows)
    with pytest.raises(UnderstudyError, match="no slices"):
        writer.close()


def test_absent_set_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="what to do: check the path"):
        SliceSet.open(tmp_path / "nothing")


def test_codes_are_evenly_spaced() -> None:
    assert [c.code for c in evenly_coded({1: "lesion"})] == [0, 255]
    assert [c.code for c in evenly_coded({1: "a", 2: "b", 4: "c"})] == [0, 85, 170, 255]


def test_a_set_that_is_not_held_in_memory_reads_the_same(tmp_path: Path) -> None:
    held = write(tmp_path / "set", 10)
    streamed = SliceSet.open(held.path, cache_bytes=0)
    for rows in ([3, 1, 1, 9], [-1, 0], [2], [], list(range(10))):
        for a, b in zip(held.read(rows), streamed.read(rows), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(IndexError):
        streamed.read([10])
    for path in (held.path / "images" / "c").rglob("0"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged, match="images/c/0"):
        SliceSet.open(held.path, cache_bytes=0).read([0])


def in_memory(n: int = 12) -> SliceSet:
    images, labels, rows = content(n)
    source = np.array([0, 1, 2, 4])[labels]
    patients = [row["subject"] for row in rows]
    named = {1: "NCR", 2: "ED", 4: "ET"}
    return SliceSet.from_arrays(images, source, patients=patients, channels=["T1w", "FLAIR"], classes=named)


def test_arrays_become_a_set_with_class_indices() -> None:
    images, labels, _ = content(12)
    made = in_memory()
    np.testing.assert_array_equal(made.images, images)
    np.testing.assert_array_equal(made.labels, labels)
    assert (made.classes, made.path, made.resolution, len(made)) == (CLASSES, None, 8, 12)
    assert made[-1].image.tolist() == images[11].tolist()
    with pytest.raises(IndexError):
        made[12]


def test_a_set_in_memory_saves_to_the_same_content(tmp_path: Path) -> None:
    made = in_memory(SHARD + 3)
    saved = made.save(tmp_path / "set")
    saved.verify()
    assert saved.content_hash == made.content_hash
    np.testing.assert_array_equal(SliceSet.open(tmp_path / "set", cache_bytes=0).images, made.images)
    with pytest.raises(UnderstudyError):
        assert made.folder


@pytest.mark.parametrize("name", ["set", "set.partial"])
def test_a_folder_with_anything_else_is_not_replaced(tmp_path: Path, name: str) -> None:
    for kept in (tmp_path / name / "images" / "mine.png", tmp_path / name / "mine.txt"):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("mine")
    with pytest.raises(UnderstudyError) as caught:
        in_memory().save(tmp_path / "set", replace=True)
    assert caught.value.where == str(tmp_path / name)
    assert kept.read_text() == "mine"


def test_a_file_beside_the_set_in_its_folder_is_not_deleted(tmp_path: Path) -> None:
    made = in_memory().save(tmp_path / "set")
    (made.folder / "mine.txt").write_text("mine")
    for replace in (False, True):
        with pytest.raises(UnderstudyError) as caught:
            in_memory().save(made.folder, replace=replace)
        assert caught.value.where == str(made.folder)
    assert (made.folder / "mine.txt").read_text() == "mine"


def test_another_set_is_replaced_only_if_asked(tmp_path: Path) -> None:
    first = write(tmp_path / "set", 4)
    with pytest.raises(UnderstudyError, match="replace=True"):
        in_memory().save(tmp_path / "set")
    assert SliceSet.open(first.path).content_hash == first.content_hash
    SliceSet.open(first.path).save(first.path)  # the same content
    made = in_memory().save(tmp_path / "set", replace=True)
    made.verify()
    assert sorted(path.name for path in made.folder.iterdir()) == ["images", "index.parquet", "labels", "zarr.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_subsets_of_subsets(tmp_path: Path, cache_bytes: int) -> None:
    images, labels, _ = content(300)
    write(tmp_path / "set", 300)
    whole = SliceSet.open(tmp_path / "set", cache_bytes=cache_bytes)
    part = whole[whole.index["split"].to_numpy() == "test"][[5, 2, 2]]
    np.testing.assert_array_equal(part.images, images[[25, 10, 10]])
    np.testing.assert_array_equal(part.labels, labels[[25, 10, 10]])
    assert part.index["id"].tolist() == ["s25", "s10", "s10"]
    assert len(whole[10:20]) == 10


@given(patients=st.lists(st.integers(0, 40), min_size=3, max_size=60), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_no_patient_is_on_two_sides_of_a_split(patients: list[int], seed: int) -> None:
    n = len(patients)
    made = SliceSet.from_arrays(np.zeros((n, 1, 4, 4), np.uint8), np.zeros((n, 4, 4), int), patients=patients)
    if len(set(patients)) < 3:
        with pytest.raises(UnderstudyError):
            made.split(seed=seed)
        return
    parts = made.split(seed=seed)
    sides = [set(part.index["subject"]) for part in parts]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides)) == len(set(patients))
    assert sum(map(len, parts)) == n


def test_a_recorded_split_is_kept(tmp_path: Path) -> None:
    found = write(tmp_path / "set", 20)
    train, val, test = found.split()
    assert (len(train), len(val), len(test)) == (16, 0, 4)
    assert set(test.index["split"]) == {"test"}
    for arguments in ({"seed": 0}, {"test": 0.2}, {"val": 0.1}):  # they would have no effect
        with pytest.raises(UnderstudyError):
            found.split(**arguments)


def test_pixels_in_memory_are_read_in_place(tmp_path: Path) -> None:
    made = in_memory(20)
    train, *_ = made.split(seed=1)
    opened = SliceSet.open(made.save(tmp_path / "set").folder)
    part = opened[3:15][[2, 2, 0]]
    streamed = SliceSet.open(tmp_path / "set", cache_bytes=0)[[1, 2]]
    for slices in (made, train, opened, part, streamed):
        np.testing.assert_array_equal(slices.images[-1], slices[-1].image)
    assert part.images[:, 0, 0, 0].tolist() == made.images[[5, 5, 3], 0, 0, 0].tolist()
    assert made._pixels is made._source
    assert train._pixels is train._source  # reads through the whole
    assert part._pixels is part._source
    assert streamed._pixels is not streamed._source  # a few slices of a set that is not held
    assert streamed.cached


@pytest.mark.parametrize("rows", [[True, False], 1.5, "a", None, [0.5], [[1]], np.ones((12, 2), bool), True])
def test_what_are_no_rows_is_refused(rows: object) -> None:
    with pytest.raises(UnderstudyError, match="12"):
        in_memory()[rows]  # type: ignore[call-overload]
    assert len(in_memory()[[]]) == 0
    with pytest.raises(UnderstudyError):
        in_memory().plot(0)


@pytest.mark.parametrize(
    "change",
    [
        {"images": np.zeros((3, 1, 4, 4), np.float32)},
        {"images": np.zeros((3, 1, 4, 5), np.uint8)},
        {"images": np.zeros((3, 4, 4), np.uint8)},
        {"labels": np.zeros((2, 4, 4), int)},
        {"labels": np.zeros((3, 4, 4), float)},
        {"labels": np.full((3, 4, 4), 2)},
        {"labels": np.full((3, 4, 4), -1)},
        {"patients": ["a"]},
        {"channels": ["a", "b"]},
        {"channels": "a"},
        {"classes": "lesion"},
        {"classes": {"lesion": 1}},
        {"classes": {0: "background", 1: "lesion"}},
        {"spacing": (1, 1)},
        {"spacing": (1, 1, 0)},
        {"patients": ["a", None, "b"]},
    ],
)
def test_arrays_that_are_no_slices_are_refused(change: dict) -> None:
    given = {"images": np.zeros((3, 1, 4, 4), np.uint8), "labels": np.zeros((3, 4, 4), int)} | change
    with pytest.raises(UnderstudyError):
        SliceSet.from_arrays(given.pop("images"), given.pop("labels"), **given)


def test_what_a_notebook_shows() -> None:
    made = in_memory()
    assert "12 slices, 5 patients" in repr(made)
    assert "<th>slices</th><td>12</td>" in made._repr_html_()
    assert made.plot(count=4).shape == (2, 4)


@pytest.mark.parametrize("parts", [{"test": 0}, {"val": -1}, {"test": 0.5, "val": 0.5}, {"val": float("nan")}])
def test_a_split_needs_patients_on_every_side(parts: dict) -> None:
    with pytest.raises(UnderstudyError):
        in_memory().split(**parts)


def test_the_last_split_is_kept() -> None:
    made = in_memory()
    parts = made.split(seed=7)
    assert made.last_split == parts
    fresh = in_memory()
    assert [set(p.index["subject"]) for p in fresh.last_split] == [set(p.index["subject"]) for p in in_memory().split()]


def _changed(set_path: Path, change: str) -> None:
    """A set on disk with one thing wrong, and without seal, as other programs write it."""
    meta = json.loads((set_path / "zarr.json").read_text())
    attributes = meta["attributes"]
    del attributes["files"], attributes["seal"]
    index = pd.read_parquet(set_path / "index.parquet")
    match change:
        case "spacing":
            attributes["spacing"] = [1.0, float("nan"), 1.0]
        case "classes":
            attributes["classes"] = attributes["classes"][:1]
        case "channels":
            attributes["channels"] = ["T1w"] * 9
        case "no channels":
            del attributes["channels"]
        case "rows":
            index = index.iloc[:-1]
        case "patients":
            index.loc[0, "subject"] = None
        case "shape":
            array = json.loads((set_path / "images" / "zarr.json").read_text())
            array["shape"][0] = 2**40
            (set_path / "images" / "zarr.json").write_text(json.dumps(array))
    (set_path / "zarr.json").write_text(json.dumps(meta))
    index.to_parquet(set_path / "index.parquet")


@pytest.mark.parametrize("change", ["spacing", "classes", "channels", "no channels", "rows", "patients", "shape"])
def test_a_set_that_is_not_as_it_says_is_refused(change: str, tmp_path: Path) -> None:
    images, labels = np.ones((4, 2, 8, 8), np.uint8), np.ones((4, 8, 8), np.uint8)
    SliceSet.from_arrays(images, labels, patients=list("aabb"), channels=["T1w", "FLAIR"]).save(tmp_path / "set")
    _changed(tmp_path / "set", change)
    with pytest.raises(UnderstudyError, match="slice set cannot be read"):
        opened = SliceSet.open(tmp_path / "set")
        assert len(opened.index) == len(opened.images) == len(opened.labels)

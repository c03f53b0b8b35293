"""What is encoded here, zarr decodes, and would have written the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.io.shards import ShardReader, crc32c, create_sharded, encode_chunk, write_shard

CAPACITY = 4


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next two: RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c_of_published_examples(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


def items(count: int, shape: tuple[int, ...], zero: list[bool]) -> np.ndarray:
    stack = np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)
    stack[np.array((zero * count)[:count], bool)] = 0
    return stack


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 2 * CAPACITY + 1),
    shape=st.sampled_from([(3, 8, 8), (8, 4), (5,)]),
    zero=st.lists(st.booleans(), min_size=1, max_size=5),
)
def test_zarr_reads_what_it_would_have_written(count: int, shape: tuple[int, ...], zero: list[bool]) -> None:
    stack = items(count, shape, zero)
    with tempfile.TemporaryDirectory() as folder:
        group = zarr.open_group(folder, mode="w")
        ours, theirs = (create_sharded(group, name, shape, CAPACITY) for name in ("ours", "theirs"))
        for array in (ours, theirs):
            array.resize((count, *shape))
        theirs[:] = stack
        for start in range(0, count, CAPACITY):
            chunks = [encode_chunk(item) for item in stack[start : start + CAPACITY]]
            write_shard(Path(folder) / "ours", start // CAPACITY, chunks, CAPACITY, len(shape))
        read = zarr.open_group(folder, mode="r")
        np.testing.assert_array_equal(read["ours"][:], read["theirs"][:])
        rows = np.random.default_rng(0).integers(0, count, 9)
        whole = all(stack[start : start + CAPACITY].any() for start in range(0, count, CAPACITY))
        for name in ("ours", "theirs") if whole else ("ours",):  # zarr leaves shards of zeros out, which we do not
            np.testing.assert_array_equal(ShardReader(read[name], Path(folder) / name).read(rows), stack[rows])
        for row in range(count):
            np.testing.assert_array_equal(read["ours"][row], stack[row])


def test_a_shard_replaces_the_one_before_and_zarr_can_change_it(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path), mode="w")
    array = create_sharded(group, "a", (6, 6), CAPACITY)
    array.resize((3, 6, 6))
    stack = items(3, (6, 6), [False])
    for version in (stack, 255 - stack):
        write_shard(tmp_path / "a", 0, [encode_chunk(item) for item in version], CAPACITY, 2)
    np.testing.assert_array_equal(array[:], 255 - stack)
    array[1] = 7
    np.testing.assert_array_equal(array[:, 0, 0], [255 - stack[0, 0, 0], 7, 255 - stack[2, 0, 0]])


def test_a_damaged_table_is_noticed(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path), mode="w")
    array = create_sharded(group, "a", (6, 6), CAPACITY)
    array.resize((1, 6, 6))
    write_shard(tmp_path / "a", 0, [encode_chunk(items(1, (6, 6), [False])[0])], CAPACITY, 2)
    path = tmp_path / "a" / "c" / "0" / "0" / "0"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"(?i)checksum"):
        array[:]


@pytest.mark.parametrize("byte", [3, -1, -30])
def test_a_damaged_shard_is_noticed_by_the_reader(tmp_path: Path, byte: int) -> None:
    group = zarr.open_group(tmp_path, mode="w")
    array = create_sharded(group, "a", (4, 4), CAPACITY)
    array.resize((3, 4, 4))
    write_shard(tmp_path / "a", 0, [encode_chunk(item) for item in items(3, (4, 4), [False])], CAPACITY, 2)
    path = tmp_path / "a" / "c" / "0" / "0" / "0"
    content = bytearray(path.read_bytes())
    content[byte] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        ShardReader(array, tmp_path / "a").read(np.array([0, 2]))


def test_any_flipped_byte_and_a_missing_shard_are_noticed(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w")
    array = create_sharded(group, "a", (8, 8), CAPACITY)
    array.resize((3, 8, 8))
    stack = items(3, (8, 8), [False])
    stack[:, 2:] = 7  # so that there are runs, whose decoding a flip may change without an error
    write_shard(tmp_path / "a", 0, [encode_chunk(item) for item in stack], CAPACITY, 2)
    path, rows = tmp_path / "a" / "c" / "0" / "0" / "0", np.arange(3)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            np.testing.assert_array_equal(ShardReader(array, tmp_path / "a").read(rows), stack)  # a bit of no meaning
        except ValueError:
            continue
    path.unlink()
    with pytest.raises(ValueError, match="missing"):
        ShardReader(array, tmp_path / "a").read(rows)


def test_arrays_of_another_layout_are_refused(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w")
    array = group.create_array("a", shape=(8, 4), chunks=(2, 4), shards=(4, 4), dtype="uint8")
    with pytest.raises(ValueError, match="Zstandard"):
        ShardReader(array, tmp_path / "a")

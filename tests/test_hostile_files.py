"""Pipes, links that lead to themselves, and files that swell when they are unpacked: one error each, and at once."""

from __future__ import annotations

import gzip
import io
import os
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.cohort.nnunet import _json
from understudy.cohort.participants import _read as read_participants
from understudy.cohort.splits import _read_list
from understudy.errors import UnderstudyError
from understudy.exchange.pixels import read_png
from understudy.exchange.read import open_folder
from understudy.exchange.sources import members_of
from understudy.exchange.spec import FolderSpec
from understudy.generators.official.checkpoints import read_checkpoint
from understudy.io.files import read_json, sha256_file
from understudy.io.matlab import read_mat
from understudy.io.nifti import read_header
from understudy.io.readers import read_array, read_arrays, read_table, read_tensors
from understudy.quality.weights import read_weights
from understudy.release.forms import About, read_form
from understudy.slices import SliceSet
from understudy.study.config.schema import load_study


@contextmanager
def soon(seconds: int = 20) -> Iterator[None]:
    """Fails a block that hangs: opening a pipe waits for whoever writes into it."""

    def late(*_: Any) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


READERS: dict[str, Callable[[Path], Any]] = {
    "x.json": read_json,
    "study.yaml": load_study,
    "about.yaml": lambda path: read_form(path, About),
    "x.npy": read_array,
    "x.npz": read_arrays,
    "x.parquet": read_table,
    "x.safetensors": read_tensors,
    "x.png": read_png,
    "x.nii.gz": read_header,
    "x.pkl": read_checkpoint,
    "x.mat": read_mat,
    "x.txt": lambda path: _read_list(str(path)),
    "x.tsv": read_participants,
    "x.tar": lambda path: list(members_of(path)),
    "x.pt": lambda path: read_weights(path, "inception"),
    "hash": sha256_file,
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_or_a_link_to_itself_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for target in ("pipe", name, "/dev/zero"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(target)
        with soon(), pytest.raises(UnderstudyError) as caught:
            READERS[name](tmp_path / name)
        assert str(tmp_path / name) in str(caught.value.where)


def test_a_pipe_is_no_data_set_of_nnunet(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dataset.json")
    with soon():
        assert _json(tmp_path / "dataset.json") == {}


@pytest.mark.parametrize("name", ["index.parquet", "zarr.json", "images/zarr.json", "labels/zarr.json"])
def test_a_pipe_in_a_slice_set(tmp_path: Path, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 1, 8, 8), dtype=np.uint8)
    stored = SliceSet.from_arrays(images, images[:, 0] * 0).save(tmp_path / "set")
    (stored.folder / name).unlink()
    os.mkfifo(stored.folder / name)
    with soon(), pytest.raises(UnderstudyError):
        SliceSet.open(stored.folder)


def test_a_folder_of_images_with_links_to_itself_and_a_pipe(tmp_path: Path) -> None:
    from PIL import Image

    for channel in ("T1w", "Seg"):
        (tmp_path / channel).mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / channel / f"1_{channel}.png")
    (tmp_path / "T1w" / "up").symlink_to("..")
    (tmp_path / "loop.png").symlink_to("loop.png")
    with soon():
        opened = open_folder(tmp_path, FolderSpec(layout="png"))
        assert len(list(opened.source.slices())) == 1
    (tmp_path / "T1w" / "1_T1w.png").unlink()
    os.mkfifo(tmp_path / "T1w" / "1_T1w.png")
    with soon(), pytest.raises(UnderstudyError, match="not a regular file"):
        list(open_folder(tmp_path, FolderSpec(layout="png")).source.slices())


# --- what swells ----------------------------------------------------------------------------------------------------


def _png(edge: int) -> bytes:
    """Black, edge x edge pixels: a thousandth of that in bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, packed = zlib.compressobj(9), []
    for _ in range(edge):
        packed.append(packer.compress(bytes(edge + 1)))
    packed.append(packer.flush())
    header = struct.pack(">IIBBBBB", edge, edge, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(packed)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _nifti(announced: tuple[int, int, int], held: int) -> bytes:
    """The header of a volume, and `held` bytes of zeros behind it."""
    import nibabel as nib

    header = nib.Nifti1Header()
    header.set_data_shape(announced)
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0) as stream:
        stream.write(header.binaryblock + bytes(4))
        for _ in range(held >> 20):
            stream.write(bytes(1 << 20))
    return out.getvalue()


def _npz(announced: int, held: int) -> bytes:
    """An array of `announced` zeros as its header says, of which the file holds `held` bytes."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (announced,)})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(head.getvalue())
        for _ in range(held >> 20):
            member.write(bytes(1 << 20))
    return out.getvalue()


_VOXELS = "from understudy.io import nifti\nread = lambda path: nifti.read_voxels(path, nifti.read_header(path))"
SWELLING: dict[str, tuple[Callable[[], bytes], str]] = {
    "20000.png": (lambda: _png(20_000), "from understudy.exchange.pixels import read_png as read"),
    "announced.nii.gz": (lambda: _nifti((1300, 1300, 1000), 64 << 20), _VOXELS),
    "behind.nii.gz": (lambda: _nifti((64, 64, 32), 256 << 20), _VOXELS),
    "announced.npz": (lambda: _npz(3 << 30, 64 << 20), "from understudy.io.readers import read_arrays as read"),
    "behind.npz": (lambda: _npz(1000, 256 << 20), "from understudy.io.readers import read_arrays as read"),
}
_MEASURE = """
import resource, sys
from pathlib import Path
{reader}
from understudy.errors import UnderstudyError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try: read(Path(sys.argv[1])); said = "read"
except UnderstudyError as error: said = "refused"
print(said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize("name", SWELLING)
def test_memory_is_that_of_the_header_not_of_what_is_packed(tmp_path: Path, name: str) -> None:
    make, reader = SWELLING[name]
    (tmp_path / name).write_bytes(make())
    assert (tmp_path / name).stat().st_size < 4 << 20
    code = _MEASURE.format(reader=reader)
    done = subprocess.run([sys.executable, "-c", code, tmp_path / name], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    said, megabytes = done.stdout.split()
    assert said == "refused" or name == "behind.npz"
    assert int(megabytes) < 64, done.stdout  # packed are 64 to 400 MB, announced up to 3 GB


def test_weights_that_say_they_are_a_part_of_several_zip_files(tmp_path: Path) -> None:
    locator, end = b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 2), b"PK\x05\x06" + bytes(18)
    (tmp_path / "x.pt").write_bytes(locator + end)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.is_zipfile(tmp_path / "x.pt")  # which should answer
    with pytest.raises(UnderstudyError, match="cannot be read safely"):
        read_weights(tmp_path / "x.pt", "inception")

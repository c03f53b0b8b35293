"""Checkpoints are read without executing anything in them: pickles that try, damaged files and wrong files."""

from __future__ import annotations

import codecs
import functools
import importlib
import io
import operator
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import official_files as files
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.generators.official.checkpoints import collect, read_checkpoint
from understudy.generators.official.convert import import_checkpoint
from understudy.generators.official.pickles import NAMES, DType, Machine, Module, Network, Refusal
from understudy.io.foreign import CHECKPOINT, Budget, OverBudget

# What Python itself reports (PEP 578) when something is run, imported by a pickle, or reaches out.
WATCHED = {
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "exec", "compile", "import",
    "pickle.find_class", "ctypes.dlopen", "socket.connect", "shutil.rmtree", "os.remove", "os.rename",
}  # fmt: skip
_seen: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and event in WATCHED:
        _seen.append(f"{event} {arguments!r}"[:200])


sys.addaudithook(_audit)
codecs.lookup("raw_unicode_escape")  # Python imports this codec of its own when a pickle first holds such a text


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Fails if anything is executed or imported inside the block."""
    global _seen
    _seen = seen = []
    try:
        yield
    finally:
        _seen = None
        assert not seen


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


class NewObject:
    """Pickles as an object created with keyword arguments (operation NEWOBJ_EX of protocol 4)."""

    def __reduce__(self) -> tuple[Any, ...]:
        import copyreg

        return copyreg.__newobj_ex__, (NewObject, (), {"a": 1})  # type: ignore[attr-defined]


def read(content: bytes, tmp_path: Path) -> Any:
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    with nothing_runs():
        return read_checkpoint(path)


def nested_in_persistence(attack: Any) -> bytes:
    config, arrays = files.golden(Path(__file__).parents[2] / "golden" / "stylegan2_r32.npz")
    return files.stylegan2_pickle(arrays, config, training_set_kwargs=attack)


def nested_in_network(attack: Any) -> bytes:
    net = files.Network({"version": 2, "name": "G", "static_kwargs": {"a": attack}, "variables": []})
    return files.tf_pickle((net, net, net), "tfutil")


def nested_in_storage(attack: Any) -> bytes:
    inner = io.BytesIO()
    torch.save({"a": attack}, inner, _use_new_zipfile_serialization=False)
    return pickle.dumps(Call(torch.storage._load_from_bytes, inner.getvalue()), 4)


def nested_in_zip(attack: Any) -> bytes:
    out = io.BytesIO()
    torch.save({"a": attack}, out)
    return out.getvalue()


def plain(attack: Any, protocol: int = 4) -> bytes:
    return pickle.dumps(attack, protocol)


NUMBERS = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_keep_their_values(protocol: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 50, (2, 3, 4))
    arrays = {f"{kind.__name__}": values.astype(kind) for kind in NUMBERS}
    arrays |= {
        "Fortran": np.asfortranarray(values), "big-endian": values.astype(">f4"), "empty": np.zeros((0, 3)),
        "scalar": np.float32(values[0, 0, 0]), "zero-dimensional": np.array(3.0), "strided": values[::2, ::-1],
    }  # fmt: skip
    found = read(plain(arrays, protocol), tmp_path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].array(), array, err_msg=name)


@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
def test_tensors_keep_their_values(form: str, tmp_path: Path) -> None:
    values = torch.linspace(-9, 9, 2 * 4 * 3 * 3).reshape(2, 4, 3, 3)
    tensors = {kind.__name__: torch.from_numpy(values.numpy().astype(kind)) for kind in NUMBERS}
    tensors |= {
        "bfloat16": values.bfloat16(), "channels last": values.contiguous(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(values), "part": values[1:, 2:], "turned": values.transpose(0, 3),
        "scalar": torch.tensor(3.0), "empty": torch.zeros(0, 2),
    }  # fmt: skip
    out = io.BytesIO()
    if form == "pickle":
        pickle.dump(tensors, out, 4)
    else:
        torch.save(tensors, out, _use_new_zipfile_serialization=form == "zip")
    found = read(out.getvalue(), tmp_path)
    for name, tensor in tensors.items():
        expected = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
        np.testing.assert_array_equal(found[name].array(), expected.numpy(), err_msg=name)


CALLS = {
    "os.system": Call(os.system, "touch /tmp/understudy-attack"),
    "subprocess.Popen": Call(subprocess.Popen, ["touch", "/tmp/understudy-attack"]),
    "subprocess.check_output": Call(subprocess.check_output, ["id"]),
    "eval": Call(eval, "1 + 1"),
    "exec": Call(exec, "import os"),
    "getattr": Call(getattr, 1, "real"),
    "import": Call(__import__, "os"),
    "importlib": Call(importlib.import_module, "os"),
    "open": Call(open, "/tmp/understudy-attack", "w"),
    "partial": Call(functools.partial, print),
    "attrgetter": Call(operator.attrgetter, "__class__"),
    "methodcaller": Call(operator.methodcaller, "upper"),
    "path": pathlib.PurePosixPath("/etc"),
    "map": Call(map, str, [1]),
    "bytearray": Call(bytearray, 10**12),
    "torch.hub": Call(torch.hub.load, "some/repository", "model"),
    "torch.load": Call(torch.load, "file"),
    "numpy.load": Call(np.load, "file.npy"),
    "numpy.memmap": Call(np.memmap, "/etc/passwd"),
    "type": Call(type, "Name", (), {}),
    "object state": Call(os.system, "id", state={"a": 1}),
}


PLACES = [plain, nested_in_persistence, nested_in_network, nested_in_storage, nested_in_zip]


@pytest.mark.parametrize("name", list(CALLS))
@pytest.mark.parametrize("place", PLACES)
def test_a_call_is_refused_by_name_wherever_it_is(name: str, place: Any, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"the name '[\w.]+'") as caught:
        read(place(CALLS[name]), tmp_path)
    assert "executed" in caught.value.what
    assert caught.value.where == str(tmp_path / "file.pkl")
    assert not Path("/tmp/understudy-attack").exists()


def test_the_watch_of_these_tests_sees_what_the_usual_unpickler_does() -> None:
    with pytest.raises(AssertionError, match="find_class"), nothing_runs():
        pickle.loads(plain(CALLS["eval"]))


@pytest.mark.parametrize("protocol", range(1, 6))
def test_a_call_is_refused_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"system|not a pickle"):
        read(plain(CALLS["os.system"], protocol), tmp_path)


CRAFTED = {
    "INST": b"\x80\x02(S'id'\nios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\nS'id'\no.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "READONLY_BUFFER": b"\x80\x05\x97\x98.",
    "DUP": b"\x80\x02K\x012.",
    "FROZENSET": b"\x80\x04(\x91.",
    "outside of the file": b"\x80\x02S'key'\nQ.",
    "PERSID": b"\x80\x02Pkey\n.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",
    "module with a blank": b"\x80\x02cnumpy dtype\n\n.",
    "name that is no text": b"\x80\x04K\x01K\x02\x93.",
    "call of a number": b"\x80\x02K\x01)R.",
    "call of what may only be mentioned": b"\x80\x02cnumpy\nndarray\n)R.",
    "object of a function": b"\x80\x02cnumpy\ndtype\n)\x81.",
    "state for a name": b"\x80\x02cnumpy\ndtype\n}b.",
    "state for a dictionary": b"\x80\x02}}b.",
    "attributes of a dictionary": b"\x80\x02}}X\x05\x00\x00\x00itemsK\x01sb.",
    "items for a name": b"\x80\x02ccollections\nOrderedDict\nK\x01a.",
    "nested keys": b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s.",
    "bytes with a size": b"\x80\x02cbuiltins\nbytes\n\x8a\x05\x00\x00\x00\x00\x01\x85R.",
    "encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    "long": b"\x80\x02\x8b\x10\x00\x00\x00" + b"\x01" * 16 + b".",
}


@pytest.mark.parametrize("name", list(CRAFTED))
def test_operations_that_no_checkpoint_needs_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="asks for"):
        read(CRAFTED[name], tmp_path)


def test_objects_made_with_keywords_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="asks for"):
        read(plain(NewObject()), tmp_path)


@pytest.mark.parametrize(
    "state", [(3, "<", None, ("a",), None), (3, "<", None, None, {}), (3, "<", ("f4", (2,)), None, None), (3,), None]
)
def test_element_types_with_fields_are_refused(state: Any) -> None:
    with pytest.raises(Refusal):
        DType.create("f4").restore(state)


def test_nested_bytes_must_be_a_pytorch_storage(tmp_path: Path) -> None:
    for inner in (plain([1]), nested_in_zip(torch.zeros(2)), nested_in_storage(torch.zeros(2)), "text", 7):
        with pytest.raises(UnderstudyError, match=r"asks for (a )?nested"):
            read(plain(Call(torch.storage._load_from_bytes, inner)), tmp_path)


@pytest.mark.parametrize(
    "array",
    [
        np.array([Call(os.system, "id"), 1], dtype=object),
        np.array([None]),
        np.array(["text"]),
        np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
        np.zeros(2, dtype="M8[s]"),
        np.zeros(2, dtype="V8"),
    ],
    ids=["object", "none", "text", "fields", "dates", "void"],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_other_things_than_numbers_are_refused(array: Any, protocol: int, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"asks for (a NumPy|the name)"):
        read(plain(array, protocol), tmp_path)


def claims(**change: Any) -> bytes:
    """An array of three float32 with one part of its state replaced."""
    dtype = np.dtype("f4")
    state = {"version": 1, "shape": (3,), "dtype": dtype, "fortran": False, "data": b"\0" * 12} | change
    reconstruct, arguments = np.zeros(1).__reduce__()[:2]
    return plain(Call(reconstruct, *arguments, state=tuple(state.values())))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (10**12,)}, {"shape": (-3,)}, {"shape": (2,)}, {"shape": ("3",)}, {"shape": [3]},
        {"shape": (1,) * 40}, {"data": [1, 2, 3]}, {"dtype": "f4"}, {"data": b""}, {"shape": (2**31, 2**31, 0)},
    ],
)  # fmt: skip
def test_arrays_that_claim_what_they_do_not_hold_are_refused(change: Any, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"asks for|damaged"):
        read(claims(**change), tmp_path)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [(0, (4,), (1,)), (2, (2,), (1,)), (0, (2,), (5,)), (-1, (1,), (1,)), (0, (10**9,), (0,)), (0, (2,), (-1,)),
     (0, (2, 2), (1,))],
)  # fmt: skip
def test_tensors_that_reach_beyond_their_values_are_refused(
    offset: int, shape: Any, stride: Any, tmp_path: Path
) -> None:
    made = torch.zeros(3)
    call = Call(torch._utils._rebuild_tensor_v2, made._typed_storage(), offset, shape, stride, False, None)
    with pytest.raises(UnderstudyError, match=r"asks for"):
        read(plain(call), tmp_path)


@pytest.mark.parametrize("name", ["byteorder", "data/0"])
def test_zip_archives_with_compressed_or_missing_values_are_refused(name: str, tmp_path: Path) -> None:
    source = zipfile.ZipFile(io.BytesIO(nested_in_zip(torch.zeros(3))))
    for compressed in (True, False):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for entry in source.namelist():
                how = zipfile.ZIP_DEFLATED if compressed and entry.endswith(name) else zipfile.ZIP_STORED
                content = b"big" if entry.endswith("byteorder") and not compressed else source.read(entry)
                if compressed or not entry.endswith("data/0"):
                    archive.writestr(entry, content, how)
        with pytest.raises(UnderstudyError, match=r"asks for|damaged"):
            read(out.getvalue(), tmp_path)


def fillers() -> dict[str, bytes]:
    """Small files that would fill the memory."""
    # A text of 1 MB, encoded again and again: 20 bytes of the file would make 1 MB each.
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    encoded = b"c_codecs\nencode\nq\x01X\x06\x00\x00\x00latin1q\x02" + b"h\x01h\x00h\x02\x86R" * 100
    # A dictionary of 1000 entries, copied again and again: by a call, and as the state of a network.
    entries = b"}(" + b"".join(b"M" + struct.pack("<H", i) + b"K\x01" for i in range(1000)) + b"uq\x00"
    size, network = b"ctorch\nSize\n" + b"h\x00\x85R", b"ctfutil\nNetwork\n)\x81h\x00b"
    # 2000 weights of 4 MB in single precision that are views of the same 2 MB
    values = torch.zeros(1000, 1000, dtype=torch.bfloat16)
    names = ["time_embed.0.weight", "input_blocks.0.0.weight", *(f"x{i}" for i in range(2000))]
    views = io.BytesIO()
    torch.save({name: values[:] for name in names}, views)  # noqa: C420 - a view each
    # a network far wider than its weights; empty arrays that take nothing are not read as its width
    config, arrays = files.golden(Path(__file__).parents[2] / "golden" / "stylegan2_r32.npz")
    wide = {**config, "channel_base": 1 << 20, "channel_max": 4096, "z_dim": 4096, "w_dim": 4096}
    arrays |= {"G/synthesis.b4.empty": np.zeros((4096, 4096, 0), np.float32)}
    return {
        "text": b"\x80\x02" + text + b"q\x00" + encoded + b".",
        "calls": b"\x80\x02" + entries + size * 1000 + b".",
        "states": b"\x80\x02" + entries + network * 1000 + b".",
        "sets": b"\x80\x04" + b"\x8f" * 1_000_000 + b".",
        "views": views.getvalue(),
        "width": files.stylegan2_pickle(arrays, wide),
    }


@pytest.mark.parametrize("name", ["text", "calls", "states", "sets", "views", "width"])
def test_a_small_file_cannot_ask_for_a_large_memory(name: str, tmp_path: Path) -> None:
    (path := tmp_path / "file.pkl").write_bytes(fillers()[name])
    with pytest.raises(UnderstudyError, match=r"more memory|claims a network"):
        import_checkpoint(path, tmp_path / "run", ["T1w", "T1wGd", "T2w", "FLAIR"], diffusion={})


def test_operations_are_counted() -> None:
    with pytest.raises(OverBudget, match="1,000 entries or steps"):
        Machine(io.BytesIO(b"]" * 2000 + b"."), Budget("file.pkl", replace(CHECKPOINT, items=1000), 0)).run()


def test_parts_inside_each_other_come_to_an_end() -> None:
    loop = Module("Generator", {"_modules": {}})
    loop.state["_modules"]["again"] = loop
    wide = Module("Generator", {"_modules": {}})
    for _ in range(11):
        wide = Module("Generator", {"_modules": dict.fromkeys("abcdefgh", wide)})
    network = Network({"variables": [], "components": {}})
    network.state["components"]["again"] = network
    for content in ({"G_ema": loop}, {"G_ema": wide}, (network, network, network)):
        with pytest.raises(Refusal):
            collect(content, Budget("file.pkl", CHECKPOINT, 0))


WRONG = {
    "web page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
    "text": (b"Dear colleague, attached you find", "not a pickle"),
    "empty": (b"", "empty"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
    "gzip": (b"\x1f\x8b\x08\x00", "unpack"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "another zip": (b"PK\x03\x04" + b"\0" * 30, "damaged"),
    "python 1 pickle": (b"(lp0\n.", "not a pickle"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_files_are_named(name: str, tmp_path: Path) -> None:
    content, message = WRONG[name]
    with pytest.raises(UnderstudyError, match=message) as caught:
        read(content, tmp_path)
    assert caught.value.fix


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "absent.pkl", "not found"), (tmp_path, "a folder")):
        with pytest.raises(UnderstudyError, match=message):
            read_checkpoint(path)


GENUINE = [
    nested_in_persistence({"path": "slices.zip"}),
    nested_in_network(1.0),
    nested_in_zip(torch.arange(6.0)),
    nested_in_storage(torch.arange(6.0)),
    plain({"a": np.arange(6.0), "b": np.float32(1)}, 2),
]


@pytest.mark.parametrize("content", GENUINE, ids=range(len(GENUINE)))
def test_files_cut_off_anywhere_are_named(content: bytes, tmp_path: Path) -> None:
    read(content, tmp_path)
    for end in np.linspace(4, len(content) - 1, 25).astype(int):
        with pytest.raises(UnderstudyError, match=r"damaged|asks for"):
            read(content[:end], tmp_path)


def swallowed(content: bytes, folder: Path) -> None:
    """Reads and imports; anything but a result or an UnderstudyError fails the test."""
    path = folder / "file.pkl"
    path.write_bytes(content)
    with nothing_runs(), suppress(UnderstudyError):
        import_checkpoint(path, folder / "run", ["T1w"])


# Operations and texts of real pickles, shuffled, reach further into the machine than random bytes do.
FRAGMENTS = [
    *(op.encode("latin1") for op in "(.0123]})tuesaR\x81b\x85\x86\x87\x88\x89\x90\x94Q"),
    b"h\x00", b"h\x01", b"q\x00", b"q\x01", b"K\x01", b"K\x03", b"C\x04abcd", b"X\x02\x00\x00\x00f4", b"\x8a\x01\x05",
    b"r\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f", b"\x96\xff\xff\xff\xff\xff\x00\x00\x00", b"N", b"G?\xf0\0\0\0\0\0\0",
    b"cos\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", *(f"c{t}\n".replace(" ", "\n").encode() for t in NAMES),
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"]))
def test_random_bytes_never_execute_nor_crash(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes
) -> None:
    swallowed(start + content, tmp_path_factory.getbasetemp())


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40))
def test_shuffled_operations_never_execute_nor_crash(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    swallowed(b"\x80\x04" + b"".join(parts) + b".", tmp_path_factory.getbasetemp())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(GENUINE[1:]), st.integers(0, 10**6), st.integers(0, 255))
def test_a_flipped_byte_never_executes_nor_crashes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, place: int, value: int
) -> None:
    place %= len(content)
    swallowed(content[:place] + bytes([value]) + content[place + 1 :], tmp_path_factory.getbasetemp())


# --- never hashed, printed or compared before the type is known ---


def _tuples(levels: int, wide: bool) -> bytes:
    """The operations of a tuple in a tuple in a tuple; `wide`: twice in each, so that its text has 2^levels parts."""
    once, twice = b"\x85", (b"q%ch%c\x86" % (i, i) for i in range(levels))  # the memo puts one below two
    return b")" + (b"".join(twice) if wide else once * levels)


DEEP = {"deep": (200_000, False), "wide": (60, True)}


def _old_format(key: bytes) -> bytes:
    """A `torch.save` of the old format whose list of storages holds `key`."""
    first = (pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}))
    return b"".join(first) + b"\x80\x02](" + key + b"e."


def _element_type(order: bytes) -> bytes:
    """An element type of NumPy whose byte order is `order`."""
    return b"\x80\x02cnumpy\ndtype\n(X\x02\0\0\0f4K\0K\1tR(K\3" + order + b"NNNtb."


def _key_of_a_dictionary(key: bytes) -> bytes:
    return b"\x80\x02}" + key + b"K\1s."


@pytest.mark.parametrize("shape", DEEP)
@pytest.mark.parametrize("make", [_old_format, _element_type, _key_of_a_dictionary])
def test_nested_tuples_are_neither_hashed_nor_printed(make: Any, shape: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(make(_tuples(*DEEP[shape])))
    code = (  # in a process: before, it ended by a signal, or not at all
        "import sys, understudy.generators.official.checkpoints as c\n"
        "from understudy.errors import UnderstudyError\n"
        "try: c.read_checkpoint(sys.argv[1])\n"
        "except UnderstudyError as error: print(len(str(error)), error.where)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, timeout=100, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.split()[1:] == [str(path)]
    assert int(done.stdout.split()[0]) < 1000


def test_the_name_of_a_network_is_a_text(tmp_path: Path) -> None:
    wide: Any = ()
    for _ in range(60):
        wide = (wide, wide)
    net = Network({"build_func_name": wide, "variables": []})
    with pytest.raises(UnderstudyError, match="a TensorFlow network '' that is neither"):
        collect((net, net, net), Budget(tmp_path, CHECKPOINT, 1000))

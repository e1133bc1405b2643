"""Damaged and hostile files of weights: what `mtard-import` is given in `bad_inputs.py`."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable

import numpy as np
from forked_commands import MARKER, BadInput
from small_run import ROOT

sys.path.append(str(ROOT / "tests"))
from torch_writer import Raw, call, write_legacy, write_zip  # noqa: E402

Make = Callable[[pathlib.Path], object]

# Fits the run's net.
STATE = {
    "conv1.weight": np.ones((4, 3, 3, 3), np.float32),
    "conv1.bias": np.ones(4, np.float32),
    "conv2.weight": np.ones((4, 4, 3, 3), np.float32),
    "conv2.bias": np.ones(4, np.float32),
    "dense.weight": np.ones((8, 64), np.float32),
    "dense.bias": np.ones(8, np.float32),
    "logits.weight": np.ones((3, 8), np.float32),
    "logits.bias": np.ones(3, np.float32),
}
_FLAGS = ("--model=net.keras", "--out=out.keras")
_MODEL = ("--model=models.small_cnn", "--image_shape=8,8,3", "--classes=3")


class Runs:
    """Unpickled by a careless reader, it makes the marker."""

    def __reduce__(self):
        return os.system, (f"touch {MARKER}",)


def pickled_zip(body: bytes) -> Make:
    return lambda folder: write_zip(folder / "w.pt", {}, lambda _: body)


def with_call(write: Callable, *named: object) -> Make:
    return lambda folder: write(folder / "w.pt", {**STATE, "hook": call(*named)})  # type: ignore


def edited(name: str, write: Make, edit: Callable[[bytes], bytes]) -> Make:
    def make(folder: pathlib.Path) -> None:
        write(folder)
        (folder / name).write_bytes(edit((folder / name).read_bytes()))

    return make


def edited_pickle(edit: Callable[[bytes], bytes]) -> Make:
    return lambda folder: write_zip(folder / "w.pt", STATE, edit)


def bytes_of(name: str, content: bytes) -> Make:
    return lambda folder: (folder / name).write_bytes(content)


def safetensors(header: object, data: bytes = b"\0" * 64, length: int | None = None) -> Make:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return bytes_of(
        "w.safetensors", struct.pack("<Q", len(text) if length is None else length) + text + data
    )


def entry(shape: list, begin: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def npy(folder: pathlib.Path) -> None:
    array = np.empty(2, object)
    array[0] = Runs()
    np.save(folder / "w.npy", array)


def npz(folder: pathlib.Path) -> None:
    array = np.empty(1, object)
    array[0] = Runs()
    np.savez(folder / "w.npz", **{"conv.weight": array})


def npy_header(header: str) -> Make:
    text = header.encode()
    return bytes_of("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)


def npz_of(**members: bytes) -> Make:
    def make(folder: pathlib.Path) -> None:
        with zipfile.ZipFile(folder / "w.npz", "w") as archive:
            for name, content in members.items():
                archive.writestr(f"{name}.npy", content)

    return make


def bomb(folder: pathlib.Path) -> None:
    """A pickle of 4 GiB of zeros, 4 MiB on disk."""
    with zipfile.ZipFile(folder / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("archive/data.pkl", "w", force_zip64=True) as file:
            for _ in range(256):
                file.write(bytes(1 << 24))


def _state(folder: pathlib.Path) -> None:
    write_zip(folder / "w.pt", STATE)


def _row(name: str, file: str, make: Make, says: str = "", *flags: str) -> BadInput:
    return BadInput(name, "import_", (f"--source={file}", *_FLAGS, *flags), make, says=says)  # type: ignore


def _tensor(*args: object) -> Raw:
    return call("torch._utils", "_rebuild_tensor_v2", *args)


_SYSTEM = b"(S'touch MARKER'\nios\nsystem\n."
_DEEP = pickle.PROTO + b"\x02" + pickle.EMPTY_LIST * 200_000 + pickle.APPEND * 199_999 + pickle.STOP
_BIG = b"\x80\x02\x8a\xff" + b"\xff" * 255 + b"."
_LONG = pickle.PROTO + b"\x04" + pickle.BINBYTES8 + struct.pack("<Q", 1 << 60) + b"x" + pickle.STOP
_MEMO = pickle.PROTO + b"\x02" + pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f" + b"."

_SHAPE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2147483648, 2147483648)}"
_HUGE = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(_SHAPE)) + _SHAPE

INPUTS = (
    _row("pickle: os.system in a zip archive", "w.pt", pickled_zip(pickle.dumps(Runs())), "posix.system"),
    _row("pickle: os.system by the INST opcode", "w.pt", pickled_zip(_SYSTEM), "os.system"),
    _row("pickle: os.system, protocol 5", "w.pt", pickled_zip(pickle.dumps(Runs(), 5)), "posix.system"),
    _row("pickle: eval in the format of before 1.6", "w.pt",
         with_call(write_legacy, "builtins", "eval", f"open('{MARKER}', 'w')"), "builtins.eval"),
    _row("pickle: os.system where the magic number lies", "w.pt", bytes_of("w.pt", pickle.dumps(Runs())),
         "no known form"),
    _row("pickle: a whole model of one's own class", "w.pt", with_call(write_zip, "__main__", "Net"), "state_dict"),
    _row("pickle: getattr on an allowed name", "w.pt",
         with_call(write_zip, "collections", "OrderedDict.fromkeys.__globals__"), "refused"),
    _row("pickle: 200,000 lists in one another", "w.pt", pickled_zip(_DEEP)),
    _row("pickle: bytes of 1 EiB", "w.pt", pickled_zip(_LONG), "cut off or damaged"),
    _row("pickle: place 2,147,483,647 of the memo", "w.pt", pickled_zip(_MEMO)),
    _row("pickle: a number of 255 bytes", "w.pt", pickled_zip(_BIG)),
    _row("pickle: a tensor of None", "w.pt",
         lambda f: write_zip(f / "w.pt", {**STATE, "x.weight": _tensor(None, 0, (2, 2), (2, 1), False, None)})),
    _row("pickle: a tensor outside its storage", "w.pt",
         edited_pickle(lambda data: data.replace(b"K\x08K@", b"K\x09K@")), "claims shape"),
    _row("pickle: 4 GiB of zeros in 4 MiB", "w.pt", bomb, "claims"),
    _row("torch: cut off in the middle", "w.pt", edited("w.pt", _state, lambda d: d[: len(d) // 2]), "cut off"),
    _row("torch: no data.pkl", "w.pt", edited("w.pt", _state, lambda d: d.replace(b"data.pkl", b"data.pkx")),
         "data.pkl"),
    _row("torch: a storage with a flipped bit", "w.pt",
         edited("w.pt", _state, lambda d: d.replace(b"\0\0\x80?" * 8, b"\1\0\x80?" + b"\0\0\x80?" * 7, 1)), "CRC"),
    _row("torch: legacy, cut off", "w.pt",
         edited("w.pt", lambda f: write_legacy(f / "w.pt", STATE), lambda d: d[:-30]), "cut off"),
    _row("torch: empty file", "w.pt", bytes_of("w.pt", b""), "begins with"),
    _row("torch: a web page", "w.pt", bytes_of("w.pt", b"<html>quota exceeded"), "begins with"),
    _row("torch: a folder", "w.pt", lambda f: (f / "w.pt").mkdir(), "no file"),
    _row("torch: a name with a line break", "w\n.pt", lambda f: None, "no file"),
    _row("safetensors: header of 2**63 bytes", "w.safetensors", safetensors({}, length=1 << 63), "header"),
    _row("safetensors: header cut off", "w.safetensors", safetensors({}, b"", 900), "header"),
    _row("safetensors: header is no JSON", "w.safetensors", safetensors(b"{'a': 1}"), "damaged"),
    _row("safetensors: header is not UTF-8", "w.safetensors", safetensors(b'{"\xff": 1}'), "damaged"),
    _row("safetensors: header of 100,000 braces", "w.safetensors", safetensors(b'{"a":' * 100_000), "damaged"),
    _row("safetensors: offsets overlap", "w.safetensors",
         safetensors({"a.weight": entry([2, 2], 0, 16), "b.weight": entry([2, 2], 8, 24)}), "invalid offset"),
    _row("safetensors: negative sizes", "w.safetensors", safetensors({"a.weight": entry([-2, -2], 0, 16)}), "expected usize"),
    _row("safetensors: offsets of floats", "w.safetensors",
         safetensors({"a.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0.0, 16.0]}}), "expected usize"),
    _row("safetensors: a name twice", "w.safetensors",
         safetensors(b'{"a.weight":' + json.dumps(entry([2, 2], 0, 16)).encode() + b',"a.weight":'
                     + json.dumps(entry([2, 2], 16, 32)).encode() + b"}"), "invalid offset"),
    _row("npz: pickled object", "w.npz", npz, "damaged"),
    _row("npz: cut off", "w.npz", edited("w.npz", lambda f: np.savez(f / "w.npz", **STATE), lambda d: d[:200]), "cut off"),
    _row("npz: a member that is no array", "w.npz", npz_of(a=b"nothing"), "not an array of numbers"),
    _row("npz: an array that claims 2**62 numbers", "w.npz", npz_of(a=_HUGE), "damaged"),
    _row("npy: pickled object", "w.npy", npy, "posix.system"),
    _row("npy: header with code", "w.npy", npy_header(f"{{'descr': open('{MARKER}', 'w')}}"), "damaged"),
    _row("npy: header of 60,000 brackets", "w.npy", npy_header("(" * 60_000), "damaged"),
    _row("probe: pickled object", "w.pt", lambda f: (npz(f), _state(f)) and None, "", "--probe=w.npz"),
    _row("import: --image_shape=8,8", "w.pt", _state, "--image_shape", *_MODEL, "--image_shape=8,8"),
    _row("import: --image_shape=³,8,3", "w.pt", _state, "--image_shape", *_MODEL, "--image_shape=³,8,3"),
    _row("import: --image_shape of 10**9", "w.pt", _state, "", *_MODEL, "--image_shape=1000000000,1000000000,3"),
    _row("import: --normalization=nan/0", "w.pt", _state, "normalization", *_MODEL, "--normalization=nan/0"),
    _row("import: --out is no .keras file", "w.pt", _state, "--out", "--out=run.gin"),
    _row("import: --out in a file", "w.pt", _state, "", "--out=run.gin/out.keras"),
    _row("import: --gin that is none", "w.pt", _state, "", *_MODEL, "--gin=models.small_cnn.widths = (4,"),
)  # fmt: skip

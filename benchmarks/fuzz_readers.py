"""Gives the readers of other people's files mutated ones; only documented errors may come of it.

    python benchmarks/fuzz_readers.py --minutes=10

Each reader gets a whole file of its form with some bytes changed, cut out, doubled or spliced, and
hypothesis (the `test` extra) chooses which: where a try fails it looks for the smallest. Every
tensor of a file that is read is asked for its numbers. Exit code 0 if all errors are documented.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import pathlib
import pickle
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from small_run import ROOT

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis  # noqa: E402
from hypothesis import strategies  # noqa: E402
from torch_writer import write_legacy, write_zip  # noqa: E402

from mtard_tf.config import gin_files  # noqa: E402
from mtard_tf.config.gin_errors import ConfigError  # noqa: E402
from mtard_tf.data.idx import read_idx  # noqa: E402
from mtard_tf.data.image_data import DataError  # noqa: E402
from mtard_tf.importing import checkpoint  # noqa: E402
from mtard_tf.importing.tensors import WeightsFileError  # noqa: E402

STATE = {
    "conv.weight": np.arange(36, dtype=np.float32).reshape(1, 4, 3, 3),
    "bn.running_mean": np.ones(4, np.float32),
    "fc.weight": np.ones((3, 4), np.float16),
}
GIN = """# words
import math
E = 3
Experiment.dataset = @datasets.fashion_mini
Experiment.epsilon = 0.1
Experiment.stages = ('a', 'b')
Stage.epochs = %E
a/Stage.learning_rate = 1e-3
Stage.model = @models.small_cnn
models.small_cnn.widths = (4, [8], {'x': None})
Stage.distiller = @distillers.trades
b/Stage.distiller = @distillers.natural
Stage.optimizer = @optimizers.sgd
optimizers.sgd:
  momentum = 0.5
  nesterov = False
Stage.teachers = {
    'clean': 'a\\n/x.keras',
}
"""
# What a reader takes for the end of one thing and the beginning of another.
GRAINS = {
    "bytes": [b"\0", b"\xff", b"\n", b"(", b")", b".", b"K\x00", b"\xff\xff\xff\xff", b"R", b"b"],
    "text": [b"\n", b"(", b")", b"[", b"{", b"'", b'"', b"@", b"%", b"/", b".", b"=", b"\\", b"\0",
             b"include ", b"import ", b"@gin.singleton()", b"macro", b"  ", b"\xff", b"\xc3\xa9"],
}  # fmt: skip


def mutations(seed: bytes, grains: list[bytes]) -> strategies.SearchStrategy[bytes]:
    """The seed with up to six edits."""
    place = strategies.integers(0, len(seed))
    piece = strategies.one_of(strategies.sampled_from(grains), strategies.binary(max_size=8))
    edit = strategies.tuples(place, strategies.integers(0, 16), piece)
    splice = strategies.tuples(place, strategies.just(0), place.map(lambda at: seed[at : at + 24]))
    end = strategies.tuples(place, strategies.just(len(seed)), strategies.just(b""))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = seed
        for at, removed, added in edits:
            data = data[:at] + added + data[at + removed :]
        return data

    weighted = strategies.one_of(edit, edit, edit, splice, end)
    return strategies.lists(weighted, min_size=1, max_size=6).map(apply)


def weights(path: pathlib.Path) -> None:
    """Reads a file of weights and every number in it."""
    for tensor in checkpoint.read(path).tensors.values():
        tensor.numpy()


def idx(path: pathlib.Path) -> None:
    read_idx(path, dimensions=3)


def run_file(path: pathlib.Path) -> None:
    gin_files.parse([str(path)])
    gin_files.experiment()


def in_pickle(data: bytes) -> Callable[[pathlib.Path], None]:
    """Writes a torch archive whose pickle is `data`: the archive's checksum is right."""
    return lambda path: write_zip(path, STATE, lambda _: data) and None


def _seed(write: Callable[[pathlib.Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, name)
        write(path)
        return path.read_bytes()


def _safetensors() -> bytes:
    header, end = {}, 0
    for name, array in STATE.items():
        kind = {"float32": "F32", "float16": "F16"}[array.dtype.name]
        places = [end, end := end + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": places}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in STATE.values())


def _haiku(path: pathlib.Path) -> None:
    array = np.empty(2, object)
    array[:] = [{"net/~/conv": {"w": np.ones((3, 3, 1, 2)), "b": np.ones(2)}}, {}]
    np.save(path, array)


def _pickle_of_torch() -> bytes:
    seen: list[bytes] = []

    def keep(data: bytes) -> bytes:
        seen.append(data)
        return data

    _seed(lambda path: write_zip(path, STATE, keep), "w.pt")
    return seen[0]


# A file of some kilobytes must not take memory; beyond the limit there is a MemoryError.
_KIB, _LIMIT = 3 << 20, 12 << 30
_IDX = struct.pack(">BBBB3I", 0, 0, 8, 3, 2, 4, 4) + bytes(32)
# Name -> (name of the file, whole file, reader, documented errors, grains).
READERS = {
    "pickle in a torch archive": ("w.pt", _pickle_of_torch(), weights, WeightsFileError, "bytes"),
    "torch archive": ("w.pt", _seed(lambda p: write_zip(p, STATE), "w.pt"), weights, WeightsFileError, "bytes"),
    "torch before 1.6": ("w.th", _seed(lambda p: write_legacy(p, STATE), "w.th"), weights, WeightsFileError, "bytes"),
    "safetensors": ("w.safetensors", _safetensors(), weights, WeightsFileError, "text"),
    "npz": ("w.npz", _seed(lambda p: np.savez(p, **STATE), "w.npz"), weights, WeightsFileError, "bytes"),
    "npy of Haiku": ("w.npy", _seed(_haiku, "w.npy"), weights, WeightsFileError, "bytes"),
    "any pickle": ("w.pt", pickle.dumps({"a": [1, (2.5, None)], "b": b"x"}, 4), weights, WeightsFileError, "bytes"),
    "IDX": ("images", _IDX, idx, DataError, "bytes"),
    "IDX, gzipped": ("images.gz", gzip.compress(_IDX, mtime=0), idx, DataError, "bytes"),
    "run file (gin)": ("run.gin", GIN.encode(), run_file, (ConfigError, DataError), "text"),
}  # fmt: skip


def fuzz(name: str, seconds: float, folder: pathlib.Path) -> tuple[int, int, BaseException | None]:
    """(tries, how many were refused, the first undocumented error) of one reader."""
    file, seed, read, documented, grains = READERS[name]
    path, counts, end = folder / file, [0, 0], time.monotonic() + seconds
    inner = "pickle" in name

    @hypothesis.settings(
        max_examples=1_000,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(mutations(seed, GRAINS[grains]))
    def one(data: bytes) -> None:
        counts[0] += 1
        in_pickle(data)(path) if inner else path.write_bytes(data)
        try:
            read(path)
        except documented as error:
            counts[1] += 1
            assert "\n" not in str(error), error
            # The last resort of the run file's reader, which is for what a file imports.
            assert "imports or calls ended with" not in str(error), error
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < _KIB, "memory"

    while time.monotonic() < end:
        try:
            one()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return counts[0], counts[1], error
    return counts[0], counts[1], None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="of all readers together")
    parser.add_argument("--only", default="", help="a part of the readers' names")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT, _LIMIT))
    names = [name for name in READERS if args.only in name]
    print("| reader | tries | refused | undocumented |\n|---|---:|---:|---|")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            seconds = 60 * args.minutes / len(names)
            tries, refused, error = fuzz(name, seconds, pathlib.Path(folder))
            failed += [(name, error)] if error else []
            print(f"| {name} | {tries:,} | {refused:,} | {error!r} |" if error else
                  f"| {name} | {tries:,} | {refused:,} | none |", flush=True)  # fmt: skip
    for name, error in failed:
        print(
            f"\n{name}: {type(error).__name__}: {error}", *getattr(error, "__notes__", []), sep="\n"
        )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

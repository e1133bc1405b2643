"""Files of weights of every form, and those that are hostile, cut off or not what they say."""

from __future__ import annotations

import builtins
import importlib.util
import json
import os
import pathlib
import pickle
import re
import struct
import zipfile

import hypothesis
import numpy as np
import pytest
import torch_writer
from hypothesis import strategies
from torch_writer import Raw, call, write_legacy, write_zip

from mtard_tf.importing import checkpoint
from mtard_tf.importing.tensors import WeightsFileError, decode

RANDOM = np.random.RandomState(0)
STATE = {
    "conv.weight": RANDOM.randn(4, 3, 3, 3).astype(np.float32),
    "conv.bias": RANDOM.randn(4).astype(np.float32),
    "half.weight": RANDOM.randn(5, 4).astype(np.float16),
    "double.weight": RANDOM.randn(2, 5),
}


def _same(read: checkpoint.Checkpoint) -> None:
    assert list(read.tensors) == list(STATE)
    for name, values in STATE.items():
        assert read.tensors[name].shape == values.shape
        np.testing.assert_array_equal(read.tensors[name].numpy(), values.astype(np.float32))


def write_safetensors(path: pathlib.Path, state: dict[str, np.ndarray]) -> pathlib.Path:
    """As huggingface/safetensors writes it."""
    names = {"float32": "F32", "float16": "F16", "float64": "F64", "uint16": "BF16"}
    header: dict = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in state.items():
        end = len(data) + values.nbytes
        dtype, shape = names[values.dtype.name], list(values.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), end]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


WRITERS = {
    "net.pt": write_zip,
    "net.th": write_legacy,
    "net.safetensors": write_safetensors,
    "net.npz": lambda path, state: np.savez(path, **state) or path,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_is_read(name, tmp_path):
    _same(checkpoint.read(WRITERS[name](tmp_path / name, STATE)))


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_training_checkpoints_of_data_parallel(write, tmp_path):
    """A net within a dict, every name prefixed, and what else training keeps."""
    state = {f"module.{name}": values for name, values in STATE.items()}
    state["module.bn.num_batches_tracked"] = np.array(3)
    momentum = {"state": {0: {"momentum_buffer": STATE["conv.weight"]}}, "lr": 0.1}
    value = {"epoch": 7, "state_dict": state, "best_prec1": 91.25, "optimizer": momentum}
    _same(checkpoint.read(write(tmp_path / "net.th", value)))


@pytest.mark.skipif(
    not importlib.util.find_spec("torch"),
    reason="torch is not installed (extra `torch`); files written opcode by opcode "
    "(torch_writer.py) and PyTorch's answers in tests/reference/zoo_logits.npz stand in",
)
@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_reads_and_writes_the_same(legacy, tmp_path):
    import torch

    ours = tmp_path / "ours.pt"
    (write_legacy if legacy else write_zip)(ours, STATE)
    read = torch.load(ours, map_location="cpu", weights_only=True)
    for name, values in STATE.items():
        np.testing.assert_array_equal(read[name].numpy(), values)
    theirs = tmp_path / "theirs.pt"
    tensors = {name: torch.nn.Parameter(torch.from_numpy(v)) for name, v in STATE.items()}
    # A view, of which a file keeps the storage, the offset and the strides.
    tensors["conv.weight"] = (
        torch.from_numpy(
            np.concatenate([np.zeros(7, np.float32), STATE["conv.weight"].ravel("F")])
        )[7:]
        .reshape(3, 3, 3, 4)
        .permute(3, 2, 1, 0)
    )
    torch.save({"net": tensors, "epoch": 3}, theirs, _use_new_zipfile_serialization=not legacy)
    _same(checkpoint.read(theirs))


def test_safetensors_reads_and_writes_the_same(tmp_path):
    from safetensors import numpy as theirs

    theirs.save_file(STATE, tmp_path / "theirs.safetensors")
    read = checkpoint.read(tmp_path / "theirs.safetensors").tensors
    for name, values in theirs.load_file(write_safetensors(tmp_path / "ours", STATE)).items():
        np.testing.assert_array_equal(values, STATE[name])
        np.testing.assert_array_equal(read[name].numpy(), values.astype(np.float32))


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
    # 1.0 is 0x3f800000, -2.5 is 0xc0200000.
    np.testing.assert_array_equal(decode(b"\x80\x3f\x20\xc0", "bfloat16"), [1.0, -2.5])
    halves = np.array([[0x3F80, 0xC020]], np.uint16)
    path = write_safetensors(tmp_path / "net", {"fc.weight": halves})
    np.testing.assert_array_equal(checkpoint.read(path).tensors["fc.weight"].numpy(), [[1, -2.5]])


def _haiku(path: pathlib.Path, **extra) -> pathlib.Path:
    """As adversarial_robustness/jax saves its parameters and state."""
    block = "wide_res_net/~/resnet_lay_0_block_0/~/batchnorm_0"
    parameters = {
        "wide_res_net/~/init_conv": {"w": STATE["conv.weight"].transpose(2, 3, 1, 0)},
        block: {"scale": np.full((1, 1, 1, 2), 3.0), "offset": np.zeros((1, 1, 1, 2))},
        "wide_res_net/~/logits": {"w": STATE["double.weight"].T, "b": np.ones(2)},
        **extra,
    }
    state = {
        f"{block}/~/{name}_ema": {
            "counter": np.array(9),
            "hidden": np.ones((1, 1, 1, 2)),
            "average": np.full((1, 1, 1, 2), value),
        }
        for name, value in (("mean", 0.25), ("var", 4.0))
    }
    with path.open("wb") as file:
        array = np.empty(2, object)
        array[:] = [parameters, state]
        np.save(file, array)
    return path


def test_deepminds_npy(tmp_path):
    modules = checkpoint.read(_haiku(tmp_path / "net.npy")).modules
    np.testing.assert_array_equal(modules["init_conv"]["weight"].numpy(), STATE["conv.weight"])
    np.testing.assert_array_equal(
        modules["logits"]["weight"].numpy(), STATE["double.weight"].astype(np.float32)
    )
    norm = modules["resnet_lay_0_block_0.batchnorm_0"]
    assert list(norm) == ["weight", "bias", "running_mean", "running_var"]
    values = [tensor.numpy() for tensor in norm.values()]
    np.testing.assert_array_equal(values, [[3, 3], [0, 0], [0.25, 0.25], [4, 4]])


class _Hostile:
    """What a class of a file may ask for when it is unpickled."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


MARK = "a file that must not appear"
ATTACKS = {
    "posix.system": lambda target: call("os", "system", f"touch {target}"),
    "builtins.eval": lambda target: call("builtins", "eval", f"open({str(target)!r}, 'w')"),
    "builtins.getattr": lambda target: call("builtins", "getattr", "", "upper"),
    "subprocess.Popen": lambda target: call("subprocess", "Popen", f"touch {target}"),
    "numpy.load": lambda target: call("numpy", "load", "x.npy"),
    "torch.load": lambda target: call("torch", "load", "x.pt"),
    "collections.OrderedDict.fromkeys": lambda target: call("collections", "OrderedDict.fromkeys"),
    "torch._utils._import_dotted_name": lambda target: call("torch._utils", "_import_dotted_name"),
    "torch.nn.modules.conv.Conv2d": lambda target: call("torch.nn.modules.conv", "Conv2d"),
    "argparse.Namespace": lambda target: call("argparse", "Namespace"),
}


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_pickle_that_asks_to_run_something_is_refused(name, write, tmp_path):
    target = tmp_path / MARK
    path = write(tmp_path / "net.pt", {**STATE, "hook": ATTACKS[name](target)})
    asked = name.replace("posix.", "os.")
    with pytest.raises(WeightsFileError, match=r"asks for .*refused and nothing was run") as caught:
        checkpoint.read(path)
    assert asked in str(caught.value) and "\n" not in str(caught.value)
    assert not target.exists()
    assert ("whole model" in str(caught.value)) == (".nn." in name)


def test_a_name_with_a_line_break_or_an_escape_sequence(tmp_path):
    body = pickle.PROTO + b"\x04\x8c\x02os\x8c\x09sys\n\x1b[2Jx\x93."
    with pytest.raises(WeightsFileError, match=r"asks for os\.sys\?\?\[2Jx, which"):
        checkpoint.read(write_zip(tmp_path / "net.pt", {}, lambda _: body))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_guarded(protocol, tmp_path):
    """STACK_GLOBAL, INST, NEWOBJ and the rest all look names up in one place."""
    target = tmp_path / MARK
    body = pickle.dumps(_Hostile(os.system, f"touch {target}"), protocol)
    path = write_zip(tmp_path / "net.pt", {}, lambda _: body)
    with pytest.raises(WeightsFileError, match=rf"asks for {os.name}\.system"):
        checkpoint.read(path)
    array = np.empty(1, object)
    array[0] = _Hostile(os.system, f"touch {target}")
    np.save(tmp_path / "net.npy", array)
    with pytest.raises(WeightsFileError, match=rf"asks for {os.name}\.system"):
        checkpoint.read(tmp_path / "net.npy")
    assert not target.exists()


def test_the_old_opcodes_are_guarded(tmp_path):
    target = tmp_path / MARK
    instance = f"(S'touch {target}'\nios\nsystem\n.".encode()
    with pytest.raises(WeightsFileError, match=r"asks for os\.system"):
        checkpoint.read(write_zip(tmp_path / "net.pt", {}, lambda _: instance))
    assert not target.exists()


@pytest.mark.parametrize(
    "victim",
    [
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch", "FloatStorage"),
        ("numpy", "dtype"),
    ],
)
def test_what_a_pickle_may_name_it_cannot_change(victim, tmp_path):
    """BUILD would set attributes of the stand-ins, which later files use."""
    writer = torch_writer._Writer(legacy=False)
    state = writer.value((None, Raw(pickle.EMPTY_DICT + writer.value("_function") + b"K\x01s")))
    opcodes = writer.name(*victim) + state + pickle.BUILD
    path = write_zip(tmp_path / "net.pt", {**STATE, "x": Raw(opcodes)})
    with pytest.raises(WeightsFileError):
        checkpoint.read(path)
    _same(checkpoint.read(write_zip(tmp_path / "good.pt", STATE)))


def test_reading_opens_nothing_else(tmp_path, monkeypatch):
    """With `eval`, `exec` and `__import__` taken away, every form is still read."""
    paths = [WRITERS[name](tmp_path / name, STATE) for name in ("net.pt", "net.th")]
    for name in ("eval", "exec"):
        monkeypatch.delattr(builtins, name)
    for path in paths:
        _same(checkpoint.read(path))


def _tensor_of(**changed) -> Raw:
    """A tensor of six numbers, with one thing about it changed."""
    writer = torch_writer._Writer(legacy=False)
    at = {"key": "0", "numbers": 6, "offset": 0, "shape": (2, 3), "stride": (3, 1)} | changed
    kind = Raw(writer.name("torch", "FloatStorage"))
    pid = writer.tuple(["storage", kind, at["key"], "cpu", at["numbers"]])
    storage = Raw(pid + pickle.BINPERSID)
    args = (storage, at["offset"], at["shape"], at["stride"], False, Raw(writer.value({})))
    return call("torch._utils", "_rebuild_tensor_v2", *args)


CLAIMS = "A tensor claims shape {} with strides {} at {} in a storage of 6 numbers; the file is"
BYTES = "net.pt is cut off or damaged: archive/data/{} has {} bytes, not {}; fetch it again."


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": (3, 3)}, CLAIMS.format((3, 3), (3, 1), 0)),
        ({"offset": 1}, CLAIMS.format((2, 3), (3, 1), 1)),
        ({"offset": -1}, CLAIMS.format((2, 3), (3, 1), -1)),
        ({"stride": (1 << 40, 1)}, CLAIMS.format((2, 3), (1 << 40, 1), 0)),
        ({"stride": (-3, 1)}, CLAIMS.format((2, 3), (-3, 1), 0)),
        ({"shape": (2, 3, 1)}, CLAIMS.format((2, 3, 1), (3, 1), 0)),
        ({"numbers": 1 << 50}, BYTES.format(0, 24, 1 << 52)),
        ({"numbers": 5}, BYTES.format(0, 24, 20)),
        ({"numbers": -6}, "net.pt has a storage of -6 numbers; fetch it again."),
        ({"key": "9"}, BYTES.format(9, "no", 24)),
        ({"key": "../version"}, BYTES.format("../version", "no", 24)),
    ],
)
def test_tensors_that_reach_outside_their_storage(changed, message, tmp_path):
    state = {"a.weight": np.ones((2, 3), np.float32), "b.weight": _tensor_of(**changed)}
    path = write_zip(tmp_path / "net.pt", state)
    with pytest.raises(WeightsFileError, match=re.escape(message)):
        checkpoint.read(path).tensors["b.weight"].numpy()


@pytest.mark.parametrize("name", ["net.pt", "net.th", "net.safetensors", "net.npz"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off(name, share, tmp_path):
    path = WRITERS[name](tmp_path / name, STATE)
    data = path.read_bytes()
    kept = data[: int(share * len(data))]
    path.write_bytes(kept)
    with pytest.raises(WeightsFileError) as caught:
        for tensor in checkpoint.read(path).tensors.values():
            tensor.numpy()
    assert "\n" not in str(caught.value)
    if len(kept) < 2:  # too little to tell a format from
        assert f"{name} begins with {kept!r}, which no known format does" in str(caught.value)
    else:
        assert f"{name} is cut off or damaged" in str(caught.value)
        assert str(caught.value).endswith("; fetch it again.")


def test_a_damaged_number_shows(tmp_path):
    path = write_zip(tmp_path / "net.pt", STATE)
    data = bytearray(path.read_bytes())
    data[data.index(STATE["conv.weight"].tobytes()) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsFileError, match="cut off or damaged .*CRC"):
        checkpoint.read(path).tensors["conv.weight"].numpy()


@hypothesis.settings(max_examples=150)
@hypothesis.given(
    name=strategies.sampled_from(["net.pt", "net.th", "net.safetensors", "net.npy"]),
    changes=strategies.lists(
        strategies.tuples(strategies.floats(0, 1, exclude_max=True), strategies.integers(0, 255)),
        min_size=1,
        max_size=4,
    ),
)
def test_any_damage_is_one_line_or_none(name, changes, tmp_path_factory):
    """Whatever bytes change, the answer is a net or one line, and never another error."""
    path = tmp_path_factory.mktemp("damage") / name
    WRITERS.get(name, lambda path, _: _haiku(path))(path, STATE)
    data = bytearray(path.read_bytes())
    for place, byte in changes:
        data[int(place * min(len(data), 900))] = byte
    path.write_bytes(data)
    try:
        for tensor in checkpoint.read(path).tensors.values():
            tensor.numpy()
    except WeightsFileError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"epoch": 3}, r"has no weights \(found: none\)"),
        ({"state_dict": STATE, "ema": STATE}, "several nets: 'state_dict', 'ema'; choose with"),
        ({"model.a.weight": STATE["half.weight"], "a.weight": STATE["half.weight"]}, "twice"),
    ],
)
def test_what_holds_no_net_or_several(value, message, tmp_path):
    with pytest.raises(WeightsFileError, match=message):
        checkpoint.read(write_zip(tmp_path / "net.pt", value))


def test_one_of_several_nets(tmp_path):
    other = {"fc.weight": np.ones((2, 2), np.float32)}
    path = write_zip(tmp_path / "net.pt", {"run": {"ema": STATE}, "raw": other})
    _same(checkpoint.read(path, "run.ema"))
    assert list(checkpoint.read(path, "raw").tensors) == ["fc.weight"]
    with pytest.raises(WeightsFileError, match=r"no weights under 'eam' \(found: 'run.ema', 'raw'"):
        checkpoint.read(path, "eam")


def test_no_file_and_no_known_form(tmp_path):
    with pytest.raises(WeightsFileError, match="There is no file"):
        checkpoint.read(tmp_path / "net.pt")
    path = tmp_path / "net.pt"
    path.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(
        WeightsFileError, match="begins with b'<html>qu', which no known format does"
    ):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"wide_res_net/~/x": {"gain": np.ones(2)}}, "has gain, which is not a weight"),
        ({"wide_res_net/~/x": np.ones(2)}, "is not a mapping of arrays"),
    ],
)
def test_haiku_arrays_of_other_layers(extra, message, tmp_path):
    with pytest.raises(WeightsFileError, match=message):
        checkpoint.read(_haiku(tmp_path / "net.npy", **extra))


def test_an_array_that_is_no_pair(tmp_path):
    np.save(tmp_path / "net.npy", np.ones((2, 2)))
    with pytest.raises(WeightsFileError, match="is not a pair"):
        checkpoint.read(tmp_path / "net.npy")


def test_a_safetensors_header_that_is_no_json(tmp_path):
    for text, message in (
        (b'{"a":' * 100_000, "recursion limit exceeded"),
        (b'{"\xff": 1}', "invalid UTF-8"),
    ):
        path = tmp_path / "net.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
        with pytest.raises(WeightsFileError, match=f"cut off or damaged .*{message}"):
            checkpoint.read(path)


@pytest.mark.parametrize("place", [b"r\xff\xff\xff\x7f", b"p999999999\n"])
def test_a_place_of_the_memo_that_would_take_all_memory(place, tmp_path):
    body = pickle.PROTO + b"\x02" + pickle.NONE + place + pickle.STOP
    for write in (write_zip, write_legacy):
        path = write(tmp_path / "net.pt", {**STATE, "x": Raw(body[2:-1])})
        with pytest.raises(WeightsFileError, match=r"place \d+ of the memo after \d+ opcodes"):
            checkpoint.read(path)


def test_an_old_file_whose_list_of_storages_is_a_number(tmp_path):
    path = write_legacy(tmp_path / "net.th", STATE)
    keys = pickle.dumps(list(map(str, range(len(STATE)))), 2)
    path.write_bytes(path.read_bytes().replace(keys, pickle.dumps(7, 2)))
    with pytest.raises(WeightsFileError, match="'7' is no list of storages"):
        checkpoint.read(path)


def test_numpy_files_that_hold_no_arrays(tmp_path):
    path = tmp_path / "net.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"nothing")
    with pytest.raises(WeightsFileError, match="has 'a', which is not an array of numbers"):
        checkpoint.read(path)
    np.savez(path, a=np.array(["text"]))
    with pytest.raises(WeightsFileError, match="has 'a', which is not an array of numbers"):
        checkpoint.read(path)
    path = tmp_path / "net.npy"
    for text in (b"(" * 60_000, b"{'descr': open('x')}", b"\xff", b"{'descr': 3}"):
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
        with pytest.raises(WeightsFileError, match="cut off or damaged") as caught:
            checkpoint.read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, "tensor of F8_E4M3"),
        (
            {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
            "invalid shape, data type",
        ),
        (
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
            "invalid offset for tensor",
        ),
        ({"a": {"dtype": "F32"}}, "missing field `shape`"),
        ({"a": 3}, "cut off or damaged"),
        ({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, "expected usize"),
        ({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, "expected usize"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4]}}, "expected usize"),
        (
            {
                n: {"dtype": "F16", "shape": [1], "data_offsets": [i, i + 2]}
                for i, n in enumerate("ab")
            },
            "invalid offset for tensor `b`",
        ),
        ([], "begins with"),
    ],
)
def test_safetensors_that_contradict_themselves(header, message, tmp_path):
    text = json.dumps(header).encode()
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(WeightsFileError, match=message):
        checkpoint.read(path)

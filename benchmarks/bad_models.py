"""Damaged and hostile models: `.keras` files and SavedModels for `bad_inputs.py`.

A model that is read in spite of all is refused for its size of image: `--dataset=fashion_mini`.
"""

from __future__ import annotations

import base64
import io
import json
import marshal
import pathlib
import zipfile
from collections.abc import Callable

from forked_commands import MARKER, BadInput

Make = Callable[[pathlib.Path], object]
# Of the run's own net, which is 8x8x3: it was read and is whole.
_READ = "takes images of (8, 8, 3)"


def members(folder: pathlib.Path, name: str = "net.keras") -> dict[str, bytes]:
    with zipfile.ZipFile(folder / name) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def keras(change: Callable[[dict[str, bytes]], object], deflated: bool = False) -> Make:
    """The run's net with one thing about its members changed."""

    def make(folder: pathlib.Path) -> None:
        parts = members(folder)
        change(parts)
        kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
        with zipfile.ZipFile(folder / "bad.keras", "w", kind) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)

    return make


def config(change: Callable[[dict], object]) -> Make:
    """The run's net with one thing about its configuration changed."""

    def edit(parts: dict[str, bytes]) -> None:
        value = json.loads(parts["config.json"])
        change(value["config"])
        parts["config.json"] = json.dumps(value).encode()

    return keras(edit)


def layer(module: str | None, name: str, settings: dict, registered: str | None = None) -> Make:
    """The run's net with its second layer replaced."""

    def change(value: dict) -> None:
        place = value["layers"][1]
        place |= {"module": module, "class_name": name, "registered_name": registered}
        place["config"] = {"name": place["config"]["name"], **settings}

    return config(change)


def whole(change: Callable[[bytes], bytes]) -> Make:
    return lambda folder: (folder / "bad.keras").write_bytes(
        change((folder / "net.keras").read_bytes())
    )


def _lambda() -> dict:
    code = marshal.dumps((lambda x: [__import__("os").system(f"touch {MARKER}"), x][1]).__code__)
    body = {"code": base64.b64encode(code).decode(), "defaults": None, "closure": None}
    return {"function": {"class_name": "__lambda__", "config": body}}


def h5(change: Callable) -> Make:
    """The run's net with its file of weights changed by h5py."""

    def edit(parts: dict[str, bytes]) -> None:
        import h5py

        buffer = io.BytesIO(parts["model.weights.h5"])
        with h5py.File(buffer, "r+") as file:
            change(file)
        parts["model.weights.h5"] = buffer.getvalue()

    return keras(edit)


def _kernels(file) -> list:
    found: list = []
    file.visititems(lambda name, item: found.append(item) if hasattr(item, "shape") else None)
    return found


def _outside(file) -> None:
    import h5py

    name, parent = _kernels(file)[0].name, _kernels(file)[0].parent
    del file[name]
    parent[name.rpartition("/")[2]] = h5py.ExternalLink("/etc/passwd", "/")


def _unlike(file) -> None:
    name = _kernels(file)[0].name
    del file[name]
    file[name] = [1.0, 2.0]


def legacy(folder: pathlib.Path) -> None:
    import h5py

    body = {"class_name": "Sequential", "config": {"layers": [
        {"class_name": "Lambda", "config": _lambda()["function"] | {"name": "l", "function_type": "lambda"}}
    ]}}  # fmt: skip
    with h5py.File(folder / "bad.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(body)


def saved(change: Callable[[pathlib.Path], object]) -> Make:
    return lambda folder: change(folder / "saved")


def cut(name: str, size: int) -> Make:
    return saved(lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size]))


def graph(body: str) -> Make:
    """A SavedModel whose `logits` also does what `body` says."""

    def make(folder: pathlib.Path) -> None:
        import tensorflow as tf

        scope = {"tf": tf, "MARKER": MARKER, "kept": []}

        class Model(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32)])
            def logits(self, images):
                scope["images"] = images
                exec(body, scope)
                return {"logits": tf.reduce_mean(images, (1, 2)) + scope.get("more", 0.0)}

        model = Model()
        signatures = {"logits": model.logits.get_concrete_function()}
        model.kept = list(scope["kept"])
        tf.saved_model.save(model, str(folder / "graph"), signatures)

    return make


def resource(folder: pathlib.Path) -> None:
    """A SavedModel that writes a file when it is loaded."""
    import tensorflow as tf

    class Writer(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self):
            return tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

        def _initialize(self):
            tf.io.write_file(MARKER, "")

    class Model(tf.Module):
        def __init__(self) -> None:
            self.writer = Writer()

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32)])
        def logits(self, images):
            self.writer.resource_handle  # noqa: B018
            return {"logits": tf.reduce_mean(images, (1, 2))}

    model = Model()
    tf.saved_model.save(model, str(folder / "graph"), {"logits": model.logits})
    (folder / MARKER).unlink(missing_ok=True)


def signature(shape: tuple, dtype: str) -> Make:
    def make(folder: pathlib.Path) -> None:
        import tensorflow as tf

        model = tf.Module()
        spec = tf.TensorSpec(shape, dtype)
        model.f = tf.function(lambda images: {"logits": images}, input_signature=[spec])
        tf.saved_model.save(model, str(folder / "graph"), {"serving_default": model.f})

    return make


def _file(name: str, make: Make, says: str = "", file: str = "bad.keras") -> BadInput:
    flags = (f"--model={file}", "--dataset=fashion_mini", "--epsilon=0.1", "--out=out")
    return BadInput(name, "eval", flags, make, says=says)


def _graph(name: str, make: Make, says: str = "") -> BadInput:
    return _file(f"SavedModel: {name}", make, says, "graph")


def _folder(name: str, make: Make, says: str = "cannot be read") -> BadInput:
    return _file(f"SavedModel: {name}", make, says, "saved")


_DATA_SET = (
    "more = tf.cast(tf.data.TFRecordDataset('/etc/passwd').reduce(0, lambda n, _: n + 1), tf.float32)"
)
_TABLE = (
    "t = tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer('/etc/passwd', tf.string, 0, "
    "tf.int64, 1, delimiter=':'), 0)"
)

INPUTS = (
    _file("keras: cut off", whole(lambda data: data[: len(data) // 2]), "cannot be read"),
    _file("keras: empty", whole(lambda data: b""), "cannot be read"),
    _file("keras: no zip archive", whole(lambda data: b"\x89HDF" + data), "cannot be read"),
    _file("keras: config.json is no JSON", keras(lambda p: p.update({"config.json": b"{"})), "cannot be read"),
    _file("keras: config.json is a list", keras(lambda p: p.update({"config.json": b"[1]"})), "cannot be read"),
    _file("keras: config.json of 100,000 brackets",
          keras(lambda p: p.update({"config.json": b"[" * 100_000})), "cannot be read"),
    _file("keras: no weights", keras(lambda p: p.pop("model.weights.h5")), "cannot be read"),
    _file("keras: weights cut off", keras(lambda p: p.update({"model.weights.h5": p["model.weights.h5"][:900]})),
          "cannot be read"),
    _file("keras: weights of another shape", h5(_unlike), "cannot be read"),
    _file("keras: weights that link to /etc/passwd", h5(_outside), "cannot be read"),
    _file("keras: a member ../../MARKER", keras(lambda p: p.update({f"../../{MARKER}": b"x"}))),
    _file("keras: weights of 300 MB in 300 KB",
          keras(lambda p: p.update({"model.weights.h5": bytes(300_000_000)}), True), "cannot be read"),
    _file("keras: a Lambda layer with code", layer("keras.layers", "Lambda", _lambda()), "cannot be read"),
    _file("keras: a layer that is os.system", layer("os", "system", {"command": f"touch {MARKER}"}), "cannot be read"),
    _file("keras: a layer that is subprocess.Popen",
          layer("subprocess", "Popen", {"args": ["touch", MARKER]}, "Popen"), "cannot be read"),
    _file("keras: a layer that is keras.utils.get_file",
          layer("keras.utils", "get_file", {"origin": "file:///etc/passwd"}), "cannot be read"),
    _file("keras: a layer that is a SavedModel",
          layer("keras.layers", "TFSMLayer", {"filepath": "saved", "call_endpoint": "serve"}), "cannot be read"),
    _file("keras: a table of words from /etc/passwd",
          layer("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}), "cannot be read"),
    _file("keras: a registered class that nobody registered",
          layer("stranger.layers", "Net", {}, "stranger>Net"), "cannot be read"),
    _file("keras: a layer of -3 filters", config(lambda v: [
        l["config"].update({"filters": -3}) for l in v["layers"] if "filters" in l["config"]]), "cannot be read"),
    _file("keras: old .h5 with a Lambda layer", legacy, "cannot be read", "bad.h5"),
    _file("keras: a name with a NUL", lambda f: None, "", "a\0b.keras"),
    _file("keras: a name of 5,000 letters", lambda f: None, "", "a" * 5000 + ".keras"),
    _file("keras: hf://someone/net.keras", lambda f: None, "", "hf://someone/net.keras"),
    _folder("saved_model.pb cut off", cut("saved_model.pb", 3000)),
    _folder("saved_model.pb is text", saved(lambda f: (f / "saved_model.pb").write_text("nothing"))),
    _folder("saved_model.pb empty", cut("saved_model.pb", 0)),
    _folder("no variables", saved(lambda f: [p.unlink() for p in (f / "variables").iterdir()])),
    _folder("variables cut off", cut("variables/variables.data-00000-of-00001", 100)),
    _folder("their index cut off", cut("variables/variables.index", 100)),
    _folder("saved_model.pb is a folder",
            saved(lambda f: [(f / "saved_model.pb").unlink(), (f / "saved_model.pb").mkdir()]), ""),
    _graph("images of integers only", signature((None, 8, 8, 3), "int32"), "no signature"),
    _graph("no images", signature((None, 3), "float32"), "no signature"),
    _graph("reads a file", graph("tf.io.read_file('/etc/passwd')"), "ReadFile"),
    _graph("writes a file", graph("tf.io.write_file(MARKER, 'x')"), "WriteFile"),
    _graph("looks for files", graph("tf.io.matching_files('/etc/*')"), "MatchingFiles"),
    _graph("calls Python (EagerPyFunc)",
           graph("tf.py_function(lambda: open(MARKER, 'w').close(), [], [])"), "EagerPyFunc"),
    _graph("calls Python (PyFunc)", graph("tf.numpy_function(lambda: 0.0, [], tf.float32)"), "PyFunc"),
    _graph("prints into a file", graph("tf.print('x', output_stream=f'file://{MARKER}')"), "PrintV2"),
    _graph("reads a data set", graph(_DATA_SET), "Dataset"),
    _graph("a table of words from /etc/passwd", graph(_TABLE + "; kept.append(t)"), "InitializeTable"),
    _graph("writes a file in a loop's body",
           graph("tf.while_loop(lambda i: i < 1, lambda i: "
                 "[(tf.io.write_file(MARKER, 'x'), i + 1)[1]], [0])"), "WriteFile"),
    _graph("writes a file when it is loaded", resource, "WriteFile"),
    _graph("saves a checkpoint",
           graph("tf.raw_ops.SaveV2(prefix=MARKER, tensor_names=['a'], shape_and_slices=[''], tensors=[1.0])"), "SaveV2"),
    _graph("restores a checkpoint",
           graph("tf.raw_ops.RestoreV2(prefix=MARKER, tensor_names=['a'], shape_and_slices=[''], dtypes=[tf.float32])"),
           "RestoreV2"),
    _graph("reads a file of words in an attribute",
           graph("tf.raw_ops.FixedUnigramCandidateSampler(true_classes=[[0]], num_true=1, num_sampled=1, "
                 "unique=False, range_max=9, vocab_file='/etc/passwd')"), "FixedUnigram"),
    _graph("the second version of two writes a file",
           lambda f: [graph("tf.io.write_file(MARKER, 'x')")(f), (f / "two").mkdir(),
                      (f / "saved").rename(f / "two" / "1"), (f / "graph").rename(f / "two" / "2"),
                      (f / "two").rename(f / "graph")], "WriteFile"),
)  # fmt: skip

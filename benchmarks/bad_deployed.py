"""Deployed models that are damaged, too new or badly served, and runtimes that are missing.

They are exports of the run's net, which is 8x8x3 with three classes; a server lives for a minute.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from forked_commands import BadInput
from small_run import free_port

Make = Callable[[pathlib.Path], object]
_PORTS = {mode: free_port() for mode in ("classes", "500", "page", "slow", "right")}
_SERVER = """
import http.server, json, os, sys, threading, time
mode, port = sys.argv[1], int(sys.argv[2])
threading.Timer(60, os._exit, (0,)).start()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(404, {})

    def do_POST(self):
        count = len(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"])
        classes = {"classes": 4}.get(mode, 10)
        if mode == "slow":
            time.sleep(3)
        if mode == "500":
            return self.answer(500, {"error": "out of memory"})
        self.answer(200, {"predictions": [[0.0] * classes] * count})

    def answer(self, status, body):
        content = b"<html>hello" if mode == "page" else json.dumps(body).encode()
        self.send_response(200 if mode == "page" else status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def written(name: str) -> bytes:
    """The net of the run as a file of a format; in the current folder's `net.keras`."""
    from mtard_tf.exporting import converting
    from mtard_tf.models import model_files

    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        converting.source(model_files.load("net.keras"), (8, 8, 3), folder / "source")
        converting.convert(name, folder / "source", folder / "file", {})
        return (folder / "file").read_bytes()


def file(name: str, change: Callable[[bytes], bytes] = lambda content: content) -> Make:
    """The net in a format as `bad.tflite` or `bad.onnx`, changed."""

    def make(folder: pathlib.Path) -> None:
        import os

        os.chdir(folder)
        path = folder / ("bad.onnx" if name == "onnx" else "bad.tflite")
        path.write_bytes(change(written(name)))

    return make


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * share)]


def of_tomorrow(content: bytes) -> bytes:
    """Each operation in a version that no runtime has yet."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    for code in model.operatorCodes:
        code.version = 99
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def onnx_model(change: Callable[..., object]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        import onnx

        model = onnx.load_from_string(content)
        change(model)
        return model.SerializeToString()

    return changed


def open_sides(model: object) -> None:
    """No side of the input or the output has a size."""
    for value in (*model.graph.input, *model.graph.output):
        for side in value.type.tensor_type.shape.dim:
            side.Clear()


def later_opset(model: object) -> None:
    model.ir_version, model.opset_import[0].version = 99, 99


def without(module: str, kind: str) -> Make:
    """The net in a format, on a machine that lacks the format's runtime."""

    def make(folder: pathlib.Path) -> None:
        file(kind)(folder)
        (folder / f"{module}.py").write_text(f'raise ImportError("No module named {module!r}")\n')

    return make


def old_converter(folder: pathlib.Path) -> None:
    known = folder / "tf2onnx-1.9.3.dist-info"
    known.mkdir()
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: tf2onnx\nVersion: 1.9.3\n")


def served(mode: str) -> Make:
    def make(folder: pathlib.Path) -> None:
        script = folder / "server.py"
        script.write_text(_SERVER)
        command = [sys.executable, str(script), mode, str(_PORTS[mode])]
        subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        time.sleep(2)

    return make


def _eval(name: str, place: str, make: Make, says: str, *flags: str, code: int = 1) -> BadInput:
    common = (f"--model={place}", "--dataset=fashion_mini", "--epsilon=0.1", "--out=audit")
    return BadInput(f"deployed: {name}", "eval", (*common, *flags), make, code, says)


def _served(name: str, mode: str, says: str, *flags: str) -> BadInput:
    url = f"http://127.0.0.1:{_PORTS[mode]}/v1/models/net"
    return _eval(name, url, served(mode), says, *flags)


def _export(name: str, make: Make, says: str, *flags: str) -> BadInput:
    return BadInput(f"deployed: {name}", "export", ("--run_dir=run", *flags), make, says=says)


_LITERT, _ONNX = "bad.tflite", "bad.onnx"
INPUTS = (
    _eval("a .tflite of 60 %", _LITERT, file("litert", cut(0.6)), "is the file complete?"),
    _eval("an empty .tflite", _LITERT, file("litert", cut(0)), "is the file complete?"),
    _eval("an .onnx of 60 %", _ONNX, file("onnx", cut(0.6)), "is the file complete?"),
    _eval("a .tflite of a later version", _LITERT, file("litert", of_tomorrow), "newer"),
    _eval("an .onnx of a later version", _ONNX, file("onnx", onnx_model(later_opset)), "newer"),
    _eval("an .onnx of other images", _ONNX, file("onnx"), "(8, 8, 3)"),
    _eval(
        "an .onnx of open shape, other images",
        _ONNX,
        file("onnx", onnx_model(open_sides)),
        "has 3 classes, 0 to 2",
    ),
    _eval(
        "LiteRT is not installed", _LITERT, without("ai_edge_litert", "litert"), "mtard_tf[deploy]"
    ),
    _eval(
        "ONNX Runtime is not installed", _ONNX, without("onnxruntime", "onnx"), "mtard_tf[deploy]"
    ),
    _export("tf2onnx 1.9.3", old_converter, "is too old", "--format=onnx"),
    _export("--format=tflite", lambda folder: None, "is not a format", "--format=tflite"),
    _export("--coverage=2", lambda folder: None, "coverage is 2.0", "--calibrate", "--coverage=2"),
    _eval("no server", "http://127.0.0.1:9/v1/models/net", lambda folder: None, "did not answer"),
    _served("a server of 4 classes", "classes", "has 4 classes, 0 to 3"),
    _served("a server that answers 500", "500", "answered 500"),
    _served("a server of pages", "page", "did not answer in JSON"),
    _served("a slow server", "slow", "did not answer in full within 0.2 s", "--timeout=0.2"),
    _served("a server, --max_requests=3", "right", "of --max_requests", "--max_requests=3"),
)

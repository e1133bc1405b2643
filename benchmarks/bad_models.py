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


def by_path(name: str, make: Make, says: str = "", file: str = "bad.keras") -> BadInput:
    flags = (f"--model={file}", "--dataset=fashion_mini", "--epsilon=0.1", "--out=out")
    return BadInput(name, "eval", flags, make, says=says)


INPUTS = (
    by_path("keras: cut off", whole(lambda data: data[: len(data) // 2]), "cannot be read"),
    by_path("keras: empty", whole(lambda data: b""), "cannot be read"),
    by_path("keras: no zip archive", whole(lambda data: b"\x89HDF" + data), "cannot be read"),
    by_path("keras: config.json is no JSON", keras(lambda p: p.update({"config.json": b"{"})), "cannot be read"),
    by_path("keras: config.json is a list", keras(lambda p: p.update({"config.json": b"[1]"})), "cannot be read"),
    by_path("keras: config.json of 100,000 brackets",
          keras(lambda p: p.update({"config.json": b"[" * 100_000})), "cannot be read"),
    by_path("keras: no weights", keras(lambda p: p.pop("model.weights.h5")), "cannot be read"),
    by_path("keras: weights cut off", keras(lambda p: p.update({"model.weights.h5": p["model.weights.h5"][:900]})),
          "cannot be read"),
    by_path("keras: weights of another shape", h5(_unlike), "cannot be read"),
    by_path("keras: weights that link to /etc/passwd", h5(_outside), "cannot be read"),
    by_path("keras: a member ../../MARKER", keras(lambda p: p.update({f"../../{MARKER}": b"x"}))),
    by_path("keras: weights of 300 MB in 300 KB",
          keras(lambda p: p.update({"model.weights.h5": bytes(300_000_000)}), True), "cannot be read"),
    by_path("keras: a Lambda layer with code", layer("keras.layers", "Lambda", _lambda()), "cannot be read"),
    by_path("keras: a layer that is os.system", layer("os", "system", {"command": f"touch {MARKER}"}), "cannot be read"),
    by_path("keras: a layer that is subprocess.Popen",
          layer("subprocess", "Popen", {"args": ["touch", MARKER]}, "Popen"), "cannot be read"),
    by_path("keras: a layer that is keras.utils.get_file",
          layer("keras.utils", "get_file", {"origin": "file:///etc/passwd"}), "cannot be read"),
    by_path("keras: a layer that is a SavedModel",
          layer("keras.layers", "TFSMLayer", {"filepath": "saved", "call_endpoint": "serve"}), "cannot be read"),
    by_path("keras: a table of words from /etc/passwd",
          layer("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}), "cannot be read"),
    by_path("keras: a registered class that nobody registered",
          layer("stranger.layers", "Net", {}, "stranger>Net"), "cannot be read"),
    by_path("keras: a layer of -3 filters", config(lambda v: [
        one["config"].update({"filters": -3}) for one in v["layers"] if "filters" in one["config"]]), "cannot be read"),
    by_path("keras: old .h5 with a Lambda layer", legacy, "cannot be read", "bad.h5"),
    by_path("keras: a name with a NUL", lambda f: None, "", "a\0b.keras"),
    by_path("keras: a name of 5,000 letters", lambda f: None, "", "a" * 5000 + ".keras"),
    by_path("keras: hf://someone/net.keras", lambda f: None, "", "hf://someone/net.keras"),
)  # fmt: skip

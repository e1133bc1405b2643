"""Runs an exported `model.onnx` in a web page by onnxruntime-web, in headless Chromium.

    npm install --prefix /tmp/web onnxruntime-web
    python benchmarks/onnx_web.py runs/quickstart/export/student/1 /tmp/web

Prints the largest difference of a logit from ONNX Runtime in Python, and milliseconds an image. The
page and nothing else is fetched, from this process.
"""

from __future__ import annotations

import functools
import http.server
import json
import pathlib
import shutil
import sys
import threading

import numpy as np
import onnxruntime
from playwright.sync_api import sync_playwright

PAGE = """<!doctype html><link rel="icon" href="data:,">
<script src="/ort/ort.wasm.min.js"></script><script>
async function classify(pixels, shape) {
  ort.env.wasm.wasmPaths = "/ort/";
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create("/model.onnx");
  const images = new ort.Tensor("float32", Float32Array.from(pixels, x => x / 255), shape);
  const {logits} = await session.run({images});
  const black = new Float32Array(images.size / shape[0]);
  const one = new ort.Tensor("float32", black, [1, ...shape.slice(1)]);
  const times = [];
  for (let i = 0; i < 100; i++) {
    const begun = performance.now();
    await session.run({images: one});
    times.push(performance.now() - begun);
  }
  return {logits: Array.from(logits.data), milliseconds: times.sort((a, b) => a - b)[50]};
}
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the page, the library and the model."""

    def __init__(self, export: pathlib.Path, modules: pathlib.Path, *args) -> None:
        self._places = {"/ort/": modules / "node_modules/onnxruntime-web/dist", "/": export}
        super().__init__(*args)

    def translate_path(self, path: str) -> str:
        prefix = next(prefix for prefix in self._places if path.startswith(prefix))
        return str(self._places[prefix] / path[len(prefix) :].partition("?")[0])

    def do_GET(self) -> None:
        if self.path != "/":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, *args) -> None:
        """Nothing."""


def main(export: pathlib.Path, modules: pathlib.Path) -> None:
    session = onnxruntime.InferenceSession(export / "model.onnx")
    shape = [8, *session.get_inputs()[0].shape[1:]]
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    images = pixels.astype(np.float32) / np.float32(255)
    expected = session.run(["logits"], {"images": images})[0]
    handler = functools.partial(Handler, export, modules)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = chromium.new_page()
        page.on("console", lambda message: print(message.text, file=sys.stderr))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        given = json.dumps([pixels.ravel().tolist(), shape])
        said = page.evaluate(f"classify(...{given})")
        chromium.close()
    server.shutdown()
    difference = np.abs(np.reshape(said["logits"], expected.shape) - expected).max()
    print(f"onnxruntime-web: largest difference {difference:.2g}, {said['milliseconds']:.2f} ms")
    assert difference < 1e-4


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).absolute(), pathlib.Path(sys.argv[2]).absolute())

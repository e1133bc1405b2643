"""A served model: what is asked, how often, what is refused; and an audit of a server that dies."""

from __future__ import annotations

import contextlib
import http.server
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import mtard_tf as mt
from mtard_tf.attacks.square import Square
from mtard_tf.auditing.suite import Suite
from mtard_tf.runtimes.endpoint import Endpoint
from mtard_tf.runtimes.http_client import Client, EndpointError, Limits
from mtard_tf.testing import tiny_data

SHAPE, CLASSES = (8, 8, 3), 4
QUICK = Limits(timeout=0.3, retries=0)


class _Server(http.server.ThreadingHTTPServer):
    """Answers each request by `reply(path, instances) -> (status, body, headers)`."""

    def __init__(self, reply) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply, self.asked = reply, []


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(np.asarray(json.loads(body)["instances"]))

    def _answer(self, instances) -> None:
        self.server.asked.append((self.path, instances))
        status, body, headers = self.server.reply(self.path, instances)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(key, str(value))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


@contextlib.contextmanager
def serving(reply):
    """The address of a server, and the server."""
    server = _Server(reply)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/models/net", server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _logits(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)[:, :CLASSES].astype(float)


def _plain(path: str, instances) -> tuple:
    if instances is None:
        return 404, {"error": "no metadata"}, {}
    return 200, {"predictions": _logits(instances).tolist()}, {}


def _images(count: int) -> np.ndarray:
    levels = np.random.default_rng(0).integers(0, 256, (count, *SHAPE))
    return (levels / 255).astype(np.float32)


def test_levels_are_sent_in_requests_of_a_bounded_size() -> None:
    with serving(_plain) as (url, server):
        model, images = Endpoint(url, SHAPE, QUICK), _images(70)
        np.testing.assert_array_equal(model(images), _logits(np.rint(images * 255)))
        assert (model.input_shape, model.output_shape) == ((None, *SHAPE), (None, CLASSES))
        sizes = [len(instances) for _, instances in server.asked if instances is not None]
        assert sizes == [4, 64, 6]
        assert {path for path, _ in server.asked} == {
            "/v1/models/net/metadata",
            "/v1/models/net:predict",
        }


def test_metadata_say_what_is_sent_and_named_logits_are_read() -> None:
    sides = [{"size": str(side)} for side in (-1, *SHAPE)]
    described = {"inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": sides}}}}
    metadata = {"metadata": {"signature_def": {"signature_def": {"serving_default": described}}}}

    def reply(path: str, instances) -> tuple:
        if instances is None:
            return 200, metadata, {}
        rows = [{"label": 0, "logits": row.tolist()} for row in _logits(instances)]
        return 200, {"predictions": rows}, {}

    with serving(reply) as (url, _):
        images = _images(3)
        np.testing.assert_allclose(Endpoint(url, SHAPE, QUICK)(images), _logits(images), atol=1e-7)


def test_probabilities_by_name_become_logits_up_to_a_constant() -> None:
    def reply(path: str, instances) -> tuple:
        if instances is None:
            return 404, {}, {}
        rows = np.tile([0.1, 0.2, 0.3, 0.4], (len(instances), 1)).tolist()
        return 200, {"predictions": [{"probabilities": row} for row in rows]}, {}

    with serving(reply) as (url, _):
        answer = Endpoint(url, SHAPE, QUICK)(_images(2)).numpy()
        np.testing.assert_allclose(np.exp(answer)[1], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)


def _slow(path: str, instances) -> tuple:
    time.sleep(0.6)
    return 200, {}, {}


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (lambda *_: (500, {"error": "boom"}, {}), r'answered 500 \{"error": "boom"\}\.'),
        (lambda *_: (302, b"", {"Location": "http://a.b/"}), r"302 to http://a\.b/: a redirect"),
        (lambda *_: (200, b"<html>", {}), "did not answer in JSON: <html>; give a server of"),
        (lambda *_: (200, {"outputs": []}, {}), "answered no `predictions`; expected 4 images"),
        (lambda *_: (200, {"predictions": [[1.0, 2.0]]}, {}), "answered 1 predictions; expected 4"),
        (lambda *_: (200, {"predictions": ["a"] * 4}, {}), "expected `logits` or `probabilities`"),
        (lambda *_: (200, {"predictions": [1.0] * 4}, {}), r"shape \(4,\); expected logits"),
        (_slow, "did not answer in full within 0.3 s"),
    ],
)
def test_a_server_that_answers_otherwise_is_one_line(reply, message: str) -> None:
    with serving(reply) as (url, _), pytest.raises(EndpointError, match=message) as caught:
        Endpoint(url, SHAPE, QUICK)
    assert "\n" not in str(caught.value)


def test_another_number_of_classes_later_is_refused() -> None:
    with serving(_plain) as (url, server):
        model = Endpoint(url, SHAPE, QUICK)
        server.reply = lambda _, x: (200, {"predictions": [[1.0, 2.0]] * len(x)}, {})
        with pytest.raises(EndpointError, match="answered 2 logits; expected 4 classes"):
            model.answer(_images(2))


def test_the_wrong_number_of_classes_for_the_data_is_refused() -> None:
    with serving(_plain) as (url, _):
        data = tiny_data()
        arrays = mt.ImageData.from_arrays(
            *(data.train.images, data.train.labels, data.test.images, data.test.labels)
        )
        with pytest.raises(ValueError, match=f"net has {CLASSES} classes and the data set"):
            mt.audit(url, arrays, epsilon=0.1)


def test_errors_are_tried_again_and_limits_hold(monkeypatch) -> None:
    pauses = []
    monkeypatch.setattr("mtard_tf.runtimes.http_client.time.sleep", pauses.append)
    answers = iter([(503, {}, {}), (429, {}, {}), (200, {"ok": 1}, {})])
    with serving(lambda *_: next(answers)) as (url, server):
        assert Client(url, Limits(retries=2)).ask("") == {"ok": 1}
        assert pauses == pytest.approx([0.5, 1.0]) and len(server.asked) == 3
        server.reply = lambda *_: (200, {}, {})
        few = Client(url, Limits(max_requests=2))
        few.ask(""), few.ask("")
        with pytest.raises(EndpointError, match="was asked 2 times, the limit of --max_requests"):
            few.ask("")


def test_the_rate_is_kept() -> None:
    with serving(lambda *_: (200, {}, {})) as (url, _):
        client, begun = Client(url, Limits(max_rate=20)), time.monotonic()
        for _ in range(5):
            client.ask("")
        assert time.monotonic() - begun >= 4 / 20


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://", "is not an address"),
        ("http://host:99999/x", "is not an address"),
        ("http://user:secret@host/x", "without user, query or fragment"),
    ],
)
def test_addresses_are_checked(url: str, message: str) -> None:
    with pytest.raises(EndpointError, match=message) as caught:
        Client(url, Limits())
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="timeout is 0; give a number above 0"):
        Limits(timeout=0)


# A real server process: logits by a fixed random matrix; it dies after a number of requests.
_PROCESS = """
import http.server, json, os, sys
import numpy as np
port, classes, left = map(int, sys.argv[1:])
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self): self.answer(404, {})
    def do_POST(self):
        global left
        left -= 1
        if not left: os._exit(1)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        images = np.asarray(json.loads(body)["instances"]) / 255.0
        rows = images.reshape(len(images), -1)
        matrix = np.random.RandomState(0).normal(size=(rows.shape[1], classes))
        self.answer(200, {"predictions": (rows @ matrix).tolist()})
    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try: self.wfile.write(content)
        except OSError: pass
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@contextlib.contextmanager
def _process(port: int, classes: int, dies_after: int = 0):
    asked = [sys.executable, "-c", _PROCESS, str(port), str(classes), str(dies_after)]
    process = subprocess.Popen(asked)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _keys(folder: pathlib.Path) -> list[tuple]:
    lines = (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    return [(line["key"], line["settings"], line["batch"]) for line in map(json.loads, lines)]


def test_an_audit_whose_server_dies_goes_on_where_it_was(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mtard_tf.runtimes.http_client._FIRST_PAUSE", 0.01)
    data = tiny_data()
    suite = Suite({"square": Square(num_queries=8)}, probe_examples=4, factors=(1.0,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, classes = f"http://127.0.0.1:{port}/v1/models/net", data.num_classes

    def audit(folder: str) -> dict:
        return mt.audit(url, data, epsilon=0.1, suite=suite, batch_size=6, out=tmp_path / folder)

    with _process(port, classes):
        whole = audit("whole")
    with _process(port, classes, dies_after=25):
        with pytest.raises(EndpointError, match=r"did not answer .*\(5 tries\)\.$") as caught:
            audit("cut")
    assert "\n" not in str(caught.value)
    before = _keys(tmp_path / "cut")
    assert 1 < len(before) == len(set(before))
    counted = []
    from mtard_tf.auditing.batch_results import ResultsFile

    put = ResultsFile.put
    monkeypatch.setattr(
        ResultsFile, "put", lambda self, *a: (counted.append(a[:3]), put(self, *a))[1]
    )
    with _process(port, classes):
        resumed = audit("cut")
    assert not set(before) & set(counted) and len(counted) == len(set(counted))
    assert dict(resumed) == dict(whole)
    assert whole["artefact"]["decided_by"] == "square"
    (found,) = [f for f in whole["findings"] if f["name"] == "indirect_gradients"]
    assert found["severity"] == "masked" and "give --surrogate=FILE" in found["evidence"]

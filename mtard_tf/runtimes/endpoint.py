"""A served model, asked by TensorFlow Serving's REST protocol.

A request is `{"instances": ...}` and its answer `{"predictions": ...}`.

The images are sent as `GET <address>/metadata` says that the default signature takes them: uint8
levels or float32 in [0, 1]. A server without metadata is sent levels, 0 to 255, as the default
signature of mtard-export takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mtard_tf.runtimes.artefact import Artefact, to_levels
from mtard_tf.runtimes.http_client import Client, EndpointError, Limits

_BATCH = 64  # images in a request: of 224 x 224 x 3 about 40 MB
_PROBES, _DIGITS = 4, 3
_LEAST = 1e-12
# What a prediction may be called, where it has several parts; the first of these counts.
_LOGITS, _PROBABILITIES = "logits", "probabilities"


class Endpoint(Artefact):
    """A model behind an address.

    Its fingerprint is the address and its answers to four fixed images, to three decimals: another
    model behind the same address is another one.

    Args:
      url: http://HOST:PORT/v1/models/NAME; only this host is asked.
      image_shape: (height, width, channels) of the images to come.
      limits: how often and how long it is asked.

    Raises:
      EndpointError: it does not answer, or not as the protocol says.
    """

    def __init__(self, url: str, image_shape: tuple[int, ...], limits: Limits) -> None:
        super().__init__()
        self._client = Client(url, limits)
        self.name = self._client.path.rpartition("/")[2] or "model"
        self.kind = "a served model"
        self._floats, sides = self._described()
        self.input_shape = (None, *(sides or image_shape))
        seeds = np.random.RandomState(0)  # its stream never changes
        probes = seeds.uniform(size=(_PROBES, *image_shape)).astype(np.float32)
        logits = self.answer(probes)
        self.output_shape = (None, logits.shape[1])
        known = self._client.url.encode()
        self.variables = [np.frombuffer(known, np.uint8), np.round(logits, _DIGITS)]

    def answer(self, images: np.ndarray) -> np.ndarray:
        parts = [images[at : at + _BATCH] for at in range(0, len(images), _BATCH)]
        return np.concatenate([self._asked(part) for part in parts])

    def _asked(self, images: np.ndarray) -> np.ndarray:
        sent = images.astype(np.float32) if self._floats else to_levels(images)
        answer = self._client.ask(":predict", {"instances": sent.tolist()})
        found = answer.get("predictions") if isinstance(answer, dict) else None
        if not isinstance(found, list) or len(found) != len(images):
            raise self._wrong(
                f"{len(found)} predictions" if isinstance(found, list) else "no `predictions`",
                f"{len(images)} images",
            )
        return self._logits(found)

    def _logits(self, found: list) -> np.ndarray:
        named = isinstance(found[0], dict)
        name = _LOGITS
        if named:
            name = _LOGITS if _LOGITS in found[0] else _PROBABILITIES
        try:
            rows = [row[name] for row in found] if named else found
            logits = np.asarray(rows, np.float32)
        except (KeyError, TypeError, ValueError):
            raise self._wrong(
                f"predictions such as {str(found[0])[:80]}", "`logits` or `probabilities` of each"
            ) from None
        if logits.ndim != 2 or not logits.shape[1]:
            raise self._wrong(f"predictions of shape {logits.shape}", "logits [batch, classes]")
        if self.output_shape[-1] not in (None, logits.shape[1]):
            raise self._wrong(f"{logits.shape[1]} logits", f"{self.output_shape[-1]} classes")
        return np.log(np.maximum(logits, _LEAST)) if name == _PROBABILITIES else logits

    output_shape: tuple[int | None, ...] = (None, None)

    def _wrong(self, came: str, expected: str) -> EndpointError:
        return EndpointError(f"{self._client.url} answered {came}; expected {expected}.")

    def _described(self) -> tuple[bool, tuple[int | None, ...] | None]:
        """Whether it takes floats, and the images' shape; from its metadata, where it has them."""
        try:
            answer = self._client.ask("/metadata")
            signatures = answer["metadata"]["signature_def"]["signature_def"]
            inputs = signatures["serving_default"]["inputs"]
            (only,) = inputs.values()
            sides = tuple(_side(dim) for dim in only["tensor_shape"]["dim"])[1:]
            return only["dtype"] == "DT_FLOAT", sides if len(sides) == 3 else None
        except EndpointError as error:
            if " answered 404 " in str(error) or " answered 405 " in str(error):
                return False, None
            raise
        except (KeyError, TypeError, ValueError):
            return False, None


def _side(dim: Any) -> int | None:
    size = int(dim["size"])
    return size if size > 0 else None

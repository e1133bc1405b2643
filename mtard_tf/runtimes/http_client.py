"""JSON over HTTP to one host: with a timeout, retries, and limits of how often it is asked."""

from __future__ import annotations

import dataclasses
import http.client
import json
import time
import urllib.parse
from typing import Any

from mtard_tf.models.model_files import EvaluationError

_FIRST_PAUSE = 0.5  # seconds before the first retry; doubled before each further one
_MOST_BYTES = 64 * 2**20


class EndpointError(EvaluationError):
    """A server that does not answer, or not as it should. The message is one line."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How a server is asked.

    Attributes:
      timeout: seconds for each answer.
      retries: after no answer, a timeout or a 5xx or 429; with pauses of 0.5, 1, 2, ... s.
      max_requests: of one process; None for any number.
      max_rate: requests a second; None for no limit.

    Raises:
      ValueError: a number that is not above 0 (retries: below 0).
    """

    timeout: float = 10.0
    retries: int = 4
    max_requests: int | None = None
    max_rate: float | None = None

    def __post_init__(self) -> None:
        for name in ("timeout", "max_requests", "max_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; give a number above 0.")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}; give 0 or more.")


class Client:
    """Asks the host of one URL, and no other: a redirect is refused, not followed.

    Args:
      url: http or https, with a host.
      limits: how often and how long.

    Raises:
      EndpointError: not such a URL.
    """

    def __init__(self, url: str, limits: Limits) -> None:
        parts = urllib.parse.urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise EndpointError(f"{url!r} is not an address; give http://HOST:PORT/v1/models/NAME.")
        if parts.username is not None or parts.query or parts.fragment:
            raise EndpointError(
                f"{parts.hostname}: give http://HOST:PORT/v1/models/NAME, without user, query or "
                "fragment."
            )
        self._connection_kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._host, self._port, self.path = parts.hostname, port, parts.path.rstrip("/")
        self.url, self._limits = url.rstrip("/"), limits
        self._connection: http.client.HTTPConnection | None = None
        self._asked, self._last = 0, float("-inf")

    def ask(self, suffix: str, body: Any = None) -> Any:
        """The JSON answer to a GET, or to a POST of `body`.

        Raises:
          EndpointError: no answer, an error, a redirect, not JSON, or the limit is reached.
        """
        try:
            return self._answered(suffix, body)
        except EndpointError:
            self.close()
            raise

    def _answered(self, suffix: str, body: Any) -> Any:
        failure = ""
        content = None if body is None else json.dumps(body).encode()
        for attempt in range(self._limits.retries + 1):
            if attempt:
                time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
            status, answer = self._once(suffix, content)
            if status == 200:
                return self._parsed(answer)
            failure = answer if status is None else f"answered {status} {_shortened(answer)}"
            if status is not None and 300 <= status < 400:
                raise EndpointError(
                    f"{self.url} {failure}: a redirect, which is not followed; give the address "
                    "that it leads to."
                )
            if status is not None and status < 500 and status != 429:
                break
        tries = f" ({attempt + 1} tries)" if attempt else ""
        raise EndpointError(f"{self.url}{suffix} {failure}{tries}.")

    def _once(self, suffix: str, content: bytes | None) -> tuple[int | None, Any]:
        """Status and text of one answer; (None, what went wrong) where there is none."""
        self._wait()
        seconds = self._limits.timeout
        started = time.monotonic()
        try:
            if self._connection is None:
                self._connection = self._connection_kind(self._host, self._port, timeout=seconds)
            kind = {"Content-Type": "application/json"}
            method = "GET" if content is None else "POST"
            self._connection.request(method, self.path + suffix, content, kind)
            response = self._connection.getresponse()
            parts, size = [], 0
            while part := response.read1(2**16):  # a slow answer ends as well as a silent one
                parts.append(part)
                size += len(part)
                if size > _MOST_BYTES:
                    raise ValueError(f"answered more than {_MOST_BYTES:,} bytes")
                if time.monotonic() - started > seconds:
                    raise TimeoutError
            response.close()  # which leaves the connection open for the next question
            text = b"".join(parts)
            if response.status in range(300, 400):
                text = f"to {response.getheader('Location')}".encode()
            return response.status, text.decode("utf-8", "replace")
        except TimeoutError:
            self.close()
            return None, f"did not answer in full within {seconds:g} s"
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            return None, f"did not answer ({' '.join(str(error).split()) or type(error).__name__})"

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self.close()

    def close(self) -> None:
        """Closes the connection; the next question opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _wait(self) -> None:
        limits = self._limits
        if limits.max_requests is not None and self._asked >= limits.max_requests:
            raise EndpointError(
                f"{self.url} was asked {self._asked:,} times, the limit of --max_requests; run "
                "the same again to resume from here."
            )
        if limits.max_rate is not None:
            time.sleep(max(0.0, self._last + 1 / limits.max_rate - time.monotonic()))
        self._asked, self._last = self._asked + 1, time.monotonic()

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            raise EndpointError(
                f"{self.url} did not answer in JSON: {_shortened(text)}; give a server of "
                "TensorFlow Serving's REST protocol."
            ) from None


def _shortened(text: str) -> str:
    return " ".join(text.split())[:120]

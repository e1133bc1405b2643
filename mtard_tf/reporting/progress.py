"""Progress on stderr: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

import tqdm


class Bar(tqdm.tqdm):
    """tqdm's bar; where stderr is no terminal, whole lines that come seldom.

    Args:
      name: what is running.
      total: how many there are to go through; default the length of `items`.
      items: what iterating over the bar gives.
      unit: what is counted, one of it.
      initial: how many were done before, or elsewhere, which says nothing about the speed.
    """

    monitor_interval = 0  # no thread of tqdm's: it redraws bars that move too seldom

    def __init__(
        self,
        name: str,
        total: int | None = None,
        *,
        items: Iterable[Any] | None = None,
        unit: str = "image",
        initial: int = 0,
    ) -> None:
        self._live = sys.stderr.isatty()
        self._shown = (initial, None)
        super().__init__(
            items,
            name,
            total,
            file=None if self._live else _Lines(sys.stderr),
            unit=unit,
            initial=initial,
            mininterval=0.1 if self._live else 30.0,
            miniters=1,
            smoothing=0,
            dynamic_ncols=self._live,
            ascii=None if self._live else True,
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Shows the bar; in a log only if something has changed."""
        state = self.n, self.postfix
        if self._live or state != self._shown:
            super().display(msg, pos)
        self._shown = state


class _Lines:
    """Turns what tqdm writes over one line into lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if text := text.strip():
            self._stream.write(f"{text}\n")

    def flush(self) -> None:
        self._stream.flush()

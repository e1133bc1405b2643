"""A training that is preempted at a chosen moment."""

from __future__ import annotations

from mtard_tf.processes.preemption import Preemption


class PreemptedAt(Preemption):
    """Preempted when asked for the `n`th time."""

    def __init__(self, n: int) -> None:
        self._left = n

    @property
    def received(self) -> bool:
        self._left -= 1
        return self._left < 0

    @received.setter
    def received(self, value: bool) -> None:
        pass

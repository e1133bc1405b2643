"""What the attacks of an audit cost, and where and when it was made.

None of it is in `report.json`, which is the same wherever and however often an audit is made.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from mtard_tf import __version__


class Cost(NamedTuple):
    """What one attack took.

    Attributes:
      seconds: with the tracing of its graph.
      passes: images that it sent through the model, those that fill up batches included.
    """

    seconds: float = 0.0
    passes: int = 0

    def plus(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(self.seconds + other.seconds, self.passes + other.passes)


def content(costs: Mapping[str, Cost]) -> dict[str, Any]:
    """The content of `timing.json`.

    Args:
      costs: by attack; those of a resumed audit are the sums over its processes.
    """
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "made_by": f"mtard_tf {__version__}, TensorFlow {tf.__version__}",
        "device": _device(),
        "attacks": {
            name: {"seconds": round(cost.seconds, 3), "passes": cost.passes}
            for name, cost in costs.items()
        },
    }


def _device() -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
        return f"{len(gpus)} x {name}"
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return f"CPU, {cores} core{'s' * (cores != 1)}"

"""A batch attacked in parts, side by side: two keep two cores busier than one does."""

from __future__ import annotations

import os

import tensorflow as tf


def default_shards() -> int:
    """2 without an accelerator and with two cores or more, else 1."""
    if any(device.device_type != "CPU" for device in tf.config.list_physical_devices()):
        return 1
    return min(2, _cores())


def shards(count: tf.Tensor | int, parts: int) -> list[slice]:
    """Slices that cover a batch of `count` in order; past its end they repeat the last row.

    No slice is empty: TensorFlow's CPU convolution returns a wrong shape for an empty batch.
    """
    # Plain numbers where the size is fixed keep the shapes of the shards in the graph.
    lower, higher = (min, max) if isinstance(count, int) else (tf.minimum, tf.maximum)
    size = -(-count // parts)
    starts = [lower(i * size, count - 1) for i in range(parts)]
    return [
        slice(start, higher(start + 1, lower((i + 1) * size, count)))
        for i, start in enumerate(starts)
    ]


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Attacks a batch in parts, in parallel, which keeps the cores of a CPU busier."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import tensorflow as tf

from mtard_tf.threat import ThreatModel


def default_shards() -> int:
    """2 without an accelerator and with two cores or more, else 1."""
    if any(device.device_type != "CPU" for device in tf.config.list_physical_devices()):
        return 1
    return min(2, _cores())


def divide_cores() -> None:
    """Gives each of the parts side by side its own cores, before TensorFlow computes anything.

    Operations that each take all cores get in each other's way. For a process that does little but
    attack. `TF_NUM_INTRAOP_THREADS` goes first where it is set.
    """
    if "TF_NUM_INTRAOP_THREADS" not in os.environ:
        tf.config.threading.set_intra_op_parallelism_threads(-(-_cores() // default_shards()))


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


def attack_in_parts(
    attack: Callable,
    model_fn: Callable,
    images: tf.Tensor,
    labels: tf.Tensor,
    *,
    threat: ThreatModel,
    seeds: tf.Tensor,
    objective: Callable | None,
    parts: int,
) -> tf.Tensor:
    """`attack` on parts of a batch side by side, each result projected into ball and box.

    Args:
      attack: see the package docstring.
      model_fn: images to logits.
      images: clean, `[batch, height, width, channels]`.
      labels: class ids, `[batch]`.
      threat: ball and box.
      seeds: one per image, int32 `[batch, 2]`.
      objective: `objective(perturbed, logits, rows) -> [batch]` replaces the attack's own; `rows`
        is the slice of the batch that is attacked.
      parts: number of parts.
    """
    count = images.shape[0] or tf.shape(images)[0]
    done = []
    for rows in shards(count, parts):
        perturbed = attack(
            model_fn,
            images[rows],
            labels[rows],
            threat=threat,
            seeds=seeds[rows],
            objective=objective and partial(objective, rows=rows),
        )
        done.append(threat.project(perturbed, images[rows]))
    return done[0] if len(done) == 1 else tf.concat(done, axis=0)[:count]


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

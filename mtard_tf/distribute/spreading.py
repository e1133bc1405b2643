"""Batches of an evaluation, spread over the workers and devices of a strategy."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from mtard_tf.distribute.strategies import (
    local_devices,
    total_over_workers,
    worker_count,
    worker_index,
)


def over_batches(
    compute: Callable[..., np.ndarray],
    batches: Iterable[tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
    examples: int,
    strategy: tf.distribute.Strategy,
) -> np.ndarray:
    """A yes or no for each image; each batch goes to one device of one worker.

    Args:
      compute: (images, labels, ids) of one batch -> bool `[batch]`; with several devices, called
        from a thread for each.
      batches: the same on all workers; ids are places in the result, each there once.
      examples: how many images there are.
      strategy: whose workers and devices share the work.

    Returns:
      bool `[examples]`, the same on all workers.
    """
    workers, index = worker_count(strategy), worker_index(strategy)
    own = (batch for place, batch in enumerate(batches) if place % workers == index)
    result = np.zeros(examples, np.int32)
    for ids, found in on_devices(
        lambda batch: (batch[2].numpy(), compute(*batch)), own, local_devices(strategy)
    ):
        result[ids] = found
    return total_over_workers(strategy, result).astype(bool)


def on_devices(
    compute: Callable[[Any], Any], items: Iterable[Any], devices: Sequence[str]
) -> Iterator[Any]:
    """`compute(item)` of each item, on whichever device is free; yielded as they are done.

    Args:
      compute: called under `tf.device`; with several devices, from a thread for each.
      items: taken from it as devices become free, so that few are in memory.
      devices: their names; "" leaves the choice to TensorFlow.
    """
    free: queue.SimpleQueue[str] = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def one(item: Any) -> Any:
        device = free.get()
        try:
            with tf.device(device):
                return compute(item)
        finally:
            free.put(device)

    if len(devices) == 1:
        yield from map(one, items)
        return
    with futures.ThreadPoolExecutor(len(devices)) as pool:
        running: set[futures.Future] = set()
        for item in items:
            if len(running) == len(devices):
                done, running = futures.wait(running, return_when=futures.FIRST_COMPLETED)
                yield from (future.result() for future in done)
            running.add(pool.submit(one, item))
        yield from (future.result() for future in futures.as_completed(running))
